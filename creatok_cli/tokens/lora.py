"""LoRA files: low-rank weights under the names of any trainer, checked before anything opens them.

A LoRA (Hu et al. 2021, arXiv 2106.09685) changes matrices of a base by scale * alpha / rank * B A.
Read are the names of diffusers (`transformer.<module>.lora_A.weight`, `.lora.down.weight`,
`.to_q_lora.down.weight`, `.lora_linear_layer.down.weight`), of kohya's trainer and OneTrainer
(`lora_unet_<module>.lora_down.weight`, `lora_te1_...`), ComfyUI (`diffusion_model.<module>...`),
XLabs and peft alone; alphas come from keys or from `lora_adapter_metadata`. Headers and values are
checked without torch.

Does not: read pickle, LoHa, LoKr or DoRA, or know which module of a base a name means
(`backbones/_lora_names.py` does).
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from creatok_cli.errors import Refused
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.tokens._layout import Layout, read_layout
from creatok_cli.tokens.file import pack, read_raw
from creatok_cli.tokens.token import row_bytes

if TYPE_CHECKING:
    from torch import Tensor

MAX_LORA_BYTES = 4 * 2**30
"""Hyper-SD for FLUX takes 1.4 GB; a LoRA of rank 128 for the largest bases, in f32, twice that."""
MAX_RANK = 4096
MAX_ALPHA = 1e6
"""Trainers write 1 to a few times the rank; more is damage (set by eye)."""
MAX_NAME = 300
WEIGHT_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""
METADATA_KEY = "lora_adapter_metadata"
ALPHA_FORMATS = {"F32": "<f", "F16": "<e", "F64": "<d", "I64": "<q", "I32": "<i"}
"""Tools that merge or resize LoRAs write alphas as they come."""
DENOISER = "denoiser"
"""The part of names that only say: the UNet or the transformer, whichever the base has."""

_PART = re.compile(r"[a-z0-9_]{1,40}")
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,20}")
_HALF = re.compile(
    r"\.lora_(?P<peft>[AB])\.weight"
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|\.(?:lora|lora_linear_layer)\.(?P<plain>down|up)\.weight"
    r"|(?:\.processor)?\.(?P<target>to_q|to_k|to_v|to_out)_lora\.(?P<old>down|up)\.weight"
    r"|\.processor\.(?P<layer>qkv|proj)_lora(?P<stream>[12]?)\.(?P<xlabs>down|up)\.weight"
)
_HALVES = ("peft", "kohya", "plain", "old", "xlabs")
_STREAMS = {"1": "img_attn", "2": "txt_attn", "": "processor"}
"""What XLabs numbers in a block of FLUX; a single block has one stream."""
_OTHER_KINDS = (
    *("dora_scale", "lora_magnitude_vector", "lokr_", "hada_", "oft_", "lora_controlnet"),
    *("lora_mid.", "glora_", "ia3_"),
)
_TRAINERS = {
    **{"lora_unet_": DENOISER, "lora_transformer_": DENOISER},
    **{"lora_te_": "text_encoder", "lora_te1_": "text_encoder"},
    **{"lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3"},
    **{"diffusion_model.": DENOISER, "base_model.model.": DENOISER},
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
"""How names of kohya and OneTrainer, ComfyUI and peft begin, and the part that each means."""
_BARE = ("double_blocks.", "single_blocks.")
"""Blocks of FLUX whose names XLabs writes without a part."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """One changed matrix: factor * (up @ down)."""

    part: str
    """Of the base, as diffusers calls it: `transformer`, `text_encoder`, `prior`; or `DENOISER`."""
    module: str
    """As the file calls it: with dots, or with `_` for them as kohya writes."""
    down: str
    """Key of A [r in] or, for a convolution, [r in h w]."""
    up: str
    """Key of B [out r] or [out r 1 1]."""
    shape: tuple[int, ...]
    """[out in] or [out in h w] of the whole matrix."""
    rank: int
    factor: float
    """alpha / rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraHeader:
    """What a LoRA file says about itself, verified, without torch."""

    path: str
    digest: str
    """`sha256:...` of the file."""
    changes: tuple[LowRank, ...]
    """By part and module."""
    metadata: Mapping[str, str]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a base that it changes."""
        return tuple(dict.fromkeys(change.part for change in self.changes))


def read_lora(path: str | os.PathLike[str]) -> LoraHeader:
    """Read and verify a LoRA file without torch; a file that has not changed since is not read
    again by the same process.

    Raises TokenMissing (no such file), Refused (no LoRA, or one that cannot be used) or
    DigestMismatch (damaged).
    """
    where = os.fspath(path)
    try:
        facts = os.stat(where)
    except (OSError, ValueError):
        return read_changes(where)[0]  # which says what is wrong
    return _read_once(
        where, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    )


@lru_cache(maxsize=64)
def _read_once(where: str, *_facts: int) -> LoraHeader:
    return read_changes(where)[0]


def read_changes(path: str | os.PathLike[str]) -> tuple[LoraHeader, bytes, Layout]:
    """`read_lora` with the bytes of the file and where its tensors lie in them."""
    data, layout = read_raw(path, what="LoRA", limit=MAX_LORA_BYTES)
    return _verify(data, layout, os.fspath(path)), data, layout


def check_lora(data: bytes, where: str) -> LoraHeader:
    """The verified header of a LoRA file that is not written yet. Raises as `read_lora`."""
    return _verify(data, read_layout(io.BytesIO(data), len(data), where), where)


def lora_bytes(tensors: Mapping[str, Tensor], recipe: Mapping[str, Any], *, title: str) -> bytes:
    """The file of trained low-rank weights in f32, with what made them. Equal weights and recipe
    give equal bytes. Raises Refused for values that are not finite.
    """
    rows = {name: (tuple(each.shape), row_bytes(each)) for name, each in tensors.items()}
    metadata = {
        "format": "pt",
        "modelspec.architecture": str(recipe.get("architecture", "creatok/lora")),
        "modelspec.title": title,
        "creatok.recipe": canonical_json(dict(recipe)),
    }
    data = pack(rows, metadata)
    check_lora(data, f"LoRA {title}")
    return data


def _verify(data: bytes, layout: Layout, where: str) -> LoraHeader:
    if "creatok.id" in layout.metadata:
        raise Refused(f"{where}: a creatok token, no LoRA: declare it under tokens")
    if not layout.tensors:
        raise Refused(f"{where}: a safetensors file without tensors, no LoRA")
    halves: dict[tuple[str, str], dict[str, str]] = {}
    alphas: dict[tuple[str, str], str] = {}
    for name in layout.tensors:
        part, module, half = _named(name, where)
        if half == "alpha":
            alphas[part, module] = name
        elif halves.setdefault((part, module), {}).setdefault(half, name) != name:
            raise Refused(f"{where}: two tensors say the same half of {module[:100]}")
    for part, module in alphas.keys() - halves.keys():
        raise Refused(f"{where}: an alpha without weights: {part}.{module[:100]}")
    for name, (dtype, _, first, last) in layout.tensors.items():
        if dtype in ALPHA_FORMATS and name.endswith(".alpha"):
            continue  # one number, checked where it is read
        if dtype not in NOT_FINITE:
            raise Refused(f"{where}: {name[:100]!r} is {dtype[:10]}; expected F32, F16 or BF16")
        if not is_finite(dtype, data[first:last]):
            raise Refused(f"{where}: {name[:100]!r} has values that are not finite: damaged")
    settings = _settings(layout.metadata, where)
    changes = []
    for (part, module), found in sorted(halves.items()):
        alpha = None
        if (part, module) in alphas:
            alpha = _alpha(data, layout, alphas[part, module], where)
        changes.append(_change(part, module, found, layout, alpha, settings, where))
    return LoraHeader(
        path=where,
        digest=f"sha256:{sha256_hex(data)}",
        changes=tuple(changes),
        metadata=layout.metadata,
    )


def _named(name: str, where: str) -> tuple[str, str, str]:
    """(part, module, `down`, `up` or `alpha`) of a key. Raises Refused."""
    if any(kind in name for kind in _OTHER_KINDS):
        raise Refused(
            f"{where}: {name[:100]!r} is no plain LoRA weight: DoRA, LoKr, LoHa and kernels in "
            "three factors cannot be drawn"
        )
    stem, half = name.removesuffix(".alpha"), "alpha"
    if stem == name:
        found = _HALF.search(name)
        if found is None or found.end() != len(name):
            raise Refused(f"{where}: {name[:100]!r} is no name of a LoRA weight")
        half = next(found[kind] for kind in _HALVES if found[kind])
        half = {"A": "down", "B": "up"}.get(half, half)
        stem = name[: found.start()]
        if found["target"]:
            stem += f".{found['target']}" + (".0" if found["target"] == "to_out" else "")
        elif found["layer"]:
            stem += f".{_STREAMS[found['stream']]}.{found['layer']}"
    part, module = _divided(stem)
    if len(name) > MAX_NAME or not _PART.fullmatch(part) or not _MODULE.fullmatch(module):
        raise Refused(f"{where}: {name[:100]!r} names no part and module of a base")
    return part, module, half


def _divided(stem: str) -> tuple[str, str]:
    """(part, module) of a name without its end."""
    for begin, part in _TRAINERS.items():
        if stem.startswith(begin):
            return part, stem.removeprefix(begin)
    if stem.startswith(_BARE):
        return DENOISER, stem
    part, _, module = stem.partition(".")
    return part, module


def _change(
    part: str,
    module: str,
    halves: Mapping[str, str],
    layout: Layout,
    alpha: float | None,
    settings: Mapping[str, Any],
    where: str,
) -> LowRank:
    missing = sorted({"down", "up"} - halves.keys())
    if missing:
        raise Refused(f"{where}: {part}.{module[:100]} lacks its half {missing[0]!r}")
    down, up = layout.tensors[halves["down"]][1], layout.tensors[halves["up"]][1]
    rank = down[0] if down else 0
    is_matched = len(down) == len(up) and up[1:2] == (rank,) and 1 <= rank <= MAX_RANK
    is_plain = len(down) == 2 or (len(down) == 4 and up[2:] == (1, 1))
    if not (is_matched and is_plain) or 0 in (*down, *up):
        raise Refused(
            f"{where}: {part}.{module[:100]} has shapes {list(down)} and {list(up)}; "
            "expected [r in] and [out r]"
        )
    if alpha is None:
        alpha = _pattern(settings.get(f"{part}.alpha_pattern"), module)
    if alpha is None:
        alpha = settings.get(f"{part}.lora_alpha", rank)
    if type(alpha) not in (int, float) or not -MAX_ALPHA <= alpha <= MAX_ALPHA:
        raise Refused(f"{where}: the alpha of {part}.{module[:100]} is no number below 1e6")
    share = math.sqrt(rank) if settings.get(f"{part}.use_rslora") is True else rank
    shape = (up[0], *down[1:])
    return LowRank(part, module, halves["down"], halves["up"], shape, rank, alpha / share)


def _pattern(patterns: Any, module: str) -> Any:
    """The entry of peft's `alpha_pattern` for a module: the first that its name ends with. Read as
    plain text, though peft reads them as expressions: files decide no expressions here.
    """
    for pattern, alpha in patterns.items() if isinstance(patterns, dict) else ():
        if f".{module}".endswith(f".{str(pattern).removeprefix('^')}"):
            return alpha
    return None


def _settings(metadata: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """The peft settings that diffusers stores beside the weights, by `part.name`."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f"{where}: its {METADATA_KEY} is no JSON object")
    for name, value in found.items():
        if name.endswith((".use_dora", ".lora_bias")) and value is True:
            raise Refused(f"{where}: {name[:60]} cannot be drawn: plain LoRA only")
    return found


