"""Strict YAML: scalars as written, places of everything, nothing of YAML 1.1."""

from __future__ import annotations

import pytest
import yaml

from creatok_cli.errors import SheetError
from creatok_cli.strict_text import Number, decode, escaped, position, shown
from creatok_cli.strict_yaml import MAX_AMPLIFICATION, read_yaml

SCALARS = {
    "16:9": "16:9",
    "12:30": "12:30",
    "2026-02-03": "2026-02-03",
    "no": "no",
    "on": "on",
    "Yes": "Yes",
    "True": "True",
    "FALSE": "FALSE",
    "NULL": "NULL",
    "Null": "Null",
    "012": "012",
    "0123": "0123",
    "1_000": "1_000",
    "0x1F": "0x1F",
    "0o17": "0o17",
    ".inf": ".inf",
    ".nan": ".nan",
    "1.2.3": "1.2.3",
    "'7'": "7",
    '"true"': "true",
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "''": "",
    "a#b": "a#b",
    "C:\\x": "C:\\x",
}


@pytest.mark.parametrize("text", SCALARS)
def test_scalars(text: str) -> None:
    value, _ = read_yaml(f"k: {text}\n", "f")
    assert value == {"k": SCALARS[text]}
    assert type(value["k"]) is type(SCALARS[text])


@pytest.mark.parametrize("text", ["7", "-7", "+7", "0", "1e3", "1.5", "-.5", "1.", "0.10", "1E-4"])
def test_numbers_stay_as_written(text: str) -> None:
    value, _ = read_yaml(f"k: {text}\n", "f")
    assert value["k"] == text
    assert isinstance(value["k"], Number)


def test_pyyaml_reads_these_differently() -> None:
    """The reasons for all this: should PyYAML change, the table above may shrink."""
    found = yaml.safe_load("{a: 16:9, b: 012, c: no, d: 1_000, e: 1}")
    assert found == {"a": 969, "b": 10, "c": False, "d": 1000, "e": 1}
    assert yaml.safe_load("{a: 1, a: 2}") == {"a": 2}


def test_places_count_from_one_in_code_points() -> None:
    text = "a: 1\nb:\n  - x\n  - {ключ: y, d: [p, q]}\n"
    value, place = read_yaml(text, "f")
    assert value == {"a": "1", "b": ["x", {"ключ": "y", "d": ["p", "q"]}]}
    assert place.find(()) == (1, 1)
    assert place.find(("a",)) == (1, 4)
    assert place.find(("b",), key=True) == (2, 1)
    assert place.find(("b", 0)) == (3, 5)
    assert place.find(("b", 1, "d"), key=True) == (4, 15)
    assert place.find(("b", 1, "d", 1)) == (4, 22)
    assert place.find(("b", 1, "nope", 3)) == (4, 5)


def test_an_alias_stands_where_it_is_written_and_its_members_where_they_are() -> None:
    value, place = read_yaml("a: &x {p: 1}\nb: *x\nc: *x\n", "f")
    assert value["b"] == value["c"] == {"p": "1"}
    assert place.find(("c",)) == (3, 4)
    assert place.find(("c", "p")) == (1, 11)


def test_64_levels_are_allowed() -> None:
    value, _ = read_yaml("[" * 64 + "]" * 64, "f")
    for _ in range(63):
        (value,) = value
    assert value == []


def test_aliases_are_allowed_up_to_ten_times() -> None:
    def text(copies: int) -> str:
        members = ",".join(["x"] * 998)
        return (
            f"a: &a [{members}]\nb: [{','.join(['*a'] * copies)}]\nc: [{','.join(['y'] * 1000)}]\n"
        )

    value, _ = read_yaml(text(2 * MAX_AMPLIFICATION - 2), "f")
    assert len(value["b"]) == 2 * MAX_AMPLIFICATION - 2
    with pytest.raises(SheetError) as caught:
        read_yaml(text(2 * MAX_AMPLIFICATION + 1), "f")
    assert caught.value.problems[0].slug == "alias-bomb"


def test_every_repeated_key_is_reported_with_both_places() -> None:
    with pytest.raises(SheetError) as caught:
        read_yaml("a: 1\nb: {x: 1, x: 2}\na: 3\na: 4\n", "f")
    found = [(p.line, p.column, p.slug) for p in caught.value.problems]
    assert found == [(2, 11, "duplicate-key"), (3, 1, "duplicate-key"), (4, 1, "duplicate-key")]
    assert "stands at 2:5 already" in str(caught.value)
    assert "stands at 1:1 already" in str(caught.value)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"]
)
def test_encodings(encoding: str) -> None:
    text = "a: 狐 é 💠\n"
    marks = {"utf-16-le-bom": b"\xff\xfe", "utf-16-be-bom": b"\xfe\xff"}
    data = marks.get(encoding, b"") + text.encode(encoding.removesuffix("-bom"))
    assert decode(data, "f") == text


def test_an_encoding_error_cites_byte_line_and_column() -> None:
    with pytest.raises(
        SheetError, match=r"f:2:5: error\[encoding\]: byte 10 \(0xff\) is not valid UTF-8"
    ):
        decode("ä: 1\nb: ".encode() + b"x\xff", "f")


@pytest.mark.parametrize(
    ("text", "offset", "place"),
    [
        ("abc", 2, (1, 3)),
        ("a\nb", 2, (2, 1)),
        ("a\r\nb", 3, (2, 1)),
        ("a\rb", 2, (2, 1)),
        ("", 0, (1, 1)),
    ],
)
def test_positions(text: str, offset: int, place: tuple[int, int]) -> None:
    assert position(text, offset) == place


def test_shown_values_are_short_and_printable() -> None:
    assert shown("a\x1b[31m\u202eb") == '"a\\x1b[31m\\u202eb"'
    assert shown("x" * 100) == '"' + "x" * 59 + "…" + '"'
    assert shown(Number("1e3")) == "1e3"
    assert [shown(v) for v in (None, True, {}, [], 1.5)] == [
        "nothing",
        "true",
        "a mapping",
        "a list",
        "1.5",
    ]
    assert escaped("a b\n\u00a0\ud800") == "a b\\n\\xa0\\ud800"
