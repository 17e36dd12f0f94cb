"""Which matrices of a base a LoRA's name means, whoever trained it.

kohya's trainer writes `_` for the dots of a module; SDXL is trained under the names of the original
UNet (`input_blocks.4.1`), FLUX and SD3 under those of their authors, where one matrix holds what
diffusers keeps as query, key and value. Names are looked up among those of the base itself, so a
wrong one is found before anything opens. The tables follow diffusers 0.42: `lora_conversion_utils`
for the UNet, `single_file_utils` for FLUX and SD3.

Does not: read a file, or import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.lora import DENOISER, LowRank

DENOISERS = ("unet", "transformer")
FLAT = "text_model."
"""Began the modules of text encoders in transformers before 5; LoRAs of either time are read."""

_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}
_SIDES = re.compile(r"(?P<side>input|output)_blocks_(?P<at>\d+)_(?P<inner>\d+)(?:_(?P<rest>.+))?")
_SPINE = re.compile(r"middle_block_(?P<at>[012])_(?P<rest>.+)")
_QKV, _ADDED = ("attn_to_q", "attn_to_k", "attn_to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_JOINT = {
    **{"attn_qkv": _QKV, "attn_proj": ("attn_to_out_0",)},
    **{"mlp_0": ("ff_net_0_proj",), "mlp_2": ("ff_net_2",), "mod_lin": ("norm1_linear",)},
}
_ADDED_JOINT = {
    "attn_qkv": tuple(f"attn_{name}" for name in _ADDED),
    "attn_proj": ("attn_to_add_out",),
    **{"mlp_0": ("ff_context_net_0_proj",), "mlp_2": ("ff_context_net_2",)},
    "mod_lin": ("norm1_context_linear",),
}
_SINGLE = {
    **{
        "linear1": (*_QKV, "proj_mlp"),
        "linear2": ("proj_out",),
        "modulation_lin": ("norm_linear",),
    },
    **{"processor_qkv": _QKV, "processor_proj": ("proj_out",)},
}
_SD3_WORDS = {"mlp_fc1": "mlp_0", "mlp_fc2": "mlp_2", "adaLN_modulation_1": "mod_lin"}
_BLOCKS = (
    (re.compile(r"double_blocks_(\d+)_img_(.+)"), "transformer_blocks", _JOINT),
    (re.compile(r"double_blocks_(\d+)_txt_(.+)"), "transformer_blocks", _ADDED_JOINT),
    (re.compile(r"single_blocks_(\d+)_(.+)"), "single_transformer_blocks", _SINGLE),
    (re.compile(r"joint_blocks_(\d+)_x_block_(.+)"), "transformer_blocks", _JOINT),
    (re.compile(r"joint_blocks_(\d+)_context_block_(.+)"), "transformer_blocks", _ADDED_JOINT),
)
_EMBEDDERS = {
    **{"time": "timestep", "t": "timestep", "vector": "text", "y": "text"},
    "guidance": "guidance",
}
_EMBEDDER = re.compile(
    r"(?P<of>time|vector|guidance)_in_(?P<first>in|out)_layer|(?P<sd3>[ty])_embedder_mlp_(?P<at>[02])"
)
_TOPS = {
    **{"time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2"},
    **{"label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2"},
    **{"out_2": "conv_out", "img_in": "x_embedder", "txt_in": "context_embedder"},
    **{"x_embedder_proj": "pos_embed_proj", "final_layer_linear": "proj_out"},
    "final_layer_adaLN_modulation_1": "norm_out_linear",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a LoRA's product, and where in a matrix of the base they are added."""

    module: str
    at: int
    """First row in the base's matrix."""
    first: int
    last: int
    """Rows of the product, from `first` up to but without `last`."""


