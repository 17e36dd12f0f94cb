"""The adapter of the UNet families: CLIP states -> UNet over Gaussian diffusion -> AutoencoderKL.

Same semantics as diffusers' StableDiffusionPipeline, StableDiffusionXLPipeline and their Img2Img
pipelines (0.42): one call of 2B rows for guidance, the negative first; a UNet that was distilled
with guidance as an input (Luo et al. 2023, arXiv 2310.04378) takes it there instead; XL reads the
size of the picture as original and target size, without a crop. What differs: the text path is
`_clip.py`, noise comes per picture from CPU generators, an empty negative prompt is none (XL:
zeros, where `model_index.json` says so), there is no safety checker and no watermark.

Deviates: a draw from a picture takes one step at least, where diffusers would take none and fail.

Does not: know plans, batches or seeds beyond the list it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._adapter import Adapter, Loader
from creatok_cli.backbones._clip_side import ClipSide
from creatok_cli.backbones._lora import Adapted, adapt
from creatok_cli.backbones._schedulers import Course, Knobs, load_kinds, settled
from creatok_cli.backbones._vae import Vae, draw_noise
from creatok_cli.backbones.base import Conditioning, Start, torch_dtype
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.errors import ArtefactError, UnknownName
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

XL = "text_time"
"""`addition_embed_type` of a UNet that reads pooled words and sizes."""


class Unet(Adapter):
    """One base of a UNet family. Building it reads nothing."""

    def __init__(
        self,
        facts: BaseFacts,
        words: Callable[[Loader, BaseFacts], ClipSide],
        *,
        device: str,
        dtype: str,
    ) -> None:
        super().__init__(facts, device=device, dtype=dtype)
        self._words = words

    @property
    def text(self) -> ClipSide:
        """The text side; its weights are read when something is encoded."""
        return self._side("text", lambda: self._words(self._loader(), self.facts))

    @property
    def image(self) -> UnetImage:
        """Denoiser and decoder, read on first use."""
        return self._side("image", lambda: UnetImage(self._loader(), self.facts))

    @property
    def prior(self) -> None:
        """These families have none."""
        return None

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt."""
        return self.text.encode([job.prompt for job in jobs], tokens)

    def adapt(self, rank: int, *, seed: int) -> Adapted:
        """See `backbones.base.Backbone.adapt`: the denoiser's attention."""
        return adapt(self.image.unet, "unet", rank, seed=seed)


