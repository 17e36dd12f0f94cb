"""The gallery: self-contained, escaped, paged, and no larger than its pictures ask."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from creatok_cli.domain import Failed, Job
from creatok_cli.hashing import keyed
from creatok_cli.plan.batches import make_plan
from creatok_cli.sinks import gallery
from creatok_cli.sinks.gallery import Spec
from creatok_cli.workflows._run import run
from tests.fakes.drawing import FakeRenderer, finish, job, jobs, plan, task

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% for x in y %}",
    "[bold red]markup[/]",
    "\x1b[31mescape\x07",
    "=cmd|' /C calc'!A0",
    "javascript:alert(1)",
    "\u202egnp.exe",
    "\ud800 lone",
    "-->",
]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def test_a_picture_says_what_it_begins_from(tmp_path: Path) -> None:
    made = [
        job("a pig", 1, "a", init_image="sha256:" + "7" * 64, strength=0.25),
        job("a pig", 1, "b"),
    ]
    finish(run(task(tmp_path, make_plan(made, sheet="x", batch_class=4))))
    text = " ".join(parsed(tmp_path / "gallery.html").text)
    assert text.count("from sha256:") == 1
    assert "from sha256:777777777777, strength 0.25" in text


def test_h1_all_text_is_escaped(tmp_path: Path) -> None:
    members = []
    for index, text in enumerate(HOSTILE):
        bare = replace(job(text, index, f"h/{index}"), negative=text, row=text, index=index)
        members.append(replace(keyed(bare), labels=(("x", text),)))
    whole = make_plan(members, sheet=HOSTILE[0], batch_class=4)

    def fault(drawn: Job) -> Failed | None:
        return Failed(job=drawn, kind="error", message=HOSTILE[0]) if drawn.index == 3 else None

    finish(run(task(tmp_path, whole, FakeRenderer(fault=fault))))
    reader = parsed(tmp_path / "gallery.html")
    tags = [tag for tag, _ in reader.tags]
    assert "script" not in tags
    assert tags.count("img") == len(HOSTILE) - 1
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert not str(attributes.get("href", "")).startswith("javascript")
    text = "".join(reader.text)
    assert HOSTILE[0] in text
    assert HOSTILE[2] in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert "\x1b" not in (tmp_path / "gallery.html").read_text(encoding="utf-8")


def test_it_needs_no_network_and_its_links_lead_to_pictures(tmp_path: Path) -> None:
    whole = plan(6)
    finish(run(task(tmp_path, whole)))
    source = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//[a-z]", source.replace("<!doctype html>", ""))
    assert str(tmp_path) not in source
    reader = parsed(tmp_path / "gallery.html")
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 6
    for attributes in images:
        assert (tmp_path / unquote(str(attributes["src"]))).is_file()
        assert attributes["loading"] == "lazy"
        assert attributes["width"] == "16"
    text = "".join(reader.text)
    for each in whole.jobs:
        assert each.key in text
        assert f"{each.name}.png" in text
    assert "Base fake, licence cc0-1.0" in text
    assert "script-src 'none'" in source


def test_thousands_of_pictures_are_paged(tmp_path: Path) -> None:
    from creatok_cli.durable import Writer
    from creatok_cli.sinks._ledger import Ledger, line_of
    from creatok_cli.sinks.base import Output

    whole = plan(1234, per_prompt=4, batch_class=8)
    ledger = Ledger()
    for each in whole.jobs:
        ledger.add(line_of(each, shard=(1, 1)))
    out = Output(folder=tmp_path, writer=Writer(run="0a"), metadata="full", ledger=ledger)
    gallery.build(Spec(), out, whole).close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gallery-002.html", "gallery-003.html", "gallery.html"]
    counts = []
    for name in ("gallery.html", "gallery-002.html", "gallery-003.html"):
        reader = parsed(tmp_path / name)
        counts.append(sum(tag == "figure" for tag, _ in reader.tags))
        links = {a["href"] for tag, a in reader.tags if tag == "a" and "html" in str(a["href"])}
        assert links == set(names) - {name}
    assert counts == [500, 500, 234]
    short = plan(3)
    for each in short.jobs:
        ledger.add(line_of(each, shard=(1, 1)))
    (tmp_path / "gallery-mine.html").write_text("mine")
    gallery.build(Spec(), out, short).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery-mine.html", "gallery.html"]


def test_an_unchanged_page_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan(3)
    finish(run(task(tmp_path, whole)))
    before = (tmp_path / "gallery.html").stat().st_mtime_ns

    def never(*arguments: Any) -> bytes:
        raise AssertionError("written again")

    monkeypatch.setattr(gallery, "page", never)
    finish(run(task(tmp_path, whole)))
    assert (tmp_path / "gallery.html").stat().st_mtime_ns == before


def test_a_page_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "gallery.html").write_text("<h1>mine</h1>")
    summary, events, _ = finish(run(task(tmp_path, plan(3))))
    assert summary.code == 0
    assert (tmp_path / "gallery.html").read_text() == "<h1>mine</h1>"
    assert any("no gallery of creatok" in getattr(e, "message", "") for e in events)


def test_an_empty_folder_gets_no_page(tmp_path: Path) -> None:
    def fault(drawn: Job) -> Failed:
        return Failed(job=drawn, kind="oom", message="x")

    whole = make_plan(jobs(1), sheet="fake", batch_class=1)
    finish(run(task(tmp_path, whole, FakeRenderer(fault=fault))))
    reader = parsed(tmp_path / "gallery.html")
    assert "failed: oom" in "".join(reader.text)
