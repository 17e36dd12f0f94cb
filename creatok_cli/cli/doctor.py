"""`creatok doctor`: whether creatok can work on this machine, and what to do if not.

Does not: import torch, Rich or a probe before its body runs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, TextIO

import typer

from creatok_cli.cli.console import EVENT_SCHEMA, Session
from creatok_cli.cli.options import parse_device
from creatok_cli.cli.progress import printable

Finding = Any
Verdict = Any
"""Of `creatok_cli.doctor`, which is imported by the body only."""
COLOURS = {"fault": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}

Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        help="The device to look for and to test. Without it: auto, the best one found.",
    ),
]
NoSelfTest = Annotated[
    bool,
    typer.Option(
        "--no-self-test", metavar="", help="Look only; do not draw a small picture as a test."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", help="One JSON object on standard output, with all facts."),
]


def doctor(
    context: typer.Context,
    device: Device = None,
    no_self_test: NoSelfTest = False,
    json_lines: Json = False,
) -> None:
    """Look whether creatok can work here: device, torch, libraries, bases, licences, folders.

    Draws one small picture as a test. What needs care comes first, the verdict last. No setting is
    changed, nobody is asked over the network, and no token is shown.

    Exit codes: 0 ready, also with warnings; 1 a bug; 2 a flag or setting; 3 the test picture is
    wrong; 4 torch, libraries or the bestiary are missing, broken or too old; 5 no such device; 6 a
    folder is full or cannot be written; 130 stopped.
    """
    session: Session = context.obj

    # 1. settings
    asked = parse_device(device)
    began_s = time.monotonic()

    # 2. workflow
    from creatok_cli import doctor as probes

    scene = probes.Scene(probes.DoctorRequest(device=asked, self_test=not no_self_test))
    err = session.report.err
    waiting = err if is_terminal(err) and not json_lines else None

    # 3. events
    findings: list[Finding] = []
    for name in probes.PROBES:
        wait(waiting, name)
        findings += probes.examine(scene, name)
    wait(waiting, "")
    verdict = probes.conclude(scene, findings)
    findings = probes.ordered(findings)
    if json_lines:
        tell(session, findings, verdict, time.monotonic() - began_s)
    else:
        show(session.report.out, findings, verdict)

    # 4. exit code
    raise typer.Exit(verdict.code)


def wait(err: TextIO | None, name: str) -> None:
    """Say on a terminal what is being looked at; the next word takes its place."""
    if err is not None:
        err.write(f"\r\x1b[K{f'looking at {name} ...' if name else ''}")
        err.flush()


def tell(session: Session, findings: Sequence[Finding], verdict: Verdict, seconds: float) -> None:
    """One JSON object."""
    fields = {
        "schema": EVENT_SCHEMA,
        "event": "summary",
        "verdict": verdict.line,
        "ready": verdict.is_ready,
        "device": verdict.device,
        "seconds": round(seconds, 3),
        "code": verdict.code,
        "reason": verdict.reason,
        "retryable": False,
        "findings": [asdict(each) for each in findings],
    }
    session.report.out.write(json.dumps(fields) + "\n")


def show(out: TextIO, findings: Sequence[Finding], verdict: Verdict) -> None:
    """A table, what to do, and the verdict."""
    if is_terminal(out):
        show_table(out, findings)
    else:
        for each in findings:
            out.write(one_line(f"{each.status:<8} {each.name:<10} {each.found}"))
    steps = [each for each in findings if each.todo]
    if steps:
        out.write("\nwhat to do\n")
    for each in steps:
        out.write(one_line(f"  {each.name}: {each.todo}"))
    out.write("\n" + one_line(verdict.line))


def show_table(out: TextIO, findings: Sequence[Finding]) -> None:
    """The findings as a table as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in findings:
        status = Text(each.status, style=COLOURS[each.status])
        table.add_row(status, Text(each.name), Text(one_line(each.found).rstrip()))
    Console(file=out, markup=False, highlight=False, emoji=False).print(table)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a screen that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def one_line(text: str) -> str:
    """Text from elsewhere stays on its line and steers no terminal."""
    return printable(text).replace("\n", "\\n") + "\n"
