"""`load_textual_inversion` of diffusers takes our files, and its prompts then mean what ours mean.

The pipelines are made of the real classes with the real widths of vocabulary rows, 768 and 1280,
and few layers of random weights.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from creatok_cli.backbones._clip import ClipTower, ClipWords
from creatok_cli.tokens.file import read_rows, save_token
from creatok_cli.tokens.profiles import export
from creatok_cli.tokens.token import Token
from tests.tiny import POSITIONS, _write_tokenizer
from tests.unit.tokens.kit import real_token

PROMPTS = ("a photo of a <cretok> owl", "<cretok>", "a pig", "a <cretok> mixture of a <cretok> fox")
CLOSE = 1e-5
"""Batches of another size round differently in f32 (3e-6 measured, values up to 4)."""


def encoder(width: int, vocabulary: int, *, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        max_position_embeddings=POSITIONS,
        projection_dim=width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        hidden_act="gelu" if projected else "quick_gelu",
    )
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()
    with torch.no_grad():  # else prompts would hardly differ
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model


def parts(folder: Path, *, cross: int) -> dict[str, Any]:
    """What the pipelines share beside their text encoders."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTokenizer

    vocabulary = _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
    sdxl: dict[str, Any] = {}
    if cross == 2048:
        sdxl = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 1280 + 6 * 8,
        }
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        **sdxl,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    return {
        "vae": vae,
        "unet": unet,
        "scheduler": EulerDiscreteScheduler(steps_offset=1),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": encoder(768, vocabulary, projected=False),
    }


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(5)
        folder = tmp_path_factory.mktemp("sd15")
        sd15 = StableDiffusionPipeline(
            **parts(folder, cross=768),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        folder = tmp_path_factory.mktemp("sdxl")
        vocabulary = _write_tokenizer(folder / "tokenizer_2", pad="!")
        sdxl = StableDiffusionXLPipeline(
            **parts(folder, cross=2048),
            tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
            text_encoder_2=encoder(1280, vocabulary, projected=True),
            add_watermarker=False,
        )
    return {"sd15": sd15, "sdxl": sdxl}


TOWERS = {
    "sd15": {"clip_l": ("learned_embeds.safetensors", "tokenizer", "text_encoder")},
    "sdxl": {
        "clip_l": ("learned_embeds.safetensors", "tokenizer", "text_encoder"),
        "clip_g": ("learned_embeds_2.safetensors", "tokenizer_2", "text_encoder_2"),
    },
}


def files_of(folder: Path, token: Token) -> None:
    save_token(folder / "native" / "x.safetensors", token)
    header, rows = read_rows(folder / "native" / "x.safetensors")
    for name, data in export(header, rows, "diffusers", stem="cretok").files.items():
        (folder / name).write_bytes(data)


def ours(pipeline: Any, name: str, parts: tuple[str, str, str], token: Token) -> Tensor:
    """Pooled embeddings [b d] by creatok's own tower over untouched copies."""
    words = ClipWords(name, copy.deepcopy(getattr(pipeline, parts[1])), POSITIONS)
    tower = ClipTower(words, copy.deepcopy(getattr(pipeline, parts[2])))
    with torch.no_grad():
        return tower.pooled(PROMPTS, [token])


def theirs(pipeline: Any, parts: tuple[str, str, str]) -> Tensor:
    """The same by the library: its prompt conversion, its tokenizer, its pooling."""
    tokenizer, model = getattr(pipeline, parts[1]), getattr(pipeline, parts[2])
    converted = pipeline.maybe_convert_prompt(list(PROMPTS), tokenizer)
    ids = tokenizer(
        converted, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        found = model(ids)
    pooled: Tensor = getattr(found, "text_embeds", None)
    return found.pooler_output if pooled is None else pooled


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("family", TOWERS)
def test_diffusers_loads_our_files_and_pools_as_we_do(
    tmp_path: Path, pipelines: dict[str, Any], family: str, n: int
) -> None:
    pipeline = copy.deepcopy(pipelines[family])
    token = real_token(family, n=n, word="<cretok>")
    files_of(tmp_path, token)
    expected = {name: ours(pipeline, name, each, token) for name, each in TOWERS[family].items()}
    plain = {name: theirs(pipeline, each) for name, each in TOWERS[family].items()}
    for file, tokenizer, model in TOWERS[family].values():
        pipeline.load_textual_inversion(
            str(tmp_path),
            weight_name=file,
            use_safetensors=True,
            tokenizer=getattr(pipeline, tokenizer),
            text_encoder=getattr(pipeline, model),
        )
    for name, each in TOWERS[family].items():
        found = theirs(pipeline, each)
        torch.testing.assert_close(found, expected[name], rtol=0, atol=CLOSE)
        with_word = [index for index, prompt in enumerate(PROMPTS) if "<cretok>" in prompt]
        assert (found - plain[name])[with_word].abs().amax() > 0.01
    if family == "sdxl":
        with torch.no_grad():
            pooled = pipeline.encode_prompt(
                PROMPTS[0], device="cpu", do_classifier_free_guidance=False
            )[2]
        torch.testing.assert_close(pooled[0], expected["clip_g"][0], rtol=0, atol=CLOSE)


def test_one_file_for_two_encoders_would_not_load(
    tmp_path: Path, pipelines: dict[str, Any]
) -> None:
    """Why there is one file per encoder."""
    save_token(tmp_path / "x.safetensors", real_token("sdxl", word="<cretok>"))
    with pytest.raises(ValueError, match="single key"):
        copy.deepcopy(pipelines["sdxl"]).load_textual_inversion(
            str(tmp_path), weight_name="x.safetensors", use_safetensors=True
        )
