"""The flags that commands share, as Annotated types, and readers for `K/N` and its like.

A machine setting (device, executor, batch size, folders, progress) has no default here: without the
flag it comes from the environment, the project file, the user file or the built-in default, in that
order of strength.

Does not: read a file, import a plug-in, or know what a workflow does with a value.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from creatok_cli.errors import InputError

MAX_BATCH = 4096
MAX_VRAM_GIB = 4096
MEASURED = "What is measured of it"
PIXELS, RUN, REPORT, INSTEAD = "What is drawn", "How it runs", "What it tells", "Instead of a sheet"
LEARNED, OPTIMISED = "What is learned", "How it is learned"
FUSED, DRAWN, TRAINED = "What is fused", "What is drawn of it", "The network that fuses"

Sheet = Annotated[
    str | None,
    typer.Argument(
        metavar="SHEET",
        help="A YAML, CSV or JSONL sheet; - reads YAML from standard input.",
        show_default=False,
    ),
]

# What is drawn: these take part in every picture's key.
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        rich_help_panel=PIXELS,
        help="Draw with this base instead of the sheet's: bestiary, sd15, sdxl, sd3, flux, "
        "kandinsky22, OWNER/REPO[@REVISION], a diffusers folder, or a .safetensors file.",
    ),
]
SheetPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        rich_help_panel=PIXELS,
        help="A base with its LoRAs and settings, such as bases/hyper-sdxl-4. The sheet wins over "
        "it.",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=PIXELS,
        help="Override a setting of the whole sheet, for example steps=4. May repeat.",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        rich_help_panel=PIXELS,
        help="Number format of the drawing; auto is the base's own. It changes pixels.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="GLOB",
        rich_help_panel=PIXELS,
        help="Draw only the jobs whose id or tag fits, for example 'dragon*'.",
    ),
]

# How it runs: never part of a key.
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=RUN,
        help="Folder of the pictures. Without it: out/ and the name of the sheet.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        rich_help_panel=RUN,
        help="Where to draw. Without it: auto, the best device found.",
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N|auto|probe",
        rich_help_panel=RUN,
        help="Pictures drawn together; fixed for the life of an output folder. probe measures what "
        "is quickest here, once. Without it: auto.",
    ),
]
Vram = Annotated[
    float | None,
    typer.Option(
        "--vram",
        metavar="GIB",
        rich_help_panel=RUN,
        help="Take at most this much memory of a CUDA device; -2 keeps 2 GiB free. Without it: all "
        "that is free.",
        show_default=False,
    ),
]
Compile = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(
        "--compile",
        rich_help_panel=RUN,
        help="Compile the denoiser's blocks. Without it: auto, on CUDA for more than 30 pictures.",
        show_default=False,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        metavar="",
        rich_help_panel=RUN,
        help="Fetch nothing: an error where a base is not on this machine. Nothing connects while "
        "pictures are drawn, with or without it.",
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="local|ray",
        rich_help_panel=RUN,
        help="Engine that runs the batches. Without it: local, one process on one device.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        rich_help_panel=RUN,
        help="Draw part K of N, whole batches; the parts may run anywhere, in any order.",
    ),
]
Overwrite = Annotated[
    Literal["skip", "replace", "error"],
    typer.Option(
        "--overwrite",
        rich_help_panel=RUN,
        help="What to do with a finished picture that is already there.",
    ),
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast", metavar="", rich_help_panel=RUN, help="Stop at the first job that fails."
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        metavar="",
        rich_help_panel=RUN,
        help="Check every finished picture byte by byte and draw nothing.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        rich_help_panel=RUN,
        help="Check the sheet and list the files to write and to skip; draw nothing.",
    ),
]
Metadata = Annotated[
    Literal["full", "minimal", "none"],
    typer.Option(
        "--metadata",
        rich_help_panel=RUN,
        help="What each PNG says about itself; minimal keeps key, seed and the AI mark.",
    ),
]
Sinks = Annotated[
    list[str] | None,
    typer.Option(
        "--sink",
        metavar="NAME",
        rich_help_panel=RUN,
        help="Write one more kind of output, from a plug-in. May repeat.",
        show_default=False,
    ),
]

# What is measured: never part of a key.
Scores = Annotated[
    list[str] | None,
    typer.Option(
        "--score",
        metavar="NAME[:KEY=VALUE,...]",
        rich_help_panel=MEASURED,
        help="Score the pictures: clip, labels, diversity, judge, novelty:baseline=DIR. May "
        "repeat.",
        show_default=False,
    ),
]
Pick = Annotated[
    int | None,
    typer.Option(
        "--pick",
        metavar="N",
        rich_help_panel=MEASURED,
        help="Copy the N best and most different pictures of each job into picks/.",
        show_default=False,
    ),
]

# learn-token: what is learned, and how. Each value wins over the preset's.
LearnBase = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="BASE",
        rich_help_panel=LEARNED,
        help="Learn for this base: bestiary, sd3, OWNER/REPO[@REVISION], or a folder.",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        rich_help_panel=LEARNED,
        help="Method, pairs and settings: a preset of presets/learn, or a file of the same form.",
    ),
]
Word = Annotated[
    str | None,
    typer.Option(
        "--word",
        metavar="WORD",
        rich_help_panel=LEARNED,
        help="The vague word that gets a meaning, for example menacing. Without it: the preset's.",
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        "--pairs",
        metavar="NAME|FILE",
        rich_help_panel=LEARNED,
        help="Pairs of concepts to learn from: a list that ships with creatok, or a file.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        rich_help_panel=LEARNED,
        help="Name in the library; prompts write <NAME>. Without it: --word, else the preset's.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", rich_help_panel=OPTIMISED, help="Optimiser steps."),
]
Lr = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="X",
        rich_help_panel=OPTIMISED,
        help="Learning rate at the first step.",
    ),
]
Theta = Annotated[
    str | None,
    typer.Option(
        "--theta",
        metavar="auto|X|rel:X",
        rich_help_panel=OPTIMISED,
        help="How near to each pair is near enough: a cosine, or rel:0.5 between start and best.",
    ),
]
Encoders = Annotated[
    str | None,
    typer.Option(
        "--encoders",
        metavar="NAME,...",
        rich_help_panel=OPTIMISED,
        help="Text encoders that get learned vectors, for example clip_l. Without it: all.",
    ),
]
Sampling = Annotated[
    str | None,
    typer.Option(
        "--sampling",
        metavar="full|batch|paper",
        rich_help_panel=OPTIMISED,
        help="Pairs in a step: all, some without repeats, or drawn as in the paper.",
    ),
]
Restarts = Annotated[
    int | None,
    typer.Option(
        "--restarts",
        metavar="N",
        rich_help_panel=OPTIMISED,
        help="Starts that learn side by side; the best is kept.",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="WORD|random|mean",
        rich_help_panel=OPTIMISED,
        help="Where learning starts. Without it: at the word.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        rich_help_panel=OPTIMISED,
        help="Same seed, same token.",
    ),
]
LearnPrecision = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        rich_help_panel=OPTIMISED,
        help="Number format of the text encoders; what is learned is always fp32.",
    ),
]
LearnSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=OPTIMISED,
        help="Any other setting of the method, for example vectors=2. May repeat.",
        show_default=False,
    ),
]
LearnDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        rich_help_panel=RUN,
        help="Where to learn and to draw. Without it: auto, the best device found.",
    ),
]
ReportFolder = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="DIR|none",
        rich_help_panel=RUN,
        help="Folder of figure, pictures and numbers. Without it: out/learn/ and the name.",
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        metavar="",
        rich_help_panel=RUN,
        help="Give the name to the new token where the library has another one of that name.",
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
LearnDryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        rich_help_panel=RUN,
        help="Check everything and print what would be learned; open no model.",
    ),
]

# fuse: what becomes a token, what is drawn of it, and by which network.
Concepts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONCEPT=WEIGHT",
        help="Concepts and their weights: pig=.55 'polar bear=.25' '<hydra>=.2'. A concept is one "
        "that the network knows, a token of the library, or any phrase.",
        show_default=False,
    ),
]
FuseName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        rich_help_panel=FUSED,
        help="Name in the library; prompts write <NAME>. Without it: made of the mix.",
    ),
]
FuseBase = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="BASE",
        rich_help_panel=FUSED,
        help="Fuse for this base: bestiary, sd3, OWNER/REPO[@REVISION], or a folder.",
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        metavar="FROM..TO:N",
        rich_help_panel=FUSED,
        help="N mixtures on the way from one concept to another, drawn as a row.",
        show_default=False,
    ),
]
Grid = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="ROWS x COLUMNS",
        rich_help_panel=FUSED,
        help="Halves of two lists of concepts, drawn as a table: 'pig,snake x sheep,bee'.",
        show_default=False,
    ),
]
FromImage = Annotated[
    Path | None,
    typer.Option(
        "--from-image",
        metavar="PICTURE",
        rich_help_panel=FUSED,
        help="Fuse what the labeler sees in a picture.",
        show_default=False,
    ),
]
Creatures = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE",
        rich_help_panel=FUSED,
        help="Fuse many: a YAML file, creatures: {chimera: {pig: .55, snake: .45}, ...}.",
        show_default=False,
    ),
]
Render = Annotated[
    int | None,
    typer.Option(
        "--render",
        metavar="N",
        rich_help_panel=DRAWN,
        help="Draw N pictures of each creature beside its concepts. Sweeps and grids: 4.",
        show_default=False,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        rich_help_panel=DRAWN,
        help="Prompt with {word} where the creature goes. May repeat.",
        show_default=False,
    ),
]
FuseOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=DRAWN,
        help="Folder of pictures and labels. Without it: out/fuse/ and the name.",
    ),
]
Network = Annotated[
    Path | None,
    typer.Option(
        "--network",
        metavar="FILE",
        rich_help_panel=TRAINED,
        help="Fuse with this network instead of the one that belongs to the base.",
        show_default=False,
    ),
]
Train = Annotated[
    bool,
    typer.Option(
        "--train",
        metavar="",
        rich_help_panel=TRAINED,
        help="Train the network, even if there is one.",
    ),
]
NoTrain = Annotated[
    bool,
    typer.Option(
        "--no-train",
        metavar="",
        rich_help_panel=TRAINED,
        help="Never train: an error where there is no network.",
    ),
]
FusePreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        rich_help_panel=TRAINED,
        help="Method and settings: a preset of presets/fuse, or a file. Without it: the base's.",
        show_default=False,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--concepts",
        metavar="NAME|FILE",
        rich_help_panel=TRAINED,
        help="Concepts that the network knows: a list that ships with creatok, or a file.",
        show_default=False,
    ),
]
LabelerName = Annotated[
    str | None,
    typer.Option(
        "--labeler",
        metavar="clip|blip",
        rich_help_panel=TRAINED,
        help="What tells what pictures show. Without it: the base's own.",
        show_default=False,
    ),
]
LabelerFolder = Annotated[
    Path | None,
    typer.Option(
        "--labeler-folder",
        metavar="DIR",
        rich_help_panel=TRAINED,
        help="Folder of the labeler's model; for bases without one of their own.",
        show_default=False,
    ),
]
FuseSteps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", rich_help_panel=TRAINED, help="Steps of the training."),
]
FuseSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        rich_help_panel=TRAINED,
        help="Same seed, same network. Without it: 0.",
        show_default=False,
    ),
]
FuseSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=TRAINED,
        help="Any other setting of the training, for example lr=0.001. May repeat.",
        show_default=False,
    ),
]
FuseResume = Annotated[
    bool,
    typer.Option(
        "--resume",
        metavar="",
        rich_help_panel=TRAINED,
        help="Only go on with an unfinished training of these settings; an error if there is none.",
    ),
]
Pool = Annotated[
    bool,
    typer.Option(
        "--pool",
        metavar="",
        rich_help_panel=TRAINED,
        help="Show what the training found: a sheet of its concepts with what each one resembles.",
    ),
]
FuseDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        rich_help_panel=RUN,
        help="Where to train and to draw. Without it: auto, the best device found.",
    ),
]
FuseDryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        rich_help_panel=RUN,
        help="Check everything and print what would be fused, trained and drawn.",
    ),
]

# What it tells.
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        rich_help_panel=REPORT,
        help="One event per line on standard output as JSON; the last one is the summary.",
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        metavar="",
        rich_help_panel=REPORT,
        help="Tell at the end where the time of drawing went, and how busy the device was.",
    ),
]
Progress = Annotated[
    Literal["auto", "bar", "plain", "none"] | None,
    typer.Option(
        "--progress",
        rich_help_panel=REPORT,
        help="Progress on standard error. Without it: auto, a bar on a terminal, else lines.",
        show_default=False,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        metavar="",
        rich_help_panel=REPORT,
        help="Say nothing but errors and results.",
    ),
]

# Instead of a sheet.
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="IMAGE.png",
        rich_help_panel=INSTEAD,
        help="Draw that picture again from its own metadata.",
        show_default=False,
    ),
]
Schema = Annotated[
    bool,
    typer.Option(
        "--schema",
        metavar="",
        rich_help_panel=INSTEAD,
        help="Print the JSON Schema of sheets and end.",
    ),
]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`K/N` with 1 <= K <= N as a pair."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    part, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= of:
        raise InputError(
            f"--shard: found {text!r}, expected K/N with 1 <= K <= N; for example --shard 1/4"
        )
    return part, of


def parse_batch_size(text: str | None) -> int | Literal["auto", "probe"] | None:
    """A number from 1 to 4096, `auto`, `probe`, or None where the flag was not given."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if text == "probe":
        return "probe"
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_BATCH:
        raise InputError(
            f"--batch-size: found {text!r}, expected auto, probe or a whole number from 1 to "
            f"{MAX_BATCH}"
        )
    return int(text)


def parse_vram(gib: float | None) -> float | None:
    """GiB to take, or below 0 to leave; None where the flag was not given."""
    if gib is not None and not 0 < abs(gib) <= MAX_VRAM_GIB:
        raise InputError(f"--vram: found {gib:g}, expected GiB such as 8, or -2 to keep 2 GiB free")
    return gib


def parse_report(text: str | None) -> Path | None:
    """A folder; None where the flag was not given or says `none`."""
    if text is None or text == "none":
        return None
    if not text or "\0" in text:
        raise InputError("--report: expected a folder, or none")
    return Path(text)


def parse_device(text: str | None) -> str | None:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`; whether it exists here is found out later."""
    if text is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise InputError(
            f"--device: found {text!r}, expected auto, cpu, cuda, cuda:0, cuda:1 ... or mps"
        )
    return text
