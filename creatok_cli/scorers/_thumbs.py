"""How different pictures look from afar, without any model: colours of 16 x 16 fields.

Does not: know what pictures show; it stands in where a base has no CLIP towers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL.Image import Resampling

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SIDE = 16


def thumbnail(image: Image) -> Tensor:
    """[768] f64 in 0 to 1: the mean colour of each field, whatever the picture's shape."""
    small = image.convert("RGB").resize((SIDE, SIDE), Resampling.BOX)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).double() / 255


def thumbnail_distances(thumbnails: Sequence[Tensor]) -> Tensor:
    """[n n] f64, 0 to 1: root mean square difference."""
    rows = torch.stack(list(thumbnails))
    found = torch.stack([(rows - row).square().mean(1).sqrt() for row in rows])
    return (found + found.T) / 2
