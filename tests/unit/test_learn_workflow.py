"""`learn_token` on a method that opens nothing: what is settled, stored, kept and told."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli import config
from creatok_cli.backbones._weights import resolve
from creatok_cli.domain import Event, Learning, LearnSummary, Notice, Stage, Summary
from creatok_cli.errors import (
    CreatokError,
    InputError,
    MethodDiverged,
    OutputBusy,
    OutputReadOnly,
    PresetError,
    StackChanged,
    UnknownName,
)
from creatok_cli.plan.expand import expand
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.tokens.library import Library
from creatok_cli.workflows import _checkpoint, _report
from creatok_cli.workflows._checkpoint import read_state
from creatok_cli.workflows._lesson import RUN_KEY, check_method, settle
from creatok_cli.workflows._lock import held
from creatok_cli.workflows.learn_token import LearnRequest, learn_token
from creatok_cli.workflows.sample import base_facts, token_files
from tests.fakes.installed import install

PRESET = """\
method: counter
pairs: bestiary
settings:
  name: counted
  steps: 12
"""


@pytest.fixture(autouse=True)
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed method `counter`, a preset for it, and a folder to work in."""
    install(tmp_path / "site", "methods", "counter", "tests.fakes.learning")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "counter.yaml").write_text(PRESET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def asked(**changes: Any) -> LearnRequest:
    """A request without a report."""
    fields: dict[str, Any] = {"preset": "counter.yaml", "device": "cpu", "has_report": False}
    return LearnRequest(**(fields | changes))


def finish(events: Iterator[Event]) -> tuple[LearnSummary, list[Event], CreatokError | None]:
    """All events, the summary that is the last one, and the error that followed it."""
    seen: list[Event] = []
    error = None
    try:
        seen.extend(events)
    except CreatokError as raised:
        error = raised
    if not seen or not isinstance(seen[-1], LearnSummary):
        raise error or AssertionError("no summary")
    return seen[-1], seen, error


def scratch() -> list[Path]:
    """The states that are kept."""
    return sorted((config.home() / "scratch").glob("*/*.safetensors"))


class Stopper:
    """Wants to stop after so many questions."""

    def __init__(self, after: int) -> None:
        self.after = after

    def is_set(self) -> bool:
        self.after -= 1
        return self.after < 0


def test_a_token_is_learned_and_stored() -> None:
    summary, events, error = finish(learn_token(asked()))
    assert error is None
    assert (summary.code, summary.reason, summary.ended) == (0, "ok", "done")
    assert (summary.word, summary.name, summary.steps) == ("<counted>", "counted", 12)
    entry = Library().find("counted")
    assert (str(entry.path), entry.id) == (summary.path, summary.id)
    assert entry.header.metadata[RUN_KEY] == settle(asked()).run
    assert str(config.home()) not in json.dumps(dict(entry.header.metadata))
    learning = [event for event in events if isinstance(event, Learning)]
    assert [event.index for event in learning] == list(range(13))
    assert all({"loss", "J", "steps_per_second"} <= event.values.keys() for event in learning)
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == ["loading", "learning"]
    assert Notice(level="warning", message="counting begins") in events
    assert scratch() == []


def test_the_same_command_again_has_nothing_to_do() -> None:
    first, _, _ = finish(learn_token(asked()))
    again, events, _ = finish(learn_token(asked()))
    assert (again.code, again.id, again.path, again.steps) == (0, first.id, first.path, 12)
    assert not any(isinstance(event, Learning) for event in events)
    resumed, _, error = finish(learn_token(asked(resume=True)))
    assert (resumed.code, error) == (0, None)


def test_settings_come_from_preset_then_flag_then_set() -> None:
    assert settle(asked()).settings["steps"] == 12
    assert settle(asked(steps=7)).settings["steps"] == 7
    assert settle(asked(steps=7, sets=("steps=5",))).settings["steps"] == 5
    lesson = settle(asked(word="scary"))
    assert (lesson.word, lesson.name, lesson.literal) == ("<scary>", "scary", "scary")
    lesson = settle(asked(word="scary", name="boo", encoders="clip_l"))
    assert (lesson.word, lesson.literal) == ("<boo>", "scary")
    assert lesson.settings["encoders"] == ["clip_l"]
    assert settle(asked()).folder is None
    assert settle(asked(has_report=True)).folder == Path("out/learn/counted")
    assert settle(asked(has_report=True, report=Path("x"))).folder == Path("x")


def test_all_that_decides_the_token_is_in_the_run() -> None:
    runs = {
        settle(asked(**changes)).run
        for changes in (
            {},
            {"steps": 13},
            {"seed": 1},
            {"precision": "bf16"},
            {"pairs": "real-world"},
            {"sets": ("theta=0.3",)},
        )
    }
    assert len(runs) == 6
    assert settle(asked(device="auto", has_report=True)).run == settle(asked()).run


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"base": "besti"}, UnknownName, 'did you mean "bestiary"'),
        ({"base": "./nowhere"}, CreatokError, "no such folder"),
        ({"preset": "cretk"}, UnknownName, 'did you mean "cretok"'),
        ({"preset": "nowhere.yaml"}, PresetError, "nowhere.yaml:1:1"),
        ({"pairs": "bestary"}, UnknownName, 'did you mean "bestiary"'),
        (
            {"pairs": "menacing"},
            InputError,
            "restrictive has {a}, but the pairs menacing have trait",
        ),
        ({"steps": 0}, InputError, "--steps: steps must be from 1"),
        ({"sets": ("steps=x",)}, InputError, '--set steps: found "x", expected a whole number'),
        ({"sets": ("stepz=3",)}, UnknownName, 'did you mean "steps"'),
        ({"sampling": "full"}, UnknownName, '--sampling: unknown setting "sampling"'),
        ({"encoders": "clip_x"}, UnknownName, 'did you mean "clip_l"'),
        ({"name": "A B"}, CreatokError, "--name: token name 'A B'"),
        ({"seed": -1}, InputError, "--seed: found -1"),
        ({"resume": True}, InputError, "no unfinished run of <counted>"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as found:
        list(learn_token(asked(**changes)))
    assert words in str(found.value)
    assert Library().names() == ()


def test_a_wrong_setting_of_a_preset_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "counter.yaml").write_text(PRESET.replace("12", "0"), encoding="utf-8")
    with pytest.raises(PresetError, match=r"counter\.yaml:5:10: error\[bad-value\]: steps must be"):
        settle(asked())


