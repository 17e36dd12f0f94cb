"""Runs that are killed, broken, doubled or tampered with, and the same command again.

The oracle is the tree of an uninterrupted run: names and bytes of all pictures, contact sheets,
gallery and plan, and the manifest without its seconds. LONG_TESTS=1 runs the counts of a release.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from creatok_cli import durable
from creatok_cli.domain import Failed, ImageWritten, Job, JobFailed, Notice, Plan, Planned, Stage
from creatok_cli.errors import (
    CreatokError,
    InputError,
    IntegrityError,
    ManifestDamaged,
    OutputBusy,
    OutputFull,
    OutputReadOnly,
    SchemaNewer,
)
from creatok_cli.hashing import keyed
from creatok_cli.plan.batches import make_plan, shard
from creatok_cli.sinks import _pool, manifest
from creatok_cli.workflows import _lock
from creatok_cli.workflows._attempts import Attempts
from creatok_cli.workflows._run import run
from creatok_cli.workflows._verify import rehearse, verify
from tests.fakes.disk import DyingDisk, FailingDisk, Killed, LosingDisk, disk
from tests.fakes.drawing import (
    FakeRenderer,
    finish,
    job,
    jobs,
    plan,
    task,
    temporaries,
    tree,
)

ROOT = Path(__file__).parents[2]
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EACCES)
LONG = os.environ.get("LONG_TESTS") == "1"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that exists: thousands of fsyncs would measure the disk, not the program."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="creatok-test-") as folder:
        yield Path(folder)


def lines(out: Path) -> dict[str, dict[str, Any]]:
    """The manifest by file, without what depends on time or on who found the picture."""
    found = {}
    for file, line in manifest.read(out).by_file.items():
        record = {name: getattr(line, name) for name in ("key", "job", "seed", "prompt", "size")}
        record |= {name: getattr(line, name) for name in ("sha256", "status", "pixels", "bytes")}
        found[file] = record
    return found


@pytest.fixture(autouse=True)
def one_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One writer thread, so that the n-th operation is the same one every time."""
    monkeypatch.setattr(_pool, "default_threads", lambda: 1)


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan(3, batch_class=2)


