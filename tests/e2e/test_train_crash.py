"""A training that is killed or whose disk breaks, and the same command again.

The oracle is the network file of an uninterrupted run, byte by byte. LONG_TESTS=1 runs the counts
of a release.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import config
from creatok_cli.errors import CreatokError
from creatok_cli.workflows import _checkpoint
from creatok_cli.workflows._training import Trained, TrainRequest, settle_training, train_network
from tests.fakes.disk import DyingDisk, FailingDisk, Killed, disk
from tests.fakes.installed import install

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("LONG_TESTS") == "1"
PRESET = "method: blend\nclasses: few.txt\nsettings: {steps: 6, every: 4, seeds: 1}\n"
TINY = """\
method: distok
classes: few.txt
settings:
  anchor: ""
  restrictive: a photo of a {a} {b}
  steps: 40
  hidden: 16
  latent: 4
  vectors: 2
  decoder: classes
  place: 1
  estimate_from: 10
  estimate_every: 10
  estimate: 2
  seeds: 1
  tau: 1
  spread: 60
  agreement: 1
  report_every: 2
"""
DRIVER = """
import json, sys
from creatok_cli.domain import Learning
from creatok_cli.workflows import _checkpoint
from creatok_cli.workflows._training import TrainRequest, settle_training, train_network

_checkpoint.EVERY_S = _checkpoint.SHARE = 0.05
request = TrainRequest(**json.loads(sys.argv[1]))
run = train_network(request, settle_training(request))
while True:
    try:
        event = next(run)
    except StopIteration as end:
        print(end.value.path, flush=True)
        break
    if isinstance(event, Learning):
        print(event.index, flush=True)
"""
"""A training that keeps its state often, and says how far it is."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake method and labeler with a preset, in a folder to work in."""
    install(tmp_path / "site", "methods", "blend", "tests.fakes.training")
    install(tmp_path / "site", "scorers", "shades", "tests.fakes.shades")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "blend.yaml").write_text(PRESET, encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "few.txt").write_text("pig\nowl\nsnake\nbee\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(_checkpoint, "SHARE", 1.0)
    return tmp_path / "site"


def fields(**changes: Any) -> dict[str, Any]:
    return {"preset": "blend.yaml", "labeler": "shades", "device": "cpu"} | changes


def train(**changes: Any) -> Trained:
    request = TrainRequest(**fields(**changes))
    run = train_network(request, settle_training(request))
    while True:
        try:
            next(run)
        except StopIteration as end:
            made: Trained = end.value
            return made


KEPT = ("networks", "cache")


def leftovers() -> list[Path]:
    """States, tokens and temporaries in the home, apart from networks."""
    found = config.home().rglob("*")
    return [
        path
        for path in found
        if path.is_file()
        and path.suffix != ".lock"
        and path.parent.name not in ("networks", "cache")
    ]


def test_a_kill_at_every_write_heals(site: Path) -> None:
    expected = train().path.read_bytes()
    shutil.rmtree(config.home())
    counting = DyingDisk(1 << 60)
    with disk(counting):
        train()
    for at in range(1, counting.count + 1, 1 if LONG else 17):
        shutil.rmtree(config.home())
        with disk(DyingDisk(at)), pytest.raises(Killed):
            train()
        assert train().path.read_bytes() == expected, at
        assert leftovers() == []
        kept = [path for path in (config.home() / "networks").iterdir() if path.suffix != ".lock"]
        assert [path.suffix for path in kept] == [".safetensors"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_ends_the_training_with_a_known_error(site: Path, number: int) -> None:
    expected = train().path.read_bytes()
    shutil.rmtree(config.home())
    counting = DyingDisk(1 << 60)
    with disk(counting):
        train()
    for at in range(1, counting.count + 1, 1 if LONG else 37):
        shutil.rmtree(config.home())
        code = 0
        with disk(FailingDisk(at, number)):
            try:
                train()
            except CreatokError as error:
                code = error.code
        assert code in (0, 4, 6), at  # 4: what could not be read
        assert train().path.read_bytes() == expected, at


def start(home: Path, site: Path, **changes: Any) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(site)])
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(fields(**changes))],
        env={**os.environ, "PYTHONPATH": paths, "CREATOK_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def follow(process: subprocess.Popen[str], index: int) -> int:
    """Reads until so many steps are done, or the end; gives the last step that was told."""
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        if not line.strip().isdigit():
            break
        last = int(line)
        if last >= index:
            break
    return last


def ends(process: subprocess.Popen[str]) -> Path:
    """The network that a run ends with."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return Path(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"steps": 60, "sets": ["pause_s=0.004"]}, 60),
        ({"preset": "tiny.yaml", "labeler": None}, 40),
    ],
    ids=["fake", "distok"],
)
def test_kills_at_random_times_cost_nothing(
    site: Path, tmp_path: Path, changes: dict[str, Any], steps: int
) -> None:
    whole = ends(start(tmp_path / "whole", site, **changes)).read_bytes()
    dice = random.Random(7)
    for number in range(10 if LONG else 1):
        home = tmp_path / f"home-{number}"
        reached = []
        for part in (0.4, 0.8):
            process = start(home, site, **changes)
            reached.append(follow(process, round(steps * part)))
            time.sleep(dice.random() * 0.05)
            process.kill()
            process.communicate()
        assert min(reached) > 0
        process = start(home, site, **changes)
        assert follow(process, 0) > 0, "it went on, not anew"
        assert ends(process).read_bytes() == whole
