"""Render, the heart: noise -> condition -> denoise -> decode -> check -> pixels. Read this first.

A Renderer gets whole batches and gives back one outcome per job. It draws every batch at its fixed
size: a tail is padded with copies of its last job, because equal bytes need equal shapes (at a
fixed size, order, neighbours and padding change no byte).

When something breaks: a picture that is not finite gets one retry with an fp32 decoder; a batch
that raises is drawn again member by member in padded batches, so that only the culprit fails; out
of memory halves the batch; a sticky device error stops the run. Nothing black or empty is ever
given out.

Several threads may draw with one Renderer. What they share changes only while one of them is alone
(another base is opened, prompts are encoded, a side is read); batches of light bases are then drawn
side by side, those of bases that want all cores one at a time.

Does not: know adapters, write files, or decide what to draw.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Protocol

import torch
from PIL.Image import Image

from creatok_cli import __version__, registry
from creatok_cli._conditions import Conditions, Counters, Shelf, texts
from creatok_cli._develop import develop, to_image
from creatok_cli._gate import Gate
from creatok_cli._means import Means
from creatok_cli._stages import CONDITION, DENOISE, LOAD, Stages, timed
from creatok_cli._starts import Starts
from creatok_cli._trouble import answers, free, kind_of, say, with_room
from creatok_cli.backbones.base import (
    Backbone,
    Conditioning,
    Fit,
    ImageSide,
    Room,
    fixed_threads,
    own_threads,
    reads_negative,
)
from creatok_cli.domain import (
    BaseFacts,
    Batch,
    Failed,
    FailureKind,
    Group,
    Job,
    Notice,
    Options,
    Plan,
    Provenance,
    Rendered,
    Scalar,
    without_storage,
)
from creatok_cli.errors import (
    CreatokError,
    DeviceLost,
    DigestMismatch,
    InputError,
    Interrupted,
    TokenMissing,
)
from creatok_cli.tokens.lora import read_lora

Outcome = Rendered | Failed


class Stop(Protocol):
    """What a signal handler sets: `threading.Event` or alike."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class OpenBase:
    """Opens the backbone of a group through its plug-in; plain data, so that it can be pickled."""

    bases: Mapping[str, BaseFacts]
    """By digest."""
    device: str
    """As `backbones.base.pick_device` says it."""

    def __call__(self, group: Group) -> Backbone:
        facts = self.bases[group.base_digest]
        module = registry.get("backbones", facts.backbone)
        backbone: Backbone = module.build(
            module.Spec(), facts, device=self.device, dtype=group.dtype
        )
        return backbone


@dataclass(slots=True)
class _Open:
    """The base that is open. Changed only by a thread that is alone."""

    key: tuple[object, ...]
    backbone: Backbone
    conditions: Conditions
    fit: Fit
    is_stored: bool
    """Whether weights are cast while they work, which only one thread at a time may do."""
    side: ImageSide | None = None
    """None until it is read, and while encoding may have dropped it."""

    @property
    def is_light(self) -> bool:
        """Whether several batches may be drawn at once."""
        is_still = not self.is_stored and self.fit.room.rung == "full"
        return self.backbone.facts.threads > 0 and is_still

    @property
    def compiled(self) -> tuple[tuple[str, str], ...]:
        """What compiling adds to the stack that decides bytes."""
        return (("compiled", "blocks"),) if self.fit.room.is_compiled else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """How a picture came to be, where memory was short."""
        rung = self.fit.room.rung
        return () if rung == "full" else (f"memory: {rung}",)


