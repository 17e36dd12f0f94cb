"""What the files of words share: finding them, checking keys and words, faults at their place.

Pair lists, class lists and files of mixes are read alike: a shipped list by its name or a user's
own file by its path, every key known, every word one that templates and the command line can hold.

Does not: know what the words are for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from creatok_cli.errors import Problem, UnknownName
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import At, Mark, Number, Problems, escaped, refuse, shown

MAX_WORD = 100
"""Longest word or phrase in characters."""
MAX_NOTE = 4_000
NOTES = ("source", "licence", "note")
"""The keys that tell of a list and change nothing."""

_TEMPLATE_MARKS = re.compile(r"[{}<>]")
_COMMAND_MARKS = re.compile(r'[=,:"]|\.\.')


class Places(Protocol):
    """Answers where a value of the file stands."""

    def find(self, path: Sequence[str | int], *, key: bool = False) -> Mark:
        """Line and column, from 1."""
        ...


class Check:
    """One pass over a document: problems are collected, each with its place."""

    def __init__(self, file: str, document: Any, places: Places) -> None:
        self.file = file
        self.document = document
        self.places = places
        self.problems = Problems()

    def keys(self, known: Sequence[str], needed: Sequence[str]) -> Mapping[str, Any]:
        """The document as a mapping; unknown and missing keys are collected."""
        document = self.document
        if not isinstance(document, dict):
            message = f"found {shown(document)}, expected a mapping with {' and '.join(needed)}"
            refuse(self.file, *self.places.find(()), "bad-value", message)
        near: set[str] = set()
        for key in [key for key in document if key not in known]:
            hint = did_you_mean(key, known)
            message = f"unknown key {shown(key)}, expected {', '.join(known)}"
            self.say((key,), "unknown-key", message, hint, key=True)
            near.add(hint)
        for key in needed:
            if key not in document and did_you_mean(key, (key,)) not in near:
                self.say((), "missing-key", f"the key {key} is missing")
        return document

    def notes(self) -> dict[str, str]:
        """Source, licence and note; empty where they are not given."""
        return {key: self._note(key) for key in NOTES}

    def _note(self, key: str) -> str:
        value = self.document.get(key, "")
        if isinstance(value, str) and not isinstance(value, Number) and len(value) <= MAX_NOTE:
            return value
        what = f"text of at most {MAX_NOTE} characters"
        self.say((key,), "bad-value", f"{key}: found {shown(value)}, expected {what}")
        return ""

    def say(self, at: At, slug: str, message: str, hint: str = "", *, key: bool = False) -> None:
        """Collect one problem at the value of `at` (at its key with `key`)."""

        def make() -> Problem:
            line, column = self.places.find(at, key=key)
            return Problem(
                file=self.file, line=line, column=column, slug=slug, message=message, hint=hint
            )

        self.problems.add(make)


def shipped(folder: Path) -> tuple[str, ...]:
    """The names of the lists in a folder of the package, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def is_file(name_or_path: str, suffixes: tuple[str, ...]) -> bool:
    """Whether this is a file of the user's rather than the name of a shipped list."""
    return bool(re.search(r"[/\\]", name_or_path)) or name_or_path.lower().endswith(suffixes)


def locate(
    name_or_path: str, folder: Path, kind: str, suffixes: tuple[str, ...], own: str
) -> tuple[Path, str]:
    """Where a shipped list or a user's file is, and what messages call it.

    `kind` is what it is called ("pair list"), `own` the endings that a user's file may have. Raises
    UnknownName with the nearest name.
    """
    if is_file(name_or_path, suffixes):
        return Path(name_or_path), name_or_path
    known = shipped(folder)
    if name_or_path not in known:
        hint = did_you_mean(name_or_path, known) or f"there are {', '.join(known)}"
        message = f"unknown {kind} {shown(name_or_path)}; {hint}"
        raise UnknownName(f"{message}; a file of your own ends in {own}")
    path = folder / f"{name_or_path}.yaml"
    return path, str(path)


def word_fault(word: Any, what: str = "a word", limit: int = MAX_WORD) -> tuple[str, str] | None:
    """What is wrong with a word or phrase, and what to do, or None."""
    if not isinstance(word, str) or isinstance(word, Number):
        is_scalar = word is None or isinstance(word, bool | str)
        return f"found {shown(word)}, expected {what}", "quote it" if is_scalar else ""
    if not word.strip():
        return f"{what} is empty", ""
    if len(word) > limit:
        return f"{what} of {len(word)} characters; at most {limit} are allowed", ""
    if _TEMPLATE_MARKS.search(word):
        return f"found {shown(word)}, expected {what} without {{ }} < >", "templates use them"
    if escaped(word) != word:
        return f"found {shown(word)}, expected printable characters only", ""
    if word != word.strip() or "  " in word:
        return f"found {shown(word)}, with blanks around it or two in a row", "remove them"
    return None


def concept_fault(word: Any) -> tuple[str, str] | None:
    """As `word_fault`, for a word that is also said in `pig=.5`, `pig..snake:7` and `pig,owl`."""
    fault = word_fault(word)
    if fault is None and (mark := _COMMAND_MARKS.search(word)):
        message = f'found {shown(word)}, expected a name without = , : " or ..'
        return message, f"the command line uses {mark.group()}"
    return fault


def folded(word: str) -> str:
    """Words that a text encoder reads alike are one word: case and composition do not matter."""
    return unicodedata.normalize("NFC", word).casefold()


def listed(words: Iterable[str]) -> str:
    """Words for a message: escaped and separated by commas."""
    return ", ".join(escaped(word) for word in words)
