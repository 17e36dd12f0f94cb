"""Random latents become creatures: the workflow behind `creatok explore distok`.

    1  latents of a law are drawn, on a shell of rarity or around a token if wanted, and decoded
    2  every candidate is drawn with the same seeds, and labelled
    3  out go known classes, junk, and what looks different with every seed
    4  of the rest the best and most different are picked (`_candidates.py`)
    5  they are stored as tokens, drawn once more side by side, and put on a map

Candidate i of a seed is the same whatever the count, and finds are named by it: asking for more of
them leaves the earlier names as they are. All candidates stay to be seen: `candidates.png` says
what became of each, `candidates/` has their pictures.

Does not: print, exit, optimise anything, or use a judge.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from creatok_cli import config, durable
from creatok_cli.backbones._fetch import obtain
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.mixes import make_mix
from creatok_cli.domain import BaseFacts, Event, ExploreSummary, Notice, Stage, Summary
from creatok_cli.errors import ArtefactError, CreatokError, InputError, Interrupted, UnknownName
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import shown
from creatok_cli.tokens.file import TokenHeader, check_bytes, pack_token, read_rows
from creatok_cli.tokens.library import resolve_token, short, writable
from creatok_cli.tokens.network import Network
from creatok_cli.workflows._candidates import Candidate, Judged, judge
from creatok_cli.workflows._checkpoint import run_digest
from creatok_cli.workflows._course import WHOLE, label
from creatok_cli.workflows._finds import (
    RUN,
    Find,
    Finds,
    Search,
    check_free,
    check_stem,
    default_out,
    find_name,
    is_begun,
)
from creatok_cli.workflows._fused import Fuser, check_base, method_of
from creatok_cli.workflows._labeler import Chosen, choose_labeler
from creatok_cli.workflows._lesson import check_seed
from creatok_cli.workflows._lock import held
from creatok_cli.workflows._map import draw_map
from creatok_cli.workflows._networks import Source, choose_network
from creatok_cli.workflows._report import draw_pictures
from creatok_cli.workflows._run import Stop
from creatok_cli.workflows._showing import ADVICE, PICTURES, Row, sheet_text, token_file, write_show
from creatok_cli.workflows._training import TrainRequest, train_network
from creatok_cli.workflows._training import outline as training_outline

METHOD = "distok"
CANDIDATES, OVERVIEW, MAP = "candidates", "candidates.png", "map.png"
MAX_COUNT = 1024
BLEND: Mapping[str, float] = MappingProxyType({"bestiary": 11.0})
"""By adapter, where the network's own rule (6) is too strict for the labeler: of 60 creatures of
two equal concepts, drawn by the bestiary's world itself, 24 are labelled with an exp(entropy) above
6, and 6 with one above 10.8; of those of three concepts 58 are above 6.
"""
SEEDS, FIND_SEEDS = (0, 1), (0, 1, 2, 3)
"""Pictures of a candidate, and of a find: the first ones are the same."""
LITERALS = 2
"""Classes near a latent that encoders without vectors read."""
FATES = {
    "known": "a known class",
    "junk": "shows too many",
    "unsteady": "seeds differ",
    "missing": "not drawn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DistokRequest:
    """What `creatok explore distok` was asked."""

    law: str = "gaussian"
    count: int = 64
    pick: int = 12
    novelty: float | None = None
    """A find has no class above this probability. None: what the network was trained with."""
    blend: float | None = None
    """And is spread over no more classes than this. None: see BLEND, else the same."""
    rarity: float = 0.0
    """Share of gaussian latents that lie nearer to the middle; 0 for none of that."""
    near: str | None = None
    """A token of the library, or a file, that latents lie around."""
    reach: float = 0.5
    """How far around it, in units of the law."""
    name: str | None = None
    seed: int = 0
    base: str = "bestiary"
    network: Path | None = None
    labeler: str | None = None
    labeler_folder: Path | None = None
    out: Path | None = None
    device: str = "auto"
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    replace: bool = False
    resume: bool = False
    """Only go on: an error where nothing was begun."""
    is_offline: bool = False
    """Whether a base that is not here is an error instead of being fetched."""
    resume_command: str = ""
    stop: Stop | None = None

    @property
    def stem(self) -> str:
        """How names begin."""
        return METHOD if self.name is None else self.name

    @property
    def folder(self) -> Path:
        """Of everything that is written."""
        return self.out or default_out(self.stem, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be explored, settled."""

    facts: BaseFacts
    source: Source
    asked: TrainRequest
    labeler: Chosen
    near: TokenHeader | None


