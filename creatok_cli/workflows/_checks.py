"""Checks of a search: its proposals drawn, answered, and their pictures kept for the strip.

What asks yes or no is answered by the validator, what names classes by the labeler. A validator
that can be fitted is, on plain pictures of what is looked for, drawn by the very base; what it
learned is kept in creatok's home. Every picture of a check is one PNG that says itself what was
seen in it, so that a kill tears nothing.

Does not: decide; accept and pull back is the business of methods.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from creatok_cli import durable
from creatok_cli.domain import Event, Job, Notice, Rendered, Stage
from creatok_cli.errors import InputError
from creatok_cli.seeds import derive
from creatok_cli.tokens.library import writable
from creatok_cli.workflows._feedback import Answers
from creatok_cli.workflows._labeler import VALIDITY
from creatok_cli.workflows._prepared import keep_made, made_before
from creatok_cli.workflows._quest import SMALL, Pursuit
from creatok_cli.workflows._run import Stop
from creatok_cli.workflows._showing import ADVICE

if TYPE_CHECKING:
    from PIL.Image import Image

    from creatok_cli.backbones.base import Backbone
    from creatok_cli.domain import Labels
    from creatok_cli.methods.base import Feedback, Step
    from creatok_cli.scorers.base import Labeler

FOLDER = "checks"
"""In the output folder, with one folder for each search."""
YES_NO = ("yes", "no")
KEYWORD = "creatok-check"
SCHEMA = 1
SIDE_PX = 256
"""Larger pictures are kept smaller: they are for looking, and a check may be drawn again."""
MAX_FILE = 16 << 20
PLAIN, PLAIN_LARGE, OF_EACH = 48, 16, 1
"""Plain pictures that a validator is fitted on; fewer where they take long; and of each class that
is an example of what is looked for.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One picture that was looked at on the way."""

    index: int
    """Steps done."""
    place: int
    """Among the pictures of the check."""
    values: Mapping[str, float]
    """What the method said of the moment: `rarity`, `d2`, `cosine`..."""
    p_yes: float | None
    """None where nobody was asked yes or no."""
    seen: str
    """The likeliest class, where classes were named."""
    image: Image


class Checks(Answers):
    """Answers of all searches of a run, one after the other."""

    def __init__(self, pursuit: Pursuit, scratch: Path, stop: Stop | None) -> None:
        super().__init__(pursuit.facts, pursuit.labeler, pursuit.precision, scratch, stop)
        self.pursuit, self.strand = pursuit, 0
        """The number of the search, from 1."""
        self.fitted = False
        self.looked_at = 0

    def __call__(self, backbone: Backbone, step: Step) -> Generator[Event, None, Feedback]:
        """As Answers; keeps the pictures that were drawn. Raises IntegrityError, too."""
        feedback = yield from super().__call__(backbone, step)
        answers = zip(feedback.pictures, feedback.labels, strict=True)
        self.looked_at += 1
        writer = durable.Writer(run=durable.new_run())
        for place, (picture, labels) in enumerate(answers):
            if picture is not None:
                kind = "yes" if tuple(step.classes) == YES_NO else "what"
                name = f"{folder_of(self.strand)}/{step.index:07d}-{place}-{kind}.png"
                data = check_bytes(self.pursuit.search.run, step, place, picture, labels)
                with writable(self.pursuit.folder, ADVICE):
                    durable.replace_derived(self.pursuit.folder, name, data, writer=writer)
        return feedback

    def labeler(self, backbone: Backbone, step: Step) -> Generator[Event, None, Labeler | None]:
        """The validator for yes and no, the labeler for classes, nobody where nothing is asked."""
        if not step.classes and not step.question:
            return None
        is_yes_no = tuple(step.classes) == YES_NO
        chosen = self.pursuit.validator if is_yes_no else self.pursuit.labeler
        if chosen is None:
            raise InputError(
                f"step {step.index}: the method {self.pursuit.method} asks "
                f"{'yes or no' if is_yes_no else 'what is seen'}, but nobody answers that"
            )
        found = yield from self.opened(chosen, backbone)
        if chosen.name == VALIDITY and not self.fitted:
            yield from self._fit(found, backbone)
        return found

    def _fit(self, validator: Any, backbone: Backbone) -> Generator[Event, None, None]:
        chosen, pursuit = self.pursuit.validator, self.pursuit
        assert chosen is not None
        facts = {
            "validator": dict(chosen.recipe),
            "base": pursuit.facts.digest,
            "precision": pursuit.precision,
            "prompts": plain_prompts(pursuit),
            "version": 1,
        }
        kept, warning = made_before(facts)
        if warning is not None:
            yield warning
        if kept is not None:
            validator.use(kept.tensors)
        else:
            yield from self._fit_anew(validator, backbone, facts)
        self.fitted = True

    def _fit_anew(
        self, validator: Any, backbone: Backbone, facts: Mapping[str, Any]
    ) -> Generator[Event, None, None]:
        from creatok_cli.methods.base import Step

        jobs = plain_jobs(self.pursuit)
        yield Stage(name="fitting", detail=f"the validator, on {len(jobs)} plain pictures")
        outcomes = self.drawn_plain(backbone, Step(index=0, total=0, proposals=jobs))
        pictures = [each.image for each in outcomes if isinstance(each, Rendered)]
        if len(pictures) < len(jobs):
            message = f"{len(jobs) - len(pictures)} of {len(jobs)} plain pictures failed"
            yield Notice(level="warning", message=message)
        keep_made(validator.fit(pictures), facts)


def plain_prompts(pursuit: Pursuit) -> list[tuple[str, int]]:
    """(prompt, how many) of plain pictures of what is looked for."""
    facts, classes = pursuit.facts, pursuit.classes
    many = PLAIN if facts.backbone == SMALL else PLAIN_LARGE
    asked = [pursuit.prompt or f"a photo of {article(pursuit.subject)}"]
    asked += [f"a photo of {article(each)}" for each in pursuit.like]
    asked = list(dict.fromkeys(asked))
    found = [(prompt, max(4, many // len(asked))) for prompt in asked]
    if facts.backbone == SMALL and classes.noun in (pursuit.subject, *pursuit.like):
        # What the classes are is what is looked for: each is an example.
        found += [(f"a photo of {article(each)}", OF_EACH) for each in classes.classes]
    return found


def article(words: str) -> str:
    """`a creature`, `an owl`; a phrase with an article of its own stays."""
    if words.partition(" ")[0].lower() in ("a", "an", "the", "some", "two"):
        return words
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def plain_jobs(pursuit: Pursuit) -> tuple[Job, ...]:
    """The plain pictures, with seeds that no search uses."""
    facts = pursuit.facts
    return tuple(
        Job(
            base_digest=facts.digest,
            base=facts.name,
            prompt=prompt,
            seed=derive(0, "plain", prompt, number),
            size_px=facts.size_px,
            steps=facts.steps,
            guidance=facts.guidance,
            scheduler=facts.schedulers[0],
            dtype=pursuit.precision,
        )
        for prompt, count in plain_prompts(pursuit)
        for number in range(count)
    )


# Files


def folder_of(strand: int) -> str:
    """Where the pictures of a search are, in the output folder."""
    return f"{FOLDER}/{strand:02d}"


def check_bytes(run: str, step: Step, place: int, picture: Image, labels: Labels | None) -> bytes:
    """The PNG of a check; equal checks, equal bytes."""
    from PIL import Image as pillow
    from PIL import PngImagePlugin

    shares = dict(labels.probabilities) if labels is not None else {}
    is_yes_no = tuple(step.classes) == YES_NO
    seen = max(shares, key=lambda name: shares[name]) if shares and not is_yes_no else ""
    if labels is not None and labels.words:
        seen = labels.words[0]
    said = {
        "schema": SCHEMA,
        "run": run,
        "index": step.index,
        "place": place,
        "values": {
            name: round(float(value), 6)
            for name, value in step.values.items()
            if math.isfinite(value)
        },
        "p_yes": round(shares["yes"], 6) if is_yes_no and shares else None,
        "seen": seen,
    }
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEYWORD, json.dumps(said, sort_keys=True, ensure_ascii=False))
    image = picture.convert("RGB")
    if max(image.size) > SIDE_PX:
        image.thumbnail((SIDE_PX, SIDE_PX), pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_checks(folder: Path, run: str, strand: int) -> list[Check]:
    """The pictures of a search, in order; what was asked of one twice is one check. What is damaged
    or of another run is left out.
    """
    found: dict[tuple[int, int], Check] = {}
    for path in sorted((folder / folder_of(strand)).glob("*.png")):
        check = _read(folder, f"{folder_of(strand)}/{path.name}", run)
        if check is not None:
            other = found.get((check.index, check.place), check)
            found[check.index, check.place] = replace(
                check,
                values={**other.values, **check.values},
                p_yes=other.p_yes if check.p_yes is None else check.p_yes,
                seen=check.seen or other.seen,
            )
    return [found[at] for at in sorted(found)]


def _read(folder: Path, name: str, run: str) -> Check | None:
    from PIL import Image as pillow

    try:
        data = durable.read_file(folder, name, limit=MAX_FILE)
        with pillow.open(io.BytesIO(data), formats=["PNG"]) as opened:
            said = json.loads(opened.info[KEYWORD])
            image = opened.convert("RGB")
        if said["schema"] != SCHEMA or said["run"] != run:
            return None
        p_yes = said["p_yes"]
        return Check(
            index=int(said["index"]),
            place=int(said["place"]),
            values={str(key): float(value) for key, value in said["values"].items()},
            p_yes=None if p_yes is None else float(p_yes),
            seen=str(said["seen"]),
            image=image,
        )
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError):
        return None


def firsts(checks: Sequence[Check]) -> list[Check]:
    """One picture of each check: those drawn with the same seed."""
    return [each for each in checks if each.place == 0]
