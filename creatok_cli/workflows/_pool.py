"""The pool of a network, to look at: a page of its pictures with their top classes, and numbers.

`pool.png` shows what the training found, in the order in which it was found; `pool.json` says the
same with all shares that count. A stored network is enough.

Does not: import torch, or judge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli import durable
from creatok_cli.errors import OutputReadOnly
from creatok_cli.tokens.library import writable
from creatok_cli.tokens.network import Network

PICTURE, NUMBERS = "pool.png", "pool.json"
SCHEMA = 1
SHOWN = 3
"""Classes below each picture."""
LEAST = 0.01
"""Smaller shares stay out of the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """One concept of a pool."""

    index: int
    step: int
    """When it was found."""
    shares: tuple[tuple[str, float], ...]
    """What the labeler saw, largest first; ties in the order of the classes."""
    side: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class _Folder:
    folder: Path


def finds(network: Network) -> tuple[Find, ...]:
    """The pool, in its order."""
    if not network.pool_size:
        return ()
    classes = network.classes
    shares = network.tensors["pool/p"].values()
    steps = network.tensors["pool/step"].values()
    pictures = network.tensors["pool/pictures"]
    side = pictures.shape[1]
    size = side * side * 3
    found = []
    for index in range(network.pool_size):
        row = shares[index * len(classes) : (index + 1) * len(classes)]
        ranked = sorted(zip(classes, row, strict=True), key=lambda pair: -pair[1])
        found.append(
            Find(
                index=index,
                step=steps[index],
                shares=tuple(ranked),
                side=side,
                rgb=pictures.data[index * size : (index + 1) * size],
            )
        )
    return tuple(found)


def draw_pool(network: Network, folder: Path) -> tuple[Path, Path]:
    """Writes both files into a folder, made where missing, and says where they are; an unchanged
    page is not drawn again.

    Raises OutputReadOnly, also where a stranger's file has the name, OutputFull.
    """
    from creatok_cli.sinks._page import check_ours, digest_of
    from creatok_cli.sinks._tiles import KEYWORD, Page, Tile, draw_tiles

    recipe, pool = network.recipe, finds(network)
    size = len(pool)
    page = Page(
        title=f"What the network for {recipe['base']} found",
        notes=(
            f"{size} concept{'' if size == 1 else 's'} between {len(network.classes)} known ones",
            f"{recipe['method']}, {recipe['steps']:,} steps",
            f"labelled by {recipe['labeler'].get('name', 'nobody')}",
        ),
        foot=f"base {recipe['base']} ({recipe['base_licence']})",
        tiles=[
            Tile(
                size_px=(find.side, find.side),
                rgb=find.rgb,
                lines=(
                    *(f"{name} {share:.0%}" for name, share in find.shares[:SHOWN]),
                    f"no. {find.index + 1}, step {find.step:,}",
                ),
            )
            for find in pool
        ],
    )
    writer = durable.Writer(run=durable.new_run())
    out = _Folder(folder)
    with writable(folder, "choose another --out"):
        durable.open_root(folder, create=True)
        if digest_of(out, PICTURE, KEYWORD) != page.digest:
            try:
                check_ours(out, PICTURE, KEYWORD)
            except FileExistsError as error:
                raise OutputReadOnly(f"{folder}: {error}, or choose another --out") from error
            durable.replace_derived(folder, PICTURE, draw_tiles(page), writer=writer)
        text = json.dumps(_numbers(network, pool), indent=1, ensure_ascii=False) + "\n"
        durable.replace_derived(folder, NUMBERS, text.encode(), writer=writer)
    return folder / PICTURE, folder / NUMBERS


def _numbers(network: Network, pool: tuple[Find, ...]) -> dict[str, Any]:
    recipe = network.recipe
    return {
        "schema": SCHEMA,
        "network": network.id,
        "run": network.run,
        "base": recipe["base"],
        "base_digest": recipe["base_digest"],
        "base_licence": recipe["base_licence"],
        "method": recipe["method"],
        "steps": recipe["steps"],
        "labeler": dict(recipe["labeler"]),
        "classes": list(network.classes),
        "pool": [
            {
                "index": find.index,
                "step": find.step,
                "shares": {n: round(share, 6) for n, share in find.shares if share >= LEAST},
            }
            for find in pool
        ],
    }
