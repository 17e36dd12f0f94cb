"""Stage times: sums, the busy share, the clock of a device, threads, and nothing when off."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from creatok_cli._stages import Clock, Span, Stages, clock, summed, timed
from creatok_cli.cli.console import event_fields, event_name, profile_lines
from creatok_cli.domain import Profile
from tests.unit.test_render import Plain, batch, renderer


def test_busy_is_the_time_inside_stages_from_the_first_step_on() -> None:
    found = summed(
        [
            Span("load", 1, 0.0, 4.0),
            Span("condition", 1, 4.0, 5.0),
            Span("denoise", 1, 5.0, 8.0),
            Span("decode", 1, 8.0, 9.0),
            Span("denoise", 1, 10.0, 13.0),
            Span("to host", 1, 14.0, 15.0),
        ],
        "cuda:0",
    )
    assert (found.device, found.seconds, found.lanes) == ("cuda:0", 10.0, 1)
    assert found.busy == pytest.approx((3 + 1 + 3 + 1) / 10)
    assert found.stages == (
        ("load", 4.0, 1),
        ("condition", 1.0, 1),
        ("denoise", 6.0, 2),
        ("decode", 1.0, 1),
        ("to host", 1.0, 1),
    )


def test_each_lane_may_be_busy() -> None:
    spans = [Span("denoise", lane, 0.0, 2.0 * lane) for lane in (1, 2)]
    found = summed(spans, "cpu")
    assert (found.lanes, found.busy) == (2, pytest.approx(6 / 8))


def test_nothing_drawn_is_no_division() -> None:
    assert summed([], "cpu") == Profile(device="cpu", seconds=0.0, busy=0.0, lanes=0, stages=())
    assert summed([Span("condition", 1, 0.0, 1.0)], "cpu").busy == 0.0


class FakeEvent:
    """A CUDA event that is only readable after one synchronisation."""

    made = 0
    is_settled = False

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at_ms = 0.0

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:1"
        FakeEvent.made += 1
        self.at_ms = 250.0 * FakeEvent.made

    def elapsed_time(self, later: FakeEvent) -> float:
        assert FakeEvent.is_settled
        return later.at_ms - self.at_ms


def test_on_cuda_events_are_recorded_and_read_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []

    def synchronize(device: str) -> None:
        waits.append(device)
        FakeEvent.is_settled = True

    monkeypatch.setattr(FakeEvent, "made", 0)
    monkeypatch.setattr(FakeEvent, "is_settled", False)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    stages = Stages("cuda:1")
    for name in ("denoise", "decode", "to host"):
        with stages.stage(name):
            assert waits == []
    found = stages.profile()
    assert waits == ["cuda:1"]
    assert [seconds for _, seconds, _ in found.stages] == [0.25, 0.25, 0.25]
    assert found.seconds == 1.25


def test_threads_lose_nothing_and_a_stage_that_raises_is_left_out() -> None:
    stages = Stages("cpu")

    def work() -> None:
        for _ in range(200):
            with stages.stage("denoise"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with pytest.raises(ValueError, match="no"), stages.stage("decode"):
        raise ValueError("no")
    assert [(name, times) for name, _, times in stages.profile().stages] == [("denoise", 800)]


def test_off_costs_nothing() -> None:
    assert isinstance(timed(None, "denoise"), nullcontext)


def test_a_renderer_times_every_stage_of_every_batch() -> None:
    stages = Stages("cpu")
    one = renderer(Plain(), stages=stages)
    for index in range(3):
        one.render(batch(range(4 * index, 4 * index + 4), index=index))
    times = {name: times for name, _, times in stages.profile().stages}
    assert times == {"load": 1, "condition": 1, "denoise": 3, "decode": 3, "to host": 3}


def test_the_cpus_clock_is_the_walls() -> None:
    plain = clock("cpu")
    assert isinstance(plain, Clock)
    first: Any = plain.mark()
    assert plain.between(first, plain.mark()) >= 0
    assert plain.settle() is None


def test_people_read_a_line_per_stage() -> None:
    found = Profile(
        device="cuda:0",
        seconds=100.0,
        busy=0.974,
        lanes=1,
        stages=(("load", 5.0, 1), ("denoise", 90.0, 30), ("to host", 0.03, 30)),
        queued=3,
        queue=24,
    )
    assert profile_lines(found) == [
        "profile: cuda:0 was busy 97% of 1 min 40 s of drawing",
        "  load           5.00 s   5.3%  1 x 5.00 s",
        "  denoise       90.00 s  94.7%  30 x 3.00 s",
        "  to host        0.03 s   0.0%  30 x 1 ms",
        "  at most 3 of 24 pictures waited for the writers",
    ]


def test_programs_read_objects() -> None:
    found = Profile(device="cpu", seconds=1.0, busy=0.5, lanes=2, stages=(("denoise", 1.0, 3),))
    fields = event_fields(found)
    assert (event_name(found), fields["busy"], fields["lanes"]) == ("profile", 0.5, 2)
    assert fields["stages"] == [{"stage": "denoise", "seconds": 1.0, "times": 3}]
