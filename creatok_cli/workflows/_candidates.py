"""Candidates of an exploration: their pictures labelled, and which of them are worth keeping.

What the labels say decides what counts as found (`methods.distok.view`); of that the best and most
different are picked. Quality is how surely all pictures of a candidate show one creature, one that
the other candidates do not show, and no known one:

    quality = mean cosine among its own pictures - mean cosine to those of the others
              + (1 - max_c p_c) / 2

in the space of the labeler's own CLIP towers; of two candidates the mean cosine of their pictures
says how different they are. A labeler without towers (BLIP) leaves the labels: 1 - JSD / ln 2
within, JSD / ln 2 between.

Does not: draw, store, or ask a judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli.methods.distok import view
from creatok_cli.sinks import manifest
from creatok_cli.tokens.file import TokenHeader
from creatok_cli.tokens.token import Rows
from creatok_cli.workflows._reading import finished_picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from creatok_cli.methods.distok import Spec
    from creatok_cli.scorers.base import Labeler

MISSING = "missing"
"""The fault of a candidate of which no picture could be drawn."""
DIFFERENCE, NOVELTY = 0.5, 0.5
"""What a mean distance of 1 to the other finds, and a novelty of 1, are worth in quality (set by
eye).
"""
TOP = 8
"""Classes of a candidate that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A latent as a token that is not stored yet."""

    index: int
    name: str
    latent: tuple[float, ...]
    rows: Mapping[str, Rows]
    token: bytes
    """Its file, as its pictures are drawn with."""
    header: TokenHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate whose pictures were looked at."""

    candidate: Candidate
    fault: str
    """Why it is no find: `known`, `junk`, `unsteady` or `missing`; empty for what could be one."""
    top: tuple[tuple[str, float], ...] = ()
    """What the labeler sees, the largest share first."""
    novelty: float = 0.0
    """1 - the share of the largest class."""
    spread: float = 0.0
    apart: float = 0.0
    """See `methods.distok.View`."""
    quality: float = 0.0
    picture: Image | None = None
    """Of its first seed."""
    is_picked: bool = False

    @property
    def looks_like(self) -> str:
        """`sheep 41 %, snake 22 %`."""
        return ", ".join(f"{name} {share:.0%}" for name, share in self.top[:2])


def judge(
    candidates: Sequence[Candidate],
    folder: Path,
    labeler: Labeler,
    *,
    classes: Sequence[str],
    question: str,
    rules: Spec,
    pick: int,
) -> tuple[Judged, ...]:
    """Every candidate with what its pictures in an output folder show, in order; up to `pick` of
    them are picked.

    Raises ArtefactError and whatever else the labeler raises.
    """
    pictures = read_pictures(candidates, folder)
    there = [each for each in candidates if pictures[each.header.id]]
    images = [image for each in there for image in pictures[each.header.id]]
    labels = labeler.label(images, classes=classes, question=question) if images else []
    rows = [[share for _, share in each.probabilities] for each in labels]
    owners = [place for place, one in enumerate(there) for _ in pictures[one.header.id]]
    alike = likeness(labeler, images, rows, owners)
    found: dict[str, Judged] = {}
    for place, one in enumerate(there):
        own = [row for row, owner in zip(rows, owners, strict=True) if owner == place]
        seen = view(own)
        ranked = sorted(zip(classes, seen.shares, strict=True), key=lambda pair: -pair[1])
        others = [float(alike[place, at]) for at in range(len(there)) if at != place]
        separation = float(alike[place, place]) - math.fsum(others) / max(1, len(others))
        found[one.name] = Judged(
            candidate=one,
            fault=seen.fault(rules),
            top=tuple(ranked[:TOP]),
            novelty=1 - seen.top,
            spread=seen.spread,
            apart=seen.apart,
            quality=separation + NOVELTY * (1 - seen.top),
            picture=pictures[one.header.id][0],
        )
    chosen = picked(there, found, alike, pick)
    return tuple(
        replace(found[each.name], is_picked=each.name in chosen)
        if each.name in found
        else Judged(candidate=each, fault=MISSING)
        for each in candidates
    )


def picked(
    there: Sequence[Candidate], found: Mapping[str, Judged], alike: Tensor, count: int
) -> set[str]:
    """The names of the best and most different of those without a fault."""
    from creatok_cli.scorers._diverse import greedy_pick

    places = [place for place, each in enumerate(there) if not found[each.name].fault]
    quality = [found[there[place].name].quality for place in places]
    apart = 1 - alike[places][:, places]
    apart.fill_diagonal_(0)
    return {there[places[at]].name for at in greedy_pick(quality, apart, count, DIFFERENCE)}


def read_pictures(candidates: Sequence[Candidate], folder: Path) -> dict[str, tuple[Image, ...]]:
    """The finished pictures of every candidate, by the id of its token, in the order of seeds."""
    found: dict[str, list[Image]] = {each.header.id: [] for each in candidates}
    lines = manifest.read(folder).by_file.values()
    for line in sorted(lines, key=lambda line: (line.seed, line.file)):
        for identity in line.tokens.values():
            if line.status == "done" and identity in found:
                found[identity].append(finished_picture(folder, line.file))
    return {identity: tuple(images) for identity, images in found.items()}


def likeness(
    labeler: Labeler,
    images: Sequence[Image],
    rows: Sequence[Sequence[float]],
    owners: Sequence[int],
) -> Tensor:
    """[n n] f64: how alike the pictures of every two candidates are; on the diagonal those of one
    among themselves (1 for a single picture). `owners` says whose each picture is.
    """
    import torch

    count = max(owners, default=-1) + 1
    embed = getattr(labeler, "pictures", None)
    if not images:
        return torch.zeros(0, 0, dtype=torch.float64)
    table = embed(images).double() if callable(embed) else None
    pairs = table @ table.T if table is not None else 1 - _divergences(rows) / math.log(2)
    member = torch.nn.functional.one_hot(torch.tensor(owners), count).double()
    sums, sizes = member.T @ pairs @ member, member.sum(0)
    found = sums / (sizes[:, None] * sizes)
    own = (sums.diagonal() - (member.T @ pairs.diagonal())) / (sizes * (sizes - 1)).clamp_min(1)
    return found.diagonal_scatter(torch.where(sizes > 1, own, torch.ones_like(own)))


def _divergences(rows: Sequence[Sequence[float]]) -> Tensor:
    """[m m] JSD in nats."""
    import torch

    table = torch.tensor(rows, dtype=torch.float64)
    entropy = torch.special.entr(table).sum(1)
    middle = (table[:, None] + table[None]) / 2
    found = torch.special.entr(middle).sum(2) - (entropy[:, None] + entropy[None]) / 2
    apart: Tensor = found.clamp_min(0)
    return apart
