"""Probes of places: creatok's own folder, the token library, the folder of pictures, settings,
standard output and the clock.

A folder is tried by the operations that publishing needs (`durable.OPS`): make a file, write, link
it, remove it. The file is named like a temporary: in an output folder, the next run sweeps up after
a killed probe.

Does not: leave a file behind, or make a folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from creatok_cli import config, durable
from creatok_cli._probes.finding import MIB, Finding, Status, fault, homely, size
from creatok_cli.errors import InputError, OutputFull, OutputReadOnly
from creatok_cli.tokens.library import Library

FULL, SCARCE = 64 * MIB, 1024 * MIB
"""Free bytes below which nothing can be drawn, or only a few hundred pictures of 1024 px (set by
eye).
"""
SKEW_S = 5.0
EARLIEST = 1_767_225_600
"""2026-01-01 UTC: creatok is younger, so a clock before it is wrong."""
STORED = "tokens, networks and caches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a folder allows."""

    folder: Path
    """As it was named."""
    trouble: str = ""
    """Why nothing can be written there."""
    free_bytes: int | None = None
    has_links: bool = True
    is_case_sensitive: bool = True
    skew_s: float = 0.0
    """The folder's clock less this machine's."""


def try_folder(folder: Path) -> Room:
    """Try what publishing needs in a folder, or in the lowest one above it that is there."""
    there = nearest(folder)
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(there).free
    name = f".doctor-a.1of1.{durable.new_run()}.part"
    path, linked = there / name, there / name.replace("doctor-a", "doctor-b")
    try:
        fd = durable.OPS.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        return Room(folder=folder, trouble=str(error.strerror or error), free_bytes=free)
    try:
        durable.OPS.write(fd, b"creatok doctor\n")
        skew = os.fstat(fd).st_mtime - time.time()
        return Room(
            folder=folder,
            free_bytes=free,
            has_links=_links(path, linked),
            is_case_sensitive=not path.with_name(name.replace("doctor", "DOCTOR")).exists(),
            skew_s=skew,
        )
    except OSError as error:
        return Room(folder=folder, trouble=str(error.strerror or error), free_bytes=free)
    finally:
        os.close(fd)
        for each in (path, linked):
            with suppress(OSError):
                durable.OPS.unlink(str(each))


def nearest(folder: Path) -> Path:
    """The folder, or the lowest one above it that is there."""
    absolute = Path(os.path.abspath(folder))
    return next((each for each in (absolute, *absolute.parents) if each.exists()), absolute)


def _links(path: Path, linked: Path) -> bool:
    try:
        durable.OPS.link(str(path), str(linked))
    except (OSError, NotImplementedError):
        return False
    return True


def judge_home(room: Room) -> Finding:
    """creatok's own folder."""
    place = homely(str(room.folder))
    facts = {"folder": place, "free_bytes": room.free_bytes}
    if room.trouble:
        error = OutputReadOnly(f"{place} cannot be written: {room.trouble}; {STORED} go there")
        return fault("home", error, todo="set CREATOK_HOME to a folder of yours", facts=facts)
    status, told, todo = _fullness(room, "set CREATOK_HOME to another disk, or free some space")
    if status == "fault":
        return fault("home", OutputFull(f"{place}: {told}"), todo=todo, facts=facts)
    return Finding(
        name="home",
        status="warning" if todo else "ok",
        found=f"{place}, {told}",
        todo=todo,
        facts=facts,
    )


def judge_folder(room: Room) -> Finding:
    """The folder that pictures would go to."""
    place = homely(str(room.folder))
    facts = {
        "folder": place,
        "free_bytes": room.free_bytes,
        "has_links": room.has_links,
        "is_case_sensitive": room.is_case_sensitive,
    }
    if room.trouble:
        return Finding(
            name="pictures",
            status="warning",
            found=f"{place} cannot be written: {room.trouble}",
            todo="work in another folder, or name one with --out",
            facts=facts,
        )
    status, told, todo = _fullness(room, "name a folder on another disk with --out")
    if status == "fault":
        return fault("pictures", OutputFull(f"{place}: {told}"), todo=todo, facts=facts)
    traits = [] if room.has_links else ["no hard links: let only one run at a time write here"]
    traits += [] if room.is_case_sensitive else ["capitals do not tell names apart"]
    return Finding(
        name="pictures",
        status="warning" if todo else "note" if not room.has_links else "ok",
        found=", ".join([f"{place}, {told}", *traits]),
        todo=todo,
        facts=facts,
    )


def _fullness(room: Room, todo: str) -> tuple[Status, str, str]:
    """(status, words, what to do) about the free disk."""
    if room.free_bytes is None:
        return "ok", "writable", ""
    told = f"{size(room.free_bytes)} free"
    if room.free_bytes < FULL:
        return "fault", f"only {told}", todo
    return ("warning", f"only {told}", todo) if room.free_bytes < SCARCE else ("ok", told, "")


def judge_library() -> Finding:
    """The learned words."""
    survey = Library().survey()
    facts = {
        "tokens": len(survey.entries),
        "without_a_name": len(survey.loose),
        "damaged": len(survey.faults),
    }
    found = f"{len(survey.entries)} learned words"
    if survey.loose:
        found += f", {len(survey.loose)} more without a name"
    if survey.faults:
        return Finding(
            name="tokens",
            status="warning",
            found=f"{found}; {len(survey.faults)} cannot be used",
            todo="creatok tokens list says which",
            facts=facts,
        )
    return Finding(name="tokens", status="ok", found=found, facts=facts)


def judge_settings(
    device: str | None, environment: Mapping[str, str]
) -> tuple[Finding, config.Machine]:
    """What files and environment set on this machine; a wrong setting is a fault."""
    try:
        machine = config.machine({"device": device}, environment=environment)
    except InputError as error:
        wrong = fault("settings", error, todo="correct or remove it")
        return wrong, config.Machine(device=device or "auto")
    usual = asdict(config.Machine())
    own = {
        name: homely(str(value)) for name, value in asdict(machine).items() if value != usual[name]
    }
    told = ", ".join(f"{name} {value}" for name, value in own.items()) or "all as usual"
    return Finding(name="settings", status="ok", found=told, facts=own), machine


def judge_output(encoding: str, environment: Mapping[str, str]) -> Finding:
    """Whether standard output can say every name."""
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    locale = next((environment[name] for name in names if environment.get(name)), "")
    facts = {"encoding": encoding, "locale": locale}
    found = f"{encoding}, locale {locale}" if locale else encoding
    if encoding.lower().replace("-", "").replace("_", "") != "utf8":
        return Finding(
            name="output",
            status="note",
            found=f"{found}: other letters are written as escapes",
            todo="set PYTHONUTF8=1",
            facts=facts,
        )
    return Finding(name="output", status="ok", found=found, facts=facts)


def judge_clock(now_s: float, room: Room) -> Finding:
    """Whether the clock can be right, and agrees with the disk's."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    facts = {"now": when, "skew_s": round(room.skew_s, 3)}
    if now_s < EARLIEST:
        return Finding(
            name="clock",
            status="warning",
            found=f"{when}, which is before creatok was made",
            todo="set the clock: with a wrong one, downloads are refused",
            facts=facts,
        )
    if abs(room.skew_s) > SKEW_S:
        return Finding(
            name="clock",
            status="note",
            found=f"{when}; the disk's own clock differs by {room.skew_s:+.0f} s",
            facts=facts,
        )
    return Finding(name="clock", status="ok", found=when, facts=facts)
