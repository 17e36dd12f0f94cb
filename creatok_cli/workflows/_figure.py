"""The picture of a learning run: curves, cosines before and after, nearest words.

One page, readable at a glance; colours are those of Okabe and Ito (2008), which colour-blind people
tell apart. Equal facts give equal bytes: no time, no version, fonts that come with matplotlib.
Panels whose facts a method does not give are left out. Sizes are set by eye.

Does not: compute anything, or write.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, PALE, GRID = "#202124", "#6b7078", "#b4b8bf", "#e8eaed"
BEFORE, THETA, GOAL = "#9aa0a6", "#d55e00", "#009e73"
ENCODERS = ("#0072b2", "#e69f00", "#cc79a7", "#56b4e9")
DPI, WIDTH_IN, LEFT_IN = 130, 13.0, 0.75
TOP_IN, CURVES_IN, GROUP_IN, FOOT_IN = 1.35, 3.3, 1.95, 0.35
MOST_GROUPS = 4
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": PALE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


def draw_figure(
    title: str, lines: Sequence[str], facts: Mapping[str, Any], pairs: Mapping[str, int]
) -> bytes:
    """The PNG of a run.

    `lines` stand below the title, the first one is the result; `pairs` counts those of each group.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups = chosen_groups(facts.get("held_out") or {})
    encoders = encoders_of(facts)
    rows = len(encoders) if groups else 0
    height = TOP_IN + CURVES_IN + rows * GROUP_IN + (0.75 if rows else 0) + FOOT_IN
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, facecolor="white")
        write_head(figure, title, lines, height)
        top = 1 - TOP_IN / height
        below = top - CURVES_IN / height
        draw_curves(figure, facts, encoders, (below, top), height)
        if rows:
            counts = {group: pairs.get(group, 0) for group in groups}
            draw_groups(figure, facts, encoders, counts, (FOOT_IN / height, below), height)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def encoders_of(facts: Mapping[str, Any]) -> list[str]:
    """The encoders that the facts speak of, in order of first appearance."""
    named: dict[str, None] = {}
    for key in ("theta", "length", "neighbours"):
        named |= dict.fromkeys(facts.get(key) or {})
    for group in (facts.get("held_out") or {}).values():
        named |= dict.fromkeys(group)
    return list(named)[: len(ENCODERS)]


def chosen_groups(held_out: Mapping[str, Any]) -> list[str]:
    """The large groups, in the order of the list: few cosines make no histogram."""

    def size(group: str) -> int:
        return max((len(each.get("after", ())) for each in held_out[group].values()), default=0)

    largest = max(map(size, held_out), default=0)
    return [group for group in held_out if 2 * size(group) > largest][:MOST_GROUPS]


def write_head(figure: Figure, title: str, lines: Sequence[str], height: float) -> None:
    left = LEFT_IN / WIDTH_IN
    figure.text(left, 1 - 0.32 / height, title, size=21, weight="bold", va="top")
    y = 0.82
    for index, line in enumerate(lines):
        colour, size = (INK, 11.5) if index == 0 else (MUTED, 9.5)
        figure.text(left, 1 - y / height, line, size=size, color=colour, va="top")
        y += 0.25


def draw_curves(
    figure: Figure,
    facts: Mapping[str, Any],
    encoders: Sequence[str],
    span: tuple[float, float],
    height: float,
) -> None:
    """The goal, the length of the vectors, and the nearest words, side by side."""
    box = {"bottom": span[0] + 0.62 / height, "top": span[1] - 0.45 / height}
    grid = figure.add_gridspec(
        1,
        3,
        left=LEFT_IN / WIDTH_IN,
        right=1 - 0.5 / WIDTH_IN,
        wspace=0.34,
        width_ratios=(5, 4, 5),
        **box,
    )
    curves = facts.get("curves") or {}
    steps = curves.get("step") or []
    goal, length, words = (figure.add_subplot(grid[0, at]) for at in range(3))
    draw_goal(goal, steps, curves)
    draw_lengths(length, steps, curves, facts, encoders)
    draw_words(words, facts, encoders)


def draw_goal(axes: Axes, steps: Sequence[float], curves: Mapping[str, Sequence[float]]) -> None:
    axes.set_title("Loss and goal J")
    count_steps(axes)
    for name, colour in (("loss", MUTED), ("J", GOAL)):
        series = curves.get(name) or []
        if len(series) and len(series) == len(steps):
            axes.plot(steps, series, color=colour, linewidth=1.2 if name == "loss" else 2.4)
            axes.annotate(
                f"{name} {series[-1]:.3f}",
                (steps[-1], series[-1]),
                xytext=(-2, -8 if name == "J" else 10),
                textcoords="offset points",
                ha="right",
                va="top" if name == "J" else "bottom",
                color=colour,
                weight="bold",
            )
    if axes.lines:
        axes.margins(x=0.02, y=0.16)
    else:
        say_nothing(axes)


def count_steps(axes: Axes) -> None:
    """Steps along the x axis, few enough to be read."""
    axes.set_xlabel("step")
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def draw_lengths(
    axes: Axes,
    steps: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    facts: Mapping[str, Any],
    encoders: Sequence[str],
) -> None:
    axes.set_title("Length of the vectors")
    count_steps(axes)
    for name, colour in zip(encoders, ENCODERS, strict=False):
        series = curves.get(f"norm/{name}") or []
        if len(series) and len(series) == len(steps):
            axes.plot(steps, series, color=colour, label=name)
            usual = (facts.get("length") or {}).get(name, {}).get("vocabulary")
            if usual is not None:
                axes.axhline(usual, color=colour, linestyle=(0, (1, 2)), linewidth=1.4)
    if axes.lines:
        axes.plot([], [], color=MUTED, linestyle=(0, (1, 2)), linewidth=1.4, label="a usual word")
        axes.legend(loc="best", labelcolor="linecolor")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
    else:
        say_nothing(axes)


