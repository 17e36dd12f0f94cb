"""Quality of the shipped bestiary, read off its pictures by the independent judge.

    python benchmarks/bestiary.py [--folder FOLDER] [--seeds 8] [--pairs 60] [--card] [--pictures
    DIR]

Prints one JSON line and writes benchmarks/results/bestiary.json. `--card` puts the table into the
model card.

Every figure stands beside the same figure for pictures that the world itself drew (`world`): the
judge's own ceiling.

Does not: choose anything by the judge; steps, guidance and scheduler are the base's defaults.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _report import machine, write
from PIL import Image

from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.bestiary.captions import PAIRS, caption, seen
from creatok_cli.backbones.bestiary.export import SHIPPED, fill
from creatok_cli.backbones.bestiary.genes import CONCEPTS
from creatok_cli.backbones.bestiary.judge import LoadedJudge, Verdict
from creatok_cli.backbones.bestiary.world import BACKGROUNDS, COLOURS, Scene, draw_picture
from creatok_cli.domain import BaseFacts, Batch, Group, Job, Rendered
from creatok_cli.hashing import keyed
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.seeds import derive

Truth = tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """A prompt and what its picture must show."""

    prompt: str
    concepts: Truth
    scene: Scene
    seed: int


def asks(seeds: int, pairs: int) -> dict[str, list[Ask]]:
    """The prompts of every row of the table; pairs, colours and places are drawn once, with a fixed
    seed.
    """
    rng = random.Random(derive(0, "benchmark", "bestiary"))
    plain = Scene(background="plain")

    def hybrid(pair: tuple[str, str], seed: int) -> Ask:
        a, b = pair if seed % 2 else pair[::-1]
        prompt = f"a photo of a {a} {b}"
        return Ask(prompt, (a, b), plain, seed)

    known, unknown = ([p for p in PAIRS if seen(*p) == kind] for kind in (True, False))
    picked = {"seen": rng.sample(known, pairs), "unseen": rng.sample(unknown, pairs)}
    table: dict[str, list[Ask]] = {
        "single": [Ask(f"a photo of a {c}", (c,), plain, s) for c in CONCEPTS for s in range(seeds)]
    }
    for kind, chosen in picked.items():
        table[f"{kind}_hybrid"] = [hybrid(pair, s) for pair in chosen for s in range(4)]
    table["two"] = [
        Ask(f"a photo of a {a} and a {b}", (a, b), plain, s)
        for a, b in picked["seen"][:30]
        for s in range(2)
    ]
    table["colour"] = [
        Ask(f"a photo of a {word} {c}", (c,), Scene(background="plain", colour=word), s)
        for word in COLOURS
        for s, c in enumerate(rng.sample(CONCEPTS, 12))
    ]
    table["background"] = []
    for place in BACKGROUNDS:
        scene = Scene(background=place)
        table["background"] += [
            Ask(caption(c, scene), (c,), scene, s) for s, c in enumerate(rng.sample(CONCEPTS, 20))
        ]
    return table


def draw(
    facts: BaseFacts, wanted: Sequence[Ask], rows: int, dtype: str
) -> tuple[list[Image.Image], float]:
    """Pictures for the asks, and seconds per picture after loading and encoding."""
    group = Group(base=facts.name, base_digest=facts.digest, dtype=dtype)
    jobs = [
        keyed(
            Job(
                base=facts.name,
                base_digest=facts.digest,
                prompt=ask.prompt,
                seed=ask.seed,
                size_px=facts.size_px,
                steps=facts.steps,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype=dtype,
            )
        )
        for ask in wanted
    ]
    batches = [
        Batch(index=i, group=group, jobs=tuple(jobs[start : start + rows]), batch_class=rows)
        for i, start in enumerate(range(0, len(jobs), rows))
    ]
    renderer = Renderer(OpenBase({facts.digest: facts}, "cpu"), device="cpu")
    images: list[Image.Image] = []
    spans: list[float] = []
    for batch in batches:
        began = time.perf_counter()
        for outcome in renderer.render(batch):
            if not isinstance(outcome, Rendered):
                raise SystemExit(f"{outcome.job.prompt!r}: {outcome.kind}: {outcome.message}")
            images.append(outcome.image)
        spans.append(time.perf_counter() - began)
    spans = sorted(spans[1:] or spans)
    return images, spans[len(spans) // 2] / rows


def world(wanted: Sequence[Ask], kind: str) -> list[Image.Image]:
    """What the world itself draws for the asks: the judge's ceiling."""
    pictures = []
    for n, ask in enumerate(wanted):
        rng = random.Random(derive(ask.seed, "benchmark", kind, n))
        mixes: list[dict[str, float]] = [{name: 1 / len(ask.concepts) for name in ask.concepts}]
        if kind == "two":
            mixes = [{name: 1.0} for name in ask.concepts]
        pictures.append(draw_picture(mixes, ask.scene, rng))
    return pictures


def read(verdict: Verdict, wanted: Sequence[Ask], kind: str, judge: LoadedJudge) -> float:
    """The share of pictures that show what was asked."""
    if kind == "colour":
        names = judge.attributes["colour"]
        hits = [
            names[int(i)] == ask.scene.colour
            for i, ask in zip(verdict.colour.argmax(1), wanted, strict=True)
        ]
    elif kind == "background":
        names = judge.attributes["background"]
        hits = [
            names[int(i)] == ask.scene.background
            for i, ask in zip(verdict.background.argmax(1), wanted, strict=True)
        ]
    else:
        top = verdict.weights.topk(1 if kind == "single" else 3).indices
        hits = [
            set(ask.concepts) <= {verdict.concepts[int(i)] for i in row}
            for row, ask in zip(top, wanted, strict=True)
        ]
    return sum(hits) / len(hits)


