"""The gate: many together or one alone, earlier turns first, nobody locked out by an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from creatok_cli._gate import Gate


@contextmanager
def threads(*works: Callable[[], None]) -> Iterator[list[threading.Thread]]:
    """Started in this order, each given time to reach the gate; all must end."""
    started = []
    for work in works:
        started.append(threading.Thread(target=work))
        started[-1].start()
        time.sleep(0.03)
    yield started
    for each in started:
        each.join(5)
    assert not any(each.is_alive() for each in started)


def pass_through(gate: Gate, log: list[str], name: str, turn: int, *, alone: bool) -> None:
    with gate.alone(turn) if alone else gate.shared(turn):
        log.append(name)


def test_many_are_inside_together() -> None:
    gate, meeting = Gate(), threading.Barrier(3)

    def work() -> None:
        with gate.shared(0):
            meeting.wait(5)

    with threads(work, work, work):
        pass
    assert not meeting.broken


def test_alone_means_alone() -> None:
    gate, inside, seen = Gate(), [0], []

    def work(turn: int) -> None:
        for _ in range(50):
            with gate.alone(turn):
                inside[0] += 1
                seen.append(inside[0])
                time.sleep(0)
                inside[0] -= 1
            with gate.shared(turn):
                seen.append(inside[0] + 1)

    with threads(*(lambda turn=turn: work(turn) for turn in range(4))):  # type: ignore[misc]
        pass
    assert set(seen) == {1}


def test_later_turns_wait_behind_who_wants_to_be_alone_and_earlier_ones_pass() -> None:
    gate, log = Gate(), list[str]()
    with ExitStack() as stack:
        stack.enter_context(gate.shared(1))
        with threads(
            lambda: pass_through(gate, log, "alone 5", 5, alone=True),
            lambda: pass_through(gate, log, "alone 3", 3, alone=True),
            lambda: pass_through(gate, log, "shared 4", 4, alone=False),
            lambda: pass_through(gate, log, "shared 2", 2, alone=False),
        ):
            assert log == ["shared 2"]
            stack.close()
    assert log[1] == "alone 3"
    assert log[2:] == ["shared 4", "alone 5"]


def test_sharing_what_was_alone_leaves_no_gap() -> None:
    gate, log = Gate(), list[str]()
    with ExitStack() as stack:
        share = stack.enter_context(gate.alone(0))
        with threads(
            lambda: pass_through(gate, log, "alone", 1, alone=True),
            lambda: pass_through(gate, log, "shared", 0, alone=False),
        ) as others:
            assert log == []
            share()
            others[1].join(5)
            assert log == ["shared"]  # the other one wants to be alone, and we are still inside
            stack.close()
    assert log == ["shared", "alone"]


def test_an_error_inside_lets_the_others_in() -> None:
    gate = Gate()
    for enter in (gate.alone, gate.shared):
        with pytest.raises(ZeroDivisionError), enter(0):
            raise ZeroDivisionError
    with gate.alone(0):
        pass
