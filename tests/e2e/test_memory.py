"""`sample` where memory is short, with stored weights, with stage times and a measured batch size,
on bestiary. What a device has free is simulated; all else is real.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creatok_cli.backbones import _memory, _storage
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.base import Load, Rung
from creatok_cli.cli.app import run
from tests.fakes.drawing import tree

SHEET = """version: 1
defaults: {steps: 2, count: 2}
jobs:
  - {id: owl, prompt: a photo of an owl}
"""
COMMAND = ("sample", "owls.yaml", "--device", "cpu", "--batch-size", "2")
Sample = Callable[..., tuple[int, str, list[dict[str, Any]]]]


@pytest.fixture
def sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Sample:
    """Runs `creatok sample` in a folder; gives exit code, standard error and manifest lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owls.yaml").write_text(SHEET)

    def command(out: str, *words: str) -> tuple[int, str, list[dict[str, Any]]]:
        code = run([*COMMAND, "--out", out, *words])
        manifest = tmp_path / out / "manifest.jsonl"
        lines = manifest.read_text().splitlines() if manifest.exists() else []
        return code, capsys.readouterr().err, [json.loads(line) for line in lines]

    return command


def pictures(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(folder).items() if name.startswith("owl/")}


def test_short_memory_is_told_and_changes_no_byte(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told, lines = sample("plain")
    assert (code, "can be used" in told) == (0, False)
    assert all("notes" not in line for line in lines)
    facts = resolve("bestiary")
    found = _memory.needs([facts.folder], "fp32", Load((64, 64), 2))
    assert found is not None
    rungs: tuple[Rung, ...] = ("offload", "group")
    for rung in rungs:
        spare = found.picture(rung)
        monkeypatch.setattr(_memory, "spare_bytes", lambda device, vram, spare=spare: spare)
        code, told, lines = sample(rung)
        assert code == 0
        assert f": {_memory.HOW[rung]}" in told
        assert [line["notes"] for line in lines] == [[f"memory: {rung}"]] * 2
        assert pictures(tmp_path / rung) == pictures(tmp_path / "plain")
    monkeypatch.setattr(_memory, "spare_bytes", lambda device, vram: 1_000_000)
    code, told, _ = sample("none")
    assert code == 5
    assert "error[oom]: bestiary in fp32 needs" in told


def test_stored_weights_are_another_recipe(sample: Sample, tmp_path: Path) -> None:
    _, _, plain = sample("plain")
    code, _, stored = sample("plain", "--set", "options.storage=fp8", "--profile")
    assert code == 0
    assert len({line["key"] for line in stored}) == 4
    groups = json.loads((tmp_path / "plain/plan.json").read_text())["groups"]
    assert groups[0]["group"].endswith('"fp8"]')
    assert {line["key"] for line in plain} < {line["key"] for line in stored}
    code, told, _ = sample("wrong", "--set", "options.storage=fp9")
    assert (code, "unknown storage 'fp9'; did you mean" in told) == (2, True)


def test_a_profile_is_told_after_the_summary_and_kept_out_of_the_manifest(
    sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, lines = sample("out", "--profile")
    assert code == 0
    last = told[told.index("profile: cpu was busy") :]
    assert [line.split()[0] for line in last.splitlines()[1:5]] == [
        "load",
        "condition",
        "denoise",
        "decode",
    ]
    assert "profile" not in json.dumps(lines)
    assert run([*COMMAND, "--out", "j", "--profile", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (profile,) = [event for event in events if event["event"] == "profile"]
    assert {stage["stage"] for stage in profile["stages"]} >= {"denoise", "decode", "to host"}
    assert 0 < profile["busy"] <= 1
    assert profile["queue"] > profile["queued"] >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--profile", "--executor", "ray"), "--profile times this process alone"),
        (("--batch-size=probe", "--shard", "1/2"), "all shards must draw in batches of one"),
        (("--vram", "0"), "--vram: found 0, expected GiB such as 8"),
        (("--set", "options.storage=nf4"), "storage nf4 needs bitsandbytes"),
        (("--set", "options.depth=2"), "base bestiary has no options"),
        (("--set", "storage=fp8"), "and options.NAME"),
    ],
)
def test_what_cannot_be_asked_for_is_told_before_a_weight_is_read(
    words: tuple[str, ...], message: str, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_storage, "find_spec", lambda name: None)
    code, told, _ = sample("out", *words)
    assert code == 2
    assert message in told
    assert not Path("out").exists()
