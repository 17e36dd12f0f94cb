"""Diversity: how different the pictures of a set are, in the space of a CLIP model.

`diversity` is the mean cosine distance over all pairs; `vendi` the effective number of different
pictures, of the kernel of cosines (Friedman and Dieng 2022, arXiv 2210.02410); `vendi share` that
number over the number of pictures, so that sets of other sizes can be compared a little.

Deviates: of more than 300 pictures an even selection of 300 counts, in the order given (methods
notes, 8: n <= 300).

Does not: say anything of a single picture, or know which differences a person would see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from creatok_cli.domain import Rendered, Score
from creatok_cli.scorers._diverse import cosine_distances, mean_pairwise, vendi
from creatok_cli.scorers._towers import Towers, check_names

GIVES = ("sets",)
MOST = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which towers look."""

    folder: str = ""
    """Of the model; required."""
    image: tuple[str, ...] = ("image_encoder_l",)
    """Folders of the image towers inside it; an empty name for the folder itself."""
    words: tuple[str, ...] = ("text_encoder",)
    """Of the text towers, one for each image tower."""
    tokenizer: tuple[str, ...] = ("tokenizer",)
    rows: int = 64
    """Pictures that go through a tower together."""

    def __post_init__(self) -> None:
        check_names(self)


def build(spec: Spec) -> DiversityScorer:
    """Reads all towers. Raises InputError without a folder, ArtefactError where the folder has no
    such towers.
    """
    return DiversityScorer(Towers(spec, who="diversity"))


class DiversityScorer:
    """A SetScorer."""

    def __init__(self, towers: Towers) -> None:
        self._towers = towers

    def score_set(self, results: Sequence[Rendered]) -> list[Score]:
        """Mean distance, Vendi score and its share; one picture is 0 apart from itself."""
        if not results:
            return []
        count = min(len(results), MOST)
        chosen = [results[place * len(results) // count] for place in range(count)]
        apart = cosine_distances(self._towers.pictures([each.image for each in chosen]))
        number = min(max(vendi(1 - apart), 1.0), float(count))
        return [
            Score(
                name="diversity",
                value=mean_pairwise(apart),
                unit="cosine distance",
                range=(0.0, 2.0),
                better="higher",
            ),
            Score(
                name="vendi",
                value=number,
                unit="pictures",
                range=(1.0, float(count)),
                better="higher",
                note=f"of {count}",
            ),
            Score(
                name="vendi share",
                value=number / count,
                unit="share",
                range=(0.0, 1.0),
                better="higher",
            ),
        ]
