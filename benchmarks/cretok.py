"""Does a learned token do anything? CreTok on the bestiary against its controls, read by the judge.

    python benchmarks/cretok.py [--columns token creative ...] [--pairs-per-group 32] [--seeds 8]
    [--preset cretok] [--presets cretok-fast ...] [--set KEY=VALUE] [--variant NAME:KEY=VALUE,...]

Every column draws the same held-out pairs with the same seeds on the same base; the order of a pair
in the prompt alternates with the seed. The table says mean and paired bootstrap interval (95 %,
10,000 resamples of pairs) of the token minus each control. Pictures are kept under --work, so
another column draws only its own. Writes results/NAME.json and results/NAME.png.

Why `fusion` stands first: two creatures side by side hold both parents as well, so presence alone
pays for what a hybrid is not. fusion = presence x P(one creature); see scorers/judge.py.

Does not: choose anything by the judge; restarts are chosen by text, on the list's test groups.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _columns import TEMPLATE, WORD, Column, Columns, Settings, preset_settings
from _drawn import Ask, Picture, Studio
from _grid import Row, grid
from _paired import Interval, bootstrap, paired
from _report import RESULTS, machine, write
from PIL import Image

from creatok_cli.backbones.base import set_threads
from creatok_cli.backbones.bestiary.captions import seen
from creatok_cli.backbones.bestiary.world import Scene, draw_picture
from creatok_cli.config import parse_set
from creatok_cli.domain import Job, Provenance, Rendered
from creatok_cli.errors import InputError, MethodDiverged, UnknownName
from creatok_cli.registry import did_you_mean
from creatok_cli.scorers import clip, judge
from creatok_cli.seeds import derive

SCORING_TEXT = "a photo of a {a} {b}"
"""One text for the CLIP score of all columns: what the bestiary's captions call a hybrid."""
SHOWN = ("fusion", "presence", "one", "balance", "novelty", "valid", "jsd", "clip")
Rows = list[dict[str, float]]
Groups = Mapping[str, Sequence[tuple[str, str]]]


class Readings:
    """Judge and CLIP score of pictures."""

    def __init__(self, folder: str) -> None:
        self.judge = judge.build(judge.Spec())
        self.clip = clip.build(clip.Spec(folder=folder, text=SCORING_TEXT))

    def read(self, pictures: Sequence[Picture]) -> Rows:
        images = [picture.image for picture in pictures]
        rows = self.judge.measure(images, [picture.ask.parents for picture in pictures])
        scores = self.clip.score([_rendered(picture) for picture in pictures])
        return [{**row, "clip": score.value} for row, score in zip(rows, scores, strict=True)]

    def vendi(self, pictures: Sequence[Picture]) -> float:
        """Vendi score of at most 300 pictures over their number: 1 where all differ, 1/n where all
        are alike. Kernel: cosine in the base's own image tower (Friedman and Dieng 2023, eq. 3).
        """
        embedded = self.clip.pictures([picture.image for picture in pictures[:300]]).double()
        shares = torch.linalg.eigvalsh(embedded @ embedded.T / len(embedded)).clamp_min(1e-12)
        return float(torch.exp(-(shares * shares.log()).sum())) / len(embedded)


def _rendered(picture: Picture) -> Rendered:
    """A result as the CLIP scorer takes it: labels and pixels count."""
    job = Job(
        base_digest="",
        prompt=picture.ask.prompt,
        seed=picture.ask.seed,
        size_px=picture.image.size,
        steps=1,
        guidance=1.0,
        scheduler="",
        dtype="fp32",
        labels=tuple(zip("ab", picture.ask.parents, strict=True)),
    )
    how = Provenance(device="cpu", batch_class=1, batch_effective=1, seconds=picture.seconds)
    return Rendered(job=job, image=picture.image, provenance=how)


def draw_column(
    groups: Groups, seeds: int, studio: Studio, readings: Readings, name: str, column: Column
) -> list[tuple[str, Picture]]:
    """(group, picture) of all pictures of a column."""
    tagged = [
        (group, ask)
        for group, pairs in groups.items()
        for pair in pairs
        for seed in range(seeds)
        for ask in column.asks(pair, seed)
    ]
    asks = [ask for _, ask in tagged]
    if column.world:
        pictures = [_of_the_world(ask) for ask in asks]
    else:
        pictures = studio.draw(asks, name)
    for turn in range(1, column.best_of):
        # Even offsets keep the order of the pair.
        again = [dataclasses.replace(ask, seed=ask.seed + 1000 * turn) for ask in asks]
        rivals = studio.draw(again, f"{name}, again")
        pictures = [
            max(both, key=lambda picture: readings.clip.score([_rendered(picture)])[0].value)
            for both in zip(pictures, rivals, strict=True)
        ]
    return [(group, picture) for (group, _), picture in zip(tagged, pictures, strict=True)]


def _of_the_world(ask: Ask) -> Picture:
    rng = random.Random(derive(ask.seed, "world", *ask.parents))
    mix = dict.fromkeys(ask.parents, 0.5)
    image = draw_picture([mix], Scene(background="plain"), rng)
    return Picture(ask=ask, image=image, seconds=0.0)


