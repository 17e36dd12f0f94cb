"""LoRAs inside a base: trained from nothing, worn as diffusers wears them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli.backbones import _weights, sd3
from creatok_cli.backbones._lora_fit import check_fit
from creatok_cli.errors import ArtefactError
from creatok_cli.tokens.lora import read_lora
from tests.fakes.loras import raw, weights, write_lora

PROMPTS = ["a photo of the pig snake", "a red owl", *["dragon"] * 6]
"""As many as one encoding chunk has: the same shapes as in diffusers."""
SIZE = (48, 32)
CLIPS = ("text_encoder", "text_encoder_2")


def built(folder: Path, dtype: str = "fp32") -> Any:
    facts = _weights.resolve(str(folder))
    return sd3.build(sd3.Spec(), facts, device="cpu", dtype=dtype)


def latents(backbone: Any, *, grad: bool = False) -> torch.Tensor:
    """The last latents of a short draw."""
    seeds = list(range(len(PROMPTS)))
    with torch.set_grad_enabled(grad):
        cond = backbone.text.encode(PROMPTS, [])
        negative = backbone.text.encode(["red"] * len(PROMPTS), [])
        steps = backbone.image.denoise(
            backbone.image.noise(seeds, SIZE),
            cond,
            negative=negative,
            steps=3,
            guidance=4.0,
            scheduler="flow-match-euler",
            options=(),
            seeds=seeds,
        )
        return list(steps)[-1]


def plain_pipeline(folder: Path) -> Any:
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, text_encoder_3=None, tokenizer_3=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_latents(pipe: Any, noise: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = pipe(
        prompt=PROMPTS,
        negative_prompt=["red"] * len(PROMPTS),
        num_inference_steps=3,
        guidance_scale=4.0,
        width=SIZE[0],
        height=SIZE[1],
        max_sequence_length=0,
        latents=noise.clone(),
        output_type="latent",
    ).images
    return found


def test_an_adaptation_begins_with_no_effect_and_learns(tiny_sd3: Path) -> None:
    backbone = built(tiny_sd3)
    before = latents(backbone)
    state = torch.random.get_rng_state()
    adapted = backbone.adapt(3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(latents(backbone), before)
    leaves = adapted.parameters
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves.values())
    assert {leaf.dtype for leaf in leaves.values()} == {torch.float32}
    ends = {name.rpartition(".lora_")[0].rpartition("attn.")[2] for name in leaves}
    assert ends == {
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    }
    trained = torch.optim.SGD(list(leaves.values()), lr=1.0)
    losses = []
    for _ in range(4):
        loss = (latents(backbone, grad=True) - 1).square().mean()
        losses.append(float(loss.detach()))
        trained.zero_grad()
        loss.backward()
        assert all(
            parameter.grad is None
            for name, parameter in backbone.image.transformer.named_parameters()
            if "lora_" not in name
        )
        trained.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_start(tiny_sd3: Path) -> None:
    first, again = (dict(built(tiny_sd3).adapt(3, seed=5).tensors()) for _ in range(2))
    other = built(tiny_sd3).adapt(3, seed=6).tensors()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    grown = torch.cat([first[name].flatten() for name in first if "lora_A" in name])
    assert grown.std() == pytest.approx(1 / 3, rel=0.1)


def test_copies_are_copies_and_come_back(tiny_sd3: Path) -> None:
    backbone = built(tiny_sd3)
    adapted = backbone.adapt(2, seed=1)
    start = adapted.tensors()
    with torch.no_grad():
        for leaf in adapted.parameters.values():
            leaf.add_(0.25)
    assert not torch.equal(start[next(iter(start))], adapted.tensors()[next(iter(start))])
    changed, drawn = adapted.tensors(), latents(backbone)
    other = built(tiny_sd3)
    resumed = other.adapt(2, seed=9)
    places = {name: leaf.data_ptr() for name, leaf in resumed.parameters.items()}
    resumed.load(changed)
    assert places == {name: leaf.data_ptr() for name, leaf in resumed.parameters.items()}
    assert torch.equal(latents(other), drawn)
    with pytest.raises(ArtefactError, match="of another model or rank"):
        built(tiny_sd3).adapt(3, seed=1).load(changed)
    with pytest.raises(ArtefactError, match="does not fit"):
        resumed.load({**changed, "transformer.more.lora_A.weight": torch.zeros(1)})


def test_adapting_again_begins_anew(tiny_sd3: Path) -> None:
    backbone = built(tiny_sd3)
    before = latents(backbone)
    first = backbone.adapt(2, seed=1)
    with torch.no_grad():
        for leaf in first.parameters.values():
            leaf.add_(0.25)
    again = backbone.adapt(3, seed=2)
    assert torch.equal(latents(backbone), before)
    assert all(name in first.parameters for name in again.parameters)
    backbone.release("image")
    assert torch.equal(latents(backbone), before)


def test_leaves_stay_f32_in_a_bf16_base(tiny_sd3: Path) -> None:
    backbone = built(tiny_sd3, "bf16")
    adapted = backbone.adapt(2, seed=1)
    assert {leaf.dtype for leaf in adapted.parameters.values()} == {torch.float32}
    latents(backbone, grad=True).float().square().mean().backward()
    grads = [leaf.grad for name, leaf in adapted.parameters.items() if "lora_B" in name]
    assert all(grad is not None for grad in grads)
    # The last block's words lead nowhere: their projections cannot learn.
    assert sum(bool(grad.abs().sum() > 0) for grad in grads if grad is not None) > len(grads) / 2


def test_what_was_trained_is_what_diffusers_draws(tiny_sd3: Path, tmp_path: Path) -> None:
    backbone = built(tiny_sd3)
    adapted = backbone.adapt(2, seed=1)
    with torch.no_grad():
        for leaf in adapted.parameters.values():
            leaf.add_(0.1)
    trained = latents(backbone)
    file = write_lora(tmp_path / "x.safetensors", dict(adapted.tensors()))
    worn = built(tiny_sd3)
    worn.wear([(str(file), 1.0)])
    assert (latents(worn) - trained).abs().max() < 1e-5
    pipe = plain_pipeline(tiny_sd3)
    pipe.load_lora_weights(str(file))
    noise = backbone.image.noise(range(len(PROMPTS)), SIZE)
    assert (pipeline_latents(pipe, noise) - trained).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["alpha = rank", "alphas of peft", "older names"])
def test_several_loras_equal_those_of_diffusers(tiny_sd3: Path, tmp_path: Path, kind: str) -> None:
    one = write_lora(tmp_path / "one.safetensors", weights(tiny_sd3))
    both = weights(tiny_sd3, ("transformer", *CLIPS), rank=3, seed=2)
    if kind == "alphas of peft":
        save_with_settings(tmp_path / "two.safetensors", both)
    else:
        named = {older(name): each for name, each in both.items()}
        write_lora(tmp_path / "two.safetensors", named if kind == "older names" else both)
    backbone = built(tiny_sd3)
    backbone.wear([(str(one), 0.7), (str(tmp_path / "two.safetensors"), -1.5)])
    found = latents(backbone)
    assert (found - latents(built(tiny_sd3))).abs().max() > 0.05
    pipe = plain_pipeline(tiny_sd3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        pipe.load_lora_weights(str(one), adapter_name="one")
        pipe.load_lora_weights(str(tmp_path / "two.safetensors"), adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.7, -1.5])
    noise = backbone.image.noise(range(len(PROMPTS)), SIZE)
    assert (pipeline_latents(pipe, noise) - found).abs().max() < 1e-5


def older(name: str) -> str:
    """As diffusers named weights before peft."""
    layer = "lora" if name.startswith("transformer.") else "lora_linear_layer"
    return name.replace("lora_A", f"{layer}.down").replace("lora_B", f"{layer}.up")


def save_with_settings(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As diffusers' training scripts write it, with an alpha that is not the rank."""
    import json

    from safetensors.torch import save_file

    settings = {}
    for part in ("transformer", *CLIPS):
        named = {name.removeprefix(f"{part}.") for name in tensors if name.startswith(f"{part}.")}
        targets = sorted({name.partition(".lora_")[0] for name in named})
        own = {"r": 3, "lora_alpha": 6, "target_modules": targets}
        if part == "transformer":
            own["alpha_pattern"] = {targets[0]: 1}
        settings |= {f"{part}.{name}": value for name, value in own.items()}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(settings)})


