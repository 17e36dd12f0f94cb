"""`creatok fuse`: any mix of concepts becomes a token, and pictures of it if wanted.

Does not: import torch, pydantic or a workflow before its body runs.
"""

from __future__ import annotations

import shlex

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session


def fuse(
    context: typer.Context,
    concepts: options.Concepts = None,
    sweep: options.Sweep = None,
    grid: options.Grid = None,
    from_image: options.FromImage = None,
    sheet: options.Creatures = None,
    name: options.FuseName = None,
    base: options.FuseBase = "bestiary",
    render: options.Render = None,
    prompts: options.Prompts = None,
    out: options.FuseOut = None,
    network: options.Network = None,
    train: options.Train = False,
    no_train: options.NoTrain = False,
    preset: options.FusePreset = None,
    class_names: options.ClassNames = None,
    labeler: options.LabelerName = None,
    labeler_folder: options.LabelerFolder = None,
    steps: options.FuseSteps = None,
    seed: options.FuseSeed = None,
    sets: options.FuseSets = None,
    resume: options.FuseResume = False,
    pool: options.Pool = False,
    device: options.FuseDevice = None,
    vram: options.Vram = None,
    offline: options.Offline = False,
    replace: options.Replace = False,
    dry_run: options.FuseDryRun = False,
    json_lines: options.Json = False,
    progress: options.Progress = None,
    quiet: options.Quiet = False,
) -> None:
    """Fuse concepts into a token: creatok fuse pig=.55 sheep=.25 snake=.2

    Weights are divided by their sum. The token goes to the library, ready for sheets, which may
    also say it themselves: tokens: {chimera: {fuse: {pig: .55, sheep: .25, snake: .2}}}. A base
    without a network is given one first.

    Exit codes: 0 done; 1 a bug; 2 concept, weight, flag or file; 3 training diverged or pictures
    failed; 4 base, token, network or labeler; 5 device; 6 library or output folder; 130 stopped, to
    be continued.
    """
    session: Session = context.obj

    # 1. settings
    from creatok_cli import config

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
    from creatok_cli.workflows import fuse as workflow

    request = workflow.FuseRequest(
        words=tuple(concepts or ()),
        sweep=sweep,
        grid=grid,
        image=from_image,
        sheet=sheet,
        name=name,
        base=base,
        render=render,
        prompts=tuple(prompts or ()),
        out=out,
        network=network,
        train=train,
        may_train=not no_train,
        preset=preset,
        concepts=class_names,
        labeler=labeler,
        labeler_folder=labeler_folder,
        steps=steps,
        seed=seed,
        sets=tuple(sets or ()),
        resume=resume,
        pool=pool,
        device=machine.device,
        vram_gib=machine.vram,
        is_offline=machine.offline,
        replace=replace,
        resume_command=command,
        stop=session.stop,
    )
    if dry_run:
        session.report.lay_out("order", workflow.outline(workflow.settle(request), request))
        return

    # 3. events
    for event in workflow.fuse(request):
        session.report.show(event)

    # 4. exit code
    raise typer.Exit(session.report.finish())
