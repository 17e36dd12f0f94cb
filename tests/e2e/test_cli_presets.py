"""`creatok sample --preset`: a few-step LoRA from the Hub's cache, drawn, told, drawn again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save

from creatok_cli.backbones import _hub_cache
from creatok_cli.cli.app import run
from creatok_cli.hashing import sha256_hex
from tests.fakes.loras import kohya_weights

LORA = "Hyper-SDXL-4steps-lora.safetensors"
SHEET = "version: 1\njobs:\n  - {id: a, prompt: a red owl, seed: 3, size: 32}\n"
INLINE = f"""\
version: 1
defaults: {{scheduler: ddim, steps: 4, guidance: 0, size: 32, dtype: fp16}}
loras: [{{path: "ByteDance/Hyper-SD:{LORA}"}}]
options: {{timestep_spacing: trailing}}
jobs:
  - {{id: a, prompt: a red owl, seed: 3}}
"""

Creatok = Callable[..., tuple[int, str, str]]


@pytest.fixture
def creatok(
    tiny_base: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Creatok:
    """Run `creatok sample` on a tiny SDXL with a LoRA in the Hub's cache; gives exit code, standard
    output and error.
    """
    from diffusers import UNet2DConditionModel

    folder = tiny_base("StableDiffusionXLPipeline")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
    data = save(kohya_weights(unet, "lora_unet_"))
    model = _hub_cache.repo_folder("ByteDance/Hyper-SD")
    path = model / "snapshots" / ("c" * 40) / LORA
    for each in (path, model / "blobs" / "x", model / "refs" / "main"):
        each.parent.mkdir(parents=True, exist_ok=True)
    (model / "refs" / "main").write_text("c" * 40)
    (model / "blobs" / sha256_hex(data)).write_bytes(data)
    path.symlink_to(model / "blobs" / sha256_hex(data))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SHEET, encoding="utf-8")

    def sample(*words: str) -> tuple[int, str, str]:
        code = run(["sample", *words, "--base", str(folder), "--device", "cpu"])
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return sample


def keys(folder: str) -> list[str]:
    lines = Path(folder, "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["key"] for line in lines]


def test_a_preset_is_told_drawn_kept_and_drawn_again(creatok: Creatok, tmp_path: Path) -> None:
    code, _, err = creatok("x.yaml", "--preset", "bases/hyper-sdxl-4", "--dry-run")
    assert code == 0, err
    assert f"preset bases/hyper-sdxl-4: base sdxl, LoRA ByteDance/Hyper-SD:{LORA} at 1" in err
    assert not Path("out").exists()

    code, _, err = creatok("x.yaml", "--preset", "hyper-sdxl-4")
    assert code == 0, err
    Path("y.yaml").write_text(INLINE, encoding="utf-8")
    code, _, err = creatok("y.yaml")
    assert code == 0, err
    assert keys("out/x") == keys("out/y")
    (picture,) = Path("out/x/a").glob("*.png")
    (other,) = Path("out/y/a").glob("*.png")
    assert picture.name == other.name

    code, _, err = creatok("--from", str(picture))
    assert code == 0, err
    (again,) = Path("out/replay").glob("*.png")
    assert again.read_bytes() == picture.read_bytes()


def test_faults_of_a_preset_are_told_with_their_places(creatok: Creatok, tmp_path: Path) -> None:
    for words, message in (
        (("--preset", "hyper-sdxl"), 'unknown preset "hyper-sdxl"; did you mean'),
        (("--from", "x.png", "--preset", "sdxl"), "belong to a SHEET"),
    ):
        code, _, err = creatok(*(() if "--from" in words else ("x.yaml",)), *words)
        assert code == 2
        assert message in err
    own = tmp_path / "own.yaml"
    own.write_text(
        "base: sdxl\nscheduler: lcm\noptions: {timestep_spacing: trailing}\n"
        'loras: [{path: "o/r:gone.safetensors"}]\nlicence: x\nsource: y\n'
    )
    code, _, err = creatok("x.yaml", "--preset", "own.yaml", "--dry-run")
    assert code == 4
    assert "own.yaml:4:16: LoRA o/r:gone.safetensors: is not on this machine" in err
    assert "'hf download o/r gone.safetensors'" in err
    own.write_text(own.read_text().replace("o/r:gone", "ByteDance/Hyper-SD:Hyper-SDXL-4steps-lora"))
    code, _, err = creatok("x.yaml", "--preset", "own.yaml", "--dry-run")
    assert code == 2
    assert "timestep_spacing has no effect with scheduler lcm" in err
