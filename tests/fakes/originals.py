"""Tiny models in the layout of their authors, written from a diffusers folder: one checkpoint.

The names are those of the published files (the tables of diffusers'
`convert_diffusers_to_original_*.py`), so what reads them must undo exactly this.

Does not: know creatok.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.fakes.loras import original

LDM_VAE = (
    ("nin_shortcut", "conv_shortcut"),
    ("norm_out", "conv_norm_out"),
    ("mid.attn_1.", "mid_block.attentions.0."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
)
LDM_ATTENTION = (
    *(("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v.")),
    *(("proj_out.", "to_out.0."), ("norm.", "group_norm.")),
)
OLD_ATTENTION = (
    *(("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")),
)
OPEN_CLIP = (
    *(("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")),
    *(("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("attn.out_proj", "self_attn.out_proj")),
)
Tensors = dict[str, torch.Tensor]


def weights_of(folder: Path, part: str) -> Tensors:
    """All tensors of one part."""
    found: Tensors = {}
    for path in sorted((folder / part).glob("*.safetensors")):
        if ".fp16" not in path.name:
            found |= load_file(path)
    return found


def original_unet(tensors: Tensors, per_block: int) -> Tensors:
    """Names of the first UNet, without the prefix."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        found[f"{original(module, per_block)}.{kind}"] = tensor
    return found


def original_vae(tensors: Tensors, blocks: int) -> Tensors:
    """Names of the first autoencoder; its attention is made of convolutions."""
    found: Tensors = {}
    for old, tensor in tensors.items():
        name = old
        for new, was in OLD_ATTENTION:
            name = name.replace(was, new)
        for i in range(blocks):
            name = name.replace(f"encoder.down_blocks.{i}.resnets.", f"encoder.down.{i}.block.")
            name = name.replace(f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample.")
            back = blocks - 1 - i
            name = name.replace(f"decoder.up_blocks.{i}.resnets.", f"decoder.up.{back}.block.")
            name = name.replace(f"up_blocks.{i}.upsamplers.0.", f"up.{back}.upsample.")
        for ours, theirs in LDM_VAE:
            name = name.replace(theirs, ours)
        if "attn_1" in name:
            for ours, theirs in LDM_ATTENTION:
                name = name.replace(theirs, ours)
            if tensor.dim() == 2:
                tensor = tensor[:, :, None, None]
        found[name] = tensor
    return found


def vae_of(folder: Path) -> Tensors:
    """The autoencoder of a folder, by its first names."""
    blocks = json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]
    return original_vae(weights_of(folder, "vae"), len(blocks))


def clip_names(tensors: Tensors, begin: str) -> Tensors:
    """A CLIP tower of transformers under a prefix, with the `text_model` of its older releases."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("text_model.")
        middle = "" if plain.startswith("text_projection") else "text_model."
        found[f"{begin}{middle}{plain}"] = tensor
    return found


def open_clip(tensors: Tensors, begin: str) -> Tensors:
    """A CLIP tower in the names of OpenCLIP: one matrix for query, key and value."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    found = {
        f"{begin}token_embedding.weight": plain["embeddings.token_embedding.weight"],
        f"{begin}positional_embedding": plain["embeddings.position_embedding.weight"],
        f"{begin}ln_final.weight": plain["final_layer_norm.weight"],
        f"{begin}ln_final.bias": plain["final_layer_norm.bias"],
        f"{begin}text_projection": plain["text_projection.weight"].T.contiguous(),
    }
    for name, tensor in plain.items():
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name)
        if match is None:
            continue
        block = f"{begin}transformer.resblocks.{match[1]}."
        inner = match[2]
        if inner.startswith("self_attn.q_proj"):
            rows = [plain[name.replace("q_proj", each)] for each in ("q_proj", "k_proj", "v_proj")]
            found[f"{block}attn.in_proj_{inner.rpartition('.')[2]}"] = torch.cat(rows)
        elif not re.match(r"self_attn\.[kv]_proj", inner):
            for ours, theirs in OPEN_CLIP:
                inner = inner.replace(theirs, ours)
            found[block + inner] = tensor
    return found


def original_sd3(tensors: Tensors, layers: int) -> Tensors:
    """Names of the first SD3 transformer; the last block's context has shift and scale swapped."""
    found: Tensors = {}
    top = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    }
    inner = {
        "attn.to_out.0": "x_block.attn.proj",
        "attn.to_add_out": "context_block.attn.proj",
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }
    stacked = {"to_q": "x_block", "add_q_proj": "context_block"}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if name == "pos_embed.pos_embed":
            found["pos_embed"] = tensor
            continue
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.*)", module)
        if match is None:
            there = top[module]
            swaps = module == "norm_out.linear"
        elif match[2].removeprefix("attn.") in stacked:
            side = stacked[match[2].removeprefix("attn.")]
            rows = [tensors[name.replace("_q", f"_{each}")] for each in "qkv"]
            found[f"joint_blocks.{match[1]}.{side}.attn.qkv.{kind}"] = torch.cat(rows)
            continue
        elif match[2] not in inner:
            continue
        else:
            there = f"joint_blocks.{match[1]}.{inner[match[2]]}"
            swaps = match[2] == "norm1_context.linear" and int(match[1]) == layers - 1
        if swaps:
            first, second = tensor.chunk(2)
            tensor = torch.cat([second, first])
        found[f"{there}.{kind}"] = tensor
    return found


def under(begin: str, tensors: Tensors) -> Tensors:
    """The same names behind a prefix."""
    return {begin + name: tensor for name, tensor in tensors.items()}


def write_sd15(folder: Path, path: Path, *, per_block: int = 2) -> Path:
    """A checkpoint of Stable Diffusion 1."""
    found = under("model.diffusion_model.", original_unet(weights_of(folder, "unet"), per_block))
    found |= under("first_stage_model.", vae_of(folder))
    found |= clip_names(weights_of(folder, "text_encoder"), "cond_stage_model.transformer.")
    found["model_ema.decay"] = torch.ones(())
    return save(found, path)


def write_sdxl(folder: Path, path: Path, *, per_block: int = 2) -> Path:
    """A checkpoint of SDXL."""
    found = under("model.diffusion_model.", original_unet(weights_of(folder, "unet"), per_block))
    found |= under("first_stage_model.", vae_of(folder))
    found |= clip_names(weights_of(folder, "text_encoder"), "conditioner.embedders.0.transformer.")
    found |= open_clip(weights_of(folder, "text_encoder_2"), "conditioner.embedders.1.model.")
    return save(found, path)


def write_sd3(folder: Path, path: Path, *, layers: int) -> Path:
    """A checkpoint of SD3 with both CLIP towers, and T5 where the folder has it."""
    found = under("model.diffusion_model.", original_sd3(weights_of(folder, "transformer"), layers))
    found |= under("first_stage_model.", vae_of(folder))
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        found |= clip_names(weights_of(folder, part), f"text_encoders.{name}.transformer.")
    if (folder / "text_encoder_3").is_dir():
        t5 = weights_of(folder, "text_encoder_3")
        found |= under("text_encoders.t5xxl.transformer.", t5)
    return save(found, path)


def save(tensors: Tensors, path: Path, **metadata: Any) -> Path:
    """A file of copies: names may share memory."""
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata or None)
    return path
