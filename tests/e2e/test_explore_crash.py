"""`creatok explore` that is killed and stopped, and the same command again: the same bytes.

The oracle is the folder of an uninterrupted run. LONG_TESTS=1 kills more often.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.installed import install

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("LONG_TESTS") == "1"
DRIVER = """
import sys
from creatok_cli.domain import Learning, Stage
from creatok_cli.workflows import _checkpoint, _labeler, _quest, _ways, explore
from creatok_cli.workflows._finds import Finds

_checkpoint.EVERY_S = 0.0
_quest.choose_validator = lambda facts, wanted: _labeler.Chosen(
    name="shades", settings={}, recipe={"name": "shades"}
)


def draw(self, **words):
    yield Stage(name="drawing")


Finds.draw = draw
_ways.cloud_bytes = _ways.arousal_bytes = lambda *words: b"a figure"
request = explore.QuestRequest(
    method="wander", prompt="a photo of a creature", preset="wander.yaml", device="cpu",
    strands=2, out=explore.Path("found"), sets=(f"pause_s={sys.argv[1]}",),
)
for event in explore.explore(request):
    print(type(event).__name__, getattr(event, "index", ""), flush=True)
"""
"""Two searches of a few lines, without the pictures at the end."""

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Search and validator of a few lines."""
    install(tmp_path / "site", "methods", "wander", "tests.fakes.wandering")
    install(tmp_path / "site", "scorers", "shades", "tests.fakes.shades")
    return tmp_path / "site"


def start(folder: Path, site: Path) -> subprocess.Popen[str]:
    """The searches, in a home and a folder of their own."""
    folder.mkdir(exist_ok=True)
    text = "method: wander\nsettings: {steps: 6, check_every: 3}\n"
    (folder / "wander.yaml").write_text(text, encoding="utf-8")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "CREATOK_HOME": str(folder / "home"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "0.05"],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_in(folder: Path) -> dict[str, bytes]:
    """What a run hands back."""
    found = folder / "found"
    return {
        str(path.relative_to(found)): path.read_bytes()
        for path in sorted(found.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@posix
def test_kills_at_random_times_cost_no_find_and_no_byte(tmp_path: Path, site: Path) -> None:
    process = start(tmp_path / "whole", site)
    told, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    expected = left_in(tmp_path / "whole")
    assert sum(line.startswith("Found") for line in told.splitlines()) == 2
    dice = random.Random(3)
    for number in range(8 if LONG else 1):
        folder = tmp_path / f"broken-{number}"
        for _ in range(2):
            process = start(folder, site)
            assert process.stdout is not None
            steps, until = 0, dice.randint(2, 9)
            for line in process.stdout:
                steps += line.startswith("Learning")
                if steps >= until:
                    break
            time.sleep(dice.random() * 0.1)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = start(folder, site)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert left_in(folder) == expected


@posix
def test_an_interrupt_of_the_command_keeps_its_state(tmp_path: Path) -> None:
    """The real command and the real method: code 130, and a command that goes on."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CREATOK_HOME": str(tmp_path / "home")}
    words = ["explore", "lowprob", "a photo of a creature", "--strands", "1", "--json"]
    words += ["--set", "baseline=40", "--set", "axes=2", "--steps", "50", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "creatok_cli", *words],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "stage" and event["name"] == "preparing":
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["code"], last["finds"]) == ("summary", 130, 0)
    assert last["resume"].startswith("creatok explore lowprob 'a photo of a creature'")
    assert "Traceback" not in err
