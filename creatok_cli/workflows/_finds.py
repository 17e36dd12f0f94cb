"""Finds: what an exploration hands back, in the library and in a folder that stands alone.

A find is a token, a LoRA or both, with its numbers. Each is stored the moment it is known, the
token in the library, copies and `explore.json` in the output folder; so a run that is stopped or
killed keeps what it found. A sheet beside them draws all of them again.

    explore.json   every find with its numbers, the settings, the base
    STEM.yaml      the sheet; tokens/ and loras/ are what it needs
    pictures/      what it draws, an ordinary output folder

A run is known by a digest of all that decides its finds. Another run never takes the place of its
folder or names, unless it is told to replace them.

Does not: search, choose, or know a method.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from creatok_cli import durable
from creatok_cli.domain import BaseFacts, Event, Found, Summary
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    InputError,
    OutputReadOnly,
    Refused,
    UnsafeName,
)
from creatok_cli.hashing import sha256_hex
from creatok_cli.tokens.file import SUFFIX, TokenHeader, check_bytes, read_raw
from creatok_cli.tokens.library import Library, check_name, writable
from creatok_cli.workflows._course import label
from creatok_cli.workflows._fused import TEMPLATE
from creatok_cli.workflows._report import draw_pictures
from creatok_cli.workflows._run import Stop
from creatok_cli.workflows._showing import ADVICE, ELLIPSIS, WORD, Row, sheet_text, token_file

SCHEMA = 1
NUMBERS = "explore.json"
LORAS = "loras"
"""Folder of the LoRA files inside the output folder."""
OUT = Path("out") / "explore"
RUN = "run"
"""Where the recipe of a token says which run found it."""
MAX_NUMBERS = 64 << 20
MAX_LORA = 4 << 30
DIGITS = 6
"""After the point, of numbers in `explore.json`."""
LONGEST_STEM = 39
"""So that seed and index fit behind it."""
HOLE = f"{{{WORD}}}"
"""Where the token goes in a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """One find."""

    name: str
    """`find_name`; also the word of its token, with brackets."""
    token: bytes = b""
    """A token file, empty where there is only a LoRA. Its word is `<name>`, and its recipe says
    `run`.
    """
    lora: bytes = b""
    """A safetensors file, empty where there is only a token."""
    lora_scale: float = 1.0
    prompts: tuple[str, ...] = (TEMPLATE,)
    """How it is drawn; `{word}` where its token goes."""
    values: Mapping[str, float | str] = field(default_factory=dict)
    """What people are shown of it: `quality`, `novelty`, `rarity`..."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More plain JSON."""

    @property
    def word(self) -> str:
        """The placeholder, empty without a token."""
        return f"<{self.name}>" if self.token else ""

    @property
    def lora_file(self) -> str:
        """Its LoRA in the output folder, empty without one."""
        return f"{LORAS}/{self.name}{SUFFIX}" if self.lora else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a run looks for, as `explore.json` tells it."""

    method: str
    run: str
    """Digest of all that decides the finds."""
    facts: BaseFacts
    seed: int
    settings: Mapping[str, Any]
    """Plain JSON."""


def find_name(stem: str, seed: int, index: int) -> str:
    """`distok-0-07`: no date, and no word that another run would give to something else."""
    return check_name(f"{stem}-{seed}-{index:02d}")


def check_stem(stem: str) -> str:
    """The stem of names. Raises UnsafeName."""
    try:
        if len(stem) > LONGEST_STEM:
            raise UnsafeName(f"{stem[:60]!r} is longer than {LONGEST_STEM} characters")
        return check_name(stem)
    except UnsafeName as error:
        raise UnsafeName(f"--name: {str(error).removesuffix('; give another --name')}") from None


def default_out(stem: str, seed: int) -> Path:
    """The folder of a run where `--out` names none."""
    return OUT / f"{stem}-{seed}"


def check_free(folder: Path, stem: str, seed: int, run: str, *, replace: bool) -> None:
    """Raise InputError where the folder, or a name that a find could get, belongs to another run
    and `replace` is off. A find of this run under its name is no fault.
    """
    if replace:
        return
    said = _read_numbers(folder)
    if said is not None and said.get(RUN) != run:
        raise InputError(
            f"{folder / NUMBERS} tells of finds of another run; choose another --out, or --replace "
            "them"
        )
    library = Library()
    for name in library.names():
        if not name.startswith(f"{stem}-{seed}-") or not name.rpartition("-")[2].isdigit():
            continue
        try:
            entry = library.find(name)
        except ArtefactError:
            continue  # a damaged one may be written anew
        if entry.header.recipe.get(RUN) != run:
            raise InputError(
                f"the token library has another token {name} (stored {entry.added[:10]}); choose "
                "another --name or --seed, or --replace it"
            )


def is_begun(folder: Path, run: str) -> bool:
    """Whether a run has begun in a folder, or ended there."""
    return (_read_numbers(folder) or {}).get(RUN) == run


class Finds:
    """The finds of one run and their folder, which has to exist. Hold its lock meanwhile."""

    def __init__(self, search: Search, folder: Path, stem: str) -> None:
        self.search, self.folder, self.stem = search, folder, stem
        self.kept: dict[str, Find] = {}
        self.looked_at = 0
        """Candidates or states whose pictures were judged, for `explore.json`."""
        self.facts: dict[str, Any] = {}
        """Of the whole run, plain JSON, for `explore.json`."""
        self._writer = durable.Writer(run=durable.new_run())
        self._headers: dict[str, TokenHeader] = {}

    @property
    def sheet(self) -> str:
        """The name of the sheet."""
        return f"{self.stem}.yaml"

    def recall(self) -> tuple[Find, ...]:
        """The finds that an earlier start of this very run has kept, whole ones only. They count
        as kept.
        """
        said = _read_numbers(self.folder) or {}
        if said.get(RUN) != self.search.run or not isinstance(said.get("finds"), list):
            return ()
        for record in said["finds"]:
            try:
                find = self._read(record)
            except (OSError, CreatokError, KeyError, TypeError, ValueError):
                continue  # it is found again
            self.kept[find.name] = find
        return tuple(self.kept.values())

    def keep(self, find: Find, *, replace: bool = False) -> Found:
        """Stores one find durably: LoRA, token, library, and last `explore.json`.

        The same find again is no change. Raises InputError where the library has another token of
        that name and `replace` is off, Refused for a token of another name, IntegrityError.
        """
        entry = None
        if find.token:
            header = check_bytes(find.token, f"find {find.name}")
            if header.word != find.word:
                raise Refused(f"find {find.name}: its token says {header.word}")
            self._headers[find.name] = header
        with writable(self.folder, ADVICE):
            for name, data in self._files_of(find).items():
                durable.replace_derived(self.folder, name, data, writer=self._writer)
        if find.token:
            entry = Library().add_bytes(find.token, replace=replace)
        self.kept[find.name] = find
        self.save("unfinished")
        return Found(
            word=find.word,
            name=entry.name if entry else "",
            id=entry.id if entry else "",
            path=str(entry.path) if entry else "",
            lora=str(self.folder / find.lora_file) if find.lora else "",
            values=dict(find.values),
        )

    def save(self, ended: str) -> None:
        """Writes `explore.json` as of now. `ended`: `unfinished`, `done`, `stopped`..."""
        search = self.search
        document = {
            "schema": SCHEMA,
            "method": search.method,
            RUN: search.run,
            "base": {
                "name": label(search.facts),
                "digest": search.facts.digest,
                "licence": search.facts.licence,
            },
            "seed": search.seed,
            "settings": dict(search.settings),
            "ended": ended,
            "looked_at": self.looked_at,
            "finds": [self._record(find) for find in self.kept.values()],
            "facts": rounded(self.facts),
        }
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        with writable(self.folder, ADVICE):
            durable.replace_derived(self.folder, NUMBERS, text.encode(), writer=self._writer)

    def write(self, name: str, data: bytes) -> Path:
        """A derived file of the run, such as a figure. Raises OutputFull, OutputReadOnly."""
        with writable(self.folder, ADVICE):
            durable.replace_derived(self.folder, name, data, writer=self._writer)
        return self.folder / name

    def draw(
        self,
        *,
        title: str,
        seeds: Sequence[int],
        device: str,
        vram_gib: float | None = None,
        stop: Stop | None,
        resume: str,
        captions: Mapping[str, str] | None = None,
    ) -> Generator[Event, None, Summary | None]:
        """Writes the sheet of all finds and draws it; gives the summary of its pictures, None where
        nothing was found. `captions` name finds otherwise than by their names.
        """
        finds = [self.kept[name] for name in sorted(self.kept)]
        if not finds:
            return None
        self.write(self.sheet, self._sheet(finds, title, seeds, captions or {}).encode())
        return (
            yield from draw_pictures(
                self.folder,
                self.sheet,
                device=device,
                vram_gib=vram_gib,
                stop=stop,
                resume=resume,
            )
        )

    def _sheet(
        self, finds: Sequence[Find], title: str, seeds: Sequence[int], captions: Mapping[str, str]
    ) -> str:
        rows = []
        for find in finds:
            for prompt in find.prompts:
                whole = prompt.replace(HOLE, find.word) if find.token else prompt
                shown = captions.get(find.name, find.name).replace("/", " ")
                look = prompt.replace(HOLE, ELLIPSIS) if len(find.prompts) > 1 else ""
                rows.append(
                    Row(
                        id="/".join(part for part in (look.replace("/", " ")[:90], shown) if part),
                        subject=find.word,
                        prompt=whole,
                        loras=((find.lora_file, find.lora_scale),) if find.lora else (),
                    )
                )
        return sheet_text(
            self.search.facts.name,
            {find.word: token_file(find.word) for find in finds if find.token},
            rows,
            title=title,
            name=self.sheet,
            seeds=seeds,
        )

    def _files_of(self, find: Find) -> dict[str, bytes]:
        files = {token_file(find.word): find.token} if find.token else {}
        return {**files, find.lora_file: find.lora} if find.lora else files

    def _record(self, find: Find) -> dict[str, Any]:
        return {
            "name": find.name,
            "word": find.word,
            "id": self._headers[find.name].id if find.token else "",
            "token": token_file(find.word) if find.token else "",
            "lora": find.lora_file,
            "lora_digest": f"sha256:{sha256_hex(find.lora)}" if find.lora else "",
            "lora_scale": find.lora_scale,
            "prompts": list(find.prompts),
            "values": rounded(find.values),
            "facts": rounded(find.facts),
        }

    def _read(self, record: Mapping[str, Any]) -> Find:
        """A find of an earlier start. Raises what any damage raises."""
        name = check_name(record["name"])
        token = lora = b""
        if record["token"]:
            token, _ = read_raw(self.folder / token_file(f"<{name}>"))
            header = check_bytes(token, name)
            if header.id != record["id"] or header.word != f"<{name}>":
                raise ValueError("another token")
            self._headers[name] = header
        if record["lora"]:
            file = f"{LORAS}/{name}{SUFFIX}"
            lora = durable.read_file(self.folder, file, limit=MAX_LORA)
            if f"sha256:{sha256_hex(lora)}" != record["lora_digest"]:
                raise ValueError("another LoRA")
        if not (token or lora):
            raise ValueError("nothing")
        return Find(
            name=name,
            token=token,
            lora=lora,
            lora_scale=float(record["lora_scale"]),
            prompts=tuple(str(each) for each in record["prompts"]),
            values=dict(record["values"]),
            facts=dict(record["facts"]),
        )


def _read_numbers(folder: Path) -> dict[str, Any] | None:
    """`explore.json`; None where there is none. Raises OutputReadOnly for a stranger's file."""
    try:
        found = json.loads(durable.read_file(folder, NUMBERS, limit=MAX_NUMBERS))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "finds" not in found:
        raise OutputReadOnly(
            f"{folder / NUMBERS}: was not written by this creatok; move it away, or {ADVICE}"
        )
    return found


def rounded(value: Any) -> Any:
    """Plain JSON with numbers of few digits. Raises ValueError for one that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): rounded(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(member) for member in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"not finite: {value}")
        return round(value, DIGITS)
    return value
