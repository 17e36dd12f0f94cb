"""Equal bytes: a sheet, shuffled, in two shards, on Ray, and killed at random times (T11).

    python benchmarks/determinism.py [--kills 25] [--base bestiary]

Compares every picture, the contact sheets and the gallery with those of an uninterrupted run. A
kill is SIGKILL to the whole process group, then the same command again until it ends.

Does not: compare manifests (they hold times), or run Ray unless it is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _report import machine, write

from creatok_cli.config import cores
from creatok_cli.seeds import derive

ANIMALS = ["pig", "owl", "zebra", "frog", "tiger", "dragon"]
PLACES = ["meadow", "snow", "night"]


def sheet_of(folder: Path, base: str, *, shuffled: bool = False) -> str:
    """21 pictures in two jobs: batches of 4 with a tail of 2 and one of 3."""
    entries: list[dict[str, Any]] = [
        {
            "id": "places",
            "prompt": "a photo of a {animal} in the {place}",
            "matrix": {"animal": ANIMALS, "place": PLACES},
        },
        {
            "id": "quick",
            "prompt": "a {a} {b}",
            "zip": {"a": ["pig", "cat", "fox"], "b": ["bee", "owl", "crab"]},
            "steps": 4,
        },
    ]
    if shuffled:
        entries[0]["matrix"] = {"place": PLACES[::-1], "animal": ANIMALS[::-1]}
        entries.reverse()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sheet.yaml"
    head = {"version": 1, "base": base, "defaults": {"count": 1}, "name": "{job}/{key8}"}
    file.write_text(json.dumps({**head, "jobs": entries}))
    return str(file)


def command(sheet: str, out: Path, *more: str) -> list[str]:
    """The command line of a quiet run."""
    common = ["--device", "cpu", "--batch-size", "4", "--quiet"]
    return [sys.executable, "-m", "creatok_cli", "sample", sheet, "--out", str(out), *common, *more]


def tree(out: Path, *, derived: bool = True) -> dict[str, str]:
    """Digest by relative name; `derived` adds contact sheets and gallery, which keep order."""
    found = {}
    for path in sorted(out.rglob("*")):
        page = path.name.startswith(("contact-sheet", "gallery"))
        if path.suffix in (".png", ".html") and (derived or not page):
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def killed(sheet: str, out: Path, delay_s: float) -> int:
    """Start, kill after a delay, run again to the end. Returns how many pictures stood."""
    with subprocess.Popen(
        command(sheet, out),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    stood = len(tree(out, derived=False))
    subprocess.run(command(sheet, out), check=True, capture_output=True)
    return stood


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--base", default="bestiary")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sheet = sheet_of(folder / "plain", args.base)
        began = time.monotonic()
        subprocess.run(command(sheet, folder / "whole"), check=True, capture_output=True)
        span = time.monotonic() - began
        whole, pictures = tree(folder / "whole"), tree(folder / "whole", derived=False)
        mixed = sheet_of(folder / "shuffled", args.base, shuffled=True)
        subprocess.run(command(mixed, folder / "mixed"), check=True, capture_output=True)
        for part in ("1/2", "2/2"):
            line = command(sheet, folder / "shards", "--shard", part)
            subprocess.run(line, check=True, capture_output=True)
        rng = random.Random(derive(0, "benchmark", "kills"))
        stood, equal = [], 0
        for n in range(args.kills):
            out = folder / f"killed-{n}"
            stood.append(killed(sheet, out, rng.uniform(0.2, 1.0) * span))
            equal += tree(out) == whole
        ray: bool | str = "not installed"
        if find_spec("ray"):
            line = command(sheet, folder / "ray", "--executor", "ray")
            subprocess.run(line, check=True, capture_output=True)
            ray = tree(folder / "ray") == whole
        one_core: bool | str = "not measured"
        if hasattr(os, "sched_setaffinity"):
            core = min(os.sched_getaffinity(0))
            subprocess.run(
                command(sheet, folder / "one-core"),
                check=True,
                capture_output=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
            one_core = tree(folder / "one-core") == whole
        report = {
            "benchmark": "determinism",
            "pictures": len(pictures),
            "shuffled_equal": tree(folder / "mixed", derived=False) == pictures,
            "two_shards_equal": tree(folder / "shards", derived=False) == pictures,
            "ray_equal": ray,
            "one_core_equal": one_core,
            "kills": args.kills,
            "kills_equal": equal,
            "pictures_standing_at_kill": stood,
            "run_s": round(span, 1),
            "machine": machine(cores()),
        }
    write("determinism", report)


if __name__ == "__main__":
    main()
