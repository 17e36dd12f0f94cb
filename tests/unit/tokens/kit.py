"""Tokens for tests, of any widths and number of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from creatok_cli.tokens.token import Token

REAL: Mapping[str, Mapping[str, int]] = {
    "sd15": {"clip_l": 768},
    "sdxl": {"clip_l": 768, "clip_g": 1280},
    "sd3": {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096},
    "flux": {"clip_l": 768, "t5xxl": 4096},
    "kandinsky21": {"clip_l": 768},
    "kandinsky22": {"clip_g": 1280},
    "bestiary": {"clip_l": 128, "clip_g": 192},
}
"""The widths of real bases."""


def token_of(
    widths: Mapping[str, int],
    *,
    n: int = 2,
    seed: int = 0,
    word: str = "<hydra-fox>",
    literal: str = "creative",
    **recipe: Any,
) -> Token:
    """A token of random rows; T5 has one row more, as each encoder cuts words its own way."""
    draw = torch.Generator().manual_seed(seed)
    vectors = {
        name: torch.randn((n + (name == "t5xxl"), width), generator=draw) * 0.02
        for name, width in widths.items()
    }
    return Token(word, literal, vectors, {"kind": "token", "method": "cretok", **recipe})


def real_token(family: str, **changes: Any) -> Token:
    """A token of the widths of a real family, whose recipe says so."""
    from creatok_cli.tokens.profiles import FAMILIES

    return token_of(REAL[family], architecture=FAMILIES[family].architecture, **changes)
