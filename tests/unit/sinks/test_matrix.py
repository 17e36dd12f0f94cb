"""The matrix page: one column per job, one row per combination of variables, sections."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli.domain import Failed, Job, Plan
from creatok_cli.plan.batches import make_plan
from creatok_cli.sinks import matrix
from creatok_cli.sinks._layout import font, shortened
from creatok_cli.sinks._ledger import pictures, read
from creatok_cli.sinks._page import ACCENT, BACKGROUND, FAULT
from creatok_cli.sinks.matrix import Spec, Table, draw_page, pattern_of, row_label
from tests.fakes.drawing import FakeRenderer, finish, job, picture, task

PAIRS = (("pig", "owl"), ("dragon", "snake"), ("bee", "cat"))
WORDS = {"plain": "a photo of a {} {}", "<new>": "a photo of a <new> mixture of a {} and a {}"}


def compared(*, seeds: int = 2, size_px: tuple[int, int] = (16, 16)) -> Plan:
    """Two sections of two columns: pictures of three pairs."""
    made: list[Job] = []
    for section, pairs in (("seen", PAIRS[:2]), ("unseen", PAIRS[2:])):
        for column, words in WORDS.items():
            for first, second in pairs:
                for seed in range(seeds):
                    bare = job(
                        words.format(first, second),
                        seed,
                        "x",
                        row=f"{section}/{column}",
                        size_px=size_px,
                        labels=(("a", first), ("b", second)),
                        tokens=(("<new>", "sha256:1"),) if "<" in column else (),
                    )
                    made.append(replace(bare, name=f"{len(made):04d}"))
    return make_plan(made, sheet="a comparison", batch_class=4)


def table_of(folder: Path, whole: Plan, **sizes: int) -> Table:
    """What the page of a drawn plan shows."""
    return Table.of(Spec(**sizes), whole.sheet, pictures(whole, read(folder)))


def test_columns_rows_and_sections(tmp_path: Path) -> None:
    whole = compared()
    finish(run_of(tmp_path, whole))
    table = table_of(tmp_path, whole)
    assert [column.name for column in table.columns] == ["plain", "<new>"]
    assert [column.is_learned for column in table.columns] == [False, True]
    assert [column.across for column in table.columns] == [2, 2]
    assert table.columns[0].pattern == "a photo of a {a} {b}"
    assert table.columns[1].pattern == "a photo of a <new> mixture of a {a} and a {b}"
    labels = [row.label for row in table.rows]
    assert labels == ["seen", "pig + owl", "dragon + snake", "unseen", "bee + cat"]
    assert [len(row.cells) for row in table.rows] == [0, 2, 2, 0, 2]
    for row in table.rows:
        for cell in row.cells:
            assert [each.job.seed for each in cell] == [0, 1]
            assert {row_label(each.job) for each in cell} == {row.label}
    assert table.has_one_seeding
    assert table.left_out == ""


def run_of(folder: Path, whole: Plan, renderer: FakeRenderer | None = None) -> Any:
    """A run with this sink alone beside the core."""
    from creatok_cli.workflows._run import run

    return run(task(folder, whole, renderer, sinks=("matrix",)))


def test_a_pattern_keeps_words_that_only_contain_a_value() -> None:
    made = job("a photo of a cat and a cattle", 0, "x", labels=(("a", "cat"), ("b", "cattle")))
    assert pattern_of(made) == "a photo of a {a} and a {b}"
    plain = job("a pig", 0, "x")
    assert (pattern_of(plain), row_label(plain)) == ("a pig", "a pig")


def test_the_page_shows_every_picture_where_it_belongs(tmp_path: Path) -> None:
    whole = compared()
    summary, _, error = finish(run_of(tmp_path, whole))
    assert error is None
    assert summary.contact_sheets == (str(tmp_path / matrix.NAME),)
    with Image.open(tmp_path / matrix.NAME) as page:
        shown = page.convert("RGB")
    assert shown.getpixel((1, 1)) == BACKGROUND
    colours = {colour for _, colour in shown.getcolors(1 << 24) or ()}
    assert ACCENT in colours
    for each in whole.jobs:
        assert picture(each).getpixel((8, 8)) in colours


def test_nothing_overlaps_or_leaves_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared(size_px=(64, 48))
    finish(run_of(tmp_path, whole))
    long = replace(table_of(tmp_path, whole), sheet="long " * 200)
    boxes: list[tuple[float, float, float, float]] = []
    put, load = matrix.put, matrix.load_tile

    def watched(pen: Any, at: Any, text: str, size: int, colour: Any, width: int) -> None:
        fits = shortened(text, font(size), width)
        boxes.append(pen.textbbox(at, fits, font=font(size)))
        put(pen, at, text, size, colour, width)

    def loaded(out: Any, shown: Any, tile: tuple[int, int]) -> Any:
        assert tile == (128, 96)
        return load(out, shown, tile)

    monkeypatch.setattr(matrix, "put", watched)
    monkeypatch.setattr(matrix, "load_tile", loaded)
    out: Any = type("Out", (), {"folder": tmp_path})
    image, is_whole = draw_page(out, long)
    assert is_whole
    assert len(boxes) > 10
    for box in boxes:
        assert 0 <= box[0] < box[2] <= image.width
        assert 0 <= box[1] < box[3] <= image.height
    for a, b in combinations(boxes, 2):
        assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (a, b)


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    whole = compared()
    finish(run_of(tmp_path, whole))
    small = table_of(tmp_path, whole, content_width_px=400, page_height_px=850)
    assert (len(small.columns), len(small.rows)) == (1, 1)
    assert small.left_out == "1 column and 4 rows"


def test_the_pictures_of_a_cell_go_down_where_the_page_would_be_too_wide(tmp_path: Path) -> None:
    whole = compared(seeds=5)
    finish(run_of(tmp_path, whole))
    wide = table_of(tmp_path, whole)
    assert [column.across for column in wide.columns] == [5, 5]
    narrow = table_of(tmp_path, whole, content_width_px=800)
    assert [column.across for column in narrow.columns] == [2, 2]
    row = next(row for row in narrow.rows if row.cells)
    assert matrix.lines_of(row, narrow.columns) == 3
    out: Any = type("Out", (), {"folder": tmp_path})
    image, is_whole = draw_page(out, narrow)
    assert is_whole
    assert image.height > draw_page(out, wide)[0].height
    shown = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    assert all(picture(each).getpixel((8, 8)) in shown for each in whole.jobs)


def test_an_unchanged_page_is_not_drawn_again_and_a_change_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared()
    finish(run_of(tmp_path, whole))
    path = tmp_path / matrix.NAME
    before = path.read_bytes()

    def never(*words: Any) -> Any:
        raise AssertionError("drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(matrix, "draw_page", never)
        finish(run_of(tmp_path, whole))
    assert path.read_bytes() == before
    finish(run_of(tmp_path, compared(seeds=1)))
    assert path.read_bytes() != before


def test_failed_pictures_have_a_tile_and_strangers_stay(tmp_path: Path) -> None:
    def fault(drawn: Job) -> Failed | None:
        return Failed(job=drawn, kind="oom", message="x") if drawn.seed == 1 else None

    finish(run_of(tmp_path / "a", compared(), FakeRenderer(fault=fault)))
    with Image.open(tmp_path / "a" / matrix.NAME) as page:
        assert FAULT in {colour for _, colour in page.convert("RGB").getcolors(1 << 24) or ()}

    (tmp_path / "b").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "b" / matrix.NAME)
    kept = (tmp_path / "b" / matrix.NAME).read_bytes()
    summary, events, _ = finish(run_of(tmp_path / "b", compared()))
    assert summary.code == 0
    assert any("move it away" in getattr(event, "message", "") for event in events)
    assert (tmp_path / "b" / matrix.NAME).read_bytes() == kept
