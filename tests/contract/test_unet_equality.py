"""The UNet adapters draw what diffusers' own pipelines draw from the same folder and latents."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli.backbones import _adapter, _weights, sd15, sdxl
from creatok_cli.backbones._schedulers import KINDS, load_kinds
from creatok_cli.backbones._unet import skipped
from creatok_cli.backbones.base import Start
from creatok_cli.errors import ArtefactError, InputError, ModelMissing, Refused
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import Token
from tests.tiny import PROMPTS
from tests.tiny_unet import build_tiny_sd15, build_tiny_sdxl

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SEEDS = list(range(len(PROMPTS)))
FAMILIES: dict[str, tuple[Any, Callable[..., Path], str]] = {
    "sd15": (sd15, build_tiny_sd15, "StableDiffusion"),
    "sdxl": (sdxl, build_tiny_sdxl, "StableDiffusionXL"),
}
DRAWING = {
    **{name: () for name, kind in KINDS.items() if kind.is_drawing},
    **{name: (("eta", 0.7),) for name, kind in KINDS.items() if kind.has_eta},
}
"""Schedulers whose steps draw noise, with the options that make them."""
STILL = tuple(name for name, kind in KINDS.items() if not kind.is_drawing)


@pytest.fixture(scope="session")
def tiny_unet(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes (once per variant) a tiny folder of a family. Never write into it."""
    made: dict[str, Path] = {}

    def folder(family: str, **variant: Any) -> Path:
        name = f"{family} {sorted(variant.items())!r}"
        if name not in made:
            made[name] = FAMILIES[family][1](tmp_path_factory.mktemp("tiny") / family, **variant)
        return made[name]

    return folder


def plain_pipeline(family: str, folder: Path, dtype: str, suffix: str = "Pipeline") -> Any:
    """The pipeline of diffusers with the folder's own scheduler."""
    pipe, own = loaded_pipeline(family, folder, dtype, suffix)
    pipe.scheduler = own
    return pipe


