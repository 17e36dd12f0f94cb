"""`plan.json`: plan digest, a batch class per group, the stack that began the folder.

It keeps the batch class over resumes, because equal bytes need equal shapes. It holds no time and
no path.

Does not: hold jobs; the sheet does.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from creatok_cli import __version__, durable
from creatok_cli.domain import Batch, Job, Plan, storage_of
from creatok_cli.errors import ManifestDamaged, SchemaNewer
from creatok_cli.hashing import canonical_json

NAME = "plan.json"
SCHEMA = 1
LIBRARIES = ("torch", "diffusers", "transformers", "pillow")
MAX_BYTES = 64 << 20


def group_name(job: Job) -> str:
    """What a batch class belongs to: base, dtype, tokens, weights, size, and storage where there is
    one, as canonical JSON.
    """
    storage = storage_of(job.options)
    return canonical_json(
        [
            *(job.base_digest, job.dtype, list(job.size_px), list(job.tokens)),
            *(list(job.weights), *([storage] if storage else [])),
        ]
    )


def read_plan(out: Path) -> dict[str, Any] | None:
    """`plan.json` of a folder, None if there is none. Raises SchemaNewer, ManifestDamaged."""
    try:
        data = durable.read_file(out, NAME, limit=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ManifestDamaged(
            f"plan.json cannot be read: {error.strerror}; move it away"
        ) from error
    try:
        found = json.loads(data)
        schema = found["schema"]
        str(found["digest"])
        groups = [(str(group["group"]), int(group["class"])) for group in found["groups"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ManifestDamaged(
            f"plan.json in {out} is not a plan of creatok; move it away or choose another --out"
        ) from error
    if type(schema) is not int or schema > SCHEMA:
        raise SchemaNewer(
            f"plan.json has schema {schema}, this creatok writes {SCHEMA}: use the newer creatok "
            "or another --out; nothing was touched"
        )
    if any(size < 1 for _, size in groups):
        raise ManifestDamaged(f"plan.json in {out} has a batch class below 1; move it away")
    return dict(found)


def planned_classes(out: Path) -> dict[str, int]:
    """Batch class by group of the run that began this folder; empty for a new folder."""
    found = read_plan(out) or {"groups": []}
    return {group["group"]: int(group["class"]) for group in found["groups"]}


def plan_record(whole: Plan, device: str, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `plan.json` says: the digest, a class per group and the stack that began the folder. No
    time, no path.
    """
    groups: dict[str, tuple[Batch, int]] = {}
    for batch in whole.batches:
        name = group_name(batch.jobs[0])
        groups[name] = (batch, groups.get(name, (batch, 0))[1] + len(batch.jobs))
    return {
        "schema": SCHEMA,
        "sheet": whole.sheet,
        "digest": whole.digest,
        "pictures": sum(count for _, count in groups.values()),
        "groups": [
            {"group": name, "class": batch.batch_class, "pictures": count}
            for name, (batch, count) in groups.items()
        ],
        "stack": dict(old["stack"])
        if old and isinstance(old.get("stack"), dict)
        else stack(device),
    }


def stack(device: str) -> dict[str, str]:
    """Versions that decide bytes, without importing any of them."""
    return {"creatok": __version__, "device": device, "machine": platform.machine(), **versions()}


@cache
def versions() -> dict[str, str]:
    """Installed versions of `LIBRARIES`, from their metadata."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def stack_changes(old: Mapping[str, Any] | None, device: str) -> str:
    """What differs from the stack that began the folder, empty if nothing does."""
    then = (old or {}).get("stack")
    if not isinstance(then, dict):
        return ""
    now = stack(device)
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {then.get(name)} then, {now.get(name)} now" for name in names)
