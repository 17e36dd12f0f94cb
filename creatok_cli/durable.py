"""Every durable write: a temporary in place, fsync, publish without clobber.

A final name holds a complete file or does not exist. Bytes go to a `.part` file in the destination
folder, are checked for length and synced, and get their name by hard link, which refuses a taken
name. The eight operations of `Ops` are the only way by which creatok changes a disk, so tests break
exactly there. Recipe after restic (temporary, write, length, fsync, rename, fsync folder), git
(link-based no-clobber publish, grouped fsync) and rsync (no link is followed below the root).

Names are relative, with `/` separators, and are walked with folder descriptors and `O_NOFOLLOW`;
the root itself may be reached through links. Where the platform has no folder descriptors
(Windows), parents are checked with `lstat`.

Does not: know pictures, manifests or locks; decide what may be replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from creatok_cli.errors import IntegrityError, OutputFull, OutputReadOnly

Shard = tuple[int, int]
"""(K, N), counted from 1."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)
NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
NOT_A_FILE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO})

_HAS_DIR_FD = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_is_junction: Callable[[Path], bool] = getattr(os.path, "isjunction", lambda _: False)
_SHARING_VIOLATIONS = (5, 32, 33)
_TEMP = re.compile(r"^\..+\.(\d+)of(\d+)\.[0-9a-f]+\.part$", re.DOTALL)


