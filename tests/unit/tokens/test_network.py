"""Network files: round trip, identity, every damage caught, and where they are found."""

from __future__ import annotations

import array
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from creatok_cli import config
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, DigestMismatch, OutputBusy, Refused, TokenMissing
from creatok_cli.tokens import library
from creatok_cli.tokens.file import read_header
from creatok_cli.tokens.network import (
    RUN_KEY,
    Network,
    Part,
    check_network_bytes,
    find_network,
    iter_networks,
    network_bytes,
    network_path,
    part_of,
    read_network,
    set_aside,
    store_network,
)
from tests.fakes.networks import network_of, recipe_of

RUN, OTHER = "0a" * 20, "1b" * 20


def data_of(run: str = RUN, **changes: Any) -> bytes:
    return network_bytes(network_of(**changes), {RUN_KEY: run})


def facts_of(folder: Path | str) -> BaseFacts:
    return BaseFacts(
        name="bestiary",
        backbone="bestiary",
        folder=str(folder),
        digest="sha256:" + "ab" * 32,
        licence="cc0-1.0",
        steps=1,
        guidance=1.0,
        size_px=(64, 64),
        size_multiple=8,
        schedulers=("none",),
        dtype="fp32",
    )


def test_round_trip_keeps_every_byte(tmp_path: Path) -> None:
    network, path = network_of(), tmp_path / "n.safetensors"
    path.write_bytes(network_bytes(network, {RUN_KEY: RUN}))
    found = read_network(path)
    assert (found.id, found.tensors, found.recipe) == (network.id, network.tensors, network.recipe)
    assert (found.run, found.path, network.run) == (RUN, str(path), "")
    assert found.classes == ("pig", "polar bear", "owl")
    assert (found.widths, found.pool_size) == ({"clip_l": 4, "clip_g": 6}, 2)
    assert network_bytes(found, {RUN_KEY: RUN}) == path.read_bytes()
    assert list(found.tensors["pool/step"].values()) == [0, 1]
    assert len(found.tensors["pool/rows"].values()) == 2 * 20


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "n.safetensors").write_bytes(data_of())
    found, network = load_file(tmp_path / "n.safetensors"), network_of()
    assert found.keys() == network.tensors.keys()
    for name, part in network.tensors.items():
        assert tuple(found[name].shape) == part.shape
        assert found[name].flatten().tolist() == list(part.values())


def test_identity_is_tensors_and_recipe_but_no_metadata() -> None:
    others = [network_of(seed=1), network_of(pool=0), network_of(steps=11), network_of(side=4)]
    assert len({network_of().id, *(each.id for each in others)}) == 5
    assert check_network_bytes(data_of(OTHER), "x").id == network_of().id
    assert network_of(pool=0).pool_size == 0


def test_networks_are_read_without_torch(tmp_path: Path) -> None:
    (tmp_path / "n.safetensors").write_bytes(data_of())
    code = (
        "import sys; from creatok_cli.tokens.network import read_network; "
        f"print(read_network({str(tmp_path / 'n.safetensors')!r}).id); "
        "assert not {'torch', 'numpy', 'safetensors', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == network_of().id, done.stderr


def test_every_flipped_byte_and_every_cut_is_caught(tmp_path: Path) -> None:
    """The id covers tensors and recipe; a changed word of the free metadata changes no number."""
    path, data, whole = tmp_path / "n.safetensors", data_of(), network_of()
    dice = random.Random(5)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(0, header, 3), *(dice.randrange(header, len(data)) for _ in range(150))]
    caught = 0
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 1 << dice.randrange(8)
        path.write_bytes(broken)
        try:
            found = read_network(path)
        except ArtefactError:
            caught += 1
        else:
            assert place < header, place
            assert (found.id, found.tensors) == (whole.id, whole.tensors)
    assert caught > len(places) * 0.7
    for length in [*range(0, 40), *(dice.randrange(len(data)) for _ in range(60))]:
        path.write_bytes(data[:length])
        with pytest.raises(ArtefactError):
            read_network(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DigestMismatch, match="longer"):
        read_network(path)


