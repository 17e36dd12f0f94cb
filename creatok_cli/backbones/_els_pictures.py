"""Pictures of a user to sprites on one canvas: every kind of file, checked before it is decoded.

Palettes, greys, 16 bits, animations (their frames are kin) and sprite sheets (cut into cells)
become RGBA. Smaller pictures stand in the middle of the floor of the canvas, larger ones shrink
where a size is asked for. Files are refused by name: too large, damaged, or no picture.

Does not: import torch, follow links to folders, or guess a transparent colour.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from creatok_cli.backbones._els_sprites import (
    LONGEST_NAME,
    LONGEST_TAG,
    MAX_PIXELS,
    MAX_SIDE_PX,
    MAX_SPRITES,
    Sprite,
    Sprites,
    check_room,
)
from creatok_cli.domain import Size
from creatok_cli.errors import InputError
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import decode, escaped, load_bytes, refuse, shown
from creatok_cli.strict_yaml import read_yaml

if TYPE_CHECKING:
    from PIL.Image import Image as ImageType
    from PIL.Image import Transpose

ENDINGS = (".png", ".gif", ".webp", ".bmp", ".jpg", ".jpeg")
FORMATS = ("PNG", "GIF", "WEBP", "BMP", "JPEG")
TAGS_FILE = "tags.yaml"
MAX_FILE_BYTES = 32 * 2**20
MAX_PICTURE_PX = 4096 * 4096
MAX_FRAMES = 64
"""Of one animation; longer ones give that many, evenly chosen."""
MAX_KIN = 16
"""More numbered names than this are a numbered folder rather than versions of one creature."""
MAX_RATIO = 2
"""Where no size is asked for, a picture larger than this times the median is another kind of
picture (set by eye)."""
OPAQUE = 255
TOLD = 5
"""Names in one message."""
_NUMBERED = re.compile(r"^(.*?\D)[-_ .]*\d+$|^(.*?)[-_ .]*\(\d+\)$")

Named = tuple[str, Path]
"""A name without ending, relative to its folder, and the file."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One sprite before it stands on the canvas."""

    name: str
    kin: str
    image: ImageType
    """RGBA."""


def in_folder(folder: Path) -> list[Named]:
    """The pictures of a folder and its folders, by name. Raises InputError where there is none."""
    found: list[Named] = []
    try:
        for base, folders, files in os.walk(folder, onerror=_raise):
            folders.sort()
            for name in sorted(files):
                path = Path(base) / name
                if name.lower().endswith(ENDINGS) and not name.startswith("."):
                    found.append((path.relative_to(folder).with_suffix("").as_posix(), path))
            if len(found) > MAX_SPRITES:
                raise InputError(f"{folder}: more than {MAX_SPRITES:,} pictures")
    except OSError as error:
        reason = error.strerror or "it is no folder"
        raise InputError(f"{folder}: the pictures cannot be listed: {reason}") from error
    if not found:
        kinds = " ".join(ENDINGS)
        raise InputError(f"{folder}: no pictures in this folder; looked for {kinds}")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def gather(
    files: Sequence[Named],
    *,
    where: str,
    size_px: Size | None = None,
    grid_px: Size | None = None,
    mirror: bool = False,
    tile: bool = False,
    tags: Mapping[str, tuple[str, ...]] | None = None,
) -> Sprites:
    """Sprites of picture files. `grid_px` cuts each into cells of that size; `mirror` adds mirrored
    twins; `tags` maps a tag to patterns of names, and folders are tags, too.

    Raises InputError, with the file, for what cannot be read or does not fit together.
    """
    pieces: list[Piece] = []
    empty, area = 0, 0
    for name, path in _told_apart(files):
        for piece in _cut(name, path, grid_px):
            if piece.image.getchannel("A").getbbox() is None:
                empty += 1
                continue
            pieces.append(piece)
            area += piece.image.width * piece.image.height
            if area > MAX_PIXELS or len(pieces) > MAX_SPRITES:
                raise InputError(
                    f"{where}: more than {MAX_SPRITES:,} sprites, or {MAX_PIXELS:,} pixels in all"
                )
    if not pieces:
        raise InputError(f"{where}: every picture is empty: nothing to make creatures of")
    canvas = size_px or _common_size(pieces, where)
    check_room(len(pieces) * (1 + mirror), canvas, where)
    marked = _marked([piece.name for piece in pieces], tags or {}, where)
    groups = _groups(pieces)
    sprites: list[Sprite] = []
    for piece, group in zip(pieces, groups, strict=True):
        placed = on_canvas(piece.image, canvas)
        one = Sprite(name=piece.name, group=group, rgba=placed.tobytes(), tags=marked[piece.name])
        sprites.append(one)
        if mirror:
            twin = placed.transpose(_flip())
            sprites.append(replace(one, rgba=twin.tobytes(), mirrored=True))
    notices = tuple(_notices(pieces, canvas, empty, asked=size_px is not None))
    return Sprites(size_px=canvas, sprites=tuple(sprites), tile=tile, notices=notices)


