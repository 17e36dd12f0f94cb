"""`creatok explore els` from a folder of sprites to pictures, maps, atlas and page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli.backbones._els_sprites import read_sprites
from creatok_cli.cli.app import run
from creatok_cli.registry import preset_folder
from creatok_cli.sinks import manifest
from tests.e2e.test_cli_learn import json_lines, squeezed
from tests.unit.backbones.test_els_sprites import hostile

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    *("bat", "bee", "camel", "cat", "cow", "deer", "dog", "fox"),
    *("horse", "lion", "owl", "pig", "sheep", "tiger"),
)
SIDE = 16
QUICK = ("--size", f"{SIDE}x{SIDE}", "--steps", "6", "--progress", "none")


@pytest.fixture
def art(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `art/`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "art"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(preset_folder() / "sprites" / f"{name}.png", folder)
    (folder / "tags.yaml").write_text("farm: [cow, pig, sheep, horse]\nwild: [lion, tiger, fox]\n")
    return folder


def explore(*words: str, images: str = "art") -> int:
    return run(["explore", "els", "--images", images, *QUICK, *words])


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Pictures, maps and everything that is derived from them."""
    endings = (".png", ".json", ".yaml", ".safetensors")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in endings
    }


def pictures_of(folder: Path) -> list[manifest.Line]:
    ledger = manifest.read(folder / "pictures")
    return sorted(ledger.by_file.values(), key=lambda line: line.file)


def copied(folder: Path, line: manifest.Line) -> bytes:
    """The picture that its map describes, from the sprites beside it."""
    sprites = read_sprites(folder / "sprites.safetensors")
    name = line.file.removesuffix(".png")
    said = json.loads((folder / "pictures" / "source-maps" / f"{name}.json").read_text())
    found = bytearray()
    for y, runs in enumerate(said["rows"]):
        x = 0
        for count, source, dy, dx in runs:
            for at in range(x, x + count):
                start = 4 * ((y + dy) * SIDE + at + dx) if dy is not None else None
                rgba = sprites.sprites[source].rgba
                found += rgba[start : start + 4] if start is not None else bytes(4)
            x += count
        assert x == SIDE
    return bytes(found)


