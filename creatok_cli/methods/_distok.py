"""How DisTok trains: samples that mix two concepts, samples that keep to a known answer, and a pool
of concepts that the network itself invents and the labeler names.

Per sample either the token says what the pair of words says, held to an aesthetic anchor,
`L_mix = (1 - min(E(q_r).E(q_a), e1)) + (1 - min(E(q_s).E(q_a), e2))`, or the token of a labelled
mix says what the labelled thing says, `L_cst = 1 - E(q_a).E(q_known)`. Over the latents z:
`L_reg = |mu|^2 / var` and `L_var = var - 1 - ln var`. From time to time latents z ~ N(0, I) are
decoded, drawn and labelled, and what is no known class joins the pool (Feng et al., CVPR 2026,
arXiv 2505.03667; methods notes, 3.2 to 3.4). Randomness is addressed by step, and the pool is part
of the state, so a resumed run ends with the same bytes.

Deviates: weights of a mix sum to 1 (D2); moments of z from 256 reference rows (D4); L_var (D5);
known classes are consistent from step 0 (D6); entries need labels that agree between seeds, next to
the gate on entropy (D8); caps outside CLIP-L by rule (D11); with `place` a known answer is also
matched in row space, and pairs keep the order of the list, because x does not know the order.

Does not: draw, label, or use a trained network (`distok.py`).
"""

from __future__ import annotations

import array
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from creatok_cli import __version__
from creatok_cli.concepts.classes import ClassList
from creatok_cli.domain import Job, Labels
from creatok_cli.errors import InputError, MethodDiverged
from creatok_cli.methods._units import unit, unit_rows
from creatok_cli.methods.base import Artefact, Brief, Feedback, Run, Step
from creatok_cli.methods.distok import parse_cap, view
from creatok_cli.seeds import derive, generator
from creatok_cli.tokens.network import Network, Part, part_of
from creatok_cli.tokens.token import T5, Token

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from creatok_cli.backbones.base import Backbone, PooledMap, TextSide
    from creatok_cli.methods.distok import Spec

WORD = "<distok>"
REFERENCE = 256
"""Mixes from which the moments of z are taken (methods notes, D4)."""
DIRICHLET = 0.3
TABLE_CLASSES = 128
"""Up to so many classes all pairs are encoded at the start; beyond, each when it is drawn."""
PROBES = 64
"""Pairs and random words from which a cap is chosen."""
THUMBNAIL_PX = 64
E2_QUANTILE = 0.75


