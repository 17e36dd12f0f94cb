"""An atlas holds every sprite once, whole, and says where."""

from __future__ import annotations

import json
import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from creatok_cli.workflows._atlas import (
    GAP_PX,
    MAX_SIDE_PX,
    atlas_json,
    draw_atlas,
    pack,
    png_bytes,
)

SIZES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=60)


@given(SIZES)
def test_nothing_overlaps_or_leaves_its_page(sizes: list[tuple[int, int]]) -> None:
    boxes = {f"{at:02d}": ((0, 0, w, h), (w, h)) for at, (w, h) in enumerate(sizes)}
    pages = pack(boxes)
    assert sorted(place.name for page in pages for place in page.places) == sorted(boxes)
    for page in pages:
        assert max(page.size_px) <= MAX_SIDE_PX
        spots = []
        for place in page.places:
            x, y = place.at
            w, h = place.box[2], place.box[3]
            assert GAP_PX <= x <= page.size_px[0] - w - GAP_PX
            assert GAP_PX <= y <= page.size_px[1] - h - GAP_PX
            spots.append((x, y, x + w, y + h))
        for a, b in combinations(spots, 2):
            assert a[2] + GAP_PX <= b[0] or b[2] + GAP_PX <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_many_sprites_go_to_several_pages() -> None:
    boxes = {f"{at:03d}": ((0, 0, 500, 500), (500, 500)) for at in range(100)}
    pages = pack(boxes)
    assert [len(page.places) for page in pages] == [64, 36]


def test_sprites_come_back_from_page_and_json() -> None:
    """By the rules of the format: `frame` of the atlas, put at `spriteSourceSize`."""
    rng = random.Random(1)
    images = {}
    for at in range(9):
        image = Image.new("RGBA", (20, 16))
        w, h = rng.randint(1, 12), rng.randint(1, 12)
        noise = Image.frombytes("RGB", (w, h), rng.randbytes(3 * w * h)).convert("RGBA")
        image.paste(noise, (rng.randint(0, 8), rng.randint(0, 4)))
        images[f"row/{at}.png"] = image
    images["row/empty.png"] = Image.new("RGBA", (20, 16))
    ((sheet, page),) = draw_atlas(images)
    said = json.loads(atlas_json(page, "atlas.png", []))
    assert said["meta"]["size"] == {"w": sheet.width, "h": sheet.height}
    assert said["meta"]["image"] == "atlas.png"
    assert list(said["frames"]) == sorted(images)
    for name, image in images.items():
        row = said["frames"][name]
        spot, source = row["frame"], row["spriteSourceSize"]
        part = sheet.crop((spot["x"], spot["y"], spot["x"] + spot["w"], spot["y"] + spot["h"]))
        whole = Image.new("RGBA", (row["sourceSize"]["w"], row["sourceSize"]["h"]))
        whole.paste(part, (source["x"], source["y"]))
        assert whole.tobytes() == image.tobytes()
        assert row["trimmed"] is True
    assert png_bytes(sheet) == png_bytes(draw_atlas(images)[0][0])
