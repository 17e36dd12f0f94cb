"""What a labeler sees in pictures of fused creatures, beside the weights that were asked for.

With p the asked weights and q the labels, smoothed as (1 - eps) q + eps / K, all in nats:

    KL(p; q)  = sum_c p_c ln(p_c / q_c)
    JSD(p; q) = (KL(p; m) + KL(q; m)) / 2,  m = (p + q) / 2,  in [0, ln 2]

(methods notes, 3.7). A token of the library that was fused itself counts as what it was fused from;
a phrase is one more class; a creature with a token that was learned otherwise has no target.

Does not: build a labeler, or call these figures a proof: the labeler may have taught the network.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable
from creatok_cli.domain import Labels
from creatok_cli.errors import ArtefactError, InputError
from creatok_cli.sinks import manifest
from creatok_cli.sinks._metadata import MAX_FILE
from creatok_cli.tokens.file import TokenHeader

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = 1
NUMBERS = "fuse.json"
EPSILON = 1e-4
"""How much of a labeler's answer is spread over all classes (methods notes, 3.7)."""
TOP = 5
"""Classes that are told of a picture."""
LEAST_SHARE, MOST_CLASSES = 0.02, 8
"""Classes of a picture that become a mix: a smaller share is doubt, not resemblance (set by
eye)."""
READ_ROWS = 64
"""Pictures that are in memory together."""
DEPTH = 16
"""Of tokens fused from tokens."""


def divergences(asked: Sequence[float], seen: Sequence[float]) -> tuple[float, float]:
    """(KL, JSD) of labels from weights, in nats."""
    share = EPSILON / len(seen)
    found = [(1 - EPSILON) * value + share for value in seen]
    middle = [(p + q) / 2 for p, q in zip(asked, found, strict=True)]
    return _kl(asked, found), (_kl(asked, middle) + _kl(found, middle)) / 2


def _kl(one: Sequence[float], other: Sequence[float]) -> float:
    pairs = zip(one, other, strict=True)
    return max(0.0, math.fsum(p * math.log(p / q) for p, q in pairs if p > 0))


def target_of(
    recipe: Mapping[str, Any], header_of: Callable[[str], TokenHeader], depth: int = DEPTH
) -> dict[str, float] | None:
    """The weights of classes and phrases that a fused token comes to, by its recipe; None where it
    was not fused of these alone. `header_of` finds tokens by their ids.
    """
    found: dict[str, float] = {}
    try:
        mix = [(str(name), float(weight)) for name, weight in recipe["mix"]]
        parents = iter([str(identity) for identity in recipe["parents"]])
        for name, weight in mix:
            inner: Mapping[str, float] | None = {name: 1.0}
            if name.startswith("<"):
                header = header_of(next(parents))
                inner = target_of(header.recipe, header_of, depth - 1) if depth else None
            if inner is None:
                return None
            for each, share in inner.items():
                found[each] = found.get(each, 0.0) + weight * share
    except (KeyError, TypeError, ValueError, StopIteration, ArtefactError):
        return None  # recipes come from files and may say anything
    return found


