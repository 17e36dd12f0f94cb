"""The self-test: one small picture of the bestiary, drawn as every picture is.

The sheet goes through the whole `sample` workflow, in a folder that is thrown away. What comes out
must not be flat, and must look like the picture that this sheet gave where it was made: sixteen
mean colours tell that, while they bear with other devices and libraries, whose bytes differ.

Does not: compare bytes, or leave anything behind.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from creatok_cli._probes.finding import Finding, fault
from creatok_cli.domain import JobFailed, Stage, Summary
from creatok_cli.errors import CreatokError, RunIncomplete

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET = "version: 1\nbase: bestiary\njobs:\n  - {id: owl, prompt: a photo of an owl, seeds: [5]}\n"
LOOK = bytes.fromhex(
    "262d642f315b37385e404571222a63ac915cae8c5a242b62"
    "25325c8e6e5890785f26335b293b554c484c474850293d55"
)
"""Mean colours of the picture, 4 x 4 fields of RGB, drawn on a CPU in fp32 with torch 2.13."""
FIELDS = 4
NEAR = 3.0
"""Mean difference in levels up to which it is the same picture: bf16 and other instruction sets
differ by 0.2 at most, other prompts by 23 and more, other seeds by 6 and more (measured).
"""
FLAT = 16
"""Levels between the darkest and the lightest point of a picture that shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What the self-test made."""

    image: Image
    device: str
    load_s: float
    draw_s: float


def draw(device: str, folder: Path) -> Drawn:
    """Draw the sheet on a device, through the workflow. Raises CreatokError."""
    from PIL import Image

    from creatok_cli.workflows.sample import SampleRequest, sample

    sheet, out = folder / "self-test.yaml", folder / "out"
    sheet.write_text(SHEET, encoding="utf-8")
    began, drawing = time.monotonic(), None
    where = device
    for event in sample(SampleRequest(sheet=str(sheet), out=out, device=device, batch_size=1)):
        match event:
            case Stage(name="drawing", detail=detail):
                drawing, where = time.monotonic(), detail.rpartition(" ")[2]
            case JobFailed(message=message):
                raise RunIncomplete(message)
            case Summary(code=code) if code:
                raise RunIncomplete("the run did not finish")
            case _:
                pass
    ended = time.monotonic()
    with Image.open(next(out.glob("owl/*.png"))) as picture:
        image = picture.convert("RGB")
    began_drawing = drawing or ended
    return Drawn(
        image=image, device=where, load_s=began_drawing - began, draw_s=ended - began_drawing
    )


def probe_self_test(device: str) -> Finding:
    """One small picture on a device, drawn and looked at."""
    with TemporaryDirectory(prefix="creatok-doctor-") as folder:
        try:
            return judge_picture(draw(device, Path(folder)))
        except CreatokError as error:
            return fault("self-test", error)


def judge_picture(drawn: Drawn) -> Finding:
    """A fault for a flat picture, a warning for one that is not as it should be."""
    image = drawn.image
    look = image.resize((FIELDS, FIELDS), resample=_box()).tobytes()
    off = sum(abs(a - b) for a, b in zip(look, LOOK, strict=True)) / len(LOOK)
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    facts: dict[str, Any] = {
        "device": drawn.device,
        "load_s": round(drawn.load_s, 2),
        "draw_s": round(drawn.draw_s, 2),
        "pixels": digest,
        "difference": round(off, 2),
    }
    if contrast(image.getextrema()) < FLAT:
        error = RunIncomplete(f"drew a flat picture on {drawn.device}")
        return fault(
            "self-test", error, todo="update driver and torch, or use --device cpu", facts=facts
        )
    times = f"{drawn.draw_s:.1f} s on {drawn.device}, after {drawn.load_s:.1f} s of loading"
    if off > NEAR:
        return Finding(
            name="self-test",
            status="warning",
            found=f"drew a picture in {times}, but not the expected one: it differs by {off:.0f} "
            "of 255 levels",
            todo="compare with --device cpu; if that one is right, update driver and torch",
            facts=facts,
        )
    return Finding(
        name="self-test",
        status="ok",
        found=f"drew the expected picture in {times}; pixels {digest[:12]}",
        facts=facts,
    )


def contrast(extremes: Iterable[Any]) -> int:
    """The largest range of a channel."""
    return max(int(high - low) for low, high in extremes)


def _box() -> Any:
    from PIL.Image import Resampling

    return Resampling.BOX
