"""Pairs -> a learned word in the token library: the workflow behind `creatok learn-token`.

Everything that can be wrong with the request is found before torch is imported (`_lesson.py`). A
method then learns; its state is kept so that the same command goes on after a stop or a kill and
ends with the same bytes. The report comes last, and the state is dropped only when all is there.

Does not: print, exit, know what a method does, or let a scorer near it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable, registry
from creatok_cli.domain import Event, Learning, LearnSummary, Notice, Stage
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    InputError,
    Interrupted,
    MethodDiverged,
    OutOfMemory,
    OutputBusy,
    StackChanged,
)
from creatok_cli.tokens.library import Entry, Library, writable
from creatok_cli.workflows._checkpoint import (
    Keeper,
    State,
    other_runs,
    read_state,
    state_name,
)
from creatok_cli.workflows._lesson import (
    RUN_KEY,
    LearnRequest,
    Lesson,
    outline,
    settle,
    stored,
)
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._report import is_reported, report, reportable

if TYPE_CHECKING:
    from creatok_cli.methods.base import Artefact, Step
    from creatok_cli.tokens.token import Token

__all__ = ["LearnRequest", "Lesson", "learn_token", "outline", "settle"]

SPEED_WINDOW_S = 5.0
DEAD_REASON = "nothing-to-learn"
WHOLE = (1, 1)
"""Learning has no shards."""


def learn_token(request: LearnRequest) -> Iterator[Event]:
    """Learns a token, stores it and reports.

    The last event is a LearnSummary, also of an interrupted run; a CreatokError may follow it.
    Raises CreatokError before the first event for what is wrong with the request.
    """
    lesson = settle(request)
    yield from _Run(request, lesson).events()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two recipes, in words."""
    told = [
        f"{key} {then.get('settings', {}).get(key)} then, {value} now"
        for key, value in now["settings"].items()
        if then.get("settings", {}).get(key) != value
    ]
    told += [f"another {key}" for key in ("method", "pairs", "base") if then.get(key) != now[key]]
    told += [
        f"{key} {then.get(key)} then, {now[key]} now"
        for key in ("precision", "seed")
        if then.get(key) != now[key]
    ]
    return ", ".join(told)


# The run


@dataclass(slots=True)
class _Speed:
    """Steps a second over the last seconds."""

    points: list[tuple[float, int]] = field(default_factory=list)

    def add(self, index: int) -> float:
        now_s = time.monotonic()
        self.points.append((now_s, index))
        while len(self.points) > 2 and now_s - self.points[0][0] > SPEED_WINDOW_S:
            self.points.pop(0)
        since_s, first = self.points[0]
        return (index - first) / (now_s - since_s) if now_s > since_s else 0.0


