"""A folder of sprites becomes new creatures, mosaics of its own patches: `creatok explore els`.

    1  the pictures are read, cut, padded and checked; nothing else may be wrong after that
    2  kin, machine and windows are found out, once per folder (`_sprites.py`)
    3  all of it is written as one file, the base `els:sprites.safetensors`, with a sheet
    4  the sheet is drawn like any other: manifest, resume and exit codes are those of `sample`
    5  an atlas for engines, and a page that shows where every pixel comes from

The run is known by its sprites and settings; asking for more pictures keeps those that are there.

Does not: print, exit, train, or use anything but the pictures that it is given.
"""

from __future__ import annotations

import glob
import io
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable, registry
from creatok_cli.backbones._els_pictures import (
    ENDINGS,
    Named,
    gather,
    in_folder,
    lock,
    read_tags,
    tags_beside,
)
from creatok_cli.backbones._els_sprites import MAX_SIDE_PX, Sprites, sprites_bytes
from creatok_cli.backbones._weights import resolve
from creatok_cli.domain import BaseFacts, Event, ExploreSummary, Notice, Size, Stage, Summary
from creatok_cli.errors import CreatokError, InputError, Interrupted, UnknownName
from creatok_cli.plan.expand import expand
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.registry import did_you_mean, preset_path
from creatok_cli.sinks import manifest
from creatok_cli.sinks._metadata import MAX_FILE
from creatok_cli.sinks.base import file_of
from creatok_cli.strict_text import shown
from creatok_cli.tokens.library import writable
from creatok_cli.workflows._checkpoint import run_digest
from creatok_cli.workflows._course import WHOLE
from creatok_cli.workflows._finds import (
    Finds,
    Search,
    check_free,
    check_stem,
    default_out,
    is_begun,
)
from creatok_cli.workflows._lesson import check_seed
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._run import Stop
from creatok_cli.workflows._showing import ADVICE, PICTURES
from creatok_cli.workflows._sprites import Study, known_study, make_study, studied
from creatok_cli.workflows.sample import SampleRequest, sample

if TYPE_CHECKING:
    from PIL.Image import Image

    from creatok_cli.sinks._origins import Cell

