"""The `creatok` command: errors become a message and an exit code, signals become a wish to stop.

One place maps everything: a CreatokError carries its code, a wrong flag is 2, a signal 130, and any
other exception is a bug, told in one line with a crash file. A first INT, TERM or HUP stops at the
next step, a second one ends at once. INT and TERM count even where they were inherited as ignored
(`creatok ... &` in a script); an ignored HUP stays ignored, for that is what `nohup` asks for.

Does not: import a workflow, torch or pydantic; commands do that in their bodies.
"""

from __future__ import annotations

import errno
import io
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TextIO, cast

import typer

from creatok_cli import __version__
from creatok_cli.cli import doctor, explore, fuse, learn_token, sample, tokens
from creatok_cli.cli.console import Report, Session, Stream
from creatok_cli.errors import CreatokError, InputError, Interrupted, OutputFull

INTERRUPTED = Interrupted.code
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SHOW_CURSOR = "\x1b[?25h"

app = typer.Typer(name="creatok", rich_markup_mode="rich", pretty_exceptions_enable=False)


class StopNow(BaseException):
    """A signal came before any work was begun, so there is nothing to wait for."""


@app.callback(invoke_without_command=True)
def creatok(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version and end.")
    ] = False,
) -> None:
    """Draw sheets of creatures.

    [bold]creatok sample SHEET[/bold] makes pictures, a contact sheet, a gallery and a manifest.
    [bold]creatok fuse[/bold] makes a word of concepts and weights: pig=.55 snake=.45.
    [bold]creatok explore METHOD[/bold] looks for creatures that nobody asked for.
    [bold]creatok learn-token[/bold] learns a word that mixes concepts, for use in sheets.
    """
    context.obj.report.command = context.invoked_subcommand or ""
    if version:
        context.obj.report.out.write(f"creatok {__version__}\n")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        context.get_help()
        raise typer.Exit(InputError.code)


app.command()(fuse.fuse)
app.command()(learn_token.learn_token)
app.command()(sample.sample)
app.add_typer(explore.explore, name="explore")
app.add_typer(tokens.tokens, name="tokens")
app.command()(doctor.doctor)


def main() -> None:
    """The console script."""
    open_missing_streams()
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command line inside this process and return its exit code."""
    real_out, real_err = sys.stdout, sys.stderr
    for stream in (real_out, real_err):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    out, err = Stream(real_out), Stream(real_err)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    report = Report(sys.stdout, sys.stderr, json_lines="--json" in before_dashes(argv))
    session = Session(argv, report)
    release = watch_signals(session)
    try:
        code = run_command(session)
    finally:
        release()
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = real_out, real_err
    return code if report.told else lost_listing(out, err, code)


def run_command(session: Session) -> int:
    """Hand the words to Typer; whatever goes wrong becomes an error of the report."""
    report = session.report
    try:
        code = app(args=list(session.argv), prog_name="creatok", standalone_mode=False, obj=session)
        return code if isinstance(code, int) else 0
    except CreatokError as error:
        report.fail(error)
    except typer.TyperException as error:
        report.fail(InputError(usage_message(error)))
    except (StopNow, KeyboardInterrupt, typer.Abort):
        report.fail(Interrupted(f"stopped before the first {report.unit}; nothing was lost"))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # noqa: BLE001 - the last net: every bug becomes one line and a crash file
        crash_file = write_crash_file(error, session.argv)
        first = str(error).strip().split("\n")[0][:200]
        place = (
            f"details are in {crash_file}" if crash_file else "and no crash file could be written"
        )
        report.fail(
            CreatokError(f"{type(error).__name__}: {first}: this is a bug in creatok; {place}"),
            crash_file=crash_file,
        )
    return report.finish()


def usage_message(error: typer.TyperException) -> str:
    """Typer's own words, and where to look."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "creatok"
    return f"{error.format_message().rstrip('.')}; see '{command} --help'"


def before_dashes(argv: Sequence[str]) -> Sequence[str]:
    """The words in which flags are still flags."""
    return argv[: argv.index("--")] if "--" in argv else argv


def lost_listing(out: Stream, err: Stream, code: int) -> int:
    """The exit code of a help text or schema: a closed pipe is fine, a full disk is not."""
    if out.error is None or out.error.errno in (errno.EPIPE, errno.EINVAL, errno.EBADF):
        return code
    err.write(f"error[disk-full]: standard output could not be written: {out.error.strerror}\n")
    err.flush()
    return code or OutputFull.code


def open_missing_streams() -> None:
    """Open the null device where 0, 1 or 2 came closed.

    Else the next file opened, such as a manifest, would take that number and receive stray output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # The streams live as long as the process.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)


def watch_signals(session: Session) -> Callable[[], None]:
    """Turn INT, TERM and HUP into `session.stop`.

    The returned function puts the old handlers back.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def stop(number: int, frame: FrameType | None) -> None:
        # Only os.write is safe here: a buffered stream may be in the middle of a write.
        if session.stop.is_set():
            with suppress(OSError):
                os.write(2, (SHOW_CURSOR if os.isatty(2) else "").encode())
            os._exit(INTERRUPTED)
        session.stop.set()
        if not session.report.underway:
            raise StopNow
        with suppress(OSError):
            os.write(2, b"\nstopping at the next step; once more ends at once\n")

    old: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        old[number] = signal.signal(number, stop)

    def release() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    return release


def write_crash_file(error: BaseException, argv: Sequence[str]) -> str:
    """Keep the traceback, without locals, secrets or the home folder's name.

    Returns the path, or nothing when no file could be written.
    """
    from creatok_cli import config

    text = "\n".join(
        [
            f"creatok {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"words: {list(argv)!r}",
            "".join(traceback.format_exception(error)),
        ]
    )
    for secret in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(secret, "(secret)")
    with suppress(RuntimeError):
        text = text.replace(str(Path.home()), "~")
    try:
        folder = config.home() / "crashes"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, CreatokError):
        return ""
    return str(path)
