"""FLUX.1 dev and schnell from a local diffusers folder (Black Forest Labs, 2024).

CLIP-L for one pooled vector, T5 for the sequence, a joint transformer over rectified flow. In dev
guidance is an input of the denoiser: 3.5 costs what 1 costs, and the negative prompt is not read
unless the option `true_cfg` is above 1. Models without that input (schnell, de-distilled ones) take
`guidance` as any other base does. A token changes the pooled vector; T5 reads its literal.

Does not: download. The licence of FLUX.1-dev forbids commercial use of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creatok_cli.backbones._flux import Flux
    from creatok_cli.domain import BaseFacts, Options

SIDES = ("text", "image")
PIPELINE = "FluxPipeline"
PARTS = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
}
ENCODERS = (("clip_l", "text_encoder"),)
LORA_PARTS = ("transformer", "text_encoder")
"""What diffusers' FluxLoraLoaderMixin changes."""
SCHEDULERS = ("flow-match-euler",)
"""FluxPipeline names the noise levels itself, which diffusers' Heun scheduler does not take."""
CAN_START = True
"""A job may begin from a picture."""
NEGATIVE_NEEDS = (("true_cfg", 2.0),)
"""Options with which every model of the family reads the negative prompt."""
DEFAULTS_WHERE = (
    ("transformer/config.json", "guidance_embeds", False, (("steps", 4), ("guidance", 0.0))),
)
"""(config, key, its value, what then stands in place of Spec's defaults): the model card of
FLUX.1-schnell.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults of the FLUX.1-dev model card."""

    repo: str = "black-forest-labs/FLUX.1-dev"
    licence: str = "flux-1-dev-non-commercial-license"
    steps: int = 28
    """diffusers' FluxPipeline; the model card takes 50."""
    guidance: float = 3.5
    size_px: tuple[int, int] = (1024, 1024)
    dtype: str = "bf16"
    """As published: 24 GB in the denoiser alone."""
    batch_rows: tuple[tuple[int, int], ...] = ((512, 8), (1024, 2))
    """(largest side, batch class): performance notes, section 6."""
    t5_length: int = 512
    """Positions of a T5 prompt (model card of dev: `max_sequence_length`)."""
    t5_length_schnell: int = 256
    """The same where the denoiser has no guidance input (model card of schnell)."""


def check_options(options: Options, scheduler: str = "") -> None:
    """Raises UnknownName or InputError for options that no job of this base can have."""
    from creatok_cli.backbones._flux_options import true_cfg

    true_cfg(options, "flux")


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Flux:
    """The adapter over `facts.folder`; nothing is read yet."""
    from creatok_cli.backbones._flux import Flux

    lengths = {True: spec.t5_length, False: spec.t5_length_schnell}
    return Flux(facts, device=device, dtype=dtype, t5_lengths=lengths)
