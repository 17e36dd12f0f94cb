"""Sheet -> pictures: the workflow behind `creatok sample`.

Everything that can be wrong with a sheet, a token or a base is found before a weight is read; torch
is imported only when something is left to draw. `replay` draws one picture again from the recipe
that it carries.

Does not: print, exit, or know a terminal.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from creatok_cli import config, registry
from creatok_cli.backbones._fetch import obtain
from creatok_cli.backbones._lora_file import cached_blob, lora_path
from creatok_cli.backbones._lora_fit import check_fit as check_lora_fit
from creatok_cli.backbones._pins import Pins, lock_of
from creatok_cli.backbones._storage import check_storage, checked_storage
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.mixes import Mix
from creatok_cli.domain import (
    BaseFacts,
    Batch,
    Event,
    Failed,
    Job,
    Notice,
    Options,
    Plan,
    Rendered,
    Stage,
    without_storage,
)
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    DigestMismatch,
    InputError,
    SheetError,
    TokenMissing,
    UnknownName,
)
from creatok_cli.plan.batches import make_plan, shard
from creatok_cli.plan.expand import expand
from creatok_cli.plan.names import name_fault, slug
from creatok_cli.plan.pictures import load_pictures, picture_rows
from creatok_cli.plan.sheet import Sheet, load_sheet
from creatok_cli.sinks._metadata import MAX_FILE, NotOurs, NotWhole, job_of, read_recipe
from creatok_cli.sinks.base import MetadataMode
from creatok_cli.strict_picture import ENDINGS, digest_of, read_picture_bytes
from creatok_cli.tokens.file import TokenHeader, read_header
from creatok_cli.tokens.library import Library, resolve_token
from creatok_cli.tokens.lora import LoraHeader, read_lora
from creatok_cli.tokens.token import check_widths
from creatok_cli.workflows._asked import ask_scores, ask_towers
from creatok_cli.workflows._fused import Fused, Fuser
from creatok_cli.workflows._networks import shared_network
from creatok_cli.workflows._picks import MAX_PICKS, Picking
from creatok_cli.workflows._plan_file import group_name, planned_classes
from creatok_cli.workflows._probed import Probe
from creatok_cli.workflows._run import DERIVED, Drawn, Stop, Task, Watch, run
from creatok_cli.workflows._scores import Scoring
from creatok_cli.workflows._sort import Overwrite
from creatok_cli.workflows._verify import rehearse, verify

LORAS = "loras"
"""The folder in which a picture's LoRAs are looked for when it is drawn again."""
PICTURES = "pictures"
"""The folder in which the picture that it began from is looked for."""
CLIMB = 3
"""How many folders above the picture's own."""
MAX_LOOKED = 2_000
"""Files that are hashed on that search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What `creatok sample` was asked. Only `base`, `preset`, `sets` and `precision`
    touch pixels.
    """

    sheet: str = ""
    """Path of a sheet, or `-`."""
    out: Path | None = None
    """Default: `out/` and the name of the sheet."""
    base: str | None = None
    preset: str | None = None
    """Of a base, in place of the sheet's."""
    sets: Sequence[str] = ()
    """`key=value` texts."""
    only: str | None = None
    """Glob over job ids and tags."""
    shard: tuple[int, int] | None = None
    """(K, N)."""
    batch_size: int | Literal["probe"] | None = None
    """None: what the folder was begun with, else what the base advises; `probe`: what the folder
    was begun with, else what is measured.
    """
    device: str = "auto"
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    compiling: Literal["auto", "on", "off"] = "auto"
    profile: bool = False
    """Tell where the time of drawing went."""
    precision: str | None = None
    dry_run: bool = False
    overwrite: Overwrite = "skip"
    fail_fast: bool = False
    verify: bool = False
    executor: str = "local"
    sinks: Sequence[str] = ()
    """Beside png, manifest, contact sheet and gallery."""
    metadata: MetadataMode = "full"
    scores: Sequence[str] = ()
    """`NAME` or `NAME:KEY=VALUE,...` of scorers."""
    pick: int | None = None
    """Pictures of each row to copy into `picks/`."""
    stdin: BinaryIO | None = None
    is_offline: bool = False
    """Whether a base that is not here is an error instead of being fetched."""
    resume_command: str = ""
    stop: Stop | None = None


