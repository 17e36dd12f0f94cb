"""What is found out about sprites: kin, seams, and that it is kept."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from creatok_cli import config
from creatok_cli.backbones._els_pack import Pack
from creatok_cli.backbones._els_sprites import Sprite, Sprites
from creatok_cli.workflows import _sprites
from creatok_cli.workflows._sprites import (
    Study,
    is_seamless,
    kin,
    known_study,
    make_study,
    near_twins,
    studied,
)


def noise(seed: int) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.randbytes(3) + b"\xff" for _ in range(64))


def sprites(*pixels: bytes, groups: list[int] | None = None) -> Sprites:
    numbers = groups or list(range(len(pixels)))
    return Sprites(
        size_px=(8, 8),
        sprites=tuple(
            Sprite(name=f"s{at}", group=group, rgba=rgba)
            for at, (rgba, group) in enumerate(zip(pixels, numbers, strict=True))
        ),
    )


def test_twins_and_their_twins_are_kin() -> None:
    """A level of difference makes a twin; groups that share one sprite become one."""
    one, twin = noise(1), bytearray(noise(1))
    twin[0] ^= 8
    pack = Pack.of(sprites(one, noise(2), bytes(twin), noise(3), groups=[0, 1, 1, 2]))
    assert near_twins(pack.pixels) == [(0, 2)]
    assert kin(pack) == (0, 0, 0, 1)


def test_a_size_that_thumbnails_do_not_divide_misses_no_twin() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(1, 4, 37, 21, generator=generator) * 2 - 1
    second = first + 0.09 * torch.randn(first.shape, generator=generator)
    other = torch.rand(1, 4, 37, 21, generator=generator) * 2 - 1
    assert near_twins(torch.cat([first, second, other])) == [(0, 1)]


def test_seams_are_seen() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(3, 4, 16, 16)
    assert not is_seamless(ramp)
    wave = torch.sin(torch.arange(16) * torch.pi / 8).expand(3, 4, 16, 16)
    assert is_seamless(wave)


def test_what_was_found_out_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sprites(*(noise(at) for at in range(4)))
    assert known_study(asked) is None
    found = make_study(asked, "cpu")
    assert known_study(asked) == found
    assert len(found.schedule) == _sprites.STEPS
    assert known_study(replace(asked, tile=True)) is None
    path = next((config.home() / _sprites.FOLDER).iterdir())
    for text in (
        "",
        "[]",
        "{}",
        path.read_text().replace('"ls"', '"magic"').replace("0, 1", "0, -1"),
    ):
        path.write_text(text)
        assert known_study(asked) is None


def test_sprites_tile_only_where_they_can() -> None:
    asked = sprites(noise(1), noise(2))
    study = Study(groups=(0, 0), machine="ls", schedule=(3, 5), is_seamless=False)
    found = studied(asked, study, tile=True)
    assert (found.tile, found.machine, found.schedule) == (False, "ls", (3, 5))
    assert [each.group for each in found.sprites] == [0, 0]
    assert studied(asked, replace(study, is_seamless=True), tile=True).tile
