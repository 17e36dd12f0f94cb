"""P1: more than 200 output names and their verdicts, the same on every system; templates; slugs."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creatok_cli.errors import UnsafeName
from creatok_cli.plan import names
from creatok_cli.plan._template import TemplateFault

GOOD = [
    "a", "A", "0", "_", "a_b", "a-b", "a.b", "a..b", "a.b.c", "pig", "pig/0001",
    "pig/0001-abcdef01",
    "first/0000-b9c5b009", "a/b/c/d/e", "v1.2/x", "a b", "a  b", "x (1)", "x [1]", "x{1}", "x,y",
    "x;y", "x=y",
    "x+y", "x@y", "x#y", "x%20y", "x&y", "x!y", "x'y", "x^y", "x`y", "$x", "x$", "école", "ñandú",
    "日本", "狐/0001",
    "ß", "Ωmega", "é", "💠", "\u0131stanbul", "console", "confetti", "con_1", "nul0", "auxiliary",
    "prnt", "com", "com10",
    "com1x", "lpt", "lpt10", "xcon", "x.con", "x.nul.y", "a/xcom1", "icon/nully", "plan/x",
    "planet",
    "manifest/x", "gallery/x", "attempts/x", "contact-sheets/x", "a/contact-sheet-1",
    "a/manifest.jsonl",
    "x" * 115, "x" * 120 + "/y", "a/" + "x" * 115, "/".join(["x" * 37] * 5),
    "y" * 70 + "/" + "z" * 100,
    "é" * 57, "日" * 38, "0-", "a-/b", "x_/y", "_x", "__x__", "x.y-z_0", "1/2/3", "a.-b", "N.U.L",
]  # fmt: skip
TOO_LONG = ["x" * 116, "x" * 121, "x" * 300, "x" * 121 + "/y", "a/" + "x" * 116, "é" * 58,
    "日" * 39, "💠" * 29,
            "y" * 100 + "/" + "z" * 96, "/".join(["x" * 39] * 5),
            "日" * 36 + "/" + "日" * 30]  # fmt: skip
EMPTY = ["", "a//b", "a/", "a/b/", "a//"]
ROOTED = ["/", "/a", "//host/share", "\\a", "\\\\host\\share", "/a/b", "\\\\?\\C:\\a"]
DOTS = [
    ".",
    "..",
    "../a",
    "a/..",
    "a/../b",
    "./a",
    "a/.",
    "a/./b",
    "../../etc/passwd",
    "a/b/../../../c",
]
HIDDEN = [".a", "a/.b", ".git/x", "...", "a/...", ".x.part", ". a", "..a"]
OPTIONS = ["-a", "--help", "a/-b", "-", "-rf/x", "a/-"]
TILDES = ["~", "~/a", "~root", "a/~", "PROGRA~1", "a~", "x~y", "a/GIT~1"]
DRIVES = ["C:", "C:a", "c:/a", "Z:\\a", "a/C:x"]
SYMBOLS = [f"a{c}b" for c in '<>:"|?*\\'] + [
    "a/b?",
    "a:b",
    "file:stream",
    "a/b\\c",
    "x*",
    "what?/y",
    "pipe|",
]
DEVICES = [
    "con", "CON", "Con", "prn", "aux", "nul", "NUL", "com0", "com1", "COM9", "lpt0", "lpt1",
    "LPT9", "com¹", "COM²",
    "lpt³", "con.x", "nul.tar.gz", "AUX.b", "com1.png", "a/con", "con/a", "a/NUL/b", "prn.x/y",
    "conin$", "CONOUT$",
    "clock$", "con .x", "nul .y", "a/aux.1",
]  # fmt: skip
ENDS = [
    "a.",
    "a..",
    "a ",
    " a",
    "a/b.",
    "a/b ",
    "a./b",
    "a /b",
    " /b",
    "a/ b",
    "a\u00a0",
    "\u3000a",
    "a. ",
    "x\u2003",
]
CONTROLS = [f"a{chr(c)}b" for c in (0, 1, 7, 8, 9, 10, 13, 27, 31, 127, 128, 133, 159)]
FORMATS = [f"a{chr(c)}b" for c in (0xAD, 0x61C, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F,
    0x2028, 0x2029, 0x202A,
           0x202B, 0x202C, 0x202D, 0x202E, 0x2060, 0x2066, 0x2067, 0x2068, 0x2069, 0xFEFF, 0xFFF9,
           0xE0001, 0xE000,
           0xD800, 0xDFFF, 0xFFFE, 0x10FFFF)]  # fmt: skip
FORMS = ["e\u0301", "a/o\u0308", "A\u030a", "\u212b", "\u1100\u1161", "n\u0303andu", "\u2126"]
OURS = ["contact-sheet", "contact-sheet-2", "Contact-Sheet", "contact-sheet.2", "gallery",
    "gallery-2",
        "manifest.jsonl", "manifest.1-of-2.jsonl", "MANIFEST.x", "plan.json", "plan.x/y",
        "attempts.jsonl/x",
        "gallery.html/x", "contact-sheet.png/x", "plan", "manifest", "Attempts"]  # fmt: skip

TABLE = {
    "long": TOO_LONG,
    "empty": EMPTY,
    "relative": ROOTED,
    "not allowed": [*DOTS, *DRIVES, *SYMBOLS, *TILDES, *CONTROLS, *FORMATS],
    "dot": HIDDEN,
    "option": OPTIONS,
    "device": DEVICES,
    "ends": ENDS,
    "NFC": FORMS,
    "kept": OURS,
}


def test_the_table_is_large_enough() -> None:
    assert len(GOOD) + sum(len(bad) for bad in TABLE.values()) >= 200


def test_good_names_are_accepted() -> None:
    assert {name: names.name_fault(name) for name in GOOD if names.name_fault(name)} == {}


@pytest.mark.parametrize("word", TABLE)
def test_bad_names_are_refused_for_their_reason(word: str) -> None:
    verdicts = {name: names.name_fault(name) for name in TABLE[word]}
    assert {n: v for n, v in verdicts.items() if v is None or word not in v} == {}
    for name in TABLE[word]:
        with pytest.raises(UnsafeName):
            names.check_name(name)
        assert (names.name_fault(name) or "").isprintable()


@settings(deadline=None)
@given(st.text(max_size=300))
def test_accepted_names_stay_where_they_are_on_every_system(name: str) -> None:
    if names.name_fault(name) is not None:
        return
    assert unicodedata.normalize("NFC", name) == name
    assert len(f"{name}.json".encode()) <= names.MAX_NAME_BYTES
    for part in name.split("/"):
        assert part not in ("", ".", "..")
        assert part[-1] not in ". "
        assert not set(part) & set('<>:"|?*\\/\0~')


@settings(deadline=None)
@given(st.text(max_size=200))
def test_a_slug_is_always_a_safe_part_or_a_device(text: str) -> None:
    made = names.slug(text)
    assert made.isascii()
    assert 1 <= len(made) <= 60
    fault = names.part_fault(made)
    assert fault is None or "device" in fault


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("pig", "pig"),
        ("a b", "a-b"),
        ("Crème Brûlée", "Creme-Brulee"),
        ("a/b\\c", "a-b-c"),
        ("../x", "x"),
        (".hidden.", "hidden"),
        ("--x--", "x"),
        ("v1.2_b", "v1.2_b"),
    ],
)
def test_slugs(text: str, made: str) -> None:
    assert names.slug(text) == made


def test_slugs_of_letterless_and_long_texts_are_told_apart() -> None:
    assert names.slug("狐") != names.slug("猫")
    assert names.slug("x" * 200) != names.slug("x" * 201)
    assert names.slug("") == names.slug("")


def test_collision_keys_fold_case_and_form() -> None:
    same = [
        ("Pig", "pig"),
        ("ﬁsh", "fish"),
        ("STRASSE", "straße"),
        ("Å", "a\u030a"),
        ("\uff21\uff22", "ab"),
    ]
    assert [names.collision_key(a) == names.collision_key(b) for a, b in same] == [True] * len(same)
    assert names.collision_key("pig") != names.collision_key("pin")


def test_folder_clashes_find_a_file_where_a_folder_must_be() -> None:
    assert list(names.folder_clashes(["a", "a.png/b", "c"])) == [0]
    assert list(names.folder_clashes(["A", "a.PNG/x/b"])) == [0]
    assert list(names.folder_clashes(["a", "a/b", "b.png"])) == []


def test_a_template_is_filled_with_slugs_and_padded_numbers() -> None:
    values = {
        "sheet": "My Sheet",
        "job": "a/b",
        "index": 7,
        "seed": 12,
        "key8": "abcdef01",
        "token": "none",
        "base": "b",
    }
    template = "{sheet}/{job}-{index:04d}-{seed}-{{{key8}}}"
    names.check_template(template)
    assert names.fill_template(template, values) == "My-Sheet/a-b-0007-12-{abcdef01}"


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{jbo}", '"job"'),
        ("{prompt}", "there are"),
        ("{job:04d}", "format"),
        ("{index:4d}", "format"),
        ("{", "single"),
    ],
)
def test_a_bad_template_says_what_exists(template: str, word: str) -> None:
    with pytest.raises(TemplateFault, match=word):
        names.check_template(template)


def test_the_default_template_is_sound() -> None:
    names.check_template(names.DEFAULT_TEMPLATE)


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
def test_verdicts_do_not_depend_on_the_system(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [names.name_fault(name) for bad in TABLE.values() for name in bad]
    monkeypatch.setattr(sys, "platform", platform)
    assert [names.name_fault(name) for bad in TABLE.values() for name in bad] == before