def sample(request: SampleRequest) -> Iterator[Event]:
    """Draws what a sheet asks and its folder misses.

    The last event is a Summary, also of a partial or interrupted run. Raises CreatokError: before
    the first event for what is wrong with the request, after the Summary for what ended the run.
    """
    check_measures(request)
    check_means(request)
    sheet = load_sheet(
        request.sheet,
        stdin=request.stdin,
        overrides=config.parse_set(request.sets),
        base=request.base,
        preset=request.preset,
    )
    pins = Pins(None if is_shipped(sheet) else lock_of(request.sheet))
    if not (request.dry_run or request.verify):
        yield from obtain(
            sheet.base_names(),
            files=sheet.lora_places(),
            folder=sheet.folder,
            pins=pins,
            is_offline=request.is_offline,
        )
    facts = base_facts(sheet, pins)
    pictures = load_pictures(sheet)
    files = token_files(sheet)
    fused = fused_tokens(sheet, facts, files, device=request.device)
    files |= {word: each.header for word, each in fused.items()}
    ids = {word: header.id for word, header in files.items()}
    loras = lora_files(sheet, pins)
    digests = {path: header.digest for path, header in loras.items()}
    begun = {path: picture.digest for path, picture in pictures.items()}
    jobs = expand(sheet, facts, ids, digests, begun, only=request.only, dtype=request.precision)
    check_fit(sheet, jobs, facts, files)
    check_options(jobs, facts)
    check_loras(sheet, jobs, facts, loras)
    every = jobs
    if request.only is not None:
        every = expand(sheet, facts, ids, digests, begun, dtype=request.precision)
    out = request.out or Path("out") / sheet.name
    used = dict.fromkeys(job.base for job in jobs)
    bases = [facts[name] for name in used if name in facts]
    scoring, picking = scoring_of(request, bases, out), picking_of(request, bases, out)
    probed: Mapping[str, int] = {}
    if request.batch_size == "probe" and not (request.dry_run or request.verify):
        probed = yield from probe_of(request, bases).sizes(jobs, planned_classes(out))
    sizes = batch_classes(out, facts, request.batch_size, probed)
    plan = whole = make_plan(jobs, sheet=sheet.name, batch_class=sizes)
    if request.only is not None:
        whole = make_plan(every, sheet=sheet.name, batch_class=sizes)
    if request.shard is not None:
        plan = shard(plan, *request.shard)
    if sheet.preset is not None:
        yield Notice(level="info", message=sheet.preset.told())
    yield from (Notice(level="info", message=message) for message in sheet.notices)
    told = dict.fromkeys(message for each in fused.values() for message in each.notices)
    yield from (Notice(level="warning", message=message) for message in told)
    if not (request.dry_run or request.verify):
        # By their ids pictures can be drawn again.
        kept = {word: Library().keep(each.data) for word, each in fused.items()}
        files |= {word: entry.header for word, entry in kept.items()}
    drawer = Drawer(
        bases={each.digest: each for each in facts.values()},
        tokens={header.id: header.path for header in files.values()},
        loras={header.digest: header.path for header in loras.values()},
        pictures={picture.digest: picture.path for picture in pictures.values()},
        request=request,
        whole=whole,
    )
    sinks = (*DERIVED, *request.sinks)
    yield from start(
        request, plan, whole, out, drawer, sinks=sinks, scoring=scoring, picking=picking
    )


def check_measures(request: SampleRequest) -> None:
    """Raise InputError for scores or picks that cannot be asked for here."""
    if request.pick is not None and not 1 <= request.pick <= MAX_PICKS:
        raise InputError(f"--pick: found {request.pick}, expected 1 to {MAX_PICKS}")
    if request.verify and (request.scores or request.pick):
        raise InputError(
            "--score and --pick look at pictures, --verify only checks their bytes: run them apart"
        )


