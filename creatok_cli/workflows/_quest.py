"""What an exploration that learns is asked, and what it comes to once every check is passed.

`settle` finds everything that can be wrong with a prompt, words, pictures, settings, a base, a
validator or a name, and says where. Settings: default < preset < flag < `--set`. Torch is not
imported, Pillow only where there are pictures.

Does not: open a base or a model, look for anything, or write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from creatok_cli import registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.classes import ClassList, load_classes
from creatok_cli.domain import BaseFacts, Notice
from creatok_cli.errors import InputError
from creatok_cli.hashing import sha256_hex
from creatok_cli.strict_picture import open_picture
from creatok_cli.strict_text import FORBIDDEN, shown
from creatok_cli.workflows._checkpoint import run_digest
from creatok_cli.workflows._course import label
from creatok_cli.workflows._finds import Search, check_free, check_stem, default_out, find_name
from creatok_cli.workflows._labeler import Chosen, choose_labeler, choose_validator
from creatok_cli.workflows._lesson import build_settings, check_method, check_seed, plain
from creatok_cli.workflows._preset import AUTO, load_preset
from creatok_cli.workflows._run import Stop

if TYPE_CHECKING:
    from PIL.Image import Image

    from creatok_cli.methods.base import Quest

MAX_TEXT = 300
"""Longest prompt, word or phrase in characters."""
MAX_WORDS, MAX_PICTURES, MAX_STRANDS = 32, 64, 99
LEAST_SIDE_PX = 8
"""A smaller picture shows nothing."""
FEW = 3
"""A direction takes so many pictures (methods notes, 4.2)."""
SUBJECT = "creature"
"""What is looked for where nothing says it."""
SMALL = "bestiary"
"""The base that has presets of its own."""
_ARTICLE = re.compile(r"(?:^|\s)(?:an?|the)\s+", re.IGNORECASE)
_AFTER = re.compile(
    r"\s+(?:in|on|at|with|under|by|near|from|of|over|behind|among|inside|against)\s|\s*[,.;:!?]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestRequest:
    """What `creatok explore lowprob` or `conceptlab` was asked. None: what the preset says."""

    method: str
    prompt: str | None = None
    """The plain prompt to start from. None: the method needs none."""
    subject: str | None = None
    """None: read off the prompt."""
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    toward: Sequence[Path] = ()
    away: Sequence[Path] = ()
    origin: Path | None = None
    """A picture to vary."""
    base: str = "bestiary"
    preset: str | None = None
    """The name of a shipped preset, or a file; None for the one that fits method and base."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Flags that are settings of the method, by field; None for what was not given."""
    sets: Sequence[str] = ()
    """`key=value` texts."""
    class_names: str | None = None
    """The name of a shipped class list, or a file: among these a labeler names what it sees."""
    validator: str = AUTO
    """`auto`, `clip`, or the folder of a vision-language model."""
    labeler: str | None = None
    labeler_folder: Path | None = None
    strands: int = 1
    """Searches with seeds of their own; each may give a find."""
    precision: str = "fp32"
    """Number format of the frozen base; what is trained is always fp32."""
    seed: int = 0
    name: str | None = None
    """Stem of the finds' names. None: the method."""
    out: Path | None = None
    device: str = "auto"
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    replace: bool = False
    resume: bool = False
    """Only go on: an error where there is nothing to go on from."""
    is_offline: bool = False
    """Whether a base that is not here is an error instead of being fetched."""
    resume_command: str = ""
    stop: Stop | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self.stop is not None and self.stop.is_set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture of the user, checked."""

    name: str
    """Of the file, without folders."""
    image: Image
    digest: str
    """Over size and pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pursuit:
    """What is looked for, settled."""

    search: Search
    stem: str
    module: ModuleType
    spec: Any
    preset: str
    prompt: str
    subject: str
    like: tuple[str, ...]
    unlike: tuple[str, ...]
    toward: tuple[Picture, ...]
    away: tuple[Picture, ...]
    origin: Picture | None
    classes: ClassList
    validator: Chosen | None
    """None for a method that asks nobody."""
    labeler: Chosen | None
    strands: int
    precision: str
    recipe: Mapping[str, Any]
    """All that decides the finds, apart from the stack and what is prepared."""
    folder: Path
    notices: tuple[Notice, ...]

    @property
    def facts(self) -> BaseFacts:
        """Of the base."""
        return self.search.facts

    @property
    def method(self) -> str:
        """The plug-in's name."""
        return self.search.method

    @property
    def scratch_name(self) -> str:
        """The folder of unfinished states."""
        return f"explore-{self.method}-{self.search.run[:12]}"

    @property
    def what(self) -> str:
        """For messages: `"a photo of a creature"`, `a pet unlike cat, dog`."""
        if self.prompt:
            return f'"{self.prompt}"'
        said = " and ".join(self.like) or self.subject
        return f"{said} unlike {', '.join(self.unlike)}" if self.unlike else said

    def quest(self) -> Quest:
        """The same for a method, without what it prepares."""
        from creatok_cli.methods.base import Quest

        return Quest(
            prompt=self.prompt,
            subject=self.subject,
            like=self.like,
            unlike=self.unlike,
            toward=tuple(each.image for each in self.toward),
            away=tuple(each.image for each in self.away),
            origin=self.origin.image if self.origin else None,
            classes=self.classes.classes,
        )


