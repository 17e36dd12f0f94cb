"""DisTok: any distribution over known classes becomes a token, in milliseconds once trained.

E_dis reads the weighted mean of class rows and gives a latent z, D_tok turns z into the rows of a
token (Feng et al., CVPR 2026, arXiv 2505.03667; methods notes, section 3). Training is
`_distok.py`. Using a trained network is here, in plain Python floats: no torch is imported, and the
same mix or latent gives the same bytes on machines with different libraries, so that farms agree on
keys. Latents that nobody asked for (`draw_latent`) are decoded in the same way; `view` says whether
what was drawn of one is a known class, junk, or something else.

Deviates: GELU, and rows written around the mean class row (D3); the weighted mean of rows is
centred and scaled before E_dis; `decoder: classes` writes each row as a weighted mean of class rows
instead of freely, and `vectors` above 1 gives a token several of them (see `Spec`).

Does not: import torch before it is built; draw, label, or store anything.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Literal

from creatok_cli.errors import UnknownName
from creatok_cli.methods import _latents
from creatok_cli.methods._ranges import MAX_VECTORS, check_counts, check_rates, check_weights
from creatok_cli.registry import did_you_mean

if TYPE_CHECKING:
    from creatok_cli.methods._distok import DisTok
    from creatok_cli.tokens.network import Network
    from creatok_cli.tokens.token import Rows

NEEDS = ("text", "image", "labels")
VERBS = ("fuse",)
LAWS = tuple(_latents.LAWS)
"""Of latents, by name."""
MOMENTS = ("mean", "covariance")
"""Of the latents that the training saw, kept beside the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults are the paper's where it says something; see the methods notes, 3.2 to 3.4."""

    adaptive: str = "a photo of a {word}"
    restrictive: str = "a {a} {b}"
    single: str = "a photo of a {a}"
    """What a class alone is called: what a mix of one class has to mean."""
    anchor: str = "a photo of a cute pet"
    """The aesthetic anchor; empty for none (it draws everything towards pets)."""
    latent: int = 20
    hidden: int = 768
    steps: int = 20_000
    samples: int = 8
    """Per step."""
    lr: float = 1e-3
    """At the first step, falling to 0 along a cosine."""
    e1: str = "auto"
    """Cap of the cosine to the restrictive prompt: a number, or `auto`: halfway between unrelated
    prompts and the plain pair (methods notes, 3.2).
    """
    e2: str = "auto"
    """Cap of the cosine to the anchor: a number, or `auto`: three quarters of all classes lie
    below it.
    """
    mixing: float = 0.5
    """Share of samples that learn to mix (alpha L_mix); the others learn consistency (L_cst)."""
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.001
    """Weight of the published latent regularisation."""
    unit_variance: float = 0.01
    """Weight of L_var, without which the variance of z is free (methods notes, 3.2)."""
    vectors: int = 1
    """Rows of a token. Bases that read single words (SD3) cannot see two concepts in one row."""
    decoder: Literal["rows", "classes"] = "rows"
    """`classes`: every row is a weighted mean of class rows, so that it stays where the base has
    learned to read.
    """
    place: float = 0.0
    """Weight of the distance in row space to a known answer (a class, a pair, a pool entry): the
    pooled embedding alone does not tell a base that reads single words what to draw.
    """
    novel: float = 0.5
    """Share of pool entries, where there are any, among the samples of consistency."""
    novel_pairs: float = 0.25
    """The same among the concepts of a restrictive prompt."""
    tau: float = 0.85
    """A novel entry has no class above this probability."""
    spread: float = 6.0
    """And no more than exp(entropy) so many classes: flatter labels are junk (ours)."""
    agreement: float = 0.2
    """And labels of its seeds nearer than this to their mean (mean JSD in nats; ours)."""
    pool: int = 256
    """Novel entries that are kept, first in, first out."""
    estimate_from: int = 1000
    estimate_every: int = 500
    """Steps between estimations of pictures; 0 for none."""
    estimate: int = 4
    """Latents per estimation."""
    seeds: int = 2
    """Pictures per latent, whose labels are averaged."""
    report_every: int = 20

    def __post_init__(self) -> None:
        check_counts(
            self,
            ("latent", 1, 1024),
            ("hidden", 1, 16384),
            ("steps", 1, 10_000_000),
            ("samples", 1, 4096),
            ("vectors", 1, MAX_VECTORS),
            ("pool", 1, 100_000),
            ("estimate_from", 0, 10_000_000),
            ("estimate_every", 0, 10_000_000),
            ("estimate", 1, 1024),
            ("seeds", 1, 64),
            ("report_every", 1, 1_000_000),
        )
        check_weights(
            self,
            mixing=1.0,
            novel=1.0,
            novel_pairs=1.0,
            tau=1.0,
            alpha=1e3,
            beta=1e3,
            gamma=1e3,
            unit_variance=1e3,
            place=1e3,
            spread=1e4,
            agreement=1.0,
        )
        check_rates(self, "lr")
        for name, slots in (
            ("adaptive", ("{word}",)),
            ("restrictive", ("{a}", "{b}")),
            ("single", ("{a}",)),
        ):
            if any(getattr(self, name).count(slot) != 1 for slot in slots):
                raise ValueError(f"{name} must hold {' and '.join(slots)} once")
        for name in ("e1", "e2"):
            parse_cap(getattr(self, name), name)


