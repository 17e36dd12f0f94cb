"""Token files for other clients: what each one reads for each family of bases, as a table of rows.

No one file satisfies all clients: they look for other keys, split encoders over files, and put a
tensor of the wrong width aside in silence. So a pair of client and family is either a row (file
names and keys) or the reason why it cannot work. Every file holds f32 tensors of one token and
nothing else, with ModelSpec 1.0.1 and `creatok.*` metadata, from which `_imports.py` knows the
token again.

Sources: the clients' loaders as the ecosystem notes describe them (sections 2.1 to 2.6).

Does not: import torch, read or write files, or know what a client does with a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creatok_cli.errors import Refused, UnknownName
from creatok_cli.hashing import canonical_json
from creatok_cli.registry import did_you_mean
from creatok_cli.tokens.file import PROFILE, TokenHeader, identity_metadata, pack
from creatok_cli.tokens.token import T5, Rows, tensor_digests

KIND = "/textual-inversion"
CLIP_L = "clip_l"
CLIP_L_WIDTH = 768
"""Of the one CLIP-L/14 tower that SD 1.5, SDXL, SD3, FLUX and Kandinsky 2.1 share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Bases that share text encoders and file layouts."""

    title: str
    architecture: str
    """ModelSpec id: the spec's name where it has one, else the one of kohya-ss, else ours."""
    says: re.Pattern[str]
    """Fits the architecture, backbone or base that a recipe names."""
    widths: Mapping[str, int]
    """CLIP encoders and their widths; empty for a family with widths of its own."""


def _family(title: str, architecture: str, says: str, **widths: int) -> Family:
    return Family(
        title=title,
        architecture=architecture + KIND,
        says=re.compile(says, re.IGNORECASE),
        widths=widths,
    )


OTHER = "other"
FAMILIES: Mapping[str, Family] = {
    "sd15": _family("SD 1.5", "stable-diffusion-v1", r"stable-diffusion-v1|sd-?1", clip_l=768),
    "sdxl": _family(
        "SDXL", "stable-diffusion-xl-v1-base", r"stable-diffusion-xl|sdxl", clip_l=768, clip_g=1280
    ),
    "sd3": _family(
        "SD3", "stable-diffusion-3-medium", r"stable-diffusion-3|sd3", clip_l=768, clip_g=1280
    ),
    "flux": _family("FLUX.1", "flux-1-dev", r"flux", clip_l=768),
    "kandinsky21": _family("Kandinsky 2.1", "kandinsky-2.1", r"kandinsky-?2\.?1", clip_l=768),
    "kandinsky22": _family("Kandinsky 2.2", "kandinsky-2.2", r"kandinsky-?2\.?2", clip_g=1280),
    "bestiary": _family("bestiary", "creatok-bestiary", r"(creatok-)?bestiary"),
    OTHER: _family("another base", "creatok", r"(?!)"),
}
"""The family `other` is for tokens whose base is in no row: creatok and diffusers take them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A pair that works: file name -> encoder -> key. `{stem}` and `{word}` are filled in."""

    files: Mapping[str, Mapping[str, str]]
    note: str = ""


Cell = Files | str
"""A row, or the reason of a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that loads token files."""

    title: str
    trigger: str
    """How its prompts call a token."""
    place: str
    """What to do with the files."""
    cells: Mapping[str, Cell]


def _one(**keys: str) -> Files:
    """One file, named for the word."""
    return Files(files={"{stem}.safetensors": keys})


def _per_encoder(*encoders: str, note: str = "") -> Files:
    """One file per encoder with one key each, as diffusers wants them."""
    names = ["learned_embeds" + (f"_{n}" if n > 1 else "") for n in range(1, len(encoders) + 1)]
    pairs = zip(names, encoders, strict=True)
    files = {f"{name}.safetensors": {encoder: "{word}"} for name, encoder in pairs}
    return Files(files=files, note=note)


_NARROW = (
    "bestiary is creatok's own small model: its vectors fit the text encoders of no other base"
)
_NO_KANDINSKY = "loads no tokens for Kandinsky: its words go through a prior"
_NOT_KNOWN = "the base of this token has text encoders of its own, which no other program knows"
_SD3_T5 = "A1111 lets T5 read the file name as text, so its pictures differ from creatok's"
_NO_LOADER = (
    "diffusers has no load_textual_inversion for this pipeline: give it the tensors by your own "
    "code, or draw with creatok"
)
_EMB = _one(clip_l="emb_params")
_BOTH = _one(clip_l="clip_l", clip_g="clip_g")


def _cells(**cells: Cell) -> dict[str, Cell]:
    """A client's row, with what is refused everywhere but in diffusers."""
    kandinsky = f"this program {_NO_KANDINSKY}"
    common: dict[str, Cell] = {"kandinsky21": kandinsky, "kandinsky22": kandinsky}
    return {**common, "bestiary": _NARROW, OTHER: _NOT_KNOWN, **cells}


