"""Tiny random models of the real classes, in the exact layout of a diffusers repository.

Does not: look like anything; only shapes, paths and arithmetic are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTHS = {"clip_l": 16, "clip_g": 24}
POSITIONS = 24
JOINT = 48
"""Wider than both towers together (40), so that padding is tested."""
WORDS = (*"a photo of the pig snake owl dragon creative mixture in meadow red and fox".split(),)

PROMPTS = [
    "a photo of the pig snake",
    "a red owl",
    "dragon",
    "zebra 123",
    "a",
    "",
    "owl and fox",
    "creative mixture",
]
"""What equality is tested with: as many as one encoding chunk has, so that shapes are the same on
both sides.
"""


def build_tiny_sd3(
    folder: Path,
    *,
    legacy_eos: bool = False,
    t5: bool = False,
    zero_rows: int | None = 0,
    scheduler: dict[str, Any] | None = None,
    transformer: dict[str, Any] | None = None,
    dtype: str = "float32",
) -> Path:
    """A StableDiffusion3Pipeline folder. `legacy_eos` writes `eos_token_id: 2` into the encoders'
    configs; `transformer` are more arguments of the denoiser, as in SD3.5.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    kind = getattr(torch, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vocabulary = _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
        _write_tokenizer(folder / "tokenizer_2", pad="!")
        for part, width, layers in (("text_encoder", 16, 2), ("text_encoder_2", 24, 3)):
            eos = 2 if legacy_eos else vocabulary - 1
            _clip(width, layers, vocabulary, eos).to(kind).save_pretrained(folder / part)
        usual = {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "caption_projection_dim": 32,
            "joint_attention_dim": JOINT,
            "pooled_projection_dim": 40,
            "pos_embed_max_size": 12,
        }
        denoiser = SD3Transformer2DModel(**(usual | (transformer or {})))
        vae = _vae(scaling_factor=1.5, shift_factor=0.06, **BARE)
        for name, model in (("transformer", denoiser), ("vae", vae)):
            model.to(kind).save_pretrained(folder / name)
        FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | (scheduler or {}))).save_pretrained(
            folder / "scheduler"
        )
        if t5:
            _write_t5(folder, kind)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"] if t5 else [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"] if t5 else [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    rows = "" if zero_rows is None else f"creatok_t5_zero_rows: {zero_rows}\n"
    card = f"---\nlicense: cc0-1.0\ncreatok_steps: 3\ncreatok_guidance: 4.0\n{rows}---\n# tiny\n"
    (folder / "README.md").write_text(card)
    return folder


BARE = {"use_quant_conv": False, "use_post_quant_conv": False}
"""Of autoencoders without their 1 x 1 convolutions."""


def _vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        **more,
    )


def _clip(
    width: int, layers: int, vocabulary: int, eos: int, kind: str = "CLIPTextModelWithProjection"
) -> Any:
    import torch
    import transformers
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        projection_dim=width,
        bos_token_id=vocabulary - 2,
        eos_token_id=eos,
        pad_token_id=vocabulary - 1,
        hidden_act="quick_gelu" if width == 16 else "gelu",
    )
    model = getattr(transformers, kind)(config)
    with torch.no_grad():  # the library's own start is so small that prompts would hardly differ
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model


def _write_tokenizer(folder: Path, *, pad: str) -> int:
    """vocab.json, merges.txt and configs as CLIP repositories have them; returns the size of the
    vocabulary.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces = letters + [f"{letter}</w>" for letter in letters]
    merges: list[str] = []
    for word in WORDS:
        left = word[0] if len(word) > 1 else ""
        for place, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if place == len(word) - 1 else "")
            merges.append(f"{left} {right}")
            left += right
            pieces.append(left)
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n"
    (folder / "merges.txt").write_text(lines, encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = special | {"model_max_length": POSITIONS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(pieces)


def _write_t5(folder: Path, kind: Any) -> None:
    _t5(folder / "tokenizer_3", JOINT).to(kind).save_pretrained(folder / "text_encoder_3")


def _t5(tokenizer: Path, width: int) -> Any:
    """A T5 encoder; its tokenizer is written at once."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -5.0) for letter in "abcdefghij"]
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512).save_pretrained(tokenizer)
    config = T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
    )
    return T5EncoderModel(config)


BLIP_PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("what", "animal", "is", "in", "the", "photo", "?", "pig", "snake", "owl", "cactus", "polar"),
    *("bear", "sea", "##horse", "horse", "##s", "b", "##ee", "tree", "frog", "red", "-"),
)


