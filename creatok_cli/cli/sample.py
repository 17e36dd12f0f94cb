"""`creatok sample`: draw the pictures of a sheet.

Does not: import torch, pydantic or a workflow before its body runs.
"""

from __future__ import annotations

import json
import shlex
import sys

import typer

from creatok_cli.cli import options
from creatok_cli.cli.console import Session
from creatok_cli.errors import InputError


def sample(
    context: typer.Context,
    sheet: options.Sheet = None,
    base: options.Base = None,
    preset: options.SheetPreset = None,
    sets: options.Sets = None,
    precision: options.Precision = "auto",
    only: options.Only = None,
    out: options.Out = None,
    device: options.Device = None,
    offline: options.Offline = False,
    batch_size: options.BatchSize = None,
    vram: options.Vram = None,
    compiling: options.Compile = None,
    executor: options.Executor = None,
    shard: options.Shard = None,
    overwrite: options.Overwrite = "skip",
    fail_fast: options.FailFast = False,
    verify: options.Verify = False,
    dry_run: options.DryRun = False,
    metadata: options.Metadata = "full",
    sinks: options.Sinks = None,
    scores: options.Scores = None,
    pick: options.Pick = None,
    profile: options.Profile = False,
    json_lines: options.Json = False,
    progress: options.Progress = None,
    quiet: options.Quiet = False,
    image: options.From = None,
    schema: options.Schema = False,
) -> None:
    """Draw the pictures of a sheet, with a contact sheet, a gallery and a manifest.

    The same command again goes on where the last one stopped: finished pictures are checked
    and kept. Scores are kept, too, in scores.json.

    Exit codes: 0 all pictures are there; 1 a bug; 2 flag or sheet; 3 some jobs failed; 4 model or
    token; 5 device; 6 output folder; 130 stopped, to be continued.
    """
    session: Session = context.obj

    # 1. settings
    if schema:
        print_schema(session)
        return
    if (sheet is None) == (image is None):
        raise InputError("give one SHEET, or --from IMAGE.png; see 'creatok sample --help'")
    from creatok_cli import config

    machine = config.machine(
        {
            "device": options.parse_device(device),
            "executor": executor,
            "batch_size": options.parse_batch_size(batch_size),
            "vram": options.parse_vram(vram),
            "compile": compiling,
            "offline": offline or None,
            "out": out,
            "progress": progress,
        }
    )
    part = options.parse_shard(shard)
    session.report.begin(
        machine.progress, quiet=quiet, resume=shlex.join(["creatok", *session.argv])
    )

    # 2. workflow
    from creatok_cli.workflows import sample as workflow

    request = workflow.SampleRequest(
        sheet=sheet or "",
        out=machine.out,
        base=base,
        preset=preset,
        sets=tuple(sets or ()),
        only=only,
        shard=part,
        batch_size=machine.batch_size,
        device=machine.device,
        is_offline=machine.offline,
        vram_gib=machine.vram,
        compiling=machine.compile,
        profile=profile,
        precision=None if precision == "auto" else precision,
        dry_run=dry_run,
        overwrite=overwrite,
        fail_fast=fail_fast,
        verify=verify,
        executor=machine.executor,
        sinks=tuple(sinks or ()),
        scores=tuple(scores or ()),
        pick=pick,
        metadata=metadata,
        stdin=sys.stdin.buffer,
        resume_command=session.report.resume,
        stop=session.stop,
    )
    events = workflow.sample(request) if image is None else workflow.replay(image, request)

    # 3. events
    for event in events:
        session.report.show(event)

    # 4. exit code
    raise typer.Exit(session.report.finish())


def print_schema(session: Session) -> None:
    """The JSON Schema of sheets on standard output."""
    from creatok_cli.plan.sheet import sheet_schema

    session.report.out.write(json.dumps(sheet_schema(), indent=2) + "\n")
