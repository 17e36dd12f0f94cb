"""Token: a learned word, as vectors per text encoder with the recipe that made them.

A Token never enters a tokenizer or an embedding table. Its vectors fill the holes that `inject`
leaves in a prompt, and its `literal` is the plain word that encoders without vectors (T5) read
instead.

The id is a digest of tensors, literal and recipe. The word, names and dates are left out: a renamed
token is the same token.

Does not: read or write files (`file.py`), or learn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from creatok_cli.errors import ArtefactError, Refused
from creatok_cli.hashing import canonical_json, sha256_hex

if TYPE_CHECKING:
    from torch import Tensor

WORD = re.compile(r"<[a-z0-9][a-z0-9_-]{0,63}>")
ENCODER = re.compile(r"[a-z0-9_]{1,32}")
T5 = "t5xxl"
"""Rows under this name serve exports only: creatok's T5 reads the literal."""
MAX_VECTORS = 64
MAX_NORM = 1e4
"""A row longer than this is damage: vocabulary rows of real CLIP encoders are shorter than 1 (set
by eye).
"""
NOT_IDENTITY = frozenset({"word", "name", "title", "date", "author", "description"})


Rows = tuple[tuple[int, ...], bytes]
"""A shape [n d] and its float32 little-endian bytes: a tensor where torch is not wanted."""


def token_id(tensors: Mapping[str, Rows], literal: str, recipe: Mapping[str, Any]) -> str:
    """`sha256:` and 64 hex digits over shapes, float32 little-endian bytes, literal and recipe."""
    return id_of_digests(tensor_digests(tensors), literal, recipe)


def tensor_digests(tensors: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """What takes part in the id of each tensor: its shape and the digest of its bytes."""
    return {
        name: {"shape": list(shape), "sha256": sha256_hex(data)}
        for name, (shape, data) in tensors.items()
    }


def id_of_digests(digests: Mapping[str, Any], literal: str, recipe: Mapping[str, Any]) -> str:
    """`token_id` where only the digests of the tensors are known."""
    kept = {name: value for name, value in recipe.items() if name not in NOT_IDENTITY}
    return "sha256:" + sha256_hex(
        canonical_json({"tensors": dict(digests), "literal": literal, "recipe": kept})
    )


def check_names(word: str, literal: str, where: str) -> None:
    """Raise Refused for a word or literal that a sheet could not carry."""
    if not WORD.fullmatch(word):
        raise Refused(f"{where}: word {word[:80]!r} must look like <hydra-fox>: a-z, 0-9, '-', '_'")
    if not literal.strip() or len(literal) > 200 or not literal.isprintable():
        raise Refused(f"{where}: literal {literal[:80]!r} must be 1 to 200 printable characters")


def check_rows(name: str, shape: tuple[int, ...], norms: list[float], where: str) -> None:
    """Raise Refused unless a tensor is [n d] with sane, finite rows. `norms` are the lengths of its
    rows.
    """
    if not ENCODER.fullmatch(name):
        raise Refused(f"{where}: {name[:40]!r} is no encoder name")
    if (
        len(shape) != 2
        or not (1 <= shape[0] <= MAX_VECTORS or name == T5)
        or not 1 <= shape[1] <= 65536
    ):
        raise Refused(
            f"{where}: {name} has shape {list(shape)[:8]}; expected [n d], n up to {MAX_VECTORS}"
        )
    for row, norm in enumerate(norms):
        if not math.isfinite(norm):
            raise Refused(f"{where}: row {row} of {name} is not finite: learn the token again")
        if norm > MAX_NORM:
            raise Refused(
                f"{where}: row {row} of {name} has length {norm:.3g}, over {MAX_NORM:.0f}: damaged"
            )


def check_widths(
    word: str, widths: Mapping[str, int], encoders: Mapping[str, int], base: str
) -> None:
    """Raise ArtefactError unless the token has vectors of the right width for every CLIP encoder of
    the base.

    `widths` are the token's, `encoders` the base's; both may hold `t5xxl`, which is not compared.
    """
    for name, width in encoders.items():
        if name == T5:
            continue
        if name not in widths:
            raise ArtefactError(
                f"token {word} has no vectors for {name}, which base {base} needs; "
                f"it has {_list(widths)}"
            )
        if widths[name] != width:
            raise ArtefactError(
                f"token {word} was learned for {name} of width {widths[name]}, "
                f"base {base} has width {width}: "
                "learn it on this base, or use the base that it was learned on"
            )
    extra = sorted(set(widths) - set(encoders) - {T5})
    if extra:
        raise ArtefactError(
            f"token {word} has vectors for {', '.join(extra)}, which base {base} does not have"
        )


def _list(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} [{width}]" for name, width in sorted(widths.items()))


@dataclass(frozen=True, eq=False)
class Token:
    """A learned word. `vectors` are f32 [n d] per encoder; n may differ between encoders."""

    word: str
    """The placeholder that prompts use, with its angle brackets: `<hydra-fox>`."""
    literal: str
    """What encoders without vectors read: usually a plain word such as `creative`."""
    vectors: Mapping[str, Tensor]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON data that tells how the vectors came to be."""

    def __post_init__(self) -> None:
        where = f"token {self.word[:80]!r}"
        check_names(self.word, self.literal, where)
        if not self.vectors:
            raise Refused(f"{where}: no vectors")
        for name, rows in self.vectors.items():
            if str(rows.dtype) != "torch.float32":
                raise Refused(f"{where}: {name} is {rows.dtype}; tokens are float32")
            norms = rows.detach().double().norm(dim=-1).tolist() if rows.ndim == 2 else []
            check_rows(name, tuple(rows.shape), norms, where)
        canonical_json(dict(self.recipe))

    @cached_property
    def id(self) -> str:
        """`sha256:...` over tensors, literal and recipe; see `token_id`."""
        parts = {name: (tuple(rows.shape), row_bytes(rows)) for name, rows in self.vectors.items()}
        return token_id(parts, self.literal, self.recipe)

    @property
    def widths(self) -> dict[str, int]:
        """Width d per encoder."""
        return {name: int(rows.shape[1]) for name, rows in self.vectors.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Number of vectors n per encoder."""
        return {name: int(rows.shape[0]) for name, rows in self.vectors.items()}


def row_bytes(rows: Tensor) -> bytes:
    """The float32 little-endian bytes of a tensor, row by row."""
    data: bytes = rows.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()
    return data
