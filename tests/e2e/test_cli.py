"""The command line alone, in this process, on a workflow made of plain events."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import errors
from creatok_cli.cli.app import run
from creatok_cli.cli.progress import Tally, duration, printable
from creatok_cli.domain import (
    Event,
    ImageWritten,
    JobFailed,
    Notice,
    Planned,
    Stage,
    Summary,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HOSTILE = "[bold red]a pig[/]\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\ud800"

PLANNED = Planned(planned=5, skipped=2, todo=3, batches=1, out="out/x")
WRITTEN = ImageWritten(key="r1:0", row="pigs", file="pigs/0.png", seed=7, prompt="a pig")
FAILED = JobFailed(
    key="r1:1", row="owls", where="x.yaml:3:5", kind="non-finite", message="NaN in the latents"
)


def summary(**changes: Any) -> Summary:
    """The summary of a run that went well, with changes."""
    fields: dict[str, Any] = {
        "planned": 5,
        "done": 3,
        "skipped": 2,
        "failed": 0,
        "remaining": 0,
        "out": "out/x",
        "seconds": 1.5,
        "images_per_second": 2.0,
        "code": 0,
        "reason": "ok",
        "retryable": False,
        "contact_sheets": ("out/x/contact-sheet.png",),
    }
    return Summary(**(fields | changes))


class Workflow(types.ModuleType):
    """Stands in for `creatok_cli.workflows.sample`: keeps the request, yields what it was given."""

    def __init__(self, events: Iterator[Event]) -> None:
        super().__init__("creatok_cli.workflows.sample")
        self.events = events
        self.request: Any = None
        self.image: Path | None = None

    class SampleRequest(types.SimpleNamespace):
        pass

    def sample(self, request: Any) -> Iterator[Event]:
        self.request = request
        yield from self.events

    def replay(self, image: Path, request: Any) -> Iterator[Event]:
        self.image = image
        return self.sample(request)


Fake = Callable[..., Workflow]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a workflow that yields (or raises) the given things in place of the real one."""
    import creatok_cli.workflows

    def install(*things: Event | BaseException) -> Workflow:
        def events() -> Iterator[Event]:
            for thing in things:
                if isinstance(thing, BaseException):
                    raise thing
                yield thing

        workflow = Workflow(events())
        monkeypatch.setitem(sys.modules, workflow.__name__, workflow)
        monkeypatch.setattr(creatok_cli.workflows, "sample", workflow, raising=False)
        return workflow

    return install


def json_lines(text: str) -> list[dict[str, Any]]:
    """Each line of standard output as an event; every one names its schema."""
    events = [json.loads(line) for line in text.splitlines()]
    assert {event["schema"] for event in events} == {1}
    return events


def squeezed(text: str) -> str:
    """Words only: no boxes, no line breaks, so that the width of a terminal does not matter."""
    for char in "╭╮╰╯─│":
        text = text.replace(char, " ")
    return " ".join(text.split()) + "\n"


