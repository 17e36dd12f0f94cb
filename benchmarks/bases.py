"""The real bases at full size with random weights: `sample` against a plain diffusers loop.

    python benchmarks/bases.py make sd3-medium DIR [--tiny] [--no-t5]
    python benchmarks/bases.py speed sd3-medium DIR [--rows 16] [--repeats 3] [--side 512] [--few]
    python benchmarks/bases.py memory sd3-medium DIR [--side 1024]
    python benchmarks/bases.py computed

`make` writes DIR/<repository> (the others do so where it is missing). `speed` alternates R, R2 and
ours (R, R2, ours, R, ...) with the same noise, steps and number format, in one process:

- R: one `pipe(...)` call per picture, eager, default PNG level (`_plain_loop.py`);
- R2: the same with the denoiser compiled and PNG level 1;
- ours: `creatok sample` over a sheet, words to files, with its own batches, compiled as R2 is.

Every side loads its weights anew. What is compared is the time per picture once everything is warm
(T3, T5, T6, T7), and the whole run beside it; T8 is the busy share that `sample` reports, T12 the
PSNR between batch classes. `memory` draws one batch on each rung of the ladder, each in a fresh
process. `computed` writes what the same rungs need by the headers and estimates that creatok goes
by. T10 is `learn_token_speed.py --device cuda --encoders lg`.

Does not: measure quality; random weights draw noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when torch is imported; the workflow sets the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from _base_folder import write_base
from _base_memory import computed, measured
from _full_size import BASES, Base
from _plain_loop import Loop, plain_latents, plain_loop, wait
from _report import add, machine, write
from PIL import Image, ImageChops, ImageStat

from creatok_cli import registry
from creatok_cli.backbones._diffusers import prepare_libraries
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.base import pick_device
from creatok_cli.domain import BaseFacts, ImageWritten, Job, Notice, Profile, Summary
from creatok_cli.executors import local
from creatok_cli.plan.expand import expand
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.workflows.sample import SampleRequest, sample

FEW = {"steps": 4, "guidance": 1.0}
"""What few-step models take."""
TINY = {"side": 64, "steps": 4}
EQUAL_ROWS, LATENT_ROWS = 8, 2
"""Pictures drawn again for the comparisons beside the times."""
SPEED_BASES = [name for name, base in BASES.items() if base.prior is None]
"""Kandinsky draws fresh noise in every step: its pictures cannot be told to be the same."""


@dataclass(frozen=True, slots=True)
class Task:
    """One comparison."""

    name: str
    base: Base
    folder: Path
    facts: BaseFacts
    jobs: Sequence[Job]
    sheet: Path
    device: str
    dtype: str
    rows: int
    """The batch class of ours."""
    lanes: int
    """Batches that ours draws at a time."""
    is_compiled: bool


@dataclass(frozen=True, slots=True)
class Ours:
    """What one run of `sample` took, in seconds, and what it drew."""

    whole_s: float
    first_s: float
    """Until the files of the first batch of every lane were there: loading, words, compiling."""
    rest_s: float
    """All batches after these."""
    files: Mapping[str, Path]
    told: Sequence[str]
    profile: Profile


def sheet_of(folder: Path, base: Path, rows: int, settings: Mapping[str, Any]) -> Path:
    """A sheet of `rows` pictures over `rows / 4` prompts."""
    animals = [
        "pig",
        "snake",
        "owl",
        "dragon",
        "lion",
        "fox",
    ]
    count = -(-rows // 4)
    names = [f"{'red ' * (n // len(animals))}{animals[n % len(animals)]}" for n in range(count)]
    job = {"id": "row", "prompt": "a photo of a {animal}", "matrix": {"animal": names}, "count": 4}
    file = folder / f"sheet-{rows}.yaml"
    told = {"version": 1, "base": str(base), "defaults": dict(settings), "jobs": [job]}
    file.write_text(json.dumps(told))
    return file


def jobs_of(sheet: Path, facts: BaseFacts) -> list[Job]:
    """The jobs of a sheet over one base."""
    return list(expand(load_sheet(str(sheet)), {facts.name: facts}, {}))


def ours(task: Task, out: Path, *, sheet: Path | None = None, rows: int | None = None) -> Ours:
    """One run of `sample` into an empty folder. When a picture was there says its file: events
    come out in bursts.
    """
    shutil.rmtree(out, ignore_errors=True)
    rows = rows or task.rows
    began = time.time()
    files: dict[str, Path] = {}
    told: list[str] = []
    profile = None
    request = SampleRequest(
        sheet=str(sheet or task.sheet),
        out=out,
        device=task.device,
        batch_size=rows,
        compiling="on" if task.is_compiled else "off",
        profile=True,
    )
    for event in sample(request):
        if isinstance(event, ImageWritten):
            files[event.key] = out / event.file
        if isinstance(event, Notice):
            told.append(event.message)
        if isinstance(event, Profile):
            profile = event
        if isinstance(event, Summary) and event.code:
            raise SystemExit(f"sample ended with {event}")
    assert profile is not None
    whole = time.time() - began
    ends = sorted(file.stat().st_mtime for file in files.values())
    first = ends[min(rows * task.lanes, len(ends)) - 1]
    return Ours(whole, first - began, ends[-1] - first, files, told, profile)


def psnr(a: Path, b: Path) -> float:
    """Decibels over all channels, 100 for equal pictures."""
    left, right = Image.open(a).convert("RGB"), Image.open(b).convert("RGB")
    squares = ImageStat.Stat(ImageChops.difference(left, right)).rms
    mean = sum(value**2 for value in squares) / 3
    return 100.0 if mean == 0 else 10 * math.log10(255**2 / mean)


def latent_difference(task: Task) -> dict[str, float]:
    """How far our latents are from the pipeline's, batch class 1, largest and by deviation."""
    jobs = list(task.jobs[:LATENT_ROWS])
    with torch.inference_mode():
        theirs = plain_latents(task.base, task.folder, jobs, device=task.device, dtype=task.dtype)
        drawn = torch.cat([our_latents(task, job) for job in jobs])
    apart = (drawn - theirs).abs()
    return {
        "largest": float(f"{apart.max().item():.2g}"),
        "largest_by_deviation": float(f"{(apart.max() / theirs.std()).item():.2g}"),
        "share_equal": round((apart == 0).float().mean().item(), 4),
    }


