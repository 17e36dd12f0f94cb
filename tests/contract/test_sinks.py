"""What every sink of the registry keeps, and that an outsider's few lines are enough."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from creatok_cli import registry
from creatok_cli.domain import Failed, JobFailed, Rendered
from creatok_cli.durable import Writer
from creatok_cli.sinks import manifest
from creatok_cli.sinks._ledger import Ledger
from creatok_cli.sinks.base import Output, Sink
from creatok_cli.workflows import _run
from creatok_cli.workflows._run import CORE, DERIVED, run
from tests.fakes.disk import DyingDisk, Killed, disk
from tests.fakes.drawing import FakeRenderer, finish, plan, task, temporaries, tree

NAMES = registry.names("sinks")


def test_the_built_in_sinks_are_found() -> None:
    assert set(NAMES) >= {"png", "manifest", "contact_sheet", "gallery"}
    assert set(CORE) | set(DERIVED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEverySink:
    def test_facts(self, name: str) -> None:
        """Listed without being imported; the Spec is frozen, keyword-only and literal."""
        facts = registry.describe("sinks", name)
        assert facts.line.endswith(".")
        assert not facts.broken
        module = registry.get("sinks", name)
        spec = module.Spec()
        assert spec.__dataclass_params__.frozen
        assert facts.spec == dataclasses.asdict(spec)
        assert (module.__doc__ or "").rstrip().splitlines()[-1].startswith(("Does not: ", "    "))
        assert "Does not: " in (module.__doc__ or "")
        assert list(inspect.signature(module.build).parameters) == ["spec", "out", "plan"]

    def test_protocol(self, name: str, tmp_path: Path) -> None:
        """An empty run can be closed; nothing is left open and no temporary stays."""
        out = Output(folder=tmp_path, writer=Writer(run="0a"), metadata="full", ledger=Ledger())
        module = registry.get("sinks", name)
        sink = module.build(module.Spec(), out, plan(3))
        assert isinstance(sink, Sink)
        sink.close()
        assert temporaries(tmp_path) == []

    def test_killed_at_each_operation(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With this sink as the only extra one, every kill is healed by the same command."""
        from creatok_cli.sinks import _pool

        monkeypatch.setattr(_pool, "default_threads", lambda: 1)
        options: dict[str, Any] = {"sinks": (name,)}
        whole = plan(1, batch_class=1)
        finish(run(task(tmp_path / "whole", whole, **options)))
        expected = tree(tmp_path / "whole")
        counting = DyingDisk(1 << 60)
        with disk(counting):
            finish(run(task(tmp_path / "counted", whole, **options)))
        for at in range(1, counting.count + 1, 2):
            out = tmp_path / f"at-{at}"
            with disk(DyingDisk(at)), pytest.raises(Killed):
                finish(run(task(out, whole, **options)))
            summary, _, error = finish(run(task(out, whole, **options)))
            assert (summary.code, error) == (0, None)
            assert tree(out) == expected

    def test_no_torch(self, name: str) -> None:
        source = Path(str(registry.get("sinks", name).__file__)).read_text(encoding="utf-8")
        assert "torch" not in source


OUTSIDER = '''"""Writes the keys of all pictures into one text file."""

from dataclasses import dataclass

from creatok_cli.durable import replace_derived


@dataclass(frozen=True, kw_only=True)
class Spec:
    name: str = "keys.txt"


def build(spec, out, plan):
    return Keys(spec, out)


class Keys:
    def __init__(self, spec, out):
        self.spec, self.out, self.keys = spec, out, []

    def write(self, result):
        self.keys.append(result.job.key)

    def fail(self, failed):
        self.keys.append("failed " + failed.job.key)

    def close(self):
        data = "\\n".join(sorted(self.keys)).encode()
        replace_derived(self.out.folder, self.spec.name, data, writer=self.out.writer)
'''


