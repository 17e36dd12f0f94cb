"""A course: one run of a method, from its state on the disk to its artefact, whatever it makes.

Shared by learning tokens, training networks and searches: the lock, the state that the same command
goes on from, the stack that must be the same for the same bytes, progress, a stop, faults. What a
method proposes is answered by the caller's `answer`.

Does not: store the artefact, report, or know what a method does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from creatok_cli import registry
from creatok_cli.domain import BaseFacts, Event, Learning, Notice, Stage
from creatok_cli.errors import (
    ArtefactError,
    InputError,
    Interrupted,
    MethodDiverged,
    OutOfMemory,
    OutputBusy,
    StackChanged,
)
from creatok_cli.sinks.base import base_label
from creatok_cli.workflows._checkpoint import Keeper, State, other_runs, read_state, run_digest
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._run import Stop

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone
    from creatok_cli.methods.base import Artefact, Brief, Feedback, Step

SPEED_WINDOW_S = 5.0
WHOLE = (1, 1)
"""Learning has no shards."""
SCALARS = ("precision", "seed")
"""Parts of a recipe that a message can show; of the others it says that they differ."""

Answer = Callable[["Backbone", "Step"], Generator[Event, None, "Feedback"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a run of a method needs."""

    what: str
    """For messages: `<hydra>`, `the network for bestiary`."""
    doing: Stage
    """Begins when the base is open."""
    facts: BaseFacts
    module: ModuleType
    spec: Any
    seed: int
    precision: str
    device: str
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    recipe: Mapping[str, Any]
    """All that decides the artefact, apart from the stack."""
    scratch: Path
    """For the state."""
    relatives: Sequence[Path] = ()
    """Where else unfinished runs of this kind are, for messages."""
    brief: Callable[[Mapping[str, Tensor] | None], Brief]
    """What is asked of the method, given the tensors to go on from."""
    answer: Answer | None = None
    """Draws and labels what a Step proposes; None for methods that propose nothing."""
    resume: bool = False
    """Only go on: an error where there is nothing to go on from."""
    stop: Stop | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self.stop is not None and self.stop.is_set()


@dataclass(slots=True)
class Speed:
    """Steps a second over the last seconds, and what is left at the pace of the whole run."""

    points: list[tuple[float, int]] = field(default_factory=list)
    begun: tuple[float, int] | None = None

    def add(self, index: int) -> float:
        """Steps a second, now that so many are done."""
        now_s = time.monotonic()
        self.begun = self.begun or (now_s, index)
        self.points.append((now_s, index))
        while len(self.points) > 2 and now_s - self.points[0][0] > SPEED_WINDOW_S:
            self.points.pop(0)
        since_s, first = self.points[0]
        return (index - first) / (now_s - since_s) if now_s > since_s else 0.0

    def left_s(self, index: int, total: int) -> float | None:
        """Seconds to the end, pauses between steps counted; None before it can be told."""
        if self.begun is None or index <= self.begun[1]:
            return None
        return (self.points[-1][0] - self.begun[0]) / (index - self.begun[1]) * (total - index)


@contextmanager
def alone(scratch: Path, what: str, doing: str, advice: str) -> Iterator[Notice | None]:
    """The lock of a run. Raises OutputBusy, which says who is doing it."""
    try:
        with held(scratch, WHOLE) as notice:
            yield notice
    except OutputBusy as error:
        who = str(error).partition(f"{scratch} is in use by ")[2].partition(";")[0]
        if not who:
            raise
        raise OutputBusy(f"{what} is being {doing} by {who}; {advice}") from None


