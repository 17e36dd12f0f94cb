"""Which commit a branch of a repository means: resolved once, then written down.

A pin is a line `owner/repo@branch: commit` of a file beside the sheet (`creatures.lock.yaml` for
`creatures.yaml`), to be kept with it, so that the sheet draws the same on every machine and day.
What has no sheet, or a sheet in a place that cannot be written, is pinned for this machine in
creatok's home folder. A name with 40 hex digits after `@` needs no pin.

Does not: look for commits, or know whether one is here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from creatok_cli import config, durable
from creatok_cli.backbones._hub_cache import COMMIT
from creatok_cli.errors import ArtefactError, IntegrityError

FILE = "base-pins.yaml"
"""Of the machine, in creatok's home folder."""
SUFFIX = ".lock.yaml"
MAX_BYTES = 2**18
HEAD = (
    "# Commits of the bases, resolved once (creatok). Keep this file with its sheet.\n"
    "# To take a newer commit, remove its line.\n"
)
_LINE = re.compile(r"([\w.-]+/[\w.-]+@[\w./-]+): ([0-9a-f]{40})", re.ASCII)


def lock_of(sheet: str) -> Path | None:
    """The file of pins beside a sheet, None for standard input."""
    path = Path(sheet)
    return path.with_name(path.stem + SUFFIX) if sheet not in ("", "-") else None


class Pins:
    """The pins of a sheet over those of the machine."""

    def __init__(self, beside: Path | None = None) -> None:
        self._files = [beside] if beside is not None else []
        self._files.append(config.home() / FILE)
        self._known: list[dict[str, str]] = [read(path) for path in self._files]

    def commit(self, name: str) -> str:
        """The commit of `owner/repo@revision`, empty for none."""
        revision = name.rpartition("@")[2]
        if COMMIT.fullmatch(revision):
            return revision
        return next((known[name] for known in self._known if name in known), "")

    def where(self, name: str) -> str:
        """The file that pins a name, for messages; empty for none."""
        found = zip(self._files, self._known, strict=True)
        return next((str(path) for path, known in found if name in known), "")

    def keep(self, name: str, commit: str) -> None:
        """Write a pin down where the sheet is, else where the machine's are. A pin that is there
        stays. Raises nothing where no place can be written: the run itself is not at fault.
        """
        if COMMIT.fullmatch(name.rpartition("@")[2]):
            return
        for path, known in zip(self._files, self._known, strict=True):
            if name in known:
                return
            if write(path, {**known, name: commit}):
                known[name] = commit
                return


def read(path: Path) -> dict[str, str]:
    """The pins of a file, empty where there is none. Raises ArtefactError for any other content."""
    try:
        data = durable.read_file(path.parent, path.name, limit=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read: {error.strerror}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
        match = _LINE.fullmatch(line.strip())
        if match and match[1] not in found:
            found[match[1]] = match[2]
        elif line.strip() and not line.lstrip().startswith("#"):
            raise ArtefactError(
                f"{path}:{number}: expected 'OWNER/REPO@BRANCH: COMMIT' with 40 hex digits, each "
                "name once; correct the line or remove it"
            )
    return found


def write(path: Path, pins: dict[str, str]) -> bool:
    """Whether the file could be written."""
    text = HEAD + "".join(f"{name}: {pins[name]}\n" for name in sorted(pins))
    with suppress(OSError, IntegrityError):
        durable.open_root(path.parent, create=True)
        writer = durable.Writer(run=durable.new_run())
        durable.replace_derived(path.parent, path.name, text.encode(), writer=writer)
        return True
    return False
