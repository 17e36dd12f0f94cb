"""Properties of sheets and plans, and fuzzing: nothing but SheetError ever comes out."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creatok_cli.domain import Job
from creatok_cli.errors import SheetError
from creatok_cli.hashing import IDENTITY, canonical_json, content_key
from creatok_cli.plan._combine import prompt_count
from creatok_cli.plan.batches import make_plan, shard
from creatok_cli.plan.expand import expand
from tests.unit.plan.kit import BASES, jobs_of, sheet_of

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a failure."""
WORDS = st.sampled_from(["pig", "owl", "cat", "bee", "fox", "hen", "a b", "é", "1.50", "<", "}"])
NAMES = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def rows(draw: st.DrawFn, row_id: str) -> dict[str, Any]:
    """A sound row: every declared variable is used."""
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    cut = draw(st.integers(0, len(names)))
    values = st.lists(WORDS, min_size=1, max_size=3, unique=True)
    row: dict[str, Any] = {
        "id": row_id,
        "prompt": " ".join(["x", *(f"{{{name}}}" for name in names)]),
    }
    if names[:cut]:
        row["matrix"] = {name: draw(values) for name in names[:cut]}
    if names[cut:]:
        length = draw(st.integers(1, 3))
        pairs = st.lists(WORDS, min_size=length, max_size=length, unique=True)
        row["zip"] = {name: draw(pairs) for name in names[cut:]}
    if draw(st.booleans()):
        row["count"] = draw(st.integers(1, 3))
    if draw(st.booleans()):
        row["steps"] = draw(st.integers(1, 20))
    return row


@st.composite
def sheets(draw: st.DrawFn) -> dict[str, Any]:
    """A sound sheet as plain data."""
    count = draw(st.integers(1, 4))
    jobs = [draw(rows(f"row{index}")) for index in range(count)]
    return {"version": 1, "defaults": {"seed": draw(st.integers(0, 9))}, "jobs": jobs}


def jobs_from(document: Mapping[str, Any], **options: Any) -> tuple[Job, ...]:
    """JSON is YAML; the version comes first, so that it is not taken for JSONL."""
    return jobs_of("\n" + json.dumps(document, ensure_ascii=False), **options)


def shuffled(value: Any, draw: Any) -> Any:
    """The same data with every mapping in another order."""
    if isinstance(value, dict):
        items = draw(st.permutations(list(value.items())))
        return {key: shuffled(member, draw) for key, member in items}
    return [shuffled(member, draw) for member in value] if isinstance(value, list) else value


@UNHURRIED
@given(sheets())
def test_expansion_is_stable_of_product_size_and_without_duplicates(
    document: dict[str, Any],
) -> None:
    jobs = jobs_from(document)
    assert jobs == jobs_from(copy.deepcopy(document))
    sheet = sheet_of("\n" + json.dumps(document))
    wanted = sum(prompt_count(entry) * (entry.count or 1) for entry in sheet.jobs)
    assert len(jobs) == wanted == len({job.key for job in jobs}) == len({job.name for job in jobs})
    assert all(job.key == content_key(job) for job in jobs)


@UNHURRIED
@given(st.data())
def test_keys_and_seeds_ignore_the_order_of_keys(data: st.DataObject) -> None:
    document = data.draw(sheets())
    for row in document["jobs"]:
        row.pop("matrix", None)  # the order of matrix is the order of pictures, and means something
        row["prompt"] = " ".join(["x", *(f"{{{name}}}" for name in row.get("zip", {}))])
    other = shuffled(document, data.draw)
    assert [job.key for job in jobs_from(document)] == [job.key for job in jobs_from(other)]


@UNHURRIED
@given(st.data())
def test_rows_may_come_and_go_without_moving_a_seed(data: st.DataObject) -> None:
    document = data.draw(sheets())
    new = data.draw(rows("new"))
    place = data.draw(st.integers(0, len(document["jobs"])))
    longer = {**document, "jobs": [*document["jobs"][:place], new, *document["jobs"][place:]]}
    before = {(job.row, job.index): (job.seed, job.key) for job in jobs_from(document)}
    after = {(job.row, job.index): (job.seed, job.key) for job in jobs_from(longer)}
    assert before == {place: found for place, found in after.items() if place[0] != "new"}


