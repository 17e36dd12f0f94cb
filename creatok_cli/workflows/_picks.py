"""The best and most different pictures of each row, copied into `picks/`.

With N wanted of a row's pictures, the N that have the largest sum of quality and difference are
sought (`scorers/_diverse`). Quality is the mean, over the scorers that were asked, of a picture's
place in its row (0 the worst, 1 the best), so that no unit outweighs another; difference is the
cosine distance of CLIP embeddings, over the largest of the row. Without scores difference alone
decides; without CLIP towers the distance is that of small thumbnails.

Copies, not links: picks are for retouching, and a saved link would change the original. A pick that
was changed by hand is never replaced or removed. `picks/picks.json` says what was chosen and why.

Does not: listen to scorers that only measure.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from creatok_cli import durable
from creatok_cli.domain import Event, Job, Notice, Plan, Stage
from creatok_cli.errors import InputError
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.sinks._ledger import Line
from creatok_cli.sinks._metadata import MAX_FILE
from creatok_cli.sinks.base import Output
from creatok_cli.sinks.manifest import trusted
from creatok_cli.workflows._asked import Asked
from creatok_cli.workflows._gathered import Row, is_shard, iter_results, rows_of
from creatok_cli.workflows._scores import ROWS, Scoring, counted

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
FOLDER = "picks"
NUMBERS = f"{FOLDER}/picks.json"
MAX_JSON = 64 << 20
WEIGHT = 1.0
"""What being as different as possible is worth beside being the best of the row (set by eye)."""
MOST = 4000
"""Pictures of a row that are compared with each other: the best of them."""
MAX_PICKS = 1000


@dataclass(slots=True, kw_only=True)
class Picking:
    """Picks of one run."""

    count: int
    """Of each row."""
    towers: Asked | None = None
    """Whose embeddings tell pictures apart; None for thumbnails."""
    device: str = "auto"
    is_stopping: Callable[[], bool] = lambda: False
    is_cut: bool = False
    """Whether a stop has left a row without picks."""
    _open: Any = None
    _sums: dict[str, str] = field(default_factory=dict)
    """sha256 of the copies that earlier runs made, by file."""

    def begin(self, plan: Plan) -> None:
        """Raises InputError for a sheet that draws into the folder of the picks."""
        for job in plan.jobs:
            if job.name.partition("/")[0].casefold() == FOLDER:
                raise InputError(
                    f"--pick: {job.where}: {job.name}.png lies in {FOLDER}/, where the picks go; "
                    "give the job another id"
                )

    def pick(self, out: Output, plan: Plan, scoring: Scoring | None) -> Iterator[Event]:
        """Chooses, copies and tells; rows that are not complete keep what was picked of them. Of
        shards the last one picks, so that none waits for another's picks.
        """
        rows = rows_of(plan, out.ledger)
        if is_shard(out) and not all(self._is_ready(row, scoring) for row in rows):
            return
        before = read_picks(out)
        self._sums = {
            pick["file"]: pick["sha256"] for row in before.values() for pick in row["picks"]
        }
        for each in scoring.asked if scoring else ():
            if each.measures_only:
                message = f"{each.name} only measures: the picks do not look at it"
                yield Notice(level="info", message=message)
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            candidates = self._candidates(row, scoring)
            old = before.get(row.name)
            if not candidates:
                if old is not None and not row.is_whole:
                    found[row.name] = old
                continue
            mark = self._mark(candidates)
            if old is not None and old["mark"] == mark:
                found[row.name] = old
                continue
            if self.is_stopping():
                self.is_cut = True
                return
            if self._open is None:
                yield Stage(name="picking", detail=f"{self.count} of each row")
            chosen = self._choose(out, candidates)
            picks = [
                {"file": line.file, "sha256": line.sha256, "quality": round(quality, 6)}
                for _, line, quality in (candidates[place] for place in chosen)
            ]
            found[row.name] = {
                "row": row.name,
                "mark": mark,
                "of": len(candidates),
                "picks": picks,
            }
        yield from self._publish(out, found)

    def _is_ready(self, row: Row, scoring: Scoring | None) -> bool:
        """Whether every shard has drawn and scored its pictures of the row."""
        names = [each.name for each in scoring.asked if "scores" in each.gives] if scoring else []
        return row.is_whole and (
            scoring is None
            or all(scoring.figures(*each).keys() >= set(names) for each in row.lines)
        )

    def _candidates(self, row: Row, scoring: Scoring | None) -> list[tuple[Job, Line, float]]:
        """(job, line, quality) of a complete row, in plan order; none while scores are missing."""
        if not row.is_whole or not row.lines:
            return []
        voices = [
            each
            for each in (scoring.asked if scoring else ())
            if "scores" in each.gives and not each.measures_only
        ]
        values: dict[str, list[float]] = {each.name: [] for each in voices}
        lines: list[tuple[Job, Line]] = []
        for job, line in row.lines:
            known = scoring.figures(job, line) if scoring and voices else {}
            if any(each.name not in known for each in voices):
                continue  # a picture that could not be read
            lines.append((job, line))
            for each in voices:
                score = known[each.name][0]
                values[each.name].append(score.value if score.better == "higher" else -score.value)
        columns = [ranks(column) for column in values.values()] or [[0.0] * len(lines)]
        means = [sum(places) / len(columns) for places in zip(*columns, strict=True)]
        found = [(job, line, quality) for (job, line), quality in zip(lines, means, strict=True)]
        if len(found) > MOST:
            best = sorted(range(len(found)), key=lambda at: (-found[at][2], at))[:MOST]
            found = [found[at] for at in sorted(best)]
        return found

    def _mark(self, candidates: Sequence[tuple[Job, Line, float]]) -> str:
        """What decides the picks of a row."""
        facts = [[line.pixels, round(quality, 9)] for _, line, quality in candidates]
        return sha256_hex(
            canonical_json([SCHEMA, self.count, WEIGHT, self.towers and self.towers.id, facts])
        )

    def _choose(
        self, out: Output, candidates: Sequence[tuple[Job, Line, float]]
    ) -> tuple[int, ...]:
        """Places among the candidates, the best first."""
        import torch

        from creatok_cli.scorers._diverse import cosine_distances, greedy_pick
        from creatok_cli.scorers._thumbs import thumbnail_distances

        places = {job.name: at for at, (job, _, _) in enumerate(candidates)}
        kept: list[int] = []
        parts: list[Tensor] = []
        for start in range(0, len(candidates), ROWS):
            jobs = [job for job, _, _ in candidates[start : start + ROWS]]
            results = list(iter_results(out, jobs))
            kept += [places[result.job.name] for result in results]
            if results:
                parts += self._looks([result.image for result in results])
        if not kept:
            return ()
        apart = (
            thumbnail_distances(parts)
            if self.towers is None
            else cosine_distances(torch.stack(parts))
        )
        apart = apart / apart.max().clamp_min(1e-9)
        quality = [candidates[at][2] for at in kept]
        return tuple(kept[at] for at in greedy_pick(quality, apart, self.count, WEIGHT))

    def _looks(self, images: Sequence[Any]) -> list[Tensor]:
        """One row per picture: an embedding, or a thumbnail."""
        from creatok_cli.scorers._thumbs import thumbnail

        if self.towers is None:
            self._open = thumbnail
            return [thumbnail(image) for image in images]
        if self._open is None:
            from creatok_cli.backbones.base import pick_device

            self._open = self.towers.build(pick_device(self.device))
        return list(self._open.pictures(images))

    def _publish(
        self, out: Output, rows: Mapping[str, dict[str, Any]]
    ) -> Generator[Event, None, None]:
        """Copies what was chosen and removes what no longer is, with a note of it on the disk."""
        chosen = [pick for row in rows.values() for pick in row["picks"]]
        files = {pick["file"] for pick in chosen}
        gone = sorted(self._sums.keys() - files)
        with trusted(NUMBERS):
            # First with what is to go, so that a stop in between forgets nothing.
            self._note(out, rows, gone)
            notes = [*self._copy(out, chosen), *self._remove(out, gone)]
            self._note(out, rows, ())
        out.picks = frozenset(files)
        yield from (Notice(level="warning", message=note) for note in notes)
        if files:
            where = out.folder / FOLDER
            yield Notice(level="info", message=f"{counted(len(files))} picked, copied to {where}")

    def _note(
        self, out: Output, rows: Mapping[str, dict[str, Any]], leaving: Sequence[str]
    ) -> None:
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "count": self.count,
            "weight": WEIGHT,
            "rows": list(rows.values()),
        }
        if leaving:
            document["leaving"] = {file: self._sums[file] for file in leaving}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        if _sum_of(out, NUMBERS) != sha256_hex(text):
            durable.replace_derived(out.folder, NUMBERS, text.encode(), writer=out.writer)

    def _copy(self, out: Output, chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        for pick in chosen:
            file, copy = pick["file"], f"{FOLDER}/{pick['file']}"
            there = _sum_of(out, copy)
            if there == pick["sha256"]:
                continue
            if there and there != self._sums.get(file):
                yield f"{copy} was changed by hand, or is not of creatok, and is left alone"
                continue
            try:
                data = durable.read_file(out.folder, file, limit=MAX_FILE)
            except OSError as error:
                yield f"{file} cannot be copied: {error.strerror or error}"
                continue
            durable.replace_derived(out.folder, copy, data, writer=out.writer)

    def _remove(self, out: Output, gone: Sequence[str]) -> Iterator[str]:
        for file in gone:
            copy = f"{FOLDER}/{file}"
            there = _sum_of(out, copy)
            if there == self._sums[file]:
                durable.remove(out.folder, copy)
            elif there:
                yield f"{copy} is no pick any more, but was changed by hand, and is left alone"


def ranks(values: Sequence[float]) -> list[float]:
    """Place of each value among all, 0 the lowest, 1 the highest; equal ones share theirs."""
    if len(values) < 2:
        return [0.0] * len(values)
    order = sorted(values)
    first = {value: at for at, value in reversed(list(enumerate(order)))}
    last = {value: at for at, value in enumerate(order)}
    return [(first[value] + last[value]) / 2 / (len(values) - 1) for value in values]


def read_picks(out: Output) -> dict[str, dict[str, Any]]:
    """What an earlier run has picked, by row; what it was about to remove, under no row's name.

    Empty where there is no record, or none that can be believed.
    """
    found: dict[str, dict[str, Any]] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document = json.loads(durable.read_file(out.folder, NUMBERS, limit=MAX_JSON))
        if document["schema"] != SCHEMA:
            return {}
        for row in document["rows"]:
            picks = [
                {**pick, "file": str(pick["file"]), "sha256": str(pick["sha256"])}
                for pick in row["picks"]
            ]
            found[str(row["row"])] = {**row, "mark": str(row["mark"]), "picks": picks}
        leaving = [
            {"file": str(file), "sha256": str(digest)}
            for file, digest in document.get("leaving", {}).items()
        ]
        if leaving:
            found["\0leaving"] = {"row": "\0leaving", "mark": "", "picks": leaving}
    return found


def _sum_of(out: Output, file: str) -> str:
    """sha256 of a file, empty where there is none; what is no regular file is like no other."""
    try:
        return sha256_hex(durable.read_file(out.folder, file, limit=MAX_FILE))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"unreadable {getattr(error, 'errno', errno.EINVAL)}"
