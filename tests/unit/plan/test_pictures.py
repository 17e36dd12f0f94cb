"""Pictures that jobs begin from: found, checked with their places, and part of the key."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from creatok_cli.domain import Job
from creatok_cli.errors import SheetError, TokenMissing
from creatok_cli.plan._resolve import STRENGTH
from creatok_cli.plan.batches import make_plan
from creatok_cli.plan.expand import expand
from creatok_cli.plan.pictures import load_pictures, picture_rows
from creatok_cli.plan.sheet import Sheet
from creatok_cli.registry import describe
from tests.unit.plan.kit import BASES, FACTS, file_sheet, jobs_of, sheet_of, yaml_jobs

ABLE = {"bestiary": replace(FACTS, can_start=True)}
SHEET = """\
version: 1
defaults: {init_image: "refs/{from}.png", strength: 0.5}
vars: {from: pig}
jobs:
  - {id: own, prompt: an owl, seeds: [1], strength: 0.25}
  - {id: all, prompt: "a {to}", seeds: [1, 2], matrix: {from: [pig, cat], to: [owl, hen]}}
  - {id: none, prompt: "an owl, not a {from}", seeds: [1], init_image: ~}
"""
DIGESTS = {"refs/pig.png": "sha256:1", "refs/cat.png": "sha256:2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a sheet, with pictures in it and beside it."""
    for name in ("sheets/refs/pig.png", "sheets/refs/cat.png", "outside.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(path)
    return tmp_path / "sheets"


def begun(sheet: Sheet) -> tuple[Job, ...]:
    digests = {path: found.digest for path, found in load_pictures(sheet).items()}
    return expand(sheet, ABLE, {}, None, digests)


def test_pictures_may_be_a_variable_of_a_matrix() -> None:
    jobs = jobs_of(SHEET, bases=ABLE, pictures=DIGESTS)
    assert [(job.row, job.init_image, job.strength) for job in jobs] == [
        ("own", "sha256:1", 0.25),
        *[("all", "sha256:1", 0.5)] * 4,
        *[("all", "sha256:2", 0.5)] * 4,
        ("none", None, None),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert picture_rows(sheet_of(SHEET)) == {"refs/pig.png": 0, "refs/cat.png": 1}
    batches = make_plan(jobs, sheet="x", batch_class=8).batches
    for batch in batches:
        assert len({(job.init_image, job.strength) for job in batch.jobs}) == 1


def test_a_picture_is_its_content_not_its_path() -> None:
    keys = [job.key for job in jobs_of(SHEET, bases=ABLE, pictures=DIGESTS)]
    moved = {path.replace("refs/", "./refs/"): digest for path, digest in DIGESTS.items()}
    text = SHEET.replace("refs/", "./refs/")
    assert [job.key for job in jobs_of(text, bases=ABLE, pictures=moved)] == keys
    other = jobs_of(SHEET, bases=ABLE, pictures=DIGESTS | {"refs/cat.png": "sha256:3"})
    assert [old == new.key for old, new in zip(keys, other, strict=True)] == (
        [True] * 5 + [False] * 4 + [True]
    )
    stronger = jobs_of(SHEET, bases=ABLE, pictures=DIGESTS, overrides={"strength": "0.75"})
    same = [old == new.key for old, new in zip(keys, stronger, strict=True)]
    assert same == [False] * 9 + [True]


def test_strength_has_a_default_and_whole_numbers_are_numbers() -> None:
    rows = ("{id: a, prompt: x, init_image: a.png}", "{id: b, prompt: x, init_image: a.png, §}")
    for written, wanted in (("strength: 1", 1.0), ("strength: 0.01", 0.01)):
        text = yaml_jobs(rows[0], rows[1].replace("§", written))
        plain, own = jobs_of(text, bases=ABLE, pictures={"a.png": "sha256:1"})
        assert (plain.strength, own.strength) == (STRENGTH, wanted)
        assert isinstance(own.strength, float)


def test_rows_of_csv_and_jsonl_begin_from_pictures(folder: Path) -> None:
    text = "id,prompt,init_image,strength,animal\na,a {animal},refs/pig.png,0.4,hen\nb,an owl,,,\n"
    (row, plain) = begun(file_sheet(folder, text, ".csv"))
    assert (row.strength, plain.init_image, plain.strength) == (0.4, None, None)
    text = '{"prompt": "a hen", "init_image": "refs/{who}.png", "strength": 0.4, "who": "pig"}\n'
    (line,) = begun(file_sheet(folder, text, ".jsonl"))
    assert line.init_image == row.init_image == f"sha256:{_hash(folder / 'refs/pig.png')}"


def _hash(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_set_names_any_picture_from_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    text = yaml_jobs("{id: a, prompt: x}")
    for path in ("outside.png", str(folder.parent / "outside.png"), "sheets/../outside.png"):
        (job,) = begun(file_sheet(folder, text, overrides={"init_image": path}))
        assert job.init_image == f"sha256:{_hash(folder.parent / 'outside.png')}"
    with pytest.raises(SheetError) as caught:
        begun(file_sheet(folder, text, overrides={"init_image": "outsid.png"}))
    assert "--set init_image:1:12: error[bad-picture]" in str(caught.value)
    assert 'did you mean "outside.png"?' in str(caught.value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("refs/pug.png", 'cannot be read: No such file or directory; did you mean "pig.png"?'),
        ("refs", "no regular file"),
        ("sheet.yaml", "is no picture; expected PNG, JPEG or WEBP"),
        ("../outside.png", "lies outside the sheet's folder"),
        ("refs/../../outside.png", "lies outside the sheet's folder"),
        ("link.png", "lies outside the sheet's folder"),
        ("~/pig.png", "lies outside the sheet's folder"),
        ("/etc/hostname", "lies outside the sheet's folder"),
        ("https://example.org/pig.png", "is an address; creatok does not download"),
        ("FILE:///refs/pig.png", "is an address"),
        ("data:image/png;base64,AAAA", "is an address"),
    ],
)
def test_what_cannot_be_begun_from_is_told_with_its_place(
    folder: Path, written: str, message: str
) -> None:
    os.symlink(folder.parent / "outside.png", folder / "link.png")
    text = yaml_jobs(
        "{id: a, prompt: x, init_image: refs/cat.png}",
        f'{{id: b, prompt: x, init_image: "{written}"}}',
    )
    with pytest.raises(SheetError) as caught:
        load_pictures(file_sheet(folder, text))
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.row) == (4, 36, "b")
    assert f'init_image: "{written}"' in problem.message
    assert message in str(caught.value)


def test_a_picture_of_the_defaults_is_told_once_and_where_it_is_written(folder: Path) -> None:
    rows = [f"{{id: r{index}, prompt: x}}" for index in range(5)]
    text = yaml_jobs(*rows, head="defaults:\n  init_image: none.png\n")
    with pytest.raises(SheetError) as caught:
        load_pictures(file_sheet(folder, text))
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (3, 15)


def test_a_base_that_cannot_start_names_families_that_can(folder: Path) -> None:
    text = yaml_jobs("{id: a, prompt: x, init_image: refs/pig.png}")
    with pytest.raises(SheetError) as caught:
        expand(file_sheet(folder, text), BASES, {})
    (problem,) = caught.value.problems
    assert problem.message.endswith("init_image: base bestiary cannot begin from a picture")
    able = problem.hint.removeprefix("bases of these families can: ").split(", ")
    assert {"bestiary", "sd3"} <= set(able)
    assert "els" not in able
    assert all(describe("backbones", name).facts for name in able)


def test_amounts_are_checked_before_pictures_are_looked_for(folder: Path) -> None:
    axes = ", ".join(f"v{i}: [{', '.join(map(str, range(50)))}]" for i in range(5))
    prompt = "".join(f"{{v{i}}}" for i in range(5))
    row = f'{{id: a, prompt: "{prompt}", init_image: "{{v0}}.png", matrix: {{{axes}}}}}'
    with pytest.raises(SheetError, match="pictures; 200000 are allowed"):
        load_pictures(file_sheet(folder, yaml_jobs(row)))


def test_a_picture_that_was_not_loaded_is_missed(folder: Path) -> None:
    sheet: Any = file_sheet(folder, yaml_jobs("{id: a, prompt: x, init_image: refs/pig.png}"))
    with pytest.raises(TokenMissing, match=r'the picture "refs/pig.png" was not loaded'):
        expand(sheet, ABLE, {})
