"""Wanders off from a word: a search of a few lines that asks yes or no, for tests of explorations.

Each step moves a row by a draw that follows from seed and step; now and then a picture of the word
is shown, and the validator's answer moves the row, too: so any resume must give the same answers
and end with the same bytes. `lr` above 5 diverges half-way.

Does not: look for anything.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from creatok_cli.domain import Job
from creatok_cli.errors import MethodDiverged
from creatok_cli.methods.base import Artefact, Brief, Quest, Run, Step
from creatok_cli.seeds import derive, generator
from creatok_cli.tokens.token import Token

NEEDS = ("text", "image", "labels")
VERBS = ("explore",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Knobs."""

    steps: int = 4
    check_every: int = 2
    rarity: float = 0.99
    lr: float = 0.05
    plain: int = 12
    """Rows that `prepare` makes."""
    pause_s: float = 0.0
    finds: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1_000_000:
            raise ValueError("steps must be from 1 to 1,000,000")
        if not 0.05 <= self.rarity < 1:
            raise ValueError("rarity must be from 0.05 to 0.999999")


def build(spec: Spec) -> Wander:
    """The method."""
    return Wander(spec)


def prepare(
    spec: Spec, backbone: Any, quest: Quest, *, seed: int
) -> Generator[Step, None, Mapping[str, torch.Tensor]]:
    """Rows around nothing."""
    for index in range(3):
        yield Step(index=index, total=3, values={"plain": float(index)})
    return {"plain": torch.randn(spec.plain, 2, generator=generator(seed, quest.prompt))}


def prepared_facts(spec: Spec, quest: Quest) -> dict[str, Any]:
    """What they follow from."""
    return {"plain": spec.plain, "prompt": quest.prompt}


class Wander:
    """Moves a row by derived draws and by answers."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def run(self, backbone: Any, brief: Brief, *, seed: int) -> Run:
        spec, quest = self.spec, brief.quest
        assert quest is not None
        assert quest.prepared is not None
        rows = {name: each.mean(0) for name, each in backbone.text.rows("creature").items()}
        checks: list[list[float]] = []
        index = 0
        if brief.resume is not None:
            index = int(brief.resume["index"])
            rows = {name: brief.resume[f"row/{name}"].clone() for name in rows}
            checks = brief.resume["checks"].tolist()
        feedback = yield self._step(index, rows, checks)
        ended = "done"
        while index < spec.steps:
            if feedback is not None and feedback.stop:
                ended = "stopped"
                yield self._step(index, rows, checks)
                break
            if spec.lr > 5 and index >= spec.steps // 2:
                raise MethodDiverged(f"step {index}: the loss is not finite")
            if index % spec.check_every == 0 and index not in [int(each[0]) for each in checks]:
                step = self._ask(backbone.facts, quest, index, rows, checks, seed)
                feedback = yield step
                if feedback is not None and feedback.stop:
                    continue
                p_yes = dict(feedback.labels[0].probabilities)["yes"]
                rows = {name: row + 0.01 * p_yes for name, row in rows.items()}
                checks.append([float(index), p_yes, step.values["rarity"]])
            time.sleep(spec.pause_s)
            rows = {
                name: row + spec.lr * torch.randn(len(row), generator=generator(seed, index, name))
                for name, row in rows.items()
            }
            index += 1
            feedback = yield self._step(index, rows, checks)
        if not spec.finds:
            return Artefact(ended="pulled back", steps=index)
        token = self._token(rows, quest, seed)
        facts = self._facts(quest, checks)
        return Artefact(token=token, ended=ended, steps=index, facts=facts)

    def _facts(self, quest: Quest, checks: list[list[float]]) -> dict[str, Any]:
        assert quest.prepared is not None
        return {
            "checks": [
                {"index": int(at), "yes": p, "rarity": rare, "is_accepted": p > 0.3}
                for at, p, rare in checks
            ],
            "cloud": {
                "baseline": quest.prepared["plain"].tolist(),
                "path": [[0.1 * at, 0.2 * rare] for at, _, rare in checks],
                "finals": [[1.0, 1.0], [1.2, 0.8]],
            },
            "rarity": 0.985,
        }

    def _token(self, rows: Any, quest: Quest, seed: int) -> Token:
        vectors = {name: row[None].clone().float() for name, row in rows.items()}
        recipe = {
            "kind": "token",
            "method": "wander",
            "spec": asdict(self.spec),
            "seed": seed,
            "template": quest.prompt.replace(quest.subject, "{word}"),
        }
        return Token("<wander>", quest.subject, vectors, recipe)

    def _ask(self, facts: Any, quest: Quest, index: int, rows: Any, checks: Any, seed: int) -> Step:
        token = self._token(rows, quest, seed)
        job = Job(
            base_digest=facts.digest,
            base=facts.name,
            prompt=quest.prompt.replace(quest.subject, token.word),
            seed=derive(seed, "picture"),
            size_px=facts.size_px,
            steps=1,
            guidance=1.0,
            scheduler=facts.schedulers[0],
            dtype="fp32",
            tokens=((token.word, token.id),),
        )
        plain = self._step(index, rows, checks)
        return Step(
            index=index,
            total=plain.total,
            values={"rarity": 0.5 + 0.4 * index / self.spec.steps, "cosine": 0.3 - 0.01 * index},
            checkpoint=plain.checkpoint,
            tokens=(token,),
            proposals=(job,),
            classes=("yes", "no"),
            question=f"Is this a photo of a {quest.subject}?",
        )

    def _step(self, index: int, rows: Any, checks: Any) -> Step:
        kept = {f"row/{name}": row.clone() for name, row in rows.items()}
        told = torch.tensor(checks, dtype=torch.float64).reshape(-1, 3)
        return Step(
            index=index,
            total=self.spec.steps,
            values={"loss": 1.0 / (index + 1)},
            checkpoint={"index": torch.tensor(index), "checks": told, **kept},
        )
