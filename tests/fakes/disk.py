"""Disks that break: at the n-th operation, once or for good, or by losing what was not synced.

`DyingDisk` ends like `kill -9`: from its n-th operation on nothing changes the disk any more, so
what `finally` blocks do afterwards has no effect. A write that dies leaves half of its bytes.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from creatok_cli import durable


class Killed(BaseException):
    """The process is dead; nothing may catch this."""


class CountingDisk(durable.Ops):
    """Numbers the operations from 1 and lets `strike` decide about each."""

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []
        self._lock = Lock()

    def strike(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        """Raises to break this operation."""

    def _before(self, name: str, *arguments: Any) -> None:
        with self._lock:
            self.count += 1
            number = self.count
            self.names.append(name)
        self.strike(number, name, arguments)

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        self._before("open", path, flags)
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._before("write", fd, data)
        return super().write(fd, data)

    def truncate(self, fd: int, length: int) -> None:
        self._before("truncate", fd, length)
        super().truncate(fd, length)

    def fsync(self, fd: int) -> None:
        self._before("fsync", fd)
        super().fsync(fd)

    def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        self._before("link", source, target)
        super().link(source, target, dir_fd=dir_fd)

    def rename(
        self, source: str, target: str, *, dir_fd: int | None = None, clobber: bool = True
    ) -> None:
        self._before("rename", source, target)
        super().rename(source, target, dir_fd=dir_fd, clobber=clobber)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._before("unlink", path)
        super().unlink(path, dir_fd=dir_fd)

    def mkdir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._before("mkdir", path)
        super().mkdir(path, dir_fd=dir_fd)


class DyingDisk(CountingDisk):
    """Dead from operation `at` on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def strike(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        if number == self.at and name == "write":
            fd, data = arguments
            os.write(fd, bytes(data)[: len(data) // 2])
        if number >= self.at:
            raise Killed(f"operation {number}: {name}")


class FailingDisk(CountingDisk):
    """Operation `at` fails once with an errno."""

    def __init__(self, at: int, code: int) -> None:
        super().__init__()
        self.at, self.code = at, code
        self.broke = ""

    def strike(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        if number == self.at:
            self.broke = name
            raise OSError(self.code, os.strerror(self.code))


class LosingDisk(DyingDisk):
    """Dies, and then loses what no fsync has put down: contents of files, and names in folders."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self._dirty: dict[tuple[int, int], int] = {}
        """(device, inode) of a file to the length that is safe."""
        self._names: dict[tuple[int, int], dict[str, Path]] = {}
        """Folder to the names that were made in it since its last fsync."""

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        fd = super().open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_EXCL:
            self._new_name(path, dir_fd)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        facts = os.fstat(fd)
        self._dirty.setdefault((facts.st_dev, facts.st_ino), facts.st_size)
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        facts = os.fstat(fd)
        self._dirty.pop((facts.st_dev, facts.st_ino), None)
        if stat.S_ISDIR(facts.st_mode):
            self._names.pop((facts.st_dev, facts.st_ino), None)

    def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        super().link(source, target, dir_fd=dir_fd)
        self._new_name(target, dir_fd)

    def _new_name(self, path: str, dir_fd: int | None) -> None:
        assert dir_fd is not None
        facts = os.fstat(dir_fd)
        folder = Path(os.readlink(f"/proc/self/fd/{dir_fd}"))
        self._names.setdefault((facts.st_dev, facts.st_ino), {})[path] = folder / path

    def lose(self, root: Path, chance: random.Random) -> list[str]:
        """Applies the loss to the folder; returns what was lost."""
        lost = []
        for names in self._names.values():
            for path in names.values():
                if path.exists() and chance.random() < 0.5:
                    path.unlink()
                    lost.append(f"name {path.name}")
        for path in sorted(root.rglob("*")):
            facts = path.lstat()
            safe = self._dirty.get((facts.st_dev, facts.st_ino))
            if safe is None or not path.is_file():
                continue
            data = path.read_bytes()
            fate = chance.choice(["cut", "zeros", "kept"])
            if fate == "cut":
                path.write_bytes(data[: chance.randint(safe, len(data))])
            elif fate == "zeros":
                path.write_bytes(data[:safe] + bytes(len(data) - safe))
            lost.append(f"{fate} {path.name}")
        return lost


@contextmanager
def disk(ops: durable.Ops) -> Iterator[durable.Ops]:
    """Runs on that disk."""
    before, durable.OPS = durable.OPS, ops
    try:
        yield ops
    finally:
        durable.OPS = before
