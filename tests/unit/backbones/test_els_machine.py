"""The score machines against their equations, written out pixel by pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from creatok_cli.backbones import _els_machine as machines
from creatok_cli.backbones._els_machine import KINDS, Machine, advance, estimate, score, snap
from creatok_cli.backbones._els_schedule import alpha_bar
from creatok_cli.errors import InputError

DOUBLE = torch.float64


def sources(n: int = 3, side: tuple[int, int] = (6, 6), channels: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand((n, channels, *side), generator=draw, dtype=DOUBLE) * 2 - 1


def noisy(clean: Tensor, ab: float, rows: int = 2, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn((rows, *clean.shape[1:]), generator=draw, dtype=DOUBLE)
    return math.sqrt(ab) * clean[:1] + math.sqrt(1 - ab) * noise


def border_class(place: int, side: int, radius: int) -> object:
    return place if place < radius or place >= side - radius else "middle"


def candidates(
    machine: Machine, height: int, width: int, y: int, x: int, radius: int
) -> Iterator[tuple[int, int]]:
    """Places of source pixels that may become the pixel at (y, x)."""
    if machine.kind == "window":
        reach = range(-machine.reach_px, machine.reach_px + 1)
        for dy, dx in itertools.product(reach, reach):
            yield y + dy, x + dx
    elif machine.kind == "ls":
        yield y, x
    else:
        for v, u in itertools.product(range(height), range(width)):
            same = border_class(y, height, radius) == border_class(v, height, radius)
            same = same and border_class(x, width, radius) == border_class(u, width, radius)
            if machine.kind == "els" or same:
                yield v, u


def by_hand(
    machine: Machine, clean: Tensor, phi: Tensor, ab: float, window: int, log_prior: Tensor
) -> tuple[Tensor, Tensor]:
    """(x0hat, [(source, row, column)] of the best) of one picture [c H W], from the equations."""
    n, channels, height, width = clean.shape
    radius, a, s2 = window // 2, math.sqrt(ab), 1 - ab
    span = range(-radius, radius + 1)
    out, best = torch.zeros_like(phi), torch.zeros((3, height, width), dtype=torch.int64)

    def there(picture: Tensor, y: int, x: int) -> Tensor:
        if machine.wraps and machine.sources_wrap:
            return picture[:, y % height, x % width]
        if 0 <= y < height and 0 <= x < width:
            return picture[:, y, x]
        return torch.full((channels,), -1.0, dtype=DOUBLE)

    for y, x in itertools.product(range(height), range(width)):
        logits, values, places = [], [], []
        window_here = [
            (dy, dx)
            for dy, dx in itertools.product(span, span)
            if machine.wraps or (0 <= y + dy < height and 0 <= x + dx < width)
        ]
        for f, (v, u) in itertools.product(
            range(n), candidates(machine, height, width, y, x, radius)
        ):
            reads = [(v + dy, u + dx) for dy, dx in window_here]
            whole = all(0 <= i < height and 0 <= j < width for i, j in reads)
            must_fit = not machine.sources_wrap if machine.wraps else not machine.leaves
            if must_fit and machine.kind == "els":
                whole = radius <= v < height - radius and radius <= u < width - radius
            if must_fit and not whole:
                continue
            apart = sum(
                float(
                    (phi[:, (y + dy) % height, (x + dx) % width] - a * there(clean[f], i, j))
                    .square()
                    .sum()
                )
                for (dy, dx), (i, j) in zip(window_here, reads, strict=True)
            )
            logit = -apart / (2 * s2) + float(log_prior[f])
            if machine.shift_tau_px:
                logit -= ((v - y) ** 2 + (u - x) ** 2) / (2 * machine.shift_tau_px**2)
            logits.append(logit)
            values.append(there(clean[f], v, u))
            wrapped = machine.wraps and machine.sources_wrap
            places.append((f, v % height, u % width) if wrapped else (f, v, u))
        weights = torch.tensor(logits, dtype=DOUBLE).softmax(0)
        out[:, y, x] = weights @ torch.stack(values)
        best[:, y, x] = torch.tensor(places[int(weights.argmax())])
    return out, best


SUMS = (
    ("ls", {}),
    ("ls", {"wraps": True}),
    ("window", {"reach_px": 1}),
    ("window", {"reach_px": 2, "leaves": False, "shift_tau_px": 1.5}),
    ("window", {"reach_px": 1, "wraps": True, "shift_tau_px": 0.8}),
)
BOTH = (
    ("els", {}),
    ("els", {"leaves": False}),
    ("els", {"wraps": True}),
    ("els", {"wraps": True, "sources_wrap": False}),
    ("bbels", {}),
)


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize(
    ("sums_from", "kind", "more"),
    [(1, *row) for row in (*SUMS, *BOTH)] + [(99, *row) for row in BOTH],
)
def test_machines_equal_their_equations(
    kind: Any, more: dict[str, Any], window: int, sums_from: int, monkeypatch: Any
) -> None:
    """By products of patches and by sums, where a machine has both."""
    monkeypatch.setattr(machines, "SUMS_FROM_PX", sums_from)
    machine, clean = Machine(kind=kind, **more), sources(3, (6, 7))
    phi, prior = noisy(clean, 0.6, 1), torch.tensor([0.0, -0.7, 0.2], dtype=DOUBLE)
    x0hat = estimate(machine, clean, phi, ab=0.6, window_px=window, log_prior=prior)
    found = snap(machine, clean, phi, ab=0.6, window_px=window, log_prior=prior)
    wanted, best = by_hand(machine, clean, phi[0], 0.6, window, prior)
    assert float((x0hat[0] - wanted).abs().max()) < 1e-9
    assert torch.equal(torch.stack([found.source[0], found.row[0], found.column[0]]), best)
    in_f32 = estimate(
        machine, clean.float(), phi.float(), ab=0.6, window_px=window, log_prior=prior
    )
    assert in_f32.dtype == torch.float32
    assert float((in_f32[0] - wanted).abs().max()) < 2e-5


@pytest.mark.parametrize("window", [3, 7, 15])
@pytest.mark.parametrize("ab", [0.01, 0.5, 0.99])
def test_one_source_comes_back_from_the_local_machine(window: int, ab: float) -> None:
    clean = sources(1)
    phi = noisy(clean, ab)
    assert torch.allclose(
        estimate(Machine(), clean, phi, ab=ab, window_px=window), clean.expand(2, -1, -1, -1)
    )
    mosaic = snap(Machine(kind="els"), clean, phi, ab=ab, window_px=3).values
    colours = {tuple(pixel) for pixel in clean[0].flatten(1).T.tolist()} | {(-1.0,) * 4}
    assert {tuple(pixel) for pixel in mosaic[0].flatten(1).T.tolist()} <= colours


def test_a_window_over_the_whole_picture_makes_the_local_machine_ideal() -> None:
    clean = sources(5, (8, 6))
    phi = noisy(clean, 0.05)
    whole = estimate(Machine(kind="ideal"), clean, phi, ab=0.05, window_px=1)
    assert torch.allclose(estimate(Machine(), clean, phi, ab=0.05, window_px=15), whole, atol=1e-12)
    assert not torch.allclose(estimate(Machine(), clean, phi, ab=0.05, window_px=5), whole)
    found = snap(Machine(kind="ideal"), clean, phi, ab=0.05, window_px=1)
    for row, source in enumerate(found.source[:, 0, 0].tolist()):
        assert torch.equal(found.values[row], clean[source])
        assert bool((found.source[row] == source).all())


def test_borders_make_the_border_aware_machine_local() -> None:
    clean = sources(4, (7, 8))
    phi = noisy(clean, 0.3)
    local = estimate(Machine(), clean, phi, ab=0.3, window_px=9)
    aware = estimate(Machine(kind="bbels"), clean, phi, ab=0.3, window_px=9)
    assert torch.allclose(local, aware, atol=1e-9)
    free = estimate(Machine(kind="els"), clean, phi, ab=0.3, window_px=9)
    assert not torch.allclose(local, free, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "sums_from"), [("ls", 1), ("window", 1), ("els", 1), ("els", 99), ("bbels", 1)]
)
def test_blocks_and_neighbours_change_nothing(kind: Any, sums_from: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(machines, "SUMS_FROM_PX", sums_from)
    machine = Machine(kind=kind, reach_px=2 if kind == "window" else 0)
    clean = sources(5, (6, 7)).float()
    phi = noisy(clean.double(), 0.4, 2).float()
    how: dict[str, Any] = {"ab": 0.4, "window_px": 5}
    whole, best = estimate(machine, clean, phi, **how), snap(machine, clean, phi, **how)
    assert torch.equal(estimate(machine, clean, phi[[1, 0]], **how), whole[[1, 0]])
    for entries, keys in ((128, 500), (900, 2000)):
        monkeypatch.setattr(machines, "BLOCK_ENTRIES", {"sums": entries, "patch": entries})
        monkeypatch.setattr(machines, "KEY_FLOATS", keys)
        assert torch.allclose(estimate(machine, clean, phi, **how), whole, atol=1e-5)
        again = snap(machine, clean, phi, **how)
        assert torch.equal(again.source, best.source)
        assert torch.equal(again.row, best.row)
        assert torch.equal(again.values, best.values)


def test_two_images_black_and_white() -> None:
    clean = torch.ones((2, 1, 16, 16), dtype=DOUBLE)
    clean[0] = -1
    machine, ab = Machine(wraps=True), 0.2
    draw = torch.Generator().manual_seed(4)
    phi = torch.randn((6, 1, 16, 16), generator=draw, dtype=DOUBLE)
    window = sum(phi.roll((dy, dx), (2, 3)) for dy, dx in itertools.product((-1, 0, 1), (-1, 0, 1)))
    expected = torch.tanh(math.sqrt(ab) * window / (1 - ab))
    assert torch.allclose(estimate(machine, clean, phi, ab=ab, window_px=3), expected)
    steps = 40
    for i in range(steps, 0, -1):
        level = alpha_bar(i / steps)
        x0hat = estimate(machine, clean, phi, ab=level, window_px=3)
        phi = advance(phi, x0hat, ab=level, to=alpha_bar((i - 1) / steps))
    assert float((phi.abs() - 1).abs().max()) < 1e-3
    counts = sum(
        phi.sign().roll((dy, dx), (2, 3)) for dy, dx in itertools.product((-1, 0, 1), (-1, 0, 1))
    )
    assert float((counts.sign() == phi.sign()).double().mean()) >= 0.95
    assert 0.1 < float((phi > 0).double().mean()) < 0.9


@pytest.mark.parametrize("shift", [(1, 0), (3, -2)])
def test_rolling_the_noise_rolls_what_the_wrapped_machine_makes(shift: tuple[int, int]) -> None:
    clean = sources(3, (8, 8))
    phi, machine = noisy(clean, 0.3, 1), Machine(kind="els", wraps=True)
    out = estimate(machine, clean, phi, ab=0.3, window_px=3)
    rolled = estimate(machine, clean, phi.roll(shift, (2, 3)), ab=0.3, window_px=3)
    assert torch.allclose(rolled, out.roll(shift, (2, 3)), atol=1e-12)
    best = snap(machine, clean, phi, ab=0.3, window_px=3)
    again = snap(machine, clean, phi.roll(shift, (2, 3)), ab=0.3, window_px=3)
    assert torch.equal(again.source, best.source.roll(shift, (1, 2)))
    assert torch.equal(again.values, best.values.roll(shift, (2, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_snapped_pixel_is_the_source_pixel_of_its_map(kind: Any) -> None:
    machine = Machine(kind=kind, reach_px=2 if kind == "window" else 0)
    clean = sources(5, (9, 11)).float()
    phi = noisy(clean.double(), 0.2, 2).float()
    found = snap(machine, clean, phi, ab=0.2, window_px=3)
    for b, y, x in itertools.product(range(2), range(9), range(11)):
        v, u = int(found.row[b, y, x]), int(found.column[b, y, x])
        inside = 0 <= v < 9 and 0 <= u < 11
        source = clean[found.source[b, y, x], :, v, u] if inside else torch.full((4,), -1.0)
        assert torch.equal(found.values[b, :, y, x], source)


def test_priors_leave_sources_out_and_shift_the_weight() -> None:
    clean = sources(4)
    phi = noisy(clean, 0.3)
    out = torch.tensor([-math.inf, 0.0, -math.inf, 0.0], dtype=DOUBLE)
    for kind in ("ideal", "ls", "els"):
        machine = Machine(kind=kind)  # type: ignore[arg-type]
        some = estimate(machine, clean, phi, ab=0.3, window_px=3, log_prior=out)
        two = estimate(machine, clean[[1, 3]], phi, ab=0.3, window_px=3)
        assert torch.allclose(some, two)
        best = snap(machine, clean, phi, ab=0.3, window_px=3, log_prior=out)
        assert set(best.source.unique().tolist()) <= {1, 3}
    per_row = torch.stack([out, torch.tensor([0.0, -math.inf, 0.0, -math.inf], dtype=DOUBLE)])
    rows = snap(Machine(), clean, phi, ab=0.3, window_px=3, log_prior=per_row)
    assert set(rows.source[0].unique().tolist()) <= {1, 3}
    assert set(rows.source[1].unique().tolist()) <= {0, 2}
    with pytest.raises(InputError, match="no source is left"):
        estimate(Machine(), clean, phi, ab=0.3, window_px=3, log_prior=torch.full((4,), -math.inf))


def test_the_score_is_the_gradient_of_the_log_density() -> None:
    """Of the ideal machine: ln of the mean of Gaussians around a f."""
    clean, ab = sources(3, (4, 4)), 0.3
    phi = noisy(clean, ab, 1).requires_grad_(True)
    apart = (phi - math.sqrt(ab) * clean).square().flatten(1).sum(1)
    (-apart / (2 * (1 - ab))).logsumexp(0).backward()
    with torch.no_grad():
        x0hat = estimate(Machine(kind="ideal"), clean, phi, ab=ab, window_px=1)
        assert phi.grad is not None
        assert torch.allclose(score(phi, x0hat, ab=ab), phi.grad)


def test_windows_that_fit_nowhere_and_settings_that_do_not_go_together_are_named() -> None:
    clean = sources(2)
    inside = Machine(kind="els", wraps=True, sources_wrap=False)
    with pytest.raises(InputError, match="no window of a source fits"):
        estimate(inside, clean, noisy(clean, 0.5), ab=0.5, window_px=7)
    for wrong in (
        {"kind": "magic"},
        {"reach_px": 1},
        {"kind": "window", "reach_px": -1},
        {"kind": "window", "shift_tau_px": math.nan},
        {"kind": "bbels", "wraps": True},
        {"wraps": True, "sources_wrap": False},
    ):
        with pytest.raises(InputError):
            Machine(**wrong)  # type: ignore[arg-type]


def test_memory_stays_under_what_is_stated() -> None:
    """Peak of what tensors hold, seen by torch's own profiler."""
    shape = (9, 4, 14, 14)
    clean = torch.rand(shape) * 2 - 1
    phi = torch.randn((1, 4, 14, 14))
    for kind, reach, window in (("ls", 0, 17), ("window", 2, 7), ("els", 0, 7), ("els", 0, 17)):
        machine = Machine(kind=kind, reach_px=reach)  # type: ignore[arg-type]
        with torch.profiler.profile(profile_memory=True) as seen:
            estimate(machine, clean, phi, ab=0.5, window_px=window)
        held = peak = 0
        for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        assert 0 < peak <= machines.memory_bytes(machine, shape, window)
