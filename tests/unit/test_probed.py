"""`--batch-size probe`: where the search ends, what is kept, and that a folder's own class wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli import config
from creatok_cli.backbones._weights import resolve
from creatok_cli.domain import Event, Job, Notice, Stage
from creatok_cli.errors import Interrupted
from creatok_cli.plan.batches import make_plan
from creatok_cli.workflows import _probed
from creatok_cli.workflows._plan_file import group_name, plan_record
from creatok_cli.workflows._probed import Probe, Probed, best_size, timer
from creatok_cli.workflows.sample import batch_classes
from tests.unit.test_render import FACTS, Plain, job


def measured(times: dict[int, float | None]) -> Probed:
    asked: list[int] = []

    def seconds(size: int) -> float | None:
        asked.append(size)
        return times[size]

    found = best_size(seconds)
    assert asked == list(times)  # nothing is measured that was not to be
    return found


def test_the_search_ends_where_a_picture_gains_less_than_five_percent() -> None:
    assert measured({1: 1.0, 2: 1.5, 4: 2.4, 8: 4.7}).size == 4
    assert measured({1: 1.0, 2: 2.0}).size == 1
    assert measured({1: 1.0, 2: 1.8, 4: 3.2, 8: 5.6, 16: 9.6}).size == 16


def test_the_search_ends_where_memory_does() -> None:
    found = measured({1: 1.0, 2: 1.5, 4: None})
    assert found == Probed(2, {1: 1.0, 2: 0.75})
    assert measured({1: None}).size == 1


def test_steps_are_timed_at_the_size_asked_for() -> None:
    plain, ticks = Plain(), iter(range(1000))
    with torch.inference_mode():
        seconds = timer(plain, job(0, negative="dull"), lambda: False, lambda: float(next(ticks)))
        assert seconds(4) == 1.0
    assert plain.sizes == [4] * (1 + _probed.REPEATS)
    assert plain.released == ["text"]


def test_short_memory_ends_the_search_and_other_faults_are_raised() -> None:
    plain = Plain()
    seconds = timer(plain, job(0), lambda: False, lambda: 0.0)

    def short(call: int, seeds: list[int]) -> None:
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("no room")

    plain.faults.denoise = short
    assert (seconds(2), seconds(4)) == (0.0, None)

    def broken(call: int, seeds: list[int]) -> None:
        raise ValueError("broken")

    plain.faults.denoise = broken
    with pytest.raises(ValueError, match="broken"):
        seconds(1)


def test_a_stop_is_heeded_between_steps() -> None:
    with pytest.raises(Interrupted):
        timer(Plain(), job(0), lambda: True, lambda: 0.0)(1)


@pytest.mark.parametrize(("reserved", "is_full"), [(80, False), (86, True)])
def test_a_nearly_full_device_ends_the_search(
    reserved: int, is_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, answer in (
        ("reset_peak_memory_stats", None),
        ("synchronize", None),
        ("max_memory_reserved", reserved),
        ("mem_get_info", (0, 100)),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    plain = Plain()
    plain.device = "cuda:0"
    assert (timer(plain, job(0), lambda: False, lambda: 0.0)(1) is None) == is_full


def drain(events: Any) -> tuple[list[Event], dict[str, int]]:
    seen: list[Event] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


@pytest.fixture
def bestiary_job() -> Job:
    facts = resolve("bestiary")
    made = job(0, base="bestiary", base_digest=facts.digest, scheduler=facts.schedulers[0])
    return Job(**{name: getattr(made, name) for name in made.__slots__} | {"size_px": (64, 64)})


def test_a_figure_is_measured_once_and_kept(
    bestiary_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_probed, "SIZES", (1, 2))
    monkeypatch.setattr(_probed, "REPEATS", 1)
    facts = resolve("bestiary")
    probe = Probe(facts={facts.digest: facts}, device="cpu")
    events, sizes = drain(probe.sizes([bestiary_job], {}))
    assert [type(each) for each in events] == [Stage, Notice]
    assert sizes.keys() == {group_name(bestiary_job)}
    told = str(events[-1])
    assert "of bestiary on cpu: two steps take" in told
    kept = json.loads((config.home() / "cache" / _probed.FILE).read_text())
    assert list(kept.values()) == list(sizes.values())

    def never(backbone: Any, *rest: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(_probed, "timer", never)
    events, again = drain(probe.sizes([bestiary_job], {}))
    assert again == sizes
    assert "as measured before" in str(events)
    events, none = drain(probe.sizes([bestiary_job], {group_name(bestiary_job): 3}))
    assert (events, none) == ([], {})


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": [1]}', "{"])
def test_a_damaged_cache_is_measured_anew(text: str) -> None:
    folder = config.home() / "cache"
    folder.mkdir(parents=True)
    (folder / _probed.FILE).write_text(text)
    assert _probed._read() == {}


def test_a_folder_keeps_the_class_it_was_begun_with(tmp_path: Path) -> None:
    one = job(0)
    facts = {"plain": FACTS}
    name = group_name(one)
    new = batch_classes(tmp_path, facts, "probe", {name: 4})
    assert new(one) == 4
    assert batch_classes(tmp_path, facts, "probe", {})(one) == FACTS.batch_class(one.size_px)
    record = plan_record(make_plan([one], sheet="s", batch_class=2), "cpu", None)
    (tmp_path / "plan.json").write_text(json.dumps(record))
    assert batch_classes(tmp_path, facts, "probe", {name: 4})(one) == 2
    assert batch_classes(tmp_path, facts, 3, {name: 4})(one) == 3


def test_storage_has_a_class_of_its_own() -> None:
    plain, stored = job(0), job(0, options=(("storage", "fp8"),))
    assert group_name(plain) != group_name(stored)
    assert make_plan([stored], sheet="s", batch_class=1).batches[0].group.storage == "fp8"