@dataclass(kw_only=True)
class Read:
    """A drawn and read column: figures by group and pair, a list per pair."""

    column: Column
    figures: dict[str, dict[str, dict[tuple[str, str], list[float]]]]
    """Measure -> group -> pair -> values."""
    seconds: float
    vendi: float
    examples: dict[tuple[str, str], Picture]

    def over(self, measure: str, group: str | None) -> dict[tuple[str, str], list[float]]:
        """Values by pair in one group, or in all."""
        groups = self.figures[measure]
        chosen = [groups[group]] if group else groups.values()
        return {pair: values for part in chosen for pair, values in part.items()}

    def mean(self, measure: str, group: str | None) -> Interval:
        return bootstrap(
            [statistics.fmean(values) for values in self.over(measure, group).values()]
        )


def read_column(
    groups: Groups, seeds: int, studio: Studio, readings: Readings, name: str, column: Column
) -> Read:
    drawn = draw_column(groups, seeds, studio, readings, name, column)
    pictures = [picture for _, picture in drawn]
    figures: dict[str, dict[str, dict[tuple[str, str], list[float]]]] = {}
    for (group, picture), row in zip(drawn, readings.read(pictures), strict=True):
        for measure, value in row.items():
            values = figures.setdefault(measure, {}).setdefault(group, {})
            values.setdefault(picture.ask.parents, []).append(value)
    examples: dict[tuple[str, str], Picture] = {}
    for picture in pictures:
        examples.setdefault(picture.ask.parents, picture)
    return Read(
        column=column,
        figures=figures,
        seconds=statistics.median(picture.seconds for picture in pictures),
        vendi=readings.vendi(list(examples.values())),
        examples=examples,
    )


def compare(columns: Mapping[str, Read], claim: str) -> dict[str, Any]:
    """Intervals of the claimed column minus each other one: control -> measure -> group."""
    table: dict[str, Any] = {}
    for name, control in columns.items():
        if name == claim:
            continue
        table[name] = {}
        for measure in SHOWN:
            groups: list[str | None] = [None, *columns[claim].figures[measure]]
            table[name][measure] = {
                group or "all": paired(
                    columns[claim].over(measure, group), control.over(measure, group)
                )
                for group in groups
            }
    return table


def markdown(columns: Mapping[str, Read], gains: Mapping[str, Any], claim: str) -> str:
    """The tables for people."""
    groups = list(columns[claim].figures[SHOWN[0]])
    lines = ["", "Means over all pairs (fusion by group on the right)", ""]
    heads = [*SHOWN, "vendi/n", "s", *(f"fusion {g.removeprefix('proof-')}" for g in groups)]
    lines += [_row(["column", *heads]), _row(["---"] * (len(heads) + 1))]
    for name, read in columns.items():
        cells = [f"{read.mean(measure, None).mean:.3f}" for measure in SHOWN]
        cells += [f"{read.vendi:.2f}", f"{read.seconds:.3f}"]
        cells += [f"{read.mean('fusion', group).mean:.3f}" for group in groups]
        lines.append(_row([name, *cells]))
    lines += ["", f"{claim} minus control, 95 % interval; * excludes zero", ""]
    shown = ("fusion", "presence", "one", "balance", "jsd", "clip")
    heads = [*shown, *(f"fusion {g.removeprefix('proof-')}" for g in groups)]
    lines += [_row(["control", *heads]), _row(["---"] * (len(heads) + 1))]
    for name, by_measure in gains.items():
        cells = [_cell(by_measure[measure]["all"]) for measure in shown]
        cells += [_cell(by_measure["fusion"][group]) for group in groups]
        lines.append(_row([name, *cells]))
    lines += ["", *(f"- {name}: {read.column.note}" for name, read in columns.items())]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(interval: Interval) -> str:
    return f"{interval}{'*' if interval.excludes_zero else ''}"


def numbers(columns: Mapping[str, Read]) -> dict[str, Any]:
    """Everything of the columns that goes into the JSON."""
    found: dict[str, Any] = {}
    for name, read in columns.items():
        column = read.column
        groups: list[str | None] = [None, *read.figures[SHOWN[0]]]
        found[name] = {
            "note": column.note,
            "prompt": column.template,
            "word": column.word,
            "tokens": [token.id for token in column.tokens],
            "seconds_per_picture": round(read.seconds, 4),
            "vendi_per_picture": round(read.vendi, 4),
            "means": {
                measure: {group or "all": _plain(read.mean(measure, group)) for group in groups}
                for measure in SHOWN
            },
            **column.facts,
        }
    return found


def _plain(interval: Interval) -> list[float]:
    return [round(value, 5) for value in (interval.mean, interval.low, interval.high)]


