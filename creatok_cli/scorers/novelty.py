"""Novelty: how far a picture is from the pictures of a folder, in the space of a CLIP model.

With the unit embeddings b_i of the folder's pictures and e of the picture:

    novelty   1 - max_i cos(e, b_i)            0 for a copy; the note is the nearest picture
    outlying  share of the b_i whose own nearest neighbour is nearer than that
    cloud     1 - cos(e, mean of b)            distance to the middle of the folder's pictures

The folder is what the user wants to be different from: an output folder of plain prompts, the
pictures of earlier finds (then the nearest picture says which of them is nearest), references.
`outlying` needs no scale: above .95 a picture is farther out than the folder's own stragglers.

Does not: call far away good: noise is far from everything, so validity stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from creatok_cli.domain import Rendered, Score
from creatok_cli.errors import InputError
from creatok_cli.scorers._baseline import iter_pictures
from creatok_cli.scorers._towers import Towers, check_names

if TYPE_CHECKING:
    from torch import Tensor

GIVES = ("scores",)
MOST = 20_000
"""Pictures of a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Far from what, and which towers look."""

    baseline: str = ""
    """Folder of the pictures to be far from, with all folders inside it; required."""
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


def build(spec: Spec) -> NoveltyScorer:
    """Reads all towers and looks at all pictures of the folder.

    Raises InputError without a folder, or for one without pictures; ArtefactError where there are
    no such towers.
    """
    if not spec.baseline:
        raise InputError(
            "scorers: novelty needs baseline=..., a folder with the pictures to be different from"
        )
    return NoveltyScorer(spec)


class NoveltyScorer:
    """A Scorer."""

    def __init__(self, spec: Spec) -> None:
        self._towers = Towers(spec, who="novelty")
        names: list[str] = []
        parts: list[Tensor] = []
        found = islice(iter_pictures(Path(spec.baseline)), MOST + 1)
        while batch := list(islice(found, spec.rows)):
            names += [name for name, _ in batch]
            parts.append(self._towers.pictures([image for _, image in batch]).double())
        if not names or len(names) > MOST:
            what = f"more than {MOST:,} pictures" if names else "no picture"
            raise InputError(f"novelty: {spec.baseline}: there is {what} to be different from")
        self._names, self._known = names, torch.cat(parts)
        self._middle = normalize(self._known.mean(0), dim=0)
        self._gaps = self._own_gaps()

    def score(self, results: Sequence[Rendered]) -> list[Score]:
        """Distance to the nearest picture, one per result."""
        return [each[0] for each in self.figures(results)]

    def figures(self, results: Sequence[Rendered]) -> list[tuple[Score, ...]]:
        """All of the module's figures; `outlying` only beside two pictures or more."""
        if not results:
            return []
        seen = self._towers.pictures([result.image for result in results]).double()
        return [self._figures(row) for row in seen]

    def _figures(self, row: Tensor) -> tuple[Score, ...]:
        cosines = (self._known * row).sum(1)
        nearest = int(cosines.argmax())
        gap = min(2.0, max(0.0, 1 - float(cosines[nearest])))
        found = [
            _distance("novelty", gap, self._names[nearest].rpartition(".")[0]),
            _distance("cloud", 1 - float((self._middle * row).sum())),
        ]
        if len(self._gaps):
            share = float((self._gaps < gap).double().mean())
            found.insert(
                1,
                Score(
                    name="outlying",
                    value=share,
                    unit="share",
                    range=(0.0, 1.0),
                    better="higher",
                ),
            )
        return tuple(found)

    def _own_gaps(self) -> Tensor:
        """[n] distance of each picture of the folder to the nearest other one."""
        count = len(self._known)
        if count < 2:
            return torch.zeros(0, dtype=torch.float64)
        parts = []
        for start in range(0, count, 256):
            cosines = self._known[start : start + 256] @ self._known.T
            places = torch.arange(len(cosines))
            cosines[places, places + start] = -2
            parts.append(1 - cosines.max(1).values)
        return torch.cat(parts).clamp(0, 2)


def _distance(name: str, value: float, note: str = "") -> Score:
    return Score(
        name=name,
        value=min(2.0, max(0.0, value)),
        unit="cosine distance",
        range=(0.0, 2.0),
        better="higher",
        note=note,
    )
