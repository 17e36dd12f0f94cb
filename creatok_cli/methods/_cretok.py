"""How CreTok learns: what is constant is encoded once, and only the vectors of the word move.

Exact speed-ups: the phrases are constants and are encoded once, prompts are computed from their
first hole on and up to their end, only the vectors of W are variables, and several starts share
each pass (methods notes, 2.3).

Deviates: one loss per encoder on the projected pooled state, averaged (C1); theta `auto` (C2);
the mean over both orders (C3); all rows in each step by default (C4); AdamW without decay or
warm-up (C5); start at the word that is redefined (C6); T5 reads that word (C7); stop rule (C9).

Does not: know the settings' sources (`cretok.py`), or take the steps (`_ascent.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from creatok_cli import __version__
from creatok_cli.concepts.sets import PairList
from creatok_cli.errors import InputError, MethodDiverged, UnknownName
from creatok_cli.methods._ascent import Ascent, Climb, Draws, Goal, Pace
from creatok_cli.methods._capped import QUANTILES, Baseline, Cap, choose_cap, measure
from creatok_cli.methods._units import unit_rows
from creatok_cli.methods.base import Artefact, Brief, Run, Step
from creatok_cli.registry import did_you_mean
from creatok_cli.seeds import generator
from creatok_cli.tokens.token import MAX_VECTORS, T5, Token

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone, TextSide
    from creatok_cli.methods.cretok import Spec

REPORT_STEPS = 50
"""A Step is yielded this often, or 200 times in a run, whichever is more often."""
NEIGHBOURS = 5
MAX_LENGTHS = 1000
"""So many vocabulary lengths mean divergence (set by eye)."""


class CreTok:
    """Learns one token; see the module docstring."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.placeholder = f"<{spec.name}>"

    def run(self, backbone: Backbone, brief: Brief, *, seed: int) -> Run:
        """Steps, then the token. Same seed, same token; a resumed run ends with the same bytes.

        Raises InputError for a list or word that does not fit, MethodDiverged when loss or vectors
        are not finite or far too long.
        """
        spec, text = self.spec, backbone.text
        if text is None or brief.pairs is None:
            raise InputError("cretok needs a base with a text side and a list of pairs")
        chosen = _choose_encoders(spec.encoders, text)
        problem = Problem.read(self, backbone, text, brief.pairs, seed)
        draws = Draws(
            sampling=spec.sampling,
            rows=spec.rows,
            group=2 if spec.orders == "both" else 1,
            seed=seed,
        )
        pace = Pace(lr=spec.lr, steps=spec.steps)
        climbs = {
            name: Climb(
                problem.goals[name],
                problem.starts[name].to(backbone.device),
                draws=draws,
                pace=pace,
                length=problem.lengths[name] if spec.norm == "shell" else None,
            )
            for name in chosen
        }
        ascent = Ascent(climbs, spec.steps)
        if brief.resume is not None:
            ascent.restore(brief.resume)
        notices = tuple(
            cap.note for name, cap in problem.caps.items() if name in chosen and cap.note
        )
        ended: str = ascent.ended
        if ascent.index == 0 and ascent.is_dead():
            ended = "dead"
        feedback = yield self._step(ascent, problem, notices)
        every = max(1, min(REPORT_STEPS, spec.steps // 200))
        while not ended and ascent.index < spec.steps:
            if feedback is not None and feedback.stop:
                ended = "stopped"
                yield self._step(ascent, problem)
                break
            ascent.advance(min(every - ascent.index % every, spec.steps - ascent.index))
            ascent.record(spec.validate_every)
            self._check(ascent, problem)
            if spec.stop == "auto":
                ascent.judge(spec.validate_every)
                ended = ascent.ended
            feedback = yield self._step(ascent, problem)
        return self._artefact(backbone, brief.pairs, ascent, problem, ended or "done", seed)

    def _step(self, ascent: Ascent, problem: Problem, notices: tuple[str, ...] = ()) -> Step:
        return Step(
            index=ascent.index,
            total=self.spec.steps,
            values=ascent.values() | self._means(ascent, problem),
            notices=notices,
            checkpoint=ascent.state(),
        )

    def _means(self, ascent: Ascent, problem: Problem) -> dict[str, float]:
        """Held-out cosines: with every report where one prompt serves all rows, else when J is
        measured.
        """
        is_cheap = not next(iter(problem.goals.values())).is_paired
        if is_cheap or ascent.index % self.spec.validate_every == 0:
            return problem.held_out_means(ascent.vectors())
        return {}

    def _check(self, ascent: Ascent, problem: Problem) -> None:
        """Raise MethodDiverged for what can only get worse."""
        for name, rows in ascent.vectors().items():
            length = float(rows.norm(dim=-1).max())
            if not math.isfinite(length) or not math.isfinite(ascent.loss):
                raise MethodDiverged(
                    f"step {ascent.index}: the loss or the vectors of {name} are not finite; "
                    "lower --lr"
                )
            if length > MAX_LENGTHS * problem.lengths[name]:
                raise MethodDiverged(
                    f"step {ascent.index}: the vectors of {name} are {length:.3g} long, "
                    f"{MAX_LENGTHS} times a vocabulary row; lower --lr, or --set norm=shell"
                )

    def _artefact(
        self,
        backbone: Backbone,
        pairs: PairList,
        ascent: Ascent,
        problem: Problem,
        ended: str,
        seed: int,
    ) -> Artefact:
        spec = self.spec
        learned = ascent.result()
        scores = problem.scores(learned)
        best = max(range(spec.restarts), key=lambda row: scores[row])
        first = {name: rows[0].float().cpu() for name, rows in problem.starts.items()}
        last = first | {name: rows[best].float().cpu() for name, rows in learned.items()}
        recipe = {
            "kind": "token",
            "method": "cretok",
            "spec": _plain(asdict(spec)),
            "template": spec.template,
            "base": backbone.facts.backbone,
            "base_digest": backbone.facts.digest,
            "base_licence": backbone.facts.licence,
            "encoders": dict(problem.digests),
            "precision": problem.precision,
            "pairs": {"name": pairs.name, "digest": pairs.digest, "licence": pairs.licence},
            "theta": {name: cap.theta for name, cap in problem.caps.items()},
            "seed": seed,
            "steps": ascent.index,
            "ended": ended,
            "restart": best,
            "J": scores[best],
            "version": __version__,
        }
        # For clients whose T5 reads no literal: the rows of the word that creatok's T5 reads.
        plain = {T5: problem.words[T5]} if T5 in problem.words else {}
        token = Token(self.placeholder, spec.word, _contiguous({**last, **plain}), recipe)
        initial = Token(
            self.placeholder,
            spec.word,
            _contiguous({**first, **plain}),
            {**recipe, "steps": 0, "ended": "initial", "restart": 0, "J": problem.start_score},
        )
        facts = {
            "baseline": {name: asdict(each) for name, each in problem.baselines.items()},
            "quantiles": list(QUANTILES),
            "theta": {name: asdict(cap) for name, cap in problem.caps.items()},
            "curves": ascent.curves(),
            "held_out": problem.held_out(first, last),
            "neighbours": problem.neighbours(last),
            "neighbours_before": problem.neighbours(first),
            "cosine_to_start": {
                name: float(functional.cosine_similarity(last[name], first[name]).mean())
                for name in last
            },
            "length": {
                name: {
                    "before": float(first[name].norm(dim=-1).mean()),
                    "after": float(last[name].norm(dim=-1).mean()),
                    "vocabulary": problem.lengths[name],
                }
                for name in last
            },
            "capped": problem.capped(last),
            "spread": scores,
            "ended": ended,
            "steps": ascent.index,
        }
        return Artefact(
            token=token, initial=initial, ended=ended, steps=ascent.index, facts=_plain(facts)
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything that is constant while a token is learned, per encoder."""

    goals: Mapping[str, Goal]
    starts: Mapping[str, Tensor]
    """[r n d] f32."""
    baselines: Mapping[str, Baseline]
    caps: Mapping[str, Cap]
    lengths: Mapping[str, float]
    """Mean length of a vocabulary row."""
    proof: Mapping[str, Goal]
    """All held-out rows, one group after the other."""
    groups: Mapping[str, int]
    """Held-out group -> its number of rows."""
    vocabulary: Mapping[str, tuple[Tensor, tuple[str, ...]]]
    digests: Mapping[str, str]
    words: Mapping[str, Tensor]
    """[n d] rows of the redefined word, of T5 too where there is one."""
    start_score: float

    @classmethod
    def read(
        cls, method: CreTok, backbone: Backbone, text: TextSide, pairs: PairList, seed: int
    ) -> Problem:
        """Encode the list once and measure the start. Raises InputError."""
        spec, word = method.spec, method.placeholder
        clip = [name for name in text.encoders if name != T5]
        vocabulary = text.vocabulary()
        lengths = {
            name: float(table.float().norm(dim=-1).mean())
            for name, (table, _) in vocabulary.items()
        }
        starts = _starts(spec, text, vocabulary, seed)
        counts = {name: spec.vectors for name in clip}

        def goals_of(members: Sequence[Sequence[str]]) -> dict[str, Goal]:
            prompts = adaptive_prompts(spec, pairs, members)
            maps = text.pooled_map(prompts, word, counts)
            rows = unit_rows(text, phrases(spec, pairs, members))
            paired = len(prompts) > 1
            return {name: Goal(maps[name], rows[name], 1.0, is_paired=paired) for name in clip}

        goals = goals_of(pairs.train)
        baselines: dict[str, Baseline] = {}
        caps: dict[str, Cap] = {}
        for name, goal in goals.items():
            with torch.no_grad():
                cosines = goal.cosines(starts[name][:1].to(backbone.device))[0]
            bound = 1.0 if goal.is_paired else float(goal.rows.mean(dim=0).norm())
            baselines[name] = measure(cosines, bound)
            caps[name] = choose_cap(spec.theta, baselines[name], name)
            goals[name] = replace(goal, theta=caps[name].theta)
        held_out = [row for rows in pairs.held_out.values() for row in rows]
        proof = goals_of(held_out) if held_out else {}
        turns = len(phrases(spec, pairs, pairs.train)) // len(pairs.train)
        groups = {group: len(rows) * turns for group, rows in pairs.held_out.items()}
        found = cls(
            goals=goals,
            starts=starts,
            baselines=baselines,
            caps=caps,
            lengths=lengths,
            proof=proof,
            groups=groups,
            vocabulary=vocabulary,
            digests=text.digests(),
            words=text.rows(spec.word),
            start_score=0.0,
        )
        score = found.scores({name: each[:1].to(backbone.device) for name, each in starts.items()})
        return replace(found, start_score=score[0])

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return next(iter(self.goals.values())).rows.device

    @property
    def precision(self) -> str:
        """The number format of the encoders, as torch names it."""
        return str(next(iter(self.vocabulary.values()))[0].dtype).removeprefix("torch.")

    def scores(self, vectors: Mapping[str, Tensor]) -> list[float]:
        """J over all training rows, per restart: what chooses between restarts.

        Deviates: the notes choose on held-out rows; those serve as proof here and choose nothing.
        """
        with torch.no_grad():
            parts = [
                self.goals[name].cosines(rows).clamp(max=self.goals[name].theta).mean(dim=-1).cpu()
                for name, rows in vectors.items()
            ]
        scores: list[float] = torch.stack(parts).mean(dim=0).tolist()
        return scores

    def held_out_means(self, vectors: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean cosine of the first restart to all held-out rows, as `cos/ENCODER`."""
        cosines = self._cosines({name: rows[0] for name, rows in vectors.items()})
        return {f"cos/{name}": sum(each) / len(each) for name, each in cosines.items() if each}

    def _cosines(self, vectors: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Encoder -> cosines of vectors [n d] to all held-out rows."""
        if not self.proof:
            return {name: [] for name in vectors}
        with torch.no_grad():
            return {
                name: self.proof[name].cosines(rows[None].to(self.device))[0].tolist()
                for name, rows in vectors.items()
            }

    def held_out(
        self, first: Mapping[str, Tensor], last: Mapping[str, Tensor]
    ) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Group -> encoder -> cosines before and after."""
        before, after = self._cosines(first), self._cosines(last)
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        start = 0
        for group, count in self.groups.items():
            part = slice(start, start + count)
            found[group] = {
                name: {"before": before[name][part], "after": after[name][part]}
                for name in self.goals
            }
            start += count
        return found

    def capped(self, last: Mapping[str, Tensor]) -> dict[str, float]:
        """Share of the training rows at or above theta."""
        found = {}
        for name, goal in self.goals.items():
            with torch.no_grad():
                cosines = goal.cosines(last[name][None].to(self.device))
            found[name] = float((cosines >= goal.theta).float().mean())
        return found

    def neighbours(self, vectors: Mapping[str, Tensor]) -> dict[str, list[list[Any]]]:
        """The vocabulary words nearest to the mean vector, with their cosines."""
        found: dict[str, list[list[Any]]] = {}
        for name, rows in vectors.items():
            table, spelled = self.vocabulary[name]
            cosines = functional.cosine_similarity(
                table.float().cpu(), rows.mean(dim=0, keepdim=True), dim=-1
            )
            order = cosines.argsort(descending=True).tolist()
            named = [index for index in order if spelled[index]][:NEIGHBOURS]
            found[name] = [[spelled[index], float(cosines[index])] for index in named]
        return found


def phrases(spec: Spec, pairs: PairList, rows: Sequence[Sequence[str]]) -> list[str]:
    """The restrictive prompts of rows, the orders of a row side by side. Raises InputError when
    the template names a slot that the list does not have.
    """
    return [_filled(spec.restrictive, pairs, values) for values in _turns(spec, pairs, rows)]


def adaptive_prompts(spec: Spec, pairs: PairList, rows: Sequence[Sequence[str]]) -> list[str]:
    """One prompt where the adaptive template names no slot, else one beside each phrase."""
    template = (spec.adaptive or spec.template).replace("{word}", f"<{spec.name}>")
    if "{" not in template:
        return [template]
    return [_filled(template, pairs, values) for values in _turns(spec, pairs, rows)]


def _turns(spec: Spec, pairs: PairList, rows: Sequence[Sequence[str]]) -> Iterator[dict[str, str]]:
    for row in rows:
        yield dict(zip(pairs.slots, row, strict=True))
        if spec.orders == "both":
            yield dict(zip(pairs.slots, reversed(row), strict=True))


def _filled(template: str, pairs: PairList, values: Mapping[str, str]) -> str:
    try:
        return template.format_map(values)
    except KeyError as error:
        hint = did_you_mean(str(error.args[0]), pairs.slots)
        raise InputError(
            f"template {template!r}: the list {pairs.name} has no slot {error.args[0]!r}; "
            f"{hint or 'it has ' + ', '.join(pairs.slots)}"
        ) from None
    except (ValueError, IndexError, AttributeError) as error:
        raise InputError(f"template {template!r} cannot be filled: {error}") from None


def _choose_encoders(asked: Sequence[str], text: TextSide) -> tuple[str, ...]:
    known = tuple(name for name in text.encoders if name != T5)
    for name in asked:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise UnknownName(f"encoders: this base has no {name!r} to learn for; {hint}")
    return tuple(name for name in known if name in asked) if asked else known


def _starts(
    spec: Spec,
    text: TextSide,
    vocabulary: Mapping[str, tuple[Tensor, tuple[str, ...]]],
    seed: int,
) -> dict[str, Tensor]:
    """[r n d] per encoder: the first restart from `init`, the others random."""
    init = spec.init or spec.word
    words = text.rows(init) if init not in ("random", "mean") else {}
    found = {}
    for name, (table, _) in vocabulary.items():
        rows = table.float().cpu()
        mean, spread = rows.mean(dim=0), rows.std(dim=0)

        def drawn(
            restart: int, name: str = name, mean: Tensor = mean, spread: Tensor = spread
        ) -> Tensor:
            dice = generator(seed, "start", name, restart)
            return mean + spread * torch.randn(spec.vectors, mean.shape[0], generator=dice)

        if init == "random":
            first = drawn(0)
        elif init == "mean":
            first = mean.expand(spec.vectors, -1)
        else:
            own = words[name].cpu()
            first = (
                own.mean(dim=0, keepdim=True) if spec.vectors == 1 else own.repeat(MAX_VECTORS, 1)
            )
            first = first[: spec.vectors]
        others = [drawn(restart) for restart in range(1, spec.restarts)]
        found[name] = torch.stack([first, *others]).contiguous()
    return found


def _contiguous(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: rows.detach().clone().contiguous() for name, rows in vectors.items()}


def _plain(value: Any) -> Any:
    """Tuples as lists, so that what is stored equals what is read back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
