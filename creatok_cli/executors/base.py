"""What an engine does: takes whole batches, hands them to `render`, gives back one outcome per job.

A plug-in has `build(spec, *, threads, device)`. `threads` is the number of CPU threads that draw
one batch: batches may be drawn at the same time, by one `render` on several threads, as long as the
cores last. 0 means that a batch takes the whole machine: one at a time. `device` is where they are
drawn (`cpu`, `cuda:0`, `mps`); a GPU draws one batch at a time.

Does not: import torch, reorder the members of a batch, or write files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from creatok_cli.domain import Batch, Failed, Rendered

Outcome = Rendered | Failed
Render = Callable[[Batch], list[Outcome]]
"""Draws one batch: one outcome per job, in its order. May be called on several threads at once.
Errors that it raises end the run.
"""


class Executor(Protocol):
    """An engine, from `build(spec, *, threads, device)` of its plug-in."""

    def run(self, batches: Iterable[Batch], render: Render) -> Iterator[Outcome]:
        """Every job of every batch exactly once; outcomes of a batch come together.

        After an error nothing new starts; what was finished, and what others have under way, is
        given out before it is raised. Closing the generator early ends the work in flight.
        """
