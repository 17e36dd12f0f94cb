"""A tiny random FLUX.1 of the real classes, in the exact layout of a diffusers repository.

Does not: look like anything; only shapes, paths and arithmetic are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import BARE, _clip, _t5, _vae, _write_tokenizer

JOINT = 24
"""Width of T5 states."""


def build_tiny_flux(
    folder: Path,
    *,
    guidance_embeds: bool = True,
    legacy_eos: bool = False,
    clip_width: int = 16,
    scheduler: dict[str, Any] | None = None,
    dtype: str = "float32",
    sharded: bool = False,
    card: str = "license: cc0-1.0\ncreatok_steps: 3\ncreatok_size: 32x32\n",
) -> Path:
    """A FluxPipeline folder: dev-like with `guidance_embeds`, else schnell-like. `legacy_eos`
    writes `eos_token_id: 2` into CLIP's config, as the real one has it; `sharded` cuts the denoiser
    and T5 into several files with an index.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    kind = getattr(torch, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        vocabulary = _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
        eos = 2 if legacy_eos else vocabulary - 1
        models = {"text_encoder": _clip(clip_width, 2, vocabulary, eos, "CLIPTextModel")}
        models["text_encoder_2"] = _t5(folder / "tokenizer_2", JOINT)
        models["transformer"] = _transformer(clip_width, guidance_embeds=guidance_embeds)
        models["vae"] = _vae(scaling_factor=0.3611, shift_factor=0.1159, **BARE)
    for name, model in models.items():
        cut = {"max_shard_size": "20kB"} if sharded and name in BIG else {}
        model.to(kind).save_pretrained(folder / name, **cut)
    usual = {"shift": 3.0, "use_dynamic_shifting": True, "max_shift": 1.15, "base_shift": 0.5}
    settings = usual if guidance_embeds else {"shift": 1.0, "max_shift": 1.15, "base_shift": 0.5}
    FlowMatchEulerDiscreteScheduler(
        **(settings | {"base_image_seq_len": 256, "max_image_seq_len": 4096} | (scheduler or {}))
    ).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "README.md").write_text(f"---\n{card}---\n# tiny\n")
    return folder


BIG = ("transformer", "text_encoder_2")
"""Parts that the published repositories cut into shards."""


def _transformer(clip_width: int, *, guidance_embeds: bool) -> Any:
    from diffusers import FluxTransformer2DModel

    return _lively(
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=JOINT,
            pooled_projection_dim=clip_width,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
    )


def _lively(model: Any) -> Any:
    """The library's own start is so small that prompts would hardly differ."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model
