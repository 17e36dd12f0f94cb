"""DisTok: losses against a plain rewriting, the pool, resumed runs, fusing without torch."""

from __future__ import annotations

import array
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from creatok_cli.concepts.classes import ClassList
from creatok_cli.domain import Labels
from creatok_cli.errors import InputError, MethodDiverged, UnknownName
from creatok_cli.methods import _distok, distok
from creatok_cli.methods._distok import DIRICHLET, Maps, Pool, _Study
from creatok_cli.methods.base import Artefact, Brief, Feedback, Step
from creatok_cli.methods.distok import Spec
from creatok_cli.tokens.network import Network, Part, network_bytes
from creatok_cli.tokens.token import Token

SHORT = Spec(
    steps=12,
    samples=4,
    hidden=16,
    latent=5,
    anchor="a pig",
    estimate_from=2,
    estimate_every=3,
    estimate=3,
    report_every=1,
)
SMALL = replace(SHORT, vectors=2, decoder="classes", place=1.0, anchor="", e1="1")


@pytest.fixture
def classes() -> ClassList:
    names = ("pig", "owl", "cat", "bee", "fox", "crab")
    return ClassList(
        name="few",
        digest="sha256:" + "0" * 64,
        classes=names,
        noun="creature",
        question="What creature is in the photo?",
        source="",
        licence="cc0-1.0",
        note="",
    )


def labelled(names: Sequence[str], shares: Mapping[str, float]) -> Labels:
    return Labels(probabilities=tuple((name, shares.get(name, 0.0)) for name in names))


def answer(step: Step, names: Sequence[str]) -> Feedback:
    """Labels that follow from the seed of each picture; some sharp, some mixed."""
    labels: list[Labels | None] = []
    for at, _ in enumerate(step.proposals):
        latent = at // 2
        first = names[(step.index + latent) % len(names)]
        second = names[(step.index + latent + 1) % len(names)]
        weight = 0.97 if latent == 0 else 0.6
        labels.append(labelled(names, {first: weight, second: 1 - weight}))
    pictures = [Image.new("RGB", (8, 8), (at, 0, 0)) for at, _ in enumerate(step.proposals)]
    return Feedback(labels=labels, pictures=pictures)


def train(
    backbone: Any, classes: ClassList, spec: Spec, seed: int = 3, until: int = 10**9, **brief: Any
) -> tuple[Artefact | None, list[Step]]:
    run = distok.build(spec).run(backbone, Brief(verb="fuse", classes=classes, **brief), seed=seed)
    steps: list[Step] = []
    reply: Feedback | None = None
    while True:
        try:
            step = run.send(reply) if steps else next(run)
        except StopIteration as end:
            return end.value, steps
        steps.append(step)
        if step.checkpoint is not None and step.index >= until:
            run.close()
            return None, steps
        reply = answer(step, classes.classes) if step.proposals else None


def network_of(artefact: Artefact | None) -> Network:
    assert artefact is not None
    assert artefact.network is not None
    return artefact.network


@pytest.fixture(params=["rows", "classes"])
def trained(request: pytest.FixtureRequest, backbone: Any, classes: ClassList) -> Network:
    return network_of(train(backbone, classes, SHORT if request.param == "rows" else SMALL)[0])


# Using a network


def parts_of(
    network: Network, mix: Mapping[str, float]
) -> list[tuple[float, dict[str, array.array[float]]]]:
    return [(weight, distok.class_row(network, name)) for name, weight in mix.items()]


