"""How rare a picture is among plain pictures: a Gaussian on principal axes of their embeddings.

    z = V^T (e - mu),   d2 = sum_j z_j^2 / lambda_j,   ln p = -d2/2 + const

over k axes of N embeddings (Song & Elgammal 2026, arXiv 2601.22125; methods notes, 4.1). With few
rows d2 of a new row is no chi-square: `d2 n(n-k) / (k(n^2-1))` follows F(k, n-k), a little less
where the widest of more axes are chosen. Where held-out rows are enough to say, their own quantiles
count; beyond them the F law goes on from there.

Where the mean colours of some rows are known, axes that they foretell (R2 above .36) are not looked
at: a change of colour is no novelty (methods notes, 4.2).

Deviates: every row is held out once (5 folds) instead of a fixed fifth (S8), so the quantiles rest
on N rows; the tail is the F law scaled to meet the last empirical quantile, so that it is monotone
where embeddings have heavier tails than a Gaussian.

Does not: draw, or know prompts.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

FOLDS = 5
TAIL_ROWS = 10
"""Held-out rows beyond which a quantile is not read off but extrapolated."""
FORETOLD = 0.36
"""R2 of an axis on colours above which it counts as one of colour (methods notes, 4.2)."""
ROWS_PER_AXIS = 20
"""A covariance of k axes wants so many rows for each (methods notes, 4.1)."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean [d], axes [d k], variances [k] of n rows; directions [d m] that are not looked at."""

    mean: Tensor
    axes: Tensor
    variances: Tensor
    count: int
    blind: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor, axes: int, blind: Tensor | None = None) -> Gaussian:
        """The `axes` widest axes of rows [n d], square to the orthonormal `blind`."""
        wide = rows.double()
        mean = wide.mean(dim=0)
        centred = wide - mean
        if blind is not None:
            centred = centred - (centred @ blind.double()) @ blind.double().T
        _, lengths, turned = torch.linalg.svd(centred, full_matrices=False)
        variances = lengths[:axes].square() / (len(rows) - 1)
        found = turned[:axes].T.float().contiguous()
        return cls(mean.float(), found, variances.float(), len(rows), blind)

    def distance(self, rows: Tensor) -> Tensor:
        """[b] d2 of rows [b d]: squared Mahalanobis distance on the axes."""
        return (((rows - self.mean) @ self.axes).square() / self.variances).sum(dim=1)

    def beside(self, rows: Tensor) -> Tensor:
        """[b] squared distance of rows [b d] from the plane of the axes."""
        moved = rows - self.mean
        if self.blind is not None:
            moved = moved - (moved @ self.blind) @ self.blind.T
        return (moved - (moved @ self.axes) @ self.axes.T).square().sum(dim=1)

    def places(self, rows: Tensor, dims: int = 2) -> Tensor:
        """[b dims] coordinates on the widest axes, in standard deviations."""
        return ((rows - self.mean) @ self.axes[:, :dims]) / self.variances[:dims].sqrt()

    def to(self, device: torch.device | str) -> Gaussian:
        """The same on a device."""
        return Gaussian(
            self.mean.to(device),
            self.axes.to(device),
            self.variances.to(device),
            self.count,
            None if self.blind is None else self.blind.to(device),
        )