def test_every_pixel_is_a_copy_that_its_map_names(
    art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explore("--count", "5", "--out", "out", "--freedom", "1") == 0
    out = tmp_path / "out"
    told = capsys.readouterr()
    assert told.out.split() == [
        str(Path("out") / name)
        for name in ("origins.png", "atlas.json", "pictures/contact-sheet.png")
    ]
    lines = pictures_of(out)
    assert len(lines) == 5
    for line in lines:
        with Image.open(out / "pictures" / line.file) as opened:
            assert opened.mode == "RGBA"
            shown = opened.tobytes()
        source = copied(out, line)
        for at in range(0, len(shown), 4):
            # Colours that nobody sees are left out.
            assert shown[at + 3] == source[at + 3]
            assert shown[at : at + 4] == source[at : at + 4] or shown[at + 3] == 0
        assert {"nearest", "nearest_source", "top_source", "top_share", "sources"} <= set(
            line.facts
        )
    atlas = json.loads((out / "atlas.json").read_text())
    assert sorted(atlas["frames"]) == [line.file for line in lines]
    numbers = json.loads((out / "explore.json").read_text())
    assert numbers["ended"] == "done"
    assert [row["name"] for row in numbers["facts"]["sources"]] == sorted(NAMES)
    assert [row["file"] for row in numbers["facts"]["pictures"]] == [line.file for line in lines]


def test_the_same_command_is_resume_and_more_keeps_the_first(art: Path, tmp_path: Path) -> None:
    assert explore("--count", "3", "--out", "out") == 0
    out = tmp_path / "out"
    before = bytes_of(out)
    gone = pictures_of(out)[1].file
    (out / "pictures" / gone).unlink()
    (out / "pictures" / "source-maps" / gone).unlink()
    (out / "origins.png").unlink()
    assert explore("--count", "3", "--out", "out", "--resume") == 0
    assert bytes_of(out) == before
    assert explore("--count", "5", "--out", "out") == 0
    after = bytes_of(out)
    kept = {name: data for name, data in before.items() if "creature/" in name}
    assert kept.items() <= after.items()
    assert len([name for name in after if name.startswith("pictures/creature/")]) == 5


def test_another_run_never_takes_its_place(
    art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explore("--count", "2", "--out", "out") == 0
    before = bytes_of(tmp_path / "out")
    assert explore("--count", "2", "--out", "out", "--coherence", "0.8") == 2
    assert "of another run" in capsys.readouterr().err
    assert bytes_of(tmp_path / "out") == before
    assert explore("--count", "2", "--out", "out", "--coherence", "0.8", "--replace") == 0
    said = json.loads((tmp_path / "out" / "explore.json").read_text())
    assert said["settings"]["coherence"] == 0.8
    assert len(said["facts"]["pictures"]) == 2


def test_tags_choose_the_sources(art: Path, tmp_path: Path) -> None:
    assert explore("--count", "2", "--out", "out", "--only", "farm", "--only", "wild") == 0
    lines = pictures_of(tmp_path / "out")
    assert [line.job for line in lines] == ["farm", "farm", "wild", "wild"]
    farm, wild = {"cow", "pig", "sheep", "horse"}, {"lion", "tiger", "fox"}
    assert {line.facts["top_source"] for line in lines if line.job == "farm"} <= farm
    assert {line.facts["top_source"] for line in lines if line.job == "wild"} <= wild


def test_locked_pixels_stay(art: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (8, 0, 16, 9))
    mask.save("mask.png")
    assert explore("--count", "3", "--out", "out", "--lock", "mask.png", "--keep", "cat") == 0
    out = tmp_path / "out"
    sprites = read_sprites(out / "sprites.safetensors")
    cat = next(each for each in sprites.sprites if each.name == "cat")
    whole = Image.frombytes("RGBA", (SIDE, SIDE), cat.rgba)
    outputs = set()
    for line in pictures_of(out):
        with Image.open(out / "pictures" / line.file) as opened:
            for x in range(8, 16):
                for y in range(9):
                    pixel, kept = opened.getpixel((x, y)), whole.getpixel((x, y))
                    assert isinstance(pixel, tuple)
                    assert isinstance(kept, tuple)
                    assert pixel == kept or pixel[3] == kept[3] == 0
            outputs.add(opened.tobytes())
    assert len(outputs) == 3


def test_a_sheet_may_name_a_folder(
    art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`base: els:DIR` with options, per job key by key; faults cite the job."""
    for path in sorted(art.glob("*.png")):
        with Image.open(path) as opened:
            opened.resize((SIDE, SIDE), Image.Resampling.BOX).save(path)
    sheet = tmp_path / "a.yaml"
    text = """\
version: 1
base: els:art
defaults: {steps: 4, count: 2}
options: {coherence: 0.9, machine: ls}
jobs:
  - id: plain
    prompt: a creature
  - id: loose
    prompt: a wild creature
    options: {coherence: 0.3, tags: farm}
"""
    sheet.write_text(text)
    assert run(["sample", "a.yaml", "--sink", "source_map", "--progress", "none"]) == 0
    lines = pictures_of_sample(tmp_path / "out" / "a")
    assert {line.facts["top_source"] for line in lines if line.job == "loose"} <= {
        *("cow", "pig", "sheep", "horse")
    }
    assert (tmp_path / "out" / "a" / "source-maps" / lines[0].file).is_file()
    capsys.readouterr()
    sheet.write_text(text.replace("tags: farm", "tagz: farm"))
    assert run(["sample", "a.yaml", "--progress", "none"]) == 2
    assert 'a.yaml:8:5: base els has no option "tagz"; did you mean "tags"?' in squeezed(
        capsys.readouterr().err
    )
    sheet.write_text("version: 1\njobs:\n  - prompt: a pig\n    options: {coherence: 0.5}\n")
    assert run(["sample", "a.yaml", "--progress", "none"]) == 2
    assert "base bestiary has no options" in capsys.readouterr().err


def pictures_of_sample(folder: Path) -> list[manifest.Line]:
    return sorted(manifest.read(folder).by_file.values(), key=lambda line: line.file)


def test_a_near_copy_is_flagged(
    art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explore("--count", "2", "--out", "out", "--machine", "ideal") == 0
    assert "2 of 2 pictures are nearly a copy of a sprite" in squeezed(capsys.readouterr().err)
    assert {line.facts["copy"] for line in pictures_of(tmp_path / "out")} == {"near copy"}


def test_one_sprite_comes_back_and_says_so(
    art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explore("--count", "1", "--out", "out", images="art/cat.png") == 0
    assert "versions of one creature" in capsys.readouterr().err
    (line,) = pictures_of(tmp_path / "out")
    assert line.facts["copy"] == "one group"
    assert line.facts["top_source"] == "cat"


def test_json_and_dry_run(art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explore("--count", "2", "--out", "out", "--json") == 0
    events = json_lines(capsys.readouterr().out)
    assert [event["event"] for event in events].count("image_written") == 2
    last = events[-1]
    assert (last["event"], last["method"], last["finds"], last["code"]) == ("summary", "els", 2, 0)
    assert explore("--dry-run", "--out", "other") == 0
    assert "14 of 16x16" in squeezed(capsys.readouterr().out)
    assert not (tmp_path / "other").exists()


def test_a_dry_run_needs_no_torch(art: Path) -> None:
    code = (
        "import sys; from creatok_cli.cli.app import run; "
        "assert run(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    )
    words = ["explore", "els", "--images", "art", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "CREATOK_HOME": str(art.parent / "home")},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


FAULTS: dict[str, tuple[list[str], str]] = {
    "nowhere": (["--images", "atr"], 'did you mean "art"?'),
    "no fit": (["--images", "art/*.gif"], "fits no picture"),
    "count": (["--count", "0"], "--count: found 0, expected 1 to"),
    "steps": (["--steps", "1"], "--steps: found 1, expected 2 to"),
    "coherence": (["--coherence", "1.5"], "--coherence: found 1.5"),
    "not a number": (["--coherence", "nan"], "--coherence: found nan"),
    "freedom": (["--freedom", "-1"], "--freedom: found -1"),
    "both": (["--machine", "els", "--freedom", "2"], "leave --machine away"),
    "machine": (["--machine", "bbles"], 'did you mean "bbels"?'),
    "size": (["--size", "64"], "expected WIDTHxHEIGHT"),
    "grid": (["--grid", "60x60"], "no whole number of cells"),
    "tag": (["--only", "farn"], 'did you mean "farm"?'),
    "tags": (["--tags", "gone.yaml"], "no such file"),
    "keep": (["--keep", "cat"], "--lock"),
    "lock": (["--lock", "art/pig.png"], "16x16"),
    "seed": (["--seed", "-1"], "--seed: found -1"),
    "name": (["--name", "../x"], "--name"),
    "resume": (["--resume", "--out", "fresh"], "--resume: there is no run"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_before_anything_is_written(
    fault: str, art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = FAULTS[fault]
    there = {path.name for path in tmp_path.iterdir()}
    assert explore(*words) == 2
    err = squeezed(capsys.readouterr().err)
    assert message in err
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize("kind", ["text", "cut", "huge", "empty", "pickle"])
def test_a_hostile_file_in_the_folder(
    kind: str, art: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(hostile(art.parent)[kind], art / f"{kind}.png")
    assert explore() == 2
    assert f"{kind}.png: " in capsys.readouterr().err


def test_a_stranger_in_the_folder_stays(
    art: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not ours is neither replaced nor a reason for a traceback."""
    (tmp_path / "out").mkdir()
    stranger: Any = tmp_path / "out" / "explore.json"
    stranger.write_text("mine")
    assert explore("--out", "out") == 6
    assert stranger.read_text() == "mine"
    assert "move it away" in squeezed(capsys.readouterr().err)
