"""CreTok's fast path against the loop of the paper, and what it promises about runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from creatok_cli.backbones import sd3
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.sets import PairList
from creatok_cli.errors import InputError, MethodDiverged, UnknownName
from creatok_cli.methods import _cretok, cretok
from creatok_cli.methods._ascent import Goal
from creatok_cli.methods._cretok import adaptive_prompts, phrases
from creatok_cli.methods.base import Artefact, Brief, Feedback, Step
from creatok_cli.methods.cretok import Spec
from tests.tiny import build_tiny_sd3

SHORT = Spec(
    steps=60, theta="1.0", init="pig", stop="never", validate_every=20, template="{word} {a} {b}"
)
PAIRED = replace(SHORT, adaptive="", sampling="batch", rows=2, vectors=2)


def learn(
    backbone: Any, pairs: PairList, spec: Spec, seed: int = 3, **brief: Any
) -> tuple[Artefact, list[Step]]:
    run = cretok.build(spec).run(backbone, Brief(verb="learn", pairs=pairs, **brief), seed=seed)
    steps: list[Step] = []
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            return end.value, steps


class PaperLoop:
    """As in the paper: a new row in the embedding table, all 77 positions, both prompts encoded
    again in every step, gradients through the whole table of which all but one row is put back.
    """

    def __init__(self, tower: Any, spec: Spec, pairs: PairList, theta: float) -> None:
        self.tower, self.theta, self.spec = tower, theta, spec
        table = tower._text.embeddings.token_embedding
        start = tower.rows(spec.init).mean(dim=0, keepdim=True)
        self.table = torch.cat([table.weight.detach(), start]).requires_grad_(True)
        self.new = self.table.shape[0] - 1
        self.adaptive, self.restrictive = (
            adaptive_prompts(spec, pairs, pairs.train),
            phrases(spec, pairs, pairs.train),
        )

    def pooled(self, prompts: list[str]) -> torch.Tensor:
        words, text = self.tower.words, self.tower._text
        laid = [words.lay_out_counts(prompt, {f"<{self.spec.name}>": 1}) for prompt in prompts]
        ids = torch.tensor([list(row.ids) for row in laid])
        for b, row in enumerate(laid):
            for place, _, _ in row.holes:
                ids[b, place] = self.new
        embedded = text.embeddings(inputs_embeds=functional.embedding(ids, self.table))
        return functional.normalize(self.tower.run(embedded, [r.eos for r in laid]).pooled, dim=-1)

    def loss(self) -> torch.Tensor:
        adaptive, rows = self.pooled(self.adaptive), self.pooled(self.restrictive)
        return (1 - (adaptive * rows).sum(dim=-1).clamp(max=self.theta)).mean()

    def train(self, steps: int) -> torch.Tensor:
        optimiser = torch.optim.AdamW([self.table], lr=self.spec.lr, weight_decay=0.0)
        frozen = self.table.detach()[:-1].clone()
        for index in range(steps):
            rate = self.spec.lr * 0.5 * (1 + math.cos(math.pi * index / self.spec.steps))
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            self.loss().backward()
            optimiser.step()
            with torch.no_grad():
                self.table[:-1] = frozen
        return self.table.detach()[-1:]


@pytest.mark.parametrize("theta", ["1.0", "rel:0.6"])
@pytest.mark.parametrize("adaptive", [SHORT.adaptive, ""], ids=["constant", "paired"])
def test_gradient_and_trajectory_of_the_paper(
    backbone: Any, pairs: PairList, theta: str, adaptive: str
) -> None:
    spec = replace(SHORT, theta=theta, adaptive=adaptive, steps=50)
    artefact, _ = learn(backbone, pairs, spec)
    problem_theta = artefact.facts["theta"]
    for tower in backbone.text.towers:
        name = tower.words.name
        slow = PaperLoop(tower, spec, pairs, problem_theta[name]["theta"])
        grad = torch.autograd.grad(slow.loss(), slow.table)[0][-1:]
        fast = gradient(backbone, pairs, spec, name)
        assert float(grad.norm()) > 0
        assert float((fast - grad).norm() / grad.norm()) < 1e-5
        expected = slow.train(50)
        found = artefact.token.vectors[name]
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def gradient(backbone: Any, pairs: PairList, spec: Spec, encoder: str) -> torch.Tensor:
    """The gradient of the fast path's own loss of one encoder at its start."""
    from creatok_cli.methods._cretok import CreTok, Problem

    problem = Problem.read(CreTok(spec), backbone, backbone.text, pairs, 3)
    leaf = problem.starts[encoder].clone().requires_grad_(True)
    goal = problem.goals[encoder]
    loss = 1 - goal.cosines(leaf).clamp(max=goal.theta).mean()
    return torch.autograd.grad(loss, leaf)[0][0]


