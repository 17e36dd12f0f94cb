"""Token files of other clients, read back: content decides, never the extension.

A file that creatok wrote carries the digest of every tensor of its token, so each byte is checked
even where the file holds one encoder of several; a file from elsewhere becomes a token with the
method `import`, its encoders known by key or width. 16-bit rows become f32, exactly.

Does not: open pickle in any dress, import torch, or write.
"""

from __future__ import annotations

import array
import json
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli.errors import DigestMismatch, InputError, Refused
from creatok_cli.tokens._layout import Layout, header_json
from creatok_cli.tokens.file import (
    PROFILE,
    SCHEMA,
    SUFFIX,
    check_bytes,
    check_part,
    pack_token,
    read_raw,
)
from creatok_cli.tokens.profiles import CLIENTS, FAMILIES, KEPT, OTHER, family_of
from creatok_cli.tokens.token import (
    T5,
    WORD,
    Rows,
    check_names,
    id_of_digests,
    tensor_digests,
)

KEYS = {"clip_l": "clip_l", "clip_g": "clip_g", "clip_h": "clip_h", "t5xxl": T5, "t5": T5}
"""Keys that name their encoder."""
BY_WIDTH = {768: "clip_l", 1280: "clip_g", 1024: "clip_h", 4096: T5}
"""The encoder of a tensor whose key says nothing: `emb_params`, `emp_params`, a placeholder."""
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
LEARNED = re.compile(r"learned_embeds(_[0-9]+)?\.safetensors")
MAX_NOTE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A token read from somewhere, as the bytes of a native file."""

    data: bytes
    origin: str
    """A client, `creatok` for a native file, `foreign` for one without our metadata."""
    notes: tuple[str, ...] = ()


def read_any(path: Path, *, word: str | None = None, literal: str | None = None) -> Import:
    """The token in a file, or in a folder of `learned_embeds` files.

    `word` (with or without brackets) and `literal` win over what the file says; a changed literal
    makes another token. Raises TokenMissing, Refused, DigestMismatch, InputError for a folder
    without one.
    """
    if word is not None:
        word = f"<{word.removeprefix('<').removesuffix('>')}>"
    try:
        check_names(word or "<x>", "x" if literal is None else literal, "--word or --literal")
    except Refused as error:
        raise InputError(str(error)) from None
    paths = _beside(path)
    read = [(each, *_read(each)) for each in paths]
    _, data, layout = read[0]
    if PROFILE in layout.metadata:
        own = [each for each in read if _same_token(each[2], layout)]
        return _ours(own, word, literal)
    if "creatok.id" in layout.metadata:
        return _native(data, str(paths[0]), word, literal)
    asked = [each for each in read if path.is_dir() or each[0] == path]
    return _foreign(asked, path, word, literal, lonely=len(asked) < len(read))


def _beside(path: Path) -> list[Path]:
    """The files that may belong to one token, the asked one first."""
    if path.is_dir():
        try:
            found = sorted(each for each in path.iterdir() if each.name.endswith(SUFFIX))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        parts = [each for each in found if LEARNED.fullmatch(each.name)]
        if not parts and len(found) != 1:
            raise InputError(f"{path}: {len(found)} {SUFFIX} files; name the one to import")
        return parts or found
    if not LEARNED.fullmatch(path.name):
        return [path]
    try:
        there = [each for each in path.parent.iterdir() if LEARNED.fullmatch(each.name)]
    except OSError:
        return [path]
    return [path, *sorted(each for each in there if each.name != path.name)]


def _read(path: Path) -> tuple[bytes, Layout]:
    try:
        return read_raw(path)
    except Refused as error:
        if path.suffix.lower() not in PICKLED:
            raise
        raise Refused(
            f"{error}; ask for a safetensors file, or convert it where you trust its author"
        ) from error


def _same_token(one: Layout, other: Layout) -> bool:
    return one.metadata.get("creatok.id") == other.metadata.get("creatok.id")


# Files of creatok


def _native(data: bytes, where: str, word: str | None, literal: str | None) -> Import:
    header = check_bytes(data, where)
    if word in (None, header.word) and literal in (None, header.literal):
        return Import(data=data, origin="creatok")
    layout_end = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:layout_end])
    rows: dict[str, Rows] = {}
    for name in header.widths:
        first, last = entries[name]["data_offsets"]
        shape = (header.counts[name], header.widths[name])
        rows[name] = (shape, data[layout_end + first : layout_end + last])
    packed = pack_token(
        word or header.word,
        literal or header.literal,
        rows,
        header.recipe,
        _kept(header.metadata),
    )
    return Import(data=packed, origin="creatok")


def _ours(
    read: Sequence[tuple[Path, bytes, Layout]], word: str | None, literal: str | None
) -> Import:
    """A token from files that creatok exported; every tensor must have its recorded digest."""
    where, metadata = str(read[0][0]), read[0][2].metadata
    if metadata.get("creatok.schema") != SCHEMA:
        raise Refused(f"{where}: token schema is not known; update creatok")
    said = metadata.get("creatok.word", ""), metadata.get("creatok.literal", "")
    check_names(*said, where)
    recipe = _json(metadata, "creatok.recipe", where)
    digests = _json(metadata, "creatok.tensors", where)
    try:
        found = id_of_digests(digests, said[1], recipe)
    except ValueError as error:
        raise Refused(f"{where}: the recipe is no plain JSON: {error}") from None
    if found != metadata.get("creatok.id"):
        raise DigestMismatch(f"{where}: its metadata was damaged or edited; export it again")
    rows: dict[str, Rows] = {}
    for path, data, layout in read:
        keys = _json(layout.metadata, "creatok.keys", str(path))
        if set(keys) != set(layout.tensors):
            raise DigestMismatch(f"{path}: tensors were added, removed or renamed")
        for key, (dtype, shape, first, last) in layout.tensors.items():
            encoder = str(keys[key])
            part = (shape, data[first:last])
            if dtype != "F32" or tensor_digests({encoder: part})[encoder] != digests.get(encoder):
                raise DigestMismatch(
                    f"{path}: the vectors of {encoder[:40]} differ from those that were exported: "
                    "damaged or edited; export it again"
                )
            check_part(encoder, part, str(path))
            rows[encoder] = part
    notes: tuple[str, ...] = ()
    if set(rows) != set(digests):
        missing = ", ".join(sorted(set(digests) - set(rows)))
        notes = (f"without {missing}, which the file does not hold: this is another token",)
        recipe = {
            "kind": "token",
            "method": "import",
            "architecture": FAMILIES[_by_widths(rows)].architecture,
            "parents": [found],
        }
    packed = pack_token(word or said[0], literal or said[1], rows, recipe, _kept(metadata))
    check_bytes(packed, where)
    client = metadata[PROFILE]
    return Import(data=packed, origin=client if client in CLIENTS else "creatok", notes=notes)


def _json(metadata: Mapping[str, str], name: str, where: str) -> dict[str, Any]:
    return header_json(metadata.get(name, "").encode("utf-8", "surrogatepass"), where)


# Files from elsewhere


def _foreign(
    read: Sequence[tuple[Path, bytes, Layout]],
    path: Path,
    word: str | None,
    literal: str | None,
    *,
    lonely: bool,
) -> Import:
    rows: dict[str, Rows] = {}
    for each, data, layout in read:
        for key, entry in layout.tensors.items():
            encoder, part = _part(str(each), key, entry, data, len(layout.tensors))
            if encoder in rows:
                raise Refused(f"{path}: vectors for {encoder} twice; import one token at a time")
            rows[encoder] = part
    if not rows.keys() - {T5}:
        raise Refused(f"{path}: no vectors for a CLIP encoder: not a learned word")
    first = read[0]
    word = word or _word(first[0], first[2], path)
    literal = literal or re.sub(r"[-_]+", " ", word.strip("<>")).strip() or word.strip("<>")
    family = family_of(
        {name: shape[1] for name, (shape, _) in rows.items()},
        {"architecture": first[2].metadata.get("modelspec.architecture", "")},
    )
    recipe = {"kind": "token", "method": "import"}
    if family != OTHER:
        recipe["architecture"] = FAMILIES[family].architecture
    packed = pack_token(word, literal, rows, recipe, _kept(first[2].metadata))
    check_bytes(packed, str(path))
    notes = []
    if lonely:
        notes.append("other learned_embeds files lie beside it: import the folder to have all")
    return Import(data=packed, origin="foreign", notes=tuple(notes))


def _part(
    where: str, key: str, entry: tuple[str, tuple[int, ...], int, int], data: bytes, tensors: int
) -> tuple[str, Rows]:
    """Encoder and f32 rows of one tensor of a foreign file."""
    dtype, shape, first, last = entry
    if len(shape) == 1:
        shape = (1, *shape)
    encoder = KEYS.get(key, "")
    if not encoder and tensors == 1 and len(shape) == 2:
        encoder = BY_WIDTH.get(shape[1], "")
        if not encoder:
            widths = ", ".join(f"{width} ({name})" for width, name in BY_WIDTH.items())
            raise Refused(f"{where}: vectors of width {shape[1]}; known are {widths}")
    if not encoder:
        what = "a LoRA or a model" if tensors > len(KEYS) else "no learned word"
        raise Refused(f"{where}: its tensor {key[:60]!r} is unknown: {what}")
    part = (shape, _f32(data[first:last], dtype, where))
    check_part(encoder, part, where)
    return encoder, part


def _f32(data: bytes, dtype: str, where: str) -> bytes:
    """f32 little-endian bytes of f32, f16 or bf16 ones."""
    if dtype == "F32":
        return data
    if dtype == "F16":
        values = array.array("f", struct.unpack(f"<{len(data) // 2}e", data))
        if sys.byteorder == "big":
            values.byteswap()
        return values.tobytes()
    if dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return bytes(wide)
    raise Refused(f"{where}: its vectors are {dtype[:10]}; expected F32, F16 or BF16")


def _word(file: Path, layout: Layout, asked: Path) -> str:
    """The placeholder that the file is keyed by, else the stem, as far as a word can say it."""
    for key in layout.tensors:
        if WORD.fullmatch(key):
            return key
    stem = file.stem
    if LEARNED.fullmatch(file.name):
        stem = (asked if asked.is_dir() else file.parent).resolve().name
    plain = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64]
    if not plain:
        raise InputError(f"{asked}: no word can be made of this name; give one with --word")
    return f"<{plain}>"


def _by_widths(rows: Mapping[str, Rows]) -> str:
    return family_of({name: shape[1] for name, (shape, _) in rows.items()}, {})


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """Who made it and under which licence: that goes along."""
    limit = {"modelspec.thumbnail": 10**6}
    return {
        key: value
        for key, value in metadata.items()
        if KEPT.fullmatch(key) and len(value) <= limit.get(key, MAX_NOTE)
    }
