"""Pictures for benchmarks, drawn once: each is kept under its job's key.

The key holds everything that decides a picture, so a folder of pictures serves every later run,
whatever columns, pairs or seeds it adds. The seconds that a picture took stand in its file.

Does not: keep pictures of a base or a token that has changed apart by hand; the key does it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from creatok_cli.domain import BaseFacts, Batch, Group, Job, Rendered
from creatok_cli.hashing import keyed
from creatok_cli.render import OpenBase, Renderer
from creatok_cli.tokens.file import save_token
from creatok_cli.tokens.token import Token

ROWS = 16
SAY_EVERY_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One picture: a prompt over some concepts, perhaps with a token."""

    prompt: str
    seed: int
    parents: tuple[str, ...]
    """In their stored order, whatever the order in the prompt."""
    token: Token | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What became of an Ask."""

    ask: Ask
    image: Image.Image
    seconds: float


class Studio:
    """Draws with the defaults of one base, on the CPU, in batches of 16."""

    def __init__(self, facts: BaseFacts, folder: Path, threads: int | None = None) -> None:
        self.facts, self._folder, self._threads = facts, folder, threads
        (folder / "tokens").mkdir(parents=True, exist_ok=True)

    def draw(self, asks: Sequence[Ask], name: str) -> list[Picture]:
        """One picture per ask, in order; only those that the folder misses are drawn."""
        jobs = [self._job(ask) for ask in asks]
        missing = list({job.key: job for job in jobs if not self._file(job).exists()}.values())
        if missing:
            files = {ask.token.id: self._keep(ask.token) for ask in asks if ask.token is not None}
            self._draw(missing, files, name)
        return [self._read(ask, job) for ask, job in zip(asks, jobs, strict=True)]

    def _draw(self, jobs: list[Job], files: dict[str, str], name: str) -> None:
        renderer = Renderer(
            OpenBase({self.facts.digest: self.facts}, "cpu"),
            device="cpu",
            tokens=files,
            threads=self._threads,
        )
        jobs.sort(key=lambda job: job.tokens)
        began = said = time.monotonic()
        done = 0
        while done < len(jobs):
            part = _together(jobs[done : done + ROWS])
            # Batches share their tokens: each job gets those of all, and its prompt uses its own.
            tokens = tuple(sorted({token for job in part for token in job.tokens}))
            shared = [dataclasses.replace(job, tokens=tokens) for job in part]
            group = Group(
                base=self.facts.name,
                base_digest=self.facts.digest,
                dtype=self.facts.dtype,
                tokens=tokens,
            )
            batch = Batch(index=done, group=group, jobs=tuple(shared), batch_class=ROWS)
            for job, outcome in zip(part, renderer.render(batch), strict=True):
                if not isinstance(outcome, Rendered):
                    raise SystemExit(f"{job.prompt!r}: {outcome.kind}: {outcome.message}")
                self._write(dataclasses.replace(outcome, job=job))
            done += len(part)
            if time.monotonic() - said > SAY_EVERY_S or done == len(jobs):
                said = time.monotonic()
                print(f"{name}: {done}/{len(jobs)}, {(said - began) / done:.3f} s", file=sys.stderr)

    def _job(self, ask: Ask) -> Job:
        facts = self.facts
        token = ask.token
        return keyed(
            Job(
                base=facts.name,
                base_digest=facts.digest,
                prompt=ask.prompt,
                seed=ask.seed,
                size_px=facts.size_px,
                steps=facts.steps,
                guidance=facts.guidance,
                scheduler=facts.schedulers[0],
                dtype=facts.dtype,
                tokens=((token.word, token.id),) if token is not None else (),
                labels=tuple(zip("abcdefgh", ask.parents, strict=False)),
            )
        )

    def _keep(self, token: Token) -> str:
        path = self._folder / "tokens" / f"{token.id.partition(':')[2]}.safetensors"
        save_token(path, token)
        return str(path)

    def _file(self, job: Job) -> Path:
        digits = job.key.partition(":")[2]
        return self._folder / "pictures" / digits[:2] / f"{digits}.png"

    def _write(self, drawn: Rendered) -> None:
        path = self._file(drawn.job)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = PngImagePlugin.PngInfo()
        facts.add_text("seconds", repr(drawn.provenance.seconds))
        part = path.with_suffix(f".{os.getpid()}.part")
        drawn.image.save(part, "PNG", compress_level=1, pnginfo=facts)
        os.replace(part, path)

    def _read(self, ask: Ask, job: Job) -> Picture:
        with Image.open(self._file(job)) as opened:
            seconds = float(opened.info["seconds"])
            return Picture(ask=ask, image=opened.convert("RGB"), seconds=seconds)


def _together(jobs: Sequence[Job]) -> list[Job]:
    """The first jobs among which no word means two tokens."""
    meaning: dict[str, str] = {}
    for at, job in enumerate(jobs):
        if any(meaning.setdefault(word, identity) != identity for word, identity in job.tokens):
            return list(jobs[:at])
    return list(jobs)
