"""An installed plug-in: a distribution with one entry point, in a folder.

Does not: put the folder on the path.
"""

from __future__ import annotations

import importlib
from pathlib import Path


def install(folder: Path, group: str, name: str, module: str) -> None:
    """Writes a distribution whose plug-in `name` of a group is `module`; once more replaces it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[creatok_cli.{group}]\n{name} = {module}\n")
    importlib.invalidate_caches()
