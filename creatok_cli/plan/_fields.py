"""The field types of a sheet, said once for YAML, CSV, JSONL, `--set` and the JSON Schema.

Readers hand over text, `Number` (an unquoted number as written), `Cell` (CSV and `--set`: reads as
anything), bool, None, lists and dicts. Each type turns that into a value or says what it expected;
nothing is converted on the quiet.

Does not: know which key has which type (`sheet.py`).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from creatok_cli.concepts.mixes import MAX_CONCEPTS, MAX_WEIGHT, mix_faults
from creatok_cli.domain import Size
from creatok_cli.plan._template import NAME
from creatok_cli.strict_text import FORBIDDEN, Cell, Number, forbidden_message, shown

MAX_PROMPT = 4_000
MAX_VALUES = 10_000
DTYPES = ("fp32", "bf16", "fp16")
FUSE = "fuse"
"""The only key of a token that a sheet makes of concepts."""
WORD = re.compile(r"<?([a-z0-9][a-z0-9_-]{0,63})>?")

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_LOW_SIDE, _HIGH_SIDE = 8, 4096

Weights = tuple[tuple[str, Number], ...]
"""(concept, weight) as a sheet says them, checked by `mix_faults`."""


def _wrong(expected: str, hint: str = "", slug: str = "bad-value") -> NoReturn:
    raise PydanticCustomError(
        "bad_value", "not what was expected", {"expected": expected, "hint": hint, "slug": slug}
    )


def _need_value(value: object, expected: str) -> None:
    if value is None:
        _wrong(expected, "write a value, or remove the key", "missing-value")


class _Whole:
    """A whole number within bounds."""

    def __init__(self, low: int, high: int, what: str = "") -> None:
        self.low, self.high = low, high
        self.expected = what or f"a whole number from {low} to {high}"

    def __call__(self, value: object) -> int:
        _need_value(value, self.expected)
        number: int | None = None
        if type(value) is int:
            number = value
        elif isinstance(value, str):
            text = value.strip() if isinstance(value, Cell) else str(value)
            if _LEADING_ZERO.fullmatch(text):
                _wrong(self.expected, "leading zeros are not allowed in a number")
            if _INTEGER.fullmatch(text) and len(text) <= 20:
                if not isinstance(value, Number | Cell):
                    _wrong(self.expected, "remove the quotes")
                number = int(text)
        if number is None or not self.low <= number <= self.high:
            _wrong(self.expected)
        return number

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


class _Real:
    """A finite decimal number within bounds."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.expected = f"a number from {low:g} to {high:g}"

    def __call__(self, value: object) -> float:
        _need_value(value, self.expected)
        number = math.nan
        if type(value) in (int, float):
            number = float(value)  # type: ignore[arg-type]
        elif isinstance(value, str):
            text = value.strip() if isinstance(value, Cell) else str(value)
            if _LEADING_ZERO.fullmatch(text):
                _wrong(self.expected, "leading zeros are not allowed in a number")
            if _DECIMAL.fullmatch(text) and len(text) <= 40:
                if not isinstance(value, Number | Cell):
                    _wrong(self.expected, "remove the quotes")
                number = float(text)
        if not self.low <= number <= self.high:
            _wrong(self.expected)
        return number

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


class _Text:
    """Text of bounded length, without control characters."""

    def __init__(
        self, expected: str, *, low: int = 1, high: int = 200, has_numbers: bool = False
    ) -> None:
        self.expected = expected
        self.low, self.high, self.has_numbers = low, high, has_numbers

    def __call__(self, value: object) -> str:
        _need_value(value, self.expected)
        if isinstance(value, Number) and self.has_numbers:
            return str(value)
        if isinstance(value, Number | bool | int | float):
            _wrong(self.expected, "quote it to make it text")
        if isinstance(value, dict):
            _wrong(self.expected, "quote text that starts with '{' or has ': ' in it")
        if not isinstance(value, str):
            _wrong(self.expected)
        if not self.low <= len(value) <= self.high:
            _wrong(f"{self.expected} of {self.low} to {self.high} characters")
        bad = FORBIDDEN.search(value)
        if bad:
            _wrong(self.expected, forbidden_message(bad.group()), "control-character")
        return str(value)

    def schema(self) -> dict[str, Any]:
        kind = ["string", "integer", "number"] if self.has_numbers else "string"
        return {"type": kind, "minLength": self.low, "maxLength": self.high}


