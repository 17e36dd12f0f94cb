"""Embeddings of many pictures of a plain prompt: what a search for rare ones starts from.

Does not: say what is rare among them (`_rarity.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch

from creatok_cli.errors import InputError
from creatok_cli.methods._colours import mean_colours
from creatok_cli.methods._workers import workers
from creatok_cli.methods.base import Quest, Step
from creatok_cli.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone, Conditioning, PriorSide
    from creatok_cli.methods.lowprob import Spec

ROWS = 8
"""Plain pictures that are drawn together."""
COLOURED, COLOUR_STEPS = 256, 10
"""Pictures whose colours are looked at where a prior has none of its own, and their steps: colours
need no more.
"""


def is_grey(spec: Spec, prior: PriorSide) -> bool:
    """Whether colours are left out: only where the prior has pictures."""
    return spec.colours == "ignore" and prior.route == "pixels"


class Painter(Protocol):
    """A prior of the route `pixels`: what it embeds are pictures."""

    def looks(self, cond: Conditioning, *, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[b d] twice: in colours, and grey."""


def looks(
    prior: PriorSide, cond: Conditioning, seeds: Sequence[int], *, grey: bool
) -> tuple[Tensor, Tensor]:
    """[b d] f32 as the prior gives them, and as rarity looks at them: grey, or the same."""
    if grey:
        seen, looked = cast("Painter", prior).looks(cond, seeds=seeds)
        return seen.float(), looked.float()
    rows = prior.sample(cond, seeds=seeds).float()
    return rows, rows


def draw_plain(
    spec: Spec, backbone: Backbone, quest: Quest
) -> Generator[Step, None, Mapping[str, Tensor]]:
    """`embeddings` [N d] of the quest's prompt, and `grey` [N d] where the prior has pictures, else
    `colours` [M 3] of the first ones, drawn for that; one Step per chunk.
    """
    text, prior = backbone.text, backbone.prior
    if text is None or prior is None:
        raise InputError(f"base {backbone.facts.name} has no prior to search with")
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        cond = text.encode([quest.prompt], [])
    chunks = [
        [derive(0, "baseline", at) for at in range(start, min(start + ROWS, spec.baseline))]
        for start in range(0, spec.baseline, ROWS)
    ]
    has_pictures = prior.route == "pixels"

    def embed(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            seen, looked = looks(prior, cond, seeds, grey=has_pictures)
        return seen.cpu(), looked.cpu()

    with workers(backbone) as side_by_side:
        for group in _groups(chunks, side_by_side.count):
            found += side_by_side.map(embed, group)
            yield Step(index=sum(len(rows) for rows, _ in found), total=spec.baseline)
    plain = {"embeddings": torch.cat([rows for rows, _ in found])}
    if has_pictures:
        return plain | {"grey": torch.cat([rows for _, rows in found])}
    if backbone.image is None:
        return plain
    coloured: list[Tensor] = []
    for seeds in chunks[: -(-COLOURED // ROWS)]:
        coloured.append(_colours(backbone, cond, seeds))
        yield Step(index=spec.baseline, total=spec.baseline)
    return plain | {"colours": torch.cat(coloured)}


def _colours(backbone: Backbone, cond: Conditioning, seeds: Sequence[int]) -> Tensor:
    """[b 3] mean colours of pictures whose embeddings the prior draws from the same seeds."""
    side, facts = backbone.image, backbone.facts
    assert side is not None
    with torch.no_grad():
        for latents in side.denoise(  # noqa: B007 - the last one is the picture
            side.noise(seeds, facts.size_px),
            cond.rows([0] * len(seeds)),
            negative=None,
            steps=COLOUR_STEPS,
            guidance=1.0,
            scheduler=facts.schedulers[0],
            options=(),
            seeds=seeds,
        ):
            pass
        return mean_colours(side.decode(latents)).cpu()


def _groups(chunks: Sequence[list[int]], count: int) -> Iterator[Sequence[list[int]]]:
    for start in range(0, len(chunks), count):
        yield chunks[start : start + count]
