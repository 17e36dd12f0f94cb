"""Latents of known laws, the same numbers on every machine; no torch.

Each number is the inverse distribution function of a uniform one that is derived from the seed, the
index of the latent and its dimension (`seeds.derive`), rounded to six digits, so that libraries of
mathematics that differ in the last bit agree. All laws have mean 0 and variance 1 (methods notes,
3.6), but for Cauchy's, which has neither: it has the quartiles of the normal law, and is then cut
off at 20.

    uniform   +- sqrt 3                       laplace   scale 1 / sqrt 2
    gaussian  scale 1                         logistic  scale sqrt 3 / pi
    student   4 degrees of freedom, scale sqrt(1/2); closed form of the inverse by W. Shaw,
              J. Computational Finance 9(4), 2006
    cauchy    scale .6745, what lies inside +-20

A gaussian latent can be put on the shell that a share q of all of them lies within: its direction
is uniform and its squared radius the chi-square quantile of q.

Deviates: Student's law has 4 degrees of freedom; the paper names the law and no number.

Does not: decode, or know a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from statistics import NormalDist

from creatok_cli.seeds import SEED_BITS, derive

DIGITS = 6
"""After the point."""
CAUCHY_SCALE = NormalDist().inv_cdf(0.75)
"""0.6745: the quartiles of the normal law."""
CAUCHY_END = 20.0
BISECTIONS = 200
MOST_RARE = 1 - 1e-6


def draw_latent(law: str, seed: int, index: int, dims: int, rarity: float = 0.0) -> list[float]:
    """Latent `index` of a seed: `dims` numbers of a law of LAWS; it does not depend on how many are
    drawn. With a rarity above 0, on that shell (gaussian latents).
    """
    inverse = LAWS[law]
    values = [inverse(_uniform(seed, index, at)) for at in range(dims)]
    if rarity > 0:
        radius = math.sqrt(chi_square_quantile(rarity, dims))
        length = math.sqrt(math.fsum(value * value for value in values))
        values = [value * radius / length for value in values]
    return [round(value, DIGITS) for value in values]


def lower_root(covariance: Sequence[Sequence[float]]) -> list[list[float]]:
    """L with L L^T = S, lower triangular (Cholesky). Raises ValueError where S is not positive."""
    size = len(covariance)
    root = [[0.0] * size for _ in range(size)]
    for row in range(size):
        for column in range(row + 1):
            known = math.fsum(map(mul, root[row][:column], root[column][:column]))
            rest = covariance[row][column] - known
            if row != column:
                root[row][column] = rest / root[column][column]
            elif rest > 0:
                root[row][row] = math.sqrt(rest)
            else:
                raise ValueError("the covariance of the latents is not positive")
    return root


def _uniform(seed: int, index: int, at: int) -> float:
    """Inside (0, 1), both ends excluded."""
    bits = derive(seed, "latent", index, at) >> (SEED_BITS - 52)
    return (bits + 0.5) / 2**52


def chi_square_quantile(share: float, dims: int) -> float:
    """The x below which a share of a chi-square law with `dims` degrees of freedom lies; by
    bisection, exact to about 12 digits. Raises ValueError outside 0 < share < 1.
    """
    if not 0 < share < 1 or dims < 1:
        raise ValueError("0 < share < 1 and dims >= 1 are needed")
    low, high = 0.0, float(dims)
    while _chi_square_share(high, dims) < share:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if _chi_square_share(middle, dims) < share else (low, middle)
    return high


def _chi_square_share(x: float, dims: int) -> float:
    """P(dims/2, x/2): the series of the lower incomplete gamma function (Abramowitz and Stegun,
    6.5.29), whose terms are all positive.
    """
    a, half = dims / 2, x / 2
    term = total = 1 / a
    n = a
    while term > total * 1e-17:
        n += 1
        term *= half / n
        total += term
    return min(1.0, total * math.exp(a * math.log(half) - half - math.lgamma(a)))


def _gaussian(share: float) -> float:
    return NormalDist().inv_cdf(share)


def _uniformly(share: float) -> float:
    return math.sqrt(3) * (2 * share - 1)


def _laplace(share: float) -> float:
    tail = -math.log(2 * min(share, 1 - share)) / math.sqrt(2)
    return math.copysign(tail, share - 0.5)


def _logistic(share: float) -> float:
    return math.sqrt(3) / math.pi * math.log(share / (1 - share))


def _student(share: float) -> float:
    spread = 4 * share * (1 - share)
    root = math.sqrt(spread)
    raised = math.cos(math.acos(min(1.0, root)) / 3) / root
    return math.copysign(2 * math.sqrt(max(0.0, raised - 1)), share - 0.5) * math.sqrt(0.5)


def _cauchy(share: float) -> float:
    inside = math.atan(CAUCHY_END / CAUCHY_SCALE)
    return CAUCHY_SCALE * math.tan((2 * share - 1) * inside)


LAWS: Mapping[str, Callable[[float], float]] = {
    "gaussian": _gaussian,
    "uniform": _uniformly,
    "laplace": _laplace,
    "logistic": _logistic,
    "student": _student,
    "cauchy": _cauchy,
}
"""Inverse distribution functions by name."""
