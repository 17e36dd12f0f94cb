"""Class lists: what the shipped ones promise, and what a list of one's own is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creatok_cli.backbones.bestiary.world import CONCEPTS
from creatok_cli.concepts import classes
from creatok_cli.concepts._check import folded
from creatok_cli.concepts.classes import class_lists, load_classes
from creatok_cli.errors import SheetError, UnknownName

GOOD = "classes:\n  - pig\n  - polar bear\n  - snake\nnoun: animal\n"
HEAVY = ("torch", "numpy", "PIL", "pydantic", "transformers")


def write(folder: Path, text: str, name: str = "own.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# The shipped lists


def test_the_shipped_lists_are_found() -> None:
    assert class_lists() == ("bestiary", "real-world")


@pytest.mark.parametrize("name", class_lists())
def test_a_shipped_list_says_where_it_comes_from(name: str) -> None:
    found = load_classes(name)
    assert found.name == name
    assert found.digest.startswith("sha256:")
    assert len(found.digest) == 71
    assert found.licence == "Apache-2.0"
    assert found.source
    assert found.note
    text = (Path(classes.__file__).parent / "classes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Classes: ")
    assert "# Source:  " in text
    assert max(map(len, text.splitlines())) <= 100


def test_bestiary_is_what_the_embedded_base_draws_in_its_order() -> None:
    found = load_classes("bestiary")
    assert found.classes == tuple(CONCEPTS)
    assert found.noun == "creature"
    assert found.question == "What creature is in the photo?"


def test_real_world_has_60_animals_some_of_two_words() -> None:
    found = load_classes("real-world")
    assert len(found.classes) == 60
    assert list(found.classes) == sorted(found.classes)
    assert {"polar bear", "red panda", "sea turtle"} <= set(found.classes)
    assert found.question == "What animal is in the photo?"


def test_lists_are_read_without_heavy_imports() -> None:
    code = (
        "import sys; from creatok_cli.concepts import classes, mixes; "
        f"classes.load_classes('bestiary'); print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Lists of one's own


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    text = GOOD + "question: Which animal is it?\nsource: me\nlicence: CC0\nnote: x\n"
    found = load_classes(write(tmp_path, text))
    assert found.name == "own"
    assert found.classes == ("pig", "polar bear", "snake")
    assert (found.noun, found.question) == ("animal", "Which animal is it?")
    assert (found.source, found.licence, found.note) == ("me", "CC0", "x")


def test_noun_and_question_have_defaults(tmp_path: Path) -> None:
    found = load_classes(write(tmp_path, "classes: [pig, owl]\n"))
    assert (found.noun, found.question) == ("creature", "What creature is in the photo?")
    found = load_classes(write(tmp_path, "classes: [oak, elm]\nnoun: tree\n"))
    assert found.question == "What tree is in the photo?"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", 'class\npig\n\n"polar bear"\n snake\n'),
        ("own.txt", "# my list\n\npig\r\n  polar bear \n# more\nsnake"),
        ("own.json", '{"classes": ["pig", "polar bear", "snake"]}'),
    ],
)
def test_csv_text_and_json_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    found = load_classes(write(tmp_path, text, name))
    assert found.classes == ("pig", "polar bear", "snake")
    same = load_classes(write(tmp_path, "classes: [pig, polar bear, snake]\n"))
    assert found.digest == same.digest


def test_the_digest_is_over_classes_noun_and_question_only(tmp_path: Path) -> None:
    first = load_classes(write(tmp_path, GOOD)).digest
    assert (
        load_classes(write(tmp_path, f"# x\nnote: y\nsource: z\n{GOOD}", "b.yml")).digest == first
    )
    default = "question: What animal is in the photo?\n"
    assert load_classes(write(tmp_path, GOOD + default)).digest == first
    changed = {
        "class": GOOD.replace("snake", "frog"),
        "case": GOOD.replace("snake", "Snake"),
        "order": GOOD.replace("pig", "x").replace("snake", "pig").replace("x", "snake"),
        "noun": GOOD.replace("animal", "beast"),
        "question": GOOD + "question: Which animal?\n",
    }
    digests = {load_classes(write(tmp_path, text)).digest for text in changed.values()}
    assert len(digests | {first}) == len(changed) + 1


def test_an_unknown_name_has_a_nearest_one() -> None:
    with pytest.raises(UnknownName, match='class list "bestiari"; did you mean "bestiary"'):
        load_classes("bestiari")
    with pytest.raises(UnknownName, match="there are bestiary, real-world; a file of your own"):
        load_classes("")
    with pytest.raises(SheetError, match="no such file"):
        load_classes("./bestiary")
    with pytest.raises(SheetError, match="no such file"):
        load_classes("bestiary.txt")


WRONG = {
    # what is wrong: (text, slug, line:column, part of the message)
    "empty": ("", "empty", "1:1", "empty"),
    "a list": ("- pig\n- owl\n", "bad-value", "1:1", "expected a mapping with classes"),
    "unknown key": (
        GOOD + "nuon: x\n",
        "unknown-key",
        "6:1",
        'unknown key "nuon", expected classes, noun, question, source, licence, note; '
        'did you mean "noun"?',
    ),
    "key in place of another": ("clases: [pig, owl]\n", "unknown-key", "1:1", '"classes"?'),
    "no classes": ("noun: animal\n", "missing-key", "1:1", "the key classes is missing"),
    "classes text": ("classes: pig\n", "bad-value", "1:10", "2 to 2000 names, such as [pig"),
    "classes none": ("classes: []\n", "bad-value", "1:10", "found 0 names"),
    "classes nothing": ("classes:\n", "bad-value", "1:9", "found nothing"),
    "one class": ("classes: [pig]\n", "bad-value", "1:10", "found 1 names, expected a list of 2"),
    "too many": (
        f"classes: [{', '.join(f'a{n}' for n in range(2001))}]\n",
        "bad-value",
        "1:10",
        "found 2001 names",
    ),
    "number": (GOOD.replace("snake", "7"), "bad-value", "4:5", "found 7, expected a word; quote"),
    "truth": (GOOD.replace("snake", "true"), "bad-value", "4:5", "found true, expected a word"),
    "null": (GOOD.replace("snake", "~"), "bad-value", "4:5", "found nothing, expected a word"),
    "nested": (GOOD.replace("snake", "[a]"), "bad-value", "4:5", "found a list, expected a word"),
    "no text": (GOOD.replace("snake", "''"), "bad-value", "4:5", "a word is empty"),
    "blanks": (GOOD.replace("snake", "' a'"), "bad-value", "4:5", "with blanks around it"),
    "two blanks": (GOOD.replace("snake", "a  b"), "bad-value", "4:5", "two in a row"),
    "braces": (GOOD.replace("snake", "'{a}'"), "bad-value", "4:5", "without { } < >"),
    "token": (GOOD.replace("snake", "<hydra>"), "bad-value", "4:5", "without { } < >"),
    "line": (GOOD.replace("snake", '"a\\nb"'), "bad-value", "4:5", "printable"),
    "invisible": (GOOD.replace("snake", "a\u200db"), "bad-value", "4:5", "printable"),
    "long": (GOOD.replace("snake", "x" * 101), "bad-value", "4:5", "a word of 101 characters"),
    "equals": (GOOD.replace("snake", "a=b"), "bad-value", "4:5", "the command line uses ="),
    "comma": (
        GOOD.replace("snake", "'tench, fish'"),
        "bad-value",
        "4:5",
        "the command line uses ,",
    ),
    "colon": (GOOD.replace("snake", "a:b"), "bad-value", "4:5", "the command line uses :"),
    "dots": (GOOD.replace("snake", "a..b"), "bad-value", "4:5", "the command line uses .."),
    "quotes": (GOOD.replace("snake", "'\"a\"'"), "bad-value", "4:5", 'without = , : " or ..'),
    "twice": (
        GOOD.replace("snake", "pig"),
        "duplicate-class",
        "4:5",
        '"pig" is repeated; it stands at 2:5 already',
    ),
    "case": (GOOD.replace("snake", "Polar Bear"), "duplicate-class", "4:5", "at 3:5 already"),
    "composition": (
        GOOD.replace("snake", "e\u0301lan").replace("pig", "\u00e9lan"),
        "duplicate-class",
        "4:5",
        "at 2:5 already",
    ),
    "noun list": (GOOD.replace("animal", "[a]"), "bad-value", "5:7", "noun: found a list"),
    "noun number": (GOOD.replace("animal", "7"), "bad-value", "5:7", "expected a noun; quote it"),
    "noun empty": (GOOD.replace("animal", "''"), "bad-value", "5:7", "noun: a noun is empty"),
    "noun long": (GOOD.replace("animal", "x" * 101), "bad-value", "5:7", "a noun of 101"),
    "question nothing": (GOOD + "question:\n", "bad-value", "6:10", "question: found nothing"),
    "question long": (
        GOOD + f"question: {'x' * 201}\n",
        "bad-value",
        "6:11",
        "question: a question of 201 characters; at most 200 are allowed",
    ),
    "question braces": (
        GOOD + "question: 'What {noun} is it?'\n",
        "bad-value",
        "6:11",
        "expected a question without { } < >",
    ),
    "licence": (GOOD + "licence: [CC0]\n", "bad-value", "6:10", "licence: found a list"),
    "note": (GOOD + f"note: {'x' * 4001}\n", "bad-value", "6:7", "at most 4000 characters"),
    "key twice": (GOOD + "noun: x\n", "duplicate-key", "6:1", "stands at 5:1 already"),
    "yaml": (GOOD + "note: [\n", "yaml-syntax", "7:1", "not valid YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    text, slug, place, message = WRONG[case]
    refused(write(tmp_path, text), slug, place, message)


def refused(path: str, slug: str, place: str, message: str) -> None:
    with pytest.raises(SheetError) as caught:
        load_classes(path)
    first = caught.value.problems[0]
    assert f"{first.line}:{first.column}" == place, str(first)
    assert first.slug == slug
    assert first.file == path
    assert message in str(first)
    assert len(caught.value.problems) == 1
    assert caught.value.code == 2


WRONG_ROWS = {
    "csv empty": ("own.csv", "", "bad-header", "1:1", "found an empty file"),
    "csv no header": (
        "own.csv",
        "pig\nowl\n",
        "bad-header",
        "1:1",
        'found "pig", expected a first',
    ),
    "csv two columns": ("own.csv", "class,noun\npig,a\n", "bad-header", "1:1", '"class,noun"'),
    "csv two cells": ("own.csv", "class\npig\n\nowl,cat\n", "bad-row", "4:1", "found 2 cells"),
    "csv quote": ("own.csv", 'class\npig\n"owl\n', "csv-syntax", "3:1", "not valid CSV"),
    "csv one": ("own.csv", "class\npig\n", "bad-value", "1:1", "found 1 names"),
    "csv word": ("own.csv", "class\npig\n   o=l\n", "bad-value", "3:4", "the command line uses ="),
    "csv twice": ("own.csv", "class\npig\nowl\nPIG\n", "duplicate-class", "4:1", "at 2:1 already"),
    "txt empty": ("own.txt", "# none\n\n", "bad-value", "1:1", "found 0 names"),
    "txt word": ("own.txt", "pig\r\n\r\n  <a>\r\n", "bad-value", "3:3", "without { } < >"),
    "txt twice": ("own.txt", "pig\n# pig\nPig\n", "duplicate-class", "3:1", "at 1:1 already"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_a_wrong_row_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    name, text, slug, place, message = WRONG_ROWS[case]
    refused(write(tmp_path, text, name), slug, place, message)


def test_every_fault_is_told_up_to_twenty(tmp_path: Path) -> None:
    path = write(tmp_path, "classes:\n" + "".join(f"  - <a{n}>\n" for n in range(30)))
    with pytest.raises(SheetError, match="and 10 more") as caught:
        load_classes(path)
    assert [problem.line for problem in caught.value.problems] == list(range(2, 22))


def test_2000_classes_are_allowed(tmp_path: Path) -> None:
    text = "".join(f"a{n}\n" for n in range(2000))
    assert len(load_classes(write(tmp_path, text, "own.txt")).classes) == 2000


NAMES = st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=1, max_size=8)


@given(names=st.lists(NAMES, min_size=2, max_size=20))
def test_either_every_name_comes_back_or_one_is_a_repeat(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    text = "classes:\n" + "".join(f'  - "{name}"\n' for name in names)
    path = write(tmp_path_factory.mktemp("names"), text)
    if len({folded(name) for name in names}) == len(names):
        assert load_classes(path).classes == tuple(names)
    else:
        with pytest.raises(SheetError):
            load_classes(path)
