"""Candidates: likeness, quality, and which of them are picked; the map of what was looked at."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from creatok_cli.domain import Labels
from creatok_cli.methods.distok import Spec
from creatok_cli.sinks._page import ACCENT
from creatok_cli.workflows import _candidates, _map
from creatok_cli.workflows._candidates import MISSING, Candidate, Judged, judge, likeness
from creatok_cli.workflows._map import Thing, draw_map, plane, settle_down, shown_of

CLASSES = ("red", "green", "blue")


class Eye:
    """Sees the three colours of a picture's first pixel, as shares and as an embedding."""

    def label(
        self, images: Sequence[Image.Image], *, classes: Sequence[str] = (), question: str = ""
    ) -> list[Labels]:
        found = []
        for image in images:
            colours = [value + 1e-3 for value in image.getpixel((0, 0))]
            shares = [value / math.fsum(colours) for value in colours]
            found.append(Labels(probabilities=tuple(zip(classes, shares, strict=True))))
        return found

    def pictures(self, images: Sequence[Image.Image]) -> torch.Tensor:
        rows = torch.tensor([image.getpixel((0, 0)) for image in images], dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=1)


class Blind(Eye):
    """The same without towers."""

    pictures = None  # type: ignore[assignment]


def candidate(index: int) -> Candidate:
    header: Any = SimpleNamespace(id=f"sha256:{index:064d}", word=f"<odd-{index}>")
    return Candidate(
        index=index, name=f"odd-{index}", latent=(0.0,), rows={}, token=b"", header=header
    )


def looked_at(
    monkeypatch: pytest.MonkeyPatch, colours: Sequence[Sequence[tuple[int, int, int]]], **asked: Any
) -> tuple[Judged, ...]:
    """The candidates of so many pictures each, judged."""
    there = [candidate(index) for index in range(len(colours))]
    pictures = {
        one.header.id: tuple(Image.new("RGB", (4, 4), colour) for colour in each)
        for one, each in zip(there, colours, strict=True)
    }
    monkeypatch.setattr(_candidates, "read_pictures", lambda *_: pictures)
    settled = {"labeler": Eye(), "pick": 2} | asked
    return judge(there, Path(), classes=CLASSES, question="", rules=Spec(), **settled)


PURE, MIXED, OTHER = (255, 0, 0), (128, 128, 0), (0, 128, 128)


@pytest.mark.parametrize("labeler", [Eye(), Blind()], ids=["towers", "labels"])
def test_known_unsteady_and_missing_candidates_are_no_finds(
    monkeypatch: pytest.MonkeyPatch, labeler: Any
) -> None:
    judged = looked_at(
        monkeypatch,
        [[PURE] * 2, [MIXED] * 2, [PURE, (0, 0, 255)], [], [OTHER] * 2, [MIXED]],
        labeler=labeler,
        pick=6,
    )
    assert [each.fault for each in judged] == ["known", "", "unsteady", MISSING, "", ""]
    assert [each.is_picked for each in judged] == [False, True, False, False, True, True]
    assert judged[1].looks_like == "red 50%, green 50%"
    assert judged[1].novelty == pytest.approx(0.5, abs=1e-2)
    assert judged[3].picture is None


def test_the_best_and_most_different_are_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [[MIXED] * 2, [(128, 120, 0)] * 2, [(120, 128, 0)] * 2]
    judged = looked_at(monkeypatch, [*alike, [OTHER] * 2], pick=2)
    assert judged[3].is_picked
    assert sum(each.is_picked for each in judged) == 2


def test_a_candidate_whose_pictures_agree_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    steady, shaky = looked_at(monkeypatch, [[MIXED] * 2, [(100, 156, 0), (156, 100, 0)]], pick=1)
    assert steady.quality > shaky.quality
    assert (steady.is_picked, shaky.is_picked) == (True, False)


def test_nothing_drawn_is_nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.fault for each in looked_at(monkeypatch, [[], []])] == [MISSING, MISSING]


def test_likeness_is_the_mean_over_pairs() -> None:
    images = [Image.new("RGB", (2, 2), each) for each in (PURE, MIXED, OTHER)]
    found = likeness(Eye(), images, [], [0, 0, 1])
    half = math.sqrt(0.5)
    assert found.tolist() == [
        [pytest.approx(half), pytest.approx(0.25)],
        [pytest.approx(0.25), pytest.approx(1.0)],
    ]
    by_labels = likeness(Blind(), images[:2], [[1.0, 0.0], [0.0, 1.0]], [0, 1])
    assert torch.allclose(by_labels, torch.eye(2, dtype=torch.float64), atol=1e-9)


# The map


def on_map(index: int, latent: Sequence[float], **changes: Any) -> Judged:
    found = replace(candidate(index), latent=tuple(latent))
    fields = {
        "fault": "",
        "top": (("red", 0.5), ("blue", 0.4)),
        "picture": Image.new("RGB", (64, 64), (90, 160, 40)),
    }
    return Judged(candidate=found, **(fields | changes))


def latents(count: int, seed: int = 0) -> list[list[float]]:
    dice = torch.Generator().manual_seed(seed)
    found: list[list[float]] = torch.randn(count, 5, generator=dice).tolist()
    return found


@given(seed=st.integers(0, 50), count=st.integers(1, 40))
@settings(max_examples=6, deadline=None)
def test_things_on_the_map_do_not_overlap(seed: int, count: int) -> None:
    places, _ = plane(latents(count, seed))
    things = [Thing(home=(x / 2, y / 2), width=80, height=60) for x, y in places]
    settle_down(things)
    for at, one in enumerate(things):
        for other in things[at + 1 :]:
            apart_x = abs(one.x - other.x) - 80
            apart_y = abs(one.y - other.y) - 60
            assert max(apart_x, apart_y) > -1


def test_the_plane_keeps_the_order_along_the_main_axis() -> None:
    line = [[float(step**3), 0.0, 0.1 * (step % 2)] for step in range(6)]
    places, shares = plane(line)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert shares[0] > 0.99
    assert plane([[1.0, 2.0]])[0]  # a single one has a place, too


def test_the_map_frames_finds_and_is_the_same_each_time() -> None:
    rows = latents(12)
    judged = [on_map(at, row, is_picked=at < 2) for at, row in enumerate(rows[:6])]
    judged.append(on_map(6, rows[6], fault="junk"))
    judged.append(on_map(7, rows[7], fault=MISSING, picture=None))
    classes = [(name, row) for name, row in zip(("pig", "polar bear"), rows[8:], strict=False)]
    data = draw_map("odd", classes, judged, "base bestiary")
    assert data == draw_map("odd", classes, judged, "base bestiary")
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (_map.WIDTH, _map.HEIGHT)
        framed = sum(count for count, colour in image.getcolors(1 << 22) if colour == ACCENT)
    sides = 4 * (_map.PICK_PX + _map.FRAME_PX) * _map.FRAME_PX
    assert 2 * sides <= framed < 3 * sides


def test_a_large_search_shows_all_finds_and_some_others() -> None:
    judged = [on_map(at, [0.0], fault="junk" if at % 2 else "") for at in range(400)]
    judged[399] = replace(judged[399], fault="", is_picked=True)
    there = shown_of(judged)
    assert len(there) == 1 + _map.MOST_OTHERS
    assert there[0].candidate.index == 399
    assert not any(each.fault for each in there)
