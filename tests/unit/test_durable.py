"""Durable writes: whole or not at all, never through a link, never over a file."""

from __future__ import annotations

import ast
import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import durable
from creatok_cli.durable import LineLog, Ops, Writer, publish_new, replace_derived, sweep
from creatok_cli.errors import IntegrityError, OutputFull, OutputReadOnly
from tests.fakes.disk import FailingDisk, disk

WRITER = Writer(run="00c0ffee")
PACKAGE = Path(durable.__file__).parent


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_seam_is_exactly_eight_operations() -> None:
    operations = [name for name in vars(Ops) if not name.startswith("_")]
    assert operations == [
        "open",
        "write",
        "truncate",
        "fsync",
        "link",
        "rename",
        "unlink",
        "mkdir",
    ]


def test_nothing_else_writes_to_a_disk() -> None:
    """No sink and no workflow changes a file but through `durable`."""
    forbidden = {
        ("os", name)
        for name in (
            "write rename replace unlink remove link symlink mkdir makedirs rmdir ftruncate".split()
        )
    }
    methods = {"write_text", "write_bytes", "touch", "rmtree", "symlink_to", "hardlink_to"}
    found = []
    for path in [*(PACKAGE / "sinks").glob("*.py"), *(PACKAGE / "workflows").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Attribute):
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if (owner, called.attr) in forbidden or called.attr in methods:
                    found.append(f"{path.name}:{node.lineno}")
            modes = [each.value for each in node.args[1:2] if isinstance(each, ast.Constant)]
            if isinstance(called, ast.Name) and called.id == "open" and modes != ["rb"]:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_publish_makes_folders_and_leaves_no_temporary(tmp_path: Path) -> None:
    assert publish_new(tmp_path, "a/b/c.png", b"data", writer=WRITER) == "published"
    assert names(tmp_path) == ["a", "a/b", "a/b/c.png"]
    assert (tmp_path / "a/b/c.png").read_bytes() == b"data"


def test_a_taken_name_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    assert publish_new(tmp_path, "x", b"other", writer=WRITER) == "exists"
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert names(tmp_path) == ["x"]


def test_a_name_taken_at_the_last_moment_stays(tmp_path: Path) -> None:
    class Late(Ops):
        def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
            (tmp_path / "x").write_bytes(b"mine")
            super().link(source, target, dir_fd=dir_fd)

    with disk(Late()):
        assert publish_new(tmp_path, "x", b"other", writer=WRITER) == "exists"
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert names(tmp_path) == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_gives_the_mode(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        publish_new(tmp_path, "x", b"data", writer=WRITER)
        replace_derived(tmp_path, "y", b"data", writer=WRITER)
    finally:
        os.umask(before)
    for name in "xy":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_the_order_of_operations(tmp_path: Path) -> None:
    """Contents are synced before the name exists."""
    ops = FailingDisk(10**9, 0)
    with disk(ops):
        publish_new(tmp_path, "x", b"data", writer=WRITER)
    assert ops.names == ["open", "open", "write", "fsync", "link", "unlink"]
    ops = FailingDisk(10**9, 0)
    with disk(ops):
        replace_derived(tmp_path, "x", b"new", writer=WRITER)
    assert ops.names[:5] == ["open", "open", "write", "fsync", "rename"]
    assert ops.names[-1] == "fsync"


def test_writes_of_one_byte_at_a_time(tmp_path: Path) -> None:
    class Slow(Ops):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            return super().write(fd, data[:1])

    with disk(Slow()):
        publish_new(tmp_path, "x", b"many bytes", writer=WRITER)
    assert (tmp_path / "x").read_bytes() == b"many bytes"


def test_a_disk_that_says_more_than_it_wrote_is_found_out(tmp_path: Path) -> None:
    class Liar(Ops):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            super().write(fd, data[:-1])
            return len(data)

    with disk(Liar()), pytest.raises(OSError, match="length differs"):
        publish_new(tmp_path, "x", b"many bytes", writer=WRITER)
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", sorted(durable.NO_LINKS))
def test_without_hard_links_a_rename_publishes(tmp_path: Path, code: int) -> None:
    class NoLinks(Ops):
        def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
            raise OSError(code, os.strerror(code))

    with disk(NoLinks()):
        assert publish_new(tmp_path, "x", b"one", writer=WRITER) == "published"
        assert publish_new(tmp_path, "x", b"two", writer=WRITER) == "exists"
    assert (tmp_path / "x").read_bytes() == b"one"
    assert names(tmp_path) == ["x"]


def test_unsupported_fsync_is_reported_not_fatal(tmp_path: Path) -> None:
    class NoSync(Ops):
        def fsync(self, fd: int) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with disk(NoSync()):
        assert publish_new(tmp_path, "x", b"one", writer=WRITER) == "published"
        assert durable.sync_folders(tmp_path, ["x"]) is False
        log = LineLog(tmp_path, "log")
        log.append(b"a\n")
        log.sync()
        assert log.syncs is False
        log.close()
    assert durable.sync_folders(tmp_path, ["x"]) is True


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, OutputFull),
        (errno.EDQUOT, OutputFull),
        (errno.EROFS, OutputReadOnly),
        (errno.EIO, OSError),
        (errno.EFBIG, OSError),
    ],
)
@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_errors_name_what_to_do_and_leave_nothing(
    tmp_path: Path, code: int, error: type[Exception], at: int
) -> None:
    with disk(FailingDisk(at, code)), pytest.raises(error) as found:
        publish_new(tmp_path, "x", b"data", writer=WRITER)
    if isinstance(found.value, IntegrityError):
        assert found.value.code == 6
        assert str(found.value).startswith("x: ")
    assert names(tmp_path) == []


