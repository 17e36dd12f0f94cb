"""The Kandinsky adapter draws what diffusers' pipelines draw from the same folders and noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli import registry
from creatok_cli.backbones import _weights
from creatok_cli.backbones._unclip import Walk
from creatok_cli.backbones.base import Start
from creatok_cli.errors import ArtefactError, DigestMismatch, InputError, ModelMissing, Refused
from creatok_cli.seeds import generator
from creatok_cli.tokens.lora import lora_bytes
from creatok_cli.tokens.token import Token
from tests.tiny import PROMPTS, build_tiny_kandinsky

SEEDS = list(range(10, 18))
NEAR = 1e-4
VERSIONS = ("2.2", "2.1")


def opened(folder: Path, dtype: str = "fp32") -> Any:
    facts = _weights.resolve(str(folder))
    module = registry.get("backbones", facts.backbone)
    return module.build(module.Spec(), facts, device="cpu", dtype=dtype)


def prior_noise(width: int, *labels: str | int) -> torch.Tensor:
    return torch.stack([torch.randn(width, generator=generator(s, *labels)) for s in SEEDS])


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(version: str, tiny_kandinsky: Callable[[str], Path]) -> Path:
    return tiny_kandinsky(version)


@pytest.fixture
def plain_prior(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """diffusers' prior pipeline, whose scheduler draws the adapter's noise."""
    import diffusers
    from diffusers.schedulers import scheduling_unclip

    kind = diffusers.KandinskyPriorPipeline
    if version == "2.2":
        kind = diffusers.KandinskyV22PriorPipeline
    index = iter(range(100))

    def draw(shape: Any, **settings: Any) -> torch.Tensor:
        found = prior_noise(shape[1], "prior", "step", next(index))
        return torch.cat([found] * (shape[0] // len(SEEDS)))

    monkeypatch.setattr(scheduling_unclip, "randn_tensor", draw)
    place = folder.with_name(folder.name.removesuffix("-decoder") + "-prior")
    pipe = kind.from_pretrained(place, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize("negative", [None, "red"])
def test_embeddings_equal_the_prior_pipeline(
    folder: Path, plain_prior: Any, guidance: float, negative: str | None
) -> None:
    one = opened(folder)
    first = prior_noise(one.prior.width, "prior")
    wanted = plain_prior(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * len(PROMPTS),
        num_inference_steps=5,
        guidance_scale=guidance,
        latents=torch.cat([first] * (1 if negative is None else 2)),
    )
    with torch.inference_mode():
        cond = one.text.encode(PROMPTS, [])
        away = None if negative is None else one.text.encode([negative], [])
        found = one.prior.draw(cond, Walk(5, guidance), seeds=SEEDS, negative=away)
    assert float((found - wanted.image_embeds).abs().max()) <= NEAR
    assert float(found.std(0).mean()) > 0.01, "eight embeddings of one kind compare nothing"
    if negative is None:
        black = one.prior.black.expand_as(found)
        assert float((black - wanted.negative_image_embeds).abs().max()) <= NEAR


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize("negative", ["", "red"])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim"])
def test_latents_equal_both_pipelines(
    folder: Path,
    version: str,
    plain_prior: Any,
    guidance: float,
    negative: str,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import diffusers
    from diffusers.schedulers import scheduling_ddpm

    one = opened(folder)
    steps, count, is_old = 3, len(PROMPTS), version == "2.1"
    is_said = bool(negative) and guidance > 1
    embeds = plain_prior(
        PROMPTS,
        negative_prompt=[negative] * count if is_said else None,
        num_inference_steps=4,
        guidance_scale=4.0,
        latents=torch.cat([prior_noise(one.prior.width, "prior")] * (2 if is_said else 1)),
    )
    with torch.inference_mode():
        cond, away = one.text.encode(PROMPTS, []), one.text.encode([negative] * count, [])
        noise = one.image.noise(SEEDS, (32, 24))
        assert noise.shape == (count, 4, 12, 16)
        found = list(
            one.image.denoise(
                noise,
                cond,
                negative=away,
                steps=steps,
                guidance=guidance,
                scheduler=scheduler,
                options=(("prior_steps", 4),),
                seeds=SEEDS,
            )
        )
        pixels = one.image.decode(found[-1])
    kind = diffusers.KandinskyPipeline if is_old else diffusers.KandinskyV22Pipeline
    pipe = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    schedulers = {"ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler}
    settings = dict(pipe.scheduler.config)
    if scheduler == "ddim":
        settings.pop("variance_type", None)  # which it would keep, and not know what to do with
    pipe.scheduler = schedulers[scheduler].from_config(settings)
    index = iter(range(steps))

    def draw(shape: Any, **more: Any) -> torch.Tensor:
        at = next(index)
        rows = [torch.randn(shape[1:], generator=generator(s, "step", at)) for s in SEEDS]
        return torch.stack(rows)

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", draw)
    latents: list[torch.Tensor] = []
    decode = pipe.movq.decode

    def decode_and_note(z: torch.Tensor, **more: Any) -> Any:
        latents.append(z)
        return decode(z, **more)

    monkeypatch.setattr(pipe.movq, "decode", decode_and_note)
    shown = pipe(
        **({"prompt": [""] * count} if is_old else {}),
        image_embeds=embeds.image_embeds,
        negative_image_embeds=embeds.negative_image_embeds,
        width=32,
        height=24,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=noise.clone(),
        output_type="pt",
    ).images
    assert len(found) == steps
    # Random weights leave latents of some 20 where real ones have 1.
    assert float((found[-1] - latents[0]).abs().max()) <= NEAR * float(latents[0].std())
    # The random decoder makes large steps of small ones.
    assert float((pixels - shown.clamp(-1, 1)).abs().max()) <= 20 * NEAR
    assert float(pixels.std(0).mean()) > 0.01


@pytest.mark.parametrize(
    ("strength", "guidance", "second"), [(0.5, 4.0, False), (0.75, 1.0, True), (1.0, 4.0, False)]
)
def test_latents_from_pictures_equal_the_img2img_pipelines(
    folder: Path,
    version: str,
    plain_prior: Any,
    strength: float,
    guidance: float,
    second: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every sampler; the pipelines' own default is the first."""
    import diffusers
    from diffusers.schedulers import scheduling_ddpm

    one = opened(folder)
    steps, count, is_old = 4, len(PROMPTS), version == "2.1"
    scheduler = one.facts.schedulers[int(second)]
    embeds = plain_prior(
        PROMPTS,
        num_inference_steps=4,
        guidance_scale=4.0,
        latents=prior_noise(one.prior.width, "prior"),
    )
    pixels = torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        noise = one.image.noise(SEEDS, (32, 32))
        found = list(
            one.image.denoise(
                noise,
                one.text.encode(PROMPTS, []),
                negative=one.text.encode([""] * count, []),
                steps=steps,
                guidance=guidance,
                scheduler=scheduler,
                options=(("prior_steps", 4),),
                seeds=SEEDS,
                start=Start(pixels * 2 - 1, strength),
            )
        )
    kind = diffusers.KandinskyImg2ImgPipeline if is_old else diffusers.KandinskyV22Img2ImgPipeline
    pipe = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    settings = dict(pipe.scheduler.config)
    if scheduler == "ddim":
        settings.pop("variance_type", None)
    schedulers = {"ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler}
    pipe.scheduler = schedulers[scheduler].from_config(settings)
    index = iter(range(steps))

    def draw(shape: Any, **more: Any) -> torch.Tensor:
        at = next(index)
        rows = [torch.randn(shape[1:], generator=generator(s, "step", at)) for s in SEEDS]
        return torch.stack(rows)

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", draw)
    monkeypatch.setattr(f"{kind.__module__}.randn_tensor", lambda shape, **more: noise.clone())
    latents: list[torch.Tensor] = []
    decode = pipe.movq.decode
    monkeypatch.setattr(
        pipe.movq, "decode", lambda z, **more: latents.append(z) or decode(z, **more)
    )
    pipe(
        **({"prompt": [""] * count} if is_old else {}),
        image=list(pixels[:, None]),
        image_embeds=embeds.image_embeds,
        negative_image_embeds=embeds.negative_image_embeds,
        width=32,
        height=32,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="pt",
    )
    assert len(found) == steps * strength
    assert float((found[-1] - latents[0]).abs().max()) <= NEAR * float(latents[0].std())


def test_text_and_picture_embeddings_equal_the_library(folder: Path, plain_prior: Any) -> None:
    from PIL import Image

    one = opened(folder)
    ids = plain_prior.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(plain_prior.text_encoder(ids).text_embeds, dim=-1)
        assert float((one.prior.texts(PROMPTS) - wanted).abs().max()) <= 1e-5
        images = [Image.effect_noise((32, 32), 60 + 40 * n).convert("RGB") for n in range(3)]
        rows = plain_prior.image_processor(images, return_tensors="pt").pixel_values
        seen = torch.nn.functional.normalize(plain_prior.image_encoder(rows).image_embeds, dim=-1)
    assert float((one.prior.pictures(images) - seen).abs().max()) <= 1e-4
    assert not torch.equal(one.prior.pictures(images, grey=True), seen)
    assert one.prior.pictures([]).shape == (0, one.prior.width)


def test_a_gradient_reaches_the_word_and_lowers_the_loss(folder: Path) -> None:
    """Ten steps of a word toward a fixed embedding, through the whole walk."""
    one = opened(folder)
    (name, width), *_ = one.text.encoders.items()
    start = one.text.rows("pig")[name].mean(0, keepdim=True)
    vectors = start.clone().requires_grad_(True)
    with torch.no_grad():
        owl = one.prior.sample(one.text.encode(["a red owl"], []), seeds=[1, 2])
    optimiser = torch.optim.AdamW([vectors], lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(10):
        cond = one.text.encode(["a red <x>"], [Token("<x>", "pig", {name: vectors})])
        seen = one.prior.sample(cond, seeds=[1, 2])
        assert torch.allclose(seen.norm(dim=1), torch.ones(2), atol=1e-5)
        loss = 1 - (seen * owl).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert vectors.shape == (1, width)
    assert losses[-1] < 0.8 * losses[0]


def test_rows_of_the_walk_depend_on_their_seed_alone(folder: Path) -> None:
    one = opened(folder)
    with torch.no_grad():
        cond = one.text.encode(["a pig"], [])
        rows = one.prior.sample(cond, seeds=[1, 2, 3, 1])
        again = one.prior.sample(cond, seeds=[3, 1, 2, 3])
    assert torch.equal(rows[0], rows[3])
    assert torch.equal(rows[2], again[0])
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    with pytest.raises(ValueError, match="grey"):
        one.prior.sample(cond, seeds=[1], grey=True)


def test_adapted_weights_start_as_nothing_and_learn(folder: Path) -> None:
    one = opened(folder)
    cond = one.text.encode(["a pig"], [])
    with torch.no_grad():
        plain = one.prior.sample(cond, seeds=[1])
    adapted = one.adapt(2, seed=5)
    found = one.prior.sample(cond, seeds=[1])
    assert torch.allclose(found, plain, atol=1e-6)
    found[0, 0].backward()
    moved = [leaf for name, leaf in adapted.parameters.items() if "lora_B" in name]
    assert moved
    assert all(leaf.grad is not None and bool(leaf.grad.abs().sum() > 0) for leaf in moved)
    assert all(name.startswith("prior.transformer_blocks.") for name in adapted.tensors())


def test_a_lora_of_the_prior_is_worn_as_the_library_wears_it(
    folder: Path, plain_prior: Any, tmp_path: Path
) -> None:
    one = opened(folder)
    adapted = one.adapt(2, seed=5)
    tensors = {
        name: rows
        if "lora_A" in name
        else 0.2 * torch.randn(rows.shape, generator=generator(1, name))
        for name, rows in adapted.tensors().items()
    }
    adapted.load(tensors)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    path.write_bytes(lora_bytes(tensors, {"kind": "lora"}, title="tiny"))
    with torch.no_grad():
        cond = one.text.encode(PROMPTS, [])
        trained = one.prior.draw(cond, Walk(3, 4.0), seeds=SEEDS)
        bare = opened(folder).prior.draw(cond, Walk(3, 4.0), seeds=SEEDS)
        other = opened(folder)
        other.wear([(str(path), 0.5)])
        worn = other.prior.draw(cond, Walk(3, 4.0), seeds=SEEDS)
        whole = opened(folder)
        whole.wear([(str(path), 1.0)])
        assert float((whole.prior.draw(cond, Walk(3, 4.0), seeds=SEEDS) - trained).abs().max()) < (
            NEAR
        )
    plain_prior.prior.load_lora_adapter(tensors, prefix="prior", adapter_name="own")
    plain_prior.prior.set_adapters("own", 0.5)
    first = prior_noise(one.prior.width, "prior")
    wanted = plain_prior(PROMPTS, num_inference_steps=3, guidance_scale=4.0, latents=first)
    assert float((worn - wanted.image_embeds).abs().max()) <= NEAR
    assert float((worn - bare).abs().max()) > 100 * NEAR
    with pytest.raises(RuntimeError, match="before a side opens"):
        other.wear([(str(path), 1.0)])
    path.write_bytes(
        lora_bytes(
            {name.replace("prior.", "text_encoder."): rows for name, rows in tensors.items()},
            {"kind": "lora"},
            title="tiny",
        )
    )
    with pytest.raises(ArtefactError, match="prior, unet can be changed"):
        opened(folder).wear([(str(path), 1.0)])


def test_options_of_the_prior_are_checked(folder: Path) -> None:
    one = opened(folder)
    with torch.inference_mode():
        cond = one.text.encode(["a pig"], [])
        how: dict[str, Any] = {
            "negative": cond,
            "steps": 2,
            "guidance": 4.0,
            "scheduler": one.facts.schedulers[0],
            "seeds": [1],
        }
        noise = one.image.noise([1], (32, 32))
        plain = list(one.image.denoise(noise, cond, options=(), **how))[-1]
        more = list(one.image.denoise(noise, cond, options=(("prior_guidance", 1.5),), **how))[-1]
        assert not torch.equal(plain, more)
        for bad in (("prior_steps", 1), ("prior_steps", True), ("prior_guidance", "x")):
            with pytest.raises(InputError, match="prior_steps is 2"):
                list(one.image.denoise(noise, cond, options=(bad,), **how))


def test_both_folders_belong_to_the_base(tmp_path: Path, version: str) -> None:
    folder = build_tiny_kandinsky(tmp_path, version=version)
    before = _weights.resolve(str(folder))
    prior = folder.with_name(folder.name.removesuffix("-decoder") + "-prior")
    settings = prior / "scheduler" / "scheduler_config.json"
    said = settings.read_text()
    settings.write_text(said.replace('"clip_sample_range": 5.0', '"clip_sample_range": 4.0'))
    assert _weights.resolve(str(folder)).digest != before.digest
    module = registry.get("backbones", before.backbone)
    planned = module.build(module.Spec(), before, device="cpu", dtype="fp32")
    with pytest.raises(DigestMismatch):
        planned.text.encode(["a"], [])
    settings.write_text(said.replace('"prediction_type": "sample"', '"prediction_type": "epsilon"'))
    with pytest.raises(ArtefactError, match="epsilon"):
        assert opened(folder).prior
    settings.write_text(said)
    assert _weights.resolve(str(folder)).digest == before.digest
    (prior / "prior" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Refused, match="pickle"):
        _weights.resolve(str(folder))
    (prior / "prior" / "pytorch_model.bin").unlink()
    index = prior / "model_index.json"
    index.write_text(index.read_text().replace("Kandinsky", "Other"))
    with pytest.raises(Refused, match="here belongs Kandinsky"):
        _weights.resolve(str(folder))
    prior.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelMissing, match="belongs beside it"):
        _weights.resolve(str(folder))
