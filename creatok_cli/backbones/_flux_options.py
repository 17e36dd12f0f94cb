"""The one option of FLUX.1: `true_cfg`, guidance away from the negative prompt.

Does not: import torch.
"""

from __future__ import annotations

import math

from creatok_cli.backbones.base import TRUE_CFG
from creatok_cli.domain import Options
from creatok_cli.errors import InputError, UnknownName

HIGHEST = 100.0
"""Far beyond what draws anything (set by eye)."""


def true_cfg(options: Options, base: str) -> float | None:
    """The option's value, None where it is not given. Raises UnknownName or InputError."""
    found = None
    for name, value in options:
        if name != TRUE_CFG:
            raise UnknownName(f"base {base} has no option {name[:40]!r}; it has {TRUE_CFG}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(float(value)) or not 0 <= float(value) <= HIGHEST:
            raise InputError(
                f"base {base}: {TRUE_CFG} is a number from 0 to {HIGHEST:g}, "
                f"found {str(value)[:40]!r}"
            )
        found = float(value)
    return found
