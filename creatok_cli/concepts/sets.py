"""Pair lists: rows of words to learn from, with held-out groups.

A list names its slots (`a` and `b`, or `trait` and `animal`); a row has one word for each, and
templates say where they go: "a {a} {b}". One order is stored, methods make the other one. What is
held out stands in named groups, is never learned from, and shares no row with `train`. Shipped
lists are `data/*.yaml`, found by scanning; a user's own list is a YAML file of the same form, or a
CSV file with a header of slot names. Every fault is reported at file:line:column.

Does not: fill templates, split a list, or know which words a base can draw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli.concepts._check import (
    NOTES,
    Check,
    Places,
    folded,
    is_file,
    listed,
    locate,
    shipped,
    word_fault,
)
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.strict_csv import cell_place, iter_records
from creatok_cli.strict_text import (
    At,
    Mark,
    collector_paused,
    decode,
    load_bytes,
    refuse,
    shown,
)
from creatok_cli.strict_yaml import read_yaml

Row = tuple[str, ...]

MAX_ROWS = 100_000
"""Most rows of one list, held-out ones included."""
MAX_SLOTS = 4
KEYS = ("slots", "train", "held_out", *NOTES)
"""The keys of a list in YAML; the first two are needed."""

_DATA = Path(__file__).parent / "data"
_SUFFIXES = (".yaml", ".yml", ".json", ".csv")
_SLOT = re.compile(r"[a-z][a-z0-9_]{0,31}")
_GROUP = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairList:
    """A checked list of rows."""

    name: str
    """Of a shipped list, else the stem of the file."""
    digest: str
    """`sha256:` over slots, train and held-out rows; not over name, notes or comments."""
    slots: tuple[str, ...]
    train: tuple[Row, ...]
    held_out: Mapping[str, tuple[Row, ...]]
    """Rows by group, groups in the order of the file; no row is in train."""
    source: str
    licence: str
    note: str


def pair_lists() -> tuple[str, ...]:
    """The names of the shipped lists, sorted."""
    return shipped(_DATA)


def is_path(name_or_path: str) -> bool:
    """Whether this is a file of the user's rather than the name of a shipped list."""
    return is_file(name_or_path, _SUFFIXES)


def load_pairs(name_or_path: str) -> PairList:
    """A shipped list by its name, or the YAML or CSV file at a path.

    Raises UnknownName with the nearest name, SheetError with up to 20 problems of the file.
    """
    path, file = locate(name_or_path, _DATA, "pair list", _SUFFIXES, ".yaml or .csv")
    text = decode(load_bytes(path, file), file)
    read = _read_csv if path.suffix.lower() == ".csv" else read_yaml
    with collector_paused():
        document, places = read(text, file)
        return _Check(file, document, places).run(path.stem)