class Study:
    """A course under way. `index` is how far it is."""

    def __init__(self, course: Course, *, is_done: bool = False) -> None:
        self.course, self.index = course, 0
        self._is_done = is_done
        self._speed = Speed()
        self._run = run_digest(course.recipe)
        self.keeper: Keeper | None = None

    def events(self) -> Generator[Event, None, Artefact | None]:
        """The artefact, or None if the run was asked to stop; then its state is kept.

        Raises MethodDiverged, telling where the last good state is, StackChanged, InputError or
        ArtefactError with `resume`, OutOfMemory.
        """
        course = self.course
        state, notice = self._state()
        if notice is not None:
            yield notice
        yield Stage(name="loading", detail=label(course.facts))
        # Read when torch is imported: threads that spin make steps slow beside other work.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from creatok_cli.backbones._memory import cap
        from creatok_cli.backbones.base import fixed_threads, own_threads, pick_device

        device = pick_device(course.device)
        cap(device, course.vram_gib)
        # A light base is quickest with one thread, as when it draws.
        threads = (course.facts.threads if device == "cpu" else 0) or own_threads()
        now = stack(device, threads)
        if state is not None and dict(state.stack) != now:
            state = yield from self._refuse_stack(state, now)
        self.keeper = keeper = Keeper(course.scratch, course.recipe, now, state)
        try:
            with fixed_threads(threads):
                artefact = yield from self._learn(keeper, state, device)
        except MethodDiverged as error:
            keeper.flush()
            kept = (
                f"; the last good state, step {keeper.index}, is kept in {keeper.path}"
                if keeper.index >= 0
                else ""
            )
            raise MethodDiverged(f"{error}{kept}") from error
        if artefact is None:
            keeper.flush()
        return artefact

    def _state(self) -> tuple[State | None, Notice | None]:
        """The state to go on from; with `resume` its absence is an error."""
        course = self.course
        try:
            state = read_state(course.scratch, self._run)
        except ArtefactError as error:
            if course.resume:
                raise
            return None, Notice(level="warning", message=f"{error}; learning from the start")
        if state is not None:
            message = f"going on after step {state.index} of an earlier run"
            return state, Notice(level="info", message=message)
        if course.resume and not self._is_done:
            folders = (course.scratch, *course.relatives)
            others = [each for folder in folders for each in other_runs(folder, self._run)]
            told = [f"{differences(other.recipe, course.recipe)}" for other in others]
            raise InputError(
                f"--resume: there is no unfinished run of {course.what} with these settings"
                + (f"; there is one with other settings: {told[0]}" if told else "")
                + "; give the same settings, or leave --resume away to begin anew"
            )
        return None, None

    def _refuse_stack(
        self, state: State, now: Mapping[str, str]
    ) -> Generator[Event, None, State | None]:
        then = state.stack
        changed = ", ".join(
            f"{key} {then.get(key)} then, {now.get(key)} now"
            for key in dict.fromkeys([*then, *now])
            if then.get(key) != now.get(key)
        )
        message = f"the unfinished run was begun on another stack ({changed})"
        if self.course.resume:
            raise StackChanged(
                f"{message}, so it would not end with the same bytes; go on there, or leave "
                "--resume away to begin anew"
            )
        yield Notice(level="warning", message=f"{message}: learning from the start")
        return None

    def _lodge(self, backbone: Backbone) -> Iterator[Event]:
        """Make room for what a method proposes to draw. A prior, or gradients through the denoiser,
        need their weights where they are.
        """
        from creatok_cli.backbones.base import Load

        facts, needs = self.course.facts, getattr(self.course.module, "NEEDS", ())
        make_room = getattr(backbone, "make_room", None)
        if make_room is None or "image" not in needs or "prior" in needs:
            return
        load = Load(facts.size_px, facts.batch_class(facts.size_px))
        fit = make_room([load], self.course.vram_gib, compiled=False)
        if fit.message:
            yield Notice(level="warning" if fit.is_tight else "info", message=fit.message)

    def _learn(
        self, keeper: Keeper, state: State | None, device: str
    ) -> Generator[Event, None, Artefact | None]:
        import torch

        from creatok_cli.methods.base import Feedback

        course = self.course
        module = registry.get("backbones", course.facts.backbone)
        backbone: Backbone = module.build(
            module.Spec(), course.facts, device=device, dtype=course.precision
        )
        yield from self._lodge(backbone)
        brief = course.brief(state.tensors() if state else None)
        run = course.module.build(course.spec).run(backbone, brief, seed=course.seed)
        yield course.doing
        is_stopped = False
        try:
            step = next(run)
            while True:
                yield from self._tell(step, keeper)
                if course.is_stopping:
                    if step.proposals:
                        return None  # it asks again when the run goes on from its last state
                    is_stopped = True
                    step = run.send(Feedback(stop=True))
                elif step.proposals and course.answer is not None:
                    step = run.send((yield from course.answer(backbone, step)))
                else:
                    step = next(run)
        except StopIteration as end:
            artefact: Artefact = end.value
            return None if is_stopped else artefact
        except Interrupted:
            return None
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{device} has too little memory for {course.what}; "
                "use another --device, or --precision bf16"
            ) from error
        finally:
            run.close()
            for side in ("text", "prior", "image"):
                backbone.release(side)

    def _tell(self, step: Step, keeper: Keeper) -> Iterator[Event]:
        """One step as events, and its state to the keeper."""
        self.index = step.index
        if step.checkpoint is not None:
            keeper.offer(step.index, step.checkpoint)
        for message in step.notices:
            yield Notice(level="warning", message=message)
        values = {**step.values, "steps_per_second": round(self._speed.add(step.index), 2)}
        left_s = self._speed.left_s(step.index, step.total)
        if left_s is not None:
            values["left_s"] = round(left_s, 1)
        yield Learning(index=step.index, total=step.total, values=values)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two recipes, in words."""
    told = [
        f"{key} {then.get('settings', {}).get(key)} then, {value} now"
        for key, value in now["settings"].items()
        if then.get("settings", {}).get(key) != value
    ]
    told += [
        f"another {key}"
        for key in now
        if key not in ("settings", *SCALARS) and then.get(key) != now[key]
    ]
    told += [
        f"{key} {then.get(key)} then, {now[key]} now"
        for key in SCALARS
        if then.get(key) != now[key]
    ]
    return ", ".join(told)


def label(facts: BaseFacts) -> str:
    """A base without the folders above it: reports and recipes tell no paths."""
    return base_label(facts.name)


def stack(device: str, threads: int) -> dict[str, str]:
    """What besides the recipe decides the bytes of an artefact."""
    from creatok_cli.render import device_name, stack_versions

    kept = {
        key: text for key, text in stack_versions(threads) if key not in ("diffusers", "pillow")
    }
    return {"device": device_name(device), **kept}
