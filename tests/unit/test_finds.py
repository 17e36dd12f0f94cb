"""Finds: stored at once, recalled whole, never in the place of another run's."""

from __future__ import annotations

import array
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from creatok_cli.backbones._weights import resolve
from creatok_cli.errors import InputError, OutputReadOnly, Refused, UnsafeName
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.strict_yaml import read_yaml
from creatok_cli.tokens.file import pack_token
from creatok_cli.tokens.library import Library
from creatok_cli.workflows._finds import (
    NUMBERS,
    RUN,
    Find,
    Finds,
    Search,
    check_free,
    check_stem,
    default_out,
    find_name,
    is_begun,
    rounded,
)

FACTS = resolve("bestiary")
SEARCH = Search(
    method="blind", run="ab" * 20, facts=FACTS, seed=3, settings={"lr": 0.1, "steps": 7}
)


def token(name: str, run: str = SEARCH.run, value: float = 0.5) -> bytes:
    """A token file for bestiary."""
    rows = {
        encoder: ((1, width), array.array("f", [value] * width).tobytes())
        for encoder, width in FACTS.encoders
    }
    return pack_token(f"<{name}>", "creature", rows, {"kind": "token", RUN: run})


def find(name: str = "odd-3-00", **changes: Any) -> Find:
    return Find(**({"name": name, "token": token(name), "values": {"rarity": 0.99}} | changes))


@pytest.fixture
def finds(tmp_path: Path) -> Finds:
    return Finds(SEARCH, tmp_path, "odd")


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / NUMBERS).read_text())
    return found


def test_a_find_is_kept_in_the_library_and_in_the_folder(finds: Finds) -> None:
    finds.looked_at = 5
    event = finds.keep(find(facts={"curve": [0.1234567, 1], "ended": "done"}))
    entry = Library().find("odd-3-00")
    assert (event.word, event.name, event.id) == ("<odd-3-00>", "odd-3-00", entry.id)
    assert (event.path, event.lora, event.values) == (str(entry.path), "", {"rarity": 0.99})
    assert (finds.folder / "tokens/odd-3-00.safetensors").read_bytes() == token("odd-3-00")
    document = told(finds.folder)
    assert (document["schema"], document["method"], document["seed"]) == (1, "blind", 3)
    assert document["settings"] == {"lr": 0.1, "steps": 7}
    assert document["base"]["digest"] == FACTS.digest
    assert (document["ended"], document["looked_at"]) == ("unfinished", 5)
    (record,) = document["finds"]
    assert (record["id"], record["token"]) == (entry.id, "tokens/odd-3-00.safetensors")
    assert (record["lora"], record["values"]) == ("", {"rarity": 0.99})
    assert record["facts"] == {"curve": [0.123457, 1], "ended": "done"}
    finds.save("done")
    assert told(finds.folder)["ended"] == "done"


def test_the_numbers_tell_no_place_of_the_machine(finds: Finds) -> None:
    finds.keep(find())
    assert str(finds.folder) not in (finds.folder / NUMBERS).read_text()


def test_a_lora_needs_no_token_and_no_library(finds: Finds) -> None:
    event = finds.keep(find(token=b"", lora=b"weights"))
    assert (event.word, event.name, event.id, event.path) == ("", "", "", "")
    assert Path(event.lora).read_bytes() == b"weights"
    assert Library().names() == ()


def test_an_earlier_start_is_recalled_whole(finds: Finds, tmp_path: Path) -> None:
    both = find("odd-3-01", lora=b"weights", lora_scale=0.5, prompts=("a {word}",))
    for each in (find(), both):
        finds.keep(each)
    again = Finds(SEARCH, tmp_path, "odd")
    assert again.recall() == (find(), both)
    again.save("done")
    assert len(told(tmp_path)["finds"]) == 2
    assert is_begun(tmp_path, SEARCH.run)
    other = Finds(replace(SEARCH, run="cd" * 20), tmp_path, "odd")
    assert other.recall() == ()
    assert not is_begun(tmp_path, "cd" * 20)


@pytest.mark.parametrize("name", ["tokens/odd-3-01.safetensors", "loras/odd-3-01.safetensors"])
def test_a_damaged_find_is_not_recalled(finds: Finds, name: str) -> None:
    finds.keep(find())
    finds.keep(find("odd-3-01", lora=b"weights"))
    file = finds.folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert [each.name for each in Finds(SEARCH, finds.folder, "odd").recall()] == ["odd-3-00"]


def test_a_hostile_record_is_not_recalled(finds: Finds) -> None:
    finds.keep(find())
    document = told(finds.folder)
    good = document["finds"][0]
    document["finds"] = [
        {**good, "name": "../../etc"},
        "text",
        {},
        {**good, "token": "", "lora": ""},
    ]
    (finds.folder / NUMBERS).write_text(json.dumps(document))
    assert Finds(SEARCH, finds.folder, "odd").recall() == ()


