"""Canonical JSON and keys. The golden key must never change without a new RENDER_VERSION."""

from __future__ import annotations

import math

import pytest

from creatok_cli.domain import RENDER_VERSION, Job
from creatok_cli.hashing import canonical_json, content_key, identity, keyed, sha256_hex

JOB = Job(
    base_digest="sha256:00",
    prompt="a photo of a pig in the meadow",
    negative=None,
    seed=7,
    size_px=(64, 64),
    steps=8,
    guidance=4.0,
    scheduler="euler",
    dtype="fp32",
)
GOLDEN = {1: "r1:670c9dd5d744441b1d599a2f9443ef5bb21d17a2"}


def test_canonical_json_sorts_and_keeps_unicode() -> None:
    assert canonical_json({"b": [1, 2.0, None], "a": "狐\n"}) == '{"a":"狐\\n","b":[1,2.0,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
def test_canonical_json_refuses_what_json_cannot_say(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)
    with pytest.raises(TypeError):
        canonical_json({1, 2})


def test_hashes_of_text_and_bytes_agree() -> None:
    assert sha256_hex("é") == sha256_hex("é".encode())
    assert sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert len(sha256_hex("\ud800")) == 64


def test_a_key_is_a_tag_and_40_hex_digits_and_never_changes() -> None:
    assert content_key(JOB) == GOLDEN[RENDER_VERSION]


def test_a_whole_guidance_is_the_same_number() -> None:
    fields = {
        name: getattr(JOB, name)
        for name in ("base_digest", "prompt", "seed", "size_px", "steps", "scheduler")
    }
    whole = Job(**fields, dtype="fp32", guidance=4)
    assert content_key(whole) == content_key(JOB)
    assert identity(JOB)["render_version"] == RENDER_VERSION


def test_keyed_fills_the_key_and_nothing_else() -> None:
    made = keyed(JOB)
    assert made.key == content_key(JOB) == content_key(made)
    assert keyed(made) == made
