"""Attempts when several batches are drawn at a time: nobody is blamed twice for another's fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from creatok_cli.domain import Batch
from creatok_cli.workflows._attempts import Attempts, batch_id
from tests.fakes.drawing import plan


def died(out: Path, *batches: Batch) -> None:
    """A run was killed while these were drawn."""
    with (out / Attempts.NAME).open("a") as file:
        for batch in batches:
            file.write(json.dumps({"batch": batch_id(batch), "event": "start"}) + "\n")


def company(out: Path, batches: Sequence[Batch], lanes: int) -> dict[int, int]:
    """How many were drawn at the same time as each batch at most, itself included."""
    attempts, lock = Attempts(out), threading.Lock()
    inside, most = set[int](), dict.fromkeys((batch.index for batch in batches), 0)

    def draw(batch: Batch) -> None:
        with attempts.watch(batch):
            with lock:
                inside.add(batch.index)
                most.update({index: max(most[index], len(inside)) for index in inside})
            time.sleep(0.02)
            with lock:
                inside.discard(batch.index)

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(draw, batches))
    attempts.close()
    return most


def test_what_has_died_once_is_drawn_with_nothing_beside_it(tmp_path: Path) -> None:
    batches = plan(24, batch_class=2).batches
    assert min(company(tmp_path / "new", batches, 3).values()) > 1
    suspects = batches[3], batches[4], batches[8]
    died(tmp_path, *suspects)
    most = company(tmp_path, batches, 3)
    assert [index for index, count in most.items() if count == 1] == [3, 4, 8]
    # It was a lie: they have ended well, and what is recorded is still no more than one death.
    assert [Attempts(tmp_path).deaths(batch) for batch in suspects] == [1, 1, 1]


@pytest.mark.parametrize("lanes", [1, 4])
def test_only_a_death_leaves_a_batch_open(tmp_path: Path, lanes: int) -> None:
    batches = plan(24, batch_class=2).batches

    def draw(batch: Batch) -> None:
        with attempts.watch(batch):
            if batch.index % 3 == 0:
                raise ValueError("a fault, no death")

    attempts = Attempts(tmp_path)
    with ThreadPoolExecutor(lanes) as pool:
        faults = [pool.submit(draw, batch).exception() for batch in batches]
    attempts.close()
    assert sum(fault is not None for fault in faults) == 4
    assert {Attempts(tmp_path).deaths(batch) for batch in batches} == {0}
