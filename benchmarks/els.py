"""Score machines: do trained networks agree, how fast is it, and what do the dials do.

    python benchmarks/els.py train --network resnet|unet|unet-early [--seconds 280]
    python benchmarks/els.py agree [--noises 100] [--seconds 280]
    python benchmarks/els.py speed
    python benchmarks/els.py dials

`train` and `agree` go on where the same command stopped.

`agree`: deterministic DDIM from the same noises, machines in 20 steps, networks in 20 and in 150,
over 32 sprites of 32 px. Windows are calibrated on the networks' own trajectories (highest cosine
of scores, median over 10 noises). Per noise Pearson's r of picture and network, and
1 - SSres/SStot; medians over noises; the null compares with the machine's picture of another
noise. `speed`: 100 sprites of 64 px against a direct implementation, patch by patch from the
equations; differences of both from the direct one in float64. `dials`: coherence x freedom, as
figures and as one picture.

Does not: learn anything that creatok uses.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _els_networks import FOLDER, NETWORKS, draw_pack, load, train, trajectory
from _report import RESULTS, machine, write
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from creatok_cli._develop import to_image, to_levels
from creatok_cli.backbones import _els_machine as els
from creatok_cli.backbones._els_machine import Kind, Machine
from creatok_cli.backbones._els_near import folder_median, origins
from creatok_cli.backbones._els_pack import Pack, straight
from creatok_cli.backbones._els_schedule import (
    PUBLISHED,
    alpha_bar,
    calibrate,
    floored,
)
from creatok_cli.seeds import generator

SPRITES, SIDE_PX, STEPS, FINE_STEPS, SEEDS = 32, 32, 20, 150, 10
WINDOWS = (3, 5, 7, 9, 11, 13, 15, 17, 21, 25, 31)
COHERENCES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
KINDS: tuple[Kind, ...] = ("ideal", "ls", "els", "bbels")


def noises(count: int, side_px: int) -> Tensor:
    """[count 4 side side], each from its number alone."""
    shape = (4, side_px, side_px)
    return torch.stack([torch.randn(shape, generator=generator(i, "noise")) for i in range(count)])


def remix(
    how: Machine, pack: Pack, noise: Tensor, windows: tuple[int, ...], *, snaps: bool = False
) -> tuple[Tensor, els.Snap | None]:
    """The picture of a machine, and its map where the last step snaps."""
    phi, steps, best = noise, len(windows), None
    for i in range(steps, 0, -1):
        ab, to = alpha_bar(i / steps), alpha_bar((i - 1) / steps)
        if i == 1 and snaps:
            best = els.snap(how, pack.pixels, phi, ab=ab, window_px=windows[0])
            x0hat = best.values
        else:
            x0hat = els.estimate(how, pack.pixels, phi, ab=ab, window_px=windows[i - 1])
        phi = els.advance(phi, x0hat, ab=ab, to=to)
    return phi, best


# Agreement with trained networks.


def agree(count: int, seconds: float) -> dict[str, Any] | None:
    """The report, or None when time ran out: what was computed is kept."""
    clock = Clock(seconds)
    pack, start = draw_pack(SPRITES, SIDE_PX), noises(count, SIDE_PX)
    own = calibrate(pack)
    kept = Kept(FOLDER / "agree.json", FOLDER / "agree.safetensors")
    report: dict[str, Any] = {
        "sprites": SPRITES,
        "side_px": SIDE_PX,
        "noises": count,
        "windows": {"leave-one-out": own, "cifar10-resnet": PUBLISHED["cifar10-resnet"]},
        "networks": {},
    }
    for name in NETWORKS:
        if not (FOLDER / f"{name}.safetensors").exists():
            continue
        network, steps, spent = load(name)
        tag = f"{name}-{steps}"
        for fine in (STEPS, FINE_STEPS):
            if not kept.has(f"{tag}/{fine}"):
                parts = [trajectory(network, part, fine)[-1][1] for part in start.split(20)]
                kept.put(f"{tag}/{fine}", torch.cat(parts))
        table: dict[str, Any] = {}
        for kind in KINDS:
            windows = tuned(Machine(kind=kind), pack, network, kept, f"{tag}/{kind}", clock)
            if windows is None:
                return None
            for schedule, chosen in (("network", windows), ("leave-one-out", own)):
                if kind in ("ideal", "els") and schedule == "leave-one-out":
                    continue
                made = pictures(kept, kind, pack, start, chosen, clock)
                if made is None:
                    return None
                row = {
                    f"network {fine} steps": agreement(made, kept[f"{tag}/{fine}"])
                    for fine in (STEPS, FINE_STEPS)
                }
                row["nearest"] = round(near(made, pack), 3)
                table[f"{kind}, windows of the {schedule}"] = {"windows": chosen, **row}
        fine = kept[f"{tag}/{FINE_STEPS}"]
        report["networks"][name] = {
            "steps": steps,
            "train_seconds": round(spent),
            "nearest": round(near(fine, pack), 3),
            "20 against 150 steps": agreement(kept[f"{tag}/{STEPS}"], fine),
            "machines": table,
        }
    sheet(kept, report, RESULTS / "els-agreement.png")
    return report


def agreement(made: Tensor, wanted: Tensor) -> dict[str, float]:
    """Medians over pictures of r and 1 - SSres/SStot, and of r with the next noise's picture."""
    return {
        "r": round(float(pearson(made, wanted).median()), 4),
        "r2": round(float(explained(made, wanted).median()), 4),
        "null r": round(float(pearson(made.roll(1, 0), wanted).median()), 4),
    }


def pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-9)


def explained(made: Tensor, wanted: Tensor) -> Tensor:
    whole = wanted.flatten(1) - wanted.flatten(1).mean(1, keepdim=True)
    return 1 - (wanted - made).flatten(1).square().sum(1) / whole.square().sum(1)


def near(made: Tensor, pack: Pack) -> float:
    """Median RMSE to the nearest source, as it lies."""
    apart = (made.clamp(-1, 1)[:, None] - pack.pixels[None]).square().mean((2, 3, 4)).sqrt()
    return float(apart.amin(1).median())


def tuned(
    how: Machine, pack: Pack, network: Any, kept: Kept, key: str, clock: Clock
) -> tuple[int, ...] | None:
    """Per noise level the window whose scores point most like the network's, median over noises;
    rising. None when time ran out.
    """
    if how.kind == "ideal":
        return (3,) * STEPS
    found: list[int] = kept.notes.setdefault(key, [])
    path = trajectory(network, noises(SEEDS, SIDE_PX), STEPS)[:-1]
    for t, phi, x0hat in path[::-1][len(found) :]:
        if clock.is_over:
            return None
        ab, best, least, worse = alpha_bar(t), WINDOWS[0], -2.0, 0
        wanted = els.score(phi, x0hat, ab=ab).flatten(1)
        for window in WINDOWS:
            guess = els.estimate(how, pack.pixels, phi, ab=ab, window_px=window)
            mine = els.score(phi, guess, ab=ab).flatten(1)
            middle = float(torch.cosine_similarity(mine, wanted, dim=1).median())
            if middle > least:
                best, least, worse = window, middle, 0
            else:
                worse += 1
            if worse == 2:
                break
        found.append(best)
        kept.note(key, found)
    return tuple(max(found[: i + 1]) for i in range(len(found)))


def pictures(
    kept: Kept, kind: Kind, pack: Pack, start: Tensor, windows: tuple[int, ...], clock: Clock
) -> Tensor | None:
    """All pictures of a machine, a few at a time; None when time ran out."""
    key = f"{kind}/{'-'.join(map(str, windows))}"
    done = kept[key] if kept.has(key) else start[:0]
    while len(done) < len(start):
        if clock.is_over:
            return None
        part, _ = remix(Machine(kind=kind), pack, start[len(done) : len(done) + 5], windows)
        done = torch.cat([done, part])
        kept.put(key, done)
    return done[: len(start)]


def sheet(kept: Kept, report: dict[str, Any], path: Path) -> None:
    """Networks beside machines, the same noise in every column."""
    rows: list[tuple[str, Tensor]] = []
    for name, facts in report["networks"].items():
        rows.append((f"{name}, 150 steps", kept[f"{name}-{facts['steps']}/{FINE_STEPS}"]))
        for kind in reversed(KINDS):
            row = facts["machines"][f"{kind}, windows of the network"]
            made = kept[f"{kind}/{'-'.join(map(str, row['windows']))}"]
            r = row[f"network {FINE_STEPS} steps"]["r"]
            rows.append((f"{kind}  r {r:.2f}", made))
    if rows:
        grid([(label, images(made[:10])) for label, made in rows], path, scale=2)


