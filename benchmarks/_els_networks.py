"""Small trained networks for benchmarks/els.py: what the score machines are compared with.

Convolutions of 3 x 3 with zero padding, a time embedding, no norm, no attention (the protocol of
Kamb and Ganguli, ICML 2025, at a size that a CPU can train): a ResNet that sees 13 pixels, and a
UNet of three scales. They learn the noise in premultiplied RGBA sprites (Adam, moving average of
the weights), in slices: the same step has the same noise however often training was cut.

Does not: belong to creatok: nothing there needs a trained network to remix sprites.
"""

from __future__ import annotations

import math
import random
import time
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from creatok_cli.backbones._els_pack import Pack
from creatok_cli.backbones._els_schedule import alpha_bar
from creatok_cli.backbones._els_sprites import Sprite, Sprites
from creatok_cli.backbones.bestiary.genes import CONCEPTS
from creatok_cli.backbones.bestiary.world import blend, draw_genes
from creatok_cli.seeds import derive, generator

FOLDER = Path(__file__).parents[1] / "runs" / "els"
BATCH, RATE, KEEP = 32, 1e-3, 0.999
TIME_WIDTH = 64


def draw_pack(count: int, side_px: int, *, kinds: int = 1) -> Pack:
    """`count` creatures of the world, concept by concept, `kinds` of each; a group per creature."""
    sprites = []
    for index in range(count):
        concept = CONCEPTS[index // kinds % len(CONCEPTS)]
        draw = random.Random(derive(0, "els", concept, index % kinds, side_px))
        picture = draw_genes(blend({concept: 1.0}, draw), draw, side_px, transparent=True)
        sprites.append(Sprite(name=f"{concept}-{index}", group=index, rgba=picture.tobytes()))
    return Pack.of(Sprites(size_px=(side_px, side_px), sprites=tuple(sprites)))


class Stage(nn.Module):
    """x + 1x1(silu(3x3(silu(x)) scaled and shifted by the time))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.see = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)
        self.when = nn.Linear(TIME_WIDTH, 2 * width)

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        scale, shift = self.when(when)[..., None, None].chunk(2, dim=1)
        return x + self.mix(silu(self.see(silu(x)) * (1 + scale) + shift))


class Clock(nn.Module):
    """Sines of the time, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(32, TIME_WIDTH), nn.SiLU(), nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        speeds = torch.exp(torch.linspace(0, math.log(200.0), 16))
        angles = t[:, None] * speeds
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class ResNet(nn.Module):
    """Five stages at full size: each output pixel sees 13 x 13."""

    def __init__(self, width: int = 64, stages: int = 5) -> None:
        super().__init__()
        self.clock = Clock()
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.stages = nn.ModuleList(Stage(width) for _ in range(stages))
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        when, x = self.clock(t), self.first(x)
        for stage in self.stages:
            x = stage(x, when)
        return self.last(silu(x))


class UNet(nn.Module):
    """Stages at full, half and quarter size, with bridges."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.clock = Clock()
        self.first = nn.Conv2d(4, width, 3, padding=1)
        sides = (width, 2 * width, 3 * width)
        self.down = nn.ModuleList(Stage(each) for each in sides)
        self.lower = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sides)
        )
        self.rise = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(sides))
        self.up = nn.ModuleList(Stage(each) for each in sides[:-1])
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        when, x = self.clock(t), self.first(x)
        bridges = []
        for stage, lower in zip(self.down, [*self.lower, None], strict=True):
            x = stage(x, when)
            if lower is not None:
                bridges.append(x)
                x = lower(x)
        for stage, rise in zip(reversed(self.up), reversed(self.rise), strict=True):
            x = stage(rise(interpolate(x, scale_factor=2.0)) + bridges.pop(), when)
        return self.last(silu(x))


NETWORKS: dict[str, tuple[type[nn.Module], int]] = {
    "resnet": (ResNet, 8_000),
    "unet": (UNet, 8_000),
    "unet-early": (UNet, 2_500),
}
"""Class and steps. A UNet soon knows so few sprites by heart: the early one errs as much as the
ResNet.
"""


def train(name: str, clean: Tensor, *, seconds: float) -> dict[str, float]:
    """Learn for at most `seconds` and say how far it is; the same command goes on."""
    path = FOLDER / f"{name}.safetensors"
    torch.manual_seed(derive(0, "els", name))
    kind, steps = NETWORKS[name]
    network = kind().to(memory_format=torch.channels_last)
    weights = dict(network.named_parameters())
    mean = {key: each.detach().clone() for key, each in weights.items()}
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    first, seen = 0, 0.0
    if path.exists():
        first, seen = _load(path, weights, mean, optimiser)
    started, losses = time.perf_counter(), []
    step = first
    while step < steps and time.perf_counter() - started < seconds:
        draw = generator(0, "els", name, step)
        chosen = torch.randint(len(clean), (BATCH,), generator=draw)
        t = torch.rand(BATCH, generator=draw).clamp_min(1e-3)
        noise = torch.randn((BATCH, *clean.shape[1:]), generator=draw)
        ab = torch.cos(math.pi * t / (2 * 1.008)).square()[:, None, None, None]
        noisy = ab.sqrt() * clean[chosen] + (1 - ab).sqrt() * noise
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = network(noisy.to(memory_format=torch.channels_last), t)
        loss = (guess.float() - noise).square().mean()
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 200) * (1.0 - step / steps) ** 0.5
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        keep = min(KEEP, 1 - 10 / (step + 10))
        with torch.no_grad():
            for key, each in weights.items():
                mean[key].lerp_(each, 1 - keep)
        losses.append(float(loss.detach()))
    spent = time.perf_counter() - started
    if step > first:
        _save(path, weights, mean, optimiser, step, seen + spent)
    recent = losses[-500:]
    return {"steps": step, "loss": sum(recent) / max(1, len(recent)), "seconds": seen + spent}


def load(name: str) -> tuple[nn.Module, int, float]:
    """(the network with its averaged weights, steps learned, seconds)."""
    network = NETWORKS[name][0]()
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        state = {key: file.get_tensor(f"mean.{key}") for key, _ in network.named_parameters()}
        note = file.metadata()
    network.load_state_dict(state)
    return network.eval().requires_grad_(False), int(note["step"]), float(note["seconds"])


def trajectory(network: nn.Module, noise: Tensor, steps: int) -> list[tuple[float, Tensor, Tensor]]:
    """(t, phi, x0hat) at each DDIM step, and the picture last, at t = 0."""
    phi, found = noise, []
    for i in range(steps, 0, -1):
        t, ab, to = i / steps, alpha_bar(i / steps), alpha_bar((i - 1) / steps)
        with torch.inference_mode():
            eps = network(phi, torch.full((len(phi),), t))
        x0hat = (phi - math.sqrt(1 - ab) * eps) / math.sqrt(ab)
        found.append((t, phi, x0hat))
        phi = math.sqrt(to) * x0hat + math.sqrt(max(0.0, 1 - to)) * eps
    return [*found, (0.0, phi, phi)]


def _save(
    path: Path,
    weights: dict[str, nn.Parameter],
    mean: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"mean.{key}": each for key, each in mean.items()}
    for key, each in weights.items():
        state = optimiser.state[each]
        tensors[f"weight.{key}"] = each.detach()
        tensors[f"first.{key}"], tensors[f"second.{key}"] = state["exp_avg"], state["exp_avg_sq"]
    part = path.with_suffix(".part")
    tensors = {key: each.contiguous().clone() for key, each in tensors.items()}
    save_file(tensors, part, metadata={"step": str(step), "seconds": str(seconds)})
    part.replace(path)


def _load(
    path: Path,
    weights: dict[str, nn.Parameter],
    mean: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> tuple[int, float]:
    with safe_open(path, "pt") as file:
        note = file.metadata()
        step = int(note["step"])
        with torch.no_grad():
            for key, each in weights.items():
                each.copy_(file.get_tensor(f"weight.{key}"))
                mean[key].copy_(file.get_tensor(f"mean.{key}"))
                optimiser.state[each] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"first.{key}"),
                    "exp_avg_sq": file.get_tensor(f"second.{key}"),
                }
    return step, float(note["seconds"])
