"""What is written into a picture comes back out, whatever the text, and no damage passes."""

from __future__ import annotations

import io
import json
import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from creatok_cli import __version__
from creatok_cli.domain import Job, Provenance, Rendered
from creatok_cli.hashing import IDENTITY, keyed
from creatok_cli.sinks import _metadata
from creatok_cli.sinks._metadata import (
    HEAD,
    NotOurs,
    NotWhole,
    encode_png,
    iter_chunks,
    job_of,
    judge,
    pixel_hash,
    read_recipe,
)
from creatok_cli.sinks.base import base_label
from tests.fakes.drawing import DIGEST, job, picture

MADE = Provenance(
    device="cpu", batch_class=8, batch_effective=4, seconds=1.5, versions=(("torch", "2.13"),)
)
FACTS = (("base", "fake"), ("licence", "cc0-1.0"))


def rendered(drawn: Job, image: Image.Image | None = None, **changes: Any) -> Rendered:
    options = {"provenance": MADE, "facts": FACTS} | changes
    return Rendered(job=drawn, image=image or picture(drawn), **options)


def encoded(result: Rendered, mode: Any = "full") -> bytes:
    return encode_png(result, mode=mode, pixels=pixel_hash(result.image))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


ANY_TEXT = st.text(st.characters(), max_size=60)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
)
JOBS = st.builds(
    lambda **fields: keyed(
        Job(
            base_digest=DIGEST,
            scheduler="flow-match-euler",
            dtype="bf16",
            size_px=(8, 16),
            name="x",
            **fields,
        )
    ),
    prompt=ANY_TEXT,
    negative=st.none() | ANY_TEXT,
    seed=st.integers(0, 2**63 - 1),
    steps=st.integers(1, 100),
    guidance=st.floats(0, 30) | st.integers(0, 9),
    tokens=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=2).map(tuple),
    weights=st.lists(st.tuples(ANY_TEXT, st.floats(0, 2)), max_size=2).map(tuple),
    options=st.lists(st.tuples(ANY_TEXT, SCALARS), max_size=2).map(tuple),
    init_image=st.none() | st.just("sha256:1"),
    strength=st.none() | st.floats(0, 1),
)


@settings(max_examples=150, deadline=None)
@given(drawn=JOBS)
def test_any_job_comes_back(drawn: Job) -> None:
    """All Unicode, lone surrogates included: same identity, same key, pixels untouched."""
    result = rendered(drawn)
    data = encoded(result)
    back = job_of(read_recipe(data))
    assert {n: getattr(back, n) for n in IDENTITY if n != "guidance"} == {
        n: getattr(drawn, n) for n in IDENTITY if n != "guidance"
    }
    assert back.guidance == float(drawn.guidance)
    assert back.key == drawn.key
    assert drawn.key.encode() in data[:HEAD]
    image = opened(data)
    assert pixel_hash(image) == pixel_hash(result.image)
    assert judge(data, drawn.key)[0] == "ours"
    assert encoded(rendered(drawn)) == data
    # What others read: the A1111 text, and a well-formed packet.
    assert image.info["parameters"].endswith(f"Version: creatok {__version__}")
    ET.fromstring(image.info["xmp"])


@given(text=ANY_TEXT)
@settings(max_examples=100, deadline=None)
def test_parameters_keep_the_prompt(text: str) -> None:
    drawn = keyed(replace(job(text, 1, "x"), negative=text or None))
    found = opened(encoded(rendered(drawn))).info["parameters"]
    safe = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    assert found.startswith(safe)