# Links


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "victim").write_text("precious")
    (tmp_path / "root").mkdir()
    return folder


def test_a_linked_parent_is_not_followed(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    (root / "a").symlink_to(outside)
    for name in ("a/x", "a/b/x"):
        with pytest.raises(OSError, match=r"directory|link") as found:
            publish_new(root, name, b"data", writer=WRITER)
        assert found.value.errno in durable.NOT_A_FILE
    assert names(outside) == ["victim"]


@pytest.mark.parametrize("target", ["outside/victim", "outside/nothing", "outside"])
def test_a_link_at_the_name_is_kept(tmp_path: Path, outside: Path, target: str) -> None:
    root = tmp_path / "root"
    (root / "x").symlink_to(tmp_path / target)
    assert publish_new(root, "x", b"data", writer=WRITER) == "exists"
    for action in (replace_derived, lambda *a, **k: publish_new(*a, **k, replace=True)):
        with pytest.raises(FileExistsError):
            action(root, "x", b"data", writer=WRITER)
    with pytest.raises(OSError, match="regular file"):
        LineLog(root, "x")
    with pytest.raises(OSError, match="regular file"):
        durable.read_file(root, "x", limit=100)
    assert (root / "x").is_symlink()
    assert names(outside) == ["victim"]
    assert (outside / "victim").read_text() == "precious"


def test_a_link_swapped_in_at_the_temporary(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    (root / f".x.1of1.{WRITER.run}.part").symlink_to(outside / "victim")
    assert publish_new(root, "x", b"data", writer=WRITER) == "published"
    assert (outside / "victim").read_text() == "precious"
    assert names(root) == ["x"]


def test_a_folder_swapped_for_a_link_between_two_writes(tmp_path: Path, outside: Path) -> None:
    """The walk holds the folder open, so a swap in the middle cannot lead the write astray."""
    root = tmp_path / "root"
    (root / "a").mkdir()

    class Swap(Ops):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            (root / "a").rename(tmp_path / "moved")
            (root / "a").symlink_to(outside)
            return super().write(fd, data)

    with disk(Swap()):
        publish_new(root, "a/x", b"data", writer=WRITER)
    assert names(outside) == ["victim"]
    assert (tmp_path / "moved/x").read_bytes() == b"data"


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="regular file"):
        durable.read_file(tmp_path, "x", limit=100)
    with pytest.raises(OSError, match="regular file"):
        LineLog(tmp_path, "x")
    assert publish_new(tmp_path, "x", b"data", writer=WRITER) == "exists"


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "/etc/x", "a//b", "a/"])
def test_only_relative_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        publish_new(tmp_path, name, b"data", writer=WRITER)


