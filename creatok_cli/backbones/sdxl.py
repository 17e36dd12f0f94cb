"""Stable Diffusion XL from a local diffusers folder (Podell et al. 2023, arXiv 2307.01952).

Two CLIP towers, a UNet over Gaussian diffusion that also reads pooled words and the size of the
picture. Options of a job: `timestep_spacing`, `eta`, `guidance_rescale`. The adapter is `_unet.py`;
this file holds what a plan must know of the family.

Does not: download, refine, or mark pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creatok_cli.backbones._unet import Unet
    from creatok_cli.domain import BaseFacts, Options

SIDES = ("text", "image")
PIPELINE = "StableDiffusionXLPipeline"
PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": (
        "PNDMScheduler",
        "DDIMScheduler",
        "DDPMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "LMSDiscreteScheduler",
        "DEISMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
    ),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
NEEDED_PARTS = (
    "unet",
    "vae",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
)
"""A refiner has no first text encoder: it cannot draw alone."""
ENCODERS = (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2"))
LORA_PARTS = ("unet", "text_encoder", "text_encoder_2")
"""What diffusers' StableDiffusionXLLoraLoaderMixin changes."""
SCHEDULERS = (
    "euler",
    "pndm",
    "ddim",
    "ddpm",
    "euler-ancestral",
    "heun",
    "dpm++-2m",
    "dpm++-2m-karras",
    "dpm++-2m-sde",
    "dpm++-2m-sde-karras",
    "unipc",
    "lcm",
    "tcd",
)
"""Names of `_schedulers.py`; a folder's own comes first. The last classes of PARTS lend their
settings alone.
"""
CAN_START = True
"""A job may begin from a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults of diffusers' StableDiffusionXLPipeline, with fewer steps."""

    repo: str = "stabilityai/stable-diffusion-xl-base-1.0"
    licence: str = "openrail++"
    steps: int = 30
    """diffusers takes 50; 30 is what the performance notes and published timings use."""
    guidance: float = 5.0
    size_px: tuple[int, int] = (1024, 1024)
    dtype: str = "fp32"
    batch_rows: tuple[tuple[int, int], ...] = ((512, 8), (1024, 4))
    """(largest side, batch class): performance notes, section 6."""


def check_options(options: Options, scheduler: str = SCHEDULERS[0]) -> None:
    """Raises UnknownName or InputError for options that no job with this scheduler can have."""
    from creatok_cli.backbones._schedulers import settled

    settled("sdxl", scheduler, options)


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Unet:
    """The adapter over `facts.folder`; nothing is read yet."""
    from creatok_cli.backbones._unet import Unet
    from creatok_cli.backbones._unet_text import DoubleText

    return Unet(facts, DoubleText, device=device, dtype=dtype)
