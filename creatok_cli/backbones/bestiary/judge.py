"""The judge: a small CNN that reads concept weights off a picture and measures all results.

It learns from world pictures only (single, hybrid, side by side, degraded) and is never used to
train a token, a network, the base model or the labeler, nor to choose between them.

Does not: know the base model, its text towers or its image towers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

HEADS = ("weights", "background", "colour", "style", "creatures")


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm_first = nn.GroupNorm(8, width)
        self.norm_second = nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.silu(self.norm_first(self.first(x)))
        return functional.silu(x + self.norm_second(self.second(h)))


class Judge(nn.Module):
    """Pictures [b 3 64 64] in [-1, 1] -> logits by head; `weights` are logits over the concepts
    (softmax = weights).
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        widths = (32, 64, 96, 128)
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], 5, stride=2, padding=2),
            nn.SiLU(),
            _Residual(widths[0]),
        ]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.SiLU(), _Residual(wide)]
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Linear(widths[-1] * 16, 384)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(384, size) for name, size in self.sizes.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        h = self.trunk(pictures).flatten(1)
        h = functional.silu(self.hidden(h))
        return {name: head(h) for name, head in self.heads.items()}


def degrade(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Damage about two thirds of the pictures [b 3 64 64] as a generator would: blur, noise,
    contrast, small shifts.

    Deterministic in the generator.
    """
    b = len(pictures)
    kind = torch.randint(0, 6, (b,), generator=generator).view(b, 1, 1, 1)
    small = functional.interpolate(pictures, scale_factor=0.5, mode="area")
    blurred = functional.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
    noise = torch.randn(pictures.shape, generator=generator)
    strength = torch.rand(b, 1, 1, 1, generator=generator)
    out = torch.where((kind == 1) | (kind == 4), torch.lerp(pictures, blurred, strength), pictures)
    out = torch.where((kind == 2) | (kind == 4), out + 0.2 * strength * noise, out)
    contrast = 0.75 + 0.5 * torch.rand(b, 1, 1, 1, generator=generator)
    out = torch.where((kind == 3) | (kind == 4), out * contrast, out)
    shift = torch.randint(-3, 4, (2,), generator=generator).tolist()
    return torch.roll(out, shifts=shift, dims=(2, 3)).clamp(-1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the judge sees in n pictures: probabilities [n k] per head, and the concept names of the
    columns.
    """

    concepts: tuple[str, ...]
    weights: Tensor
    background: Tensor
    colour: Tensor
    style: Tensor
    creatures: Tensor


class LoadedJudge:
    """The shipped judge, ready to look at pictures."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        facts = json.loads((folder / "config.json").read_text())
        self.concepts: tuple[str, ...] = tuple(facts["concepts"])
        self.attributes: dict[str, tuple[str, ...]] = {
            k: tuple(v) for k, v in facts["attributes"].items()
        }
        self.network = Judge(facts["sizes"])
        weights = load_file(folder / "model.safetensors")
        self.network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        self.network.eval()

    @torch.inference_mode()
    def look(self, images: Sequence[Image], *, rows: int = 64) -> Verdict:
        """Probabilities for pictures of any size; each is brought to 64 x 64 RGB first."""
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(images), rows):
            stack = torch.stack([_pixels(image) for image in images[start : start + rows]])
            parts.append({name: logits.softmax(-1) for name, logits in self.network(stack).items()})
        joined = {name: torch.cat([part[name] for part in parts]) for name in HEADS}
        return Verdict(concepts=self.concepts, **joined)


def _pixels(image: Image) -> Tensor:
    image = image.convert("RGB")
    if image.size != (64, 64):
        image = image.resize((64, 64))
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(64, 64, 3).permute(2, 0, 1).float().div(127.5).sub(1.0)
