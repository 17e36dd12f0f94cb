"""The pictures of README: contact sheets of the shipped presets, made small.

    python benchmarks/pictures.py

Runs three presets on the bestiary and writes presets/pictures/*.png.

Does not: choose pictures; what the first seed gives is what is shown.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from creatok_cli.domain import Summary
from creatok_cli.workflows.sample import SampleRequest, sample

ROOT = Path(__file__).parents[1]
WIDTH_PX = 1100
PICTURES = {
    "first-creatures": ("first-creatures", None, ()),
    "concepts": ("concepts", None, ()),
    "hybrids": ("hybrids", None, ("count=1",)),
}
"""Picture -> (preset, jobs, settings)."""


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
            page = Image.open(Path(folder) / "contact-sheet.png").convert("RGB")
            height = round(page.height * WIDTH_PX / page.width)
            page = page.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
            page = page.quantize(255, dither=Image.Dither.NONE)
            page.save(ROOT / "presets" / "pictures" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
