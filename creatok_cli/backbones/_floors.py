"""The oldest library versions that creatok works with, without importing one.

Does not: look for what is installed.
"""

from __future__ import annotations

import re

FLOORS = {
    "torch": "2.10",
    "diffusers": "0.40",
    "transformers": "5.3",
    "huggingface_hub": "1.26",
    "safetensors": "0.8",
}
"""Older versions run remote code or leave the folder in known ways (CVE-2026-44513, diffusers
cee298c1).
"""


def is_older(found: str, floor: str) -> bool:
    """Whether a version lies below a floor, by its first two numbers."""
    return numbers(found) < numbers(floor)


def numbers(text: str) -> tuple[int, ...]:
    """`2.13.0+cpu` is (2, 13)."""
    return tuple(int(digits) for digits in re.findall(r"\d+", text.split("+")[0])[:2])
