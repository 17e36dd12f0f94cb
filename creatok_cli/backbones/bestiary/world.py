"""Genes to picture: the procedural creatures and scenes on which the bestiary is trained.

A creature is built as a list of flat coloured polygons in body units (feet on y = 0, facing
right), so that it can be tilted, mirrored and fitted into any frame; Pillow fills them at 4x and
a box filter reduces the result. Every part is written against the torso's own coordinates `at(t,
s)` (t from back to front or top to bottom, s across), which is why any part fits on any torso and
hybrids of an animal and a plant come out whole. All shapes were set by eye.

Does not: word captions (`captions.py`), judge pictures (`judge.py`) or read files.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from creatok_cli.backbones.bestiary.genes import CONCEPTS, GENES, PLANTS, RGB, Genes, Part

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "CONCEPTS",
    "GENES",
    "PLANTS",
    "SIZE_PX",
    "STYLES",
    "Genes",
    "Mix",
    "Scene",
    "blend",
    "draw_genes",
    "draw_picture",
    "draw_sprite",
]

SIZE_PX = 64
SUPERSAMPLE = 4
BACKGROUNDS: tuple[str, ...] = ("meadow", "desert", "night", "snow", "sea", "plain")
STYLES: tuple[str, ...] = ("photo", "pencil sketch", "pixel art", "watercolor")
COLOURS: Mapping[str, RGB] = MappingProxyType(
    {
        "black": (58, 56, 66),
        "blue": (48, 104, 228),
        "green": (46, 176, 62),
        "orange": (255, 136, 20),
        "pink": (255, 130, 190),
        "purple": (142, 60, 190),
        "red": (222, 28, 34),
        "yellow": (255, 222, 34),
    }
)

Mix = Mapping[str, float]
Point = tuple[float, float]
Shape = tuple[list[Point], RGB]

SPRITE_EYE, SPRITE_FLOOR = (0.65, 0.41), 0.95
"""Where the eyes of a sprite are and where its feet, as shares of its side."""
SPRITE_LEAST = 0.72
"""How much smaller than its frame a sprite may be, so that its eyes reach their place."""

INK: RGB = (36, 32, 44)
WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What surrounds the creatures and how they are painted."""

    background: str = "plain"
    colour: str | None = None
    style: str = "photo"


def _shade(colour: RGB, factor: float) -> RGB:
    r, g, b = colour
    return (min(255, int(r * factor)), min(255, int(g * factor)), min(255, int(b * factor)))


def _lerp(a: RGB, b: RGB, weight: float) -> RGB:
    keep = 1.0 - weight
    return (
        int(a[0] * keep + b[0] * weight),
        int(a[1] * keep + b[1] * weight),
        int(a[2] * keep + b[2] * weight),
    )


def _luma(colour: RGB) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _contrast(colour: RGB, factor: float) -> RGB:
    """A darker shade, or a lighter one where the colour is nearly black already."""
    return _shade(colour, factor) if _luma(colour) > 80 else _lerp(colour, WHITE, 1.0 - factor)


_PARTS = ("pattern", "head", "nose", "ears", "horns", "tail", "legs", "wings", "back", "crown")
_SLOTS = ("body", "coat", "belly", "eyes", *_PARTS)
_MAJOR = ("body", "coat", "head", "legs", "pattern")
_NUMERIC = tuple(f.name for f in fields(Genes) if isinstance(getattr(GENES["pig"], f.name), float))


def _resolve(genes: Genes, colour: RGB | None) -> Genes:
    """Recolour a row, then give every part its own colour, so that parts can move between rows."""
    changes: dict[str, Any] = {}
    if colour is not None:
        changes["coat"] = colour if "coat" in genes.main else _lerp(genes.coat, colour, 0.35)
        if genes.belly is not None:
            changes["belly"] = _lerp(colour, WHITE, 0.5)
        for name in genes.main:
            if name != "coat":
                changes[name] = (getattr(genes, name)[0], colour)
    genes = replace(genes, **changes)
    changes = {}
    for name in _PARTS:
        kind, own = getattr(genes, name)
        if own is None and kind != "none":
            changes[name] = (kind, genes.coat)
    return replace(genes, **changes)


def _has(genes: Genes, slot: str) -> bool:
    value = getattr(genes, slot)
    if slot in _PARTS:
        return bool(value[0] != "none")
    return bool(value is not None and value != "none")


def _pick(rng: random.Random, weights: Mapping[str, float]) -> str:
    names = list(weights)
    edges = list(accumulate(weights.values()))
    return names[min(len(names) - 1, bisect_right(edges, rng.random() * edges[-1]))]


def _balance(
    owner: dict[str, str], rows: Mapping[str, Genes], mix: Mapping[str, float], rng: random.Random
) -> None:
    """Move parts to parents that ended up with clearly fewer visible parts than their weight asks
    for.
    """
    visible = [slot for slot in _SLOTS if _has(rows[owner[slot]], slot)]
    held = {name: sum(owner[slot] == name for slot in visible) for name in mix}
    for name in sorted(mix, key=lambda name: (-mix[name], name)):
        own = [slot for slot in _SLOTS if _has(rows[name], slot)]
        share = mix[name]
        target = min(int(0.85 * share * len(visible)), round((0.5 + 0.5 * share) * len(own)))
        offers = [slot for slot in own if owner[slot] != name]
        rng.shuffle(offers)
        offers.sort(key=lambda slot: slot not in rows[name].signature)
        for slot in offers:
            giver = owner[slot]
            if held[name] >= target:
                break
            if not _has(rows[giver], slot):
                owner[slot], held[name] = name, held[name] + 1
            elif held[giver] > mix[giver] * len(visible):
                owner[slot], held[name], held[giver] = name, held[name] + 1, held[giver] - 1


def _owners(
    rows: Mapping[str, Genes], mix: Mapping[str, float], rng: random.Random
) -> dict[str, str]:
    """Which parent supplies which part: a stratified draw in which recognisable parts go first.

    Each parent first claims about its weight's share of its own signature. The other parts are
    cut by systematic sampling over the weights. A part that its owner lacks mostly goes to a
    parent that has it.
    """
    owner: dict[str, str] = {}
    names = list(mix)
    rng.shuffle(names)
    names.sort(key=lambda name: -mix[name])
    for name in names:
        signature = [slot for slot in rows[name].signature if slot not in owner]
        rng.shuffle(signature)
        count = int(mix[name] * len(rows[name].signature) + rng.random() + 0.15)
        for slot in signature[: max(count, 1 if mix[name] > 0.15 else 0)]:
            owner[slot] = name
    rng.shuffle(names)
    edges = list(accumulate(mix[name] for name in names))
    for group in (_MAJOR, tuple(slot for slot in _SLOTS if slot not in _MAJOR)):
        free = [slot for slot in group if slot not in owner]
        rng.shuffle(free)
        offset = rng.random()
        for i, slot in enumerate(free):
            place = bisect_right(edges, (i + offset) / len(free) * edges[-1])
            name = names[min(place, len(names) - 1)]
            if (
                slot != "coat"
                and slot != "body"
                and not _has(rows[name], slot)
                and rng.random() < 0.7
            ):
                having = {other: mix[other] for other in names if _has(rows[other], slot)}
                name = _pick(rng, having) if having else name
            owner[slot] = name
    _balance(owner, rows, mix, rng)
    return owner


def blend(mix: Mix, rng: random.Random, colour: RGB | None = None) -> Genes:
    """The genes of a creature with these parents; weights need not be normalised.

    Numeric genes are weighted means, parts are dealt out by `_owners`; the body takes its colour
    from one parent and the head takes that of the head's owner, each drawn a fifth of the way
    towards the mean colour. `colour` recolours every parent before the blend. Deterministic in
    (mix as a set, rng state, colour).
    """
    total = sum(mix.values())
    shares = {name: mix[name] / total for name in sorted(mix) if mix[name] > 0}
    rows = {name: _resolve(GENES[name], colour) for name in shares}
    if len(rows) == 1:
        return next(iter(rows.values()))
    owner = _owners(rows, shares, rng)
    seeing = {name: weight for name, weight in shares.items() if rows[name].eyes != "none"}
    if seeing and owner["eyes"] not in seeing:
        owner["eyes"] = _pick(rng, seeing)
    changes: dict[str, Any] = {slot: getattr(rows[owner[slot]], slot) for slot in _SLOTS}
    for name in _NUMERIC:
        changes[name] = sum(weight * getattr(rows[n], name) for n, weight in shares.items())
    mean = (
        int(sum(w * rows[n].coat[0] for n, w in shares.items())),
        int(sum(w * rows[n].coat[1] for n, w in shares.items())),
        int(sum(w * rows[n].coat[2] for n, w in shares.items())),
    )
    changes["coat"] = _lerp(rows[owner["coat"]].coat, mean, 0.2)
    kind, own = rows[owner["head"]].head
    if kind != "none" and own is not None:
        changes["head"] = (kind, _lerp(own, mean, 0.2))
    if owner["belly"] != owner["coat"] and rng.random() < 0.3:
        changes["belly"] = _lerp(rows[owner["belly"]].coat, WHITE, 0.35)
    for name in ("crown", "wings"):
        kind = getattr(rows[owner[name]], name)[0]
        having = {n: weight for n, weight in shares.items() if _has(rows[n], name)}
        if len(having) > 1:  # shape from one parent, colour perhaps from another: a green toadstool
            changes[name] = (kind, getattr(rows[_pick(rng, having)], name)[1])
    changes["leg_count"] = rows[owner["legs"]].leg_count
    changes["signature"] = ()
    return replace(rows[owner["body"]], **changes)


_CIRCLE = [(math.cos(i * math.tau / 22), math.sin(i * math.tau / 22)) for i in range(22)]
_DOT = _CIRCLE[::2]


def _super(n: float, count: int = 32) -> list[Point]:
    points = []
    for i in range(count):
        c, s = math.cos(i * math.tau / count), math.sin(i * math.tau / count)
        points.append((math.copysign(abs(c) ** (2 / n), c), math.copysign(abs(s) ** (2 / n), s)))
    return points


def _profile(half: Callable[[float], float], count: int = 16) -> list[Point]:
    """Unit outline from a half-width over v in [-1 (top), 1 (bottom)]."""
    vs = [-math.cos(math.pi * i / count) for i in range(count + 1)]
    return [(half(v), v) for v in vs] + [(-half(v), v) for v in reversed(vs)]


def _along(
    top: Callable[[float], float], bottom: Callable[[float], float], count: int = 16
) -> list[Point]:
    """Unit outline from an upper and a lower edge over u in [-1 (back), 1 (front)]."""
    us = [-math.cos(math.pi * i / count) for i in range(count + 1)]
    return [(u, top(u)) for u in us] + [(u, bottom(u)) for u in reversed(us)]


def _round(v: float, n: float = 2.0) -> float:
    return float(max(0.0, 1.0 - abs(v) ** n) ** (1 / n))


_CRESCENT = [
    *((-math.cos(a), -0.75 + 1.75 * math.sin(a)) for a in (0.05 + i * 0.19 for i in range(17))),
    *(
        (0.98 * math.cos(a), -0.85 + 0.72 * math.sin(a))
        for a in (0.05 + i * 0.19 for i in range(17))
    ),
]

_OUTLINES: dict[str, list[Point]] = {
    "barrel": _super(2.7),
    "box": _super(3.6),
    "oval": _super(2.0),
    "bird": _along(
        lambda u: -_round(u) * (0.62 + 0.38 * u) - 0.35 * max(0.0, -u),
        lambda u: _round(u) * (0.9 + 0.1 * u),
    ),
    "fish": _along(lambda u: -_round(u) * (0.8 + 0.3 * u), lambda u: _round(u) * (0.8 + 0.3 * u)),
    "shark": _along(
        lambda u: -(_round(u, 1.6) * (0.7 + 0.2 * u)),
        lambda u: _round(u, 1.6) * (0.72 + 0.1 * u) - 0.05 * u,
    ),
    "whale": _along(
        lambda u: -_round(u, 3 if u > 0 else 1.5) * (0.72 + 0.28 * u) - 0.25 * max(0.0, -u),
        lambda u: _round(u, 3 if u > 0 else 1.5) * (0.75 + 0.25 * u),
    ),
    "low": _along(lambda u: -_round(u, 3) * (0.7 + 0.15 * u), lambda u: _round(u, 3)),
    "slug": _along(lambda u: 0.5 - 0.7 * _round(u, 3) - 0.8 * max(0.0, u) ** 2, lambda u: 1.0),
    "hump": _along(lambda u: 0.75 - 1.75 * _round(u), lambda u: 0.75 + 0.25 * _round(u)),
    "egg": _profile(lambda v: _round(v) * (0.93 + 0.1 * v)),
    "round": _super(2.0),
    "pear": _profile(lambda v: _round(v, 2.3) * (0.78 + 0.24 * v)),
    "bulb": _profile(lambda v: _round(v, 2.4) * (0.85 - 0.2 * v)),
    "bell": _profile(lambda v: (1 - (1 - (v + 1) / 2) ** 2.2) ** 0.5 if v < 0.98 else 0.86),
    "dome": _profile(lambda v: _round(v, 2.2) * (0.96 - 0.14 * v)),
    "column": _super(4.2),
    "cone": _profile(lambda v: min(1.0, (1.02 + v) * 4) ** 0.5 * (1 - (v + 1) / 2.06) ** 0.8),
    "cob": _profile(lambda v: _round(v, 2.6) * (0.88 + 0.12 * v)),
    "drop": _profile(lambda v: _round(v, 2.6) * (0.72 + 0.32 * v)),
    "heart": _profile(
        lambda v: min(1.0, (1.05 + v) * 2.2) ** 0.5 * (1 - ((v + 1) / 2.02) ** 2.0) ** 0.8
    ),
    "keg": _super(2.6),
    "stalk": _profile(lambda v: 0.72 + 0.28 * v * v if abs(v) < 0.99 else 0.9),
    "stem": _profile(lambda v: 1.0),
    "trunk": _profile(lambda v: 0.8 + 0.3 * max(0.0, v) ** 3),
    "bunch": _profile(lambda v: min(1.0, (1.1 + v) * 2) ** 0.5 * (1 - (v + 1) / 2.3)),
    "gourd": [
        (x * (1 + 0.03 * math.cos(i * math.tau / 5)), y * (1 + 0.05 * math.cos(x * 9)))
        for i, (x, y) in enumerate(_super(2.5, 40))
    ],
    "rosette": [
        (
            (1 + 0.06 * math.cos(i * math.tau / 5)) * math.cos(a),
            (1 + 0.06 * math.cos(i * math.tau / 5)) * math.sin(a),
        )
        for i, a in enumerate(i * math.tau / 45 for i in range(45))
    ],
    "crescent": _CRESCENT,
}
_UPRIGHT = frozenset(
    "egg round pear bulb bell dome column cone cob drop heart keg stalk stem trunk bunch".split()
) | {"gourd", "rosette"}
_STEPS = 24


def _extent(outline: list[Point], axis: int) -> list[tuple[float, float]]:
    """Lower and upper cross coordinate of a unit outline at evenly spaced places along the other
    axis.
    """
    spans = []
    edges = list(zip(outline, [*outline[1:], outline[0]], strict=True))
    low, high = min(p[axis] for p in outline), max(p[axis] for p in outline)
    for k in range(_STEPS + 1):
        t = min(max(-1 + 2 * k / _STEPS, low + 1e-6), high - 1e-6)
        hits = []
        for p, q in edges:
            if (p[axis] <= t) != (q[axis] <= t):
                w = (t - p[axis]) / (q[axis] - p[axis])
                hits.append(p[1 - axis] * (1 - w) + q[1 - axis] * w)
        spans.append((min(hits), max(hits)) if hits else (0.0, 0.0))
    return spans


_SPANS = {
    kind: _extent(outline, 1 if kind in _UPRIGHT else 0) for kind, outline in _OUTLINES.items()
}


