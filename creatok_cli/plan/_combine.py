"""Matrix, zip, include and exclude: the variable values of every prompt of a job.

Does not: fill a prompt, or know seeds and settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product

from creatok_cli.plan._model import Entry

Assignment = tuple[tuple[str, str], ...]
"""(variable, value) of one prompt, in the order of declaration."""


def prompt_count(entry: Entry) -> int:
    """How many prompts a job has before `exclude`: the product of matrix and zip, and `include`."""
    if not (entry.matrix or entry.zip):
        return len(entry.include) or 1
    lengths = [len(values) for values in entry.matrix.values()]
    lengths += [len(values) for values in list(entry.zip.values())[:1]]
    return math.prod(lengths) + len(entry.include)


def assignments(entry: Entry) -> Iterator[Assignment]:
    """The variable values of every prompt of a job: (matrix x zip) - exclude + include.

    The first matrix variable turns slowest, zip turns fastest.
    """
    if entry.matrix or entry.zip or not entry.include:
        axes: list[list[Assignment]] = [
            [((name, value),) for value in values] for name, values in entry.matrix.items()
        ]
        if entry.zip:
            columns = entry.zip.values()
            axes.append(
                [
                    tuple(zip(entry.zip, values, strict=True))
                    for values in zip(*columns, strict=True)
                ]
            )
        excluded = exclusions(entry)
        for combination in product(*axes):
            assignment = tuple(pair for pairs in combination for pair in pairs)
            if not excluded or not _is_excluded(dict(assignment), excluded):
                yield assignment
    for extra in entry.include:
        yield tuple(extra.items())


def exclusions(entry: Entry) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Excluded value tuples by the variables they name: one look-up per set of names."""
    grouped: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for combination in entry.exclude:
        ordered = sorted(combination.items())
        name_set = tuple(name for name, _ in ordered)
        grouped.setdefault(name_set, set()).add(tuple(value for _, value in ordered))
    return grouped


def _is_excluded(
    values: Mapping[str, str], excluded: Mapping[tuple[str, ...], set[tuple[str, ...]]]
) -> bool:
    return any(
        tuple(values[name] for name in name_set) in members
        for name_set, members in excluded.items()
    )
