"""The own text path equals the library without tokens, and pools at EOS with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from creatok_cli.backbones._clip import ENCODE_ROWS, ClipTower, ClipWords, chunks
from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.token import Token

PROMPTS = (
    "a photo of a pig in the meadow",
    "",
    "red",
    "zebra <unknown> 123 ünïcode",
    "a <|endoftext|> b",
    "snake " * 40,
)
TOWERS = (("clip_l", "", 16), ("clip_g", "_2", 24))


def tower(folder: Path, name: str = "clip_l", suffix: str = "") -> ClipTower:
    tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}")
    model = CLIPTextModelWithProjection.from_pretrained(folder / f"text_encoder{suffix}").eval()
    return ClipTower(ClipWords(name, tokenizer, 24), model.requires_grad_(False))


def token(word: str = "<fox>", *, n: int = 2, seed: int = 0, grad: bool = False) -> Token:
    draw = torch.Generator().manual_seed(seed)
    vectors = {
        name: torch.randn((n, width), generator=draw).requires_grad_(grad)
        for name, _, width in TOWERS
    }
    return Token(word, "creative", vectors)


def library(one: ClipTower, prompts: tuple[str, ...]) -> Any:
    ids = one.words.tokenizer(
        list(prompts), padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    return one.model(ids, output_hidden_states=True), ids


@pytest.mark.parametrize(("name", "suffix", "width"), TOWERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_without_tokens_nothing_differs_from_the_library(
    tiny_folders: Callable[..., Path], name: str, suffix: str, width: int, legacy: bool
) -> None:
    one = tower(tiny_folders(legacy_eos=legacy), name, suffix)
    mine, laid = one.encode(PROMPTS, [])
    theirs, ids = library(one, PROMPTS)
    assert torch.equal(torch.tensor([row.ids for row in laid]), ids)
    assert (mine.penultimate - theirs.hidden_states[-2]).abs().max() == 0.0
    assert (mine.last - theirs.last_hidden_state).abs().max() == 0.0
    assert (mine.pooled - theirs.text_embeds).abs().max() == 0.0
    assert mine.pooled.shape == (len(PROMPTS), width)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_either_attention_of_the_library_is_equalled(tiny_sd3: Path, kind: str) -> None:
    one = tower(tiny_sd3)
    one.model.set_attn_implementation(kind)
    mine, _ = one.encode(PROMPTS, [])
    theirs, _ = library(one, PROMPTS)
    assert torch.equal(mine.pooled, theirs.text_embeds)
    assert torch.equal(mine.penultimate, theirs.hidden_states[-2])


@pytest.mark.parametrize("legacy", [False, True])
def test_an_added_row_in_the_table_gives_what_the_hole_gives(
    tiny_folders: Callable[..., Path], legacy: bool
) -> None:
    """The usual way (grow tokenizer and table) agrees, once the library is told the true EOS."""
    folder = tiny_folders(legacy_eos=legacy)
    one, other = tower(folder), tower(folder)
    fox = token(n=1)
    mine, laid = one.encode(["a photo of a <fox> mixture"], [fox])
    other.words.tokenizer.add_tokens("<fox>")
    other.model.resize_token_embeddings(len(other.words.tokenizer), mean_resizing=False)
    other.model.get_input_embeddings().weight[-1] = fox.vectors["clip_l"][0]
    ids = other.words.tokenizer(
        ["a photo of a <fox> mixture"], padding="max_length", max_length=24, return_tensors="pt"
    ).input_ids
    other.model.text_model.eos_token_id = one.words.eos
    theirs = other.model(ids, output_hidden_states=True)
    assert int(ids[0].argmax()) != laid[0].eos  # the library's old rule would pool at the new word
    assert torch.equal(mine.pooled, theirs.text_embeds)
    assert torch.equal(mine.penultimate, theirs.hidden_states[-2])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "prompt",
    ["<fox>", "a <fox> mixture", "<fox> and <owl>", "a <owl> <fox> <owl> red", "<fox><owl>"],
)
def test_pooled_index_is_the_eos_index(
    tiny_folders: Callable[..., Path], legacy: bool, prompt: str
) -> None:
    one = tower(tiny_folders(legacy_eos=legacy))
    tokens = [token(n=3), token("<owl>", n=1, seed=1)]
    mine, (laid,) = one.encode([prompt], tokens)
    assert laid.ids[laid.eos] == one.words.eos
    state = mine.last[0, laid.eos]
    # A product of one row and of a batch of one take other kernels: equal but for rounding.
    assert torch.allclose(one.model.text_projection(state), mine.pooled[0], atol=1e-6)
    after = {place for place, _, _ in laid.holes if place >= laid.eos}
    assert not after


def test_vectors_stand_in_their_holes_and_nowhere_else(tiny_sd3: Path) -> None:
    one = tower(tiny_sd3)
    fox = token(n=2)
    laid = [one.words.lay_out("a <fox> pig", [fox]), one.words.lay_out("a red pig", [fox])]
    embedded = one.embed(laid, one.vectors([fox]))
    places = one.model.text_model.embeddings.position_embedding.weight
    assert torch.equal(embedded[0, 2:4], fox.vectors["clip_l"] + places[2:4])
    plain = one.model.text_model.embeddings(torch.tensor([laid[1].ids]))
    assert torch.equal(embedded[1], plain[0])


def test_a_vector_equal_to_a_vocabulary_row_changes_nothing(tiny_sd3: Path) -> None:
    one = tower(tiny_sd3)
    rows = one.rows("pig")
    assert rows.shape == (1, 16)
    same = Token("<same>", "pig", {"clip_l": rows})
    assert torch.equal(
        one.encode(["a <same> owl"], [same])[0].pooled, one.encode(["a pig owl"], [])[0].pooled
    )
    assert one.rows("zebra").shape[0] > 1
    with pytest.raises(ArtefactError, match="no word"):
        one.rows(" ")


def test_pooled_cut_after_eos_agrees_and_carries_gradients(tiny_sd3: Path) -> None:
    one = tower(tiny_sd3)
    fox = token(n=2, grad=True)
    prompts = ["a <fox>", "a photo of a <fox> mixture", "pig"]
    whole, laid = one.encode(prompts, [fox])
    short = one.pooled(prompts, [fox])
    assert max(row.eos for row in laid) + 1 < 24
    assert torch.allclose(short, whole.pooled, atol=2e-6)
    short[:2].sum().backward()
    gradient = fox.vectors["clip_l"].grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=1) > 0).all()
    assert one.model.get_input_embeddings().weight.grad is None


def test_weights_and_tokenizer_are_never_changed(tiny_sd3: Path) -> None:
    one = tower(tiny_sd3)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    size = len(one.words.tokenizer)
    one.encode(["a <fox>"], [token()])
    one.pooled(["a <fox>"], [token()])
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert len(one.words.tokenizer) == size


def test_disagreeing_ends_are_found_when_the_tower_is_built(tiny_sd3: Path) -> None:
    one = tower(tiny_sd3)
    one.model.config.eos_token_id = 7
    with pytest.raises(ArtefactError, match=r"clip_l: the tokenizer ends prompts with id"):
        one.check_eos()
    longer = ClipWords("clip_l", one.words.tokenizer, 25)
    one.model.config.eos_token_id = one.words.eos
    with pytest.raises(ArtefactError, match="25 ids, but 24 positions"):
        ClipTower(longer, one.model)


def test_chunks_are_always_full() -> None:
    assert chunks([]) == []
    assert [len(chunk) for chunk in chunks(["x"] * 17)] == [ENCODE_ROWS] * 3
    assert chunks(["a", "b"], 4) == [["a", "b", "b", "b"]]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_prompt_has_the_same_bytes_in_any_company(
    tiny_folders: Callable[..., Path], dtype: str
) -> None:
    from creatok_cli.backbones import _weights, sd3

    facts = _weights.resolve(str(tiny_folders()))
    side = sd3.build(sd3.Spec(), facts, device="cpu", dtype=dtype).text
    prompts = [f"a {word} {index}" for index, word in enumerate(("pig", "owl", "<fox>") * 4)]
    fox = [token()]
    with torch.inference_mode():
        whole = side.encode(prompts, fox)
        for order in (range(11, -1, -1), [5], [3, 3, 9], range(4, 12)):
            some = side.encode([prompts[index] for index in order], fox)
            wanted = whole.rows(list(order))
            for name, rows in some.tensors.items():
                assert torch.equal(rows, wanted.tensors[name])


def test_a_cut_prompt_is_told_and_still_encoded(tiny_sd3: Path) -> None:
    from creatok_cli.backbones import _weights, sd3

    facts = _weights.resolve(str(tiny_sd3))
    side = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32").text
    long = "a photo of the pig " + "snake " * 30 + "owl"
    encoded = side.encode([long, "pig"], [])
    assert encoded.cut[1] == ""
    assert encoded.cut[0].endswith("snake owl")
    assert side.cut([long, "pig"], []) == encoded.cut


def test_t5_reads_the_literal(tiny_folders: Callable[..., Path]) -> None:
    from creatok_cli.backbones import _weights, sd3

    facts = _weights.resolve(str(tiny_folders(t5=True)))
    side = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32").text
    fox = token()
    with torch.inference_mode():
        mine = side.encode(["a <fox> pig"], [fox]).tensors["t5"]
        same = side.encode(["a creative pig"], [fox]).tensors["t5"]
        other = side.encode(["a <fox> pig"], [replace(fox, literal="red")]).tensors["t5"]
    assert mine.shape == (1, 256, 48)
    assert torch.equal(mine, same)
    assert not torch.equal(mine, other)
