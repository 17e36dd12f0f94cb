"""The T5 encoder of SD3 and FLUX: it reads the literal in place of a token's word.

Does not: know the sequence that a denoiser takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._diffusers import load_rows
from creatok_cli.backbones.base import torch_dtype
from creatok_cli.tokens.inject import spell_out
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

TABLES = ("shared.weight", "encoder.embed_tokens.weight")
"""Names of T5's table of input rows in checkpoints."""


class T5:
    """Tokenizer at once, weights when something is encoded."""

    def __init__(self, loader: Loader, tokenizer: str, model: str, length: int) -> None:
        from transformers import T5Tokenizer

        self._loader, self._part, self._length = loader, model, length
        self._words: Any = loader.small(T5Tokenizer, tokenizer)
        self._model: Any = None

    def drop(self) -> None:
        """Forget the weights."""
        self._model = None

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Tensor:
        """[b t d] states of exactly `length` positions."""
        if self._model is None:
            from transformers import T5EncoderModel

            self._model = self._loader.model(T5EncoderModel, self._part)
        found = self._words(
            [_plain(prompt, tokens) for prompt in prompts],
            padding="max_length",
            max_length=self._length,
            truncation=True,
            return_tensors="pt",
        )
        states: Tensor = self._model(found.input_ids.to(self._loader.device))[0]
        return states.to(torch_dtype(self._loader.dtype))

    def cut(self, prompt: str, tokens: Sequence[Token]) -> str:
        """The end of a prompt, words spelled out, that does not fit; reads no weights."""
        plain = _plain(prompt, tokens)
        found = self._words(
            plain, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        dropped = found.offset_mapping[self._length - 1 :]  # the last position is the end's
        return plain[dropped[0][0] :].strip() if dropped else ""

    def rows(self, word: str) -> Tensor:
        """[m d] f32 input rows of a word, read without the rest of the model."""
        numbers = self._words(word, add_special_tokens=False).input_ids
        return load_rows(self._loader.folder, self._part, TABLES, numbers)


def _plain(prompt: str, tokens: Sequence[Token]) -> str:
    return spell_out(prompt, {token.word: token.literal for token in tokens})