@pytest.mark.parametrize("sampling", ["full", "batch", "paper"])
@pytest.mark.parametrize("adaptive", [SHORT.adaptive, ""], ids=["constant", "paired"])
def test_learning_climbs_and_beats_a_random_row(
    backbone: Any, pairs: PairList, sampling: Any, adaptive: str
) -> None:
    spec = replace(SHORT, sampling=sampling, rows=3, adaptive=adaptive, steps=150)
    artefact, steps = learn(backbone, pairs, spec)
    chance, _ = learn(backbone, pairs, replace(spec, steps=1, init="random", lr=1e-9))
    values = [step.values["J"] for step in steps]
    assert values[-1] > values[0] + 0.05
    assert artefact.token.recipe["J"] > chance.token.recipe["J"]
    assert all(math.isfinite(value) for step in steps for value in step.values.values())


@pytest.mark.parametrize("spec", [SHORT, PAIRED, replace(SHORT, sampling="paper", restarts=3)])
def test_same_seed_same_token_and_other_seed_another(
    backbone: Any, pairs: PairList, spec: Spec
) -> None:
    first, _ = learn(backbone, pairs, spec)
    again, _ = learn(backbone, pairs, spec)
    other, _ = learn(backbone, pairs, spec, seed=4)
    assert first.token.id == again.token.id
    assert first.token.id != other.token.id


