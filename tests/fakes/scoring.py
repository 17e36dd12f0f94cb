"""Scorers that need no model: brightness of a picture, and the number of pictures of a set.

Does not: import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import pytest
from PIL import ImageStat

from creatok_cli import registry
from creatok_cli.domain import Rendered, Score
from creatok_cli.workflows._asked import Asked
from creatok_cli.workflows._scores import Scoring


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Nothing to set but where the scale ends."""

    top: float = 255.0

    def __post_init__(self) -> None:
        if self.top <= 0:
            raise ValueError("top is above 0")


class Bright:
    """Mean level of a picture, and of a set the mean of means; counts what it looked at."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.sets: list[int] = []
        self.value: Callable[[Rendered], float] | None = None
        self.better: Literal["higher", "lower"] = "higher"

    def score(self, results: Sequence[Rendered]) -> list[Score]:
        self.seen += [result.job.name for result in results]
        measure = self.value or level
        return [
            Score(
                name="bright",
                value=measure(result),
                unit="level",
                range=(0.0, 255.0),
                better=self.better,
                note=result.job.labels[0][1] if result.job.labels else "",
            )
            for result in results
        ]

    def score_set(self, results: Sequence[Rendered]) -> list[Score]:
        self.sets.append(len(results))
        mean = sum(map(level, results)) / len(results)
        return [Score(name="mean", value=mean, unit="level", range=(0.0, 255.0), better="higher")]


def level(result: Rendered) -> float:
    """0 to 255."""
    return ImageStat.Stat(result.image.convert("L")).mean[0]


def install(monkeypatch: pytest.MonkeyPatch, **facts: object) -> Bright:
    """A plug-in named `bright` that always opens the scorer that is given back."""
    module, scorer = ModuleType("outside_bright"), Bright()
    vars(module).update(Spec=Spec, build=lambda spec: scorer, **facts)
    monkeypatch.setitem(sys.modules, "outside_bright", module)
    inside = registry._outside
    monkeypatch.setattr(
        registry,
        "_outside",
        lambda group: {"bright": "outside_bright"} if group == "scorers" else inside(group),
    )
    return scorer


def asked(*gives: str, measures_only: bool = False, **settings: object) -> Asked:
    """What `--score bright` comes to."""
    recipe = {"name": "bright", "settings": settings}
    return Asked(
        name="bright",
        settings=settings,
        recipe=recipe,
        gives=gives or ("scores", "sets"),
        measures_only=measures_only,
    )


def scoring(*gives: str, **options: object) -> Scoring:
    """The scores of one run."""
    return Scoring(asked=(asked(*gives),), device="cpu", **options)  # type: ignore[arg-type]
