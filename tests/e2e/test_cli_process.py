"""The command line as a process: signals, closed and full streams, odd environments.

Each process runs the real `main` on a workflow of plain events, so that the tests need no weights.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import os, sys, time, types
import creatok_cli.workflows
from creatok_cli.cli.app import main
from creatok_cli.domain import ImageWritten, Planned, Stage, Summary

def wait(name):
    if name in os.environ:
        print("waiting", file=sys.__stderr__, flush=True)
        time.sleep(float(os.environ[name]))

def sample(request):
    total, step_s = int(os.environ["TOTAL"]), float(os.environ["STEP_S"])
    started = time.monotonic()
    wait("BEFORE_S")
    yield Planned(planned=total, skipped=0, todo=total, batches=1, out="out/x")
    wait("LOADING_S")
    yield Stage(name="drawing")
    done = 0
    while done < total and not request.stop.is_set():
        time.sleep(step_s)
        done += 1
        yield ImageWritten(key="k", row="r", file=f"r/{done}.png", seed=1, prompt="a p\\u00efg")
    stopped = done < total
    yield Summary(
        planned=total, done=done, skipped=0, failed=0, remaining=total - done, out="out/x",
        seconds=time.monotonic() - started, images_per_second=1.0,
        code=130 if stopped else 0, reason="interrupted" if stopped else "ok", retryable=stopped,
        contact_sheets=("out/\\u00fc/contact-sheet.png",), resume="creatok sample x",
    )

fake = types.ModuleType("creatok_cli.workflows.sample")
fake.SampleRequest, fake.sample = types.SimpleNamespace, sample
sys.modules[fake.__name__] = creatok_cli.workflows.sample = fake
main()
"""

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and shells")


def environment(total: int = 3, step_s: float = 0.0, **more: str) -> dict[str, str]:
    """The environment of a process that draws `total` pictures, `step_s` each."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TOTAL": str(total),
        "STEP_S": str(step_s),
        **more,
    }


def command(*words: str, python: Sequence[str] = ()) -> list[str]:
    """Python, the driver, and the words of a command line."""
    return [sys.executable, *python, "-c", DRIVER, *words]


def shell(
    line: str, env: dict[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which `$@` is `creatok`."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *command()],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def started(process: subprocess.Popen[str]) -> None:
    """Wait until the process has told its first picture."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "image_written":
            return
    pytest.fail("the process ended before its first picture")


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_at_the_next_step_with_130(name: str) -> None:
    process = subprocess.Popen(
        command("sample", "x.yaml", "--json"),
        env=environment(total=1000, step_s=0.05),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started(process)
    sent_s = time.monotonic()
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - sent_s < 10
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["code"], last["retryable"]) == ("summary", 130, True)
    assert "once more ends at once" in err
    assert "Traceback" not in err


