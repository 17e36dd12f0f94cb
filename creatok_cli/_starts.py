"""The pictures that jobs begin from, read when they are drawn: still the planned ones, cut to size.

Does not: decide which job begins from which picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import torch
from PIL.Image import Image

from creatok_cli.backbones.base import Start
from creatok_cli.domain import Job, Size
from creatok_cli.errors import InputError, TokenMissing
from creatok_cli.strict_picture import fitted, open_same

KEPT = 4
"""Pictures in memory, at the size of their jobs: batches of one picture follow each other."""


class Starts:
    """Pictures by digest, from files. Several threads may ask."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, Size], Image] = OrderedDict()

    def start(self, job: Job, rows: int) -> Start | None:
        """What `rows` jobs like this one begin from; None for noise alone. The rows are one
        picture, and share its memory.

        Raises TokenMissing for a picture that was not loaded or is gone, DigestMismatch for one
        that has changed since.
        """
        if job.init_image is None or job.strength is None:
            return None
        with self._lock:
            image = self._fitted(job.init_image, job.size_px)
        levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        pixels = levels.reshape(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1
        return Start(pixels[None].expand(rows, -1, -1, -1), job.strength)

    def _fitted(self, digest: str, size_px: Size) -> Image:
        key = (digest, size_px)
        if key not in self._kept:
            self._kept[key] = fitted(self._read(digest), size_px)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _read(self, digest: str) -> Image:
        path = self._files.get(digest)
        if path is None:
            raise TokenMissing(f"the picture {digest[:19]} was not loaded: draw its sheet")
        try:
            return open_same(Path(path), digest)
        except InputError as error:
            raise TokenMissing(f"{error}; it was there when the plan was made") from error
