"""The Kandinsky prior under autograd: text states to an image embedding in a few steps.

The network predicts the clean embedding (Ramesh et al. 2022, arXiv 2204.06125, section 2.2). With
ab_t the cumulated alphas, s the time after t, a = ab_t / ab_s and b = 1 - a, one step is

    e    = clip(e_u + g (e_c - e_u))
    m    = [sqrt(ab_s) b e + sqrt(a) (1 - ab_s) x_t] / (1 - ab_t)
    x_s  = m + sqrt(b (1 - ab_s) / (1 - ab_t)) n

without noise n at the last one, where ab_s = 1; then `x * clip_std + clip_mean`. It equals
KandinskyV22PriorPipeline of diffusers (0.42) with the same noise, but lets gradients through to
words and adapted weights.

Deviates: the steps are computed in f32 whatever the network's dtype.

Does not: decode embeddings (`_kandinsky.py` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import normalize

from creatok_cli.backbones._clip import ENCODE_ROWS, ClipTower, ClipWords, PooledMap, chunks
from creatok_cli.backbones._diffusers import load_part, load_small
from creatok_cli.backbones._lora import Loras, wear
from creatok_cli.backbones._pixels import normalisation, stretched, to_pixels
from creatok_cli.backbones.base import Conditioning, torch_dtype
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SMALLEST_VARIANCE = 1e-20
"""Below this the noise is cut off, as in diffusers."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How an embedding is drawn."""

    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError("a prior needs 2 steps or more")


