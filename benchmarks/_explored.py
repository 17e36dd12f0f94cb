"""Explorations for benchmarks, run through the product itself and read by the judge.

Every exploration is an ordinary run of `creatok explore` into a folder of its own under the work
folder, so a benchmark that is stopped goes on where it was. Fresh pictures of what was found are
drawn from sheets, tokens and LoRAs alike.

Does not: choose settings, or show the judge to a search.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from creatok_cli import registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.base import Backbone
from creatok_cli.domain import Event, ExploreSummary, ImageWritten, Notice
from creatok_cli.methods._colours import lab
from creatok_cli.scorers import judge
from creatok_cli.workflows._showing import Row, sheet_text
from creatok_cli.workflows.explore import QuestRequest, explore
from creatok_cli.workflows.sample import SampleRequest, sample

ONE = 0.5
"""A picture is valid with at least this P(one creature)."""
KNOWN = 0.85
"""A picture with more weight than this on one class shows that class: it is not novel."""
FRAME_PX = 4
FIRST_FRESH = 1_000_000
"""Seeds from here on no search has drawn with."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to draw: a prompt with `<word>` of a token file, perhaps a LoRA file."""

    name: str
    prompt: str
    word: str = ""
    token: Path | None = None
    lora: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Explored:
    """A finished run."""

    document: Mapping[str, Any]
    """`explore.json`."""
    folder: Path
    seconds: float
    """Of its searches, as they were measured when they ran."""

    def subjects(self) -> list[Subject]:
        """Its finds."""
        return [
            Subject(
                name=find["name"],
                prompt=find["prompts"][0].replace("{word}", find["word"]),
                word=find["word"],
                token=self.folder / find["token"] if find["token"] else None,
                lora=self.folder / find["lora"] if find["lora"] else None,
            )
            for find in self.document["finds"]
        ]


def run(request: QuestRequest, folder: Path) -> Explored:
    """The run of that folder, made now where it is not there."""
    clock, numbers = folder / "seconds.json", folder / "explore.json"
    if not clock.is_file():
        began = time.perf_counter()
        for event in explore(request):
            _say(folder.name, event)
        folder.mkdir(parents=True, exist_ok=True)
        clock.write_text(json.dumps(round(time.perf_counter() - began, 2)))
    return Explored(
        document=json.loads(numbers.read_text()) if numbers.is_file() else {"finds": []},
        folder=folder,
        seconds=json.loads(clock.read_text()),
    )


def _say(name: str, event: Event) -> None:
    if isinstance(event, Notice | ExploreSummary):
        print(f"{name}: {str(event)[:220]}", flush=True)


