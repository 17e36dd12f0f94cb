"""What every engine must do, with a render of coloured squares as the whole fake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from itertools import count
from typing import Any

import pytest
from PIL import Image

from creatok_cli import registry
from creatok_cli.domain import Batch, Failed, Group, Job, Provenance, Rendered
from creatok_cli.errors import DeviceLost, InputError, Interrupted
from creatok_cli.executors import local
from creatok_cli.executors import ray as ray_engine
from creatok_cli.executors.base import Outcome
from creatok_cli.executors.ray import WorkerDied, spread
from creatok_cli.hashing import keyed

GROUP = Group(base="squares", base_digest="sha256:0", dtype="fp32")
PROVENANCE = Provenance(device="none", batch_class=3, batch_effective=3, seconds=0.0)
NAMES = registry.names("executors")
NEEDS_RAY = pytest.mark.skipif(
    find_spec("ray") is None, reason="the extra creatok[ray] is not installed"
)


def job(index: int) -> Job:
    return keyed(
        Job(
            base_digest="sha256:0",
            prompt=f"square {index}",
            seed=index,
            size_px=(2, 2),
            steps=1,
            guidance=1.0,
            scheduler="none",
            dtype="fp32",
            index=index,
            name=f"{index:03d}",
        )
    )


def batches(jobs: int, size: int = 3) -> list[Batch]:
    every = [job(index) for index in range(jobs)]
    return [
        Batch(index=i // size, group=GROUP, jobs=tuple(every[i : i + size]), batch_class=size)
        for i in range(0, jobs, size)
    ]


def squares(batch: Batch) -> list[Outcome]:
    """Every picture in the colour of its seed; job 7 cannot be drawn."""
    done: list[Outcome] = []
    for each in batch.jobs:
        if each.index == 7:
            done.append(Failed(job=each, kind="error", message="seven"))
        else:
            image = Image.new("RGB", each.size_px, (each.seed, 0, 0))
            done.append(Rendered(job=each, image=image, provenance=PROVENANCE))
    return done


def engines() -> list[Any]:
    marks = {"ray": [NEEDS_RAY]}
    every = [pytest.param((name, {}), marks=marks.get(name, []), id=name) for name in NAMES]
    return [*every, pytest.param(("local", {"lanes": 3}), id="local-3-lanes")]


@pytest.fixture(params=engines())
def engine(request: pytest.FixtureRequest) -> Any:
    name, settings = request.param
    module = registry.get("executors", name)
    return module.build(module.Spec(**settings), threads=1, device="cpu")


def test_every_key_once_and_failures_isolated(engine: Any) -> None:
    given = batches(20)
    done = list(engine.run(given, squares))
    assert sorted(each.job.key for each in done) == sorted(
        each.key for b in given for each in b.jobs
    )
    failed = [each for each in done if isinstance(each, Failed)]
    assert [(each.job.index, each.message) for each in failed] == [(7, "seven")]
    colours = {e.job.index: e.image.getpixel((0, 0))[0] for e in done if isinstance(e, Rendered)}
    assert colours == {index: index for index in range(20) if index != 7}


def test_outcomes_of_a_batch_come_together_in_its_order(engine: Any) -> None:
    order = [each.job.index for each in engine.run(batches(12), squares)]
    groups = [order[i : i + 3] for i in range(0, 12, 3)]
    assert sorted(groups) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_no_batches_no_outcomes(engine: Any) -> None:
    assert list(engine.run([], squares)) == []


def test_a_fatal_error_comes_after_what_was_finished(engine: Any) -> None:
    def render(batch: Batch) -> list[Outcome]:
        if batch.index == 2:
            raise DeviceLost("gone")
        return squares(batch)

    done: list[int] = []
    outcomes = engine.run(batches(30), render)
    with pytest.raises(DeviceLost, match="gone"):
        done.extend(outcome.job.index for outcome in outcomes)
    assert {0, 1, 2, 3, 4, 5} <= set(done)


def test_literal_defaults_equal_the_imported_ones() -> None:
    for name in NAMES:
        described = registry.describe("executors", name)
        module = registry.get("executors", name)
        assert described.line
        for field, value in described.spec.items():
            assert getattr(module.Spec(), field) == value


def test_ray_without_its_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'creatok\[ray\]'"):
        ray_engine.build(ray_engine.Spec(), threads=1, device="cpu")


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_local_draws_at_most_the_lookahead_beyond_what_is_handed_out(lookahead: int) -> None:
    drawn: list[int] = []

    def render(batch: Batch) -> list[Outcome]:
        drawn.append(batch.index)
        return squares(batch)

    seen = 0
    for number, _ in enumerate(local.Local(lookahead).run(batches(30), render)):
        if number % 3 == 0:
            time.sleep(0.02)
            assert len(drawn) <= seen + 1 + lookahead
            seen += 1
    assert drawn == list(range(10))


def test_local_draws_while_the_consumer_works() -> None:
    second = threading.Event()

    def render(batch: Batch) -> list[Outcome]:
        if batch.index == 1:
            second.set()
        return squares(batch)

    outcomes = local.Local(1).run(batches(6), render)
    next(outcomes)
    assert second.wait(5)  # the consumer still holds the first outcome
    assert len(list(outcomes)) == 5


def test_local_starts_nothing_after_an_early_close_or_an_interrupt() -> None:
    drawn: list[int] = []

    def render(batch: Batch) -> list[Outcome]:
        drawn.append(batch.index)
        if batch.index == 4:
            raise Interrupted("stop")
        return squares(batch)

    outcomes = local.Local(1).run(batches(30), render)
    for _ in range(4):
        next(outcomes)
    outcomes.close()
    assert max(drawn) <= 2
    drawn.clear()
    with pytest.raises(Interrupted):
        list(local.Local(1).run(batches(30), render))
    assert drawn == [0, 1, 2, 3, 4]


def test_local_lanes_draw_at_the_same_time_and_keep_the_order_of_the_plan() -> None:
    meeting = threading.Barrier(3)

    def render(batch: Batch) -> list[Outcome]:
        meeting.wait(10)  # broken, and an error, unless three batches are drawn together
        time.sleep(0.01 * (2 - batch.index % 3))
        return squares(batch)

    order = [each.job.index for each in local.Local(1, 3).run(batches(27), render)]
    assert order == list(range(27))


@pytest.mark.parametrize("lookahead", [0, 1])
def test_local_starts_no_more_than_lanes_and_lookahead(lookahead: int) -> None:
    begun: list[int] = []

    def render(batch: Batch) -> list[Outcome]:
        begun.append(batch.index)
        return squares(batch)

    outcomes = local.Local(lookahead, 2).run(batches(30), render)
    next(outcomes)
    time.sleep(0.05)
    assert sorted(begun) == list(range(2 + lookahead))
    outcomes.close()
    assert sorted(begun) == list(range(2 + lookahead))


def test_local_gives_out_what_other_lanes_finish_before_an_error() -> None:
    begun, drawn = threading.Barrier(3), list[int]()
    failed = threading.Event()

    def render(batch: Batch) -> list[Outcome]:
        begun.wait(10)
        drawn.append(batch.index)
        if batch.index == 1:
            failed.set()
            raise DeviceLost("gone")
        assert failed.wait(10)
        time.sleep(0.02)
        return squares(batch)

    done: list[int] = []
    with pytest.raises(DeviceLost, match="gone"):
        done.extend(each.job.index for each in local.Local(4, 3).run(batches(30), render))
    assert done == [0, 1, 2, 6, 7, 8]
    assert sorted(drawn) == [0, 1, 2]


def test_local_raises_the_first_error_of_the_plan_when_all_lanes_stop() -> None:
    meeting = threading.Barrier(2)

    def render(batch: Batch) -> list[Outcome]:
        meeting.wait(10)
        raise Interrupted(f"stop {batch.index}")

    with pytest.raises(Interrupted, match="stop 0"):
        list(local.Local(1, 2).run(batches(30), render))


def test_local_closed_early_waits_for_its_lanes() -> None:
    meeting, ended = threading.Barrier(2), list[int]()

    def render(batch: Batch) -> list[Outcome]:
        if batch.index < 2:
            meeting.wait(10)
        time.sleep(0.03 * batch.index)
        ended.append(batch.index)
        return squares(batch)

    outcomes = local.Local(1, 2).run(batches(30), render)
    next(outcomes)
    outcomes.close()
    assert set(ended) <= {0, 1, 2}
    assert {0, 1} <= set(ended)


@pytest.mark.parametrize(
    ("cores", "threads", "device", "lanes"),
    [
        (2, 1, "cpu", 2),
        (1, 1, "cpu", 1),
        (96, 1, "cpu", 8),
        (10, 4, "cpu", 2),
        (2, 4, "cpu", 1),
        (8, 0, "cpu", 1),
        (8, 1, "cuda:0", 1),
        (8, 1, "mps", 1),
    ],
)
def test_local_has_as_many_lanes_as_the_cores_and_the_base_allow(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, device: str, lanes: int
) -> None:
    monkeypatch.setattr(local, "cores", lambda: cores)
    assert local.build(local.Spec(), threads=threads, device=device).lanes == lanes
    assert local.build(local.Spec(lanes=3), threads=threads, device=device).lanes == 3


@pytest.mark.parametrize(
    ("workers", "gpus", "cpus", "threads", "expected"),
    [
        (0, 2, 16, 1, (2, {"num_gpus": 1.0})),
        (4, 2, 16, 1, (4, {"num_gpus": 0.5})),
        (0, 0, 2, 1, (2, {"num_cpus": 1.0})),
        (0, 0, 10, 4, (2, {"num_cpus": 4.0})),
        (4, 0, 2, 1, (4, {"num_cpus": 0.5})),
        (4, 0, 10, 4, (4, {"num_cpus": 2.0})),
        (0, 0, 32, 0, (2, {"num_cpus": 16.0})),
        (0, 0, 2, 8, (1, {"num_cpus": 2.0})),
    ],
)
def test_ray_shares_gpus_or_the_threads_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    gpus: int,
    cpus: int,
    threads: int,
    expected: tuple[int, dict[str, float]],
) -> None:
    monkeypatch.setattr(ray_engine, "cores", lambda: 16)
    assert ray_engine._shares(workers, gpus, cpus, threads) == expected


def test_specs_check_their_ranges() -> None:
    with pytest.raises(ValueError, match="lanes"):
        local.Spec(lanes=65)
    with pytest.raises(ValueError, match="lookahead"):
        local.Spec(lookahead=9)
    with pytest.raises(ValueError, match="workers"):
        ray_engine.Spec(workers=-1)


class FakeCrew:
    """Workers as threads; `deadly` batches end their worker."""

    def __init__(self, size: int, render: Callable[[Batch], list[Outcome]], deadly: Any) -> None:
        self.size, self._render, self._deadly = size, render, deadly
        self._names, self._pool = count(), ThreadPoolExecutor(size)
        self.alive: set[int] = set()
        self.given: list[tuple[int, ...]] = []
        self.futures: dict[int, Future[list[Outcome]]] = {}

    def hire(self) -> int:
        name = next(self._names)
        self.alive.add(name)
        return name

    def give(self, worker: int, batch: Batch) -> int:
        assert worker in self.alive
        self.given.append(tuple(each.index for each in batch.jobs))
        ticket = next(self._names)
        self.futures[ticket] = self._pool.submit(self._work, batch)
        return ticket

    def _work(self, batch: Batch) -> list[Outcome]:
        if self._deadly(batch):
            raise WorkerDied("killed by signal 9")
        return self._render(batch)

    def first_done(self, tickets: list[int]) -> int:
        while True:
            for ticket in tickets:
                if self.futures[ticket].done():
                    return ticket
            time.sleep(0.001)

    def collect(self, ticket: int) -> list[Outcome]:
        return self.futures[ticket].result()

    def dismiss(self, worker: int) -> None:
        self.alive.discard(worker)


def test_a_crew_draws_everything_once_and_goes_home() -> None:
    crew = FakeCrew(3, squares, lambda batch: False)
    done = list(spread(batches(20), crew))
    assert sorted(each.job.index for each in done) == list(range(20))
    assert not crew.alive


def test_a_death_by_accident_costs_one_repetition() -> None:
    deaths = iter([True])
    lock = threading.Lock()

    def deadly(batch: Batch) -> bool:
        with lock:
            return batch.index == 1 and next(deaths, False)

    crew = FakeCrew(2, squares, deadly)
    done = list(spread(batches(12), crew))
    assert sorted(each.job.index for each in done) == list(range(12))
    assert [each.job.index for each in done if isinstance(each, Failed)] == [7]
    assert crew.given.count((3, 4, 5)) == 2
    assert not crew.alive


def test_a_picture_that_kills_is_found_and_fails_alone() -> None:
    crew = FakeCrew(2, squares, lambda batch: any(each.index == 4 for each in batch.jobs))
    done = list(spread(batches(12), crew))
    assert sorted(each.job.index for each in done) == list(range(12))
    failed = {each.job.index: each.kind for each in done if isinstance(each, Failed)}
    assert failed == {4: "crashed", 7: "error"}
    assert crew.given.count((3, 4, 5)) == 2
    assert [each for each in crew.given if len(each) == 1] == [(3,), (4,), (5,)]


def test_an_error_ends_the_crew_after_the_others_finish() -> None:
    def render(batch: Batch) -> list[Outcome]:
        if batch.index == 1:
            raise DeviceLost("gone")
        time.sleep(0.05)
        return squares(batch)

    crew = FakeCrew(2, render, lambda batch: False)
    done: list[int] = []

    def collect() -> Iterator[None]:
        for outcome in spread(batches(12), crew):
            done.append(outcome.job.index)
            yield

    with pytest.raises(DeviceLost):
        list(collect())
    assert done == [0, 1, 2]
    assert not crew.alive


@NEEDS_RAY
@pytest.mark.network
@pytest.mark.slow
def test_ray_survives_a_killed_actor() -> None:
    import os

    def render(batch: Batch) -> list[Outcome]:
        if any(each.index == 4 for each in batch.jobs):
            os._exit(9)
        return squares(batch)

    engine = ray_engine.build(ray_engine.Spec(workers=2), threads=1, device="cpu")
    done = list(engine.run(batches(12), render))
    failed = {each.job.index: each.kind for each in done if isinstance(each, Failed)}
    assert failed == {4: "crashed", 7: "error"}
