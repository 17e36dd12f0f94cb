"""Networks: what turns mixes of concepts into tokens, and their files.

One safetensors file holds one network: the weights of its maps, the rows of its classes, the pool
of concepts that its training found (vectors, what the labeler saw, small pictures), and the recipe.
As with tokens the id, a digest over all of it, stands beside and is checked on every read, without
torch. A network belongs to a run, the digest of all that decides it, and is found by that: shipped
with its base (`networks/` in the base's folder), else kept where it was trained.

Does not: know what a method computes with it, train, or import torch.
"""

from __future__ import annotations

import array
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from creatok_cli import config, durable
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, DigestMismatch, Refused, TokenMissing
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.tokens._layout import ITEM_BYTES, Layout, header_json, read_layout, write_layout
from creatok_cli.tokens.file import DIGITS, SUFFIX, read_raw
from creatok_cli.tokens.library import writing
from creatok_cli.tokens.token import ENCODER, id_of_digests

SCHEMA = "1"
FOLDER = "networks"
"""Beside a base's weights, and in creatok's home."""
ID_KEY = "creatok.network"
"""Metadata with the id; tokens say `creatok.id`, so that neither is taken for the other."""
RUN_KEY = "creatok.run"
RUN = re.compile(r"[0-9a-f]{40}")
MAX_BYTES = 512 * 2**20
MAX_VALUE = 1e6
"""A larger weight is damage: those of trained maps stay below 100 (set by eye)."""
DTYPES = {"F32": "f", "U8": "B", "I64": "q"}
"""What a network may hold, with the type code of `array`."""
POOL = ("pool/rows", "pool/p", "pool/step", "pool/pictures")
"""[m n*d] F32, [m k] F32, [m] I64 and [m side side 3] U8 of m concepts over k classes."""
TEXTS = ("method", "base", "base_digest", "base_licence", "precision", "version")
MAPPINGS = ("spec", "encoders", "widths", "classes", "labeler")
NUMBERS = ("seed", "steps")


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor: its dtype (of DTYPES), its shape, its little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> array.array[Any]:
        """The numbers, row by row."""
        found = array.array(DTYPES[self.dtype])
        found.frombytes(self.data)
        if sys.byteorder == "big":
            found.byteswap()
        return found


def part_of(dtype: str, shape: tuple[int, ...], values: array.array[Any]) -> Part:
    """A tensor of numbers, row by row. Raises ValueError for a number that does not fit."""
    ready = array.array(DTYPES[dtype], values)
    if sys.byteorder == "big":
        ready.byteswap()
    return Part(dtype, shape, ready.tobytes())


@dataclass(frozen=True)
class Network:
    """A trained network. Raises Refused for tensors or a recipe that make no network."""

    tensors: Mapping[str, Part]
    recipe: Mapping[str, Any]
    """Plain JSON: kind `network`, method, spec, base, base_digest, base_licence, encoders (name ->
    digest of its weights), widths (name -> width), classes (name, digest, names), precision, seed,
    steps, labeler, version.
    """
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Of the file that it was read from."""
    path: str = field(default="", compare=False)
    """Of that file; empty where there is none."""

    def __post_init__(self) -> None:
        _check(self.tensors, self.recipe, self.path or "network")

    @cached_property
    def id(self) -> str:
        """`sha256:...` over tensors and recipe."""
        digests = {
            name: {
                "dtype": part.dtype,
                "shape": list(part.shape),
                "sha256": sha256_hex(part.data),
            }
            for name, part in self.tensors.items()
        }
        return id_of_digests(digests, "", self.recipe)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that it knows, in the order of every distribution of its pool."""
        return tuple(self.recipe["classes"]["names"])

    @property
    def widths(self) -> dict[str, int]:
        """Width of a row per encoder."""
        return dict(self.recipe["widths"])

    @property
    def pool_size(self) -> int:
        """Concepts in the pool."""
        return self.tensors[POOL[0]].shape[0] if POOL[0] in self.tensors else 0

    @property
    def run(self) -> str:
        """The run that made the file it was read from, empty where it was not read."""
        return self.metadata.get(RUN_KEY, "")


# Checks


def _check(tensors: Mapping[str, Part], recipe: Mapping[str, Any], where: str) -> None:
    if not tensors:
        raise Refused(f"{where}: no tensors")
    _check_recipe(recipe, where)
    for name, part in tensors.items():
        _check_part(name, part, where)
    _check_pool(tensors, len(recipe["classes"]["names"]), where)