def reference(out: Path, whole: Plan, **options: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Tree and manifest of an uninterrupted run."""
    summary, _, error = finish(run(task(out, whole, **options)))
    assert (summary.code, error, summary.done) == (0, None, len(whole.jobs))
    assert temporaries(out) == []
    return tree(out), lines(out)


def fsck(out: Path, whole: Plan, expected: tuple[dict[str, str], dict[str, Any]]) -> FakeRenderer:
    """The same command again: it finishes, keeps what was done, and ends with the expected tree."""
    before = {name: digest for name, digest in tree(out).items() if name.endswith(".png")}
    done = {
        each.name
        for each in whole.jobs
        if manifest.check(out, each, manifest.read(out).by_file.get(f"{each.name}.png")).verdict
        == "intact"
    }
    renderer = FakeRenderer()
    summary, events, error = finish(run(task(out, whole, renderer)))
    assert (summary.code, error) == (0, None), error
    assert summary.planned == summary.done + summary.skipped == len(whole.jobs)
    assert not done & {e.file.removesuffix(".png") for e in events if isinstance(e, ImageWritten)}
    assert summary.skipped == len(done)
    needed = {
        each.name
        for batch in whole.batches
        if {member.name for member in batch.jobs} - done
        for each in batch.jobs
    }
    # A batch that died twice is drawn member by member: then its finished members are not needed.
    missing = {each.name for each in whole.jobs} - done
    assert missing <= set(renderer.drawn) <= needed
    after = tree(out)
    assert after == expected[0]
    assert lines(out) == expected[1]
    assert temporaries(out) == []
    for name in done:
        assert after[f"{name}.png"] == before[f"{name}.png"]
    again, _, error = finish(run(task(out, whole, FakeRenderer(fault=_never))))
    assert (again.code, again.done, again.skipped, error) == (0, 0, len(whole.jobs), None)
    return renderer


def _never(drawn: Job) -> None:
    raise AssertionError(f"a finished plan drew {drawn.name}")


# C1: kill -9 at random times


def launch(out: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A run in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.drawing", str(out), *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _until(path: Path, process: subprocess.Popen[str], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.parametrize("lanes", [1, 3])
def test_c1_kill_at_random_times(tmp_path: Path, lanes: int) -> None:
    """24 images, SIGKILL to the group, rerun: at most a batch per lane lost, nothing redone, same
    tree.
    """
    whole = plan(24, batch_class=4)
    expected = reference(tmp_path / "whole", whole)
    chance = random.Random(7)
    for count in range(2000 if LONG else 25 if lanes == 1 else 10):
        out = tmp_path / f"run-{count}"
        process = launch(out, "24", "4", "20", FAKE_LANES=str(lanes))
        # The plan file is there once the run has begun; all of it takes about 0.3 s from there.
        _until(out / "plan.json", process)
        time.sleep(chance.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
        assert "Traceback" not in output
        assert sum(Attempts(out).deaths(batch) for batch in whole.batches) <= lanes
        fsck(out, whole, expected)
        shutil.rmtree(out)


def _until_ended(path: Path, process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many batches have ended."""
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.read_text().count('"end"') >= count:
            return
        time.sleep(0.005)


def test_c1_killed_again_and_again(tmp_path: Path) -> None:
    """Each of many runs is killed; together they finish, and no picture is ever drawn twice."""
    whole = plan(12, batch_class=2)
    expected = reference(tmp_path / "whole", whole)
    out = tmp_path / "out"
    chance = random.Random(3)
    for count in range(4):
        process = launch(out, "12", "2", "60")
        # On a busy machine a run that is killed too early would die in the same batch every time.
        _until_ended(out / "attempts.jsonl", process, count + 1)
        time.sleep(chance.uniform(0, 0.06))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    fsck(out, whole, expected)


# C3, C4, C5: every operation of the seam


def operations(tmp_path: Path, whole: Plan, **options: Any) -> int:
    """How many operations an uninterrupted run takes."""
    ops = DyingDisk(1 << 60)
    with disk(ops):
        finish(run(task(tmp_path / "counted", whole, **options)))
    assert set(ops.names) >= {"open", "write", "truncate", "fsync", "link", "rename", "unlink"}
    return ops.count


def test_c3_kill_at_every_operation(tmp_path: Path, small: Plan) -> None:
    expected = reference(tmp_path / "whole", small)
    total = operations(tmp_path, small)
    for at in range(1, total + 1):
        out = tmp_path / f"at-{at}"
        with disk(DyingDisk(at)), pytest.raises(Killed):
            finish(run(task(out, small)))
        out.mkdir(exist_ok=True)
        fsck(out, small, expected)
        shutil.rmtree(out)
    assert total > 60


def test_c4_an_error_at_every_operation(tmp_path: Path, small: Plan) -> None:
    """A clean stop or a failed job, the right code, and the rerun completes."""
    expected = reference(tmp_path / "whole", small)
    total = operations(tmp_path, small)
    broken = 0
    for at in range(1, total + 1):
        for code in ERRNOS if LONG else ERRNOS[at % 6 :][:1]:
            out = tmp_path / "out"
            ops = FailingDisk(at, code)
            with disk(ops):
                try:
                    summary, events, error = finish(run(task(out, small)))
                except IntegrityError as early:
                    # Before the plan was announced: nothing was drawn.
                    summary, events, error = None, [], early
            assert ops.broke, f"{at} of {total} was never reached"
            broken += 1
            _check_outcome(summary, events, error, code, ops.broke)
            out.mkdir(exist_ok=True)
            fsck(out, small, expected)
            shutil.rmtree(out)
    assert broken >= total


def _check_outcome(
    summary: Any, events: list[Any], error: Exception | None, code: int, operation: str
) -> None:
    if error is not None:
        assert isinstance(error, IntegrityError), repr(error)
        assert error.code == 6
        assert summary is None or summary.code == 6
        if isinstance(error, OutputFull):
            assert code in (errno.ENOSPC, errno.EDQUOT)
        return
    assert summary.planned == summary.done + summary.skipped + summary.failed + summary.remaining
    if summary.code == 3:
        failed = [event for event in events if isinstance(event, JobFailed)]
        assert len(failed) == summary.failed > 0
        assert {event.kind for event in failed} <= {"os-error", "foreign-file"}
        assert code not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    else:
        assert (summary.code, summary.remaining, summary.failed) == (0, 0, 0)


def test_c5_lost_writes(tmp_path: Path, small: Plan) -> None:
    """Power loss: what was never synced is cut, zeroed or gone. Damage is found, never accepted."""
    expected = reference(tmp_path / "whole", small)
    total = operations(tmp_path, small)
    chance = random.Random(11)
    losses = 0
    for count in range(2000 if LONG else 50):
        out = tmp_path / f"loss-{count}"
        ops = LosingDisk(chance.randint(2, total))
        with disk(ops), pytest.raises(Killed):
            finish(run(task(out, small)))
        out.mkdir(exist_ok=True)
        losses += len(ops.lose(out, chance))
        # A line never outlives its picture: folders are synced before lines are written.
        said = manifest.read(out).by_file
        for each in small.jobs:
            line = said.get(f"{each.name}.png")
            if line is not None and line.status == "done":
                assert manifest.check(out, each, line).verdict == "intact"
        fsck_after_loss(out, small, expected)
        shutil.rmtree(out)
    assert losses > 20


def fsck_after_loss(
    out: Path, whole: Plan, expected: tuple[dict[str, str], dict[str, Any]]
) -> None:
    summary, _, error = finish(run(task(out, whole)))
    assert (summary.code, error) == (0, None), error
    assert tree(out) == expected[0]
    assert lines(out) == expected[1]
    assert temporaries(out) == []
    checked, _, _ = finish(verify(task(out, whole)))
    assert (checked.code, checked.skipped) == (0, len(whole.jobs))


# C6 at the level of a run: the manifest is an index, the files are the truth


def test_c6_any_manifest_is_survived(tmp_path: Path, small: Plan) -> None:
    out = tmp_path / "out"
    expected = reference(out, small)
    whole = (out / "manifest.jsonl").read_bytes()
    chance = random.Random(5)
    cuts = range(len(whole) + 1) if LONG else chance.sample(range(len(whole) + 1), 12)
    variants = [whole[:cut] for cut in cuts] + [b"", whole + whole, whole[: len(whole) // 2] * 2]
    for _ in range(8):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        variants.append(bytes(flipped))
    for data in variants:
        (out / "manifest.jsonl").write_bytes(data)
        summary, _, error = finish(run(task(out, small, FakeRenderer(fault=_never))))
        assert (summary.code, summary.done, summary.skipped, error) == (0, 0, 3, None)
        assert tree(out) == expected[0]
        assert lines(out) == expected[1]
        ledger = manifest.read(out)
        assert not ledger.torn


def test_c6_a_newer_schema_is_refused_untouched(tmp_path: Path, small: Plan) -> None:
    out = tmp_path / "out"
    reference(out, small)
    from creatok_cli.sinks import _ledger

    before = manifest.read(out).by_file[f"{small.jobs[0].name}.png"]
    data = _ledger.encode(before)
    newer = data.replace(b'"schema":1', b'"schema":2')
    body = newer[: newer.rindex(b',"crc"')] + b"}"
    import zlib

    newer = body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)
    with (out / "manifest.jsonl").open("ab") as file:
        file.write(newer)
    untouched = tree(out), (out / "manifest.jsonl").read_bytes()
    with pytest.raises(SchemaNewer, match="newer"):
        finish(run(task(out, small)))
    assert (tree(out), (out / "manifest.jsonl").read_bytes()) == untouched
    assert SchemaNewer.code == 6


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"schema": 2, "digest": "x", "groups": []}', SchemaNewer),
        ('{"mine": 1}', ManifestDamaged),
        ("not JSON", ManifestDamaged),
        ('{"schema": 1, "digest": "x", "groups": [{"group": "g", "class": 0}]}', ManifestDamaged),
    ],
)
def test_a_plan_file_that_is_not_ours_is_not_touched(
    tmp_path: Path, small: Plan, text: str, error: type[CreatokError]
) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(error):
        finish(run(task(tmp_path, small)))
    assert (tmp_path / "plan.json").read_text() == text
    assert list(tmp_path.rglob("*.png")) == []


