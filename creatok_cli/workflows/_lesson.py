"""What `learn-token` is asked, and what it comes to once every check is passed.

`settle` finds everything that can be wrong with a preset, a setting, a pair list, a base or a name,
and says where. Settings: default < preset < flag < `--set`.

Does not: import torch, open a base, or write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from creatok_cli import config, registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.sets import PairList, load_pairs
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import InputError, SheetError, TokenMissing, UnknownName, UnsafeName
from creatok_cli.tokens.library import Entry, Library, check_name
from creatok_cli.workflows._checkpoint import run_digest
from creatok_cli.workflows._course import label
from creatok_cli.workflows._preset import Preset, load_preset
from creatok_cli.workflows._run import Stop

RUN_KEY = "creatok.run"
"""Metadata of a token file: the digest of the run that made it."""
FLAGS = ("word", "name", "steps", "lr", "theta", "encoders", "sampling", "restarts", "init")
"""Flags that are settings of the method, by the same name."""
TEMPLATES = ("adaptive", "restrictive", "template")
"""Settings of a method that are prompts with `{word}` and the slots of the pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnRequest:
    """What `creatok learn-token` was asked. None: what the preset says, else the method."""

    base: str = "bestiary"
    preset: str = "cretok"
    """The name of a shipped preset, or a file."""
    pairs: str | None = None
    """The name of a shipped list, or a file."""
    word: str | None = None
    name: str | None = None
    """In the library, and between the brackets of the placeholder."""
    steps: int | None = None
    lr: float | None = None
    theta: str | None = None
    encoders: str | None = None
    sampling: str | None = None
    restarts: int | None = None
    init: str | None = None
    precision: str = "fp32"
    """Number format of the frozen text encoders; the vectors are always fp32."""
    sets: Sequence[str] = ()
    """`key=value` texts."""
    seed: int = 0
    device: str = "auto"
    vram_gib: float | None = None
    """Most memory of the device to take; below 0 what stays free."""
    report: Path | None = None
    """Folder of the report. None: `out/learn/` and the name."""
    has_report: bool = True
    replace: bool = False
    """Give the name to the new token where another one has it."""
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
class Lesson:
    """What is to be learned, settled."""

    name: str
    """In the library."""
    word: str
    """The placeholder, with brackets."""
    literal: str
    """The plain word that is redefined."""
    facts: BaseFacts
    preset: str
    method: str
    module: ModuleType
    spec: Any
    settings: Mapping[str, Any]
    """The Spec as plain JSON data."""
    pairs: PairList
    seed: int
    precision: str
    recipe: Mapping[str, Any]
    """All that decides the token, apart from the stack."""
    run: str
    """Digest of the recipe."""
    folder: Path | None
    """Of the report."""

    @property
    def base_label(self) -> str:
        """The base without the folders above it: reports tell no paths."""
        return label(self.facts)


def settle(request: LearnRequest) -> Lesson:
    """What is to be learned, with every check that needs no torch.

    Raises InputError, PresetError, UnknownName, UnsafeName, ArtefactError; the places of faults are
    those of the preset, or flags.
    """
    check_seed(request.seed)
    facts = resolve(request.base)
    preset = load_preset("learn", request.preset)
    method = preset.method
    check_method(method, facts)
    module = registry.get("methods", method)
    # How a mixture is worded belongs to the base; a preset, flag or `--set` may say otherwise.
    own = registry.describe("backbones", facts.backbone).facts.get("MIXTURE_TEMPLATE")
    has_template = own and "template" in registry.describe("methods", method).spec
    values = {"template": own, **preset.values} if has_template else preset.values
    given = {key: getattr(request, key) for key in FLAGS}
    has_name = "name" in registry.describe("methods", method).spec
    if request.word is not None and request.name is None and has_name:
        given["name"] = request.word
    spec = build_settings(module.Spec, values, preset, given, request.sets)
    check_encoders(spec, facts)
    chosen = request.pairs or preset.source
    if chosen == "auto":
        chosen = "bestiary" if facts.backbone == "bestiary" else "real-world"
    pairs = load_pairs(chosen)
    check_templates(spec, pairs, method)
    name = str(getattr(spec, "name", "") or preset.name)
    try:
        check_name(name)
    except UnsafeName as error:
        raise UnsafeName(f"--name: {error}") from None
    settings = plain(asdict(spec))
    recipe = {
        "method": method,
        "settings": settings,
        "pairs": pairs.digest,
        "base": facts.digest,
        "precision": request.precision,
        "seed": request.seed,
    }
    folder = (request.report or Path("out") / "learn" / name) if request.has_report else None
    lesson = Lesson(
        name=name,
        word=f"<{name}>",
        literal=str(getattr(spec, "word", name)),
        facts=facts,
        preset=preset.name,
        method=method,
        module=module,
        spec=spec,
        settings=settings,
        pairs=pairs,
        seed=request.seed,
        precision=request.precision,
        recipe=recipe,
        run=run_digest(recipe),
        folder=folder,
    )
    check_free(lesson, replace=request.replace)
    return lesson


