"""The flags that commands share, as Annotated types, and readers for `K/N` and its like.

A machine setting (device, executor, batch size, folders, progress) has no default here: without the
flag it comes from the environment, the project file, the user file or the built-in default, in that
order of strength.

Does not: read a file, import a plug-in, or know what a workflow does with a value.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from creatok_cli.errors import InputError

MAX_BATCH = 4096
PIXELS, RUN, REPORT, INSTEAD = "What is drawn", "How it runs", "What it tells", "Instead of a sheet"

Sheet = Annotated[
    str | None,
    typer.Argument(
        metavar="SHEET",
        help="A YAML, CSV or JSONL sheet; - reads YAML from standard input.",
        show_default=False,
    ),
]

# What is drawn: these take part in every picture's key.
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        rich_help_panel=PIXELS,
        help="Draw with this base instead of the sheet's: bestiary, or a diffusers SD3 folder.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=PIXELS,
        help="Override a setting of the whole sheet, for example steps=4. May repeat.",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        rich_help_panel=PIXELS,
        help="Number format of the drawing; auto is the base's own. It changes pixels.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="GLOB",
        rich_help_panel=PIXELS,
        help="Draw only the jobs whose id or tag fits, for example 'dragon*'.",
    ),
]

# How it runs: never part of a key.
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=RUN,
        help="Folder of the pictures. Without it: out/ and the name of the sheet.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        rich_help_panel=RUN,
        help="Where to draw. Without it: auto, the best device found.",
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N|auto",
        rich_help_panel=RUN,
        help="Pictures drawn together; fixed for the life of an output folder. Without it: auto.",
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="local|ray",
        rich_help_panel=RUN,
        help="Engine that runs the batches. Without it: local, one process on one device.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        rich_help_panel=RUN,
        help="Draw part K of N, whole batches; the parts may run anywhere, in any order.",
    ),
]
Overwrite = Annotated[
    Literal["skip", "replace", "error"],
    typer.Option(
        "--overwrite",
        rich_help_panel=RUN,
        help="What to do with a finished picture that is already there.",
    ),
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast", metavar="", rich_help_panel=RUN, help="Stop at the first job that fails."
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        metavar="",
        rich_help_panel=RUN,
        help="Check every finished picture byte by byte and draw nothing.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        rich_help_panel=RUN,
        help="Check the sheet and list the files to write and to skip; draw nothing.",
    ),
]
Metadata = Annotated[
    Literal["full", "minimal", "none"],
    typer.Option(
        "--metadata",
        rich_help_panel=RUN,
        help="What each PNG says about itself; minimal keeps key, seed and the AI mark.",
    ),
]
Sinks = Annotated[
    list[str] | None,
    typer.Option(
        "--sink",
        metavar="NAME",
        rich_help_panel=RUN,
        help="Write one more kind of output, from a plug-in. May repeat.",
        show_default=False,
    ),
]

# What it tells.
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        rich_help_panel=REPORT,
        help="One event per line on standard output as JSON; the last one is the summary.",
    ),
]
Progress = Annotated[
    Literal["auto", "bar", "plain", "none"] | None,
    typer.Option(
        "--progress",
        rich_help_panel=REPORT,
        help="Progress on standard error. Without it: auto, a bar on a terminal, else lines.",
        show_default=False,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        metavar="",
        rich_help_panel=REPORT,
        help="Say nothing but errors and results.",
    ),
]

# Instead of a sheet.
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="IMAGE.png",
        rich_help_panel=INSTEAD,
        help="Draw that picture again from its own metadata.",
        show_default=False,
    ),
]
Schema = Annotated[
    bool,
    typer.Option(
        "--schema",
        metavar="",
        rich_help_panel=INSTEAD,
        help="Print the JSON Schema of sheets and end.",
    ),
]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`K/N` with 1 <= K <= N as a pair."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    part, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= of:
        raise InputError(
            f"--shard: found {text!r}, expected K/N with 1 <= K <= N; for example --shard 1/4"
        )
    return part, of


def parse_batch_size(text: str | None) -> int | Literal["auto"] | None:
    """A number from 1 to 4096, `auto`, or None where the flag was not given."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_BATCH:
        raise InputError(
            f"--batch-size: found {text!r}, expected auto or a whole number from 1 to {MAX_BATCH}"
        )
    return int(text)


def parse_device(text: str | None) -> str | None:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`; whether it exists here is found out later."""
    if text is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise InputError(
            f"--device: found {text!r}, expected auto, cpu, cuda, cuda:0, cuda:1 ... or mps"
        )
    return text