def our_latents(task: Task, job: Job) -> torch.Tensor:
    """[1 c h w] f32 on the CPU after the last step."""
    module = registry.get("backbones", task.facts.backbone)
    backbone = module.build(module.Spec(), task.facts, device=task.device, dtype=task.dtype)
    cond, negative = (backbone.text.encode([text], ()) for text in (job.prompt, ""))
    backbone.release("text")
    image = backbone.image
    for latents in image.denoise(  # noqa: B007 - the last one counts
        image.noise([job.seed], job.size_px),
        cond,
        negative=negative if job.guidance > 1 else None,
        steps=job.steps,
        guidance=job.guidance,
        scheduler=job.scheduler,
        options=(),
        seeds=[job.seed],
    ):
        pass
    return latents.float().cpu()


def card(device: str) -> dict[str, Any]:
    """The GPU, its clocks and power limit; nothing on a CPU."""
    if not device.startswith("cuda"):
        return {"device": "cpu"}
    wanted = "driver_version,clocks.sm,clocks.max.sm,power.limit,memory.total"
    line = ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    return {"device": torch.cuda.get_device_name(device), wanted: done.stdout.strip()}


def make_task(args: argparse.Namespace, place: Path) -> Task:
    """Folder, sheet and jobs of a comparison."""
    base, device = BASES[args.family], pick_device(args.device)
    is_tiny = args.tiny or (Path(args.dir) / "tiny").is_file()
    dtype = args.dtype or ("fp32" if device == "cpu" else base.dtype)
    folder = make(args, device, dtype)
    facts = resolve(str(folder))
    settings: dict[str, Any] = {
        "size": args.side or (TINY["side"] if is_tiny else base.side_px),
        "steps": args.steps or (TINY["steps"] if is_tiny else base.steps),
        "guidance": base.guidance,
        "dtype": dtype,
    }
    settings |= FEW if args.few else {}
    if args.few and base.backbone == "flux":
        settings["guidance"] = base.guidance  # an input there: it costs nothing
    sheet = sheet_of(place, folder, args.rows, settings)
    jobs = jobs_of(sheet, facts)
    rows = args.batch_size or facts.batch_class(jobs[0].size_px)
    lanes = local.build(local.Spec(), threads=facts.threads, device=device).lanes
    if args.what == "speed" and len(jobs) < 2 * rows * lanes:
        raise SystemExit(f"{len(jobs)} pictures are no steady state: --rows {4 * rows * lanes}")
    return Task(
        args.family,
        base,
        folder,
        facts,
        jobs,
        sheet,
        device,
        dtype,
        rows,
        lanes,
        args.compile == "on" or (args.compile == "auto" and device != "cpu"),
    )


