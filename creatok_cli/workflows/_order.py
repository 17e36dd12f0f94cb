"""What `fuse` is asked, and what it comes to once every check is passed that needs no torch.

`settle` finds everything that can be wrong with mixes, names, prompts, a base or a network, and
says where; only what a picture shows, and what a network turns out to hold that is yet to be
trained, come later.

Does not: import torch, train, draw, or write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.mixes import (
    Grid,
    Mix,
    Sweep,
    load_mixes,
    parse_grid,
    parse_mix,
    parse_sweep,
)
from creatok_cli.domain import BaseFacts, Notice
from creatok_cli.errors import ArtefactError, InputError, UnsafeName
from creatok_cli.plan.names import slug
from creatok_cli.tokens.library import Library, check_name, resolve_token
from creatok_cli.workflows._fused import default_name, ingredients
from creatok_cli.workflows._lesson import stored
from creatok_cli.workflows._networks import Source, choose_network
from creatok_cli.workflows._run import Stop
from creatok_cli.workflows._showing import check_prompts, references
from creatok_cli.workflows._training import TrainRequest

Kind = Literal["mix", "sweep", "grid", "sheet", "image", "none"]
SEEDS = 4
"""Pictures of each creature where `--render` does not say."""
MAX_RENDER = 256
OUT = Path("out") / "fuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseRequest:
    """What `creatok fuse` was asked. None: what the preset says, else the method."""

    words: Sequence[str] = ()
    """`CONCEPT=WEIGHT` texts."""
    sweep: str | None = None
    grid: str | None = None
    image: Path | None = None
    sheet: Path | None = None
    name: str | None = None
    base: str = "bestiary"
    render: int | None = None
    """Pictures of each creature. None: none, or 4 where something else asks for pictures."""
    prompts: Sequence[str] = ()
    out: Path | None = None
    train: bool = False
    """Make the network again, even if there is one."""
    may_train: bool = True
    network: Path | None = None
    preset: str | None = None
    concepts: str | None = None
    """The name of a shipped class list, or a file."""
    labeler: str | None = None
    labeler_folder: Path | None = None
    steps: int | None = None
    seed: int | None = None
    sets: Sequence[str] = ()
    """`key=value` texts."""
    device: str = "auto"
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    replace: bool = False
    """Give the name to the new token where another one has it."""
    resume: bool = False
    """Only go on with an unfinished training: an error where there is nothing to go on from."""
    pool: bool = False
    """Show the concepts that the training of the network found."""
    is_offline: bool = False
    """Whether a base that is not here is an error instead of being fetched."""
    resume_command: str = ""
    stop: Stop | None = None

    @property
    def has_settings(self) -> bool:
        """Whether a certain network is asked for, by how it is trained."""
        given = (self.preset, self.concepts, self.steps, self.seed)
        return self.train or self.resume or bool(self.sets) or any(x is not None for x in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One token that is asked for."""

    mix: Mix
    name: str = ""
    """In the library, or empty for a name made of the mix."""
    where: str = ""
    """For messages: `file:line:column` of a file of mixes."""
    section: str = ""
    column: str = ""
    """Place in a table; empty for the token's own word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be fused, settled."""

    kind: Kind
    facts: BaseFacts
    wishes: tuple[Wish, ...]
    """Empty for a mix that is yet to be read off a picture."""
    table: Sweep | Grid | None
    title: str
    """What folder and sheet are called; empty for a single mix, which has its own name."""
    source: Source
    """The network, or how it is made first."""
    asked: TrainRequest
    prompts: tuple[str, ...]
    extra: Mapping[str, str]
    """Tokens that the prompts name themselves: word -> path."""
    seeds: int
    """Pictures of each creature; 0 for none."""
    notices: tuple[Notice, ...]

    @property
    def is_stored(self) -> bool:
        """Whether the tokens go to the library; those of a table only lie beside their pictures."""
        return self.table is None


def settle(request: FuseRequest) -> Order:
    """What is to be fused, with every check that needs no torch.

    Raises InputError, SheetError, UnknownName, UnsafeName, ArtefactError.
    """
    kind = kind_of(request)
    facts = resolve(request.base)
    wishes, table, title, notices = wishes_of(request, kind)
    asked = train_request(request)
    source = choose_network(
        facts,
        asked,
        file=request.network,
        is_certain=request.has_settings or request.labeler is not None,
        may_train=request.may_train,
    )
    if request.train:
        source = Source(network=None, training=source.training)
    prompts = check_prompts(request.prompts)
    told = (Notice(level="info", message=message) for message in notices)
    order = Order(
        kind=kind,
        facts=facts,
        wishes=wishes,
        table=table,
        title=slug(title) if title else "",
        source=source,
        asked=asked,
        prompts=prompts,
        extra=prompt_tokens(prompts),
        seeds=seeds_of(request, kind),
        notices=(*told, *source.notices),
    )
    check_names(order, replace=request.replace)
    return order


def kind_of(request: FuseRequest) -> Kind:
    """Where the mixes come from. Raises InputError for more than one place, or none."""
    given: dict[Kind, bool] = {
        "mix": bool(request.words),
        "sweep": request.sweep is not None,
        "grid": request.grid is not None,
        "sheet": request.sheet is not None,
        "image": request.image is not None,
    }
    flags = {"mix": "CONCEPT=WEIGHT", "image": "--from-image"}
    there = [kind for kind, is_there in given.items() if is_there]
    if len(there) > 1:
        said = " and ".join(flags.get(kind, f"--{kind}") for kind in there)
        raise InputError(f"{said} exclude each other: give one of them")
    if not there and not (request.train or request.pool):
        raise InputError(
            "nothing to fuse; give concepts and weights such as pig=.55 sheep=.45, or --sweep, "
            "--grid, --sheet or --from-image; --train alone makes the network"
        )
    kind = there[0] if there else "none"
    check_flags(request, kind)
    return kind


