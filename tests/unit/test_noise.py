"""Golden noise (B4): a seed means the same numbers on every machine, up to one rounding."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from creatok_cli.seeds import derive, generator

GOLDEN = Path(__file__).parents[1] / "golden" / "noise.json"
SEEDS = (0, 1, 2, 7, 42, 1234, 2**31, 2**32 + 1, 2**62, 2**63 - 1)
SHAPES = ((4, 8, 8), (8, 16, 16), (16, 12, 20))


def sketch(seed: int, shape: tuple[int, ...]) -> list[float]:
    """The first and last three values, and every 97th, of one picture's noise."""
    values = torch.randn(shape, generator=generator(seed, "noise")).flatten()
    chosen = torch.cat([values[:3], values[-3:], values[::97]])
    return [round(float(value), 7) for value in chosen]


def test_noise_equals_the_golden_numbers(update_golden: bool) -> None:
    found = {f"{seed} {shape}": sketch(seed, shape) for seed in SEEDS for shape in SHAPES}
    if update_golden:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    wanted = json.loads(GOLDEN.read_text())
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        difference = torch.tensor(values) - torch.tensor(wanted[name])
        assert float(difference.abs().max()) <= 2e-6, name


def test_labels_and_seeds_never_share_noise() -> None:
    seeds = {
        derive(seed, *labels) for seed in SEEDS for labels in (("noise",), ("step", 0), ("prior",))
    }
    assert len(seeds) == 3 * len(SEEDS)
