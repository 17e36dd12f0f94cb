"""The vectors of a new word, as a search moves them.

Free rows per text encoder, or weights over the rows of known words: small bases read nothing else.

Does not: choose where to move.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from creatok_cli.errors import InputError
from creatok_cli.methods.base import Quest
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import T5

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import TextSide


class Form(Protocol):
    """What a Spec says of its word."""

    @property
    def init(self) -> str: ...

    @property
    def vectors(self) -> int: ...

    @property
    def rows(self) -> Literal["free", "words"]: ...

    @property
    def grip(self) -> float: ...

    @property
    def norm(self) -> Literal["free", "shell"]: ...

    @property
    def spread(self) -> float: ...


class Word:
    """The vectors of the new word as leaves: free rows, or weights over known words' rows.

    Raises InputError where these are wanted and none are known.
    """

    def __init__(self, spec: Form, text: TextSide, quest: Quest, device: str, seed: int) -> None:
        self._spec = spec
        self.literal = spec.init or quest.subject
        start = _word_rows(text, self.literal)
        self.plain = {T5: start[T5]} if T5 in start else {}
        start = {name: rows.mean(dim=0).to(device) for name, rows in start.items() if name != T5}
        self.names: tuple[str, ...] = ()
        self._tables: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        dice = generator(seed, "start")
        if spec.rows == "words":
            if not quest.classes:
                raise InputError("rows: words needs classes, the words that vectors are mixed from")
            self.names = (self.literal, *(name for name in quest.classes if name != self.literal))
            known = [_word_rows(text, name) for name in self.names]
            self._tables = {
                name: torch.stack([rows[name].mean(dim=0) for rows in known]).to(device)
                for name in start
            }
            logits = spec.spread * torch.randn(spec.vectors, len(self.names), generator=dice)
            logits[:, 0] += spec.grip
            self.leaves["words"] = logits.to(device)
        else:
            for name, row in start.items():
                noise = torch.randn(spec.vectors, len(row), generator=dice).to(device)
                noise = spec.spread * row.norm() / math.sqrt(len(row)) * noise
                self.leaves[name] = row.expand(spec.vectors, -1) + noise
        self._lengths = {
            name: rows.norm(dim=1, keepdim=True) for name, rows in self.vectors().items()
        }
        self.leaves = {
            name: leaf.detach().clone().contiguous().requires_grad_(True)
            for name, leaf in self.leaves.items()
        }

    def vectors(self) -> dict[str, Tensor]:
        """[n d] per encoder; gradients reach the leaves."""
        if self.names:
            shares = self.leaves["words"].softmax(dim=1)
            return {name: shares @ table for name, table in self._tables.items()}
        return dict(self.leaves)

    def settle(self) -> None:
        """After a step: back to the lengths of the start, where the Spec asks for it."""
        if self._spec.norm == "shell" and not self.names:
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    leaf.mul_(self._lengths[name] / leaf.norm(dim=1, keepdim=True))

    def shares(self) -> list[dict[str, float]]:
        """Per vector the heaviest known words, where it is made of them."""
        if not self.names:
            return []
        rows = self.leaves["words"].detach().softmax(dim=1).cpu()
        found = []
        for row in rows:
            top = row.topk(min(5, len(self.names)))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            found.append({self.names[at]: share for at, share in pairs})
        return found


def _word_rows(text: TextSide, words: str) -> dict[str, Tensor]:
    return {name: rows.float() for name, rows in text.rows(words).items()}