def _prompt(value: object) -> str:
    text = _PROMPT(value)
    if not text.strip():
        _wrong(_PROMPT.expected, "it is blank")
    return text


def _negative(value: object) -> str | None:
    """Empty text and null alike mean no negative prompt, so that both give one key."""
    return None if value is None else _NEGATIVE(value) or None


def _picture(value: object) -> str | None:
    """Null alone means no picture."""
    return None if value is None else _PICTURE(value)


def _identifier(value: object) -> str:
    text = _IDENTIFIER(value)
    if text != text.strip() or "\n" in text or "\t" in text:
        _wrong(_IDENTIFIER.expected, "no blanks at the ends, no line breaks")
    return text


def _value(value: object) -> str:
    """Variables keep numbers and booleans as written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    _need_value(value, _VALUE.expected)
    return _VALUE(value)


def _size(value: object) -> Size:
    expected = f"a size such as 64x64 or 64, each side {_LOW_SIDE} to {_HIGH_SIDE}"
    _need_value(value, expected)
    sides = (0, 0)
    if type(value) is int:
        sides = (value, value)
    elif isinstance(value, str):
        text = value.strip() if isinstance(value, Cell) else str(value)
        found = _SIZE.fullmatch(text)
        if found:
            sides = (int(found[1]), int(found[2]))
        elif isinstance(value, Number | Cell) and _INTEGER.fullmatch(text) and len(text) < 8:
            sides = (int(text), int(text))
    if not all(_LOW_SIDE <= side <= _HIGH_SIDE for side in sides):
        _wrong(expected)
    return sides


def _dtype(value: object) -> str:
    expected = ", ".join(DTYPES[:-1]) + f" or {DTYPES[-1]}"
    _need_value(value, expected)
    if not isinstance(value, str) or str(value) not in DTYPES:
        _wrong(expected)
    return str(value)


def _version(value: object) -> int:
    if isinstance(value, bool):
        value = str(value)
    if value != 1 and not (isinstance(value, Number) and value == "1"):
        _wrong("1, the only version of the sheet format so far")
    return 1


def _variable(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        _wrong(
            "a variable name of letters, digits and _, not starting with a digit", slug="bad-key"
        )
    return str(value)


def _word(value: object) -> str:
    found = WORD.fullmatch(value) if isinstance(value, str) else None
    if not found or (str(value)[0] == "<") != (str(value)[-1] == ">"):
        _wrong("a token word such as <hydra-fox>: a-z, 0-9, - and _", slug="bad-key")
    return f"<{found[1]}>"


def _token(value: object) -> str | Weights:
    """NAME or FILE, or `{fuse: {pig: 0.55, snake: 0.45}}`; faults have their own places."""
    if not isinstance(value, dict):
        return _FILE(value)
    faults: list[InitErrorDetails] = [
        {"type": "extra_forbidden", "loc": (key,), "input": found}
        for key, found in value.items()
        if key != FUSE
    ]
    weights = value.get(FUSE)
    pairs: Weights = ()
    if FUSE in value and not isinstance(weights, dict):
        faults.append(_bad_mix((FUSE,), weights, f"found {shown(weights)}, expected {_MIX}"))
    elif isinstance(weights, dict):
        pairs = tuple(weights.items())
        for fault in mix_faults(pairs):
            at = () if fault.index is None else pairs[fault.index][:1]
            loc = (FUSE, *at, "[key]") if fault.is_name else (FUSE, *at)
            faults.append(_bad_mix(loc, weights, fault.message, fault.hint, fault.slug))
    elif not value:
        faults.append({"type": "missing", "loc": (FUSE,), "input": value})
    if faults:
        raise ValidationError.from_exception_data("token", faults)
    return pairs


def _bad_mix(
    loc: tuple[str, ...], found: object, message: str, hint: str = "", slug: str = "bad-value"
) -> InitErrorDetails:
    context = {"message": message, "hint": hint, "slug": slug}
    kind = PydanticCustomError("bad_mix", "not a mix", context)
    return {"type": kind, "loc": loc, "input": found}


def _split(value: object) -> object:
    """A CSV cell or `--set` value becomes a list at semicolons and blanks."""
    if isinstance(value, Cell):
        return [Cell(piece) for piece in re.split(r"[;\s]+", value) if piece]
    _need_value(value, "a list")
    return value


def need_mapping(value: object) -> object:
    """Refuses null: a key without a value says nothing."""
    _need_value(value, "a mapping")
    return value


def _words_once(value: object) -> object:
    """Refuses `fox` beside `<fox>`: one word, declared twice."""
    need_mapping(value)
    if isinstance(value, dict):
        for word in value:
            if isinstance(word, str) and not word.startswith("<") and f"<{word}>" in value:
                _wrong("each word once", f"{word} and <{word}> are one word", "duplicate-key")
    return value


def _option(value: object) -> str | int | float | bool:
    """A setting of one base: text, a number or a truth value, as it is written."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | Number):
        number = _OPTION_NUMBER(value)
        is_whole = type(value) is int or _INTEGER.fullmatch(str(value)) is not None
        return int(number) if is_whole else number
    return _OPTION(value)


