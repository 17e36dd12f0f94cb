"""The best and most different of many, and the diversity of a set."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creatok_cli.scorers._diverse import cosine_distances, greedy_pick, mean_pairwise, vendi


def drawn(count: int, seed: int) -> tuple[list[float], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    rows = torch.nn.functional.normalize(points, dim=1)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist(), (
        cosine_distances(rows)
    )


def worth(
    quality: list[float], apart: torch.Tensor, chosen: tuple[int, ...], weight: float
) -> float:
    """The objective, as the module's docstring writes it."""
    return sum(
        quality[i] + weight * sum(float(apart[i, j]) for j in chosen if j != i) / (len(chosen) - 1)
        for i in chosen
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.integers(2, 4), st.integers(0, 10_000), st.floats(0, 5))
def test_close_to_the_best_of_all_choices(
    count: int, wanted: int, seed: int, weight: float
) -> None:
    """No single swap is better, and half of the best choice is certain (greedy max-sum)."""
    wanted = min(wanted, count - 1)
    quality, apart = drawn(count, seed)
    picked = greedy_pick(quality, apart, wanted, weight)
    assert len(set(picked)) == wanted
    value = worth(quality, apart, picked, weight)
    best = max(worth(quality, apart, each, weight) for each in combinations(range(count), wanted))
    assert value >= best * 0.5 - 1e-9
    for gone in picked:
        for new in set(range(count)) - set(picked):
            other = tuple(new if each == gone else each for each in picked)
            assert worth(quality, apart, other, weight) <= value + 1e-6


def test_mostly_the_best_of_all_choices() -> None:
    hits = 0
    for seed in range(40):
        quality, apart = drawn(10, seed)
        value = worth(quality, apart, greedy_pick(quality, apart, 4, 1.0), 1.0)
        best = max(worth(quality, apart, each, 1.0) for each in combinations(range(10), 4))
        hits += value > best - 1e-9
    assert hits >= 30


def test_quality_alone_and_difference_alone() -> None:
    quality = [0.1, 0.9, 0.5, 0.8]
    line = torch.tensor([0.0, 1.0, 2.0, 10.0])
    apart = (line[:, None] - line[None]).abs()
    assert greedy_pick(quality, apart, 2, 0.0) == (1, 3)
    assert set(greedy_pick([0.0] * 4, apart, 2, 1.0)) == {0, 3}
    # Lists serve as well as tensors, and the diagonal is not looked at.
    assert set(greedy_pick([0.0] * 4, (apart + torch.eye(4) * 99).tolist(), 2, 1.0)) == {0, 3}


def test_one_weight_means_the_same_for_every_count() -> None:
    """All distances 1: a weight shifts every candidate alike, so only quality decides."""
    quality = [i * 0.01 for i in range(12)]
    apart = 1 - torch.eye(12)
    for count in (1, 2, 5, 12):
        assert greedy_pick(quality, apart, count, 3.0) == tuple(range(11, 11 - count, -1))
        assert worth(quality, apart, tuple(range(12)), 3.0) == pytest.approx(sum(quality) + 36)


def test_equal_candidates_in_their_order() -> None:
    assert greedy_pick([1.0] * 5, torch.zeros(5, 5), 3, 1.0) == (0, 1, 2)


@pytest.mark.parametrize("count", [0, 3, 7])
def test_ends_of_the_count(count: int) -> None:
    quality, apart = drawn(3, 1)
    assert len(greedy_pick(quality, apart, count, 1.0)) == min(3, count)
    assert greedy_pick([], [], count, 1.0) == ()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="quality"):
        greedy_pick([0.1, bad], torch.zeros(2, 2), 1, 1.0)
    with pytest.raises(ValueError, match="distances"):
        greedy_pick([0.1, 0.2], [[0.0, bad], [bad, 0.0]], 1, 1.0)
    with pytest.raises(ValueError, match="weight"):
        greedy_pick([0.1, 0.2], torch.zeros(2, 2), 1, bad)
    with pytest.raises(ValueError, match="kernel"):
        vendi([[bad]])


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 qualities"):
        greedy_pick([0.1, 0.2], torch.zeros(3, 3), 1, 1.0)
    with pytest.raises(ValueError, match="symmetric"):
        vendi([[1.0, 0.5], [0.1, 1.0]])
    with pytest.raises(ValueError, match="diagonal"):
        vendi([[0.5, 0.0], [0.0, 0.5]])


def test_vendi_counts_what_is_different() -> None:
    assert vendi(torch.eye(6)) == pytest.approx(6)
    assert vendi(torch.ones(6, 6)) == pytest.approx(1)
    assert vendi([]) == 0.0
    two = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
    assert vendi(two) == pytest.approx(2)
    # p and 1 - p of two kinds: the exponential of their entropy.
    three = torch.block_diag(torch.ones(3, 3), torch.ones(1, 1))
    p = torch.tensor([0.75, 0.25])
    assert vendi(three) == pytest.approx(float((-(p * p.log()).sum()).exp()))


def test_mean_pairwise() -> None:
    assert mean_pairwise([[0.0, 1.0], [1.0, 0.0]]) == 1.0
    assert mean_pairwise([[9.0]]) == mean_pairwise([]) == 0.0
    _, apart = drawn(6, 3)
    pairs = [float(apart[i, j]) for i, j in combinations(range(6), 2)]
    assert mean_pairwise(apart) == pytest.approx(sum(pairs) / len(pairs))


def test_cosine_distances() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert cosine_distances(rows).tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
