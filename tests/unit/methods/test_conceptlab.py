"""ConceptLab: the loss against a plain rewriting, the loop on a tiny Kandinsky, labels that become
negatives, accepted states, resumed runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from creatok_cli import registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.domain import Labels
from creatok_cli.errors import ArtefactError, InputError, MethodDiverged
from creatok_cli.methods import conceptlab
from creatok_cli.methods._conceptlab import seen_in, yes_of
from creatok_cli.methods._likeness import Likeness, bare, draw_usual, positives_of, sampled
from creatok_cli.methods.base import Artefact, Brief, Feedback, Quest, Step
from creatok_cli.methods.conceptlab import Spec

CLASSES = ("pig", "snake", "owl", "dragon", "fox")
QUEST = Quest(subject="creature", like=("a dragon",), unlike=("pig", "an owl"), classes=CLASSES)
SHORT = Spec(
    templates=("a photo of a {word}", "a red {word}"),
    steps=6,
    lr=0.02,
    batch=2,
    check_every=3,
    ask_every=2,
    plain=2,
    fresh=2,
    same=1.0,  # random towers find all texts alike
)
Answer = Callable[[Step], Feedback]


@pytest.fixture
def backbone(tiny_kandinsky: Callable[[str], Path]) -> Any:
    facts = resolve(str(tiny_kandinsky("2.2")))
    module = registry.get("backbones", facts.backbone)
    return module.build(module.Spec(), facts, device="cpu", dtype="fp32")


def nobody(step: Step) -> Feedback:
    return Feedback()


def yes(step: Step) -> Feedback:
    count = len(step.proposals)
    return Feedback(labels=[labelled({"yes": 0.9, "no": 0.1})] * count)


def labelled(shares: Mapping[str, float], *words: str) -> Labels:
    return Labels(probabilities=tuple(shares.items()), words=words)


def run(
    backbone: Any,
    spec: Spec = SHORT,
    quest: Quest = QUEST,
    *,
    seed: int = 3,
    answer: Answer = nobody,
    resume: Mapping[str, torch.Tensor] | None = None,
) -> tuple[list[Step], Artefact]:
    """All Steps, and the find."""
    going = conceptlab.build(spec).run(
        backbone, Brief(verb="explore", quest=quest, resume=resume), seed=seed
    )
    steps: list[Step] = []
    try:
        step = next(going)
        while True:
            steps.append(step)
            step = going.send(answer(step)) if step.proposals else next(going)
    except StopIteration as end:
        return steps, end.value


def prepared(backbone: Any, quest: Quest = QUEST, spec: Spec = SHORT) -> Quest:
    going = draw_usual(spec, backbone, quest)
    try:
        while True:
            next(going)
    except StopIteration as end:
        return replace(quest, prepared=end.value)


def test_terms_are_the_published_ones(backbone: Any) -> None:
    quest = prepared(backbone)
    assert quest.prepared is not None
    like = Likeness(SHORT, backbone.prior, quest, quest.prepared, "cpu")
    rows = torch.nn.functional.normalize(torch.randn(5, backbone.prior.width), dim=1)
    found = like.terms(rows, 1)
    with torch.no_grad():
        dragon, pig, owl = backbone.prior.texts(["a red dragon", "a red pig", "a red owl"])
        plain = backbone.prior.texts([f"a photo of a {each}" for each in CLASSES])
    known, own = quest.prepared["known"], quest.prepared["own"][0]
    cap = max(float((own @ plain[3]).median()), float((known @ plain[3]).median()))
    floors = [
        float((known[[at for at in range(5) if at != skip]] @ plain[skip]).median())
        for skip in (0, 2)
    ]
    assert like.caps == pytest.approx({"dragon": cap})
    assert like.floors == pytest.approx({"pig": floors[0], "owl": floors[1]})
    for row, near, far in zip(rows, found["like"], found["unlike"], strict=True):
        v = [max(float(row @ n), floor) for n, floor in zip((pig, owl), floors, strict=True)]
        assert float(near) == pytest.approx(1 - min(float(row @ dragon), cap), abs=1e-5)
        assert float(far) == pytest.approx(0.5 * (sum(v) / 2 + max(v)), abs=1e-5)
    assert torch.allclose(like.loss(found), found["like"] + found["unlike"])
    fixed = replace(SHORT, cap="0.28", floor="0.2")
    given = Likeness(fixed, backbone.prior, quest, quest.prepared, "cpu")
    assert given.caps == pytest.approx({"dragon": 0.28})
    assert given.floors == pytest.approx({"pig": 0.2, "owl": 0.2})


def test_the_loop_lowers_the_loss_of_fresh_pictures(backbone: Any) -> None:
    quest = replace(prepared(backbone), classes=CLASSES)
    spec = replace(SHORT, cap="1", steps=30, check_every=30, templates=("a photo of a {word}",))
    steps, artefact = run(backbone, spec, quest, answer=yes)
    checks = artefact.facts["checks"]
    assert [check["step"] for check in checks] == [0, 30]
    assert checks[1]["loss"] < checks[0]["loss"] - 0.02
    assert artefact.ended == "done"
    assert artefact.steps == 30
    assert artefact.token is not None
    assert artefact.token.recipe["template"] == "a photo of a {word}"
    assert set(artefact.facts["values"]) == {"cosine", "unlike"}
    assert [step.index for step in steps if step.proposals] == [0, 30]
    assert all("loss" in step.values for step in steps[2:])


def test_same_seed_same_find_and_prepared_changes_nothing(backbone: Any) -> None:
    _, first = run(backbone, quest=QUEST)
    _, again = run(backbone, quest=prepared(backbone))
    _, other = run(backbone, quest=prepared(backbone), seed=4)
    assert first.token is not None
    assert again.token is not None
    assert other.token is not None
    assert first.token.id == again.token.id != other.token.id
    assert first.facts == again.facts


@pytest.mark.parametrize("rows", ["free", "words"])
def test_a_search_resumed_anywhere_ends_with_the_same_bytes(backbone: Any, rows: Any) -> None:
    spec = replace(SHORT, adaptive=True, rows=rows, vectors=2, spread=0.1)
    quest = prepared(backbone, QUEST, spec)

    def answer(step: Step) -> Feedback:
        if step.classes == ("yes", "no"):
            return Feedback(labels=[labelled({"yes": 0.2 if step.index else 0.9, "no": 0.1})])
        seen = CLASSES[(step.index + 1) % 5]
        return Feedback(labels=[labelled({name: float(name == seen) for name in CLASSES})])

    steps, whole = run(backbone, spec, quest, answer=answer)
    assert whole.token is not None
    assert [each["words"] for each in whole.facts["ideas"]] == ["snake"]
    states = [step.checkpoint for step in steps if step.checkpoint is not None]
    assert len(states) > spec.steps
    for state in states:
        _, part = run(backbone, spec, quest, answer=answer, resume=state)
        assert part.token is not None
        assert part.token.id == whole.token.id
        assert part.facts == whole.facts
    with pytest.raises(ArtefactError, match="does not fit"):
        run(backbone, replace(spec, vectors=1), quest, resume=states[-1])


def test_what_is_seen_becomes_a_negative_once(backbone: Any) -> None:
    answers = iter(
        [
            labelled({}, "A Fox."),
            labelled({}, "the creature"),
            labelled({}, "dragon"),
            labelled({}, "fox"),
            labelled({}, "x" * 61),
            labelled({"snake": 0.6, "pig": 0.4}),
            labelled({"owl": 0.6, "pig": 0.4}),
        ]
    )

    def answer(step: Step) -> Feedback:
        if step.classes == ("yes", "no"):
            assert "dragon" not in step.question
            return nobody(step)
        assert step.classes == CLASSES
        assert step.question == "What kind of creature is in this photo?"
        return Feedback(labels=[next(answers, labelled({}, "fox"))])

    quest = prepared(backbone)
    spec = replace(SHORT, adaptive=True, steps=8, ask_every=1, most=5)
    steps, found = run(backbone, spec, quest, answer=answer)
    assert found.facts["ideas"] == [{"step": 0, "words": "fox"}, {"step": 5, "words": "snake"}]
    assert list(found.facts["unlike"]) == ["pig", "owl", "fox", "snake"]
    asked = [step for step in steps if step.proposals and step.classes != ("yes", "no")]
    assert [step.index for step in asked] == [*range(8)]
    again = replace(spec, same=0.0)
    _, alike = run(
        backbone, again, quest, answer=lambda step: Feedback(labels=[labelled({}, "snake")])
    )
    assert alike.facts["ideas"] == []
    _, few = run(
        backbone,
        replace(spec, most=3),
        quest,
        answer=lambda step: Feedback(labels=[labelled({}, f"fox {step.index}")]),
    )
    assert len(few.facts["unlike"]) == 3


def test_the_find_is_the_last_accepted_state(backbone: Any) -> None:
    quest = prepared(backbone)
    seen: dict[int, str] = {}

    def answer(step: Step) -> Feedback:
        seen[step.index] = step.tokens[0].id
        share = 0.9 if step.index < 4 else 0.1
        return Feedback(labels=[labelled({"yes": share, "no": 1 - share})])

    _, found = run(backbone, SHORT, quest, answer=answer)
    assert [(each["step"], each["accepted"]) for each in found.facts["checks"]] == [
        (0, True),
        (3, True),
        (6, False),
    ]
    assert found.steps == found.facts["accepted_at"] == 3
    assert found.token is not None
    assert replace(found.token, recipe={}).id == seen[3]
    steps, refused = run(
        backbone, SHORT, quest, answer=lambda step: Feedback(labels=[labelled({"yes": 0.1})])
    )
    assert refused.steps == SHORT.steps
    assert refused.facts["accepted_at"] == -1
    assert any("plain start" in text for step in steps for text in step.notices)


def test_pictures_are_parents(backbone: Any) -> None:
    parents = tuple(Image.new("RGB", (40, 30), colour) for colour in ("red", "orange"))
    quest = prepared(backbone, Quest(subject="fox", toward=parents, classes=CLASSES))
    spec = replace(SHORT, steps=30, check_every=30, templates=("a photo of a {word}",))
    _, found = run(backbone, spec, quest)
    first, last = (each["loss"] for each in found.facts["checks"])
    assert last < first - 0.02
    assert found.facts["like"] == found.facts["unlike"] == {}
    assert -1 <= found.facts["values"]["parents"] <= 1


def test_a_stop_ends_with_the_best_so_far(backbone: Any) -> None:
    going = conceptlab.build(SHORT).run(
        backbone, Brief(verb="explore", quest=prepared(backbone)), seed=1
    )
    step = next(going)
    while step.index < 2:
        step = going.send(nobody(step)) if step.proposals else next(going)
    last = going.send(Feedback(stop=True))
    assert last.checkpoint is not None
    with pytest.raises(StopIteration) as end:
        next(going)
    assert end.value.value.ended == "stopped"
    assert end.value.value.token is not None


def test_what_cannot_be_searched_is_told(backbone: Any) -> None:
    picture = Image.new("RGB", (9, 9))
    for quest, match in (
        (replace(QUEST, away=(picture,)), "for lowprob"),
        (replace(QUEST, origin=picture), "for lowprob"),
        (Quest(classes=CLASSES), "something to be like"),
        (replace(QUEST, classes=("pig",)), "other things in it"),
    ):
        with pytest.raises(InputError, match=match):
            run(backbone, SHORT, quest)
    quest = prepared(backbone)
    with pytest.raises(InputError, match="other classes"):
        run(backbone, SHORT, replace(quest, classes=CLASSES[:3]))
    with pytest.raises(InputError, match="other words"):
        run(backbone, SHORT, replace(quest, like=("fox", "pig"), unlike=()))
    with pytest.raises(InputError, match="a quest"):
        next(conceptlab.build(SHORT).run(backbone, Brief(verb="explore"), seed=0))


def test_what_is_not_finite_ends_the_search(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quest = prepared(backbone)
    plain = type(backbone.prior).sample
    monkeypatch.setattr(
        type(backbone.prior),
        "sample",
        lambda self, cond, **more: plain(self, cond, **more) * float("nan"),
    )
    with pytest.raises(MethodDiverged, match="lower lr"):
        run(backbone, replace(SHORT, cap="1", positive=1e3), quest)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "No"},
        {"templates": ()},
        {"templates": ("a photo",)},
        {"cap": "high"},
        {"floor": "nan"},
        {"cap": "1.5"},
        {"steps": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"batch": 300},
        {"same": 1.5},
        {"accept": -0.1},
        {"most": 0},
    ],
)
def test_specs_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|auto|hold|one|expected|texts"):
        Spec(**wrong)


def test_words_are_taken_bare() -> None:
    assert [bare(each) for each in ("A pet", "the Owl.", "an", " some corn ")] == [
        "pet",
        "owl",
        "an",
        "corn",
    ]
    assert positives_of(Quest(subject="a creature")) == ("creature",)
    assert positives_of(Quest(subject="x", toward=(Image.new("RGB", (9, 9)),))) == ()
    assert positives_of(Quest(like=("a pet", "pet", "Fox"))) == ("pet", "fox")
    assert sampled("abcdef", 3) == ("a", "c", "e")
    assert sampled("ab", 9) == ("a", "b")


def test_answers_are_read() -> None:
    two = [labelled({"pig": 0.6, "owl": 0.4}), labelled({"pig": 0.1, "owl": 0.9})]
    assert seen_in(two) == ["owl"]
    assert seen_in([labelled({}, "A Fox", "tree"), labelled({}, "fox")]) == ["fox"]
    assert seen_in([]) == []
    assert yes_of(Feedback(labels=[labelled({"yes": 0.2}), None])) == pytest.approx(0.2)
    assert yes_of(Feedback(labels=[None])) == 0.0
    assert yes_of(Feedback()) != yes_of(Feedback())
    assert conceptlab.prepared_facts(SHORT, QUEST)["positives"] == ["dragon"]


def test_gradients_reach_the_word_through_the_pictures_of_the_embedded_base() -> None:
    """Two steps by the pixel route, from a cat toward a fish."""
    facts = resolve("bestiary")
    module = registry.get("backbones", facts.backbone)
    base = module.build(module.Spec(), facts, device="cpu", dtype="fp32")
    quest = Quest(subject="creature", like=("a fish",), classes=("cat", "fish", "tree"))
    spec = Spec(
        templates=("a photo of a {word}",),
        cap="1",
        init="cat",
        rows="words",
        grip=1.0,
        lr=0.5,
        steps=2,
        classes=3,
        plain=1,
        fresh=2,
        check_every=2,
    )
    _, found = run(base, spec, quest)
    first, last = (check["cosine"] for check in found.facts["checks"])
    assert last > first
    (shares,) = found.facts["words"]
    assert shares["fish"] > shares["cat"]
    assert found.token is not None
    assert found.token.literal == "cat"
    assert found.token.counts == {"clip_l": 1, "clip_g": 1}
