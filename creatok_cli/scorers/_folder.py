"""What scorers read from a model's folder, all in one way: weights whole, pixels as trained.

Does not: download, or read anything but safetensors and JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Pixels = Mapping[str, Sequence[float]]
"""Mean and std per channel, under the names of preprocessor_config.json."""

UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError)
"""What the libraries raise at a folder that is not what it should be."""


def read_model(kind: Any, folder: Path) -> Any:
    """A model of a transformers class in f32, frozen and silent.

    Raises one of UNREADABLE, also where a weight is missing or has another shape.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # a cut file; safetensors' own kind
            raise ValueError(f"{folder.name}: {why(error)}") from error
        raise
    lost = sorted(str(name) for name in (*found["missing_keys"], *found["mismatched_keys"]))
    if lost:
        raise ValueError(f"{folder.name} lacks {lost[0]}")
    return model.requires_grad_(False).eval()


def why(error: BaseException) -> str:
    """The first line of what a library says, for a message."""
    return str(error).partition("\n")[0][:300]


def read_pixels(folder: Path, otherwise: Pixels) -> Pixels:
    """Mean and std that the model was trained with; `otherwise` where the folder is silent."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return otherwise
    facts = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: [float(value) for value in facts.get(name, usual)]
        for name, usual in otherwise.items()
    }


def to_tensor(image: Image, pixels: Pixels) -> Tensor:
    """[3 H W] f32 of an RGB image: levels of 0 to 1, less the mean, over the std."""
    width, height = image.size
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    levels = flat.view(height, width, 3).permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(pixels[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return (levels - mean) / std
