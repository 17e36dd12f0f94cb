"""The plain data that flows through creatok: jobs, batches, plans, results, events.

Everything here is frozen and made of plain values, so that a plan can be hashed, pickled and
compared. Sheets, methods and fuse only make Jobs; executors, sinks and scorers only see Jobs and
Rendered.

Shape letters used in every docstring of the project: b batch, n vectors, p pairs, s sequence, d
width, c h w latent channels, rows, columns; H W pixels.

Does not: import anything of ours, read or write, or know torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""Width and height in pixels."""

Scalar = str | int | float | bool | None
Options = tuple[tuple[str, Scalar], ...]
"""Free settings of a backbone, as sorted (name, value) pairs."""

STORAGE = "storage"
"""The option that says how weights are kept; it belongs to the open base, not to a draw."""


def storage_of(options: Options) -> str:
    """How a job's weights are to be kept, unchecked; empty where nothing is said."""
    return str(dict(options).get(STORAGE) or "")


def without_storage(options: Options) -> Options:
    """What is left for the draw."""
    return tuple(each for each in options if each[0] != STORAGE)


RENDER_VERSION = 1
"""Rises whenever an old job would draw differently; part of every key, listed under Pixels in the
CHANGELOG.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One picture to be.

    The first block is identity: it decides the pixels and is hashed into `key` (see
    `hashing.content_key`). The second block names the picture and is never hashed.
    """

    base_digest: str
    """Pinned revision or folder digest of the base (`sha256:...`); the name of the base is not
    identity.
    """
    prompt: str
    negative: str | None = None
    seed: int
    """0 <= seed < 2**63."""
    size_px: Size
    steps: int
    guidance: float
    """Classifier-free guidance scale; at 1 or below the negative prompt is not used."""
    scheduler: str
    dtype: str
    """`fp32`, `bf16` or `fp16`: part of the recipe, never a property of the machine."""
    tokens: tuple[tuple[str, str], ...] = ()
    """(word, artefact id) of each token that the prompt or the negative uses, sorted by word."""
    weights: tuple[tuple[str, float], ...] = ()
    """(artefact digest, scale) of each LoRA, in the order in which they are applied."""
    options: Options = ()
    init_image: str | None = None
    """sha256 of the input picture, for image to image."""
    strength: float | None = None

    base: str = "bestiary"
    """The base as the user named it."""
    row: str = ""
    """The id of the sheet entry (`jobs[].id`) that this picture belongs to."""
    index: int = 0
    """Position among the pictures of its row, from 0."""
    name: str = ""
    """Relative output path with `/` separators, without extension."""
    where: str = ""
    """`file:line:column` of the sheet entry, for messages."""
    labels: tuple[tuple[str, str], ...] = ()
    """The variable values that made this prompt: captions of the contact sheet."""
    tags: tuple[str, ...] = ()
    key: str = ""
    """`r1:` and 40 hex digits; filled by `hashing.keyed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What must be open at the same time: batches of one group share weights and tokens."""

    base: str
    base_digest: str
    dtype: str
    tokens: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    storage: str = ""
    """How the denoiser's weights are kept, where an option of the jobs says so: `fp8`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Jobs that are drawn together. They differ in prompt, negative and seed only.

    `batch_class` is fixed by the plan; a tail with fewer jobs is padded with copies of its last job
    and the pads are dropped, because equal bytes need equal shapes.
    """

    index: int
    group: Group
    jobs: tuple[Job, ...]
    batch_class: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every batch of a run, in drawing order. Composition never depends on what is already done."""

    sheet: str
    """Name of the sheet: its file stem."""
    digest: str
    """sha256 over the keys, names and classes of all batches of the unsharded plan."""
    batches: tuple[Batch, ...]
    shard: tuple[int, int] = (1, 1)
    """(K, N): this plan holds the batches i with i mod N == K - 1 of the unsharded plan."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs in drawing order."""
        return tuple(job for batch in self.batches for job in batch.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a picture came to be, beyond its recipe: recorded in the manifest, never hashed, never in
    the PNG.
    """

    device: str
    batch_class: int
    batch_effective: int
    """Smaller than `batch_class` after an out-of-memory back-off."""
    seconds: float
    """Wall time of the batch divided by its jobs."""
    versions: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    """For example `decoder fp32 retry`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One finished picture, on its way to the sinks."""

    job: Job
    image: Image
    """RGB or RGBA, 8 bit."""
    provenance: Provenance
    facts: tuple[tuple[str, Scalar], ...] = ()
    """Short facts for the PNG and the manifest: base name, licence."""
    maps: Mapping[str, Image] = field(default_factory=dict)
    """Further pictures of the same size: where pixels come from."""


FailureKind = Literal[
    "oom",
    "non-finite",
    "flat",
    "error",
    "foreign-file",
    "filtered",
    "crashed",
    "os-error",
    "damaged",
    "missing",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One job that could not be drawn or published. A failure never ends a run."""

    job: Job
    kind: FailureKind
    message: str
    retriable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One figure of one picture, or of a set of them; it says itself how to be read."""

    name: str
    value: float
    unit: str
    """`cosine`, `weight`, `probability`, `bits`..."""
    range: tuple[float, float]
    """Ends of what the value can be, both included."""
    better: Literal["higher", "lower"]
    note: str = ""
    """What the figure is about, where it says so: the class that is seen, the nearest picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a labeler sees in one picture: probabilities by class (sum 1), or free words."""

    probabilities: tuple[tuple[str, float], ...] = ()
    """(class, probability), in the order in which the classes were asked for."""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What a plan must know of a base before any weight is read."""

    name: str
    """As the user named it."""
    backbone: str
    """Adapter that serves it: a plug-in name."""
    folder: str
    digest: str
    """`sha256:` over the relative names and contents of all files that are opened."""
    licence: str
    steps: int
    guidance: float
    size_px: Size
    size_multiple: int
    """Width and height must be multiples of this."""
    schedulers: tuple[str, ...]
    dtype: str
    """Default dtype of jobs on this base."""
    max_prompt_tokens: int | None = None
    encoders: tuple[tuple[str, int], ...] = ()
    """(encoder, width of its vocabulary rows): what a token must fit."""
    max_side_px: int | None = None
    """The largest width or height that the denoiser has positions for."""
    batch_rows: tuple[tuple[int, int], ...] = ((512, 8), (1024, 2))
    """(largest side in pixels, batch class) in rising order; beyond the last row the class is 1."""

    source: str = ""
    """`owner/repo@commit` for a snapshot of the Hub's cache."""
    checkpoint: str = ""
    """The one file from which the folder was made."""
    configs: str = ""
    """Where its configs and word lists came from."""
    prior_folder: str = ""
    """Of families whose prior is a repository of its own."""
    can_start: bool = False
    """Whether a job may begin from a picture (`init_image`)."""
    threads: int = 0
    """CPU threads that draw one batch: light bases draw several batches at a time, with 1 thread
    each, so that bytes do not depend on the number of cores. 0: torch's choice, one batch at a
    time.
    """

    def batch_class(self, size_px: Size) -> int:
        """The fixed batch size for pictures of this size, where neither the user nor the folder
        names one.
        """
        return next((rows for side, rows in self.batch_rows if max(size_px) <= side), 1)


# Events: what a workflow yields. The caller owns printing, bars and exit codes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan is known; `todo` pictures will be drawn, `skipped` are there and intact."""

    planned: int
    skipped: int
    todo: int
    batches: int
    out: str
    files: tuple[tuple[str, bool], ...] = ()
    """(relative file name, already there), filled for a dry run only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A named phase begins: `loading`, `encoding`, `drawing`, `finishing`, `verifying`."""

    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Bytes of a base have come; sent a few times a second while it is fetched."""

    name: str
    """`owner/repo`."""
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWritten:
    """A picture is published and its manifest line is on disk."""

    key: str
    row: str
    file: str
    seed: int
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """A job is given up; the run goes on."""

    key: str
    row: str
    where: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a person should read once: drift, back-off, a normalised weight."""

    level: Literal["info", "warning"]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the time of drawing went; told once, after the last picture."""

    device: str
    seconds: float
    """From the first step to the last picture."""
    busy: float
    """Share of it that was spent inside stages, per lane: 1 is a device that never waits."""
    lanes: int
    """Threads that drew."""
    stages: tuple[tuple[str, float, int], ...]
    """(stage, seconds, times): `load`, `condition`, `denoise`, `decode`, `to host`."""
    queued: int = 0
    """Most pictures that waited for the writers."""
    queue: int = 0
    """How many may wait before drawing waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The last event of every run. planned = done + skipped + failed + remaining."""

    planned: int
    done: int
    skipped: int
    failed: int
    remaining: int
    out: str
    seconds: float
    images_per_second: float
    code: int
    reason: str
    retryable: bool
    contact_sheets: tuple[str, ...] = ()
    resume: str = ""
    """The command that goes on, empty when nothing remains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """A method has moved on; sent a few times a second."""

    index: int
    """Steps done."""
    total: int
    values: Mapping[str, float]
    """Numbers by name: `loss`, `J`, `cos/clip_l`, `norm/clip_l`, `steps_per_second`..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSummary:
    """The last event of `learn-token`."""

    word: str
    name: str
    """In the token library, empty when nothing was stored."""
    id: str
    path: str
    """Of the token file."""
    report: str
    """Folder of the report, empty for none."""
    steps: int
    seconds: float
    ended: str
    """Why the learning ended: `done`, `capped`, `plateau`, `stopped`, `diverged`, `dead`."""
    code: int
    reason: str
    retryable: bool
    resume: str = ""
    """The command that goes on, empty when nothing remains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFused:
    """A mix has become a token."""

    word: str
    name: str
    """In the token library, empty for a token that only lies beside its pictures."""
    id: str
    path: str
    mix: tuple[tuple[str, float], ...]
    """(concept, weight), the heaviest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseSummary:
    """The last event of `fuse`. What belongs to one token is empty where there are none or more."""

    word: str
    name: str
    """In the token library."""
    id: str
    path: str
    """Of the token file."""
    mix: tuple[tuple[str, float], ...]
    tokens: int
    """Mixes that have become tokens."""
    network: str
    """Id of the network that made them, empty where none was reached."""
    out: str
    """Folder of pictures and readings, empty where nothing was drawn."""
    seconds: float
    code: int
    reason: str
    retryable: bool
    contact_sheets: tuple[str, ...] = ()
    resume: str = ""
    """The command that goes on, empty when nothing remains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An exploration keeps a find: a token, a LoRA, or both."""

    word: str
    """Empty where there is only a LoRA."""
    name: str
    """In the token library, empty where there is only a LoRA."""
    id: str
    """Of the token."""
    path: str
    """Of the token file."""
    lora: str = ""
    """Path of the LoRA file, empty where there is none."""
    values: Mapping[str, float | str] = field(default_factory=dict)
    """What was measured of it: `quality`, `novelty`, `rarity`..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploreSummary:
    """The last event of `explore`."""

    method: str
    finds: int
    """Tokens and LoRAs that are kept."""
    looked_at: int
    """Candidates, or states along the way, whose pictures were judged."""
    out: str
    """Folder of finds, pictures and figures."""
    seconds: float
    code: int
    reason: str
    retryable: bool
    figures: tuple[str, ...] = ()
    contact_sheets: tuple[str, ...] = ()
    resume: str = ""
    """The command that goes on, empty when nothing remains."""


Event = (
    Planned
    | Stage
    | Fetching
    | ImageWritten
    | JobFailed
    | Notice
    | Profile
    | Summary
    | Learning
    | LearnSummary
    | TokenFused
    | FuseSummary
    | Found
    | ExploreSummary
)
