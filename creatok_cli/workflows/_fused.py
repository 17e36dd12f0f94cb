"""Mixes -> token files, by the network of a base: what `creatok fuse` and sheets share.

A concept is a class of the network, a token of the library (the mean of its vectors) or a free
phrase (the mean of its vocabulary rows). The first two need no torch. The rows of a phrase are read
once from the text encoders and then kept in creatok's home, so that the second time needs none
either. Equal mixes and networks give equal bytes.

Does not: train a network, store a token, or choose what to draw.
"""

from __future__ import annotations

import array
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from creatok_cli import config, durable, registry
from creatok_cli.concepts.mixes import Ingredient, Mix, resolve_names
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, CreatokError, InputError, UnsafeName
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.plan.names import slug
from creatok_cli.tokens.file import (
    SUFFIX,
    TokenHeader,
    check_bytes,
    pack_token,
    read_rows,
)
from creatok_cli.tokens.library import Library, check_name, short
from creatok_cli.tokens.network import Network
from creatok_cli.tokens.token import T5, Rows, check_widths

TEMPLATE = "a photo of a {word}"
"""The prompt that fused tokens were trained in."""
LITERALS = 3
"""Names of a mix that encoders without vectors read."""
MAX_NAME = 64
MAX_LITERAL = 200
DIGITS = 6
"""Of a digest that tells apart mixes whose names do not."""
WORDS = "words"
"""Folder in creatok's home: the rows of phrases."""
WORD_FILE = "<word>"
"""What such a file says it is called: it is read by its digest, never by a name."""

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""What a recipe calls the number format of encoders, and what bases call it."""
Vectors = dict[str, "array.array[float]"]
"""One row per encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """A mix as a token file that is not stored yet."""

    ingredients: tuple[Ingredient, ...]
    data: bytes
    header: TokenHeader
    notices: tuple[str, ...]
    """Warnings, such as of phrases that the network does not know."""

    @property
    def word(self) -> str:
        """The placeholder, with brackets."""
        return self.header.word

    @property
    def name(self) -> str:
        """The same without brackets."""
        return self.header.word.strip("<>")

    @property
    def mix(self) -> tuple[tuple[str, float], ...]:
        """(concept, weight), each concept as it turned out."""
        return tuple((one.name, one.weight) for one in self.ingredients)


