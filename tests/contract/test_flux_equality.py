"""The FLUX.1 adapter draws what diffusers' own pipelines draw from the same folder and latents."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli.backbones import _adapter, _weights, flux
from creatok_cli.backbones._flux import pack, unpack
from creatok_cli.backbones.base import Start
from creatok_cli.errors import InputError, UnknownName
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import Token
from tests.fakes.loras import weights, write_lora
from tests.tiny_flux import build_tiny_flux

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPTS = ["a photo of the pig snake", "a red owl", "zebra 123", "", *["owl and fox"] * 4]
"""As many as one encoding chunk has: the same shapes on both sides."""
SEEDS = list(range(len(PROMPTS)))
DEV: dict[str, Any] = {}
SCHNELL: dict[str, Any] = {"guidance_embeds": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes (once per variant) a tiny FLUX.1 folder. Never write into it."""
    made: dict[str, Path] = {}

    def folder(**variant: Any) -> Path:
        name = repr(sorted(variant.items()))
        if name not in made:
            made[name] = build_tiny_flux(tmp_path_factory.mktemp("flux") / "tiny", **variant)
        return made[name]

    return folder


@cache
def plain_pipeline(folder: Path, dtype: str) -> Any:
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(
        folder, dtype=KINDS[dtype], local_files_only=True, use_safetensors=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def built(folder: Path, dtype: str = "fp32") -> Any:
    facts = _weights.resolve(str(folder))
    return flux.build(flux.Spec(), facts, device="cpu", dtype=dtype)


def drawn(backbone: Any, size: tuple[int, int], **changes: Any) -> list[torch.Tensor]:
    """Latents after each step."""
    how: dict[str, Any] = {"steps": 3, "guidance": 3.5, "options": ()} | changes
    with torch.inference_mode():
        return list(
            backbone.image.denoise(
                backbone.image.noise(SEEDS, size),
                backbone.text.encode(PROMPTS, []),
                negative=backbone.text.encode(["red"] * len(PROMPTS), []),
                scheduler="flow-match-euler",
                seeds=SEEDS,
                **how,
            )
        )


def asked(folder: Path, size: tuple[int, int], true_cfg: float, **changes: Any) -> dict[str, Any]:
    """The same, as diffusers is asked."""
    is_dev = _weights.resolve(str(folder)).guidance > 0
    how: dict[str, Any] = {
        "prompt": PROMPTS,
        "num_inference_steps": 3,
        "guidance_scale": 3.5,
        "width": size[0],
        "height": size[1],
        "max_sequence_length": 512 if is_dev else 256,
    }
    if true_cfg > 1:
        how |= {"negative_prompt": ["red"] * len(PROMPTS), "true_cfg_scale": true_cfg}
    return how | changes


CASES = [
    (DEV, "fp32", (48, 32), 3.5, (), 1.0),
    (DEV, "bf16", (48, 32), 3.5, (), 1.0),
    (DEV, "fp32", (32, 56), 2.0, (("true_cfg", 2.5),), 2.5),
    (DEV | {"legacy_eos": True, "sharded": True}, "fp32", (32, 32), 1.0, (), 1.0),
    (DEV | {"dtype": "bfloat16"}, "fp32", (32, 32), 3.5, (("true_cfg", 1.0),), 1.0),
    (DEV | {"scheduler": {"use_karras_sigmas": True}}, "fp32", (32, 32), 3.5, (), 1.0),
    (SCHNELL, "fp32", (32, 56), 0.0, (), 1.0),
    (SCHNELL, "bf16", (48, 32), 0.0, (), 1.0),
    (SCHNELL, "fp32", (48, 32), 3.0, (), 3.0),
    (SCHNELL, "fp32", (32, 32), 3.0, (("true_cfg", 1.5),), 1.5),
]


@pytest.mark.parametrize(("variant", "dtype", "size", "guidance", "options", "cfg"), CASES, ids=str)
def test_latents_and_pictures_are_those_of_diffusers(
    folders: Callable[..., Path],
    variant: dict[str, Any],
    dtype: str,
    size: tuple[int, int],
    guidance: float,
    options: Any,
    cfg: float,
) -> None:
    folder = folders(**variant)
    backbone, pipe = built(folder, dtype), plain_pipeline(folder, dtype)
    noise = backbone.image.noise(SEEDS, size)
    assert noise.shape == (8, 4, size[1] // 4, size[0] // 4)
    steps = drawn(backbone, size, guidance=guidance, options=options)
    assert len(steps) == 3
    wanted = asked(folder, size, cfg, guidance_scale=guidance)
    tolerance = 1e-5 if dtype == "fp32" else 2e-2
    latents = pipe(**wanted, latents=pack(noise), output_type="latent").images
    if cfg == 1.0:
        assert torch.equal(pack(steps[-1]), latents)
    else:  # two calls there, one of 2B rows here
        assert (pack(steps[-1]) - latents).abs().max() < 1e-4
    with torch.inference_mode():
        pixels = backbone.image.decode(steps[-1])
    shown = pipe(**wanted, latents=pack(noise), output_type="pt").images.float()
    assert pixels.shape == (8, 3, size[1], size[0])
    assert (pixels * 0.5 + 0.5 - shown).abs().max() <= max(tolerance, 1e-4 if cfg > 1 else 0)


@pytest.mark.parametrize(("variant", "strength"), [(DEV, 0.6), (DEV, 1.0), (SCHNELL, 0.3)], ids=str)
def test_a_start_from_pictures_is_that_of_diffusers(
    folders: Callable[..., Path],
    variant: dict[str, Any],
    strength: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import FluxImg2ImgPipeline
    from diffusers.pipelines.flux import pipeline_flux_img2img

    size, folder = (48, 32), folders(**variant)
    backbone = built(folder)
    pipe = FluxImg2ImgPipeline(**plain_pipeline(folder, "fp32").components)
    pipe.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand((8, 3, 32, 48), generator=draw) * 2 - 1
    found = drawn(backbone, size, steps=4, start=Start(pixels, strength))
    assert len(found) == {0.6: 3, 1.0: 4, 0.3: 2}[strength]
    noise = backbone.image.noise(SEEDS, size)
    monkeypatch.setattr(pipeline_flux_img2img, "randn_tensor", lambda *_, **__: noise)
    cfg = 3.5 if variant is SCHNELL else 1.0
    wanted = asked(folder, size, cfg, num_inference_steps=4, strength=strength)
    latents = pipe(
        **wanted,
        image=pixels * 0.5 + 0.5,
        generator=[generator(seed, "start") for seed in SEEDS],
        output_type="latent",
    ).images
    assert (pack(found[-1]) - latents).abs().max() < 1e-4
    far = (found[-1] - drawn(backbone, size, steps=4)[-1]).abs().max()
    assert bool(far > 0.1) is (strength < 1)  # from all noise on, nothing of the pictures is left


def test_a_worn_lora_is_the_loaded_one_of_diffusers(
    folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder, size = folders(), (32, 32)
    given = weights(folder, ("transformer", "text_encoder"), rank=3)
    file = write_lora(tmp_path / "x.safetensors", given)
    backbone = built(folder)
    backbone.wear([(str(file), 0.7)])
    found = drawn(backbone, size)[-1]
    assert (found - drawn(built(folder), size)[-1]).abs().max() > 0.05
    pipe = plain_pipeline.__wrapped__(folder, "fp32")
    pipe.load_lora_weights(str(file), adapter_name="x")
    pipe.set_adapters(["x"], [0.7])
    noise = pack(backbone.image.noise(SEEDS, size))
    latents = pipe(**asked(folder, size, 1.0), latents=noise, output_type="latent").images
    assert (pack(found) - latents).abs().max() < 1e-4


def test_adapted_weights_learn_and_are_worn(folders: Callable[..., Path], tmp_path: Path) -> None:
    backbone = built(folders(**SCHNELL))
    before = drawn(backbone, (32, 32), guidance=0.0)[-1]
    adapted = backbone.adapt(2, seed=1)
    assert any("single_transformer_blocks.0.attn.to_v" in name for name in adapted.parameters)
    with torch.no_grad():
        for leaf in adapted.parameters.values():
            leaf.add_(0.2)
    trained = drawn(backbone, (32, 32), guidance=0.0)[-1]
    assert (trained - before).abs().max() > 0.01
    worn = built(folders(**SCHNELL))
    worn.wear([(str(write_lora(tmp_path / "x.safetensors", dict(adapted.tensors()))), 1.0)])
    assert (drawn(worn, (32, 32), guidance=0.0)[-1] - trained).abs().max() < 1e-4


def test_only_what_is_used_is_read(
    folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = _adapter.load_part

    def load(kind: type[Any], folder: str, part: str, **how: Any) -> Any:
        read.append(part)
        return plain(kind, folder, part, **how)

    monkeypatch.setattr(_adapter, "load_part", load)
    backbone = built(folders(sharded=True))
    assert backbone.image.noise([1], (32, 32)).shape == (1, 4, 8, 8)
    assert read == ["transformer", "vae"]
    text = backbone.text
    assert text.cut(["a pig"], []) == ("",)
    assert len(read) == 2
    assert text.rows("pig")["t5xxl"].shape == (1, 24)
    assert read[2:] == ["text_encoder"]
    text.encode(["a pig"], [])
    assert read[2:] == ["text_encoder", "text_encoder_2"]
    backbone.release("text")
    backbone.image.noise([1], (32, 32))
    assert len(read) == 4


def test_defaults_follow_the_model(folders: Callable[..., Path]) -> None:
    plain = "license: apache-2.0\n"
    dev = _weights.resolve(str(folders(card=plain)))
    schnell = _weights.resolve(str(folders(card=plain, **SCHNELL)))
    assert (dev.steps, dev.guidance) == (28, 3.5)
    assert (schnell.steps, schnell.guidance) == (4, 0.0)
    assert dev.backbone == schnell.backbone == "flux"
    assert dev.size_px == schnell.size_px == (1024, 1024)
    assert (dev.size_multiple, dev.max_side_px, dev.dtype) == (8, None, "bf16")
    assert schnell.licence == "apache-2.0"
    with torch.inference_mode():
        for facts, length in ((dev, 512), (schnell, 256)):
            text = flux.build(flux.Spec(), facts, device="cpu", dtype="fp32").text
            assert text.encode(["a pig"], []).tensors["t5"].shape == (1, length, 24)


def test_t5_reads_what_clip_cuts(folders: Callable[..., Path]) -> None:
    text = built(folders(**SCHNELL)).text
    fox = Token("<fox>", "red fox", {"clip_l": torch.ones(2, 16)})
    long = "a photo of the pig snake owl dragon " * 8
    cut = text.cut([long, f"{long} <fox>", "pig " * 300, f"<fox> {'pig ' * 255}"], [fox])
    assert cut[0] == ""
    assert cut[1].endswith("<fox>")  # no other encoder reads the vectors
    assert cut[2] == "pig " * 44 + "pig"
    assert cut[3] == "pig pig"
    assert text.encode([long, "pig " * 300], []).cut == (cut[0], cut[2])


def test_options_are_checked_without_a_model() -> None:
    flux.check_options((("true_cfg", 4),))
    for value in ("4", True, float("nan"), -1.0, 1e9):
        with pytest.raises(InputError, match="true_cfg is a number"):
            flux.check_options((("true_cfg", value),))
    with pytest.raises(UnknownName, match="no option 'eta'; it has true_cfg"):
        flux.check_options((("eta", 1.0),))


def test_packing_is_undone(folders: Callable[..., Path]) -> None:
    latents = torch.randn(2, 4, 6, 10)
    rows = pack(latents)
    assert rows.shape == (2, 15, 16)
    assert torch.equal(unpack(rows, 3, 5), latents)