def settle(request: QuestRequest) -> Pursuit:
    """What is to be looked for, with every check that needs no torch.

    Raises InputError, PresetError, UnknownName, UnsafeName, ArtefactError; the places of faults are
    those of the preset, or flags.
    """
    check_seed(request.seed)
    if not 1 <= request.strands <= MAX_STRANDS:
        raise InputError(f"--strands: found {request.strands}, expected 1 to {MAX_STRANDS}")
    stem = check_stem(request.name or request.method)
    find_name(stem, request.seed, request.strands)
    prompt, subject = prompt_of(request)
    like, unlike = words_of(request)
    if request.prompt is None and not like and not request.toward:
        raise InputError('nothing to be like; give words such as --like "a pet", or --toward IMG')
    facts = resolve(request.base)
    preset = load_preset("explore", request.preset or own_preset(request.method, facts))
    if preset.method != request.method:
        raise InputError(
            f"{preset.places['method']}: the preset {preset.name} is for {preset.method}, not for "
            f"{request.method}; choose another --preset"
        )
    check_method(preset.method, facts, "explore")
    module = registry.get("methods", preset.method)
    spec = build_settings(module.Spec, preset.values, preset, request.settings, request.sets)
    classes = load_classes(source_of(request.class_names or preset.source, facts))
    toward = pictures_of(request.toward, "--toward")
    away = pictures_of(request.away, "--away-from")
    origin = pictures_of([request.origin] if request.origin else [], "--from-image")
    validator, labeler = seers_of(request, facts, preset.method, spec)
    settings = plain(asdict(spec))
    recipe = {
        "kind": "explore",
        "method": preset.method,
        "settings": settings,
        "prompt": prompt,
        "subject": subject,
        "like": list(like),
        "unlike": list(unlike),
        "toward": [each.digest for each in toward],
        "away": [each.digest for each in away],
        "origin": [each.digest for each in origin],
        "classes": classes.digest,
        "validator": validator.recipe if validator else None,
        "labeler": labeler.recipe if labeler else None,
        "base": facts.digest,
        "precision": request.precision,
        "seed": request.seed,
    }
    run = run_digest(recipe)
    folder = request.out or default_out(stem, request.seed)
    check_free(folder, stem, request.seed, run, replace=request.replace)
    return Pursuit(
        search=Search(
            method=preset.method, run=run, facts=facts, seed=request.seed, settings=settings
        ),
        stem=stem,
        module=module,
        spec=spec,
        preset=preset.name,
        prompt=prompt,
        subject=subject,
        like=like,
        unlike=unlike,
        toward=toward,
        away=away,
        origin=origin[0] if origin else None,
        classes=classes,
        validator=validator,
        labeler=labeler,
        strands=request.strands,
        precision=request.precision,
        recipe=recipe,
        folder=folder,
        notices=notices_of(toward, away),
    )


def own_preset(method: str, facts: BaseFacts) -> str:
    """The shipped preset that fits a method and a base."""
    return f"{method}-small" if facts.backbone == SMALL else method


def source_of(chosen: str, facts: BaseFacts) -> str:
    """The class list; `auto` is the one that fits the base."""
    if chosen != AUTO:
        return chosen
    return "bestiary" if facts.backbone == SMALL else "real-world"


def prompt_of(request: QuestRequest) -> tuple[str, str]:
    """(prompt, subject), checked. Raises InputError."""
    prompt = "" if request.prompt is None else check_text(request.prompt, "PROMPT")
    if request.subject is None:
        words = request.like[0] if request.like else SUBJECT
        subject = subject_of(prompt or words)
    else:
        subject = check_text(request.subject, "--subject")
    if prompt and subject not in prompt:
        raise InputError(
            f"--subject: {shown(subject)} is not in the prompt {shown(prompt)}; write it as there"
        )
    if "<" in prompt or "{" in prompt:
        raise InputError(
            f"PROMPT {shown(prompt)}: found < or {{; a plain prompt is wanted, without tokens"
        )
    return prompt, subject


def subject_of(prompt: str) -> str:
    """What a prompt speaks of: `a photo of a red creature in the snow` -> `red creature`."""
    of = re.search(r"\bof\s+(?:an?|the)\s+", prompt, re.IGNORECASE)
    article = of or _ARTICLE.search(prompt)
    rest = prompt[article.end() :] if article else prompt
    return (_AFTER.split(rest, maxsplit=1)[0].strip() or rest.strip()) if rest else prompt


