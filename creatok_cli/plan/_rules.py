"""The rules between the keys of a sheet that need no base: variables, seeds, ids, the output name.

Every rule is a function that collects problems; none stops the others.

Does not: expand products (`expand.py`) or check single values (`_fields.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from creatok_cli.errors import UnsafeName
from creatok_cli.plan import names
from creatok_cli.plan._template import TemplateFault, fields
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_text import At, Problems, shown

if TYPE_CHECKING:
    from creatok_cli.plan._model import Entry, Lora
    from creatok_cli.plan.sheet import Sheet

_NO_PICTURE = "strength needs init_image: there is no picture to begin from"


def check_rules(sheet: Sheet) -> None:
    """Raises SheetError with all that is wrong between the keys of a sheet."""
    checks = _Checks(sheet)
    checks.name()
    checks.ids()
    checks.loras((), sheet.head.loras)
    used: set[str] = set()
    for row in range(len(sheet.jobs)):
        used.update(checks.variables(row))
        checks.seeds(row)
        checks.strength(row)
        checks.loras(("jobs", row), sheet.jobs[row].loras)
    checks.common_strength()
    if sheet.has_columns:
        checks.columns(used)
    checks.problems.check()


class _Checks:
    """The rules of one sheet, and what they found."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.problems = Problems()

    def say(
        self,
        path: At,
        slug: str,
        message: str,
        *,
        near: tuple[str, Iterable[str]] | None = None,
        otherwise: str = "",
        key: bool = False,
    ) -> None:
        """Collect one problem; the nearest name is only looked for while there is room."""

        def word() -> str:
            return (did_you_mean(*near) if near else "") or otherwise

        self.problems.add(lambda: self.sheet.problem(path, slug, message, word(), key=key))

    def say_text(
        self, row: int, key: str, slug: str, message: str, near: tuple[str, list[str]] | None = None
    ) -> None:
        """Collect a problem with a prompt or negative, where that text was given."""
        otherwise = ""
        if near:
            declared = ", ".join(near[1][:10])
            otherwise = f"there are {declared}" if declared else "none is declared"
        if key == "prompt":
            self.say(("jobs", row, key), slug, message, near=near, otherwise=otherwise)
            return
        hint = (did_you_mean(*near) if near else "") or otherwise
        self.problems.add(lambda: self.sheet.setting_problem(row, key, slug, message, hint))

    def name(self) -> None:
        template = self.sheet.head.name
        if template is None:
            return
        try:
            names.check_template(template)
        except TemplateFault as fault:
            self.say(("name",), "bad-template", f"name: {fault.message}")
        except UnsafeName as fault:
            self.say(("name",), "unsafe-name", f"name: {fault}")

    def ids(self) -> None:
        first: dict[str, int] = {}
        for row, entry in enumerate(self.sheet.jobs):
            if entry.id is None:
                continue
            earlier = first.setdefault(entry.id, row)
            if earlier != row:
                message = f"this id is used already, at {self.sheet.where(earlier)}"
                self.say(("jobs", row, "id"), "duplicate-id", message)

    def loras(self, prefix: At, loras: Sequence[Lora]) -> None:
        first: dict[str, int] = {}
        for index, lora in enumerate(loras):
            if first.setdefault(lora.path, index) != index:
                message = f"loras: {shown(lora.path)} is listed twice"
                path = (*prefix, "loras", index, "path")
                self.say(path, "conflict", message, otherwise="add their scales")

    def seeds(self, row: int) -> None:
        entry = self.sheet.jobs[row]
        if not entry.seeds:
            return
        for key in ("seed", "count"):
            if key in entry.model_fields_set:
                message = f"seeds and {key} exclude each other: seeds lists one seed per picture"
                self.say(("jobs", row, key), "conflict", message, key=True)
        if len(set(entry.seeds)) != len(entry.seeds):
            seen: set[int] = set()
            twice = next(seed for seed in entry.seeds if seed in seen or seen.add(seed))  # type: ignore[func-returns-value]
            self.say(("jobs", row, "seeds"), "duplicate-seed", f"seeds: {twice} is listed twice")

    def strength(self, row: int) -> None:
        entry = self.sheet.jobs[row]
        is_own = "strength" in entry.model_fields_set
        if is_own and self.sheet.setting(row, "init_image", None) is None:
            self.say(("jobs", row, "strength"), "conflict", _NO_PICTURE, key=True)

    def common_strength(self) -> None:
        """A strength for all jobs wants one of them to begin from a picture."""
        rows = range(len(self.sheet.jobs))
        if any(self.sheet.setting(row, "init_image", None) is not None for row in rows):
            return
        if "strength" in self.sheet.overrides.model_fields_set:
            self.problems.add(
                lambda: self.sheet.setting_problem(0, "strength", "conflict", _NO_PICTURE)
            )
        elif "strength" in self.sheet.head.defaults.model_fields_set:
            self.say(("defaults", "strength"), "conflict", _NO_PICTURE, key=True)

    def variables(self, row: int) -> Collection[str]:
        """Check declarations against uses; the names that prompt and negative use."""
        entry = self.sheet.jobs[row]
        prompt = self.uses(row, "prompt", entry.prompt)
        negative = self.uses(row, "negative", self.sheet.setting(row, "negative", None))
        picture = self.uses(row, "init_image", self.sheet.setting(row, "init_image", None))
        if prompt is None or negative is None or picture is None:
            return (*(prompt or ()), *(negative or ()), *(picture or ()))
        used = {*prompt, *negative, *picture}
        axes = {**entry.matrix, **entry.zip}
        if not (used or axes or entry.vars or entry.include or entry.exclude):
            return used
        self.declared_once(row, entry)
        if entry.exclude:
            self.exclude(row, axes)
        constants = {*self.sheet.head.vars, *entry.vars}
        if axes or not entry.include:
            self.known(row, "prompt", prompt, {*axes, *constants})
            self.known(row, "negative", negative, {*axes, *constants})
            self.known(row, "init_image", picture, {*axes, *constants})
        self.include(row, used, constants)
        for key, declared in (("matrix", entry.matrix), ("zip", entry.zip), ("vars", entry.vars)):
            if key != "vars" or not self.sheet.has_columns:
                for name in declared:
                    self.is_used(("jobs", row, key, name), used)
        return used

    def uses(self, row: int, key: str, text: str | None) -> tuple[str, ...] | None:
        try:
            return fields(text) if text else ()
        except TemplateFault as fault:
            self.say_text(row, key, "bad-template", f"{key}: {fault.message}")
            return None

    def known(self, row: int, key: str, used: Iterable[str], declared: set[str]) -> None:
        for name in used:
            if name not in declared:
                message = f"{key}: unknown variable {shown('{' + name + '}')}"
                self.say_text(row, key, "unknown-variable", message, (name, sorted(declared)))

    def is_used(self, path: At, used: set[str]) -> None:
        name = str(path[-1])
        if name not in used:
            message = (
                f"{path[2]}: no prompt, negative or init_image uses the variable {shown(name)}"
            )
            otherwise = f"write {{{name}}} where it belongs, or remove it"
            near = (name, sorted(used))
            self.say(path, "unused-variable", message, near=near, otherwise=otherwise, key=True)

    def declared_once(self, row: int, entry: Entry) -> None:
        for key, declared, others in (
            ("zip", entry.zip, {"matrix": entry.matrix}),
            ("vars", entry.vars, {"matrix": entry.matrix, "zip": entry.zip}),
        ):
            for name in declared:
                for other, there in others.items():
                    if name in there:
                        message = f"the variable {shown(name)} is in {key} and in {other}"
                        self.say(("jobs", row, key, name), "conflict", message, key=True)
        lengths = {name: len(values) for name, values in entry.zip.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} has {count}" for name, count in list(lengths.items())[:10])
            message = f"zip: the lists must have one length: {found}"
            self.say(("jobs", row, "zip"), "zip-length", message, key=True)

    def include(self, row: int, used: set[str], constants: set[str]) -> None:
        for position, combination in enumerate(self.sheet.jobs[row].include):
            path = ("jobs", row, "include", position)
            missing = used - combination.keys() - constants
            if missing:
                name = min(missing)
                message = f"include: this combination gives {{{name}}} no value"
                self.say(path, "unknown-variable", message)
            for name in combination:
                self.is_used((*path, name), used)

    def exclude(self, row: int, axes: dict[str, list[str]]) -> None:
        values = {name: set(members) for name, members in axes.items()}
        for position, combination in enumerate(self.sheet.jobs[row].exclude):
            for name, value in combination.items():
                path = ("jobs", row, "exclude", position, name)
                if name not in axes:
                    message = f"exclude: {shown(name)} is not a variable of matrix or zip"
                    self.say(path, "unknown-variable", message, near=(name, axes), key=True)
                elif value not in values[name]:
                    message = f"exclude: {shown(value)} is not a value of {shown(name)}"
                    self.say(path, "unknown-value", message, near=(value, axes[name]))

    def columns(self, used: set[str]) -> None:
        """A column that no prompt uses is a misspelt setting until proven otherwise."""
        reported: set[str] = set()
        for row, entry in enumerate(self.sheet.jobs):
            for name in entry.vars.keys() - used - reported:
                reported.add(name)
                message = f"unknown column {shown(name)}: no prompt uses {{{name}}}"
                near = (name, [*type(entry).model_fields, *sorted(used)])
                self.say(("jobs", row, "vars", name), "unknown-key", message, near=near, key=True)