class Ops:
    """The seam: the eight operations that change a disk. Tests replace `OPS` with one that fails
    or dies."""

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        return os.open(path, flags | _CLOEXEC | _BINARY, mode, dir_fd=dir_fd)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fsync(self, fd: int) -> None:
        if sys.platform == "darwin":
            import fcntl

            # fsync on macOS leaves data in the drive's cache.
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        os.fsync(fd)

    def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        os.link(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    def rename(
        self, source: str, target: str, *, dir_fd: int | None = None, clobber: bool = True
    ) -> None:
        # Without clobber only on Windows, where os.rename refuses a taken name.
        move = os.replace if clobber else os.rename
        move(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        os.unlink(path, dir_fd=dir_fd)

    def mkdir(self, path: str, *, dir_fd: int | None = None) -> None:
        os.mkdir(path, dir_fd=dir_fd)


OPS = Ops()


class Place(NamedTuple):
    """Where a name lives: the open folder (None without folder descriptors) and the path to use
    with it."""

    fd: int | None
    path: str

    def stat(self) -> os.stat_result | None:
        """`lstat` of the name, None if there is nothing."""
        try:
            return os.stat(self.path, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Who writes: the name part of temporaries, so that a sweep removes only its own."""

    run: str
    """Hex digits, new for every process."""
    shard: Shard = (1, 1)


def new_run() -> str:
    """8 fresh hex digits. They name temporaries only and never reach a published byte."""
    return secrets.token_hex(4)


@contextmanager
def output_errors(what: str) -> Iterator[None]:
    """Turns a full or read-only disk into OutputFull or OutputReadOnly, nothing else."""
    try:
        yield
    except OSError as error:
        verdict = fatal(error, what)
        if verdict is None:
            raise
        raise verdict from error


def fatal(error: OSError, what: str) -> IntegrityError | None:
    """The error that must stop a run at once, or None where only this file is lost."""
    if error.errno in FULL:
        return OutputFull(
            f"{what}: {error.strerror}; free some space or quota, then run the same command again"
        )
    if error.errno == errno.EROFS:
        return OutputReadOnly(f"{what}: {error.strerror}; choose a writable folder with --out")
    return None


def open_root(folder: Path, *, create: bool = False) -> None:
    """Makes the output folder with its parents where missing; links on the way to it are the user's
    choice.

    Raises OutputReadOnly if it cannot be made or is no folder, OutputFull on a full disk.
    """
    if folder.is_dir():
        return
    if not create:
        raise OutputReadOnly(f"{folder}: no such folder")
    missing = [folder, *folder.parents]
    for path in reversed(missing):
        if path.is_dir():
            continue
        try:
            with output_errors(str(path)):
                OPS.mkdir(str(path))
        except FileExistsError as error:
            if not path.is_dir():
                raise OutputReadOnly(f"{path}: is not a folder; choose another --out") from error
        except OSError as error:
            raise OutputReadOnly(
                f"{path}: cannot be made: {error.strerror}; choose another --out"
            ) from error


@contextmanager
def place(folder: Path, name: str, *, create: bool = False) -> Iterator[Place]:
    """The place of a relative name, walked without following a link below `folder`.

    Raises FileNotFoundError if a parent is missing and `create` is off, NotADirectoryError (or
    ELOOP) if a parent is a link or a file.
    """
    *parents, leaf = name.split("/")
    if leaf in ("", ".", "..") or any(part in ("", ".", "..") for part in parents):
        raise ValueError(f"not a relative name: {name!r}")
    if not _HAS_DIR_FD:
        yield Place(None, str(_checked_path(folder, parents, create=create) / leaf))
        return
    fd = OPS.open(str(folder), os.O_RDONLY | _DIRECTORY)
    try:
        for part in parents:
            inner = _enter(fd, part, create=create)
            os.close(fd)
            fd = inner
        yield Place(fd, leaf)
    finally:
        os.close(fd)


@contextmanager
def places(folder: Path) -> Iterator[Callable[[str], Place]]:
    """`place` for many names in a row: keeps the last parent open, so a listing in plan order
    walks each once."""
    held: list[tuple[str, AbstractContextManager[Place], Place]] = []

    def at(name: str) -> Place:
        parent, _, leaf = name.rpartition("/")
        if not held or held[0][0] != parent:
            while held:
                held.pop()[1].__exit__(None, None, None)
            opened = place(folder, f"{parent}/x" if parent else "x")
            held.append((parent, opened, opened.__enter__()))
        return _beside(held[0][2], leaf)

    try:
        yield at
    finally:
        while held:
            held.pop()[1].__exit__(None, None, None)


def publish_new(
    folder: Path, name: str, data: bytes, *, writer: Writer, replace: bool = False
) -> Literal["published", "exists"]:
    """Gives `data` its final name, complete or not at all; a taken name stays untouched unless
    `replace` is on.

    The file is synced, its folder is not: see `sync_folders`. Raises OutputFull, OutputReadOnly,
    OSError.
    """
    with output_errors(name), place(folder, name, create=True) as spot:
        for attempt in range(3):
            there = spot.stat()
            if there is not None and not replace:
                return "exists"
            if there is not None and not stat.S_ISREG(there.st_mode):
                raise FileExistsError(errno.EEXIST, "is no regular file; move it away", name)
            temp = _write_temp(spot, data, writer)
            try:
                if replace:
                    _rename(temp, spot)
                    return "published"
                return _link_or_rename(temp, spot)
            except FileNotFoundError:
                # Another run that believes to hold the same lock swept our temporary: write it
                # again.
                if attempt == 2:
                    raise
            finally:
                with suppress(FileNotFoundError):
                    if temp.stat() is not None:
                        OPS.unlink(temp.path, dir_fd=temp.fd)
    raise AssertionError("unreachable")


def replace_derived(folder: Path, name: str, data: bytes, *, writer: Writer) -> None:
    """Writes a file that is derived from others (contact sheet, gallery, plan), replacing the old
    one atomically.

    Refuses to take the place of anything but a regular file. Raises OSError, OutputFull,
    OutputReadOnly.
    """
    publish_new(folder, name, data, writer=writer, replace=True)
    sync_folders(folder, [name])


def remove(folder: Path, name: str) -> None:
    """Removes a derived file; a missing one is fine."""
    with output_errors(name), suppress(FileNotFoundError), place(folder, name) as spot:
        OPS.unlink(spot.path, dir_fd=spot.fd)


def sync_folders(folder: Path, names: Iterable[str]) -> bool:
    """Syncs the folders that hold `names`, each once, and every folder above them up to `folder`.

    False if the file system cannot sync folders (then a power loss may lose names, nothing else).
    """
    parents: dict[str, None] = {}
    for name in names:
        parts = name.split("/")[:-1]
        for depth in range(len(parts) + 1):
            parents["/".join(parts[:depth])] = None
    if not _HAS_DIR_FD:
        return False
    supported = True
    with output_errors(str(folder)):
        for parent in sorted(parents, reverse=True):
            with place(folder, f"{parent}/x" if parent else "x") as spot:
                assert spot.fd is not None
                supported &= _sync(spot.fd)
    return supported


class LineLog:
    """An append-only file of lines: one write per line, `O_APPEND`, never through a link.

    A short write is cut back at once, so a line is there whole or not at all unless the process
    dies in between.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.syncs = True
        """False once the file system has said that it cannot sync."""
        with output_errors(name), place(folder, name, create=True) as spot:
            there = spot.stat()
            if there is not None and not stat.S_ISREG(there.st_mode):
                raise FileExistsError(errno.EEXIST, "is no regular file; move it away", name)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | _NOFOLLOW | _NONBLOCK
            self._fd = OPS.open(spot.path, flags, dir_fd=spot.fd)

    def cut(self, length: int) -> None:
        """Drops everything after `length`: the torn tail of a killed run."""
        with output_errors(self.name):
            OPS.truncate(self._fd, length)
            self.syncs &= _sync(self._fd)

    def append(self, line: bytes) -> None:
        """Writes one line (with its line feed). Raises OutputFull, OutputReadOnly, OSError; then
        nothing was added."""
        with output_errors(self.name):
            before = os.fstat(self._fd).st_size
            try:
                written = OPS.write(self._fd, line)
                if written != len(line):
                    # What is missing fails with the true reason (a full disk, a limit) when written
                    # alone.
                    OPS.write(self._fd, line[written:])
                    if os.fstat(self._fd).st_size != before + len(line):
                        raise OSError(errno.EIO, "short write", self.name)
            except OSError:
                if os.fstat(self._fd).st_size > before:
                    with suppress(OSError):
                        OPS.truncate(self._fd, before)
                raise

    def sync(self) -> None:
        """Puts all lines on the disk."""
        with output_errors(self.name):
            self.syncs &= _sync(self._fd)

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def append_line(folder: Path, name: str, line: bytes) -> None:
    """Appends one line and syncs it: `LineLog` for a single line."""
    log = LineLog(folder, name)
    try:
        log.append(line)
        log.sync()
    finally:
        log.close()


@contextmanager
def reading(spot: Place) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor and the facts of a regular file; links are not followed and a FIFO does not
    block.

    Raises FileNotFoundError; any other kind of thing at that name raises OSError with an errno of
    `NOT_A_FILE`.
    """
    there = spot.stat()
    if there is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", spot.path)
    if not stat.S_ISREG(there.st_mode):
        raise OSError(errno.ELOOP, "is no regular file", spot.path)
    fd = OPS.open(spot.path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK, dir_fd=spot.fd)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.ELOOP, "is no regular file", spot.path)
        yield fd, facts
    finally:
        os.close(fd)


def read_file(folder: Path, name: str, *, limit: int) -> bytes:
    """The bytes of a regular file below `folder`, at most `limit`. Raises OSError (EFBIG above the
    limit)."""
    with place(folder, name) as spot, reading(spot) as (fd, facts):
        if facts.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes", name)
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", name)
    return data


def sha256_file(path: Path) -> str:
    """64 hex digits over the contents of a file, read in pieces. Follows links: for inputs, not
    for outputs."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path, parents: Iterable[str], *, shard: Shard) -> int:
    """Removes the temporaries that dead runs of this shard left in `parents` (relative, "" is the
    root).

    Call it under the lock of the shard only. Returns how many went.
    """
    swept = 0
    for parent in sorted(set(parents)):
        try:
            with place(folder, f"{parent}/x" if parent else "x") as spot:
                names = os.listdir(spot.fd if spot.fd is not None else os.path.dirname(spot.path))
                for name in names:
                    found = _TEMP.match(name)
                    if found is None or (int(found[1]), int(found[2])) != shard:
                        continue
                    temp = _beside(spot, name)
                    there = temp.stat()
                    if there is not None and stat.S_ISREG(there.st_mode):
                        with output_errors(name), suppress(FileNotFoundError):
                            OPS.unlink(temp.path, dir_fd=temp.fd)
                            swept += 1
        except OSError as error:
            # A parent that is missing, a file or a link has no temporaries of ours.
            if error.errno not in NOT_A_FILE | {errno.ENOENT}:
                raise
    return swept


def _enter(fd: int, part: str, *, create: bool) -> int:
    flags = os.O_RDONLY | _DIRECTORY | _NOFOLLOW
    try:
        return OPS.open(part, flags, dir_fd=fd)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        OPS.mkdir(part, dir_fd=fd)
    return OPS.open(part, flags, dir_fd=fd)


def _checked_path(folder: Path, parents: list[str], *, create: bool) -> Path:
    path = folder
    for part in parents:
        path = path / part
        if create and not os.path.lexists(path):
            with suppress(FileExistsError):
                OPS.mkdir(str(path))
        if path.is_symlink() or _is_junction(path):
            raise NotADirectoryError(errno.ENOTDIR, "is a link", str(path))
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
    return path


def _beside(spot: Place, name: str) -> Place:
    if spot.fd is not None:
        return Place(spot.fd, name)
    return Place(None, os.path.join(os.path.dirname(spot.path), name))


def _write_temp(spot: Place, data: bytes, writer: Writer) -> Place:
    """All bytes in a new file beside the final name: length checked and synced. Removes it again
    on any error."""
    stem = os.path.basename(spot.path)
    k, n = writer.shard
    temp = _beside(spot, f".{stem}.{k}of{n}.{writer.run}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
    try:
        fd = OPS.open(temp.path, flags, 0o666, dir_fd=temp.fd)
    except FileExistsError:
        # Only a recycled run name can leave one; the name is ours by shape.
        OPS.unlink(temp.path, dir_fd=temp.fd)
        fd = OPS.open(temp.path, flags, 0o666, dir_fd=temp.fd)
    try:
        try:
            rest = memoryview(data)
            while rest:
                written = OPS.write(fd, rest)
                if written <= 0:
                    raise OSError(errno.EIO, "nothing written", temp.path)
                rest = rest[written:]
            if os.fstat(fd).st_size != len(data):
                raise OSError(errno.EIO, "length differs after writing", temp.path)
            _sync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with suppress(OSError):
            OPS.unlink(temp.path, dir_fd=temp.fd)
        raise
    return temp


def _link_or_rename(temp: Place, spot: Place) -> Literal["published", "exists"]:
    if os.name == "nt":
        return _rename_windows(temp, spot)
    try:
        OPS.link(temp.path, spot.path, dir_fd=spot.fd)
    except FileExistsError:
        return "exists"
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # No hard links here: test, then rename. The race that remains can only put one whole
        # picture in place of another.
        if spot.stat() is not None:
            return "exists"
        _rename(temp, spot)
    return "published"


def _rename(temp: Place, spot: Place) -> None:
    if os.name == "nt":
        _with_patience(lambda: OPS.rename(temp.path, spot.path))
    else:
        OPS.rename(temp.path, spot.path, dir_fd=spot.fd)


def _rename_windows(temp: Place, spot: Place) -> Literal["published", "exists"]:
    """Publishes by a rename that refuses a taken name."""
    try:
        _with_patience(lambda: OPS.rename(temp.path, spot.path, clobber=False))
    except FileExistsError:
        return "exists"
    return "published"


def _with_patience(action: Callable[[], None]) -> None:
    """Retries while a virus scanner holds the file: WinError 5, 32, 33, for 2.5 s in all."""
    pause_s, waited_s = 0.05, 0.0
    while True:
        try:
            action()
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in _SHARING_VIOLATIONS or waited_s >= 2.5:
                raise
        time.sleep(pause_s)
        waited_s += pause_s
        pause_s = min(2 * pause_s, 1.0)


def _sync(fd: int) -> bool:
    """False where the file system does not support fsync."""
    try:
        OPS.fsync(fd)
    except OSError as error:
        if error.errno in NO_FSYNC:
            return False
        raise
    return True
