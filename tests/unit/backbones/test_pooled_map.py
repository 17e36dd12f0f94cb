"""`pooled_map` is `pooled` with the constants computed once: same values, same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli.backbones import _clip
from creatok_cli.backbones._weights import resolve
from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.token import Token
from tests.tiny import build_tiny_sd3

WORD = "<cretok>"
PROMPTS = {
    "one": ["a photo of a <cretok> mixture"],
    "ends with the word": ["a photo of a <cretok>"],
    "begins with the word": ["<cretok> pig"],
    "word twice": ["a <cretok> pig and a <cretok> owl"],
    "several": ["a <cretok> pig", "a <cretok> pig and an owl", "a <cretok> cat in the snow"],
    "nothing in common": ["a <cretok> pig", "the <cretok> owl of the meadow"],
}


@pytest.fixture(scope="module", params=[False, True], ids=["true-eos", "eos-2"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from creatok_cli.backbones import sd3

    folder: Path = tmp_path_factory.mktemp("tiny") / "sd3"
    build_tiny_sd3(folder, legacy_eos=request.param)
    return sd3.build(sd3.Spec(), resolve(str(folder)), device="cpu", dtype="fp32").text


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", PROMPTS)
def test_values_and_gradients_are_those_of_pooled(text: Any, name: str, count: int) -> None:
    prompts = PROMPTS[name]
    maps = text.pooled_map(prompts, WORD, dict.fromkeys(text.encoders, count))
    for tower in text.towers:
        encoder, dice = tower.words.name, torch.Generator().manual_seed(1)
        rows = torch.randn(2, count, tower.width, generator=dice).requires_grad_(True)
        found = maps[encoder](rows)
        assert found.shape[:2] == (2, len(prompts))
        ours = torch.autograd.grad(found.square().sum() + found[..., 0].sum(), rows)[0]
        for restart in range(2):
            leaf = rows[restart].detach().clone().requires_grad_(True)
            vectors = {other: torch.zeros(count, width) for other, width in text.encoders.items()}
            expected = tower.pooled(prompts, [Token(WORD, "creative", vectors | {encoder: leaf})])
            total = expected.square().sum() + expected[..., 0].sum()
            grad = torch.autograd.grad(total, leaf)[0]
            torch.testing.assert_close(found[restart], expected, rtol=1e-5, atol=1e-5)
            assert float((ours[restart] - grad).norm() / grad.norm()) < 1e-5


def test_a_choice_of_prompts_is_the_same_rows(text: Any) -> None:
    maps = text.pooled_map(PROMPTS["several"], WORD, dict.fromkeys(text.encoders, 1))
    for tower in text.towers:
        rows = torch.randn(2, 1, tower.width, generator=torch.Generator().manual_seed(2))
        whole, which = maps[tower.words.name](rows), torch.tensor([2, 0, 2])
        torch.testing.assert_close(maps[tower.words.name](rows, which), whole[:, which])


@pytest.mark.parametrize("prompt", ["a photo of a pig", "a <cretok> " + "pig " * 80])
def test_a_prompt_without_room_or_word_is_refused(text: Any, prompt: str) -> None:
    with pytest.raises(ArtefactError, match="must hold <cretok>"):
        text.pooled_map([prompt], WORD, dict.fromkeys(text.encoders, 1))


def test_nothing_of_the_encoder_learns(text: Any) -> None:
    for tower in text.towers:
        assert not any(weight.requires_grad for weight in tower.model.parameters())


def test_vocabulary_and_digest(text: Any) -> None:
    for encoder, (table, spelled) in text.vocabulary().items():
        assert table.shape == (len(spelled), text.encoders[encoder])
        assert "pig" in spelled
        assert not any("<|" in word for word in spelled)
    first, again = text.digests(), text.digests()
    assert first == again
    assert len(set(first.values())) == len(first)
    with torch.no_grad():
        weight = text.towers[0].model.text_projection.weight
        kept = weight[0, 0].clone()
        weight[0, 0] += 1
        try:
            assert text.digests()["clip_l"] != first["clip_l"]
        finally:
            weight[0, 0] = kept


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=["packed", "plain"])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_few_rows_are_multiplied_as_many_are(rows: int, kind: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(rows)
    states = torch.randn(rows, 64, generator=dice, dtype=kind, requires_grad=True)
    weight = torch.randn(48, 64, generator=dice, dtype=kind)
    bias = torch.randn(48, generator=dice, dtype=kind)
    packed = _clip._Packed(weight, rows)
    found = _clip._FewRows.apply(states, bias, packed)
    wanted = torch.addmm(bias, states, weight.t())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pull = torch.randn(rows, 48, generator=dice, dtype=kind)
    (ours,) = torch.autograd.grad(found, states, pull)
    (plain,) = torch.autograd.grad(wanted, states, pull)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_without_the_packed_product_the_plain_one_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    weight, states = torch.randn(5, 6), torch.randn(3, 6)
    found = _clip._product_with(weight, 3)(states)
    torch.testing.assert_close(found, states @ weight.t(), rtol=1e-5, atol=1e-5)


def test_large_weights_take_the_way_of_few_rows(text: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = text.pooled_map(["a photo of a <w>"], "<w>", dict.fromkeys(text.encoders, 1))
    for tower in text.towers:
        found = maps[tower.words.name]
        dice = torch.Generator().manual_seed(4)
        vectors = torch.randn(1, 1, tower.width, generator=dice, requires_grad=True)
        monkeypatch.setattr(_clip, "PACKED", range(0))
        plain = found(vectors)
        (slope,) = torch.autograd.grad(plain.sum(), vectors)
        assert not found._packed
        monkeypatch.setattr(_clip, "PACKED", range(1, 1 << 22))
        other = found(vectors)
        (again,) = torch.autograd.grad(other.sum(), vectors)
        assert found._packed
        torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again, slope, rtol=1e-4, atol=1e-5)
