"""A stand-in for all that draws: plans of plain jobs, pictures that follow from a job's key.

A picture is a function of its key alone, so any resume, shard or order must give the same bytes.
Faults come from the environment of the process (`FAKE_*`), never from the product.

Does not: import torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from creatok_cli.domain import (
    Batch,
    Event,
    Failed,
    Job,
    Notice,
    Plan,
    Provenance,
    Rendered,
    Stage,
    Summary,
)
from creatok_cli.executors import local
from creatok_cli.hashing import keyed, sha256_hex
from creatok_cli.plan.batches import make_plan, shard
from creatok_cli.workflows._run import DERIVED, Task, Watch, run

ANIMALS = ("pig", "owl", "dragon", "snake", "bee", "cat", "fox", "toad")
DIGEST = "sha256:" + "ab" * 32


def job(prompt: str, seed: int, name: str, **changes: Any) -> Job:
    """A keyed job of the fake base."""
    made = Job(
        base_digest=DIGEST,
        prompt=prompt,
        seed=seed,
        size_px=(16, 16),
        steps=2,
        guidance=4.0,
        scheduler="flow-match-euler",
        dtype="fp32",
        name=name,
        where="fake.yaml:1:1",
    )
    return keyed(replace(made, **changes))


def jobs(count: int, *, per_prompt: int = 2, size_px: tuple[int, int] = (16, 16)) -> list[Job]:
    """`count` jobs in two rows, `per_prompt` pictures per prompt."""
    made = []
    for index in range(count):
        row = "first" if index < (count + 1) // 2 else "second"
        animal = ANIMALS[index // per_prompt % len(ANIMALS)]
        prompt = f"a photo of a {animal}, number {index // per_prompt}"
        bare = job(prompt, index % per_prompt, "x", row=row, index=index, size_px=size_px)
        made.append(replace(bare, name=f"{row}/{index:04d}-{bare.key[3:11]}"))
    return made


def plan(count: int = 3, *, batch_class: int = 2, **options: Any) -> Plan:
    """A plan of `jobs(count)`."""
    return make_plan(jobs(count, **options), sheet="fake", batch_class=batch_class)


def picture(drawn: Job) -> Image.Image:
    """Coloured tiles that follow from the key."""
    width, height = drawn.size_px
    digest = bytes.fromhex(sha256_hex(drawn.key))
    tiles = Image.frombytes("RGB", (3, 3), (digest * 2)[:27])
    return tiles.resize((width, height), Image.Resampling.NEAREST)


@dataclass
class FakeRenderer:
    """Draws with `picture`; `fault` may raise, or give a failure, for a job."""

    sleep_s: float = 0.0
    fault: Callable[[Job], Failed | None] | None = None
    version: str = "1"
    lanes: int = 1
    drawn: list[str] = field(default_factory=list)

    def render(self, batch: Batch) -> list[Rendered | Failed]:
        """One outcome per job."""
        time.sleep(self.sleep_s)
        outcomes: list[Rendered | Failed] = []
        for each in batch.jobs:
            failed = self.fault(each) if self.fault else None
            self.drawn.append(each.name)
            if failed is not None:
                outcomes.append(failed)
                continue
            made = Provenance(
                device="cpu",
                batch_class=batch.batch_class,
                batch_effective=batch.batch_class,
                seconds=0.01,
                versions=(("fake", self.version),),
            )
            facts = (("base", "fake"), ("licence", "cc0-1.0"))
            outcomes.append(Rendered(job=each, image=picture(each), provenance=made, facts=facts))
        return outcomes

    def engine(self) -> local.Local:
        """The real local engine."""
        return local.build(local.Spec(lanes=self.lanes), threads=1, device="cpu")

    def draw(
        self, todo: Plan, batches: Iterable[Batch], watch: Watch
    ) -> Iterator[Rendered | Failed | Notice | Stage]:
        """What `Task.draw` wants."""

        def render(batch: Batch) -> list[Rendered | Failed]:
            with watch(batch):
                return self.render(batch)

        yield Stage(name="drawing")
        yield from self.engine().run(batches, render)


def task(out: Path, whole: Plan, renderer: FakeRenderer | None = None, **options: Any) -> Task:
    """A run of a plan into a folder."""
    options.setdefault("plan", whole)
    options.setdefault("sinks", DERIVED)
    renderer = renderer or FakeRenderer()
    return Task(whole=whole, out=out, draw=renderer.draw, resume="creatok sample x", **options)


def finish(events: Iterable[Event]) -> tuple[Summary, list[Event], Exception | None]:
    """All events up to the summary, and the error that followed it."""
    seen: list[Event] = []
    error: Exception | None = None
    try:
        seen.extend(events)
    except Exception as raised:  # noqa: BLE001 - the caller compares it
        error = raised
    if not seen or not isinstance(seen[-1], Summary):
        raise error or AssertionError("no summary at the end")
    return seen[-1], seen, error


def tree(out: Path) -> dict[str, str]:
    """sha256 of every file that belongs to the result, by relative name.

    Left out: the manifest (it records seconds; see `lines`), the attempts and the locks.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        is_state = name.startswith(("manifest", "attempts.jsonl")) or path.suffix == ".lock"
        if path.is_file() and not is_state:
            found[name] = sha256_hex(path.read_bytes())
    return found


def temporaries(out: Path) -> list[str]:
    """Temporaries that were left behind."""
    return [path.name for path in out.rglob("*.part")]


def main(arguments: Sequence[str]) -> int:
    """`python -m tests.fakes.drawing OUT COUNT CLASS SLEEP_MS [K/N]`: a run in its own process.

    FAKE_KILL_INDEX ends the process without a word when the job of that index is drawn; FAKE_LANES
    batches are drawn at the same time.
    """
    out, count, batch_class, sleep_ms = arguments[0], *map(int, arguments[1:4])
    whole = plan(count, batch_class=batch_class)
    chosen = whole
    if len(arguments) > 4:
        k, n = map(int, arguments[4].split("/"))
        chosen = shard(whole, k, n)
    poison = {int(i) for i in os.environ.get("FAKE_KILL_INDEX", "").split(",") if i}

    lanes = int(os.environ.get("FAKE_LANES", "1"))

    def fault(drawn: Job) -> None:
        if drawn.index in poison:
            os._exit(77)

    renderer = FakeRenderer(sleep_s=sleep_ms / 1000, fault=fault, lanes=lanes)
    try:
        for event in run(task(Path(out), whole, renderer, plan=chosen)):
            print(event, flush=True)
            if isinstance(event, Summary):
                code = event.code
    except Exception as error:  # noqa: BLE001 - this is the process under test
        print(type(error).__name__, error, flush=True)
        code = getattr(error, "code", 1)
    return code


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
