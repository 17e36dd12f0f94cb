"""The pictures of README: contact sheets of the shipped presets, made small.

    python benchmarks/pictures.py

Runs three presets, a sweep and a grid on the bestiary, and takes the picture of the proof of
`learn-token` that benchmarks/cretok.py has left; writes presets/pictures/*.png.

Does not: choose pictures; what the first seed gives is what is shown.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

from creatok_cli.domain import FuseSummary, Summary
from creatok_cli.workflows.fuse import FuseRequest, fuse
from creatok_cli.workflows.sample import SampleRequest, sample

ROOT = Path(__file__).parents[1]
WIDTH_PX = 1100
PICTURES = {
    "first-creatures": ("first-creatures", None, ()),
    "concepts": ("concepts", None, ()),
    "hybrids": ("hybrids", None, ("count=1",)),
}
"""Picture -> (preset, jobs, settings)."""
FUSED = {
    "fuse": FuseRequest(sweep="pig..snake:7"),
    "fuse-grid": FuseRequest(grid="pig,snake x sheep,bee"),
}
"""Picture -> what is fused."""
RESULTS = {"learn-token": "cretok-paired.png"}
"""Picture -> what a benchmark has drawn."""


def main() -> None:
    for name, (preset, only, sets) in PICTURES.items():
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
    for name, request in FUSED.items():
        with tempfile.TemporaryDirectory() as folder:
            for event in fuse(replace(request, out=Path(folder))):
                if isinstance(event, FuseSummary) and event.code:
                    raise SystemExit(f"{name}: {event}")
            keep(Path(folder) / "pictures" / "contact-sheet-matrix.png", name)
    for name, result in RESULTS.items():
        keep(ROOT / "benchmarks" / "results" / result, name)


def keep(page: Path, name: str) -> None:
    """A page as README shows it."""
    picture = Image.open(page).convert("RGB")
    height = round(picture.height * WIDTH_PX / picture.width)
    picture = picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
    picture = picture.quantize(255, dither=Image.Dither.NONE)
    picture.save(ROOT / "presets" / "pictures" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
