"""What a probe of `doctor` finds, and how sizes and paths are said.

Does not: look at anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from creatok_cli.errors import CreatokError

Status = Literal["ok", "note", "warning", "fault"]
STATUSES: tuple[Status, ...] = ("fault", "warning", "note", "ok")
"""The gravest first."""
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one probe found, and what to do about it."""

    name: str
    status: Status
    found: str
    todo: str = ""
    code: int = 0
    """Of a fault: what a run ends with here."""
    reason: str = "ok"
    """The word for the code, as in every summary."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same as plain data; never a secret."""


def fault(
    name: str, error: CreatokError, *, todo: str = "", facts: Mapping[str, Any] | None = None
) -> Finding:
    """What stops a run here, with the exit code of its error."""
    return Finding(
        name=name,
        status="fault",
        found=brief(error),
        todo=todo,
        code=error.code,
        reason=error.reason,
        facts=facts or {},
    )


def brief(error: BaseException) -> str:
    """The first line of an error, with its kind where it is not one of creatok's."""
    first = homely(str(error).strip().partition("\n")[0][:300])
    return first if isinstance(error, CreatokError) else f"{type(error).__name__}: {first}"


def homely(text: str) -> str:
    """The text with `~` for the home folder: whose machine it is concerns nobody."""
    with suppress(RuntimeError):
        home = str(Path.home())
        if len(home) > 1:
            return re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    return text


def size(count: float) -> str:
    """`23.1 GiB`, `412 MiB`."""
    if count >= 100 * GIB:
        return f"{count / GIB:,.0f} GiB"
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
