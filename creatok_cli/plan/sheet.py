"""Sheet bytes to a checked `Sheet`: YAML, CSV or JSONL, with errors at file:line:column.

Three passes, each of which reports all it can find: text and syntax (`strict_*`, `_rows`), types
and unknown keys (`_model`, pydantic), and the rules between keys (`_rules`). What needs to know a
base waits for `expand`.

Does not: open a token or a model, expand a row, or import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from creatok_cli.concepts.mixes import Mix, make_mix
from creatok_cli.domain import Options, Scalar
from creatok_cli.errors import Problem, UnknownName
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.plan._model import (
    SET,
    Entry,
    Head,
    Lora,
    Places,
    Settings,
    check_set_options,
    check_sets,
    collect,
    sheet_schema,
    worded,
)
from creatok_cli.plan._rows import read_csv, read_jsonl
from creatok_cli.plan._rules import check_rules
from creatok_cli.plan.presets import BasePreset, load_base_preset
from creatok_cli.registry import did_you_mean, names, preset_path
from creatok_cli.strict_text import (
    MAX_BYTES,
    Problems,
    collector_paused,
    decode,
    load_bytes,
    refuse,
    shown,
)
from creatok_cli.strict_yaml import read_yaml

__all__ = ["MAX_PICTURES", "Sheet", "load_sheet", "sheet_schema"]

MAX_PICTURES = 200_000
"""Most pictures of one sheet, and most of its rows: twice the promise of 100,000."""
STDIN = "-"
_DEFAULT_BASE = "bestiary"
_MISSING = object()
_ROW_HEAD = {"version": 1}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """A checked sheet and where everything in it stands."""

    name: str
    """File stem, or `stdin`."""
    file: str
    """As the user named it, for messages."""
    folder: Path
    """Where relative paths of the sheet start."""
    head: Head
    jobs: tuple[Entry, ...]
    row_ids: tuple[str, ...]
    """The id of every job: its own, or `j-` and 8 hex digits of its prompt and variables."""
    tokens: Mapping[str, str | Mix]
    """Token words with their brackets (`<hydra-fox>`), and what each is: the name or file, as
    written, or the mix to fuse.
    """
    notices: tuple[str, ...]
    """What a person should read once, with its place: weights that were divided by their sum."""
    overrides: Settings
    set_options: Mapping[str, Scalar]
    """Options of all jobs from `--set options.NAME=VALUE`."""
    base_flag: str | None
    preset: BasePreset | None
    """Of the sheet or of `--preset`; see `preset_of`."""
    places: Places
    has_columns: bool
    """A CSV or JSONL sheet, whose variables are columns."""

    @property
    def version(self) -> int:
        """Format version of the sheet."""
        return self.head.version

    def base_names(self) -> tuple[str, ...]:
        """Every base that some job uses, once, in order of first use."""
        return tuple(dict.fromkeys(self.base_of(row) for row in range(len(self.jobs))))

    def base_of(self, row: int) -> str:
        """The base of one job: `--base`, else its own, else the sheet's, else the preset's, else
        `bestiary`.
        """
        own = self.base_flag or self.jobs[row].base or self.head.defaults.base
        preset = self.preset.content.base if self.preset else None
        return own or self.head.base or preset or _DEFAULT_BASE

    def preset_of(self, row: int) -> BasePreset | None:
        """The preset of one job: none where it names a base of its own, which the preset was not
        made for.
        """
        return self.preset if self.base_flag or not self.jobs[row].base else None

    def setting(self, row: int, key: str, default: Any) -> Any:
        """A setting of one job: `--set`, else its own, else the sheet's default, else the preset's,
        else `default`.
        """
        for layer in (self.overrides, self.jobs[row], self.head.defaults):
            if key in layer.model_fields_set:
                return getattr(layer, key)
        preset = self.preset_of(row)
        return getattr(preset.content, key) if preset and preset.says(key) else default

    def loras_of(self, row: int) -> list[Lora]:
        """The LoRAs of one job: the preset's, then its own, else the sheet's."""
        entry, preset = self.jobs[row], self.preset_of(row)
        own = entry.loras if "loras" in entry.model_fields_set else self.head.loras
        return [*(preset.loras if preset else ()), *own]

    def options_of(self, row: int) -> Options:
        """The options of one job: `--set`'s, else its own, else the sheet's, else the preset's, key
        by key.
        """
        preset = self.preset_of(row)
        first = preset.content.options if preset else {}
        own = {**self.head.options, **self.jobs[row].options, **self.set_options}
        return tuple(sorted({**first, **own}.items()))

    def lora_places(self) -> dict[str, str]:
        """`file:line:column` of the first mention of each LoRA that some job may be drawn with, by
        its path as written.
        """
        found: dict[str, str] = {}
        if self.preset and any(self.preset_of(row) for row in range(len(self.jobs))):
            for index, lora in enumerate(self.preset.loras):
                found.setdefault(lora.path, self.preset.where(("loras", index, "path")))
        lists: list[tuple[tuple[str | int, ...], list[Lora]]] = [((), self.head.loras)]
        lists += [(("jobs", row), entry.loras) for row, entry in enumerate(self.jobs)]
        for prefix, loras in lists:
            for index, lora in enumerate(loras):
                line, column = self.places.find((*prefix, "loras", index, "path"))
                found.setdefault(lora.path, f"{self.file}:{line}:{column}")
        return found

    def label(self, row: int) -> str:
        """How messages call a job: by its id, or by its position."""
        own = self.jobs[row].id
        return own if own is not None else f"row {row + 1}"

    def where(self, row: int) -> str:
        """`file:line:column` of a job."""
        line, column = self.places.find(("jobs", row))
        return f"{self.file}:{line}:{column}"

    def problem(
        self,
        path: Sequence[str | int],
        slug: str,
        message: str,
        hint: str = "",
        *,
        key: bool = False,
    ) -> Problem:
        """A problem at a place of the sheet; a path into `jobs` names the job."""
        line, column = self.places.find(path, key=key)
        at = path[1] if len(path) > 1 and path[0] == "jobs" else None
        row = self.label(at) if isinstance(at, int) else ""
        return worded(self.file, (line, column), slug, message, hint, row)

    def unknown_base(self, row: int, known: Iterable[str]) -> Problem:
        """The problem that the base of one job does not exist, with the nearest of `known`."""
        found = self.base_of(row)
        pool = sorted({*known, *names("backbones")})
        hint = did_you_mean(found, pool) or (f"there are {', '.join(pool)}" if pool else "")
        message = f"unknown base {shown(found)}"
        return self.setting_problem(row, "base", "unknown-base", message, hint)

    def setting_problem(
        self, row: int, key: str, slug: str, message: str, hint: str = ""
    ) -> Problem:
        """A problem with a setting of a job, placed where its value was given."""
        if key == "base" and self.base_flag is not None:
            return worded("--base", (1, 1), slug, message, hint, self.label(row))
        if key in self.overrides.model_fields_set:
            return worded(f"{SET} {key}", (1, len(key) + 2), slug, message, hint, self.label(row))
        if key in self.jobs[row].model_fields_set:
            return self.problem(("jobs", row, key), slug, message, hint)
        path: tuple[str | int, ...] = ("defaults", key)
        if key not in self.head.defaults.model_fields_set:
            preset = self.preset_of(row)
            is_here = key == "base" and self.head.base
            if preset and not is_here and (key == "base" or preset.says(key)):
                at = preset.find((key,))
                return worded(preset.file, at, slug, message, hint, self.label(row))
            path = (key,) if is_here else ("jobs", row)
        line, column = self.places.find(path)
        return worded(self.file, (line, column), slug, message, hint, self.label(row))


def load_sheet(
    path_or_dash: str,
    *,
    stdin: BinaryIO | None = None,
    overrides: Mapping[str, str] | None = None,
    base: str | None = None,
    preset: str | None = None,
) -> Sheet:
    """The checked sheet at a path, or from standard input for `-`.

    `overrides` are `--set` values and win over the sheet; `base` is `--base`; `preset` is
    `--preset` and stands in place of the sheet's. A path that does not exist here but names a
    shipped sheet (`presets/sheets/x.yaml`) is read from the package. Raises SheetError, PresetError
    or UnknownName.
    """
    asked = load_base_preset(preset) if preset is not None else None
    if path_or_dash == STDIN:
        data = (stdin or sys.stdin.buffer).read(MAX_BYTES + 1)
        file, name, folder = "stdin", "stdin", Path.cwd()
    else:
        file, found = path_or_dash, preset_path(path_or_dash)
        data, name, folder = load_bytes(found, file), found.stem, found.parent
    with collector_paused():
        return _checked(data, file, name, folder, overrides or {}, base, asked)


def _checked(
    data: bytes,
    file: str,
    name: str,
    folder: Path,
    overrides: Mapping[str, str],
    base: str | None,
    preset: BasePreset | None,
) -> Sheet:
    head, rows, places, has_columns = _read(data, file)
    problems = Problems()
    settings = check_sets(overrides, problems)
    set_options = check_set_options(overrides, problems)
    checked = _check_head(head, file, places, problems)
    jobs = _check_jobs(rows, file, places, problems)
    problems.check()
    assert checked is not None  # else check() has raised
    tokens, notices = _tokens(checked, head, file, places)
    sheet = Sheet(
        name=name,
        file=file,
        folder=folder,
        head=checked,
        jobs=tuple(jobs),
        row_ids=tuple(_row_id(entry) for entry in jobs),
        tokens=tokens,
        notices=notices,
        overrides=settings,
        set_options=set_options,
        base_flag=base,
        preset=preset or _preset(checked, file, folder, places),
        places=places,
        has_columns=has_columns,
    )
    check_rules(sheet)
    return sheet


def _read(data: bytes, file: str) -> tuple[Any, Any, Places, bool]:
    """Head, rows, places, and whether variables are columns."""
    text = decode(data, file)
    suffix = Path(file).suffix.lower()
    known = Entry.model_fields
    if suffix == ".csv":
        rows, csv_places = read_csv(text, file, known)
        return dict(_ROW_HEAD), rows, csv_places, True
    is_yaml = suffix in (".yaml", ".yml", ".json")
    if suffix in (".jsonl", ".ndjson") or (not is_yaml and text.startswith("{")):
        lines, line_places = read_jsonl(text, file, known)
        return dict(_ROW_HEAD), lines, line_places, True
    document, place = read_yaml(text, file)
    if not isinstance(document, dict):
        message = f"found {shown(document)}, expected a mapping with version and jobs"
        refuse(file, place.line, place.column, "bad-value", message)
    head = {key: value for key, value in document.items() if key != "jobs"}
    return head, document.get("jobs", _MISSING), place, False


def _check_head(head: Any, file: str, places: Places, problems: Problems) -> Head | None:
    try:
        checked = Head.model_validate(head)
    except ValidationError as error:
        collect(error, (), file, places, problems, "")
        return None
    if checked.base is not None and checked.defaults.base is not None:
        message = "base is given twice: at the top and in defaults"
        problems.keep(worded(file, places.find(("defaults", "base")), "conflict", message))
    return checked


def _tokens(
    checked: Head, head: Any, file: str, places: Places
) -> tuple[dict[str, str | Mix], tuple[str, ...]]:
    """The tokens of a checked head with their mixes made, and what was changed in these."""
    tokens: dict[str, str | Mix] = {}
    notices: list[str] = []
    written = head.get("tokens", ())  # the same words in the same order, with or without brackets
    for (word, source), key in zip(checked.tokens.items(), written, strict=True):
        if isinstance(source, str):
            tokens[word] = source
            continue
        line, column = places.find(("tokens", key), key=True)
        mix, changes = make_mix(source, where=f"{file}:{line}:{column}: token {word}")
        tokens[word] = mix
        notices += changes
    return tokens, tuple(notices)


def _preset(checked: Head, file: str, folder: Path, places: Places) -> BasePreset | None:
    """The preset that a sheet names, a file of its own beside it."""
    name = checked.preset
    if name is None:
        return None
    is_file = name.lower().endswith((".yaml", ".yml"))
    try:
        return load_base_preset(str(folder / name) if is_file else name)
    except UnknownName as error:
        line, column = places.find(("preset",))
        raise UnknownName(f"{file}:{line}:{column}: {error}") from error


def _check_jobs(rows: Any, file: str, places: Places, problems: Problems) -> list[Entry]:
    line, column = places.find(("jobs",))
    if rows is _MISSING:
        message = "the key jobs is missing: the list of what to draw"
        problems.keep(worded(file, (line, column), "missing-key", message))
        return []
    if not isinstance(rows, list) or not rows:
        found = "an empty list" if rows == [] else shown(rows)
        message = f"jobs: found {found}, expected a list of jobs"
        problems.keep(worded(file, (line, column), "no-jobs", message))
        return []
    if len(rows) > MAX_PICTURES:
        message = f"{len(rows)} rows; a sheet has at most {MAX_PICTURES}"
        refuse(file, line, column, "too-many-jobs", f"{message}; split it")
    entries: list[Entry] = []
    for index, row in enumerate(rows):
        try:
            entries.append(Entry.model_validate(row))
        except ValidationError as error:
            own = row.get("id") if isinstance(row, dict) else None
            label = str(own) if isinstance(own, str) else f"row {index + 1}"
            collect(error, ("jobs", index), file, places, problems, label)
    return entries


def _row_id(entry: Entry) -> str:
    """Its own id, or a hash of prompt and constants.

    Not of matrix, count or settings, so that changing these moves no seed.
    """
    if entry.id is not None:
        return entry.id
    return f"j-{sha256_hex(canonical_json([entry.prompt, entry.vars]))[:8]}"
