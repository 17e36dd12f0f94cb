"""LoRA files for tests: random low-rank weights for any base folder, under names of diffusers or of
kohya's trainer, and files by hand.

Does not: train anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from creatok_cli.tokens._layout import read_layout
from creatok_cli.tokens.lora import lora_bytes

ENDS = ("attn.to_q", "attn.to_out.0", "attn.add_k_proj", "self_attn.q_proj")


RESNET = {
    "norm1": "in_layers.0",
    "norm2": "out_layers.0",
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOPS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
TRAINED = re.compile(
    r"attn\d\.to_|ff\.net\.|proj_in|proj_out|(up|down)samplers|conv\w*|time_emb_proj|linear_\d"
)
"""What LCM-LoRA, Hyper-SD and SDXL-Lightning change in a UNet: convolutions, too."""


def modules(folder: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Shapes [out in] of what a test's LoRA changes in a part of a base."""
    (path,) = (folder / part).glob("*.safetensors")
    with path.open("rb") as file:
        layout = read_layout(file, path.stat().st_size, str(path))
    shapes = {name.removesuffix(".weight"): each[1] for name, each in layout.tensors.items()}
    return {name: shape for name, shape in shapes.items() if name.endswith(ENDS)}


def weights(
    folder: Path, parts: tuple[str, ...] = ("transformer",), *, rank: int = 2, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random f32 weights by the names of diffusers, about as strong as trained ones."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for part in parts:
        for name, (rows, columns) in modules(folder, part).items():
            a = torch.randn((rank, columns), generator=draw) * columns**-0.5
            b = torch.randn((rows, rank), generator=draw) * 0.3
            found[f"{part}.{name}.lora_A.weight"] = a
            found[f"{part}.{name}.lora_B.weight"] = b
    return found


def write_lora(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A LoRA file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lora_bytes(tensors, {"kind": "lora"}, title=path.stem))
    return path


def raw(
    tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None
) -> bytes:
    """A safetensors file by hand, of anything."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    payload = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(payload), len(payload) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        payload += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def original(module: str, per_block: int) -> str:
    """A module as the authors of the UNet call it: `per_block` of their blocks are one here."""
    if module in TOPS:
        return TOPS[module]
    side, _, rest = module.partition(".")
    if side == "mid_block":
        kind, at, rest = rest.split(".", 2)
        number = {"resnets0": 0, "attentions0": 1, "resnets1": 2}[kind + at]
        return f"middle_block.{number}.{RESNET.get(rest, rest)}"
    block, kind, at, rest = rest.split(".", 3)
    rest, first = RESNET.get(rest, rest), per_block * int(block)
    inner = f"{int(kind == 'attentions')}.{rest}"
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block}.0.op"
        return f"input_blocks.{1 + first + int(at)}.{inner}"
    if kind == "upsamplers":
        return f"output_blocks.{first + per_block - 1}.2.conv"
    return f"output_blocks.{first + int(at)}.{inner}"


def kohya(module: str) -> str:
    """A module as kohya's trainer writes it."""
    return module.replace(".", "_")


def kohya_weights(
    model: Any, begin: str, name_of: Callable[[str], str] = str, *, rank: int = 2, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random weights for a UNet or text tower, with alphas, as kohya's trainer writes them."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            continue
        if not begin.startswith("lora_te") and not TRAINED.search(name):
            continue
        rows, columns, *kernel = layer.weight.shape
        stem = f"{begin}{kohya(name_of(name))}"
        down = torch.randn((rank, columns, *kernel), generator=draw) * columns**-0.5
        up = torch.randn((rows, rank, *(1 for _ in kernel)), generator=draw) * 0.3
        found |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        found[f"{stem}.alpha"] = torch.tensor(float(1 + len(found) % 3))
    return found
