"""A text side over CLIP towers, with T5 beside them where a family has it: everything but how the
family joins what its towers say.

Does not: denoise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._clip import (
    ENCODE_ROWS,
    ClipTower,
    ClipWords,
    Encoded,
    PooledMap,
    chunks,
)
from creatok_cli.backbones._t5 import T5
from creatok_cli.backbones.base import Conditioning
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.inject import Laid
from creatok_cli.tokens.token import T5 as T5_NAME
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor


class ClipSide(ABC):
    """CLIP towers, read when something is encoded; tokenizers at once. A family adds `joined`.

    `places`: encoder name -> (folder of the tokenizer, folder of the model), in the family's order.
    """

    def __init__(
        self,
        loader: Loader,
        facts: BaseFacts,
        places: Mapping[str, tuple[str, str]],
        t5: T5 | None = None,
    ) -> None:
        from transformers import CLIPTokenizer

        self.loader, self.t5 = loader, t5
        widths = dict(facts.encoders)
        self.encoders: Mapping[str, int] = {name: widths[name] for name in places}
        length = (facts.max_prompt_tokens or 75) + 2
        self._words = [
            ClipWords(name, loader.small(CLIPTokenizer, words), length)
            for name, (words, _) in places.items()
        ]
        self._models = [model for _, model in places.values()]
        self._towers: list[ClipTower] = []
        self._lock = RLock()

    def kind(self, model: str) -> type[Any]:
        """The class of a tower by the folder of its model."""
        from transformers import CLIPTextModelWithProjection

        return CLIPTextModelWithProjection

    @abstractmethod
    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """What the denoiser needs of one chunk, from what each tower says of it."""

    @property
    def towers(self) -> list[ClipTower]:
        """All towers, read on first use."""
        with self._lock:
            if not self._towers:
                pairs = zip(self._words, self._models, strict=True)
                self._towers = [
                    ClipTower(words, self.loader.model(self.kind(model), model))
                    for words, model in pairs
                ]
            return self._towers

    def drop(self) -> None:
        """Forget the weights, keep the tokenizers."""
        with self._lock:
            self._towers = []
            if self.t5 is not None:
                self.t5.drop()

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Conditioning:
        """See `backbones.base.TextSide.encode`; the tensors are those of `joined`, and `t5` [b t d]
        where there is T5.
        """
        parts: list[Conditioning] = []
        for chunk in chunks(prompts):
            found = [tower.encode(chunk, tokens) for tower in self.towers]
            laid = [rows for _, rows in found]
            tensors = self.joined([states for states, _ in found], laid, tokens)
            if self.t5 is not None:
                tensors["t5"] = self.t5.encode(chunk, tokens)
            cut = tuple(
                self.unread(prompt, rows, tokens)
                for prompt, *rows in zip(chunk, *laid, strict=True)
            )
            kept = min(ENCODE_ROWS, len(prompts) - len(parts) * ENCODE_ROWS)
            parts.append(Conditioning(tensors, cut).rows(range(kept)))
        return Conditioning.stack(parts)

    def unread(self, prompt: str, laid: Sequence[Laid], tokens: Sequence[Token]) -> str:
        """The end of a prompt that a tower does not see whole, by how each tower laid it out."""
        return max((row.cut for row in laid), key=len)

    def cut(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[str, ...]:
        """Per prompt the end that is not read; reads no weights."""
        return tuple(
            self.unread(prompt, [words.lay_out(prompt, tokens) for words in self._words], tokens)
            for prompt in prompts
        )

    def pooled(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Mapping[str, Tensor]:
        """[b d'] projected state at EOS per tower."""
        return {tower.words.name: tower.pooled(prompts, tokens) for tower in self.towers}

    def rows(self, word: str) -> Mapping[str, Tensor]:
        """[n d] vocabulary rows of a word per tower, and of T5 where there is one."""
        found = {tower.words.name: tower.rows(word) for tower in self.towers}
        return found if self.t5 is None else {**found, T5_NAME: self.t5.rows(word)}

    def pooled_map(
        self, prompts: Sequence[str], word: str, counts: Mapping[str, int]
    ) -> Mapping[str, PooledMap]:
        """See `backbones.base.TextSide.pooled_map`."""
        return {
            tower.words.name: tower.pooled_map(prompts, word, counts[tower.words.name])
            for tower in self.towers
        }

    def vocabulary(self) -> Mapping[str, tuple[Tensor, tuple[str, ...]]]:
        """Table [v d] and spelling of its rows, per tower."""
        return {tower.words.name: tower.vocabulary() for tower in self.towers}

    def digests(self) -> Mapping[str, str]:
        """Digest of the weights, per tower."""
        return {tower.words.name: tower.digest() for tower in self.towers}