@dataclass(slots=True)
class Fuser:
    """Makes tokens with one network. Raises ArtefactError for a network of another base."""

    network: Network
    facts: BaseFacts
    device: str = "auto"
    library: Library = field(default_factory=Library)
    _module: ModuleType = field(init=False)
    _rows: dict[tuple[str, str], Vectors] = field(init=False, default_factory=dict)
    _headers: dict[str, TokenHeader] = field(init=False, default_factory=dict)
    _told: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        check_base(self.network, self.facts)
        self._module = method_of(self.network)

    def ingredients(self, mix: Mix, where: str = "") -> tuple[Ingredient, ...]:
        """What the names of a mix mean. Raises UnknownName, TokenMissing, InputError."""
        return ingredients(mix, self.network.classes, self.library, where)

    def prepare(self, mixes: Iterable[Mix]) -> None:
        """Reads the phrases of several mixes together, so that the encoders open once at most."""
        found = [one for mix in mixes for one in self.ingredients(mix)]
        self._read_phrases([one.name for one in found if one.kind == "free"])

    def fuse(self, mix: Mix, *, word: str = "", where: str = "") -> Fused:
        """The token of a mix; without a word it is named after the mix.

        Raises InputError for names that mean nothing, ArtefactError for tokens that do not fit, and
        where a phrase has to be read, whatever opening the base raises.
        """
        found = self.ingredients(mix, where)
        parts = self._parts(found)
        rows: dict[str, Rows] = self._module.fuse(self.network, parts)
        word = word or f"<{default_name(found)}>"
        recipe = self._recipe(found)
        said = ", ".join(f"{one.name} {percent(one.weight)} %" for one in found)
        metadata = {"modelspec.description": f"{said[:900]}, fused by {recipe['method']}"}
        data = pack_token(word, self._literal(found), rows, recipe, metadata)
        told, self._told = self._told, []
        return Fused(
            ingredients=found,
            data=data,
            header=check_bytes(data, f"token {word}"),
            notices=(*told, *(self._warning(one) for one in found if one.kind == "free")),
        )

    def parts(self, mix: Mix) -> list[tuple[float, Vectors]]:
        """(weight, row per encoder) of each concept of a mix: what its latent is made of.

        Raises as `fuse`.
        """
        return self._parts(self.ingredients(mix))

    def _parts(self, found: Sequence[Ingredient]) -> list[tuple[float, Vectors]]:
        self._read_phrases([one.name for one in found if one.kind == "free"])
        return [(one.weight, self._row(one)) for one in found]

    def _recipe(self, found: Sequence[Ingredient]) -> dict[str, Any]:
        said = self.network.recipe
        return {
            "kind": "token",
            "method": said["method"],
            "template": TEMPLATE,
            "network": self.network.id,
            "mix": [[one.name, one.weight] for one in found],
            "free": [one.name for one in found if one.kind == "free"],
            "parents": [self._header(one).id for one in found if one.kind == "token"],
            "base": said["base"],
            "base_digest": said["base_digest"],
            "base_licence": said["base_licence"],
            "encoders": dict(said["encoders"]),
            "precision": said["precision"],
            "version": said["version"],
        }

    def _literal(self, found: Sequence[Ingredient]) -> str:
        words = [
            self._header(one).literal if one.kind == "token" else one.name
            for one in found[:LITERALS]
        ]
        return " ".join(dict.fromkeys(words))[:MAX_LITERAL].strip()

    def _warning(self, one: Ingredient) -> str:
        near = f"; the nearest that it knows is {one.near}" if one.near else ""
        return (
            f'"{one.name}" is none of the {len(self.network.classes)} concepts of the network: how '
            f"well its weight is kept was not trained{near}"
        )

    # Rows

    def _row(self, one: Ingredient) -> Vectors:
        key = one.kind, one.name
        if key not in self._rows:
            if one.kind == "class":
                found = self._module.class_row(self.network, one.name)
            else:  # phrases have been read
                found = self._token_row(one)
            self._rows[key] = dict(found)
        return self._rows[key]

    def _header(self, one: Ingredient) -> TokenHeader:
        if one.name not in self._headers:
            self._headers[one.name] = self.library.find(one.name.strip("<>")).header
        return self._headers[one.name]

    def _token_row(self, one: Ingredient) -> Vectors:
        header, rows = read_rows(self._header(one).path)
        check_widths(one.name, header.widths, self.network.widths, self.facts.name)
        then = header.recipe.get("encoders")
        mine = self.network.recipe["encoders"]
        if isinstance(then, Mapping) and any(
            name in then and then[name] != digest for name, digest in mine.items()
        ):
            self._told.append(
                f"{one.name} was learned with other text encoders than the network: it may "
                "mean something else here"
            )
        return {name: mean_row(part) for name, part in rows.items() if name != T5}

    def _read_phrases(self, phrases: Sequence[str]) -> None:
        """Rows of phrases, from the home where they are kept, else from the text encoders."""
        wanted = [each for each in dict.fromkeys(phrases) if ("free", each) not in self._rows]
        fresh: list[str] = []
        for phrase in wanted:
            kept, fault = self._kept(phrase)
            if kept is None:
                fresh.append(phrase)
            else:
                self._rows["free", phrase] = kept
            if fault:
                self._told.append(fault)
        if not fresh:
            return
        for phrase, rows in self._encoded(fresh).items():
            self._keep(phrase, rows)
            self._rows["free", phrase] = {name: mean_row(part) for name, part in rows.items()}

    def _encoded(self, phrases: Sequence[str]) -> dict[str, dict[str, Rows]]:
        """The vocabulary rows of phrases: torch is imported here."""
        from creatok_cli.backbones.base import pick_device
        from creatok_cli.tokens.token import row_bytes

        said = str(self.network.recipe["precision"])
        module = registry.get("backbones", self.facts.backbone)
        backbone = module.build(
            module.Spec(),
            self.facts,
            device=pick_device(self.device),
            dtype=DTYPES.get(said, said),
        )
        text = backbone.text
        if text is None:
            raise InputError(
                f"base {self.facts.name} has no words: only known concepts can be mixed"
            )
        try:
            return {
                phrase: {
                    name: (tuple(rows.shape), row_bytes(rows.float()))
                    for name, rows in text.rows(phrase).items()
                    if name in self.network.widths
                }
                for phrase in phrases
            }
        finally:
            backbone.release("text")

    def _word_recipe(self, phrase: str) -> dict[str, Any]:
        """What the rows of a phrase depend on."""
        said = self.network.recipe
        return {
            "kind": "words",
            "phrase": phrase,
            "base_digest": said["base_digest"],
            "precision": said["precision"],
        }

    def _word_path(self, phrase: str) -> Path:
        digest = sha256_hex(canonical_json(self._word_recipe(phrase)))
        return config.home() / WORDS / f"{digest[:40]}{SUFFIX}"

    def _kept(self, phrase: str) -> tuple[Vectors | None, str]:
        """Rows that were kept, and what is wrong with a file that cannot be believed."""
        path = self._word_path(phrase)
        if not path.exists():
            return None, ""
        try:
            header, rows = read_rows(path)
        except ArtefactError as error:
            return None, f"{error}; the rows of {phrase!r} are read again"
        if dict(header.recipe) != self._word_recipe(phrase) or header.widths != self.network.widths:
            return None, f"{path}: holds other rows; those of {phrase!r} are read again"
        return {name: mean_row(part) for name, part in rows.items()}, ""

    def _keep(self, phrase: str, rows: Mapping[str, Rows]) -> None:
        """A home that cannot be written costs the time of reading again, nothing else."""
        path, recipe = self._word_path(phrase), self._word_recipe(phrase)
        with suppress(OSError, CreatokError):
            durable.open_root(path.parent, create=True)
            writer = durable.Writer(run=durable.new_run())
            data = pack_token(WORD_FILE, phrase[:MAX_LITERAL], rows, recipe)
            durable.replace_derived(path.parent, path.name, data, writer=writer)