def build(spec: Spec) -> DisTok:
    """The method, which trains a network."""
    from creatok_cli.methods._distok import DisTok

    return DisTok(spec)


def parse_cap(text: str, name: str) -> float | None:
    """A cosine, or None for `auto`. Raises ValueError."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise ValueError(f"{name} is auto or a cosine from -1 to 1")
    return value


# Using a network: no torch


def class_row(network: Network, name: str) -> dict[str, array.array[float]]:
    """The row of a known class per encoder. Raises UnknownName."""
    names = network.classes
    if name not in names:
        raise UnknownName(
            f"unknown concept {name[:60]!r}; {did_you_mean(name, names)}".rstrip("; ")
        )
    at = names.index(name)
    return {
        encoder: network.tensors[f"rows/{encoder}"].values()[at * width : (at + 1) * width]
        for encoder, width in sorted(network.widths.items())
    }


def fuse(
    network: Network, parts: Sequence[tuple[float, Mapping[str, array.array[float]]]]
) -> dict[str, Rows]:
    """A token's rows from (weight, row per encoder) of each concept; weights sum to 1.

    Sums are exact before they are rounded, so their order does not matter. Rows [n d] f32 per
    encoder, as `tokens.token.Rows`; encoders stand side by side in the order of their names.
    """
    return decode(network, encode(network, parts))


def encode(
    network: Network, parts: Sequence[tuple[float, Mapping[str, array.array[float]]]]
) -> list[float]:
    """The latent z of a mix, for `decode`; parts as in `fuse`."""
    mean = _joined(
        {
            encoder: _combined([(weight, rows[encoder]) for weight, rows in parts])
            for encoder in sorted(network.widths)
        }
    )
    center, scale = (network.tensors[name].values() for name in ("center", "scale"))
    centred = [
        (value - middle) / unit for value, middle, unit in zip(mean, center, scale, strict=True)
    ]
    return _maps(network, "encode", centred)


def decode(network: Network, latent: Sequence[float]) -> dict[str, Rows]:
    """A token's rows from a latent z of `latent_size` numbers; rows as from `fuse`."""
    center, scale = (network.tensors[name].values() for name in ("center", "scale"))
    written = _maps(network, "decode", latent)
    vectors = int(network.recipe["spec"]["vectors"])
    size = len(written) // vectors
    rows = [written[start : start + size] for start in range(0, len(written), size)]
    if network.recipe["spec"]["decoder"] == "classes":
        rows = [_of_classes(network, row) for row in rows]
    else:
        rows = [
            [middle + unit * value for value, middle, unit in zip(row, center, scale, strict=True)]
            for row in rows
        ]
    found: dict[str, Rows] = {}
    start = 0
    for encoder, width in sorted(network.widths.items()):
        flat = array.array("f")
        for row in rows:
            flat.extend(row[start : start + width])
        found[encoder] = ((vectors, width), _little(flat))
        start += width
    return found


def latent_size(network: Network) -> int:
    """How many numbers a latent has."""
    return int(network.tensors["decode/0/weight"].shape[1])


