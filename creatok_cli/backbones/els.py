"""Creatures remixed from a studio's own sprites: a score machine over a picture pack, no training.

The base is a folder of pictures, `els:DIR`. Each output is a mosaic of patches of them that fit
together at every noise level (Kamb and Ganguli, ICML 2025, PMLR 267), and each of its pixels is a
copy of one source pixel that a map names. The score machines are in `_els_machine.py`, their
windows in `_els_schedule.py`.

A prompt is a caption; only tags of the sources that it names as words restrict what is used.

Does not: know words beyond tags, learn, or use anything but the pictures of its folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from creatok_cli.errors import ArtefactError, DigestMismatch, InputError, UnknownName
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from creatok_cli.backbones._els_machine import Machine
    from creatok_cli.backbones._els_pack import Pack
    from creatok_cli.backbones.base import Adaptation, Conditioning, Fit, Load, Room
    from creatok_cli.domain import BaseFacts, Job, Options, Scalar, Size

SIDES = ("image",)
PICTURES = True
"""The folder of this base holds pictures."""
SCHEDULERS = ("ddim",)
MACHINES = ("auto", "ideal", "ls", "window", "els", "bbels")
LOOSE_REACH_PX = 2
"""How far `window` shifts sources where nothing else is said."""
NO_PLACE = 65535
"""In maps: not from a source, or from beyond its canvas."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What a sheet need not say."""

    licence: str = "that of the sprites"
    steps: int = 20
    guidance: float = 1.0
    dtype: str = "fp32"
    threads: int = 1
    batch_rows: tuple[tuple[int, int], ...] = ((128, 4), (256, 2))
    coherence: float = 0.35
    """Least window as a share of the smaller side: 11 at 32 px, 23 at 64 px. Deviates: methods
    notes 6.4 begin at 7 and 11; on sprites of many kinds that makes patchwork (set by eye)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dials:
    """The options of a job, checked."""

    machine: str = "auto"
    coherence: float = 0.35
    """0 is a patchwork, 1 nearly a copy."""
    freedom: int | None = None
    """How many pixels sources may be shifted; None is what suits the machine."""
    shift_tau: float = 0.0
    tags: tuple[str, ...] = ()
    parents: tuple[tuple[str, float], ...] = ()
    schedule: tuple[int, ...] = ()
    snap: bool = True
    tile: bool | None = None
    """Whether the picture is seamless; None is what the sources are."""

    def __post_init__(self) -> None:
        if self.machine not in MACHINES:
            hint = did_you_mean(self.machine, MACHINES) or f"there are {', '.join(MACHINES)}"
            raise UnknownName(f"base els has no machine {shown(self.machine)}; {hint}")
        if not 0.0 <= self.coherence <= 1.0:
            raise InputError("coherence must be between 0 and 1")
        if self.freedom is not None and self.freedom < 0:
            raise InputError("freedom is a number of pixels of at least 0")
        if not math.isfinite(self.shift_tau) or self.shift_tau < 0:
            raise InputError("shift_tau must be a number of at least 0")
        if not all(math.isfinite(weight) and weight >= 0 for _, weight in self.parents):
            raise InputError("weights of parents must be numbers of at least 0")
        if any(window < 1 or window % 2 == 0 for window in self.schedule):
            raise InputError("windows of a schedule must be odd numbers")

    @staticmethod
    def of(options: Options, coherence: float) -> Dials:
        """From the options of a job. Raises UnknownName or InputError."""
        kinds: dict[str, Any] = {
            "machine": str,
            "coherence": _number,
            "freedom": _whole,
            "shift_tau": _number,
            "tags": _words,
            "parents": _weights,
            "schedule": _windows,
            "snap": _flag,
            "tile": _flag,
        }
        settings: dict[str, Any] = {"coherence": coherence}
        for name, value in options:
            if name not in kinds:
                hint = did_you_mean(name, kinds) or f"it has {', '.join(kinds)}"
                raise UnknownName(f"base els has no option {shown(name)}; {hint}")
            if value is None:
                continue
            try:
                settings[name] = kinds[name](value)
            except ValueError:
                raise InputError(f"base els: option {name} cannot be {shown(value)}") from None
        return Dials(**settings)


def check_options(options: Options, scheduler: str = "") -> None:
    """Raises UnknownName or InputError for options that no job of this base can have."""
    Dials.of(options, Spec().coherence)


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Els:
    """The adapter over `facts.folder`; nothing is read yet."""
    if dtype != "fp32":
        raise InputError(f"base {facts.name} computes in fp32 only, not in {dtype}")
    return Els(spec, facts, device=device)


class Els:
    """One folder of pictures."""

    text = None
    prior = None

    def __init__(self, spec: Spec, facts: BaseFacts, *, device: str) -> None:
        self.facts, self.device, self._spec = facts, device, spec
        self._image: ElsImage | None = None

    @property
    def image(self) -> ElsImage:
        """The machines over the pack, which is read on first use."""
        if self._image is None:
            from creatok_cli.backbones._els_pack import Pack
            from creatok_cli.backbones._els_sprites import load_sprites

            sprites = load_sprites(Path(self.facts.folder))
            if sprites.digest != self.facts.digest:
                raise DigestMismatch(
                    f"{self.facts.folder}: its pictures have changed since the plan was made; run "
                    "the command again"
                )
            self._image = ElsImage(Pack.of(sprites, self.device), self._spec.coherence)
        return self._image

    def release(self, side: str) -> None:
        """Drop the pictures."""
        if side == "image":
            self._image = None

    def condition(self, jobs: Sequence[Job], tokens: Sequence[object]) -> Conditioning:
        """`sources` [b n]: ln of the weight of each source, from the tags that a prompt names."""
        import torch

        from creatok_cli.backbones.base import Conditioning

        pack = self.image.pack
        even = torch.zeros(len(pack.names))
        rows = [pack.log_prior(pack.words_in(job.prompt)) for job in jobs]
        return Conditioning({"sources": torch.stack([even if r is None else r for r in rows])})

    def wear(self, loras: Sequence[tuple[str, float]]) -> None:
        """There is nothing to wear them."""
        if loras:
            raise ArtefactError(f"base {self.facts.name} has no weights: it takes no LoRA")

    def fit(self, room: Room) -> None:
        """Pictures are small: they live where they are drawn."""

    def make_room(self, loads: Sequence[Load], vram_gib: float | None, *, compiled: bool) -> Fit:
        """Nothing to choose."""
        from creatok_cli.backbones.base import Fit, Room

        return Fit(Room())

    def store(self, storage: str) -> None:
        """There are no weights to store."""
        raise InputError(f"base {self.facts.name} has no weights: it takes no storage")

    def adapt(self, rank: int, *, seed: int) -> Adaptation:
        """There is nothing to adapt."""
        raise InputError(f"base {self.facts.name} has no weights: nothing can be trained in it")


class ElsImage:
    """Noise to mosaics. What is found out about the pack on first use is kept; the rest changes
    nothing.
    """

    def __init__(self, pack: Pack, coherence: float) -> None:
        self.pack, self._coherence = pack, coherence
        self._lock = Lock()
        self._kind = pack.machine
        self._schedule = pack.schedule
        self._median: float | None = None

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b 4 H W] f32 on the CPU, row i from seeds[i] alone."""
        import torch

        from creatok_cli.seeds import generator

        if tuple(size_px) != self.pack.size_px:
            wanted, own = ("x".join(map(str, size)) for size in (size_px, self.pack.size_px))
            raise InputError(f"these sources make pictures of {own}, not of {wanted}")
        shape = (4, size_px[1], size_px[0])
        return torch.stack(
            [torch.randn(shape, generator=generator(seed, "noise")) for seed in seeds]
        )

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
    ) -> Iterator[Tensor]:
        """[b 7 H W] after each DDIM step: four channels of the picture, then source, row and column
        of every pixel, known after the last one (-1: not yet, or locked).
        """
        import torch

        from creatok_cli.backbones import _els_machine as machines
        from creatok_cli.backbones._els_schedule import alpha_bar

        if scheduler not in SCHEDULERS:
            raise UnknownName(f"base els has no scheduler {scheduler!r}; it has ddim")
        dials = Dials.of(options, self._coherence)
        machine, windows = self.machine(dials), self.windows(dials, steps)
        pixels = self.pack.pixels
        own = self.pack.log_prior(dials.tags, dict(dials.parents))
        # The options say it exactly; words of a prompt count where they do not.
        prior = (cond.tensors["sources"] if own is None else own).to(pixels)
        phi = noise.to(pixels)
        places = torch.full_like(phi[:, :3], -1.0)
        for i in range(steps, 0, -1):
            ab, to = alpha_bar(i / steps), alpha_bar((i - 1) / steps)
            how: dict[str, Any] = {"ab": ab, "window_px": windows[i - 1], "log_prior": prior}
            if i == 1 and dials.snap:
                best = machines.snap(machine, pixels, phi, **how)
                x0hat = best.values
                places = torch.stack([best.source, best.row, best.column], dim=1).to(phi)
            else:
                x0hat = machines.estimate(machine, pixels, phi, **how)
            if self.pack.kept is not None:
                mask, picture = self.pack.kept
                x0hat = torch.where(mask, picture, x0hat)
                places = torch.where(mask, -1.0, places)
            phi = machines.advance(phi, x0hat, ab=ab, to=to)
            yield torch.cat([phi, places], dim=1)

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 4 H W] f32 in [-1, 1] with straight alpha; what is not finite comes out as NaN."""
        from creatok_cli.backbones._els_pack import straight

        return straight(latents[:, :4])

    def origins(
        self, latents: Tensor, options: Options
    ) -> list[tuple[tuple[tuple[str, Scalar], ...], Mapping[str, Image]]]:
        """Per picture facts (nearest source, shares, whether it is a copy) and maps of 16 bits:
        `source`, `row`, `column` of every pixel, 65535 for none. Nothing where pixels are means.
        """
        import torch

        from creatok_cli.backbones._els_near import folder_median, origins

        dials = Dials.of(options, self._coherence)
        if not dials.snap:
            return [((), {}) for _ in latents]
        with self._lock:
            if self._median is None:
                self._median = folder_median(self.pack)
        places = latents[:, 4:].round().to(torch.int64)
        found = []
        for row, one in zip(
            places, origins(latents[:, :4], places[:, 0], self.pack, self._median), strict=True
        ):
            facts: tuple[tuple[str, Scalar], ...] = (
                ("nearest", round(one.nearest, 6)),
                ("nearest_source", one.nearest_source),
                ("top_source", one.top_source),
                ("top_share", round(one.top_share, 6)),
                ("sources", one.sources),
                ("copy", one.copy),
            )
            found.append((facts, self._maps(row)))
        return found

    def _maps(self, places: Tensor) -> Mapping[str, Image]:
        """16-bit pictures of source, row and column [3 H W]."""
        import torch
        from PIL import Image

        width, height = self.pack.size_px
        source, row, column = places.cpu().unbind()
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (source >= 0)
        maps = {
            "source": torch.where(source >= 0, source, NO_PLACE),
            "row": torch.where(inside, row, NO_PLACE),
            "column": torch.where(inside, column, NO_PLACE),
        }
        return {
            name: Image.frombytes(
                "I;16", (width, height), each.to(torch.uint16).numpy().astype("<u2").tobytes()
            )
            for name, each in maps.items()
        }

    def machine(self, dials: Dials) -> Machine:
        """The machine that the dials ask for, over this pack."""
        from creatok_cli.backbones._els_machine import Machine

        kind: Any = dials.machine
        if kind == "auto":
            kind = "window" if dials.freedom else self._found_kind()
        if dials.freedom and kind != "window":
            raise InputError(f"machine {kind} shifts no sources: freedom belongs to window")
        reach = dials.freedom
        if reach is None:
            reach = LOOSE_REACH_PX
        wraps = self.pack.tile if dials.tile is None else dials.tile
        return Machine(
            kind=kind,
            reach_px=reach if kind == "window" else 0,
            shift_tau_px=dials.shift_tau if kind == "window" else 0.0,
            wraps=wraps,
            sources_wrap=self.pack.tile or not wraps,
        )

    def windows(self, dials: Dials, steps: int) -> tuple[int, ...]:
        """The window of each step, lowest noise first: the given or calibrated ones, no smaller
        than the coherence asks for.
        """
        from creatok_cli.backbones._els_schedule import floored, resampled

        schedule = dials.schedule or self._found_schedule()
        return floored(resampled(schedule, steps), dials.coherence, min(self.pack.size_px))

    def _found_kind(self) -> str:
        from creatok_cli.backbones._els_schedule import choose_machine

        with self._lock:
            self._kind = self._kind or choose_machine(self.pack)
        return self._kind

    def _found_schedule(self) -> tuple[int, ...]:
        from creatok_cli.backbones._els_schedule import calibrate

        with self._lock:
            self._schedule = self._schedule or calibrate(self.pack)
        return self._schedule


def _number(value: Scalar) -> float:
    if isinstance(value, bool) or value is None:
        raise ValueError
    return float(value)


def _whole(value: Scalar) -> int:
    number = _number(value)
    if number != math.floor(number):
        raise ValueError
    return int(number)


def _flag(value: Scalar) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _words(value: Scalar) -> tuple[str, ...]:
    words = tuple(word.strip() for word in str(value).split(","))
    return tuple(word for word in words if word)


def _weights(value: Scalar) -> tuple[tuple[str, float], ...]:
    pairs = [word.rpartition("=") for word in _words(value)]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError
    return tuple((name.strip(), float(weight)) for name, _, weight in pairs)


def _windows(value: Scalar) -> tuple[int, ...]:
    from creatok_cli.backbones._els_schedule import PUBLISHED

    if str(value) in PUBLISHED:
        return PUBLISHED[str(value)]
    return tuple(int(word) for word in str(value).replace(",", " ").split())
