"""Events become JSON lines or paths on standard output; errors and the summary close a command.

Standard output is data, standard error is for people. Whatever happens, the last thing told is the
summary. A reader that goes away (`| head`) never stops a run.

Does not: decide exit codes (an event or an error carries its own) or know what a workflow is.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TextIO

from creatok_cli.cli.progress import (
    Progress,
    ProgressKind,
    Silence,
    Tally,
    duration,
    failure_line,
    open_progress,
    printable,
)
from creatok_cli.domain import (
    Event,
    ExploreSummary,
    Found,
    FuseSummary,
    JobFailed,
    LearnSummary,
    Notice,
    Planned,
    Profile,
    Summary,
    TokenFused,
)
from creatok_cli.errors import CreatokError, Interrupted, SheetError

EVENT_SCHEMA = 1
"""Rises when a field of an event changes its meaning or goes away."""
LISTED_FAILURES = 20
LEARN, FUSE, EXPLORE = "learn-token", "fuse", "explore"
LISTED_CONCEPTS = 5
AnySummary = Summary | LearnSummary | FuseSummary | ExploreSummary


class Stream:
    """A text stream whose reader may go away.

    After a failed write the rest is dropped, and `error` says why.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop the text when an earlier write failed."""
        if self.error is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush, and learn here that the reader is gone."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._drop(error)

    def _drop(self, error: OSError) -> None:
        # What is still buffered goes to the null device: Python's own last flush must not fail,
        # it would end the process with code 120.
        self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def event_name(event: Event) -> str:
    """`ImageWritten` is `image_written`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