def explore_distok(request: DistokRequest) -> Iterator[Event]:
    """Draws, judges, keeps.

    The last event is an ExploreSummary, also of an interrupted run; a CreatokError may follow it.
    Raises CreatokError before the first event for what is wrong with the request.
    """
    yield from obtain([request.base], is_offline=request.is_offline)
    order = settle(request)
    yield from _Run(request, order).events()


def settle(request: DistokRequest) -> Order:
    """What is to be explored, with every check that needs no torch.

    Raises InputError, UnknownName, UnsafeName, ArtefactError.
    """
    check_numbers(request)
    check_stem(request.stem)
    facts = resolve(request.base)
    labeler = choose_labeler(facts, name=request.labeler, folder=request.labeler_folder)
    asked = TrainRequest(
        base=request.base,
        labeler=request.labeler,
        labeler_folder=request.labeler_folder,
        device=request.device,
        vram_gib=request.vram_gib,
        resume_command=request.resume_command,
        stop=request.stop,
    )
    source = choose_network(
        facts, asked, file=request.network, is_certain=request.labeler is not None
    )
    near = None
    if request.near is not None:
        near = read_rows(resolve_token(request.near, Path()))[0]
    order = Order(facts=facts, source=source, asked=asked, labeler=labeler, near=near)
    if source.network is not None:
        check_network(request, order, source.network)
    elif near is not None:
        raise InputError(f"--near {shown(request.near)}: the base has no network yet that made it")
    return order


def check_numbers(request: DistokRequest) -> None:
    """Raise InputError for numbers and laws that cannot be."""
    from creatok_cli.methods.distok import LAWS

    if request.law not in LAWS:
        hint = did_you_mean(request.law, LAWS) or f"there are {', '.join(LAWS)}"
        raise UnknownName(f"--z: unknown law {shown(request.law)}; {hint}")
    check_seed(request.seed)
    if not 1 <= request.count <= MAX_COUNT:
        raise InputError(f"--count: found {request.count}, expected 1 to {MAX_COUNT}")
    if not 1 <= request.pick <= request.count:
        raise InputError(
            f"--pick: found {request.pick}, expected 1 to {request.count}, the --count"
        )
    if request.novelty is not None and not 0 < request.novelty <= 1:
        raise InputError(f"--novelty: found {request.novelty:g}, expected above 0, at most 1")
    if request.blend is not None and not 1 <= request.blend <= 1e4:
        raise InputError(f"--blend: found {request.blend:g}, expected 1 to 10000")
    if not 0 <= request.rarity <= 0.999999:
        raise InputError(f"--rarity: found {request.rarity:g}, expected 0 to 0.999999")
    if request.rarity and request.law != "gaussian":
        raise InputError(f"--rarity: a shell of {request.law} latents is not known; leave --z away")
    if not 0 < request.reach <= 10:
        raise InputError(f"--spread: found {request.reach:g}, expected above 0, at most 10")


def check_network(request: DistokRequest, order: Order, network: Network) -> None:
    """The network can be explored, `--near` was made by it, and names and folder are free.

    Raises InputError, ArtefactError.
    """
    check_base(network, order.facts)
    module = method_of(network)
    if not all(hasattr(module, each) for each in ("draw_latents", "decode")):
        raise ArtefactError(f"the network of {network.recipe['method']} has no latents to explore")
    if any(f"latents/{part}" not in network.tensors for part in module.MOMENTS):
        raise ArtefactError(
            f"the network {short(network.id)} does not say how its latents lie; train it with "
            "'creatok fuse --train'"
        )
    near = order.near
    if near is not None and near.recipe.get("network") != network.id:
        raise InputError(
            f"--near {shown(request.near)}: the token was not made by the network that explores, "
            f"{short(network.id)}; fuse it with 'creatok fuse', or name its --network"
        )
    run = run_of(request, order, network)
    check_free(request.folder, request.stem, request.seed, run, replace=request.replace)
    if request.resume and not is_begun(request.folder, run):
        raise InputError(
            f"--resume: there is no run of these settings in {request.folder}; give the same "
            "settings and --out, or leave --resume away"
        )


def run_of(request: DistokRequest, order: Order, network: Network) -> str:
    """The digest of all that decides the candidates."""
    return run_digest(
        {"kind": "explore", "method": METHOD, "network": network.id, **law_of(request, order)}
    )


