"""Classes -> a network that turns mixes into tokens: what `creatok fuse` runs when there is none.

`settle_training` finds everything that can be wrong before torch is imported, and says by a digest
which run it is; `known_network` looks whether that run was made before; `train_network` makes it.
The method proposes, the pictures of its proposals are drawn and labelled here (`_feedback.py`). Its
state is kept, so that the same command goes on after a stop or a kill and ends with the same bytes.

Does not: print, exit, fuse, or know what a method does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from creatok_cli import durable, registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.classes import ClassList, load_classes
from creatok_cli.domain import BaseFacts, Event, Notice, Stage
from creatok_cli.errors import ArtefactError, Interrupted, MethodDiverged
from creatok_cli.tokens.library import Library, writable
from creatok_cli.tokens.network import (
    RUN_KEY,
    Network,
    iter_networks,
    network_bytes,
    network_home,
    read_network,
    set_aside,
    store_network,
)
from creatok_cli.workflows._checkpoint import run_digest, state_name
from creatok_cli.workflows._course import WHOLE, Course, Study, alone, label
from creatok_cli.workflows._labeler import Chosen, choose_labeler
from creatok_cli.workflows._lesson import build_settings, check_method, check_seed, plain
from creatok_cli.workflows._preset import AUTO, load_preset
from creatok_cli.workflows._run import Stop

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.methods.base import Artefact, Brief


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What a network is asked to be. None: what the preset says, else the method."""

    base: str = "bestiary"
    preset: str | None = None
    """The name of a shipped preset, or a file; None for the one that fits the base."""
    concepts: str | None = None
    """The name of a shipped class list, or a file."""
    labeler: str | None = None
    """A labeler by name; None for the one that belongs to the base."""
    labeler_folder: Path | None = None
    """Of the labeler's model."""
    steps: int | None = None
    seed: int = 0
    precision: str = "fp32"
    """Number format of the frozen text encoders; what is trained is always fp32."""
    sets: Sequence[str] = ()
    """`key=value` texts."""
    device: str = "auto"
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    resume: bool = False
    """Only go on: an error where there is nothing to go on from."""
    resume_command: str = ""
    stop: Stop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is to be trained, settled."""

    facts: BaseFacts
    preset: str
    method: str
    module: ModuleType
    spec: Any
    settings: Mapping[str, Any]
    """The Spec as plain JSON data."""
    classes: ClassList
    labeler: Chosen
    seed: int
    precision: str
    recipe: Mapping[str, Any]
    """All that decides the network, apart from the stack."""
    run: str
    """Digest of the recipe."""

    @property
    def base_label(self) -> str:
        """The base without the folders above it."""
        return label(self.facts)

    @property
    def scratch_name(self) -> str:
        """The folder of the unfinished state."""
        return f"{self.scratch_stem}{self.run[:12]}"

    @property
    def scratch_stem(self) -> str:
        """How the folders of all unfinished networks of the base begin."""
        return f"train-{re.sub(r'[^A-Za-z0-9._-]+', '-', self.base_label)[:60]}-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network that was made."""

    network: Network
    path: Path
    ended: str
    steps: int
    seconds: float


def settle_training(request: TrainRequest) -> Training:
    """What is to be trained, with every check that needs no torch.

    Raises InputError, PresetError, UnknownName, ArtefactError; the places of faults are those of
    the preset, or flags.
    """
    check_seed(request.seed)
    facts = resolve(request.base)
    preset = load_preset("fuse", request.preset or own_preset(facts))
    check_method(preset.method, facts, "fuse")
    module = registry.get("methods", preset.method)
    spec = build_settings(
        module.Spec, preset.values, preset, {"steps": request.steps}, request.sets
    )
    chosen = request.concepts or preset.source
    if chosen == AUTO:
        chosen = "bestiary" if facts.backbone == "bestiary" else "real-world"
    classes = load_classes(chosen)
    labeler = choose_labeler(facts, name=request.labeler, folder=request.labeler_folder)
    settings = plain(asdict(spec))
    recipe = {
        "kind": "network",
        "method": preset.method,
        "settings": settings,
        "classes": classes.digest,
        "base": facts.digest,
        "labeler": labeler.recipe,
        "precision": request.precision,
        "seed": request.seed,
    }
    return Training(
        facts=facts,
        preset=preset.name,
        method=preset.method,
        module=module,
        spec=spec,
        settings=settings,
        classes=classes,
        labeler=labeler,
        seed=request.seed,
        precision=request.precision,
        recipe=recipe,
        run=run_digest(recipe),
    )


def own_preset(facts: BaseFacts) -> str:
    """The shipped preset that fits a base."""
    return "distok-small" if facts.backbone == "bestiary" else "distok"