class Report:
    """The one listener of a command: it shows events, errors and, last of all, the summary."""

    def __init__(self, out: TextIO, err: TextIO, *, json_lines: bool) -> None:
        self.out, self.err = out, err
        self.json_lines = json_lines
        self.quiet = False
        self.tally = Tally()
        self.progress: Progress = Silence(err)
        self.resume = ""
        self.command = ""
        """The command's name, known before its words are read."""
        self._summary: AnySummary | None = None
        self._made: list[str] = []
        """Files of tokens and LoRAs."""
        self._failures: list[JobFailed] = []
        self._profile: Profile | None = None

    def begin(self, kind: ProgressKind, *, quiet: bool, resume: str) -> None:
        """A workflow is about to start. `resume` is the command that would go on after a stop."""
        self.quiet, self.resume = quiet, resume
        self.progress = open_progress(kind, self.err, quiet=quiet, json_lines=self.json_lines)

    @property
    def underway(self) -> bool:
        """Whether work is being done, so that stopping waits for the current step."""
        return self.tally.is_working and self._summary is None

    @property
    def unit(self) -> str:
        """What the command makes one of at a time."""
        return "step" if self.command in (LEARN, FUSE, EXPLORE) else "picture"

    @property
    def told(self) -> bool:
        """Whether a workflow ran, so that the exit code is its own."""
        return self._summary is not None

    def show(self, event: Event) -> None:
        """Count an event and show it; a summary waits for `finish`."""
        if isinstance(event, AnySummary):
            self._summary = event
            return
        self.tally.add(event)
        if self.json_lines:
            self._json(event_name(event), event_fields(event))
        self.progress.show(event, self.tally)
        match event:
            case Planned(files=files) if files and not self.json_lines:
                self.out.write(
                    "".join(
                        f"{'skip' if there else 'write'}  {printable(name)}\n"
                        for name, there in files
                    )
                )
            case JobFailed():
                self._failures.append(event)
            case TokenFused():
                self._made += [event.path] if event.path else []
            case Profile():
                self._profile = event
            case Found():
                self._made += [path for path in (event.path, event.lora) if path]
            case Notice(level=level, message=message) if not self.json_lines and (
                level == "warning" or not self.quiet
            ):
                self.progress.say(f"{level}: {message}")
            case _:
                pass

    def fail(self, error: CreatokError, *, crash_file: str = "") -> None:
        """An error ends the run: say it, and let the summary carry its code."""
        if self.json_lines:
            problems = (
                [asdict(problem) for problem in error.problems]
                if isinstance(error, SheetError)
                else []
            )
            self._json(
                "error",
                {
                    "code": error.code,
                    "reason": error.reason,
                    "message": str(error),
                    "problems": problems,
                    "crash_file": crash_file,
                },
            )
        else:
            self.progress.say(
                str(error) if isinstance(error, SheetError) else f"error[{error.reason}]: {error}"
            )
        if self._summary is None:
            self._summary = self._broken_off(error)
        else:
            self._summary = replace(
                self._summary, code=error.code, reason=error.reason, retryable=error.retryable
            )

    def _broken_off(self, error: CreatokError) -> AnySummary:
        """The summary of a command that could not tell its own."""
        if self.command == LEARN:
            return self.tally.learn_summary(error, self.resume)
        if self.command == FUSE:
            return self.tally.fuse_summary(error, self.resume)
        if self.command == EXPLORE:
            return self.tally.explore_summary(error, self.resume)
        return self.tally.summary(error, self.resume)

    def finish(self) -> int:
        """Close the bar, say the summary as the last thing, and return the exit code."""
        self.progress.close()
        summary = self._summary
        if summary is None:
            return 0
        if self.json_lines:
            self._json("summary", asdict(summary))
            return summary.code
        for name in (*self._made, *results_of(summary)):
            self.out.write(printable(name) + "\n")
        self.out.flush()
        if summary.code or not self.quiet:
            if isinstance(summary, LearnSummary):
                self._say_learned(summary)
            elif isinstance(summary, FuseSummary):
                self._say_fused(summary)
            elif isinstance(summary, ExploreSummary):
                self._say_explored(summary)
            else:
                self._say_summary(summary)
        return summary.code

    def lay_out(self, name: str, fields: Mapping[str, Any]) -> None:
        """Facts by name as data: one JSON event, or lines of `name: value`."""
        if self.json_lines:
            self._json(name, fields)
            return
        for key, value in fields.items():
            if isinstance(value, Mapping):
                self.out.write(f"{key}:\n")
                for inner, member in value.items():
                    self.out.write(f"  {inner}: {printable(str(member))}\n")
            else:
                self.out.write(f"{key}: {printable(str(value))}\n")
        self.out.flush()

    def _say_learned(self, summary: LearnSummary) -> None:
        err = Silence(self.err)
        if summary.word:
            err.say(learned_line(summary))
        if summary.name and not summary.code:
            err.say(f"use it in a sheet: tokens: {{{summary.word}: {summary.name}}}")
        if summary.code and summary.resume:
            err.say(f"go on with: {summary.resume}")

    def _say_fused(self, summary: FuseSummary) -> None:
        err = Silence(self.err)
        if summary.tokens:
            err.say(fused_line(summary))
        if summary.name and not summary.code:
            err.say(f"use it in a sheet: tokens: {{{summary.word}: {summary.name}}}")
        for failure in self._failures[:LISTED_FAILURES] if summary.code else ():
            err.say(f"  {failure_line(failure)}")
        if summary.code and summary.resume:
            err.say(f"go on with: {summary.resume}")

    def _say_explored(self, summary: ExploreSummary) -> None:
        err = Silence(self.err)
        if summary.out:
            err.say(explored_line(summary))
        for failure in self._failures[:LISTED_FAILURES] if summary.code else ():
            err.say(f"  {failure_line(failure)}")
        if summary.code and summary.resume:
            err.say(f"go on with: {summary.resume}")

    def _say_summary(self, summary: Summary) -> None:
        err = Silence(self.err)
        if summary.planned or not summary.code:
            err.say(summary_line(summary))
        for line in profile_lines(self._profile) if self._profile is not None else ():
            err.say(line)
        if summary.code and summary.planned:
            for failure in self._failures[:LISTED_FAILURES]:
                err.say(f"  {failure_line(failure)}")
            if len(self._failures) > LISTED_FAILURES:
                err.say(f"  and {len(self._failures) - LISTED_FAILURES} more, all in the manifest")
        if summary.code == Interrupted.code and self.tally.drawing_s is not None:
            err.say(
                "work in flight, at most one batch, was dropped; every finished picture is kept"
            )
        if summary.code and summary.resume:
            err.say(f"go on with: {summary.resume}")

    def _json(self, name: str, fields: Mapping[str, Any]) -> None:
        self.out.write(json.dumps({"schema": EVENT_SCHEMA, "event": name, **fields}) + "\n")
        self.out.flush()


