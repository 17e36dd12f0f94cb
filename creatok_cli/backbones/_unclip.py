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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import normalize

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._clip import Encoded
from creatok_cli.backbones._clip_side import ClipSide
from creatok_cli.backbones._pixels import normalisation, stretched, to_pixels
from creatok_cli.backbones.base import Conditioning, torch_dtype
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError
from creatok_cli.seeds import generator
from creatok_cli.tokens.inject import Laid
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


class UnclipText(ClipSide):
    """The prior's CLIP tower. Weights are read when something is encoded."""

    def __init__(self, loader: Loader, facts: BaseFacts) -> None:
        ((name, _),) = facts.encoders
        super().__init__(loader, facts, {name: ("tokenizer", "text_encoder")})
        self._blank: Conditioning | None = None

    @property
    def blank(self) -> Conditioning:
        """One row for the empty prompt, which the prior needs beside every other; kept."""
        with self._lock:
            if self._blank is None:
                with torch.inference_mode(False), torch.no_grad():
                    self._blank = self.encode([""], [])
            return self._blank

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """`states` [b s d] after the final norm, `pooled` [b d'], and `mask` [b s]: 1 up to EOS."""
        (states,), (rows,) = encoded, laid
        ends = torch.tensor([row.eos for row in rows], device=states.last.device)
        places = torch.arange(states.last.shape[1], device=states.last.device)
        mask = (places <= ends[:, None]).to(states.last.dtype)
        return {"states": states.last, "pooled": states.pooled, "mask": mask}


class UnclipPrior:
    """A PriorSide over the prior's network and its image tower. Both are read on first use."""

    route: Literal["prior"] = "prior"

    def __init__(self, loader: Loader, text: UnclipText, search: Walk) -> None:
        from diffusers import UnCLIPScheduler

        self._loader, self._text, self._search = loader, text, search
        self._device, self._dtype = loader.device, loader.dtype
        self._schedule: Any = loader.small(UnCLIPScheduler, "scheduler")
        settings = self._schedule.config
        if (settings.prediction_type, settings.variance_type) != ("sample", "fixed_small_log"):
            raise ArtefactError(
                f"{loader.folder}/scheduler: a prior that predicts {settings.prediction_type!r} "
                f"with variance {settings.variance_type!r}; creatok draws 'sample' with "
                "'fixed_small_log'"
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

                self._network = self._loader.model(PriorTransformer, "prior")
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

        return self._loader.model(CLIPVisionModelWithProjection, "image_encoder")

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
            for values in normalisation(Path(self._loader.folder) / "image_processor")
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
