"""Token files: one safetensors file holds one artefact, and every byte of it is checked.

A safetensors file is 8 bytes of header length, a JSON header, and raw tensor bytes. The format
itself checks no values (flipped bytes and NaN load happily), so the id, a digest of tensors and
recipe, is stored beside them and verified on every read. Headers are read and verified without
torch: lists and dry runs stay fast.

Metadata follows ModelSpec 1.0.1 plus `creatok.*`; see the ecosystem notes on what other clients
read.

Does not: read pickle in any dress, keep a library of tokens, or export to other clients.
"""

from __future__ import annotations

import array
import io
import math
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable
from creatok_cli.errors import ArtefactError, DigestMismatch, Refused, TokenMissing
from creatok_cli.hashing import canonical_json
from creatok_cli.tokens._layout import Layout, header_json, read_layout, write_layout
from creatok_cli.tokens.token import (
    Rows,
    Token,
    check_names,
    check_rows,
    row_bytes,
    token_id,
)

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "1"
MAX_TOKEN_BYTES = 64 * 2**20
SUFFIX = ".safetensors"
PROFILE = "creatok.profile"
"""Metadata that marks a file as written for another client; see `profiles.py`."""
DIGITS = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenHeader:
    """What a token file says about itself, verified, without torch."""

    path: str
    id: str
    word: str
    literal: str
    widths: Mapping[str, int]
    counts: Mapping[str, int]
    recipe: Mapping[str, Any]
    metadata: Mapping[str, str]


