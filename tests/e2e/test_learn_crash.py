"""`learn-token` that is killed, stopped or broken, and the same command again.

The oracle is the token file of an uninterrupted run, byte by byte. LONG_TESTS=1 runs the counts of
a release.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import config
from creatok_cli.domain import Event, LearnSummary
from creatok_cli.errors import CreatokError
from creatok_cli.workflows import _checkpoint
from creatok_cli.workflows.learn_token import LearnRequest, learn_token
from tests.fakes.disk import DyingDisk, FailingDisk, Killed, disk
from tests.fakes.installed import install

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("LONG_TESTS") == "1"
PRESET = "method: counter\npairs: bestiary\nsettings: {name: counted}\n"

DRIVER = """
from creatok_cli.workflows import _checkpoint
from creatok_cli.cli.app import main

_checkpoint.EVERY_S = 0.05
main()
"""
"""`creatok` that keeps its state more often than every two seconds."""

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The method `counter` with a preset, in a folder to work in."""
    install(tmp_path / "site", "methods", "counter", "tests.fakes.learning")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "counter.yaml").write_text(PRESET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_checkpoint, "EVERY_S", 0.0)
    return tmp_path / "site"


def asked(**changes: Any) -> LearnRequest:
    fields: dict[str, Any] = {"preset": "counter.yaml", "device": "cpu", "has_report": False}
    return LearnRequest(**(fields | changes))


def summary_of(events: Iterator[Event]) -> LearnSummary:
    """The last event."""
    *_, last = events
    assert isinstance(last, LearnSummary)
    return last


def code_of(events: Iterator[Event]) -> int:
    """The exit code that a run would have."""
    try:
        return summary_of(events).code
    except CreatokError as error:
        return error.code


def leftovers() -> list[Path]:
    """States and temporaries in the scratch area."""
    found = (config.home() / "scratch").rglob("*")
    return [path for path in found if path.is_file() and path.suffix != ".lock"]


def test_a_kill_at_every_write_heals(counter: Path) -> None:
    request = asked(steps=2)
    expected = Path(summary_of(learn_token(request)).path).read_bytes()
    shutil.rmtree(config.home())
    counting = DyingDisk(1 << 60)
    with disk(counting):
        summary_of(learn_token(request))
    for at in range(1, counting.count + 1, 1 if LONG else 7):
        shutil.rmtree(config.home())
        with disk(DyingDisk(at)), pytest.raises(Killed):
            list(learn_token(request))
        summary = summary_of(learn_token(request))
        assert summary.code == 0, at
        assert Path(summary.path).read_bytes() == expected, at
        assert leftovers() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_ends_the_run_with_a_known_error(counter: Path, number: int) -> None:
    request = asked(steps=2)
    expected = Path(summary_of(learn_token(request)).path).read_bytes()
    shutil.rmtree(config.home())
    counting = DyingDisk(1 << 60)
    with disk(counting):
        summary_of(learn_token(request))
    for at in range(1, counting.count + 1, 1 if LONG else 6):
        shutil.rmtree(config.home())
        with disk(FailingDisk(at, number)):
            code = code_of(learn_token(request))
        assert code in (0, 4, 6), at  # 4: what could not be read
        assert Path(summary_of(learn_token(request)).path).read_bytes() == expected, at


def environment(home: Path, *more: Path) -> dict[str, str]:
    """One thread, as in this process, and a library of its own."""
    paths = os.pathsep.join([str(ROOT), *map(str, more)])
    return {**os.environ, "PYTHONPATH": paths, "CREATOK_HOME": str(home)}


def start(words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words, "--json"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def follow(process: subprocess.Popen[str], until: int) -> int:
    """Reads events until a step is reached; the last one that was told."""
    assert process.stdout is not None
    index = -1
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "learning":
            index = event["index"]
            if index >= until:
                break
    return index


def token_of(home: Path, name: str) -> bytes:
    """The stored file."""
    record = json.loads((home / "tokens" / "names" / f"{name}.json").read_text())
    digits = record["id"].removeprefix("sha256:")
    return (home / "tokens" / "objects" / f"{digits}.safetensors").read_bytes()


@posix
def test_kills_at_random_times_cost_nothing(
    counter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["learn-token", "--preset", "counter.yaml", "--steps", "120", "--report", "none"]
    words += ["--set", "pause_s=0.004", "--device", "cpu"]
    request = asked(steps=120, sets=("pause_s=0.004",))
    expected = Path(summary_of(learn_token(request)).path).read_bytes()
    dice = random.Random(7)
    for number in range(20 if LONG else 2):
        home = tmp_path / f"home-{number}"
        env = environment(home, counter)
        for _ in range(2):
            process = start(words, env)
            follow(process, dice.randint(1, 110))
            time.sleep(dice.random() * 0.05)
            process.kill()
            process.communicate()
        monkeypatch.setenv("CREATOK_HOME", str(home))
        again = summary_of(learn_token(request))
        assert (again.code, Path(again.path).read_bytes()) == (0, expected)
        assert leftovers() == []


@posix
def test_the_real_method_goes_on_after_a_kill_and_an_interrupt(tmp_path: Path) -> None:
    """C22: kill -9, then Ctrl-C, then `--resume`: the bytes of an uninterrupted run."""
    words = ["learn-token", "--steps", "400", "--report", "none", "--device", "cpu"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(words, environment(whole))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err

    env = environment(broken)
    process = start(words, env)
    killed = follow(process, 60)
    process.kill()
    process.communicate()
    assert not (broken / "tokens" / "names").exists()

    process = start([*words, "--resume"], env)
    first = follow(process, 0)
    assert 0 < first <= killed + 50
    follow(process, first + 40)
    sent_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent_s < 10
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["code"], last["ended"]) == ("summary", 130, "stopped")
    assert last["resume"].startswith("creatok learn-token --steps 400")

    process = start([*words, "--resume"], env)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    again = [event["index"] for event in events if event["event"] == "learning"]
    assert again[0] == last["steps"]
    assert token_of(broken, "cretok") == token_of(whole, "cretok")
