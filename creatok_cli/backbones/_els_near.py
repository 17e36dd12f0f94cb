"""How near a picture is to its sources, and whose pixels it shows.

The distance is the RMSE of premultiplied pixels in [-1, 1], the least over sources, their mirrors
and shifts of up to 2 px; a folder's own median of it, from each source to those of other groups,
says what is near.

Does not: stop anybody: it measures and flags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import adaptive_avg_pool2d, pad

from creatok_cli.backbones._els_pack import Pack

if TYPE_CHECKING:
    from torch import Tensor

REACH_PX = 2
NEAR_SHARE = 0.5
"""A picture nearer to a source than this share of the folder's median is a near copy."""
OWNED_SHARE = 0.8
"""One source that owns more of the opaque pixels than this makes a copy."""
OPAQUE = 0.05
"""Alpha above which a pixel is something to own."""
MEDIAN_OVER = 64
"""Sources whose distances make the median, evenly chosen."""
SCREENED = 256
"""Sources that are looked at closely; of more, those with the nearest thumbnails are."""
THUMBNAIL_PX = 16
CHUNK_FLOATS = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Where one picture's pixels come from."""

    nearest: float
    """RMSE to the nearest source."""
    nearest_source: str
    top_source: str
    """Whose pixels are the most among the opaque ones; empty for none."""
    top_share: float
    sources: int
    """How many gave at least one opaque pixel."""
    copy: str
    """`near copy`, `one source`, `one group`, or empty for none of these."""


def origins(pictures: Tensor, source: Tensor, pack: Pack, median: float) -> list[Origins]:
    """Of pictures [b 4 H W] with their source maps [b H W] (-1: locked); `median` is the folder's
    own (`folder_median`), 0 where there is none.
    """
    apart, at = nearest(pictures, pack)
    found = []
    for picture, owners, distance, index in zip(
        pictures, source, apart.tolist(), at.tolist(), strict=True
    ):
        is_owned = (picture[3] * 0.5 + 0.5 > OPAQUE) & (owners >= 0)
        counts: dict[str, int] = {}
        indices, times = owners[is_owned].unique(return_counts=True)
        for each, count in zip(indices.tolist(), times.tolist(), strict=True):
            counts[pack.names[each]] = counts.get(pack.names[each], 0) + count
        top = max(counts, key=lambda name: (counts[name], name), default="")
        share = counts[top] / sum(counts.values()) if top else 0.0
        copy = ""
        if len(set(pack.groups)) == 1:
            copy = "one group"
        elif distance < NEAR_SHARE * median:
            copy = "near copy"
        elif share > OWNED_SHARE:
            copy = "one source"
        found.append(
            Origins(
                nearest=distance,
                nearest_source=pack.names[index],
                top_source=top,
                top_share=share,
                sources=len(counts),
                copy=copy,
            )
        )
    return found


def nearest(
    pictures: Tensor, pack: Pack, *, without: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """(RMSE [b] f64, index of the source [b]); of equals the first. `without`: per picture a group
    that does not count; where no other is left, the distance is infinite.
    """
    distances, indices = [], []
    groups = torch.tensor(pack.groups)
    for row, picture in enumerate(pictures):
        allowed = torch.arange(len(groups))
        if without is not None:
            allowed = allowed[groups != without[row]]
        if not len(allowed):
            distances.append(math.inf)
            indices.append(-1)
            continue
        chosen = _screen(picture, pack.pixels, allowed)
        distance, index = _least(picture, pack.pixels[chosen.to(pictures.device)])
        distances.append(distance)
        indices.append(int(chosen[index]))
    return torch.tensor(distances, dtype=torch.float64), torch.tensor(indices)


def folder_median(pack: Pack) -> float:
    """Median distance from sources to the nearest one of another group; 0 where all are of one."""
    few = min(len(pack.groups), MEDIAN_OVER)
    chosen = [index * len(pack.groups) // few for index in range(few)]
    groups = [pack.groups[index] for index in chosen]
    apart, _ = nearest(pack.pixels[chosen], pack, without=groups)
    finite = apart[apart.isfinite()]
    return float(finite.median()) if len(finite) else 0.0


def _screen(picture: Tensor, sources: Tensor, allowed: Tensor) -> Tensor:
    """Indices of the sources worth a close look."""
    if len(allowed) <= SCREENED:
        return allowed
    small = adaptive_avg_pool2d(sources[allowed.to(sources.device)], THUMBNAIL_PX)
    own = adaptive_avg_pool2d(picture[None], THUMBNAIL_PX)
    apart = torch.minimum(
        (small - own).square().mean((1, 2, 3)), (small - own.flip(3)).square().mean((1, 2, 3))
    )
    kept = apart.argsort(stable=True)[:SCREENED].cpu()
    return allowed[kept.sort().values]


def _least(picture: Tensor, sources: Tensor) -> tuple[float, int]:
    """(RMSE, index) of the nearest source over mirrors and shifts, the winner in f64.

    Instead of sources the picture moves: what is compared is the same but for the border, where
    the canvas goes on transparent.
    """
    height, width = picture.shape[1:]
    # Lifted by 1 the transparent background is 0.
    wide = pad(picture + 1, (REACH_PX,) * 4)
    span = range(2 * REACH_PX + 1)
    moved = torch.stack(
        [
            each[:, dy : dy + height, dx : dx + width]
            for each in (wide, wide.flip(2))
            for dy in span
            for dx in span
        ]
    ).flatten(1)
    norms = moved.square().sum(1)
    best = (math.inf, 0, 0)
    count = max(1, CHUNK_FLOATS // moved.shape[1])
    for start in range(0, len(sources), count):
        some = sources[start : start + count].flatten(1) + 1
        apart = norms[:, None] + some.square().sum(1) - 2 * moved @ some.T  # [shifts k]
        least, at = apart.min(0)
        index = int(least.argmin())
        if float(least[index]) < best[0]:
            best = (float(least[index]), start + index, int(at[index]))
    _, index, at_shift = best
    exact = moved[at_shift].cpu().double() - (sources[index].flatten().cpu().double() + 1)
    return float(exact.square().mean().sqrt()), index
