"""The cache of the Hugging Face Hub on this machine: where it is, and what it holds.

Layout of huggingface_hub: `models--owner--repo/` with `refs/BRANCH` (a commit), `snapshots/COMMIT/`
(names that link to) `blobs/`. The place follows HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME, read at
each call; creatok never moves the cache.

Does not: connect, import huggingface_hub, or open a weight.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

COMMIT = re.compile(r"[0-9a-f]{40}")
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""`owner/repo`; the Hub allows no `--` or `..` in it."""
TRUE = frozenset({"1", "on", "yes", "true"})
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SHUT = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN")
_before: dict[str, str | None] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One commit of one repository, as far as it is in the cache."""

    repo: str
    """`owner/repo`."""
    commit: str
    """40 hex digits."""
    folder: Path


def hub_home() -> Path:
    """HF_HOME, else the `huggingface` folder of the user's caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _place(os.environ.get("HF_HOME") or os.path.join(caches, "huggingface"))


def cache_folder() -> Path:
    """The folder of all repositories."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _place(given) if given else hub_home() / "hub"


def is_repo(text: str) -> bool:
    """Whether a text has the form `owner/repo`."""
    return bool(REPO.fullmatch(text)) and "--" not in text and ".." not in text


def repo_folder(repo: str) -> Path:
    """Where a repository lies in the cache, there or not."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def repo_of(snapshot: Path) -> str:
    """The repository of a snapshot's folder, empty for any other folder."""
    model = snapshot.parent.parent.name
    inside = snapshot.parent.name == "snapshots" and model.startswith("models--")
    return model.removeprefix("models--").replace("--", "/", 1) if inside else ""


def cached_commit(repo: str, revision: str) -> str:
    """The commit that a branch or tag had when it was last fetched; empty if never."""
    if COMMIT.fullmatch(revision):
        return revision
    refs = repo_folder(repo) / "refs"
    text = ""
    if not {"", ".", ".."} & set(revision.split("/")):
        with suppress(OSError, UnicodeDecodeError):
            text = (refs / revision).read_text(encoding="ascii").strip()
    return text if COMMIT.fullmatch(text) else ""


def snapshot_folder(repo: str, commit: str) -> Path | None:
    """The folder of a commit, None if nothing of it is here."""
    folder = repo_folder(repo) / "snapshots" / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


def iter_snapshots() -> Iterator[Snapshot]:
    """Every snapshot of a model, by name."""
    for model in sorted(cache_folder().glob("models--*--*")):
        repo = model.name.removeprefix("models--").replace("--", "/", 1)
        for folder in sorted(model.glob("snapshots/*")):
            if is_repo(repo) and COMMIT.fullmatch(folder.name) and folder.is_dir():
                yield Snapshot(repo=repo, commit=folder.name, folder=folder)


def size_of(folder: Path) -> int:
    """Bytes of all files of a snapshot, each content once."""
    sizes: dict[Path, int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                real = (Path(root) / name).resolve()
                sizes[real] = real.stat().st_size
    return sum(sizes.values())


def told(name: str) -> str | None:
    """A variable of the user's; what creatok itself has set since counts as nothing."""
    return _before[name] if name in _before else os.environ.get(name)


def is_told_offline() -> bool:
    """Whether the Hub's own variables ask for no connections."""
    said = told("HF_HUB_OFFLINE") or told("TRANSFORMERS_OFFLINE") or ""
    return said.lower() in TRUE


def shut_doors(settings: Mapping[str, str]) -> None:
    """Set variables that keep the libraries of this process from connecting, and remember what the
    user had said: fetching the next base asks for it.
    """
    for name, value in settings.items():
        _before.setdefault(name, os.environ.get(name))
        os.environ[name] = value
    constants = sys.modules.get("huggingface_hub.constants")
    for name in SHUT if constants is not None else ():
        if name in settings:  # read when the library was imported
            setattr(constants, name, True)


def hub_login() -> str:
    """How this machine is known to the Hub, without asking it and without the token."""
    if any((told(name) or "").strip() for name in TOKENS):
        return "logged in by HF_TOKEN"
    path = _place(os.environ.get("HF_TOKEN_PATH") or str(hub_home() / "token"))
    with suppress(OSError):
        if path.stat().st_size:
            return "logged in by a stored token"
    return "no token"


def _place(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))
