"""A text side over CLIP towers: everything but how a family joins what its towers say.

Does not: denoise, or know T5.
"""

from __future__ import annotations

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
from creatok_cli.backbones.base import Conditioning
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.inject import Laid
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor


class ClipSide:
    """CLIP towers, read when something is encoded; tokenizers at once. A family adds `joined`.

    `places`: encoder name -> (folder of the tokenizer, folder of the model), in the family's order.
    """

    def __init__(
        self, loader: Loader, facts: BaseFacts, places: Mapping[str, tuple[str, str]]
    ) -> None:
        from transformers import CLIPTokenizer

        self.loader = loader
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

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """What the denoiser needs of one chunk, from what each tower says of it."""
        raise NotImplementedError

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

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Conditioning:
        """See `backbones.base.TextSide.encode`; the tensors are those of `joined`."""
        parts: list[Conditioning] = []
        for chunk in chunks(prompts):
            found = [tower.encode(chunk, tokens) for tower in self.towers]
            laid = [rows for _, rows in found]
            tensors = self.joined([states for states, _ in found], laid, tokens)
            tensors |= self.more(chunk, tokens)
            cut = tuple(max((row.cut for row in rows), key=len) for rows in zip(*laid, strict=True))
            kept = min(ENCODE_ROWS, len(prompts) - len(parts) * ENCODE_ROWS)
            parts.append(Conditioning(tensors, cut).rows(range(kept)))
        return Conditioning.stack(parts)

    def more(self, prompts: Sequence[str], tokens: Sequence[Token]) -> dict[str, Tensor]:
        """What encoders beside the towers say of one chunk: T5."""
        return {}

    def cut(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[str, ...]:
        """Per prompt the end that a tower will not see whole; reads no weights."""
        return tuple(
            max((words.lay_out(prompt, tokens).cut for words in self._words), key=len)
            for prompt in prompts
        )

    def pooled(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Mapping[str, Tensor]:
        """[b d'] projected state at EOS per tower."""
        return {tower.words.name: tower.pooled(prompts, tokens) for tower in self.towers}

    def rows(self, word: str) -> Mapping[str, Tensor]:
        """[n d] vocabulary rows of a word per tower."""
        return {tower.words.name: tower.rows(word) for tower in self.towers}

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
