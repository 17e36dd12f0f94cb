"""Small networks of `distok` for a real base: nothing is trained, but mixes become tokens that the
base draws.

Does not: open a base, or import torch.
"""

from __future__ import annotations

import array
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from creatok_cli.backbones._weights import resolve
from creatok_cli.tokens.network import (
    RUN_KEY,
    Network,
    Part,
    network_bytes,
    network_home,
    part_of,
)

CLASSES = ("pig", "sheep", "snake", "polar bear", "owl", "bee")
HIDDEN, LATENT = 5, 3


def distok_network(
    base: str = "bestiary",
    *,
    said_base: str = "",
    seed: int = 0,
    vectors: int = 2,
    classes: Sequence[str] = CLASSES,
    **changes: Any,
) -> Network:
    """A network of random maps around random class rows, as short as vocabulary rows are."""
    facts, dice = resolve(base), random.Random(seed)
    widths = dict(sorted(facts.encoders))
    size = sum(widths.values())

    def floats(*shape: int, spread: float = 0.5, middle: float = 0.0) -> Part:
        count = 1
        for edge in shape:
            count *= edge
        values = (middle + dice.uniform(-spread, spread) for _ in range(count))
        return part_of("F32", shape, array.array("f", values))

    tensors = {
        "center": floats(size, spread=0.01),
        "scale": floats(size, spread=0.001, middle=0.02),
    }
    tensors |= {f"rows/{name}": floats(len(classes), width) for name, width in widths.items()}
    for name, (first, last) in {
        "encode": (size, LATENT),
        "decode": (LATENT, vectors * size),
    }.items():
        tensors[f"{name}/0/weight"] = floats(HIDDEN, first)
        tensors[f"{name}/0/bias"] = floats(HIDDEN)
        tensors[f"{name}/1/weight"] = floats(last, HIDDEN)
        tensors[f"{name}/1/bias"] = floats(last)
    # Latents spread over 4, so that the outputs of the small maps differ.
    tensors["latents/mean"] = floats(LATENT)
    diagonal = [4.0 * (row == column) for row in range(LATENT) for column in range(LATENT)]
    tensors["latents/covariance"] = part_of("F32", (LATENT, LATENT), array.array("f", diagonal))
    recipe = {
        "kind": "network",
        "method": "distok",
        "spec": {"vectors": vectors, "decoder": "rows"},
        "base": said_base or base,
        "base_digest": facts.digest,
        "base_licence": facts.licence,
        "encoders": {name: "sha256:" + "cd" * 32 for name in widths},
        "widths": widths,
        "classes": {"name": "few", "digest": "sha256:" + "ef" * 32, "names": list(classes)},
        "precision": "float32",
        "seed": seed,
        "steps": 0,
        "labeler": {"name": "clip"},
        "version": "1.0",
    }
    return Network(tensors, recipe | changes)


def write_network(network: Network, path: Path, run: str = "ab" * 20) -> Path:
    """The file of a network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(network_bytes(network, {RUN_KEY: run}))
    return path


def keep_network(network: Network, run: str = "ab" * 20) -> Path:
    """The network among those that were trained here."""
    return write_network(network, network_home() / f"{run}.safetensors", run)
