"""`creatok learn-token`: learn a word that means "mix these", and report what it does.

Does not: import torch, pydantic or a workflow before its body runs.
"""

from __future__ import annotations

import shlex

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session


def learn_token(
    context: typer.Context,
    base: options.LearnBase = "bestiary",
    preset: options.Preset = "cretok",
    word: options.Word = None,
    pairs: options.Pairs = None,
    name: options.Name = None,
    steps: options.Steps = None,
    lr: options.Lr = None,
    theta: options.Theta = None,
    encoders: options.Encoders = None,
    sampling: options.Sampling = None,
    restarts: options.Restarts = None,
    init: options.Init = None,
    seed: options.Seed = 0,
    precision: options.LearnPrecision = "fp32",
    sets: options.LearnSets = None,
    device: options.LearnDevice = None,
    vram: options.Vram = None,
    offline: options.Offline = False,
    report: options.ReportFolder = None,
    replace: options.Replace = False,
    resume: options.Resume = False,
    dry_run: options.LearnDryRun = False,
    json_lines: options.Json = False,
    progress: options.Progress = None,
    quiet: options.Quiet = False,
) -> None:
    """Learn a token: a new word that tells a base to mix concepts, from text alone.

    The token goes to the library, ready for sheets (tokens: {<cretok>: cretok}). The same command
    again goes on where the last one stopped and ends with the same bytes.

    Exit codes: 0 the token is there; 1 a bug; 2 flag, preset or pairs; 3 nothing to learn, it
    diverged, or pictures of the report failed; 4 base or token file; 5 device; 6 library or report
    folder; 130 stopped, to be continued.
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
    from creatok_cli.workflows import learn_token as workflow

    request = workflow.LearnRequest(
        base=base,
        preset=preset,
        word=word,
        pairs=pairs,
        name=name,
        steps=steps,
        lr=lr,
        theta=theta,
        encoders=encoders,
        sampling=sampling,
        restarts=restarts,
        init=init,
        seed=seed,
        precision=precision,
        sets=tuple(sets or ()),
        device=machine.device,
        vram_gib=machine.vram,
        is_offline=machine.offline,
        report=options.parse_report(report),
        has_report=report != "none",
        replace=replace,
        resume=resume,
        resume_command=command,
        stop=session.stop,
    )
    if dry_run:
        session.report.lay_out("lesson", workflow.outline(workflow.settle(request)))
        return

    # 3. events
    for event in workflow.learn_token(request):
        session.report.show(event)

    # 4. exit code
    raise typer.Exit(session.report.finish())
