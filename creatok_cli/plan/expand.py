"""A checked sheet to jobs: products and zips, token references, seeds, names, keys.

Pure and stable: the same sheet, bases and token ids give the same jobs in the same order on any
machine. A seed depends on the sheet's seed, the job's id and the picture's index within one prompt,
so inserting a row or a value moves no other seed (and all prompts of a row share their seeds, which
makes them comparable).

Does not: read a file, import torch, ask a clock, or know what is already drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from creatok_cli.domain import BaseFacts, Job
from creatok_cli.errors import Problem, TokenMissing, UnknownName
from creatok_cli.hashing import content_key
from creatok_cli.plan import names
from creatok_cli.plan._combine import assignments
from creatok_cli.plan._fields import MAX_PROMPT
from creatok_cli.plan._resolve import Resolver, Row, check_amount
from creatok_cli.plan._template import fill
from creatok_cli.plan.sheet import Sheet
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import Problems, collector_paused, shown

MAX_PROMPT_TEXT = 64 * 1024 * 1024
"""Most characters of all prompts of a plan together."""
_REFERENCE = re.compile(r"<[^<>\s]+>")


def expand(
    sheet: Sheet,
    bases: Mapping[str, BaseFacts],
    tokens: Mapping[str, str],
    loras: Mapping[str, str] | None = None,
    pictures: Mapping[str, str] | None = None,
    *,
    only: str | None = None,
    dtype: str | None = None,
) -> tuple[Job, ...]:
    """All jobs of a sheet, keyed and named, in sheet order.

    `bases` holds the facts of every name in `sheet.base_names()`, `tokens` the artefact id of every
    word in `sheet.tokens`, `loras` the digest of every path in `sheet.lora_places()`, `pictures`
    that of every path in `plan.pictures.picture_rows(sheet)`. `only` keeps the jobs whose id or tag
    matches the glob, after all rows were checked; `dtype` (`--precision`) wins over the sheet.
    Raises SheetError, UnknownName (`only` matches nothing), TokenMissing.
    """
    with collector_paused():
        check_amount(sheet)
        problems = Problems()
        resolver = Resolver(sheet, bases, loras or {}, dtype, problems)
        rows = [resolver.row(index) for index in range(len(sheet.jobs))]
        problems.check()
        expansion = _Expansion(sheet, tokens, pictures or {}, problems)
        for row in rows:
            expansion.add(row)
        expansion.check_names()
        problems.check()
        jobs = tuple(expansion.jobs)
        return jobs if only is None else _matching(jobs, only)


class _Expansion:
    """Jobs so far, and what must not repeat among them."""

    def __init__(
        self,
        sheet: Sheet,
        tokens: Mapping[str, str],
        pictures: Mapping[str, str],
        problems: Problems,
    ) -> None:
        self.sheet = sheet
        self.tokens = tokens
        self.pictures = pictures
        self.problems = problems
        self.template = sheet.head.name or names.DEFAULT_TEMPLATE
        self.jobs: list[Job] = []
        self.rows: list[int] = []
        self.by_key: dict[str, int] = {}
        self.characters = 0

    def add(self, row: Row) -> None:
        """All pictures of one entry: prompt by prompt, and within a prompt seed by seed."""
        constants = {**self.sheet.head.vars, **row.entry.vars}
        own = tuple(row.entry.vars.items())
        position = 0
        for assignment in assignments(row.entry):
            values = {**constants, **dict(assignment)}
            prompt = fill(row.entry.prompt, values)
            negative = fill(row.negative, values) if row.negative else None
            tokens = self.references(row, prompt, negative)
            if tokens is not None and self.is_bounded(row, prompt, negative):
                labels = (*assignment, *own)
                picture = self.picture(row, values)
                for index, seed in enumerate(row.seeds, position):
                    job = Job(
                        **row.settings,
                        prompt=prompt,
                        negative=negative,
                        tokens=tokens,
                        init_image=picture,
                        labels=labels,
                        seed=seed,
                        index=index,
                    )
                    self.finish(row, job)
            position += len(row.seeds)
        if position == 0:
            path = ("jobs", row.index, "exclude")
            message = "exclude leaves nothing to draw"
            self.problems.add(lambda: self.sheet.problem(path, "empty-job", message, key=True))

    def finish(self, row: Row, job: Job) -> None:
        """Name and key a job, and see that it is the only one of its kind."""
        key = content_key(job)
        fields: dict[str, str | int] = {
            "sheet": self.sheet.name,
            "job": job.row,
            "index": job.index,
            "seed": job.seed,
            "key8": key.partition(":")[2][:8],
            "token": "+".join(word.strip("<>") for word, _ in job.tokens) or "none",
            "base": job.base,
        }
        job = replace(job, key=key, name=names.fill_template(self.template, fields))
        earlier = self.by_key.setdefault(key, len(self.jobs))
        if earlier != len(self.jobs):
            self.problems.add(lambda: self.duplicate(row, job, earlier))
        self.jobs.append(job)
        self.rows.append(row.index)

    def picture(self, row: Row, values: Mapping[str, str]) -> str | None:
        """The digest of the picture that a prompt begins from."""
        if row.picture is None:
            return None
        path = fill(row.picture, values)
        if path not in self.pictures:
            where = self.sheet.where(row.index)
            raise TokenMissing(f"{where}: the picture {shown(path)} was not loaded")
        return self.pictures[path]

    def references(
        self, row: Row, prompt: str, negative: str | None
    ) -> tuple[tuple[str, str], ...] | None:
        """(word, artefact id) of the tokens in a prompt, sorted; None when one is not declared."""
        if "<" not in prompt and (negative is None or "<" not in negative):
            return ()
        words = {*_REFERENCE.findall(prompt), *_REFERENCE.findall(negative or "")}
        declared = self.sheet.tokens
        for word in sorted(words - declared.keys()):
            key = "prompt" if word in prompt else "negative"
            message = f"{key}: the token {shown(word)} is not declared under tokens"
            self.problems.add(lambda k=key, w=word, m=message: self.undeclared(row, k, w, m))  # type: ignore[misc]
        if words - declared.keys():
            return None
        for word in sorted(words - self.tokens.keys()):
            raise TokenMissing(
                f"{row.settings['where']}: the token {word} ({declared[word]}) was not loaded"
            )
        return tuple((word, self.tokens[word]) for word in sorted(words))

    def undeclared(self, row: Row, key: str, word: str, message: str) -> Problem:
        declare = f"declare it: tokens: {{{word.strip('<>')}: NAME or FILE}}"
        hint = did_you_mean(word, self.sheet.tokens) or declare
        if key == "prompt":
            return self.sheet.problem(("jobs", row.index, key), "unknown-token", message, hint)
        return self.sheet.setting_problem(row.index, key, "unknown-token", message, hint)

    def is_bounded(self, row: Row, prompt: str, negative: str | None) -> bool:
        self.characters += (len(prompt) + len(negative or "")) * len(row.seeds)
        path = ("jobs", row.index, "prompt")
        if max(len(prompt), len(negative or "")) > MAX_PROMPT:
            message = (
                f"prompt: longer than {MAX_PROMPT} characters once its variables are filled in"
            )
            self.problems.add(lambda: self.sheet.problem(path, "too-long", message))
            return False
        if self.characters > MAX_PROMPT_TEXT:
            message = "prompt: all prompts of the sheet together are too long"
            self.problems.keep(self.sheet.problem(path, "too-long", message, "split the sheet"))
            self.problems.check()
        return True

    def duplicate(self, row: Row, job: Job, earlier: int) -> Problem:
        other = self.jobs[earlier]
        message = (
            f"draws the same picture as job {shown(other.row)} at {other.where}: "
            f"same prompt {shown(job.prompt)}, seed {job.seed} and settings"
        )
        return self.sheet.problem(
            ("jobs", row.index), "duplicate-job", message, "remove one of them"
        )

    def check_names(self) -> None:
        """Unsafe names, names that some file system takes for one, files where folders must be."""
        first: dict[str, int] = {}
        for at, job in enumerate(self.jobs):
            fault = names.name_fault(job.name)
            if fault:
                self.say(at, "unsafe-name", fault)
                continue
            earlier = first.setdefault(names.collision_key(job.name), at)
            if earlier != at and self.by_key[job.key] == at:
                other = self.jobs[earlier]
                owner = f"job {shown(other.row)} at {other.where}"
                message = f"the output name {shown(job.name)} belongs to {owner} already"
                self.say(at, "duplicate-name", message)
        if not self.problems.kept:
            for at in names.folder_clashes([job.name for job in self.jobs]):
                message = f"the output name {shown(self.jobs[at].name)} is a folder of other names"
                self.say(at, "duplicate-name", message)

    def say(self, at: int, slug: str, message: str) -> None:
        hint = "change the id or the name template"
        self.problems.add(lambda: self.sheet.problem(("jobs", self.rows[at]), slug, message, hint))


def _matching(jobs: Sequence[Job], only: str) -> tuple[Job, ...]:
    kept = tuple(
        job
        for job in jobs
        if fnmatchcase(job.row, only) or any(fnmatchcase(tag, only) for tag in job.tags)
    )
    if not kept:
        known = list(
            dict.fromkeys([job.row for job in jobs] + [tag for job in jobs for tag in job.tags])
        )
        hint = did_you_mean(only, known) or f"there are {', '.join(known[:10])}"
        raise UnknownName(f"--only {shown(only)} matches no job id and no tag; {hint}")
    return kept
