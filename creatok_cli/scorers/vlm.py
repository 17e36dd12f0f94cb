"""VLM: yes or no, or any class, by what a vision-language model would answer to a question.

Any image-text-to-text model of transformers in a local folder: LLaVA, LLaVA-OneVision, Qwen-VL,
SmolVLM, PaliGemma... The picture and the prompt go in once; no answer is sampled. For each class c
the likelihood of answering with it is read off, over its spellings v (`yes`, `Yes`, with and
without a space before):

    l_c = ln sum_v P(v | picture, prompt)       v of several tokens: the product of their chances
    p   = softmax(l)                            of yes and no: softmax(ln P(yes), ln P(no))

Song and Elgammal 2026 (arXiv 2601.22125) ask such a model whether a creature is still one; the
method's preset words the question, the Spec what stands around it.

Does not: download, run code of a repository, read anything but safetensors, or answer in free
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.domain import Labels
from creatok_cli.errors import ArtefactError, InputError, UnknownName
from creatok_cli.scorers._folder import UNREADABLE, read_model, why

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GIVES = ("labels",)
YES_NO = ("yes", "no")
MAX_ANSWER = 32
"""Longest answer in tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which model, and how it is asked."""

    folder: str = ""
    """Of the model and its processor; required."""
    prompt: str = "{question}"
    """What the model reads beside the picture; a model without a chat template reads it behind its
    picture token.
    """
    question: str = "Is this a photo of a creature? Answer yes or no."
    """Where `label` is not told another."""
    device: str = "cpu"
    """cpu, mps, cuda or cuda:INDEX."""

    def __post_init__(self) -> None:
        if self.prompt.count("{question}") != 1:
            raise ValueError('prompt is a text with one "{question}"')


def build(spec: Spec) -> VisionLanguage:
    """Reads model and processor. Raises InputError without a folder or for a device that is not
    there, ArtefactError where the folder has no such model.
    """
    if not spec.folder:
        raise InputError("scorers: vlm needs folder=..., a folder with a vision-language model")
    return VisionLanguage(spec)


class VisionLanguage:
    """A Labeler."""

    def __init__(self, spec: Spec) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        self._spec, folder = spec, Path(spec.folder)
        logging.set_verbosity_error()
        try:
            self._processor: Any = AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            if not hasattr(self._processor, "image_processor"):
                raise ValueError("its processor reads no pictures")
            self._model: Any = read_model(AutoModelForImageTextToText, folder)
        except (*UNREADABLE, ImportError) as error:
            reason = why(error)
            raise ArtefactError(
                f"{folder}: no vision-language model can be read there: {reason}"
            ) from error
        try:
            self._model.to(spec.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"vlm: device={spec.device[:40]!r}: {why(error)}") from None

    def label(
        self, images: Sequence[Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """Probabilities over `classes`, else over yes and no, as answers to the question. One
        picture at a time, so neighbours change no bit.

        Raises UnknownName for a class that the model's words cannot spell, ArtefactError for a
        model that answers NaN.
        """
        if not images:
            return []
        names = tuple(classes) or YES_NO
        answers = [self._spellings(name) for name in names]
        text = self._text(question or self._spec.question)
        found = []
        for image in images:
            row = self._likelihoods(image, text, answers).softmax(0).tolist()
            found.append(Labels(probabilities=tuple(zip(names, row, strict=True))))
        return found

    def _text(self, question: str) -> str:
        """The prompt with the picture's place in it."""
        said = self._spec.prompt.replace("{question}", question)
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": said}]
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return str(text)
        place = getattr(self._processor, "image_token", None) or "<image>"
        return f"{place}\n{said}"

    def _spellings(self, name: str) -> list[tuple[int, ...]]:
        """Ids of each way to write a class as an answer."""
        tokenizer = self._processor.tokenizer
        found: dict[tuple[int, ...], None] = {}
        for word in (name, name[:1].upper() + name[1:]):
            for text in (word, f" {word}"):
                ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
                if ids and tokenizer.unk_token_id not in ids and len(ids) <= MAX_ANSWER:
                    found[ids] = None
        if not found:
            raise UnknownName(
                f"vlm: the model cannot spell the class {name[:60]!r}; use plain words"
            )
        return list(found)

    @torch.inference_mode()
    def _likelihoods(
        self, image: Image, text: str, answers: Sequence[Sequence[tuple[int, ...]]]
    ) -> Tensor:
        """[k] f64: l of each class."""
        inputs = dict(
            self._processor(images=[image.convert("RGB")], text=[text], return_tensors="pt")
        )
        inputs = {name: each.to(self._spec.device) for name, each in inputs.items()}
        first = self._last(inputs, 1)[0]
        known: dict[tuple[int, ...], Tensor] = {}
        for ids in dict.fromkeys(ids for each in answers for ids in each):
            chance = first[ids[0]]
            if len(ids) > 1:
                rows = self._last(extended(inputs, ids[:-1]), len(ids) - 1)
                chance = chance + sum(row[at] for row, at in zip(rows, ids[1:], strict=True))
            known[ids] = chance
        found = torch.stack(
            [torch.stack([known[ids] for ids in each]).logsumexp(0) for each in answers]
        )
        if not bool(found.isfinite().all()):
            raise ArtefactError(
                f"{self._spec.folder}: the vision-language model answers NaN or infinity: its "
                "weights are damaged; fetch them again"
            )
        return found

    def _last(self, inputs: dict[str, Tensor], count: int) -> Tensor:
        """[count vocabulary] f64 on the CPU: ln P of what follows the last tokens."""
        logits = self._model(**inputs).logits[0, -count:]
        rows: Tensor = logits.cpu().double().log_softmax(-1)
        return rows


def extended(inputs: dict[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
    """The same inputs with tokens behind the prompt; other rows along it go on as they ended."""
    tokens = inputs["input_ids"]
    more = torch.tensor([list(ids)], device=tokens.device, dtype=tokens.dtype)
    found = {}
    for name, each in inputs.items():
        if name == "input_ids":
            found[name] = torch.cat([each, more], 1)
        elif each.shape == tokens.shape:
            found[name] = torch.cat([each, each[:, -1:].expand(-1, len(ids))], 1)
        else:
            found[name] = each
    return found
