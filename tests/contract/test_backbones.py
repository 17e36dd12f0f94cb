"""What every base model must do, on tiny or shipped weights: the matrix over all plug-ins."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli import registry
from creatok_cli.backbones import _weights
from creatok_cli.backbones.base import Backbone, Conditioning, Start
from creatok_cli.domain import BaseFacts, Batch, Group, Job, Plan, Rendered
from creatok_cli.errors import ModelMissing, UnknownName
from creatok_cli.executors.local import Local
from creatok_cli.hashing import keyed
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.tokens.file import save_token
from creatok_cli.tokens.token import Token

SHIPPED = Path(_weights.__file__).parent / "bestiary" / "weights"
NAMES = tuple(
    name
    for name in registry.names("backbones")
    if "text" in registry.describe("backbones", name).facts["SIDES"]
)
"""Bases without words have a matrix of their own: tests/unit/backbones/test_els.py."""


def family_of(name: str) -> registry.PluginFacts:
    """The plug-in whose classes a base opens."""
    own = registry.describe("backbones", name)
    return registry.describe("backbones", own.facts.get("ADAPTER", name))


STARTERS = tuple(name for name in NAMES if family_of(name).facts.get("CAN_START"))


@pytest.fixture(params=NAMES)
def facts(request: pytest.FixtureRequest, tiny_base: Callable[[str], Path]) -> BaseFacts:
    """Facts of each base; where its weights are not here, a tiny model of its classes."""
    name = str(request.param)
    try:
        return _weights.resolve(name)
    except ModelMissing:
        folder = tiny_base(family_of(name).facts["PIPELINE"])
        return replace(_weights.resolve(str(folder)), name=name, backbone=name)


@pytest.fixture(params=["fp32", "bf16"])
def backbone(facts: BaseFacts, request: pytest.FixtureRequest) -> Backbone:
    return opened(facts, str(request.param))


def opened(facts: BaseFacts, dtype: str = "fp32") -> Any:
    module = registry.get("backbones", facts.backbone)
    return module.build(module.Spec(), facts, device="cpu", dtype=dtype)


def token(backbone: Any, word: str = "<fox>", n: int = 2) -> Token:
    draw = torch.Generator().manual_seed(3)
    widths = backbone.text.encoders.items()
    return Token(word, "fox", {k: torch.randn((n, d), generator=draw) for k, d in widths})


def draw(backbone: Any, prompts: list[str], seeds: list[int], **changes: Any) -> list[torch.Tensor]:
    how: dict[str, Any] = {
        "negative": backbone.text.encode([""] * len(prompts), []),
        "steps": 3,
        "guidance": 4.0,
        "scheduler": backbone.facts.schedulers[0],
        "options": (),
        "seeds": seeds,
    }
    with torch.inference_mode():
        cond = backbone.text.encode(prompts, [])
        noise = backbone.image.noise(seeds, backbone.facts.size_px)
        return list(backbone.image.denoise(noise, cond, **how | changes))


def negative_needs(backbone: Any) -> Any:
    """Options without which the family never reads a negative prompt."""
    own = registry.describe("backbones", backbone.facts.backbone)
    family = registry.describe("backbones", own.facts.get("ADAPTER", own.name))
    return family.facts.get("NEGATIVE_NEEDS", ())


def test_literal_facts_equal_the_imported_ones(facts: BaseFacts) -> None:
    described = registry.describe("backbones", facts.backbone)
    module = registry.get("backbones", facts.backbone)
    assert not described.broken
    assert described.line
    assert set(module.SIDES) <= {"text", "prior", "image"}
    assert described.facts["SIDES"] == module.SIDES
    spec = module.Spec()
    for name, value in described.spec.items():
        assert getattr(spec, name) == value


def test_sides_are_none_exactly_where_the_plugin_lacks_them(facts: BaseFacts) -> None:
    one = opened(facts)
    sides = registry.get("backbones", facts.backbone).SIDES
    for side in ("text", "prior", "image"):
        assert (getattr(one, side) is not None) is (side in sides)


def test_a_noise_row_depends_on_its_seed_only(backbone: Any) -> None:
    size = backbone.facts.size_px
    rows = backbone.image.noise([1, 2, 3, 2], size)
    assert rows.dtype == torch.float32
    assert rows.device.type == "cpu"
    assert torch.equal(rows[1], rows[3])
    assert not torch.equal(rows[0], rows[1])
    torch.manual_seed(9)
    assert torch.equal(backbone.image.noise([3], size)[0], rows[2])


@pytest.mark.parametrize("steps", [1, 4])
def test_denoise_yields_as_many_finite_latents_as_steps(facts: BaseFacts, steps: int) -> None:
    one = opened(facts)
    for scheduler in facts.schedulers:
        latents = draw(one, ["a pig", "an owl"], [1, 2], steps=steps, scheduler=scheduler)
        assert len(latents) == steps
        assert all(bool(each.isfinite().all()) for each in latents)
        assert len({each.shape for each in latents}) == 1


def test_prompt_seed_and_negative_change_the_picture(backbone: Any) -> None:
    base = draw(backbone, ["a pig"] * 2, [1, 2])[-1]
    assert not torch.equal(base[0], base[1])
    assert not torch.equal(base, draw(backbone, ["an owl"] * 2, [1, 2])[-1])
    needs = negative_needs(backbone)
    base = draw(backbone, ["a pig"] * 2, [1, 2], options=needs)[-1]
    other = backbone.text.encode(["red"] * 2, [])
    found = draw(backbone, ["a pig"] * 2, [1, 2], negative=other, options=needs)[-1]
    assert not torch.equal(base, found)


def test_guidance_of_one_ignores_the_negative(backbone: Any) -> None:
    other = backbone.text.encode(["red"] * 2, [])
    if negative_needs(backbone):  # guidance is an input of the denoiser: none reads the negative
        first = draw(backbone, ["a pig"] * 2, [1, 2])[-1]
        assert torch.equal(first, draw(backbone, ["a pig"] * 2, [1, 2], negative=other)[-1])
    first = draw(backbone, ["a pig"] * 2, [1, 2], guidance=1.0, negative=other)[-1]
    assert torch.equal(
        first, draw(backbone, ["a pig"] * 2, [1, 2], guidance=1.0, negative=None)[-1]
    )


def test_a_padded_batch_equals_itself_shuffled(backbone: Any) -> None:
    prompts, seeds = ["a pig", "an owl", "a dragon", "a dragon"], [1, 2, 3, 3]
    first = draw(backbone, prompts, seeds)[-1]
    order = [2, 0, 3, 1]
    again = draw(backbone, [prompts[i] for i in order], [seeds[i] for i in order])[-1]
    assert torch.equal(first[order], again)
    with torch.inference_mode():
        pixels = backbone.image.decode(first)
        assert torch.equal(pixels[order], backbone.image.decode(again))


def test_decode_stays_in_range_and_shows_what_is_not_finite(backbone: Any) -> None:
    latents = draw(backbone, ["a pig"] * 2, [1, 2])[-1].clone()
    width, height = backbone.facts.size_px
    with torch.inference_mode():
        for scale in (1.0, 50.0):
            pixels = backbone.image.decode(latents * scale)
            assert pixels.shape[0] == 2
            assert pixels.shape[1] in (3, 4)
            assert pixels.shape[2:] == (height, width)
            assert pixels.dtype == torch.float32
            assert float(pixels.min()) >= -1.0
            assert float(pixels.max()) <= 1.0
        plain = backbone.image.decode(latents)
        latents[1, :, 0, 0] = torch.inf
        broken = backbone.image.decode(latents)
        assert bool(broken[1].isnan().any())
        assert torch.equal(broken[0], plain[0])
        assert backbone.image.decode(latents[:1], precise=True).dtype == torch.float32
        assert torch.equal(backbone.image.decode(latents), broken) or bool(broken.isnan().any())


def test_a_token_changes_the_condition_exactly_when_its_word_is_in_the_prompt(
    backbone: Any,
) -> None:
    fox = token(backbone)
    with torch.inference_mode():
        for prompt, changes in (("a <fox> in snow", True), ("a fox in snow", False), ("", False)):
            plain = backbone.text.encode([prompt], [])
            with_token = backbone.text.encode([prompt], [fox])
            same = all(
                torch.equal(rows, with_token.tensors[name]) for name, rows in plain.tensors.items()
            )
            assert same is not changes


def test_pooled_is_differentiable_in_the_vectors_and_agrees(facts: BaseFacts) -> None:
    one = opened(facts)
    fox = token(one)
    for rows in fox.vectors.values():
        rows.requires_grad_(True)
    pooled = one.text.pooled(["a <fox>", "pig"], [fox])
    assert set(pooled) == set(one.text.encoders) - {"t5xxl"}
    sum(rows[0].square().sum() for rows in pooled.values()).backward()
    for rows in fox.vectors.values():
        assert rows.grad is not None
        assert bool((rows.grad.abs().sum(1) > 0).all())
    rows = one.text.rows("pig")
    assert {n: each.shape[1] for n, each in rows.items() if n != "t5xxl"} == one.text.encoders


def test_sides_open_again_after_release_and_weights_never_change(facts: BaseFacts) -> None:
    one = opened(facts)
    with torch.inference_mode():
        before = one.text.encode(["a <fox>"], [token(one)])
    first = draw(one, ["a pig"], [1])[-1]
    one.release("text")
    one.release("image")
    with torch.inference_mode():
        after = one.text.encode(["a <fox>"], [token(one)])
    assert all(torch.equal(rows, after.tensors[name]) for name, rows in before.tensors.items())
    assert torch.equal(first, draw(one, ["a pig"], [1])[-1])
    one.release("prior")
    assert _weights.resolve(facts.folder).digest == facts.digest


def pixels_of(facts: BaseFacts, count: int, seed: int = 5) -> torch.Tensor:
    """Different pictures [count 3 H W], each of soft patches: noise has nothing to keep."""
    width, height = facts.size_px
    draw = torch.Generator().manual_seed(seed)
    patches = torch.rand((count, 3, 4, 4), generator=draw) * 2 - 1
    return torch.nn.functional.interpolate(patches, (height, width), mode="bilinear")


@pytest.mark.parametrize("facts", STARTERS, indirect=True)
def test_a_start_takes_its_share_of_the_steps(facts: BaseFacts) -> None:
    one = opened(facts)
    pixels = pixels_of(facts, 2)
    for scheduler in facts.schedulers:
        how: dict[str, Any] = {"steps": 4, "scheduler": scheduler}
        latents = draw(one, ["a pig"] * 2, [1, 2], start=Start(pixels, 0.5), **how)
        assert len(latents) == 2, scheduler
        assert all(bool(each.isfinite().all()) for each in latents)
    for strength, taken in ((0.01, 1), (0.25, 1), (0.75, 3), (1.0, 4)):
        start = Start(pixels, strength)
        assert len(draw(one, ["a pig"] * 2, [1, 2], steps=4, start=start)) == taken
    # A share that is no whole step is rounded as the family's pipeline of diffusers does it.
    assert len(draw(one, ["a pig"] * 2, [1, 2], steps=5, start=Start(pixels, 0.5))) in (2, 3)


@pytest.mark.parametrize("facts", STARTERS, indirect=True)
def test_a_weak_start_stays_with_its_picture(facts: BaseFacts) -> None:
    one, seeds = opened(facts), [1, 2]
    pixels = pixels_of(facts, 2)
    weak = draw(one, ["a pig"] * 2, seeds, steps=100, start=Start(pixels, 0.01))[-1]
    half = draw(one, ["a pig"] * 2, seeds, steps=4, start=Start(pixels, 0.5))[-1]
    with torch.inference_mode():
        encode = getattr(one.image, "_encode", None)
        own = encode(pixels) if encode else one.image._vae.encode(pixels, seeds)
    near, far = float((weak - own).abs().mean()), float((half - own).abs().mean())
    assert near < 0.2 * far
    assert near < 0.5 * float(own.std())


@pytest.mark.parametrize("facts", STARTERS, indirect=True)
def test_a_started_row_depends_on_its_picture_and_seed_only(facts: BaseFacts) -> None:
    one, pixels, how = opened(facts), pixels_of(facts, 2), {"steps": 2}
    prompts, seeds = ["a pig", "an owl", "a dragon", "a dragon"], [1, 2, 3, 3]
    rows = pixels[[0, 1, 0, 0]]
    first = draw(one, prompts, seeds, start=Start(rows, 0.5), **how)[-1]
    order = [2, 0, 3, 1]
    again = draw(
        one,
        [prompts[i] for i in order],
        [seeds[i] for i in order],
        start=Start(rows[order], 0.5),
        **how,
    )[-1]
    assert torch.equal(first[order], again)
    others = [1, 7, 8, 9]
    changed = draw(one, ["a pig"] * 4, others, start=Start(pixels[[0, 1, 1, 0]], 0.5), **how)[-1]
    assert torch.equal(changed[0], first[0])
    shared = Start(pixels[:1].expand(4, -1, -1, -1), 0.5)
    copies = Start(pixels[[0, 0, 0, 0]], 0.5)
    same = [draw(one, ["a pig"] * 4, others, start=each, **how)[-1] for each in (shared, copies)]
    assert torch.equal(*same)
    assert torch.equal(same[0][0], first[0])
    assert len({row.numpy().tobytes() for row in same[0]}) == 4


def test_unknown_schedulers_and_options_are_refused(facts: BaseFacts) -> None:
    one = opened(facts)
    with pytest.raises(UnknownName, match="magic"):
        draw(one, ["a"], [1], scheduler="magic")
    with pytest.raises(UnknownName, match="no option"):
        draw(one, ["a"], [1], options=(("no option", 1),))


def jobs_for(facts: BaseFacts, prompts: list[str], dtype: str, **more: Any) -> list[Job]:
    return [
        keyed(
            Job(
                base=facts.name,
                base_digest=facts.digest,
                prompt=prompt,
                seed=index,
                size_px=facts.size_px,
                steps=2,
                guidance=3.0,
                scheduler=facts.schedulers[0],
                dtype=dtype,
                name=f"{index:04d}",
                index=index,
                **more,
            )
        )
        for index, prompt in enumerate(prompts)
    ]


def pictures(facts: BaseFacts, order: list[int], dtype: str, **more: Any) -> dict[int, bytes]:
    """Bytes by job, drawn in batches of four in the given order."""
    prompts = ["a pig", "an owl in snow", "a dragon", "a pig", "a red fish", "a bee and a cat"]
    jobs = jobs_for(facts, prompts, dtype)
    group = Group(base=facts.name, base_digest=facts.digest, dtype=dtype)
    batches = tuple(
        Batch(
            index=start // 4,
            group=group,
            jobs=tuple(jobs[i] for i in order[start : start + 4]),
            batch_class=4,
        )
        for start in range(0, len(order), 4)
    )
    device = more.get("device", "cpu")
    opener = more.get("opener") or OpenBase({facts.digest: facts}, device)
    renderer = Renderer(opener, device=device, threads=1)
    if more.get("prepared", True):
        renderer.prepare(Plan(sheet="s", digest="d", batches=batches))
    if more.get("pickled"):
        renderer = pickle.loads(pickle.dumps(renderer))
    done: dict[int, bytes] = {}
    for batch in batches:
        for outcome in renderer.render(batch):
            assert isinstance(outcome, Rendered), outcome
            assert outcome.image.size == facts.size_px
            done[outcome.job.index] = outcome.image.tobytes()
    strings = len({*(jobs[i].prompt for i in order), ""})
    assert renderer.counters.encodes == renderer.counters.unique == strings
    assert renderer.counters.forwards == 2 * len(batches)
    return done


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_pictures_keep_their_bytes_in_any_order_company_and_resume(
    facts: BaseFacts, dtype: str
) -> None:
    """B1: one class; other neighbours and slots, padded tails, a resumed run, a pickled one."""
    one = opened(facts, dtype)
    whole = pictures(facts, [0, 1, 2, 3, 4, 5], dtype, opener=lambda group: one)
    assert len(set(whole.values())) == 6
    assert pictures(facts, [5, 4, 3, 2, 1, 0], dtype, opener=lambda group: one) == whole
    some = pictures(facts, [4, 1], dtype, opener=lambda group: one, prepared=False)
    assert some == {index: whole[index] for index in some}
    assert pictures(facts, [2, 5, 0, 3, 1], dtype, pickled=True).items() <= whole.items()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_pictures_keep_their_bytes_beside_others(facts: BaseFacts, dtype: str) -> None:
    """Three lanes over one renderer; in every other batch the decoder is asked again in fp32."""
    jobs = jobs_for(facts, [f"a {word}" for word in ("pig", "owl", "dragon", "fox")] * 4, dtype)
    group = Group(base=facts.name, base_digest=facts.digest, dtype=dtype)
    batches = tuple(
        Batch(index=i // 2, group=group, jobs=tuple(jobs[i : i + 2]), batch_class=2)
        for i in range(0, len(jobs), 2)
    )
    found: list[list[bytes]] = []
    for lanes in (1, 3):
        one = opened(replace(facts, threads=1), dtype)
        precise: dict[int, bytes] = {}

        def render(batch: Batch, renderer: Renderer, one: Any, precise: dict[int, bytes]) -> Any:
            if batch.index % 2:
                with torch.inference_mode():
                    latents = one.image.noise([batch.index], facts.size_px).to(one.image.vae.dtype)
                    pixels = one.image.decode(latents, precise=True)
                precise[batch.index] = pixels.numpy().tobytes()
            return renderer.render(batch)

        renderer = Renderer(lambda group, one=one: one)
        renderer.prepare(Plan(sheet="s", digest="d", batches=batches))
        renderer.render(batches[0])
        task = partial(render, renderer=renderer, one=one, precise=precise)
        done = [e.image.tobytes() for e in Local(1, lanes).run(batches, task)]  # type: ignore[union-attr]
        found.append([*done, *(precise[index] for index in sorted(precise))])
        assert renderer.counters.encodes == renderer.counters.unique == 5
        assert renderer.counters.opened == 1
    assert len(found[0]) == 20
    assert found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_pictures_keep_their_bytes_on_a_gpu(facts: BaseFacts, dtype: str) -> None:
    whole = pictures(facts, [0, 1, 2, 3, 4, 5], dtype, device="cuda:0")
    assert pictures(facts, [5, 4, 3, 2, 1, 0], dtype, device="cuda:0") == whole
    some = pictures(facts, [4, 1], dtype, device="cuda:0", prepared=False)
    assert some == {index: whole[index] for index in some}


def test_across_batch_classes_pictures_differ_by_a_level_at_most(facts: BaseFacts) -> None:
    """B2 in fp32: at most one level on at most 0.1 % of the channels."""
    jobs = jobs_for(facts, ["a pig", "an owl", "a dragon"], "fp32")
    group = Group(base=facts.name, base_digest=facts.digest, dtype="fp32")
    drawn: list[torch.Tensor] = []
    renderer = Renderer(OpenBase({facts.digest: facts}, "cpu"), threads=1)
    for size in (1, 2, 3, 4, 8):
        data = b""
        for start in range(0, 3, size):
            some = tuple(jobs[start : start + size])
            done = renderer.render(Batch(index=0, group=group, jobs=some, batch_class=size))
            data += b"".join(each.image.tobytes() for each in done if isinstance(each, Rendered))
        assert len(data) == 3 * 3 * facts.size_px[0] * facts.size_px[1]
        drawn.append(torch.frombuffer(bytearray(data), dtype=torch.uint8).int())
    for other in drawn[1:]:
        difference = (other - drawn[0]).abs()
        assert int(difference.max()) <= 1
        assert float((difference > 0).float().mean()) <= 1e-3


def test_tokens_reach_the_picture_through_the_renderer(facts: BaseFacts, tmp_path: Path) -> None:
    one = opened(facts)
    files, words = {}, {}
    for n in (1, 3):
        made = token(one, n=n)
        path = tmp_path / f"{n}.safetensors"
        save_token(path, made)
        files[made.id], words[n] = str(path), made.id
    seen = set()
    renderer = Renderer(lambda group: one, tokens=files, threads=1)
    for identity in (*words.values(), None):
        pairs = (("<fox>", identity),) if identity else ()
        job = jobs_for(facts, ["a <fox> in snow"], "fp32", tokens=pairs)[0]
        group = Group(base=facts.name, base_digest=facts.digest, dtype="fp32", tokens=pairs)
        (outcome,) = renderer.render(Batch(index=0, group=group, jobs=(job,), batch_class=1))
        assert isinstance(outcome, Rendered)
        seen.add(outcome.image.tobytes())
    assert len(seen) == 3


def test_conditioning_rows_and_stack() -> None:
    cond = Conditioning({"x": torch.arange(6.0).reshape(3, 2)}, ("", "tail", ""))
    assert len(cond) == 3
    assert cond.size_bytes == 24
    chosen = cond.rows([2, 1, 1])
    assert chosen.tensors["x"].tolist() == [[4, 5], [2, 3], [2, 3]]
    assert chosen.cut == ("", "tail", "tail")
    assert len(Conditioning.stack([chosen, cond])) == 6
    assert cond.to("cpu", "bf16").tensors["x"].dtype == torch.bfloat16


@pytest.mark.skipif(
    not (SHIPPED / "model_index.json").is_file() and not os.environ.get("CI"),
    reason="the shipped weights of bestiary are not in this checkout yet",
)
def test_the_shipped_model_is_what_its_adapter_says() -> None:
    facts = _weights.resolve("bestiary")
    module = registry.get("backbones", "bestiary")
    spec, note = module.Spec(), _weights.card(SHIPPED)
    assert facts.licence == spec.licence
    assert (facts.steps, facts.guidance, facts.size_px) == (spec.steps, spec.guidance, spec.size_px)
    assert note["creatok_t5_zero_rows"] == spec.t5_zero_rows
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 60e6
    one = opened(facts)
    for tower in one.text.towers:
        assert tower.model.config.eos_token_id == tower.words.eos != 2
