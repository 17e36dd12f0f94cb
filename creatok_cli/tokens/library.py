"""The token library: artefacts by content, names that point at them, headers without torch.

`objects/` holds one file per id and never changes one, `names/` one small JSON record per name. A
token is stored object first, name last, both durably and under one OS lock, so a killed or second
process leaves a whole library: at worst an object without a name, which storing the token again
adopts. Readers take no lock. A token that is replaced stays under its id, so that pictures drawn
with it can be drawn again.

Does not: import torch, rename, or delete what nobody asked to delete.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from creatok_cli import config, durable
from creatok_cli.errors import (
    ArtefactError,
    DigestMismatch,
    InputError,
    IntegrityError,
    OutputBusy,
    OutputFull,
    OutputReadOnly,
    Refused,
    TokenMissing,
    UnsafeName,
)
from creatok_cli.hashing import canonical_json
from creatok_cli.registry import did_you_mean
from creatok_cli.tokens.file import (
    DIGITS,
    SUFFIX,
    TokenHeader,
    check_bytes,
    read_header,
    token_bytes,
)
from creatok_cli.tokens.token import WORD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from creatok_cli.tokens.token import Token

SCHEMA = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")
"""Names that Windows keeps for devices, with any extension."""
ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LOCK = ".creatok.lock"
LOCK_S = 30.0
"""How long a process waits for another one that is storing a token: milliseconds in practice."""
MAX_RECORD = 4096
ODD = durable.NOT_A_FILE | {errno.EFBIG}
"""Of a record that is something else, not one that cannot be reached now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the library knows of a token before its file is read."""

    name: str
    """Empty for a token that has no name any more."""
    word: str
    id: str
    path: Path
    added: str
    """UTC, ISO 8601; empty where unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A token of the library whose file was read and verified."""

    header: TokenHeader
    """Its word is the one of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A name or object that cannot be used, and why."""

    name: str
    path: Path
    error: ArtefactError


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything in a library."""

    entries: tuple[Entry, ...]
    """By name."""
    loose: tuple[Entry, ...]
    """Whole tokens without a name, by id."""
    faults: tuple[Fault, ...]