class UnetImage:
    """Denoiser, scheduler and decoder. Drawing changes nothing here: several threads may."""

    def __init__(self, loader: Loader, facts: BaseFacts) -> None:
        from diffusers import UNet2DConditionModel

        self._facts, self._device, self._dtype = facts, loader.device, loader.dtype
        self._kinds = load_kinds()
        self._config = _read(loader.folder, "scheduler/scheduler_config.json")
        index = _read(loader.folder, "model_index.json")
        # What diffusers takes where the file is silent.
        self._is_zeroed = bool(index.get("force_zeros_for_empty_prompt", True))
        self.unet: Any = loader.model(UNet2DConditionModel, "unet")
        self._is_xl = self.unet.config.addition_embed_type == XL
        self._vae = Vae(loader, heeds_upcast=self._is_xl)
        if not self._is_xl:
            # StableDiffusionPipeline corrects old configs in the same way.
            self._config["steps_offset"] = 1
        self._check(loader.folder)

    @property
    def vae(self) -> Any:
        """The decoder's model."""
        return self._vae.model

    def _check(self, folder: str) -> None:
        """Raise ArtefactError for a UNet of another family."""
        config, latent = self.unet.config, self.vae.config.latent_channels
        more, wide = config.addition_embed_type, sum(width for _, width in self._facts.encoders)
        if config.in_channels != latent:
            raise ArtefactError(
                f"{folder}: the unet takes {config.in_channels} channels, pictures have {latent}: "
                "models that fill in or edit pictures are not drawn"
            )
        if more not in (None, XL) or config.cross_attention_dim != wide:
            raise ArtefactError(
                f"{folder}: the unet reads states of width {config.cross_attention_dim} and "
                f"{more or 'nothing'} beside them; the text encoders give width {wide}"
            )

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
        return draw_noise(seeds, size_px, self.unet.config.in_channels, self._vae.scale)

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
        """Latents [b c h w] after each step; one call of 2B rows (negative first) when guidance >
        1.
        """
        knobs = self._knobs(scheduler, options)
        width = self.unet.config.time_cond_proj_dim
        is_guided = guidance > 1 and negative is not None and width is None
        states, more = self._read_words(cond, negative if is_guided else None, noise)
        told = None
        if width is not None:
            told = guidance_embedding(guidance, width).to(states).expand(len(noise), -1)
        first = 0 if start is None else skipped(start, steps)
        course = Course(self._kinds, scheduler, self._config, steps, knobs, first=first)
        latents = noise.to(device=self._device, dtype=torch_dtype(self._dtype))
        if start is None:
            latents = course.begin(latents)
        else:
            latents = course.mix(self._vae.encode(start.pixels, seeds), latents)
        for index, t in enumerate(course.times.float().to(self._device)):
            inputs = torch.cat([latents] * 2) if is_guided else latents
            found = self.unet(
                course.scale(inputs, index),
                t,
                encoder_hidden_states=states,
                timestep_cond=told,
                added_cond_kwargs=more,
                return_dict=False,
            )[0]
            if is_guided:
                found = _guided(found, guidance, knobs.rescale)
            latents = course.step(found, index, latents, seeds)
            if course.is_whole(index):
                yield latents

    def _knobs(self, scheduler: str, options: Options) -> Knobs:
        """The options of a job. Raises UnknownName or InputError."""
        if scheduler not in self._facts.schedulers or scheduler not in self._kinds:
            raise UnknownName(
                f"base {self._facts.name} has no scheduler {scheduler!r}; "
                f"it has {', '.join(self._facts.schedulers)}"
            )
        return settled(self._facts.name, scheduler, options)

    def _read_words(
        self, cond: Conditioning, negative: Conditioning | None, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(states [b s d], what XL reads beside them), or [2b ...] with those of the negative
        first, on the device.
        """
        parts = (
            [self._ready(cond)] if negative is None else [self._others(negative), self._ready(cond)]
        )
        states = torch.cat([part["states"] for part in parts])
        if not self._is_xl:
            return states, None
        height, width = (side * self._vae.scale for side in noise.shape[-2:])
        sizes = states.new_tensor([[height, width, 0, 0, height, width]])
        pooled = torch.cat([part["pooled"] for part in parts])
        return states, {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}

    def _ready(self, cond: Conditioning) -> Mapping[str, Tensor]:
        return cond.to(self._device, self._dtype).tensors

    def _others(self, negative: Conditioning) -> Mapping[str, Tensor]:
        """A negative: zeros for empty prompts where the folder says so."""
        ready = self._ready(negative)
        if not self._is_xl or not self._is_zeroed:
            return ready
        is_said = ready["is_said"] > 0
        return {
            "states": torch.where(is_said[..., None], ready["states"], 0.0),
            "pooled": torch.where(is_said, ready["pooled"], 0.0),
        }

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 3 H W] f32 in [-1, 1]; values that are not finite come out as NaN."""
        return self._vae.decode(latents, precise=precise)


def skipped(start: Start, steps: int) -> int:
    """How many steps are left out: Stable Diffusion's img2img rounds the steps taken down."""
    return steps - min(max(int(steps * start.strength), 1), steps)


def guidance_embedding(guidance: float, width: int) -> Tensor:
    """[1 width] f32: sines and cosines of guidance - 1, as distilled UNets read it (diffusers:
    `get_guidance_scale_embedding`).
    """
    half = width // 2
    steps = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (guidance - 1) * 1000.0 * steps
    waves = torch.cat([angles.sin(), angles.cos()])[None]
    return torch.nn.functional.pad(waves, (0, width % 2))


def _guided(found: Tensor, guidance: float, rescale: float) -> Tensor:
    """[2b c h w] -> [b c h w] by classifier-free guidance, its deviation brought back by the share
    `rescale` (Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16).
    """
    plain, wanted = found.chunk(2)
    guided = plain + guidance * (wanted - plain)
    if rescale > 0:
        sides = tuple(range(1, wanted.ndim))
        even = guided * (wanted.std(sides, keepdim=True) / guided.std(sides, keepdim=True))
        guided = rescale * even + (1 - rescale) * guided
    return guided


def _read(folder: str, name: str) -> dict[str, Any]:
    """A config of a vetted folder."""
    content: dict[str, Any] = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    return content
