"""How ConceptLab moves a word: steps, checks, and what a labeler adds.

Each step draws a template and a few pictures through the base's prior and follows the gradient of
the terms in `_likeness.py`. With `adaptive`, full pictures go to the caller at the start and from
time to time with the question what is seen in them; the answer becomes a negative. Every
`check_every` steps the caller is asked yes or no; the last state that was accepted is the find.

Randomness is addressed by step, and all that a step needs is in the checkpoint, so a resumed search
ends with the same bytes (Richardson et al., ACM TOG 2024, arXiv 2308.02669; methods notes, 5).

Deviates: no weight decay; negatives that a labeler finds are without articles, not what is wanted,
and not named twice (K1); parents pull at the picture's embedding, not at the text's (K2); pieces of
a word that starts are averaged, not cut; yes and no are asked at all.

Does not: draw full pictures, label, or say what is like what.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli import __version__
from creatok_cli.domain import Job
from creatok_cli.errors import ArtefactError, InputError
from creatok_cli.methods._likeness import Likeness, bare, draw_usual, positives_of
from creatok_cli.methods._word import Word
from creatok_cli.methods._workers import PART, Workers, check_sound, workers
from creatok_cli.methods.base import Artefact, Brief, Feedback, Quest, Run, Step
from creatok_cli.seeds import derive
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone, PriorSide, TextSide
    from creatok_cli.domain import Labels
    from creatok_cli.methods.conceptlab import Spec

MOMENTS = ("exp_avg", "exp_avg_sq")
SEPARATOR = ":"
LONGEST = 60
"""Characters of a free answer that may become a negative; longer ones are sentences."""


class ConceptLab:
    """Searches one find; see the module docstring."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def run(self, backbone: Backbone, brief: Brief, *, seed: int) -> Run:
        """Steps, some with proposals, then a find. Same seed and answers, same find.

        Raises InputError for a base or a quest that does not fit, MethodDiverged when the loss is
        not finite.
        """
        quest, text, prior = brief.quest, backbone.text, backbone.prior
        if quest is None or text is None or prior is None:
            raise InputError("conceptlab needs a quest, and a base with a text side and a prior")
        check_quest(quest)
        usual = quest.prepared
        if usual is None:
            usual = yield from draw_usual(self.spec, backbone, quest)
        with workers(backbone) as side_by_side:
            search = _Search(self.spec, backbone, quest, usual, seed, side_by_side)
            if brief.resume is not None:
                search.restore(brief.resume)
            return (yield from self._steps(search))

    def _steps(self, search: _Search) -> Run:
        feedback = yield search.report()
        while True:
            if feedback is not None and feedback.stop:
                yield search.report()
                return search.artefact("stopped")
            if search.is_question_due:
                answer = yield search.question()
                take = search.learn
            elif search.is_check_due:
                answer = yield search.check()
                take = search.judge
            elif search.index >= self.spec.steps:
                return search.artefact("done")
            else:
                search.advance()
                feedback = yield search.report()
                continue
            if answer is not None and answer.stop:
                # The state before this question is the last one handed out.
                yield Step(index=search.index, total=self.spec.steps)
                return search.artefact("stopped")
            feedback = yield search.report(take(answer))


def check_quest(quest: Quest) -> None:
    """Raises InputError for a quest that names nothing, or what only other methods can do."""
    if quest.away or quest.origin is not None:
        raise InputError(
            "conceptlab takes words to avoid and pictures to resemble; pictures to avoid or to "
            "vary are for lowprob"
        )
    if not positives_of(quest) and not quest.unlike and not quest.toward:
        raise InputError("conceptlab needs something to be like: words or pictures")


