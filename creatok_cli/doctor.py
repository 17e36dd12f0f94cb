"""Says whether creatok can work on this machine, and what to do if not: probes as data.

Each probe is isolated: whatever is broken becomes a finding, and the others go on. The verdict
follows from the findings alone.

Does not: print, connect, change a setting, or show a secret.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from creatok_cli import config
from creatok_cli._probes import bases, cards, machine, places, self_test, software
from creatok_cli._probes.finding import STATUSES as STATUSES
from creatok_cli._probes.finding import Finding as Finding
from creatok_cli._probes.finding import brief, fault, size
from creatok_cli.backbones._floors import FLOORS
from creatok_cli.backbones._hub_cache import cache_folder
from creatok_cli.errors import CreatokError

GRAVEST = (130, 6, 5, 4, 3, 2, 1)
"""Exit codes, the one that wins first."""
AUTO = "auto"
VITAL = ("torch", "bestiary", "self-test")
"""Probes that must not break: without what they look at, nothing is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """What `creatok doctor` was asked."""

    device: str | None = None
    """None: what files and environment say, else auto."""
    self_test: bool = True


@dataclass
class Scene:
    """What the probes look at, each part when it is first wanted; tests put other parts in."""

    request: DoctorRequest
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """As it was at the start: the libraries are told to stay offline later."""

    @cached_property
    def torch(self) -> cards.Torch:
        return cards.look_torch()

    @cached_property
    def driver(self) -> cards.Driver | None:
        return cards.look_driver()

    @cached_property
    def settings(self) -> tuple[Finding, config.Machine]:
        return places.judge_settings(self.request.device, self.environment)

    @cached_property
    def pictures(self) -> places.Room:
        return places.try_folder(self.settings[1].out or Path("out"))

    @property
    def device(self) -> str:
        """The device that a run would use: `cpu`, `cuda:0`, `mps`."""
        asked = self.settings[1].device
        if asked != AUTO:
            return "cuda:0" if asked == "cuda" else asked
        return self.torch.devices[0].name if self.torch.devices else "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What all findings say together."""

    line: str
    is_ready: bool
    device: str
    code: int
    reason: str


Probe = Callable[[Scene], Iterable[Finding]]


def examine(scene: Scene, name: str) -> list[Finding]:
    """What one of the PROBES finds. Never raises."""
    found: list[Finding] = []
    try:
        found.extend(PROBES[name](scene))
    except Exception as error:  # noqa: BLE001 - whatever is looked at may be broken in any way
        told = f"could not be looked at: {brief(error)}"
        if name in VITAL:
            found.append(fault(name, CreatokError(told)))
        else:
            found.append(Finding(name=name, status="warning", found=told))
    return found


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, otherwise as they were found."""
    return sorted(findings, key=lambda each: STATUSES.index(each.status))


def conclude(scene: Scene, findings: Sequence[Finding]) -> Verdict:
    """Ready or not, on which device, and the exit code."""
    faults = [each for each in findings if each.status == "fault"]
    if faults:
        worst = min(faults, key=lambda each: GRAVEST.index(each.code))
        line = f"Not ready: {worst.name}: {worst.found}"
        return Verdict(line=line, is_ready=False, device="", code=worst.code, reason=worst.reason)
    device = scene.device
    line = _ready(device, scene)
    warnings = sum(each.status == "warning" for each in findings)
    if warnings:
        line += f"; {warnings} warning{'' if warnings == 1 else 's'} above"
    return Verdict(line=f"{line}.", is_ready=True, device=device, code=0, reason="ok")


def _ready(device: str, scene: Scene) -> str:
    untried = "" if scene.request.self_test else ", but nothing was drawn to test it"
    for each in scene.torch.devices:
        if each.name == device:
            free = f", {size(each.free_bytes)} free" if each.free_bytes is not None else ""
            return f"Ready: draws on {device} ({each.title}{free}){untried}"
    if scene.driver and not scene.torch.devices:
        return f"Ready on the CPU only; the NVIDIA card is not used{untried}"
    return f"Ready on the CPU; quick for the bestiary, slow for large bases{untried}"


def _machine(scene: Scene) -> Iterator[Finding]:
    yield machine.judge_python()


def _settings(scene: Scene) -> Iterator[Finding]:
    yield scene.settings[0]


def _places(scene: Scene) -> Iterator[Finding]:
    yield places.judge_home(places.try_folder(config.home()))
    yield places.judge_folder(scene.pictures)
    yield places.judge_clock(time.time(), scene.pictures)


def _output(scene: Scene) -> Iterator[Finding]:
    yield places.judge_output(str(sys.stdout.encoding), scene.environment)


def _tokens(scene: Scene) -> Iterator[Finding]:
    yield places.judge_library()


def _software(scene: Scene) -> Iterator[Finding]:
    yield software.judge_libraries(software.look_versions(FLOORS))
    libraries = [library for library, _, _ in software.EXTRAS.values()]
    yield software.judge_extras(software.look_versions(libraries))


def _plugins(scene: Scene) -> Iterator[Finding]:
    yield software.judge_plugins()


def _torch(scene: Scene) -> Iterator[Finding]:
    yield cards.judge_torch(scene.torch, scene.driver, environment=scene.environment)
    yield from cards.judge_devices(scene.torch, scene.driver)
    lacking = cards.judge_choice(scene.settings[1].device, scene.torch)
    yield from [lacking] if lacking else []


def _cpu(scene: Scene) -> Iterator[Finding]:
    yield machine.judge_cpu(machine.look_cpu(), scene.torch.threads)


def _bestiary(scene: Scene) -> Iterator[Finding]:
    yield bases.probe_bestiary()


def _bases(scene: Scene) -> Iterator[Finding]:
    yield from bases.probe_bases()


def _hub(scene: Scene) -> Iterator[Finding]:
    free = shutil.disk_usage(places.nearest(cache_folder())).free
    yield bases.judge_hub(free, scene.environment)


def _self_test(scene: Scene) -> Iterator[Finding]:
    is_here = cards.judge_choice(scene.device, scene.torch) is None
    if scene.request.self_test and not scene.torch.error and is_here:
        yield self_test.probe_self_test(scene.device)


PROBES: Mapping[str, Probe] = {
    "python": _machine,
    "torch": _torch,
    "cpu": _cpu,
    "libraries": _software,
    "plug-ins": _plugins,
    "bestiary": _bestiary,
    "bases": _bases,
    "hub": _hub,
    "folders": _places,
    "tokens": _tokens,
    "settings": _settings,
    "output": _output,
    "self-test": _self_test,
}
"""Name -> probe, in the order of the report."""
