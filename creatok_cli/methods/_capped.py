"""Capped cosine: what CreTok climbs, and which cap leaves something to climb.

With unit rows r_i and the unit embedding a of the adaptive prompt, `J = mean_i min(a.r_i, theta)`
and the loss is 1 - J (Feng et al., 2025, arXiv 2410.24160). Where a.r_i >= theta the gradient is
zero, so a cap below every start cosine leaves nothing to learn, and a cap above every reachable
one makes the token the centroid of the list.

Does not: know prompts, encoders or optimisers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from creatok_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PAPER_THETA = 0.5
"""Feng et al., 2025."""
RHO = 0.5
"""Where the relative cap lies between the start and the bound (methods notes, 2.2)."""
LIVE_SHARE = 0.1
"""`auto` keeps the paper's cap if at least so many rows start below it (set by eye)."""
NO_ROOM = 0.01
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

Regime = Literal["dead", "live", "uncapped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The cosines of one encoder before the first step."""

    quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    mean: float
    """b: mean cosine to the rows."""
    lowest: float
    bound: float
    """u = |mean row| >= b: no single embedding reaches a higher mean cosine; 1 where every row has
    a prompt of its own.
    """
    below_paper: float
    """Share of rows below the paper's cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The cap of one encoder and how it came about."""

    theta: float
    mode: Literal["fixed", "relative"]
    regime: Regime
    note: str = ""
    """A warning, empty for none."""


def measure(cosines: Tensor, bound: float) -> Baseline:
    """Baseline of cosines [m] and their bound."""
    import torch

    points = torch.tensor(QUANTILES, dtype=cosines.dtype, device=cosines.device)
    return Baseline(
        quantiles=tuple(torch.quantile(cosines, points).tolist()),
        mean=float(cosines.mean()),
        lowest=float(cosines.min()),
        bound=bound,
        below_paper=float((cosines < PAPER_THETA).float().mean()),
    )


def choose_cap(asked: str, base: Baseline, encoder: str) -> Cap:
    """The cap for `auto`, `rel:RHO` or a number (see `parse_theta`).

    Raises InputError where a relative cap has no room: the start is the centroid already.
    """
    kind, value = parse_theta(asked)
    note = ""
    if kind == "auto":
        if base.below_paper >= LIVE_SHARE and base.bound > PAPER_THETA:
            kind, value = "fixed", PAPER_THETA
        else:
            kind, value = "relative", RHO
            note = (
                f"{encoder}: the paper's theta {PAPER_THETA} leaves little to learn here "
                f"({base.below_paper:.0%} of the rows start below it, the bound is "
                f"{base.bound:.2f}); a relative theta is used"
            )
    if kind == "relative":
        if base.bound - base.mean < NO_ROOM:
            raise InputError(
                f"{encoder}: the start already sits at the centroid of the list (mean cosine "
                f"{base.mean:.3f}, bound {base.bound:.3f}): choose another --init or list"
            )
        theta = base.mean + value * (base.bound - base.mean)
    else:
        theta = value
    regime: Regime = "live"
    if base.lowest >= theta:
        regime = "dead"
        note = (
            f"{encoder}: theta {theta:.2f} leaves no gradient, every row starts above it (lowest "
            f"{base.lowest:.2f}); --theta rel:{RHO} would be "
            f"{base.mean + RHO * (base.bound - base.mean):.2f}"
        )
    elif theta >= 1.0:
        regime = "uncapped"
    mode: Literal["fixed", "relative"] = "relative" if kind == "relative" else "fixed"
    return Cap(theta=theta, mode=mode, regime=regime, note=note)


def parse_theta(text: str) -> tuple[Literal["auto", "relative", "fixed"], float]:
    """`auto`, `rel:0.5` (0 to 1, between start and bound) or a cosine from -1 to 1.

    Raises ValueError whose text says what was expected.
    """
    expected = "auto, rel:FRACTION with 0 < FRACTION <= 1, or a number from -1 to 1"
    if text == "auto":
        return "auto", 0.0
    found = re.fullmatch(r"(rel:)?([-+]?[0-9]*\.?[0-9]+)", text.strip())
    if not found:
        raise ValueError(f"theta: found {text[:40]!r}, expected {expected}")
    value = float(found[2])
    if found[1]:
        if not 0 < value <= 1:
            raise ValueError(f"theta: found {text[:40]!r}, expected {expected}")
        return "relative", value
    if not -1 <= value <= 1:
        raise ValueError(f"theta: found {text[:40]!r}, expected {expected}")
    return "fixed", value
