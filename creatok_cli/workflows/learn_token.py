"""Pairs -> a learned word in the token library: the workflow behind `creatok learn-token`.

Everything that can be wrong with the request is found before torch is imported (`_lesson.py`). A
method then learns; its state is kept so that the same command goes on after a stop or a kill and
ends with the same bytes. The report comes last, and the state is dropped only when all is there.

Does not: print, exit, know what a method does, or let a scorer near it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli import durable
from creatok_cli.backbones._fetch import obtain
from creatok_cli.domain import Event, LearnSummary, Notice, Stage
from creatok_cli.errors import CreatokError, Interrupted, MethodDiverged
from creatok_cli.tokens.library import Entry, Library, writable
from creatok_cli.workflows._checkpoint import Keeper, state_name
from creatok_cli.workflows._course import WHOLE, Course, Study, alone
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
    from torch import Tensor

    from creatok_cli.methods.base import Artefact, Brief
    from creatok_cli.tokens.token import Token

__all__ = ["LearnRequest", "Lesson", "learn_token", "outline", "settle"]

DEAD_REASON = "nothing-to-learn"


def learn_token(request: LearnRequest) -> Iterator[Event]:
    """Learns a token, stores it and reports.

    The last event is a LearnSummary, also of an interrupted run; a CreatokError may follow it.
    Raises CreatokError before the first event for what is wrong with the request.
    """
    yield from obtain([request.base], is_offline=request.is_offline)
    lesson = settle(request)
    yield from _Run(request, lesson).events()


# The run


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
            lock = alone(scratch, lesson.word, "learned", "wait, or choose another --name")
            notices = [stack.enter_context(lock)]
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

    def _learn_and_report(self, scratch: Path) -> Iterator[Event]:
        study = Study(self._course(scratch), is_done=self.entry is not None)
        try:
            artefact = yield from study.events()
        except MethodDiverged as error:
            self.ended = "diverged"
            self._fail(MethodDiverged(f"{error}; try a smaller --lr"))
            return
        finally:
            self.index = study.index
        if artefact is None:
            self.ended = "stopped"
            self._fail(Interrupted("stopped on request; the same command goes on"))
            return
        assert study.keeper is not None
        yield from self._finish(artefact, study.keeper)

    def _course(self, scratch: Path) -> Course:
        lesson, request = self.lesson, self.request

        def brief(resume: Mapping[str, Tensor] | None) -> Brief:
            from creatok_cli.methods.base import Brief

            return Brief(verb="learn", pairs=lesson.pairs, resume=resume)

        pairs = f"{len(lesson.pairs.train)} pairs of {lesson.pairs.name}"
        return Course(
            what=lesson.word,
            doing=Stage(name="learning", detail=f'{lesson.word} for "{lesson.literal}", {pairs}'),
            facts=lesson.facts,
            module=lesson.module,
            spec=lesson.spec,
            seed=lesson.seed,
            precision=lesson.precision,
            device=request.device,
            vram_gib=request.vram_gib,
            recipe=lesson.recipe,
            scratch=scratch,
            brief=brief,
            resume=request.resume,
            stop=request.stop,
        )

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
            assert artefact.token is not None
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
                    vram_gib=request.vram_gib,
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
