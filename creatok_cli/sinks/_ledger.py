"""The manifest as data: one line per image, and the union of all shards' files.

A line is canonical JSON whose last field is the CRC-32 of the text before it, so a flipped or half
line is never believed. Readers take the union of `manifest.jsonl` and `manifest.K-of-N.jsonl`:
within a file the last line of a key wins, between files a finished picture outranks a failure. The
schema number stands in every line; a newer one is refused and nothing is touched. `crc` and
`schema` keep their meaning in every future schema.

Does not: write; the files are the truth, so callers check a picture before they believe its line.
"""

from __future__ import annotations

import json
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from creatok_cli import durable
from creatok_cli.domain import Failed, Job, Plan, Rendered
from creatok_cli.errors import ManifestDamaged, SchemaNewer
from creatok_cli.sinks._metadata import json_bytes
from creatok_cli.sinks.base import Published, base_label, file_of

SCHEMA = 1
PATTERN = re.compile(r"^manifest(\.\d{1,6}-of-\d{1,6})?\.jsonl$")
MAX_MANIFEST = 4 << 30
_CRC = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One image of the manifest. Fields that hold their default are left out of the file."""

    key: str
    job: str
    """Id of the sheet entry."""
    file: str
    seed: int
    prompt: str
    size: str
    """`64x64`."""
    status: Literal["done", "failed"]
    sha256: str | None = None
    """Of the file."""
    pixels: str | None = None
    """Of the pixels (see `_metadata.pixel_hash`)."""
    bytes: int | None = None
    error: str = ""
    kind: str = ""
    retriable: bool = False
    index: int = 0
    negative: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Word to artefact id."""
    steps: int = 0
    guidance: float = 0.0
    scheduler: str = ""
    dtype: str = ""
    init_image: str | None = None
    """Digest of the picture that it began from."""
    init_name: str = ""
    """What that file was called, without its folder."""
    strength: float | None = None
    base: str = ""
    base_digest: str = ""
    licence: str = ""
    batch_class: int = 0
    batch_effective: int = 0
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    metadata: str = ""
    """`minimal` or `none`; empty for full."""
    shard: str = ""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height; (0, 0) if the text is no size."""
        width, _, height = self.size.partition("x")
        return (int(width), int(height)) if width.isdigit() and height.isdigit() else (0, 0)


_ALWAYS = ("key", "job", "file", "seed", "prompt", "size", "sha256", "status")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "key": (str,),
    "job": (str,),
    "file": (str,),
    "seed": (int,),
    "prompt": (str,),
    "size": (str,),
    "status": (str,),
    "sha256": (str, type(None)),
    "pixels": (str, type(None)),
    "bytes": (int, type(None)),
    "error": (str,),
    "kind": (str,),
    "retriable": (bool,),
    "index": (int,),
    "negative": (str, type(None)),
    "labels": (dict,),
    "tags": (list,),
    "tokens": (dict,),
    "steps": (int,),
    "guidance": (float, int),
    "scheduler": (str,),
    "dtype": (str,),
    "init_image": (str, type(None)),
    "init_name": (str,),
    "strength": (float, int, type(None)),
    "base": (str,),
    "base_digest": (str,),
    "licence": (str,),
    "batch_class": (int,),
    "batch_effective": (int,),
    "device": (str,),
    "versions": (dict,),
    "seconds": (float, int, type(None)),
    "facts": (dict,),
    "notes": (list,),
    "metadata": (str,),
    "shard": (str,),
}

_DEFAULTS: Mapping[str, Any] = {
    each.name: each.default_factory() if each.default_factory is not MISSING else each.default
    for each in fields(Line)
}


def line_of(
    job: Job,
    *,
    shard: durable.Shard,
    metadata: str = "full",
    rendered: Rendered | None = None,
    published: Published | None = None,
    failed: Failed | None = None,
    adopted: Mapping[str, Any] | None = None,
    starts: Mapping[str, str] | None = None,
) -> Line:
    """The line of a finished or failed job; `adopted` is the recipe chunk of a file that an
    earlier run left, `starts` has the paths of pictures to begin from by digest."""
    known = dict(rendered.facts) if rendered else {}
    if adopted is not None:
        known = {name: adopted.get(name) for name in ("base", "licence")} | dict(
            adopted.get("notes") or {}
        )
    base = base_label(str(known.pop("base", None) or job.base))
    licence = str(known.pop("licence", None) or "")
    how: dict[str, Any] = {}
    if rendered is not None:
        made = rendered.provenance
        how = {
            "batch_class": made.batch_class,
            "batch_effective": made.batch_effective,
            "device": made.device,
            "versions": dict(made.versions),
            "seconds": round(made.seconds, 4),
            "notes": made.notes,
        }
    if published is not None:
        how |= {"sha256": published.sha256, "pixels": published.pixels, "bytes": published.bytes}
        if published.how == "adopted":
            how["notes"] = (*how.get("notes", ()), "adopted")
    if adopted is not None:
        drawn_as = adopted.get("class")
        how["batch_effective"] = how["batch_class"] = drawn_as if type(drawn_as) is int else 0
        how["versions"] = dict(adopted.get("versions") or {})
    if failed is not None:
        how |= {"error": failed.message, "kind": failed.kind, "retriable": failed.retriable}
    return Line(
        key=job.key,
        job=job.row,
        file=file_of(job),
        seed=job.seed,
        prompt=job.prompt,
        size=f"{job.size_px[0]}x{job.size_px[1]}",
        status="failed" if failed is not None else "done",
        index=job.index,
        negative=job.negative,
        labels=dict(job.labels),
        tags=job.tags,
        tokens=dict(job.tokens),
        steps=job.steps,
        guidance=job.guidance,
        scheduler=job.scheduler,
        dtype=job.dtype,
        init_image=job.init_image,
        init_name=Path((starts or {}).get(job.init_image or "", "")).name,
        strength=job.strength,
        base=base,
        base_digest=job.base_digest,
        licence=licence,
        facts=known,
        metadata=metadata if published is not None and metadata != "full" else "",
        shard=f"{shard[0]}/{shard[1]}" if shard != (1, 1) else "",
        **how,
    )


def encode(line: Line) -> bytes:
    """The line as it stands in the file, with its line feed."""
    record: dict[str, Any] = {"schema": SCHEMA}
    for name in _TYPES:
        value = getattr(line, name)
        if name in _ALWAYS or value != _DEFAULTS.get(name):
            record[name] = list(value) if isinstance(value, tuple) else value
    return seal(record)


def seal(record: Mapping[str, Any]) -> bytes:
    """Canonical JSON with its CRC-32 as the last field, and a line feed."""
    body = json_bytes(record)
    return body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)


def unseal(raw: bytes) -> dict[str, Any] | None:
    """The record of a sealed line without its line feed; None if it cannot be believed."""
    found = _CRC.search(raw)
    if found is None:
        return None
    body = raw[: found.start()] + b"}"
    if zlib.crc32(body) != int(found[1], 16):
        return None
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def decode(raw: bytes) -> Line | None:
    """A line without its line feed; None if it cannot be believed. Raises SchemaNewer."""
    record = unseal(raw)
    if record is None or type(record.get("schema")) is not int:
        return None
    if record["schema"] > SCHEMA:
        raise SchemaNewer(
            f"the manifest has schema {record['schema']}, this creatok writes {SCHEMA}: "
            "use the newer creatok or another --out; nothing was touched"
        )
    if any(name not in record for name in _ALWAYS) or record["status"] not in ("done", "failed"):
        return None
    values: dict[str, Any] = {}
    for name, types in _TYPES.items():
        if name in record:
            value = record[name]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                return None
            values[name] = tuple(value) if isinstance(value, list) else value
    return Line(**values)


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What the manifests of a folder say."""

    by_file: dict[str, Line] = field(default_factory=dict)
    """The last word on each file."""
    by_key: dict[str, Line] = field(default_factory=dict)
    """A finished picture of each key, wherever it stands."""
    bad: int = 0
    """Lines that were skipped."""
    torn: dict[str, int] = field(default_factory=dict)
    """Manifest name to the length that remains once its torn tail is cut."""
    lines: int = 0

    def add(self, line: Line) -> None:
        """Takes a new line; the last one of a file wins."""
        self.by_file[line.file] = line
        if line.status == "done":
            self.by_key[line.key] = line
        else:
            known = self.by_key.get(line.key)
            if known is not None and known.file == line.file:
                del self.by_key[line.key]

    def merge(self, other: Ledger) -> None:
        """Takes the lines of another file; a finished picture is not outranked by another file's
        failure."""
        for line in other.by_file.values():
            known = self.by_file.get(line.file)
            if known is None or line.status == "done" or known.status == "failed":
                self.add(line)
        for key, line in other.by_key.items():
            self.by_key.setdefault(key, line)
        self.bad += other.bad
        self.lines += other.lines
        self.torn |= other.torn


