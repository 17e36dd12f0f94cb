"""Contact sheets: everything fits, nothing overlaps, unchanged pages stay."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli.domain import Failed, Job, Plan, Score
from creatok_cli.plan.batches import make_plan
from creatok_cli.sinks import contact_sheet
from creatok_cli.sinks._layout import cut_pages, font, shortened, tile_size, wrap
from creatok_cli.sinks._ledger import pictures, read
from creatok_cli.sinks.contact_sheet import BACKGROUND, Spec, draw_page, page_names
from creatok_cli.strict_picture import check_picture
from creatok_cli.workflows._run import run
from tests.fakes.drawing import FakeRenderer, finish, job, jobs, plan, task

LONG = "an extraordinarily detailed " + "very " * 60 + "long prompt about a pig"
WORD = "x" * 900


def awkward() -> Plan:
    """Long, empty, wide and many: what a layout must survive."""
    made: list[Job] = []

    def add(row: str, prompt: str, count: int, size_px: tuple[int, int]) -> None:
        for index in range(count):
            bare = job(prompt, index, "x", row=row, index=len(made), size_px=size_px)
            made.append(replace(bare, name=f"{row}/{len(made):04d}-{bare.key[3:11]}"))

    add("short", "a pig", 1, (64, 64))
    add("short", LONG, 1, (64, 64))
    add("short", WORD, 3, (64, 64))
    add("many", "twenty pigs", 20, (64, 64))
    add("wide", "a wide pig", 3, (320, 64))
    add("large", "a large pig", 2, (512, 384))
    add("tiny", "", 2, (8, 8))
    add("r" * 80, "control \x1b[31m characters\nand <b>markup</b> \u4e2d\u6587 \u0627", 9, (96, 96))
    return make_plan(made, sheet="a sheet with a " + "long " * 40 + "name", batch_class=8)


class Pen:
    """Records the box of every text and tile of a page."""

    def __init__(self) -> None:
        self.texts: list[tuple[tuple[float, float, float, float], str]] = []
        self.tiles: list[tuple[float, float, float, float]] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        put, tile = contact_sheet.put, contact_sheet.draw_tile

        def watched_put(
            pen: Any, at: Any, text: str, size_px: int, colour: Any, width: int
        ) -> None:
            face = font(size_px)
            fits = shortened(text, face, width)
            assert face.getlength(fits) <= width
            if fits:
                self.texts.append((pen.textbbox(at, fits, font=face), fits))
            put(pen, at, text, size_px, colour, width)

        def watched_tile(out: Any, image: Any, pen: Any, picture: Any, size: Any, at: Any) -> bool:
            self.tiles.append((*at, at[0] + size[0], at[1] + size[1]))
            return tile(out, image, pen, picture, size, at)

        monkeypatch.setattr(contact_sheet, "put", watched_put)
        monkeypatch.setattr(contact_sheet, "draw_tile", watched_tile)


def overlap(a: Any, b: Any) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def figure(name: str, value: float, note: str = "") -> Score:
    return Score(name=name, value=value, unit="x", range=(0, 1), better="higher", note=note)


FIGURES = (
    figure("clip", 0.25),
    figure("novelty", 0.125, f"folder/{WORD}"),
    figure("bright", 0.5, "a note of \x1b several words that need a line"),
)


@pytest.mark.parametrize("scored", [0, 1, 3])
def test_nothing_overlaps_or_leaves_the_page(
    scored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = awkward()
    finish(run(task(tmp_path, whole, sinks=())))
    shown = pictures(whole, read(tmp_path))
    # One picture is without, as where a scorer could not read it.
    scores = {p.line.file: FIGURES[:scored] for p in shown[1:]}
    rows = {p.job.row: FIGURES[:scored] for p in shown}
    pages = cut_pages(Spec(page_height_px=1400), shown, scores, rows)
    facts = contact_sheet.Facts.of(whole.sheet, shown)
    out: Any = type("Out", (), {"folder": tmp_path, "picks": frozenset()})
    assert len(pages) > 1
    tiles = 0
    for number, page in enumerate(pages, start=1):
        pen = Pen()
        with monkeypatch.context() as patch:
            pen.watch(patch)
            image, is_whole = draw_page(out, facts, page, number, len(pages))
        assert is_whole
        assert image.width <= 1760 + 80
        assert image.height <= 1400
        boxes = [box for box, _ in pen.texts]
        for box in [*boxes, *pen.tiles]:
            assert 0 <= box[0] < box[2] <= image.width, box
            assert 0 <= box[1] < box[3] <= image.height, box
        for a, b in combinations([*boxes, *pen.tiles], 2):
            assert not overlap(a, b), (a, b)
        tiles += len(pen.tiles)
    assert tiles == len(whole.jobs)


def test_sizes_on_the_page() -> None:
    spec = Spec()
    assert tile_size(spec, (64, 64)) == (192, 192)
    assert tile_size(spec, (96, 64)) == (192, 128)
    assert tile_size(spec, (128, 128)) == (128, 128)
    assert tile_size(spec, (256, 256)) == (256, 256)
    assert tile_size(spec, (1024, 512)) == (256, 128)
    assert tile_size(spec, (5000, 1)) == (256, 1)


def test_labels() -> None:
    assert wrap("a photo of a pig", 400, 2) == ("a photo of a pig",)
    two = wrap(LONG, 400, 2)
    assert len(two) == 2
    assert two[1].endswith("\u2026")
    assert LONG.startswith(two[0])
    (one,) = wrap(WORD, 200, 1)
    assert one.endswith("\u2026")
    assert wrap("", 100, 2) == ("",)
    assert shortened("x" * 10**6, font(17), 100).endswith("\u2026")


def test_page_names() -> None:
    assert page_names(0) == []
    assert page_names(1) == ["contact-sheet.png"]
    assert page_names(2) == ["contact-sheet-001.png", "contact-sheet-002.png"]


def test_the_page_shows_the_pictures(tmp_path: Path) -> None:
    whole = plan(4, per_prompt=4, size_px=(64, 64))
    summary, _, _ = finish(run(task(tmp_path, whole, sinks=("contact_sheet",))))
    assert summary.contact_sheets == (str(tmp_path / "contact-sheet.png"),)
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        page = sheet.convert("RGB")
    assert page.getpixel((1, 1)) == BACKGROUND
    from tests.fakes.drawing import picture

    colours = {colour for _, colour in page.getcolors(1 << 24)}
    for each in whole.jobs:
        centre = picture(each).getpixel((32, 32))
        assert centre in colours


def begun(folder: Path, colours: dict[str, str]) -> tuple[Plan, dict[str, str]]:
    """Two prompts from each of the pictures, one without, and where the pictures lie."""
    made, starts = [], {}
    for name, colour in colours.items():
        Image.new("RGB", (40, 20), colour).save(folder / f"{name}.png")
        digest = check_picture(folder / f"{name}.png").digest
        starts[digest] = str(folder / f"{name}.png")
        for prompt in ("a pig", "an owl"):
            given = {"init_image": digest, "strength": 0.5}
            made.append(job(prompt, 1, f"{name}/{prompt}", row="restyle", **given))
    made.append(job("a pig", 1, "none", row="restyle"))
    return make_plan(made, sheet="begun", batch_class=4), starts


def test_a_picture_to_begin_from_is_shown_once_before_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = {"lime": "#01fe02", "rose" * 30: "#fe0180"}
    whole, starts = begun(tmp_path, colours)
    out = tmp_path / "out"
    summary, _, _ = finish(run(task(out, whole, sinks=("contact_sheet",), starts=starts)))
    shown = pictures(whole, read(out))
    pages = cut_pages(Spec(), shown, starts=starts)
    blocks = [block for page in pages for strip in page for block in strip.blocks]
    first, second = starts
    assert [block.start for block in blocks] == [first, "", second, "", ""]
    assert [block.label for block in blocks] == ["a pig", "an owl"] * 2 + ["a pig"]
    pen = Pen()
    with monkeypatch.context() as patch:
        pen.watch(patch)
        held: Any = type("Out", (), {"folder": out, "picks": frozenset(), "starts": starts})
        facts = contact_sheet.Facts.of(whole.sheet, shown)
        image, is_whole = draw_page(held, facts, pages[0], 1, 1)
    assert is_whole
    assert "from lime.png" in [text for _, text in pen.texts]
    for a, b in combinations([*(box for box, _ in pen.texts), *pen.tiles], 2):
        assert not overlap(a, b), (a, b)
    with Image.open(summary.contact_sheets[0]) as page:
        seen = {colour for _, colour in page.convert("RGB").getcolors(1 << 24)}
    assert seen == {colour for _, colour in image.getcolors(1 << 24)}
    assert {(1, 254, 2), (254, 1, 128)} <= seen
    assert len(cut_pages(Spec(), shown)[0]) == len(pages[0])


def test_a_picture_to_begin_from_that_changed_is_not_shown(tmp_path: Path) -> None:
    whole, starts = begun(tmp_path, {"lime": "#01fe02"})
    (path,) = starts.values()
    Image.new("RGB", (40, 20), "#0102fe").save(path)
    out = tmp_path / "out"
    finish(run(task(out, whole, sinks=("contact_sheet",), starts=starts)))
    with Image.open(out / "contact-sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}
    assert contact_sheet.FAULT in colours
    assert (1, 2, 254) not in colours


def test_failed_and_missing_pictures_have_a_tile(tmp_path: Path) -> None:
    def fault(drawn: Job) -> Failed | None:
        return Failed(job=drawn, kind="oom", message="x") if drawn.index == 1 else None

    whole = plan(3)
    finish(run(task(tmp_path, whole, FakeRenderer(fault=fault))))
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}
    assert contact_sheet.FAULT in colours


def test_an_unchanged_page_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan(3)
    finish(run(task(tmp_path, whole)))
    path = tmp_path / "contact-sheet.png"
    before = path.stat().st_mtime_ns, path.read_bytes()

    def never(*arguments: Any) -> Any:
        raise AssertionError("drawn again")

    monkeypatch.setattr(contact_sheet, "draw_page", never)
    finish(run(task(tmp_path, whole)))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_pages_of_a_longer_plan_go_and_strangers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "Spec", lambda: Spec(page_height_px=700))
    long = make_plan(jobs(40, per_prompt=1), sheet="fake", batch_class=8)
    finish(run(task(tmp_path, long)))
    assert len(list(tmp_path.glob("contact-sheet-*.png"))) > 1
    Image.new("RGB", (4, 4)).save(tmp_path / "contact-sheet-mine.png")
    short = make_plan(jobs(40, per_prompt=1)[:2], sheet="fake", batch_class=8)
    finish(run(task(tmp_path, short)))
    names = sorted(path.name for path in tmp_path.glob("contact-sheet*.png"))
    assert names == ["contact-sheet-mine.png", "contact-sheet.png"]


def test_a_picture_called_contact_sheet_is_not_replaced(tmp_path: Path) -> None:
    """The name belongs to a job here: its picture stays, the sheet is told to be missing."""
    whole = make_plan([replace(jobs(1)[0], name="contact-sheet")], sheet="fake", batch_class=1)
    summary, events, _ = finish(run(task(tmp_path, whole, sinks=("contact_sheet",))))
    assert summary.code == 0
    assert any("no contact sheet of creatok" in getattr(e, "message", "") for e in events)
    again, _, _ = finish(run(task(tmp_path, whole, sinks=("contact_sheet",))))
    assert (again.skipped, again.failed) == (1, 0)