def check_means(request: SampleRequest) -> None:
    """Raise InputError for what this machine cannot be asked for in such a run."""
    if request.profile and request.executor != "local":
        raise InputError("--profile times this process alone: use --executor local")
    if request.batch_size == "probe" and request.shard is not None:
        raise InputError(
            "--batch-size probe: all shards must draw in batches of one size; probe without "
            "--shard, then give every shard the number"
        )


def scoring_of(request: SampleRequest, bases: Sequence[BaseFacts], out: Path) -> Scoring | None:
    """The scores that were asked for, checked as far as it goes without torch."""
    if not request.scores:
        return None
    asked = ask_scores(request.scores, bases, out)
    return Scoring(asked=asked, device=request.device, is_stopping=stopping(request))


def picking_of(request: SampleRequest, bases: Sequence[BaseFacts], out: Path) -> Picking | None:
    """The picks that were asked for; pictures are told apart by the towers that score them, else
    by the base's own.
    """
    if request.pick is None:
        return None
    towers = ask_towers(request.scores, bases, out)
    return Picking(
        count=request.pick, towers=towers, device=request.device, is_stopping=stopping(request)
    )


def probe_of(request: SampleRequest, bases: Sequence[BaseFacts]) -> Probe:
    """What measures batch sizes for a request."""
    return Probe(
        facts={each.digest: each for each in bases},
        device=request.device,
        vram_gib=request.vram_gib,
        is_stopping=stopping(request),
    )


def stopping(request: SampleRequest) -> Callable[[], bool]:
    """Whether the run was asked to stop."""
    stop = request.stop
    return stop.is_set if stop is not None else lambda: False


def start(
    request: SampleRequest,
    plan: Plan,
    whole: Plan,
    out: Path,
    drawer: Drawer,
    *,
    sinks: Sequence[str],
    scoring: Scoring | None = None,
    picking: Picking | None = None,
) -> Iterator[Event]:
    """A rehearsal, a check or a run of a plan, as the request says."""
    for name in sinks:
        registry.describe("sinks", name)
    registry.describe("executors", request.executor)
    task = Task(
        plan=plan,
        whole=whole,
        out=out,
        draw=drawer,
        overwrite=request.overwrite,
        fail_fast=request.fail_fast,
        metadata=request.metadata,
        sinks=sinks,
        starts=drawer.pictures,
        device=request.device,
        resume=request.resume_command,
        stop=request.stop,
        scoring=scoring,
        picking=picking,
    )
    if request.dry_run:
        return rehearse(task)
    return verify(task) if request.verify else run(task)


def is_shipped(sheet: Sheet) -> bool:
    """Whether a sheet came with creatok: nothing is written beside it."""
    return sheet.folder.resolve().is_relative_to(registry.preset_folder().resolve())


def base_facts(sheet: Sheet, pins: Pins | None = None) -> dict[str, BaseFacts]:
    """Facts of the bases that the sheet names. Raises ModelMissing, Refused, DigestMismatch."""
    facts: dict[str, BaseFacts] = {}
    for name in sheet.base_names():
        try:
            facts[name] = resolve(name, pins)
        except UnknownName:
            # `expand` does not find it either and tells it with its line.
            continue
    return facts


def token_files(sheet: Sheet) -> dict[str, TokenHeader]:
    """The verified header of every token that is declared by a name or file, by word; headers only,
    without torch.

    Raises TokenMissing, Refused or DigestMismatch, at the line of the declaration.
    """
    found: dict[str, TokenHeader] = {}
    for word, name in sheet.tokens.items():
        if isinstance(name, Mix):
            continue
        try:
            found[word] = read_header(resolve_token(name, sheet.folder))
        except ArtefactError as error:
            raise type(error)(f"{declared_at(sheet, word)}: token {word}: {error}") from error
    return found


