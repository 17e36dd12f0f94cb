"""LoRAs of other trainers: the same weights as diffusers makes of them, on small real classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from creatok_cli.backbones._lora import wear
from creatok_cli.backbones._lora_names import Modules
from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.lora import DENOISER, LowRank
from tests.fakes.loras import kohya, kohya_weights, original
from tests.tiny import _clip

ORIGINAL = partial(original, per_block=3)


def unet(kind: str) -> Any:
    """A UNet with the blocks of SD1.5 or SDXL."""
    from diffusers import UNet2DConditionModel

    common = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
        "attention_head_dim": 4,
    }
    own: dict[str, Any] = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 48,
    }
    if kind == "sd15":
        own = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return UNet2DConditionModel(**common, **own).eval()


def pipeline(kind: str) -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    parts: dict[str, Any] = {
        "vae": None,
        "tokenizer": None,
        "scheduler": PNDMScheduler(steps_offset=1),
    }
    parts |= {"unet": unet(kind), "text_encoder": _clip(16, 2, 40, 39)}
    if kind == "sd15":
        more = {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**parts, **more, requires_safety_checker=False)
    parts |= {"text_encoder_2": _clip(24, 3, 40, 39), "tokenizer_2": None}
    return StableDiffusionXLPipeline(**parts)


def fused(pipe: Any, files: list[tuple[Path, float]]) -> Any:
    """The pipeline with LoRAs as diffusers reads and fuses them."""
    names = [f"lora{at}" for at in range(len(files))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for name, (path, _) in zip(names, files, strict=True):
            pipe.load_lora_weights(str(path), adapter_name=name)
    pipe.set_adapters(names, [scale for _, scale in files])
    pipe.fuse_lora(adapter_names=names)
    pipe.unload_lora_weights()
    return pipe


def check_equal(pipe: Any, files: list[tuple[Path, float]]) -> None:
    """Every part that diffusers changes becomes the same in our hands, and is changed."""
    parts = [part for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)]
    ours = {part: copy.deepcopy(getattr(pipe, part)).float() for part in parts}
    plain = {part: copy.deepcopy(model.state_dict()) for part, model in ours.items()}
    for part, model in ours.items():
        wear(model, part, [(str(path), scale) for path, scale in files])
    fused(pipe, files)
    for part, model in ours.items():
        theirs = getattr(pipe, part).state_dict()
        moved = 0.0
        for name, weight in model.state_dict().items():
            assert (weight - theirs[name]).abs().max() < 1e-5, (part, name)
            moved = max(moved, float((weight - plain[part][name]).abs().max()))
        assert moved > 0.1, part


def test_kohya_on_sd15_equals_diffusers(tmp_path: Path) -> None:
    pipe = pipeline("sd15")
    both = kohya_weights(pipe.unet, "lora_unet_", str, rank=3, seed=0)
    both |= kohya_weights(pipe.text_encoder, "lora_te_", str, rank=2, seed=1)
    save_file(both, tmp_path / "one.safetensors")
    # As LCM-LoRA and Hyper-SD: no text encoder, half precision.
    few = {
        k: v.half() for k, v in kohya_weights(pipe.unet, "lora_unet_", str, rank=4, seed=2).items()
    }
    save_file(few, tmp_path / "few.safetensors")
    check_equal(pipe, [(tmp_path / "few.safetensors", 0.7), (tmp_path / "one.safetensors", -1.5)])


def test_kohya_on_sdxl_equals_diffusers_under_names_of_the_original_unet(tmp_path: Path) -> None:
    pipe = pipeline("sdxl")
    both = kohya_weights(pipe.unet, "lora_unet_", ORIGINAL, rank=3, seed=0)
    both |= kohya_weights(pipe.text_encoder, "lora_te1_", str, rank=2, seed=1)
    both |= kohya_weights(pipe.text_encoder_2, "lora_te2_", str, rank=2, seed=2)
    save_file(both, tmp_path / "sgm.safetensors")
    plain = kohya_weights(pipe.unet, "lora_unet_", str, rank=4, seed=2)
    # Diffusers drops these, with a warning; trainers write them under the original names.
    plain = {name: each for name, each in plain.items() if "add_embedding" not in name}
    save_file(plain, tmp_path / "plain.safetensors")
    check_equal(pipe, [(tmp_path / "sgm.safetensors", 1.0), (tmp_path / "plain.safetensors", 0.5)])


def test_every_matrix_of_the_unet_is_found_under_both_names() -> None:
    for kind in ("sd15", "sdxl"):
        shapes = shapes_of(unet(kind))
        modules = Modules(shapes)
        for name, shape in shapes.items():
            if "norm" in name or (kind == "sd15" and name.startswith("add_embedding")):
                continue
            for spelling in (name, kohya(name), ORIGINAL(name), kohya(ORIGINAL(name))):
                (piece,) = modules.pieces(change(spelling, shape))
                assert (piece.module, piece.at, piece.first, piece.last) == (name, 0, 0, shape[0])


def test_a_kernel_of_one_pixel_is_a_matrix(tmp_path: Path) -> None:
    """SD1.5 has convolutions where SDXL has matrices; trainers write either for both."""
    name = "down_blocks.0.attentions.0.proj_in"
    model = unet("sd15")
    before = model.get_submodule(name).weight.clone()
    down, up = torch.ones((1, 8)), torch.full((8, 1), 0.5)
    stem = f"lora_unet_{kohya(name)}"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    save_file(tensors, tmp_path / "x.safetensors")
    wear(model, "unet", [(str(tmp_path / "x.safetensors"), 1.0)])
    assert torch.allclose(model.get_submodule(name).weight, before + 0.5)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(layer.weight.shape)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }


def change(module: str, shape: tuple[int, ...]) -> LowRank:
    return LowRank(DENOISER, module, "", "", shape, 1, 1.0)


def weights(names: dict[str, int]) -> dict[str, torch.Tensor]:
    """A checkpoint of matrices [rows 2] under these names, with biases."""
    draw = torch.Generator().manual_seed(0)
    found = {
        f"{name}.weight": torch.randn((rows, 2), generator=draw) for name, rows in names.items()
    }
    return found | {f"{name}.bias": torch.zeros(rows) for name, rows in names.items()}


def flux_checkpoint() -> dict[str, torch.Tensor]:
    """FLUX as its authors name it. The converter knows the width 3072 by heart."""
    names = {"img_in": 2, "txt_in": 2, "final_layer.linear": 3, "final_layer.adaLN_modulation.1": 4}
    for of in ("time", "vector", "guidance"):
        names |= {f"{of}_in.in_layer": 2, f"{of}_in.out_layer": 2}
    more = {}
    for stream in ("img", "txt"):
        begin = f"double_blocks.0.{stream}_"
        names |= {f"{begin}attn.qkv": 6, f"{begin}attn.proj": 2, f"{begin}mod.lin": 12}
        names |= {f"{begin}mlp.0": 8, f"{begin}mlp.2": 2}
        more |= {f"{begin}attn.norm.{kind}_norm.scale": torch.ones(2) for kind in ("query", "key")}
    single = "single_blocks.0."
    names |= {f"{single}linear1": 7 * 3072, f"{single}linear2": 2, f"{single}modulation.lin": 6}
    more |= {f"{single}norm.{kind}_norm.scale": torch.ones(2) for kind in ("query", "key")}
    return weights(names) | more


def sd3_checkpoint() -> dict[str, torch.Tensor]:
    """SD3.5-medium as its authors name it: the first block has a second attention, the last one no
    output for words.
    """
    names = {"x_embedder.proj": 2, "context_embedder": 2, "final_layer.linear": 3}
    names |= {f"{of}_embedder.mlp.{at}": 2 for of in ("t", "y") for at in (0, 2)}
    names["final_layer.adaLN_modulation.1"] = 4
    for block in (0, 1):
        begin = f"joint_blocks.{block}."
        names |= {f"{begin}{of}_block.attn.qkv": 6 for of in ("x", "context")}
        names |= {f"{begin}x_block.attn.proj": 2, f"{begin}x_block.adaLN_modulation.1": 12}
        names |= {f"{begin}x_block.mlp.fc1": 8, f"{begin}x_block.mlp.fc2": 2}
        names[f"{begin}context_block.adaLN_modulation.1"] = 4 if block else 12
        if not block:
            names |= {f"{begin}context_block.attn.proj": 2, f"{begin}context_block.mlp.fc1": 8}
            names |= {f"{begin}context_block.mlp.fc2": 2, f"{begin}x_block.attn2.qkv": 6}
            names |= {f"{begin}x_block.attn2.proj": 2}
    return weights(names) | {"pos_embed": torch.zeros(1)}


def converted(family: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The authors' matrices, and the same under the names of diffusers, as it converts them."""
    from diffusers.loaders import single_file_utils

    checkpoint = {"flux": flux_checkpoint, "sd3": sd3_checkpoint}[family]()
    convert = getattr(single_file_utils, f"convert_{family}_transformer_checkpoint_to_diffusers")
    found = convert(dict(checkpoint))
    return (
        {name: each for name, each in checkpoint.items() if each.ndim == 2},
        {name.removesuffix(".weight"): each for name, each in found.items() if each.ndim == 2},
    )