def _flip() -> Transpose:
    from PIL import Image

    return Image.Transpose.FLIP_LEFT_RIGHT


def _told_apart(files: Iterable[Named]) -> list[Named]:
    """Names that are printable and unique: `cat.png` and `cat.gif` keep their endings."""
    clean = [(escaped(name)[:LONGEST_NAME] or "sprite", path) for name, path in files]
    count = Counter(name for name, _ in clean)
    taken: set[str] = set()
    found: list[Named] = []
    for name, path in clean:
        wanted = f"{name}{path.suffix}"[-LONGEST_NAME:] if count[name] > 1 else name
        unique, number = wanted, 2
        while unique in taken:
            unique, number = f"{wanted[: LONGEST_NAME - 8]} ({number})", number + 1
        taken.add(unique)
        found.append((unique, path))
    return found


def _cut(name: str, path: Path, grid_px: Size | None) -> Iterator[Piece]:
    """The sprites in one file: its picture, its frames, or its cells."""
    frames = read_frames(path)
    for number, frame in enumerate(frames, start=1):
        own = f"{name}#{number}" if len(frames) > 1 else name
        if grid_px is None:
            yield Piece(own, name, frame)
            continue
        width, height = grid_px
        columns, rows = frame.width // width, frame.height // height
        if frame.width % width or frame.height % height:
            raise InputError(
                f"{path}: {frame.width}x{frame.height} pixels are no whole number of cells of "
                f"{width}x{height}"
            )
        for at in range(columns * rows):
            row, column = divmod(at, columns)
            box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
            cell = f"{own}@{row + 1},{column + 1}"
            yield Piece(cell, f"{name}@{at}", frame.crop(box))


