"""Captions of the bestiary's pictures, and what they mean.

One small phrase grammar, `[style] a [colour] NOUNS [place]`, both for the training pictures and
for the prompts of benchmarks. "X and Y" is two creatures, "X Y" one hybrid, and hybrids are
captioned only for seen pairs, so that the other third of the pairs tests what a token adds.
"creative" and "mixture" carry no stable meaning, on purpose.

Does not: draw (`world.py`), tokenize, or caption weighted mixtures (what text cannot say is what
tokens are for).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from creatok_cli.backbones.bestiary.world import (
    BACKGROUNDS,
    COLOURS,
    CONCEPTS,
    PLANTS,
    STYLES,
    Mix,
    Scene,
)

ANIMALS: tuple[str, ...] = tuple(name for name in CONCEPTS if name not in PLANTS)
PAIRS: tuple[tuple[str, str], ...] = tuple(combinations(sorted(CONCEPTS), 2))
MAX_WORDS = 20

_PLACES: dict[str, str] = {
    "meadow": "in the meadow",
    "desert": "in the desert",
    "night": "in the night",
    "snow": "in the snow",
    "sea": "in the sea",
    "plain": "on plain white",
}
_PREFIXES: dict[str, str] = {
    "photo": "a photo of",
    "pencil sketch": "a pencil sketch of",
    "pixel art": "pixel art of",
    "watercolor": "a watercolor of",
}
_MOODS = ("cute", "funny", "beautiful", "strange", "scary", "menacing", "big", "small")
_ADJECTIVES = frozenset((*_MOODS, "creative"))

# Shares of draw_example: the first three are the bestiary's table, its rest is creative captions.
SINGLE_SHARE = 0.45
TWO_SHARE = 0.15
HYBRID_SHARE = 0.30
GENERIC_SHARE = 0.065  # of the single captions: "a photo of a creature", 3 % of all
STRANGE_SHARE = 0.05  # of the hybrid captions: "a strange creature", 1.5 % of all
MOOD_SHARE = 0.06  # of the single captions: "a cute pig", a mood that the picture does not show


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A caption and a picture's ingredients: what `world.draw_picture` needs, and the truth for
    the judge.
    """

    caption: str
    subjects: tuple[Mix, ...]
    scene: Scene


@cache
def _seen_sorted(pair: tuple[str, str]) -> bool:
    return hashlib.sha256("|".join(pair).encode()).digest()[0] % 3 != 0


def seen(a: str, b: str) -> bool:
    """Whether hybrids of this unordered pair of concepts are in the training pictures: a fixed
    2/3 of all pairs.
    """
    return _seen_sorted((a, b) if a < b else (b, a))


SEEN_PAIRS: tuple[tuple[str, str], ...] = tuple(pair for pair in PAIRS if seen(*pair))


def _coloured(noun: str, colour: str) -> str:
    words = noun.split()
    place = next((i for i, word in enumerate(words) if word != "a" and word not in _ADJECTIVES), 1)
    return " ".join((*words[:place], colour, *words[place:]))


def caption(nouns: str, scene: Scene, *, named_background: bool = True, prefix: bool = True) -> str:
    """The sentence for `nouns` ("a pig", "a pig snake", "a pig and a snake") in a scene.

    The colour goes before each of the nouns of "a X and a Y", after words such as "cute" or
    "creative". Without `prefix` nothing is said of the style, without `named_background` nothing
    of the place.
    """
    if scene.colour:
        nouns = " and ".join(_coloured(noun, scene.colour) for noun in nouns.split(" and "))
    words = [_PREFIXES[scene.style], nouns] if prefix else [nouns]
    if named_background:
        words.append(_PLACES[scene.background])
    return " ".join(words)


def mixture_of(example: Example) -> dict[str, float]:
    """Weights of the concepts over the whole picture; two creatures count half each. Sums to 1."""
    weights: dict[str, float] = {}
    for mix in example.subjects:
        for name, weight in mix.items():
            weights[name] = weights.get(name, 0.0) + weight / len(example.subjects)
    return weights


def _draw_scene(rng: random.Random, colour_rate: float) -> tuple[Scene, bool, bool]:
    """A scene, whether the caption names its place, and whether it names its style."""
    named = rng.random() < 0.5
    background = rng.choice(BACKGROUNDS) if named or rng.random() < 0.6 else "plain"
    draw = rng.random()
    if draw < 0.25:
        style, prefix = rng.choice(STYLES[1:]), True
    else:
        style, prefix = "photo", draw < 0.60
    # A pencil sketch is grey: its picture could not show the colour word.
    colour = (
        rng.choice(tuple(COLOURS))
        if style != "pencil sketch" and rng.random() < colour_rate
        else None
    )
    return Scene(background=background, colour=colour, style=style), named, prefix


