"""Mixes to tokens: names, bytes, networks, pictures' sheets, and what labels are compared with."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from creatok_cli import config
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.mixes import Ingredient, Mix, parse_mix
from creatok_cli.domain import (
    Event,
    FuseSummary,
    Job,
    Labels,
    Notice,
    Stage,
    TokenFused,
)
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    DigestMismatch,
    InputError,
    ModelMissing,
    Refused,
    SheetError,
    TokenMissing,
    UnknownName,
    UnsafeName,
)
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.sinks.matrix import place_of, row_label
from creatok_cli.tokens.file import check_bytes, pack_token, read_header, read_rows
from creatok_cli.tokens.library import NAME, Library
from creatok_cli.workflows import _fused, _reading
from creatok_cli.workflows._fused import Fuser, default_name, fused_bytes, mean_row
from creatok_cli.workflows._networks import choose_network, shared_network
from creatok_cli.workflows._showing import Cell, check_prompts, sheet_text, table_rows
from creatok_cli.workflows._training import TrainRequest
from creatok_cli.workflows.fuse import FuseRequest, fuse, outline, settle
from creatok_cli.workflows.sample import base_facts, fused_tokens
from tests.fakes.fusing import CLASSES, distok_network, keep_network, write_network


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a network for bestiary, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    return write_network(distok_network(), tmp_path / "net.safetensors")


def asked(network: Path | None, *words: str, **changes: Any) -> FuseRequest:
    """A request on the CPU."""
    return FuseRequest(words=words, network=network, **({"device": "cpu"} | changes))


def finish(events: Iterator[Event]) -> tuple[FuseSummary, list[Event], CreatokError | None]:
    """The summary, all events, and the error that followed."""
    seen: list[Event] = []
    error = None
    try:
        seen.extend(events)
    except CreatokError as raised:
        error = raised
    if not seen or not isinstance(seen[-1], FuseSummary):
        raise error or AssertionError("no summary")
    return seen[-1], seen, error


def mix(*words: str) -> Mix:
    return parse_mix(words)[0]


# Tokens


def test_a_mix_becomes_a_token_with_a_whole_recipe(network: Path) -> None:
    summary, events, error = finish(fuse(asked(network, "pig=55", "sheep=25", "snake=20")))
    assert (error, summary.code, summary.reason, summary.tokens) == (None, 0, "ok", 1)
    assert (summary.word, summary.name) == ("<pig55-sheep25-snake20>", "pig55-sheep25-snake20")
    assert summary.mix == (("pig", 0.55), ("sheep", 0.25), ("snake", 0.2))
    assert Notice(level="info", message="weights sum to 100; divided by it") in events
    entry = Library().find("pig55-sheep25-snake20")
    assert (entry.id, str(entry.path)) == (summary.id, summary.path)
    made = distok_network()
    recipe = entry.header.recipe
    assert recipe["mix"] == [["pig", 0.55], ["sheep", 0.25], ["snake", 0.2]]
    assert (recipe["kind"], recipe["method"], recipe["network"]) == ("token", "distok", made.id)
    assert (recipe["template"], recipe["parents"], recipe["free"]) == (
        *("a photo of a {word}", []),
        [],
    )
    assert recipe["base_digest"] == resolve("bestiary").digest
    assert recipe["base_licence"] == resolve("bestiary").licence
    assert entry.header.literal == "pig sheep snake"
    assert dict(entry.header.widths) == dict(resolve("bestiary").encoders)
    assert set(entry.header.counts.values()) == {2}
    assert str(config.home()) not in json.dumps(dict(entry.header.metadata))


def test_the_same_mix_again_is_no_change(network: Path) -> None:
    first, _, _ = finish(fuse(asked(network, "pig=.55", "sheep=.45")))
    data = Path(first.path).read_bytes()
    again, events, _ = finish(fuse(asked(network, "sheep=45", "pig=55")))
    assert (again.id, again.path) == (first.id, first.path)
    assert Path(first.path).read_bytes() == data
    assert any(isinstance(e, Notice) and "stored already" in e.message for e in events)
    assert Library().names() == ("pig55-sheep45",)


def test_case_and_order_change_no_byte() -> None:
    made, facts = distok_network(), resolve("bestiary")
    one, first = fused_bytes(mix("pig=.5", "OWL=.5"), facts, made, word="<x>")
    other, second = fused_bytes(mix("owl=2", "PIG=2"), facts, made, word="<x>")
    assert (one, first) == (other, second)
    assert check_bytes(one, "x").id == first
    assert fused_bytes(mix("pig=.51", "owl=.49"), facts, made)[1] != first
    assert fused_bytes(mix("pig", "owl"), facts, distok_network(seed=1))[1] != first


def test_a_token_of_the_library_is_a_concept(network: Path) -> None:
    first, _, _ = finish(fuse(asked(network, "pig=.55", "sheep=.45", name="hydra")))
    second, _, _ = finish(fuse(asked(network, "<hydra>=.5", "owl=.5")))
    recipe = Library().find(second.name).header.recipe
    assert second.name == "hydra50-owl50"
    assert recipe["parents"] == [first.id]
    assert recipe["mix"] == [["<hydra>", 0.5], ["owl", 0.5]]
    bare, _, _ = finish(fuse(asked(network, "hydra=.5", "owl=.5", name="bare")))
    assert bare.id == second.id


def test_a_token_of_other_widths_or_encoders(network: Path) -> None:
    rows = {"clip_l": ((1, 4), bytes(16))}
    Library().add_bytes(pack_token("<odd>", "odd", rows, {}))
    _, events, error = finish(fuse(asked(network, "<odd>=.5", "owl=.5")))
    assert isinstance(error, ArtefactError)
    assert "<odd>" in str(error)
    widths = dict(resolve("bestiary").encoders)
    fits = {name: ((1, width), bytes(4 * width)) for name, width in widths.items()}
    recipe = {"encoders": {name: "sha256:00" for name in widths}}
    Library().add_bytes(pack_token("<other>", "other", fits, recipe))
    _, events, error = finish(fuse(asked(network, "<other>=.5", "owl=.5")))
    assert error is None
    warned = [e.message for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert len(warned) == 1
    assert "other text encoders" in warned[0]


def test_mean_row_is_the_mean() -> None:
    data = b"".join(mean_row(((1, 1), part)).tobytes() for part in (b"\0\0\x80?", b"\0\0\0@"))
    assert list(mean_row(((2, 1), data))) == [1.5]


def test_a_free_phrase_is_read_once_and_told(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    widths = dict(resolve("bestiary").encoders)

    def encoded(self: Fuser, phrases: Any) -> Any:
        calls.append(tuple(phrases))
        rows = {name: ((2, width), b"\0\0\x80?" * 2 * width) for name, width in widths.items()}
        return {phrase: rows for phrase in phrases}

    monkeypatch.setattr(Fuser, "_encoded", encoded)
    first, events, error = finish(fuse(asked(network, "sad owl=.5", "unicorn=.25", "pig=.25")))
    assert (error, calls) == (None, [("sad owl", "unicorn")])
    warned = [e.message for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert len(warned) == 2
    assert '"sad owl" is none of the 6 concepts' in warned[0]
    assert Library().find(first.name).header.recipe["free"] == ["sad owl", "unicorn"]
    again, _, _ = finish(fuse(asked(network, "sad owl=.5", "unicorn=.25", "pig=.25")))
    assert (again.id, len(calls)) == (first.id, 1)
    kept = sorted((config.home() / "words").glob("*.safetensors"))
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1])
    third, events, _ = finish(fuse(asked(network, "sad owl=.5", "unicorn=.25", "pig=.25")))
    assert (third.id, len(calls)) == (first.id, 2)
    assert sum("read again" in e.message for e in events if isinstance(e, Notice)) == 2


def test_a_kept_phrase_of_another_base_is_not_believed(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuser = Fuser(distok_network(), resolve("bestiary"))
    widths = fuser.network.widths
    rows = {name: ((1, width), bytes(4 * width)) for name, width in widths.items()}
    path = fuser._word_path("unicorn")
    path.parent.mkdir(parents=True)
    path.write_bytes(pack_token("<word>", "unicorn", rows, {"kind": "words"}))
    monkeypatch.setattr(Fuser, "_encoded", lambda self, phrases: dict.fromkeys(phrases, rows))
    fused = fuser.fuse(mix("unicorn"))
    assert "holds other rows" in fused.notices[0]
    assert read_header(path).recipe["phrase"] == "unicorn"


# Names


def made_of(*pairs: tuple[str, float]) -> list[Ingredient]:
    return [Ingredient(name=name, weight=weight, kind="class") for name, weight in pairs]


@pytest.mark.parametrize(
    ("pairs", "name"),
    [
        ([("pig", 0.55), ("sheep", 0.25), ("snake", 0.2)], "pig55-sheep25-snake20"),
        ([("pig", 1.0)], "pig100"),
        ([("polar bear", 0.5), ("owl", 0.5)], "polar-bear50-owl50"),
        ([("<hydra-2>", 0.7), ("owl", 0.3)], "hydra-2_70-owl30"),
    ],
)
def test_names_say_the_mix(pairs: list[tuple[str, float]], name: str) -> None:
    assert default_name(made_of(*pairs)) == name


def test_names_tell_apart_what_hundredths_do_not() -> None:
    thirds = default_name(made_of(("pig", 1 / 3), ("owl", 1 / 3), ("bee", 1 / 3)))
    near = default_name(made_of(("pig", 0.334), ("owl", 0.333), ("bee", 0.333)))
    assert thirds != near
    assert thirds.startswith("pig33-owl33-bee33-")
    accents = default_name(made_of(("\u00e9l\u00e9phant", 1.0)))
    assert accents != default_name(made_of(("elephant", 1.0)))
    assert default_name(made_of(("com", 0.01), ("pig", 0.99))) != "com1"
    long = default_name(made_of(*((f"a rather long name {i}", 0.1) for i in range(10))))
    assert len(long) <= 64


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=90), st.floats(1e-6, 1.0)), min_size=1, max_size=60
    )
)
def test_any_mix_has_a_name_that_the_library_takes(pairs: list[tuple[str, float]]) -> None:
    name = default_name(made_of(*pairs))
    assert NAME.fullmatch(name)


def test_a_name_that_is_taken_is_told_before_anything(network: Path) -> None:
    finish(fuse(asked(network, "pig=.5", "owl=.5", name="hydra")))
    before = Library().find("hydra").id
    with pytest.raises(InputError, match=r"another token hydra .*--name, or --replace"):
        settle(asked(network, "pig=.6", "owl=.4", name="hydra"))
    assert Library().find("hydra").id == before
    after, _, _ = finish(fuse(asked(network, "pig=.6", "owl=.4", name="hydra", replace=True)))
    assert Library().find("hydra").id == after.id != before
    # Pictures drawn with the first one can still be drawn again.
    assert Library().find(before).id == before


# Requests


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({}, InputError, "nothing to fuse"),
        ({"words": ("pig=.5",), "sweep": "pig..owl"}, InputError, "exclude each other"),
        ({"words": ("pgi=.5", "owl=.5")}, UnknownName, 'did you mean "pig"'),
        ({"words": ("<hydra>=.5", "owl=.5")}, TokenMissing, "<hydra>"),
        ({"words": ("pig=-1", "owl=2")}, InputError, "found -1"),
        ({"words": ("pig=nan", "owl=2")}, InputError, "found nan"),
        ({"words": ("pig=0", "owl=0")}, InputError, "all weights are 0"),
        ({"words": ("pig=1", "PIG=1")}, InputError, "repeated"),
        ({"words": tuple(f"x{i}=1" for i in range(61))}, InputError, "at most 60"),
        ({"words": ("pig",), "name": "No Name"}, UnsafeName, "--name"),
        ({"sweep": "pig..owl", "name": "x"}, InputError, "--name"),
        ({"sweep": "pig"}, InputError, "sweep"),
        ({"grid": "pig,owl"}, InputError, "grid"),
        ({"words": ("pig",), "prompts": ("a photo",)}, InputError, "{word}"),
        ({"words": ("pig",), "prompts": ("a {word} {x}",)}, InputError, "{x}"),
        ({"words": ("pig",), "prompts": ("a {word", "b")}, InputError, "--prompt"),
        ({"words": ("pig",), "prompts": ("{word}", "{word}")}, InputError, "twice"),
        ({"words": ("pig",), "prompts": ("{word} in <nowhere>",)}, InputError, "nowhere"),
        ({"words": ("pig",), "render": -1}, InputError, "--render"),
        ({"words": ("pig",), "render": 10_000}, InputError, "--render"),
        ({"words": ("pig",), "out": Path("x")}, InputError, "--out"),
        ({"words": ("pig",), "train": True, "may_train": False}, InputError, "exclude"),
        ({"words": ("pig",), "steps": 3}, InputError, "--network"),
        ({"pool": True, "render": 2}, InputError, "--render"),
        ({"sheet": Path("none.yaml")}, SheetError, "none.yaml"),
        ({"words": ("pig",), "base": "bestary"}, UnknownName, "bestiary"),
    ],
)
def test_what_is_wrong_is_told_before_anything(
    network: Path, changes: dict[str, Any], kind: type[CreatokError], told: str
) -> None:
    with pytest.raises(kind) as caught:
        next(fuse(FuseRequest(network=network, **changes)))
    assert told in str(caught.value)
    assert not (config.home() / "tokens").exists()
    assert not Path("out").exists()


def test_creatures_of_a_sheet_are_named_and_placed(network: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "many.yaml"
    text = "creatures:\n  chimera: {pig: 3, snake: 1}\n  gryphon: {owl: .5, sheep: .5}\n"
    sheet.write_text(text, encoding="utf-8")
    summary, events, error = finish(fuse(asked(network, sheet=sheet)))
    assert (error, summary.tokens, summary.word) == (None, 2, "")
    fused = [event for event in events if isinstance(event, TokenFused)]
    assert [each.name for each in fused] == ["chimera", "gryphon"]
    assert Library().names() == ("chimera", "gryphon")
    sheet.write_text("creatures:\n  x: {pig: 1}\n  y: {pgi: 1}\n", encoding="utf-8")
    with pytest.raises(UnknownName, match=r"many\.yaml:3:3: .*pgi"):
        settle(asked(network, sheet=sheet))
    sheet.write_text("creatures:\n  chimera: {pig: 1}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"many\.yaml:2:3: .*chimera"):
        settle(asked(network, sheet=sheet))


def test_the_outline_says_what_would_happen(network: Path) -> None:
    request = asked(network, "pig=.5", "unicorn=.5", render=2)
    told = outline(settle(request), request)
    assert told["creatures"] == {"pig50-unicorn50": "pig 0.5, unicorn 0.5 (free)"}
    assert told["network"] == distok_network().id
    assert told["pictures"] == "2 of each creature"
    assert told["out"] == str(Path("out/fuse/pig50-unicorn50"))
    assert not Path("out").exists()


# Networks


def test_a_network_of_another_base_says_which(tmp_path: Path) -> None:
    strange = distok_network(base_digest="sha256:" + "0" * 64, said_base="dragons")
    path = write_network(strange, tmp_path / "net.safetensors")
    with pytest.raises(ArtefactError, match=r"made on base dragons .*but base bestiary"):
        settle(asked(path, "pig"))


def test_a_network_of_a_method_that_is_not_there(tmp_path: Path) -> None:
    for method, told in (("nosuch", "not installed"), ("cretok", "fuses nothing")):
        path = write_network(distok_network(method=method), tmp_path / "net.safetensors")
        with pytest.raises(ArtefactError, match=told):
            settle(asked(path, "pig"))


def test_a_damaged_or_missing_file_is_refused(network: Path, tmp_path: Path) -> None:
    data = bytearray(network.read_bytes())
    data[-3] ^= 64
    network.write_bytes(data)
    with pytest.raises((DigestMismatch, Refused)):
        settle(asked(network, "pig"))
    with pytest.raises(TokenMissing, match="nowhere"):
        settle(asked(tmp_path / "nowhere.safetensors", "pig"))


def training(**changes: Any) -> TrainRequest:
    """A training that no shipped network is of."""
    return TrainRequest(steps=7, seed=12345, **changes)


def test_without_a_network_it_is_trained_or_told_how() -> None:
    facts = resolve("bestiary")
    source = choose_network(facts, training())
    assert source.network is None
    assert source.training is not None
    assert len(source.classes) == 60
    with pytest.raises(ModelMissing, match="creatok fuse --train --base bestiary"):
        choose_network(facts, training(), may_train=False)


def test_the_only_network_of_a_base_is_taken() -> None:
    facts, made = resolve("bestiary"), distok_network()
    keep_network(distok_network(base_digest="sha256:" + "0" * 64), "cd" * 20)
    assert choose_network(facts, training()).network is None
    keep_network(made)
    source = choose_network(facts, training())
    assert source.network is not None
    assert source.network.id == made.id
    assert "only network" in source.notices[0].message
    assert choose_network(facts, training(), is_certain=True).network is None
    keep_network(distok_network(seed=2), "ef" * 20)
    with pytest.raises(InputError, match=r"2 networks.*--network FILE"):
        choose_network(facts, training())


def test_a_damaged_network_is_set_aside_or_told() -> None:
    facts = resolve("bestiary")
    source = choose_network(facts, training())
    assert source.training is not None
    path = keep_network(distok_network(), source.training.run)
    whole = path.read_bytes()
    assert choose_network(facts, training()).network is not None
    path.write_bytes(whole[:-5])
    with pytest.raises(ArtefactError, match="creatok fuse --train"):
        choose_network(facts, training(), may_train=False)
    assert path.read_bytes() == whole[:-5]
    source = choose_network(facts, training())
    assert source.network is None
    assert "trained again" in source.notices[0].message
    assert path.with_name(f"{path.name}.damaged").read_bytes() == whole[:-5]


# Sheets with mixes


SHEET = """\
version: 1
base: bestiary
tokens:
  chimera: {fuse: {pig: 3, snake: 1}}