@posix
def test_a_second_signal_ends_at_once() -> None:
    process = subprocess.Popen(
        command("sample", "x.yaml", "--json"),
        env=environment(total=1000, step_s=0.05),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started(process)
    os.kill(process.pid, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


@posix
@pytest.mark.parametrize("phase", ["BEFORE_S", "LOADING_S"])
def test_a_signal_before_drawing_does_not_wait(phase: str) -> None:
    process = subprocess.Popen(
        command("sample", "x.yaml", "--json"),
        env=environment(**{phase: "60"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events][-2:] == ["error", "summary"]
    planned = {"BEFORE_S": 0, "LOADING_S": 3}[phase]
    assert (events[-1]["planned"], events[-1]["remaining"]) == (planned, planned)
    assert err == ""


DRAWING = "until grep -q image_written events; do sleep 0.1; done; "
"""Shell: wait until a picture is told in the file `events`."""


@posix
def test_interrupts_count_in_background_jobs_that_ignore_them(tmp_path: Path) -> None:
    # Shells without job control start `command &` with SIGINT ignored.
    line = f'"$@" sample x.yaml --json > events & job=$!; {DRAWING} kill -INT $job; wait $job'
    assert shell(line, environment(total=10_000, step_s=0.05), tmp_path).returncode == 130


@posix
def test_nohup_keeps_its_promise_and_an_interrupt_still_stops(tmp_path: Path) -> None:
    line = (
        f'nohup "$@" sample x.yaml --json > events & job=$!; {DRAWING} kill -HUP $job; '
        "sleep 0.5; kill -0 $job || exit 99; kill -INT $job; wait $job"
    )
    assert shell(line, environment(total=10_000, step_s=0.05), tmp_path).returncode == 130


@posix
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"$@" sample x.yaml --json | head -1; exit ${PIPESTATUS[0]}', 0),
        ('"$@" sample x.yaml --json > /dev/full', 0),
        ('"$@" sample x.yaml 2> /dev/full', 0),
        ('"$@" sample x.yaml >&-', 0),
        ('"$@" sample x.yaml 2>&-', 0),
        ('"$@" sample x.yaml <&- >&- 2>&-', 0),
        ('"$@" sample x.yaml --progress bar 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}', 0),
        ('"$@" --help | true; exit ${PIPESTATUS[0]}', 0),
        ('"$@" sample --help | head -1; exit ${PIPESTATUS[0]}', 0),
        ('"$@" --help >&-', 0),
        ('"$@" --help > /dev/full', 6),
        ('"$@" sample --nope >&- 2>&-', 2),
    ],
)
def test_lost_streams_never_break_a_run(line: str, code: int) -> None:
    result = shell(line, environment(total=200))
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@posix
def test_a_file_opened_later_never_becomes_standard_output(tmp_path: Path) -> None:
    driver = DRIVER.replace(
        "    done = 0\n", f"    kept = open({str(tmp_path / 'kept')!r}, 'w')\n    done = 0\n"
    )
    line = '"$@" sample x.yaml --json >&-'
    result = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-c", driver],
        env=environment(),
        timeout=60,
        check=False,
    )
    assert result.returncode == 0
    assert (tmp_path / "kept").read_text() == ""


@pytest.mark.parametrize(
    ("more", "python"),
    [
        ({"LANG": "C", "LC_ALL": "C"}, []),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, []),
        ({"PYTHONIOENCODING": "ascii"}, []),
        ({"TERM": "dumb", "COLUMNS": "20"}, []),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, []),
        ({"HOME": ""}, []),
        ({}, ["-O"]),
        ({}, ["-W", "error"]),
        ({"PYTHONDEVMODE": "1"}, []),
        ({"TZ": "UTC", "SOURCE_DATE_EPOCH": "0"}, []),
    ],
    ids=lambda value: " ".join(value) if value else "-",
)
@pytest.mark.parametrize("progress", ["plain", "bar"])
def test_odd_environments_work(more: dict[str, str], python: list[str], progress: str) -> None:
    result = subprocess.run(
        command("sample", "x.yaml", "--progress", progress, python=python),
        env=environment(**more),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.startswith(b"out/")
    assert b"Traceback" not in result.stderr
    assert b"Warning" not in result.stderr


def test_a_missing_home_is_no_error() -> None:
    env = environment()
    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "CREATOK_HOME"):
        env.pop(name, None)
    result = subprocess.run(
        command("sample", "x.yaml"), env=env, capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr.decode()


@posix
def test_a_terminal_gets_a_bar_and_its_cursor_back() -> None:
    pty = pytest.importorskip("pty")
    main_end, process_end = pty.openpty()
    process = subprocess.Popen(
        command("sample", "x.yaml"),
        env=environment(step_s=0.3) | {"TERM": "xterm", "COLUMNS": "80"},
        stdin=process_end,
        stdout=subprocess.DEVNULL,
        stderr=process_end,
    )
    os.close(process_end)
    seen = b""
    try:
        while piece := os.read(main_end, 65536):
            seen += piece
    except OSError:  # Linux ends a pseudo terminal with EIO.
        pass
    os.close(main_end)
    assert process.wait(timeout=10) == 0
    assert "━" in seen.decode()
    assert b"images/s" in seen
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") > -1