class Baseline:
    """Plain embeddings [n d], what is usual among them, and how rare another one is."""

    def __init__(self, rows: Tensor, axes: int, colours: Tensor | None = None) -> None:
        """Fewer axes are used where rows are few. Needs at least 40 rows. `colours` [m c]: mean
        colours of the first m rows; the axes that they foretell are left out.
        """
        rows = rows.detach().float().cpu()
        if len(rows) < 2 * ROWS_PER_AXIS:
            raise ValueError(f"a baseline needs {2 * ROWS_PER_AXIS} rows, not {len(rows)}")
        self.rows = rows
        kept = len(rows) - math.ceil(len(rows) / FOLDS)
        self.axes = max(1, min(axes, kept // ROWS_PER_AXIS, rows.shape[1]))
        blind = None if colours is None else self._coloured(rows, colours)
        self.left_out = 0 if blind is None else blind.shape[1]
        """Axes of colour that rarity does not look at."""
        self.axes -= self.left_out
        self.gaussian = Gaussian.of(rows, self.axes, blind)
        distances, beside = torch.empty(len(rows)), torch.empty(len(rows))
        for fold in range(FOLDS):
            # Every fifth row, so that neighbouring seeds fall into different folds.
            out = torch.arange(len(rows)) % FOLDS == fold
            rest = Gaussian.of(rows[~out], self.axes, blind)
            distances[out], beside[out] = rest.distance(rows[out]), rest.beside(rows[out])
        self.held_out: tuple[float, ...] = tuple(sorted(distances.tolist()))
        self.beside95 = float(torch.quantile(beside, 0.95))
        self._law = FLaw(kept, self.axes)
        self.reach = 1 - TAIL_ROWS / len(rows)
        """The rarity up to which quantiles are read off the held-out rows."""
        self._stretch = self._empirical(self.reach) / self._law.quantile(self.reach)

    def _coloured(self, rows: Tensor, colours: Tensor) -> Tensor | None:
        """[d m] the axes that colours foretell, all but the one they foretell least; None for
        none.
        """
        whole = Gaussian.of(rows, self.axes)
        places = whole.places(rows[: len(colours)], self.axes).double()
        known = colours.detach().double().cpu()
        known = torch.cat([known - known.mean(dim=0), torch.ones(len(known), 1)], dim=1)
        fitted = known @ torch.linalg.lstsq(known, places).solution
        spread = (places - places.mean(dim=0)).square().sum(dim=0).clamp_min(1e-12)
        foretold = 1 - (places - fitted).square().sum(dim=0) / spread
        chosen = foretold > FORETOLD
        chosen[int(foretold.argmin())] = False
        return whole.axes[:, chosen] if bool(chosen.any()) else None

    def quantile(self, rarity: float) -> float:
        """d2 below which that share of plain pictures lies; 0 < rarity < 1."""
        if rarity <= self.reach:
            return self._empirical(rarity)
        return self._stretch * self._law.quantile(rarity)

    def rarity(self, distance: float) -> float:
        """The share of plain pictures that are less rare: the inverse of `quantile`."""
        if distance > self._empirical(self.reach):
            return self._law.share(distance / self._stretch)
        at = bisect.bisect_right(self.held_out, distance)
        if at == 0:
            return 0.0
        low, high = self.held_out[at - 1], self.held_out[min(at, len(self.held_out) - 1)]
        part = (distance - low) / (high - low) if high > low else 0.0
        return min(self.reach, (at - 1 + part) / (len(self.held_out) - 1))

    def shell(self, rarity: float) -> tuple[float, float]:
        """(q, q_hi): the asked quantile and the one ten times rarer."""
        return self.quantile(rarity), self.quantile(1 - (1 - rarity) / 10)

    def _empirical(self, share: float) -> float:
        return quantile(self.held_out, share)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in rising order, with linear interpolation."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class FLaw:
    """d2 of a new row under a Gaussian whose k axes were measured on n rows."""

    n: int
    k: int

    def share(self, distance: float) -> float:
        """P(d2 <= distance): the distribution function of F(k, n - k) through the incomplete
        beta function.
        """
        n, k = self.n, self.k
        f = max(0.0, distance) * n * (n - k) / (k * (n**2 - 1))
        return beta_share(k * f / (k * f + (n - k)), k / 2, (n - k) / 2)

    def quantile(self, share: float) -> float:
        """The inverse, by halving."""
        low, high = 0.0, float(self.k)
        while self.share(high) < share and high < 1e12:
            high *= 2
        for _ in range(200):
            middle = (low + high) / 2
            if self.share(middle) < share:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, by its continued fraction (Abramowitz &
    Stegun 26.5.8), evaluated with Lentz's algorithm.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_share(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 1000):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 + top * d, 1 + top / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return min(1.0, math.exp(log_front) * value / a)