def _check_recipe(recipe: Mapping[str, Any], where: str) -> None:
    if recipe.get("kind") != "network":
        raise Refused(f"{where}: its recipe says {str(recipe.get('kind'))[:20]!r}, no network")
    for keys, kind, what in (
        (TEXTS, str, "text"),
        (MAPPINGS, Mapping, "a mapping"),
        (NUMBERS, int, "a whole number"),
    ):
        for key in keys:
            found = recipe.get(key)
            if not isinstance(found, kind) or isinstance(found, bool):
                raise Refused(f"{where}: the recipe has no {key}, expected {what}")
    widths, names = recipe["widths"], recipe["classes"].get("names")
    if not widths or widths.keys() != recipe["encoders"].keys():
        raise Refused(f"{where}: encoders and widths of the recipe differ")
    for name, width in widths.items():
        if not ENCODER.fullmatch(str(name)) or type(width) is not int or not 1 <= width <= 65536:
            raise Refused(f"{where}: the recipe gives {str(name)[:40]!r} the width {width!r:.40}")
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise Refused(f"{where}: the recipe names no classes")
    if len(names) < 2 or len(set(names)) != len(names):
        raise Refused(f"{where}: the classes of the recipe are fewer than two, or repeated")


def _check_part(name: str, part: Part, where: str) -> None:
    if part.dtype not in DTYPES:
        expected = ", ".join(DTYPES)
        raise Refused(f"{where}: {name[:60]!r} is {part.dtype[:10]}; expected {expected}")
    if math.prod(part.shape) * ITEM_BYTES[part.dtype] != len(part.data):
        raise Refused(f"{where}: {name[:60]!r} has not the bytes that its shape needs")
    if part.dtype == "F32" and part.data:
        values = part.values()
        # A sum of finite f32 cannot overflow a double.
        if not math.isfinite(sum(values)):
            raise Refused(f"{where}: {name[:60]!r} holds NaN or infinity: train the network again")
        largest = max(max(values), -min(values))
        if largest > MAX_VALUE:
            raise Refused(f"{where}: {name[:60]!r} holds {largest:.3g}: damaged")


def _check_pool(tensors: Mapping[str, Part], classes: int, where: str) -> None:
    there = [name for name in POOL if name in tensors]
    if not there:
        return
    if len(there) != len(POOL):
        raise Refused(f"{where}: the pool lacks {', '.join(set(POOL) - set(there))}")
    rows, shares, steps, pictures = (tensors[name] for name in POOL)
    count = rows.shape[0] if rows.shape else -1
    side = pictures.shape[1] if len(pictures.shape) == 4 else 0
    fits = (
        rows.dtype == shares.dtype == "F32" and steps.dtype == "I64" and pictures.dtype == "U8",
        len(rows.shape) == 2,
        shares.shape == (count, classes),
        steps.shape == (count,),
        pictures.shape == (count, side, side, 3) and 1 <= side <= 1024,
    )
    if not all(fits):
        shapes = ", ".join(f"{name} {list(tensors[name].shape)}" for name in POOL)
        raise Refused(f"{where}: the tensors of the pool do not fit each other: {shapes}")


# Files


def network_bytes(network: Network, metadata: Mapping[str, str] | None = None) -> bytes:
    """The file of a network. Equal networks and metadata give equal bytes: no date is added."""
    tensors = {name: (part.dtype, part.shape, part.data) for name, part in network.tensors.items()}
    return write_layout(
        tensors,
        {
            "modelspec.architecture": "creatok/network",
            "modelspec.title": str(network.recipe["method"]),
            **(metadata or {}),
            "creatok.schema": SCHEMA,
            ID_KEY: network.id,
            "creatok.recipe": canonical_json(dict(network.recipe)),
        },
    )


def read_network(path: str | os.PathLike[str]) -> Network:
    """Read a network and verify every byte of it.

    Raises TokenMissing (no such file), Refused (no network, or one that cannot be used) or
    DigestMismatch (damaged).
    """
    data, layout = read_raw(path, what="network", limit=MAX_BYTES)
    return _verify(data, layout, os.fspath(path))


