"""`{name}` substitution for prompts and output names: literal text, named fields, nothing else.

`{{` and `}}` stand for braces. There are no attributes, indexes, conversions or expressions, so a
template can only ever say what its fields say.

Does not: use `str.format` or evaluate anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")

Part = tuple[str, str | None, str]
"""(literal text, None, "") or ("", field name, format after the colon)."""


class TemplateFault(ValueError):
    """A template that cannot be read; `offset` is the character position of the fault."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset
        self.message = message


@lru_cache(maxsize=8192)
def parse(text: str, *, has_formats: bool = False) -> tuple[Part, ...]:
    """The parts of a template. `has_formats` permits `{field:04d}`. Raises TemplateFault."""
    parts: list[Part] = []
    for found in _TOKEN.finditer(text):
        piece, inner = found.group(), found.group(1)
        if inner is None:
            if piece in "{}":
                raise TemplateFault(
                    found.start(),
                    f"a single '{piece}'; write '{piece * 2}' for a brace in the text",
                )
            parts.append((piece[0] if piece in ("{{", "}}") else piece, None, ""))
            continue
        name, colon, form = inner.partition(":")
        if not NAME.fullmatch(name) or (colon and not has_formats):
            raise TemplateFault(
                found.start(),
                "between braces stands one variable name of letters, digits and _; "
                "write '{{' and '}}' for braces in the text",
            )
        parts.append(("", name, form))
    return tuple(parts)


def fields(text: str) -> tuple[str, ...]:
    """The names that a template uses, once each, in order. Raises TemplateFault."""
    return tuple(dict.fromkeys(name for _, name, _ in parse(text) if name is not None))


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with every `{name}` replaced by `values[name]`, which is never itself a template.

    Raises TemplateFault, KeyError.
    """
    if "{" not in text and "}" not in text:
        return text
    return "".join(literal if name is None else values[name] for literal, name, _ in parse(text))
