"""`train_network` on a method and a labeler of a few lines: settled, answered, kept, stored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import config
from creatok_cli.domain import Event, Learning, Notice, Stage
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    InputError,
    Interrupted,
    MethodDiverged,
    OutputBusy,
    PresetError,
    StackChanged,
    UnknownName,
)
from creatok_cli.registry import describe
from creatok_cli.tokens.library import Library
from creatok_cli.tokens.network import RUN_KEY, Network, network_path, read_network
from creatok_cli.workflows import _course
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._training import (
    Trained,
    TrainRequest,
    drop_training,
    known_network,
    outline,
    settle_training,
    train_network,
)
from tests.fakes.installed import install

ROOT = Path(__file__).parents[2]
PRESET = """\
method: blend
classes: few.txt
settings:
  steps: 12
  every: 0
"""


@pytest.fixture(autouse=True)
def blend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed method and labeler, a preset with its classes, and a folder to work in."""
    install(tmp_path / "site", "methods", "blend", "tests.fakes.training")
    install(tmp_path / "site", "scorers", "shades", "tests.fakes.shades")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "blend.yaml").write_text(PRESET, encoding="utf-8")
    (tmp_path / "few.txt").write_text("pig\npolar bear\nowl\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def asked(**changes: Any) -> TrainRequest:
    """A request for a training that proposes nothing."""
    fields: dict[str, Any] = {"preset": "blend.yaml", "labeler": "shades", "device": "cpu"}
    return TrainRequest(**(fields | changes))


def finish(run: Generator[Event, None, Trained]) -> tuple[Trained, list[Event]]:
    """What the run ends with, and its events."""
    seen: list[Event] = []
    while True:
        try:
            seen.append(next(run))
        except StopIteration as end:
            return end.value, seen


def train(**changes: Any) -> tuple[Trained, list[Event]]:
    request = asked(**changes)
    return finish(train_network(request, settle_training(request)))


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


def test_a_network_is_trained_and_stored() -> None:
    made, events = train()
    training = settle_training(asked())
    assert (made.ended, made.steps) == ("done", 12)
    assert made.path == network_path(training.run)
    found = read_network(made.path)
    assert (found.id, found.run) == (made.network.id, training.run)
    assert found.classes == ("pig", "polar bear", "owl")
    assert found.recipe["labeler"] == {"name": "shades", "settings": {}}
    assert found.recipe["base"] == "bestiary"
    assert str(Path.cwd()) not in json.dumps([dict(found.metadata), dict(found.recipe)])
    learning = [event for event in events if isinstance(event, Learning)]
    assert [event.index for event in learning] == list(range(13))
    assert "left_s" not in learning[0].values
    assert all(event.values["left_s"] >= 0 for event in learning[1:])
    assert learning[-1].values["left_s"] == 0
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == ["loading", "training"]
    assert Notice(level="warning", message="blending begins") in events
    assert states() == []


def test_what_was_made_before_is_known() -> None:
    training = settle_training(asked())
    assert known_network(training).network is None
    made, _ = train()
    known = known_network(training)
    assert known.network is not None
    assert (known.network.id, known.network.path, known.notices) == (
        made.network.id,
        str(made.path),
        (),
    )
    assert known_network(settle_training(asked(seed=1))).network is None
    again, _ = train()
    assert again.path.read_bytes() == made.path.read_bytes()


def test_a_damaged_network_is_set_aside_told_and_trained_again() -> None:
    made, _ = train()
    data, training = made.path.read_bytes(), settle_training(asked())
    made.path.write_bytes(data[:-3])
    with pytest.raises(ArtefactError, match="cut off"):
        known_network(training, may_train=False)
    assert made.path.is_file()
    known = known_network(training)
    assert known.network is None
    (notice,) = known.notices
    assert "set aside as" in notice.message
    assert "cut off" in notice.message
    assert made.path.with_name(f"{made.path.name}.damaged").read_bytes() == data[:-3]
    again, _ = train()
    assert again.path.read_bytes() == data


def test_all_that_decides_the_network_is_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("pig\nowl\n", encoding="utf-8")
    runs = {
        settle_training(asked(**changes)).run
        for changes in (
            {},
            {"steps": 13},
            {"seed": 1},
            {"precision": "bf16"},
            {"concepts": "other.txt"},
            {"sets": ("lr=0.3",)},
            {"labeler": None},
        )
    }
    assert len(runs) == 7
    assert settle_training(asked(device="auto", resume=True)).run == settle_training(asked()).run


def test_settings_come_from_preset_then_flag_then_set() -> None:
    assert settle_training(asked()).settings["steps"] == 12
    assert settle_training(asked(steps=7)).settings["steps"] == 7
    assert settle_training(asked(steps=7, sets=("steps=5",))).settings["steps"] == 5
    assert settle_training(asked()).classes.name == "few"
    assert settle_training(asked(concepts="real-world")).classes.name == "real-world"
    Path("blend.yaml").write_text("method: blend\n", encoding="utf-8")
    assert settle_training(asked()).classes.name == "bestiary"
    told = outline(settle_training(asked()))
    assert told["classes"].startswith("60 of bestiary (sha256:")
    json.dumps(told)


def test_the_labeler_of_the_base_is_known_by_its_files(tmp_path: Path) -> None:
    chosen = settle_training(asked(labeler=None)).labeler
    assert chosen.name == "clip"
    assert chosen.recipe["digest"].startswith("sha256:")
    assert "folder" not in chosen.recipe["settings"]
    assert "/" not in json.dumps(chosen.recipe)
    model = tmp_path / "vqa"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    first = settle_training(asked(labeler="blip", labeler_folder=model))
    assert (first.labeler.name, first.labeler.settings["folder"]) == ("blip", str(model))
    moved = model.rename(tmp_path / "moved")
    (moved / "pytorch_model.bin").write_bytes(b"not read")
    assert settle_training(asked(labeler="blip", labeler_folder=moved)).run == first.run
    (moved / "model.safetensors").write_bytes(b"other")
    assert settle_training(asked(labeler="blip", labeler_folder=moved)).run != first.run
    clip = settle_training(asked(labeler="clip", labeler_folder=moved)).labeler
    assert (clip.name, clip.settings["image"]) == ("clip", ("",))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"base": "besti"}, UnknownName, 'did you mean "bestiary"'),
        ({"preset": "nowhere.yaml"}, PresetError, "nowhere.yaml:1:1"),
        ({"preset": "nowhere"}, UnknownName, "unknown preset"),
        ({"concepts": "bestary"}, UnknownName, 'did you mean "bestiary"'),
        ({"concepts": "none.txt"}, CreatokError, "none.txt"),
        ({"steps": 0}, InputError, "--steps: steps must be from 1"),
        ({"sets": ("steps=x",)}, InputError, '--set steps: found "x", expected a whole number'),
        ({"sets": ("stepz=3",)}, UnknownName, 'did you mean "steps"'),
        ({"seed": -1}, InputError, "--seed: found -1"),
        ({"labeler": "judge"}, InputError, "judge only measures"),
        ({"labeler": "blib"}, UnknownName, 'did you mean "blip"'),
        ({"labeler": "blip"}, InputError, "--labeler-folder"),
        ({"labeler_folder": Path("nowhere")}, ArtefactError, "--labeler-folder: nowhere: no such"),
        (
            {"labeler_folder": Path("site"), "labeler": None},
            ArtefactError,
            "no .safetensors weights there",
        ),
        ({"labeler_folder": Path("site"), "labeler": "shades"}, InputError, "reads no folder"),
        ({"resume": True}, InputError, "no unfinished run of the network for bestiary"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as found:
        train(**changes)
    assert words in str(found.value)
    assert not (config.home() / "networks").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: blend\npairs: bestiary\n", "blend.yaml:2:1"),
        ("method: blend\nclasses: few\n", "unknown list"),
        ("method: cretok\n", "the method cretok cannot fuse"),
    ],
)
def test_a_preset_of_another_verb_is_refused(text: str, words: str) -> None:
    Path("blend.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PresetError) as found:
        settle_training(asked())
    assert words in str(found.value)


def test_settling_imports_no_torch() -> None:
    code = (
        "import sys; from creatok_cli.workflows._labeler import choose_labeler;"
        "from creatok_cli.backbones._weights import resolve;"
        "from creatok_cli.workflows import _training;"
        "choose_labeler(resolve('bestiary'));"
        "print(sorted({'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr) == ("[]\n", "")


# Proposals


def test_proposals_are_drawn_labelled_and_answered() -> None:
    made, events = train(sets=("every=5",), steps=8)
    assert made.network.pool_size == 4
    shares = made.network.tensors["pool/p"].values()
    assert sum(shares) == pytest.approx(4)
    pictures = made.network.tensors["pool/pictures"].values()
    assert len(set(pictures)) > 20
    assert Stage(name="labelling", detail="shades") in events
    assert states() == []
    again, _ = train(sets=("every=5",), steps=8)
    assert again.path.read_bytes() == made.path.read_bytes()


def test_the_bytes_do_not_depend_on_the_number_of_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    from creatok_cli.executors import local

    whole, _ = train(sets=("every=5", "seeds=6"), steps=6)
    expected = whole.path.read_bytes()
    for cores in (1, 3):
        monkeypatch.setattr(local, "cores", lambda cores=cores: cores)
        assert train(sets=("every=5", "seeds=6"), steps=6)[0].path.read_bytes() == expected


def test_a_picture_that_cannot_be_drawn_is_none_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from creatok_cli import render
    from creatok_cli.domain import Failed

    plain = render.Renderer.render

    def faulty(self: Any, batch: Any) -> Any:
        found = plain(self, batch)
        return [Failed(job=found[0].job, kind="flat", message="all grey"), *found[1:]]

    monkeypatch.setattr(render.Renderer, "render", faulty)
    made, events = train(sets=("every=5",), steps=6)
    assert made.network.pool_size == 3
    message = "step 5: 1 of 4 proposed pictures could not be drawn (1: all grey)"
    assert Notice(level="warning", message=message) in events


def test_a_proposal_for_another_base_or_token_is_a_clear_error() -> None:
    from dataclasses import replace

    from creatok_cli.domain import Job
    from creatok_cli.methods.base import Step
    from creatok_cli.workflows._feedback import proposed_plan

    facts = settle_training(asked()).facts
    job = Job(
        base_digest=facts.digest,
        prompt="a photo of a <t>",
        seed=0,
        size_px=(64, 64),
        steps=2,
        guidance=1.0,
        scheduler="x",
        dtype="fp32",
    )
    jobs = [replace(job, seed=seed) for seed in range(20)]
    plan, order = proposed_plan(Step(index=3, total=9, proposals=tuple(jobs)), facts)
    assert [batch.batch_class for batch in plan.batches] == [8, 8, 8]
    assert [order[each.name] for each in plan.jobs] == list(range(20))
    assert all(each.key.startswith("r1:") for each in plan.jobs)
    other = Step(index=3, total=9, proposals=(replace(job, base_digest="sha256:0"),))
    with pytest.raises(InputError, match="proposal 0 of step 3: made for another base"):
        proposed_plan(other, facts)
    strange = Step(index=3, total=9, proposals=(replace(job, tokens=(("<t>", "sha256:0"),)),))
    with pytest.raises(InputError, match="carries no token <t>"):
        proposed_plan(strange, facts)


# Stop, resume, faults


@pytest.mark.parametrize("after", [2, 6, 7, 8, 10])
def test_a_stop_keeps_the_state_and_the_same_command_ends_with_the_same_bytes(after: int) -> None:
    changes: dict[str, Any] = {"sets": ("every=5",), "steps": 8}
    whole, _ = train(**changes)
    expected = whole.path.read_bytes()
    shutil.rmtree(config.home())
    with pytest.raises(Interrupted):
        train(**changes, stop=Stopper(after))
    assert len(states()) == 1
    again, events = train(**changes, resume=True)
    assert again.path.read_bytes() == expected
    assert any("going on after step" in getattr(event, "message", "") for event in events)
    assert states() == []


def test_resume_with_other_settings_says_what_differs() -> None:
    with pytest.raises(Interrupted):
        train(stop=Stopper(5))
    with pytest.raises(InputError) as found:
        train(steps=13, seed=3, resume=True)
    assert "steps 12 then, 13 now, seed 0 then, 3 now" in str(found.value)
    drop_training(settle_training(asked()))
    assert states() == []


def test_resume_on_another_stack_is_refused_or_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = train()
    expected, plain = whole.path.read_bytes(), _course.stack
    shutil.rmtree(config.home())
    with monkeypatch.context() as patch:
        patch.setattr(_course, "stack", lambda *words: plain(*words) | {"torch": "0.1"})
        with pytest.raises(Interrupted):
            train(stop=Stopper(5))
    with pytest.raises(StackChanged, match=r"torch 0\.1 then"):
        train(resume=True)
    again, events = train()
    assert any("learning from the start" in getattr(event, "message", "") for event in events)
    assert again.path.read_bytes() == expected


def test_divergence_keeps_the_last_good_state() -> None:
    with pytest.raises(MethodDiverged) as found:
        train(sets=("lr=6",))
    (state,) = states()
    assert f"step 6, is kept in {state}" in str(found.value)
    assert not (config.home() / "networks").exists()


def test_two_trainings_of_one_network_do_not_mix() -> None:
    folder = Library().scratch(settle_training(asked()).scratch_name)
    with (
        held(folder, (1, 1)),
        pytest.raises(OutputBusy, match="network for bestiary is being trained by process"),
    ):
        train()
    with held(folder, (1, 1)):
        assert train(seed=1)[0].ended == "done"


def test_a_method_that_ends_without_a_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from creatok_cli.methods.base import Artefact
    from tests.fakes import training as fake

    def empty(self: Any, backbone: Any, brief: Any, *, seed: int) -> Any:
        yield fake.Step(index=0, total=1)
        return Artefact()

    module = settle_training(asked()).module
    monkeypatch.setattr(module.Blend, "run", empty)
    with pytest.raises(ArtefactError, match="method blend ended without a network"):
        train()


def test_the_network_says_its_run() -> None:
    made, _ = train()
    assert isinstance(made.network, Network)
    assert made.network.metadata[RUN_KEY] == settle_training(asked()).run
    assert describe("methods", "blend").facts["VERBS"] == ("fuse",)
