"""Every sheet of the catalogue is refused in under a second, with its slug, line and column."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from creatok_cli.errors import SheetError
from creatok_cli.plan.expand import expand
from creatok_cli.plan.sheet import load_sheet
from tests.unit.plan.kit import BASES
from tests.unit.plan.malformed import Case, families

FAMILIES = families()
HOSTILE = FAMILIES.pop("hostile")
LIMIT_S = 1.0
SHAPE = re.compile(r".+:(?P<line>\d+):(?P<column>\d+): error\[(?P<slug>[a-z-]+)\]: \S")
LONGEST_MESSAGE = 900


def refusal(case: Case, folder: Path) -> str:
    """What is wrong with the way in which a sheet is refused; empty when all is well."""
    path = folder / f"sheet{case.suffix}"
    path.write_bytes(case.make())
    start = time.process_time()
    try:
        jobs = expand(load_sheet(str(path)), BASES, {})
    except SheetError as raised:
        error = raised
    else:
        return f"accepted, with {len(jobs)} jobs"
    seconds = time.process_time() - start
    found = [(p.slug, p.line, p.column) for p in error.problems]
    wanted = (case.slug, case.line, case.column)
    if not any(wanted == (s, n, c if case.column is not None else None) for s, n, c in found):
        return f"wanted {wanted}, found {found}"
    if not 1 <= len(error.problems) <= 20 <= max(20, error.total):
        return f"{len(error.problems)} of {error.total} problems"
    for line in str(error).split("\n")[: len(error.problems)]:
        if not SHAPE.match(line) or not line.isprintable() or "Traceback" in line:
            return f"message {line!r}"
        if len(line) - len(str(path)) > LONGEST_MESSAGE:
            return f"a message of {len(line)} characters"
    return "" if seconds < LIMIT_S else f"took {seconds:.2f} s"


def test_the_catalogue_is_large_enough() -> None:
    assert sum(len(cases) for cases in FAMILIES.values()) + len(HOSTILE) >= 200


@pytest.mark.parametrize("kind", FAMILIES)
def test_refused(kind: str, tmp_path: Path) -> None:
    wrong = {case.name: refusal(case, tmp_path) for case in FAMILIES[kind]}
    assert {name: fault for name, fault in wrong.items() if fault} == {}


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile(case: Case, tmp_path: Path) -> None:
    assert refusal(case, tmp_path) == ""


def test_the_pure_parser_refuses_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libyaml nothing changes but the column of two escapes and of unknown directives."""
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader")
    other = {"syntax surrogate escape", "syntax huge escape", "directive unknown"}
    kinds = ("syntax", "structure", "keys")
    cases = [case for kind in kinds for case in FAMILIES[kind] if case.name not in other]
    wrong = {case.name: refusal(case, tmp_path) for case in cases}
    assert {name: fault for name, fault in wrong.items() if fault} == {}
