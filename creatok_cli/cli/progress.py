"""Where people see a run move: a Rich bar on a terminal, plain lines in a log, or nothing.

A Tally counts the events, so that a run that breaks off still ends with an honest summary. Prompts,
names and messages are data: they are never Rich markup, and control, bidi and surrogate characters
are written as escapes.

Does not: write to standard output, or import Rich before a bar is wanted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from creatok_cli.domain import (
    Event,
    ExploreSummary,
    Fetching,
    Found,
    FuseSummary,
    ImageWritten,
    JobFailed,
    Learning,
    LearnSummary,
    Planned,
    Stage,
    Summary,
)
from creatok_cli.errors import CreatokError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.table import Table

ProgressKind = Literal["auto", "bar", "plain", "none"]
LINE_EVERY_S = 60.0
LINE_EVERY_PERCENT = 1
LINE_AT_MOST_EVERY_S = 1.0
FETCH_LINE_EVERY_S = 10.0
BAR_CELLS = 30
LEARN_EVERY_PERCENT = 5
TREND_CELLS = 40
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
SPEED, LEFT = "steps_per_second", "left_s"
TIMES = (SPEED, LEFT)
"""Values that the line of progress says in its own words."""
VALUE_NAMES = {"J": "goal J", "cos": "held-out cosine", "norm": "length"}


def printable(text: str) -> str:
    """The text with everything that could steer a terminal written as an escape; newlines stay."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def duration(seconds: float) -> str:
    """`4.2 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Tally:
    """What has happened so far, counted from the events."""

    planned: int = 0
    skipped: int = 0
    todo: int = 0
    done: int = 0
    failed: int = 0
    out: str = ""
    started_s: float = field(default_factory=time.monotonic)
    drawing_s: float | None = None
    is_working: bool = False
    """A signal waits for the step under way."""
    steps: int = 0
    finds: int = 0

    def add(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Planned():
                self.planned, self.skipped, self.todo = event.planned, event.skipped, event.todo
                self.done = self.failed = 0  # a command may draw more than one sheet
                self.drawing_s = None
                self.out = event.out
            case Stage(name="drawing"):
                self.drawing_s = time.monotonic() if self.drawing_s is None else self.drawing_s
                self.is_working = True
            case Stage(name="learning" | "training" | "exploring" | "preparing" | "searching"):
                self.is_working = True
            case Learning():
                self.steps = event.index
            case Found():
                self.finds += 1
            case ImageWritten():
                self.done += 1
            case JobFailed():
                self.failed += 1
            case _:
                pass

    def images_per_second(self) -> float:
        """Mean since drawing began; 0 before the first picture."""
        began_s = self.started_s if self.drawing_s is None else self.drawing_s
        since_s = time.monotonic() - began_s
        return self.done / since_s if self.done and since_s > 0 else 0.0

    def line(self) -> str:
        """`12/24 drawn, 0 failed, 0.65 images/s, 18 s left`."""
        left = self.todo - self.done - self.failed
        rate = self.images_per_second()
        ahead = f", {rate:.2f} images/s, {duration(left / rate)} left" if rate and left > 0 else ""
        return f"{self.done}/{self.todo} drawn, {self.failed} failed{ahead}"

    def summary(self, error: CreatokError, resume: str) -> Summary:
        """The summary of a run that ended with an error."""
        remaining = self.planned - self.skipped - self.done - self.failed
        return Summary(
            planned=self.planned,
            done=self.done,
            skipped=self.skipped,
            failed=self.failed,
            remaining=remaining,
            out=self.out,
            seconds=round(time.monotonic() - self.started_s, 3),
            images_per_second=round(self.images_per_second(), 4),
            code=error.code,
            reason=error.reason,
            retryable=error.retryable,
            resume=resume if remaining else "",
        )

    def learn_summary(self, error: CreatokError, resume: str) -> LearnSummary:
        """The summary of a learning run that ended with an error before it could tell its own."""
        return LearnSummary(
            word="",
            name="",
            id="",
            path="",
            report="",
            steps=self.steps,
            seconds=round(time.monotonic() - self.started_s, 3),
            ended="",
            code=error.code,
            reason=error.reason,
            retryable=error.retryable,
            resume=resume if self.is_working and error.code not in (1, 2) else "",
        )

    def fuse_summary(self, error: CreatokError, resume: str) -> FuseSummary:
        """The summary of a fusing run that ended with an error before it could tell its own."""
        return FuseSummary(
            word="",
            name="",
            id="",
            path="",
            mix=(),
            tokens=0,
            network="",
            out=self.out,
            seconds=round(time.monotonic() - self.started_s, 3),
            code=error.code,
            reason=error.reason,
            retryable=error.retryable,
            resume=resume if self.is_working and error.code not in (1, 2) else "",
        )

    def explore_summary(self, error: CreatokError, resume: str) -> ExploreSummary:
        """The summary of an exploration that ended with an error before it could tell its own."""
        return ExploreSummary(
            method="",
            finds=self.finds,
            looked_at=0,
            out="",
            seconds=round(time.monotonic() - self.started_s, 3),
            code=error.code,
            reason=error.reason,
            retryable=error.retryable,
            resume=resume if self.is_working and error.code not in (1, 2) else "",
        )


class Progress(Protocol):
    """Where people see a run move."""

    def show(self, event: Event, tally: Tally) -> None:
        """An event has been counted."""

    def say(self, text: str) -> None:
        """One line, above a bar if there is one."""

    def close(self) -> None:
        """Take the bar away."""


class Silence:
    """No progress at all; lines that must be said still are."""

    def __init__(self, err: TextIO) -> None:
        self._err = err

    def show(self, event: Event, tally: Tally) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """One line on standard error."""
        self._err.write(printable(text) + "\n")
        self._err.flush()

    def close(self) -> None:
        """Nothing."""


class Lines(Silence):
    """A line per stage, and one per minute or percent, at most one a second: for logs and farms."""

    def __init__(self, err: TextIO) -> None:
        super().__init__(err)
        self._said_s = 0.0
        self._percent = 0
        self._part = -1

    def show(self, event: Event, tally: Tally) -> None:
        """Say the stage, or how far the run is when it is time again."""
        if isinstance(event, Stage):
            self.say(stage_line(event))
        if isinstance(event, JobFailed):
            self.say(failure_line(event))
        if isinstance(event, Found):
            self.say(found_line(event))
        if isinstance(event, Learning):
            self._show_learning(event)
        if isinstance(event, Fetching):
            self._show_fetching(event)
        if isinstance(event, ImageWritten | JobFailed) and tally.todo:
            now_s = time.monotonic()
            finished = tally.done + tally.failed
            percent = 100 * finished // tally.todo
            moved = (
                percent >= self._percent + LINE_EVERY_PERCENT
                and now_s >= self._said_s + LINE_AT_MOST_EVERY_S
            )
            if moved or now_s >= self._said_s + LINE_EVERY_S or finished == tally.todo:
                self._said_s, self._percent = now_s, percent
                self.say(tally.line())

    def _show_learning(self, event: Learning) -> None:
        now_s = time.monotonic()
        part = 100 * event.index // max(1, event.total) // LEARN_EVERY_PERCENT
        moved = part > self._part and now_s >= self._said_s + LINE_AT_MOST_EVERY_S
        if moved or now_s >= self._said_s + LINE_EVERY_S or event.index >= event.total:
            self._said_s, self._part = now_s, part
            values = [
                f"{value_name(name)} {value:.3f}"
                for name, value in event.values.items()
                if name not in TIMES
            ]
            self.say("; ".join([learning_line(event), *values]))

    def _show_fetching(self, event: Fetching) -> None:
        now_s = time.monotonic()
        is_last = event.done_bytes >= event.total_bytes
        if is_last or now_s >= self._said_s + FETCH_LINE_EVERY_S:
            self._said_s = now_s
            self.say(f"{event.name}: {fetching_line(event)}")


class Bar(Silence):
    """A Rich bar with images/s, remaining time and failures. Rich is imported on first use."""

    def __init__(self, err: TextIO) -> None:
        super().__init__(err)
        self._trends: dict[str, Trend] = {}
        self._bar = open_rich_progress(err, self._trends)
        self._task = self._bar.add_task("checking", total=None, rest="")
        self._bar.start()

    def show(self, event: Event, tally: Tally) -> None:
        """Move the bar."""
        if isinstance(event, Learning):
            self._show_learning(event)
            return
        if isinstance(event, Fetching):
            self._bar.update(
                self._task,
                total=event.total_bytes,
                completed=event.done_bytes,
                rest=fetching_line(event),
            )
            return
        if isinstance(event, Stage):
            self._leave_trends()
            self._bar.update(self._task, description=printable(stage_line(event)))
        if isinstance(event, JobFailed):
            self.say(failure_line(event))
        if isinstance(event, Found):
            self.say(found_line(event))
        self._bar.update(
            self._task,
            total=tally.todo or None,
            completed=tally.done + tally.failed,
            rest=tally.line() if tally.todo else "",
        )

    def say(self, text: str) -> None:
        """One line above the bar."""
        from rich.text import Text

        self._bar.console.print(Text(printable(text)), soft_wrap=True)

    def close(self) -> None:
        """Leave the last state of the bar behind."""
        self._bar.stop()

    def _show_learning(self, event: Learning) -> None:
        for name, value in event.values.items():
            if name not in TIMES:
                self._trends.setdefault(name, Trend()).add(value)
        self._bar.update(
            self._task, total=event.total, completed=event.index, rest=learning_line(event)
        )

    def _leave_trends(self) -> None:
        """Learning is over: its numbers stay above the bar."""
        if self._trends:
            self._bar.console.print(trend_table(self._trends))
            self._trends.clear()


class Trend:
    """The numbers of one value, thinned out evenly so that they fit a line of blocks."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self._kept: list[float] = []
        self._every = 1
        self._seen = 0

    def add(self, value: float) -> None:
        """Take the next number."""
        self.first = value if not self._seen else self.first
        self.last = value
        if self._seen % self._every == 0:
            self._kept.append(value)
        self._seen += 1
        if len(self._kept) > 2 * TREND_CELLS:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def blocks(self) -> str:
        """A line of block characters, low to high; what is not finite has none."""
        kept = [value for value in self._kept if math.isfinite(value)]
        count = min(TREND_CELLS, len(kept))
        shown = [kept[index * len(kept) // count] for index in range(count)]
        if not shown:
            return ""
        if math.isfinite(self.last):
            shown[-1] = self.last
        low, high = min(shown), max(shown)
        scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(BLOCKS[round((value - low) * scale)] for value in shown)


def trend_table(trends: Mapping[str, Trend]) -> Table:
    """One row per value: name, course, start and now."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(width=TREND_CELLS, no_wrap=True)
    table.add_column(justify="right")
    for name, trend in trends.items():
        course = f"{trend.first:.3f} \u2192 "
        table.add_row(
            Text(printable(value_name(name)), style="dim"),
            Text(trend.blocks(), style="cyan"),
            Text.assemble((course, "dim"), (f"{trend.last:.3f}", "bold")),
        )
    return table


def value_name(name: str) -> str:
    """`held-out cosine clip_l` for `cos/clip_l`."""
    head, _, rest = name.partition("/")
    return f"{VALUE_NAMES.get(head, head)} {rest}".rstrip()


def learning_line(event: Learning) -> str:
    """`3,400/10,000 steps, 310 steps/s, 21 s left`."""
    rate, left = event.values.get(SPEED, 0.0), event.total - event.index
    ahead = f", {rate:,.0f} steps/s" if rate >= 1 else f", {rate:.2f} steps/s" if rate else ""
    # A method that pauses to draw knows better than the speed of the last seconds.
    left_s = event.values.get(LEFT) or (left / rate if rate else 0.0)
    ahead += f", {duration(left_s)} left" if left_s and left > 0 else ""
    return f"{event.index:,}/{event.total:,} steps{ahead}"


def fetching_line(event: Fetching) -> str:
    """`1.20 of 5.14 GiB`."""
    return f"{event.done_bytes / 2**30:.2f} of {event.total_bytes / 2**30:.2f} GiB"


def stage_line(stage: Stage) -> str:
    """`loading bestiary`."""
    return f"{stage.name} {stage.detail}".rstrip()


def found_line(found: Found) -> str:
    """`found <distok-0-07>: quality 0.912, novelty 0.553`."""
    values = [
        f"{value_name(name)} {value if isinstance(value, str) else format(value, '.3f')}"
        for name, value in found.values.items()
    ]
    what = found.word or os.path.basename(found.lora)
    return f"found {what}" + (f": {', '.join(values)}" if values else "")


def failure_line(failure: JobFailed) -> str:
    """`sheet.yaml:12:5: failed[non-finite]: job boar-03: message`."""
    place = f"{failure.where}: " if failure.where else ""
    return f"{place}failed[{failure.kind}]: job {failure.row}: {failure.message}"


def open_rich_progress(err: TextIO, trends: Mapping[str, Trend]) -> RichProgress:
    """A Rich progress display without markup, on a console that never ends the process.

    While there are trends, they stand below the bar.
    """
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TextColumn

    class Patient(Console):
        def on_broken_pipe(self) -> None:
            # Rich would end the process here, and a run must not end because nobody looks.
            self.quiet = True

    class Board(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            if trends:
                yield trend_table(trends)

    return Board(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_CELLS),
        TextColumn("{task.fields[rest]}", markup=False),
        console=Patient(file=err, markup=False, highlight=False, emoji=False),
        refresh_per_second=5,
    )


def open_progress(kind: ProgressKind, err: TextIO, *, quiet: bool, json_lines: bool) -> Progress:
    """The display for a kind; `auto` is a bar on a terminal, else lines, and none beside JSON."""
    if quiet or kind == "none" or (kind == "auto" and json_lines):
        return Silence(err)
    terminal = err.isatty() and os.environ.get("TERM") != "dumb"
    return Bar(err) if kind == "bar" or (kind == "auto" and terminal) else Lines(err)
