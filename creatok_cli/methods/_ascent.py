"""Gradient steps on a few vectors, several restarts side by side, resumable to the same bytes.

The encoders share no variable, so each climbs on its own. Each restart is one row of every tensor,
and AdamW is elementwise, so restarts learn independently of each other, too. On CUDA one step is
captured as a graph and replayed.

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
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of each variable."""


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

    def losses(self, vectors: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(1 - mean capped cosine [r], whether all rows are capped [r])."""
        cosines = self.cosines(vectors, which)
        capped = (cosines.detach() >= self.theta).all(dim=-1)
        return 1.0 - cosines.clamp(max=self.theta).mean(dim=-1), capped


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Which rows a step sees, addressed by step: a resumed run draws the same."""

    sampling: Literal["full", "batch", "paper"]
    rows: int
    """Per step: pairs of `batch`, rows of `paper`."""
    group: int
    """Rows that belong together; `batch` draws them together."""
    seed: int

    def draw(self, index: int, count: int) -> Tensor | None:
        """Row numbers of step `index` out of `count`; None for all of them."""
        if self.sampling == "full":
            return None
        if self.sampling == "paper":
            dice = generator(self.seed, "rows", index)
            return torch.randint(count, (self.rows,), generator=dice)
        pairs = count // self.group
        size = min(self.rows, pairs)
        turn, place = divmod(index, pairs // size)
        order = torch.randperm(pairs, generator=generator(self.seed, "pairs", turn))
        chosen = order[place * size : (place + 1) * size]
        return (chosen[:, None] * self.group + torch.arange(self.group)).flatten()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The learning rate of each step: a cosine from `lr` to 0 over `steps`."""

    lr: float
    steps: int

    def rate(self, index: int) -> float:
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * index / self.steps))


class Climb:
    """The vectors of one encoder on their way."""

    def __init__(
        self, goal: Goal, start: Tensor, *, draws: Draws, pace: Pace, length: float | None
    ) -> None:
        """`start` [r n d]; `length` keeps vectors that long."""
        self.goal, self._draws, self._pace, self._length = goal, draws, pace, length
        self.leaf = start.detach().clone().requires_grad_(True)
        device, restarts = start.device, start.shape[0]
        self._on_cuda = device.type == "cuda"
        rate = torch.tensor(pace.lr, device=device) if self._on_cuda else pace.lr
        self._optimiser = torch.optim.AdamW(
            [self.leaf],
            lr=rate,
            weight_decay=0.0,
            capturable=self._on_cuda,
            fused=self._on_cuda,
        )
        drawn = draws.draw(0, goal.rows.shape[0])
        self._drawn = None if drawn is None else drawn.to(device)
        self.loss = torch.zeros(restarts, device=device)
        self.held = torch.zeros(restarts, dtype=torch.int64, device=device)
        self._first = self.vectors.clone()
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def vectors(self) -> Tensor:
        """[r n d] as they are now."""
        return self.leaf.detach()

    def advance(self, first: int, count: int) -> None:
        """Take the steps `first` to `first + count - 1`."""
        (group,) = self._optimiser.param_groups
        for index in range(first, first + count):
            drawn = self._draws.draw(index, self.goal.rows.shape[0])
            if drawn is not None and self._drawn is not None:
                self._drawn.copy_(drawn)
            if self._on_cuda:
                group["lr"].fill_(self._pace.rate(index))
                self._replay(index)
            else:
                group["lr"] = self._pace.rate(index)
                self._step()

    def _step(self) -> None:
        """Forward, backward, AdamW; and remember where all rows first were capped."""
        losses, capped = self.goal.losses(self.leaf, self._drawn)
        (self.leaf.grad,) = torch.autograd.grad(losses.sum(), self.leaf)
        self.loss.copy_(losses.detach())
        if self._drawn is None:
            # Adam's momentum moves on after the gradient has died: the first capped vectors count.
            fresh = capped & (self.held == 0)
            self.held.copy_(torch.where(capped, self.held + 1, 0))
            self._first.copy_(torch.where(fresh[:, None, None], self.vectors, self._first))
        self._optimiser.step()
        if self._length is not None:
            with torch.no_grad():
                self.leaf.copy_(functional.normalize(self.leaf, dim=-1) * self._length)

    def _replay(self, index: int) -> None:
        """One step on CUDA: captured once, then replayed."""
        if self._graph is None:
            before = self.state()
            stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step()
            self.restore(before, index)
        self._graph.replay()

    def hold(self) -> None:
        """What `_step` does where it sees all rows, for runs that do not: capped here, for good."""
        self._first.copy_(self.vectors)
        self.held.fill_(HOLD_STEPS)

    def result(self) -> Tensor:
        """[r n d]: where a restart was first capped if it has stayed so, else where it stands."""
        is_held = (self.held >= HOLD_STEPS)[:, None, None]
        return torch.where(is_held, self._first, self.vectors)

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs, on the host."""
        own = self._optimiser.state.get(self.leaf, {})
        moments = {part: own.get(part, torch.zeros_like(self.vectors)) for part in MOMENTS}
        found = {"vectors": self.vectors, "first": self._first, "held": self.held}
        found |= {"loss": self.loss, **moments}
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    def restore(self, state: Mapping[str, Tensor], index: int) -> None:
        """Go on from a `state` after `index` steps."""
        own = self._optimiser.state[self.leaf]
        with torch.no_grad():
            self.leaf.copy_(state["vectors"])
            self._first.copy_(state["first"])
            self.held.copy_(state["held"])
            self.loss.copy_(state["loss"])
            if not own:
                where = self.leaf.device if self._on_cuda else "cpu"
                own["step"] = torch.zeros((), device=where)
                own |= {part: torch.zeros_like(self.vectors) for part in MOMENTS}
            own["step"].fill_(float(index))
            for part in MOMENTS:
                own[part].copy_(state[part])


class Ascent:
    """All encoders on their way, and what is remembered of it."""

    def __init__(self, climbs: Mapping[str, Climb], steps: int) -> None:
        self._climbs, self._steps = dict(climbs), steps
        self.index = 0
        self._best = self._earlier = -math.inf
        self._marks: list[list[float]] = []
        self.ended: Literal["", "capped", "plateau"] = ""

    @property
    def loss(self) -> float:
        """Loss of the last step, mean over encoders and restarts."""
        return float(self._mean([climb.loss for climb in self._climbs.values()]).mean())

    def _mean(self, parts: list[Tensor]) -> Tensor:
        return torch.stack([part.detach().cpu() for part in parts]).mean(dim=0)

    def vectors(self) -> dict[str, Tensor]:
        """[r n d] as they are now."""
        return {name: climb.vectors for name, climb in self._climbs.items()}

    def _over_all(self) -> tuple[Tensor, bool]:
        """(loss over all rows [r], whether every row is capped for every restart)."""
        with torch.no_grad():
            found = [climb.goal.losses(climb.leaf) for climb in self._climbs.values()]
        return self._mean([loss for loss, _ in found]), all(bool(each.all()) for _, each in found)

    def is_dead(self) -> bool:
        """Whether no row is below its cap: nothing can be learned."""
        return self._over_all()[1]

    def advance(self, count: int) -> None:
        """Take `count` optimiser steps with each encoder."""
        for climb in self._climbs.values():
            climb.advance(self.index, count)
        self.index += count

    def record(self, every: int) -> None:
        """Remember the numbers of this step; J over all rows is measured `every` so many steps
        where a step does not see all rows anyway.
        """
        climbs = list(self._climbs.values())
        if climbs[0]._drawn is None:
            self._best = 1.0 - float(self._mean([climb.loss for climb in climbs]).min())
        elif not self._marks or self.index % every == 0 or self.index == self._steps:
            self._best = 1.0 - float(self._over_all()[0].min())
        lengths = [float(climb.vectors.norm(dim=-1)[0].mean()) for climb in climbs]
        self._marks.append([float(self.index), self.loss, self._best, *lengths])

    def values(self) -> dict[str, float]:
        """The numbers last recorded, by name; at the start J and lengths only."""
        if self._marks:
            return {name: column[-1] for name, column in self.curves().items() if name != "step"}
        lengths = {
            f"norm/{name}": float(rows.norm(dim=-1)[0].mean())
            for name, rows in self.vectors().items()
        }
        return {"J": 1.0 - float(self._over_all()[0].min())} | lengths

    def curves(self) -> dict[str, list[float]]:
        """Columns of what `record` remembered."""
        names = ["step", "loss", "J", *(f"norm/{name}" for name in self._climbs)]
        return {name: [mark[at] for mark in self._marks] for at, name in enumerate(names)}

    def judge(self, window: int) -> None:
        """Set `ended`: `capped` when every restart has been capped for a while, `plateau` when J
        has stood still over `window` steps.
        """
        climbs, is_checked = list(self._climbs.values()), self.index % window == 0
        if climbs[0]._drawn is None:
            if all(bool((climb.held >= HOLD_STEPS).all()) for climb in climbs):
                self.ended = "capped"
        elif is_checked and self._over_all()[1]:
            for climb in climbs:
                climb.hold()
            self.ended = "capped"
        if is_checked and not self.ended:
            if self._best - self._earlier < PLATEAU_GAIN:
                self.ended = "plateau"
            self._earlier = self._best

    def result(self) -> dict[str, Tensor]:
        """[r n d] per encoder; see `Climb.result`."""
        return {name: climb.result() for name, climb in self._climbs.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything from which `restore` goes on to the same end, on the host."""
        numbers = [float(self.index), self._best, self._earlier, float(ENDS.index(self.ended))]
        found = {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "marks": torch.tensor(self._marks, dtype=torch.float64),
        }
        for name, climb in self._climbs.items():
            found |= {f"{part}/{name}": tensor for part, tensor in climb.state().items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`. Raises KeyError or RuntimeError for a state of another run."""
        index, self._best, self._earlier, ended = state["numbers"].tolist()
        self.index, self.ended = int(index), ENDS[int(ended)]
        self._marks = state["marks"].tolist()
        for name, climb in self._climbs.items():
            parts = {
                key.removesuffix(f"/{name}"): tensor
                for key, tensor in state.items()
                if key.endswith(f"/{name}")
            }
            climb.restore(parts, self.index)
