"""The text side of Stable Diffusion 3: two CLIP towers with tokens in the holes, T5 by literal.

The sequence that the denoiser reads is [clip_l | clip_g] side by side, then T5 states; only the
compact parts are kept here, padding and zero rows are added when it is used.

Does not: denoise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._clip import Encoded
from creatok_cli.backbones._clip_side import ClipSide
from creatok_cli.backbones._t5 import T5
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.inject import Laid
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

PLACES = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}


class Sd3Text(ClipSide):
    """Two CLIP towers and perhaps T5."""

    def __init__(self, loader: Loader, facts: BaseFacts, t5_length: int) -> None:
        has_t5 = (Path(loader.folder) / "text_encoder_3" / "config.json").is_file()
        t5 = T5(loader, "tokenizer_3", "text_encoder_3", t5_length or 256) if has_t5 else None
        super().__init__(loader, facts, PLACES, t5)

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """`states` [b s l+g] and `pooled` [b l'+g']."""
        return {
            "states": torch.cat([states.penultimate for states in encoded], dim=-1),
            "pooled": torch.cat([states.pooled for states in encoded], dim=-1),
        }