def edited(change: Callable[[dict[str, Any]], None], data: bytes | None = None) -> bytes:
    """The file with an edited header."""
    data = data or data_of()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def recipe_change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        said = header["__metadata__"]
        said["creatok.recipe"] = json.dumps(json.loads(said["creatok.recipe"]) | changes)

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda h: h.pop("__metadata__"), Refused, "no network"),
        (lambda h: h["__metadata__"].pop("creatok.network"), Refused, "no network"),
        (lambda h: h["__metadata__"].update({"creatok.schema": "9"}), Refused, "update creatok"),
        (lambda h: h["__metadata__"].update({"creatok.recipe": "[1]"}), Refused, "no JSON object"),
        (lambda h: h["__metadata__"].update({"creatok.recipe": "{"}), Refused, "no valid JSON"),
        (lambda h: h["__metadata__"].update({"creatok.network": "x"}), DigestMismatch, "damaged"),
        (lambda h: h.update({"maps/x": h.pop("maps/in")}), DigestMismatch, "damaged or edited"),
        (lambda h: h["classes"].update(dtype="I32"), Refused, "'classes' is I32"),
        (recipe_change(steps=11), DigestMismatch, "damaged or edited"),
        (recipe_change(steps=float("nan")), Refused, "no steps"),
        (recipe_change(spec={"x": float("inf")}), Refused, "no plain JSON"),
        (recipe_change(kind="token"), Refused, "'token', no network"),
        (recipe_change(classes={"names": ["pig"]}), Refused, "fewer than two"),
        (recipe_change(classes={"names": ["pig", "pig"]}), Refused, "repeated"),
        (recipe_change(classes={"names": "pig"}), Refused, "names no classes"),
        (recipe_change(widths={"clip_l": 4}), Refused, "encoders and widths"),
        (recipe_change(widths={"clip_l": 4, "clip_g": -6}), Refused, "the width -6"),
        (recipe_change(widths=[4]), Refused, "no widths, expected a mapping"),
        (recipe_change(seed=True), Refused, "no seed"),
        (recipe_change(base=None), Refused, "no base, expected text"),
    ],
)
def test_an_edited_header_is_refused(
    tmp_path: Path, change: Any, error: type[ArtefactError], words: str
) -> None:
    (tmp_path / "n.safetensors").write_bytes(edited(change))
    with pytest.raises(error, match=words) as found:
        read_network(tmp_path / "n.safetensors")
    assert "n.safetensors" in str(found.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"\x80\x02}q\x00." + b"x" * 99, "pickle"),
        (b"PK\x03\x04" + b"x" * 99, "zip archive"),
        (b"<!DOCTYPE html><html></html>" + b" " * 99, "web page"),
    ],
)
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "n.safetensors").write_bytes(content)
    with pytest.raises(Refused, match=words):
        read_network(tmp_path / "n.safetensors")
    with pytest.raises(TokenMissing, match="no such network file"):
        read_network(tmp_path / "m.safetensors")


def test_a_token_is_no_network_and_a_network_no_token(tmp_path: Path) -> None:
    from creatok_cli.tokens.file import token_bytes
    from tests.unit.tokens.kit import token_of

    (tmp_path / "t.safetensors").write_bytes(token_bytes(token_of({"clip_l": 4})))
    with pytest.raises(Refused, match="this is a token"):
        read_network(tmp_path / "t.safetensors")
    (tmp_path / "n.safetensors").write_bytes(data_of())
    with pytest.raises(Refused, match="no creatok token"):
        read_header(tmp_path / "n.safetensors")


