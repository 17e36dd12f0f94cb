"""Plans: groups, fixed batches, shards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from creatok_cli.domain import Job, Plan
from creatok_cli.errors import InputError
from creatok_cli.plan.batches import make_plan, shard
from tests.unit.plan.kit import jobs_of, yaml_jobs

TEXT = yaml_jobs(
    "{id: a, prompt: x, count: 5}",
    "{id: b, prompt: y, size: 32, count: 2}",
    "{id: c, prompt: z <fox>, count: 1}",
    "{id: d, prompt: w, count: 2}",
    "{id: e, prompt: v, steps: 4, count: 1}",
    head="tokens: {fox: f}\n",
)


def plan_of(batch_class: int = 3) -> Plan:
    return make_plan(jobs_of(TEXT, {"<fox>": "F"}), sheet="s", batch_class=batch_class)


def test_batches_are_uniform_and_in_order_of_first_appearance() -> None:
    plan = plan_of()
    rows = ["".join(job.row for job in batch.jobs) for batch in plan.batches]
    assert rows == ["aaa", "aad", "d", "bb", "e", "c"]
    assert [batch.index for batch in plan.batches] == list(range(6))
    assert {batch.batch_class for batch in plan.batches} == {3}
    for batch in plan.batches:
        assert (
            len({(j.size_px, j.steps, j.guidance, j.scheduler, j.tokens) for j in batch.jobs}) == 1
        )
    assert plan.batches[5].group.tokens == (("<fox>", "F"),)
    assert {batch.group for batch in plan.batches[:5]} == {plan.batches[0].group}


def test_what_is_drawn_apart() -> None:
    job = jobs_of(yaml_jobs("{prompt: x}"))[0]
    same = {
        "prompt": "p",
        "negative": "n",
        "seed": 5,
        "row": "r",
        "name": "n",
        "key": "k",
        "index": 3,
        "tags": ("t",),
    }
    apart = {"size_px": (8, 8), "steps": 1, "guidance": 2.0, "scheduler": "heun",
    "options": (("a", 1),),
             "init_image": "sha256:1", "strength": 0.5, "base_digest": "sha256:2",
             "dtype": "bf16", "base": "other",
             "tokens": (("<a>", "A"),), "weights": (("sha256:3", 1.0),)}  # fmt: skip

    def batches(other: Job) -> int:
        return len(make_plan([job, other], sheet="s", batch_class=2).batches)

    assert {
        field: batches(replace(job, **{field: value})) for field, value in same.items()
    } == dict.fromkeys(same, 1)
    assert {
        field: batches(replace(job, **{field: value})) for field, value in apart.items()
    } == dict.fromkeys(apart, 2)


def test_a_class_may_depend_on_the_job() -> None:
    jobs = jobs_of(TEXT, {"<fox>": "F"})
    plan = make_plan(jobs, sheet="s", batch_class=lambda job: 1 if job.size_px == (32, 32) else 4)
    assert [(len(batch.jobs), batch.batch_class) for batch in plan.batches] == [
        (4, 4),
        (3, 4),
        (1, 1),
        (1, 1),
        (1, 4),
        (1, 4),
    ]
    with pytest.raises(ValueError, match="batch class 0"):
        make_plan(jobs, sheet="s", batch_class=0)


def test_the_digest_follows_keys_names_and_classes() -> None:
    jobs = jobs_of(TEXT, {"<fox>": "F"})
    plan = plan_of()
    assert plan.digest.startswith("sha256:")
    assert plan.digest == plan_of().digest
    assert plan.digest != plan_of(4).digest
    assert plan.digest != make_plan(jobs[:-1], sheet="s", batch_class=3).digest
    renamed = (replace(jobs[0], name="other"), *jobs[1:])
    assert plan.digest != make_plan(renamed, sheet="s", batch_class=3).digest
    moved = tuple(replace(job, where="elsewhere", tags=("t",)) for job in jobs)
    assert plan.digest == make_plan(moved, sheet="other", batch_class=3).digest


def test_shards_keep_every_nth_batch_with_its_index() -> None:
    plan = plan_of(2)
    first = shard(plan, 1, 3)
    assert [batch.index for batch in first.batches] == [0, 3, 6]
    assert (first.shard, first.digest) == ((1, 3), plan.digest)
    assert shard(plan, 9, 9).batches == ()
    assert shard(plan, 1, 1) == plan
    for k, n in ((0, 3), (4, 3), (1, 0), (-1, 3)):
        with pytest.raises(InputError, match="1 <= K <= N"):
            shard(plan, k, n)
    with pytest.raises(ValueError, match="shard of a shard"):
        shard(first, 1, 2)


def test_an_empty_plan() -> None:
    assert make_plan([], sheet="s", batch_class=4).batches == ()
