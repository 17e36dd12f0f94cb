"""Probes of torch, its build, and the graphics cards and driver under it.

Looking (`look_...`) and judging are apart, so that a test can judge a machine that is not there. A
card is looked for without torch, too: the usual wheel for Windows is built for the CPU only, and
then torch itself sees nothing.

Sources: least drivers, NVIDIA "CUDA compatibility", minor version compatibility, table 1; what
wheels run on, `torch.cuda.get_arch_list()` of cu126 and cu128, and NVIDIA's CUDA 13.0 release
notes, which end support below 7.5.

Does not: change a setting, or import torch before it is asked to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from creatok_cli._probes.finding import Finding, Status, brief, fault, size
from creatok_cli._probes.software import pip_line
from creatok_cli.backbones._floors import FLOORS, numbers
from creatok_cli.errors import ArtefactError, NoDevice

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA version of a torch build -> first driver series that runs it."""
WHEELS = "https://download.pytorch.org/whl/"
DRIVER_FILE = Path("/proc/driver/nvidia/version")
DEVICE_FILE = Path("/dev/nvidiactl")
"""A container sees the driver's version also where it was given no card."""
DRIVER_PAGE = "https://www.nvidia.com/drivers"
QUERY = "name,driver_version,compute_cap"
ASK_S = 10.0
"""How long nvidia-smi may take; it hangs on a card that has fallen off the bus."""
CROWDED = 0.25
"""Share of free memory below which other programs are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """An NVIDIA driver or card, as seen without torch."""

    version: str = ""
    """`580.95.05`; empty where it could not be read."""
    card: str = ""
    """The first card's name; empty where nobody could be asked."""
    capability: str = ""
    """`8.9`, of the first card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A graphics card, as torch sees it."""

    name: str
    """`cuda:0`, `mps`."""
    title: str
    capability: str = ""
    total_bytes: int = 0
    free_bytes: int | None = None
    has_bf16: bool = True
    is_built_for: bool = True
    """Whether this torch has code for it."""
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """The installed torch."""

    version: str = ""
    cuda: str = ""
    """`13.0` for a CUDA build."""
    hip: str = ""
    """`6.4` for a ROCm build."""
    devices: tuple[Device, ...] = ()
    threads: int = 1
    trouble: str = ""
    """What torch said while it looked for cards."""
    error: str = ""
    """Why torch cannot be imported."""


# Looking


def look_driver() -> Driver | None:
    """The NVIDIA driver of this machine without torch, or None."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        words = [program, f"--query-gpu={QUERY}", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(words, capture_output=True, text=True, timeout=ASK_S, check=True)
            first = [cell.strip() for cell in told.stdout.partition("\n")[0].split(",")]
            if len(first) == 3:
                return Driver(card=first[0], version=first[1], capability=first[2])
    if DEVICE_FILE.exists():
        with suppress(OSError):
            text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
            found = re.search(r"\s(\d{3,}\.\d+(\.\d+)?)\s", text)
            return Driver(version=found[1] if found else "")
    windows = os.environ.get("SYSTEMROOT")
    if windows and Path(windows, "System32", "nvcuda.dll").is_file():
        return Driver()
    return None


def look_torch() -> Torch:
    """The installed torch and the cards that it sees; a broken one is told, never raised."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            import torch

            from creatok_cli.backbones.base import own_threads

            threads = own_threads()
            cards = tuple(_cards(torch)) if torch.cuda.is_available() else ()
            apple = (_apple(torch),) if torch.backends.mps.is_available() else ()
    except Exception as error:  # noqa: BLE001 - a half-installed torch may raise anything
        return Torch(error=brief(error))
    about = [str(each.message) for each in said if "CUDA" in str(each.message)]
    return Torch(
        version=str(torch.__version__),
        cuda=torch.version.cuda or "",
        hip=torch.version.hip or "",
        devices=(*cards, *apple),
        threads=threads,
        trouble=about[0].partition(". ")[0][:200] if about else "",
    )


def _cards(torch: Any) -> Iterator[Device]:
    architectures = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        name, facts = f"cuda:{index}", torch.cuda.get_device_properties(index)
        is_nvidia = not torch.version.hip
        free, trouble = None, ""
        try:
            free = int(torch.cuda.mem_get_info(index)[0])
        except RuntimeError as error:
            trouble = brief(error)
        yield Device(
            name=name,
            title=facts.name,
            capability=f"{facts.major}.{facts.minor}" if is_nvidia else "",
            total_bytes=int(facts.total_memory),
            free_bytes=free,
            has_bf16=facts.major >= 8 if is_nvidia else torch.cuda.is_bf16_supported(),
            is_built_for=not is_nvidia or runs_on(facts.major, facts.minor, architectures),
            trouble=trouble,
        )


def _apple(torch: Any) -> Device:
    return Device(
        name="mps", title="Apple GPU", total_bytes=int(torch.mps.recommended_max_memory())
    )


def runs_on(major: int, minor: int, architectures: list[str]) -> bool:
    """Whether a build for these (`sm_86`, `compute_90`) runs on a card of that capability."""
    for each in architectures:
        kind, _, digits = each.partition("_")
        digits = re.sub(r"\D", "", digits)
        built = (int(digits[:-1] or 0), int(digits[-1:] or 0))
        is_same = kind == "sm" and built[0] == major and built[1] <= minor
        if is_same or (kind == "compute" and built <= (major, minor)):
            return True
    return not architectures


