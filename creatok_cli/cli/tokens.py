"""`creatok tokens`: list, show, export, import and remove learned words.

Does not: import torch, pydantic or a workflow before a body runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from creatok_cli.cli.console import EVENT_SCHEMA, Session
from creatok_cli.cli.progress import printable
from creatok_cli.errors import InputError, Interrupted

CODES = (
    "Exit codes: 0 done; 1 a bug; 2 flag or name; 4 token missing, damaged or refused; "
    "6 folder cannot be written; 130 stopped."
)
Row = Any
"""A `TokenRow` of the workflow, which is imported by the bodies only."""
GAP = "  "
LONG = 400
"""Characters of a recipe entry that `show` prints; `--json` has all."""

tokens = typer.Typer(
    name="tokens",
    help="Keep learned words: list, show, export, import, remove.",
    rich_markup_mode="rich",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name in the library, an id or its beginning, or the path of a file."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="One JSON object per line on standard output; the last sums up."
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", metavar="", help="Replace what has that name already.")
]


@tokens.callback(invoke_without_command=True)
def keep(context: typer.Context) -> None:
    """Keep learned words: list, show, export, import, remove.

    A sheet uses a word by its name in the library: [bold]tokens: {cretok: NAME}[/bold], and
    <cretok> in prompts.
    """
    if context.invoked_subcommand is None:
        context.get_help()
        raise typer.Exit(InputError.code)


@tokens.command("list", epilog=CODES)
def list_tokens(context: typer.Context, json_lines: Json = False) -> None:
    """List the words in the library, with the bases that they fit."""
    session: Session = context.obj
    from creatok_cli.workflows import tokens as workflow

    found = workflow.list_tokens()
    if json_lines:
        for row in found.tokens:
            tell(session, "token", asdict(row))
        for fault in found.damaged:
            tell(session, "damaged", asdict(fault))
        sum_up(session, tokens=len(found.tokens), damaged=len(found.damaged), root=found.root)
        return
    if found.tokens:
        head = ("NAME", "WORD", "FITS", "VECTORS", "METHOD", "ADDED", "ID")
        write(session, table([head, *(columns(row) for row in found.tokens)]))
    else:
        note(session, f"no tokens in {found.root}; 'creatok tokens import FILE' takes one in")
    for fault in found.damaged:
        note(session, f"warning: {fault.name or 'a token without a name'}: {fault.message}")


@tokens.command(epilog=CODES)
def show(context: typer.Context, name: Name, json_lines: Json = False) -> None:
    """Show one word: its vectors, its recipe, and which programs can have it."""
    session: Session = context.obj
    from creatok_cli.workflows import tokens as workflow

    found = workflow.show_token(name)
    if json_lines:
        fields = asdict(found.row) | {
            "recipe": dict(found.recipe),
            "metadata": dict(found.metadata),
            "clients": dict(found.clients),
        }
        tell(session, "token", fields)
        sum_up(session, tokens=1)
        return
    row = found.row
    lines = [
        ("name", row.name or "(none)"),
        ("word", row.word),
        ("literal", row.literal),
        ("id", row.id),
        ("fits", row.fits),
        ("vectors", vectors(row)),
        ("added", row.added or "(unknown)"),
        ("file", row.path),
    ]
    lines += [("licence", found.metadata[key]) for key in found.metadata if key.endswith("license")]
    write(session, table(lines))
    if found.recipe:
        write(session, ["", "recipe"])
        write(session, table([("", *each) for each in recipe_lines(found.recipe)]))
    write(session, ["", "exports"])
    write(session, table([("", each, why or "yes") for each, why in found.clients.items()]))


@tokens.command(epilog=CODES)
def export(
    context: typer.Context,
    name: Name,
    client: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="CLIENT",
            help="comfyui, a1111, forge, invokeai, diffusers, onetrainer or kohya.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder of the files.", show_default=False),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            metavar="",
            help="Write the CLIP-L rows alone where a client cannot take the token; it is recorded "
            "in the file, and what the word then means is not known.",
        ),
    ] = False,
    replace: Replace = False,
    json_lines: Json = False,
) -> None:
    """Write a word as files that another program loads."""
    session: Session = context.obj
    from creatok_cli.workflows import tokens as workflow

    made = workflow.export_token(name, client, out, force=force, replace=replace)
    if json_lines:
        tell(session, "exported", asdict(made))
        sum_up(session, files=len(made.files))
        return
    write(session, list(made.files))
    for each in made.notes:
        note(session, f"warning: {each}")
    note(session, f"for {made.fits} in {made.client}: {made.place}; prompts say {made.trigger}")


@tokens.command("import", epilog=CODES)
def import_token(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A safetensors file of any client, or a folder of learned_embeds files.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name in the library. Without it: the word.",
            show_default=False,
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            "--word",
            metavar="WORD",
            help="What prompts say, for example hydra-fox. Without it: what the file says, else "
            "its name.",
            show_default=False,
        ),
    ] = None,
    literal: Annotated[
        str | None,
        typer.Option(
            "--literal",
            metavar="TEXT",
            help="What encoders without vectors (T5) read in its place. Without it: what the file "
            "says, else the word.",
            show_default=False,
        ),
    ] = None,
    replace: Replace = False,
    json_lines: Json = False,
) -> None:
    """Take a token file into the library, from creatok or another program.

    Only safetensors: a pickle (.pt, .bin) can run code and is refused.
    """
    session: Session = context.obj
    from creatok_cli.workflows import tokens as workflow

    made = workflow.import_token(path, name=name, word=word, literal=literal, replace=replace)
    if json_lines:
        fields = asdict(made.row) | {"origin": made.origin, "notes": made.notes}
        tell(session, "imported", fields)
        sum_up(session, tokens=1)
        return
    write(session, [made.row.name])
    for each in made.notes:
        note(session, f"warning: {each}")
    row = made.row
    note(session, f"{row.word} for {row.fits} ({vectors(row)}); sheets: {usage(row)}")


@tokens.command(epilog=CODES)
def remove(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name in the library, or an id without a name.")
    ],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", metavar="", help="Do not ask; needed without a terminal.")
    ] = False,
    json_lines: Json = False,
) -> None:
    """Remove a word from the library. Pictures drawn with it cannot be drawn again afterwards."""
    session: Session = context.obj
    if not yes:
        if json_lines or not (sys.stdin.isatty() and session.report.err.isatty()):
            raise InputError("removing needs --yes where nobody can be asked")
        question = f"Remove {printable(name)} from the token library?"
        if not typer.confirm(question, err=True):
            raise Interrupted("nothing was removed")
    from creatok_cli.workflows import tokens as workflow

    gone = workflow.remove_token(name)
    if json_lines:
        tell(session, "removed", {"name": gone.name, "word": gone.word, "id": gone.id})
        sum_up(session, tokens=1)
        return
    write(session, [gone.name or gone.id])


# Telling


def tell(session: Session, event: str, fields: Mapping[str, Any]) -> None:
    """One JSON line."""
    line = json.dumps({"schema": EVENT_SCHEMA, "event": event, **fields})
    session.report.out.write(line + "\n")


def sum_up(session: Session, **counts: Any) -> None:
    """The last JSON line of a command that went well."""
    tell(session, "summary", {**counts, "code": 0, "reason": "ok", "retryable": False})


def write(session: Session, lines: Sequence[str]) -> None:
    """Data: standard output."""
    session.report.out.write("".join(one_line(line) for line in lines))


def note(session: Session, text: str) -> None:
    """For people: standard error."""
    session.report.err.write(one_line(text))


def one_line(text: str) -> str:
    """Text from a file stays on its line."""
    return printable(text).replace("\n", "\\n") + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def columns(row: Row) -> tuple[str, ...]:
    """A token as the columns of `list`."""
    digits = row.id.removeprefix("sha256:")[:12]
    day = row.added[:10] or "-"
    name, method = row.name or "-", row.method or "-"
    return name, row.word, row.fits, vectors(row), method, day, digits


def vectors(row: Row) -> str:
    """`clip_g 1 x 1280, clip_l 1 x 768`."""
    return ", ".join(f"{name} {n} x {d}" for name, (n, d) in sorted(row.encoders.items()))


def usage(row: Row) -> str:
    """How a sheet declares it."""
    return f"tokens: {{{row.word.strip('<>')}: {row.name}}}, and {row.word} in prompts"


def recipe_lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The entries of a recipe, long ones cut."""
    found = []
    for key in sorted(recipe):
        value = recipe[key]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        found.append((key, text if len(text) <= LONG else f"{text[:LONG]}... (--json has all)"))
    return found
