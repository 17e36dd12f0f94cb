"""A matrix page: one column per sheet entry, one row per combination of variables.

For comparisons: the same words and seeds side by side under several prompts. A job id may begin
with a section and a slash (`unseen/hybrid`); the sections stand below each other and share the
columns. Prompts without variables that differ in nothing but the word of their column share a row.
Columns that use a learned word have a bright head. Sizes are set by eye.

Does not: show more than one bounded page, contain a time, or touch the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from creatok_cli import __version__, durable
from creatok_cli.domain import Failed, Job, Plan, Rendered
from creatok_cli.hashing import sha256_hex
from creatok_cli.sinks._layout import (
    CAPTION_PX,
    ENTRY_PX,
    MARGIN,
    PROMPT_PX,
    TITLE_PX,
    foot_height,
    line_height,
    readable,
    tile_size,
    wrap,
)
from creatok_cli.sinks._ledger import Picture, pictures
from creatok_cli.sinks._metadata import json_bytes
from creatok_cli.sinks._page import (
    ACCENT,
    BACKGROUND,
    FAULT,
    MUTED,
    RULE,
    TEXT,
    TILE_GROUND,
    check_ours,
    digest_of,
    load_tile,
    page_bytes,
    put,
)
from creatok_cli.sinks.base import Output

NAME = "contact-sheet-matrix.png"
LAYOUT = 3
WIDE_PX = 2400
"""Pages wider than this are hard to look at: then the pictures of a cell go down, too."""
"""Rises with the look, so that an old page is drawn again."""
DIGEST_KEYWORD = "creatok-matrix"
TILE_GAP, CELL_GAP, ROW_GAP = 4, 22, 12
LABEL_PX = 190
"""Width of the row labels."""
PATTERN_LINES = 3
ELLIPSIS = "\u2026"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Sizes in pixels."""

    content_width_px: int = 9600
    page_height_px: int = 12000
    tile_px: int = 128
    """Small pictures grow by the largest whole factor that stays within this."""
    tile_max_px: int = 192
    """Larger pictures shrink to this."""


def build(spec: Spec, out: Output, plan: Plan) -> MatrixSink:
    """A sink that draws its page when it is closed."""
    return MatrixSink(spec, out, plan)


