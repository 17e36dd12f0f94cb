"""Does exploring find creatures that nobody asked for, and are they creatures? By the judge.

    python benchmarks/explore.py [--parts distok conceptlab lowprob curve] [--work DIR]

distok: 64 random latents of three laws against 64 random mixes, 60 plain classes and the finds of
ConceptLab. conceptlab: 8 runs with two negatives each. lowprob: one setting left out at a time.
curve: rarity from .5 to .9999. Fresh seeds throughout, the same in every row. Runs and pictures
are kept under --work, so the same command goes on. Writes results/explore-PART.json and pictures.

Does not: choose anything by the judge.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _explored import (
    FIRST_FRESH,
    ColourShare,
    Explored,
    Reader,
    Subject,
    chunks,
    open_bestiary,
    pictures,
    run,
    unrest,
)
from _grid import grid
from _paired import bootstrap
from _report import RESULTS, machine, write
from PIL import Image

from creatok_cli.backbones.base import Backbone
from creatok_cli.backbones.bestiary.world import CONCEPTS
from creatok_cli.concepts.mixes import make_mix
from creatok_cli.methods import distok
from creatok_cli.methods._rarity import Baseline
from creatok_cli.scorers._diverse import cosine_distances, mean_pairwise, vendi
from creatok_cli.seeds import derive
from creatok_cli.tokens.file import load_token, save_token
from creatok_cli.tokens.network import Network
from creatok_cli.tokens.token import Rows, Token
from creatok_cli.workflows._prepared import made_before, prepared_recipe
from creatok_cli.workflows._quest import QuestRequest, settle
from creatok_cli.workflows._training import TrainRequest, known_network, settle_training

NAMES = tuple(CONCEPTS)
LAWS = ("gaussian", "laplace", "cauchy")
PLAIN = "a photo of a creature"
CLAIM = "preset"
ABLATIONS: Mapping[str, tuple[str, ...]] = {
    CLAIM: (),
    "no anchor": ("anchor=0", "floor=none"),
    "no validator": ("accept=0",),
    "no anchor, no validator": ("anchor=0", "floor=none", "accept=0"),
    "colours count": ("colours=count",),
    "unbounded loss": ("loss=literal",),
    "no heading": ("heading=0",),
    "LoRA": ("train=lora",),
    "token and LoRA": ("train=both",),
}
"""Row -> settings that differ from the preset for the bestiary."""
RARITY = 0.99
CURVE = (0.5, 0.9, 0.99, 0.999, 0.9999)
UNLIKE = (
    *(("cat", "dog"), ("owl", "bee"), ("pig", "snake"), ("dragon", "lion")),
    *(("frog", "crab"), ("rabbit", "fox"), ("cow", "horse"), ("elephant", "duck")),
)


def fresh(count: int) -> list[int]:
    return list(range(FIRST_FRESH, FIRST_FRESH + count))


def mean_of(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return round(statistics.fmean(row[key] for row in rows), 4)


def different(backbone: Backbone, images: Sequence[Image.Image]) -> dict[str, float]:
    """Mean pairwise cosine distance, and the Vendi score over the number of pictures."""
    assert backbone.prior is not None
    rows = backbone.prior.pictures(images)
    kernel = rows.double() @ rows.double().T
    return {
        "pairwise": round(mean_pairwise(cosine_distances(rows)), 4),
        "vendi": round(vendi(kernel) / len(images), 4),
    }


# distok


def shipped_network() -> Network:
    known = known_network(settle_training(TrainRequest()), may_train=False)
    assert known.network is not None
    return known.network


def token_of(rows: Mapping[str, Rows], word: str) -> Token:
    vectors = {
        name: torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
        for name, (shape, data) in rows.items()
    }
    return Token(word, "creature", vectors, {"kind": "benchmark"})


def latents(network: Network, law: str, count: int, folder: Path) -> list[Subject]:
    """Tokens of random latents."""
    drawn = distok.draw_latents(network, law, seed=1, count=count)
    return [
        _kept(token_of(distok.decode(network, latent), f"<{law}-{at}>"), folder)
        for at, latent in enumerate(drawn)
    ]


def mixes(network: Network, count: int, folder: Path) -> list[Subject]:
    """Tokens of random distributions over 2 to 4 classes."""
    dice, found = random.Random(derive(2026, "explore", "mixes")), []
    for at in range(count):
        names = dice.sample(NAMES, 2 + at % 3)
        mix, _ = make_mix([(name, dice.random() + 0.1) for name in names], where="benchmark")
        parts = [(weight, distok.class_row(network, name)) for name, weight in mix.weights]
        found.append(_kept(token_of(distok.fuse(network, parts), f"<mix-{at}>"), folder))
    return found


def _kept(token: Token, folder: Path) -> Subject:
    name = token.word.strip("<>")
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_token(path, token)
    return Subject(name=name, prompt=f"a photo of a {token.word}", word=token.word, token=path)


def part_distok(args: argparse.Namespace, backbone: Backbone, reader: Reader) -> dict[str, Any]:
    network, count = shipped_network(), args.latents
    work = args.work / "distok"
    ways: dict[str, list[Subject]] = {
        law: latents(network, law, count, work / law / "tokens") for law in LAWS
    }
    ways["random mixes"] = mixes(network, count, work / "mixes" / "tokens")
    ways["plain classes"] = [Subject(name=name, prompt=f"a photo of a {name}") for name in NAMES]
    labs = [subject for each in concept_runs(args) for subject in each.subjects()]
    table: dict[str, Any] = {}
    shown: dict[str, list[Image.Image]] = {}
    for name, subjects in ways.items():
        drawn = pictures(subjects, fresh(2), work / name.replace(" ", "-"))
        table[name] = _row(backbone, reader, drawn, [images[0] for images in drawn.values()])
        shown[name] = [images[0] for images in drawn.values()]
        print(name, table[name], flush=True)
    if labs:
        drawn = pictures(labs, fresh(8), work / "conceptlab")
        every = [image for images in drawn.values() for image in images]
        table["conceptlab, 8 runs"] = _row(backbone, reader, drawn, every)
        shown["conceptlab, 8 runs"] = [image for images in drawn.values() for image in images[:1]]
    page = grid(
        "Random latents beside their controls",
        "the first ones of every row; nothing is chosen",
        [str(at + 1) for at in range(8)],
        {"": [(name, images[:8]) for name, images in shown.items()]},
    )
    page.quantize(255, dither=Image.Dither.NONE).save(RESULTS / "explore-distok.png", optimize=True)
    return {"latents": count, "seeds": 2, "rows": table}


def _row(
    backbone: Backbone,
    reader: Reader,
    drawn: Mapping[str, Sequence[Image.Image]],
    compared: Sequence[Image.Image],
) -> dict[str, Any]:
    """Shares with intervals over subjects; difference between `compared` pictures."""
    per: dict[str, list[float]] = {}
    for images in drawn.values():
        read = reader.read(images)
        for key in ("valid", "novel", "valid_and_novel", "one", "novelty"):
            per.setdefault(key, []).append(statistics.fmean(row[key] for row in read))
    found: dict[str, Any] = {}
    for key, values in per.items():
        interval = bootstrap(values)
        found[key] = [round(v, 4) for v in (interval.mean, interval.low, interval.high)]
    return {**found, **different(backbone, compared), "subjects": len(drawn)}


# conceptlab


def concept_runs(args: argparse.Namespace) -> list[Explored]:
    """One run for each pair of negatives."""
    found = []
    for at, unlike in enumerate(UNLIKE[: args.runs]):
        folder = args.work / "conceptlab" / "-".join(unlike)
        request = QuestRequest(
            method="conceptlab", like=("a creature",), unlike=unlike, seed=at, out=folder
        )
        found.append(run(request, folder))
    return found


def part_conceptlab(args: argparse.Namespace, backbone: Backbone, reader: Reader) -> dict[str, Any]:
    """The judge's weight of every negative against what the plain prompt gives it."""
    plain = pictures(
        [Subject(name="plain", prompt=PLAIN)], fresh(64), args.work / "conceptlab" / "plain"
    )["plain"]
    usual = {
        name: statistics.fmean(row[name] for row in reader.weights(plain))
        for name in {name for unlike in UNLIKE for name in unlike}
    }
    rows, shown = [], []
    for explored, unlike in zip(concept_runs(args), UNLIKE, strict=False):
        for subject in explored.subjects():
            images = pictures([subject], fresh(16), explored.folder / "fresh")[subject.name]
            weights, read = reader.weights(images), reader.read(images)
            tops = [max(row, key=lambda name: row[name]) for row in weights]
            rows.append(
                {
                    "unlike": list(unlike),
                    "weight_of_negatives": {
                        name: round(statistics.fmean(row[name] for row in weights), 4)
                        for name in unlike
                    },
                    "weight_in_plain": {name: round(usual[name], 4) for name in unlike},
                    "valid": mean_of(read, "valid"),
                    "novelty": mean_of(read, "novelty"),
                    "top_class": max(set(tops), key=tops.count),
                    "seconds": explored.seconds,
                    **different(backbone, images),
                }
            )
            shown.append((f"unlike {', '.join(unlike)}", images[:8]))
            print(rows[-1], flush=True)
    below = [
        row["weight_of_negatives"][name] <= row["weight_in_plain"][name]
        for row in rows
        for name in row["unlike"]
    ]
    page = grid(
        "ConceptLab: like a creature, unlike two of its kind",
        "fresh seeds, nothing is chosen; the last row is the plain prompt",
        [str(at + 1) for at in range(8)],
        {"": [*shown, ("plain", plain[:8])]},
    )
    page.quantize(255, dither=Image.Dither.NONE).save(
        RESULTS / "explore-conceptlab.png", optimize=True
    )
    tops = [row["top_class"] for row in rows]
    return {
        "runs": rows,
        "negatives_below_plain": round(statistics.fmean(below), 4),
        "valid": mean_of(rows, "valid"),
        "plain": {key: mean_of(reader.read(plain), key) for key in ("valid", "novelty")},
        "repeated_top_classes": len(tops) - len(set(tops)),
        "seconds_median": statistics.median(row["seconds"] for row in rows),
    }