def draw_words(axes: Axes, facts: Mapping[str, Any], encoders: Sequence[str]) -> None:
    """Bars of the nearest vocabulary words of every encoder."""
    axes.set_title("Nearest words of the vocabulary")
    axes.grid(visible=False, axis="y")
    y, ticks, labels = 0.0, [], []
    neighbours = facts.get("neighbours") or {}
    for name, colour in zip(encoders, ENCODERS, strict=False):
        found = list(neighbours.get(name) or [])[:5]
        if not found:
            continue
        axes.text(0.0, y, name, color=colour, weight="bold", va="center", size=9)
        y += 1
        for word, cosine in found:
            axes.barh(y, max(float(cosine), 0.0), height=0.62, color=colour, alpha=0.85)
            axes.text(
                max(float(cosine), 0.0) + 0.012,
                y,
                f"{cosine:.2f}",
                va="center",
                color=MUTED,
                size=8,
            )
            ticks.append(y)
            labels.append(str(word)[:18])
            y += 1
        y += 0.3
    if not ticks:
        say_nothing(axes)
        return
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(y - 0.6, -0.9)
    longest = max(float(cosine) for found in neighbours.values() for _, cosine in found)
    axes.set_xlim(0, min(1.08, max(0.4, 1.2 * longest)))
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("cosine of the vectors")
    axes.spines["left"].set_visible(False)


def draw_groups(
    figure: Figure,
    facts: Mapping[str, Any],
    encoders: Sequence[str],
    groups: Mapping[str, int],
    span: tuple[float, float],
    height: float,
) -> None:
    """Cosines to held-out pairs before and after: one row per encoder, one column per group."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    held_out = facts["held_out"]
    left = LEFT_IN / WIDTH_IN
    y = span[1] - 0.1 / height
    figure.text(
        left, y, "Cosine to pairs that were not learned from", size=11, weight="bold", va="top"
    )
    shades = [Patch(color=BEFORE, alpha=0.7, label="before")]
    shades += [
        Patch(color=colour, alpha=0.8, label=f"after, {name}")
        for name, colour in zip(encoders, ENCODERS, strict=False)
    ]
    line = Line2D(
        [], [], color=THETA, linestyle=(0, (3, 1.5)), linewidth=1.6, label="theta, the cap"
    )
    figure.legend(
        handles=[*shades, line],
        loc="upper right",
        bbox_to_anchor=(1 - 0.5 / WIDTH_IN, y + 0.05 / height),
        ncols=len(shades) + 1,
        handlelength=1.4,
        columnspacing=1.6,
        borderpad=0,
        borderaxespad=0,
    )
    grid = figure.add_gridspec(
        len(encoders),
        len(groups),
        left=LEFT_IN / WIDTH_IN,
        right=1 - 0.5 / WIDTH_IN,
        bottom=span[0] + 0.3 / height,
        top=span[1] - 0.72 / height,
        wspace=0.16,
        hspace=0.32,
    )
    every = [
        value
        for group in groups
        for each in held_out[group].values()
        for part in ("before", "after")
        for value in each.get(part, ())
    ]
    low = min([0.0, *every])
    edges = [low + (1.0 - low) * index / 40 for index in range(41)]
    for row, (name, colour) in enumerate(zip(encoders, ENCODERS, strict=False)):
        theta = (facts.get("theta") or {}).get(name)
        cap = theta.get("theta") if isinstance(theta, Mapping) else theta
        for column, group in enumerate(groups):
            axes = figure.add_subplot(grid[row, column])
            cosines = held_out[group].get(name) or {}
            draw_histogram(axes, cosines, edges, colour, cap)
            axes.set_xlim(edges[0], edges[-1])
            if row == 0:
                axes.set_title(
                    f"{group}  ({groups[group]} pairs)", size=9.5, weight="normal", pad=6
                )
            if row < len(encoders) - 1:
                axes.tick_params(axis="x", labelbottom=False)
            if column == 0:
                axes.set_ylabel(name, color=colour, weight="bold")


def draw_histogram(
    axes: Axes,
    cosines: Mapping[str, Sequence[float]],
    edges: Sequence[float],
    colour: str,
    cap: float | None,
) -> None:
    """Both distributions, their medians in words, and theta."""
    before, after = list(cosines.get("before", ())), list(cosines.get("after", ()))
    axes.grid(visible=False, axis="y")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.hist(before, bins=edges, color=BEFORE, alpha=0.55, histtype="stepfilled")
    axes.hist(before, bins=edges, color=MUTED, histtype="step", linewidth=0.9)
    axes.hist(after, bins=edges, color=colour, alpha=0.6, histtype="stepfilled")
    axes.hist(after, bins=edges, color=colour, histtype="step", linewidth=1.4)
    axes.margins(y=0.22)
    if cap is not None:
        axes.axvline(cap, color=THETA, linestyle=(0, (4, 2)), linewidth=1.6)
    if before and after:
        told = f"{number(median(before))} \u2192 {number(median(after))}"
        axes.text(0.015, 0.97, told, transform=axes.transAxes, va="top", size=9, weight="bold")


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones for an even count."""
    ordered, middle = sorted(values), len(values) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def number(value: float) -> str:
    """Two digits, with a true minus sign."""
    return f"{value:.2f}".replace("-", "\u2212")


def say_nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.0, 0.5, "not told by this method", transform=axes.transAxes, color=MUTED)
