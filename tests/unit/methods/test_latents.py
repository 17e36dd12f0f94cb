"""Latents: laws, shells, the frame of a network, and tokens decoded from them."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, quantiles

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creatok_cli.methods import _latents, distok
from creatok_cli.methods._latents import LAWS, chi_square_quantile, draw_latent, lower_root
from creatok_cli.methods.distok import Spec, View, view
from tests.fakes.fusing import LATENT, distok_network

SHARES = st.floats(min_value=1e-9, max_value=1 - 1e-9)
UNIT = sorted(set(LAWS) - {"cauchy"})
QUARTILES = {
    "gaussian": 0.6744897501960817,
    "uniform": math.sqrt(3) / 2,
    "laplace": math.log(2) / math.sqrt(2),
    "logistic": math.sqrt(3) / math.pi * math.log(3),
    "student": 0.7406970841126829 / math.sqrt(2),
}
"""From tables of the laws; Student's with 4 degrees of freedom has 0.7407."""


@pytest.mark.parametrize("law", UNIT)
def test_a_law_has_mean_0_and_variance_1(law: str) -> None:
    values = [LAWS[law]((step + 0.5) / 100_000) for step in range(100_000)]
    assert fmean(values) == pytest.approx(0, abs=1e-9)
    # Student's tails hold half a hundredth beyond the last step.
    assert fmean(value * value for value in values) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("law", UNIT)
def test_a_law_has_the_quartiles_of_its_table(law: str) -> None:
    assert LAWS[law](0.75) == pytest.approx(QUARTILES[law], abs=1e-9)


def test_cauchy_has_the_quartiles_of_the_normal_law_and_an_end() -> None:
    inside = 2 / math.pi * math.atan(20 / _latents.CAUCHY_SCALE)  # of the untruncated law
    assert LAWS["cauchy"](0.75) == pytest.approx(0.652, abs=1e-3)
    assert LAWS["cauchy"](0.5 + 0.25 / inside) == pytest.approx(QUARTILES["gaussian"], abs=1e-9)
    assert 19.9 < LAWS["cauchy"](1 - 1e-9) <= 20


