"""How a base is to live in memory: what it needs, which rung is taken, and that rungs change no
picture.
"""

from __future__ import annotations

import copy
import gc
import importlib.metadata
import json
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from creatok_cli import registry
from creatok_cli.backbones import _adapter, _memory, _placing, _storage
from creatok_cli.backbones._memory import GIB, Needs, choose, make_room, needs, spare_bytes
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.base import Load, Room
from creatok_cli.domain import Job
from creatok_cli.errors import InputError, OutOfMemory, UnknownName
from creatok_cli.tokens._layout import write_layout
from tests.tiny_bases import TINY

SD3_MEDIUM = Needs(
    towers=round(1.64e9),
    t5=round(9.5e9),
    denoiser=round(4.2e9),
    layer=round(0.4e9),
    others=(round(0.17e9),),
    drawing=round(0.44e9),
    decoding=round(2.7e9),
)
"""Of Stable Diffusion 3 medium in 16 bit at 1024 px, batches of two, rounded."""
SHARD = "diffusion_pytorch_model-0000{}-of-00002.safetensors"


def weights(path: Path, dtype: str = "F16", **shapes: tuple[int, ...]) -> None:
    """A safetensors file of zeros; `__` in a name is a dot."""
    item = {"F16": 2, "F32": 4}[dtype]
    tensors = {}
    for name, shape in shapes.items():
        count = 1
        for length in shape:
            count *= length
        tensors[name.replace("__", ".")] = (dtype, shape, bytes(count * item))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_layout(tensors, {}))


