"""The network that comes with the bestiary: found without training, and better than no network."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from creatok_cli.backbones.bestiary.export import SHIPPED
from creatok_cli.cli.app import run
from creatok_cli.concepts.classes import load_classes
from creatok_cli.scorers import judge
from creatok_cli.workflows._training import TrainRequest, known_network, settle_training

MIXES = (
    {"pig": 0.5, "snake": 0.5},
    {"fox": 0.5, "bee": 0.5},
    {"crab": 0.5, "cat": 0.5},
    {"owl": 0.9, "dragon": 0.1},
)
SEEDS = 3


def test_it_is_what_the_plain_command_would_train() -> None:
    training = settle_training(TrainRequest())
    found = known_network(training, may_train=False).network
    assert found is not None
    assert Path(found.path) == SHIPPED / "networks" / "distok.safetensors"
    assert found.classes == load_classes("bestiary").classes
    assert found.recipe["labeler"]["name"] == "clip"
    assert found.pool_size > 0


def test_fused_creatures_have_their_weights_more_than_their_heaviest_concept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sheet = {f"m{at}": mix for at, mix in enumerate(MIXES)}
    Path("mixes.yaml").write_text(json.dumps({"creatures": sheet}))
    words = ["fuse", "--sheet", "mixes.yaml", "--render", str(SEEDS), "--out", "drawn"]
    assert run([*words, "--device", "cpu", "-q"]) == 0
    looked = judge.build(judge.Spec())
    apart, alone = [], []
    for at, mix in enumerate(MIXES):
        paths = sorted(Path("drawn/pictures").glob(f"m{at}/*.png"))
        assert len(paths) == SEEDS
        images = [Image.open(path).convert("RGB") for path in paths]
        for label in looked.label(images):
            apart.append(jsd(mix, dict(label.probabilities)))
            alone.append(jsd(mix, {max(mix, key=lambda name: mix[name]): 1.0}))
    assert sum(apart) / len(apart) < sum(alone) / len(alone)


def jsd(p: dict[str, float], q: dict[str, float]) -> float:
    total = 0.0
    for name in {*p, *q}:
        a, b = p.get(name, 0.0), q.get(name, 0.0)
        total += sum(x * math.log(2 * x / (a + b)) for x in (a, b) if x)
    return total / 2
