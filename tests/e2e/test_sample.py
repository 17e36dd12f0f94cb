"""The `sample` workflow on a tiny random model of the real classes: sheet to pictures and back.

Acceptance: shuffled sheets and shards give the same bytes per picture; a picture is drawn again
from its own metadata; a finished sheet opens neither torch nor weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
from PIL import Image

from creatok_cli.domain import ImageWritten, Planned, Summary
from creatok_cli.errors import (
    DigestMismatch,
    InputError,
    ModelMissing,
    NoDevice,
    SheetError,
    UnknownName,
)
from creatok_cli.executors import local
from creatok_cli.sinks import manifest
from creatok_cli.workflows.sample import SampleRequest, replay, sample
from tests.fakes.disk import DyingDisk, Killed, disk
from tests.fakes.drawing import finish, tree

ROOT = Path(__file__).parents[2]
ROWS = [
    '  - {id: pairs, prompt: "a {a} and {b}", zip: {a: [pig, fox], b: [snake, owl]}}',
    '  - {id: dragons, prompt: "a red dragon", negative: meadow, seeds: [7, 11, 13], tags: [red]}',
    '  - {id: large, prompt: "a photo of a {x}", matrix: {x: [pig]}, size: 48x32}',
]
HEAD = "version: 1\ndefaults: {steps: 2, guidance: 2.0, count: 2, size: 32x32}\njobs:\n"

Make = Callable[..., SampleRequest]


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheets")
    (folder / "zoo.yaml").write_text(HEAD + "\n".join(ROWS) + "\n")
    (folder / "shuffled.yaml").write_text(HEAD + "\n".join(ROWS[::-1]) + "\n")
    return folder


@pytest.fixture
def make(tiny_sd3: Path, sheets: Path, tmp_path: Path) -> Make:
    """A request for the zoo sheet on the tiny model, batch class 4."""

    def request(**changes: Any) -> SampleRequest:
        plain = SampleRequest(
            sheet=str(sheets / "zoo.yaml"),
            out=tmp_path / "out",
            base=str(tiny_sd3),
            batch_size=4,
            device="cpu",
            resume_command="creatok sample zoo.yaml",
        )
        return replace(plain, **changes)

    return request


@pytest.fixture(scope="module")
def done(tiny_sd3: Path, sheets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder. Never write into it: copy it."""
    out = tmp_path_factory.mktemp("done") / "out"
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREATOK_HOME", str(home))
        summary, events, error = finish(
            sample(
                SampleRequest(
                    sheet=str(sheets / "zoo.yaml"),
                    out=out,
                    base=str(tiny_sd3),
                    batch_size=4,
                    device="cpu",
                )
            )
        )
    assert (summary.code, summary.done, error) == (0, 9, None)
    assert sum(isinstance(event, ImageWritten) for event in events) == 9
    return out


def pictures(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(out).items() if "/" in name}


def test_all_outputs_are_there(done: Path) -> None:
    names = set(tree(done))
    assert names >= {"contact-sheet.png", "gallery.html", "plan.json"}
    assert len(pictures(done)) == 9
    ledger = manifest.read(done)
    assert {line.status for line in ledger.by_file.values()} == {"done"}
    assert {line.batch_class for line in ledger.by_file.values()} == {4}
    assert all(line.licence and line.device == "cpu" for line in ledger.by_file.values())
    for name in pictures(done):
        with Image.open(done / name) as image:
            assert image.info["parameters"].count("Steps: 2, ") == 1
            assert json.loads(image.info["creatok"])["base"] == "tiny-sd3"


def test_a_shuffled_sheet_gives_the_same_pictures(make: Make, done: Path, sheets: Path) -> None:
    request = make(sheet=str(sheets / "shuffled.yaml"))
    finish(sample(request))
    assert pictures(Path(request.out or "")) == pictures(done)


