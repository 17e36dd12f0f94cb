"""Which scorers `creatok sample --score` asks: names and settings become a recipe, without torch.

A scorer is written `NAME`, or `NAME:KEY=VALUE,KEY=VALUE`. What it needs and is not told comes from
the base: its CLIP towers, the classes of its list. The recipe names what is read by digests, so
that equal recipes give equal figures on every machine.

Does not: open a model, or choose by taste.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli import __version__, registry
from creatok_cli.backbones._vet import DigestCache
from creatok_cli.concepts.classes import load_classes
from creatok_cli.config import build_spec
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, InputError, PresetError, UnknownName
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.registry import did_you_mean
from creatok_cli.scorers._choice import TOWERS, labeler_for
from creatok_cli.strict_text import shown
from creatok_cli.workflows._labeler import PARTS, PLACE, model_digest

_SETTING = re.compile(r",(?=[a-z_]+=)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A scorer, settled."""

    name: str
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any]
    """Name, settings and digests of what it reads; no path."""
    gives: tuple[str, ...]
    measures_only: bool = False

    @property
    def id(self) -> str:
        """64 hex digits: equal ones give equal figures."""
        return sha256_hex(canonical_json(self.recipe))

    @property
    def where(self) -> str:
        """For messages."""
        return f"--score {self.name}"

    def check(self) -> None:
        """Raises InputError for a setting that cannot be. Imports the scorer."""
        self._spec(self.settings)

    def build(self, device: str) -> Any:
        """The open scorer. Raises InputError, ArtefactError."""
        settings = dict(self.settings)
        if "device" in registry.describe("scorers", self.name).spec:
            settings.setdefault("device", device)
        return registry.get("scorers", self.name).build(self._spec(settings))

    def _spec(self, settings: Mapping[str, Any]) -> Any:
        try:
            found = registry.get("scorers", self.name).Spec
            return build_spec(found, settings, where=self.where)
        except PresetError as error:
            told = "; ".join(problem.message for problem in error.problems)
            raise InputError(f"{self.where}: {told}") from None


def ask_scores(texts: Sequence[str], bases: Sequence[BaseFacts], out: Path) -> tuple[Asked, ...]:
    """The scorers of `NAME` and `NAME:KEY=VALUE,KEY=VALUE` texts; no torch.

    Towers are those of the first base that has some, classes those of its list, unless the text
    names others. Raises UnknownName, InputError, ArtefactError.
    """
    found: dict[str, Asked] = {}
    for text in texts:
        name, _, rest = text.partition(":")
        facts = registry.describe("scorers", name)
        gives = tuple(str(each) for each in facts.facts.get("GIVES", ("scores",)))
        if not {"scores", "sets"} & set(gives):
            raise InputError(
                f"--score {shown(name)}: it says what pictures show, and gives no figure; "
                "--score labels shows what a labeler sees"
            )
        if name in found:
            raise InputError(f"--score {shown(name)}: given twice")
        settings = _settings(name, rest, facts.spec, bases)
        found[name] = Asked(
            name=name,
            settings=settings,
            recipe=_recipe(name, settings, bases, out),
            gives=gives,
            measures_only=bool(facts.facts.get("MEASURES_ONLY")),
        )
    return tuple(found.values())


def ask_towers(texts: Sequence[str], bases: Sequence[BaseFacts], out: Path) -> Asked | None:
    """CLIP towers that embed pictures: those that the first of the scorers looks with, else the
    base's own; None where there are none.
    """
    for asked in ask_scores(texts, bases, out):
        if {*PARTS, "folder"} <= asked.settings.keys():
            settings = {key: asked.settings[key] for key in ("folder", *PARTS)}
            recipe = _recipe("clip", settings, bases, out)
            return Asked(name="clip", settings=settings, recipe=recipe, gives=("scores",))
    with suppress(ArtefactError):
        return ask_scores(("clip",), bases, out)[0]
    return None