def test_a_base_without_the_side_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_sd3: Path
) -> None:
    from tests.fakes import learning

    source = Path(str(learning.__file__)).read_text(encoding="utf-8")
    changed = Path("prior_method.py")
    changed.write_text(source.replace('NEEDS = ("text",)', 'NEEDS = ("prior",)'), encoding="utf-8")
    facts = resolve(str(tiny_sd3))
    check_method("counter", facts)
    install(Path("site"), "methods", "counter", "prior_method")
    monkeypatch.syspath_prepend(str(changed.parent.resolve()))
    with pytest.raises(InputError, match=r"needs prior, which base .* does not have"):
        check_method("counter", facts)


def test_a_taken_name_is_told_and_replaced_only_when_asked() -> None:
    first, _, _ = finish(learn_token(asked()))
    with pytest.raises(InputError, match="another token counted") as found:
        settle(asked(seed=1))
    assert "--replace" in str(found.value)
    assert Library().find("counted").id == first.id
    second, _, _ = finish(learn_token(asked(seed=1, replace=True)))
    assert Library().find("counted").id == second.id != first.id


def test_a_stop_keeps_the_state_and_the_same_command_ends_with_the_same_bytes() -> None:
    whole, _, _ = finish(learn_token(asked()))
    expected = Path(whole.path).read_bytes()
    shutil.rmtree(config.home())
    summary, events, error = finish(
        learn_token(asked(stop=Stopper(5), resume_command="creatok learn-token x"))
    )
    assert (summary.code, summary.reason, summary.ended) == (130, "interrupted", "stopped")
    assert (summary.name, summary.path, summary.retryable) == ("", "", True)
    assert summary.resume == "creatok learn-token x"
    assert error is None
    (state,) = scratch()
    kept = read_state(state.parent, state.stem)
    assert kept is not None
    assert kept.index == events[-2].index == 5  # type: ignore[union-attr]
    again, events, _ = finish(learn_token(asked(resume=True)))
    assert (again.code, Path(again.path).read_bytes()) == (0, expected)
    assert Notice(level="info", message="going on after step 5 of an earlier run") in events
    assert min(event.index for event in events if isinstance(event, Learning)) == 5
    assert scratch() == []


def test_resume_with_other_settings_says_what_differs() -> None:
    finish(learn_token(asked(stop=Stopper(5))))
    with pytest.raises(InputError) as found:
        list(learn_token(asked(steps=13, seed=3, resume=True)))
    assert "steps 12 then, 13 now, seed 0 then, 3 now" in str(found.value)
    summary, _, _ = finish(learn_token(asked(steps=13)))
    assert (summary.code, summary.steps) == (0, 13)


