"""What every base model offers: a text side, an image side, sometimes a prior; and which device it
runs on.

A backbone is the narrow waist between words and pictures. It is built without reading a weight;
each side opens when it is first touched and is dropped by `release`.

Does not: import torch before a device is asked for; draw, loop over batches, or keep conditions
(`render.py` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal, Protocol

from creatok_cli import config
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.errors import NoDevice, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, dtype

    from creatok_cli.tokens.token import Token

DTYPES = ("fp32", "bf16", "fp16")
TRUE_CFG = "true_cfg"
"""The option that guides away from the negative prompt where guidance is an input of the denoiser.
"""
MAX_THREADS = 8
"""More CPU threads than this cost more in waiting than they bring on the small models that CPUs
draw (set by eye).
"""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a denoiser needs of prompts: tensors by name, one row per prompt; the base knows their
    meaning.
    """

    tensors: Mapping[str, Tensor]
    cut: tuple[str, ...] = ()
    """Per row the end of the prompt that did not fit, empty where all did."""

    def __len__(self) -> int:
        return int(next(iter(self.tensors.values())).shape[0])

    @property
    def size_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(rows.numel() * rows.element_size() for rows in self.tensors.values())

    def rows(self, indices: Sequence[int]) -> Conditioning:
        """The chosen rows, in that order, as copies that do not keep the rest alive."""
        chosen = list(indices)
        cut = tuple(self.cut[index] for index in chosen) if self.cut else ()
        return Conditioning({name: rows[chosen] for name, rows in self.tensors.items()}, cut)

    def to(self, device: str, dtype: str | None = None) -> Conditioning:
        """The same rows on another device, and in another of `DTYPES` if asked."""
        kind = torch_dtype(dtype) if dtype else None
        moved = {name: rows.to(device=device, dtype=kind) for name, rows in self.tensors.items()}
        return Conditioning(moved, self.cut)

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of all parts, in order."""
        import torch

        names = parts[0].tensors
        joined = {name: torch.cat([part.tensors[name] for part in parts]) for name in names}
        return Conditioning(joined, tuple(text for part in parts for text in part.cut))


class PooledMap(Protocol):
    """Pooled embeddings of fixed prompts as a function of the vectors of one word."""

    def __call__(self, vectors: Tensor, which: Tensor | None = None) -> Tensor:
        """[r n d] of r candidates -> [r p d'] for the prompts `which` [p], by default all.
        Differentiable.
        """


class TextSide(Protocol):
    """Text encoders with their tokenizers."""

    encoders: Mapping[str, int]
    """Width of the vocabulary rows per encoder: {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}."""

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Conditioning:
        """Full length, as rendering needs. Runs in fixed padded chunks: equal bytes for a prompt in
        any company.
        """

    def cut(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[str, ...]:
        """Per prompt the end that will not fit; reads no weights."""

    def pooled(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Mapping[str, Tensor]:
        """[b d] per encoder; the sequence may be cut after EOS. Differentiable in the tokens'
        vectors.
        """

    def rows(self, word: str) -> Mapping[str, Tensor]:
        """[n d] f32 per encoder: the vocabulary rows of a word, one per sub-word."""

    def pooled_map(
        self, prompts: Sequence[str], word: str, counts: Mapping[str, int]
    ) -> Mapping[str, PooledMap]:
        """Per encoder what `pooled` says of these prompts, for candidate vectors of the word. What
        does not depend on them is computed once.
        """

    def vocabulary(self) -> Mapping[str, tuple[Tensor, tuple[str, ...]]]:
        """Per encoder its table [v d], not to be changed, and the spelling of each row."""

    def digests(self) -> Mapping[str, str]:
        """Per encoder the digest of its weights, for recipes."""


class PriorSide(Protocol):
    """Prompts to embeddings of pictures, under autograd: a prior network (Kandinsky), or a draw of
    few steps followed by the base's own image towers. All rows are of unit length.
    """

    width: int
    """d of every embedding here."""
    route: Literal["prior", "pixels"]
    """Through which the gradient goes."""

    def sample(
        self,
        cond: Conditioning,
        *,
        seeds: Sequence[int],
        negative: Conditioning | None = None,
        grey: bool = False,
    ) -> Tensor:
        """[b d] f32; row i with the noise of seeds[i] alone. Differentiable in the condition and in
        adapted weights. `grey` embeds pictures without their colours, on the route `pixels` alone.
        """

    def texts(self, prompts: Sequence[str], tokens: Sequence[Token] = ()) -> Tensor:
        """[b d] f32 in the same space; differentiable in the tokens' vectors."""

    def pictures(self, images: Sequence[Image], *, grey: bool = False) -> Tensor:
        """[b d] f32 of finished pictures."""


class Adaptation(Protocol):
    """Low-rank weights (Hu et al. 2021, arXiv 2106.09685) inside an open base, to be trained."""

    parameters: Mapping[str, Tensor]
    """f32 leaves by name; together they change nothing at the start."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Copies under the names of diffusers' `pytorch_lora_weights.safetensors`."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts such copies back, in place. Raises ArtefactError for names or shapes that do not
        fit.
        """


@dataclass(frozen=True, slots=True)
class Start:
    """Pictures to begin from in place of pure noise (Meng et al. 2022, arXiv 2108.01073)."""

    pixels: Tensor
    """[b 3 H W] f32 in [-1, 1] on the CPU, one per seed."""
    strength: float
    """(0, 1]: the share of the steps that is taken; 1 leaves little of the picture."""

    def skipped(self, steps: int) -> int:
        """How many of `steps` are left out at the beginning, as in diffusers' img2img."""
        return int(max(steps - min(steps * self.strength, steps), 0))


Rung = Literal["full", "offload", "group"]
"""`full`: a side lives on the device while it is open. `offload`: its models come to the device one
at a time. `group`: layer by layer.
"""


@dataclass(frozen=True, slots=True)
class Room:
    """How an open base lives in the memory of its device; nothing here changes a recipe."""

    rung: Rung = "full"
    """Of the image side."""
    words: Rung = "full"
    """Of T5. CLIP towers are small and always live on the device."""
    is_compiled: bool = False
    """Whether the repeated blocks of the denoiser are compiled."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be drawn at a time."""

    size_px: Size
    rows: int
    """Pictures of a batch."""
    is_guided: bool = True
    """Whether the denoiser runs on two rows per picture."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The room that was chosen for a base, and why."""

    room: Room
    message: str = ""
    """For people; empty where there was nothing to choose."""
    is_tight: bool = False
    """Whether even the last rung may not be enough."""


class ImageSide(Protocol):
    """Noise to pixels. None of these enters or leaves inference mode: the caller decides about
    gradients. Where the facts say `threads`, several threads call them at once: they change
    nothing.
    """

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU, row i from seeds[i] alone."""

    def denoise(
        self,
        noise: Tensor,
        cond: Conditioning,
        *,
        negative: Conditioning | None,
        steps: int,
        guidance: float,
        scheduler: str,
        options: Options,
        seeds: Sequence[int],
        start: Start | None = None,
    ) -> Iterator[Tensor]:
        """Latents after each of `steps` steps, on the device. `negative` is given where
        `reads_negative` says so and is unused at guidance <= 1 without `TRUE_CFG`. `start` is given
        only where `BaseFacts.can_start` says so; its skipped steps are not taken.
        """

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 3|4 H W] f32 in [-1, 1]; what is not finite comes out as NaN. `precise` runs the
        decoder in fp32.
        """


class Backbone(Protocol):
    """One open base. Sides are opened on first use and are None where the plug-in's SIDES lacks
    them.
    """

    facts: BaseFacts
    device: str

    @property
    def text(self) -> TextSide | None: ...

    @property
    def prior(self) -> PriorSide | None: ...

    @property
    def image(self) -> ImageSide | None: ...

    def release(self, side: str) -> None:
        """Drop the weights of `text`, `prior` or `image`; they open again when needed."""

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt: text, or text then prior. The base knows, render does
        not.
        """

    def wear(self, loras: Sequence[tuple[str, float]]) -> None:
        """(path, scale) of LoRA files that the sides are to open with; only before they open.

        Raises ArtefactError for a file that does not fit this base.
        """

    def fit(self, room: Room) -> None:
        """How the sides are to live in memory when they open; only before they open."""

    def make_room(self, loads: Sequence[Load], vram_gib: float | None, *, compiled: bool) -> Fit:
        """Choose how the sides live in the memory that the device has left, `fit` it, and say so.
        `vram_gib` caps the memory; below 0 it is what stays free.

        Raises OutOfMemory where the weights fit in no way.
        """

    def store(self, storage: str) -> None:
        """How the denoiser's weights are kept, one of `_storage.STORAGES`; only before it opens.
        This changes pixels: it is part of the recipe.
        """

    def adapt(self, rank: int, *, seed: int) -> Adaptation:
        """LoRA weights of that rank on the attention projections of what draws: the prior network
        on the route `prior`, else the denoiser. They act from now on, until the side is released.
        """


def reads_negative(guidance: float, options: Options) -> bool:
    """Whether a picture may need its negative prompt."""
    told = dict(options).get(TRUE_CFG)
    return guidance > 1 or (isinstance(told, int | float) and told > 1)


def pick_device(name: str = "auto") -> str:
    """`cpu`, `cuda:0`, `mps`... for `auto`, `cpu`, `cuda`, `cuda:<i>` or `mps`; the order of auto
    is CUDA, MPS, CPU.

    Raises UnknownName for any other word, NoDevice with what is there.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise UnknownName(
            f"unknown device {name[:40]!r}; choose auto, cpu, cuda, cuda:<number> or mps"
        )
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = torch.backends.mps.is_available()
    if name == "auto":
        return "cuda:0" if cards else "mps" if apple else "cpu"
    there = ", ".join(
        ["cpu", *(f"cuda:{index}" for index in range(cards)), *(["mps"] if apple else [])]
    )
    if name == "mps" and not apple:
        raise NoDevice(f"no Apple GPU (mps) here; this machine has {there}")
    if name.startswith("cuda"):
        index = int(name[5:] or 0)
        if index >= cards:
            built = (
                ""
                if torch.version.cuda
                else "; this torch is built for CPU only, install a CUDA build"
            )
            raise NoDevice(f"no device cuda:{index}; this machine has {there}{built}")
        return f"cuda:{index}"
    return name


def set_threads(threads: int | None = None) -> int:
    """Fix the CPU threads of torch and say how many: `threads`, else torch's own choice within the
    CPUs granted.
    """
    import torch

    count = threads or own_threads()
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    return count


def own_threads() -> int:
    """Torch's own choice of CPU threads, within the cores granted."""
    import torch

    with _FIXED.lock:
        found = _FIXED.default if _FIXED.inside else torch.get_num_threads()
    return max(1, min(found, config.cores(), MAX_THREADS))


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Work with `count` CPU threads on the calling thread.

    Torch counts per thread, but also changes the default of threads yet to come: that is put back.
    """
    import torch

    with _FIXED.lock:
        before = torch.get_num_threads()
        if not _FIXED.inside:
            _FIXED.default = before
        _FIXED.inside += 1
        if before != count:
            torch.set_num_threads(count)
    try:
        yield
    finally:
        with _FIXED.lock:
            _FIXED.inside -= 1
            if torch.get_num_threads() != _FIXED.default:
                torch.set_num_threads(_FIXED.default)


@dataclass(slots=True)
class _Fixed:
    """How many threads of this process are inside `fixed_threads`, and what they found."""

    lock: Lock
    inside: int = 0
    default: int = 0


_FIXED = _Fixed(Lock())


def torch_dtype(name: str) -> dtype:
    """The torch dtype of one of `DTYPES`."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
