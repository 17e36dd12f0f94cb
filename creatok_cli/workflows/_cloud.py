"""The drifting cloud: where plain pictures lie, the way of each search, and where it ended.

One panel for each search, on two axes that its method chose (lowprob: along its drift and across
it, in standard deviations of the plain pictures). Ends are pictures of fresh seeds, with a
thumbnail. The look is that of the reports of `learn-token`.

Does not: compute anything, or write.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from creatok_cli.workflows._figure import DPI, ENCODERS, GRID, INK, MUTED, PALE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

Point = tuple[float, float]
COLOURS = (*ENCODERS, "#009e73", "#d55e00", "#8c6d1f", "#000000")
"""Okabe and Ito (2008), with the yellow darker."""
PANEL_IN, HEAD_IN, GAP_IN, MOST_COLUMNS = 4.6, 1.0, 0.75, 3
LEGS = 24
"""Arrows of a way: more of them are a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One search on its map."""

    label: str
    plain: Sequence[Point]
    """Pictures of the plain prompt."""
    path: Sequence[Point]
    """Of the moments that were checked, in order."""
    ends: Sequence[Point]
    """Pictures of fresh seeds at its end."""
    axes: tuple[str, str]
    image: Image | None


def drift_of(name: str, cloud: Any, image: Image | None) -> Drift | None:
    """A search as its method tells it under `cloud`; None where it tells nothing."""
    if not isinstance(cloud, Mapping):
        return None
    path, ends = points(cloud.get("path")), points(cloud.get("finals"))
    said = cloud.get("axes")
    axes = [str(each) for each in said] if isinstance(said, list) else []
    first, second = axes if len(axes) == 2 else ("first axis", "second axis")
    return Drift(
        label=name,
        plain=points(cloud.get("baseline")),
        path=path,
        ends=ends or path[-1:],
        axes=(first, second),
        image=image,
    )


def points(value: Any) -> list[Point]:
    """Pairs of numbers, as they come from a file."""
    try:
        return [(float(x), float(y)) for x, y in value or ()]
    except (TypeError, ValueError):
        return []


def draw_cloud(title: str, line: str, drifts: Sequence[Drift]) -> bytes:
    """The PNG of all panels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 2 if len(drifts) == 4 else min(MOST_COLUMNS, max(2, len(drifts)))
    rows = -(-max(1, len(drifts)) // columns)
    width = columns * (PANEL_IN + GAP_IN) + 0.35
    height = HEAD_IN + rows * (PANEL_IN + GAP_IN)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        figure.text(0.65 / width, 1 - 0.22 / height, title, size=17, weight="bold", va="top")
        figure.text(0.65 / width, 1 - 0.62 / height, line, size=9.5, color=MUTED, va="top")
        for number, drift in enumerate(drifts):
            row, column = divmod(number, columns)
            left = 0.65 + column * (PANEL_IN + GAP_IN)
            bottom = height - HEAD_IN - row * (PANEL_IN + GAP_IN) - PANEL_IN - 0.2
            box = (left / width, bottom / height, PANEL_IN / width, PANEL_IN / height)
            draw_drift(figure.add_axes(box), drift, COLOURS[number % len(COLOURS)])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_drift(axes: Axes, drift: Drift, colour: str) -> None:
    """Plain pictures, a way with arrows, its ends, and a thumbnail beside their middle."""
    axes.set_title(drift.label, color=colour)
    axes.set_xlabel(drift.axes[0])
    axes.set_ylabel(drift.axes[1], labelpad=2)
    axes.grid(color=GRID)
    xs, ys = [x for x, _ in drift.plain], [y for _, y in drift.plain]
    axes.scatter(xs, ys, s=13, color=PALE, edgecolors="none", zorder=1)
    path = list(drift.path)
    if len(path) <= LEGS:
        for (x0, y0), (x1, y1) in pairwise(path):
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=arrow, zorder=3)
    axes.plot([x for x, _ in path], [y for _, y in path], color=colour, linewidth=1.4, zorder=3)
    if path:
        axes.scatter(*path[0], s=48, color="white", edgecolors=colour, linewidths=1.8, zorder=4)
    xs, ys = [x for x, _ in drift.ends], [y for _, y in drift.ends]
    axes.scatter(xs, ys, s=40, marker="D", color=colour, edgecolors=INK, linewidths=0.6, zorder=5)
    axes.margins(0.08)
    if drift.image is not None and drift.ends:
        at = (sum(xs) / len(xs), sum(ys) / len(ys))
        put_picture(axes, drift.image, at, colour)


def put_picture(axes: Axes, image: Image, at: Point, colour: str) -> None:
    """A thumbnail, framed in the colour of its search, in the corner that is farthest from what it
    belongs to, so that it hides little; a line leads there.
    """
    from matplotlib.image import pil_to_array
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    from creatok_cli.workflows._strip import fitted

    low, high = axes.get_ylim()
    y = 0.13 if at[1] > (low + high) / 2 else 0.87
    left, right = axes.get_xlim()
    x = 0.87 if at[0] > (left + right) / 2 else 0.13
    box = AnnotationBbox(
        OffsetImage(pil_to_array(fitted(image)), zoom=0.5),
        at,
        xybox=(x, y),
        boxcoords="axes fraction",
        pad=0.12,
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9},
        bboxprops={"edgecolor": colour, "linewidth": 1.6},
        zorder=6,
    )
    axes.add_artist(box)