class _Sketch:
    """One creature being built: its polygons so far and the places at which parts attach."""

    def __init__(self, genes: Genes, rng: random.Random) -> None:
        self.g, self.rng = genes, rng
        self.shapes: list[Shape] = []
        self.kind = genes.body
        self.upright = genes.body in _UPRIGHT
        self.coat = genes.coat
        stretch = rng.uniform(-0.05, 0.05)
        self.a = genes.body_w / 2 * (1 + stretch)
        self.b = genes.body_h / 2 * (1 - stretch)
        self._limit_torso()
        lift = (
            genes.leg_len
            if genes.legs[0] == "none"
            else max(0.1, genes.leg_len * rng.uniform(0.92, 1.08))
        )
        self.cx, self.cy = 0.0, -(lift + self.b)
        self.lift = lift
        if self.kind == "snake":
            self.tube_r = 0.06 + 0.22 * self.b
            self.wave = 0.08 + 0.55 * self.b
            self.phase = rng.uniform(-0.4, 0.4)
            self.cy = -(lift + self.tube_r + self.wave)
        self._place_face()

    def _limit_torso(self) -> None:
        """Keep blended sizes within what each torso can carry (a stem is thin, a snake long)."""
        wide, high = {"stem": (0.10, 9.0), "trunk": (0.22, 9.0), "column": (0.34, 9.0),
            "snake": (9.0, 0.34), "slug": (9.0, 0.22), "low": (9.0, 0.24),
            "stalk": (0.36, 9.0), "cob": (0.36, 9.0)}.get(self.kind, (9.0, 9.0))  # fmt: skip
        self.a, self.b = max(0.05, min(self.a, wide)), max(0.08, min(self.b, high))
        if self.kind in ("snake", "low", "slug", "shark", "whale", "fish"):
            self.a = max(self.a, 0.45)
        if self.kind in ("column", "cone", "cob", "stem", "drop"):
            self.b = max(self.b, 0.3)

    def _place_face(self) -> None:
        g, rng, r = self.g, self.rng, self.g.head_size
        dx, dy = rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)
        if g.head[0] != "none":
            if self.upright:
                base = self.at(-0.85, 0.1)
                self.hx, self.hy = base[0] + 0.15 * self.a + dx, base[1] - g.neck - 0.62 * r + dy
            elif self.kind == "snake":
                base = self.at(0.97, 0.0)
                self.hx, self.hy = base[0] + 0.35 * r + dx, base[1] - max(g.neck, 0.02) + dy
            else:
                base = self.at(0.72, -0.35)
                self.hx = base[0] + 0.08 * self.a + 0.3 * max(g.neck, 0.0) + 0.35 * r + dx
                self.hy = base[1] - g.neck - 0.3 * r + dy
            self.base = base
            self.r, self.ex, self.ey = r, self.hx, self.hy
            return
        if self.upright:
            self.r = max(0.12, min(r, 0.8 * self.a, 0.6 * self.b))
            self.hx, self.hy = self.at(
                {"cone": -0.45, "heart": -0.2, "dome": 0.0}.get(self.kind, -0.2), 0.0
            )
            self.hx += 0.08 * self.a + dx
            self.ex, self.ey = self.hx, self.at(-1, 0)[1] + 0.8 * self.r
        elif self.kind == "snake":
            self.r = max(0.12, self.tube_r)
            self.hx, self.hy = self.at(0.93, 0)
            self.ex, self.ey = self.hx, self.hy
        else:
            self.r = max(0.12, min(r, 0.62 * self.b, 0.4 * self.a))
            self.hx, self.hy = self.at(0.58, -0.12)
            if self.kind == "crescent":
                self.hx, self.hy = self.at(0.1, -0.1)
            self.ex, self.ey = self.hx, self.at(0.5, -1)[1] + 0.8 * self.r
        self.base = (self.hx, self.hy)

    def at(self, t: float, s: float) -> Point:
        """Point of the torso: t along it (back to front, or top to bottom if upright), s across
        in [-1, 1].

        s = -1 is the back of the animal: the upper edge, or the left one if upright.
        """
        if self.kind == "snake":
            x = self.cx + self.a * t
            y = self.cy + self.wave * math.cos(5.2 * t + self.phase)
            slope = -self.wave * 5.2 * math.sin(5.2 * t + self.phase) / self.a
            norm = math.hypot(1.0, slope)
            width = self.tube_r * min(1.0, 0.25 + 1.1 * (t + 1))
            return (x - s * width * slope / norm, y + s * width / norm)
        place = (min(1.0, max(-1.0, t)) + 1) / 2 * _STEPS
        i = min(int(place), _STEPS - 1)
        w = place - i
        spans = _SPANS[self.kind]
        low = spans[i][0] * (1 - w) + spans[i + 1][0] * w
        high = spans[i][1] * (1 - w) + spans[i + 1][1] * w
        cross = (low + high) / 2 + s * (high - low) / 2
        if self.upright:
            return (self.cx + self.a * cross, self.cy + self.b * t)
        return (self.cx + self.a * t, self.cy + self.b * cross)

    def edge(self, s: float, t0: float = -1.0, t1: float = 1.0, count: int = 12) -> list[Point]:
        return [self.at(t0 + (t1 - t0) * i / count, s) for i in range(count + 1)]

    @property
    def thick(self) -> float:
        """Half the width of the torso across its axis."""
        if self.kind == "snake":
            return self.tube_r
        return self.a if self.upright else self.b

    @property
    def bottom(self) -> float:
        return self.at(1, 0)[1] if self.upright else max(self.at(0, 1)[1], self.at(0.3, 1)[1])

    def poly(self, points: list[Point], colour: RGB) -> None:
        self.shapes.append((points, colour))

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: RGB, angle: float = 0.0
    ) -> None:
        unit = _CIRCLE if max(rx, ry) > 0.07 else _DOT
        if angle:
            c, s = math.cos(angle), math.sin(angle)
            points = [(x + u * rx * c - v * ry * s, y + u * rx * s + v * ry * c) for u, v in unit]
        else:
            points = [(x + u * rx, y + v * ry) for u, v in unit]
        self.shapes.append((points, colour))

    def dot(self, x: float, y: float, r: float, colour: RGB) -> None:
        self.oval(x, y, r, r, colour)

    def tube(
        self, path: Sequence[Point], w0: float, w1: float, colour: RGB, cap: bool = True
    ) -> None:
        """A line of full width w0 at its start and w1 at its end, with a round end."""
        left, right = [], []
        last = len(path) - 1
        for i, (x, y) in enumerate(path):
            (px, py), (nx, ny) = path[max(i - 1, 0)], path[min(i + 1, last)]
            dx, dy = nx - px, ny - py
            norm = math.hypot(dx, dy) or 1.0
            half = (w0 + (w1 - w0) * i / last) / 2
            left.append((x - dy / norm * half, y + dx / norm * half))
            right.append((x + dy / norm * half, y - dx / norm * half))
        self.poly(left + right[::-1], colour)
        if cap and w1 > 0.035:
            self.dot(*path[-1], w1 / 2, colour)

    def curve(
        self, p0: Point, p1: Point, p2: Point, w0: float, w1: float, colour: RGB, cap: bool = True
    ) -> None:
        """A tube along a quadratic curve whose middle control point is p1."""
        path = []
        for i in range(8):
            t = i / 7
            k0, k1, k2 = (1 - t) ** 2, 2 * t * (1 - t), t * t
            path.append(
                (k0 * p0[0] + k1 * p1[0] + k2 * p2[0], k0 * p0[1] + k1 * p1[1] + k2 * p2[1])
            )
        self.tube(path, w0, w1, colour, cap)

    def face(self, x: float, y: float) -> Point:
        return (self.hx + x * self.r, self.hy + y * self.r)

    def top(self, x: float, y: float) -> Point:
        """Like `face`, for what stands on the top of the head (or of the torso where the face is
        on the torso).
        """
        return (self.ex + x * self.r, self.ey + y * self.r)

    def facepoly(self, colour: RGB, *points: Point) -> None:
        self.poly([self.face(x, y) for x, y in points], colour)

    def toppoly(self, colour: RGB, *points: Point) -> None:
        self.poly([self.top(x, y) for x, y in points], colour)

    def faceoval(
        self, x: float, y: float, rx: float, ry: float, colour: RGB, angle: float = 0.0
    ) -> None:
        self.oval(
            self.hx + x * self.r, self.hy + y * self.r, rx * self.r, ry * self.r, colour, angle
        )

    def topoval(
        self, x: float, y: float, rx: float, ry: float, colour: RGB, angle: float = 0.0
    ) -> None:
        self.oval(
            self.ex + x * self.r, self.ey + y * self.r, rx * self.r, ry * self.r, colour, angle
        )

    def leaf(
        self, x: float, y: float, length: float, width: float, angle: float, colour: RGB
    ) -> None:
        """A pointed leaf from (x, y) in direction `angle` (0 right, -pi/2 up)."""
        c, s = math.cos(angle), math.sin(angle)
        unit = ((0, 0), (0.25, 0.8), (0.55, 0.9), (1, 0), (0.55, -0.9), (0.25, -0.8))
        h = width / 2
        self.poly(
            [(x + u * length * c - v * h * s, y + u * length * s + v * h * c) for u, v in unit],
            colour,
        )


Drawer = Callable[[_Sketch, RGB], None]
_DRAWERS: dict[tuple[str, str], Drawer] = {}


def _part(slot: str, *kinds: str) -> Callable[[Drawer], Drawer]:
    def register(function: Drawer) -> Drawer:
        for kind in kinds:
            _DRAWERS[slot, kind] = function
        return function

    return register


def _draw(k: _Sketch, slot: str, part: Part) -> None:
    drawer = _DRAWERS.get((slot, part[0]))
    if drawer is not None:
        drawer(k, part[1] or k.coat)


@_part("pattern", "stripes")
def _stripes(k: _Sketch, c: RGB) -> None:
    for i in range(6):
        t, w = -0.82 + i * 0.32, 0.065
        k.poly([k.at(t - w, -1), k.at(t + w, -1), k.at(t + 0.1 + w, 0),
            k.at(t + 0.04, 1), k.at(t + 0.1 - w, 0)], c)  # fmt: skip


@_part("pattern", "tiger")
def _tiger(k: _Sketch, c: RGB) -> None:
    for i in range(5):
        t = -0.75 + i * 0.34
        k.poly([k.at(t - 0.08, -1), k.at(t + 0.08, -1), k.at(t + 0.06, 0.15)], c)
        k.poly([k.at(t + 0.1, 1), k.at(t + 0.24, 1), k.at(t + 0.16, 0.1)], c)


@_part("pattern", "tabby")
def _tabby(k: _Sketch, c: RGB) -> None:
    for t in (-0.6, -0.25, 0.1, 0.42):
        k.poly([k.at(t - 0.08, -1), k.at(t + 0.08, -1), k.at(t + 0.02, -0.2)], c)


@_part("pattern", "bands")
def _bands(k: _Sketch, c: RGB) -> None:
    for t in (-0.7, -0.22, 0.26):
        k.poly([*k.edge(-1, t - 0.12, t + 0.12, 3), *k.edge(1, t + 0.12, t - 0.12, 3)], c)


@_part("pattern", "clown")
def _clown(k: _Sketch, c: RGB) -> None:
    for t, w in ((-0.62, 0.08), (0.12, 0.13)):
        k.poly(
            [*k.edge(-1, t - w, t + w, 3), k.at(t + w + 0.06, 0), *k.edge(1, t + w, t - w, 3)], c
        )


@_part("pattern", "saddle")
def _saddle(k: _Sketch, c: RGB) -> None:
    k.poly([*k.edge(-1, -0.55, 0.35, 6), k.at(0.2, -0.1), k.at(-0.1, 0.25), k.at(-0.45, -0.05)], c)


@_part("pattern", "patches")
def _patches(k: _Sketch, c: RGB) -> None:
    for t, s, w, h in (
        (-0.6, -0.65, 0.27, 0.55),
        (0.0, 0.25, 0.27, 0.5),
        (0.52, -0.75, 0.22, 0.5),
        (-0.7, 0.8, 0.14, 0.4),
    ):
        points = []
        for i, (u, v) in enumerate(_DOT):
            grow = 1.15 if i % 3 == 0 else 0.92
            points.append(k.at(t + u * w * grow, max(-1, min(1, s + v * h * grow))))
        k.poly(points, c)


@_part("pattern", "tiles")
def _tiles(k: _Sketch, c: RGB) -> None:
    for row, s in enumerate((-0.66, 0.0, 0.66)):
        for i in range(4):
            t = -0.72 + i * 0.42 + (0.2 if row == 1 else 0.0)
            w, h = 0.17, 0.28
            k.poly([k.at(t - w, s - h * 0.8), k.at(t + w * 0.7, s - h),
                k.at(t + w, s + h * 0.6), k.at(t - w * 0.6, s + h)], c)  # fmt: skip


def _scatter(k: _Sketch, c: RGB, places: Sequence[tuple[float, float]], r: float) -> None:
    size = r * max(0.12, min(k.a, k.b) if k.kind != "snake" else k.tube_r * 1.4)
    for t, s in places:
        x, y = k.at(t, s)
        k.dot(x, y, size, c)


@_part("pattern", "dapples")
def _dapples(k: _Sketch, c: RGB) -> None:
    _scatter(k, c, ((-0.7, -0.5), (-0.42, -0.75), (-0.45, -0.2), (-0.15, -0.5),
        (0.12, -0.75), (0.15, -0.15), (0.4, -0.5)), 0.15)  # fmt: skip


@_part("pattern", "dots")
def _dots(k: _Sketch, c: RGB) -> None:
    _scatter(
        k,
        c,
        ((-0.6, -0.25), (-0.7, 0.3), (-0.3, -0.66), (-0.35, 0.66), (0.1, -0.75), (0.1, 0.78)),
        0.17,
    )


@_part("pattern", "bugspots")
def _bugspots(k: _Sketch, c: RGB) -> None:
    k.poly([k.at(-0.9, 0.05), k.at(0.6, -0.05), k.at(0.6, 0.08), k.at(-0.9, 0.16)], c)
    _scatter(k, c, ((-0.55, -0.45), (-0.05, -0.6), (0.4, -0.5), (-0.35, 0.6), (0.2, 0.55)), 0.27)


@_part("pattern", "berries")
def _berries(k: _Sketch, c: RGB) -> None:
    size = 0.2 * max(0.14, min(k.a, k.b))
    for t, s in ((-0.75, -0.6), (-0.75, 0.0), (-0.75, 0.6), (-0.35, -0.35),
        (-0.35, 0.35), (0.05, -0.5), (0.05, 0.3), (0.42, -0.1), (0.7, 0)):  # fmt: skip
        x, y = k.at(t, s)
        k.dot(x, y, size * 1.5, _shade(k.coat, 0.82))
        k.dot(x, y, size * 1.2, k.coat)
        k.dot(x - size * 0.3, y - size * 0.4, size * 0.55, c)


@_part("pattern", "chevrons")
def _chevrons(k: _Sketch, c: RGB) -> None:
    for t, places in ((0.1, (-0.3, 0.3)), (0.42, (-0.45, 0.0, 0.45)), (0.72, (-0.25, 0.25))):
        for s in places:
            x, y = k.at(t, s)
            w = 0.1 * max(k.thick, 0.2)
            k.poly([(x - w, y - w * 0.6), (x, y + w), (x + w, y - w * 0.6), (x, y)], c)


@_part("pattern", "diamonds")
def _diamonds(k: _Sketch, c: RGB) -> None:
    for i in range(6):
        t, w = -0.75 + i * 0.3, 0.11
        k.poly([k.at(t - w, 0), k.at(t, -0.75), k.at(t + w, 0), k.at(t, 0.75)], c)


@_part("pattern", "folds")
def _folds(k: _Sketch, c: RGB) -> None:
    for t in (-0.45, 0.42):
        k.tube(
            [k.at(t + d, s) for d, s in ((0.06, -1), (-0.02, -0.4), (0.0, 0.2), (0.05, 0.9))],
            0.035,
            0.03,
            c,
        )


@_part("pattern", "gills")
def _gills(k: _Sketch, c: RGB) -> None:
    for t in (0.12, 0.22, 0.32):
        k.tube([k.at(t, -0.35), k.at(t - 0.03, 0.0), k.at(t, 0.3)], 0.025, 0.025, c)


@_part("pattern", "hourglass")
def _hourglass(k: _Sketch, c: RGB) -> None:
    t = 0.55
    k.poly(
        [k.at(t - 0.2, -0.28), k.at(t - 0.2, 0.28), k.at(t + 0.22, -0.28), k.at(t + 0.22, 0.28)], c
    )


@_part("pattern", "yoke")
def _yoke(k: _Sketch, c: RGB) -> None:
    lo, hi = (-0.72, -0.2) if k.upright else (0.2, 0.62)
    k.poly([*k.edge(-1, lo, hi, 4), *k.edge(1, hi, lo, 4)], c)


@_part("pattern", "kernels")
def _kernels(k: _Sketch, c: RGB) -> None:
    for s in (-0.66, -0.22, 0.22, 0.66):
        k.tube([k.at(t, s) for t in (-0.88, -0.3, 0.3, 0.88)], 0.022, 0.022, c, cap=False)
    for i in range(8):
        t = -0.8 + i * 0.22
        k.tube([k.at(t, -0.97), k.at(t, 0), k.at(t, 0.97)], 0.02, 0.02, c, cap=False)


@_part("pattern", "lattice")
def _lattice(k: _Sketch, c: RGB) -> None:
    for i in range(-2, 5):
        t = -1.1 + i * 0.42
        for sign in (1, -1):
            path = [(t + 0.42 * (s + 1), s * sign) for s in (-0.98, -0.5, 0.0, 0.5, 0.98)]
            inside = [k.at(u, s) for u, s in path if -0.96 < u < 0.96]
            if len(inside) > 1:
                k.tube(inside, 0.028, 0.028, c, cap=False)


@_part("pattern", "spines")
def _spines(k: _Sketch, c: RGB) -> None:
    dark = _shade(k.coat, 0.8)
    for s in (-0.5, 0.0, 0.5):
        k.tube([k.at(t, s) for t in (-0.9, 0.0, 0.95)], 0.025, 0.025, dark, cap=False)
    size = 0.045
    for i in range(5):
        for s in (-0.75, -0.25, 0.25, 0.75):
            x, y = k.at(-0.75 + i * 0.36 + (0.16 if s in (-0.25, 0.75) else 0.0), s)
            k.poly([(x - size, y - size), (x, y + size * 0.5), (x + size, y - size),
                (x, y - size * 0.2)], c)  # fmt: skip


@_part("pattern", "ribs")
def _ribs(k: _Sketch, c: RGB) -> None:
    for s in (-0.72, -0.27, 0.27, 0.72):
        k.tube([k.at(t, s) for t in (-0.86, -0.45, 0.0, 0.45, 0.9)], 0.04, 0.04, c, cap=False)


