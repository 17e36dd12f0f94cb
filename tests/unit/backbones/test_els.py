"""The base without weights: packs, windows, distances, and what it owes as a backbone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from creatok_cli import registry
from creatok_cli.backbones import _els_near, _weights, els
from creatok_cli.backbones._els_machine import Machine, estimate
from creatok_cli.backbones._els_pack import Pack, premultiplied, straight
from creatok_cli.backbones._els_schedule import (
    PUBLISHED,
    alpha_bar,
    calibrate,
    choose_machine,
    floored,
    odd,
    power_law,
    resampled,
    scaled,
)
from creatok_cli.backbones._els_sprites import Sprite, Sprites, sprites_bytes
from creatok_cli.domain import BaseFacts, Batch, Group, Job, Rendered
from creatok_cli.errors import (
    ArtefactError,
    DigestMismatch,
    InputError,
    ModelMissing,
    UnknownName,
)
from creatok_cli.hashing import keyed
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.seeds import generator

SIDE = 16


def creature(index: int, *, shift: tuple[int, int] = (0, 0), side: int = SIDE) -> Image.Image:
    """A body, a head and legs in colours of their own, on a transparent canvas."""
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    hue = (40 + 37 * index) % 256, (200 - 53 * index) % 256, (90 + 71 * index) % 256
    parts = [
        (4, 6, 12, 11, hue),
        (10, 3, 14, 8, hue[::-1]),
        (5, 11, 7, 14, (hue[1], hue[2], hue[0])),
        (9, 11, 11, 14, (hue[1], hue[2], hue[0])),
    ]
    for left, top, right, bottom, colour in parts:
        right += index % 2
        box = (left + shift[0], top + shift[1], right + shift[0], bottom + shift[1])
        picture.paste((*colour, 255 if index % 3 else 180), box)
    return picture


def sprites(count: int = 5, **more: Any) -> Sprites:
    return Sprites(
        size_px=(SIDE, SIDE),
        sprites=tuple(
            Sprite(
                name=f"creature-{'abcdefghij'[i]}",
                group=i,
                rgba=creature(i).tobytes(),
                tags=("winged",) if i % 2 else ("furry", "four legs"),
            )
            for i in range(count)
        ),
        **{"schedule": (3,) * 12 + (5, 5, 7, 7, 9, 9, 13, 13), "machine": "ls"} | more,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pack.safetensors"
    path.write_bytes(sprites_bytes(sprites()))
    return path


@pytest.fixture
def facts(folder: Path) -> BaseFacts:
    return _weights.resolve(f"els:{folder}")


def opened(facts: BaseFacts) -> els.Els:
    return els.build(els.Spec(), facts, device="cpu", dtype="fp32")


def job(facts: BaseFacts, index: int, prompt: str = "a creature", **more: Any) -> Job:
    return keyed(
        Job(
            base=facts.name,
            base_digest=facts.digest,
            prompt=prompt,
            seed=index,
            size_px=facts.size_px,
            steps=more.pop("steps", 6),
            guidance=1.0,
            scheduler="ddim",
            dtype="fp32",
            name=f"{index:04d}",
            index=index,
            **more,
        )
    )


def draw(one: els.Els, seeds: list[int], prompts: list[str] | None = None, **more: Any) -> Any:
    options = tuple(sorted(more.pop("options", {}).items()))
    jobs = [job(one.facts, s, (prompts or ["x"] * len(seeds))[i]) for i, s in enumerate(seeds)]
    how: dict[str, Any] = {
        "negative": None,
        "steps": 6,
        "guidance": 1.0,
        "scheduler": "ddim",
        "options": options,
        "seeds": seeds,
    }
    with torch.inference_mode():
        noise = one.image.noise(seeds, one.facts.size_px)
        return list(one.image.denoise(noise, one.condition(jobs, []), **how | more))


# Packs.


def test_every_colour_survives_premultiplying() -> None:
    levels = torch.randint(0, 256, (2, 64, 64, 4), generator=generator(0), dtype=torch.uint8)
    levels[1, :, :, 3] = torch.arange(64 * 64).view(64, 64) % 256
    back = ((straight(premultiplied(levels)) * 0.5 + 0.5) * 255).round().permute(0, 2, 3, 1)
    seen = levels[..., 3:] > 0
    assert torch.equal(back, torch.where(seen, levels, 0).float())
    broken = premultiplied(levels)
    broken[0, 1, 5, 6] = math.inf
    assert bool(straight(broken)[0, :, 5, 6].isnan().all())
    assert bool(straight(broken)[1].isfinite().all())


def test_a_pack_is_what_the_sprites_say() -> None:
    mask = bytes(255 if i < SIDE * 5 else 0 for i in range(SIDE * SIDE))
    pack = Pack.of(sprites(3, kept=creature(7).tobytes(), kept_mask=mask, tile=True))
    assert pack.pixels.shape == (3, 4, SIDE, SIDE)
    assert pack.pixels.transpose(0, 1).is_contiguous()
    assert float(pack.pixels.min()) == -1.0
    assert (pack.size_px, pack.tile, pack.machine) == ((SIDE, SIDE), True, "ls")
    assert pack.kept is not None
    assert pack.kept[0].sum() == SIDE * 5
    assert pack.words_in("A Winged beast, furry! winged") == ("winged", "furry")


def test_tags_and_parents_weigh_sources() -> None:
    pack = Pack.of(sprites(4))
    assert pack.log_prior() is None
    tagged = pack.log_prior(["winged"])
    assert tagged is not None
    assert tagged.tolist() == [-math.inf, 0.0, -math.inf, 0.0]
    weighed = pack.log_prior([], {"creature-a": 2.0, "winged": 0.5})
    assert weighed is not None
    assert weighed.tolist() == pytest.approx([math.log(2), math.log(0.5), -math.inf, math.log(0.5)])
    with pytest.raises(InputError, match="wingd"):
        pack.log_prior(["wingd"])
    with pytest.raises(InputError, match="leave no source"):
        pack.log_prior(["furry"], {"winged": 1.0})


# Windows.


def test_windows_of_schedules() -> None:
    assert [odd(x) for x in (0.2, 1, 2, 3.9, 4, 5.1)] == [1, 1, 3, 3, 5, 5]
    assert alpha_bar(1.0) == pytest.approx(1.6e-4, rel=0.05)
    assert alpha_bar(0.05) == pytest.approx(0.9939, abs=1e-4)
    law = power_law(20, 32)
    assert law[0] == 3
    assert law[-1] == 27
    assert list(law) == sorted(law)
    unet = PUBLISHED["cifar10-unet"]
    assert resampled(unet, 20) == unet
    assert resampled(unet, 10) == unet[1::2]
    assert len(resampled(unet, 50)) == 50
    assert resampled(unet, 40)[-1] == 25
    assert scaled((3, 25), 2.0) == (7, 51)
    assert scaled((3, 25), 0.25) == (3, 7)
    assert floored(unet, 0.2, 32)[:9] == (7,) * 9
    assert floored(unet, 0.0, 32) == unet
    assert all(len(row) == 20 and all(p % 2 for p in row) for row in PUBLISHED.values())


def test_calibration_takes_the_best_window_at_every_level() -> None:
    pack = Pack.of(sprites(8))
    found = calibrate(pack, steps=5, held_out=4, draws=1)
    assert list(found) == sorted(found)
    assert found == calibrate(pack, steps=5, held_out=4, draws=1)
    assert found[0] == 3
    assert 3 < found[-1] <= 2 * SIDE
    # The lowest noise, by hand: no larger window does better.
    ab, chosen = alpha_bar(0.2), [0, 2, 4, 6]
    clean = pack.pixels[chosen]
    noise = torch.randn(clean.shape, generator=generator(0, "calibrate", 1))
    prior = torch.zeros((4, 8))
    prior[torch.arange(4), torch.tensor(chosen)] = -math.inf
    phi = math.sqrt(ab) * clean + math.sqrt(1 - ab) * noise
    errors = {
        window: float(
            (
                estimate(Machine(), pack.pixels, phi, ab=ab, window_px=window, log_prior=prior)
                - clean
            )
            .square()
            .mean()
        )
        for window in (3, 5, 7)
    }
    assert min(errors, key=lambda window: errors[window]) == found[0]


def test_calibration_leaves_kin_out_and_does_without_where_all_are_kin() -> None:
    plain = sprites(6)
    twins = Sprites(
        size_px=plain.size_px, sprites=tuple(s for each in plain.sprites for s in (each, each))
    )
    assert calibrate(Pack.of(twins), steps=4) == calibrate(Pack.of(plain), steps=4)
    one = Sprites(size_px=plain.size_px, sprites=plain.sprites[:1])
    assert calibrate(Pack.of(one), steps=4) == power_law(4, SIDE)


def lying(shifts: list[tuple[int, int]]) -> Pack:
    own = tuple(
        Sprite(name=f"s{i}", group=i, rgba=creature(i % 4, shift=shift).tobytes())
        for i, shift in enumerate(shifts)
    )
    return Pack.of(Sprites(size_px=(SIDE, SIDE), sprites=own))


def test_the_machine_fits_how_sources_lie() -> None:
    assert choose_machine(lying([(0, 0)] * 8)) == "ls"
    shifts = [(-4, 1), (1, -3), (-2, 2), (1, 1), (-3, -3), (0, 2), (-4, -2), (1, -1)]
    assert choose_machine(lying(shifts)) == "window"
    noise = torch.randint(0, 256, (60, SIDE * SIDE * 4), generator=generator(1), dtype=torch.uint8)
    noise[:, 3::4] = 255
    texture = tuple(
        Sprite(name=f"t{i}", group=i, rgba=row.numpy().tobytes()) for i, row in enumerate(noise)
    )
    assert choose_machine(Pack.of(Sprites(size_px=(SIDE, SIDE), sprites=texture))) == "els"
    assert choose_machine(lying([(0, 0)])) == "window"


# Distances and shares.


def distance_by_hand(picture: Tensor, source: Tensor) -> float:
    """Over mirrors and shifts of the picture, its canvas going on transparent."""
    best = math.inf
    for mirrored, dy, dx in itertools.product((False, True), range(-2, 3), range(-2, 3)):
        moved = torch.full_like(picture, -1.0)
        own = picture.flip(2) if mirrored else picture
        for y, x in itertools.product(range(SIDE), range(SIDE)):
            if 0 <= y + dy < SIDE and 0 <= x + dx < SIDE:
                moved[:, y, x] = own[:, y + dy, x + dx]
        best = min(best, float((moved - source).double().square().mean().sqrt()))
    return best


def test_distances_are_the_least_over_sources_mirrors_and_shifts(monkeypatch: Any) -> None:
    pack = Pack.of(sprites(3))
    picture = premultiplied(
        torch.frombuffer(bytearray(creature(8).tobytes()), dtype=torch.uint8).view(1, 16, 16, 4)
    )
    apart, index = _els_near.nearest(picture, pack)
    by_hand = [distance_by_hand(picture[0], source) for source in pack.pixels]
    assert float(apart[0]) == pytest.approx(min(by_hand), abs=1e-6)
    assert int(index[0]) == by_hand.index(min(by_hand))
    moved = pack.pixels[1].roll((1, -2), (1, 2)).flip(2)[None]
    apart, index = _els_near.nearest(moved, pack)
    assert (float(apart[0]), int(index[0])) == (pytest.approx(0.0, abs=1e-6), 1)
    monkeypatch.setattr(_els_near, "SCREENED", 1)
    apart, index = _els_near.nearest(pack.pixels[1:2].flip(3), pack)
    assert (float(apart[0]), int(index[0])) == (0.0, 1)
    apart, index = _els_near.nearest(moved, pack, without=[1])
    assert int(index[0]) != 1
    alone = Pack.of(sprites(1))
    assert _els_near.folder_median(alone) == 0.0
    assert _els_near.folder_median(pack) > 0.1


def test_copies_are_flagged() -> None:
    pack = Pack.of(sprites(5))
    median = _els_near.folder_median(pack)
    source = torch.full((2, SIDE, SIDE), 3)
    pictures = pack.pixels[[3, 0]].clone()
    source[1, :8] = 2
    found = _els_near.origins(pictures, source, pack, median)
    assert (found[0].copy, found[0].top_source, found[0].top_share) == (
        "near copy",
        "creature-d",
        1,
    )
    assert (found[0].nearest, found[0].sources) == (0.0, 1)
    assert found[1].sources == 2
    assert _els_near.origins(pictures[:1], source[:1], pack, 0.0)[0].copy == "one source"
    locked = torch.full((1, SIDE, SIDE), -1)
    (one,) = _els_near.origins(pictures[:1], locked, pack, 0.0)
    assert (one.top_source, one.top_share, one.sources, one.copy) == ("", 0.0, 0, "")
    alone = Pack.of(sprites(1))
    assert _els_near.origins(alone.pixels, torch.zeros_like(source[:1]), alone, 0)[0].copy == (
        "one group"
    )


# The backbone.


def test_resolving_needs_a_folder_and_no_torch(folder: Path) -> None:
    facts = _weights.resolve(f"els:{folder}")
    assert facts.digest == sprites().digest
    assert (facts.size_px, facts.steps, facts.schedulers) == ((SIDE, SIDE), 20, ("ddim",))
    with pytest.raises(ModelMissing, match="els:DIR"):
        _weights.resolve("els")
    with pytest.raises(ModelMissing, match="no such folder"):
        _weights.resolve("els:/nowhere/at/all")
    with pytest.raises(ModelMissing):
        _weights.resolve("els:")


def test_literal_facts_equal_the_imported_ones() -> None:
    described = registry.describe("backbones", "els")
    spec = els.Spec()
    assert described.facts["SIDES"] == els.SIDES
    assert all(getattr(spec, name) == value for name, value in described.spec.items())


def test_sides_and_what_cannot_be_worn(facts: BaseFacts) -> None:
    one = opened(facts)
    assert one.text is one.prior is None
    one.wear([])
    with pytest.raises(ArtefactError, match="no LoRA"):
        one.wear([("x.safetensors", 1.0)])
    with pytest.raises(InputError, match="no weights"):
        one.adapt(4, seed=0)
    with pytest.raises(InputError, match="fp32"):
        els.build(els.Spec(), facts, device="cpu", dtype="bf16")


def test_a_noise_row_depends_on_its_seed_only(facts: BaseFacts) -> None:
    side = opened(facts).image
    rows = side.noise([1, 2, 1], facts.size_px)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(side.noise([2], facts.size_px)[0], rows[1])
    with pytest.raises(InputError, match="16x16, not of 8x16"):
        side.noise([1], (8, 16))


@pytest.mark.parametrize("machine", ["ideal", "ls", "window", "els", "bbels"])
def test_pixels_are_those_of_their_source(facts: BaseFacts, machine: str) -> None:
    one = opened(facts)
    latents = draw(one, [1, 2, 3], options={"machine": machine})
    assert len(latents) == 6
    assert len({each.shape for each in latents}) == 1
    assert all(bool(each.isfinite().all()) for each in latents)
    pixels = one.image.decode(latents[-1])
    own = one.image.decode(one.image.pack.pixels)
    assert torch.equal(one.image.decode(latents[-1][[2, 0, 1]]), pixels[[2, 0, 1]])
    options = (("machine", machine),)
    for row, (_, maps) in enumerate(one.image.origins(latents[-1], options)):
        assert {each.size for each in maps.values()} == {(SIDE, SIDE)}
        for y, x in itertools.product(range(SIDE), range(SIDE)):
            source, v, u = (maps[n].getpixel((x, y)) for n in ("source", "row", "column"))
            if v == els.NO_PLACE:
                assert machine == "window"
                assert float(pixels[row, 3, y, x]) == -1.0
            else:
                assert torch.equal(pixels[row, :, y, x], own[source, :, v, u])
    assert len(draw(one, [1], steps=1)) == 1


def test_means_have_no_map(facts: BaseFacts) -> None:
    one = opened(facts)
    latents = draw(one, [1], options={"snap": False})[-1]
    assert one.image.origins(latents, (("snap", False),)) == [((), {})]
    assert bool((latents[:, 4:] == -1).all())


def test_prompt_tags_and_parents_choose_sources(facts: BaseFacts) -> None:
    one = opened(facts)

    def used(prompt: str, **options: Any) -> set[int]:
        latents = draw(one, [1, 2], [prompt] * 2, options=options)[-1]
        return {int(index) for index in latents[:, 4].unique()}

    assert used("a winged beast") <= {1, 3}
    assert used("a winged beast", tags="furry, four legs") <= {0, 2, 4}
    assert used("x", parents="creature-a=2,creature-d=1") <= {0, 3}
    assert len(used("a photo of a creature")) > 2
    mixed = draw(one, [1, 1], ["winged", "furry"])[-1]
    assert {int(i) for i in mixed[0, 4].unique()} <= {1, 3}
    assert {int(i) for i in mixed[1, 4].unique()} <= {0, 2, 4}


def test_locked_pixels_are_untouched(tmp_path: Path) -> None:
    mask = bytes(255 if i % SIDE > 8 else 0 for i in range(SIDE * SIDE))
    path = tmp_path / "locked.safetensors"
    path.write_bytes(sprites_bytes(sprites(kept=creature(9).tobytes(), kept_mask=mask)))
    one = opened(_weights.resolve(f"els:{path}"))
    assert one.image.pack.kept is not None
    locked, picture = one.image.pack.kept
    for machine in ("ls", "els"):
        latents = draw(one, [1, 2], options={"machine": machine})[-1]
        assert torch.equal(latents[:, :4, locked], picture[:, locked].expand(2, -1, -1))
        assert bool((latents[:, 4:, locked] == -1).all())
        assert bool((latents[:, 4, ~locked] >= 0).all())
        _, maps = one.image.origins(latents, (("machine", machine),))[0]
        assert maps["source"].getpixel((15, 0)) == els.NO_PLACE


def test_tiles_have_no_seam(tmp_path: Path) -> None:
    """Rolled noise gives the rolled picture where the canvas wraps: no border is special."""
    path = tmp_path / "tiles.safetensors"
    path.write_bytes(sprites_bytes(sprites(tile=True)))
    one = opened(_weights.resolve(f"els:{path}"))
    side = one.image
    noise = side.noise([1], one.facts.size_px)
    cond = one.condition([job(one.facts, 1)], [])
    made = []
    for start in (noise, noise.roll((5, 3), (2, 3))):
        with torch.inference_mode():
            steps = side.denoise(
                start,
                cond,
                negative=None,
                steps=4,
                guidance=1.0,
                scheduler="ddim",
                options=(("machine", "els"), ("schedule", "3 3 3 5")),
                seeds=[1],
            )
            made.append(list(steps)[-1][:, :4])
    assert torch.equal(made[0].roll((5, 3), (2, 3)), made[1])
    seam = (made[0][..., 0] - made[0][..., -1]).abs().mean()
    inner = (made[0][..., 1:] - made[0][..., :-1]).abs().mean()
    assert float(seam) < 3 * float(inner) + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coherense": 0.2}, 'no option "coherense"; did you mean'),
        ({"machine": "elss"}, 'no machine "elss"; did you mean'),
        ({"coherence": 2}, "between 0 and 1"),
        ({"coherence": math.nan}, "between 0 and 1"),
        ({"coherence": True}, "cannot be"),
        ({"freedom": -1}, "at least 0"),
        ({"freedom": 1.5}, "cannot be"),
        ({"freedom": 2, "machine": "ls"}, "freedom belongs to window"),
        ({"parents": "a"}, "cannot be"),
        ({"parents": "creature-a=nan"}, "weights of parents"),
        ({"schedule": "3 4"}, "odd"),
        ({"schedule": "x"}, "cannot be"),
        ({"tags": "scaly"}, "no source is called"),
        ({"snap": "yes"}, "cannot be"),
        ({"shift_tau": math.inf}, "shift_tau"),
        ({"tile": True}, "do not tile"),
    ],
)
def test_wrong_options_are_named(facts: BaseFacts, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, UnknownName), match=message):
        draw(opened(facts), [1], options=options)
    with pytest.raises(UnknownName, match="no scheduler"):
        draw(opened(facts), [1], scheduler="euler")


def test_dials_turn(facts: BaseFacts) -> None:
    side = opened(facts).image
    assert side.machine(els.Dials()).kind == "ls"
    assert side.machine(els.Dials(freedom=3)).reach_px == 3
    assert side.machine(els.Dials(machine="window")).reach_px == els.LOOSE_REACH_PX
    assert side.windows(els.Dials(coherence=1.0), 20) == (17,) * 20
    assert side.windows(els.Dials(schedule=(3,), coherence=0.0), 4) == (3,) * 4
    published = els.Dials.of((("schedule", "celeba-unet"),), 0.0)
    assert side.windows(published, 20) == PUBLISHED["celeba-unet"]


def test_pictures_that_changed_since_the_plan_are_refused(facts: BaseFacts, folder: Path) -> None:
    folder.write_bytes(sprites_bytes(sprites(4)))
    with pytest.raises(DigestMismatch, match="changed since"):
        _ = opened(facts).image


def rendered(facts: BaseFacts, seeds: list[int], **more: Any) -> list[Rendered]:
    jobs = tuple(job(facts, seed, **more) for seed in seeds)
    group = Group(base=facts.name, base_digest=facts.digest, dtype="fp32")
    renderer = Renderer(OpenBase({facts.digest: facts}, "cpu"), threads=1)
    batch = Batch(index=0, group=group, jobs=jobs, batch_class=max(2, len(jobs)))
    outcomes = renderer.render(batch)
    for outcome in outcomes:
        assert isinstance(outcome, Rendered), outcome
    return outcomes  # type: ignore[return-value]


def test_the_renderer_draws_it_with_facts_and_maps(facts: BaseFacts) -> None:
    whole = rendered(facts, [1, 2, 3])
    alone = rendered(facts, [2])
    assert whole[1].image.tobytes() == alone[0].image.tobytes()
    assert len({each.image.tobytes() for each in whole}) == 3
    assert {each.image.mode for each in whole} == {"RGBA"}
    told = dict(whole[0].facts)
    assert told["base"] == "pack.safetensors" or str(told["base"]).startswith("els")
    assert {"nearest", "nearest_source", "top_source", "top_share", "sources", "copy"} <= set(told)
    assert set(whole[0].maps) == {"source", "row", "column"}
    copies = rendered(facts, [1, 2], options=(("coherence", 1.0), ("machine", "ideal")))
    assert {dict(each.facts)["copy"] for each in copies} == {"near copy"}


def test_a_wrong_option_ends_the_run_with_its_name(facts: BaseFacts) -> None:
    with pytest.raises(UnknownName, match="magic"):
        rendered(facts, [1], options=(("magic", 1),))


def test_shipped_sprites_are_found_from_anywhere(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    facts = _weights.resolve("els:presets/sprites")
    assert facts.size_px == (64, 64)
    assert Path(facts.folder).is_dir()
