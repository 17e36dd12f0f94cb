"""Where a LoRA lies: a path, or a file of a repository in the cache of the Hugging Face Hub.

    loras/scales.safetensors                            relative to the sheet
    ByteDance/Hyper-SD:Hyper-SDXL-4steps-lora.safetensors
    ByteDance/Hyper-SD@COMMIT:Hyper-SDXL-4steps-lora.safetensors

A file that exists wins over a repository of that name. Pins are those of the bases (`_pins.py`).

Does not: connect, or look into a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from creatok_cli.backbones import _hub_cache
from creatok_cli.backbones._base_name import MAIN
from creatok_cli.backbones._pins import Pins
from creatok_cli.errors import TokenMissing

_REFERENCE = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[A-Za-z0-9][\w.-]{0,80}(?:/[\w-][\w.-]{0,80}){0,4}))?"
    r":(?P<file>(?:[\w-][\w.+-]*/){0,3}[\w-][\w.+-]*\.safetensors)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a repository."""

    repo: str
    revision: str
    file: str

    @property
    def pinned_as(self) -> str:
        """`owner/repo@revision`."""
        return f"{self.repo}@{self.revision}"


def parse_reference(text: str) -> HubFile | None:
    """The file of a repository that a text means; None for any other text."""
    found = _REFERENCE.fullmatch(text)
    if found is None or not _hub_cache.is_repo(found["repo"]):
        return None
    return HubFile(repo=found["repo"], revision=found["revision"] or MAIN, file=found["file"])


def lora_path(text: str, folder: Path, pins: Pins) -> Path:
    """Where a LoRA lies that a sheet in `folder` names. Raises TokenMissing for one of a repository
    that is not in the cache, with the command that fetches it.
    """
    place = folder / Path(text).expanduser()
    asked = parse_reference(text)
    if asked is None or place.exists():
        return place
    cached = cached_file(asked, pins)
    if cached is None:
        at = "" if asked.revision == MAIN else f" --revision {asked.revision}"
        raise TokenMissing(
            f"{text}: is not on this machine; fetch it with "
            f"'hf download {asked.repo} {asked.file}{at}'"
        )
    return cached


def cached_file(asked: HubFile, pins: Pins) -> Path | None:
    """A file of the commit that is pinned, else of the one that was fetched last."""
    commit = pins.commit(asked.pinned_as) or _hub_cache.cached_commit(asked.repo, asked.revision)
    folder = _hub_cache.snapshot_folder(asked.repo, commit)
    path = folder / asked.file if folder else None
    return path if path and path.is_file() else None


def cached_blob(digest: str) -> Path | None:
    """The file of the cache with a content: the Hub names large files by their sha256."""
    name = digest.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        return None
    found = sorted(_hub_cache.cache_folder().glob(f"models--*/blobs/{name}"))
    return found[0] if found else None
