"""How pictures flow onto contact sheet pages, and how text is made to fit.

One block per prompt with its pictures side by side; blocks flow into strips, strips into pages.
Text is measured, broken at spaces and shortened with an ellipsis, so nothing overlaps and nothing
is cut. Sizes are set by eye.

Does not: draw.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

from PIL import ImageFont

from creatok_cli.domain import Score
from creatok_cli.sinks._ledger import Picture, entries
from creatok_cli.sinks.base import told

MARGIN, GAP, BLOCK_GAP = 40, 8, 32
TITLE_PX, ENTRY_PX, PROMPT_PX, CAPTION_PX = 34, 22, 17, 13
ELLIPSIS = "\u2026"


class Measures(Protocol):
    """Sizes in pixels, as `contact_sheet.Spec` has them."""

    @property
    def content_width_px(self) -> int: ...

    @property
    def page_height_px(self) -> int: ...

    @property
    def tile_px(self) -> int: ...

    @property
    def tile_max_px(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Pictures of one prompt that fit side by side."""

    entry: str
    label: str
    pictures: tuple[Picture, ...]
    tile: tuple[int, int]
    notes: tuple[tuple[str, ...], ...] = ()
    """Lines of scores below each picture; empty where nothing was scored."""
    start: str = ""
    """Digest of the picture that they begin from, where it is shown before them."""

    @property
    def tiles(self) -> int:
        return len(self.pictures) + bool(self.start)

    @property
    def note_lines(self) -> int:
        return max(map(len, self.notes), default=0)

    @property
    def width(self) -> int:
        return self.tiles * (self.tile[0] + GAP) - GAP


@dataclass(slots=True, kw_only=True)
class Strip:
    """Blocks that share a line of the page, or the heading of a sheet entry."""

    heading: str = ""
    note: str = ""
    """Beside the heading: scores of all pictures of the entry."""
    blocks: list[Block] = field(default_factory=list)

    @property
    def width(self) -> int:
        return sum(block.width + BLOCK_GAP for block in self.blocks) - BLOCK_GAP

    @property
    def label_lines(self) -> int:
        return max((len(label_lines(block)) for block in self.blocks), default=0)

    @property
    def height(self) -> int:
        if self.heading:
            return ENTRY_PX + 34
        tallest = max(block.tile[1] for block in self.blocks)
        notes = max(block.note_lines for block in self.blocks) * line_height(CAPTION_PX)
        above = self.label_lines * line_height(PROMPT_PX) + 8
        return above + tallest + CAPTION_PX + 8 + notes + BLOCK_GAP


