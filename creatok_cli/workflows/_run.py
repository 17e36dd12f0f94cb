"""Plan -> files: what is missing is drawn, published and accounted for.

The same command again is the resume. A batch belongs to the plan: one that misses a member is drawn
whole and only the missing files are published, so a resumed run has the bytes of an uninterrupted
one. A finished plan opens nothing.

Does not: know sheets, bases or renderers: it gets a plan and a function that draws batches.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from creatok_cli import durable, registry
from creatok_cli.domain import (
    Batch,
    Event,
    Failed,
    Job,
    Notice,
    Plan,
    Planned,
    Profile,
    Rendered,
    Stage,
    Summary,
)
from creatok_cli.errors import CreatokError, IntegrityError, Interrupted
from creatok_cli.sinks import manifest
from creatok_cli.sinks._pool import WriterPool
from creatok_cli.sinks.base import Committed, MetadataMode, Output, Sink, file_of
from creatok_cli.workflows import _plan_file
from creatok_cli.workflows._account import Account
from creatok_cli.workflows._attempts import DEATHS, Attempts, crashed
from creatok_cli.workflows._lock import finishing, held
from creatok_cli.workflows._picks import Picking
from creatok_cli.workflows._scores import Scoring
from creatok_cli.workflows._sort import Overwrite, copy_picture, sort_jobs

CORE = ("png", "manifest")
"""Every run has them, the manifest last."""
DERIVED = ("contact_sheet", "gallery")
QUEUED_BATCHES = 3
"""Batches that wait for the writers before drawing waits for them (performance 5.3: 2 to 4)."""
PICTURE_OVERHEAD_BYTES = 4096

Drawn = Rendered | Failed | Notice | Stage | Profile
Watch = Callable[[Batch], AbstractContextManager[None]]
"""Entered around the drawing of a batch, on the thread that draws it."""


class Stop(Protocol):
    """What a signal handler sets: `threading.Event` or alike."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a run is given."""

    plan: Plan
    """What this run is for: a shard, or the chosen rows."""
    whole: Plan
    """The plan of the whole sheet: order of contact sheets and galleries, and `plan.json`."""
    out: Path
    draw: Callable[[Plan, Iterable[Batch], Watch], Iterator[Drawn]]
    """Opens what is needed and draws the batches; called only if something is missing."""
    overwrite: Overwrite = "skip"
    fail_fast: bool = False
    metadata: MetadataMode = "full"
    sinks: Sequence[str] = DERIVED
    """Beside `png` and `manifest`, which every run has."""
    starts: Mapping[str, str] = field(default_factory=dict)
    """Path by digest of the pictures that jobs begin from: contact sheets show them."""
    device: str = "auto"
    resume: str = ""
    stop: Stop | None = None
    scoring: Scoring | None = None
    picking: Picking | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self.stop is not None and self.stop.is_set()


def run(task: Task) -> Iterator[Event]:
    """Draws what the folder misses. The last event is the Summary; a CreatokError may follow it."""
    started = time.monotonic()
    durable.open_root(task.out, create=True)
    with held(task.out, task.plan.shard) as notice:
        if notice is not None:
            yield notice
        yield from _Run(task, started).events()


