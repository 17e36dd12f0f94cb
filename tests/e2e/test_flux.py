"""A word learned on a tiny FLUX.1, drawn by a sheet and written for other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from creatok_cli.cli.app import run
from tests.tiny_flux import build_tiny_flux

PAIRS = """\
slots: [a, b]
licence: cc0-1.0
source: made for this test
note: words of the tiny tokenizer
train:
  - [pig, owl]
  - [snake, fox]
  - [dragon, pig]
"""
SHEET = """\
version: 1
base: {base}
defaults: {{steps: 2, dtype: fp32}}
tokens: {{<fox>: fox}}
jobs:
  - id: a-fox
    prompt: a photo of a <fox> dragon
    seeds: [5]
  - id: b-plain
    prompt: a photo of a dragon
    seeds: [5]
  - id: c-ignored
    prompt: a photo of a dragon
    negative: a red owl
    seeds: [5]
  - id: d-guided
    prompt: a photo of a dragon
    negative: a red owl
    seeds: [5]
    guidance: 1.0
    options: {{true_cfg: {true_cfg}}}
  - id: e-low
    prompt: a photo of a dragon
    seeds: [5]
    guidance: 1.0
"""
EXPORTS = {
    "comfyui": {"fox.safetensors": {"clip_l": (1, 768), "t5xxl": (1, 24)}},
    "forge": {"fox.safetensors": {"emb_params": (1, 768)}},
    "diffusers": {
        "learned_embeds.safetensors": {"<fox>": (1, 768)},
        "learned_embeds_2.safetensors": {"<fox>": (1, 24)},
    },
    "onetrainer": {"fox.safetensors": {"clip_l": (1, 768), "t5": (1, 24)}},
}


def drawn(out: Path) -> list[bytes]:
    """What the pictures of a run show, by the ids of their jobs; the contact sheet left out."""
    found = []
    for path in sorted(out.rglob("*.png")):
        with Image.open(path) as picture:
            found += [picture.tobytes()] if picture.size == (32, 32) else []
    return found


def test_a_word_from_lesson_to_sheet_to_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # CLIP as wide as the real one: by its width other programs know the family.
    base = build_tiny_flux(tmp_path / "FLUX.1-dev", clip_width=768, legacy_eos=True)
    Path("few.yaml").write_text(PAIRS, encoding="utf-8")
    learn = ["learn-token", "--base", str(base), "--preset", "cretok-fast", "--pairs", "few.yaml"]
    how = ["--word", "creative", "--name", "fox", "--steps", "2", "--report", "none"]
    assert run([*learn, *how, "--device", "cpu"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    sample = ["sample", "sheet.yaml", "--out", "out", "--device", "cpu", "--batch-size", "1"]
    Path("sheet.yaml").write_text(SHEET.format(base=base, true_cfg="much"), encoding="utf-8")
    assert run(sample) == 2
    assert "true_cfg is a number from 0 to 100, found 'much'" in capsys.readouterr().err
    Path("sheet.yaml").write_text(SHEET.format(base=base, true_cfg=4.0), encoding="utf-8")
    assert run(sample) == 0, capsys.readouterr().err
    fox, plain, ignored, guided, low = drawn(Path("out"))
    assert plain == ignored  # guidance is an input of the denoiser: no negative is read
    assert len({fox, plain, guided, low}) == 4
    for client, files in EXPORTS.items():
        assert run(["tokens", "export", "fox", "--for", client, "--out", client]) == 0
        for name, keys in files.items():
            with safe_open(Path(client) / name, framework="pt") as file:
                found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            assert found == keys
    assert run(["tokens", "export", "fox", "--for", "kohya", "--out", "kohya"]) == 4
    assert "loads no tokens for FLUX.1" in capsys.readouterr().err
