"""Answers to a method: its proposals drawn, labelled, and sent back as Feedback.

The method's own open base draws, so nothing is read twice; light bases draw a batch per core. What
is drawn and labelled does not depend on the number of cores: batches are cut by a fixed rule, and
labels depend on one picture each.

Does not: choose what to draw, keep pictures, or let a judge label.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli import durable, registry
from creatok_cli.domain import BaseFacts, Event, Failed, Group, Job, Notice, Plan, Rendered, Stage
from creatok_cli.errors import InputError
from creatok_cli.hashing import keyed
from creatok_cli.plan.batches import make_plan
from creatok_cli.tokens.file import SUFFIX, token_bytes
from creatok_cli.tokens.library import writable
from creatok_cli.workflows._labeler import Chosen
from creatok_cli.workflows._run import Stop

if TYPE_CHECKING:
    from PIL.Image import Image

    from creatok_cli.backbones.base import Backbone
    from creatok_cli.domain import Labels
    from creatok_cli.methods.base import Feedback, Step
    from creatok_cli.scorers.base import Labeler
    from creatok_cli.tokens.token import Token

LIGHT_CLASS = 8
"""Largest batch of a light base: proposals are few, and several batches keep several cores busy."""
FOLDER = "proposed"
"""For the tokens of the proposals, in the scratch folder."""


class Answers:
    """An `Answer` of `_course.py`; keeps the labeler open between Steps."""

    def __init__(
        self,
        facts: BaseFacts,
        labeler: Chosen | None,
        precision: str,
        scratch: Path,
        stop: Stop | None,
    ) -> None:
        self._facts, self._chosen, self._precision = facts, labeler, precision
        self._scratch, self._stop = scratch, stop
        self._labelers: dict[str, Labeler] = {}
        self._others: dict[str, Backbone] = {}
        self.drawing_s, self.labelling_s, self.drawn = 0.0, 0.0, 0

    def __call__(self, backbone: Backbone, step: Step) -> Generator[Event, None, Feedback]:
        """Feedback of one Step. Raises Interrupted when asked to stop, and errors of device,
        labeler or disk; a picture that cannot be drawn is None and told.
        """
        from creatok_cli.methods.base import Feedback

        labeler = yield from self.labeler(backbone, step)
        begun_s = time.monotonic()
        with self._files(step.tokens) as files:
            plan, order = proposed_plan(step, self._facts)
            outcomes = self._draw(backbone, plan, files)
        drawn_s = time.monotonic()
        pictures: list[Image | None] = [None] * len(order)
        failures: Counter[str] = Counter()
        for outcome in outcomes:
            if isinstance(outcome, Rendered):
                pictures[order[outcome.job.name]] = outcome.image
            else:
                failures[outcome.message] += 1
        there = [index for index, picture in enumerate(pictures) if picture is not None]
        labels: list[Labels | None] = [None] * len(pictures)
        if labeler is not None:
            found = labeler.label(
                [picture for picture in pictures if picture is not None],
                classes=step.classes,
                question=step.question,
            )
            for index, label in zip(there, found, strict=True):
                labels[index] = label
        self.drawing_s += drawn_s - begun_s
        self.labelling_s += time.monotonic() - drawn_s
        self.drawn += len(there)
        for message, count in failures.most_common(1):
            yield Notice(
                level="warning",
                message=f"step {step.index}: {sum(failures.values())} of {len(pictures)} proposed "
                f"pictures could not be drawn ({count}: {message})",
            )
        return Feedback(labels=labels, pictures=pictures)

    def labeler(self, backbone: Backbone, step: Step) -> Generator[Event, None, Labeler | None]:
        """Who labels the pictures of a Step; None for nobody."""
        if self._chosen is None:
            return None
        return (yield from self.opened(self._chosen, backbone))

    def opened(self, chosen: Chosen, backbone: Backbone) -> Generator[Event, None, Labeler]:
        """A labeler that stays open."""
        if chosen.name not in self._labelers:
            yield Stage(name="labelling", detail=chosen.name)
            self._labelers[chosen.name] = chosen.build(backbone.device)
        return self._labelers[chosen.name]

    def drawn_plain(self, backbone: Backbone, step: Step) -> list[Rendered | Failed]:
        """The pictures of proposals without tokens, in the order of the plan."""
        plan, _ = proposed_plan(step, self._facts)
        return self._draw(backbone, plan, {})

    def _draw(
        self, backbone: Backbone, plan: Plan, files: dict[str, str]
    ) -> list[Rendered | Failed]:
        from creatok_cli.render import OpenBase, Renderer

        def opened(group: Group) -> Backbone:
            if group.dtype == self._precision:
                return backbone
            if group.dtype not in self._others:
                anew = OpenBase({self._facts.digest: self._facts}, backbone.device)
                self._others[group.dtype] = anew(group)
            return self._others[group.dtype]

        # No `prepare`: it would drop the text encoders, which the method goes on to use.
        renderer = Renderer(opened, device=backbone.device, tokens=files, stop=self._stop)
        module = registry.get("executors", "local")
        engine = module.build(module.Spec(), threads=self._facts.threads, device=backbone.device)
        return list(engine.run(plan.batches, renderer.render))

    @contextmanager
    def _files(self, tokens: Sequence[Token]) -> Iterator[dict[str, str]]:
        """Token files by id, there as long as they are drawn with."""
        writer, found = durable.Writer(run=durable.new_run()), dict[str, str]()
        with writable(self._scratch):
            self._clear()
            for token in tokens:
                name = f"{FOLDER}/{token.id.removeprefix('sha256:')}{SUFFIX}"
                durable.publish_new(self._scratch, name, token_bytes(token), writer=writer)
                found[token.id] = str(self._scratch / name)
        try:
            yield found
        finally:
            with writable(self._scratch):
                self._clear()

    def _clear(self) -> None:
        """Removes the tokens of a Step, also those that a kill has left."""
        durable.sweep(self._scratch, {FOLDER}, shard=(1, 1))
        for path in sorted((self._scratch / FOLDER).glob(f"*{SUFFIX}")):
            durable.remove(self._scratch, f"{FOLDER}/{path.name}")


def proposed_plan(step: Step, facts: BaseFacts) -> tuple[Plan, dict[str, int]]:
    """The batches of a Step's proposals, and the place of each job by its name.

    Raises InputError for a proposal that belongs to another base or names a token that the Step
    does not carry.
    """
    known = {(token.word, token.id) for token in step.tokens}
    jobs: list[Job] = []
    for index, job in enumerate(step.proposals):
        where = f"proposal {index} of step {step.index}"
        if job.base_digest != facts.digest:
            raise InputError(f"{where}: made for another base than {facts.name}")
        strange = [word for word, identity in job.tokens if (word, identity) not in known]
        if strange:
            raise InputError(f"{where}: the step carries no token {strange[0]} of that id")
        name = f"{FOLDER}/{step.index:07d}-{index:05d}"
        jobs.append(keyed(replace(job, name=name, row=FOLDER, index=index, where=where)))

    def batch_class(job: Job) -> int:
        most = facts.batch_class(job.size_px)
        # Pads cost as much as pictures.
        return min(most, LIGHT_CLASS, len(jobs)) if facts.threads else most

    plan = make_plan(jobs, sheet=FOLDER, batch_class=batch_class)
    return plan, {job.name: index for index, job in enumerate(jobs)}