def mix_of(labels: Labels) -> tuple[list[tuple[str, float]], str]:
    """The classes of a picture as (name, weight), and what was left out, in words.

    Raises InputError where no class stands out.
    """
    ranked = sorted(labels.probabilities, key=lambda pair: (-pair[1], pair[0]))
    kept = [pair for pair in ranked if pair[1] >= LEAST_SHARE][:MOST_CLASSES]
    if not kept:
        raise InputError(
            f"no class has a share of {LEAST_SHARE:.0%} in the picture: the labeler cannot tell "
            "what it shows"
        )
    rest = 1 - math.fsum(weight for _, weight in kept)
    told = f"{rest:.0%} on other classes is left out" if rest > LEAST_SHARE else ""
    return kept, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Creature:
    """A fused token and what its pictures should show."""

    word: str
    name: str
    id: str
    mix: tuple[tuple[str, float], ...]
    target: Mapping[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a labeler sees in all pictures of a creature."""

    creature: Creature
    pictures: tuple[Mapping[str, Any], ...]
    mean: Mapping[str, float]
    """Over its pictures, by class, the largest first."""
    kl: float | None
    jsd: float | None
    """Means over its pictures; None without a target."""


def read_creatures(
    folder: Path,
    creatures: Sequence[Creature],
    classes: Sequence[str],
    label: Callable[[Sequence[Image]], Sequence[Labels]],
) -> tuple[Reading, ...]:
    """Labels of every finished picture that shows one of the creatures and nothing else fused.

    `classes` are those that `label` answers for, in its order.
    """
    by_word = {each.word: each for each in creatures}
    lines: dict[str, list[manifest.Line]] = {word: [] for word in by_word}
    ledger = manifest.read(folder)
    for line in sorted(ledger.by_file.values(), key=lambda line: (line.prompt, line.seed)):
        words = [word for word in line.tokens if line.tokens[word] == _id_of(by_word, word)]
        if line.status == "done" and len(words) == 1:
            lines[words[0]].append(line)
    return tuple(
        _read(folder, by_word[word], lines[word], classes, label) for word in by_word if lines[word]
    )


def _id_of(by_word: Mapping[str, Creature], word: str) -> str:
    return by_word[word].id if word in by_word else ""


def _read(
    folder: Path,
    creature: Creature,
    lines: Sequence[manifest.Line],
    classes: Sequence[str],
    label: Callable[[Sequence[Image]], Sequence[Labels]],
) -> Reading:
    seen: list[tuple[float, ...]] = []
    for start in range(0, len(lines), READ_ROWS):
        images = [finished_picture(folder, line.file) for line in lines[start : start + READ_ROWS]]
        seen += [tuple(p for _, p in labels.probabilities) for labels in label(images)]
    target = creature.target
    asked = None if target is None else [target.get(name, 0.0) for name in classes]
    told = []
    figures = [divergences(asked, row) for row in seen] if asked is not None else []
    for index, (line, row) in enumerate(zip(lines, seen, strict=True)):
        fact: dict[str, Any] = {"file": line.file, "prompt": line.prompt, "seed": line.seed}
        fact["top"] = [[name, round(share, 6)] for name, share in top(classes, row)]
        if figures:
            fact["kl"], fact["jsd"] = (round(value, 6) for value in figures[index])
        told.append(fact)
    count = len(seen)
    mean = [math.fsum(column) / count for column in zip(*seen, strict=True)]
    return Reading(
        creature=creature,
        pictures=tuple(told),
        mean=dict(top(classes, mean)),
        kl=math.fsum(kl for kl, _ in figures) / count if figures else None,
        jsd=math.fsum(jsd for _, jsd in figures) / count if figures else None,
    )


def top(classes: Sequence[str], shares: Sequence[float]) -> list[tuple[str, float]]:
    """The largest shares with their classes."""
    ranked = sorted(zip(classes, shares, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return ranked[:TOP]


def finished_picture(folder: Path, file: str) -> Image:
    """A picture of an output folder, RGB.

    Raises OSError, SyntaxError or ValueError for one that is damaged.
    """
    from PIL import Image

    data = durable.read_file(folder, file, limit=MAX_FILE)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        return opened.convert("RGB")


def said(reading: Reading) -> str:
    """`<chimera>: the labeler sees pig 48 %, sheep 30 %; JSD 0.051`."""
    seen = ", ".join(f"{name} {share:.0%}" for name, share in list(reading.mean.items())[:3])
    figure = "" if reading.jsd is None else f"; JSD {reading.jsd:.3f} nats"
    return f"{reading.creature.word}: the labeler sees {seen}{figure}"


def numbers(
    readings: Sequence[Reading], *, base: Mapping[str, str], network: str, labeler: str
) -> bytes:
    """`fuse.json`: plain facts, no paths of the machine, no time."""
    document = {
        "schema": SCHEMA,
        "base": dict(base),
        "network": network,
        "labeler": labeler,
        "epsilon": EPSILON,
        "creatures": [
            {
                "word": each.creature.word,
                "name": each.creature.name,
                "id": each.creature.id,
                "mix": dict(each.creature.mix),
                "target": None if each.creature.target is None else dict(each.creature.target),
                "seen": {name: round(share, 6) for name, share in each.mean.items()},
                "kl": None if each.kl is None else round(each.kl, 6),
                "jsd": None if each.jsd is None else round(each.jsd, 6),
                "pictures": [dict(picture) for picture in each.pictures],
            }
            for each in readings
        ],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode()
