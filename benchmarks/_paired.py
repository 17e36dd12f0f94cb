"""Paired bootstrap over pairs: how far a difference of two columns can be trusted.

Both columns hold the same pairs of concepts, each with a value per picture (same seeds). Pictures
of a pair are averaged first, since pairs are what generalises; then pairs are drawn anew with
replacement, 10,000 times, and the middle 95 % of the means of differences is the interval
(percentile bootstrap; Efron and Tibshirani 1993, Section 13.3).

Does not: correct for many comparisons, or for which pairs were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from creatok_cli.seeds import derive

RESAMPLES = 10_000
LEVEL = 0.95
Pair = TypeVar("Pair", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over pairs with the ends of its interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; an interval that ends at zero holds it."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired(
    first: Mapping[Pair, Sequence[float]],
    second: Mapping[Pair, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The interval of mean(first - second). Keys are pairs, values their pictures' figures.

    Deterministic in the seed, the values and the number of pairs, whatever the order of the keys.
    Raises ValueError for other pairs in one column than in the other, fewer than two of them,
    a pair without values, or a value that is not finite.
    """
    if set(first) != set(second):
        odd = sorted(map(str, set(first) ^ set(second)))
        raise ValueError(f"columns hold different pairs, for example {odd[0]}")
    keys = sorted(first, key=str)
    return bootstrap(
        [_mean(first[key], key) - _mean(second[key], key) for key in keys],
        seed=seed,
        resamples=resamples,
        level=level,
    )


def bootstrap(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The interval of the mean of one value per pair. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} pairs have no interval; two are the least")
    data = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(derive(seed, "paired", len(data)))
    means = data[random.integers(0, len(data), size=(resamples, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(data.mean()), low=float(low), high=float(high), pairs=len(data))


def _mean(values: Sequence[float], key: Hashable) -> float:
    if not len(values) or not all(map(math.isfinite, values)):
        raise ValueError(f"{key}: a pair needs values, all finite")
    return math.fsum(values) / len(values)
