"""The shipped base: plain diffusers draws the same creatures, and the judge recognises them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.bestiary.export import SHIPPED
from creatok_cli.backbones.bestiary.judge import LoadedJudge
from creatok_cli.domain import Batch, Group, Job, Rendered
from creatok_cli.hashing import keyed
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.seeds import generator

GOLDEN = Path(__file__).parents[1] / "golden" / "bestiary"
CONCEPTS = ("pig", "owl", "zebra", "crab", "cactus", "mushroom", "tiger", "penguin")


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image.Image]:
    """One picture of each concept, by creatok."""
    facts = resolve("bestiary")
    jobs = tuple(
        keyed(
            Job(
                base_digest=facts.digest,
                prompt=f"a photo of a {name}",
                seed=seed,
                size_px=facts.size_px,
                steps=facts.steps,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype="fp32",
            )
        )
        for seed, name in enumerate(CONCEPTS)
    )
    group = Group(base="bestiary", base_digest=facts.digest, dtype="fp32")
    batch = Batch(index=0, group=group, jobs=jobs, batch_class=8)
    outcomes = Renderer(OpenBase({facts.digest: facts}, "cpu")).render(batch)
    pictures = [outcome.image for outcome in outcomes if isinstance(outcome, Rendered)]
    return dict(zip(CONCEPTS, pictures, strict=True))


def levels(a: Image.Image, b: Image.Image) -> tuple[float, int]:
    """(mean, largest) difference in 8-bit levels."""
    difference = ImageChops.difference(a, b)
    largest = max(high for _, high in difference.getextrema())
    return sum(ImageStat.Stat(difference).mean) / 3, largest


def test_the_folder_is_small_and_holds_data_only() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 60_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}


@pytest.mark.parametrize("part", ["", "_2"])
def test_the_end_token_has_the_largest_id(part: str) -> None:
    config = json.loads((SHIPPED / f"text_encoder{part}" / "config.json").read_text())
    assert config["eos_token_id"] == config["vocab_size"] - 1 != 2


def test_plain_diffusers_draws_the_same_creatures(drawn: dict[str, Image.Image]) -> None:
    """With the calling arguments that the model card names, and the same noise."""
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(
        SHIPPED, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    for seed, name in list(enumerate(CONCEPTS))[:3]:
        noise = torch.randn(1, 8, 16, 16, generator=generator(seed, "noise"))
        picture = pipe(
            f"a photo of a {name}",
            num_inference_steps=8,
            guidance_scale=4.0,
            height=64,
            width=64,
            max_sequence_length=0,
            latents=noise,
        ).images[0]
        mean, largest = levels(picture, drawn[name])
        assert mean < 0.1, name
        assert largest <= 3, name


def test_the_judge_recognises_every_creature(drawn: dict[str, Image.Image]) -> None:
    verdict = LoadedJudge(SHIPPED / "judge").look(list(drawn.values()))
    seen = [verdict.concepts[int(row)] for row in verdict.weights.argmax(1)]
    assert seen == list(CONCEPTS)


def test_the_pictures_are_the_golden_ones(
    drawn: dict[str, Image.Image], update_golden: bool, tmp_path: Path
) -> None:
    """Bounded, not equal: normal draws and sums differ between instruction sets."""
    sheet = Image.new("RGB", (64 * len(drawn), 64))
    for column, picture in enumerate(drawn.values()):
        sheet.paste(picture, (64 * column, 0))
    file = GOLDEN.with_suffix(".png")
    if update_golden:
        sheet.save(file)
    golden = Image.open(file).convert("RGB")
    mean, _ = levels(sheet, golden)
    if mean >= 1.0:
        sheet.save(tmp_path / "found.png")
    assert mean < 1.0, f"look at {tmp_path / 'found.png'} beside {file}"
