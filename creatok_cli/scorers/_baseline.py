"""The pictures of a folder, as a scorer compares with them: found, bounded, RGB.

Pages that creatok makes of pictures (contact sheets, matrices, figures with its digest) are left
out, so that an output folder is what it shows; so is what lies in hidden folders and in `picks`.

Does not: follow links out of the folder, or decode what is larger than a picture should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli.errors import InputError
from creatok_cli.strict_picture import ENDINGS, FORMATS, MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

OURS = "creatok-"
"""Begins the keyword under which a page carries the digest of what it shows."""
COPIES = "picks"
"""Folder of copies inside an output folder."""


def picture_files(folder: Path) -> list[Path]:
    """The files that look like pictures, by name, in all folders inside; none is opened.

    Raises InputError for what is no folder or cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures")
    found = []
    try:
        for path in folder.rglob("*"):
            parts = path.relative_to(folder).parts
            is_aside = any(part.startswith(".") or part == COPIES for part in parts)
            if path.suffix.lower() in ENDINGS and not is_aside and path.is_file():
                found.append(path)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def iter_pictures(folder: Path) -> Iterator[tuple[str, Image]]:
    """(relative name, picture) of each, in the order of their names.

    Raises InputError for a picture that cannot be read or is too large.
    """
    from PIL import Image, UnidentifiedImageError

    for path in picture_files(folder):
        try:
            with Image.open(path, formats=list(FORMATS)) as opened:
                if any(str(key).startswith(OURS) for key in opened.info):
                    continue
                if opened.width * opened.height > MAX_PIXELS:
                    raise InputError(f"{path}: has more than {MAX_PIXELS:,} pixels")
                image = opened.convert("RGB")
        except UnidentifiedImageError:
            what = " or ".join(FORMATS)
            raise InputError(f"{path}: is no picture; expected {what}") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{path}: the picture cannot be read: {reason}") from error
        yield path.relative_to(folder).as_posix(), image
