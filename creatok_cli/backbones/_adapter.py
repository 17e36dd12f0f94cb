"""The life of a diffusers base: its parts are found, read on first use, worn, dropped.

A family's adapter says which sides there are and how they are built; everything here is the same
for all of them. A `Loader` is the one way from a vetted folder to an open model: explicit class,
dtype, LoRAs, place in memory.

Does not: choose classes, or draw.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar

import torch

from creatok_cli.backbones import _memory, _storage, _weights
from creatok_cli.backbones._diffusers import load_part, load_small, prepare_libraries
from creatok_cli.backbones._lora import Loras, wear
from creatok_cli.backbones._lora_fit import check_fit
from creatok_cli.backbones._placing import DENOISERS, Seat, compile_blocks, place, rung_of
from creatok_cli.backbones.base import Fit, Load, Room, torch_dtype
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.lora import read_lora

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Loader:
    """Opens parts of one folder, all for the same device, number format and LoRAs."""

    folder: str
    device: str
    dtype: str
    loras: Loras
    room: Room
    seat: Seat
    storage: str = ""
    """Of the denoiser's weights."""

    def model(self, kind: type[Any], part: str, *, is_worn: bool = True) -> Any:
        """A frozen model with its LoRAs, in its place. Raises as `load_part` and `wear`."""
        dtype, rung = torch_dtype(self.dtype), rung_of(part, kind, self.room)
        storage = self.storage if part in DENOISERS else ""
        more = _storage.load_settings(storage, dtype, self.device)
        # What shrinks, or lives on the host, is never whole on the device.
        first = "cpu" if storage or rung != "full" else self.device
        # Tensors made in inference mode could never take part in training.
        with torch.inference_mode(False):
            model = load_part(
                kind, self.folder, part, dtype=self.dtype, device=first, settings=more
            )
            if more:  # was read to the device, because that is where it is quantised
                is_full = rung == "full"
                return (
                    model
                    if is_full
                    else place(model.to("cpu"), part, "offload", self.seat, self.device)
                )
            if is_worn:
                wear(model, part, self.loras)
            _storage.cast(model, storage, dtype)
            model = place(model, part, rung, self.seat, self.device)
            if self.room.is_compiled and part in DENOISERS:
                compile_blocks(model)
            return model

    def small(self, kind: type[Any], part: str) -> Any:
        """A tokenizer or scheduler."""
        return load_small(kind, self.folder, part)


class Adapter:
    """Sides of one base, opened when they are first touched. Building it reads nothing."""

    def __init__(self, facts: BaseFacts, *, device: str, dtype: str) -> None:
        self.facts, self.device, self.dtype = facts, device, dtype
        self._sides: dict[str, Any] = {}
        self._loras: Loras = ()
        self._room, self._seat, self._storage = Room(), Seat(device), ""
        self._is_checked = False
        self._lock = RLock()

    def _side(self, name: str, build: Callable[[], S]) -> S:
        """A side by name, built on first use."""
        with self._lock:
            if name not in self._sides:
                self._check()
                self._sides[name] = build()
            found: S = self._sides[name]
            return found

    def _check(self) -> None:
        """Once, before anything is read: safe settings, and the files that were planned."""
        if not self._is_checked:
            prepare_libraries()
            _weights.check_unchanged(self.facts)
            self._is_checked = True

    def _loader(self, folder: str | None = None) -> Loader:
        """For the base's own folder, or another vetted one."""
        return Loader(
            folder or self.facts.folder,
            self.device,
            self.dtype,
            self._loras,
            self._room,
            self._seat,
            self._storage,
        )

    def release(self, side: str) -> None:
        """Drop the weights of `text`, `prior` or `image`."""
        found = self._sides.get(side)
        if hasattr(found, "drop"):  # what was cheap to read, tokenizers, is kept
            found.drop()
        else:
            self._sides.pop(side, None)
        del found
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def wear(self, loras: Sequence[tuple[str, float]]) -> None:
        """See `backbones.base.Backbone.wear`."""
        if self._sides:
            raise RuntimeError("LoRAs are worn before a side opens")
        for path, _ in loras:
            check_fit(read_lora(path), self.facts)
        self._loras = tuple(loras)

    def fit(self, room: Room) -> None:
        """See `backbones.base.Backbone.fit`."""
        if self._sides:
            raise RuntimeError("room is made before a side opens")
        self._room = room

    @property
    def folders(self) -> tuple[str, ...]:
        """Where the weights of all sides are, the base's own folder first."""
        return (self.facts.folder,)

    def make_room(self, loads: Sequence[Load], vram_gib: float | None, *, compiled: bool) -> Fit:
        """See `backbones.base.Backbone.make_room`."""
        found = _memory.make_room(
            self.folders,
            loads,
            dtype=self.dtype,
            storage=self._storage,
            name=self.facts.name,
            device=self.device,
            vram_gib=vram_gib,
            compiled=compiled,
        )
        self.fit(found.room)
        return found

    def store(self, storage: str) -> None:
        """See `backbones.base.Backbone.store`."""
        if self._sides:
            raise RuntimeError("storage is chosen before a side opens")
        _storage.check_device(storage, self.device)
        self._storage = storage