def test_scale_0_draws_the_same_bytes(tiny_sd3: Path, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "x.safetensors", weights(tiny_sd3, ("transformer", *CLIPS)))
    worn = built(tiny_sd3)
    worn.wear([(str(file), 0.0)])
    assert torch.equal(latents(worn), latents(built(tiny_sd3)))


def test_a_worn_lora_outlives_a_released_side(tiny_sd3: Path, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "x.safetensors", weights(tiny_sd3, ("transformer", *CLIPS)))
    worn = built(tiny_sd3, "bf16")
    worn.wear([(str(file), 0.5)])
    before = latents(worn)
    assert worn.image.transformer.dtype == torch.bfloat16
    for side in ("text", "image"):
        worn.release(side)
    assert torch.equal(latents(worn), before)


def test_opposite_scales_cancel(tiny_sd3: Path, tmp_path: Path) -> None:
    """Changes are summed before they are cast: nothing of them stays."""
    tensors = weights(tiny_sd3)
    one = write_lora(tmp_path / "one.safetensors", tensors)
    worn = built(tiny_sd3, "bf16")
    worn.wear([(str(one), 2.0), (str(one), -2.0)])
    assert (latents(worn) - latents(built(tiny_sd3, "bf16"))).abs().max() < 0.05


def test_a_side_that_is_open_wears_nothing_new(tiny_sd3: Path, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "x.safetensors", weights(tiny_sd3))
    backbone = built(tiny_sd3)
    latents(backbone)
    with pytest.raises(RuntimeError, match="before a side opens"):
        backbone.wear([(str(file), 1.0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k.replace("blocks.0", "blocks.9"): v for k, v in t.items()}, "no such matrix"),
        (lambda t: {k: v.repeat(1, 2) for k, v in t.items() if "_A" in k}, "lacks its half"),
        (
            lambda t: {k: v.repeat(1, 2) if "_A" in k else v for k, v in t.items()},
            "one of shape",
        ),
        (
            lambda t: {k.replace("transformer.", "unet.", 1): v for k, v in t.items()},
            "changes 'unet'; on this base transformer, text_encoder, text_encoder_2",
        ),
        (
            lambda t: {k.replace("transformer.", "text_encoder_3.", 1): v for k, v in t.items()},
            "changes 'text_encoder_3'",
        ),
    ],
)
def test_a_lora_of_another_base_is_refused_before_it_opens(
    tiny_sd3: Path, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({name: each.contiguous() for name, each in change(weights(tiny_sd3)).items()}, path)
    backbone = built(tiny_sd3)
    with pytest.raises(ArtefactError, match=message):
        backbone.wear([(str(path), 1.0)])


def test_a_lora_fits_the_base_it_was_made_for(tiny_sd3: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    old = {
        name.replace("text_encoder.", "text_encoder.text_model.", 1).replace(
            "text_model.text_model.", "text_model."
        ): each
        for name, each in weights(tiny_sd3, ("transformer", *CLIPS)).items()
    }
    header = read_lora(write_lora(tmp_path / "x.safetensors", old))
    facts = _weights.resolve(str(tiny_sd3))
    check_fit(header, facts)
    with pytest.raises(ArtefactError, match="cannot be drawn with LoRAs"):
        check_fit(header, replace(facts, backbone="els"))


def test_weights_that_overflow_are_refused(tiny_sd3: Path, tmp_path: Path) -> None:
    huge = {name: each * 1e25 for name, each in weights(tiny_sd3).items()}
    file = write_lora(tmp_path / "x.safetensors", huge)
    backbone = built(tiny_sd3)
    backbone.wear([(str(file), 1.0)])
    with pytest.raises(ArtefactError, match="overflows with these LoRAs"):
        latents(backbone)


def test_a_file_by_hand_is_worn_in_half_precision(tiny_sd3: Path, tmp_path: Path) -> None:
    tensors = weights(tiny_sd3)
    half = {
        name: ("F16", list(each.shape), each.half().numpy().tobytes())
        for name, each in tensors.items()
    }
    (tmp_path / "h.safetensors").write_bytes(raw(half))
    plain = write_lora(
        tmp_path / "p.safetensors", {name: each.half().float() for name, each in tensors.items()}
    )
    drawn = []
    for path in (tmp_path / "h.safetensors", plain):
        backbone = built(tiny_sd3)
        backbone.wear([(str(path), 1.0)])
        drawn.append(latents(backbone))
    assert torch.equal(*drawn)
