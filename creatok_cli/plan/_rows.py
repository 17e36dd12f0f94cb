"""Readers of row sheets: CSV and JSONL text to one dict per job.

Places are only found when a message needs them.

A column or key that a job does not know is a variable of that row. Cells and numbers stay text; the
schema types them.

Does not: check values, or look at prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from creatok_cli.errors import SheetError
from creatok_cli.strict_csv import MAX_LINE, cell_place, check_size, iter_records
from creatok_cli.strict_text import (
    MAX_DEPTH,
    Cell,
    Number,
    refuse,
    shown,
)
from creatok_cli.strict_yaml import read_yaml

MAX_COLUMNS = 1_000
_NESTED = ("matrix", "zip", "include", "exclude", "vars", "loras", "options")
_OPENERS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]')


class CsvPlaces:
    """Places in CSV text: a record's first line is kept, columns are counted on demand."""

    def __init__(self, text: str, starts: Sequence[int], columns: Sequence[str]) -> None:
        self.text = text
        self.starts = starts
        self.columns = columns

    def find(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column of a cell `("jobs", row, ["vars",] column)`; of the header with `key`."""
        names = [step for step in path if step in self.columns]
        row = path[1] if len(path) > 1 and isinstance(path[1], int) and not key else None
        start = 1 if row is None else self.starts[row]
        if not names:
            return start, 1
        return cell_place(self.text, start, self.columns.index(str(names[0])))


class JsonlPlaces:
    """Places in JSONL text: a row's line is parsed again when a message needs a column."""

    def __init__(self, lines: Sequence[str], numbers: Sequence[int], file: str) -> None:
        self.lines = lines
        self.numbers = numbers
        self.file = file

    def find(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column of `("jobs", row, key...)`; variables sit beside the other keys."""
        if len(path) < 2 or not isinstance(path[1], int):
            return 1, 1
        number, line = self.numbers[path[1]], self.lines[path[1]]
        inner = list(path[2:])
        if not inner:
            return number, 1
        try:
            _, place = read_yaml(line, self.file)
        except SheetError:
            return number, _rough_column(line, inner, key)
        if inner[0] == "vars" and isinstance(place.items, dict) and "vars" not in place.items:
            inner = inner[1:]
        return number, place.find(inner, key=key)[1]


def read_csv(
    text: str, file: str, known: Collection[str]
) -> tuple[list[dict[str, Any]], CsvPlaces]:
    """One dict per record: known columns by name, the others under `vars`. Empty cells are absent.

    Raises SheetError for a bad header, a ragged record, broken quotes.
    """
    columns: list[str] = []
    starts: list[int] = []
    rows: list[dict[str, Any]] = []
    for start, record in iter_records(text, file):
        if not columns:
            columns = [cell.strip() for cell in record]
            _check_header(columns, file, start, known)
            continue
        if len(record) != len(columns):
            message = f"this record has {len(record)} cells, the header has {len(columns)}"
            refuse(file, start, 1, "ragged-row", f"{message}; quote text that has commas in it")
        rows.append(_record(record, columns, known))
        starts.append(start)
    if not columns:
        refuse(file, 1, 1, "empty", "the sheet is empty; its first line must name the columns")
    return rows, CsvPlaces(text, starts, columns)


def read_jsonl(
    text: str, file: str, known: Collection[str]
) -> tuple[list[dict[str, Any]], JsonlPlaces]:
    """One dict per line: known keys by name, the others under `vars`. Blank lines are skipped.

    Raises SheetError for what is not a JSON object, and for repeated keys.
    """
    check_size(text, file, text.count(",") + text.count("["))
    lines: list[str] = []
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        lines.append(line)
        numbers.append(number)
        row = _json_object(line, number, file)
        extra = {key: value for key, value in row.items() if key not in known}
        if extra:
            row = {key: value for key, value in row.items() if key in known}
            own = row.get("vars", {})
            row["vars"] = {**own, **extra} if isinstance(own, dict) else own
        rows.append(row)
    return rows, JsonlPlaces(lines, numbers, file)


def _check_header(columns: list[str], file: str, line: int, known: Collection[str]) -> None:
    if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
        refuse(
            file,
            line,
            1,
            "csv-syntax",
            "the header is one single column; separate columns with commas",
        )
    if len(columns) > MAX_COLUMNS:
        refuse(file, line, 1, "too-many-keys", f"more than {MAX_COLUMNS} columns")
    for index, name in enumerate(columns):
        if not name:
            refuse(file, line, 1, "bad-key", f"column {index + 1} has no name")
        if name in columns[:index]:
            first = columns.index(name) + 1
            message = f"the column {shown(name)} is repeated; it is column {first} already"
            refuse(file, line, 1, "duplicate-key", message)
        if name in _NESTED:
            refuse(
                file, line, 1, "unknown-key", f"a column {shown(name)} needs a YAML or JSONL sheet"
            )
    if "prompt" not in columns:
        refuse(
            file,
            line,
            1,
            "missing-key",
            'the header has no column "prompt"; it must name the columns',
        )


def _record(record: list[str], columns: list[str], known: Collection[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, cell in zip(columns, record, strict=True):
        text = cell.strip()
        if text:
            (row if name in known else extra)[name] = Cell(text)
    if extra:
        row["vars"] = extra
    return row


def _json_object(line: str, number: int, file: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        refuse(
            file,
            number,
            1,
            "too-long",
            f"a line of {len(line)} characters; at most {MAX_LINE} are allowed",
        )
    if line.count("[") + line.count("{") > MAX_DEPTH:
        _check_depth(line, number, file)
    try:
        row = json.loads(
            line,
            object_pairs_hook=_without_repeats,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        refuse(file, number, error.colno, "json-syntax", f"this is not valid JSON: {error.msg}")
    except _Repeated as error:
        message = f"the key {shown(error.key)} is repeated in one object"
        refuse(file, number, _repeat_column(line, file), "duplicate-key", message)
    except _Constant as error:
        column = max(line.find(error.name), 0) + 1
        refuse(file, number, column, "json-syntax", f"{error.name} is not a number")
    except RecursionError:
        refuse(file, number, 1, "too-deep", f"nested deeper than {MAX_DEPTH} levels")
    if not isinstance(row, dict):
        message = f"found {shown(row)}, expected one JSON object per line: {{...}}"
        refuse(file, number, 1, "bad-value", message)
    return row


def _check_depth(line: str, number: int, file: str) -> None:
    depth = 0
    for found in _OPENERS.finditer(line):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found.group(), 0)
        if depth > MAX_DEPTH:
            refuse(
                file,
                number,
                found.start() + 1,
                "too-deep",
                f"nested deeper than {MAX_DEPTH} levels",
            )


class _Repeated(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _Constant(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Repeated(key)
            seen.add(key)
    return made


def _no_constant(name: str) -> float:
    raise _Constant(name)


def _repeat_column(line: str, file: str) -> int:
    try:
        read_yaml(line, file)
    except SheetError as error:
        return error.problems[0].column if error.problems[0].slug == "duplicate-key" else 1
    return 1


def _rough_column(line: str, path: Sequence[str | int], key: bool) -> int:
    """Column of a key or its value in JSON that YAML refuses, found by its text."""
    names = [step for step in path if isinstance(step, str)]
    found = re.search(rf'"{re.escape(names[-1])}"\s*:\s*', line) if names else None
    return 1 if found is None else (found.start() if key else found.end()) + 1
