"""Start-up and no-op costs: help, a dry run of 10,000 jobs, a finished sheet (T13, T15).

    python benchmarks/startup.py [--rows 256]

Does not: need a quiet machine for its ratios; every side is the best of several interleaved runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import machine, write

from creatok_cli.backbones.bestiary.genes import CONCEPTS


def seconds(*command: str) -> float:
    """Wall time of a process that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def imported(*arguments: str) -> list[str]:
    """Which of the heavy modules a creatok command imports."""
    heavy = ["torch", "diffusers", "transformers", "numpy", "PIL"]
    code = (
        "import sys, json\nfrom creatok_cli.cli.app import main\n"
        f"sys.argv = ['creatok', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(json.dumps([m for m in {heavy!r} if m in sys.modules]), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(run.stderr.strip().splitlines()[-1])
    return found


def sheet_of(folder: Path, prompts: int, count: int) -> Path:
    """A sheet of prompts x count pictures."""
    words = [f"{a} {b}" for a in CONCEPTS for b in CONCEPTS][:prompts]
    entry = {"id": "row", "prompt": "a photo of a {x}", "matrix": {"x": words}, "count": count}
    file = folder / f"sheet-{prompts}.yaml"
    file.write_text(json.dumps({"version": 1, "base": "bestiary", "jobs": [entry]}))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    args = parser.parse_args()
    python, creatok = sys.executable, (sys.executable, "-m", "creatok_cli")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big = str(sheet_of(folder, 2500, 4))
        small, out = str(sheet_of(folder, args.rows // 4, 4)), str(folder / "out")
        spans: dict[str, list[float]] = {"pass": [], "help": [], "dry_run": []}
        dry = (*creatok, "sample", big, "--out", out, "--dry-run", "--quiet")
        for _ in range(7):
            spans["pass"].append(seconds(python, "-c", "pass"))
            spans["help"].append(seconds(*creatok, "--help"))
        for _ in range(3):
            spans["dry_run"].append(seconds(*dry))
        run = (*creatok, "sample", small, "--out", out, "--quiet")
        first = seconds(*run)
        again = min(seconds(*run) for _ in range(3))
        best = {label: min(values) for label, values in spans.items()}
        report: dict[str, Any] = {
            "benchmark": "startup",
            "help_ms": round(1000 * best["help"], 1),
            "pass_ms": round(1000 * best["pass"], 1),
            "T13_help_over_pass": round(best["help"] / best["pass"], 1),
            "dry_run_jobs": 10_000,
            "dry_run_s": round(best["dry_run"], 2),
            "imported_by_help": imported("--help"),
            "imported_by_dry_run": imported("sample", big, "--out", out, "--dry-run", "--quiet"),
            "rows": args.rows,
            "first_run_s": round(first, 2),
            "second_run_s": round(again, 2),
            "T15_second_over_first": round(again / first, 4),
            "machine": machine(0),
        }
    write("startup", report)


if __name__ == "__main__":
    main()