def draw_latents(
    network: Network,
    law: str,
    *,
    seed: int,
    count: int,
    rarity: float = 0.0,
    near: Sequence[float] | None = None,
    reach: float = 1.0,
) -> list[list[float]]:
    """`count` latents of a seed by a law of LAWS: mu + S^(1/2) u, with the mean mu and covariance
    S of the network's own latents, u of that law; or `near` + reach S^(1/2) u, around a latent.
    The first ones do not depend on the count. Rounded, so that they are the same everywhere.

    Deviates: methods notes 3.6 sample N(0, I) where L_var is on; its weight of .01 leaves a
    variance of 2.9 (measured, bestiary), so that such latents lie well inside what was learned: of
    48, 8 were novel concepts, and 12 of those drawn here.

    Raises ValueError for a law that is not known, or a rarity outside [0, 1).
    """
    if law not in LAWS or not 0 <= rarity < 1:
        raise ValueError("a law of LAWS and 0 <= rarity < 1 are needed")
    size = latent_size(network)
    mean, covariance = (network.tensors[f"latents/{part}"].values() for part in MOMENTS)
    root = _latents.lower_root([covariance[at * size : (at + 1) * size] for at in range(size)])
    middle = mean if near is None else near
    scale = 1.0 if near is None else reach
    found = []
    for index in range(count):
        drawn = _latents.draw_latent(law, seed, index, size, rarity)
        found.append(
            [
                round(start + scale * math.fsum(map(mul, row, drawn)), _latents.DIGITS)
                for start, row in zip(middle, root, strict=True)
            ]
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a labeler sees in several pictures of one concept."""

    shares: tuple[float, ...]
    """Mean probability of every class."""
    top: float
    """max_c p_c."""
    spread: float
    """exp(entropy): how many classes the labels are spread over."""
    apart: float
    """Mean JSD of the pictures' labels to their mean, in nats: 0 where they agree."""

    def fault(self, spec: Spec) -> str:
        """Why this is no novel concept: `known`, `junk` or `unsteady`; empty for one."""
        if self.top >= spec.tau:
            return "known"
        if self.spread > spec.spread:
            return "junk"
        return "unsteady" if self.apart > spec.agreement else ""


def view(labels: Sequence[Sequence[float]]) -> View:
    """Of probabilities over the same classes, one row per picture."""
    mean = [math.fsum(column) / len(labels) for column in zip(*labels, strict=True)]
    entropy = -math.fsum(share * math.log(share) for share in mean if share > 0)
    apart = 0.0
    for row in labels:
        middle = [(a + b) / 2 for a, b in zip(row, mean, strict=True)]
        for one in (row, mean):
            apart += math.fsum(
                a * math.log(a / b) for a, b in zip(one, middle, strict=True) if a > 0
            )
    return View(
        shares=tuple(mean),
        top=max(mean),
        spread=math.exp(entropy),
        apart=max(0.0, apart / 2 / len(labels)),
    )


def _of_classes(network: Network, logits: Sequence[float]) -> list[float]:
    """The mean of class rows, weighted by a softmax."""
    top = max(logits)
    shares = [math.exp(value - top) for value in logits]
    total = math.fsum(shares)
    found: list[float] = []
    for encoder, width in sorted(network.widths.items()):
        table = network.tensors[f"rows/{encoder}"].values()
        columns = [table[at::width] for at in range(width)]
        found += [math.fsum(map(mul, shares, column)) / total for column in columns]
    return found


def _maps(network: Network, name: str, values: Sequence[float]) -> list[float]:
    """Linear, GELU (the exact one), linear."""
    hidden = _linear(network, f"{name}/0", values)
    raised = [0.5 * each * (1.0 + math.erf(each / math.sqrt(2.0))) for each in hidden]
    return _linear(network, f"{name}/1", raised)


def _linear(network: Network, name: str, values: Sequence[float]) -> list[float]:
    weight, bias = (network.tensors[f"{name}/{part}"].values() for part in ("weight", "bias"))
    size = len(values)
    return [
        math.fsum(map(mul, weight[at * size : (at + 1) * size], values)) + shift
        for at, shift in enumerate(bias)
    ]


def _combined(parts: Sequence[tuple[float, array.array[float]]]) -> list[float]:
    weights = [weight for weight, _ in parts]
    return [
        math.fsum(map(mul, weights, column))
        for column in zip(*(row for _, row in parts), strict=True)
    ]


def _joined(rows: Mapping[str, Sequence[float]]) -> list[float]:
    return [value for row in rows.values() for value in row]


def _little(values: array.array[float]) -> bytes:
    ready = array.array("f", values)
    if sys.byteorder == "big":
        ready.byteswap()
    return ready.tobytes()