@pytest.mark.parametrize(
    "spec",
    [
        SHORT,
        PAIRED,
        replace(SHORT, sampling="paper", restarts=2, norm="shell"),
        replace(SHORT, stop="auto", validate_every=10, lr=1e-7, steps=100),  # a plateau
        replace(
            SHORT, stop="auto", theta="rel:0.05", lr=0.05, steps=100, validate_every=500
        ),  # all capped
    ],
)
def test_resumed_from_any_step_ends_with_the_same_bytes(
    backbone: Any, pairs: PairList, spec: Spec
) -> None:
    whole, steps = learn(backbone, pairs, spec)
    for step in (steps[0], steps[1], steps[len(steps) // 2], steps[-1]):
        resumed, _ = learn(backbone, pairs, spec, resume=step.checkpoint)
        assert resumed.token.id == whole.token.id
        assert resumed.facts == whole.facts


def test_restarts_learn_as_if_alone(backbone: Any, pairs: PairList) -> None:
    spec = replace(SHORT, restarts=3, steps=30)
    together, steps = learn(backbone, pairs, spec)
    alone, _ = learn(backbone, pairs, replace(spec, restarts=1))
    last: Mapping[str, torch.Tensor] = steps[-1].checkpoint or {}
    for name, rows in alone.token.vectors.items():
        torch.testing.assert_close(last[f"vectors/{name}"][0], rows, rtol=1e-4, atol=1e-5)
    assert len(together.facts["spread"]) == 3
    assert together.token.recipe["J"] == max(together.facts["spread"])


def test_an_end_by_cap_keeps_the_first_capped_vectors(backbone: Any, pairs: PairList) -> None:
    spec = replace(SHORT, stop="auto", theta="rel:0.05", lr=0.05, steps=400, validate_every=500)
    artefact, steps = learn(backbone, pairs, spec)
    assert artefact.ended == "capped"
    assert artefact.steps < 400
    assert all(share == 1.0 for share in artefact.facts["capped"].values())
    last: Mapping[str, torch.Tensor] = steps[-1].checkpoint or {}
    moved = [
        float((last[f"vectors/{name}"][0] - rows).norm())
        for name, rows in artefact.token.vectors.items()
    ]
    assert max(moved) > 0  # momentum went on; the token is where the rows were first capped


def test_dead_theta_learns_nothing_and_says_so(backbone: Any, pairs: PairList) -> None:
    artefact, steps = learn(backbone, pairs, replace(SHORT, theta="-1"))
    assert artefact.ended == "dead"
    assert len(steps) == 1
    assert any("--theta rel:" in notice for notice in steps[0].notices)


def test_a_stop_gives_the_state_of_that_moment(backbone: Any, pairs: PairList) -> None:
    run = cretok.build(SHORT).run(backbone, Brief(verb="learn", pairs=pairs), seed=3)
    for _ in range(5):
        step = next(run)
    last = run.send(Feedback(stop=True))
    assert last.index == step.index
    with pytest.raises(StopIteration) as end:
        next(run)
    stopped: Artefact = end.value.value
    assert stopped.ended == "stopped"
    resumed, _ = learn(backbone, pairs, SHORT, resume=last.checkpoint)
    whole, _ = learn(backbone, pairs, SHORT)
    assert resumed.token.id == whole.token.id


def test_vectors_that_run_away_are_told(
    backbone: Any, pairs: PairList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cretok, "MAX_LENGTHS", 2)
    with pytest.raises(MethodDiverged, match="2 times a vocabulary row; lower --lr"):
        learn(backbone, pairs, replace(SHORT, lr=5.0))


def test_a_loss_that_is_not_finite_is_told(
    backbone: Any, pairs: PairList, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Goal.cosines
    calls = itertools.count()

    def broken(self: Goal, vectors: torch.Tensor, which: Any = None) -> torch.Tensor:
        return whole(self, vectors, which) * (math.nan if next(calls) > 40 else 1.0)

    monkeypatch.setattr(Goal, "cosines", broken)
    with pytest.raises(MethodDiverged, match="not finite"):
        learn(backbone, pairs, SHORT)


def test_an_encoder_left_out_keeps_the_start(backbone: Any, pairs: PairList) -> None:
    artefact, _ = learn(backbone, pairs, replace(SHORT, encoders=("clip_l",)))
    assert artefact.initial is not None
    before, after = artefact.initial.vectors, artefact.token.vectors
    assert torch.equal(before["clip_g"], after["clip_g"])
    assert not torch.equal(before["clip_l"], after["clip_l"])


def test_shell_keeps_the_length_of_the_vocabulary(backbone: Any, pairs: PairList) -> None:
    artefact, _ = learn(backbone, pairs, replace(SHORT, norm="shell"))
    for length in artefact.facts["length"].values():
        assert length["after"] == pytest.approx(length["vocabulary"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"encoders": ("clip_h",)}, UnknownName, "did you mean"),
        ({"restrictive": "a {x} {b}"}, InputError, "no slot 'x'"),
        ({"restrictive": "a {} {b}"}, InputError, "cannot be filled"),
    ],
)
def test_what_does_not_fit_is_an_error(
    backbone: Any, pairs: PairList, change: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        learn(backbone, pairs, replace(SHORT, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"lr": 0.0},
        {"theta": "x"},
        {"name": "Big Word"},
        {"restarts": 65},
        {"vectors": 0},
        {"rows": 0},
        {"adaptive": "a photo of a mixture"},
        {"template": ""},
        {"validate_every": 0},
    ],
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the field is in the message, shown with its place
        replace(SHORT, **change)


def test_nothing_held_out_is_no_error(backbone: Any, pairs: PairList) -> None:
    artefact, steps = learn(backbone, replace(pairs, held_out={}), SHORT)
    assert artefact.facts["held_out"] == {}
    assert "cos/clip_l" not in steps[-1].values


def test_held_out_cosines_are_those_of_the_token(backbone: Any, pairs: PairList) -> None:
    artefact, _ = learn(backbone, pairs, SHORT)
    prompts = ["a owl fox", "a fox owl", "a bee crab", "a crab bee"]
    adaptive = backbone.text.pooled(
        [SHORT.adaptive.replace("{word}", "<cretok>")], [artefact.token]
    )
    for name, rows in backbone.text.pooled(prompts, ()).items():
        expected = functional.cosine_similarity(adaptive[name], rows, dim=-1)
        found = torch.tensor(artefact.facts["held_out"]["new"][name]["after"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_recipe_tells_how_the_token_came_to_be(backbone: Any, pairs: PairList) -> None:
    artefact, _ = learn(backbone, pairs, SHORT)
    recipe = artefact.token.recipe
    assert artefact.token.word == "<cretok>"
    assert artefact.token.literal == "creative"
    assert recipe["pairs"]["digest"] == pairs.digest
    assert recipe["base_digest"] == backbone.facts.digest
    assert recipe["spec"]["steps"] == 60
    assert set(recipe["encoders"]) == set(backbone.text.encoders)
    for nearest in artefact.facts["neighbours"].values():
        assert len(nearest) == 5
        cosines = [cosine for _, cosine in nearest]
        assert cosines == sorted(cosines, reverse=True)


def test_a_base_with_t5_gives_the_rows_of_the_word_for_exports(
    pairs: PairList, tmp_path: Path
) -> None:
    from transformers import T5EncoderModel, T5Tokenizer

    folder = build_tiny_sd3(tmp_path / "sd3", t5=True)
    backbone = sd3.build(sd3.Spec(), resolve(str(folder)), device="cpu", dtype="fp32")
    artefact, _ = learn(backbone, pairs, replace(SHORT, word="pig", steps=2))
    ids = T5Tokenizer.from_pretrained(folder / "tokenizer_3")("pig", add_special_tokens=False)
    model = T5EncoderModel.from_pretrained(folder / "text_encoder_3", dtype=torch.float32)
    assert torch.equal(artefact.token.vectors["t5xxl"], model.shared.weight[ids.input_ids].detach())
    assert artefact.initial is not None
    assert torch.equal(artefact.initial.vectors["t5xxl"], artefact.token.vectors["t5xxl"])


@pytest.mark.gpu
@pytest.mark.parametrize("spec", [SHORT, PAIRED], ids=["full", "batch"])
def test_replayed_graphs_take_the_steps_of_the_cpu(
    tiny: Path, backbone: Any, pairs: PairList, spec: Spec
) -> None:
    on_gpu = sd3.build(sd3.Spec(), resolve(str(tiny)), device="cuda:0", dtype="fp32")
    slow, _ = learn(backbone, pairs, spec)
    fast, steps = learn(on_gpu, pairs, spec)
    for name, rows in slow.token.vectors.items():
        torch.testing.assert_close(fast.token.vectors[name], rows, rtol=1e-3, atol=1e-4)
    resumed, _ = learn(on_gpu, pairs, spec, resume=steps[len(steps) // 2].checkpoint)
    assert resumed.token.id == fast.token.id
