"""Jobs to a plan: groups, fixed batches, shards.

A batch belongs to the plan, not to what is left to do: its members and its class follow from the
jobs alone, because on the same stack equal bytes need equal shapes. A tail with fewer jobs than its
class is padded when it is drawn.

Does not: look at an output folder, choose a batch class for a device, or drop finished work.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from creatok_cli.domain import Batch, Group, Job, Plan, storage_of
from creatok_cli.errors import InputError
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.strict_text import collector_paused


def make_plan(jobs: Sequence[Job], *, sheet: str, batch_class: int | Callable[[Job], int]) -> Plan:
    """The unsharded plan of keyed jobs.

    Groups come in order of their first job; inside a group, jobs that agree in everything but
    prompt, negative and seed are cut into batches of `batch_class` (a number, or a function of the
    first of them). Raises ValueError for a class below 1.
    """
    with collector_paused():
        groups: dict[Group, dict[Hashable, list[Job]]] = {}
        for job in jobs:
            groups.setdefault(_group(job), {}).setdefault(_shape(job), []).append(job)
        batches: list[Batch] = []
        for group, shapes in groups.items():
            for members in shapes.values():
                size = batch_class if isinstance(batch_class, int) else batch_class(members[0])
                if size < 1:
                    raise ValueError(f"batch class {size}; at least 1")
                for start in range(0, len(members), size):
                    cut = tuple(members[start : start + size])
                    batch = Batch(index=len(batches), group=group, jobs=cut, batch_class=size)
                    batches.append(batch)
        return Plan(sheet=sheet, digest=_digest(batches), batches=tuple(batches))


def shard(plan: Plan, k: int, n: int) -> Plan:
    """Shard K of N: the batches i with i mod N == K - 1, indices and digest unchanged.

    Shards are disjoint and complete for any N; one may be empty. Raises InputError unless 1 <= K <=
    N.
    """
    if not 1 <= k <= n:
        raise InputError(f"--shard {k}/{n}: expected K/N with 1 <= K <= N")
    if plan.shard != (1, 1):
        raise ValueError("a shard of a shard is not a shard of the plan")
    return replace(plan, batches=plan.batches[k - 1 :: n], shard=(k, n))


def _group(job: Job) -> Group:
    return Group(
        base=job.base,
        base_digest=job.base_digest,
        dtype=job.dtype,
        tokens=job.tokens,
        weights=job.weights,
        storage=storage_of(job.options),
    )


def _shape(job: Job) -> Hashable:
    return (
        job.size_px,
        job.steps,
        job.guidance,
        job.scheduler,
        job.options,
        job.init_image,
        job.strength,
    )


def _digest(batches: Sequence[Batch]) -> str:
    """sha256 over the keys, names and classes of all batches."""
    content = [[b.batch_class, [[job.key, job.name] for job in b.jobs]] for b in batches]
    return f"sha256:{sha256_hex(canonical_json(content))}"
