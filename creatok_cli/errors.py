"""What can go wrong, as a tree; every branch has one exit code.

    CreatokError                                1  a bug: one line and the crash file
    |-- InputError                              2  sheet, flag or name: nothing was drawn
    |   |-- SheetError -- PresetError
    |   `-- UnknownName, UnsafeName
    |-- RunIncomplete                           3  jobs failed or were filtered
    |   `-- MethodDiverged                         the last good state is kept
    |-- ArtefactError                           4  names the command or page that helps
    |   |-- ModelMissing, ModelGated
    |   |-- TokenMissing, Offline
    |   `-- Refused, DigestMismatch
    |-- DeviceError                             5  none usable; every job fails at batch 1
    |   `-- NoDevice, OutOfMemory, DeviceLost
    |-- IntegrityError                          6  the output folder cannot be trusted or written
    |   |-- OutputBusy, OutputFull, OutputReadOnly
    |   |-- ManifestDamaged, SchemaNewer
    |   `-- StackChanged, Unaccounted
    `-- Interrupted                           130  SIGINT, SIGTERM, SIGHUP

Library code raises these and never prints or exits; `cli/app.py` alone turns them into a message
and a code.

Does not: format for a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CreatokError(Exception):
    """Root of all errors that creatok raises on purpose.

    `code` is the exit code, `reason` the word in the last `--json` event, `retryable` whether the
    same command may succeed later without a change.
    """

    code = 1
    reason = "internal"
    retryable = False


class InputError(CreatokError):
    """A flag, sheet or name is wrong; nothing was drawn."""

    code = 2
    reason = "usage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of a sheet or preset. Lines and columns count from 1, columns in code points."""

    file: str
    line: int
    column: int
    slug: str
    """Short stable name of the kind of fault: `unknown-key`, `duplicate-key`, `bad-value`..."""
    message: str
    """Found, expected, nearest valid name, what to do."""
    row: str = ""
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: error[{self.slug}]: {self.message}{hint}"


class SheetError(InputError):
    """A sheet is wrong, with up to 20 problems found in one pass."""

    reason = "sheet"

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total
        lines = [str(problem) for problem in self.problems]
        if self.total > len(self.problems):
            lines.append(f"and {self.total - len(self.problems)} more")
        super().__init__("\n".join(lines))


class PresetError(SheetError):
    """A preset is wrong; same form as a sheet's problems."""


class UnknownName(InputError):
    """A base, scheduler, plug-in or option that does not exist; the message says the nearest."""


class UnsafeName(InputError):
    """An output name that some file system would refuse, change or place elsewhere."""

    reason = "unsafe-name"


class RunIncomplete(CreatokError):
    """Some jobs failed or were filtered."""

    code = 3
    reason = "failed-jobs"


class MethodDiverged(RunIncomplete):
    """A learning run met a non-finite loss or vector; the last good state is kept."""


class ArtefactError(CreatokError):
    """A model or token is missing, gated, refused or damaged."""

    code = 4
    reason = "missing"


class ModelMissing(ArtefactError):
    """No such base on this machine."""


class ModelGated(ArtefactError):
    """The base asks for a licence to be accepted first."""

    reason = "gated"


class TokenMissing(ArtefactError):
    """A token file or name is not there."""


class Offline(ArtefactError):
    """The artefact would have to be downloaded, and the run is offline."""

    reason = "offline"


class Refused(ArtefactError):
    """The artefact could execute code, or is of a kind that creatok never opens."""

    reason = "refused"


class DigestMismatch(ArtefactError):
    """Contents differ from what was pinned or recorded."""

    reason = "hash-mismatch"


class DeviceError(CreatokError):
    """The device cannot do the work."""

    code = 5
    reason = "no-device"


class NoDevice(DeviceError):
    """The asked device does not exist here."""


class OutOfMemory(DeviceError):
    """Every job fails for memory even alone."""

    reason = "oom"


class DeviceLost(DeviceError):
    """A sticky device error: only a new process can go on."""

    reason = "device-lost"
    retryable = True


class IntegrityError(CreatokError):
    """The output folder cannot be written or trusted."""

    code = 6
    reason = "manifest"


class OutputBusy(IntegrityError):
    """Another run holds the folder."""

    reason = "busy"
    retryable = True


class OutputFull(IntegrityError):
    """No space, quota or inodes left."""

    reason = "disk-full"


class OutputReadOnly(IntegrityError):
    """The folder cannot be written."""

    reason = "read-only"


class ManifestDamaged(IntegrityError):
    """The manifest cannot be understood at all."""


class SchemaNewer(IntegrityError):
    """The folder was written by a newer creatok; it is left untouched."""

    reason = "schema-newer"


class StackChanged(IntegrityError):
    """The device, driver or libraries differ from those that began the run, and strictness was
    asked.
    """

    reason = "stack-changed"


class Unaccounted(IntegrityError):
    """planned != done + skipped + failed + remaining."""

    reason = "unaccounted"


class Interrupted(CreatokError):
    """A signal asked to stop; the same command goes on."""

    code = 130
    reason = "interrupted"
    retryable = True
