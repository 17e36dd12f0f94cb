"""What a search for rare pictures is asked for, as terms of a loss per picture.

    rare      (max(0, q - d2) + max(0, d2 - q_hi)) / k      or literally  d2 -> infinity
    anchor    1 - min(cos(e, text), cap)
    beside    max(0, distance from the plane of the axes / its 95 % quantile - 1)
    toward    max(0, g95 - g),  away  max(0, g - g50),  g = cos(e - mu, m - mu)
    origin    max(0, kappa - cos(e, origin))
    known     max(0, max_c cos(e, text of class c) - its 90 % quantile)
    heading   max(0, 0.5 - cos(z, u)) in standard deviations z, u a direction of the seed's own

with quantiles of the baseline (methods notes, 4.2). All terms are bounded below, and zero when what
they ask for is there.

Deviates: the shell (S1), the capped cosine and the weights (S2), the direction (S4) and the guards
(S6) are the notes' where the paper is silent; `literal` is the published loss. `known` is ours: to
become one of the known classes is rare, too, but nothing new. `heading` is ours: without it all
strands find the same widest way out. `margin` raises q in the loss: where
single pictures are content with q, their median is not yet beyond it.

Does not: draw, or move anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from creatok_cli.methods._rarity import Baseline, Gaussian
from creatok_cli.methods.lowprob import Spec, parse_cap
from creatok_cli.seeds import generator

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from creatok_cli.backbones.base import PriorSide
    from creatok_cli.methods.base import Quest

HEADING = 0.5
"""Cosine to its heading with which a strand is content (set by eye); two strands' own are square to
each other, but for chance.
"""
MAX_PAIRS = 400
"""Baseline rows whose pairwise cosines give kappa."""


@dataclass(frozen=True, slots=True)
class Side:
    """A direction from the mean of the baseline to example pictures, and where along it to be."""

    direction: Tensor
    """[d] unit."""
    bound: float
    sign: float
    """1: be beyond the bound; -1: stay below it."""

    def misses(self, moved: Tensor) -> Tensor:
        """[b] how far rows [b d], less the mean, are on the wrong side."""
        along = functional.cosine_similarity(moved, self.direction[None], dim=1)
        return (self.sign * (self.bound - along)).clamp(min=0)


@dataclass(frozen=True, slots=True)
class Measured:
    """A set of embeddings in the numbers that a person reads: medians."""

    distance: float
    rarity: float
    cosine: float
    beside: float
    """In units of the baseline's 95 % quantile."""


