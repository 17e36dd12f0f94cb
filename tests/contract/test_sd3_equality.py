"""The SD3 adapter draws what diffusers' own pipeline draws from the same folder and latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli.backbones import _weights, sd3
from creatok_cli.backbones.base import Start
from creatok_cli.seeds import generator
from tests.tiny import PROMPTS

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def plain_pipeline(folder: Path, dtype: str) -> Any:
    from diffusers import StableDiffusion3Pipeline

    lacks_t5 = not (folder / "text_encoder_3").is_dir()
    pipe = StableDiffusion3Pipeline.from_pretrained(
        folder,
        dtype=KINDS[dtype],
        local_files_only=True,
        use_safetensors=True,
        **({"text_encoder_3": None, "tokenizer_3": None} if lacks_t5 else {}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


PLAIN: dict[str, Any] = {}
T5: dict[str, Any] = {"t5": True}
MEDIUM: dict[str, Any] = {
    "transformer": {
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
        "pos_embed_max_size": 384,
    }
}
"""SD3.5 medium; large has the norm alone."""
LARGE: dict[str, Any] = {
    "transformer": {"qk_norm": "rms_norm", "pos_embed_max_size": 192},
    "zero_rows": None,
}
CASES = [
    (PLAIN, "fp32", 4.0, "flow-match-euler"),
    (PLAIN, "bf16", 4.0, "flow-match-euler"),
    (PLAIN, "fp32", 1.0, "flow-match-euler"),
    (PLAIN, "fp32", 3.0, "flow-match-heun"),
    (PLAIN, "bf16", 3.0, "flow-match-heun"),
    (T5, "fp32", 4.0, "flow-match-euler"),
    (T5, "bf16", 4.0, "flow-match-euler"),
    ({"legacy_eos": True}, "fp32", 4.0, "flow-match-euler"),
    ({"zero_rows": None}, "fp32", 4.0, "flow-match-euler"),
    ({"zero_rows": 1}, "fp32", 4.0, "flow-match-euler"),
    ({"dtype": "float16"}, "fp32", 4.0, "flow-match-euler"),
    ({"scheduler": {"use_dynamic_shifting": True}}, "fp32", 4.0, "flow-match-euler"),
    ({"scheduler": {"use_karras_sigmas": True}}, "fp32", 4.0, "flow-match-euler"),
    (MEDIUM | T5, "fp32", 4.0, "flow-match-euler"),
    (MEDIUM, "bf16", 4.0, "flow-match-heun"),
    (LARGE, "fp32", 4.0, "flow-match-euler"),
    (LARGE, "fp32", 0.0, "flow-match-euler"),  # as large turbo is drawn
]


@pytest.mark.parametrize(("variant", "dtype", "guidance", "scheduler"), CASES, ids=str)
def test_latents_are_identical(
    tiny_folders: Callable[..., Path],
    variant: dict[str, Any],
    dtype: str,
    guidance: float,
    scheduler: str,
) -> None:
    folder = tiny_folders(**variant)
    facts = _weights.resolve(str(folder))
    pipe = plain_pipeline(folder, dtype)
    if scheduler == "flow-match-heun":
        from diffusers import FlowMatchHeunDiscreteScheduler

        pipe.scheduler = FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config)
    backbone = sd3.build(sd3.Spec(), facts, device="cpu", dtype=dtype)
    seeds = list(range(len(PROMPTS)))
    with torch.inference_mode():
        cond, negative = backbone.text.encode(PROMPTS, []), backbone.text.encode(["red"] * 8, [])
        noise = backbone.image.noise(seeds, (48, 32))
        assert noise.shape == (8, 4, 8, 12)
        steps = list(
            backbone.image.denoise(
                noise,
                cond,
                negative=negative,
                steps=3,
                guidance=guidance,
                scheduler=scheduler,
                options=(),
                seeds=seeds,
            )
        )
        pixels = backbone.image.decode(steps[-1])
    rows = {None: 256}.get(variant.get("zero_rows", 0), variant.get("zero_rows", 0))
    wanted = {
        "prompt": PROMPTS,
        "negative_prompt": ["red"] * 8,
        "num_inference_steps": 3,
        "guidance_scale": guidance,
        "width": 48,
        "height": 32,
        "max_sequence_length": 256 if variant.get("t5") else rows,
        "latents": noise.clone(),
    }
    latents = pipe(**wanted, output_type="latent").images
    assert len(steps) == 3
    assert torch.equal(steps[-1], latents)
    shown = pipe(**wanted | {"latents": noise.clone()}, output_type="pt").images.float()
    # The decoder runs channels_last here: other kernels, the same picture.
    tolerance = 1e-5 if dtype == "fp32" else 2e-2
    assert (pixels * 0.5 + 0.5 - shown).abs().max() <= tolerance
    assert pixels.dtype == torch.float32
    assert pixels.shape == (8, 3, 32, 48)


STARTS = [
    (PLAIN, 0.6, "flow-match-euler"),
    (PLAIN, 1.0, "flow-match-heun"),
    (MEDIUM, 0.3, "flow-match-heun"),
    ({"scheduler": {"use_dynamic_shifting": True}}, 0.5, "flow-match-euler"),
]


@pytest.mark.parametrize(("variant", "strength", "scheduler"), STARTS, ids=str)
def test_a_start_from_pictures_is_that_of_diffusers(
    tiny_folders: Callable[..., Path],
    variant: dict[str, Any],
    strength: float,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler, StableDiffusion3Img2ImgPipeline
    from diffusers.pipelines.stable_diffusion_3 import pipeline_stable_diffusion_3_img2img as module

    folder = tiny_folders(**variant)
    pipe = StableDiffusion3Img2ImgPipeline(**plain_pipeline(folder, "fp32").components)
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "flow-match-heun":
        pipe.scheduler = FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config)
    facts = _weights.resolve(str(folder))
    backbone = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32")
    seeds = list(range(len(PROMPTS)))
    pixels = torch.rand((8, 3, 32, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = backbone.image.noise(seeds, (48, 32))
    with torch.inference_mode():
        steps = list(
            backbone.image.denoise(
                noise,
                backbone.text.encode(PROMPTS, []),
                negative=backbone.text.encode(["red"] * 8, []),
                steps=4,
                guidance=4.0,
                scheduler=scheduler,
                options=(),
                seeds=seeds,
                start=Start(pixels, strength),
            )
        )
    assert len(steps) == {1.0: 4, 0.6: 3, 0.5: 2, 0.3: 2}[strength]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    latents = pipe(
        prompt=PROMPTS,
        negative_prompt=["red"] * 8,
        image=pixels * 0.5 + 0.5,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=4.0,
        width=48,
        height=32,
        max_sequence_length=0,
        generator=[generator(seed, "start") for seed in seeds],
        output_type="latent",
    ).images
    assert (steps[-1] - latents).abs().max() < 1e-4


def test_a_sampler_that_draws_uses_one_generator_per_picture(
    tiny_folders: Callable[..., Path],
) -> None:
    facts = _weights.resolve(str(tiny_folders(scheduler={"stochastic_sampling": True})))
    side = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32").image
    text = sd3.build(sd3.Spec(), facts, device="cpu", dtype="fp32").text

    def draw(seeds: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            cond = text.encode(["a pig"] * len(seeds), [])
            return list(
                side.denoise(
                    side.noise(seeds, (32, 32)),
                    cond,
                    negative=None,
                    steps=3,
                    guidance=1.0,
                    scheduler="flow-match-euler",
                    options=(),
                    seeds=seeds,
                )
            )[-1]

    torch.manual_seed(0)
    first = draw([5, 6, 7, 8])
    torch.manual_seed(1)
    assert torch.equal(first, draw([5, 6, 7, 8]))
    assert torch.equal(first.flip(0), draw([8, 7, 6, 5]))


def test_heun_is_not_offered_where_it_would_ignore_the_shift(
    tiny_folders: Callable[..., Path],
) -> None:
    facts = _weights.resolve(str(tiny_folders(scheduler={"use_dynamic_shifting": True})))
    assert facts.schedulers == ("flow-match-euler",)
