"""Where an open model lives: on the device, on it only while it works, or there layer by layer.

One `Seat` per base holds the one model that is on the device; whoever works next sends it away.
Layer by layer is diffusers' group offloading. Compiling touches the blocks that repeat: less to
compile, nearly the same gain.

Deviates: what is not `full`, or is stored in 8 or 4 bits, is not compiled: its hooks would break
the graph.

Does not: choose a rung (`_memory.py` does), or change what is drawn.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch

from creatok_cli.backbones.base import Room, Rung

DENOISERS = ("transformer", "unet")
T5_CLASS = "T5EncoderModel"
REPEATED = {"SD3Transformer2DModel": ("JointTransformerBlock",)}
"""Blocks that repeat in classes that do not say so themselves (diffusers 0.42)."""


class Seat:
    """The one place on a device for which the models of a base take turns."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._sitting: Any = lambda: None

    def take(self, model: Any) -> None:
        """Bring a model to the device; the one that was there goes back to the host."""
        other = self._sitting()
        if other is model:
            return
        # Weights that are moved in inference mode could not be moved outside of it.
        with torch.inference_mode(False):
            if other is not None:
                other.to("cpu")
            model.to(self._device)
        # Weak: a model that is dropped must not stay because it was the last to work.
        self._sitting = ref(model)

    def guard(self, model: Any) -> Any:
        """The model, which takes the seat whenever it works."""
        model.register_forward_pre_hook(lambda module, _: self.take(module))
        # Decoders work through `encode` and `decode`: there diffusers calls this hook.
        model._hf_hook = _Call(self)
        return model

    def __deepcopy__(self, memo: Any) -> Seat:
        # Copies of a guarded model, such as a decoder in fp32, compete for the same seat.
        return self


class _Call:
    """What `diffusers.utils.accelerate_utils.apply_forward_hook` looks for."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def pre_forward(self, module: Any, *_: Any, **__: Any) -> None:
        self._seat.take(module)


def rung_of(part: str, kind: type[Any], room: Room) -> Rung:
    """Where a part of a base lives."""
    if part.startswith("text_encoder"):
        return room.words if kind.__name__ == T5_CLASS else "full"
    is_grouped = room.rung == "group" and part in DENOISERS
    return "group" if is_grouped else "full" if room.rung == "full" else "offload"


def place(model: Any, part: str, rung: Rung, seat: Seat, device: str) -> Any:
    """A frozen model, wherever it was read to, in its place."""
    if rung == "full":
        return model.to(device)
    if rung == "offload":
        return seat.guard(model)
    from diffusers.hooks import apply_group_offloading

    has_streams = device.startswith("cuda")
    # UNets have few and large blocks, T5 keeps its own one level down: their leaves are finer.
    by_block = part == "transformer"
    apply_group_offloading(
        model,
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="block_level" if by_block else "leaf_level",
        num_blocks_per_group=1 if by_block else None,
        non_blocking=has_streams,
        use_stream=has_streams,
        record_stream=has_streams,
    )
    return model


def compile_blocks(model: Any) -> None:
    """Compile the blocks that repeat; the whole model where it has none, as Kandinsky's UNet."""
    named = getattr(model, "_repeated_blocks", None) or REPEATED.get(type(model).__name__, ())
    there = {type(module).__name__ for module in model.modules()}
    if there.intersection(named):
        model._repeated_blocks = list(named)
        model.compile_repeated_blocks(fullgraph=True)
    else:
        model.compile()
