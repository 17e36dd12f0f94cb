"""Ranges of the settings that methods share: counts, weights, learning rates, names of words.

Does not: know what a setting means.
"""

from __future__ import annotations

from typing import Any

from creatok_cli.tokens.token import WORD

MAX_LR = 10
MAX_VECTORS = 16


def check_counts(spec: Any, *ranges: tuple[str, int, int]) -> None:
    """(name, lowest, highest) of whole numbers. Raises ValueError for the first outside."""
    for name, low, high in ranges:
        if not low <= getattr(spec, name) <= high:
            raise ValueError(f"{name} must be from {low:,} to {high:,}")


def check_weights(spec: Any, **tops: float) -> None:
    """Numbers from 0 to the given one. Raises ValueError for the first outside, NaN included."""
    for name, top in tops.items():
        if not 0 <= getattr(spec, name) <= top:
            raise ValueError(f"{name} must be from 0 to {top:g}")


def check_rates(spec: Any, *names: str) -> None:
    """Learning rates. Raises ValueError."""
    for name in names:
        if not 0 < getattr(spec, name) <= MAX_LR:
            raise ValueError(f"{name} must be above 0 and at most {MAX_LR}")


def check_name(name: str) -> None:
    """The name of a word, without its brackets. Raises ValueError."""
    if not WORD.fullmatch(f"<{name}>"):
        raise ValueError(f"name: found {name[:40]!r}, expected a-z, 0-9, '-' and '_'")