class Modules:
    """The matrices of one part of a base, under every name that LoRA files have for them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self._flat: dict[str, str] = {}
        for name in shapes:
            flat = _flat(name)
            # Two modules with one flat name: neither can be meant by it.
            self._flat[flat] = "" if flat in self._flat else name
        resnets = (f"down_blocks.0.resnets.{at}.conv1" for at in range(16))
        self._per_block = 1 + sum(name in shapes for name in resnets)

    def pieces(self, change: LowRank) -> tuple[Piece, ...]:
        """Where a change goes. Raises ArtefactError for one that has no place here."""
        names = self._find(change.module)
        begin = (
            f"it changes {change.part}.{change.module[:100]} {list(change.shape)}, the base has "
        )
        advice = "; use the base it was trained on"
        if not names:
            raise ArtefactError(f"{begin}no such matrix{advice}")
        shapes = [self.shapes[name] for name in names]
        whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if _plain(whole) != _plain(change.shape):
            raise ArtefactError(f"{begin} one of shape {list(whole)}{advice}")
        if self._is_turned(change.module, names[0]):
            return tuple(_turned(names[0], shapes[0][0]))
        ends = list(accumulate(shape[0] for shape in shapes))
        return tuple(
            Piece(name, 0, end - shape[0], end)
            for name, shape, end in zip(names, shapes, ends, strict=True)
        )

    def _find(self, module: str) -> tuple[str, ...]:
        """Names of the base's modules, in the order of their rows; empty when there are none."""
        for name in spellings(module):
            if name in self.shapes:
                return (name,)
        flat = _flat(module)
        for wanted in ((flat,), _from_unet(flat, self._per_block), _from_transformer(flat)):
            found = tuple(self._flat.get(name, "") for name in wanted)
            if found and all(found):
                return found
        return ()

    def _is_turned(self, module: str, name: str) -> bool:
        """Whether the authors write shift before scale where diffusers has scale before shift:
        where a stream of a transformer ends.
        """
        if "adaLN_modulation" not in module:
            return False
        rows, columns = self.shapes[name]
        return rows == 2 * columns


def spellings(module: str) -> tuple[str, ...]:
    """A module's name as the file says it, and as older or newer libraries spell it."""
    return module, module.removeprefix(FLAT), FLAT + module


def part_of(change: LowRank, parts: tuple[str, ...]) -> str:
    """The part of a base with these parts that a change belongs to."""
    if change.part != DENOISER:
        return change.part
    return next((part for part in DENOISERS if part in parts), DENOISER)


def _flat(module: str) -> str:
    return module.replace(".", "_").removeprefix("text_model_")


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution with a kernel of one pixel is a matrix: trainers write either."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _turned(module: str, rows: int) -> Iterator[Piece]:
    half = rows // 2
    yield Piece(module, 0, half, rows)
    yield Piece(module, half, 0, half)


def _from_unet(flat: str, per_block: int) -> tuple[str, ...]:
    """Diffusers' name of a module of the original UNet, whose blocks are counted through:
    `per_block` of them are one block of diffusers.
    """
    if flat == "input_blocks_0_0":
        return ("conv_in",)
    middle = _SPINE.fullmatch(flat)
    if middle:
        rest = _RESNET.get(middle["rest"], middle["rest"])
        return (f"mid_block_{_MIDDLE[middle['at']]}_{rest}",)
    found = _SIDES.fullmatch(flat)
    if found is None:
        return ()
    rest = _RESNET.get(str(found["rest"]), found["rest"])
    kind = "resnets" if found["inner"] == "0" else "attentions"
    if found["side"] == "input":
        block, layer = divmod(int(found["at"]) - 1, per_block)
        inner = f"downsamplers_0_{'conv' if rest == 'op' else rest}"
        is_sampler = layer == per_block - 1
        return (f"down_blocks_{block}_{inner if is_sampler else f'{kind}_{layer}_{rest}'}",)
    block, layer = divmod(int(found["at"]), per_block)
    inner = "upsamplers_0_conv" if rest == "conv" else f"{kind}_{layer}_{rest}"
    return (f"up_blocks_{block}_{inner}",)


def _from_transformer(flat: str) -> tuple[str, ...]:
    """Diffusers' names of a module of FLUX or SD3 as their authors call it."""
    if flat in _TOPS:
        return (_TOPS[flat],)
    found = _EMBEDDER.fullmatch(flat)
    if found:
        of = _EMBEDDERS[found["of"] or found["sd3"]]
        number = 1 if found["first"] == "in" or found["at"] == "0" else 2
        return (f"time_text_embed_{of}_embedder_linear_{number}",)
    for pattern, block, table in _BLOCKS:
        found = pattern.fullmatch(flat)
        if found:
            word = found[2].replace("attn2_", "attn_")
            names = table.get(_SD3_WORDS.get(word, word), ())
            second = "attn2_" in found[2]  # the further attention of SD3.5-medium
            return tuple(
                f"{block}_{found[1]}_{name.replace('attn_', 'attn2_') if second else name}"
                for name in names
            )
    return ()
