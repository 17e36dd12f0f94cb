"""`explore` on a search and a validator of a few lines: settled, prepared, checked, kept, shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli import config
from creatok_cli.domain import Event, ExploreSummary, Found, Learning, Notice, Stage
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    InputError,
    Interrupted,
    MethodDiverged,
    OutputBusy,
    PresetError,
    UnknownName,
    UnsafeName,
)
from creatok_cli.tokens.library import Library
from creatok_cli.workflows import _checks, _prepared, _quest, _ways
from creatok_cli.workflows import explore as workflow
from creatok_cli.workflows._checks import read_checks
from creatok_cli.workflows._finds import Finds
from creatok_cli.workflows._labeler import Chosen
from creatok_cli.workflows._lock import held
from creatok_cli.workflows.explore import QuestRequest, explore, outline, settle
from tests.fakes.installed import install

ROOT = Path(__file__).parents[2]
PRESET = "method: wander\nsettings: {steps: 4}\n"
DRAW = Finds.draw
FIGURES = (_ways.cloud_bytes, _ways.arousal_bytes)
PROMPT = "a photo of a creature"


@pytest.fixture(autouse=True)
def wander(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed search, a validator that sees colours only, and a folder to work in."""
    install(tmp_path / "site", "methods", "wander", "tests.fakes.wandering")
    install(tmp_path / "site", "scorers", "shades", "tests.fakes.shades")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    shades = Chosen(name="shades", settings={}, recipe={"name": "shades"})
    monkeypatch.setattr(_quest, "choose_validator", lambda facts, wanted: shades)
    monkeypatch.setattr(Finds, "draw", not_drawn)
    for name in ("cloud_bytes", "arousal_bytes"):
        monkeypatch.setattr(_ways, name, lambda *words: b"a figure")
    (tmp_path / "wander.yaml").write_text(PRESET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def not_drawn(self: Finds, **words: Any) -> Iterator[Event]:
    """Pictures of finds are drawn in one test alone."""
    yield from ()
    return None


def asked(**changes: Any) -> QuestRequest:
    """One search of four steps."""
    fields: dict[str, Any] = {
        "method": "wander",
        "prompt": PROMPT,
        "preset": "wander.yaml",
        "device": "cpu",
        "out": Path("found"),
    }
    return QuestRequest(**(fields | changes))


def summary_of(events: list[Event]) -> ExploreSummary:
    assert isinstance(events[-1], ExploreSummary)
    return events[-1]


def run(**changes: Any) -> list[Event]:
    return list(explore(asked(**changes)))


def told(events: Iterator[Event]) -> tuple[list[Event], CreatokError | None]:
    """The events of a run, and the error that ended it."""
    seen: list[Event] = []
    try:
        for event in events:
            seen.append(event)  # noqa: PERF402 - what came before the error counts
    except CreatokError as error:
        return seen, error
    return seen, None


def content(folder: Path) -> dict[str, bytes]:
    """All files that equal runs have in common: not the times of manifests."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".png", ".safetensors", ".yaml")
    } | {"explore.json": (folder / "explore.json").read_bytes()}


def states() -> list[Path]:
    """What is kept of unfinished runs."""
    found = sorted((config.home() / "scratch").rglob("*"))
    return [path for path in found if path.is_file() and path.suffix != ".lock"]


class Stopper:
    """Wants to stop after so many questions."""

    def __init__(self, after: int) -> None:
        self.after = after

    def is_set(self) -> bool:
        self.after -= 1
        return self.after < 0


def test_searches_end_with_finds_pictures_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Finds, "draw", DRAW)
    monkeypatch.setattr(workflow, "SEEDS", 2)
    for figure in FIGURES:
        monkeypatch.setattr(_ways, figure.__name__, figure)
    events = run(strands=2)
    summary = summary_of(events)
    assert (summary.code, summary.finds, summary.looked_at) == (0, 2, 4)
    folder = Path("found")
    names = [Path(path).name for path in summary.figures]
    assert names == ["strip-01.png", "strip-02.png", "cloud.png", "arousal.png"]
    assert all((folder / name).is_file() for name in (*names, "wander.yaml", "explore.json"))
    assert [Path(path).name for path in summary.contact_sheets][:1] == ["contact-sheet.png"]
    found = [event for event in events if isinstance(event, Found)]
    assert [event.name for event in found] == ["wander-0-01", "wander-0-02"]
    assert found[0].word == "<wander-0-01>"
    assert found[0].values["rarity"] == 0.985
    header = Library().find("wander-0-01").header
    assert header.recipe["run"] == settle(asked(strands=2)).search.run
    assert header.recipe["template"] == "a photo of a {word}"
    numbers = json.loads((folder / "explore.json").read_text())
    assert [each["id"] for each in numbers["finds"]] == [each.id for each in found]
    assert found[0].id != found[1].id
    assert numbers["ended"] == "done"
    assert numbers["looked_at"] == 4
    assert str(Path.cwd()) not in json.dumps(numbers)
    assert len(list((folder / "pictures").rglob("*.png"))) >= 4
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages[:3] == ["loading", "preparing", "loading"]
    assert "searching" in stages
    assert "labelling" in stages
    assert any(isinstance(event, Learning) for event in events)
    assert states() == []


def test_every_check_says_what_was_seen() -> None:
    run()
    search = settle(asked()).search
    checks = read_checks(Path("found"), search.run, 1)
    assert [each.index for each in checks] == [0, 2]
    assert all(each.p_yes is not None and 0 <= each.p_yes <= 1 for each in checks)
    assert [round(each.values["rarity"], 6) for each in checks] == [0.5, 0.7]
    assert checks[0].image.size == (64, 64)
    assert read_checks(Path("found"), "another run", 1) == []
    (Path("found") / "checks" / "01" / "0000002-0-yes.png").write_bytes(b"no picture")
    assert [each.index for each in read_checks(Path("found"), search.run, 1)] == [0]


def test_the_same_command_again_draws_nothing_and_changes_nothing() -> None:
    run()
    before = content(Path("found"))
    events = run()
    assert summary_of(events).code == 0
    assert content(Path("found")) == before
    assert not any(isinstance(event, Found | Learning) for event in events)
    assert Notice(level="info", message="1 find of an earlier start: kept") in events
    more = run(strands=2)
    assert [event.name for event in more if isinstance(event, Found)] == ["wander-0-02"]
    first = "tokens/wander-0-01.safetensors"
    assert content(Path("found"))[first] == before[first]


WHOLE: dict[str, bytes] = {}


def whole_run() -> dict[str, bytes]:
    """What two searches leave that nobody stopped; made once."""
    if not WHOLE:
        assert summary_of(run(strands=2)).code == 0
        WHOLE.update(content(Path("found")))
        shutil.rmtree("found")
        shutil.rmtree(config.home())
    return WHOLE


@pytest.mark.parametrize("after", [2, 6, 8, 13])
def test_a_stop_costs_no_find_and_the_same_command_ends_with_the_same_bytes(after: int) -> None:
    expected = whole_run()
    events, error = told(explore(asked(strands=2, stop=Stopper(after), resume_command="again")))
    assert error is None
    assert (summary_of(events).code, summary_of(events).resume) == (Interrupted.code, "again")
    kept = [event.name for event in events if isinstance(event, Found)]
    again = run(strands=2)
    assert summary_of(again).code == 0
    assert content(Path("found")) == expected
    later = [event.name for event in again if isinstance(event, Found)]
    assert kept + later == ["wander-0-01", "wander-0-02"]
    assert states() == []


def test_resume_wants_something_to_go_on_from() -> None:
    with pytest.raises(InputError, match="no unfinished run"):
        run(resume=True)
    events, _ = told(explore(asked(stop=Stopper(9))))
    assert summary_of(events).code == Interrupted.code
    assert len(states()) == 1
    with pytest.raises(InputError, match="steps 4 then, 7 now"):
        run(resume=True, settings={"steps": 7}, out=Path("other"))
    again = run(resume=True)
    assert any("going on after step" in getattr(event, "message", "") for event in again)
    assert summary_of(again).code == 0


def test_what_is_prepared_is_made_once_and_again_where_it_is_damaged() -> None:
    events = run()
    assert any(isinstance(event, Stage) and event.name == "preparing" for event in events)
    (file,) = (config.home() / _prepared.FOLDER).glob("*.safetensors")
    data = file.read_bytes()
    other = run(seed=1, out=Path("second"))
    assert not any(isinstance(event, Stage) and event.name == "preparing" for event in other)
    file.write_bytes(data[:-4] + b"\0\0\x80\x3f")
    third = run(seed=2, out=Path("third"))
    assert any("it is made again" in getattr(event, "message", "") for event in third)
    assert file.read_bytes() == data


def test_nan_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tests.fakes import wandering

    def broken(spec: Any, backbone: Any, quest: Any, *, seed: int) -> Any:
        yield wandering.Step(index=0, total=1)
        return {"plain": torch.tensor([[float("nan"), 0.0]])}

    module = settle(asked()).module
    monkeypatch.setattr(module, "prepare", broken)
    events, error = told(explore(asked()))
    assert isinstance(error, ArtefactError)
    assert "NaN" in str(error)
    assert summary_of(events).code == 4
    assert not (config.home() / _prepared.FOLDER).exists()
    assert not list(Path("found").rglob("*.safetensors"))


def test_a_search_that_diverges_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    module = settle(asked()).module
    plain = module.Wander.run
    begun: list[int] = []

    def faulty(self: Any, backbone: Any, brief: Any, *, seed: int) -> Any:
        begun.append(seed)
        if len(begun) == 1:
            raise MethodDiverged("step 3: the loss is not finite")
        return (yield from plain(self, backbone, brief, seed=seed))

    monkeypatch.setattr(module.Wander, "run", faulty)
    events = run(strands=2)
    summary = summary_of(events)
    assert (summary.code, summary.finds) == (3, 1)
    assert any("search 1: step 3" in getattr(event, "message", "") for event in events)
    assert len(set(begun)) == 2


def test_a_run_without_finds_says_so() -> None:
    events = run(sets=("finds=false",))
    summary = summary_of(events)
    assert (summary.code, summary.reason, summary.finds) == (3, "nothing-found", 0)
    assert any("it ended pulled back" in getattr(event, "message", "") for event in events)
    diverged, error = told(explore(asked(sets=("lr=6",))))
    assert isinstance(error, MethodDiverged)
    assert summary_of(diverged).code == 3


def test_two_runs_of_one_quest_do_not_mix() -> None:
    pursuit = settle(asked())
    with held(Library().scratch(pursuit.scratch_name), (1, 1)):
        events, error = told(explore(asked()))
    assert isinstance(error, OutputBusy)
    assert "is being searched by process" in str(error)
    assert summary_of(events).code == 6


def test_another_run_never_takes_the_place_of_finds() -> None:
    run()
    with pytest.raises(InputError, match="another run; choose another --out"):
        settle(asked(settings={"steps": 7}))
    with pytest.raises(InputError, match="another token wander-0-01"):
        settle(asked(settings={"steps": 7}, out=Path("other")))
    before = content(Path("found"))["tokens/wander-0-01.safetensors"]
    assert summary_of(run(settings={"steps": 7}, replace=True)).code == 0
    assert content(Path("found"))["tokens/wander-0-01.safetensors"] != before


# Settling


def picture(path: str, colour: int, side: int = 32) -> Path:
    Image.new("RGB", (side, side), (colour, 0, 0)).save(path)
    return Path(path)


def test_all_that_decides_the_finds_is_in_the_run() -> None:
    one, two = picture("one.png", 10), picture("two.png", 20)
    changes: list[dict[str, Any]] = [
        {},
        {"prompt": "a photo of a dog"},
        {"subject": "photo"},
        {"settings": {"rarity": 0.9}},
        {"sets": ("lr=0.1",)},
        {"seed": 1},
        {"precision": "bf16"},
        {"class_names": "real-world"},
        {"like": ("a pet",)},
        {"unlike": ("a pet",)},
        {"toward": (one,)},
        {"toward": (two,)},
        {"away": (one,)},
        {"origin": one},
    ]
    runs = {settle(asked(**each)).search.run for each in changes}
    assert len(runs) == len(changes)
    same = [{"strands": 3}, {"device": "auto"}, {"name": "other"}, {"resume": True}]
    assert {settle(asked(**each)).search.run for each in same} == {settle(asked()).search.run}


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("a photo of a creature", "creature"),
        ("a photo of a red creature in the snow", "red creature"),
        ("a watercolor of an owl, at night", "owl"),
        ("the old dragon", "old dragon"),
        ("creature", "creature"),
        ("pixel art of the sea monster", "sea monster"),
    ],
)
def test_the_subject_is_read_off_the_prompt(prompt: str, subject: str) -> None:
    assert settle(asked(prompt=prompt)).subject == subject


def test_the_plan_of_a_run_is_laid_out() -> None:
    plan = outline(settle(asked(strands=3, unlike=("a cat",), out=None)))
    assert plan["finds"] == "wander-0-01 to wander-0-03"
    assert plan["subject"] == "creature"
    assert plan["out"] == str(Path("out") / "explore" / "wander-0")
    assert plan["unlike"] == ["a cat"]
    assert "toward" not in plan
    json.dumps(plan)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt": ""}, InputError, "PROMPT: found nothing"),
        ({"prompt": "   "}, InputError, "PROMPT: found nothing"),
        ({"prompt": "x" * 301}, InputError, "found 301 characters"),
        ({"prompt": "a\x07bell"}, InputError, "control character"),
        ({"prompt": "a photo of a <hydra>"}, InputError, "without tokens"),
        ({"prompt": "a photo of a {word}"}, InputError, "without tokens"),
        ({"subject": "dog"}, InputError, '--subject: "dog" is not in the prompt'),
        ({"subject": " "}, InputError, "--subject: found nothing"),
        ({"prompt": None}, InputError, "nothing to be like"),
        ({"like": ("Cat",), "unlike": ("cat",)}, InputError, 'both say "cat"'),
        ({"unlike": ("cat", "Cat")}, InputError, "--unlike: one word is given twice"),
        ({"settings": {"rarity": 1.5}}, InputError, "--rarity: rarity must be from 0.05"),
        ({"settings": {"rarity": "much"}}, InputError, "--rarity"),
        ({"settings": {"check_every": "x"}}, InputError, "--check-every"),
        ({"sets": ("rarity=0",)}, InputError, "--set rarity"),
        ({"sets": ("rarety=.9",)}, UnknownName, 'did you mean "rarity"'),
        ({"seed": -1}, InputError, "--seed: found -1"),
        ({"strands": 0}, InputError, "--strands: found 0"),
        ({"strands": 100}, InputError, "--strands: found 100"),
        ({"name": "Böse"}, UnsafeName, "--name"),
        ({"base": "besti"}, UnknownName, 'did you mean "bestiary"'),
        ({"preset": "nowhere.yaml"}, PresetError, "nowhere.yaml:1:1"),
        ({"method": "distok"}, InputError, "is for wander, not for distok"),
        ({"class_names": "bestary"}, UnknownName, 'did you mean "bestiary"'),
        ({"toward": (Path("none.png"),)}, InputError, "--toward none.png: the picture cannot"),
        ({"away": (Path("wander.yaml"),)}, InputError, "--away-from wander.yaml: is no picture"),
        ({"origin": Path("site")}, InputError, "--from-image site: is no regular file"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as found:
        run(**changes)
    assert words in str(found.value)
    assert not Path("found").exists()
    assert not (config.home() / "scratch").exists()


def test_pictures_are_looked_at_before_they_are_believed() -> None:
    tiny = picture("tiny.png", 1, side=4)
    with pytest.raises(InputError, match=r"tiny\.png: is 4x4 pixels"):
        settle(asked(toward=(tiny,)))
    one = picture("one.png", 10)
    with pytest.raises(InputError, match="--toward: one picture is given twice"):
        settle(asked(toward=(one, picture("same.png", 10))))
    with pytest.raises(InputError, match="found 65 pictures"):
        settle(asked(toward=(one,) * 65))
    bomb = bytearray(one.read_bytes())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    Path("bomb.png").write_bytes(bytes(bomb))
    with pytest.raises(InputError, match=r"--away-from bomb\.png"):
        settle(asked(away=(Path("bomb.png"),)))
    Path("cut.png").write_bytes(one.read_bytes()[:60])
    with pytest.raises(InputError, match=r"--from-image cut\.png"):
        settle(asked(origin=Path("cut.png")))
    notices = settle(asked(toward=(one,))).notices
    assert "--toward: 1 of 3 or more pictures" in notices[0].message


def test_a_base_without_the_sides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from creatok_cli import registry

    plain = registry.describe

    def poor(group: str, name: str) -> Any:
        found = plain(group, name)
        if group != "backbones":
            return found
        from dataclasses import replace

        return replace(found, facts={**found.facts, "SIDES": ("image",)})

    monkeypatch.setattr(registry, "describe", poor)
    with pytest.raises(InputError, match="wander needs text, which base bestiary does not have"):
        settle(asked())


def test_settling_imports_no_torch() -> None:
    code = (
        "import sys; from creatok_cli.workflows import explore;"
        "print(sorted({'torch', 'numpy', 'matplotlib', 'diffusers'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_plain_prompts_are_examples_of_what_is_looked_for() -> None:
    whole = _checks.plain_prompts(settle(asked()))
    assert whole[0] == (PROMPT, 48)
    assert ("a photo of an owl", 1) in whole
    assert len(whole) == 61
    alone = _checks.plain_prompts(settle(asked(prompt="a photo of a dog")))
    assert alone == [("a photo of a dog", 48)]
    liked = _checks.plain_prompts(settle(asked(prompt=None, like=("a pet", "an owl"))))
    assert liked == [("a photo of a pet", 24), ("a photo of an owl", 24)]