def check_flags(request: FuseRequest, kind: Kind) -> None:
    """Raise InputError for flags that would do nothing, or contradict each other."""
    if request.name is not None:
        if kind not in ("mix", "image"):
            raise InputError("--name: names one mix; tables and sheets name their own")
        try:
            check_name(request.name)
        except UnsafeName as error:
            raise UnsafeName(f"--name: {error}") from None
    if request.train and not request.may_train:
        raise InputError("--train and --no-train exclude each other")
    if request.network is not None and request.has_settings:
        raise InputError("--network: that network is there already; leave the training flags away")
    draws = kind != "none" and seeds_of(request, kind)
    if kind == "none" and (request.render is not None or request.prompts):
        raise InputError("--render and --prompt: there is no mix to draw")
    if request.out is not None and not (draws or request.pool):
        raise InputError("--out: nothing is drawn; add --render N, or --pool")
    if request.render is not None and not 0 <= request.render <= MAX_RENDER:
        raise InputError(f"--render: found {request.render}, expected 0 to {MAX_RENDER}")


def seeds_of(request: FuseRequest, kind: Kind) -> int:
    """Pictures of each creature."""
    if request.render is not None:
        return request.render
    return SEEDS if kind in ("sweep", "grid") or request.prompts else 0


def wishes_of(
    request: FuseRequest, kind: Kind
) -> tuple[tuple[Wish, ...], Sweep | Grid | None, str, tuple[str, ...]]:
    """(what is asked for, its table, its title, notices)."""
    if kind == "mix":
        mix, notices = parse_mix(request.words)
        return (Wish(mix=mix, name=request.name or ""),), None, "", notices
    if request.sweep is not None:
        sweep = parse_sweep(request.sweep)
        title = f"sweep-{'-'.join(sweep.ends)}"
        return tuple(Wish(mix=mix) for mix in sweep.mixes()), sweep, title, ()
    if request.grid is not None:
        grid = parse_grid(request.grid)
        cells = tuple(
            Wish(mix=mix, section=row, column=column)
            for row, mixes in zip(grid.rows, grid.mixes(), strict=True)
            for column, mix in zip(grid.columns, mixes, strict=True)
        )
        title = f"grid-{'-'.join(grid.rows)}-x-{'-'.join(grid.columns)}"
        return cells, grid, title, ()
    if request.sheet is not None:
        named, notices = load_mixes(request.sheet)
        wishes = tuple(Wish(mix=one.mix, name=one.name, where=one.where) for one in named)
        return wishes, None, request.sheet.stem, notices
    return (), None, "", ()


def train_request(request: FuseRequest) -> TrainRequest:
    """What is asked of the training, if there has to be one."""
    values: dict[str, Any] = {
        "preset": request.preset,
        "concepts": request.concepts,
        "labeler": request.labeler,
        "labeler_folder": request.labeler_folder,
        "steps": request.steps,
        "seed": request.seed,
    }
    return TrainRequest(
        base=request.base,
        **{name: value for name, value in values.items() if value is not None},
        sets=tuple(request.sets),
        device=request.device,
        vram_gib=request.vram_gib,
        resume=request.resume,
        resume_command=request.resume_command,
        stop=request.stop,
    )


def prompt_tokens(prompts: Sequence[str]) -> dict[str, str]:
    """The tokens of the library that prompts name themselves. Raises InputError."""
    found: dict[str, str] = {}
    for word in references(prompts):
        try:
            found[word] = str(resolve_token(word.strip("<>"), Path()))
        except ArtefactError as error:
            raise InputError(f"--prompt: {error}") from error
    return found


def check_names(order: Order, *, replace: bool) -> None:
    """Every name of a mix means something, and no token would take the name of another.

    Raises UnknownName, TokenMissing, InputError: before a network is trained for nothing.
    """
    library = Library()
    for wish in order.wishes:
        found = ingredients(wish.mix, order.source.classes, library, wish.where)
        if not order.is_stored or replace:
            continue
        name = wish.name or default_name(found)
        entry = stored(name)
        mix = [[one.name, one.weight] for one in found]
        if entry is not None and entry.header.recipe.get("mix") != mix:
            begin = f"{wish.where}: " if wish.where else ""
            advice = "another name" if wish.where else "another --name"
            raise InputError(
                f"{begin}the token library has another token {name} (stored {entry.added[:10]}); "
                f"choose {advice}, or --replace it"
            )


def outline(order: Order, request: FuseRequest) -> dict[str, Any]:
    """What would be fused, for people and as JSON data."""
    from creatok_cli.workflows import _training

    library, classes = Library(), order.source.classes
    found = {
        wish.name or default_name(mixed): ", ".join(
            f"{one.name} {one.weight:.4g}" + (" (free)" if one.kind == "free" else "")
            for one in mixed
        )
        for wish in order.wishes
        for mixed in [ingredients(wish.mix, classes, library, wish.where)]
    }
    told: dict[str, Any] = {
        "base": f"{order.facts.name} ({order.facts.digest}, licence {order.facts.licence})",
        "creatures": found or "what the picture shows",
        "network": order.source.network.id if order.source.network else "to be trained first",
    }
    if order.source.network is None and order.source.training is not None:
        told["training"] = _training.outline(order.source.training)
    told["pictures"] = f"{order.seeds} of each creature" if order.seeds else "none"
    if order.seeds:
        told["prompts"] = list(order.prompts)
        told["out"] = str(request.out or OUT / (order.title or next(iter(found), "NAME")))
    return told
