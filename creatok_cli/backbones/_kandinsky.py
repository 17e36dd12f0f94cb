"""The Kandinsky 2 adapter: words -> prior -> embedding -> UNet -> MoVQ.

Same semantics as diffusers' KandinskyV22Pipeline and KandinskyPipeline (0.42) behind their prior
pipelines: an empty negative prompt stands for the embedding of a black picture, any other is drawn
by the prior, too, and the prior is then guided away from it. The prior runs at the head of
`denoise`, so a condition is text alone and one encoding serves all seeds.

Does not: know plans, batches or seeds beyond the list it is given.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones import _weights
from creatok_cli.backbones._diffusers import load_part, load_small, prepare_libraries
from creatok_cli.backbones._lora import Adapted, Loras, adapt, wear
from creatok_cli.backbones._lora_fit import check_fit
from creatok_cli.backbones._pixels import stretched
from creatok_cli.backbones._unclip import UnclipPrior, UnclipText, Walk
from creatok_cli.backbones.base import Conditioning, torch_dtype
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.errors import InputError, UnknownName
from creatok_cli.seeds import generator
from creatok_cli.tokens.lora import read_lora
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

DECODE_PIXELS = 8 * 512 * 512
"""Pictures are decoded in slices of at most this many pixels (exact: rows are independent); set by
eye.
"""
XLM_LENGTH = 77
"""Positions of the decoder's own text encoder in Kandinsky 2.1 (diffusers: `max_length`)."""


class Kandinsky:
    """One Kandinsky base: the folder of the decoder and that of its prior. Building it reads
    nothing.

    `reads_words`: the decoder has a text encoder of its own, which gets the empty prompt.
    """

    def __init__(
        self,
        facts: BaseFacts,
        names: tuple[str, str],
        *,
        reads_words: bool,
        device: str,
        dtype: str,
        walk: Walk,
        search: Walk,
    ) -> None:
        self.facts, self.device, self.dtype = facts, device, dtype
        self._names, self._reads_words, self._walk, self._search = names, reads_words, walk, search
        self._text: UnclipText | None = None
        self._prior: UnclipPrior | None = None
        self._image: KandinskyImage | None = None
        self._folder: Path | None = None
        self._loras: Loras = ()

    @property
    def text(self) -> UnclipText:
        """The prior's text tower; its weights are read when something is encoded."""
        if self._text is None:
            self._text = UnclipText(self.facts, self._prior_folder(), self.device, self.dtype)
        return self._text

    @property
    def prior(self) -> UnclipPrior:
        """The prior; its weights are read when something is drawn."""
        if self._prior is None:
            folder = self._prior_folder()
            self._prior = UnclipPrior(
                self.text, folder, self.device, self.dtype, self._search, self._loras
            )
        return self._prior

    @property
    def image(self) -> KandinskyImage:
        """Denoiser and decoder, read on first use, and with them the prior's network."""
        if self._image is None:
            # All of it now: several threads may draw later, and the text tower may be dropped.
            prior = self.prior
            ready = (prior.network, prior.black, self.text.blank)
            assert all(part is not None for part in ready)
            self._image = KandinskyImage(
                self.facts,
                prior,
                self._walk,
                self.device,
                self.dtype,
                reads_words=self._reads_words,
                loras=self._loras,
            )
        return self._image

    def _prior_folder(self) -> Path:
        """The vetted folder of the prior."""
        if self._folder is None:
            prepare_libraries()
            _weights.check_unchanged(self.facts)
            self._folder = _weights.prior_folder(Path(self.facts.folder), *self._names)
        return self._folder

    def release(self, side: str) -> None:
        """Drop the weights of `text`, `prior` or `image`."""
        if side == "text" and self._text is not None:
            self._text.drop()
        if side == "prior":
            self._prior = None
        if side == "image":
            self._image = None
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt: text alone; the prior draws per seed in `denoise`."""
        return self.text.encode([job.prompt for job in jobs], tokens)

    def wear(self, loras: Loras) -> None:
        """See `backbones.base.Backbone.wear`: the prior's network and the denoiser."""
        if self._prior is not None or self._image is not None:
            raise RuntimeError("LoRAs are worn before a side opens")
        for path, _ in loras:
            check_fit(read_lora(path), self.facts)
        self._loras = tuple(loras)

    def adapt(self, rank: int, *, seed: int) -> Adapted:
        """See `backbones.base.Backbone.adapt`: the attention of the prior's network."""
        return adapt(self.prior.network, "prior", rank, seed=seed)


