"""The Stable Diffusion 3 adapter: two CLIP towers, T5 if present, rectified flow, AutoencoderKL.

Same semantics as diffusers' StableDiffusion3Pipeline (0.42): the sequence is [clip_l | clip_g] side
by side, padded to the joint width, followed by T5 states or rows of zeros; one call of 2B rows for
guidance; the scheduler classes are diffusers' own. What differs: the text path is `_clip.py`, noise
comes per picture from CPU generators, and nothing here prints, reads the network or converts to
pictures.

Does not: know plans, batches or seeds beyond the list it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones import _weights
from creatok_cli.backbones._adapter import Adapter, Loader
from creatok_cli.backbones._flow import Flow, begin, guided, walk
from creatok_cli.backbones._lora import Adapted, adapt
from creatok_cli.backbones._pixels import Draw, PixelPrior, tower_folders
from creatok_cli.backbones._sd3_text import Sd3Text
from creatok_cli.backbones._vae import Vae, draw_noise
from creatok_cli.backbones.base import Conditioning, Start, torch_dtype
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.errors import UnknownName
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHIFT = 1.16
"""Of the largest pictures, where a scheduler's config says none (StableDiffusion3Pipeline)."""


class Sd3(Adapter):
    """One SD3-shaped base. Building it reads nothing."""

    def __init__(
        self,
        facts: BaseFacts,
        *,
        device: str,
        dtype: str,
        t5_zero_rows: int,
        t5_length: int,
        draw: Draw | None = None,
    ) -> None:
        super().__init__(facts, device=device, dtype=dtype)
        self._draw = draw
        self._zero_rows = int(
            _weights.card(Path(facts.folder)).get("creatok_t5_zero_rows", t5_zero_rows)
        )
        self._t5_length = t5_length

    @property
    def text(self) -> Sd3Text:
        """The text side; its weights are read when something is encoded."""
        return self._side("text", lambda: Sd3Text(self._loader(), self.facts, self._t5_length))

    @property
    def image(self) -> Sd3Image:
        """Denoiser and decoder, read on first use."""
        return self._side("image", lambda: Sd3Image(self._loader(), self.facts, self._zero_rows))

    @property
    def prior(self) -> PixelPrior | None:
        """A draw of few steps seen by image towers; None where the adapter names no such draw, or
        the folder has no towers.
        """
        draw = self._draw
        if draw is None:
            return None
        towers = tower_folders(self.facts.folder, [name for name, _ in self.facts.encoders])
        return self._side("prior", lambda: PixelPrior(self, towers, draw)) if towers else None

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt."""
        return self.text.encode([job.prompt for job in jobs], tokens)

    def adapt(self, rank: int, *, seed: int) -> Adapted:
        """See `backbones.base.Backbone.adapt`: the denoiser's attention."""
        return adapt(self.image.transformer, "transformer", rank, seed=seed)


class Sd3Image:
    """Denoiser, scheduler and decoder. Drawing changes nothing here: several threads may."""

    def __init__(self, loader: Loader, facts: BaseFacts, zero_rows: int) -> None:
        from diffusers import SD3Transformer2DModel

        self._facts, self._zero_rows = facts, zero_rows
        self._device, self._dtype = loader.device, loader.dtype
        self.transformer: Any = loader.model(SD3Transformer2DModel, "transformer")
        self._vae = Vae(loader)
        self._flow = Flow(loader, facts, max_shift=MAX_SHIFT)

    @property
    def vae(self) -> Any:
        """The decoder's model."""
        return self._vae.model

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
        return draw_noise(seeds, size_px, self.transformer.config.in_channels, self._vae.scale)

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
        gradient_steps: int = 0,
    ) -> Iterator[Tensor]:
        """Latents [b c h w] after each step; one call of 2B rows (negative first) when guidance >
        1. A gradient passes through the last `gradient_steps` alone; 0 for all.
        """
        if options:
            raise UnknownName(f"base {self._facts.name} has no option {options[0][0]!r}")
        is_guided = guidance > 1 and negative is not None
        states, pooled = self._sequence(cond)
        if is_guided and negative is not None:
            others, other_pooled = self._sequence(negative)
            states, pooled = torch.cat([others, states]), torch.cat([other_pooled, pooled])

        def flow(latents: Tensor, t: Tensor, left: int) -> Tensor:
            inputs = torch.cat([latents] * 2) if is_guided else latents
            is_early = 0 < gradient_steps <= left
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_early):
                found: Tensor = self.transformer(
                    hidden_states=inputs,
                    timestep=t.expand(inputs.shape[0]),
                    encoder_hidden_states=states,
                    pooled_projections=pooled,
                    return_dict=False,
                )[0]
            return guided(found, guidance) if is_guided else found

        latents = noise.to(device=self._device, dtype=torch_dtype(self._dtype))
        patch = self.transformer.config.patch_size
        patches = (latents.shape[-2] // patch) * (latents.shape[-1] // patch)
        schedule = self._flow.schedule(scheduler, steps, patches)
        times, latents = begin(
            schedule, steps, latents, start, lambda pixels: self._vae.encode(pixels, seeds)
        )
        yield from walk(schedule, times, latents, seeds, flow)

    def _sequence(self, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """(text sequence [b s joint], pooled [b d]) on the device, as the denoiser takes them."""
        ready = cond.to(self._device, self._dtype).tensors
        states, joint = ready["states"], self.transformer.config.joint_attention_dim
        states = torch.nn.functional.pad(states, (0, joint - states.shape[-1]))
        tail = ready.get("t5")
        if tail is None:
            tail = states.new_zeros((states.shape[0], self._zero_rows, joint))
        return torch.cat([states, tail], dim=1), ready["pooled"]

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 3 H W] f32 in [-1, 1]; values that are not finite come out as NaN."""
        return self._vae.decode(latents, precise=precise)
