"""LoRA files for tests: random low-rank weights for any base folder, and files by hand.

Does not: train anything.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from creatok_cli.tokens._layout import read_layout
from creatok_cli.tokens.lora import lora_bytes

ENDS = ("attn.to_q", "attn.to_out.0", "attn.add_k_proj", "self_attn.q_proj")


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
