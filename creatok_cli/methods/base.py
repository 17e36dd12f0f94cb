"""What a creative method is: a generator of Steps that ends with an artefact.

A method gets an open base and a Brief. It may show progress, ask for pictures of proposals, and
hand out checkpoints; the caller renders, scores, stores and stops, and sends Feedback back. So no
method knows a renderer, a scorer, a file or a terminal.

Does not: import torch, or know any concrete base.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from creatok_cli.concepts.classes import ClassList
from creatok_cli.concepts.sets import PairList
from creatok_cli.domain import Job, Labels

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone
    from creatok_cli.tokens.network import Network
    from creatok_cli.tokens.token import Token

Verb = Literal["learn", "fuse", "explore"]


@dataclass(frozen=True, kw_only=True)
class Quest:
    """What an exploration looks for."""

    prompt: str = ""
    """The plain prompt that it starts from: `a photo of a creature`."""
    subject: str = ""
    """The word or words of the prompt that name what is looked for: `creature`."""
    like: tuple[str, ...] = ()
    """What finds are to resemble."""
    unlike: tuple[str, ...] = ()
    """What they are not to resemble."""
    toward: tuple[Image, ...] = ()
    """Pictures that finds are to resemble."""
    away: tuple[Image, ...] = ()
    """Pictures that they are not to resemble."""
    origin: Image | None = None
    """A picture to vary."""
    classes: tuple[str, ...] = ()
    """Among which a labeler names what it sees."""
    prepared: Mapping[str, Tensor] | None = None
    """What the method's `prepare` gave for this quest."""


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What is asked of a method."""

    verb: Verb
    pairs: PairList | None = None
    """Rows of concepts to learn from, with held-out groups; needed by the verb `learn`."""
    classes: ClassList | None = None
    """What a network learns to mix; needed by the verb `fuse`."""
    quest: Quest | None = None
    """Needed by the verb `explore`."""
    start: Token | None = None
    """An artefact to build on."""
    resume: Mapping[str, Tensor] | None = None
    """The checkpoint of an earlier Step of the same run: the method goes on after it."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One report of progress. Methods yield a few per second, not one per optimiser step."""

    index: int
    """Optimiser steps done, 0 before the first."""
    total: int
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers to show and to plot, by name: `loss`, `J`, `cos/clip_l`, `norm/clip_l`..."""
    notices: tuple[str, ...] = ()
    """Warnings a person should read once."""
    checkpoint: Mapping[str, Tensor] | None = None
    """Tensors from which a run goes on to the same end."""
    tokens: tuple[Token, ...] = ()
    """What the proposals are drawn with."""
    proposals: tuple[Job, ...] = ()
    """Pictures wanted; the answer comes as Feedback. Keys and names are the caller's."""
    classes: tuple[str, ...] = ()
    """What the pictures are to be labelled with."""
    question: str = ""
    """The same for labelers that read a question."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What the caller sends back after a Step."""

    stop: bool = False
    """End now: one more Step comes with the state of this moment, then the artefact so far."""
    labels: Sequence[Labels | None] = ()
    """One per proposal, in order; None for what could not be drawn."""
    pictures: Sequence[Image | None] = ()
    """The same."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a run ends with."""

    token: Token | None = None
    network: Network | None = None
    """What turns mixes into tokens, where that was learned."""
    lora: Mapping[str, Tensor] | None = None
    """Low-rank weights under the names of diffusers, where they were trained."""
    initial: Token | None = None
    """What learning began with, as a token: the control that isolates training."""
    ended: str = "done"
    """`done`, `capped`, `plateau`, `stopped` or `dead`; see `LearnSummary.ended`."""
    steps: int = 0
    """Steps that the token has behind it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON for the report: curves, cosines before and after, neighbours, spread."""


Run = Generator[Step, Feedback | None, Artefact]


class Method(Protocol):
    """From `build(spec)` of a plug-in, whose module has NEEDS (sides of a base) and VERBS."""

    def run(self, backbone: Backbone, brief: Brief, *, seed: int) -> Run:
        """Same seed, same artefact. Raises MethodDiverged, carrying nothing: the caller keeps the
        last checkpoint.
        """
