"""A gate for several threads: many pass together, or one alone; who is earlier goes first.

Whoever wants to be alone waits until everybody has left, and meanwhile nobody with a later turn
comes in. Turns are places in the plan, so batches that are drawn at the same time change what they
share in plan order.

Does not: know what it guards, or let one thread in twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition


class Gate:
    """Held shared or alone; see the module docstring."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._is_alone = False
        self._lone: list[int] = []
        """Turns of those who wait to be alone."""
        self._waiting: list[int] = []
        """Turns of all who wait."""

    @contextmanager
    def shared(self, turn: int) -> Iterator[None]:
        """Together with others."""
        with self._changed:
            self._wait(
                turn,
                lambda: not self._is_alone and all(turn < other for other in self._lone),
            )
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def alone(self, turn: int) -> Iterator[Callable[[], None]]:
        """With nobody else inside. Calling what it gives lets the others in without leaving."""
        with self._changed:
            self._lone.append(turn)
            try:
                self._wait(turn, lambda: not self._inside and turn == min(self._waiting))
                self._inside, self._is_alone = 1, True
            finally:
                self._lone.remove(turn)
        try:
            yield self._share
        finally:
            self._leave()

    def _wait(self, turn: int, is_open: Callable[[], bool]) -> None:
        self._waiting.append(turn)
        try:
            self._changed.wait_for(is_open)
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()

    def _share(self) -> None:
        with self._changed:
            self._is_alone = False
            self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._is_alone = False
            self._changed.notify_all()
