"""Token files: round trip, identity, and every damage caught (T1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creatok_cli.errors import ArtefactError, CreatokError, DigestMismatch, Refused, TokenMissing
from creatok_cli.tokens.file import load_token, read_header, save_token, token_bytes
from creatok_cli.tokens.token import Token, check_widths

RECIPE = {"kind": "token", "method": "cretok", "steps": 10, "losses": [0.5, 0.25], "base": "tiny"}


def make(n: int = 2, seed: int = 0, **changes: Any) -> Token:
    draw = torch.Generator().manual_seed(seed)
    vectors = {
        "clip_l": torch.randn((n, 16), generator=draw),
        "clip_g": torch.randn((n, 24), generator=draw),
    }
    return replace(Token("<hydra-fox>", "creative", vectors, RECIPE), **changes)


def raw(tensors: dict[str, Any], payload: bytes, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file by hand."""
    header = dict(tensors) if metadata is None else {"__metadata__": metadata, **tensors}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def test_round_trip_keeps_every_byte(tmp_path: Path) -> None:
    token = make()
    save_token(tmp_path / "deep" / "hydra-fox.safetensors", token, {"modelspec.license": "cc0-1.0"})
    path = tmp_path / "deep" / "hydra-fox.safetensors"
    loaded, header = load_token(path), read_header(path)
    assert loaded.id == token.id == header.id
    assert loaded.word == header.word == "<hydra-fox>"
    assert loaded.recipe == header.recipe == RECIPE
    assert header.widths == {"clip_l": 16, "clip_g": 24}
    assert header.counts == {"clip_l": 2, "clip_g": 2}
    assert header.metadata["modelspec.license"] == "cc0-1.0"
    for name, rows in token.vectors.items():
        assert torch.equal(loaded.vectors[name], rows)


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    save_token(tmp_path / "t.safetensors", make())
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["clip_g", "clip_l"]
        assert torch.equal(file.get_tensor("clip_l"), make().vectors["clip_l"])
        assert file.metadata()["modelspec.sai_model_spec"] == "1.0.1"


def test_equal_tokens_give_equal_bytes_and_saving_twice_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_token(path, make())
    before = path.read_bytes()
    save_token(path, make())
    assert path.read_bytes() == before == token_bytes(make())
    with pytest.raises(ArtefactError, match="another token"):
        save_token(path, make(seed=1))
    assert path.read_bytes() == before


