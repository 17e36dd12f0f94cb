"""What all searches of a quest share, made once: for lowprob the cloud of plain pictures.

A method may say `prepare(spec, backbone, quest, *, seed)`, a generator of Steps that ends with
tensors by name, and `prepared_facts(spec, quest)`, plain JSON of all that they depend on. They are
kept in creatok's home, one safetensors file per (method, base, precision, facts), and believed only
if the digest of their bytes fits.

Does not: know what is prepared, or stop half-way and go on: a stop begins anew.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import config, durable, registry
from creatok_cli.domain import Event, Learning, Notice, Stage
from creatok_cli.errors import ArtefactError, CreatokError, Interrupted, OutOfMemory
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.seeds import derive
from creatok_cli.tokens._layout import read_layout
from creatok_cli.tokens.file import SUFFIX
from creatok_cli.workflows._course import label
from creatok_cli.workflows._quest import Pursuit
from creatok_cli.workflows._run import Stop

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "prepared"
"""In creatok's home."""
KEY = "creatok.prepared"
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a method prepared."""

    tensors: Mapping[str, Tensor]
    digest: str
    """Over the bytes of the tensors."""


def prepared(
    pursuit: Pursuit, device: str, stop: Stop | None, *, vram_gib: float | None = None
) -> Generator[Event, None, Prepared | None]:
    """From the home, else made and kept there; None for a method that prepares nothing.

    Raises Interrupted when asked to stop, MethodDiverged, DeviceError, ArtefactError.
    """
    if not callable(getattr(pursuit.module, "prepare", None)):
        return None
    facts = prepared_recipe(pursuit)
    found, warning = made_before(facts)
    if warning is not None:
        yield warning
    if found is None:
        found = keep_made((yield from _make(pursuit, device, stop, vram_gib)), facts)
    return found


def made_before(facts: Mapping[str, Any]) -> tuple[Prepared | None, Notice | None]:
    """What the home holds for these facts, and a warning of a damaged file."""
    name = file_of(facts)
    try:
        return read_prepared(config.home() / FOLDER, name, facts), None
    except ArtefactError as error:
        return None, Notice(level="warning", message=f"{error}; it is made again")


def keep_made(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Prepared:
    """Keeps tensors for these facts, and gives them back as a later run reads them. A home that
    cannot be written costs the time of making them again.

    Raises ArtefactError for values that are not finite.
    """
    data, digest = _pack(tensors, facts)
    folder = config.home() / FOLDER
    with suppress(OSError, CreatokError):
        durable.open_root(folder, create=True)
        writer = durable.Writer(run=durable.new_run())
        durable.replace_derived(folder, file_of(facts), data, writer=writer)
    return Prepared(tensors=_tensors(data), digest=digest)


def file_of(facts: Mapping[str, Any]) -> str:
    """The file of these facts."""
    return f"{sha256_hex(canonical_json(facts))[:40]}{SUFFIX}"


def prepared_recipe(pursuit: Pursuit) -> dict[str, Any]:
    """All that decides what is prepared, apart from the stack."""
    said = pursuit.module.prepared_facts(pursuit.spec, pursuit.quest())
    return {
        "method": pursuit.method,
        "base": pursuit.facts.digest,
        "precision": pursuit.precision,
        "facts": said,
    }


def read_prepared(folder: Path, name: str, facts: Mapping[str, Any]) -> Prepared | None:
    """A file of the home; None where there is none. Raises ArtefactError for a damaged one."""
    place = folder / name
    try:
        data = durable.read_file(folder, name, limit=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ArtefactError(f"{place}: cannot be read: {error.strerror}") from error
    layout = read_layout(io.BytesIO(data), len(data), str(place))
    digest = _digest(data)
    try:
        said = json.loads(layout.metadata[KEY])
        if said["digest"] != digest or canonical_json(said["facts"]) != canonical_json(facts):
            raise ValueError("its digest does not fit")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{place}: is damaged: {error}") from None
    return Prepared(tensors=_tensors(data), digest=digest)


def _make(
    pursuit: Pursuit, device_name: str, stop: Stop | None, vram_gib: float | None
) -> Generator[Event, None, Mapping[str, Tensor]]:
    yield Stage(name="loading", detail=label(pursuit.facts))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see _course.py
    import torch

    from creatok_cli.backbones._memory import cap
    from creatok_cli.backbones.base import fixed_threads, own_threads, pick_device

    facts, device = pursuit.facts, pick_device(device_name)
    cap(device, vram_gib)
    threads = (facts.threads if device == "cpu" else 0) or own_threads()
    module = registry.get("backbones", facts.backbone)
    backbone = module.build(module.Spec(), facts, device=device, dtype=pursuit.precision)
    # Not the run's own seed: other seeds of the same quest are to find it made.
    run = pursuit.module.prepare(
        pursuit.spec, backbone, pursuit.quest(), seed=derive(0, "prepared")
    )
    yield Stage(name="preparing", detail=f"what {pursuit.what} usually looks like")
    try:
        with fixed_threads(threads):
            while True:
                step = next(run)
                yield from (Notice(level="warning", message=each) for each in step.notices)
                yield Learning(index=step.index, total=step.total, values=dict(step.values))
                if stop is not None and stop.is_set():
                    raise Interrupted("stopped on request; the same command goes on")
    except StopIteration as end:
        tensors: Mapping[str, Tensor] = end.value
        return tensors
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{device} has too little memory to prepare {pursuit.what}; use another --device, or "
            "--precision bf16"
        ) from error
    finally:
        run.close()
        for side in ("text", "prior", "image"):
            backbone.release(side)


def _pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """(the file, digest). Raises ArtefactError for values that are not finite."""
    from safetensors.torch import save

    kept = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}
    for name, each in kept.items():
        if each.is_floating_point() and not bool(each.isfinite().all()):
            raise ArtefactError(
                f"what was prepared holds NaN or infinity ({name}): the base is damaged, or its "
                "number format too coarse; try --precision fp32"
            )
    digest = _digest(save(kept))
    text = json.dumps({"digest": digest, "facts": facts}, sort_keys=True)
    return save(kept, {KEY: text}), digest


def _tensors(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return dict(load(data))


def _digest(data: bytes) -> str:
    """Over the tensors' bytes, without the header."""
    return f"sha256:{sha256_hex(data[8 + int.from_bytes(data[:8], 'little') :])}"
