"""Mixes -> tokens in the library, and pictures of them: the workflow behind `creatok fuse`.

Everything that can be wrong with mixes, names, prompts, a base or a network is found before torch
is imported (`_order.py`). A base without a network gets one first (`_training.py`). Known concepts
are then fused without torch; pictures are drawn from a sheet that stands beside them, and a labeler
says what it sees in them.

Does not: print, exit, or know what a network computes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli import durable
from creatok_cli.backbones._fetch import obtain
from creatok_cli.concepts.mixes import Grid, Mix, Sweep, make_mix
from creatok_cli.domain import Event, FuseSummary, Labels, Notice, Stage, TokenFused
from creatok_cli.errors import ArtefactError, CreatokError, Interrupted
from creatok_cli.strict_picture import open_picture
from creatok_cli.tokens.file import read_raw
from creatok_cli.tokens.library import Entry, Library, writable
from creatok_cli.tokens.network import Network
from creatok_cli.workflows._course import label
from creatok_cli.workflows._fused import Fused, Fuser, percent
from creatok_cli.workflows._labeler import choose_labeler
from creatok_cli.workflows._lesson import stored
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._order import OUT, FuseRequest, Order, Wish, outline, settle
from creatok_cli.workflows._reading import (
    NUMBERS,
    Creature,
    Reading,
    mix_of,
    numbers,
    read_creatures,
    said,
    target_of,
)
from creatok_cli.workflows._report import draw_pictures
from creatok_cli.workflows._showing import (
    ADVICE,
    ALONE,
    PICTURES,
    Cell,
    sheet_text,
    table_rows,
    token_file,
    write_show,
)
from creatok_cli.workflows._training import train_network

if TYPE_CHECKING:
    from PIL.Image import Image

    from creatok_cli.scorers.base import Labeler

__all__ = ["FuseRequest", "Order", "fuse", "outline", "settle"]

PARENTS = 6
"""Concepts of a mix that are drawn beside it, the heaviest ones."""
WHOLE = (1, 1)
"""Fusing has no shards."""


def fuse(request: FuseRequest) -> Iterator[Event]:
    """Fuses, stores and draws.

    The last event is a FuseSummary, also of an interrupted run; a CreatokError may follow it.
    Raises CreatokError before the first event for what is wrong with the request.
    """
    yield from obtain([request.base], is_offline=request.is_offline)
    order = settle(request)
    yield from _Run(request, order).events()


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A wish that has become a token."""

    wish: Wish
    fused: Fused
    entry: Entry | None
    """In the library; None for a token that only lies beside its pictures."""


