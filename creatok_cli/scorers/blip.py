"""BLIP: labels by visual question answering, from the likelihood of each class as the answer.

The picture and the question go through the encoders once; the decoder reads every class name
behind its start token, whole and teacher-forced:

    l_c = sum_j ln P(w_j | w_<j, picture, question)     over all sub-tokens of c and the end token
    p   = softmax(l / T)

With the end token l_c is the log-probability of the answer c, so at T = 1 p is the exact posterior
given that one of the classes is the answer. Li et al. 2022, arXiv 2201.12086; ranking answers as
in its Section 5.3, but all of them, without the shortcut over first tokens.

Deviates: the question begins with [CLS], as the model runs in transformers; it was trained with
[ENC] there, which `question_start: enc` restores.

Does not: download, read anything but safetensors, or answer in free words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from PIL.Image import Resampling

from creatok_cli.domain import Labels
from creatok_cli.errors import ArtefactError, InputError, UnknownName
from creatok_cli.scorers._folder import UNREADABLE, Pixels, read_model, read_pixels, to_tensor, why

if TYPE_CHECKING:
    from torch import Tensor

GIVES = ("labels",)
PIXELS: Pixels = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""Of the pre-trained image encoder, where a folder has no preprocessor_config.json."""
GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Which model, what it is asked, and how its likelihoods become probabilities."""

    folder: str = ""
    """Of a BlipForQuestionAnswering, such as Salesforce/blip-vqa-base; required."""
    question: str = "What animal is in the photo?"
    """Where `label` is not told another."""
    question_start: Literal["cls", "enc"] = "cls"
    """The question's first token: as transformers runs the model, or as it was trained."""
    temperature: float = 1.0
    """Divides the log-likelihoods: above 1 flatter, below 1 sharper."""
    rows: int = 64
    """Class names that go through the decoder together."""
    grey: bool = False
    """Subtract what the model says of a grey picture, which is its prejudice for common words
    (Zhao et al. 2021, arXiv 2102.09690). What remains is no posterior.
    """
    normalise: bool = False
    """Divide each log-likelihood by its number of tokens, so that names of many tokens are not the
    less likely for it. What remains are no probabilities of answers, only shares.
    """
    device: str = "cpu"
    """cpu, mps, cuda or cuda:INDEX."""

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= 1024:
            raise ValueError("rows is 1 to 1024")
        if not 0.01 <= self.temperature <= 100:
            raise ValueError("temperature is 0.01 to 100")
        if not self.question.strip():
            raise ValueError("question is a sentence")


def build(spec: Spec) -> BlipLabeler:
    """Reads the model in f32. Raises InputError without a folder, ArtefactError where the folder
    has no such model.
    """
    if not spec.folder:
        raise InputError(
            "scorers: blip needs folder=..., a folder with a BLIP model for visual question "
            "answering, such as Salesforce/blip-vqa-base"
        )
    return BlipLabeler(spec)


