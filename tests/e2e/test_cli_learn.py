"""`creatok learn-token` from its words to a rendered sheet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli import errors
from creatok_cli.cli.app import run
from creatok_cli.cli.progress import BLOCKS, Trend, learning_line, value_name
from creatok_cli.domain import Event, Learning, LearnSummary, Notice, Planned, Stage
from creatok_cli.workflows import _report
from tests.fakes.installed import install
from tests.fakes.workflow import Fake, standing_in

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
HOSTILE = "[bold red]x[/]\x1b]0;owned\x07\u202e"
VALUES = {"loss": 0.5, "J": 0.25, "cos/clip_l": 0.125, "norm/clip_l": 1.5}
SLOW = {"torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib", "safetensors"}


def learned(**changes: Any) -> LearnSummary:
    """The summary of a run that went well, with changes."""
    fields: dict[str, Any] = {
        "word": "<cretok>",
        "name": "cretok",
        "id": "sha256:" + "ab" * 32,
        "path": "home/tokens/objects/ab.safetensors",
        "report": "out/learn/cretok",
        "steps": 1234,
        "seconds": 12.3,
        "ended": "plateau",
        "code": 0,
        "reason": "ok",
        "retryable": False,
    }
    return LearnSummary(**(fields | changes))


def steps(total: int = 4) -> list[Event]:
    """Events of a short run."""
    found: list[Event] = [Stage(name="loading", detail="bestiary"), Stage(name="learning")]
    for index in range(total + 1):
        values = {**VALUES, "J": index / total, "steps_per_second": 2.0}
        found.append(Learning(index=index, total=total, values=values))
    return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a workflow that yields (or raises) the given things in place of the real one."""
    return standing_in(monkeypatch, "learn_token", "LearnRequest")


def json_lines(text: str) -> list[dict[str, Any]]:
    """Each line of standard output as an event."""
    return [json.loads(line) for line in text.splitlines()]


def squeezed(text: str) -> str:
    """Words only, so that the width of a terminal does not matter."""
    for char in "╭╮╰╯─│":
        text = text.replace(char, " ")
    return " ".join(text.split()) + "\n"


def test_help_is_the_golden_text(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    update_golden: bool,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["learn-token", "--help"]) == 0
    found = squeezed(capsys.readouterr().out)
    golden = GOLDEN / "help-learn-token.txt"
    if update_golden:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_flags_become_the_request(fake: Fake) -> None:
    workflow = fake(learned())
    argv = ["learn-token", "--base", "sd3", "--preset", "my.yaml", "--word", "scary"]
    argv += ["--pairs", "p.yaml", "--name", "boo", "--steps", "7", "--lr", "0.5"]
    argv += ["--theta", "rel:0.4", "--encoders", "clip_l", "--sampling", "batch"]
    argv += ["--restarts", "3", "--init", "random", "--seed", "5", "--precision", "bf16"]
    argv += ["--set", "vectors=2", "--set", "rows=4", "--device", "cuda:1", "--report", "x/y"]
    argv += ["--replace", "--resume", "--quiet"]
    assert run(argv) == 0
    request = workflow.request
    assert (request.base, request.preset, request.word) == ("sd3", "my.yaml", "scary")
    assert (request.pairs, request.name, request.steps) == ("p.yaml", "boo", 7)
    assert (request.lr, request.theta, request.encoders) == (0.5, "rel:0.4", "clip_l")
    assert (request.sampling, request.restarts, request.init) == ("batch", 3, "random")
    assert (request.seed, request.precision, request.sets) == (5, "bf16", ("vectors=2", "rows=4"))
    assert (request.device, request.report) == ("cuda:1", Path("x/y"))
    assert request.has_report
    assert request.replace
    assert request.resume
    assert not request.stop.is_set()
    assert request.resume_command == "creatok " + " ".join(argv)


