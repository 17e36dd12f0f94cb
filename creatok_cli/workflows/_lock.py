"""One OS lock per output folder and shard, freed by the kernel at death.

Its text (process, host, since) only informs: a lock left by a dead process, another host or a wrong
clock never blocks. The run is correct without it (names are published without clobber); the lock
saves drawing things twice.

Does not: wait, except for the short lock under which shards finish.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from creatok_cli import durable
from creatok_cli.domain import Notice
from creatok_cli.errors import IntegrityError, OutputBusy, OutputReadOnly

FINISH_S = 30.0
"""How long a shard waits for another one that makes the contact sheet."""


@contextmanager
def held(out: Path, shard: durable.Shard) -> Iterator[Notice | None]:
    """The lock of a folder (and shard), freed by the kernel at death. Its text only informs.

    Raises OutputBusy at once if another process holds it, OutputReadOnly, OutputFull.
    """
    suffix = "" if shard == (1, 1) else f".{shard[0]}-of-{shard[1]}"
    name = f".creatok{suffix}.lock"
    lock = FileLock(out / name, timeout=0, thread_local=False)
    notice: Notice | None = None
    try:
        lock.acquire()
    except Timeout:
        who = holder(out, name)
        raise OutputBusy(f"{out} is in use by {who}; wait, or choose another --out") from None
    except NotImplementedError:
        notice = Notice(
            level="warning", message=f"{out}: no file locks here; start one run at a time"
        )
    except OSError as error:
        if verdict := durable.fatal(error, str(out)):
            raise verdict from error
        raise OutputReadOnly(
            f"{out}: the lock {name} cannot be opened: {error.strerror}; choose another --out"
        ) from error
    try:
        note_holder(out, name, {"pid": os.getpid(), "host": platform.node(), "since": utc_now()})
        try:
            yield notice
        finally:
            note_holder(out, name, None)
    finally:
        lock.release()


def utc_now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def note_holder(out: Path, name: str, text: Mapping[str, Any] | None) -> None:
    """Writes who holds the lock, or nothing; a fault here costs the text only."""
    with suppress(OSError, IntegrityError):
        log = durable.LineLog(out, name)
        try:
            log.cut(0)
            if text is not None:
                log.append(json.dumps(text).encode() + b"\n")
        finally:
            log.close()


def holder(out: Path, name: str) -> str:
    """The text of a lock, for the message."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        text = json.loads(durable.read_file(out, name, limit=4096))
        who = {key: "".join(c for c in str(text[key])[:60] if c.isprintable()) for key in text}
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    return "another process"


@contextmanager
def finishing(out: Path, shard: durable.Shard) -> Iterator[bool]:
    """Shards make derived files one after the other, so the last one sees everybody's lines.

    False if another shard took too long.
    """
    if shard == (1, 1):
        yield True
        return
    lock = FileLock(out / ".creatok.finish.lock", timeout=FINISH_S, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
