"""The parts of the bestiary model: sizes, real classes, and the small tokenizer.

A Stable-Diffusion-3-shaped model (Esser et al., 2024, arXiv 2403.03206) at about a two-hundredth of
the size: two CLIP text towers of different width, an AutoencoderKL with factor 4, an SD3
transformer, no T5. The image halves of the two CLIP models ship too, as labelers and as embedding
of pictures.

Does not: train, load or save weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from creatok_cli.backbones.bestiary.captions import WORDS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPModel, CLIPTokenizer

POSITIONS = 24
"""Text positions of both towers, start and end included."""
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """Sizes of one CLIP model; the projection is as wide as the text tower, as in SD3."""

    width: int
    text_layers: int
    image_layers: int
    heads: int
    patch_px: int = 8


TOWERS = {
    "l": Tower(width=128, text_layers=4, image_layers=4, heads=2),
    "g": Tower(width=192, text_layers=4, image_layers=5, heads=3),
}
JOINT_WIDTH = sum(tower.width for tower in TOWERS.values())
"""Width of the text sequence and of the pooled vector that the denoiser reads: both towers side by
side.
"""


def _merges_for(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges that turn each word into one id.

    Words are taken one by one: what the merges so far leave of a word is joined from the left, and
    each joint becomes a new, weaker merge. A later merge cannot break an earlier word, which the
    stronger merges complete first.
    """
    merges: list[tuple[str, str]] = []
    rank: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            known = [(rank[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in rank]
            at = min(known)[1] if known else 0
            pair = (pieces[at], pieces[at + 1])
            if pair not in rank:
                rank[pair] = len(merges)
                merges.append(pair)
            pieces[at : at + 2] = ["".join(pair)]
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which each word of the captions is one id and any other text falls back
    to bytes.

    EOS has the largest id, as in real CLIP, so that `argmax(input_ids)` and the first EOS agree
    until tokens are added.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    pieces = alphabet + [f"{letter}</w>" for letter in alphabet]
    merges = _merges_for(WORDS)
    for left, right in merges:
        if left + right not in pieces:
            pieces.append(left + right)
    pieces += [START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=POSITIONS,
    )


def build_clip(name: str, tokenizer: CLIPTokenizer) -> CLIPModel:
    """One of the two CLIP models (Radford et al., 2021), `l` or `g`, freshly initialised."""
    from transformers import CLIPConfig, CLIPModel

    tower = TOWERS[name]
    shared: dict[str, Any] = {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_attention_heads": tower.heads,
        "projection_dim": tower.width,
        "hidden_act": "quick_gelu" if name == "l" else "gelu",
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": POSITIONS,
        "num_hidden_layers": tower.text_layers,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **shared,
    }
    image = {
        "image_size": 64,
        "patch_size": tower.patch_px,
        "num_hidden_layers": tower.image_layers,
        **shared,
    }
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=tower.width)
    return CLIPModel(config)


def build_vae() -> AutoencoderKL:
    """The picture autoencoder: factor 4, 8 latent channels, no attention."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_transformer() -> SD3Transformer2DModel:
    """The denoiser: 64 image tokens and 24 text tokens, 8 joint blocks of width 192."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=8,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=JOINT_WIDTH,
        caption_projection_dim=192,
        pooled_projection_dim=JOINT_WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow, Euler; `shift` was chosen by eye at 8 steps."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
