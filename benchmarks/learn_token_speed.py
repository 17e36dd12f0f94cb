"""One CreTok step at the real size of CLIP-L, random weights, against common loops (T9, T10).

    python benchmarks/learn_token_speed.py [--repeats 5] [--device cpu] [--encoders l|lg]

Sides, alternating in one process:
- TI: a textual-inversion loop. One pair; adaptive and restrictive prompt of 77 positions encoded
  in every step; AdamW over the whole embedding table, of which all rows but one are put back.
- paper: the same with 16 pairs in both orders accumulated per step, one at a time.
- ours: learn-token's own step over all 400 phrases of the bestiary list, in fp32 and bf16.
Beside the times stands how far one gradient of ours is from the slow one.

Does not: measure what is learned (`cretok.py` does); random weights are enough for speed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _report import machine, write
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from creatok_cli.backbones import bestiary
from creatok_cli.backbones._clip import ClipTower, ClipWords
from creatok_cli.concepts.sets import load_pairs
from creatok_cli.methods._ascent import Ascent, Climb, Draws, Goal, Pace
from creatok_cli.methods._cretok import phrases
from creatok_cli.methods._units import unit
from creatok_cli.methods.cretok import Spec

SIZES = {
    "clip_l": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "clip_g": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20},
}
"""CLIP ViT-L/14 and OpenCLIP bigG text towers, as in SDXL and SD3."""
WORD, PAPER_PAIRS = "<cretok>", 16


def tower_of(name: str, device: str, dtype: torch.dtype) -> ClipTower:
    """A tower of the real size with random weights, and the small tokenizer of the bestiary."""
    folder = Path(bestiary.__file__).parent / "weights" / "tokenizer"
    words = ClipWords(name, CLIPTokenizer.from_pretrained(folder, model_max_length=77), 77)
    width = SIZES[name]["hidden_size"]
    config = CLIPTextConfig(
        **SIZES[name],
        vocab_size=49408,
        intermediate_size=4 * width,
        projection_dim=width,
        max_position_embeddings=77,
        hidden_act="quick_gelu" if name == "clip_l" else "gelu",
        bos_token_id=words.bos,
        eos_token_id=words.eos,
        pad_token_id=words.pad,
    )
    torch.manual_seed(0)
    return ClipTower(words, CLIPTextModelWithProjection(config).to(device, dtype))


class SlowLoop:
    """What a person writes first: the whole table, full length, everything encoded again."""

    def __init__(self, tower: ClipTower, spec: Spec, prompts: list[str]) -> None:
        self.tower, self.prompts = tower, prompts
        self.adaptive = spec.adaptive.replace("{word}", WORD)
        weight = tower._text.embeddings.token_embedding.weight.detach()
        self.table = torch.cat([weight, tower.rows(spec.word).to(weight)]).requires_grad_(True)
        self.frozen = weight.clone()
        self.optimiser = torch.optim.AdamW([self.table], lr=spec.lr, weight_decay=0.0)

    def _pooled(self, prompt: str) -> torch.Tensor:
        laid = self.tower.words.lay_out_counts(prompt, {WORD: 1})
        ids = torch.tensor([list(laid.ids)], device=self.table.device)
        for place, _, _ in laid.holes:
            ids[0, place] = self.table.shape[0] - 1
        rows = functional.embedding(ids, self.table)
        embedded = self.tower._text.embeddings(inputs_embeds=rows)
        return unit(self.tower.run(embedded, [laid.eos]).pooled)

    def loss(self, prompt: str) -> torch.Tensor:
        return 1 - (self._pooled(self.adaptive) * self._pooled(prompt)).sum()

    def step(self, first: int, count: int) -> None:
        self.optimiser.zero_grad()
        for index in range(first, first + count):
            (self.loss(self.prompts[index % len(self.prompts)]) / count).backward()
        self.optimiser.step()
        with torch.no_grad():
            self.table[:-1] = self.frozen


def fast_loop(towers: list[ClipTower], spec: Spec, prompts: list[str]) -> Ascent:
    """learn-token's own steps on these towers."""
    draws = Draws(sampling="full", rows=1, group=2, seed=0)
    climbs = {}
    for tower in towers:
        with torch.no_grad():
            parts = [tower.pooled(prompts[at : at + 8], ()) for at in range(0, len(prompts), 8)]
        adaptive = spec.adaptive.replace("{word}", WORD)
        goal = Goal(tower.pooled_map([adaptive], WORD, 1), unit(torch.cat(parts)), 1.0)
        pace = Pace(lr=spec.lr, steps=10_000)
        start = tower.rows(spec.word)[None]
        climbs[tower.words.name] = Climb(goal, start, draws=draws, pace=pace, length=None)
    return Ascent(climbs, 10_000)


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall time of one call, the device idle at both ends."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def floor_s(towers: list[ClipTower], steps: int) -> float:
    """Seconds of `steps` steps if nothing but reading the weights took time, once forwards and once
    back: their bytes over what a plain copy on the device reaches (T10).
    """
    bulk = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(bulk)
    span = min(seconds(lambda: other.copy_(bulk), "cuda") for _ in range(10))
    layers = [tower._text.encoder for tower in towers]
    size = sum(p.numel() * p.element_size() for each in layers for p in each.parameters())
    return steps * 2 * size / (2 * bulk.numel() / span)


