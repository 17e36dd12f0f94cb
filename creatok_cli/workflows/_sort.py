"""What stands under the names of planned pictures: kept, adopted, copied, to draw, or foreign.

Does not: write, except the copy of a picture to its new name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from creatok_cli import durable
from creatok_cli.domain import Failed, Job, Plan
from creatok_cli.errors import InputError
from creatok_cli.hashing import sha256_hex
from creatok_cli.sinks import manifest
from creatok_cli.sinks._metadata import MAX_FILE, NotOurs, NotWhole, read_recipe
from creatok_cli.sinks.base import MetadataMode, Output, file_of, foreign

Overwrite = Literal["skip", "replace", "error"]


@dataclass(slots=True, kw_only=True)
class Sorted:
    """The jobs of a plan by what stands under their names."""

    kept: list[Job] = field(default_factory=list)
    adopted: list[tuple[Job, manifest.Checked]] = field(default_factory=list)
    """Intact without a line."""
    copied: list[tuple[Job, manifest.Line]] = field(default_factory=list)
    """Their picture stands under another name: a renamed row."""
    todo: dict[str, Job] = field(default_factory=dict)
    """By file, in plan order."""
    lost: list[Failed] = field(default_factory=list)
    replaceable: set[str] = field(default_factory=set)
    damaged: int = 0


def sort_jobs(
    plan: Plan,
    out: Path,
    ledger: manifest.Ledger,
    *,
    overwrite: Overwrite = "skip",
    metadata: MetadataMode = "full",
) -> Sorted:
    """Looks under the name of every planned picture. Raises InputError for `--overwrite error`."""
    found = Sorted()
    taken: list[str] = []
    with durable.places(out) as at:
        for job in plan.jobs:
            file = file_of(job)
            line = ledger.by_file.get(file)
            if overwrite == "skip" and manifest.quick_check(at, job, line):
                found.kept.append(job)
                continue
            there = _is_taken(at, file)
            if there:
                taken.append(file)
            twin = ledger.by_key.get(job.key)
            if overwrite == "replace":
                found.todo[file] = job
                found.replaceable.add(file)
            elif there:
                _sort_taken(found, out, job, line, metadata)
            elif twin is not None and manifest.quick_check(at, job, twin):
                found.copied.append((job, twin))
            else:
                found.todo[file] = job
    if taken and overwrite == "error":
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise InputError(f"{taken[0]}{more} is already there, and --overwrite error was asked")
    return found


def _is_taken(at: Callable[[str], durable.Place], file: str) -> bool:
    """Whether anything stands in the way, a link or file as a parent folder included."""
    try:
        return at(file).stat() is not None
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in durable.NOT_A_FILE:
            return True
        raise


def _sort_taken(
    found: Sorted, out: Path, job: Job, line: manifest.Line | None, metadata: MetadataMode
) -> None:
    """Something stands under the name and the quick check did not accept it."""
    file = file_of(job)
    checked = manifest.check(out, job, line)
    if checked.verdict == "intact":
        found.adopted.append((job, checked))
    elif checked.verdict == "absent":
        found.todo[file] = job
    elif checked.verdict == "damaged":
        found.todo[file] = job
        found.replaceable.add(file)
        found.damaged += 1
    elif metadata == "none" and line is None:
        # Without a recipe inside only the picture itself can tell: the png sink compares.
        found.todo[file] = job
    else:
        message = foreign(file, checked.reason)
        found.lost.append(Failed(job=job, kind="foreign-file", message=message))


def copy_picture(out: Output, job: Job, line: manifest.Line) -> manifest.Checked | None:
    """The picture of `line` under the name of `job`; None if it cannot be had and must be drawn."""
    recipe: Mapping[str, Any] = {}
    try:
        data = durable.read_file(out.folder, line.file, limit=MAX_FILE)
        if sha256_hex(data) != line.sha256:
            return None
        with suppress(NotOurs):
            recipe = read_recipe(data)
        if durable.publish_new(out.folder, file_of(job), data, writer=out.writer) == "exists":
            return None
    except (OSError, NotWhole):
        return None
    return manifest.Checked(
        verdict="intact",
        sha256=line.sha256,
        pixels=line.pixels or "",
        bytes=len(data),
        recipe=recipe,
    )
