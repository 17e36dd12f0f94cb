"""The manifest: one checked line per image, written after its file, makes a picture count.

Lines go to `manifest.jsonl`, or `manifest.K-of-N.jsonl` of a shard. Folder and manifest are synced
in groups of at most 8 images or 5 seconds, folder first: a line never outlives its file.

Does not: replace or reorder lines; the last one wins (see `_ledger`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from creatok_cli import durable
from creatok_cli.domain import Failed, Job, Plan, Rendered
from creatok_cli.errors import IntegrityError
from creatok_cli.hashing import sha256_hex
from creatok_cli.sinks._ledger import Ledger, Line, encode, line_of, manifest_names, read
from creatok_cli.sinks._metadata import (
    HEAD,
    IEND,
    MAX_FILE,
    NotOurs,
    NotWhole,
    job_of,
    judge,
    read_recipe,
)
from creatok_cli.sinks.base import Committed, Output, Published, file_of

__all__ = ["Ledger", "Line", "manifest_names", "read"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """How many images share one fsync."""

    group_images: int = 8
    group_s: float = 5.0


def build(spec: Spec, out: Output, plan: Plan) -> ManifestSink:
    """A sink that appends to the manifest of `out.writer.shard`; a torn tail is cut first."""
    return ManifestSink(spec, out)


def manifest_name(shard: durable.Shard) -> str:
    """`manifest.jsonl`, or `manifest.2-of-4.jsonl` of a shard."""
    return "manifest.jsonl" if shard == (1, 1) else f"manifest.{shard[0]}-of-{shard[1]}.jsonl"


class ManifestSink:
    """Appends lines in groups and reports each job when its line is on the disk."""

    def __init__(self, spec: Spec, out: Output) -> None:
        self._spec, self._out = spec, out
        self._waiting: list[tuple[Line, Committed]] = []
        self._since = 0.0
        self._lock = Lock()
        name = manifest_name(out.writer.shard)
        with trusted(name):
            self._log = durable.LineLog(out.folder, name)
            if name in out.ledger.torn:
                self._log.cut(out.ledger.torn.pop(name))

    def write(self, result: Rendered) -> None:
        """Queues the line of a picture that the png sink has published."""
        file = file_of(result.job)
        published = self._out.published.pop(file)
        line = line_of(
            result.job,
            shard=self._out.writer.shard,
            metadata=self._out.metadata,
            rendered=result,
            published=published,
            starts=self._out.starts,
        )
        self._queue(line, Committed(job=result.job, published=published))

    def adopt(self, job: Job, found: Checked) -> None:
        """Queues the line of an intact picture that had none, or that was copied from another
        name."""
        published = Published(
            file=file_of(job),
            sha256=found.sha256,
            pixels=found.pixels,
            bytes=found.bytes,
            how="adopted",
            drawn_pixels=found.pixels,
        )
        line = line_of(
            job,
            shard=self._out.writer.shard,
            metadata="full" if found.recipe else "none",
            published=published,
            adopted=found.recipe,
            starts=self._out.starts,
        )
        self._queue(line, Committed(job=job, published=published))

    def fail(self, failed: Failed) -> None:
        """Queues the line of a job that was given up."""
        line = line_of(
            failed.job,
            shard=self._out.writer.shard,
            failed=failed,
            starts=self._out.starts,
        )
        self._queue(line, Committed(job=failed.job, failed=failed))

    def flush(self, *, only_due: bool = False) -> None:
        """Puts all queued lines on the disk, or only if a group is complete or old."""
        with self._lock:
            due = len(self._waiting) >= self._spec.group_images or (
                time.monotonic() - self._since >= self._spec.group_s
            )
            if not self._waiting or (only_due and not due):
                return
            group, self._waiting = self._waiting, []
            with trusted(self._log.name):
                done = [line.file for line, _ in group if line.status == "done"]
                if done:
                    self._synced(durable.sync_folders(self._out.folder, done))
                for line, _ in group:
                    self._log.append(encode(line))
                self._log.sync()
                self._synced(self._log.syncs)
            for line, committed in group:
                self._out.ledger.add(line)
                self._out.commit(committed)

    def close(self) -> None:
        """Flushes and closes. The log is closed even when the flush fails."""
        try:
            self.flush()
        finally:
            self._log.close()

    def _queue(self, line: Line, committed: Committed) -> None:
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append((line, committed))
        self.flush(only_due=True)

    def _synced(self, supported: bool) -> None:
        note = "this file system cannot sync: after a power loss some pictures may be drawn again"
        if not supported and os.name != "nt" and note not in self._out.notes:
            self._out.notes.append(note)


@contextmanager
def trusted(name: str) -> Iterator[None]:
    """What fails here costs the run: without its manifest nothing more can be accounted for."""
    try:
        yield
    except OSError as error:
        raise durable.fatal(error, name) or IntegrityError(
            f"{name} cannot be written: {error.strerror or error}; then run the same command again"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What stands under the name of a planned picture."""

    verdict: Literal["intact", "absent", "damaged", "foreign"]
    """`damaged`: ours by its line, but no whole PNG any more; `foreign`: anything else, never
    touched."""
    reason: str = ""
    sha256: str = ""
    pixels: str = ""
    bytes: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)


