"""A picture pack as tensors: what the score machines copy from.

Colours are premultiplied by alpha and scaled to [-1, 1], so that transparent is -1 in all four
channels whatever colour hides below it, and equal means equal to the eye. Both ways are exact for
8-bit pictures, but for colours that nobody sees.

Does not: read files (`_els_sprites.py`), or draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from creatok_cli.errors import InputError
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import shown

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones._els_sprites import Sprites

FAINTEST = 0.5 / 255
"""Less alpha than this is none: the half of one of 255 levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Sources on one canvas."""

    pixels: Tensor
    """[n 4 H W] f32, premultiplied, in [-1, 1]; a view of memory that is ordered by channel."""
    names: tuple[str, ...]
    groups: tuple[int, ...]
    """Sources of one group are one creature: frames, mirrors, versions."""
    tags: tuple[tuple[str, ...], ...]
    mirrored: tuple[bool, ...]
    digest: str
    tile: bool = False
    """All sources tile."""
    kept: tuple[Tensor, Tensor] | None = None
    """(mask [H W] bool, picture [4 H W] as `pixels`) of the locked pixels."""
    machine: str = ""
    """What the sources are good for, where that was found out."""
    schedule: tuple[int, ...] = ()
    """Calibrated windows, where they were."""

    @staticmethod
    def of(sprites: Sprites, device: str = "cpu") -> Pack:
        """The tensors of checked sprites."""
        width, height = sprites.size_px
        own = sprites.sprites
        levels = _levels(b"".join(sprite.rgba for sprite in own), height, width)
        kept = None
        if sprites.kept_mask:
            mask = torch.frombuffer(bytearray(sprites.kept_mask), dtype=torch.uint8) > 127
            picture = premultiplied(_levels(sprites.kept, height, width))[0]
            kept = mask.view(height, width).to(device), picture.to(device)
        by_channel = premultiplied(levels).transpose(0, 1).contiguous()
        return Pack(
            pixels=by_channel.to(device).transpose(0, 1),
            names=tuple(sprite.name for sprite in own),
            groups=tuple(sprite.group for sprite in own),
            tags=tuple(sprite.tags for sprite in own),
            mirrored=tuple(sprite.mirrored for sprite in own),
            digest=sprites.digest,
            tile=sprites.tile,
            kept=kept,
            machine=sprites.machine,
            schedule=sprites.schedule,
        )

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the canvas."""
        return self.pixels.shape[3], self.pixels.shape[2]

    def log_prior(
        self, tags: Sequence[str] = (), parents: Mapping[str, float] | None = None
    ) -> Tensor | None:
        """[n] f32, ln pi_f: -inf for sources that bear none of `tags` or have no weight in
        `parents`, which are names or tags. None where all count alike.

        Raises InputError for a tag or a parent that no source has.
        """
        if not tags and not parents:
            return None
        known = {*self.names, *(tag for own in self.tags for tag in own)}
        for word in (*tags, *(parents or ())):
            if word not in known:
                hint = did_you_mean(word, sorted(known)) or "look at the names and tags"
                raise InputError(f"no source is called or tagged {shown(word)}; {hint}")
        weights = []
        for name, own in zip(self.names, self.tags, strict=True):
            words = {name, *own}
            fits = not tags or not words.isdisjoint(tags)
            heavy = (
                max((parents[word] for word in words & parents.keys()), default=0.0)
                if (parents)
                else 1.0
            )
            weights.append(math.log(heavy) if fits and heavy > 0 else -math.inf)
        if max(weights) == -math.inf:
            raise InputError("tags and parents together leave no source")
        return torch.tensor(weights)

    def words_in(self, text: str) -> tuple[str, ...]:
        """The tags that occur in a text as words, in order of the text."""
        tags = {tag.casefold(): tag for own in self.tags for tag in own}
        words = (word.strip(".,;:!?()\"'").casefold() for word in text.split())
        return tuple(dict.fromkeys(tags[word] for word in words if word in tags))


def _levels(rgba: bytes, height: int, width: int) -> Tensor:
    """[k H W 4] uint8 of straight RGBA bytes."""
    return torch.frombuffer(bytearray(rgba), dtype=torch.uint8).view(-1, height, width, 4)


def premultiplied(levels: Tensor) -> Tensor:
    """uint8 [k H W 4] with straight alpha -> f32 [k 4 H W] in [-1, 1]."""
    unit = levels.permute(0, 3, 1, 2).float() / 255
    return torch.cat([unit[:, :3] * unit[:, 3:], unit[:, 3:]], dim=1) * 2 - 1


def straight(pixels: Tensor) -> Tensor:
    """[b 4 H W] premultiplied in [-1, 1] -> the same with straight alpha, clamped; colours without
    alpha become 0, that is -1.
    """
    unit = pixels * 0.5 + 0.5
    alpha = unit[:, 3:]
    is_seen = alpha > FAINTEST
    colour = torch.where(is_seen, unit[:, :3] / alpha.clamp_min(FAINTEST), 0.0)
    both = torch.cat([colour, torch.where(is_seen, alpha, 0.0)], dim=1)
    # NaN stays NaN: the caller must see what is not finite.
    whole = torch.where(pixels.isfinite().all(1, keepdim=True), both.clamp(0.0, 1.0), torch.nan)
    return whole * 2 - 1
