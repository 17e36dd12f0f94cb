"""What the diffusers adapters share: safe settings before the import, library floors, and loading
one part.

The libraries are told before their import to stay offline and to run no remote code. Parts are
loaded by an explicit class, from a folder that `_weights` vetted, from safetensors only; a part
that lacks a weight is refused instead of being filled with random numbers.

Does not: choose classes (the adapters do), or draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._floors import FLOORS, is_older
from creatok_cli.backbones._hub_cache import shut_doors
from creatok_cli.backbones._vet import chosen, weight_files
from creatok_cli.backbones.base import torch_dtype
from creatok_cli.errors import ArtefactError, ModelMissing, Refused

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = {
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}


def prepare_libraries() -> None:
    """Set the environment, check the floors, silence the libraries. Raises Refused for an old
    library.
    """
    shut_doors(SETTINGS)
    for name, floor in FLOORS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            raise ModelMissing(f"{name} is not installed: install creatok again") from None
        if is_older(found, floor):
            raise Refused(
                f"{name} {found} is older than {floor}, which creatok needs for safety: "
                f"pip install -U {name}"
            )
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def library_versions() -> tuple[tuple[str, str], ...]:
    """(name, version) of what takes part in drawing."""
    return tuple((name, version(name)) for name in ("torch", "diffusers", "transformers"))


def load_part(
    kind: type[Any],
    folder: str,
    part: str,
    *,
    dtype: str,
    device: str,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """One model of a vetted folder, frozen, in evaluation mode. `settings` that place its weights
    are passed on, and it stays where they say.

    Raises ModelMissing or ArtefactError, naming the part.
    """
    place = Path(folder) / part
    weights, variant = chosen(path.name for path in place.glob("*.safetensors*"))
    if not weights:
        raise ModelMissing(f"{folder}: {part} has no safetensors weights")
    usual = {
        "local_files_only": True,
        "use_safetensors": True,
        "variant": variant,
        "output_loading_info": True,
    }
    wanted = {
        "torch_dtype" if kind.__module__.startswith("diffusers") else "dtype": torch_dtype(dtype)
    }
    try:
        model, found = kind.from_pretrained(str(place), **usual, **wanted, **(settings or {}))
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{folder}: {part} cannot be opened as {kind.__name__}: {str(error)[:300]}"
        ) from error
    lost = sorted(str(name) for name in [*found["missing_keys"], *found["mismatched_keys"]])
    if lost:
        raise ArtefactError(
            f"{folder}: {part} lacks {len(lost)} weights or they do not fit, first {lost[0][:100]}"
        )
    model = model.requires_grad_(False).eval()
    return model if settings else model.to(device)


def load_rows(folder: str, part: str, names: Sequence[str], numbers: Sequence[int]) -> Tensor:
    """Rows [n d] f32 of an embedding table under the first of `names` that the part's files have,
    without reading the rest. Raises ArtefactError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        for path in weight_files(folder, part):
            with safe_open(path, framework="pt") as file:
                for name in names:
                    if name in file.keys():
                        table = file.get_slice(name)
                        return torch.stack([table[number].float() for number in numbers])
    except (OSError, SafetensorError, IndexError) as error:
        raise ArtefactError(f"{folder}: {part} cannot be read: {str(error)[:300]}") from error
    raise ArtefactError(f"{folder}: {part} has no table {names[0]}")


def load_small(kind: type[Any], folder: str, part: str) -> Any:
    """A tokenizer or scheduler of a vetted folder, by explicit class."""
    try:
        return kind.from_pretrained(str(Path(folder) / part), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(
            f"{folder}: {part} cannot be opened as {kind.__name__}: {str(error)[:300]}"
        ) from error