# C7: tampered outputs


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    kept = path.rename(path.parents[2] / "elsewhere.png")
    path.symlink_to(kept)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parents[2] / "nowhere.png")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _bare(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(path)


def _text(path: Path) -> None:
    path.write_text("my notes")


def _edited(path: Path) -> None:
    """Another picture with the metadata of ours, as an editor that keeps chunks would write."""
    from PIL import Image, PngImagePlugin

    with Image.open(path) as image:
        recipe = image.text["creatok"]
    info = PngImagePlugin.PngInfo()
    info.add_itxt("creatok", recipe)
    Image.new("RGB", (16, 16), "red").save(path, pnginfo=info)


DAMAGE = [_cut, _empty, _flip, _text]
FOREIGN = [_folder, _link, _dangling, _fifo, _bare, _edited]


@pytest.mark.parametrize("tamper", DAMAGE, ids=lambda f: f.__name__)
def test_c7_damaged_pictures_are_found_and_redone(tmp_path: Path, small: Plan, tamper: Any) -> None:
    out = tmp_path / "out"
    expected = reference(out, small)
    tamper(out / f"{small.jobs[0].name}.png")
    summary, events, _ = finish(verify(task(out, small)))
    assert (summary.code, summary.failed, summary.skipped, summary.remaining) == (3, 1, 2, 0)
    assert [e.kind for e in events if isinstance(e, JobFailed)] == ["damaged"]
    fsck(out, small, expected)


def test_c7_a_missing_picture_is_found_and_redone(tmp_path: Path, small: Plan) -> None:
    out = tmp_path / "out"
    expected = reference(out, small)
    (out / f"{small.jobs[2].name}.png").unlink()
    summary, events, _ = finish(verify(task(out, small)))
    assert (summary.code, summary.failed, summary.skipped) == (3, 1, 2)
    assert [e.kind for e in events if isinstance(e, JobFailed)] == ["missing"]
    fsck(out, small, expected)


@pytest.mark.parametrize("tamper", FOREIGN, ids=lambda f: f.__name__)
def test_c7_foreign_things_are_never_touched(tmp_path: Path, small: Plan, tamper: Any) -> None:
    """Links and pipes are not followed, edited pictures are kept; only that job fails."""
    out = tmp_path / "out"
    reference(out, small)
    path = out / f"{small.jobs[0].name}.png"
    tamper(path)

    def look() -> Any:
        facts = path.lstat()
        return facts.st_mode, facts.st_ino, facts.st_mtime_ns, facts.st_size

    before = look()
    for events in (run(task(out, small)), verify(task(out, small)), run(task(out, small))):
        summary, seen, error = finish(events)
        assert (summary.code, summary.failed, summary.skipped, error) == (3, 1, 2, None)
        assert [e.kind for e in seen if isinstance(e, JobFailed)] == ["foreign-file"]
        assert look() == before
    assert not (tmp_path / "nowhere.png").exists()


def test_a_file_of_somebody_else_is_never_touched(tmp_path: Path, small: Plan) -> None:
    """Also when it is no picture, and also in later runs, which find a line about it."""
    path = tmp_path / f"{small.jobs[1].name}.png"
    path.parent.mkdir()
    path.write_text("my notes")
    for _ in range(2):
        renderer = FakeRenderer()
        summary, events, error = finish(run(task(tmp_path, small, renderer)))
        assert (summary.code, summary.failed, error) == (3, 1, None)
        assert [e.kind for e in events if isinstance(e, JobFailed)] == ["foreign-file"]
        assert path.read_text() == "my notes"
    assert summary.skipped == 2
    assert renderer.drawn == []


def test_a_linked_folder_is_not_followed(tmp_path: Path, small: Plan) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "first").symlink_to(elsewhere)
    summary, events, _ = finish(run(task(out, small)))
    assert (summary.code, summary.done, summary.failed) == (3, 1, 2)
    assert {e.kind for e in events if isinstance(e, JobFailed)} == {"foreign-file"}
    assert list(elsewhere.iterdir()) == []


# C8, C11: real file systems


