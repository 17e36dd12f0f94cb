"""`creatok explore lowprob`: away from what a prompt usually looks like, and still valid.

Does not: import torch, pydantic or a workflow before its body runs.
"""

from __future__ import annotations

import shlex

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session
from creatok_cli.cli.explore import _options as shared
from creatok_cli.cli.explore import _quest_options as quest


def lowprob(
    context: typer.Context,
    prompt: quest.Prompt,
    rarity: quest.Rarity = None,
    away: quest.Away = None,
    toward: quest.Toward = None,
    origin: quest.Origin = None,
    subject: quest.Subject = None,
    base: shared.Base = "bestiary",
    steps: quest.Steps = None,
    train: quest.Train = None,
    rank: quest.Rank = None,
    anchor: quest.Anchor = None,
    check_every: quest.CheckEvery = None,
    validator: quest.Validator = "auto",
    preset: shared.Preset = None,
    sets: shared.Sets = None,
    seed: shared.Seed = 0,
    strands: quest.Strands = 4,
    name: shared.Name = None,
    out: shared.Out = None,
    device: shared.Device = None,
    vram: shared.Vram = None,
    offline: options.Offline = False,
    replace: shared.Replace = False,
    resume: shared.Resume = False,
    dry_run: shared.DryRun = False,
    json_lines: shared.Json = False,
    progress: shared.Progress = None,
    quiet: shared.Quiet = False,
) -> None:
    """Find rare but valid creatures: creatok explore lowprob "a photo of a creature"

    Plain pictures of the prompt are measured first. Then a word (or low-rank weights) is moved
    until its pictures lie where so few of them do, while a validator says whether it is still what
    was asked for; on "no" the search goes back to where it was valid. Finds go to the library.

    Exit codes: 0 done; 1 a bug; 2 prompt, picture, flag or preset; 3 a search diverged, or found
    nothing; 4 base, validator or token; 5 device; 6 library or output folder; 130 stopped, to be
    continued.
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
    from creatok_cli.workflows import explore as workflow

    request = workflow.QuestRequest(
        method="lowprob",
        prompt=prompt,
        subject=subject,
        toward=tuple(toward or ()),
        away=tuple(away or ()),
        origin=origin,
        base=base,
        preset=preset,
        settings={
            "rarity": rarity,
            "steps": steps,
            "train": train,
            "rank": rank,
            "anchor": anchor,
            "check_every": check_every,
        },
        sets=tuple(sets or ()),
        validator=validator,
        strands=strands,
        seed=seed,
        name=name,
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
        session.report.lay_out("quest", workflow.outline(workflow.settle(request)))
        return

    # 3. events
    for event in workflow.explore(request):
        session.report.show(event)

    # 4. exit code
    raise typer.Exit(session.report.finish())
