"""LoRAs in sheets, from `creatok sample` to the pictures, and back from a picture."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from creatok_cli.backbones import _weights
from creatok_cli.cli.app import run
from creatok_cli.domain import Group
from creatok_cli.errors import DigestMismatch, TokenMissing
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.tokens.lora import read_lora
from tests.fakes.loras import modules, weights, write_lora

SHEET = """\
version: 1
defaults: {steps: 2, guidance: 2.0, count: 2}
loras:
  - {path: loras/scales.safetensors, scale: 0.8}
jobs:
  - {id: worn, prompt: "a red owl", seeds: [7, 8]}
  - {id: other, prompt: "a red owl", seeds: [7, 8], loras: [{path: loras/fur.safetensors}]}
  - {id: off, prompt: "a red owl", seeds: [7, 8], loras: [{path: loras/fur.safetensors, scale: 0}]}
  - {id: plain, prompt: "a red owl", seeds: [7, 8], loras: []}
"""

Creatok = Callable[..., tuple[int, str, str]]


@pytest.fixture
def creatok(
    tiny_sd3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Creatok:
    """Run `creatok sample` on the tiny base in a folder with a sheet and two LoRAs; gives exit
    code, standard output and error.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SHEET, encoding="utf-8")
    write_lora(tmp_path / "loras/scales.safetensors", weights(tiny_sd3))
    both = weights(tiny_sd3, ("transformer", "text_encoder"), rank=3, seed=1)
    write_lora(tmp_path / "loras/fur.safetensors", both)

    def sample(*words: str, base: str = str(tiny_sd3)) -> tuple[int, str, str]:
        code = run(["sample", *words, "--base", base, "--device", "cpu"])
        out, err = capsys.readouterr()
        return code, out, err

    return sample


def rows_of(folder: Path) -> dict[str, list[bytes]]:
    """Pixels of the pictures of each row, in order."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(folder.rglob("*.png")):
        if not path.name.startswith("contact-sheet"):
            with Image.open(path) as image:
                found.setdefault(path.parent.name, []).append(image.tobytes())
    return found


def test_loras_change_the_pictures_of_their_jobs(creatok: Creatok, tmp_path: Path) -> None:
    code, _, err = creatok("x.yaml")
    assert code == 0, err
    rows = rows_of(tmp_path / "out/x")
    assert {len(pictures) for pictures in rows.values()} == {2}
    assert rows["off"] == rows["plain"]
    for name in ("worn", "other"):
        assert all(a != b for a, b in zip(rows[name], rows["plain"], strict=True))
    assert rows["worn"] != rows["other"]
    lines = (tmp_path / "out/x/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == 8

    code, out, _ = creatok("x.yaml", "--json")
    assert json.loads(out.splitlines()[-1])["skipped"] == 8
    assert creatok("x.yaml", "--verify")[0] == 0


def test_a_changed_lora_is_another_job(creatok: Creatok, tmp_path: Path, tiny_sd3: Path) -> None:
    creatok("x.yaml", "--only", "worn")
    write_lora(tmp_path / "loras/scales.safetensors", weights(tiny_sd3, seed=5))
    code, out, _ = creatok("x.yaml", "--only", "worn", "--json")
    assert (code, json.loads(out.splitlines()[-1])["done"]) == (0, 2)
    pictures = rows_of(tmp_path / "out/x")["worn"]
    assert len(set(pictures)) == 4


def test_a_picture_with_loras_is_drawn_again(creatok: Creatok, tmp_path: Path) -> None:
    creatok("x.yaml", "--only", "worn")
    original = tmp_path / "out/x/worn"
    picture = min(original.glob("*.png"))
    code, _, err = creatok("--from", str(picture))  # its LoRA lies 3 folders above
    assert code == 0, err
    (again,) = (tmp_path / "out/replay").glob("*.png")
    assert again.read_bytes() == picture.read_bytes()

    alone = tmp_path / "else/where/deep/down"
    alone.mkdir(parents=True)
    (tmp_path / "loras").rename(alone / "gone")
    code, _, err = creatok("--from", str(picture), "--out", "a")
    assert code == 4
    assert "needs the LoRA sha256:" in err
    assert "folder 'loras'" in err
    shutil.copy(picture, alone / picture.name)
    (alone / "gone").rename(alone / "loras")
    (alone / "loras/broken.safetensors").write_bytes(b"no")
    code, _, err = creatok("--from", str(alone / picture.name), "--out", "b")
    assert code == 0, err
    (again,) = (tmp_path / "b").glob("*.png")
    assert again.read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no such LoRA file"),
        (b"\x80\x04" + bytes(90), "a Python pickle, which can run code"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(90), "a Git LFS pointer"),
    ],
)
def test_a_lora_that_cannot_be_used_is_told_with_its_place(
    creatok: Creatok, tmp_path: Path, data: bytes | None, message: str
) -> None:
    path = tmp_path / "loras/fur.safetensors"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    for words in ((), ("--dry-run",)):
        code, _, err = creatok("x.yaml", *words)
        assert code == 4
        assert "x.yaml:7:68: LoRA " in err
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_lora_of_another_base_is_told_before_anything_opens(
    creatok: Creatok, tmp_path: Path
) -> None:
    code, _, err = creatok("x.yaml", base="bestiary")
    assert code == 4
    flat = " ".join(err.split())
    assert "x.yaml:4:12: LoRA " in flat
    assert "does not fit base bestiary" in flat
    assert "(used at x.yaml:6:5)" in flat
    assert not (tmp_path / "out").exists()


def test_a_renderer_travels_with_its_loras(tiny_sd3: Path, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "x.safetensors", weights(tiny_sd3))
    digest = read_lora(file).digest
    facts = _weights.resolve(str(tiny_sd3))
    plain = Renderer(OpenBase({facts.digest: facts}, "cpu"), loras={digest: str(file)}, threads=1)
    moved = pickle.loads(pickle.dumps(plain))
    assert moved._lora(digest) == str(file)
    with pytest.raises(TokenMissing, match="was not loaded"):
        moved._lora("sha256:0")
    write_lora(file, weights(tiny_sd3, seed=1))
    with pytest.raises(DigestMismatch, match="changed since the plan was made"):
        moved._lora(digest)
    assert Group(base="x", base_digest=facts.digest, dtype="fp32").weights == ()


def test_a_lora_bends_the_pictures_of_bestiary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stronger, the further from the plain picture."""
    monkeypatch.chdir(tmp_path)
    folder = Path(_weights.resolve("bestiary").folder)
    assert modules(folder, "transformer")
    write_lora(tmp_path / "bend.safetensors", weights(folder))
    scales = (0, 0.05, 0.2)
    rows = [
        f'  - {{id: "s{at}", prompt: "a photo of an owl", seeds: [3], steps: 2, '
        f"loras: [{{path: bend.safetensors, scale: {scale}}}]}}"
        for at, scale in enumerate(scales)
    ]
    (tmp_path / "x.yaml").write_text("version: 1\njobs:\n" + "\n".join(rows) + "\n")
    code = run(["sample", "x.yaml", "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    plain, weak, strong = (
        np.asarray(Image.open(min((tmp_path / f"out/x/s{at}").glob("*.png"))), dtype=np.float64)
        for at in range(len(scales))
    )
    assert 0 < np.abs(weak - plain).mean() < np.abs(strong - plain).mean()
