"""Pictures of the world on disk, as the trainings read them.

Picture i is a function of (seed, i) alone, so that a longer set begins with the shorter one.
Pictures lie in one flat file of bytes that is mapped into memory; labels lie in one safetensors
file.

Does not: augment or shuffle; a training step addresses its rows by `derive(seed, stage, step)`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from creatok_cli.backbones.bestiary.captions import Example, draw_example, mixture_of
from creatok_cli.backbones.bestiary.genes import CONCEPTS
from creatok_cli.backbones.bestiary.world import (
    BACKGROUNDS,
    COLOURS,
    SIZE_PX,
    STYLES,
    Mix,
    Scene,
    draw_picture,
)
from creatok_cli.seeds import derive

ROW_BYTES = SIZE_PX * SIZE_PX * 3
COLOUR_NAMES = ("", *COLOURS)
ATTRIBUTES = {
    "background": BACKGROUNDS,
    "colour": COLOUR_NAMES,
    "style": STYLES,
    "creatures": ("one", "two"),
}
"""What a picture shows beside its concepts; `attributes[:, j]` indexes the j-th row."""


@dataclass(frozen=True)
class Pictures:
    """n pictures with their truth.

    pixels [n 64 64 3] uint8; weights [n 60] f32, rows sum to 1; attributes [n 4] uint8 (see
    ATTRIBUTES); caption [n] int64 indexes `captions`, the unique captions in order of appearance.
    `captions[0]` is the empty caption.
    """

    pixels: Tensor
    weights: Tensor
    attributes: Tensor
    caption: Tensor
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, rows: Tensor) -> Tensor:
        """The pictures as [b 3 64 64] f32 in [-1, 1]."""
        return self.pixels[rows].permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def judged_example(rng: random.Random) -> Example:
    """What the judge learns from: captions play no part, and no pair is left out.

    35 % single concepts, 30 % halves of any two, 25 % uneven mixtures of two to four (uniform over
    the simplex), 10 % two creatures side by side.
    """
    kind = rng.random()
    count = 1 if kind < 0.35 else 2 if kind < 0.65 or kind >= 0.9 else rng.randint(2, 4)
    names = rng.sample(CONCEPTS, count)
    shares = [rng.expovariate(1.0) if 0.65 <= kind < 0.9 else 1.0 for _ in names]
    mix = {name: share / sum(shares) for name, share in zip(names, shares, strict=True)}
    subjects: tuple[Mix, ...] = tuple({name: 1.0} for name in names) if kind >= 0.9 else (mix,)
    scene = Scene(
        background=rng.choice(BACKGROUNDS),
        colour=rng.choice(tuple(COLOURS)) if rng.random() < 0.15 else None,
        style="photo" if rng.random() < 0.75 else rng.choice(STYLES),
    )
    return Example(caption="", subjects=subjects, scene=scene)


EXAMPLES = {"captioned": draw_example, "judged": judged_example}


def _draw(job: tuple[int, int, str]) -> tuple[bytes, str, dict[str, float], tuple[int, ...]]:
    seed, index, kind = job
    rng = random.Random(derive(seed, "world" if kind == "captioned" else kind, index))
    example = EXAMPLES[kind](rng)
    picture = draw_picture(example.subjects, example.scene, rng)
    scene = example.scene
    attributes = (
        BACKGROUNDS.index(scene.background),
        COLOUR_NAMES.index(scene.colour or ""),
        STYLES.index(scene.style),
        len(example.subjects) - 1,
    )
    return picture.tobytes(), example.caption, mixture_of(example), attributes


def draw_pictures(
    folder: Path, *, seed: int, count: int, workers: int = 1, kind: str = "captioned"
) -> Pictures:
    """Draw `count` pictures into `folder`, unless they are there already, and open them.

    `kind` is a name in EXAMPLES.
    """
    pixels, labels, texts = (
        folder / name for name in ("pixels.u8", "labels.safetensors", "captions.json")
    )
    if not texts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights = torch.zeros(count, len(CONCEPTS))
        attributes = torch.zeros(count, len(ATTRIBUTES), dtype=torch.uint8)
        caption = torch.zeros(count, dtype=torch.int64)
        known: dict[str, int] = {"": 0}
        column = {name: j for j, name in enumerate(CONCEPTS)}
        with get_context("spawn").Pool(workers) as pool, pixels.open("wb") as file:
            jobs = ((seed, index, kind) for index in range(count))
            for row, (data, text, mix, attribute) in enumerate(
                pool.imap(_draw, jobs, chunksize=256)
            ):
                file.write(data)
                caption[row] = known.setdefault(text, len(known))
                attributes[row] = torch.tensor(attribute, dtype=torch.uint8)
                for name, weight in mix.items():
                    weights[row, column[name]] = weight
        save_file({"weights": weights, "attributes": attributes, "caption": caption}, labels)
        texts.write_text(json.dumps(list(known)))
    table = load_file(labels)
    rows = len(table["caption"])
    flat = torch.from_file(str(pixels), shared=False, size=rows * ROW_BYTES, dtype=torch.uint8)
    return Pictures(
        pixels=flat.view(rows, SIZE_PX, SIZE_PX, 3),
        weights=table["weights"],
        attributes=table["attributes"],
        caption=table["caption"],
        captions=tuple(json.loads(texts.read_text())),
    )
