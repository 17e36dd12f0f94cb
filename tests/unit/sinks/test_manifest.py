"""The manifest sink: groups, order, and the quick look that a resume relies on."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from creatok_cli import durable
from creatok_cli.domain import Failed, Job
from creatok_cli.durable import Writer
from creatok_cli.errors import IntegrityError
from creatok_cli.sinks import manifest, png
from creatok_cli.sinks._ledger import Ledger
from creatok_cli.sinks.base import Committed, Output, file_of
from creatok_cli.sinks.manifest import ManifestSink, Spec, check, is_owned, quick_check
from tests.fakes.disk import FailingDisk, disk
from tests.fakes.drawing import FakeRenderer, jobs, plan


class Bench:
    """A png and a manifest sink over one folder."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        folder.mkdir(exist_ok=True)
        self.committed: list[Committed] = []
        self.out = Output(
            folder=folder,
            writer=Writer(run="0a"),
            metadata="full",
            ledger=Ledger(),
            commit=self.committed.append,
        )
        self.jobs = jobs(20)
        self.png = png.build(png.Spec(), self.out, plan(20))
        self.sink: ManifestSink = manifest.build(spec, self.out, plan(20))

    def write(self, *numbers: int) -> None:
        (batch, *_) = plan(20, batch_class=20).batches
        results = FakeRenderer().render(batch)
        for number in numbers:
            result = results[number]
            assert not isinstance(result, Failed)
            self.png.write(result)
            self.sink.write(result)


def test_lines_are_written_in_groups_of_eight(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Spec())
    bench.write(*range(7))
    assert bench.committed == []
    assert (tmp_path / "manifest.jsonl").read_bytes() == b""
    bench.write(7)
    assert [each.job for each in bench.committed] == bench.jobs[:8]
    bench.write(8)
    assert len(manifest.read(tmp_path).by_file) == 8
    bench.sink.close()
    assert len(manifest.read(tmp_path).by_file) == 9
    assert len(bench.committed) == 9


def test_an_old_group_is_due(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Spec(group_s=0.02))
    bench.write(0)
    bench.sink.flush(only_due=True)
    time.sleep(0.03)
    bench.sink.flush(only_due=True)
    assert len(bench.committed) == 1
    bench.sink.close()


def test_folders_first_then_lines_then_the_manifest(tmp_path: Path) -> None:
    """A line never outlives its picture, and no event precedes the line on the disk."""
    bench = Bench(tmp_path, Spec(group_images=100))
    bench.write(0, 1, 12)
    ops = FailingDisk(10**9, 0)
    seen: list[int] = []
    bench.out.commit = lambda _: seen.append(ops.count)
    with disk(ops):
        bench.sink.flush()
    assert [name for name in ops.names if name in ("fsync", "write")] == [
        # first/, second/ and the root; three lines; the manifest.
        *["fsync"] * 3,
        *["write"] * 3,
        "fsync",
    ]
    assert seen == [ops.count] * 3
    bench.sink.close()


def test_a_manifest_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    counting = FailingDisk(10**9, 0)
    bench = Bench(tmp_path / "counted", Spec(group_images=100))
    bench.write(0)
    with disk(counting):
        bench.sink.flush()
    bench.sink.close()
    for at in range(1, counting.count + 1):
        bench = Bench(tmp_path / str(at), Spec(group_images=100))
        bench.write(0)
        with disk(FailingDisk(at, errno.EIO)), pytest.raises(IntegrityError) as found:
            bench.sink.flush()
        assert (found.value.code, bench.committed) == (6, [])
        bench.sink.close()


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Job, manifest.Line]:
    bench = Bench(tmp_path, Spec())
    bench.write(0)
    bench.sink.close()
    return tmp_path, bench.jobs[0], bench.out.ledger.by_file[file_of(bench.jobs[0])]


def quick(folder: Path, job: Job, line: manifest.Line | None) -> bool:
    with durable.places(folder) as at:
        return quick_check(at, job, line)


def test_the_quick_check(finished: tuple[Path, Job, manifest.Line]) -> None:
    folder, job, line = finished
    path = folder / file_of(job)
    data = path.read_bytes()
    assert quick(folder, job, line)
    assert not quick(folder, job, None)
    assert not quick(folder, jobs(2)[1], line)
    for changed in (
        data[:-1],
        data + b"x",
        b"",
        data.replace(job.key.encode(), b"r1:" + b"0" * 40),
        data[:-12] + b"x" * 12,
    ):
        path.write_bytes(changed)
        assert not quick(folder, job, line)
    path.unlink()
    assert not quick(folder, job, line)
    path.symlink_to(folder / "manifest.jsonl")
    assert not quick(folder, job, line)


@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "a//b.png"])
def test_a_line_with_a_strange_file_name_is_no_danger(
    finished: tuple[Path, Job, manifest.Line], name: str
) -> None:
    from dataclasses import replace

    folder, job, line = finished
    assert not quick(folder, job, replace(line, file=name))


def test_the_full_check_is_deeper(finished: tuple[Path, Job, manifest.Line]) -> None:
    """A flipped bit that keeps the size passes the quick look and not the full one."""
    folder, job, line = finished
    path = folder / file_of(job)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))
    assert quick(folder, job, line)
    assert check(folder, job, line).verdict == "damaged"
    assert check(folder, job, None).verdict == "foreign"
    assert is_owned(job, line)
    assert not is_owned(jobs(2)[1], line)
    path.unlink()
    assert check(folder, job, line).verdict == "absent"
