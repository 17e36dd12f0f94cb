"""What is found out about sprites before they are remixed: kin, seams, machine, windows.

Near twins are kin, so that a mosaic of them is no new creature and calibration leaves them out
together (methods notes, 6.2). The findings depend on the sprites alone and are kept in creatok's
home.

Does not: read pictures, or draw.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from creatok_cli import config, durable
from creatok_cli.backbones._els_sprites import MACHINES, Sprites, regrouped
from creatok_cli.errors import CreatokError
from creatok_cli.hashing import sha256_hex

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones._els_pack import Pack

FOLDER = "sprites"
"""In creatok's home."""
VERSION = 1
"""Rises when findings would differ."""
STEPS = 20
"""Of the calibration; other counts take the windows of the nearest noise level."""
KIN_RMSE = 0.1
"""Sprites nearer than this, in [-1, 1] with premultiplied alpha, are one creature."""
THUMBNAIL_PX = 16
CHUNK = 512
MAX_BYTES = 1 << 22
SEAM_RATIO = 1.5
"""A seam that differs by more than this times what neighbours do can be seen (set by eye)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What was found out."""

    groups: tuple[int, ...]
    machine: str
    schedule: tuple[int, ...]
    is_seamless: bool
    """Whether most of the sprites go on at their opposite edge."""


def studied(sprites: Sprites, study: Study, *, tile: bool) -> Sprites:
    """The sprites with what was found out; they tile where that is asked and they can."""
    return replace(
        regrouped(sprites, study.groups),
        machine=study.machine,
        schedule=study.schedule,
        tile=tile and study.is_seamless,
    )


def known_study(sprites: Sprites) -> Study | None:
    """What an earlier run found out; None where nothing whole is kept."""
    try:
        data = durable.read_file(config.home() / FOLDER, _file_of(sprites), limit=MAX_BYTES)
        said = json.loads(data)
        if said["version"] != VERSION:
            return None
        groups, schedule = said["groups"], said["schedule"]
        whole = all(type(each) is int and each >= 0 for each in (*groups, *schedule))
        if not whole or len(groups) != len(sprites.sprites) or said["machine"] not in MACHINES[1:]:
            return None
        return Study(
            groups=tuple(groups),
            machine=said["machine"],
            schedule=tuple(schedule),
            is_seamless=bool(said["is_seamless"]),
        )
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return None


def make_study(sprites: Sprites, device: str) -> Study:
    """Finds it out, and keeps it where the home can be written."""
    from creatok_cli.backbones._els_pack import Pack
    from creatok_cli.backbones._els_schedule import calibrate, choose_machine

    groups = kin(Pack.of(sprites, device))
    pack = Pack.of(regrouped(sprites, groups), device)
    found = Study(
        groups=groups,
        machine=choose_machine(pack),
        schedule=calibrate(pack, steps=STEPS),
        is_seamless=is_seamless(pack.pixels),
    )
    record: dict[str, Any] = {"version": VERSION, **asdict(found)}
    folder = config.home() / FOLDER
    with suppress(OSError, CreatokError):
        durable.open_root(folder, create=True)
        data = (json.dumps(record) + "\n").encode()
        writer = durable.Writer(run=durable.new_run())
        durable.replace_derived(folder, _file_of(sprites), data, writer=writer)
    return found


def _file_of(sprites: Sprites) -> str:
    return f"{sha256_hex(f'{VERSION} {sprites.digest}')[:40]}.json"


def kin(pack: Pack) -> tuple[int, ...]:
    """A group per sprite: those that were kin, and near twins, also of their twins."""
    parent = list(range(len(pack.groups)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        parent[high] = low

    first: dict[int, int] = {}
    for at, group in enumerate(pack.groups):
        join(at, first.setdefault(group, at))
    for one, other in near_twins(pack.pixels):
        join(one, other)
    known: dict[int, int] = {}
    return tuple(known.setdefault(root(at), len(known)) for at in range(len(parent)))


def near_twins(pixels: Tensor) -> list[tuple[int, int]]:
    """Pairs of sprites [n 4 H W] that differ by less than `KIN_RMSE`.

    A thumbnail of means never differs by more than what it was made of, so it rules pairs out.
    """
    import torch
    from torch.nn.functional import interpolate

    height, width = pixels.shape[2:]
    size = (min(THUMBNAIL_PX, height), min(THUMBNAIL_PX, width))
    is_exact = height % size[0] == 0 and width % size[1] == 0
    small = interpolate(pixels, size=size, mode="area").flatten(1)
    # Cells of unequal size weigh pixels unequally: then some pairs more are looked at.
    limit = KIN_RMSE * (1.0 if is_exact else 2.0)
    found: list[tuple[int, int]] = []
    scale = small.shape[1] ** -0.5
    for start in range(0, len(small), CHUNK):
        apart = torch.cdist(small[start : start + CHUNK], small) * scale
        rows, columns = (apart < limit).nonzero(as_tuple=True)
        is_later = columns > rows + start
        for row, column in zip(
            (rows[is_later] + start).tolist(), columns[is_later].tolist(), strict=True
        ):
            rmse = float((pixels[row] - pixels[column]).square().mean().sqrt())
            if rmse < KIN_RMSE:
                found.append((row, column))
    return found


def is_seamless(pixels: Tensor) -> bool:
    """Whether most sprites [n 4 H W] go on at the opposite edge about as smoothly as within."""
    votes = []
    for axis in (2, 3):
        if pixels.shape[axis] < 2:
            continue
        inner = pixels.diff(dim=axis).square().mean((1, 2, 3))
        seam = (pixels.select(axis, 0) - pixels.select(axis, -1)).square().mean((1, 2))
        votes.append(seam <= SEAM_RATIO**2 * inner + 1e-9)
    if not votes:
        return True
    both = votes[0] if len(votes) == 1 else votes[0] & votes[1]
    return bool(both.float().mean() > 0.5)
