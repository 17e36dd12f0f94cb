"""`creatok explore`: looks for creatures that nobody asked for, one module per method.

Does not: know what a method does; it only gathers their commands.
"""

from __future__ import annotations

import typer

from creatok_cli.cli.explore import conceptlab, distok, els, lowprob
from creatok_cli.errors import InputError

explore = typer.Typer(
    name="explore",
    help="Look for creatures that nobody asked for; what is found becomes words for sheets.",
    rich_markup_mode="rich",
)


@explore.callback(invoke_without_command=True)
def look(context: typer.Context) -> None:
    """Look for creatures that nobody asked for; what is found becomes words for sheets.

    Every find is a token of the library, or a LoRA, or both: [bold]tokens: {odd: NAME}[/bold].
    """
    if context.invoked_subcommand is None:
        context.get_help()
        raise typer.Exit(InputError.code)


explore.command()(distok.distok)
explore.command()(lowprob.lowprob)
explore.command()(conceptlab.conceptlab)
explore.command()(els.els)
