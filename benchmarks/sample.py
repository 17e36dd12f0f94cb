"""`sample` against a plain diffusers loop: same folder, sheet, steps, noise (T1, T2, T12, T16).

    python benchmarks/sample.py [--rows 64] [--repeats 3] [--base bestiary]

R is what a person writes first: one `pipe(...)` call per row, fp32, default PNG level, torch's own
choice of threads. R2 is R with PNG level 1. Ours runs with its defaults: a lane per core. Sides
alternate (R, R2, fp32, bf16, R, ...) in one process with the same environment, in which waiting
threads do not spin; R is measured once more in a process of its own where they spin, as the library
has it by default. Loading counts for all and is shown apart. For fewer cores: `taskset -c 0 ...`.

Does not: time imports; both sides need the same ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read when torch is imported; the workflow sets the same.
if "--only-plain" not in sys.argv:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from _report import machine, write
from diffusers import StableDiffusion3Pipeline
from PIL import Image, ImageChops, ImageStat

from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.bestiary.genes import CONCEPTS
from creatok_cli.config import cores
from creatok_cli.domain import ImageWritten, Job, Summary
from creatok_cli.executors import local
from creatok_cli.plan.batches import make_plan
from creatok_cli.plan.expand import expand
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.seeds import generator
from creatok_cli.workflows.sample import SampleRequest, sample


def sheet_of(folder: Path, base: str, rows: int) -> Path:
    """A sheet of `rows` pictures over `rows / 4` prompts."""
    names = list(CONCEPTS)[: -(-rows // 4)]
    entry = {
        "id": "row",
        "prompt": "a photo of a {animal}",
        "matrix": {"animal": names},
        "count": 4,
    }
    file = folder / "sheet.yaml"
    file.write_text(json.dumps({"version": 1, "base": base, "jobs": [entry]}))
    return file


def plain_loop(folder: str, jobs: list[Job], out: Path, level: int | None) -> tuple[float, float]:
    """(load seconds, loop seconds) of one pipe call per picture, with the noise of creatok."""
    began = time.perf_counter()
    pipe = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    out.mkdir(parents=True)
    scale = pipe.vae_scale_factor
    for n, job in enumerate(jobs):
        width, height = job.size_px
        shape = (1, pipe.transformer.config.in_channels, height // scale, width // scale)
        noise = torch.randn(shape, generator=generator(job.seed, "noise"))
        image = pipe(
            job.prompt,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            height=height,
            width=width,
            latents=noise,
            max_sequence_length=0,
        ).images[0]
        image.save(out / f"{n:04d}.png", **({} if level is None else {"compress_level": level}))
    return loaded - began, time.perf_counter() - loaded


def spinning_loop(arguments: list[str]) -> float:
    """Seconds of R in a fresh process whose waiting threads spin, as by default."""
    spinning = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    line = [sys.executable, __file__, "--only-plain", *arguments]
    done = subprocess.run(line, env=spinning, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def creatok(
    sheet: Path, out: Path, precision: str, rows: int | None
) -> tuple[float, dict[str, Path]]:
    """(seconds of the whole run, files by key)."""
    began = time.perf_counter()
    files: dict[str, Path] = {}
    request = SampleRequest(
        sheet=str(sheet), out=out, precision=precision, device="cpu", batch_size=rows
    )
    for event in sample(request):
        if isinstance(event, ImageWritten):
            files[event.key] = out / event.file
        if isinstance(event, Summary) and event.code:
            raise SystemExit(f"sample ended with {event}")
    return time.perf_counter() - began, files


def psnr(a: Path, b: Path) -> float:
    """Decibels over all channels; infinity for equal pictures."""
    left, right = Image.open(a).convert("RGB"), Image.open(b).convert("RGB")
    squares = ImageStat.Stat(ImageChops.difference(left, right)).rms
    mean = sum(value**2 for value in squares) / 3
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base", default="bestiary")
    parser.add_argument("--only-plain", action="store_true", help="measure R alone, print seconds")
    args = parser.parse_args()
    facts = resolve(args.base)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = sheet_of(folder, args.base, args.rows)
        jobs = list(expand(load_sheet(str(path)), {facts.name: facts}, {}))
        if args.only_plain:
            plain_loop(facts.folder, jobs[:1], folder / "warm", None)
            spans_plain = (
                sum(plain_loop(facts.folder, jobs, folder / str(n), None))
                for n in range(args.repeats)
            )
            print(min(spans_plain))
            return
        before = machine(torch.get_num_threads())
        spans: dict[str, list[float]] = {}
        loads: list[float] = []
        kept: dict[str, dict[str, Path]] = {}

        def side(label: str, work: Callable[[Path], float]) -> None:
            out = folder / label
            shutil.rmtree(out, ignore_errors=True)
            spans.setdefault(label, []).append(work(out))

        def loop(level: int | None) -> Callable[[Path], float]:
            def work(out: Path) -> float:
                load, seconds = plain_loop(facts.folder, jobs, out, level)
                loads.append(load)
                return load + seconds

            return work

        def ours(precision: str, rows: int | None = None) -> Callable[[Path], float]:
            def work(out: Path) -> float:
                seconds, kept[f"{precision}{rows or ''}"] = creatok(path, out, precision, rows)
                return seconds

            return work

        for _ in range(args.repeats):
            side("R", loop(None))
            side("R2", loop(1))
            side("fp32", ours("fp32"))
            side("bf16", ours("bf16"))
        side("fp32-class-1", ours("fp32", 1))
        given = ["--rows", str(args.rows), "--repeats", str(args.repeats), "--base", args.base]
        spans["R-spinning"] = [spinning_loop(given)]
        plain = [folder / "R" / f"{n:04d}.png" for n in range(len(jobs))]
        same_noise = [psnr(a, kept["fp32"][job.key]) for a, job in zip(plain, jobs, strict=True)]
        across = [psnr(kept["fp32"][job.key], kept["fp321"][job.key]) for job in jobs]
        renderer = Renderer(OpenBase({facts.digest: facts}, "cpu"))
        plan = make_plan(jobs, sheet="counted", batch_class=8)
        renderer.prepare(plan)
        for batch in plan.batches:
            renderer.render(batch)
    best = {label: min(values) for label, values in spans.items()}
    middle = {label: statistics.median(values) for label, values in spans.items()}
    report: dict[str, Any] = {
        "benchmark": "sample",
        "rows": args.rows,
        "steps": facts.steps,
        "guidance": facts.guidance,
        "batch_class": facts.batch_class(facts.size_px),
        "cores": cores(),
        "threads_R": torch.get_num_threads(),
        "lanes": local.build(local.Spec(), threads=facts.threads, device="cpu").lanes,
        "seconds_best": {k: round(v, 2) for k, v in best.items()},
        "seconds_median": {k: round(v, 2) for k, v in middle.items()},
        "seconds_load_R": round(min(loads), 2),
        "T1_R_over_bf16": round(best["R"] / best["bf16"], 2),
        "T1_median": round(middle["R"] / middle["bf16"], 2),
        "T2_R_over_fp32": round(best["R"] / best["fp32"], 2),
        "T2_median": round(middle["R"] / middle["fp32"], 2),
        "R2_over_fp32": round(best["R2"] / best["fp32"], 2),
        "R_spinning_over_bf16": round(best["R-spinning"] / best["bf16"], 2),
        "R_spinning_over_fp32": round(best["R-spinning"] / best["fp32"], 2),
        "psnr_db_R_fp32_min": round(min(same_noise), 1),
        "T12_psnr_db_class_8_and_1_min": round(min(across), 1),
        "T16_encodes_per_unique": renderer.counters.encodes / renderer.counters.unique,
        "machine_before": before,
        "machine_after": machine(torch.get_num_threads()),
    }
    write(f"sample-cores-{cores()}", report)


if __name__ == "__main__":
    main()