class _Run:
    """The state of one run."""

    def __init__(self, request: LearnRequest, lesson: Lesson) -> None:
        self.request, self.lesson = request, lesson
        self.started_s = time.monotonic()
        self.library = Library()
        self.index = 0
        self.entry: Entry | None = None
        self.ended = ""
        self.error: CreatokError | None = None
        self.code, self.reason, self.retryable = 0, "ok", False

    def events(self) -> Iterator[Event]:
        """Everything up to the summary, and the error that ended the run."""
        lesson = self.lesson
        self.entry = stored(lesson.name)
        is_stored = self.entry is not None and self.entry.header.metadata.get(RUN_KEY) == lesson.run
        if is_stored and is_reported(lesson):
            self.ended = "done"
            drop_state(self.library, lesson)
            yield Notice(level="info", message=f"{lesson.word} is learned and stored already")
            yield self._summary()
            return
        if not is_stored:
            self.entry = None
        scratch = self.library.scratch(f"learn-{lesson.name}")
        with ExitStack() as stack:
            notices = [stack.enter_context(self._alone(scratch))]
            if lesson.folder is not None:
                durable.open_root(lesson.folder, create=True)
                notices.append(stack.enter_context(held(lesson.folder, WHOLE)))
                with reportable(lesson.folder):
                    durable.sweep(lesson.folder, {""}, shard=WHOLE)
            yield from (notice for notice in notices if notice is not None)
            with writable(scratch):
                durable.sweep(scratch, {""}, shard=WHOLE)
            yield from self._learn_and_report(scratch)
        yield self._summary()
        if self.error is not None and not isinstance(self.error, Interrupted):
            raise self.error

    @contextmanager
    def _alone(self, scratch: Path) -> Iterator[Notice | None]:
        try:
            with held(scratch, WHOLE) as notice:
                yield notice
        except OutputBusy as error:
            who = str(error).partition(f"{scratch} is in use by ")[2].partition(";")[0]
            if not who:
                raise
            raise OutputBusy(
                f"{self.lesson.word} is being learned by {who}; wait, or choose another --name"
            ) from None

    def _learn_and_report(self, scratch: Path) -> Iterator[Event]:
        lesson, request = self.lesson, self.request
        state, notice = self._state(scratch)
        if notice is not None:
            yield notice
        yield Stage(name="loading", detail=lesson.base_label)
        # Read when torch is imported: threads that spin make steps slow beside other work.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from creatok_cli.backbones.base import fixed_threads, own_threads, pick_device

        device = pick_device(request.device)
        # A light base is quickest with one thread, as when it draws.
        threads = (lesson.facts.threads if device == "cpu" else 0) or own_threads()
        now = stack(device, threads)
        if state is not None and dict(state.stack) != now:
            state = yield from self._refuse_stack(state, now)
        keeper = Keeper(scratch, lesson.recipe, now, state)
        try:
            with fixed_threads(threads):
                artefact = yield from self._learn(keeper, state, device)
        except MethodDiverged as error:
            keeper.flush()
            self.ended = "diverged"
            kept = (
                f"; the last good state, step {keeper.index}, is kept in {keeper.path}"
                if keeper.index >= 0
                else ""
            )
            self._fail(MethodDiverged(f"{error}{kept}; try a smaller --lr"))
            return
        if artefact is None:
            keeper.flush()
            self.ended = "stopped"
            self._fail(Interrupted("stopped on request; the same command goes on"))
            return
        yield from self._finish(artefact, keeper)

    def _state(self, scratch: Path) -> tuple[State | None, Notice | None]:
        """The state to go on from; with `--resume` its absence is an error."""
        lesson, is_asked = self.lesson, self.request.resume
        try:
            state = read_state(scratch, lesson.run)
        except ArtefactError as error:
            if is_asked:
                raise
            return None, Notice(level="warning", message=f"{error}; learning from the start")
        if state is not None:
            message = f"going on after step {state.index} of an earlier run"
            return state, Notice(level="info", message=message)
        others = other_runs(scratch, lesson.run)
        told = [f"{differences(other.recipe, lesson.recipe)}" for other in others]
        if is_asked and self.entry is None:
            raise InputError(
                f"--resume: there is no unfinished run of {lesson.word} with these settings"
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
        if self.request.resume:
            raise StackChanged(
                f"{message}, so it would not end with the same token; go on there, or leave "
                "--resume away to begin anew"
            )
        yield Notice(level="warning", message=f"{message}: learning from the start")
        return None

    def _learn(
        self, keeper: Keeper, state: State | None, device: str
    ) -> Generator[Event, None, Artefact | None]:
        """The artefact, or None if the run was asked to stop."""
        import torch

        from creatok_cli.methods.base import Brief, Feedback

        lesson, request = self.lesson, self.request
        backbone_module = registry.get("backbones", lesson.facts.backbone)
        backbone = backbone_module.build(
            backbone_module.Spec(), lesson.facts, device=device, dtype=request.precision
        )
        brief = Brief(
            verb="learn",
            pairs=lesson.pairs,
            resume=state.tensors() if state else None,
        )
        run = lesson.module.build(lesson.spec).run(backbone, brief, seed=lesson.seed)
        pairs = f"{len(lesson.pairs.train)} pairs of {lesson.pairs.name}"
        yield Stage(name="learning", detail=f'{lesson.word} for "{lesson.literal}", {pairs}')
        speed, is_stopped = _Speed(), False
        try:
            step = next(run)
            while True:
                yield from self._tell(step, keeper, speed)
                if request.is_stopping:
                    is_stopped = True
                    step = run.send(Feedback(stop=True))
                else:
                    step = next(run)
        except StopIteration as end:
            artefact: Artefact = end.value
            return None if is_stopped else artefact
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{device} has too little memory to learn {lesson.word}; "
                "use another --device, or --precision bf16"
            ) from error
        finally:
            run.close()
            backbone.release("text")

    def _tell(self, step: Step, keeper: Keeper, speed: _Speed) -> Iterator[Event]:
        """One step as events, and its state to the keeper."""
        self.index = step.index
        if step.checkpoint is not None:
            keeper.offer(step.index, step.checkpoint)
        for message in step.notices:
            yield Notice(level="warning", message=message)
        values = {**step.values, "steps_per_second": round(speed.add(step.index), 2)}
        yield Learning(index=step.index, total=step.total, values=values)

    def _finish(self, artefact: Artefact, keeper: Keeper) -> Iterator[Event]:
        """Store, report, and drop the state when both are there."""
        lesson, request = self.lesson, self.request
        self.ended, self.index = artefact.ended, artefact.steps
        if self.ended == "dead":
            self.entry = None
            self.code, self.reason = MethodDiverged.code, DEAD_REASON
            yield Notice(
                level="warning",
                message=f"every pair is nearer than theta from the start, so there is nothing to "
                f"learn and nothing was stored; try --theta rel:0.5 instead of --theta "
                f"{lesson.settings.get('theta')}",
            )
        else:
            self.entry = self.library.add(
                artefact.token,
                name=lesson.name,
                metadata=token_metadata(lesson, artefact.token),
                replace=request.replace,
            )
        if lesson.folder is not None:
            # Pictures take longer than the last steps: a stop there must not cost the learning.
            keeper.flush()
            try:
                outcome = yield from report(
                    lesson,
                    artefact,
                    stored=self.entry is not None,
                    device=request.device,
                    stop=request.stop,
                    resume=request.resume_command,
                )
            except CreatokError as error:
                self._fail(error)
                return
            if outcome is not None:
                self.code, self.reason = outcome.code, outcome.reason
                self.retryable = outcome.retryable
                if outcome.code:
                    return
        keeper.drop()

    def _fail(self, error: CreatokError) -> None:
        self.error = error
        self.code, self.reason, self.retryable = error.code, error.reason, error.retryable

    def _summary(self) -> LearnSummary:
        lesson, entry = self.lesson, self.entry
        can_go_on = self.code == Interrupted.code or self.retryable
        steps = self.index or int((entry.header.recipe.get("steps") or 0) if entry else 0)
        return LearnSummary(
            word=lesson.word,
            name=entry.name if entry else "",
            id=entry.id if entry else "",
            path=str(entry.path) if entry else "",
            report=str(lesson.folder) if is_reported(lesson) and lesson.folder else "",
            steps=steps,
            seconds=round(time.monotonic() - self.started_s, 3),
            ended=self.ended,
            code=self.code,
            reason=self.reason,
            retryable=self.retryable,
            resume=self.request.resume_command if can_go_on else "",
        )


def drop_state(library: Library, lesson: Lesson) -> None:
    """Removes what a kill between the last write and the end has left."""
    scratch = library.scratch(f"learn-{lesson.name}")
    with writable(scratch):
        durable.remove(scratch, state_name(lesson.run))


def token_metadata(lesson: Lesson, token: Token) -> dict[str, str]:
    """What the token file says beside its recipe; no time, so that equal runs give equal bytes."""
    return {
        RUN_KEY: lesson.run,
        "modelspec.description": f"{lesson.word}, learned by {lesson.method} for the word "
        f'"{token.literal}" on {lesson.facts.name.replace(chr(92), "/").rpartition("/")[2]}',
    }


def stack(device: str, threads: int) -> dict[str, str]:
    """What besides the recipe decides the bytes of a token."""
    from creatok_cli.render import device_name, stack_versions

    kept = {
        key: text for key, text in stack_versions(threads) if key not in ("diffusers", "pillow")
    }
    return {"device": device_name(device), **kept}
