"""Which tiny model stands for which family, by the class of its pipeline.

Does not: build them (`tiny.py` and the `tiny_*.py` beside it do).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.tiny import build_tiny_kandinsky, build_tiny_sd3
from tests.tiny_flux import build_tiny_flux
from tests.tiny_unet import build_tiny_sd15, build_tiny_sdxl

TINY: Mapping[str, Callable[[Path], Path]] = {
    "FluxPipeline": lambda place: build_tiny_flux(place / "flux"),
    "StableDiffusionPipeline": lambda place: build_tiny_sd15(place / "sd15"),
    "StableDiffusionXLPipeline": lambda place: build_tiny_sdxl(place / "sdxl"),
    "StableDiffusion3Pipeline": lambda place: build_tiny_sd3(place / "sd3"),
    "KandinskyPipeline": lambda place: build_tiny_kandinsky(place, version="2.1"),
    "KandinskyV22Pipeline": lambda place: build_tiny_kandinsky(place, version="2.2"),
}
"""Each writes into an empty folder and says where the base is."""