def lora_files(sheet: Sheet, pins: Pins) -> dict[str, LoraHeader]:
    """The verified header of every LoRA, by its path as written; without torch.

    Raises TokenMissing, Refused or DigestMismatch, at the place of the path.
    """
    found: dict[str, LoraHeader] = {}
    for path in sheet.lora_places():
        try:
            found[path] = read_lora(lora_path(path, sheet.folder, pins))
        except ArtefactError as error:
            raise type(error)(f"{lora_at(sheet, path)}: LoRA {error}") from error
    return found


def lora_at(sheet: Sheet, path: str) -> str:
    """`file:line:column` of a LoRA's path."""
    return sheet.lora_places()[path]


def check_loras(
    sheet: Sheet,
    jobs: Sequence[Job],
    facts: Mapping[str, BaseFacts],
    loras: Mapping[str, LoraHeader],
) -> None:
    """Raise ArtefactError for the first LoRA that misfits the base of a job that is drawn with
    it.
    """
    known = {each.digest: each for each in facts.values()}
    paths = {header.digest: path for path, header in loras.items()}
    uses: dict[tuple[str, str], Job] = {}
    for job in jobs:
        for worn, _ in job.weights:
            uses.setdefault((worn, job.base_digest), job)
    for (worn, digest), job in uses.items():
        path = paths[worn]
        try:
            check_lora_fit(loras[path], known[digest])
        except ArtefactError as error:
            at = lora_at(sheet, path)
            raise ArtefactError(f"{at}: LoRA {error} (used at {job.where})") from error


def fused_tokens(
    sheet: Sheet,
    facts: Mapping[str, BaseFacts],
    files: Mapping[str, TokenHeader],
    *,
    device: str,
) -> dict[str, Fused]:
    """The tokens that are declared as mixes, by word, made by the network of their base.

    No torch, unless a phrase is new. Raises InputError or ArtefactError, at the line of the
    declaration.
    """
    mixes = {word: mix for word, mix in sheet.tokens.items() if isinstance(mix, Mix)}
    bases = mix_bases(sheet, facts, files, mixes) if mixes else {}
    fusers: dict[str, Fuser] = {}
    found: dict[str, Fused] = {}
    for word, mix in mixes.items():
        base = bases[word]
        begin = f"{declared_at(sheet, word)}: token {word}"
        try:
            if base.digest not in fusers:
                fusers[base.digest] = Fuser(shared_network(base), base, device)
                of_base = [each for other, each in mixes.items() if bases[other] == base]
                fusers[base.digest].prepare(of_base)
            found[word] = fusers[base.digest].fuse(mix, word=word)
        except SheetError:
            raise  # a fault of the preset, which says its place
        except (InputError, ArtefactError) as error:
            raise type(error)(f"{begin}: {error}") from error
    return found


def mix_bases(
    sheet: Sheet,
    facts: Mapping[str, BaseFacts],
    files: Mapping[str, TokenHeader],
    mixes: Iterable[str],
) -> dict[str, BaseFacts]:
    """The one base that draws each fused word. Raises InputError where several do."""
    known = {each.digest: each for each in facts.values()}
    if len(known) == 1:
        return dict.fromkeys(mixes, next(iter(known.values())))
    ids = {word: header.id for word, header in files.items()}
    uses: dict[str, dict[str, None]] = {word: {} for word in mixes}
    loras = dict.fromkeys(sheet.lora_places(), "worn")
    begun = dict.fromkeys(picture_rows(sheet), "begun")
    for job in expand(sheet, facts, {**dict.fromkeys(mixes, "fused"), **ids}, loras, begun):
        for word, _ in job.tokens:
            uses.get(word, {})[job.base_digest] = None
    for word, digests in uses.items():
        if len(digests) > 1:
            names = " and ".join(known[digest].name for digest in digests)
            raise InputError(
                f"{declared_at(sheet, word)}: token {word} is a mix, which becomes another token "
                f"on every base, but {names} draw it: declare a word for each"
            )
    first = next(iter(known))
    return {word: known[next(iter(digests), first)] for word, digests in uses.items()}


