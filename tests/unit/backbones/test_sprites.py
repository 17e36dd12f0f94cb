"""The shipped sprites are what their generator draws, and fit to be remixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from creatok_cli.backbones._els_sprites import Sprites, load_sprites
from creatok_cli.backbones.bestiary import sprites as generator
from creatok_cli.registry import preset_folder

FOLDER = preset_folder() / "sprites"
MAX_BYTES = 400_000


@pytest.fixture(scope="module")
def shipped() -> Sprites:
    return load_sprites(FOLDER)


def test_all_of_them_are_there_and_small() -> None:
    names = [plan.name for plan in generator.plans()]
    assert 60 <= len(names) <= 120
    assert len(set(names)) == len(names)
    assert {path.stem for path in FOLDER.glob("*.png")} == set(names)
    assert (FOLDER / "tags.yaml").read_text(encoding="utf-8") == generator.tags_text()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MAX_BYTES


@pytest.mark.parametrize("plan", list(generator.plans())[::7], ids=lambda plan: plan.name)
def test_they_are_drawn_by_the_world(plan: generator.Plan) -> None:
    """Within what another Pillow may round."""
    with Image.open(FOLDER / f"{plan.name}.png") as opened:
        assert opened.info["Copyright"] == generator.LICENCE
        there = opened.convert("RGBA")
    apart = ImageChops.difference(there, generator.draw(plan))
    assert max(ImageStat.Stat(apart).mean) < 1.0


def test_each_stands_on_the_floor_with_room_around(shipped: Sprites) -> None:
    assert shipped.size_px == (64, 64)
    assert not shipped.notices
    for sprite in shipped.sprites:
        alpha = Image.frombytes("RGBA", shipped.size_px, sprite.rgba).getchannel("A")
        left, top, right, bottom = alpha.getbbox() or (0, 0, 0, 0)
        assert left >= 1, sprite.name
        assert top >= 1, sprite.name
        assert right <= 63, sprite.name
        assert 60 <= bottom <= 62, sprite.name


def test_every_sprite_has_one_tag(shipped: Sprites) -> None:
    assert {sprite.tags for sprite in shipped.sprites} == {("animal",), ("garden",), ("hybrid",)}


def test_the_command_writes_the_same_folder(tmp_path: Path) -> None:
    assert generator.write(tmp_path) == len(list(generator.plans()))
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
