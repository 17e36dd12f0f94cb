"""The token library as `creatok tokens` shows and moves it: plain functions that return data.

Headers and bytes are enough for all of it, so nothing here imports torch.

Does not: print, ask, or change a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli import durable
from creatok_cli.errors import InputError
from creatok_cli.tokens._imports import read_any
from creatok_cli.tokens.file import MAX_TOKEN_BYTES, TokenHeader, read_header, read_rows
from creatok_cli.tokens.library import Entry, Library, find_token, is_path, writable
from creatok_cli.tokens.profiles import (
    CLIENTS,
    FAMILIES,
    Files,
    cell_of,
    client_of,
    export,
    family_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One token of a listing."""

    name: str
    """Empty for a token without a name."""
    word: str
    id: str
    path: str
    fits: str
    """The family of bases that it fits."""
    literal: str
    encoders: Mapping[str, tuple[int, int]]
    """Encoder -> (vectors, width)."""
    method: str
    added: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRow:
    """A name or file of the library that cannot be used."""

    name: str
    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The whole library."""

    root: str
    tokens: tuple[TokenRow, ...]
    damaged: tuple[DamagedRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """One token with all that its file says."""

    row: TokenRow
    recipe: Mapping[str, Any]
    metadata: Mapping[str, str]
    clients: Mapping[str, str]
    """Client -> why it cannot have the token, empty where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Files written for a client."""

    client: str
    fits: str
    files: tuple[str, ...]
    trigger: str
    """How prompts of that client call the token."""
    place: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A token taken into the library."""

    row: TokenRow
    origin: str
    """The client it was written for, `creatok`, or `foreign`."""
    notes: tuple[str, ...]


def list_tokens() -> Listing:
    """Everything in the library; what is damaged is told and stops nothing."""
    library = Library()
    survey = library.survey()
    return Listing(
        root=str(library.root),
        tokens=tuple(row_of(entry) for entry in (*survey.entries, *survey.loose)),
        damaged=tuple(
            DamagedRow(
                name=fault.name,
                path=str(fault.path),
                reason=fault.error.reason,
                message=str(fault.error),
            )
            for fault in survey.faults
        ),
    )


def show_token(name: str) -> Details:
    """One token by name, id or path. Raises TokenMissing, Refused, DigestMismatch."""
    row, header = find(name)
    clients = {}
    for client in CLIENTS:
        cell = cell_of(header, client)
        clients[client] = "" if isinstance(cell, Files) else cell
    return Details(row=row, recipe=header.recipe, metadata=header.metadata, clients=clients)


def export_token(
    name: str, client: str, out: Path, *, force: bool = False, replace: bool = False
) -> Exported:
    """Write a token for a client into a folder; a file that is there already is kept if it is the
    same.

    Raises as `show_token`, Refused for an impossible pair, UnknownName, InputError for a name that
    is taken in the folder, IntegrityError when it cannot be written.
    """
    client_of(client)
    row, header = find(name)
    _, rows = read_rows(row.path)
    stem = row.name or row.word.strip("<>")
    made = export(header, rows, client, stem=stem, force=force)
    writer = durable.Writer(run=durable.new_run())
    with writable(out, "choose another --out"):
        durable.open_root(out, create=True)
        fresh = {each: data for each, data in made.files.items() if not is_same(out, each, data)}
        taken = [each for each in fresh if (out / each).exists() or (out / each).is_symlink()]
        if taken and not replace:
            raise InputError(
                f"{out / taken[0]} is there already, with other contents; "
                "choose another --out, or --replace it"
            )
        for each, data in fresh.items():
            if durable.publish_new(out, each, data, writer=writer, replace=replace) == "exists":
                raise InputError(f"{out / each} has just been written by another program")
        durable.sync_folders(out, list(fresh))
    return Exported(
        client=client,
        fits=FAMILIES[made.family].title,
        files=tuple(str(out / each) for each in made.files),
        trigger=made.trigger,
        place=made.place,
        notes=made.notes,
    )


def import_token(
    path: Path,
    *,
    name: str | None = None,
    word: str | None = None,
    literal: str | None = None,
    replace: bool = False,
) -> Imported:
    """Take a token file of any client into the library, or a folder of `learned_embeds` files.

    Raises TokenMissing, Refused or DigestMismatch for the file, InputError or UnsafeName for the
    name, IntegrityError for a library that cannot be written.
    """
    found = read_any(path, word=word, literal=literal)
    entry = Library().add_bytes(found.data, name=name, replace=replace)
    return Imported(row=row_of(entry), origin=found.origin, notes=found.notes)


def remove_token(name: str) -> TokenRow:
    """Remove a name of the library, and its token unless another name holds it.

    Raises TokenMissing, IntegrityError.
    """
    gone = Library().remove(name)
    return TokenRow(
        name=gone.name,
        word=gone.word,
        id=gone.id,
        path=str(gone.path),
        fits="",
        literal="",
        encoders={},
        method="",
        added=gone.added,
    )


def find(name: str) -> tuple[TokenRow, TokenHeader]:
    """A token by library name, id or path."""
    if not is_path(name):
        entry = find_token(name, Path())
        return row_of(entry), entry.header
    header = read_header(Path(name).expanduser())
    return row_from(header, name="", added=""), header


def is_same(folder: Path, name: str, data: bytes) -> bool:
    """Whether a file is there already with these bytes."""
    try:
        return durable.read_file(folder, name, limit=MAX_TOKEN_BYTES) == data
    except OSError:
        return False


def row_of(entry: Entry) -> TokenRow:
    """A token of the library as a row."""
    return row_from(entry.header, name=entry.name, added=entry.added)


def row_from(header: TokenHeader, *, name: str, added: str) -> TokenRow:
    """A header as a row."""
    return TokenRow(
        name=name,
        word=header.word,
        id=header.id,
        path=header.path,
        fits=FAMILIES[family_of(header.widths, header.recipe)].title,
        literal=header.literal,
        encoders={each: (header.counts[each], header.widths[each]) for each in header.widths},
        method=str(header.recipe.get("method", "")),
        added=added,
    )
