"""Strict CSV: records of text with the line that each begins on, and the column of a cell.

Commas separate, double quotes protect, blank lines are skipped. The memory is bounded before
anything is parsed, and a column is only counted when a message needs it.

Does not: know a header, or what a record means.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from creatok_cli.strict_text import position, refuse

MAX_LINES = 1_000_000
MAX_CELLS = 4_000_000
"""Most separators of a file: a bound on its memory before anything is parsed."""
MAX_LINE = 1_048_576
_BREAK = re.compile("\r\n|\r|\n")


def iter_records(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    """First line (from 1) and cells, as written, of every record that is not blank.

    Raises SheetError for too much text and for broken quotes.
    """
    check_size(text, file, text.count(","))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    last = 0
    try:
        for record in reader:
            start, last = last + 1, reader.line_num
            if record:
                yield start, record
    except csv.Error as error:
        message = f"this is not valid CSV: {error}; quote text that has commas or quotes in it"
        refuse(file, max(reader.line_num, 1), 1, "csv-syntax", message)


def check_size(text: str, file: str, separators: int) -> None:
    """Raises SheetError for more lines or separators than a file of rows may have."""
    if text.count("\n") > MAX_LINES or text.count("\r") > MAX_LINES:
        refuse(file, 1, 1, "too-many-rows", f"more than {MAX_LINES} lines")
    if separators > MAX_CELLS:
        refuse(file, 1, 1, "too-many-nodes", f"more than {MAX_CELLS} cells or values")


def cell_place(text: str, start: int, index: int) -> tuple[int, int]:
    """Line and column, from 1, of cell `index` of the record that begins on line `start`."""
    offset = _line_offset(text, start)
    record = text[offset : offset + MAX_LINE]
    line, column = position(record, _cell_offset(record, index))
    return start + line - 1, column


def _line_offset(text: str, line: int) -> int:
    if line <= 1:
        return 0
    for number, found in enumerate(_BREAK.finditer(text), 2):
        if number == line:
            return found.end()
    return len(text)


def _cell_offset(record: str, index: int) -> int:
    """Offset of the cell `index` in a record, past the blanks before it."""
    is_quoted, seen, offset = False, 0, 0
    while offset < len(record) and seen < index:
        character = record[offset]
        if character == '"':
            is_quoted = not is_quoted
        elif character == "," and not is_quoted:
            seen += 1
        offset += 1
    while offset < len(record) and record[offset] == " ":
        offset += 1
    return offset
