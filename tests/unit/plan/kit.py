"""What the tests of sheets and plans share: a base's facts, and sheets from text."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from creatok_cli.domain import BaseFacts, Job
from creatok_cli.plan.expand import expand
from creatok_cli.plan.sheet import Sheet, load_sheet

FACTS = BaseFacts(
    name="bestiary",
    backbone="bestiary",
    folder="/nowhere",
    digest="sha256:" + "0" * 64,
    licence="Apache-2.0",
    steps=8,
    guidance=4.0,
    size_px=(64, 64),
    size_multiple=8,
    schedulers=("euler", "heun"),
    dtype="fp32",
)
BASES: Mapping[str, BaseFacts] = {"bestiary": FACTS}


def sheet_of(text: str | bytes, **options: Any) -> Sheet:
    """A sheet from text, as if it came from standard input."""
    data = text.encode() if isinstance(text, str) else text
    return load_sheet("-", stdin=io.BytesIO(data), **options)


def file_sheet(folder: Path, text: str | bytes, suffix: str = ".yaml", **options: Any) -> Sheet:
    """A sheet from a file called `sheet` in `folder`."""
    path = folder / f"sheet{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_sheet(str(path), **options)


def jobs_of(
    text: str | bytes, tokens: Mapping[str, str] | None = None, **options: Any
) -> tuple[Job, ...]:
    """The jobs of a sheet on the test base."""
    only, dtype = options.pop("only", None), options.pop("dtype", None)
    loras, pictures = options.pop("loras", None), options.pop("pictures", None)
    bases = options.pop("bases", BASES)
    sheet = sheet_of(text, **options)
    return expand(sheet, bases, tokens or {}, loras, pictures, only=only, dtype=dtype)


def yaml_jobs(*rows: str, head: str = "") -> str:
    """A YAML sheet with one flow mapping per row."""
    body = "".join(f"  - {row}\n" for row in rows)
    return f"version: 1\n{head}jobs:\n{body}"
