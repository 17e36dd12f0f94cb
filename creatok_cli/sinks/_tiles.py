"""One page of small pictures, each with a few lines below it, in the look of the contact sheets.

For pictures that are no files of a run: the thumbnails of a pool. The page grows in both
directions, so that it stays about as wide as high. Sizes are set by eye.

Does not: read or write files, or know what the pictures are.
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
    GAP,
    MARGIN,
    PROMPT_PX,
    TITLE_PX,
    foot_height,
    head_height,
    line_height,
    readable,
)
from creatok_cli.sinks._page import BACKGROUND, MUTED, TEXT, page_bytes, put

LAYOUT = 1
"""Rises with the look, so that old pages are drawn again."""
KEYWORD = "creatok-tiles"
TILE_PX = 128
"""Smaller pictures grow by the largest whole factor that stays within this, larger ones shrink."""
BELOW = 14
LEAST_COLUMNS, SHAPE = 5, 1.5
"""Columns are the square root of the number of tiles times this: text makes tiles high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A picture and what stands below it."""

    size_px: tuple[int, int]
    rgb: bytes
    """Row by row, 8 bit."""
    lines: tuple[str, ...]
    """The last one is muted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page shows."""

    title: str
    notes: tuple[str, ...]
    """Below the title, one line."""
    foot: str
    tiles: Sequence[Tile]

    @property
    def digest(self) -> str:
        """sha256 over all that decides its pixels."""
        tiles = [[tile.size_px, sha256_hex(tile.rgb), tile.lines] for tile in self.tiles]
        shows = [LAYOUT, __version__, self.title, self.notes, self.foot, tiles]
        return sha256_hex(canonical_json(shows))


def draw_tiles(page: Page) -> bytes:
    """The page as a PNG with its digest (`_page.digest_of`, KEYWORD). Equal pages, equal bytes."""
    columns = max(LEAST_COLUMNS, math.ceil(math.sqrt(SHAPE * len(page.tiles))))
    rows = math.ceil(len(page.tiles) / columns)
    text = max((len(tile.lines) for tile in page.tiles), default=0) * line_height(CAPTION_PX)
    step = TILE_PX + 6 + text + BELOW
    width = 2 * MARGIN + columns * (TILE_PX + GAP) - GAP
    height = head_height() + max(1, rows) * step + foot_height()
    image = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    room = width - 2 * MARGIN
    put(pen, (MARGIN, MARGIN - 6), readable(page.title), TITLE_PX, TEXT, room)
    where = (MARGIN, MARGIN + TITLE_PX + 10)
    put(pen, where, readable("; ".join(page.notes)), CAPTION_PX + 2, MUTED, room)
    if not page.tiles:
        put(pen, (MARGIN, head_height() + 8), "nothing yet", PROMPT_PX, MUTED, room)
    for index, tile in enumerate(page.tiles):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (TILE_PX + GAP), head_height() + row * step
        _draw(image, pen, tile, (left, top))
    foot = f"made with creatok {__version__}, an AI system"
    if page.foot:
        foot += f"; {readable(page.foot)}"
    put(pen, (MARGIN, height - MARGIN - 4), foot, CAPTION_PX, MUTED, room)
    return page_bytes(image, page.digest, KEYWORD)


def _draw(image: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int]) -> None:
    """A picture in the middle of its square, and its lines."""
    shown = Image.frombytes("RGB", tile.size_px, tile.rgb)
    longest = max(tile.size_px)
    scale = TILE_PX // longest if longest <= TILE_PX else TILE_PX / longest
    size = tuple(max(1, round(edge * scale)) for edge in tile.size_px)
    if size != tile.size_px:
        how = Image.Resampling.BICUBIC if scale >= 1 else Image.Resampling.LANCZOS
        shown = shown.resize((size[0], size[1]), how)
    image.paste(shown, (at[0] + (TILE_PX - size[0]) // 2, at[1] + (TILE_PX - size[1]) // 2))
    y = at[1] + TILE_PX + 6
    for number, line in enumerate(tile.lines):
        colour = MUTED if number == len(tile.lines) - 1 else TEXT
        put(pen, (at[0], y), readable(line), CAPTION_PX, colour, TILE_PX)
        y += line_height(CAPTION_PX)