@cache
def loaded_pipeline(family: str, folder: Path, dtype: str, suffix: str) -> tuple[Any, Any]:
    """Without safety checker and watermark; with its scheduler."""
    import diffusers

    halves = list((folder / "unet").glob("*.fp16*"))
    more: dict[str, Any] = {"add_watermarker": False}
    if family == "sd15":
        more = {
            **{"safety_checker": None, "feature_extractor": None},
            "requires_safety_checker": False,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it says so where it corrects a config
        pipe = getattr(diffusers, FAMILIES[family][2] + suffix).from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            local_files_only=True,
            use_safetensors=True,
            variant="fp16" if halves else None,
            **more,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe, pipe.scheduler


@cache
def opened(family: str, folder: Path, dtype: str = "fp32") -> Any:
    """A base, shared by tests that change nothing."""
    module = FAMILIES[family][0]
    facts = _weights.resolve(str(folder))
    return module.build(module.Spec(), facts, device="cpu", dtype=dtype)


def ours(
    base: Any, *, negative: str = "", prompts: list[str] = PROMPTS, **changes: Any
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(latents after each step, noise) of a draw of 48 x 32 pixels."""
    seeds = changes.pop("seeds", SEEDS)
    how: dict[str, Any] = {"steps": 3, "guidance": 4.0, "options": ()}
    how["scheduler"] = base.facts.schedulers[0]
    with torch.inference_mode():
        cond = base.text.encode(prompts, [])
        others = base.text.encode([negative] * len(prompts), [])
        noise = base.image.noise(seeds, (48, 32))
        drawn = base.image.denoise(noise, cond, negative=others, seeds=seeds, **how | changes)
        return list(drawn), noise


def theirs(pipe: Any, noise: torch.Tensor, *, negative: str = "", **changes: Any) -> torch.Tensor:
    """Latents of the plain pipeline; an empty negative prompt is none."""
    how: dict[str, Any] = {
        **{"num_inference_steps": 3, "guidance_scale": 4.0, "width": 48, "height": 32},
        **{"output_type": "latent", "latents": noise.to(pipe.unet.dtype, copy=True)},
    }
    wanted = {name: value for name, value in (how | changes).items() if value is not None}
    others = [negative] * len(PROMPTS) if negative else None
    found: torch.Tensor = pipe(prompt=PROMPTS, negative_prompt=others, **wanted).images
    return found


def close(mine: torch.Tensor, plain: torch.Tensor, dtype: str = "fp32") -> bool:
    """1e-4 of the latents' size in fp32; in bf16 a few of its roundings."""
    bound = 1e-4 if dtype == "fp32" else 6e-2
    return bool(torch.allclose(mine.float(), plain.float(), rtol=bound, atol=bound))


def their_scheduler(pipe: Any, name: str, **more: Any) -> Any:
    return load_kinds()[name].from_config(pipe.scheduler.config, **KINDS[name].settings, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_still_scheduler_draws_the_same(family: str, tiny_unet: Callable[..., Path]) -> None:
    folder = tiny_unet(family)
    base, pipe = opened(family, folder), plain_pipeline(family, folder, "fp32")
    assert set(base.facts.schedulers) == set(KINDS)
    own, seen = pipe.scheduler, set[bytes]()
    assert base.facts.schedulers[0] == {"sd15": "pndm", "sdxl": "euler"}[family]
    for name in STILL:
        pipe.scheduler = own
        if name != base.facts.schedulers[0]:
            pipe.scheduler = their_scheduler(pipe, name)
        for guidance, negative in ((4.0, "red"), (1.0, "")):
            mine, noise = ours(base, scheduler=name, guidance=guidance, negative=negative)
            plain = theirs(pipe, noise, guidance_scale=guidance, negative=negative)
            assert len(mine) == 3
            assert close(mine[-1], plain), (name, guidance)
            seen.add(mine[-1].numpy().tobytes())
    assert len(seen) == 2 * len(STILL)


VARIANTS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("sd15", {}, "bf16", {}),
    ("sd15", {"legacy_eos": True}, "fp32", {"negative": "red"}),
    ("sd15", {"dtype": "float16", "variant": "fp16"}, "fp32", {}),
    ("sd15", {"is_sharded": True}, "fp32", {}),
    ("sd15", {"scheduler": {"_class_name": "DDIMScheduler", "steps_offset": 0}}, "fp32", {}),
    ("sdxl", {}, "bf16", {}),
    ("sdxl", {"legacy_eos": True}, "fp32", {"negative": "red"}),
    ("sdxl", {"are_zeros_forced": False}, "fp32", {}),
    ("sdxl", {"dtype": "float16", "variant": "fp16"}, "fp32", {}),
]


@pytest.mark.parametrize(("family", "variant", "dtype", "how"), VARIANTS, ids=str)
def test_every_kind_of_folder_draws_the_same_pictures(
    tiny_unet: Callable[..., Path],
    family: str,
    variant: dict[str, Any],
    dtype: str,
    how: dict[str, Any],
) -> None:
    folder = tiny_unet(family, **variant)
    base, pipe = opened(family, folder, dtype), plain_pipeline(family, folder, dtype)
    mine, noise = ours(base, **how)
    assert close(mine[-1], theirs(pipe, noise, **how), dtype)
    shown = theirs(pipe, noise, output_type="pt", **how).float()
    with torch.inference_mode():
        pixels = base.image.decode(mine[-1])
    # The decoder runs channels_last here: other kernels, the same picture.
    assert (pixels * 0.5 + 0.5 - shown).abs().max() <= (1e-4 if dtype == "fp32" else 6e-2)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (8, 3, 32, 48)


def test_an_empty_negative_is_zeros_where_the_folder_says_so(
    tiny_unet: Callable[..., Path],
) -> None:
    found = []
    for are_zeros_forced in (True, False):
        base = opened("sdxl", tiny_unet("sdxl", are_zeros_forced=are_zeros_forced))
        found += [ours(base, negative=text)[0][-1] for text in ("", "red")]
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_are_learned_pool_at_eos_whatever_id_the_config_says(
    family: str, tiny_unet: Callable[..., Path]
) -> None:
    found = []
    for legacy_eos in (False, True):
        text = opened(family, tiny_unet(family, legacy_eos=legacy_eos)).text
        draw = torch.Generator().manual_seed(3)
        widths = text.encoders.items()
        fox = Token("<fox>", "fox", {k: torch.randn((2, d), generator=draw) for k, d in widths})
        with torch.inference_mode():
            pooled = text.pooled(["a <fox> in snow"], [fox])
            cond = text.encode(["a <fox> in snow"], [fox])
        found.append({**pooled, **cond.tensors})
        if family == "sdxl":
            assert torch.allclose(cond.tensors["pooled"], pooled["clip_g"], atol=1e-5)
    for name, rows in found[0].items():
        assert torch.equal(rows, found[1][name]), name


RESCALED = {
    **{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
    **{"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
}


@pytest.mark.parametrize("name", ["ddim", "euler", "unipc"])
def test_rescaled_schedules_v_prediction_and_rescaled_guidance(
    tiny_unet: Callable[..., Path], name: str
) -> None:
    folder = tiny_unet("sd15", scheduler=RESCALED)
    base, pipe = opened("sd15", folder), plain_pipeline("sd15", folder, "fp32")
    assert base.facts.schedulers[0] == "ddim"
    assert not {"pndm", "heun"} & set(base.facts.schedulers)
    pipe.scheduler = their_scheduler(pipe, name)
    mine, noise = ours(base, scheduler=name, options=(("guidance_rescale", 0.7),))
    assert close(mine[-1], theirs(pipe, noise, guidance_rescale=0.7))
    plain, _ = ours(base, scheduler=name)
    assert not torch.equal(plain[-1], mine[-1])


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timestep_spacing_is_that_of_diffusers(
    tiny_unet: Callable[..., Path], spacing: str
) -> None:
    """As Lightning, Hyper-SD and Turbo need it: few steps, trailing, no guidance."""
    folder = tiny_unet("sdxl")
    base, pipe = opened("sdxl", folder), plain_pipeline("sdxl", folder, "fp32")
    how: dict[str, Any] = {"guidance": 1.0, "options": (("timestep_spacing", spacing),)}
    for name in ("euler", "ddim", "dpm++-2m"):
        pipe.scheduler = their_scheduler(pipe, name, timestep_spacing=spacing)
        for steps in (1, 4):
            mine, noise = ours(base, scheduler=name, steps=steps, **how)
            plain = theirs(pipe, noise, num_inference_steps=steps, guidance_scale=1.0)
            assert close(mine[-1], plain), (name, steps)


def test_a_distilled_unet_reads_the_guidance_instead_of_a_negative(
    tiny_unet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
    folder = tiny_unet("sd15", is_distilled=True, scheduler=own)
    base, pipe = opened("sd15", folder), plain_pipeline("sd15", folder, "fp32")
    assert base.facts.schedulers[0] == "lcm"
    found = []
    for guidance in (1.0, 8.0):
        with same_draws(monkeypatch):
            mine, noise = ours(base, guidance=guidance, negative="red")
        with same_draws(monkeypatch):
            assert close(mine[-1], theirs(pipe, noise, guidance_scale=guidance))
        found.append(mine[-1])
    assert not torch.equal(*found)


class same_draws:
    """The schedulers' draws are counted through, whoever asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch, self._count = monkeypatch, 0

    def _draw(self, shape: Any, generator: Any = None, **how: Any) -> torch.Tensor:
        self._count += 1
        draw = torch.Generator().manual_seed(self._count)
        return torch.randn(tuple(shape), generator=draw).to(how["dtype"])

    def __enter__(self) -> None:
        for kind in load_kinds().values():
            module = importlib.import_module(kind.__module__)
            if hasattr(module, "randn_tensor"):
                self._patch.setattr(module, "randn_tensor", self._draw)

    def __exit__(self, *ended: object) -> None:
        self._patch.undo()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_drawing_scheduler_draws_the_same_from_the_same_noise(
    family: str, tiny_unet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_unet(family)
    base, pipe = opened(family, folder), plain_pipeline(family, folder, "fp32")
    own = pipe.scheduler
    for name, options in DRAWING.items():
        pipe.scheduler = own
        pipe.scheduler = their_scheduler(pipe, name)
        with same_draws(monkeypatch):
            mine, noise = ours(base, scheduler=name, options=options)
        with same_draws(monkeypatch):
            plain = theirs(pipe, noise, eta=dict(options).get("eta"))
        assert len(mine) == 3
        assert close(mine[-1], plain), name


@pytest.mark.parametrize("name", DRAWING)
def test_drawn_noise_depends_on_the_own_seed_alone(
    name: str, tiny_unet: Callable[..., Path]
) -> None:
    base = opened("sd15", tiny_unet("sd15"))
    how: dict[str, Any] = {"scheduler": name, "options": DRAWING[name]}
    how["prompts"] = ["a pig"] * 4
    torch.manual_seed(0)
    first = ours(base, seeds=[5, 6, 7, 8], **how)[0][-1]
    torch.manual_seed(1)
    assert torch.equal(first, ours(base, seeds=[5, 6, 7, 8], **how)[0][-1])
    assert torch.equal(first.flip(0), ours(base, seeds=[8, 7, 6, 5], **how)[0][-1])
    assert torch.equal(first[:1], ours(base, seeds=[5, 1, 2, 3], **how)[0][-1][:1])
    if DRAWING[name]:
        still = ours(base, seeds=[5, 6, 7, 8], **how | {"options": ()})[0][-1]
        assert not torch.equal(first, still)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_to_begin_from_are_those_of_the_img2img_pipelines(
    family: str, tiny_unet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_unet(family)
    base = opened(family, folder)
    pipe = plain_pipeline(family, folder, "fp32", "Img2ImgPipeline")
    own, module = pipe.scheduler, importlib.import_module(type(pipe).__module__)
    draw = torch.Generator().manual_seed(4)
    pixels = torch.rand((8, 3, 32, 48), generator=draw) * 2 - 1
    cases = ((4, 0.5, 2), (5, 0.7, 3), (3, 1.0, 3))
    for name in STILL:
        pipe.scheduler, is_own = own, name == base.facts.schedulers[0]
        if not is_own:
            pipe.scheduler = their_scheduler(pipe, name)
        for steps, strength, taken in cases if is_own else cases[:1]:
            start = Start(pixels, strength)
            mine, noise = ours(base, scheduler=name, steps=steps, start=start, negative="red")
            assert len(mine) == taken
            monkeypatch.setattr(module, "randn_tensor", lambda *a, noise=noise, **k: noise.clone())
            plain = theirs(
                pipe,
                noise,
                image=pixels / 2 + 0.5,
                strength=strength,
                num_inference_steps=steps,
                generator=[generator(seed, "start") for seed in SEEDS],
                negative="red",
                **{"latents": None, "width": None, "height": None},
            )
            assert close(mine[-1], plain), (name, strength)


def test_one_step_at_least_is_taken_from_a_picture() -> None:
    for steps, strength, left_out in ((50, 0.8, 10), (4, 0.01, 3), (1, 0.3, 0), (3, 1.0, 0)):
        assert skipped(Start(torch.zeros(1), strength), steps) == left_out


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_is_touched_is_read(
    family: str, tiny_unet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = _adapter.load_part

    def counted(kind: Any, folder: str, part: str, **how: Any) -> Any:
        read.append(part)
        return load(kind, folder, part, **how)

    monkeypatch.setattr(_adapter, "load_part", counted)
    base = opened.__wrapped__(family, tiny_unet(family))
    assert base.prior is None
    base.text.cut(["a pig"], [])
    assert read == []
    assert base.image.noise([1], (32, 32)).shape == (1, 4, 8, 8)
    assert sorted(read) == ["unet", "vae"]
    read.clear()
    base.text.encode(["a pig"], [])
    assert read == ["text_encoder", "text_encoder_2"][: 1 if family == "sd15" else 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_condition_and_adapted_attention(
    family: str, tiny_unet: Callable[..., Path]
) -> None:
    base = opened.__wrapped__(family, tiny_unet(family))
    with torch.no_grad():
        cond = base.text.encode(["a pig"], [])
    cond.tensors["states"].requires_grad_(True)
    adapted = base.adapt(2, seed=1)
    assert all(name.startswith("unet.") for name in adapted.parameters)
    noise = base.image.noise([1], (32, 32))
    before = noise.clone()
    how: dict[str, Any] = {"guidance": 1.0, "options": (), "seeds": [1], "negative": None}
    for name in base.facts.schedulers:
        *_, latents = base.image.denoise(noise, cond, steps=2, scheduler=name, **how)
        cond.tensors["states"].grad = None
        latents.square().mean().backward()
        assert float(cond.tensors["states"].grad.abs().sum()) > 0, name
    assert torch.equal(noise, before)
    moved = [leaf.grad for name, leaf in adapted.parameters.items() if ".lora_B." in name]
    assert all(float(grad.abs().sum()) > 0 for grad in moved)


def change(path: Path, **fields: Any) -> None:
    import json

    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


def test_folders_of_other_kinds_are_refused_with_reasons(tmp_path: Path) -> None:
    refiner = build_tiny_sdxl(tmp_path / "refiner")
    change(refiner / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    with pytest.raises(ModelMissing, match="no text_encoder: creatok draws with"):
        _weights.resolve(str(refiner))
    change(refiner / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline")
    with pytest.raises(Refused, match=r"creatok opens .*StableDiffusionXLPipeline"):
        _weights.resolve(str(refiner))
    filling = build_tiny_sd15(tmp_path / "filling", channels=9)
    with pytest.raises(ArtefactError, match="takes 9 channels, pictures have 4"):
        _ = opened("sd15", filling).image
    other = build_tiny_sd15(tmp_path / "other", width=24)
    with pytest.raises(ArtefactError, match=r"reads states of width 16 .* give width 24"):
        _ = opened("sd15", other).image


@pytest.mark.parametrize(("family", "wide"), [("sd15", torch.float16), ("sdxl", torch.float32)])
def test_the_decoder_of_xl_alone_works_in_fp32(
    tiny_unet: Callable[..., Path], family: str, wide: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKL

    side, seen = opened(family, tiny_unet(family), "fp16").image, set[torch.dtype]()
    whole = AutoencoderKL.decode

    def decode(self: Any, latents: torch.Tensor, **how: Any) -> Any:
        seen.add(latents.dtype)
        return whole(self, latents, **how)

    monkeypatch.setattr(AutoencoderKL, "decode", decode)
    with torch.inference_mode():
        pixels = side.decode(torch.zeros((1, 4, 8, 8), dtype=torch.float16))
    assert seen == {wide}
    assert pixels.dtype == torch.float32
    assert bool(pixels.isfinite().all())


def test_steps_that_a_scheduler_cannot_take_are_told(tiny_unet: Callable[..., Path]) -> None:
    base = opened("sd15", tiny_unet("sd15"))
    with pytest.raises(InputError, match="lcm cannot take 51 steps"):
        ours(base, scheduler="lcm", steps=51)
    with pytest.raises(InputError, match="euler cannot take 61 steps: take one more or less"):
        ours(base, scheduler="euler", steps=61, options=(("timestep_spacing", "trailing"),))
