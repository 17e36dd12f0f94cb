"""Mixes: one for equal proportions, what is divided or left out, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from creatok_cli.concepts.classes import load_classes
from creatok_cli.concepts.mixes import (
    MAX_CONCEPTS,
    Grid,
    Ingredient,
    Mix,
    Sweep,
    load_mixes,
    make_mix,
    mix_faults,
    parse_grid,
    parse_mix,
    parse_sweep,
    resolve_names,
)
from creatok_cli.errors import InputError, SheetError, TokenMissing, UnknownName
from creatok_cli.strict_text import Number
from creatok_cli.tokens.library import NAME, RESERVED

CHIMERA = (("pig", 0.55), ("sheep", 0.25), ("snake", 0.2))
KNOWN = load_classes("bestiary").classes

NAMES = st.from_regex(r"[a-z]{1,8}( [a-z]{1,8})?", fullmatch=True)
WEIGHTS = st.dictionaries(NAMES, st.integers(1, 10_000), min_size=1, max_size=12)


def mix(*pairs: tuple[str, float]) -> Mix:
    return make_mix(pairs, where="")[0]


# Making a mix


def test_equal_proportions_are_one_mix() -> None:
    assert mix(*CHIMERA).weights == CHIMERA
    assert mix(("snake", 20), ("sheep", 25), ("pig", 55)) == mix(*CHIMERA)
    assert mix(("sheep", 5e-7), ("snake", 4e-7), ("pig", 11e-7)) == mix(*CHIMERA)
    third = (("a", 1 / 3), ("b", 1 / 3), ("c", 1 / 3))
    assert mix(("c", 1), ("b", 1), ("a", 1)).weights == third
    assert mix(("c", 0.333), ("b", 0.333), ("a", 0.333)).weights == third


def test_what_is_changed_is_told() -> None:
    assert make_mix(CHIMERA, where="x")[1] == ()
    made, notices = make_mix([("pig", 0.7), ("owl", 0.0), ("bee", 0.5)], where="sheet.yaml:3:1")
    assert made.weights == (("pig", 0.7 / 1.2), ("bee", 0.5 / 1.2))
    assert notices == (
        "sheet.yaml:3:1: owl=0 is left out",
        "sheet.yaml:3:1: weights sum to 1.2; divided by it",
    )
    assert make_mix([("pig", 55), ("owl", 45)], where="")[1] == (
        "weights sum to 100; divided by it",
    )
    made, notices = make_mix([("pig", 1), ("owl", 1e-9)], where="")
    assert made.weights == (("pig", 1.0),)
    assert notices == ("owl=1e-09 is too little and left out",)


def test_equal_weights_are_in_the_order_of_names() -> None:
    assert [name for name, _ in mix(("b", 1), ("<a>", 1), ("c", 2), ("a", 1)).weights] == [
        "c",
        "<a>",
        "a",
        "b",
    ]


def test_a_mix_is_text_and_can_be_hashed() -> None:
    assert str(mix(("snake", 1), ("polar bear", 3))) == "polar bear=0.75 snake=0.25"
    assert len({mix(*CHIMERA), mix(*reversed(CHIMERA))}) == 1


@given(weights=WEIGHTS)
def test_a_mix_is_sorted_positive_and_sums_to_one(weights: dict[str, int]) -> None:
    made, _ = make_mix(weights.items(), where="")
    assert abs(math.fsum(weight for _, weight in made.weights) - 1) <= 1e-12
    assert {name for name, _ in made.weights} == set(weights)
    assert list(made.weights) == sorted(made.weights, key=lambda pair: (-pair[1], pair[0]))
    total = sum(weights.values())
    assert all(weight == weights[name] / total for name, weight in made.weights)


@given(weights=WEIGHTS, order=st.randoms(), factor=st.integers(1, 999), power=st.integers(-6, 1))
def test_order_and_scale_do_not_matter(
    weights: dict[str, int], order: object, factor: int, power: int
) -> None:
    other = list(weights.items())
    order.shuffle(other)  # type: ignore[attr-defined]
    written = [(name, Number(f"{weight * factor}e{power}")) for name, weight in other]
    assert make_mix(written, where="")[0] == make_mix(weights.items(), where="")[0]


@given(
    weights=st.dictionaries(NAMES, st.floats(1e-5, 1e5), min_size=1, max_size=MAX_CONCEPTS),
)
def test_the_weights_of_a_mix_make_it_again_without_a_notice(weights: dict[str, float]) -> None:
    first, _ = make_mix(weights.items(), where="")
    assert make_mix(first.weights, where="") == (first, ())
    words = [f"{name}={weight!r}" for name, weight in reversed(first.weights)]
    assert parse_mix(words) == (first, ())


def test_a_share_at_the_limit_stays() -> None:
    first = mix(("a", 999_999), ("b", 1))
    assert first.weights[1] == ("b", 1e-6)
    assert make_mix(first.weights, where="") == (first, ())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "found no concept"),
        ([("pig", -1.0)], '"pig": found -1.0, expected a number from 0 to 1000000000'),
        ([("pig", math.nan), ("owl", 1.0)], '"pig": found nan, expected'),
        ([("pig", math.inf)], "found inf"),
        ([("pig", -math.inf)], "found -inf"),
        ([("pig", 10**400)], "expected a number"),
        ([("pig", 2e9)], "from 0 to 1000000000"),
        ([("pig", True)], "found true"),
        ([("pig", "1")], 'found "1", expected a number from 0 to 1000000000; remove the quotes'),
        ([("pig", None)], "found nothing"),
        ([("pig", 0.0), ("owl", -0.0)], "all weights are 0"),
        ([(f"a{n}", 1.0) for n in range(61)], "found 61 concepts, expected at most 60"),
        ([("pig", 1.0), ("pig", 1.0)], 'the concept "pig" is repeated; add up its weights'),
        ([("Pig", 1.0), ("pIG", 1.0)], '"pIG" is repeated; "Pig" is the same'),
        ([("pig", 1.0), ('"pig"', 1.0)], "is repeated"),
        ([("\u00e9lan", 1.0), ("e\u0301lan", 1.0)], "is repeated"),
        ([("", 1.0)], "a word is empty"),
        ([(" ", 1.0)], "a word is empty"),
        ([('""', 1.0)], "without = , :"),
        ([(" pig", 1.0)], "with blanks around it"),
        ([("big  pig", 1.0)], "two in a row"),
        ([("pig\n", 1.0)], "printable"),
        ([("{pig}", 1.0)], "without { } < >"),
        ([("a <hydra>", 1.0)], "expected a token such as <hydra>"),
        ([("<Hydra>", 1.0)], "expected a token such as <hydra>"),
        ([("a=b", 1.0)], "the command line uses ="),
        ([("a..b", 1.0)], "the command line uses .."),
        ([('"a', 1.0)], "without = , :"),
        ([("x" * 101, 1.0)], "a word of 101 characters"),
    ],
)
def test_bad_weights_and_names_are_refused(pairs: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_mix(pairs, where="here")
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)
    assert caught.value.code == 2


def test_sixty_concepts_are_allowed() -> None:
    assert len(mix(*((f"a{n}", 1.0) for n in range(60))).weights) == 60


def test_every_fault_of_a_mix_is_found() -> None:
    faults = mix_faults([("pig", -1), ("Pig", Number("x")), ("", 1), ("owl", 0)])
    assert [(fault.index, fault.slug, fault.is_name) for fault in faults] == [
        (0, "bad-value", False),
        (1, "duplicate-key", True),
        (1, "bad-value", False),
        (2, "bad-key", True),
    ]
    assert mix_faults([("pig", 0.5), ("owl", Number("0"))]) == ()


@pytest.mark.parametrize(
    "weights",
    [
        (),
        (("pig", 0.5),),
        (("pig", 1.5), ("owl", -0.5)),
        (("pig", math.nan),),
        (("owl", 0.4), ("pig", 0.6)),
        (("pig", 0.5), ("owl", 0.5)),
        (("PIG", 0.5), ("pig", 0.5)),
        tuple((f"a{n:02}", 1 / 64) for n in range(64)),
    ],
)
def test_a_mix_cannot_be_made_by_hand_but_right(weights: tuple[tuple[str, float], ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Mix(weights=weights)


# The command line


def test_words_of_the_command_line() -> None:
    made, notices = parse_mix(["pig=.55", " polar bear = 0.25", "<hydra>=2e-1"])
    assert made.weights == (("pig", 0.55), ("polar bear", 0.25), ("<hydra>", 0.2))
    assert notices == ()
    made, notices = parse_mix(["pig=55", "polar bear=25.", "<hydra>=+20", "owl=0"])
    assert made == parse_mix(["pig=.55", "polar bear=.25", "<hydra>=.2"])[0]
    assert notices == ("owl=0 is left out", "weights sum to 100; divided by it")
    assert parse_mix(['"pgi"=1'])[0].weights == (('"pgi"', 1.0),)


def test_words_without_weights_weigh_the_same() -> None:
    assert parse_mix(["pig", "snake", "owl"]) == (mix(("pig", 1), ("snake", 1), ("owl", 1)), ())
    assert parse_mix(["polar bear"]) == (mix(("polar bear", 1)), ())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "found no concept, expected at least one"),
        (["pig=.5", "owl"], '"owl": the weight is missing'),
        (["pig", "owl=.5"], '"pig": the weight is missing'),
        (["pig="], '"pig=": '),
        (["=.5"], '"=.5": a word is empty'),
        (["="], '"=": a word is empty'),
        (["pig=-.5", "owl=1"], '"pig=-.5": found -.5'),
        (["pig=nan"], '"pig=nan": found nan'),
        (["pig=inf"], "found inf"),
        (["pig=1e999"], "found 1e999"),
        (["pig=1e-99999999999999999999999999999999999999999"], "expected a number"),
        (["pig=55%"], "found 55%"),
        (["pig=0,5"], "found 0,5"),
        (["pig=1_0"], "found 1_0"),
        (["pig=0x1"], "found 0x1"),
        (["pig=half"], '"pig=half": found half'),
        (["pig=0", "owl=0."], "all weights are 0"),
        (["pig=1", "PIG=1"], '"PIG=1": the concept "PIG" is repeated; "pig" is the same'),
        (["pig", "pig"], '"pig": the concept "pig" is repeated'),
        (["pig=.5 owl=.5"], "the command line uses ="),
        (["a{b=1"], "without { } < >"),
        ([f"a{n}=1" for n in range(61)], "found 61 concepts, expected at most 60"),
        ([f"a{n}" for n in range(61)], "found 61 concepts, expected at most 60"),
    ],
)
def test_a_bad_argument_is_named_with_the_form(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_mix(words)
    assert message in str(caught.value)
    assert str(caught.value).endswith("write CONCEPT=WEIGHT, such as pig=0.55")


@given(words=st.lists(st.text(max_size=20), max_size=5))
def test_any_words_make_a_mix_or_an_input_error(words: list[str]) -> None:
    try:
        made = str(parse_mix(words)[0])
    except InputError as error:
        made = str(error)
    assert made.isprintable()


@given(weights=WEIGHTS)
def test_what_is_written_is_what_is_read(weights: dict[str, int]) -> None:
    words = [f"{name}={weight}" for name, weight in weights.items()]
    assert parse_mix(words)[0] == make_mix(weights.items(), where="")[0]
    bare, notices = parse_mix(list(weights))
    assert notices == ()
    assert {weight for _, weight in bare.weights} == {1 / len(weights)}


# Sweeps


def test_a_sweep_is_evenly_spaced_with_both_ends() -> None:
    assert parse_sweep("pig..snake:7") == parse_sweep("pig..snake") == Sweep(ends=("pig", "snake"))
    made = parse_sweep(" polar bear .. <hydra> : 5 ").mixes()
    assert made == (
        mix(("polar bear", 1)),
        mix(("polar bear", 0.75), ("<hydra>", 0.25)),
        mix(("polar bear", 0.5), ("<hydra>", 0.5)),
        mix(("polar bear", 0.25), ("<hydra>", 0.75)),
        mix(("<hydra>", 1)),
    )
    assert parse_sweep("pig..snake:2").mixes() == (mix(("pig", 1)), mix(("snake", 1)))
    assert len(parse_sweep("pig..snake:64").mixes()) == 64


def test_a_sweep_goes_through_all_its_concepts() -> None:
    made = parse_sweep("pig..owl..snake:9").mixes()
    assert [made[0], made[4], made[8]] == [mix(("pig", 1)), mix(("owl", 1)), mix(("snake", 1))]
    assert made[5] == mix(("owl", 0.75), ("snake", 0.25))
    assert parse_sweep("pig..owl..pig:5").mixes()[4] == mix(("pig", 1))


@pytest.mark.parametrize(
    ("text", "count"), [("a..b", 7), ("a..b..c", 7), ("a..b..c..d", 7), ("a..b..c..d..e", 9)]
)
def test_a_sweep_without_a_count_has_seven_pictures_or_few_more(text: str, count: int) -> None:
    assert parse_sweep(text).count == len(parse_sweep(text).mixes()) == count


@given(ends=st.lists(NAMES, min_size=2, max_size=6, unique=True), each=st.integers(1, 12))
def test_the_steps_of_a_sweep_are_equal(ends: list[str], each: int) -> None:
    count = each * (len(ends) - 1) + 1
    assume(count <= 64)
    sweep = parse_sweep(f"{'..'.join(ends)}:{count}")
    made = sweep.mixes()
    assert len(made) == count
    for index, one in enumerate(made):
        part, rest = divmod(index, each)
        weights = dict(one.weights)
        assert weights[ends[part]] == pytest.approx(1 - rest / each, abs=1e-15)
        assert sum(weights.values()) == pytest.approx(1, abs=1e-15)
        assert set(weights) <= set(ends[part : part + 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no way from one concept to another"),
        ("pig", "no way from one concept to another; write FROM..TO:COUNT, such as pig..snake:7"),
        ("pig:7", "no way from one concept to another"),
        ("pig..", "no way"),
        ("..pig", "no way"),
        ("pig....owl", "no way"),
        ("pig...owl", "no way"),
        ("pig..owl:", 'found "", expected a whole number from 2 to 64'),
        ("pig..owl:many", 'found "many", expected a whole number from 2 to 64'),
        ("pig..owl:-3", 'found "-3"'),
        ("pig..owl:7.5", 'found "7.5"'),
        ("pig..owl:1", "found 1 pictures, expected 2 to 64"),
        ("pig..owl:65", "found 65 pictures, expected 2 to 64"),
        ("pig..owl..bee:2", "found 2 pictures, expected 3 to 64"),
        ("pig..owl..bee:8", "cannot be evenly spaced and reach all concepts; use 7 or 9"),
        ("a..b..c..d:63", "use 61 or 64"),
        ("a..b..c..d..e..f:63", "use 61"),
        ("pig..PIG", 'no way from "pig" to itself'),
        ("pig..pig..owl", "to itself"),
        ("pig..o{l", "without { } < >"),
        ("pig..a=b", "the command line uses ="),
        ("pig..<Hydra>", "expected a token"),
        ("..".join(f"a{n}" for n in range(65)), "found 65 concepts, expected 2 to 64"),
    ],
)
def test_a_bad_sweep_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_sweep(text)
    assert str(caught.value).startswith("sweep ")
    assert message in str(caught.value)


@given(text=st.text(st.sampled_from("ab .:7<>x,="), max_size=12))
def test_any_text_is_a_sweep_a_grid_or_an_input_error(text: str) -> None:
    for parse in (parse_sweep, parse_grid):
        try:
            made = len(parse(text).mixes())
        except InputError:
            continue
        assert made


# Grids


def test_a_grid_has_halves_of_row_and_column() -> None:
    grid = parse_grid("pig, polar bear x <hydra>,Pig,bee")
    assert grid == Grid(rows=("pig", "polar bear"), columns=("<hydra>", "Pig", "bee"))
    half = {(a, b): mix((a, 1), (b, 1)) for a in grid.rows for b in grid.columns if a != "pig"}
    assert grid.mixes() == (
        (mix(("pig", 1), ("<hydra>", 1)), mix(("pig", 1)), mix(("pig", 1), ("bee", 1))),
        tuple(half["polar bear", column] for column in grid.columns),
    )
    assert parse_grid("ox,fox \u00d7 axe") == Grid(rows=("ox", "fox"), columns=("axe",))


@given(rows=st.lists(NAMES, min_size=1, max_size=5, unique=True), data=st.data())
def test_a_grid_is_as_large_as_its_sides(rows: list[str], data: st.DataObject) -> None:
    columns = data.draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    assume(all(" x " not in f" {name} " for name in (*rows, *columns)))
    made = parse_grid(f"{','.join(rows)} x {', '.join(columns)}").mixes()
    assert [len(row) for row in made] == [len(columns)] * len(rows)
    for name, row in zip(rows, made, strict=True):
        for other, cell in zip(columns, row, strict=True):
            assert dict(cell.weights) == ({name: 1.0} if name == other else {name: 0.5, other: 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not two lists of concepts"),
        ("pig,owl", 'write ROWS x COLUMNS, such as "pig,snake x sheep,bee"'),
        ("pigxowl", "not two lists"),
        ("pig x", "not two lists"),
        ("a x b x c", "not two lists"),
        ("pig, x owl", "a word is empty"),
        ("a,b,A x c", '"A" is repeated in the rows'),
        ("c x a,a", '"a" is repeated in the columns'),
        ("a{ x b", "without { } < >"),
        ("a=1 x b", "the command line uses ="),
        (f"{','.join(f'a{n}' for n in range(33))} x b", "found 33 rows, expected 1 to 32"),
        (f"b x {','.join(f'a{n}' for n in range(33))}", "found 33 columns, expected 1 to 32"),
    ],
)
def test_a_bad_grid_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_grid(text)
    assert str(caught.value).startswith("grid ")
    assert message in str(caught.value)


# Files


def write(folder: Path, text: str) -> str:
    path = folder / "zoo.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_creatures(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# mine\ncreatures:\n  chimera: {pig: 0.55, sheep: .25, snake: 0.20}\n"
        "  fox-2:\n    fox: 2\n    <hydra>: 1\n    owl: 0\n  'odd': {'\"pgi\"': 1}\n",
    )
    made, notices = load_mixes(path)
    assert [(one.name, one.where) for one in made] == [
        ("chimera", f"{path}:3:3"),
        ("fox-2", f"{path}:4:3"),
        ("odd", f"{path}:8:3"),
    ]
    assert made[0].mix == mix(*CHIMERA)
    assert made[1].mix.weights == (("fox", 2 / 3), ("<hydra>", 1 / 3))
    assert made[2].mix.weights == (('"pgi"', 1.0),)
    assert notices == (
        f"{path}:4:3: fox-2: owl=0 is left out",
        f"{path}:4:3: fox-2: weights sum to 3; divided by it",
    )
    assert load_mixes(Path(path)) == (made, notices)


ONE = "creatures:\n  ok: {pig: 1}\n  "
WRONG = {
    # what is wrong: (text, slug, line:column, part of the message)
    "empty": ("", "empty", "1:1", "empty"),
    "a list": ("- pig\n", "bad-value", "1:1", "expected a mapping with creatures"),
    "no creatures": ("{}\n", "missing-key", "1:1", "the key creatures is missing"),
    "near key": ("creature: {a: {pig: 1}}\n", "unknown-key", "1:1", 'did you mean "creatures"?'),
    "other key": (ONE.rstrip() + "\nbase: x\n", "unknown-key", "3:1", "expected creatures"),
    "nothing": (
        "creatures:\n",
        "bad-value",
        "1:11",
        "creatures: found nothing, expected 1 to 1000",
    ),
    "none": ("creatures: {}\n", "bad-value", "1:12", "found 0 names"),
    "names list": ("creatures: [pig]\n", "bad-value", "1:12", "found a list"),
    "too many": (
        "creatures:\n" + "".join(f"  a{n}: {{pig: 1}}\n" for n in range(1001)),
        "bad-value",
        "2:3",
        "found 1001 names",
    ),
    "name case": (ONE + "Chimera: {pig: 1}\n", "bad-key", "3:3", "cannot be the name of a token"),
    "name blank": (ONE + "a b: {pig: 1}\n", "bad-key", "3:3", "up to 64 of a-z, 0-9, - and _"),
    "name token": (ONE + "<a>: {pig: 1}\n", "bad-key", "3:3", "cannot be the name"),
    "name dash": (ONE + "-a: {pig: 1}\n", "bad-key", "3:3", "cannot be the name"),
    "name long": (ONE + f"{'a' * 65}: {{pig: 1}}\n", "bad-key", "3:3", "cannot be the name"),
    "name device": (ONE + "com1: {pig: 1}\n", "bad-key", "3:3", "none that Windows keeps"),
    "mix text": (ONE + "a: pig\n", "bad-value", "3:6", 'a: found "pig", expected concepts'),
    "mix list": (ONE + "a: [pig]\n", "bad-value", "3:6", "such as {pig: 0.55, snake: 0.45}"),
    "mix nothing": (ONE + "a:\n", "bad-value", "3:5", "a: found nothing"),
    "mix empty": (ONE + "a: {}\n", "bad-value", "3:6", '"a": found no concept'),
    "all zero": (ONE + "a: {pig: 0}\n", "bad-value", "3:6", '"a": all weights are 0'),
    "too many concepts": (
        ONE + f"a: {{{', '.join(f'b{n}: 1' for n in range(61))}}}\n",
        "bad-value",
        "3:6",
        "found 61 concepts, expected at most 60",
    ),
    "negative": (ONE + "a: {owl: 1, pig: -1}\n", "bad-value", "3:20", '"pig": found -1, expected'),
    "nan": (ONE + "a: {pig: nan}\n", "bad-value", "3:12", 'found "nan", expected a number'),
    "infinite": (ONE + "a: {pig: 1e999}\n", "bad-value", "3:12", "found 1e999"),
    "quoted": (ONE + "a: {pig: '0.5'}\n", "bad-value", "3:12", "; remove the quotes"),
    "no weight": (ONE + "a: {pig: }\n", "bad-value", "3:12", "found nothing"),
    "truth": (ONE + "a: {pig: true}\n", "bad-value", "3:12", "found true"),
    "nested": (ONE + "a: {pig: {b: 1}}\n", "bad-value", "3:12", "found a mapping"),
    "same concept": (ONE + "a: {pig: 1, PIG: 2}\n", "duplicate-key", "3:15", '"PIG" is repeated'),
    "same key": (ONE + "a: {pig: 1, pig: 2}\n", "duplicate-key", "3:15", "stands at 3:7 already"),
    "same name": (ONE + "ok: {pig: 2}\n", "duplicate-key", "3:3", "stands at 2:3 already"),
    "bad concept": (ONE + "a: {<Hydra>: 1}\n", "bad-key", "3:7", "expected a token such as"),
    "yaml": ("creatures: {\n", "yaml-syntax", "2:1", "not valid YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    text, slug, place, message = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(SheetError) as caught:
        load_mixes(path)
    first = caught.value.problems[0]
    assert f"{first.line}:{first.column}" == place, str(first)
    assert (first.slug, first.file) == (slug, path)
    assert message in str(first)
    assert len(caught.value.problems) == 1


def test_all_faults_of_a_file_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(SheetError) as caught:
        load_mixes(write(tmp_path, "creatures:\n  A: {pig: -1, owl: x}\n  b: []\n"))
    assert [(fault.line, fault.column) for fault in caught.value.problems] == [
        (2, 3),
        (2, 12),
        (2, 21),
        (3, 6),
    ]


def test_a_missing_file_is_told() -> None:
    with pytest.raises(SheetError, match="no such file"):
        load_mixes("nowhere.yaml")


@given(name=st.one_of(st.from_regex(r"[a-zA-Z0-9_.-]{1,66}", fullmatch=True), NAMES))
def test_names_follow_the_token_library(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("names"), f"creatures: {{'{name}': {{pig: 1}}}}\n")
    if NAME.fullmatch(name) and not RESERVED.fullmatch(name):
        assert load_mixes(path)[0][0].name == name
    else:
        with pytest.raises(SheetError, match="cannot be the name"):
            load_mixes(path)


@pytest.mark.parametrize("name", ["con", "nul", "aux", "prn", "com0", "lpt9"])
def test_names_of_devices_are_reserved_as_in_the_library(tmp_path: Path, name: str) -> None:
    assert RESERVED.fullmatch(name)
    with pytest.raises(SheetError, match="cannot be the name"):
        load_mixes(write(tmp_path, f"creatures: {{{name}: {{pig: 1}}}}\n"))
    assert load_mixes(write(tmp_path, f"creatures: {{{name}a: {{pig: 1}}}}\n"))[0]


# What names mean


def meant(name: str, known: tuple[str, ...] = KNOWN, tokens: tuple[str, ...] = ()) -> Ingredient:
    (found,) = resolve_names(mix((name, 1)), known, tokens)
    assert found.weight == 1
    return found


def test_classes_tokens_and_free_phrases() -> None:
    words = parse_mix(["Pig=.4", "<hydra>=.3", "wolf-7=.2", "grumpy old wizard=.1"])[0]
    found = resolve_names(words, KNOWN, ["hydra", "<wolf-7>"])
    assert [(one.name, one.weight, one.kind) for one in found] == [
        ("pig", 0.4, "class"),
        ("<hydra>", 0.3, "token"),
        ("<wolf-7>", 0.2, "token"),
        ("grumpy old wizard", 0.1, "free"),
    ]


def test_a_class_comes_before_a_token_of_its_name() -> None:
    assert meant("pig", tokens=("pig",)).kind == "class"
    assert meant("<pig>", tokens=("pig",)) == Ingredient(name="<pig>", weight=1, kind="token")
    both = resolve_names(mix(("pig", 1), ("<pig>", 1)), KNOWN, ("pig",))
    assert {one.kind for one in both} == {"class", "token"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("pgi", "pig"),
        ("PGI", "pig"),
        ("snkae", "snake"),
        ("snak", "snake"),
        ("snakes", "snake"),
        ("girafe", "giraffe"),
        ("elefant", "elephant"),
        ("hedghgo", "hedgehog"),
        ("polar baer", "polar bear"),
        ("hydar-2", "hydra-2"),
    ],
)
def test_a_typing_error_is_refused_unless_quoted(name: str, near: str) -> None:
    known, tokens = (*KNOWN, "polar bear"), ("hydra-2",)
    with pytest.raises(UnknownName) as caught:
        resolve_names(mix((name, 1)), known, tokens, where="zoo.yaml:1:1")
    assert str(caught.value) == (
        f'zoo.yaml:1:1: unknown concept "{name}"; did you mean "{near}"? '
        f"If it is meant as it is, write it in quotes: '\"{name}\"'"
    )
    quoted = meant(f'"{name}"', known, tokens)
    assert (quoted.name, quoted.kind) == (name, "free")


@pytest.mark.parametrize("name", ["rat", "goat", "ox", "crow", "goose", "unicorn", "hippogriff"])
def test_other_words_are_free(name: str) -> None:
    assert meant(name).kind == "free"
    assert meant(name).name == name


def test_a_free_phrase_tells_what_is_most_like_it() -> None:
    assert meant("unicorn").near == "corn"
    assert meant("sphinx").near == ""
    assert meant("pig").near == ""


def test_quotes_keep_a_word_from_being_a_token() -> None:
    assert meant("hydra", tokens=("hydra",)).kind == "token"
    assert meant("Hydra", tokens=("hydra",)).name == "<hydra>"
    assert meant('"hydra"', tokens=("hydra",)) == Ingredient(
        name="hydra", weight=1, kind="free", near="hydra"
    )
    assert meant('"Pig"') == Ingredient(name="pig", weight=1, kind="class")


def test_a_missing_token_is_told() -> None:
    with pytest.raises(
        TokenMissing, match=r'<hidra> is not in the library; did you mean "<hydra>"'
    ):
        meant("<hidra>", tokens=("hydra",))
    with pytest.raises(TokenMissing, match="'creatok tokens list' shows"):
        meant("<hydra>")
    with pytest.raises(TokenMissing):
        meant("<pig>")


@pytest.mark.parametrize("names", [("hydra", "<hydra>"), ("Hydra", "<hydra>")])
def test_two_names_for_one_thing_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match='"<hydra>" is repeated in '):
        resolve_names(mix((names[0], 1), (names[1], 2)), KNOWN, ("hydra",))


def test_the_order_and_weights_of_the_mix_stay() -> None:
    made = mix(("pig", 2), ("owl", 5), ("very odd thing", 3))
    found = resolve_names(made, KNOWN, ())
    assert tuple((one.name, one.weight) for one in found) == made.weights


@given(name=st.sampled_from(KNOWN), data=st.data())
def test_a_swap_of_two_letters_is_never_a_free_phrase(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 2))
    swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    assume(swapped not in KNOWN)
    with pytest.raises(UnknownName):
        meant(swapped)


@given(word=NAMES)
def test_every_class_is_itself_and_every_quoted_word_is_free(word: str) -> None:
    assert meant(word, (*KNOWN, word)).kind == "class"
    assert meant(f'"{word}"').kind == ("class" if word in KNOWN else "free")