def by_torch(network: Network, mix: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """The same maps as torch computes them."""

    def tensor(name: str) -> torch.Tensor:
        part = network.tensors[name]
        return torch.frombuffer(bytearray(part.data), dtype=torch.float32).view(part.shape).double()

    encoders = sorted(network.widths)
    rows = torch.cat([tensor(f"rows/{name}") for name in encoders], dim=1)
    names = network.classes
    mixed = sum(weight * rows[names.index(name)] for name, weight in mix.items())
    center, scale = tensor("center"), tensor("scale")

    def layers(name: str, values: torch.Tensor) -> torch.Tensor:
        hidden = tensor(f"{name}/0/weight") @ values + tensor(f"{name}/0/bias")
        return tensor(f"{name}/1/weight") @ functional.gelu(hidden) + tensor(f"{name}/1/bias")

    written = layers("decode", layers("encode", (mixed - center) / scale))
    written = written.view(network.recipe["spec"]["vectors"], -1)
    if network.recipe["spec"]["decoder"] == "classes":
        found = written.softmax(dim=-1) @ rows
    else:
        found = center + scale * written
    widths = [network.widths[name] for name in encoders]
    return dict(zip(encoders, torch.split(found, widths, dim=-1), strict=True))


def test_fusing_without_torch_says_what_torch_says(trained: Network) -> None:
    mix = {"pig": 0.55, "owl": 0.25, "cat": 0.2}
    found, wanted = distok.fuse(trained, parts_of(trained, mix)), by_torch(trained, mix)
    assert set(found) == set(wanted)
    for name, (shape, data) in found.items():
        rows = torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
        assert shape == tuple(wanted[name].shape)
        assert torch.allclose(rows.double(), wanted[name], atol=1e-6, rtol=1e-6)


def test_the_order_of_a_mix_changes_no_byte(trained: Network) -> None:
    mix = {"pig": 0.1, "owl": 0.2, "cat": 0.3, "bee": 0.4}
    turned = dict(reversed(mix.items()))
    assert distok.fuse(trained, parts_of(trained, mix)) == distok.fuse(
        trained, parts_of(trained, turned)
    )


def test_a_network_survives_its_file(trained: Network, tmp_path: Any) -> None:
    from creatok_cli.tokens.network import read_network

    path = tmp_path / "network.safetensors"
    path.write_bytes(network_bytes(trained))
    again = read_network(path)
    mix = {"pig": 0.5, "crab": 0.5}
    assert again.id == trained.id
    assert distok.fuse(again, parts_of(again, mix)) == distok.fuse(trained, parts_of(trained, mix))


def test_other_mixes_are_other_tokens(trained: Network) -> None:
    near = distok.fuse(trained, parts_of(trained, {"pig": 0.6, "owl": 0.4}))
    far = distok.fuse(trained, parts_of(trained, {"pig": 0.4, "owl": 0.6}))
    assert near != far


def test_an_unknown_class_is_told(trained: Network) -> None:
    with pytest.raises(UnknownName, match="unknown concept 'pgi'; did you mean \"pig\""):
        distok.class_row(trained, "pgi")


def test_fusing_imports_no_torch() -> None:
    code = (
        "import sys, creatok_cli.methods.distok; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Training


def test_equal_seeds_give_equal_networks_and_others_do_not(
    backbone: Any, classes: ClassList
) -> None:
    first = network_of(train(backbone, classes, SMALL)[0])
    again = network_of(train(backbone, classes, SMALL)[0])
    other = network_of(train(backbone, classes, SMALL, seed=4)[0])
    assert network_bytes(first) == network_bytes(again)
    assert first.id != other.id


@pytest.mark.parametrize("spec", [SHORT, SMALL], ids=["rows", "classes"])
@pytest.mark.parametrize("until", [1, 3, 7, 11])
def test_resumed_from_any_step_ends_with_the_same_bytes(
    backbone: Any, classes: ClassList, spec: Spec, until: int
) -> None:
    whole = network_of(train(backbone, classes, spec)[0])
    _, steps = train(backbone, classes, spec, until=until)
    resumed, _ = train(backbone, classes, spec, resume=steps[-1].checkpoint)
    assert network_bytes(network_of(resumed)) == network_bytes(whole)


def test_losses_are_the_published_ones(backbone: Any, classes: ClassList) -> None:
    spec = replace(SHORT, e1="0.4", e2="0.1", alpha=2.0, beta=3.0, gamma=0.5, unit_variance=0.25)
    study = _Study(spec, backbone, backbone.text, classes, 3)
    pair, single = study._mix(_dice()), None
    while single is None or single.kind != 1:
        single = study._sample(_dice(1 if single is None else single.kind + 5))
    samples = [pair, single]
    latents = study.maps.latents(torch.stack([sample.mixed for sample in samples]))
    rows = study.maps.tokens(study.maps.written(latents))
    kinds = torch.tensor([0, 1])
    total, _ = study._text_loss(study._embedded(rows), samples, kinds)

    wanted = []
    for at, sample in enumerate(samples):
        parts = torch.split(rows[at], [study.widths[name] for name in study.encoders], dim=-1)
        vectors = {
            name: part.detach().clone() for name, part in zip(study.encoders, parts, strict=True)
        }
        token = Token("<t>", "creature", vectors, {})
        states = backbone.text.pooled(["a photo of a <t>", "a pig"], [token])
        for name in study.encoders:
            ours, anchor = functional.normalize(states[name], dim=-1)
            cosine = float(ours @ sample.goals[name])
            if at == 0:
                loss = 2.0 * (2.0 - min(cosine, 0.4) - min(float(ours @ anchor), 0.1))
            else:
                loss = 3.0 * (1.0 - cosine)
            wanted.append(loss / 2 / len(study.encoders))
    assert float(total.detach()) == pytest.approx(sum(wanted), abs=1e-4)

    z = study.maps.latents(study.reference)
    mean, var = z.mean(dim=0), z.var(dim=0)
    reg = 0.5 * (mean**2).mean() / (var.mean() + 1e-6)
    reg = reg + 0.25 * (var - 1 - var.log()).mean()
    assert float(study._latent_loss().detach()) == pytest.approx(float(reg.detach()), rel=1e-5)


def _dice(seed: int = 0) -> Any:
    import random

    return random.Random(seed)


def test_goals_are_the_prompts_that_samples_name(backbone: Any, classes: ClassList) -> None:
    study = _Study(SMALL, backbone, backbone.text, classes, 3)
    plain = backbone.text.pooled(["a pig crab"], [])
    for name in study.encoders:
        found = study.pairs[0, 5][name]
        assert torch.allclose(found, functional.normalize(plain[name][0], dim=-1), atol=1e-6)


def test_place_draws_known_answers_into_the_rows(backbone: Any, classes: ClassList) -> None:
    spec = replace(SMALL, steps=400, estimate_every=0, lr=0.01, hidden=64, report_every=400)
    network = network_of(train(backbone, classes, spec)[0])
    rows = distok.fuse(network, parts_of(network, {"owl": 1.0}))
    for name, (shape, data) in rows.items():
        found = torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
        own = torch.tensor(distok.class_row(network, "owl")[name])
        assert torch.allclose(found, own.expand_as(found), atol=0.05)


def test_training_lowers_the_loss(backbone: Any, classes: ClassList) -> None:
    spec = replace(SHORT, steps=300, estimate_every=0, report_every=10, lr=0.01, hidden=64)
    spec = replace(spec, anchor="", e1="1", gamma=0.0, unit_variance=0.0)
    _, steps = train(backbone, classes, spec)
    losses = [step.values["loss"] for step in steps if "loss" in step.values]
    assert losses[-1] < 0.5 * losses[0]


def test_a_loss_that_is_not_finite_is_told(
    backbone: Any, classes: ClassList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Study, "_latent_loss", lambda self: torch.tensor(math.nan))
    with pytest.raises(MethodDiverged, match="step 0"):
        train(backbone, classes, SHORT)


def test_a_stop_ends_with_the_state_and_no_network(backbone: Any, classes: ClassList) -> None:
    run = distok.build(SHORT).run(backbone, Brief(verb="fuse", classes=classes), seed=3)
    next(run)
    step = run.send(Feedback(stop=True))
    assert step.checkpoint is not None
    with pytest.raises(StopIteration) as end:
        next(run)
    assert end.value.value.ended == "stopped"
    assert end.value.value.network is None


def test_no_classes_is_an_error(backbone: Any) -> None:
    with pytest.raises(InputError, match="classes"):
        distok.build(SHORT).run(backbone, Brief(verb="fuse"), seed=0)


# The pool


def test_proposals_share_their_tokens_and_name_the_classes(
    backbone: Any, classes: ClassList
) -> None:
    _, steps = train(backbone, classes, SHORT)
    asked = [step for step in steps if step.proposals]
    assert [step.index for step in asked] == [3, 6, 9]
    for step in asked:
        assert len(step.tokens) == 3
        assert len(step.proposals) == 6
        assert step.checkpoint is None
        assert step.classes == classes.classes
        words = tuple((token.word, token.id) for token in step.tokens)
        assert {job.tokens for job in step.proposals} == {words}
        assert len({job.seed for job in step.proposals}) == 6
    latents = {step.tokens[0].id for step in asked}
    assert len(latents) == len(asked)


def test_what_is_a_known_class_stays_out(backbone: Any, classes: ClassList) -> None:
    network = network_of(train(backbone, classes, SHORT)[0])
    assert network.pool_size == 3 * 2  # the first latent of each estimation is labelled .97
    shares = torch.tensor(network.tensors["pool/p"].values()).view(6, 6)
    assert torch.allclose(shares.sum(dim=1), torch.ones(6), atol=1e-6)
    assert float(shares.max()) == pytest.approx(0.6)
    assert list(network.tensors["pool/step"].values()) == [3, 3, 6, 6, 9, 9]
    assert network.tensors["pool/pictures"].shape == (6, 64, 64, 3)


@pytest.mark.parametrize(
    ("rows", "is_novel"),
    [
        ([{"pig": 0.6, "owl": 0.4}, {"pig": 0.6, "owl": 0.4}], True),
        ([{"pig": 0.9, "owl": 0.1}, {"pig": 0.9, "owl": 0.1}], False),
        ([{"pig": 1.0}, {"owl": 1.0}], False),
        ([dict.fromkeys(("pig", "owl", "cat", "bee", "fox", "crab"), 1 / 6)] * 2, False),
    ],
    ids=["mixed", "known", "seeds-differ", "flat"],
)
def test_the_novelty_rule(
    backbone: Any, classes: ClassList, rows: list[dict[str, float]], is_novel: bool
) -> None:
    study = _Study(replace(SHORT, spread=5.0), backbone, backbone.text, classes, 3)
    shares = study._shares([labelled(classes.classes, row) for row in rows])
    assert shares is not None
    assert study._is_novel(shares) is is_novel


def test_a_missing_picture_leaves_its_latent_out(backbone: Any, classes: ClassList) -> None:
    study = _Study(SHORT, backbone, backbone.text, classes, 3)
    whole = labelled(classes.classes, {"pig": 0.5, "owl": 0.5})
    assert study._shares([whole, None]) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 20))
