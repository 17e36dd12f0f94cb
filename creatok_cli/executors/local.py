"""One process, one device: the next batch is drawn while the last one is being written.

A single worker thread draws, one batch ahead of the consumer by default, so that the device does
not wait for pictures to be encoded and synced. After an error or an early close nothing new starts.

Does not: spread over devices (`ray`, or shards).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Event

from creatok_cli.domain import Batch
from creatok_cli.executors.base import Outcome, Render


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """`lookahead` batches are drawn beyond the one that is being handed out; 0 draws on demand."""

    lookahead: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead <= 8:
            raise ValueError("lookahead must be from 0 to 8")


def build(spec: Spec) -> Local:
    """The engine."""
    return Local(spec.lookahead)


class Local:
    """Draws in one thread beside the caller's."""

    def __init__(self, lookahead: int) -> None:
        self._lookahead = lookahead

    def run(self, batches: Iterable[Batch], render: Render) -> Iterator[Outcome]:
        """Outcomes in plan order; see `executors.base.Executor`."""
        coming, over = iter(batches), Event()

        def draw(batch: Batch) -> list[Outcome]:
            if over.is_set():
                return []
            try:
                return render(batch)
            except BaseException:
                over.set()
                raise

        with ThreadPoolExecutor(1, thread_name_prefix="creatok-render") as pool:
            drawing: deque[Future[list[Outcome]]] = deque()
            try:
                for batch in islice(coming, 1 + self._lookahead):
                    drawing.append(pool.submit(draw, batch))
                while drawing:
                    yield from drawing.popleft().result()
                    for batch in islice(coming, 1):
                        drawing.append(pool.submit(draw, batch))
            finally:
                over.set()