def is_owned(job: Job, line: Line | None) -> bool:
    """Whether the manifest says that we published this job's picture under its name."""
    if line is None or line.key != job.key:
        return False
    return line.status == "done" or line.kind == "damaged"


def quick_check(at: Callable[[str], durable.Place], job: Job, line: Line | None) -> bool:
    """No link, the recorded size, the key in the head, the end at the tail: enough to resume.

    The line may be of another name than the job's: then it is asked for a copy. `at` comes from
    `durable.places`.
    """
    if line is None or line.key != job.key or line.status != "done" or line.bytes is None:
        return False
    try:
        with durable.reading(at(line.file)) as (fd, facts):
            if facts.st_size != line.bytes or facts.st_size < len(IEND):
                return False
            head = os.read(fd, HEAD)
            os.lseek(fd, -len(IEND), os.SEEK_END)
            tail = os.read(fd, len(IEND))
    except (OSError, ValueError):
        return False
    return tail == IEND and (line.metadata == "none" or job.key.encode() in head)


def check(folder: Path, job: Job, line: Line | None) -> Checked:
    """The full check: contents against the line's sha256, or against the file's own recipe and
    pixels."""
    try:
        data = durable.read_file(folder, file_of(job), limit=MAX_FILE)
    except FileNotFoundError:
        return Checked(verdict="absent", reason="is missing")
    except OSError as error:
        kind = error.errno in durable.NOT_A_FILE
        reason = "is no regular file, or lies behind a link" if kind else f"{error.strerror}"
        return Checked(verdict="foreign", reason=reason)
    digest, owned = sha256_hex(data), is_owned(job, line)
    if owned and line is not None and line.sha256 == digest:
        return _recorded(data, job, line, digest)
    verdict, reason, pixels = judge(data, job.key)
    if verdict == "ours":
        return Checked(
            verdict="intact",
            sha256=digest,
            pixels=pixels,
            bytes=len(data),
            recipe=read_recipe(data),
        )
    if verdict == "damaged" and owned:
        return Checked(verdict="damaged", reason=reason)
    return Checked(verdict="foreign", reason=reason)


def _recorded(data: bytes, job: Job, line: Line, digest: str) -> Checked:
    """Bytes that are what the manifest says; their recipe must still give the key."""
    recipe: Mapping[str, Any] = {}
    if line.metadata != "none":
        try:
            recipe = read_recipe(data)
            rebuilt = job_of(recipe).key if "recipe" in recipe else recipe["key"]
        except (NotWhole, NotOurs) as error:
            return Checked(verdict="foreign", reason=str(error))
        if rebuilt != job.key:
            return Checked(verdict="foreign", reason=f"holds another picture ({rebuilt})")
    return Checked(
        verdict="intact",
        sha256=digest,
        pixels=line.pixels or "",
        bytes=len(data),
        recipe=recipe,
    )
