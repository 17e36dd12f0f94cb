"""The only source of randomness: seeds derived from labels.

Nothing in creatok draws from a global generator, the clock, a rank or a batch position.

Does not: promise equal floats between CPU instruction sets (`randn` may differ by 1 ULP there).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEED_BITS = 63


def derive(seed: int, *labels: str | int) -> int:
    """A new seed in [0, 2**63) from a seed and labels: 63 bits of SHA-256.

    Labels are length-prefixed, so ("ab", "c") and ("a", "bc") differ, and 1 and "1" differ.
    """
    digest = hashlib.sha256(str(seed).encode())
    for label in labels:
        data = f"{type(label).__name__}:{label}".encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest()[:8], "big") >> (64 - SEED_BITS)


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU torch generator seeded with `derive(seed, *labels)`."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(seed, *labels))
