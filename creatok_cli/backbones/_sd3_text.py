"""The text side of Stable Diffusion 3: two CLIP towers with tokens in the holes, T5 by literal.

The sequence that the denoiser reads is [clip_l | clip_g] side by side, then T5 states; only the
compact parts are kept here, padding and zero rows are added when it is used.

Does not: denoise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._clip import ENCODE_ROWS, ClipTower, ClipWords, PooledMap, chunks
from creatok_cli.backbones._diffusers import load_part, load_rows, load_small
from creatok_cli.backbones._lora import Loras, wear
from creatok_cli.backbones.base import Conditioning, torch_dtype
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.inject import spell_out
from creatok_cli.tokens.token import T5, Token

if TYPE_CHECKING:
    from torch import Tensor


T5_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
"""Names of T5's table of input rows in checkpoints."""


class Sd3Text:
    """Two CLIP towers and perhaps T5. Weights are read when something is encoded."""

    def __init__(
        self, facts: BaseFacts, device: str, dtype: str, t5_length: int, *, loras: Loras = ()
    ) -> None:
        from transformers import CLIPTokenizer, T5Tokenizer

        self._folder, self._device, self._dtype = facts.folder, device, dtype
        self.encoders: Mapping[str, int] = dict(facts.encoders)
        length = (facts.max_prompt_tokens or 75) + 2
        places = zip(self.encoders, ("tokenizer", "tokenizer_2"), strict=True)
        self._words = [
            ClipWords(name, load_small(CLIPTokenizer, self._folder, part), length)
            for name, part in places
        ]
        self._has_t5 = (Path(self._folder) / "text_encoder_3" / "config.json").is_file()
        self._t5_words: Any = (
            load_small(T5Tokenizer, self._folder, "tokenizer_3") if self._has_t5 else None
        )
        self._t5_length = t5_length or 256
        self._loras = loras
        self._towers: list[ClipTower] = []
        self._t5: Any = None

    @property
    def towers(self) -> list[ClipTower]:
        """Both CLIP towers, read on first use."""
        if not self._towers:
            from transformers import CLIPTextModelWithProjection

            for words, part in zip(self._words, ("text_encoder", "text_encoder_2"), strict=True):
                model = load_part(
                    CLIPTextModelWithProjection,
                    self._folder,
                    part,
                    dtype=self._dtype,
                    device=self._device,
                )
                self._towers.append(ClipTower(words, wear(model, part, self._loras)))
        return self._towers

    def drop(self) -> None:
        """Forget the weights, keep the tokenizers."""
        self._towers, self._t5 = [], None

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Conditioning:
        """`states` [b s l+g], `pooled` [b l'+g'] and, with T5, `t5` [b t joint]."""
        parts: list[Conditioning] = []
        for chunk in chunks(prompts):
            encoded = [tower.encode(chunk, tokens) for tower in self.towers]
            tensors = {
                "states": torch.cat([states.penultimate for states, _ in encoded], dim=-1),
                "pooled": torch.cat([states.pooled for states, _ in encoded], dim=-1),
            }
            if self._has_t5:
                tensors["t5"] = self._encode_t5(chunk, tokens)
            cut = tuple(
                max((row.cut for row in rows), key=len)
                for rows in zip(*(laid for _, laid in encoded), strict=True)
            )
            kept = min(ENCODE_ROWS, len(prompts) - len(parts) * ENCODE_ROWS)
            parts.append(Conditioning(tensors, cut).rows(range(kept)))
        return Conditioning.stack(parts)

    def _encode_t5(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Tensor:
        if self._t5 is None:
            from transformers import T5EncoderModel

            self._t5 = load_part(
                T5EncoderModel,
                self._folder,
                "text_encoder_3",
                dtype=self._dtype,
                device=self._device,
            )
        literals = {token.word: token.literal for token in tokens}
        plain = [spell_out(prompt, literals) for prompt in prompts]
        found = self._t5_words(
            plain,
            padding="max_length",
            max_length=self._t5_length,
            truncation=True,
            return_tensors="pt",
        )
        states: Tensor = self._t5(found.input_ids.to(self._device))[0]
        return states.to(torch_dtype(self._dtype))

    def cut(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[str, ...]:
        """Per prompt the end that no CLIP tower will see whole; reads no weights."""
        return tuple(
            max((words.lay_out(prompt, tokens).cut for words in self._words), key=len)
            for prompt in prompts
        )

    def pooled(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Mapping[str, Tensor]:
        """[b d'] projected state at EOS per tower."""
        return {tower.words.name: tower.pooled(prompts, tokens) for tower in self.towers}

    def rows(self, word: str) -> Mapping[str, Tensor]:
        """[n d] vocabulary rows of a word per tower, and of T5 where there is one."""
        found = {tower.words.name: tower.rows(word) for tower in self.towers}
        if self._has_t5:
            numbers = self._t5_words(word, add_special_tokens=False).input_ids
            found[T5] = load_rows(self._folder, "text_encoder_3", T5_TABLES, numbers)
        return found

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
