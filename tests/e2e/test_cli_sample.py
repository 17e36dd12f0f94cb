"""`creatok sample` end to end on a tiny random model of the real classes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli.cli.app import run

ROOT = Path(__file__).resolve().parents[2]
SHEET = """\
version: 1
defaults: {count: 2}
jobs:
  - id: animals
    prompt: "a photo of a {animal}"
    matrix: {animal: [pig, owl]}
  - id: red
    prompt: "a red fox"
    seeds: [7]
"""
PICTURES = 5

Creatok = Callable[..., tuple[int, str, str]]


@pytest.fixture
def creatok(
    tiny_sd3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Creatok:
    """Run `creatok sample` on the tiny base; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SHEET, encoding="utf-8")

    def sample(*words: str) -> tuple[int, str, str]:
        base = [] if "--base" in words or "--from" in words else ["--base", str(tiny_sd3)]
        device = [] if "--device" in words else ["--device", "cpu"]
        code = run(["sample", *words, *base, *device])
        out, err = capsys.readouterr()
        return code, out, err

    return sample


def summary_of(out: str) -> dict[str, Any]:
    """The last event."""
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert last["event"] == "summary"
    return last


def pictures(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every picture below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.png"))
        if not path.name.startswith("contact-sheet")
    }


def test_a_sheet_becomes_pictures_and_a_contact_sheet(creatok: Creatok, tmp_path: Path) -> None:
    code, out, err = creatok("x.yaml")
    assert code == 0, err
    made = pictures(tmp_path / "out" / "x")
    assert len(made) == PICTURES
    with Image.open(tmp_path / out.strip()) as contact_sheet:
        assert min(contact_sheet.size) > 64
    assert (tmp_path / "out/x/gallery.html").exists()
    assert (tmp_path / "out/x/plan.json").exists()
    assert f"{PICTURES} drawn, 0 already there, 0 failed" in err.splitlines()[-1]


def test_events_agree_with_the_manifest(creatok: Creatok, tmp_path: Path) -> None:
    code, out, err = creatok("x.yaml", "--json")
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    written = [event for event in events if event["event"] == "image_written"]
    manifest = (tmp_path / "out/x/manifest.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in manifest.splitlines()]
    assert {event["key"] for event in written} == {line["key"] for line in lines}
    assert {event["file"] for event in written} == pictures(tmp_path / "out/x").keys()
    assert {"key", "job", "file", "seed", "prompt", "size", "sha256", "status"} <= lines[0].keys()
    last = summary_of(out)
    assert (last["planned"], last["done"], last["code"]) == (PICTURES, PICTURES, 0)
    assert str(tmp_path) not in manifest


def test_the_same_command_again_draws_what_is_missing(creatok: Creatok, tmp_path: Path) -> None:
    creatok("x.yaml")
    before = pictures(tmp_path / "out/x")
    last = summary_of(creatok("x.yaml", "--json")[1])
    assert (last["done"], last["skipped"]) == (0, PICTURES)

    lost = tmp_path / "out/x" / next(iter(before))
    lost.unlink()
    last = summary_of(creatok("x.yaml", "--json")[1])
    assert (last["done"], last["skipped"]) == (1, PICTURES - 1)
    assert pictures(tmp_path / "out/x") == before


def test_shards_make_the_same_pictures(creatok: Creatok, tmp_path: Path) -> None:
    creatok("x.yaml", "--out", "whole", "--batch-size", "2")
    codes = [
        creatok("x.yaml", "--out", "parts", "--batch-size", "2", "--shard", f"{k}/2")[0]
        for k in (2, 1)
    ]
    assert codes == [0, 0]
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole")


def test_a_sheet_from_standard_input(
    creatok: Creatok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SHEET.encode())))
    code, _, err = creatok("-", "--out", "piped")
    assert code == 0, err
    assert len(pictures(tmp_path / "piped")) == PICTURES


def test_a_picture_is_drawn_again_from_its_own_metadata(
    creatok: Creatok, tiny_sd3: Path, tmp_path: Path
) -> None:
    creatok("x.yaml", "--batch-size", "1")
    (name, data) = next(iter(pictures(tmp_path / "out/x").items()))
    code, _, err = creatok(
        "--from",
        str(tmp_path / "out/x" / name),
        *("--out", "again", "--base", str(tiny_sd3), "--batch-size", "1"),
    )
    assert code == 0, err
    (again,) = pictures(tmp_path / "again").values()
    assert _pixels(again) == _pixels(data)


