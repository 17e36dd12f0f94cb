"""Learned searches for creatures that nobody asked for: `creatok explore lowprob`, `conceptlab`.

Everything that can be wrong with the request is found before torch is imported (`_quest.py`). What
all searches share is prepared once and kept (`_prepared.py`). Each search is a course of a method
with a seed of its own (`_course.py`): its proposals are drawn and answered (`_checks.py`), its
state is kept, and its find is stored before the next search begins (`_finds.py`). So a stop or a
kill costs no find, and the same command goes on to the same bytes. Last, all finds are drawn beside
each other, with a strip of each search, a map of the drift and the arousal report.

Does not: print, exit, know what a method does, or use a judge.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable
from creatok_cli.backbones._fetch import obtain
from creatok_cli.domain import Event, ExploreSummary, Notice, Stage
from creatok_cli.errors import CreatokError, InputError, Interrupted, MethodDiverged
from creatok_cli.seeds import derive
from creatok_cli.tokens.library import Library, writable
from creatok_cli.workflows._checkpoint import SUFFIX, other_runs
from creatok_cli.workflows._checks import Checks, firsts, read_checks
from creatok_cli.workflows._course import WHOLE, Course, Study, alone, differences, label
from creatok_cli.workflows._finds import RUN, Find, Finds, find_name
from creatok_cli.workflows._fused import TEMPLATE
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._prepared import Prepared, prepared
from creatok_cli.workflows._quest import Pursuit, QuestRequest, outline, settle
from creatok_cli.workflows._showing import ADVICE
from creatok_cli.workflows._ways import Way, accepted_of, numbers_of, write_figures

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.methods.base import Artefact, Brief

__all__ = ["Pursuit", "QuestRequest", "explore", "outline", "settle"]

SEEDS, SEEDS_LARGE, LARGE_PX = 8, 2, 256
"""Pictures of each find, a whole batch of a small base; above this size pictures are costly."""
NOTHING = "nothing-found"


def explore(request: QuestRequest) -> Iterator[Event]:
    """Searches, stores what is found, draws and reports.

    The last event is an ExploreSummary, also of an interrupted run; a CreatokError may follow it.
    Raises CreatokError before the first event for what is wrong with the request.
    """
    yield from obtain([request.base], is_offline=request.is_offline)
    pursuit = settle(request)
    yield from _Run(request, pursuit).events()


class _Run:
    """The state of one run."""

    def __init__(self, request: QuestRequest, pursuit: Pursuit) -> None:
        self.request, self.pursuit = request, pursuit
        self.started_s = time.monotonic()
        self.finds = Finds(pursuit.search, pursuit.folder, pursuit.stem)
        self.figures: tuple[Path, ...] = ()
        self.sheets: tuple[str, ...] = ()
        self.error: CreatokError | None = None
        self.failed: CreatokError | None = None
        """Of a search that broke, while others went on."""
        self.code, self.reason, self.retryable = 0, "ok", False

    def events(self) -> Iterator[Event]:
        """Everything up to the summary, and the error that ended the run."""
        yield from self.pursuit.notices
        try:
            yield from self._work()
        except CreatokError as error:
            self._fail(error)
            self.error = error
        yield self._summary()
        if self.error is not None and not isinstance(self.error, Interrupted):
            raise self.error

    def _work(self) -> Iterator[Event]:
        pursuit, folder = self.pursuit, self.pursuit.folder
        scratch = Library().scratch(pursuit.scratch_name)
        with ExitStack() as stack:
            lock = alone(scratch, pursuit.what, "searched", "wait for it, or give another --seed")
            notices = [stack.enter_context(lock)]
            with writable(folder, ADVICE):
                durable.open_root(folder, create=True)
            notices.append(stack.enter_context(held(folder, WHOLE)))
            yield from (notice for notice in notices if notice is not None)
            with writable(scratch):
                durable.sweep(scratch, {""}, shard=WHOLE)
            try:
                yield from self._search_and_show(scratch)
            except CreatokError:
                if self.finds.kept:
                    self._count()
                    self.finds.save("stopped")
                raise

    def _search_and_show(self, scratch: Path) -> Iterator[Event]:
        pursuit = self.pursuit
        known = {find.name for find in self.finds.recall()}
        todo = [
            number for number in range(1, pursuit.strands + 1) if self._name(number) not in known
        ]
        if known:
            count = f"{len(known)} find{'' if len(known) == 1 else 's'}"
            yield Notice(level="info", message=f"{count} of an earlier start: kept")
        if self.request.resume and todo and not known:
            self._check_begun(scratch)
        if todo:
            yield from self._search_all(todo, scratch, is_begun=bool(known))
        yield from self._show(is_new=bool(todo))

    def _check_begun(self, scratch: Path) -> None:
        """With `--resume`: something is there to go on from, before anything is prepared for it.

        Raises InputError.
        """
        if any(scratch.glob(f"*{SUFFIX}")):
            return
        recipe = self.pursuit.recipe
        others = [each for folder in self._relatives(scratch) for each in other_runs(folder, "")]
        told = [differences(each.recipe, recipe) for each in others]
        raise InputError(
            f"--resume: there is no unfinished run of {self.pursuit.what} with these settings"
            + (f"; there is one with other settings: {told[0]}" if told else "")
            + "; give the same settings, or leave --resume away to begin anew"
        )

    # Searching

    def _search_all(self, todo: list[int], scratch: Path, *, is_begun: bool) -> Iterator[Event]:
        request, pursuit = self.request, self.pursuit
        shared = yield from prepared(
            pursuit, request.device, request.stop, vram_gib=request.vram_gib
        )
        checks = Checks(pursuit, scratch, request.stop)
        for at, number in enumerate(todo):
            course = self._course(number, shared, checks, scratch)
            study = Study(course, is_done=is_begun or at > 0)
            try:
                artefact = yield from study.events()
            except MethodDiverged as error:
                # Others begin elsewhere and may end well.
                self.failed = error
                yield Notice(level="warning", message=f"search {number}: {error}")
                continue
            if artefact is None:
                raise Interrupted("stopped on request; the same command goes on")
            yield from self._store(number, artefact)
            assert study.keeper is not None
            study.keeper.drop()

    def _course(
        self, number: int, shared: Prepared | None, checks: Checks, scratch: Path
    ) -> Course:
        request, pursuit = self.request, self.pursuit
        quest = pursuit.quest()
        if shared is not None:
            quest = replace(quest, prepared=shared.tensors)

        def brief(resume: Mapping[str, Tensor] | None) -> Brief:
            from creatok_cli.methods.base import Brief

            return Brief(verb="explore", quest=quest, resume=resume)

        checks.strand = number
        of = f"{number} of {pursuit.strands}: " if pursuit.strands > 1 else ""
        return Course(
            what=f"{pursuit.what}, search {number}",
            doing=Stage(name="searching", detail=f"{of}{pursuit.what}"),
            facts=pursuit.facts,
            module=pursuit.module,
            spec=pursuit.spec,
            seed=derive(pursuit.search.seed, "strand", number),
            precision=pursuit.precision,
            device=request.device,
            vram_gib=request.vram_gib,
            recipe={
                **pursuit.recipe,
                "prepared": shared.digest if shared else "",
                "strand": number,
            },
            scratch=scratch,
            relatives=self._relatives(scratch),
            brief=brief,
            answer=checks,
            resume=request.resume,
            stop=request.stop,
        )

    def _relatives(self, scratch: Path) -> tuple[Path, ...]:
        stem = self.pursuit.scratch_name.rpartition("-")[0]
        return tuple(each for each in sorted(scratch.parent.glob(f"{stem}-*")) if each != scratch)

    def _name(self, number: int) -> str:
        return find_name(self.pursuit.stem, self.pursuit.search.seed, number)

    def _store(self, number: int, artefact: Artefact) -> Iterator[Event]:
        if artefact.token is None and not artefact.lora:
            why = artefact.ended
            yield Notice(level="warning", message=f"search {number} found nothing: it ended {why}")
            return
        find = find_of(self.pursuit, self._name(number), number, artefact)
        self._count()
        yield self.finds.keep(find, replace=self.request.replace)

    # Showing

    def _show(self, *, is_new: bool) -> Iterator[Event]:
        pursuit, request = self.pursuit, self.request
        ways = self._ways()
        if not ways:
            self._fail(self.failed or MethodDiverged("no search found anything"))
            self.reason = self.failed.reason if self.failed else NOTHING
            self.error = self.failed
            return
        yield Stage(name="reporting", detail=str(pursuit.folder))
        self.figures = write_figures(pursuit, self.finds, ways, is_new=is_new)
        large = max(pursuit.facts.size_px) > LARGE_PX
        summary = yield from self.finds.draw(
            title=f"{pursuit.method}: {pursuit.what}",
            seeds=range(SEEDS_LARGE if large else SEEDS),
            device=request.device,
            vram_gib=request.vram_gib,
            stop=request.stop,
            resume=request.resume_command,
        )
        self._count()
        if summary is not None:
            self.sheets = summary.contact_sheets
            self.code, self.reason = summary.code, summary.reason
            self.retryable = summary.retryable
        if not self.code and self.failed is not None:
            self._fail(self.failed)
        if self.code == Interrupted.code:
            self.finds.save("stopped")
        else:
            self.finds.save("done")

    def _ways(self) -> list[Way]:
        """What is known of each search that found something."""
        pursuit, found = self.pursuit, []
        for number in range(1, pursuit.strands + 1):
            find = self.finds.kept.get(self._name(number))
            if find is not None:
                checks = firsts(read_checks(pursuit.folder, pursuit.search.run, number))
                accepted = accepted_of(checks, find.facts)
                found.append(Way(number=number, find=find, checks=checks, accepted=accepted))
        return found

    def _count(self) -> None:
        """How many moments were looked at, as the files say: a resumed run counts all."""
        pursuit = self.pursuit
        self.finds.looked_at = sum(
            len({check.index for check in read_checks(pursuit.folder, pursuit.search.run, number)})
            for number in range(1, pursuit.strands + 1)
        )

    def _fail(self, error: CreatokError) -> None:
        self.code, self.reason, self.retryable = error.code, error.reason, error.retryable

    def _summary(self) -> ExploreSummary:
        can_go_on = self.code == Interrupted.code or self.retryable
        return ExploreSummary(
            method=self.pursuit.method,
            finds=len(self.finds.kept),
            looked_at=self.finds.looked_at,
            out=str(self.pursuit.folder),
            seconds=round(time.monotonic() - self.started_s, 3),
            code=self.code,
            reason=self.reason,
            retryable=self.retryable,
            figures=tuple(str(path) for path in self.figures),
            contact_sheets=self.sheets,
            resume=self.request.resume_command if can_go_on else "",
        )


def find_of(pursuit: Pursuit, name: str, number: int, artefact: Artefact) -> Find:
    """What a search hands back, as it is stored."""
    from creatok_cli.tokens.file import token_bytes
    from creatok_cli.tokens.lora import lora_bytes

    said: dict[str, Any] = {RUN: pursuit.search.run, "search": number}
    token, template = b"", ""
    if artefact.token is not None:
        recipe = {**artefact.token.recipe, **said}
        template = str(recipe.get("template", ""))
        made = replace(artefact.token, word=f"<{name}>", recipe=recipe)
        description = f"{name}, found by {pursuit.method} for {pursuit.what}"
        token = token_bytes(
            made, {"modelspec.description": f"{description} on {label(pursuit.facts)}"[:900]}
        )
    lora = b""
    if artefact.lora:
        recipe = {
            "kind": "lora",
            "method": pursuit.method,
            "prompt": pursuit.prompt,
            "base": label(pursuit.facts),
            "base_digest": pursuit.facts.digest,
            "base_licence": pursuit.facts.licence,
            "settings": dict(pursuit.search.settings),
            "seed": pursuit.search.seed,
            **said,
        }
        lora = lora_bytes(artefact.lora, recipe, title=name)
    prompt = template or worded(pursuit) if token else pursuit.prompt or pursuit.subject
    return Find(
        name=name,
        token=token,
        lora=lora,
        prompts=(prompt,),
        values=numbers_of(artefact),
        facts={"ended": artefact.ended, "steps": artefact.steps, **artefact.facts},
    )


def worded(pursuit: Pursuit) -> str:
    """The plain prompt with `{word}` in the place of its subject."""
    if not pursuit.prompt:
        return TEMPLATE
    subject = re.escape(pursuit.subject)
    return re.sub(rf"\b{subject}\b", "{word}", pursuit.prompt, count=1)
