"""Pictures that jobs begin from: the files that a sheet names, each read once and found sound.

A sheet names files of its own folder alone, so that a sheet from somewhere else draws nothing from
the rest of a machine; what is given with `--set init_image` may lie anywhere, and is relative to
the working directory.

Does not: keep a picture (`render.py` reads it again and compares its digest), or know bases.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from creatok_cli.errors import InputError
from creatok_cli.plan._combine import assignments
from creatok_cli.plan._resolve import check_amount
from creatok_cli.plan._template import fill
from creatok_cli.plan.sheet import Sheet
from creatok_cli.registry import did_you_mean
from creatok_cli.strict_picture import PictureFile, check_picture
from creatok_cli.strict_text import Problems, neighbours, shown

_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def load_pictures(sheet: Sheet) -> dict[str, PictureFile]:
    """Every picture that the jobs of a sheet begin from, by its path with the variables filled in.

    Raises SheetError, at the place of the path.
    """
    check_amount(sheet)
    problems = Problems()
    found: dict[str, PictureFile] = {}
    for text, row in picture_rows(sheet).items():
        hint = ""
        try:
            path = _place(sheet, text)
            if not os.path.lexists(path):
                hint = did_you_mean(path.name, neighbours(path))
            found[text] = check_picture(path, shown(text))
        except InputError as error:
            message = f"init_image: {error}"
            problems.keep(sheet.setting_problem(row, "init_image", "bad-picture", message, hint))
    problems.check()
    return found


def picture_rows(sheet: Sheet) -> dict[str, int]:
    """Each path with its variables filled in, and the first job that begins from it."""
    found: dict[str, int] = {}
    for row, entry in enumerate(sheet.jobs):
        written = sheet.setting(row, "init_image", None)
        if written is None:
            continue
        constants = {**sheet.head.vars, **entry.vars}
        for assignment in assignments(entry) if "{" in written else ((),):
            found.setdefault(fill(written, {**constants, **dict(assignment)}), row)
    return found


def _place(sheet: Sheet, text: str) -> Path:
    """Where a picture lies. Raises InputError for a place that a sheet may not name."""
    if _ADDRESS.match(text):
        raise InputError(
            f"{shown(text)} is an address; creatok does not download: save the picture in the "
            "sheet's folder"
        )
    if "init_image" in sheet.overrides.model_fields_set:
        return Path(os.path.expanduser(text))
    folder = os.path.realpath(sheet.folder)
    path = sheet.folder / text
    is_relative = not Path(text).is_absolute() and not text.startswith("~")
    if not is_relative or not Path(os.path.realpath(path)).is_relative_to(folder):
        raise InputError(
            f"{shown(text)} lies outside the sheet's folder; copy it there, or give it with "
            "--set init_image=PATH"
        )
    return path
