"""Output names: the template, and the rules that make a name mean the same file on every system.

A name is relative, has `/` separators and no extension (sinks add theirs). The rules are those of
Windows, macOS and Linux together, as pure functions: the verdict does not depend on where it is
computed. Values enter a name as ASCII slugs; the literal parts of a template are checked as they
stand.

Does not: touch a file system; walking a path safely is the business of `durable`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from creatok_cli.errors import UnsafeName
from creatok_cli.hashing import sha256_hex
from creatok_cli.plan._template import TemplateFault, parse
from creatok_cli.registry import did_you_mean

DEFAULT_TEMPLATE = "{job}/{index:04d}-{key8}"
FIELDS = ("sheet", "job", "index", "seed", "key8", "token", "base")
NUMBERS = ("index", "seed")
MAX_PART_BYTES = 120
MAX_NAME_BYTES = 200
EXTENSION_BYTES = 5
"""Room that a name leaves for the extension that a sink adds."""
_OWN_FILES = re.compile(r"(?:manifest|plan|attempts|scores)\..+|(?:contact-sheet|gallery).*\..+")
"""First part, folded, of the files that creatok itself keeps at the top of an output folder."""
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
_WINDOWS_ONLY = frozenset('<>:"|?*\\')
_PLAIN_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_NUMBER_FORMAT = re.compile(r"0([1-9])d")
_NOT_SLUG = re.compile(r"[^A-Za-z0-9._]+")
_SLUG_BYTES = 60


def check_template(template: str) -> None:
    """Raises TemplateFault for an unknown field or format, UnsafeName for its literal text."""
    parts = parse(template, has_formats=True)
    for _, name, form in parts:
        if name is None:
            continue
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS) or f"there are {', '.join(FIELDS)}"
            raise TemplateFault(0, f"unknown field {{{name}}}; {hint}")
        if form and (name not in NUMBERS or not _NUMBER_FORMAT.fullmatch(form)):
            raise TemplateFault(
                0, f"unknown format '{{{name}:{form}}}'; only {{index:04d}} and {{seed:04d}} exist"
            )
    sample = "".join(literal if name is None else "x" for literal, name, _ in parts)
    check_name(sample)


def fill_template(template: str, values: Mapping[str, str | int]) -> str:
    """The name that a checked template gives: text values as slugs, numbers in their format."""
    pieces: list[str] = []
    for literal, name, form in parse(template, has_formats=True):
        if name is None:
            pieces.append(literal)
        elif name in NUMBERS:
            width = int(form[1]) if form else 0
            pieces.append(str(values[name]).zfill(width))
        else:
            pieces.append(slug(str(values[name])))
    return "".join(pieces)


@lru_cache(maxsize=65536)
def slug(text: str) -> str:
    """ASCII letters, digits, `.`, `_` and `-`: what a value contributes to a name.

    Accents fall away and everything else becomes `-`. Text that loses all its letters, or is cut,
    is told apart by a digest.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    short = _NOT_SLUG.sub("-", ascii_text).strip("-.")
    if short and len(short) <= _SLUG_BYTES:
        return short
    return f"{short[: _SLUG_BYTES - 9].strip('-.') or 'x'}-{sha256_hex(text)[:8]}"


def check_name(name: str) -> None:
    """Raises UnsafeName with the first rule that a relative name breaks."""
    fault = name_fault(name)
    if fault:
        raise UnsafeName(fault)


def name_fault(name: str) -> str | None:
    """The first rule that a relative output name without extension breaks, or None."""
    if not name:
        return "an output name is empty"
    if _length(name) + EXTENSION_BYTES > MAX_NAME_BYTES:
        return f"an output name is longer than {MAX_NAME_BYTES - EXTENSION_BYTES} bytes"
    if name.startswith(("/", "\\")):
        return "an output name must be relative: it starts at a root or a network share"
    parts = name.split("/")
    for depth, part in enumerate(parts):
        is_last = depth == len(parts) - 1
        fault = part_fault(part, room=EXTENSION_BYTES if is_last else 0)
        if fault:
            return fault
    top = parts[0].casefold()
    if _OWN_FILES.fullmatch(top if len(parts) > 1 else f"{top}.png"):
        return f'the top-level name "{parts[0]}" is kept for a file of creatok\'s own'
    return None


def part_fault(part: str, *, room: int = 0) -> str | None:
    """The first rule that one part of a path breaks, or None. `room`: bytes that must stay free."""
    is_plain = _PLAIN_PART.fullmatch(part) is not None
    if not is_plain:
        fault = _odd_fault(part)
        if fault:
            return fault
    if _length(part) + room > MAX_PART_BYTES:
        return f"a part of an output name is longer than {MAX_PART_BYTES - room} bytes"
    if part.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
        return f'"{part[:20]}" is a device name on Windows'
    return None


def collision_key(name: str) -> str:
    """Equal for two names that some file system takes for one: case and forms are folded."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def folder_clashes(names: Sequence[str], extension: str = ".png") -> Iterable[int]:
    """Positions of names whose file stands where others need a folder (`a` beside `a.png/b`)."""
    folders: set[str] = set()
    for folder in {name.rpartition("/")[0] for name in names}:
        parts = collision_key(folder).split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    if not any(folder.endswith(extension) for folder in folders):
        return []
    return [i for i, name in enumerate(names) if collision_key(name) + extension in folders]


def _odd_fault(part: str) -> str | None:
    """Rules that a part of only ASCII letters, digits and inner `._-` cannot break."""
    if not part:
        return "a part of an output name is empty"
    if part in (".", ".."):
        return f'"{part}" is not allowed in an output name'
    if part[0] == ".":
        return "a part of an output name starts with a dot: it would be hidden"
    if part[0] == "-":
        return "a part of an output name starts with '-': it would read as an option"
    if "~" in part:
        return "'~' is not allowed in an output name: it stands for a home folder or a short name"
    if len(part) >= 2 and part[1] == ":" and part[0].isalpha():
        return "a drive letter is not allowed in an output name"
    for character in part:
        if character in _WINDOWS_ONLY:
            return f"'{character}' is not allowed in an output name on Windows"
        if unicodedata.category(character)[0] == "C" or unicodedata.category(character) in (
            "Zl",
            "Zp",
        ):
            return (
                f"the invisible character U+{ord(character):04X} is not allowed in an output name"
            )
    if part[0].isspace() or part[-1].isspace() or part[-1] == ".":
        return "a part of an output name starts or ends with a space, or ends with a dot"
    if unicodedata.normalize("NFC", part) != part:
        return "an output name is not in NFC form: macOS would change it"
    return None


def _length(text: str) -> int:
    """Bytes of UTF-8."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8", "surrogatepass"))
