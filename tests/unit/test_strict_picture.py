"""Pictures of a user: what is opened, what is refused, and how it comes out."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from creatok_cli import strict_picture
from creatok_cli.errors import InputError
from creatok_cli.strict_picture import check_picture, decode_picture, fitted, open_picture

RED, CLEAR = (200, 10, 10), (0, 0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for body in (b"IHDR" + head, b"IDAT", b"IEND"):
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_known_by_their_contents(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(encoded(Image.new("RGB", (6, 4), RED), kind))
    image = open_picture(path)
    assert (image.mode, image.size, image.info) == ("RGB", (6, 4), {})
    found = check_picture(path)
    assert (found.path, found.size_px) == (str(path), (6, 4))
    assert found.digest == strict_picture.digest_of(path.read_bytes())


def test_transparent_pixels_lie_on_white() -> None:
    half = Image.new("RGBA", (2, 1), CLEAR)
    half.putpixel((1, 0), (*RED, 255))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((1, 0), 1)
    for data in (encoded(half), encoded(palette, transparency=0), encoded(half.convert("LA"))):
        image = decode_picture(data, "x")
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((1, 0)) != (255, 255, 255)


def test_of_16_bits_the_upper_half_counts() -> None:
    deep = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 0x80FF, 0xFFFF))
    image = decode_picture(encoded(deep), "x")
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_rotation_and_profiles_are_not_read_and_only_the_first_frame_is() -> None:
    plain = Image.new("RGB", (4, 2), RED)
    turned = plain.getexif()
    turned[0x0112] = 6
    assert decode_picture(encoded(plain, "JPEG", exif=turned), "x").size == (4, 2)
    assert decode_picture(encoded(plain, icc_profile=b"no profile"), "x").getpixel((0, 0)) == RED
    frames = encoded(plain, save_all=True, append_images=[Image.new("RGB", (4, 2), "blue")])
    assert decode_picture(frames, "x").getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no picture", "is no picture; expected PNG, JPEG or WEBP"),
        (b"", "is no picture"),
        (b"GIF89a" + bytes(40), "is no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture"),
        (encoded(Image.effect_noise((64, 64), 50))[:900], "cannot be read"),
        (encoded(Image.new("RGB", (9, 9)), "JPEG")[:200], "cannot be read|no picture"),
        (png_header(8001, 8000), "more than 64,000,000 pixels"),
        (png_header(60_000, 60_000), "more than 64,000,000 pixels"),
        (png_header(0, 5), "no picture|cannot be read"),
        (png_header(5, 5), "cannot be read"),
    ],
    ids=[
        *("text", "empty", "gif", "svg", "cut png", "cut jpeg", "large", "bomb", "flat"),
        "no pixels",
    ],
)
def test_what_is_no_sound_picture_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_picture(path)


def test_only_regular_files_of_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(InputError, match="no regular file"):
            open_picture(tmp_path / "pipe.png")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "a\0.png"):
        with pytest.raises(InputError, match=r"cannot be read|no regular file"):
            open_picture(path)
    large = tmp_path / "large.png"
    large.write_bytes(encoded(Image.new("RGB", (9, 9))))
    monkeypatch.setattr(strict_picture, "MAX_FILE_BYTES", 20)
    with pytest.raises(InputError, match="larger than 0 MiB"):
        open_picture(large)


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 300))
@settings(deadline=None)
def test_any_bytes_are_a_picture_or_refused(noise: bytes, kind: int, place: int) -> None:
    base = encoded(Image.new("RGB", (5, 7), RED), ("PNG", "JPEG", "WEBP", "PNG")[kind])
    data = noise if kind == 3 else base[:place] + noise + base[place + len(noise) :]
    try:
        image = decode_picture(data, "x")
    except InputError:
        return
    assert image.mode == "RGB"


SIDES = st.integers(1, 90)


@given(SIDES, SIDES, SIDES, SIDES)
@settings(deadline=None)
def test_a_fitted_picture_covers_its_size(w: int, h: int, width: int, height: int) -> None:
    assert fitted(Image.new("RGB", (w, h), RED), (width, height)).getcolors() == [
        (width * height, RED)
    ]


def test_the_middle_is_cut_out() -> None:
    wide = Image.new("RGB", (90, 30), "black")
    wide.paste(RED, (30, 0, 60, 30))
    assert fitted(wide, (30, 30)).getcolors() == [(900, RED)]
    middle = fitted(wide, (60, 60)).crop((6, 0, 54, 60))  # the filter looks across the cut
    assert middle.getcolors() == [(48 * 60, RED)]
    assert fitted(wide.rotate(90, expand=True), (10, 10)).getpixel((5, 5)) == RED
    assert fitted(wide, (90, 30)) is wide
