"""What a labeler sees in a picture, and how far that is from anything it knows.

With the labeler's probabilities p over the classes:

    labels   max_c p_c            the note names the class; low where no class owns the picture
    novelty  1 - max_c p_c
    entropy  -sum_c p_c ln p_c    nats; e to it is the number of classes that the picture is torn
                                  between

The labeler is `clip` over a base's own towers or a CLIP model in a folder, or `blip`. Doubt and
novelty look alike here: noise is torn between all classes, too, so `clip` belongs beside it. Lower
is better because what is looked for is what has no name yet.

Does not: let a labeler that only measures answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from creatok_cli import registry
from creatok_cli.domain import Labels, Rendered, Score
from creatok_cli.errors import InputError
from creatok_cli.scorers.base import Labeler, build_teacher, check_teacher

if TYPE_CHECKING:
    from PIL.Image import Image

GIVES = ("scores", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which labeler answers, and among which classes; it takes the settings that it knows.

    Raises InputError for a labeler that only measures, UnknownName for one that does not exist.
    """

    labeler: str = "clip"
    classes: tuple[str, ...] = ()
    """At least two; required."""
    folder: str = ""
    """Of the labeler's model; required."""
    image: tuple[str, ...] = ("image_encoder_l",)
    """Folders of the image towers inside it, for clip; an empty name for the folder itself."""
    words: tuple[str, ...] = ("text_encoder",)
    """Of the text towers, one for each image tower."""
    tokenizer: tuple[str, ...] = ("tokenizer",)
    question: str = ""
    """What blip is asked; empty for its own."""
    temperature: float = 1.0
    """Divides the logits: above 1 flatter, below 1 sharper."""
    rows: int = 64
    """What goes through the model together."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) == 1:
            raise ValueError("classes are two names or more, each once")
        check_teacher(self.labeler)
        gives = registry.describe("scorers", self.labeler).facts.get("GIVES", ("labels",))
        if self.labeler == "labels" or "labels" not in gives:
            raise ValueError(f"{self.labeler} is no labeler; choose clip or blip")


def build(spec: Spec) -> LabelScorer:
    """Opens the labeler. Raises InputError without classes, ArtefactError without its model."""
    if not spec.classes:
        raise InputError("scorers: labels needs classes=..., the names to choose from")
    known = registry.describe("scorers", spec.labeler).spec
    values = {name: value for name, value in asdict(spec).items() if name in known}
    if not spec.question:
        values.pop("question", None)
    return LabelScorer(spec, build_teacher(spec.labeler, values, where="labels"))


class LabelScorer:
    """A Scorer and a Labeler."""

    def __init__(self, spec: Spec, labeler: Labeler) -> None:
        self._spec, self._labeler = spec, labeler

    def score(self, results: Sequence[Rendered]) -> list[Score]:
        """The largest probability, one per result."""
        return [each[0] for each in self.figures(results)]

    def figures(self, results: Sequence[Rendered]) -> list[tuple[Score, ...]]:
        """All of the module's figures."""
        seen = self.label([result.image for result in results])
        return [_figures(labels) for labels in seen]

    def label(
        self, images: Sequence[Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """What the labeler says, over the Spec's classes where none are named."""
        if not images:
            return []
        asked = question or self._spec.question
        return self._labeler.label(images, classes=classes or self._spec.classes, question=asked)


def _figures(labels: Labels) -> tuple[Score, ...]:
    name, top = max(labels.probabilities, key=lambda pair: pair[1])
    torn = math.fsum(-p * math.log(p) for _, p in labels.probabilities if p > 0)
    most = math.log(max(2, len(labels.probabilities)))
    top = min(1.0, max(0.0, top))
    share, ends = "probability", (0.0, 1.0)
    return (
        Score(name="labels", value=top, unit=share, range=ends, better="lower", note=name),
        Score(name="novelty", value=1 - top, unit=share, range=ends, better="higher"),
        Score(
            name="entropy",
            value=min(most, max(0.0, torn)),
            unit="nats",
            range=(0.0, most),
            better="higher",
        ),
    )
