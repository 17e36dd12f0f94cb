"""One checkpoint in its authors' layout: what it is, what it lacks, and its parts as a folder.

A header tells the family without torch. Before the first use the parts are taken apart by
diffusers' own single-file code, each into safetensors of its own, in creatok's home folder: from
then on the base is a folder like any other. Configs and word lists do not lie in a checkpoint: they
come from the folder that is named after `+`, else from the repository of the family, of which only
they are fetched. What draws is named by the checkpoint and those texts, so the digest is the same
on every machine.

Opened: Stable Diffusion 1, SDXL, and SD3 and 3.5 with both CLIP towers inside. Refused by name:
FLUX (its files hold the denoiser alone), Stable Diffusion 2 (no file says what its denoiser
predicts), refiners, inpainting, LoRAs, single parts.

Deviates: weights in 8 bits, as some files have for T5, are kept in fp16, which holds them exactly.

Does not: connect, or draw.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import config, durable
from creatok_cli.backbones._vet import (
    MODEL_INDEX,
    DigestCache,
    Vetted,
    check_header,
)
from creatok_cli.errors import ArtefactError, ModelMissing, OutputFull, Refused
from creatok_cli.hashing import sha256_hex
from creatok_cli.tokens._layout import ITEM_BYTES, Layout

if TYPE_CHECKING:
    from torch import Tensor

CONVERTER = 1
"""Rises when the same checkpoint would become other weights."""
DENOISER = "model.diffusion_model."
BARE = "joint_blocks."
INPUT = "input_blocks.0.0.weight"
PLACES: Mapping[str, Mapping[str, str]] = {
    "sd15": {
        "unet": DENOISER,
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.",
    },
    "sdxl": {
        "unet": DENOISER,
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd3": {
        "transformer": DENOISER,
        "vae": "first_stage_model.",
        "text_encoder": "text_encoders.clip_l.",
        "text_encoder_2": "text_encoders.clip_g.",
        "text_encoder_3": "text_encoders.t5xxl.",
    },
}
"""Family -> part -> how the names of its tensors begin."""
OPTIONAL = ("text_encoder_3",)
T5_TABLES = tuple(
    f"text_encoders.t5xxl.transformer.{name}.weight" for name in ("shared", "encoder.embed_tokens")
)
MARKS = (
    ("joint_blocks.", "sd3"),
    ("conditioner.embedders.1.model.", "sdxl"),
    ("cond_stage_model.transformer.", "sd15"),
)
STRANGERS = (
    (".lora_", "a LoRA: name it under loras: in the sheet"),
    ("lora_unet_", "a LoRA: name it under loras: in the sheet"),
    ("double_blocks.", "FLUX, whose files hold the denoiser alone: use its repository, flux"),
    ("conditioner.embedders.0.model.", "a refiner of SDXL, which cannot draw alone"),
    ("cond_stage_model.model.", "Stable Diffusion 2: use a folder in diffusers' layout"),
    ("down_blocks.", "one part in diffusers' layout, no whole model: name the folder of them all"),
    ("transformer_blocks.", "one part in diffusers' layout, no whole model: name the folder"),
    (DENOISER + "input_blocks.", "a denoiser of Stable Diffusion without its text encoders"),
    ("first_stage_model.", "a decoder alone"),
)
"""What is known and not opened, by a piece of a tensor's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose header passed."""

    path: Path
    family: str
    parts: Mapping[str, tuple[str, ...]]
    """Part -> names of its tensors."""
    layout: Layout
    digest: str
    """64 hex digits of the whole file."""

    @property
    def denoiser_bytes(self) -> int:
        """What runs at every step."""
        names = (*self.parts.get("unet", ()), *self.parts.get("transformer", ()))
        return sum(self.layout.tensors[name][3] - self.layout.tensors[name][2] for name in names)


def read_checkpoint(path: Path) -> Checkpoint:
    """The family and parts of a checkpoint, from its header.

    Raises ModelMissing, Refused or DigestMismatch, naming file and reason.
    """
    if not path.is_file():
        raise ModelMissing(f"{path}: no such file")
    layout = check_header(path, str(path))
    names = tuple(layout.tensors)
    family = next((each for mark, each in MARKS if any(mark in name for name in names)), "")
    if not family or any(".lora_" in name or "double_blocks." in name for name in names):
        what = next((w for mark, w in STRANGERS if any(mark in n for n in names)), "no known model")
        raise Refused(f"{path}: this is {what}")
    _check_kind(path, layout)
    parts = {
        part: tuple(name for name in names if name.startswith(begin))
        for part, begin in PLACES[family].items()
    }
    lost = [part for part, inside in parts.items() if not inside and part not in OPTIONAL]
    if lost:
        raise ModelMissing(
            f"{path}: this checkpoint for {family} lacks {', '.join(lost)}: creatok draws with a "
            "whole model; take the file that includes them, or the repository"
        )
    cache = DigestCache()
    digest = cache.digest(path)
    cache.save()
    whole = {part: inside for part, inside in parts.items() if inside}
    return Checkpoint(path=path, family=family, parts=whole, layout=layout, digest=digest)


def _check_kind(path: Path, layout: Layout) -> None:
    """Raise Refused for a denoiser that reads more than noise."""
    entry = layout.tensors.get(DENOISER + INPUT)
    if entry is not None and len(entry[1]) == 4 and entry[1][1] != 4:
        raise Refused(
            f"{path}: this denoiser reads {entry[1][1]} channels in place of 4: a model for "
            "inpainting or edits, which creatok does not open"
        )