def test_the_three_chunks() -> None:
    drawn = keyed(replace(job("a pig: red, \u00e9", 5, "x"), negative="blurry"))
    data = encoded(rendered(drawn))
    kinds = [kind for kind, _ in iter_chunks(data)]
    assert kinds[:4] == [b"IHDR", b"iTXt", b"tEXt", b"iTXt"]
    recipe = read_recipe(data)
    assert recipe["base"] == "fake"
    assert recipe["licence"] == "cc0-1.0"
    assert recipe["class"] == 4
    assert recipe["creatok"] == __version__
    assert recipe["versions"] == {"torch": "2.13"}
    assert recipe["recipe"]["prompt"] == drawn.prompt
    assert set(recipe) == {
        *("base", "class", "creatok", "key", "licence", "pixels", "recipe", "schema", "versions")
    }
    info = opened(data).info
    assert info["parameters"].splitlines() == [
        "a pig: red, \u00e9",
        "Negative prompt: blurry",
        "Steps: 2, Sampler: flow-match-euler, CFG scale: 4.0, Seed: 5, Size: 16x16, "
        f"Model hash: ababababab, Model: fake, Version: creatok {__version__}",
    ]
    packet = info["xmp"].decode()
    assert "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia<" in packet
    assert "<Iptc4xmpExt:AISystemUsed>creatok fake<" in packet
    assert "a pig: red" in packet
    assert sum(len(contents) for kind, contents in iter_chunks(data) if b"T" in kind[1:3]) < 4096


def test_a_picture_from_a_picture_is_marked_as_composite() -> None:
    drawn = keyed(replace(job("a pig", 5, "x"), init_image="sha256:1", strength=0.5))
    assert b"/compositeWithTrainedAlgorithmicMedia<" in encoded(rendered(drawn))


def test_values_with_commas_are_quoted_and_tokens_are_named() -> None:
    drawn = keyed(
        replace(
            job("a <fox>", 5, "x"),
            tokens=(("<fox>", "id1"),),
            weights=(("0123456789abcdef", 0.5),),
            scheduler="euler, odd",
        )
    )
    text = opened(encoded(rendered(drawn))).info["parameters"]
    assert 'Sampler: "euler, odd"' in text
    assert 'TI hashes: "<fox>: id1"' in text
    assert 'Lora hashes: "0123456789: 0.5"' in text


def test_less_metadata() -> None:
    drawn = job("secret prompt", 5, "x")
    minimal = encoded(rendered(drawn), "minimal")
    assert b"secret prompt" not in minimal
    recipe = read_recipe(minimal)
    assert (recipe["key"], recipe["seed"]) == (drawn.key, 5)
    assert b"trainedAlgorithmicMedia" in minimal
    assert judge(minimal, drawn.key)[0] == "ours"
    with pytest.raises(NotOurs, match="minimal"):
        job_of(recipe)
    none = encoded(rendered(drawn), "none")
    assert [kind for kind, _ in iter_chunks(none)] == [b"IHDR", b"IDAT", b"IEND"]
    with pytest.raises(NotOurs, match="no creatok chunk"):
        read_recipe(none)


def test_no_path_of_a_base_reaches_a_picture() -> None:
    drawn = keyed(replace(job("a pig", 5, "x"), base="/home/canary/models/sd3/"))
    for facts in ((), (("base", "C:\\canary\\sd3"),)):
        data = encoded(rendered(drawn, facts=facts))
        assert b"canary" not in data
        assert read_recipe(data)["base"] == "sd3"
    assert base_label("bestiary") == "bestiary"
    assert base_label("/") == "/"


def test_what_a_picture_brings_along_is_dropped() -> None:
    """Profiles, comments and encoder settings of an Image do not reach the file."""
    drawn = job("a pig", 5, "x")
    image = picture(drawn)
    image.info = {"icc_profile": b"x" * 100, "comment": "canary", "transparency": 3, "dpi": (9, 9)}
    image.encoderinfo = {"compress_level": 9}
    assert encoded(rendered(drawn, image)) == encoded(rendered(drawn))
    assert image.info["comment"] == "canary"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_both_modes(mode: str) -> None:
    drawn = job("a pig", 5, "x")
    image = picture(drawn).convert(mode)
    assert judge(encoded(rendered(drawn, image)), drawn.key)[0] == "ours"