def ingredients(
    mix: Mix, classes: Sequence[str], library: Library, where: str = ""
) -> tuple[Ingredient, ...]:
    """What the names of a mix mean, in an order that does not depend on how they were written.

    Raises UnknownName, TokenMissing, InputError.
    """
    found = resolve_names(mix, classes, library.names(), where=where)
    return tuple(sorted(found, key=lambda one: (-one.weight, one.name)))


def fused_bytes(
    mix: Mix, facts: BaseFacts, network: Network, *, word: str = "", device: str = "auto"
) -> tuple[bytes, str]:
    """The token file of one mix, and its id; see `Fuser.fuse`."""
    made = Fuser(network, facts, device).fuse(mix, word=word)
    return made.data, made.header.id


def check_base(network: Network, facts: BaseFacts, origin: str = "the network") -> None:
    """Raise ArtefactError for a network that was made on another base."""
    said = network.recipe
    if said["base_digest"] == facts.digest:
        return
    made = f"{said['base']} ({short(said['base_digest'])})"
    raise ArtefactError(
        f"{origin} was made on base {made}, but base {facts.name} is {short(facts.digest)}; "
        "give that base, or another --network, or make one with --train"
    )


def method_of(network: Network, origin: str = "the network") -> ModuleType:
    """The module of the method that made a network. Raises ArtefactError where it cannot fuse."""
    name = str(network.recipe["method"])
    if name not in registry.names("methods"):
        raise ArtefactError(
            f"{origin} was made by the method {name[:40]!r}, which is not installed"
        )
    module = registry.get("methods", name)
    if not all(callable(getattr(module, each, None)) for each in ("fuse", "class_row")):
        raise ArtefactError(f"{origin} was made by the method {name}, which fuses nothing")
    return module


def mean_row(rows: Rows) -> array.array[float]:
    """The mean of [n d] rows, in f32."""
    (count, width), data = rows
    values = array.array("f")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    columns = zip(*(values[n * width : (n + 1) * width] for n in range(count)), strict=True)
    return array.array("f", (sum(column) / count for column in columns))


def default_name(ingredients: Sequence[Ingredient]) -> str:
    """`pig55-sheep25-snake20`: a name that only this mix has, as far as hundredths tell.

    Where they do not, or not all concepts fit, a few digits of a digest follow.
    """
    parts = [part_name(one) for one in ingredients]
    is_exact = all(abs(one.weight * 100 - round(one.weight * 100)) < 1e-9 for one in ingredients)
    whole = "-".join(parts)
    named = all(plain(one.name) == one.name.strip("<>").replace(" ", "-") for one in ingredients)
    if is_exact and named and len(whole) <= MAX_NAME:
        with suppress(UnsafeName):
            return check_name(whole)
    content = [[one.kind, one.name, one.weight] for one in ingredients]
    tail = "-" + sha256_hex(canonical_json(content))[:DIGITS]
    kept = parts[0][: MAX_NAME - len(tail)]
    for part in parts[1:]:
        if len(kept) + 1 + len(part) + len(tail) > MAX_NAME:
            break
        kept += f"-{part}"
    return check_name(kept.rstrip("-") + tail)


def part_name(one: Ingredient) -> str:
    """`pig55`; `chimera20_55` where the concept's own name ends in a digit."""
    word = plain(one.name)
    return f"{word}{'_' if word[-1].isdigit() else ''}{percent(one.weight)}"


def plain(name: str) -> str:
    """A concept as it may stand in the name of a token; never empty."""
    text = re.sub(r"[^a-z0-9_-]+", "-", slug(name.strip("<>")).lower()).strip("-_")
    return text or "concept"


def percent(weight: float) -> str:
    """Hundredths, rounded: 55 for 0.55; less than 1 is 0."""
    return str(round(weight * 100))
