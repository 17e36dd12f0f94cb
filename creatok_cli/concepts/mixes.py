"""Mixes: weights over concepts, as the command line and sheets say them.

`pig=.55 sheep=.25 snake=.2` is one mix; `pig..snake:7` a sweep from one concept to another,
`pig,snake x sheep,bee` a grid of halves, and a YAML file of `creatures` holds many. A concept is a
known class, a token of the library (`<hydra>`) or any other phrase. Weights are divided by their
exact sum, counted in decimals as they are written, so that 55/25/20 and .55/.25/.2 are one mix to
the last bit.

Does not: know a class list or a library (`resolve_names` is given both), or make a token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from creatok_cli.concepts._check import Check, concept_fault, folded
from creatok_cli.errors import InputError, TokenMissing, UnknownName
from creatok_cli.registry import did_you_mean, nearest
from creatok_cli.strict_text import At, Number, decode, load_bytes, shown
from creatok_cli.strict_yaml import read_yaml

MAX_CONCEPTS = 60
"""Most concepts of one mix."""
MAX_WEIGHT = 1_000_000_000
MIN_SHARE = Fraction(1, 1_000_000)
"""A share of less than this is left out: it would move nothing that can be seen."""
MAX_CREATURES = 1_000
"""Most mixes of one file."""
MIN_COUNT, COUNT, MAX_COUNT = 2, 7, 64
"""Pictures of a sweep: fewest, default, most."""
MAX_SIDE = 32
"""Most rows, and most columns, of a grid."""

_FORM = "write CONCEPT=WEIGHT, such as pig=0.55"
_SWEEP_FORM = "write FROM..TO:COUNT, such as pig..snake:7"
_GRID_FORM = 'write ROWS x COLUMNS, such as "pig,snake x sheep,bee"'
_TOKEN = re.compile(r"<[a-z0-9][a-z0-9_-]{0,63}>")
_NAME = re.compile(r"(?!(?:con|prn|aux|nul|(?:com|lpt)[0-9])$)[a-z0-9][a-z0-9_-]{0,63}")
"""As in the token library; Windows keeps a few names for devices."""
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LONGEST_DECIMAL = 40
_CROSS = re.compile("\\s+[x\u00d7]\\s+")
_CLOSE = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Weights over concepts, as `make_mix` makes them: equal proportions are equal mixes."""

    weights: tuple[tuple[str, float], ...]
    """(name, weight), the heaviest first, equal ones by name; above 0, of sum 1. A name is as it
    was given: a class, the `<word>` of a token, a phrase, or a phrase in double quotes.
    """

    def __post_init__(self) -> None:
        values = [weight for _, weight in self.weights]
        if not 1 <= len(values) <= MAX_CONCEPTS or not all(0 < value <= 1 for value in values):
            raise ValueError(f"expected 1 to {MAX_CONCEPTS} weights above 0: {self.weights}")
        if abs(math.fsum(values) - 1) > _CLOSE:
            raise ValueError(f"expected weights of sum 1: {self.weights}")
        if len({_key(name) for name, _ in self.weights}) < len(values):
            raise ValueError(f"expected every name once: {self.weights}")
        if list(self.weights) != _ordered(self.weights):
            raise ValueError(f"expected the heaviest first: {self.weights}")

    def __str__(self) -> str:
        return " ".join(f"{name}={_decimal(weight)}" for name, weight in self.weights)


