"""Which window a score machine looks through at each noise level, and which machine fits sources.

Trained networks look at the whole picture while it is noise and at small patches when it is nearly
done (Kamb and Ganguli, ICML 2025: windows measured on networks). Without a network the sources say
it themselves: the best window is the one that denoises a source best while it and its kin are left
out.

Windows of a schedule stand in the order of i = 1 (lowest noise) to n.

Does not: draw pictures, or cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate

from creatok_cli.backbones._els_machine import Kind, Machine, estimate
from creatok_cli.backbones._els_pack import Pack
from creatok_cli.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

OFFSET = 1.008
"""Of the cosine schedule (released code of Kamb and Ganguli)."""
PUBLISHED = {
    "cifar10-unet": (3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7, 9, 9, 11, 13, 13, 15, 17, 25),
    "cifar10-resnet": (3, 3, 3, 3, 5, 5, 5, 7, 7, 7, 7, 9, 9, 11, 11, 13, 15, 17, 17, 17),
    "celeba-unet": (3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5, 7, 7, 9, 9, 9, 13, 19, 27),
    "celeba-resnet": (3, 3, 3, 5, 5, 5, 5, 5, 7, 7, 9, 9, 9, 11, 11, 11, 13, 15, 19, 19),
}
"""Measured on trained networks at 32 px (files/scales_*.pt of the release)."""
PUBLISHED_SIDE_PX = 32
SMALLEST_PX = 3
CALIBRATION_SIDE_PX = 32
"""Larger sources are calibrated at this side, and their windows grow with the picture."""
CALIBRATION_SOURCES = 256
HELD_OUT = 12
DRAWS = 2
PATIENCE = 2
"""A window is best when that many larger ones are worse (set by eye)."""
ALIGNED_SHARE = 0.85
"""Of what places explain once sources are centred; those that explain as much as they lie are
aligned (set by eye).
"""
TEXTURE_SHARE = 0.05
"""Where places explain less of the variance than this, and chance, sources are textures (set by
eye).
"""


def alpha_bar(t: float) -> float:
    """Share of the signal at t = i/n: cos^2(pi t / (2 x 1.008))."""
    return math.cos(math.pi * t / (2 * OFFSET)) ** 2


def odd(window: float) -> int:
    """The nearest odd number of at least 1; halfway goes up."""
    return max(1, 2 * math.floor(window / 2) + 1)


def power_law(steps: int, side_px: int) -> tuple[int, ...]:
    """Windows without any measurement: 3 + (.85 side - 3) t^1.5."""
    largest = max(SMALLEST_PX, 0.85 * side_px)
    span = largest - SMALLEST_PX
    return tuple(odd(SMALLEST_PX + span * (i / steps) ** 1.5) for i in range(1, steps + 1))


def scaled(schedule: Iterable[int], by: float) -> tuple[int, ...]:
    """Windows for pictures `by` times as large."""
    return tuple(max(SMALLEST_PX, odd(window * by)) for window in schedule)


def resampled(schedule: Sequence[int], steps: int) -> tuple[int, ...]:
    """Windows for another number of steps: those of the nearest noise level."""
    n = len(schedule)
    at = (max(1, min(n, math.floor(n * i / steps + 0.5))) for i in range(1, steps + 1))
    return tuple(schedule[index - 1] for index in at)


def floored(schedule: Iterable[int], coherence: float, side_px: int) -> tuple[int, ...]:
    """No window smaller than `coherence` (0..1) of the side: the user's floor."""
    least = max(SMALLEST_PX, odd(coherence * side_px))
    return tuple(max(window, least) for window in schedule)


