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

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Resampling
from torch.nn.functional import normalize

from creatok_cli.domain import Labels, Rendered, Score
from creatok_cli.errors import ArtefactError, InputError
from creatok_cli.scorers._folder import UNREADABLE, Pixels, read_model, read_pixels, to_tensor, why

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GIVES = ("scores", "labels")
LOGIT_SCALE = 100.0
"""Where neither weights nor config say the model's own: the ceiling of CLIP's training."""
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""Pixels in [-1, 1], where a folder has no preprocessor_config.json."""


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
    text: str = "a photo of a {a} {b}"
    """What the score compares with; names in braces are values of the job's labels."""
    templates: tuple[str, ...] = ("a photo of a {}",)
    """What a class is said to look like; the embeddings of several are averaged."""
    temperature: float = 1.0
    """Divides the logits of labels: above 1 flatter, below 1 sharper."""
    rows: int = 64
    """Pictures that go through a tower together."""

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= 1024:
            raise ValueError("rows is 1 to 1024")
        if not 0.01 <= self.temperature <= 100:
            raise ValueError("temperature is 0.01 to 100")
        if not self.image or not len(self.image) == len(self.words) == len(self.tokenizer):
            raise ValueError("image, words and tokenizer name one folder each per CLIP model")
        if not self.templates or any(each.count("{}") != 1 for each in self.templates):
            raise ValueError('templates are texts with one "{}" each, where the class goes')


def build(spec: Spec) -> ClipScorer:
    """Reads all towers, f32 on the CPU. Raises InputError without a folder, ArtefactError where
    the folder has no such towers.
    """
    if not spec.folder:
        raise InputError("scorers: clip needs folder=..., a folder with a CLIP model")
    return ClipScorer(spec)


class ClipScorer:
    """A Scorer and a Labeler."""

    def __init__(self, spec: Spec) -> None:
        self._spec, root = spec, Path(spec.folder)
        parts = zip(spec.image, spec.words, spec.tokenizer, strict=True)
        self._spaces = [_open(root, *names, rows=spec.rows) for names in parts]

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
        return torch.stack([self._logits(space, images, classes) for space in self._spaces]).mean(0)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[b d] unit embeddings of plain texts; those of an ensemble side by side, so that a dot
        product is the mean of its cosines.
        """
        return self._beside([space.texts(prompts) for space in self._spaces])

    def pictures(self, images: Sequence[Image]) -> Tensor:
        """[b d] unit embeddings, in the space of `texts`."""
        return self._beside([space.pictures(images) for space in self._spaces])

    def _beside(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1) / math.sqrt(len(parts))

    def _logits(self, space: _Space, images: Sequence[Image], classes: Sequence[str]) -> Tensor:
        templates = [
            space.texts([each.replace("{}", name) for name in classes])
            for each in self._spec.templates
        ]
        words = normalize(torch.stack(templates).double().mean(0), dim=-1)
        # Row by row: a matrix product rounds differently for other numbers of rows.
        cosines = [(row * words).sum(1) for row in space.pictures(images).double()]
        return space.scale * torch.stack(cosines)

    def _filled(self, result: Rendered) -> str:
        labels = dict(result.job.labels)
        slots = [name for _, name, _, _ in string.Formatter().parse(self._spec.text) if name]
        missing = [name for name in slots if name not in labels]
        if missing:
            raise InputError(
                f"clip: {result.job.name or result.job.prompt[:60]!r} has no label {missing[0]!r}, "
                f"which the text {self._spec.text!r} needs"
            )
        return self._spec.text.format_map({name: labels[name] for name in slots})


class _Space:
    """One CLIP model: an image tower and the text tower that was trained with it."""

    def __init__(
        self,
        *,
        folder: Path,
        pixels: Pixels,
        image: Callable[[Tensor], Tensor],
        words: Callable[[Tensor], Tensor],
        tokenizer: Any,
        side: int,
        scale: float,
        rows: int,
    ) -> None:
        self._folder, self._image, self._words, self._tokenizer = folder, image, words, tokenizer
        self._pixels, self._side, self._rows, self.scale = pixels, side, rows, scale
        self._known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[b d] unit embeddings of plain texts; each is computed once, alone, and kept."""
        for prompt in prompts:
            if prompt not in self._known:
                found = self._tokenizer(
                    [prompt], padding="max_length", truncation=True, return_tensors="pt"
                )
                self._known[prompt] = self._unit(self._words(found.input_ids), "a text")[0]
        return torch.stack([self._known[prompt] for prompt in prompts])

    @torch.inference_mode()
    def pictures(self, images: Sequence[Image]) -> Tensor:
        """[b d] unit embeddings; chunks have one size, so neighbours change no bit."""
        rows, parts = self._rows, []
        for start in range(0, len(images), rows):
            stack = torch.stack([self._prepared(image) for image in images[start : start + rows]])
            pads = stack[-1:].expand(rows - len(stack), -1, -1, -1)
            parts.append(self._image(torch.cat([stack, pads]))[: len(stack)])
        return self._unit(torch.cat(parts), "a picture")

    def _unit(self, embedded: Tensor, what: str) -> Tensor:
        if not embedded.isfinite().all():
            raise ArtefactError(
                f"{self._folder}: the CLIP model makes NaN or infinity of {what}: its weights are "
                "damaged; fetch them again"
            )
        return normalize(embedded, dim=-1)

    def _prepared(self, image: Image) -> Tensor:
        """[3 H W]: shorter side to the tower's size, middle cut out, mean and std as trained."""
        image, side = image.convert("RGB"), self._side
        if image.size != (side, side):
            factor = side / min(image.size)
            width, height = (max(side, round(edge * factor)) for edge in image.size)
            image = image.resize((width, height), Resampling.BICUBIC)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        return to_tensor(image, self._pixels)


def _open(root: Path, image: str, words: str, tokenizer: str, *, rows: int) -> _Space:
    """One model's towers, whole, frozen and silent; a whole CLIPModel knows its scale itself."""
    from transformers import (
        CLIPModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    try:
        reader = CLIPTokenizer.from_pretrained(root / tokenizer, local_files_only=True)
        if image == words:
            whole = read_model(CLIPModel, root / image)
            config, scale = whole.config.vision_config, float(whole.logit_scale.exp())
            see, say = _halves(whole)
        else:
            eye = read_model(CLIPVisionModelWithProjection, root / image)
            mouth = read_model(CLIPTextModelWithProjection, root / words)
            # The bestiary's towers have it in their config, as the factor itself.
            config, scale = eye.config, float(getattr(eye.config, "logit_scale", LOGIT_SCALE))
            see, say = (lambda x: eye(x).image_embeds), (lambda ids: mouth(ids).text_embeds)
        pixels = read_pixels(root / image, HALF)
    except UNREADABLE as error:
        raise ArtefactError(f"{root}: no CLIP towers can be read there: {why(error)}") from error
    return _Space(
        folder=root / image,
        pixels=pixels,
        image=see,
        words=say,
        tokenizer=reader,
        side=int(config.image_size),
        scale=scale,
        rows=rows,
    )


def _halves(model: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Pixels and ids to embeddings, as both halves of a CLIPModel do it."""
    return (
        lambda pixels: model.visual_projection(model.vision_model(pixels).pooler_output),
        lambda ids: model.text_projection(model.text_model(ids).pooler_output),
    )
