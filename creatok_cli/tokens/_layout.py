"""The safetensors layout, checked byte by byte, and a word for files that are something else.

A file is 8 bytes of header length, a JSON header, and raw tensor bytes that it must cover without
gap or overlap. Nothing here needs torch, so lists and dry runs stay fast.

Does not: look at values, or know tokens and models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from creatok_cli import __version__
from creatok_cli.errors import DigestMismatch, Refused
from creatok_cli.hashing import canonical_json, sha256_hex

MAX_HEADER_BYTES = 100 * 2**20
"""The limit of the safetensors format."""
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
ITEM_BYTES |= {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True, slots=True)
class Layout:
    """The checked header of a safetensors file."""

    tensors: Mapping[str, tuple[str, tuple[int, ...], int, int]]
    """name -> (dtype, shape, first byte, end), counted from the start of the file."""
    metadata: Mapping[str, str]


def describe_content(head: bytes) -> str | None:
    """What a file that should be safetensors is instead, judged by its first bytes; None when
    nothing is known.
    """
    text = head.lstrip()[:64].lower()
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights: run `git lfs pull` in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not weights: the download needed a login or met an error page"
    if head.startswith(b"\x80"):
        return "a Python pickle, which can run code: creatok opens safetensors only"
    if head.startswith(b"PK"):
        return "a zip archive, which can run code (a torch checkpoint?): use safetensors only"
    if head.startswith(b"\x89PNG"):
        return "a PNG picture"
    if text.startswith((b"{", b"access to", b"entry not found", b"invalid username")):
        return "a text or JSON answer, not weights: download it again"
    return None


def read_layout(file: BinaryIO, size: int, where: str) -> Layout:
    """Parse and check a safetensors header: lengths, dtypes, no gaps, no overlap, every byte
    covered.

    Raises Refused for what is no safetensors file, DigestMismatch for one that is cut or damaged.
    """
    head = file.read(64)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 10 or head[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
        raise Refused(f"{where}: this is {describe_content(head) or 'no safetensors file'}")
    if 8 + length > size:
        raise DigestMismatch(
            f"{where}: cut off: {size} bytes are there, the header alone needs {8 + length}"
        )
    file.seek(8)
    entries = header_json(file.read(length), where)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise Refused(f"{where}: the metadata is not text by name")
    tensors = {name: _entry(name, entry, 8 + length, where) for name, entry in entries.items()}
    end = 8 + length
    for _, _, first, last in sorted(tensors.values(), key=lambda entry: (entry[2], entry[3])):
        if first != end:
            raise DigestMismatch(f"{where}: the header is damaged: gap or overlap at byte {end}")
        end = last
    if end != size:
        verb = "cut off" if size < end else "longer than its header says"
        raise DigestMismatch(
            f"{where}: {verb}: {size} bytes are there, {end} expected; download or copy it again"
        )
    return Layout(tensors, metadata)


def write_layout(
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: Mapping[str, str]
) -> bytes:
    """A safetensors file of (dtype, shape, bytes) by name, with the ModelSpec fields that hold for
    every artefact. Equal contents give equal bytes.

    Written by hand because the safetensors library orders metadata differently from run to run.
    """
    payload = b"".join(tensors[key][2] for key in sorted(tensors))
    header = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": f"creatok {__version__}",
        "modelspec.hash_sha256": "0x" + sha256_hex(payload),
        **metadata,
    }
    entries: dict[str, Any] = {"__metadata__": header}
    end = 0
    for key in sorted(tensors):
        dtype, shape, data = tensors[key]
        first, end = end, end + len(data)
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [first, end]}
    text = canonical_json(entries).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def header_json(data: bytes, where: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        entries = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(
            f"{where}: the safetensors header is no valid JSON: {str(error)[:100]}"
        ) from None
    if not isinstance(entries, dict):
        raise Refused(f"{where}: the safetensors header is no JSON object")
    return entries


def _entry(name: str, entry: Any, base: int, where: str) -> tuple[str, tuple[int, ...], int, int]:
    fault = Refused(f"{where}: the entry of tensor {name[:60]!r} is malformed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise fault
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = (
        [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    )
    if (
        not all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        or len(offsets) != 2
    ):
        raise fault
    if not isinstance(dtype, str) or offsets[1] < offsets[0] or len(shape) > 8:
        raise fault
    if dtype in ITEM_BYTES and math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise fault
    return dtype, tuple(shape), base + offsets[0], base + offsets[1]
