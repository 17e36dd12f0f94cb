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

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers.masking_utils import create_causal_mask

from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.inject import Laid, lay_out
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

FEW_ROWS = 4
PACKED = range(1 << 18, 1 << 22)
"""Sizes of weights that are packed for few rows: smaller ones would lose by it, copies of larger
ones would cost gigabytes. Measured with one thread, 3 rows, all products of CLIP-L: plain 42 ms
forwards and 34 back, packed 11 each way.
"""
ENCODE_ROWS = 8
"""Prompts are encoded in padded chunks of this many: at a fixed size, neighbours do not change a
byte.
"""


Packs = dict[tuple[int, int], "_Packed"]
"""By the identity of a weight and the number of rows."""


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
        return self.lay_out_counts(
            prompt, {token.word: token.counts[self.name] for token in tokens}
        )

    def lay_out_counts(self, prompt: str, counts: Mapping[str, int]) -> Laid:
        """The same for words of which only the number of vectors is known."""
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
        self.words, self.model = words, model.requires_grad_(False)
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

    def pooled_map(self, prompts: Sequence[str], word: str, count: int) -> PooledMap:
        """See `PooledMap`. Raises ArtefactError when the word is not in a prompt, or a prompt does
        not fit.
        """
        laid = [self.words.lay_out_counts(prompt, {word: count}) for prompt in prompts]
        for prompt, row in zip(prompts, laid, strict=True):
            if not row.holes or row.cut:
                raise ArtefactError(f"{prompt[:60]!r} must hold {word} and fit into one prompt")
        return PooledMap(self, laid)

    def vectors(self, tokens: Sequence[Token]) -> dict[str, Tensor]:
        """This tower's vectors by word."""
        return {token.word: token.vectors[self.words.name] for token in tokens}

    def vocabulary(self) -> tuple[Tensor, tuple[str, ...]]:
        """The table [v d] as it is, and how each row is spelled; empty for special ids."""
        weight: Tensor = self._text.embeddings.token_embedding.weight.detach()
        known = self.words.tokenizer.get_vocab()
        spelled = [""] * weight.shape[0]
        special = set(self.words.tokenizer.all_special_ids)
        for piece, number in known.items():
            if number < len(spelled) and number not in special:
                spelled[number] = piece.removesuffix("</w>")
        return weight, tuple(spelled)

    def digest(self) -> str:
        """`sha256:` and 64 hex digits over names, shapes and bytes of the weights, as loaded."""
        found = hashlib.sha256()
        for name, weight in sorted(self.model.state_dict().items()):
            found.update(f"{name} {list(weight.shape)} {weight.dtype}\n".encode())
            found.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return f"sha256:{found.hexdigest()}"

    def rows(self, word: str) -> Tensor:
        """[n d] f32 copies of the vocabulary rows of a word. Raises ArtefactError for a word
        without ids.
        """
        ids = [number for number, _ in self.words.tokenize(word)]
        if not ids:
            raise ArtefactError(f"{word[:40]!r} is no word for {self.words.name}")
        weight: Tensor = self._text.embeddings.token_embedding.weight
        return weight[torch.tensor(ids, device=weight.device)].detach().float().clone()


