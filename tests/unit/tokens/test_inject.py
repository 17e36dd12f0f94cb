"""Prompts with token words become ids with holes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creatok_cli.tokens.inject import Laid, lay_out, spell_out, split_prompt, words_in

BOS, EOS, PAD = 98, 99, 0


def tokenize(text: str) -> list[tuple[int, int]]:
    """One id per word: its length; `end` is the id of EOS."""
    found = re.finditer(r"\S+", text)
    return [(EOS if m.group() == "end" else 10 + len(m.group()), m.start()) for m in found]


def lay(prompt: str, counts: dict[str, int] | None = None, length: int = 8) -> Laid:
    return lay_out(prompt, counts or {}, tokenize, bos=BOS, eos=EOS, pad=PAD, length=length)


def test_plain_prompt_is_bos_ids_eos_padding() -> None:
    laid = lay("a red pig")
    assert laid == Laid((BOS, 11, 13, 13, EOS, PAD, PAD, PAD), (), 4, "")


def test_empty_prompt_pools_right_after_bos() -> None:
    assert lay("") == Laid((BOS, EOS, *(PAD,) * 6), (), 1, "")


def test_a_word_becomes_as_many_holes_as_it_has_vectors() -> None:
    laid = lay("a <fox> mix", {"<fox>": 3})
    assert laid.holes == ((2, "<fox>", 0), (3, "<fox>", 1), (4, "<fox>", 2))
    assert laid.ids == (BOS, 11, PAD, PAD, PAD, 13, EOS, PAD)
    assert laid.eos == 6


def test_several_words_and_repeats_in_one_prompt() -> None:
    laid = lay("<a> x <b> <a>", {"<a>": 1, "<b>": 2}, length=12)
    assert [(place, word, row) for place, word, row in laid.holes] == [
        (1, "<a>", 0),
        (3, "<b>", 0),
        (4, "<b>", 1),
        (5, "<a>", 0),
    ]


def test_undeclared_words_stay_text() -> None:
    assert lay("a <owl>", {"<fox>": 1}).holes == ()


def test_pooling_is_at_the_first_end_outside_holes() -> None:
    assert lay("x end y").eos == 2  # a typed end marker pools there, as in the library
    laid = lay_out("<w> x", {"<w>": 1}, tokenize, bos=BOS, eos=EOS, pad=EOS, length=6)
    assert laid.ids[1] == EOS  # the hole holds the padding id, which is EOS for clip_l
    assert laid.eos == 3


def test_what_does_not_fit_is_told_from_its_first_word() -> None:
    laid = lay("one two three four five six seven eight", length=8)
    assert laid.cut == "seven eight"
    assert len(laid.ids) == 8
    assert laid.ids[-1] == EOS
    assert laid.eos == 7


def test_a_token_that_does_not_fit_whole_is_cut_to_the_rows_that_do() -> None:
    laid = lay("one two <fox> tail", {"<fox>": 6}, length=8)
    assert [row for _, _, row in laid.holes] == [0, 1, 2, 3]
    assert laid.cut == "<fox> tail"


def test_longer_words_win_and_pieces_cover_the_prompt() -> None:
    pieces = split_prompt("x<ab><a>y", {"<a>", "<ab>"})
    assert pieces == [(0, "x", False), (1, "<ab>", True), (5, "<a>", True), (8, "y", False)]


def test_literals_are_spelled_out_for_encoders_without_vectors() -> None:
    assert spell_out("a <fox> and <owl>", {"<fox>": "creative"}) == "a creative and <owl>"
    assert words_in("a <fox>", ("<owl>", "<fox>")) == ("<fox>",)


@given(
    parts=st.lists(
        st.sampled_from(["<a>", "<bc>", " pig", " owl ", "x", "end", "é "]), max_size=20
    ),
    first=st.integers(1, 4),
    second=st.integers(1, 4),
    length=st.integers(3, 24),
)
def test_every_layout_is_well_formed(
    parts: list[str], first: int, second: int, length: int
) -> None:
    prompt = "".join(parts)
    counts = {"<a>": first, "<bc>": second}
    laid = lay(prompt, counts, length)
    places = {place for place, _, _ in laid.holes}
    assert len(laid.ids) == length
    assert laid.ids[0] == BOS
    assert laid.ids[laid.eos] == EOS
    assert laid.eos not in places
    assert all(laid.ids[place] != EOS or place in places for place in range(laid.eos))
    assert prompt.strip().endswith(laid.cut)
    assert "".join(text for _, text, _ in split_prompt(prompt, counts)) == prompt
    if not laid.cut:
        holes = sum(counts[text] for _, text, word in split_prompt(prompt, counts) if word)
        assert len(laid.holes) == holes


@pytest.mark.parametrize("prompt", ["a pig", "", "end", "a  b\tc"])
def test_without_words_the_prompt_is_tokenised_in_one_piece(prompt: str) -> None:
    assert lay(prompt, {"<w>": 2}) == lay(prompt)
