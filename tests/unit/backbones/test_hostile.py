"""More of the zoo of hostile folders (T2), and the files that published repositories really hold.

`test_weights.py` has the first part. Everything is refused with exit 4, by name, and no canary is
ever made; what is passed over because nothing opens it stays closed when every part is loaded.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import registry
from creatok_cli.backbones import _fetch, _vet, _weights
from creatok_cli.backbones._hub import Listing, RemoteFile
from creatok_cli.errors import ArtefactError, ModelMissing, Refused

COMMIT = "a" * 40
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"


class Canary:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def folder(tiny_sd3: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_sd3, tmp_path / "base"))


def text(path: str, content: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)

    return change


def pickled(path: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(pickle.dumps(Canary(canary)))

    return change


def changed(path: str, **values: Any) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(content | values))

    return change


def doubled(path: str, line: str) -> Callable[[Path, Path], None]:
    """A key twice: readers differ in which one they take."""

    def change(folder: Path, canary: Path) -> None:
        content = (folder / path).read_text()
        (folder / path).write_text("{" + line + "," + content.lstrip()[1:])

    return change


def header(entries: dict[str, Any], payload: bytes = b"") -> Callable[[Path, Path], None]:
    """A weight file with this header."""

    def change(folder: Path, canary: Path) -> None:
        head = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + payload)

    return change


def entry(first: int, last: int, shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": "U8", "shape": shape or [last - first], "data_offsets": [first, last]}


def linked(path: str, target: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, canary: Path) -> None:
        shutil.rmtree(folder / path, ignore_errors=True)
        (folder / path).unlink(missing_ok=True)
        (folder / path).symlink_to(target)

    return change


def plugged(folder: Path, canary: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as plug:
        old = os.getcwd()
        os.chdir(folder / "vae")
        try:
            plug.bind("plug")
        finally:
            os.chdir(old)


def headless(folder: Path, canary: Path) -> None:
    """A header that fills the memory before anything is known of it."""
    size = _vet.MAX_HEADER_BYTES + 1
    with (folder / WEIGHTS).open("wb") as file:
        file.write(size.to_bytes(8, "little") + b"{")
        file.truncate(size + 100)


MILLION = "{" + ",".join(f'"k{n}":1' for n in range(1_000_000)) + "}"
ZOO: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "pickle in a folder below": (pickled("transformer/more/x.pkl"), "pickle"),
    "pickle in a twin of a part": (pickled("TRANSFORMER/pytorch_model.bin"), "pickle"),
    "pickle for joblib": (pickled("vae/x.joblib"), "pickle"),
    "pickle for torch": (pickled("vae/x.pth"), "pickle"),
    "pickle as half weights": (
        pickled("transformer/diffusion_pytorch_model.fp16.safetensors"),
        "pickle",
    ),
    "pickle as a config": (pickled("vae/config.json"), "pickle"),
    "pickle as the index": (pickled("model_index.json"), "pickle"),
    "pickle as a tokenizer": (pickled("tokenizer/tokenizer.json"), "pickle"),
    "pickle in a judge": (pickled("judge/pytorch_model.bin"), "pickle"),
    "flag in an image tower": (
        text("image_encoder_l/config.json", '{"auto_map": {"AutoModel": "x.Y"}}'),
        "auto_map",
    ),
    "code below a part": (text("vae/more/x.py", "x"), "code"),
    "code beside": (text("conversion/run.sh", "x"), "code"),
    "byte code": (text("vae/x.pyc", "x"), "code"),
    "LoRA as a part": (text("transformer/adapter_model.safetensors", "x"), "elsewhere"),
    "adapter outside": (text("x/adapter_config.json", "{}"), "elsewhere"),
    "class twice": (doubled("vae/config.json", '"_class_name":"Evil"'), "twice"),
    "class twice in the index": (doubled("model_index.json", '"_class_name":"Evil"'), "twice"),
    "flag twice": (
        doubled("text_encoder/config.json", '"auto_map":{"A":"b"},"auto_map":null'),
        "twice",
    ),
    "kernel nested": (
        changed("text_encoder/config.json", sub=[{"_attn_implementation": "a/b"}]),
        "_attn_implementation",
    ),
    "kernel in capitals": (changed("vae/config.json", _Attn_Implementation="a/b"), "_Attn"),
    "experts": (changed("transformer/config.json", experts_implementation="a/b"), "experts"),
    "custom generation": (changed("text_encoder/config.json", custom_generate="x"), "custom"),
    "trust as text": (changed("vae/config.json", trust_remote_code="yes"), "trust_remote"),
    "flag of the index": (changed("model_index.json", trust_remote_code=True), "trust_remote"),
    "unknown library": (changed("model_index.json", vae=["os", "AutoencoderKL"]), "vae"),
    "library of the folder": (changed("model_index.json", vae=["vae", "AutoencoderKL"]), "vae"),
    "part with a path": (
        changed("model_index.json", **{"../vae": ["diffusers", "AutoencoderKL"]}),
        "../vae",
    ),
    "class is a list": (changed("vae/config.json", _class_name=["x", "AutoencoderKL"]), "class"),
    "class of another part": (
        changed("model_index.json", vae=["diffusers", "SD3Transformer2DModel"]),
        "vae",
    ),
    "unknown scheduler": (
        changed("scheduler/scheduler_config.json", _class_name="EvilScheduler"),
        "EvilScheduler",
    ),
    "shard absolute": (text(INDEX, '{"weight_map": {"x": "/etc/passwd.safetensors"}}'), "shard"),
    "shard of Windows": (text(INDEX, '{"weight_map": {"x": "C:\\\\x.safetensors"}}'), "shard"),
    "shard in a folder": (text(INDEX, '{"weight_map": {"x": "a/b.safetensors"}}'), "shard"),
    "shard of half weights": (
        text(INDEX.replace(".json", ".fp16.json"), '{"weight_map": {"x": "../x.safetensors"}}'),
        "shard",
    ),
    "shards are a list": (text(INDEX, '{"weight_map": ["x"]}'), "shard"),
    "index without end": (text(INDEX, " " * (_vet.MAX_INDEX_BYTES + 1)), "too large"),
    "a million keys": (text("vae/config.json", MILLION), "too large"),
    "a million shards": (text(INDEX, '{"weight_map":' + MILLION + "}"), "too large"),
    "deep word list": (text("tokenizer/vocab.json", "[" * 200_000), "no valid JSON"),
    "deep tokenizer": (text("tokenizer/tokenizer.json", '{"a":' * 200_000), "no valid JSON"),
    "number without end": (text("vae/config.json", '{"a":' + "9" * 9999 + "}"), "no valid JSON"),
    "layers without end": (changed("transformer/config.json", num_layers=10**9), "num_layers"),
    "layers hidden in a list": (
        changed("transformer/config.json", dual_attention_layers=[10**6]),
        "dual_attention_layers",
    ),
    "words without end": (changed("text_encoder/config.json", vocab_size=2**40), "vocab_size"),
    "blocks without end": (changed("vae/config.json", block_out_channels=[1] * 9999), "list"),
    "steps without end": (
        changed("scheduler/scheduler_config.json", num_train_timesteps=10**15),
        "num_train_timesteps",
    ),
    "header of 16 MiB": (headless, "header"),
    "tensors that overlap": (header({"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12), "overlap"),
    "tensors with a gap": (header({"a": entry(0, 4), "b": entry(8, 12)}, b"x" * 12), "gap"),
    "bytes after the end": (header({"a": entry(0, 4)}, b"x" * 12), "longer"),
    "tensor twice": (
        lambda folder, canary: (
            (folder / WEIGHTS).write_bytes(
                (35).to_bytes(8, "little") + b'{"a":{},"a":{},"b":{},"c":{}}'.ljust(35)
            )
            and None
        ),
        "twice",
    ),
    "shape that lies": (header({"a": entry(0, 4, [2**20])}, b"x" * 4), "malformed"),
    "link to a folder inside": (linked("vae", "text_encoder"), "regular file"),
    "link in a circle": (linked("vae/config.json", "config.json"), "regular file"),
    "link to the folder above": (linked("more", ".."), "link out"),
    "socket": (plugged, "regular file"),
    "pointer as a config": (
        text("vae/config.json", "version https://git-lfs.github.com/spec/v1\n"),
        "LFS",
    ),
    "web page as the index": (text("model_index.json", "<!DOCTYPE html>"), "web page"),
    "index is a list": (text("model_index.json", "[]"), "None"),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(folder: Path, tmp_path: Path, name: str) -> None:
    change, said = ZOO[name]
    canary = tmp_path / "canary"
    change(folder, canary)
    with pytest.raises(ArtefactError, match=said) as caught:
        _weights.resolve(str(folder))
    assert caught.value.code == 4
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not canary.exists()


def test_a_note_of_older_transformers_is_no_kernel(folder: Path) -> None:
    changed("text_encoder/config.json", _attn_implementation_autoset=True)(folder, folder)
    assert _weights.resolve(str(folder))


def test_a_snapshot_may_not_link_into_another_repository(tiny_sd3: Path, tmp_path: Path) -> None:
    mine = in_the_cache(tiny_sd3, tmp_path)
    other = tmp_path / "models--owner--other" / "blobs"
    other.mkdir(parents=True)
    shutil.move(mine / WEIGHTS, other / "x")
    (mine / WEIGHTS).symlink_to(other / "x")
    with pytest.raises(Refused, match="link out"):
        _weights.resolve(str(mine))
    shared = tmp_path / "blobs" / "ab"  # of huggingface_hub 2: one store for all repositories
    shared.mkdir(parents=True)
    shutil.move(other / "x", shared / "x")
    (mine / WEIGHTS).unlink()
    (mine / WEIGHTS).symlink_to(shared / "x")
    assert _weights.resolve(str(mine))


# Published repositories: names of files as they are on the Hub.

HALF = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
TEXT_HALF = ("model.safetensors", "model.fp16.safetensors")
BINS = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin")
TEXT_BINS = ("pytorch_model.bin", "pytorch_model.fp16.bin")
CLIP_WORDS = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
T5_WORDS = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
T5_SHARDS = (
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    "model.safetensors.index.json",
)
T5_HALF = (
    *("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"),
    "model.safetensors.index.fp16.json",
)
OPENVINO = ("openvino_model.bin", "openvino_model.xml")
PUBLISHED: dict[str, dict[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {
        "": (
            *("README.md", "model_index.json", "v1-inference.yaml"),
            *("v1-5-pruned-emaonly.ckpt", "v1-5-pruned-emaonly.safetensors"),
            *("v1-5-pruned.ckpt", "v1-5-pruned.safetensors"),
        ),
        "feature_extractor": ("preprocessor_config.json",),
        "safety_checker": ("config.json", *TEXT_HALF, *TEXT_BINS),
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ("config.json", *TEXT_HALF, *TEXT_BINS),
        "tokenizer": CLIP_WORDS,
        "unet": (
            *("config.json", *HALF, *BINS),
            *("diffusion_pytorch_model.non_ema.bin", "diffusion_pytorch_model.non_ema.safetensors"),
        ),
        "vae": ("config.json", *HALF, *BINS),
    },
    "StableDiffusionXLPipeline": {
        "": (
            *("01.png", "LICENSE.md", "README.md", "comparison.png", "model_index.json"),
            *("pipeline.png", "sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"),
            "sd_xl_offset_example-lora_1.0.safetensors",
        ),
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ("config.json", "flax_model.msgpack", *TEXT_HALF, "model.onnx", *OPENVINO),
        "text_encoder_2": (
            *("config.json", "flax_model.msgpack", *TEXT_HALF),
            *("model.onnx", "model.onnx_data", *OPENVINO),
        ),
        "tokenizer": CLIP_WORDS,
        "tokenizer_2": CLIP_WORDS,
        "unet": (
            *("config.json", "diffusion_flax_model.msgpack", *HALF),
            *("model.onnx", "model.onnx_data", *OPENVINO),
        ),
        "vae": ("config.json", "diffusion_flax_model.msgpack", *HALF),
        "vae_1_0": ("config.json", *HALF),
        "vae_decoder": ("config.json", "model.onnx", *OPENVINO),
        "vae_encoder": ("config.json", "model.onnx", *OPENVINO),
    },
    "StableDiffusion3Pipeline": {
        "": ("LICENSE.md", "README.md", "mmdit.png", "model_index.json", "sd3demo.jpg"),
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ("config.json", *TEXT_HALF),
        "text_encoder_2": ("config.json", *TEXT_HALF),
        "text_encoder_3": ("config.json", *T5_SHARDS, *T5_HALF),
        "tokenizer": CLIP_WORDS,
        "tokenizer_2": CLIP_WORDS,
        "tokenizer_3": T5_WORDS,
        "transformer": ("config.json", HALF[0]),
        "vae": ("config.json", HALF[0]),
    },
    "FluxPipeline": {
        "": (
            *("LICENSE.md", "README.md", "ae.safetensors", "dev_grid.jpg"),
            *("flux1-dev.safetensors", "model_index.json"),
        ),
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ("config.json", "model.safetensors"),
        "text_encoder_2": ("config.json", *T5_SHARDS),
        "tokenizer": CLIP_WORDS,
        "tokenizer_2": T5_WORDS,
        "transformer": (
            "config.json",
            *(f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
            "diffusion_pytorch_model.safetensors.index.json",
        ),
        "vae": ("config.json", HALF[0]),
    },
    "KandinskyV22Pipeline": {
        "": ("README.md", "model_index.json"),
        "movq": ("config.json", HALF[0], BINS[0]),
        "scheduler": ("scheduler_config.json",),
        "unet": ("config.json", HALF[0], BINS[0]),
    },
    "KandinskyV22PriorPipeline": {
        "": ("README.md", "model_index.json"),
        "image_encoder": ("config.json", "model.safetensors", "pytorch_model.bin"),
        "image_processor": ("preprocessor_config.json",),
        "prior": ("config.json", HALF[0], BINS[0]),
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ("config.json", "model.safetensors", "pytorch_model.bin"),
        "tokenizer": CLIP_WORDS,
    },
}
UNOPENED = (
    *(".bin", ".ckpt", ".msgpack", ".onnx", ".onnx_data", ".xml", ".png", ".jpg", ".yaml"),
    *(".fp16.safetensors", ".non_ema.safetensors", ".index.fp16.json"),
)


def published(pipeline: str) -> list[str]:
    """Relative names of all files of a published repository."""
    parts = PUBLISHED[pipeline]
    return [f"{part}/{name}".lstrip("/") for part, names in parts.items() for name in names]


def parts_of(pipeline: str) -> dict[str, Any]:
    """What the family opens of such a repository."""
    for name in registry.names("backbones"):
        facts = registry.describe("backbones", name).facts
        if facts.get("PIPELINE") == pipeline and "ADAPTER" not in facts:
            return dict(facts["PARTS"])
        if facts.get("PRIOR_PIPELINE") == pipeline:
            return dict(facts["PRIOR_PARTS"])
    raise LookupError(pipeline)


@pytest.mark.parametrize("pipeline", PUBLISHED)
def test_of_a_published_repository_only_what_is_opened_is_fetched(pipeline: str) -> None:
    names, parts = published(pipeline), parts_of(pipeline)
    index = {
        part: ["diffusers", kinds[0]]
        for part, kinds in parts.items()
        if part in PUBLISHED[pipeline]
    }
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    listing = Listing(
        repo="owner/x",
        commit=COMMIT,
        licence="mit",
        files={each: RemoteFile(name=each, size=9, digest=COMMIT) for each in names},
    )
    wish = _fetch._wish("owner/x@main", listing, index, parts)
    got = {file.name for file in wish.files}
    assert wish.files[-1].name == "model_index.json"
    left = set(names) - got
    opened = {name for name in names if name.partition("/")[0] in index} - {
        name for name in names if name.startswith("safety_checker/")
    }
    for name in opened:
        is_left = name.endswith(UNOPENED) or ".fp16" in name
        assert (name in got) is not is_left, name
    assert {name for name in names if "/" not in name} & left == {
        name for name in names if "/" not in name
    } - {"README.md", "LICENSE.md", "model_index.json"}
    without = {n: f for n, f in listing.files.items() if not n.endswith(".safetensors")}
    bare = Listing(repo="owner/x", commit=COMMIT, licence="mit", files=without)
    with pytest.raises(ModelMissing, match="no safetensors weights"):
        _fetch._wish("owner/x@main", bare, index, parts)


def in_the_cache(folder: Path, cache: Path, name: str = "owner--tiny") -> Path:
    """A copy of a folder as a snapshot of the Hub's cache."""
    return Path(shutil.copytree(folder, cache / f"models--{name}" / "snapshots" / COMMIT))