def make(args: argparse.Namespace, device: str, dtype: str) -> Path:
    """The folder of a base, written where it is missing."""
    place = Path(args.dir).resolve()
    place.mkdir(parents=True, exist_ok=True)
    if args.tiny:
        (place / "tiny").touch()
    is_tiny = (place / "tiny").is_file()
    return write_base(
        BASES[args.family],
        place,
        is_tiny=is_tiny,
        dtype="fp32" if is_tiny else dtype,
        device=device,
        has_t5=not args.no_t5,
    )


def speed(args: argparse.Namespace) -> None:
    """R, R2 and ours, alternating."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        task = make_task(args, place)
        before = machine(torch.get_num_threads())
        loops: dict[str, list[Loop]] = {"R": [], "R2": []}
        runs: list[Ours] = []
        for _ in range(args.repeats):
            for side, level, is_compiled in (("R", None, False), ("R2", 1, task.is_compiled)):
                out = place / side
                shutil.rmtree(out, ignore_errors=True)
                loops[side].append(
                    plain_loop(
                        task.base,
                        task.folder,
                        task.jobs,
                        out,
                        device=task.device,
                        dtype=task.dtype,
                        level=level,
                        is_compiled=is_compiled,
                    )
                )
                free(task.device)
            runs.append(ours(task, place / "ours"))
            free(task.device)
        report = summed(task, loops, runs, args) | beside(task, place, runs[-1])
    report["machine_before"] = before
    report["machine_after"] = machine(torch.get_num_threads())
    keep(args, report, "speed", task)


def summed(
    task: Task, loops: Mapping[str, Sequence[Loop]], runs: Sequence[Ours], args: argparse.Namespace
) -> dict[str, Any]:
    """Times per picture and in whole, best and median, and their ratios."""
    count, after_first = len(task.jobs), len(task.jobs) - task.rows * task.lanes
    warm = {side: [loop.rest_s / count for loop in each] for side, each in loops.items()}
    warm["ours"] = [run.rest_s / after_first for run in runs]
    whole = {side: [l.load_s + l.rest_s for l in each] for side, each in loops.items()}  # noqa: E741
    whole["ours"] = [run.whole_s for run in runs]
    best = {side: min(each) for side, each in warm.items()}
    middle = {side: statistics.median(each) for side, each in warm.items()}
    job = task.jobs[0]
    return {
        "benchmark": "bases-speed",
        "family": task.name,
        "repository": task.base.repo,
        "is_tiny": (Path(args.dir) / "tiny").is_file(),
        **card(task.device),
        "dtype": task.dtype,
        "size_px": job.size_px[0],
        "steps": job.steps,
        "guidance": job.guidance,
        "scheduler": job.scheduler,
        "pictures": count,
        "batch_class": task.rows,
        "lanes": task.lanes,
        "compiled": {"R": False, "R2": task.is_compiled, "ours": task.is_compiled},
        "seconds_per_picture_best": {side: round(span, 4) for side, span in best.items()},
        "seconds_per_picture_median": {side: round(span, 4) for side, span in middle.items()},
        "seconds_whole_best": {side: round(min(each), 2) for side, each in whole.items()},
        "seconds_load_best": {s: round(min(x.load_s for x in e), 2) for s, e in loops.items()},
        "seconds_first": {
            **{s: round(min(x.first_s for x in e), 2) for s, e in loops.items()},
            "ours": round(min(run.first_s for run in runs), 2),
        },
        "R_over_ours": round(best["R"] / best["ours"], 2),
        "R_over_ours_median": round(middle["R"] / middle["ours"], 2),
        "R2_over_ours": round(best["R2"] / best["ours"], 2),
        "R2_over_ours_median": round(middle["R2"] / middle["ours"], 2),
        "R_over_ours_whole": round(min(whole["R"]) / min(whole["ours"]), 2),
        "T8_busy": max(run.profile.busy for run in runs),
        "stages_s": {name: seconds for name, seconds, _ in runs[-1].profile.stages},
        "queued_at_most": runs[-1].profile.queued,
        "notices": list(runs[-1].told),
    }


def beside(task: Task, place: Path, run: Ours) -> dict[str, Any]:
    """What says that the pictures are the same: latents, PSNR, and PSNR between batch classes."""
    plain = [place / "R" / f"{n:04d}.png" for n in range(len(task.jobs))]
    same = [psnr(a, run.files[job.key]) for a, job in zip(plain, task.jobs, strict=True)]
    count = min(EQUAL_ROWS, len(task.jobs))
    head = json.loads(task.sheet.read_text())
    head["jobs"][0]["matrix"]["animal"] = head["jobs"][0]["matrix"]["animal"][: -(-count // 4)]
    short = place / task.sheet.name.replace("sheet", "short")
    short.write_text(json.dumps(head))
    alone = ours(task, place / "class-1", sheet=short, rows=1)
    across = [psnr(path, run.files[key]) for key, path in alone.files.items() if key in run.files]
    return {
        "latents_ours_and_R": latent_difference(task),
        "psnr_db_R_and_ours_min": round(min(same), 1),
        "psnr_db_R_and_ours_median": round(statistics.median(same), 1),
        "T12_psnr_db_class_and_1_min": round(min(across), 1),
    }


def free(device: str) -> None:
    """Give back what the last side held."""
    if device.startswith("cuda"):
        wait(device)
        torch.cuda.empty_cache()


def keep(args: argparse.Namespace, report: Mapping[str, Any], what: str, task: Task) -> None:
    """Into results/: those of several bases stand in one file."""
    device = "cpu" if task.device == "cpu" else torch.cuda.get_device_name(task.device)
    scale = "tiny-" if (Path(args.dir) / "tiny").is_file() else ""
    name = f"bases-{what}-{scale}{device.lower().replace(' ', '-')}"
    key = f"{task.name} {task.jobs[0].size_px[0]}px" + (" few" if args.few else "")
    add(name, key, report)


def memory(args: argparse.Namespace) -> None:
    """Peak memory on each rung."""
    with tempfile.TemporaryDirectory() as name:
        task = make_task(args, Path(name))
        before = machine(torch.get_num_threads())
        job, prior = task.jobs[0], task.base.prior
        folders = [task.folder]
        folders += [task.folder.with_name(prior.repo.rpartition("/")[2])] if prior else []
        report = {
            "benchmark": "bases-memory",
            "family": task.name,
            "repository": task.base.repo,
            **card(task.device),
            "dtype": task.dtype,
            "size_px": job.size_px[0],
            "batch_class": task.rows,
            "rungs": measured(folders, job, task.rows, device=task.device, dtype=task.dtype),
            "machine_before": before,
            "machine_after": machine(torch.get_num_threads()),
        }
    keep(args, report, "memory", task)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("make", "speed", "memory", "computed"))
    parser.add_argument("family", nargs="?", choices=sorted(BASES))
    parser.add_argument("dir", nargs="?", help="where the folders of bases are")
    parser.add_argument("--tiny", action="store_true", help="a size that a CPU draws in a moment")
    parser.add_argument("--no-t5", action="store_true", help="leave T5 out where it may be missing")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--side", type=int, help="pixels")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--few", action="store_true", help="4 steps without guidance")
    parser.add_argument("--rows", type=int, default=16, help="pictures")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    args = parser.parse_args()
    prepare_libraries()
    if args.what == "computed":
        write("bases-memory-computed", computed())
        return
    if args.family is None or args.dir is None:
        parser.error(f"{args.what} needs a family and a folder")
    if args.what == "make":
        device = pick_device(args.device)
        print(make(args, device, args.dtype or BASES[args.family].dtype))
    elif args.what == "memory":
        memory(args)
    elif args.family not in SPEED_BASES:
        parser.error(f"speed is for {', '.join(SPEED_BASES)}")
    else:
        speed(args)


if __name__ == "__main__":
    main()
