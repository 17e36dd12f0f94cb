"""Stable Diffusion 3 and 3.5 from a local diffusers folder (Esser et al., 2024, arXiv 2403.03206).

Two CLIP towers, T5 if the folder has it, a joint transformer over rectified flow. The adapter
itself is `_sd3.py`, which the embedded `bestiary` shares; this file holds what a plan must know of
the family.

Does not: download; the weights ask for a licence to be accepted first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creatok_cli.backbones._sd3 import Sd3
    from creatok_cli.domain import BaseFacts

SIDES = ("text", "image")
PIPELINE = "StableDiffusion3Pipeline"
PARTS = {
    "transformer": ("SD3Transformer2DModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("CLIPTextModelWithProjection",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "text_encoder_3": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
}
LORA_PARTS = ("transformer", "text_encoder", "text_encoder_2")
"""What diffusers' SD3LoraLoaderMixin changes."""
SCHEDULERS = ("flow-match-euler", "flow-match-heun")
CAN_START = True
"""A job may begin from a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults of the SD3-medium model card."""

    repo: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    licence: str = "stabilityai-ai-community"
    steps: int = 28
    guidance: float = 7.0
    size_px: tuple[int, int] = (1024, 1024)
    dtype: str = "fp32"
    batch_rows: tuple[tuple[int, int], ...] = ((512, 8), (1024, 2))
    """(largest side, batch class): performance notes, section 6."""
    t5_zero_rows: int = 256
    """Rows of zeros in place of T5 states where the folder has no T5, as diffusers adds
    (`max_sequence_length`).

    A model card may say otherwise with `creatok_t5_zero_rows`.
    """
    t5_length: int = 256
    """Positions of a T5 prompt (diffusers: `max_sequence_length`)."""


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Sd3:
    """The adapter over `facts.folder`; nothing is read yet."""
    from creatok_cli.backbones._sd3 import Sd3

    return Sd3(
        facts, device=device, dtype=dtype, t5_zero_rows=spec.t5_zero_rows, t5_length=spec.t5_length
    )