def declared_at(sheet: Sheet, word: str) -> str:
    """`file:line:column` of a token's declaration, whose key may lack the brackets."""
    at = sheet.places.find(("tokens",))
    for key in (word, word.strip("<>")):
        at = max(at, sheet.places.find(("tokens", key)))
    return f"{sheet.file}:{at[0]}:{at[1]}"


def check_fit(
    sheet: Sheet,
    jobs: Sequence[Job],
    facts: Mapping[str, BaseFacts],
    files: Mapping[str, TokenHeader],
) -> None:
    """Raise ArtefactError for the first token that misfits the base of a job that uses it."""
    known = {each.digest: each for each in facts.values()}
    uses = {(word, job.base_digest): job for job in reversed(jobs) for word, _ in job.tokens}
    for (word, digest), job in uses.items():
        base = known[digest]
        if not base.encoders:
            continue  # a base without text encoders of its own says nothing before it is open
        try:
            check_widths(word, files[word].widths, dict(base.encoders), base.name)
        except ArtefactError as error:
            at = declared_at(sheet, word)
            raise ArtefactError(f"{at}: {error} (used at {job.where})") from error


def check_options(jobs: Sequence[Job], facts: Mapping[str, BaseFacts]) -> None:
    """Raise InputError for the first job whose options its base does not know, or not with the
    job's scheduler. No torch: a plug-in with options says `check_options`.
    """
    known = {each.digest: each for each in facts.values()}
    asked = {(job.base_digest, job.options, job.scheduler, bool(job.weights)): job for job in jobs}
    for (digest, options, scheduler, has_loras), job in asked.items():
        base = known[digest]
        try:
            own = plain_options(options, base, has_loras=has_loras)
            if not own:
                continue
            check = getattr(registry.get("backbones", base.backbone), "check_options", None)
            if check is None:
                raise InputError(f"base {base.name} has no options")
            check(own, scheduler)
        except InputError as error:
            raise type(error)(f"{job.where}: {error}") from error


def plain_options(options: Options, base: BaseFacts, *, has_loras: bool) -> Options:
    """The options without `storage`, which every base with weights takes. Raises InputError for a
    storage that cannot be.
    """
    storage = checked_storage(options)
    if not storage:
        return options
    if not base.encoders:
        raise InputError(f"base {base.name} has no weights: it takes no storage")
    check_storage(storage, has_loras=has_loras)
    return without_storage(options)


def batch_classes(
    out: Path,
    facts: Mapping[str, BaseFacts],
    asked: int | Literal["probe"] | None,
    probed: Mapping[str, int],
) -> Callable[[Job], int]:
    """The batch class of a job: asked for, else the folder's, else the probed one, else the base's
    for its size.
    """
    known = {} if isinstance(asked, int) else {**probed, **planned_classes(out)}
    by_digest = {each.digest: each for each in facts.values()}

    def size(job: Job) -> int:
        if isinstance(asked, int):
            return asked
        kept = known.get(group_name(job))
        return kept if kept else by_digest[job.base_digest].batch_class(job.size_px)

    return size


