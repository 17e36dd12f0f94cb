"""Labeler and validator of a run: which, over which files, the digest by which they are known.

Chosen by the base (`scorers._choice`) or by the user; everything that can be told from names of
files is checked before torch is imported. The digest covers what the labeler would read, so that a
recipe says it without saying where it lies.

Does not: let a scorer teach that only measures, or open a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import registry
from creatok_cli.backbones._vet import WEIGHTS, DigestCache
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, InputError
from creatok_cli.hashing import sha256_hex
from creatok_cli.scorers._choice import TOWERS, labeler_for
from creatok_cli.scorers.base import build_teacher, check_teacher
from creatok_cli.strict_text import shown

if TYPE_CHECKING:
    from creatok_cli.scorers.base import Labeler

PARTS = ("image", "words", "tokenizer")
"""Settings that name folders inside the labeler's folder."""
READ = (WEIGHTS, ".json", ".txt")
"""Endings of what a labeler reads."""
PLACE = frozenset({"folder", "rows", "device"})
"""Settings that change no answer."""
VALIDITY, VLM = "validity", "vlm"
TOWER_SETTINGS = ("folder", *PARTS)
"""What the validator over a base's own towers shares with the labeler over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A labeler, settled."""

    name: str
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any]
    """Its part of a recipe: name, settings and digest of the model, no path."""

    def build(self, device: str) -> Labeler:
        """The open labeler. Imports torch; raises ArtefactError for a model that cannot be read."""
        settings = dict(self.settings)
        if "device" in registry.describe("scorers", self.name).spec:
            settings["device"] = device
        labeler: Labeler = build_teacher(self.name, settings, where="--labeler")
        return labeler


def choose_labeler(
    facts: BaseFacts, *, name: str | None = None, folder: Path | None = None
) -> Chosen:
    """The labeler of that name, by default the one that belongs to the base; `folder` holds its
    model.

    Raises UnknownName, InputError for one that does not label, that only measures, or that needs a
    folder; ArtefactError where the model is not there.
    """
    if folder is not None and not folder.is_dir():
        raise ArtefactError(f"--labeler-folder: {folder}: no such folder")
    if name is not None:
        check_teacher(name)
        if "labels" not in registry.describe("scorers", name).facts.get("GIVES", ("labels",)):
            raise InputError(f"--labeler: {name} gives no labels; choose clip or blip")
    name, settings = _settings(facts, name, folder)
    recipe: dict[str, Any] = {"name": name}
    recipe["settings"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in sorted(settings.items())
        if key not in PLACE
    }
    if settings.get("folder"):
        recipe["digest"] = model_digest(Path(settings["folder"]), settings, name)
    return Chosen(name=name, settings=settings, recipe=recipe)


def choose_validator(facts: BaseFacts, wanted: str = "auto") -> Chosen:
    """Who answers yes or no: with `clip` the base's own CLIP towers, else the vision-language model
    in the folder that is named. `auto` is `clip`.

    Raises ArtefactError where there is no such model.
    """
    if wanted in ("auto", "clip"):
        try:
            _, towers = labeler_for(facts)
        except ArtefactError:
            raise ArtefactError(
                f"--validator {wanted}: base {facts.name} holds no image towers "
                f"({', '.join(TOWERS[0])}); name the folder of a vision-language model, such as "
                "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
            ) from None
        name, settings = VALIDITY, {key: towers[key] for key in TOWER_SETTINGS}
    else:
        folder = Path(wanted)
        if not folder.is_dir():
            raise ArtefactError(
                f"--validator {shown(wanted)}: no such folder; give auto, clip, or the folder of a "
                "vision-language model"
            )
        name, settings = VLM, {"folder": str(folder)}
    recipe: dict[str, Any] = {"name": name, "settings": {}}
    recipe["digest"] = model_digest(Path(settings["folder"]), settings, name)
    return Chosen(name=name, settings=settings, recipe=recipe)


def _settings(
    facts: BaseFacts, name: str | None, folder: Path | None
) -> tuple[str, dict[str, Any]]:
    if name == "clip" and folder is not None:
        parts = TOWERS[0] if all((folder / each).is_dir() for each in TOWERS[0]) else ("", "", "")
        return name, {
            "folder": str(folder),
            **{key: (part,) for key, part in zip(PARTS, parts, strict=True)},
        }
    if name == "blip" and folder is None:
        raise InputError(
            "--labeler blip: name the folder of a BLIP model for visual question answering, such "
            "as Salesforce/blip-vqa-base, with --labeler-folder"
        )
    if name in (None, "clip", "blip"):
        try:
            return labeler_for(facts, folder=str(folder) if folder else "")
        except ArtefactError as error:
            raise ArtefactError(f"{error} (--labeler-folder DIR)") from None
    has_folder = "folder" in registry.describe("scorers", name).spec
    if folder is not None and not has_folder:
        raise InputError(f"--labeler-folder: the labeler {shown(name)} reads no folder")
    return name, {"folder": str(folder)} if folder else {}


def model_digest(folder: Path, settings: Mapping[str, Any], name: str) -> str:
    """`sha256:` over names and contents of what the labeler reads."""
    wanted = dict.fromkeys(part for key in PARTS for part in settings.get(key, ()))
    cache, lines, has_weights = DigestCache(), "", False
    try:
        for path in _files(folder, tuple(wanted) or ("",)):
            has_weights = has_weights or path.suffix.lower() == WEIGHTS
            lines += f"{path.relative_to(folder).as_posix()}\0{cache.digest(path)}\n"
    except OSError as error:
        raise ArtefactError(
            f"{folder}: the labeler {name} cannot be read: {error.strerror}"
        ) from error
    if not has_weights:
        raise ArtefactError(f"{folder}: the labeler {name} has no {WEIGHTS} weights there")
    cache.save()
    return f"sha256:{sha256_hex(lines)}"


def _files(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    for part in sorted(parts):
        for path in sorted((folder / part).iterdir()):
            if path.suffix.lower() in READ and path.is_file():
                yield path