@_part("pattern", "rings")
def _rings(k: _Sketch, c: RGB) -> None:
    for t, s0, s1 in (
        (-0.62, -1, -0.2),
        (-0.4, 0.3, 1),
        (-0.12, -1, -0.1),
        (0.14, 0.2, 1),
        (0.4, -1, 0.1),
        (0.62, 0, 1),
    ):
        k.tube(
            [k.at(t, s0), k.at(t + 0.03, (s0 + s1) / 2), k.at(t + 0.02, s1)],
            0.04,
            0.03,
            c,
            cap=False,
        )


@_part("pattern", "seeds")
def _seeds(k: _Sketch, c: RGB) -> None:
    for i, t in enumerate((-0.62, -0.32, -0.02, 0.28, 0.56)):
        for s in (-0.66, 0.0, 0.66) if i % 2 else (-0.82, -0.32, 0.32, 0.82):
            x, y = k.at(t, s)
            k.oval(x, y, 0.02, 0.034, c)


@_part("pattern", "shine")
def _shine(k: _Sketch, c: RGB) -> None:
    k.tube(
        [k.at(t, s) for t, s in ((-0.5, -0.5), (-0.1, -0.62), (0.3, -0.68), (0.55, -0.6))],
        0.05,
        0.09,
        c,
    )


@_part("pattern", "veins")
def _veins(k: _Sketch, c: RGB) -> None:
    k.tube([k.at(0.97, 0), k.at(0.2, 0), k.at(-0.6, 0)], 0.13, 0.04, c)
    for t in (0.65, 0.3, -0.05):
        for s in (-1, 1):
            k.tube(
                [k.at(t, 0), k.at(t - 0.2, s * 0.36), k.at(t - 0.45, s * 0.62)],
                0.055,
                0.025,
                c,
                cap=False,
            )


@_part("pattern", "peel")
def _peel(k: _Sketch, c: RGB) -> None:
    k.tube(k.edge(0.25, -0.9, 0.9, 10), 0.03, 0.03, c, cap=False)
    k.tube(k.edge(0.7, -0.8, 0.8, 10), 0.02, 0.02, c, cap=False)


def _feet(k: _Sketch) -> list[tuple[float, float, bool]]:
    """(x, y of the hip, far?) of each walking leg, far ones first."""
    count = k.g.leg_count
    sway = k.rng.uniform(-0.04, 0.04)
    if k.upright:
        places = (-0.42, 0.42) if count <= 2 else (-0.72, -0.28, 0.28, 0.72)
        reach = max(k.a, 0.16)
        return [
            (k.cx + s * reach + sway, k.cy + k.b * 0.55, i % 2 == 1 and count > 2)
            for i, s in enumerate(places)
        ]
    if count <= 2:
        pairs = [(0.16, True), (-0.1, False)]
    elif count <= 4:
        pairs = [(-0.44, True), (0.74, True), (-0.7, False), (0.5, False)]
    else:
        pairs = [
            (-0.35, True),
            (0.2, True),
            (0.6, True),
            (-0.5, False),
            (0.05, False),
            (0.45, False),
        ]
    return [(k.at(t, 0.3)[0] + sway * (1 if far else -1), k.at(t, 0.3)[1], far) for t, far in pairs]


@_part("legs", "hoof", "paw", "thick", "sock", "bird", "web", "stilt", "stub")
def _walk(k: _Sketch, c: RGB) -> None:
    kind, w = k.g.legs[0], max(0.045, k.g.leg_width)
    w = min(w, 0.07) if kind in ("bird", "stilt", "web") else max(w, 0.075)
    for x, y, far in sorted(_feet(k), key=lambda leg: not leg[2]):
        tone = _contrast(c, 0.74) if far else c
        slant = 0.02 if far else -0.02
        if kind in ("bird", "stilt", "web"):
            knee = (x - 0.03, y * 0.5)
            k.tube([(x, y), knee, (x + 0.01, -0.01)], w, w * 0.9, tone)
            if kind == "web":
                k.poly([(x - 0.04, 0), (x + 0.02, -0.07), (x + 0.17, -0.02),
                    (x + 0.17, 0.02), (x - 0.04, 0.02)], tone)  # fmt: skip
            else:
                k.tube([(x - 0.07, 0), (x + 0.13, 0)], 0.05, 0.045, tone)
            if kind == "stilt":
                k.dot(*knee, w * 0.75, _contrast(tone, 0.8))
            continue
        k.poly([(x - w * 0.6 + slant, y), (x + w * 0.6 + slant, y), (x + w * 0.48, 0),
            (x - w * 0.48, 0)], tone)  # fmt: skip
        if kind == "hoof":
            k.poly([(x - w * 0.5, -0.065), (x + w * 0.5, -0.065), (x + w * 0.58, 0),
                (x - w * 0.58, 0)], _contrast(tone, 0.42))  # fmt: skip
        elif kind == "thick":
            k.oval(x, -0.03, w * 0.6, 0.045, tone)
            for d in (-0.28, 0.05, 0.36):
                k.dot(x + d * w, -0.025, 0.028, _lerp(tone, WHITE, 0.6))
        elif kind == "sock":
            k.poly([(x - w * 0.52, -0.13), (x + w * 0.52, -0.13), (x + w * 0.48, 0),
                (x - w * 0.48, 0)], (64, 46, 48))  # fmt: skip
            k.oval(x + w * 0.2, -0.025, w * 0.65, 0.04, (64, 46, 48))
        else:
            k.oval(x + w * 0.22, -0.03, w * 0.72, 0.05, tone)


@_part("legs", "insect")
def _insect(k: _Sketch, c: RGB) -> None:
    for x, y, far in sorted(_feet(k), key=lambda leg: not leg[2]):
        tone = _contrast(c, 0.75) if far else c
        k.tube([(x, y), (x + 0.07, -0.09), (x + 0.03, 0.0), (x + 0.09, 0.0)], 0.055, 0.045, tone)


@_part("legs", "spider")
def _spider(k: _Sketch, c: RGB) -> None:
    wide = k.a if k.upright else k.a * 0.8
    for side in (-1, 1):
        for i in range(4):
            spread = 0.08 + 0.13 * i
            hip = (k.cx + side * wide * 0.5, k.cy + 0.1 * k.b)
            knee = (
                k.cx + side * (wide * 0.75 + spread + 0.08),
                k.cy - k.b * (0.2 + 0.25 * i) - 0.06,
            )
            foot = (k.cx + side * (wide * 0.85 + spread * 1.75), -0.02 * i)
            w, tone = max(0.06, k.g.leg_width), _contrast(c, 0.8) if i % 2 else c
            k.tube([hip, knee], w, w, tone)
            k.tube([knee, foot], w, w * 0.6, tone)


@_part("legs", "crab")
def _crab_legs(k: _Sketch, c: RGB) -> None:
    for side in (-1, 1):
        for i in range(3):
            x, y = (k.cx + side * k.a * 0.7, k.cy + k.b * 0.35)
            knee = (k.cx + side * (k.a * 0.85 + 0.1 + 0.05 * i), y - 0.02 + 0.04 * (2 - i))
            foot = (k.cx + side * (k.a * 0.72 + 0.1 + 0.11 * i), -0.03 * i)
            k.tube([(x, y), knee, foot], 0.085, 0.04, _contrast(c, 0.78) if i == 1 else c)


@_part("legs", "tentacles")
def _tentacles(k: _Sketch, c: RGB) -> None:
    w = max(0.1, k.g.leg_width)
    wide = max(k.a, 0.22)
    for i in (1, 4, 0, 5, 2, 3):
        u = -1 + 0.4 * i
        hip = (k.cx + u * wide * 0.7, k.bottom - 0.12)
        side = 1 if u > 0 else -1
        far = i in (1, 4)
        foot = (k.cx + u * wide * 1.35 + side * 0.12, -0.03 - (0.05 if far else 0.0))
        k.curve(
            hip, (k.cx + u * wide * 0.8, 0.06), foot, w, w * 0.55, _contrast(c, 0.78) if far else c
        )
        k.curve(
            foot,
            (foot[0] + side * 0.13, foot[1]),
            (foot[0] + side * 0.11, foot[1] - 0.13),
            w * 0.55,
            w * 0.3,
            _contrast(c, 0.78) if far else c,
        )


@_part("legs", "strings")
def _strings(k: _Sketch, c: RGB) -> None:
    wide, drop = max(k.a, 0.2), -k.bottom
    for i in range(6):
        x = k.cx + (-0.75 + 0.3 * i) * wide
        swing = 0.05 if i % 2 else -0.05
        y0 = k.bottom - 0.08
        path = [
            (x + swing * math.sin(j * 1.25), y0 + (drop + 0.08) * j / 7 * (1.0 if i % 2 else 0.86))
            for j in range(8)
        ]
        k.tube(path, 0.075, 0.03, c if i % 2 else _contrast(c, 0.84))


@_part("legs", "frog")
def _frog_legs(k: _Sketch, c: RGB) -> None:
    dark = _contrast(c, 0.82)
    sides = (-1, 1) if k.upright else (-1,)
    for side in sides:
        x = k.cx + side * (k.a * 0.82)
        k.oval(x, -0.17, 0.2, 0.16, dark, angle=-0.5 * side)
        k.oval(x + side * 0.1, -0.03, 0.17, 0.045, c)
    for x in (k.cx - k.a * 0.3, k.cx + k.a * 0.36) if k.upright else (k.cx + k.a * 0.6,):
        k.tube([(x, k.cy + k.b * 0.3), (x, -0.03)], 0.11, 0.09, dark)
        k.oval(x + 0.02, -0.025, 0.1, 0.04, c)


@_part("legs", "hop")
def _hop(k: _Sketch, c: RGB) -> None:
    dark = _contrast(c, 0.84)
    x = k.cx - (0.15 if k.upright else 0.6) * k.a
    y = min(-0.12, k.cy + k.b * 0.62)
    w = max(0.1, k.g.leg_width)
    if not k.upright:
        k.tube([k.at(0.6, 0.2), (k.at(0.6, 0.2)[0], -0.03)], w * 0.8, w * 0.7, c)
    k.tube(
        [(x + 0.08, y * 0.5), (x + 0.02, -0.04), (x + 0.36, -0.04)], 0.09, 0.09, _contrast(c, 0.7)
    )
    k.oval(x, y, w * 1.35, max(0.12, -y * 0.8), dark, angle=0.3)
    k.tube([(x - 0.05, -0.045), (x + 0.28, -0.045)], 0.09, 0.09, c)


def _rump(k: _Sketch) -> tuple[float, float, float]:
    """Root of the tail and the unit of its length."""
    x, y = k.at(0.55, -0.8) if k.upright else k.at(-0.92, -0.15)
    return x, y, 0.4 * k.g.tail_size * k.rng.uniform(0.94, 1.06)