def check_seed(seed: int) -> None:
    """A seed that generators take."""
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed: found {seed}, expected a number from 0 to 2^63 - 1")


def check_method(name: str, facts: BaseFacts, verb: str = "learn") -> None:
    """The method exists, has the verb, and the base has the sides that it needs."""
    described = registry.describe("methods", name)
    if described.broken:
        raise InputError(f"method {name}: the plug-in cannot be read: {described.broken}")
    if verb not in described.facts.get("VERBS", ()):
        lacks = {
            "learn": "does not learn tokens",
            "fuse": "trains no networks",
            "explore": "looks for nothing",
        }[verb]
        raise InputError(f"method {name} {lacks}; choose another --preset")
    needs = [side for side in described.facts.get("NEEDS", ()) if side != "labels"]
    missing = [side for side in needs if side not in _sides(facts.backbone)]
    if missing:
        able = [each for each in registry.names("backbones") if set(needs) <= _sides(each)]
        raise InputError(
            f"method {name} needs {', '.join(missing)}, which base {facts.name} does not have; "
            f"choose another --base: {', '.join(able) or 'none has it'}"
        )


def _sides(backbone: str) -> set[str]:
    return set(registry.describe("backbones", backbone).facts.get("SIDES", ()))


def build_settings(
    spec_class: type[Any],
    values: Mapping[str, Any],
    preset: Preset,
    flags: Mapping[str, Any],
    sets: Sequence[str],
) -> Any:
    """The Spec of a method: default < preset < flag < `--set`, each value faulted at its place.
    Flags that are None were not given.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    own = config.parse_set(sets)
    merged = {**values, **given, **own}
    for key, value in merged.items():
        flag = f"--set {key}" if key in own else ""
        flag = flag or (f"--{key.replace('_', '-')}" if key in given else "")
        where = flag or preset.places.get(key, f"{preset.path}:1:1")
        try:
            config.build_spec(spec_class, {key: value}, where=where)
        except SheetError as error:
            if not flag:
                raise
            said = "; ".join(problem.message for problem in error.problems)
            raise InputError(f"{flag}: {said.removeprefix(f'{key}: ')}") from None
    return config.build_spec(spec_class, merged, where=f"{preset.path}:1:1")


def check_encoders(spec: Any, facts: BaseFacts) -> None:
    """The encoders that are asked for are those of the base."""
    known = [name for name, _ in facts.encoders]
    for name in getattr(spec, "encoders", ()) if known else ():
        if name not in known:
            hint = registry.did_you_mean(name, known) or f"it has {', '.join(known)}"
            raise UnknownName(f"--encoders: base {facts.name} has no encoder {name!r}; {hint}")


def check_templates(spec: Any, pairs: PairList, method: str) -> None:
    """The prompts of the settings use `{word}` and the slots of the pairs, nothing else."""
    known = ("word", *pairs.slots)
    for key in TEMPLATES:
        for slot in re.findall(r"\{([^{}]*)\}", str(getattr(spec, key, ""))):
            if slot not in known:
                hint = registry.did_you_mean(slot, known)
                raise InputError(
                    f"{method}: {key} has {{{slot}}}, but the pairs {pairs.name} have "
                    f"{', '.join(pairs.slots)}{'; ' + hint if hint else ''}; "
                    f"change the pairs, or --set {key}=..."
                )


def check_free(lesson: Lesson, *, replace: bool) -> None:
    """The name is free, or belongs to the token of this very run."""
    entry = stored(lesson.name)
    if entry is None or replace or entry.header.metadata.get(RUN_KEY) == lesson.run:
        return
    raise InputError(
        f"the token library has another token {lesson.name} (stored {entry.added[:10]}); "
        "choose another --name, or --replace it"
    )


def stored(name: str) -> Entry | None:
    """The token that has a name; None for a free one."""
    library = Library()
    if name not in library.names():
        return None
    try:
        return library.find(name)
    except TokenMissing:
        return None


def plain(value: Any) -> Any:
    """Tuples become lists and paths text, so that a Spec is plain JSON."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return str(value) if isinstance(value, Path) else value


def outline(lesson: Lesson) -> dict[str, Any]:
    """What would be learned, for people and as JSON data."""
    pairs, facts = lesson.pairs, lesson.facts
    return {
        "word": lesson.word,
        "stands for": lesson.literal,
        "library name": lesson.name,
        "base": f"{lesson.base_label} ({facts.digest}, licence {facts.licence})",
        "preset": lesson.preset,
        "method": lesson.method,
        "settings": dict(lesson.settings),
        "precision": lesson.precision,
        "seed": lesson.seed,
        "pairs": f"{pairs.name} ({pairs.digest})",
        "learned from": len(pairs.train),
        "held out": {group: len(rows) for group, rows in pairs.held_out.items()},
        "report": str(lesson.folder) if lesson.folder else "none",
    }