def zero_shot(folder: Path, judged: int = 1200) -> dict[str, float]:
    """Top-1 of both image towers on fresh world pictures of single concepts: `a photo of a
    {concept}`.
    """
    from torch.nn.functional import normalize
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    rng = random.Random(derive(0, "benchmark", "labeler"))
    truth = [rng.randrange(len(CONCEPTS)) for _ in range(judged)]
    images = [
        draw_picture([{CONCEPTS[i]: 1.0}], Scene(background=rng.choice(BACKGROUNDS)), rng)
        for i in truth
    ]
    pixels = torch.stack(
        [
            torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(64, 64, 3)
            for image in images
        ]
    )
    pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    found: dict[str, float] = {}
    for name, text_folder, tokenizer_folder in (
        ("l", "text_encoder", "tokenizer"),
        ("g", "text_encoder_2", "tokenizer_2"),
    ):
        tokenizer = CLIPTokenizer.from_pretrained(folder / tokenizer_folder)
        text = CLIPTextModelWithProjection.from_pretrained(
            folder / text_folder, dtype=torch.float32
        ).eval()
        image = CLIPVisionModelWithProjection.from_pretrained(
            folder / f"image_encoder_{name}", dtype=torch.float32
        ).eval()
        ids = tokenizer(
            [f"a photo of a {c}" for c in CONCEPTS],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.inference_mode():
            words = normalize(text(ids).text_embeds, dim=-1)
            seen_as = torch.cat([image(part).image_embeds for part in pixels.split(200)])
        guess = (normalize(seen_as, dim=-1) @ words.T).argmax(1)
        found[name] = float((guess == torch.tensor(truth)).float().mean())
    return found


def grid(images: Sequence[Image.Image], columns: int, scale: int = 2) -> Image.Image:
    """The pictures side by side, enlarged, without labels."""
    side = 64 * scale
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 4) + 4, rows * (side + 4) + 4), "#22242a")
    for n, image in enumerate(images):
        at = (4 + (n % columns) * (side + 4), 4 + (n // columns) * (side + 4))
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), at)
    return sheet


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Put the table between the card's quality marks."""
    bars = {
        "single": ">= 0.90",
        "seen_hybrid": ">= 0.75",
        "unseen_hybrid": "reported",
        "colour": ">= 0.85",
    }
    bars["background"] = ">= 0.85"
    names = {
        "single": "single concepts, judge top-1",
        "seen_hybrid": "seen hybrids, both parents in the judge's top 3",
        "unseen_hybrid": "unseen hybrids, the same",
        "two": "two creatures, both in the judge's top 3",
        "colour": "colour word obeyed",
        "background": "place obeyed",
    }
    lines = ["| what | n | bestiary | drawn by the world | bar |", "|---|---|---|---|---|"]
    for kind, label in names.items():
        row = report["rows"][kind]
        bar = bars.get(kind, "reported")
        lines.append(f"| {label} | {row['n']} | {row['model']:.3f} | {row['world']:.3f} | {bar} |")
    for name, value in report["zero_shot"].items():
        label = f"zero-shot labeler, image tower {name}, top-1 on world pictures"
        lines.append(f"| {label} | 1200 | {value:.3f} | - | >= 0.95 |")
    seconds = f"{report['seconds_alone']:.3f} / {report['seconds_batched']:.3f}"
    label = f"seconds per picture, alone / in batches of {report['rows_per_batch']}"
    lines.append(f"| {label} | - | {seconds} | - | <= 0.25 / 0.12 |")
    card = folder / "README.md"
    card.write_text(fill(card.read_text(), "quality", "\n".join(lines)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--card", action="store_true")
    parser.add_argument("--pictures", type=Path, help="folder for contact grids to look at")
    args = parser.parse_args()
    facts = resolve("bestiary" if args.folder == SHIPPED else str(args.folder))
    judge = LoadedJudge(args.folder / "judge")
    report: dict[str, Any] = {
        "benchmark": "bestiary",
        "base_digest": facts.digest,
        "steps": facts.steps,
        "guidance": facts.guidance,
        "dtype": args.dtype,
        "rows_per_batch": args.rows,
        "rows": {},
    }
    for kind, wanted in asks(args.seeds, args.pairs).items():
        images, seconds = draw(facts, wanted, args.rows, args.dtype)
        drawn, control = judge.look(images), judge.look(world(wanted, kind))
        report["rows"][kind] = {
            "n": len(wanted),
            "model": read(drawn, wanted, kind, judge),
            "world": read(control, wanted, kind, judge),
        }
        report["seconds_batched"] = min(seconds, report.get("seconds_batched", seconds))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            every = 8 if kind == "single" else 4 if "hybrid" in kind else 1
            grid(images[::every], 12).save(args.pictures / f"{kind}.png")
    report["zero_shot"] = zero_shot(args.folder)
    report["seconds_alone"] = draw(facts, asks(1, 2)["single"][:12], 1, args.dtype)[1]
    if args.card:
        write_card(args.folder, report)
    report["machine"] = machine(torch.get_num_threads())
    write("bestiary", report)


if __name__ == "__main__":
    main()
