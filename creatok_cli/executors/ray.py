"""Ray: one actor with its own renderer per GPU or per few CPU cores; only this process writes.

Needs the extra `creatok[ray]`. Actors are never restarted by Ray: when one dies, its batch is given
to a fresh one. A batch that killed two actors is drawn member by member, and the member that kills
a third one fails. Only plain data crosses: batches out, pictures back.

Does not: join a cluster by itself, or start a dashboard.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from creatok_cli.config import cores
from creatok_cli.domain import Batch, Failed
from creatok_cli.errors import InputError
from creatok_cli.executors.base import Outcome, Render

DEATHS = 2
"""After this many deaths in a batch its members run apart (reliability notes, F3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """`workers` 0 means one per GPU; on CPUs as many as the threads of a batch leave room for."""

    workers: int = 0
    address: str = ""
    """Of a cluster that is trusted; empty starts Ray on this machine only."""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ValueError("workers must be from 0 to 1024")


class WorkerDied(Exception):
    """A worker is gone; what it was drawing has no outcome."""


class Crew(Protocol):
    """Workers that draw one batch at a time. Ray's, or a fake of the tests."""

    size: int

    def hire(self) -> Any:
        """A new worker."""

    def give(self, worker: Any, batch: Batch) -> Any:
        """Start drawing; returns a ticket."""

    def first_done(self, tickets: list[Any]) -> Any:
        """Wait until one of the tickets is done or dead, and return it."""

    def collect(self, ticket: Any) -> list[Outcome]:
        """The outcomes of a ticket. Raises WorkerDied, or what `render` raised."""

    def dismiss(self, worker: Any) -> None:
        """End a worker, dead or alive."""


def build(spec: Spec, *, threads: int, device: str) -> Ray:
    """The engine; see `executors.base`. Raises InputError where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise InputError(
            "the executor 'ray' needs Ray: pip install 'creatok[ray]', or use --executor local"
        ) from None
    return Ray(spec, threads, device)


class Ray:
    """Spreads batches over actors."""

    def __init__(self, spec: Spec, threads: int, device: str) -> None:
        self._spec, self._threads, self._device = spec, threads, device

    def run(self, batches: Iterable[Batch], render: Render) -> Iterator[Outcome]:
        """Outcomes as batches finish, in any order of batches."""
        crew = RayCrew(self._spec, render, threads=self._threads, device=self._device)
        try:
            yield from spread(batches, crew)
        finally:
            crew.close()


@dataclass(slots=True)
class _Work:
    batch: Batch
    deaths: int = 0
    alone: bool = False


def spread(batches: Iterable[Batch], crew: Crew) -> Iterator[Outcome]:
    """Give batches to workers as they become free; survive deaths; see the module docstring."""
    coming = iter(batches)
    again: deque[_Work] = deque()
    idle = [crew.hire() for _ in range(crew.size)]
    busy: dict[Any, tuple[Any, _Work]] = {}
    try:
        while True:
            while idle:
                work = again.popleft() if again else next((_Work(each) for each in coming), None)
                if work is None:
                    break
                worker = idle.pop()
                busy[crew.give(worker, work.batch)] = (worker, work)
            if not busy:
                return
            ticket = crew.first_done(list(busy))
            worker, work = busy.pop(ticket)
            try:
                outcomes = crew.collect(ticket)
            except WorkerDied as death:
                crew.dismiss(worker)
                idle.append(crew.hire())
                yield from _after_death(work, str(death), again)
            except BaseException:
                crew.dismiss(worker)
                yield from _drain(crew, busy)
                raise
            else:
                idle.append(worker)
                yield from outcomes
    finally:
        for worker in (*idle, *(each for each, _ in busy.values())):
            crew.dismiss(worker)


def _after_death(work: _Work, reason: str, again: deque[_Work]) -> Iterator[Outcome]:
    """Queue the work once more, or its members apart; a member that dies alone fails."""
    deaths = work.deaths + 1
    if work.alone:
        message = f"drawing this picture ended its process {DEATHS + 1} times: {reason[:200]}"
        yield Failed(job=work.batch.jobs[0], kind="crashed", message=message)
    elif deaths < DEATHS:
        again.append(_Work(work.batch, deaths))
    else:
        for job in work.batch.jobs:
            again.append(_Work(replace(work.batch, jobs=(job,)), alone=True))


def _shares(workers: int, gpus: int, cpus: int, threads: int) -> tuple[int, dict[str, float]]:
    """(workers, what each asks of Ray). A batch that takes a whole machine takes one like this."""
    if gpus:
        return workers or gpus, {"num_gpus": gpus / (workers or gpus)}
    each = threads or cores()
    size = workers or max(1, cpus // each)
    share = min(float(each), cpus / size)
    # Ray takes fractions below 1 only.
    return size, {"num_cpus": share if share < 1 else float(int(share))}


def _drain(crew: Crew, busy: dict[Any, tuple[Any, _Work]]) -> Iterator[Outcome]:
    """Finish and give out what others had under way, before an error ends the run."""
    while busy:
        ticket = crew.first_done(list(busy))
        worker, _ = busy.pop(ticket)
        with suppress(Exception):
            yield from crew.collect(ticket)
        crew.dismiss(worker)


class RayCrew:
    """Workers as Ray actors."""

    def __init__(self, spec: Spec, render: Render, *, threads: int, device: str) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        self._ray: Any = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            place = {"address": spec.address} if spec.address else {"include_dashboard": False}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **place)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
        self.size, share = _shares(spec.workers, gpus, int(resources.get("CPU", 1)), threads)

        class Artist:
            def __init__(self, render: Render) -> None:
                self._render = render

            def draw(self, batch: Batch) -> list[Outcome]:
                return self._render(batch)

        options = {"max_restarts": 0, "max_task_retries": 0, **share}
        self._actor: Any = ray.remote(Artist).options(**options)
        self._render = ray.put(render)

    def hire(self) -> Any:
        """A new actor; it opens its own base with its first batch."""
        return self._actor.remote(self._render)

    def give(self, worker: Any, batch: Batch) -> Any:
        """Start drawing."""
        return worker.draw.remote(batch)

    def first_done(self, tickets: list[Any]) -> Any:
        """Wait for any."""
        return self._ray.wait(tickets, num_returns=1)[0][0]

    def collect(self, ticket: Any) -> list[Outcome]:
        """Raises WorkerDied for a dead actor, and the original error of `render`."""
        errors = self._ray.exceptions
        try:
            outcomes: list[Outcome] = self._ray.get(ticket)
            return outcomes
        except errors.RayTaskError as error:
            raise error.cause from None
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            raise WorkerDied(str(error).splitlines()[0]) from None

    def dismiss(self, worker: Any) -> None:
        """End an actor."""
        with suppress(Exception):
            self._ray.kill(worker, no_restart=True)

    def close(self) -> None:
        """Stop Ray if this engine started it."""
        if self._mine:
            self._ray.shutdown()
