"""Validity: yes or no, does the picture show a whole one of what is asked for, by CLIP towers.

A text alone tells a creature from a broken one badly: CLIP reads what patches show more than how
they fit. So the answer is fitted to a base, on embeddings e of plain pictures of what is asked for
against copies of them that are spoilt (patches shuffled, blurred, two pictures blended), noise and
plain colours: ridge-logistic regression, both sides with half of the weight,

    p_yes = 1 / (1 + exp(-(w (e - m) / s + b)))

Before `fit` it is zero-shot: the question's subject against texts of nothing. This is what stands
in for a vision-language model (methods notes, 4.6) where a base has its own towers.

Does not: know the judge, answer what it is not asked, or draw.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageFilter

from creatok_cli.domain import Labels
from creatok_cli.errors import ArtefactError, InputError, UnknownName
from creatok_cli.scorers._towers import Towers, check_names

if TYPE_CHECKING:
    from torch import Tensor

GIVES = ("labels",)
YES, NO = "yes", "no"
CLASSES = (YES, NO)
RIDGE = 0.01
"""On held-out pictures of the bestiary 0.01 is right about 88 % of plain creatures, 97 % of single
animals, all hybrids, and 79 to 100 % of spoilt pictures; 0.001 the same within 5 points.
"""
ROUNDS = 60
"""Of Newton's method, which converges in far fewer."""
LEAST_PLAIN = 4
_SUBJECT = re.compile(
    r"\b(?:an?|the|any|some)\s+(?!(?:photo|picture|image)\b)(?P<subject>[^?.,;:]+?)"
    r"(?:\s+(?:in|on|visible|shown|recogni[sz]able)\b.*)?\s*(?:[?.,;:]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which towers, and what is said of yes and no before a fit."""

    folder: str = ""
    """Of the model; required."""
    image: tuple[str, ...] = ("image_encoder_l",)
    """Folders of the image towers inside it; an empty name for the folder itself."""
    words: tuple[str, ...] = ("text_encoder",)
    tokenizer: tuple[str, ...] = ("tokenizer",)
    yes: tuple[str, ...] = ("a photo of a {}", "a picture of a {}")
    """The subject goes into the braces."""
    question: str = "Is this a photo of a creature?"
    """Where `label` is not told another."""
    no: tuple[str, ...] = ("an empty place", "a plain colour", "noise", "a blurry background")
    rows: int = 64
    """Pictures that go through a tower together."""

    def __post_init__(self) -> None:
        check_names(self)
        if not self.yes or any(each.count("{}") != 1 for each in self.yes):
            raise ValueError('yes are texts with one "{}" each, where the subject goes')
        if not self.no or not all(each.strip() for each in self.no):
            raise ValueError("no are one or more texts")


def build(spec: Spec) -> Validity:
    """Reads all towers, f32 on the CPU. Raises InputError without a folder, ArtefactError where
    the folder has no such towers.
    """
    return Validity(spec)


class Validity:
    """A Labeler with the classes yes and no."""

    def __init__(self, spec: Spec) -> None:
        self._spec, self._towers = spec, Towers(spec, who="validity")
        self._fitted: Mapping[str, Tensor] | None = None

    def label(
        self, images: Sequence[Image.Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """Probabilities of yes and no, in the order of `classes`.

        Raises UnknownName for other classes, InputError for a question without a subject where
        nothing was fitted.
        """
        if not images:
            return []
        order = tuple(classes) or CLASSES
        if sorted(order) != sorted(CLASSES):
            raise UnknownName(f"validity: answers yes or no, not {', '.join(order)[:80]}")
        found = []
        for p in self._chances(images, question):
            shares = {YES: p, NO: 1 - p}
            found.append(Labels(probabilities=tuple((name, shares[name]) for name in order)))
        return found

    def fit(self, plain: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Learns yes from plain pictures; returns what it learned, for `use`. Equal pictures, equal
        bytes.

        Raises InputError for too few pictures, ArtefactError where they cannot be told from spoilt
        ones.
        """
        if len(plain) < LEAST_PLAIN:
            raise InputError(
                f"validity: {len(plain)} plain pictures; {LEAST_PLAIN} or more are needed"
            )
        sides = [self._towers.pictures(each).double() for each in (plain, spoilt(plain))]
        fitted = regression(*sides)
        self.use(fitted)
        return fitted

    def use(self, fitted: Mapping[str, Tensor]) -> None:
        """Answers by what `fit` learned before."""
        if set(fitted) != {"w", "m", "s", "b"}:
            raise ArtefactError("validity: this was not fitted by it")
        self._fitted = dict(fitted)

    def _chances(self, images: Sequence[Image.Image], question: str) -> list[float]:
        if self._fitted is None:
            subject = subject_of(question or self._spec.question)
            texts = [each.replace("{}", subject) for each in self._spec.yes]
            every = self._towers.logits(images, [*texts, *self._spec.no], ("{}",))
            count = len(texts)
            sides = torch.stack([every[:, :count].mean(1), every[:, count:].amax(1)], 1)
            chances: list[float] = sides.softmax(1)[:, 0].tolist()
            return chances
        fitted = self._fitted
        # Row by row: a matrix product rounds differently for other numbers of rows.
        rows = (self._towers.pictures(images).double() - fitted["m"]) / fitted["s"]
        return [float(((row * fitted["w"]).sum() + fitted["b"]).sigmoid()) for row in rows]


def subject_of(question: str) -> str:
    """`Is there a creature in the picture?` -> `creature`. Raises InputError."""
    found = _SUBJECT.search(question)
    if found is None:
        raise InputError(
            f"validity: found no subject in the question {question[:80]!r}; ask such as "
            '"Is this a photo of a creature?"'
        )
    return found["subject"].strip()


def spoilt(plain: Sequence[Image.Image]) -> list[Image.Image]:
    """Copies without the form that makes a whole, by fixed draws, then noise and plain colours."""
    found = []
    for index, image in enumerate(plain):
        image, side = image.convert("RGB"), min(image.size)
        other = plain[(7 * index + 5) % len(plain)].convert("RGB").resize(image.size)
        found += [
            shuffled(image, max(1, side // 8), index),
            shuffled(image, max(1, side // 4), index),
            image.filter(ImageFilter.GaussianBlur(side * 3 / 64)),
            image.filter(ImageFilter.GaussianBlur(side * 7 / 64)),
            Image.blend(image, other, 0.5),
        ]
    size, dice = plain[0].size, random.Random(0)
    levels = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 60, 60), (60, 200, 60)]
    found += [Image.new("RGB", size, level) for level in (*levels, (60, 60, 200))]
    count = size[0] * size[1] * 3
    found += [Image.frombytes("RGB", size, dice.randbytes(count)) for _ in range(6)]
    return found


def shuffled(image: Image.Image, edge: int, seed: int) -> Image.Image:
    """Its square patches in another order; what is left over at the edges stays."""
    width, height = image.size
    corners = [
        (x, y) for y in range(0, height - edge + 1, edge) for x in range(0, width - edge + 1, edge)
    ]
    taken = random.Random(seed).sample(corners, len(corners))
    mixed = image.copy()
    for at, (x, y) in zip(corners, taken, strict=True):
        mixed.paste(image.crop((x, y, x + edge, y + edge)), at)
    return mixed


def regression(yes: Tensor, no: Tensor) -> dict[str, Tensor]:
    """w [d], m [d], s, b in f64, from [n d] of either side, by Newton's method.

    Raises ArtefactError where the sides cannot be told apart, or are not finite.
    """
    rows = torch.cat([yes, no])
    middle, scale = rows.mean(0), rows.std(0).mean()
    if not bool(rows.isfinite().all()) or not float(scale) > 0:
        raise ArtefactError("validity: all plain pictures look the same to the towers")
    ones = rows.new_ones(len(rows), 1)
    inputs = torch.cat([(rows - middle) / scale, ones], 1)
    wanted = torch.cat([yes.new_ones(len(yes)), no.new_zeros(len(no))])
    share = torch.cat(
        [yes.new_full((len(yes),), 0.5 / len(yes)), no.new_full((len(no),), 0.5 / len(no))]
    )
    ridge = RIDGE * torch.eye(inputs.shape[1], dtype=rows.dtype)
    ridge[-1, -1] = 0.0
    found = inputs.new_zeros(inputs.shape[1])
    for _ in range(ROUNDS):
        p = (inputs @ found).sigmoid()
        slope = inputs.T @ (share * (p - wanted)) + ridge @ found
        bend = inputs.T @ ((share * p * (1 - p))[:, None] * inputs) + ridge
        move = torch.linalg.solve(bend, slope)
        found = found - move
        if float(move.abs().max()) < 1e-10:
            break
    if not bool(found.isfinite().all()):
        raise ArtefactError("validity: plain and spoilt pictures cannot be told apart")
    return {"w": found[:-1].clone(), "m": middle, "s": scale, "b": found[-1].clone()}
