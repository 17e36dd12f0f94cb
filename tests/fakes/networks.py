"""Small networks for tests: tensors that follow from a seed, and a recipe with every key.

Does not: fuse, or import torch.
"""

from __future__ import annotations

import array
import random
from collections.abc import Mapping, Sequence
from typing import Any

from creatok_cli.tokens.network import Network, Part, part_of

CLASSES = ("pig", "polar bear", "owl")
WIDTHS = {"clip_l": 4, "clip_g": 6}


def network_of(
    *,
    seed: int = 0,
    pool: int = 2,
    classes: Sequence[str] = CLASSES,
    widths: Mapping[str, int] = WIDTHS,
    vectors: int = 2,
    side: int = 8,
    **recipe: Any,
) -> Network:
    """A network of random tensors with a pool of so many concepts."""
    dice, width = random.Random(seed), vectors * sum(widths.values())

    def floats(*shape: int) -> Part:
        count = 1
        for edge in shape:
            count *= edge
        return part_of("F32", shape, array.array("f", [dice.uniform(-1, 1) for _ in range(count)]))

    tensors = {"maps/in": floats(width, 3), "classes": floats(len(classes), width)}
    if pool:
        shares = [[dice.random() for _ in classes] for _ in range(pool)]
        flat = [share / sum(row) for row in shares for share in row]
        pixels = bytes(dice.randrange(256) for _ in range(pool * side * side * 3))
        tensors["pool/rows"] = floats(pool, width)
        tensors["pool/p"] = part_of("F32", (pool, len(classes)), array.array("f", flat))
        tensors["pool/step"] = part_of("I64", (pool,), array.array("q", range(pool)))
        tensors["pool/pictures"] = Part("U8", (pool, side, side, 3), pixels)
    return Network(tensors, recipe_of(classes, widths, seed=seed, **recipe))


def recipe_of(
    classes: Sequence[str] = CLASSES, widths: Mapping[str, int] = WIDTHS, **changes: Any
) -> dict[str, Any]:
    """A recipe with every key."""
    return {
        "kind": "network",
        "method": "blend",
        "spec": {"vectors": 2},
        "base": "bestiary",
        "base_digest": "sha256:" + "ab" * 32,
        "base_licence": "cc0-1.0",
        "encoders": {name: "sha256:" + "cd" * 32 for name in widths},
        "widths": dict(widths),
        "classes": {"name": "few", "digest": "sha256:" + "ef" * 32, "names": list(classes)},
        "precision": "fp32",
        "seed": 0,
        "steps": 10,
        "labeler": {"name": "shades"},
        "version": "1.0",
    } | changes