def event_fields(event: Event) -> dict[str, Any]:
    """The fields of an event as JSON data; files of a dry run and stages become objects."""
    fields = asdict(event)
    if isinstance(event, Planned):
        fields["files"] = [{"file": name, "there": there} for name, there in event.files]
    if isinstance(event, Profile):
        names = ("stage", "seconds", "times")
        fields["stages"] = [dict(zip(names, each, strict=True)) for each in event.stages]
    return fields


def results_of(summary: AnySummary) -> list[str]:
    """The paths that a person would open next."""
    if isinstance(summary, ExploreSummary):
        return [*summary.figures, *summary.contact_sheets]
    if isinstance(summary, Summary | FuseSummary):
        return list(summary.contact_sheets)
    return [path for path in (summary.path, summary.report) if path]


ENDINGS = {
    "done": "all steps were taken",
    "capped": "every pair is near enough",
    "plateau": "it no longer got better",
    "stopped": "stopped; what was learned so far is kept",
    "diverged": "it diverged; the last good state is kept",
    "dead": "there was nothing to learn; nothing was stored",
}


def learned_line(summary: LearnSummary) -> str:
    """One line for people: what was learned, how long it took, why it ended."""
    why = ENDINGS.get(summary.ended, summary.ended)
    what = f"{summary.word}: {summary.steps:,} steps in {duration(summary.seconds)}"
    return f"{what}; {why}" if why else what


def fused_line(summary: FuseSummary) -> str:
    """One line for people: `<chimera>: pig 55 %, snake 45 %, in 0.4 s`."""
    if not summary.word:
        return f"{summary.tokens} mixes fused in {duration(summary.seconds)}"
    parts = [f"{name} {weight:.1%}".replace(".0%", "%") for name, weight in summary.mix]
    more = len(parts) - LISTED_CONCEPTS
    said = ", ".join(parts[:LISTED_CONCEPTS]) + (f" and {more} more" if more > 0 else "")
    return f"{summary.word}: {said}, in {duration(summary.seconds)}"


def explored_line(summary: ExploreSummary) -> str:
    """One line for people: `12 finds among 64 looked at, in out/explore/distok-0, in 40 s`."""
    finds = f"{summary.finds} find{'' if summary.finds == 1 else 's'}"
    among = f" among {summary.looked_at:,} looked at" if summary.looked_at else ""
    return f"{finds}{among}, in {summary.out}, in {duration(summary.seconds)}"


def profile_lines(profile: Profile) -> list[str]:
    """Lines for people: how busy the device was, a line per stage, and how full the writers."""
    lanes = f" with {profile.lanes} threads" if profile.lanes > 1 else ""
    lines = [
        f"profile: {profile.device} was busy {profile.busy:.0%} of {duration(profile.seconds)} of "
        f"drawing{lanes}"
    ]
    total = sum(seconds for _, seconds, _ in profile.stages) or 1.0
    for stage, seconds, times in profile.stages:
        each = seconds / times
        told = f"{each:.2f} s" if each >= 1 else f"{1000 * each:.3g} ms"
        lines.append(f"  {stage:<10}{seconds:>9.2f} s {seconds / total:>6.1%}  {times} x {told}")
    lines.append(f"  at most {profile.queued} of {profile.queue} pictures waited for the writers")
    return lines


def summary_line(summary: Summary) -> str:
    """One line for people: counts, time, place."""
    counts = f"{summary.done} drawn, {summary.skipped} already there, {summary.failed} failed"
    if summary.remaining and not summary.code:
        there = f"{summary.skipped} already there"
        return f"{summary.planned} pictures planned, {there}; nothing was drawn"
    left = f", {summary.remaining} remaining" if summary.remaining else ""
    speed = f" ({summary.images_per_second:.2f} images/s)" if summary.done else ""
    return (
        f"{summary.done + summary.skipped} of {summary.planned} pictures in {summary.out}: "
        f"{counts}{left}, in {duration(summary.seconds)}{speed}"
    )


@dataclass
class Session:
    """What `main` hands to a command: its words, the report, and the wish to stop."""

    argv: Sequence[str]
    report: Report
    stop: threading.Event = field(default_factory=threading.Event)