METHOD = "els"
PACK = "sprites.safetensors"
ORIGINS = "origins.png"
ATLAS = "atlas"
SINK = "source_map"
MACHINES = ("auto", "ls", "window", "els", "bbels", "ideal")
MAX_COUNT, MAX_STEPS = 4096, 1000
STEPS = 20
COHERENCE = 0.35
NEUTRAL = ("creature", "remix", "sprite", "picture", "any")
"""What a picture of all sources is called: the first of these that is no tag."""
SHOWN = 64
"""Pictures on the page of origins."""
MAX_MAP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ElsRequest:
    """What `creatok explore els` was asked."""

    images: str
    """A folder, a picture or a pattern."""
    count: int = 16
    """Pictures, of each tag where tags are given."""
    machine: str = "auto"
    coherence: float = COHERENCE
    freedom: int | None = None
    """Pixels; None: what suits the machine."""
    steps: int = STEPS
    lock: Path | None = None
    keep: str | None = None
    """The sprite whose locked pixels are kept, where the mask has none of its own."""
    tile: bool = False
    mirror: bool = False
    tags: Path | None = None
    """Each tag of this file gets pictures of its own sources."""
    only: Sequence[str] = ()
    """Tags that get pictures."""
    size_px: Size | None = None
    grid_px: Size | None = None
    name: str | None = None
    seed: int = 0
    out: Path | None = None
    device: str = "auto"
    replace: bool = False
    resume: bool = False
    """Only go on: an error where nothing was begun."""
    resume_command: str = ""
    stop: Stop | None = None

    @property
    def stem(self) -> str:
        """How files begin."""
        return METHOD if self.name is None else self.name

    @property
    def folder(self) -> Path:
        """Of everything that is written."""
        return self.out or default_out(self.stem, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be remixed, settled."""

    sprites: Sprites
    rows: tuple[str, ...]
    """Tags that get pictures; an empty one is for all sources."""
    run: str
    """Digest of all that decides the pictures, but for how many."""

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of the sprites."""
        return tuple(dict.fromkeys(tag for each in self.sprites.sprites for tag in each.tags))


def explore_els(request: ElsRequest) -> Iterator[Event]:
    """Reads, finds out, draws, shows.

    The last event is an ExploreSummary, also of an interrupted run; a CreatokError may follow it.
    Raises CreatokError before the first event for what is wrong with the request.
    """
    order = settle(request)
    yield from _Run(request, order).events()


def settle(request: ElsRequest) -> Order:
    """What is to be remixed, with every check that needs no torch.

    Raises InputError, SheetError, UnknownName, UnsafeName.
    """
    check_numbers(request)
    check_stem(request.stem)
    files, where, beside = find_pictures(request.images)
    marks = request.tags or beside
    sprites = gather(
        files,
        where=where,
        size_px=request.size_px,
        grid_px=request.grid_px,
        mirror=request.mirror,
        tile=request.tile,
        tags=read_tags(marks) if marks else None,
    )
    if request.lock is not None:
        sprites = lock(sprites, request.lock, request.keep)
    elif request.keep is not None:
        raise InputError("--keep: says whose pixels --lock keeps; give a mask, too")
    rows = rows_of(request, sprites)
    run = run_digest(
        {
            "kind": "explore",
            "method": METHOD,
            "sprites": sprites.digest,
            "options": dict(options_of(request)),
            "steps": request.steps,
            "seed": request.seed,
            "rows": list(rows),
        }
    )
    order = Order(sprites=sprites, rows=rows, run=run)
    check_free(request.folder, request.stem, request.seed, run, replace=request.replace)
    if request.resume and not is_begun(request.folder, run):
        raise InputError(
            f"--resume: there is no run of these settings in {request.folder}; give the same "
            "settings and --out, or leave --resume away"
        )
    return order


def check_numbers(request: ElsRequest) -> None:
    """Raise InputError for numbers and machines that cannot be."""
    check_seed(request.seed)
    if request.machine not in MACHINES:
        hint = did_you_mean(request.machine, MACHINES) or f"there are {', '.join(MACHINES)}"
        raise UnknownName(f"--machine: unknown machine {shown(request.machine)}; {hint}")
    if not 1 <= request.count <= MAX_COUNT:
        raise InputError(f"--count: found {request.count}, expected 1 to {MAX_COUNT}")
    if not 2 <= request.steps <= MAX_STEPS:
        raise InputError(f"--steps: found {request.steps}, expected 2 to {MAX_STEPS}")
    if not 0 <= request.coherence <= 1:
        raise InputError(
            f"--coherence: found {request.coherence:g}, expected 0 (patchwork) to 1 (copies)"
        )
    if request.freedom is not None:
        if not 0 <= request.freedom <= MAX_SIDE_PX:
            raise InputError(f"--freedom: found {request.freedom}, expected 0 to {MAX_SIDE_PX} px")
        if request.freedom and request.machine not in ("auto", "window"):
            raise InputError(
                f"--freedom: the machine {request.machine} shifts nothing by a number of pixels; "
                "leave --machine away"
            )
    registry.get("backbones", METHOD).check_options(tuple(sorted(options_of(request).items())))


def options_of(request: ElsRequest) -> dict[str, Any]:
    """The options of every job, but for its tags."""
    found: dict[str, Any] = {"coherence": request.coherence}
    if request.machine != "auto":
        found["machine"] = request.machine
    if request.freedom is not None:
        found["freedom"] = request.freedom
    if request.tile:
        found["tile"] = True
    return found


def find_pictures(images: str) -> tuple[list[Named], str, Path | None]:
    """(the pictures, what messages call them, the file of tags that lies with them) of a folder, a
    file or a pattern. `presets/...` is the shipped one where nothing else is. Raises InputError.
    """
    if not images or "\0" in images:
        raise InputError("--images: expected a folder, a picture or a pattern such as art/*.png")
    path = preset_path(images).expanduser()
    try:
        if path.is_dir():
            return in_folder(path), str(images), tags_beside(path)
        if path.exists():
            return [(path.stem, path)], str(images), None
    except OSError as error:
        raise InputError(f"--images {images}: {error.strerror}") from error
    if not glob.has_magic(images):
        hint = did_you_mean(path.name, _beside(path)) or "give a folder, a picture or a pattern"
        raise InputError(f"--images {images}: no such folder or picture; {hint}")
    found = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
    files = [each for each in found if each.is_file() and each.name.lower().endswith(ENDINGS)]
    if not files:
        raise InputError(f"--images {images}: fits no picture; looked for {' '.join(ENDINGS)}")
    return [(each.stem, each) for each in files], str(images), None


def _beside(path: Path) -> list[str]:
    try:
        return sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return []


def rows_of(request: ElsRequest, sprites: Sprites) -> tuple[str, ...]:
    """The tags that get pictures, or an empty one. Raises InputError for one that is not there."""
    there = tuple(dict.fromkeys(tag for each in sprites.sprites for tag in each.tags))
    for tag in request.only:
        if tag not in there:
            hint = did_you_mean(tag, there) or (
                f"there are {', '.join(there[:10])}" if there else "give --tags FILE"
            )
            raise InputError(f"--only: no sprite has the tag {shown(tag)}; {hint}")
    if request.only:
        return tuple(dict.fromkeys(request.only))
    return tuple(read_tags(request.tags)) if request.tags else ("",)


def outline(order: Order, request: ElsRequest) -> dict[str, Any]:
    """What would be remixed, for people and as JSON data."""
    sprites = order.sprites
    count = len(sprites.sprites)
    study = known_study(sprites)
    told: dict[str, Any] = {
        "sprites": f"{count} of {sprites.size_px[0]}x{sprites.size_px[1]}",
        "tags": ", ".join(order.tags) or "none",
        "machine": request.machine,
        "coherence": request.coherence,
        "freedom": request.freedom if request.freedom is not None else "what suits the machine",
        "pictures": f"{request.count} of {' and '.join(filter(None, order.rows)) or 'all sprites'}",
        "out": str(request.folder),
    }
    if request.machine == "auto":
        told["machine"] = f"auto: {study.machine if study else 'found out when the run begins'}"
    if sprites.kept_mask:
        kept = sum(map(bool, sprites.kept_mask))
        told["locked"] = f"{kept} of {len(sprites.kept_mask)} pixels"
    return told


class _Run:
    """The state of one run."""

    def __init__(self, request: ElsRequest, order: Order) -> None:
        self.request, self.order = request, order
        self.started_s = time.monotonic()
        self.figures: list[str] = []
        self.sheets: tuple[str, ...] = ()
        self.drawn = 0
        self.error: CreatokError | None = None
        self.code, self.reason, self.retryable = 0, "ok", False

    def events(self) -> Iterator[Event]:
        """Everything up to the summary, and the error that ended the run."""
        yield from (Notice(level="info", message=each) for each in self.order.sprites.notices)
        try:
            yield from self._work()
        except CreatokError as error:
            self.error = error
            self.code, self.reason, self.retryable = error.code, error.reason, error.retryable
        yield self._summary()
        if self.error is not None and not isinstance(self.error, Interrupted):
            raise self.error

    def _work(self) -> Iterator[Event]:
        folder = self.request.folder
        with writable(folder, ADVICE):
            durable.open_root(folder, create=True)
        with held(folder, WHOLE) as notice:
            if notice is not None:
                yield notice
            yield from self._remix(folder)

    def _remix(self, folder: Path) -> Iterator[Event]:
        request = self.request
        study = known_study(self.order.sprites) or (yield from self._study())
        sprites = studied(self.order.sprites, study, tile=request.tile)
        yield from self._tell(study)
        pack = folder / PACK
        writer = durable.Writer(run=durable.new_run())
        with writable(folder, ADVICE):
            durable.replace_derived(folder, PACK, sprites_bytes(sprites), writer=writer)
        facts = resolve(f"{METHOD}:{pack}")
        finds = Finds(self._search(facts, study), folder, request.stem)
        finds.save("unfinished")
        finds.write(finds.sheet, self._sheet(facts, finds.sheet).encode())
        summary = yield from self._draw(folder, finds.sheet)
        self.sheets, self.drawn = summary.contact_sheets, summary.done + summary.skipped
        self.code, self.reason = summary.code, summary.reason
        self.retryable = summary.retryable
        finds.looked_at = self.drawn
        if summary.code != Interrupted.code and self.drawn:
            yield Stage(name="finishing", detail="atlas and origins")
            yield from self._show(finds, finished(folder, finds.sheet, facts), sprites)
        finds.save("stopped" if summary.code == Interrupted.code else "done")

    def _study(self) -> Generator[Event, None, Study]:
        from creatok_cli.backbones.base import fixed_threads, own_threads, pick_device

        count = len(self.order.sprites.sprites)
        yield Stage(name="studying", detail=f"{count} sprites")
        device = pick_device(self.request.device)
        with fixed_threads(own_threads()):
            return make_study(self.order.sprites, device)

    def _tell(self, study: Study) -> Iterator[Event]:
        request = self.request
        if request.machine == "auto" and not request.freedom:
            why = {
                "ls": "the sprites lie aligned: parts stay in their places",
                "window": "the sprites lie loosely: parts may shift a little",
                "els": "places mean nothing in these sprites: parts go anywhere",
            }.get(study.machine, study.machine)
            yield Notice(level="info", message=f"machine {study.machine}: {why}")
        if len(set(study.groups)) == 1:
            message = "all sprites are versions of one creature: what comes out are, too"
            yield Notice(level="warning", message=message)
        if request.tile and not study.is_seamless:
            message = "most sprites have seams of their own: only their inner parts are used across"
            yield Notice(level="info", message=message)

    def _search(self, facts: BaseFacts, study: Study) -> Search:
        request = self.request
        width, height = self.order.sprites.size_px
        settings = {
            **options_of(request),
            "steps": request.steps,
            "count": request.count,
            "rows": list(self.order.rows),
            "size": f"{width}x{height}",
            "mirror": request.mirror,
            "machine_found": study.machine,
            "schedule": list(study.schedule),
        }
        return Search(
            method=METHOD, run=self.order.run, facts=facts, seed=request.seed, settings=settings
        )

    def _sheet(self, facts: BaseFacts, name: str) -> str:
        request = self.request

        def text(value: Any) -> str:
            return json.dumps(value, ensure_ascii=False)

        lines = [
            f"# {request.stem}: creatures remixed from {len(self.order.sprites.sprites)} sprites.",
            f"# Draw more of it: edit a copy, then  creatok sample {name} --sink {SINK}",
            "version: 1",
            f"base: {text(facts.name)}",
            "defaults:",
            f"  seed: {request.seed}",
            f"  steps: {request.steps}",
            f"  count: {request.count}",
            "options:",
            *(f"  {key}: {text(value)}" for key, value in options_of(request).items()),
            "jobs:",
        ]
        tags = {tag.casefold() for tag in self.order.tags}
        for tag in self.order.rows:
            called = tag or next(word for word in (*NEUTRAL, request.stem) if word not in tags)
            prompt = called.replace("{", "{{").replace("}", "}}")
            lines += [f"  - id: {text(called)}", f"    prompt: {text(prompt)}"]
            lines += [f"    options: {{tags: {text(tag)}}}"] if tag else []
        return "\n".join(lines) + "\n"

    def _draw(self, folder: Path, sheet: str) -> Generator[Event, None, Summary]:
        request = self.request
        asked = SampleRequest(
            sheet=str(folder / sheet),
            out=folder / PICTURES,
            device=request.device,
            sinks=(SINK,),
            stop=request.stop,
            resume_command=request.resume_command,
        )
        summary: Summary | None = None
        for event in sample(asked):
            if isinstance(event, Summary):
                summary = event
            else:
                yield event
        assert summary is not None
        return summary

    # What is shown

    def _show(
        self, finds: Finds, lines: Sequence[manifest.Line], sprites: Sprites
    ) -> Iterator[Event]:
        """Atlas, page of origins, and the numbers of every picture."""
        from PIL import Image

        from creatok_cli.sinks._origins import draw_origins
        from creatok_cli.workflows._atlas import atlas_json, draw_atlas, png_bytes

        pictures = finds.folder / PICTURES
        images: dict[str, Image.Image] = {}
        for line in lines:
            data = durable.read_file(pictures, line.file, limit=MAX_FILE)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
                images[line.file] = opened.convert("RGBA")
        pages = draw_atlas(images)
        names = [
            ATLAS if len(pages) == 1 else f"{ATLAS}-{at:03d}" for at in range(1, len(pages) + 1)
        ]
        for name, (image, page) in zip(names, pages, strict=True):
            others = [f"{each}.json" for each in names if each != name]
            finds.write(f"{name}.png", png_bytes(image))
            self.figures.append(
                str(finds.write(f"{name}.json", atlas_json(page, f"{name}.png", others)))
            )
        cells = [self._cell(pictures, line, images[line.file], sprites) for line in lines[:SHOWN]]
        flagged = [line for line in lines if line.facts.get("copy")]
        note = f"{len(lines)} pictures from {len(sprites.sprites)} sprites"
        note += f"; the first {SHOWN} are shown" if len(lines) > SHOWN else ""
        note += f"; {len(flagged)} flagged as copies" if flagged else ""
        page_bytes = draw_origins(
            f"{self.request.stem}: where the pixels come from",
            note,
            f"licence {finds.search.facts.licence}",
            cells,
        )
        self.figures.insert(0, str(finds.write(ORIGINS, page_bytes)))
        finds.facts = {
            "sources": [
                {"name": each.name, "group": each.group, "mirrored": each.mirrored}
                for each in sprites.sprites
            ],
            "pictures": [
                {"file": line.file, "seed": line.seed, **dict(line.facts)} for line in lines
            ],
        }
        if flagged:
            one = len(flagged) == 1
            message = (
                f"{len(flagged)} of {len(lines)} pictures {'is' if one else 'are'} nearly a copy "
                "of a sprite, and flagged; lower --coherence, or take another --seed"
            )
            yield Notice(level="warning", message=message)

    def _cell(self, pictures: Path, line: manifest.Line, image: Image, sprites: Sprites) -> Cell:
        """One picture for the page of origins."""
        from PIL import Image as images

        from creatok_cli.sinks._origins import SOURCES, Cell, Part
        from creatok_cli.sinks.source_map import FOLDER, colour_of

        name = f"{FOLDER}/{line.file.removesuffix('.png')}"
        said: Mapping[str, Any] = {"sources": []}
        shown_map = images.new("RGBA", image.size)
        try:
            said = json.loads(durable.read_file(pictures, f"{name}.json", limit=MAX_MAP_BYTES))
            data = durable.read_file(pictures, f"{name}.png", limit=MAX_FILE)
            with images.open(io.BytesIO(data), formats=["PNG"]) as opened:
                shown_map = opened.convert("RGBA")
        except (OSError, SyntaxError, ValueError):
            pass  # adopted without its map: the page says nothing of its sources
        total = sum(pixels for _, pixels in said["sources"]) or 1
        parts = [
            Part(
                name=sprites.sprites[source].name,
                share=pixels / total,
                colour=colour_of(source),
                image=images.frombytes("RGBA", sprites.size_px, sprites.sprites[source].rgba),
            )
            for source, pixels in said["sources"][:SOURCES]
        ]
        stem = line.file.rpartition("/")[2].removesuffix(".png")[:4]
        facts = line.facts
        caption = stem
        if "nearest" in facts:
            caption += f"  {facts['sources']} sources, nearest {facts['nearest']:.2f}"
        fault = str(facts.get("copy") or "")
        if fault:
            fault = f"{fault}: {facts['nearest_source']}"
        return Cell(image=image, map=shown_map, parts=parts, caption=caption, fault=fault)

    def _summary(self) -> ExploreSummary:
        can_go_on = self.code == Interrupted.code or self.retryable
        return ExploreSummary(
            method=METHOD,
            finds=self.drawn,
            looked_at=0,
            out=str(self.request.folder),
            seconds=round(time.monotonic() - self.started_s, 3),
            code=self.code,
            reason=self.reason,
            retryable=self.retryable,
            figures=tuple(self.figures),
            contact_sheets=self.sheets,
            resume=self.request.resume_command if can_go_on else "",
        )


def finished(folder: Path, sheet: str, facts: BaseFacts) -> tuple[manifest.Line, ...]:
    """The finished pictures of a sheet, in its order."""
    jobs = expand(load_sheet(str(folder / sheet)), {facts.name: facts}, {})
    ledger = manifest.read(folder / PICTURES)
    found = ((job, ledger.by_file.get(file_of(job))) for job in jobs)
    return tuple(
        line
        for job, line in found
        if line is not None and line.key == job.key and line.status == "done"
    )
