"""The bestiary's judge: both parents, balance, novelty, and whether it is one valid creature.

The judge reads weights p over 60 concepts (sum 1) and P(one creature) off a picture. With the
parents a and b and S = p at a parent:

    presence   min(S_a, S_b)            0 .. 0.5   both parents are there
    balance    |S_a - S_b|              0 .. 1     neither prevails (lower is better)
    novelty    1 - max_c p_c            0 .. 1     no concept owns the picture
    one        P(one creature)          0 .. 1     not two side by side, which also hold both
    valid      one >= .5 and S_a + S_b >= .5       one creature, of its parents more than of others
    fusion     presence x one           0 .. 0.5   both parents in one creature
    jsd        JSD(p; .5 a + .5 b)      0 .. 1     in bits, distance to the wanted mix

Two halves of .5 are the thresholds of `valid`: set by eye, never tuned. The parents of a result
are the concepts among the values of its job's labels.

Does not: teach. MEASURES_ONLY keeps it out of every Feedback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from creatok_cli.backbones.bestiary import judge
from creatok_cli.domain import Labels, Rendered, Score
from creatok_cli.errors import ArtefactError, InputError, UnknownName
from creatok_cli.registry import did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MEASURES_ONLY = True
GIVES = ("scores", "labels")
MEASURES: dict[str, tuple[str, float, str]] = {
    "presence": ("weight", 0.5, "higher"),
    "balance": ("weight", 1.0, "lower"),
    "novelty": ("weight", 1.0, "higher"),
    "one": ("probability", 1.0, "higher"),
    "valid": ("share", 1.0, "higher"),
    "fusion": ("weight", 0.5, "higher"),
    "jsd": ("bits", 1.0, "lower"),
}
"""Measure -> (unit, upper end of its range, which end is better); every range begins at 0."""
PARENTLESS = ("novelty", "one")
ROWS = 16
VALID_ONE, VALID_PARENTS = 0.5, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What `score` reports, and which judge looks."""

    measure: str = "fusion"
    folder: str = ""
    """Of a judge; empty for the one that ships with the bestiary."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            hint = did_you_mean(self.measure, MEASURES)
            raise ValueError(f"measure is one of {', '.join(MEASURES)}; {hint}".rstrip("; "))


def build(spec: Spec) -> JudgeScorer:
    """Reads the judge's weights. Raises ArtefactError where there are none."""
    return JudgeScorer(spec)


class JudgeScorer:
    """A Scorer and a Labeler."""

    def __init__(self, spec: Spec) -> None:
        shipped = Path(judge.__file__).parent / "weights" / "judge"
        folder = Path(spec.folder) if spec.folder else shipped
        try:
            self._judge = judge.LoadedJudge(folder)
        except (OSError, KeyError, ValueError) as error:
            raise ArtefactError(f"{folder}: no judge can be read there: {error}") from error
        self._spec = spec
        self._index = {name: place for place, name in enumerate(self._judge.concepts)}

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names that may be parents."""
        return self._judge.concepts

    def score(self, results: Sequence[Rendered]) -> list[Score]:
        """The measure of the Spec, one per result.

        Raises InputError for a result whose job's labels do not name two concepts, where the
        measure needs them.
        """
        name = self._spec.measure
        parents = [self._parents(result, name) for result in results]
        found = self.measure([result.image for result in results], parents)
        return [_score(name, row[name]) for row in found]

    def figures(self, results: Sequence[Rendered]) -> list[tuple[Score, ...]]:
        """All measures that each result allows: the Spec's first, where it does; without two
        parents only those that need none.
        """
        parents = [self._named(result) for result in results]
        parents = [pair if len(pair) == 2 else [] for pair in parents]
        rows = self.measure([result.image for result in results], parents)
        order = sorted(MEASURES, key=lambda name: name != self._spec.measure)
        return [tuple(_score(name, row[name]) for name in order if name in row) for row in rows]

    def label(
        self, images: Sequence[Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """The judge's weights over its concepts, or over `classes`, scaled to sum 1 among them.

        A question changes nothing: the judge knows one.
        """
        names = tuple(classes) or self.concepts
        columns = [self._place(name) for name in names]
        if not images:
            return []
        picked = self._look(images).weights[: len(images), columns].double()
        shares = picked / picked.sum(1, keepdim=True).clamp_min(1e-12)
        return [
            Labels(probabilities=tuple(zip(names, row, strict=True))) for row in shares.tolist()
        ]

    def measure(
        self, images: Sequence[Image], parents: Sequence[Sequence[str]]
    ) -> list[dict[str, float]]:
        """All measures of each picture by name; those that need parents only where there are two.

        Raises UnknownName for a parent that the judge does not know.
        """
        places = [[self._place(name) for name in pair] for pair in parents]
        if not images:
            return []
        verdict = self._look(images)
        ones = verdict.creatures[: len(images), 0].tolist()
        rows = zip(verdict.weights[: len(images)].double(), ones, places, strict=True)
        return [measures(weights, one, pair) for weights, one, pair in rows]

    def _look(self, images: Sequence[Image]) -> judge.Verdict:
        """Chunks of one size, the last one filled up: neighbours change no bit."""
        pads = [images[-1]] * (-len(images) % ROWS)
        return self._judge.look([*images, *pads], rows=ROWS)

    def _parents(self, result: Rendered, measure: str) -> list[str]:
        found = self._named(result)
        if len(found) == 2:
            return found
        if measure in PARENTLESS:
            return []
        raise InputError(
            f"judge: {result.job.name or result.job.prompt[:60]!r} names {len(found)} concepts in "
            f"its labels; {measure} needs the two parents"
        )

    def _named(self, result: Rendered) -> list[str]:
        """The concepts among the values of a job's labels, once each."""
        named = [value for _, value in result.job.labels if value in self._index]
        return list(dict.fromkeys(named))

    def _place(self, name: str) -> int:
        if name not in self._index:
            raise UnknownName(
                f"judge: unknown concept {name[:60]!r}; {did_you_mean(name, self._index)}"
            )
        return self._index[name]


def measures(weights: Tensor, one: float, parents: Sequence[int]) -> dict[str, float]:
    """All measures of one picture from its weights [k] and P(one creature); see the module."""
    found = {"novelty": 1.0 - float(weights.max()), "one": one}
    if len(parents) != 2:
        return found
    first, second = (float(weights[place]) for place in parents)
    presence = min(first, second)
    wanted = torch.zeros_like(weights)
    wanted[list(parents)] = 0.5
    return found | {
        "presence": presence,
        "balance": abs(first - second),
        "valid": float(one >= VALID_ONE and first + second >= VALID_PARENTS),
        "fusion": presence * one,
        "jsd": jensen_shannon(weights, wanted),
    }


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Jensen-Shannon divergence of two distributions [k] in bits, 0 to 1."""
    middle = (p + q) / 2
    bits = sum(torch.special.xlogy(x, x / middle).nan_to_num(0.0).sum() for x in (p, q))
    return min(1.0, max(0.0, float(bits) / 2 / 0.6931471805599453))


def _score(name: str, value: float) -> Score:
    unit, high, better = MEASURES[name]
    way: Literal["higher", "lower"] = "lower" if better == "lower" else "higher"
    return Score(name=name, value=value, unit=unit, range=(0.0, high), better=way)
