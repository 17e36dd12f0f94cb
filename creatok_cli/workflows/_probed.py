"""`--batch-size probe`: how many pictures are best drawn together here, measured once and kept.

Two steps at 1, 2, 4, 8 and 16 pictures; the search ends where a picture gains less than 5 % or the
device is more than 85 % full. The figure becomes the batch class of new output folders only: a
folder keeps the class that it was begun with, because equal bytes need equal shapes.

Does not: probe unless asked, or draw a picture.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from creatok_cli import config, durable
from creatok_cli.domain import (
    BaseFacts,
    Event,
    Group,
    Job,
    Notice,
    Stage,
    storage_of,
    without_storage,
)
from creatok_cli.errors import CreatokError, Interrupted
from creatok_cli.hashing import canonical_json
from creatok_cli.plan.batches import make_plan
from creatok_cli.workflows._plan_file import group_name

if TYPE_CHECKING:
    from creatok_cli.backbones.base import Backbone

FILE = "probes.json"
SIZES = (1, 2, 4, 8, 16)
STEPS = 2
REPEATS = 3
"""The quickest counts: neighbours only ever slow a step down."""
LEAST_GAIN = 0.05
MOST_MEMORY = 0.85


@dataclass(frozen=True, slots=True)
class Probed:
    """What was measured of one kind of batch."""

    size: int
    """The best batch class."""
    seconds: Mapping[int, float] = field(default_factory=dict)
    """Per picture and two steps, by batch size; empty for a figure that was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a probe needs of the run."""

    facts: Mapping[str, BaseFacts]
    """By digest."""
    device: str = "auto"
    vram_gib: float | None = None
    is_stopping: Callable[[], bool] = lambda: False

    def sizes(
        self, jobs: Sequence[Job], known: Mapping[str, int]
    ) -> Generator[Event, None, dict[str, int]]:
        """Batch class by group name (see `_plan_file`) of the jobs whose group is not `known`.
        Torch is imported only if there are some.
        """
        fresh = {group_name(job): job for job in reversed(jobs) if group_name(job) not in known}
        if not fresh:
            return {}
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see `sample.Drawer`
        from creatok_cli.backbones.base import pick_device
        from creatok_cli.render import device_name

        device = pick_device(self.device)
        kept, found = _read(), dict[str, int]()
        for name, job in reversed(fresh.items()):
            mark = self._mark(job, device_name(device))
            probed = Probed(kept[mark]) if mark in kept else None
            if probed is None:
                yield Stage(name="probing", detail=f"{job.base} on {device}")
                probed = self._measured(job, device)
                kept[mark] = probed.size
                _write(kept)
            found[name] = probed.size
            yield Notice(level="info", message=_say(job, device, probed))
        return found

    def _mark(self, job: Job, device: str) -> str:
        """What a figure belongs to."""
        cap = [] if self.vram_gib is None else [self.vram_gib]
        shape = [list(job.size_px), storage_of(job.options), job.guidance > 1]
        return canonical_json([device, job.base_digest, job.dtype, *shape, *cap])

    def _measured(self, job: Job, device: str) -> Probed:
        import torch

        from creatok_cli._means import Means
        from creatok_cli.backbones.base import fixed_threads, own_threads
        from creatok_cli.render import OpenBase

        facts = self.facts[job.base_digest]
        batch = make_plan([job], sheet="probe", batch_class=1).batches[0]
        group = Group(
            base=job.base,
            base_digest=job.base_digest,
            dtype=job.dtype,
            storage=batch.group.storage,
        )
        backbone = OpenBase(self.facts, device)(group)
        if group.storage:
            backbone.store(group.storage)
        Means(self.vram_gib, "off").lodge(backbone, [batch], 1)
        threads = (facts.threads if device == "cpu" else 0) or own_threads()
        # A lone CPU thread has a clock of its own, which does not see its neighbours.
        is_lone = device == "cpu" and threads == 1
        ticks = time.thread_time if is_lone else time.perf_counter
        try:
            with fixed_threads(threads), torch.inference_mode():
                return best_size(timer(backbone, job, self.is_stopping, ticks))
        finally:
            for side in ("text", "prior", "image"):
                backbone.release(side)


def timer(
    backbone: Backbone, job: Job, is_stopping: Callable[[], bool], ticks: Callable[[], float]
) -> Callable[[int], float | None]:
    """Seconds of two steps of a job by batch size; None where memory is short or nearly so."""
    import torch

    from creatok_cli._trouble import free, kind_of
    from creatok_cli.backbones.base import Conditioning, reads_negative

    device, is_cuda = backbone.device, backbone.device.startswith("cuda")
    rows = backbone.condition([job], []).to("cpu")
    backbone.release("text")
    side = backbone.image
    assert side is not None
    options = without_storage(job.options)
    is_guided = reads_negative(job.guidance, options)

    def draw(size: int) -> float:
        cond, seeds = Conditioning.stack([rows] * size), [job.seed + row for row in range(size)]
        noise = side.noise(seeds, job.size_px)
        begun = ticks()
        for _ in side.denoise(
            noise,
            cond,
            negative=cond if is_guided else None,
            steps=STEPS,
            guidance=job.guidance,
            scheduler=job.scheduler,
            options=options,
            seeds=seeds,
        ):
            if is_stopping():
                raise Interrupted("stopped on request; the same command goes on")
        if is_cuda:
            torch.cuda.synchronize(device)
        return ticks() - begun

    def seconds(size: int) -> float | None:
        try:
            if is_cuda:
                torch.cuda.reset_peak_memory_stats(device)
            draw(size)  # kernels are chosen and memory is asked for at the first call
            best = min(draw(size) for _ in range(REPEATS))
        except Exception as error:
            if isinstance(error, CreatokError) or kind_of(error) != "oom":
                raise
            free(device)
            return None
        if is_cuda:
            total = torch.cuda.mem_get_info(device)[1]
            if torch.cuda.max_memory_reserved(device) > MOST_MEMORY * total:
                return None
        return best

    return seconds


def best_size(seconds: Callable[[int], float | None]) -> Probed:
    """The largest size up to which every doubling saves at least `LEAST_GAIN` of a picture's
    time.
    """
    each: dict[int, float] = {}
    best = SIZES[0]
    for size in SIZES:
        found = seconds(size)
        if found is None:
            break
        each[size] = found / size
        if size > best and each[size] > (1 - LEAST_GAIN) * each[best]:
            break
        best = size
    return Probed(best, each)


def _say(job: Job, device: str, probed: Probed) -> str:
    """`batches of 8 for 64x64 on cpu: 21, 14, 12, 11 and 11 ms per picture at 1, 2, 4, 8, 16`."""
    what = f"batches of {probed.size} for {job.size_px[0]}x{job.size_px[1]} of {job.base}"
    if not probed.seconds:
        return f"{what} on {device}, as measured before"
    times = ", ".join(f"{seconds * 1000:.3g}" for seconds in probed.seconds.values())
    sizes = ", ".join(map(str, probed.seconds))
    return f"{what} on {device}: two steps take {times} ms per picture at {sizes} together"


def _read() -> dict[str, int]:
    """Figures that were kept; a damaged file is measured anew."""
    with suppress(OSError, ValueError, AttributeError):
        text = (config.home() / "cache" / FILE).read_text(encoding="utf-8")
        found = json.loads(text)
        return {str(mark): size for mark, size in found.items() if size in SIZES}
    return {}


def _write(kept: Mapping[str, int]) -> None:
    """Keep figures; where that cannot be, they are measured again."""
    with suppress(OSError, CreatokError):
        folder = config.home() / "cache"
        durable.open_root(folder, create=True)
        data = json.dumps(kept, sort_keys=True, indent=1).encode()
        durable.replace_derived(folder, FILE, data, writer=durable.Writer(run=durable.new_run()))
