"""Mean colours of what pictures show, as tensors.

CIE L*a*b* under D65 from sRGB (IEC 61966-2-1), over the foreground: pixels that differ from the
median of the frame around the picture. Hue is circular, so no HSV.

Does not: draw, or say what colours mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.95047, 1.0, 1.08883)
APART = 0.1
"""Difference from the frame, as a share of the range, from which a pixel is foreground (set by
eye).
"""
LEAST, MOST = 0.05, 0.8
"""Shares of the picture that a foreground may take; else the whole picture counts (methods notes,
4.6).
"""


def mean_colours(pixels: Tensor) -> Tensor:
    """[b 3 H W] in [-1, 1] -> [b 3] mean L*, a*, b* of the foreground."""
    levels = ((pixels[:, :3].float() + 1) / 2).clamp(0, 1)
    frame = torch.cat(
        [levels[:, :, 0], levels[:, :, -1], levels[:, :, :, 0], levels[:, :, :, -1]], dim=2
    )
    middle = frame.median(dim=2).values[:, :, None, None]
    front = ((levels - middle).abs().amax(dim=1) > APART).float()
    share = front.mean(dim=(1, 2), keepdim=True)
    front = torch.where((share < LEAST) | (share > MOST), torch.ones_like(front), front)
    return (lab(levels) * front[:, None]).sum(dim=(2, 3)) / front.sum(dim=(1, 2))[:, None]


def lab(levels: Tensor) -> Tensor:
    """[b 3 H W] of sRGB in [0, 1] -> of L*, a*, b*."""
    linear = torch.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    turn = torch.tensor(TO_XYZ, device=levels.device) / torch.tensor(WHITE)[:, None].to(
        levels.device
    )
    xyz = torch.einsum("ij,bjhw->bihw", turn, linear)
    root = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-8) ** (1 / 3), xyz * 841 / 108 + 4 / 29)
    x, y, z = root.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
