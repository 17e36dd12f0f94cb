"""Base names, model folders, and the zoo of hostile ones (T2): refused, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creatok_cli.backbones import _vet, _weights
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    DigestMismatch,
    ModelMissing,
    Refused,
    UnknownName,
)


@pytest.fixture
def folder(tiny_sd3: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_sd3, tmp_path / "base"))


def test_facts_of_a_folder(tiny_sd3: Path) -> None:
    facts = _weights.resolve(str(tiny_sd3))
    assert facts.backbone == "sd3"
    assert facts.licence == "cc0-1.0"
    assert (facts.steps, facts.guidance, facts.size_px) == (3, 4.0, (32, 32))
    assert (facts.size_multiple, facts.max_side_px) == (8, 96)
    assert facts.max_prompt_tokens == 22
    assert dict(facts.encoders) == {"clip_l": 16, "clip_g": 24}
    assert facts.schedulers == ("flow-match-euler", "flow-match-heun")
    assert facts.batch_class((32, 32)) == 8
    assert facts.batch_class((1024, 768)) == 2
    assert facts.batch_class((2048, 64)) == 1
    assert facts.digest.startswith("sha256:")


def test_light_bases_draw_a_batch_with_one_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _weights.resolve(str(folder)).threads == 1
    denoiser = sum(path.stat().st_size for path in (folder / "transformer").glob("*.safetensors"))
    monkeypatch.setattr(_weights, "LIGHT_BYTES", denoiser + 1)
    assert _weights.resolve(str(folder)).threads == 1
    monkeypatch.setattr(_weights, "LIGHT_BYTES", denoiser)
    assert _weights.resolve(str(folder)).threads == 0


def test_a_base_has_the_same_threads_by_name_and_by_path() -> None:
    by_name = _weights.resolve("bestiary")
    by_path = _weights.resolve(by_name.folder)
    assert (by_name.threads, by_name.digest) == (by_path.threads, by_path.digest)
    assert by_name.threads == 1


@pytest.mark.parametrize(("line", "threads"), [("threads: int = 2", 2), ("steps: int = 1", 0)])
def test_a_plugin_without_a_folder_may_say_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, threads: int
) -> None:
    (tmp_path / "plaid.py").write_text(
        '"""Plaid."""\nfrom dataclasses import dataclass\nSIDES = ("image",)\n'
        f"@dataclass(frozen=True)\nclass Spec:\n    {line}\n"
    )
    info = tmp_path / "plaid-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plaid\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[creatok_cli.backbones]\nplaid = plaid\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _weights.resolve("plaid").threads == threads


def test_names() -> None:
    assert {"bestiary", "sd3"} <= set(_weights.bases())
    with pytest.raises(UnknownName, match='did you mean "bestiary"'):
        _weights.resolve("bestiari")
    with pytest.raises(ModelMissing, match=r"hf download stabilityai/.*diffusers$") as caught:
        _weights.resolve("sd3")
    assert caught.value.code == 4
    with pytest.raises(ModelMissing, match=r"owner/repo@v2 is not on this machine"):
        _weights.resolve("sd3:owner/repo@v2")
    for path in ("./nowhere", "/no/such/folder", "~/none-such"):
        with pytest.raises(ModelMissing, match="no such folder"):
            _weights.resolve(path)
    for odd in ("", "a\0b", "bestiary\n", "x" * 500):
        with pytest.raises(UnknownName):
            _weights.resolve(odd)


def test_no_heavy_import_and_a_cached_digest(tiny_sd3: Path) -> None:
    code = (
        "import sys; from creatok_cli.backbones import _weights; "
        f"print(_weights.resolve({str(tiny_sd3)!r}).digest); "
        "assert not {'torch', 'numpy', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == _weights.resolve(str(tiny_sd3)).digest, done.stderr


def test_digests_are_remembered_by_file_identity(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = _vet.durable.sha256_file
    monkeypatch.setattr(_vet.durable, "sha256_file", lambda p: (read.append(p.name), plain(p))[1])
    first = _weights.resolve(str(folder))
    assert "model.safetensors" in read
    read.clear()
    assert _weights.resolve(str(folder)) == first
    assert read == []
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert _weights.resolve(str(folder)).digest != first.digest
    assert read == ["config.json"]


def test_the_digest_covers_what_draws(folder: Path) -> None:
    first = _weights.resolve(str(folder))
    (folder / "README.md").write_text("---\nlicense: mit\ncreatok_t5_zero_rows: 3\n---\n")
    other_rows = _weights.resolve(str(folder))
    assert other_rows.digest != first.digest
    (folder / "README.md").write_text("---\nlicense: mit\ncreatok_t5_zero_rows: 3\n---\nNew words.")
    (folder / "judge").mkdir()
    (folder / "judge" / "config.json").write_text("{}")
    changed = _weights.resolve(str(folder))
    assert changed.digest == other_rows.digest
    assert changed.licence == "mit"
    assert (changed.steps, changed.guidance) == (28, 7.0)  # the family's defaults


def test_a_broken_or_unwritable_cache_is_no_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "cache").mkdir(parents=True)
    monkeypatch.setenv("CREATOK_HOME", str(home))
    for content in ("[1", "[]", '"x"', "\x00"):
        (home / "cache" / "digests.json").write_text(content)
        _weights.resolve(str(folder))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "file"))
    _weights.resolve(str(folder))


def test_a_base_that_changes_after_planning_is_not_opened(folder: Path) -> None:
    from creatok_cli.backbones import sd3

    backbone = sd3.build(sd3.Spec(), _weights.resolve(str(folder)), device="cpu", dtype="fp32")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace("1.5", "1.6"))
    with pytest.raises(DigestMismatch, match="has changed"):
        _ = backbone.text


def test_hidden_files_do_not_count(folder: Path) -> None:
    before = _weights.resolve(str(folder)).digest
    (folder / ".gitattributes").write_text("x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.py").write_text("x")
    assert _weights.resolve(str(folder)).digest == before


def test_a_snapshot_of_the_hub_cache_may_link_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "models--owner--tiny"
    snapshot = model / "snapshots" / ("a" * 40)
    (model / "blobs").mkdir(parents=True)
    for number, path in enumerate(p for p in folder.rglob("*") if p.is_file()):
        blob = model / "blobs" / str(number)
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert _weights.resolve(str(snapshot)).digest == _weights.resolve(str(folder)).digest


class Canary:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def put_json(path: str, **changes: Any) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        target = folder / path
        content = json.loads(target.read_text()) if target.exists() else {}
        target.write_text(json.dumps(content | changes))

    return change


def put_code(path: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(f"open({str(canary)!r}, 'w')\n")

    return change


def put_pickle(path: str, *, zipped: bool = False) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        data = pickle.dumps(Canary(canary))
        if zipped:
            with zipfile.ZipFile(folder / path, "w") as archive:
                archive.writestr("archive/data.pkl", data)
        else:
            (folder / path).write_bytes(data)

    return change


def put_bytes(path: str, data: bytes) -> Callable[[Path, Path], None]:
    return lambda folder, canary: (folder / path).write_bytes(data) and None


def put_shards(shard: str) -> Callable[[Path, Path], None]:
    index = {"metadata": {}, "weight_map": {"x": shard}}
    return put_json("transformer/diffusion_pytorch_model.safetensors.index.json", **index)


def put_link(path: str, target: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        (folder / path).symlink_to(target)

    return change


def cut_file(path: str, size: int) -> Callable[[Path, Path], None]:
    return lambda folder, canary: os.truncate(folder / path, size)


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ZOO: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "pickle bin": (put_pickle("text_encoder/pytorch_model.bin"), "pickle"),
    "pickle pt": (put_pickle("vae/model.pt"), "pickle"),
    "pickle ckpt": (put_pickle("vae/model.ckpt"), "pickle"),
    "pickle upper case": (put_pickle("vae/MODEL.BIN"), "pickle"),
    "pickle as weights": (put_pickle(WEIGHTS), "pickle"),
    "pickle as .SAFETENSORS": (put_pickle("vae/x.SAFETENSORS"), "pickle"),
    "zip as weights": (put_pickle(WEIGHTS, zipped=True), "zip"),
    "numpy": (put_pickle("vae/x.npy"), "pickle"),
    "pipeline code": (put_code("pipeline.py"), "code"),
    "component code": (put_code("transformer/my_transformer.py"), "code"),
    "code in a new folder": (put_code("extra/x.py"), "code"),
    "shared object": (put_bytes("vae/x.so", b"\x7fELF"), "code"),
    "auto_map": (put_json("text_encoder/config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "auto_map nested": (put_json("vae/config.json", a=[{"b": {"auto_map": ["x"]}}]), "auto_map"),
    "auto_map of a tokenizer": (
        put_json("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        "auto_map",
    ),
    "trust flag": (put_json("transformer/config.json", trust_remote_code=True), "trust_remote"),
    "trust flag nested": (
        put_json("text_encoder_2/config.json", sub={"trust_remote_code": True}),
        "trust_remote",
    ),
    "kernel from the hub": (
        put_json("text_encoder/config.json", _attn_implementation="kernels-x/y"),
        "_attn_implementation",
    ),
    "kernel without underscore": (
        put_json("text_encoder/config.json", attn_implementation_internal="kernels-x/y"),
        "attn_implementation",
    ),
    "weights elsewhere": (
        put_json("text_encoder/config.json", transformers_weights="../../x.safetensors"),
        "transformers_weights",
    ),
    "quantiser": (
        put_json("transformer/config.json", quantization_config={"quant_method": "x"}),
        "quantization_config",
    ),
    "adapter": (put_json("text_encoder/adapter_config.json", base="x"), "elsewhere"),
    "custom pipeline": (put_json("model_index.json", _class_name="MyPipeline"), "MyPipeline"),
    "custom pipeline file": (
        put_json("model_index.json", _class_name=["pipeline", "MyPipeline"]),
        "MyPipeline",
    ),
    "no class": (put_json("model_index.json", _class_name=None), "None"),
    "custom component": (put_json("model_index.json", vae=["my_module", "AutoencoderKL"]), "vae"),
    "unknown component": (
        put_json("model_index.json", helper=["transformers", "AutoModel"]),
        "helper",
    ),
    "other class": (put_json("model_index.json", vae=["diffusers", "AutoModel"]), "vae"),
    "odd entry": (put_json("model_index.json", vae=["diffusers", "AutoencoderKL", "x"]), "vae"),
    "unknown architecture": (
        put_json("text_encoder/config.json", architectures=["EvilModel"]),
        "EvilModel",
    ),
    "unknown class in a part": (put_json("vae/config.json", _class_name="Evil"), "Evil"),
    "unknown tokenizer": (
        put_json("tokenizer/tokenizer_config.json", tokenizer_class="EvilTokenizer"),
        "EvilTokenizer",
    ),
    "shard outside": (put_shards("../../x.safetensors"), "shard"),
    "shard absolute": (put_shards("/etc/x.safetensors"), "shard"),
    "shard of pickle": (put_shards("x.bin"), "shard"),
    "shard missing": (put_shards("x.safetensors"), "shard x.safetensors"),
    "link out": (put_link(WEIGHTS, "/etc/passwd"), "link out"),
    "link up": (put_link("vae/config.json", "../../other"), "link out"),
    "link of a folder": (put_link("more", "/etc"), "link out"),
    "dangling link": (put_link("vae/x.txt", "nowhere"), "regular file"),
    "LFS pointer": (put_bytes(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
    "web page": (put_bytes(WEIGHTS, b"<!DOCTYPE html><title>Sign in</title>"), "web page"),
    "empty": (put_bytes(WEIGHTS, b""), "empty file"),
    "cut": (cut_file(WEIGHTS, 100_000), "cut off"),
    "cut in the header": (cut_file(WEIGHTS, 60), "cut off"),
    "huge header": (
        put_bytes(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}" + b" " * 99),
        "no safe",
    ),
    "config is no JSON": (put_bytes("vae/config.json", b"{"), "no valid JSON"),
    "config is a bomb": (put_bytes("vae/config.json", b"[" * 900_000), "no valid JSON"),
    "config too large": (put_bytes("vae/config.json", b" " * (2**20 + 1)), "too large"),
    "config is no UTF-8": (put_bytes("vae/config.json", b"\xff\xfe{}"), "no valid JSON"),
    "patch is text": (put_json("transformer/config.json", patch_size="2"), "patch_size"),
    "width is negative": (put_json("text_encoder/config.json", hidden_size=-1), "hidden_size"),
    "card is odd": (put_bytes("README.md", b"---\ncreatok_steps: many\n---\n"), "creatok_steps"),
    "size is odd": (put_bytes("README.md", b"---\ncreatok_size: big\n---\n"), "creatok_size"),
}


@pytest.mark.parametrize("name", ZOO)
def test_hostile_and_damaged_folders(folder: Path, tmp_path: Path, name: str) -> None:
    change, said = ZOO[name]
    canary = tmp_path / "canary"
    change(folder, canary)
    before = set(sys.modules)
    with pytest.raises(ArtefactError) as caught:
        _weights.resolve(str(folder))
    assert caught.value.code == 4
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not canary.exists()
    assert not {module for module in set(sys.modules) - before if "transformer" in module}


def test_pipes_and_devices_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "vae" / "pipe.safetensors")
    with pytest.raises(Refused, match="not a regular file"):
        _weights.resolve(str(folder))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_part_without_weights_is_missing(folder: Path, part: str) -> None:
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelMissing, match=f"{part} has no safetensors weights"):
        _weights.resolve(str(folder))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"no model_index\.json"):
        _weights.resolve(str(tmp_path))


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    from creatok_cli.backbones import sd3

    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("text_projection.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    facts = _weights.resolve(str(folder))
    backbone = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32")
    with pytest.raises(ArtefactError, match=r"text_encoder lacks 1 weights.*text_projection"):
        backbone.text.encode(["a"], [])


def test_half_precision_variants_and_shards_are_opened(folder: Path) -> None:
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    from creatok_cli.backbones import sd3

    for kind, part, size in (
        (SD3Transformer2DModel, "transformer", "100KB"),
        (CLIPTextModelWithProjection, "text_encoder_2", "60KB"),
    ):
        model = kind.from_pretrained(folder / part)
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        model.save_pretrained(folder / part, max_shard_size=size)
        assert len(list((folder / part).glob("*.safetensors"))) > 1
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = folder / part / f"{name}.safetensors"
        path.rename(folder / part / f"{name}.fp16.safetensors")
    facts = _weights.resolve(str(folder))
    backbone = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32")
    assert len(backbone.text.encode(["a pig"], [])) == 1
    assert backbone.image.noise([1], (32, 32)).shape == (1, 4, 8, 8)


def test_old_libraries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from creatok_cli.backbones import _diffusers

    _diffusers.prepare_libraries()
    monkeypatch.setattr(
        _diffusers, "version", lambda name: "0.39.9" if name == "diffusers" else "9.0"
    )
    with pytest.raises(Refused, match=r"diffusers 0\.39\.9 is older than 0\.40"):
        _diffusers.prepare_libraries()


def test_devices() -> None:
    import torch

    from creatok_cli.backbones.base import pick_device

    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "mps", "cuda:0")
    if not torch.cuda.is_available():
        for name in ("cuda", "cuda:3"):
            with pytest.raises(CreatokError, match=r"this machine has cpu") as caught:
                pick_device(name)
            assert caught.value.code == 5
    with pytest.raises(UnknownName):
        pick_device("gpu; rm -rf")
