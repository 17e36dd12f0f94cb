"""CreTok: one reusable word that means "mix these creatively", learned from text alone.

The new word W stands in an adaptive prompt; its vectors are moved until the pooled embedding of
that prompt is close to each of many two-concept phrases, but no closer than theta (Feng et al.,
CVPR 2025, arXiv 2410.24160; the recipe is in the methods notes, section 2). The paper's adaptive
prompt is one constant; a template with the slots of the list gives each phrase a prompt of its
own, which on the embedded base carries further (see the README's table).

Does not: import torch before it is built; draw, score, or store anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from creatok_cli.methods._capped import parse_theta
from creatok_cli.methods._ranges import MAX_VECTORS, check_counts, check_name, check_rates

if TYPE_CHECKING:
    from creatok_cli.methods._cretok import CreTok

NEEDS = ("text",)
VERBS = ("learn",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults are the paper's where it says something; see the methods notes, 2.4."""

    word: str = "creative"
    """The word that is redefined: the start, and what T5 reads."""
    name: str = "cretok"
    """Stem of the new word: prompts use it as `<cretok>`."""
    adaptive: str = "a photo of a {word} mixture"
    """With slots of the list in it, each row gets a prompt of its own; empty: as `template`."""
    restrictive: str = "a {a} {b}"
    template: str = "a photo of a {word} mixture that resembles a {a} and a {b}"
    """How the token is used; travels with it."""
    steps: int = 10_000
    lr: float = 0.01
    """At the first step, falling to 0 along a cosine."""
    theta: str = "auto"
    """`auto`, a cosine such as 0.5, or `rel:0.5`: so far between start and bound."""
    encoders: tuple[str, ...] = ()
    """Which encoders get learned vectors; empty for all. The others keep the start."""
    sampling: Literal["full", "batch", "paper"] = "full"
    """Rows per step: all; `rows` pairs without replacement; or `rows` rows with replacement."""
    rows: int = 16
    orders: Literal["both", "one"] = "both"
    restarts: int = 1
    """Starts learned side by side; the best on the list is kept."""
    init: str = ""
    """A word, `random` (vocabulary moments) or `mean` (of the vocabulary); empty: `word`."""
    vectors: int = 1
    norm: Literal["free", "shell"] = "free"
    """`shell` keeps the vectors at the mean length of the vocabulary."""
    stop: Literal["auto", "never"] = "auto"
    validate_every: int = 500

    def __post_init__(self) -> None:
        parse_theta(self.theta)
        check_name(self.name)
        check_rates(self, "lr")
        check_counts(
            self,
            ("steps", 1, 10_000_000),
            ("rows", 1, 100_000),
            ("restarts", 1, 64),
            ("vectors", 1, MAX_VECTORS),
            ("validate_every", 1, 1_000_000),
        )
        for name in ("adaptive", "template"):
            text = getattr(self, name)
            if "{word}" not in text and not (name == "adaptive" and not text):
                raise ValueError(f"{name} must hold {{word}}")


def build(spec: Spec) -> CreTok:
    """The method."""
    from creatok_cli.methods._cretok import CreTok

    return CreTok(spec)
