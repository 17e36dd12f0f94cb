"""The embedded base: a tiny Stable Diffusion 3 of creatures that creatok draws and trains itself.

The adapter of `sd3` pointed at the folder that ships in this package, so that every command works
offline, in seconds, with learned words. The model card in `weights/` says what it was trained on
and how well it does.

Does not: import torch until it is built; the world, captions, training and judge are modules of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creatok_cli.backbones._sd3 import Sd3
    from creatok_cli.domain import BaseFacts

SIDES = ("text", "prior", "image")
ADAPTER = "sd3"
MIXTURE_TEMPLATE = "a photo of a {word} mixture that looks like a {a} and a {b}"
"""How a learned word is used here: the words of the captions that it was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults of the embedded model; its card repeats them for plain diffusers."""

    folder: str = "weights"
    licence: str = "apache-2.0"
    steps: int = 8
    guidance: float = 4.0
    size_px: tuple[int, int] = (64, 64)
    dtype: str = "fp32"
    batch_rows: tuple[tuple[int, int], ...] = ((128, 8),)
    t5_zero_rows: int = 0
    """The model was trained without T5 rows; for plain diffusers this is `max_sequence_length=0`.
    """
    t5_length: int = 0
    prior_steps: int = 6
    """Of the draw that the image towers look at, where a gradient is wanted. Embeddings after 6
    steps are those of the full 8 (cosine .98); at 4 colours still run.
    """


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Sd3:
    """The SD3 adapter over the shipped folder; nothing is read yet."""
    from creatok_cli.backbones._pixels import Draw
    from creatok_cli.backbones._sd3 import Sd3

    draw = Draw(steps=spec.prior_steps, guidance=spec.guidance, size_px=spec.size_px)
    return Sd3(
        facts,
        device=device,
        dtype=dtype,
        t5_zero_rows=spec.t5_zero_rows,
        t5_length=spec.t5_length,
        draw=draw,
    )
