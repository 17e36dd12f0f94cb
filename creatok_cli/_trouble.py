"""What device errors mean: short memory, a lost device, or a plain fault.

Judged by exception class where there is one. Torch has no class for short memory on CPU and Apple
GPUs, only words.

Does not: decide what happens next (`render.py` does).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from creatok_cli.errors import OutOfMemory

T = TypeVar("T")


def kind_of(error: BaseException) -> Literal["oom", "device", "error"]:
    """Short memory, a sticky device error, or anything else."""
    words = ("DefaultCPUAllocator", "MPS backend out of memory")
    by_words = type(error) is RuntimeError and any(word in str(error) for word in words)
    if by_words or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "oom"
    return "device" if isinstance(error, torch.AcceleratorError) else "error"


def say(error: BaseException) -> str:
    """One short line: class and first line of the message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def answers(device: str) -> bool:
    """Whether the device still does a sum."""
    try:
        return float(torch.ones(2, device=device).sum().cpu()) == 2.0
    except RuntimeError:
        return False


def free(device: str) -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def with_room(work: Callable[[], T], make_room: Callable[[], None], device: str) -> T:
    """Do the work; if memory is short, make room and try once more. Raises OutOfMemory when that
    does not help.
    """
    try:
        return work()
    except Exception as error:
        if kind_of(error) != "oom":
            raise
    make_room()
    free(device)
    try:
        return work()
    except Exception as error:
        if kind_of(error) != "oom":
            raise
        raise OutOfMemory(
            f"the base does not fit into the memory of {device}: {say(error)}; with a smaller "
            "--vram it lives there in parts"
        ) from error