def in_namespace(script: str, folder: Path) -> str:
    """A shell script with mounts of its own."""
    try:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-euc", script],
            cwd=ROOT,
            env={**os.environ, "PY": sys.executable, "DIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no unshare command here")
    if "unshare" in done.stderr or "mount:" in done.stderr or "permission" in done.stderr.lower():
        pytest.skip(f"no mounts in a namespace here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux only")
def test_c8_a_full_disk(tmp_path: Path) -> None:
    """1 MiB: exit 6 and whole files only; enlarged, the same command finishes."""
    whole = plan(300, batch_class=8)
    expected = reference(tmp_path / "whole", whole)
    output = in_namespace(
        """
        mkdir "$DIR/disk" "$DIR/saved" "$DIR/kept"
        mount -t tmpfs -o size=1M none "$DIR/disk"
        "$PY" -m tests.fakes.drawing "$DIR/disk/out" 300 8 0 || echo "code $?"
        cp -a "$DIR/disk/out" "$DIR/saved/out"
        mount -o remount,size=64M "$DIR/disk"
        "$PY" -m tests.fakes.drawing "$DIR/disk/out" 300 8 0
        cp -a "$DIR/disk/out" "$DIR/kept/out"
        """,
        tmp_path,
    )
    assert "code 6" in output
    assert "OutputFull" in output
    assert "reason='disk-full'" in output
    saved, kept = tmp_path / "saved/out", tmp_path / "kept/out"
    pictures = [name for name in tree(saved) if "/" in name and name.endswith(".png")]
    assert 20 < len(pictures) < 300
    assert all(tree(saved)[name] == expected[0][name] for name in pictures)
    assert tree(kept) == expected[0]
    assert temporaries(kept) == []


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux only")
def test_c11_a_read_only_folder(tmp_path: Path) -> None:
    """Exit 6 before anything is opened for drawing, in under a second; also a finished folder."""
    output = in_namespace(
        """
        mkdir "$DIR/data"
        mount --bind "$DIR/data" "$DIR/data"
        mount -o remount,ro,bind "$DIR/data"
        "$PY" -m tests.fakes.drawing "$DIR/data/out" 3 2 0 || echo "code $?"
        "$PY" -m tests.fakes.drawing "$DIR/data" 3 2 0 || echo "code $?"
        """,
        tmp_path,
    )
    assert output.count("code 6") == 2
    assert output.count("OutputReadOnly") == 2
    assert "Stage" not in output


def test_c11_nothing_is_opened_on_a_read_only_disk(tmp_path: Path, small: Plan) -> None:
    class ReadOnly(durable.Ops):
        def open(
            self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None
        ) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return super().open(path, flags, mode, dir_fd=dir_fd)

    renderer = FakeRenderer(fault=_never)
    with disk(ReadOnly()), pytest.raises(OutputReadOnly, match="--out"):
        finish(run(task(tmp_path, small, renderer)))


def test_an_out_that_is_a_file(tmp_path: Path, small: Plan) -> None:
    (tmp_path / "out").write_text("x")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(OutputReadOnly):
            finish(run(task(out, small)))
    assert (tmp_path / "out").read_text() == "x"


