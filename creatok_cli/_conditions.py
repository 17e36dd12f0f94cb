"""The conditions of one open base: each unique prompt is encoded once, then waits on the host.

A base encodes in fixed padded chunks, so a prompt has the same bytes in any company: encoding what
a resumed run still needs gives what the whole run had. With a plan at hand, prompts of all its
batches are encoded together, as many as memory allows, and the text encoders are dropped until the
next time.

Does not: know denoising or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

import torch

from creatok_cli._trouble import kind_of, say, with_room
from creatok_cli.backbones.base import Backbone, Conditioning, reads_negative
from creatok_cli.domain import Job
from creatok_cli.errors import CreatokError, DigestMismatch, TokenMissing
from creatok_cli.tokens.file import load_token
from creatok_cli.tokens.token import Token, check_widths

CONDITION_BYTES = 2**30
"""Host memory for waiting conditions; a larger plan opens the encoders again. SD3 without T5: 3,400
prompts in fp32.
"""
ENCODE_SLICE = 64
"""Prompts that are asked of a base at a time."""


_COUNTING = Lock()


@dataclass(slots=True)
class Counters:
    """What was done, for tests and benchmarks."""

    encodes: int = 0
    """Prompts encoded, pads left out."""
    unique: int = 0
    """Distinct prompts asked for."""
    forwards: int = 0
    """Steps of the denoiser, each for a whole batch."""
    batches: int = 0
    decodes: int = 0
    opened: int = 0
    """Bases opened."""

    def add(self, **more: int) -> None:
        """Count, exactly, on any thread."""
        with _COUNTING:
            for name, count in more.items():
                setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True, slots=True)
class Ask:
    """One encoding that some picture needs."""

    prompt: str
    tokens: tuple[tuple[str, str], ...]
    """(word, id) of the tokens that occur in the prompt."""


def texts(job: Job) -> list[str]:
    """The prompt, and the negative where guidance uses one: nothing counts as the empty string, as
    in diffusers.
    """
    is_read = reads_negative(job.guidance, job.options)
    return [job.prompt, job.negative or ""] if is_read else [job.prompt]


class Shelf:
    """Tokens by id: read once, verified, checked against a base. `files` maps ids to paths."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files, self._tokens = dict(files), dict[str, Token]()

    def tokens(self, pairs: Iterable[tuple[str, str]], backbone: Backbone) -> list[Token]:
        """The tokens of (word, id) pairs. Raises TokenMissing, DigestMismatch, or ArtefactError for
        wrong widths.
        """
        found: list[Token] = []
        for word, identity in pairs:
            if identity not in self._tokens:
                if identity not in self._files:
                    raise TokenMissing(f"no file is known for token {word} ({identity[:20]})")
                token = load_token(self._files[identity])
                if token.id != identity:
                    raise DigestMismatch(
                        f"{self._files[identity]}: token {word} has changed since the plan was made"
                    )
                self._tokens[identity] = token
            if backbone.text is not None:
                widths = self._tokens[identity].widths
                check_widths(word, widths, backbone.text.encoders, backbone.facts.name)
            found.append(replace(self._tokens[identity], word=word))
        return found


class Conditions:
    """What has been encoded for one open base. `fill` must be called alone; the rest changes
    nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        shelf: Shelf,
        counters: Counters,
        coming: Iterable[Job],
        heed: Callable[[], None],
    ) -> None:
        self._backbone, self._shelf, self._counters, self._heed = backbone, shelf, counters, heed
        self._ready: dict[Ask, Conditioning] = {}
        self._broken: dict[Ask, str] = {}
        self._seen: set[Ask] = set()
        self._coming = self._unique(coming)
        self._prepared = bool(self._coming)

    def asks(self, job: Job) -> list[Ask]:
        """One per text of the job. No seed: where a prior draws, it does so with the picture."""
        return [
            Ask(text, tuple(pair for pair in job.tokens if pair[0] in text)) for text in texts(job)
        ]

    def rows(self, job: Job) -> list[Conditioning]:
        """The condition of the prompt, then of the negative if there is one, each of one row."""
        return [self._ready[ask] for ask in self.asks(job)]

    def fault(self, job: Job) -> str:
        """Why a job cannot be conditioned, empty when it can."""
        return next((self._broken[ask] for ask in self.asks(job) if ask in self._broken), "")

    def holds(self, jobs: Sequence[Job]) -> bool:
        """Whether `fill` would have nothing to do."""
        asks = (ask for job in jobs for ask in self.asks(job))
        return all(ask in self._ready or ask in self._broken for ask in asks)

    def fill(self, jobs: Sequence[Job]) -> None:
        """See that everything these jobs need is encoded, with as much of the plan as memory
        allows.
        """
        wanted = self._unique(jobs)
        missing = {
            ask: job
            for ask, job in wanted.items()
            if ask not in self._ready and ask not in self._broken
        }
        if not missing:
            return
        used = self._used()
        if self._prepared or used > CONDITION_BYTES:
            self._ready = {ask: row for ask, row in self._ready.items() if ask in wanted}
            used = self._used()
        left = set(missing)
        for part in _slices(
            missing | {ask: job for ask, job in self._coming.items() if ask not in wanted}
        ):
            if not left and used > CONDITION_BYTES:
                break
            self._heed()
            used += self._encode(part)
            left.difference_update(part)
        for ask in (*self._ready, *self._broken):
            self._coming.pop(ask, None)
        if self._prepared:
            self._backbone.release("text")

    def _used(self) -> int:
        return sum(row.size_bytes for row in self._ready.values())

    def _unique(self, jobs: Iterable[Job]) -> dict[Ask, Job]:
        """The asks of jobs in order, each with a job that has nothing but its text as prompt."""
        found: dict[Ask, Job] = {}
        for job in jobs:
            for ask in self.asks(job):
                if ask not in found:
                    found[ask] = (
                        job if job.prompt == ask.prompt else replace(job, prompt=ask.prompt)
                    )
        return found

    def _encode(self, part: Mapping[Ask, Job]) -> int:
        """Encode asks whose words do not clash; returns bytes. A prompt that breaks the encoder
        breaks only itself.
        """
        tokens = self._shelf.tokens(
            dict.fromkeys(pair for ask in part for pair in ask.tokens), self._backbone
        )
        jobs = list(part.values())
        try:
            with torch.inference_mode():
                rows = with_room(
                    lambda: self._backbone.condition(jobs, tokens).to("cpu"),
                    lambda: self._backbone.release("image"),
                    self._backbone.device,
                )
        except Exception as error:  # one odd prompt must not end the run, whatever is raised
            if isinstance(error, CreatokError) or kind_of(error) != "error":
                raise
            if len(part) > 1:
                return sum(self._encode({ask: job}) for ask, job in part.items())
            self._broken.update(dict.fromkeys(part, f"the prompt cannot be encoded: {say(error)}"))
            return 0
        self._ready |= {ask: rows.rows([index]) for index, ask in enumerate(part)}
        self._counters.add(encodes=len(part), unique=len(part.keys() - self._seen))
        self._seen |= part.keys()
        return rows.size_bytes


def _slices(asks: Mapping[Ask, Job]) -> Iterator[dict[Ask, Job]]:
    """Asks in slices in which each word means one token."""
    part: dict[Ask, Job] = {}
    meaning: dict[str, str] = {}
    for ask, job in asks.items():
        clash = any(meaning.get(word, identity) != identity for word, identity in ask.tokens)
        if len(part) == ENCODE_SLICE or clash:
            yield part
            part, meaning = {}, {}
        part[ask] = job
        meaning.update(ask.tokens)
    if part:
        yield part
