"""Manifest lines: a cut, flipped or doubled file only loses trust, never invents any."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creatok_cli.domain import Failed, Provenance, Rendered
from creatok_cli.errors import ManifestDamaged, SchemaNewer
from creatok_cli.sinks import _ledger
from creatok_cli.sinks._ledger import Ledger, Line, decode, encode, line_of, read
from creatok_cli.sinks.base import Published
from tests.fakes.drawing import job, jobs, picture

ALWAYS = {"key", "job", "file", "seed", "prompt", "size", "sha256", "status"}


def line(number: int = 0, **changes: object) -> Line:
    made = Line(
        key=f"r1:{number:040x}",
        job="first",
        file=f"first/{number:04d}.png",
        seed=number,
        prompt="a pig",
        size="64x64",
        status="done",
        sha256="0" * 64,
        pixels="1" * 64,
        bytes=1000 + number,
        seconds=0.25,
        labels={"animal": "pig"},
        notes=("adopted",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_line_says_what_readers_need() -> None:
    drawn = job("a pig", 7, "first/0000-x", row="first", labels=(("animal", "pig"),))
    made = Provenance(
        device="cpu", batch_class=8, batch_effective=4, seconds=0.123456, versions=(("torch", "2"),)
    )
    result = Rendered(
        job=drawn,
        image=picture(drawn),
        provenance=made,
        facts=(("base", "/a/fake"), ("licence", "l")),
    )
    published = Published(
        file="first/0000-x.png", sha256="ab", pixels="cd", bytes=9, how="new", drawn_pixels="cd"
    )
    record = json.loads(encode(line_of(drawn, shard=(2, 3), rendered=result, published=published)))
    crc = record.pop("crc")
    assert len(crc) == 8
    assert record.keys() >= ALWAYS
    assert record["file"] == "first/0000-x.png"
    assert record["size"] == "16x16"
    assert record["base"] == "fake"
    assert record["licence"] == "l"
    assert record["shard"] == "2/3"
    assert record["batch_class"] == 8
    assert record["batch_effective"] == 4
    assert record["labels"] == {"animal": "pig"}
    assert record["status"] == "done"
    failed = Failed(job=drawn, kind="oom", message="no memory", retriable=True)
    record = json.loads(encode(line_of(drawn, shard=(1, 1), failed=failed)))
    assert record.keys() >= ALWAYS
    assert (record["status"], record["sha256"]) == ("failed", None)
    assert (record["kind"], record["error"], record["retriable"]) == ("oom", "no memory", True)


@given(
    prompt=st.text(st.characters()),
    labels=st.dictionaries(st.text(st.characters()), st.text(st.characters()), max_size=2),
)
@settings(max_examples=150, deadline=None)
def test_any_text_round_trips_on_one_line(prompt: str, labels: dict[str, str]) -> None:
    written = line(3, prompt=prompt, labels=labels, negative=prompt)
    data = encode(written)
    assert data.count(b"\n") == 1
    assert decode(data[:-1]) == written
    assert data.decode("utf-8")


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, bytes, list[Line]]:
    written = [line(0), line(1, status="failed", sha256=None, kind="oom"), line(2), line(1)]
    data = b"".join(encode(each) for each in written)
    (tmp_path / "manifest.jsonl").write_bytes(data)
    return tmp_path, data, written


def test_the_last_line_wins(whole: tuple[Path, bytes, list[Line]]) -> None:
    folder, _, written = whole
    ledger = read(folder)
    assert (ledger.lines, ledger.bad, ledger.torn) == (4, 0, {})
    assert ledger.by_file["first/0001.png"] == written[3]
    failing = encode(line(0, status="failed", sha256=None))
    (folder / "manifest.jsonl").write_bytes(whole[1] + failing)
    ledger = read(folder)
    assert ledger.by_file["first/0000.png"].status == "failed"
    assert "r1:" + "0" * 40 not in ledger.by_key


def test_c6_cut_at_each_byte(whole: tuple[Path, bytes, list[Line]]) -> None:
    """Trust only shrinks, and once the torn tail is cut the second load is clean."""
    folder, data, written = whole
    path = folder / "manifest.jsonl"
    ends = [0]
    for each in written:
        ends.append(ends[-1] + len(encode(each)))
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        ledger = read(folder)
        complete = max(index for index, end in enumerate(ends) if end <= cut)
        assert ledger.lines == complete
        assert ledger.bad == 0
        expected = {} if cut in ends else {"manifest.jsonl": ends[complete]}
        assert ledger.torn == expected
        if expected:
            path.write_bytes(data[: ends[complete]])
            assert read(folder).torn == {}


def test_c6_flips_never_invent_a_line(whole: tuple[Path, bytes, list[Line]]) -> None:
    folder, data, written = whole
    chance = random.Random(2)
    for _ in range(400):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (folder / "manifest.jsonl").write_bytes(bytes(flipped))
        ledger = read(folder)
        assert all(each in written for each in ledger.by_file.values())
        assert ledger.lines in (2, 3, 4)
        assert ledger.bad + len(ledger.torn) <= 2


def test_c6_doubled_and_reordered(whole: tuple[Path, bytes, list[Line]]) -> None:
    folder, data, _ = whole
    before = read(folder)
    (folder / "manifest.jsonl").write_bytes(data + data)
    after = read(folder)
    assert after.by_file == before.by_file
    assert after.by_key == before.by_key


def test_a_newer_schema_is_refused(whole: tuple[Path, bytes, list[Line]]) -> None:
    folder, data, _ = whole
    body = encode(line(5)).replace(b'"schema":1', b'"schema":2').rpartition(b',"crc"')[0] + b"}"
    newer = body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)
    (folder / "manifest.jsonl").write_bytes(data + newer)
    with pytest.raises(SchemaNewer, match="schema 2"):
        read(folder)
    # With a wrong checksum it is a bad line like any other.
    (folder / "manifest.jsonl").write_bytes(data + newer.replace(b"pig", b"gip"))
    assert read(folder).bad == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "7"},
        {"seed": True},
        {"file": 3},
        {"status": "maybe"},
        {"schema": "1"},
        {"schema": None},
        {"labels": []},
        {"key": None},
    ],
)
def test_wrong_types_are_bad_lines(change: dict[str, object]) -> None:
    record = json.loads(encode(line()))
    del record["crc"]
    record |= change
    body = json.dumps(record).encode()
    assert decode(body[:-1] + b',"crc":"%08x"}' % zlib.crc32(body)) is None


def test_unknown_fields_are_ignored() -> None:
    record = json.loads(encode(line()))
    del record["crc"]
    body = json.dumps(record | {"added_later": [1]}).encode()
    assert decode(body[:-1] + b',"crc":"%08x"}' % zlib.crc32(body)) == line()


def test_the_union_of_shards(tmp_path: Path) -> None:
    (tmp_path / "manifest.1-of-2.jsonl").write_bytes(encode(line(1)))
    (tmp_path / "manifest.2-of-2.jsonl").write_bytes(
        encode(line(2)) + encode(line(1, status="failed", sha256=None))
    )
    (tmp_path / "manifest.copy.jsonl").write_bytes(encode(line(9)))
    (tmp_path / "manifest.jsonl").write_bytes(
        encode(line(3)) + encode(line(2, status="failed", sha256=None))
    )
    ledger = read(tmp_path)
    assert {file: each.status for file, each in ledger.by_file.items()} == {
        "first/0001.png": "done",
        "first/0002.png": "done",
        "first/0003.png": "done",
    }
    assert read(tmp_path / "nothing") == Ledger()


def test_a_linked_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(encode(line(1)))
    (tmp_path / "manifest.jsonl").symlink_to(tmp_path / "real")
    with pytest.raises(ManifestDamaged):
        read(tmp_path)


def test_sizes() -> None:
    assert line().size_px == (64, 64)
    assert line(size="wide").size_px == (0, 0)


def test_every_field_has_a_type() -> None:
    assert set(_ledger._TYPES) == set(Line.__dataclass_fields__)
    assert set(_ledger._ALWAYS) == ALWAYS


def test_pictures_follow_the_plan_and_leave_out_what_was_never_tried() -> None:
    from creatok_cli.plan.batches import make_plan
    from creatok_cli.sinks._ledger import entries, pictures

    members = jobs(6)
    whole = make_plan(members, sheet="fake", batch_class=4)
    ledger = Ledger()
    for each in reversed(members[1:4]):
        ledger.add(line_of(each, shard=(1, 1)))
    shown = pictures(whole, ledger)
    assert [each.job for each in shown] == members[1:4]
    grouped = entries(shown)
    assert list(grouped) == ["first", "second"]
    assert [len(found) for found in grouped["first"].values()] == [1, 1]
    other_key = replace(line_of(members[0], shard=(1, 1)), key="r1:other")
    ledger.add(other_key)
    assert len(pictures(whole, ledger)) == 3