def law_of(request: DistokRequest, order: Order) -> dict[str, Any]:
    """How latents are drawn, as plain JSON."""
    return {
        "law": request.law,
        "seed": request.seed,
        "rarity": request.rarity,
        "near": order.near.id if order.near else "",
        "reach": request.reach if order.near else 0.0,
    }


class _Run:
    """The state of one run."""

    def __init__(self, request: DistokRequest, order: Order) -> None:
        self.request, self.order = request, order
        self.started_s = time.monotonic()
        self.finds: Finds | None = None
        self.figures: list[str] = []
        self.sheets: tuple[str, ...] = ()
        self.error: CreatokError | None = None
        self.code, self.reason, self.retryable = 0, "ok", False

    def events(self) -> Iterator[Event]:
        """Everything up to the summary, and the error that ended the run."""
        yield from self.order.source.notices
        try:
            yield from self._work()
        except CreatokError as error:
            self.error = error
            self.code, self.reason, self.retryable = error.code, error.reason, error.retryable
        yield self._summary()
        if self.error is not None and not isinstance(self.error, Interrupted):
            raise self.error

    def _work(self) -> Iterator[Event]:
        request, order = self.request, self.order
        network = order.source.network
        if network is None:
            network = yield from self._train()
            check_network(request, order, network)
        folder = request.folder
        with writable(folder, ADVICE):
            durable.open_root(folder, create=True)
        with held(folder, WHOLE) as notice:
            if notice is not None:
                yield notice
            yield from self._explore(network, folder)

    def _train(self) -> Generator[Event, None, Network]:
        training = self.order.source.training
        assert training is not None
        message = f"base {label(self.order.facts)} has no network yet: it is trained first"
        yield Notice(level="info", message=message)
        return (yield from train_network(self.order.asked, training)).network

    def _explore(self, network: Network, folder: Path) -> Iterator[Event]:
        request, module = self.request, method_of(network)
        search = Search(
            method=METHOD,
            run=run_of(request, self.order, network),
            facts=self.order.facts,
            seed=request.seed,
            settings=self._settings(network, module),
        )
        finds = self.finds = Finds(search, folder, request.stem)
        finds.recall()
        finds.save("unfinished")
        detail = f"{request.count} {request.law} latents"
        yield Stage(name="exploring", detail=detail)
        classes = class_latents(network, module)
        candidates = self._decode(network, module, classes, search.run)
        summary = yield from self._draw_candidates(candidates, folder)
        self._take(summary)
        if summary.code == Interrupted.code:
            return
        judged = yield from self._judge(candidates, folder, network, module)
        yield from self._keep(finds, judged)
        self._show(finds, classes, judged)
        drawn = yield from finds.draw(
            title=f"{request.stem}: creatures that nobody asked for.",
            seeds=FIND_SEEDS,
            device=request.device,
            vram_gib=request.vram_gib,
            stop=request.stop,
            resume=request.resume_command,
        )
        if drawn is not None:
            self.sheets = drawn.contact_sheets
            self._take(drawn)
        finds.save("stopped" if self.code == Interrupted.code else "done")

    def _settings(self, network: Network, module: ModuleType) -> dict[str, Any]:
        rules = self._rules(network, module)
        return {
            **law_of(self.request, self.order),
            "count": self.request.count,
            "pick": self.request.pick,
            "novelty": rules.tau,
            "blend": rules.spread,
            "agreement": rules.agreement,
            "network": network.id,
            "labeler": dict(self.order.labeler.recipe),
        }

    def _rules(self, network: Network, module: ModuleType) -> Any:
        """The Spec of the network's training, with what the user says of novelty."""
        spec = config.build_spec(module.Spec, dict(network.recipe["spec"]), where="the network")
        own = BLEND.get(self.order.facts.backbone)
        given = {"tau": self.request.novelty, "spread": self.request.blend or own}
        return replace(spec, **{key: each for key, each in given.items() if each is not None})

    # Candidates

    def _decode(
        self,
        network: Network,
        module: ModuleType,
        classes: Sequence[tuple[str, Sequence[float]]],
        run: str,
    ) -> tuple[Candidate, ...]:
        """The candidates as token files. Raises InputError for a `--near` without a latent."""
        request, order = self.request, self.order
        latents = module.draw_latents(
            network,
            request.law,
            seed=request.seed,
            count=request.count,
            rarity=request.rarity,
            near=self._near(network, module),
            reach=request.reach,
        )
        said, found = network.recipe, []
        for index, latent in enumerate(latents):
            name = find_name(request.stem, request.seed, index)
            recipe = {
                "kind": "token",
                "method": said["method"],
                "template": self._rules(network, module).adaptive,
                "network": network.id,
                "latent": latent,
                "index": index,
                RUN: run,
                **law_of(request, order),
                "parents": [order.near.id] if order.near else [],
                **{
                    key: said[key]
                    for key in (
                        *("base", "base_digest", "base_licence"),
                        *("encoders", "precision", "version"),
                    )
                },
            }
            near = sorted(classes, key=lambda pair: squared(pair[1], latent))[:LITERALS]
            rows = module.decode(network, latent)
            literal = " ".join(each for each, _ in near)
            data = pack_token(f"<{name}>", literal, rows, recipe)
            header = check_bytes(data, f"candidate {name}")
            found.append(
                Candidate(
                    index=index,
                    name=name,
                    latent=tuple(latent),
                    rows=rows,
                    token=data,
                    header=header,
                )
            )
        return tuple(found)

    def _near(self, network: Network, module: ModuleType) -> list[float] | None:
        """The latent of `--near`: as it was drawn, else of what was fused."""
        header = self.order.near
        if header is None:
            return None
        latent = header.recipe.get("latent")
        if latent is not None:
            return [float(value) for value in latent]
        pairs = [(str(name), float(share)) for name, share in header.recipe["mix"]]
        mix, _ = make_mix(pairs, where=f"--near {shown(self.request.near)}")
        parts = Fuser(network, self.order.facts, self.request.device).parts(mix)
        found: list[float] = module.encode(network, parts)
        return found

    def _draw_candidates(
        self, candidates: Sequence[Candidate], folder: Path
    ) -> Generator[Event, None, Summary]:
        inner, name = folder / CANDIDATES, f"{CANDIDATES}.yaml"
        rows = [
            Row(
                id=each.name,
                subject=each.header.word,
                prompt=each.header.recipe["template"].replace("{word}", each.header.word),
            )
            for each in candidates
        ]
        files = {token_file(each.header.word): each.token for each in candidates}
        tokens = {each.header.word: token_file(each.header.word) for each in candidates}
        what = f"{len(candidates)} random latents, all with the same seeds."
        text = sheet_text(self.order.facts.name, tokens, rows, title=what, name=name, seeds=SEEDS)
        with writable(inner, ADVICE):
            durable.open_root(inner, create=True)
        write_show(inner, {**files, name: text.encode()})
        return (
            yield from draw_pictures(
                inner,
                name,
                device=self.request.device,
                vram_gib=self.request.vram_gib,
                stop=self.request.stop,
                resume=self.request.resume_command,
                sinks=(),
            )
        )

    def _judge(
        self, candidates: Sequence[Candidate], folder: Path, network: Network, module: ModuleType
    ) -> Generator[Event, None, tuple[Judged, ...]]:
        from creatok_cli.backbones.base import fixed_threads, pick_device

        yield Stage(name="labelling", detail=self.order.labeler.name)
        device = pick_device(self.request.device)
        with fixed_threads(self.order.facts.threads if device == "cpu" else 0):
            return judge(
                candidates,
                folder / CANDIDATES / PICTURES,
                self.order.labeler.build(device),
                classes=network.classes,
                question=str(network.recipe["classes"].get("question", "")),
                rules=self._rules(network, module),
                pick=self.request.pick,
            )

    # Finds

    def _keep(self, finds: Finds, judged: Sequence[Judged]) -> Iterator[Event]:
        finds.kept.clear()
        finds.looked_at = sum(each.picture is not None for each in judged)
        finds.facts = {"candidates": [record(each) for each in judged]}
        template = str(judged[0].candidate.header.recipe["template"])
        for each in judged:
            if each.is_picked:
                find = Find(
                    name=each.candidate.name,
                    token=labelled(each),
                    prompts=(template,),
                    values={
                        "quality": each.quality,
                        "novelty": each.novelty,
                        "looks like": each.looks_like,
                    },
                    facts={"labels": dict(each.top), "latent": list(each.candidate.latent)},
                )
                yield finds.keep(find, replace=self.request.replace)
        novel = sum(not each.fault for each in judged)
        told = f"{novel} of {finds.looked_at} candidates are novel; {len(finds.kept)} are kept"
        if not finds.kept:
            self.code, self.reason = 3, "nothing-found"
            told += ": ask for more with --count, or for less with --novelty or --blend"
        yield Notice(level="info" if finds.kept else "warning", message=told)

    def _show(
        self,
        finds: Finds,
        classes: Sequence[tuple[str, Sequence[float]]],
        judged: Sequence[Judged],
    ) -> None:
        facts, request = self.order.facts, self.request
        foot = f"base {label(facts)} ({facts.licence})"
        title = f"{request.stem}-{request.seed}"
        page = overview(title, f"{request.count} {request.law} latents", foot, judged)
        maps = draw_map(f"{title}: creatures between known ones", classes, judged, foot)
        for name, data in ((OVERVIEW, page), (MAP, maps)):
            self.figures.append(str(finds.write(name, data)))

    # The end

    def _take(self, summary: Summary) -> None:
        """What drawing came to."""
        if summary.code:
            self.code, self.reason = summary.code, summary.reason
            self.retryable = summary.retryable

    def _summary(self) -> ExploreSummary:
        finds = self.finds
        can_go_on = self.code == Interrupted.code or self.retryable
        return ExploreSummary(
            method=METHOD,
            finds=len(finds.kept) if finds else 0,
            looked_at=finds.looked_at if finds else 0,
            out=str(self.request.folder) if finds else "",
            seconds=round(time.monotonic() - self.started_s, 3),
            code=self.code,
            reason=self.reason,
            retryable=self.retryable,
            figures=tuple(self.figures),
            contact_sheets=self.sheets,
            resume=self.request.resume_command if can_go_on else "",
        )