CLIENTS: Mapping[str, Client] = {
    "comfyui": Client(
        title="ComfyUI",
        trigger="embedding:{stem}",
        place="put it into models/embeddings",
        cells=_cells(
            sd15=_EMB,
            sdxl=_BOTH,
            sd3=_one(clip_l="clip_l", clip_g="clip_g", t5xxl="t5xxl"),
            flux=_one(clip_l="clip_l", t5xxl="t5xxl"),
        ),
    ),
    "a1111": Client(
        title="A1111",
        trigger="{stem}",
        place="put it into embeddings",
        cells=_cells(
            sd15=_EMB,
            sdxl=_BOTH,
            sd3=Files(files=_BOTH.files, note=_SD3_T5),
            flux="A1111 does not run FLUX.1",
        ),
    ),
    "forge": Client(
        title="Forge",
        trigger="{stem}",
        place="put it into embeddings",
        cells=_cells(
            sd15=_EMB,
            sdxl=_BOTH,
            sd3="Forge adds clip_l and clip_g up to one width of 2048 and skips the file, and it "
            "stops at clip_l with t5xxl (Forge#2101)",
            flux=Files(
                files=_EMB.files,
                note="Forge gives FLUX.1 the CLIP-L rows only: T5 reads the file name as text",
            ),
        ),
    ),
    "invokeai": Client(
        title="InvokeAI",
        trigger="<{stem}>",
        place="add it in the model manager",
        cells=_cells(
            sd15=_EMB,
            sdxl=_BOTH,
            sd3="InvokeAI takes every file with clip_g for SDXL",
            flux="InvokeAI loads no tokens for FLUX.1",
        ),
    ),
    "diffusers": Client(
        title="diffusers",
        trigger="{word}",
        place="pipe.load_textual_inversion(DIR, weight_name=FILE, text_encoder=..., tokenizer=...) "
        "once per file and encoder",
        cells={
            "sd15": _per_encoder("clip_l"),
            "sdxl": _per_encoder("clip_l", "clip_g"),
            "sd3": _per_encoder("clip_l", "clip_g", T5, note=_NO_LOADER),
            "flux": _per_encoder("clip_l", T5),
            "kandinsky21": _per_encoder("clip_l", note=_NO_LOADER),
            "kandinsky22": _per_encoder("clip_g", note=_NO_LOADER),
            "bestiary": _per_encoder("clip_l", "clip_g", note=_NO_LOADER),
            OTHER: _per_encoder(note=_NO_LOADER),  # filled in with the encoders of the token
        },
    ),
    "onetrainer": Client(
        title="OneTrainer",
        trigger="{word}",
        place="choose it as the base embedding, with this placeholder",
        cells=_cells(
            sd15=_one(clip_l="emp_params"),
            sdxl=_BOTH,
            sd3=_one(clip_l="clip_l", clip_g="clip_g", t5xxl="t5"),
            flux=_one(clip_l="clip_l", t5xxl="t5"),
        ),
    ),
    "kohya": Client(
        title="kohya-ss/sd-scripts",
        trigger="{stem}",
        place="give its path to --textual_inversion_embeddings",
        cells=_cells(
            sd15=_EMB,
            sdxl=_BOTH,
            sd3="kohya-ss/sd-scripts loads no tokens for SD3",
            flux="kohya-ss/sd-scripts loads no tokens for FLUX.1",
        ),
    ),
}
"""The order is the one in which another client is proposed after a refusal."""

FLAT = (
    *("method", "base", "base_revision", "base_licence", "init", "init_word", "seed", "steps"),
    *("template", "concepts_hash", "version"),
)
"""Parts of a recipe that also get a metadata field of their own, for those who read no JSON."""
KEPT = re.compile(r"modelspec\.(author|date|license|tags|thumbnail|merged_from|usage_hint)")
"""Metadata of the native file that goes along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A token, written for one client."""

    client: str
    family: str
    files: Mapping[str, bytes]
    """By name."""
    trigger: str
    place: str
    notes: tuple[str, ...]
    """What the user should know before blaming the file."""


def client_of(name: str) -> Client:
    """A client by its name in the table. Raises UnknownName."""
    if name not in CLIENTS:
        hint = did_you_mean(name, CLIENTS) or f"there are {', '.join(CLIENTS)}"
        raise UnknownName(f"unknown client {name[:40]!r}; {hint}")
    return CLIENTS[name]


def architecture_of(backbone: str) -> str:
    """The ModelSpec architecture of a token for a base: for `recipe["architecture"]`."""
    return FAMILIES[_said(backbone)].architecture


def family_of(widths: Mapping[str, int], recipe: Mapping[str, Any]) -> str:
    """The family that a token fits: what its recipe says, if the widths agree, else by widths.

    A recipe that names a family whose widths the token does not have makes it `other`: a small
    model with the classes of a big one.
    """
    clip = {name: width for name, width in widths.items() if name != T5}
    for field in ("architecture", "backbone", "base"):
        family = _said(str(recipe.get(field, "")))
        if family != OTHER:
            expected = FAMILIES[family].widths
            return family if not expected or clip == expected else OTHER
    if clip == FAMILIES["sd15"].widths:
        return "flux" if T5 in widths else "sd15"
    if clip == FAMILIES["sdxl"].widths:
        return "sd3" if T5 in widths else "sdxl"
    return OTHER


