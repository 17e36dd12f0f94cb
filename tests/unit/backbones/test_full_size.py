"""The real bases at full size on the meta device: counts, widths and shapes without a weight.

Models on that device have every shape and no memory, so our own adapters draw whole pictures here,
as far as no value is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from creatok_cli import registry
from creatok_cli.backbones._memory import needs
from creatok_cli.backbones._vet import Vetted
from creatok_cli.backbones._weights import _geometry
from creatok_cli.backbones.base import Conditioning, Load

NAMES = (
    *("sd15", "sdxl", "sd3-medium", "sd35-medium", "sd35-large"),
    *("flux-dev", "flux-schnell", "kandinsky21", "kandinsky22"),
)
PUBLISHED = (
    # (base, part, published, unit, where)
    ("sd15", "unet", 859_520_964, 1, "diffusers docs: ModelMixin.num_parameters"),
    ("sd15", "text_encoder", 123.06e6, 1e4, "transformers' CLIPTextModel of ViT-L/14"),
    ("sd15", "vae", 83_653_863, 1, "count of the loaded model, in public training logs"),
    ("sdxl", "unet", 2_567_463_684, 1, "count of the loaded model, in public training logs"),
    ("sdxl", "text_encoder_2", 694.66e6, 1e4, "open_clip docs/model_profile.csv: ViT-bigG-14"),
    ("sd3-medium", "text_encoder", 123.65e6, 1e4, "open_clip docs/model_profile.csv: ViT-L-14"),
    ("sd3-medium", "text_encoder_3", 9.52e9 / 2, 5e6, "repository: 9.52 GB in 16 bit"),
    ("sd3-medium", "transformer", 4.17e9 / 2, 5e6, "repository: 4.17 GB in 16 bit"),
    ("sd3-medium", "vae", 168e6 / 2, 5e5, "repository: 168 MB in 16 bit"),
    ("sd35-medium", "transformer", 4.94e9 / 2, 5e6, "repository: 4.94 GB in 16 bit"),
    ("sd35-large", "transformer", 16.30e9 / 2, 1e7, "repository: 9.99 and 6.31 GB in 16 bit"),
    ("flux-dev", "transformer", 11_901_408_320, 1, "repository: index of the weights"),
    ("flux-schnell", "transformer", 23.8e9 / 2, 5e7, "repository: 23.8 GB in 16 bit"),
    ("kandinsky21", "unet", 1.22e9, 1e7, "model card of Kandinsky 2.1"),
    ("kandinsky21", "movq", 67e6, 1e6, "model card of Kandinsky 2.1"),
    ("kandinsky21", "text_encoder", 560e6, 1e6, "model card of Kandinsky 2.1: XLM-R"),
    ("kandinsky22", "unet", 1.25e9, 1e7, "its config with the embedding of bigG"),
)
PUBLISHED_PRIORS = (
    ("kandinsky21", "prior", 1.0e9, 5e7, "model card of Kandinsky 2.1"),
    ("kandinsky21", "image_encoder", 303.97e6, 1e4, "open_clip docs/model_profile.csv: ViT-L-14"),
    (
        *("kandinsky22", "image_encoder", 1844.91e6, 1e4),
        "open_clip docs/model_profile.csv: ViT-bigG-14",
    ),
)


@pytest.fixture(scope="module")
def full() -> Iterator[ModuleType]:
    """benchmarks/_full_size.py, which is no package."""
    folder = str(Path(__file__).resolve().parents[3] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import _full_size

        yield _full_size
    finally:
        sys.path.remove(folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_the_elements_that_the_data_says(name: str, full: ModuleType) -> None:
    from _base_memory import counted

    assert tuple(full.BASES) == NAMES
    base = full.BASES[name]
    for one in (base, base.prior):
        for part in one.parts.values() if one else ():
            parameters, blocks = counted(part)
            assert parameters == part.parameters, (name, part.kind)
            assert sum(blocks.values()) == part.elements, (name, part.kind)


def test_counts_agree_with_what_is_published(full: ModuleType) -> None:
    rows = [(full.BASES[name].parts, *rest) for name, *rest in PUBLISHED]
    rows += [(full.BASES[name].prior.parts, *rest) for name, *rest in PUBLISHED_PRIORS]
    for parts, part, said, unit, where in rows:
        assert abs(parts[part].elements - said) <= unit, (part, where)
    with_guidance = full.FLUX_DEV.parameters - full.FLUX_SCHNELL.parameters
    assert with_guidance == (256 + 1) * 3072 + (3072 + 1) * 3072  # two layers for the number


def test_widths_on_which_adapters_and_tokens_rely(full: ModuleType) -> None:
    sdxl, sd3 = full.SDXL_UNET.config, full.SD3_MEDIUM.config
    low, high = full.CLIP_L.config["hidden_size"], full.CLIP_G.config["projection_dim"]
    assert sdxl["cross_attention_dim"] == low + full.CLIP_G.config["hidden_size"] == 2048
    ids = 6 * sdxl["addition_time_embed_dim"]
    assert sdxl["projection_class_embeddings_input_dim"] == high + ids == 2816
    assert sd3["pooled_projection_dim"] == low + high == 2048
    for part in (full.SD3_MEDIUM, full.SD35_MEDIUM, full.SD35_LARGE, full.FLUX_DEV):
        assert part.config["joint_attention_dim"] == full.T5_XXL.config["d_model"] == 4096
    assert full.FLUX_DEV.config["pooled_projection_dim"] == low
    assert full.FLUX_DEV.config["in_channels"] == 4 * full.FLUX_VAE.config["latent_channels"]
    for name, width in (("kandinsky21", 768), ("kandinsky22", 1280)):
        base = full.BASES[name]
        prior = base.prior.parts
        assert prior["prior"].config["embedding_dim"] == width
        assert prior["image_encoder"].config["projection_dim"] == width
        assert prior["text_encoder"].config["projection_dim"] == width
    for base in full.BASES.values():
        for (_, width), part in zip(base.encoders, full.TEXT_PARTS, strict=False):
            assert (base.prior or base).parts[part].config["hidden_size"] == width


@pytest.mark.parametrize("name", NAMES)
def test_sizes_that_a_plan_reads_from_the_configs(
    name: str, full: ModuleType, tmp_path: Path
) -> None:
    from _base_memory import write_configs

    base = full.BASES[name]
    write_configs(base, tmp_path)
    vetted = Vetted(tmp_path, registry.describe("backbones", base.backbone).facts["PARTS"])
    side, multiple, largest = _geometry(vetted, base.side_px)
    assert (side, side % multiple) == (base.side_px, 0)
    positions = base.parts.get("transformer", full.SD15_UNET).config.get("pos_embed_max_size")
    assert largest == (16 * positions if positions else None)


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_estimated_from_the_same_counts(name: str, full: ModuleType) -> None:
    from _base_memory import as_if_full_size

    base = full.BASES[name]
    load = Load((base.side_px, base.side_px), 1)
    with as_if_full_size(base) as folders:
        found = needs(folders, "bf16", load)
        small = needs(folders, "bf16", load, "fp8")
    assert found is not None
    assert small is not None
    parts = {**(base.prior.parts if base.prior else {}), **base.parts}
    denoiser = parts.get("transformer") or parts["unet"]
    assert (found.denoiser, small.denoiser) == (2 * denoiser.elements, denoiser.elements)
    t5 = [part for part in parts.values() if part is full.T5_XXL]
    assert found.t5 == sum(2 * part.elements for part in t5)
    others = [parts[part] for part in ("vae", "movq", "prior") if part in parts]
    assert found.others == tuple(2 * part.elements for part in others)
    towers = [
        sum(part.elements for key, part in one.parts.items() if key in full.TEXT_PARTS)
        for one in (base, base.prior)
        if one is not None
    ]
    assert found.towers + found.t5 == 2 * max(towers)
    assert found.picture("full") > found.picture("offload") >= found.picture("group")


@pytest.fixture(scope="module")
def words(full: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Tokenizers with few words; CLIP's have ids like the real ones."""
    import _base_folder
    from transformers import CLIPTokenizer, T5Tokenizer

    folder, found = tmp_path_factory.mktemp("words"), {}
    for own in (full.BASES["sd15"].words["tokenizer"], full.BASES["flux-dev"].words["tokenizer_2"]):
        kind = CLIPTokenizer if own.kind.startswith("CLIP") else T5Tokenizer
        _base_folder.write_words(own, folder / own.kind, is_tiny=True)
        found[own.kind] = kind.from_pretrained(folder / own.kind)
    return found