def _pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_a_dry_run_names_the_files_that_a_run_writes(creatok: Creatok, tmp_path: Path) -> None:
    code, out, _ = creatok("x.yaml", "--dry-run")
    assert code == 0
    assert not (tmp_path / "out").exists()
    listed = {line.removeprefix("write  ") for line in out.splitlines()}
    creatok("x.yaml")
    assert listed == pictures(tmp_path / "out/x").keys()
    code, out, _ = creatok("x.yaml", "--dry-run")
    assert {line.split("  ")[0] for line in out.splitlines()} == {"skip"}


def test_only_and_set(creatok: Creatok, tmp_path: Path) -> None:
    code, out, _ = creatok("x.yaml", "--only", "red", "--set", "steps=2", "--json")
    assert code == 0
    assert summary_of(out)["planned"] == 1
    (data,) = pictures(tmp_path / "out/x").values()
    assert "Steps: 2" in Image.open(io.BytesIO(data)).text["parameters"]


def test_metadata_none(creatok: Creatok, tmp_path: Path) -> None:
    code, _, err = creatok("x.yaml", "--metadata", "none", "--only", "red")
    assert code == 0, err
    (data,) = pictures(tmp_path / "out/x").values()
    assert Image.open(io.BytesIO(data)).text == {}


def test_an_existing_picture_is_an_error_when_asked(creatok: Creatok) -> None:
    assert creatok("x.yaml")[0] == 0
    code, _, err = creatok("x.yaml", "--overwrite", "error")
    assert code == 2
    assert "already there" in err or "exist" in err


@pytest.mark.parametrize(
    ("sheet", "words", "code", "told"),
    [
        ("version: 1\njobs:\n  - promt: a pig\n", [], 2, "x.yaml:3:5: error[unknown-key]"),
        ("version: 1\njobs:\n  - prompt: a <fox>\n", [], 2, "x.yaml:3:"),
        ("version: 1\njobs:\n  - prompt: a {fox}\n", [], 2, "x.yaml:3:"),
        (SHEET, ["--base", "besitary"], 2, "bestiary"),
        (SHEET, ["--base", "./nowhere"], 4, "no such folder"),
        (SHEET, ["--set", "stpes=3"], 2, "steps"),
        (SHEET, ["--sink", "nowhere"], 2, "nowhere"),
        (SHEET, ["--executor", "lokal"], 2, "local"),
        (SHEET, ["--only", "nobody"], 2, "nobody"),
        (SHEET, ["--device", "cuda:99"], 5, "cuda:99"),
        (SHEET, ["--out", "x.yaml"], 6, "x.yaml"),
    ],
)
def test_what_is_wrong_is_told_with_its_code(
    sheet: str, words: list[str], code: int, told: str, creatok: Creatok, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(sheet, encoding="utf-8")
    found, out, err = creatok("x.yaml", *words)
    assert (found, out) == (code, ""), err
    assert told in err
    assert "Traceback" not in err
    assert code != 2 or not (tmp_path / "out").exists()


def test_a_pickle_in_the_base_is_refused(
    creatok: Creatok, tiny_folders: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny_folders(), base)
    (base / "vae" / "extra.bin").write_bytes(b"\x80\x04.")
    code, _, err = creatok("x.yaml", "--base", str(base))
    assert code == 4
    assert "error[refused]" in err
    assert "extra.bin" in err


def process(base: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    """`creatok sample x.yaml` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "creatok_cli", "sample", "x.yaml", "--base", str(base), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_says_nothing_that_is_not_creatoks(tiny_sd3: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(SHEET, encoding="utf-8")
    with process(tiny_sd3, tmp_path, "--device", "cpu", "--quiet") as quiet:
        out, err = quiet.communicate(timeout=120)
    assert (quiet.returncode, err) == (0, "")
    assert out.strip().endswith("contact-sheet.png")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupted_run_goes_on_to_the_same_pictures(
    tiny_sd3: Path, tmp_path: Path, creatok: Creatok
) -> None:
    (tmp_path / "x.yaml").write_text(SHEET.replace("count: 2", "count: 60"), encoding="utf-8")
    words = ("--batch-size", "2", "--json", "--device", "cpu")
    with process(tiny_sd3, tmp_path, *words) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if json.loads(line)["event"] == "image_written":
                break
        sent_s = time.monotonic()
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=30)
    assert time.monotonic() - sent_s < 10
    assert first.returncode == 130, err
    last = summary_of(out)
    assert (last["reason"], last["retryable"]) == ("interrupted", True)
    assert last["planned"] == last["done"] + last["skipped"] + last["failed"] + last["remaining"]
    assert 0 < last["remaining"]
    assert "Traceback" not in err

    code, out, _ = creatok("x.yaml", *words)
    assert code == 0
    assert summary_of(out)["skipped"] == last["done"]
    assert creatok("x.yaml", *words, "--out", "whole")[0] == 0
    assert pictures(tmp_path / "out/x") == pictures(tmp_path / "whole")