class UnclipText:
    """The prior's CLIP tower. Weights are read when something is encoded."""

    def __init__(self, facts: BaseFacts, folder: Path, device: str, dtype: str) -> None:
        from transformers import CLIPTokenizer

        self._folder, self._device, self._dtype = str(folder), device, dtype
        self.encoders: Mapping[str, int] = dict(facts.encoders)
        length = (facts.max_prompt_tokens or 75) + 2
        (name,) = self.encoders
        self._words = ClipWords(name, load_small(CLIPTokenizer, self._folder, "tokenizer"), length)
        self._tower: ClipTower | None = None
        self._blank: Conditioning | None = None
        self._lock = RLock()

    @property
    def tower(self) -> ClipTower:
        """The tower, read on first use."""
        with self._lock:
            if self._tower is None:
                from transformers import CLIPTextModelWithProjection

                with torch.inference_mode(False):  # such tensors could never take part in training
                    model = load_part(
                        CLIPTextModelWithProjection,
                        self._folder,
                        "text_encoder",
                        dtype=self._dtype,
                        device=self._device,
                    )
                    self._tower = ClipTower(self._words, model)
            return self._tower

    @property
    def blank(self) -> Conditioning:
        """One row for the empty prompt, which the prior needs beside every other; kept."""
        with self._lock:
            if self._blank is None:
                with torch.inference_mode(False), torch.no_grad():
                    self._blank = self.encode([""], [])
            return self._blank

    def drop(self) -> None:
        """Forget the weights, keep the tokenizer and the empty prompt."""
        with self._lock:
            self._tower = None

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Conditioning:
        """`states` [b s d] after the final norm, `pooled` [b d'], and `mask` [b s]: 1 up to EOS."""
        parts: list[Conditioning] = []
        for chunk in chunks(prompts):
            encoded, laid = self.tower.encode(chunk, tokens)
            ends = torch.tensor([row.eos for row in laid], device=encoded.last.device)
            places = torch.arange(encoded.last.shape[1], device=encoded.last.device)
            tensors = {
                "states": encoded.last,
                "pooled": encoded.pooled,
                "mask": (places <= ends[:, None]).to(encoded.last.dtype),
            }
            kept = min(ENCODE_ROWS, len(prompts) - len(parts) * ENCODE_ROWS)
            cut = tuple(row.cut for row in laid)
            parts.append(Conditioning(tensors, cut).rows(range(kept)))
        return Conditioning.stack(parts)

    def cut(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[str, ...]:
        """Per prompt the end that will not fit; reads no weights."""
        return tuple(self._words.lay_out(prompt, tokens).cut for prompt in prompts)

    def pooled(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Mapping[str, Tensor]:
        """[b d'] projected state at EOS."""
        return {self._words.name: self.tower.pooled(prompts, tokens)}

    def rows(self, word: str) -> Mapping[str, Tensor]:
        """[n d] vocabulary rows of a word."""
        return {self._words.name: self.tower.rows(word)}

    def pooled_map(
        self, prompts: Sequence[str], word: str, counts: Mapping[str, int]
    ) -> Mapping[str, PooledMap]:
        """See `backbones.base.TextSide.pooled_map`."""
        name = self._words.name
        return {name: self.tower.pooled_map(prompts, word, counts[name])}

    def vocabulary(self) -> Mapping[str, tuple[Tensor, tuple[str, ...]]]:
        """Table [v d] and spelling of its rows."""
        return {self._words.name: self.tower.vocabulary()}

    def digests(self) -> Mapping[str, str]:
        """Digest of the weights."""
        return {self._words.name: self.tower.digest()}


class UnclipPrior:
    """A PriorSide over the prior's network and its image tower. Both are read on first use."""

    route: Literal["prior"] = "prior"

    def __init__(
        self,
        text: UnclipText,
        folder: Path,
        device: str,
        dtype: str,
        search: Walk,
        loras: Loras = (),
    ) -> None:
        from diffusers import UnCLIPScheduler

        self._text, self._folder, self._device = text, folder, device
        self._dtype, self._search, self._loras = dtype, search, loras
        self._schedule: Any = load_small(UnCLIPScheduler, str(folder), "scheduler")
        settings = self._schedule.config
        if (settings.prediction_type, settings.variance_type) != ("sample", "fixed_small_log"):
            raise ArtefactError(
                f"{folder}/scheduler: a prior that predicts {settings.prediction_type!r} with "
                f"variance {settings.variance_type!r}; creatok draws 'sample', 'fixed_small_log'"
            )
        self._network: Any = None
        self._tower: Any = None
        self._black: Tensor | None = None
        self._lock = RLock()

    @property
    def network(self) -> Any:
        """The prior's transformer, read on first use."""
        with self._lock:
            if self._network is None:
                from diffusers import PriorTransformer

                with torch.inference_mode(False):
                    network = load_part(
                        PriorTransformer,
                        str(self._folder),
                        "prior",
                        dtype=self._dtype,
                        device=self._device,
                    )
                    self._network = wear(network, "prior", self._loras)
            return self._network

    @property
    def width(self) -> int:
        """Width of an embedding."""
        config = self.network.config
        return int(config.clip_embed_dim or config.embedding_dim)

    @property
    def black(self) -> Tensor:
        """[1 d] what the tower says of a picture of zeros: the decoder's unconditional embedding.

        The tower is large: where nothing else opened it, it is dropped again.
        """
        with self._lock:
            if self._black is None:
                tower = self._tower or self._open_tower()
                side = int(tower.config.image_size)
                with torch.inference_mode(False), torch.no_grad():
                    zeros = torch.zeros(1, 3, side, side, device=self._device, dtype=tower.dtype)
                    self._black = tower(zeros).image_embeds
            return self._black

    def _open_tower(self) -> Any:
        from transformers import CLIPVisionModelWithProjection

        with torch.inference_mode(False):
            return load_part(
                CLIPVisionModelWithProjection,
                str(self._folder),
                "image_encoder",
                dtype=self._dtype,
                device=self._device,
            )

    def sample(
        self,
        cond: Conditioning,
        *,
        seeds: Sequence[int],
        negative: Conditioning | None = None,
        grey: bool = False,
    ) -> Tensor:
        """[b d] unit embeddings; one row of `cond` serves all seeds. See `backbones.base`."""
        if grey:
            raise ValueError("a prior draws no pictures that could be made grey")
        return normalize(self.draw(cond, self._search, seeds=seeds, negative=negative), dim=-1)

    def draw(
        self,
        cond: Conditioning,
        walk: Walk,
        *,
        seeds: Sequence[int],
        negative: Conditioning | None = None,
    ) -> Tensor:
        """[b d] f32 embeddings as the decoder takes them; row i with the noise of seeds[i] alone.

        Without `negative` the guidance is away from the empty prompt.
        """
        network, count = self.network, len(seeds)
        is_guided = walk.guidance > 1
        ready = stretched(cond, count).to(self._device, self._dtype)
        if is_guided:
            other = stretched(negative or self._text.blank, count).to(self._device, self._dtype)
            ready = Conditioning.stack([other, ready])
        rows = ready.tensors

        def predict(x: Tensor, t: Tensor) -> Tensor:
            inputs = (torch.cat([x] * 2) if is_guided else x).to(torch_dtype(self._dtype))
            found: Tensor = network(
                inputs,
                timestep=t,
                proj_embedding=rows["pooled"],
                encoder_hidden_states=rows["states"],
                attention_mask=rows["mask"],
            ).predicted_image_embedding.float()
            if not is_guided:
                return found
            plain, wanted = found.chunk(2)
            return plain + walk.guidance * (wanted - plain)

        x = self._noise(seeds, "prior")
        schedule = type(self._schedule).from_config(self._schedule.config)
        schedule.set_timesteps(walk.steps, device=self._device)
        times = schedule.timesteps
        for index, t in enumerate(times):
            e = predict(x, t)
            if schedule.config.clip_sample:
                reach = schedule.config.clip_sample_range
                e = e.clamp(-reach, reach)
            now = schedule.alphas_cumprod[t]
            if index + 1 == len(times):
                # b at the end from the table, not from 1 - ab_t: in f32 the two differ by 1e-3.
                x = schedule.betas[t] / (1 - now) * e
            else:
                later = schedule.alphas_cumprod[times[index + 1]]
                noise = self._noise(seeds, "prior", "step", index)
                x = _mean(e, x, now, later) + _spread(now, later) * noise
        return x * network.clip_std.float() + network.clip_mean.float()

    def _noise(self, seeds: Sequence[int], *labels: str | int) -> Tensor:
        """[b d] f32, drawn on the CPU."""
        rows = [torch.randn(self.width, generator=generator(seed, *labels)) for seed in seeds]
        return torch.stack(rows).to(self._device)

    def texts(self, prompts: Sequence[str], tokens: Sequence[Token] = ()) -> Tensor:
        """[b d] unit rows of the prior's own text tower."""
        (rows,) = self._text.pooled(prompts, list(tokens)).values()
        return normalize(rows.float(), dim=-1)

    def pictures(self, images: Sequence[Image], *, grey: bool = False) -> Tensor:
        """[b d] unit rows of finished pictures, cut to their middle. Without gradient."""
        from creatok_cli.backbones._pixels import greyed

        if not images:
            return torch.zeros(0, self.width)
        with self._lock:
            if self._tower is None:
                self._tower = self._open_tower()
        side = int(self._tower.config.image_size)
        mean, std = (
            torch.tensor(values).view(3, 1, 1)
            for values in normalisation(self._folder / "image_processor")
        )
        pixels = torch.stack([to_pixels(image, (side, side)) for image in images])
        if grey:
            pixels = greyed(pixels)
        inputs = (((pixels + 1) / 2) - mean) / std
        with torch.no_grad():
            found = self._tower(inputs.to(self._device, self._tower.dtype)).image_embeds
        return normalize(found.float(), dim=-1)


def _mean(e: Tensor, x: Tensor, now: Tensor, later: Tensor) -> Tensor:
    """Of x_s for cumulated alphas ab_t = `now`, ab_s = `later`."""
    a = now / later
    return (later**0.5 * (1 - a) * e + a**0.5 * (1 - later) * x) / (1 - now)


def _spread(now: Tensor, later: Tensor) -> Tensor:
    """Standard deviation of the noise of one step."""
    variance = (1 - now / later) * (1 - later) / (1 - now)
    return variance.clamp(min=SMALLEST_VARIANCE) ** 0.5
