"""The sprites that ship in presets/sprites: creatures of the bestiary on transparent ground.

Animals as they are, animals mixed with plants, and animals mixed with animals, all on one floor
with their eyes at one place: the sprites of one game, which the score machines remix well. Drawn by
`python -m creatok_cli.backbones.bestiary.sprites FOLDER`; equal code draws equal pixels.

Does not: read files, or draw scenes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli import durable
from creatok_cli.backbones.bestiary.genes import CONCEPTS, PLANTS
from creatok_cli.backbones.bestiary.world import blend, draw_sprite

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE_PX = 64
LONE = ("jellyfish", "spider")
"""Animals that stay alone: their thin legs come off in mixtures (seen)."""
GARDENS = 2
"""Animals that each plant is mixed with."""
HYBRIDS = 24
APART = 21
"""Places between the parents of a hybrid in the shuffled row of animals."""
PLANT_SHARE = 0.4
LICENCE = "Apache-2.0, as creatok itself"
_TAGS_HEAD = f"""\
# Tags of the sprites of this folder, for  creatok explore els --images presets/sprites --only TAG
# Drawn by  python -m creatok_cli.backbones.bestiary.sprites FOLDER   Licence: {LICENCE}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """One sprite to be drawn."""

    name: str
    tag: str
    mix: dict[str, float]


def plans() -> Iterator[Plan]:
    """What is drawn, in order of the tags."""
    animals = [name for name in CONCEPTS if name not in PLANTS and name not in LONE]
    for name in animals:
        yield Plan(name, "animal", {name: 1.0})
    row = list(animals)
    rng = random.Random("sprites")
    rng.shuffle(row)
    for at, plant in enumerate(sorted(PLANTS)):
        for animal in row[at * GARDENS : (at + 1) * GARDENS]:
            mix = {animal: 1 - PLANT_SHARE, plant: PLANT_SHARE}
            yield Plan(f"{animal}-{plant}", "garden", mix)
    rng.shuffle(row)
    for at in range(HYBRIDS):
        one, other = row[at], row[(at + APART) % len(row)]
        yield Plan(f"{one}-{other}", "hybrid", {one: 0.5, other: 0.5})


def draw(plan: Plan) -> Image:
    """The sprite, RGBA."""
    rng = random.Random(plan.name)
    return draw_sprite(blend(plan.mix, rng), rng, SIZE_PX)


def tags_text() -> str:
    """The file of tags."""
    found: dict[str, list[str]] = {}
    for plan in plans():
        found.setdefault(plan.tag, []).append(plan.name)
    rows = [
        f"{tag}:\n" + "".join(f"  - {name}\n" for name in names) for tag, names in found.items()
    ]
    return _TAGS_HEAD + "".join(rows)


def write(folder: Path) -> int:
    """Draws all into a folder, durably; says how many."""
    from io import BytesIO

    from PIL.PngImagePlugin import PngInfo

    durable.open_root(folder, create=True)
    writer = durable.Writer(run=durable.new_run())
    count = 0
    for plan in plans():
        info = PngInfo()
        info.add_text("Copyright", LICENCE)
        buffer = BytesIO()
        draw(plan).save(buffer, "PNG", optimize=True, pnginfo=info)
        durable.replace_derived(folder, f"{plan.name}.png", buffer.getvalue(), writer=writer)
        count += 1
    durable.replace_derived(folder, "tags.yaml", tags_text().encode(), writer=writer)
    return count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the sprites are written")
    folder: Path = parser.parse_args().folder
    print(f"{write(folder)} sprites in {folder}")


if __name__ == "__main__":
    main()
