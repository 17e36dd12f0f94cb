"""Accounting: every planned picture gets exactly one outcome, or the run says that it does not.

planned = done + skipped + failed + remaining, where each number is counted by itself. Ten failures
in a row trip the breaker (reliability 2, after Deadline), whether the engine or the disk fails.

Does not: draw, write or wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from creatok_cli.domain import Event, Failed, ImageWritten, JobFailed, Rendered
from creatok_cli.errors import CreatokError, Interrupted, Unaccounted
from creatok_cli.sinks.base import Committed, file_of
from creatok_cli.workflows._drift import Drift

BREAKER = 10
"""So many failures in a row end the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a run ended."""

    code: int
    reason: str
    retryable: bool


class Account:
    """Who is owed an outcome, and who got one."""

    def __init__(self, planned: int, *, fail_fast: bool) -> None:
        self.planned = planned
        self.drift = Drift()
        self.tripped = False
        """Breaker or `--fail-fast`: nothing new is begun."""
        self._fail_fast = fail_fast
        self._kept = 0
        self._owed: set[str] = set()
        self._drawn: set[str] = set()
        self._outcomes: dict[str, str] = {}
        """`done`, `failed` or `there` by file."""
        self._kinds: Counter[str] = Counter()
        self._retriable = True
        self._streak = 0
        """Failures in a row, as the engine gives them."""
        self._unwritten = 0
        """Drawn pictures in a row that could not be written."""
        self._problems: list[str] = []

    def open(self, files: Iterable[str]) -> None:
        """These pictures must get an outcome; all others of the plan are there already."""
        self._owed = set(files)
        self._kept = self.planned - len(self._owed)

    def give(self, item: Rendered | Failed) -> None:
        """The engine has given a result that is owed."""
        if isinstance(item, Failed):
            self._streak += 1
            self.tripped |= self._fail_fast or self._streak >= BREAKER
        else:
            self._streak = 0
            self._drawn.add(file_of(item.job))

    def settle(self, committed: Committed) -> Iterator[Event]:
        """The line of a job is on the disk: its outcome, as an event."""
        job, file = committed.job, file_of(committed.job)
        if file not in self._owed or file in self._outcomes:
            self.complain(f"{file} was accounted for twice")
        elif committed.failed is not None:
            yield self._fail(committed.failed)
        elif committed.published is not None and committed.published.how == "adopted":
            # Another process has published it meanwhile.
            self._unwritten = 0
            self._outcomes[file] = "there"
            if committed.published.pixels != committed.published.drawn_pixels:
                yield from self.drift.tell(job, "another run published it meanwhile")
        else:
            self._unwritten = 0
            self._outcomes[file] = "done"
            yield ImageWritten(
                key=job.key, row=job.row, file=file, seed=job.seed, prompt=job.prompt
            )

    def _fail(self, failed: Failed) -> JobFailed:
        file = file_of(failed.job)
        self._outcomes[file] = "failed"
        self._kinds[failed.kind] += 1
        self._retriable &= failed.retriable
        self._unwritten += file in self._drawn
        self.tripped |= self._fail_fast or self._unwritten >= BREAKER
        return failure(failed)

    def complain(self, problem: str) -> None:
        """Something that makes the numbers untrustworthy."""
        self._problems.append(problem)

    @property
    def done(self) -> int:
        """Made by this run."""
        return self._count("done")

    @property
    def failed(self) -> int:
        """Given up."""
        return self._count("failed")

    @property
    def skipped(self) -> int:
        """There and intact, before this run or from another one."""
        return self._kept + self._count("there")

    @property
    def waiting(self) -> list[str]:
        """Files that are owed and have no outcome."""
        return [file for file in self._owed if file not in self._outcomes]

    @property
    def published(self) -> list[str]:
        """Files that this run has made."""
        return [file for file, outcome in self._outcomes.items() if outcome == "done"]

    def _count(self, outcome: str) -> int:
        return sum(each == outcome for each in self._outcomes.values())

    def reconcile(self, *, is_complete: bool) -> Unaccounted | None:
        """The error if the numbers do not add up. `is_complete`: nothing has stopped the run."""
        waiting = self.waiting
        if waiting and is_complete and not self.tripped:
            self.complain(
                f"{len(waiting)} pictures were never given back by the engine, first {min(waiting)}"
            )
        found = self.done + self.skipped + self.failed + len(waiting)
        if found != self.planned:
            self.complain(f"{self.planned} planned, {found} found")
        if not self._problems:
            return None
        return Unaccounted("; ".join(self._problems[:5]) + "; run the same command again")

    def verdict(self, error: CreatokError | None, *, is_cut: bool = False) -> Verdict:
        """Exit code, reason, retryable; precedence 130, 6, 5, 4, 3. `is_cut`: all pictures have
        their outcome, but a stop has left something undone.
        """
        if error is not None:
            # An interruption after which nothing is left to do is none.
            if not isinstance(error, Interrupted) or self.waiting or is_cut:
                return Verdict(code=error.code, reason=error.reason, retryable=error.retryable)
        if not self.failed:
            return Verdict(code=0, reason="ok", retryable=False)
        if not self.done + self.skipped and self._kinds["oom"] == self.failed:
            return Verdict(code=5, reason="oom", retryable=False)
        reason = "failed-jobs"
        if self.tripped and self.waiting:
            reason = "fail-fast" if self._fail_fast else "breaker"
        elif self._kinds["filtered"] == self.failed:
            reason = "filtered"
        return Verdict(code=3, reason=reason, retryable=self._retriable)


def failure(failed: Failed) -> JobFailed:
    """The event of a job that is given up."""
    job = failed.job
    return JobFailed(
        key=job.key, row=job.row, where=job.where, kind=failed.kind, message=failed.message
    )