@pytest.fixture
def opened(full: ModuleType, words: Mapping[str, Any], tmp_path: Path) -> Any:
    """The adapter of a base by name, with every part on the meta device."""

    def build(name: str) -> Any:
        from _base_memory import write_configs
        from _meta_base import open_meta

        write_configs(full.BASES[name], tmp_path)
        return open_meta(name, full.BASES[name], str(tmp_path), words)

    return build


@pytest.mark.parametrize(
    ("name", "least"),
    [("sd15", 0.8), ("sdxl", 0.8), ("sd3-medium", 0.8), ("sd35-medium", 0.5), ("flux-dev", 0.8)],
)
def test_our_adapter_draws_at_full_size(
    name: str, least: float, full: ModuleType, opened: Any
) -> None:
    """What layers write is counted on the way, storage by storage; the estimate may say more,
    because kernels need room of their own. It knows nothing of SD3.5-medium's second attention.
    """
    from _base_memory import as_if_full_size
    from _meta_base import conditions, counting

    backbone, base = opened(name), full.BASES[name]
    side, channels = base.side_px // 8, base.parts["vae"].config["latent_channels"]
    load = Load((base.side_px, base.side_px), 2, is_guided=base.backbone != "flux")
    with as_if_full_size(base) as folders:
        estimate = needs(folders, base.dtype, load)
    assert estimate is not None
    with torch.inference_mode():
        cond = backbone.text.encode(["a photo of an owl", "a red fox"], ())
        read = {key: tuple(rows.shape[1:]) for key, rows in cond.tensors.items()}
        assert read == conditions(base)
        image = backbone.image
        noise = image.noise([1, 2], load.size_px)
        assert noise.shape == (2, channels, side, side)
        with counting() as drawing:
            latents = next(
                image.denoise(
                    noise,
                    cond,
                    negative=cond,
                    steps=2,
                    guidance=base.guidance,
                    scheduler=backbone.facts.schedulers[0],
                    options=(),
                    seeds=[1, 2],
                )
            )
        with counting() as decoding:
            pixels = image.decode(latents)
    assert (latents.shape, latents.device.type) == (noise.shape, "meta")
    assert pixels.shape == (2, 3, base.side_px, base.side_px)
    assert least < estimate.drawing / drawing.most < 2
    assert 1 <= estimate.decoding / decoding.most < 2


