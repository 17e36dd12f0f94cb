"""The flags of the searches that learn, as Annotated types: what is looked for, and how.

Does not: read a picture, or know a method's settings beyond their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from creatok_cli.cli.explore._options import KEPT, SEARCHED, SOUGHT

Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT",
        help='The plain prompt to start from, for example "a photo of a creature".',
        show_default=False,
    ),
]
Subject = Annotated[
    str | None,
    typer.Option(
        "--subject",
        metavar="WORDS",
        rich_help_panel=SOUGHT,
        help="What finds have to stay. Without it: read off the prompt, or --like.",
        show_default=False,
    ),
]
Like = Annotated[
    list[str] | None,
    typer.Option(
        "--like",
        metavar="WORDS",
        rich_help_panel=SOUGHT,
        help='What finds resemble, for example "a pet". May repeat: several are mixed.',
        show_default=False,
    ),
]
Unlike = Annotated[
    list[str] | None,
    typer.Option(
        "--unlike",
        metavar="WORDS",
        rich_help_panel=SOUGHT,
        help="What finds do not resemble, for example cat. May repeat.",
        show_default=False,
    ),
]
Toward = Annotated[
    list[Path] | None,
    typer.Option(
        "--toward",
        metavar="IMG",
        rich_help_panel=SOUGHT,
        help="A picture whose kind finds go toward. May repeat: three or more show the kind.",
        show_default=False,
    ),
]
Away = Annotated[
    list[Path] | None,
    typer.Option(
        "--away-from",
        metavar="IMG",
        rich_help_panel=SOUGHT,
        help="A picture whose kind finds keep away from. May repeat.",
        show_default=False,
    ),
]
Origin = Annotated[
    Path | None,
    typer.Option(
        "--from-image",
        metavar="IMG",
        rich_help_panel=SOUGHT,
        help="Vary this picture.",
        show_default=False,
    ),
]
Rarity = Annotated[
    float | None,
    typer.Option(
        "--rarity",
        metavar="X",
        rich_help_panel=SOUGHT,
        help="How rare, 0.05 to 0.999999: 0.99 is the rarest of a hundred plain pictures.",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        rich_help_panel=SEARCHED,
        help="Optimiser steps at most.",
        show_default=False,
    ),
]
Train = Annotated[
    Literal["token", "lora", "both"] | None,
    typer.Option(
        "--train",
        rich_help_panel=SEARCHED,
        help="What is moved: a word, low-rank weights of the base, or both.",
        show_default=False,
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank",
        metavar="N",
        rich_help_panel=SEARCHED,
        help="Rank of the low-rank weights.",
        show_default=False,
    ),
]
Anchor = Annotated[
    float | None,
    typer.Option(
        "--anchor",
        metavar="X",
        rich_help_panel=SEARCHED,
        help="Weight of staying what it is; 0 for none.",
        show_default=False,
    ),
]
CheckEvery = Annotated[
    int | None,
    typer.Option(
        "--check-every",
        metavar="N",
        rich_help_panel=SEARCHED,
        help="Steps between two questions to the validator.",
        show_default=False,
    ),
]
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        metavar="",
        rich_help_panel=SEARCHED,
        help="What the labeler sees on the way becomes something to be unlike.",
    ),
]
Validator = Annotated[
    str,
    typer.Option(
        "--validator",
        metavar="auto|clip|DIR",
        rich_help_panel=SEARCHED,
        help="Who answers yes or no: the base's CLIP towers, or a vision-language model's folder.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME|FILE",
        rich_help_panel=SEARCHED,
        help="Among these a labeler names what it sees. Without it: the preset's.",
        show_default=False,
    ),
]
Strands = Annotated[
    int,
    typer.Option(
        "--strands",
        metavar="N",
        rich_help_panel=KEPT,
        help="Searches from other seeds; each may give a find.",
    ),
]
