"""The FLUX.1 adapter: CLIP-L pooled, T5 states, a joint transformer over packed latents,
AutoencoderKL.

Same semantics as diffusers' FluxPipeline and FluxImg2ImgPipeline (0.42): latents are packed 2 x 2
into rows, positions are turned (RoPE), noise levels fall evenly before the shift, guidance is an
input of the denoiser where it has one. What differs: the text path is `_clip.py`, noise comes per
picture from CPU generators, and nothing here prints or reads the network.

Deviates: true guidance is one call of 2B rows, not two calls. Guidance of a denoiser without that
input is true guidance; the pipeline ignores it. Positions stay in f32: bf16 rounds those beyond
4096 pixels.

Does not: know plans, batches or seeds beyond the list it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._adapter import Adapter, Loader
from creatok_cli.backbones._clip import Encoded
from creatok_cli.backbones._clip_side import ClipSide
from creatok_cli.backbones._flow import Flow, begin, guided, walk
from creatok_cli.backbones._flux_options import true_cfg
from creatok_cli.backbones._lora import Adapted, adapt
from creatok_cli.backbones._t5 import T5
from creatok_cli.backbones._vae import Vae, draw_noise
from creatok_cli.backbones.base import Conditioning, Start, torch_dtype
from creatok_cli.domain import BaseFacts, Job, Options, Size
from creatok_cli.tokens.inject import Laid, words_in
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHIFT = 1.15
"""Of the largest pictures, where a scheduler's config says none (FluxPipeline)."""


class Flux(Adapter):
    """One FLUX.1-shaped base. Building it reads nothing."""

    def __init__(
        self, facts: BaseFacts, *, device: str, dtype: str, t5_lengths: Mapping[bool, int]
    ) -> None:
        super().__init__(facts, device=device, dtype=dtype)
        self._t5_lengths = t5_lengths

    @property
    def text(self) -> FluxText:
        """The text side; its weights are read when something is encoded."""
        return self._side("text", self._open_text)

    @property
    def image(self) -> FluxImage:
        """Denoiser and decoder, read on first use."""
        return self._side("image", lambda: FluxImage(self._loader(), self.facts))

    prior = None

    def _open_text(self) -> FluxText:
        config = Path(self.facts.folder) / "transformer" / "config.json"
        has_guidance = bool(json.loads(config.read_bytes()).get("guidance_embeds"))
        return FluxText(self._loader(), self.facts, self._t5_lengths[has_guidance])

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        """One row per job from its prompt."""
        return self.text.encode([job.prompt for job in jobs], tokens)

    def adapt(self, rank: int, *, seed: int) -> Adapted:
        """See `backbones.base.Backbone.adapt`: the denoiser's attention."""
        return adapt(self.image.transformer, "transformer", rank, seed=seed)


class FluxText(ClipSide):
    """CLIP-L, of which only the pooled state is used, and T5."""

    def __init__(self, loader: Loader, facts: BaseFacts, t5_length: int) -> None:
        self._long = T5(loader, "tokenizer_2", "text_encoder_2", t5_length)
        super().__init__(loader, facts, {"clip_l": ("tokenizer", "text_encoder")}, self._long)

    def kind(self, model: str) -> type[Any]:
        """A tower without a projection."""
        from transformers import CLIPTextModel

        return CLIPTextModel

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """`pooled` [b l]."""
        return {"pooled": encoded[0].pooled}

    def unread(self, prompt: str, laid: Sequence[Laid], tokens: Sequence[Token]) -> str:
        """The end that T5 does not see; that of the shorter CLIP only where a token is in it, whose
        vectors nobody else reads.
        """
        short = laid[0].cut
        is_lost = bool(words_in(short, [token.word for token in tokens]))
        return short if is_lost else self._long.cut(prompt, tokens)


class FluxImage:
    """Denoiser, scheduler and decoder. Drawing changes nothing here: several threads may."""

    def __init__(self, loader: Loader, facts: BaseFacts) -> None:
        from diffusers import FluxTransformer2DModel

        self._facts = facts
        self._device, self._dtype = loader.device, loader.dtype
        self.transformer: Any = loader.model(FluxTransformer2DModel, "transformer")
        self._vae = Vae(loader)
        self._flow = Flow(loader, facts, max_shift=MAX_SHIFT)

    @property
    def vae(self) -> Any:
        """The decoder's model."""
        return self._vae.model

    def noise(self, seeds: Sequence[int], size_px: Size) -> Tensor:
        """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
        return draw_noise(seeds, size_px, self.transformer.config.in_channels // 4, self._vae.scale)

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
        """Latents [b c h w] after each step; one call of 2B rows (negative first) when true
        guidance is above 1.
        """
        told = true_cfg(options, self._facts.name)
        has_input = bool(self.transformer.config.guidance_embeds)
        scale = told if told is not None else 1.0 if has_input else guidance
        is_guided = scale > 1 and negative is not None
        if is_guided and negative is not None:
            cond = Conditioning.stack([negative, cond])
        ready = cond.to(self._device, self._dtype).tensors
        rows = len(cond)
        strength = None
        if has_input:
            strength = torch.full((rows,), guidance, device=self._device, dtype=torch.float32)
        latents = pack(noise.to(device=self._device, dtype=torch_dtype(self._dtype)))
        height, width = noise.shape[-2] // 2, noise.shape[-1] // 2
        places = positions(height, width).to(self._device)
        words = places.new_zeros((ready["t5"].shape[1], 3))

        def flow(latents: Tensor, t: Tensor, left: int) -> Tensor:
            inputs = torch.cat([latents] * 2) if is_guided else latents
            found: Tensor = self.transformer(
                hidden_states=inputs,
                timestep=t.expand(rows).to(latents.dtype) / 1000,
                guidance=strength,
                pooled_projections=ready["pooled"],
                encoder_hidden_states=ready["t5"],
                txt_ids=words,
                img_ids=places,
                return_dict=False,
            )[0]
            return guided(found, scale) if is_guided else found

        schedule = self._flow.schedule(scheduler, steps, height * width, sigmas=sigmas(steps))
        times, latents = begin(
            schedule, steps, latents, start, lambda pixels: pack(self._vae.encode(pixels, seeds))
        )
        for drawn in walk(schedule, times, latents, seeds, flow):
            yield unpack(drawn, height, width)

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b 3 H W] f32 in [-1, 1]; values that are not finite come out as NaN."""
        return self._vae.decode(latents, precise=precise)


def sigmas(steps: int) -> list[float]:
    """Noise levels before the shift: 1, ..., 1 / steps, as the pipeline names them."""
    fall = (1 / steps - 1) / max(steps - 1, 1)
    return [*(1 + index * fall for index in range(steps - 1)), 1 / steps]


def pack(latents: Tensor) -> Tensor:
    """[b c h w] -> [b h/2*w/2 4c]: each square of 2 x 2 becomes one row."""
    squares = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [b c h/2 2 w/2 2]
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(rows: Tensor, height: int, width: int) -> Tensor:
    """[b n 4c] -> [b c 2*height 2*width], the reverse of `pack`; n = height * width."""
    squares = rows.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # [b h w c 2 2]
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(height: int, width: int) -> Tensor:
    """[n 3] f32: (0, row, column) of each packed square, row by row."""
    lines, columns = torch.meshgrid(
        torch.arange(float(height)), torch.arange(float(width)), indexing="ij"
    )
    return torch.stack([torch.zeros(height, width), lines, columns], dim=-1).flatten(0, 1)
