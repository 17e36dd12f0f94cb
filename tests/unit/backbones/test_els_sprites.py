"""Every kind of picture becomes sprites on one canvas, or a clear error."""

from __future__ import annotations

import os
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from creatok_cli.backbones._els_pictures import (
    MAX_FRAMES,
    gather,
    in_folder,
    lock,
    read_frames,
    read_tags,
)
from creatok_cli.backbones._els_sprites import (
    Sprite,
    Sprites,
    load_sprites,
    read_sprites,
    sprites_bytes,
)
from creatok_cli.errors import DigestMismatch, InputError, ModelMissing, Refused, SheetError

RED, CLEAR = (200, 10, 20, 255), (0, 0, 0, 0)


def dot(size: tuple[int, int] = (8, 8), colour: tuple[int, ...] = RED) -> Image.Image:
    """A pixel of that colour in a transparent picture, in the middle of the floor."""
    image = Image.new("RGBA", size, CLEAR)
    image.putpixel((size[0] // 2, size[1] - 1), colour)
    return image


def speckled(seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """Opaque noise."""
    rng = random.Random(seed)
    return Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)).convert("RGBA")


def folder_of(folder: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def pixel(sprite: Sprite, width: int, at: tuple[int, int]) -> tuple[int, ...]:
    start = 4 * (at[1] * width + at[0])
    return tuple(sprite.rgba[start : start + 4])


def test_every_mode_means_the_same_picture(tmp_path: Path) -> None:
    """Palette, grey with alpha, 1 bit, 16 bits, GIF, WebP and BMP say what they show."""
    red = dot()
    palette = red.convert("RGB").quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "palette.png")
    red.save(tmp_path / "gif.gif")
    red.save(tmp_path / "webp.webp", lossless=True)
    grey = Image.new("I;16", (8, 8))
    grey.putpixel((4, 7), 40_000)
    grey.save(tmp_path / "deep.png")
    Image.new("LA", (8, 8), (90, 128)).save(tmp_path / "la.png")
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "bmp.bmp")
    found = {each.name: each for each in load_sprites(tmp_path).sprites}
    for name in ("palette", "gif", "webp"):
        assert pixel(found[name], 8, (4, 7)) == RED
        assert pixel(found[name], 8, (0, 0))[3] == 0
    assert pixel(found["deep"], 8, (4, 7)) == (156, 156, 156, 255)
    assert pixel(found["deep"], 8, (0, 0)) == (0, 0, 0, 255)
    assert pixel(found["la"], 8, (3, 3)) == (90, 90, 90, 128)
    assert pixel(found["bit"], 8, (3, 3)) == (255, 255, 255, 255)
    assert pixel(found["bmp"], 8, (3, 3)) == (1, 2, 3, 255)


