"""A CLIP text tower with token vectors in the holes, pooled at EOS; the same functions learn and
render.

The forward of the library is walked part by part: embeddings, causal encoder, final norm, state at
the first end-of-sequence id, projection (Radford et al., 2021, arXiv 2103.00020). Without tokens it
equals `CLIPTextModelWithProjection.forward` of transformers exactly (difference 0.0, tested). With
tokens, vectors replace rows after the embedding lookup, so neither tokenizer nor table is ever
changed, and pooling cannot move to a new word as it does in the library where the config says
`eos_token_id: 2`.

Deviates: the library pools at `argmax(ids)` for that config; here it is always the first true EOS.

Does not: load weights, or know how a base joins its towers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.masking_utils import create_causal_mask

from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.inject import Laid, lay_out
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

ENCODE_ROWS = 8
"""Prompts are encoded in padded chunks of this many: at a fixed size, neighbours do not change a
byte.
"""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one tower says about prompts."""

    penultimate: Tensor
    """[b s d] output of the last layer but one, un-normed: `hidden_states[-2]` of the library."""
    last: Tensor
    """[b s d] after the final norm."""
    pooled: Tensor
    """[b d'] state at EOS, projected where the class has a projection."""


class ClipWords:
    """The tokenizer half of a tower: prompt to laid out ids. Needs no weights."""

    def __init__(self, name: str, tokenizer: CLIPTokenizer, length: int) -> None:
        self.name, self.tokenizer, self.length = name, tokenizer, length
        self.bos, self.eos, self.pad = (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )

    def tokenize(self, text: str) -> list[tuple[int, int]]:
        """(id, start) pairs without special ids."""
        found = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [
            (number, start)
            for number, (start, _) in zip(found.input_ids, found.offset_mapping, strict=True)
        ]

    def lay_out(self, prompt: str, tokens: Sequence[Token]) -> Laid:
        """See `inject.lay_out`."""
        counts = {token.word: token.counts[self.name] for token in tokens}
        return lay_out(
            prompt,
            counts,
            self.tokenize,
            bos=self.bos,
            eos=self.eos,
            pad=self.pad,
            length=self.length,
        )


class ClipTower:
    """One text tower with weights."""

    def __init__(self, words: ClipWords, model: CLIPTextModelWithProjection) -> None:
        self.words, self.model = words, model
        self._text = getattr(model, "text_model", model)
        self._projection = getattr(model, "text_projection", None)
        self.check_eos()

    @property
    def width(self) -> int:
        """Width d of vocabulary rows and states."""
        return int(self.model.config.hidden_size)

    def check_eos(self) -> None:
        """Raise ArtefactError when tokenizer and encoder disagree about the id at which to pool, or
        on the size.
        """
        said, true = self.model.config.eos_token_id, self.words.eos
        rows, positions = self.model.config.vocab_size, self.model.config.max_position_embeddings
        if said not in (true, 2) or true >= rows:
            raise ArtefactError(
                f"{self.words.name}: the tokenizer ends prompts with id {true}, "
                f"the encoder expects {said}"
            )
        if self.words.length > positions:
            raise ArtefactError(
                f"{self.words.name}: prompts of {self.words.length} ids, but {positions} positions"
            )

    def embed(
        self, laid: Sequence[Laid], vectors: Mapping[str, Tensor], length: int | None = None
    ) -> Tensor:
        """[b s d] input embeddings with positions; `vectors` [n d] per word fill the holes,
        gradients pass.

        `length` cuts the sequence: exact for every position before the cut, because attention is
        causal.
        """
        table = self._text.embeddings
        ids = torch.tensor(
            [row.ids[:length] for row in laid], device=table.token_embedding.weight.device
        )
        rows = table.token_embedding(ids)
        holes = [
            (b, s, word, n)
            for b, row in enumerate(laid)
            for s, word, n in row.holes
            if s < ids.shape[1]
        ]
        if holes:
            values = torch.stack([vectors[word][n] for _, _, word, n in holes]).to(rows)
            where = (torch.tensor([b for b, *_ in holes]), torch.tensor([s for _, s, *_ in holes]))
            rows = rows.index_put(tuple(place.to(rows.device) for place in where), values)
        embedded: Tensor = table(inputs_embeds=rows)
        return embedded

    def run(self, embedded: Tensor, eos: Sequence[int]) -> Encoded:
        """Encoder, norm, pooling at the given positions, projection."""
        mask = create_causal_mask(
            config=self._text.config,
            inputs_embeds=embedded,
            attention_mask=None,
            past_key_values=None,
        )
        hidden = before = embedded
        for layer in self._text.encoder.layers:
            before, hidden = hidden, layer(hidden, mask, is_causal=True)
        last = self._text.final_layer_norm(hidden)
        places = torch.tensor(list(eos), device=last.device)
        pooled = last[torch.arange(len(places), device=last.device), places]
        return Encoded(
            before, last, self._projection(pooled) if self._projection is not None else pooled
        )

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[Encoded, list[Laid]]:
        """Full length states for rendering. The caller sees to fixed chunks."""
        laid = [self.words.lay_out(prompt, tokens) for prompt in prompts]
        return self.run(self.embed(laid, self.vectors(tokens)), [row.eos for row in laid]), laid

    def pooled(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Tensor:
        """[b d'] as in `encode`, computed only up to the last EOS; differentiable in the tokens'
        vectors.
        """
        laid = [self.words.lay_out(prompt, tokens) for prompt in prompts]
        ends = [row.eos for row in laid]
        return self.run(self.embed(laid, self.vectors(tokens), max(ends) + 1), ends).pooled

    def vectors(self, tokens: Sequence[Token]) -> dict[str, Tensor]:
        """This tower's vectors by word."""
        return {token.word: token.vectors[self.words.name] for token in tokens}

    def rows(self, word: str) -> Tensor:
        """[n d] f32 copies of the vocabulary rows of a word. Raises ArtefactError for a word
        without ids.
        """
        ids = [number for number, _ in self.words.tokenize(word)]
        if not ids:
            raise ArtefactError(f"{word[:40]!r} is no word for {self.words.name}")
        weight: Tensor = self._text.embeddings.token_embedding.weight
        return weight[torch.tensor(ids, device=weight.device)].detach().float().clone()


def chunks(prompts: Sequence[str], rows: int = ENCODE_ROWS) -> list[list[str]]:
    """Prompts in chunks of exactly `rows`, the last filled up with copies of its last prompt."""
    cut = [list(prompts[start : start + rows]) for start in range(0, len(prompts), rows)]
    return [chunk + [chunk[-1]] * (rows - len(chunk)) for chunk in cut]
