"""A workflow that yields (or raises) given events, in place of the real module.

Does not: check requests.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from creatok_cli.domain import Event

Fake = Callable[..., "Workflow"]


class Workflow(types.ModuleType):
    """Keeps the request, yields the events."""

    def __init__(
        self, name: str, function: str, request: str, things: tuple[Event | BaseException, ...]
    ) -> None:
        super().__init__(f"creatok_cli.workflows.{name}")
        self.things = things
        self.request: Any = None
        setattr(self, request, types.SimpleNamespace)
        setattr(self, function, self._run)

    def _run(self, request: Any) -> Iterator[Event]:
        self.request = request
        for thing in self.things:
            if isinstance(thing, BaseException):
                raise thing
            yield thing


def standing_in(
    monkeypatch: pytest.MonkeyPatch, name: str, request: str, *, function: str = ""
) -> Fake:
    """Puts a workflow of the given things in place of `creatok_cli.workflows.NAME`."""
    import creatok_cli.workflows

    def replace_with(*things: Event | BaseException) -> Workflow:
        workflow = Workflow(name, function or name, request, things)
        monkeypatch.setitem(sys.modules, workflow.__name__, workflow)
        monkeypatch.setattr(creatok_cli.workflows, name, workflow, raising=False)
        return workflow

    return replace_with
