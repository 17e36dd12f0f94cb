"""A prior for bases that have none: a draw of few steps, seen by the base's own image towers.

    prompt -> text side -> `steps` denoising steps -> decoder -> resize, normalise -> image towers

all of it under autograd, so that a word or a LoRA can be moved by what its pictures look like.
Several towers stand side by side, each row of unit length and divided by sqrt(towers): a dot
product of two rows is the mean cosine, as in `scorers/clip.py`.

For large bases the gradient may pass the last steps alone (truncation as in DRaFT, Clark et al.
2023, arXiv 2309.17400) and activations are computed again instead of kept.

Does not: load towers that a base lacks, or choose what to optimise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional

from creatok_cli.backbones._diffusers import load_part
from creatok_cli.backbones.base import Conditioning
from creatok_cli.domain import Size
from creatok_cli.errors import ArtefactError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from creatok_cli.backbones._sd3 import Sd3
    from creatok_cli.tokens.token import Token

TOWERS = {"clip_l": "image_encoder_l", "clip_g": "image_encoder_g"}
"""Folder of the image tower that was trained with a text encoder."""
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and std where the folder has no preprocessor_config.json: pixels in [-1, 1]."""
GREY = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in a grey copy (ITU-R BT.709, without its gamma)."""
PICTURES = 64
"""Finished pictures that go through a tower together, the last ones padded: equal bytes in any
company.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How the pictures for the towers are drawn."""

    steps: int
    guidance: float
    size_px: Size
    gradient_steps: int = 0
    """Through how many last steps the gradient passes; 0 for all. Above 0, activations are
    computed again in the backward pass.
    """


def tower_folders(folder: str, encoders: Sequence[str]) -> dict[str, str]:
    """Text encoder -> folder of its image tower, for those towers that are there."""
    return {
        name: TOWERS[name]
        for name in encoders
        if name in TOWERS and (Path(folder) / TOWERS[name] / "config.json").is_file()
    }


class PixelPrior:
    """A PriorSide over an SD3-shaped base with image towers. Towers are read on first use."""

    route: Literal["pixels"] = "pixels"

    def __init__(self, backbone: Sd3, towers: Mapping[str, str], draw: Draw) -> None:
        self._backbone, self._parts, self.draw = backbone, dict(towers), draw
        self._towers: dict[str, _Tower] = {}
        self._empty: Conditioning | None = None

    @property
    def towers(self) -> Mapping[str, _Tower]:
        """By the name of the text encoder."""
        if not self._towers:
            folder, device = self._backbone.facts.folder, self._backbone.device
            self._towers = {
                name: _Tower(folder, part, device) for name, part in self._parts.items()
            }
        return self._towers

    @property
    def width(self) -> int:
        """Width of all towers' embeddings together."""
        return sum(tower.width for tower in self.towers.values())

    def sample(
        self,
        cond: Conditioning,
        *,
        seeds: Sequence[int],
        negative: Conditioning | None = None,
        grey: bool = False,
    ) -> Tensor:
        """[b d] unit embeddings of drawn pictures; one row of `cond` serves all seeds."""
        return self.see(self.paint(cond, seeds=seeds, negative=negative), grey=grey)

    def looks(
        self, cond: Conditioning, *, seeds: Sequence[int], negative: Conditioning | None = None
    ) -> tuple[Tensor, Tensor]:
        """[b d] twice, of the same pictures: in colours, as `sample` gives them, and grey."""
        pixels = self.paint(cond, seeds=seeds, negative=negative)
        return self.see(pixels), self.see(pixels, grey=True)

    def paint(
        self, cond: Conditioning, *, seeds: Sequence[int], negative: Conditioning | None = None
    ) -> Tensor:
        """[b 3 H W] in [-1, 1]: the pictures that `sample` looks at, row i from seeds[i]."""
        draw, side = self.draw, self._backbone.image
        cond, count = stretched(cond, len(seeds)), len(seeds)
        if negative is None and draw.guidance > 1:
            negative = self._nothing()
        if negative is not None:
            negative = stretched(negative, count)
        with _sparing(side, draw.gradient_steps):
            for latents in side.denoise(
                side.noise(seeds, draw.size_px),
                cond,
                negative=negative,
                steps=draw.steps,
                guidance=draw.guidance,
                scheduler="flow-match-euler",
                options=(),
                seeds=seeds,
                gradient_steps=draw.gradient_steps,
            ):
                last = latents
            return side.decode(last)

    def see(self, pixels: Tensor, *, grey: bool = False) -> Tensor:
        """[b 3 H W] in [-1, 1] -> [b d] unit rows. Raises ArtefactError where a tower says NaN."""
        if grey:
            pixels = greyed(pixels)
        rows = [tower(pixels) for tower in self.towers.values()]
        return _beside(rows)

    def texts(self, prompts: Sequence[str], tokens: Sequence[Token] = ()) -> Tensor:
        """[b d] unit rows of the text encoders that were trained with the towers."""
        found = self._backbone.text.pooled(prompts, list(tokens))
        return _beside([functional.normalize(found[name].float(), dim=-1) for name in self._parts])

    def pictures(self, images: Sequence[Image], *, grey: bool = False) -> Tensor:
        """[b d] of finished pictures, which are brought to the size of the base and cut to their
        middle. Without gradient.
        """
        if not images:
            return torch.zeros(0, self.width)
        device, parts = self._backbone.device, []
        with torch.no_grad():
            for start in range(0, len(images), PICTURES):
                chunk = [
                    to_pixels(image, self.draw.size_px)
                    for image in images[start : start + PICTURES]
                ]
                padded = torch.stack(chunk + chunk[-1:] * (PICTURES - len(chunk))).to(device)
                parts.append(self.see(padded, grey=grey)[: len(chunk)])
        return torch.cat(parts)

    def _nothing(self) -> Conditioning:
        """One row: the empty prompt."""
        if self._empty is None:
            with torch.no_grad():
                self._empty = self._backbone.text.encode([""], [])
        return self._empty


