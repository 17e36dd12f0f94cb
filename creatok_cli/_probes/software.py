"""Probes of the installed libraries against their floors, the extras, and the plug-ins.

Does not: import what it looks at.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from creatok_cli import registry
from creatok_cli._probes.finding import Finding, fault, homely
from creatok_cli.backbones._floors import FLOORS, is_older
from creatok_cli.errors import ModelMissing, Refused

EXTRAS = {
    "ray": ("ray", "2.52", "several GPUs or machines"),
    "quant": ("bitsandbytes", "0.48", "denoisers stored in 8 or 4 bits"),
}
"""Extra -> its library, that library's floor, and what it is for. Ray's floor: CVE-2025-62593."""


def pip_line(words: str, prefix: str = "") -> str:
    """`pip install` for the environment that creatok runs in, as its owner would say it."""
    prefix = prefix or sys.prefix
    parts = [part.lower() for part in re.split(r"[\\/]", prefix)]
    if "pipx" in parts:
        return f"pipx runpip creatok install {words}"
    if "uv" in parts and "tools" in parts:
        return f"uv pip install --python {homely(prefix)} {words}"
    return f"python -m pip install {words}"


def look_versions(names: Iterable[str]) -> dict[str, str]:
    """Library -> version, empty where it is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def judge_libraries(versions: Mapping[str, str]) -> Finding:
    """A fault where a library is missing or below its floor."""
    missing = [name for name in FLOORS if not versions[name]]
    old = [name for name in FLOORS if versions[name] and is_older(versions[name], FLOORS[name])]
    facts = {"versions": dict(versions), "floors": dict(FLOORS)}
    if missing:
        error = ModelMissing(f"not installed: {', '.join(missing)}")
        return fault("libraries", error, todo="install creatok again", facts=facts)
    if old:
        told = ", ".join(f"{name} {versions[name]} is older than {FLOORS[name]}" for name in old)
        wanted = " ".join(f'"{name}>={FLOORS[name]}"' for name in old)
        danger = Refused(f"{told}: such versions can run code that comes with a model")
        return fault("libraries", danger, todo=pip_line(f"-U {wanted}"), facts=facts)
    told = ", ".join(f"{name} {versions[name]}" for name in FLOORS if name != "torch")
    return Finding(name="libraries", status="ok", found=told, facts=facts)


def judge_extras(versions: Mapping[str, str]) -> Finding:
    """Which optional parts are there."""
    parts, todo = [], ""
    for extra, (library, floor, use) in EXTRAS.items():
        found = versions[library]
        if not found:
            parts.append(f"{extra} is not installed; it is for {use}")
        elif is_older(found, floor):
            parts.append(f"{library} {found} is older than {floor}")
            todo = pip_line(f'-U "{library}>={floor}"')
        else:
            parts.append(f"{library} {found}")
    return Finding(
        name="extras",
        status="warning" if todo else "ok",
        found="; ".join(parts),
        todo=todo,
        facts={"versions": dict(versions)},
    )


def judge_plugins() -> Finding:
    """How many plug-ins there are, and which cannot be read."""
    every = [
        registry.describe(group, name)
        for group in registry.GROUPS
        for name in registry.names(group)
    ]
    counts = {group: sum(each.group == group for each in every) for group in registry.GROUPS}
    foreign = [each.name for each in every if not each.module.startswith("creatok_cli.")]
    broken = [each for each in every if each.broken]
    facts = {
        "counts": counts,
        "from_others": foreign,
        "broken": {f"{each.group}: {each.name}": each.broken for each in broken},
    }
    if broken:
        told = "; ".join(f"{each.name} ({each.module}): {each.broken}" for each in broken)
        names = ", ".join(each.name for each in broken)
        todo = f"update or remove the package that brings {names}; all others work"
        return Finding(
            name="plug-ins",
            status="warning",
            found=f"cannot be read: {told}",
            todo=todo,
            facts=facts,
        )
    told = ", ".join(f"{count} {group}" for group, count in counts.items())
    more = f"; from other packages: {', '.join(foreign)}" if foreign else ""
    return Finding(name="plug-ins", status="ok", found=told + more, facts=facts)
