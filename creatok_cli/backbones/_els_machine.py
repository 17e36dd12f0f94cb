"""Score machines: the best denoisers that may only copy patches of given pictures; no training.

Locality and equivariance alone explain much of what convolutional diffusion models invent (Kamb and
Ganguli, ICML 2025, PMLR 267): x0hat of a pixel is a softmax mean over candidate source pixels, each
weighed by how well the window around it explains the noisy window. Machines differ in their
candidates: whole pictures (`ideal`), the same place (`ls`), places near it (`window`), anywhere
(`els`), anywhere at the same distance from the borders (`bbels`). The last step takes the best
candidate in place of the mean, so that every pixel is a pixel of one source.

Two routes give the candidates block by block, so that memory stays bounded: window sums of squared
differences, shift by shift, whose cost does not depend on the window; and products of patches, for
small windows of `els` and `bbels`. Both are exact.

Deviates: window sums are two products with 0/1 band matrices (two 1-D sums), in place of prefix
sums: all terms are positive, so the error stays relative. On CPUs windows beyond 13 px are summed
in float64. At 64 px x0hat is then within 5e-6 of float64 throughout (measured on random sources).
Deviates: `els` reads transparent pixels around sources as `window` does, unless candidates that
leave their canvas are excluded; parts of a noisy window off the canvas are never compared.

Does not: know files, sprites, or which windows are right (`_els_schedule.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import EllipsisType
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn.functional import pad, unfold

from creatok_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["ideal", "ls", "window", "els", "bbels"]
KINDS: tuple[Kind, ...] = ("ideal", "ls", "window", "els", "bbels")
BLOCK_ENTRIES = {"sums": 2**16, "patch": 2**22}
"""Candidates times pixels in one block, on CPUs: window sums stay in the cache, products want size
(measured). Five arrays of 4 bytes an entry are alive at a time; on other devices 32 times as many.
"""
SUMS_FROM_PX = 15
"""From windows of this side on sums are quicker than products on CPUs (measured); other devices
have products that are quicker still.
"""
PRECISE_FROM_PX = 15
"""Windows of this side and more are summed in float64 on CPUs: twice the time, a hundredth of the
error (measured at 55 px).
"""
FAINTEST = -60.0
"""Logits further below the best count as this: e^-60 adds nothing in any float, while denormal
weights take twice the time (measured).
"""
KEY_FLOATS = 2**23
"""Numbers in the patches of one block, on CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Which source pixels may become a pixel."""

    kind: Kind = "ls"
    reach_px: int = 0
    """How far a source may be shifted, for `window` (max norm)."""
    shift_tau_px: float = 0.0
    """Width of a soft window: ln pi_s = -n2(s) / (2 tau^2); 0 weighs all shifts alike."""
    wraps: bool = False
    """The picture continues at its opposite borders."""
    sources_wrap: bool = True
    """So do the sources, where the picture wraps. If not, only `els` can make it, of windows inside
    their canvas.
    """
    leaves: bool = True
    """A shifted source is transparent outside its canvas; False: such candidates are excluded."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"machine must be one of {', '.join(KINDS)}")
        if self.reach_px < 0 or not math.isfinite(self.shift_tau_px) or self.shift_tau_px < 0:
            raise InputError("reach and width of the soft window must be numbers of at least 0")
        if self.reach_px and self.kind != "window":
            raise InputError(f"machine {self.kind} shifts no sources: reach belongs to window")
        if self.wraps and self.kind == "bbels":
            raise InputError("bbels knows pictures by their borders: it cannot wrap")
        if self.wraps and not self.sources_wrap and self.kind != "els":
            raise InputError(
                "of sources that do not tile, only machine els makes seamless pictures"
            )


@dataclass(frozen=True, slots=True)
class Snap:
    """The best candidate of every pixel."""

    values: Tensor
    """[b c H W], copies of source pixels."""
    source: Tensor
    """int64 [b H W]: index of the source."""
    row: Tensor
    """int64 [b H W]: where in the source; outside its canvas where a shift went there."""
    column: Tensor


@dataclass(frozen=True, slots=True)
class _Area:
    """A rectangle of pixels, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def inside(self) -> tuple[EllipsisType, slice, slice]:
        """Index of its pixels."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, slots=True)
