"""LoRA files: names, alphas, identity, and everything hostile refused without torch."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from creatok_cli.errors import ArtefactError, DigestMismatch, Refused, TokenMissing
from creatok_cli.hashing import sha256_hex
from creatok_cli.tokens.lora import LoraHeader, check_lora, is_finite, lora_bytes, read_lora
from tests.fakes.loras import raw
from tests.unit.tokens.kit import token_of

Q = "transformer.blocks.0.attn.to_q"
FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def floats(*shape: int, value: float = 0.5) -> tuple[str, list[int], bytes]:
    """A tensor of one value."""
    count = torch.Size(shape).numel()
    return "F32", list(shape), struct.pack(f"<{count}f", *[value] * count)


def pair(stem: str, down: str, up: str) -> dict[str, tuple[str, list[int], bytes]]:
    return {f"{stem}{down}": floats(2, 8), f"{stem}{up}": floats(6, 2)}


GOOD = pair(Q, ".lora_A.weight", ".lora_B.weight")


def check(
    tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None
) -> LoraHeader:
    return check_lora(raw(tensors, metadata), "x.safetensors")


def test_a_file_tells_what_it_changes(tmp_path: Path) -> None:
    data = raw(GOOD | pair("text_encoder.layers.1.fc1", ".lora_A.weight", ".lora_B.weight"))
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    header = read_lora(path)
    assert header.digest == f"sha256:{sha256_hex(data)}"
    assert header.parts == ("text_encoder", "transformer")
    change = header.changes[1]
    assert (change.part, change.module) == ("transformer", "blocks.0.attn.to_q")
    assert (change.shape, change.rank, change.factor) == ((6, 8), 2, 1.0)


@pytest.mark.parametrize(
    ("stem", "down", "up", "module"),
    [
        ("unet.a.to_q", ".lora.down.weight", ".lora.up.weight", "a.to_q"),
        ("unet.a", ".to_q_lora.down.weight", ".to_q_lora.up.weight", "a.to_q"),
        ("unet.a", ".processor.to_v_lora.down.weight", ".processor.to_v_lora.up.weight", "a.to_v"),
        ("unet.a", ".to_out_lora.down.weight", ".to_out_lora.up.weight", "a.to_out.0"),
        (
            "text_encoder.a.q_proj",
            ".lora_linear_layer.down.weight",
            ".lora_linear_layer.up.weight",
            "a.q_proj",
        ),
    ],
)
def test_older_names_are_read(stem: str, down: str, up: str, module: str) -> None:
    (change,) = check(pair(stem, down, up)).changes
    assert (change.module, change.shape) == (module, (6, 8))


@pytest.mark.parametrize(
    ("stem", "down", "up", "part", "module"),
    [
        ("lora_unet_mid_block_x", ".lora_down", ".lora_up", "denoiser", "mid_block_x"),
        ("lora_transformer_x_attn", ".lora_down", ".lora_up", "denoiser", "x_attn"),
        ("lora_te_text_model_x", ".lora_down", ".lora_up", "text_encoder", "text_model_x"),
        ("lora_te1_x_fc1", ".lora_down", ".lora_up", "text_encoder", "x_fc1"),
        ("lora_te2_x_fc1", ".lora_down", ".lora_up", "text_encoder_2", "x_fc1"),
        ("lora_te3_x_fc1", ".lora_down", ".lora_up", "text_encoder_3", "x_fc1"),
        ("diffusion_model.x.y", ".lora_A", ".lora_B", "denoiser", "x.y"),
        ("diffusion_model.x.y", ".lora_down", ".lora_up", "denoiser", "x.y"),
        ("base_model.model.x.y", ".lora_A", ".lora_B", "denoiser", "x.y"),
        ("text_encoders.clip_g.transformer.x", ".lora_A", ".lora_B", "text_encoder_2", "x"),
        (
            "double_blocks.3.processor",
            *(".qkv_lora1.down", ".qkv_lora1.up"),
            *("denoiser", "double_blocks.3.img_attn.qkv"),
        ),
        (
            "diffusion_model.single_blocks.3.processor",
            *(".proj_lora.down", ".proj_lora.up"),
            *("denoiser", "single_blocks.3.processor.proj"),
        ),
    ],
)
def test_names_of_other_trainers_are_read(
    stem: str, down: str, up: str, part: str, module: str
) -> None:
    (change,) = check(pair(stem, f"{down}.weight", f"{up}.weight")).changes
    assert (change.part, change.module, change.shape) == (part, module, (6, 8))


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        *(("F64", struct.pack("<d", 4.0)), ("I64", struct.pack("<q", 4))),
        *(("I32", struct.pack("<i", 4)), ("F16", struct.pack("<e", 4.0))),
    ],
)
def test_alphas_of_kohya_are_numbers_of_any_kind(dtype: str, data: bytes) -> None:
    tensors = pair("lora_unet_x", ".lora_down.weight", ".lora_up.weight")
    tensors["lora_unet_x.alpha"] = (dtype, [], data)
    assert check(tensors).changes[0].factor == 2.0


def test_convolutions_are_read() -> None:
    tensors = {
        "unet.conv.lora_A.weight": floats(2, 4, 3, 3),
        "unet.conv.lora_B.weight": floats(5, 2, 1, 1),
    }
    assert check(tensors).changes[0].shape == (5, 4, 3, 3)


@pytest.mark.parametrize(
    "alpha", [struct.pack("<f", 4.0), struct.pack("<e", 4.0), b"\x80\x40"], ids=["f32", "f16", "b"]
)
def test_an_alpha_key_gives_the_factor(alpha: bytes) -> None:
    dtype = "F32" if len(alpha) == 4 else "BF16" if alpha == b"\x80\x40" else "F16"
    assert check(GOOD | {f"{Q}.alpha": (dtype, [], alpha)}).changes[0].factor == 2.0


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"transformer.lora_alpha": 8}, 4.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 8 / 2**0.5),
        (
            {"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_q": 1}},
            0.5,
        ),
        (
            {
                "transformer.lora_alpha": 8,
                "transformer.alpha_pattern": {"^blocks.0.attn.to_q": 3, "to_k": 1},
            },
            1.5,
        ),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_settings_of_peft_give_the_factor(settings: dict[str, object], factor: float) -> None:
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    assert check(GOOD, metadata).changes[0].factor == pytest.approx(factor)


ALPHA = {f"{Q}.alpha": floats(value=float("nan"))}
BAD = {
    "no tensors": raw({}),
    "another weight": raw(GOOD | {"transformer.norm.weight": floats(3)}),
    "a whole model": raw({"blocks.0.attn.to_q.weight": floats(8, 8)}),
    "one half": raw({f"{Q}.lora_A.weight": floats(2, 8)}),
    "two names for one half": raw(GOOD | {f"{Q}.lora.down.weight": floats(2, 8)}),
    "ranks differ": raw({f"{Q}.lora_A.weight": floats(2, 8), f"{Q}.lora_B.weight": floats(6, 3)}),
    "no rank": raw({f"{Q}.lora_A.weight": floats(0, 8), f"{Q}.lora_B.weight": floats(6, 0)}),
    "a vector": raw({f"{Q}.lora_A.weight": floats(2), f"{Q}.lora_B.weight": floats(6, 2)}),
    "half a convolution": raw(
        {f"{Q}.lora_A.weight": floats(2, 8, 3, 3), f"{Q}.lora_B.weight": floats(6, 2)}
    ),
    "wide convolution": raw(
        {f"{Q}.lora_A.weight": floats(2, 8, 1, 1), f"{Q}.lora_B.weight": floats(6, 2, 3, 3)}
    ),
    "double": raw(GOOD | {f"{Q}.lora_A.weight": ("F64", [2, 8], bytes(128))}),
    "truth as alpha": raw(GOOD | {f"{Q}.alpha": ("BOOL", [], bytes(1))}),
    "endless double as alpha": raw(GOOD | {f"{Q}.alpha": ("F64", [], struct.pack("<d", 1e300))}),
    "whole numbers": raw({k: ("I32", s, d) for k, (_, s, d) in GOOD.items()}),
    "NaN": raw(GOOD | {f"{Q}.lora_A.weight": floats(2, 8, value=float("nan"))}),
    "infinity": raw(GOOD | {f"{Q}.lora_B.weight": floats(6, 2, value=float("-inf"))}),
    "NaN as alpha": raw(GOOD | ALPHA),
    "alpha of several": raw(GOOD | {f"{Q}.alpha": floats(2)}),
    "alpha alone": raw(GOOD | {"transformer.other.alpha": floats()}),
    "kernel in three factors": raw(
        pair("lora_unet_a", ".lora_down.weight", ".lora_up.weight")
        | {"lora_unet_a.lora_mid.weight": floats(2, 2, 3, 3)}
    ),
    "a difference": raw({"lora_unet_a.diff": floats(2, 8)}),
    "no module of kohya": raw(pair("lora_unet_", ".lora_down.weight", ".lora_up.weight")),
    "one module, two trainers": raw(
        pair("lora_te_a", ".lora_down.weight", ".lora_up.weight")
        | pair("lora_te1_a", ".lora_down.weight", ".lora_up.weight")
    ),
    "DoRA": raw(GOOD | {f"{Q}.dora_scale": floats(6)}),
    "LoKr": raw({f"{Q}.lokr_w1": floats(2, 2)}),
    "bias": raw(GOOD | {f"{Q}.lora_B.bias": floats(6)}),
    "no module": raw(pair("transformer", ".lora_A.weight", ".lora_B.weight")),
    "path as module": raw(pair("transformer.../x", ".lora_A.weight", ".lora_B.weight")),
    "control character": raw(pair("transformer.a\nb", ".lora_A.weight", ".lora_B.weight")),
    "long name": raw(pair(f"transformer.{'a' * 400}", ".lora_A.weight", ".lora_B.weight")),
    "deep name": raw(pair(f"transformer{'.a' * 60}", ".lora_A.weight", ".lora_B.weight")),
    "settings no JSON": raw(GOOD, {"lora_adapter_metadata": "[" * 100_000}),
    "settings a list": raw(GOOD, {"lora_adapter_metadata": "[]"}),
    "settings of DoRA": raw(GOOD, {"lora_adapter_metadata": '{"transformer.use_dora": true}'}),
    "alpha as text": raw(GOOD, {"lora_adapter_metadata": '{"transformer.lora_alpha": "x"}'}),
    "alpha as truth": raw(GOOD, {"lora_adapter_metadata": '{"transformer.lora_alpha": true}'}),
    "endless alpha": raw(GOOD, {"lora_adapter_metadata": '{"transformer.lora_alpha": 1e999}'}),
    "huge alpha": raw(GOOD, {"lora_adapter_metadata": f'{{"transformer.lora_alpha": {10**400}}}'}),
    "pickle": b"\x80\x04" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
    "web page": b"<!DOCTYPE html><html></html>" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_usable_lora_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(BAD[name])
    with pytest.raises(Refused) as caught:
        read_lora(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < len(str(path)) + 400
    assert "\n" not in message


def test_damage_is_told_from_refusal(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(GOOD)[:-3])
    with pytest.raises(DigestMismatch, match="cut off"):
        read_lora(path)
    with pytest.raises(TokenMissing, match="no such LoRA file"):
        read_lora(tmp_path / "y.safetensors")
    os.mkfifo(tmp_path / "f")
    with pytest.raises(Refused, match="not a regular file"):
        read_lora(tmp_path / "f")
    with pytest.raises(ArtefactError):
        read_lora(tmp_path)


def test_a_file_beyond_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(GOOD))
    monkeypatch.setattr("creatok_cli.tokens.lora.MAX_LORA_BYTES", 100)
    with pytest.raises(Refused, match="too large for a LoRA"):
        read_lora(path)


def test_a_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(GOOD))
    first = read_lora(path)
    with monkeypatch.context() as patch:
        patch.setattr("creatok_cli.tokens.lora.read_changes", None)
        assert read_lora(path) is first
    os.utime(path, ns=(1, 1))
    assert read_lora(path) is not first
    path.write_bytes(raw(pair("unet.x", ".lora_A.weight", ".lora_B.weight")))
    assert read_lora(path).parts == ("unet",)


def test_a_token_is_told_where_it_belongs(tmp_path: Path) -> None:
    from creatok_cli.tokens.file import save_token

    save_token(tmp_path / "t.safetensors", token_of({"clip_l": 16}))
    with pytest.raises(Refused, match="declare it under tokens"):
        read_lora(tmp_path / "t.safetensors")


def test_equal_weights_give_equal_bytes() -> None:
    draw = torch.Generator().manual_seed(1)
    tensors = {
        f"{Q}.lora_A.weight": torch.randn((2, 8), generator=draw),
        f"{Q}.lora_B.weight": torch.randn((6, 2), generator=draw),
    }
    data = lora_bytes(tensors, {"seed": 3}, title="scales")
    again = lora_bytes(dict(reversed(tensors.items())), {"seed": 3}, title="scales")
    assert data == again
    header = check_lora(data, "x")
    assert json.loads(header.metadata["creatok.recipe"]) == {"seed": 3}
    assert header.metadata["modelspec.title"] == "scales"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_packed(value: float) -> None:
    tensors = {
        f"{Q}.lora_A.weight": torch.full((2, 8), value),
        f"{Q}.lora_B.weight": torch.zeros((6, 2)),
    }
    with pytest.raises(Refused, match="not finite"):
        lora_bytes(tensors, {}, title="x")


@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=64))
def test_finite_means_what_torch_says(dtype: str, data: bytes) -> None:
    data = data[: len(data) // 4 * 4]
    if data:
        plain = torch.frombuffer(bytearray(data), dtype=FORMATS[dtype])
        assert is_finite(dtype, data) is bool(plain.isfinite().all())


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(GOOD))
    code = (
        "import sys; from creatok_cli.tokens.lora import read_lora; "
        "read_lora(sys.argv[1]); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
