"""What a metric does: scores pictures, sets of them, or labels what they show; which may teach.

A scorer module has `GIVES` (some of `scores`, `sets`, `labels`), `Spec` and `build(spec)`. Figures
have three places: `score` gives the one figure of a picture that stands below it; `figures`, which
a scorer may have beside it, gives all that it knows of a picture, that one first; `score_set` gives
what no single picture has, such as the diversity of the pictures of one job. One that says
`MEASURES_ONLY = True` measures results and never steers them: a method that could see its answers
would learn to please the measure. Workflows get whatever answers a method through
`build_teacher`, which refuses such scorers by name, before anything of theirs is read.

Does not: know any concrete scorer, or read pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from creatok_cli import registry
from creatok_cli.config import build_spec
from creatok_cli.domain import Labels, Rendered, Score
from creatok_cli.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class Scorer(Protocol):
    """One figure per picture."""

    def score(self, results: Sequence[Rendered]) -> list[Score]:
        """One Score per result, in order; each depends on its own result alone."""


@runtime_checkable
class SetScorer(Protocol):
    """Figures of several pictures together."""

    def score_set(self, results: Sequence[Rendered]) -> list[Score]:
        """Figures of the whole set, the most telling first; none for no pictures. Order and
        repetition of calls change nothing beyond rounding.
        """


def figures(scorer: Scorer, results: Sequence[Rendered]) -> list[tuple[Score, ...]]:
    """All figures of each result, in order, by `figures` of the scorer, else by `score`."""
    own = getattr(scorer, "figures", None)
    if own is not None:
        return [tuple(each) for each in own(results)]
    return [(each,) for each in scorer.score(results)]


@runtime_checkable
class Labeler(Protocol):
    """What pictures show."""

    def label(
        self, images: Sequence[Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """One Labels per picture, in order: probabilities over `classes` (or over all that the
        labeler knows, where none are named), or free words.

        Raises UnknownName for a class that the labeler cannot know.
        """


def build_teacher(name: str, settings: Mapping[str, Any], *, where: str = "--set") -> Any:
    """The scorer or labeler of that name, for a Feedback: its answers go back to a method.

    Raises InputError for one that only measures, UnknownName for one that does not exist.
    """
    check_teacher(name)
    module = registry.get("scorers", name)
    refuse_measures_only(module, name)
    return module.build(build_spec(module.Spec, settings, where=where))


def check_teacher(name: str) -> None:
    """Raise InputError for a scorer that only measures, before anything of it is imported;
    UnknownName for one that does not exist.
    """
    if registry.describe("scorers", name).facts.get("MEASURES_ONLY"):
        raise InputError(_refusal(name))


def refuse_measures_only(module: ModuleType, name: str) -> None:
    """Raise InputError if a scorer's module says MEASURES_ONLY, in whatever way it says it."""
    if getattr(module, "MEASURES_ONLY", False):
        raise InputError(_refusal(name))


def _refusal(name: str) -> str:
    return (
        f"scorers: {name} only measures: what it says may never reach a method, or the measure "
        "would be worth nothing; choose another labeler"
    )