class _Block:
    """k candidates for each of the h w pixels of an area. Its memory is used again by the next
    block.
    """

    area: _Area
    logits: Tensor
    """[k h w]"""
    values: Tensor
    """[c k h w], or [c k] where all pixels have the same."""
    source: Tensor
    """[k 1 1]"""
    row: Tensor
    """[k 1 1] or [1 h 1]"""
    column: Tensor


@dataclass(frozen=True, slots=True)
class _Query:
    """One noisy picture and what it is compared with, at one noise level."""

    phi: Tensor
    """[c H W]"""
    sources: Tensor
    """[c n H W]"""
    index: Tensor
    """[n] of the sources among all."""
    log_prior: Tensor
    """[n]"""
    a: float
    s2: float
    window: int


def estimate(
    machine: Machine,
    sources: Tensor,
    phi: Tensor,
    *,
    ab: float,
    window_px: int,
    log_prior: Tensor | None = None,
) -> Tensor:
    """x0hat [b c H W] of phi [b c H W] = sqrt(ab) f + sqrt(1 - ab) n, over sources [n c H W].

    `window_px` is odd; the ideal machine ignores it. `log_prior` [n] or [b n] are ln pi_f; -inf
    leaves a source out. A row's bytes do not depend on its neighbours.
    """
    rows = []
    for query in _queries(sources, phi, ab, window_px, log_prior):
        if machine.kind == "ideal":
            weights = _ideal_logits(query).softmax(0)
            rows.append(torch.tensordot(query.sources, weights, dims=([1], [0])))
        else:
            rows.append(_mean(_blocks(machine, query), query.phi))
    return torch.stack(rows)


def snap(
    machine: Machine,
    sources: Tensor,
    phi: Tensor,
    *,
    ab: float,
    window_px: int,
    log_prior: Tensor | None = None,
) -> Snap:
    """As `estimate`, but the best candidate alone; of equals one of the least shifted."""
    pictures, places = [], []
    for query in _queries(sources, phi, ab, window_px, log_prior):
        values, where = _best(_blocks(machine, query), query.phi)
        where[0] = query.index[where[0]]
        pictures.append(values)
        places.append(where)
    maps = torch.stack(places, dim=1)
    return Snap(torch.stack(pictures), maps[0], maps[1], maps[2])


def score(phi: Tensor, x0hat: Tensor, *, ab: float) -> Tensor:
    """The score that belongs to an estimate: (a x0hat - phi) / s2."""
    return (math.sqrt(ab) * x0hat - phi) / (1.0 - ab)


def advance(phi: Tensor, x0hat: Tensor, *, ab: float, to: float) -> Tensor:
    """One deterministic DDIM step from noise level `ab` to `to`."""
    noise = (phi - math.sqrt(ab) * x0hat) / math.sqrt(1.0 - ab)
    return math.sqrt(to) * x0hat + math.sqrt(max(0.0, 1.0 - to)) * noise