def config(folder: Path, part: str, **content: Any) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / "config.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A transformer of three blocks in two files, decoder, CLIP and T5, by their headers alone."""
    place = tmp_path / "base"
    place.mkdir()
    parts = ("transformer", "vae", "text_encoder", "text_encoder_3", "tokenizer")
    index = {part: ["diffusers", "X"] for part in parts}
    (place / "model_index.json").write_text(json.dumps({"_class_name": "P", **index}))
    weights(
        place / "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        transformer_blocks__0__w=(10, 10),
        proj=(7,),
    )
    weights(
        place / "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        transformer_blocks__1__w=(15, 10),
        transformer_blocks__2__w=(10, 10),
    )
    (place / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    weights(place / "vae/diffusion_pytorch_model.safetensors", "F32", decoder=(50,))
    weights(place / "text_encoder/model.safetensors", x=(20,))
    weights(place / "text_encoder_3/model.safetensors", x=(80,))
    config(place, "transformer", num_attention_heads=2, attention_head_dim=8, patch_size=2)
    config(place, "vae", block_out_channels=[16, 32, 32, 32])
    config(place, "text_encoder", model_type="clip_text_model")
    config(place, "text_encoder_3", model_type="t5")
    return place


def test_weights_are_counted_from_headers_and_estimates_follow_the_load(folder: Path) -> None:
    found = needs([str(folder)], "bf16", Load((64, 64), 2))
    assert found is not None
    assert (found.denoiser, found.layer) == (2 * 357, 2 * (7 + 2 * 150))
    assert (found.others, found.towers, found.t5) == ((100,), 40, 160)
    # rows x (tokens of the picture and of the text) x width x 16 x bytes
    assert found.drawing == 4 * (16 + 333) * 16 * 16 * 2
    assert found.decoding == 2 * 64 * 64 * 16 * 10 * 2
    plain = needs([str(folder)], "fp32", Load((64, 64), 2, is_guided=False))
    assert plain is not None
    assert (plain.denoiser, plain.drawing) == (4 * 357, found.drawing)


def test_a_variant_beside_the_plain_file_counts_once(folder: Path) -> None:
    before = needs([str(folder)], "fp16", Load((64, 64), 1))
    weights(folder / "vae/diffusion_pytorch_model.fp16.safetensors", decoder=(50,))
    _memory._elements.cache_clear()
    assert needs([str(folder)], "fp16", Load((64, 64), 1)) == before


def test_storage_shrinks_the_denoiser_alone(folder: Path) -> None:
    plain, stored = (needs([str(folder)], "bf16", Load((64, 64), 1), s) for s in ("", "fp8"))
    assert plain is not None
    assert stored is not None
    assert (stored.denoiser, plain.denoiser) == (357, 714)
    assert (stored.others, stored.drawing) == (plain.others, plain.drawing)


def test_decoding_is_sliced_at_a_megapixel(folder: Path) -> None:
    one, four = (needs([str(folder)], "bf16", Load((1024, 1024), rows)) for rows in (1, 4))
    assert one is not None
    assert four is not None
    assert one.decoding == four.decoding
    assert four.drawing == 4 * one.drawing


def test_what_holds_no_denoiser_needs_nothing(tmp_path: Path) -> None:
    assert needs([str(tmp_path)], "fp32", Load((64, 64), 1)) is None


@pytest.mark.parametrize(
    ("gib", "rung", "words"),
    [
        (24, "full", "full"),
        (11.5, "full", "full"),
        (8, "full", "group"),
        (6, "offload", "group"),
        (3.5, "group", "group"),
    ],
)
def test_the_first_rung_that_fits_is_taken(gib: float, rung: str, words: str) -> None:
    fit = choose([SD3_MEDIUM], round(gib * GIB), what="sd3 in bf16", device="cuda:0")
    assert (fit.room.rung, fit.room.words, fit.is_tight) == (rung, words, False)
    assert f"{gib:.1f} GiB can be used on cuda:0" in fit.message
    assert ("T5 is read layer by layer" in fit.message) == (words == "group")
    assert _memory.HOW[fit.room.rung] in fit.message


def test_a_rung_that_is_only_estimated_to_be_too_small_is_tried() -> None:
    fit = choose([SD3_MEDIUM], round(2.9e9), what="sd3 in bf16", device="cuda:0")
    assert (fit.room.rung, fit.is_tight) == ("group", True)
    for way in ("smaller pictures", "--batch-size 1", "options.storage=fp8"):
        assert way in fit.message
    stored = choose([SD3_MEDIUM], round(2.9e9), what="x", device="cuda:0", storage="fp8")
    assert "storage" not in stored.message


def test_weights_that_fit_in_no_way_are_an_error_that_says_what_helps() -> None:
    with pytest.raises(OutOfMemory, match=r"2\.6 GiB for its weights .* 1\.0 GiB can be") as found:
        choose([SD3_MEDIUM], GIB, what="sd3 in bf16", device="cuda:0")
    assert "storage fp8" in str(found.value)
    assert found.value.code == 5


def test_the_largest_of_several_loads_decides() -> None:
    small = Needs(1, 0, 1, 1, (1,), 1, 1)
    fit = choose([small, SD3_MEDIUM], 6 * GIB, what="x", device="cuda:0")
    assert fit.room.rung == "offload"


def test_what_may_be_used_is_free_memory_within_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spare_bytes("cpu", 8) is None
    monkeypatch.setattr(_memory, "free_bytes", lambda device: 10 * GIB)
    assert spare_bytes("cuda:0", None) == 10 * GIB - _memory.HEADROOM_BYTES
    assert spare_bytes("cuda:0", 6) == 6 * GIB
    assert spare_bytes("cuda:0", 80) == 10 * GIB - _memory.HEADROOM_BYTES
    assert spare_bytes("cuda:0", -2) == 8 * GIB
    assert spare_bytes("cuda:0", -20) == 0


def test_the_cap_binds_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, str]] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * GIB, 24 * GIB))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda f, device: asked.append((f, device))
    )
    for gib in (None, -2.0, 8.0, 48.0):
        _memory.cap("cuda:0", gib)
    _memory.cap("cpu", 8.0)
    assert asked == [(8 / 24, "cuda:0"), (1.0, "cuda:0")]


