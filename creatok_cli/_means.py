"""What the machine gives a run: memory and compiling, and what of it a base gets.

Compiling costs about ten seconds and saves part of every picture, so a plan decides about it by its
length, never by what is left of it: a resumed run draws with the same kernels.

Does not: change a recipe, or know how models are placed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from creatok_cli.backbones.base import Backbone, Fit, Load, Room, reads_negative
from creatok_cli.domain import Batch

COMPILE_PICTURES = 30
"""Plans with more of one base are compiled on CUDA; blocks pay after about 12 (performance 9)."""

Compiling = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Means:
    """Settings of the machine, as plain data."""

    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free; None for all that is there."""
    compiling: Compiling = "auto"

    def is_compiled(self, device: str, pictures: int) -> bool:
        """Whether a base that draws so many pictures of the whole plan is compiled."""
        if self.compiling != "auto":
            return self.compiling == "on"
        return device.startswith("cuda") and pictures > COMPILE_PICTURES

    def lodge(self, backbone: Backbone, batches: Iterable[Batch], pictures: int) -> Fit:
        """Make room for what the batches draw; a base without weights need not know how. Raises
        OutOfMemory.
        """
        make_room = getattr(backbone, "make_room", None)
        if make_room is None:
            return Fit(Room())
        loads = dict.fromkeys(
            Load(first.size_px, batch.batch_class, reads_negative(first.guidance, first.options))
            for batch in batches
            for first in batch.jobs[:1]
        )
        compiled = self.is_compiled(backbone.device, pictures)
        found: Fit = make_room(tuple(loads), self.vram_gib, compiled=compiled)
        return found
