"""Plug-in names from file names and entry points, and their facts without importing them.

A built-in is a file (or package) in its group's folder whose name is its name; an outsider is an
entry point of the group `creatok_cli.<group>`. Facts (`Spec` defaults, `SIDES`, `NEEDS`...) are
literals and are read with `ast`, so that listings, shell completion and `--dry-run` import no
torch.

Does not: know what a plug-in does; contracts live in each folder's `base.py`.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from creatok_cli.errors import InputError, UnknownName

GROUPS = ("backbones", "methods", "executors", "sinks", "scorers")

_PACKAGE = "creatok_cli"
_ROOT = Path(__file__).parent
_CUTOFF = 0.6
_LONGEST_WORD = 80
_MOST_CANDIDATES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFacts:
    """What is known of a plug-in without importing it."""

    group: str
    name: str
    module: str
    line: str = ""
    """First line of the module docstring."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Literal defaults of the fields of `Spec`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Literal upper-case constants of the module: `SIDES`, `NEEDS`, `VERBS`..."""
    broken: str = ""
    """Why the source could not be read; empty for a sound plug-in."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word` (difflib, cutoff 0.6), or None.

    Words beyond 80 characters have no nearest, and only 500 candidates are looked at: input may be
    hostile.
    """
    if len(word) > _LONGEST_WORD:
        return None
    pool = [c for c in islice(candidates, _MOST_CANDIDATES) if len(c) <= _LONGEST_WORD]
    exact = [c for c in pool if c.casefold() == word.casefold()]
    found = exact or difflib.get_close_matches(word, pool, n=1, cutoff=_CUTOFF)
    return found[0] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`did you mean "x"?`, or an empty string when nothing is near."""
    near = nearest(word, candidates)
    return f'did you mean "{near}"?' if near else ""


def preset_folder() -> Path:
    """Folder with the shipped presets: inside the installed package, or beside it in a checkout."""
    inside = _ROOT / "presets"
    return inside if inside.is_dir() else _ROOT.parent / "presets"


def preset_path(text: str) -> Path:
    """The path that a user wrote; `presets/...` that is not here is the shipped one."""
    path = Path(text)
    parts = path.parts
    if parts[:1] == ("presets",) and ".." not in parts and not path.exists():
        return preset_folder().joinpath(*parts[1:])
    return path


def names(group: str) -> tuple[str, ...]:
    """All plug-in names of a group, sorted: built-ins and entry points."""
    return tuple(sorted({*_built_in(group), *_outside(group)}))


def describe(group: str, name: str) -> PluginFacts:
    """Facts of one plug-in, by `ast`. A plug-in that cannot be read has `broken` set.

    Raises UnknownName.
    """
    module = _module_of(group, name)
    source = _source(module)
    if source is None:
        return PluginFacts(
            group=group, name=name, module=module, broken="its source file was not found"
        )
    try:
        tree = ast.parse(source.read_bytes(), filename=source.name)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return PluginFacts(
            group=group, name=name, module=module, broken=f"{type(error).__name__}: {error}"
        )
    docstring = ast.get_docstring(tree) or ""
    return PluginFacts(
        group=group,
        name=name,
        module=module,
        line=docstring.partition("\n")[0],
        spec=_spec_defaults(tree),
        facts=_constants(tree),
    )


def get(group: str, name: str) -> ModuleType:
    """The imported module of a plug-in.

    Raises UnknownName with the nearest name, InputError for a third-party plug-in that cannot be
    imported.
    """
    module = _module_of(group, name)
    if module.startswith(f"{_PACKAGE}."):
        return import_module(module)
    try:
        return import_module(module)
    except Exception as error:  # a stranger's module may raise anything: report it by name
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f'{group}: the plug-in "{name}" ({module}) cannot be loaded: {reason}'
        ) from error


def _built_in(group: str) -> dict[str, str]:
    if group not in GROUPS:
        raise ValueError(f"no plug-in group {group!r}; there are {', '.join(GROUPS)}")
    folder = _ROOT / group
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_module = path.suffix == ".py" and path.stem != "base"
        is_package = path.is_dir() and (path / "__init__.py").is_file()
        if not path.name.startswith("_") and (is_module or is_package):
            found[path.stem] = f"{_PACKAGE}.{group}.{path.stem}"
    return found


def _outside(group: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # late: it is a third of the start of a command

    if group not in GROUPS:
        raise ValueError(f"no plug-in group {group!r}; there are {', '.join(GROUPS)}")
    return {point.name: point.module for point in entry_points(group=f"{_PACKAGE}.{group}")}


def _module_of(group: str, name: str) -> str:
    inside = _built_in(group)
    if name in inside:
        return inside[name]
    outside = _outside(group)
    if name in outside:
        return outside[name]
    known = sorted({*inside, *outside})
    hint = did_you_mean(name, known)
    there = f"there are {', '.join(known)}" if known else "there are none"
    raise UnknownName(f'{group}: unknown name "{name}"; {hint or there}')


def _source(module: str) -> Path | None:
    """Path of a module's source, found without importing any parent package."""
    search: list[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        loaded = sys.modules.get(full)
        # Asked by its last part: the whole name of a package without __init__ wants its parents.
        spec = loaded.__spec__ if loaded else None
        spec = spec or PathFinder.find_spec(parts[depth - 1], search)
        if spec is None:
            return None
        if depth == len(parts):
            return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
        search = list(spec.submodule_search_locations or ())
    return None


def _literal(node: ast.expr | None) -> tuple[bool, Any]:
    try:
        return (True, ast.literal_eval(node)) if node is not None else (False, None)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False, None


def _spec_defaults(tree: ast.Module) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Spec":
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    is_literal, value = _literal(line.value)
                    if is_literal:
                        defaults[line.target.id] = value
    return defaults


def _constants(tree: ast.Module) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, expression = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, expression = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
            is_literal, value = _literal(expression)
            if is_literal:
                facts[target.id] = value
    return facts
