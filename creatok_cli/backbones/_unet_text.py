"""The text sides of the UNet families: one CLIP tower (Stable Diffusion 1 and 2), two (XL).

Does not: denoise, or apply `clip_skip` (in diffusers it fails with transformers 5, too).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones._clip import Encoded
from creatok_cli.backbones._clip_side import ClipSide
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.inject import Laid
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

FIRST, SECOND = ("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")


class SingleText(ClipSide):
    """The tower of Stable Diffusion 1 and 2; its pooled state is not projected."""

    def __init__(self, loader: Loader, facts: BaseFacts) -> None:
        super().__init__(loader, facts, {"clip_l": FIRST})

    def kind(self, model: str) -> type[Any]:
        """The class of the tower."""
        from transformers import CLIPTextModel

        found: type[Any] = CLIPTextModel
        return found

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """`states` [b s d] after the final norm."""
        return {"states": encoded[0].last}


class DoubleText(ClipSide):
    """The two towers of Stable Diffusion XL."""

    def __init__(self, loader: Loader, facts: BaseFacts) -> None:
        super().__init__(loader, facts, {"clip_l": FIRST, "clip_g": SECOND})

    def kind(self, model: str) -> type[Any]:
        """The class of a tower: the second alone has a projection."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        found: type[Any] = CLIPTextModel if model == FIRST[1] else CLIPTextModelWithProjection
        return found

    def joined(
        self, encoded: Sequence[Encoded], laid: Sequence[Sequence[Laid]], tokens: Sequence[Token]
    ) -> dict[str, Tensor]:
        """`states` [b s l+g], `pooled` [b g'] of the second tower, and `is_said` [b 1]: 0 for an
        empty prompt, 1 for any other.
        """
        first, second = encoded
        # An empty prompt is two ids long: its start and its end.
        said = [[float(row.eos > 1)] for row in laid[0]]
        return {
            "states": torch.cat([first.penultimate, second.penultimate], dim=-1),
            "pooled": second.pooled,
            "is_said": torch.tensor(said, device=second.pooled.device),
        }
