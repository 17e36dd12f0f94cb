"""What an engine does: takes whole batches, hands them to `render`, gives back one outcome per job.

Does not: import torch, reorder the members of a batch, or write files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from creatok_cli.domain import Batch, Failed, Rendered

Outcome = Rendered | Failed
Render = Callable[[Batch], list[Outcome]]
"""Draws one batch: one outcome per job, in its order. Errors that it raises end the run."""


class Executor(Protocol):
    """An engine, from `build(spec)` of its plug-in."""

    def run(self, batches: Iterable[Batch], render: Render) -> Iterator[Outcome]:
        """Every job of every batch exactly once; outcomes of a batch come together.

        What was finished is given out before an error of a later batch is raised. Closing the
        generator early ends the work in flight.
        """
