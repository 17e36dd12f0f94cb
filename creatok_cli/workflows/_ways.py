"""The ways of finished searches as figures: a strip of each, the map of all, the arousal report.

Figures are derived from `explore.json` and the pictures of the checks alone, so they can be made
again after a stop. What a method does not tell is left out.

Does not: search, or draw pictures of finds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli.workflows._course import label
from creatok_cli.workflows._finds import Find, Finds
from creatok_cli.workflows._quest import Pursuit
from creatok_cli.workflows._strip import draw_strip, frames_of, rarity_text

if TYPE_CHECKING:
    from creatok_cli.methods.base import Artefact
    from creatok_cli.workflows._checks import Check

CLOUD, AROUSAL = "cloud.png", "arousal.png"
SHOWN = ("rarity", "distance", "cosine", "loss")
"""Facts of a method that are shown of a find, where they are numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One finished search."""

    number: int
    find: Find
    checks: Sequence[Check]
    """One picture of each, all with the same seed."""
    accepted: Mapping[int, bool]
    """By steps done."""


def strip_name(number: int) -> str:
    """The file of a strip."""
    return f"strip-{number:02d}.png"


def accepted_of(checks: Sequence[Check], facts: Mapping[str, Any]) -> dict[int, bool]:
    """Which checks were accepted: what the method says, else where the validator said yes."""
    found = {each.index: each.p_yes is None or each.p_yes >= 0.5 for each in checks}
    for said in listed(facts.get("checks")):
        index, is_accepted = said.get("index", said.get("step")), verdict(said)
        if isinstance(index, int) and is_accepted is not None:
            found[index] = is_accepted
    return found


def verdict(said: Mapping[str, Any]) -> bool | None:
    """Whether a check was accepted; None where the method does not say."""
    found = said.get("is_accepted", said.get("accepted"))
    return None if found is None else bool(found)


def listed(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list that comes from a file."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def numbers_of(artefact: Artefact) -> dict[str, float | str]:
    """What people are shown of a find: its numbers, what the validator said of it last, and how the
    search ended.
    """
    own = artefact.facts.get("values")
    said = {name: artefact.facts.get(name) for name in SHOWN}
    answers = [
        each.get("yes", each.get("p_yes"))
        for each in listed(artefact.facts.get("checks"))
        if verdict(each)
    ]
    said["validity"] = next((each for each in reversed(answers) if each is not None), None)
    said |= own if isinstance(own, Mapping) else {}
    found: dict[str, float | str] = {
        name: round(float(value), 6)
        for name, value in said.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return {**found, "ended": artefact.ended}


def write_figures(
    pursuit: Pursuit, finds: Finds, ways: Sequence[Way], *, is_new: bool
) -> tuple[Path, ...]:
    """Writes what there is to see; what is there already is made again only if something is new."""
    wanted = {strip_name(way.number): way for way in ways if way.checks}
    names = [*wanted]
    sights = sights_of(ways)
    has_cloud = any(isinstance(way.find.facts.get("cloud"), Mapping) for way in ways)
    names += [CLOUD] if has_cloud else []
    names += [AROUSAL] if sights else []
    if is_new or not all((pursuit.folder / name).is_file() for name in names):
        for name, way in wanted.items():
            finds.write(name, strip_bytes(pursuit, way))
        if has_cloud:
            finds.write(CLOUD, cloud_bytes(pursuit, ways))
        if sights:
            finds.write(AROUSAL, arousal_bytes(pursuit, ways))
    return tuple(pursuit.folder / name for name in names)


def strip_bytes(pursuit: Pursuit, way: Way) -> bytes:
    """The strip of a search."""
    values, ended = way.find.values, way.find.facts.get("ended", "")
    notes = [pursuit.what, f"{way.find.facts.get('steps', 0):,} steps", f"ended: {ended}"]
    if isinstance(values.get("rarity"), float):
        notes.append(f"rarity {rarity_text(float(values['rarity']))} on fresh seeds")
    frames = frames_of(way.checks, way.accepted)
    facts = pursuit.facts
    return draw_strip(
        f"{way.find.name}: the way", notes, frames, f"base {label(facts)} ({facts.licence})"
    )


def cloud_bytes(pursuit: Pursuit, ways: Sequence[Way]) -> bytes:
    """The map of all searches."""
    from creatok_cli.workflows._cloud import draw_cloud, drift_of

    drifts = [
        drift
        for way in ways
        if (drift := drift_of(way.find.name, way.find.facts.get("cloud"), last_image(way)))
    ]
    count = f"{len(drifts)} search{'' if len(drifts) == 1 else 'es'}"
    line = (
        f"{count} by {pursuit.method} on {label(pursuit.facts)}; grey: plain pictures, circle: "
        "start, diamonds: pictures of fresh seeds at the end"
    )
    return draw_cloud(f"Away from {pursuit.what}", line, drifts)


def last_image(way: Way) -> Any:
    """The last accepted picture."""
    kept = [each.image for each in way.checks if way.accepted.get(each.index, True)]
    return kept[-1] if kept else None


def sights_of(ways: Sequence[Way]) -> list[Any]:
    """The checks of which rarity is known."""
    from creatok_cli.workflows._arousal import Sight

    return [
        Sight(
            search=at,
            rarity=check.values["rarity"],
            p_yes=check.p_yes,
            cosine=check.values.get("cosine"),
            is_accepted=way.accepted.get(check.index, True),
        )
        for at, way in enumerate(ways)
        for check in way.checks
        if "rarity" in check.values
    ]


def arousal_bytes(pursuit: Pursuit, ways: Sequence[Way]) -> bytes:
    """The report of all searches."""
    from creatok_cli.workflows._arousal import draw_arousal

    goal = getattr(pursuit.spec, "rarity", None)
    sights = sights_of(ways)
    line = (
        f"{len(sights)} checks of {pursuit.what} by {pursuit.method} on {label(pursuit.facts)}; "
        "hollow: refused; line: running middle"
    )
    return draw_arousal(
        "How rare, and still valid?",
        line,
        sights,
        [way.find.name for way in ways],
        float(goal) if isinstance(goal, float | int) and goal else None,
    )