def test_a_transparent_level_of_16_bits_is_exact(tmp_path: Path) -> None:
    """Levels that differ in their lower half alone are told apart."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = b"\0" + struct.pack(">HH", 0x1200, 0x1201)
    path = tmp_path / "grey.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 0x1200))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    (frame,) = read_frames(path)
    assert [frame.getpixel((x, 0)) for x in (0, 1)] == [(0x12,) * 3 + (0,), (0x12,) * 3 + (255,)]


def test_frames_are_kin_and_bounded(tmp_path: Path) -> None:
    frames = [speckled(seed) for seed in range(MAX_FRAMES + 30)]
    frames[0].save(
        tmp_path / "run.webp", save_all=True, append_images=frames[1:], lossless=True, duration=50
    )
    speckled(999).save(tmp_path / "other.png")
    sprites = load_sprites(tmp_path).sprites
    assert len(sprites) == MAX_FRAMES + 1
    assert {each.group for each in sprites if each.name.startswith("run#")} == {1}
    assert sprites[0].group == 0
    assert sprites[1].rgba == frames[0].tobytes()


def test_sizes_meet_on_the_floor(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.png": dot((8, 8)), "b.png": dot((4, 6)), "c.png": dot((8, 8))})
    sprites = load_sprites(tmp_path)
    assert sprites.size_px == (8, 8)
    assert pixel(sprites.sprites[1], 8, (4, 7)) == RED
    assert any("differ in size" in each for each in sprites.notices)


def test_a_size_reduces_without_dark_rims(tmp_path: Path) -> None:
    """Colours below transparency have no say: half of the block is red, none of it is darker."""
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 3, 8))
    folder_of(tmp_path, {"a.png": image})
    sprites = gather(in_folder(tmp_path), where="x", size_px=(4, 4))
    red, green, _, alpha = pixel(sprites.sprites[0], 4, (1, 2))
    assert (red, green) == (255, 0)
    assert 120 <= alpha <= 135
    assert any("reduced" in each for each in sprites.notices)


def test_a_sheet_is_cut_into_cells(tmp_path: Path) -> None:
    sheet = Image.new("RGBA", (24, 16), CLEAR)
    for at in ((0, 0), (16, 0), (8, 8)):
        sheet.paste(dot(), at)
    folder_of(tmp_path, {"sheet.png": sheet})
    sprites = gather(in_folder(tmp_path), where="x", grid_px=(8, 8))
    assert [each.name for each in sprites.sprites] == ["sheet@1,1", "sheet@1,3", "sheet@2,2"]
    assert len({each.group for each in sprites.sprites}) == 3
    assert any("3 empty sprites" in each for each in sprites.notices)
    with pytest.raises(InputError, match="24x16 pixels are no whole number of cells of 7x8"):
        gather(in_folder(tmp_path), where="x", grid_px=(7, 8))


def hostile(folder: Path) -> dict[str, Path]:
    """Files that are no sprites, each named .png."""
    found = {name: folder / f"{name}.png" for name in ("text", "cut", "huge", "empty", "pickle")}
    found["text"].write_text("<html>not found</html>")
    dot().save(found["cut"])
    data = found["cut"].read_bytes()
    found["cut"].write_bytes(data[: len(data) // 2])
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    body = b"IHDR" + head
    found["huge"].write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\r" + body + struct.pack(">I", zlib.crc32(body))
    )
    found["empty"].write_bytes(b"")
    found["pickle"].write_bytes(b"\x80\x04K\x01.")
    return found


@pytest.mark.parametrize("kind", ["text", "cut", "huge", "empty", "pickle"])
def test_hostile_files_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = hostile(tmp_path)[kind]
    with pytest.raises(InputError, match=f"{kind}.png: ") as caught:
        gather([("x", path)], where="x")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: is no regular file"):
        load_sprites(tmp_path)


def test_nothing_to_remix(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no such folder"):
        load_sprites(tmp_path / "gone")
    with pytest.raises(InputError, match="no pictures"):
        load_sprites(tmp_path)
    folder_of(tmp_path, {"a.png": Image.new("RGBA", (8, 8), CLEAR)})
    with pytest.raises(InputError, match="every picture is empty"):
        load_sprites(tmp_path)


def test_sizes_that_do_not_belong_together(tmp_path: Path) -> None:
    images = {f"{name}.png": dot() for name in "abc"}
    folder_of(tmp_path, {**images, "poster.png": dot((64, 40))})
    with pytest.raises(InputError, match=r"poster has 64x40 pixels.*--size such as 8x8"):
        load_sprites(tmp_path)
    folder_of(tmp_path / "large", {"a.png": dot((600, 600))})
    with pytest.raises(InputError, match="at most 512"):
        load_sprites(tmp_path / "large")


def test_five_thousand_sprites(tmp_path: Path) -> None:
    """Many are no trouble; too many for the memory are an error before it is taken."""
    dot().save(tmp_path / "a.png")
    files = [(f"s{at}", tmp_path / "a.png") for at in range(5_000)]
    sprites = gather(files, where="x")
    assert len(sprites.sprites) == 5_000
    assert len({each.group for each in sprites.sprites}) == 5_000
    with pytest.raises(InputError, match="need too much memory; give a smaller size"):
        gather(files, where="x", size_px=(512, 512))


def test_names_tell_files_apart_and_find_kin(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        {
            **{f"cat-{at}.png": dot() for at in (1, 2)},
            "dog.png": dot(),
            "dog.gif": dot(),
            "birds/owl.png": dot(),
        },
    )
    sprites = load_sprites(tmp_path).sprites
    groups = {each.name: each.group for each in sprites}
    assert set(groups) == {"birds/owl", "cat-1", "cat-2", "dog.gif", "dog.png"}
    assert groups["cat-1"] == groups["cat-2"]
    assert len(set(groups.values())) == 4
    assert sprites[0].tags == ("birds",)


def test_a_numbered_folder_is_not_one_family(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"sprite_{at:03d}.png": dot() for at in range(30)})
    assert len({each.group for each in load_sprites(tmp_path).sprites}) == 30


def test_tags_come_from_the_file_beside(tmp_path: Path) -> None:
    folder_of(tmp_path, {"owl.png": dot(), "owlet.png": dot(), "pig.png": dot()})
    tags = tmp_path / "tags.yaml"
    tags.write_text('birds: ["owl*"]\nfarm: pig\n', encoding="utf-8")
    found = {each.name: each.tags for each in load_sprites(tmp_path).sprites}
    assert found == {"owl": ("birds",), "owlet": ("birds",), "pig": ("farm",)}
    tags.write_text("birds: [oul]\n", encoding="utf-8")
    with pytest.raises(InputError, match='called "oul"; did you mean "owl"'):
        load_sprites(tmp_path)
    for text in ("- owl\n", "a,b: [owl]\n", "birds: [[owl]]\n", "birds:\n"):
        tags.write_text(text, encoding="utf-8")
        with pytest.raises(SheetError, match=r"tags\.yaml:\d+:\d+"):
            read_tags(tags)


def test_mirrors_are_twins(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.png": speckled(1)})
    one, twin = gather(in_folder(tmp_path), where="x", mirror=True).sprites
    assert (one.name, one.group, one.mirrored) == (twin.name, twin.group, False)
    assert twin.mirrored
    assert twin.rgba == speckled(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()


class TestLock:
    @pytest.fixture
    def sprites(self, tmp_path: Path) -> Sprites:
        return load_sprites(folder_of(tmp_path / "in", {"cat.png": speckled(1), "dog.png": dot()}))

    def test_a_picture_keeps_what_is_opaque(self, sprites: Sprites, tmp_path: Path) -> None:
        dot().save(tmp_path / "m.png")
        found = lock(sprites, tmp_path / "m.png", None)
        assert found.kept == dot().tobytes()
        assert [at for at, byte in enumerate(found.kept_mask) if byte] == [7 * 8 + 4]
        assert found.digest != sprites.digest

    def test_a_mask_keeps_pixels_of_a_sprite(self, sprites: Sprites, tmp_path: Path) -> None:
        mask = Image.new("L", (8, 8), 0)
        mask.paste(255, (0, 0, 4, 8))
        mask.save(tmp_path / "m.png")
        found = lock(sprites, tmp_path / "m.png", "cat")
        assert found.kept == speckled(1).tobytes()
        assert sum(map(bool, found.kept_mask)) == 32
        with pytest.raises(InputError, match="--keep"):
            lock(sprites, tmp_path / "m.png", None)
        with pytest.raises(InputError, match='did you mean "cat"'):
            lock(sprites, tmp_path / "m.png", "cta")

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (Image.new("L", (9, 8), 255), "9x8"),
            (Image.new("L", (8, 8), 255), "every pixel"),
            (Image.new("L", (8, 8), 0), "no pixel"),
        ],
    )
    def test_masks_that_mean_nothing(
        self, sprites: Sprites, tmp_path: Path, image: Image.Image, message: str
    ) -> None:
        image.save(tmp_path / "m.png")
        with pytest.raises(InputError, match=message):
            lock(sprites, tmp_path / "m.png", "cat")


def small() -> Sprites:
    return Sprites(
        size_px=(2, 1),
        sprites=(
            Sprite(name="a", group=0, rgba=bytes(range(8)), tags=("t",)),
            Sprite(name="b", group=1, rgba=bytes(range(8, 16)), mirrored=True),
        ),
        kept=bytes(8),
        kept_mask=b"\xff\0",
        machine="ls",
        schedule=(3, 5, 7),
    )


def test_the_file_of_sprites_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(sprites_bytes(small()))
    assert read_sprites(path) == load_sprites(path) == small()
    assert sprites_bytes(read_sprites(path)) == path.read_bytes()


def test_every_part_of_sprites_is_in_their_digest() -> None:
    one = small()
    changed = [
        replace(one, size_px=(1, 2)),
        replace(one, sprites=one.sprites[::-1]),
        replace(one, sprites=(replace(one.sprites[0], group=1), one.sprites[1])),
        replace(one, sprites=(replace(one.sprites[0], tags=()), one.sprites[1])),
        replace(one, tile=True),
        replace(one, kept=bytes(7) + b"\1"),
        replace(one, kept_mask=b"\xff\xff"),
        replace(one, machine="els"),
        replace(one, schedule=()),
    ]
    assert len({each.digest for each in (one, *changed)}) == len(changed) + 1
    assert replace(one, notices=("told",)).digest == one.digest


def test_damaged_files_of_sprites(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    data = bytearray(sprites_bytes(small()))
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        read_sprites(path)
    for text, other in (
        (b'"size":', b'"sise":'),
        (b'\\"machine\\":\\"ls\\"', b'\\"machine\\":\\"xx\\"'),
    ):
        plain = sprites_bytes(small())
        escaped = text if text in plain else text.replace(b'"', b'\\"')
        assert escaped in plain
        path.write_bytes(
            plain.replace(escaped, other if text in plain else other.replace(b'"', b'\\"'))
        )
        with pytest.raises(Refused):
            read_sprites(path)
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(Refused):
        read_sprites(path)
