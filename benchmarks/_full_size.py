"""The real bases as data: classes, configs and element counts of every part, without a weight.

The values are those of the published repositories' `config.json` files. `elements` is what a part
holds in its file; the counts agree with the published sizes, which
`tests/unit/backbones/test_full_size.py` lists with their sources. `tiny` is what a part's config
becomes at the size that a CPU draws in a moment.

Does not: import torch, build a model, or write a folder (`_base_folder.py` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CLIP_WORDS, T5_WORDS, XLM_WORDS = 49408, 32100, 250002
"""Sizes of the vocabularies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model of a repository."""

    kind: str
    """Library and class."""
    config: Mapping[str, Any]
    parameters: int
    tables: int = 0
    """Elements that are no parameters but lie in the file and in memory: position tables."""
    tiny: Mapping[str, Any]

    @property
    def elements(self) -> int:
        """What the file holds."""
        return self.parameters + self.tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One tokenizer."""

    kind: str
    pad: str = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """One repository in diffusers layout."""

    backbone: str
    """Our adapter."""
    pipeline: str
    repo: str
    dtype: str
    """In which people draw with it, by its model card."""
    side_px: int
    steps: int
    guidance: float
    parts: Mapping[str, Part]
    words: Mapping[str, Words]
    scheduler: tuple[str, Mapping[str, Any]]
    encoders: tuple[tuple[str, int], ...] = ()
    """(encoder, width of its vocabulary rows): what learned tokens must fit."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further lines of `model_index.json`: library and class of parts without weights."""
    prior: Base | None = None
    """The repository that lies beside it."""


def _clip(width: int, *, has_projection: bool, elements: int) -> Part:
    """A CLIP text tower: ViT-L/14 or OpenCLIP bigG, by its width."""
    is_large = width == 768
    narrow = 32 if is_large else 48
    return Part(
        kind=f"transformers CLIPTextModel{'WithProjection' if has_projection else ''}",
        config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 12 if is_large else 32,
            "num_attention_heads": width // 64,
            "hidden_act": "quick_gelu" if is_large else "gelu",
            "projection_dim": width,
            "max_position_embeddings": 77,
            "vocab_size": CLIP_WORDS,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        },
        parameters=elements,
        tiny={
            "hidden_size": narrow,
            "intermediate_size": 2 * narrow,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": narrow,
        },
    )


CLIP_L = _clip(768, has_projection=False, elements=123_060_480)
CLIP_L_PROJECTED = _clip(768, has_projection=True, elements=123_650_304)
CLIP_G = _clip(1280, has_projection=True, elements=694_659_840)

T5_XXL = Part(
    kind="transformers T5EncoderModel",
    config={
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "vocab_size": 32128,
        "dropout_rate": 0.0,
    },
    parameters=4_762_310_656,
    tiny={"d_model": 96, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 2},
)


def _vae(channels: int, elements: int, **more: Any) -> Part:
    """AutoencoderKL of Stable Diffusion and FLUX: all have the same blocks."""
    return Part(
        kind="diffusers AutoencoderKL",
        config={
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "latent_channels": channels,
            **more,
        },
        parameters=elements,
        tiny={"block_out_channels": [16, 16, 32, 32], "layers_per_block": 1, "norm_num_groups": 8},
    )


_NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False, "sample_size": 1024}
SD_VAE = _vae(4, 83_653_863, sample_size=512, scaling_factor=0.18215)
SDXL_VAE = _vae(4, 83_653_863, sample_size=1024, scaling_factor=0.13025, force_upcast=True)
SD3_VAE = _vae(16, 83_819_683, scaling_factor=1.5305, shift_factor=0.0609, **_NO_QUANT)
FLUX_VAE = _vae(16, 83_819_683, scaling_factor=0.3611, shift_factor=0.1159, **_NO_QUANT)

