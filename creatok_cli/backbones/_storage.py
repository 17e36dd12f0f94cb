"""Lossy storage of the denoiser's weights, asked for by name: `options: {storage: fp8}`.

`fp8` keeps weights in 8-bit floats and casts each layer up while it works (diffusers' layerwise
casting); norms and embeddings stay as they are. `int8` and `nf4` are bitsandbytes' (Dettmers et al.
2022, arXiv 2208.07339; 2023, arXiv 2305.14314), from the extra `creatok[quant]`, on CUDA only. Text
encoders are never stored so: learned vectors act on them.

Deviates: never chosen by itself when memory is short, because it changes pixels; the message about
memory names it instead.

Does not: import torch before weights are there.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from creatok_cli.domain import STORAGE, Options
from creatok_cli.errors import InputError, UnknownName
from creatok_cli.registry import did_you_mean

STORAGES = {"fp8": 1.0, "int8": 1.0, "nf4": 0.5625}
"""Bytes per weight; nf4 has one f32 scale for 64 weights."""
QUANTISED = ("int8", "nf4")
READS_WEIGHTS = "encoder_hid_proj"
"""Of UNets: it casts what comes in to the format of its weights (diffusers 0.42), which must not be
8 bit then.
"""


def checked_storage(options: Options) -> str:
    """What the options of a job say, empty for nothing. Raises UnknownName."""
    found = dict(options).get(STORAGE)
    if found is None:
        return ""
    if found not in STORAGES:
        said = str(found)[:40]
        hint = did_you_mean(said, STORAGES) or f"there are {', '.join(STORAGES)}"
        raise UnknownName(f"unknown storage {said!r}; {hint}")
    return str(found)


def check_storage(storage: str, *, has_loras: bool) -> None:
    """Raise InputError where weights cannot be stored so here; no torch."""
    if storage not in QUANTISED:
        return
    if has_loras:
        raise InputError(
            f"storage {storage} cannot hold weights that LoRAs have changed: use storage fp8"
        )
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f"storage {storage} needs bitsandbytes: pip install 'creatok[quant]', or use fp8"
        )


def check_device(storage: str, device: str) -> None:
    """Raise InputError for a device that cannot hold weights so."""
    if storage in QUANTISED and not device.startswith("cuda"):
        raise InputError(f"storage {storage} needs a CUDA device, not {device}: use fp8")


def load_settings(storage: str, dtype: Any, device: str) -> dict[str, Any]:
    """What `from_pretrained` of diffusers is given beside the usual."""
    if storage not in QUANTISED:
        return {}
    from diffusers import BitsAndBytesConfig

    if storage == "int8":
        asked = BitsAndBytesConfig(load_in_8bit=True)
    else:
        asked = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": asked, "device_map": {"": device}}


def cast(model: Any, storage: str, dtype: Any) -> None:
    """Keep the weights of a model that was just read in 8-bit floats."""
    if storage == "fp8":
        import torch
        from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

        model.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn,
            compute_dtype=dtype,
            skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, READS_WEIGHTS),
        )
