"""The sheet that shows fused creatures beside what they are made of, all with the same seeds.

One column for each creature and each concept, sections for the rows of a table and for several
prompts. The sheet stands in the output folder with the token files it needs, so that a stop loses
nothing and more can be drawn of it by hand.

Does not: draw, or know what a network does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from creatok_cli import durable
from creatok_cli.errors import InputError
from creatok_cli.plan._template import TemplateFault, fields, fill
from creatok_cli.strict_text import shown
from creatok_cli.tokens.file import SUFFIX
from creatok_cli.tokens.library import writable
from creatok_cli.workflows._fused import TEMPLATE

PICTURES = "pictures"
"""Folder of the pictures inside the output folder."""
TOKENS = "tokens"
"""Folder of the token files inside the output folder."""
ALONE = "alone"
"""Column and section of the concepts that a table mixes."""
WORD = "word"
ELLIPSIS = "\u2026"
ADVICE = "choose another --out"
_REFERENCE = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one place of the table shows."""

    subject: str
    """`<word>` of a token, or a plain word or phrase."""
    column: str
    section: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job of the sheet."""

    id: str
    subject: str
    prompt: str
    loras: tuple[tuple[str, float], ...] = ()
    """(file of the folder, scale) of each LoRA that it is drawn with."""


def check_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    """Prompts with `{word}` where the creature goes; none is the one that tokens are trained in.

    Raises InputError.
    """
    for prompt in prompts:
        where = f"--prompt {shown(prompt)}"
        try:
            found = fields(prompt)
        except TemplateFault as fault:
            raise InputError(f"{where}: {fault.message}") from None
        if WORD not in found:
            raise InputError(
                f'{where}: write {{word}} where the creature goes, such as "{TEMPLATE} in the snow"'
            )
        if found != (WORD,):
            other = next(name for name in found if name != WORD)
            raise InputError(f"{where}: found {{{other}}}, expected {{word}} alone in braces")
    if len(set(prompts)) < len(prompts):
        raise InputError("--prompt: one prompt is given twice")
    return tuple(prompts) or (TEMPLATE,)


def references(prompts: Sequence[str]) -> tuple[str, ...]:
    """The tokens that prompts name themselves, once each."""
    return tuple(dict.fromkeys(word for each in prompts for word in _REFERENCE.findall(each)))


def table_rows(cells: Sequence[Cell], prompts: Sequence[str]) -> tuple[Row, ...]:
    """The jobs of a table; a place that would show a picture again stays empty."""
    found: list[Row] = []
    seen: set[str] = set()
    for prompt in prompts:
        look = fill(prompt, {WORD: ELLIPSIS}) if len(prompts) > 1 else ""
        for cell in cells:
            whole = fill(prompt, {WORD: cell.subject})
            if whole in seen:
                continue
            seen.add(whole)
            parts = (look, cell.section, cell.column)
            name = "/".join(part.replace("/", " ").strip()[:90] for part in parts if part)
            found.append(Row(id=name, subject=cell.subject, prompt=whole))
    return tuple(found)


def sheet_text(
    base: str,
    tokens: Mapping[str, str],
    rows: Sequence[Row],
    *,
    title: str,
    name: str,
    seeds: Sequence[int],
) -> str:
    """The sheet as YAML. `tokens` maps words to files of the folder, or names of the library."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = [
        f"# {title}",
        f"# Draw more of it: edit a copy, then  creatok sample {name} --sink matrix",
        "version: 1",
        f"base: {text(base)}",
        *(["tokens:"] if tokens else []),
        *(f"  {text(word)}: {text(source)}" for word, source in tokens.items()),
        "jobs:",
    ]
    for row in rows:
        prompt = row.prompt.replace("{", "{{").replace("}", "}}")
        lines += [
            f"  - id: {text(row.id)}",
            f"    prompt: {text(prompt)}",
            *(["    loras:"] if row.loras else []),
            *(f"      - {{path: {text(path)}, scale: {scale!r}}}" for path, scale in row.loras),
            f"    seeds: [{', '.join(map(str, seeds))}]",
        ]
    return "\n".join(lines) + "\n"


def token_file(word: str) -> str:
    """Where the file of a token lies in the output folder."""
    return f"{TOKENS}/{word.strip('<>')}{SUFFIX}"


def write_show(folder: Path, files: Mapping[str, bytes]) -> None:
    """The sheet and its tokens, durably. Raises OutputFull, OutputReadOnly."""
    writer = durable.Writer(run=durable.new_run())
    with writable(folder, ADVICE):
        for name, data in files.items():
            durable.replace_derived(folder, name, data, writer=writer)
