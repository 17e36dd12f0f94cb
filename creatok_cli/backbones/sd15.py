"""Stable Diffusion 1 and 2 from a local diffusers folder (Rombach et al. 2022, arXiv 2112.10752).

One CLIP tower, a UNet over Gaussian diffusion, which predicts noise or v. The safety checker that
published folders have is neither read nor needed. Options of a job: `timestep_spacing`, `eta`,
`guidance_rescale`. The adapter is `_unet.py`; this file holds what a plan must know of the family.

Does not: download, or fill in parts of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creatok_cli.backbones._unet import Unet
    from creatok_cli.domain import BaseFacts, Options

SIDES = ("text", "image")
PIPELINE = "StableDiffusionPipeline"
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
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
NEEDED_PARTS = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")
ENCODERS = (("clip_l", "text_encoder"),)
LORA_PARTS = ("unet", "text_encoder")
"""What diffusers' StableDiffusionLoraLoaderMixin changes."""
SCHEDULERS = (
    "pndm",
    "euler",
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
    """Defaults of diffusers' StableDiffusionPipeline."""

    repo: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    licence: str = "creativeml-openrail-m"
    steps: int = 50
    guidance: float = 7.5
    size_px: tuple[int, int] = (512, 512)
    dtype: str = "fp32"
    batch_rows: tuple[tuple[int, int], ...] = ((512, 8), (768, 4), (1024, 2))
    """(largest side, batch class): performance notes, section 6, for 512; beyond, set by eye."""


def check_options(options: Options, scheduler: str = SCHEDULERS[0]) -> None:
    """Raises UnknownName or InputError for options that no job with this scheduler can have."""
    from creatok_cli.backbones._schedulers import settled

    settled("sd15", scheduler, options)


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Unet:
    """The adapter over `facts.folder`; nothing is read yet."""
    from creatok_cli.backbones._unet import Unet
    from creatok_cli.backbones._unet_text import SingleText

    return Unet(facts, SingleText, device=device, dtype=dtype)
