"""One checkpoint in its authors' layout: what it is, what it lacks, and equal weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import config
from creatok_cli.backbones import _fetch, _hub_cache, _weights
from creatok_cli.domain import BaseFacts, Stage
from creatok_cli.errors import (
    ArtefactError,
    DigestMismatch,
    ModelMissing,
    Offline,
    OutputFull,
    Refused,
)
from tests.fakes import originals

PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}
Made = Callable[..., tuple[Path, Path]]


@pytest.fixture
def made(tiny_base: Callable[[str], Path], tiny_folders: Any, tmp_path: Path) -> Made:
    """Writes the checkpoint of a family; says (checkpoint, the folder that it came from)."""

    def make(family: str, *, has_t5: bool = False) -> tuple[Path, Path]:
        folder = tiny_folders(t5=True) if has_t5 else tiny_base(PIPELINES[family])
        path = tmp_path / f"{family}-original.safetensors"
        if family == "sd3":
            settings = json.loads((folder / "transformer" / "config.json").read_text())
            originals.write_sd3(folder, path, layers=settings["num_layers"])
        else:
            write = originals.write_sdxl if family == "sdxl" else originals.write_sd15
            write(folder, path)
        return path, folder

    return make


def texts_of(folder: Path, target: Path) -> Path:
    """A folder's configs and word lists, without a weight."""
    weights = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json")
    return Path(shutil.copytree(folder, target, ignore=weights))


def obtain(name: str, **more: Any) -> BaseFacts:
    list(_fetch.obtain([name], **more))
    return _weights.resolve(name)


def state_of(folder: Path, part: str) -> dict[str, Any]:
    """The tensors of one part as they are opened."""
    import diffusers
    import transformers

    from creatok_cli.backbones._diffusers import load_part, prepare_libraries

    prepare_libraries()
    index = json.loads((folder / "model_index.json").read_text())
    name = index[part][1]
    kind = getattr(diffusers, name, None) or getattr(transformers, name)
    return dict(load_part(kind, str(folder), part, dtype="fp32", device="cpu").state_dict())


@pytest.mark.parametrize(
    ("family", "has_t5"), [("sd15", False), ("sdxl", False), ("sd3", False), ("sd3", True)]
)
def test_the_parts_of_a_checkpoint_equal_those_of_its_folder(
    made: Made, tmp_path: Path, family: str, has_t5: bool
) -> None:
    import torch

    path, source = made(family, has_t5=has_t5)
    configs = texts_of(source, tmp_path / "configs")
    name = f"{path}+{configs}"
    before = _weights.resolve(name)
    assert not Path(before.folder).exists()
    facts = obtain(name)
    assert facts == before
    assert facts.backbone == family
    _weights.check_unchanged(facts)
    plain = _weights.resolve(str(source))
    same = replace(
        facts, **{each: getattr(plain, each) for each in ("name", "folder", "digest", "licence")}
    )
    assert replace(same, checkpoint="", configs="") == plain
    made_of = Path(facts.folder)
    parts = [part.name for part in made_of.iterdir() if list(part.glob("*.safetensors"))]
    assert len(parts) == {"sd15": 3, "sdxl": 4, "sd3": 4}[family] + has_t5
    for part in parts:
        ours, theirs = state_of(made_of, part), state_of(source, part)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            if key == "text_projection.weight" and (family, part) == ("sd3", "text_encoder"):
                # Published SD3 checkpoints project with the identity, which diffusers writes.
                tensor = torch.eye(len(tensor))
            assert torch.equal(ours[key], tensor), f"{part}: {key}"
    assert [each for each in _fetch.obtain([name]) if isinstance(each, Stage)] == []


def test_number_formats_are_kept_and_bytes_repeat(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    path, source = made("sd15")
    half = {
        name: tensor.half() if name.startswith("model.") and tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    originals.save(half, path)
    name = f"{path}+{source}"
    facts = obtain(name)
    with safe_open(
        Path(facts.folder) / "unet" / "diffusion_pytorch_model.safetensors", framework="pt"
    ) as file:
        assert file.get_slice("conv_in.weight").get_dtype() == "F16"
    first = {each.name: each.read_bytes() for each in Path(facts.folder).rglob("*.*")}
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "other"))
    again = obtain(name)
    assert again.digest == facts.digest
    assert again.folder != facts.folder
    assert {each.name: each.read_bytes() for each in Path(again.folder).rglob("*.*")} == first