def outline(training: Training) -> dict[str, Any]:
    """What would be trained, for people and as JSON data."""
    facts, classes = training.facts, training.classes
    return {
        "base": f"{training.base_label} ({facts.digest}, licence {facts.licence})",
        "preset": training.preset,
        "method": training.method,
        "settings": dict(training.settings),
        "precision": training.precision,
        "seed": training.seed,
        "classes": f"{len(classes.classes)} of {classes.name} ({classes.digest})",
        "labeler": dict(training.labeler.recipe),
        "run": training.run,
    }


# Made before


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a run's network."""

    network: Network | None
    """Whole and verified; None where it has to be trained."""
    notices: tuple[Notice, ...] = ()
    """Of files that are damaged."""


def known_network(training: Training, *, may_train: bool = True) -> Known:
    """The network of a run, if it was made before. A damaged file of ours is set aside; a damaged
    one that came with the base is passed over.

    Raises the error of a damaged file where training is not allowed, IntegrityError.
    """
    notices: list[Notice] = []
    for path in iter_networks(training.run, training.facts):
        try:
            network = read_network(path)
            if network.run == training.run:
                return Known(network=network, notices=tuple(notices))
            raise ArtefactError(f"{path}: the network of another run ({network.run[:12]})")
        except ArtefactError as error:
            if not may_train:
                raise
            told = "install creatok again to have the one that came with it"
            if path.parent == network_home():
                told = f"it was set aside as {set_aside(path).name}, and is trained again"
            notices.append(Notice(level="warning", message=f"{error}; {told}"))
    return Known(network=None, notices=tuple(notices))


# The run


def train_network(request: TrainRequest, training: Training) -> Generator[Event, None, Trained]:
    """Trains a network and stores it, though there may be one already.

    Raises Interrupted after a stop (the state is kept), MethodDiverged, DeviceError, OutputBusy and
    other IntegrityError, and ArtefactError for a labeler that cannot be read.
    """
    started_s = time.monotonic()
    library = Library()
    scratch = library.scratch(training.scratch_name)
    what = f"the network for {training.base_label}"
    with ExitStack() as stack:
        lock = alone(scratch, what, "trained", "wait for it, or train with another --seed")
        notice = stack.enter_context(lock)
        if notice is not None:
            yield notice
        with writable(scratch):
            durable.sweep(scratch, {""}, shard=WHOLE)
        course = _course(request, training, scratch, what)
        study = Study(course)
        try:
            artefact = yield from study.events()
        except MethodDiverged as error:
            raise MethodDiverged(f"{error}; try a smaller --set lr") from error
        if artefact is None:
            raise Interrupted("stopped on request; the same command goes on")
        assert study.keeper is not None
        network = finished(artefact, training)
        data = network_bytes(network, network_metadata(training, network))
        path = store_network(data, training.run)
        study.keeper.drop()
    return Trained(
        network=read_network(path),
        path=path,
        ended=artefact.ended,
        steps=artefact.steps,
        seconds=time.monotonic() - started_s,
    )


def _course(request: TrainRequest, training: Training, scratch: Path, what: str) -> Course:
    from creatok_cli.workflows._feedback import Answers

    def brief(resume: Mapping[str, Tensor] | None) -> Brief:
        from creatok_cli.methods.base import Brief

        return Brief(verb="fuse", classes=training.classes, resume=resume)

    classes = training.classes
    relatives = sorted(scratch.parent.glob(f"{training.scratch_stem}*"))
    detail = f"{what}, {len(classes.classes)} concepts of {classes.name}"
    return Course(
        what=what,
        doing=Stage(name="training", detail=detail),
        facts=training.facts,
        module=training.module,
        spec=training.spec,
        seed=training.seed,
        precision=training.precision,
        device=request.device,
        vram_gib=request.vram_gib,
        recipe=training.recipe,
        scratch=scratch,
        relatives=tuple(each for each in relatives if each != scratch),
        brief=brief,
        answer=Answers(training.facts, training.labeler, training.precision, scratch, request.stop),
        resume=request.resume,
        stop=request.stop,
    )


def finished(artefact: Artefact, training: Training) -> Network:
    """The network with what its method cannot know: who labelled."""
    if artefact.network is None:
        raise ArtefactError(f"method {training.method} ended without a network")
    recipe = {**artefact.network.recipe, "labeler": dict(training.labeler.recipe)}
    return replace(artefact.network, recipe=recipe)


def network_metadata(training: Training, network: Network) -> dict[str, str]:
    """What the file says beside its recipe; no time, so that equal runs give equal bytes."""
    return {
        RUN_KEY: training.run,
        "modelspec.description": f"Turns mixes of {len(network.classes)} concepts into tokens for "
        f"{training.base_label}; trained by {training.method} of creatok.",
    }


def drop_training(training: Training) -> None:
    """Removes the unfinished state of a run, if there is one."""
    scratch = Library().scratch(training.scratch_name)
    with writable(scratch):
        durable.remove(scratch, state_name(training.run))
