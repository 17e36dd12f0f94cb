"""CLIP score: the cosine of a picture and one text, in the space of a CLIP model; also a labeler.

The towers are a base's own (the bestiary ships its image towers) or any CLIP model in a folder of
safetensors. Hessel et al. 2021, arXiv 2104.08718, Section 3. Labels are zero-shot, over classes c:

    text_c = unit(mean over templates of unit text embeddings)
    l_c    = s cos(picture, text_c)         s: the model's own logit scale
    p      = softmax(l / T)                 T: 1, or fitted (`_temperature`)

Several pairs of towers make an ensemble: l and the score's cosine are means over them.

Deviates: the plain cosine, not 2.5 max(cos, 0), so that signs and differences stay readable.

Does not: download, or read anything but safetensors; CLIP scores saturate on hybrids, so no table
shows them alone.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from creatok_cli.domain import Labels, Rendered, Score
from creatok_cli.errors import InputError
from creatok_cli.scorers._towers import Towers, check_names

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GIVES = ("scores", "labels")
LEARNED = "creature"
"""What a learned word of a prompt is to the text tower, which has never read it."""
_WORD = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which towers and which texts."""

    folder: str = ""
    """Of the model; required."""
    image: tuple[str, ...] = ("image_encoder_l",)
    """Folders of the image towers inside it; an empty name for the folder itself (a whole
    CLIPModel). More than one is an ensemble.
    """
    words: tuple[str, ...] = ("text_encoder",)
    """Of the text towers, one for each image tower."""
    tokenizer: tuple[str, ...] = ("tokenizer",)
    text: str = ""
    """What the score compares with; names in braces are values of the job's labels. Empty: the
    job's own prompt, where a learned word counts as "creature".
    """
    templates: tuple[str, ...] = ("a photo of a {}",)
    """What a class is said to look like; the embeddings of several are averaged."""
    temperature: float = 1.0
    """Divides the logits of labels: above 1 flatter, below 1 sharper."""
    rows: int = 64
    """Pictures that go through a tower together."""

    def __post_init__(self) -> None:
        check_names(self)
        if not 0.01 <= self.temperature <= 100:
            raise ValueError("temperature is 0.01 to 100")
        if not self.templates or any(each.count("{}") != 1 for each in self.templates):
            raise ValueError('templates are texts with one "{}" each, where the class goes')


def build(spec: Spec) -> ClipScorer:
    """Reads all towers, f32 on the CPU. Raises InputError without a folder, ArtefactError where
    the folder has no such towers.
    """
    return ClipScorer(spec)


class ClipScorer:
    """A Scorer and a Labeler."""

    def __init__(self, spec: Spec) -> None:
        self._spec, self._towers = spec, Towers(spec, who="clip")

    def score(self, results: Sequence[Rendered]) -> list[Score]:
        """Cosine to the Spec's text, one per result.

        Raises InputError for a job without one of the text's labels.
        """
        texts = [self._filled(result) for result in results]
        if not results:
            return []
        wanted = self.texts(texts)
        seen = self.pictures([result.image for result in results])
        cosines = (wanted * seen).sum(1).clamp(-1, 1).tolist()
        return [
            Score(name="clip", value=value, unit="cosine", range=(-1.0, 1.0), better="higher")
            for value in cosines
        ]

    def label(
        self, images: Sequence[Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """Zero-shot probabilities over `classes`, which have to be named; no question is read."""
        rows = (self.logits(images, classes) / self._spec.temperature).softmax(1)
        return [
            Labels(probabilities=tuple(zip(classes, row, strict=True))) for row in rows.tolist()
        ]

    def logits(self, images: Sequence[Image], classes: Sequence[str]) -> Tensor:
        """[b k] f64: scale x cosine to each class, before the temperature: what it is fitted on.

        Raises InputError without classes.
        """
        if not classes:
            raise InputError("clip: a zero-shot labeler needs the classes to choose from")
        if not images:
            return torch.zeros(0, len(classes), dtype=torch.float64)
        return self._towers.logits(images, classes, self._spec.templates)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[b d] unit embeddings of plain texts; those of an ensemble side by side, so that a dot
        product is the mean of its cosines.
        """
        return self._towers.texts(prompts)

    def pictures(self, images: Sequence[Image]) -> Tensor:
        """[b d] unit embeddings, in the space of `texts`."""
        return self._towers.pictures(images)

    def _filled(self, result: Rendered) -> str:
        if not self._spec.text:
            return _WORD.sub(LEARNED, result.job.prompt)
        labels = dict(result.job.labels)
        slots = [name for _, name, _, _ in string.Formatter().parse(self._spec.text) if name]
        missing = [name for name in slots if name not in labels]
        if missing:
            raise InputError(
                f"clip: {result.job.name or result.job.prompt[:60]!r} has no label {missing[0]!r}, "
                f"which the text {self._spec.text!r} needs"
            )
        return self._spec.text.format_map({name: labels[name] for name in slots})