class _Tower:
    """One image tower, f32, frozen."""

    def __init__(self, folder: str, part: str, device: str) -> None:
        from transformers import CLIPVisionModelWithProjection

        model: Any = load_part(
            CLIPVisionModelWithProjection, folder, part, dtype="fp32", device=device
        )
        self._model, self._place = model, f"{folder}/{part}"
        self._side, self.width = int(model.config.image_size), int(model.config.projection_dim)
        mean, std = normalisation(Path(folder) / part)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """[b 3 H W] in [-1, 1] -> [b d] unit rows."""
        if tuple(pixels.shape[-2:]) != (self._side, self._side):
            pixels = functional.interpolate(
                pixels, size=(self._side, self._side), mode="bicubic", antialias=True
            ).clamp(-1, 1)
        levels = (pixels.float() + 1) / 2
        rows: Tensor = self._model((levels - self._mean) / self._std).image_embeds
        return functional.normalize(rows, dim=-1)


def greyed(pixels: Tensor) -> Tensor:
    """[b 3 H W] without colours: every channel the weighted mean of the three."""
    weights = torch.tensor(GREY, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1)
    return (pixels * weights).sum(1, keepdim=True).expand_as(pixels)


def _beside(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(rows), dim=-1) / math.sqrt(len(rows))


def stretched(cond: Conditioning, count: int) -> Conditioning:
    """`count` rows: as they are, or one row for all."""
    if len(cond) == count:
        return cond
    if len(cond) != 1:
        raise ValueError(f"{len(cond)} prompts for {count} seeds")
    return Conditioning(
        {name: rows.expand(count, *rows.shape[1:]) for name, rows in cond.tensors.items()},
        cond.cut * count,
    )


@contextmanager
def _sparing(side: Any, gradient_steps: int) -> Iterator[None]:
    """Within the block, denoiser and decoder keep few activations, where the draw asks for it."""
    models = [side.transformer, side.vae] if gradient_steps and torch.is_grad_enabled() else []
    for model in models:
        model.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for model in models:
            model.disable_gradient_checkpointing()


def normalisation(place: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std per channel. Raises ArtefactError for a file that is none."""
    file = place / "preprocessor_config.json"
    if not file.is_file():
        return HALF
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        found = [
            [float(value) for value in facts.get(name, usual)]
            for name, usual in zip(("image_mean", "image_std"), HALF, strict=True)
        ]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{file}: cannot be read: {str(error)[:200]}") from error
    if any(len(values) != 3 for values in found) or not all(0 < value for value in found[1]):
        raise ArtefactError(f"{file}: image_mean and image_std hold three numbers, std above 0")
    return found[0], found[1]


def to_pixels(image: Image, size_px: Size) -> Tensor:
    """[3 H W] in [-1, 1]: the shorter side fits, the middle is cut out, transparency becomes
    white.
    """
    from PIL import Image as pillow

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = pillow.alpha_composite(pillow.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    image = image.convert("RGB")
    width, height = size_px
    if image.size != (width, height):
        factor = max(width / image.width, height / image.height)
        wide, high = (max(1, round(edge * factor)) for edge in image.size)
        wide, high = max(wide, width), max(high, height)
        image = image.resize((wide, high), pillow.Resampling.BICUBIC)
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.crop((left, top, left + width, top + height))
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(height, width, 3).permute(2, 0, 1).float().div(127.5).sub(1.0)
