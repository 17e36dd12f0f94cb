"""`creatok explore lowprob` and `conceptlab` as commands: flags, dry runs, what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli.cli.app import run
from tests.e2e.test_cli_learn import json_lines, squeezed

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a photo of a creature"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a few pictures."""
    monkeypatch.chdir(tmp_path)
    for level in range(3):
        Image.new("RGB", (32, 32), (40 * level, 0, 0)).save(f"odd-{level}.png")
    Path("text.png").write_text("no picture", encoding="utf-8")
    return tmp_path


def plan_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a dry run lays out."""
    assert run(["explore", *words, "--dry-run", "--json"]) == 0
    found = json_lines(capsys.readouterr().out)
    assert found[0]["event"] == "quest"
    return found[0]


def test_a_dry_run_says_what_would_be_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rarity", "0.95", "--train", "both", "--rank", "4", "--anchor", "2"]
    flags += ["--check-every", "5", "--steps", "30", "--strands", "2", "--seed", "7"]
    for name in ("toward", "away-from"):
        for level in range(3):
            flags += [f"--{name}", f"odd-{level}.png"]
    plan = plan_of(capsys, "lowprob", PROMPT, *flags, "--from-image", "odd-1.png")
    wanted = {"rarity": 0.95, "train": "both", "rank": 4, "anchor": 2.0, "check_every": 5}
    assert {key: plan["settings"][key] for key in wanted} == wanted
    assert plan["preset"] == "lowprob-small"
    assert (plan["prompt"], plan["subject"]) == (PROMPT, "creature")
    assert plan["toward"] == plan["away from"] == ["odd-0.png", "odd-1.png", "odd-2.png"]
    assert plan["from image"] == "odd-1.png"
    assert plan["finds"] == "lowprob-7-01 to lowprob-7-02"
    assert plan["validator"]["name"] == "validity"
    assert not Path("out").exists()


def test_words_to_be_like_and_unlike(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--like", "a pet", "--unlike", "cat", "--unlike", "dog", "--adaptive"]
    plan = plan_of(capsys, "conceptlab", *words)
    assert (plan["like"], plan["unlike"]) == (["a pet"], ["cat", "dog"])
    assert plan["subject"] == "pet"
    assert plan["settings"]["adaptive"] is True
    assert plan["labeler"]["name"] == "clip"
    assert plan["finds"] == "conceptlab-0-01"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["lowprob"], 2, "Missing argument 'PROMPT'"),
        (["lowprob", ""], 2, "PROMPT: found nothing"),
        (["lowprob", PROMPT, "--rarity", "1.5"], 2, "--rarity: rarity is a share"),
        (["lowprob", PROMPT, "--rarity", "nan"], 2, "--rarity"),
        (["lowprob", PROMPT, "--anchor", "inf"], 2, "--anchor"),
        (["lowprob", PROMPT, "--toward", "none.png"], 2, "--toward none.png: the picture cannot"),
        (["lowprob", PROMPT, "--away-from", "text.png"], 2, "text.png: is no picture"),
        (["lowprob", PROMPT, "--base", "nowhere"], 2, "nowhere"),
        (["lowprob", PROMPT, "--validator", "nowhere"], 4, '--validator "nowhere": no such folder'),
        (["lowprob", PROMPT, "--train", "all"], 2, "--train"),
        (["lowprob", PROMPT, "--resume"], 2, "no unfinished run"),
        (["lowprob", PROMPT, "--preset", "conceptlab"], 2, "is for conceptlab, not for lowprob"),
        (["conceptlab"], 2, "nothing to be like"),
        (["conceptlab", "--like", "a pet", "--unlike", "A pet"], 2, 'both say "a pet"'),
        (["conceptlab", "--like", "pet", "--classes", "bestary"], 2, 'did you mean "bestiary"'),
    ],
)
def test_what_is_wrong_has_a_code_and_no_traceback(
    words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explore", *words]) == code
    err = capsys.readouterr().err
    assert told in squeezed(err)
    assert "Traceback" not in err
    assert not list(Path().rglob("*.safetensors"))


def test_a_base_without_image_towers_needs_a_validator(
    tiny_sd3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explore", "lowprob", PROMPT, "--base", str(tiny_sd3)]) in (2, 4)
    err = squeezed(capsys.readouterr().err)
    assert "prior" in err or "image towers" in err
    assert "Traceback" not in err


def test_a_dry_run_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys; from creatok_cli.cli.app import run;"
        f"run(['explore', 'lowprob', {PROMPT!r}, '--dry-run', '--json']);"
        "print(sorted({'torch', 'diffusers', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "CREATOK_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr == ""
    plan, heavy = found.stdout.splitlines()
    assert json.loads(plan)["method"] == "lowprob"
    assert heavy == "[]"
