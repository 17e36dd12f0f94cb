"""The pydantic models of a sheet, its JSON Schema, and the wording of what pydantic finds.

Does not: read files, or check rules between keys (`_rules.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from creatok_cli.domain import Scalar
from creatok_cli.errors import Problem
from creatok_cli.plan import _fields as kinds
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import Cell, Number, Problems, escaped, shown

SET = "--set"
MAX_LORAS = 16
_POSITION = re.compile(r"row [0-9]+")
_BASE_HINT = "the base is chosen with --base"


class Strict(BaseModel):
    """Keys that are not declared are refused, values never shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Settings(Strict):
    """What decides the pixels beside the prompt: in `defaults`, in every job, in `--set`."""

    base: kinds.Base = Field(default=None, description="Base model: a name, or a local folder.")
    size: kinds.SizePx = Field(default=None, description="Width x height in pixels, or one number.")
    steps: kinds.Steps = Field(default=None, description="Denoising steps.")
    guidance: kinds.Guidance = Field(
        default=None,
        description="Guidance scale; at 1 and below the negative prompt has no effect.",
    )
    scheduler: kinds.Scheduler = Field(
        default=None, description="Sampler; each base names its own."
    )
    negative: kinds.Negative = Field(
        default=None, description="Negative prompt; may use {variables}; null removes the default."
    )
    count: kinds.Count = Field(default=None, description="Pictures per prompt (1 unless given).")
    seed: kinds.Seed = Field(
        default=None,
        description="Every picture's seed derives from this one, the job id and the picture's "
        "index (0 unless given). For exact seeds use seeds.",
    )
    dtype: kinds.Dtype = Field(
        default=None, description="Number format; the base's own unless given."
    )
    init_image: kinds.Picture = Field(
        default=None,
        description="A picture to begin from in place of noise: a PNG, JPEG or WebP file in the "
        "sheet's folder. Scaled and cut to the size; may use {variables}; null for none.",
    )
    strength: kinds.Strength = Field(
        default=None,
        description="How far to go from init_image, as the share of the steps that is taken: "
        "1 keeps little of it (0.6 unless given).",
    )


class Lora(Strict):
    """Low-rank weights in a file, and how much of them."""

    path: kinds.LoraPath = Field(
        description="A LoRA file for the base, relative to the sheet, or OWNER/REPO:FILE in the "
        "Hub's cache."
    )
    scale: kinds.Scale = Field(
        default=1.0, description="Its strength: 1 unless given; 0 is none, below 0 the opposite."
    )


Loras = Annotated[list[Lora], BeforeValidator(kinds.need_list), Field(max_length=MAX_LORAS)]


class Entry(Settings):
    """One row of `jobs`: a prompt, its variables, and overrides of any default."""

    id: kinds.Identifier = Field(
        default=None,
        description="Name of the job in files, messages and --only; a content hash unless given.",
    )
    prompt: kinds.Prompt = Field(
        description="The text to draw: literal, but for {variables} and <tokens>; "
        "write {{ and }} for braces."
    )
    vars: kinds.Constants = Field(default_factory=dict, description="Variables with one value.")
    matrix: kinds.Axes = Field(
        default_factory=dict, description="Variables with lists of values: every combination."
    )
    zip: kinds.Axes = Field(
        default_factory=dict,
        description="Variables with lists of equal length: first with first...",
    )
    include: kinds.Combinations = Field(
        default_factory=list,
        description="Further combinations, each a mapping of variables to values.",
    )
    exclude: kinds.Combinations = Field(
        default_factory=list,
        description="Combinations of matrix and zip to leave out; a part of one matches all of it.",
    )
    seeds: kinds.Seeds = Field(
        default_factory=list,
        description="Exact seeds, one picture each, in place of seed and count.",
    )
    loras: Loras = Field(
        default_factory=list,
        description="LoRA files of this job, in place of those at the top; [] for none.",
    )
    options: kinds.Options = Field(
        default_factory=dict,
        description="Settings that only this job's base knows; they win over those at the top.",
    )
    tags: kinds.Tags = Field(
        default_factory=list, description="Words to group jobs by: --only finds them."
    )


