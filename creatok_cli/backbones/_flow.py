"""Rectified flow, as SD3 and FLUX.1 walk it: the schedulers of diffusers, their shift with the size
of a picture, a start from pictures, one step after the other (Esser et al., 2024, arXiv
2403.03206).

Does not: call a denoiser, or know what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._adapter import Loader
from creatok_cli.backbones.base import Start
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import UnknownName
from creatok_cli.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor


class Flow:
    """The schedulers of one base. Using them changes nothing here: several threads may."""

    def __init__(self, loader: Loader, facts: BaseFacts, *, max_shift: float) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

        self._facts, self._device, self._max_shift = facts, loader.device, max_shift
        # Imported here: the lazy imports of the library are not made for several threads.
        self._kinds: dict[str, Any] = {
            "flow-match-euler": FlowMatchEulerDiscreteScheduler,
            "flow-match-heun": FlowMatchHeunDiscreteScheduler,
        }
        self.config = loader.small(FlowMatchEulerDiscreteScheduler, "scheduler").config
        """Of the folder's scheduler."""

    def schedule(
        self, name: str, steps: int, patches: int, *, sigmas: Sequence[float] | None = None
    ) -> Any:
        """A fresh scheduler with its steps set, for pictures of that many patches. `sigmas` are the
        noise levels before the shift; None leaves them to the scheduler.
        """
        if name not in self._facts.schedulers or name not in self._kinds:
            raise UnknownName(
                f"base {self._facts.name} has no scheduler {name!r}; "
                f"it has {', '.join(self._facts.schedulers)}"
            )
        schedule: Any = self._kinds[name].from_config(self.config)
        more: dict[str, Any] = {} if sigmas is None else {"sigmas": list(sigmas)}
        if schedule.config.get("use_dynamic_shifting"):
            more["mu"] = dynamic_shift(patches, schedule.config, self._max_shift)
        schedule.set_timesteps(steps, device=self._device, **more)
        schedule.set_begin_index(0)
        return schedule


def dynamic_shift(length: int, config: Mapping[str, Any], max_shift: float) -> float:
    """The shift exponent mu for an image of `length` patches (diffusers: `calculate_shift`).
    `max_shift` is what the family's pipeline takes where the config says none.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    start, end = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (end - start) / (high - low)
    return float(length * slope + (start - slope * low))


def begin(
    schedule: Any,
    steps: int,
    noise: Tensor,
    start: Start | None,
    encode: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """(times of the steps to take, latents before the first): the noise, or with a start its
    encoded pictures with as much of the noise as the first step expects.
    """
    if start is None:
        return schedule.timesteps, noise
    first = start.skipped(steps) * schedule.order
    times = schedule.timesteps[first:]
    schedule.set_begin_index(first)
    return times, schedule.scale_noise(encode(start.pixels), times[:1], noise)


def walk(
    schedule: Any,
    times: Tensor,
    latents: Tensor,
    seeds: Sequence[int],
    flow: Callable[[Tensor, Tensor, int], Tensor],
) -> Iterator[Tensor]:
    """Latents after each step. `flow` gets them, the time, and how many calls are still to come. A
    scheduler that draws has one generator per picture.
    """
    last = len(times) - 1
    for index, t in enumerate(times):
        ahead = flow(latents, t, last - index)
        draws = None
        if schedule.config.get("stochastic_sampling"):
            draws = [generator(seed, "step", index) for seed in seeds]
        latents = schedule.step(ahead, t, latents, generator=draws, return_dict=False)[0]
        if index == last or getattr(schedule, "state_in_first_order", True):
            yield latents


def guided(flow: Tensor, scale: float) -> Tensor:
    """[2b ...] of negatives, then prompts -> [b ...]: away from the negative by `scale`."""
    plain, wanted = torch.chunk(flow, 2)
    return plain + scale * (wanted - plain)