def test_only_what_lives_whole_on_its_device_is_compiled(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def room(spare: int | None, storage: str = "") -> Room:
        monkeypatch.setattr(_memory, "spare_bytes", lambda device, vram: spare)
        return make_room(
            [str(folder)],
            [Load((64, 64), 1)],
            dtype="bf16",
            storage=storage,
            name="x",
            device="cuda:0",
            vram_gib=None,
            compiled=True,
        ).room

    assert room(None) == Room(is_compiled=True)
    assert room(GIB) == Room(is_compiled=True)
    assert room(GIB, "fp8") == Room()
    assert room(1_311_000).rung == "offload"
    assert not room(1_311_000).is_compiled


class Model(torch.nn.Module):
    """Counts where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def to(self, *args: Any, **more: Any) -> Model:
        self.sent.append(str(args[0]))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_models_take_turns_on_the_seat() -> None:
    seat = _placing.Seat("cuda:0")
    one, other = seat.guard(Model()), seat.guard(Model())
    for _ in range(3):
        one(torch.ones(1))
    assert one.sent == ["cuda:0"]
    other._hf_hook.pre_forward(other)  # as `decode` of diffusers' autoencoders calls it
    assert (one.sent, other.sent) == (["cuda:0", "cpu"], ["cuda:0"])
    twin = copy.deepcopy(other)
    twin(torch.ones(1))
    assert (other.sent[-1], twin.sent[-1]) == ("cpu", "cuda:0")
    gone = weakref.ref(twin)
    del twin
    gc.collect()
    assert gone() is None  # the seat keeps nothing alive
    one(torch.ones(1))
    assert one.sent[-1] == "cuda:0"


def opened(folder: Path, room: Room = Room(), storage: str = "") -> Any:  # noqa: B008 - frozen
    facts = resolve(str(folder))
    module = registry.get("backbones", facts.backbone)
    backbone = module.build(module.Spec(), facts, device="cpu", dtype="fp32")
    if storage:
        backbone.store(storage)
    backbone.fit(room)
    return backbone


def drawn(backbone: Any) -> tuple[Tensor, Tensor]:
    """Latents and pixels of two batches of two, the second after a decode."""
    facts = backbone.facts
    job = Job(
        base_digest="x",
        prompt="a cat",
        seed=1,
        size_px=facts.size_px,
        steps=2,
        guidance=4.0,
        scheduler=facts.schedulers[0],
        dtype="fp32",
    )
    with torch.inference_mode():
        cond = backbone.condition([job, job], [])
        side = backbone.image
        for _ in range(2):
            latents = noise = side.noise([1, 2], facts.size_px)
            for latents in side.denoise(  # noqa: B007 - the last one counts
                noise,
                cond,
                negative=cond,
                steps=2,
                guidance=4.0,
                scheduler=facts.schedulers[0],
                options=(),
                seeds=[1, 2],
            ):
                pass
            pixels = side.decode(latents)
        side.decode(latents, precise=True)
    return latents, pixels


Folders = Callable[..., Path]


@pytest.fixture(params=sorted(TINY))
def real(request: pytest.FixtureRequest, tiny_folders: Folders, tiny_base: Folders) -> Path:
    """A tiny base of each family's real classes, SD3 with T5."""
    is_sd3 = request.param == "StableDiffusion3Pipeline"
    return tiny_folders(t5=True) if is_sd3 else tiny_base(request.param)


def test_rungs_change_no_picture_and_storage_does(real: Path) -> None:
    plain = drawn(opened(real))
    for room in (Room("offload"), Room("group", "group")):
        assert all(map(torch.equal, plain, drawn(opened(real, room))))
    stored = opened(real, storage="fp8")
    latents, pixels = drawn(stored)
    assert not torch.equal(latents, plain[0])
    assert bool(pixels.isfinite().all())
    denoiser = getattr(stored.image, "transformer", None) or stored.image.unet
    assert torch.float8_e4m3fn in {each.dtype for each in denoiser.parameters()}


def test_storage_is_the_same_layer_by_layer(tiny_sd3: Path) -> None:
    plain, grouped = (drawn(opened(tiny_sd3, room, "fp8")) for room in (Room(), Room("group")))
    assert torch.equal(plain[0], grouped[0])


def test_a_base_makes_room_by_what_is_free(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened(real)
    load = Load(base.facts.size_px, 2)
    found = needs(base.folders, "fp32", load)
    assert found is not None
    assert found.picture("full") > found.picture("offload") >= found.picture("group")
    for rung in ("full", "offload"):
        spare = found.picture(rung)
        monkeypatch.setattr(_memory, "spare_bytes", lambda device, vram, spare=spare: spare)
        fit = opened(real).make_room([load], None, compiled=False)
        assert fit.room.rung == rung
    monkeypatch.setattr(_memory, "spare_bytes", lambda device, vram: 10)
    with pytest.raises(OutOfMemory, match="even layer by layer"):
        opened(real).make_room([load], None, compiled=False)


def test_storage_is_checked_before_anything_is_read(tiny_sd3: Path) -> None:
    assert _storage.checked_storage((("x", 1),)) == ""
    assert _storage.checked_storage((("storage", "nf4"), ("x", 1))) == "nf4"
    with pytest.raises(UnknownName, match="unknown storage 'fp4'; did you mean"):
        _storage.checked_storage((("storage", "fp4"),))
    _storage.check_storage("fp8", has_loras=True)
    with pytest.raises(InputError, match="LoRAs have changed: use storage fp8"):
        _storage.check_storage("nf4", has_loras=True)
    with pytest.raises(InputError, match="needs a CUDA device, not cpu"):
        opened(tiny_sd3, storage="int8")


@pytest.mark.parametrize(("there", "fault"), [(None, "creatok.quant"), (object(), "")])
def test_quantised_storage_needs_its_extra(
    there: object, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_storage, "find_spec", lambda name: there)
    with pytest.raises(InputError, match=fault) if fault else nullcontext():
        _storage.check_storage("int8", has_loras=False)


@pytest.mark.parametrize(("storage", "rung"), [("nf4", "full"), ("int8", "offload")])
def test_quantised_weights_are_read_to_the_device_and_stay_or_take_turns(
    storage: str, rung: Any, tiny_sd3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []
    read = _adapter.load_part

    def load(kind: Any, folder: str, part: str, *, settings: Any, **how: Any) -> Any:
        asked.append((part, settings))
        return read(kind, folder, part, **how)

    monkeypatch.setattr(_adapter, "load_part", load)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.48")
    monkeypatch.setattr(_storage, "check_device", lambda storage, device: None)
    base = opened(tiny_sd3, Room(rung), storage)
    has_turns = hasattr(base.image.transformer, "_hf_hook")
    assert has_turns == (rung == "offload")
    settings = dict(asked)
    assert settings["vae"] == {}
    config = settings["transformer"]["quantization_config"]
    assert settings["transformer"]["device_map"] == {"": "cpu"}
    assert config.load_in_8bit == (storage == "int8")
    assert not config.load_in_4bit or config.bnb_4bit_quant_type == "nf4"


def test_room_and_storage_are_chosen_before_a_side_opens(tiny_sd3: Path) -> None:
    base = opened(tiny_sd3)
    assert base.text is not None
    for late in (lambda: base.fit(Room()), lambda: base.store("fp8")):
        with pytest.raises(RuntimeError, match="before a side opens"):
            late()


def test_blocks_that_repeat_are_compiled(
    tiny_folders: Folders, tiny_kandinsky: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: done.append((type(self).__name__, how))
    )
    sd3 = opened(tiny_folders(t5=True), Room(is_compiled=True))
    blocks = len(sd3.image.transformer.transformer_blocks)
    assert done == [("JointTransformerBlock", {"fullgraph": True})] * blocks
    done.clear()
    assert opened(tiny_kandinsky("2.2"), Room(is_compiled=True)).image is not None
    assert done == [("UNet2DConditionModel", {})]


def test_compiled_blocks_draw_the_same_without_a_break_in_their_graph(
    tiny_sd3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.nn.Module.compile
    # The trace is what may fail; making kernels of it needs a C++ compiler.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: real(self, **how, backend="eager")
    )
    plain = drawn(opened(tiny_sd3))
    assert all(map(torch.equal, plain, drawn(opened(tiny_sd3, Room(is_compiled=True)))))
