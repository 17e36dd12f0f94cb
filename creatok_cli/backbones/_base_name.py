"""What the name of a base means.

    bestiary, sd3                  a plug-in: its own weights, or its repository on the Hub
    owner/repo[@revision]          a repository, from the Hub's cache; the family is detected
    sd3:owner/repo[@revision]      the same, and it must be of that family
    ./folder                       a folder in diffusers' layout
    ./file.safetensors[+./folder]  one checkpoint; configs and tokenizers from the folder, else from
                                   the repository of its family
    els:./pictures                 a plug-in that draws with pictures

A folder or file that exists wins over a repository of that name.

Does not: look into folders or files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from creatok_cli import registry
from creatok_cli.backbones._hub_cache import is_repo
from creatok_cli.errors import UnknownName

MAIN = "main"
SAFETENSORS = ".safetensors"
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,80}(/[\w-][\w.-]{0,80}){0,4}", re.ASCII)

Kind = Literal["plug-in", "repo", "folder", "file", "pictures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseName:
    """A name, taken apart."""

    text: str
    """As the user wrote it."""
    kind: Kind
    backbone: str = ""
    """The plug-in that is asked for, empty where the files decide."""
    repo: str = ""
    """`owner/repo`."""
    revision: str = MAIN
    """Branch, tag or commit."""
    path: str = ""
    """Of folder, file or pictures, with `~` resolved."""
    configs: str = ""
    """Folder of a checkpoint's configs, empty for those of the Hub's cache."""

    @property
    def pinned_as(self) -> str:
        """`owner/repo@revision`."""
        return f"{self.repo}@{self.revision}"


def parse(text: str) -> BaseName:
    """Take a name apart. Raises UnknownName."""
    plugins = registry.names("backbones")
    if text in plugins:
        repo = registry.describe("backbones", text).spec.get("repo", "")
        kind: Kind = "repo" if is_repo(str(repo)) else "plug-in"
        return BaseName(text=text, kind=kind, backbone=text, repo=str(repo))
    head, colon, rest = text.partition(":")
    asked = head if colon and head in plugins else ""
    facts = registry.describe("backbones", asked).facts if asked else {}
    if "PICTURES" in facts:
        return BaseName(text=text, kind="pictures", backbone=asked, path=rest)
    if asked and "PIPELINE" not in facts:
        raise UnknownName(f"base {text[:80]!r}: {asked} has weights of its own; write {asked}")
    return _place(text, rest if asked else text, asked)


def _place(text: str, rest: str, backbone: str) -> BaseName:
    """A path or a repository."""
    odd = not rest or "\0" in rest or not rest.isprintable()
    path = os.path.expanduser(rest)
    if not odd and (_is_written_as_path(rest) or os.path.exists(path)):
        file, plus, configs = path.partition(SAFETENSORS + "+")
        if plus:
            configs = os.path.expanduser(configs)
            kind: Kind = "file"
            path = file + SAFETENSORS
        else:
            configs = ""
            kind = "file" if Path(path).suffix.lower() == SAFETENSORS else "folder"
        return BaseName(text=text, kind=kind, backbone=backbone, path=path, configs=configs)
    repo, at, revision = rest.partition("@")
    if not odd and is_repo(repo) and (not at or _REVISION.fullmatch(revision)):
        return BaseName(
            text=text, kind="repo", backbone=backbone, repo=repo, revision=revision or MAIN
        )
    plugins = registry.names("backbones")
    hint = registry.did_you_mean(text, plugins)
    known = (
        f"{', '.join(plugins)}, OWNER/REPO[@REVISION], the path of a diffusers folder or of a "
        ".safetensors file"
    )
    raise UnknownName(f"unknown base {text[:80]!r}; {hint + ' ' if hint else ''}Known: {known}")


def _is_written_as_path(text: str) -> bool:
    """`./x`, `~/x`, `/x`, `C:\\x`, `a/b/c`, `x.safetensors`: no form of a repository."""
    return (
        text.startswith((".", "~", "/", "\\"))
        or "\\" in text
        or bool(re.match(r"[A-Za-z]:[\\/]", text))
        or SAFETENSORS in text.lower()
        or (text.count("/") > 1 and "@" not in text)
    )