class _Check(Check):
    """One pass over a document; every row is remembered."""

    def __init__(self, file: str, document: Any, places: Places) -> None:
        super().__init__(file, document, places)
        self.rows: dict[Row, At] = {}

    def run(self, name: str) -> PairList:
        document = self.keys(KEYS, KEYS[:2])
        notes = self.notes()
        slots = self._slots(document.get("slots"))
        self.problems.check()
        train = self._rows(("train",), document.get("train"), slots)
        held_out = self._groups(document.get("held_out", {}), slots)
        self.problems.check()
        content = {"slots": slots, "train": train, "held_out": held_out}
        digest = f"sha256:{sha256_hex(canonical_json(content))}"
        return PairList(
            name=name, digest=digest, slots=slots, train=train, held_out=held_out, **notes
        )

    def _slots(self, value: Any) -> tuple[str, ...]:
        if "slots" not in self.document:
            return ()
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_SLOTS:
            what = f"a list of 1 to {MAX_SLOTS} names, such as [a, b]"
            self.say(("slots",), "bad-value", f"slots: found {shown(value)}, expected {what}")
            return ()
        for index, slot in enumerate(value):
            at = ("slots", index)
            if not isinstance(slot, str) or not _SLOT.fullmatch(slot):
                message = f"found {shown(slot)}, expected a name of letters, digits and _"
                self.say(at, "bad-value", f"slots: {message}", "lower case, a letter first")
            elif slot == "word":
                message = "slots: word is taken: {word} is the learned word in templates"
                self.say(at, "bad-value", message)
            elif slot in value[:index]:
                self.say(at, "duplicate-key", f"slots: {shown(slot)} is repeated")
        return tuple(str(slot) for slot in value)

    def _groups(self, value: Any, slots: Row) -> dict[str, tuple[Row, ...]]:
        if not isinstance(value, dict):
            message = f"held_out: found {shown(value)}, expected a mapping of group names to rows"
            self.say(("held_out",), "bad-value", message)
            return {}
        for group in value:
            if not _GROUP.fullmatch(group):
                message = f"the group {shown(group)} is not a name of letters, digits and -"
                self.say(("held_out", group), "bad-key", message, "lower case only", key=True)
        return {
            str(group): self._rows(("held_out", group), rows, slots)
            for group, rows in value.items()
        }

    def _rows(self, at: At, value: Any, slots: Row) -> tuple[Row, ...]:
        if not isinstance(value, list) or not value:
            found = "an empty list" if value == [] else shown(value)
            message = f"{at[-1]}: found {found}, expected rows such as [{', '.join(slots)}]"
            self.say(at, "bad-value", message)
            return ()
        if len(self.rows) + len(value) > MAX_ROWS:
            line, column = self.places.find(at)
            refuse(self.file, line, column, "too-many-rows", f"more than {MAX_ROWS} rows")
        return tuple(self._row((*at, index), row, slots) for index, row in enumerate(value))

    def _row(self, at: At, value: Any, slots: Row) -> Row:
        if not isinstance(value, list) or len(value) != len(slots):
            found = f"{len(value)} words" if isinstance(value, list) else shown(value)
            expected = f"{len(slots)}, one for each of {', '.join(slots)}"
            self.say(at, "bad-value", f"found {found}, expected a list of {expected}")
            return ()
        faults = [
            (index, *fault) for index, word in enumerate(value) if (fault := word_fault(word))
        ]
        for index, message, hint in faults:
            self.say((*at, index), "bad-value", message, hint)
        if not faults:
            self._once(at, tuple(folded(word) for word in value))
        return tuple(str(word) for word in value)

    def _once(self, at: At, row: Row) -> None:
        """Every row stands in the file once; a pair and its other order are one row."""
        if len(set(row)) < len(row):
            message = f"{_row_text(row)} has the same word twice"
            self.say(at, "duplicate-word", message)
            return
        key = row if len(row) != 2 else (min(row), max(row))
        first = self.rows.setdefault(key, at)
        if first == at:
            return
        line, column = self.places.find(first)
        group = at[1] if at[0] == "held_out" else "train"
        other = first[1] if first[0] == "held_out" else "train"
        if group == other:
            message = f"is repeated; it stands at {line}:{column} already"
        else:
            message = f"is held out in {group}, but stands in {other} at {line}:{column}"
        self.say(at, "duplicate-row", f"{_row_text(row)} {message}", "the order does not matter")


def _row_text(row: Row) -> str:
    return f"the row [{listed(row)}]"


class _CsvPlaces:
    """Places in CSV text, counted on demand; the header is the list of slots."""

    def __init__(self, text: str, header: int, starts: Sequence[int]) -> None:
        self.text = text
        self.header = header
        self.starts = starts

    def find(self, path: Sequence[str | int], *, key: bool = False) -> Mark:
        """Line and column of `("slots", cell)` or `("train", row, cell)`."""
        numbers = [step for step in path if isinstance(step, int)]
        if not numbers:
            return self.header, 1
        start = self.header if path[0] == "slots" else self.starts[numbers[0]]
        cell = numbers[-1] if path[0] == "slots" or len(numbers) > 1 else 0
        return cell_place(self.text, start, cell)


def _read_csv(text: str, file: str) -> tuple[Any, Places]:
    """The header as slots, the records as train."""
    records = [
        (start, [cell.strip() for cell in cells]) for start, cells in iter_records(text, file)
    ]
    if not records:
        message = "the file is empty; its first line must name the slots, such as a,b"
        refuse(file, 1, 1, "empty", message)
    (header, slots), rows = records[0], records[1:]
    words = {folded(cell) for _, cells in rows for cell in cells}
    if any(folded(slot) in words for slot in slots):
        message = "the first line must name the slots, such as a,b; this one has a word of the rows"
        refuse(file, header, 1, "bad-header", message)
    document = {"slots": slots, "train": [cells for _, cells in rows]}
    return document, _CsvPlaces(text, header, [start for start, _ in rows])