def test_long_facts_do_not_push_the_key_out_of_the_head() -> None:
    drawn = job("p" * 20000, 5, "x")
    facts = (*FACTS, ("prompt_cut", "p" * 9000))
    data = encoded(rendered(drawn, facts=facts))
    assert drawn.key.encode() in data[:HEAD]
    assert read_recipe(data)["notes"] == {"prompt_cut": "p" * 9000}


# Damage


def test_a_cut_anywhere_is_damage() -> None:
    drawn = job("a pig", 5, "x")
    data = encoded(rendered(drawn))
    for end in range(len(data)):
        assert judge(data[:end], drawn.key)[0] == "damaged"
    assert judge(data + b"x", drawn.key)[0] == "damaged"


def test_a_flipped_bit_anywhere_is_damage() -> None:
    drawn = job("a pig", 5, "x")
    data = encoded(rendered(drawn))
    chance = random.Random(1)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        assert judge(bytes(flipped), drawn.key)[0] == "damaged", at


def with_recipe(data: bytes, change: Any) -> bytes:
    """The picture with another, well-formed recipe chunk."""
    recipe = read_recipe(data)
    changed = change(recipe)
    recipe = recipe if changed is None else changed
    chunk = _metadata._itxt("creatok", json.dumps(recipe).encode())
    old = next((bytes(contents) for kind, contents in iter_chunks(data) if kind == b"iTXt"), b"")
    start = data.index(old) - 8
    return data[:start] + chunk + data[start + len(old) + 12 :]


def _set(*path: str, value: Any) -> Any:
    def change(recipe: dict[str, Any]) -> None:
        for name in path[:-1]:
            recipe = recipe[name]
        recipe[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("key", value="r1:" + "0" * 40),
        _set("key", value=3),
        _set("pixels", value="0" * 64),
        _set("schema", value=2),
        _set("schema", value="1"),
        _set("recipe", "seed", value=6),
        _set("recipe", "seed", value=-1),
        _set("recipe", "seed", value=True),
        _set("recipe", "prompt", value=["a"]),
        _set("recipe", "size_px", value=[10**6, 10**6]),
        _set("recipe", "size_px", value=[1]),
        _set("recipe", "tokens", value=[["a"]]),
        _set("recipe", "options", value=[["a", {}]]),
        _set("recipe", "render_version", value=99),
        lambda recipe: recipe["recipe"].pop("steps") and None,
        lambda recipe: [],
    ],
)
def test_changed_recipes_are_not_believed(change: Any) -> None:
    drawn = job("a pig", 5, "x")
    data = with_recipe(encoded(rendered(drawn)), change)
    list(iter_chunks(data))
    verdict, reason, _ = judge(data, drawn.key)
    assert verdict == "other"
    assert reason


def test_hostile_chunks_do_not_break_the_reader() -> None:
    head = encoded(rendered(job("a pig", 5, "x")), "none")
    for body in (
        b"creatok\x00\x00\x00\x00\x00" + b"[" * 100_000,
        b"creatok\x00\x00\x00no end",
        b"creatok\x00\x01\x00\x00\x00{}",
        b"creatok\x00\x00\x00\x00\x00\xff\xfe",
        b"",
    ):
        chunk = _metadata._chunk(b"iTXt", body)
        data = head[: _metadata.IHDR_END] + chunk + head[_metadata.IHDR_END :]
        with pytest.raises(NotOurs):
            read_recipe(data)


def test_a_bomb_is_refused_by_its_header() -> None:
    """60,000 x 60,000 pixels in a few bytes: never decoded."""
    drawn = job("a pig", 5, "x")
    data = bytearray(encoded(rendered(drawn)))
    import struct
    import zlib

    ihdr = data[12:29]
    ihdr[4:12] = struct.pack(">II", 60_000, 60_000)
    data[12:29] = ihdr
    data[29:33] = struct.pack(">I", zlib.crc32(ihdr))
    assert judge(bytes(data), drawn.key)[:2] == ("other", "too many pixels")


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP"])
def test_other_formats_are_no_png_whatever_their_name(format: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format)
    with pytest.raises(NotWhole, match="signature"):
        read_recipe(buffer.getvalue())