# Judging


def judge_torch(
    torch: Torch,
    driver: Driver | None,
    *,
    prefix: str = "",
    environment: Mapping[str, str] = os.environ,
) -> Finding:
    """torch, its build, and whether the build fits the machine."""
    facts = {name: getattr(torch, name) for name in ("version", "cuda", "hip", "trouble", "error")}
    facts["driver"] = asdict(driver) if driver else None
    if torch.error:
        return fault(
            "torch",
            ArtefactError(f"cannot be imported: {torch.error}"),
            todo=install_line(driver, prefix),
            facts=facts,
        )
    status, found, todo = _fit(torch, driver, prefix, environment)
    build = f"for CUDA {torch.cuda}" if torch.cuda else f"for ROCm {torch.hip}" if torch.hip else ""
    found = f"{torch.version}, {build or 'built for the CPU only'}{found}"
    return Finding(name="torch", status=status, found=found, todo=todo, facts=facts)


def _fit(
    torch: Torch, driver: Driver | None, prefix: str, environment: Mapping[str, str]
) -> tuple[Status, str, str]:
    """(status, what more was found, what to do) of a torch that can be imported."""
    line = install_line(driver, prefix)
    there = f"an NVIDIA card is here ({said(driver)})" if driver else ""
    if driver is None or any(each.name.startswith("cuda") for each in torch.devices):
        lonely = torch.cuda and not torch.devices
        return ("note", ", but there is no NVIDIA driver here", "") if lonely else ("ok", "", "")
    if not torch.cuda:
        return "warning", f", but {there}", line
    if environment.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return "note", f"; {there}, hidden by CUDA_VISIBLE_DEVICES", ""
    least, series = LEAST_DRIVER.get(numbers(torch.cuda)[0], 0), numbers(driver.version)[:1]
    if series and series[0] < least:
        update = f"update the driver to {least} or newer: {DRIVER_PAGE}"
        older = f"; or take an older build: {line}" if series[0] >= LEAST_DRIVER[12] else ""
        return "warning", f", which needs driver {least}; here is {said(driver)}", update + older
    why = f": {torch.trouble}" if torch.trouble else ""
    return (
        "warning",
        f", but it cannot use the card ({said(driver)}){why}",
        "see what nvidia-smi says",
    )


def said(driver: Driver) -> str:
    """`NVIDIA GeForce RTX 4090, driver 580.95.05`."""
    version = f"driver {driver.version}" if driver.version else ""
    return ", ".join(filter(None, [driver.card, version])) or "its driver is installed"


def install_line(driver: Driver | None, prefix: str) -> str:
    """The command that puts a torch for this card (or, without one, the usual one) in place."""
    index = f" --index-url {WHEELS}{wheel_of(driver)}" if driver else ""
    return pip_line(f'--force-reinstall "torch>={FLOORS["torch"]}"{index}', prefix)


def wheel_of(driver: Driver) -> str:
    """The folder of wheels for a driver and card; the newest where neither could be read."""
    series = (*numbers(driver.version), LEAST_DRIVER[13])[0]
    capability = numbers(driver.capability) or (9, 0)
    if capability < (7, 5):
        return "cu126"
    if series >= LEAST_DRIVER[13]:
        return "cu130"
    return "cu128" if capability >= (10, 0) else "cu126"


def judge_devices(torch: Torch, driver: Driver | None, prefix: str = "") -> list[Finding]:
    """One finding per graphics card."""
    return [_judge_device(device, driver, prefix) for device in torch.devices]


def _judge_device(device: Device, driver: Driver | None, prefix: str) -> Finding:
    facts = asdict(device) | {"driver": driver.version if driver else ""}
    parts = [device.title]
    if device.total_bytes:
        free = "" if device.free_bytes is None else f", {size(device.free_bytes)} free"
        parts.append(f"{size(device.total_bytes)}{free}")
    parts += [f"capability {device.capability}"] if device.capability else []
    parts += [f"driver {driver.version}"] if driver and driver.version else []
    parts += ["bf16" if device.has_bf16 else "no bf16: use dtype fp16 or fp32"]
    found, todo = ", ".join(parts), ""
    status: Status = "ok"
    if device.trouble:
        status, found = "warning", f"{device.title}: {device.trouble}"
        todo = "see what nvidia-smi says; another program may hold the card"
    elif not device.is_built_for:
        status, found = "warning", f"{found}; this torch has no code for it"
        card = Driver(version=facts["driver"], capability=device.capability)
        todo = install_line(card, prefix)
    elif device.free_bytes is not None and device.free_bytes < CROWDED * device.total_bytes:
        status, todo = "note", "other programs hold most of its memory: end them for large bases"
    return Finding(name=device.name, status=status, found=found, todo=todo, facts=facts)


def judge_choice(asked: str, torch: Torch) -> Finding | None:
    """A fault where the device that was asked for is not here."""
    there = ["cpu", *(device.name for device in torch.devices)]
    wanted = "cuda:0" if asked == "cuda" else asked
    if torch.error or asked == "auto" or wanted in there:
        return None
    todo = f"use --device {there[-1]}, or see torch" if len(there) == 1 else "choose one of these"
    error = NoDevice(f"no device {wanted}; this machine has {', '.join(there)}")
    return fault("device", error, todo=todo, facts={"asked": asked, "there": there})
