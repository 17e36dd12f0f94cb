"""Which batches have killed the process: `attempts.jsonl` counts starts that never ended.

After two deaths the members of a batch run apart, and a member that kills two runs alone is given
up, so a poisoned item cannot run for ever (reliability F3). Engines may draw several batches at a
time, and a death counts for each of them; so what has died once is drawn with nothing beside it,
and nobody is blamed twice for another's fault.

Does not: grant or forbid anything else; losing the file is harmless.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from creatok_cli import durable
from creatok_cli._gate import Gate
from creatok_cli.domain import Batch, Failed, Job
from creatok_cli.hashing import canonical_json, sha256_hex

DEATHS = 2
"""So many deaths are enough (reliability 4.10)."""


class Attempts:
    """`attempts.jsonl`: a line per batch begun and one per batch ended; what never ended, died.

    Only ever counted: losing the file is harmless, deleting it grants new attempts.
    """

    NAME = "attempts.jsonl"

    def __init__(self, out: Path) -> None:
        self._lock, self._gate = Lock(), Gate()
        self._deaths: Counter[str] = Counter()
        self._log: durable.LineLog | None = None
        data = b""
        # A file of attempts that cannot be read or written costs the count, never the run.
        with suppress(OSError):
            data = durable.read_file(out, self.NAME, limit=1 << 30)
        for raw in data.split(b"\n"):
            with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                line = json.loads(raw)
                self._deaths[str(line["batch"])] += {"start": 1, "end": -1}[line["event"]]
        self._torn = bool(data) and not data.endswith(b"\n")
        self._out = out

    def deaths(self, batch: Batch) -> int:
        """How often this batch was begun and not ended."""
        return self._deaths[batch_id(batch)]

    @contextmanager
    def watch(self, batch: Batch) -> Iterator[None]:
        """Around the drawing of a batch, on any thread: only a death leaves it open. What has died
        before waits until nothing else is drawn.

        Raises OutputFull or OutputReadOnly; other faults of the file cost the count only.
        """
        gate = self._gate.alone if self.deaths(batch) > 0 else self._gate.shared
        with gate(batch.index):
            self._append(batch_id(batch), "start")
            try:
                yield
            finally:
                self._append(batch_id(batch), "end")

    def close(self) -> None:
        """Closes the file."""
        if self._log is not None:
            self._log.close()

    def _append(self, name: str, event: str) -> None:
        line = json.dumps({"batch": name, "event": event}) + "\n"
        with self._lock, suppress(OSError):
            if self._log is None:
                self._log = durable.LineLog(self._out, self.NAME)
            self._log.append((b"\n" if self._torn else b"") + line.encode())
            self._torn = False


def batch_id(batch: Batch) -> str:
    """16 hex digits over the keys and the class."""
    return sha256_hex(canonical_json([[job.key for job in batch.jobs], batch.batch_class]))[:16]


def crashed(job: Job) -> Failed:
    """A job that has killed two processes on its own."""
    return Failed(
        job=job,
        kind="crashed",
        message=f"drawing it alone ended the process {DEATHS} times; delete {Attempts.NAME} in the "
        "output folder to try again",
    )
