"""`creatok doctor` on this machine: its report, its one JSON object, its codes, its picture."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from creatok_cli import doctor
from creatok_cli._probes import cards
from creatok_cli.cli.app import run

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "help-doctor.txt"
CANARY = "hf_canary_secret"
Look = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """A screen."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Look:
    """Run doctor in an empty folder; code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("HF_TOKEN", CANARY)

    def run_it(*words: str) -> tuple[int, str, str]:
        code = run(["doctor", *words])
        told = capsys.readouterr()
        assert CANARY not in told.out + told.err
        assert str(Path.home()) + "/" not in told.out
        return code, told.out, told.err

    return run_it


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a graphics card, whose torch need not be imported."""
    monkeypatch.setattr(doctor.Scene, "torch", cards.Torch(version="2.13.0+cpu"))
    monkeypatch.setattr(doctor.Scene, "driver", None)


def test_help_is_the_golden_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, update_golden: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["doctor", "--help"]) == 0
    text = capsys.readouterr().out
    for char in "╭╮╰╯─│":
        text = text.replace(char, " ")
    found = " ".join(text.split()) + "\n"
    if update_golden:
        GOLDEN.write_text(found, encoding="utf-8")
    assert found == GOLDEN.read_text(encoding="utf-8")


def test_the_real_self_test_draws_the_expected_picture(look: Look, tmp_path: Path) -> None:
    code, out, err = look("--device", "cpu", "--json")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    told = json.loads(line)
    assert (told["schema"], told["event"], told["ready"]) == (1, "summary", True)
    assert (told["code"], told["reason"], told["retryable"]) == (0, "ok", False)
    assert told["device"] == "cpu"
    assert told["verdict"].startswith("Ready on the CPU")
    findings = {each["name"]: each for each in told["findings"]}
    assert [each for each in told["findings"] if each["status"] == "fault"] == []
    tested = findings["self-test"]
    assert tested["status"] == "ok", tested
    assert tested["facts"]["difference"] < 1
    assert len(tested["facts"]["pixels"]) == 64
    assert findings["hub"]["facts"]["login"] == "logged in by HF_TOKEN"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_torch")
def test_a_report_for_people(look: Look) -> None:
    code, out, err = look("--no-self-test")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1].startswith("Ready on the CPU")
    assert "self-test" not in out
    rows = [line.split() for line in lines[: lines.index("")]]
    assert {"python", "torch", "cpu", "libraries", "bestiary", "hub", "home"} <= {
        row[1] for row in rows
    }
    ranks = [doctor.STATUSES.index(row[0]) for row in rows]
    assert ranks == sorted(ranks)


@pytest.mark.usefixtures("no_torch")
def test_a_device_that_is_not_here_is_5(look: Look) -> None:
    code, out, _ = look("--device", "cuda:7")
    assert code == 5
    assert out.startswith("fault    device     no device cuda:7; this machine has cpu")
    assert out.splitlines()[-1].startswith("Not ready: device: no device cuda:7")
    code, out, _ = look("--device", "cuda:7", "--json")
    told = json.loads(out)
    assert (code, told["code"], told["reason"], told["ready"]) == (5, 5, "no-device", False)
    code, _, err = look("--device", "gpu")
    assert (code, "expected auto, cpu, cuda" in err) == (2, True)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("columns", ["60", "140"])
def test_a_terminal_gets_a_table_that_fits(
    columns: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert run(["doctor", "--no-self-test"]) == 0
    table = plain(out.getvalue()).split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= int(columns)
    assert "\x1b[" in out.getvalue()
    assert "looking at bestiary ..." in err.getvalue()
    assert err.getvalue().endswith("\r\x1b[K")


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


HOSTILE = "[bold red]a\x1b]0;owned\x07\u202e"


@pytest.mark.usefixtures("no_torch")
def test_hostile_text_steers_no_terminal(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.Finding(name="odd", status="warning", found=HOSTILE, todo=HOSTILE)
    monkeypatch.setattr(doctor, "PROBES", {"odd": lambda scene: [found]})
    for words in ((), ("--json",)):
        _, out, err = look("--no-self-test", *words)
        assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert "[bold red]a" in out


@pytest.mark.parametrize("words", [["--help"], ["--device", "gpu"]])
def test_flags_import_nothing_heavy(words: list[str]) -> None:
    code = """
        import sys
        from creatok_cli.cli.app import run
        run(["doctor", *sys.argv[1:]])
        heavy = {"torch", "numpy", "PIL", "safetensors", "diffusers", "huggingface_hub"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        assert "creatok_cli.doctor" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), *words], check=True, cwd=ROOT)


def test_a_run_under_an_odd_environment(tmp_path: Path) -> None:
    """No home, another encoding, no terminal: one report and no traceback."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "PYTHONUTF8")
    }
    environment |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "creatok_cli", "doctor", "--no-self-test"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "escapes" in result.stdout