def class_latents(network: Network, module: ModuleType) -> list[tuple[str, list[float]]]:
    """(name, latent) of every class of a network."""
    return [
        (name, module.encode(network, [(1.0, module.class_row(network, name))]))
        for name in network.classes
    ]


def squared(one: Sequence[float], other: Sequence[float]) -> float:
    """The squared distance of two latents."""
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def labelled(judged: Judged) -> bytes:
    """The token file of a find, which also says what the labeler sees; its id stays the same."""
    header, rows = judged.candidate.header, judged.candidate.rows
    seen = ", ".join(f"{name} {share:.0%}" for name, share in judged.top)
    said = {"modelspec.description": f"a random latent that looks like {seen}"}
    return pack_token(header.word, header.literal, rows, header.recipe, said)


def fate(judged: Judged) -> str:
    """What became of a candidate, in words."""
    if judged.fault:
        return FATES[judged.fault]
    return "kept" if judged.is_picked else "novel"


def record(judged: Judged) -> dict[str, Any]:
    """A candidate as plain JSON."""
    return {
        "name": judged.candidate.name,
        "id": judged.candidate.header.id,
        "latent": list(judged.candidate.latent),
        "fate": "kept" if judged.is_picked else judged.fault or "novel",
        "labels": dict(judged.top),
        "novelty": judged.novelty,
        "spread": judged.spread,
        "apart": judged.apart,
        "quality": judged.quality,
    }


