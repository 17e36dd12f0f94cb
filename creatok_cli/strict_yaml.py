"""Strict YAML: text to plain data and the place of every value, straight from the event stream.

The parser's events are walked once, without recursion, and everything that could hurt is refused on
the way: depth, node count, alias bombs, tags, merge keys, directives, repeated keys, a second
document. Scalars follow YAML 1.2 more closely than PyYAML does: only `true`, `false`, `null`, `~`
and decimal numbers are special, and numbers stay text (`strict_text.Number`) until the schema asks
for one, so `16:9`, `no` and `0123` are what they look like.

Does not: use PyYAML's composer, constructors or resolvers; know what a file is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from creatok_cli.errors import Problem
from creatok_cli.strict_text import (
    FORBIDDEN,
    MAX_DEPTH,
    MAX_KEY,
    MAX_KEYS,
    MAX_MEMBERS,
    MAX_SCALAR,
    Mark,
    Number,
    Place,
    Problems,
    forbidden_message,
    position,
    shown,
)

MAX_NODES = 1_000_000
MAX_AMPLIFICATION = 10
FREE_NODES = 10_000
"""Deviates: the amplification limit begins here; a smaller document is harmless."""

_NUMBER = re.compile(
    r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?"
)
_DIRECTIVE = re.compile(r"^%(?:TAG|YAML)\b", re.MULTILINE)
_LONGEST_NUMBER = 40
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}

_ADVICE = {
    "mapping values are not allowed in this context": (
        "a colon here starts a key, and a key cannot stand here; "
        "check the indentation, quote text that contains ': '"
    ),
    "found character that cannot start any token": (
        "a value cannot start with this character; quote the text, and indent with spaces, not tabs"
    ),
    "found unexpected end of stream": "this quote is never closed",
    "found unknown escape character": (
        "unknown escape after a backslash; use single quotes for literal backslashes"
    ),
    "could not find expected ':'": "this line is not 'key: value'; check indentation and quotes",
    "did not find expected key": "expected 'key: value' here; check the indentation and the quotes",
    "did not find expected '-' indicator": "expected '- ' here; check the indentation of the list",
    "did not find expected ',' or ']'": "expected ',' or ']' here; a '[' is not closed",
    "did not find expected ',' or '}'": "expected ',' or '}' here; quote text that starts with '{'",
    "did not find expected <document start>": "text after the end of the value; quote the value",
}


class _Open:
    """A collection whose end event has not come yet."""

    __slots__ = (
        "anchor",
        "is_map",
        "items",
        "key",
        "key_mark",
        "keys",
        "members",
        "place",
        "value",
        "wants_key",
        "weight",
    )

    def __init__(self, at: Mark, is_map: bool, anchor: str | None) -> None:
        self.is_map = self.wants_key = is_map
        self.value: Any = {} if is_map else []
        self.keys: dict[str, Mark] = {}
        self.items: dict[str, Place | Mark] = {}
        self.members: list[Place | Mark] = []
        self.place = Place(*at, self.keys, self.items) if is_map else Place(*at, None, self.members)
        self.anchor = anchor
        self.weight = 1
        self.key = ""
        self.key_mark = at


def read_yaml(text: str, file: str) -> tuple[Any, Place]:
    """The one document of `text` as dicts, lists, str, Number, bool and None, and its places.

    Raises SheetError with every repeated key up to the first fault that ends reading.
    """
    return _Walk(text, file).run()


class _Walk:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.problems = Problems()
        self.open: list[_Open] = []
        self.anchors: dict[str, tuple[Any, Place | Mark, int] | None] = {}
        self.nodes = 0
        self.expanded = 0
        self.root: tuple[Any, Place] | None = None

    def run(self) -> tuple[Any, Place]:
        directive = _DIRECTIVE.search(self.text)
        if directive:
            self._stop(
                position(self.text, directive.start()),
                "directive",
                "YAML directives are not allowed",
            )
        try:
            for event in _events(self.text):
                self._take(event)
        except _NotYaml as fault:
            self._stop(fault.at, "yaml-syntax", fault.message)
        if self.root is None:
            self._stop((1, 1), "empty", "the file is empty")
        if self.expanded > max(FREE_NODES, MAX_AMPLIFICATION * self.nodes):
            times = self.expanded // max(self.nodes, 1)
            self._stop(
                (1, 1),
                "alias-bomb",
                f"aliases make this document {times} times larger than written",
            )
        self.problems.check()
        return self.root

    def _take(self, event: Any) -> None:
        mark = event.start_mark
        at = (mark.line + 1, mark.column + 1)
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self.nodes += 1
            self.expanded += 1
            if event.tag is not None:
                self._tag(event.tag, at)
            if self.open and self.open[-1].wants_key:
                self._key(event.value, event.style, at)
            else:
                self._scalar(event, at)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._begin(event, kind is yaml.MappingStartEvent, at)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            done = self.open.pop()
            if done.anchor is not None:
                self.anchors[done.anchor] = (done.value, done.place, done.weight)
            self._attach(done.value, done.place, done.weight)
        elif kind is yaml.AliasEvent:
            self._alias(event.anchor, at)
        elif kind is yaml.DocumentStartEvent and self.root is not None:
            message = "a file is one YAML document; a second one starts here"
            self._stop(at, "many-documents", message)

    def _scalar(self, event: Any, at: Mark) -> None:
        text: str = event.value
        if self.expanded > MAX_NODES:
            self._stop(at, "too-many-nodes", f"more than {MAX_NODES} values")
        if len(text) > MAX_SCALAR:
            message = f"a text of {len(text)} characters; at most {MAX_SCALAR} are allowed"
            self._stop(at, "too-long", message)
        if event.style == '"':
            bad = FORBIDDEN.search(text)
            if bad:
                self._stop(at, "control-character", forbidden_message(bad.group()))
        value = text if event.style else _plain(text)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, at, 1)
        self._attach(value, at, 1)

    def _begin(self, event: Any, is_map: bool, at: Mark) -> None:
        self.nodes += 1
        self.expanded += 1
        if event.tag is not None:
            self._tag(event.tag, at)
        if self.open and self.open[-1].wants_key:
            self._stop(at, "bad-key", "a key must be plain text, not a list or a mapping")
        if len(self.open) >= MAX_DEPTH:
            self._stop(at, "too-deep", f"nested deeper than {MAX_DEPTH} levels")
        self.open.append(_Open(at, is_map, event.anchor))
        if event.anchor is not None:
            self.anchors[event.anchor] = None

    def _alias(self, name: str, at: Mark) -> None:
        if self.open and self.open[-1].wants_key:
            self._stop(at, "bad-key", "a key must be plain text, not an alias")
        if name not in self.anchors:
            message = f"no anchor {shown(f'&{name}')} before this alias"
            self._stop(at, "unknown-alias", message)
        target = self.anchors[name]
        if target is None:
            self._stop(at, "recursive-alias", f"the alias {shown(f'*{name}')} contains itself")
        value, place, weight = target
        self.nodes += 1
        self.expanded += weight
        if self.expanded > MAX_NODES:
            message = f"aliases make this document larger than {MAX_NODES} values"
            self._stop(at, "alias-bomb", message)
        self._attach(
            value, Place(*at, place.keys, place.items) if type(place) is Place else at, weight
        )

    def _key(self, text: str, style: str | None, at: Mark) -> None:
        here = self.open[-1]
        if text == "<<" and not style:
            message = "merge keys are not allowed; write the values out"
            self._stop(at, "merge-key", message)
        if not text:
            self._stop(at, "bad-key", "a key is missing before the colon")
        if len(text) > MAX_KEY or (style == '"' and FORBIDDEN.search(text)):
            self._stop(at, "bad-key", f"{shown(text)} cannot be a key")
        if len(here.keys) >= MAX_KEYS:
            self._stop(at, "too-many-keys", f"more than {MAX_KEYS} keys in one mapping")
        here.key, here.key_mark, here.wants_key = text, at, False

    def _attach(self, value: Any, place: Place | Mark, weight: int) -> None:
        if not self.open:
            self.root = (value, place if isinstance(place, Place) else Place(*place))
            return
        here = self.open[-1]
        here.weight += weight
        if not here.is_map:
            if len(here.members) >= MAX_MEMBERS:
                at = here.place.line, here.place.column
                self._stop(at, "too-many-nodes", f"a list of more than {MAX_MEMBERS} members")
            here.value.append(value)
            here.members.append(place)
            return
        here.wants_key = True
        key, at = here.key, here.key_mark
        if key in here.keys:
            first = "{}:{}".format(*here.keys[key])
            message = f"the key {shown(key)} is repeated; it stands at {first} already"
            self.problems.add(lambda: self._problem(at, "duplicate-key", message))
            return
        here.value[key] = value
        here.keys[key] = at
        here.items[key] = place

    def _tag(self, tag: str, at: Mark) -> NoReturn:
        message = f"the YAML tag {shown(tag)} is not allowed; quote text that starts with '!'"
        self._stop(at, "tag", message)

    def _problem(self, at: Mark, slug: str, message: str) -> Problem:
        return Problem(file=self.file, line=at[0], column=at[1], slug=slug, message=message)

    def _stop(self, at: Mark, slug: str, message: str) -> NoReturn:
        self.problems.add(lambda: self._problem(at, slug, message))
        self.problems.check()
        raise AssertionError("unreachable: check() raises")


class _NotYaml(Exception):
    def __init__(self, at: tuple[int, int], message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


def _events(text: str) -> Iterator[yaml.Event]:
    """Parser events, by libyaml where it is built in. Raises _NotYaml."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        while True:
            event = loader.get_event()
            if event is None or isinstance(event, yaml.StreamEndEvent):
                return
            yield event
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or "")
        is_unclosed = problem == "found unexpected end of stream" and error.context_mark
        mark = error.context_mark if is_unclosed else error.problem_mark or error.context_mark
        at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _NotYaml(at, _ADVICE.get(problem, f"this is not valid YAML: {problem}")) from None
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:
        raise _NotYaml((1, 1), f"this is not valid YAML ({type(error).__name__})") from None
    finally:
        loader.dispose()


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "+-.0123456789" and len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text):
        return Number(text)
    return text
