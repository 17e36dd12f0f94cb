"""Rarity: quantiles of the F law against tables and simulation, and a baseline's own numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creatok_cli.methods._colours import mean_colours
from creatok_cli.methods._rarity import Baseline, FLaw, Gaussian, beta_share

SHARES = (0.05, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.999999)


def rows(count: int, seed: int = 0, width: int = 32) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=dice) * torch.linspace(2, 0.05, width) + 0.3


@pytest.mark.parametrize(
    ("axes", "wanted"),
    [
        (16, (8.0, 15.3, 23.5, 26.3, 32.0, 39.3, 45.9, 58.3)),
        (24, (13.8, 23.3, 33.2, 36.4, 43.0, 51.2, 58.6, 72.2)),
        (50, (34.8, 49.3, 63.2, 67.5, 76.2, 86.7, 96.0, 112.6)),
    ],
)
def test_with_endless_rows_the_law_is_chi_square(axes: int, wanted: tuple[float, ...]) -> None:
    law = FLaw(10_000_000, axes)
    assert [round(law.quantile(share), 1) for share in SHARES] == list(wanted)


@pytest.mark.parametrize(("count", "wanted"), [(5000, 77.1), (1000, 81.3), (500, 87.3)])
def test_few_rows_make_new_rows_look_farther_away(count: int, wanted: float) -> None:
    assert FLaw(count, 50).quantile(0.99) == pytest.approx(wanted, abs=0.06)


def test_the_law_holds_for_new_rows_of_a_measured_gaussian() -> None:
    # As many axes as dimensions: the widest of more are chosen, so new rows look nearer.
    known, new = rows(300, width=12), rows(4000, seed=1, width=12)
    distances = Gaussian.of(known, 12).distance(new)
    law = FLaw(300, 12)
    for share in (0.5, 0.9, 0.99):
        inside = float((distances <= law.quantile(share)).float().mean())
        assert inside == pytest.approx(share, abs=0.03)


@given(st.floats(0.001, 0.999), st.floats(0.5, 40, allow_subnormal=False), st.floats(0.5, 400))
@settings(max_examples=60, deadline=None)
def test_the_incomplete_beta_function_is_symmetric_and_a_share(
    x: float, a: float, b: float
) -> None:
    value = beta_share(x, a, b)
    assert 0 <= value <= 1
    assert value == pytest.approx(1 - beta_share(1 - x, b, a), abs=1e-9)
    assert beta_share(x, 1, b) == pytest.approx(1 - (1 - x) ** b, abs=1e-9)
    assert beta_share(min(1, x * 1.01), a, b) >= value - 1e-12


def test_a_baseline_knows_its_own_quantiles_and_back() -> None:
    baseline = Baseline(rows(600), 12)
    shares = [0.01, 0.2, 0.5, 0.9, 0.98, 0.99, 0.999, 0.9999, 0.999999]
    found = [baseline.quantile(share) for share in shares]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    for share, value in zip(shares, found, strict=True):
        assert baseline.rarity(value) == pytest.approx(share, abs=1e-6)
    assert baseline.rarity(0.0) == 0.0
    assert baseline.rarity(1e9) == pytest.approx(1.0)
    low, high = baseline.shell(0.99)
    assert low == baseline.quantile(0.99)
    assert high == pytest.approx(baseline.quantile(0.999))


def test_new_plain_rows_are_as_rare_as_a_baseline_says() -> None:
    baseline, new = Baseline(rows(500), 10), rows(3000, seed=5)
    rare = baseline.gaussian.distance(new)
    for share in (0.5, 0.9, 0.95):
        assert float((rare <= baseline.quantile(share)).float().mean()) == pytest.approx(
            share, abs=0.04
        )
    beside = baseline.gaussian.beside(new)
    assert float((beside <= baseline.beside95).float().mean()) == pytest.approx(0.95, abs=0.03)


def test_heavy_tails_keep_the_shells_in_order() -> None:
    dice = torch.Generator().manual_seed(3)
    heavy = rows(400) / torch.rand(400, 1, generator=dice).clamp(min=0.02).sqrt()
    baseline = Baseline(heavy, 10)
    shares = [0.9, baseline.reach - 1e-6, baseline.reach + 1e-6, 0.99, 0.999]
    found = [baseline.quantile(share) for share in shares]
    assert found == sorted(found)
    assert found[2] - found[1] < 0.05 * found[1]


def test_few_rows_carry_few_axes_and_too_few_none() -> None:
    assert Baseline(rows(100), 50).axes == 4
    with pytest.raises(ValueError, match="40"):
        Baseline(rows(39), 4)


def test_places_are_in_standard_deviations() -> None:
    known = rows(500)
    places = Gaussian.of(known, 8).places(known, 3)
    assert places.std(dim=0).tolist() == pytest.approx([1.0] * 3, abs=1e-3)
    assert all(math.isfinite(value) for value in places.flatten().tolist())


def test_axes_that_colours_foretell_are_not_looked_at() -> None:
    dice = torch.Generator().manual_seed(5)
    colours = torch.randn(400, 3, generator=dice)
    rows = torch.randn(600, 12, generator=dice) * torch.linspace(1.0, 0.3, 12)
    rows[:, 0] = 0
    rows[:400, 0] = 3 * colours[:, 1] + 0.3 * torch.randn(400, generator=dice)
    rows[400:, 0] = 3 * torch.randn(200, generator=dice)
    plain, guarded = Baseline(rows, 4), Baseline(rows, 4, colours)
    assert (plain.left_out, plain.axes) == (0, 4)
    assert (guarded.left_out, guarded.axes) == (1, 3)
    along_colour, along_other = torch.zeros(2, 1, 12)
    along_colour[0, 0], along_other[0, 1] = 20.0, 20.0
    usual = rows[:1]
    assert plain.gaussian.distance(usual + along_colour) > 20
    moved = guarded.gaussian.distance(usual + along_colour) - guarded.gaussian.distance(usual)
    assert abs(float(moved)) < 2
    assert guarded.gaussian.distance(usual + along_other) > 20
    shift = guarded.gaussian.beside(usual + along_colour) - guarded.gaussian.beside(usual)
    assert abs(float(shift)) < 2


def test_colours_of_no_axis_leave_all_of_them() -> None:
    dice = torch.Generator().manual_seed(6)
    rows, colours = torch.randn(400, 8, generator=dice), torch.randn(256, 3, generator=dice)
    plain, guarded = Baseline(rows, 4), Baseline(rows, 4, colours)
    assert guarded.left_out == 0
    assert guarded.held_out == plain.held_out


def test_mean_colours_are_those_of_the_figure() -> None:
    pictures = torch.ones(2, 3, 16, 16)
    pictures[0, :, 4:12, 4:12] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    found = mean_colours(pictures)
    assert torch.allclose(found[0], torch.tensor([53.24, 80.09, 67.20]), atol=0.1)
    assert torch.allclose(found[1], torch.tensor([100.0, 0.0, 0.0]), atol=0.1)