def test_nothing_that_is_not_finite_reaches_the_file(finds: Finds) -> None:
    finds.keep(find())
    before = (finds.folder / NUMBERS).read_bytes()
    with pytest.raises(ValueError, match="not finite"):
        finds.keep(find("odd-3-01", values={"rarity": float("nan")}))
    assert (finds.folder / NUMBERS).read_bytes() == before
    assert rounded({"a": (1.23456789, True, None, "x")}) == {"a": [1.234568, True, None, "x"]}


def test_a_token_of_another_name_is_refused(finds: Finds) -> None:
    with pytest.raises(Refused, match="<other-3-00>"):
        finds.keep(find(token=token("other-3-00")))
    assert not (finds.folder / NUMBERS).exists()


def test_names_and_folders_of_another_run_are_left_alone(finds: Finds, tmp_path: Path) -> None:
    finds.keep(find())
    check_free(tmp_path, "odd", 3, SEARCH.run, replace=False)
    check_free(tmp_path / "new", "odd", 4, "cd" * 20, replace=False)
    with pytest.raises(InputError, match=r"finds of another run; choose another --out"):
        check_free(tmp_path, "odd", 4, "cd" * 20, replace=False)
    with pytest.raises(InputError, match=r"another token odd-3-00 .* another --name or --seed"):
        check_free(tmp_path / "new", "odd", 3, "cd" * 20, replace=False)
    check_free(tmp_path, "odd", 3, "cd" * 20, replace=True)


def test_a_name_that_only_looks_alike_is_nobody_s_find(tmp_path: Path) -> None:
    Library().add_bytes(token("odd-3-tail", run="cd" * 20))
    Library().add_bytes(token("odd-33-01", run="cd" * 20))
    check_free(tmp_path, "odd", 3, SEARCH.run, replace=False)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2, "finds": []}', "{" * 5000])
def test_a_stranger_s_file_is_not_taken_for_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / NUMBERS).write_text(text)
    with pytest.raises(OutputReadOnly, match="was not written by this creatok"):
        check_free(tmp_path, "odd", 3, SEARCH.run, replace=False)


def test_names_and_folders() -> None:
    assert find_name("distok", 0, 7) == "distok-0-07"
    assert default_out("distok", 5) == Path("out/explore/distok-5")
    assert len(find_name("x" * 39, 2**63 - 1, 1023)) <= 64
    for bad in ("", "Upper", "a b", "x" * 40, "nul"):
        with pytest.raises(UnsafeName, match=r"^--name: "):
            check_stem(bad)


def test_the_sheet_draws_every_find(finds: Finds, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def draw_pictures(folder: Path, sheet: str, **settings: Any) -> Any:
        asked.append((folder, sheet, settings["device"]))
        yield from ()
        return "drawn"

    monkeypatch.setattr("creatok_cli.workflows._finds.draw_pictures", draw_pictures)
    finds.keep(find("odd-3-01", prompts=("a photo of a {word}", "a {word} {in} the snow")))
    finds.keep(find())
    finds.keep(
        find("odd-3-02", token=b"", lora=b"x", lora_scale=0.8, prompts=("a photo of a pig",))
    )
    run = finds.draw(title="odd: finds.", seeds=(0, 1), device="cpu", stop=None, resume="")
    with pytest.raises(StopIteration) as end:
        next(run)
    assert (end.value.value, asked) == ("drawn", [(finds.folder, "odd.yaml", "cpu")])
    document, _ = read_yaml((finds.folder / "odd.yaml").read_text(), "odd.yaml")
    assert document["base"] == "bestiary"
    assert document["tokens"] == {
        "<odd-3-00>": "tokens/odd-3-00.safetensors",
        "<odd-3-01>": "tokens/odd-3-01.safetensors",
    }
    prompts = {job["id"]: job["prompt"] for job in document["jobs"]}
    assert prompts == {
        "odd-3-00": "a photo of a <odd-3-00>",
        "a photo of a \u2026/odd-3-01": "a photo of a <odd-3-01>",
        "a \u2026 {in} the snow/odd-3-01": "a <odd-3-01> {{in}} the snow",
        "odd-3-02": "a photo of a pig",
    }
    assert document["jobs"][-1]["loras"] == [{"path": "loras/odd-3-02.safetensors", "scale": "0.8"}]
    assert {tuple(job["seeds"]) for job in document["jobs"]} == {("0", "1")}


def test_the_sheet_is_one_that_sample_reads(finds: Finds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creatok_cli.workflows._finds.draw_pictures", lambda *_, **__: iter(()))
    finds.keep(find())
    list(finds.draw(title="odd", seeds=(0,), device="cpu", stop=None, resume=""))
    sheet = load_sheet(str(finds.folder / "odd.yaml"))
    assert sheet.row_ids == ("odd-3-00",)


def test_nothing_found_draws_nothing(finds: Finds) -> None:
    run = finds.draw(title="odd", seeds=(0,), device="cpu", stop=None, resume="")
    with pytest.raises(StopIteration) as end:
        next(run)
    assert end.value.value is None
    assert not (finds.folder / "odd.yaml").exists()
