"""AutoencoderKL, as every family but Kandinsky has it: noise shapes, pixels to latents and back.

Does not: denoise.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._memory import DECODE_PIXELS
from creatok_cli.backbones.base import torch_dtype
from creatok_cli.domain import Size
from creatok_cli.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor


class Vae:
    """Encoder and decoder. Using them changes nothing here: several threads may.

    `heeds_upcast`: in fp16 it works in fp32 where its config says `force_upcast`. That is SDXL's
    alone: others have the line, too, and neither need it nor does diffusers heed it there.
    """

    def __init__(self, loader: Loader, *, heeds_upcast: bool = False) -> None:
        from diffusers import AutoencoderKL

        self._device, self._dtype = loader.device, torch_dtype(loader.dtype)
        self.model: Any = loader.model(AutoencoderKL, "vae")
        self.model.decoder.to(memory_format=torch.channels_last)
        config = self.model.config
        self.scale = 2 ** (len(config.block_out_channels) - 1)
        """Pixels per latent, along each side."""
        self._factor, self._shift = config.scaling_factor, config.shift_factor or 0.0
        if heeds_upcast and self._dtype == torch.float16 and config.get("force_upcast"):
            self.model.float()

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """[b c h w] -> [b 3 H W] f32 in [-1, 1]; values that are not finite come out as NaN."""
        model = self._as(precise)
        latents = latents.to(model.dtype) / self._factor + self._shift
        parts = [
            model.decode(part.to(memory_format=torch.channels_last), return_dict=False)[0]
            for part in torch.split(latents, self._rows(latents.shape[-2:], self.scale))
        ]
        return sound(torch.cat(parts))

    def encode(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        """[b 3 H W] in [-1, 1] -> latents [b c h w], drawn from the encoder's distribution: row i
        by `derive(seeds[i], "start")` alone, as the img2img pipelines of diffusers draw it.
        """
        model = self._as(False)
        # The model itself may wait on the host until it works.
        pixels = once(pixels).to(device=self._device, dtype=model.dtype)
        posteriors = [model.encode(part[None]).latent_dist for part in pixels]
        found = []
        for index, own in enumerate(seeds):
            posterior = posteriors[index % len(posteriors)]
            # f32 on the CPU, then cast: one seed, one noise, on every device.
            noise = torch.randn(posterior.mean.shape[1:], generator=generator(own, "start"))
            found.append(posterior.mean + posterior.std * noise.to(posterior.mean))
        return ((torch.cat(found) - self._shift) * self._factor).to(self._dtype)

    def _as(self, precise: bool) -> Any:
        """The model, for `precise` in fp32; a copy where that is not its own format, because other
        threads may be using it.
        """
        is_fit = not precise or self.model.dtype == torch.float32
        return self.model if is_fit else copy.deepcopy(self.model).float()

    @staticmethod
    def _rows(sides: Sequence[int], scale: int) -> int:
        return max(1, DECODE_PIXELS // (sides[0] * sides[1] * scale**2))


def once(pixels: Tensor) -> Tensor:
    """The first row of rows that share their memory: one picture is encoded once for all seeds."""
    return pixels[:1] if pixels.stride(0) == 0 else pixels


def sound(pixels: Tensor) -> Tensor:
    """f32 within [-1, 1]; what is not finite becomes NaN."""
    pixels = pixels.float()
    return torch.where(pixels.isfinite(), pixels.clamp(-1.0, 1.0), torch.nan)


def draw_noise(seeds: Sequence[int], size_px: Size, channels: int, scale: int) -> Tensor:
    """[b c h w] f32 on the CPU: row i is drawn from `derive(seeds[i], "noise")` alone."""
    width, height = size_px
    shape = (channels, height // scale, width // scale)
    return torch.stack([torch.randn(shape, generator=generator(seed, "noise")) for seed in seeds])
