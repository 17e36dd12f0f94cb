"""The pictures of README: contact sheets of the shipped presets, made small.

    python benchmarks/pictures.py [NAME ...]

Runs four presets, a sweep, a grid and three explorations on the bestiary, and takes the picture of
the proof of `learn-token` that benchmarks/cretok.py has left; writes presets/pictures/*.png.

Does not: choose pictures; what the first seed gives is what is shown.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from creatok_cli.domain import Event, ExploreSummary, FuseSummary, Summary
from creatok_cli.workflows.explore import QuestRequest, explore
from creatok_cli.workflows.explore_distok import DistokRequest, explore_distok
from creatok_cli.workflows.explore_els import ElsRequest, explore_els
from creatok_cli.workflows.fuse import FuseRequest, fuse
from creatok_cli.workflows.sample import SampleRequest, sample

ROOT = Path(__file__).parents[1]
WIDTH_PX = 1100
PICTURES = {
    "first-creatures": ("first-creatures", None, ()),
    "concepts": ("concepts", None, ()),
    "hybrids": ("hybrids", None, ("count=1",)),
    "restyle": ("restyle", None, ()),
}
"""Picture -> (preset, jobs, settings)."""
FUSED = {
    "fuse": FuseRequest(sweep="pig..snake:7"),
    "fuse-grid": FuseRequest(grid="pig,snake x sheep,bee"),
}
"""Picture -> what is fused."""
EXPLORED: dict[str, tuple[Callable[[Path], Iterator[Event]], str]] = {
    "explore-map": (lambda out: explore_distok(DistokRequest(out=out)), "map.png"),
    "explore-strip": (
        lambda out: explore(
            QuestRequest(method="lowprob", prompt="a photo of a creature", out=out, replace=True)
        ),
        "strip-01.png",
    ),
    "explore-els": (
        lambda out: explore_els(ElsRequest(images=str(ROOT / "presets" / "sprites"), out=out)),
        "origins.png",
    ),
}
"""Picture -> what is run into a folder, and the figure of it."""
RESULTS = {"learn-token": "cretok-paired.png"}
"""Picture -> what a benchmark has drawn."""


def main() -> None:
    asked = sys.argv[1:]

    def wanted(names: Iterable[str]) -> list[str]:
        return [name for name in names if not asked or name in asked]

    for name in wanted(PICTURES):
        preset, only, sets = PICTURES[name]
        with tempfile.TemporaryDirectory() as folder:
            request = SampleRequest(
                sheet=str(ROOT / "presets" / "sheets" / f"{preset}.yaml"),
                out=Path(folder),
                only=only,
                sets=sets,
            )
            for event in sample(request):
                if isinstance(event, Summary) and event.code:
                    raise SystemExit(f"{preset}: {event}")
            keep(Path(folder) / "contact-sheet.png", name)
    for name in wanted(FUSED):
        request = FUSED[name]
        with tempfile.TemporaryDirectory() as folder:
            for event in fuse(replace(request, out=Path(folder))):
                if isinstance(event, FuseSummary) and event.code:
                    raise SystemExit(f"{name}: {event}")
            keep(Path(folder) / "pictures" / "contact-sheet-matrix.png", name)
    for name in wanted(EXPLORED):
        run, figure = EXPLORED[name]
        with tempfile.TemporaryDirectory() as folder:
            for event in run(Path(folder)):
                if isinstance(event, ExploreSummary) and event.code:
                    raise SystemExit(f"{name}: {event}")
            keep(Path(folder) / figure, name)
    for name in wanted(RESULTS):
        keep(ROOT / "benchmarks" / "results" / RESULTS[name], name)


def keep(page: Path, name: str) -> None:
    """A page as README shows it."""
    picture = Image.open(page).convert("RGB")
    height = round(picture.height * WIDTH_PX / picture.width)
    picture = picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
    picture = picture.quantize(255, dither=Image.Dither.NONE)
    picture.save(ROOT / "presets" / "pictures" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
