"""Bytes of a written file to checked text, places in it, and the list of its problems.

Text is refused rather than repaired: wrong encodings cite the byte, control and bidirectional
override characters cite their line, because a file that reads differently from what it says cannot
be reviewed. Sheets, presets and pair lists are read through here.

Does not: know YAML, CSV or JSON.
"""

from __future__ import annotations

import codecs
import gc
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from creatok_cli.errors import Problem, SheetError
from creatok_cli.registry import did_you_mean

MAX_BYTES = 64 * 1024 * 1024
MAX_PROBLEMS = 20
MAX_SCALAR = 65_536
"""Longest single value in characters."""
MAX_DEPTH = 64
MAX_KEY = 1_024
"""Longest key in characters."""
MAX_KEYS = 10_000
"""Most keys of one mapping."""
MAX_MEMBERS = 250_000
"""Most members of one list."""

Mark = tuple[int, int]
"""Line and column, from 1."""
At = tuple[str | int, ...]
"""Where a value sits in a document: keys and list positions, from the top."""

FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
"""Controls, line separators that editors count differently, bidi overrides, surrogates, BOM."""
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_BREAK = re.compile("\r\n|\r|\n")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cyclic garbage collector still while very many small objects are made.

    None of them are cycles, and looking through them again and again would take half of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Number(str):
    """An unquoted number, kept as it was written: the schema decides whether it may be text."""

    __slots__ = ()


class Cell(str):
    """A cell of a CSV sheet or a `--set` value: text that the schema may read as anything."""

    __slots__ = ()


class Place:
    """Line and column (from 1) of a collection, of its keys and of its members."""

    __slots__ = ("column", "items", "keys", "line")

    def __init__(
        self,
        line: int,
        column: int,
        keys: dict[str, Mark] | None = None,
        items: dict[str, Place | Mark] | list[Place | Mark] | None = None,
    ) -> None:
        self.line = line
        self.column = column
        self.keys = keys
        self.items = items

    def find(self, path: Sequence[str | int], *, key: bool = False) -> Mark:
        """Line and column of the value at `path` (of its key with `key`), or of its parent."""
        here: Place | Mark = self
        for depth, step in enumerate(path):
            if not isinstance(here, Place):
                break
            if key and depth == len(path) - 1 and here.keys and step in here.keys:
                return here.keys[str(step)]
            if isinstance(here.items, dict) and step in here.items:
                here = here.items[str(step)]
            elif isinstance(here.items, list) and isinstance(step, int) and step < len(here.items):
                here = here.items[step]
            else:
                break
        return (here.line, here.column) if isinstance(here, Place) else here


class Problems:
    """Collects problems: the first 20 are kept, the rest is counted and never worded."""

    def __init__(self) -> None:
        self.kept: list[Problem] = []
        self.total = 0

    def add(self, make: Callable[[], Problem], count: int = 1) -> None:
        """Count `count` problems and keep the one that `make` words, while there is room."""
        self.total += count
        if not self.is_full:
            self.kept.append(make())

    def keep(self, problem: Problem) -> None:
        """Count one problem that is worded already."""
        self.add(lambda: problem)

    @property
    def is_full(self) -> bool:
        """Whether further problems are only counted."""
        return len(self.kept) >= MAX_PROBLEMS

    def check(self) -> None:
        """Raises SheetError if anything was collected, in the order of the file."""
        if self.kept:
            ordered = sorted(self.kept, key=lambda p: (p.file, p.line, p.column))
            error = SheetError(ordered, self.total)
            if all(problem.slug == "unsafe-name" for problem in ordered):
                error.reason = "unsafe-name"
            raise error


def escaped(text: str) -> str:
    """The text with control, format and surrogate characters as escapes: safe to print anywhere."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c == " " or (c.isprintable() and unicodedata.category(c)[0] != "C")
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def shown(value: object, limit: int = 60) -> str:
    """A value for a message: quoted text cut to `limit` characters, or a word for its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        cut = value if len(value) <= limit else value[: limit - 1] + "…"
        body = escaped(cut)
        return body if isinstance(value, Number) else f'"{body}"'
    if isinstance(value, int | float):
        return str(value)[:limit]
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else "something else"


def load_bytes(path: Path, file: str) -> bytes:
    """The bytes at `path`, which messages call `file`.

    Raises SheetError: not there (with the nearest neighbour's name), unreadable, too big.
    """
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:
                limit = f"{MAX_BYTES // 1024**2} MiB"
                refuse(file, 1, 1, "file-too-big", f"the file is larger than {limit}")
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = did_you_mean(path.name, neighbours(path))
        hint = f"; {near}" if near else ""
        refuse(file, 1, 1, "unreadable", f"there is no such file{hint}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        refuse(file, 1, 1, "unreadable", f"the file cannot be read: {reason}")


def neighbours(path: Path) -> list[str]:
    """The names in the folder of a file that is looked for; empty where there is no folder."""
    try:
        return sorted(name for name in os.listdir(path.parent) if name.isprintable())
    except OSError:
        return []


def decode(data: bytes, file: str) -> str:
    """UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises SheetError: too big, wrong encoding (byte offset and line), forbidden character (line and
    column).
    """
    if len(data) > MAX_BYTES:
        refuse(file, 1, 1, "file-too-big", f"the file is larger than {MAX_BYTES // 1024**2} MiB")
    encoding = "utf-8"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        refuse(file, 1, 1, "encoding", "the file is UTF-32; save it as UTF-8")
    if data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        start = error.start + (3 if encoding == "utf-8-sig" else 0)
        good = data[:start].decode(encoding, "replace")
        line, column = position(good, len(good))
        name = encoding.removesuffix("-sig").upper()
        what = f"byte {start} (0x{data[start]:02x}) is not valid {name}"
        refuse(file, line, column, "encoding", f"{what}; save the file as UTF-8")
    bad = FORBIDDEN.search(text)
    if bad:
        line, column = position(text, bad.start())
        refuse(file, line, column, "control-character", forbidden_message(bad.group()))
    return text


def forbidden_message(character: str) -> str:
    """Why a character is refused, by its code point."""
    kind = "bidirectional override" if _BIDI.match(character) else "control character"
    return f"the {kind} U+{ord(character):04X} is not allowed"


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a character offset."""
    line, start = 1, 0
    for found in _BREAK.finditer(text, 0, offset):
        line, start = line + 1, found.end()
    return line, offset - start + 1


def refuse(file: str, line: int, column: int, slug: str, message: str) -> NoReturn:
    """Raises SheetError with this one problem."""
    raise SheetError([Problem(file=file, line=line, column=column, slug=slug, message=message)])