class DisTok:
    """Trains one network; see the module docstring."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def run(self, backbone: Backbone, brief: Brief, *, seed: int) -> Run:
        """Steps, some with proposals, then a network. Same seed and labels, same network.

        Raises InputError for a base or classes that do not fit, MethodDiverged when the loss is not
        finite.
        """
        text = backbone.text
        if text is None or brief.classes is None:
            raise InputError("distok needs a base with a text side and a list of classes")
        study = _Study(self.spec, backbone, text, brief.classes, seed)
        if brief.resume is not None:
            study.restore(brief.resume)
        return self._steps(study)

    def _steps(self, study: _Study) -> Run:
        spec, ended = self.spec, "done"
        feedback = yield study.report()
        while study.index < spec.steps:
            if feedback is not None and feedback.stop:
                ended = "stopped"
                yield study.report()
                break
            study.advance()
            if study.is_estimating:
                answer = yield study.proposal()
                if answer is None or answer.stop:
                    # The state before this step's pictures is the last one handed out.
                    ended = "stopped"
                    yield Step(index=study.index, total=spec.steps)
                    break
                study.learn_labels(answer)
            if study.index % spec.report_every == 0 or study.index == spec.steps:
                feedback = yield study.report()
        return Artefact(
            network=study.network() if ended == "done" else None,
            ended=ended,
            steps=study.index,
            facts=study.facts(),
        )


# The networks


class Maps(nn.Module):
    """E_dis and D_tok: x [b d] -> z [b latent] -> what a token is made of [b n d or k]."""

    def __init__(self, spec: Spec, rows: Tensor, scale: Tensor, seed: int) -> None:
        """`rows` [k d] of the classes, `scale` [d]: how far they stray from their mean."""
        super().__init__()
        self.vectors, self.of_classes = spec.vectors, spec.decoder == "classes"
        width = rows.shape[1]
        size = len(rows) if self.of_classes else width
        self.encode = _perceptron(width, spec.hidden, spec.latent, seed, "encode")
        self.decode = _perceptron(spec.latent, spec.hidden, spec.vectors * size, seed, "decode")
        self.register_buffer("rows", rows)
        self.register_buffer("center", rows.mean(dim=0))
        self.register_buffer("scale", scale)

    def latents(self, mixed: Tensor) -> Tensor:
        """[b d] -> [b latent]."""
        found: Tensor = self.encode((mixed - self.center) / self.scale)
        return found

    def written(self, latents: Tensor) -> Tensor:
        """[b latent] -> [b n d] offsets in units of `scale`, or [b n k] log shares of classes."""
        found = self.decode(latents).unflatten(-1, (self.vectors, -1))
        return found.log_softmax(dim=-1) if self.of_classes else found

    def tokens(self, written: Tensor) -> Tensor:
        """What is written as rows [b n d]."""
        if self.of_classes:
            return written.exp() @ self.rows
        return self.center + self.scale * written

    def misplaced(self, written: Tensor, known: Tensor) -> Tensor:
        """[b] distance in row space: mean square in units of `scale`, or cross entropy."""
        if self.of_classes:
            return -(known * written).sum(dim=-1).mean(dim=-1)
        return (written - known).square().mean(dim=(-2, -1))


def _perceptron(inputs: int, hidden: int, outputs: int, seed: int, name: str) -> nn.Sequential:
    """Linear, GELU, linear, with torch's own initial ranges drawn from our seed."""
    layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
    dice = generator(seed, "maps", name)
    with torch.no_grad():
        for layer in (layers[0], layers[2]):
            bound = 1.0 / math.sqrt(layer.in_features)
            for values in (layer.weight, layer.bias):
                values.copy_((torch.rand(values.shape, generator=dice) * 2 - 1) * bound)
    return layers


# The pool


@dataclass(slots=True)
class Pool:
    """Concepts that the network invented: frozen vectors, what the labeler saw, when, a picture."""

    limit: int
    rows: list[Tensor] = field(default_factory=list)
    """[n d] each."""
    known: list[Tensor] = field(default_factory=list)
    """[n d or k] each: the same as the decoder writes it."""
    shares: list[Tensor] = field(default_factory=list)
    """[k] each: class probabilities, the mean over seeds."""
    embedded: list[dict[str, Tensor]] = field(default_factory=list)
    """[d'] per encoder: E(q_a) of the entry."""
    steps: list[int] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)
    """[s s 3] u8."""
    serials: list[int] = field(default_factory=list)
    added: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self,
        rows: Tensor,
        known: Tensor,
        shares: Tensor,
        embedded: dict[str, Tensor],
        step: int,
        picture: Tensor,
    ) -> None:
        """One more; beyond the limit the oldest goes."""
        self.rows.append(rows)
        self.known.append(known)
        self.shares.append(shares)
        self.embedded.append(embedded)
        self.steps.append(step)
        self.pictures.append(picture)
        self.serials.append(self.added)
        self.added += 1
        if len(self.rows) > self.limit:
            for each in (self.rows, self.known, self.shares, self.embedded, self.steps):
                del each[0]  # type: ignore[attr-defined]
            del self.pictures[0], self.serials[0]


# Training


@dataclass(frozen=True, slots=True)
class _Sample:
    """One row of a step's batch."""

    kind: int
    """0 mix, 1 known class, 2 pool entry."""
    mixed: Tensor
    """x [d]."""
    goals: Mapping[str, Tensor]
    """[d'] per encoder."""
    known: Tensor | None
    """[n d or k], where the answer in row space is known."""


