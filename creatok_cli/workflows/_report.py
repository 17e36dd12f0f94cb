"""The report of a learning run: a figure, pictures beside their controls, and all numbers as JSON.

`report.png` shows how the learning went. `pictures/` is an ordinary output folder: held-out pairs
drawn with the token and with control prompts at the same seeds, from a sheet that stands beside it,
so that a stop loses nothing and more can be drawn by hand. `report.json` comes last.

The controls answer what the pair of nouns alone would give (methods notes, 2.8): the redefined
word, no word, "hybrid", the plain pair, and the row that learning began with.

Does not: judge; that is the business of scorers and benchmarks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from creatok_cli import durable
from creatok_cli.domain import Event, Notice, Stage, Summary
from creatok_cli.tokens.file import token_bytes
from creatok_cli.tokens.library import writable
from creatok_cli.workflows._figure import draw_figure, median, number
from creatok_cli.workflows._lesson import Lesson
from creatok_cli.workflows._run import Stop
from creatok_cli.workflows.sample import SampleRequest, sample

if TYPE_CHECKING:
    from creatok_cli.methods.base import Artefact
    from creatok_cli.tokens.token import Token

SCHEMA = 1
FIGURE, NUMBERS, PICTURES = "report.png", "report.json", "pictures"
TOKEN_FILE, INITIAL_FILE = "token.safetensors", "initial.safetensors"
MAX_JSON = 64 << 20
GROUPS, ROWS_PER_GROUP, SEEDS = 3, 3, (0, 1)
"""Held-out pairs that are drawn: 9 rows of 6 prompts of 2 seeds."""
LARGE_PX, LARGE_ROWS, LARGE_SEEDS = 256, 2, (0,)
"""Above this size pictures are costly: 6 rows of 6 prompts of 1 seed."""


def is_reported(lesson: Lesson) -> bool:
    """Whether the report of this very run is complete; true where none is wanted."""
    if lesson.folder is None:
        return True
    try:
        found = json.loads(durable.read_file(lesson.folder, NUMBERS, limit=MAX_JSON))
        return bool(found["run"] == lesson.run and found["schema"] == SCHEMA)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def reportable(folder: Path) -> AbstractContextManager[None]:
    """Faults of writing, told with the folder and what to do."""
    return writable(folder, "choose another --report")


def report(
    lesson: Lesson,
    artefact: Artefact,
    *,
    stored: bool,
    device: str,
    vram_gib: float | None = None,
    stop: Stop | None,
    resume: str,
) -> Generator[Event, None, Summary | None]:
    """Writes the report; gives the summary of its pictures, None where there are none.

    Raises OutputFull, OutputReadOnly.
    """
    assert lesson.folder is not None
    folder = lesson.folder
    writer = durable.Writer(run=durable.new_run())
    yield Stage(name="reporting", detail=str(folder))
    facts = dict(artefact.facts)
    counts = {group: len(rows) for group, rows in lesson.pairs.held_out.items()}
    png = draw_figure(lesson.word, head_lines(lesson, artefact), facts, counts)
    with reportable(folder):
        durable.replace_derived(folder, FIGURE, png, writer=writer)
    summary: Summary | None = None
    columns: dict[str, str] = {}
    if stored and "image" in sides(lesson):
        with reportable(folder):
            words = write_tokens(folder, lesson, artefact, writer)
            columns = prompts(lesson, words)
            name = f"{lesson.name}-beside-controls.yaml"
            text = sheet_text(lesson, columns, words, name)
            durable.replace_derived(folder, name, text.encode(), writer=writer)
        summary = yield from draw_pictures(
            folder, name, device=device, vram_gib=vram_gib, stop=stop, resume=resume
        )
        if summary.code:
            return summary
    numbers = {
        "schema": SCHEMA,
        "run": lesson.run,
        "token": {
            "word": lesson.word,
            "name": lesson.name,
            "literal": lesson.literal,
            "id": artefact.token.id if stored and artefact.token else "",
        },
        "base": {
            "name": lesson.base_label,
            "digest": lesson.facts.digest,
            "licence": lesson.facts.licence,
        },
        "preset": lesson.preset,
        "method": lesson.method,
        "settings": dict(lesson.settings),
        "precision": lesson.precision,
        "seed": lesson.seed,
        "pairs": {
            "name": lesson.pairs.name,
            "digest": lesson.pairs.digest,
            "train": len(lesson.pairs.train),
            "held_out": counts,
        },
        "ended": artefact.ended,
        "steps": artefact.steps,
        "prompts": columns,
        "facts": facts,
    }
    text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with reportable(folder):
        durable.replace_derived(folder, NUMBERS, text.encode(), writer=writer)
    return summary


def head_lines(lesson: Lesson, artefact: Artefact) -> list[str]:
    """What stands below the title of the figure: result, recipe, start."""
    facts, settings = artefact.facts, lesson.settings
    held_out = facts.get("held_out") or {}
    changes = []
    for encoder in dict.fromkeys(name for group in held_out.values() for name in group):
        parts = [group[encoder] for group in held_out.values() if encoder in group]
        before = [value for part in parts for value in part.get("before", ())]
        after = [value for part in parts for value in part.get("after", ())]
        if before and after:
            changes.append(f"{encoder} {number(median(before))} \u2192 {number(median(after))}")
    result = f'Learned for "{lesson.literal}" on {lesson.base_label}: '
    if artefact.ended == "dead":
        result += "nothing to learn, every pair is nearer than theta from the start"
    else:
        result += "median cosine to held-out pairs " + (", ".join(changes) or "not told")
    told = [f"{artefact.steps:,} steps", f"ended: {artefact.ended}"]
    told += [f"{key} {settings[key]}" for key in ("lr", "theta", "sampling") if key in settings]
    told += [f"{len(lesson.pairs.train)} pairs of {lesson.pairs.name}", f"seed {lesson.seed}"]
    return [result, f"{lesson.method}:  " + "   ".join(told)]


def sides(lesson: Lesson) -> Sequence[str]:
    """The sides of the base."""
    from creatok_cli import registry

    found = registry.describe("backbones", lesson.facts.backbone).facts.get("SIDES", ())
    return tuple(str(side) for side in found)


# Pictures


def write_tokens(
    folder: Path, lesson: Lesson, artefact: Artefact, writer: durable.Writer
) -> dict[str, str]:
    """Copies of the token and of its start, so that the folder stands alone: word -> file."""
    assert artefact.token is not None
    found = {lesson.word: TOKEN_FILE}
    durable.replace_derived(folder, TOKEN_FILE, token_bytes(artefact.token), writer=writer)
    if artefact.initial is not None:
        initial = renamed(artefact.initial, f"<{lesson.name[:55]}-initial>")
        found[initial.word] = INITIAL_FILE
        durable.replace_derived(folder, INITIAL_FILE, token_bytes(initial), writer=writer)
    return found


def renamed(token: Token, word: str) -> Token:
    """The same token under another word."""
    from dataclasses import replace

    return replace(token, word=word)


def prompts(lesson: Lesson, words: Mapping[str, str]) -> dict[str, str]:
    """Column -> prompt with the slots of the pairs; equal prompts are one column."""
    slots = " ".join(f"{{{slot}}}" for slot in lesson.pairs.slots)
    template = str(lesson.settings.get("template", f"a photo of a {{word}} {slots}"))
    learned, *initial = words
    found = {learned: template.replace("{word}", learned)}
    found[f'"{lesson.literal}"'] = template.replace("{word}", lesson.literal)
    found["no word"] = re.sub(r"\{word\}\s*", "", template)
    found["hybrid"] = template.replace("{word}", "hybrid")
    found["plain pair"] = plain_pair(lesson, template)
    for word in initial:
        found["initial row"] = template.replace("{word}", word)
    used = slots_of(template, lesson)
    once: dict[str, str] = {}
    for column, prompt in found.items():
        # A prompt with other slots would need rows of its own.
        if prompt not in once.values() and slots_of(prompt, lesson) == used:
            once[column] = prompt
    return once


def slots_of(prompt: str, lesson: Lesson) -> tuple[str, ...]:
    """The slots of the pairs that a prompt uses."""
    return tuple(slot for slot in lesson.pairs.slots if f"{{{slot}}}" in prompt)


def plain_pair(lesson: Lesson, template: str) -> str:
    """The restrictive prompt, with the opening words of the template."""
    slots = " ".join(f"{{{slot}}}" for slot in lesson.pairs.slots)
    pair = str(lesson.settings.get("restrictive", f"a {slots}"))
    opening = re.match(r"an? [a-z]+ of (?=an? \{word\})", template)
    if opening is None or pair.startswith(opening.group()):
        return pair
    return opening.group() + pair


def sheet_text(
    lesson: Lesson, columns: Mapping[str, str], words: Mapping[str, str], name: str
) -> str:
    """The sheet of the report: one section per held-out group, one job per column."""
    is_large = max(lesson.facts.size_px) > LARGE_PX
    rows, seeds = (LARGE_ROWS, LARGE_SEEDS) if is_large else (ROWS_PER_GROUP, SEEDS)
    groups = list(lesson.pairs.held_out.items())[:GROUPS] or [("learned", lesson.pairs.train)]
    used = slots_of(next(iter(columns.values())), lesson)
    places = [lesson.pairs.slots.index(slot) for slot in used]
    seen: set[tuple[str, ...]] = set()

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = [
        f"# {lesson.word} beside its controls on pairs that it was not learned from.",
        f"# Draw more of it: edit a copy, then  creatok sample {name} --sink matrix",
        "version: 1",
        f"base: {text(lesson.facts.name)}",
        "tokens:",
        *(f"  {text(word)}: {text(file)}" for word, file in words.items()),
        "jobs:",
    ]
    for group, members in groups:
        shorter = dict.fromkeys(tuple(row[place] for place in places) for row in members)
        fresh = [row for row in shorter if row not in seen][:rows]
        seen.update(fresh)
        for column, prompt in columns.items() if fresh else ():
            lines += [
                f"  - id: {text(f'{group}/{column}')}",
                f"    prompt: {text(prompt)}",
                *(["    zip:"] if used else []),
            ]
            for at, slot in enumerate(used):
                values = ", ".join(text(row[at]) for row in fresh)
                lines.append(f"      {slot}: [{values}]")
            lines.append(f"    seeds: [{', '.join(map(str, seeds))}]")
    return "\n".join(lines) + "\n"


def draw_pictures(
    folder: Path,
    sheet: str,
    *,
    device: str,
    vram_gib: float | None = None,
    stop: Stop | None,
    resume: str,
    sinks: Sequence[str] = ("matrix",),
) -> Generator[Event, None, Summary]:
    """Runs the sheet; its events pass, but for the summary, which is given back."""
    request = SampleRequest(
        sheet=str(folder / sheet),
        out=folder / PICTURES,
        device=device,
        vram_gib=vram_gib,
        sinks=sinks,
        stop=stop,
        resume_command=resume,
    )
    summary: Summary | None = None
    for event in sample(request):
        if isinstance(event, Summary):
            summary = event
        else:
            yield event
    assert summary is not None
    if summary.failed:
        yield Notice(level="warning", message=f"{summary.failed} pictures could not be drawn")
    return summary