def read_raw(
    path: str | os.PathLike[str], *, what: str = "token", limit: int = MAX_TOKEN_BYTES
) -> tuple[bytes, Layout]:
    """All bytes of a small safetensors file with its checked layout; nothing is opened but regular
    files. `what` names it in messages.

    Raises TokenMissing, Refused (another kind of file) or DigestMismatch (cut or damaged).
    """
    where = os.fspath(path)
    try:
        with open(where, "rb", opener=_open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise Refused(f"{where}: {size} bytes is too large for a {what} (at most {limit})")
            layout = read_layout(file, size, where)
            file.seek(0)
            return file.read(), layout
    except FileNotFoundError:
        raise TokenMissing(f"{where}: no such {what} file") from None
    except ValueError:
        raise TokenMissing(f"{where[:200]!r} is no file name") from None
    except OSError as error:
        raise ArtefactError(f"{where}: the {what} file cannot be read: {error.strerror}") from error


def _open_regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{path}: not a regular file")
    return handle


def _verify(data: bytes, layout: Layout, where: str) -> TokenHeader:
    """Check names, shapes, values and the id; see the module docstring."""
    metadata = layout.metadata
    if PROFILE in metadata:
        raise Refused(
            f"{where}: written for {metadata[PROFILE][:20]!r}, not for sheets: read it back with "
            "'creatok tokens import', and use its name"
        )
    if "creatok.id" not in metadata or not layout.tensors:
        raise Refused(
            f"{where}: a safetensors file, but no creatok token (no creatok.id in its metadata)"
        )
    if metadata.get("creatok.schema") != SCHEMA:
        raise Refused(
            f"{where}: token schema {metadata.get('creatok.schema', '')[:20]!r} is not known; "
            "update creatok"
        )
    word, literal = metadata.get("creatok.word", ""), metadata.get("creatok.literal", "")
    check_names(word, literal, where)
    recipe = header_json(metadata.get("creatok.recipe", "").encode("utf-8", "surrogatepass"), where)
    parts: dict[str, Rows] = {}
    for name, (dtype, shape, first, last) in layout.tensors.items():
        if dtype != "F32":
            raise Refused(f"{where}: {name[:40]!r} is {dtype[:10]}; tokens are F32")
        parts[name] = (shape, data[first:last])
        check_part(name, parts[name], where)
    try:
        found = token_id(parts, literal, recipe)
    except ValueError as error:
        raise Refused(f"{where}: the recipe is no plain JSON: {error}") from None
    if not DIGITS.fullmatch(metadata["creatok.id"]) or found != metadata["creatok.id"]:
        raise DigestMismatch(
            f"{where}: vectors or recipe differ from the id in the file: it was damaged or edited; "
            "get it again"
        )
    return TokenHeader(
        path=where,
        id=found,
        word=word,
        literal=literal,
        widths={name: shape[1] for name, (shape, _) in parts.items()},
        counts={name: shape[0] for name, (shape, _) in parts.items()},
        recipe=recipe,
        metadata=metadata,
    )


def check_part(name: str, rows: Rows, where: str) -> None:
    """Raise Refused unless rows are [n d], finite and of sane length."""
    shape, data = rows
    check_rows(name, shape, [], where)
    check_rows(name, shape, _norms(data, shape), where)


def _norms(data: bytes, shape: tuple[int, ...]) -> list[float]:
    """Euclidean length of each row of float32 little-endian data; NaN or infinity when a value is
    not finite.
    """
    values = array.array("f")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    rows, width = shape
    return [
        math.sqrt(math.fsum(v * v for v in values[row * width : (row + 1) * width]))
        for row in range(rows)
    ]


def read_header(path: str | os.PathLike[str]) -> TokenHeader:
    """Read and verify a token file without torch.

    Raises TokenMissing, Refused (no token, or one that cannot be used) or DigestMismatch (damaged).
    """
    data, layout = read_raw(path)
    return _verify(data, layout, os.fspath(path))


def read_rows(path: str | os.PathLike[str]) -> tuple[TokenHeader, dict[str, Rows]]:
    """Header and rows of a token file without torch. Raises as `read_header`."""
    data, layout = read_raw(path)
    header = _verify(data, layout, os.fspath(path))
    rows = {name: (shape, data[a:b]) for name, (_, shape, a, b) in layout.tensors.items()}
    return header, rows


def check_bytes(data: bytes, where: str) -> TokenHeader:
    """The verified header of a token file that is not written yet. Raises as `read_header`."""
    return _verify(data, read_layout(io.BytesIO(data), len(data), where), where)


def load_token(path: str | os.PathLike[str]) -> Token:
    """Read and verify a token file as a Token with f32 CPU tensors. Raises as `read_header`."""
    import torch

    header, rows = read_rows(path)
    vectors: dict[str, Tensor] = {
        name: torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(shape)
        for name, (shape, data) in rows.items()
    }
    return Token(
        word=header.word, literal=header.literal, vectors=vectors, recipe=dict(header.recipe)
    )


def token_bytes(token: Token, metadata: Mapping[str, str] | None = None) -> bytes:
    """The file of a token. Equal tokens and metadata give equal bytes: no date is added."""
    rows = {name: (tuple(each.shape), row_bytes(each)) for name, each in token.vectors.items()}
    return pack_token(token.word, token.literal, rows, token.recipe, metadata)


def pack_token(
    word: str,
    literal: str,
    rows: Mapping[str, Rows],
    recipe: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """`token_bytes` of plain data, without torch; nothing is checked (see `check_bytes`)."""
    return pack(
        rows,
        {
            "modelspec.architecture": str(recipe.get("architecture", "creatok/textual-inversion")),
            "modelspec.title": word.strip("<>"),
            "modelspec.trigger_phrase": word,
            **(metadata or {}),
            **identity_metadata(token_id(rows, literal, recipe), word, literal, recipe),
        },
    )


def identity_metadata(
    identity: str, word: str, literal: str, recipe: Mapping[str, Any]
) -> dict[str, str]:
    """The metadata by which a token is known again, whatever the keys of its tensors are."""
    return {
        "creatok.schema": SCHEMA,
        "creatok.id": identity,
        "creatok.word": word,
        "creatok.literal": literal,
        "creatok.recipe": canonical_json(dict(recipe)),
    }


def pack(rows: Mapping[str, Rows], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of f32 tensors; see `write_layout`."""
    return write_layout({key: ("F32", *part) for key, part in rows.items()}, metadata)


def save_token(
    path: str | os.PathLike[str], token: Token, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a token durably. The same token again is no change; another token under that name is
    refused.
    """
    target = Path(path)
    durable.open_root(target.parent, create=True)
    writer = durable.Writer(run=durable.new_run())
    outcome = durable.publish_new(
        target.parent, target.name, token_bytes(token, metadata), writer=writer
    )
    if outcome == "exists":
        found = read_header(target).id
        if found != token.id:
            raise ArtefactError(
                f"{target}: another token ({found[:20]}) has this name; choose another name"
            )
