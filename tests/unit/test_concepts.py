"""Pair lists: what the shipped ones promise, and what a list of one's own is told."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creatok_cli.backbones.bestiary import captions
from creatok_cli.concepts import sets
from creatok_cli.concepts._check import folded
from creatok_cli.concepts.sets import PairList, load_pairs, pair_lists
from creatok_cli.errors import SheetError, UnknownName

NEW = {"bee", "giraffe", "lion", "mushroom", "octopus", "owl", "pumpkin", "turtle"}
NOT_ANIMALS = set(
    "artichoke avocado banana broccoli cactus carrot cherry coconut corn cucumber eggplant grape "
    "lemon lettuce mushroom pear pineapple pumpkin radish strawberry sunflower tomato tulip "
    "watermelon balloon clock drum guitar lamp pillow shoe teapot umbrella violin".split()
)
GOOD = "slots: [a, b]\ntrain:\n  - [pig, snake]\n  - [owl, cat]\nheld_out:\n  test: [[owl, pig]]\n"


def unordered(rows: Iterable[tuple[str, ...]]) -> list[frozenset[str]]:
    return [frozenset(row) for row in rows]


def words(rows: Iterable[tuple[str, ...]]) -> Counter[str]:
    return Counter(word for row in rows for word in row)


def spread(counts: Counter[str], names: Iterable[str]) -> int:
    found = [counts[name] for name in names]
    return max(found) - min(found)


def plants_in(rows: Iterable[tuple[str, ...]], plants: Iterable[str]) -> Counter[int]:
    """How many rows have 0, 1 and 2 words that are no animals."""
    return Counter(len(set(row) & set(plants)) for row in rows)


@pytest.fixture
def bestiary() -> PairList:
    return load_pairs("bestiary")


# The shipped lists


def test_the_shipped_lists_are_found() -> None:
    assert set(pair_lists()) >= {"bestiary", "menacing", "real-world"}


@pytest.mark.parametrize("name", pair_lists())
def test_a_shipped_list_says_where_it_comes_from(name: str) -> None:
    pairs = load_pairs(name)
    assert pairs.name == name
    assert pairs.digest.startswith("sha256:")
    assert len(pairs.digest) == 71
    assert pairs.licence == "Apache-2.0"
    assert pairs.source
    assert pairs.note
    assert pairs.held_out
    text = (Path(sets.__file__).parent / "data" / f"{name}.yaml").read_text(encoding="utf-8")
    header = text[: text.index("\nslots:")]
    assert all(line.startswith("#") for line in header.splitlines() if line)
    for part in ("Train:", "Held out:", "Source:", *pairs.held_out):
        assert part in header or part.replace("proof-", "*-").replace("test-", "*-") in header
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", pair_lists())
def test_no_row_of_a_shipped_list_stands_twice(name: str) -> None:
    pairs = load_pairs(name)
    rows = unordered([*pairs.train, *(row for group in pairs.held_out.values() for row in group)])
    assert len(set(rows)) == len(rows)
    assert {len(row) for row in rows} == {2}


def test_bestiary_has_200_pairs_27_for_tests_and_32_in_each_proof_group(bestiary: PairList) -> None:
    assert bestiary.slots == ("a", "b")
    assert len(bestiary.train) == 200
    sizes = {group: len(rows) for group, rows in bestiary.held_out.items()}
    assert sizes == {
        "test-seen": 9,
        "test-unseen": 9,
        "test-new": 9,
        "proof-seen": 32,
        "proof-unseen": 32,
        "proof-new": 32,
    }


def test_bestiary_uses_all_concepts_and_nothing_else(bestiary: PairList) -> None:
    held_out = words(row for rows in bestiary.held_out.values() for row in rows)
    known = words(bestiary.train)
    assert {*known, *held_out} == set(captions.CONCEPTS)
    assert set(known) == set(captions.CONCEPTS) - NEW
    assert len(NEW & captions.PLANTS) == 2


def test_bestiary_train_is_balanced(bestiary: PairList) -> None:
    used = words(bestiary.train)
    plants = set(captions.PLANTS) - NEW
    assert plants_in(bestiary.train, plants) == {0: 150, 1: 50}
    assert spread(used, plants) <= 1
    assert spread(used, set(captions.ANIMALS) - NEW) <= 1
    first = Counter(row[0] for row in bestiary.train)
    assert 70 <= sum(pair[0] < pair[1] for pair in bestiary.train) <= 130, "the order is random"
    assert len(first) > 40


@pytest.mark.parametrize("size", ["test", "proof"])
def test_bestiary_groups_are_what_their_names_say(bestiary: PairList, size: str) -> None:
    groups = {kind: bestiary.held_out[f"{size}-{kind}"] for kind in ("seen", "unseen", "new")}
    assert all(captions.seen(*row) for row in groups["seen"])
    assert not any(captions.seen(*row) for row in groups["unseen"])
    for kind in ("seen", "unseen"):
        assert not NEW & set(words(groups[kind])), "both concepts are known"
    number_new = Counter(len(NEW & set(row)) for row in groups["new"])
    assert number_new[0] == 0
    assert number_new[2] * 3 >= len(groups["new"])
    assert number_new[1] > number_new[2]
    for rows in groups.values():
        with_plants = plants_in(rows, captions.PLANTS)
        assert with_plants[2] == 0
        assert 0.15 <= with_plants[1] / len(rows) <= 0.35


def test_bestiary_new_concepts_are_used_alike(bestiary: PairList) -> None:
    used = words(row for kind in ("test", "proof") for row in bestiary.held_out[f"{kind}-new"])
    assert spread(used, NEW & set(captions.ANIMALS)) <= 1
    assert spread(used, NEW & set(captions.PLANTS)) <= 1
    assert max(used[name] for name in set(used) - NEW) == 1
    was_seen = Counter(captions.seen(*row) for row in bestiary.held_out["proof-new"])
    assert was_seen == {True: 16, False: 16}


def test_bestiary_held_out_words_are_spread(bestiary: PairList) -> None:
    groups = [rows for group, rows in bestiary.held_out.items() if not group.endswith("new")]
    used = words(row for rows in groups for row in rows)
    for names in (set(captions.ANIMALS) - NEW, set(captions.PLANTS) - NEW):
        assert spread(used, names) <= 1


def test_real_world_has_94_everyday_words() -> None:
    pairs = load_pairs("real-world")
    assert len(pairs.train) == 200
    groups = {group: len(rows) for group, rows in pairs.held_out.items()}
    assert groups == {"test-pairs": 9, "test-one-new": 9, "test-both-new": 9}
    known = words(pairs.train)
    everything = {*known, *words(row for rows in pairs.held_out.values() for row in rows)}
    assert len(everything) == 94
    assert len(everything & NOT_ANIMALS) == 34
    assert plants_in(pairs.train, NOT_ANIMALS) == {0: 150, 1: 50}
    assert spread(known, set(known) - NOT_ANIMALS) <= 1
    assert spread(known, set(known) & NOT_ANIMALS) <= 1
    for group, number in (("test-pairs", 0), ("test-one-new", 1), ("test-both-new", 2)):
        assert {len(set(row) - set(known)) for row in pairs.held_out[group]} == {number}


def test_menacing_uses_words_that_the_embedded_base_has_read() -> None:
    pairs = load_pairs("menacing")
    assert pairs.slots == ("trait", "animal")
    rows = [*pairs.train, *(row for group in pairs.held_out.values() for row in group)]
    rng = random.Random(0)
    read = {word for _ in range(20_000) for word in captions.draw_example(rng).caption.split()}
    assert {word for row in rows for word in row} <= read
    assert {row[1] for row in rows} <= set(captions.ANIMALS)
    assert "menacing" in read
    assert "menacing" not in words(rows)
    known = words(pairs.train)
    assert {len(set(row) - set(known)) for row in pairs.held_out["test-pairs"]} == {0}
    assert {len(set(row) - set(known)) for row in pairs.held_out["test-one-new"]} == {1}


# Lists of one's own


def write(folder: Path, text: str, name: str = "own.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    pairs = load_pairs(write(tmp_path, GOOD + "source: me\nlicence: CC0\n"))
    assert pairs.name == "own"
    assert pairs.slots == ("a", "b")
    assert pairs.train == (("pig", "snake"), ("owl", "cat"))
    assert pairs.held_out == {"test": (("owl", "pig"),)}
    assert (pairs.source, pairs.licence, pairs.note) == ("me", "CC0", "")


def test_slots_may_be_one_or_many(tmp_path: Path) -> None:
    text = "slots: [size, trait, animal]\ntrain: [[big, red, pig], [red, big, pig]]\n"
    assert len(load_pairs(write(tmp_path, text)).train) == 2
    assert load_pairs(write(tmp_path, "slots: [a]\ntrain: [[pig], [polar bear]]\n")).train == (
        ("pig",),
        ("polar bear",),
    )


def test_the_digest_is_over_rows_and_slots_only(tmp_path: Path) -> None:
    first = load_pairs(write(tmp_path, GOOD)).digest
    assert load_pairs(write(tmp_path, f"# x\nnote: y\nsource: z\n{GOOD}", "b.yml")).digest == first
    changed = {
        "row": GOOD.replace("snake", "frog"),
        "order": GOOD.replace("[pig, snake]", "[snake, pig]"),
        "slot": GOOD.replace("[a, b]", "[a, c]"),
        "group": GOOD.replace("test:", "other:"),
        "held out": GOOD.replace("[owl, pig]", "[owl, dog]"),
    }
    digests = {load_pairs(write(tmp_path, text)).digest for text in changed.values()}
    assert len(digests | {first}) == len(changed) + 1


def test_csv_is_a_header_of_slots_and_rows(tmp_path: Path) -> None:
    pairs = load_pairs(write(tmp_path, 'a,b\npig, snake\n\n"polar bear",owl\n', "own.csv"))
    assert pairs.slots == ("a", "b")
    assert pairs.train == (("pig", "snake"), ("polar bear", "owl"))
    assert pairs.held_out == {}
    same = "slots: [a, b]\ntrain: [[pig, snake], [polar bear, owl]]\n"
    assert load_pairs(write(tmp_path, same)).digest == pairs.digest


def test_an_unknown_name_has_a_nearest_one() -> None:
    with pytest.raises(UnknownName, match='"bestiari"; did you mean "bestiary"'):
        load_pairs("bestiari")
    with pytest.raises(UnknownName, match="there are bestiary, "):
        load_pairs("")
    with pytest.raises(SheetError, match="no such file"):
        load_pairs("./bestiary")


WRONG = {
    # what is wrong: (text, slug, line:column, part of the message)
    "empty": ("", "empty", "1:1", "empty"),
    "a list": ("- a\n", "bad-value", "1:1", "expected a mapping with slots and train"),
    "unknown key": (
        GOOD + "tain: []\n",
        "unknown-key",
        "7:1",
        'unknown key "tain", expected slots, train, held_out, source, licence, note; '
        'did you mean "train"?',
    ),
    "key in place of another": (
        "slots: [a, b]\ntrian: [[pig, owl]]\n",
        "unknown-key",
        "2:1",
        'did you mean "train"?',
    ),
    "no slots": ("train: [[pig, owl]]\n", "missing-key", "1:1", "the key slots is missing"),
    "no train": ("slots: [a, b]\n", "missing-key", "1:1", "the key train is missing"),
    "slots text": ("slots: ab\ntrain: [[a, b]]\n", "bad-value", "1:8", "a list of 1 to 4 names"),
    "slots none": ("slots: []\ntrain: [[a, b]]\n", "bad-value", "1:8", "a list of 1 to 4 names"),
    "slots many": ("slots: [a, b, c, d, e]\ntrain: [[a]]\n", "bad-value", "1:8", "1 to 4 names"),
    "slot name": ("slots: [a, B]\ntrain: [[p, q]]\n", "bad-value", "1:12", 'found "B"'),
    "slot number": ("slots: [a, 1]\ntrain: [[p, q]]\n", "bad-value", "1:12", "found 1"),
    "slot taken": ("slots: [a, word]\ntrain: [[p, q]]\n", "bad-value", "1:12", "word is taken"),
    "slot twice": ("slots: [a, a]\ntrain: [[p, q]]\n", "duplicate-key", "1:12", "is repeated"),
    "no rows": ("slots: [a, b]\ntrain: []\n", "bad-value", "2:8", "rows such as [a, b]"),
    "rows text": ("slots: [a, b]\ntrain: pig\n", "bad-value", "2:8", 'found "pig"'),
    "row text": (GOOD.replace("[owl, cat]", "owl cat"), "bad-value", "4:5", 'found "owl cat"'),
    "row short": (GOOD.replace("[owl, cat]", "[owl]"), "bad-value", "4:5", "found 1 words"),
    "row long": (
        GOOD.replace("owl, cat", "owl, cat, dog"),
        "bad-value",
        "4:5",
        "found 3 words, expected a list of 2, one for each of a, b",
    ),
    "number": (GOOD.replace("cat", "7"), "bad-value", "4:11", "found 7, expected a word; quote"),
    "truth": (GOOD.replace("cat", "true"), "bad-value", "4:11", "found true, expected a word"),
    "nothing": (GOOD.replace("cat", ""), "bad-value", "4:5", "found 1 words"),
    "null": (GOOD.replace("cat", "~"), "bad-value", "4:11", "found nothing, expected a word"),
    "nested": (GOOD.replace("cat", "[cat]"), "bad-value", "4:11", "found a list, expected a word"),
    "no text": (GOOD.replace("cat", "''"), "bad-value", "4:11", "a word is empty"),
    "blanks": (GOOD.replace("cat", "' cat'"), "bad-value", "4:11", "with blanks around it"),
    "two blanks": (GOOD.replace("cat", "big  cat"), "bad-value", "4:11", "two in a row"),
    "braces": (GOOD.replace("cat", "'{a}'"), "bad-value", "4:11", "without { } < >"),
    "angles": (GOOD.replace("cat", "<cretok>"), "bad-value", "4:11", "without { } < >"),
    "line": (GOOD.replace("cat", '"c\\nat"'), "bad-value", "4:11", "printable"),
    "invisible": (GOOD.replace("cat", "c\u200dat"), "bad-value", "4:11", "printable"),
    "long": (GOOD.replace("cat", "x" * 101), "bad-value", "4:11", "a word of 101 characters"),
    "same word": (GOOD.replace("cat", "Owl"), "duplicate-word", "4:5", "the same word twice"),
    "row twice": (
        GOOD.replace("owl, cat", "pig, snake"),
        "duplicate-row",
        "4:5",
        "the row [pig, snake] is repeated; it stands at 3:5 already",
    ),
    "other order": (GOOD.replace("owl, cat", "snake, pig"), "duplicate-row", "4:5", "at 3:5"),
    "case": (GOOD.replace("owl, cat", "SNAKE, pig"), "duplicate-row", "4:5", "at 3:5"),
    "held out of train": (
        GOOD.replace("[owl, pig]", "[cat, owl]"),
        "duplicate-row",
        "6:10",
        "the row [cat, owl] is held out in test, but stands in train at 4:5",
    ),
    "held out twice": (
        GOOD + "  more: [[pig, owl]]\n",
        "duplicate-row",
        "7:10",
        "is held out in more, but stands in test at 6:10",
    ),
    "held out list": (GOOD.replace("\n  test: ", " "), "bad-value", "5:11", "group names to rows"),
    "group name": (GOOD.replace("test:", "Test 1:"), "bad-key", "6:3", 'the group "Test 1"'),
    "group empty": (GOOD.replace("[[owl, pig]]", "[]"), "bad-value", "6:9", "test: found an empty"),
    "licence": (GOOD + "licence: [CC0]\n", "bad-value", "7:10", "licence: found a list"),
    "note": (GOOD + f"note: {'x' * 4001}\n", "bad-value", "7:7", "at most 4000 characters"),
    "key twice": (GOOD + "slots: [a, b]\n", "duplicate-key", "7:1", "stands at 1:1 already"),
    "yaml": (GOOD + "note: [\n", "yaml-syntax", "8:1", "not valid YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    text, slug, place, message = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(SheetError) as caught:
        load_pairs(path)
    first = caught.value.problems[0]
    assert f"{first.line}:{first.column}" == place, str(first)
    assert first.slug == slug
    assert first.file == path
    assert message in str(first)
    assert len(caught.value.problems) == 1


WRONG_CSV = {
    "empty": ("\n\n", "empty", "1:1", "must name the slots"),
    "no header": ("pig,owl\ncat,pig\n", "bad-header", "1:1", "must name the slots"),
    "header names": ("Left,right\ncat,pig\n", "bad-value", "1:1", 'found "Left"'),
    "second header": ("left,The right\ncat,pig\n", "bad-value", "1:6", 'found "The right"'),
    "no rows": ("a,b\n", "bad-value", "1:1", "train: found an empty list"),
    "ragged": ("a,b\ncat,pig\nowl\n", "bad-value", "3:1", "found 1 words"),
    "empty cell": ("a,b\ncat,\n", "bad-value", "2:5", "a word is empty"),
    "duplicate": ('a,b\ncat,pig\n"x\ny",z\n', "bad-value", "3:1", "printable"),
    "twice": ("a,b\ncat,pig\n\npig,cat\n", "duplicate-row", "4:1", "it stands at 2:1 already"),
    "quotes": ('a,b\n"cat,pig\n', "csv-syntax", "2:1", "not valid CSV"),
}


@pytest.mark.parametrize("case", WRONG_CSV)
def test_a_wrong_csv_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    text, slug, place, message = WRONG_CSV[case]
    with pytest.raises(SheetError) as caught:
        load_pairs(write(tmp_path, text, "own.csv"))
    first = caught.value.problems[0]
    assert (first.slug, f"{first.line}:{first.column}") == (slug, place), str(first)
    assert message in str(first)


def test_twenty_problems_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = "".join(f"  - [x{n}, 7]\n" for n in range(30))
    with pytest.raises(SheetError, match="and 10 more") as caught:
        load_pairs(write(tmp_path, f"slots: [a, b]\ntrain:\n{rows}"))
    assert [problem.line for problem in caught.value.problems] == list(range(3, 23))


def test_more_than_100000_rows_are_too_many(tmp_path: Path) -> None:
    rows = "".join(f"x{n},y{n}\n" for n in range(sets.MAX_ROWS))
    assert len(load_pairs(write(tmp_path, f"a,b\n{rows}", "own.csv")).train) == sets.MAX_ROWS
    with pytest.raises(SheetError, match="more than 100000 rows"):
        load_pairs(write(tmp_path, f"a,b\n{rows}p,q\n", "own.csv"))


NAMES = st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=1, max_size=8)


@given(rows=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=20))
def test_either_every_row_comes_back_or_one_is_a_repeat(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    lines = "".join(f'  - ["{a}", "{b}"]\n' for a, b in rows)
    path = write(tmp_path_factory.mktemp("rows"), f"slots: [a, b]\ntrain:\n{lines}")
    read = [frozenset(folded(word) for word in row) for row in rows]
    is_sound = len(set(read)) == len(read) and {len(row) for row in read} == {2}
    if is_sound:
        assert load_pairs(path).train == tuple(rows)
    else:
        with pytest.raises(SheetError):
            load_pairs(path)