def floats(*values: float) -> Part:
    return part_of("F32", (len(values),), array.array("f", values))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": floats(1, float("nan"))}, "NaN or infinity"),
        ({"w": floats(float("inf"), float("-inf"))}, "NaN or infinity"),
        ({"w": floats(3e38, 3e38, 3e38)}, "3e\\+38: damaged"),
        ({"w": floats(-2e6)}, "2e\\+06: damaged"),
        ({"w": Part("F32", (3,), b"\0" * 8)}, "not the bytes"),
        ({"w": Part("BF16", (1,), b"\0\0")}, "is BF16; expected F32, U8, I64"),
        ({"pool/p": None}, "the pool lacks pool/p"),
        ({"pool/p": floats(0.5, 0.5)}, "do not fit each other"),
        ({"pool/step": floats(1, 2)}, "do not fit each other"),
        ({"pool/rows": floats(1, 2)}, "do not fit each other"),
        ({"pool/pictures": Part("U8", (2, 2, 2), b"\0" * 8)}, "do not fit each other"),
        ({"pool/pictures": Part("U8", (), b"\0")}, "do not fit each other"),
    ],
)
def test_impossible_networks_are_refused(changes: dict[str, Part | None], words: str) -> None:
    tensors = {**network_of().tensors, **changes}
    with pytest.raises(Refused, match=words):
        Network({name: part for name, part in tensors.items() if part}, recipe_of())


def test_no_tensors_are_no_network() -> None:
    with pytest.raises(Refused, match="no tensors"):
        Network({}, recipe_of())


def test_a_network_is_stored_and_found_by_its_run(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    assert find_network(RUN, facts) is None
    path = store_network(data_of(), RUN)
    assert path == network_path(RUN) == config.home() / "networks" / f"{RUN}.safetensors"
    assert find_network(RUN, facts) == path
    assert find_network(OTHER, facts) is None
    assert store_network(data_of(), RUN).read_bytes() == data_of()
    assert store_network(data_of(steps=11), RUN).read_bytes() == data_of(steps=11)
    assert [each.name for each in path.parent.iterdir() if each.suffix == ".part"] == []


def test_the_shipped_network_of_a_run_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "networks"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"no network")
    (folder / "b.safetensors").write_bytes(data_of(OTHER))
    (folder / "c.safetensors").write_bytes(data_of(RUN))
    cached = store_network(data_of(), RUN)
    assert list(iter_networks(RUN, facts_of(tmp_path))) == [folder / "c.safetensors", cached]
    assert find_network(OTHER, facts_of(tmp_path)) == folder / "b.safetensors"
    assert find_network(OTHER, facts_of("")) is None


def test_another_runs_file_is_never_overwritten() -> None:
    path = network_path(RUN)
    path.parent.mkdir(parents=True)
    path.write_bytes(data_of(OTHER))
    with pytest.raises(ArtefactError, match="another run"):
        store_network(data_of(), RUN)
    assert path.read_bytes() == data_of(OTHER)
    with pytest.raises(Refused, match="does not say the run"):
        store_network(data_of(OTHER), RUN)
    with pytest.raises(Refused, match="no safetensors"):
        store_network(b"\0" * 100, RUN)
    with pytest.raises(ValueError, match="not a run"):
        network_path("../x")


def test_a_damaged_file_is_set_aside_and_nothing_is_lost() -> None:
    path = store_network(data_of(), RUN)
    path.write_bytes(b"damaged")
    assert find_network(RUN, facts_of("")) == path
    kept = set_aside(path)
    assert (kept.name, kept.read_bytes()) == (f"{RUN}.safetensors.damaged", b"damaged")
    assert find_network(RUN, facts_of("")) is None
    path.write_bytes(b"damaged again")
    assert store_network(data_of(), RUN).read_bytes() == data_of()
    assert kept.read_bytes() == b"damaged again"


def test_a_second_writer_waits_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_network(data_of(), RUN)
    monkeypatch.setattr(library, "LOCK_S", 0.05)
    with (
        FileLock(path.parent / library.LOCK, thread_local=False),
        pytest.raises(OutputBusy, match=r"networks .* in use by another process"),
    ):
        store_network(data_of(), RUN)


def test_numbers_keep_their_bytes() -> None:
    part = part_of("F32", (2,), array.array("f", [1.5, -2.0]))
    assert part.data == struct.pack("<2f", 1.5, -2.0)
    assert replace(part, shape=(2, 1)).values().tolist() == [1.5, -2.0]
