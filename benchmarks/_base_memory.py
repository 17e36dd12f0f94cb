"""Memory of the real bases on each rung of the ladder: computed from the data, or measured.

`computed` asks `creatok_cli.backbones._memory` what it would ask of full-size folders; the counts
that it reads from headers come from models on the meta device here. `measured` draws one batch per
rung, each in a fresh process, and puts creatok's own figure beside the peak.

Does not: draw well, or keep what it drew.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _full_size import BASES, Base, Part, build, config_json
from _meta_base import written

from creatok_cli import registry
from creatok_cli.backbones import _memory
from creatok_cli.backbones._memory import Needs, needs
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.base import Load, Room, Rung
from creatok_cli.domain import Job

RUNGS: tuple[Rung, ...] = ("full", "offload", "group")
FP8 = "fp8"


@contextmanager
def as_if_full_size(base: Base) -> Iterator[list[str]]:
    """Folders of a base, with that of its prior, in which `_memory` finds the full-size weights."""
    with tempfile.TemporaryDirectory() as name:
        bases = [each for each in (base, base.prior) if each is not None]
        folders = {str(Path(name) / str(n)): each for n, each in enumerate(bases)}
        for folder, each in folders.items():
            write_configs(each, Path(folder))
        with (
            patch.object(_memory, "_parts", lambda folder: tuple(folders[folder].parts)),
            patch.object(
                _memory, "_elements", lambda folder, part: counted(folders[folder].parts[part])[1]
            ),
        ):
            yield list(folders)


def write_configs(base: Base, folder: Path) -> None:
    """What adapters and estimates read before weights: configs of models and scheduler."""
    for part, model in base.parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config_json(model)))
    (folder / "scheduler").mkdir(exist_ok=True)
    kind, settings = base.scheduler
    told = {"_class_name": kind, **settings}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    index = {"_class_name": base.pipeline}
    (folder / "model_index.json").write_text(json.dumps(index))


def counted(part: Part) -> tuple[int, Mapping[str, int]]:
    """(parameters, all elements by block) as a file's header would tell them; what is in no block
    under the empty name.
    """
    return _counted(part.kind, json.dumps(dict(part.config)))


@cache
def _counted(kind: str, config: str) -> tuple[int, Mapping[str, int]]:
    told = Part(kind=kind, config=json.loads(config), parameters=0, tiny={})
    with torch.device("meta"):
        model = build(told)
    held = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    sizes = {id(t): t.numel() for t in (*model.parameters(), *model.buffers())}
    found: dict[str, int] = {}
    for key, name in held.items():
        block = re.match(r"[A-Za-z_]+\.\d+(?=\.)", name)
        place = block.group() if block else ""
        found[place] = found.get(place, 0) + sizes[key]
    return sum(parameter.numel() for parameter in model.parameters()), found


def computed() -> dict[str, Any]:
    """What every base needs in 16 bit, in GiB, one picture of its usual size at a time."""
    report: dict[str, Any] = {
        "benchmark": "bases-memory-computed",
        "note": "weights are counted, what layers write is estimated; not yet measured on a card",
    }
    for name, base in BASES.items():
        load = Load((base.side_px, base.side_px), 1, is_guided=base.backbone != "flux")
        item = "fp16" if base.dtype == "fp16" else "bf16"
        with as_if_full_size(base) as folders:
            plain, small = needs(folders, item, load), needs(folders, item, load, FP8)
            drawing, decoding = written(name, base, folders[0], 1)
        assert plain is not None
        assert small is not None
        report[name] = {
            "repository": base.repo,
            "dtype": item,
            "size_px": base.side_px,
            "parameters": elements(base),
            "weights_gib": {
                "text_encoders": gib(plain.towers + plain.t5),
                "of_it_t5": gib(plain.t5),
                "denoiser": gib(plain.denoiser),
                "denoiser_fp8": gib(small.denoiser),
                "decoder_and_prior": gib(sum(plain.others)),
            },
            "writes_gib": {
                "denoiser": {"estimated": gib(plain.drawing), "counted": gib(drawing)},
                "decoder": {"estimated": gib(plain.decoding), "counted": gib(decoding)},
            },
            "encoding_gib": {rung: gib(plain.words(rung)) for rung in ("full", "group")},
            "drawing_gib": rungs(plain),
            "drawing_gib_fp8": rungs(small),
        }
    return report


def elements(base: Base) -> int:
    """All that a base holds, with its prior."""
    own = sum(part.elements for part in base.parts.values())
    return own + (elements(base.prior) if base.prior else 0)


def rungs(found: Needs) -> dict[str, float]:
    """GiB on each rung."""
    return {rung: gib(found.picture(rung)) for rung in RUNGS}


def gib(size: int) -> float:
    """With two digits."""
    return round(size / 2**30, 2)


@dataclass(frozen=True, slots=True)
class Probe:
    """One batch on one rung, for a fresh process."""

    folder: str
    job: Job
    rows: int
    device: str
    dtype: str
    room: Room
    storage: str


def measured(
    folders: Sequence[Path], job: Job, rows: int, *, device: str, dtype: str
) -> dict[str, dict[str, Any]]:
    """Peak GiB of words and picture by rung, beside what creatok expects. On a CPU, where rungs
    move nothing, the resident memory that a process adds.
    """
    found = {}
    load = Load(job.size_px, rows, is_guided=job.guidance > 1)
    places = [str(folder) for folder in folders]
    for storage in ("", FP8):
        expected = needs(places, dtype, load, storage)
        for rung in RUNGS:
            room = Room(rung, "group" if rung == "group" else "full")
            probe = Probe(places[0], job, rows, device, dtype, room, storage)
            line = [sys.executable, __file__]
            done = subprocess.run(line, input=pickle.dumps(probe), capture_output=True, check=False)
            name = f"{rung} {storage}".strip()
            if done.returncode:
                found[name] = {"failed": done.stderr.decode()[-300:]}
                continue
            found[name] = json.loads(done.stdout.splitlines()[-1])
            if expected is not None:
                found[name]["expected_words_gib"] = gib(expected.words(room.words))
                found[name]["expected_picture_gib"] = gib(expected.picture(rung))
    return found


def draw(probe: Probe) -> dict[str, Any]:
    """Words, then one batch; what each took at most."""
    facts = resolve(probe.folder)
    module = registry.get("backbones", facts.backbone)
    backbone = module.build(module.Spec(), facts, device=probe.device, dtype=probe.dtype)
    if probe.storage:
        backbone.store(probe.storage)
    backbone.fit(probe.room)
    peak = Peak(probe.device)
    with torch.inference_mode():
        cond = backbone.text.encode([probe.job.prompt] * probe.rows, ())
        words = peak.taken()
        backbone.release("text")
        peak.again()
        image, job = backbone.image, probe.job
        seeds = list(range(probe.rows))
        for latents in image.denoise(  # noqa: B007 - the last one counts
            image.noise(seeds, job.size_px),
            cond,
            negative=cond if job.guidance > 1 else None,
            steps=2,
            guidance=job.guidance,
            scheduler=job.scheduler,
            options=(),
            seeds=seeds,
        ):
            pass
        denoised = peak.taken()
        pixels = image.decode(latents)
        whole = peak.taken()
    return {
        "words_gib": gib(words),
        "denoising_gib": gib(denoised),
        "picture_gib": gib(whole),
        "is_finite": bool(pixels.isfinite().all()),
    }


class Peak:
    """Most memory since a moment: what the allocator handed out on CUDA, resident memory else."""

    def __init__(self, device: str) -> None:
        self._is_cuda, self._device = device.startswith("cuda"), device
        self._base = 0 if self._is_cuda else self._resident()
        self.again()

    def again(self) -> None:
        """Count from now on."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")

    def taken(self) -> int:
        """Bytes, above what the process had at the start."""
        if self._is_cuda:
            return int(torch.cuda.max_memory_allocated(self._device))
        return max(0, self._resident() - self._base)

    @staticmethod
    def _resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(draw(pickle.loads(sys.stdin.buffer.read()))))
