"""Unit embeddings of prompts: what the losses of methods compare.

Does not: know what the prompts mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import TextSide

CHUNK = 8
"""Prompts that are encoded together."""


def unit_rows(text: TextSide, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Unit pooled embeddings [m d'] f32 per encoder."""
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for start in range(0, len(prompts), CHUNK):
            for name, states in text.pooled(prompts[start : start + CHUNK], ()).items():
                parts.setdefault(name, []).append(unit(states))
    return {name: torch.cat(states) for name, states in parts.items()}


def unit(states: Tensor) -> Tensor:
    """Rows of length 1, f32."""
    return functional.normalize(states.float(), dim=-1)