@pytest.fixture
def outsider(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A third-party sink called `keys`."""
    module = ModuleType("outsider_sink")
    monkeypatch.setitem(sys.modules, "outsider_sink", module)
    exec(compile(OUTSIDER, "outsider_sink.py", "exec"), vars(module))
    plain = registry.get
    monkeypatch.setattr(
        _run.registry,
        "get",
        lambda group, name: module if name == "keys" else plain(group, name),
    )
    return module


def test_a_sink_of_a_few_lines_runs(tmp_path: Path, outsider: ModuleType) -> None:
    whole = plan(3)
    finish(run(task(tmp_path, whole, sinks=("keys",))))
    assert (tmp_path / "keys.txt").read_text().split() == sorted(each.key for each in whole.jobs)


def test_a_sink_that_refuses_fails_the_job_only(tmp_path: Path, outsider: ModuleType) -> None:
    """The refused picture is not published, so that the next run offers it again."""

    def refuse(self: Any, result: Rendered) -> None:
        if result.job.index == 1:
            raise RuntimeError("no pigs here")

    vars(outsider)["Keys"].write = refuse
    whole = plan(3)
    summary, events, _ = finish(run(task(tmp_path, whole, sinks=("keys",))))
    assert (summary.code, summary.done, summary.failed) == (3, 2, 1)
    (failed,) = [event for event in events if isinstance(event, JobFailed)]
    assert "RuntimeError: no pigs here" in failed.message
    assert not (tmp_path / f"{whole.jobs[1].name}.png").exists()
    line = manifest.read(tmp_path).by_file[f"{whole.jobs[1].name}.png"]
    assert (line.status, line.kind) == ("failed", "error")


def test_a_sink_that_cannot_finish_costs_a_notice(tmp_path: Path, outsider: ModuleType) -> None:
    def close(self: Any) -> None:
        raise RuntimeError("no disk for keys")

    vars(outsider)["Keys"].close = close
    summary, events, error = finish(run(task(tmp_path, plan(3), sinks=("keys",))))
    assert (summary.code, summary.done, error) == (0, 3, None)
    assert any("no disk for keys" in getattr(event, "message", "") for event in events)


def test_sinks_are_called_one_at_a_time_unless_they_say_parallel(
    tmp_path: Path, outsider: ModuleType
) -> None:
    import threading
    import time

    busy = threading.Lock()
    overlaps: list[int] = []

    def write(self: Any, result: Rendered) -> None:
        if not busy.acquire(blocking=False):
            overlaps.append(result.job.index)
            return
        time.sleep(0.002)
        busy.release()

    vars(outsider)["Keys"].write = write
    finish(run(task(tmp_path, plan(24, batch_class=8), sinks=("keys",))))
    assert overlaps == []
    assert registry.describe("sinks", "png").facts["PARALLEL"] is True


def test_the_queue_holds_the_engine_back(tmp_path: Path, outsider: ModuleType) -> None:
    """A slow disk slows drawing down: at most the bounded queue waits, never the whole run."""
    import time

    renderer = FakeRenderer()
    ahead: list[int] = []
    written: list[int] = []

    def write(self: Any, result: Rendered) -> None:
        time.sleep(0.004)
        written.append(1)
        ahead.append(len(renderer.drawn) - len(written))

    vars(outsider)["Keys"].write = write
    finish(run(task(tmp_path, plan(60, batch_class=2), renderer, sinks=("keys",))))
    assert len(written) == 60
    # The queue (3 batches), the writers, and the engine's two batches.
    assert max(ahead) <= 3 * 2 + 4 + 3 * 2


def test_a_failure_reaches_every_sink(tmp_path: Path, outsider: ModuleType) -> None:
    def fault(drawn: Any) -> Failed | None:
        return Failed(job=drawn, kind="flat", message="empty") if drawn.index == 0 else None

    whole = plan(3)
    finish(run(task(tmp_path, whole, FakeRenderer(fault=fault), sinks=("keys",))))
    assert f"failed {whole.jobs[0].key}" in (tmp_path / "keys.txt").read_text()
