"""The bestiary's world: pictures, genes and captions.

Does not: judge whether pictures look right; contact sheets and eyes do that.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from PIL import ImageChops

from creatok_cli.backbones.bestiary.captions import (
    MAX_WORDS,
    PAIRS,
    WORDS,
    caption,
    draw_example,
    mixture_of,
    seen,
)
from creatok_cli.backbones.bestiary.world import (
    BACKGROUNDS,
    COLOURS,
    CONCEPTS,
    GENES,
    PLANTS,
    STYLES,
    Scene,
    _has,
    _owners,
    blend,
    draw_genes,
    draw_picture,
)


def test_concepts_are_sixty_single_words_in_order():
    animals = [name for name in CONCEPTS if name not in PLANTS]
    assert len(CONCEPTS) == len(set(CONCEPTS)) == len(GENES) == 60
    assert list(CONCEPTS) == sorted(animals) + sorted(PLANTS)
    assert all(name.isalpha() and name.islower() for name in CONCEPTS)


def test_equal_seeds_draw_equal_pictures():
    mix = {"pig": 0.5, "snake": 0.3, "pumpkin": 0.2}
    scene = Scene(background="sea", colour="red", style="watercolor")
    one, two, other = (
        draw_picture([mix], scene, random.Random(seed)).tobytes() for seed in (3, 3, 4)
    )
    assert one == two
    assert one != other


def test_blend_does_not_depend_on_the_order_of_the_mix():
    mix = {"owl": 0.5, "lion": 0.3, "cactus": 0.2}
    swapped = dict(reversed(mix.items()))
    assert blend(mix, random.Random(1)) == blend(swapped, random.Random(1))


def test_a_pure_mix_keeps_the_concepts_parts():
    genes = blend({"elephant": 1.0}, random.Random(0))
    assert (genes.nose[0], genes.ears[0], genes.legs[0]) == ("trunk", "flap", "thick")


def test_both_parents_supply_parts_of_a_half_and_half_hybrid():
    rng = random.Random(0)
    for pair in rng.sample(PAIRS, 200):
        rows = {name: GENES[name] for name in pair}
        owner = _owners(rows, dict.fromkeys(pair, 0.5), rng)
        for name in pair:
            assert any(owner[slot] == name and _has(rows[name], slot) for slot in owner), pair


def test_every_mix_draws_in_every_scene():
    rng = random.Random(5)
    for i in range(300):
        names = rng.sample(CONCEPTS, 1 + i % 5)
        weights = [rng.random() + 0.05 for _ in names]
        mix = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
        scene = Scene(
            background=rng.choice(BACKGROUNDS),
            colour=rng.choice([None, *COLOURS]),
            style=rng.choice(STYLES),
        )
        image = draw_picture([mix] if i % 3 else [mix, {rng.choice(CONCEPTS): 1.0}], scene, rng)
        assert image.size == (64, 64)
        assert image.mode == "RGB"


def test_other_sizes_and_wrong_counts():
    assert draw_picture([{"pig": 1.0}], Scene(), random.Random(0), size_px=128).size == (128, 128)
    with pytest.raises(ValueError, match="one or two"):
        draw_picture([], Scene(), random.Random(0))


def test_two_creatures_stand_in_the_order_of_the_subjects():
    scene = Scene()
    for names in (["frog", "ladybug"], ["ladybug", "frog"]):
        image = draw_picture([{name: 1.0} for name in names], scene, random.Random(2))
        sides = [
            image.crop(box).resize((1, 1), 4).getpixel((0, 0))
            for box in ((0, 0, 32, 64), (32, 0, 64, 64))
        ]
        greenness = [g - r for r, g, _ in sides]
        assert (greenness[0] > greenness[1]) == (names[0] == "frog")


def test_a_sprite_is_transparent_around_the_creature():
    sprite = draw_genes(GENES["pig"], random.Random(0), 64, transparent=True)
    assert sprite.mode == "RGBA"
    low, high = sprite.getchannel("A").getextrema()
    assert (low, high) == (0, 255)


def test_concepts_differ_from_each_other():
    pictures = {name: draw_genes(GENES[name], random.Random(0), 32) for name in CONCEPTS}
    for a, b in PAIRS:
        difference = ImageChops.difference(pictures[a], pictures[b]).convert("L").resize((1, 1), 4)
        assert difference.getpixel((0, 0)) > 4, (a, b)


def test_seen_is_a_fixed_two_thirds_of_the_pairs():
    assert len(PAIRS) == 1770
    assert 0.62 < sum(seen(a, b) for a, b in PAIRS) / len(PAIRS) < 0.71
    assert all(seen(a, b) == seen(b, a) for a, b in PAIRS[:50])


def test_captions_hold_only_known_words_and_stay_short():
    rng = random.Random(0)
    known = set(WORDS)
    assert list(WORDS) == sorted(known)
    for _ in range(5000):
        words = draw_example(rng).caption.split()
        assert len(words) <= MAX_WORDS
        assert known.issuperset(words), words


def test_captions_have_the_shares_of_the_table():
    rng = random.Random(1)
    kinds: Counter[str] = Counter()
    total = 8000
    for _ in range(total):
        example = draw_example(rng)
        assert sum(mixture_of(example).values()) == pytest.approx(1.0)
        for mix in example.subjects:
            assert len(mix) == 1 or seen(*mix)
        if "creative" in example.caption:
            kinds["creative"] += 1
        elif len(example.subjects) == 2:
            kinds["two"] += 1
        else:
            kinds["single" if len(example.subjects[0]) == 1 else "hybrid"] += 1
    for kind, share in {"single": 0.45, "two": 0.15, "hybrid": 0.30, "creative": 0.10}.items():
        assert kinds[kind] / total == pytest.approx(share, abs=0.025)


def test_the_grammar_builds_prompts():
    scene = Scene(background="snow", colour="red", style="pencil sketch")
    assert caption("a pig snake", scene) == "a pencil sketch of a red pig snake in the snow"
    assert caption("a pig and a owl", scene, prefix=False) == "a red pig and a red owl in the snow"
    assert (
        caption("a cute pig", Scene(colour="blue"), named_background=False)
        == "a photo of a cute blue pig"
    )
    assert caption("a owl", Scene(background="plain")) == "a photo of a owl on plain white"
