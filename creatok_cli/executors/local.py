"""One process, one device: batches are drawn while others are being written.

Each lane is a thread that draws one batch at a time. A GPU, or a base that uses all cores for one
batch, has one lane; light bases on a CPU have a lane per core, because small models gain little
from sharing a batch among cores (performance notes, section 7). Outcomes come in plan order, and
the bytes do not depend on the number of lanes.

Does not: spread over devices (`ray`, or shards).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from creatok_cli.config import cores
from creatok_cli.domain import Batch
from creatok_cli.executors.base import Outcome, Render

MAX_LANES = 8
"""Each lane holds the latents of a batch; one process feeds no more (set by eye)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """`lookahead` batches are drawn beyond those that the lanes need; 0 draws on demand."""

    lookahead: int = 1
    lanes: int = 0
    """Batches drawn at the same time; 0 is what the base and the cores advise."""

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead <= 8:
            raise ValueError("lookahead must be from 0 to 8")
        if not 0 <= self.lanes <= 64:
            raise ValueError("lanes must be from 0 to 64")


def build(spec: Spec, *, threads: int, device: str) -> Local:
    """The engine; see `executors.base`."""
    advised = min(MAX_LANES, cores() // threads) if threads and device == "cpu" else 1
    return Local(spec.lookahead, spec.lanes or max(1, advised))


class Local:
    """Draws in threads beside the caller's."""

    def __init__(self, lookahead: int, lanes: int = 1) -> None:
        self._lookahead, self.lanes = lookahead, lanes

    def run(self, batches: Iterable[Batch], render: Render) -> Iterator[Outcome]:
        """Outcomes in plan order; see `executors.base.Executor`."""
        coming = enumerate(batches)
        last: float = math.inf  # what comes after this one is not begun any more

        def draw(number: int, batch: Batch) -> list[Outcome]:
            nonlocal last
            if number > last:
                return []
            try:
                return render(batch)
            except BaseException:
                last = min(last, number)
                raise

        with ThreadPoolExecutor(self.lanes, thread_name_prefix="creatok-render") as pool:
            drawing: deque[Future[list[Outcome]]] = deque()
            try:
                for each in islice(coming, self.lanes + self._lookahead):
                    drawing.append(pool.submit(draw, *each))
                while drawing:
                    try:
                        outcomes = drawing.popleft().result()
                    except BaseException:
                        last = -1
                        yield from _drain(drawing)
                        raise
                    yield from outcomes
                    for each in islice(coming, 1):
                        drawing.append(pool.submit(draw, *each))
            finally:
                last = -1


def _drain(drawing: Iterable[Future[list[Outcome]]]) -> Iterator[Outcome]:
    """What other lanes had under way, before an error ends the run."""
    for future in drawing:
        if future.exception() is None:
            yield from future.result()
