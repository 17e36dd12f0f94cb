"""Options of a base in a sheet: plain values, per job over those at the top."""

from __future__ import annotations

from pathlib import Path

import pytest

from creatok_cli.errors import SheetError
from creatok_cli.plan.expand import expand
from tests.unit.plan.kit import BASES, file_sheet, jobs_of, yaml_jobs


def test_a_job_wins_key_by_key() -> None:
    text = yaml_jobs(
        "{prompt: a}",
        "{prompt: b, options: {coherence: 1, machine: els}}",
        head="options: {freedom: 2, coherence: 0.5, tile: true}\n",
    )
    one, other = (job.options for job in jobs_of(text))
    assert one == (("coherence", 0.5), ("freedom", 2), ("tile", True))
    assert other == (("coherence", 1), ("freedom", 2), ("machine", "els"), ("tile", True))
    assert [type(value) for _, value in other] == [int, int, str, bool]


def test_options_are_in_the_key() -> None:
    rows = ("{prompt: a}", "{prompt: a, options: {x: 1}}", "{prompt: a, options: {x: 2}}")
    assert len({job.key for row in rows for job in jobs_of(yaml_jobs(row))}) == 3


def test_numbers_of_jsonl(tmp_path: Path) -> None:
    text = '{"prompt": "a", "options": {"x": 1, "y": 0.5, "z": "1", "w": false}}\n'
    (job,) = expand(file_sheet(tmp_path, text, ".jsonl"), BASES, {})
    assert job.options == (("w", False), ("x", 1), ("y", 0.5), ("z", "1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "expected a mapping"),
        ("[1]", "expected a mapping"),
        ("{x: [1]}", "expected a text, a number, true or false"),
        ("{x: {y: 1}}", "expected a text, a number, true or false"),
        ("{x: null}", "expected a text, a number, true or false"),
        ("{x: 1e99}", "expected a number from"),
        ("{'x y': 1}", "x y"),
    ],
)
def test_what_is_no_option_is_told_with_its_place(options: str, message: str) -> None:
    with pytest.raises(SheetError) as caught:
        jobs_of(yaml_jobs("{prompt: a}", head=f"options: {options}\n"))
    assert message in str(caught.value)
    assert caught.value.problems[0].line == 2


def test_set_wins_over_the_jobs_and_is_typed() -> None:
    text = yaml_jobs("{prompt: a, options: {x: 1, y: 2}}")
    sets = {"options.x": "0.5", "options.z": "true", "options.storage": "fp8", "options.n": "-3"}
    (job,) = jobs_of(text, overrides=sets)
    assert dict(job.options) == {"x": 0.5, "y": 2, "z": True, "storage": "fp8", "n": -3}


@pytest.mark.parametrize(
    ("key", "message"), [("options.", "a variable name"), ("options.a b", "a variable name")]
)
def test_a_wrong_option_of_set_is_told(key: str, message: str) -> None:
    with pytest.raises(SheetError, match=message) as caught:
        jobs_of(yaml_jobs("{prompt: a}"), overrides={key: "1"})
    assert caught.value.problems[0].file == f"--set {key}"