class Library:
    """A folder of tokens; it is made when something is stored."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = config.home() / "tokens" if root is None else root

    def add(
        self,
        token: Token,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        replace: bool = False,
    ) -> Entry:
        """Store a token under a name, by default its word without brackets.

        The same token again is no change. Raises InputError when the name belongs to another token
        and `replace` is off, UnsafeName, and IntegrityError when the library cannot be written.
        """
        return self.add_bytes(token_bytes(token, metadata), name=name, replace=replace)

    def add_bytes(self, data: bytes, *, name: str | None = None, replace: bool = False) -> Entry:
        """`add` for the bytes of a token file."""
        header = check_bytes(data, "token")
        name = check_name(header.word.strip("<>") if name is None else name)
        with self._writing() as writer:
            held = self._record_to_keep(name)
            if held is not None and held.id != header.id and not replace:
                raise InputError(
                    f"the name {name} belongs to another token ({short(held.id)}); "
                    "choose another --name, or --replace it"
                )
            path = self._store(header.id, data, writer)
            if held is None or (held.id, held.word) != (header.id, header.word):
                added = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                held = Record(name=name, word=header.word, id=header.id, path=path, added=added)
                fields = {"schema": SCHEMA, "id": held.id, "word": held.word, "added": added}
                durable.replace_derived(
                    self.root, record_name(name), canonical_json(fields).encode(), writer=writer
                )
        return self._entry(held, replace_path(header, path))

    def keep(self, data: bytes) -> Entry:
        """Store the bytes of a token file without a name: by its id it can be found again.

        The same token again is no change. Raises IntegrityError when the library cannot be written.
        """
        header = check_bytes(data, "token")
        with self._writing() as writer:
            path = self._store(header.id, data, writer)
        record = Record(name="", word=header.word, id=header.id, path=path, added="")
        return self._entry(record, replace_path(header, path))

    def find(self, name_or_id: str) -> Entry:
        """The token of a name, an id, or the first 8 or more digits of one.

        Raises TokenMissing with the nearest name, and as `read_header` for a damaged one.
        """
        if NAME.fullmatch(name_or_id) and self._has(record_name(name_or_id)):
            return self._read(name_or_id)
        digits = self._digits(name_or_id)
        names = self._named(f"sha256:{digits}")
        return self._read(names[0]) if names else self._loose(digits)

    def names(self) -> tuple[str, ...]:
        """All names, sorted; no file is read."""
        found = [name.removesuffix(".json") for name in self._listing("names")]
        return tuple(sorted(name for name in found if NAME.fullmatch(name)))

    def entries(self) -> tuple[Entry, ...]:
        """All tokens that have a name and are whole; `survey` tells of the others, too."""
        return self.survey().entries

    def survey(self) -> Survey:
        """Everything in the library; a damaged file stops nothing."""
        entries: list[Entry] = []
        loose: list[Entry] = []
        faults: list[Fault] = []
        named: set[str] = set()
        for name in self.names():
            path = self.root / record_name(name)
            try:
                record = self._record(name)
                named.add(record.id)
                path = record.path
                entries.append(self._read(name))
            except TokenMissing as error:
                if self._has(record_name(name)):  # else it was removed meanwhile
                    faults.append(Fault(name=name, path=path, error=error))
            except ArtefactError as error:
                faults.append(Fault(name=name, path=path, error=error))
        for digits in self._ids():
            if f"sha256:{digits}" in named:
                continue
            try:
                loose.append(self._loose(digits))
            except TokenMissing:
                continue
            except ArtefactError as error:
                path = self.root / object_name(digits)
                faults.append(Fault(name="", path=path, error=error))
        return Survey(entries=tuple(entries), loose=tuple(loose), faults=tuple(faults))

    def remove(self, name_or_id: str) -> Record:
        """Remove a name, and its token unless another name holds it, too. A damaged one goes, too.

        Raises TokenMissing, and IntegrityError when the library cannot be written.
        """
        if not self.root.is_dir():
            raise TokenMissing(self._unknown(name_or_id))
        with self._writing():
            name = name_or_id
            if not NAME.fullmatch(name) or not self._has(record_name(name)):
                digits = self._digits(name_or_id)
                names = self._named(f"sha256:{digits}")
                if len(names) > 1:
                    raise InputError(f"{name_or_id} has several names: {', '.join(names)}; say one")
                name = names[0] if names else ""
            if not name:
                path = self.root / object_name(digits)
                record = Record(name="", word="", id=f"sha256:{digits}", path=path, added="")
            else:
                record = self._record_or_none(name) or Record(
                    name=name, word="", id="", path=self.root / record_name(name), added=""
                )
                self._drop(record_name(name))
            # What an unreadable record pointed at becomes a token without a name.
            if record.id and not self._named(record.id, perhaps=True):
                self._drop(object_name(record.id.removeprefix("sha256:")))
        return record

    def scratch(self, run: str) -> Path:
        """The folder for what a run has not finished: checkpoints and unfinished tokens. Made here.

        Raises UnsafeName for a run that is no plain name, IntegrityError.
        """
        if not RUN.fullmatch(run) or RESERVED.fullmatch(run.partition(".")[0].lower()):
            raise UnsafeName(f"run {run[:80]!r}: expected letters, digits, '.', '_' and '-'")
        folder = self.root.parent / "scratch" / run
        with writable(folder):
            durable.open_root(folder, create=True)
        return folder

    # Reading

    def _has(self, name: str) -> bool:
        return os.path.lexists(self.root / name)

    def _listing(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ArtefactError(
                f"the token library {self.root} cannot be read: {error.strerror}"
            ) from error

    def _ids(self) -> list[str]:
        """The digits of all objects, sorted."""
        stems = [name.removesuffix(SUFFIX) for name in self._listing("objects")]
        return sorted(stem for stem in stems if re.fullmatch(r"[0-9a-f]{64}", stem))

    def _record(self, name: str) -> Record:
        where = self.root / record_name(name)
        try:
            found: Any = json.loads(
                durable.read_file(self.root, record_name(name), limit=MAX_RECORD)
            )
        except FileNotFoundError:
            raise TokenMissing(self._unknown(name)) from None
        except OSError as error:
            kind = DigestMismatch if error.errno in ODD else ArtefactError
            raise kind(f"{where}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError):
            raise DigestMismatch(
                f"{where}: the record of this name is damaged: no valid JSON"
            ) from None
        fields = ("id", "word", "added")
        if not isinstance(found, dict) or not all(isinstance(found.get(f), str) for f in fields):
            raise DigestMismatch(f"{where}: the record of this name is damaged")
        if found.get("schema") != SCHEMA:
            raise Refused(f"{where}: written by another creatok; update creatok")
        if not DIGITS.fullmatch(found["id"]) or not WORD.fullmatch(found["word"]):
            raise DigestMismatch(f"{where}: the record of this name is damaged")
        return Record(
            name=name,
            word=found["word"],
            id=found["id"],
            path=self.root / object_name(found["id"].removeprefix("sha256:")),
            added=found["added"][:40],
        )

    def _record_to_keep(self, name: str) -> Record | None:
        """None for a name that is free, or whose record is damaged: it may be written anew."""
        try:
            return self._record(name)
        except (TokenMissing, DigestMismatch):
            return None

    def _record_or_none(self, name: str) -> Record | None:
        """None where a record cannot be used for any reason."""
        try:
            return self._record(name)
        except ArtefactError:
            return None

    def _read(self, name: str) -> Entry:
        """The entry of a name; once more where it was replaced or removed in between."""
        record = self._record(name)
        try:
            return self._entry(record, read_header(record.path))
        except TokenMissing:
            again = self._record(name)
            if again.id == record.id:
                raise TokenMissing(
                    f"{record.path}: the file of token {name} is gone; store it again, "
                    f"or 'creatok tokens remove {name}'"
                ) from None
            return self._entry(again, read_header(again.path))

    def _entry(self, record: Record, header: TokenHeader) -> Entry:
        if header.id != record.id:
            raise DigestMismatch(
                f"{record.path}: holds another token ({short(header.id)}) than its name says; "
                "store the right one again"
            )
        return Entry(
            name=record.name,
            word=record.word,
            id=record.id,
            path=record.path,
            added=record.added,
            header=replace(header, word=record.word),
        )

    def _loose(self, digits: str) -> Entry:
        path = self.root / object_name(digits)
        header = read_header(path)
        record = Record(name="", word=header.word, id=f"sha256:{digits}", path=path, added="")
        return self._entry(record, header)

    def _digits(self, asked: str) -> str:
        """The digits of the one object that an id or its beginning fits. Raises TokenMissing."""
        wanted = ID_PREFIX.fullmatch(asked)
        found = [each for each in self._ids() if wanted and each.startswith(wanted[1])]
        if len(found) > 1:
            raise TokenMissing(f"{asked} fits {len(found)} tokens; give more of its digits")
        if not found:
            raise TokenMissing(self._unknown(asked))
        return found[0]

    def _named(self, identity: str, *, perhaps: bool = False) -> list[str]:
        """The names of an id; with `perhaps` also those whose record cannot be read."""
        found = []
        for name in self.names():
            record = self._record_or_none(name)
            if perhaps if record is None else record.id == identity:
                found.append(name)
        return found

    def _unknown(self, asked: str) -> str:
        names = self.names()
        hint = did_you_mean(asked, names)
        if not hint:
            few = f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
            hint = f"there are {few}" if names else "it is empty: learn or import a token first"
        return f"no token {asked[:80]!r} in the library; {hint}"

    # Writing

    def _store(self, identity: str, data: bytes, writer: durable.Writer) -> Path:
        """The object of an id; one that is damaged or not ours is replaced by the whole one."""
        name = object_name(identity.removeprefix("sha256:"))
        path = self.root / name
        if durable.publish_new(self.root, name, data, writer=writer) == "exists":
            try:
                is_whole = read_header(path).id == identity
            except ArtefactError:
                is_whole = False
            if not is_whole:
                durable.publish_new(self.root, name, data, writer=writer, replace=True)
        durable.sync_folders(self.root, [name])
        return path

    def _drop(self, name: str) -> None:
        durable.remove(self.root, name)
        durable.sync_folders(self.root, [name])

    def _writing(self) -> AbstractContextManager[durable.Writer]:
        """The library, made where missing, for one writer at a time."""
        return writing(self.root, "the token library", ("objects", "names"))


@contextmanager
def writing(root: Path, what: str, parents: Sequence[str] = ("",)) -> Iterator[durable.Writer]:
    """A folder of artefacts, made where missing, for one writer at a time; temporaries that dead
    writers left in `parents` go.

    Raises OutputBusy, which says `what`, OutputFull, OutputReadOnly.
    """
    with writable(root):
        durable.open_root(root, create=True)
        lock = FileLock(root / LOCK, timeout=LOCK_S, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise OutputBusy(f"{what} {root} is in use by another process; try again") from None
        except NotImplementedError:
            # No file locks here: publishing without clobber still keeps every object whole.
            pass
        try:
            durable.sweep(root, parents, shard=(1, 1))
            yield durable.Writer(run=durable.new_run())
        finally:
            lock.release()


def resolve_token(name_or_path: str, folder: Path) -> Path:
    """The token file that a sheet or command names: a path, relative to `folder`, where it holds a
    slash or ends in .safetensors; else a name or id of the library.

    Raises TokenMissing with the nearest name. A path is not looked at.
    """
    if is_path(name_or_path):
        return folder / Path(name_or_path).expanduser()
    return find_token(name_or_path, folder).path


def is_path(name_or_path: str) -> bool:
    """Whether a text names a file rather than a token of the library."""
    return "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith(SUFFIX)


def find_token(name: str, folder: Path) -> Entry:
    """`Library.find`, whose message also tells of a file of that name in `folder`."""
    try:
        return Library().find(name)
    except TokenMissing as error:
        beside = folder / f"{name}{SUFFIX}"
        if NAME.fullmatch(name) and beside.is_file():
            raise TokenMissing(
                f"no token {name!r} in the library; for the file write {beside.name}"
            ) from error
        raise


def check_name(name: str) -> str:
    """The name, if the library can hold it. Raises UnsafeName."""
    if not NAME.fullmatch(name) or RESERVED.fullmatch(name):
        raise UnsafeName(
            f"token name {name[:80]!r}: expected a-z, 0-9, '-' and '_', at most 64, "
            "and no device name of Windows; give another --name"
        )
    return name


def short(identity: str) -> str:
    """The first digits of an id, enough to tell tokens apart and to find one again."""
    return identity.removeprefix("sha256:")[:12]


def object_name(digits: str) -> str:
    """Where a token lies below the root."""
    return f"objects/{digits}{SUFFIX}"


def record_name(name: str) -> str:
    """Where a name lies below the root."""
    return f"names/{name}.json"


def replace_path(header: TokenHeader, path: Path) -> TokenHeader:
    """The header as read from `path`."""
    return replace(header, path=str(path))


@contextmanager
def writable(folder: Path, advice: str = "set CREATOK_HOME to a folder that can") -> Iterator[None]:
    """Faults of writing, told with the folder and what to do."""
    try:
        yield
    except (OutputReadOnly, OSError) as error:
        if isinstance(error, IntegrityError):
            reason = str(error.__cause__ or error)
        else:
            reason = error.strerror or str(error)
        if isinstance(error, OSError) and error.errno in durable.FULL:
            raise OutputFull(f"{folder} cannot be written: {reason}; free some space") from error
        raise OutputReadOnly(f"{folder} cannot be written: {reason}; {advice}") from error