def need_list(value: object) -> object:
    """Refuses null: a key without a value says nothing."""
    _need_value(value, "a list")
    return value


_PROMPT = _Text("a prompt", high=MAX_PROMPT)
_NEGATIVE = _Text("a negative prompt", low=0, high=MAX_PROMPT)
_IDENTIFIER = _Text("a job id", has_numbers=True)
_VALUE = _Text("a text or number", low=0, high=2_000, has_numbers=True)
_OPTION = _Text("a text, a number, true or false", low=0, high=2_000)
_OPTION_NUMBER = _Real(-1e12, 1e12)
_STEPS = _Whole(1, 1000)
_COUNT = _Whole(1, 10_000)
_GUIDANCE = _Real(0, 50)
_SEED = _Whole(0, 2**63 - 1, "a whole number from 0 to 2^63 - 1")
_BASE = _Text("the name or folder of a base", high=1_000)
_SCHEDULER = _Text("the name of a scheduler", high=100)
_LORA = _Text("the path of a LoRA file", high=1_000)
_SCALE = _Real(-4, 4)
_PICTURE = _Text("the path of a picture, or null for none", high=1_000)
_STRENGTH = _Real(0.01, 1)
_FILE = _Text("the name or file of a token, or {fuse: {pig: 0.55}}", high=1_000)
_MIX = "concepts and their weights, such as {pig: 0.55, snake: 0.45}"
_TEMPLATE = _Text("an output name such as {job}/{index:04d}-{key8}", high=300)
_TAG = _Text("a tag", high=100, has_numbers=True)
_ANY = _Text("text", high=1_000)

