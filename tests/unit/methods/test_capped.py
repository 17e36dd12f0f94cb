"""Which cap is chosen for which start."""

from __future__ import annotations

import pytest
import torch

from creatok_cli.errors import InputError
from creatok_cli.methods._capped import Baseline, choose_cap, measure, parse_theta


def baseline(mean: float, lowest: float, bound: float, below: float) -> Baseline:
    return Baseline(quantiles=(mean,) * 5, mean=mean, lowest=lowest, bound=bound, below_paper=below)


def test_measure() -> None:
    found = measure(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), 0.9)
    assert found.mean == pytest.approx(0.5)
    assert found.lowest == 0.0
    assert found.bound == 0.9
    assert found.below_paper == pytest.approx(0.4)
    assert found.quantiles == pytest.approx((0.1, 0.25, 0.5, 0.75, 0.9))


@pytest.mark.parametrize(
    ("base", "theta", "mode"),
    [
        (baseline(0.56, 0.1, 0.63, 0.3), 0.5, "fixed"),  # the paper's setting
        (baseline(0.7, 0.6, 0.8, 0.0), 0.75, "relative"),  # every row above it: dead with 0.5
        (baseline(0.1, -0.1, 0.4, 1.0), 0.25, "relative"),  # 0.5 is out of reach
    ],
)
def test_auto(base: Baseline, theta: float, mode: str) -> None:
    cap = choose_cap("auto", base, "clip_l")
    assert cap.theta == pytest.approx(theta)
    assert cap.mode == mode
    assert bool(cap.note) == (mode == "relative")


def test_a_cap_below_every_row_is_dead_and_says_what_to_do() -> None:
    cap = choose_cap("0.5", baseline(0.7, 0.6, 0.8, 0.0), "clip_g")
    assert cap.regime == "dead"
    assert "--theta rel:0.5 would be 0.75" in cap.note


def test_one_never_caps() -> None:
    assert choose_cap("1", baseline(0.7, 0.6, 0.8, 0.0), "clip_l").regime == "uncapped"


def test_no_room_for_a_relative_cap() -> None:
    with pytest.raises(InputError, match="already sits at the centroid"):
        choose_cap("rel:0.5", baseline(0.595, 0.5, 0.6, 0.0), "clip_l")


@pytest.mark.parametrize("text", ["", "half", "rel:", "rel:0", "rel:1.5", "2", "nan", "0.5.5"])
def test_theta_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected auto, rel:FRACTION"):
        parse_theta(text)
