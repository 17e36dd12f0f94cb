"""Counts towards a network: a method of a few lines that proposes, for tests of the training.

Each step moves a row by a draw that follows from seed and step; now and then two tokens are
proposed, and what the labeler says of their pictures moves the row, too: so any resume must give
the same answers and end with the same bytes. `lr` above 5 diverges half-way.

Does not: read a text encoder, or fuse.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import asdict, dataclass
from typing import Any

import torch

from creatok_cli.domain import Job
from creatok_cli.errors import MethodDiverged
from creatok_cli.methods.base import Artefact, Brief, Run, Step
from creatok_cli.seeds import derive, generator
from creatok_cli.tokens.network import Network, Part, part_of
from creatok_cli.tokens.token import Token

NEEDS = ("text", "image", "labels")
VERBS = ("fuse",)
SIDE = 8
"""Of the pool's pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Knobs."""

    vectors: int = 1
    steps: int = 12
    every: int = 5
    """Steps between proposals; 0 never proposes."""
    seeds: int = 2
    """Pictures of each token."""
    lr: float = 0.01
    dtype: str = "fp32"
    prompt: str = "a photo of a {word}"
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1_000_000:
            raise ValueError("steps must be from 1 to 1,000,000")


def build(spec: Spec) -> Blend:
    """The method."""
    return Blend(spec)


class Blend:
    """Moves a row by derived draws and by labels."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def run(self, backbone: Any, brief: Brief, *, seed: int) -> Run:
        spec, facts = self.spec, backbone.facts
        assert brief.classes is not None
        names = brief.classes.classes
        width = sum(width for _, width in facts.encoders)
        row, index = torch.zeros(width), 0
        pool: dict[str, list[Any]] = {"rows": [], "p": [], "step": [], "pictures": []}
        if brief.resume is not None:
            row, index = brief.resume["row"].clone(), int(brief.resume["index"])
            pool = {key: list(brief.resume[f"pool/{key}"].unbind()) for key in pool}
        feedback = yield self._step(index, row, pool, ("blending begins",))
        ended = "done"
        while index < spec.steps:
            if feedback is not None and feedback.stop:
                ended = "stopped"
                yield self._step(index, row, pool)
                break
            if spec.lr > 5 and index >= spec.steps // 2:
                raise MethodDiverged(f"step {index}: the loss is not finite")
            if (
                spec.every
                and index
                and index % spec.every == 0
                and index not in map(int, pool["step"])
            ):
                feedback = yield from self._ask(facts, brief, index, row, pool, seed)
                if feedback is not None and feedback.stop:
                    continue
                for label, picture in zip(feedback.labels, feedback.pictures, strict=True):
                    if label is not None:
                        assert [name for name, _ in label.probabilities] == list(names)
                        shares = torch.tensor([share for _, share in label.probabilities])
                        row = row + shares.sum() * 0.01 + shares.max() * 0.1
                        small = picture.convert("RGB").resize((SIDE, SIDE))
                        flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
                        pool["p"].append(shares)
                        pool["pictures"].append(flat.view(SIDE, SIDE, 3).clone())
                        pool["rows"].append(row.clone())
                        pool["step"].append(torch.tensor(index))
            time.sleep(spec.pause_s)
            row = row + spec.lr * torch.randn(width, generator=generator(seed, index))
            index += 1
            feedback = yield self._step(index, row, pool)
        return Artefact(
            network=self._network(facts, brief, row, pool, index, seed), ended=ended, steps=index
        )

    def _ask(self, facts: Any, brief: Brief, index: int, row: Any, pool: Any, seed: int) -> Any:
        tokens = []
        for number in range(2):
            vectors, start = {}, 0
            for name, width in facts.encoders:
                part = row[start : start + width] + 0.02 * torch.randn(
                    width, generator=generator(seed, "token", index, number)
                )
                vectors[name], start = part[None].clone(), start + width
            tokens.append(Token(f"<t{number}>", "creature", vectors, {"kind": "token"}))
        pairs = tuple((token.word, token.id) for token in tokens)
        jobs = tuple(
            Job(
                base_digest=facts.digest,
                base=facts.name,
                prompt=self.spec.prompt.replace("{word}", token.word),
                seed=derive(seed, "picture", number),
                size_px=facts.size_px,
                steps=2,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype=self.spec.dtype,
                tokens=pairs,
            )
            for token in tokens
            for number in range(self.spec.seeds)
        )
        classes = brief.classes
        assert classes is not None
        step = self._step(index, row, pool)
        feedback = yield Step(
            index=index,
            total=step.total,
            values=step.values,
            checkpoint=step.checkpoint,
            tokens=tuple(tokens),
            proposals=jobs,
            classes=classes.classes,
            question=classes.question,
        )
        return feedback

    def _step(self, index: int, row: Any, pool: Any, notices: tuple[str, ...] = ()) -> Step:
        kept = {
            f"pool/{key}": torch.stack(values) if values else torch.zeros(0)
            for key, values in pool.items()
        }
        return Step(
            index=index,
            total=self.spec.steps,
            values={"loss": 1.0 / (index + 1), "pool": float(len(pool["step"]))},
            notices=notices,
            checkpoint={"row": row.clone(), "index": torch.tensor(index), **kept},
        )

    def _network(
        self, facts: Any, brief: Brief, row: Any, pool: Any, index: int, seed: int
    ) -> Network:
        classes = brief.classes
        assert classes is not None
        widths, count = dict(facts.encoders), len(pool["step"])

        def floats(rows: list[Any], *shape: int) -> Part:
            values = [value for each in rows for value in each.tolist()]
            return part_of("F32", shape, array("f", values))

        tensors = {"row": floats([row], 1, len(row))}
        if count:
            shown = b"".join(each.numpy().tobytes() for each in pool["pictures"])
            tensors |= {
                "pool/rows": floats(pool["rows"], count, len(row)),
                "pool/p": floats(pool["p"], count, len(classes.classes)),
                "pool/step": part_of("I64", (count,), array("q", map(int, pool["step"]))),
                "pool/pictures": Part("U8", (count, SIDE, SIDE, 3), shown),
            }
        recipe = {
            "kind": "network",
            "method": "blend",
            "spec": asdict(self.spec),
            "base": facts.name,
            "base_digest": facts.digest,
            "base_licence": facts.licence,
            "encoders": dict.fromkeys(widths, "sha256:0"),
            "widths": widths,
            "classes": {
                "name": classes.name,
                "digest": classes.digest,
                "names": list(classes.classes),
            },
            "precision": "fp32",
            "seed": seed,
            "steps": index,
            "labeler": {},
            "version": "1",
        }
        return Network(tensors, recipe)
