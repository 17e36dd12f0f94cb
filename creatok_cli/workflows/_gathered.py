"""The finished pictures of a plan, gathered by the rows of its sheet, and read again from the disk.

Does not: draw, score or choose.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from creatok_cli import durable
from creatok_cli.domain import Job, Plan, Provenance, Rendered
from creatok_cli.sinks._ledger import Ledger, Line
from creatok_cli.sinks._metadata import MAX_FILE, MAX_PIXELS
from creatok_cli.sinks.base import Output, file_of

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255, 255)
"""What shows through a transparent picture."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One entry of the sheet."""

    name: str
    lines: list[tuple[Job, Line]] = field(default_factory=list)
    """Of its finished pictures, in plan order."""
    is_whole: bool = True
    """Whether each of its pictures is drawn, or was given up."""


def rows_of(plan: Plan, ledger: Ledger) -> list[Row]:
    """The rows of a plan, in the order of their first pictures."""
    rows: dict[str, Row] = {}
    for job in plan.jobs:
        row = rows.setdefault(job.row, Row(name=job.row))
        line = ledger.by_file.get(file_of(job))
        if line is None or line.key != job.key:
            row.is_whole = False
        elif line.status == "done":
            row.lines.append((job, line))
    return list(rows.values())


def is_shard(out: Output) -> bool:
    """Whether this run draws a part of the plan, so that others may be at work on the rest."""
    return out.writer.shard != (1, 1)


def spread(count: int, most: int) -> list[int]:
    """Places of at most `most` of `count` things, evenly apart, from the first on."""
    kept = min(count, most)
    return [place * count // kept for place in range(kept)]


def iter_results(out: Output, jobs: Sequence[Job], *, most_px: int = 0) -> Iterator[Rendered]:
    """The pictures of finished jobs, RGB, made smaller where they are longer than `most_px`; one
    that cannot be read is left out.
    """
    how = Provenance(device="", batch_class=0, batch_effective=0, seconds=0.0)
    for job in jobs:
        image = _read(out, file_of(job))
        if image is not None:
            if most_px:
                image.thumbnail((most_px, most_px))
            yield Rendered(job=job, image=image, provenance=how)


def _read(out: Output, file: str) -> Image | None:
    from PIL import Image

    try:
        data = durable.read_file(out.folder, file, limit=MAX_FILE)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            if "A" not in opened.getbands():
                return opened.convert("RGB")
            shown = opened.convert("RGBA")
    except (OSError, SyntaxError, ValueError):
        return None
    ground = Image.new("RGBA", shown.size, WHITE)
    return Image.alpha_composite(ground, shown).convert("RGB")