@dataclass(frozen=True, slots=True)
class Watched:
    """Draws under the eyes of the attempts count, in the process that holds the folder only."""

    render: Callable[[Batch], list[Rendered | Failed]]
    watch: Watch | None

    def __call__(self, batch: Batch) -> list[Rendered | Failed]:
        if self.watch is None:
            return self.render(batch)
        with self.watch(batch):
            return self.render(batch)

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere there is no folder to write to, and the engine counts its own deaths.
        return Watched, (self.render, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawer:
    """Opens renderer and engine when something is left to draw: torch is imported here."""

    bases: Mapping[str, BaseFacts]
    """By digest."""
    tokens: Mapping[str, str]
    """Path by artefact id."""
    loras: Mapping[str, str] = field(default_factory=dict)
    """Path by digest."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Path by digest."""
    request: SampleRequest
    whole: Plan
    """Decides what is worth compiling, whatever is left to draw."""

    def __call__(self, todo: Plan, batches: Iterable[Batch], watch: Watch) -> Iterator[Drawn]:
        names = dict.fromkeys(batch.group.base for batch in todo.batches)
        yield Stage(name="loading", detail=", ".join(names))
        # Read when torch is imported. Threads that spin while they wait make each step many times
        # slower beside other work (performance notes, section 7).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from creatok_cli._means import Means
        from creatok_cli._stages import Stages
        from creatok_cli.backbones._memory import cap
        from creatok_cli.backbones.base import pick_device
        from creatok_cli.render import OpenBase, Renderer

        request = self.request
        device = pick_device(request.device)
        cap(device, request.vram_gib)
        stages = Stages(device) if request.profile else None
        renderer = Renderer(
            OpenBase(self.bases, device),
            device=device,
            tokens=self.tokens,
            loras=self.loras,
            pictures=self.pictures,
            stop=request.stop,
            means=Means(request.vram_gib, request.compiling),
            stages=stages,
        )
        renderer.prepare(todo, self.whole)
        module = registry.get("executors", request.executor)
        used = {batch.group.base_digest for batch in todo.batches}
        threads = min(self.bases[digest].threads for digest in used)
        engine = module.build(module.Spec(), threads=threads, device=device)
        yield from renderer.check(todo)
        yield Stage(name="drawing", detail=f"{len(todo.batches)} batches on {device}")
        try:
            yield from engine.run(batches, Watched(renderer.render, watch))
        except CreatokError:
            if stages is not None:
                yield stages.profile()
            raise
        if stages is not None:
            yield stages.profile()


def replay(image: Path | str, request: SampleRequest) -> Iterator[Event]:
    """Draws one picture again from the recipe that it carries, into `out/replay` by default.

    On the same stack the bytes are those of the original: the batch class comes from the picture,
    too. Raises InputError for a picture without a full recipe, DigestMismatch if recipe, base or
    render version differ.
    """
    if request.scores or request.pick is not None or request.preset is not None:
        raise InputError("--score, --pick and --preset belong to a SHEET, not to --from")
    path = Path(image)
    recipe = read_picture(path)
    try:
        job = job_of(recipe)
    except NotOurs as error:
        if "recipe" not in recipe:
            raise InputError(f"{path}: {error}; it cannot be drawn again from that") from error
        raise DigestMismatch(f"{path}: {error}") from error
    name = request.base or job.base
    if not (request.dry_run or request.verify):
        yield from obtain([name], is_offline=request.is_offline)
    facts = replay_base(name, job, path)
    tokens, loras = replay_tokens(job, path), replay_loras(job, path)
    pictures = replay_pictures(job, path)
    stem = slug(path.stem)
    job = replace(
        job,
        base=facts.name,
        row="replay",
        name=stem if name_fault(stem) is None else job.key.rpartition(":")[2][:8],
        where=str(path),
    )
    drawn_as = recipe.get("class")
    asked = request.batch_size if isinstance(request.batch_size, int) else 0
    size = asked or (drawn_as if type(drawn_as) is int and drawn_as > 0 else 0)
    plan = make_plan([job], sheet="replay", batch_class=size or facts.batch_class(job.size_px))
    out = request.out or Path("out") / "replay"
    drawer = Drawer(
        bases={facts.digest: facts},
        tokens=tokens,
        loras=loras,
        pictures=pictures,
        request=request,
        whole=plan,
    )
    yield from start(request, plan, plan, out, drawer, sinks=tuple(request.sinks))


def replay_base(name: str, job: Job, path: Path) -> BaseFacts:
    """The base of a picture, if it is still the one that drew it."""
    try:
        facts = resolve(name)
    except UnknownName as error:
        raise UnknownName(
            f"{path} was drawn with base {name}: {error}; give it with --base"
        ) from error
    if facts.digest != job.base_digest:
        raise DigestMismatch(
            f"{path} was drawn with {job.base_digest[:19]}, but base {name} is "
            f"{facts.digest[:19]}; give the right one with --base"
        )
    return facts


def replay_tokens(job: Job, path: Path) -> dict[str, str]:
    """Path by id of the tokens that drew a picture, from the library.

    Raises TokenMissing for one that is not there, DigestMismatch for a damaged one.
    """
    library = Library()
    found: dict[str, str] = {}
    for word, identity in job.tokens:
        try:
            found[identity] = str(library.find(identity).path)
        except TokenMissing as error:
            raise TokenMissing(
                f"{path}: its recipe needs the token {word} ({identity[:19]}), which is not in the "
                "library; take it in with 'creatok tokens import FILE', or draw its sheet"
            ) from error
    return found


def replay_loras(job: Job, path: Path) -> dict[str, str]:
    """Path by digest of the LoRAs that drew a picture: found by content in the folders `loras`
    beside it and up to `CLIMB` folders above, in that of the home folder, and in the Hub's cache.

    Raises TokenMissing for one that is in none of them.
    """
    wanted = {digest for digest, _ in job.weights}
    found: dict[str, str] = {}
    for folder in [*(each / LORAS for each in folders_above(path)), config.home() / LORAS]:
        for file in sorted(folder.glob("*.safetensors")) if wanted - found.keys() else ():
            try:
                header = read_lora(file)
            except ArtefactError:
                continue  # of another kind, or damaged: not the one that is looked for
            if header.digest in wanted:
                found.setdefault(header.digest, str(file))
    for digest in sorted(wanted - found.keys()):
        cached = cached_blob(digest)
        if cached is not None and read_lora(cached).digest == digest:
            found[digest] = str(cached)
    for digest in sorted(wanted - found.keys()):
        raise TokenMissing(
            f"{path}: its recipe needs the LoRA {digest[:19]}; put its file into a folder "
            f"'{LORAS}' beside the picture, or draw its sheet"
        )
    return found


def folders_above(path: Path) -> list[Path]:
    """The folder of a picture and `CLIMB` folders above it."""
    return [path.absolute().parent, *path.absolute().parent.parents][: CLIMB + 1]


def replay_pictures(job: Job, path: Path) -> dict[str, str]:
    """Path by digest of the picture that a job began from: found by content in the folders
    `pictures` beside the drawn one and up to `CLIMB` folders above, and in these folders
    themselves.

    Raises TokenMissing where there is none.
    """
    wanted = job.init_image
    if wanted is None:
        return {}
    folders = [each for above in folders_above(path) for each in (above / PICTURES, above)]
    files = (file for each in folders for file in sorted(each.glob("*")))
    alike = (file for file in files if file.suffix.lower() in ENDINGS)
    for file in islice(alike, MAX_LOOKED):
        try:
            if digest_of(read_picture_bytes(file)) == wanted:
                return {wanted: str(file)}
        except InputError:
            continue  # not to be read: not the one that is looked for
    raise TokenMissing(
        f"{path}: its recipe begins from the picture {wanted[:19]}; put it into a folder "
        f"'{PICTURES}' beside this one, or draw its sheet"
    )


def read_picture(path: Path) -> dict[str, Any]:
    """The recipe chunk of a local picture: PNG by content, a regular file, bounded; never decoded.

    Raises InputError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(fd, "rb") as file:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise InputError(f"{path}: is no regular file")
            if facts.st_size > MAX_FILE:
                raise InputError(f"{path}: is larger than {MAX_FILE >> 20} MiB")
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: the picture cannot be read: {reason}") from error
    try:
        return read_recipe(data)
    except (NotWhole, NotOurs) as error:
        raise InputError(
            f"{path}: {error}; only PNG files of creatok can be drawn again"
        ) from error