@UNHURRIED
@given(sheets(), st.integers(1, 9), st.integers(1, 5))
def test_shards_are_disjoint_and_complete(document: dict[str, Any], n: int, size: int) -> None:
    plan = make_plan(jobs_from(document), sheet="s", batch_class=size)
    parts = [shard(plan, k, n) for k in range(1, n + 1)]
    batches = sorted((b for part in parts for b in part.batches), key=lambda b: b.index)
    assert tuple(batches) == plan.batches
    assert sorted(job.key for job in plan.jobs) == sorted(job.key for job in jobs_from(document))
    assert all(1 <= len(batch.jobs) <= batch.batch_class == size for batch in plan.batches)


OTHER: dict[str, Any] = {
    "base_digest": "sha256:1", "prompt": "y", "negative": "n", "seed": 1, "size_px": (8, 8),
    "steps": 1,
    "guidance": 1.0, "scheduler": "heun", "dtype": "bf16", "tokens": (("<a>", "A"),),
    "weights": (("w", 1.0),),
    "options": (("o", 1),), "init_image": "sha256:2", "strength": 0.5,
}  # fmt: skip


def test_the_key_changes_with_every_field_of_identity_and_no_other() -> None:
    (job,) = jobs_of("version: 1\njobs: [{prompt: x}]\n")
    assert set(OTHER) == set(IDENTITY)
    keys = {content_key(replace(job, **{field: value})) for field, value in OTHER.items()}
    assert len(keys | {content_key(job)}) == len(OTHER) + 1
    recorded = {field.name for field in fields(Job)} - set(IDENTITY)
    for name in recorded:
        value: Any = 9 if name == "index" else (("a", "b"),) if name in ("labels", "tags") else "z"
        assert content_key(replace(job, **{name: value})) == content_key(job)


def accepts_or_refuses(data: bytes) -> None:
    try:
        expand(sheet_of(data), BASES, {})
    except SheetError as raised:
        error = raised
    else:
        return
    assert error.problems
    assert all(p.line >= 1 and p.column >= 1 and p.slug for p in error.problems)
    assert all(line.isprintable() for line in str(error).split("\n"))


@UNHURRIED
@given(st.text(max_size=400))
def test_random_text_is_accepted_or_refused(text: str) -> None:
    accepts_or_refuses(text.encode("utf-8", "surrogatepass"))


@UNHURRIED
@given(st.binary(max_size=200))
def test_random_bytes_are_accepted_or_refused(data: bytes) -> None:
    accepts_or_refuses(data)


FRAGMENTS = st.sampled_from(
    ["{", "}", "[", "]", ":", ": ", "- ", "\n", "\n  ", "\n    ", "&a ", "*a", "!x ", "'", '"',
    "|\n", ">\n", "#", "~",
     "null", "true", "0x1", "1e9", "16:9", "<<: ", "---\n", "...\n", "\t", "\\u0000", "é", "\x00",
     "<fox>", "{a}", "{{",
     "matrix", "zip", "include", "exclude", "prompt", "seeds", "count", "9" * 30, "vars", "? ",
     ", ",
     "%TAG "]
)  # fmt: skip


@UNHURRIED
@given(st.data())
def test_mutated_sheets_are_accepted_or_refused(data: st.DataObject) -> None:
    import yaml

    document = data.draw(sheets())
    flow = data.draw(st.sampled_from([None, True]))
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=flow)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 5))
        text = text[:place] + data.draw(FRAGMENTS) + text[place + cut :]
    accepts_or_refuses(text.encode())


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = NAMES | st.text(max_size=5)
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(SCALARS, nested, max_leaves=8)
KEYS = st.sampled_from(
    ["base", "size", "steps", "guidance", "scheduler", "negative", "count", "seed", "dtype", "id",
    "prompt", "vars",
     "matrix", "zip", "include", "exclude", "seeds", "tags", "tokens", "name", "version", "jobs",
     "defaults", "$schema"]
)  # fmt: skip


@UNHURRIED
@given(
    st.dictionaries(KEYS, VALUES, max_size=8),
    st.dictionaries(KEYS, VALUES, max_size=6),
    st.booleans(),
)
def test_any_value_under_any_key_is_accepted_or_refused(
    row: dict[str, Any], head: dict[str, Any], is_line: bool
) -> None:
    document = row if is_line else {"version": 1, **head, "jobs": [{"prompt": "x", **row}]}
    text = json.dumps(document)
    accepts_or_refuses(text.encode() if is_line else b"\n" + text.encode())


@UNHURRIED
@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6),
    st.randoms(),
)
def test_canonical_json_ignores_the_order_of_keys(data: dict[str, Any], random: Any) -> None:
    items = list(data.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(data)
