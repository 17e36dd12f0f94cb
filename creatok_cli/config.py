"""Settings: pixels never come from a machine, what belongs to a machine never from a sheet.

Pixels: default < preset < sheet < `--set`. Machine (device, executor, batch size, output folder,
progress): default < user file < project file < environment < flag. So one sheet is one plan on
every machine. Specs are built strictly: an unknown key or a value of another type is an error with
the nearest name, never a silent default.

Does not: read sheets (`plan`), or set anything in the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import platformdirs

from creatok_cli.errors import InputError, PresetError, Problem, UnknownName
from creatok_cli.registry import did_you_mean

APP = "creatok"
USER_FILE = "config.toml"
"""In `home()`."""
PROJECT_FILE = "creatok.toml"
"""In the working folder."""
MAX_FILE = 1_048_576
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")
_PIXELS = ("base", "size", "steps", "guidance", "scheduler", "negative", "count", "seed", "dtype")
_WHERE = re.compile(r"(?P<file>.*?):(?P<line>[0-9]+):(?P<column>[0-9]+)")

T = TypeVar("T")


def home() -> Path:
    """Folder for what creatok keeps of its own: `CREATOK_HOME`, else the platform's data folder."""
    own = os.environ.get("CREATOK_HOME")
    return Path(own).expanduser() if own else platformdirs.user_data_path(APP, appauthor=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What belongs to this machine and run. Nothing here takes part in a key."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:INDEX."""
    executor: str = "local"
    batch_size: int | Literal["probe"] | None = None
    """Pictures drawn together; None is auto, `probe` is measured on the device."""
    vram: float | None = None
    """GiB of the device's memory to take at most; below 0 what stays free; None for all."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the denoiser is compiled; auto is for long plans on CUDA."""
    offline: bool = False
    """Whether even the step that fetches a base may not connect."""
    out: Path | None = None
    """Output folder; None is out/ and the name of the sheet."""
    progress: Literal["auto", "bar", "plain", "none"] = "auto"

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError("device: expected auto, cpu, mps, cuda or cuda:INDEX")
        if isinstance(self.batch_size, int) and not 1 <= self.batch_size <= 4096:
            raise ValueError("batch_size: expected auto, probe or a whole number from 1 to 4096")
        if self.vram is not None and not (0 < abs(self.vram) <= 4096):
            raise ValueError("vram: expected GiB, such as 8, or -2 to keep 2 GiB free")


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Machine:
    """The machine settings: default < user file < project file < environment < flags.

    Flags that are None were not given. Variables are CREATOK_DEVICE, CREATOK_EXECUTOR,
    CREATOK_BATCH_SIZE, CREATOK_VRAM, CREATOK_COMPILE, CREATOK_OFFLINE, CREATOK_OUT and
    CREATOK_PROGRESS. Raises InputError, naming the file or variable.
    """
    variables = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    user, project = home() / USER_FILE, (folder or Path.cwd()) / PROJECT_FILE
    for path in (user, project):
        merged |= _checked(_toml(path), str(path))
    for name in (f.name for f in fields(Machine)):
        variable = f"{APP.upper()}_{name.upper()}"
        if variables.get(variable):
            given = variables[variable]
            if name == "offline":
                given = _SWITCHES.get(given.lower(), given)
            merged |= _checked({name: given}, variable)
    merged |= _checked(
        {key: value for key, value in flags.items() if value is not None}, "command line"
    )
    return Machine(**merged)


def parse_set(items: Sequence[str]) -> dict[str, str]:
    """`key=value` texts of `--set` as a dict; the sheet's schema types the values.

    Raises InputError for a text without `=`, a repeated key, or a machine setting.
    """
    found: dict[str, str] = {}
    own = {f.name: f"--{f.name.replace('_', '-')}" for f in fields(Machine)}
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set {_short(item)}: expected KEY=VALUE, for example --set steps=4")
        if key in found:
            raise InputError(f"--set {key}: given twice")
        if key.replace("-", "_") in own:
            flag = own[key.replace("-", "_")]
            raise InputError(f"--set {key}: belongs to the machine, not to the picture; use {flag}")
        found[key] = value
    return found


def build_spec(spec_class: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """A Spec from plain values, strictly; texts are read as the type that the field declares.

    `where` names the source for messages, best as `file:line:column`. Raises UnknownName for a key
    that the Spec does not have, PresetError for a value of another type or out of its range, and
    for a missing key.
    """
    if not is_dataclass(spec_class):
        raise TypeError(f"{spec_class!r} is not a dataclass")
    hints = get_type_hints(spec_class)
    known = [f.name for f in fields(spec_class) if f.init]
    ready: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"there are {', '.join(known)}"
            raise UnknownName(f"{where}: unknown setting {_short(key)}; {hint}")
        try:
            ready[key] = _typed(value, hints[key])
        except ValueError as error:
            raise _preset_error(where, f"{key}: found {_short(value)}, expected {error}") from None
    for f in fields(spec_class):
        if f.init and f.name not in ready and f.default is MISSING and f.default_factory is MISSING:
            raise _preset_error(where, f"the setting {f.name} is missing")
    try:
        return spec_class(**ready)
    except ValueError as error:
        raise _preset_error(where, str(error)) from None


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The given values only, each checked through Machine."""
    for key in values:
        if key in _PIXELS:
            raise InputError(
                f"{where}: {key} decides pixels; it belongs into the sheet, or to --set"
            )
    ready = {
        key: None if key == "batch_size" and value == "auto" else value
        for key, value in values.items()
    }
    built = build_spec(Machine, ready, where=where)
    return {key: getattr(built, key) for key in ready}


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise InputError(f"{path}: larger than {MAX_FILE} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{path}: not valid TOML: {reason}") from None


def _preset_error(where: str, message: str) -> PresetError:
    found = _WHERE.fullmatch(where)
    file, line, column = (found[1], int(found[2]), int(found[3])) if found else (where, 1, 1)
    return PresetError(
        [Problem(file=file, line=line, column=column, slug="bad-value", message=message)]
    )


def _short(value: Any) -> str:
    text = f'"{repr(value)[1:-1]}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


_BOOLEANS = {"true": True, "false": False}
_SWITCHES = {"1": "true", "on": "true", "yes": "true", "0": "false", "off": "false", "no": "false"}
"""How the variables of the Hugging Face libraries say it."""
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def _typed(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`. Raises ValueError whose text is what was expected."""
    origin, members = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, members)
    if origin is Literal:
        if value in members and type(value) in {type(m) for m in members}:
            return value
        raise ValueError(" or ".join(str(m) for m in members))
    if origin is tuple:
        return _tuple(value, members)
    if hint is type(None):
        if value is None or value == "none":
            return None
        raise ValueError("none")
    if hint in _WORDS:
        return _scalar(value, hint)
    raise TypeError(f"a Spec field of type {hint!r} cannot be read from a preset")


def _one_of(value: Any, members: Sequence[Any]) -> Any:
    expected: list[str] = []
    ordered = sorted(members, key=lambda m: m is not type(None))
    for member in ordered:
        try:
            return _typed(value, member)
        except ValueError as error:
            expected.append(str(error))
    raise ValueError(" or ".join(expected[::-1]))


def _tuple(value: Any, members: Sequence[Any]) -> tuple[Any, ...]:
    pieces = [p.strip() for p in value.split(",")] if isinstance(value, str) else value
    if not isinstance(pieces, list | tuple):
        raise ValueError("a list")
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(_typed(piece, members[0]) for piece in pieces)
    if len(pieces) != len(members):
        raise ValueError(f"a list of {len(members)}")
    return tuple(_typed(piece, member) for piece, member in zip(pieces, members, strict=True))


def _scalar(value: Any, kind: Any) -> Any:
    expected = _WORDS[kind]
    if kind is Path and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    if kind is str and isinstance(value, str):
        return str(value)
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value in _BOOLEANS:
            return _BOOLEANS[value]
    elif kind in (int, float) and not isinstance(value, bool):
        if isinstance(value, kind) or (kind is float and isinstance(value, int)):
            return kind(value)
        pattern = r"[-+]?(0|[1-9][0-9]{0,18})" if kind is int else r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?"
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return kind(value)
    raise ValueError(expected)
