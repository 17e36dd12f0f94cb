"""Pictures of a user, opened strictly: regular files, three formats, bounded before decoding.

The contents say the format, never the name. What comes out is 8-bit RGB as it is stored: EXIF (also
its rotation) and colour profiles are not read, transparent pixels lie on white, of 16-bit greys the
upper half counts, of an animation the first frame.

Does not: follow addresses (`https:`, `data:`), write, or keep a picture.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import warnings
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli.domain import Size
from creatok_cli.errors import DigestMismatch, InputError
from creatok_cli.hashing import sha256_hex

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
"""How such files are usually called."""
MAX_FILE_BYTES = 256 << 20
"""64 million pixels of 8-bit RGB are 183 MiB as a PNG that does not compress at all."""
MAX_PIXELS = 64_000_000
GROUND = (255, 255, 255)
"""Below transparent pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A picture that was read whole and found sound."""

    path: str
    digest: str
    """`sha256:` of the file's bytes."""
    size_px: Size


def open_picture(path: Path) -> Image:
    """A picture, RGB. Raises InputError for what is none, or too large."""
    return decode_picture(read_picture_bytes(path), str(path))


def open_same(path: Path, digest: str) -> Image:
    """A picture that was seen before, RGB.

    Raises DigestMismatch where the file has changed, InputError where it is no picture any more.
    """
    data = read_picture_bytes(path)
    if digest_of(data) != digest:
        raise DigestMismatch(f"{path}: changed since the plan was made; run the command again")
    return decode_picture(data, str(path))


def check_picture(path: Path, where: str = "") -> PictureFile:
    """Read and decode a picture once, so that nothing is wrong with it later; `where` names it in
    messages. Raises InputError.
    """
    data = read_picture_bytes(path, where)
    image = decode_picture(data, where or str(path))
    return PictureFile(path=str(path), digest=digest_of(data), size_px=image.size)


def digest_of(data: bytes) -> str:
    """`sha256:` and 64 hex digits of a file's bytes."""
    return f"sha256:{sha256_hex(data)}"


def read_picture_bytes(path: Path, where: str = "") -> bytes:
    """The bytes of a regular file of bounded size. Raises InputError."""
    where = where or str(path)
    try:
        with open(path, "rb", opener=_open_regular) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise InputError(f"{where}: is larger than {MAX_FILE_BYTES >> 20} MiB")
            return file.read(MAX_FILE_BYTES + 1)
    except _NotRegular:
        raise InputError(f"{where}: is no regular file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{where}: the picture cannot be read: {reason}") from error


class _NotRegular(Exception):
    """A folder, a pipe or a device."""


def _open_regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _NotRegular
    return handle


def decode_picture(data: bytes, where: str) -> Image:
    """The picture in a file's bytes, RGB; `where` names it in messages. Raises InputError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders; the size is checked here
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise InputError(f"{where}: has more than {MAX_PIXELS:,} pixels")
                return _rgb(opened)
    except InputError:
        raise
    except UnidentifiedImageError:
        what = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InputError(f"{where}: is no picture; expected {what}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{where}: has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders of damaged files raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{where}: the picture cannot be read: {reason[:200]}") from error


def _rgb(opened: Any) -> Image:
    """An opened picture as 8-bit RGB on white, without what came along with it."""
    from PIL import Image

    opened.load()
    if opened.mode.startswith("I"):
        # Pillow would clip 16 bits to 8.
        values = array("H", opened.convert("I;16").tobytes())
        if sys.byteorder == "big":
            values.byteswap()
        levels = bytes(value >> 8 for value in values)
        flat = Image.frombytes("L", opened.size, levels).convert("RGB")
    elif opened.has_transparency_data:
        shown = opened.convert("RGBA")
        flat = Image.new("RGBA", opened.size, (*GROUND, 255))
        flat.alpha_composite(shown)
        flat = flat.convert("RGB")
    else:
        flat = opened.convert("RGB")
    flat.info = {}
    return flat


def fitted(image: Image, size_px: Size) -> Image:
    """A picture that fills a size: scaled until it covers it (Lanczos), its middle cut out."""
    from PIL import Image

    width, height = size_px
    if image.size == size_px:
        return image
    scale = max(width / image.width, height / image.height)
    # The part of the source that is shown: resizing it alone is cutting and scaling in one.
    shown = (width / scale, height / scale)
    left, top = (image.width - shown[0]) / 2, (image.height - shown[1]) / 2
    box = (max(left, 0.0), max(top, 0.0), left + shown[0], top + shown[1])
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
    return image.resize(size_px, Image.Resampling.LANCZOS, box=box)
