"""The arousal report: rarity against validity and likeness, so that a person can choose the shell.

Song and Elgammal found that ratings rise with the distance from the usual, have a peak, and fall
(methods notes, 4.7); no source says where to stop. Every check of every search is a point. The axis
of rarity is that of -log10(1 - rarity), so that 90, 99 and 99.9 % stand equally far apart.

Does not: compute anything but a running middle, or say where the peak is.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from creatok_cli.workflows._cloud import COLOURS
from creatok_cli.workflows._figure import DPI, GRID, INK, MUTED, PALE, STYLE, median

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
MOST_RARE = 1 - 1e-6
"""What is rarer stands at the edge."""
WINDOW = 9
"""Points of the running middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One picture that was checked."""

    search: int
    rarity: float
    p_yes: float | None
    cosine: float | None
    is_accepted: bool


def place_of(rarity: float) -> float:
    """Where a rarity stands on its axis."""
    return -math.log10(1 - min(max(rarity, 0.0), MOST_RARE))


def draw_arousal(
    title: str, line: str, sights: Sequence[Sight], names: Sequence[str], goal: float | None
) -> bytes:
    """The PNG of the report; `goal` is the rarity that was asked for."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = [("validity", "validator says yes", [each.p_yes for each in sights])]
    if any(each.cosine is not None for each in sights):
        cosines = [each.cosine for each in sights]
        panels.append(("likeness", "cosine to the subject", cosines))
    height = 1.15 + 3.4 * len(panels)
    with rc_context(STYLE):
        figure = Figure(figsize=(10.2, height), dpi=DPI, facecolor="white")
        figure.text(0.08, 1 - 0.25 / height, title, size=18, weight="bold", va="top")
        figure.text(0.08, 1 - 0.68 / height, line, size=10, color=MUTED, va="top")
        for number, (name, unit, values) in enumerate(panels):
            bottom = 1 - (1.45 + 3.4 * (number + 1) - 0.85) / height
            axes = figure.add_axes((0.08, bottom, 0.895, 2.45 / height))
            draw_panel(axes, name, unit, sights, values, names if number == 0 else (), goal)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_panel(
    axes: Axes,
    name: str,
    unit: str,
    sights: Sequence[Sight],
    values: Sequence[float | None],
    names: Sequence[str],
    goal: float | None,
) -> None:
    """Points by search, hollow where refused, and the running middle of all."""
    there = [
        (place_of(sight.rarity), value, sight)
        for sight, value in zip(sights, values, strict=True)
        if value is not None
    ]
    axes.set_title(name)
    axes.set_ylabel(unit)
    if goal is not None:
        axes.axvline(place_of(goal), color=PALE, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
        axes.text(
            place_of(goal),
            1.015,
            "asked for",
            transform=axes.get_xaxis_transform(),
            ha="center",
            size=8.5,
            color=MUTED,
        )
    for search in sorted({sight.search for _, _, sight in there}):
        colour = COLOURS[search % len(COLOURS)]
        for is_accepted in (True, False):
            own = [
                (x, y)
                for x, y, sight in there
                if sight.search == search and sight.is_accepted == is_accepted
            ]
            label = names[search] if is_accepted and search < len(names) else None
            axes.scatter(
                [x for x, _ in own],
                [y for _, y in own],
                s=34,
                facecolors=colour if is_accepted else "white",
                edgecolors=colour,
                linewidths=1.3,
                label=label,
                zorder=3,
                clip_on=False,
            )
    ordered = sorted((x, y) for x, y, _ in there)
    if len(ordered) >= WINDOW:
        middles = []
        for start in range(len(ordered) - WINDOW + 1):
            part = ordered[start : start + WINDOW]
            middles.append((median([x for x, _ in part]), median([y for _, y in part])))
        axes.plot(*zip(*middles, strict=True), color=INK, linewidth=1.6, zorder=2)
    right = max([place_of(0.99), *(x for x, _, _ in there), place_of(goal or 0)]) + 0.25
    ticks = [each for each in TICKS if place_of(each) <= right]
    axes.set_xticks([place_of(each) for each in ticks])
    axes.set_xticklabels([f"{100 * each:.6g} %" for each in ticks])
    axes.set_xlim(-0.08, right)
    if name == "validity":
        axes.set_ylim(-0.02, 1.02)
        axes.axhline(0.5, color=GRID, linewidth=1.6, zorder=1)
    axes.set_xlabel("rarity among plain pictures")
    if names:
        axes.legend(loc="lower left", fontsize=8.5, frameon=True, facecolor="white", edgecolor=GRID)
