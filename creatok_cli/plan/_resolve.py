"""Settings of every entry, checked against its base; how many pictures, and their seeds.

Does not: fill prompts, or make jobs (`expand.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from creatok_cli.domain import BaseFacts
from creatok_cli.errors import Problem, TokenMissing
from creatok_cli.plan._combine import exclusions, prompt_count
from creatok_cli.plan._model import Entry, Settings
from creatok_cli.plan.sheet import MAX_PICTURES, Sheet
from creatok_cli.registry import describe, did_you_mean, names
from creatok_cli.seeds import derive
from creatok_cli.strict_text import At, Problems, shown

MAX_EXCLUSION_CHECKS = 5_000_000
STRENGTH = 0.6
"""Of jobs that begin from a picture (diffusers' img2img of SD3 and FLUX)."""
_OVERRIDES = frozenset(Settings.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sheet entry with all its settings resolved."""

    index: int
    entry: Entry
    settings: Mapping[str, Any]
    """Fields of `Job` that all pictures of the entry share."""
    negative: str | None
    picture: str | None
    """`init_image`, as written."""
    seeds: tuple[int, ...]


class Resolver:
    """Settings of every entry: `--set`, else its own, else the sheet's, else the base's."""

    def __init__(
        self,
        sheet: Sheet,
        bases: Mapping[str, BaseFacts],
        loras: Mapping[str, str],
        dtype: str | None,
        problems: Problems,
    ) -> None:
        self.sheet = sheet
        self.loras = loras
        self.bases = bases
        self.dtype = dtype
        self.problems = problems
        self.plain: dict[str, Any] | None = None
        """Settings of the entries that override nothing."""

    def row(self, index: int) -> Row:
        """One entry, resolved. What does not fit its base is collected."""
        entry = self.sheet.jobs[index]
        is_plain = _OVERRIDES.isdisjoint(entry.model_fields_set)
        if is_plain and self.plain is not None:
            settings = self.plain
        else:
            settings = self.settings(index)
            if is_plain:
                self.plain = settings
        return Row(
            index=index,
            entry=entry,
            settings={
                **settings,
                "row": self.sheet.row_ids[index],
                "where": self.sheet.where(index),
                "tags": tuple(entry.tags),
                "weights": self.weights(index),
                "options": self.sheet.options_of(index),
            },
            negative=self.sheet.setting(index, "negative", None),
            picture=self.sheet.setting(index, "init_image", None),
            seeds=picture_seeds(self.sheet, index),
        )

    def weights(self, index: int) -> tuple[tuple[str, float], ...]:
        """(digest, scale) of each LoRA of an entry."""
        worn = self.sheet.loras_of(index)
        for lora in worn:
            if lora.path not in self.loras:
                raise TokenMissing(
                    f"{self.sheet.where(index)}: the LoRA {lora.path} was not loaded"
                )
        return tuple((self.loras[lora.path], lora.scale) for lora in worn)

    def settings(self, index: int) -> dict[str, Any]:
        """Checked against the base; empty when there is no such base."""
        sheet, problems = self.sheet, self.problems
        name = sheet.base_of(index)
        facts = self.bases.get(name)
        if facts is None:
            problems.add(lambda: sheet.unknown_base(index, self.bases))
            return {}
        size = sheet.setting(index, "size", facts.size_px)
        multiple = facts.size_multiple
        if any(side % multiple for side in size):
            message = f"size: found {size[0]}x{size[1]}, but {name} needs multiples of {multiple}"
            near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
            hint = f"the nearest size is {near}"
            problems.add(lambda: sheet.setting_problem(index, "size", "bad-size", message, hint))
        scheduler = sheet.setting(index, "scheduler", facts.schedulers[0])
        if scheduler not in facts.schedulers:
            problems.add(lambda: self.unknown_scheduler(index, scheduler, facts))
        has_picture = sheet.setting(index, "init_image", None) is not None
        if has_picture and not facts.can_start:
            problems.add(lambda: self.cannot_start(index, facts))
        return {
            "base": name,
            "base_digest": facts.digest,
            "size_px": size,
            "steps": sheet.setting(index, "steps", facts.steps),
            "guidance": float(sheet.setting(index, "guidance", facts.guidance)),
            "scheduler": scheduler,
            "dtype": self.dtype or sheet.setting(index, "dtype", facts.dtype),
            "strength": sheet.setting(index, "strength", STRENGTH) if has_picture else None,
        }

    def unknown_scheduler(self, index: int, found: str, facts: BaseFacts) -> Problem:
        there = ", ".join(facts.schedulers)
        message = f"scheduler: {facts.name} has no {shown(found)}, expected {there}"
        hint = did_you_mean(found, facts.schedulers)
        return self.sheet.setting_problem(index, "scheduler", "unknown-scheduler", message, hint)

    def cannot_start(self, index: int, facts: BaseFacts) -> Problem:
        message = f"init_image: base {facts.name} cannot begin from a picture"
        able = [name for name in names("backbones") if _can_start(name)]
        hint = f"bases of these families can: {', '.join(able)}"
        return self.sheet.setting_problem(index, "init_image", "cannot-start", message, hint)


def _can_start(backbone: str) -> bool:
    own = describe("backbones", backbone).facts
    family = describe("backbones", str(own["ADAPTER"])).facts if "ADAPTER" in own else own
    return bool(family.get("CAN_START"))


def check_amount(sheet: Sheet) -> None:
    """Raises SheetError when a sheet asks for too much, before any of it is made."""
    problems = Problems()
    total = 0
    for index, entry in enumerate(sheet.jobs):
        prompts = prompt_count(entry)
        total += prompts * picture_count(sheet, index)
        path: At = ("jobs", index)
        if total > MAX_PICTURES:
            message = f"up to this job the sheet has {total} pictures; {MAX_PICTURES} are allowed"
            problems.keep(sheet.problem(path, "too-many-jobs", message, "split the sheet"))
            break
        if entry.exclude and prompts * len(exclusions(entry)) > MAX_EXCLUSION_CHECKS:
            message = "exclude: too many different sets of variables for so many combinations"
            problems.keep(sheet.problem((*path, "exclude"), "too-many-jobs", message))
    problems.check()


def picture_count(sheet: Sheet, index: int) -> int:
    """Pictures per prompt: `--set count`, else the exact seeds, else count."""
    exact = len(sheet.jobs[index].seeds)
    return int(sheet.overrides.count or exact or sheet.setting(index, "count", 1))


def picture_seeds(sheet: Sheet, index: int) -> tuple[int, ...]:
    """Seeds of one prompt's pictures.

    `--set count` cuts or extends exact seeds, `--set seed` replaces them.
    """
    exact: Sequence[int] = sheet.jobs[index].seeds if sheet.overrides.seed is None else ()
    count = picture_count(sheet, index)
    seed, row_id = sheet.setting(index, "seed", 0), sheet.row_ids[index]
    return (*exact[:count], *(derive(seed, row_id, at) for at in range(len(exact), count)))