# `| None` says that the key may be absent; a null that is written there is refused all the same.
Version = Annotated[int, PlainValidator(_version), WithJsonSchema({"const": 1})]
Steps = Annotated[int | None, PlainValidator(_STEPS), WithJsonSchema(_STEPS.schema())]
Count = Annotated[int | None, PlainValidator(_COUNT), WithJsonSchema(_COUNT.schema())]
OneSeed = Annotated[int, PlainValidator(_SEED), WithJsonSchema(_SEED.schema())]
Seed = Annotated[int | None, PlainValidator(_SEED), WithJsonSchema(_SEED.schema())]
Guidance = Annotated[float | None, PlainValidator(_GUIDANCE), WithJsonSchema(_GUIDANCE.schema())]
SizePx = Annotated[
    Size | None,
    PlainValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[1-9][0-9]*x[1-9][0-9]*$"},
                {"type": "integer", "minimum": _LOW_SIDE, "maximum": _HIGH_SIDE},
            ]
        }
    ),
]
Dtype = Annotated[str | None, PlainValidator(_dtype), WithJsonSchema({"enum": list(DTYPES)})]
Prompt = Annotated[str, PlainValidator(_prompt), WithJsonSchema(_PROMPT.schema())]
Negative = Annotated[
    str | None,
    PlainValidator(_negative),
    WithJsonSchema({"type": ["string", "null"], "maxLength": MAX_PROMPT}),
]
Identifier = Annotated[
    str | None, PlainValidator(_identifier), WithJsonSchema(_IDENTIFIER.schema())
]
Base = Annotated[str | None, PlainValidator(_BASE), WithJsonSchema(_BASE.schema())]
Scheduler = Annotated[str | None, PlainValidator(_SCHEDULER), WithJsonSchema(_SCHEDULER.schema())]
TokenSource = Annotated[
    str | Weights,
    PlainValidator(_token),
    WithJsonSchema(
        {
            "anyOf": [
                _FILE.schema(),
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": [FUSE],
                    "properties": {
                        FUSE: {
                            "description": "Concepts and their weights, which are divided by "
                            "their sum: pig: 0.55, polar bear: 0.25, <hydra>: 0.2.",
                            "type": "object",
                            "additionalProperties": {
                                "type": "number",
                                "minimum": 0,
                                "maximum": MAX_WEIGHT,
                            },
                            "minProperties": 1,
                            "maxProperties": MAX_CONCEPTS,
                        }
                    },
                },
            ]
        }
    ),
]
Picture = Annotated[
    str | None,
    PlainValidator(_picture),
    WithJsonSchema({"type": ["string", "null"], "minLength": 1, "maxLength": 1_000}),
]
Strength = Annotated[float | None, PlainValidator(_STRENGTH), WithJsonSchema(_STRENGTH.schema())]
LoraPath = Annotated[str, PlainValidator(_LORA), WithJsonSchema(_LORA.schema())]
Scale = Annotated[float, PlainValidator(_SCALE), WithJsonSchema(_SCALE.schema())]
NameTemplate = Annotated[str | None, PlainValidator(_TEMPLATE), WithJsonSchema(_TEMPLATE.schema())]
Tag = Annotated[str, PlainValidator(_TAG), WithJsonSchema(_TAG.schema())]
AnyText = Annotated[str | None, PlainValidator(_ANY), WithJsonSchema(_ANY.schema())]
Value = Annotated[
    str,
    PlainValidator(_value),
    WithJsonSchema({"type": ["string", "number", "integer", "boolean"], "maxLength": 2_000}),
]
Variable = Annotated[str, PlainValidator(_variable), WithJsonSchema({"type": "string"})]
Word = Annotated[str, PlainValidator(_word), WithJsonSchema({"type": "string"})]
Values = Annotated[list[Value], Field(min_length=1, max_length=MAX_VALUES)]
Axes = Annotated[
    dict[Variable, Values], BeforeValidator(need_mapping), Field(min_length=1, max_length=64)
]
Constants = Annotated[dict[Variable, Value], BeforeValidator(need_mapping), Field(max_length=1_000)]
Options = Annotated[
    dict[
        Variable,
        Annotated[
            str | int | float | bool,
            PlainValidator(_option),
            WithJsonSchema({"type": ["string", "number", "boolean"]}),
        ],
    ],
    BeforeValidator(need_mapping),
    Field(max_length=64),
]
Seeds = Annotated[list[OneSeed], BeforeValidator(_split), Field(min_length=1, max_length=10_000)]
Combinations = Annotated[
    list[Annotated[dict[Variable, Value], Field(min_length=1)]],
    BeforeValidator(need_list),
    Field(min_length=1, max_length=1_000),
]
Tokens = Annotated[dict[Word, TokenSource], BeforeValidator(_words_once), Field(max_length=1_000)]
Tags = Annotated[list[Tag], BeforeValidator(_split), Field(max_length=100)]
