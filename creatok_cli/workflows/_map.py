"""A map of a latent space: what was looked at, as small pictures between the names of classes.

Left to right and up are the ranks along the two principal components of all latents shown, classes
and candidates alike: the order is true, distances are not, so that the page is full. Finds are
framed, other novel ones are bright, the rest is dim. Pictures and words that would overlap are
moved apart; a thin line leads to where they belong. Sizes are set by eye; equal inputs give equal
pixels.

Does not: read or write files, or choose what is a find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from creatok_cli.workflows._candidates import Judged

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1760, 1320
TOP_PX, SIDE_PX, FOOT_PX = 132, 40, 64
PICK_PX, NOVEL_PX, DIM_PX = 140, 84, 56
FRAME_PX, AIR_PX = 4, 6
CLASS_PX, CAPTION_PX, NOTE_PX = 15, 14, 15
DIM = 0.5
"""How much of the ground shines through what is no find."""
MOST_OTHERS = 120
"""Pictures beside the finds; more would only cover each other."""
ROUNDS = 200
BACK = 0.04
"""Share of the way home that is gone in every round."""


@dataclass(slots=True)
class Thing:
    """A picture or a word on the map; x and y are its middle."""

    home: tuple[float, float]
    width: float
    height: float
    judged: Judged | None = None
    word: str = ""
    x: float = 0.0
    y: float = 0.0

    def __post_init__(self) -> None:
        self.x, self.y = self.home


def draw_map(
    title: str,
    classes: Sequence[tuple[str, Sequence[float]]],
    judged: Sequence[Judged],
    foot: str,
) -> bytes:
    """The map as a PNG. `classes`: (name, latent)."""
    from PIL import Image, ImageDraw

    from creatok_cli.hashing import canonical_json, sha256_hex
    from creatok_cli.sinks._layout import TITLE_PX, readable
    from creatok_cli.sinks._page import BACKGROUND, MUTED, TEXT, page_bytes, put

    there = shown_of(judged)
    latents = [list(latent) for _, latent in classes] + [
        list(each.candidate.latent) for each in there
    ]
    places, shares = plane(latents)
    things = [word_of(name, at) for (name, _), at in zip(classes, places, strict=False)]
    things += [picture_of(each, at) for each, at in zip(there, places[len(classes) :], strict=True)]
    settle_down(things)
    image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for thing in things:
        draw_line(pen, thing)
    for thing in sorted(things, key=rank):
        if thing.judged is None:
            draw_word(pen, thing)
        else:
            draw_picture(image, pen, thing)
    room = WIDTH - 2 * SIDE_PX
    put(pen, (SIDE_PX, SIDE_PX - 6), readable(title), TITLE_PX, TEXT, room)
    said = (
        f"framed: kept; bright: novel; dim: known, junk or unsteady; words: known classes; "
        f"order along the principal components, {shares[0]:.0%} and {shares[1]:.0%} of the variance"
    )
    put(pen, (SIDE_PX, SIDE_PX + TITLE_PX + 10), said, NOTE_PX, MUTED, room)
    put(pen, (SIDE_PX, HEIGHT - SIDE_PX), readable(foot), CAPTION_PX, MUTED, room)
    digest = sha256_hex(canonical_json([title, foot, latents, [each.fault for each in there]]))
    return page_bytes(image, digest, "creatok-map")


def shown_of(judged: Sequence[Judged]) -> list[Judged]:
    """Finds, then other novel ones, then the rest, as many as the map can show."""
    there = sorted(
        (each for each in judged if each.picture is not None),
        key=lambda each: (not each.is_picked, bool(each.fault), each.candidate.index),
    )
    finds = sum(each.is_picked for each in there)
    return there[: finds + MOST_OTHERS]


def plane(latents: Sequence[Sequence[float]]) -> tuple[list[tuple[float, float]], list[float]]:
    """Places in pixels by the ranks along the two first principal components, and the shares that
    these have of the variance.
    """
    import torch

    rows = torch.tensor(latents, dtype=torch.float64)
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.flip(1)[:, :2]
    # The sign of an axis is free: the largest number of each points to the right, or up.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    flat = centred @ axes
    ranks = flat.argsort(dim=0, stable=True).argsort(dim=0).double()
    unit = ranks / max(1, len(latents) - 1)
    inner = PICK_PX / 2 + FRAME_PX
    left, right = SIDE_PX + inner, WIDTH - SIDE_PX - inner
    top, bottom = TOP_PX + inner, HEIGHT - FOOT_PX - inner
    places = [(left + x * (right - left), bottom - y * (bottom - top)) for x, y in unit.tolist()]
    total = float(values.sum()) or 1.0
    return places, [float(values[-1]) / total, float(values[-2]) / total]


def word_of(name: str, at: tuple[float, float]) -> Thing:
    from creatok_cli.sinks._layout import font, readable

    text = readable(name)
    width = font(CLASS_PX).getlength(text) + 8
    return Thing(home=at, width=width, height=CLASS_PX + 6, word=text)


def picture_of(judged: Judged, at: tuple[float, float]) -> Thing:
    side = PICK_PX if judged.is_picked else NOVEL_PX if not judged.fault else DIM_PX
    frame = 2 * FRAME_PX if judged.is_picked else 0
    text = CAPTION_PX + 6 if judged.is_picked else 0
    return Thing(home=at, width=side + frame, height=side + frame + text, judged=judged)


def rank(thing: Thing) -> int:
    """The order of drawing: finds last."""
    if thing.judged is None:
        return 1
    return 2 if thing.judged.is_picked else 0 if thing.judged.fault else 1


def settle_down(things: Sequence[Thing]) -> None:
    """Moves things apart until none overlap, or the rounds are over; each is drawn home a little.
    In the last quarter nothing goes home, so that gaps stay.
    """
    for turn in range(ROUNDS):
        if turn < ROUNDS * 3 // 4:
            for thing in things:
                thing.x += (thing.home[0] - thing.x) * BACK
                thing.y += (thing.home[1] - thing.y) * BACK
        moved = False
        for at, one in enumerate(things):
            for other in things[at + 1 :]:
                moved |= part(one, other)
        for thing in things:
            keep_inside(thing)
        if not moved and turn >= ROUNDS * 3 // 4:
            return


def part(one: Thing, other: Thing) -> bool:
    """Moves two things apart along the shorter way, the larger one less. False if they are."""
    dx, dy = other.x - one.x, other.y - one.y
    over_x = (one.width + other.width) / 2 + AIR_PX - abs(dx)
    over_y = (one.height + other.height) / 2 + AIR_PX - abs(dy)
    if over_x <= 0 or over_y <= 0:
        return False
    mine, theirs = one.width * one.height, other.width * other.height
    share = theirs / (mine + theirs)
    if over_x < over_y:
        step = math.copysign(over_x, dx if dx else 1.0)
        one.x -= step * share
        other.x += step * (1 - share)
    else:
        step = math.copysign(over_y, dy if dy else 1.0)
        one.y -= step * share
        other.y += step * (1 - share)
    return True


def keep_inside(thing: Thing) -> None:
    wide, high = thing.width / 2, thing.height / 2
    thing.x = min(max(thing.x, SIDE_PX + wide), WIDTH - SIDE_PX - wide)
    thing.y = min(max(thing.y, TOP_PX + high), HEIGHT - FOOT_PX - high)


def draw_line(pen: ImageDraw, thing: Thing) -> None:
    """From a thing that was moved to where it belongs."""
    from creatok_cli.sinks._page import ACCENT, RULE

    x, y = thing.home
    if abs(x - thing.x) <= thing.width / 2 and abs(y - thing.y) <= thing.height / 2:
        return
    is_find = thing.judged is not None and thing.judged.is_picked
    colour = ACCENT if is_find else RULE
    pen.line((thing.x, thing.y, x, y), fill=colour, width=1)
    pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def draw_word(pen: ImageDraw, thing: Thing) -> None:
    from creatok_cli.sinks._layout import font
    from creatok_cli.sinks._page import MUTED

    at = (thing.x - thing.width / 2 + 4, thing.y - thing.height / 2)
    pen.text(at, thing.word, font=font(CLASS_PX), fill=MUTED)


def draw_picture(image: Image, pen: ImageDraw, thing: Thing) -> None:
    """A thumbnail; finds have a frame and their number below."""
    from PIL import Image as pillow

    from creatok_cli.sinks._layout import font, shortened
    from creatok_cli.sinks._page import ACCENT, BACKGROUND

    judged = thing.judged
    assert judged is not None
    assert judged.picture is not None
    side = PICK_PX if judged.is_picked else NOVEL_PX if not judged.fault else DIM_PX
    left, top = round(thing.x - thing.width / 2), round(thing.y - thing.height / 2)
    frame = FRAME_PX if judged.is_picked else 0
    if frame:
        box = (left, top, left + side + 2 * frame - 1, top + side + 2 * frame - 1)
        pen.rectangle(box, fill=ACCENT)
    thumbnail = judged.picture.convert("RGB").resize((side, side), pillow.Resampling.LANCZOS)
    if judged.fault:
        thumbnail = pillow.blend(thumbnail, pillow.new("RGB", thumbnail.size, BACKGROUND), DIM)
    image.paste(thumbnail, (left + frame, top + frame))
    if frame:
        face = font(CAPTION_PX)
        names = " ".join(name for name, _ in judged.top[:2])
        text = shortened(f"{judged.candidate.index:02d} {names}", face, side + 2 * frame)
        pen.text((left, top + side + 2 * frame + 2), text, font=face, fill=ACCENT)
