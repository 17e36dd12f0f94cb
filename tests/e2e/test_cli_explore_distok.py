"""`creatok explore distok` from its words to tokens, sheets and a map."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli import errors
from creatok_cli.cli.app import run
from creatok_cli.domain import ExploreSummary, Found, JobFailed, Stage
from creatok_cli.tokens.library import Library
from tests.e2e.test_cli_learn import json_lines, squeezed
from tests.fakes.workflow import Fake, standing_in

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "safetensors", "peft"}
FOUND = Found(
    word="<odd-0-07>",
    name="odd-0-07",
    id="sha256:ab",
    path="home/ab",
    values={"quality": 0.91234, "looks like": "pig 55%, owl 21%"},
)
LORA = Found(word="", name="", id="", path="", lora="out/loras/odd-0-08.safetensors")


def summed(**changes: Any) -> ExploreSummary:
    """The summary of a run that went well, with changes."""
    fields: dict[str, Any] = {
        "method": "distok",
        "finds": 1,
        "looked_at": 64,
        "out": "out/explore/odd-0",
        "seconds": 80.4,
        "code": 0,
        "reason": "ok",
        "retryable": False,
        "figures": ("out/explore/odd-0/map.png",),
        "contact_sheets": ("sheet.png",),
    }
    return ExploreSummary(**(fields | changes))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a workflow that yields (or raises) the given things in place of the real one."""
    return standing_in(monkeypatch, "explore_distok", "DistokRequest")


def test_help_is_the_golden_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, update_golden: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["explore", "distok", "--help"]) == 0
    found = squeezed(capsys.readouterr().out)
    golden = GOLDEN / "help-explore-distok.txt"
    if update_golden:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_without_a_method_there_is_help_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explore"]) == 2
    assert "distok" in capsys.readouterr().out


def test_flags_become_the_request(fake: Fake) -> None:
    workflow = fake(summed())
    argv = ["explore", "distok", "--z", "laplace", "--count", "9", "--pick", "3"]
    argv += ["--novelty", ".7", "--blend", "4", "--near", "hydra", "--spread", ".2"]
    argv += ["--rarity", "0", "--seed", "5", "--base", "sd3", "--network", "n.safetensors"]
    argv += ["--labeler", "blip", "--labeler-folder", "b", "--name", "odd", "--out", "x/y"]
    argv += ["--resume", "--replace", "--device", "cuda:1", "--quiet"]
    assert run(argv) == 0
    request = workflow.request
    assert (request.law, request.count, request.pick) == ("laplace", 9, 3)
    assert (request.novelty, request.blend) == (0.7, 4.0)
    assert (request.near, request.reach, request.rarity) == ("hydra", 0.2, 0.0)
    assert (request.seed, request.base, request.name) == (5, "sd3", "odd")
    assert (request.network, request.out) == (Path("n.safetensors"), Path("x/y"))
    assert (request.labeler, request.labeler_folder) == ("blip", Path("b"))
    assert request.resume
    assert request.replace
    assert request.device == "cuda:1"
    assert request.resume_command.startswith("creatok explore distok --z laplace")


def test_a_spread_around_nothing_is_refused(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explore", "distok", "--spread", "1"]) == 2
    assert "--spread: says how far around --near" in capsys.readouterr().err


def test_people_get_finds_paths_and_a_line(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(FOUND, LORA, summed(finds=2))
    assert run(["explore", "distok", "--progress", "plain"]) == 0
    out, err = capsys.readouterr()
    paths = ("home/ab", LORA.lora, "out/explore/odd-0/map.png", "sheet.png")
    assert out.splitlines() == list(paths)
    assert err.splitlines() == [
        "found <odd-0-07>: quality 0.912, looks like pig 55%, owl 21%",
        "found odd-0-08.safetensors",
        "2 finds among 64 looked at, in out/explore/odd-0, in 1 min 20 s",
    ]
    fake(FOUND, summed())
    assert run(["explore", "distok", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_json_tells_finds_and_ends_with_the_summary(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(FOUND, summed())
    assert run(["explore", "distok", "--json"]) == 0
    events = json_lines(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["found", "summary"]
    assert events[0]["values"] == {"quality": 0.91234, "looks like": "pig 55%, owl 21%"}
    assert (events[-1]["finds"], events[-1]["method"]) == (1, "distok")


def test_a_run_that_breaks_off_says_how_to_go_on(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = JobFailed(key="k", row="odd-0-01", where="", kind="flat", message="one colour")
    stopped = summed(code=130, reason="interrupted", resume="creatok explore distok")
    fake(Stage(name="exploring"), failed, stopped)
    assert run(["explore", "distok", "--progress", "none"]) == 130
    err = capsys.readouterr().err
    assert "failed[flat]: job odd-0-01: one colour" in err
    assert err.endswith("go on with: creatok explore distok\n")

    fake(Stage(name="exploring"), FOUND, errors.OutputFull("the disk is full"))
    assert run(["explore", "distok", "--json"]) == 6
    last = json_lines(capsys.readouterr().out)[-1]
    assert (last["event"], last["finds"], last["reason"]) == ("summary", 1, "disk-full")
    assert last["resume"] == "creatok explore distok --json"


def test_a_dry_run_opens_nothing(tmp_path: Path) -> None:
    code = f"""
import json, sys
from creatok_cli.cli.app import run
code = run(["explore", "distok", "--dry-run", "--json"])
print(json.dumps([code, sorted({HEAVY!r} & set(sys.modules))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    told, result = done.stdout.splitlines()
    assert json.loads(result) == [0, []]
    assert json.loads(told)["candidates"] == 64
    assert list(tmp_path.iterdir()) == []


def test_creatures_of_the_shipped_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the first four latents the rules let some pass; what is found can be drawn again."""
    monkeypatch.chdir(tmp_path)
    argv = ["explore", "distok", "--count", "4", "--pick", "2", "--name", "odd", "--json"]
    assert run([*argv, "--device", "cpu"]) == 0
    events = json_lines(capsys.readouterr().out)
    found = [event for event in events if event["event"] == "found"]
    assert len(found) == events[-1]["finds"] == 2
    for each in found:
        assert Library().find(each["name"]).id == each["id"]
        assert each["values"]["novelty"] > 0.15
    folder = tmp_path / "out/explore/odd-0"
    with Image.open(folder / "map.png") as image:
        assert image.getbands() == ("R", "G", "B")
    assert len(list((folder / "pictures").rglob("odd-0-*/*.png"))) == 8
    assert run(["sample", str(folder / "odd.yaml"), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