class PooledMap:
    """Prompts with holes, ready to be pooled for many candidate vectors.

    What the prompts have in common before their first hole is computed once and enters as keys and
    values, nothing after EOS is computed, and the last layer answers at EOS alone: exact, because
    attention is causal. Differentiable in the vectors.
    """

    def __init__(self, tower: ClipTower, laid: Sequence[Laid]) -> None:
        self._text, self._projection = tower._text, tower._projection
        self._packed: Packs = {}
        table = self._text.embeddings
        weight = table.token_embedding.weight
        first = _shared_prefix(laid)
        length = max(row.eos for row in laid) + 1
        device, live = weight.device, length - first
        ids = torch.tensor([row.ids[:length] for row in laid], device=device)
        with torch.no_grad():
            constant = table(input_ids=ids)  # [p s d] with positions
            self._past = self._prefix(constant[:1, :first])
        holes = [
            (p, place - first, row) for p, each in enumerate(laid) for place, _, row in each.holes
        ]
        where = torch.tensor(holes, device=device)
        self._order = [row for _, _, row in laid[0].holes]
        self._places = where[:, 1].view(len(laid), -1)  # [p holes]
        positions = table.position_embedding.weight[first:length].detach()
        self._constant = constant[:, first:].clone()
        self._constant[where[:, 0], where[:, 1]] = positions[where[:, 1]]
        self._eos = torch.tensor([row.eos - first for row in laid], device=device)
        self._first, self._norm = first, self._text.final_layer_norm
        later = torch.ones(live, live, dtype=torch.bool, device=device).triu(1)
        # [s p+s]: the shared positions are always seen, of the live ones those before
        self._mask = torch.zeros(live, length, dtype=weight.dtype, device=device)
        self._mask[:, first:].masked_fill_(later, float("-inf"))

    def _prefix(self, hidden: Tensor) -> list[_Past]:
        """Keys and values of the shared positions, per layer, and the joined projections."""
        mask = create_causal_mask(
            config=self._text.config,
            inputs_embeds=hidden,
            attention_mask=None,
            past_key_values=None,
        )
        past = []
        for layer in self._text.encoder.layers:
            heads, normed = layer.self_attn, layer.layer_norm1(hidden)
            parts = (heads.q_proj, heads.k_proj, heads.v_proj)
            past.append(
                _Past(
                    _split(heads.k_proj(normed), heads),
                    _split(heads.v_proj(normed), heads),
                    torch.cat([part.weight for part in parts]),
                    torch.cat([part.bias for part in parts]),
                    {},
                )
            )
            hidden = layer(hidden, mask, is_causal=True)
        return past

    def _linear(self, layer: Any, states: Tensor) -> Tensor:
        return self._product(layer.weight, layer.bias, states, self._packed)

    def _product(self, weight: Tensor, bias: Tensor, states: Tensor, packed: Packs) -> Tensor:
        """states [m k] @ weight [n k].T + bias.

        On a CPU few rows and large weights go another way, for two more copies of the weights.
        """
        rows = states.shape[0]
        is_few = rows <= FEW_ROWS and weight.numel() in PACKED
        if not is_few or weight.device.type != "cpu" or weight.dtype != torch.float32:
            return torch.addmm(bias, states, weight.t())
        key = id(weight), rows
        if key not in packed:
            packed[key] = _Packed(weight, rows)
        found: Tensor = _FewRows.apply(states, bias, packed[key])
        return found

    def __call__(self, vectors: Tensor, which: Tensor | None = None) -> Tensor:
        """[r n d] -> [r p d'] for the prompts `which` [p], all of them by default."""
        rows, prompts = vectors.shape[0], self._constant
        places, eos = self._places, self._eos
        if which is not None:
            prompts, places, eos = prompts[which], places[which], eos[which]
        count, live, width = prompts.shape
        batch = rows * count
        starts = torch.arange(0, batch * live, live, device=eos.device)
        holes = (places.repeat(rows, 1) + starts[:, None]).flatten()
        values = vectors[:, None, self._order].expand(-1, count, -1, -1).reshape(-1, width)
        # Positions of all prompts in one row of rows [b*s d]: fewer views, fewer calls.
        hidden = prompts.repeat(rows, 1, 1).view(-1, width)
        hidden = hidden.index_add(0, holes, values.to(hidden.dtype))
        ends, mask = eos.repeat(rows), self._mask
        layers = self._text.encoder.layers
        for layer, past in zip(layers, self._past, strict=True):
            heads = layer.self_attn
            joined = self._product(
                past.weight, past.bias, _normed(layer.layer_norm1, hidden), past.packed
            )
            split = joined.view(batch, live, 3, heads.num_heads, heads.head_dim)
            query, keys, states = split.permute(2, 0, 3, 1, 4).unbind()  # each [b h s d/h]
            if layer is layers[-1]:
                hidden, mask = hidden[starts + ends], mask[ends][:, None, None]  # [b 1 1 p+s]
                query = query[torch.arange(batch, device=ends.device), :, ends][:, :, None]
            mixed = functional.scaled_dot_product_attention(
                query,
                torch.cat([past.keys.expand(batch, -1, -1, -1), keys], dim=2),
                torch.cat([past.values.expand(batch, -1, -1, -1), states], dim=2),
                attn_mask=mask,
                scale=heads.scale,
            )
            hidden = hidden + self._linear(heads.out_proj, mixed.transpose(1, 2).reshape(-1, width))
            wide = self._linear(layer.mlp.fc1, _normed(layer.layer_norm2, hidden))
            hidden = hidden + self._linear(layer.mlp.fc2, layer.mlp.activation_fn(wide))
        pooled = _normed(self._norm, hidden)
        if self._projection is not None:
            pooled = pooled @ self._projection.weight.t()
        return pooled.unflatten(0, (rows, count))


class _FewRows(torch.autograd.Function):
    """states @ weight.T + bias for so few rows that reading the weights is the work."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, states: Tensor, bias: Tensor, packed: _Packed
    ) -> Tensor:
        ctx.packed = packed
        return packed.ahead(states) + bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return ctx.packed.back(grad), None, None


class _Packed:
    """A weight [n k] twice, laid out for products with few rows: `ahead` [m k] -> [m n], and `back`
    [m n] -> [m k].
    """

    def __init__(self, weight: Tensor, rows: int) -> None:
        self.ahead = _product_with(weight.detach(), rows)
        self.back = _product_with(weight.detach().t().contiguous(), rows)


def _product_with(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """[m k] -> [m n] by oneDNN's own layout, which torch's compiler uses, too; where this torch
    has it not, by reading the weight [n k] in the order in which it lies.
    """
    try:
        multiply = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        multiply(torch.zeros(rows, weight.shape[1]), packed, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return lambda states: torch.mm(weight, states.contiguous().t()).t()
    return lambda states: multiply(states.contiguous(), packed, None, "none", [], "")


def _normed(layer: Any, states: Tensor) -> Tensor:
    return functional.layer_norm(states, states.shape[-1:], layer.weight, layer.bias, layer.eps)


def _shared_prefix(laid: Sequence[Laid]) -> int:
    """How many positions all prompts have in common before any hole or end."""
    end = min(min(row.holes[0][0], row.eos) for row in laid)
    first = laid[0].ids
    return next((at for at in range(end) if any(row.ids[at] != first[at] for row in laid)), end)


@dataclass(frozen=True, slots=True)
class _Past:
    """What one layer knows of the constant positions."""

    keys: Tensor
    """[1 h p d/h]."""
    values: Tensor
    """[1 h p d/h]."""
    weight: Tensor
    """[3d d]: query, key and value projections in one."""
    bias: Tensor
    packed: Packs
    """The same laid out for few rows, once it is needed; see `PooledMap._product`."""


def _split(states: Tensor, heads: Any) -> Tensor:
    """[b s d] -> [b h s d/h]."""
    return states.unflatten(-1, (heads.num_heads, heads.head_dim)).transpose(1, 2)


def chunks(prompts: Sequence[str], rows: int = ENCODE_ROWS) -> list[list[str]]:
    """Prompts in chunks of exactly `rows`, the last filled up with copies of its last prompt."""
    cut = [list(prompts[start : start + rows]) for start in range(0, len(prompts), rows)]
    return [chunk + [chunk[-1]] * (rows - len(chunk)) for chunk in cut]
