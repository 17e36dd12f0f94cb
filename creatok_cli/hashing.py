"""Canonical JSON and the content keys of jobs.

A key names a recipe: everything that decides the pixels takes part (`IDENTITY`), everything else
(device, engine, batch size, folder, file name, time, library versions) stays out and is recorded
instead.

Does not: hash files in pieces for speed; that is `durable.sha256_file`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from creatok_cli.domain import RENDER_VERSION, Job

KEY_TAG = "r1"
IDENTITY = (
    "base_digest",
    "prompt",
    "negative",
    "seed",
    "size_px",
    "steps",
    "guidance",
    "scheduler",
    "dtype",
    "tokens",
    "weights",
    "options",
    "init_image",
    "strength",
)
"""The fields of a Job that take part in its key, in the order of `Job`."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN: equal values give equal text.

    Raises ValueError for NaN and infinities, TypeError for anything that JSON cannot say.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_hex(data: bytes | str) -> str:
    """64 hex digits over the bytes, or over the UTF-8 form of a string."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def identity(job: Job) -> dict[str, Any]:
    """The recipe of a job as plain JSON data, with the render version."""
    recipe: dict[str, Any] = {name: getattr(job, name) for name in IDENTITY}
    recipe["guidance"] = float(job.guidance)
    recipe["render_version"] = RENDER_VERSION
    return recipe


def content_key(job: Job) -> str:
    """`r1:` and the first 40 hex digits of SHA-256 over the canonical JSON of `identity(job)`."""
    return f"{KEY_TAG}:{sha256_hex(canonical_json(identity(job)))[:40]}"


def keyed(job: Job) -> Job:
    """The same job with its key filled in."""
    return replace(job, key=content_key(job))
