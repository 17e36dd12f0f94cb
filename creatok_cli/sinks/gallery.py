"""A gallery to open in a browser: one page of plain HTML per 500 pictures, no script, no network.

Pictures are named by relative links and loaded when they come into view. All text goes through
Jinja2's autoescape and a policy without scripts. An unchanged page is not written again.

Does not: contain a time, an absolute path or a picture; show what was never tried.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from creatok_cli import __version__, durable
from creatok_cli.domain import Failed, Plan, Rendered, Score
from creatok_cli.hashing import sha256_hex
from creatok_cli.sinks._ledger import Picture, entries, pictures
from creatok_cli.sinks._metadata import json_bytes
from creatok_cli.sinks.base import Output, told

if TYPE_CHECKING:
    from jinja2 import Template

MARK = "creatok gallery"
"""In the first bytes of our own pages, before their digest: no other file is touched."""
HEAD_BYTES = 200

TEMPLATE = """\
<!doctype html>
<!-- {{ mark }} {{ digest }} -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="script-src 'none'; object-src 'none'; frame-src 'none';
 connect-src 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="creatok {{ version }}">
<title>{{ sheet }}</title>
<style>
:root { color-scheme: dark; --tile: 192px }
body { margin: 0; padding: 2rem clamp(1rem, 4vw, 3rem); background: #18191c; color: #ececf0;
  font: 15px/1.45 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.9rem; font-weight: 600 }
h2 { margin: 2.2rem 0 0; padding-top: 1rem; border-top: 1px solid #3a3d44; color: #f0be5a;
  font-size: 1.2rem; font-weight: 600 }
