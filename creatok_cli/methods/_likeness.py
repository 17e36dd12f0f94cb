"""What a word's pictures are to be like and unlike, as terms of a loss per picture.

    like      mean_i (1 - min(cos(e, P_i), cap_i))
    unlike    (mean_j v_j + max_j v_j) / 2,   v_j = max(cos(e, N_j), floor_j)
    parents   1 - mean_i cos(e, picture_i)

The clamps end the pull where a picture is as much like P_i as plain pictures of P_i are, and the
push where it is as little like N_j as pictures of other things are (methods notes, section 5).

Deviates: cap and floor are medians of the base's own pictures (K3), one for each text; the cap is
the larger of two medians, of plain pictures of P_i and of the classes, because a base may draw the
members of a kind better than the kind.

Does not: move anything, or choose negatives.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from creatok_cli.errors import InputError
from creatok_cli.methods._workers import workers
from creatok_cli.methods.base import Quest, Step
from creatok_cli.methods.conceptlab import Spec, parse_bound
from creatok_cli.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone, PriorSide

KNOWN, OWN = "known", "own"
"""Names of what is prepared: pictures of classes [m d], and of the positives [i n d]."""
ROWS = 8
"""Plain pictures that are drawn together."""
_ARTICLE = re.compile(r"^(?:an?|the|some)\s+", re.IGNORECASE)


def bare(words: str) -> str:
    """A phrase as templates take it: lower case, without its article."""
    return _ARTICLE.sub("", words.strip().rstrip(".").lower()).strip()


def positives_of(quest: Quest) -> tuple[str, ...]:
    """What is to be resembled in words: as given, else the subject where nothing else is said."""
    found = tuple(dict.fromkeys(bare(each) for each in quest.like))
    if found or (quest.toward and not quest.unlike):
        return found
    return (bare(quest.subject),) if quest.subject.strip() else ()


def sampled(classes: Sequence[str], most: int) -> tuple[str, ...]:
    """At most so many classes, evenly over the list."""
    count = min(most, len(classes))
    return tuple(classes[at * len(classes) // count] for at in range(count))


def draw_usual(
    spec: Spec, backbone: Backbone, quest: Quest
) -> Generator[Step, None, Mapping[str, Tensor]]:
    """`known` [m d]: a plain picture of each of some classes; `own` [i n d]: of each positive."""
    text, prior = backbone.text, backbone.prior
    if text is None or prior is None:
        raise InputError(f"base {backbone.facts.name} has no prior to search with")
    classes, positives = sampled(quest.classes, spec.classes), positives_of(quest)
    asked = [(name, derive(0, "usual", name)) for name in classes]
    asked += [
        (name, derive(0, "usual", name, at)) for name in positives for at in range(spec.plain)
    ]
    prompts = {name: spec.templates[0].replace("{word}", name) for name, _ in asked}
    with torch.no_grad():
        conds = {name: text.encode([prompt], []) for name, prompt in prompts.items()}

    def embed(part: Sequence[tuple[str, int]]) -> Tensor:
        with torch.no_grad():
            # One by one: the bytes then do not depend on what else is asked.
            found = [prior.sample(conds[name], seeds=[seed]) for name, seed in part]
        return torch.cat(found).float().cpu()

    parts = [asked[start : start + ROWS] for start in range(0, len(asked), ROWS)]
    rows: list[Tensor] = []
    with workers(backbone) as side_by_side:
        for start in range(0, len(parts), side_by_side.count):
            rows += side_by_side.map(embed, parts[start : start + side_by_side.count])
            yield Step(index=sum(len(each) for each in rows), total=len(asked))
    drawn = torch.cat(rows) if rows else torch.zeros(0, prior.width)
    own = drawn[len(classes) :].reshape(len(positives), spec.plain, drawn.shape[1])
    return {KNOWN: drawn[: len(classes)], OWN: own}


class Likeness:
    """Texts, their bounds, and parents. Negatives may be added."""

    def __init__(
        self, spec: Spec, prior: PriorSide, quest: Quest, usual: Mapping[str, Tensor], device: str
    ) -> None:
        self._spec, self._prior, self._device = spec, prior, device
        self._known = usual[KNOWN].to(device)
        self._classes = sampled(quest.classes, spec.classes)
        if len(self._known) != len(self._classes):
            raise InputError("what was prepared belongs to other classes")
        self.positives = positives_of(quest)
        self.negatives: tuple[str, ...] = ()
        self._texts: dict[str, Tensor] = {}
        self._caps = self._caps_of(usual[OWN].to(device))
        self._floors = torch.zeros(0, device=device)
        for words in quest.unlike:
            self.avoid(bare(words))
        self.parents = None
        if quest.toward:
            self.parents = prior.pictures(quest.toward).float().to(device)

    @property
    def caps(self) -> dict[str, float]:
        """Cosine at which a positive is satisfied."""
        return dict(zip(self.positives, self._caps.tolist(), strict=True))

    @property
    def floors(self) -> dict[str, float]:
        """Cosine at which a negative is."""
        return dict(zip(self.negatives, self._floors.tolist(), strict=True))

    def avoid(self, words: str) -> None:
        """One negative more."""
        text = self._text(0, words)
        given = parse_bound(self._spec.floor, "floor")
        if given is None:
            others = [at for at, name in enumerate(self._classes) if name != words]
            if not others:
                raise InputError(
                    "floor: auto needs a class list with other things in it; give a number"
                )
            given = float((self._known[others] @ text).median())
        self.negatives = (*self.negatives, words)
        self._floors = torch.cat([self._floors, torch.tensor([given], device=self._device)])

    def is_near(self, words: str) -> bool:
        """Whether a text means what a constraint says already."""
        text = self._text(0, words)
        known = [self._text(0, each) for each in (*self.positives, *self.negatives)]
        return any(float(each @ text) > self._spec.same for each in known)

    def terms(self, rows: Tensor, template: int) -> dict[str, Tensor]:
        """[b] per term, for unit rows [b d] of pictures drawn with that template."""
        found: dict[str, Tensor] = {}
        if self.positives:
            cosines = rows @ self._stack(template, self.positives).T
            found["like"] = (1 - cosines.minimum(self._caps)).mean(dim=1)
        if self.negatives:
            cosines = rows @ self._stack(template, self.negatives).T
            clamped = cosines.maximum(self._floors)
            found["unlike"] = (clamped.mean(dim=1) + clamped.amax(dim=1)) / 2
        if self.parents is not None:
            found["parents"] = 1 - (rows @ self.parents.T).mean(dim=1)
        return found

    def loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        """[b] their weighted sum."""
        spec = self._spec
        weights = {"like": spec.positive, "unlike": spec.negative, "parents": spec.parents}
        return torch.stack([weights[name] * each for name, each in terms.items()]).sum(dim=0)

    def cosines(self, rows: Tensor) -> dict[str, float]:
        """Mean cosine of rows [b d] to every text, by its words."""
        words = (*self.positives, *self.negatives)
        if not words:
            return {}
        means = (rows @ self._stack(0, words).T).mean(dim=0).tolist()
        return dict(zip(words, means, strict=True))

    def _caps_of(self, own: Tensor) -> Tensor:
        given = parse_bound(self._spec.cap, "cap")
        if given is not None:
            return torch.full((len(self.positives),), given, device=self._device)
        if len(own) != len(self.positives):
            raise InputError("what was prepared belongs to other words")
        found = []
        for words, rows in zip(self.positives, own, strict=True):
            text = self._text(0, words)
            usual = (rows @ text).median()
            if len(self._known):
                # A word for a whole kind may itself be drawn badly: its members are, too.
                usual = usual.maximum((self._known @ text).median())
            found.append(usual)
        return torch.stack(found) if found else torch.zeros(0, device=self._device)

    def _stack(self, template: int, words: Sequence[str]) -> Tensor:
        return torch.stack([self._text(template, each) for each in words])

    def _text(self, template: int, words: str) -> Tensor:
        """[d] unit embedding of words in a template, kept."""
        prompt = self._spec.templates[template].replace("{word}", words)
        if prompt not in self._texts:
            with torch.no_grad():
                found = self._prior.texts([prompt])[0].float().to(self._device)
            self._texts[prompt] = functional.normalize(found, dim=0)
        return self._texts[prompt]
