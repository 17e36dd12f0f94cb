"""Scores of a run: made once, kept through stops, shards and damage, and never a number that is
none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from creatok_cli.domain import Batch, Failed, Notice, Rendered, Stage
from creatok_cli.errors import ArtefactError, InputError
from creatok_cli.plan.batches import make_plan, shard
from creatok_cli.sinks._page import digest_of
from creatok_cli.sinks.contact_sheet import DIGEST_KEYWORD
from creatok_cli.workflows import _scores
from creatok_cli.workflows._run import run
from creatok_cli.workflows._verify import verify
from tests.fakes.disk import DyingDisk, Killed, disk
from tests.fakes.drawing import FakeRenderer, finish, jobs, plan, task, tree
from tests.fakes.scoring import Bright, asked, install, level, scoring


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Bright:
    return install(monkeypatch)


def numbers(out: Path) -> dict[str, Any]:
    found = json.loads((out / "scores.json").read_bytes())
    assert isinstance(found, dict)
    return found


def without_logs(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(out).items() if not name.endswith(".jsonl")}


def test_numbers_of_pictures_rows_and_all(tmp_path: Path, bright: Bright) -> None:
    whole = plan(5)
    summary, events, error = finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (summary.code, error) == (0, None)
    found = numbers(tmp_path)
    assert [each["file"] for each in found["pictures"]] == [f"{job.name}.png" for job in whole.jobs]
    assert [each["row"] for each in found["rows"]] == ["first", "second"]
    assert [each["pictures"] for each in found["rows"]] == [3, 2]
    values = [each["scores"]["bright"][0]["value"] for each in found["pictures"]]
    means = [each["scores"]["bright"][0]["value"] for each in found["rows"]]
    assert means == pytest.approx([sum(values[:3]) / 3, sum(values[3:]) / 2], abs=1e-5)
    assert found["all"]["scores"]["bright"][0]["value"] == pytest.approx(sum(values) / 5, abs=1e-5)
    assert found["scorers"] == {"bright": {"name": "bright", "settings": {}}}
    notices = [event.message for event in events if isinstance(event, Notice)]
    mean = sum(values) / 5
    assert f"bright: {mean:.3f} on average" in notices[0]
    assert [event.detail for event in events if isinstance(event, Stage)][1:] == [
        *("5 pictures: bright", "", "rows: bright")
    ]


def test_the_same_again_looks_at_nothing(tmp_path: Path, bright: Bright) -> None:
    """Nor does it change a byte; the manifest never hears of scores."""
    whole = plan(5)
    finish(run(task(tmp_path, whole)))
    manifest = (tmp_path / "manifest.jsonl").read_bytes()
    finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (len(bright.seen), bright.sets) == (5, [3, 2, 5])
    before = tree(tmp_path)
    finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (len(bright.seen), len(bright.sets)) == (5, 3)
    assert tree(tmp_path) == before
    assert (tmp_path / "manifest.jsonl").read_bytes() == manifest
    summary, _, _ = finish(verify(task(tmp_path, whole)))
    assert (summary.code, summary.skipped) == (0, 5)


def test_only_what_changed_is_scored_again(tmp_path: Path, bright: Bright) -> None:
    """A new row, another setting of the scorer, other labels; not a picture that is drawn again
    with the same pixels.
    """
    finish(run(task(tmp_path, plan(3), scoring=scoring())))
    (tmp_path / f"{plan(3).jobs[0].name}.png").unlink()
    finish(run(task(tmp_path, plan(3), scoring=scoring())))
    assert len(bright.seen) == 3
    more = make_plan([*plan(3).jobs, *jobs(5)[3:]], sheet="fake", batch_class=2)
    finish(run(task(tmp_path, more, scoring=scoring())))
    assert bright.seen[3:] == [job.name for job in jobs(5)[3:]]
    labelled = [replace(job, labels=(("a", "pig"),)) for job in jobs(3)]
    finish(run(task(tmp_path, make_plan(labelled, sheet="fake", batch_class=2), scoring=scoring())))
    assert len(bright.seen) == 8
    other = scoring()
    other.asked = (asked(top=2.0),)
    finish(run(task(tmp_path, plan(3), scoring=other)))
    assert len(bright.seen) == 11


def test_they_stand_below_the_pictures(tmp_path: Path, bright: Bright) -> None:
    """Of the run that asked for them; without, pages are as ever."""
    whole = plan(5)

    def pages() -> tuple[str, str]:
        out: Any = type("Out", (), {"folder": tmp_path})
        sheet = digest_of(out, "contact-sheet.png", DIGEST_KEYWORD)
        return sheet, (tmp_path / "gallery.html").read_text()

    finish(run(task(tmp_path, whole)))
    plain, gallery = pages()
    assert "bright" not in gallery
    finish(run(task(tmp_path, whole, scoring=scoring())))
    scored, gallery = pages()
    assert scored != plain
    for each in numbers(tmp_path)["pictures"]:
        assert f"bright {each['scores']['bright'][0]['value']:.3f}" in gallery
    assert "bright mean" not in gallery
    assert f"mean {numbers(tmp_path)['rows'][0]['scores']['bright'][0]['value']:.3f}" in gallery
    finish(run(task(tmp_path, whole)))
    assert pages()[0] == plain


def test_shards_score_their_own(tmp_path: Path, bright: Bright) -> None:
    """The last one to finish knows all; no log is written by two."""
    whole = plan(8)
    alone = tmp_path / "alone"
    finish(run(task(alone, whole, scoring=scoring())))
    bright.seen.clear()
    out = tmp_path / "parts"
    for part in (1, 2, 3):
        own = shard(whole, part, 3)
        finish(run(task(out, whole, plan=own, scoring=scoring())))
        assert sorted(bright.seen) == sorted(job.name for job in own.jobs)
        bright.seen.clear()
    assert without_logs(out) == without_logs(alone)
    assert sorted(path.name for path in out.glob("scores*.jsonl")) == [
        f"scores.{part}-of-3.jsonl" for part in (1, 2, 3)
    ]
    sets = len(bright.sets)
    finish(run(task(out, whole, scoring=scoring())))
    assert (bright.seen, len(bright.sets)) == ([], sets)


def test_a_stop_keeps_what_is_scored(
    tmp_path: Path, bright: Bright, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scores, "ROWS", 2)
    whole, out = plan(7), tmp_path / "out"
    finish(run(task(tmp_path / "whole", whole, scoring=scoring())))
    bright.seen.clear()
    first = scoring(is_stopping=lambda: len(bright.seen) >= 4)
    summary, _, error = finish(run(task(out, whole, scoring=first)))
    assert (summary.code, summary.reason, error) == (130, "interrupted", None)
    assert summary.resume == "creatok sample x"
    assert (summary.done, summary.remaining, len(bright.seen)) == (7, 0, 4)
    assert not (out / "scores.json").exists()
    summary, _, _ = finish(run(task(out, whole, scoring=scoring())))
    assert (summary.code, len(bright.seen)) == (0, 7)
    assert without_logs(out) == without_logs(tmp_path / "whole")


def test_a_stop_between_sets(tmp_path: Path, bright: Bright) -> None:
    whole = plan(4)
    stopped = scoring(is_stopping=lambda: len(bright.sets) >= 1)
    summary, _, _ = finish(run(task(tmp_path, whole, scoring=stopped)))
    assert (summary.code, bright.sets) == (130, [2])
    summary, _, _ = finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (summary.code, bright.sets) == (0, [2, 2, 4])
    assert len(numbers(tmp_path)["rows"]) == 2


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_killed_anywhere(at: int, tmp_path: Path, bright: Bright) -> None:
    """Half lines and missing files are made good by the next run."""
    whole, out = plan(4), tmp_path / "out"
    finish(run(task(out, whole)))
    finish(run(task(tmp_path / "whole", whole, scoring=scoring())))
    with disk(DyingDisk(at)), pytest.raises(Killed):
        list(run(task(out, whole, scoring=scoring())))
    summary, _, error = finish(run(task(out, whole, scoring=scoring())))
    assert (summary.code, error) == (0, None)
    assert without_logs(out) == without_logs(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "other schema"])
def test_a_damaged_log_is_not_believed(damage: str, tmp_path: Path, bright: Bright) -> None:
    whole, log = plan(4), tmp_path / "scores.jsonl"
    finish(run(task(tmp_path, whole, scoring=scoring())))
    before = numbers(tmp_path)
    data = log.read_bytes()
    if damage == "cut":
        log.write_bytes(data[:-7])
    elif damage == "flip":
        log.write_bytes(data.replace(b'"value":', b'"value":1', 1))
    elif damage == "text":
        log.write_bytes(b"no log\n\xff\xfe\n[]\nnull\n" + data.split(b"\n", 1)[1])
    else:
        record = _scores.unseal(data.split(b"\n")[0])
        assert record is not None
        log.write_bytes(_scores.seal(record | {"schema": 99}) + data.split(b"\n", 1)[1])
    count = len(bright.seen) + len(bright.sets)
    summary, _, error = finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (summary.code, error) == (0, None)
    assert len(bright.seen) + len(bright.sets) == count + 1
    assert numbers(tmp_path) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_reaches_no_file(bad: float, tmp_path: Path, bright: Bright) -> None:
    """The pictures and their pages are there; the run says whose fault it is."""
    whole = plan(4)
    bright.value = lambda result: bad if result.job.index == 2 else level(result)
    summary, _, error = finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (summary.code, summary.done) == (4, 4)
    assert isinstance(error, ArtefactError)
    assert "--score bright" in str(error)
    assert whole.jobs[2].name in str(error)
    assert (tmp_path / "contact-sheet.png").exists()
    for path in tmp_path.glob("scores*"):
        assert not any(word in path.read_text() for word in ("NaN", "Infinity"))
    bright.value = None
    summary, _, _ = finish(run(task(tmp_path, whole, scoring=scoring())))
    assert (summary.code, len(numbers(tmp_path)["pictures"])) == (0, 4)


def test_a_wrong_setting_is_told_before_drawing(tmp_path: Path, bright: Bright) -> None:
    drawer, wrong = FakeRenderer(), scoring()
    wrong.asked = (asked(top=-1.0),)
    with pytest.raises(InputError, match="--score bright: top is above 0"):
        list(run(task(tmp_path, plan(3), drawer, scoring=wrong)))
    assert drawer.drawn == []
    assert not (tmp_path / "plan.json").exists()


def test_failed_pictures_have_no_scores(tmp_path: Path, bright: Bright) -> None:
    """Their row counts without them; a row that misses a picture waits."""

    def fault(drawn: Any) -> Failed | None:
        if drawn.index != 1:
            return None
        return Failed(job=drawn, kind="flat", message="all grey")

    whole = plan(5)
    summary, _, _ = finish(run(task(tmp_path, whole, FakeRenderer(fault=fault), scoring=scoring())))
    assert (summary.code, summary.failed) == (3, 1)
    found = numbers(tmp_path)
    assert len(found["pictures"]) == 4
    assert [each["pictures"] for each in found["rows"]] == [2, 2]


def test_rows_that_are_not_drawn_yet(tmp_path: Path, bright: Bright) -> None:
    """A run for some rows scores these; all together wait for the rest."""
    whole = plan(6)
    part = make_plan([job for job in whole.jobs if job.row == "second"], sheet="x", batch_class=2)
    finish(run(task(tmp_path, whole, plan=part, scoring=scoring())))
    found = numbers(tmp_path)
    assert [each["row"] for each in found["rows"]] == ["second"]
    assert "all" not in found
    finish(run(task(tmp_path, whole, scoring=scoring())))
    assert len(numbers(tmp_path)["rows"]) == 2
    assert "all" in numbers(tmp_path)


def test_large_sets_are_thinned_evenly(
    tmp_path: Path, bright: Bright, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scores, "MOST_SET", 4)
    finish(run(task(tmp_path, plan(9), scoring=scoring("sets"))))
    assert bright.sets == [4, 4, 4]
    assert bright.seen == []
    assert numbers(tmp_path)["all"]["pictures"] == 9


def test_long_scorings_are_told_of(
    tmp_path: Path, bright: Bright, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scores, "ROWS", 2)
    monkeypatch.setattr(_scores, "TELL_S", -1.0)
    _, events, _ = finish(run(task(tmp_path, plan(5), scoring=scoring("scores"))))
    told = [event.detail for event in events if isinstance(event, Stage)]
    assert told[1:-1] == ["5 pictures: bright", "2 of 5 pictures", "4 of 5 pictures"]


def test_transparent_pictures_are_seen_on_white(tmp_path: Path, bright: Bright) -> None:
    class Ghosts(FakeRenderer):
        def render(self, batch: Batch) -> list[Rendered | Failed]:
            return [ghost(each) for each in super().render(batch) if isinstance(each, Rendered)]

    def ghost(result: Rendered) -> Rendered:
        clear = result.image.convert("RGBA")
        clear.putalpha(0)
        return replace(result, image=clear)

    finish(run(task(tmp_path, plan(2), Ghosts(), scoring=scoring("scores"))))
    values = [each["scores"]["bright"][0]["value"] for each in numbers(tmp_path)["pictures"]]
    assert values == [255.0, 255.0]


def test_an_unreadable_picture_costs_a_notice(
    tmp_path: Path, bright: Bright, monkeypatch: pytest.MonkeyPatch
) -> None:
    from creatok_cli.workflows import _gathered

    whole, read = plan(3), _gathered._read
    lost = f"{whole.jobs[1].name}.png"
    monkeypatch.setattr(
        _gathered, "_read", lambda out, file: None if file == lost else read(out, file)
    )
    summary, events, _ = finish(run(task(tmp_path, whole, scoring=scoring("scores"))))
    assert summary.code == 0
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert "1 picture could not be read: no scores" in notices[0]
    found = numbers(tmp_path)["pictures"]
    assert [bool(each["scores"]) for each in found] == [True, False, True]