def litter(folder: Path, names: list[str], canary: Path) -> list[str]:
    """Put every published file that is not there into a folder; says which may be pickles."""
    bait = pickle.dumps(Canary(canary))
    pickles = []
    for name in names:
        path = folder / name
        is_there = path.exists() or not name.endswith((*UNOPENED, ".safetensors"))
        if is_there or "-of-" in name or name.endswith(".json"):
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bait)
        if path.suffix in _vet.PICKLES:
            pickles.append(name)
        if name.endswith(".fp16.safetensors"):
            twin = path.with_name(path.name.replace(".fp16", ""))
            shutil.copy(twin, path)
        elif "/" in name and name.endswith(".non_ema.safetensors"):
            shutil.copy(path.with_name(path.name.replace(".non_ema", "")), path)
    return pickles


@pytest.mark.parametrize("pipeline", [each for each in PUBLISHED if "Prior" not in each])
def test_what_lies_beside_a_published_model_changes_nothing(
    tiny_base: Callable[[str], Path], tmp_path: Path, pipeline: str
) -> None:
    canary = tmp_path / "canary"
    clean = tiny_base(pipeline)
    digest = _weights.resolve(str(clean)).digest
    plain = Path(shutil.copytree(clean.parent, tmp_path / "plain")) / clean.name
    pickles = litter(plain, published(pipeline), canary)
    inside = [name for name in pickles if name.partition("/")[0] in parts_of(pipeline)]
    if inside:
        with pytest.raises(Refused, match="delete it; its part has safetensors"):
            _weights.resolve(str(plain))
    else:
        assert _weights.resolve(str(plain)).digest == digest
    for name in inside:
        (plain / name).unlink()
    assert _weights.resolve(str(plain)).digest == digest
    assert not canary.exists()


def test_in_the_cache_of_the_hub_pickles_stay_closed(
    tiny_base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    from creatok_cli.backbones._diffusers import load_part, load_rows, prepare_libraries

    prepare_libraries()
    canary = tmp_path / "canary"
    clean = tiny_base("StableDiffusionPipeline")
    folder = in_the_cache(clean, tmp_path)
    assert litter(folder, published("StableDiffusionPipeline"), canary)
    facts = _weights.resolve(str(folder))
    assert facts.digest == _weights.resolve(str(clean)).digest
    _weights.check_unchanged(facts)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    for part, kind in kinds.items():
        model = load_part(kind, str(folder), part, dtype="fp32", device="cpu")
        assert next(model.parameters()).dtype == torch.float32
        # Without its safetensors the part is refused: the pickle beside it is no way out.
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        with pytest.raises(ModelMissing, match=f"{part} has no safetensors weights"):
            load_part(kind, str(folder), part, dtype="fp32", device="cpu")
        with pytest.raises(Refused, match="use safetensors only"):
            _weights.resolve(str(folder))
    with pytest.raises(ArtefactError):
        load_rows(str(folder), "text_encoder", ["x"], [0])
    assert not canary.exists()