def _said(text: str) -> str:
    return next((name for name, family in FAMILIES.items() if family.says.match(text)), OTHER)


def cell_of(header: TokenHeader, client: str) -> Cell:
    """What a client makes of a token: files, or the reason why not. Raises UnknownName."""
    return client_of(client).cells[family_of(header.widths, header.recipe)]


def nearest_client(family: str) -> str:
    """A client that takes the family; diffusers takes all."""
    return next(name for name, each in CLIENTS.items() if isinstance(each.cells[family], Files))


def export(
    header: TokenHeader, rows: Mapping[str, Rows], client: str, *, stem: str, force: bool = False
) -> Export:
    """The files of a token for a client; equal tokens give equal bytes. Most clients call a token
    by the `stem` of its file.

    `force` writes the CLIP-L rows of a token of another family as the client's SD 1.5 file, and
    records it: loading works, what the word then means was never measured. Raises Refused with the
    reason and a client that works, UnknownName.
    """
    known, family = client_of(client), family_of(header.widths, header.recipe)
    cell = known.cells[family]
    notes: list[str] = []
    forced = ""
    if isinstance(cell, str):
        if not force or header.widths.get(CLIP_L) != CLIP_L_WIDTH:
            raise Refused(_refusal(header, client, family, cell))
        cell, forced = known.cells["sd15"], f"clip_l of {FAMILIES[family].architecture}"
        assert isinstance(cell, Files)
        notes.append(
            f"forced: only the CLIP-L rows, learned for {FAMILIES[family].title}, in the file of a "
            "token for SD 1.5; that it loads is known, what it then means is not"
        )
    if not cell.files:
        clip = sorted(rows.keys() - {T5}, key=lambda name: (name != CLIP_L, name))
        cell = _per_encoder(*clip, *(name for name in rows if name == T5), note=cell.note)
    missing = sorted(_encoders(cell) - rows.keys() - {T5})
    if missing:
        raise Refused(f"{header.path}: the token has no {', '.join(missing)} for {known.title}")
    if T5 in _encoders(cell) - rows.keys():
        notes.append(
            f"the token carries no T5 rows: {known.title} lets T5 read the name as text, "
            "creatok lets it read " + repr(header.literal)
        )
    if stem == header.literal and known.trigger == "{stem}":
        notes.append(f"{known.title} finds {stem!r} in every prompt: give a rarer name")
    if cell.note:
        notes.append(cell.note)
    words = {"stem": stem, "word": header.word}
    trigger = known.trigger.format_map(words)
    shared = _metadata(header, rows, client, family, trigger) | (
        {"creatok.forced": forced} if forced else {}
    )
    files = {}
    for name, keys in cell.files.items():
        part = {key.format_map(words): encoder for encoder, key in keys.items() if encoder in rows}
        if part:
            files[name.format_map(words)] = pack(
                {key: rows[encoder] for key, encoder in part.items()},
                shared | {"modelspec.title": stem, "creatok.keys": canonical_json(part)},
            )
    return Export(
        client=client,
        family=family,
        files=files,
        trigger=trigger,
        place=known.place,
        notes=tuple(notes),
    )


def _encoders(cell: Files) -> set[str]:
    return {encoder for keys in cell.files.values() for encoder in keys}


def _refusal(header: TokenHeader, client: str, family: str, reason: str) -> str:
    way = f"--for {nearest_client(family)} works"
    if header.widths.get(CLIP_L) == CLIP_L_WIDTH:
        way += "; --force writes the CLIP-L rows alone"
    title, target = FAMILIES[family].title, CLIENTS[client].title
    return f"token {header.word} (for {title}) cannot go to {target}: {reason}; {way}"


def _metadata(
    header: TokenHeader, rows: Mapping[str, Rows], client: str, family: str, trigger: str
) -> dict[str, str]:
    kept = {key: value for key, value in header.metadata.items() if KEPT.fullmatch(key)}
    flat = {
        f"creatok.{name}": value if isinstance(value, str) else canonical_json(value)
        for name, value in header.recipe.items()
        if name in FLAT
    }
    title = FAMILIES[family].title
    counts = ", ".join(f"{name} {count}" for name, count in sorted(header.counts.items()))
    said = str(header.recipe.get("architecture", ""))
    return {
        **kept,
        **flat,
        "modelspec.architecture": said or FAMILIES[family].architecture,
        "modelspec.description": f"A learned word for {title} ({counts} vectors); encoders without "
        f"vectors read {header.literal!r}. creatok.recipe tells how it was made.",
        "modelspec.trigger_phrase": trigger,
        **identity_metadata(header.id, header.word, header.literal, header.recipe),
        PROFILE: client,
        "creatok.tensors": canonical_json(tensor_digests(rows)),
    }
