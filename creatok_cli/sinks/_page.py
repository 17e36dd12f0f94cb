"""What contact sheets and matrices share: colours, text that fits, tiles, and pages with a digest.

A page is a PNG that carries the digest of what it shows right after its header, so an unchanged one
is not drawn again and a stranger's file is never replaced. Colours are set by eye.

Does not: know how a page is laid out.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw, PngImagePlugin

from creatok_cli import durable
from creatok_cli.sinks._layout import font, shortened
from creatok_cli.sinks._ledger import Picture
from creatok_cli.sinks._metadata import MAX_FILE, MAX_PIXELS
from creatok_cli.sinks.base import Output

BACKGROUND, TILE_GROUND = (24, 25, 28), (36, 38, 43)
TEXT, MUTED, ACCENT, RULE = (236, 236, 240), (150, 153, 163), (240, 190, 90), (58, 61, 68)
FAULT = (226, 110, 98)


class Held(Protocol):
    """What has a folder: an Output, or alike."""

    @property
    def folder(self) -> Path: ...


def digest_of(out: Held, name: str, keyword: str) -> str:
    """The digest in a page's head, empty if it is no page of ours."""
    try:
        with durable.place(out.folder, name) as spot, durable.reading(spot) as (fd, _):
            with open(fd, "rb", closefd=False) as file:
                head = file.read(400)
    except OSError:
        return ""
    _, found, rest = head.partition(keyword.encode() + b"\x00")
    return rest[:64].decode("ascii", "replace") if found else ""


def check_ours(out: Held, name: str, keyword: str) -> None:
    """A picture or a stranger's file of that name is never replaced: raises FileExistsError."""
    if os.path.lexists(out.folder / name) and not digest_of(out, name, keyword):
        raise FileExistsError(f"{name} is no contact sheet of creatok; move it away")


def page_bytes(image: Image.Image, digest: str, keyword: str) -> bytes:
    """The PNG of a page with its digest right after the header."""
    info = PngImagePlugin.PngInfo()
    info.add_text(keyword, digest)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3, pnginfo=info)
    return buffer.getvalue()


def load_tile(out: Output, picture: Picture, tile: tuple[int, int]) -> Image.Image | None:
    """The picture at its size on the page; None if it is gone or no picture."""
    try:
        data = durable.read_file(out.folder, picture.line.file, limit=MAX_FILE)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            shown = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    shown = resized(shown, tile)
    if shown.mode == "RGB":
        return shown
    ground = Image.new("RGBA", tile, (*TILE_GROUND, 255))
    return Image.alpha_composite(ground, shown).convert("RGB")


def resized(shown: Image.Image, tile: tuple[int, int]) -> Image.Image:
    """A picture at its size on the page."""
    if shown.size == tile:
        return shown
    grows = tile[0] >= shown.width
    return shown.resize(tile, Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS)


def put(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size_px: int,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """Text that never leaves its width."""
    face = font(size_px)
    pen.text(at, shortened(text, face, width), font=face, fill=colour)
