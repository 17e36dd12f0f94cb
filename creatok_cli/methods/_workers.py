"""Work on pictures side by side, where a base is so light that one core each is quicker.

What comes out does not depend on how many cores there are: parts have a fixed size, and sums go in
their order.

Does not: know what the work is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

from creatok_cli import config
from creatok_cli.backbones.base import fixed_threads
from creatok_cli.errors import MethodDiverged

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone

P = TypeVar("P")
R = TypeVar("R")
Gradients = tuple[Mapping[str, float], Sequence["Tensor"]]
PART = 2
"""Pictures of a step that share one backward pass on light bases; fixed, so that bytes do not
depend on the number of cores.
"""


class Workers:
    """Runs a function over parts, side by side where that is quicker; the results are in order and
    do not depend on how many run at once.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, count: int, *, is_light: bool) -> None:
        self._pool, self.count, self._is_light = pool, count, is_light

    def map(self, work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
        """One result per part. Each part works with one CPU thread where parts run at once."""
        if self._pool is None or len(parts) == 1:
            return [work(part) for part in parts]

        def alone(part: P) -> R:
            with fixed_threads(1):
                return work(part)

        return list(self._pool.map(alone, parts))

    def summed(
        self, work: Callable[[Sequence[int]], Gradients], seeds: Sequence[int]
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Values and gradients of a step: the sums of what `work` says of parts of its seeds."""
        size = PART if self._is_light else len(seeds)
        parts = [seeds[at : at + size] for at in range(0, len(seeds), size)]
        values: dict[str, float] = {}
        totals: list[Tensor] = []
        for found, grads in self.map(work, parts):
            for name, value in found.items():
                values[name] = values.get(name, 0.0) + value
            if not totals:
                totals = [torch.zeros_like(grad) for grad in grads]
            for total, grad in zip(totals, grads, strict=True):
                total += grad
        return values, totals


@contextmanager
def workers(backbone: Backbone) -> Iterator[Workers]:
    """A worker per core for a light base, which draws with one thread each; else one."""
    light = backbone.device == "cpu" and backbone.facts.threads == 1
    count = config.cores() if light else 1
    if count == 1:
        yield Workers(None, 1, is_light=light)
        return
    if backbone.prior is not None:
        # Read now what is read on first use: not by two threads at once.
        assert backbone.image is not None
        assert backbone.prior.width
    with ThreadPoolExecutor(count) as pool:
        yield Workers(pool, count, is_light=light)


def check_sound(index: int, loss: float, leaves: Iterable[Tensor]) -> None:
    """Raise MethodDiverged where the loss of a step, or what it has moved, is not finite."""
    if not math.isfinite(loss) or not all(bool(leaf.isfinite().all()) for leaf in leaves):
        raise MethodDiverged(f"step {index}: the loss or what is learned is not finite; lower lr")