def test_two_shards_give_the_same_folder(make: Make, done: Path) -> None:
    for k in (2, 1):
        summary, _, _ = finish(sample(make(shard=(k, 2))))
        assert summary.code == 0
    assert tree(Path(make().out or "")) == tree(done)


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_the_number_of_cores_changes_no_byte(
    make: Make, done: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """A lane per core, with one thread each."""
    monkeypatch.setattr(local, "cores", lambda: cores)
    summary, _, error = finish(sample(make()))
    out = Path(make().out or "")
    assert (summary.code, error) == (0, None)
    assert tree(out) == tree(done)
    assert {line.versions["threads"] for line in manifest.read(out).by_file.values()} == {"1"}


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra creatok[ray] is not installed")
@pytest.mark.slow
def test_ray_gives_the_same_folder(make: Make, done: Path) -> None:
    summary, _, error = finish(sample(make(executor="ray")))
    assert (summary.code, error) == (0, None)
    assert tree(Path(make().out or "")) == tree(done)


def test_a_killed_run_ends_with_the_same_folder(make: Make, done: Path) -> None:
    """C2: the real renderer, batches of 4 with a tail."""
    for at in (25, 60):
        shutil.rmtree(Path(make().out or ""), ignore_errors=True)
        with disk(DyingDisk(at)), pytest.raises(Killed):
            finish(sample(make()))
        summary, _, error = finish(sample(make()))
        assert (summary.code, error) == (0, None)
        assert tree(Path(make().out or "")) == tree(done)


def test_a_finished_sheet_opens_no_torch(done: Path, make: Make) -> None:
    """T15 in kind: no torch, no diffusers, no transformers, nothing drawn; also verify, dry run."""
    request = make(out=done)
    script = f"""
import sys, json
from pathlib import Path
from creatok_cli.workflows.sample import SampleRequest, sample
for more in ({{}}, {{"verify": True}}, {{"dry_run": True}}):
    request = SampleRequest(sheet={request.sheet!r}, out=Path({str(done)!r}),
                            base={request.base!r}, batch_size=4, **more)
    *_, summary = sample(request)
    print(summary.code, summary.skipped, summary.done)
heavy = {{"torch", "diffusers", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.split("\n")[:3] == ["0 9 0"] * 3, run.stderr


def test_only_draws_a_part_and_the_sheet_shows_all_that_is_there(make: Make, done: Path) -> None:
    first, _, _ = finish(sample(make(only="dragons")))
    assert (first.planned, first.done) == (3, 3)
    second, _, _ = finish(sample(make(only="red")))
    assert (second.planned, second.skipped) == (3, 3)
    rest, _, _ = finish(sample(make()))
    assert (rest.planned, rest.done, rest.skipped) == (9, 6, 3)
    out = Path(make().out or "")
    assert pictures(out) == pictures(done)
    again, _, _ = finish(sample(make(only="dragons")))
    assert again.skipped == 3
    assert tree(out)["contact-sheet.png"] == tree(done)["contact-sheet.png"]


def test_the_batch_class_of_the_folder_is_kept(make: Make, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(done, out)
    name = min(pictures(out))
    (out / name).unlink()
    summary, _, _ = finish(sample(make(out=out, batch_size=None)))
    assert (summary.done, summary.skipped) == (1, 8)
    assert tree(out) == tree(done)


def test_a_dry_run_writes_nothing(make: Make, tmp_path: Path) -> None:
    summary, events, _ = finish(sample(make(dry_run=True)))
    assert (summary.code, summary.remaining) == (0, 9)
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert len(planned.files) == 9
    assert not (tmp_path / "out").exists()


def test_settings_reach_the_pictures(make: Make) -> None:
    finish(sample(make(sets=("steps=1",), only="large", metadata="minimal")))
    (line, *_) = manifest.read(Path(make().out or "")).by_file.values()
    assert (line.steps, line.size, line.metadata) == (1, "48x32", "minimal")


def test_a_stop_from_the_start(make: Make) -> None:
    stop = Flag()
    stop.set()
    summary, _, error = finish(sample(make(stop=stop)))
    assert (summary.code, summary.reason, error) == (130, "interrupted", None)
    assert summary.remaining == 9
    assert summary.resume == "creatok sample zoo.yaml"


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"base": "bestiari"}, SheetError, 2),
        ({"base": "./no/such/folder"}, ModelMissing, 4),
        ({"sinks": ("galery",)}, UnknownName, 2),
        ({"executor": "loca"}, UnknownName, 2),
        ({"only": "nothing-like-it"}, UnknownName, 2),
        ({"shard": (3, 2)}, InputError, 2),
        ({"sets": ("steps",)}, InputError, 2),
        ({"sheet": "no.yaml"}, SheetError, 2),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    make: Make, tmp_path: Path, changes: dict[str, Any], error: type[Exception], code: int
) -> None:
    with pytest.raises(error) as found:
        finish(sample(make(**changes)))
    assert getattr(found.value, "code", None) == code
    assert not (tmp_path / "out").exists()


def test_a_missing_device_is_told_with_a_summary(make: Make) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    summary, _, error = finish(sample(make(device="cuda:7")))
    assert (summary.code, summary.reason, summary.remaining) == (5, "no-device", 9)
    assert isinstance(error, NoDevice)


# --from IMAGE.png


def test_a_picture_is_drawn_again_from_itself(make: Make, done: Path, tmp_path: Path) -> None:
    """The bytes are those of the original; the batch class comes from the picture."""
    for number, name in enumerate(sorted(pictures(done))[::4]):
        out = tmp_path / f"again-{number}"
        request = make(sheet="", out=out, batch_size=None)
        summary, _, error = finish(replay(done / name, request))
        assert (summary.code, summary.done, error) == (0, 1, None)
        (again,) = out.rglob("*.png")
        assert again.read_bytes() == (done / name).read_bytes()
        assert again.stem == Path(name).stem
        # Once more: it is there.
        summary, _, _ = finish(replay(done / name, request))
        assert (summary.code, summary.skipped) == (0, 1)


def test_another_base_is_refused(
    make: Make, done: Path, tmp_path: Path, tiny_folders: Callable[..., Path]
) -> None:
    other = tiny_folders(legacy_eos=True)
    name = min(pictures(done))
    with pytest.raises(DigestMismatch, match="--base") as found:
        finish(replay(done / name, make(sheet="", base=str(other))))
    assert found.value.code == 4
    with pytest.raises(UnknownName, match="give it with --base"):
        finish(replay(done / name, make(sheet="", base=None)))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_drawn_again_says_why(make: Make, tmp_path: Path, done: Path) -> None:
    finish(sample(make(only="large", metadata="minimal", out=tmp_path / "minimal")))
    finish(sample(make(only="large", metadata="none", out=tmp_path / "none")))
    (minimal, *_) = (tmp_path / "minimal").glob("large/*.png")
    (bare, *_) = (tmp_path / "none").glob("large/*.png")
    jpeg = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    cut = tmp_path / "cut.png"
    cut.write_bytes((done / min(pictures(done))).read_bytes()[:-5])
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        (minimal, "minimal"),
        (bare, "no creatok chunk"),
        (jpeg, "no PNG signature"),
        (cut, "cut off"),
        (tmp_path / "pipe.png", "no regular file"),
        (tmp_path / "nothing.png", "No such file"),
        (tmp_path, "directory"),
        (Path("nul\0.png"), "null byte"),
    ):
        with pytest.raises(InputError, match=reason) as found:
            finish(replay(path, make(sheet="")))
        assert found.value.code == 2


def test_events_end_with_the_summary(make: Make) -> None:
    events = list(sample(make(only="large")))
    assert isinstance(events[-1], Summary)
    assert sum(isinstance(event, Summary) for event in events) == 1
