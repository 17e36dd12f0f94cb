"""The training loop of the bestiary: a resumed run takes the steps of an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from creatok_cli.backbones.bestiary.train import Run, Settings, load_stage
from creatok_cli.seeds import generator


def network() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 16, 16), nn.Linear(16, 4)
    )
    return layers.to(memory_format=torch.channels_last)


def run(folder: Path, steps: int, *, stop: int | None = None) -> dict[str, Tensor]:
    layers = network()
    settings = Settings(steps=steps, batch=5, lr=1e-2, warmup=2, ema=0.9)
    loop = Run(folder, "stage", settings, {"net": layers}, seed=7)

    def loss_of(step: int) -> dict[str, Tensor]:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(5, 3, 6, 6, generator=generator(7, "x", step))
        return {"loss": (layers(x) - 1).square().mean()}

    loop.train(loss_of)
    return {k: v.clone() for k, v in layers.state_dict().items()}


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    expected = run(whole, 12)
    with pytest.raises(KeyboardInterrupt):
        run(parted, 12, stop=5)
    found = run(parted, 12)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_averaged_weights_are_what_is_loaded_for_use(tmp_path: Path) -> None:
    trained = run(tmp_path, 12)
    loaded = network()
    load_stage(tmp_path, "stage", {"net": loaded})
    assert not any(p.requires_grad for p in loaded.parameters())
    assert any(not torch.equal(trained[name], value) for name, value in loaded.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, 4)
    kept = (tmp_path / "stage.safetensors").read_bytes()
    loop = Run(tmp_path, "stage", Settings(steps=8, batch=5, lr=1e-2), {"net": network()}, seed=7)
    with pytest.raises(RuntimeError, match="not finite at step 4"):
        loop.train(lambda step: {"loss": torch.tensor(float("nan"), requires_grad=True)})
    assert (tmp_path / "stage.safetensors").read_bytes() == kept
