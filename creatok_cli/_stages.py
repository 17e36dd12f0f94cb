"""How long the stages of drawing take, on the device's own clock and without waiting for it.

On CUDA every stage leaves two events in the stream, read once at the end; elsewhere it is the wall
time. `nvidia-smi` says that some kernel ran; the busy share here is the time inside stages.

Does not: time anything unless it is asked to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import Any

import torch

from creatok_cli.domain import Profile

LOAD, CONDITION, DENOISE, DECODE, TO_HOST = "load", "condition", "denoise", "decode", "to host"
STAGES = (LOAD, CONDITION, DENOISE, DECODE, TO_HOST)
WORK = (CONDITION, DENOISE, DECODE, TO_HOST)
"""What counts as busy; loading is told beside it."""


@dataclass(frozen=True, slots=True)
class Span:
    """One stage of one batch, in seconds since the first."""

    stage: str
    lane: int
    """The thread that drew."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Where marks come from."""

    mark: Callable[[], Any]
    between: Callable[[Any, Any], float]
    """Seconds from one mark to another, once `settle` was called."""
    settle: Callable[[], object]


def clock(device: str) -> Clock:
    """The device's own on CUDA, else the wall's."""
    if not device.startswith("cuda"):
        return Clock(time.perf_counter, lambda first, later: later - first, lambda: None)
    new_event: Any = torch.cuda.Event

    def mark() -> Any:
        event = new_event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return Clock(
        mark,
        lambda first, later: float(first.elapsed_time(later)) / 1000,
        lambda: torch.cuda.synchronize(device),
    )


class Stages:
    """Collects the spans of a run; several threads may draw at once."""

    def __init__(self, device: str, own: Clock | None = None) -> None:
        self._device, self._clock = device, own or clock(device)
        self._marks: list[tuple[str, int, Any, Any]] = []
        self._lock = Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside; a stage that raises is not counted."""
        first = self._clock.mark()
        yield
        mark = (name, get_ident(), first, self._clock.mark())
        with self._lock:
            self._marks.append(mark)

    def profile(self) -> Profile:
        """What was collected. Waits for the device."""
        self._clock.settle()
        with self._lock:
            marks = list(self._marks)
        zero = marks[0][2] if marks else None
        between = self._clock.between
        return summed(
            [
                Span(name, lane, between(zero, first), between(zero, last))
                for name, lane, first, last in marks
            ],
            self._device,
        )


def timed(stages: Stages | None, name: str) -> AbstractContextManager[None]:
    """A stage, or nothing where nobody times."""
    return stages.stage(name) if stages is not None else nullcontext()


def summed(spans: Sequence[Span], device: str) -> Profile:
    """Sums by stage; busy is the share of time inside `WORK` from the first step on, per lane."""
    steps = [span for span in spans if span.stage == DENOISE]
    lanes = len({span.lane for span in steps})
    begin = min((span.start_s for span in steps), default=0.0)
    window = max((span.end_s for span in spans), default=0.0) - begin
    busy = sum(
        span.end_s - max(begin, span.start_s)
        for span in spans
        if span.stage in WORK and span.end_s > begin
    )
    by_stage = [(name, [span for span in spans if span.stage == name]) for name in STAGES]
    return Profile(
        device=device,
        seconds=round(window, 4) if steps else 0.0,
        busy=round(min(1.0, busy / (window * lanes)), 4) if steps and window > 0 else 0.0,
        lanes=lanes,
        stages=tuple(
            (name, round(sum(span.end_s - span.start_s for span in found), 4), len(found))
            for name, found in by_stage
            if found
        ),
    )
