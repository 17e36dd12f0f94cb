"""The unfinished state of a learning run: one safetensors file, named by the run's recipe.

A run is its recipe: method, settings, pairs or classes, base, seed. Its state goes to the scratch
area of the token library at most every two seconds, and seldom enough that writing takes at most a
fiftieth of the time; atomically, and is dropped when the run has ended well. The state is believed
only if its digest fits and the stack (device, libraries, threads) is the one that wrote it, because
only then a resumed run ends with the bytes of an uninterrupted one.

Does not: know what a method keeps in its state.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable
from creatok_cli.errors import ArtefactError
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.tokens._layout import read_layout
from creatok_cli.tokens.library import writable

if TYPE_CHECKING:
    from torch import Tensor

EVERY_S = 2.0
"""At most this much run time between two writes is lost to a kill, where writing is quick."""
SHARE = 0.02
"""Of the run time may go into writing states."""
MAX_BYTES = 4 << 30
SUFFIX = ".safetensors"
SCHEMA = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a file says of itself, checked, without its tensors."""

    run: str
    recipe: Mapping[str, Any]
    stack: Mapping[str, str]
    index: int
    """Steps done."""
    data: bytes

    def tensors(self) -> dict[str, Tensor]:
        """The state of the method."""
        from safetensors.torch import load

        return dict(load(self.data))


def run_digest(recipe: Mapping[str, Any]) -> str:
    """40 hex digits over the canonical JSON of a recipe."""
    return sha256_hex(canonical_json(recipe))[:40]


def state_name(run: str) -> str:
    """The file of a run."""
    return run + SUFFIX


def read_state(folder: Path, run: str) -> State | None:
    """The state of a run, None if there is none. Raises ArtefactError for a damaged one."""
    name = state_name(run)
    try:
        data = durable.read_file(folder, name, limit=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ArtefactError(f"{folder / name}: cannot be read: {error.strerror}") from error
    layout = read_layout(io.BytesIO(data), len(data), str(folder / name))
    said = layout.metadata
    payload = data[8 + int.from_bytes(data[:8], "little") :]
    try:
        facts = json.loads(said.get("creatok.state", ""))
        if facts["schema"] != SCHEMA or facts["payload"] != sha256_hex(payload):
            raise ValueError("its digest does not fit")
        return State(
            run=run,
            recipe=dict(facts["recipe"]),
            stack=dict(facts["stack"]),
            index=int(facts["index"]),
            data=data,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"{folder / name}: no state of creatok: {error}") from None


def other_runs(folder: Path, run: str) -> list[State]:
    """Unfinished runs of the same name with other settings; what is damaged is left out."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.stem != run:
            try:
                state = read_state(folder, path.stem)
            except ArtefactError:
                continue
            found += [state] if state else []
    return found


class Keeper:
    """Writes the state of one run now and then."""

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], stack: Mapping[str, str], state: State | None
    ) -> None:
        self._folder, self._recipe, self._stack = folder, recipe, stack
        self._name = state_name(run_digest(recipe))
        self._writer = durable.Writer(run=durable.new_run())
        self._waiting: tuple[int, Mapping[str, Tensor]] | None = None
        self._written_s, self._pause_s = time.monotonic(), 0.0
        self.index = state.index if state else -1
        """Of the newest state on the disk, -1 for none."""

    @property
    def path(self) -> Path:
        """Where the state is."""
        return self._folder / self._name

    def offer(self, index: int, checkpoint: Mapping[str, Tensor]) -> None:
        """Takes a newer state, and writes it if the last write is long enough ago."""
        self._waiting = index, checkpoint
        if time.monotonic() - self._written_s >= max(EVERY_S, self._pause_s):
            self.flush()

    def flush(self) -> None:
        """Writes the newest state. Raises OutputFull, OutputReadOnly."""
        if self._waiting is None:
            return
        import torch
        from safetensors.torch import save

        begun_s = time.monotonic()
        index, checkpoint = self._waiting
        # Copies: one tensor under two names is two in a file.
        tensors = {
            name: rows.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, rows in checkpoint.items()
        }
        plain = save(tensors)
        payload = plain[8 + int.from_bytes(plain[:8], "little") :]
        facts = {
            "schema": SCHEMA,
            "index": index,
            "recipe": self._recipe,
            "stack": self._stack,
            "payload": sha256_hex(payload),
        }
        data = save(tensors, {"creatok.state": json.dumps(facts)})
        with writable(self._folder):
            durable.replace_derived(self._folder, self._name, data, writer=self._writer)
        self._waiting, self._written_s, self.index = None, time.monotonic(), index
        self._pause_s = (self._written_s - begun_s) * (1 / SHARE - 1)

    def drop(self) -> None:
        """The run has ended well: nothing is left to go on from."""
        self._waiting = None
        with writable(self._folder):
            durable.remove(self._folder, self._name)