h3 { margin: 1.2rem 0 .5rem; font-size: 1rem; font-weight: 500; overflow-wrap: anywhere }
.muted, footer, nav { color: #9699a3 }
.grid { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(var(--tile), 1fr)) }
section { display: flex; flex-direction: column; justify-content: end; min-width: 0 }
section.row { grid-column: 1 / -1 }
figure { margin: 0; min-width: 0 }
img, .failed { display: block; width: 100%; height: auto; background: #24262b; border-radius: 4px }
.failed { aspect-ratio: 1; padding: 12px; box-sizing: border-box; color: #e26e62;
  border: 1px solid; overflow: hidden; overflow-wrap: anywhere }
figcaption { margin-top: 4px; color: #9699a3; font-size: .78rem; overflow-wrap: anywhere }
.scores { color: #ececf0 } figcaption b { color: #f0be5a }
code { font: .95em ui-monospace, monospace }
a { color: inherit } nav a, nav b { margin-right: .6rem }
footer { margin-top: 3rem; border-top: 1px solid #3a3d44; padding-top: 1rem; font-size: .85rem }
</style>
</head>
<body>
<h1>{{ sheet }}</h1>
<p class="muted">{{ done }} picture{{ "s" if done != 1 }}
{%- if failed %}, {{ failed }} failed{% endif %}
{%- if pages|length > 1 %}, page {{ number }} of {{ pages|length }}{% endif %}</p>
{% macro links() %}{% if pages|length > 1 %}<nav>{% for name in pages %}
{%- if loop.index == number %}<b>{{ loop.index }}</b>
{%- else %}<a href="{{ name }}">{{ loop.index }}</a>{% endif %}
{% endfor %}</nav>{% endif %}{% endmacro %}
{{ links() }}
{% for entry in shown %}
<h2><bdi>{{ entry.name }}</bdi></h2>
{% if entry.scores %}<p class="muted">{{ entry.scores }}</p>{% endif %}
<div class="grid">
{% for block in entry.blocks %}
<section{% if block.pictures|length > 1 %} class="row"{% endif %}>
<h3><bdi>{{ block.prompt }}</bdi></h3>
{% if block.negative %}<p class="muted">without: <bdi>{{ block.negative }}</bdi></p>{% endif %}
<div class="grid">
{% for p in block.pictures %}
<figure>
{% if p.link %}<a href="{{ p.link }}"><img src="{{ p.link }}" loading="lazy" decoding="async"
 width="{{ p.width }}" height="{{ p.height }}" alt="{{ block.prompt }}"></a>
{% else %}<div class="failed">failed: {{ p.kind }}<br>{{ p.error }}</div>{% endif %}
<figcaption>{% if p.picked %}<b>picked</b><br>{% endif %}
{%- if p.scores %}<span class="scores">{{ p.scores }}</span><br>{% endif %}
{%- if p.start %}from {{ p.start }}<br>{% endif %}
{{- p.file }}<br>seed {{ p.seed }}<br><code>{{ p.key }}</code></figcaption>
</figure>
{% endfor %}
</div>
</section>
{% endfor %}
</div>
{% endfor %}
{{ links() }}
<footer>
<p>Made with creatok {{ version }}, an AI system; every picture carries its recipe and the IPTC mark
trainedAlgorithmicMedia (compositeWithTrainedAlgorithmicMedia where it begins from a picture)
unless it was written without metadata.
Draw one again: <code>creatok sample --from PICTURE.png</code></p>
{% for base in bases %}
<p>Base {{ base.name }}{% if base.licence %}, licence {{ base.licence }}{% endif %}
{%- if base.digest %} <code>{{ base.digest }}</code>{% endif %}</p>
{% endfor %}
</footer>
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """How many pictures a page holds."""

    page_pictures: int = 500


def build(spec: Spec, out: Output, plan: Plan) -> GallerySink:
    """A sink that writes its pages when it is closed."""
    return GallerySink(spec, out, plan)


class GallerySink:
    """Writes `gallery.html`, and `gallery-002.html` and so on for the pages after it."""

    def __init__(self, spec: Spec, out: Output, plan: Plan) -> None:
        self._spec, self._out, self._plan = spec, out, plan

    def write(self, result: Rendered) -> None:
        """Nothing: pages are derived from the manifest."""

    def fail(self, failed: Failed) -> None:
        """Nothing: see `write`."""

    def close(self) -> None:
        """Writes the pages that changed and removes those that no longer exist."""
        if self._out.stopped:
            return
        shown = pictures(self._plan, self._out.ledger)
        step = self._spec.page_pictures
        parts = [shown[start : start + step] for start in range(0, len(shown), step)]
        names = [page_name(number) for number in range(1, len(parts) + 1)]
        for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
            content = page_content(self._plan.sheet, shown, part, names, number, self._out)
            digest = sha256_hex(json_bytes([TEMPLATE, content]))
            head = self._head(name)
            if f"{MARK} {digest}".encode() in head:
                continue
            if MARK.encode() not in head and os.path.lexists(self._out.folder / name):
                raise FileExistsError(f"{name} is no gallery of creatok; move it away")
            data = page(content, digest)
            durable.replace_derived(self._out.folder, name, data, writer=self._out.writer)
        for path in sorted(self._out.folder.glob("gallery*.html")):
            if path.name not in names and MARK.encode() in self._head(path.name):
                durable.remove(self._out.folder, path.name)

    def _head(self, name: str) -> bytes:
        try:
            with durable.place(self._out.folder, name) as spot, durable.reading(spot) as (fd, _):
                return os.read(fd, HEAD_BYTES)
        except OSError:
            return b""


def page_name(number: int) -> str:
    """The first page has no number."""
    return "gallery.html" if number == 1 else f"gallery-{number:03d}.html"


def page_content(
    sheet: str,
    shown: Sequence[Picture],
    part: Sequence[Picture],
    names: Sequence[str],
    number: int,
    out: Output,
) -> dict[str, Any]:
    """What one page says, as plain data."""
    done = sum(picture.line.status == "done" for picture in shown)
    return {
        "version": __version__,
        "sheet": visible(sheet),
        "done": done,
        "failed": len(shown) - done,
        "pages": list(names),
        "number": number,
        "shown": [
            {
                "name": visible(entry),
                "scores": scores_text(out.row_scores.get(entry, ())),
                "blocks": [block(found, out) for found in prompts.values()],
            }
            for entry, prompts in entries(list(part)).items()
        ],
        "bases": bases(part),
    }


@cache
def template() -> Template:
    """The page, with autoescape."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE)


def page(content: Mapping[str, Any], digest: str) -> bytes:
    """The HTML of one page."""
    text = template().render(content, mark=MARK, digest=digest)
    return text.encode("utf-8", "replace")


def scores_text(scores: Sequence[Score]) -> str:
    """`clip 0.312, labels 0.441 owl`."""
    return visible(", ".join(told(score) for score in scores))


def block(found: Sequence[Picture], out: Output) -> dict[str, Any]:
    """One prompt and its pictures."""
    first = found[0].line
    return {
        "prompt": visible(first.prompt),
        "negative": visible(first.negative or ""),
        "pictures": [
            {
                "link": quote(p.line.file) if p.line.status == "done" else "",
                "file": visible(p.line.file),
                "width": p.job.size_px[0],
                "height": p.job.size_px[1],
                "seed": p.line.seed,
                "key": p.line.key,
                "kind": visible(p.line.kind),
                "error": visible(p.line.error),
                "scores": scores_text(out.scores.get(p.line.file, ())),
                "picked": p.line.file in out.picks,
                "start": start_text(p),
            }
            for p in found
        ],
    }


def start_text(picture: Picture) -> str:
    """`pig.png, strength 0.5`; empty for a picture that begins from noise."""
    if picture.job.init_image is None:
        return ""
    name = picture.line.init_name or picture.job.init_image[:19]
    return visible(f"{name}, strength {picture.job.strength:g}")


def bases(shown: Sequence[Picture]) -> list[dict[str, str]]:
    """Each base once, with licence and digest."""
    found: dict[tuple[str, str, str], None] = {}
    for line in (picture.line for picture in shown if picture.line.status == "done"):
        found[(line.base, line.licence, line.base_digest)] = None
    return [
        {"name": visible(name), "licence": visible(licence), "digest": visible(digest[:19])}
        for name, licence, digest in found
        if name
    ]


def visible(text: str) -> str:
    """Control characters and lone surrogates become U+FFFD; escaping is the template's work."""
    return "".join(
        " " if c in "\t\n\r" else "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c
        for c in text
    )
