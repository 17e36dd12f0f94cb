"""Derived seeds: golden values, labels that cannot be confused, the range of torch."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from creatok_cli.seeds import derive, generator

LABELS = st.lists(st.text(max_size=6) | st.integers(), max_size=4)


def test_seeds_never_change() -> None:
    assert derive(0, "first", 0) == 7472197999832542538
    assert derive(0) == int(hashlib.sha256(b"0").hexdigest()[:16], 16) >> 1


@settings(deadline=None)
@given(st.integers(), LABELS)
def test_a_seed_is_63_bits_and_stable(seed: int, labels: list[str | int]) -> None:
    assert 0 <= derive(seed, *labels) < 2**63
    assert derive(seed, *labels) == derive(seed, *labels)


@settings(deadline=None)
@given(st.integers(), LABELS, LABELS)
def test_other_labels_are_other_seeds(
    seed: int, some: list[str | int], other: list[str | int]
) -> None:
    assert (derive(seed, *some) == derive(seed, *other)) == (some == other)


def test_labels_are_not_run_together() -> None:
    seeds = {
        derive(1, "ab", "c"),
        derive(1, "a", "bc"),
        derive(1, "abc"),
        derive(1, "ab", "c", ""),
        derive(11, "ab", "c"),
    }
    assert len(seeds) == 5
    assert derive(0, 1) != derive(0, "1")


def test_a_generator_draws_from_its_seed_and_labels_alone() -> None:
    import torch

    first = torch.randn(4, generator=generator(3, "noise"))
    torch.manual_seed(99)
    assert torch.equal(first, torch.randn(4, generator=generator(3, "noise")))
    assert not torch.equal(first, torch.randn(4, generator=generator(3, "step")))