def gradient_error(tower: ClipTower, spec: Spec, prompt: str) -> float:
    """Relative distance of our gradient for one phrase from the slow loop's."""
    slow = SlowLoop(tower, spec, [prompt])
    expected = torch.autograd.grad(slow.loss(prompt), slow.table)[0][-1]
    climb = fast_loop([tower], spec, [prompt])._climbs[tower.words.name]
    losses, _ = climb.goal.losses(climb.leaf)
    found = torch.autograd.grad(losses.sum(), climb.leaf)[0].flatten()
    return float((found - expected).norm() / expected.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoders", choices=("l", "lg"), default="l")
    parser.add_argument("--steps", type=int, default=10, help="steps of ours per repeat")
    args = parser.parse_args()
    spec, pairs = Spec(), load_pairs("bestiary")
    prompts = phrases(spec, pairs, pairs.train)
    names = ["clip_l"] if args.encoders == "l" else ["clip_l", "clip_g"]
    before = machine(torch.get_num_threads())
    full = [tower_of(name, args.device, torch.float32) for name in names]
    error = max(gradient_error(tower, spec, prompts[0]) for tower in full)
    slow = [SlowLoop(tower, spec, prompts) for tower in full]
    half = [tower_of(name, args.device, torch.bfloat16) for name in names]
    ours = {"fp32": fast_loop(full, spec, prompts), "bf16": fast_loop(half, spec, prompts)}
    spans: dict[str, list[float]] = {}
    for repeat in range(args.repeats + 1):  # the first one warms up
        for loop in slow:
            loop.step(repeat, 1)
        sides = {
            "TI": lambda repeat=repeat: [loop.step(repeat, 1) for loop in slow],
            "ours-fp32": lambda: ours["fp32"].advance(args.steps),
            "ours-bf16": lambda: ours["bf16"].advance(args.steps),
        }
        if repeat == 1:
            sides["paper"] = lambda: [loop.step(0, 2 * PAPER_PAIRS) for loop in slow]
        for side, work in sides.items():
            span = seconds(work, args.device) / (args.steps if side.startswith("ours") else 1)
            if repeat:
                spans.setdefault(side, []).append(span)
    best = {side: min(each) for side, each in spans.items()}
    report: dict[str, Any] = {
        "benchmark": "learn-token-speed",
        "encoders": names,
        "device": torch.cuda.get_device_name() if args.device != "cpu" else "cpu",
        "ms_per_step_best": {side: round(1e3 * span, 2) for side, span in best.items()},
        "ms_per_step_median": {
            side: round(1e3 * statistics.median(each), 2) for side, each in spans.items()
        },
        "T9_TI_over_fp32": round(best["TI"] / best["ours-fp32"], 1),
        "T9_TI_over_bf16": round(best["TI"] / best["ours-bf16"], 1),
        "paper_over_fp32": round(best["paper"] / best["ours-fp32"], 1),
        "paper_over_bf16": round(best["paper"] / best["ours-bf16"], 1),
        "ours_10000_steps_s": {
            dtype: round(10_000 * best[f"ours-{dtype}"], 1) for dtype in ("fp32", "bf16")
        },
        "gradient_relative_error": float(f"{error:.2g}"),
        "machine_before": before,
        "machine_after": machine(torch.get_num_threads()),
    }
    if args.device.startswith("cuda"):
        floor = floor_s(half, 10_000)
        report["floor_10000_steps_bf16_s"] = round(floor, 1)
        report["T10_bf16_over_floor"] = round(10_000 * best["ours-bf16"] / floor, 1)
        report["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    assert math.isfinite(error)
    name = "cpu" if args.device == "cpu" else "gpu"
    write(f"learn-token-speed-{name}-{args.encoders}", report)


if __name__ == "__main__":
    main()