def pictures(
    subjects: Sequence[Subject], seeds: Sequence[int], folder: Path
) -> dict[str, list[Image.Image]]:
    """Subject -> one picture per seed, drawn by `creatok sample` where they are not there yet."""
    rows = [
        Row(
            id=subject.name,
            subject=subject.word,
            prompt=subject.prompt,
            loras=((str(subject.lora.resolve()), 1.0),) if subject.lora else (),
        )
        for subject in subjects
    ]
    tokens = {each.word: str(each.token.resolve()) for each in subjects if each.token}
    folder.mkdir(parents=True, exist_ok=True)
    sheet = folder / "sheet.yaml"
    sheet.write_text(
        sheet_text("bestiary", tokens, rows, title="benchmark", name="sheet.yaml", seeds=seeds)
    )
    found: dict[str, dict[int, Path]] = {}
    for event in sample(SampleRequest(sheet=str(sheet), out=folder / "out")):
        if isinstance(event, ImageWritten):
            continue
    for line in (folder / "out" / "manifest.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("status") == "done" or "file" in record:
            found.setdefault(record["job"], {})[record["seed"]] = folder / "out" / record["file"]
    return {
        subject.name: [_open(found[subject.name][seed]) for seed in seeds] for subject in subjects
    }


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


class Reader:
    """What the judge says of pictures."""

    def __init__(self) -> None:
        self.judge = judge.build(judge.Spec())
        self.names = self.judge.concepts

    def read(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Per picture `one`, `top` (largest weight of a class), `valid`, `novel`, `spread`."""
        labels = self.judge.label(images)
        ones = [row["one"] for row in self.judge.measure(images, [()] * len(images))]
        found = []
        for label, one in zip(labels, ones, strict=True):
            shares = [share for _, share in label.probabilities]
            entropy = -math.fsum(share * math.log(share) for share in shares if share > 0)
            valid, new = float(one >= ONE), float(max(shares) < KNOWN)
            found.append(
                {
                    "one": one,
                    "top": max(shares),
                    "novelty": 1 - max(shares),
                    "spread": math.exp(entropy),
                    "valid": valid,
                    "novel": new,
                    "valid_and_novel": valid * new,
                }
            )
        return found

    def weights(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Class -> weight, per picture."""
        return [dict(each.probabilities) for each in self.judge.label(images)]


def open_bestiary() -> Backbone:
    facts = resolve("bestiary")
    module = registry.get("backbones", facts.backbone)
    backbone: Backbone = module.build(module.Spec(), facts, device="cpu", dtype="fp32")
    return backbone


def unrest(image: Image.Image) -> float:
    """Mean absolute difference of neighbouring pixels along the outer frame, 0 to 1.

    The judge knows creatures alone and takes a texture for one. Pictures of one creature have a
    calm frame of sky, ground or paper around it; textures have none.
    """
    grey = image.convert("L")
    side = grey.width
    levels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(-1, side).double()
    strips = (
        levels[:FRAME_PX],
        levels[-FRAME_PX:],
        levels[:, :FRAME_PX].T,
        levels[:, -FRAME_PX:].T,
    )
    return float(torch.stack([strip.diff(dim=1).abs().mean() for strip in strips]).mean()) / 255


def colours(images: Sequence[Image.Image]) -> Tensor:
    """[b 6] f64: mean L*, a*, b* of the whole picture and of its middle."""
    rows = []
    for image in images:
        side = image.width
        middle = image.crop((side // 4, side // 4, side - side // 4, side - side // 4))
        rows.append(torch.cat([_lab(image), _lab(middle)]))
    return torch.stack(rows)


def _lab(image: Image.Image) -> Tensor:
    """[3] mean L*, a*, b* of a picture."""
    levels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    rgb = levels.view(1, image.height, image.width, 3).permute(0, 3, 1, 2).float() / 255
    return lab(rgb).mean(dim=(2, 3))[0].double()


class ColourShare:
    """How much of a shift of embeddings a shift of mean colours foretells.

    Embeddings of plain pictures are regressed on their mean colours; of a shift of the mean
    embedding, in units of the plain cloud's axes, that part counts which the regression foretells.
    """

    def __init__(self, embedded: Tensor, images: Sequence[Image.Image], axes: int) -> None:
        wide = embedded.double()
        self._mean = wide.mean(dim=0)
        _, lengths, turned = torch.linalg.svd(wide - self._mean, full_matrices=False)
        self._white = turned[:axes].T / (lengths[:axes] / math.sqrt(len(wide) - 1))
        seen = colours(images)
        self._colour = seen.mean(dim=0)
        places = (wide - self._mean) @ self._white
        self._slopes = torch.linalg.lstsq(seen - self._colour, places).solution
        rest = places - (seen - self._colour) @ self._slopes
        self.explained = 1 - float(rest.square().sum() / places.square().sum())
        """Of the spread of plain pictures themselves."""

    def of(self, embedded: Tensor, images: Sequence[Image.Image]) -> float:
        """0 (none of it) to 1."""
        shift = (embedded.double().mean(dim=0) - self._mean) @ self._white
        foretold = (colours(images).mean(dim=0) - self._colour) @ self._slopes
        left = float((shift - foretold).square().sum() / shift.square().sum().clamp_min(1e-12))
        return min(1.0, max(0.0, 1 - left))


def chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
