"""Probes of Python, the system and the CPU.

Does not: import torch, or change the number of threads.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from creatok_cli import __version__, config
from creatok_cli._probes.finding import Finding, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor and main memory."""

    title: str = ""
    granted: int = 1
    """Cores that this process may use."""
    total: int = 1
    quota: float | None = None
    """Cores' worth of time that a container grants."""
    has_bf16: bool | None = None
    """None where it could not be found out."""
    total_bytes: int = 0
    free_bytes: int = 0


def look_cpu(root: Path = Path("/")) -> Cpu:
    """The processor; `root` is where /proc and /sys are."""
    info, has_bf16 = _text(root / "proc/cpuinfo"), None
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", info, re.MULTILINE)
    if flags:
        has_bf16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags[1].split()))
    title = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    return Cpu(
        title=title[1].strip() if title else platform.processor(),
        granted=config.cores(),
        total=os.cpu_count() or 1,
        quota=_quota(root / "sys/fs/cgroup"),
        has_bf16=has_bf16,
        total_bytes=int(kib.get("MemTotal", 0)) * 1024,
        free_bytes=int(kib.get("MemAvailable", 0)) * 1024,
    )


def _quota(groups: Path) -> float | None:
    """Cores that control groups grant, version 2 or 1; None without a limit."""
    words = _text(groups / "cpu.max").split() or [
        *_text(groups / "cpu/cpu.cfs_quota_us").split(),
        *_text(groups / "cpu/cpu.cfs_period_us").split(),
    ]
    is_set = len(words) == 2 and all(word.isdigit() for word in words) and words[1] != "0"
    return int(words[0]) / int(words[1]) if is_set else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def judge_python() -> Finding:
    """creatok, Python and the system."""
    system = f"{platform.system()} {platform.release()} ({platform.machine()})"
    found = f"creatok {__version__} on Python {platform.python_version()}, {system}"
    facts = {
        "creatok": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if sys.maxsize < 2**32:
        todo = "install a 64-bit Python: torch has no wheels for this one"
        return Finding(
            name="python", status="warning", found=f"{found}, 32 bit", todo=todo, facts=facts
        )
    return Finding(name="python", status="ok", found=found, facts=facts)


def judge_cpu(cpu: Cpu, threads: int) -> Finding:
    """Cores, memory, and whether bf16 pays here."""
    cores = (
        f"{cpu.granted} of {cpu.total} cores" if cpu.granted < cpu.total else f"{cpu.total} cores"
    )
    parts = [cores, *([cpu.title] if cpu.title else [])]
    if cpu.total_bytes:
        parts.append(f"{size(cpu.total_bytes)} memory, {size(cpu.free_bytes)} free")
    speed = {
        True: "; dtype bf16 draws about twice as fast as fp32",
        False: "; no bf16 instructions: dtype bf16 would be slower than fp32",
        None: "",
    }[cpu.has_bf16]
    found, facts = ", ".join(parts) + speed, asdict(cpu) | {"threads": threads}
    if cpu.quota is not None and threads > max(1.0, cpu.quota) + 0.5:
        few = max(1, round(cpu.quota))
        return Finding(
            name="cpu",
            status="warning",
            found=f"{found}; the container grants the time of {cpu.quota:.3g}, but torch starts "
            f"{threads} threads",
            todo=f"set OMP_NUM_THREADS={few}",
            facts=facts,
        )
    return Finding(name="cpu", status="ok", found=found, facts=facts)