SD15_UNET = Part(
    kind="diffusers UNet2DConditionModel",
    config={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    parameters=859_520_964,
    tiny={
        "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [32, 64],
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
    },
)
SDXL_UNET = Part(
    kind="diffusers UNet2DConditionModel",
    config={
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    parameters=2_567_463_684,
    tiny={
        "sample_size": 8,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 64],
        "transformer_layers_per_block": [1, 2],
        "attention_head_dim": [2, 4],
        "norm_num_groups": 8,
        "cross_attention_dim": 80,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 48 + 6 * 8,
    },
)


def _mmdit(layers: int, parameters: int, places: int, **more: Any) -> Part:
    """The transformer of Stable Diffusion 3 and 3.5."""
    width = 64 * layers
    return Part(
        kind="diffusers SD3Transformer2DModel",
        config={
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": layers,
            "num_attention_heads": layers,
            "attention_head_dim": 64,
            "caption_projection_dim": width,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": places,
            **more,
        },
        parameters=parameters,
        tables=places**2 * width,
        tiny={
            "sample_size": 8,
            "num_layers": 3,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "caption_projection_dim": 64,
            "joint_attention_dim": 96,
            "pooled_projection_dim": 80,
            "pos_embed_max_size": 12,
        },
    )


SD3_MEDIUM = _mmdit(24, 2_028_328_000, 192)
SD35_MEDIUM = _mmdit(
    24, 2_243_171_520, 384, qk_norm="rms_norm", dual_attention_layers=list(range(13))
)
SD35_LARGE = _mmdit(38, 8_056_627_520, 192, qk_norm="rms_norm")


def _flux(parameters: int, *, has_guidance: bool) -> Part:
    """The transformer of FLUX.1; `has_guidance` is the guidance-distilled one."""
    return Part(
        kind="diffusers FluxTransformer2DModel",
        config={
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": has_guidance,
            "axes_dims_rope": [16, 56, 56],
        },
        parameters=parameters,
        tiny={
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": 96,
            "pooled_projection_dim": 32,
            "axes_dims_rope": [4, 6, 6],
        },
    )


FLUX_DEV = _flux(11_901_408_320, has_guidance=True)
FLUX_SCHNELL = _flux(11_891_178_560, has_guidance=False)


def _decoder(kind: str, width: int, parameters: int) -> Part:
    """The UNet of Kandinsky 2.1 (`text_image`) and 2.2 (`image`)."""
    return Part(
        kind="diffusers UNet2DConditionModel",
        config={
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 8,
            "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
            "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "block_out_channels": [384, 768, 1152, 1536],
            "layers_per_block": 3,
            "attention_head_dim": 64,
            "resnet_time_scale_shift": "scale_shift",
            "cross_attention_dim": 768,
            "addition_embed_type": kind,
            "encoder_hid_dim_type": f"{kind}_proj",
            "encoder_hid_dim": width,
        },
        parameters=parameters,
        tiny={
            "sample_size": 8,
            "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
            "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
            "block_out_channels": [16, 32],
            "layers_per_block": 1,
            "attention_head_dim": 8,
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "encoder_hid_dim": 32 if kind == "text_image" else 48,
        },
    )


KANDINSKY21_UNET = _decoder("text_image", 1024, 1_228_661_768)
KANDINSKY22_UNET = _decoder("image", 1280, 1_253_057_288)
MOVQ = Part(
    kind="diffusers VQModel",
    config={
        "sample_size": 32,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [128, 256, 256, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "norm_type": "spatial",
        "num_vq_embeddings": 16384,
        "vq_embed_dim": 4,
        "scaling_factor": 0.18215,
    },
    parameters=67_832_495,
    tiny={
        "block_out_channels": [32, 32, 32, 32],  # its norm has groups of 32
        "layers_per_block": 1,
        "num_vq_embeddings": 16,
    },
)


def _prior(width: int, parameters: int) -> Part:
    """The prior's network of Kandinsky."""
    return Part(
        kind="diffusers PriorTransformer",
        config={
            "num_attention_heads": 32,
            "attention_head_dim": 64,
            "num_layers": 20,
            "embedding_dim": width,
            "num_embeddings": 77,
            "additional_embeddings": 4,
        },
        parameters=parameters,
        tiny={
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "embedding_dim": 32 if width == 768 else 48,
        },
    )


def _vision(width: int, depth: int, parameters: int, **more: Any) -> Part:
    """A CLIP image tower."""
    return Part(
        kind="transformers CLIPVisionModelWithProjection",
        config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            **more,
        },
        parameters=parameters,
        tiny={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": 32 if width == 1024 else 48,
            "image_size": 28,
        },
    )


CLIP_L_VISION = _vision(1024, 24, 303_966_208, intermediate_size=4096, projection_dim=768)
CLIP_G_VISION = _vision(
    1664, 48, 1_844_907_264, intermediate_size=8192, projection_dim=1280, hidden_act="gelu"
)
XLM_ROBERTA = Part(
    kind="kandinsky MultilingualCLIP",
    config={
        "transformerDimSize": 1024,
        "imageDimSize": 768,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "vocab_size": XLM_WORDS,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    parameters=560_677_632,
    tiny={
        "transformerDimSize": 32,
        "imageDimSize": 32,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 80,
    },
)

_SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_LINEAR_BETAS = {**_SD_BETAS, "beta_schedule": "linear", "clip_sample": False}
_CLIP, _CLIP_2 = Words(kind="CLIPTokenizer"), Words(kind="CLIPTokenizer", pad="!")
_T5 = Words(kind="T5TokenizerFast")


def _sd3(repo: str, transformer: Part, steps: int, guidance: float, dtype: str) -> Base:
    """One of the Stable Diffusion 3 family."""
    return Base(
        backbone="sd3",
        pipeline="StableDiffusion3Pipeline",
        repo=repo,
        dtype=dtype,
        side_px=1024,
        steps=steps,
        guidance=guidance,
        parts={
            "transformer": transformer,
            "vae": SD3_VAE,
            "text_encoder": CLIP_L_PROJECTED,
            "text_encoder_2": CLIP_G,
            "text_encoder_3": T5_XXL,
        },
        words={"tokenizer": _CLIP, "tokenizer_2": _CLIP_2, "tokenizer_3": _T5},
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        encoders=(("clip_l", 768), ("clip_g", 1280)),
    )


def _flux_base(repo: str, transformer: Part, steps: int, shifts: Mapping[str, Any]) -> Base:
    """One of the FLUX.1 family."""
    return Base(
        backbone="flux",
        pipeline="FluxPipeline",
        repo=repo,
        dtype="bf16",
        side_px=1024,
        steps=steps,
        guidance=3.5 if transformer.config["guidance_embeds"] else 0.0,
        parts={
            "transformer": transformer,
            "vae": FLUX_VAE,
            "text_encoder": CLIP_L,
            "text_encoder_2": T5_XXL,
        },
        words={"tokenizer": _CLIP, "tokenizer_2": _T5},
        scheduler=("FlowMatchEulerDiscreteScheduler", shifts),
        encoders=(("clip_l", 768),),
    )


def _kandinsky(version: str, decoder: Mapping[str, Part], prior: Mapping[str, Part]) -> Base:
    """Kandinsky 2.1 or 2.2 with the repository of its prior."""
    is_old = version == "2.1"
    name = "kandinsky-2-1" if is_old else "kandinsky-2-2"
    betas = {**_LINEAR_BETAS, "set_alpha_to_one": False, "steps_offset": 1}
    drawn = {"dtype": "fp16", "side_px": 512, "guidance": 4.0}
    beside = Base(
        backbone=f"kandinsky{version.replace('.', '')}",
        pipeline="KandinskyPriorPipeline" if is_old else "KandinskyV22PriorPipeline",
        repo=f"kandinsky-community/{name}-prior",
        steps=25,
        parts=prior,
        words={"tokenizer": _CLIP},
        scheduler=(
            "UnCLIPScheduler",
            {"prediction_type": "sample", "variance_type": "fixed_small_log"},
        ),
        more={"image_processor": "transformers CLIPImageProcessor"},
        **drawn,
    )
    return Base(
        backbone=beside.backbone,
        pipeline="KandinskyPipeline" if is_old else "KandinskyV22Pipeline",
        repo=f"kandinsky-community/{name}{'' if is_old else '-decoder'}",
        steps=50,
        parts=decoder,
        words={"tokenizer": Words(kind="XLMRobertaTokenizerFast")} if is_old else {},
        scheduler=(
            ("DDIMScheduler", betas)
            if is_old
            else ("DDPMScheduler", {**_LINEAR_BETAS, "variance_type": "learned_range"})
        ),
        encoders=(("clip_l", 768),) if is_old else (("clip_g", 1280),),
        prior=beside,
        **drawn,
    )


BASES: Mapping[str, Base] = {
    "sd15": Base(
        backbone="sd15",
        pipeline="StableDiffusionPipeline",
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        dtype="fp16",
        side_px=512,
        steps=50,
        guidance=7.5,
        parts={"unet": SD15_UNET, "vae": SD_VAE, "text_encoder": CLIP_L},
        words={"tokenizer": _CLIP},
        scheduler=(
            "PNDMScheduler",
            {**_SD_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
        ),
        encoders=(("clip_l", 768),),
    ),
    "sdxl": Base(
        backbone="sdxl",
        pipeline="StableDiffusionXLPipeline",
        repo="stabilityai/stable-diffusion-xl-base-1.0",
        dtype="fp16",
        side_px=1024,
        steps=30,
        guidance=5.0,
        parts={
            "unet": SDXL_UNET,
            "vae": SDXL_VAE,
            "text_encoder": CLIP_L,
            "text_encoder_2": CLIP_G,
        },
        words={"tokenizer": _CLIP, "tokenizer_2": _CLIP_2},
        scheduler=(
            "EulerDiscreteScheduler",
            {**_SD_BETAS, "timestep_spacing": "leading", "steps_offset": 1},
        ),
        encoders=(("clip_l", 768), ("clip_g", 1280)),
    ),
    "sd3-medium": _sd3(
        "stabilityai/stable-diffusion-3-medium-diffusers", SD3_MEDIUM, 28, 7.0, "fp16"
    ),
    "sd35-medium": _sd3("stabilityai/stable-diffusion-3.5-medium", SD35_MEDIUM, 40, 4.5, "bf16"),
    "sd35-large": _sd3("stabilityai/stable-diffusion-3.5-large", SD35_LARGE, 28, 3.5, "bf16"),
    "flux-dev": _flux_base(
        "black-forest-labs/FLUX.1-dev",
        FLUX_DEV,
        28,
        {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
    ),
    "flux-schnell": _flux_base("black-forest-labs/FLUX.1-schnell", FLUX_SCHNELL, 4, {"shift": 1.0}),
    "kandinsky21": _kandinsky(
        "2.1",
        {"unet": KANDINSKY21_UNET, "movq": MOVQ, "text_encoder": XLM_ROBERTA},
        {
            "prior": _prior(768, 1_022_030_080),
            "text_encoder": CLIP_L_PROJECTED,
            "image_encoder": CLIP_L_VISION,
        },
    ),
    "kandinsky22": _kandinsky(
        "2.2",
        {"unet": KANDINSKY22_UNET, "movq": MOVQ},
        {
            "prior": _prior(1280, 1_026_225_920),
            "text_encoder": CLIP_G,
            "image_encoder": CLIP_G_VISION,
        },
    ),
}
"""By the name under which the benchmarks know them."""

TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def part_class(part: Part) -> type[Any]:
    """The class of a part; imports its library."""
    library, name = part.kind.split()
    if library == "kandinsky":
        from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP

        return MultilingualCLIP
    import diffusers
    import transformers

    found: type[Any] = getattr(
        {"diffusers": diffusers, "transformers": transformers}[library], name
    )
    return found


def build(part: Part, config: Mapping[str, Any] | None = None) -> Any:
    """The model with the library's own start, wherever torch builds just now: under
    `torch.device("meta")` it takes no memory.
    """
    kind, settings = part_class(part), dict(part.config if config is None else config)
    is_ours = part.kind.startswith("diffusers")
    return kind(**settings) if is_ours else kind(kind.config_class(**settings))


def config_json(part: Part) -> dict[str, Any]:
    """What the part's `config.json` says."""
    if part.kind.startswith("diffusers"):
        return {"_class_name": part.kind.split()[1], **part.config}
    return {"model_type": part_class(part).config_class.model_type, **part.config}