@dataclass(frozen=True, slots=True)
class MixFault:
    """What is wrong with one entry of a mix, or with all of it."""

    index: int | None
    """Position of the entry; None for the whole mix."""
    slug: str
    message: str
    hint: str = ""
    is_name: bool = False
    """Whether the name is at fault and not the weight."""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def mix_faults(pairs: Sequence[tuple[str, object]]) -> tuple[MixFault, ...]:
    """All that is wrong with (name, weight) pairs; `make_mix` takes them when nothing is."""
    if not pairs:
        return (MixFault(None, "bad-value", "found no concept, expected at least one"),)
    if len(pairs) > MAX_CONCEPTS:
        message = f"found {len(pairs)} concepts, expected at most {MAX_CONCEPTS}"
        return (MixFault(None, "bad-value", message),)
    faults: list[MixFault] = []
    first: dict[str, int] = {}
    for index, (name, weight) in enumerate(pairs):
        fault = _name_fault(name)
        earlier = index if fault else first.setdefault(_key(name), index)
        if fault:
            faults.append(MixFault(index, "bad-key", *fault, is_name=True))
        elif earlier != index:
            other = pairs[earlier][0]
            hint = f"{shown(other)} is the same" if other != name else "add up its weights"
            message = f"the concept {shown(name)} is repeated"
            faults.append(MixFault(index, "duplicate-key", message, hint, is_name=True))
        if _number(weight) is None:
            message = f"found {shown(weight)}, expected a number from 0 to {MAX_WEIGHT}"
            is_quoted = type(weight) is str and _DECIMAL.fullmatch(weight)
            hint = "remove the quotes" if is_quoted else ""
            faults.append(MixFault(index, "bad-value", message, hint))
    if not faults and not any(_number(weight) for _, weight in pairs):
        hint = "give at least one concept a weight above 0"
        faults.append(MixFault(None, "bad-value", "all weights are 0", hint))
    return tuple(faults)


def make_mix(
    pairs: Iterable[tuple[str, float | Number]], *, where: str
) -> tuple[Mix, tuple[str, ...]]:
    """The mix of (name, weight) pairs, and notices of what was changed on the way.

    Weights that sum to 1 within 1e-12 are kept as they are, so that the weights of a mix make that
    mix again; others are divided by their sum. `where` begins messages and may be empty. Raises
    InputError: negative, not finite, all 0, more than 60, a name twice or malformed.
    """
    given = list(pairs)
    for fault in mix_faults(given):
        name = "" if fault.index is None or fault.is_name else f"{shown(given[fault.index][0])}: "
        raise InputError(f"{_begin(where)}{name}{fault}")
    return _scaled(
        [(name, Fraction(repr(_number(weight)))) for name, weight in given], _begin(where)
    )


