"""Pictures and texts in the space of one CLIP model, or of several side by side.

The towers are a base's own (the bestiary ships its image towers) or any CLIP model in a folder of
safetensors (Radford et al. 2021, arXiv 2103.00020). What stands for a picture is its embedding of
unit length; those of an ensemble stand side by side over sqrt(models), so that a dot product is the
mean of its cosines.

Does not: download, or read anything but safetensors and JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL.Image import Resampling
from torch.nn.functional import normalize

from creatok_cli.errors import ArtefactError, InputError
from creatok_cli.scorers._folder import UNREADABLE, Pixels, read_model, read_pixels, to_tensor, why

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

LOGIT_SCALE = 100.0
"""Where neither weights nor config say the model's own: the ceiling of CLIP's training."""
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""Pixels in [-1, 1], where a folder has no preprocessor_config.json."""


class Names(Protocol):
    """The fields that a Spec has for its towers."""

    @property
    def folder(self) -> str:
        """Of the model; required."""

    @property
    def image(self) -> tuple[str, ...]:
        """Folders of the image towers inside it; an empty name for the folder itself (a whole
        CLIPModel). More than one is an ensemble.
        """

    @property
    def words(self) -> tuple[str, ...]:
        """Of the text towers, one for each image tower."""

    @property
    def tokenizer(self) -> tuple[str, ...]:
        """Of the tokenizers, likewise."""

    @property
    def rows(self) -> int:
        """Pictures that go through a tower together."""


def check_names(spec: Names) -> None:
    """Raise ValueError for fields that can name no towers."""
    if not 1 <= spec.rows <= 1024:
        raise ValueError("rows is 1 to 1024")
    if not spec.image or not len(spec.image) == len(spec.words) == len(spec.tokenizer):
        raise ValueError("image, words and tokenizer name one folder each per CLIP model")


class Towers:
    """Open CLIP models, f32 on the CPU."""

    def __init__(self, spec: Names, *, who: str) -> None:
        """Reads all of them; `who` asks. Raises InputError without a folder, ArtefactError where
        the folder has no such towers.
        """
        if not spec.folder:
            raise InputError(f"scorers: {who} needs folder=..., a folder with a CLIP model")
        parts = zip(spec.image, spec.words, spec.tokenizer, strict=True)
        self._spaces = [_open(Path(spec.folder), *names, rows=spec.rows) for names in parts]

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[b d] of plain texts."""
        return self._beside([space.texts(prompts) for space in self._spaces])

    def pictures(self, images: Sequence[Image]) -> Tensor:
        """[b d] in the space of `texts`; neighbours change no bit."""
        return self._beside([space.pictures(images) for space in self._spaces])

    def logits(
        self, images: Sequence[Image], classes: Sequence[str], templates: Sequence[str]
    ) -> Tensor:
        """[b k] f64: mean over the models of scale x cosine to each class."""
        found = [space.logits(images, classes, templates) for space in self._spaces]
        return torch.stack(found).mean(0)

    def _beside(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1) / math.sqrt(len(parts))


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

    def logits(
        self, images: Sequence[Image], classes: Sequence[str], templates: Sequence[str]
    ) -> Tensor:
        """[b k] f64: scale x cosine to each class in the mean of its templates."""
        said = [self.texts([each.replace("{}", name) for name in classes]) for each in templates]
        words = normalize(torch.stack(said).double().mean(0), dim=-1)
        # Row by row: a matrix product rounds differently for other numbers of rows.
        cosines = [(row * words).sum(1) for row in self.pictures(images).double()]
        return self.scale * torch.stack(cosines)

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