class _Study:
    """Everything that a training holds."""

    def __init__(
        self, spec: Spec, backbone: Backbone, text: TextSide, classes: ClassList, seed: int
    ) -> None:
        self.spec, self.backbone, self.text = spec, backbone, text
        self.classes, self.seed, self.index = classes, seed, 0
        self.device = torch.device(backbone.device)
        self.encoders = tuple(sorted(name for name in text.encoders if name != T5))
        self.widths = {name: int(text.encoders[name]) for name in self.encoders}
        rows, scale = self._class_rows()
        self.maps = Maps(spec, rows, scale, seed).to(self.device)
        self.optimiser = torch.optim.AdamW(
            [*self.maps.encode.parameters(), *self.maps.decode.parameters()],
            lr=spec.lr,
            weight_decay=0.0,
        )
        self.pool = Pool(spec.pool)
        self.embed: Mapping[str, PooledMap] = text.pooled_map(
            [spec.adaptive.replace("{word}", WORD)],
            WORD,
            dict.fromkeys(self.encoders, spec.vectors),
        )
        names = classes.classes
        self.singles = unit_rows(text, [spec.single.replace("{a}", name) for name in names])
        self.pairs: dict[tuple[int, int], dict[str, Tensor]] = {}
        if len(names) <= TABLE_CLASSES:
            self._encode_pairs()
        self.anchor = unit_rows(text, [spec.anchor]) if spec.anchor else None
        self.e1, self.e2 = self._caps()
        self.reference = self._reference()
        self.values: dict[str, float] = {}
        self.sums: dict[str, list[float]] = {}
        self.waiting: tuple[Tensor, Tensor] | None = None
        self.curves: list[dict[str, float]] = []

    def _class_rows(self) -> tuple[Tensor, Tensor]:
        """[k d] mean rows of the names, and [d] their RMS deviation, one number per encoder."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.encoders}
        for name in self.classes.classes:
            rows = self.text.rows(name)
            for encoder in self.encoders:
                found[encoder].append(rows[encoder].float().mean(dim=0))
        tables = {encoder: torch.stack(rows) for encoder, rows in found.items()}
        spreads = [
            (table - table.mean(dim=0)).square().mean().sqrt().expand(table.shape[1])
            for table in tables.values()
        ]
        rows = torch.cat(list(tables.values()), dim=1)
        return rows.to(self.device), torch.cat(spreads).to(self.device)

    def _encode_pairs(self) -> None:
        """All pairs that samples draw, in chunks of a fixed order: equal bytes in every run."""
        count = len(self.classes.classes)
        places = [
            (a, b)
            for a in range(count)
            for b in range(count)
            if (a < b if self._is_ordered else a != b)
        ]
        found = unit_rows(self.text, [self._restrictive(a, b) for a, b in places])
        for at, place in enumerate(places):
            self.pairs[place] = {name: found[name][at] for name in self.encoders}

    @property
    def _is_ordered(self) -> bool:
        """Whether pairs keep the order of the list."""
        return self.spec.place > 0

    def _restrictive(self, a: int, b: int) -> str:
        names = self.classes.classes
        return self.spec.restrictive.replace("{a}", names[a]).replace("{b}", names[b])

    def _caps(self) -> tuple[dict[str, float], dict[str, float]]:
        """e1 and e2 per encoder (methods notes, 3.2)."""
        spec, names = self.spec, self.classes.classes
        first, second = parse_cap(spec.e1, "e1"), parse_cap(spec.e2, "e2")
        e1 = dict.fromkeys(self.encoders, first if first is not None else 1.0)
        e2 = dict.fromkeys(self.encoders, second if second is not None else 1.0)
        if first is None:
            dice = random.Random(derive(self.seed, "caps"))
            pairs = [dice.sample(range(len(names)), 2) for _ in range(PROBES)]
            words = self._random_words(dice)
            goals = unit_rows(self.text, [self._restrictive(a, b) for a, b in pairs])
            plain = unit_rows(
                self.text,
                [spec.adaptive.replace("{word}", f"{names[a]} {names[b]}") for a, b in pairs],
            )
            others = unit_rows(self.text, [spec.adaptive.replace("{word}", word) for word in words])
            for name in self.encoders:
                low = float((goals[name] @ others[name].T).mean())
                high = float((goals[name] * plain[name]).sum(dim=1).mean())
                e1[name] = low + 0.5 * (high - low)
        if second is None and self.anchor is not None:
            for name in self.encoders:
                cosines = self.singles[name] @ self.anchor[name][0]
                e2[name] = float(torch.quantile(cosines.float().cpu(), E2_QUANTILE))
        return e1, e2

    def _random_words(self, dice: random.Random) -> list[str]:
        """Words that every encoder knows as one piece."""
        spelled = [
            {word for word in words if len(word) > 2 and word.isascii() and word.isalpha()}
            for _, words in self.text.vocabulary().values()
        ]
        known = sorted(set.intersection(*spelled))
        return dice.sample(known, min(PROBES, len(known)))

    def _reference(self) -> Tensor:
        """[256 d] mixes: a third single classes, a third pairs, a third Dirichlet(.3)."""
        count = len(self.classes.classes)
        dice = random.Random(derive(self.seed, "reference"))
        shares = torch.zeros(REFERENCE, count)
        for row in range(REFERENCE):
            if row % 3 == 0:
                shares[row, dice.randrange(count)] = 1.0
            elif row % 3 == 1:
                shares[row, dice.sample(range(count), 2)] = 0.5
            else:
                drawn = [dice.gammavariate(DIRICHLET, 1.0) for _ in range(count)]
                shares[row] = torch.tensor(drawn) / max(math.fsum(drawn), 1e-30)
        return shares.to(self.device) @ self.maps.rows

    # One step

    def advance(self) -> None:
        """One optimiser step. Raises MethodDiverged."""
        spec = self.spec
        dice = random.Random(derive(self.seed, "samples", self.index))
        samples = [self._sample(dice) for _ in range(spec.samples)]
        latents = self.maps.latents(torch.stack([sample.mixed for sample in samples]))
        written = self.maps.written(latents)
        embedded = self._embedded(self.maps.tokens(written))
        kinds = torch.tensor([sample.kind for sample in samples], device=self.device)
        loss, cosines = self._text_loss(embedded, samples, kinds)
        if spec.place:
            has_known = torch.tensor([s.known is not None for s in samples], device=self.device)
            if has_known.any():
                known = torch.stack([s.known for s in samples if s.known is not None])
                apart = self.maps.misplaced(written[has_known], known)
                loss = loss + spec.place * apart.sum() / len(samples)
                self._note("place", float(apart.detach().mean()))
        loss = loss + self._latent_loss()
        for group in self.optimiser.param_groups:
            group["lr"] = spec.lr * 0.5 * (1.0 + math.cos(math.pi * self.index / spec.steps))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise MethodDiverged(f"step {self.index}: the loss is not finite; lower --set lr=")
        self._note("loss", value)
        for kind, name in enumerate(("cosine to mixes", "cosine to classes", "cosine to finds")):
            chosen = cosines[kinds == kind]
            if len(chosen):
                self._note(name, float(chosen.mean()))
        self.index += 1

    def _embedded(self, tokens: Tensor) -> dict[str, Tensor]:
        """[b n d] -> unit E(q_a) [b d'] per encoder."""
        parts = torch.split(tokens, list(self.widths.values()), dim=-1)
        return {
            name: unit(self.embed[name](part.contiguous())[:, 0])
            for name, part in zip(self.encoders, parts, strict=True)
        }

    def _text_loss(
        self, embedded: Mapping[str, Tensor], samples: Sequence[_Sample], kinds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L_mix and L_cst, averaged over encoders; and the mean cosine of each sample."""
        spec, is_mix = self.spec, kinds == 0
        total = torch.zeros((), device=self.device)
        told = torch.zeros(len(samples), device=self.device)
        for name in self.encoders:
            goals = torch.stack([sample.goals[name] for sample in samples])
            cosines = (embedded[name] * goals).sum(dim=-1)
            mix = 1.0 - cosines.clamp(max=self.e1[name])
            if self.anchor is not None:
                anchored = embedded[name] @ self.anchor[name][0]
                mix = mix + 1.0 - anchored.clamp(max=self.e2[name])
            losses = torch.where(is_mix, spec.alpha * mix, spec.beta * (1.0 - cosines))
            total = total + losses.mean() / len(self.encoders)
            told = told + cosines.detach() / len(self.encoders)
        return total, told

    def _latent_loss(self) -> Tensor:
        """gamma L_reg + L_var over the reference mixes."""
        spec = self.spec
        if not spec.gamma and not spec.unit_variance:
            return torch.zeros((), device=self.device)
        latents = self.maps.latents(self.reference)
        mean, var = latents.mean(dim=0), latents.var(dim=0)
        central = mean.square().mean() / (var.mean() + 1e-6)
        wide = (var - 1.0 - var.clamp_min(1e-12).log()).mean()
        return spec.gamma * central + spec.unit_variance * wide

    # Samples

    def _sample(self, dice: random.Random) -> _Sample:
        if dice.random() < self.spec.mixing:
            return self._mix(dice)
        if self._is_novel_turn(dice, self.spec.novel):
            at = dice.randrange(len(self.pool))
            mixed = self.pool.shares[at] @ self.maps.rows
            return _Sample(2, mixed, self.pool.embedded[at], self.pool.known[at])
        at = dice.randrange(len(self.classes.classes))
        goals = {name: rows[at] for name, rows in self.singles.items()}
        return _Sample(1, self.maps.rows[at], goals, self._written_as([at] * self.spec.vectors))

    def _mix(self, dice: random.Random) -> _Sample:
        """Two concepts, each a class or a pool entry."""
        first, second = self._concept(dice), self._concept(dice)
        while first == second:
            second = self._concept(dice)
        if first[0] == second[0] == "class":
            return self._mix_of_classes(first[1], second[1])
        rows, words, tokens = [], [], []
        for place, (kind, at) in enumerate((first, second)):
            if kind == "class":
                rows.append(self.maps.rows[at])
                words.append(self.classes.classes[at])
            else:
                rows.append(self.pool.rows[at].mean(dim=0))
                words.append(f"<pool-{place}>")
                tokens.append(self._token(words[-1], self.pool.rows[at]))
        prompt = self.spec.restrictive.replace("{a}", words[0]).replace("{b}", words[1])
        return _Sample(0, (rows[0] + rows[1]) / 2, self._goal(prompt, tokens), None)

    def _mix_of_classes(self, a: int, b: int) -> _Sample:
        low, high = (min(a, b), max(a, b)) if self._is_ordered else (a, b)
        if (low, high) not in self.pairs:
            self.pairs[low, high] = self._goal(self._restrictive(low, high), ())
        count = self.spec.vectors
        if count == 1:
            known = (self._written_as([low]) + self._written_as([high])) / 2
        else:
            known = self._written_as([low if at < count / 2 else high for at in range(count)])
        mixed = (self.maps.rows[a] + self.maps.rows[b]) / 2
        return _Sample(0, mixed, self.pairs[low, high], known)

    def _is_novel_turn(self, dice: random.Random, share: float) -> bool:
        """Draws nothing where the answer is known, so that an unused pool changes no sample."""
        return share > 0 and len(self.pool) > 0 and dice.random() < share

    def _concept(self, dice: random.Random) -> tuple[str, int]:
        if self._is_novel_turn(dice, self.spec.novel_pairs):
            return "pool", dice.randrange(len(self.pool))
        return "class", dice.randrange(len(self.classes.classes))

    def _written_as(self, classes: Sequence[int]) -> Tensor:
        """[n d or k]: rows that are these classes' own, as the decoder writes them."""
        places = torch.tensor(classes, device=self.device)
        if self.maps.of_classes:
            return functional.one_hot(places, len(self.maps.rows)).float()
        return (self.maps.rows[places] - self.maps.center) / self.maps.scale

    def _goal(self, prompt: str, tokens: Sequence[Token]) -> dict[str, Tensor]:
        """Unit E of one prompt, encoded alone: company would change its last bits."""
        with torch.no_grad():
            found = self.text.pooled([prompt], tokens)
        return {name: unit(found[name])[0] for name in self.encoders}

    def _token(self, word: str, rows: Tensor) -> Token:
        """[n d] as a token for prompts of this training."""
        parts = torch.split(rows.detach().float().cpu(), list(self.widths.values()), dim=-1)
        vectors = {
            name: part.clone().contiguous() for name, part in zip(self.encoders, parts, strict=True)
        }
        return Token(word, self.classes.noun, vectors, {"kind": "proposal"})

    # Estimation

    @property
    def is_estimating(self) -> bool:
        """Whether this step asks for pictures; after the last one they would teach nothing."""
        spec = self.spec
        is_between = max(1, spec.estimate_from) <= self.index < spec.steps
        return is_between and spec.estimate_every > 0 and self.index % spec.estimate_every == 0

    def proposal(self) -> Step:
        """New latents, decoded, with the pictures that are wanted of them."""
        spec, facts = self.spec, self.backbone.facts
        dice = generator(self.seed, "latents", self.index)
        latents = torch.randn(spec.estimate, spec.latent, generator=dice).to(self.device)
        with torch.no_grad():
            written = self.maps.written(latents)
            rows = self.maps.tokens(written)
        self.waiting = rows, written.exp() if self.maps.of_classes else written
        tokens = tuple(self._token(f"<novel-{at}>", rows[at]) for at in range(spec.estimate))
        words = tuple((token.word, token.id) for token in tokens)
        jobs = tuple(
            Job(
                base=facts.name,
                base_digest=facts.digest,
                prompt=spec.adaptive.replace("{word}", token.word),
                seed=derive(self.seed, "pictures", self.index, at, turn),
                size_px=facts.size_px,
                steps=facts.steps,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype=facts.dtype,
                tokens=words,
            )
            for at, token in enumerate(tokens)
            for turn in range(spec.seeds)
        )
        return Step(
            index=self.index,
            total=spec.steps,
            tokens=tokens,
            proposals=jobs,
            classes=self.classes.classes,
            question=self.classes.question,
        )

    def learn_labels(self, answer: Feedback) -> None:
        """The novelty rule: what is no known class, and labelled alike twice, joins the pool."""
        assert self.waiting is not None
        (rows, written), self.waiting = self.waiting, None
        spec, kept = self.spec, 0
        embedded = self._embedded_once(rows)
        for at in range(spec.estimate):
            part = slice(at * spec.seeds, (at + 1) * spec.seeds)
            shares = self._shares(answer.labels[part])
            picture = next((each for each in answer.pictures[part] if each is not None), None)
            if shares is None or picture is None or not self._is_novel(shares):
                continue
            kept += 1
            self.pool.add(
                rows=rows[at],
                known=written[at],
                shares=shares.mean(dim=0).float().to(self.device),
                embedded={name: states[at] for name, states in embedded.items()},
                step=self.index,
                picture=_thumbnail(picture),
            )
        self._note("novel", kept / spec.estimate)

    def _embedded_once(self, rows: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return self._embedded(rows)

    def _shares(self, labels: Sequence[Labels | None]) -> Tensor | None:
        """[seeds k] f64, or None where a picture is missing."""
        if not labels or any(each is None for each in labels):
            return None
        found = [dict(each.probabilities) for each in labels if each is not None]
        return torch.tensor(
            [[row[name] for name in self.classes.classes] for row in found], dtype=torch.float64
        )

    def _is_novel(self, shares: Tensor) -> bool:
        """See `Spec.tau`, `spread` and `agreement`."""
        return not view(shares.tolist()).fault(self.spec)

    # Reports and state

    def _note(self, name: str, value: float) -> None:
        self.sums.setdefault(name, []).append(value)

    def report(self) -> Step:
        """Means since the last report, with the state of this moment."""
        if self.sums:
            self.values = {name: sum(each) / len(each) for name, each in self.sums.items()}
            self.values["pool"] = float(len(self.pool))
            self.curves.append({"step": float(self.index), **self.values})
            self.sums = {}
        return Step(
            index=self.index,
            total=self.spec.steps,
            values=dict(self.values),
            checkpoint=self.state(),
        )

    def state(self) -> dict[str, Tensor]:
        """Tensors from which the run goes on."""
        found: dict[str, Tensor] = {"index": torch.tensor([self.index, self.pool.added])}
        for name, value in self._parameters().items():
            found[f"maps/{name}"] = value.detach().clone()
            for moment in ("exp_avg", "exp_avg_sq"):
                kept = self.optimiser.state.get(value, {}).get(moment)
                if kept is not None:
                    found[f"{moment}/{name}"] = kept.detach().clone()
        pool = self.pool
        if len(pool):
            found["pool/rows"] = torch.stack(pool.rows)
            found["pool/known"] = torch.stack(pool.known)
            found["pool/shares"] = torch.stack(pool.shares)
            found["pool/steps"] = torch.tensor([pool.steps, pool.serials])
            found["pool/pictures"] = torch.stack(pool.pictures)
            for name in self.encoders:
                found[f"pool/embedded/{name}"] = torch.stack([e[name] for e in pool.embedded])
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self.index, added = (int(value) for value in state["index"])
        with torch.no_grad():
            for name, value in self._parameters().items():
                value.copy_(state[f"maps/{name}"])
                if f"exp_avg/{name}" in state:
                    self.optimiser.state[value] = {
                        "step": torch.tensor(float(self.index)),
                        **{
                            moment: state[f"{moment}/{name}"].clone().to(value.device)
                            for moment in ("exp_avg", "exp_avg_sq")
                        },
                    }
        pool = self.pool
        if "pool/rows" in state:
            pool.rows = list(state["pool/rows"].to(self.device).unbind())
            pool.known = list(state["pool/known"].to(self.device).unbind())
            pool.shares = list(state["pool/shares"].to(self.device).unbind())
            pool.steps, pool.serials = state["pool/steps"].tolist()
            pool.pictures = list(state["pool/pictures"].unbind())
            parts = {n: state[f"pool/embedded/{n}"].to(self.device) for n in self.encoders}
            pool.embedded = [
                {name: rows[at] for name, rows in parts.items()} for at in range(len(pool.rows))
            ]
        pool.added = added

    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.maps.named_parameters())

    def facts(self) -> dict[str, Any]:
        """For the report: curves and caps."""
        return {"curves": self.curves, "e1": self.e1, "e2": self.e2, "pool": len(self.pool)}

    def network(self) -> Network:
        """The trained network with its classes and its pool."""
        maps, facts = self.maps, self.backbone.facts
        tensors: dict[str, Part] = {}
        start = 0
        for name, width in self.widths.items():
            tensors[f"rows/{name}"] = _part(maps.rows[:, start : start + width])
            start += width
        tensors["center"], tensors["scale"] = _part(maps.center), _part(maps.scale)
        for name, layers in (("encode", maps.encode), ("decode", maps.decode)):
            for place, layer in enumerate((layers[0], layers[2])):
                tensors[f"{name}/{place}/weight"] = _part(layer.weight)
                tensors[f"{name}/{place}/bias"] = _part(layer.bias)
        with torch.no_grad():
            latents = maps.latents(self.reference)
        tensors["latents/mean"] = _part(latents.mean(dim=0))
        tensors["latents/covariance"] = _part(torch.cov(latents.T).reshape(latents.shape[1], -1))
        pool = self.pool
        if len(pool):
            tensors["pool/rows"] = _part(torch.stack(pool.rows).flatten(1))
            tensors["pool/p"] = _part(torch.stack(pool.shares))
            tensors["pool/step"] = part_of("I64", (len(pool),), array.array("q", pool.steps))
            pictures = torch.stack(pool.pictures)
            data = bytes(pictures.contiguous().numpy().tobytes())
            tensors["pool/pictures"] = Part("U8", tuple(pictures.shape), data)
        table, _ = next(iter(self.text.vocabulary().values()))
        recipe = {
            "kind": "network",
            "method": "distok",
            "spec": asdict(self.spec),
            "base": facts.backbone,
            "base_digest": facts.digest,
            "base_licence": facts.licence,
            "encoders": {name: self.text.digests()[name] for name in self.encoders},
            "widths": dict(self.widths),
            "classes": {
                "name": self.classes.name,
                "digest": self.classes.digest,
                "names": list(self.classes.classes),
                "question": self.classes.question,
            },
            "caps": {"e1": dict(self.e1), "e2": dict(self.e2)},
            "precision": str(table.dtype).removeprefix("torch."),
            "seed": self.seed,
            "steps": self.index,
            "labeler": {},
            "version": __version__,
        }
        return Network(tensors, recipe)


def _part(values: Tensor) -> Part:
    ready = values.detach().float().cpu().contiguous()
    return Part("F32", tuple(ready.shape), ready.numpy().astype("<f4", copy=False).tobytes())


def _thumbnail(picture: Image) -> Tensor:
    """[64 64 3] u8."""
    small = picture.convert("RGB")
    if small.size != (THUMBNAIL_PX, THUMBNAIL_PX):
        small = small.resize((THUMBNAIL_PX, THUMBNAIL_PX))
    flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return flat.view(THUMBNAIL_PX, THUMBNAIL_PX, 3).clone()
