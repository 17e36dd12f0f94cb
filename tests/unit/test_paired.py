"""The paired bootstrap of the benchmarks: coverage, no effect, pairing, and what it refuses."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def paired_bootstrap() -> ModuleType:
    """benchmarks/_paired.py, which is no package."""
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import _paired
    finally:
        sys.path.remove(folder)
    return _paired


def columns(
    random: np.random.Generator, pairs: int, effect: float, seeds: int = 8
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Two columns over pairs of very different difficulty, with noise per picture and pair."""
    hard = random.normal(0, 3, pairs)
    own = random.normal(effect, 0.5, pairs)
    first = hard[:, None] + own[:, None] + random.normal(0, 0.3, (pairs, seeds))
    second = hard[:, None] + random.normal(0, 0.3, (pairs, seeds))
    return dict(enumerate(first.tolist())), dict(enumerate(second.tolist()))


@pytest.mark.parametrize("effect", [0.0, 0.4])
def test_coverage(paired_bootstrap: ModuleType, effect: float) -> None:
    """95 % intervals hold the true effect in about 95 % of experiments of 32 pairs."""
    random = np.random.default_rng(7)
    held = 0
    for number in range(300):
        first, second = columns(random, 32, effect)
        found = paired_bootstrap.paired(first, second, seed=number, resamples=1000)
        held += found.low <= effect <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_a_real_effect_is_found_and_its_sign(paired_bootstrap: ModuleType) -> None:
    first, second = columns(np.random.default_rng(3), 96, 0.5)
    gain = paired_bootstrap.paired(first, second)
    loss = paired_bootstrap.paired(second, first)
    assert gain.low > 0
    assert gain.excludes_zero
    assert loss.high < 0
    assert loss.mean == pytest.approx(-gain.mean)
    assert gain.pairs == 96


def test_pairing_removes_the_difficulty_of_pairs(paired_bootstrap: ModuleType) -> None:
    """The interval is as wide as the differences vary, not as the pairs do."""
    first, second = columns(np.random.default_rng(5), 64, 0.5)
    found = paired_bootstrap.paired(first, second)
    alone = paired_bootstrap.bootstrap([sum(row) / len(row) for row in first.values()])
    assert (found.high - found.low) < (alone.high - alone.low) / 3


def test_pictures_of_a_pair_are_no_extra_pairs(paired_bootstrap: ModuleType) -> None:
    """Each picture copied ten times: nothing is better known than before."""
    first, second = columns(np.random.default_rng(9), 20, 0.2)
    more = {key: row * 10 for key, row in first.items()}
    fewer = paired_bootstrap.paired(first, second)
    found = paired_bootstrap.paired(more, {key: row * 10 for key, row in second.items()})
    assert (found.low, found.high) == pytest.approx((fewer.low, fewer.high))


def test_equal_columns_give_exactly_zero(paired_bootstrap: ModuleType) -> None:
    first, _ = columns(np.random.default_rng(1), 12, 0.0)
    found = paired_bootstrap.paired(first, first)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert not found.excludes_zero


def test_seeded_and_free_of_the_order_of_keys(paired_bootstrap: ModuleType) -> None:
    first, second = columns(np.random.default_rng(2), 16, 0.1)
    turned = dict(reversed(first.items()))
    found = paired_bootstrap.paired(first, second, seed=4)
    assert paired_bootstrap.paired(turned, second, seed=4) == found
    assert paired_bootstrap.paired(first, second, seed=5) != found


def test_numbers_of_values_may_differ(paired_bootstrap: ModuleType) -> None:
    """A column of three draws has three times the pictures of one."""
    first = {"a": [1.0, 1.0, 1.0], "b": [3.0, 3.0, 3.0]}
    found = paired_bootstrap.paired(first, {"a": [0.0], "b": [2.0]})
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {}, "0 pairs"),
        ({"a": [1.0]}, {"a": [0.0]}, "1 pairs"),
        ({"a": [1.0], "b": [1.0]}, {"a": [0.0], "c": [1.0]}, "different pairs"),
        ({"a": [1.0], "b": []}, {"a": [0.0], "b": [1.0]}, "b: a pair needs values"),
        ({"a": [1.0], "b": [math.nan]}, {"a": [0.0], "b": [1.0]}, "b: a pair needs values"),
    ],
)
def test_refusals(
    paired_bootstrap: ModuleType,
    first: dict[str, list[float]],
    second: dict[str, list[float]],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap.paired(first, second)
