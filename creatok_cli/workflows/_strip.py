"""The evolution strip: what a search showed along its way, in one row, all with the same seed.

States that were accepted stand in order, each with its step, rarity and validity; one that was
refused is framed in red. Equal frames give equal bytes. Sizes and colours are those of the
contact sheets.

Does not: choose the frames' pictures, or read and write files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from creatok_cli import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

    from creatok_cli.workflows._checks import Check

KEYWORD = "creatok-strip"
TILE_PX, MOST, MIN_WIDTH_PX = 128, 12, 760
GAP, FRAME_PX = 12, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One moment of the way."""

    image: Image
    lines: tuple[str, ...]
    """Below the picture; the first one stands out."""
    is_accepted: bool


def frames_of(checks: Sequence[Check], accepted: Mapping[int, bool]) -> list[Frame]:
    """At most MOST of the checks, evenly: the first and the last accepted one are among them."""
    kept = [each for each in checks if accepted.get(each.index, True)]
    lost = [each for each in checks if not accepted.get(each.index, True)]
    room = MOST - min(len(lost), 2)
    if len(kept) > room:
        kept = [kept[round(at * (len(kept) - 1) / (room - 1))] for at in range(room)]
    shown = sorted([*kept, *lost[-2:]], key=lambda each: each.index)
    return [
        Frame(
            image=each.image,
            lines=lines_of(each, accepted.get(each.index, True)),
            is_accepted=accepted.get(each.index, True),
        )
        for each in shown
    ]


def lines_of(check: Check, is_accepted: bool) -> tuple[str, ...]:
    """What stands below a picture."""
    found = ["start" if check.index == 0 else f"step {check.index:,}"]
    if "rarity" in check.values:
        found.append(f"rarity {rarity_text(check.values['rarity'])}")
    if check.p_yes is not None:
        found.append(f"valid {check.p_yes:.2f}")
    if check.seen:
        found.append(f"seen: {check.seen}")
    if not is_accepted:
        found.append("refused")
    return tuple(found)


def rarity_text(rarity: float) -> str:
    """`50 %`, `98.5 %`, `99.99 %`: as many digits as tell it from 100, at most four."""
    digits = 4 if rarity >= 1 - 1e-6 else max(0, min(4, math.ceil(-math.log10(1 - rarity)) - 1))
    text = f"{100 * min(rarity, 1 - 1e-6):.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def draw_strip(title: str, notes: Sequence[str], frames: Sequence[Frame], foot: str) -> bytes:
    """The PNG of a strip."""
    from PIL import Image as pillow
    from PIL import ImageDraw

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
        ACCENT,
        BACKGROUND,
        FAULT,
        MUTED,
        TEXT,
        page_bytes,
        put,
    )

    step = TILE_PX + GAP
    width = max(MIN_WIDTH_PX, 2 * MARGIN + max(1, len(frames)) * step - GAP)
    lines = max((len(frame.lines) for frame in frames), default=0)
    below = lines * line_height(CAPTION_PX) + 14
    height = head_height() + TILE_PX + 8 + below + foot_height()
    image = pillow.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    room = width - 2 * MARGIN
    put(pen, (MARGIN, MARGIN - 6), readable(title), TITLE_PX, TEXT, room)
    said = readable("; ".join(notes))
    put(pen, (MARGIN, MARGIN + TITLE_PX + 10), said, CAPTION_PX + 2, MUTED, room)
    for number, frame in enumerate(frames):
        left, top = MARGIN + number * step, head_height()
        if not frame.is_accepted:
            box = (left - FRAME_PX, top - FRAME_PX, left + TILE_PX + 2, top + TILE_PX + 2)
            pen.rectangle(box, outline=FAULT, width=FRAME_PX)
        image.paste(fitted(frame.image), (left, top))
        y = top + TILE_PX + 8
        for at, line in enumerate(frame.lines):
            colour = TEXT if at == 0 else ACCENT if line.startswith("rarity") else MUTED
            colour = FAULT if line == "refused" else colour
            put(pen, (left, y), readable(line), CAPTION_PX, colour, TILE_PX)
            y += line_height(CAPTION_PX)
    ending = f"made with creatok {__version__}, an AI system" + (
        f"; {readable(foot)}" if foot else ""
    )
    put(pen, (MARGIN, height - MARGIN - 4), ending, CAPTION_PX, MUTED, room)
    shows = [title, list(notes), foot, [[sha256_hex(f.image.tobytes()), f.lines] for f in frames]]
    return page_bytes(image, sha256_hex(canonical_json(shows)), KEYWORD)


def fitted(image: Image, side: int = TILE_PX) -> Image:
    """The picture in a square: grown by a whole factor, or shrunk."""
    from PIL import Image as pillow

    from creatok_cli.sinks._page import TILE_GROUND

    longest = max(image.size)
    scale = side // longest if longest <= side else side / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = pillow.Resampling.BICUBIC if scale >= 1 else pillow.Resampling.LANCZOS
    shown = image.convert("RGB").resize(size, how) if size != image.size else image.convert("RGB")
    if size == (side, side):
        return shown
    ground = pillow.new("RGB", (side, side), TILE_GROUND)
    ground.paste(shown, ((side - size[0]) // 2, (side - size[1]) // 2))
    return ground