def read(folder: Path) -> Ledger:
    """The union of all manifests of a folder; an absent folder or manifest is empty.

    Raises SchemaNewer, ManifestDamaged (a manifest that is no regular file), OSError.
    """
    union = Ledger()
    for name in manifest_names(folder):
        union.merge(read_one(folder, name))
    return union


def manifest_names(folder: Path) -> tuple[str, ...]:
    """The manifests of a folder: the unsharded one first, then shards by name."""
    try:
        return tuple(sorted(p.name for p in folder.iterdir() if PATTERN.match(p.name)))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def read_one(folder: Path, name: str) -> Ledger:
    """One manifest file."""
    ledger = Ledger()
    with durable.place(folder, name) as spot:
        there = spot.stat()
        if there is None:
            return ledger
        if not stat.S_ISREG(there.st_mode):
            raise ManifestDamaged(
                f"{name} is no regular file; move it away or choose another --out"
            )
        length = 0
        for raw in _iter_raw(spot):
            if not raw.endswith(b"\n"):
                ledger.torn[name] = length
                break
            length += len(raw)
            line = decode(raw[:-1])
            if line is None:
                ledger.bad += 1
            else:
                ledger.add(line)
                ledger.lines += 1
    return ledger


def _iter_raw(spot: durable.Place) -> Iterator[bytes]:
    with durable.reading(spot) as (fd, _), open(fd, "rb", closefd=False) as file:
        yield from file


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One planned picture that has a line: what contact sheet and gallery show."""

    job: Job
    line: Line


def pictures(plan: Plan, ledger: Ledger) -> list[Picture]:
    """The finished and failed pictures of a plan, in plan order; none that was never tried."""
    found = []
    for job in plan.jobs:
        line = ledger.by_file.get(file_of(job))
        if line is not None and line.key == job.key:
            found.append(Picture(job=job, line=line))
    return found


def entries(shown: list[Picture]) -> dict[str, dict[str, list[Picture]]]:
    """Pictures by sheet entry, then by prompt, both in order of first appearance."""
    grouped: dict[str, dict[str, list[Picture]]] = {}
    for picture in shown:
        grouped.setdefault(picture.job.row, {}).setdefault(picture.job.prompt, []).append(picture)
    return grouped
