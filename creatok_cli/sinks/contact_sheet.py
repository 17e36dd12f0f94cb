"""Contact sheets: all pictures of a run on labelled pages, in plan order.

One block per prompt with its pictures side by side, under the name of its sheet entry. Small
pictures are enlarged by a whole factor. Pages are bounded in pixels and carry a digest of what they
show, so an unchanged page is not drawn again. Colours and sizes are set by eye.

Does not: contain a time; show what was never tried; touch the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from creatok_cli import __version__, durable
from creatok_cli.domain import Failed, Plan, Rendered
from creatok_cli.errors import DigestMismatch, InputError
from creatok_cli.hashing import sha256_hex
from creatok_cli.sinks._layout import (
    BLOCK_GAP,
    CAPTION_PX,
    ENTRY_PX,
    GAP,
    MARGIN,
    PROMPT_PX,
    TITLE_PX,
    Block,
    Strip,
    cut_pages,
    font,
    foot_height,
    head_height,
    label_lines,
    line_height,
    readable,
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
    resized,
)
from creatok_cli.sinks.base import Output
from creatok_cli.strict_picture import fitted, open_same

LAYOUT = 1
"""Rises with the look, so that old pages are drawn again."""
DIGEST_KEYWORD = "creatok-sheet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Sizes in pixels. 8 prompts with one tile of 192 px each, or 2 with 4, fill a line."""

    content_width_px: int = 1760
    page_height_px: int = 3400
    tile_px: int = 192
    """Small pictures grow by the largest whole factor that stays within this."""
    tile_max_px: int = 256
    """Larger pictures shrink to this."""


def build(spec: Spec, out: Output, plan: Plan) -> ContactSheetSink:
    """A sink that draws its pages when it is closed."""
    return ContactSheetSink(spec, out, plan)