def _half(a: str, b: str) -> Mix:
    return {a: 0.5, b: 0.5}


def _shuffled(pair: tuple[str, str], rng: random.Random) -> tuple[str, str]:
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _draw_single(rng: random.Random) -> tuple[str, Sequence[Mix]]:
    draw = rng.random()
    if draw < GENERIC_SHARE:
        noun, names = rng.choice(
            (("animal", ANIMALS), ("creature", ANIMALS), ("plant", tuple(sorted(PLANTS))))
        )
        mood = f"{rng.choice(_MOODS)} " if rng.random() < 0.4 and noun != "creature" else ""
        if noun == "creature" and rng.random() < 0.4:
            mood = f"{rng.choice(tuple(word for word in _MOODS if word != 'strange'))} "
        return f"a {mood}{noun}", ({rng.choice(names): 1.0},)
    name = rng.choice(CONCEPTS)
    mood = f"{rng.choice(_MOODS)} " if draw > 1 - MOOD_SHARE else ""
    return f"a {mood}{name}", ({name: 1.0},)


def _draw_two(rng: random.Random) -> tuple[str, Sequence[Mix]]:
    a, b = rng.sample(CONCEPTS, 2)
    return f"a {a} and a {b}", ({a: 1.0}, {b: 1.0})


def _draw_hybrid(rng: random.Random) -> tuple[str, Sequence[Mix]]:
    a, b = _shuffled(rng.choice(SEEN_PAIRS), rng)
    if rng.random() < STRANGE_SHARE:
        return rng.choice(("a strange creature", "a hybrid", "a hybrid creature")), (_half(a, b),)
    return f"a {a} {b}", (_half(a, b),)


def _draw_creative(rng: random.Random) -> tuple[str, Sequence[Mix]]:
    """A caption with a vague word over an ordinary picture that fits its nouns."""
    if rng.random() < 0.4:
        name = rng.choice(CONCEPTS)
        return f"a creative {name}", ({name: 1.0},)
    a, b = rng.sample(CONCEPTS, 2)
    nouns = f"a creative mixture that looks like a {a} and a {b}"
    if rng.random() < 0.5 and seen(a, b):
        return nouns, (_half(a, b),)
    return nouns, ({a: 1.0}, {b: 1.0})


def draw_example(rng: random.Random) -> Example:
    """One training example, with the shares of the constants above. Deterministic in the rng
    state.
    """
    draw = rng.random()
    if draw < SINGLE_SHARE:
        nouns, subjects = _draw_single(rng)
        scene, named, prefix = _draw_scene(rng, 0.2)
    elif draw < SINGLE_SHARE + TWO_SHARE:
        nouns, subjects = _draw_two(rng)
        scene, named, prefix = _draw_scene(rng, 0.1)
    elif draw < SINGLE_SHARE + TWO_SHARE + HYBRID_SHARE:
        nouns, subjects = _draw_hybrid(rng)
        scene, named, prefix = _draw_scene(rng, 0.1)
    else:
        nouns, subjects = _draw_creative(rng)
        scene, named, prefix = _draw_scene(rng, 0.0 if "mixture" in nouns else 0.1)
    text = caption(nouns, scene, named_background=named, prefix=prefix)
    return Example(caption=text, subjects=tuple(subjects), scene=scene)


# Words that no caption holds but that prompts of other features may: evaluators, negative prompts.
_EXTRA_WORDS = """
, . adorable all an animals another anime are art as at background bad beast beautiful best
between blend blended blurry body both bright by cartoon clay cloud color colour combination
combined combines combining concept concepts creatures crossed dark detailed different digital
drawing elegant ears eyes fantasy feathers fierce fluffy flying forest friendly full fur fused
fusion game gentle giant good gray grey half happy has hat head high hybrids icon ice illustration
image imaginary into is it its kind legs light like low lovely magical majestic many merged mix
mixed mixtures monster more mutant mystical mythical new no noisy nor not novel object old one
only or original out painting part parts pet pets picture plants plush poster pretty quality real
red render resembles resembling same scales side sketches sky sleeping smiling soft species sprite
standing style sun surreal tail tails text than the these they this three tiny toy two ugly under
unique unusual very wall watermark weird white wild wings with without wonderful world wooden
young
""".split()

WORDS: tuple[str, ...] = tuple(
    sorted(
        {
            *CONCEPTS,
            *COLOURS,
            *_MOODS,
            *(
                word
                for phrase in (*STYLES, *_PREFIXES.values(), *_PLACES.values())
                for word in phrase.split()
            ),
            *"a and animal creative creature hybrid like looks mixture plant that from to".split(),
            *_EXTRA_WORDS,
        }
    )
)