def test_the_sequence_of_sd3_is_333_rows_with_t5_and_without(opened: Any) -> None:
    image = opened("sd3-medium").image
    parts = {"states": torch.zeros(2, 77, 2048), "pooled": torch.zeros(2, 2048)}
    for more in ({}, {"t5": torch.zeros(2, 256, 4096)}):
        states, pooled = image._sequence(Conditioning(parts | more))
        assert (tuple(states.shape), tuple(pooled.shape)) == ((2, 333, 4096), (2, 2048))


def test_flux_packs_a_picture_of_1024_pixels_into_4096_rows() -> None:
    from creatok_cli.backbones._flux import pack, positions, unpack

    latents = torch.empty(2, 16, 128, 128, device="meta")
    packed = pack(latents)
    assert packed.shape == (2, 4096, 64)
    assert positions(64, 64).shape == (4096, 3)
    assert unpack(packed, 64, 64).shape == latents.shape


@pytest.mark.parametrize("name", ["kandinsky21", "kandinsky22"])
def test_kandinsky_at_full_size(name: str, full: ModuleType, opened: Any) -> None:
    """Part by part: between the parts the adapter asks for values, which meta tensors lack."""
    from _meta_base import unet_inputs

    from creatok_cli.backbones._kandinsky import KandinskyImage

    backbone, base = opened(name), full.BASES[name]
    ((_, width),) = base.encoders
    with torch.inference_mode():
        cond = backbone.text.encode(["a photo of an owl"], ())
        assert tuple(cond.tensors["states"].shape) == (1, 77, width)
        embedding = backbone.prior.network(
            torch.empty(1, width, device="meta", dtype=torch.float16),
            timestep=torch.zeros(1, device="meta", dtype=torch.float16),
            proj_embedding=cond.tensors["pooled"],
            encoder_hidden_states=cond.tensors["states"],
        ).predicted_image_embedding
        assert embedding.shape == (1, width) == (1, backbone.prior.width)
        silent = SimpleNamespace()  # the prior draws in `denoise`, which is not called here
        image = KandinskyImage(backbone._loader(), backbone.facts, silent, None, reads_words=False)
        found = image.unet(**unet_inputs(base, 1)).sample
        assert found.shape == (1, 8, 64, 64)
        assert image.decode(found[:, :4]).shape == (1, 3, 512, 512)
