"""The page and the numbers of a network's pool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from creatok_cli.errors import OutputReadOnly
from creatok_cli.sinks._page import BACKGROUND
from creatok_cli.sinks._tiles import Page, Tile, draw_tiles
from creatok_cli.tokens.network import network_bytes
from creatok_cli.workflows._pool import draw_pool, finds
from tests.fakes.networks import network_of


def test_the_pool_is_read_in_its_order_with_the_largest_shares_first() -> None:
    network = network_of(pool=3)
    pool = finds(network)
    assert [find.index for find in pool] == [find.step for find in pool] == [0, 1, 2]
    flat = network.tensors["pool/p"].values()
    for find in pool:
        row = flat[find.index * 3 : find.index * 3 + 3]
        assert dict(find.shares) == dict(zip(network.classes, row, strict=True))
        assert [share for _, share in find.shares] == sorted(row, reverse=True)
    assert b"".join(find.rgb for find in pool) == network.tensors["pool/pictures"].data
    assert finds(network_of(pool=0)) == ()


def test_page_and_numbers_say_the_same(tmp_path: Path) -> None:
    network = network_of(pool=7)
    picture, numbers = draw_pool(network, tmp_path / "deep" / "out")
    said = json.loads(numbers.read_text(encoding="utf-8"))
    assert said["network"] == network.id
    assert [each["step"] for each in said["pool"]] == list(range(7))
    for find, each in zip(finds(network), said["pool"], strict=True):
        assert each["shares"] == {
            name: round(share, 6) for name, share in find.shares if share >= 0.01
        }
        assert next(iter(each["shares"])) == find.shares[0][0]
    with Image.open(picture) as page:
        assert page.mode == "RGB"
        assert page.width > 5 * 128
    again, _ = draw_pool(network, tmp_path / "again")
    assert again.read_bytes() == picture.read_bytes()


def test_each_thumbnail_is_on_the_page(tmp_path: Path) -> None:
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10)]
    tiles = [
        Tile(size_px=(4, 4), rgb=bytes(colour) * 16, lines=("pig 50%", "step 1"))
        for colour in colours
    ]
    (tmp_path / "p.png").write_bytes(
        draw_tiles(Page(title="t", notes=("a", "b"), foot="", tiles=tiles))
    )
    with Image.open(tmp_path / "p.png") as page:
        counted = dict((colour, count) for count, colour in page.getcolors(1 << 20) or [])
        for colour in colours:
            assert counted[colour] == 128 * 128
        assert counted[BACKGROUND] > 0


def test_large_and_oblong_pictures_shrink_and_stay_inside() -> None:
    tile = Tile(size_px=(300, 150), rgb=b"\xff\x00\x00" * 45_000, lines=())
    assert draw_tiles(Page(title="t", notes=(), foot="f", tiles=[tile])).startswith(b"\x89PNG")


def test_an_empty_pool_has_a_page_too(tmp_path: Path) -> None:
    picture, numbers = draw_pool(network_of(pool=0), tmp_path)
    assert json.loads(numbers.read_text(encoding="utf-8"))["pool"] == []
    assert picture.is_file()


def test_an_unchanged_page_stays_and_a_strangers_file_is_never_replaced(tmp_path: Path) -> None:
    picture, _ = draw_pool(network_of(), tmp_path)
    before = picture.stat().st_mtime_ns
    draw_pool(network_of(), tmp_path)
    assert picture.stat().st_mtime_ns == before
    draw_pool(network_of(seed=1), tmp_path)
    assert picture.stat().st_mtime_ns != before
    picture.write_bytes(b"mine")
    with pytest.raises(OutputReadOnly, match="move it away"):
        draw_pool(network_of(), tmp_path)
    assert picture.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputReadOnly, match="choose another --out"):
        draw_pool(network_of(), tmp_path / "file")


def test_no_torch_is_needed(tmp_path: Path) -> None:
    (tmp_path / "n.safetensors").write_bytes(network_bytes(network_of()))
    code = (
        "import sys; from pathlib import Path; from creatok_cli.workflows._pool import draw_pool; "
        "from creatok_cli.tokens.network import read_network; "
        f"draw_pool(read_network({str(tmp_path / 'n.safetensors')!r}), Path({str(tmp_path)!r})); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