@pytest.mark.parametrize("family", ["flux", "sd3"])
@pytest.mark.parametrize("spell", [str, kohya], ids=["dots", "kohya"])
def test_names_of_the_authors_go_where_diffusers_puts_their_weights(
    family: str, spell: Callable[[str], str]
) -> None:
    theirs, ours = converted(family)
    modules = Modules({name: tuple(each.shape) for name, each in ours.items()})
    built = {name: torch.full_like(each, float("nan")) for name, each in ours.items()}
    for name, each in theirs.items():
        module = spell(name.removesuffix(".weight"))
        for piece in modules.pieces(change(module, tuple(each.shape))):
            rows = each[piece.first : piece.last]
            built[piece.module][piece.at :][: len(rows)] = rows
    for name, each in ours.items():
        assert torch.equal(built[name], each), name


def test_names_of_xlabs_go_where_diffusers_puts_them() -> None:
    _, ours = converted("flux")
    modules = Modules({name: tuple(each.shape) for name, each in ours.items()})

    def places(module: str, rows: int) -> list[str]:
        return [piece.module for piece in modules.pieces(change(module, (rows, 2)))]

    block = "transformer_blocks.0.attn."
    assert places("double_blocks.0.txt_attn.qkv", 6) == [
        f"{block}{name}_proj" for name in ("add_q", "add_k", "add_v")
    ]
    assert places("double_blocks.0.img_attn.proj", 2) == [f"{block}to_out.0"]
    assert places("single_blocks.0.processor.qkv", 3 * 3072) == [
        f"single_{block}to_{name}" for name in "qkv"
    ]
    assert places("single_blocks.0.processor.proj", 2) == ["single_transformer_blocks.0.proj_out"]


BAD = (
    ("down_blocks_9_attentions_0_proj_in", (8, 8), "no such matrix"),
    ("input_blocks_99_1_proj_in", (8, 8), "no such matrix"),
    ("output_blocks_0", (8, 8), "no such matrix"),
    ("middle_block_3_proj_in", (8, 8), "no such matrix"),
    ("joint_blocks_0_x_block_attn_qkv", (8, 8), "no such matrix"),
    ("conv_in", (8, 4, 1, 1), r"one of shape \[8, 4, 3, 3\]"),
    ("mid_block_attentions_0_proj_in", (16, 8), r"one of shape \[16, 16\]"),
)


@pytest.mark.parametrize(("module", "shape", "message"), BAD)
def test_what_the_base_does_not_have_is_told(
    module: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ArtefactError, match=message):
        Modules(shapes_of(unet("sdxl"))).pieces(change(module, shape))


def test_a_flat_name_that_two_modules_have_means_neither() -> None:
    modules = Modules({"a.b_c": (2, 2), "a_b.c": (2, 2)})
    assert modules.pieces(change("a.b_c", (2, 2)))[0].module == "a.b_c"
    with pytest.raises(ArtefactError, match="no such matrix"):
        modules.pieces(change("a_b_c", (2, 2)))