def name_of(checkpoint: Checkpoint, vetted: Vetted, told: Sequence[object] = ()) -> str:
    """The digest of a base that is a checkpoint: `sha256:` over the file, the texts beside it and
    what else changes pixels.
    """
    more = " ".join(str(each) for each in told)
    return "sha256:" + sha256_hex(
        f"{checkpoint.digest} {vetted.text_digest(checkpoint.parts)} {CONVERTER} {more}"
    )


def converted_folder(digest: str) -> Path:
    """Where the parts of a checkpoint are, or will be."""
    return config.home() / "bases" / digest.removeprefix("sha256:")[:32]


def convert(checkpoint: Checkpoint, configs: Path, folder: Path) -> None:
    """Take a checkpoint apart into `folder`, whole or not at all.

    Raises ArtefactError for weights that are missing or do not fit the configs, OutputFull.
    """
    _check_room(checkpoint, folder)
    durable.open_root(folder.parent, create=True)
    temp = folder.with_name(f".{folder.name}.{durable.new_run()}.part")
    try:
        for part in checkpoint.parts:
            _convert_part(checkpoint, configs, part, temp / part)
        _copy_texts(checkpoint, configs, temp)
        with durable.output_errors(str(folder)):
            os.replace(temp, folder)
    except OSError as error:
        if not (folder / MODEL_INDEX).is_file():  # else another run was quicker
            raise ArtefactError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _check_room(checkpoint: Checkpoint, folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    size, free = checkpoint.path.stat().st_size, shutil.disk_usage(place).free
    if free < 1.1 * size:
        raise OutputFull(
            f"{folder.parent}: the parts of {checkpoint.path.name} need {1.1 * size / 2**30:.1f} "
            f"GiB, {free / 2**30:.1f} GiB are free"
        )


def _convert_part(checkpoint: Checkpoint, configs: Path, part: str, target: Path) -> None:
    """One part through diffusers' single-file code."""
    import torch
    from safetensors import safe_open

    names = checkpoint.parts[part]
    kind = _dtype(checkpoint, names)
    try:
        with safe_open(checkpoint.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
        model = _open(part, tensors, configs, kind)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, StopIteration) as error:
        raise ArtefactError(_misfit(checkpoint, configs, part, str(error)[:200])) from error
    lost = [name for name, weight in model.named_parameters() if weight.is_meta]
    if lost:
        raise ArtefactError(_misfit(checkpoint, configs, part, f"{lost[0]} is missing"))
    model.to(kind).save_pretrained(target, safe_serialization=True, max_shard_size="100GB")


def _misfit(checkpoint: Checkpoint, configs: Path, part: str, why: str) -> str:
    return (
        f"{checkpoint.path}: {part} does not fit the configs of {configs}: {why}; name the folder "
        f"of its own configs: --base {checkpoint.path.name}+FOLDER"
    )


def _dtype(checkpoint: Checkpoint, names: Sequence[str]) -> Any:
    """The number format in which most bytes of a part are stored."""
    import torch

    sizes: dict[str, int] = {}
    for name in names:
        word, _, first, last = checkpoint.layout.tensors[name]
        sizes[word] = sizes.get(word, 0) + last - first
    word = max(sizes, key=lambda each: sizes[each])
    if ITEM_BYTES.get(word) == 1:
        return torch.float16
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(word, torch.float32)


def _open(part: str, tensors: dict[str, Tensor], configs: Path, kind: Any) -> Any:
    """A model of diffusers or transformers with the tensors of one part."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
    from diffusers.loaders import single_file_utils
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

    settings = {"config": str(configs), "subfolder": part, "local_files_only": True}
    denoisers = {
        "unet": UNet2DConditionModel,
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
    }
    if part in denoisers:
        return denoisers[part].from_single_file(tensors, torch_dtype=kind, **settings)
    if part == "text_encoder_3":
        # One table under two names: a file may have either.
        table = next(tensors[name] for name in T5_TABLES if name in tensors)
        tensors |= dict.fromkeys(T5_TABLES, table)
        return single_file_utils.create_diffusers_t5_model_from_checkpoint(
            T5EncoderModel, tensors, torch_dtype=kind, **settings
        )
    index = json.loads((configs / MODEL_INDEX).read_text(encoding="utf-8"))
    tower = {each.__name__: each for each in (CLIPTextModel, CLIPTextModelWithProjection)}
    return single_file_utils.create_diffusers_clip_model_from_ldm(
        tower[index[part][1]], tensors, torch_dtype=kind, **settings
    )


def _copy_texts(checkpoint: Checkpoint, configs: Path, target: Path) -> None:
    """Everything that is no weight; the index last, without the parts that are not there."""
    index = dict(json.loads((configs / MODEL_INDEX).read_text(encoding="utf-8")))
    for part, entry in index.items():
        if not isinstance(entry, list) or not any(entry):
            continue
        if part.startswith(("tokenizer", "scheduler")):
            if part == "tokenizer_3" and "text_encoder_3" not in checkpoint.parts:
                index[part] = [None, None]
            else:
                shutil.copytree(configs / part, target / part)
        elif part not in checkpoint.parts:
            index[part] = [None, None]
    if (configs / "README.md").is_file():
        shutil.copyfile(configs / "README.md", target / "README.md")
    (target / MODEL_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