class _Run:
    """The state of one run."""

    def __init__(self, request: FuseRequest, order: Order) -> None:
        self.request, self.order = request, order
        self.started_s = time.monotonic()
        self.library = Library()
        self.network: Network | None = order.source.network
        self.made: list[Made] = []
        self.folder: Path | None = None
        self.sheets: tuple[str, ...] = ()
        self.error: CreatokError | None = None
        self.code, self.reason, self.retryable = 0, "ok", False
        self._labeler: Labeler | None = None

    def events(self) -> Iterator[Event]:
        """Everything up to the summary, and the error that ended the run."""
        yield from self.order.notices
        try:
            yield from self._work()
        except CreatokError as error:
            self.error = error
            self.code, self.reason, self.retryable = error.code, error.reason, error.retryable
        yield self._summary()
        if self.error is not None and not isinstance(self.error, Interrupted):
            raise self.error

    def _work(self) -> Iterator[Event]:
        order, request = self.order, self.request
        if self.network is None:
            yield from self._train()
        assert self.network is not None
        if request.pool:
            yield from self._show_pool(self.network)
        wishes = order.wishes
        if order.kind == "image":
            wishes = ((yield from self._read_picture(self.network)),)
        if not wishes:
            return
        fuser = Fuser(self.network, order.facts, request.device)
        yield from self._fuse(fuser, wishes)
        if order.seeds:
            yield from self._draw(fuser)

    # The network

    def _train(self) -> Iterator[Event]:
        training = self.order.source.training
        assert training is not None
        message = f"base {label(self.order.facts)} has no network yet: it is trained first"
        if not self.request.train:
            yield Notice(level="info", message=message)
        trained = yield from train_network(self.order.asked, training)
        self.network = trained.network
        message = f"the network is stored: {trained.path}"
        yield Notice(level="info", message=message)

    def _show_pool(self, network: Network) -> Iterator[Event]:
        from creatok_cli.workflows._pool import draw_pool

        self.folder = self.request.out or OUT / "pool"
        yield Stage(name="drawing", detail=f"the pool of {network.pool_size} concepts")
        picture, _ = draw_pool(network, self.folder)
        self.sheets = (str(picture),)

    # Mixes

    def _read_picture(self, network: Network) -> Generator[Event, None, Wish]:
        """The mix of a picture, as the labeler sees it."""
        request = self.request
        assert request.image is not None
        image = open_picture(request.image)
        labeler = yield from self._open_labeler()
        (labels,) = labeler.label([image], classes=network.classes, question=question(network))
        pairs, left_out = mix_of(labels)
        mix, _ = make_mix(pairs, where=str(request.image))
        told = f"{request.image.name} is {mix_text(mix)}" + (f"; {left_out}" if left_out else "")
        yield Notice(level="info", message=told)
        return Wish(mix=mix, name=request.name or "")

    def _fuse(self, fuser: Fuser, wishes: Sequence[Wish]) -> Iterator[Event]:
        fuser.prepare([wish.mix for wish in wishes])
        told: set[str] = set()
        for wish in wishes:
            word = f"<{wish.name}>" if wish.name else ""
            fused = fuser.fuse(wish.mix, word=word, where=wish.where)
            for message in fused.notices:
                if message not in told:
                    told.add(message)
                    yield Notice(level="warning", message=message)
            entry = None
            if self.order.is_stored:
                before = stored(fused.name)
                entry = self.library.add_bytes(fused.data, replace=self.request.replace)
                if before is not None and before.id == entry.id:
                    message = f"{fused.word} is fused and stored already"
                    yield Notice(level="info", message=message)
            self.made.append(Made(wish=wish, fused=fused, entry=entry))
            yield TokenFused(
                word=fused.word,
                name=entry.name if entry else "",
                id=fused.header.id,
                path=str(entry.path) if entry else "",
                mix=fused.mix,
            )

    # Pictures

    def _draw(self, fuser: Fuser) -> Iterator[Event]:
        order, request = self.order, self.request
        title = order.title or self.made[0].fused.name
        folder = self.folder = request.out or OUT / title
        cells = self._cells(fuser)
        rows = table_rows(cells, order.prompts)
        files = {token_file(made.fused.word): made.fused.data for made in self.made}
        tokens = {made.fused.word: token_file(made.fused.word) for made in self.made}
        # Copies, so that the folder stands alone.
        for word, path in (*self._parents(cells), *order.extra.items()):
            tokens.setdefault(word, token_file(word))
            files.setdefault(token_file(word), read_raw(path)[0])
        name = f"{title}.yaml"
        what = f"{title}: fused creatures beside what they are made of."
        files[name] = sheet_text(
            order.facts.name, tokens, rows, title=what, name=name, seeds=range(order.seeds)
        ).encode()
        with writable(folder, ADVICE):
            durable.open_root(folder, create=True)
        with held(folder, WHOLE) as notice:
            if notice is not None:
                yield notice
            write_show(folder, files)
            summary = yield from draw_pictures(
                folder,
                name,
                device=request.device,
                vram_gib=request.vram_gib,
                stop=request.stop,
                resume=request.resume_command,
            )
            self.sheets += summary.contact_sheets
            self.code, self.reason = summary.code, summary.reason
            self.retryable = summary.retryable
            if summary.code != Interrupted.code and summary.done + summary.skipped:
                yield from self._read_pictures(folder)

    def _cells(self, fuser: Fuser) -> list[Cell]:
        """What is drawn where: each creature, and its concepts alone."""
        table = self.order.table
        children = [
            Cell(
                subject=made.fused.word,
                column=made.wish.column or self._column(made),
                section=made.wish.section,
            )
            for made in self.made
        ]
        if isinstance(table, Sweep):
            first, *others = (plain_subject(fuser, name) for name in table.ends)
            return [alone(first), *children, *map(alone, others)]
        if isinstance(table, Grid):
            cells: list[Cell] = []
            for row in table.rows:
                subject = plain_subject(fuser, row)
                cells.append(Cell(subject=subject, column=ALONE, section=row))
                cells += [cell for cell in children if cell.section == row]
            for column in table.columns:
                subject = plain_subject(fuser, column)
                cells.append(Cell(subject=subject, column=column, section=ALONE))
            return cells
        parents = [one.name for made in self.made for one in made.fused.ingredients[:PARENTS]]
        return [*children, *map(alone, dict.fromkeys(parents))]

    def _column(self, made: Made) -> str:
        """On a sweep the shares of its ends: names would be cut off."""
        table = self.order.table
        if not isinstance(table, Sweep):
            return made.fused.word
        shares = dict(made.wish.mix.weights)
        return ":".join(percent(shares.get(end, 0.0)) for end in table.ends)

    def _parents(self, cells: Sequence[Cell]) -> list[tuple[str, str]]:
        """(word, path) of the tokens of the library that are shown as they are."""
        own = {made.fused.word for made in self.made}
        words = {cell.subject for cell in cells if cell.subject.startswith("<")} - own
        return [(word, str(self.library.find(word.strip("<>")).path)) for word in sorted(words)]

    # Labels

    def _open_labeler(self) -> Generator[Event, None, Labeler]:
        if self._labeler is None:
            from creatok_cli.backbones.base import pick_device

            request = self.request
            training = self.order.source.training
            chosen = (
                training.labeler
                if training is not None
                else choose_labeler(
                    self.order.facts, name=request.labeler, folder=request.labeler_folder
                )
            )
            yield Stage(name="labelling", detail=chosen.name)
            self._labeler = chosen.build(pick_device(request.device))
            self._labeler_name = chosen.name
        return self._labeler

    def _read_pictures(self, folder: Path) -> Iterator[Event]:
        """`fuse.json`; where no labeler is at hand, a warning in its place."""
        network = self.network
        assert network is not None
        creatures = [self._creature(made) for made in self.made]
        wanted = {name for one in creatures for name in (one.target or ())}
        classes = (*network.classes, *sorted(wanted - set(network.classes)))
        try:
            labeler = yield from self._open_labeler()
        except ArtefactError as error:
            message = f"the pictures were not labelled, and there is no {NUMBERS}: {error}"
            yield Notice(level="warning", message=message)
            return

        def labels_of(images: Sequence[Image]) -> Sequence[Labels]:
            return labeler.label(images, classes=classes, question=question(network))

        unique = list({one.word: one for one in creatures}.values())
        readings: tuple[Reading, ...] = read_creatures(
            folder / PICTURES, unique, classes, labels_of
        )
        data = numbers(
            readings,
            base={"name": label(self.order.facts), "digest": self.order.facts.digest},
            network=network.id,
            labeler=self._labeler_name,
        )
        with writable(folder, ADVICE):
            writer = durable.Writer(run=durable.new_run())
            durable.replace_derived(folder, NUMBERS, data, writer=writer)
        for reading in readings:
            yield Notice(level="info", message=said(reading))

    def _creature(self, made: Made) -> Creature:
        fused = made.fused
        return Creature(
            word=fused.word,
            name=made.entry.name if made.entry else "",
            id=fused.header.id,
            mix=fused.mix,
            target=target_of(
                fused.header.recipe, lambda identity: self.library.find(identity).header
            ),
        )

    def _summary(self) -> FuseSummary:
        one = self.made[0] if len(self.made) == 1 else None
        entry = one.entry if one else None
        can_go_on = self.code == Interrupted.code or self.retryable
        return FuseSummary(
            word=one.fused.word if one else "",
            name=entry.name if entry else "",
            id=one.fused.header.id if one else "",
            path=str(entry.path) if entry else "",
            mix=one.fused.mix if one else (),
            tokens=len(self.made),
            network=self.network.id if self.network else "",
            out=str(self.folder) if self.folder else "",
            seconds=round(time.monotonic() - self.started_s, 3),
            code=self.code,
            reason=self.reason,
            retryable=self.retryable,
            contact_sheets=self.sheets,
            resume=self.request.resume_command if can_go_on else "",
        )


def question(network: Network) -> str:
    """What a labeler is asked of a picture, where the network's classes say it."""
    return str(network.recipe["classes"].get("question", ""))


def mix_text(mix: Mix) -> str:
    """`pig 55 %, sheep 45 %`."""
    return ", ".join(f"{name} {weight:.0%}" for name, weight in mix.weights)


def alone(subject: str) -> Cell:
    """A concept as it is, in a column of its own."""
    return Cell(subject=subject, column=subject)


def plain_subject(fuser: Fuser, name: str) -> str:
    """The class, token or phrase that a name of a table means."""
    return fuser.ingredients(Mix(weights=((name, 1.0),)))[0].name
