"""How low-probability exploration moves a word or a LoRA: steps, checks, pullbacks.

Each step draws a few pictures through the base's prior and follows the gradient of the terms in
`_rare_aims.py`. Every `check_every` steps pictures of fresh seeds say how rare they are, and full
pictures go to the caller with one yes/no question. A state that is refused, by the validator or
because its pictures have left what the prompt names, is given up for the last accepted one: the
search ends there, or goes on with half the learning rate and twice the anchor. It is done when the
median of the fresh pictures lies in the shell at several checks in a row.

Randomness is addressed by step, and all that a step needs is in the checkpoint, so a resumed search
ends with the same bytes (Song & Elgammal 2026, arXiv 2601.22125; methods notes, 4.3 and 4.6).

Deviates: the paper's stop is unknown (S1); retries after a pullback (S5); with `rows: words` a
vector is a weighted mean of known words' rows, because small bases read nothing else; a LoRA alone
is trained on the plain prompt, and only beside a word it has to leave the plain subject alone (S3).

Does not: draw full pictures, validate, or choose the terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli import __version__
from creatok_cli.domain import Job
from creatok_cli.errors import InputError
from creatok_cli.methods._plain import draw_plain, is_grey, looks
from creatok_cli.methods._rare_aims import Aims, Measured
from creatok_cli.methods._rarity import Baseline
from creatok_cli.methods._word import Word
from creatok_cli.methods._workers import Workers, check_sound, workers
from creatok_cli.methods.base import Artefact, Brief, Feedback, Quest, Run, Step
from creatok_cli.seeds import derive
from creatok_cli.tokens.token import Token

if TYPE_CHECKING:
    from torch import Tensor

    from creatok_cli.backbones.base import Adaptation, Backbone, PriorSide, TextSide
    from creatok_cli.methods.lowprob import Spec

KEPT = 2
"""Seeds on which a LoRA has to leave the plain subject alone."""
CHUNK = 8
"""Texts that are encoded together."""
CLOUD = 300
"""Baseline points of the cloud that is handed out."""
SHARES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
ENDS = ("", "reached", "pulled back")
COLUMNS = (
    *("index", "distance", "rarity", "cosine", "beside"),
    *("drawn_rarity", "yes", "is_accepted", "lr"),
)
MOMENTS = ("exp_avg", "exp_avg_sq")
SEPARATOR = ":"


class LowProb:
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
            raise InputError("lowprob needs a quest, and a base with a text side and a prior")
        prepared = quest.prepared
        if prepared is None:
            prepared = yield from draw_plain(self.spec, backbone, quest)
        with workers(backbone) as side_by_side:
            search = _Search(self.spec, backbone, quest, prepared, seed, side_by_side)
            if brief.resume is not None:
                search.restore(brief.resume)
            return (yield from self._steps(search))

    def _steps(self, search: _Search) -> Run:
        feedback = yield search.report(search.notices)
        ended = ""
        while not ended:
            if feedback is not None and feedback.stop:
                ended = "stopped"
                yield search.report()
            elif search.is_check_due:
                answer = yield search.proposal()
                if answer is not None and answer.stop:
                    # The state before this check is the last one handed out.
                    ended = "stopped"
                    yield Step(index=search.index, total=self.spec.steps)
                else:
                    feedback = yield search.report(search.take(answer))
            elif search.ended or search.index >= self.spec.steps:
                ended = search.ended or "done"
            else:
                search.advance()
                feedback = yield search.report()
        return search.artefact(ended)


# The search


@dataclass(slots=True)
class _Kept:
    """A state that can be gone back to: leaves and moments by name, and steps of the optimiser."""

    tensors: dict[str, Tensor]
    taken: int


class _Search:
    """Everything that a search holds."""

    def __init__(
        self,
        spec: Spec,
        backbone: Backbone,
        quest: Quest,
        prepared: Mapping[str, Tensor],
        seed: int,
        side_by_side: Workers,
    ) -> None:
        assert backbone.text is not None
        assert backbone.prior is not None
        self.spec, self.backbone, self.quest, self.seed = spec, backbone, quest, seed
        self.text: TextSide = backbone.text
        self.prior: PriorSide = backbone.prior
        self.workers = side_by_side
        self.grey = is_grey(spec, self.prior)
        self.word = f"<{spec.name}>"
        self.prompt = self._prompt()
        seen = prepared["embeddings"]
        if len(seen) < spec.baseline:
            raise InputError(f"the baseline has {len(seen)} rows, {spec.baseline} are wanted")
        colours = prepared.get("colours") if spec.colours == "ignore" else None
        baseline = Baseline(prepared["grey"] if self.grey else seen, spec.axes, colours)
        with torch.no_grad():
            anchor = self.prior.texts([quest.prompt])[0]
            self.plain = self.text.encode([quest.prompt], [])
        self.aims = Aims(spec, baseline, seen, anchor, backbone.device)
        if spec.heading:
            self.aims.head(seed)
        if spec.known and quest.classes:
            with torch.no_grad():
                self.aims.name(self._class_texts(), seen)
        self.notices = (
            *self.aims.show(quest, self.prior, grey=self.grey),
            *self._warnings(is_blind=self.grey or colours is not None),
        )
        self.own = (
            Word(spec, self.text, quest, backbone.device, seed) if spec.train != "lora" else None
        )
        self.leaves: dict[str, Tensor] = dict(self.own.leaves) if self.own else {}
        self.keep_rows: Tensor | None = None
        self.lora: Adaptation | None = None
        if spec.train != "token":
            self._adapt()
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [leaf], "rate": spec.lora_lr if self._is_lora(name) else spec.lr}
                for name, leaf in self.leaves.items()
            ],
            weight_decay=0.0,
        )
        self.index = self.taken = self.pullbacks = self.held = 0
        self.checked, self.ended = -1, ""
        self.values: dict[str, float] = {}
        self.losses: list[list[float]] = []
        self.checks: list[list[float]] = []
        self.path: list[Tensor] = []
        self.waiting: tuple[Measured, Tensor] | None = None
        self.accepted = self.best = self._state()
        self.best_off = math.inf

    def _prompt(self) -> str:
        """The prompt with the new word in it; the plain one where only a LoRA is trained."""
        quest, spec = self.quest, self.spec
        before, found, after = quest.prompt.rpartition(quest.subject)
        if not quest.subject.strip() or not found:
            raise InputError(
                f"the prompt {quest.prompt[:60]!r} does not hold the subject "
                f"{quest.subject[:60]!r} that is to be searched for"
            )
        if spec.train == "lora":
            return quest.prompt
        new = self.word if spec.place == "subject" else f"{self.word} {quest.subject}"
        return f"{before}{new}{after}"

    def _class_texts(self) -> Tensor:
        """[k d] of the prompt with each class in place of the subject."""
        quest = self.quest
        before, _, after = quest.prompt.rpartition(quest.subject)
        prompts = [f"{before}{name}{after}" for name in quest.classes if name != quest.subject]
        parts = [prompts[at : at + CHUNK] for at in range(0, len(prompts), CHUNK)]
        return torch.cat([self.prior.texts(part) for part in parts])

    def _warnings(self, *, is_blind: bool) -> list[str]:
        baseline, spec, found = self.aims.baseline, self.spec, []
        carried = baseline.axes + baseline.left_out
        if carried < spec.axes:
            found.append(
                f"axes: {len(baseline.rows)} plain pictures carry {carried} axes, not "
                f"{spec.axes}; raise baseline"
            )
        if spec.colours == "ignore" and not is_blind:
            found.append("colours count: this base has no pictures whose colours could be told")
        if baseline.left_out:
            found.append(f"{baseline.left_out} axes follow colours and are not looked at")
        return found

    def _adapt(self) -> None:
        spec = self.spec
        if spec.train == "both" and spec.keep:
            with torch.no_grad():
                self.keep_rows = self.prior.sample(self.plain, seeds=self._seeds("keep", KEPT))
        self.lora = self.backbone.adapt(spec.rank, seed=derive(self.seed, "lora"))
        self.leaves |= {f"lora{SEPARATOR}{name}": x for name, x in self.lora.parameters.items()}

    @staticmethod
    def _is_lora(name: str) -> bool:
        return name.startswith(f"lora{SEPARATOR}")

    def _seeds(self, name: str, count: int) -> list[int]:
        return [derive(self.seed, name, at) for at in range(count)]

    # Steps

    def advance(self) -> None:
        """One optimiser step. Raises MethodDiverged."""
        spec = self.spec
        seeds = [derive(self.seed, "noise", self.index, at) for at in range(spec.batch)]
        values, grads = self.workers.summed(self._gradients, seeds)
        if self.keep_rows is not None:
            kept, found = self._keep_gradients()
            values["keep"] = kept
            values["loss"] += spec.keep * kept
            for total, grad in zip(grads, found, strict=True):
                total += grad
        for leaf, grad in zip(self.leaves.values(), grads, strict=True):
            leaf.grad = grad
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * self.slower
        self.optimiser.step()
        if self.own is not None:
            self.own.settle()
        self.index += 1
        self.taken += 1
        self.values = {name: round(value, 6) for name, value in values.items()}
        self.losses.append([float(self.index), values["loss"], values["rare"], values["anchor"]])
        check_sound(self.index, values["loss"], self.leaves.values())

    @property
    def slower(self) -> float:
        """Of the learning rates, after pullbacks."""
        return float(0.5**self.pullbacks)

    def _gradients(self, seeds: Sequence[int]) -> tuple[dict[str, float], Sequence[Tensor]]:
        """Values and gradients of some of a step's pictures, as shares of the whole step."""
        with torch.enable_grad():
            cond = self.text.encode([self.prompt], self._tokens())
            terms = self.aims.terms(*looks(self.prior, cond, seeds, grey=self.grey))
            loss = self.aims.loss(terms, self.spec.firmer**self.pullbacks).sum() / self.spec.batch
            grads = torch.autograd.grad(loss, list(self.leaves.values()))
        values = {
            name: float(each.detach().sum()) / self.spec.batch for name, each in terms.items()
        }
        return {"loss": float(loss.detach()), **values}, grads

    def _keep_gradients(self) -> tuple[float, Sequence[Tensor]]:
        """How far the LoRA moves the plain subject on fixed noise, and the gradients of that."""
        assert self.keep_rows is not None
        with torch.enable_grad():
            rows = self.prior.sample(self.plain, seeds=self._seeds("keep", KEPT))
            loss = (rows - self.keep_rows).square().sum(dim=1).mean()
            found = torch.autograd.grad(
                self.spec.keep * loss, list(self.leaves.values()), allow_unused=True
            )
        grads = [
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(self.leaves.values(), found, strict=True)
        ]
        return float(loss.detach()), grads

    def _tokens(self) -> list[Token]:
        """The word as it is now, with gradients; none where only a LoRA is trained."""
        if self.own is None:
            return []
        return [Token(self.word, self.own.literal, self.own.vectors())]

    # Checks

    @property
    def is_check_due(self) -> bool:
        """At the start, every so many steps, and after the last."""
        if self.ended or self.checked == self.index:
            return False
        return self.index % self.spec.check_every == 0 or self.index >= self.spec.steps

    def proposal(self) -> Step:
        """How rare fresh pictures are now, with the full pictures that the validator is to see."""
        spec, facts = self.spec, self.backbone.facts
        seen, rows = self._draw(self._seeds("fresh", spec.fresh))
        measured = self.aims.measure(seen, rows)
        self.waiting = measured, rows.mean(dim=0).cpu()
        token = self._token()
        jobs = tuple(
            Job(
                base=facts.name,
                base_digest=facts.digest,
                prompt=self.prompt,
                seed=derive(self.seed, "pictures", at),
                size_px=facts.size_px,
                steps=facts.steps,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype=facts.dtype,
                tokens=((token.word, token.id),) if token else (),
            )
            for at in range(spec.proposals)
        )
        return Step(
            index=self.index,
            total=spec.steps,
            values=self.values | self._told(measured),
            tokens=(token,) if token else (),
            proposals=jobs,
            classes=("yes", "no"),
            question=spec.question.replace("{subject}", self.quest.subject),
        )

    def _told(self, measured: Measured) -> dict[str, float]:
        return {
            "rarity": round(measured.rarity, 6),
            "d2": round(measured.distance, 3),
            "cosine": round(measured.cosine, 4),
            "beside": round(measured.beside, 3),
            "lr": self.spec.lr * self.slower,
        }

    def _draw(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[b d] embeddings of the word's pictures, in colours and as rarity looks at them; without
        gradient.
        """
        parts = [list(seeds[at : at + 4]) for at in range(0, len(seeds), 4)]
        with torch.no_grad():
            cond = self.text.encode([self.prompt], self._tokens())

        def embed(part: Sequence[int]) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                return looks(self.prior, cond, part, grey=self.grey)

        seen, rows = zip(*self.workers.map(embed, parts), strict=True)
        return torch.cat(seen), torch.cat(rows)

    def take(self, answer: Feedback | None) -> tuple[str, ...]:
        """Accept the state, or go back to the last one that was accepted. Says what to read."""
        assert self.waiting is not None
        (measured, middle), self.waiting = self.waiting, None
        yes, notices = self._yes(answer), []
        is_first = self.checked < 0
        is_valid = math.isnan(yes) or yes >= self.spec.accept
        is_near = self.spec.floor == "none" or measured.cosine >= self.aims.floor
        if is_first and not is_valid:
            notices.append(
                f"the validator says no to the plain start, too (p of yes {yes:.2f}): its answers "
                "may say little here"
            )
        is_accepted = is_first or (is_valid and is_near)
        drawn = self._drawn_rarity(answer)
        self.checks.append(
            [
                *(float(self.index), measured.distance, measured.rarity, measured.cosine),
                *(measured.beside, drawn, yes, float(is_accepted), self.spec.lr * self.slower),
            ]
        )
        self.path.append(middle)
        self.checked = self.index
        told = {"accepted": float(is_accepted), "p_yes": yes, "rarity_drawn": drawn}
        self.values |= self._told(measured) | {
            name: round(value, 6) for name, value in told.items() if not math.isnan(value)
        }
        violation = self.aims.violation(measured.distance)
        if is_accepted:
            self.held = self.held + 1 if violation == 0 else 0
            self.accepted = self._state()
            off = self.aims.off_middle(measured.distance)
            if off <= self.best_off:
                self.best, self.best_off = self.accepted, off
            if self.held >= self.spec.hold:
                self.ended = "reached"
        else:
            self.held = 0
            self._set(self.accepted)
            self.pullbacks += 1
            if self.pullbacks > self.spec.retries:
                self.ended = "pulled back"
        return tuple(notices)

    def _yes(self, answer: Feedback | None) -> float:
        """The mean probability of yes; NaN where nobody was asked."""
        labels = [each for each in (answer.labels if answer else ()) if each is not None]
        if answer is not None and answer.labels and not labels:
            return 0.0  # what cannot be drawn is no creature
        found = [dict(each.probabilities).get("yes") for each in labels]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known else math.nan

    def _drawn_rarity(self, answer: Feedback | None) -> float:
        """Of the full pictures; NaN where none came back."""
        images = [each for each in (answer.pictures if answer else ()) if each is not None]
        if not images:
            return math.nan
        rows = self.prior.pictures(images, grey=self.grey).float().to(self.backbone.device)
        return self.aims.measure(rows, rows).rarity

    # States

    def _state(self) -> _Kept:
        """Copies of leaves and moments."""
        found = {}
        for name, leaf in self.leaves.items():
            found[name] = leaf.detach().clone()
            own = self.optimiser.state.get(leaf, {})
            for moment in MOMENTS:
                kept = own.get(moment)
                found[f"{moment}{SEPARATOR}{name}"] = (
                    torch.zeros_like(leaf) if kept is None else kept.detach().clone()
                )
        return _Kept(found, self.taken)

    def _set(self, kept: _Kept) -> None:
        self.taken = kept.taken
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(kept.tensors[name])
                self.optimiser.state[leaf] = {
                    "step": torch.tensor(float(kept.taken)),
                    **{
                        moment: kept.tensors[f"{moment}{SEPARATOR}{name}"].to(leaf.device).clone()
                        for moment in MOMENTS
                    },
                }

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
        numbers = [
            *(self.index, self.pullbacks, self.held, self.checked, ENDS.index(self.ended)),
            *(self.taken, self.accepted.taken, self.best.taken),
        ]
        found = {
            "numbers": torch.tensor(numbers),
            "off": torch.tensor([self.best_off], dtype=torch.float64),
            "losses": torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 4),
            "checks": torch.tensor(self.checks, dtype=torch.float64).reshape(-1, len(COLUMNS)),
        }
        if self.path:
            found["path"] = torch.stack(self.path)
        for stem, kept in (("now", self._state()), ("ok", self.accepted), ("best", self.best)):
            found |= {f"{stem}/{name}": value for name, value in kept.tensors.items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        numbers = [int(value) for value in state["numbers"]]
        self.index, self.pullbacks, self.held, self.checked = numbers[:4]
        self.ended = ENDS[numbers[4]]
        self.best_off = float(state["off"][0])
        self.losses, self.checks = state["losses"].tolist(), state["checks"].tolist()
        self.path = list(state["path"].unbind()) if "path" in state else []

        def kept(stem: str, taken: int) -> _Kept:
            start = f"{stem}/"
            tensors = {
                name.removeprefix(start): value.to(self.backbone.device).clone()
                for name, value in state.items()
                if name.startswith(start)
            }
            return _Kept(tensors, taken)

        self.accepted, self.best = kept("ok", numbers[6]), kept("best", numbers[7])
        self._set(kept("now", numbers[5]))

    # The end

    def _token(self, facts: Mapping[str, Any] | None = None) -> Token | None:
        """The word as it is now, to be drawn with."""
        if self.own is None:
            return None
        vectors = {
            name: rows.detach().float().cpu().clone().contiguous()
            for name, rows in self.own.vectors().items()
        }
        return Token(self.word, self.own.literal, vectors | self.own.plain, dict(facts or {}))

    def artefact(self, ended: str) -> Artefact:
        """The best accepted state: in the shell, else nearest to it, the latest of equals."""
        self._set(self.best)
        seen, finals = self._draw(self._seeds("finals", self.spec.fresh))
        measured = self.aims.measure(seen, finals)
        distances = self.aims.gaussian.distance(finals).tolist()
        facts = {
            "prompt": self.prompt,
            "ended": ended,
            "steps": self.index,
            "pullbacks": self.pullbacks,
            "rarity": measured.rarity,
            "distance": measured.distance,
            "cosine": measured.cosine,
            "beside": measured.beside,
            "distances": distances,
            "rarities": [self.aims.baseline.rarity(each) for each in distances],
            "wanted": self.spec.rarity,
            "shell": [self.aims.low, self.aims.high],
            "is_extrapolated": self.spec.rarity > self.aims.baseline.reach,
            "quantiles": [[share, self.aims.baseline.quantile(share)] for share in SHARES],
            "axes": self.aims.baseline.axes,
            "baseline": len(self.aims.baseline.rows),
            "anchor_cap": self.aims.cap,
            "anchor_floor": self.aims.floor,
            "is_grey": self.grey,
            "curves": [dict(zip(("index", "loss", "rare", "anchor"), row, strict=True))
                       for row in self.losses],
            "checks": [_told_check(row) for row in self.checks],
            "cloud": self._cloud(finals.cpu()),
            "words": self.own.shares() if self.own else [],
        }  # fmt: skip
        recipe = {
            "kind": "token",
            "method": "lowprob",
            "spec": asdict(self.spec),
            "template": self.prompt.replace(self.word, "{word}"),
            "prompt": self.quest.prompt,
            "base": self.backbone.facts.backbone,
            "base_digest": self.backbone.facts.digest,
            "base_licence": self.backbone.facts.licence,
            "seed": self.seed,
            "steps": self.index,
            "ended": ended,
            "rarity": measured.rarity,
            "version": __version__,
        }
        return Artefact(
            token=self._token(recipe),
            lora=dict(self.lora.tensors()) if self.lora is not None else None,
            ended=ended,
            steps=self.index,
            facts=facts,
        )

    def _cloud(self, finals: Tensor) -> dict[str, Any]:
        """Baseline, path and final pictures in the plane of the drift and the widest axis that is
        square to it, in standard deviations of the baseline.
        """
        gaussian = self.aims.baseline.gaussian
        spots = gaussian.places(finals, self.aims.baseline.axes)
        along = torch.nn.functional.normalize(spots.mean(dim=0), dim=0)
        across = torch.zeros_like(along)
        # The widest axis that the drift leaves room for.
        free = int((along.abs() < 0.9).nonzero()[0]) if len(along) > 1 else 0
        across[free] = 1.0
        across = torch.nn.functional.normalize(across - (across @ along) * along, dim=0)
        plane = torch.stack([along, across], dim=1)

        def flat(rows: Tensor) -> list[list[float]]:
            found = gaussian.places(rows, self.aims.baseline.axes) @ plane
            points: list[list[float]] = found.tolist()
            return [[round(value, 4) for value in point] for point in points]

        rows = self.aims.baseline.rows
        chosen = rows[:: max(1, math.ceil(len(rows) / CLOUD))]
        path = torch.stack(self.path) if self.path else finals[:0]
        return {
            "axes": ["along the drift", "across it"],
            "baseline": flat(chosen),
            "path": flat(path),
            "finals": flat(finals),
        }


def _told_check(row: Sequence[float]) -> dict[str, Any]:
    """One check as plain JSON: None where nobody answered."""
    found: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    found = {name: None if math.isnan(value) else value for name, value in found.items()}
    return found | {"index": int(row[0]), "is_accepted": bool(found["is_accepted"])}