class Renderer:
    """Draws batches and keeps the last base open. Pickles without what is open and without the
    stop.

    `tokens` maps artefact ids to token files, `loras` digests to LoRA files, `pictures` digests to
    the pictures that jobs begin from; `threads` fixes the CPU threads of torch, None leaves them to
    the facts of the base, else to torch's choice where the Renderer is made. Without `means` bases
    live wholly on the device; `stages` are timed where they are given.
    """

    def __init__(
        self,
        open_backbone: Callable[[Group], Backbone],
        *,
        device: str = "cpu",
        tokens: Mapping[str, str] | None = None,
        loras: Mapping[str, str] | None = None,
        pictures: Mapping[str, str] | None = None,
        threads: int | None = None,
        stop: Stop | None = None,
        counters: Counters | None = None,
        means: Means | None = None,
        stages: Stages | None = None,
    ) -> None:
        self._open_backbone, self._device, self._files = open_backbone, device, dict(tokens or {})
        self._loras, self._pictures = dict(loras or {}), dict(pictures or {})
        self._threads, self._stop, self._own = threads, stop, own_threads()
        self._means, self._stages = means, stages
        self._plan: Plan | None = None
        self._pictures_of: dict[tuple[object, ...], int] = {}
        self.counters = counters or Counters()
        self._start()

    def _start(self) -> None:
        self._shelf, self._starts = Shelf(self._files), Starts(self._pictures)
        self._gate = Gate()
        self._open: _Open | None = None
        self._smaller: dict[Group, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_open_backbone", "_device", "_files", "_loras", "_threads", "_own", "_plan")
        kept = (*kept, "_pictures", "_pictures_of", "_means", "counters")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _stop=None, _stages=None)
        self._start()

    def prepare(self, plan: Plan, whole: Plan | None = None) -> None:
        """Tell what will be drawn, so that prompts are encoded together and the encoders dropped,
        and of which plan it is a part: that one decides what is worth compiling. Costs nothing.
        """
        self._plan = plan
        self._pictures_of = {}
        for batch in (whole or plan).batches:
            key = _open_key(batch.group)
            self._pictures_of[key] = self._pictures_of.get(key, 0) + len(batch.jobs)

    def check(self, plan: Plan) -> tuple[Notice, ...]:
        """How bases will live in memory, and prompts that will be cut. Opens tokenizers and token
        files, reads no weights. Raises OutOfMemory where a base fits in no way.
        """
        with self._gate.alone(-1):
            return tuple(self._cuts(plan))

    def _cuts(self, plan: Plan) -> Iterator[Notice]:
        told: set[tuple[str, str]] = set()
        lodged: set[tuple[object, ...]] = set()
        said: set[str] = set()
        for batch in plan.batches:
            fresh = [
                text
                for job in batch.jobs
                for text in texts(job)
                if (batch.group.base_digest, text) not in told
            ]
            told.update((batch.group.base_digest, text) for text in fresh)
            one = self._opened(batch.group)
            backbone = one.backbone
            if one.key not in lodged and one.fit.message:
                level: Literal["warning", "info"] = "warning" if one.fit.is_tight else "info"
                yield Notice(level=level, message=one.fit.message)
            lodged.add(one.key)
            if fresh and backbone.text is not None:
                tokens = self._shelf.tokens(batch.group.tokens, backbone)
                for text, cut in zip(fresh, backbone.text.cut(fresh, tokens), strict=True):
                    if cut and text not in said:
                        said.add(text)
                        message = (
                            f"prompt too long: its end {cut[:60]!r} is not read ({text[:40]!r}...)"
                        )
                        yield Notice(level="warning", message=message)

    def render(self, batch: Batch) -> list[Outcome]:
        """One outcome per job, in the order of the batch.

        Raises Interrupted between steps when the stop is set, DeviceLost, OutOfMemory when the base
        itself does not fit, and those errors of sheet or artefact that no other job would escape.
        """
        self._heed()
        with self._drawing(batch, alone=False) as (one, is_alone):
            outcomes = self._outcomes(one, batch, may_halve=is_alone)
        if outcomes is None:
            # Others took memory, too: without them the whole batch may fit.
            free(self._device)
            with self._drawing(batch, alone=True) as (one, _):
                outcomes = self._outcomes(one, batch, may_halve=True)
        assert outcomes is not None
        self.counters.add(batches=1)
        return outcomes

    @contextmanager
    def _drawing(self, batch: Batch, *, alone: bool) -> Iterator[tuple[_Open, bool]]:
        """Everything ready for a batch until the block ends, and whether nobody else draws."""
        if not alone:
            with self._gate.shared(batch.index):
                one = self._open
                if one is not None and self._is_ready(one, batch):
                    with fixed_threads(self._count(one)):
                        yield one, False
                    return
        with self._gate.alone(batch.index) as share:
            one = self._opened(batch.group)
            alone = alone or not one.is_light
            with fixed_threads(self._count(one)):
                self._furnish(one, batch)
                if not alone:
                    share()
                yield one, alone

    def _is_ready(self, one: _Open, batch: Batch) -> bool:
        """Whether a batch can be drawn beside others without changing anything."""
        is_open = one.is_light and one.side is not None
        return is_open and one.key == _open_key(batch.group) and one.conditions.holds(batch.jobs)

    def _furnish(self, one: _Open, batch: Batch) -> None:
        """See that prompts are encoded and the image side is there. Only alone."""
        if not one.conditions.holds(batch.jobs):
            one.side = None
            with timed(self._stages, CONDITION):
                one.conditions.fill(batch.jobs)
        if one.side is None:
            backbone = one.backbone
            with timed(self._stages, LOAD):
                one.side = with_room(
                    lambda: backbone.image, lambda: backbone.release("text"), self._device
                )
        if one.side is None:
            raise InputError(f"base {one.backbone.facts.name} has no image side")

    def _count(self, one: _Open) -> int:
        """CPU threads that draw one batch of a base."""
        light = one.backbone.facts.threads if self._device == "cpu" else 0
        return self._threads or light or self._own

    def _outcomes(self, one: _Open, batch: Batch, *, may_halve: bool) -> list[Outcome] | None:
        """One outcome per job, or None when memory is short and the batch may not be halved."""
        outcomes: dict[int, Outcome] = {}
        no_start = "" if one.backbone.facts.can_start else "this base cannot start from a picture"
        for index, job in enumerate(batch.jobs):
            message = one.conditions.fault(job) or (no_start if job.init_image else "")
            if message:
                outcomes[index] = _failed(job, "error", message)
        sound = [index for index in range(len(batch.jobs)) if index not in outcomes]
        size = min(batch.batch_class, self._smaller.get(batch.group, batch.batch_class))
        parts = _cut(sound, size)
        while parts:
            part = parts.pop(0)
            jobs = [batch.jobs[index] for index in part]
            drawn = self._draw_safely(one, jobs, size, batch.batch_class)
            if drawn is None and not may_halve:
                return None
            if drawn is None and size > 1:
                size = self._smaller[batch.group] = size // 2
                parts = _cut([index for each in (part, *parts) for index in each], size)
                continue
            no_room = (
                "out of memory even alone: draw smaller pictures, or use a device with more memory"
            )
            outcomes.update(
                zip(part, drawn or [_failed(job, "oom", no_room) for job in jobs], strict=True)
            )
        return [outcomes[index] for index in range(len(batch.jobs))]

    def _opened(self, group: Group) -> _Open:
        """The base of a group; another one is closed first. Only alone."""
        key = _open_key(group)
        if self._open is None or self._open.key != key:
            worn = [(self._lora(digest), scale) for digest, scale in group.weights]
            if self._open is not None:
                for side in ("text", "image"):
                    self._open.backbone.release(side)
                self._open = None
            backbone = self._open_backbone(group)
            if worn:
                backbone.wear(worn)
            if group.storage:
                backbone.store(group.storage)
            planned = self._plan.batches if self._plan else ()
            batches = [batch for batch in planned if _open_key(batch.group) == key]
            fit = Fit(Room())
            if self._means is not None:
                fit = self._means.lodge(backbone, batches, self._pictures_of.get(key, 0))
            coming = (job for batch in batches for job in batch.jobs)
            conditions = Conditions(backbone, self._shelf, self.counters, coming, self._heed)
            self._open = _Open(key, backbone, conditions, fit, bool(group.storage))
            self.counters.add(opened=1)
        return self._open

    def _lora(self, digest: str) -> str:
        """The file of a LoRA, if it is still the planned one."""
        path = self._loras.get(digest)
        if path is None:
            raise TokenMissing(f"the LoRA {digest[:19]} was not loaded: draw its sheet")
        if read_lora(path).digest != digest:
            raise DigestMismatch(f"{path}: changed since the plan was made; run the command again")
        return path

    def _draw_safely(
        self, one: _Open, jobs: list[Job], size: int, batch_class: int, *, shaken: bool = False
    ) -> list[Outcome] | None:
        """Outcomes of jobs drawn at `size`, or None when memory is short. `shaken`: the device has
        just failed.
        """
        try:
            return self._draw(one, jobs, size, batch_class)
        except CreatokError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one picture must not end the run
            trouble, message = kind_of(error), say(error)
        # Outside the handler: the traceback no longer holds the tensors of the failed attempt.
        free(self._device)
        if trouble == "oom":
            return None
        if trouble == "device":
            if shaken or not answers(self._device):
                raise DeviceLost(f"{self._device} keeps failing: {message}; run the command again")
            return self._draw_safely(one, jobs, size, batch_class, shaken=True)
        if len(jobs) == 1:
            return [_failed(jobs[0], "error", message)]
        outcomes: list[Outcome] = []
        for job in jobs:
            alone = self._draw_safely(one, [job], size, batch_class, shaken=shaken)
            if alone is None:
                return None
            outcomes += alone
        return outcomes

    def _draw(self, one: _Open, jobs: list[Job], size: int, batch_class: int) -> list[Outcome]:
        """Draw at most `size` jobs in a batch of exactly `size`; the pads are copies of the last
        job.
        """
        backbone, side = one.backbone, one.side
        assert side is not None
        started = time.perf_counter()
        padded = jobs + jobs[-1:] * (size - len(jobs))
        first, seeds = padded[0], [job.seed for job in padded]
        rows = [one.conditions.rows(job) for job in padded]
        cond = Conditioning.stack([row[0] for row in rows])
        negative = None
        if reads_negative(first.guidance, first.options):
            negative = Conditioning.stack([row[1] for row in rows])
        start = self._starts.start(first, size)
        options = without_storage(first.options)
        with torch.inference_mode():
            latents = noise = side.noise(seeds, first.size_px)
            with timed(self._stages, DENOISE):
                for latents in side.denoise(  # noqa: B007 - the last one is the picture
                    noise,
                    cond,
                    negative=negative,
                    steps=first.steps,
                    guidance=first.guidance,
                    scheduler=first.scheduler,
                    options=options,
                    seeds=seeds,
                    # Not even named for bases that know none.
                    **({} if start is None else {"start": start}),
                ):
                    self.counters.add(forwards=1)
                    self._heed()
            pictures = develop(side, latents, len(jobs), self.counters, self._stages)
            told = _origins(side, latents[: len(jobs)], options)
        seconds = (time.perf_counter() - started) / len(jobs)
        outcomes: list[Outcome] = []
        for job, row, picture, (own, maps) in zip(
            jobs, rows[: len(jobs)], pictures, told, strict=True
        ):
            if picture.fault is not None:
                outcomes.append(_failed(job, *picture.fault))
                continue
            provenance = Provenance(
                device=device_name(self._device),
                batch_class=batch_class,
                batch_effective=size,
                seconds=seconds,
                versions=(*stack_versions(self._count(one)), *one.compiled),
                notes=(*picture.notes, *one.notes),
            )
            facts = [("base", base_label(backbone.facts.name)), ("licence", backbone.facts.licence)]
            facts += [("source", backbone.facts.source)] if backbone.facts.source else []
            facts += [("prompt_cut", row[0].cut[0])] if any(row[0].cut) else []
            image = to_image(picture.levels)
            outcomes.append(
                Rendered(
                    job=job,
                    image=image,
                    provenance=provenance,
                    facts=(*facts, *own),
                    maps=maps,
                )
            )
        return outcomes

    def _heed(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Interrupted("stopped on request; the same command goes on")


def _open_key(group: Group) -> tuple[object, ...]:
    """What must be reopened when it changes; tokens do not, they only enter conditions."""
    return group.base_digest, group.dtype, group.weights, group.storage


def _origins(
    side: ImageSide, latents: torch.Tensor, options: Options
) -> list[tuple[tuple[tuple[str, Scalar], ...], Mapping[str, Image]]]:
    """What an image side that copies pixels says about where each picture's come from: facts and
    maps; nothing from any other side.
    """
    ask = getattr(side, "origins", None)
    return ask(latents, options) if ask else [((), {}) for _ in latents]


def _cut(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _failed(job: Job, kind: FailureKind, message: str) -> Failed:
    return Failed(job=job, kind=kind, message=message, retriable=kind == "oom")


def base_label(name: str) -> str:
    """The name of a base without the folders above it: pictures tell no paths."""
    file, plus, _ = name.partition(".safetensors+")  # what follows are its configs
    name = f"{file}.safetensors" if plus else name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "base"


def device_name(device: str) -> str:
    """`cpu`, or the device with the name of its model."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else device


@lru_cache
def stack_versions(threads: int) -> tuple[tuple[str, str], ...]:
    """What besides the recipe decides bytes: libraries, CPU instruction set, threads."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (*_versions(), ("cpu", capability), ("threads", str(threads)))


def _versions() -> Iterator[tuple[str, str]]:
    yield "creatok", __version__
    for name in ("torch", "diffusers", "transformers", "pillow"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
