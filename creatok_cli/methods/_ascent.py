"""Gradient steps on a few vectors, several restarts side by side, resumable to the same bytes.

Each restart is one row of every tensor. AdamW is elementwise, so rows learn independently of each
other. On CUDA one step is captured as a graph and replayed; elsewhere it runs eagerly.

Does not: know words, pairs or encoders by meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional

from creatok_cli.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import PooledMap

HOLD_STEPS = 50
"""All rows capped for so long end a run (methods notes, C9)."""
PLATEAU_GAIN = 1e-5
ENDS: tuple[Literal["", "capped", "plateau"], ...] = ("", "capped", "plateau")
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Goal:
    """What one encoder climbs: mean_i min(cos_i, theta)."""

    embed: PooledMap
    """Of the adaptive prompts: one for all rows, or one per row."""
    rows: Tensor
    """[m d'] unit rows."""
    theta: float
    is_paired: bool = False
    """Whether row i has an adaptive prompt of its own."""

    def cosines(self, vectors: Tensor, which: Tensor | None = None) -> Tensor:
        """[r n d] -> [r m]: each adaptive prompt against its rows, `which` [m] of them."""
        rows = self.rows if which is None else self.rows[which]
        if self.is_paired:
            states = functional.normalize(self.embed(vectors, which).float(), dim=-1)
            return (states * rows).sum(dim=-1)
        states = functional.normalize(self.embed(vectors)[:, 0].float(), dim=-1)
        return states @ rows.T


class Ascent:
    """The variables, their optimiser and what is remembered of the way."""

    def __init__(
        self,
        goals: Mapping[str, Goal],
        starts: Mapping[str, Tensor],
        *,
        lengths: Mapping[str, float] | None,
        sampling: Literal["full", "batch", "paper"],
        rows: int,
        group: int,
        lr: float,
        steps: int,
        seed: int,
    ) -> None:
        """`starts` [r n d]; `lengths` keeps vectors at these lengths; `group` rows that belong
        together are drawn together by `batch`.
        """
        self._goals, self._lengths = dict(goals), lengths
        self._sampling, self._rows, self._group = sampling, rows, group
        self._lr, self._steps, self._seed = lr, steps, seed
        self._vectors = {name: rows.detach().clone() for name, rows in starts.items()}
        any_rows = next(iter(self._vectors.values()))
        self._restarts, self._device = any_rows.shape[0], any_rows.device
        self._leaves = [self._vectors[name].requires_grad_(True) for name in self._vectors]
        self._on_cuda = self._device.type == "cuda"
        rate: float | Tensor = torch.tensor(lr, device=self._device) if self._on_cuda else lr
        self._optimiser = torch.optim.AdamW(
            self._leaves,
            lr=rate,
            weight_decay=0.0,
            capturable=self._on_cuda,
            fused=self._on_cuda,
        )
        count = next(iter(goals.values())).rows.shape[0]
        self._count = count
        drawn = {"full": count, "batch": min(rows * group, count), "paper": rows}[sampling]
        self._drawn = torch.arange(drawn, device=self._device)
        self._loss = torch.zeros(self._restarts, device=self._device)
        self._held = torch.zeros(self._restarts, dtype=torch.int64, device=self._device)
        self._first = {name: rows.detach().clone() for name, rows in self._vectors.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        self.index = 0
        self._best = -math.inf
        self._marks: list[list[float]] = []
        self._earlier = -math.inf
        self.ended: Literal["", "capped", "plateau"] = ""

    @property
    def loss(self) -> float:
        """Loss of the last step, mean over restarts."""
        return float(self._loss.mean())

    def vectors(self) -> dict[str, Tensor]:
        """[r n d] as they are now."""
        return {name: rows.detach() for name, rows in self._vectors.items()}

    def is_dead(self) -> bool:
        """Whether no row of any goal is below its cap, for any restart."""
        return bool(self._over_all()[1].all())

    # Steps

    def advance(self, count: int) -> None:
        """Take `count` optimiser steps."""
        for _ in range(count):
            rate = self._lr * 0.5 * (1.0 + math.cos(math.pi * self.index / self._steps))
            self._draw()
            for group in self._optimiser.param_groups:
                if self._on_cuda:
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            if self._on_cuda:
                self._replay()
            else:
                self._step()
            self.index += 1

    def _step(self) -> None:
        """Forward, backward, AdamW; then remember where every row first was capped."""
        losses, capped = self._losses()
        grads = torch.autograd.grad(losses.sum(), self._leaves)
        self._loss.copy_(losses.detach())
        if self._sampling == "full":
            # Adam's momentum moves on after the gradient has died: the first capped vectors count.
            fresh = capped & (self._held == 0)
            self._held.copy_(torch.where(capped, self._held + 1, 0))
            for name, rows in self._vectors.items():
                kept = torch.where(fresh[:, None, None], rows.detach(), self._first[name])
                self._first[name].copy_(kept)
        for leaf, grad in zip(self._leaves, grads, strict=True):
            leaf.grad = grad
        self._optimiser.step()
        if self._lengths is not None:
            with torch.no_grad():
                for name, rows in self._vectors.items():
                    rows.copy_(functional.normalize(rows, dim=-1) * self._lengths[name])

    def _losses(self) -> tuple[Tensor, Tensor]:
        """(loss [r], whether all drawn rows are capped [r])."""
        losses: Tensor | None = None
        capped: Tensor | None = None
        for name, goal in self._goals.items():
            which = None if self._sampling == "full" else self._drawn
            cosines = goal.cosines(self._vectors[name], which)
            loss = 1.0 - cosines.clamp(max=goal.theta).mean(dim=-1)
            above = (cosines.detach() >= goal.theta).all(dim=-1)
            losses = loss if losses is None else losses + loss
            capped = above if capped is None else capped & above
        assert losses is not None
        assert capped is not None
        return losses / len(self._goals), capped

    def _draw(self) -> None:
        """Which rows this step sees; addressed by step, so a resumed run draws the same."""
        if self._sampling == "full":
            return
        if self._sampling == "paper":
            dice = generator(self._seed, "rows", self.index)
            found = torch.randint(self._count, self._drawn.shape, generator=dice)
        else:
            pairs = self._count // self._group
            size = min(self._rows, pairs)
            per_round = pairs // size
            dice = generator(self._seed, "pairs", self.index // per_round)
            order = torch.randperm(pairs, generator=dice)
            place = self.index % per_round
            chosen = order[place * size : (place + 1) * size]
            found = (chosen[:, None] * self._group + torch.arange(self._group)).flatten()
        self._drawn.copy_(found)

    def _replay(self) -> None:
        """One step on CUDA: captured once, then replayed."""
        if self._graph is None:
            before = {name: each.clone() for name, each in self.state().items()}
            stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step()
            self.restore(before)
        self._graph.replay()

    # Memory

    def _over_all(self) -> tuple[Tensor, Tensor]:
        """`_losses` over all rows, whatever a step draws."""
        sampling, self._sampling = self._sampling, "full"
        try:
            with torch.no_grad():
                return self._losses()
        finally:
            self._sampling = sampling

    def objective(self) -> Tensor:
        """J [r] over all rows, mean over goals."""
        return 1.0 - self._over_all()[0]

    def record(self, every: int) -> None:
        """Remember the numbers of this step; J over all rows is measured `every` so many steps
        where a step does not see all rows anyway.
        """
        if self._sampling == "full":
            self._best = 1.0 - float(self._loss.min())
        elif not self._marks or self.index % every == 0 or self.index == self._steps:
            self._best = float(self.objective().max())
        lengths = [float(rows.norm(dim=-1)[0].mean()) for rows in self.vectors().values()]
        self._marks.append([float(self.index), self.loss, self._best, *lengths])

    def values(self) -> dict[str, float]:
        """The numbers last recorded, by name; at the start J and lengths only."""
        if self._marks:
            return {name: column[-1] for name, column in self.curves().items() if name != "step"}
        lengths = {
            f"norm/{name}": float(rows.norm(dim=-1)[0].mean())
            for name, rows in self.vectors().items()
        }
        return {"J": float(self.objective().max())} | lengths

    def curves(self) -> dict[str, list[float]]:
        """Columns of what `record` remembered."""
        names = ["step", "loss", "J", *(f"norm/{name}" for name in self._vectors)]
        return {name: [mark[at] for mark in self._marks] for at, name in enumerate(names)}

    def judge(self, window: int) -> None:
        """Set `ended`: `capped` when every restart has been capped for a while, `plateau` when J
        has stood still over `window` steps.
        """
        is_checked = self.index % window == 0
        if self._sampling == "full":
            if bool((self._held >= HOLD_STEPS).all()):
                self.ended = "capped"
        elif is_checked and bool(self._over_all()[1].all()):
            for name, rows in self.vectors().items():
                self._first[name].copy_(rows)
            self._held.fill_(HOLD_STEPS)
            self.ended = "capped"
        if is_checked and not self.ended:
            if self._best - self._earlier < PLATEAU_GAIN:
                self.ended = "plateau"
            self._earlier = self._best

    def result(self) -> dict[str, Tensor]:
        """[r n d]: where a restart was first capped if it still is, else where it stands."""
        is_held = (self._held >= HOLD_STEPS)[:, None, None]
        return {
            name: torch.where(is_held, self._first[name], rows)
            for name, rows in self.vectors().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Everything from which `restore` goes on to the same end, on the host."""
        found = {"index": torch.tensor(self.index), "held": self._held.cpu().clone()}
        found["loss"] = self._loss.cpu().clone()
        found["marks"] = torch.tensor(self._marks, dtype=torch.float64)
        found["earlier"] = torch.tensor(self._earlier, dtype=torch.float64)
        found["ended"] = torch.tensor(ENDS.index(self.ended))
        for name, leaf in zip(self._vectors, self._leaves, strict=True):
            own = self._optimiser.state.get(leaf, {})
            found[f"vectors/{name}"] = leaf.detach().cpu().clone()
            found[f"first/{name}"] = self._first[name].cpu().clone()
            for part in ("exp_avg", "exp_avg_sq"):
                zeros = torch.zeros_like(leaf, memory_format=torch.preserve_format)
                found[f"{part}/{name}"] = own.get(part, zeros).detach().cpu().clone()
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`. Raises KeyError or RuntimeError for a state of another run."""
        self.index = int(state["index"])
        self._held.copy_(state["held"])
        self._loss.copy_(state["loss"])
        self._marks = state["marks"].tolist()
        self._best = self._marks[-1][2] if self._marks else -math.inf
        self._earlier = float(state["earlier"])
        self.ended = ENDS[int(state["ended"])]
        with torch.no_grad():
            for name, leaf in zip(self._vectors, self._leaves, strict=True):
                leaf.copy_(state[f"vectors/{name}"])
                self._first[name].copy_(state[f"first/{name}"])
                own = self._optimiser.state[leaf]
                where = leaf.device if self._on_cuda else "cpu"
                if "step" in own:
                    own["step"].fill_(float(self.index))
                else:
                    own["step"] = torch.tensor(float(self.index), device=where)
                for part in ("exp_avg", "exp_avg_sq"):
                    if part in own:
                        own[part].copy_(state[f"{part}/{name}"])
                    else:
                        own[part] = state[f"{part}/{name}"].to(leaf.device).clone()
