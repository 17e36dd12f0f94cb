"""What every benchmark shares: the machine, one JSON line, one file under results/."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine(threads: int) -> dict[str, Any]:
    """Where the figures come from; `loaded` says that other work ran, so only ratios count."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    names = ("torch", "diffusers", "transformers", "pillow")
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "cpu": model,
        "cores": cores,
        "threads": threads,
        "load": round(load, 2),
        "loaded": load > cores - 1,
        "versions": {name: version(name) for name in names},
    }


def write(name: str, report: dict[str, Any]) -> None:
    """Print the report as one line and keep it as results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def add(name: str, key: str, report: Mapping[str, Any]) -> None:
    """Print one report of several as one line and keep it under its key in results/NAME.json."""
    path = RESULTS / f"{name}.json"
    there = json.loads(path.read_text()) if path.exists() else {}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({**there, key: dict(report)}, indent=1) + "\n")
    print(json.dumps({key: dict(report)}))