def build_tiny_blip(folder: Path) -> Path:
    """A BlipForQuestionAnswering folder, as the published ones are arranged: `[DEC]` and `[ENC]`
    are rows of the model, behind the tokenizer's words; the end of an answer is `[SEP]`.
    """
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

    words = len(BLIP_PIECES)
    vocabulary = {piece: number for number, piece in enumerate(BLIP_PIECES)}
    text = {
        "vocab_size": words + 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "bos_token_id": words,
        "sep_token_id": vocabulary["[SEP]"],
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,  # the decoder attends to the question at the picture's width
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
        with torch.no_grad():  # the library's own start hardly looks at the picture
            for name, parameter in model.named_parameters():
                if parameter.ndim >= 2 or "embedding" in name:
                    parameter.normal_(0, max(parameter[0].numel(), 1) ** -0.5)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    facts = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder


def build_tiny_clip(folder: Path) -> Path:
    """A whole CLIPModel in one folder, as published; its logit scale is a weight, in logarithm."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    vocabulary = _write_tokenizer(folder, pad="<|endoftext|>")
    text = {
        "projection_dim": 20,
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    vision = {
        "projection_dim": 20,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
            model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)
    return folder


def build_tiny_kandinsky(place: Path, *, version: str = "2.2") -> Path:
    """The folders of decoder and prior, beside each other in `place`, for Kandinsky 2.2 or 2.1;
    returns the decoder's.
    """
    is_old = version == "2.1"
    folder = place / ("kandinsky-2-1" if is_old else "kandinsky-2-2-decoder")
    prior = place / ("kandinsky-2-1-prior" if is_old else "kandinsky-2-2-prior")
    _write_tiny_prior(prior, "KandinskyPriorPipeline" if is_old else "KandinskyV22PriorPipeline")
    _write_tiny_decoder(folder, is_old=is_old)
    return folder


EMBEDDING = 24
"""Width of CLIP and picture embeddings in the tiny Kandinsky."""


def _write_tiny_prior(folder: Path, pipeline: str) -> None:
    import torch
    from diffusers import PriorTransformer, UnCLIPScheduler
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(4)
        vocabulary = _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
        _clip(EMBEDDING, 2, vocabulary, vocabulary - 1).save_pretrained(folder / "text_encoder")
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                projection_dim=EMBEDDING,
            )
        )
        network = PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            embedding_dim=EMBEDDING,
            num_embeddings=POSITIONS,
        )
        with torch.no_grad():
            for model in (vision, network):
                for parameter in model.parameters():
                    if parameter.ndim >= 2:
                        parameter.normal_(0, parameter[0].numel() ** -0.5)
            network.positional_embedding.normal_(0, 0.3)
            network.clip_mean.normal_(0, 0.1)
            network.clip_std.fill_(0.7)
    vision.save_pretrained(folder / "image_encoder")
    network.save_pretrained(folder / "prior")
    UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0).save_pretrained(
        folder / "scheduler"
    )
    facts = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
    }
    (folder / "image_processor").mkdir()
    (folder / "image_processor" / "preprocessor_config.json").write_text(json.dumps(facts))
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.42.1",
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
        "prior": ["diffusers", "PriorTransformer"],
        "scheduler": ["diffusers", "UnCLIPScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _write_tiny_decoder(folder: Path, *, is_old: bool) -> None:
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, VQModel

    kind = "text_image" if is_old else "image"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=8,
            addition_embed_type=kind,
            encoder_hid_dim_type=f"{kind}_proj",
            encoder_hid_dim=16 if is_old else EMBEDDING,
            cross_attention_dim=EMBEDDING,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(8, 16),
            layers_per_block=1,
            attention_head_dim=4,
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
        )
        movq = VQModel(
            block_out_channels=(32, 32),  # its norm has groups of 32
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        )
        if is_old:
            _write_xlm(folder)
    unet.save_pretrained(folder / "unet")
    movq.save_pretrained(folder / "movq")
    index: dict[str, Any] = {
        "_class_name": "KandinskyPipeline" if is_old else "KandinskyV22Pipeline",
        "_diffusers_version": "0.42.1",
        "movq": ["diffusers", "VQModel"],
        "scheduler": ["diffusers", "DDIMScheduler" if is_old else "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    beta = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
    if is_old:
        DDIMScheduler(
            **beta, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ).save_pretrained(folder / "scheduler")
        index["text_encoder"] = ["kandinsky", "MultilingualCLIP"]
        index["tokenizer"] = ["transformers", "XLMRobertaTokenizerFast"]
    else:
        DDPMScheduler(**beta, variance_type="learned_range", clip_sample=False).save_pretrained(
            folder / "scheduler"
        )
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    card = "---\nlicense: cc0-1.0\ncreatok_steps: 3\ncreatok_guidance: 4.0\n---\n# tiny\n"
    (folder / "README.md").write_text(card)


def _write_xlm(folder: Path) -> None:
    """The decoder's own text encoder in Kandinsky 2.1."""
    import torch
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
    from transformers import XLMRobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [(piece, 0.0) for piece in special[:4]]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [("<mask>", 0.0)]
    XLMRobertaTokenizer(vocab=pieces, model_max_length=512).save_pretrained(folder / "tokenizer")
    config = MCLIPConfig(
        transformerDimSize=16,
        imageDimSize=EMBEDDING,
        vocab_size=len(pieces),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=80,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = MultilingualCLIP(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    model.eval().save_pretrained(folder / "text_encoder")