# lowprob


class Plain:
    """The plain prompt: its cloud as the searches see it, and pictures of it."""

    def __init__(self, args: argparse.Namespace, backbone: Backbone) -> None:
        self.images = pictures(
            [Subject(name="plain", prompt=PLAIN)], fresh(args.plain), args.work / "plain"
        )["plain"]
        assert backbone.prior is not None
        self.calm = 2 * max(unrest(image) for image in self.images)
        """A frame twice as restless as that of any plain picture is no creature on its ground."""
        self.colours = ColourShare(backbone.prior.pictures(self.images), self.images, axes=16)


def low_request(
    args: argparse.Namespace, sets: Sequence[str], rarity: float, out: Path
) -> QuestRequest:
    return QuestRequest(
        method="lowprob",
        prompt=PLAIN,
        settings={"rarity": rarity},
        sets=tuple(sets),
        strands=args.strands,
        out=out,
        replace=True,
    )


def read_low(
    args: argparse.Namespace,
    backbone: Backbone,
    reader: Reader,
    plain: Plain,
    sets: Sequence[str],
    rarity: float,
    folder: Path,
) -> tuple[dict[str, Any], list[Image.Image]]:
    """One row of the table, and its first pictures."""
    request = low_request(args, sets, rarity, folder)
    explored = run(request, folder)
    pursuit = settle(request)
    known, _ = made_before(prepared_recipe(pursuit))
    assert known is not None
    assert backbone.prior is not None
    assert backbone.text is not None
    spec, prior = pursuit.spec, backbone.prior
    grey = spec.colours == "ignore"
    cloud = Baseline(known.tensors["grey" if grey else "embeddings"], spec.axes)
    low, high = cloud.shell(rarity)
    medians, full, shares, read, shown = [], [], [], [], []
    subjects = explored.subjects()
    strands = len(list((folder / "checks").iterdir()))
    for subject in subjects:
        images = pictures([subject], fresh(16), folder / "fresh" / subject.name)[subject.name]
        rows = prior.pictures(images, grey=grey).cpu()
        full.append(float(cloud.gaussian.distance(rows).median()))
        if subject.lora is None and subject.token is not None:
            with torch.no_grad():
                cond = backbone.text.encode([subject.prompt], [load_token(subject.token)])
                few = torch.cat(
                    [prior.sample(cond, seeds=seeds, grey=grey) for seeds in chunks(fresh(16), 8)]
                )
            medians.append(float(cloud.gaussian.distance(few.cpu()).median()))
        shares.append(plain.colours.of(prior.pictures(images), images))
        for row, image in zip(reader.read(images), images, strict=True):
            row["whole"] = row["valid"] * float(unrest(image) <= plain.calm)
            read.append(row)
        shown += images[: 8 // len(subjects)]
    own = medians or full
    row = {
        "finds": len(subjects),
        "strands": strands,
        "shell": [round(low, 2), round(high, 2)],
        "median_d2": [round(value, 2) for value in own],
        "rarity_reached": [round(cloud.rarity(value), 5) for value in own],
        "median_d2_full_steps": [round(value, 2) for value in full],
        "rarity_full_steps": [round(cloud.rarity(value), 5) for value in full],
        "in_shell_or_beyond": [value >= low for value in own],
        "valid": mean_of(read, "whole") if read else None,
        "one": mean_of(read, "one") if read else None,
        "novelty": mean_of(read, "novelty") if read else None,
        "spread": mean_of(read, "spread") if read else None,
        "colour_share": round(statistics.fmean(shares), 4) if shares else None,
        "seconds_per_strand": round(explored.seconds / strands, 1),
        "ended": [find["facts"].get("ended") for find in explored.document["finds"]],
    }
    print(folder.name, row, flush=True)
    return row, shown


def part_lowprob(args: argparse.Namespace, backbone: Backbone, reader: Reader) -> dict[str, Any]:
    plain = Plain(args, backbone)
    table, shown = {}, []
    for name, sets in ABLATIONS.items():
        if args.rows and name not in args.rows:
            continue
        folder = args.work / "lowprob" / name.replace(", ", "-").replace(" ", "-")
        table[name], images = read_low(args, backbone, reader, plain, sets, RARITY, folder)
        shown.append((name, images))
    _save_rows("lowprob", f"lowprob at rarity {RARITY}", shown, plain)
    return {"rarity": RARITY, "rows": table, "plain": _plain_row(plain, reader)}


def part_curve(args: argparse.Namespace, backbone: Backbone, reader: Reader) -> dict[str, Any]:
    plain = Plain(args, backbone)
    rows, shown = [], []
    for rarity in CURVE:
        # The point at RARITY is the claim of the table.
        name = CLAIM if rarity == RARITY else str(rarity)
        folder = args.work / ("lowprob" if rarity == RARITY else "curve") / name
        row, images = read_low(args, backbone, reader, plain, (), rarity, folder)
        rows.append({"rarity": rarity, **row})
        shown.append((str(rarity), images))
    _save_rows("curve", "From usual to rare", shown, plain)
    _curve_figure(rows, _plain_row(plain, reader))
    return {"rows": rows, "plain": _plain_row(plain, reader)}


def _plain_row(plain: Plain, reader: Reader) -> dict[str, float]:
    read = reader.read(plain.images)
    for row, image in zip(read, plain.images, strict=True):
        row["valid"] *= float(unrest(image) <= plain.calm)
    keys = ("valid", "one", "novelty", "spread")
    return {
        **{key: mean_of(read, key) for key in keys},
        "colours_explain": round(plain.colours.explained, 4),
        "pictures": len(plain.images),
    }


def _save_rows(
    name: str, title: str, shown: Sequence[tuple[str, Sequence[Image.Image]]], plain: Plain
) -> None:
    columns = [str(at + 1) for at in range(8)]
    rows = [
        ("plain prompt", plain.images[:8]),
        *((said, images) for said, images in shown if images),
    ]
    page = grid(title, "fresh seeds, nothing is chosen", columns, {"": rows})
    page.quantize(255, dither=Image.Dither.NONE).save(
        RESULTS / f"explore-{name}.png", optimize=True
    )


def _curve_figure(rows: Sequence[Mapping[str, Any]], plain: Mapping[str, float]) -> None:
    """Validity and novelty over the asked rarity, on a scale of nines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = [row for row in rows if row["valid"] is not None]
    labels = ["plain", *(f"{row['rarity']:g}" for row in points)]
    figure, axis = pyplot.subplots(figsize=(7, 4), dpi=120)
    for key, said in (("valid", "one valid creature"), ("novelty", "novelty: 1 - largest weight")):
        values = [plain[key], *(row[key] for row in points)]
        axis.plot(range(len(values)), values, marker="o", label=said)
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlabel("asked rarity: share of plain pictures that are less rare")
    axis.set_ylabel("read by the independent judge")
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(RESULTS / "explore-curve-figure.png")


PARTS: Mapping[str, Callable[[argparse.Namespace, Backbone, Reader], dict[str, Any]]] = {
    "conceptlab": part_conceptlab,
    "distok": part_distok,
    "lowprob": part_lowprob,
    "curve": part_curve,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rows", nargs="+", choices=list(ABLATIONS), help="of lowprob's table")
    parser.add_argument("--work", type=Path, default=Path("runs/explore-proof"))
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--runs", type=int, default=len(UNLIKE), help="of ConceptLab")
    parser.add_argument("--strands", type=int, default=2)
    parser.add_argument("--plain", type=int, default=400, help="pictures of the plain prompt")
    args = parser.parse_args()
    args.work = args.work.resolve()
    os.environ["CREATOK_HOME"] = str(args.work / "home")
    torch.set_num_threads(1)
    backbone, reader = open_bestiary(), Reader()
    for part in args.parts:
        report = {
            "benchmark": f"explore-{part}",
            "base_digest": backbone.facts.digest,
            **PARTS[part](args, backbone, reader),
            "machine": machine(1),
        }
        write(f"explore-{part}", report)


if __name__ == "__main__":
    main()
