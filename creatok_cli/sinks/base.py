"""The contract of a sink and what all sinks of a run share.

A sink is `build(spec, out, plan) -> Sink`. `write` is called from writer threads, one call at a
time unless the module says `PARALLEL = True`; a picture has one Image that no other job shares.
`close` is called once, on the main thread, after all pictures, with `out.manifest` up to date:
derived files are made there. Line 1 of a sink's docstring lists it.

Does not: write anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from creatok_cli.domain import Failed, FailureKind, Job, Rendered, Score
from creatok_cli.durable import Writer

if TYPE_CHECKING:
    from creatok_cli.sinks._ledger import Ledger

MetadataMode = Literal["full", "minimal", "none"]


@runtime_checkable
class Sink(Protocol):
    """One output of a run."""

    def write(self, result: Rendered) -> None:
        """Takes one finished picture. An OSError or SinkFailure fails this job only."""

    def fail(self, failed: Failed) -> None:
        """Takes one job that was given up."""

    def close(self) -> None:
        """Finishes what is derived from all pictures. Called once, also after a failed run."""


class SinkFailure(Exception):
    """A sink could not take a picture: the job fails, the run goes on."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A picture that stands under its final name."""

    file: str
    sha256: str
    pixels: str
    """Hash over mode, size and pixels (see `_metadata.pixel_hash`)."""
    bytes: int
    how: Literal["new", "adopted"]
    """`adopted`: an earlier run or another process had already published this key here."""
    drawn_pixels: str
    """Hash of what this run drew; differs from `pixels` only for an adopted twin that drifted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The end of one job's way through the sinks: its line is on the disk."""

    job: Job
    published: Published | None = None
    failed: Failed | None = None


@dataclass(slots=True, kw_only=True)
class Output:
    """The output folder of one run, as its sinks see it."""

    folder: Path
    writer: Writer
    metadata: MetadataMode
    ledger: Ledger
    """What the manifests say; renewed before the sinks are closed."""
    commit: Callable[[Committed], None] = lambda _: None
    """Called by the manifest sink, from writer threads, when the line of a job is on the disk."""
    replaceable: Set[str] = frozenset()
    """Files that this run may replace: damaged pictures of ours, or all with `--overwrite
    replace`."""
    published: dict[str, Published] = field(default_factory=dict)
    """By file; filled by the png sink, taken by the manifest sink."""
    scores: dict[str, tuple[Score, ...]] = field(default_factory=dict)
    """By file: the figures that stand below a picture."""
    row_scores: dict[str, tuple[Score, ...]] = field(default_factory=dict)
    """By sheet entry: figures of all its pictures together."""
    starts: Mapping[str, str] = field(default_factory=dict)
    """Path by digest of the pictures that jobs begin from."""
    picks: Set[str] = frozenset()
    """Files of the pictures that were picked."""
    stopped: bool = False
    """The run was asked to stop, or cannot go on: derived files wait for the next run."""
    notes: list[str] = field(default_factory=list)
    """What a person should read once; the workflow turns them into Notices."""
    derived: list[str] = field(default_factory=list)
    """Relative names of the contact sheets, filled at close."""


def file_of(job: Job) -> str:
    """The relative file name of a job's picture."""
    return f"{job.name}.png"


def told(score: Score) -> str:
    """`clip 0.312`, `labels 0.441 owl`."""
    return f"{score.name} {score.value:.3f} {score.note}".rstrip()


def base_label(base: str) -> str:
    """A base's name without its folders: paths of a machine reach no output."""
    file, plus, _ = base.partition(".safetensors+")  # what follows are its configs
    base = f"{file}.safetensors" if plus else base
    return base.replace("\\", "/").rstrip("/").rpartition("/")[2] or base


def foreign(file: str, reason: str) -> str:
    """What to say of a file that bears a planned name and is not the planned picture."""
    return (
        f"{file}: {reason}; creatok did not write it and leaves it alone: move it away, choose "
        "another --out, or use --overwrite replace"
    )