def test_identity_is_tensors_literal_and_recipe_but_no_name_or_date() -> None:
    token = make()
    assert make(word="<other>").id == token.id
    assert make(recipe=RECIPE | {"date": "2026-01-01", "name": "x"}).id == token.id
    others = [make(seed=1), make(n=1), make(literal="weird"), make(recipe=RECIPE | {"steps": 11})]
    swapped = {"clip_l": token.vectors["clip_l"].flip(0), "clip_g": token.vectors["clip_g"]}
    assert len({token.id, *(each.id for each in others), make(vectors=swapped).id}) == 6


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_token(path, make())
    code = (
        "import sys; from creatok_cli.tokens.file import read_header; "
        f"print(read_header({str(path)!r}).id); "
        "assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == make().id, done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"word": "fox"}, "must look like"),
        ({"word": "<Fox>"}, "must look like"),
        ({"word": "<" + "x" * 65 + ">"}, "must look like"),
        ({"literal": " "}, "literal"),
        ({"literal": "a\nb"}, "literal"),
        ({"vectors": {}}, "no vectors"),
        ({"vectors": {"clip_l": torch.zeros(16)}}, "shape"),
        ({"vectors": {"clip_l": torch.zeros(0, 16)}}, "shape"),
        ({"vectors": {"clip_l": torch.zeros(65, 16)}}, "shape"),
        ({"vectors": {"clip_l": torch.zeros(1, 16, dtype=torch.float16)}}, "float32"),
        ({"vectors": {"clip_l": torch.full((1, 16), float("nan"))}}, "not finite"),
        ({"vectors": {"clip_l": torch.full((1, 16), float("inf"))}}, "not finite"),
        ({"vectors": {"clip_l": torch.full((1, 16), 1e6)}}, "length"),
        ({"vectors": {"Clip L": torch.zeros(1, 16)}}, "no encoder name"),
    ],
)
def test_impossible_tokens_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        make(**changes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>" + b" " * 99, "web page"),
        (b"\x80\x02}q\x00." + b"x" * 99, "pickle"),
        (b"PK\x03\x04" + b"x" * 99, "zip archive"),
        (b'{"error": "Repository not found"}' + b" " * 99, "text or JSON"),
        (b"\x00" * 200, "no safetensors"),
        (raw({}, b""), "no creatok token"),
        (
            raw({"emb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
            "no creatok",
        ),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(Refused, match=said):
        read_header(tmp_path / "x.safetensors")


def edit(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The same file with an edited header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["clip_l"].update(dtype="F16"),
        lambda header: header["clip_l"].update(shape=[32]),
        lambda header: header["clip_l"].update(shape=[]),
        lambda header: header["clip_l"].update(shape=[-2, -16]),
        lambda header: header["clip_l"].update(shape=[2.0, 16]),
        lambda header: header["clip_l"].update(shape=[16, 2]),
        lambda header: header["clip_l"].update(data_offsets=[0, 128]),
        lambda header: header["clip_l"].update(data_offsets=[2**60, 2**60 + 128]),
        lambda header: header["clip_l"].update(extra=1),
        lambda header: header.update(clip_h=header.pop("clip_l")),
        lambda header: header.update({"../x": header.pop("clip_l")}),
        lambda header: header.update(clip_l=[1]),
        lambda header: header.update(__metadata__={"creatok.id": 1}),
        lambda header: header["__metadata__"].update({"creatok.word": "<x y>"}),
        lambda header: header["__metadata__"].update({"creatok.literal": "\x1b[31m"}),
        lambda header: header["__metadata__"].update({"creatok.literal": "other"}),
        lambda header: header["__metadata__"].update({"creatok.recipe": "{"}),
        lambda header: header["__metadata__"].update({"creatok.recipe": "[" * 100_000}),
        lambda header: header["__metadata__"].update({"creatok.recipe": '{"steps":11}'}),
        lambda header: header["__metadata__"].update({"creatok.recipe": '{"a":NaN}'}),
        lambda header: header["__metadata__"].update({"creatok.schema": "99"}),
        lambda header: header["__metadata__"].update({"creatok.id": "sha256:" + "0" * 64}),
        lambda header: header["__metadata__"].pop("creatok.id"),
    ],
)
def test_edited_headers_are_caught(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(edit(token_bytes(make()), change))
    with pytest.raises((Refused, DigestMismatch), match=r"x\.safetensors"):
        read_header(path)


def test_not_finite_values_are_caught_even_with_a_matching_id(tmp_path: Path) -> None:
    from creatok_cli.tokens.token import token_id

    payload = b"\x00\x00\xc0\x7f" * 16
    identity = token_id({"clip_l": ((1, 16), payload)}, "creative", {})
    metadata = {
        "creatok.schema": "1",
        "creatok.id": identity,
        "creatok.word": "<x>",
        "creatok.literal": "creative",
        "creatok.recipe": "{}",
    }
    entry = {"dtype": "F32", "shape": [1, 16], "data_offsets": [0, 64]}
    (tmp_path / "x.safetensors").write_bytes(raw({"clip_l": entry}, payload, metadata))
    with pytest.raises(Refused, match="not finite"):
        load_token(tmp_path / "x.safetensors")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(TokenMissing, match="no such token file"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(TokenMissing):
        read_header("a\0b")
    with pytest.raises(ArtefactError):
        read_header(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(Refused, match="not a regular file"):
            read_header(tmp_path / "pipe")


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_cut_or_flip_is_caught_with_a_message(tmp_path: Path, data: st.DataObject) -> None:
    whole = token_bytes(make())
    kind = data.draw(st.sampled_from(["cut", "grow", "flip", "noise"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    if kind == "cut":
        changed = whole[:place]
    elif kind == "grow":
        changed = whole + data.draw(st.binary(min_size=1, max_size=20))
    elif kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        changed = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    else:
        changed = data.draw(st.binary(max_size=300))
    path = tmp_path / "x.safetensors"
    path.write_bytes(changed)
    payload = 8 + int.from_bytes(whole[:8], "little")
    caught: CreatokError | None = None
    try:
        header = read_header(path)
    except CreatokError as error:
        caught = error
    if caught is not None:
        assert "x.safetensors" in str(caught)
        assert caught.code == 4
    else:  # only names and notes outside the identity may change unseen
        assert kind == "flip"
        assert place < payload
        assert header.id == make().id


def test_every_payload_byte_is_under_the_digest(tmp_path: Path) -> None:
    whole = token_bytes(make())
    path = tmp_path / "x.safetensors"
    for place in range(8 + int.from_bytes(whole[:8], "little"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((DigestMismatch, Refused)):
            read_header(path)


def test_widths_must_fit_the_base() -> None:
    base = {"clip_l": 16, "clip_g": 24, "t5xxl": 64}
    check_widths("<x>", {"clip_l": 16, "clip_g": 24}, base, "tiny")
    check_widths("<x>", {"clip_l": 16, "clip_g": 24, "t5xxl": 4096}, base, "tiny")
    with pytest.raises(
        ArtefactError, match=r"<x> was learned for clip_l of width 768, base tiny has"
    ):
        check_widths("<x>", {"clip_l": 768, "clip_g": 24}, base, "tiny")
    with pytest.raises(ArtefactError, match="no vectors for clip_g"):
        check_widths("<x>", {"clip_l": 16}, base, "tiny")
    with pytest.raises(ArtefactError, match="clip_h"):
        check_widths("<x>", {"clip_l": 16, "clip_g": 24, "clip_h": 8}, base, "tiny")


KEPT = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("name", ["token-schema-1.safetensors", "token-schema-1-diffusers"])
def test_artefacts_of_every_release_are_read_forever(tmp_path: Path, name: str) -> None:
    """Written once, never again: files that users have must stay what they are."""
    from creatok_cli.tokens._imports import read_any

    path = tmp_path / "x.safetensors"
    path.write_bytes(read_any(KEPT / name).data)
    token = load_token(path)
    assert token.id == "sha256:2f6f27168668551c21ef96ae24ee241caf672e8f6a2367cb6f3bf0360724ee0a"
    assert (token.word, token.literal) == ("<hydra-fox>", "creative")
    assert token.recipe["losses"] == [0.5, 0.25]
    assert token.counts == {"clip_l": 2, "clip_g": 2}
