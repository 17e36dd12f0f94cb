"""Scores of finished pictures: what `creatok sample --score` measures, keeps and shows.

`scores.jsonl` (of a shard: `scores.K-of-N.jsonl`) is a log of sealed lines, one per picture and
scorer. A line is found again by a digest of the pixels, of the job and of the scorer with its
model: what was scored is not scored again, by whichever shard or run; a picture that is drawn anew
is; and the manifest stays as it is. `scores.json` is derived from the logs in plan order, for
people and programs. Figures of sets belong to the rows of a sheet, and to all rows together.

Does not: hand a score to anything that draws or searches.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from creatok_cli import durable
from creatok_cli.domain import Event, Job, Notice, Plan, Rendered, Score, Stage
from creatok_cli.errors import ArtefactError
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.sinks._ledger import Ledger, Line, seal, unseal
from creatok_cli.sinks.base import Output, file_of, told
from creatok_cli.sinks.manifest import trusted
from creatok_cli.workflows._asked import Asked
from creatok_cli.workflows._gathered import Row, is_shard, iter_results, rows_of, spread

SCHEMA = 1
NUMBERS = "scores.json"
PATTERN = re.compile(r"^scores(\.\d{1,6}-of-\d{1,6})?\.jsonl$")
MAX_LOG = 2 << 30
ROWS = 64
"""Pictures that are in memory together."""
DIGITS = 6
"""After the point, of every figure that is kept."""
MOST_SET, SET_PX = 300, 512
"""Pictures of a set that are looked at (methods notes, 8: n <= 300), and their longest side."""
TELL_S = 5.0
"""How often a long scoring is told of."""
TOLD = 2
"""Figures of a set that are told; all are kept."""
ALL = ""
"""The row of all pictures."""


@dataclass(slots=True)
class Book:
    """The figures that a folder's logs hold, by what they are of."""

    figures: dict[str, tuple[Score, ...]] = field(default_factory=dict)
    torn: dict[str, int] = field(default_factory=dict)
    """Log name to the length that remains once its torn tail is cut."""


def mark_of(asked: Asked, job: Job, line: Line) -> str:
    """What decides the figures of a picture."""
    return sha256_hex(canonical_json([asked.id, line.pixels, job.key, job.labels]))


def set_mark(asked: Asked, lines: Sequence[Line]) -> str:
    """What decides the figures of a set."""
    return sha256_hex(canonical_json([asked.id, "set", [line.pixels for line in lines]]))


def read_book(folder: Path) -> Book:
    """All logs of a folder; lines that cannot be believed are left out. Raises OSError."""
    book = Book()
    try:
        names = sorted(path.name for path in folder.iterdir() if PATTERN.match(path.name))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    for name in names:
        data = durable.read_file(folder, name, limit=MAX_LOG)
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            book.torn[name] = len(data) - len(rest)
        for raw in whole.split(b"\n"):
            record = unseal(raw)
            if record is None or record.get("schema") != SCHEMA:
                continue
            with suppress(KeyError, TypeError, ValueError):
                book.figures[str(record["of"])] = tuple(map(score_of, record["figures"]))
    return book


def score_of(record: Mapping[str, Any]) -> Score:
    low, high = record["range"]
    better = record["better"]
    if better not in ("higher", "lower") or not math.isfinite(float(record["value"])):
        raise ValueError("no figure")
    return Score(
        name=str(record["name"]),
        value=float(record["value"]),
        unit=str(record["unit"]),
        range=(float(low), float(high)),
        better=better,
        note=str(record.get("note", "")),
    )


def plain(score: Score) -> dict[str, Any]:
    """A figure as JSON data."""
    found: dict[str, Any] = {
        "name": score.name,
        "value": round(score.value, DIGITS),
        "unit": score.unit,
        "range": [round(end, DIGITS) for end in score.range],
        "better": score.better,
    }
    return found | ({"note": score.note} if score.note else {})


# The work


