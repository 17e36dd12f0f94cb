"""The prior of bases that have none: few-step pictures seen by image towers, under autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from creatok_cli import registry
from creatok_cli.backbones import _weights
from creatok_cli.backbones._pixels import PixelPrior, greyed, tower_folders
from creatok_cli.scorers import clip
from creatok_cli.tokens.token import Token

TOWERS = {"image": ("image_encoder_l", "image_encoder_g")}
WORDS = {"words": ("text_encoder", "text_encoder_2"), "tokenizer": ("tokenizer", "tokenizer_2")}


@pytest.fixture(scope="module")
def base() -> Any:
    facts = _weights.resolve("bestiary")
    module = registry.get("backbones", "bestiary")
    return module.build(module.Spec(), facts, device="cpu", dtype="fp32")


@pytest.fixture
def prior(base: Any) -> Any:
    """With two steps, to be quick."""
    one: PixelPrior = base.prior
    kept, one.draw = one.draw, replace(one.draw, steps=2)
    yield one
    one.draw = kept


def token(base: Any) -> Token:
    rows = base.text.rows("pig")
    return Token("<w>", "pig", {k: x.clone().requires_grad_(True) for k, x in rows.items()})


def pictures() -> list[Image.Image]:
    dice = torch.Generator().manual_seed(1)
    sizes = ((64, 64), (64, 64), (90, 64), (32, 32))
    return [
        Image.frombytes(
            "RGB",
            size,
            bytes(torch.randint(256, (size[0] * size[1] * 3,), generator=dice).tolist()),
        )
        for size in sizes
    ]


def test_texts_and_pictures_are_those_of_the_clip_scorer(base: Any, prior: PixelPrior) -> None:
    scorer = clip.build(clip.Spec(folder=base.facts.folder, **TOWERS, **WORDS))
    texts = ["a photo of a pig", "an owl in the snow"]
    assert torch.allclose(prior.texts(texts), scorer.texts(texts), atol=1e-6)
    images = pictures()[:2]
    assert torch.allclose(prior.pictures(images), scorer.pictures(images), atol=1e-6)
    assert prior.width == 320
    assert prior.route == "pixels"


def test_rows_are_units_and_follow_their_own_seed(base: Any, prior: PixelPrior) -> None:
    cond = base.text.encode(["a photo of a pig"], [])
    with torch.no_grad():
        rows = prior.sample(cond, seeds=[1, 2, 3])
        others = prior.sample(cond, seeds=[9, 2, 8])
    assert rows.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert torch.equal(rows[1], others[1])
    assert not torch.equal(rows[0], others[0])
    with pytest.raises(ValueError, match="2 prompts for 3 seeds"):
        prior.sample(base.text.encode(["a pig", "an owl"], []), seeds=[1, 2, 3])


def test_a_sample_is_what_the_towers_see_in_the_renderers_picture(
    base: Any, prior: PixelPrior
) -> None:
    cond, nothing = base.text.encode(["a photo of a pig"], []), base.text.encode([""], [])
    with torch.no_grad():
        for latents in base.image.denoise(
            base.image.noise([5], base.facts.size_px),
            cond,
            negative=nothing,
            steps=2,
            guidance=base.facts.guidance,
            scheduler="flow-match-euler",
            options=(),
            seeds=[5],
        ):
            last = latents
        seen = prior.see(base.image.decode(last))
        assert torch.allclose(prior.sample(cond, seeds=[5]), seen, atol=1e-5)


def test_the_gradient_reaches_the_word_and_is_the_slope(base: Any, prior: PixelPrior) -> None:
    goal = prior.texts(["a photo of a snake"]).detach()

    def cosine(one: Token) -> torch.Tensor:
        cond = base.text.encode(["a photo of a <w>"], [one])
        return (prior.sample(cond, seeds=[4]) @ goal.T).sum()

    one = token(base)
    grads = torch.autograd.grad(cosine(one), list(one.vectors.values()))
    assert all(float(grad.abs().max()) > 0 for grad in grads)
    size = 1e-3
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            moved = {
                k: (x + sign * size * g / g.norm()).clone()
                for (k, x), g in zip(one.vectors.items(), grads, strict=True)
            }
            ends.append(float(cosine(Token("<w>", "pig", moved))))
    slope = (ends[0] - ends[1]) / (2 * size)
    assert slope == pytest.approx(sum(float(grad.norm()) for grad in grads), rel=0.05)


def test_a_truncated_gradient_gives_the_same_pictures(base: Any, prior: PixelPrior) -> None:
    one, found = token(base), []
    for steps in (0, 1, 2):
        prior.draw = replace(prior.draw, gradient_steps=steps)
        cond = base.text.encode(["a photo of a <w>"], [one])
        rows = prior.sample(cond, seeds=[3])
        grad = torch.autograd.grad(rows[0, 0], one.vectors["clip_l"])[0]
        found.append((rows.detach(), grad))
    whole, last, both = found
    assert torch.equal(whole[0], last[0])
    assert not torch.allclose(whole[1], last[1], rtol=1e-2, atol=0)
    assert torch.allclose(whole[1], both[1], rtol=1e-3, atol=1e-7)
    assert not base.image.vae.decoder.gradient_checkpointing


def test_texts_pass_gradients_to_words(base: Any, prior: PixelPrior) -> None:
    one = token(base)
    prior.texts(["a photo of a <w>"], [one])[0, 0].backward()
    assert all(rows.grad is not None for rows in one.vectors.values())


def test_grey_copies_have_no_colours(prior: PixelPrior) -> None:
    red, green = (Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 59, 0)))
    coloured, grey = prior.pictures([red, green]), prior.pictures([red, green], grey=True)
    assert float(grey[0] @ grey[1]) > 0.99 > float(coloured[0] @ coloured[1])
    pixels = greyed(torch.rand(2, 3, 4, 4))
    assert torch.equal(pixels[:, 0], pixels[:, 2])


def test_looks_are_the_same_pictures_in_colours_and_grey(base: Any, prior: PixelPrior) -> None:
    cond = base.text.encode(["a photo of a pig"], [])
    with torch.no_grad():
        coloured, grey = prior.looks(cond, seeds=[1, 2])
        assert torch.equal(coloured, prior.sample(cond, seeds=[1, 2]))
        assert torch.equal(grey, prior.sample(cond, seeds=[1, 2], grey=True))
    assert not torch.equal(coloured, grey)


def test_pictures_of_any_size_and_kind_are_embedded(prior: PixelPrior) -> None:
    images = [*pictures(), Image.new("LA", (10, 80), (128, 0)), Image.new("1", (64, 64))]
    rows = prior.pictures(images)
    assert rows.shape == (6, prior.width)
    assert bool(rows.isfinite().all())
    assert torch.equal(rows[:1], prior.pictures(images[:1]))
    # Transparency is white.
    white = prior.pictures([Image.new("RGB", (64, 64), "white")])
    assert torch.allclose(rows[4], white[0], atol=1e-5)
    assert prior.pictures([]).shape == (0, prior.width)


def test_a_base_without_image_towers_has_no_prior(tiny_folders: Callable[..., Path]) -> None:
    facts = _weights.resolve(str(tiny_folders()))
    module = registry.get("backbones", "sd3")
    assert module.build(module.Spec(), facts, device="cpu", dtype="fp32").prior is None
    assert tower_folders(facts.folder, ["clip_l", "clip_g"]) == {}


def test_releasing_the_prior_drops_its_towers(base: Any) -> None:
    first = base.prior
    base.release("prior")
    assert base.prior is not first