def _alpha(data: bytes, layout: Layout, name: str, where: str) -> float:
    dtype, shape, first, last = layout.tensors[name]
    if math.prod(shape) != 1:
        raise Refused(f"{where}: {name[:100]!r} is no single number")
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + data[first:last])[0])
    return float(struct.unpack(ALPHA_FORMATS[dtype], data[first:last])[0])


NOT_FINITE = {"F32": (4, 0x7F, 0x80), "BF16": (2, 0x7F, 0x80), "F16": (2, 0x7C, 0x00)}
"""Item bytes, and the bits of its highest and second highest byte that are all set in NaN and
infinity (IEEE 754; the sign left out).
"""


def is_finite(dtype: str, data: bytes) -> bool:
    """Whether little-endian numbers of one of `NOT_FINITE` are all finite, without reading them
    one by one.
    """
    item, high, second = NOT_FINITE[dtype]
    marked = data[item - 1 :: item].translate(_marks(high))
    if not second or _FULL not in marked:
        return _FULL not in marked
    found = int.from_bytes(marked, "little")
    return not found & int.from_bytes(data[item - 2 :: item].translate(_marks(second)), "little")


_FULL = 255


def _marks(bits: int) -> bytes:
    """A table for `translate`: `_FULL` for bytes that have all these bits, else 0."""
    return bytes(_FULL * (byte & bits == bits) for byte in range(256))
