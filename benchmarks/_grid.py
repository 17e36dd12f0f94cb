"""A labelled grid of pictures: rows are pairs under the heading of their group, columns are ways.

Looks as the contact sheets of `sample` do: same colours, same font. One column may be framed.

Does not: choose pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from creatok_cli.sinks._layout import GAP, MARGIN, font, line_height, shortened, wrap
from creatok_cli.sinks._page import ACCENT, BACKGROUND, MUTED, RULE, TEXT

TILE_PX = 128
LABEL_PX = 116
TITLE_PX, HEAD_PX, NAME_PX, NOTE_PX = 30, 17, 16, 14
FRAME_PX = 3

Row = tuple[str, Sequence[Image.Image]]


def grid(
    title: str,
    note: str,
    columns: Sequence[str],
    groups: Mapping[str, Sequence[Row]],
    *,
    framed: str = "",
) -> Image.Image:
    """Groups of (label, one picture per column). The column named `framed` stands out."""
    step = TILE_PX + GAP
    left = MARGIN + LABEL_PX
    width = left + len(columns) * step - GAP + MARGIN
    heads = [wrap(name, TILE_PX, 3) for name in columns]
    tall = max(len(lines) for lines in heads) * line_height(HEAD_PX)
    first = MARGIN + TITLE_PX + 52 + tall
    rows = sum(len(rows) for rows in groups.values())
    height = first + len(groups) * 34 + rows * step + MARGIN
    image = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN - 6), title, font=font(TITLE_PX), fill=TEXT)
    shown = shortened(note, font(NOTE_PX), width - 2 * MARGIN)
    pen.text((MARGIN, MARGIN + TITLE_PX + 8), shown, font=font(NOTE_PX), fill=MUTED)
    for place, (name, lines) in enumerate(zip(columns, heads, strict=True)):
        y = first - 6 - len(lines) * line_height(HEAD_PX)
        for line in lines:
            colour = ACCENT if name == framed else TEXT
            pen.text((left + place * step, y), line, font=font(HEAD_PX), fill=colour)
            y += line_height(HEAD_PX)
    y = first
    for heading, members in groups.items():
        pen.line([(MARGIN, y + 4), (width - MARGIN, y + 4)], fill=RULE, width=1)
        pen.text((MARGIN, y + 9), heading, font=font(NAME_PX), fill=ACCENT)
        y += 34
        for label, pictures in members:
            _put_label(pen, label, y)
            for place, picture in enumerate(pictures):
                at = (left + place * step, y)
                if columns[place] == framed:
                    corner = (at[0] + TILE_PX + FRAME_PX - 1, at[1] + TILE_PX + FRAME_PX - 1)
                    pen.rectangle(((at[0] - FRAME_PX, at[1] - FRAME_PX), corner), fill=ACCENT)
                image.paste(picture.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC), at)
            y += step
    return image


def _put_label(pen: ImageDraw.ImageDraw, label: str, y: int) -> None:
    """The words of a row one below another, in the middle of its height."""
    lines = wrap(label, LABEL_PX - 10, 4)
    top = y + (TILE_PX - len(lines) * line_height(NAME_PX)) // 2
    for line in lines:
        pen.text((MARGIN, top), line, font=font(NAME_PX), fill=TEXT)
        top += line_height(NAME_PX)