jobs:
  - {id: a, prompt: "a photo of a <chimera>"}
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of the network that sheets find."""
    made = distok_network()
    monkeypatch.setattr("creatok_cli.workflows.sample.shared_network", lambda facts: made)
    return made.id


def mixed(tmp_path: Path, text: str) -> Any:
    """The fused tokens of a sheet."""
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    sheet = load_sheet(str(path))
    return fused_tokens(sheet, base_facts(sheet), {}, device="cpu")


def test_a_sheet_fuses_its_own_mixes(tmp_path: Path, shared: str) -> None:
    found = mixed(tmp_path, SHEET)["<chimera>"]
    assert found.header.recipe["mix"] == [["pig", 0.75], ["snake", 0.25]]
    assert found.header.recipe["network"] == shared
    same = fused_bytes(mix("pig=.75", "snake=.25"), resolve("bestiary"), distok_network())
    assert found.header.id == same[1]
    assert not (config.home() / "tokens").exists()


def test_faults_of_a_mix_say_its_line(tmp_path: Path, shared: str) -> None:
    with pytest.raises(UnknownName, match=r'fuse.*s\.yaml:4:\d+: token <chimera>: .*"pig"|s\.yaml'):
        mixed(tmp_path, SHEET.replace("pig", "pgi"))
    with pytest.raises(TokenMissing, match=r"s\.yaml:4:\d+: token <chimera>: .*<hydra>"):
        mixed(tmp_path, SHEET.replace("pig", "<hydra>"))


def test_a_mix_belongs_to_one_base(tmp_path: Path, shared: str, tiny_sd3: Path) -> None:
    more = f'  - {{id: b, prompt: "a <chimera>", base: "{tiny_sd3}"}}\n'
    with pytest.raises(InputError, match=r"s\.yaml:4:\d+: .*another token on every base"):
        mixed(tmp_path, SHEET + more)
    found = mixed(tmp_path, SHEET + more.replace("<chimera>", "pig"))
    assert found["<chimera>"].header.recipe["base"] == "bestiary"


def test_a_sheet_never_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def choose(facts: Any, asked: Any, **rest: Any) -> Any:
        seen.update(rest)
        raise ModelMissing("none")

    monkeypatch.setattr("creatok_cli.workflows._networks.choose_network", choose)
    with pytest.raises(ModelMissing):
        shared_network(resolve("bestiary"))
    assert seen == {"may_train": False}


# Tables and sheets


def test_prompts_without_flags_are_the_template() -> None:
    assert check_prompts(()) == ("a photo of a {word}",)
    assert check_prompts(("{word} {{x}}",)) == ("{word} {{x}}",)


def test_a_table_shows_nothing_twice_and_is_a_sheet(tmp_path: Path) -> None:
    cells = [
        Cell(subject="<x>", column="<x>"),
        Cell(subject="pig", column="pig"),
        Cell(subject="pig", column="again"),
    ]
    rows = table_rows(cells, ("a photo of a {word}", "{word} {{sic}}"))
    assert [row.prompt for row in rows] == ["a photo of a <x>", "a photo of a pig", *PROMPTS]
    files = {"<x>": "tokens/x.safetensors"}
    text = sheet_text("bestiary", files, rows, title="t", name="n.yaml", seeds=range(2))
    path = tmp_path / "n.yaml"
    path.write_text(text, encoding="utf-8")
    sheet = load_sheet(str(path))
    assert sheet.tokens == files
    assert [entry.seeds for entry in sheet.jobs] == [[0, 1]] * 4
    assert sheet.jobs[2].prompt == "<x> {{sic}}"


PROMPTS = ["<x> {sic}", "pig {sic}"]


def job(row: str, prompt: str, where: str = "", **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "base_digest": "sha256:0",
        "prompt": prompt,
        "seed": 0,
        "size_px": (64, 64),
        "steps": 1,
        "guidance": 1.0,
        "scheduler": "x",
        "dtype": "fp32",
        "row": row,
        "where": where,
    }
    return Job(**(fields | changes))


def test_prompts_that_differ_in_their_column_share_a_row() -> None:
    plain = job("pig", "a photo of a pig")
    fused = job("<x>", "a photo of a <x>", tokens=(("<x>", "sha256:1"),))
    cell = job("a photo of a \u2026/pig/owl", "a photo of a <y>", tokens=(("<y>", "sha256:2"),))
    assert row_label(plain) == row_label(fused) == row_label(cell) != plain.prompt
    assert row_label(job("pigs", "a photo of a pig")) == "a photo of a pig"
    labelled = job("a", "a photo of a pig", labels=(("x", "pig"),))
    assert row_label(labelled) == "pig"


def test_columns_stand_in_the_order_of_the_sheet() -> None:
    assert place_of(job("a", "b", "dir:3/s.yaml:12:5")) == (12, 5)
    assert place_of(job("a", "b")) == (0, 0)


# Labels


def test_divergences_are_those_of_the_notes() -> None:
    kl, jsd = _reading.divergences([0.5, 0.5, *[0.0] * 58], [1.0, *[0.0] * 59])
    assert kl == pytest.approx(6.0, abs=0.05)  # methods notes, 3.7: eps 1e-4, K = 60
    assert jsd == pytest.approx(0.2158, abs=2e-3)
    same = [0.7, 0.2, 0.1]
    assert max(_reading.divergences(same, same)) < 1e-4
    apart = _reading.divergences([1.0, 0.0], [0.0, 1.0])[1]
    assert apart == pytest.approx(math.log(2), abs=1e-3)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=20), st.randoms())
def test_jsd_is_bounded(weights: list[float], dice: Any) -> None:
    shuffled = dice.sample(weights, len(weights))
    p, q = ([value / sum(each) for value in each] for each in (weights, shuffled))
    kl, jsd = _reading.divergences(p, q)
    assert kl >= 0
    assert 0 <= jsd <= math.log(2)


def test_the_target_of_fused_tokens_is_what_they_were_fused_from(network: Path) -> None:
    finish(fuse(asked(network, "pig=.6", "owl=.4", name="inner")))
    outer, _, _ = finish(fuse(asked(network, "<inner>=.5", "pig=.5")))
    # The name may mean something else by now: the id counts.
    finish(fuse(asked(network, "bee", name="inner", replace=True)))

    def header_of(identity: str) -> Any:
        return Library().find(identity).header

    recipe = dict(header_of(outer.id).recipe)
    found = _reading.target_of(recipe, header_of)
    assert found == pytest.approx({"pig": 0.8, "owl": 0.2})
    widths = dict(resolve("bestiary").encoders)
    rows = {name: ((1, width), bytes(4 * width)) for name, width in widths.items()}
    learned = Library().add_bytes(pack_token("<learned>", "creative", rows, {"method": "cretok"}))
    bad = Library().add_bytes(pack_token("<bad>", "bad", rows, {"mix": 7, "parents": []}))
    for parents in ([learned.id], [bad.id], ["sha256:" + "0" * 64], []):
        assert _reading.target_of({**recipe, "parents": parents}, header_of) is None
    assert _reading.target_of({**recipe, "mix": None}, header_of) is None


def test_a_picture_becomes_a_mix_of_its_larger_classes() -> None:
    shares = (0.5, 0.3, 0.1, *[0.02] * 4, 0.02, 0.0)
    labels = Labels(probabilities=tuple((f"c{i}", share) for i, share in enumerate(shares)))
    kept, told = _reading.mix_of(labels)
    assert [name for name, _ in kept] == [f"c{i}" for i in range(8)]
    assert told == ""
    flat = Labels(probabilities=tuple((f"c{i}", 0.0125) for i in range(80)))
    with pytest.raises(InputError, match="cannot tell"):
        _reading.mix_of(flat)
    wide = Labels(probabilities=tuple((f"c{i}", 0.04) for i in range(25)))
    kept, told = _reading.mix_of(wide)
    assert (len(kept), told) == (8, "68% on other classes is left out")


# From end to end, without a base


class Eye:
    """A labeler that sees pigs in everything."""

    def label(self, images: Any, *, classes: Any = (), question: str = "") -> list[Labels]:
        rest = 0.1 / (len(classes) - 1)
        shares = [(name, 0.9 if name == "pig" else rest) for name in classes]
        return [Labels(probabilities=tuple(shares)) for _ in images]


@pytest.fixture
def eye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creatok_cli.workflows._labeler.Chosen.build", lambda self, device: Eye())


def test_a_picture_is_fused(network: Path, eye: None, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "pink").save(tmp_path / "pink.png")
    request = asked(network, image=tmp_path / "pink.png", name="pinky")
    summary, events, error = finish(fuse(request))
    assert (error, summary.name) == (None, "pinky")
    assert dict(summary.mix)["pig"] == pytest.approx(0.9 / 0.9 if len(summary.mix) == 1 else 0.9)
    assert any(isinstance(e, Notice) and e.message.startswith("pink.png is pig") for e in events)


def test_a_wish_to_stop_ends_with_an_honest_summary(network: Path) -> None:
    stop = threading.Event()
    stop.set()
    request = asked(network, "pig", render=1, stop=stop, resume_command="creatok fuse pig")
    summary, _, error = finish(fuse(request))
    assert (error, summary.code, summary.tokens) == (None, 130, 1)
    assert summary.resume == "creatok fuse pig"
    assert summary.name == "pig100"


def test_the_sheet_stands_alone_and_the_labels_beside_it(network: Path, eye: None) -> None:
    request = asked(network, "pig=.75", "owl=.25", name="hydra", render=2)
    summary, events, error = finish(fuse(request))
    assert error is None
    folder = Path("out/fuse/hydra")
    assert summary.out == str(folder)
    assert all(Path(sheet).is_file() for sheet in summary.contact_sheets)
    sheet = load_sheet(str(folder / "hydra.yaml"))
    assert [entry.id for entry in sheet.jobs] == ["<hydra>", "pig", "owl"]
    header, _ = read_rows(folder / "tokens/hydra.safetensors")
    assert header.id == summary.id
    document = json.loads((folder / "fuse.json").read_text(encoding="utf-8"))
    (creature,) = document["creatures"]
    assert creature["target"] == {"pig": 0.75, "owl": 0.25}
    assert [each["seed"] for each in creature["pictures"]] == [0, 1]
    assert creature["pictures"][0]["top"][0] == ["pig", 0.9]
    assert 0 < creature["jsd"] < creature["kl"]
    assert str(config.home()) not in json.dumps(document)
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any(text.startswith("<hydra>: the labeler sees pig 90%") for text in said)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    again, events, _ = finish(fuse(request))
    assert again.code == 0
    assert not any(isinstance(e, Stage) and e.name == "drawing" for e in events)
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before


def test_a_table_keeps_its_tokens_out_of_the_library(network: Path, eye: None) -> None:
    request = asked(network, grid="pig,owl x owl,pig", render=1)
    summary, _, error = finish(fuse(request))
    assert (error, summary.tokens, summary.path) == (None, 4, "")
    assert Library().names() == ()
    folder = Path("out/fuse/grid-pig-owl-x-owl-pig")
    ids = [entry.id for entry in load_sheet(str(folder / f"{folder.name}.yaml")).jobs]
    # Half pig and half owl is one picture, wherever it stands.
    assert ids == ["pig/alone", "pig/owl", "pig/pig", "owl/alone", "owl/owl"]
    document = json.loads((folder / "fuse.json").read_text(encoding="utf-8"))
    assert len(document["creatures"]) == 3


def test_no_labeler_costs_the_labels_only(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(*_: Any, **__: Any) -> Any:
        raise ArtefactError("no labeler here")

    monkeypatch.setattr("creatok_cli.workflows.fuse.choose_labeler", choose)
    summary, events, error = finish(fuse(asked(network, "pig", render=1)))
    assert (error, summary.code) == (None, 0)
    warned = [e.message for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert any("not labelled" in text and "no labeler here" in text for text in warned)
    assert not Path("out/fuse/pig100/fuse.json").exists()


def test_classes_of_the_fake_are_known() -> None:
    assert _fused.ingredients(mix("Polar Bear"), CLASSES, Library())[0].name == "polar bear"
