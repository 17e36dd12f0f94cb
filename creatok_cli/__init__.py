"""creatok: learns tokens for creative creature concepts and renders sheets with them.

Does not: import torch. The workflows load on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "explore",
    "explore_distok",
    "explore_els",
    "fuse",
    "learn_token",
    "sample",
]

_WORKFLOWS = {
    "explore": "creatok_cli.workflows.explore",
    "explore_distok": "creatok_cli.workflows.explore_distok",
    "explore_els": "creatok_cli.workflows.explore_els",
    "fuse": "creatok_cli.workflows.fuse",
    "learn_token": "creatok_cli.workflows.learn_token",
    "sample": "creatok_cli.workflows.sample",
}


def __getattr__(name: str) -> Any:
    if name in _WORKFLOWS:
        return getattr(import_module(_WORKFLOWS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
