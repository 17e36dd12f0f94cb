"""`creatok explore els`: new creatures from the patches of a folder of sprites, without training.

Does not: import torch, pydantic, Pillow or a workflow before its body runs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session
from creatok_cli.cli.explore import _options
from creatok_cli.errors import InputError

SOURCES = "What it is made of"

Images = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="DIR|PATTERN",
        rich_help_panel=SOURCES,
        help="The sprites: a folder, one picture, or a pattern such as 'art/*.png'.",
        show_default=False,
    ),
]
Count = Annotated[
    int,
    typer.Option(
        "--count",
        metavar="N",
        rich_help_panel=_options.KEPT,
        help="Pictures; of each tag where there are some.",
    ),
]
Machine = Annotated[
    str,
    typer.Option(
        "--machine",
        metavar="auto|ls|window|els|bbels|ideal",
        rich_help_panel=_options.SEARCHED,
        help="Patches stay in place, shift a little, go anywhere, keep to borders, or copy whole "
        "sprites. auto: what suits them.",
    ),
]
Coherence = Annotated[
    float,
    typer.Option(
        "--coherence",
        metavar="F",
        rich_help_panel=_options.SEARCHED,
        help="Least patch as a share of the side: 0 is a patchwork, 1 nearly copies.",
    ),
]
Freedom = Annotated[
    int | None,
    typer.Option(
        "--freedom",
        metavar="PX",
        rich_help_panel=_options.SEARCHED,
        help="How far patches may shift. Without it: what suits the sprites.",
        show_default=False,
    ),
]
Steps = Annotated[
    int,
    typer.Option("--steps", metavar="N", rich_help_panel=_options.SEARCHED, help="Noise levels."),
]
Lock = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="PICTURE",
        rich_help_panel=SOURCES,
        help="Pixels that all pictures keep: what is opaque in it, or what is white in a mask of "
        "the sprite that --keep names.",
        show_default=False,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="SPRITE",
        rich_help_panel=SOURCES,
        help="Whose pixels a black and white --lock keeps.",
        show_default=False,
    ),
]
Tile = Annotated[
    bool,
    typer.Option("--tile", metavar="", rich_help_panel=SOURCES, help="Make tiles without seams."),
]
Mirror = Annotated[
    bool,
    typer.Option(
        "--mirror", metavar="", rich_help_panel=SOURCES, help="Use mirrored sprites, too."
    ),
]
Tags = Annotated[
    Path | None,
    typer.Option(
        "--tags",
        metavar="FILE",
        rich_help_panel=SOURCES,
        help="Pictures of each tag of a YAML file, from its sprites alone: birds: [duck, 'owl*'].",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="TAG",
        rich_help_panel=SOURCES,
        help="Pictures of this tag alone: of --tags, of tags.yaml or a folder in DIR. May repeat.",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        rich_help_panel=SOURCES,
        help="The canvas; larger sprites are reduced. Without it: as large as the largest.",
        show_default=False,
    ),
]
Grid = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="WxH",
        rich_help_panel=SOURCES,
        help="The pictures are sprite sheets with cells of this size.",
        show_default=False,
    ),
]


def els(
    context: typer.Context,
    images: Images,
    count: Count = 16,
    tags: Tags = None,
    only: Only = None,
    mirror: Mirror = False,
    tile: Tile = False,
    lock: Lock = None,
    keep: Keep = None,
    size: Size = None,
    grid: Grid = None,
    machine: Machine = "auto",
    coherence: Coherence = 0.35,
    freedom: Freedom = None,
    steps: Steps = 20,
    seed: _options.Seed = 0,
    name: _options.Name = None,
    out: _options.Out = None,
    resume: _options.Resume = False,
    device: _options.Device = None,
    replace: _options.Replace = False,
    dry_run: _options.DryRun = False,
    json_lines: _options.Json = False,
    progress: _options.Progress = None,
    quiet: _options.Quiet = False,
) -> None:
    """Remix a folder of sprites: creatok explore els --images presets/sprites

    Every picture is a mosaic of patches of the sprites that fit together; nothing is trained or
    downloaded. The folder has pictures with transparency, an atlas with its JSON, and for every
    pixel which sprite it comes from; near copies are flagged.

    Exit codes: 0 done; 1 a bug; 2 flag or picture; 3 pictures failed; 4 a damaged file; 5 device;
    6 output folder; 130 stopped, to be continued.
    """
    session: Session = context.obj

    # 1. settings
    from creatok_cli import config

    settings = config.machine({"device": options.parse_device(device), "progress": progress})
    command = shlex.join(["creatok", *session.argv])
    session.report.begin(settings.progress, quiet=quiet, resume=command)
    size_px, grid_px = parse_size("--size", size), parse_size("--grid", grid)

    # 2. workflow
    from creatok_cli.workflows import explore_els as workflow

    request = workflow.ElsRequest(
        images=images,
        count=count,
        machine=machine,
        coherence=coherence,
        freedom=freedom,
        steps=steps,
        lock=lock,
        keep=keep,
        tile=tile,
        mirror=mirror,
        tags=tags,
        only=tuple(only or ()),
        size_px=size_px,
        grid_px=grid_px,
        name=name,
        seed=seed,
        out=out,
        device=settings.device,
        replace=replace,
        resume=resume,
        resume_command=command,
        stop=session.stop,
    )
    if dry_run:
        session.report.lay_out("order", workflow.outline(workflow.settle(request), request))
        return

    # 3. events
    for event in workflow.explore_els(request):
        session.report.show(event)

    # 4. exit code
    raise typer.Exit(session.report.finish())


def parse_size(flag: str, text: str | None) -> tuple[int, int] | None:
    """`WxH` in pixels, or None where the flag was not given."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text)
    if found is None:
        raise InputError(f"{flag}: found {text[:40]!r}, expected WIDTHxHEIGHT such as 64x64")
    return int(found[1]), int(found[2])