@given(law=st.sampled_from(sorted(LAWS)), low=SHARES, high=SHARES)
def test_a_law_rises_and_is_symmetric(law: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert LAWS[law](low) <= LAWS[law](high)
    assert LAWS[law](low) == pytest.approx(-LAWS[law](1 - low), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_drawn_numbers_follow_the_law(law: str) -> None:
    values = [value for index in range(200) for value in draw_latent(law, 3, index, 20)]
    low, middle, high = quantiles(values, n=4)
    assert middle == pytest.approx(0, abs=0.06)
    assert (high - low) / 2 == pytest.approx(LAWS[law](0.75), rel=0.08)


def test_a_latent_is_the_same_everywhere_and_whatever_is_drawn_beside_it() -> None:
    assert draw_latent("gaussian", 0, 0, 3) == [0.984149, 0.416642, 1.283987]
    assert draw_latent("cauchy", 7, 2, 2) == [0.47002, -0.527471]
    assert draw_latent("laplace", 1, 4, 5)[:3] == draw_latent("laplace", 1, 4, 3)


@given(share=st.floats(min_value=1e-6, max_value=1 - 1e-6), dims=st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_the_chi_square_quantile_is_that_of_torch(share: float, dims: int) -> None:
    found = chi_square_quantile(share, dims)
    half = torch.tensor([dims / 2, found / 2], dtype=torch.float64)
    assert float(torch.special.gammainc(half[0], half[1])) == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize(("share", "value"), [(0.5, 19.3), (0.95, 31.4), (0.99, 37.6)])
def test_the_shells_are_those_of_the_notes(share: float, value: float) -> None:
    assert chi_square_quantile(share, 20) == pytest.approx(value, abs=0.05)
    latent = draw_latent("gaussian", 0, 5, 20, rarity=share)
    assert math.fsum(each * each for each in latent) == pytest.approx(value, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, math.nan])
def test_no_quantile_of_nothing(share: float) -> None:
    with pytest.raises(ValueError, match="0 < share < 1"):
        chi_square_quantile(share, 20)


@given(seed=st.integers(0, 1000), size=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_the_root_of_a_covariance(seed: int, size: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    half = torch.randn(size, size + 2, generator=dice, dtype=torch.float64)
    whole = half @ half.T + 1e-3 * torch.eye(size, dtype=torch.float64)
    root = torch.tensor(lower_root(whole.tolist()), dtype=torch.float64)
    assert torch.allclose(root @ root.T, whole, atol=1e-9)
    assert torch.equal(root, root.tril())


def test_no_root_of_what_is_no_covariance() -> None:
    with pytest.raises(ValueError, match="not positive"):
        lower_root([[1.0, 2.0], [2.0, 1.0]])


# With a network


def test_latents_have_the_moments_of_the_network() -> None:
    network = distok_network()
    mean = network.tensors["latents/mean"].values()
    found = torch.tensor(distok.draw_latents(network, "gaussian", seed=0, count=4000))
    assert torch.allclose(found.mean(0), torch.tensor(mean), atol=0.12)
    wanted = torch.tensor(network.tensors["latents/covariance"].values()).reshape(LATENT, LATENT)
    assert torch.allclose(torch.cov(found.T), wanted, atol=0.35)


def test_latents_near_a_token_lie_around_it() -> None:
    network = distok_network()
    middle = [5.0, -3.0, 1.0]
    drawn = {
        reach: torch.tensor(
            distok.draw_latents(network, "gaussian", seed=0, count=50, near=middle, reach=reach)
        )
        for reach in (0.1, 0.2)
    }
    apart = {reach: each - torch.tensor(middle) for reach, each in drawn.items()}
    assert torch.allclose(apart[0.2], 2 * apart[0.1], atol=1e-5)
    assert float(apart[0.1].norm(dim=1).mean()) == pytest.approx(0.32, abs=0.06)


def test_more_latents_begin_like_fewer() -> None:
    network = distok_network()
    few = distok.draw_latents(network, "laplace", seed=2, count=2)
    assert distok.draw_latents(network, "laplace", seed=2, count=5)[:2] == few
    assert distok.draw_latents(network, "laplace", seed=3, count=2) != few


@pytest.mark.parametrize(("law", "rarity"), [("normal", 0.0), ("gaussian", 1.0)])
def test_what_cannot_be_drawn(law: str, rarity: float) -> None:
    with pytest.raises(ValueError, match="a law of LAWS"):
        distok.draw_latents(distok_network(), law, seed=0, count=1, rarity=rarity)


def test_a_mix_and_its_latent_are_the_same_token() -> None:
    network = distok_network()
    parts = [(0.7, distok.class_row(network, "pig")), (0.3, distok.class_row(network, "owl"))]
    latent = distok.encode(network, parts)
    assert len(latent) == distok.latent_size(network) == LATENT
    assert distok.decode(network, latent) == distok.fuse(network, parts)


def test_the_shipped_network_can_be_explored() -> None:
    from creatok_cli.backbones._weights import resolve
    from creatok_cli.tokens.network import read_network

    (path,) = (Path(resolve("bestiary").folder) / "networks").glob("*.safetensors")
    network = read_network(path)
    (latent,) = distok.draw_latents(network, "gaussian", seed=0, count=1, rarity=0.99)
    assert len(latent) == 20
    rows = distok.decode(network, latent)
    assert {name: shape for name, (shape, _) in rows.items()} == {
        name: (2, width) for name, width in network.widths.items()
    }


# What labels say


def test_the_view_of_labels() -> None:
    seen = view([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert seen == View(shares=(0.5, 0.5, 0.0), top=0.5, spread=pytest.approx(2.0), apart=0.0)
    assert view([[1.0, 0.0], [0.0, 1.0]]).apart == pytest.approx(
        # JSD of (1, 0) and of (0, 1) to (.5, .5)
        (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    )


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        ({"top": 0.9, "spread": 1.5, "apart": 0.0}, "known"),
        ({"top": 0.85, "spread": 1.5, "apart": 0.0}, "known"),
        ({"top": 0.2, "spread": 9.0, "apart": 0.0}, "junk"),
        ({"top": 0.5, "spread": 2.0, "apart": 0.3}, "unsteady"),
        ({"top": 0.84, "spread": 6.0, "apart": 0.2}, ""),
    ],
)
def test_the_rules_of_novelty(seen: dict[str, float], fault: str) -> None:
    assert View(shares=(), **seen).fault(Spec()) == fault
