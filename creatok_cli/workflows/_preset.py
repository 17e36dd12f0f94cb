"""Presets: a method, its pairs and its settings in a commented file, read as strictly as a sheet.

    method: cretok
    pairs: auto
    settings: {steps: 10000, theta: 0.5}

`pairs` is the name of a shipped list, a file beside the preset, or `auto`: the list that fits the
base. Keys of `settings` are the fields of the method's Spec, known without importing it; values
stay text or lists of text until `config.build_spec` reads them as the types of those fields.

Does not: build a Spec, read the pairs, or import a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli import registry
from creatok_cli.concepts.sets import is_path, pair_lists
from creatok_cli.errors import PresetError, Problem, SheetError, UnknownName
from creatok_cli.strict_text import At, Number, Place, Problems, decode, load_bytes, refuse, shown
from creatok_cli.strict_yaml import read_yaml

KEYS = ("method", "pairs", "settings")
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A checked preset; the types of its values are not checked yet."""

    name: str
    """Of a shipped preset, else the stem of the file."""
    path: str
    """As messages call it."""
    method: str
    pairs: str
    """`auto`, the name of a shipped list, or a path that starts where the preset is."""
    values: Mapping[str, Any]
    """Settings by field of the method's Spec: text, bool, or lists of these."""
    places: Mapping[str, str]
    """`file:line:column` of `method`, of `pairs` and of every setting."""


def presets(kind: str) -> tuple[str, ...]:
    """Names of the shipped presets of a verb, sorted."""
    return tuple(sorted(path.stem for path in (registry.preset_folder() / kind).glob("*.yaml")))


def load_preset(kind: str, name_or_path: str) -> Preset:
    """A shipped preset by name, or the one at a path. `kind` is a verb of methods: `learn`.

    Raises UnknownName with the nearest name, PresetError with up to 20 problems of the file.
    """
    path, file = _find(kind, name_or_path)
    try:
        document, place = read_yaml(decode(load_bytes(path, file), file), file)
        return _Check(file, document, place).run(kind, path)
    except SheetError as error:
        raise PresetError(error.problems, error.total) from None


def _find(kind: str, name_or_path: str) -> tuple[Path, str]:
    if is_path(name_or_path):
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

    def __init__(self, file: str, document: Any, place: Place) -> None:
        self.file = file
        self.document = document
        self.place = place
        self.problems = Problems()

    def run(self, kind: str, path: Path) -> Preset:
        document = self.document
        if not isinstance(document, dict):
            message = f"found {shown(document)}, expected a mapping with method and settings"
            refuse(self.file, *self.place.find(()), "bad-value", message)
        self._keys(document, (), KEYS)
        if "method" not in document and not self.problems.kept:
            self._say((), "missing-key", "the key method is missing: which method has these knobs")
        method = self._method(kind)
        pairs = self._pairs(path.parent)
        values = self._settings(method)
        self.problems.check()
        places = {key: self._where((key,)) for key in ("method", "pairs")}
        places |= {key: self._where(("settings", key)) for key in values}
        return Preset(
            name=path.stem,
            path=self.file,
            method=method,
            pairs=pairs,
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

    def _pairs(self, folder: Path) -> str:
        value, lists = self.document.get("pairs", AUTO), (AUTO, *pair_lists())
        if not isinstance(value, str) or isinstance(value, Number) or not value:
            what = f"{', '.join(lists)}, or a file"
            self._say(("pairs",), "bad-value", f"pairs: found {shown(value)}, expected {what}")
            return AUTO
        if is_path(value):
            return str(folder / value)
        if value not in lists:
            hint = registry.did_you_mean(value, lists) or "a file of your own ends in .yaml or .csv"
            message = f"pairs: unknown list {shown(value)}, expected {', '.join(lists)}, or a file"
            self._say(("pairs",), "unknown-name", message, hint)
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