def test_the_digest_is_of_the_file_and_the_texts(made: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path, source = made("sd15")
    configs = texts_of(source, tmp_path / "configs")
    with_weights = _weights.resolve(f"{path}+{source}").digest
    facts = obtain(f"{path}+{configs}")
    assert facts.digest == with_weights, "weights beside the configs are not what draws"
    moved = tmp_path / "renamed.safetensors"
    shutil.copy(path, moved)
    assert _weights.resolve(f"{moved}+{configs}").digest == facts.digest
    changed = load_file(path)
    changed["model.diffusion_model.out.2.bias"] += 1
    originals.save(changed, path)
    assert _weights.resolve(f"{path}+{configs}").digest != facts.digest
    with pytest.raises(DigestMismatch, match="has changed"):
        _weights.check_unchanged(facts)
    settings = configs / "scheduler" / "scheduler_config.json"
    settings.write_text(settings.read_text().replace("0.012", "0.013"))
    assert _weights.resolve(f"{moved}+{configs}").digest != facts.digest


def test_no_torch_before_a_checkpoint_is_taken_apart(made: Made) -> None:
    path, source = made("sd15")
    code = (
        "import sys; from creatok_cli.backbones import _weights; "
        f"print(_weights.resolve({f'{path}+{source}'!r}).digest); "
        "assert not {'torch', 'numpy', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("sha256:"), done.stderr


def test_configs_of_the_family_come_from_the_cache(made: Made, monkeypatch: Any) -> None:
    path, source = made("sdxl")
    with pytest.raises(ModelMissing, match="hf download stabilityai/stable-diffusion-xl"):
        _weights.resolve(str(path))
    with pytest.raises(Offline, match=r"\+FOLDER"):
        list(_fetch.obtain([str(path)], is_offline=True))
    repo = _hub_cache.repo_folder("stabilityai/stable-diffusion-xl-base-1.0")
    texts_of(source, repo / "snapshots" / ("b" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("b" * 40)
    facts = obtain(str(path), is_offline=True)
    assert facts.digest == _weights.resolve(f"{path}+{source}").digest
    assert (config.home() / "base-pins.yaml").read_text().endswith(f"@main: {'b' * 40}\n")


def test_what_draws_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    import torch

    def check(names: dict[str, tuple[int, ...]], kind: type[ArtefactError], said: str) -> None:
        path = tmp_path / "x.safetensors"
        originals.save({name: torch.zeros(shape) for name, shape in names.items()}, path)
        with pytest.raises(kind, match=said) as caught:
            _weights.resolve(str(path))
        assert type(caught.value) is kind
        assert str(path) in str(caught.value)

    one, unet = (1,), "model.diffusion_model."
    check({"double_blocks.0.img_attn.norm.key_norm.scale": one}, Refused, "FLUX")
    check({f"{unet}double_blocks.0.x": one, "cond_stage_model.transformer.x": one}, Refused, "FLUX")
    check({f"{unet}x.lora_down.weight": one}, Refused, "a LoRA")
    check({"lora_unet_x.alpha": one}, Refused, "a LoRA")
    check({"conditioner.embedders.0.model.x": one, unet + "x": one}, Refused, "refiner")
    check({"cond_stage_model.model.x": one, unet + "x": one}, Refused, "Stable Diffusion 2")
    check({"down_blocks.0.x": one}, Refused, "one part")
    check({"whatever": one}, Refused, "no known model")
    check({"first_stage_model.x": one}, Refused, "decoder alone")
    check({unet + "input_blocks.1.x": one}, Refused, "without its text encoders")
    words = {"cond_stage_model.transformer.x": one, "first_stage_model.x": one}
    check({unet + "input_blocks.0.0.weight": (4, 9, 3, 3)} | words, Refused, "9 channels")
    check({unet + "x": one, "cond_stage_model.transformer.x": one}, ModelMissing, "lacks vae")
    sd3 = {unet + "joint_blocks.0.x": one, "first_stage_model.x": one}
    check(sd3, ModelMissing, "lacks text_encoder, text_encoder_2:")
    with pytest.raises(ModelMissing, match="no such file"):
        _weights.resolve(str(tmp_path / "none.safetensors"))
    path, source = made("sd15")
    with pytest.raises(Refused, match="not for sdxl"):
        _weights.resolve(f"sdxl:{path}+{source}")
    assert _weights.resolve(f"sd15:{path}+{source}").backbone == "sd15"


def test_a_checkpoint_that_is_a_pickle_or_cut(made: Made, tmp_path: Path) -> None:
    path, source = made("sd15")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DigestMismatch, match="cut off"):
        _weights.resolve(f"{path}+{source}")
    path.write_bytes(b"\x80\x04" + data)
    with pytest.raises(Refused, match="pickle"):
        _weights.resolve(f"{path}+{source}")


def test_configs_of_another_model_do_not_fit(
    made: Made, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    path, source = made("sd15")
    with pytest.raises(Refused, match="model for sdxl, not for sd15"):
        _weights.resolve(f"{path}+{tiny_base(PIPELINES['sdxl'])}")
    configs = texts_of(source, tmp_path / "configs")
    settings = configs / "unet" / "config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"block_out_channels": [8, 24]}))
    with pytest.raises(ArtefactError, match=r"unet does not fit the configs .*\+FOLDER"):
        obtain(f"{path}+{configs}")
    settings.write_text(json.dumps(content | {"layers_per_block": 2}))
    with pytest.raises(ArtefactError, match="unet does not fit the configs"):
        obtain(f"{path}+{configs}")
    assert list((config.home() / "bases").iterdir()) == []


def test_a_tensor_that_is_missing_is_not_made_up(made: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path, source = made("sd15")
    whole = load_file(path)
    for name in (
        "model.diffusion_model.out.2.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
        "first_stage_model.decoder.conv_in.bias",
    ):
        originals.save({each: whole[each] for each in whole if each != name}, path)
        with pytest.raises(ArtefactError, match="does not fit"):
            obtain(f"{path}+{source}")


def test_no_room_for_the_parts(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path, source = made("sd15")
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputFull, match="GiB"):
        obtain(f"{path}+{source}")


def test_the_command_draws_with_a_checkpoint(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from creatok_cli.cli.app import run

    path, source = made("sd15")
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text("version: 1\njobs:\n  - {prompt: a boar, steps: 1, size: 32x32}\n")
    monkeypatch.chdir(tmp_path)
    base = f"{path.name}+{source}"
    words = ["sample", str(sheet), "--base", base, "--offline", "--device", "cpu", "--json"]
    assert run(words) == 0, capsys.readouterr()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "taking apart" in [event.get("name") for event in events]
    manifest = next((tmp_path / "out" / "sheet").glob("manifest*.jsonl")).read_text()
    assert f'"base":"{path.name}"' in manifest
    assert str(source) not in manifest
    assert run([*words, "--dry-run"]) == 0