def _queries(
    sources: Tensor, phi: Tensor, ab: float, window: int, log_prior: Tensor | None
) -> Iterator[_Query]:
    if not 0.0 < ab < 1.0:
        raise ValueError(f"alpha-bar must be between 0 and 1, found {ab}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"windows have an odd side, found {window}")
    n = sources.shape[0]
    prior = phi.new_zeros(n) if log_prior is None else log_prior.to(phi)
    by_channel = sources.to(phi).transpose(0, 1).contiguous()
    for row, own in zip(phi, prior.expand(len(phi), n), strict=True):
        index = (own > -torch.inf).nonzero()[:, 0]
        if not len(index):
            raise InputError("no source is left: every one is weighed with 0")
        chosen = by_channel if len(index) == n else by_channel[:, index]
        yield _Query(row, chosen, index, own[index], math.sqrt(ab), 1.0 - ab, window)


def _blocks(machine: Machine, query: _Query) -> Iterator[_Block]:
    """All candidates of all pixels, in any order."""
    if machine.kind == "ideal":
        return _whole(query)
    if _takes_products(machine, query.window, query.phi.device):
        return _patch_blocks(machine, query)
    return _sum_blocks(machine, query)


def _takes_products(machine: Machine, window: int, device: torch.device) -> bool:
    """Whether products of patches are the quicker route, or the only one."""
    # Sources that do not wrap on a canvas that does have no place in sums over that canvas.
    is_torn = machine.wraps and not machine.sources_wrap
    is_quicker = window < SUMS_FROM_PX or device.type != "cpu"
    return machine.kind in ("els", "bbels") and (is_quicker or is_torn)


def _mean(blocks: Iterator[_Block], phi: Tensor) -> Tensor:
    """[c H W]: softmax mean over all candidates of all blocks, with a running maximum."""
    top = torch.full_like(phi[0], -torch.inf, dtype=_wide(phi))
    total, weighted = torch.zeros_like(phi[0]), torch.zeros_like(phi)
    for block in blocks:
        here, before = block.area.inside, top[block.area.inside]
        new = torch.maximum(before, block.logits.amax(0))
        # Where nothing is possible yet the maximum is -inf; its differences must not be NaN.
        base = new.clamp_min(torch.finfo(new.dtype).min).to(block.logits.dtype)
        weights = block.logits.sub_(base).clamp_min_(FAINTEST).to(phi.dtype).exp_()
        if block.values.ndim == 2:
            sums = (block.values @ weights.flatten(1)).view(-1, *block.area.shape)
        else:
            sums = torch.stack([(weights * channel).sum(0) for channel in block.values])
        fade = (before - base).exp_().to(phi.dtype)
        total[here] = total[here] * fade + weights.sum(0)
        weighted[here] = weighted[here] * fade + sums
        top[here] = new
    if not bool((top > -torch.inf).all()):
        raise InputError(_NOTHING)
    return weighted / total


def _best(blocks: Iterator[_Block], phi: Tensor) -> tuple[Tensor, Tensor]:
    """(values [c H W], (source, row, column) [3 H W]) of the best candidate."""
    top = torch.full_like(phi[0], -torch.inf, dtype=_wide(phi))
    values = torch.empty_like(phi)
    places = torch.zeros((3, *phi.shape[1:]), dtype=torch.int64, device=phi.device)
    for block in blocks:
        here, (peak, at) = block.area.inside, block.logits.max(0)
        is_better = peak > top[here]
        if block.values.ndim == 2:
            own = block.values[:, at]
        else:
            own = block.values.gather(1, at.expand(len(block.values), 1, -1, -1))[:, 0]
        shape = block.logits.shape
        where = torch.stack(
            [
                each.expand(shape).gather(0, at[None])[0]
                for each in (block.source, block.row, block.column)
            ]
        )
        top[here] = torch.where(is_better, peak.to(top.dtype), top[here])
        values[here] = torch.where(is_better, own, values[here])
        places[here] = torch.where(is_better, where, places[here])
    if not bool((top > -torch.inf).all()):
        raise InputError(_NOTHING)
    return values, places


def _wide(phi: Tensor) -> torch.dtype:
    """For maxima and long sums: float64 on CPUs, where it is cheap."""
    return torch.float64 if phi.device.type == "cpu" else phi.dtype


_NOTHING = (
    "no window of a source fits at some pixels: let sources wrap, shift them further, take machine "
    "els, or smaller windows"
)


# Whole pictures.


def _ideal_logits(query: _Query) -> Tensor:
    """[n]: how well each whole source explains the picture."""
    apart = torch.stack(
        [
            (query.phi - query.a * source).square().sum(dtype=_wide(query.phi))
            for source in query.sources.unbind(1)
        ]
    )
    return (apart * (-0.5 / query.s2)).to(query.log_prior) + query.log_prior


def _whole(query: _Query) -> Iterator[_Block]:
    """The best source of all pixels; the others are out of the question when it is snapped to."""
    logits = _ideal_logits(query)
    at = logits.argmax()
    height, width = query.phi.shape[1:]
    rows, columns = _axes(_Area(0, height, 0, width), query.phi.device)
    shape = (1, height, width)
    values = query.sources[:, at][:, None]
    whole = _Area(0, height, 0, width)
    yield _Block(whole, logits[at].expand(shape), values, at.view(1, 1, 1), rows, columns)


# Window sums, shift by shift.


def _sum_blocks(machine: Machine, query: _Query) -> Iterator[_Block]:
    height, width = query.phi.shape[1:]
    device, dtype = query.phi.device, query.phi.dtype
    radius, tau = query.window // 2, machine.shift_tau_px
    wide = _wide(query.phi) if query.window >= PRECISE_FROM_PX else dtype
    down = _band(height, query.window, machine.wraps, wide, device)
    across = _band(width, query.window, machine.wraps, wide, device)
    frame = 0 if machine.wraps else machine.reach_px
    if machine.kind == "els" and machine.leaves and not machine.wraps:
        frame = radius
    padded = pad(query.sources, (frame,) * 4, value=-1.0) if frame else query.sources
    most = max(_entries("sums", device), height * width)
    # Fresh memory for every block would cost more than the arithmetic (measured).
    room = torch.empty((3, most), dtype=dtype, device=device)
    wide_room = room if wide == dtype else torch.empty((3, most), dtype=wide, device=device)
    for dy, dx in _shifts(machine, height, width):
        rows, columns = _span(machine, height, dy, radius), _span(machine, width, dx, radius)
        area = _Area(*rows, *columns)
        if min(area.shape) <= 0:
            continue
        # What the windows of the area see, and the sources there.
        seen = area
        if machine.wraps:
            seen = _Area(0, height, 0, width)
            moved = query.sources.roll((-dy, -dx), (2, 3)) if dy or dx else query.sources
        else:
            seen = _Area(
                *(max(0, area.top - radius), min(height, area.bottom + radius)),
                *(max(0, area.left - radius), min(width, area.right + radius)),
            )
            moved = padded[:, :, frame + dy + seen.top : frame + dy + seen.bottom]
            moved = moved[..., frame + dx + seen.left : frame + dx + seen.right]
        noisy = query.phi[seen.inside]
        tall = down[area.top : area.bottom, seen.top : seen.bottom]
        broad = across[seen.left : seen.right, area.left : area.right]
        inner = _Area(
            *(area.top - seen.top, area.bottom - seen.top),
            *(area.left - seen.left, area.right - seen.left),
        )
        here = [each + shift for each, shift in zip(_axes(area, device), (dy, dx), strict=True)]
        if machine.wraps:
            here = [each % side for each, side in zip(here, (height, width), strict=True)]
        bias = -(dy * dy + dx * dx) / (2 * tau**2) if tau else 0.0
        count = max(1, most // seen.size)
        for start in range(0, moved.shape[1], count):
            some = moved[:, start : start + count]
            k = some.shape[1]
            apart, difference = (flat[: k * seen.size].view(k, *seen.shape) for flat in room[:2])
            apart.zero_()
            for mine, clean in zip(noisy, some, strict=True):
                torch.sub(mine, clean, alpha=query.a, out=difference)
                apart.addcmul_(difference, difference)
            half = wide_room[1, : k * seen.shape[0] * area.shape[1]]
            half = half.view(k, seen.shape[0], area.shape[1])
            sums = wide_room[2, : k * area.size].view(k, *area.shape)
            torch.matmul(apart.to(wide), broad, out=half)
            torch.matmul(tall, half, out=sums)
            prior = query.log_prior[start : start + k, None, None] + bias
            logits = sums.mul_(-0.5 / query.s2).add_(prior)
            index = torch.arange(start, start + k, device=device)[:, None, None]
            yield _Block(area, logits, some[inner.inside], index, here[0], here[1])


def _shifts(machine: Machine, height: int, width: int) -> list[tuple[int, int]]:
    """All shifts that a machine allows, the smallest first; on a torus each once."""
    reach = machine.reach_px if machine.kind in ("ls", "window") else max(height, width)
    spans = []
    for side in (height, width):
        low, high = (side - 1) // 2, side // 2
        if not machine.wraps:
            low = high = side - 1 if machine.kind in ("els", "bbels") else reach
        spans.append(range(-min(reach, low), min(reach, high) + 1))
    shifts = ((dy, dx) for dy in spans[0] for dx in spans[1])
    return sorted(shifts, key=lambda shift: (shift[0] ** 2 + shift[1] ** 2, shift))


def _span(machine: Machine, side: int, shift: int, radius: int) -> tuple[int, int]:
    """(first, end) of the places on one axis that may take what lies `shift` away."""
    if machine.kind == "bbels":
        near = radius if shift else 0
        return max(near, near - shift), min(side - near, side - near - shift)
    if machine.wraps:
        return 0, side
    if machine.kind == "els":
        near = 0 if machine.leaves else radius
        return max(0, near - shift), min(side, side - near - shift)
    if machine.leaves or not shift:
        return 0, side
    return (radius - shift, side) if shift < 0 else (0, side - radius - shift)


@lru_cache(maxsize=64)
def _band(side: int, window: int, wraps: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[side side] of 0 and 1: sums over the window around each place, clipped or wrapped."""
    place = torch.arange(side, device=device)
    apart = (place[:, None] - place).abs()
    if not wraps:
        return (apart <= window // 2).to(dtype)
    # A window longer than the period sees some places more than once.
    turns = range(-(window // side) - 1, window // side + 2)
    signed = place[:, None] - place
    return (
        torch.stack([(signed + turn * side).abs() <= window // 2 for turn in turns])
        .sum(0)
        .to(dtype)
    )


# Products of patches.


def _patch_blocks(machine: Machine, query: _Query) -> Iterator[_Block]:
    height, width = query.phi.shape[1:]
    radius, device = query.window // 2, query.phi.device
    # Lifted by 1 the transparent background is 0: small products, and padding with 0 is exact.
    phi, sources = query.phi + query.a, query.sources + 1.0
    frame, wraps = (radius,) * 4, machine.wraps and machine.sources_wrap
    phi = _around(phi, radius) if machine.wraps else pad(phi, frame)
    sources = _around(sources, radius) if wraps else pad(sources, frame)
    everywhere = _Area(0, height, 0, width)
    is_free = machine.kind == "els"
    is_inside = is_free and (not wraps if machine.wraps else not machine.leaves)
    if is_inside:
        everywhere = _Area(radius, height - radius, radius, width - radius)
        if min(everywhere.shape) <= 0:
            raise InputError(_NOTHING)
    is_cut = is_free and not machine.wraps
    for area in _areas(machine.kind, height, width, 0 if machine.wraps else radius):
        allowed = everywhere if is_free else area
        for part in _tiles(area, max(1, _entries("patch", device) // 64)):
            yield from _products(query, phi, sources, part, allowed, is_cut=is_cut)


def _products(
    query: _Query, phi: Tensor, sources: Tensor, part: _Area, allowed: _Area, *, is_cut: bool
) -> Iterator[_Block]:
    """Candidates with their centre in `allowed` for the pixels of `part`. `is_cut`: what of a
    window lies off the canvas is not compared.
    """
    channels, height, width = query.phi.shape
    window, radius, device = query.window, query.window // 2, phi.device
    taps = window * window
    asked = _patches(phi[None], part, window)[0] * (query.a / query.s2)  # [c*taps q]
    factor = -0.5 * query.a**2 / query.s2
    inside = None
    touches = part.top < radius or part.bottom > height - radius
    touches = touches or part.left < radius or part.right > width - radius
    if is_cut and touches:
        canvas = pad(phi.new_ones((1, 1, height, width)), (radius,) * 4)
        inside = _patches(canvas, part, window)[0] * factor  # [taps q]
    q = asked.shape[1]
    most = max(1, min(_entries("patch", device) // q, _keys(device) // (channels * taps)))
    for strip in _tiles(allowed, most):
        count = max(1, most // strip.size)
        rows, columns = (each.expand(1, *strip.shape).flatten() for each in _axes(strip, device))
        for start in range(0, sources.shape[1], count):
            some = sources[:, start : start + count].transpose(0, 1)
            keys = _patches(some, strip, window)  # [k' c*taps l]
            logits = keys.transpose(1, 2) @ asked  # [k' l q]
            squares = keys.view(len(keys), channels, taps, -1).square().sum(1)  # [k' taps l]
            if inside is None:
                logits += (squares.sum(1) * factor)[..., None]
            else:
                logits += squares.transpose(1, 2) @ inside
            logits += query.log_prior[start : start + count, None, None]
            values = query.sources[:, start : start + count][strip.inside].flatten(1)
            index = torch.arange(start, start + len(keys), device=device)
            yield _Block(
                part,
                logits.view(-1, *part.shape),
                values,
                index.repeat_interleave(strip.size)[:, None, None],
                rows.repeat(len(keys))[:, None, None],
                columns.repeat(len(keys))[:, None, None],
            )


def _areas(kind: Kind, height: int, width: int, radius: int) -> Iterator[_Area]:
    """Rectangles of pixels whose windows are cut alike (`bbels`), or the middle and its frame."""
    if kind == "bbels":
        for top, bottom in _classes(height, radius):
            for left, right in _classes(width, radius):
                yield _Area(top, bottom, left, right)
        return
    if not radius or 2 * radius >= min(height, width):
        yield _Area(0, height, 0, width)
        return
    yield _Area(radius, height - radius, radius, width - radius)
    yield _Area(0, radius, 0, width)
    yield _Area(height - radius, height, 0, width)
    yield _Area(radius, height - radius, 0, radius)
    yield _Area(radius, height - radius, width - radius, width)


def _classes(side: int, radius: int) -> list[tuple[int, int]]:
    """Border classes of one side: each place near a border alone, the rest together."""
    if 2 * radius >= side:
        return [(place, place + 1) for place in range(side)]
    low = [(place, place + 1) for place in range(radius)]
    high = [(place, place + 1) for place in range(side - radius, side)]
    return [*low, (radius, side - radius), *high]


def _tiles(area: _Area, most: int) -> Iterator[_Area]:
    """Rectangles of at most `most` pixels that cover an area: strips of rows, or parts of rows."""
    width = area.right - area.left
    tall, wide = max(1, most // width), min(width, max(1, most))
    for top in range(area.top, area.bottom, tall):
        for left in range(area.left, area.right, wide):
            bottom, right = min(top + tall, area.bottom), min(left + wide, area.right)
            yield _Area(top, bottom, left, right)


def _patches(padded: Tensor, area: _Area, window: int) -> Tensor:
    """[k c*window^2 l] of pictures [k c H+2r W+2r]: the windows around the pixels of an area."""
    more = window - 1
    return unfold(
        padded[:, :, area.top : area.bottom + more, area.left : area.right + more], window
    )


def _around(pictures: Tensor, radius: int) -> Tensor:
    """[... H W] continued by `radius` beyond each border with what is at the opposite one."""
    height, width = pictures.shape[-2:]
    rows = torch.arange(-radius, height + radius, device=pictures.device) % height
    columns = torch.arange(-radius, width + radius, device=pictures.device) % width
    return pictures[..., rows, :][..., columns]


def _axes(area: _Area, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows [1 h 1] and columns [1 1 w] of an area."""
    rows = torch.arange(area.top, area.bottom, device=device)
    columns = torch.arange(area.left, area.right, device=device)
    return rows[None, :, None], columns[None, None, :]


def _entries(route: str, device: torch.device) -> int:
    return BLOCK_ENTRIES[route] * (1 if device.type == "cpu" else 32)


def _keys(device: torch.device) -> int:
    return KEY_FLOATS * (1 if device.type == "cpu" else 32)


def memory_bytes(
    machine: Machine, sources: Sequence[int], window_px: int, *, device: str = "cpu"
) -> int:
    """An upper bound of what `estimate` and `snap` hold for sources of shape (n, c, H, W), without
    the sources themselves: two copies of them, one padded; five arrays of a block; its patches.
    """
    n, c, height, width = sources
    kind = torch.device(device)
    margin = 2 * max(machine.reach_px, window_px // 2 if machine.kind in ("els", "bbels") else 0)
    copies = n * c * (height * width + (height + margin) * (width + margin))
    work = (10 + c) * max(_entries("sums", kind), height * width)
    if _takes_products(machine, window_px, kind):
        entries = _entries("patch", kind)
        asked = c * window_px**2 * min(height * width, max(1, entries // 64))
        work = max(work, 5 * max(entries, height * width) + 4 * max(_keys(kind), asked))
    return 4 * (copies + work)