def _settings(
    name: str, text: str, spec: Mapping[str, Any], bases: Sequence[BaseFacts]
) -> dict[str, Any]:
    where = f"--score {shown(name)}"
    given: dict[str, Any] = {}
    for item in _SETTING.split(text) if text else ():
        key, equals, value = item.partition("=")
        if not equals or key in given:
            raise InputError(
                f"{where}: found {shown(item)}, expected KEY=VALUE, each once; for example "
                "--score novelty:baseline=out/first-creatures"
            )
        if key not in spec:
            hint = did_you_mean(key, spec) or f"there are {', '.join(spec)}"
            raise UnknownName(f"{where}: unknown setting {shown(key)}; {hint}")
        given[key] = value
    if "baseline" in spec and not given.get("baseline"):
        raise InputError(
            f"{where}: say what to be different from, a folder of pictures such as an earlier "
            f"output folder: --score {name}:baseline=DIR"
        )
    if {*PARTS, "folder"} <= spec.keys() and given.get("labeler", "clip") == "clip":
        given = {**_towers(name, given, bases), **given}
    if "classes" in spec and "classes" not in given:
        on_bestiary = any(facts.backbone == "bestiary" for facts in bases)
        known = load_classes("bestiary" if on_bestiary else "real-world")
        given["classes"] = known.classes
        if "question" in spec:
            given.setdefault("question", known.question)
    for key in ("folder", "baseline"):
        if given.get(key) and not Path(given[key]).is_dir():
            raise InputError(f"{where}: {key}={shown(str(given[key]))}: no such folder")
    return {key: value for key, value in given.items() if key in spec}


def _towers(name: str, given: Mapping[str, Any], bases: Sequence[BaseFacts]) -> dict[str, Any]:
    """Which CLIP towers look, where the user has not said it all."""
    if given.get("folder"):
        folder = Path(str(given["folder"]))
        parts = TOWERS[0] if all((folder / each).is_dir() for each in TOWERS[0]) else ("", "", "")
        return {key: (part,) for key, part in zip(PARTS, parts, strict=True)}
    for facts in bases:
        with suppress(ArtefactError):
            return labeler_for(facts)[1]
    names = ", ".join(dict.fromkeys(facts.name for facts in bases))
    raise ArtefactError(
        f"--score {name}: base {names} holds no CLIP image towers; fetch a CLIP model, such as "
        f"openai/clip-vit-large-patch14, and name its folder: --score {name}:folder=DIR"
    )


def _recipe(
    name: str, settings: Mapping[str, Any], bases: Sequence[BaseFacts], out: Path
) -> dict[str, Any]:
    recipe: dict[str, Any] = {"name": name, "version": __version__}
    recipe["settings"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in sorted(settings.items())
        if key not in PLACE and key != "baseline"
    }
    folder = settings.get("folder")
    if folder:
        own = {facts.folder: facts.digest for facts in bases}
        known = own.get(str(folder))
        recipe["model"] = known or model_digest(Path(folder), settings, name)
    if settings.get("baseline"):
        recipe["baseline"] = _baseline_digest(name, Path(settings["baseline"]), out)
    return recipe


def _baseline_digest(name: str, folder: Path, out: Path) -> str:
    """`sha256:` over names and contents of its pictures."""
    from creatok_cli.scorers._baseline import picture_files

    there, here = folder.resolve(), out.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise InputError(
            f"--score {name}: the baseline {folder} and the output folder {out} lie in one "
            "another: pictures would be compared with themselves"
        )
    cache, files = DigestCache(), picture_files(folder)
    if not files:
        raise InputError(f"--score {name}: {folder}: there is no picture to be different from")
    lines = "".join(
        f"{path.relative_to(folder).as_posix()}\0{cache.digest(path)}\n" for path in files
    )
    cache.save()
    return f"sha256:{sha256_hex(lines)}"