class Clock:
    """Says when a slice of work is over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end


class Kept:
    """Tensors and notes that outlast a slice."""

    def __init__(self, notes: Path, tensors: Path) -> None:
        self._notes, self._tensors = notes, tensors
        self.notes: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() else {}
        self._all: dict[str, Tensor] = load_file(tensors) if tensors.exists() else {}

    def has(self, key: str) -> bool:
        return key in self._all

    def __getitem__(self, key: str) -> Tensor:
        return self._all[key]

    def put(self, key: str, value: Tensor) -> None:
        self._all[key] = value.clone().contiguous()
        part = self._tensors.with_suffix(".part")
        save_file(self._all, part)
        part.replace(self._tensors)

    def note(self, key: str, value: Any) -> None:
        self.notes[key] = value
        self._notes.write_text(json.dumps(self.notes))


# Speed and memory.


def direct(
    clean: Tensor, phi: Tensor, ab: float, window: int, places: Callable[[int, int], Iterator[Any]]
) -> Tensor:
    """x0hat [c H W] from the equations, pixel by pixel: every candidate patch is cut out and
    compared. `places` gives (row, column) of candidates of a pixel.
    """
    a, s2, radius = math.sqrt(ab), 1 - ab, window // 2
    height, width = phi.shape[1:]
    wide = pad(clean, (2 * radius + 2,) * 4, value=-1.0)
    off = 2 * radius + 2
    out = torch.empty_like(phi)
    for y in range(height):
        for x in range(width):
            top, left = max(0, y - radius), max(0, x - radius)
            bottom, right = min(height, y + radius + 1), min(width, x + radius + 1)
            mine = phi[:, top:bottom, left:right]
            logits, values = [], []
            for v, u in places(y, x):
                rows = slice(top + v - y + off, bottom + v - y + off)
                columns = slice(left + u - x + off, right + u - x + off)
                apart = (mine - a * wide[:, :, rows, columns]).square().sum((1, 2, 3))
                logits.append(-apart / (2 * s2))
                values.append(wide[:, :, v + off, u + off])
            weights = torch.cat(logits).softmax(0)
            out[:, y, x] = weights @ torch.cat(values)
    return out


def speed() -> dict[str, Any]:
    """Times are CPU seconds of one thread for one step of one picture."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for side, count, kind, reach, window, is_direct in (
        (64, 100, "ls", 0, 13, True),
        (64, 100, "ls", 0, 31, True),
        (64, 100, "window", 1, 13, True),
        (32, 24, "els", 0, 7, True),
        (64, 25, "ls", 0, 13, False),
        (64, 400, "ls", 0, 13, False),
        (64, 1600, "ls", 0, 13, False),
        (32, 100, "ls", 0, 13, False),
        (128, 100, "ls", 0, 13, False),
        (64, 100, "ls", 0, 7, False),
        (64, 100, "ls", 0, 55, False),
        (64, 100, "window", 2, 13, False),
        (64, 100, "window", 4, 13, False),
        (32, 24, "bbels", 0, 7, False),
        (32, 24, "els", 0, 13, False),
        (32, 48, "els", 0, 7, False),
    ):
        pack = draw_pack(count, side, kinds=-(-count // 60))
        how, ab = Machine(kind=kind, reach_px=reach), 0.5  # type: ignore[arg-type]
        noise = noises(1, side)
        phi = math.sqrt(ab) * pack.pixels[:1] + math.sqrt(1 - ab) * noise
        mine, made = cpu_seconds(
            lambda how=how, pack=pack, phi=phi, window=window: els.estimate(
                how, pack.pixels, phi, ab=0.5, window_px=window
            )
        )
        held = peak_bytes(
            lambda how=how, pack=pack, phi=phi, window=window: els.estimate(
                how, pack.pixels, phi, ab=0.5, window_px=window
            )
        )
        row: dict[str, Any] = {
            "machine": kind,
            "reach_px": reach,
            "sprites": count,
            "side_px": side,
            "window_px": window,
            "seconds": round(mine, 4),
            "peak_mib": round(held / 2**20, 1),
            "stated_mib": round(els.memory_bytes(how, tuple(pack.pixels.shape), window) / 2**20, 1),
        }
        if is_direct:
            places = places_of(kind, reach, side)
            slow, plain = cpu_seconds(
                lambda pack=pack, phi=phi, window=window, places=places: direct(
                    pack.pixels, phi[0], 0.5, window, places
                ),
                times=1,
            )
            true = direct(pack.pixels.double(), phi[0].double(), 0.5, window, places)
            row["direct_seconds"] = round(slow, 3)
            row["times_faster"] = round(slow / mine, 1)
            row["difference"] = float((made[0] - true).norm() / true.norm())
            row["direct_difference"] = float((plain - true).norm() / true.norm())
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"machine": machine(1), "rows": rows}


def places_of(kind: str, reach: int, side: int) -> Callable[[int, int], Iterator[Any]]:
    span = range(-reach, reach + 1)
    if kind == "els":
        everywhere = [(v, u) for v in range(side) for u in range(side)]
        return lambda y, x: iter(everywhere)
    return lambda y, x: ((y + dy, x + dx) for dy in span for dx in span)


def cpu_seconds(work: Callable[[], Tensor], *, times: int = 3) -> tuple[float, Tensor]:
    """The least CPU time of the calling thread, and what came out."""
    best, made = math.inf, work() if times > 1 else None
    for _ in range(times):
        started = time.thread_time()
        made = work()
        best = min(best, time.thread_time() - started)
    assert made is not None
    return best, made


def peak_bytes(work: Callable[[], Tensor]) -> int:
    """The most that tensors made inside hold together."""
    with torch.profiler.profile(profile_memory=True) as seen:
        work()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


# Dials.


def dials() -> dict[str, Any]:
    """60 sprites of 64 px: what coherence and freedom do, over 8 noises, and a picture of it."""
    pack = draw_pack(60, 64)
    schedule, median = calibrate(pack), folder_median(pack)
    start = noises(8, 64)
    rows, shown = [], []
    for freedom in (0, 1, 3):
        how = Machine(kind="window" if freedom else "ls", reach_px=freedom)
        cells: list[Image.Image] = []
        for coherence in COHERENCES:
            windows = floored(schedule, coherence, 64)
            pick = start if not freedom else start[:2]
            made, best = remix(how, pack, pick, windows, snaps=True)
            assert best is not None
            told = origins(made, best.source, pack, median)
            rows.append(
                {
                    "freedom": freedom,
                    "coherence": coherence,
                    "smallest window": windows[0],
                    "sources": sorted(one.sources for one in told)[len(told) // 2],
                    "nearest": round(sorted(one.nearest for one in told)[len(told) // 2], 3),
                    "flagged": sum(bool(one.copy) for one in told),
                    "of": len(told),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            cells += images(made[:2])
        shown.append((f"freedom {freedom} px", cells))
    labels = [f"coherence {c:g}" if not i else "" for c in COHERENCES for i in range(2)]
    grid(shown, RESULTS / "els-dials.png", scale=2, columns=labels)
    return {"schedule": schedule, "folder median": round(median, 3), "rows": rows}


def images(made: Tensor) -> list[Image.Image]:
    return [to_image(levels) for levels in to_levels(straight(made.clamp(-1, 1)))]


def grid(
    rows: list[tuple[str, list[Image.Image]]],
    path: Path,
    *,
    scale: int,
    columns: list[str] | None = None,
) -> None:
    """Rows of sprites on grey, with a label before each and one above columns."""
    side = rows[0][1][0].width * scale
    left, top, gap = 116, 22 if columns else 6, 4
    width = left + max(len(cells) for _, cells in rows) * (side + gap)
    page = Image.new("RGB", (width, top + len(rows) * (side + gap)), (236, 236, 232))
    pen = ImageDraw.Draw(page)
    for at, label in enumerate(columns or []):
        pen.text((left + at * (side + gap), 5), label, fill=(40, 40, 40))
    for line, (label, cells) in enumerate(rows):
        y = top + line * (side + gap)
        pen.text((6, y + side // 2 - 6), label, fill=(40, 40, 40))
        for at, cell in enumerate(cells):
            large = cell.resize((side, side), Image.Resampling.NEAREST)
            page.paste(large, (left + at * (side + gap), y), large)
    path.parent.mkdir(exist_ok=True)
    page.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("train", "agree", "speed", "dials"))
    parser.add_argument("--network", choices=tuple(NETWORKS), default="resnet")
    parser.add_argument("--noises", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=280.0)
    wanted = parser.parse_args()
    if wanted.what == "train":
        clean = draw_pack(SPRITES, SIDE_PX).pixels
        print(json.dumps(train(wanted.network, clean, seconds=wanted.seconds)))
    elif wanted.what == "agree":
        report = agree(wanted.noises, wanted.seconds)
        if report is None:
            print(json.dumps({"unfinished": True}))
        else:
            write("els-agreement", {"machine": machine(torch.get_num_threads()), **report})
    elif wanted.what == "speed":
        write("els-speed", speed())
    else:
        write("els-dials", dials())


if __name__ == "__main__":
    main()
