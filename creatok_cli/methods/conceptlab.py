"""ConceptLab: a word whose pictures are like some things and unlike others.

    L = mean_i (1 - min(cos(e, P_i), cap_i)) + (mean_j v_j + max_j v_j) / 2,
    v_j = max(cos(e, N_j), floor_j)

over pictures e of the word as a base's prior draws them, texts P_i of what it is to resemble and
N_j of what it is not (Richardson et al., ACM TOG 2024, arXiv 2308.02669; methods notes, section 5).
Several P_i and no N_j is mixing; with `adaptive` a labeler names what it sees from time to time and
that becomes an N_j; pictures are parents, to be resembled evenly.

Does not: import torch before it is built; draw full pictures, label, or store anything.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from creatok_cli.methods._ranges import (
    MAX_VECTORS,
    check_counts,
    check_name,
    check_rates,
    check_weights,
)

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone
    from creatok_cli.methods._conceptlab import ConceptLab
    from creatok_cli.methods.base import Quest, Step

NEEDS = ("text", "prior", "image", "labels")
VERBS = ("explore",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults are the released code's where it says something; methods notes, section 5."""

    name: str = "conceptlab"
    """Stem of the new word: prompts use it as `<conceptlab>`."""
    templates: tuple[str, ...] = (
        "a photo of a {word}",
        "a good photo of a {word}",
        "a close-up photo of a {word}",
        "a photo of one {word}",
        "a photo of a small {word}",
        "a drawing of a {word}",
    )
    """One is drawn for each step, for the word and the constraints alike; the first travels with
    the token.
    """
    cap: str = "auto"
    """Cosine to a positive above which nothing more is gained: a number (0.28 in the release, for
    CLIP ViT-L/14), or `auto`: the median of its own plain pictures.
    """
    floor: str = "auto"
    """Cosine to a negative below which nothing more is gained: a number (0.20 in the release), or
    `auto`: the median of pictures of other classes.
    """
    positive: float = 1.0
    """Weight of what is to be resembled."""
    negative: float = 1.0
    parents: float = 1.0
    """Weight of pictures to be resembled."""
    init: str = ""
    """The word or words whose rows it starts from; empty: the first positive, else the subject."""
    vectors: int = 1
    rows: Literal["free", "words"] = "free"
    """`words` keeps vectors weighted means of known words' rows: the init and the classes of the
    quest.
    """
    grip: float = 4.0
    """With `words`: the logit of the init at the start; the others' is 0."""
    norm: Literal["free", "shell"] = "free"
    """`shell` keeps every vector at the length it starts with."""
    spread: float = 0.0
    """How far starts are moved at random, in their own lengths, or in logits with `words`: strands
    then differ from step 0.
    """
    steps: int = 1000
    batch: int = 1
    """Seeds per step."""
    lr: float = 1e-4
    adaptive: bool = False
    """Whether what a labeler sees becomes a negative."""
    ask_every: int = 250
    """Steps between two questions to the labeler."""
    most: int = 12
    """Negatives, given and found."""
    same: float = 0.95
    """Texts with a higher cosine are one negative."""
    classes: int = 48
    """Classes whose plain pictures say what is usual, for `auto`."""
    plain: int = 16
    """Plain pictures of each positive, for `auto`."""
    check_every: int = 250
    accept: float = 0.5
    """The probability of yes from which a state is accepted; the last accepted one is the find, or
    the last of all where none was.
    """
    fresh: int = 4
    """Seeds of a check, always the same and never trained on."""
    proposals: int = 1
    """Full pictures of a check."""
    question: str = "Is this a picture of a {subject}? Answer yes or no."
    ask: str = "What kind of {subject} is in this photo?"

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.templates or any(each.count("{word}") != 1 for each in self.templates):
            raise ValueError('templates are texts with one "{word}" each')
        check_counts(
            self,
            ("vectors", 1, MAX_VECTORS),
            ("steps", 1, 1_000_000),
            ("batch", 1, 256),
            ("ask_every", 1, 1_000_000),
            ("most", 1, 256),
            ("classes", 2, 1000),
            ("plain", 1, 1000),
            ("check_every", 1, 1_000_000),
            ("fresh", 2, 256),
            ("proposals", 1, 64),
        )
        check_weights(
            self,
            positive=1e3,
            negative=1e3,
            parents=1e3,
            spread=10.0,
            grip=50.0,
            accept=1.0,
            same=1.0,
        )
        check_rates(self, "lr")
        for name in ("cap", "floor"):
            parse_bound(getattr(self, name), name)


def build(spec: Spec) -> ConceptLab:
    """The method."""
    from creatok_cli.methods._conceptlab import ConceptLab

    return ConceptLab(spec)


def prepare(
    spec: Spec, backbone: Backbone, quest: Quest, *, seed: int = 0
) -> Generator[Step, None, Mapping[str, Tensor]]:
    """What all strands share: embeddings of plain pictures, of which the bounds are medians. The
    same for every seed. Raises InputError for a base without a prior.
    """
    from creatok_cli.methods._likeness import draw_usual

    return draw_usual(spec, backbone, quest)


def prepared_facts(spec: Spec, quest: Quest) -> dict[str, Any]:
    """What the result of `prepare` depends on, besides the base."""
    from creatok_cli.methods._likeness import positives_of, sampled

    return {
        "method": "conceptlab",
        "version": 1,
        "template": spec.templates[0],
        "classes": list(sampled(quest.classes, spec.classes)),
        "positives": list(positives_of(quest)),
        "plain": spec.plain,
    }


def parse_bound(text: str, name: str) -> float | None:
    """A cosine, or None for `auto`. Raises ValueError."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise ValueError(f"{name} is auto or a cosine from -1 to 1")
    return value
