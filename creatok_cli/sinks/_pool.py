"""Writer threads beside the device: encoding, fsync and publishing overlap with drawing.

The queue is bounded, so a slow disk slows the device down instead of filling the memory. A sink is
called by one thread at a time unless it says `PARALLEL`. What costs the run (a full disk) stops the
pool at once and is raised to the drawing side; what costs one file fails that job.

Does not: know what the sinks write.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Any

from creatok_cli import durable
from creatok_cli.domain import Failed, Rendered
from creatok_cli.errors import CreatokError
from creatok_cli.sinks.base import Sink, SinkFailure, file_of

IDLE_S = 0.5
"""How often an idle writer looks whether a group of lines is due."""


def default_threads() -> int:
    """2 to 4: writers wait for the disk most of the time."""
    return max(2, min(4, os.cpu_count() or 2))


class WriterPool:
    """Hands each result to every sink, in the order of `sinks`, on writer threads.

    The last sink is the manifest. Use `put`, then `close`; both raise the error that stopped the
    pool.
    """

    def __init__(self, sinks: Sequence[tuple[Sink, bool]], *, limit: int, threads: int = 0) -> None:
        self._sinks: list[tuple[Sink, AbstractContextManager[Any]]] = [
            (sink, nullcontext() if parallel else Lock()) for sink, parallel in sinks
        ]
        self.limit = max(1, limit)
        self.most_queued = 0
        """High water of the queue: at `limit` drawing has waited for the writers."""
        self._queue: Queue[Rendered | Failed | None] = Queue(maxsize=self.limit)
        self._error: BaseException | None = None
        self._stopped = Event()
        self._threads = [
            Thread(target=self._work, name=f"creatok-writer-{number}", daemon=True)
            for number in range(threads or default_threads())
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Rendered | Failed) -> None:
        """Queues one result; waits while the queue is full. Raises what stopped the pool."""
        while True:
            self.raise_error()
            with suppress(Full):
                self._queue.put(item, timeout=IDLE_S)
                self.most_queued = max(self.most_queued, self._queue.qsize())
                return

    def raise_error(self) -> None:
        """Raises the error that stopped the pool, if one did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Waits until everything queued is written (or dropped, after a fatal error) and ends the
        threads."""
        for _ in self._threads:
            while not self._stopped.is_set():
                with suppress(Full):
                    self._queue.put(None, timeout=IDLE_S)
                    break
        for thread in self._threads:
            thread.join()
        self.raise_error()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                item = self._queue.get(timeout=IDLE_S)
            except Empty:
                self._guard(self._flush_due)
                continue
            if item is None:
                return
            self._guard(partial(self._deliver, item))

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - raised again on the drawing thread
            if self._error is None:
                self._error = error
            self._stopped.set()

    def _flush_due(self) -> None:
        for sink, _ in self._sinks:
            flush = getattr(sink, "flush", None)
            if flush is not None:
                flush(only_due=True)

    def _deliver(self, item: Rendered | Failed) -> None:
        failed = self._write(item) if isinstance(item, Rendered) else item
        if failed is not None:
            for sink, lock in self._sinks:
                with lock:
                    sink.fail(failed)

    def _write(self, result: Rendered) -> Failed | None:
        try:
            for sink, lock in self._sinks:
                with lock:
                    sink.write(result)
        except SinkFailure as error:
            return Failed(job=result.job, kind=error.kind, message=str(error))
        except CreatokError:
            raise
        except OSError as error:
            verdict = durable.fatal(error, file_of(result.job))
            if verdict is not None:
                raise verdict from error
            message = f"{file_of(result.job)}: {error.strerror or type(error).__name__}"
            return Failed(job=result.job, kind="os-error", message=message, retriable=True)
        except Exception as error:  # noqa: BLE001 - a faulty sink costs one job
            message = f"{file_of(result.job)}: {type(error).__name__}: {str(error)[:200]}"
            return Failed(job=result.job, kind="error", message=message)
        return None
