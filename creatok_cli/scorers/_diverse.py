"""The best and most different of many pictures, and how different a set is.

With qualities q and distances d, the K of n that have the largest

    sum over the chosen i of  q_i + weight x (mean of d_ij over the other chosen j)

are sought greedily, then by swaps (after arXiv 2508.15773, which solves its group selection with an
integer programme). Vendi score: Friedman and Dieng 2022, arXiv 2210.02410, eq. 2: the effective
number of different pictures, exp(-sum l ln l) over the eigenvalues l of kernel / n.

Deviates: the mean of the distances, not their sum, so that one weight means the same for every K.

Does not: know what pictures, embeddings or qualities are, or promise the best of all choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST_GAIN = 1e-9
"""A swap has to be worth more: rounding never decides, and the swaps come to an end."""


def greedy_pick(
    quality: Sequence[float] | Tensor,
    distances: Sequence[Sequence[float]] | Tensor,
    count: int,
    weight: float,
) -> tuple[int, ...]:
    """The indices of `min(count, n)` candidates, the best first; see the module.

    quality [n], any scale; distances [n n], symmetric; weight >= 0: what a mean distance of 1 to
    the others is worth in quality. Of equal candidates the earlier one is taken, so the same
    numbers choose the same everywhere. Raises ValueError for other shapes and for what is not
    finite.
    """
    gains = _checked(quality, "quality", 1)
    apart = _checked(distances, "distances", 2)
    if apart.shape != (len(gains), len(gains)):
        raise ValueError(f"{len(gains)} qualities, but distances {list(apart.shape)}")
    if count < 0 or not 0 <= weight < float("inf"):
        raise ValueError("count and weight are 0 or more, and finite")
    count = min(count, len(gains))
    # A pair counts at each of its two ends, as one of count - 1 others.
    worth = (apart * (2 * weight / max(1, count - 1))).fill_diagonal_(0)
    picked = _grow(gains, worth, range(len(gains)), count)
    picked = _swapped(gains, worth, picked)
    return tuple(_grow(gains, worth, sorted(picked), count))


def vendi(kernel: Sequence[Sequence[float]] | Tensor) -> float:
    """1 (all alike) to n (all different); 0 for nothing.

    kernel [n n]: symmetric similarities with 1 on the diagonal, such as cosines. Raises ValueError
    for anything else.
    """
    table = _checked(kernel, "kernel", 2)
    if not len(table):
        return 0.0
    if table.shape[0] != table.shape[1] or not torch.allclose(table, table.T, atol=1e-5):
        raise ValueError("a kernel is symmetric")
    if not torch.allclose(table.diagonal(), torch.ones(len(table), dtype=table.dtype), atol=1e-4):
        raise ValueError("the diagonal of a kernel is 1")
    shares = torch.linalg.eigvalsh((table + table.T) / (2 * len(table))).clamp_min(0)
    shares = shares / shares.sum()
    return float(torch.special.entr(shares).sum().exp())


def mean_pairwise(distances: Sequence[Sequence[float]] | Tensor) -> float:
    """The mean over all pairs; 0 where there is no pair."""
    table = _checked(distances, "distances", 2)
    count = len(table)
    if count < 2:
        return 0.0
    return float((table.sum() - table.diagonal().sum()) / (count * (count - 1)))


def cosine_distances(embeddings: Tensor) -> Tensor:
    """[n n] f64, 0 to 2: 1 - cosine of unit embeddings [n d]; exactly 0 on the diagonal."""
    rows = embeddings.double()
    apart = (1 - rows @ rows.T).clamp(0, 2)
    return ((apart + apart.T) / 2).fill_diagonal_(0)


def _grow(gains: Tensor, worth: Tensor, among: Sequence[int], count: int) -> list[int]:
    """The greedy choice among some candidates, in the order in which they were taken."""
    chosen: list[int] = []
    left = list(among)
    total = gains.clone()
    for _ in range(count):
        best = left[int(total[left].argmax())]  # the first of equal ones
        left.remove(best)
        chosen.append(best)
        total = total + worth[best]
    return chosen


def _swapped(gains: Tensor, worth: Tensor, picked: list[int]) -> list[int]:
    """The same number of candidates, after every swap of one for another that is worth it."""
    inside = sorted(picked)
    for _ in range(4 * len(inside) + 8):
        held = set(inside)
        outside = [place for place in range(len(gains)) if place not in held]
        if not outside or not inside:
            break
        total = gains + worth[:, inside].sum(1)
        # [in out]: what comes in loses its distance to what goes.
        change = total[outside] - worth[inside][:, outside] - total[inside][:, None]
        best = int(change.argmax())
        if float(change.flatten()[best]) <= LEAST_GAIN:
            break
        row, column = divmod(best, len(outside))
        inside = sorted([*inside[:row], *inside[row + 1 :], outside[column]])
    return inside


def _checked(
    values: Sequence[float] | Sequence[Sequence[float]] | Tensor, what: str, ndim: int
) -> Tensor:
    table = torch.as_tensor(values, dtype=torch.float64)
    if table.numel() == 0:
        return table.reshape((0,) * ndim)
    if table.ndim != ndim or not bool(table.isfinite().all()):
        raise ValueError(f"{what}: {ndim} dimensions of finite numbers are needed")
    return table
