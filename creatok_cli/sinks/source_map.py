"""Source maps: which source each pixel was copied from, as a picture and as data.

For bases that copy pixels (`els:DIR`), beside every picture NAME.png:

    source-maps/NAME.png    one colour per source, transparent where the picture is
    source-maps/NAME.json   `rows` of runs [pixels, source, dy, dx]: so many pixels come from that
                            source, from (row + dy, column + dx) in it; source -1 is locked, dy and
                            dx are null beyond the edge of the source

Sources are counted from 0 in the order of their pack.

Does not: know the names of sources, or draw anything for bases that copy nothing.
"""

from __future__ import annotations

import colorsys
import io
import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from PIL import Image

from creatok_cli import durable
from creatok_cli.domain import Failed, Plan, Rendered
from creatok_cli.sinks.base import Output

PARALLEL = True
SCHEMA = 1
FOLDER = "source-maps"
MAPS = ("source", "row", "column")
NONE = 65535
LOCKED_COLOUR = (128, 128, 128)
GOLDEN = 0.618034
"""Hues of neighbouring numbers are this far apart, so that no two of few are alike."""

Run = tuple[int, int, int | None, int | None]
"""(pixels, source, dy, dx)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """The format is fixed."""


def build(spec: Spec, out: Output, plan: Plan) -> SourceMapSink:
    """A sink that writes into `source-maps/`."""
    return SourceMapSink(out)


class SourceMapSink:
    """Writes two files beside each picture that has maps."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def write(self, result: Rendered) -> None:
        """Nothing where a base names no sources. Raises OSError, OutputFull, OutputReadOnly."""
        if not all(name in result.maps for name in MAPS):
            return
        rows = runs(result.maps)
        image = coloured(result.maps["source"], result.image)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        data = json.dumps(document(result, rows), separators=(",", ":")) + "\n"
        folder, writer = self._out.folder, self._out.writer
        name = f"{FOLDER}/{result.job.name}"
        durable.replace_derived(folder, f"{name}.json", data.encode(), writer=writer)
        durable.replace_derived(folder, f"{name}.png", buffer.getvalue(), writer=writer)

    def fail(self, failed: Failed) -> None:
        """Nothing: a failed job has no pixels."""

    def close(self) -> None:
        """Nothing: every file is finished when it is written."""


def document(result: Rendered, rows: list[list[Run]]) -> dict[str, Any]:
    """The data of one map."""
    return {
        "schema": SCHEMA,
        "key": result.job.key,
        "size": list(result.image.size),
        "sources": [[source, pixels] for source, pixels in owners(result.maps, result.image)],
        "rows": rows,
    }


def owners(maps: Mapping[str, Image.Image], image: Image.Image) -> list[tuple[int, int]]:
    """(source, its pixels) of what can be seen in a picture, the most first."""
    seen = alpha_of(image)
    counts = Counter(
        source
        for source, alpha in zip(values(maps["source"]), seen, strict=True)
        if alpha and source != NONE
    )
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def runs(maps: Mapping[str, Image.Image]) -> list[list[Run]]:
    """Rows of runs; a run ends where source or shift change."""
    width, height = maps["source"].size
    source, row, column = (values(maps[name]) for name in MAPS)
    found: list[list[Run]] = []
    for y in range(height):
        line: list[tuple[int, int | None, int | None]] = []
        for x in range(width):
            at = y * width + x
            if source[at] == NONE:
                line.append((-1, None, None))
            elif NONE in (row[at], column[at]):
                line.append((source[at], None, None))
            else:
                line.append((source[at], row[at] - y, column[at] - x))
        found.append([(len(list(same)), *key) for key, same in groupby(line)])
    return found


def coloured(source: Image.Image, image: Image.Image) -> Image.Image:
    """RGBA: one colour per source, as opaque as the picture."""
    numbers = values(source)
    palette = {number: colour_of(number) for number in set(numbers)}
    pixels = b"".join(bytes(palette[number]) for number in numbers)
    found = Image.frombytes("RGB", source.size, pixels).convert("RGBA")
    found.putalpha(Image.frombytes("L", image.size, alpha_of(image)))
    return found


def colour_of(source: int) -> tuple[int, int, int]:
    """The colour of a source on every map."""
    if source == NONE or source < 0:
        return LOCKED_COLOUR
    hue = (source * GOLDEN) % 1
    value = (0.98, 0.8, 0.62)[source % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.62, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def values(image: Image.Image) -> array[int]:
    """The numbers of a 16-bit map, row by row."""
    found = array("H", image.tobytes())
    if array("H", [1]).tobytes()[0] != 1:
        found.byteswap()
    return found


def alpha_of(image: Image.Image) -> bytes:
    """How opaque each pixel is."""
    if "A" in image.getbands():
        return image.getchannel("A").tobytes()
    return b"\xff" * (image.width * image.height)
