"""Few-step LoRAs under their presets' settings: what diffusers draws from the same file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from creatok_cli.backbones import _weights
from creatok_cli.plan.presets import load_base_preset
from tests.contract.test_unet_equality import (
    FAMILIES,
    close,
    ours,
    plain_pipeline,
    same_draws,
    their_scheduler,
    theirs,
)
from tests.fakes.loras import kohya_weights, original

ORIGINAL = partial(original, per_block=2)
"""The tiny UNets have one layer in a block."""
PRESETS: dict[str, Callable[[str], str]] = {
    "hyper-sd15-4": str,
    "lcm-sd15": str,
    "hyper-sdxl-1": ORIGINAL,
    "hyper-sdxl-4": str,
    "lcm-sdxl": str,
    "sdxl-lightning-4": ORIGINAL,
}
"""Preset -> whose names its file has here; UNets are called by either."""


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family][1](tmp_path_factory.mktemp("few") / family)
        return made[family]

    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_a_few_step_preset_draws_what_diffusers_draws(
    name: str,
    tiny_folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset = load_base_preset(name).content
    family = str(preset.base)
    folder = tiny_folders(family)
    pipe = plain_pipeline(family, folder, "fp32")
    weights = kohya_weights(pipe.unet, "lora_unet_", PRESETS[name], rank=3)
    if name == "hyper-sd15-4":  # as a style of one's own, which changes words, too
        weights |= kohya_weights(pipe.text_encoder, "lora_te_", rank=2)
    path = tmp_path / "x.safetensors"
    if PRESETS[name] is str:  # diffusers drops these, under this name
        weights = {key: each for key, each in weights.items() if "add_embedding" not in key}
    save_file(weights, path)
    module, (lora,) = FAMILIES[family][0], preset.loras
    base = module.build(module.Spec(), _weights.resolve(str(folder)), device="cpu", dtype="fp32")
    base.wear([(str(path), lora.scale)])
    options: dict[str, Any] = dict(preset.options)
    how = {"steps": preset.steps, "guidance": preset.guidance, "scheduler": preset.scheduler}
    with same_draws(monkeypatch):
        mine, noise = ours(base, options=tuple(options.items()), **how)
    spacing = {key: value for key, value in options.items() if key == "timestep_spacing"}
    own = pipe.scheduler
    pipe.scheduler = their_scheduler(pipe, str(preset.scheduler), **spacing)
    told = {"num_inference_steps": preset.steps, "guidance_scale": preset.guidance}
    with same_draws(monkeypatch):
        bare = theirs(pipe, noise, eta=options.get("eta"), **told)
    pipe.load_lora_weights(str(path))
    try:
        with same_draws(monkeypatch):
            plain = theirs(pipe, noise, eta=options.get("eta"), **told)
    finally:
        pipe.unload_lora_weights()
        pipe.scheduler = own
    assert len(mine) == preset.steps
    assert close(mine[-1], plain)
    assert (mine[-1] - bare).abs().max() > 0.05
