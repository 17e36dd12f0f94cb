"""Counts towards a token: a method of a few lines that opens nothing, for tests of the workflow.

Each step moves a vector by a draw that follows from seed and step, so any resume must end with the
same bytes. `theta` "dead" finds nothing to learn, `lr` above 5 diverges half-way.

Does not: read pairs, or touch the base.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from creatok_cli.errors import MethodDiverged
from creatok_cli.methods.base import Artefact, Brief, Run, Step
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import Token

NEEDS = ("text",)
VERBS = ("learn",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Like those of cretok, as far as the workflow looks at them."""

    word: str = "creative"
    name: str = "counted"
    restrictive: str = "a {a} {b}"
    template: str = "a photo of a {word} mixture that resembles a {a} and a {b}"
    steps: int = 20
    lr: float = 0.01
    theta: str = "auto"
    encoders: tuple[str, ...] = ()
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1_000_000:
            raise ValueError("steps must be from 1 to 1,000,000")


def build(spec: Spec) -> Counter:
    """The method."""
    return Counter(spec)


class Counter:
    """Moves vectors by derived draws."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def run(self, backbone: Any, brief: Brief, *, seed: int) -> Run:
        spec, widths = self.spec, dict(backbone.facts.encoders)
        start = {
            name: torch.randn(1, width, generator=generator(seed, name)) * 0.02
            for name, width in widths.items()
        }
        rows, first = {name: each.clone() for name, each in start.items()}, 0
        marks: list[float] = []
        if brief.resume is not None:
            first = int(brief.resume["index"])
            rows = {name: brief.resume[name].clone() for name in widths}
            marks = brief.resume["marks"].tolist()
        ended, index = "dead" if spec.theta == "dead" else "done", first
        feedback = yield self._step(index, rows, marks, ("counting begins",))
        while index < spec.steps and ended != "dead":
            if feedback is not None and feedback.stop:
                ended = "stopped"
                yield self._step(index, rows, marks)
                break
            if spec.lr > 5 and index >= spec.steps // 2:
                raise MethodDiverged(f"step {index}: the loss is not finite")
            time.sleep(spec.pause_s)
            for name, each in rows.items():
                noise = torch.randn(each.shape, generator=generator(seed, name, index))
                each.add_(noise, alpha=spec.lr)
            index += 1
            marks.append(1.0 / index)
            feedback = yield self._step(index, rows, marks)
        recipe = {"method": "counter", "spec": plain(asdict(spec)), "seed": seed, "steps": index}
        facts: dict[str, Any] = {
            "curves": {"step": list(range(1, len(marks) + 1)), "loss": marks, "J": marks[::-1]},
            "theta": {name: {"theta": 0.5} for name in widths},
            "held_out": {
                group: {name: {"before": [0.1, 0.2, 0.3], "after": [0.4, 0.5]} for name in widths}
                for group in brief.pairs.held_out
            }
            if brief.pairs
            else {},
            "neighbours": {name: [["pig", 0.4], ["<odd> & $x$", -0.1]] for name in widths},
        }
        return Artefact(
            token=Token(f"<{spec.name}>", spec.word, rows, recipe),
            initial=Token(f"<{spec.name}>", spec.word, start, {**recipe, "steps": 0}),
            ended=ended,
            steps=index,
            facts=facts,
        )

    def _step(
        self, index: int, rows: Any, marks: list[float], notices: tuple[str, ...] = ()
    ) -> Step:
        checkpoint = {name: each.clone() for name, each in rows.items()}
        checkpoint |= {"index": torch.tensor(index), "marks": torch.tensor(marks).double()}
        return Step(
            index=index,
            total=self.spec.steps,
            values={"loss": 1.0 / (index + 1), "J": index / self.spec.steps},
            notices=notices,
            checkpoint=checkpoint,
        )


def plain(value: Any) -> Any:
    """Tuples as lists, so that a recipe is plain JSON."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    return [plain(member) for member in value] if isinstance(value, list | tuple) else value