class _Run:
    """The state of one run under its lock."""

    def __init__(self, task: Task, started: float) -> None:
        self.task, self.started = task, started
        self.drawing_since: float | None = None
        self.committed: SimpleQueue[Committed] = SimpleQueue()
        self.account = Account(len(task.plan.jobs), fail_fast=task.fail_fast)
        self.backed_off = False
        self.error: CreatokError | None = None
        with manifest.trusted(str(task.out)):
            self.old_plan = _plan_file.read_plan(task.out)
            self.ledger = manifest.read(task.out)
            parents = {file_of(job).rpartition("/")[0] for job in task.plan.jobs} | {""}
            durable.sweep(task.out, parents, shard=task.plan.shard)
            self.sorted = sort_jobs(
                task.plan,
                task.out,
                self.ledger,
                overwrite=task.overwrite,
                metadata=task.metadata,
            )
        self.out = Output(
            folder=task.out,
            writer=durable.Writer(run=durable.new_run(), shard=task.plan.shard),
            metadata=task.metadata,
            ledger=self.ledger,
            commit=self.committed.put,
            replaceable=self.sorted.replaceable,
            starts=task.starts,
        )

    def events(self) -> Iterator[Event]:
        """Everything up to the summary."""
        self._begin_scores()
        with ExitStack() as stack:
            self._open_sinks(stack)
            yield from self._keep()
            self._write_plan()
            batches = self._batches(stack)
            self.account.open(
                [*self.sorted.todo, *(file_of(failed.job) for failed in self.sorted.lost)]
            )
            yield from self._warnings()
            yield Planned(
                planned=self.account.planned,
                skipped=self.account.skipped,
                todo=self.account.planned - self.account.skipped,
                batches=len(batches),
                out=str(self.task.out),
            )
            yield from self._record_lost()
            if batches:
                yield from self._draw(batches)
            yield from self._finish()
        yield self._summary()
        if self.error is not None and not isinstance(self.error, Interrupted):
            raise self.error

    # Before drawing

    def _begin_scores(self) -> None:
        """What cannot be scored or picked is told before a picture is drawn."""
        task = self.task
        if task.scoring is not None:
            task.scoring.begin(self.out, task.plan, is_drawing=bool(self.sorted.todo))
        if task.picking is not None:
            task.picking.begin(task.whole)

    def _open_sinks(self, stack: ExitStack) -> None:
        """Others first, so that a picture they refuse is tried again; then png, then manifest."""
        others = [name for name in dict.fromkeys(self.task.sinks) if name not in CORE]
        self.sinks: list[tuple[Sink, bool]] = []
        for name in (*others, *CORE):
            module = registry.get("sinks", name)
            sink: Sink = module.build(module.Spec(), self.out, self.task.whole)
            self.sinks.append((sink, bool(getattr(module, "PARALLEL", False))))
        last = self.sinks[-1][0]
        assert isinstance(last, manifest.ManifestSink)
        self.manifest = last
        stack.callback(_close_quietly, last)

    def _keep(self) -> Iterator[Event]:
        """Lines for intact pictures that have none, and copies for renamed rows."""
        for job, checked in self.sorted.adopted:
            self.manifest.adopt(job, checked)
        copies = 0
        for job, line in self.sorted.copied:
            found = copy_picture(self.out, job, line)
            if found is None:
                self.sorted.todo[file_of(job)] = job
            else:
                self.manifest.adopt(job, found)
                copies += 1
        self.manifest.flush()
        # These were there before; only what is owed from here on is counted.
        while not self.committed.empty():
            self.committed.get()
        if copies:
            names = "picture was" if copies == 1 else "pictures were"
            message = f"{copies} {names} drawn before under another name, and copied"
            yield Notice(level="info", message=message)

    def _write_plan(self) -> None:
        new = _plan_file.plan_record(self.task.whole, self.task.device, self.old_plan)
        if new != self.old_plan:
            text = json.dumps(new, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            with manifest.trusted(_plan_file.NAME):
                durable.replace_derived(
                    self.task.out, _plan_file.NAME, text.encode(), writer=self.out.writer
                )

    def _batches(self, stack: ExitStack) -> list[Batch]:
        """What to draw: whole batches, or single members of one that has killed two runs."""
        self.attempts = Attempts(self.task.out)
        stack.callback(self.attempts.close)
        todo = self.sorted.todo
        batches: list[Batch] = []
        for batch in self.task.plan.batches:
            missing = [job for job in batch.jobs if file_of(job) in todo]
            is_poisoned = self.attempts.deaths(batch) >= DEATHS
            if not missing:
                continue
            if not is_poisoned or self.task.overwrite == "replace":
                batches.append(batch)
                continue
            for job in missing:
                alone = replace(batch, jobs=(job,))
                if self.attempts.deaths(alone) < DEATHS:
                    batches.append(alone)
                else:
                    del todo[file_of(job)]
                    self.sorted.lost.append(crashed(job))
        return batches

    def _warnings(self) -> Iterator[Event]:
        messages = []
        if self.ledger.bad:
            lines = "line" if self.ledger.bad == 1 else "lines"
            messages.append(
                f"the manifest has {self.ledger.bad} unreadable {lines}; "
                "the pictures themselves were checked"
            )
        if self.sorted.damaged:
            messages.append(f"{self.sorted.damaged} damaged pictures of ours are drawn again")
        if self.sorted.todo:
            changed = _plan_file.stack_changes(self.old_plan, self.task.device)
            if changed:
                messages.append(
                    f"this folder was begun with another stack ({changed}): new pictures may "
                    "differ in detail from what the old stack would have drawn"
                )
            sizes = (job.size_px for job in self.sorted.todo.values())
            needed = sum(w * h * 3 + PICTURE_OVERHEAD_BYTES for w, h in sizes)
            free = shutil.disk_usage(self.task.out).free
            if needed > free:
                messages.append(f"up to {needed >> 20} MiB to write, {free >> 20} MiB free")
        yield from (Notice(level="warning", message=message) for message in messages)

    def _record_lost(self) -> Iterator[Event]:
        for failed in self.sorted.lost:
            self.manifest.fail(failed)
        self.manifest.flush()
        yield from self._drain()

    # Drawing

    def _draw(self, batches: list[Batch]) -> Iterator[Event]:
        task = self.task
        todo = replace(task.plan, batches=tuple(batches))
        feed = _Feed(batches, lambda: self.account.tripped or task.is_stopping)
        largest = max(batch.batch_class for batch in batches)
        pool = WriterPool(self.sinks, limit=QUEUED_BATCHES * largest)
        self.drawing_since = time.monotonic()
        try:
            try:
                for item in task.draw(todo, feed.iterate(), self.attempts.watch):
                    if isinstance(item, Notice | Stage):
                        yield item
                    elif isinstance(item, Profile):
                        yield replace(item, queued=pool.most_queued, queue=pool.limit)
                    else:
                        yield from self._take(item, feed, pool)
                        yield from self._drain()
            finally:
                try:
                    pool.close()
                finally:
                    self.manifest.flush()
        except CreatokError as error:
            self.error = error
        yield from self._drain()

    def _take(self, item: Rendered | Failed, feed: _Feed, pool: WriterPool) -> Iterator[Event]:
        """One result of the engine: to the writers, or compared with its published twin."""
        file = file_of(item.job)
        if not feed.received(item.job):
            self.account.complain(f"{file} came from the engine without being asked, or twice")
        elif file in self.sorted.todo:
            self.account.give(item)
            pool.put(item)
        elif isinstance(item, Rendered):
            yield from self.account.drift.compare(item, self.ledger.by_file.get(file))
        if isinstance(item, Rendered) and not self.backed_off:
            made = item.provenance
            self.backed_off = made.batch_effective < made.batch_class
            if self.backed_off:
                yield Notice(
                    level="warning",
                    message=f"memory was short: batches of {made.batch_effective} instead of "
                    f"{made.batch_class} from here on, recorded with each picture",
                )

    def _drain(self) -> Iterator[Event]:
        """What the writers have finished, as events."""
        while True:
            try:
                committed = self.committed.get_nowait()
            except Empty:
                return
            yield from self.account.settle(committed)

    # After drawing

    def _finish(self) -> Iterator[Event]:
        """Derived files and the last notices."""
        task, shard = self.task, self.task.plan.shard
        self.out.stopped = task.is_stopping or self.error is not None
        if not self.out.stopped and task.scoring is not None:
            yield from self._measured(task.scoring.score(self.out, task.plan))
            self.out.stopped = task.scoring.is_cut
        if self.out.stopped:
            yield from self._close_others()
        else:
            yield Stage(name="finishing")
            with finishing(task.out, shard) as is_alone:
                self.out.stopped = not is_alone
                if is_alone and shard != (1, 1):
                    with manifest.trusted(str(task.out)):
                        self.out.ledger = manifest.read(task.out)
                if is_alone and self.error is None:
                    yield from self._measured(self._close_scores())
                yield from self._close_others()
        yield from self.account.drift.close()
        yield from (Notice(level="warning", message=note) for note in self.out.notes)

    def _close_scores(self) -> Iterator[Event]:
        """Scores of sets, and picks, of the whole plan."""
        task = self.task
        if task.scoring is not None:
            yield from task.scoring.close(self.out, task.whole)
        if task.picking is not None and not self._is_cut:
            yield from task.picking.pick(self.out, task.whole, task.scoring)
        self.out.stopped = self._is_cut

    def _measured(self, events: Iterator[Event]) -> Iterator[Event]:
        """A scorer that fails costs its scores, never the pictures or their pages."""
        try:
            yield from events
        except CreatokError as error:
            self.error = error

    @property
    def _is_cut(self) -> bool:
        """Whether a stop has left something to score or to pick."""
        makers = (self.task.scoring, self.task.picking)
        return any(maker is not None and maker.is_cut for maker in makers)

    def _close_others(self) -> Iterator[Event]:
        for sink, _ in self.sinks[: -len(CORE)]:
            try:
                sink.close()
            except CreatokError as error:
                self.error = self.error or error
            except Exception as error:  # noqa: BLE001 - the pictures are safe
                message = f"{type(sink).__name__} did not finish: {error or type(error)}"
                yield Notice(level="warning", message=message)

    def _summary(self) -> Summary:
        """Reconciles and ends."""
        task, account = self.task, self.account
        for file in gone(task.out, account.published):
            account.complain(f"{file} was published and is gone")
        is_complete = self.error is None and not task.is_stopping
        lost = account.reconcile(is_complete=is_complete)
        remaining = len(account.waiting)
        if (remaining and task.is_stopping) or self._is_cut:
            self.error = Interrupted("stopped on request; the same command goes on")
        self.error = self.error or lost
        verdict = account.verdict(self.error, is_cut=self._is_cut)
        now = time.monotonic()
        drawing_s = now - (self.drawing_since or now)
        return Summary(
            planned=account.planned,
            done=account.done,
            skipped=account.skipped,
            failed=account.failed,
            remaining=remaining,
            out=str(task.out),
            seconds=round(now - self.started, 3),
            images_per_second=round(account.done / drawing_s, 4) if drawing_s > 0 else 0.0,
            code=verdict.code,
            reason=verdict.reason,
            retryable=verdict.retryable,
            contact_sheets=tuple(str(task.out / name) for name in self.out.derived),
            resume=task.resume if remaining or account.failed or self._is_cut else "",
        )


class _Feed:
    """Hands batches to the engine one by one, and knows what it owes."""

    def __init__(self, batches: Sequence[Batch], is_halted: Callable[[], bool]) -> None:
        self._batches, self._is_halted = batches, is_halted
        self._owed: set[str] = set()

    def iterate(self) -> Iterator[Batch]:
        """The batches, until the run is asked to stop."""
        for batch in self._batches:
            if self._is_halted():
                return
            self._owed.update(job.name for job in batch.jobs)
            yield batch

    def received(self, job: Job) -> bool:
        """Books one result; False if it was not owed."""
        is_owed = job.name in self._owed
        self._owed.discard(job.name)
        return is_owed


def gone(out: Path, files: Iterable[str]) -> Iterator[str]:
    """Pictures of this run that are not there any more: `done` means a file that is there."""
    with durable.places(out) as at:
        for file in files:
            try:
                is_there = at(file).stat() is not None
            except OSError:
                is_there = False
            if not is_there:
                yield file


def _close_quietly(sink: Sink) -> None:
    """On the way out of a failed run: what could not be flushed is adopted by the next run."""
    with suppress(OSError, IntegrityError):
        sink.close()