class ContactSheetSink:
    """Draws `contact-sheet.png`, or `contact-sheet-001.png` and so on where one page is not
    enough."""

    def __init__(self, spec: Spec, out: Output, plan: Plan) -> None:
        self._spec, self._out, self._plan = spec, out, plan

    def write(self, result: Rendered) -> None:
        """Nothing: pages are derived from the manifest."""

    def fail(self, failed: Failed) -> None:
        """Nothing: see `write`."""

    def close(self) -> None:
        """Draws the pages that changed and removes those that no longer exist."""
        if self._out.stopped:
            return
        shown = pictures(self._plan, self._out.ledger)
        out = self._out
        pages = cut_pages(self._spec, shown, out.scores, out.row_scores, out.starts)
        names = page_names(len(pages))
        facts = Facts.of(self._plan.sheet, shown)
        for number, (name, page) in enumerate(zip(names, pages, strict=True), start=1):
            digest = page_digest(facts, page, number, len(pages), self._out.picks)
            if digest_of(self._out, name, DIGEST_KEYWORD) != digest:
                check_ours(self._out, name, DIGEST_KEYWORD)
                image, is_whole = draw_page(self._out, facts, page, number, len(pages))
                # A page with a hole has no digest of ours, so the next run draws it again.
                data = page_bytes(image, digest if is_whole else "incomplete", DIGEST_KEYWORD)
                durable.replace_derived(self._out.folder, name, data, writer=self._out.writer)
        self._out.derived += names
        self._remove_stale(set(names))

    def _remove_stale(self, names: set[str]) -> None:
        """Pages of an earlier, longer plan: only files that carry our digest."""
        for path in sorted(self._out.folder.glob("contact-sheet*.png")):
            if path.name not in names and digest_of(self._out, path.name, DIGEST_KEYWORD):
                durable.remove(self._out.folder, path.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What head and foot of every page say."""

    sheet: str
    done: int
    failed: int
    origin: str

    @classmethod
    def of(cls, sheet: str, shown: Sequence[Picture]) -> Facts:
        bases: dict[str, None] = {}
        for picture in shown:
            if picture.line.status == "done" and picture.line.base:
                licence = picture.line.licence
                bases[picture.line.base + (f" ({licence})" if licence else "")] = None
        done = sum(picture.line.status == "done" for picture in shown)
        return cls(
            sheet=sheet, done=done, failed=len(shown) - done, origin=", ".join(list(bases)[:4])
        )


def page_names(count: int) -> list[str]:
    """One page has no number."""
    if count == 1:
        return ["contact-sheet.png"]
    return [f"contact-sheet-{number:03d}.png" for number in range(1, count + 1)]


def page_digest(
    facts: Facts,
    page: Sequence[Strip],
    number: int,
    count: int,
    picks: Set[str] = frozenset(),
) -> str:
    """sha256 over all that decides a page's pixels."""
    shows: list[Any] = [
        [strip.heading]
        + [
            [block.label, block.tile]
            + [
                [p.line.file, p.line.seed, p.line.status, p.line.kind, p.line.pixels]
                + ([flag] if (flag := copy_flag(p)) else [])
                for p in block.pictures
            ]
            for block in strip.blocks
        ]
        for strip in page
    ]
    # Only where there are some: pages of before are not drawn again.
    if any(strip.note or any(block.notes for block in strip.blocks) for strip in page):
        shows.append([[strip.note, [block.notes for block in strip.blocks]] for strip in page])
    starts = [block.start for strip in page for block in strip.blocks]
    if any(starts):
        shows.append(["starts", starts])
    files = {p.line.file for strip in page for block in strip.blocks for p in block.pictures}
    if files & picks:
        shows.append(["picks", sorted(files & picks)])
    who = [facts.sheet, facts.done, facts.failed, facts.origin, number, count]
    return sha256_hex(json_bytes([LAYOUT, __version__, who, shows]))


def draw_page(
    out: Output, facts: Facts, page: Sequence[Strip], number: int, count: int
) -> tuple[Image.Image, bool]:
    """One page, as wide as its widest strip, and whether every finished picture could be shown."""
    widest = max((strip.width for strip in page if strip.blocks), default=0)
    width = max(widest, 560) + 2 * MARGIN
    height = head_height() + sum(strip.height for strip in page) + foot_height()
    image = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    draw_head(pen, facts, width, number, count)
    y, is_whole = head_height(), True
    for strip in page:
        if strip.heading:
            draw_heading(pen, strip.heading, strip.note, width, y)
        else:
            is_whole &= draw_strip(out, image, pen, strip, y)
        y += strip.height
    foot = f"made with creatok {__version__}, an AI system"
    if facts.origin:
        foot += f"; base {facts.origin}"
    put(pen, (MARGIN, height - MARGIN - 4), foot, CAPTION_PX, MUTED, width - 2 * MARGIN)
    return image, is_whole


def draw_head(pen: ImageDraw.ImageDraw, facts: Facts, width: int, number: int, count: int) -> None:
    put(pen, (MARGIN, MARGIN - 6), readable(facts.sheet), TITLE_PX, TEXT, width - 2 * MARGIN)
    parts = [f"{facts.done} picture" + ("s" if facts.done != 1 else "")]
    if facts.failed:
        parts.append(f"{facts.failed} failed")
    if count > 1:
        parts.append(f"page {number} of {count}")
    where = (MARGIN, MARGIN + TITLE_PX + 10)
    put(pen, where, "   ".join(parts), CAPTION_PX + 2, MUTED, width - 2 * MARGIN)


def draw_heading(pen: ImageDraw.ImageDraw, text: str, note: str, width: int, y: int) -> None:
    pen.line([(MARGIN, y), (width - MARGIN, y)], fill=RULE, width=1)
    put(pen, (MARGIN, y + 12), text, ENTRY_PX, ACCENT, width - 2 * MARGIN)
    left = round(font(ENTRY_PX).getlength(text)) + 24
    if note and left < width - 2 * MARGIN:
        at = (MARGIN + left, y + 12 + ENTRY_PX - CAPTION_PX - 3)
        put(pen, at, note, CAPTION_PX + 2, MUTED, width - 2 * MARGIN - left)


def draw_strip(
    out: Output, image: Image.Image, pen: ImageDraw.ImageDraw, strip: Strip, y: int
) -> bool:
    x, is_whole = MARGIN, True
    top = y + strip.label_lines * line_height(PROMPT_PX) + 8
    for block in strip.blocks:
        lines = label_lines(block)
        # Labels stand on the pictures, so short ones move down beside long ones.
        text_y = top - 8 - len(lines) * line_height(PROMPT_PX)
        for line in lines:
            put(pen, (x, text_y), line, PROMPT_PX, TEXT, block.width)
            text_y += line_height(PROMPT_PX)
        if block.start:
            is_whole &= draw_start(out, image, pen, block, (x, top))
        for offset, picture in enumerate(block.pictures, bool(block.start)):
            left = x + offset * (block.tile[0] + GAP)
            is_whole &= draw_tile(out, image, pen, picture, block.tile, (left, top))
            below = top + block.tile[1] + 4 + line_height(CAPTION_PX)
            for line in block.notes[offset - bool(block.start)] if block.notes else ():
                put(pen, (left, below), line, CAPTION_PX, TEXT, block.tile[0])
                below += line_height(CAPTION_PX)
        x += block.width + BLOCK_GAP
    return is_whole


def draw_start(
    out: Output, image: Image.Image, pen: ImageDraw.ImageDraw, block: Block, at: tuple[int, int]
) -> bool:
    """The picture that a block begins from, under its name; False if it is not there any more."""
    path = Path(out.starts[block.start])
    width, height = block.tile
    try:
        own = fitted(open_same(path, block.start), block.pictures[0].job.size_px)
    except (InputError, DigestMismatch):
        own = None
    if own is not None:
        image.paste(resized(own, block.tile), at)
    else:
        corner = (at[0] + width - 1, at[1] + height - 1)
        pen.rectangle((at, corner), fill=TILE_GROUND, outline=FAULT)
    caption = readable(f"from {path.name}")
    put(pen, (at[0], at[1] + height + 4), caption, CAPTION_PX, ACCENT, width)
    return own is not None


def draw_tile(
    out: Output,
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    picture: Picture,
    tile: tuple[int, int],
    at: tuple[int, int],
) -> bool:
    """The picture with its caption, or what happened to it; False if it should be there."""
    width, height = tile
    shown = load_tile(out, picture, tile) if picture.line.status == "done" else None
    if shown is not None:
        image.paste(shown, at)
        if picture.line.file in out.picks:
            frame = (at[0] - 4, at[1] - 4, at[0] + width + 3, at[1] + height + 3)
            pen.rectangle(frame, outline=ACCENT, width=3)
    else:
        corner = (at[0] + width - 1, at[1] + height - 1)
        pen.rectangle((at, corner), fill=TILE_GROUND, outline=FAULT)
        word = f"failed: {picture.line.kind}" if picture.line.status == "failed" else "missing"
        put(pen, (at[0] + 10, at[1] + height // 2 - 8), word, CAPTION_PX + 1, FAULT, width - 20)
    stem = picture.job.name.rpartition("/")[2]
    caption = f"{stem}  seed {picture.job.seed}"
    flag = copy_flag(picture)
    if flag:
        caption = f"{flag}  {stem}"
    elif font(CAPTION_PX).getlength(caption) > width:
        caption = stem
    colour = FAULT if flag else MUTED
    put(pen, (at[0], at[1] + height + 4), caption, CAPTION_PX, colour, width)
    return shown is not None or picture.line.status == "failed"


def copy_flag(picture: Picture) -> str:
    """What a base that copies pixels says of a picture that shows one source: `near copy`."""
    return readable(str(picture.line.facts.get("copy") or ""))