class Aims:
    """The terms, and how a set of pictures stands to them."""

    def __init__(
        self, spec: Spec, baseline: Baseline, seen: Tensor, anchor: Tensor, device: str
    ) -> None:
        """`anchor` [d]: the prompt's text in the space of the pictures; `seen` [N d]: the plain
        pictures in that space, in colours, where `baseline` may be of grey ones.
        """
        self.spec, self.baseline = spec, baseline
        self.gaussian: Gaussian = baseline.gaussian.to(device)
        self.low, self.high = baseline.shell(spec.rarity)
        self.anchor = anchor.detach().float().to(device)
        cosines = seen.float().cpu() @ anchor.detach().float().cpu()
        cap = parse_cap(spec.anchor_cap)
        self.cap = float(cosines.median()) if cap is None else cap
        self.floor = float(torch.quantile(cosines, 0.05))
        self.sides: dict[str, Side] = {}
        self.origin: Tensor | None = None
        self.kappa = 0.0
        self.known: Tensor | None = None
        self.known_cap = 1.0
        self.heading: Tensor | None = None

    def show(self, quest: Quest, prior: PriorSide, *, grey: bool) -> tuple[str, ...]:
        """Take in the quest's pictures; what a person should know of them."""
        notices = []
        for name, images, share, sign in (
            ("toward", quest.toward, 0.95, 1.0),
            ("away", quest.away, 0.5, -1.0),
        ):
            if images:
                self.sides[name] = self._side(prior, images, share, sign, grey=grey)
            if 0 < len(images) < 3:
                notices.append(
                    f"{name}: {len(images)} picture{'s' if len(images) > 1 else ''} say little of "
                    "a direction; give at least 3"
                )
        if quest.origin is not None:
            row = prior.pictures([quest.origin], grey=grey)[0]
            self.origin = row.detach().float().to(self.anchor.device)
            rows = functional.normalize(self.baseline.rows[:MAX_PAIRS], dim=1)
            pairs = (rows @ rows.T)[torch.ones(len(rows), len(rows)).triu(1).bool()]
            self.kappa = float(torch.quantile(pairs, 0.25))
        return tuple(notices)

    def name(self, classes: Tensor, seen: Tensor) -> None:
        """Take in the texts [k d] of known classes that finds are not to become; `seen` [N d] as
        above.
        """
        rows = classes.detach().float()
        nearest = (seen.float().cpu() @ rows.cpu().T).max(dim=1).values
        self.known, self.known_cap = rows.to(self.anchor.device), float(nearest.quantile(0.9))

    def head(self, seed: int) -> None:
        """Take a direction among the axes from a seed."""
        drawn = torch.randn(self.baseline.axes, generator=generator(seed, "heading"))
        self.heading = functional.normalize(drawn, dim=0).to(self.anchor.device)

    def _side(
        self, prior: PriorSide, images: Sequence[Image], share: float, sign: float, *, grey: bool
    ) -> Side:
        mean = self.baseline.gaussian.mean
        seen = prior.pictures(images, grey=grey).detach().float().cpu().mean(dim=0)
        direction = functional.normalize(seen - mean, dim=0)
        along = functional.cosine_similarity(self.baseline.rows - mean, direction[None], dim=1)
        bound = float(torch.quantile(along, share))
        return Side(direction.to(self.anchor.device), bound, sign)

    def terms(self, seen: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """[b] each, unweighted, of embeddings [b d]: those of pictures in colours, and those in
        which rarity is measured.
        """
        distance = self.gaussian.distance(rows)
        if self.spec.loss == "literal":
            rare = -distance / 2
        else:
            wanted = self.low + self.spec.margin * (self.high - self.low)
            below, above = (wanted - distance).clamp(min=0), (distance - self.high).clamp(min=0)
            rare = (below + above) / self.baseline.axes
        beside = self.gaussian.beside(rows) / self.baseline.beside95
        found = {
            "rare": rare,
            "anchor": 1 - (seen @ self.anchor).clamp(max=self.cap),
            "beside": (beside - 1).clamp(min=0),
        }
        moved = rows - self.gaussian.mean
        found |= {name: side.misses(moved) for name, side in self.sides.items()}
        if self.origin is not None:
            found["origin"] = (self.kappa - rows @ self.origin).clamp(min=0)
        if self.known is not None:
            nearest = (seen @ self.known.T).max(dim=1).values
            found["known"] = (nearest - self.known_cap).clamp(min=0)
        if self.heading is not None:
            spots = self.gaussian.places(rows, self.baseline.axes)
            along = functional.cosine_similarity(spots, self.heading[None], dim=1)
            found["heading"] = (HEADING - along).clamp(min=0)
        return found

    def loss(self, terms: Mapping[str, Tensor], anchor_scale: float) -> Tensor:
        """[b] the weighted sum."""
        spec = self.spec
        weights = {
            "rare": 1.0,
            "anchor": spec.anchor * anchor_scale,
            "beside": spec.beside,
            "toward": spec.direction,
            "away": spec.direction,
            "origin": spec.origin,
            "known": spec.known,
            "heading": spec.heading,
        }
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum(dim=0)

    def measure(self, seen: Tensor, rows: Tensor) -> Measured:
        """Of embeddings [b d], as in `terms`."""
        distance = float(self.gaussian.distance(rows).median())
        return Measured(
            distance=distance,
            rarity=self.baseline.rarity(distance),
            cosine=float((seen @ self.anchor).median()),
            beside=float((self.gaussian.beside(rows) / self.baseline.beside95).median()),
        )

    def off_middle(self, distance: float) -> float:
        """How far a median d2 is from the middle of the shell: what is near its edge for some seeds
        lies outside for others. Without a bound the rarer is the better.
        """
        if self.spec.loss == "literal":
            return -distance
        return abs(distance - (self.low + self.high) / 2)

    def violation(self, distance: float) -> float:
        """How far a median d2 is from the shell; 0 inside."""
        over = 0.0 if self.spec.loss == "literal" else max(0.0, distance - self.high)
        return max(0.0, self.low - distance) + over