class Head(Strict):
    """The keys of a sheet beside its jobs."""

    schema_: kinds.AnyText = Field(
        default=None,
        alias="$schema",
        description="For editors: where the JSON Schema of sheets is.",
    )
    version: kinds.Version = Field(description="Version of the sheet format: 1.")
    base: kinds.Base = Field(default=None, description="Base model of all jobs that name none.")
    preset: kinds.AnyText = Field(
        default=None,
        description="A preset of a base, such as bases/hyper-sdxl-4, or a file of that form: its "
        "base, LoRAs and settings, where the sheet says none.",
    )
    defaults: Annotated[Settings, BeforeValidator(kinds.need_mapping)] = Field(
        default_factory=Settings, description="Settings of all jobs that do not override them."
    )
    tokens: kinds.Tokens = Field(
        default_factory=dict,
        description="Learned words: hydra-fox: NAME in the token library, or the path of its "
        "file, or a mix of concepts: chimera: {fuse: {pig: 0.55, snake: 0.45}}. Prompts say "
        "<hydra-fox>.",
    )
    loras: Loras = Field(
        default_factory=list,
        description="LoRA files that all jobs are drawn with, in this order: "
        "[{path: loras/scales.safetensors, scale: 0.8}].",
    )
    options: kinds.Options = Field(
        default_factory=dict,
        description="Settings that only the base knows, for all jobs: {coherence: 0.3, "
        "freedom: 2} on els.",
    )
    vars: kinds.Constants = Field(
        default_factory=dict, description="Variables with one value, for all jobs."
    )
    name: kinds.NameTemplate = Field(
        default=None,
        description="Output name without extension, from {sheet} {job} {index:04d} {seed} "
        "{key8} {token} {base}.",
    )


class SheetFile(Head):
    """A prompt sheet of creatok."""

    jobs: list[Entry] = Field(min_length=1, description="The rows, in the order of drawing.")


