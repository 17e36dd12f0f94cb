"""The renderer against a backbone of plain arithmetic: order, padding, failures, memory, stops."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from creatok_cli import _conditions, config
from creatok_cli._means import Means
from creatok_cli.backbones.base import Conditioning, Fit, Load, Room
from creatok_cli.domain import BaseFacts, Batch, Failed, Group, Job, Plan, Rendered
from creatok_cli.errors import (
    ArtefactError,
    DeviceLost,
    DigestMismatch,
    InputError,
    Interrupted,
    OutOfMemory,
    TokenMissing,
)
from creatok_cli.executors.local import Local
from creatok_cli.hashing import keyed
from creatok_cli.render import Renderer, base_label
from creatok_cli.seeds import generator
from creatok_cli.tokens.file import save_token
from creatok_cli.tokens.lora import read_lora
from creatok_cli.tokens.token import Token
from tests.fakes.loras import write_lora

FACTS = BaseFacts(
    name="plain",
    backbone="plain",
    folder="",
    digest="sha256:0",
    licence="cc0-1.0",
    steps=3,
    guidance=4.0,
    size_px=(8, 8),
    size_multiple=1,
    schedulers=("none",),
    dtype="fp32",
)
GROUP = Group(base="plain", base_digest="sha256:0", dtype="fp32")


def job(index: int, **changes: Any) -> Job:
    given: dict[str, Any] = {
        "base_digest": "sha256:0",
        "base": "plain",
        "prompt": f"prompt {index % 3}",
        "seed": index,
        "size_px": (8, 8),
        "steps": 3,
        "guidance": 4.0,
        "scheduler": "none",
        "dtype": "fp32",
        "name": f"row/{index:04d}",
        "index": index,
    }
    return keyed(Job(**given | changes))


def batch(indices: Sequence[int], size: int = 4, index: int = 0, **changes: Any) -> Batch:
    jobs = tuple(job(each, **changes) for each in indices)
    return Batch(index=index, group=GROUP, jobs=jobs, batch_class=size)


def plan(*batches: Batch) -> Plan:
    return Plan(sheet="s", digest="d", batches=batches)


@dataclass
class Faults:
    """What goes wrong, by call number or by seed."""

    denoise: Callable[[int, list[int]], None] = lambda call, seeds: None
    decode: Callable[[int, Tensor, bool], Tensor] = lambda call, pixels, precise: pixels
    latents: Callable[[Tensor, list[int]], Tensor] = lambda latents, seeds: latents
    encode: Callable[[list[str]], None] = lambda prompts: None
    open_image: Callable[[int], None] = lambda call: None


@dataclass
class Plain:
    """A backbone whose picture is noise plus the length of its prompt: rows are traceable."""

    faults: Faults = field(default_factory=Faults)
    facts: BaseFacts = FACTS
    device: str = "cpu"
    prior: Any = None
    encoders: Any = field(default_factory=lambda: {"clip_l": 4})
    calls: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    encoded: list[str] = field(default_factory=list)
    worn: list[tuple[str, float]] = field(default_factory=list)

    @property
    def text(self) -> Plain:
        return self

    @property
    def image(self) -> Plain:
        self.calls.append("image")
        self.faults.open_image(self.calls.count("image"))
        return self

    def release(self, side: str) -> None:
        self.released.append(side)

    def wear(self, loras: Sequence[tuple[str, float]]) -> None:
        self.calls.append("wear")
        self.worn += loras

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        prompts = [each.prompt for each in jobs]
        self.faults.encode(prompts)
        self.encoded += prompts
        bonus = {token.word: float(token.vectors["clip_l"].sum()) for token in tokens}
        values = [len(p) + sum(v for w, v in bonus.items() if w in p) for p in prompts]
        cut = tuple(p[20:] for p in prompts)
        return Conditioning({"length": torch.tensor(values, dtype=torch.float32)[:, None]}, cut)

    def cut(self, prompts: Sequence[str], tokens: Sequence[Token]) -> tuple[str, ...]:
        return tuple(prompt[20:] for prompt in prompts)

    def noise(self, seeds: Sequence[int], size_px: tuple[int, int]) -> Tensor:
        shape = (3, size_px[1], size_px[0])
        return torch.stack([torch.randn(shape, generator=generator(s, "noise")) for s in seeds])

    def denoise(self, noise: Tensor, cond: Conditioning, **how: Any) -> Iterator[Tensor]:
        self.calls.append("denoise")
        self.sizes.append(len(noise))
        seeds = list(how["seeds"])
        self.faults.denoise(self.calls.count("denoise"), seeds)
        assert len(cond) == len(noise)
        assert (how["negative"] is not None) == (how["guidance"] > 1)
        for step in range(how["steps"]):
            shift = cond.tensors["length"][:, :, None, None] / 100
            yield self.faults.latents(noise * 0.2 + shift * (step + 1) / how["steps"], seeds)

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        self.calls.append("decode")
        pixels = latents.clamp(-1, 1)
        return self.faults.decode(self.calls.count("decode"), pixels, precise)


LIGHT = replace(FACTS, threads=1)
"""A base whose batches may be drawn beside each other."""


def renderer(plain: Plain, **more: Any) -> Renderer:
    return Renderer(lambda group: plain, **more)


def data(outcome: Rendered | Failed) -> bytes:
    assert isinstance(outcome, Rendered), outcome
    return outcome.image.tobytes()


@pytest.fixture
def whole() -> dict[int, bytes]:
    """Bytes of pictures 0..7 in an untroubled run."""
    done = [each for i in (0, 4) for each in renderer(Plain()).render(batch(range(i, i + 4)))]
    return {each.job.index: data(each) for each in done}


def test_one_outcome_per_job_in_order_with_its_story(whole: dict[int, bytes]) -> None:
    plain = Plain()
    one = renderer(plain)
    results = one.render(batch([2, 0, 1]))
    assert [each.job.index for each in results] == [2, 0, 1]
    assert [data(each) for each in results] == [whole[2], whole[0], whole[1]]
    first = results[0]
    assert isinstance(first, Rendered)
    assert first.provenance.device == "cpu"
    assert (first.provenance.batch_class, first.provenance.batch_effective) == (4, 4)
    assert first.provenance.seconds > 0
    names = dict(first.provenance.versions)
    assert {"creatok", "torch", "pillow", "cpu", "threads"} <= names.keys()
    assert dict(first.facts) == {"base": "plain", "licence": "cc0-1.0"}
    assert plain.sizes == [4]  # a tail of three is padded
    assert (one.counters.forwards, one.counters.decodes, one.counters.batches) == (3, 1, 1)


def test_each_unique_string_is_encoded_once_and_encoders_are_dropped() -> None:
    plain = Plain()
    one = renderer(plain)
    batches = [batch(range(i, i + 4), index=i // 4) for i in range(0, 16, 4)]
    one.prepare(plan(*batches))
    for each in batches:
        one.render(each)
    assert sorted(plain.encoded) == ["", "prompt 0", "prompt 1", "prompt 2"]
    assert (one.counters.encodes, one.counters.unique) == (4, 4)
    assert plain.released == ["text"]
    assert plain.calls.index("denoise") > 0
    assert one.counters.opened == 1


def test_without_a_plan_encoders_stay_and_nothing_is_encoded_twice() -> None:
    plain = Plain()
    one = renderer(plain)
    for i in range(0, 16, 4):
        one.render(batch(range(i, i + 4)))
    assert sorted(plain.encoded) == ["", "prompt 0", "prompt 1", "prompt 2"]
    assert plain.released == []


def test_guidance_of_one_asks_for_no_negative() -> None:
    plain = Plain()
    renderer(plain).render(batch([0, 1], guidance=1.0, negative="red"))
    assert sorted(plain.encoded) == ["prompt 0", "prompt 1"]


def test_large_plans_are_encoded_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conditions, "CONDITION_BYTES", 100)
    monkeypatch.setattr(_conditions, "ENCODE_SLICE", 8)
    batches = [batch([i], size=1, index=i, prompt=f"p{i}", guidance=1.0) for i in range(100)]
    plain = Plain()
    one = renderer(plain)
    one.prepare(plan(*batches))
    for each in batches:
        one.render(each)
    assert plain.encoded == [f"p{i}" for i in range(100)]
    assert one.counters.encodes == one.counters.unique == 100
    assert plain.released.count("text") == 4  # windows of 32 prompts: 4 bytes each, 8 at a time


def test_without_a_plan_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conditions, "CONDITION_BYTES", 40)
    plain = Plain()
    one = renderer(plain)
    for i in range(30):
        one.render(batch([i], size=1, index=i, prompt=f"p{i}", guidance=1.0))
    assert len(plain.encoded) == 30
    one.render(batch([29], size=1, prompt="p29", guidance=1.0))
    assert len(plain.encoded) == 30
    one.render(batch([0], size=1, prompt="p0", guidance=1.0))
    assert len(plain.encoded) == 31  # forgotten meanwhile


def test_one_odd_prompt_breaks_only_its_own_picture(whole: dict[int, bytes]) -> None:
    def encode(prompts: list[str]) -> None:
        if "prompt 1" in prompts:
            raise ValueError("odd")

    results = renderer(Plain(Faults(encode=encode))).render(batch([0, 1, 2, 3]))
    assert isinstance(results[1], Failed)
    assert "cannot be encoded: ValueError: odd" in results[1].message
    assert [data(results[i]) for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]


def test_poison_is_isolated_and_the_rest_keeps_its_bytes(whole: dict[int, bytes]) -> None:
    def denoise(call: int, seeds: list[int]) -> None:
        if 2 in seeds:
            raise RuntimeError("bad row\nlong trace")

    plain = Plain(Faults(denoise=denoise))
    results = renderer(plain).render(batch([0, 1, 2, 3]))
    bad = results[2]
    assert isinstance(bad, Failed)
    assert (bad.kind, bad.message, bad.retriable) == ("error", "RuntimeError: bad row", False)
    assert [data(results[i]) for i in (0, 1, 3)] == [whole[i] for i in (0, 1, 3)]
    assert plain.sizes == [4] * 5


@pytest.mark.parametrize("fits", [4, 2, 1])
def test_short_memory_halves_the_batch_and_says_so(whole: dict[int, bytes], fits: int) -> None:
    def denoise(call: int, seeds: list[int]) -> None:
        if len(seeds) > fits:
            raise torch.OutOfMemoryError("no room")

    plain = Plain(Faults(denoise=denoise))
    one = renderer(plain)
    results = one.render(batch(range(8), size=8))
    assert [each.job.index for each in results] == list(range(8))
    assert all(isinstance(each, Rendered) for each in results)
    efforts = [each.provenance.batch_effective for each in results if isinstance(each, Rendered)]
    assert efforts == [fits] * 8
    assert [data(each) for each in results] == [whole[i] for i in range(8)]
    before = len(plain.sizes)
    one.render(batch(range(8), size=8, index=1))
    assert plain.sizes[before:] == [fits] * (8 // fits)  # the smaller class is remembered


@pytest.mark.parametrize("where", ["decode", "cpu"])
def test_short_memory_elsewhere_counts_too(where: str) -> None:
    def decode(call: int, pixels: Tensor, precise: bool) -> Tensor:
        if len(pixels) > 2:
            if where == "cpu":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            raise torch.OutOfMemoryError("vae")
        return pixels

    results = renderer(Plain(Faults(decode=decode))).render(batch(range(4)))
    assert [each.provenance.batch_effective for each in results if isinstance(each, Rendered)] == [
        2
    ] * 4


def test_memory_short_even_alone_fails_the_job_only() -> None:
    def denoise(call: int, seeds: list[int]) -> None:
        if 3 in seeds:
            raise torch.OutOfMemoryError("no room")

    results = renderer(Plain(Faults(denoise=denoise))).render(batch(range(4)))
    kinds = [each.kind if isinstance(each, Failed) else "" for each in results]
    assert kinds == ["", "", "", "oom"]
    assert isinstance(results[3], Failed)
    assert results[3].retriable


def test_a_base_that_does_not_fit_makes_room_first_then_ends_the_run() -> None:
    def once(call: int) -> None:
        if call == 1:
            raise torch.OutOfMemoryError("both sides")

    plain = Plain(Faults(open_image=once))
    assert len(renderer(plain).render(batch([0]))) == 1
    assert plain.released == ["text"]

    def always(call: int) -> None:
        raise torch.OutOfMemoryError("both sides")

    with pytest.raises(OutOfMemory, match="does not fit"):
        renderer(Plain(Faults(open_image=always))).render(batch([0]))


def test_a_sticky_device_error_stops_the_run_after_one_retry() -> None:
    calls: list[int] = []

    def denoise(call: int, seeds: list[int]) -> None:
        calls.append(call)
        if call >= 2:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    one = renderer(Plain(Faults(denoise=denoise)))
    assert all(isinstance(each, Rendered) for each in one.render(batch(range(4))))
    with pytest.raises(DeviceLost, match="illegal memory access") as caught:
        one.render(batch(range(4, 8), index=1))
    assert caught.value.code == 5
    assert calls == [1, 2, 3]


def test_a_passing_device_error_is_forgiven(whole: dict[int, bytes]) -> None:
    def denoise(call: int, seeds: list[int]) -> None:
        if call in (1, 3):
            raise torch.AcceleratorError("hiccup")

    one = renderer(Plain(Faults(denoise=denoise)))
    for i in (0, 4):
        assert [data(each) for each in one.render(batch(range(i, i + 4)))] == [
            whole[k] for k in range(i, i + 4)
        ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_fail_one_job(whole: dict[int, bytes], value: float) -> None:
    def latents(rows: Tensor, seeds: list[int]) -> Tensor:
        rows = rows.clone()
        rows[seeds.index(1), 0, 0, 0] = value
        return rows

    plain = Plain(Faults(latents=latents))
    results = renderer(plain).render(batch(range(4)))
    assert isinstance(results[1], Failed)
    assert (results[1].kind, "denoiser" in results[1].message) == ("non-finite", True)
    assert [data(results[i]) for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]
    assert plain.calls.count("decode") == 1


def test_a_decoder_that_overflows_gets_one_precise_retry(whole: dict[int, bytes]) -> None:
    def decode(call: int, pixels: Tensor, precise: bool) -> Tensor:
        if not precise:
            pixels = pixels.clone()
            pixels[1] = torch.nan
        else:
            pixels = pixels * 0.5
        return pixels

    plain = Plain(Faults(decode=decode))
    results = renderer(plain).render(batch(range(4)))
    assert plain.calls.count("decode") == 2
    retried = results[1]
    assert isinstance(retried, Rendered)
    assert retried.provenance.notes == ("decoder fp32 retry",)
    assert data(retried) != whole[1]
    assert [data(results[i]) for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]
    assert [each.provenance.notes for each in results if isinstance(each, Rendered)].count(()) == 3


def test_a_decoder_that_stays_broken_fails_the_job() -> None:
    def decode(call: int, pixels: Tensor, precise: bool) -> Tensor:
        return torch.full_like(pixels, torch.nan)

    results = renderer(Plain(Faults(decode=decode))).render(batch(range(3)))
    assert [each.kind for each in results if isinstance(each, Failed)] == ["non-finite"] * 3


def test_pads_do_not_trigger_retries_or_failures() -> None:
    def decode(call: int, pixels: Tensor, precise: bool) -> Tensor:
        pixels = pixels.clone()
        pixels[2:] = torch.nan
        return pixels

    plain = Plain(Faults(decode=decode))
    results = renderer(plain).render(batch([0, 1]))
    assert all(isinstance(each, Rendered) for each in results)
    assert plain.calls.count("decode") == 1


@pytest.mark.parametrize(("span", "flat"), [(0.0, True), (2.0, True), (2.6, False)])
@pytest.mark.parametrize("level", [-1.0, 0.2])
def test_empty_pictures_are_never_given_out(span: float, flat: bool, level: float) -> None:
    def decode(call: int, pixels: Tensor, precise: bool) -> Tensor:
        pixels = torch.full_like(pixels, level)
        pixels[:, 1] = -pixels[:, 1]  # channels differ, but each is flat
        pixels[0, 0, 0, 0] += span / 127.5
        return pixels

    results = renderer(Plain(Faults(decode=decode))).render(batch([0], size=1))
    if flat:
        assert isinstance(results[0], Failed)
        assert results[0].kind == "flat"
    else:
        assert isinstance(results[0], Rendered)


def test_a_stop_between_steps_interrupts_without_an_outcome() -> None:
    stop = threading.Event()

    def latents(rows: Tensor, seeds: list[int]) -> Tensor:
        if 5 in seeds:
            stop.set()
        return rows

    one = renderer(Plain(Faults(latents=latents)), stop=stop)
    assert len(one.render(batch(range(4)))) == 4
    with pytest.raises(Interrupted):
        one.render(batch(range(4, 8), index=1))
    assert one.counters.forwards == 4
    with pytest.raises(Interrupted):
        one.render(batch(range(4), index=2))
    assert one.counters.forwards == 4


def test_input_pictures_and_unknown_loras_are_refused_not_ignored() -> None:
    results = renderer(Plain()).render(batch([0], init_image="0" * 64, strength=0.5))
    assert isinstance(results[0], Failed)
    assert "cannot start from a picture" in results[0].message
    group = replace(GROUP, weights=(("sha256:1", 1.0),))
    with pytest.raises(TokenMissing, match="LoRA sha256:1 was not loaded"):
        renderer(Plain()).render(replace(batch([0]), group=group))


def test_a_base_wears_the_loras_of_its_group_before_it_opens(tmp_path: Path) -> None:
    matrix = {"t.q.lora_A.weight": torch.ones((1, 2)), "t.q.lora_B.weight": torch.ones((2, 1))}
    paths = []
    for at in range(2):
        grown = {name: rows + at for name, rows in matrix.items()}
        paths.append(write_lora(tmp_path / f"{at}.safetensors", grown))
    files = {read_lora(path).digest: str(path) for path in paths}
    assert len(files) == 2
    plain = Plain()
    one = renderer(plain, loras=files)
    weights = tuple(zip(reversed(files), (0.5, -1.0), strict=True))
    one.render(replace(batch([0]), group=replace(GROUP, weights=weights)))
    assert plain.worn == [(str(paths[1]), 0.5), (str(paths[0]), -1.0)]
    assert plain.calls[:1] == ["wear"]


def test_errors_of_the_sheet_end_the_run_instead_of_failing_each_job() -> None:
    def denoise(call: int, seeds: list[int]) -> None:
        raise InputError("no such option")

    with pytest.raises(InputError):
        renderer(Plain(Faults(denoise=denoise))).render(batch([0]))


def test_changing_the_group_reopens_only_when_weights_change() -> None:
    opened: list[Group] = []

    def open_backbone(group: Group) -> Plain:
        opened.append(group)
        return Plain()

    one = Renderer(open_backbone)
    one.render(batch([0]))
    one.render(batch([1]))
    one.render(replace(batch([2]), group=replace(GROUP, dtype="bf16")))
    one.render(batch([3]))
    assert [group.dtype for group in opened] == ["fp32", "bf16", "fp32"]


def test_a_renderer_pickles_without_what_is_open() -> None:
    one = Renderer(_open_plain, stop=threading.Event(), threads=1)
    one.prepare(plan(batch(range(4))))
    before = [data(each) for each in one.render(batch(range(4)))]
    other = pickle.loads(pickle.dumps(one))
    assert [data(each) for each in other.render(batch(range(4)))] == before


def _open_plain(group: Group) -> Plain:
    return Plain()


def test_long_prompts_are_told_before_drawing_and_in_the_facts() -> None:
    plain = Plain()
    one = renderer(plain)
    long = "a prompt that is far too long for this base"
    mixed = batch([0, 1], prompt=long)
    (notice,) = one.check(plan(mixed, batch([2])))
    assert notice.level == "warning"
    assert repr(long[20:]) in notice.message
    assert plain.encoded == []
    first = one.render(mixed)[0]
    assert isinstance(first, Rendered)
    assert dict(first.facts)["prompt_cut"] == long[20:]


def fox(path: Path, seed: int = 0, width: int = 4) -> Token:
    draw = torch.Generator().manual_seed(seed)
    token = Token("<fox>", "fox", {"clip_l": torch.rand((1, width), generator=draw) * 50})
    save_token(path, token)
    return token


def test_tokens_enter_conditions_by_id(tmp_path: Path) -> None:
    files = {}
    for seed in (0, 1):
        path = tmp_path / f"{seed}.safetensors"
        files[fox(path, seed).id] = str(path)
    plain = Plain()
    one = renderer(plain, tokens=files)
    batches = []
    for index, identity in enumerate(files):
        pairs = (("<fox>", identity),)
        group = replace(GROUP, tokens=pairs)
        made = batch([0, 1], tokens=pairs, prompt="a <fox>", index=index)
        batches.append(replace(made, group=group))
    one.prepare(plan(*batches))
    first, second = (one.render(each) for each in batches)
    assert data(first[0]) != data(second[0])
    # The same string with two meanings is two encodings; the empty negative is one.
    assert sorted(plain.encoded) == ["", "a <fox>", "a <fox>"]
    assert one.counters.opened == 1


def test_missing_changed_and_misfitting_tokens_end_the_run(tmp_path: Path) -> None:
    path = tmp_path / "fox.safetensors"
    token = fox(path)
    pairs = (("<fox>", token.id),)
    made = replace(batch([0], tokens=pairs, prompt="<fox>"), group=replace(GROUP, tokens=pairs))
    with pytest.raises(TokenMissing, match="<fox>"):
        renderer(Plain()).render(made)
    narrow = Plain(encoders={"clip_l": 8})
    with pytest.raises(ArtefactError, match="width 4, base plain has width 8"):
        renderer(narrow, tokens={token.id: str(path)}).render(made)
    path.unlink()
    fox(path, seed=9)
    with pytest.raises(DigestMismatch, match="changed"):
        renderer(Plain(), tokens={token.id: str(path)}).render(made)


@pytest.mark.parametrize(
    ("name", "label"),
    [("bestiary", "bestiary"), ("/home/x/models/sd3/", "sd3"), ("C:\\m\\sd3", "sd3"), ("./b", "b")],
)
def test_pictures_tell_no_paths(name: str, label: str) -> None:
    assert base_label(name) == label


# Several lanes: threads that draw with one Renderer


def in_lanes(one: Renderer, batches: Sequence[Batch], lanes: int = 2) -> list[Rendered | Failed]:
    """All outcomes, in plan order."""
    one.prepare(plan(*batches))
    return list(Local(1, lanes).run(batches, one.render))


def together(parties: int = 2) -> Callable[[int, list[int]], None]:
    """A hook in which so many drawings must meet, or all of them break."""
    meeting = threading.Barrier(parties)
    return lambda call, seeds: void(meeting.wait(10))


def void(value: object) -> None:
    """Nothing of it."""


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_lanes_draw_at_the_same_time_and_change_no_byte(lanes: int) -> None:
    batches = [batch(range(i, i + 4), index=i // 4) for i in range(0, 64, 4)]
    plain = Plain(Faults(denoise=together(lanes)), facts=LIGHT)
    one = renderer(plain)
    done = in_lanes(one, batches, lanes)
    assert [each.job.index for each in done] == list(range(64))
    alone = renderer(Plain())
    assert [data(each) for each in done] == [data(e) for b in batches for e in alone.render(b)]
    assert sorted(plain.encoded) == ["", "prompt 0", "prompt 1", "prompt 2"]
    assert plain.released == ["text"]
    assert plain.calls.count("image") == 1
    counters = one.counters
    assert (counters.encodes, counters.unique, counters.opened) == (4, 4, 1)
    assert (counters.forwards, counters.batches, counters.decodes) == (48, 16, 16)


def test_counters_are_exact_on_many_threads() -> None:
    counters = _conditions.Counters()

    def count() -> None:
        for _ in range(2000):
            counters.add(forwards=1, batches=2)

    crew = [threading.Thread(target=count) for _ in range(8)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    assert (counters.forwards, counters.batches) == (16000, 32000)


@pytest.mark.parametrize("facts", [FACTS, LIGHT])
def test_a_base_that_wants_all_cores_draws_alone(facts: BaseFacts) -> None:
    inside, most = [0], [0]
    lock = threading.Lock()

    def denoise(call: int, seeds: list[int]) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        with lock:
            inside[0] -= 1

    batches = [batch([i], size=1, index=i) for i in range(12)]
    in_lanes(renderer(Plain(Faults(denoise=denoise), facts=facts)), batches, 3)
    assert (most[0] > 1) is (facts.threads > 0)


@dataclass
class Guarded(Plain):
    """Breaks when something is taken away from under a drawing, or encoded beside one."""

    facts: BaseFacts = LIGHT
    drawing: int = 0

    def denoise(self, noise: Tensor, cond: Conditioning, **how: Any) -> Iterator[Tensor]:
        self.drawing += 1
        for latents in super().denoise(noise, cond, **how):
            time.sleep(0.001)
            yield latents
        self.drawing -= 1

    def release(self, side: str) -> None:
        assert not self.drawing, f"{side} was released under a drawing"
        super().release(side)

    def condition(self, jobs: Sequence[Job], tokens: Sequence[Token]) -> Conditioning:
        assert not self.drawing, "encoded beside a drawing"
        return super().condition(jobs, tokens)


def test_lanes_change_the_base_in_the_middle_of_a_plan() -> None:
    kinds = ["fp32"] * 5 + ["bf16"] * 3 + ["fp32"] * 4
    batches = [
        replace(batch([2 * i, 2 * i + 1], size=2, index=i), group=replace(GROUP, dtype=kind))
        for i, kind in enumerate(kinds)
    ]
    opened: list[Guarded] = []

    def open_backbone(group: Group) -> Guarded:
        assert not any(each.drawing for each in opened)
        opened.append(Guarded())
        return opened[-1]

    done = in_lanes(Renderer(open_backbone), batches, 3)
    alone = Renderer(lambda group: Plain())
    assert [data(each) for each in done] == [data(e) for b in batches for e in alone.render(b)]
    assert len(opened) >= 3


def test_lanes_encode_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conditions, "CONDITION_BYTES", 40)
    monkeypatch.setattr(_conditions, "ENCODE_SLICE", 4)
    batches = [
        batch([2 * i, 2 * i + 1], size=2, index=i, prompt=f"p{i}", guidance=1.0) for i in range(60)
    ]
    done = in_lanes(renderer(Guarded()), batches, 3)
    alone = renderer(Plain())
    assert [data(each) for each in done] == [data(e) for b in batches for e in alone.render(b)]


def test_lanes_retry_and_isolate_as_one_does(whole: dict[int, bytes]) -> None:
    """A decoder that overflows in one batch, a picture that breaks the denoiser in the other."""
    meet = together()

    def denoise(call: int, seeds: list[int]) -> None:
        if call <= 2:
            meet(call, seeds)
        if 6 in seeds:
            raise RuntimeError("bad row")

    def decode(call: int, pixels: Tensor, precise: bool) -> Tensor:
        first = batch_of_first(pixels)
        return pixels if precise or not first else torch.where(ROW_ONE, torch.nan, pixels)

    one = renderer(Plain(Faults(denoise=denoise, decode=decode), facts=LIGHT))
    done = in_lanes(one, [batch(range(4)), batch(range(4, 8), index=1)])
    assert isinstance(done[6], Failed)
    assert [data(done[i]) for i in (0, 1, 2, 3, 4, 5, 7)] == [
        whole[i] for i in (0, 1, 2, 3, 4, 5, 7)
    ]
    notes = [each.provenance.notes for each in done if isinstance(each, Rendered)]
    assert notes == [(), ("decoder fp32 retry",), *[()] * 5]


ROW_ONE = torch.tensor([False, True, False, False])[:, None, None, None]


def batch_of_first(pixels: Tensor) -> bool:
    """Whether these are the latents of the batch that starts with seed 0."""
    noise = torch.randn((3, 8, 8), generator=generator(0, "noise")) * 0.2
    return bool(torch.allclose(pixels[0] - pixels[0].mean(), noise - noise.mean(), atol=1e-4))


def test_lanes_that_are_short_of_memory_draw_alone_before_they_halve() -> None:
    inside = [0]

    def latents(rows: Tensor, seeds: list[int]) -> Tensor:
        if inside[0] > 1:
            raise torch.OutOfMemoryError("two at a time")
        return rows

    class Narrow(Plain):
        def denoise(self, noise: Tensor, cond: Conditioning, **how: Any) -> Iterator[Tensor]:
            inside[0] += 1
            try:
                time.sleep(0.01)
                yield from super().denoise(noise, cond, **how)
            finally:
                inside[0] -= 1

    batches = [batch(range(i, i + 4), index=i // 4) for i in range(0, 32, 4)]
    done = in_lanes(renderer(Narrow(Faults(latents=latents), facts=LIGHT)), batches)
    made = [each.provenance.batch_effective for each in done if isinstance(each, Rendered)]
    assert made == [4] * 32


def test_lanes_halve_together_and_stay_there(whole: dict[int, bytes]) -> None:
    def denoise(call: int, seeds: list[int]) -> None:
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("no room")

    one = renderer(Plain(Faults(denoise=denoise), facts=LIGHT))
    done = in_lanes(one, [batch(range(i, i + 8), size=8, index=i // 8) for i in range(0, 48, 8)])
    assert [data(each) for each in done[:8]] == [whole[i] for i in range(8)]
    made = {each.provenance.batch_effective for each in done if isinstance(each, Rendered)}
    assert made == {2}


def test_a_stop_reaches_every_lane() -> None:
    stop = threading.Event()

    def latents(rows: Tensor, seeds: list[int]) -> Tensor:
        if 9 in seeds:
            stop.set()
        return rows

    batches = [batch([i], size=1, index=i) for i in range(40)]
    done: list[int] = []
    one = renderer(Plain(Faults(latents=latents), facts=LIGHT), stop=stop)
    one.prepare(plan(*batches))
    with pytest.raises(Interrupted):
        done.extend(each.job.index for each in Local(1, 3).run(batches, one.render))
    assert len(done) < 14


@pytest.mark.parametrize(
    ("facts", "device", "threads", "expected"),
    [
        (LIGHT, "cpu", None, 1),
        (replace(FACTS, threads=2), "cpu", None, 2),
        (FACTS, "cpu", None, 3),
        (LIGHT, "cuda:0", None, 3),
        (LIGHT, "cpu", 2, 2),
        (FACTS, "cpu", 1, 1),
    ],
)
def test_threads_of_a_batch_are_those_of_its_base(
    monkeypatch: pytest.MonkeyPatch,
    facts: BaseFacts,
    device: str,
    threads: int | None,
    expected: int,
) -> None:
    monkeypatch.setattr(config, "cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    torch.set_num_threads(3)
    seen: set[int] = set()
    faults = Faults(
        denoise=lambda call, seeds: seen.add(torch.get_num_threads()),
        encode=lambda prompts: seen.add(torch.get_num_threads()),
    )
    one = renderer(Plain(faults, facts=facts), device=device, threads=threads)
    moved = pickle.loads(pickle.dumps(Renderer(_open_plain, device=device, threads=threads)))
    done = in_lanes(one, [batch([i], size=1, index=i) for i in range(6)])
    assert seen == {expected}
    made = {dict(e.provenance.versions)["threads"] for e in done if isinstance(e, Rendered)}
    assert made == {str(expected)}
    # Neither this thread nor a new one keeps what the lanes have set.
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
    torch.set_num_threads(1)
    assert moved._own == 3  # also where torch's own choice is another one


# Memory, storage, compiling


@dataclass
class Roomy(Plain):
    """A backbone that can be lodged."""

    fits: list[tuple[tuple[Load, ...], float | None, bool]] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    fit_as: Fit = field(default_factory=lambda: Fit(Room("offload"), "8.0 GiB: one at a time"))
    options: list[Any] = field(default_factory=list)

    def make_room(self, loads: Sequence[Load], vram_gib: float | None, *, compiled: bool) -> Fit:
        self.fits.append((tuple(loads), vram_gib, compiled))
        return replace(self.fit_as, room=replace(self.fit_as.room, is_compiled=compiled))

    def store(self, storage: str) -> None:
        self.stored.append(storage)

    def denoise(self, noise: Tensor, cond: Conditioning, **how: Any) -> Iterator[Tensor]:
        self.options.append(how["options"])
        yield from super().denoise(noise, cond, **how)


def test_room_is_made_for_every_kind_of_batch_and_told_once() -> None:
    roomy = Roomy()
    one = renderer(roomy, means=Means(8.0))
    batches = [
        batch([0, 1], index=0),
        batch([2, 3], index=1),
        batch([4], size=2, index=2, size_px=(16, 8), guidance=1.0),
    ]
    one.prepare(plan(*batches))
    notices = one.check(plan(*batches))
    assert [(each.level, each.message) for each in notices] == [("info", "8.0 GiB: one at a time")]
    loads = (Load((8, 8), 4, True), Load((16, 8), 2, False))
    assert roomy.fits == [(loads, 8.0, False)]
    results = [each for some in batches for each in one.render(some)]
    assert len(roomy.fits) == 1
    assert {each.provenance.notes for each in results if isinstance(each, Rendered)} == {
        ("memory: offload",)
    }


def test_a_tight_fit_is_a_warning_and_none_at_all_an_error() -> None:
    tight = Roomy(fit_as=Fit(Room("group"), "may be too much", is_tight=True))
    notices = renderer(tight, means=Means()).check(plan(batch([0])))
    assert [each.level for each in notices] == ["warning"]

    class Full(Roomy):
        def make_room(self, loads: Any, vram_gib: Any, *, compiled: bool) -> Fit:
            raise OutOfMemory("fits in no way")

    with pytest.raises(OutOfMemory, match="fits in no way"):
        renderer(Full(), means=Means()).check(plan(batch([0])))


def test_bases_that_know_no_room_and_renderers_without_means_live_as_ever() -> None:
    assert renderer(Plain(), means=Means(4.0)).check(plan(batch([0]))) == ()
    roomy = Roomy()
    assert len(renderer(roomy).render(batch([0]))) == 1
    assert roomy.fits == []


@pytest.mark.parametrize(
    ("device", "compiling", "pictures", "compiled"),
    [
        ("cuda:0", "auto", 30, False),
        ("cuda:0", "auto", 31, True),
        ("cpu", "auto", 1000, False),
        ("mps", "auto", 1000, False),
        ("cpu", "on", 1, True),
        ("cuda:0", "off", 1000, False),
    ],
)
def test_long_plans_are_compiled_on_cuda(
    device: str, compiling: Any, pictures: int, compiled: bool
) -> None:
    assert Means(compiling=compiling).is_compiled(device, pictures) is compiled


def test_the_whole_plan_decides_about_compiling_not_what_is_left() -> None:
    batches = [batch(range(i, i + 4), index=i // 4) for i in range(0, 32, 4)]
    roomy = Roomy(fit_as=Fit(Room()))
    roomy.device = "cuda:0"
    one = renderer(roomy, means=Means())
    one.prepare(plan(batches[-1]), plan(*batches))
    one = pickle_twin(one, roomy)
    (result, *_) = one.render(batches[-1])
    assert roomy.fits == [((Load((8, 8), 4, True),), None, True)]
    assert isinstance(result, Rendered)
    assert dict(result.provenance.versions)["compiled"] == "blocks"


def pickle_twin(one: Renderer, roomy: Roomy) -> Renderer:
    """As an engine in another process has it."""
    twin = Renderer.__new__(Renderer)
    twin.__setstate__({**one.__getstate__(), "_open_backbone": lambda group: roomy})
    return twin


def test_storage_belongs_to_the_open_base() -> None:
    roomy = Roomy(facts=LIGHT, fit_as=Fit(Room()))
    opened: list[Group] = []

    def opens(group: Group) -> Roomy:
        opened.append(group)
        return roomy

    one = Renderer(opens, means=Means())
    stored = batch([0, 1], options=(("storage", "fp8"), ("x", 1)))
    stored = replace(stored, group=replace(GROUP, storage="fp8"))
    for each in (stored, replace(stored, index=1), batch([2, 3], index=2)):
        one.render(each)
    assert [each.storage for each in opened] == ["fp8", ""]
    assert roomy.stored == ["fp8"]
    assert roomy.options == [(("x", 1),)] * 2 + [()]


@pytest.mark.parametrize("kind", ["stored", "offload"])
def test_weights_that_move_or_are_cast_are_used_by_one_thread_at_a_time(kind: str) -> None:
    inside, most = [0], [0]

    def watch(call: int, seeds: list[int]) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1

    room = Room("offload") if kind == "offload" else Room()
    roomy = Roomy(facts=LIGHT, fit_as=Fit(room), faults=Faults(denoise=watch))
    one = renderer(roomy, means=Means())
    group = replace(GROUP, storage="fp8" if kind == "stored" else "")
    batches = [replace(batch([i], size=1, index=i), group=group) for i in range(6)]
    one.prepare(plan(*batches))
    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(one.render, batches))) == 6
    assert most[0] == 1
