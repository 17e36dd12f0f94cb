"""How much memory a base needs, and how it is to live in what is there.

Weights are counted from the headers of their files, so the figures are exact; what layers write
while they work is a simple model whose coefficients are estimates, not yet measured on a device.
The ladder: everything on the device; one model at a time; the denoiser layer by layer. The first
rung that fits is taken. Text encoders are no part of it: they are dropped before anything is drawn,
and only T5 is large enough to be read layer by layer.

Does not: read weights, move models (`_placing.py` does), or import torch before a device is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from creatok_cli.backbones._storage import STORAGES
from creatok_cli.backbones._vet import weight_files
from creatok_cli.backbones.base import Fit, Load, Room, Rung
from creatok_cli.errors import OutOfMemory
from creatok_cli.tokens._layout import read_layout

GIB = 2**30
HEADROOM_BYTES = GIB // 2
"""Left free for what else the device does, and for holes between tensors (set by eye)."""
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
DENOISERS = ("transformer", "unet")
DECODERS = ("vae", "movq")
DECODE_PIXELS = 4 * 512 * 512
"""Pictures are decoded in slices of at most this many pixels (rows are independent): one of 1024 x
1024 at a time, which keeps a device busy.
"""
TRANSFORMER_WIDTHS = 16
"""Rows of a transformer's width that live at once per token: residual, norm, q, k, v, attention,
the MLP's four before and four after its activation, two to spare (counted in a joint block).
"""
UNET_WIDTHS = 24
"""Maps of a UNet's first width that live at once per latent pixel: about seven that wait for the
way up, eight inside a gated MLP, the rest inside a residual block (counted in SD1.5's).
"""
DECODER_WIDTHS = 10
"""Maps of a decoder's last width that live at once per pixel: its last upsampling has twice that
width, and keeps input, output and workspace of a convolution.
"""
T5_BYTES, CLIP_BYTES = GIB // 2, GIB // 16
"""What T5-XXL and CLIP write for one chunk of 8 prompts: 256 and 77 places of 16 widths in bf16."""
TEXT_TOKENS = 333
"""Places of text beside those of the picture: 77 of CLIP and 256 of T5."""
LEAF_SHARE = 8
"""A UNet or T5 that is read leaf by leaf has at most this share of itself on the device at once."""
SMALLER = "storage fp8 (--set options.storage=fp8, which changes pixels), "
HOW = {
    "full": "everything stays on the device",
    "offload": "one model at a time is on the device",
    "group": "the denoiser is read layer by layer, which is slower",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes on the device, by what takes them."""

    towers: int
    """CLIP encoders."""
    t5: int
    denoiser: int
    layer: int
    """Most of the denoiser that is there at once, layer by layer."""
    others: tuple[int, ...]
    """Decoder and prior, each by itself."""
    drawing: int
    """What the denoiser writes."""
    decoding: int
    """What the decoder writes."""

    def words(self, rung: Rung) -> int:
        """Most that encoding text takes."""
        t5 = self.t5 if rung == "full" else self.t5 // LEAF_SHARE
        writing = T5_BYTES if self.t5 else CLIP_BYTES if self.towers else 0
        return self.towers + t5 + writing

    def picture(self, rung: Rung) -> int:
        """Most that drawing takes."""
        if rung == "full":
            return self.denoiser + sum(self.others) + max(self.drawing, self.decoding)
        drawing = self.drawing + (self.denoiser if rung == "offload" else self.layer)
        return max(drawing, self.decoding + max(self.others, default=0), *self.others, 0)

    @property
    def least(self) -> int:
        """Weights that must be on the device at once on the lowest rung: no estimate."""
        words = self.towers + self.t5 // LEAF_SHARE
        return max(words, self.layer, *self.others, 0)


def needs(folders: Sequence[str], dtype: str, load: Load, storage: str = "") -> Needs | None:
    """What the bases' folders need for a load; None where they hold no denoiser to look at."""
    item, own = ITEM_BYTES[dtype], folders[0]
    found = {place: {p: _elements(place, p) for p in _parts(place)} for place in folders}
    counts = {part: each for place in reversed(folders) for part, each in found[place].items()}
    denoiser = next((part for part in DENOISERS if part in counts), "")
    if not denoiser:
        return None
    each = STORAGES.get(storage, item)
    blocks = {name: round(count * each) for name, count in counts[denoiser].items()}
    rest, whole = blocks.pop("", 0), sum(counts[denoiser].values())
    size = round(whole * each)
    # With a stream the next block is already on its way while one works.
    layer = rest + 2 * max(blocks.values(), default=0) if denoiser == "transformer" else 0
    texts = [_texts(place, found[place]) for place in folders]
    return Needs(
        # Where a prior has encoders of its own, only one folder's are there at a time.
        towers=max(towers for towers, _ in texts) * item,
        t5=max(t5 for _, t5 in texts) * item,
        denoiser=size,
        layer=min(layer, size) or size // LEAF_SHARE,
        others=tuple(
            sum(counts[part].values()) * item for part in (*DECODERS, "prior") if part in counts
        ),
        drawing=_drawing(_config(own, denoiser), _scale(own, counts), load, item),
        decoding=_decoding(own, counts, load, dtype),
    )


def _drawing(config: Mapping[str, Any], scale: int, load: Load, item: int) -> int:
    """What a denoiser writes at once."""
    rows = load.rows * (2 if load.is_guided else 1)
    width, height = (side // scale for side in load.size_px)
    channels = config.get("block_out_channels")
    if channels:
        return int(rows * width * height * channels[0] * UNET_WIDTHS * item)
    inner = int(config.get("num_attention_heads") or 1) * int(config.get("attention_head_dim") or 1)
    patch = max(2, int(config.get("patch_size") or 2))
    tokens = width * height // patch**2 + TEXT_TOKENS
    # SD3.5-medium attends twice in some blocks (0.77 GiB counted at 1024 px, 0.43 without).
    widths = TRANSFORMER_WIDTHS * (2 if config.get("dual_attention_layers") else 1)
    return rows * tokens * inner * widths * item


def _decoding(folder: str, counts: Mapping[str, Any], load: Load, dtype: str) -> int:
    """What a decoder writes at once."""
    part = next((part for part in DECODERS if part in counts), "")
    config = _config(folder, part) if part else {}
    channels = config.get("block_out_channels") or [0]
    # Of SDXL alone, the one family whose UNet reads sizes (see `_vae.Vae`).
    reads_sizes = bool(_config(folder, "unet").get("addition_embed_type"))
    is_widened = reads_sizes and bool(config.get("force_upcast")) and dtype == "fp16"
    item = 4 if is_widened else ITEM_BYTES[dtype]
    area = load.size_px[0] * load.size_px[1]
    pixels = min(load.rows * area, max(area, DECODE_PIXELS))
    return int(pixels * channels[0] * DECODER_WIDTHS * item)


def _scale(folder: str, counts: Mapping[str, Any]) -> int:
    """Pixels per latent, along each side."""
    part = next((part for part in DECODERS if part in counts), "")
    blocks = _config(folder, part).get("block_out_channels") if part else None
    return int(2 ** (len(blocks) - 1)) if blocks else 8


def _texts(folder: str, counts: Mapping[str, Mapping[str, int]]) -> tuple[int, int]:
    """(weights of the CLIP encoders, of T5)."""
    found = {part: sum(each.values()) for part, each in counts.items() if "text_encoder" in part}
    t5 = sum(n for part, n in found.items() if _config(folder, part).get("model_type") == "t5")
    return sum(found.values()) - t5, t5


@lru_cache(maxsize=64)
def _parts(folder: str) -> tuple[str, ...]:
    """Parts of a diffusers folder that have weights, in the order of its index."""
    index = _json(Path(folder) / "model_index.json")
    named = [part for part, entry in index.items() if isinstance(entry, list)]
    # Published Stable Diffusion 1 has a checker beside the parts that are opened.
    return tuple(p for p in named if p != "safety_checker" and weight_files(folder, p))


@lru_cache(maxsize=64)
def _elements(folder: str, part: str) -> Mapping[str, int]:
    """Weights by block (`transformer_blocks.3`), those outside of blocks under the empty name.

    A tensor that stands in several files counts once.
    """
    found: dict[str, int] = {}
    for path in weight_files(folder, part):
        with path.open("rb") as file:
            layout = read_layout(file, path.stat().st_size, str(path))
        for name, (_, shape, _, _) in layout.tensors.items():
            count = 1
            for length in shape:
                count *= length
            found[name] = count
    blocks: dict[str, int] = {}
    for name, count in found.items():
        block = re.match(r"[A-Za-z_]+\.\d+(?=\.)", name)
        place = block.group() if block else ""
        blocks[place] = blocks.get(place, 0) + count
    return blocks


def _config(folder: str, part: str) -> Mapping[str, Any]:
    return _json(Path(folder) / part / "config.json")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def spare_bytes(device: str, vram_gib: float | None) -> int | None:
    """What may be taken on a device: what is free less a little, within the cap; a cap below 0 is
    what stays free (as in stable-diffusion.cpp). None where memory is not counted: CPU, MPS.
    """
    free = free_bytes(device)
    if free is None:
        return None
    if vram_gib is None:
        return max(0, free - HEADROOM_BYTES)
    asked = round(vram_gib * GIB)
    return max(0, free + asked if asked < 0 else min(asked, free - HEADROOM_BYTES))


def free_bytes(device: str) -> int | None:
    """Free memory of a CUDA device; None for any other."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def cap(device: str, vram_gib: float | None) -> None:
    """Let this process take no more than asked, whatever is estimated."""
    if vram_gib is None or vram_gib <= 0 or not device.startswith("cuda"):
        return
    import torch

    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, vram_gib * GIB / total), device)


def choose(
    all_needs: Sequence[Needs], spare: int, *, what: str, device: str, storage: str = ""
) -> Fit:
    """The first rungs on which the largest of several needs fits; the lowest where none does.

    Raises OutOfMemory where the weights alone do not fit.
    """
    least = max(each.least for each in all_needs)
    if least > spare:
        raise OutOfMemory(
            f"{what} needs {_gib(least)} for its weights even layer by layer, {_gib(spare)} can be "
            f"used on {device}: choose {'' if storage else SMALLER}another base, or a larger device"
        )
    rungs: tuple[Rung, ...] = ("full", "offload", "group")
    taken = {rung: max(each.picture(rung) for each in all_needs) for rung in rungs}
    rung = next((each for each in rungs if taken[each] <= spare), "group")
    is_long = any(each.t5 and each.words("full") > spare for each in all_needs)
    words: Rung = "group" if is_long else "full"
    is_tight = max(taken[rung], *(each.words(words) for each in all_needs)) > spare
    spoken = HOW[rung] + ("; T5 is read layer by layer" if words == "group" else "")
    message = (
        f"{_gib(spare)} can be used on {device}; {what} would take about {_gib(taken['full'])} "
        f"at once: {spoken}"
    )
    if is_tight:
        message += (
            f", and about {_gib(taken[rung])} may still be too much: choose "
            f"{'' if storage else SMALLER}smaller pictures, or --batch-size 1"
        )
    return Fit(Room(rung, words), message, is_tight)


def make_room(
    folders: Sequence[str],
    loads: Sequence[Load],
    *,
    dtype: str,
    storage: str,
    name: str,
    device: str,
    vram_gib: float | None,
    compiled: bool,
) -> Fit:
    """How a base is to live on a device. Raises OutOfMemory."""
    spare = spare_bytes(device, vram_gib)
    compiled = compiled and not storage
    found = [needs(folders, dtype, load, storage) for load in loads] if spare is not None else []
    known = [each for each in found if each is not None]
    if spare is None or not known:
        return Fit(Room(is_compiled=compiled))
    what = f"{name} in {dtype}" + (f" stored in {storage}" if storage else "")
    fit = choose(known, spare, what=what, device=device, storage=storage)
    room = replace(fit.room, is_compiled=compiled and fit.room.rung == "full")
    return replace(fit, room=room)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:.3g} MiB"
