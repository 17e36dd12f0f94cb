"""The text side of Stable Diffusion 3: two CLIP towers with tokens in the holes, T5 by literal.

The sequence that the denoiser reads is [clip_l | clip_g] side by side, then T5 states; only the
compact parts are kept here, padding and zero rows are added when it is used.

Does not: denoise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._clip import Encoded
from creatok_cli.backbones._clip_side import ClipSide
from creatok_cli.backbones._t5 import T5
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.inject import Laid
from creatok_cli.tokens.token import T5 as T5_NAME
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

PLACES = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}


class Sd3Text(ClipSide):
    """Two CLIP towers and perhaps T5."""

    def __init__(self, loader: Loader, facts: BaseFacts, t5_length: int) -> None:
        super().__init__(loader, facts, PLACES)
        self._t5: T5 | None = None
        if (Path(loader.folder) / "text_encoder_3" / "config.json").is_file():
            self._t5 = T5(loader, "tokenizer_3", "text_encoder_3", t5_length or 256)

    def drop(self) -> None:
        """Forget the weights, keep the tokenizers."""
        super().drop()
        if self._t5 is not None:
            self._t5.drop()

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """`states` [b s l+g] and `pooled` [b l'+g']."""
        return {
            "states": torch.cat([states.penultimate for states in encoded], dim=-1),
            "pooled": torch.cat([states.pooled for states in encoded], dim=-1),
        }

    def more(self, prompts: Sequence[str], tokens: Sequence[Token]) -> dict[str, Tensor]:
        """With T5, `t5` [b t joint]."""
        return {} if self._t5 is None else {"t5": self._t5.encode(prompts, tokens)}

    def rows(self, word: str) -> Mapping[str, Tensor]:
        """[n d] vocabulary rows of a word per tower, and of T5 where there is one."""
        more = {} if self._t5 is None else {T5_NAME: self._t5.rows(word)}
        return {**super().rows(word), **more}
