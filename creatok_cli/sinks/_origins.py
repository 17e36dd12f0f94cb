"""A page that shows where remixed sprites come from: each beside its map, above its main sources.

In the look of the contact sheets. A picture that is nearly a copy has a frame, and says so.

Does not: read files, or compute anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from creatok_cli import __version__
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.sinks._layout import (
    CAPTION_PX,
    MARGIN,
    TITLE_PX,
    foot_height,
    head_height,
    line_height,
    readable,
)
from creatok_cli.sinks._page import (
    BACKGROUND,
    FAULT,
    MUTED,
    TEXT,
    TILE_GROUND,
    page_bytes,
    put,
)

LAYOUT = 1
"""Rises with the look, so that old pages are drawn again."""
KEYWORD = "creatok-origins"
TILE_PX = 160
"""Smaller pictures grow by the largest whole factor that stays within this, larger ones shrink."""
THUMB_PX = 48
GAP, CELL_GAP = 6, 26
MAX_COLUMNS = 4
SOURCES = 6
"""Main sources that are shown of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of a picture."""

    name: str
    share: float
    colour: tuple[int, int, int]
    """On the map."""
    image: Image.Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One picture and where it comes from."""

    image: Image.Image
    """RGBA."""
    map: Image.Image
    """RGBA."""
    parts: Sequence[Part]
    """The main ones first."""
    caption: str
    fault: str
    """What is wrong with it, empty for nothing."""


def draw_origins(title: str, note: str, foot: str, cells: Sequence[Cell]) -> bytes:
    """The page as a PNG with its digest. Equal cells, equal bytes."""
    columns = max(1, min(MAX_COLUMNS, math.ceil(math.sqrt(len(cells)))))
    rows = max(1, math.ceil(len(cells) / columns))
    wide = max(2 * TILE_PX + GAP, SOURCES * (THUMB_PX + GAP) - GAP)
    tall = TILE_PX + GAP + 2 * line_height(CAPTION_PX) + THUMB_PX + 2 + line_height(CAPTION_PX)
    width = 2 * MARGIN + columns * (wide + CELL_GAP) - CELL_GAP
    height = head_height() + rows * (tall + CELL_GAP) + foot_height()
    page = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(page)
    room = width - 2 * MARGIN
    put(pen, (MARGIN, MARGIN - 6), readable(title), TITLE_PX, TEXT, room)
    put(pen, (MARGIN, MARGIN + TITLE_PX + 10), readable(note), CAPTION_PX + 2, MUTED, room)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        at = (MARGIN + column * (wide + CELL_GAP), head_height() + row * (tall + CELL_GAP))
        _draw(page, pen, cell, at, wide)
    said = f"made with creatok {__version__}, an AI system" + (
        f"; {readable(foot)}" if foot else ""
    )
    put(pen, (MARGIN, height - MARGIN - 4), said, CAPTION_PX, MUTED, room)
    return page_bytes(page, digest([title, note, foot], cells), KEYWORD)


def digest(words: Sequence[str], cells: Sequence[Cell]) -> str:
    """sha256 over all that decides the pixels of a page."""
    shows = [
        [
            sha256_hex(cell.image.tobytes()),
            sha256_hex(cell.map.tobytes()),
            [
                [part.name, round(part.share, 4), sha256_hex(part.image.tobytes())]
                for part in cell.parts
            ],
            cell.caption,
            cell.fault,
        ]
        for cell in cells
    ]
    return sha256_hex(canonical_json([LAYOUT, __version__, list(words), shows]))


def _draw(
    page: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int], wide: int
) -> None:
    """Picture and map side by side, two lines, and the sources."""
    left, top = at
    _paste(page, cell.image, (left, top), TILE_PX)
    _paste(page, cell.map, (left + TILE_PX + GAP, top), TILE_PX)
    if cell.fault:
        corner = (left + TILE_PX - 1, top + TILE_PX - 1)
        pen.rectangle(((left, top), corner), outline=FAULT, width=2)
    y = top + TILE_PX + GAP
    put(pen, (left, y), readable(cell.caption), CAPTION_PX, FAULT if cell.fault else TEXT, wide)
    y += line_height(CAPTION_PX)
    if cell.fault:
        put(pen, (left, y), readable(cell.fault), CAPTION_PX, FAULT, wide)
    y += line_height(CAPTION_PX)
    for index, part in enumerate(cell.parts[:SOURCES]):
        x = left + index * (THUMB_PX + GAP)
        _paste(page, part.image, (x, y), THUMB_PX)
        pen.rectangle(((x, y + THUMB_PX), (x + THUMB_PX - 1, y + THUMB_PX + 3)), fill=part.colour)
        where = (x, y + THUMB_PX + 6)
        put(pen, where, f"{part.share:.0%}", CAPTION_PX, MUTED, THUMB_PX)


def _paste(page: Image.Image, image: Image.Image, at: tuple[int, int], side: int) -> None:
    """An RGBA picture in the middle of a square; small ones keep their pixels."""
    longest = max(image.size)
    scale = side // longest if longest <= side else side / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        grows = scale >= 1
        how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
        # Premultiplied, so that the colours of transparent pixels have no say.
        image = image.convert("RGBa").resize(size, how).convert("RGBA")
    ground = Image.new("RGBA", (side, side), (*TILE_GROUND, 255))
    ground.alpha_composite(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    page.paste(ground.convert("RGB"), at)