def test_resume_on_another_stack_is_refused_or_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from creatok_cli.workflows import _course as module

    whole, _, _ = finish(learn_token(asked()))
    expected = Path(whole.path).read_bytes()
    shutil.rmtree(config.home())
    plain = module.stack
    with monkeypatch.context() as patch:
        patch.setattr(module, "stack", lambda *words: plain(*words) | {"torch": "0.1"})
        finish(learn_token(asked(stop=Stopper(5))))
    with pytest.raises(StackChanged, match=r"torch 0\.1 then"):
        list(learn_token(asked(resume=True)))
    summary, events, _ = finish(learn_token(asked()))
    assert any("learning from the start" in getattr(event, "message", "") for event in events)
    assert Path(summary.path).read_bytes() == expected


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_state_is_never_believed(damage: str) -> None:
    whole, _, _ = finish(learn_token(asked()))
    expected = Path(whole.path).read_bytes()
    shutil.rmtree(config.home())
    finish(learn_token(asked(stop=Stopper(5))))
    (state,) = scratch()
    data = bytearray(state.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    changed = {"cut": bytes(data[:-9]), "flip": bytes(data), "empty": b"", "text": b"x" * 99}
    state.write_bytes(changed[damage])
    with pytest.raises(CreatokError) as found:
        list(learn_token(asked(resume=True)))
    assert found.value.code == 4
    summary, events, _ = finish(learn_token(asked()))
    assert any("learning from the start" in getattr(event, "message", "") for event in events)
    assert Path(summary.path).read_bytes() == expected


def test_divergence_keeps_the_last_good_state() -> None:
    summary, _, error = finish(learn_token(asked(lr=6.0)))
    assert (summary.code, summary.ended, summary.name) == (3, "diverged", "")
    assert isinstance(error, MethodDiverged)
    (state,) = scratch()
    assert f"step 6, is kept in {state}" in str(error)
    assert Library().names() == ()


def test_nothing_to_learn_stores_nothing_and_offers_a_way() -> None:
    summary, events, error = finish(learn_token(asked(sets=("theta=dead",))))
    assert (summary.code, summary.reason, summary.ended) == (3, "nothing-to-learn", "dead")
    assert (summary.name, summary.path, error) == ("", "", None)
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert any("--theta rel:0.5" in message for message in messages)
    assert Library().names() == ()
    assert scratch() == []


def test_two_runs_of_one_name_do_not_mix() -> None:
    folder = Library().scratch("learn-counted")
    with held(folder, (1, 1)), pytest.raises(OutputBusy, match="<counted> is being learned by"):
        list(learn_token(asked()))


def test_a_report_folder_that_cannot_be_is_told_before_torch() -> None:
    Path("file").write_text("x")
    with pytest.raises(OutputReadOnly):
        list(learn_token(asked(has_report=True, report=Path("file"))))


def test_states_are_written_at_most_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    clock = iter(float(tick) for tick in range(1_000))
    monkeypatch.setattr(_checkpoint.time, "monotonic", lambda: next(clock) * 0.3)
    plain = _checkpoint.durable.replace_derived

    def watched(*words: Any, **named: Any) -> None:
        written.append(len(written))
        plain(*words, **named)

    monkeypatch.setattr(_checkpoint.durable, "replace_derived", watched)
    monkeypatch.setattr(_checkpoint, "SHARE", 1.0)  # this clock also ticks while states are written
    folder = Library().scratch("x")
    import torch

    keeper = _checkpoint.Keeper(folder, {"a": 1}, {}, None)
    for index in range(50):
        keeper.offer(index, {"index": torch.tensor(index)})
    assert 5 <= len(written) <= 9
    keeper.flush()
    state = read_state(folder, _checkpoint.run_digest({"a": 1}))
    assert state is not None
    assert int(state.tensors()["index"]) == state.index == 49


def test_writing_large_states_takes_a_fiftieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    now_s, written = 0.0, 0
    monkeypatch.setattr(_checkpoint.time, "monotonic", lambda: now_s)

    def slow(*words: Any, **named: Any) -> None:
        nonlocal now_s, written
        now_s, written = now_s + 0.5, written + 1

    monkeypatch.setattr(_checkpoint.durable, "replace_derived", slow)
    keeper = _checkpoint.Keeper(Library().scratch("x"), {"a": 1}, {}, None)
    for index in range(2_000):
        keeper.offer(index, {"index": torch.tensor(index)})
        now_s += 0.1
    assert 5 <= written <= 9  # of half a second each, in 200 seconds


def no_pictures(request: Any) -> Iterator[Event]:
    """In place of `sample`: all pictures are there."""
    fields = {"planned": 1, "done": 1, "skipped": 0, "failed": 0, "remaining": 0}
    yield Stage(name="drawing")
    yield Summary(
        **fields,
        out=str(request.out),
        seconds=0.1,
        images_per_second=1.0,
        code=0,
        reason="ok",
        retryable=False,
    )


def test_the_report_is_the_same_every_time_and_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report, "sample", no_pictures)
    folder = Path("out/learn/counted")
    summary, events, _ = finish(learn_token(asked(has_report=True)))
    assert (summary.code, summary.report) == (0, str(folder))
    assert not any(isinstance(event, Summary) for event in events)
    names = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert names == {
        *("report.png", "report.json", "token.safetensors", "initial.safetensors"),
        "counted-beside-controls.yaml",
    }
    with Image.open(folder / "report.png") as figure:
        assert figure.width > 1200
        assert len(figure.convert("RGB").getcolors(1 << 24) or ()) > 50
        assert set(figure.info) <= {"dpi"}
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert told["token"]["id"] == summary.id
    assert told["pairs"]["train"] == 200
    assert told["settings"]["steps"] == 12
    assert told["facts"]["curves"]["step"] == list(range(1, 13))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert str(config.home()).encode() not in b"".join(kept.values())
    shutil.rmtree(config.home())
    shutil.rmtree(folder)
    finish(learn_token(asked(has_report=True)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_the_sheet_of_the_report_is_sound_and_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report, "sample", no_pictures)
    finish(learn_token(asked(has_report=True)))
    sheet = load_sheet("out/learn/counted/counted-beside-controls.yaml")
    ids = {word: header.id for word, header in token_files(sheet).items()}
    jobs = expand(sheet, base_facts(sheet), ids)
    columns = {job.row.rpartition("/")[2] for job in jobs}
    controls = {'"creative"', "no word", "hybrid", "plain pair", "initial row"}
    assert columns == {"<counted>", *controls}
    held_out = settle(asked(replace=True)).pairs.held_out
    known = {row for rows in held_out.values() for row in rows}
    drawn = {tuple(value for _, value in job.labels) for job in jobs}
    assert drawn <= known
    cells: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for job in jobs:
        cell = (job.row.rpartition("/")[2], tuple(value for _, value in job.labels))
        cells.setdefault(cell, []).append(job.seed)
    assert len(cells) == len(columns) * len(drawn) == 6 * 9
    assert len({tuple(seeds) for seeds in cells.values()}) == 1
    plain = [job.prompt for job in jobs if job.row.endswith("/plain pair")]
    assert all(len(prompt.split()) >= 6 and "mixture" not in prompt for prompt in plain)


@pytest.mark.parametrize(
    ("template", "columns", "labels"),
    [
        ("a photo of a {word} {animal}", 5, 1),
        ("a {word} {trait} {animal}", 5, 2),
        ("a {word}", 5, 0),
    ],
)
def test_the_sheet_of_other_slots_is_sound(
    template: str, columns: int, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_report, "sample", no_pictures)
    sets = (f"template={template}", "restrictive=a {trait} {animal}", "word=menacing")
    finish(learn_token(asked(has_report=True, pairs="menacing", sets=sets)))
    sheet = load_sheet("out/learn/counted/counted-beside-controls.yaml")
    ids = {word: header.id for word, header in token_files(sheet).items()}
    jobs = expand(sheet, base_facts(sheet), ids)
    assert len({job.row.rpartition("/")[2] for job in jobs}) == columns
    assert {len(job.labels) for job in jobs} == {labels}


def test_a_stop_while_pictures_are_drawn_keeps_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(request: Any) -> Iterator[Event]:
        for event in no_pictures(request):
            if isinstance(event, Summary):
                event = replace(event, code=130, reason="interrupted", retryable=True)
            yield event

    with monkeypatch.context() as patch:
        patch.setattr(_report, "sample", stopped)
        summary, _, _ = finish(learn_token(asked(has_report=True, resume_command="go")))
    assert (summary.code, summary.name, summary.resume) == (130, "counted", "go")
    assert summary.report == ""
    assert len(scratch()) == 1
    monkeypatch.setattr(_report, "sample", no_pictures)
    again, _, _ = finish(learn_token(asked(has_report=True)))
    assert (again.code, again.id) == (0, summary.id)
    assert scratch() == []


def test_a_missing_report_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report, "sample", no_pictures)
    first, _, _ = finish(learn_token(asked()))
    later, _, _ = finish(learn_token(asked(has_report=True)))
    assert (later.id, later.report) == (first.id, "out/learn/counted")
    assert Path("out/learn/counted/report.json").exists()


def test_dead_has_a_figure_and_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(request: Any) -> Iterator[Event]:
        raise AssertionError("drawn")

    monkeypatch.setattr(_report, "sample", never)
    summary, _, _ = finish(learn_token(asked(has_report=True, sets=("theta=dead",))))
    assert summary.code == 3
    assert Path("out/learn/counted/report.png").exists()
    assert json.loads(Path("out/learn/counted/report.json").read_text())["ended"] == "dead"


def test_a_stop_is_seen_between_steps() -> None:
    stop = threading.Event()
    events = learn_token(asked(stop=stop))
    for event in events:
        if isinstance(event, Learning) and event.index == 3:
            stop.set()
            break
    rest = [event.index for event in events if isinstance(event, Learning)]
    assert rest in ([3], [3, 3])