@_part("tail", "curl")
def _curl(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    n = max(n, 0.36)
    path = [
        (
            x - n * 0.12 - n * 0.24 + n * 0.24 * math.cos(i * 0.95),
            y - n * 0.1 - n * 0.25 * math.sin(i * 0.95),
        )
        for i in range(7)
    ]
    k.tube([(x + 0.04, y), *path], 0.075, 0.05, c)


@_part("tail", "tuft")
def _tuft(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    tone = _lerp(k.coat, c, 0.25)
    k.curve(
        (x + 0.03, y), (x - n * 0.5, y - n * 0.1), (x - n * 0.4, y + n * 0.6), 0.06, 0.045, tone
    )
    k.oval(x - n * 0.4, y + n * 0.68, 0.07, 0.11, c)


@_part("tail", "hair")
def _hair_tail(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    k.poly([(x + 0.08, y - 0.05), (x - n * 0.35, y - n * 0.05),
        (x - n * 0.6, y + n * 0.5), (x - n * 0.55, y + n * 1.05),
        (x - n * 0.3, y + n * 0.75), (x - n * 0.2, y + n * 0.35), (x + 0.05, y + 0.1)],
        c)  # fmt: skip


@_part("tail", "whip")
def _whip(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    k.curve((x + 0.04, y), (x - n * 0.7, y + n * 0.5), (x - n * 0.9, y - n * 0.35), 0.07, 0.03, c)


@_part("tail", "up", "ringed")
def _up(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    p0, p1, p2 = (x + 0.05, y + 0.02), (x - n * 0.75, y + n * 0.1), (x - n * 0.45, y - n * 0.95)
    k.curve(p0, p1, p2, 0.11, 0.085, c)
    if k.g.tail[0] == "ringed":
        for t in (0.35, 0.62, 0.88):
            q0, q1, q2 = (1 - t) ** 2, 2 * t * (1 - t), t * t
            k.dot(
                q0 * p0[0] + q1 * p1[0] + q2 * p2[0],
                q0 * p0[1] + q1 * p1[1] + q2 * p2[1],
                0.058,
                INK,
            )


@_part("tail", "coil")
def _coil(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    k.curve(
        (x + 0.05, y), (x - n * 1.1, y + n * 0.2), (x - n * 0.75, y - n * 0.75), 0.085, 0.075, c
    )
    path = [
        (
            x - n * 0.52 + n * 0.24 * math.cos(math.pi + i * 0.8),
            y - n * 0.8 + n * 0.24 * math.sin(math.pi + i * 0.8),
        )
        for i in range(6)
    ]
    k.tube(path, 0.075, 0.06, c)


@_part("tail", "bushy")
def _bushy(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    n = max(n, 0.36)
    k.curve((x + 0.06, y), (x - n * 0.3, y + n * 0.25), (x - n * 0.65, y - n * 0.15),
        0.13, 0.27, c, cap=False)  # fmt: skip
    k.oval(x - n * 0.72, y - n * 0.3, 0.14, 0.22, c, angle=-0.5)
    k.poly(
        [
            (x - n * 0.62 - 0.13, y - n * 0.42),
            (x - n * 0.62 + 0.08, y - n * 0.62),
            (x - n * 1.1, y - n * 1.05),
        ],
        WHITE,
    )


@_part("tail", "plumed")
def _plumed(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    n = max(n, 0.42)
    k.curve(
        (x + 0.08, y + 0.08),
        (x - n * 1.15, y + n * 0.3),
        (x - n * 0.62, y - n * 1.0),
        0.16,
        0.32,
        c,
    )
    k.curve(
        (x - n * 0.62, y - n * 0.95),
        (x - n * 0.6, y - n * 1.45),
        (x - n * 0.15, y - n * 1.25),
        0.32,
        0.17,
        c,
    )
    k.curve(
        (x - n * 0.4, y + n * 0.02),
        (x - n * 0.75, y - n * 0.2),
        (x - n * 0.58, y - n * 1.0),
        0.05,
        0.12,
        _lerp(c, WHITE, 0.3),
    )


@_part("tail", "cotton")
def _cotton(k: _Sketch, c: RGB) -> None:
    x, y, _n = _rump(k)
    k.dot(x - 0.04, y, 0.12 * max(0.75, k.g.tail_size), c)


@_part("tail", "nub")
def _nub(k: _Sketch, c: RGB) -> None:
    x, y, _n = _rump(k)
    k.poly([(x + 0.08, y - 0.02), (x - 0.16, y + 0.1), (x + 0.08, y + 0.14)], c)


@_part("tail", "sting")
def _sting(k: _Sketch, c: RGB) -> None:
    x, y, _n = _rump(k)
    k.poly([(x + 0.06, y - 0.05), (x - 0.16, y + 0.05), (x + 0.06, y + 0.12)], c)


@_part("tail", "feather")
def _feather_tail(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    k.poly([(x + 0.14, y - 0.08), (x - n * 0.75, y - n * 0.5),
        (x - n * 0.6, y - n * 0.05), (x + 0.12, y + 0.16)], c)  # fmt: skip


@_part("tail", "plume")
def _plume(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    for i, angle in enumerate((-1.15, -1.6, -2.05, -2.5)):
        k.leaf(x + 0.14, y + 0.08, n * 1.35, 0.19, angle - 0.45, _shade(c, 1 - 0.06 * (i % 2)))


@_part("tail", "macaw")
def _macaw_tail(k: _Sketch, c: RGB) -> None:
    x, y = k.at(0.8, -0.3) if k.upright else k.at(-0.9, 0.0)
    n = 0.5 * k.g.tail_size
    k.leaf(x + 0.05, y - 0.06, n * 1.1, 0.17, 2.45, c)
    k.leaf(x + 0.05, y - 0.03, n * 0.9, 0.13, 2.15, (222, 48, 52))


@_part("tail", "fan")
def _fan(k: _Sketch, c: RGB) -> None:
    n = 0.72 * k.g.tail_size
    x, y = k.cx - 0.02, min(-0.12, k.cy + k.b * 0.4)
    for i in range(11):
        angle = -math.pi / 2 + (i - 5) * 0.29
        k.leaf(x, y, n * 1.06, 0.3, angle, c if i % 2 else _shade(c, 0.82))
    for i in range(11):
        angle = -math.pi / 2 + (i - 5) * 0.29
        px, py = x + math.cos(angle) * n * 0.78, y + math.sin(angle) * n * 0.78
        k.dot(px, py, 0.075, (250, 206, 76))
        k.dot(px, py, 0.045, (34, 70, 180))


@_part("tail", "fin", "shark", "fluke")
def _fin_tail(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    if k.g.tail[0] == "fin":
        k.poly([(x + 0.12, y), (x - n * 0.7, y - n * 0.8), (x - n * 0.48, y),
            (x - n * 0.7, y + n * 0.8)], c)  # fmt: skip
    elif k.g.tail[0] == "shark":
        k.poly([(x + 0.18, y), (x - n * 0.65, y - n * 1.0), (x - n * 0.22, y),
            (x - n * 0.5, y + n * 0.55), (x + 0.15, y + 0.1)], c)  # fmt: skip
    else:
        k.tube([(x + 0.12, y), (x - n * 0.3, y - n * 0.25)], 0.2, 0.1, c)
        q = (x - n * 0.3, y - n * 0.2)
        k.poly([q, (q[0] - n * 0.75, q[1] - n * 0.15),
            (q[0] - n * 0.55, q[1] - n * 0.62), (q[0] - n * 0.1, q[1] - n * 0.32),
            (q[0] + n * 0.35, q[1] - n * 0.78), (q[0] + n * 0.4, q[1] - n * 0.2)], c)  # fmt: skip


@_part("tail", "lizard")
def _lizard(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    w = max(0.16, min(0.3, 1.1 * k.thick))
    k.curve(
        (x + 0.16, y + 0.04),
        (x - n * 0.6, min(-0.06, y + n * 0.5)),
        (x - n * 1.15, min(-0.04, y + n * 0.25)),
        w,
        0.03,
        c,
    )


@_part("tail", "spade")
def _spade(k: _Sketch, c: RGB) -> None:
    x, y, n = _rump(k)
    k.curve(
        (x + 0.14, y + 0.05), (x - n * 0.9, y + n * 0.5), (x - n * 0.8, y - n * 0.5), 0.2, 0.06, c
    )
    k.poly([(x - n * 0.8, y - n * 1.0), (x - n * 1.12, y - n * 0.48),
        (x - n * 0.8, y - n * 0.58), (x - n * 0.48, y - n * 0.48)], (226, 84, 60))  # fmt: skip


def _shoulders(k: _Sketch) -> list[tuple[float, float, int]]:
    """Left and right places where arms and wings begin, with the side's sign."""
    if k.upright:
        (lx, y), (rx, _) = k.at(-0.35, -0.8), k.at(-0.35, 0.8)
        return [(lx, y, -1), (rx, y, 1)]
    return [(k.at(-0.3, 0)[0], k.at(-0.3, -0.6)[1], -1), (k.at(0.25, 0)[0], k.at(0.25, -0.6)[1], 1)]


@_part("wings", "bat")
def _bat_wings(k: _Sketch, c: RGB) -> None:
    n = k.g.wing_size * k.rng.uniform(0.93, 1.05)
    for x, y, side in _shoulders(k):
        unit = ((0, -0.05), (0.2, -0.36), (0.42, -0.44), (0.66, -0.3), (0.74, 0.14),
            (0.58, 0.02), (0.46, 0.2), (0.32, 0.06), (0.2, 0.26), (0, 0.2))  # fmt: skip
        k.poly([(x + side * u * n, y + v * n) for u, v in unit], c)
        for u, v in ((0.58, 0.02), (0.32, 0.06)):
            k.tube(
                [(x + side * 0.42 * n, y - 0.42 * n), (x + side * u * n, y + v * n)],
                0.025,
                0.02,
                _contrast(c, 0.75),
                cap=False,
            )


@_part("wings", "dragon")
def _dragon_wings(k: _Sketch, c: RGB) -> None:
    n = k.g.wing_size * k.rng.uniform(0.95, 1.05)
    unit = ((0, 0.05), (-0.12, -0.38), (-0.36, -0.66), (-0.86, -0.5), (-0.66, -0.36),
        (-0.68, -0.16), (-0.46, -0.2), (-0.4, 0.02), (-0.2, -0.04))  # fmt: skip
    if k.upright:
        for x, y, side in _shoulders(k):
            k.poly([(x - side * u * n * 0.85, y + v * n * 0.85) for u, v in unit], c)
        return
    x, y = k.at(0.15, -0.75)
    k.poly([(x + 0.14 + u * n * 0.8, y - 0.02 + v * n * 1.12) for u, v in unit], _shade(c, 0.72))
    k.poly([(x + u * n, y + v * n) for u, v in unit], c)
    for u, v in ((-0.66, -0.36), (-0.46, -0.2)):
        k.tube(
            [(x - 0.3 * n, y - 0.6 * n), (x + u * n, y + v * n)],
            0.03,
            0.02,
            _shade(c, 0.75),
            cap=False,
        )


@_part("wings", "clear")
def _clear_wings(k: _Sketch, c: RGB) -> None:
    n = k.g.wing_size * k.rng.uniform(0.95, 1.05)
    x, y = k.at(-0.4, 0) if k.upright else k.at(0.0, -0.7)
    k.oval(x + 0.2 * n, y - 0.3 * n, 0.36 * n, 0.17 * n, _shade(c, 0.88), angle=-1.05)
    k.oval(x - 0.16 * n, y - 0.28 * n, 0.38 * n, 0.2 * n, c, angle=0.95)
    k.oval(x - 0.16 * n, y - 0.3 * n, 0.24 * n, 0.1 * n, _lerp(c, WHITE, 0.5), angle=0.95)


@_part("wings", "butterfly")
def _butterfly_wings(k: _Sketch, c: RGB) -> None:
    n = k.g.wing_size * k.rng.uniform(0.95, 1.05)
    x, y = k.cx, k.at(-0.2, 0)[1] if k.upright else k.at(0, -0.4)[1]
    for side in (-1, 1):
        for u, v, rx, ry, angle in ((0.38, -0.24, 0.4, 0.28, -0.6), (0.32, 0.24, 0.29, 0.24, 0.55)):
            k.oval(x + side * u * n, y + v * n, rx * n, ry * n, INK, angle=side * angle)
            k.oval(
                x + side * u * n * 0.95,
                y + v * n,
                rx * n * 0.8,
                ry * n * 0.78,
                c,
                angle=side * angle,
            )
        k.dot(x + side * 0.5 * n, y - 0.34 * n, 0.085 * n, (255, 232, 150))
        k.dot(x + side * 0.36 * n, y + 0.28 * n, 0.075 * n, (120, 190, 250))


@_part("wings", "feather")
def _feather_wing(k: _Sketch, c: RGB) -> None:
    x, y = k.at(0.0, -0.1) if k.upright else k.at(-0.08, -0.05)
    n = 0.42 * k.g.wing_size
    k.poly([(x + n * 0.75, y - n * 0.3), (x + n * 0.5, y + n * 0.22), (x, y + n * 0.42),
        (x - n * 0.7, y + n * 0.1), (x - n * 1.0, y - n * 0.35),
        (x - n * 0.3, y - n * 0.4)], c)  # fmt: skip
    k.tube(
        [(x + n * 0.2, y + n * 0.1), (x - n * 0.65, y - n * 0.14)], 0.03, 0.02, _contrast(c, 0.86)
    )


@_part("wings", "folded")
def _folded(k: _Sketch, c: RGB) -> None:
    if k.upright:
        for side in (-1, 1):
            x, y = k.at(0.1, 0.92 * side)
            k.oval(x, y, 0.12, k.b * 0.62, c, angle=-0.15 * side)
    else:
        _feather_wing(k, c)


@_part("wings", "macaw")
def _macaw_wing(k: _Sketch, c: RGB) -> None:
    x, y = k.at(-0.05, -0.5) if k.upright else k.at(-0.1, -0.2)
    angle = 1.85 if k.upright else 2.7
    n = k.g.wing_size
    k.leaf(x + 0.05, y - 0.24 * n, 0.72 * n, 0.4 * n, angle, c)
    k.leaf(x + 0.06, y - 0.24 * n, 0.5 * n, 0.36 * n, angle, (250, 200, 50))
    k.leaf(x + 0.07, y - 0.25 * n, 0.32 * n, 0.32 * n, angle, (60, 170, 90))


@_part("wings", "flipper")
def _flipper(k: _Sketch, c: RGB) -> None:
    for x, y, side in _shoulders(k):
        k.oval(x + side * 0.1, y + 0.2, 0.085, 0.27, _contrast(c, 0.86), angle=-0.42 * side)


@_part("wings", "fin")
def _side_fin(k: _Sketch, c: RGB) -> None:
    x, y = k.at(0.1, 0.0) if k.upright else k.at(0.08, 0.42)
    n = 0.3 * k.g.wing_size
    k.poly([(x + n * 0.35, y), (x - n * 0.6, y + n * 0.1), (x - n * 0.75, y + n * 0.85),
        (x - n * 0.05, y + n * 0.6)], c)  # fmt: skip


@_part("wings", "arms", "acorn")
def _arms(k: _Sketch, c: RGB) -> None:
    if k.upright:
        (lx, ly), (rx, ry) = k.at(-0.5, -0.55), k.at(-0.5, 0.6)
    else:
        (lx, ly), (rx, ry) = k.at(0.3, -0.1), k.at(0.7, -0.1)
    tone = _contrast(c, 0.84)
    hand = (rx + 0.12, ry + 0.22)
    k.curve((rx, ry), (rx + 0.14, ry + 0.1), hand, 0.1, 0.09, tone)
    if k.g.wings[0] == "acorn":
        k.oval(hand[0] + 0.04, hand[1] - 0.06, 0.09, 0.11, (186, 122, 60))
        k.oval(hand[0] + 0.04, hand[1] - 0.13, 0.11, 0.055, (112, 74, 46))
    k.curve((lx, ly), (lx - 0.08, ly + 0.2), (lx + 0.1, ly + 0.3), 0.12, 0.1, tone)


@_part("wings", "claws")
def _claws(k: _Sketch, c: RGB) -> None:
    for x, y, side in _shoulders(k):
        px, py = x + side * 0.24, y - 0.3
        k.tube([(x, y), (x + side * 0.24, y - 0.04), (px, py)], 0.1, 0.09, _contrast(c, 0.86))
        k.oval(px + side * 0.02, py - 0.08, 0.17, 0.15, c)
        k.poly(
            [
                (px - side * 0.02, py - 0.06),
                (px - side * 0.09, py - 0.32),
                (px + side * 0.05, py - 0.3),
            ],
            _contrast(c, 0.5),
        )
        k.poly(
            [
                (px + side * 0.04, py - 0.15),
                (px + side * 0.16, py - 0.36),
                (px + side * 0.2, py - 0.1),
            ],
            c,
        )
        k.poly(
            [
                (px - side * 0.06, py - 0.14),
                (px - side * 0.12, py - 0.34),
                (px - side * 0.16, py - 0.08),
            ],
            c,
        )


@_part("wings", "branch_up")
def _branch_up(k: _Sketch, c: RGB) -> None:
    for x, y, side in _shoulders(k):
        drop = 0.14 if side < 0 else 0.02
        out = x + side * 0.26
        k.tube([(x - side * 0.1, y + drop), (out, y + drop)], 0.16, 0.16, c)
        k.tube([(out, y + drop), (out, y + drop - 0.34)], 0.16, 0.15, c)
        for v in (0.08, 0.22):
            k.dot(out, y + drop - v, 0.022, (224, 246, 190))


@_part("wings", "branches")
def _branches(k: _Sketch, c: RGB) -> None:
    for x, y, side in _shoulders(k):
        tip = (x + side * 0.22, y - 0.16)
        k.tube([(x - side * 0.08, y + 0.16), tip], 0.15, 0.13, _shade(c, 0.92))
        for u, v, r in ((-0.09, -0.02, 0.1), (0.09, 0.0, 0.1), (0.0, -0.11, 0.12)):
            k.dot(tip[0] + u, tip[1] + v, r, (58, 140, 62))


@_part("wings", "leaves")
def _leaves(k: _Sketch, c: RGB) -> None:
    y = k.at(0.35, 0)[1] if k.upright else k.cy
    wide = k.a * (0.6 if k.upright else 0.9)
    k.leaf(k.cx - wide, y, 0.46 * k.g.wing_size, 0.24, math.pi + 0.45, c)
    k.leaf(k.cx + wide, y + 0.12, 0.46 * k.g.wing_size, 0.24, -0.45, _shade(c, 0.86))


@_part("wings", "husk")
def _husk(k: _Sketch, c: RGB) -> None:
    x, y = k.cx, k.bottom
    wide = k.a if k.upright else k.a * 0.9
    n = max(0.6, 1.3 * k.b) if k.upright else 0.6
    for side in (-1, 1):
        k.poly([(x, y), (x + side * wide * 0.9, y - 0.06 * n),
            (x + side * (wide + 0.16), y - 0.55 * n), (x + side * (wide + 0.2),
            y - 0.92 * n), (x + side * wide * 0.62, y - 0.55 * n),
            (x + side * wide * 0.1, y - 0.16 * n)], c if side > 0 else _shade(c, 0.84))  # fmt: skip


@_part("wings", "ruffle")
def _ruffle(k: _Sketch, c: RGB) -> None:
    reach = max(k.a, 0.25) if k.upright else k.a
    for side in (-1, 1):
        cx, cy, rx, ry = (
            k.cx + side * reach * 0.72,
            k.cy + 0.1 * k.b,
            max(0.2, reach * 0.62),
            max(0.24, k.b * 0.9),
        )
        points = []
        for i in range(27):
            grow = 1.12 if i % 3 == 0 else 0.97
            angle = i * math.tau / 27
            points.append((cx + math.cos(angle) * rx * grow, cy + math.sin(angle) * ry * grow))
        k.poly(points, c if side > 0 else _shade(c, 0.86))


def _cloud(k: _Sketch, x: float, y: float, rx: float, ry: float, count: int, colour: RGB) -> None:
    bump = 0.26 * min(rx, ry) + 0.02
    k.oval(x, y, rx, ry, colour)
    for i in range(count):
        angle = i * math.tau / count
        k.dot(x + math.cos(angle) * rx, y + math.sin(angle) * ry, bump, colour)


def _mane(k: _Sketch, c: RGB) -> None:
    points = []
    for i in range(30):
        reach = k.r * (1.72 if i % 2 else 1.42)
        angle = i * math.tau / 30
        points.append((k.hx + math.cos(angle) * reach, k.hy + math.sin(angle) * reach))
    k.poly(points, c)
    k.dot(k.hx, k.hy, k.r * 1.3, _shade(c, 1.18))
    if k.g.head[0] == "none":
        k.dot(k.hx, k.hy, k.r * 1.08, k.coat)


@_part("back", "humps")
def _humps(k: _Sketch, c: RGB) -> None:
    for t in (-0.42, 0.16):
        x, y = k.at(t, -0.9)
        if k.upright:
            k.oval(x, y, 0.2, 0.15, c)
        else:
            k.oval(x, y - 0.02, 0.15, 0.24, c)


@_part("back", "quills")
def _quills(k: _Sketch, c: RGB) -> None:
    points = [k.at(-0.6, 0.75)]
    for i in range(17):
        t = -0.98 + i * 0.1
        x, y = k.at(t, -1)
        if i % 2:
            away = math.atan2(y - k.cy - 0.1, x - k.cx)
            x, y = x + math.cos(away) * 0.2, y + math.sin(away) * 0.2
        points.append((x, y))
    points += [
        k.at(0.5, -0.3),
        k.at(0.36, 0.15),
        k.at(0.2, 0.0),
        k.at(0.08, 0.4),
        k.at(-0.1, 0.2),
        k.at(-0.25, 0.6),
        k.at(-0.4, 0.35),
    ]
    k.poly(points, c)
    for t, s in ((-0.6, -0.5), (-0.3, -0.75), (-0.4, 0.0), (-0.05, -0.4), (0.2, -0.7),
        (-0.75, 0.0), (0.05, 0.0), (-0.15, -0.85)):  # fmt: skip
        x, y = k.at(t, s)
        k.poly(
            [(x - 0.1, y - 0.07), (x + 0.04, y - 0.02), (x + 0.03, y + 0.05)],
            _lerp(c, (250, 226, 190), 0.55),
        )


@_part("back", "shell")
def _shell(k: _Sketch, c: RGB) -> None:
    if k.upright:
        x, y, rx, ry, angle = (
            *k.at(0.1, -0.55),
            max(k.b * 0.85, 0.22),
            max(0.2, k.a * 0.8),
            -math.pi / 2,
        )
    else:
        x, y = k.at(-0.06, -0.1)
        rx, ry, angle = max(0.25, k.a * 0.86), max(0.3, k.thick * 1.75), 0.0
    co, si = math.cos(angle), math.sin(angle)

    def place(u: float, v: float) -> Point:
        return (x + u * rx * co - v * ry * si, y + u * rx * si + v * ry * co)

    dome = [place(math.cos(i * math.pi / 14), -math.sin(i * math.pi / 14)) for i in range(15)]
    k.poly([*dome, place(-0.9, 0.14), place(0.9, 0.14)], c)
    light = _lerp(c, (236, 206, 120), 0.42)
    k.poly(
        [place(*p) for p in ((-0.2, -0.88), (0.2, -0.88), (0.32, -0.5), (0, -0.3), (-0.32, -0.5))],
        light,
    )
    k.poly([place(*p) for p in ((0.36, -0.8), (0.78, -0.42), (0.5, -0.2), (0.42, -0.48))], light)
    k.poly(
        [place(*p) for p in ((-0.36, -0.8), (-0.78, -0.42), (-0.5, -0.2), (-0.42, -0.48))], light
    )
    k.poly(
        [
            place(*p)
            for p in ((-0.36, -0.22), (0.0, -0.16), (0.36, -0.22), (0.3, 0.02), (-0.3, 0.02))
        ],
        light,
    )
    k.poly(
        [place(*p) for p in ((-0.96, 0.02), (0.96, 0.02), (0.88, 0.16), (-0.88, 0.16))],
        _shade(c, 0.75),
    )


@_part("back", "spiral")
def _spiral(k: _Sketch, c: RGB) -> None:
    r = (
        max(0.24, min(0.46, 0.26 + 0.5 * k.thick))
        if not k.upright
        else max(0.2, min(0.36, k.b * 0.6))
    )
    x, y = k.at(-0.2, -0.9) if not k.upright else k.at(0.1, -0.9)
    y = y - r * 0.55 if not k.upright else y
    k.dot(x, y, r, c)
    k.oval(x + r * 0.2, y + r * 0.92, r * 0.9, r * 0.16, _shade(c, 0.75))
    path = []
    for i in range(22):
        angle = i * 0.62
        reach = r * (0.86 - 0.86 * i / 22)
        path.append((x + math.cos(angle) * reach, y + math.sin(angle) * reach))
    k.tube(path, r * 0.2, r * 0.14, _lerp(c, (255, 232, 190), 0.55))


@_part("back", "fleece")
def _fleece(k: _Sketch, c: RGB) -> None:
    bump = max(0.1, 0.36 * k.thick)
    tone = _shade(c, 0.93)
    for t in (-0.95, -0.65, -0.3, 0.05, 0.4, 0.72, 0.97):
        for s in (-0.9, 0.85):
            x, y = k.at(t, s)
            k.dot(x, y, bump * (1.1 if s < 0 else 0.95), c if s < 0 else tone)


def _curls(k: _Sketch, c: RGB) -> None:
    for t, s in ((-0.6, -0.2), (-0.2, -0.55), (0.2, -0.15), (-0.2, 0.25), (-0.7, 0.4), (0.3, 0.45)):
        x, y = k.at(t, s)
        k.dot(x, y, 0.075, _shade(c, 0.9))
        k.dot(x + 0.012, y - 0.025, 0.066, c)


@_part("back", "ridge")
def _ridge(k: _Sketch, c: RGB) -> None:
    for i in range(7):
        t = -0.9 + i * 0.25
        (x0, y0), (x1, y1) = k.at(t - 0.12, -0.85), k.at(t + 0.12, -0.85)
        dx, dy = x1 - x0, y1 - y0
        norm = math.hypot(dx, dy) or 1.0
        k.poly(
            [
                (x0, y0),
                ((x0 + x1) / 2 + dy / norm * 0.17, (y0 + y1) / 2 - dx / norm * 0.17),
                (x1, y1),
            ],
            c,
        )
    if k.g.neck > 0.15 and not k.upright and k.g.head[0] != "none":
        for w in (0.25, 0.6, 0.95):
            x, y = k.base[0] * (1 - w) + k.hx * w - 0.16, k.base[1] * (1 - w) + k.hy * w - 0.04
            k.poly([(x + 0.1, y - 0.1), (x - 0.1, y - 0.03), (x + 0.1, y + 0.1)], c)


@_part("back", "sharkfin", "dorsal")
def _dorsal(k: _Sketch, c: RGB) -> None:
    (x0, y0), (x1, y1) = k.at(-0.3, -0.8), k.at(0.28, -0.8)
    if k.upright:
        k.poly([(x0, y0), (x0 - 0.32, (y0 + y1) / 2 + 0.1), (x1, y1)], c)
    elif k.g.back[0] == "sharkfin":
        k.poly([(x0, y0 + 0.05), (x0 + 0.02, min(y0, y1) - 0.34), (x1, y1 + 0.05)], c)
    else:
        k.poly([(x0 - 0.12, y0 + 0.05), (x0 - 0.02, y0 - 0.2), (x1 - 0.1, y1 - 0.22),
            (x1 + 0.14, y1 + 0.05)], c)  # fmt: skip


@_part("back", "spout")
def _spout(k: _Sketch, c: RGB) -> None:
    x, y = k.at(-0.9, 0) if k.upright else k.at(0.36, -0.92)
    if k.g.head[0] != "none" and k.upright:
        x, y = k.at(-0.5, -0.6)
    k.tube([(x, y + 0.05), (x, y - 0.22)], 0.07, 0.07, c)
    k.curve((x, y - 0.2), (x - 0.02, y - 0.4), (x - 0.2, y - 0.26), 0.07, 0.09, c)
    k.curve((x, y - 0.2), (x + 0.02, y - 0.4), (x + 0.2, y - 0.26), 0.07, 0.09, c)


@_part("back", "udder")
def _udder(k: _Sketch, c: RGB) -> None:
    x, y = k.at(0.9, 0) if k.upright else k.at(-0.25, 0.92)
    k.oval(x, y + 0.02, 0.13, 0.09, c)
    for d in (-0.05, 0.05):
        k.tube([(x + d, y + 0.06), (x + d, y + 0.13)], 0.045, 0.04, _shade(c, 0.9))


@_part("back", "pouch")
def _pouch(k: _Sketch, c: RGB) -> None:
    x, y = k.at(0.3, 0.35) if k.upright else k.at(0.15, 0.4)
    tone = _lerp(c, WHITE, 0.12)
    for d in (-0.06, 0.06):
        k.oval(x + d, y - 0.25, 0.034, 0.085, tone)
    k.dot(x, y - 0.13, 0.105, tone)
    k.dot(x + 0.045, y - 0.145, 0.024, INK)
    k.dot(x - 0.035, y - 0.145, 0.024, INK)
    k.poly([(x - 0.17, y - 0.08), (x + 0.17, y - 0.08), (x + 0.15, y + 0.1),
        (x, y + 0.17), (x - 0.15, y + 0.1)], c)  # fmt: skip


def _neck_mane(k: _Sketch, c: RGB) -> None:
    """Hair from the top of the head down the back of the neck: flowing for a horse, upright for a
    zebra.
    """
    flowing = k.g.back[0] == "horsemane"
    top = k.face(0.05, -1.0)
    low = k.at(-0.5, -0.7) if k.upright else k.at(0.5, -0.95)
    if k.g.head[0] == "none":
        low = (k.hx - 0.9 * k.r, k.hy + 0.9 * k.r)
    dx, dy = low[0] - top[0], low[1] - top[1]
    norm = math.hypot(dx, dy) or 1.0
    nx, ny = dy / norm, -dx / norm
    if nx > 0:
        nx, ny = -nx, -ny
    out = 0.18 if flowing else 0.11
    points = [(top[0] + 0.1, top[1] + 0.02)]
    for i in range(9):
        w = i / 8
        reach = out * (1.0 if i % 2 == 0 else 0.62) + (0.12 * w if flowing else 0.02)
        points.append((top[0] + dx * w + nx * reach, top[1] + dy * w + ny * reach))
    inner = 0.12 if flowing else 0.06
    points += [
        (low[0] - nx * inner, low[1] - ny * inner),
        (top[0] - nx * inner, top[1] - ny * inner + 0.06),
    ]
    k.poly(points, c)
    if flowing:
        k.facepoly(c, (-0.5, -0.95), (0.3, -1.1), (0.62, -0.45), (0.2, -0.5), (-0.3, -0.2))


def _neck(k: _Sketch, c: RGB) -> None:
    if k.g.neck <= 0.02 and k.kind not in ("snake", "slug"):
        return
    width = min(1.25 * k.r, 0.12 + 0.35 * k.r + 0.15 * k.thick)
    if k.kind == "snake":
        k.tube([k.at(0.9, 0), (k.hx, k.hy)], 2 * k.tube_r, 1.5 * k.tube_r, k.coat)
        return
    x, y = k.at(-0.7, 0.05) if k.upright else k.at(0.68, -0.05)
    k.tube(
        [(x, y), (x + (k.hx - x) * 0.35, y + (k.hy - y) * 0.5), (k.hx - 0.1 * k.r, k.hy)],
        width * 1.3,
        width * 0.85,
        c,
        cap=False,
    )
    k.dot(x, y, width * 0.62, c)
    kind, tone = k.g.pattern
    if (
        k.g.neck > 0.15
        and kind in ("stripes", "tiger", "tiles", "patches", "dots", "diamonds", "bands")
        and tone
    ):
        dx, dy = k.hx - x, k.hy - y
        norm = math.hypot(dx, dy) or 1.0
        ux, uy, h = dx / norm, dy / norm, width * 0.44
        count = 5 if k.g.neck > 0.4 else 3
        for i in range(count):
            w = 0.3 + 0.55 * i / count
            px, py = x + dx * w, y + dy * w
            if kind in ("tiles", "patches", "dots"):
                d = (-1 if i % 2 else 1) * h * 0.4
                k.oval(px - uy * d, py + ux * d, h * 0.5, h * 0.62, tone)
            else:
                k.tube(
                    [(px - uy * h, py + ux * h), (px + uy * h, py - ux * h)],
                    0.06,
                    0.06,
                    tone,
                    cap=False,
                )


def _head(k: _Sketch, c: RGB) -> None:
    kind = k.g.head[0]
    if kind == "round":
        k.faceoval(0, 0, 1, 0.96, c)
    elif kind == "wide":
        k.faceoval(0, 0, 1.18, 0.84, c)
    elif kind == "oval":
        k.faceoval(0.1, 0.05, 0.9, 1.05, c, angle=-0.35)
    elif kind == "long":
        k.faceoval(-0.1, -0.12, 0.92, 0.86, c)
        k.facepoly(
            c, (-0.25, -0.92), (0.75, -0.5), (1.62, 0.28), (1.5, 0.86), (1.0, 0.98), (-0.1, 0.72)
        )
    elif kind == "point":
        k.faceoval(-0.08, 0, 0.98, 0.92, c)
        k.facepoly(
            c, (0.1, -0.86), (0.85, -0.2), (1.62, 0.32), (1.55, 0.5), (0.7, 0.78), (-0.1, 0.9)
        )
    elif kind == "flat":
        k.faceoval(0.2, 0, 1.3, 0.84, c)
    pattern, tone = k.g.pattern
    if kind != "none" and tone and pattern in ("stripes", "tiger", "tabby"):
        for x in (-0.42, 0.0, 0.38):
            k.facepoly(
                tone,
                (x - 0.12, -0.96 + 0.35 * abs(x)),
                (x + 0.12, -0.96 + 0.35 * abs(x)),
                (x + 0.03, -0.48),
            )
        if pattern != "tabby":
            k.facepoly(tone, (-0.98, 0.0), (-0.94, 0.26), (-0.5, 0.16))
            k.facepoly(tone, (-0.9, 0.4), (-0.78, 0.58), (-0.4, 0.42))
    if kind != "none" and tone and pattern == "patches":
        k.faceoval(-0.55, -0.35, 0.36, 0.5, tone)


def _side_view(k: _Sketch) -> bool:
    return k.g.head[0] in ("long", "flat")


def _ear_pair(k: _Sketch, draw: Callable[[float, RGB], None], c: RGB) -> None:
    """Far ear first and darker; `draw` receives the side (+1 far, on the right; -1 near)."""
    draw(1.0, _contrast(c, 0.78))
    draw(-1.0, c)


@_part("ears", "pointy")
def _ears_pointy(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size

    def one(side: float, tone: RGB) -> None:
        x = 0.55 * side
        k.toppoly(tone, (x - 0.42, -0.5), (x + 0.14 * side, -0.72 - 0.78 * n), (x + 0.42, -0.5))
        k.toppoly(
            _lerp(tone, (250, 190, 190), 0.6),
            (x - 0.2, -0.62),
            (x + 0.12 * side, -0.66 - 0.52 * n),
            (x + 0.22, -0.62),
        )

    _ear_pair(k, one, c)


@_part("ears", "round")
def _ears_round(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size

    def one(side: float, tone: RGB) -> None:
        k.topoval(0.68 * side, -0.78, 0.42 * n, 0.42 * n, tone)
        k.topoval(0.68 * side, -0.75, 0.23 * n, 0.23 * n, _lerp(tone, (250, 190, 180), 0.35))

    _ear_pair(k, one, c)


@_part("ears", "disc")
def _ears_disc(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size
    for side, f in ((1.0, 0.85), (-1.0, 1.0)):
        rim = _shade(k.g.head[1] or k.coat, f)
        k.topoval(0.72 * side - 0.1, -0.9, 0.6 * n, 0.62 * n, rim)
        k.topoval(0.72 * side - 0.1, -0.87, 0.42 * n, 0.44 * n, _shade(c, f))


@_part("ears", "side")
def _ears_side(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size
    rim = k.g.head[1] or k.coat
    for side in (1.0, -1.0):
        k.faceoval(1.0 * side, -0.05, 0.36 * n, 0.42 * n, rim)
        k.faceoval(1.0 * side, -0.05, 0.22 * n, 0.27 * n, c)


@_part("ears", "leaf")
def _ears_leaf(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size
    side_view = _side_view(k) or k.g.head[0] == "point"
    spots = (
        ((0.12, -0.5, -1.25), (-0.42, -0.55, -1.85))
        if side_view
        else ((0.72, -0.5, -0.35), (-0.72, -0.5, -2.8))
    )
    for i, (x, y, angle) in enumerate(spots):
        px, py = k.top(x, y)
        tone = _contrast(c, 0.78) if i == 0 and side_view else c
        k.leaf(px, py, k.r * 1.05 * n, k.r * 0.56, angle, tone)
        k.leaf(
            px + math.cos(angle) * k.r * 0.2,
            py + math.sin(angle) * k.r * 0.2,
            k.r * 0.68 * n,
            k.r * 0.28,
            angle,
            _lerp(tone, (250, 180, 180), 0.5),
        )


@_part("ears", "long")
def _ears_long(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size
    tilt = k.rng.uniform(-0.1, 0.1)

    def one(side: float, tone: RGB) -> None:
        k.topoval(0.42 * side, -0.75 - 0.72 * n, 0.27, 0.92 * n, tone, angle=0.16 * side + tilt)
        k.topoval(
            0.42 * side,
            -0.72 - 0.72 * n,
            0.13,
            0.7 * n,
            _lerp(tone, (250, 150, 170), 0.7),
            angle=0.16 * side + tilt,
        )

    _ear_pair(k, one, c)


@_part("ears", "tuft")
def _ears_tuft(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size
    k.toppoly(_contrast(c, 0.78), (0.25, -0.7), (1.05, -0.68 - 0.75 * n), (0.98, -0.3))
    k.toppoly(c, (-0.25, -0.7), (-1.05, -0.68 - 0.75 * n), (-0.98, -0.3))


@_part("ears", "fold")
def _ears_fold(k: _Sketch, c: RGB) -> None:
    n = k.g.ear_size
    k.toppoly(
        _contrast(c, 0.85), (0.28, -0.85), (0.82, -0.8 - 0.55 * n), (1.0, -0.42), (0.72, -0.4)
    )
    k.toppoly(c, (-0.2, -0.9), (-0.72, -0.85 - 0.6 * n), (-1.02, -0.35), (-0.62, -0.38))


def _near_ears(k: _Sketch, kind: str, c: RGB) -> None:
    """Ears that hang over the head, drawn after it."""
    n = k.g.ear_size
    if kind == "floppy":
        k.topoval(0.86, 0.02, 0.24, 0.52 * n, _contrast(c, 0.85), angle=-0.25)
        k.topoval(-0.82, 0.05, 0.32, 0.68 * n, c, angle=0.28)
    elif kind == "flap":
        k.topoval(-0.8, 0.1, 0.72 * n, 0.88 * n, c, angle=0.2)
        k.topoval(-0.76, 0.14, 0.5 * n, 0.64 * n, _lerp(c, (250, 190, 200), 0.32), angle=0.2)


@_part("horns", "cow")
def _horns_cow(k: _Sketch, c: RGB) -> None:
    for side in (1, -1):
        k.curve(
            k.top(0.45 * side, -0.72),
            k.top(1.0 * side, -0.85),
            k.top(0.92 * side, -1.4),
            0.34 * k.r,
            0.1 * k.r,
            c,
        )


@_part("horns", "antlers")
def _antlers(k: _Sketch, c: RGB) -> None:
    w = max(0.055, 0.2 * k.r)
    for side in (1, -1):
        tone = c if side < 0 else _shade(c, 0.82)
        tip = k.top(1.15 * side, -2.6)
        k.curve(k.top(0.3 * side - 0.1, -0.75), k.top(1.3 * side, -1.4), tip, w, w * 0.7, tone)
        k.tube([k.top(0.78 * side - 0.05, -1.4), k.top(0.3 * side, -2.25)], w * 0.8, w * 0.6, tone)
        k.tube([k.top(1.08 * side, -1.85), k.top(1.75 * side, -2.2)], w * 0.8, w * 0.6, tone)


@_part("horns", "knobs")
def _knobs(k: _Sketch, c: RGB) -> None:
    for x in (0.22, -0.28):
        k.tube(
            [k.top(x, -0.7), k.top(x - 0.08, -1.42)],
            0.055,
            0.05,
            _lerp(k.g.head[1] or k.coat, c, 0.3),
        )
        k.dot(*k.top(x - 0.08, -1.5), 0.055, c)


@_part("horns", "dragon")
def _dragon_horns(k: _Sketch, c: RGB) -> None:
    for x, f in ((0.1, 0.82), (-0.35, 1.0)):
        k.curve(
            k.top(x, -0.6),
            k.top(x - 0.2, -1.35),
            k.top(x - 0.95, -1.6),
            0.36 * k.r,
            0.06 * k.r,
            _shade(c, f),
        )


@_part("horns", "antennae")
def _antennae(k: _Sketch, c: RGB) -> None:
    for side in (1, -1):
        tip = k.top(0.95 * side + 0.15, -1.9)
        k.curve(k.top(0.3 * side, -0.75), k.top(0.3 * side, -1.6), tip, 0.045, 0.035, c)
        k.dot(*tip, 0.05, c)


@_part("horns", "comb")
def _comb(k: _Sketch, c: RGB) -> None:
    for x, y, r in ((-0.45, -0.98, 0.34), (0.0, -1.15, 0.38), (0.45, -0.98, 0.34)):
        k.topoval(x, y, r, r, c)


@_part("horns", "crest")
def _crest(k: _Sketch, c: RGB) -> None:
    for i, angle in enumerate((-1.5, -1.9, -2.3)):
        k.leaf(*k.top(-0.1 - 0.15 * i, -0.75), k.r * 1.1, k.r * 0.42, angle, _shade(c, 1 - 0.1 * i))


@_part("horns", "coronet")
def _coronet(k: _Sketch, c: RGB) -> None:
    for x in (-0.7, 0.0, 0.7):
        tip = k.top(x, -2.1 + 0.25 * abs(x))
        k.tube([k.top(0, -0.8), tip], 0.03, 0.03, c)
        k.dot(*tip, 0.048, c)


def _front_horns(k: _Sketch, kind: str, c: RGB) -> None:
    """Horns on the face, drawn after the nose."""
    long = 0.3 if _side_view(k) else 0.0
    if kind == "nosehorn":
        k.facepoly(c, (0.62 + long, -0.12), (1.0 + 2 * long, -1.35), (1.1 + 1.6 * long, 0.25))
        k.facepoly(c, (0.22 + long, -0.5), (0.44 + long, -1.05), (0.66 + long, -0.2))
    elif kind == "tusk":
        k.curve(k.face(0.42, 0.5), k.face(0.62, 1.25), k.face(1.35, 1.05), 0.24 * k.r, 0.1 * k.r, c)


def _mouth(k: _Sketch, x: float, y: float, w: float, colour: RGB = INK) -> None:
    k.curve(k.face(x - w, y), k.face(x, y + w * 0.9), k.face(x + w, y), 0.11 * k.r,
        0.11 * k.r, colour, cap=False)  # fmt: skip


@_part("nose", "smile", "smile_big", "lips", "grin")
def _smile(k: _Sketch, c: RGB) -> None:
    kind = k.g.nose[0]
    tone = _contrast(k.g.head[1] or k.coat, 0.5)
    if kind == "lips":
        k.faceoval(1.08, 0.32, 0.22, 0.15, _shade(c, 0.8))
        k.faceoval(1.05, 0.52, 0.2, 0.13, _shade(c, 0.8))
    elif kind == "smile_big":
        k.curve(
            k.face(1.3, 0.55), k.face(0.5, 1.15), k.face(-0.35, 0.45), 0.08, 0.05, tone, cap=False
        )
    elif kind == "grin":
        k.curve(k.face(-0.85, 0.15), k.face(0.1, 0.85), k.face(1.05, 0.1), 0.16 * k.r,
            0.16 * k.r, tone, cap=False)  # fmt: skip
        k.faceoval(-0.72, 0.42, 0.15, 0.1, _lerp(c, (250, 130, 120), 0.6))
        k.faceoval(0.9, 0.38, 0.15, 0.1, _lerp(c, (250, 130, 120), 0.6))
    else:
        _mouth(k, 0.35, 0.42, 0.3, tone)


@_part("nose", "dot")
def _nose_dot(k: _Sketch, c: RGB) -> None:
    if k.g.head[0] == "point":
        k.faceoval(1.55, 0.38, 0.22, 0.19, c)
        k.curve(k.face(1.3, 0.6), k.face(1.05, 0.75), k.face(0.8, 0.58), 0.09 * k.r,
            0.07 * k.r, _contrast(k.coat, 0.55), cap=False)  # fmt: skip
    else:
        k.faceoval(0.36, 0.28, 0.24, 0.17, c)
        _mouth(k, 0.36, 0.52, 0.24)


@_part("nose", "pig")
def _nose_pig(k: _Sketch, c: RGB) -> None:
    x = 1.0 if _side_view(k) else 0.48
    k.faceoval(x, 0.3, 0.52, 0.4, c)
    for d in (-0.18, 0.2):
        k.faceoval(x + d, 0.28, 0.11, 0.16, _shade(c, 0.55))


@_part("nose", "muzzle")
def _muzzle(k: _Sketch, c: RGB) -> None:
    if _side_view(k):
        k.facepoly(c, (1.1, -0.12), (1.62, 0.24), (1.62, 0.86), (1.1, 1.04), (0.85, 0.62))
        k.faceoval(1.32, 0.44, 0.44, 0.46, c)
        k.faceoval(1.48, 0.26, 0.1, 0.13, _contrast(c, 0.5))
        k.curve(k.face(1.62, 0.66), k.face(1.3, 0.86), k.face(1.0, 0.7), 0.08 * k.r,
            0.06 * k.r, _contrast(c, 0.55), cap=False)  # fmt: skip
        return
    k.faceoval(0.4, 0.42, 0.62, 0.44, c)
    if _luma(c) > 195:
        k.facepoly(INK, (0.16, 0.12), (0.68, 0.12), (0.42, 0.42))
        _mouth(k, 0.42, 0.55, 0.22)
    else:
        for d in (-0.22, 0.24):
            k.faceoval(0.4 + d, 0.36, 0.1, 0.13, _shade(c, 0.55))
        k.tube([k.face(0.15, 0.66), k.face(0.7, 0.66)], 0.08 * k.r, 0.08 * k.r, _shade(c, 0.55))


@_part("nose", "tongue_out")
def _tongue_out(k: _Sketch, c: RGB) -> None:
    x = 1.05 if _side_view(k) else 0.45
    k.faceoval(x, 0.4, 0.56, 0.42, c)
    k.faceoval(x + 0.08, 0.88, 0.2, 0.34, (240, 96, 118))
    k.faceoval(x + 0.05, 0.62, 0.4, 0.14, c)
    k.faceoval(x + 0.1, 0.14, 0.28, 0.2, INK)


@_part("nose", "whiskers")
def _whiskers(k: _Sketch, c: RGB) -> None:
    x = 1.15 if _side_view(k) or k.g.head[0] == "point" else 0.36
    k.faceoval(x, 0.42, 0.46, 0.3, WHITE)
    k.facepoly(c, (x - 0.19, 0.16), (x + 0.19, 0.16), (x, 0.4))
    _mouth(k, x, 0.48, 0.18)
    for side, reach in ((1, 0.95), (-1, 1.35)):
        for y, dy in ((0.38, -0.14), (0.52, 0.12)):
            k.tube(
                [k.face(x + 0.32 * side, y), k.face(x + reach * side, y + dy)],
                0.025,
                0.018,
                _contrast(k.coat, 0.45),
                cap=False,
            )


@_part("nose", "foxface")
def _foxface(k: _Sketch, c: RGB) -> None:
    if k.g.head[0] == "point":
        k.facepoly(c, (1.55, 0.36), (0.75, 0.2), (0.1, 0.18), (-0.5, 0.34),
            (-0.75, 0.6), (-0.1, 0.92), (0.7, 0.78))  # fmt: skip
        k.faceoval(1.56, 0.37, 0.2, 0.17, INK)
    else:
        k.facepoly(c, (-0.85, 0.3), (0.0, 0.15), (0.4, 0.35), (0.95, 0.2), (0.7, 0.7),
            (0.2, 0.95), (-0.45, 0.82))  # fmt: skip
        k.faceoval(0.42, 0.42, 0.2, 0.16, INK)


@_part("nose", "buck")
def _buck(k: _Sketch, c: RGB) -> None:
    x = 1.25 if _side_view(k) or k.g.head[0] == "point" else 0.4
    k.faceoval(x, 0.36, 0.42, 0.28, _lerp(k.g.head[1] or k.coat, WHITE, 0.6))
    k.faceoval(x, 0.2, 0.18, 0.13, c)
    k.facepoly(WHITE, (x - 0.17, 0.46), (x + 0.17, 0.46), (x + 0.15, 0.84), (x - 0.15, 0.84))
    k.tube([k.face(x, 0.46), k.face(x, 0.84)], 0.016, 0.016, (170, 160, 160), cap=False)


@_part("nose", "apeface")
def _apeface(k: _Sketch, c: RGB) -> None:
    k.faceoval(-0.1, -0.12, 0.44, 0.48, c)
    k.faceoval(0.5, -0.12, 0.44, 0.48, c)
    k.faceoval(0.22, 0.4, 0.68, 0.46, c)
    for d in (-0.1, 0.1):
        k.faceoval(0.24 + d, 0.22, 0.06, 0.06, _shade(c, 0.5))
    k.curve(k.face(-0.1, 0.5), k.face(0.24, 0.8), k.face(0.58, 0.5), 0.1 * k.r,
        0.1 * k.r, _shade(c, 0.5), cap=False)  # fmt: skip


@_part("nose", "trunk")
def _trunk(k: _Sketch, c: RGB) -> None:
    x = 0.85 if k.g.head[0] in ("round", "wide", "none", "oval") else 1.3
    p0, p1 = k.face(x - 0.25, 0.05), k.face(x + 0.75, 0.5)
    bend = k.rng.uniform(-0.15, 0.15)
    p2 = k.face(x + 0.35, 1.9 + bend)
    k.curve(p0, p1, p2, 0.66 * k.r, 0.36 * k.r, c)
    k.curve(
        p2, k.face(x + 0.35, 2.2 + bend), k.face(x + 0.85, 2.1 + bend), 0.36 * k.r, 0.28 * k.r, c
    )
    for t in (0.35, 0.6):
        q0, q1, q2 = (1 - t) ** 2, 2 * t * (1 - t), t * t
        qx, qy = q0 * p0[0] + q1 * p1[0] + q2 * p2[0], q0 * p0[1] + q1 * p1[1] + q2 * p2[1]
        k.tube(
            [(qx - 0.2 * k.r, qy), (qx + 0.2 * k.r, qy)], 0.02, 0.02, _contrast(c, 0.78), cap=False
        )


@_part("nose", "beak", "beak_small", "penguin")
def _beak(k: _Sketch, c: RGB) -> None:
    kind = k.g.nose[0]
    if kind == "beak_small":
        k.facepoly(c, (-0.06, -0.02), (0.4, -0.02), (0.17, 0.5))
        return
    if kind == "penguin":
        tone = _lerp(k.coat, WHITE, 0.92)
        k.faceoval(-0.02, 0.02, 0.46, 0.58, tone)
        k.faceoval(0.5, 0.02, 0.4, 0.56, tone)
        k.faceoval(0.25, 0.36, 0.56, 0.46, tone)
        k.facepoly(c, (0.05, 0.14), (0.55, 0.08), (0.98, 0.34), (0.5, 0.48), (0.08, 0.44))
        return
    k.facepoly(c, (0.72, -0.22), (1.65, 0.14), (0.72, 0.42))
    k.facepoly(_shade(c, 0.78), (0.72, 0.16), (1.55, 0.15), (0.72, 0.44))
    if k.g.horns[0] == "comb":
        k.faceoval(0.82, 0.72, 0.2, 0.32, k.g.horns[1] or c)


@_part("nose", "bill")
def _bill(k: _Sketch, c: RGB) -> None:
    k.facepoly(c, (0.68, -0.2), (1.05, -0.04), (1.75, 0.02), (1.9, 0.2), (1.7, 0.3), (0.72, 0.32))
    k.facepoly(_shade(c, 0.78), (0.7, 0.26), (1.66, 0.28), (1.5, 0.46), (0.75, 0.46))


@_part("nose", "hook")
def _hook(k: _Sketch, c: RGB) -> None:
    k.facepoly((255, 226, 206), (0.6, -0.42), (1.5, -0.2), (1.8, 0.3), (1.2, 0.35), (0.6, 0.42))
    k.facepoly(c, (1.4, -0.22), (1.85, 0.15), (1.75, 1.05), (1.4, 0.55), (1.25, 0.3))


@_part("nose", "parrot")
def _parrot_beak(k: _Sketch, c: RGB) -> None:
    k.facepoly(c, (0.55, -0.38), (1.1, -0.3), (1.42, 0.15), (1.28, 0.72), (1.05, 0.3), (0.6, 0.26))
    k.facepoly(_lerp(c, WHITE, 0.25), (0.6, 0.22), (1.02, 0.28), (0.95, 0.55), (0.62, 0.48))


@_part("nose", "jaws")
def _jaws(k: _Sketch, c: RGB) -> None:
    light = _lerp(c, (240, 240, 180), 0.35)
    k.facepoly(_shade(c, 0.86), (0.1, 0.3), (2.35, 0.42), (2.3, 0.72), (0.2, 0.92))
    k.facepoly((236, 120, 120), (0.4, 0.2), (2.3, 0.22), (2.32, 0.46), (0.4, 0.5))
    for i in range(5):
        x = 0.8 + i * 0.34
        k.facepoly(WHITE, (x, 0.14), (x + 0.28, 0.14), (x + 0.14, 0.42))
    k.facepoly(c, (0.1, -0.7), (0.9, -0.42), (2.05, -0.3), (2.42, -0.22), (2.42, 0.16), (0.1, 0.28))
    k.faceoval(2.26, -0.3, 0.2, 0.16, light)


@_part("nose", "teeth")
def _teeth(k: _Sketch, c: RGB) -> None:
    x0, x1, y = (0.0, 1.1, 0.62)
    k.facepoly(
        (120, 40, 60),
        (x0 - 0.1, y - 0.12),
        (x1 + 0.1, y - 0.2),
        (x1 - 0.2, y + 0.32),
        (x0 + 0.25, y + 0.34),
    )
    for i in range(4):
        x = x0 + 0.02 + i * 0.27
        k.facepoly(c, (x, y - 0.13), (x + 0.24, y - 0.16), (x + 0.12, y + 0.16))


@_part("nose", "fangs")
def _fangs(k: _Sketch, c: RGB) -> None:
    x, y = (1.0, 0.5) if _side_view(k) or k.g.head[0] == "point" else (0.3, 0.42)
    k.tube(
        [k.face(x - 0.38, y), k.face(x + 0.38, y)],
        0.1 * k.r,
        0.1 * k.r,
        _contrast(k.g.head[1] or k.coat, 0.55),
    )
    for d in (-0.2, 0.2):
        k.facepoly(WHITE, (x + d - 0.12, y), (x + d + 0.12, y), (x + d, y + 0.4))


@_part("nose", "fire")
def _fire(k: _Sketch, c: RGB) -> None:
    x, y = (1.6, 0.7) if _side_view(k) or k.g.head[0] == "point" else (0.85, 0.45)
    k.facepoly((232, 74, 40), (x - 0.1, y - 0.15), (x + 0.7, y - 0.45),
        (x + 0.62, y - 0.1), (x + 1.15, y + 0.15), (x + 0.75, y + 0.3),
        (x + 0.85, y + 0.65), (x - 0.1, y + 0.2))  # fmt: skip
    k.facepoly(
        (255, 214, 70),
        (x - 0.05, y - 0.08),
        (x + 0.6, y - 0.12),
        (x + 0.8, y + 0.12),
        (x + 0.5, y + 0.3),
        (x - 0.05, y + 0.14),
    )
    k.faceoval(x - 0.22, y - 0.48, 0.1, 0.12, _contrast(k.g.head[1] or k.coat, 0.5))


@_part("nose", "forked")
def _forked(k: _Sketch, c: RGB) -> None:
    x = {"flat": 1.42, "long": 1.5, "point": 1.5}.get(k.g.head[0], 0.85)
    w = max(0.035, 0.16 * k.r)
    mid = k.face(x + 0.55, 0.32)
    k.tube([k.face(x - 0.1, 0.25), mid], w, w, c, cap=False)
    k.tube([mid, k.face(x + 0.95, 0.1)], w, w * 0.6, c, cap=False)
    k.tube([mid, k.face(x + 0.95, 0.6)], w, w * 0.6, c, cap=False)


def _eye(k: _Sketch, x: float, y: float, size: float, iris: RGB | None = None) -> None:
    """A white round with a dark pupil that looks ahead, at face coordinates."""
    size *= max(1.0, 0.055 / max(0.02, k.r * 0.27))
    k.faceoval(x, y, 0.27 * size, 0.3 * size, WHITE)
    if iris:
        k.faceoval(x + 0.04 * size, y, 0.21 * size, 0.23 * size, iris)
    k.faceoval(x + 0.07 * size, y + 0.02 * size, 0.15 * size, 0.18 * size, INK)
    k.faceoval(x + 0.02 * size, y - 0.07 * size, 0.055 * size, 0.06 * size, WHITE)


def _eyes(k: _Sketch) -> None:
    kind, n = k.g.eyes, k.g.eye_size
    if kind == "none":
        return
    side = _side_view(k) or (k.g.head[0] == "none" and not k.upright)
    near, far, y = (-0.08, 0.56, -0.2)
    if k.g.head[0] == "point":
        near, far, y = (0.08, 0.7, -0.14)
    if kind == "owl":
        for x in (-0.34, 0.62):
            k.faceoval(x, -0.14, 0.56, 0.56, (246, 222, 184))
            k.faceoval(x, -0.14, 0.42, 0.42, (255, 200, 50))
            k.faceoval(x + 0.04, -0.14, 0.25, 0.26, INK)
            k.faceoval(x - 0.05, -0.24, 0.09, 0.09, WHITE)
    elif kind == "top":
        for x, f in ((0.62, 0.85), (-0.42, 1.0)) if not side else ((0.42, 0.8), (-0.12, 1.0)):
            k.topoval(x, -0.78, 0.34 * n, 0.36 * n, _shade(k.g.head[1] or k.coat, f))
            dx, dy = (k.ex - k.hx) / k.r, (k.ey - k.hy) / k.r
            _eye(k, x + 0.05 + dx, -0.82 + dy, 0.85 * n)
    elif kind == "stalk":
        for x, f in ((0.55, 0.85), (-0.3, 1.0)):
            tip = k.top(x * 1.25, -1.75)
            k.tube([k.top(x * 0.8, -0.5), tip], 0.07, 0.06, _shade(k.g.head[1] or k.coat, f))
            dx, dy = (k.ex - k.hx) / k.r, (k.ey - k.hy) / k.r
            _eye(k, x * 1.25 + dx, -1.85 + dy, 1.15 * n)
    elif kind == "many":
        for x, y, s in (
            (-0.52, -0.5, 0.66),
            (1.0, -0.5, 0.6),
            (-0.16, -0.1, 1.35),
            (0.62, -0.1, 1.2),
        ):
            _eye(k, x, y, s)
    elif kind == "patch":
        for x, angle in ((-0.18, 0.5), (0.6, -0.5)):
            k.faceoval(x, -0.08, 0.32, 0.4, INK, angle=angle)
        _eye(k, -0.14, -0.14, 0.74 * n)
        _eye(k, 0.6, -0.14, 0.68 * n)
    elif kind == "mask":
        k.faceoval(0.28, -0.1, 0.5, 0.46, (250, 240, 228))
        _eye(k, 0.26, -0.16, 0.95 * n)
    elif kind == "slit":
        for x in (near - 0.06, far + 0.04):
            k.faceoval(x, y, 0.28 * n, 0.3 * n, (190, 226, 70))
            k.faceoval(x + 0.05, y, 0.1 * n, 0.25 * n, INK)
            k.faceoval(x - 0.07, y - 0.1, 0.06, 0.06, WHITE)
    elif kind == "bead":
        for x in (near, far):
            size = 0.2 * n * max(1.0, 0.04 / max(0.02, k.r * 0.2))
            k.faceoval(x, y, size, size * 1.15, INK)
            k.faceoval(x - 0.06, y - 0.08, size * 0.36, size * 0.36, WHITE)
    elif kind in ("side", "angry"):
        x = 0.3 if k.g.head[0] in ("long", "flat", "none", "point") else 0.36
        _eye(k, x, -0.22, 1.2 * n)
        if kind == "angry":
            k.facepoly(
                _contrast(k.coat, 0.7),
                (x - 0.42, -0.72),
                (x + 0.5, -0.34),
                (x + 0.44, -0.2),
                (x - 0.42, -0.5),
            )
    elif side:
        _eye(k, 0.3, -0.22, 1.2 * n)
    else:
        _eye(k, far, y, 0.95 * n)
        _eye(k, near, y, 1.1 * n)


def _crown_place(k: _Sketch) -> tuple[float, float, float]:
    """Foot of the crown and its unit: on the head where there is one, else on the top of the
    torso.
    """
    n = k.g.crown_size
    if k.g.head[0] != "none":
        return k.hx, k.hy - 0.78 * k.r, n * max(0.2, k.r) * 1.05
    if k.upright:
        x, y = k.at(-0.96, 0)
        wide = {"stem": 0.32, "trunk": 0.33, "stalk": 0.32}.get(k.kind, min(max(k.a, 0.24), 0.42))
        return x, y, n * wide
    if k.kind == "crescent":
        x, y = k.at(-0.97, 0)
        return x, y, n * 0.3
    x, y = k.at(0.1, -0.92)
    return x, y, n * min(0.34, max(0.22, k.b))


@_part("crown", "cap")
def _cap(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    rx, ry = n * 1.72, n * 1.45
    k.oval(x, y + 0.02, rx * 0.96, n * 0.3, _lerp(c, (250, 234, 214), 0.8))
    k.poly(
        [
            (x + math.cos(i * math.pi / 16) * rx, y + 0.04 - math.sin(i * math.pi / 16) * ry)
            for i in range(17)
        ],
        c,
    )
    for u, v, r in (
        (-0.5, -0.42, 0.2),
        (0.08, -0.66, 0.24),
        (0.58, -0.34, 0.18),
        (-0.08, -0.18, 0.13),
        (-0.8, -0.1, 0.1),
    ):
        k.oval(x + u * rx, y + v * ry, r * n, r * n * 0.85, (255, 250, 240))


@_part("crown", "fronds")
def _fronds(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    for i, d in enumerate((-0.85, 0.85, -0.42, 0.42, 0.0)):
        angle = -math.pi / 2 + d
        length = n * (2.0 - 0.45 * abs(d))
        k.leaf(x, y + 0.05, length, n * 0.62, angle, _shade(c, (0.8, 0.8, 0.92, 0.92, 1.06)[i]))


@_part("crown", "spiky")
def _spiky(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    for i, d in enumerate((-1.15, 1.15, -0.75, 0.75, -0.35, 0.35, 0.0)):
        angle = -math.pi / 2 + d
        k.leaf(x, y + 0.06, n * (1.75 - 0.5 * abs(d)), n * 0.42, angle, _shade(c, 0.8 + 0.06 * i))


@_part("crown", "stem")
def _stem(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    k.curve((x, y + 0.06), (x, y - n * 0.4), (x + n * 0.3, y - n * 0.7), n * 0.42, n * 0.34, c)
    k.poly([(x - n * 0.55, y + 0.05), (x - n * 0.2, y - n * 0.25),
        (x + n * 0.2, y - n * 0.25), (x + n * 0.55, y + 0.05)], c)  # fmt: skip
    k.leaf(x - n * 0.1, y - n * 0.1, n * 0.9, n * 0.5, math.pi + 0.3, _shade(c, 1.2))


@_part("crown", "calyx", "star")
def _calyx(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    star = k.g.crown[0] == "star"
    if not star:
        k.curve(
            (x, y),
            (x, y - n * 0.5),
            (x + n * 0.25, y - n * 0.85),
            n * 0.34,
            n * 0.3,
            _shade(c, 0.85),
        )
        k.poly([(x + u * n, y + v * n) for u, v in ((-1.0, 0.75), (-0.72, 0.3),
            (-0.35, 0.62), (0, 0.25), (0.35, 0.66), (0.72, 0.3), (1.0, 0.75),
            (0.8, -0.05), (0, -0.3), (-0.8, -0.05))], c)  # fmt: skip
        return
    k.tube([(x, y), (x, y - n * 0.55)], n * 0.16, n * 0.16, _shade(c, 0.8))
    for i, angle in enumerate((0.25, math.pi - 0.25, 0.85, math.pi - 0.85, math.pi / 2)):
        k.leaf(
            x,
            y - 0.01,
            n * (1.15 if i < 2 else 0.8),
            n * 0.48,
            angle,
            _shade(c, 0.84 if i < 2 else 1.0),
        )


@_part("crown", "nib")
def _nib(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    k.tube([(x, y + 0.04), (x - 0.01, y - n * 0.45)], n * 0.4, n * 0.3, c, cap=False)
    if k.kind == "crescent":
        px, py = k.at(0.98, 0)
        k.dot(px, py - 0.03, n * 0.14, c)


@_part("crown", "flower")
def _flower(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    for i in range(5):
        angle = -math.pi / 2 + (i - 2) * 0.62
        k.leaf(x, y + 0.02, n * 1.0, n * 0.55, angle, _shade(c, 1.0 if i % 2 == 0 else 0.86))
    k.dot(x, y - n * 0.16, n * 0.24, (255, 220, 80))


@_part("crown", "silk")
def _silk(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    for d in (-0.7, -0.35, 0.0, 0.35, 0.7):
        k.curve(
            (x, y + 0.05),
            (x + d * n * 0.4, y - n * 0.7),
            (x + d * n * 1.3, y - n * (0.9 - 0.4 * abs(d))),
            n * 0.2,
            0.03,
            c,
        )


@_part("crown", "vine")
def _vine(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    k.tube([(x, y + 0.05), (x + n * 0.05, y - n * 0.7)], n * 0.2, n * 0.2, (128, 92, 58))
    px, py = x + n * 0.42, y - n * 0.32
    k.poly([(px + u * n, py + v * n) for u, v in ((-0.45, 0.15), (-0.3, -0.32),
        (0.05, -0.22), (0.25, -0.55), (0.5, -0.2), (0.85, -0.22), (0.7, 0.12),
        (0.8, 0.42), (0.35, 0.32), (0.1, 0.52), (-0.05, 0.25))], c)  # fmt: skip


@_part("crown", "florets")
def _florets(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    for u, v, r, f in (
        (-0.95, -0.2, 0.6, 0.84),
        (0.95, -0.2, 0.6, 0.84),
        (-0.5, -0.75, 0.66, 0.94),
        (0.52, -0.75, 0.66, 0.94),
        (0.0, -1.0, 0.62, 1.02),
        (0.0, -0.3, 0.74, 1.0),
    ):
        k.dot(x + u * n, y + v * n, r * n, _shade(c, f))
    for u, v in ((-0.55, -0.9), (0.1, -1.15), (0.6, -0.7), (-0.15, -0.5), (-0.95, -0.3),
        (0.3, -0.25), (0.95, -0.2)):  # fmt: skip
        k.dot(x + u * n, y + v * n, 0.13 * n, _shade(c, 1.28))


@_part("crown", "tiers")
def _tiers(k: _Sketch, c: RGB) -> None:
    x, y, n = _crown_place(k)
    for i, (half, low, high) in enumerate(
        ((1.5, 0.12, -1.25), (1.2, -0.72, -2.0), (0.85, -1.5, -2.75))
    ):
        points = [(x - half * n, y + low * n)]
        for j in range(1, 6):
            u = -half + 2 * half * j / 6
            points.append((x + u * n, y + (low + (0.16 if j % 2 else 0.0)) * n))
        points += [(x + half * n, y + low * n), (x, y + high * n)]
        k.poly(points, _shade(c, 0.86 + 0.14 * i))


def _petals(k: _Sketch, c: RGB) -> None:
    """A flower head; behind the face where there is one."""
    if k.g.head[0] != "none":
        x, y, inner, outer = k.hx, k.hy, k.r * 0.6, k.r * 1.85
    else:
        x, y, n = _crown_place(k)
        inner, outer = n * 0.5, n * 1.3
    for ring, f in ((0.0, 0.86), (0.5, 1.0)):
        for i in range(12):
            angle = (i + ring) * math.tau / 12
            k.leaf(
                x + math.cos(angle) * inner * 0.6,
                y + math.sin(angle) * inner * 0.6,
                outer - inner * 0.6,
                outer * 0.42,
                angle,
                _shade(c, f),
            )
    if k.g.head[0] == "none":
        k.dot(x, y, outer * 0.52, (112, 66, 36))
        for u, v in (
            (-0.2, -0.2),
            (0.2, -0.2),
            (0.0, 0.05),
            (-0.22, 0.22),
            (0.22, 0.22),
            (0.0, -0.36),
        ):
            k.dot(x + u * outer, y + v * outer, outer * 0.06, (170, 110, 56))


def _torso(k: _Sketch) -> None:
    if k.kind == "snake":
        upper, lower = k.edge(-1, -1, 1, 22), k.edge(1, 1, -1, 22)
        k.poly(upper + lower, k.coat)
    elif k.kind == "bunch":
        r = 0.24
        for row, (v, count) in enumerate(
            ((-0.78, 4), (-0.42, 4), (-0.05, 3), (0.32, 2), (0.72, 1))
        ):
            for i in range(count):
                u = (i - (count - 1) / 2) * (0.44 if row else 0.4)
                tone = _shade(k.coat, 0.88 if (i + row) % 2 else 1.0)
                k.oval(k.cx + u * k.a, k.cy + v * k.b, r * k.a * 1.15, r * k.b * 1.05, tone)
    else:
        k.poly([(k.cx + u * k.a, k.cy + v * k.b) for u, v in _OUTLINES[k.kind]], k.coat)


def _belly(k: _Sketch) -> None:
    c = k.g.belly
    if c is None:
        return
    if k.upright:
        x, y = k.at(0.22, 0.06)
        k.oval(x, y, k.a * 0.66, k.b * 0.68, c)
    elif k.kind == "snake":
        k.poly([*k.edge(0.4, -0.8, 0.95, 14), *k.edge(1, 0.95, -0.8, 14)], c)
    else:
        k.poly([*k.edge(1, -0.82, 0.86, 10), k.at(0.7, 0.5), k.at(0.2, 0.42), k.at(-0.3, 0.5)], c)


_OVER = frozenset(("quills", "shell", "spiral", "pouch"))
_OVER_WINGS = frozenset(("feather", "folded", "macaw", "fin", "arms", "acorn", "husk"))


def _build(genes: Genes, rng: random.Random) -> list[Shape]:
    """Polygons of a creature in body units, painter's order."""
    return _sketch(genes, rng).shapes


def _sketch(genes: Genes, rng: random.Random) -> _Sketch:
    """The polygons, with the places at which parts attach."""
    kind, tone = genes.pattern
    if tone and sum(abs(a - b) for a, b in zip(tone, genes.coat, strict=True)) < 75:
        genes = replace(genes, pattern=(kind, _contrast(genes.coat, 0.66)))
    k = _Sketch(genes, rng)
    back, wings, crown = genes.back, genes.wings, genes.crown
    _draw(k, "tail", genes.tail)
    if wings[0] not in _OVER_WINGS:
        _draw(k, "wings", wings)
    if not k.upright or genes.legs[0] != "web":
        _draw(k, "legs", genes.legs)
    if back[0] not in _OVER:
        _draw(k, "back", back)
    _torso(k)
    _belly(k)
    _draw(k, "pattern", genes.pattern)
    if k.upright and genes.legs[0] == "web":
        _draw(k, "legs", genes.legs)
    if back[0] in _OVER:
        _draw(k, "back", back)
    elif back[0] == "fleece":
        _curls(k, back[1] or k.coat)
    has_head = genes.head[0] != "none"
    head_colour = genes.head[1] or genes.coat
    if wings[0] in _OVER_WINGS:
        _draw(k, "wings", wings)
    if has_head:
        _neck(k, head_colour)
    if back[0] == "mane":
        _mane(k, back[1] or k.coat)
    if crown[0] == "petals":
        _petals(k, crown[1] or k.coat)
    if back[0] in ("horsemane", "brush"):
        _neck_mane(k, back[1] or k.coat)
    _draw(k, "ears", genes.ears)
    _draw(k, "horns", genes.horns)
    _head(k, head_colour)
    if back[0] == "horsemane" and has_head:
        k.facepoly(
            back[1] or k.coat, (-0.6, -0.9), (0.1, -1.12), (0.5, -0.5), (0.05, -0.62), (-0.35, -0.3)
        )
    if back[0] == "fleece" and has_head:
        _cloud(k, k.hx - 0.05 * k.r, k.hy - 0.82 * k.r, 0.5 * k.r, 0.24 * k.r, 7, back[1] or k.coat)
    _draw(k, "crown", crown)
    _near_ears(k, genes.ears[0], genes.ears[1] or k.coat)
    _draw(k, "nose", genes.nose)
    _front_horns(k, genes.horns[0], genes.horns[1] or k.coat)
    _eyes(k)
    return k


def _place(
    shapes: list[Shape],
    rng: random.Random,
    box: tuple[float, float, float, float],
    mirror: bool,
    rise_share: float = 0.3,
) -> tuple[list[tuple[list[float], RGB]], tuple[float, float, float]]:
    """Tilt, mirror, scale and shift shapes into a box (x0, y0, x1, y1) in pixels, standing on its
    lower edge.

    Also returns the shadow's (x, y, half width) in pixels.
    """
    tilt = rng.uniform(-0.07, 0.07)
    co, si = math.cos(tilt), math.sin(tilt)
    flip = -1.0 if mirror else 1.0
    turned = [
        ([(flip * (x * co - y * si), x * si + y * co) for x, y in points], colour)
        for points, colour in shapes
    ]
    xs = [x for points, _ in turned for x, _ in points]
    ys = [y for points, _ in turned for _, y in points]
    left, right, high, low = min(xs), max(xs), min(ys), max(ys)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(width / (right - left), height / (low - high)) * rng.uniform(0.9, 1.0)
    slack = (width - scale * (right - left)) / 2
    shift = rng.uniform(-0.75, 0.75) * min(slack, 0.07 * width) + (box[0] + box[2]) / 2
    dx = shift - scale * (left + right) / 2
    rise = rise_share * (height - scale * (low - high)) * rng.uniform(0.6, 1.0)
    dy = box[3] - rise - scale * low
    placed = [
        ([v for x, y in points for v in (x * scale + dx, y * scale + dy)], colour)
        for points, colour in turned
    ]
    return placed, (shift, scale * low + dy, scale * (right - left) / 2)


def _fill(draw: ImageDraw.ImageDraw, placed: Sequence[tuple[list[float], RGB]]) -> None:
    polygon = draw.polygon
    for points, colour in placed:
        polygon(points, fill=colour)


def _jitter(genes: Genes, rng: random.Random) -> Genes:
    """A small individual difference of size and shade between creatures of one kind."""
    light = rng.uniform(0.94, 1.05)
    return replace(
        genes,
        coat=_shade(genes.coat, light),
        head=(genes.head[0], _shade(genes.head[1], light) if genes.head[1] else None),
        leg_len=genes.leg_len * rng.uniform(0.93, 1.07),
        head_size=genes.head_size * rng.uniform(0.95, 1.06),
        neck=genes.neck * rng.uniform(0.92, 1.08),
    )


_SHADOWS: dict[str, RGB] = {
    "meadow": (84, 146, 66),
    "desert": (206, 160, 98),
    "night": (22, 30, 56),
    "snow": (190, 204, 226),
    "sea": (150, 156, 128),
    "plain": (220, 220, 224),
}


def _meadow(d: ImageDraw.ImageDraw, n: int, rng: random.Random) -> None:
    h = int(n * rng.uniform(0.56, 0.66))
    d.rectangle((0, 0, n, h), fill=_shade((150, 212, 246), rng.uniform(0.97, 1.03)))
    x, y = rng.uniform(0.1, 0.8) * n, rng.uniform(0.07, 0.2) * n
    for u, v, r in ((0, 0, 0.06), (0.07, -0.025, 0.075), (0.15, 0, 0.06)):
        d.ellipse(
            (x + (u - r) * n, y + (v - r * 0.7) * n, x + (u + r) * n, y + (v + r * 0.7) * n),
            fill=(240, 250, 255),
        )
    x = rng.uniform(-0.1, 0.7) * n
    d.ellipse((x - 0.5 * n, h - 0.14 * n, x + 0.5 * n, h + 0.3 * n), fill=(146, 206, 110))
    d.rectangle((0, h, n, n), fill=_shade((118, 192, 86), rng.uniform(0.96, 1.04)))
    for _ in range(9):
        x, y = rng.random() * n, rng.uniform(h + 0.05 * n, n)
        s = 0.026 * n
        d.polygon(
            (x - s, y, x - s * 0.5, y - 2 * s, x, y - s * 0.5, x + s * 0.6, y - 2 * s, x + s, y),
            fill=(88, 162, 66),
        )
    for i in range(5):
        x, y, s = rng.random() * n, rng.uniform(h + 0.08 * n, n), 0.017 * n
        d.ellipse(
            (x - s, y - s, x + s, y + s),
            fill=((255, 240, 140), (255, 255, 255), (252, 180, 210))[i % 3],
        )


def _desert(d: ImageDraw.ImageDraw, n: int, rng: random.Random) -> None:
    h = int(n * rng.uniform(0.54, 0.64))
    d.rectangle((0, 0, n, h), fill=_shade((255, 226, 172), rng.uniform(0.97, 1.0)))
    x, y, s = rng.uniform(0.12, 0.88) * n, rng.uniform(0.1, 0.2) * n, 0.09 * n
    d.ellipse((x - s, y - s, x + s, y + s), fill=(255, 250, 214))
    x = rng.uniform(0.0, 1.0) * n
    d.polygon((x - 0.62 * n, h, x - 0.05 * n, h - 0.17 * n, x + 0.6 * n, h), fill=(226, 170, 108))
    d.polygon((x - 0.05 * n, h - 0.17 * n, x + 0.6 * n, h, x + 0.05 * n, h), fill=(206, 146, 88))
    d.rectangle((0, h, n, n), fill=_shade((238, 196, 128), rng.uniform(0.97, 1.03)))
    for _ in range(4):
        x, y = rng.uniform(-0.2, 0.9) * n, rng.uniform(h + 0.06 * n, n)
        d.arc(
            (x, y, x + 0.4 * n, y + 0.1 * n), 190, 350, fill=(214, 166, 100), width=max(1, n // 64)
        )


def _night(d: ImageDraw.ImageDraw, n: int, rng: random.Random) -> None:
    h = int(n * rng.uniform(0.6, 0.68))
    d.rectangle((0, 0, n, h), fill=_shade((36, 44, 100), rng.uniform(0.92, 1.08)))
    for _ in range(16):
        x, y, s = rng.random() * n, rng.random() * h * 0.95, rng.uniform(0.006, 0.013) * n
        d.ellipse((x - s, y - s, x + s, y + s), fill=(250, 246, 214))
    x, y, s = (
        rng.choice((rng.uniform(0.1, 0.25), rng.uniform(0.75, 0.9))) * n,
        rng.uniform(0.1, 0.18) * n,
        0.085 * n,
    )
    d.ellipse((x - s, y - s, x + s, y + s), fill=(255, 246, 204))
    d.ellipse((x - s * 0.35, y - s * 1.15, x + s * 1.45, y + s * 0.75), fill=(36, 44, 100))
    d.rectangle((0, h, n, n), fill=_shade((42, 62, 86), rng.uniform(0.94, 1.06)))
    x = rng.uniform(0, 1) * n
    d.ellipse((x - 0.45 * n, h - 0.07 * n, x + 0.45 * n, h + 0.2 * n), fill=(42, 62, 86))


def _snow(d: ImageDraw.ImageDraw, n: int, rng: random.Random) -> None:
    h = int(n * rng.uniform(0.54, 0.64))
    d.rectangle((0, 0, n, h), fill=_shade((164, 190, 222), rng.uniform(0.97, 1.04)))
    x = rng.uniform(0.0, 1.0) * n
    d.polygon((x - 0.5 * n, h, x - 0.08 * n, h - 0.3 * n, x + 0.18 * n, h - 0.1 * n,
        x + 0.3 * n, h - 0.18 * n, x + 0.6 * n, h), fill=(132, 158, 196))  # fmt: skip
    d.polygon((x - 0.22 * n, h - 0.2 * n, x - 0.08 * n, h - 0.3 * n, x + 0.04 * n,
        h - 0.2 * n, x - 0.04 * n, h - 0.17 * n, x - 0.1 * n, h - 0.21 * n),
        fill=(240, 246, 252))  # fmt: skip
    d.rectangle((0, h, n, n), fill=_shade((226, 234, 246), rng.uniform(0.97, 1.02)))
    x = rng.uniform(0.0, 1.0) * n
    d.ellipse((x - 0.5 * n, h - 0.06 * n, x + 0.5 * n, h + 0.3 * n), fill=(232, 239, 249))
    for _ in range(18):
        x, y, s = rng.random() * n, rng.random() * n * 0.95, rng.uniform(0.009, 0.017) * n
        d.ellipse((x - s, y - s, x + s, y + s), fill=(255, 255, 255))


def _sea(d: ImageDraw.ImageDraw, n: int, rng: random.Random) -> None:
    tones = ((132, 218, 228), (98, 200, 220), (70, 180, 210), (56, 164, 200))
    for i, tone in enumerate(tones):
        d.rectangle((0, n * i * 0.22, n, n), fill=tone)
    for _ in range(2):
        x = rng.uniform(0, 0.9) * n
        d.polygon(
            (x, 0, x + 0.1 * n, 0, x - 0.05 * n, 0.62 * n, x - 0.2 * n, 0.62 * n),
            fill=(150, 226, 234),
        )
    h = n * rng.uniform(0.84, 0.89)
    x = rng.uniform(0.2, 0.8) * n
    d.ellipse((x - 0.6 * n, h - 0.05 * n, x + 0.6 * n, n * 1.2), fill=(228, 210, 158))
    d.rectangle((0, h + 0.03 * n, n, n), fill=(228, 210, 158))
    for side in (rng.uniform(0.03, 0.12), rng.uniform(0.88, 0.97)):
        x, w = side * n, 0.02 * n
        d.polygon((x - w, n, x - 2 * w, n * 0.78, x, n * 0.68, x + w, n * 0.56,
            x + 1.6 * w, n * 0.7, x + w, n * 0.84, x + w, n), fill=(46, 150, 116))  # fmt: skip
    for _ in range(7):
        x, y, s = rng.random() * n, rng.uniform(0.05, 0.8) * n, rng.uniform(0.012, 0.028) * n
        d.ellipse((x - s, y - s, x + s, y + s), fill=(206, 244, 248))


def _plain(d: ImageDraw.ImageDraw, n: int, rng: random.Random) -> None:
    d.rectangle((0, 0, n, n), fill=(250, 250, 251))


_SCENES: dict[str, Callable[[ImageDraw.ImageDraw, int, random.Random], None]] = {
    "meadow": _meadow,
    "desert": _desert,
    "night": _night,
    "snow": _snow,
    "sea": _sea,
    "plain": _plain,
}


@lru_cache(maxsize=4)
def _texture(kind: str, size_px: int) -> Image.Image:
    """Fixed paper grain, hatching or wash border as an L image."""
    rng = random.Random(f"{kind} {size_px}")
    if kind == "hatch":
        image = Image.new("L", (size_px, size_px), 255)
        draw = ImageDraw.Draw(image)
        gap = max(3, size_px // 20)
        for x in range(-size_px, size_px, gap):
            draw.line((x, size_px, x + size_px, 0), fill=120, width=max(1, size_px // 64))
        return image
    grain = Image.frombytes("L", (size_px // 4, size_px // 4), rng.randbytes((size_px // 4) ** 2))
    grain = grain.resize((size_px, size_px), Image.Resampling.BICUBIC)
    if kind == "paper":
        return grain.point(lambda v: 220 + v * 35 // 255)
    border = Image.new("L", (size_px, size_px), 0)
    draw = ImageDraw.Draw(border)
    points: list[float] = []
    for i in range(36):
        c, s = math.cos(i * math.tau / 36), math.sin(i * math.tau / 36)
        reach = 0.5 * size_px * rng.uniform(0.9, 1.02) / max(abs(c), abs(s)) ** 0.85
        points += [size_px / 2 + c * reach, size_px / 2 + s * reach]
    draw.polygon(points, fill=255)
    return border.filter(ImageFilter.GaussianBlur(size_px / 64))


_PENCIL_EDGE = [max(30, 255 - 2 * v) for v in range(256)]
_PENCIL_TONE = [min(252, 176 + v * 76 // 215) for v in range(256)]
_PENCIL_DARK = [230 if v < 105 else 150 if v < 150 else 0 for v in range(256)]


def _pencil(big: Image.Image, size_px: int) -> Image.Image:
    """Grey outlines on paper, with hatching where the picture is dark."""
    half = big.reduce(SUPERSAMPLE // 2)
    gray = half.convert("L")
    red, green, blue = half.filter(ImageFilter.FIND_EDGES).split()
    edges = ImageChops.lighter(ImageChops.lighter(red, green), blue).point(_PENCIL_EDGE)
    tone = gray.point(_PENCIL_TONE)
    hatched = ImageChops.multiply(tone, _texture("hatch", gray.size[0]))
    dark = gray.point(_PENCIL_DARK)
    result = ImageChops.multiply(Image.composite(hatched, tone, dark), edges)
    result = result.crop((1, 1, result.width - 1, result.height - 1)).resize(
        (size_px, size_px), Image.Resampling.BOX
    )
    return ImageOps.colorize(result, (34, 34, 40), (252, 250, 244))


def _pixel(big: Image.Image, size_px: int) -> Image.Image:
    """Blocks of two pixels in few colours."""
    small = ImageEnhance.Color(big.reduce(SUPERSAMPLE * 2)).enhance(1.2)
    small = small.quantize(32, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert(
        "RGB"
    )
    return small.resize((size_px, size_px), Image.Resampling.NEAREST)


_WASH_RIM = [max(212, 255 - v // 2) for v in range(256)]


def _watercolor(big: Image.Image, size_px: int) -> Image.Image:
    """Pale washes with darker rims on grained paper, torn at the border."""
    image = big.reduce(SUPERSAMPLE)
    soft = Image.blend(image, image.filter(ImageFilter.BoxBlur(size_px / 56)), 0.5)
    rims = image.convert("L").filter(ImageFilter.FIND_EDGES).point(_WASH_RIM)
    wash = Image.blend(soft, Image.new("RGB", soft.size, (255, 253, 246)), 0.26)
    wash = ImageChops.multiply(wash, Image.merge("RGB", (rims, rims, rims)))
    paper = _texture("paper", size_px)
    wash = ImageChops.multiply(wash, Image.merge("RGB", (paper, paper, paper)))
    return Image.composite(
        wash, Image.new("RGB", wash.size, (252, 250, 244)), _texture("border", size_px)
    )


def _finish(big: Image.Image, style: str, size_px: int) -> Image.Image:
    if style == "pencil sketch":
        return _pencil(big, size_px)
    if style == "pixel art":
        return _pixel(big, size_px)
    if style == "watercolor":
        return _watercolor(big, size_px)
    return big.reduce(SUPERSAMPLE)


def draw_genes(
    genes: Genes, rng: random.Random, size_px: int = SIZE_PX, transparent: bool = False
) -> Image.Image:
    """One creature alone: RGBA on nothing, or RGB on plain white. Not mirrored: it faces right.

    Deterministic in (arguments, rng state).
    """
    n = size_px * SUPERSAMPLE
    placed, _ = _place(
        _build(genes, rng), rng, (0.05 * n, 0.05 * n, 0.95 * n, 0.95 * n), mirror=False
    )
    if not transparent:
        big = Image.new("RGB", (n, n), (250, 250, 251))
        _fill(ImageDraw.Draw(big), placed)
        return big.reduce(SUPERSAMPLE)
    big = Image.new("RGBa", (n, n), (0, 0, 0, 0))
    draw = ImageDraw.Draw(big)
    for points, colour in placed:
        draw.polygon(points, fill=(*colour, 255))
    return big.reduce(SUPERSAMPLE).convert("RGBA")


def draw_sprite(genes: Genes, rng: random.Random, size_px: int = SIZE_PX) -> Image.Image:
    """One creature alone, RGBA on nothing, as sprites of a game lie: feet on one floor, and the
    eyes at one place as far as its shape allows. It faces right.

    Deterministic in (arguments, rng state).
    """
    k = _sketch(genes, rng)
    xs = [x for points, _ in k.shapes for x, _ in points]
    ys = [y for points, _ in k.shapes for _, y in points]
    left, right, low = min(xs), max(xs), max(ys)
    largest = 0.92 / max(right - left, low - min(ys))
    eye_x, eye_y, floor = SPRITE_EYE[0], SPRITE_EYE[1], SPRITE_FLOOR
    scale = min(largest, max(SPRITE_LEAST * largest, (floor - eye_y) / max(low - k.ey, 0.05)))
    dx = min(max(eye_x - scale * k.ex, 0.03 - scale * left), 0.97 - scale * right)
    dy = floor - scale * low
    n = size_px * SUPERSAMPLE
    big = Image.new("RGBa", (n, n), (0, 0, 0, 0))
    draw = ImageDraw.Draw(big)
    for points, colour in k.shapes:
        placed = [v for x, y in points for v in ((x * scale + dx) * n, (y * scale + dy) * n)]
        draw.polygon(placed, fill=(*colour, 255))
    return big.reduce(SUPERSAMPLE).convert("RGBA")


# Line width as a share of the frame, of the styles that outline their creatures.
_OUTLINE_PX = {"pixel art": 1 / 24, "pencil sketch": 1 / 64}


def draw_picture(
    subjects: Sequence[Mix], scene: Scene, rng: random.Random, size_px: int = SIZE_PX
) -> Image.Image:
    """One or two creatures in a scene, RGB of size_px x size_px; two stand left and right in the
    given order.

    Raises ValueError if there are not one or two subjects. Deterministic in (arguments, rng
    state).
    """
    if not 1 <= len(subjects) <= 2:
        raise ValueError(f"a picture shows one or two creatures, not {len(subjects)}")
    n = size_px * SUPERSAMPLE
    big = Image.new("RGB", (n, n))
    draw = ImageDraw.Draw(big)
    _SCENES[scene.background](draw, n, rng)
    colour = COLOURS[scene.colour] if scene.colour else None
    floor = n * rng.uniform(0.88, 0.93)
    if scene.style == "pencil sketch":
        big.paste(Image.blend(big, Image.new("RGB", big.size, (255, 255, 255)), 0.5))
    if len(subjects) == 1:
        boxes = [(0.05 * n, 0.07 * n, 0.95 * n, floor)]
    else:
        middle = n * rng.uniform(0.48, 0.52)
        boxes = [
            (0.03 * n, 0.16 * n, middle - 0.025 * n, floor),
            (middle + 0.025 * n, 0.16 * n, 0.97 * n, floor),
        ]
    scenes = []
    for mix, box in zip(subjects, boxes, strict=True):
        genes = _jitter(blend(mix, rng, colour), rng)
        scenes.append(_place(_build(genes, rng), rng, box, mirror=rng.random() < 0.5,
            rise_share=0.3 if len(subjects) == 1 else 0.12))  # fmt: skip
    shadow = _SHADOWS[scene.background]
    for _, (x, y, half) in scenes:
        if scene.background == "sea" and y < 0.84 * n:
            continue  # it swims: no floor to throw a shadow on
        d = 0.022 * n
        draw.ellipse((x - half * 0.85, y - d, x + half * 0.85, y + d), fill=shadow)
    for placed, _ in scenes:
        width = _OUTLINE_PX.get(scene.style)
        if width:
            for points, _colour in placed:
                draw.line([*points, *points[:4]], fill=(30, 26, 40), width=max(1, round(n * width)))
        _fill(draw, placed)
    return _finish(big, scene.style, size_px)
