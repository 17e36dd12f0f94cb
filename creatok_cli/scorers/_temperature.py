"""The temperature at which a labeler's probabilities mean what they say.

With logits l of pictures whose true weights p are known, T minimises the mean of

    KL(p; softmax(l / T)) = sum_c p_c ln p_c - sum_c p_c (l_c / T) + ln sum_c exp(l_c / T)

which is convex in 1/T, so golden-section search over ln T finds the one minimum. Guo et al. 2017,
arXiv 1706.04599, Section 4.2; on mixtures the target is p instead of one class.

Does not: draw or label pictures; more than one number is never fitted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from creatok_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST = 0.01, 100.0
"""Ends of the search; also what a labeler's Spec takes."""
ROUNDS = 60
"""Of the search: ln T to 1e-11, far below what the mean of any sample can tell apart."""
GOLDEN = (math.sqrt(5) - 1) / 2


def mean_kl(wanted: Tensor, logits: Tensor, temperature: float) -> float:
    """Mean over pictures of KL(wanted; softmax(logits / temperature)) in nats, >= 0; both [b k]."""
    wanted, logits = wanted.double(), logits.double()
    spoken = (logits / temperature).log_softmax(1)
    return float((torch.special.xlogy(wanted, wanted) - wanted * spoken).sum(1).mean())


def fit_temperature(wanted: Tensor, logits: Tensor) -> float:
    """The T of 0.01 to 100 with the least `mean_kl`. Logits may be log-probabilities: an offset per
    picture changes nothing.

    Raises InputError where there is nothing to learn from: no pictures, other shapes, numbers that
    are not finite, rows that are no distribution, or logits that are the same for all classes.
    """
    _check(wanted, logits)
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(ROUNDS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left_kl, right_kl = (mean_kl(wanted, logits, math.exp(at)) for at in (left, right))
        if left_kl < right_kl:
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def _check(wanted: Tensor, logits: Tensor) -> None:
    where = "temperature: "
    if wanted.shape != logits.shape or wanted.ndim != 2 or not wanted.numel():
        shapes = f"{list(wanted.shape)} and {list(logits.shape)}"
        raise InputError(f"{where}weights and logits need one shape [pictures classes]: {shapes}")
    if not bool(wanted.isfinite().all() and logits.isfinite().all()):
        raise InputError(f"{where}weights and logits must be finite")
    if bool((wanted < 0).any() or ((wanted.double().sum(1) - 1).abs() > 1e-6).any()):
        raise InputError(f"{where}the weights of each picture must be >= 0 and sum to 1")
    if bool((logits == logits[:, :1]).all()):
        raise InputError(f"{where}the logits tell no class from another")
