"""Drift: a picture drawn again whose pixels differ from its published twin, and what changed.

A resumed run draws whole batches, so pixels of finished siblings are compared for free. The
published picture stays.

Does not: fail a job.
"""

from __future__ import annotations

from collections.abc import Iterator

from creatok_cli.domain import Job, Notice, Rendered
from creatok_cli.sinks import manifest
from creatok_cli.sinks._metadata import pixel_hash
from creatok_cli.sinks.base import file_of

TOLD = 3
"""So many are told one by one, the rest as a count."""


class Drift:
    """Counts differing pictures and tells the first few."""

    def __init__(self) -> None:
        self.count = 0

    def compare(self, item: Rendered, line: manifest.Line | None) -> Iterator[Notice]:
        """A finished sibling that was drawn again, against the line of its file."""
        if line is not None and line.pixels and line.pixels != pixel_hash(item.image):
            yield from self.tell(item.job, changes(line, item))

    def tell(self, job: Job, cause: str) -> Iterator[Notice]:
        """One differing picture."""
        self.count += 1
        if self.count <= TOLD:
            yield Notice(
                level="warning",
                message=f"drift: {file_of(job)} drawn again differs from the published picture, "
                f"which stays; {cause or 'nothing recorded has changed'}",
            )

    def close(self) -> Iterator[Notice]:
        """The count, where not all were told."""
        if self.count > TOLD:
            message = f"drift: {self.count} pictures drawn again differ from the published ones"
            yield Notice(level="warning", message=message)


def changes(line: manifest.Line, item: Rendered) -> str:
    """Which recorded component differs between a published picture and its new twin."""
    made = item.provenance
    then = {"device": line.device, "batch size": str(line.batch_effective), **line.versions}
    now = {"device": made.device, "batch size": str(made.batch_effective), **dict(made.versions)}
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name}: {then.get(name)} then, {now.get(name)} now" for name in names)
