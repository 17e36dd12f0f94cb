"""`creatok fuse` from its words to tokens, pictures and labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import errors
from creatok_cli.cli.app import run
from creatok_cli.cli.console import fused_line
from creatok_cli.domain import FuseSummary, Learning, Notice, Stage, TokenFused
from creatok_cli.tokens.library import Library
from tests.e2e.test_cli_learn import json_lines, squeezed
from tests.fakes.fusing import distok_network, keep_network, write_network
from tests.fakes.workflow import Fake, standing_in

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib", "safetensors"}
MIX = (("pig", 0.55), ("snake", 0.45))


def summed(**changes: Any) -> FuseSummary:
    """The summary of a run that went well, with changes."""
    fields: dict[str, Any] = {
        "word": "<hydra>",
        "name": "hydra",
        "id": "sha256:" + "ab" * 32,
        "path": "home/tokens/objects/ab.safetensors",
        "mix": MIX,
        "tokens": 1,
        "network": "sha256:" + "cd" * 32,
        "out": "",
        "seconds": 0.42,
        "code": 0,
        "reason": "ok",
        "retryable": False,
    }
    return FuseSummary(**(fields | changes))


FUSED = TokenFused(word="<hydra>", name="hydra", id="sha256:ab", path="home/ab", mix=MIX)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a workflow that yields (or raises) the given things in place of the real one."""
    return standing_in(monkeypatch, "fuse", "FuseRequest")


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a network in a file."""
    monkeypatch.chdir(tmp_path)
    write_network(distok_network(), tmp_path / "net.safetensors")
    return tmp_path


def test_help_is_the_golden_text(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    update_golden: bool,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["fuse", "--help"]) == 0
    found = squeezed(capsys.readouterr().out)
    golden = GOLDEN / "help-fuse.txt"
    if update_golden:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_flags_become_the_request(fake: Fake) -> None:
    workflow = fake(summed())
    argv = ["fuse", "pig=.55", "snake=.45", "--sweep", "a..b", "--grid", "a x b"]
    argv += ["--from-image", "p.png", "--sheet", "s.yaml", "--name", "hydra", "--base", "sd3"]
    argv += ["--render", "8", "--prompt", "a {word}", "--prompt", "the {word}", "--out", "x/y"]
    argv += ["--network", "n.safetensors", "--train", "--no-train", "--preset", "p"]
    argv += ["--concepts", "c.yaml", "--labeler", "blip", "--labeler-folder", "b"]
    argv += ["--steps", "7", "--seed", "5", "--set", "lr=1", "--resume", "--pool"]
    argv += ["--device", "cuda:1", "--replace", "--quiet"]
    assert run(argv) == 0
    request = workflow.request
    assert request.words == ("pig=.55", "snake=.45")
    assert (request.sweep, request.grid, request.image) == ("a..b", "a x b", Path("p.png"))
    assert (request.sheet, request.name, request.base) == (Path("s.yaml"), "hydra", "sd3")
    assert (request.render, request.prompts) == (8, ("a {word}", "the {word}"))
    assert (request.out, request.network) == (Path("x/y"), Path("n.safetensors"))
    assert request.train
    assert not request.may_train
    assert (request.preset, request.concepts) == ("p", "c.yaml")
    assert (request.labeler, request.labeler_folder) == ("blip", Path("b"))
    assert (request.steps, request.seed, request.sets) == (7, 5, ("lr=1",))
    assert request.resume
    assert request.pool
    assert request.replace
    assert request.device == "cuda:1"
    assert request.resume_command.startswith("creatok fuse pig=.55")


def test_defaults_leave_the_choice_to_the_base(fake: Fake) -> None:
    workflow = fake(summed())
    assert run(["fuse", "pig"]) == 0
    request = workflow.request
    assert (request.base, request.may_train, request.train) == ("bestiary", True, False)
    names = ("preset", "concepts", "labeler", "labeler_folder", "steps", "seed", "render", "out")
    assert {getattr(request, name) for name in names} == {None}


def test_people_get_the_paths_and_what_to_do_next(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(FUSED, summed(contact_sheets=("out/sheet.png",)))
    assert run(["fuse", "pig"]) == 0
    out, err = capsys.readouterr()
    assert out == "home/ab\nout/sheet.png\n"
    assert err.splitlines() == [
        "<hydra>: pig 55%, snake 45%, in 0.4 s",
        "use it in a sheet: tokens: {<hydra>: hydra}",
    ]
    fake(FUSED, summed())
    assert run(["fuse", "pig", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_many_mixes_are_summed_up() -> None:
    assert fused_line(summed(word="", name="", tokens=7)) == "7 mixes fused in 0.4 s"
    many = tuple((f"c{i}", 0.125) for i in range(8))
    assert fused_line(summed(mix=many)).endswith("c4 12.5% and 3 more, in 0.4 s")


def test_json_tells_tokens_and_ends_with_the_summary(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(Notice(level="info", message="x"), FUSED, summed())
    assert run(["fuse", "pig", "--json"]) == 0
    out, err = capsys.readouterr()
    events = json_lines(out)
    assert [event["event"] for event in events] == ["notice", "token_fused", "summary"]
    assert events[1]["mix"] == [["pig", 0.55], ["snake", 0.45]]
    assert (events[-1]["name"], events[-1]["code"], err) == ("hydra", 0, "")


def test_a_training_tells_its_estimate_and_how_to_go_on(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"loss": 0.5, "steps_per_second": 10.0, "left_s": 125.0}
    learning = Learning(index=10, total=100, values=values)
    fake(Stage(name="training", detail="x"), learning, errors.OutOfMemory("too little"))
    assert run(["fuse", "pig"]) == 5
    err = capsys.readouterr().err.splitlines()
    assert err[1] == "10/100 steps, 10 steps/s, 2 min 05 s left; loss 0.500"
    assert err[-1] == "go on with: creatok fuse pig"
    end = summed(tokens=0, word="", name="", code=130, reason="interrupted", resume="creatok x")
    fake(end)
    assert run(["fuse", "pig"]) == 130
    assert capsys.readouterr().err == "go on with: creatok x\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--render", "many"], "--render"),
        (["--device", "gpu"], "cuda:0"),
        (["--nmae", "x"], "--name"),
        ([], "nothing to fuse"),
        (["pig=.5", "owl"], "CONCEPT=WEIGHT"),
        (["pig=-1"], "found -1"),
        (["pig=nan"], "found nan"),
        (["pig=0"], "all weights are 0"),
        (["pig=1", "Pig=2"], "repeated"),
        ([f"x{i}=1" for i in range(61)], "at most 60"),
    ],
)
def test_what_is_wrong_is_2_in_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fuse", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error[usage]: ")
    assert told in err
    assert run(["fuse", "--json", *words]) == 2
    events = json_lines(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["error", "summary"]
    assert {"word", "mix", "network", "code", "reason", "resume"} <= events[-1].keys()


def test_without_a_network_and_training_it_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuse", "pig", "--no-train", "--steps", "7", "--seed", "9"]) == 4
    assert "creatok fuse --train --base bestiary" in capsys.readouterr().err
    assert run(["fuse", "pig", "--network", "nowhere.safetensors"]) == 4


def test_a_dry_run_writes_nothing(studio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fuse", "pig=3", "owl=1", "--network", "net.safetensors", "--render", "2"]
    assert run([*words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "pig75-owl25: pig 0.75, owl 0.25" in out
    assert run([*words, "--dry-run", "--json"]) == 0
    (event,) = json_lines(capsys.readouterr().out)
    assert event["creatures"] == {"pig75-owl25": "pig 0.75, owl 0.25"}
    assert sorted(path.name for path in studio.iterdir()) == ["net.safetensors"]
    assert Library().names() == ()


def fresh(words: list[str], folder: Path) -> tuple[int, set[str]]:
    """Exit code of a command in a fresh interpreter, and the top-level modules it has loaded."""
    code = """