class KandinskyImage:
    """Denoiser, scheduler and decoder behind a prior. Drawing changes nothing here."""

    def __init__(
        self,
        facts: BaseFacts,
        prior: UnclipPrior,
        walk: Walk,
        device: str,
        dtype: str,
        *,
        reads_words: bool,
        loras: Loras,
    ) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, VQModel

        self._facts, self._prior, self._walk = facts, prior, walk
        self._device, self._dtype = device, dtype
        folder = facts.folder
        with torch.inference_mode(False):
            self.unet: Any = wear(
                load_part(UNet2DConditionModel, folder, "unet", dtype=dtype, device=device),
                "unet",
                loras,
            )
            self.vae: Any = load_part(VQModel, folder, "movq", dtype=dtype, device=device)
        self._kinds: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
        self._scheduler: Any = load_small(self._kinds[facts.schedulers[0]], folder, "scheduler")
        self._scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._words = _nothing(folder, device, dtype) if reads_words else None

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
        width, height = size_px
        shape = (self.unet.config.in_channels, height // self._scale, width // self._scale)
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
        """Latents [b c h w] after each step; the prior runs first. One call of 2B rows (negative
        first) when guidance > 1.
        """
        walk, is_guided = self._settled(options), guidance > 1 and negative is not None
        schedule = self._schedule(scheduler, steps)
        embeds = self._embeds(cond, negative if is_guided else None, walk, seeds)
        embeds = embeds.to(torch_dtype(self._dtype))
        words, more = None, {}
        if self._words is not None:
            words, pooled = (rows.expand(len(embeds), *rows.shape[1:]) for rows in self._words)
            more = {"text_embeds": pooled}
        latents = noise.to(device=self._device, dtype=torch_dtype(self._dtype))
        latents = latents * schedule.init_noise_sigma
        channels = latents.shape[1]
        for index, t in enumerate(schedule.timesteps):
            found = self.unet(
                sample=torch.cat([latents] * 2) if is_guided else latents,
                timestep=t,
                encoder_hidden_states=words,
                added_cond_kwargs={"image_embeds": embeds} | more,
                return_dict=False,
            )[0]
            predicted, variance = found.split(channels, dim=1)
            if is_guided:
                plain, wanted = predicted.chunk(2)
                predicted = plain + guidance * (wanted - plain)
                variance = variance.chunk(2)[1]
            if schedule.config.get("variance_type") in ("learned", "learned_range"):
                predicted = torch.cat([predicted, variance], dim=1)
            draws = [generator(seed, "step", index) for seed in seeds]
            latents = schedule.step(predicted, t, latents, generator=draws, return_dict=False)[0]
            yield latents

    def _embeds(
        self, cond: Conditioning, negative: Conditioning | None, walk: Walk, seeds: Sequence[int]
    ) -> Tensor:
        """[b d] embeddings of the prompts, or [2b d] with those of the negatives before them."""
        if negative is None:
            return self._prior.draw(cond, walk, seeds=seeds)
        wanted = self._prior.draw(cond, walk, seeds=seeds, negative=negative)
        others = self._prior.black.float().expand_as(wanted)
        # An empty prompt is two ids long: its start and its end.
        is_said = stretched(negative, len(seeds)).tensors["mask"].sum(1, keepdim=True) > 2
        is_said = is_said.to(wanted.device)
        if bool(is_said.any()):
            drawn = self._prior.draw(negative, walk, seeds=seeds, negative=negative)
            others = torch.where(is_said, drawn, others)
        return torch.cat([others, wanted])

    def _settled(self, options: Options) -> Walk:
        """How the prior draws for a job. Raises UnknownName or InputError."""
        given = dict(options)
        steps = given.pop("prior_steps", self._walk.steps)
        guidance = given.pop("prior_guidance", self._walk.guidance)
        if given:
            raise UnknownName(f"base {self._facts.name} has no option {next(iter(given))!r}")
        fits = isinstance(steps, int) and not isinstance(steps, bool) and 2 <= steps <= 1000
        if not fits or not isinstance(guidance, int | float) or not 0 <= guidance <= 100:
            raise InputError(
                f"base {self._facts.name}: prior_steps is 2 to 1000, prior_guidance 0 to 100"
            )
        assert isinstance(steps, int)
        return Walk(steps, float(guidance))

    def _schedule(self, name: str, steps: int) -> Any:
        """A fresh scheduler with its steps set."""
        if name not in self._facts.schedulers or name not in self._kinds:
            raise UnknownName(
                f"base {self._facts.name} has no scheduler {name!r}; "
                f"it has {', '.join(self._facts.schedulers)}"
            )
        settings = dict(self._scheduler.config)
        if name != "ddpm":  # the others would carry the word along, but know fixed variances alone
            settings.pop("variance_type", None)
        schedule: Any = self._kinds[name].from_config(settings)
        schedule.set_timesteps(steps, device=self._device)
        return schedule

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 3 H W] f32 in [-1, 1]; values that are not finite come out as NaN."""
        dtype = torch.float32 if precise else torch_dtype(self._dtype)
        area = latents.shape[-1] * latents.shape[-2] * self._scale**2
        rows = max(1, DECODE_PIXELS // area)
        # A copy for the rare call in fp32: other threads may be decoding with this one.
        movq = self.vae if self.vae.dtype == dtype else copy.deepcopy(self.vae).to(dtype)
        parts = [
            movq.decode(part, force_not_quantize=True, return_dict=False)[0]
            for part in torch.split(latents.to(dtype), rows)
        ]
        pixels = torch.cat(parts).float()
        return torch.where(pixels.isfinite(), pixels.clamp(-1.0, 1.0), torch.nan)


def _nothing(folder: str, device: str, dtype: str) -> tuple[Tensor, Tensor]:
    """(states [1 s d], pooled [1 d']) of the empty prompt by the decoder's own text encoder, which
    is not needed again.
    """
    from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP
    from transformers import XLMRobertaTokenizer

    tokenizer = load_small(XLMRobertaTokenizer, folder, "tokenizer")
    found = tokenizer([""], padding="max_length", max_length=XLM_LENGTH, return_tensors="pt")
    with torch.inference_mode(False), torch.no_grad():
        model = load_part(MultilingualCLIP, folder, "text_encoder", dtype=dtype, device=device)
        pooled, states = model(
            input_ids=found.input_ids.to(device), attention_mask=found.attention_mask.to(device)
        )
    return states, pooled
