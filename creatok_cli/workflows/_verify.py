"""Runs that draw nothing: the full check of a folder, and the rehearsal of a run.

Does not: open a base or import torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from creatok_cli import durable
from creatok_cli.domain import Event, Failed, FailureKind, Notice, Planned, Stage, Summary
from creatok_cli.errors import IntegrityError, Interrupted
from creatok_cli.sinks import manifest
from creatok_cli.sinks.base import Output, file_of
from creatok_cli.workflows._account import failure
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._run import Task
from creatok_cli.workflows._sort import Sorted, sort_jobs

KINDS: Mapping[str, FailureKind] = {
    "absent": "missing",
    "damaged": "damaged",
    "foreign": "foreign-file",
}


def verify(task: Task) -> Iterator[Event]:
    """Re-hashes every picture and derives its key again from its own recipe. Draws nothing.

    Damaged, missing, edited and foreign pictures are failed jobs (exit 3) and get a line in the
    manifest, so that the next plain run draws damaged ones again. Pictures never drawn are
    `remaining`, which is exit 3 as well: 0 means that all planned pictures are there and whole.
    """
    started = time.monotonic()
    durable.open_root(task.out)
    with manifest.trusted(str(task.out)):
        ledger = manifest.read(task.out)
    yield Planned(planned=len(task.plan.jobs), skipped=0, todo=0, batches=0, out=str(task.out))
    yield Stage(name="verifying", detail=f"{len(task.plan.jobs)} pictures")
    good, remaining, bad, seen = 0, 0, [], 0
    for job in task.plan.jobs:
        if task.is_stopping:
            break
        seen += 1
        line = ledger.by_file.get(file_of(job))
        checked = manifest.check(task.out, job, line)
        if checked.verdict == "intact":
            good += 1
        elif checked.verdict == "absent" and not manifest.is_owned(job, line):
            remaining += 1
        else:
            message = f"{file_of(job)}: {checked.reason}"
            bad.append(Failed(job=job, kind=KINDS[checked.verdict], message=message))
            yield failure(bad[-1])
    if bad:
        yield from record_bad(task, ledger, bad)
    remaining += len(task.plan.jobs) - seen
    code, reason = (3, "failed-jobs") if bad else (3, "incomplete") if remaining else (0, "ok")
    if seen < len(task.plan.jobs):
        code, reason = Interrupted.code, Interrupted.reason
    yield Summary(
        planned=len(task.plan.jobs),
        done=0,
        skipped=good,
        failed=len(bad),
        remaining=remaining,
        out=str(task.out),
        seconds=round(time.monotonic() - started, 3),
        images_per_second=0.0,
        code=code,
        reason=reason,
        retryable=code == Interrupted.code,
        resume=task.resume if code else "",
    )


def record_bad(task: Task, ledger: manifest.Ledger, bad: Sequence[Failed]) -> Iterator[Event]:
    """Lines for what the full check has found; a folder that cannot be written is only told."""
    try:
        with held(task.out, task.plan.shard):
            out = Output(
                folder=task.out,
                writer=durable.Writer(run=durable.new_run(), shard=task.plan.shard),
                metadata=task.metadata,
                ledger=ledger,
            )
            sink = manifest.build(manifest.Spec(), out, task.plan)
            try:
                for failed in bad:
                    if failed.kind != "missing":
                        sink.fail(failed)
            finally:
                sink.close()
    except IntegrityError as error:
        message = f"the findings could not be written to the manifest: {error}"
        yield Notice(level="warning", message=message)


def rehearse(task: Task) -> Iterator[Event]:
    """A dry run: what would be drawn and what is there already. Locks and writes nothing."""
    started = time.monotonic()
    found = Sorted()
    if task.out.is_dir():
        with manifest.trusted(str(task.out)):
            found = sort_jobs(
                task.plan,
                task.out,
                manifest.read(task.out),
                overwrite=task.overwrite,
                metadata=task.metadata,
            )
    else:
        found.todo = {file_of(job): job for job in task.plan.jobs}
    todo = found.todo
    batches = sum(any(file_of(job) in todo for job in batch.jobs) for batch in task.plan.batches)
    drawn = todo.keys() | {file_of(failed.job) for failed in found.lost}
    planned = len(task.plan.jobs)
    files = tuple((file_of(job), file_of(job) not in drawn) for job in task.plan.jobs)
    yield Planned(
        planned=planned,
        skipped=planned - len(drawn),
        todo=len(drawn),
        batches=batches,
        out=str(task.out),
        files=files,
    )
    yield from (Notice(level="warning", message=failed.message) for failed in found.lost)
    yield Summary(
        planned=planned,
        done=0,
        skipped=planned - len(drawn),
        failed=0,
        remaining=len(drawn),
        out=str(task.out),
        seconds=round(time.monotonic() - started, 3),
        images_per_second=0.0,
        code=0,
        reason="dry-run",
        retryable=False,
    )