def test_without_folder_descriptors(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Windows path: checked parents instead of descriptors."""
    monkeypatch.setattr(durable, "_HAS_DIR_FD", False)
    root = tmp_path / "root"
    assert publish_new(root, "a/b/x", b"data", writer=WRITER) == "published"
    assert publish_new(root, "a/b/x", b"other", writer=WRITER) == "exists"
    assert durable.read_file(root, "a/b/x", limit=10) == b"data"
    (root / "c").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        publish_new(root, "c/x", b"data", writer=WRITER)
    assert durable.sync_folders(root, ["a/b/x"]) is False
    (root / "a" / ".x.1of1.00c0ffee.part").write_bytes(b"")
    assert sweep(root, ["a", "a/b", "c", "none"], shard=(1, 1)) == 1
    assert names(outside) == ["victim"]


# Logs


def test_a_log_appends_whole_lines_only(tmp_path: Path) -> None:
    class Short(Ops):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            if bytes(data).startswith(b"a longer"):
                return super().write(fd, data[:4])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = LineLog(tmp_path, "log")
    log.append(b"one\n")
    with disk(Short()), pytest.raises(OutputFull):
        log.append(b"a longer line\n")
    assert (tmp_path / "log").read_bytes() == b"one\n"
    log.append(b"two\n")
    log.cut(4)
    log.append(b"end\n")
    log.close()
    log.close()
    assert (tmp_path / "log").read_bytes() == b"one\nend\n"
    durable.append_line(tmp_path, "log", b"more\n")
    assert (tmp_path / "log").read_bytes() == b"one\nend\nmore\n"


# Sweeping


def test_a_sweep_takes_own_temporaries_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    kept = [
        "x.part",
        ".x.2of2.00c0ffee.part",
        ".x.1of2.part",
        ".x.1of2.zz.part",
        "a/.y.2of2.0a.part",
    ]
    gone = [".x.1of2.00c0ffee.part", "a/.y.png.1of2.0a.part"]
    for name in [*kept, *gone]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".link.1of2.0a.part").symlink_to(tmp_path / "x.part")
    assert sweep(tmp_path, ["", "a", "missing"], shard=(1, 2)) == 2
    assert names(tmp_path) == sorted(["a", ".link.1of2.0a.part", *kept])


def test_a_temporary_swept_by_another_run_is_written_again(tmp_path: Path) -> None:
    class Swept(Ops):
        done = False

        def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
            if not self.done:
                self.done = True
                (tmp_path / source).unlink()
            super().link(source, target, dir_fd=dir_fd)

    with disk(Swept()):
        assert publish_new(tmp_path, "x", b"data", writer=WRITER) == "published"
    assert (tmp_path / "x").read_bytes() == b"data"


# Roots, reading, patience


def test_roots(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    durable.open_root(tmp_path / "link/deep/er", create=True)
    assert (real / "deep/er").is_dir()
    with pytest.raises(OutputReadOnly, match="no such folder"):
        durable.open_root(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputReadOnly):
        durable.open_root(tmp_path / "file", create=True)
    with disk(FailingDisk(1, errno.ENOSPC)), pytest.raises(OutputFull):
        durable.open_root(tmp_path / "new", create=True)


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert durable.read_file(tmp_path, "x", limit=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes") as found:
        durable.read_file(tmp_path, "x", limit=4)
    assert found.value.errno == errno.EFBIG


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert durable.sha256_file(tmp_path / "x") == expected


def test_patience_with_virus_scanners(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(durable.time, "sleep", waits.append)

    class Busy(OSError):
        winerror = 32

    failures = [Busy(13, "busy"), Busy(13, "busy")]

    def action() -> None:
        if failures:
            raise failures.pop()

    durable._with_patience(action)
    assert waits == [0.05, 0.1]

    def never() -> None:
        raise Busy(13, "busy")

    waits.clear()
    with pytest.raises(Busy):
        durable._with_patience(never)
    assert 2.5 <= sum(waits) <= 3.6

    def other() -> None:
        raise OSError(errno.EIO, "no")

    waits.clear()
    with pytest.raises(OSError, match="no"):
        durable._with_patience(other)
    assert waits == []


def test_many_places_keep_one_folder_open(tmp_path: Path) -> None:
    for name in ("a/x", "a/y", "b/x"):
        publish_new(tmp_path, name, b"data", writer=WRITER)
    ops: Any = FailingDisk(10**9, 0)
    with disk(ops), durable.places(tmp_path) as at:
        for name in ("a/x", "a/y", "b/x", "b/none"):
            assert (at(name).stat() is None) == (name == "b/none")
        with pytest.raises(FileNotFoundError):
            at("c/x")
    assert ops.count == 6