def parse_mix(words: Sequence[str]) -> tuple[Mix, tuple[str, ...]]:
    """`pig=.55`, `polar bear=.25`, `<hydra>=.2`: one mix, and notices.

    Words of which none has a weight weigh the same. A phrase in double quotes is taken as it is,
    even if it looks like a misspelt class. Raises InputError that names the argument.
    """
    pairs = [_weighed(word) for word in words]
    bare = [word for word, (_, weight) in zip(words, pairs, strict=True) if weight is None]
    if bare and len(bare) < len(words):
        raise InputError(f"{shown(bare[0])}: the weight is missing; {_FORM}")
    given = [(name, Number("1") if weight is None else weight) for name, weight in pairs]
    for fault in mix_faults(given):
        place = "" if fault.index is None else f"{shown(words[fault.index])}: "
        raise InputError(f"{place}{fault}; {_FORM}")
    if bare:
        return _scaled([(name, Fraction(1, len(given))) for name, _ in given], "")
    return make_mix(given, where="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A row of mixtures from one concept to the next, evenly spaced.

    Raises InputError when it cannot be: every concept of `ends` is reached by one picture, so with
    three of them the count is odd.
    """

    ends: tuple[str, ...]
    """Two concepts or more, passed in this order."""
    count: int = COUNT

    def __post_init__(self) -> None:
        where = "sweep " + shown("..".join(self.ends) + f":{self.count}")
        if not 2 <= len(self.ends) <= MAX_COUNT:
            message = f"found {len(self.ends)} concepts, expected 2 to {MAX_COUNT}"
            raise InputError(f"{where}: {message}; {_SWEEP_FORM}")
        for name in self.ends:
            _check_name(name, where, _SWEEP_FORM)
        for name, after in zip(self.ends, self.ends[1:], strict=False):
            if _key(name) == _key(after):
                raise InputError(f"{where}: there is no way from {shown(name)} to itself")
        parts = len(self.ends) - 1
        if not parts < self.count <= MAX_COUNT:
            message = f"found {self.count} pictures, expected {parts + 1} to {MAX_COUNT}"
            raise InputError(f"{where}: {message}; {_SWEEP_FORM}")
        if (self.count - 1) % parts:
            below = (self.count - 1) // parts * parts + 1
            near = [str(n) for n in (below, below + parts) if parts < n <= MAX_COUNT]
            message = f"{self.count} pictures cannot be evenly spaced and reach all concepts"
            raise InputError(f"{where}: {message}; use {' or '.join(near)}")

    def mixes(self) -> tuple[Mix, ...]:
        """`count` mixes, all concepts of `ends` among them alone."""
        parts, last = len(self.ends) - 1, self.count - 1
        made = []
        for step in range(self.count):
            index, rest = divmod(step * parts, last)
            if rest:
                share = Fraction(rest, last)
                pair = [(self.ends[index], 1 - share), (self.ends[index + 1], share)]
            else:
                pair = [(self.ends[index], Fraction(1))]
            made.append(_scaled(pair, "")[0])
        return tuple(made)


def parse_sweep(text: str) -> Sweep:
    """`pig..snake:7`, or `pig..owl..snake:9` through all; without a count about 7 pictures.

    Raises InputError.
    """
    where = f"sweep {shown(text)}"
    body, colon, number = text.rpartition(":")
    if not colon:
        body = text
    ends = tuple(piece.strip() for piece in body.split(".."))
    if len(ends) < 2 or not all(ends) or any(end.startswith(".") for end in ends):
        raise InputError(f"{where}: this is no way from one concept to another; {_SWEEP_FORM}")
    if colon and not re.fullmatch(r"\s*[0-9]{1,4}\s*", number):
        what = f"a whole number from {MIN_COUNT} to {MAX_COUNT}"
        raise InputError(f"{where}: found {shown(number)}, expected {what}; {_SWEEP_FORM}")
    parts = len(ends) - 1
    return Sweep(ends=ends, count=int(number) if colon else -(-(COUNT - 1) // parts) * parts + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table of mixtures, half the concept of the row and half that of the column.

    Raises InputError for a concept twice on one side, and more than 32 on a side.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        where = "grid " + shown(" x ".join(",".join(names) for names in (self.rows, self.columns)))
        for side, names in (("rows", self.rows), ("columns", self.columns)):
            if not 1 <= len(names) <= MAX_SIDE:
                message = f"found {len(names)} {side}, expected 1 to {MAX_SIDE}"
                raise InputError(f"{where}: {message}; {_GRID_FORM}")
            for index, name in enumerate(names):
                _check_name(name, where, _GRID_FORM)
                if _key(name) in {_key(earlier) for earlier in names[:index]}:
                    raise InputError(f"{where}: {shown(name)} is repeated in the {side}")

    def mixes(self) -> tuple[tuple[Mix, ...], ...]:
        """Row by row; where row and column are the same concept, it is alone."""
        return tuple(tuple(_half(row, column) for column in self.columns) for row in self.rows)


def parse_grid(text: str) -> Grid:
    """`pig,snake x sheep,bee`: two rows, two columns. Raises InputError."""
    sides = _CROSS.split(text.strip())
    if len(sides) != 2:
        message = "this is not two lists of concepts with ' x ' between them"
        raise InputError(f"grid {shown(text)}: {message}; {_GRID_FORM}")
    rows, columns = (tuple(name.strip() for name in side.split(",")) for side in sides)
    return Grid(rows=rows, columns=columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedMix:
    """One creature of a file."""

    name: str
    mix: Mix
    where: str
    """`file:line:column` of its name."""


def load_mixes(path: str | Path) -> tuple[tuple[NamedMix, ...], tuple[str, ...]]:
    """The creatures of a YAML file, and notices: `creatures: {chimera: {pig: 0.55, ...}, ...}`.

    Raises SheetError with up to 20 problems at file:line:column.
    """
    file = str(path)
    document, places = read_yaml(decode(load_bytes(Path(path), file), file), file)
    return _Creatures(file, document, places).run()


class _Creatures(Check):
    """One pass over a file of mixes."""

    def run(self) -> tuple[tuple[NamedMix, ...], tuple[str, ...]]:
        creatures: Any = self.keys(("creatures",), ("creatures",)).get("creatures")
        self.problems.check()
        if not isinstance(creatures, dict) or not 1 <= len(creatures) <= MAX_CREATURES:
            found = f"{len(creatures)} names" if isinstance(creatures, dict) else shown(creatures)
            what = f"1 to {MAX_CREATURES} names with a mix each, such as {{chimera: {{pig: 0.5}}}}"
            message = f"creatures: found {found}, expected {what}"
            self.say(("creatures",), "bad-value", message)
            self.problems.check()
        for name, weights in creatures.items():
            self._creature(name, weights)
        self.problems.check()
        made: list[NamedMix] = []
        notices: list[str] = []
        for name, weights in creatures.items():
            line, column = self.places.find(("creatures", name), key=True)
            where = f"{self.file}:{line}:{column}"
            mix, changes = make_mix(weights.items(), where=f"{where}: {name}")
            made.append(NamedMix(name=name, mix=mix, where=where))
            notices += changes
        return tuple(made), tuple(notices)

    def _creature(self, name: str, weights: Any) -> None:
        at: At = ("creatures", name)
        if not _NAME.fullmatch(name):
            message = f"{shown(name)} cannot be the name of a token"
            hint = "up to 64 of a-z, 0-9, - and _, none that Windows keeps, such as con"
            self.say(at, "bad-key", message, hint, key=True)
        if not isinstance(weights, dict):
            message = f"{name}: found {shown(weights)}, expected concepts and their weights"
            self.say(at, "bad-value", message, "such as {pig: 0.55, snake: 0.45}")
            return
        pairs = list(weights.items())
        for fault in mix_faults(pairs):
            place = at if fault.index is None else (*at, pairs[fault.index][0])
            label = name if fault.index is None or fault.is_name else place[-1]
            message = f"{shown(label)}: {fault.message}"
            self.say(place, fault.slug, message, fault.hint, key=fault.is_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredient:
    """One concept of a mix, and what it turned out to be."""

    name: str
    """The class as its list spells it, the `<word>` of a token, or the free phrase."""
    weight: float
    kind: Literal["class", "token", "free"]
    near: str = ""
    """Of a free phrase: the class or token that is most like it, for a warning."""


def resolve_names(
    mix: Mix, known: Sequence[str], tokens: Sequence[str], *, where: str = ""
) -> tuple[Ingredient, ...]:
    """What every name of a mix means, in the order of the mix.

    A class of `known`, whatever its case, comes before a token, whose name may be written with or
    without its brackets; a word in double quotes is never a token. Anything else is a free phrase,
    of whose accuracy the caller should warn; but a word that is a typing error away from a class
    or token is refused, unless it stands in double quotes. Raises UnknownName, TokenMissing
    (`<hydra>` is not there), InputError (two names for one thing).
    """
    classes = {folded(name): name for name in known}
    words = {folded(name.strip("<>")): f"<{name.strip('<>')}>" for name in tokens}
    found: list[Ingredient] = []
    for name, weight in mix.weights:
        meant = _meant(name, weight, classes, words, _begin(where))
        for other in found:
            if (other.kind, folded(other.name)) == (meant.kind, folded(meant.name)):
                raise InputError(f"{_begin(where)}{shown(meant.name)} is repeated in {mix}")
        found.append(meant)
    return tuple(found)


def _meant(
    name: str, weight: float, classes: dict[str, str], words: dict[str, str], begin: str
) -> Ingredient:
    plain, bare = name.strip('"'), folded(name.strip("<>"))
    if folded(plain) in classes:
        return Ingredient(name=classes[folded(plain)], weight=weight, kind="class")
    if bare in words:
        return Ingredient(name=words[bare], weight=weight, kind="token")
    if _TOKEN.fullmatch(name):
        hint = did_you_mean(name, words.values()) or "'creatok tokens list' shows what there is"
        raise TokenMissing(f"{begin}the token {name} is not in the library; {hint}")
    pool = (*classes.values(), *words)
    slips = [other for other in pool if plain == name and _is_slip(folded(name), folded(other))]
    if slips:
        hint = f"did you mean {shown(nearest(name, slips) or slips[0])}?"
        message = f"unknown concept {shown(name)}; {hint} If it is meant as it is"
        raise UnknownName(f"{begin}{message}, write it in quotes: '{shown(name)}'")
    near = nearest(plain, pool) or ""
    return Ingredient(name=plain, weight=weight, kind="free", near=near)


def _is_slip(word: str, known: str) -> bool:
    """Whether a typing error makes `word` of a known one.

    Two neighbours swapped; from 5 letters on also one letter too many, too few or another one; from
    7 on two such errors. Shorter words turn into each other too easily: rat, cat, bat. `nearest`
    would not do: it takes goose for horse and unicorn for corn.
    """
    most = 1 if len(known) < 7 else 2
    edit = 1 if len(known) > 4 else most + 1
    if abs(len(word) - len(known)) > most or len(set(word) ^ set(known)) > 2 * most:
        return False
    last: list[int] = []
    before: list[int] = []
    row = [edit * j for j in range(len(known) + 1)]
    for i, letter in enumerate(word, 1):
        last, before, row = before, row, [edit * i]
        for j, there in enumerate(known, 1):
            cost = min(before[j] + edit, row[-1] + edit, before[j - 1] + edit * (letter != there))
            if i > 1 and j > 1 and letter == known[j - 2] and word[i - 2] == there:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1] <= most


def _scaled(pairs: list[tuple[str, Fraction]], begin: str) -> tuple[Mix, tuple[str, ...]]:
    """The mix of checked weights, one of them above 0."""
    notices = []
    total = _sum(pairs)
    kept = [(name, weight) for name, weight in pairs if weight and weight >= MIN_SHARE * total]
    for name, weight in pairs:
        if not weight:
            notices.append(f"{begin}{name}=0 is left out")
        elif (name, weight) not in kept:
            notices.append(f"{begin}{name}={_decimal(weight)} is too little and left out")
    total = _sum(kept)
    if total != 1:
        notices.append(f"{begin}weights sum to {_decimal(total)}; divided by it")
    weights = _ordered((name, float(weight / total)) for name, weight in kept)
    return Mix(weights=tuple(weights)), tuple(notices)


def _sum(pairs: list[tuple[str, Fraction]]) -> Fraction:
    """The exact sum of the weights; 1 if that is what they were meant to sum to."""
    total = sum((weight for _, weight in pairs), Fraction(0))
    return Fraction(1) if abs(total - 1) <= _CLOSE else total


def _half(row: str, column: str) -> Mix:
    if _key(row) == _key(column):
        return Mix(weights=((row, 1.0),))
    return Mix(weights=tuple(_ordered(((row, 0.5), (column, 0.5)))))


def _ordered(weights: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(weights, key=lambda pair: (-pair[1], pair[0]))


def _weighed(word: str) -> tuple[str, Number | None]:
    """Name and weight of an argument, both as written; no weight without `=`."""
    name, equals, weight = word.rpartition("=")
    if not equals:
        return word.strip(), None
    return name.strip(), Number(weight.strip())


def _name_fault(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a concept, and what to do, or None."""
    if name.startswith("<") or name.endswith(">"):
        if _TOKEN.fullmatch(name):
            return None
        return f"found {shown(name)}, expected a token such as <hydra>", "a-z, 0-9, - and _"
    if len(name) > 2 and name[0] == name[-1] == '"':
        return concept_fault(name[1:-1])
    return concept_fault(name)


def _check_name(name: str, where: str, form: str) -> None:
    if fault := _name_fault(name):
        raise InputError(f"{where}: {'; '.join(part for part in (*fault, form) if part)}")


def _key(name: str) -> str:
    """Names with one key are one concept: quotes, case and composition do not matter."""
    return folded(name.strip('"'))


def _number(weight: object) -> float | None:
    """A weight as a float, or None for what is none."""
    if isinstance(weight, Number):
        if len(weight) > _LONGEST_DECIMAL or not _DECIMAL.fullmatch(weight):
            return None
        weight = float(weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return None
    return float(weight) + 0.0 if 0 <= weight <= MAX_WEIGHT else None


def _decimal(weight: float | Fraction) -> str:
    return repr(float(weight)).removesuffix(".0")


def _begin(where: str) -> str:
    return f"{where}: " if where else ""
