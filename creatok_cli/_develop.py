"""Latents -> checked pixels: what is not finite gets one retry, what is empty is no picture.

A NaN cast to 8 bits is black, and a black file looks like a result; so values are checked before
the cast and contents after it. Conversion happens on the device, one copy goes to the host.

Does not: draw, or know jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from creatok_cli._conditions import Counters
from creatok_cli._stages import DECODE, TO_HOST, Stages, timed
from creatok_cli.backbones.base import ImageSide
from creatok_cli.domain import FailureKind

if TYPE_CHECKING:
    from torch import Tensor

FLAT_LEVELS = 2
"""A picture whose every channel spans at most this many of 255 levels is empty (set by eye)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture, or why there is none."""

    levels: Tensor
    """uint8 [H W 3|4] on the host."""
    fault: tuple[FailureKind, str] | None
    notes: tuple[str, ...]


def develop(
    side: ImageSide,
    latents: Tensor,
    count: int,
    counters: Counters,
    stages: Stages | None = None,
) -> list[Picture]:
    """Decode a whole batch and judge its first `count` rows.

    A row whose latents are finite but whose pixels are not is taken from a second decode in fp32;
    the other rows keep their bytes.
    """
    alive = latents.isfinite().flatten(1).all(1)[:count]
    with timed(stages, DECODE):
        pixels = side.decode(latents)[:count]
    counters.add(decodes=1)
    broken = ~pixels.isfinite().flatten(1).all(1) & alive
    if bool(broken.any()):
        precise = side.decode(latents, precise=True)[:count]
        counters.add(decodes=1)
        pixels = torch.where(broken[:, None, None, None], precise, pixels)
    sound = pixels.isfinite().flatten(1).all(1)
    with timed(stages, TO_HOST):
        levels = to_levels(pixels).cpu()
    spans = (levels.amax((1, 2)).int() - levels.amin((1, 2)).int()).amax(1)
    pictures: list[Picture] = []
    rows = zip(alive.tolist(), sound.tolist(), spans.tolist(), broken.tolist(), strict=True)
    for index, (lives, whole, span, retried) in enumerate(rows):
        fault: tuple[FailureKind, str] | None = None
        if not (lives and whole):
            part = "decoder" if lives else "denoiser"
            fault = "non-finite", f"the {part} produced values that are not finite"
        elif span <= FLAT_LEVELS:
            fault = "flat", f"the picture is empty: no channel spans more than {span} of 255 levels"
        notes = ("decoder fp32 retry",) if retried else ()
        pictures.append(Picture(levels[index], fault, notes))
    return pictures


def to_levels(pixels: Tensor) -> Tensor:
    """[b c H W] in [-1, 1] -> uint8 [b H W c] on the same device, rounded as diffusers does.

    NaN becomes 0.
    """
    unit = (pixels.nan_to_num(-1.0) * 0.5 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_image(levels: Tensor) -> Image.Image:
    """uint8 [H W 3|4] on the host -> a picture with its own memory."""
    height, width, channels = levels.shape
    mode = "RGBA" if channels == 4 else "RGB"
    return Image.frombytes(mode, (width, height), levels.contiguous().numpy().tobytes())
