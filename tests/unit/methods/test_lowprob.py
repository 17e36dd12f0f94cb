"""Low-probability exploration on a base of a few matrices: shells, checks, pullbacks, resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from creatok_cli import registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.domain import Labels
from creatok_cli.errors import InputError, MethodDiverged
from creatok_cli.methods import lowprob
from creatok_cli.methods.base import Artefact, Brief, Feedback, Quest, Step
from creatok_cli.methods.lowprob import Spec
from tests.fakes.searching import Searched, picture

QUEST = Quest(prompt="a photo of a creature", subject="creature", classes=("pig", "owl", "snake"))
SPEC = Spec(
    rarity=0.98, steps=120, batch=4, lr=0.02, lora_lr=0.05, baseline=400, axes=8, check_every=10
)
PLAIN: dict[str, torch.Tensor] = {}


def prepared() -> dict[str, torch.Tensor]:
    """The baseline of SPEC, drawn once."""
    if not PLAIN:
        PLAIN.update(drain(lowprob.prepare(SPEC, Searched(), QUEST))[1])
    return PLAIN


def drain(run: Any, answer: Callable[[Step], Feedback | None] | None = None) -> tuple[Any, Any]:
    """All Steps, and what the generator returned."""
    steps, feedback = [], None
    try:
        while True:
            step = run.send(feedback)
            steps.append(step)
            feedback = answer(step) if answer is not None else None
    except StopIteration as end:
        return steps, end.value


def search(
    spec: Spec = SPEC,
    answer: Callable[[Step], Feedback | None] | None = None,
    *,
    base: Searched | None = None,
    seed: int = 3,
    resume: Mapping[str, torch.Tensor] | None = None,
    **quest: Any,
) -> tuple[list[Step], Artefact]:
    asked = replace(QUEST, prepared=prepared(), **quest)
    brief = Brief(verb="explore", quest=asked, resume=resume)
    found: tuple[list[Step], Artefact] = drain(
        lowprob.build(spec).run(base or Searched(), brief, seed=seed), answer
    )
    return found


def yes(chance: float, *, until: int = 1_000_000) -> Callable[[Step], Feedback | None]:
    """A validator that says so before a step, and no from then on."""

    def answer(step: Step) -> Feedback | None:
        if not step.proposals:
            return None
        p = chance if step.index < until else 0.1
        labels = [Labels(probabilities=(("yes", p), ("no", 1 - p)))] * len(step.proposals)
        return Feedback(labels=labels, pictures=[picture(9)] * len(step.proposals))

    return answer


def same(first: Artefact, second: Artefact) -> None:
    assert first.facts == second.facts
    if first.token is not None and second.token is not None:
        assert first.token.id == second.token.id
    for name, value in (first.lora or {}).items():
        assert torch.equal(value, (second.lora or {})[name])


def test_the_plain_baseline_does_not_depend_on_the_seed_of_a_run() -> None:
    steps, rows = drain(lowprob.prepare(SPEC, Searched(), QUEST, seed=5))
    assert torch.equal(rows["embeddings"], prepared()["embeddings"])
    assert rows["embeddings"].shape == (400, 24)
    assert steps[-1].index == steps[-1].total == 400
    assert lowprob.prepared_facts(SPEC, QUEST)["prompt"] == QUEST.prompt


def test_a_word_reaches_the_shell_and_stays_what_the_prompt_names() -> None:
    steps, found = search(replace(SPEC, floor="none"), yes(0.9))
    facts = found.facts
    assert found.ended == "reached"
    checks = facts["checks"]
    assert [check["index"] for check in checks] == list(range(0, found.steps + 1, 10))
    low, high = facts["shell"]
    assert all(low <= check["distance"] <= high for check in checks[-3:])
    assert checks[0]["rarity"] < 0.9
    assert all(check["is_accepted"] and check["yes"] == 0.9 for check in checks)
    # A control: the same search without the aim stays where plain pictures are.
    _, idle = search(replace(SPEC, steps=30, lr=1e-9))
    assert idle.facts["distance"] < low <= max(facts["distances"])
    assert found.token is not None
    assert found.token.word == "<lowprob>"
    assert found.token.literal == "creature"
    assert found.token.recipe["template"] == "a photo of a {word}"
    assert found.lora is None
    proposed = [step for step in steps if step.proposals]
    assert proposed[0].classes == ("yes", "no")
    assert "creature" in proposed[0].question
    assert proposed[0].proposals[0].prompt == "a photo of a <lowprob>"
    assert proposed[0].proposals[0].tokens == (("<lowprob>", proposed[0].tokens[0].id),)
    assert not any(step.checkpoint for step in proposed)


def test_the_anchor_holds_the_word_near_the_text() -> None:
    spec = replace(SPEC, floor="none", steps=60)
    _, held = search(replace(spec, anchor=5.0))
    _, loose = search(replace(spec, anchor=0.0))
    assert held.facts["cosine"] > loose.facts["cosine"] + 0.02


def test_the_literal_loss_knows_no_bound() -> None:
    spec = replace(SPEC, floor="none", anchor=0.0, beside=0.0, steps=60, hold=1000)
    _, bounded = search(spec)
    _, literal = search(replace(spec, loss="literal"))
    assert literal.facts["distance"] > 1.3 * bounded.facts["shell"][1]


def test_a_margin_leads_further_into_the_shell() -> None:
    spec = replace(SPEC, floor="none", anchor=0.0, steps=60, hold=1000)
    _, edge = search(spec)
    _, inside = search(replace(spec, margin=1.0))
    low, high = inside.facts["shell"]
    last = [check["distance"] for check in inside.facts["checks"][-3:]]
    before = [check["distance"] for check in edge.facts["checks"][-3:]]
    assert sum(last) > sum(before) + 0.3 * (high - low)


def test_a_no_brings_the_last_accepted_state_back_and_ends() -> None:
    _, short = search(replace(SPEC, steps=20, floor="none"), yes(0.9))
    _, found = search(replace(SPEC, hold=1000, floor="none"), yes(0.9, until=30))
    assert found.ended == "pulled back"
    assert found.steps == 30
    assert [check["is_accepted"] for check in found.facts["checks"]] == [True, True, True, False]
    assert found.token is not None
    assert short.token is not None
    for name, rows in found.token.vectors.items():
        assert torch.equal(rows, short.token.vectors[name])


def test_a_retry_goes_on_slower_with_more_anchor() -> None:
    steps, found = search(
        replace(SPEC, hold=1000, steps=50, retries=1, floor="none"), yes(0.9, until=30)
    )
    checks = found.facts["checks"]
    assert [check["is_accepted"] for check in checks] == [True, True, True, False, False]
    assert [check["lr"] for check in checks] == [0.02, 0.02, 0.02, 0.02, 0.01]
    assert found.ended == "pulled back"
    assert found.facts["pullbacks"] == 2
    assert steps[-1].values["accepted"] == 0


def test_a_start_that_the_validator_refuses_is_accepted_with_a_notice() -> None:
    steps, found = search(replace(SPEC, steps=10), yes(0.2))
    assert any("plain start" in notice for step in steps for notice in step.notices)
    assert found.facts["checks"][0]["is_accepted"]
    assert found.ended == "pulled back"


def test_pictures_that_left_the_prompt_are_refused_without_a_validator() -> None:
    spec = replace(SPEC, anchor=0.0, lr=0.2, loss="literal", hold=1000, steps=60)
    _, found = search(spec)
    checks = found.facts["checks"]
    assert found.ended == "pulled back"
    assert checks[-1]["cosine"] < found.facts["anchor_floor"]
    assert checks[-1]["yes"] is None
    _, free = search(replace(spec, floor="none"))
    assert free.ended == "done"


def test_what_cannot_be_drawn_is_refused() -> None:
    def answer(step: Step) -> Feedback | None:
        if not step.proposals:
            return None
        return Feedback(labels=[None], pictures=[None]) if step.index else yes(0.9)(step)

    _, found = search(answer=answer)
    assert found.ended == "pulled back"
    assert found.facts["checks"][-1]["yes"] == 0


@pytest.mark.parametrize("train", ["token", "lora", "both"])
def test_a_resumed_search_ends_with_the_same_find(train: Any) -> None:
    spec = replace(SPEC, steps=40, train=train, retries=1, hold=1000)
    steps, whole = search(spec, yes(0.9, until=30))
    kept = [step.checkpoint for step in steps if step.checkpoint is not None]
    for state in (kept[0], kept[7], kept[len(kept) // 2], kept[-2], kept[-1]):
        _, again = search(spec, yes(0.9, until=30), resume=state)
        same(whole, again)


def test_other_seeds_find_other_words_and_the_same_seed_the_same() -> None:
    spec = replace(SPEC, steps=20)
    same(search(spec)[1], search(spec)[1])
    first, other = search(spec)[1].token, search(spec, seed=4)[1].token
    assert first is not None
    assert other is not None
    assert first.id != other.id


def test_a_lora_alone_leaves_no_word_and_beside_one_it_spares_the_plain_subject() -> None:
    spec = replace(SPEC, steps=40, hold=1000, floor="none")
    steps, alone = search(replace(spec, train="lora"))
    assert alone.token is None
    assert alone.lora is not None
    assert float(alone.lora["map.lora"].abs().max()) > 0
    assert next(step for step in steps if step.proposals).proposals[0].prompt == QUEST.prompt
    drift = []
    for keep in (0.0, 50.0):
        base = Searched()
        before = Searched().prior.sample(base.text.encode([QUEST.prompt], []), seeds=[1])  # type: ignore[union-attr]
        _, both = search(replace(spec, train="both", keep=keep), base=base)
        assert both.token is not None
        assert both.lora is not None
        assert base.prior is not None
        with torch.no_grad():
            after = base.prior.sample(base.text.encode([QUEST.prompt], []), seeds=[1])
        drift.append(float((after - before).norm()))
    assert drift[1] < 0.7 * drift[0]


def test_strands_with_a_heading_go_apart() -> None:
    spec, places = replace(SPEC, steps=60, floor="none", hold=1000), []
    for heading in (0.0, 5.0):
        middles = []
        for seed in (1, 2):
            base = Searched()
            _, found = search(replace(spec, heading=heading), base=base, seed=seed)
            assert base.prior is not None
            assert found.token is not None
            with torch.no_grad():
                cond = base.text.encode(["a photo of a <lowprob>"], [found.token])
                middles.append(base.prior.sample(cond, seeds=range(40)).mean(dim=0))
        places.append(float((middles[0] - middles[1]).norm()))
    assert places[1] > places[0]


def test_finds_do_not_become_known_classes() -> None:
    classes, nearest = ("animal", "thing", "pet", "beast"), []
    for known in (0.0, 50.0):
        base = Searched()
        spec = replace(SPEC, steps=60, floor="none", hold=1000, anchor=0.0, known=known)
        _, found = search(spec, base=base, classes=classes)
        assert base.prior is not None
        assert found.token is not None
        with torch.no_grad():
            cond = base.text.encode(["a photo of a <lowprob>"], [found.token])
            rows = base.prior.sample(cond, seeds=range(40))
            texts = base.prior.texts([f"a photo of a {name}" for name in classes])
        nearest.append(float((rows @ texts.T).max(dim=1).values.mean()))
    assert nearest[1] < nearest[0] - 0.01


def test_words_are_mixes_of_known_words() -> None:
    spec = replace(SPEC, rows="words", vectors=2, lr=0.3, steps=40, spread=0.5)
    _, found = search(spec)
    assert len(found.facts["words"]) == 2
    for shares in found.facts["words"]:
        assert set(shares) <= {"creature", *QUEST.classes}
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-4)
    assert found.token is not None
    assert found.token.counts == {"clip_l": 2}


def test_the_shell_norm_keeps_lengths() -> None:
    _, found = search(replace(SPEC, norm="shell", steps=20, lr=0.1))
    start = Searched().text.rows("creature")["clip_l"].norm()
    assert found.token is not None
    assert float(found.token.vectors["clip_l"].norm()) == pytest.approx(float(start), rel=1e-4)


def test_example_pictures_pull_and_push() -> None:
    images = tuple(picture(level) for level in (1, 2, 3))
    spec = replace(SPEC, steps=40, direction=5.0, floor="none", hold=1000)
    mean = prepared()["embeddings"].mean(dim=0)
    seen = torch.nn.functional.normalize(
        Searched().prior.pictures(images).mean(dim=0) - mean, dim=0
    )  # type: ignore[union-attr]
    along = []
    for quest in ({"toward": images}, {"away": images}):
        base = Searched()
        steps, found = search(spec, base=base, **quest)
        assert base.prior is not None
        assert found.token is not None
        with torch.no_grad():
            cond = base.text.encode(["a photo of a <lowprob>"], [found.token])
            rows = base.prior.sample(cond, seeds=range(20))
        along.append(float(((rows - mean) @ seen).mean()))
        assert not steps[0].notices
    assert along[0] > along[1]
    few, _ = search(replace(spec, steps=1), toward=images[:1])
    assert "at least 3" in few[0].notices[0]


def test_a_picture_to_vary_keeps_finds_near_it() -> None:
    image = picture(4)
    spec = replace(SPEC, steps=40, floor="none", hold=1000)
    goal = Searched().prior.pictures([image])[0]  # type: ignore[union-attr]
    near = []
    for weight in (0.0, 20.0):
        base = Searched()
        _, found = search(replace(spec, origin=weight), base=base, origin=image)
        assert base.prior is not None
        assert found.token is not None
        with torch.no_grad():
            cond = base.text.encode(["a photo of a <lowprob>"], [found.token])
            near.append(float((base.prior.sample(cond, seeds=range(20)) @ goal).mean()))
    assert near[1] > near[0]


def test_colours_are_left_out_where_the_prior_has_pictures() -> None:
    for colours, wanted in (("ignore", {False, True}), ("count", {False})):
        base = Searched()
        search(replace(SPEC, steps=2, colours=colours), base=base)
        assert base.prior is not None
        assert set(base.prior.greys) == wanted
    base = Searched()
    assert base.prior is not None
    base.prior.route = "prior"
    steps, _ = search(replace(SPEC, steps=2), base=base)
    assert "colours count" in steps[0].notices[0]
    assert set(base.prior.greys) == {False}


def test_the_cloud_is_plain_data_with_the_path_through_it() -> None:
    _, found = search(replace(SPEC, steps=40), yes(0.9))
    cloud = found.facts["cloud"]
    assert 40 <= len(cloud["baseline"]) <= 300
    assert len(cloud["path"]) == len(found.facts["checks"])
    assert len(cloud["finals"]) == SPEC.fresh
    assert cloud["path"][-1][0] > cloud["path"][0][0]
    drifted = sum(point[0] for point in cloud["finals"]) / len(cloud["finals"])
    assert drifted > 1


def test_a_stop_hands_over_what_was_accepted() -> None:
    def answer(step: Step) -> Feedback | None:
        return Feedback(stop=True) if step.index >= 15 else yes(0.9)(step)

    steps, found = search(answer=answer)
    assert found.ended == "stopped"
    assert found.token is not None
    assert steps[-1].index == 15
    _, at_check = search(answer=lambda step: Feedback(stop=True) if step.index == 10 else None)
    assert at_check.ended == "stopped"


@pytest.mark.parametrize(
    "change",
    [
        *({"rarity": 1.0}, {"rarity": 0.01}, {"lr": 0.0}, {"steps": 0}, {"anchor_cap": "2"}),
        *({"anchor_cap": "much"}, {"name": "Two words"}, {"baseline": 10}, {"fresh": 1}),
        *({"anchor": float("nan")}, {"accept": 1.5}, {"margin": 1.1}, {"firmer": 0.5}),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Spec(**change)


def test_a_quest_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="does not hold the subject"):
        search(subject="dragon")
    with pytest.raises(InputError, match="prior"):
        search(base=Searched(prior=None))
    with pytest.raises(InputError, match="baseline"):
        search(replace(SPEC, baseline=5000))
    with pytest.raises(InputError, match="mixed from"):
        search(replace(SPEC, rows="words"), classes=())


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_a_prior_network_is_searched_too(
    version: str, tiny_kandinsky: Callable[[str], Path]
) -> None:
    facts = resolve(str(tiny_kandinsky(version)))
    module = registry.get("backbones", facts.backbone)
    base = module.build(module.Spec(), facts, device="cpu", dtype="fp32")
    spec = replace(SPEC, baseline=60, axes=2, steps=12, lr=0.02, floor="none", check_every=12)
    quest = Quest(prompt=QUEST.prompt, subject=QUEST.subject)
    steps, rows = drain(lowprob.prepare(spec, base, quest))
    assert len(steps) > 1
    assert rows["colours"].shape == (60, 3)
    assert rows["colours"].isfinite().all()
    brief = Brief(verb="explore", quest=replace(quest, prepared=rows))
    steps, found = drain(lowprob.build(spec).run(base, brief, seed=1))
    losses = [step.values["loss"] for step in steps if "loss" in step.values]
    assert min(losses[-3:]) < losses[0]
    assert found.token is not None
    assert sorted(found.token.vectors) == sorted(dict(facts.encoders))
    assert not any("colours count" in notice for step in steps for notice in step.notices)


def test_a_diverging_search_says_so() -> None:
    base = Searched()
    assert base.prior is not None
    plain = base.prior.sample
    base.prior.sample = lambda *given, **how: plain(*given, **how) * float("nan")  # type: ignore[method-assign]
    with pytest.raises(MethodDiverged, match="lower lr"):
        search(base=base)