@dataclass(slots=True, kw_only=True)
class Scoring:
    """Scores of one run: begun before it draws, made when its pictures are there."""

    asked: tuple[Asked, ...]
    device: str = "auto"
    is_stopping: Callable[[], bool] = lambda: False
    is_cut: bool = False
    """Whether a stop has left something unscored."""
    book: Book = field(default_factory=Book)
    _open: dict[str, Any] = field(default_factory=dict)

    def begin(self, out: Output, plan: Plan, *, is_drawing: bool) -> None:
        """Checks every setting, before a picture is drawn; imports nothing where all is known.

        Raises PresetError, InputError, UnknownName.
        """
        self._read(out)
        if is_drawing or any(self._missing(each, plan, out.ledger) for each in self.asked):
            for each in self.asked:
                each.check()

    def score(self, out: Output, plan: Plan) -> Iterator[Event]:
        """Scores the pictures of a plan, or of its shard, that have no figures yet.

        Raises InputError, ArtefactError: what was scored before stays.
        """
        wanted = {each.name: self._missing(each, plan, out.ledger) for each in self.asked}
        jobs = [job for job in plan.jobs if any(job.name in names for names in wanted.values())]
        if not jobs:
            return
        names = ", ".join(name for name, missing in wanted.items() if missing)
        yield Stage(name="scoring", detail=f"{counted(len(jobs))}: {names}")
        log, unread, told_at = self._log(out), 0, time.monotonic()
        try:
            for start in range(0, len(jobs), ROWS):
                if self.is_stopping():
                    self.is_cut = True
                    return
                part = jobs[start : start + ROWS]
                results = list(iter_results(out, part))
                unread += len(part) - len(results)
                for asked in self.asked:
                    mine = [each for each in results if each.job.name in wanted[asked.name]]
                    self._score(log, asked, mine, out.ledger)
                with trusted(log.name):
                    log.sync()
                done = start + len(part)
                if time.monotonic() - told_at > TELL_S and done < len(jobs):
                    told_at = time.monotonic()
                    yield Stage(name="scoring", detail=f"{done:,} of {counted(len(jobs))}")
        finally:
            log.close()
        if unread:
            message = f"{counted(unread)} could not be read: no scores"
            yield Notice(level="warning", message=message)

    def close(self, out: Output, plan: Plan) -> Iterator[Event]:
        """Figures of sets, `scores.json` and what the pages show: for the whole plan."""
        self._read(out)
        rows = rows_of(plan, out.ledger)
        if not any(row.lines for row in rows):
            return
        sets = yield from self._score_sets(out, rows)
        for row in rows:
            for job, line in row.lines:
                out.scores[line.file] = self._shown(job, line)
            figures = sets.get(row.name, {}).values()
            out.row_scores[row.name] = tuple(x for found in figures for x in found[:TOLD])
        document = {
            "schema": SCHEMA,
            "scorers": {each.name: each.recipe for each in self.asked},
            "pictures": [
                {
                    **{"file": line.file, "key": line.key, "row": row.name, "seed": line.seed},
                    "scores": plain_figures(self.figures(job, line)),
                }
                for row in rows
                for job, line in row.lines
            ],
            "rows": [
                {"row": row.name, "pictures": len(row.lines), "scores": plain_figures(found)}
                for row in rows
                if (found := sets.get(row.name))
            ],
        }
        if ALL in sets:
            count = sum(len(row.lines) for row in rows)
            document["all"] = {"pictures": count, "scores": plain_figures(sets[ALL])}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        with trusted(NUMBERS):
            durable.replace_derived(out.folder, NUMBERS, text.encode(), writer=out.writer)
        yield from self._notices(rows, sets)

    def figures(self, job: Job, line: Line) -> dict[str, tuple[Score, ...]]:
        """What is known of a finished picture, by scorer."""
        known = {each.name: self.book.figures.get(mark_of(each, job, line)) for each in self.asked}
        return {name: found for name, found in known.items() if found}

    def _shown(self, job: Job, line: Line) -> tuple[Score, ...]:
        """The first figure of each scorer; one that bears another name says whose it is."""
        return tuple(
            score if score.name == name else replace(score, name=f"{name} {score.name}")
            for name, (score, *_) in self.figures(job, line).items()
        )

    def _missing(self, asked: Asked, plan: Plan, ledger: Ledger) -> set[str]:
        """Names of the finished pictures that a scorer has not seen."""
        if "scores" not in asked.gives:
            return set()
        return {
            job.name
            for row in rows_of(plan, ledger)
            for job, line in row.lines
            if mark_of(asked, job, line) not in self.book.figures
        }

    def _score(
        self, log: durable.LineLog, asked: Asked, results: Sequence[Rendered], ledger: Ledger
    ) -> None:
        from creatok_cli.scorers.base import figures

        if not results:
            return
        found = figures(self._scorer(asked), results)
        for result, scores in zip(results, found, strict=True):
            line = ledger.by_file[file_of(result.job)]
            self._note(log, mark_of(asked, result.job, line), asked, line.file, scores)

    def _score_sets(
        self, out: Output, rows: Sequence[Row]
    ) -> Generator[Event, None, dict[str, dict[str, tuple[Score, ...]]]]:
        """Figures by row and scorer: of every row whose pictures are all there, and of all rows.
        Of shards the last one makes them, so that none waits for another's.
        """
        is_whole = all(row.is_whole for row in rows)
        groups = {row.name: row.lines for row in rows if row.is_whole and row.lines}
        if is_shard(out) and not is_whole:
            return {}
        if len(rows) > 1 and is_whole:
            groups[ALL] = [each for row in rows for each in row.lines]
        found: dict[str, dict[str, tuple[Score, ...]]] = {}
        log: durable.LineLog | None = None
        try:
            for asked in self.asked:
                for name, lines in groups.items() if "sets" in asked.gives else ():
                    chosen = [lines[place] for place in spread(len(lines), MOST_SET)]
                    mark = set_mark(asked, [line for _, line in chosen])
                    if mark not in self.book.figures:
                        if self.is_stopping():
                            self.is_cut = True
                            return found
                        if log is None:
                            yield Stage(name="scoring", detail=f"rows: {asked.name}")
                        log = log or self._log(out)
                        jobs = [job for job, _ in chosen]
                        results = list(iter_results(out, jobs, most_px=SET_PX))
                        scores = self._scorer(asked).score_set(results)
                        self._note(log, mark, asked, f"row {name}" if name else "all", scores)
                    found.setdefault(name, {})[asked.name] = self.book.figures[mark]
        finally:
            if log is not None:
                with trusted(log.name):
                    log.sync()
                log.close()
        return found

    def _note(
        self,
        log: durable.LineLog,
        mark: str,
        asked: Asked,
        what: str,
        scores: Sequence[Score],
    ) -> None:
        """One line of the log. Raises ArtefactError for a figure that is none."""
        bad = next((score for score in scores if not math.isfinite(score.value)), None)
        if bad is not None or not scores:
            name = f" for {bad.name}" if bad is not None else ""
            raise ArtefactError(
                f"{asked.where}: {what}: the scorer gave no number{name}; its model is damaged, or "
                "it cannot score this picture"
            )
        figures = [plain(score) for score in scores]
        record = {
            **{"schema": SCHEMA, "of": mark, "what": what, "score": asked.name},
            "figures": figures,
        }
        with trusted(log.name):
            log.append(seal(record))
        # As they are read back, so that the first run shows what every later one does.
        self.book.figures[mark] = tuple(map(score_of, figures))

    def _scorer(self, asked: Asked) -> Any:
        """The scorer, opened when it is first needed."""
        if asked.name not in self._open:
            from creatok_cli.backbones.base import pick_device

            self._open[asked.name] = asked.build(pick_device(self.device))
        return self._open[asked.name]

    def _read(self, out: Output) -> None:
        with trusted(log_name(out.writer.shard)):
            self.book = read_book(out.folder)

    def _log(self, out: Output) -> durable.LineLog:
        """The log of this shard; a torn tail is cut first."""
        name = log_name(out.writer.shard)
        with trusted(name):
            log = durable.LineLog(out.folder, name)
            if name in self.book.torn:
                log.cut(self.book.torn.pop(name))
        return log

    def _notices(
        self, rows: Sequence[Row], sets: Mapping[str, Mapping[str, Sequence[Score]]]
    ) -> Iterator[Event]:
        """What the scores come to, in a line each."""
        values: dict[str, list[float]] = {}
        for row in rows:
            for job, line in row.lines:
                for score in self._shown(job, line):
                    values.setdefault(score.name, []).append(score.value)
        for name, each in values.items():
            mean = math.fsum(each) / len(each)
            text = f"{name}: {mean:.3f} on average, {min(each):.3f} to {max(each):.3f}"
            yield Notice(level="info", message=f"{text}, of {counted(len(each))}")
        name = ALL if ALL in sets else next(iter(sets), ALL)
        for figures in sets.get(name, {}).values():
            text = ", ".join(told(score) for score in figures[:TOLD])
            yield Notice(level="info", message=f"{text}; all are in {NUMBERS}")


def log_name(shard: durable.Shard) -> str:
    """`scores.jsonl`, or `scores.2-of-4.jsonl` of a shard."""
    return "scores.jsonl" if shard == (1, 1) else f"scores.{shard[0]}-of-{shard[1]}.jsonl"


def counted(pictures: int) -> str:
    """`1 picture`, `12 pictures`."""
    return f"{pictures:,} picture" + ("" if pictures == 1 else "s")


def plain_figures(found: Mapping[str, Sequence[Score]]) -> dict[str, list[dict[str, Any]]]:
    """Figures by scorer as JSON data."""
    return {name: [plain(score) for score in scores] for name, scores in found.items()}
