"""`creatok explore distok`: random latents of a base's network become creatures.

Does not: import torch, pydantic or a workflow before its body runs.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session
from creatok_cli.cli.explore import _options

Law = Annotated[
    str,
    typer.Option(
        "--z",
        metavar="gaussian|uniform|laplace|logistic|student|cauchy",
        rich_help_panel=_options.SEARCHED,
        help="The law of the latents; uniform has no tails, cauchy the heaviest.",
    ),
]
Count = Annotated[
    int,
    typer.Option(
        "--count", metavar="N", rich_help_panel=_options.SEARCHED, help="Latents to look at."
    ),
]
Novelty = Annotated[
    float | None,
    typer.Option(
        "--novelty",
        metavar="P",
        rich_help_panel=_options.KEPT,
        help="A find has no known class above this probability. Without it: 0.85.",
        show_default=False,
    ),
]
Blend = Annotated[
    float | None,
    typer.Option(
        "--blend",
        metavar="N",
        rich_help_panel=_options.KEPT,
        help="What shows more classes than this is junk: exp(entropy). Without it: 6; bestiary 11.",
        show_default=False,
    ),
]
Rarity = Annotated[
    float,
    typer.Option(
        "--rarity",
        metavar="P",
        rich_help_panel=_options.SEARCHED,
        help="Only latents as far out as this share of all lies within, such as 0.99. 0: any.",
    ),
]
Near = Annotated[
    str | None,
    typer.Option(
        "--near",
        metavar="TOKEN",
        rich_help_panel=_options.SEARCHED,
        help="Around a token that was fused, or found so: its name in the library, or its file.",
        show_default=False,
    ),
]
Spread = Annotated[
    float | None,
    typer.Option(
        "--spread",
        metavar="F",
        rich_help_panel=_options.SEARCHED,
        help="How far around --near, 1 is as far as latents lie apart. Without it: 0.5.",
        show_default=False,
    ),
]
Network = Annotated[
    Path | None,
    typer.Option(
        "--network",
        metavar="FILE",
        rich_help_panel=_options.SEARCHED,
        help="Explore this network instead of the one that belongs to the base.",
        show_default=False,
    ),
]


def distok(
    context: typer.Context,
    law: Law = "gaussian",
    count: Count = 64,
    near: Near = None,
    spread: Spread = None,
    rarity: Rarity = 0.0,
    seed: _options.Seed = 0,
    base: _options.Base = "bestiary",
    network: Network = None,
    labeler: _options.Labeler = None,
    labeler_folder: _options.LabelerFolder = None,
    pick: _options.Pick = 12,
    novelty: Novelty = None,
    blend: Blend = None,
    name: _options.Name = None,
    out: _options.Out = None,
    resume: _options.Resume = False,
    device: _options.Device = None,
    vram: _options.Vram = None,
    offline: options.Offline = False,
    replace: _options.Replace = False,
    dry_run: _options.DryRun = False,
    json_lines: _options.Json = False,
    progress: _options.Progress = None,
    quiet: _options.Quiet = False,
) -> None:
    """Decode random latents, draw them, and keep the novel ones: creatok explore distok --pick 12

    What is a known class, junk, or different with every seed is left out; of the rest the best and
    most different become tokens. A base without a network (see fuse) is given one first. The
    folder has a contact sheet, all candidates, and a map.

    Exit codes: 0 done; 1 a bug; 2 flag, token or file; 3 nothing novel, or pictures failed; 4 base,
    token, network or labeler; 5 device; 6 library or output folder; 130 stopped, to be continued.
    """
    session: Session = context.obj

    # 1. settings
    from creatok_cli import config
    from creatok_cli.errors import InputError

    if spread is not None and near is None:
        raise InputError("--spread: says how far around --near; give that, too")
    machine = config.machine(
        {
            "device": options.parse_device(device),
            "vram": options.parse_vram(vram),
            "offline": offline or None,
            "progress": progress,
        }
    )
    command = shlex.join(["creatok", *session.argv])
    session.report.begin(machine.progress, quiet=quiet, resume=command)

    # 2. workflow
    from creatok_cli.workflows import explore_distok as workflow

    request = workflow.DistokRequest(
        law=law,
        count=count,
        pick=pick,
        novelty=novelty,
        blend=blend,
        rarity=rarity,
        near=near,
        reach=0.5 if spread is None else spread,
        name=name,
        seed=seed,
        base=base,
        network=network,
        labeler=labeler,
        labeler_folder=labeler_folder,
        out=out,
        device=machine.device,
        vram_gib=machine.vram,
        is_offline=machine.offline,
        replace=replace,
        resume=resume,
        resume_command=command,
        stop=session.stop,
    )
    if dry_run:
        session.report.lay_out("order", workflow.outline(workflow.settle(request), request))
        return

    # 3. events
    for event in workflow.explore_distok(request):
        session.report.show(event)

    # 4. exit code
    raise typer.Exit(session.report.finish())