def tile_size(spec: Measures, size_px: tuple[int, int]) -> tuple[int, int]:
    """Size on the page: a whole factor up, as it is, or down to fit."""
    longest = max(*size_px, 1)
    if longest > spec.tile_max_px:
        scale = spec.tile_max_px / longest
        return max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale))
    factor = max(1, spec.tile_px // longest)
    return max(1, size_px[0] * factor), max(1, size_px[1] * factor)


def note_lines(scores: Sequence[Score], width: int) -> tuple[str, ...]:
    """Scores in lines of that width, a score never broken."""
    face = font(CAPTION_PX)
    lines: list[str] = []
    for score in scores:
        # Of a path the last part tells most; a note that is cut tells little.
        notes = (score.note, score.note.rpartition("/")[2], "")
        texts = [readable(told(replace(score, note=note))) for note in notes]
        text = next((each for each in texts if face.getlength(each) <= width), texts[-1])
        if lines and face.getlength(f"{lines[-1]}   {text}") <= width:
            lines[-1] += f"   {text}"
        else:
            lines.append(text)
    return tuple(lines)


def iter_blocks(
    spec: Measures,
    shown: list[Picture],
    scores: Mapping[str, Sequence[Score]] | None = None,
    starts: Container[str] = (),
) -> Iterator[Block]:
    """One block per prompt, or several where its pictures do not fit side by side or begin from
    different pictures; `scores` by file. One of `starts` is shown where it is not that of the block
    before.
    """
    known = scores or {}
    for entry, prompts in entries(shown).items():
        before = ""
        for prompt, start, found in by_start(prompts):
            fresh = start if start != before and start in starts else ""
            before = start
            tile = tile_size(spec, found[0].job.size_px)
            per_line = max(1, (spec.content_width_px + GAP) // (tile[0] + GAP) - bool(fresh))
            for first in range(0, len(found), per_line):
                label = readable(prompt) + (" (continued)" if first else "")
                part = tuple(found[first : first + per_line])
                notes = tuple(note_lines(known.get(p.line.file, ()), tile[0]) for p in part)
                yield Block(
                    entry=entry,
                    label=label,
                    pictures=part,
                    tile=tile,
                    notes=notes if any(notes) else (),
                    start="" if first else fresh,
                )


def by_start(prompts: Mapping[str, list[Picture]]) -> Iterator[tuple[str, str, list[Picture]]]:
    """(prompt, digest of the picture to begin from or nothing, pictures): all of one start, then
    all of the next.
    """
    parts: dict[str, dict[str, list[Picture]]] = {}
    for prompt, found in prompts.items():
        for picture in found:
            begun = parts.setdefault(picture.job.init_image or "", {})
            begun.setdefault(prompt, []).append(picture)
    for start, begun in parts.items():
        for prompt, found in begun.items():
            yield prompt, start, found


def cut_pages(
    spec: Measures,
    shown: list[Picture],
    scores: Mapping[str, Sequence[Score]] | None = None,
    row_scores: Mapping[str, Sequence[Score]] | None = None,
    starts: Container[str] = (),
) -> list[list[Strip]]:
    """Blocks flow into strips, strips into pages; a heading never ends a page. Scores by file and
    by entry; `starts` as `iter_blocks` takes them.
    """
    strips: list[Strip] = []
    entry: str | None = None
    for block in iter_blocks(spec, shown, scores, starts):
        if block.entry != entry:
            entry = block.entry
            note = "   ".join(readable(told(score)) for score in (row_scores or {}).get(entry, ()))
            strips += [Strip(heading=readable(entry), note=note), Strip(blocks=[block])]
        elif strips[-1].width + BLOCK_GAP + block.width <= spec.content_width_px:
            strips[-1].blocks.append(block)
        else:
            strips.append(Strip(blocks=[block]))
    room = spec.page_height_px - head_height() - foot_height()
    pages: list[list[Strip]] = []
    used = room
    for index, strip in enumerate(strips):
        needed = strip.height + (strips[index + 1].height if strip.heading else 0)
        if not pages or used + needed > room:
            pages.append([])
            used = 0
            if strip.blocks:
                again = Strip(heading=f"{readable(strip.blocks[0].entry)} (continued)")
                pages[-1].append(again)
                used += again.height
        pages[-1].append(strip)
        used += strip.height
    return pages


def head_height() -> int:
    return MARGIN + TITLE_PX + 12 + CAPTION_PX + 26


def foot_height() -> int:
    return CAPTION_PX + MARGIN


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """Pillow's own TrueType font (Aileron)."""
    loaded = ImageFont.load_default(size_px)
    assert isinstance(loaded, ImageFont.FreeTypeFont)
    return loaded


def line_height(size_px: int) -> int:
    return round(size_px * 1.3)


def readable(text: str) -> str:
    """One line without control characters."""
    return " ".join(
        "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split()
    )


def label_lines(block: Block) -> tuple[str, ...]:
    """The label in at most 2 lines (3 over a single picture), the last one shortened."""
    return wrap(block.label, block.width, 3 if block.tiles == 1 else 2)


@cache
def wrap(text: str, width: int, most: int) -> tuple[str, ...]:
    """Greedy line breaking at spaces; words that do not fit are cut, and so is the rest of the
    text."""
    face = font(PROMPT_PX)
    lines: list[str] = []
    words = text.split(" ")
    while words:
        line = words.pop(0)
        if len(lines) == most - 1:
            lines.append(shortened(" ".join([line, *words]), face, width))
            break
        while words and face.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        lines.append(shortened(line, face, width))
    return tuple(lines)


def shortened(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if len(text) <= 2000 and face.getlength(text) <= width:
        return text
    low, high = 0, min(len(text), 2000)
    while low < high:
        middle = (low + high + 1) // 2
        if face.getlength(text[:middle].rstrip() + ELLIPSIS) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS
