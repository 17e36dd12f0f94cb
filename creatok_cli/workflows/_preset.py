"""Presets: a method, its list and its settings in a commented file, read as strictly as a sheet.

    method: cretok
    pairs: auto
    settings: {steps: 10000, theta: 0.5}

`pairs` (to fuse or explore: `classes`) is the name of a shipped list, a file beside the preset, or
`auto`: the list that fits the base. Keys of `settings` are the fields of the method's Spec, known
without importing it; values stay text or lists of text until `config.build_spec` reads them as the
types of those fields.

Does not: build a Spec, read the list, or import a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli import registry
from creatok_cli.concepts import classes, sets
from creatok_cli.errors import PresetError, Problem, SheetError, UnknownName
from creatok_cli.strict_text import At, Number, Place, Problems, decode, load_bytes, refuse, shown
from creatok_cli.strict_yaml import read_yaml

AUTO = "auto"
LISTS = {
    "learn": ("pairs", sets.pair_lists, sets.is_path, ".yaml or .csv"),
    "fuse": ("classes", classes.class_lists, classes.is_path, ".yaml, .csv or .txt"),
    "explore": ("classes", classes.class_lists, classes.is_path, ".yaml, .csv or .txt"),
}
"""Verb -> the key of what a method learns from, the shipped lists, what is a file, its endings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A checked preset; the types of its values are not checked yet."""

    name: str
    """Of a shipped preset, else the stem of the file."""
    path: str
    """As messages call it."""
    method: str
    source: str
    """Pairs or classes: `auto`, the name of a shipped list, or a path that starts where the preset
    is.
    """
    values: Mapping[str, Any]
    """Settings by field of the method's Spec: text, bool, or lists of these."""
    places: Mapping[str, str]
    """`file:line:column` of `method`, of `pairs` or `classes`, and of every setting."""


def presets(kind: str) -> tuple[str, ...]:
    """Names of the shipped presets of a verb, sorted."""
    return tuple(sorted(path.stem for path in (registry.preset_folder() / kind).glob("*.yaml")))


def load_preset(kind: str, name_or_path: str) -> Preset:
    """A shipped preset by name, or the one at a path. `kind` is a verb: `learn`, `fuse`, `explore`.

    Raises UnknownName with the nearest name, PresetError with up to 20 problems of the file.
    """
    path, file = _find(kind, name_or_path)
    try:
        document, place = read_yaml(decode(load_bytes(path, file), file), file)
        return _Check(file, document, place, kind).run(path)
    except SheetError as error:
        raise PresetError(error.problems, error.total) from None


def _find(kind: str, name_or_path: str) -> tuple[Path, str]:
    if sets.is_path(name_or_path):
        return registry.preset_path(name_or_path), name_or_path
    known = presets(kind)
    if name_or_path not in known:
        hint = registry.did_you_mean(name_or_path, known) or f"there are {', '.join(known)}"
        message = f"unknown preset {shown(name_or_path)}; {hint}"
        raise UnknownName(f"{message}; a file of your own ends in .yaml")
    path = registry.preset_folder() / kind / f"{name_or_path}.yaml"
    return path, f"presets/{kind}/{path.name}"


class _Check:
    """One pass over a document; problems are collected."""

    def __init__(self, file: str, document: Any, place: Place, kind: str) -> None:
        self.file = file
        self.document = document
        self.place = place
        self.kind = kind
        self.source, self.lists, self.is_path, self.endings = LISTS[kind]
        self.problems = Problems()

    def run(self, path: Path) -> Preset:
        document = self.document
        if not isinstance(document, dict):
            message = f"found {shown(document)}, expected a mapping with method and settings"
            refuse(self.file, *self.place.find(()), "bad-value", message)
        self._keys(document, (), ("method", self.source, "settings"))
        if "method" not in document and not self.problems.kept:
            self._say((), "missing-key", "the key method is missing: which method has these knobs")
        method = self._method(self.kind)
        source = self._source(path.parent)
        values = self._settings(method)
        self.problems.check()
        places = {key: self._where((key,)) for key in ("method", self.source)}
        places |= {key: self._where(("settings", key)) for key in values}
        return Preset(
            name=path.stem,
            path=self.file,
            method=method,
            source=source,
            values=values,
            places=places,
        )

    def _keys(self, found: Mapping[str, Any], at: At, known: tuple[str, ...]) -> None:
        for key in [key for key in found if key not in known]:
            hint = registry.did_you_mean(key, known)
            if not at and not hint:
                hint = "knobs of the method belong under settings"
            message = f"unknown key {shown(key)}, expected {', '.join(known)}"
            self._say((*at, key), "unknown-key", message, hint, key=True)

    def _method(self, kind: str) -> str:
        """The name of a method that has the verb; empty after a problem."""
        if "method" not in self.document:
            return ""
        value, known = self.document["method"], registry.names("methods")
        if not isinstance(value, str) or value not in known:
            hint = registry.did_you_mean(value, known) if isinstance(value, str) else ""
            message = f"unknown method {shown(value)}, expected {' or '.join(known)}"
            self._say(("method",), "unknown-method", message, hint)
            return ""
        facts = registry.describe("methods", value)
        if facts.broken:
            self._say(("method",), "unknown-method", f"{value} cannot be read: {facts.broken}")
            return ""
        if kind not in facts.facts.get("VERBS", (kind,)):
            message = f"the method {value} cannot {kind}; its verbs are "
            self._say(("method",), "bad-value", message + ", ".join(facts.facts["VERBS"]))
        return value

    def _source(self, folder: Path) -> str:
        key, lists = self.source, (AUTO, *self.lists())
        value = self.document.get(key, AUTO)
        if not isinstance(value, str) or isinstance(value, Number) or not value:
            what = f"{', '.join(lists)}, or a file"
            self._say((key,), "bad-value", f"{key}: found {shown(value)}, expected {what}")
            return AUTO
        if self.is_path(value):
            return str(folder / value)
        if value not in lists:
            own = f"a file of your own ends in {self.endings}"
            hint = registry.did_you_mean(value, lists) or own
            message = f"{key}: unknown list {shown(value)}, expected {', '.join(lists)}, or a file"
            self._say((key,), "unknown-name", message, hint)
        return value

    def _settings(self, method: str) -> dict[str, Any]:
        value = self.document.get("settings", {})
        if not isinstance(value, dict):
            message = f"settings: found {shown(value)}, expected a mapping of knobs to values"
            self._say(("settings",), "bad-value", message)
            return {}
        if method:
            known = tuple(registry.describe("methods", method).spec)
            self._keys(value, ("settings",), known)
        for key, entry in value.items():
            self._value(("settings", key), entry)
        return dict(value)

    def _value(self, at: At, value: Any) -> None:
        if value is None:
            message = f"{at[1]}: found nothing; write a value, or remove the key"
            self._say(at, "missing-value", message)
        members = value if isinstance(value, list) else [] if value is None else [value]
        for index, member in enumerate(members):
            if not isinstance(member, str | bool):
                where = (*at, index) if isinstance(value, list) else at
                message = f"{at[1]}: found {shown(member)}, expected a value or a list of values"
                self._say(where, "bad-value", message)

    def _where(self, at: At) -> str:
        line, column = self.place.find(at)
        return f"{self.file}:{line}:{column}"

    def _say(self, at: At, slug: str, message: str, hint: str = "", *, key: bool = False) -> None:
        line, column = self.place.find(at, key=key)
        problem = Problem(
            file=self.file, line=line, column=column, slug=slug, message=message, hint=hint
        )
        self.problems.keep(problem)