def overview(title: str, note: str, foot: str, judged: Sequence[Judged]) -> bytes:
    """A page of all candidates that were drawn: what is no find is dim."""
    from PIL import Image

    from creatok_cli.sinks._page import TILE_GROUND
    from creatok_cli.sinks._tiles import Page, Tile, draw_tiles

    tiles = []
    for each in judged:
        if each.picture is None:
            continue
        shown = each.picture.convert("RGB")
        if not each.is_picked:
            ground = Image.new("RGB", shown.size, TILE_GROUND)
            shown = Image.blend(shown, ground, 0.65 if each.fault else 0.0)
        seen = tuple(f"{name} {share:.0%}" for name, share in each.top[:2])
        lines = (*seen, f"{each.candidate.index:02d} {fate(each)}")
        tiles.append(Tile(size_px=shown.size, rgb=shown.tobytes(), lines=lines))
    kept = sum(each.is_picked for each in judged)
    notes = (note, f"{kept} kept", "dim: no find")
    return draw_tiles(Page(title=title, notes=notes, foot=foot, tiles=tiles))


def outline(order: Order, request: DistokRequest) -> dict[str, Any]:
    """What would be explored, for people and as JSON data."""
    network, facts = order.source.network, order.facts
    told: dict[str, Any] = {
        "base": f"{facts.name} ({facts.digest}, licence {facts.licence})",
        "network": network.id if network else "to be trained first",
        **law_of(request, order),
        "candidates": request.count,
        "pictures": request.count * len(SEEDS),
        "finds": f"at most {request.pick}, {find_name(request.stem, request.seed, 0)} and on",
        "labeler": dict(order.labeler.recipe),
        "out": str(request.folder),
    }
    if network is None and order.source.training is not None:
        told["training"] = training_outline(order.source.training)
    return told