class Places(Protocol):
    """Answers where a value of the sheet stands."""

    def find(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1."""
        ...


def sheet_schema() -> dict[str, Any]:
    """The JSON Schema of a YAML sheet, in the part of draft 7 that editors understand."""
    made = SheetFile.model_json_schema(ref_template="#/definitions/{model}")
    made["definitions"] = made.pop("$defs")
    _tidy(made)
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "creatok sheet", **made}


def worded(
    file: str, at: tuple[int, int], slug: str, message: str, hint: str = "", row: str = ""
) -> Problem:
    """A Problem whose message begins with its job."""
    label = row if _POSITION.fullmatch(row) else f"job {shown(row)}"
    whole = f"{label}: {message}" if row else message
    return Problem(
        file=file, line=at[0], column=at[1], slug=slug, message=whole, row=row, hint=hint
    )


SETTABLE = tuple(key for key in Settings.model_fields if key != "base")
OPTION = "options."
"""How `--set` names a setting that only the base knows."""
_OPTIONS: TypeAdapter[dict[str, str | int | float | bool]] = TypeAdapter(kinds.Options)
_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,3})?")


def check_set_options(sets: Mapping[str, str], problems: Problems) -> dict[str, Scalar]:
    """Options of all jobs from `--set options.NAME=VALUE`, read as in a sheet; faults are
    collected.
    """
    found: dict[str, Scalar] = {}
    for key, text in sets.items():
        if not key.startswith(OPTION):
            continue
        value = {"true": True, "false": False}.get(text, text)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = Number(value)
        try:
            found |= _OPTIONS.validate_python({key.removeprefix(OPTION): value})
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                slug, message, hint = wording(fault, ())
                problems.keep(worded(f"{SET} {key}", (1, len(key) + 2), slug, message, hint))
    return found


def check_sets(sets: Mapping[str, str], problems: Problems) -> Settings:
    """Typed `--set` values; faults are collected and cite `--set KEY`."""
    sets = {key: text for key, text in sets.items() if not key.startswith(OPTION)}
    cells = {key: Cell(value) for key, value in sets.items() if key in SETTABLE}
    for key in [key for key in sets if key not in SETTABLE]:
        there = f"there are {', '.join(SETTABLE)} and {OPTION}NAME"
        hint = did_you_mean(key, SETTABLE) or there
        hint = _BASE_HINT if key == "base" else hint
        problems.keep(worded(SET, (1, 1), "unknown-key", f"unknown setting {shown(key)}", hint))
    try:
        return Settings.model_validate(cells)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = str(fault["loc"][0])
            slug, message, hint = wording(fault, ())
            problems.keep(worded(f"{SET} {key}", (1, len(key) + 2), slug, message, hint))
        return Settings()


def collect(
    error: ValidationError,
    prefix: tuple[str | int, ...],
    file: str,
    places: Places,
    problems: Problems,
    row: str,
) -> None:
    """Turn pydantic's errors into problems, at the marks of values (or unknown keys)."""
    if problems.is_full:
        problems.total += error.error_count()
        return
    faults = error.errors(include_url=False)
    near: set[str] = set()  # a key that an unknown one was meant to be is not missing as well
    for fault in sorted(faults, key=lambda fault: fault["type"] == "missing"):
        if problems.is_full:
            problems.total += 1
            continue
        loc = tuple(step for step in fault["loc"] if step != "[key]")
        is_key = fault["type"] == "extra_forbidden" or "[key]" in fault["loc"]
        slug, message, hint = wording(fault, prefix)
        if fault["type"] == "missing":
            if f'did you mean "{loc[-1]}"?' in near:
                continue
            loc = loc[:-1]
        near.add(hint)
        at = places.find((*prefix, *loc), key=is_key)
        problems.keep(worded(file, at, slug, message, hint, row))


def wording(fault: Any, prefix: Sequence[str | int]) -> tuple[str, str, str]:
    """Slug, message and hint of one pydantic error."""
    kind, loc, context = fault["type"], fault["loc"], fault.get("ctx", {})
    path = ".".join(escaped(step[:60]) for step in loc if isinstance(step, str) and step != "[key]")
    if kind == "extra_forbidden":
        allowed = _allowed(prefix, loc)
        found = str(loc[-1])
        if allowed == [kinds.FUSE]:
            hint = did_you_mean(found, allowed)
        elif found in Entry.model_fields and found not in allowed:
            hint = "this key belongs into a job"
        elif found in Head.model_fields and found not in allowed:
            hint = "this key belongs to the top of the sheet"
        else:
            hint = did_you_mean(found, allowed)
        return "unknown-key", f"unknown key {shown(found)}, expected {', '.join(allowed)}", hint
    if kind == "missing":
        return "missing-key", f"the key {loc[-1]} is missing", ""
    hint = str(context.get("hint", ""))
    if kind == "bad_mix":
        return str(context["slug"]), f"{path}: {context['message']}", hint
    found = shown(fault["input"])
    expected = {
        "dict_type": "a mapping",
        "list_type": "a list",
        "model_type": "a mapping",
        "too_short": "at least one member",
        "too_long": f"at most {context.get('max_length')} members",
    }.get(kind, str(context.get("expected", "something else")))
    if kind == "model_type" and loc[:1] == ("loras",):
        expected = "a LoRA such as {path: FILE, scale: 0.8}"
    elif kind in ("model_type", "dict_type") and not path:
        expected = "a mapping with a prompt"
    what = f"{path}: " if path else ""
    return str(context.get("slug", "bad-value")), f"{what}found {found}, expected {expected}", hint


def _allowed(prefix: Sequence[str | int], loc: Sequence[str | int]) -> list[str]:
    if loc[0] == "loras" and len(loc) > 1:
        return list(Lora.model_fields)
    if prefix:
        return list(Entry.model_fields)
    if loc[0] == "tokens" and len(loc) > 1:
        return [kinds.FUSE]
    return (
        list(Settings.model_fields)
        if loc[0] == "defaults" and len(loc) > 1
        else [*_head_keys(), "jobs"]
    )


def _head_keys() -> list[str]:
    return [key for key in Head.model_fields if key != "schema_"]


def _tidy(node: Any) -> None:
    """Drop pydantic's titles, null alternatives and defaults: a key has a value or is absent."""
    if isinstance(node, list):
        for member in node:
            _tidy(member)
    if not isinstance(node, dict):
        return
    options = node.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del node["anyOf"]
        node.update(rest[0] if len(rest) == 1 else {"anyOf": rest})
    node.pop("default", None)
    for kind, member in (("object", "Properties"), ("array", "Items")):
        for bound in ("min", "max"):
            if node.get("type") == kind and f"{bound}Length" in node:
                node[f"{bound}{member}"] = node.pop(f"{bound}Length")
    if isinstance(node.get("title"), str):
        del node["title"]
    for member in list(node.values()):
        _tidy(member)
