"""The options of Kandinsky: how its prior draws an embedding before the decoder draws a picture.

Does not: import torch.
"""

from __future__ import annotations

from creatok_cli.domain import Options
from creatok_cli.errors import InputError, UnknownName

STEPS, GUIDANCE = "prior_steps", "prior_guidance"


def walk_of(options: Options, base: str, steps: int, guidance: float) -> tuple[int, float]:
    """(steps, guidance) of the prior for a job; the given ones are those of the base.

    Raises UnknownName or InputError.
    """
    given = dict(options)
    own_steps, own_guidance = given.pop(STEPS, steps), given.pop(GUIDANCE, guidance)
    if given:
        raise UnknownName(
            f"base {base} has no option {next(iter(given))[:40]!r}; it has {STEPS} and {GUIDANCE}"
        )
    is_count = isinstance(own_steps, int) and not isinstance(own_steps, bool)
    is_number = isinstance(own_guidance, int | float) and not isinstance(own_guidance, bool)
    count = int(own_steps or 0) if is_count else 0
    strength = float(own_guidance or 0) if is_number else -1.0
    if not 2 <= count <= 1000 or not 0 <= strength <= 100:
        raise InputError(f"base {base}: {STEPS} is 2 to 1000, {GUIDANCE} 0 to 100")
    return count, strength
