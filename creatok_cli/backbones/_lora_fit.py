"""Whether a LoRA fits a base, from the headers of weight files alone.

Names and shapes of the matrices that a LoRA changes are compared with those of the base's own
safetensors files, so that a sheet with the wrong LoRA fails before anything is read. A part whose
files lie elsewhere is compared when it opens.

Does not: import torch, or read a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from creatok_cli import registry
from creatok_cli.backbones._lora_names import Modules, part_of
from creatok_cli.backbones._vet import weight_files
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError
from creatok_cli.tokens._layout import read_layout
from creatok_cli.tokens.lora import LoraHeader


def check_fit(header: LoraHeader, facts: BaseFacts) -> None:
    """Raise ArtefactError for the first matrix of a LoRA that the base does not have."""
    begin = f"{header.path}: does not fit base {facts.name}"
    own = registry.describe("backbones", facts.backbone)
    family = registry.describe("backbones", str(own.facts.get("ADAPTER", facts.backbone)))
    parts = tuple(family.facts.get("LORA_PARTS", ()))
    if not parts:
        raise ArtefactError(f"{begin}: it cannot be drawn with LoRAs")
    used = dict.fromkeys(part_of(change, parts) for change in header.changes)
    for part in used:
        if part not in parts:
            raise ArtefactError(
                f"{begin}: the LoRA changes {part!r}; on this base {', '.join(parts)} can be "
                "changed"
            )
    modules = {part: Modules(_shapes(facts.folder, part)) for part in used}
    for change in header.changes:
        there = modules[part_of(change, parts)]
        if there.shapes:
            try:
                there.pieces(change)
            except ArtefactError as error:
                raise ArtefactError(f"{begin}: {error}") from error


@lru_cache(maxsize=16)
def _shapes(folder: str, part: str) -> Mapping[str, tuple[int, ...]]:
    """Shape of each weight by module, from file headers; empty where the part lies elsewhere."""
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, part):
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