import json, sys
from creatok_cli.cli.app import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found, modules = json.loads(result.stdout.splitlines()[-1])
    return found, set(modules)


def test_known_concepts_need_no_torch(studio: Path) -> None:
    words = ["fuse", "--network", "net.safetensors", "-q"]
    for mix in (["pig=.55", "sheep=.25", "snake=.2"], ["<pig55-sheep25-snake20>=.5", "owl=.5"]):
        code, modules = fresh([*words, *mix], studio)
        assert (code, modules & HEAVY) == (0, set())
    assert len(Library().names()) == 2


SHEET = """\
version: 1
base: bestiary
tokens:
  chimera: {fuse: {pig: 3, snake: 1}}
jobs:
  - {id: a, prompt: "a photo of a <chimera>", count: 2}
"""


@pytest.mark.slow
def test_a_sheet_with_a_mix_is_drawn_and_drawn_again(
    studio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = distok_network()
    monkeypatch.setattr("creatok_cli.workflows.sample.shared_network", lambda facts: network)
    (studio / "s.yaml").write_text(SHEET, encoding="utf-8")
    assert run(["sample", "s.yaml", "--dry-run", "-q"]) == 0
    assert not Library().root.exists()
    assert run(["sample", "s.yaml", "--device", "cpu", "--progress", "none"]) == 0
    err = capsys.readouterr().err
    assert "info: s.yaml:4:3: token <chimera>: weights sum to 4; divided by it" in err
    pictures = sorted((studio / "out/s/a").glob("*.png"))
    assert len(pictures) == 2
    (loose,) = Library().survey().loose
    assert loose.header.recipe["mix"] == [["pig", 0.75], ["snake", 0.25]]
    assert run(["sample", "--from", str(pictures[0]), "--device", "cpu", "-q"]) == 0
    (again,) = (studio / "out/replay").rglob(f"{pictures[0].stem}.png")
    assert again.read_bytes() == pictures[0].read_bytes()
    assert run(["sample", "s.yaml", "-q"]) == 0


@pytest.mark.slow
def test_free_words_pictures_and_labels_on_bestiary(
    studio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fuse", "pig=.5", "unicorn=.5", "--network", "net.safetensors", "--device", "cpu"]
    assert run([*words, "--render", "1", "--progress", "none"]) == 0
    out, err = capsys.readouterr()
    assert 'warning: "unicorn" is none of the 6 concepts' in err
    assert "<pig50-unicorn50>: the labeler sees " in err
    document = json.loads((studio / "out/fuse/pig50-unicorn50/fuse.json").read_text())
    (creature,) = document["creatures"]
    assert creature["target"] == {"pig": 0.5, "unicorn": 0.5}
    assert document["labeler"] == "clip"
    matrix = [line for line in out.splitlines() if line.endswith("matrix.png")]
    assert len(matrix) == 1
    assert (studio / matrix[0]).is_file()
    code, modules = fresh([*words, "-q"], studio)
    assert (code, modules & HEAVY) == (0, set())
    picture = next((studio / "out/fuse/pig50-unicorn50/pictures/pig").glob("*.png"))
    words = ["fuse", "--from-image", str(picture), "--network", "net.safetensors", "-q"]
    assert run([*words, "--name", "seen"]) == 0
    assert Library().find("seen").header.recipe["mix"]


@pytest.mark.slow
def test_a_network_is_trained_where_there_is_none(
    studio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fuse", "pig=.5", "owl=.5", "--steps", "20", "--set", "estimate_every=0"]
    words += ["--device", "cpu", "--progress", "none"]
    assert run(words) == 0
    err = capsys.readouterr().err
    assert "base bestiary has no network yet: it is trained first" in err
    first = Library().find("owl50-pig50")
    assert run([*words, "--no-train"]) == 0
    assert "stored already" in capsys.readouterr().err
    assert Library().find("owl50-pig50").id == first.id
    keep_network(distok_network(seed=3), "ef" * 20)
    assert run(words) == 0
