"""`creatok explore conceptlab`: like this and unlike that, found as a word.

Does not: import torch, pydantic or a workflow before its body runs.
"""

from __future__ import annotations

import shlex

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session
from creatok_cli.cli.explore import _options as shared
from creatok_cli.cli.explore import _quest_options as quest


def conceptlab(
    context: typer.Context,
    like: quest.Like = None,
    unlike: quest.Unlike = None,
    adaptive: quest.Adaptive = False,
    toward: quest.Toward = None,
    subject: quest.Subject = None,
    base: shared.Base = "bestiary",
    steps: quest.Steps = None,
    class_names: quest.Classes = None,
    labeler: shared.Labeler = None,
    labeler_folder: shared.LabelerFolder = None,
    validator: quest.Validator = "auto",
    preset: shared.Preset = None,
    sets: shared.Sets = None,
    seed: shared.Seed = 0,
    strands: quest.Strands = 1,
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
    """Find what is like and unlike: creatok explore conceptlab --like "a pet" --unlike cat

    A word is moved until its pictures are near enough to what they are to resemble and far enough
    from the rest. Several --like are mixed; pictures given with --toward are its parents; with
    --adaptive the labeler names what it sees, and that is to be avoided, too.

    Exit codes: 0 done; 1 a bug; 2 words, picture, flag or preset; 3 a search diverged, or found
    nothing; 4 base, labeler or token; 5 device; 6 library or output folder; 130 stopped, to be
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
        method="conceptlab",
        subject=subject,
        like=tuple(like or ()),
        unlike=tuple(unlike or ()),
        toward=tuple(toward or ()),
        base=base,
        preset=preset,
        settings={"steps": steps, "adaptive": True if adaptive else None},
        sets=tuple(sets or ()),
        class_names=class_names,
        validator=validator,
        labeler=labeler,
        labeler_folder=labeler_folder,
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
