"""Which network fuses: the file that is named, else the one of the run that is asked for, else the
only one that was made for the base.

Does not: train, or import torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from creatok_cli.domain import BaseFacts, Notice
from creatok_cli.errors import ArtefactError, InputError, ModelMissing
from creatok_cli.tokens._layout import header_json, read_layout
from creatok_cli.tokens.file import SUFFIX
from creatok_cli.tokens.library import short
from creatok_cli.tokens.network import ID_KEY, Network, network_home, read_network
from creatok_cli.workflows._course import label
from creatok_cli.workflows._fused import check_base, method_of
from creatok_cli.workflows._training import (
    Training,
    TrainRequest,
    known_network,
    settle_training,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The network, or how it is to be made."""

    network: Network | None
    """None where it has to be trained first."""
    training: Training | None = None
    """None where a file was found without asking how it was made."""
    notices: tuple[Notice, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """What the network knows, or will know."""
        if self.network is not None:
            return self.network.classes
        assert self.training is not None
        return self.training.classes.classes


def choose_network(
    facts: BaseFacts,
    asked: TrainRequest,
    *,
    file: Path | None = None,
    is_certain: bool = False,
    may_train: bool = True,
) -> Source:
    """The network of a file, else of the training that is asked for, else, unless `is_certain`, the
    only one that was made for the base with other settings.

    Raises as `settle_training`; ArtefactError for a file that is damaged or of another base, and
    where there is none and `may_train` is off, with the command that makes one.
    """
    if file is not None:
        return named_network(file, facts)
    try:
        training = settle_training(asked)
    except ArtefactError:
        # A base without a labeler of its own: what was trained for it before still fuses.
        source = None if is_certain else only_network(facts)
        if source is None:
            raise
        return source
    command = f"'creatok fuse --train --base {shlex.quote(facts.name)}'"
    try:
        known = known_network(training, may_train=may_train)
    except ArtefactError as error:
        raise type(error)(f"{error}; {command} makes it again") from error
    if known.network is not None:
        check_base(known.network, facts)
        method_of(known.network)
        return Source(network=known.network, training=training, notices=known.notices)
    source = None if is_certain or known.notices else only_network(facts)
    if source is not None:
        return source
    if not may_train:
        raise ModelMissing(f"base {label(facts)} has no network that fuses; {command} makes one")
    return Source(network=None, training=training, notices=known.notices)


def shared_network(facts: BaseFacts) -> Network:
    """The network that sheets use for a base, which is never trained for them.

    Raises ModelMissing with the command that makes it, ArtefactError for a damaged one.
    """
    found = choose_network(facts, TrainRequest(base=facts.name), may_train=False).network
    assert found is not None
    return found


def named_network(path: Path, facts: BaseFacts) -> Source:
    """The network of a file. Raises ArtefactError for another base."""
    network = read_network(path)
    check_base(network, facts, f"the network {path}")
    method_of(network, f"the network {path}")
    return Source(network=network)


def only_network(facts: BaseFacts) -> Source | None:
    """The one network that was made for a base with other settings; None where there is none.

    Raises InputError where there are several.
    """
    found = [path for path in kept_networks() if said_base(path) == facts.digest]
    if not found:
        return None
    if len(found) > 1:
        listed = ", ".join(str(path) for path in found[:5])
        raise InputError(
            f"base {label(facts)} has {len(found)} networks, none with the default "
            f"settings: {listed}; choose one with --network FILE, or make one with --train"
        )
    source = named_network(found[0], facts)
    assert source.network is not None
    told = f"fusing with the only network of base {label(facts)}, {short(source.network.id)}"
    return Source(network=source.network, notices=(Notice(level="info", message=told),))


def kept_networks() -> Sequence[Path]:
    """The files of networks that were trained here, sorted."""
    home = network_home()
    return sorted(home.glob(f"*{SUFFIX}")) if home.is_dir() else []


def said_base(path: Path) -> str:
    """The digest of the base in a file's header; empty where none can be read."""
    try:
        with path.open("rb") as file:
            metadata = read_layout(file, os.fstat(file.fileno()).st_size, str(path)).metadata
        recipe = header_json(metadata.get("creatok.recipe", "").encode(), str(path))
    except (OSError, ValueError, ArtefactError):
        return ""
    return str(recipe.get("base_digest", "")) if ID_KEY in metadata else ""
