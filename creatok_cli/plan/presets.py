"""Presets of bases: a base, its LoRAs and the settings that it was made for, in a commented file.

    base: sdxl
    loras: [{path: "ByteDance/Hyper-SD:Hyper-SDXL-4steps-lora.safetensors"}]
    scheduler: ddim
    steps: 4

Settings of a sheet win over those of a preset, which win over the base's own. The LoRAs of a preset
make its base what it is: they come before those of the sheet. A job that names a base of its own
takes nothing from the preset. Only what comes of it takes part in a picture's key.

Does not: find a base or a LoRA, or know which schedulers and options a base has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from creatok_cli import registry
from creatok_cli.errors import PresetError, Problem, SheetError, UnknownName
from creatok_cli.plan import _fields as kinds
from creatok_cli.plan._model import Lora, Loras, Places, Strict, wording
from creatok_cli.strict_text import Problems, decode, load_bytes, refuse, shown
from creatok_cli.strict_yaml import read_yaml

FOLDER = "bases"
SETTINGS = ("size", "steps", "guidance", "scheduler", "negative", "dtype")


class PresetFile(Strict):
    """What a preset of a base may say."""

    base: kinds.Base = Field(description="Base model: a name, a repository, or a local folder.")
    loras: Loras = Field(default_factory=list)
    scheduler: kinds.Scheduler = None
    steps: kinds.Steps = None
    guidance: kinds.Guidance = None
    size: kinds.SizePx = None
    negative: kinds.Negative = None
    dtype: kinds.Dtype = None
    options: kinds.Options = Field(default_factory=dict)
    licence: kinds.AnyText = Field(description="Of the weights; it binds who uses them.")
    source: kinds.AnyText = Field(description="Where the settings come from.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePreset:
    """A checked preset, and where everything in it stands."""

    name: str
    """`bases/NAME` of a shipped one, else the path as the user wrote it."""
    file: str
    """As messages call it."""
    content: PresetFile
    places: Places

    @property
    def loras(self) -> list[Lora]:
        """Paths that start where the preset is are whole; others say a repository."""
        return self.content.loras

    def says(self, key: str) -> bool:
        """Whether the preset gives a setting a value."""
        return key in SETTINGS and key in self.content.model_fields_set

    def find(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Line and column of a value."""
        return self.places.find(path)

    def where(self, path: Sequence[str | int]) -> str:
        """`file:line:column` of a value."""
        line, column = self.find(path)
        return f"{self.file}:{line}:{column}"

    def told(self) -> str:
        """What the preset asks for, in one line."""
        content = self.content
        worn = [f"LoRA {lora.path} at {lora.scale:g}" for lora in content.loras]
        said = [f"{key} {_told(getattr(content, key))}" for key in SETTINGS if self.says(key)]
        options = [f"{key} {value}" for key, value in content.options.items()]
        parts = ", ".join([f"base {content.base}", *worn, *said, *options])
        return f"preset {self.name}: {parts}; licence {content.licence}"


def base_presets() -> tuple[str, ...]:
    """Names of the shipped presets, sorted: `bases/sdxl`."""
    found = (registry.preset_folder() / FOLDER).glob("*.yaml")
    return tuple(sorted(f"{FOLDER}/{path.stem}" for path in found))


def load_base_preset(name_or_path: str) -> BasePreset:
    """A shipped preset by name (`bases/sdxl` or `sdxl`), or the one at a path.

    Raises UnknownName with the nearest name, PresetError with up to 20 problems of the file.
    """
    name, path, file = _find(name_or_path)
    try:
        document, places = read_yaml(decode(load_bytes(path, file), file), file)
        if not isinstance(document, dict):
            message = f"found {shown(document)}, expected a mapping with a base"
            refuse(file, places.line, places.column, "bad-value", message)
        content = _checked(document, file, places)
    except SheetError as error:
        raise PresetError(error.problems, error.total) from None
    loras = [
        # A repository, or a drive of Windows: nothing that starts here.
        lora if ":" in lora.path else lora.model_copy(update={"path": str(path.parent / lora.path)})
        for lora in content.loras
    ]
    content = content.model_copy(update={"loras": loras})
    return BasePreset(name=name, file=file, content=content, places=places)


def _find(name_or_path: str) -> tuple[str, Path, str]:
    """Name, file, and the file as messages call it."""
    if name_or_path.lower().endswith((".yaml", ".yml")):
        return name_or_path, registry.preset_path(name_or_path).absolute(), name_or_path
    known, name = base_presets(), f"{FOLDER}/{name_or_path.removeprefix(f'{FOLDER}/')}"
    if name not in known:
        hint = registry.did_you_mean(name, known) or f"there are {', '.join(known)}"
        message = f"unknown preset {shown(name_or_path)}; {hint}"
        raise UnknownName(f"{message}; a file of your own ends in .yaml")
    path = registry.preset_folder() / f"{name}.yaml"
    return name, path, f"presets/{name}.yaml"


def _checked(document: Any, file: str, places: Places) -> PresetFile:
    try:
        return PresetFile.model_validate(document)
    except ValidationError as error:
        problems = Problems()
        for fault in error.errors(include_url=False):
            loc = tuple(step for step in fault["loc"] if step != "[key]")
            is_key = fault["type"] == "extra_forbidden" or "[key]" in fault["loc"]
            slug, message, hint = _worded(fault)
            at = places.find(loc[:-1] if fault["type"] == "missing" else loc, key=is_key)
            problem = Problem(
                file=file, line=at[0], column=at[1], slug=slug, message=message, hint=hint
            )
            problems.keep(problem)
        problems.check()
        raise


def _worded(fault: Any) -> tuple[str, str, str]:
    """Slug, message and hint of one pydantic error."""
    loc = fault["loc"]
    if fault["type"] != "extra_forbidden" or len(loc) > 1:
        return wording(fault, ())
    known = tuple(PresetFile.model_fields)
    hint = registry.did_you_mean(str(loc[0]), known) or "what is drawn belongs into the sheet"
    return "unknown-key", f"unknown key {shown(str(loc[0]))}, expected {', '.join(known)}", hint


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