def sheet(columns: Mapping[str, Read], groups: Groups, claim: str) -> Image.Image:
    """The contact sheet: the first pairs of each group, seed 0."""
    order = ("a X Y", "removed", WORD, "initial row", "hybrid", "vocabulary row", "random row")
    names = [name for name in (*order, "centroid", claim) if name in columns]
    titles = {"seen": "captioned as a hybrid in training", "unseen": "never captioned as a hybrid"}
    titles["new"] = "with a concept that no training pair of the token holds"
    shown: dict[str, list[Row]] = {}
    for group, pairs in groups.items():
        short = group.partition("-")[2]
        shown[titles.get(short, short)] = [
            (f"{a} + {b}", [columns[name].examples[a, b].image for name in names])
            for a, b in pairs[:4]
        ]
    note = f"{TEMPLATE}; seed 0 everywhere; the first four pairs of each held-out group"
    return grid("What the learned token changes", note, names, shown, framed=claim)


def chosen(asked: Sequence[str], known: Iterable[str], left_out: Sequence[str]) -> list[str]:
    """The columns to draw. Raises UnknownName."""
    names = list(known)
    for name in (*asked, *left_out):
        if name not in names:
            raise UnknownName(f"--columns: unknown {name!r}; {did_you_mean(name, names)}")
    return [name for name in (asked or names) if name not in left_out]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--columns", nargs="*", default=[], help="all by default")
    parser.add_argument("--without", nargs="*", default=[], help="columns to leave out")
    parser.add_argument("--claim", default="token", help="the column that is compared")
    parser.add_argument("--pairs-per-group", type=int, default=32)
    parser.add_argument("--groups", default="proof-", help="how the groups' names begin")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--training-seeds", type=int, default=3)
    parser.add_argument("--preset", default="cretok", help="of the token")
    parser.add_argument("--presets", nargs="*", default=[], help="more columns")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--variant", action="append", default=[], type=_variant)
    parser.add_argument("--token", action="append", default=[], type=_named)
    parser.add_argument("--name", default="cretok", help="of the files under results/")
    parser.add_argument("--work", type=Path, default=Path("runs/cretok-proof"))
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args()


def _variant(text: str) -> tuple[str, Settings]:
    name, _, values = text.partition(":")
    return name, dict(parse_set(values.split(",")))


def _named(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    return name, file


def held_out(columns: Columns, beginning: str, most: int) -> Groups:
    """The first pairs of each group whose name begins so."""
    found = {
        name: [(row[0], row[1]) for row in rows[:most]]
        for name, rows in columns.pairs.held_out.items()
        if name.startswith(beginning)
    }
    if not found or most < 2:
        raise SystemExit(f"--groups {beginning!r} with {most} pairs: two pairs are the least")
    return found


def main() -> None:
    args = arguments()
    threads = set_threads(args.threads)
    settings = {**preset_settings(args.preset), **parse_set(args.set)}
    others = {f"preset {name}": preset_settings(name) for name in args.presets}
    others |= {name: {**settings, **values} for name, values in args.variant}
    makers = Columns(
        settings,
        args.work,
        training_seeds=args.training_seeds,
        others=others,
        files=dict(args.token),
    )
    groups = held_out(makers, args.groups, args.pairs_per_group)
    studio = Studio(makers.facts, args.work, args.threads)
    readings = Readings(makers.facts.folder)
    known = makers.makers()
    columns: dict[str, Read] = {}
    left_out: dict[str, str] = {}
    for name in chosen(args.columns, known, args.without):
        try:
            column = known[name]()
        except (UnknownName, InputError, MethodDiverged) as error:
            if name == args.claim:
                raise
            left_out[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
            continue
        columns[name] = read_column(groups, args.seeds, studio, readings, name, column)
        print(f"{name}: fusion {columns[name].mean('fusion', None).mean:.3f}", file=sys.stderr)
    report: dict[str, Any] = {
        "benchmark": "cretok",
        "base_digest": makers.facts.digest,
        "steps": makers.facts.steps,
        "guidance": makers.facts.guidance,
        "template": TEMPLATE,
        "scoring_text": SCORING_TEXT,
        "seeds": args.seeds,
        "pair_list": {"name": makers.pairs.name, "digest": makers.pairs.digest},
        "pairs": {
            group: [[a, b, "seen" if seen(a, b) else "unseen"] for a, b in pairs]
            for group, pairs in groups.items()
        },
        "measures": {
            name: {"unit": unit, "range": [0.0, high], "better": better}
            for name, (unit, high, better) in judge.MEASURES.items()
        },
        "left_out": left_out,
        "columns": numbers(columns),
    }
    if args.claim in columns:
        gains = compare(columns, args.claim)
        report["claim"] = args.claim
        report["gains"] = {
            name: {
                measure: {group: _plain(found) for group, found in by_group.items()}
                for measure, by_group in by_measure.items()
            }
            for name, by_measure in gains.items()
        }
        print(markdown(columns, gains, args.claim), file=sys.stderr)
        page = sheet(columns, groups, args.claim).quantize(255, dither=Image.Dither.NONE)
        RESULTS.mkdir(exist_ok=True)
        page.save(RESULTS / f"{args.name}.png", optimize=True)
    report["machine"] = machine(threads)
    write(args.name, report)


if __name__ == "__main__":
    main()
