"""Pictures to begin from, from `creatok sample` to the pictures, and back from a picture."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from creatok_cli.backbones import _weights
from creatok_cli.cli.app import run
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.strict_picture import check_picture

SHEET = """\
version: 1
defaults: {steps: 4, guidance: 2.0}
jobs:
  - id: begun
    prompt: "a red owl"
    init_image: refs/{from}.png
    strength: 0.5
    matrix: {from: [sky, sand]}
    seeds: [7, 8]
  - {id: whole, prompt: "a red owl", init_image: refs/sky.png, strength: 1, seeds: [7]}
  - {id: plain, prompt: "a red owl", seeds: [7]}
"""

Creatok = Callable[..., tuple[int, str, str]]


@pytest.fixture
def creatok(
    tiny_sd3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Creatok:
    """Run `creatok sample` on the tiny base in a folder with a sheet and two pictures; gives exit
    code, standard output and error.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SHEET, encoding="utf-8")
    (tmp_path / "refs").mkdir()
    Image.linear_gradient("L").save(tmp_path / "refs/sky.png")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "refs/sand.png")

    def sample(*words: str, base: str = str(tiny_sd3)) -> tuple[int, str, str]:
        code = run(["sample", *words, "--base", base, "--device", "cpu"])
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return sample


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "manifest.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_jobs_begin_from_their_pictures_and_say_so(creatok: Creatok, tmp_path: Path) -> None:
    code, _, err = creatok("x.yaml")
    assert code == 0, err
    out = tmp_path / "out/x"
    refs = {path.stem: check_picture(path).digest for path in (tmp_path / "refs").iterdir()}
    found = {(line["job"], line.get("index", 0)): line for line in lines(out)}
    assert [found["begun", n]["init_image"] for n in range(4)] == (
        [refs["sky"]] * 2 + [refs["sand"]] * 2
    )
    assert {line.get("strength") for line in found.values()} == {0.5, 1.0, None}
    assert found["begun", 2]["init_name"] == "sand.png"
    assert "init_image" not in found["plain", 0]
    assert len({line["pixels"] for line in found.values()}) == 5
    # All the noise of rectified flow leaves nothing of the picture.
    assert found["whole", 0]["pixels"] == found["plain", 0]["pixels"]

    data = (out / found["begun", 2]["file"]).read_bytes()
    assert b"compositeWithTrainedAlgorithmicMedia" in data
    assert b"Denoising strength: 0.5" in data
    assert b"sand.png" not in data, "the same key, the same bytes, whatever the file is called"
    plain = (out / found["plain", 0]["file"]).read_bytes()
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in plain
    assert "from sand.png, strength 0.5" in (out / "gallery.html").read_text(encoding="utf-8")

    assert json.loads(creatok("x.yaml", "--json")[1].splitlines()[-1])["skipped"] == 6
    assert creatok("x.yaml", "--verify")[0] == 0
    Image.new("RGB", (8, 8), "pink").save(tmp_path / "refs/sand.png")
    told = json.loads(creatok("x.yaml", "--json", "--dry-run")[1].splitlines()[-1])
    assert (told["skipped"], told["remaining"]) == (4, 2)


def test_a_begun_picture_is_drawn_again(creatok: Creatok, tmp_path: Path) -> None:
    creatok("x.yaml", "--only", "begun")
    picture = max((tmp_path / "out/x/begun").glob("*.png"))
    shutil.copy(tmp_path / "refs/sand.png", tmp_path / "sand.png")  # 3 folders above
    code, _, err = creatok("--from", str(picture))
    assert code == 0, err
    (again,) = (tmp_path / "out/replay").glob("*.png")
    assert again.read_bytes() == picture.read_bytes()

    (tmp_path / "sand.png").unlink()
    code, _, err = creatok("--from", str(picture), "--out", "a")
    assert code == 4
    assert "begins from the picture sha256:" in err
    assert "put it into a folder 'pictures' beside this one" in err
    beside = picture.parent / "pictures"
    beside.mkdir()
    shutil.copy(tmp_path / "refs/sky.png", beside / "a.png")
    (beside / "broken.png").write_bytes(b"no")
    shutil.copy(tmp_path / "refs/sand.png", beside / "other-name.png")
    assert creatok("--from", str(picture), "--out", "b")[0] == 0
    (again,) = (tmp_path / "b").glob("*.png")
    assert again.read_bytes() == picture.read_bytes()


def test_faults_are_told_before_anything_opens(creatok: Creatok, tmp_path: Path) -> None:
    (tmp_path / "refs/sand.png").write_bytes(b"GIF89a")
    for words in ((), ("--dry-run",)):
        code, _, err = creatok("x.yaml", *words)
        assert code == 2
        assert 'x.yaml:6:17: error[bad-picture]: job "begun": init_image: "refs/sand.png"' in err
        assert "is no picture; expected PNG, JPEG or WEBP" in err
    (tmp_path / "sprites").mkdir()
    Image.new("RGBA", (8, 8), (9, 9, 9, 255)).save(tmp_path / "sprites/a.png")
    Image.new("RGBA", (8, 8), (99, 9, 9, 255)).save(tmp_path / "sprites/b.png")
    (tmp_path / "y.yaml").write_text(
        "version: 1\njobs:\n  - {id: a, prompt: a, init_image: refs/sky.png}\n", encoding="utf-8"
    )
    code, _, err = creatok("y.yaml", base="els:sprites")
    assert code == 2
    assert "base els:sprites cannot begin from a picture; bases of these families can:" in err
    code, _, err = creatok("y.yaml", "--set", "strength=2")
    assert code == 2
    assert 'strength: found "2", expected a number from 0.01 to 1' in err
    assert not (tmp_path / "out").exists()


def test_a_renderer_travels_with_its_pictures(tiny_sd3: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "pink").save(tmp_path / "a.png")
    found = check_picture(tmp_path / "a.png")
    facts = _weights.resolve(str(tiny_sd3))
    files = {found.digest: found.path}
    one = Renderer(OpenBase({facts.digest: facts}, "cpu"), pictures=files, threads=1)
    assert pickle.loads(pickle.dumps(one))._starts._files == files


def test_bestiary_goes_from_a_picture_to_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stronger, the further from the picture and the nearer to the words."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (100, 60), (240, 200, 40)).save(tmp_path / "yellow.png")
    rows = [
        f'  - {{id: "s{at}", prompt: "a photo of an owl in the night", seeds: [3], '
        f"strength: {strength}}}"
        for at, strength in enumerate((0.25, 0.5, 0.75, 1))
    ]
    head = "version: 1\ndefaults: {steps: 4, init_image: yellow.png}\njobs:\n"
    (tmp_path / "x.yaml").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    code = run(["sample", "x.yaml", "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    shown = [
        np.asarray(Image.open(path).convert("RGB"), np.float64)
        for path in sorted((tmp_path / "out/x").glob("s*/*.png"))
    ]
    away = [abs(picture - (240, 200, 40)).mean() for picture in shown]
    assert away == sorted(away)
    assert away[0] < 0.3 * away[-1]
    with Image.open(tmp_path / "out/x/contact-sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}
    assert (240, 200, 40) in colours, "the sheet shows what they begin from"