def read_frames(path: Path) -> list[ImageType]:
    """The frames of a picture file as RGBA, one for a plain picture. Raises InputError."""
    from PIL import Image, UnidentifiedImageError

    data = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders, about metadata
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as opened:
                if opened.width * opened.height > MAX_PICTURE_PX:
                    raise InputError(f"{path}: has more than {MAX_PICTURE_PX:,} pixels")
                count = int(getattr(opened, "n_frames", 1))
                few = min(count, MAX_FRAMES)
                frames = []
                for index in range(few):
                    if count > 1:
                        opened.seek(index * count // few)
                    frames.append(to_rgba(opened))
                return frames
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: is no picture; expected {' or '.join(FORMATS)}") from None
    except Exception as error:  # decoders of damaged files raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: the picture cannot be read: {reason[:200]}") from error


def _read(path: Path) -> bytes:
    """The bytes of a regular file of bounded size. Raises InputError."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InputError(f"{path}: is no regular file")
            if facts.st_size > MAX_FILE_BYTES:
                raise InputError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB")
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: the picture cannot be read: {reason}") from error


def to_rgba(image: ImageType) -> ImageType:
    """A copy as 8-bit RGBA. Of 16-bit greys the upper half counts, where Pillow would clip."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image.convert("RGBA")
    values = array("H", image.convert("I;16").tobytes())
    if sys.byteorder == "big":
        values.byteswap()
    levels = bytes(value >> 8 for value in values)
    grey = Image.frombytes("L", image.size, levels).convert("RGBA")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = bytes(0 if value == clear else OPAQUE for value in values)
        grey.putalpha(Image.frombytes("L", image.size, alpha))
    return grey


def _common_size(pieces: Sequence[Piece], where: str) -> Size:
    """The smallest canvas that holds all. Raises InputError where that makes no sense."""
    largest = max(pieces, key=lambda piece: max(piece.image.size))
    side = max(largest.image.size)
    usual = median(max(piece.image.size) for piece in pieces)
    size = (
        max(piece.image.width for piece in pieces),
        max(piece.image.height for piece in pieces),
    )
    said = f"{largest.name} has {largest.image.width}x{largest.image.height} pixels"
    if max(size) > MAX_SIDE_PX:
        raise InputError(
            f"{where}: {said}, at most {MAX_SIDE_PX} a side are drawn; give a --size such as "
            "64x64, or cut a sheet with --grid"
        )
    if side > MAX_RATIO * usual:
        raise InputError(
            f"{where}: the sizes differ too much: {said}, most have about {usual:.0f}; give a "
            f"--size such as {usual:.0f}x{usual:.0f}, or cut a sheet with --grid"
        )
    return size


def on_canvas(image: ImageType, size_px: Size) -> ImageType:
    """An RGBA picture in the middle of the floor of a canvas, shrunk if it is larger."""
    from PIL import Image

    width, height = size_px
    scale = min(width / image.width, height / image.height)
    if scale < 1:
        small = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        # With premultiplied colours, so that what is transparent has no say.
        image = image.convert("RGBa").resize(small, Image.Resampling.BOX).convert("RGBA")
    if image.size == size_px:
        return image
    canvas = Image.new("RGBA", size_px, (0, 0, 0, 0))
    canvas.paste(image, ((width - image.width) // 2, height - image.height))
    return canvas


def _groups(pieces: Sequence[Piece]) -> list[int]:
    """A number per sprite: frames of a file, and names that differ in a number, are kin."""
    stems: dict[str, set[str]] = {}
    for piece in pieces:
        stems.setdefault(_stem(piece.kin), set()).add(piece.kin)
    is_family = {stem: len(kin) <= MAX_KIN and len(stems) > 1 for stem, kin in stems.items()}
    known: dict[str, int] = {}
    found = []
    for piece in pieces:
        stem = _stem(piece.kin)
        key = f"family {stem}" if is_family[stem] else f"one {piece.kin}"
        found.append(known.setdefault(key, len(known)))
    return found


def _stem(name: str) -> str:
    """`cat` of `cat-2`, `cat_02` and `cat (2)`; cells of a sheet are on their own."""
    match = None if "@" in name else _NUMBERED.match(name)
    return (match[1] or match[2] or name).rstrip("-_ .") or name if match else name


def _notices(pieces: Sequence[Piece], canvas: Size, empty: int, *, asked: bool) -> Iterator[str]:
    """What a person should know of how pictures were read."""
    if empty:
        yield f"{empty} empty sprite" + ("s are" if empty > 1 else " is") + " left out"
    padded = sum(piece.image.size != canvas for piece in pieces)
    shrunk = sum(
        piece.image.width > canvas[0] or piece.image.height > canvas[1] for piece in pieces
    )
    size = f"{canvas[0]}x{canvas[1]}"
    if shrunk:
        yield f"{shrunk} larger sprites are reduced to {size}"
    if padded > shrunk and not asked:
        yield f"the sprites differ in size: they stand on a canvas of {size}, feet on its floor"
    if all(_is_solid(piece.image) for piece in pieces):
        yield "no sprite has transparent pixels: whole pictures are remixed, with background"


def _is_solid(image: ImageType) -> bool:
    """Whether every pixel of an RGBA picture is opaque."""
    return image.getchannel("A").histogram()[OPAQUE] == image.width * image.height


def tags_beside(path: Path) -> Path | None:
    """The file of tags that lies in a folder of pictures."""
    found = path / TAGS_FILE
    return found if path.is_dir() and found.is_file() else None


def read_tags(path: Path) -> dict[str, tuple[str, ...]]:
    """Patterns of names by tag, from YAML such as `birds: [duck, "owl*"]`. Raises SheetError."""
    file = str(path)
    document, places = read_yaml(decode(load_bytes(path, file), file), file)
    if not isinstance(document, dict) or not document:
        refuse(file, 1, 1, "bad-value", "expected tags with names: birds: [duck, owl]")
    found: dict[str, tuple[str, ...]] = {}
    for tag, names in document.items():
        is_plain = 0 < len(tag) <= LONGEST_TAG and tag == tag.strip() and escaped(tag) == tag
        if not is_plain or "," in tag:
            message = f"found {shown(tag)}, expected a short tag without commas"
            refuse(file, *places.find((tag,), key=True), "bad-value", message)
        rows = names if isinstance(names, list) else [names]
        for at, name in enumerate(rows):
            if not isinstance(name, str) or not name:
                spot = (tag, at) if isinstance(names, list) else (tag,)
                message = f"found {shown(name)}, expected the name of a sprite, or a pattern"
                refuse(file, *places.find(spot), "bad-value", message)
        found[tag] = tuple(str(name) for name in rows)
    return found


def _marked(
    names: Sequence[str], tags: Mapping[str, tuple[str, ...]], where: str
) -> dict[str, tuple[str, ...]]:
    """The tags of each name: its folders, then those of the file of tags.

    Raises InputError for a pattern that fits nothing.
    """
    found: dict[str, dict[str, None]] = {}
    for name in names:
        folders = name.split("/")[:-1]
        found[name] = dict.fromkeys(
            part[:LONGEST_TAG].replace(",", " ") for part in folders if part
        )
    short = {name: name.rpartition("/")[2] for name in names}
    plain: dict[str, list[str]] = {}
    for name in names:
        # A frame or a cell bears what is said of its file.
        for key in {name, short[name], re.split("[#@]", short[name])[0]}:
            plain.setdefault(key, []).append(name)
    for tag, patterns in tags.items():
        for pattern in patterns:
            fits = plain.get(pattern, [])
            if not fits and any(mark in pattern for mark in "*?["):
                both = ((name, {name, short[name]}) for name in names)
                fits = [name for name, said in both if any(fnmatchcase(n, pattern) for n in said)]
            if not fits:
                hint = did_you_mean(pattern, plain) or "look at the names of the files"
                raise InputError(
                    f"tag {shown(tag)}: no sprite of {where} is called {shown(pattern)}; {hint}"
                )
            for name in fits:
                found[name][tag] = None
    return {name: tuple(each) for name, each in found.items()}


def lock(sprites: Sprites, mask: Path, of: str | None) -> Sprites:
    """The sprites with pixels that every picture keeps.

    A mask with transparency is the picture itself: what is opaque there is kept. A mask of black
    and white keeps what is white, of the sprite `of`. Raises InputError.
    """
    image = read_frames(mask)[0]
    if image.size != sprites.size_px:
        asked = "x".join(map(str, sprites.size_px))
        raise InputError(
            f"{mask}: a mask of {image.width}x{image.height}; it must have the size of the sprites,"
            f" {asked}"
        )
    alpha = image.getchannel("A")
    if not _is_solid(image):
        if of is not None:
            raise InputError(
                f"{mask}: has transparent pixels, so it shows itself what is kept; leave --keep out"
            )
        kept, chosen = image.tobytes(), alpha
    else:
        names = [each.name for each in sprites.sprites]
        if of is None:
            raise InputError(
                f"{mask}: a mask without transparent pixels; say whose pixels its white ones keep: "
                f"--keep {shown(names[0])}"
            )
        if of not in names:
            hint = did_you_mean(of, names) or "look at the names of the files"
            raise InputError(f"--keep: no sprite is called {shown(of)}; {hint}")
        kept, chosen = sprites.sprites[names.index(of)].rgba, image.convert("L")
    binary = chosen.point([0] * 128 + [255] * 128).tobytes()
    if not any(binary):
        raise InputError(f"{mask}: locks no pixel")
    if all(binary):
        raise InputError(f"{mask}: locks every pixel: nothing is left to remake")
    return replace(sprites, kept=kept, kept_mask=binary)
