"""Tiny random Stable Diffusion folders of the real classes, as the published repositories are
arranged: old names of weights, old fields of configs, a safety checker, two formats beside each
other.

Does not: look like anything; only shapes, paths and arithmetic are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import POSITIONS, _clip, _vae, _write_tokenizer

SD15_SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
"""stable-diffusion-v1-5/stable-diffusion-v1-5, scheduler_config.json."""
SDXL_SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
"""stabilityai/stable-diffusion-xl-base-1.0, scheduler_config.json."""
CARD = "---\nlicense: {}\ncreatok_steps: 3\ncreatok_guidance: 4.0\n---\n# tiny\n"
OLD_NAMES = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
"""Attention of the first AutoencoderKL, as the files of SD1.5 still spell it."""


def build_tiny_sd15(
    folder: Path,
    *,
    legacy_eos: bool = False,
    dtype: str = "float32",
    scheduler: dict[str, Any] | None = None,
    variant: str = "",
    is_sharded: bool = False,
    is_distilled: bool = False,
    channels: int = 4,
    width: int = 16,
) -> Path:
    """A StableDiffusionPipeline folder. `legacy_eos` writes `eos_token_id: 2`, `scheduler` changes
    fields of its config, `variant` is `fp16` for files of that name, `is_distilled` gives a UNet
    that reads the guidance (LCM). `channels` other than 4 and a `width` of the text encoder other
    than 16 do not belong together.
    """
    import torch

    how: dict[str, Any] = {"variant": variant or None}
    with torch.random.fork_rng():
        torch.manual_seed(6)
        kind = getattr(torch, dtype)
        vocabulary = _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
        eos = 2 if legacy_eos else vocabulary - 1
        _write_tower(folder / "text_encoder", _plain_clip(width, 2, vocabulary, eos).to(kind), how)
        unet = _unet(16, {"time_cond_proj_dim": 8} if is_distilled else {}, channels)
        more = {"max_shard_size": "40KB"} if is_sharded else {}
        unet.to(kind).save_pretrained(folder / "unet", **how, **more)
        _write_vae(folder / "vae", kind, how, are_old=True)
    _trim(folder / "vae" / "config.json", "scaling_factor", "force_upcast", "shift_factor")
    _write_json(folder / "scheduler" / "scheduler_config.json", SD15_SCHEDULER | (scheduler or {}))
    _write_unopened(folder)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": [None, None],
        "requires_safety_checker": True,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", (SD15_SCHEDULER | (scheduler or {}))["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    (folder / "README.md").write_text(CARD.format("creativeml-openrail-m"))
    return folder


def build_tiny_sdxl(
    folder: Path,
    *,
    legacy_eos: bool = False,
    dtype: str = "float32",
    scheduler: dict[str, Any] | None = None,
    are_zeros_forced: bool = True,
    variant: str = "",
) -> Path:
    """A StableDiffusionXLPipeline folder; the second tokenizer pads with `!`."""
    import torch

    how: dict[str, Any] = {"variant": variant or None}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        kind = getattr(torch, dtype)
        vocabulary = _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
        _write_tokenizer(folder / "tokenizer_2", pad="!")
        eos = 2 if legacy_eos else vocabulary - 1
        _write_tower(folder / "text_encoder", _plain_clip(16, 2, vocabulary, eos).to(kind), how)
        _write_tower(folder / "text_encoder_2", _clip(24, 3, vocabulary, eos).to(kind), how)
        unet = _unet(
            40,
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 6 * 8 + 24,
                "transformer_layers_per_block": [1, 2],
                "use_linear_projection": True,
            },
        )
        unet.to(kind).save_pretrained(folder / "unet", **how)
        _write_vae(folder / "vae", kind, how, are_old=False)
    _write_json(folder / "scheduler" / "scheduler_config.json", SDXL_SCHEDULER | (scheduler or {}))
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.19.0.dev0",
        "force_zeros_for_empty_prompt": are_zeros_forced,
        "scheduler": ["diffusers", (SDXL_SCHEDULER | (scheduler or {}))["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    (folder / "README.md").write_text(CARD.format("openrail++"))
    return folder


def _unet(states: int, more: dict[str, Any], channels: int = 4) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=states,
        attention_head_dim=[1, 2] if more.get("addition_embed_type") else 4,
        **more,
    )


def _plain_clip(width: int, layers: int, vocabulary: int, eos: int) -> Any:
    """The same tower without its projection."""
    from transformers import CLIPTextModel

    whole = _clip(width, layers, vocabulary, eos)
    plain = CLIPTextModel(whole.config)
    weights = {
        name.removeprefix("text_model."): value for name, value in whole.state_dict().items()
    }
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain


def _write_tower(folder: Path, model: Any, how: dict[str, Any]) -> None:
    """With the names that transformers wrote before version 5."""
    import torch
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder, **how)
    (path,) = folder.glob("*.safetensors")
    old = {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": rows
        for name, rows in load_file(path).items()
    }
    old["text_model.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    save_file(old, path, metadata={"format": "pt"})


def _write_vae(folder: Path, kind: Any, how: dict[str, Any], *, are_old: bool) -> None:
    from safetensors.torch import load_file, save_file

    vae = _vae(sample_size=32, scaling_factor=0.18215 if are_old else 0.13025)
    vae.to(kind).save_pretrained(folder, **how)
    if are_old:
        (path,) = folder.glob("*.safetensors")
        weights = load_file(path)
        for new, old in OLD_NAMES.items():
            weights = {name.replace(new, old): rows for name, rows in weights.items()}
        save_file(weights, path, metadata={"format": "pt"})


def _write_unopened(folder: Path) -> None:
    """The safety checker and its picture processor, as far as a copy without pickles has them."""
    checker = {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {"architectures": None, "model_type": "clip_text_model"},
        "vision_config": {"architectures": None, "model_type": "clip_vision_model"},
    }
    _write_json(folder / "safety_checker" / "config.json", checker)
    processor = {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224, "size": 224}
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", processor)


def _trim(path: Path, *names: str) -> None:
    """Without fields that the first repositories did not have."""
    content = json.loads(path.read_text())
    _write_json(path, {name: value for name, value in content.items() if name not in names})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