@pytest.mark.parametrize(
    ("name", "argv"), [("help", ["--help"]), ("help-sample", ["sample", "--help"])]
)
def test_help_is_the_golden_text(
    name: str,
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(argv) == 0
    found = squeezed(capsys.readouterr().out)
    golden = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from creatok_cli import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"creatok {__version__}\n"


def test_no_command_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "sample" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sampel"], "Did you mean 'sample'"),
        (["sample"], "give one SHEET, or --from IMAGE.png"),
        (["sample", "a.yaml", "--from", "b.png"], "give one SHEET, or --from IMAGE.png"),
        (["sample", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["sample", "a.yaml", "--sed", "1"], "--set"),
        (["sample", "a.yaml", "--out"], "requires an argument"),
        (["sample", "a.yaml", "--precision", "fp8"], "'bf16'"),
        (["sample", "a.yaml", "--shard", "0/2"], "1 <= K <= N"),
        (["sample", "a.yaml", "--shard", "3/2"], "1 <= K <= N"),
        (["sample", "a.yaml", "--shard", "1"], "1 <= K <= N"),
        (["sample", "a.yaml", "--batch-size", "0"], "whole number from 1"),
        (["sample", "a.yaml", "--batch-size", "many"], "whole number from 1"),
        (["sample", "a.yaml", "--device", "gpu"], "cuda:0"),
    ],
)
def test_a_wrong_flag_is_2_in_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], fake: Fake
) -> None:
    fake(summary())
    assert run(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error[usage]: ")
    assert words in err

    assert run([argv[0], "--json", *argv[1:]]) == 2
    events = json_lines(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["error", "summary"]
    assert (events[-1]["code"], events[-1]["reason"]) == (2, "usage")


def test_flags_become_the_request(fake: Fake, tmp_path: Path) -> None:
    workflow = fake(summary())
    argv = ["sample", "a.yaml", "--out", str(tmp_path), "--base", "sd3", "--only", "pig*"]
    argv += ["--set", "steps=4", "--set", "guidance=2", "--shard", "2/3", "--batch-size", "16"]
    argv += ["--device", "cuda:1", "--precision", "bf16", "--overwrite", "replace", "--fail-fast"]
    argv += ["--verify", "--dry-run", "--metadata", "minimal", "--executor", "ray"]
    argv += ["--sink", "extra", "--progress", "none", "--quiet"]
    assert run(argv) == 0
    request = workflow.request
    assert (request.sheet, request.out, request.base) == ("a.yaml", tmp_path, "sd3")
    assert (request.only, request.sets) == ("pig*", ("steps=4", "guidance=2"))
    assert (request.shard, request.batch_size) == ((2, 3), 16)
    assert (request.device, request.precision, request.executor) == ("cuda:1", "bf16", "ray")
    assert (request.overwrite, request.metadata) == ("replace", "minimal")
    assert request.fail_fast
    assert request.verify
    assert request.dry_run
    assert "extra" in request.sinks
    assert not request.stop.is_set()
    assert request.resume_command == "creatok " + " ".join(argv).replace("pig*", "'pig*'")


def test_defaults_of_the_request(fake: Fake) -> None:
    workflow = fake(summary())
    assert run(["sample", "a.yaml"]) == 0
    request = workflow.request
    assert (request.out, request.base, request.only, request.shard) == (None,) * 4
    assert (request.batch_size, request.precision, request.sets) == (None, None, ())
    assert (request.device, request.executor) == ("auto", "local")
    assert (request.overwrite, request.metadata) == ("skip", "full")
    assert (request.fail_fast, request.verify, request.dry_run) == (False, False, False)


def test_machine_settings_come_from_the_environment_and_flags_win(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREATOK_DEVICE", "cpu")
    workflow = fake(summary())
    assert run(["sample", "a.yaml"]) == 0
    assert workflow.request.device == "cpu"
    workflow = fake(summary())
    assert run(["sample", "a.yaml", "--device", "mps"]) == 0
    assert workflow.request.device == "mps"


def test_replay_hands_over_the_image(fake: Fake) -> None:
    workflow = fake(summary())
    assert run(["sample", "--from", "pig.png"]) == 0
    assert workflow.image == Path("pig.png")


def test_schema_is_json_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "jobs" in schema["properties"]


def test_people_get_the_contact_sheet_on_stdout_and_a_summary_on_stderr(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(PLANNED, Stage(name="drawing"), WRITTEN, WRITTEN, WRITTEN, summary())
    assert run(["sample", "a.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == "out/x/contact-sheet.png\n"
    assert "drawing\n" in err
    assert "3/3 drawn, 0 failed\n" in err
    last = err.splitlines()[-1]
    assert last.startswith("5 of 5 pictures in out/x: 3 drawn, 2 already there, 0 failed, in 1.5 s")


def test_quiet_leaves_only_results(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(PLANNED, Stage(name="drawing"), Notice(level="info", message="x"), WRITTEN, summary())
    assert run(["sample", "a.yaml", "--quiet"]) == 0
    assert capsys.readouterr() == ("out/x/contact-sheet.png\n", "")


def test_failures_are_listed_with_their_sheet_line_and_the_way_on(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    end = summary(done=2, failed=1, code=3, reason="failed-jobs", resume="creatok sample a.yaml")
    fake(PLANNED, Stage(name="drawing"), WRITTEN, FAILED, WRITTEN, end)
    assert run(["sample", "a.yaml", "--progress", "none"]) == 3
    err = capsys.readouterr().err
    assert "  x.yaml:3:5: failed[non-finite]: job owls: NaN in the latents\n" in err
    assert err.endswith("go on with: creatok sample a.yaml\n")


def test_many_failures_are_cut_short(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(PLANNED, *[FAILED] * 30, summary(done=0, failed=30, code=3, reason="failed-jobs"))
    assert run(["sample", "a.yaml", "--progress", "none"]) == 3
    err = capsys.readouterr().err
    assert err.count("failed[non-finite]") == 20
    assert "and 10 more" in err


def test_dry_run_lists_files(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    files = (("pigs/0.png", True), ("pigs/1.png", False))
    planned = Planned(planned=2, skipped=1, todo=1, batches=1, out="out/x", files=files)
    end = summary(planned=2, done=0, skipped=1, remaining=1, contact_sheets=())
    fake(planned, end)
    assert run(["sample", "a.yaml", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out == "skip  pigs/0.png\nwrite  pigs/1.png\n"
    assert err == "2 pictures planned, 1 already there; nothing was drawn\n"

    fake(planned, end)
    assert run(["sample", "a.yaml", "--dry-run", "--json"]) == 0
    events = json_lines(capsys.readouterr().out)
    assert events[0]["files"][1] == {"file": "pigs/1.png", "there": False}


def test_json_is_one_event_per_line_and_the_summary_is_last(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    notice = Notice(level="warning", message="slow")
    stage = Stage(name="drawing")
    end = summary(done=1, failed=1, code=3, reason="failed-jobs", remaining=1)
    fake(PLANNED, stage, notice, WRITTEN, FAILED, end)
    assert run(["sample", "a.yaml", "--json"]) == 3
    out, err = capsys.readouterr()
    events = json_lines(out)
    names = ["planned", "stage", "notice", "image_written", "job_failed", "summary"]
    assert [event["event"] for event in events] == names
    last = events[-1]
    wanted = {"planned", "done", "skipped", "failed", "remaining", "out", "seconds"}
    wanted |= {"images_per_second", "code", "reason", "retryable"}
    assert wanted <= last.keys()
    counts = last["done"] + last["skipped"] + last["failed"] + last["remaining"]
    assert last["planned"] == counts
    assert events[3]["file"] == "pigs/0.png"
    assert err == ""


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.UnknownName("no base 'besitary'; did you mean 'bestiary'?"), 2, "usage"),
        (errors.UnsafeName("x.yaml:3:4: output name CON"), 2, "unsafe-name"),
        (errors.MethodDiverged("loss is NaN"), 3, "failed-jobs"),
        (errors.ModelMissing("no folder sd3"), 4, "missing"),
        (errors.ModelGated("accept the licence"), 4, "gated"),
        (errors.Refused("model.bin is a pickle"), 4, "refused"),
        (errors.NoDevice("no cuda:3"), 5, "no-device"),
        (errors.OutOfMemory("even one picture is too much"), 5, "oom"),
        (errors.OutputBusy("held by process 7"), 6, "busy"),
        (errors.OutputFull("no space left"), 6, "disk-full"),
        (errors.OutputReadOnly("read only"), 6, "read-only"),
        (errors.Interrupted("stopped"), 130, "interrupted"),
    ],
)
def test_each_error_has_its_code_and_an_honest_summary(
    error: errors.CreatokError,
    code: int,
    reason: str,
    fake: Fake,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake(PLANNED, WRITTEN, FAILED, error)
    assert run(["sample", "a.yaml", "--json"]) == code
    told, last = json_lines(capsys.readouterr().out)[-2:]
    assert (told["event"], told["code"], told["message"]) == ("error", code, str(error))
    assert (last["event"], last["code"], last["reason"]) == ("summary", code, reason)
    assert (last["done"], last["failed"], last["skipped"], last["remaining"]) == (1, 1, 2, 1)
    assert last["resume"] == "creatok sample a.yaml --json"
    assert last["retryable"] == error.retryable

    fake(PLANNED, error)
    assert run(["sample", "a.yaml"]) == code
    err = capsys.readouterr().err
    assert f"error[{reason}]: {error}\n" in err
    assert err.endswith("go on with: creatok sample a.yaml\n")
    assert "Traceback" not in err


def test_sheet_problems_are_told_as_they_are(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = errors.Problem(
        file="x.yaml",
        line=4,
        column=7,
        slug="unknown-key",
        message="found 'stpes'",
        hint="'steps'?",
    )
    error = errors.SheetError([problem], total=3)
    fake(error)
    assert run(["sample", "x.yaml"]) == 2
    assert capsys.readouterr().err == str(error) + "\n"

    fake(error)
    assert run(["sample", "x.yaml", "--json"]) == 2
    told, last = json_lines(capsys.readouterr().out)
    assert (told["problems"][0]["line"], told["problems"][0]["column"]) == (4, 7)
    assert last["reason"] == "sheet"


def test_an_error_after_the_summary_keeps_its_counts(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(PLANNED, summary(), errors.OutputFull("no space for the gallery"))
    assert run(["sample", "a.yaml", "--json"]) == 6
    last = json_lines(capsys.readouterr().out)[-1]
    assert (last["event"], last["done"], last["code"]) == ("summary", 3, 6)


def test_a_bug_is_one_line_and_a_crash_file_without_locals_and_secrets(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    fake(PLANNED, ValueError("boom hf_canary\x1b[2J\nsecond line"))
    assert run(["sample", "a.yaml", "--json"]) == 1
    out, err = capsys.readouterr()
    told, last = json_lines(out)[-2:]
    assert (last["code"], last["reason"]) == (1, "internal")
    text = Path(told["crash_file"]).read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "ValueError: boom" in text
    assert "hf_canary" not in text
    assert str(Path.home()) not in text
    assert err == ""

    fake(PLANNED, ValueError("boom\x1b[2J\nsecond line"))
    assert run(["sample", "a.yaml", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "error[internal]: ValueError: boom\\x1b[2J: this is a bug in creatok" in err
    assert "Traceback" not in err


def test_a_bug_without_a_state_folder_is_still_one_line(
    fake: Fake,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "file"))
    fake(ValueError("boom"))
    assert run(["sample", "a.yaml"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "no crash file could be written" in err


@pytest.mark.parametrize("progress", ["plain", "bar", "none"])
def test_data_never_steers_the_terminal(
    progress: str,
    fake: Fake,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    failed = JobFailed(key="r1:1", row=HOSTILE, where=HOSTILE, kind="error", message=HOSTILE)
    fake(
        Planned(planned=2, skipped=0, todo=2, batches=1, out=HOSTILE, files=((HOSTILE, False),)),
        Stage(name="loading", detail=HOSTILE),
        Notice(level="warning", message=HOSTILE),
        failed,
        errors.OutputFull(HOSTILE),
    )
    assert run(["sample", "a.yaml", "--progress", progress]) == 6
    out, err = capsys.readouterr()
    for char in "\x1b\x07\u202e\x9b\ud800":
        assert char not in out
        assert char not in err
    assert "[bold red]a pig[/]\\x1b]0;owned" in out
    assert "[bold red]a pig[/]\\x1b]0;owned" in err.replace("\n", "")


def test_json_escapes_everything_but_ascii(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    written = ImageWritten(key="k", row="r", file="f", seed=1, prompt=HOSTILE)
    fake(PLANNED, written, summary())
    assert run(["sample", "a.yaml", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json_lines(out)[1]["prompt"] == HOSTILE


def test_lines_come_at_most_once_a_second(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(float(i) / 10 for i in range(100_000))
    monkeypatch.setattr("creatok_cli.cli.progress.time.monotonic", lambda: next(clock))
    many = Planned(planned=1000, skipped=0, todo=1000, batches=1, out="out/x")
    fake(many, Stage(name="drawing"), *[WRITTEN] * 1000, summary(planned=1000, done=1000))
    assert run(["sample", "a.yaml", "--progress", "plain"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " drawn, 0 failed" in line]
    assert 50 <= len(lines) <= 110
    assert lines[0].endswith(" left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (61, "1 min 01 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_printable_keeps_words_in_any_language() -> None:
    assert printable("Fuchs mit Öl, 狐, лиса\n😀") == "Fuchs mit Öl, 狐, лиса\n😀"


def test_a_tally_knows_no_speed_before_the_first_picture() -> None:
    tally = Tally()
    tally.add(PLANNED)
    assert tally.line() == "0/3 drawn, 0 failed"
