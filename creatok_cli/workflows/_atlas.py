"""One picture that holds many sprites, and where each of them is: what game engines load.

Transparent borders are cut off, the rest stands on shelves, the tallest first. The JSON is that of
TexturePacker ("hash"): Phaser, PixiJS, Godot, Cocos and others read it. Its `frame` is where a
sprite lies in the atlas, `spriteSourceSize` where that lies in the whole sprite.

Does not: rotate sprites, or scale them.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from creatok_cli import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

GAP_PX = 2
"""Between sprites, so that filtering takes no colour from a neighbour."""
MAX_SIDE_PX = 4096
"""What every graphics card takes; further sprites go to further pages."""
APP = "creatok"

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one sprite lies."""

    name: str
    at: tuple[int, int]
    """Left and top on its page."""
    box: Box
    """What is kept of the sprite."""
    size_px: tuple[int, int]
    """Of the whole sprite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One atlas."""

    size_px: tuple[int, int]
    places: tuple[Place, ...]


def pack(boxes: Mapping[str, tuple[Box, tuple[int, int]]]) -> list[Page]:
    """Places for sprites of (box, whole size) by name, on as few pages as shelves need.

    The same boxes give the same places.
    """
    order = sorted(boxes, key=lambda name: (-_height(boxes[name][0]), name))
    area = sum((_width(box) + GAP_PX) * (_height(box) + GAP_PX) for box, _ in boxes.values())
    widest = max((_width(box) for box, _ in boxes.values()), default=0) + 2 * GAP_PX
    width = min(MAX_SIDE_PX, max(widest, _power(math.isqrt(area))))
    pages: list[Page] = []
    places: list[Place] = []
    x = y = GAP_PX
    shelf = 0
    for name in order:
        box, size_px = boxes[name]
        if x + _width(box) + GAP_PX > width:
            x, y, shelf = GAP_PX, y + shelf + GAP_PX, 0
        if places and y + _height(box) + GAP_PX > MAX_SIDE_PX:
            pages.append(Page(size_px=(width, MAX_SIDE_PX), places=tuple(places)))
            places, x, y, shelf = [], GAP_PX, GAP_PX, 0
        places.append(Place(name=name, at=(x, y), box=box, size_px=size_px))
        x, shelf = x + _width(box) + GAP_PX, max(shelf, _height(box))
    if places:
        pages.append(Page(size_px=(width, y + shelf + GAP_PX), places=tuple(places)))
    return pages


def _power(length: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << max(0, length - 1).bit_length()


def _width(box: Box) -> int:
    return box[2] - box[0]


def _height(box: Box) -> int:
    return box[3] - box[1]


def draw_atlas(images: Mapping[str, Image]) -> list[tuple[Image, Page]]:
    """The pages of RGBA pictures by name."""
    from PIL import Image

    boxes = {}
    for name, image in images.items():
        # A picture without anything still is one pixel somewhere.
        boxes[name] = (image.getchannel("A").getbbox() or (0, 0, 1, 1), image.size)
    drawn = []
    for page in pack(boxes):
        sheet = Image.new("RGBA", page.size_px, (0, 0, 0, 0))
        for place in page.places:
            sheet.paste(images[place.name].crop(place.box), place.at)
        drawn.append((sheet, page))
    return drawn


def atlas_json(page: Page, image: str, others: Sequence[str]) -> bytes:
    """The JSON of one page, whose picture is called `image`; `others` are those of other pages."""
    frames: dict[str, Any] = {}
    for place in sorted(page.places, key=lambda place: place.name):
        width, height = _width(place.box), _height(place.box)
        frames[place.name] = {
            "frame": {"x": place.at[0], "y": place.at[1], "w": width, "h": height},
            "rotated": False,
            "trimmed": (width, height) != place.size_px,
            "spriteSourceSize": {"x": place.box[0], "y": place.box[1], "w": width, "h": height},
            "sourceSize": {"w": place.size_px[0], "h": place.size_px[1]},
        }
    meta: dict[str, Any] = {
        "app": APP,
        "version": __version__,
        "image": image,
        "format": "RGBA8888",
        "size": {"w": page.size_px[0], "h": page.size_px[1]},
        "scale": "1",
    }
    if others:
        meta["related_multi_packs"] = list(others)
    return (json.dumps({"frames": frames, "meta": meta}, indent=1) + "\n").encode()


def png_bytes(image: Image) -> bytes:
    """A page as PNG. Equal pages, equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
