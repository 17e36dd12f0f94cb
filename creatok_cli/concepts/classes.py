"""Class lists: the words that a network knows and a labeler chooses from.

A list has 2 to 2000 names ("pig", "polar bear"), all of one kind, which its `noun` says; the
question that a labeler answers is made of it unless the list asks its own. Shipped lists are
`classes/*.yaml`, found by scanning; a list of one's own is a YAML file of the same form, a CSV file
with the one column `class`, or a text file with one name a line. Every fault is reported at
file:line:column.

Does not: know which words a base can draw, or how a labeler reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli.concepts._check import (
    MAX_WORD,
    NOTES,
    Check,
    Places,
    concept_fault,
    folded,
    is_file,
    locate,
    shipped,
    word_fault,
)
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.strict_csv import cell_place, check_size, iter_records
from creatok_cli.strict_text import Mark, Place, collector_paused, decode, load_bytes, refuse, shown
from creatok_cli.strict_yaml import read_yaml

MIN_CLASSES, MAX_CLASSES = 2, 2_000
MAX_QUESTION = 200
"""Longest question in characters."""
NOUN = "creature"
"""What the names of a list are, where it does not say."""
KEYS = ("classes", "noun", "question", *NOTES)
"""The keys of a list in YAML; the first is needed."""

_SHIPPED = Path(__file__).parent / "classes"
_SUFFIXES = (".yaml", ".yml", ".json", ".csv", ".txt")
_HEADER = "class"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassList:
    """A checked list of class names."""

    name: str
    """Of a shipped list, else the stem of the file."""
    digest: str
    """`sha256:` over classes, noun and question; not over name, notes or comments."""
    classes: tuple[str, ...]
    """In the order of the file; unique, whatever their case."""
    noun: str
    """What they all are: `animal`, `creature`, `plant`."""
    question: str
    """What a labeler that answers questions is asked."""
    source: str
    licence: str
    note: str


def class_lists() -> tuple[str, ...]:
    """The names of the shipped lists, sorted."""
    return shipped(_SHIPPED)


def is_path(name_or_path: str) -> bool:
    """Whether this is a file of the user's rather than the name of a shipped list."""
    return is_file(name_or_path, _SUFFIXES)


def load_classes(name_or_path: str) -> ClassList:
    """A shipped list by its name, or the YAML, CSV or text file at a path.

    Raises UnknownName with the nearest name, SheetError with up to 20 problems of the file.
    """
    path, file = locate(name_or_path, _SHIPPED, "class list", _SUFFIXES, ".yaml, .csv or .txt")
    text = decode(load_bytes(path, file), file)
    read = {".csv": _read_csv, ".txt": _read_lines}.get(path.suffix.lower(), read_yaml)
    with collector_paused():
        document, places = read(text, file)
        return _Check(file, document, places).run(path.stem)


class _Check(Check):
    """One pass over a document."""

    def run(self, name: str) -> ClassList:
        document = self.keys(KEYS, KEYS[:1])
        notes = self.notes()
        noun = self._text("noun", NOUN, "a noun", MAX_WORD)
        default = f"What {noun} is in the photo?"
        question = self._text("question", default, "a question", MAX_QUESTION)
        classes = self._classes(document.get("classes"))
        self.problems.check()
        content = {"classes": classes, "noun": noun, "question": question}
        digest = f"sha256:{sha256_hex(canonical_json(content))}"
        return ClassList(
            name=name, digest=digest, classes=classes, noun=noun, question=question, **notes
        )

    def _text(self, key: str, default: str, what: str, limit: int) -> str:
        value = self.document.get(key, default)
        if fault := word_fault(value, what, limit):
            self.say((key,), "bad-value", f"{key}: {fault[0]}", fault[1])
            return default
        return str(value)

    def _classes(self, value: Any) -> tuple[str, ...]:
        if "classes" not in self.document:
            return ()
        what = f"a list of {MIN_CLASSES} to {MAX_CLASSES} names, such as [pig, polar bear]"
        if not isinstance(value, list) or not MIN_CLASSES <= len(value) <= MAX_CLASSES:
            found = f"{len(value)} names" if isinstance(value, list) else shown(value)
            self.say(("classes",), "bad-value", f"classes: found {found}, expected {what}")
            return ()
        first: dict[str, int] = {}
        for index, word in enumerate(value):
            at = ("classes", index)
            if fault := concept_fault(word):
                self.say(at, "bad-value", *fault)
                continue
            earlier = first.setdefault(folded(word), index)
            if earlier != index:
                line, column = self.places.find(("classes", earlier))
                message = f"{shown(word)} is repeated; it stands at {line}:{column} already"
                self.say(at, "duplicate-class", message, "upper and lower case are one")
        return tuple(str(word) for word in value)


class _CsvPlaces:
    """Places in CSV text, counted on demand."""

    def __init__(self, text: str, starts: Sequence[int]) -> None:
        self.text = text
        self.starts = starts

    def find(self, path: Sequence[str | int], *, key: bool = False) -> Mark:
        """Line and column of `("classes", row)`."""
        if path[1:]:
            return cell_place(self.text, self.starts[int(path[1])], 0)
        return 1, 1


def _read_csv(text: str, file: str) -> tuple[Any, Places]:
    """The records below the header, one cell each."""
    records = list(iter_records(text, file))
    header = [cell.strip() for cell in records[0][1]] if records else []
    if header != [_HEADER]:
        line = records[0][0] if records else 1
        found = shown(",".join(header)) if records else "an empty file"
        message = f"found {found}, expected a first line that says {_HEADER}, and one name a line"
        refuse(file, line, 1, "bad-header", message)
    for start, cells in records[1:]:
        if len(cells) > 1:
            message = f"found {len(cells)} cells, expected one name a line"
            refuse(file, start, 1, "bad-row", message)
    starts = [start for start, _ in records[1:]]
    return {"classes": [cells[0].strip() for _, cells in records[1:]]}, _CsvPlaces(text, starts)


def _read_lines(text: str, file: str) -> tuple[Any, Places]:
    """One name a line; blank lines and those that begin with # are left out."""
    check_size(text, file, 0)
    numbered = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)
    kept = [(number, line) for number, line in numbered if line.strip()]
    kept = [(number, line) for number, line in kept if not line.lstrip().startswith("#")]
    marks: list[Place | Mark] = [
        (number, len(line) - len(line.lstrip()) + 1) for number, line in kept
    ]
    classes = Place(1, 1, None, marks)
    return {"classes": [line.strip() for _, line in kept]}, Place(1, 1, None, {"classes": classes})
