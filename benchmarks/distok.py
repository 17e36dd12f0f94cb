"""Does a fused token have the weights that were asked for? DisTok on the bestiary, by the judge.

    python benchmarks/distok.py [--mixes 30] [--pairs 30] [--seeds 8] [--columns distok ...]

30 random mixes of 2 to 4 classes and 30 held-out pairs, 8 seeds each, the same for every column.
JSD (nats, 0 to ln 2, lower is better) between the mix and the judge's weights of each picture is
the primary figure. Then three tests of the shipped network: the knob (a sweep between two classes
moves the judge's weight along), reuse (styles and places keep the mix), fusing again (tokens of
the pool, fused with classes, stay single creatures). Pictures and networks are kept under --work.
Writes results/distok.json and results/distok.png.

Does not: choose anything by the judge; `best of 16` is chosen by the base's own image tower.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _drawn import Ask, Picture, Studio
from _grid import grid
from _paired import bootstrap, paired
from _report import RESULTS, machine, write
from PIL import Image

from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.bestiary.captions import PAIRS
from creatok_cli.backbones.bestiary.world import CONCEPTS, Scene, draw_picture
from creatok_cli.concepts.mixes import Mix, make_mix
from creatok_cli.concepts.sets import load_pairs
from creatok_cli.methods import distok
from creatok_cli.scorers import _choice, judge
from creatok_cli.scorers.base import build_teacher
from creatok_cli.seeds import derive
from creatok_cli.tokens.network import Network, read_network
from creatok_cli.tokens.token import Token

NAMES = tuple(CONCEPTS)
ONE, ON_MIX = 0.5, 0.5
"""A picture is valid with at least this P(one creature) and this weight on its classes."""
EPSILON = 1e-4
"""Of the smoothed judge in KL (methods notes, 3.7)."""
BEST_OF = 16
CLAIM = "distok"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "distok": (),
    "no consistency": ("mixing=1", "estimate_every=0"),
    "no regularisation": ("gamma=0", "unit_variance=0", "estimate_every=0"),
    "learns from its pool": ("novel=0.1", "novel_pairs=0.05"),
    "paper's form": (
        *("vectors=1", "decoder=rows", "place=0", "e1=auto"),
        *("novel=0.5", "novel_pairs=0.25"),
    ),
}
"""Column -> settings of `distok-small` that differ."""
PLACES = ("in the meadow", "in the desert", "in the night", "in the snow")
STYLE_TEXTS = ("a photo of a", "a pencil sketch of a", "pixel art of a", "a watercolor of a")


@dataclass(frozen=True, kw_only=True)
class Test:
    """One mix that is asked for."""

    name: str
    group: str
    mix: Mix

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.mix.weights)


Reading = dict[str, float]


class Reader:
    """The judge's weights, and what follows from them."""

    def __init__(self) -> None:
        self.judge = judge.build(judge.Spec())

    def read(self, tests: Sequence[Test], images: Sequence[Image.Image]) -> list[Reading]:
        labels = self.judge.label(images, classes=NAMES)
        ones = [row["one"] for row in self.judge.measure(images, [()] * len(images))]
        return [
            figures(dict(test.mix.weights), dict(label.probabilities), one)
            for test, label, one in zip(tests, labels, ones, strict=True)
        ]

    def weights(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        return [dict(each.probabilities) for each in self.judge.label(images, classes=NAMES)]


def figures(wanted: Mapping[str, float], found: Mapping[str, float], one: float) -> Reading:
    """All figures of one picture."""
    on = sum(found[name] for name in wanted)
    top = max(found, key=lambda name: found[name])
    return {
        "jsd": jsd(wanted, found),
        "kl": kl(wanted, found),
        "rank": spearman(wanted, found),
        "top1": float(top == max(wanted, key=lambda name: wanted[name])),
        "on": on,
        "one": one,
        "valid": float(one >= ONE and on >= ON_MIX),
    }


def jsd(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Jensen-Shannon divergence in nats."""
    total = 0.0
    for name in {*p, *q}:
        a, b = p.get(name, 0.0), q.get(name, 0.0)
        middle = (a + b) / 2
        total += (a * math.log(a / middle) if a else 0) + (b * math.log(b / middle) if b else 0)
    return max(0.0, total / 2)


def kl(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """KL(p; smoothed q) in nats (methods notes, 3.7)."""
    return sum(
        a * math.log(a / ((1 - EPSILON) * q.get(name, 0.0) + EPSILON / len(NAMES)))
        for name, a in p.items()
        if a
    )


def spearman(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Rank correlation over the classes that either names (the judge's above 2 %)."""
    names = sorted({*p, *(name for name, share in q.items() if share >= 0.02)})
    if len(names) < 2:
        return 1.0
    first = torch.tensor([p.get(name, 0.0) for name in names], dtype=torch.float64)
    second = torch.tensor([q.get(name, 0.0) for name in names], dtype=torch.float64)
    return correlation(ranks(first), ranks(second))


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean ranks, ties shared."""
    below = (values[:, None] > values[None]).sum(1).double()
    same = (values[:, None] == values[None]).sum(1).double()
    return below + (same - 1) / 2


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float((a.norm() * b.norm()).clamp_min(1e-12))
    return float(a @ b) / scale


# What is asked


def random_tests(count: int) -> list[Test]:
    """Mixes of 2 to 4 classes, held out by seed; no weight is below .1."""
    dice = random.Random(derive(2026, "distok", "mixes"))
    found = []
    for at in range(count):
        names = dice.sample(NAMES, 2 + at % 3)
        shares = [dice.gammavariate(1.0, 1.0) for _ in names]
        floor = 0.1
        total = sum(shares)
        shares = [floor + (1 - floor * len(names)) * share / total for share in shares]
        mix, _ = make_mix(zip(names, shares, strict=True), where="benchmark")
        found.append(Test(name=f"mix-{at}", group="random", mix=mix))
    return found


def pair_tests(count: int) -> list[Test]:
    """Held-out pairs of the bestiary's list, half and half."""
    groups = load_pairs("bestiary").held_out
    rows = [row for name, rows in groups.items() if name.startswith("proof-") for row in rows]
    dice = random.Random(derive(2026, "distok", "pairs"))
    found = []
    for at, (a, b) in enumerate(dice.sample(rows, count)):
        mix, _ = make_mix([(a, 0.5), (b, 0.5)], where="benchmark")
        found.append(Test(name=f"pair-{at}", group="pairs", mix=mix))
    return found


# Columns: how a mix is asked for


class Tokens:
    """Tokens of mixes by several ways."""

    def __init__(self, work: Path, threads: int) -> None:
        self.work, self.threads = work, threads
        self.facts = resolve("bestiary")
        self.networks: dict[str, Network] = {}
        self.fuse_s: list[float] = []

    def network(self, column: str) -> Network:
        """The trained network of a variant, kept by its run."""
        if column not in self.networks:
            from creatok_cli.workflows import _training

            request = _training.TrainRequest(preset="distok-small", sets=VARIANTS[column])
            training = _training.settle_training(request)
            known = _training.known_network(training, may_train=True)
            if known.network is None:
                for event in _training.train_network(request, training):
                    print(column, str(event)[:150], flush=True)
                known = _training.known_network(training, may_train=True)
            assert known.network is not None
            self.networks[column] = read_network(known.network.path)
        return self.networks[column]

    def fused(self, network: Network, mix: Mix, word: str) -> Token:
        began = time.perf_counter()
        rows = [(weight, distok.class_row(network, name)) for name, weight in mix.weights]
        found = distok.fuse(network, rows)
        self.fuse_s.append(time.perf_counter() - began)
        vectors = {
            name: torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
            for name, (shape, data) in found.items()
        }
        return Token(word, "creature", vectors, {"kind": "benchmark"})

    def row_mix(self, mix: Mix, word: str) -> Token:
        """The norm-matched weighted mean of class rows: no network."""
        network = self.network(CLAIM)
        vectors = {}
        for encoder, width in network.widths.items():
            table = torch.tensor(network.tensors[f"rows/{encoder}"].values()).view(-1, width)
            row = sum(w * table[network.classes.index(name)] for name, w in mix.weights)
            assert isinstance(row, torch.Tensor)
            vectors[encoder] = (row / row.norm() * table.norm(dim=1).mean())[None].contiguous()
        return Token(word, "creature", vectors, {"kind": "benchmark"})


def columns(tokens: Tokens) -> dict[str, Callable[[Test, int], tuple[str, Token | None]]]:
    """Column -> (test, its number) -> prompt and token."""

    def with_token(
        make: Callable[[Mix, str], Token], test: Test, at: int
    ) -> tuple[str, Token | None]:
        token = make(test.mix, f"<t{at}>")
        return f"a photo of a {token.word}", token

    def with_network(column: str, test: Test, at: int) -> tuple[str, Token | None]:
        network = tokens.network(column)
        return with_token(partial(tokens.fused, network), test, at)

    def listed(names: slice, test: Test, at: int) -> tuple[str, Token | None]:
        return f"a photo of a {' '.join(test.names[names])}", None

    return {
        **{name: partial(with_network, name) for name in VARIANTS},
        "row mix": partial(with_token, tokens.row_mix),
        "text": partial(listed, slice(None)),
        "top two as text": partial(listed, slice(2)),
        "top class": partial(listed, slice(1)),
    }


def draw(
    tests: Sequence[Test],
    seeds: int,
    studio: Studio,
    name: str,
    way: Callable[[Test, int], tuple[str, Token | None]],
) -> list[Picture]:
    """All pictures of a column, test by test."""
    asks = []
    for at, test in enumerate(tests):
        prompt, token = way(test, at)
        asks += [
            Ask(prompt=prompt, seed=seed, parents=test.names, token=token) for seed in range(seeds)
        ]
    return studio.draw(asks, name)


def worlds(tests: Sequence[Test], seeds: int) -> list[Image.Image]:
    """The same mixes drawn by the world: the judge's ceiling."""
    scene = Scene(background="plain")
    return [
        draw_picture([dict(test.mix.weights)], scene, random.Random(derive(seed, test.name)))
        for test in tests
        for seed in range(seeds)
    ]


# The tables


@dataclass(kw_only=True)
class Column:
    """A drawn and read column."""

    rows: dict[str, list[Reading]]
    """Test -> one reading per picture."""
    mean_jsd: dict[str, float]
    """Test -> JSD of the mean over its pictures."""
    vendi: float | None
    pictures: dict[str, Image.Image]

    def over(self, figure: str, tests: Sequence[Test]) -> dict[str, list[float]]:
        return {t.name: [row[figure] for row in self.rows[t.name]] for t in tests}


def read_column(
    tests: Sequence[Test], images: Sequence[Image.Image], reader: Reader, tower: Any
) -> Column:
    each = len(images) // len(tests)
    spread = [test for test in tests for _ in range(each)]
    found = reader.read(spread, images)
    weights = reader.weights(images)
    rows: dict[str, list[Reading]] = {}
    means: dict[str, float] = {}
    vendis = []
    for at, test in enumerate(tests):
        part = slice(at * each, (at + 1) * each)
        rows[test.name] = found[part]
        mean = {name: statistics.fmean(row[name] for row in weights[part]) for name in NAMES}
        means[test.name] = jsd(dict(test.mix.weights), mean)
        if each > 1:
            vendis.append(vendi(tower.pictures(images[part])))
    pictures = {test.name: images[at * each] for at, test in enumerate(tests)}
    value = round(statistics.fmean(vendis), 3) if vendis else None
    return Column(rows=rows, mean_jsd=means, vendi=value, pictures=pictures)


def vendi(embedded: torch.Tensor) -> float:
    """Vendi score over the number of pictures (Friedman and Dieng 2023, eq. 3)."""
    kernel = embedded.double() @ embedded.double().T / len(embedded)
    shares = torch.linalg.eigvalsh(kernel / kernel.trace()).clamp_min(1e-12)
    return float(torch.exp(-(shares * shares.log()).sum())) / len(embedded)


def numbers(found: Mapping[str, Column], tests: Sequence[Test]) -> dict[str, Any]:
    """Means of all columns, and the claim minus each, with intervals."""
    groups = {"all": list(tests)}
    for test in tests:
        groups.setdefault(test.group, []).append(test)
    table: dict[str, Any] = {}
    for name, column in found.items():
        means: dict[str, Any] = {}
        for figure in next(iter(column.rows.values()))[0]:
            means[figure] = {
                group: round(
                    bootstrap(
                        [statistics.fmean(v) for v in column.over(figure, part).values()]
                    ).mean,
                    4,
                )
                for group, part in groups.items()
            }
        means["jsd_of_mean"] = {
            group: round(statistics.fmean(column.mean_jsd[t.name] for t in part), 4)
            for group, part in groups.items()
        }
        gains = {}
        if name != CLAIM:
            claim = found[CLAIM]
            for group, part in groups.items():
                gain = paired(claim.over("jsd", part), column.over("jsd", part))
                gains[group] = [round(v, 4) for v in (gain.mean, gain.low, gain.high)]
        table[name] = {"means": means, "vendi": column.vendi, "claim_minus": gains}
    return table


def markdown(table: Mapping[str, Any]) -> str:
    lines = [
        "",
        "| column | JSD | random | pairs | JSD of mean | KL | rank | top-1 | valid | vendi |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in table.items():
        means = row["means"]
        cells = [f"{means['jsd'][group]:.3f}" for group in ("all", "random", "pairs")]
        cells.append(f"{means['jsd_of_mean']['all']:.3f}")
        cells += [f"{means[key]['all']:.2f}" for key in ("kl", "rank", "top1", "valid")]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['vendi'] or ''} |")
    lines += ["", f"JSD of {CLAIM} minus that of the column, 95 % interval"]
    for name, row in table.items():
        for group, (mean, low, high) in row["claim_minus"].items():
            star = "*" if low > 0 or high < 0 else ""
            lines.append(f"  {name:26s} {group:7s} {mean:+.3f} [{low:+.3f}, {high:+.3f}]{star}")
    return "\n".join(lines)


# Three tests of the shipped network


def knob(tokens: Tokens, studio: Studio, reader: Reader, pairs: int, seeds: int) -> dict[str, Any]:
    """Between two classes the judge's weight of the second rises with what is asked."""
    dice = random.Random(derive(2026, "distok", "knob"))
    network, shares = tokens.network(CLAIM), [at / 6 for at in range(7)]
    found, curves = [], []
    for a, b in dice.sample(PAIRS, pairs):
        asks = []
        for at, share in enumerate(shares):
            mix, _ = make_mix([(a, 1 - share), (b, share)], where="benchmark")
            token = tokens.fused(network, mix, f"<k{at}>")
            prompt = f"a photo of a {token.word}"
            asks += [Ask(prompt=prompt, seed=s, parents=(a, b), token=token) for s in range(seeds)]
        weights = reader.weights([p.image for p in studio.draw(asks, f"knob {a} {b}")])
        means = [
            statistics.fmean(row[b] for row in weights[at * seeds : (at + 1) * seeds])
            for at in range(len(shares))
        ]
        curves.append(means)
        found.append(correlation(ranks(torch.tensor(shares)), ranks(torch.tensor(means))))
    mean_curve = [round(statistics.fmean(each), 3) for each in zip(*curves, strict=True)]
    return {
        "spearman_mean": round(statistics.fmean(found), 3),
        "spearman_lowest": round(min(found), 3),
        "pairs": pairs,
        "asked": [round(share, 3) for share in shares],
        "judged": mean_curve,
    }


def reuse(tokens: Tokens, studio: Studio, reader: Reader, seeds: int) -> dict[str, Any]:
    """One token in styles and places: how far its weights move, beside a plain class."""
    network = tokens.network(CLAIM)
    prompts = [f"{style} {{}}" for style in STYLE_TEXTS]
    prompts += [f"a photo of a {{}} {place}" for place in PLACES]
    subjects: list[tuple[str, str, Token | None, Test]] = []
    for at, test in enumerate(random_tests(6)):
        token = tokens.fused(network, test.mix, f"<r{at}>")
        subjects += [("token", token.word, token, test), ("class", test.names[0], None, test)]
    asks = [
        Ask(prompt=prompt.format(word), seed=seed, parents=test.names, token=token)
        for _, word, token, test in subjects
        for prompt in prompts
        for seed in range(seeds)
    ]
    rows = reader.weights([picture.image for picture in studio.draw(asks, "reuse")])
    moved: dict[str, list[float]] = {"token": [], "class": []}
    for at, (kind, *_) in enumerate(subjects):
        means = []
        for turn in range(len(prompts)):
            start = (at * len(prompts) + turn) * seeds
            part = rows[start : start + seeds]
            means.append({name: statistics.fmean(row[name] for row in part) for name in NAMES})
        middle = {name: statistics.fmean(mean[name] for mean in means) for name in NAMES}
        moved[kind].append(statistics.fmean(jsd(mean, middle) for mean in means))
    return {
        "prompts": len(prompts),
        "mean_jsd_to_own_mean": {k: round(statistics.fmean(v), 4) for k, v in moved.items()},
    }


def again(tokens: Tokens, studio: Studio, reader: Reader, seeds: int) -> dict[str, Any]:
    """Tokens of the pool, half and half with a class: one creature still?"""
    network = tokens.network(CLAIM)
    if not network.pool_size:
        return {"pool": 0}
    dice = random.Random(derive(2026, "distok", "again"))
    rows = network.tensors["pool/rows"].values()
    vectors = int(network.recipe["spec"]["vectors"])
    encoders = sorted(network.widths.items())
    width = sum(size for _, size in encoders)
    ones: dict[str, list[float]] = {"pool": [], "fused": []}
    asks: list[tuple[str, Ask]] = []
    for turn in range(20):
        at, name = dice.randrange(network.pool_size), dice.choice(NAMES)
        flat = rows[at * vectors * width : (at + 1) * vectors * width]
        own = torch.tensor(flat).view(vectors, width)
        parts, start = {}, 0
        for encoder, size in encoders:
            parts[encoder] = own[:, start : start + size].contiguous()
            start += size
        entry = Token(f"<p{turn}>", "creature", parts, {"kind": "benchmark"})
        mean = {e: type(flat)("f", part.mean(dim=0).tolist()) for e, part in parts.items()}
        mixed = distok.fuse(network, [(0.5, mean), (0.5, distok.class_row(network, name))])
        made = Token(
            f"<q{turn}>",
            "creature",
            {
                e: torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
                for e, (shape, data) in mixed.items()
            },
            {"kind": "benchmark"},
        )
        for kind, token in (("pool", entry), ("fused", made)):
            asks += [
                (
                    kind,
                    Ask(prompt=f"a photo of a {token.word}", seed=s, parents=(name,), token=token),
                )
                for s in range(seeds)
            ]
    images = [picture.image for picture in studio.draw([ask for _, ask in asks], "again")]
    for (kind, _), row in zip(asks, reader.judge.measure(images, [()] * len(images)), strict=True):
        ones[kind].append(row["one"])
    return {
        f"one_creature_{kind}": round(statistics.fmean(float(v >= ONE) for v in values), 3)
        for kind, values in ones.items()
    } | {"pool": network.pool_size}


def picture(found: Mapping[str, Column], tests: Sequence[Test]) -> Image.Image:
    """The first seed of the first tests of each group, all columns."""
    shown: dict[str, list[tuple[str, list[Image.Image]]]] = {}
    for test in tests:
        rows = shown.setdefault(
            "random mixes" if test.group == "random" else "held-out pairs, half and half", []
        )
        if len(rows) < 8:
            said = " ".join(f"{name} {weight:.2f}" for name, weight in test.mix.weights)
            rows.append((said, [column.pictures[test.name] for column in found.values()]))
    return grid(
        "Fused tokens beside their controls",
        "the first seed of every column; nothing is chosen",
        list(found),
        shown,
        framed=CLAIM,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mixes", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--columns", nargs="+", default=None)
    parser.add_argument("--name", default="distok")
    parser.add_argument("--work", type=Path, default=Path("runs/distok-proof"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-tests", action="store_true", help="only the table")
    args = parser.parse_args()
    os.environ["CREATOK_HOME"] = str((args.work / "home").resolve())
    torch.set_num_threads(args.threads)
    tests = [*random_tests(args.mixes), *pair_tests(args.pairs)]
    tokens = Tokens(args.work, args.threads)
    studio = Studio(tokens.facts, args.work, args.threads)
    reader = Reader()
    tower = build_teacher(*_choice.labeler_for(tokens.facts))
    ways = columns(tokens)
    chosen = args.columns or [*ways, f"best of {BEST_OF}", "world"]
    found: dict[str, Column] = {}
    for name in chosen:
        if name == "world":
            images = worlds(tests, args.seeds)
        elif name == f"best of {BEST_OF}":
            drawn = draw(tests, BEST_OF, studio, name, ways["text"])
            images = [best(tower, tests[at], part) for at, part in enumerate(parts(drawn, BEST_OF))]
        else:
            images = [p.image for p in draw(tests, args.seeds, studio, name, ways[name])]
        found[name] = read_column(tests, images, reader, tower)
        mean = statistics.fmean(
            statistics.fmean(v) for v in found[name].over("jsd", tests).values()
        )
        print(f"{name}: jsd {mean:.4f}", flush=True)
    table = numbers(found, tests)
    print(markdown(table))
    report: dict[str, Any] = {
        "benchmark": "distok",
        "base_digest": tokens.facts.digest,
        "mixes": args.mixes,
        "pairs": args.pairs,
        "seeds": args.seeds,
        "tests": {test.name: dict(test.mix.weights) for test in tests},
        "columns": table,
        "fuse_seconds_median": round(statistics.median(tokens.fuse_s), 4),
    }
    if not args.no_tests:
        report["knob"] = knob(tokens, studio, reader, 20, 4)
        report["reuse"] = reuse(tokens, studio, reader, 4)
        report["again"] = again(tokens, studio, reader, 4)
        print({key: report[key] for key in ("knob", "reuse", "again")})
    report["machine"] = machine(args.threads)
    page = picture(found, tests).quantize(255, dither=Image.Dither.NONE)
    page.save(RESULTS / f"{args.name}.png", optimize=True)
    write(args.name, report)


def parts(pictures: Sequence[Picture], size: int) -> list[list[Picture]]:
    return [list(pictures[at : at + size]) for at in range(0, len(pictures), size)]


def best(tower: Any, test: Test, pictures: Sequence[Picture]) -> Image.Image:
    """The picture whose labels are nearest to the mix, by the base's own towers."""
    labels = tower.label([p.image for p in pictures], classes=NAMES)
    scores = [jsd(dict(test.mix.weights), dict(each.probabilities)) for each in labels]
    return pictures[min(range(len(scores)), key=scores.__getitem__)].image


if __name__ == "__main__":
    main()
