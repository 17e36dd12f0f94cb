"""The Stable Diffusion 3 adapter: two CLIP towers, T5 if present, rectified flow, AutoencoderKL.

Same semantics as diffusers' StableDiffusion3Pipeline (0.42): the sequence is [clip_l | clip_g] side
by side, padded to the joint width, followed by T5 states or rows of zeros; one call of 2B rows for
guidance; the scheduler classes are diffusers' own. What differs: the text path is `_clip.py`, noise
comes per picture from CPU generators, and nothing here prints, reads the network or converts to
pictures.

Does not: know plans, batches or seeds beyond the list it is given.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones import _weights
from creatok_cli.backbones._diffusers import load_part, load_small, prepare_libraries
from creatok_cli.backbones._lora import Adapted, Loras, adapt, wear
from creatok_cli.backbones._lora_fit import check_fit
from creatok_cli.backbones._pixels import Draw, PixelPrior, tower_folders
from creatok_cli.backbones._sd3_text import Sd3Text
from creatok_cli.backbones.base import Conditioning, torch_dtype
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.errors import UnknownName
from creatok_cli.seeds import generator
from creatok_cli.tokens.lora import read_lora
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

DECODE_PIXELS = 8 * 512 * 512
"""Pictures are decoded in slices of at most this many pixels (exact: rows are independent); set by
eye.
"""


class Sd3:
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
        self.facts, self.device, self.dtype, self._draw = facts, device, dtype, draw
        self._zero_rows = int(
            _weights.card(Path(facts.folder)).get("creatok_t5_zero_rows", t5_zero_rows)
        )
        self._t5_length = t5_length
        self._text: Sd3Text | None = None
        self._image: Sd3Image | None = None
        self._prior: PixelPrior | None = None
        self._loras: Loras = ()
        self._checked = False

    @property
    def text(self) -> Sd3Text:
        """The text side; its weights are read when something is encoded."""
        if self._text is None:
            self._check()
            self._text = Sd3Text(
                self.facts, self.device, self.dtype, self._t5_length, loras=self._loras
            )
        return self._text

    @property
    def image(self) -> Sd3Image:
        """Denoiser and decoder, read on first use."""
        if self._image is None:
            self._check()
            self._image = Sd3Image(
                self.facts, self.device, self.dtype, self._zero_rows, loras=self._loras
            )
        return self._image

    @property
    def prior(self) -> PixelPrior | None:
        """A draw of few steps seen by image towers; None where the adapter names no such draw, or
        the folder has no towers.
        """
        if self._prior is None and self._draw is not None:
            towers = tower_folders(self.facts.folder, [name for name, _ in self.facts.encoders])
            if towers:
                self._check()
                self._prior = PixelPrior(self, towers, self._draw)
        return self._prior

    def _check(self) -> None:
        if not self._checked:
            prepare_libraries()
            _weights.check_unchanged(self.facts)
            self._checked = True

    def release(self, side: str) -> None:
        """Drop the weights of `text`, `prior` or `image`."""
        if side == "text" and self._text is not None:
            self._text.drop()
        if side == "image":
            self._image = None
        if side == "prior":
            self._prior = None
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt."""
        return self.text.encode([job.prompt for job in jobs], tokens)

    def wear(self, loras: Loras) -> None:
        """See `backbones.base.Backbone.wear`: denoiser and CLIP towers."""
        if self._text is not None or self._image is not None:
            raise RuntimeError("LoRAs are worn before a side opens")
        for path, _ in loras:
            check_fit(read_lora(path), self.facts)
        self._loras = tuple(loras)

    def adapt(self, rank: int, *, seed: int) -> Adapted:
        """See `backbones.base.Backbone.adapt`: the denoiser's attention."""
        return adapt(self.image.transformer, "transformer", rank, seed=seed)