def check_network_bytes(data: bytes, where: str) -> Network:
    """The verified network of a file that is not written yet. Raises as `read_network`."""
    return _verify(data, read_layout(io.BytesIO(data), len(data), where), where)


def _verify(data: bytes, layout: Layout, where: str) -> Network:
    metadata = layout.metadata
    if ID_KEY not in metadata:
        what = "a token" if "creatok.id" in metadata else "a safetensors file, but no network"
        raise Refused(f"{where}: this is {what} (no {ID_KEY} in its metadata)")
    if metadata.get("creatok.schema") != SCHEMA:
        found = metadata.get("creatok.schema", "")[:20]
        raise Refused(f"{where}: network schema {found!r} is not known; update creatok")
    recipe = header_json(metadata.get("creatok.recipe", "").encode("utf-8", "surrogatepass"), where)
    tensors = {
        name: Part(dtype, shape, data[first:last])
        for name, (dtype, shape, first, last) in layout.tensors.items()
    }
    network = Network(tensors, recipe, metadata, where)
    try:
        found = network.id
    except ValueError as error:
        raise Refused(f"{where}: the recipe is no plain JSON: {error}") from None
    if not DIGITS.fullmatch(metadata[ID_KEY]) or found != metadata[ID_KEY]:
        raise DigestMismatch(
            f"{where}: tensors or recipe differ from the id in the file: it was damaged or edited"
        )
    return network


# Where networks are


def network_home() -> Path:
    """The folder of networks that were trained here."""
    return config.home() / FOLDER


def network_path(run: str) -> Path:
    """Where the network of a run is kept once it was trained here. Raises ValueError."""
    if not RUN.fullmatch(run):
        raise ValueError(f"not a run: {run[:80]!r}")
    return network_home() / f"{run}{SUFFIX}"


def find_network(run: str, facts: BaseFacts) -> Path | None:
    """The file of a run: shipped with its base, else trained here; None where there is none.

    Only headers are read, so the file may still turn out to be damaged.
    """
    return next(iter_networks(run, facts), None)


def iter_networks(run: str, facts: BaseFacts) -> Iterator[Path]:
    """All files that say they are a run's network, the shipped one first."""
    cached = network_path(run)
    shipped = Path(facts.folder) / FOLDER
    if facts.folder and shipped.is_dir():
        for path in sorted(shipped.glob(f"*{SUFFIX}")):
            if _said_run(path) == run:
                yield path
    if os.path.lexists(cached):
        yield cached


def _said_run(path: Path) -> str:
    """The run in a file's metadata; empty where none can be read."""
    try:
        with path.open("rb") as file:
            layout = read_layout(file, os.fstat(file.fileno()).st_size, str(path))
    except (OSError, ArtefactError):
        return ""
    return layout.metadata.get(RUN_KEY, "") if ID_KEY in layout.metadata else ""


def store_network(data: bytes, run: str) -> Path:
    """Keep the network of a run: whole or not at all, one writer at a time. Trained again it takes
    the place of the earlier one; a damaged one is set aside first.

    Raises Refused for bytes that are not that run's network, ArtefactError where the file of
    another run has its name, IntegrityError when the folder cannot be written.
    """
    path = network_path(run)
    if check_network_bytes(data, "network").run != run:
        raise Refused(f"network: its metadata does not say the run {run}")
    with writing(path.parent, "the folder of networks") as writer:
        try:
            there: Network | None = read_network(path)
        except TokenMissing:
            there = None
        except ArtefactError:
            there = None
            _move_aside(path)
        if there is not None and there.run != run:
            raise ArtefactError(
                f"{path}: the network of another run ({there.run[:12]}) has this name; move it away"
            )
        durable.replace_derived(path.parent, path.name, data, writer=writer)
    return path


def set_aside(path: Path) -> Path:
    """Gives a damaged file of our folder the name `*.damaged`, so that nothing is lost, and says
    where it is. Raises IntegrityError when the folder cannot be written.
    """
    with writing(path.parent, "the folder of networks"):
        _move_aside(path)
    return path.with_name(f"{path.name}.damaged")


def _move_aside(path: Path) -> None:
    with durable.place(path.parent, path.name) as spot:
        durable.OPS.rename(spot.path, f"{spot.path}.damaged", dir_fd=spot.fd)
    durable.sync_folders(path.parent, [path.name])
