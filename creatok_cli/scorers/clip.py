"""CLIP score: the cosine of a picture and one text, in the space of a CLIP model; also a labeler.

The towers are a base's own (the bestiary ships its image towers) or any CLIP model in a folder of
safetensors. Labels are zero-shot: softmax over the classes of scale x cosine to the class's text.
Hessel et al. 2021, arXiv 2104.08718, Section 3.

Deviates: the plain cosine, not 2.5 max(cos, 0), so that signs and differences stay readable.

Does not: download, or read anything but safetensors; CLIP scores saturate on hybrids, so no table
shows them alone.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Resampling

from creatok_cli.domain import Labels, Rendered, Score
from creatok_cli.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GIVES = ("scores", "labels")
LOGIT_SCALE = 100.0
"""Where the model's config does not say its own: the ceiling of CLIP's training."""
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""Pixels in [-1, 1], where a folder has no preprocessor_config.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which towers and which text."""

    folder: str = ""
    """Of the model; required."""
    image: str = "image_encoder_l"
    """Folder of the image tower inside it; empty for the folder itself (a whole CLIPModel)."""
    words: str = "text_encoder"
    tokenizer: str = "tokenizer"
    text: str = "a photo of a {a} {b}"
    """What the score compares with; names in braces are values of the job's labels."""
    label_text: str = "a photo of a {}"
    rows: int = 64
    """Pictures that go through the tower together."""

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= 1024:
            raise ValueError("rows is 1 to 1024")
        if "{}" not in self.label_text:
            raise ValueError('label_text has "{}" where the class goes')


def build(spec: Spec) -> ClipScorer:
    """Reads both towers, f32 on the CPU. Raises InputError without a folder, ArtefactError where
    the folder has no such towers.
    """
    if not spec.folder:
        raise InputError("scorers: clip needs folder=..., a folder with a CLIP model")
    return ClipScorer(spec)


class ClipScorer:
    """A Scorer and a Labeler."""

    def __init__(self, spec: Spec) -> None:
        self._spec, root = spec, Path(spec.folder)
        self._image, self._words, self._tokenizer = _towers(spec, root)
        self._pixels = _preparation(root / spec.image)
        self._side = int(self._image.config.image_size)
        self._scale = float(getattr(self._image.config, "logit_scale", LOGIT_SCALE))
        self._known: dict[str, Tensor] = {}

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
        if not classes:
            raise InputError("clip: a zero-shot labeler needs the classes to choose from")
        if not images:
            return []
        words = self.texts([self._spec.label_text.format(name) for name in classes])
        # Row by row: a matrix product rounds differently for other numbers of rows.
        cosines = (self.pictures(images)[:, None] * words[None]).sum(2)
        rows = (self._scale * cosines).double().softmax(1)
        return [
            Labels(probabilities=tuple(zip(classes, row, strict=True))) for row in rows.tolist()
        ]

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[b d] unit embeddings of plain texts; each is computed once, alone, and kept."""
        for prompt in prompts:
            if prompt not in self._known:
                found = self._tokenizer(
                    [prompt], padding="max_length", truncation=True, return_tensors="pt"
                )
                embedded = self._words(found.input_ids).text_embeds
                self._known[prompt] = torch.nn.functional.normalize(embedded, dim=-1)[0]
        return torch.stack([self._known[prompt] for prompt in prompts])

    @torch.inference_mode()
    def pictures(self, images: Sequence[Image]) -> Tensor:
        """[b d] unit embeddings; chunks have one size, so neighbours change no bit."""
        rows, parts = self._spec.rows, []
        for start in range(0, len(images), rows):
            stack = torch.stack([self._prepared(image) for image in images[start : start + rows]])
            pads = stack[-1:].expand(rows - len(stack), -1, -1, -1)
            parts.append(self._image(torch.cat([stack, pads])).image_embeds[: len(stack)])
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def _prepared(self, image: Image) -> Tensor:
        """[3 H W]: shorter side to the tower's size, middle cut out, mean and std as trained."""
        image, side = image.convert("RGB"), self._side
        if image.size != (side, side):
            factor = side / min(image.size)
            width, height = (max(side, round(edge * factor)) for edge in image.size)
            image = image.resize((width, height), Resampling.BICUBIC)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        levels = flat.view(side, side, 3).permute(2, 0, 1).float().div(255)
        mean, std = (torch.tensor(self._pixels[name]).view(3, 1, 1) for name in HALF)
        return (levels - mean) / std

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


def _towers(spec: Spec, root: Path) -> tuple[Any, Any, Any]:
    """Image tower, text tower and tokenizer, whole, frozen and silent."""
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parts = ((CLIPVisionModelWithProjection, spec.image), (CLIPTextModelWithProjection, spec.words))
    towers = []
    try:
        for kind, part in parts:
            model, found = kind.from_pretrained(
                root / part,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            lost = sorted(str(name) for name in (*found["missing_keys"], *found["mismatched_keys"]))
            if lost:
                raise ValueError(f"{part or 'the folder'} lacks {lost[0]}")
            towers.append(model.requires_grad_(False).eval())
        tokenizer = CLIPTokenizer.from_pretrained(root / spec.tokenizer, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0][:300]
        raise ArtefactError(f"{root}: no CLIP towers can be read there: {reason}") from error
    return towers[0], towers[1], tokenizer


def _preparation(folder: Path) -> Mapping[str, Sequence[float]]:
    """Mean and std per channel that the tower was trained with."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return HALF
    facts = json.loads(file.read_text(encoding="utf-8"))
    return {name: [float(value) for value in facts.get(name, HALF[name])] for name in HALF}