def words_of(request: QuestRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(like, unlike), checked. Raises InputError."""
    like = tuple(check_text(each, "--like") for each in request.like)
    unlike = tuple(check_text(each, "--unlike") for each in request.unlike)
    for flag, words in (("--like", like), ("--unlike", unlike)):
        if len(words) > MAX_WORDS:
            raise InputError(f"{flag}: found {len(words)}, expected at most {MAX_WORDS}")
        if len({each.casefold() for each in words}) < len(words):
            raise InputError(f"{flag}: one word is given twice")
    both = {each.casefold() for each in like} & {each.casefold() for each in unlike}
    if both:
        raise InputError(f"--like and --unlike both say {shown(min(both))}")
    return like, unlike


def check_text(text: str, flag: str) -> str:
    """A prompt or phrase without spaces around it. Raises InputError."""
    found = text.strip()
    if not found:
        raise InputError(f"{flag}: found nothing; write what is looked for")
    if len(found) > MAX_TEXT:
        raise InputError(f"{flag}: found {len(found)} characters, expected at most {MAX_TEXT}")
    if FORBIDDEN.search(found) or "\n" in found or "\r" in found or "\t" in found:
        raise InputError(f"{flag} {shown(found)}: found a control character; write plain words")
    return found


def pictures_of(paths: Sequence[Path], flag: str) -> tuple[Picture, ...]:
    """Pictures of the user, read whole. Raises InputError."""
    if len(paths) > MAX_PICTURES:
        raise InputError(f"{flag}: found {len(paths)} pictures, expected at most {MAX_PICTURES}")
    found = []
    for path in paths:
        try:
            image = open_picture(path)
        except InputError as error:
            raise InputError(f"{flag} {error}") from error
        if min(image.size) < LEAST_SIDE_PX:
            size = "x".join(map(str, image.size))
            raise InputError(
                f"{flag} {path}: is {size} pixels; give a picture of {LEAST_SIDE_PX} or more a side"
            )
        head = f"{image.mode} {image.width}x{image.height}\n".encode()
        digest = f"sha256:{sha256_hex(head + image.tobytes())}"
        found.append(Picture(name=path.name, image=image, digest=digest))
    if len({each.digest for each in found}) < len(found):
        raise InputError(f"{flag}: one picture is given twice")
    return tuple(found)


def seers_of(
    request: QuestRequest, facts: BaseFacts, method: str, spec: Any
) -> tuple[Chosen | None, Chosen | None]:
    """(validator, labeler) of a method that asks somebody; who is never asked is not needed."""
    if "labels" not in registry.describe("methods", method).facts.get("NEEDS", ()):
        return None, None
    validator = labeler = None
    if getattr(spec, "check_every", 1):
        validator = choose_validator(facts, request.validator)
    if getattr(spec, "adaptive", False):
        labeler = choose_labeler(facts, name=request.labeler, folder=request.labeler_folder)
    return validator, labeler


def notices_of(toward: Sequence[Picture], away: Sequence[Picture]) -> tuple[Notice, ...]:
    """What should be known before the search begins."""
    return tuple(
        Notice(
            level="warning",
            message=f"{flag}: {len(found)} of {FEW} or more pictures: what they share is hard to "
            "tell from what they happen to show",
        )
        for flag, found in (("--toward", toward), ("--away-from", away))
        if 0 < len(found) < FEW
    )


def outline(pursuit: Pursuit) -> dict[str, Any]:
    """What would be looked for, for people and as JSON data."""
    facts, first, last = pursuit.facts, 1, pursuit.strands
    names = [find_name(pursuit.stem, pursuit.search.seed, each) for each in (first, last)]
    told: dict[str, Any] = {
        "base": f"{label(facts)} ({facts.digest}, licence {facts.licence})",
        "preset": pursuit.preset,
        "method": pursuit.method,
        "settings": dict(pursuit.search.settings),
        "prompt": pursuit.prompt,
        "subject": pursuit.subject,
        "like": list(pursuit.like),
        "unlike": list(pursuit.unlike),
        "toward": [each.name for each in pursuit.toward],
        "away from": [each.name for each in pursuit.away],
        "from image": pursuit.origin.name if pursuit.origin else "",
        "validator": dict(pursuit.validator.recipe) if pursuit.validator else "none",
        "labeler": dict(pursuit.labeler.recipe) if pursuit.labeler else "none",
        "seed": pursuit.search.seed,
        "finds": " to ".join(dict.fromkeys(names)),
        "out": str(pursuit.folder),
        "run": pursuit.search.run,
    }
    return {key: value for key, value in told.items() if value not in ("", [])}
