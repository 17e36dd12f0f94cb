"""Picks: the best and most different, copied; what a person changed or owns is never touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from creatok_cli.domain import Job, Notice, Plan
from creatok_cli.errors import InputError
from creatok_cli.plan.batches import make_plan, shard
from creatok_cli.scorers._thumbs import thumbnail, thumbnail_distances
from creatok_cli.workflows import _picks
from creatok_cli.workflows._picks import Picking, ranks
from creatok_cli.workflows._run import run
from creatok_cli.workflows._scores import Scoring
from tests.fakes.disk import DyingDisk, Killed, disk
from tests.fakes.drawing import FakeRenderer, finish, job, picture, plan, task, tree
from tests.fakes.scoring import Bright, asked, install, level, scoring


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Bright:
    return install(monkeypatch)


def picked(out: Path) -> dict[str, list[str]]:
    """Files by row, the best first, as the record says; each is a copy."""
    rows = json.loads((out / "picks" / "picks.json").read_bytes())["rows"]
    found = {row["row"]: [pick["file"] for pick in row["picks"]] for row in rows}
    for file in (file for files in found.values() for file in files):
        assert (out / "picks" / file).read_bytes() == (out / file).read_bytes()
        assert not (out / "picks" / file).samefile(out / file)
    return found


def copies(out: Path) -> set[str]:
    folder = out / "picks"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def warnings(events: list[Any]) -> list[str]:
    return [
        event.message for event in events if isinstance(event, Notice) and event.level == "warning"
    ]


def colours(*rgb: tuple[int, int, int]) -> tuple[Plan, FakeRenderer]:
    """One row of plain pictures."""
    made = [
        job("plain", index, f"row/{index:02d}", row="row", index=index) for index in range(len(rgb))
    ]

    class Plain(FakeRenderer):
        def render(self, batch: Any) -> list[Any]:
            return [
                replace(each, image=Image.new("RGB", (16, 16), rgb[each.job.index]))
                for each in super().render(batch)
            ]

    return make_plan(made, sheet="colours", batch_class=4), Plain()


def test_each_row_has_its_own(tmp_path: Path) -> None:
    """More than there are is all there are."""
    whole = plan(7)
    summary, events, error = finish(run(task(tmp_path, whole, picking=Picking(count=2))))
    assert (summary.code, error) == (0, None)
    found = picked(tmp_path)
    assert {row: len(files) for row, files in found.items()} == {"first": 2, "second": 2}
    assert copies(tmp_path) == {file for files in found.values() for file in files}
    assert any("4 pictures picked" in e.message for e in events if isinstance(e, Notice))
    finish(run(task(tmp_path, whole, picking=Picking(count=50))))
    assert len(copies(tmp_path)) == 7


def test_difference_alone(tmp_path: Path) -> None:
    """Without scores the most different ones, whatever the order."""
    near = [(10, 10, 10), (12, 12, 12), (255, 255, 255), (250, 250, 250), (255, 0, 0)]
    whole, drawer = colours(*near)
    finish(run(task(tmp_path, whole, drawer, picking=Picking(count=3))))
    (files,) = picked(tmp_path).values()
    chosen = {near[int(file[4:6])] for file in files}
    assert len(chosen & set(near[:2])) == len(chosen & set(near[2:4])) == 1
    assert near[4] in chosen


def test_quality_and_difference(tmp_path: Path, bright: Bright) -> None:
    """The better of two alike; and the direction that the scorer calls better."""
    shades = [(100, 100, 100), (104, 104, 104), (200, 200, 200), (204, 204, 204)]
    whole, drawer = colours(*shades)
    chosen = {}
    for better in ("higher", "lower"):
        bright.better = better  # type: ignore[assignment]
        out = tmp_path / better
        finish(run(task(out, whole, drawer, scoring=scoring("scores"), picking=Picking(count=2))))
        chosen[better] = {int(file[4:6]) for file in picked(out)["row"]}
    assert chosen == {"higher": {1, 3}, "lower": {0, 2}}


def test_what_measures_only_is_not_listened_to(tmp_path: Path, bright: Bright) -> None:
    whole = plan(6)
    measure = Scoring(asked=(asked("scores", measures_only=True),), device="cpu")
    _, events, _ = finish(run(task(tmp_path, whole, scoring=measure, picking=Picking(count=2))))
    alone = tmp_path / "alone"
    finish(run(task(alone, whole, picking=Picking(count=2))))
    assert len(bright.seen) == 6
    assert picked(tmp_path) == picked(alone)
    told = [event.message for event in events if isinstance(event, Notice)]
    assert "bright only measures: the picks do not look at it" in told


def test_the_same_again_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(6)
    finish(run(task(tmp_path, whole, picking=Picking(count=2))))
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Picking, "_choose", lambda *_: pytest.fail("chosen again"))
        finish(run(task(tmp_path, whole, picking=Picking(count=2))))
    assert tree(tmp_path) == before
    (tmp_path / "picks" / next(iter(copies(tmp_path)))).unlink()
    finish(run(task(tmp_path, whole, picking=Picking(count=2))))
    assert tree(tmp_path) == before


def test_picks_that_are_none_any_more_go(tmp_path: Path) -> None:
    whole = plan(8)
    finish(run(task(tmp_path, whole, picking=Picking(count=3))))
    assert len(copies(tmp_path)) == 6
    finish(run(task(tmp_path, whole, picking=Picking(count=1))))
    assert copies(tmp_path) == {file for files in picked(tmp_path).values() for file in files}
    smaller = make_plan(
        [each for each in whole.jobs if each.row == "first"], sheet="x", batch_class=2
    )
    finish(run(task(tmp_path, smaller, picking=Picking(count=1))))
    assert len(copies(tmp_path)) == 1


@pytest.mark.parametrize("then", [1, 3])
def test_a_pick_that_was_retouched_stays(then: int, tmp_path: Path) -> None:
    """Whether it is still one or not; the original was never touched."""
    whole = plan(6)
    finish(run(task(tmp_path, whole, picking=Picking(count=3))))
    original = {file: (tmp_path / file).read_bytes() for file in copies(tmp_path)}
    for file in copies(tmp_path):
        (tmp_path / "picks" / file).write_bytes(b"painted over")
    summary, events, _ = finish(run(task(tmp_path, whole, picking=Picking(count=then))))
    assert summary.code == 0
    assert len(warnings(events)) == 6
    assert all("changed by hand" in message for message in warnings(events))
    for file, data in original.items():
        assert (tmp_path / "picks" / file).read_bytes() == b"painted over"
        assert (tmp_path / file).read_bytes() == data


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_strangers_thing_in_the_way(kind: str, tmp_path: Path) -> None:
    whole, aside = plan(2), tmp_path / "aside.png"
    out = tmp_path / "out"
    spot = out / "picks" / f"{whole.jobs[0].name}.png"
    spot.parent.mkdir(parents=True)
    aside.write_bytes(b"mine")
    if kind == "file":
        spot.write_bytes(b"mine")
    elif kind == "folder":
        spot.mkdir()
    else:
        spot.symlink_to(aside)
    summary, events, error = finish(run(task(out, whole, picking=Picking(count=2))))
    assert (summary.code, error) == (0, None)
    assert any("left alone" in message for message in warnings(events))
    assert aside.read_bytes() == b"mine"
    assert kind != "file" or spot.read_bytes() == b"mine"
    assert (out / "picks" / f"{whole.jobs[1].name}.png").is_file()


@pytest.mark.parametrize(
    "record", [b"", b"[]", b'{"schema": 1, "rows": [{}]}', b"\xff", b'{"schema": 9}']
)
def test_a_record_that_is_none(record: bytes, tmp_path: Path) -> None:
    whole = plan(4)
    finish(run(task(tmp_path / "whole", whole, picking=Picking(count=1))))
    finish(run(task(tmp_path / "out", whole, picking=Picking(count=1))))
    (tmp_path / "out" / "picks" / "picks.json").write_bytes(record)
    summary, _, _ = finish(run(task(tmp_path / "out", whole, picking=Picking(count=1))))
    assert summary.code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("at", range(0, 44, 4))
def test_killed_anywhere(at: int, tmp_path: Path) -> None:
    """While three of each row become one of each: nothing is left over or lost."""
    whole, out = plan(6), tmp_path / "out"
    finish(run(task(tmp_path / "whole", whole, picking=Picking(count=1))))
    finish(run(task(out, whole, picking=Picking(count=3))))
    with disk(DyingDisk(at)), pytest.raises(Killed):
        list(run(task(out, whole, picking=Picking(count=1))))
    finish(run(task(out, whole, picking=Picking(count=1))))
    assert tree(out) == tree(tmp_path / "whole")


def test_the_last_shard_picks(tmp_path: Path, bright: Bright) -> None:
    whole, out = plan(8), tmp_path / "out"

    def draw(out: Path, **options: Any) -> None:
        options.setdefault("scoring", scoring("scores"))
        finish(run(task(out, whole, picking=Picking(count=2), **options)))

    draw(tmp_path / "whole")
    for part in (2, 1):
        assert not (out / "picks").exists()
        draw(out, plan=shard(whole, part, 2))
    assert picked(out) == picked(tmp_path / "whole")


def test_a_shard_waits_for_the_scores_of_another(tmp_path: Path, bright: Bright) -> None:
    """All is drawn, but the other one is still scoring."""
    whole, out = plan(8), tmp_path / "out"
    finish(run(task(out, whole, plan=shard(whole, 1, 2))))
    other = {"plan": shard(whole, 2, 2), "scoring": scoring("scores")}
    finish(run(task(out, whole, picking=Picking(count=2), **other)))
    assert not (out / "picks").exists()
    one = {"plan": shard(whole, 1, 2), "scoring": scoring("scores")}
    finish(run(task(out, whole, picking=Picking(count=2), **one)))
    assert len(copies(out)) == 4


def test_a_stop_before_the_next_row(tmp_path: Path) -> None:
    whole = plan(4)
    stopped = Picking(count=1, is_stopping=lambda: True)
    summary, _, _ = finish(run(task(tmp_path, whole, picking=stopped)))
    assert (summary.code, summary.remaining, summary.resume) == (130, 0, "creatok sample x")
    assert not (tmp_path / "picks").exists()
    summary, _, _ = finish(run(task(tmp_path, whole, picking=Picking(count=1))))
    assert (summary.code, len(copies(tmp_path))) == (0, 2)


def test_a_sheet_that_draws_into_picks(tmp_path: Path) -> None:
    whole = make_plan([job("pig", 0, "Picks/0", row="Picks")], sheet="x", batch_class=1)
    with pytest.raises(InputError, match=r"--pick: fake.yaml:1:1: Picks/0.png lies in picks/"):
        list(run(task(tmp_path, whole, picking=Picking(count=1))))


def test_picks_are_framed_on_the_pages(tmp_path: Path) -> None:
    whole = plan(4)
    finish(run(task(tmp_path, whole)))
    plain = (tmp_path / "contact-sheet.png").read_bytes()
    finish(run(task(tmp_path, whole, picking=Picking(count=1))))
    assert (tmp_path / "contact-sheet.png").read_bytes() != plain
    assert (tmp_path / "gallery.html").read_text().count("<b>picked</b>") == 2


def test_only_the_best_of_many_are_compared(
    tmp_path: Path, bright: Bright, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_picks, "MOST", 3)
    whole = plan(10)
    finish(run(task(tmp_path, whole, scoring=scoring("scores"), picking=Picking(count=2))))

    def brightness(each: Job) -> float:
        shown: Callable[[Any], float] = level
        return shown(type("R", (), {"image": picture(each)}))

    for row, files in picked(tmp_path).items():
        ranked = sorted((j for j in whole.jobs if j.row == row), key=brightness, reverse=True)
        assert {file.removesuffix(".png") for file in files} <= {each.name for each in ranked[:3]}


def test_ranks() -> None:
    assert ranks([]) == []
    assert ranks([5.0]) == [0.0]
    assert ranks([3.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]
    assert ranks([1.0, 1.0, 2.0]) == [0.25, 0.25, 1.0]
    assert ranks([7.0] * 3) == [0.5] * 3


def test_thumbnails() -> None:
    looks: list[Tensor] = [
        thumbnail(Image.new("RGB", size, colour))
        for size, colour in (((16, 16), "black"), ((64, 32), "black"), ((8, 8), "white"))
    ]
    assert thumbnail_distances(looks).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
