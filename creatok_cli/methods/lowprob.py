"""Low-probability exploration: creatures from the rare edge of what a plain prompt gives.

Embeddings of many plain pictures make a Gaussian; a new word, or a LoRA, is moved until its own
pictures lie in a chosen shell of it, while an anchor keeps them what the prompt names and a
validator is asked from time to time, with a pullback to the last state that it accepted (Song &
Elgammal 2026, arXiv 2601.22125; the recipe is in the methods notes, section 4). The gradient runs
through a base's prior: a prior network, or a draw of few steps seen by the base's image towers.

Does not: import torch before it is built; draw full pictures, validate, or store anything.
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
    from creatok_cli.methods._lowprob import LowProb
    from creatok_cli.methods.base import Quest, Step

NEEDS = ("text", "prior", "image", "labels")
VERBS = ("explore",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults are the paper's where it says something; see the methods notes, section 4."""

    name: str = "lowprob"
    """Stem of the new word: prompts use it as `<lowprob>`."""
    rarity: float = 0.999
    """The share of plain pictures that finds are to be rarer than."""
    train: Literal["token", "lora", "both"] = "token"
    place: Literal["subject", "adjective"] = "subject"
    """Whether the word stands for the subject, or before it."""
    init: str = ""
    """The word or words whose rows it starts from; empty: the subject."""
    vectors: int = 1
    rows: Literal["free", "words"] = "free"
    """`words` keeps vectors weighted means of known words' rows: the init and the classes of the
    quest.
    """
    grip: float = 4.0
    """With `words`: the logit of the init at the start; the others' is 0."""
    norm: Literal["free", "shell"] = "free"
    """`shell` keeps every vector at the length it starts with: growth is no novelty."""
    spread: float = 0.0
    """How far starts are moved at random, in their own lengths, or in logits with `words`: strands
    then differ from step 0.
    """
    rank: int = 10
    """Of the LoRA."""
    steps: int = 1000
    batch: int = 1
    """Seeds per step."""
    lr: float = 1e-4
    lora_lr: float = 1e-4
    loss: Literal["shell", "literal"] = "shell"
    """`literal` minimises ln p without a bound, as published."""
    margin: float = 0.0
    """How far into the shell pictures are led, as a share of its width (ours): at 0 the median of
    fresh ones often stays just outside.
    """
    baseline: int = 5000
    """Plain embeddings that the Gaussian is made of."""
    axes: int = 50
    anchor: float = 1.0
    """Weight of staying what the prompt names."""
    anchor_cap: str = "auto"
    """Cosine above which the anchor is satisfied: `auto` for the median of the baseline, or a
    number; published 0.28 for CLIP ViT-L/14.
    """
    beside: float = 0.1
    """Weight of staying near the plane of the axes."""
    direction: float = 0.5
    """Weight of example pictures to go toward or away from."""
    origin: float = 0.5
    """Weight of a picture to vary."""
    known: float = 0.0
    """Weight of not becoming one of the quest's classes."""
    heading: float = 0.0
    """Weight of a direction of the strand's own, drawn from its seed: strands then differ."""
    keep: float = 1.0
    """Weight of leaving the plain subject as it is, where word and LoRA are trained together."""
    colours: Literal["count", "ignore"] = "ignore"
    """`ignore`: a change of colour alone is not rare. Grey copies are looked at, or, where a prior
    has no pictures, the axes that colours do not foretell.
    """
    check_every: int = 25
    accept: float = 0.5
    """The probability of yes from which a state is accepted."""
    floor: Literal["baseline", "none"] = "baseline"
    """Whether states are refused, too, whose pictures are less like the prompt than 95 % of the
    baseline.
    """
    retries: int = 0
    """Pullbacks after which the search goes on from the accepted state, with half the learning rate
    and the anchor times `firmer`.
    """
    firmer: float = 2.0
    hold: int = 3
    """Checks in a row whose fresh pictures must lie in the shell."""
    fresh: int = 8
    """Seeds of a check, always the same and never trained on."""
    proposals: int = 1
    """Full pictures that the validator sees at each check."""
    question: str = "Is this a picture of a {subject}? Answer yes or no."

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 0.05 <= self.rarity <= 0.999999:
            raise ValueError("rarity is a share of plain pictures, from 0.05 to 0.999999")
        check_counts(
            self,
            ("vectors", 1, MAX_VECTORS),
            ("rank", 1, 256),
            ("steps", 1, 1_000_000),
            ("batch", 1, 256),
            ("baseline", 40, 1_000_000),
            ("axes", 1, 4096),
            ("check_every", 1, 1_000_000),
            ("retries", 0, 100),
            ("hold", 1, 1000),
            ("fresh", 2, 256),
            ("proposals", 1, 64),
        )
        check_weights(
            self,
            anchor=1e3,
            beside=1e3,
            direction=1e3,
            origin=1e3,
            keep=1e3,
            known=1e3,
            heading=1e3,
            spread=10.0,
            grip=50.0,
            accept=1.0,
            margin=1.0,
        )
        if not 1 <= self.firmer <= 100:
            raise ValueError("firmer must be from 1 to 100")
        check_rates(self, "lr", "lora_lr")
        parse_cap(self.anchor_cap)


def build(spec: Spec) -> LowProb:
    """The method."""
    from creatok_cli.methods._lowprob import LowProb

    return LowProb(spec)


def prepare(
    spec: Spec, backbone: Backbone, quest: Quest, *, seed: int = 0
) -> Generator[Step, None, Mapping[str, Tensor]]:
    """What all strands share: `embeddings` [N d] of plain pictures and, where the prior has
    pictures, `grey`. The same for every seed, so that runs share them, too. Raises InputError for a
    base without a prior.
    """
    from creatok_cli.methods._plain import draw_plain

    return draw_plain(spec, backbone, quest)


def prepared_facts(spec: Spec, quest: Quest) -> dict[str, Any]:
    """What the result of `prepare` depends on, besides the base."""
    return {
        "method": "lowprob",
        "version": 2,
        "prompt": quest.prompt,
        "baseline": spec.baseline,
    }


def parse_cap(text: str) -> float | None:
    """A cosine, or None for `auto`. Raises ValueError."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise ValueError("anchor_cap is auto or a cosine from -1 to 1")
    return value
