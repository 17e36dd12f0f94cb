"""A base that opens in no time: prompts are sums of word rows, pictures are a smooth map of that
sum and of noise, embeddings are unit vectors. For tests of methods that search through a prior.

Does not: draw; `paint` makes flat pictures whose grey level follows the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch.nn import functional

from creatok_cli.backbones.base import Conditioning
from creatok_cli.domain import BaseFacts
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import Token

WIDTH = 12
SPACE = 24


def facts() -> BaseFacts:
    return BaseFacts(
        name="searched",
        backbone="searched",
        folder="nowhere",
        digest="sha256:" + "5" * 64,
        licence="none",
        steps=4,
        guidance=1.0,
        size_px=(8, 8),
        size_multiple=1,
        schedulers=("none",),
        dtype="fp32",
        encoders=(("clip_l", WIDTH),),
        threads=1,
    )


def row(word: str) -> torch.Tensor:
    """[d] of a plain word."""
    return torch.randn(WIDTH, generator=generator(0, "row", word)) / WIDTH**0.5


class Text:
    encoders: Mapping[str, int] = {"clip_l": WIDTH}

    def rows(self, word: str) -> dict[str, torch.Tensor]:
        return {"clip_l": torch.stack([row(each) for each in word.split()])}

    def encode(self, prompts: Sequence[str], tokens: Sequence[Token]) -> Conditioning:
        known = {token.word: token.vectors["clip_l"].sum(dim=0) for token in tokens}
        sums = [
            torch.stack([known[w] if w in known else row(w) for w in p.split()]).sum(dim=0)
            for p in prompts
        ]
        return Conditioning({"states": torch.stack(sums)})


@dataclass
class Prior:
    """e = unit(tanh(A x) + .5 noise); a LoRA adds B to A."""

    width: int = SPACE
    route: Literal["prior", "pixels"] = "pixels"
    change: torch.Tensor | None = None
    greys: list[bool] = field(default_factory=list)

    def _map(self) -> torch.Tensor:
        plain = torch.randn(SPACE, WIDTH, generator=generator(0, "map"))
        return plain if self.change is None else plain + self.change

    def sample(
        self,
        cond: Conditioning,
        *,
        seeds: Sequence[int],
        negative: Conditioning | None = None,
        grey: bool = False,
    ) -> torch.Tensor:
        self.greys.append(grey)
        noise = torch.stack([torch.randn(SPACE, generator=generator(s, "noise")) for s in seeds])
        return functional.normalize(torch.tanh(cond.tensors["states"] @ self._map().T) + noise / 2)

    def looks(
        self, cond: Conditioning, *, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.sample(cond, seeds=seeds), self.sample(cond, seeds=seeds, grey=True)

    def texts(self, prompts: Sequence[str], tokens: Sequence[Token] = ()) -> torch.Tensor:
        cond = Text().encode(prompts, list(tokens))
        return functional.normalize(torch.tanh(cond.tensors["states"] @ self._map().T))

    def pictures(self, images: Sequence[Any], *, grey: bool = False) -> torch.Tensor:
        draws = [
            torch.randn(SPACE, generator=generator(sum(image.tobytes()), "seen"))
            for image in images
        ]
        return functional.normalize(torch.stack(draws))


@dataclass
class Lora:
    parameters: Mapping[str, torch.Tensor]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: leaf.detach().clone() for name, leaf in self.parameters.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, leaf in self.parameters.items():
            leaf.data.copy_(tensors[name])


@dataclass
class Searched:
    """The base itself."""

    facts: BaseFacts = field(default_factory=facts)
    device: str = "cpu"
    text: Text = field(default_factory=Text)
    prior: Prior | None = field(default_factory=Prior)
    image: object = field(default_factory=object)

    def adapt(self, rank: int, *, seed: int) -> Lora:
        leaf = torch.zeros(SPACE, WIDTH, requires_grad=True)
        assert self.prior is not None
        self.prior.change = leaf
        return Lora({"map.lora": leaf})


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level, level, level))