def test_the_pool_is_first_in_first_out(limit: int, count: int) -> None:
    pool = Pool(limit)
    for at in range(count):
        row = torch.full((1, 2), float(at))
        pool.add(row, row, row[0], {"clip_l": row[0]}, at, torch.zeros(1, 1, 3))
    kept = list(range(max(0, count - limit), count))
    assert pool.steps == pool.serials == kept
    assert [float(row[0, 0]) for row in pool.rows] == kept
    assert len(pool) == len(pool.pictures) == len(pool.embedded) == len(kept)


def test_pool_entries_serve_in_both_losses(backbone: Any, classes: ClassList) -> None:
    study = _Study(replace(SHORT, novel=1.0, novel_pairs=1.0), backbone, backbone.text, classes, 3)
    step = study.proposal()
    study.learn_labels(answer(step, classes.classes))
    assert len(study.pool) == 2
    kinds = {study._sample(_dice(at)).kind for at in range(40)}
    assert kinds == {0, 2}
    mix = study._mix(_dice(1))
    assert mix.known is None
    wanted = (study.pool.rows[0].mean(dim=0) + study.pool.rows[1].mean(dim=0)) / 2
    assert torch.allclose(mix.mixed, wanted)


def test_the_reference_mixes_are_distributions(backbone: Any, classes: ClassList) -> None:
    study = _Study(SHORT, backbone, backbone.text, classes, 3)
    assert study.reference.shape == (_distok.REFERENCE, sum(study.widths.values()))
    assert torch.isfinite(study.reference).all()
    assert 0 < DIRICHLET < 1


def test_maps_of_classes_stay_inside_the_rows_of_classes() -> None:
    rows = torch.randn(5, 4)
    maps = Maps(SMALL, rows, rows.std(dim=0), 0)
    found = maps.tokens(maps.written(torch.randn(9, SMALL.latent)))
    assert found.shape == (9, 2, 4)
    assert (found <= rows.max(dim=0).values + 1e-6).all()
    assert (found >= rows.min(dim=0).values - 1e-6).all()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"samples": 0},
        {"mixing": 1.5},
        {"tau": -0.1},
        {"lr": 0.0},
        {"e1": "high"},
        {"e2": "2"},
        {"restrictive": "a {a}"},
        {"adaptive": "a photo"},
        {"vectors": 17},
    ],
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Spec(**change)


def test_parts_are_little_endian_floats() -> None:
    part = _distok._part(torch.tensor([[1.0, -2.5]]))
    assert part == Part("F32", (1, 2), bytes.fromhex("0000803f000020c0"))