def calibrate(
    pack: Pack,
    *,
    steps: int = 20,
    held_out: int = HELD_OUT,
    draws: int = DRAWS,
    kind: Kind = "ls",
    seed: int = 0,
) -> tuple[int, ...]:
    """Windows by leave-one-group-out: per noise level the P >= the one before that minimises
    n2(x0hat_{without the group of f}(a f + sqrt(s2) n) - f). Where all sources are of one group
    nothing can be left out, and the power law stands.

    At most 256 sources are used, evenly chosen, `held_out` of them are left out in turn. The same
    numbers on every machine, but for rounding.
    """
    side = min(pack.size_px)
    pixels, groups = _small(pack)
    if len(set(groups)) < 2:
        return power_law(steps, side)
    small = min(pixels.shape[2:])
    chosen = _spread(len(groups), held_out)
    clean = pixels[chosen].repeat(draws, 1, 1, 1)
    prior = torch.stack(
        [
            torch.tensor([-math.inf if group == groups[at] else 0.0 for group in groups])
            for at in chosen
        ]
    )
    prior = prior.repeat(draws, 1)
    machine = Machine(kind=kind, wraps=pack.tile)
    candidates = [*range(SMALLEST_PX, 16, 2), *range(19, 2 * small, 4)]
    best, found = SMALLEST_PX, []
    for i in range(1, steps + 1):
        ab = alpha_bar(i / steps)
        noise = torch.randn(clean.shape, generator=generator(seed, "calibrate", i)).to(clean)
        phi = math.sqrt(ab) * clean + math.sqrt(1 - ab) * noise
        least, worse = math.inf, 0
        for window in (each for each in candidates if each >= best):
            x0hat = estimate(machine, pixels, phi, ab=ab, window_px=window, log_prior=prior)
            error = float((x0hat - clean).square().mean())
            if error < least:
                least, best, worse = error, window, 0
            else:
                worse += 1
            if worse == PATIENCE:
                break
        found.append(best)
    return scaled(found, side / small) if side != small else tuple(found)


def choose_machine(pack: Pack) -> Kind:
    """What sources are good for: `ls` where they lie aligned, `window` where they lie loosely,
    `els` where places mean nothing (textures).

    Compared is the share of the variance that the mean picture explains, as the sources lie and
    with their opaque pixels centred (a reading of "per-pixel variance falls after centring").
    """
    pixels, groups = _small(pack)
    if len(pixels) == 1 or len(set(groups)) == 1:
        return "window"
    lying, centred = _explained(pixels), _explained(_centred(pixels))
    chance = 1.0 / len(pixels)
    if max(lying, centred) < TEXTURE_SHARE + chance:
        return "els"
    return "ls" if lying >= ALIGNED_SHARE * centred else "window"


def _explained(pixels: Tensor) -> float:
    """Share of the variance that goes when the mean picture is taken away."""
    total = pixels - pixels.mean((0, 2, 3), keepdim=True)
    rest = pixels - pixels.mean(0, keepdim=True)
    whole = float(total.square().sum())
    return 1.0 - float(rest.square().sum()) / whole if whole else 0.0


def _centred(pixels: Tensor) -> Tensor:
    """Sources rolled so that the centre of their opacity is the centre of the canvas."""
    height, width = pixels.shape[2:]
    alpha = pixels[:, -1] * 0.5 + 0.5
    moved = []
    for picture, weight in zip(pixels, alpha, strict=True):
        total = float(weight.sum()) or 1.0
        down = float((weight.sum(1) * torch.arange(height).to(weight)).sum()) / total
        right = float((weight.sum(0) * torch.arange(width).to(weight)).sum()) / total
        shift = round((height - 1) / 2 - down), round((width - 1) / 2 - right)
        moved.append(picture.roll(shift, (1, 2)))
    return torch.stack(moved)


def _small(pack: Pack) -> tuple[Tensor, tuple[int, ...]]:
    """At most 256 sources of at most 32 px on their smaller side, with their groups."""
    chosen = _spread(len(pack.groups), CALIBRATION_SOURCES)
    pixels, side = pack.pixels[chosen], min(pack.size_px)
    if side > CALIBRATION_SIDE_PX:
        scale = CALIBRATION_SIDE_PX / side
        size = [max(1, round(length * scale)) for length in pixels.shape[2:]]
        pixels = interpolate(pixels, size=size, mode="area")
    return pixels, tuple(pack.groups[at] for at in chosen)


def _spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, evenly chosen."""
    few = min(count, most)
    return [index * count // few for index in range(few)]
