"""The Kandinsky 2 adapter: words -> prior -> embedding -> UNet -> MoVQ.

Same semantics as diffusers' KandinskyV22Pipeline and KandinskyPipeline (0.42) and their Img2Img
pipelines behind their prior pipelines: an empty negative prompt stands for the embedding of a black
picture, any other is drawn by the prior, too, and the prior is then guided away from it. The prior
runs at the head of `denoise`, so a condition is text alone and one encoding serves all seeds.

Does not: know plans, batches or seeds beyond the list it is given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._adapter import Adapter, Loader
from creatok_cli.backbones._kandinsky_options import walk_of
from creatok_cli.backbones._lora import Adapted, adapt
from creatok_cli.backbones._memory import DECODE_PIXELS
from creatok_cli.backbones._pixels import stretched
from creatok_cli.backbones._unclip import UnclipPrior, UnclipText, Walk
from creatok_cli.backbones._unet import skipped
from creatok_cli.backbones._vae import draw_noise, once, sound
from creatok_cli.backbones.base import Conditioning, Start, torch_dtype
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.errors import UnknownName
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

XLM_LENGTH = 77
"""Positions of the decoder's own text encoder in Kandinsky 2.1 (diffusers: `max_length`)."""


class Kandinsky(Adapter):
    """One Kandinsky base: the folder of the decoder and that of its prior. Building it reads
    nothing.

    `reads_words`: the decoder has a text encoder of its own, which gets the empty prompt.
    `start_betas`: see `KandinskyImage`.
    """

    def __init__(
        self,
        facts: BaseFacts,
        *,
        reads_words: bool,
        device: str,
        dtype: str,
        walk: Walk,
        search: Walk,
        start_betas: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(facts, device=device, dtype=dtype)
        self._start_betas = start_betas
        self._reads_words, self._walk, self._search = reads_words, walk, search

    @property
    def text(self) -> UnclipText:
        """The prior's text tower; its weights are read when something is encoded."""
        return self._side("text", lambda: UnclipText(self._beside(), self.facts))

    @property
    def prior(self) -> UnclipPrior:
        """The prior; its weights are read when something is drawn."""
        return self._side("prior", lambda: UnclipPrior(self._beside(), self.text, self._search))

    @property
    def image(self) -> KandinskyImage:
        """Denoiser and decoder, read on first use, and with them the prior's network."""
        return self._side("image", self._open_image)

    def _open_image(self) -> KandinskyImage:
        # All of it now: several threads may draw later, and the text tower may be dropped.
        prior = self.prior
        ready = (prior.network, prior.black, self.text.blank)
        assert all(part is not None for part in ready)
        return KandinskyImage(
            self._loader(),
            self.facts,
            prior,
            self._walk,
            reads_words=self._reads_words,
            start_betas=self._start_betas,
        )

    @property
    def folders(self) -> tuple[str, ...]:
        """The decoder's and the prior's."""
        return (self.facts.folder, self.facts.prior_folder)

    def _beside(self) -> Loader:
        """For the vetted folder of the prior."""
        return self._loader(self.folders[1])

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt: text alone; the prior draws per seed in `denoise`."""
        return self.text.encode([job.prompt for job in jobs], tokens)

    def adapt(self, rank: int, *, seed: int) -> Adapted:
        """See `backbones.base.Backbone.adapt`: the attention of the prior's network."""
        return adapt(self.prior.network, "prior", rank, seed=seed)


class KandinskyImage:
    """Denoiser, scheduler and decoder behind a prior. Drawing changes nothing here.

    `start_betas`: the ends of the line of betas that says how much noise is put on a picture to
    begin from; None where the scheduler says it.
    """

    def __init__(
        self,
        loader: Loader,
        facts: BaseFacts,
        prior: UnclipPrior,
        walk: Walk,
        *,
        reads_words: bool,
        start_betas: tuple[float, float] | None = None,
    ) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, VQModel

        self._facts, self._prior, self._walk = facts, prior, walk
        self._device, self._dtype = loader.device, loader.dtype
        self.unet: Any = loader.model(UNet2DConditionModel, "unet")
        self.vae: Any = loader.model(VQModel, "movq")
        self._kinds: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
        self._scheduler: Any = loader.small(self._kinds[facts.schedulers[0]], "scheduler")
        self._scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._words = _nothing(loader) if reads_words else None
        self._start_betas = start_betas

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
        return draw_noise(seeds, size_px, self.unet.config.in_channels, self._scale)

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
        times, latents = self._begun(
            schedule, start, steps, noise.to(device=self._device, dtype=torch_dtype(self._dtype))
        )
        channels = latents.shape[1]
        for index, t in enumerate(times):
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

    def _begun(
        self, schedule: Any, start: Start | None, steps: int, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(times of the steps to take, latents before the first)."""
        if start is None:
            return schedule.timesteps, noise * schedule.init_noise_sigma
        times, clean = schedule.timesteps[skipped(start, steps) :], self._encode(start.pixels)
        if self._start_betas is None:
            return times, schedule.add_noise(clean, noise, times[:1])
        # Kandinsky 2.1 was published with a line of its own here, and a time that follows from the
        # strength alone (diffusers: "taken from the original kandinsky repo").
        count = int(schedule.config.num_train_timesteps)
        kept = torch.cumprod(1 - torch.linspace(*self._start_betas, count), 0)
        share = kept[max(int(count * start.strength) - 2, 0)].to(noise)
        return times, share**0.5 * clean + (1 - share) ** 0.5 * noise

    def _encode(self, pixels: Tensor) -> Tensor:
        """[b 3 H W] in [-1, 1] -> latents [b c h w], without noise; row by row, for equal bytes."""
        shown = once(pixels).to(device=self._device, dtype=torch_dtype(self._dtype))
        found = [self.vae.encode(part[None], return_dict=False)[0] for part in shown]
        return torch.cat(found).expand(len(pixels), *found[0].shape[1:])

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
        walk = self._walk
        return Walk(*walk_of(options, self._facts.name, walk.steps, walk.guidance))

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
        return sound(torch.cat(parts))


def _nothing(loader: Loader) -> tuple[Tensor, Tensor]:
    """(states [1 s d], pooled [1 d']) of the empty prompt by the decoder's own text encoder, which
    is not needed again.
    """
    from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP
    from transformers import XLMRobertaTokenizer

    tokenizer = loader.small(XLMRobertaTokenizer, "tokenizer")
    found = tokenizer([""], padding="max_length", max_length=XLM_LENGTH, return_tensors="pt")
    with torch.inference_mode(False), torch.no_grad():
        model = loader.model(MultilingualCLIP, "text_encoder", is_worn=False)
        pooled, states = model(
            input_ids=found.input_ids.to(loader.device),
            attention_mask=found.attention_mask.to(loader.device),
        )
    return states, pooled