class _Search:
    """Everything that a search holds."""

    def __init__(
        self,
        spec: Spec,
        backbone: Backbone,
        quest: Quest,
        usual: Mapping[str, Tensor],
        seed: int,
        side_by_side: Workers,
    ) -> None:
        assert backbone.text is not None
        assert backbone.prior is not None
        self.spec, self.backbone, self.quest, self.seed = spec, backbone, quest, seed
        self.text: TextSide = backbone.text
        self.prior: PriorSide = backbone.prior
        self.workers = side_by_side
        self.likeness = Likeness(spec, self.prior, quest, usual, backbone.device)
        first = (*self.likeness.positives, bare(quest.subject))[0]
        form = replace(spec, init=spec.init or first)
        self.own = Word(form, self.text, quest, backbone.device, seed)
        self.word = f"<{spec.name}>"
        self.leaves = dict(self.own.leaves)
        self.optimiser = torch.optim.AdamW(list(self.leaves.values()), lr=spec.lr, weight_decay=0.0)
        self.index = 0
        self.asked = self.checked = -1
        self.values: dict[str, float] = {}
        self.losses: list[list[float]] = []
        self.checks: list[dict[str, Any]] = []
        self.ideas: list[dict[str, Any]] = []
        self.accepted = self._copies()
        self.accepted_at = -1
        self.waiting: dict[str, float] = {}

    # Steps

    def advance(self) -> None:
        """One optimiser step. Raises MethodDiverged."""
        spec = self.spec
        template = derive(self.seed, "template", self.index) % len(spec.templates)
        seeds = [derive(self.seed, "noise", self.index, at) for at in range(spec.batch)]
        totals, grads = self.workers.summed(lambda part: self._gradients(part, template), seeds)
        for leaf, grad in zip(self.leaves.values(), grads, strict=True):
            leaf.grad = grad
        self.optimiser.step()
        self.own.settle()
        self.index += 1
        self.values = {name: round(value, 6) for name, value in totals.items()}
        self.losses.append([float(self.index), totals["loss"]])
        check_sound(self.index, totals["loss"], self.leaves.values())

    def _gradients(
        self, seeds: Sequence[int], template: int
    ) -> tuple[dict[str, float], Sequence[Tensor]]:
        """Values and gradients of some of a step's pictures, as shares of the whole step."""
        prompt = self.spec.templates[template].replace("{word}", self.word)
        with torch.enable_grad():
            token = Token(self.word, self.own.literal, self.own.vectors())
            cond = self.text.encode([prompt], [token])
            rows = self.prior.sample(cond, seeds=seeds).float()
            terms = self.likeness.terms(rows, template)
            loss = self.likeness.loss(terms).sum() / self.spec.batch
            grads = torch.autograd.grad(loss, list(self.leaves.values()))
        values = {
            name: float(each.detach().sum()) / self.spec.batch for name, each in terms.items()
        }
        return {"loss": float(loss.detach()), **values}, grads

    # Questions

    @property
    def is_question_due(self) -> bool:
        """At the start and every so many steps, but not where no step would follow."""
        spec = self.spec
        due = spec.adaptive and self.asked != self.index and self.index < spec.steps
        is_full = len(self.likeness.negatives) >= spec.most
        return due and not is_full and self.index % spec.ask_every == 0

    @property
    def is_check_due(self) -> bool:
        """At the start, every so many steps, and after the last."""
        if self.checked == self.index:
            return False
        return self.index % self.spec.check_every == 0 or self.index >= self.spec.steps

    def question(self) -> Step:
        """What is seen?"""
        ask = self.spec.ask.replace("{subject}", bare(self.quest.subject))
        return self._shown({}, self.quest.classes, ask)

    def check(self) -> Step:
        """Is it still what is wanted? With cosines of fresh pictures."""
        seeds = [derive(self.seed, "fresh", at) for at in range(self.spec.fresh)]
        rows = self.draw(seeds)
        with torch.no_grad():
            terms = self.likeness.terms(rows, 0)
            found = {"loss": float(self.likeness.loss(terms).mean())}
        cosines = self.likeness.cosines(rows)
        nearest = [cosines[name] for name in self.likeness.negatives]
        wanted = [cosines[name] for name in self.likeness.positives]
        if wanted:
            found["cosine"] = sum(wanted) / len(wanted)
        if nearest:
            found["unlike"] = max(nearest)
        self.waiting = {name: round(value, 6) for name, value in found.items()}
        question = self.spec.question.replace("{subject}", bare(self.quest.subject))
        return self._shown(self.waiting, ("yes", "no"), question)

    def _shown(self, values: Mapping[str, float], classes: Sequence[str], question: str) -> Step:
        """Full pictures of the word, to be answered."""
        spec, facts, token = self.spec, self.backbone.facts, self.token({})
        jobs = tuple(
            Job(
                base=facts.name,
                base_digest=facts.digest,
                prompt=spec.templates[0].replace("{word}", self.word),
                seed=derive(self.seed, "pictures", at),
                size_px=facts.size_px,
                steps=facts.steps,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype=facts.dtype,
                tokens=((token.word, token.id),),
            )
            for at in range(spec.proposals)
        )
        return Step(
            index=self.index,
            total=spec.steps,
            values=self.values | dict(values),
            tokens=(token,),
            proposals=jobs,
            classes=tuple(classes),
            question=question,
        )

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """[b d] embeddings of the word's pictures, without gradient."""
        prompt = self.spec.templates[0].replace("{word}", self.word)
        parts = [list(seeds[at : at + PART]) for at in range(0, len(seeds), PART)]
        with torch.no_grad():
            cond = self.text.encode([prompt], [self.token({})])

        def embed(part: Sequence[int]) -> Tensor:
            with torch.no_grad():
                found: Tensor = self.prior.sample(cond, seeds=part)
            return found.float()

        return torch.cat(self.workers.map(embed, parts))

    def learn(self, answer: Feedback | None) -> tuple[str, ...]:
        """What is seen is to be avoided from now on."""
        self.asked = self.index
        labels = [each for each in (answer.labels if answer else ()) if each is not None]
        for words in seen_in(labels):
            is_wanted = words in self.likeness.positives or words == bare(self.quest.subject)
            is_short = 0 < len(words) <= LONGEST and words.isprintable()
            if is_wanted or not is_short or len(self.likeness.negatives) >= self.spec.most:
                continue
            if words not in self.likeness.negatives and not self.likeness.is_near(words):
                self.likeness.avoid(words)
                self.ideas.append({"step": self.index, "words": words})
        return ()

    def judge(self, answer: Feedback | None) -> tuple[str, ...]:
        """Accept the state, or not; the search goes on in either case."""
        is_first, self.checked = self.checked < 0, self.index
        yes = yes_of(answer)
        is_accepted = math.isnan(yes) or yes >= self.spec.accept
        notices = []
        if is_first and yes < self.spec.accept:
            notices.append(
                f"the validator says no to the plain start, too (p of yes {yes:.2f}): its answers "
                "may say little here"
            )
        if is_accepted:
            self.accepted, self.accepted_at = self._copies(), self.index
        known = {} if math.isnan(yes) else {"p_yes": round(yes, 6)}
        self.checks.append({"step": self.index, "accepted": is_accepted, **self.waiting, **known})
        self.values |= self.waiting | known | {"accepted": float(is_accepted)}
        return tuple(notices)

    # States

    def _copies(self) -> dict[str, Tensor]:
        return {name: leaf.detach().clone() for name, leaf in self.leaves.items()}

    def report(self, notices: Sequence[str] = ()) -> Step:
        """Where the search is, with all that it goes on from."""
        return Step(
            index=self.index,
            total=self.spec.steps,
            values=dict(self.values),
            notices=tuple(notices),
            checkpoint=self._checkpoint(),
        )

    def _checkpoint(self) -> dict[str, Tensor]:
        said = {
            "index": self.index,
            "asked": self.asked,
            "checked": self.checked,
            "accepted_at": self.accepted_at,
            "negatives": list(self.likeness.negatives),
            "checks": self.checks,
            "ideas": self.ideas,
        }
        found = {
            "said": torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8),
            "losses": torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 2),
        }
        for name, leaf in self.leaves.items():
            found[f"now/{name}"] = leaf.detach().clone()
            found[f"ok/{name}"] = self.accepted[name].clone()
            own = self.optimiser.state.get(leaf, {})
            for moment in MOMENTS:
                kept = own.get(moment)
                found[f"{moment}/{name}"] = (
                    torch.zeros_like(leaf) if kept is None else kept.detach().clone()
                )
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint. Raises ArtefactError for one of another search."""
        try:
            said = json.loads(bytes(state["said"].tolist()).decode())
            self.index, self.asked = int(said["index"]), int(said["asked"])
            self.checked, self.accepted_at = int(said["checked"]), int(said["accepted_at"])
            self.checks, self.ideas = list(said["checks"]), list(said["ideas"])
            given = len(self.likeness.negatives)
            for words in said["negatives"][given:]:
                self.likeness.avoid(str(words))
            self.losses = state["losses"].tolist()
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    leaf.copy_(state[f"now/{name}"])
                    self.accepted[name] = state[f"ok/{name}"].to(leaf.device).clone()
                    if self.index:
                        self.optimiser.state[leaf] = {
                            "step": torch.tensor(float(self.index)),
                            **{m: state[f"{m}/{name}"].to(leaf.device).clone() for m in MOMENTS},
                        }
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ArtefactError(f"the kept state does not fit this search: {error}") from error

    # The end

    def token(self, recipe: Mapping[str, Any]) -> Token:
        """The word as it is now, to be drawn with."""
        vectors = {
            name: rows.detach().float().cpu().clone().contiguous()
            for name, rows in self.own.vectors().items()
        }
        return Token(self.word, self.own.literal, vectors | self.own.plain, dict(recipe))

    def artefact(self, ended: str) -> Artefact:
        """The last accepted state, the last one where none was; and what it looks like to fresh
        seeds.
        """
        at = self.index if self.accepted_at < 0 else self.accepted_at
        with torch.no_grad():
            for name, leaf in self.leaves.items() if self.accepted_at >= 0 else ():
                leaf.copy_(self.accepted[name])
        rows = self.draw([derive(self.seed, "finals", at) for at in range(2 * self.spec.fresh)])
        cosines = {name: round(value, 6) for name, value in self.likeness.cosines(rows).items()}
        found = {name: [cosines[name], bound] for name, bound in self.likeness.caps.items()}
        avoided = {name: [cosines[name], bound] for name, bound in self.likeness.floors.items()}
        values: dict[str, float] = {}
        if found:
            values["cosine"] = sum(value for value, _ in found.values()) / len(found)
        if avoided:
            values["unlike"] = max(value for value, _ in avoided.values())
        if self.likeness.parents is not None:
            values["parents"] = float((rows @ self.likeness.parents.T).mean())
        spec, facts, quest = self.spec, self.backbone.facts, self.quest
        recipe = {
            "kind": "token",
            "method": "conceptlab",
            "spec": json.loads(json.dumps(asdict(spec))),
            "template": spec.templates[0],
            "like": list(quest.like),
            "unlike": list(quest.unlike),
            "avoided": list(self.likeness.negatives),
            "base": facts.backbone,
            "base_digest": facts.digest,
            "base_licence": facts.licence,
            "seed": self.seed,
            "steps": at,
            "ended": ended,
            "version": __version__,
        }
        return Artefact(
            token=self.token(recipe),
            ended=ended,
            steps=at,
            facts={
                "values": {name: round(value, 6) for name, value in values.items()},
                "like": found,
                "unlike": avoided,
                "ideas": self.ideas,
                "checks": self.checks,
                "curves": [dict(zip(("step", "loss"), row, strict=True)) for row in self.losses],
                "words": self.own.shares(),
                "accepted_at": self.accepted_at,
                "ended": ended,
            },
        )


def seen_in(labels: Sequence[Labels]) -> list[str]:
    """What labelers say: the likeliest class over all pictures, or the free words of each."""
    totals: dict[str, float] = {}
    free: list[str] = []
    for each in labels:
        for name, share in each.probabilities:
            totals[name] = totals.get(name, 0.0) + share
        free += [bare(words) for words in each.words[:1]]
    likeliest = [bare(max(totals, key=lambda name: totals[name]))] if totals else []
    return list(dict.fromkeys([*likeliest, *free]))


def yes_of(answer: Feedback | None) -> float:
    """The mean probability of yes; NaN where nobody was asked, 0 where nothing could be drawn."""
    if answer is None or not answer.labels:
        return math.nan
    labels = [each for each in answer.labels if each is not None]
    if not labels:
        return 0.0
    known = [value for each in labels if (value := dict(each.probabilities).get("yes")) is not None]
    return sum(known) / len(known) if known else math.nan