class BlipLabeler:
    """A Labeler."""

    def __init__(self, spec: Spec) -> None:
        from transformers import BertTokenizer, BlipForQuestionAnswering

        self._spec, folder = spec, Path(spec.folder)
        try:
            self._tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = read_model(BlipForQuestionAnswering, folder)
            self._pixels = read_pixels(folder, PIXELS)
            words = self._model.config.text_config
            self._start, self._end = int(words.bos_token_id), int(words.sep_token_id)
            self._longest = int(words.max_position_embeddings)
            # [DEC] and [ENC] were added behind the words of BERT, in this order.
            self._enc = self._start + 1
            known = (self._start, self._end, len(self._tokenizer) - 1)
            if max(*known, self._enc if spec.question_start == "enc" else 0) >= words.vocab_size:
                raise ValueError("its tokenizer knows more tokens than its decoder")
            if words.hidden_size != words.encoder_hidden_size:
                raise ValueError("its decoder cannot read its question encoder: widths differ")
        except UNREADABLE as error:
            reason = why(error)
            raise ArtefactError(f"{folder}: no BLIP model can be read there: {reason}") from error
        try:
            self._model.to(spec.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"blip: device={spec.device[:40]!r}: {why(error)}") from None
        self._known: dict[tuple[tuple[str, ...], str], Tensor] = {}

    def label(
        self, images: Sequence[Image.Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        """Probabilities over `classes`, which have to be named, as answers to the question.

        Raises UnknownName for a class that the model's words cannot spell.
        """
        rows = (self.logits(images, classes, question) / self._spec.temperature).softmax(1)
        return [
            Labels(probabilities=tuple(zip(classes, row, strict=True))) for row in rows.tolist()
        ]

    def logits(
        self, images: Sequence[Image.Image], classes: Sequence[str], question: str = ""
    ) -> Tensor:
        """[b k] f64 on the CPU: l of each class, before the temperature.

        One picture at a time, so neighbours change no bit. Raises as `label`, and InputError
        without classes.
        """
        if not classes:
            raise InputError("blip: a labeler needs the classes to choose from")
        question = question or self._spec.question
        asked, answers = self._question(question), self._answers(classes)
        found = [self._likelihoods(image, asked, answers) for image in images]
        if not found:
            return torch.zeros(0, len(classes), dtype=torch.float64)
        logits = torch.stack(found)
        if self._spec.grey:
            key = (tuple(classes), question)
            if key not in self._known:
                grey = Image.new("RGB", images[0].size, GREY)
                self._known[key] = self._likelihoods(grey, asked, answers)
            logits = logits - self._known[key]
        if self._spec.normalise:
            logits = logits / torch.tensor([len(answer) - 1 for answer in answers])
        return logits

    @torch.inference_mode()
    def _likelihoods(self, image: Image.Image, asked: Tensor, answers: list[list[int]]) -> Tensor:
        """[k] f64: ln P(answer | picture, question), every answer with its end token."""
        model, rows = self._model, self._spec.rows
        pixels = self._prepared(image)[None].to(self._spec.device)
        seen = model.vision_model(pixel_values=pixels).last_hidden_state
        read = model.text_encoder(input_ids=asked, encoder_hidden_states=seen).last_hidden_state
        parts = []
        for start in range(0, len(answers), rows):
            ids, real = self._padded(answers[start : start + rows])
            states = read.expand(len(ids), -1, -1)
            # Pads stand behind the end token, where the causal mask hides them from all that count.
            logits = model.text_decoder(
                input_ids=ids[:, :-1], encoder_hidden_states=states, use_cache=False
            ).logits
            chosen = logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(2)
            parts.append((chosen.cpu().double() * real).sum(1))
        found = torch.cat(parts)
        if not found.isfinite().all():
            raise ArtefactError(
                f"{self._spec.folder}: the BLIP model answers NaN or infinity: its weights are "
                "damaged; fetch them again"
            )
        return found

    def _padded(self, answers: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids [r n], filled up with the end token, and [r n-1] f64: 1 where a token counts."""
        length = max(len(answer) for answer in answers)
        ids = torch.full((len(answers), length), self._end)
        real = torch.zeros(len(answers), length - 1, dtype=torch.float64)
        for row, answer in enumerate(answers):
            ids[row, : len(answer)] = torch.tensor(answer)
            real[row, : len(answer) - 1] = 1
        return ids.to(self._spec.device), real

    def _question(self, question: str) -> Tensor:
        """[1 s]: the question's ids, begun as the Spec says."""
        ids = list(self._tokenizer(question, truncation=False).input_ids)
        if len(ids) > self._longest:
            raise InputError(
                f"blip: the question has {len(ids)} tokens, the model reads {self._longest}; "
                f"shorten {question[:60]!r}"
            )
        if self._spec.question_start == "enc":
            ids[0] = self._enc
        return torch.tensor([ids], device=self._spec.device)

    def _answers(self, classes: Sequence[str]) -> list[list[int]]:
        """Start token, sub-tokens and end token of each class."""
        answers, owners = [], dict[tuple[int, ...], str]()
        for name in classes:
            ids = self._tokenizer(name, add_special_tokens=False, truncation=False).input_ids
            if not ids or self._tokenizer.unk_token_id in ids or len(ids) + 2 > self._longest:
                raise UnknownName(
                    f"blip: the model cannot spell the class {name[:60]!r}; use plain words"
                )
            if tuple(ids) in owners:
                raise InputError(
                    f"blip: the model reads {name[:60]!r} and {owners[tuple(ids)][:60]!r} as the "
                    "same word; keep one of them"
                )
            owners[tuple(ids)] = name
            answers.append([self._start, *ids, self._end])
        return answers

    def _prepared(self, image: Image.Image) -> Tensor:
        """[3 H W]: the whole picture squeezed to the model's square, mean and std as trained."""
        side: Any = self._model.config.vision_config.image_size
        image = image.convert("RGB").resize((side, side), Resampling.BICUBIC)
        return to_tensor(image, self._pixels)