# C10: limits of the process


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize(
    ("limit", "code", "word"),
    [
        # Two blocks of 512 bytes: no picture fits, which costs the file, then the manifest ends it.
        ("ulimit -f 2", 6, "manifest"),
        ("ulimit -n 12", 0, "done=24"),
    ],
)
def test_c10_limits(tmp_path: Path, limit: str, code: int, word: str) -> None:
    whole = plan(24, batch_class=4)
    expected = reference(tmp_path / "whole", whole)
    out = tmp_path / "out"
    script = f"{limit}; exec {sys.executable} -m tests.fakes.drawing {out} 24 4 0"
    done = subprocess.run(
        ["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert word in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    out.mkdir(exist_ok=True)
    fsck(out, whole, expected)


# C12, C13: two runs, and what locks say


def test_c12_the_second_run_says_who_is_busy(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = launch(out, "24", "4", "150")
    try:
        _until(out / "plan.json", first)
        started = time.monotonic()
        second = launch(out, "24", "4", "150")
        output = second.communicate(timeout=20)[0]
        assert second.returncode == 6
        assert "OutputBusy" in output
        assert f"process {first.pid} on " in output
        assert " since " in output
        assert time.monotonic() - started < 5
        assert first.communicate(timeout=60)[0].count("ImageWritten") == 24
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 0
    assert (out / ".creatok.lock").read_bytes() == b""


def test_c12_busy_is_told_at_once(tmp_path: Path, small: Plan) -> None:
    with _lock.held(tmp_path, (1, 1)):
        started = time.monotonic()
        with pytest.raises(OutputBusy, match=f"process {os.getpid()} on .* since") as found:
            finish(run(task(tmp_path, small)))
        assert time.monotonic() - started < 1
        assert (found.value.code, found.value.reason, found.value.retryable) == (6, "busy", True)
        # A shard has a lock of its own.
        with _lock.held(tmp_path, (1, 2)):
            pass


def test_c12_two_runs_behind_a_lying_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Correct without the lock: each image once, the right bytes, nobody fails."""

    class Liar:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            pass

        def acquire(self) -> None:
            pass

        def release(self) -> None:
            pass

    whole = plan(16, batch_class=4)
    expected = reference(tmp_path / "whole", whole)
    monkeypatch.setattr(_lock, "FileLock", Liar)
    for delay_s in (0.0, 0.02, 0.06):
        out = tmp_path / f"out-{delay_s}"
        results: list[Any] = []

        def one(wait_s: float, out: Path = out, results: list[Any] = results) -> None:
            time.sleep(wait_s)
            results.append(finish(run(task(out, whole, FakeRenderer(sleep_s=0.01)))))

        threads = [Thread(target=one, args=(wait_s,)) for wait_s in (0.0, delay_s)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(summary.code, error) for summary, _, error in results] == [(0, None)] * 2
        assert sum(summary.done for summary, _, _ in results) == 16
        fsck(out, whole, expected)


@pytest.mark.parametrize(
    "text",
    [
        '{"pid": 999999999, "host": "elsewhere", "since": "2001-01-01 00:00:00 UTC"}',
        '{"pid": 1, "host": "here", "since": "2999-01-01 00:00:00 UTC"}',
        "garbage \x00\x1b[31m",
        "",
        "[" * 5000,
    ],
)
def test_c13_a_left_over_lock_never_blocks(tmp_path: Path, small: Plan, text: str) -> None:
    (tmp_path / ".creatok.lock").write_text(text)
    assert finish(run(task(tmp_path, small)))[0].code == 0


def test_a_lock_behind_a_link_is_refused(tmp_path: Path, small: Plan) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".creatok.lock").symlink_to(victim)
    with pytest.raises(IntegrityError):
        finish(run(task(out, small)))
    assert victim.read_text() == "precious"


# C14 below the signals: the stop


def test_c14_a_stop_keeps_what_is_done(tmp_path: Path) -> None:
    whole = plan(24, batch_class=4)
    expected = reference(tmp_path / "whole", whole)
    out, stop = tmp_path / "out", Flag()
    renderer = FakeRenderer(sleep_s=0.02)
    events = run(task(out, whole, renderer, stop=stop))
    written = 0
    for event in events:
        written += isinstance(event, ImageWritten)
        if written == 5:
            stop.set()
        last = event
    summary = last
    assert (summary.code, summary.reason, summary.retryable) == (130, "interrupted", True)
    assert summary.resume == "creatok sample x"
    assert 5 <= summary.done < 24
    assert summary.remaining == 24 - summary.done
    assert summary.contact_sheets == ()
    fsck(out, whole, expected)


def test_closing_the_generator_early_loses_nothing(tmp_path: Path, small: Plan) -> None:
    """A caller that goes away (an exception, a closed pipe) leaves a folder that resumes."""
    expected = reference(tmp_path / "whole", small)
    out = tmp_path / "out"
    events = run(task(out, small))
    for event in events:
        if isinstance(event, ImageWritten):
            break
    events.close()
    fsck(out, small, expected)


# C18: poison


def poisoned(*indices: int) -> Any:
    def fault(drawn: Job) -> Failed | None:
        if drawn.index in indices:
            return Failed(job=drawn, kind="non-finite", message="values are not finite")
        return None

    return fault


def test_c18_one_bad_row_in_a_hundred(tmp_path: Path) -> None:
    whole = plan(100, batch_class=8)
    summary, events, error = finish(
        run(task(tmp_path, whole, FakeRenderer(fault=poisoned(41)), sinks=()))
    )
    assert (summary.code, summary.done, summary.failed, error) == (3, 99, 1, None)
    assert (summary.reason, summary.retryable, summary.resume) == (
        "failed-jobs",
        False,
        "creatok sample x",
    )
    (failed,) = [event for event in events if isinstance(event, JobFailed)]
    assert (failed.kind, failed.where, failed.row) == ("non-finite", "fake.yaml:1:1", "first")
    line = manifest.read(tmp_path).by_key.get(whole.jobs[41].key)
    assert line is None
    line = manifest.read(tmp_path).by_file[f"{whole.jobs[41].name}.png"]
    assert (line.status, line.kind, line.sha256) == ("failed", "non-finite", None)
    # Healed, the same command draws its batch and publishes the one picture.
    renderer = FakeRenderer()
    summary, events, _ = finish(run(task(tmp_path, whole, renderer, sinks=())))
    assert (summary.code, summary.done, summary.skipped) == (0, 1, 99)
    assert len(renderer.drawn) == 8


def test_c18_ten_in_a_row_stop_the_run(tmp_path: Path) -> None:
    whole = plan(100, batch_class=2)
    renderer = FakeRenderer(fault=poisoned(*range(4, 100)))
    summary, _, error = finish(run(task(tmp_path, whole, renderer, sinks=())))
    assert (summary.code, summary.reason, error) == (3, "breaker", None)
    assert summary.done == 4
    assert 10 <= summary.failed <= 16
    assert summary.remaining == 96 - summary.failed


def test_c18_scattered_failures_do_not_trip_the_breaker(tmp_path: Path) -> None:
    whole = plan(60, batch_class=4)
    renderer = FakeRenderer(fault=poisoned(*range(0, 60, 3)))
    summary, _, _ = finish(run(task(tmp_path, whole, renderer, sinks=())))
    assert (summary.code, summary.reason) == (3, "failed-jobs")
    assert (summary.done, summary.failed, summary.remaining) == (40, 20, 0)


def test_unwritable_pictures_stop_the_run_as_well(tmp_path: Path) -> None:
    class NoPictures(durable.Ops):
        def link(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    whole = plan(200, batch_class=4)
    with disk(NoPictures()):
        summary, events, _ = finish(run(task(tmp_path, whole, sinks=())))
    assert (summary.code, summary.reason, summary.done) == (3, "breaker", 0)
    assert summary.remaining > 100
    assert {e.kind for e in events if isinstance(e, JobFailed)} == {"os-error"}
    assert temporaries(tmp_path) == []


def test_fail_fast_stops_at_the_first_failure(tmp_path: Path) -> None:
    whole = plan(40, batch_class=2)
    renderer = FakeRenderer(fault=poisoned(5))
    summary, _, _ = finish(run(task(tmp_path, whole, renderer, sinks=(), fail_fast=True)))
    assert (summary.code, summary.reason, summary.failed) == (3, "fail-fast", 1)
    assert summary.remaining > 20


def test_all_out_of_memory_is_a_device_error(tmp_path: Path, small: Plan) -> None:
    def fault(drawn: Job) -> Failed:
        return Failed(job=drawn, kind="oom", message="out of memory", retriable=True)

    summary, _, _ = finish(run(task(tmp_path, small, FakeRenderer(fault=fault))))
    assert (summary.code, summary.reason, summary.failed) == (5, "oom", 3)


@pytest.mark.parametrize("lanes", ["1", "3"])
def test_a_batch_that_kills_the_process_is_cut_down_to_the_culprit(
    tmp_path: Path, lanes: str
) -> None:
    """Two deaths of the batch, two of the member alone; then it fails and the rest is there.

    What was drawn beside the culprit is not blamed for it.
    """
    out = tmp_path / "out"
    codes = []
    for _ in range(5):
        process = launch(out, "8", "4", "0", FAKE_KILL_INDEX="2", FAKE_LANES=lanes)
        output = process.communicate(timeout=60)[0]
        codes.append(process.returncode)
    assert codes == [77, 77, 77, 77, 3]
    assert "kind='crashed'" in output
    assert "attempts.jsonl" in output
    # How far the earlier runs came before they died is a matter of milliseconds.
    counts = dict(re.findall(r"\b(done|skipped|failed|remaining)=(\d+)", output.splitlines()[-1]))
    assert int(counts["done"]) + int(counts["skipped"]) == 7
    assert (counts["failed"], counts["remaining"]) == ("1", "0")
    whole = plan(8, batch_class=4)
    present = [each.index for each in whole.jobs if (out / f"{each.name}.png").exists()]
    assert present == [0, 1, 3, 4, 5, 6, 7]
    # Deleting the count grants new attempts; without the poison all is well.
    (out / "attempts.jsonl").unlink()
    summary, _, _ = finish(run(task(out, whole)))
    assert (summary.code, summary.done, summary.skipped) == (0, 1, 7)


def test_an_engine_that_loses_or_doubles_results_is_found_out(tmp_path: Path, small: Plan) -> None:
    class Careless(FakeRenderer):
        def draw(self, todo: Plan, batches: Any, watch: Any) -> Iterator[Any]:
            results = list(super().draw(todo, batches, watch))
            yield from self.change(results)

        def change(self, results: list[Any]) -> list[Any]:
            return results[:-1]

    summary, _, error = finish(run(task(tmp_path / "a", small, Careless())))
    assert (summary.code, summary.reason, summary.remaining) == (6, "unaccounted", 1)
    assert isinstance(error, IntegrityError)

    class Doubling(Careless):
        def change(self, results: list[Any]) -> list[Any]:
            return [*results, results[-1]]

    summary, _, error = finish(run(task(tmp_path / "b", small, Doubling())))
    assert (summary.code, summary.done) == (6, 3)
    assert "without being asked, or twice" in str(error)


def test_a_bug_while_drawing_leaves_a_folder_that_resumes(tmp_path: Path, small: Plan) -> None:
    expected = reference(tmp_path / "whole", small)

    def fault(drawn: Job) -> None:
        if drawn.index == 2:
            raise ZeroDivisionError("a bug")

    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        for _ in run(task(out, small, FakeRenderer(fault=fault))):
            pass
    fsck(out, small, expected)


# C19: what changes what


def test_c19_changes_of_the_sheet(tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = jobs(8)

    def outcome(changed: list[Job]) -> tuple[int, int, int, list[str]]:
        renderer = FakeRenderer()
        whole = make_plan(changed, sheet="fake", batch_class=4)
        summary, events, error = finish(run(task(out, whole, renderer)))
        assert (summary.code, error) == (0, None)
        notes = [event.message for event in events if isinstance(event, Notice)]
        return summary.done, summary.skipped, len(renderer.drawn), notes

    assert outcome(base) == (8, 0, 8, [])
    assert outcome(base) == (0, 8, 0, [])
    assert outcome(base[::-1]) == (0, 8, 0, [])
    extra = replace(job("a new one", 3, "first/extra"), row="first")
    assert outcome([*base[:3], extra, *base[3:]]) == (1, 8, 4, [])
    edited = replace(keyed(replace(base[1], prompt="edited")), name="first/edited")
    assert outcome([base[0], edited, *base[2:]]) == (1, 7, 4, [])
    renamed = replace(base[5], row="third", name="third/renamed")
    done, skipped, drawn, notes = outcome([*base[:5], renamed, *base[6:]])
    assert (done, skipped, drawn) == (0, 8, 0)
    assert notes == ["1 picture was drawn before under another name, and copied"]
    old, new = out / f"{base[5].name}.png", out / "third/renamed.png"
    assert old.read_bytes() == new.read_bytes()
    assert outcome([*base[:5], renamed, *base[6:]]) == (0, 8, 0, [])
    for each in base[:5]:
        (out / f"{each.name}.png").unlink()
    assert outcome(base) == (5, 3, 8, [])
    with_token = [
        keyed(replace(each, tokens=(("<fox>", "sha256:1"),), name=f"t/{each.index}"))
        for each in base
    ]
    assert outcome(with_token)[:3] == (8, 0, 8)


def test_a_batch_class_survives_in_the_folder(tmp_path: Path, small: Plan) -> None:
    from creatok_cli.workflows._plan_file import group_name, planned_classes

    finish(run(task(tmp_path, small)))
    assert planned_classes(tmp_path) == {group_name(small.jobs[0]): 2}
    assert "time" not in (tmp_path / "plan.json").read_text()
    assert planned_classes(tmp_path / "nothing") == {}


def test_drift_of_siblings_is_told_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan(4, batch_class=4)
    finish(run(task(tmp_path, whole)))
    (tmp_path / f"{whole.jobs[0].name}.png").unlink()
    from PIL import Image

    from tests.fakes import drawing

    monkeypatch.setattr(drawing, "picture", lambda each: Image.new("RGB", each.size_px, "red"))
    kept = tree(tmp_path)
    summary, events, _ = finish(run(task(tmp_path, whole, FakeRenderer(version="2"))))
    assert (summary.code, summary.done, summary.skipped) == (0, 1, 3)
    notes = [event.message for event in events if isinstance(event, Notice)]
    assert len(notes) == 3
    assert "drift" in notes[0]
    assert "fake: 1 then, 2 now" in notes[0]
    after = tree(tmp_path)
    for each in whole.jobs[1:]:
        assert after[f"{each.name}.png"] == kept[f"{each.name}.png"]


def test_a_name_taken_while_drawing(tmp_path: Path, small: Plan) -> None:
    """Another process puts something there between the look and the write: ours is adopted."""
    done = tmp_path / "done"
    expected = reference(done, small)

    def taken(content: bytes) -> Any:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        path = out / f"{small.jobs[0].name}.png"

        def fault(drawn: Job) -> None:
            if drawn.index == 0:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)

        summary, events, _ = finish(run(task(out, small, FakeRenderer(fault=fault))))
        assert path.read_bytes() == content
        return summary, events, tree(out)

    twin = (done / f"{small.jobs[0].name}.png").read_bytes()
    summary, events, found = taken(twin)
    assert (summary.code, summary.done, summary.skipped, summary.failed) == (0, 2, 1, 0)
    assert found == expected[0]
    other = (done / f"{small.jobs[1].name}.png").read_bytes()
    for content in (b"my notes", other, twin[:-1]):
        summary, events, _ = taken(content)
        assert (summary.code, summary.done, summary.failed) == (3, 2, 1)
        assert [e.kind for e in events if isinstance(e, JobFailed)] == ["foreign-file"]


def test_a_twin_of_another_stack_is_adopted_with_a_notice(
    tmp_path: Path, small: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from tests.fakes import drawing

    plain = drawing.picture
    monkeypatch.setattr(drawing, "picture", lambda each: Image.new("RGB", each.size_px, "red"))
    reference(tmp_path / "red", small)
    monkeypatch.setattr(drawing, "picture", plain)
    red = tmp_path / "red" / f"{small.jobs[0].name}.png"
    out = tmp_path / "out"

    def fault(drawn: Job) -> None:
        if drawn.index == 0:
            (out / "first").mkdir(exist_ok=True)
            shutil.copy(red, out / f"{drawn.name}.png")

    summary, events, _ = finish(run(task(out, small, FakeRenderer(fault=fault))))
    assert (summary.code, summary.done, summary.skipped) == (0, 2, 1)
    assert any("drift" in e.message for e in events if isinstance(e, Notice))
    checked, _, _ = finish(verify(task(out, small)))
    assert (checked.code, checked.skipped) == (0, 3)


def test_another_stack_is_told_before_drawing(tmp_path: Path, small: Plan) -> None:
    finish(run(task(tmp_path, small)))
    path = tmp_path / "plan.json"
    plan_file = json.loads(path.read_text())
    plan_file["stack"]["torch"] = "0.1"
    path.write_text(json.dumps(plan_file))
    (tmp_path / f"{small.jobs[0].name}.png").unlink()
    _, events, _ = finish(run(task(tmp_path, small)))
    notes = [event.message for event in events if isinstance(event, Notice)]
    assert any("another stack (torch 0.1 then, " in note for note in notes)


# shards, overwrite, metadata, sinks


@pytest.mark.parametrize("n", [2, 3, 7])
def test_shards_together_are_the_whole(tmp_path: Path, n: int) -> None:
    whole = plan(13, batch_class=2)
    expected = reference(tmp_path / "whole", whole)
    out = tmp_path / "out"
    for k in [*range(2, n + 1), 1]:
        summary, _, error = finish(run(task(out, whole, plan=shard(whole, k, n))))
        assert (summary.code, error) == (0, None)
    assert tree(out) == expected[0]
    assert lines(out) == expected[1]
    names = sorted(path.name for path in out.glob("manifest*"))
    assert names == sorted(f"manifest.{k}-of-{n}.jsonl" for k in range(1, n + 1))
    # An unsharded run reads the union and draws nothing.
    summary, _, _ = finish(run(task(out, whole, FakeRenderer(fault=_never))))
    assert (summary.skipped, summary.done) == (13, 0)
    assert tree(out) == expected[0]


def test_shards_at_the_same_time(tmp_path: Path) -> None:
    whole = plan(24, batch_class=4)
    expected = reference(tmp_path / "whole", whole)
    out = tmp_path / "out"
    processes = [launch(out, "24", "4", "10", f"{k}/3") for k in (1, 2, 3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert tree(out) == expected[0]
    assert lines(out) == expected[1]


def test_overwrite_replace_draws_all_again(
    tmp_path: Path, small: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from tests.fakes import drawing

    finish(run(task(tmp_path, small)))
    before = tree(tmp_path)
    monkeypatch.setattr(drawing, "picture", lambda each: Image.new("RGB", each.size_px, "red"))
    summary, _, _ = finish(run(task(tmp_path, small, overwrite="replace")))
    assert (summary.code, summary.done, summary.skipped) == (0, 3, 0)
    after = tree(tmp_path)
    for each in small.jobs:
        assert before[f"{each.name}.png"] != after[f"{each.name}.png"]
    checked, _, _ = finish(verify(task(tmp_path, small)))
    assert checked.code == 0


def test_overwrite_replace_never_replaces_a_link(tmp_path: Path, small: Plan) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("precious")
    path = out / f"{small.jobs[0].name}.png"
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    summary, _, _ = finish(run(task(out, small, overwrite="replace")))
    assert (summary.code, summary.failed, summary.done) == (3, 1, 2)
    assert path.is_symlink()
    assert victim.read_text() == "precious"


def test_overwrite_error_refuses_before_drawing(tmp_path: Path, small: Plan) -> None:
    first, _, _ = finish(run(task(tmp_path, small, overwrite="error")))
    assert first.code == 0
    renderer = FakeRenderer(fault=_never)
    with pytest.raises(InputError, match="already there") as found:
        finish(run(task(tmp_path, small, renderer, overwrite="error")))
    assert found.value.code == 2


@pytest.mark.parametrize("mode", ["minimal", "none"])
def test_less_metadata_resumes_as_well(tmp_path: Path, small: Plan, mode: str) -> None:
    """Without a recipe inside, a picture whose line was lost is known by its bytes."""
    out = tmp_path / "out"
    finish(run(task(out, small, metadata=mode)))
    kept = tree(out)
    again, _, _ = finish(run(task(out, small, FakeRenderer(fault=_never), metadata=mode)))
    assert (again.code, again.skipped) == (0, 3)
    (out / "manifest.jsonl").unlink()
    summary, _, _ = finish(run(task(out, small, metadata=mode)))
    assert (summary.code, summary.skipped, summary.done) == (0, 3, 0)
    # What the picture does not carry (base, licence) is missing from the derived files then.
    assert {n: d for n, d in tree(out).items() if "/" in n} == {
        n: d for n, d in kept.items() if "/" in n
    }
    checked, _, _ = finish(verify(task(out, small, metadata=mode)))
    assert (checked.code, checked.skipped) == (0, 3)


def test_kill_at_every_operation_without_metadata(tmp_path: Path, small: Plan) -> None:
    options = {"metadata": "none", "sinks": ()}
    expected = reference(tmp_path / "whole", small, **options)
    total = operations(tmp_path, small, **options)
    for at in range(1, total + 1):
        out = tmp_path / f"at-{at}"
        with disk(DyingDisk(at)), pytest.raises(Killed):
            finish(run(task(out, small, **options)))
        out.mkdir(exist_ok=True)
        summary, _, error = finish(run(task(out, small, **options)))
        assert (summary.code, error, summary.done + summary.skipped) == (0, None, 3)
        assert (tree(out), lines(out)) == expected
        shutil.rmtree(out)


def test_the_rehearsal_writes_nothing(tmp_path: Path, small: Plan) -> None:
    out = tmp_path / "out"
    summary, events, _ = finish(rehearse(task(out, small, FakeRenderer(fault=_never))))
    assert (summary.code, summary.reason, summary.remaining) == (0, "dry-run", 3)
    assert not out.exists()
    finish(run(task(out, small)))
    (out / f"{small.jobs[0].name}.png").unlink()
    before = {path: path.lstat().st_mtime_ns for path in out.rglob("*")}
    summary, events, _ = finish(rehearse(task(out, small, FakeRenderer(fault=_never))))
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert planned.files == tuple((f"{each.name}.png", each.index != 0) for each in small.jobs)
    assert (planned.skipped, planned.todo, planned.batches) == (2, 1, 1)
    assert {path: path.lstat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_verify_of_a_read_only_folder_only_tells(tmp_path: Path, small: Plan) -> None:
    finish(run(task(tmp_path, small)))
    _flip(tmp_path / f"{small.jobs[0].name}.png")

    class ReadOnly(durable.Ops):
        def open(
            self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None
        ) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return super().open(path, flags, mode, dir_fd=dir_fd)

    with disk(ReadOnly()):
        summary, events, error = finish(verify(task(tmp_path, small)))
    assert (summary.code, summary.failed, error) == (3, 1, None)
    assert any(isinstance(event, Notice) for event in events)


def test_verify_of_an_unfinished_folder_is_no_success(tmp_path: Path) -> None:
    whole = plan(8, batch_class=2)
    finish(run(task(tmp_path, whole, plan=shard(whole, 1, 2))))
    summary, _, _ = finish(verify(task(tmp_path, whole)))
    assert (summary.code, summary.reason) == (3, "incomplete")
    assert (summary.skipped, summary.remaining, summary.failed) == (4, 4, 0)


def test_a_finished_plan_opens_nothing(tmp_path: Path, small: Plan) -> None:
    finish(run(task(tmp_path, small)))
    _, events, _ = finish(run(task(tmp_path, small, FakeRenderer(fault=_never))))
    assert [event.name for event in events if isinstance(event, Stage)] == ["finishing"]


def test_no_host_or_path_reaches_the_outputs(tmp_path: Path, small: Plan) -> None:
    """I8: canaries in the paths, the environment and the base name are nowhere."""
    out = tmp_path / "canary-folder" / "out"
    out.mkdir(parents=True)
    finish(run(task(out, small)))
    import platform

    secrets = [b"canary-folder", str(Path.home()).encode() + b"/", platform.node().encode()]
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets if len(secret) > 3), path