class MatrixSink:
    """Draws `contact-sheet-matrix.png`."""

    def __init__(self, spec: Spec, out: Output, plan: Plan) -> None:
        self._spec, self._out, self._plan = spec, out, plan

    def write(self, result: Rendered) -> None:
        """Nothing: the page is derived from the manifest."""

    def fail(self, failed: Failed) -> None:
        """Nothing: see `write`."""

    def close(self) -> None:
        """Draws the page if what it shows has changed."""
        shown = [] if self._out.stopped else pictures(self._plan, self._out.ledger)
        if not shown:
            return
        table = Table.of(self._spec, self._plan.sheet, shown)
        digest = table.digest()
        if digest_of(self._out, NAME, DIGEST_KEYWORD) != digest:
            check_ours(self._out, NAME, DIGEST_KEYWORD)
            image, is_whole = draw_page(self._out, table)
            data = page_bytes(image, digest if is_whole else "incomplete", DIGEST_KEYWORD)
            durable.replace_derived(self._out.folder, NAME, data, writer=self._out.writer)
        self._out.derived.append(NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the page."""

    name: str
    pattern: str
    """Its prompt with variables in place of their values; empty where prompts differ in more."""
    is_learned: bool
    across: int
    """Most pictures side by side in one cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, or the heading of a section where `cells` is empty."""

    label: str
    cells: tuple[tuple[Picture, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All that decides the page's pixels."""

    sheet: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    spec: Spec
    tile: tuple[int, int]
    """Of the largest picture; smaller ones stand in its middle."""
    left_out: str
    """What did not fit, in words."""
    origin: str

    @classmethod
    def of(cls, spec: Spec, sheet: str, shown: Sequence[Picture]) -> Table:
        """Pictures sorted into sections, rows and columns, in the order of the sheet."""
        sections: dict[str, dict[str, dict[str, list[Picture]]]] = {}
        by_column: dict[str, list[Picture]] = {}
        for picture in sorted(shown, key=lambda picture: place_of(picture.job)):
            section, _, name = picture.job.row.rpartition("/")
            rows = sections.setdefault(section, {})
            rows.setdefault(row_label(picture.job), {}).setdefault(name, []).append(picture)
            by_column.setdefault(name, []).append(picture)
        tiles = [tile_size(spec, picture.job.size_px) for picture in shown]
        tile = max(w for w, _ in tiles), max(h for _, h in tiles)
        columns = [column_of(name, found, sections) for name, found in by_column.items()]
        columns = list(narrowed(columns, tile, min(WIDE_PX, spec.content_width_px)))
        kept = list(fitting(columns, tile, spec.content_width_px))
        missing = len(columns) - len(kept)
        names = [column.name for column in kept]
        lines: list[Row] = []
        for section, rows in sections.items():
            if section:
                lines.append(Row(label=readable(section)))
            lines += (
                Row(label=label, cells=tuple(tuple(cells.get(name, ())) for name in names))
                for label, cells in rows.items()
            )
        tallest = max(lines_of(row, kept) for row in lines)
        most = max(1, (spec.page_height_px - 400) // (tallest * (tile[1] + TILE_GAP) + ROW_GAP))
        left = [counted(missing, "column")] if missing else []
        left += [counted(len(lines) - most, "row")] if len(lines) > most else []
        bases = dict.fromkeys(
            picture.line.base + (f" ({picture.line.licence})" if picture.line.licence else "")
            for picture in shown
            if picture.line.base
        )
        return cls(
            sheet=readable(sheet),
            columns=tuple(kept),
            rows=tuple(lines[:most]),
            spec=spec,
            tile=tile,
            left_out=" and ".join(left),
            origin=", ".join(list(bases)[:4]),
        )

    def digest(self) -> str:
        """sha256 over all that decides the pixels."""
        heads = [[c.name, c.pattern, c.is_learned, c.across] for c in self.columns]
        rows = [
            [
                row.label,
                [[[p.line.file, p.line.status, p.line.pixels] for p in c] for c in row.cells],
            ]
            for row in self.rows
        ]
        who = [self.sheet, self.tile, self.left_out, self.origin]
        return sha256_hex(json_bytes([LAYOUT, __version__, who, heads, rows]))

    @property
    def has_one_seeding(self) -> bool:
        """Whether all cells have the same seeds, so that only words differ."""
        cells = [cell for row in self.rows for cell in row.cells if cell]
        return len({tuple(picture.job.seed for picture in cell) for cell in cells}) == 1

    @property
    def head_lines(self) -> int:
        """Lines of the tallest column head below its name."""
        return max(len(pattern_lines(c, self.tile)) for c in self.columns)


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def place_of(job: Job) -> tuple[int, int]:
    """Line and column of the sheet entry: the plan draws entries in another order."""
    line, column = re.fullmatch(r".*?(?::([0-9]{1,9}):([0-9]{1,9}))?", job.where, re.S).groups("0")  # type: ignore[union-attr]
    return int(line), int(column)


def row_label(job: Job) -> str:
    """The values of the variables; where there are none, the prompt with an ellipsis for its tokens
    and for the words of its own id.
    """
    if job.labels:
        return readable(" + ".join(value for _, value in job.labels))
    text = job.prompt
    for word in (*(word for word, _ in job.tokens), *job.row.split("/")):
        if word and ELLIPSIS not in word:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", ELLIPSIS, text)
    return readable(text)


def column_of(
    name: str, found: Sequence[Picture], sections: dict[str, dict[str, dict[str, list[Picture]]]]
) -> Column:
    patterns = dict.fromkeys(pattern_of(picture.job) for picture in found)
    across = max(len(cells.get(name, ())) for rows in sections.values() for cells in rows.values())
    return Column(
        name=readable(name),
        pattern=readable(next(iter(patterns))) if len(patterns) == 1 else "",
        is_learned=any(picture.job.tokens for picture in found),
        across=across,
    )


def pattern_of(job: Job) -> str:
    """The prompt with `{name}` for each whole word that is the value of a variable."""
    text = job.prompt
    for name, value in job.labels:
        if value:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", lambda _, n=name: f"{{{n}}}", text)  # type: ignore[misc]
    return text


def width_of(column: Column, tile: tuple[int, int]) -> int:
    return column.across * (tile[0] + TILE_GAP) - TILE_GAP


def narrowed(columns: Sequence[Column], tile: tuple[int, int], width: int) -> Iterator[Column]:
    """The columns with as many pictures across as the width allows, the same number for all."""
    most = max(column.across for column in columns)
    while most > 1:
        cut = [replace(column, across=min(column.across, most)) for column in columns]
        if LABEL_PX + sum(CELL_GAP + width_of(column, tile) for column in cut) <= width:
            break
        most -= 1
    for column in columns:
        yield replace(column, across=min(column.across, most))


def lines_of(row: Row, columns: Sequence[Column]) -> int:
    """Lines of pictures in a row."""
    cells = zip(row.cells, columns, strict=False)
    return max((-(-len(cell) // column.across) for cell, column in cells), default=1) or 1


def fitting(columns: Sequence[Column], tile: tuple[int, int], width: int) -> Iterator[Column]:
    """As many columns as fit, at least one."""
    used = LABEL_PX
    for index, column in enumerate(columns):
        used += CELL_GAP + width_of(column, tile)
        if index and used > width:
            return
        yield column


def pattern_lines(column: Column, tile: tuple[int, int]) -> tuple[str, ...]:
    width = width_of(column, tile)
    return wrap(column.pattern, width, PATTERN_LINES) if column.pattern else ()


def draw_page(out: Output, table: Table) -> tuple[Image.Image, bool]:
    """The page, and whether every finished picture could be shown."""
    lefts, right = [], MARGIN + LABEL_PX
    for column in table.columns:
        lefts.append(right + CELL_GAP)
        right += CELL_GAP + width_of(column, table.tile)
    width = max(right + MARGIN, 640)
    title_height = MARGIN + TITLE_PX + 14 + line_height(CAPTION_PX) + 22
    head_height = line_height(ENTRY_PX) + table.head_lines * line_height(PROMPT_PX) + 16
    height = title_height + head_height + foot_height() + 12
    height += sum(row_height(row, table) for row in table.rows)
    image = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    room = width - 2 * MARGIN
    put(pen, (MARGIN, MARGIN - 6), table.sheet, TITLE_PX, TEXT, room)
    said = "one row for each combination of words, one column for each prompt"
    said += ", the same seeds in every cell" if table.has_one_seeding else ""
    if table.left_out:
        said += f"; {table.left_out} did not fit and are not shown"
    put(pen, (MARGIN, MARGIN + TITLE_PX + 10), said, CAPTION_PX + 2, MUTED, room)
    for left, column in zip(lefts, table.columns, strict=True):
        draw_head(pen, column, table.tile, (left, title_height))
    y, is_whole = title_height + head_height, True
    for row in table.rows:
        if row.cells:
            is_whole &= draw_row(out, image, pen, row, table, lefts, y)
        else:
            pen.line([(MARGIN, y + 8), (width - MARGIN, y + 8)], fill=RULE, width=1)
            put(pen, (MARGIN, y + 20), row.label, ENTRY_PX, ACCENT, room)
        y += row_height(row, table)
    foot = f"made with creatok {__version__}, an AI system"
    foot += f"; base {table.origin}" if table.origin else ""
    put(pen, (MARGIN, height - MARGIN - 4), foot, CAPTION_PX, MUTED, room)
    return image, is_whole


def row_height(row: Row, table: Table) -> int:
    if not row.cells:
        return ENTRY_PX + 40
    lines = lines_of(row, table.columns)
    return lines * (table.tile[1] + TILE_GAP) - TILE_GAP + ROW_GAP


def draw_head(
    pen: ImageDraw.ImageDraw, column: Column, tile: tuple[int, int], at: tuple[int, int]
) -> None:
    """Name and prompt of a column."""
    width, (x, y) = width_of(column, tile), at
    put(pen, (x, y), column.name, ENTRY_PX, ACCENT if column.is_learned else TEXT, width)
    y += line_height(ENTRY_PX) + 4
    for line in pattern_lines(column, tile):
        put(pen, (x, y), line, PROMPT_PX, MUTED, width)
        y += line_height(PROMPT_PX)


def draw_row(
    out: Output,
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    row: Row,
    table: Table,
    lefts: Sequence[int],
    y: int,
) -> bool:
    """Label and cells of one row; False if a finished picture could not be shown."""
    width, height = table.tile
    lines = wrap(row.label, LABEL_PX, 3)
    room = row_height(row, table) - ROW_GAP
    text_y = y + (room - len(lines) * line_height(PROMPT_PX)) // 2
    for line in lines:
        put(pen, (MARGIN, text_y), line, PROMPT_PX, TEXT, LABEL_PX)
        text_y += line_height(PROMPT_PX)
    is_whole = True
    for left, cell, column in zip(lefts, row.cells, table.columns, strict=True):
        for offset, picture in enumerate(cell):
            down, across = divmod(offset, column.across)
            at = left + across * (width + TILE_GAP), y + down * (height + TILE_GAP)
            is_done = picture.line.status == "done"
            own = tile_size(table.spec, picture.job.size_px)
            shown = load_tile(out, picture, own) if is_done else None
            if shown is not None:
                image.paste(shown, (at[0] + (width - own[0]) // 2, at[1] + (height - own[1]) // 2))
                continue
            corner = (at[0] + width - 1, at[1] + height - 1)
            pen.rectangle((at, corner), fill=TILE_GROUND, outline=FAULT)
            word = "missing" if is_done else f"failed: {picture.line.kind}"
            middle = (at[0] + 8, at[1] + height // 2 - 8)
            put(pen, middle, word, CAPTION_PX, FAULT, width - 16)
            is_whole &= not is_done
    return is_whole
