"""The flags that all methods of `explore` share, as Annotated types; the rest is in `cli.options`.

Does not: hold a flag that belongs to one method alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from creatok_cli.cli import options

SOUGHT, SEARCHED, KEPT = "What is looked for", "How it is searched", "What is kept"
RUN = options.RUN

Json = options.Json
Progress = options.Progress
Quiet = options.Quiet
Replace = options.Replace
Vram = options.Vram

Base = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="BASE",
        rich_help_panel=SOUGHT,
        help="Explore this base: bestiary, sd3, OWNER/REPO[@REVISION], or a folder.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="STEM",
        rich_help_panel=KEPT,
        help="Finds are named STEM-SEED-01, STEM-SEED-02... Without it: the method.",
        show_default=False,
    ),
]
Pick = Annotated[
    int,
    typer.Option("--pick", metavar="N", rich_help_panel=KEPT, help="Finds to keep at most."),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", rich_help_panel=SEARCHED, help="Another seed finds others."
    ),
]
Labeler = Annotated[
    str | None,
    typer.Option(
        "--labeler",
        metavar="clip|blip",
        rich_help_panel=SEARCHED,
        help="What tells what pictures show. Without it: the base's own.",
        show_default=False,
    ),
]
LabelerFolder = Annotated[
    Path | None,
    typer.Option(
        "--labeler-folder",
        metavar="DIR",
        rich_help_panel=SEARCHED,
        help="Folder of the labeler's model; for bases without one of their own.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        rich_help_panel=SEARCHED,
        help="Settings: a preset of presets/explore, or a file. Without it: the base's.",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=SEARCHED,
        help="Any other setting of the method. May repeat.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=RUN,
        help="Folder of finds, pictures, figures. Without it: out/explore/, the name and the seed.",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        rich_help_panel=RUN,
        help="Where to search and to draw. Without it: auto, the best device found.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        metavar="",
        rich_help_panel=RUN,
        help="Only go on with an unfinished run of these settings; an error if there is none.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        rich_help_panel=RUN,
        help="Check everything and print what would be looked for; open no model.",
    ),
]
