"""Sprites on one canvas as plain data: what a picture pack holds, and its file.

A folder of pictures becomes Sprites in memory (`_els_pictures.py`); the same, with what was found
out about them, can be kept in one safetensors file, so that a folder of results stands alone. The
digest covers everything that decides pixels, so it is the digest of a base.

Does not: import torch (`_els_pack.py` makes tensors), or open pictures itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from creatok_cli.domain import Size
from creatok_cli.errors import DigestMismatch, InputError, ModelMissing, Refused
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.tokens._layout import write_layout
from creatok_cli.tokens.file import SUFFIX, read_raw

SCHEMA = 1
MAX_SPRITES = 20_000
MAX_SIDE_PX = 512
MAX_PIXELS = 2**26
"""Of all sprites together: 256 MiB here, 1 GiB as the tensors that are drawn from."""
KIND, FACTS, IDENTITY = "creatok.kind", "creatok.sprites", "creatok.id"
MACHINES = ("", "ls", "window", "els", "bbels", "ideal")
LONGEST_NAME, LONGEST_TAG, MOST_STEPS = 200, 40, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """One source."""

    name: str
    """Of its file, without ending; of a sheet or an animation with the place in it."""
    group: int
    """Sprites of one group are one creature: frames, mirrors, versions."""
    rgba: bytes
    """Straight alpha, 8 bit, row by row, on the common canvas."""
    tags: tuple[str, ...] = ()
    mirrored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprites:
    """All sources of a base, checked."""

    size_px: Size
    sprites: tuple[Sprite, ...]
    tile: bool = False
    """All of them tile."""
    kept: bytes = b""
    """A picture as `Sprite.rgba`, or nothing: its pixels are locked where `kept_mask` says 255."""
    kept_mask: bytes = b""
    """One byte per pixel."""
    machine: str = ""
    """What these sources are good for, empty where that was not found out."""
    schedule: tuple[int, ...] = ()
    """Calibrated windows from the lowest noise to the highest, empty where they were not."""
    notices: tuple[str, ...] = field(default=(), compare=False)
    """What a person should know of how they were read; not part of the digest."""

    @property
    def digest(self) -> str:
        """`sha256:...` over everything that decides pixels."""
        parts = [sha256_hex(each.rgba) for each in self.sprites]
        kept = [sha256_hex(self.kept), sha256_hex(self.kept_mask)]
        return "sha256:" + sha256_hex(canonical_json([facts_of(self), parts, kept]))


def facts_of(sprites: Sprites) -> dict[str, Any]:
    """All of it but the pixels, as JSON data."""
    return {
        "schema": SCHEMA,
        "size": list(sprites.size_px),
        "tile": sprites.tile,
        "machine": sprites.machine,
        "schedule": list(sprites.schedule),
        "sprites": [
            [each.name, each.group, list(each.tags), each.mirrored] for each in sprites.sprites
        ],
    }


def regrouped(sprites: Sprites, groups: Sequence[int]) -> Sprites:
    """The same sprites with other groups, one number for each."""
    pairs = zip(sprites.sprites, groups, strict=True)
    return replace(sprites, sprites=tuple(replace(each, group=group) for each, group in pairs))


def load_sprites(path: Path) -> Sprites:
    """The sprites of `els:PATH`: a folder of pictures, one picture, or a file of `sprites_bytes`.

    Raises ModelMissing where nothing is there, InputError or SheetError for pictures or tags that
    are wrong, Refused or DigestMismatch for a file that is.
    """
    from creatok_cli.backbones._els_pictures import gather, in_folder, read_tags, tags_beside

    if path.name.lower().endswith(SUFFIX):
        return read_sprites(path)
    if not path.exists():
        raise ModelMissing(f"{path}: no such folder of pictures; give els:FOLDER")
    found = in_folder(path) if path.is_dir() else [(path.stem, path)]
    beside = tags_beside(path)
    return gather(found, where=str(path), tags=read_tags(beside) if beside else None)


def sprites_bytes(sprites: Sprites) -> bytes:
    """The file of sprites. Equal sprites give equal bytes."""
    width, height = sprites.size_px
    pixels = b"".join(each.rgba for each in sprites.sprites)
    tensors = {"pixels": ("U8", (len(sprites.sprites), height, width, 4), pixels)}
    if sprites.kept_mask:
        tensors["kept"] = ("U8", (1, height, width, 4), sprites.kept)
        tensors["kept_mask"] = ("U8", (1, height, width, 1), sprites.kept_mask)
    metadata = {
        KIND: "sprites",
        FACTS: canonical_json(facts_of(sprites)),
        IDENTITY: sprites.digest,
        "modelspec.architecture": "creatok/sprites",
    }
    return write_layout(tensors, metadata)


def read_sprites(path: Path) -> Sprites:
    """Sprites from their file, every byte checked. Raises TokenMissing, Refused, DigestMismatch."""
    data, layout = read_raw(path, what="sprite", limit=8 * MAX_PIXELS)
    if layout.metadata.get(KIND) != "sprites":
        raise Refused(f"{path}: a safetensors file, but no sprites of creatok")
    try:
        facts = json.loads(layout.metadata[FACTS])
        if facts["schema"] != SCHEMA:
            schema = str(facts["schema"])[:20]
            raise Refused(f"{path}: sprite schema {schema} is not known; update creatok")
        found = _of_facts(facts, {n: data[a:b] for n, (_, _, a, b) in layout.tensors.items()})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: the sprites cannot be read: {str(error)[:100]}") from None
    if found.digest != layout.metadata.get(IDENTITY):
        raise DigestMismatch(f"{path}: the sprites differ from their digest: make the file again")
    return found


def _of_facts(facts: Mapping[str, Any], parts: Mapping[str, bytes]) -> Sprites:
    """Sprites of JSON facts and bytes by name. Raises ValueError, TypeError, KeyError."""
    width, height = (_whole(side, 1, MAX_SIDE_PX) for side in facts["size"])
    rows, area = facts["sprites"], width * height
    if not 1 <= len(rows) <= MAX_SPRITES or len(parts["pixels"]) != len(rows) * area * 4:
        raise ValueError("sizes and pixels do not agree")
    sprites = tuple(
        Sprite(
            name=_text(name, LONGEST_NAME),
            group=_whole(group, 0, len(rows)),
            rgba=parts["pixels"][at * area * 4 : (at + 1) * area * 4],
            tags=tuple(_text(tag, LONGEST_TAG) for tag in tags),
            mirrored=_flag(mirrored),
        )
        for at, (name, group, tags, mirrored) in enumerate(rows)
    )
    kept, mask = parts.get("kept", b""), parts.get("kept_mask", b"")
    if (len(kept), len(mask)) not in ((0, 0), (area * 4, area)):
        raise ValueError("locked pixels do not fit the sprites")
    if facts["machine"] not in MACHINES or len(facts["schedule"]) > MOST_STEPS:
        raise ValueError("unknown machine or schedule")
    return Sprites(
        size_px=(width, height),
        sprites=sprites,
        tile=_flag(facts["tile"]),
        kept=kept,
        kept_mask=mask,
        machine=facts["machine"],
        schedule=tuple(_whole(window, 1, 4 * MAX_SIDE_PX) for window in facts["schedule"]),
    )


def _whole(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"found {str(value)[:20]}, expected {least} to {most}")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError("expected true or false")
    return value


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise ValueError("a name or tag is no plain text")
    return value


def check_room(count: int, size_px: Size, where: str) -> None:
    """Raise InputError for more sprites or pixels than are drawn from at once."""
    if count > MAX_SPRITES:
        raise InputError(f"{where}: {count:,} sprites are too many; at most {MAX_SPRITES:,}")
    if count * size_px[0] * size_px[1] > MAX_PIXELS:
        side = int((MAX_PIXELS / count) ** 0.5)
        raise InputError(
            f"{where}: {count:,} sprites of {size_px[0]}x{size_px[1]} need too much memory; give a "
            f"smaller size such as {side}x{side}, or fewer sprites"
        )