def test_defaults_leave_the_choice_to_the_preset(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREATOK_DEVICE", "cpu")
    workflow = fake(learned())
    assert run(["learn-token", "--report", "none"]) == 0
    request = workflow.request
    assert (request.base, request.preset, request.seed) == ("bestiary", "cretok", 0)
    names = ("word", "pairs", "name", "steps", "lr", "theta", "encoders", "sampling", "init")
    assert {getattr(request, name) for name in (*names, "restarts")} == {None}
    assert (request.device, request.precision, request.sets) == ("cpu", "fp32", ())
    assert (request.report, request.has_report) == (None, False)
    assert not request.replace
    assert not request.resume


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "many"], "--steps"),
        (["--lr", "fast"], "--lr"),
        (["--sed", "1"], "--seed"),
        (["--precision", "fp8"], "'bf16'"),
        (["--device", "gpu"], "cuda:0"),
        (["--report", ""], "--report: expected a folder"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_a_wrong_flag_is_2_in_one_line(
    words: list[str], told: str, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(learned())
    assert run(["learn-token", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error[usage]: ")
    assert told in err
    assert run(["learn-token", "--json", *words]) == 2
    events = json_lines(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["error", "summary"]
    assert {"word", "ended", "code", "reason", "retryable", "resume"} <= events[-1].keys()
    assert (events[-1]["code"], events[-1]["resume"]) == (2, "")


def test_json_ends_with_the_summary(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(*steps(), Notice(level="warning", message="dead"), learned(code=3, reason="failed-jobs"))
    assert run(["learn-token", "--json"]) == 3
    out, err = capsys.readouterr()
    events = json_lines(out)
    names = [event["event"] for event in events]
    assert names == ["stage", "stage", *["learning"] * 5, "notice", "summary"]
    assert events[2]["values"] == {**VALUES, "J": 0.0, "steps_per_second": 2.0}
    assert (events[-1]["word"], events[-1]["ended"], events[-1]["code"]) == (
        *("<cretok>", "plateau"),
        3,
    )
    assert err == ""


def test_people_get_the_paths_and_what_to_do_next(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(*steps(), learned())
    assert run(["learn-token"]) == 0
    out, err = capsys.readouterr()
    assert out == "home/tokens/objects/ab.safetensors\nout/learn/cretok\n"
    lines = err.splitlines()
    assert lines[:2] == ["loading bestiary", "learning"]
    assert lines[2] == (
        "0/4 steps, 2 steps/s, 2.0 s left; loss 0.500; goal J 0.000; "
        "held-out cosine clip_l 0.125; length clip_l 1.500"
    )
    assert lines[3].startswith("4/4 steps, 2 steps/s; ")
    assert lines[-2:] == [
        "<cretok>: 1,234 steps in 12 s; it no longer got better",
        "use it in a sheet: tokens: {<cretok>: cretok}",
    ]
    fake(*steps(), learned())
    assert run(["learn-token", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_run_says_how_to_go_on(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    end = learned(
        name="", id="", path="", report="", ended="stopped", code=130, reason="interrupted"
    )
    fake(*steps(), LearnSummary(**{**vars_of(end), "resume": "creatok learn-token --steps 9"}))
    assert run(["learn-token", "--steps", "9"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("go on with: creatok learn-token --steps 9\n")
    assert "use it in a sheet" not in err


def vars_of(summary: LearnSummary) -> dict[str, Any]:
    """The fields of a summary."""
    return {name: getattr(summary, name) for name in summary.__dataclass_fields__}


@pytest.mark.parametrize(
    ("error", "code", "goes_on"),
    [
        (errors.InputError("the name is taken"), 2, False),
        (errors.ModelMissing("no folder"), 4, True),
        (errors.OutOfMemory("too little"), 5, True),
        (errors.OutputFull("no space left"), 6, True),
    ],
)
def test_an_error_has_its_code_and_an_honest_summary(
    error: errors.CreatokError,
    code: int,
    goes_on: bool,
    fake: Fake,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake(*steps(), error)
    assert run(["learn-token", "--json"]) == code
    told, last = json_lines(capsys.readouterr().out)[-2:]
    assert (told["event"], told["message"]) == ("error", str(error))
    assert (last["event"], last["steps"], last["code"]) == ("summary", 4, code)
    assert last["resume"] == ("creatok learn-token --json" if goes_on else "")
    fake(error)
    assert run(["learn-token"]) == code
    assert capsys.readouterr().err == f"error[{error.reason}]: {error}\n"


def test_an_error_after_the_summary_keeps_what_was_learned(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    end = learned(name="", path="", ended="diverged", code=3, reason="failed-jobs")
    fake(*steps(), end, errors.MethodDiverged("step 7: not finite; try a smaller --lr"))
    assert run(["learn-token"]) == 3
    err = capsys.readouterr().err
    assert "error[failed-jobs]: step 7: not finite; try a smaller --lr\n" in err
    assert "it diverged; the last good state is kept" in err


def test_a_bar_shows_the_course_of_every_value(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    planned = Planned(planned=2, skipped=0, todo=2, batches=1, out="x")
    fake(*steps(), Stage(name="reporting"), planned, learned())
    assert run(["learn-token", "--progress", "bar"]) == 0
    err = capsys.readouterr().err
    assert "goal J" in err
    assert "held-out cosine clip_l" in err
    assert f"{BLOCKS[0]}{BLOCKS[2]}{BLOCKS[4]}{BLOCKS[5]}{BLOCKS[7]}" in err
    assert "0.000 → 1.000" in err


@pytest.mark.parametrize("progress", ["plain", "bar"])
def test_hostile_texts_never_reach_the_terminal(
    progress: str, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(
        Stage(name="learning", detail=HOSTILE),
        Learning(index=1, total=1, values={HOSTILE: 1.0}),
        Notice(level="warning", message=HOSTILE),
        Stage(name="reporting"),
        learned(word=HOSTILE, path=HOSTILE, ended=HOSTILE),
    )
    assert run(["learn-token", "--progress", progress]) == 0
    out, err = capsys.readouterr()
    for char in "\x1b\x07\u202e":
        assert char not in out + err
    assert "[bold red]x[/]" in err


def test_trends_are_thinned_out_and_end_with_the_last_value() -> None:
    trend = Trend()
    for value in range(10_000):
        trend.add(float(value))
    shown = trend.blocks()
    assert 30 <= len(shown) <= 40
    assert shown == "".join(sorted(shown))
    assert (shown[0], shown[-1]) == (BLOCKS[0], BLOCKS[-1])
    assert (trend.first, trend.last) == (0.0, 9999.0)
    odd = Trend()
    odd.add(float("nan"))
    assert odd.blocks() == ""
    odd.add(1.0)
    odd.add(float("inf"))
    assert odd.blocks() == BLOCKS[0]


def test_names_and_speeds_for_people() -> None:
    assert value_name("cos/clip_l") == "held-out cosine clip_l"
    assert value_name("loss") == "loss"
    slow = Learning(index=1, total=3, values={"steps_per_second": 0.25})
    assert learning_line(slow) == "1/3 steps, 0.25 steps/s, 8.0 s left"
    assert learning_line(Learning(index=0, total=3, values={})) == "0/3 steps"


# On the real workflow


def modules_after(code: str, folder: Path, *words: str) -> tuple[set[str], str]:
    """Top-level modules of a fresh interpreter after the code, and its standard output."""
    told = "\nimport sys; print('\\n'.join(sorted({n.split('.')[0] for n in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", code + "\nprint('----')" + told, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    out, _, modules = result.stdout.rpartition("----\n")
    return set(modules.split()), out


def test_a_dry_run_tells_what_would_be_learned_without_torch(tmp_path: Path) -> None:
    code = "from creatok_cli.cli.app import run; assert run(['learn-token', '--dry-run']) == 0"
    loaded, out = modules_after(code, tmp_path)
    assert loaded & SLOW == set()
    assert "word: <cretok>" in out
    assert "  steps: 10000" in out
    assert "learned from: 200" in out
    assert not (tmp_path / "out").exists()
    (lesson,) = json_lines(
        modules_after(code.replace("'--dry-run'", "'--dry-run', '--json'"), tmp_path)[1]
    )[:1]
    assert (lesson["event"], lesson["settings"]["steps"]) == ("lesson", 10000)


def test_what_is_wrong_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("method: cretok\nsettings: {stepz: 3}\n")
    wrong = {
        "--base besti": 2,
        "--base ./nowhere": 4,
        "--preset cretk": 2,
        "--preset bad.yaml": 2,
        "--pairs bestary": 2,
        "--pairs nowhere.yaml": 2,
        "--pairs menacing": 2,
        "--steps 0": 2,
        "--lr -1": 2,
        "--theta warm": 2,
        "--sampling some": 2,
        "--encoders clip_x": 2,
        "--name A/B": 2,
        "--seed -1": 2,
        "--set stepz=3": 2,
        "--resume": 2,
    }
    code = f"""
from creatok_cli.cli.app import run
for words, code in {wrong!r}.items():
    assert run(["learn-token", "--report", "none", *words.split()]) == code, words
"""
    loaded, out = modules_after(code, tmp_path)
    assert loaded & {"torch", "diffusers", "transformers", "matplotlib"} == set()
    assert out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml"]


def test_a_token_is_learned_reported_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_report, "GROUPS", 2)
    monkeypatch.setattr(_report, "ROWS_PER_GROUP", 1)
    monkeypatch.setattr(_report, "SEEDS", (0,))
    assert run(["learn-token", "--steps", "200", "--device", "cpu", "--json"]) == 0
    events = json_lines(capsys.readouterr().out)
    last = events[-1]
    assert (last["event"], last["name"], last["steps"]) == ("summary", "cretok", 200)
    folder = tmp_path / last["report"]
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    held_out = told["facts"]["held_out"]
    assert set(held_out) == set(told["pairs"]["held_out"])
    before, after = (
        [value for group in held_out.values() for each in group.values() for value in each[part]]
        for part in ("before", "after")
    )
    assert sum(after) / len(after) > sum(before) / len(before) + 0.1
    with Image.open(folder / "report.png") as figure:
        assert figure.width > 1200
    with Image.open(folder / "pictures" / "contact-sheet-matrix.png") as page:
        assert page.width > 6 * 128
    drawn = [event for event in events if event["event"] == "image_written"]
    assert len(drawn) == 2 * 6

    assert run(["learn-token", "--steps", "200", "--device", "cpu", "--json"]) == 0
    again = json_lines(capsys.readouterr().out)
    assert [event["event"] for event in again] == ["notice", "summary"]

    (tmp_path / "mine.yaml").write_text(
        "version: 1\ntokens: {<cretok>: cretok}\njobs:\n"
        "  - prompt: a photo of a <cretok> mixture that resembles a pig and a snake\n"
    )
    assert run(["sample", "mine.yaml", "--device", "cpu"]) == 0
    assert len(list((tmp_path / "out" / "mine").glob("*/*.png"))) == 1


def test_a_method_from_outside_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "site", "methods", "counter", "tests.fakes.learning")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("method: counter\n", encoding="utf-8")
    words = ["learn-token", "--preset", "mine.yaml", "--report", "none", "--device", "cpu"]
    assert run([*words, "--word", "odd"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(".safetensors\n")
    assert err.endswith("use it in a sheet: tokens: {<odd>: odd}\n")