class Sd3Image:
    """Denoiser, scheduler and decoder. Drawing changes nothing here: several threads may."""

    def __init__(
        self, facts: BaseFacts, device: str, dtype: str, zero_rows: int, *, loras: Loras = ()
    ) -> None:
        from diffusers import (
            AutoencoderKL,
            FlowMatchEulerDiscreteScheduler,
            FlowMatchHeunDiscreteScheduler,
            SD3Transformer2DModel,
        )

        self._facts, self._device, self._dtype, self._zero_rows = facts, device, dtype, zero_rows
        folder = facts.folder
        self.transformer: Any = wear(
            load_part(SD3Transformer2DModel, folder, "transformer", dtype=dtype, device=device),
            "transformer",
            loras,
        )
        self.vae: Any = load_part(AutoencoderKL, folder, "vae", dtype=dtype, device=device)
        self.vae.decoder.to(memory_format=torch.channels_last)
        # Imported here: the lazy imports of the library are not made for several threads.
        self._kinds: dict[str, Any] = {
            "flow-match-euler": FlowMatchEulerDiscreteScheduler,
            "flow-match-heun": FlowMatchHeunDiscreteScheduler,
        }
        self._euler = load_small(FlowMatchEulerDiscreteScheduler, folder, "scheduler")
        self._scale = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
        width, height = size_px
        shape = (self.transformer.config.in_channels, height // self._scale, width // self._scale)
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
        gradient_steps: int = 0,
    ) -> Iterator[Tensor]:
        """Latents [b c h w] after each step; one call of 2B rows (negative first) when guidance >
        1. A gradient passes through the last `gradient_steps` alone; 0 for all.
        """
        if options:
            raise UnknownName(f"base {self._facts.name} has no option {options[0][0]!r}")
        guided = guidance > 1 and negative is not None
        states, pooled = self._sequence(cond)
        if guided and negative is not None:
            others, other_pooled = self._sequence(negative)
            states, pooled = torch.cat([others, states]), torch.cat([other_pooled, pooled])
        latents = noise.to(device=self._device, dtype=torch_dtype(self._dtype))
        schedule = self._schedule(scheduler, steps, latents)
        last = len(schedule.timesteps) - 1
        for index, t in enumerate(schedule.timesteps):
            inputs = torch.cat([latents] * 2) if guided else latents
            is_early = 0 < gradient_steps <= last - index
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_early):
                flow = self.transformer(
                    hidden_states=inputs,
                    timestep=t.expand(inputs.shape[0]),
                    encoder_hidden_states=states,
                    pooled_projections=pooled,
                    return_dict=False,
                )[0]
            if guided:
                plain, wanted = flow.chunk(2)
                flow = plain + guidance * (wanted - plain)
            draws = None
            if schedule.config.get("stochastic_sampling"):
                draws = [generator(seed, "step", index) for seed in seeds]
            latents = schedule.step(flow, t, latents, generator=draws, return_dict=False)[0]
            if index == last or getattr(schedule, "state_in_first_order", True):
                yield latents

    def _sequence(self, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """(text sequence [b s joint], pooled [b d]) on the device, as the denoiser takes them."""
        ready = cond.to(self._device, self._dtype).tensors
        states, joint = ready["states"], self.transformer.config.joint_attention_dim
        states = torch.nn.functional.pad(states, (0, joint - states.shape[-1]))
        tail = ready.get("t5")
        if tail is None:
            tail = states.new_zeros((states.shape[0], self._zero_rows, joint))
        return torch.cat([states, tail], dim=1), ready["pooled"]

    def _schedule(self, name: str, steps: int, latents: Tensor) -> Any:
        """A fresh scheduler with its steps set, as StableDiffusion3Pipeline sets them."""
        if name not in self._facts.schedulers or name not in self._kinds:
            raise UnknownName(
                f"base {self._facts.name} has no scheduler {name!r}; "
                f"it has {', '.join(self._facts.schedulers)}"
            )
        schedule: Any = self._kinds[name].from_config(self._euler.config)
        shift = {}
        if schedule.config.get("use_dynamic_shifting"):
            patch = self.transformer.config.patch_size
            shift["mu"] = dynamic_shift(
                (latents.shape[-2] // patch) * (latents.shape[-1] // patch), schedule.config
            )
        schedule.set_timesteps(steps, device=self._device, **shift)
        schedule.set_begin_index(0)
        return schedule

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 3 H W] f32 in [-1, 1]; values that are not finite come out as NaN."""
        dtype = torch.float32 if precise else torch_dtype(self._dtype)
        config = self.vae.config
        latents = (latents.to(dtype) / config.scaling_factor) + (config.shift_factor or 0.0)
        area = latents.shape[-1] * latents.shape[-2] * self._scale**2
        rows = max(1, DECODE_PIXELS // area)
        # A copy for the rare call in fp32: other threads may be decoding with this one.
        vae = self.vae if self.vae.dtype == dtype else copy.deepcopy(self.vae).to(dtype)
        parts = [
            vae.decode(part.to(memory_format=torch.channels_last), return_dict=False)[0]
            for part in torch.split(latents, rows)
        ]
        pixels = torch.cat(parts).float()
        return torch.where(pixels.isfinite(), pixels.clamp(-1.0, 1.0), torch.nan)


def dynamic_shift(length: int, config: Mapping[str, Any]) -> float:
    """The shift exponent mu for an image of `length` patches (diffusers: `calculate_shift`)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    start, end = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
    slope = (end - start) / (high - low)
    return float(length * slope + (start - slope * low))
