"""Whether a LoRA fits a base, from the headers of weight files alone.

Names and shapes of the matrices that a LoRA changes are compared with those of the base's own
safetensors files, so that a sheet with the wrong LoRA fails before anything is read. A part whose
files lie elsewhere is compared when it opens.

Does not: import torch, or read a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from creatok_cli import registry
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError
from creatok_cli.tokens._layout import read_layout
from creatok_cli.tokens.lora import LoraHeader

FLAT = "text_model."
"""Began the modules of text encoders in transformers before 5; LoRAs of either time are read."""


def check_fit(header: LoraHeader, facts: BaseFacts) -> None:
    """Raise ArtefactError for the first matrix of a LoRA that the base does not have."""
    begin = f"{header.path}: does not fit base {facts.name}"
    own = registry.describe("backbones", facts.backbone)
    family = registry.describe("backbones", str(own.facts.get("ADAPTER", facts.backbone)))
    parts = tuple(family.facts.get("LORA_PARTS", ()))
    if not parts:
        raise ArtefactError(f"{begin}: it cannot be drawn with LoRAs")
    for part in header.parts:
        if part not in parts:
            raise ArtefactError(
                f"{begin}: the LoRA changes {part!r}; on this base {', '.join(parts)} can be "
                "changed"
            )
    shapes = {part: _shapes(facts.folder, part) for part in header.parts}
    for change in header.changes:
        there = shapes[change.part]
        if not there:
            continue
        found = next((there[name] for name in spellings(change.module) if name in there), None)
        if found != change.shape:
            has = "no such matrix" if found is None else f"one of shape {list(found)}"
            raise ArtefactError(
                f"{begin}: it changes {change.part}.{change.module[:100]} "
                f"{list(change.shape)}, the base has {has}; use the base it was trained on"
            )


def spellings(module: str) -> tuple[str, ...]:
    """A module's name as the file says it, and as older or newer libraries spell it."""
    return module, module.removeprefix(FLAT), FLAT + module


@lru_cache(maxsize=16)
def _shapes(folder: str, part: str) -> Mapping[str, tuple[int, ...]]:
    """Shape of each weight by module, from file headers; empty where the part lies elsewhere."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted((Path(folder) / part).glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                layout = read_layout(file, path.stat().st_size, str(path))
        except OSError as error:
            raise ArtefactError(f"{path}: cannot be read: {error.strerror}") from error
        found |= {
            name.removesuffix(".weight"): shape
            for name, (_, shape, _, _) in layout.tensors.items()
            if name.endswith(".weight")
        }
    return found
