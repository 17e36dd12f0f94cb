"""Source maps say of every pixel where it was copied from."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from PIL import Image

from creatok_cli.domain import Job, Provenance, Rendered
from creatok_cli.durable import Writer
from creatok_cli.sinks import source_map
from creatok_cli.sinks._ledger import Ledger
from creatok_cli.sinks.base import Output
from tests.fakes.drawing import plan

NONE = 65535


def numbers(values: list[int], size: tuple[int, int]) -> Image.Image:
    data = b"".join(value.to_bytes(2, "little") for value in values)
    return Image.frombytes("I;16", size, data)


def drawn(maps: dict[str, Image.Image]) -> Rendered:
    image = Image.new("RGBA", (3, 2), (9, 9, 9, 255))
    image.putpixel((2, 1), (0, 0, 0, 0))
    job: Job = plan(1).jobs[0]
    provenance = Provenance(device="cpu", batch_class=1, batch_effective=1, seconds=0.0)
    return Rendered(job=job, image=image, provenance=provenance, maps=maps)


def written(folder: Path, result: Rendered) -> list[Path]:
    out = Output(folder=folder, writer=Writer(run="0a"), metadata="full", ledger=Ledger())
    sink = source_map.build(source_map.Spec(), out, plan(1))
    sink.write(result)
    sink.close()
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_runs_and_owners(tmp_path: Path) -> None:
    """Runs end where source or shift change; what is not seen belongs to nobody."""
    maps = {
        "source": numbers([4, 4, 4, 7, NONE, 7], (3, 2)),
        "row": numbers([0, 0, 1, 1, NONE, NONE], (3, 2)),
        "column": numbers([0, 1, 0, 2, NONE, NONE], (3, 2)),
    }
    result = drawn(maps)
    data, picture = written(tmp_path, result)
    assert data.relative_to(tmp_path).as_posix() == f"source-maps/{result.job.name}.json"
    said = json.loads(data.read_text())
    assert said["rows"] == [[[2, 4, 0, 0], [1, 4, 1, -2]], [[1, 7, 0, 2], [1, -1, None, None],
        [1, 7, None, None]]]  # fmt: skip
    assert said["sources"] == [[4, 3], [7, 1]]
    assert said["key"] == result.job.key
    with Image.open(picture) as shown:
        assert shown.getpixel((0, 0)) == (*source_map.colour_of(4), 255)
        assert shown.getpixel((0, 0)) == shown.getpixel((2, 0)) != shown.getpixel((0, 1))
        assert shown.getpixel((1, 1)) == (*source_map.LOCKED_COLOUR, 255)
        assert shown.getpixel((2, 1))[3] == 0


def test_a_base_that_copies_nothing_has_no_maps(tmp_path: Path) -> None:
    assert written(tmp_path, drawn({})) == []


def test_neighbouring_sources_have_colours_apart() -> None:
    colours = [source_map.colour_of(at) for at in range(40)]
    assert len(set(colours)) == 40
    apart = [
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) for one, other in pairwise(colours)
    ]
    assert min(apart) > 60
