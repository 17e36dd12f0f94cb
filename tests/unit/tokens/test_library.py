"""The token library: whole after kills, losses and two writers; damage stops nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import config
from creatok_cli.errors import (
    CreatokError,
    DigestMismatch,
    InputError,
    OutputBusy,
    OutputFull,
    OutputReadOnly,
    TokenMissing,
    UnsafeName,
)
from creatok_cli.tokens import library as module
from creatok_cli.tokens.file import load_token, save_token, token_bytes
from creatok_cli.tokens.library import Library, resolve_token
from tests.fakes.disk import CountingDisk, DyingDisk, FailingDisk, Killed, LosingDisk, disk
from tests.unit.tokens.kit import token_of

WIDTHS = {"clip_l": 16, "clip_g": 24}
FOX, OWL = token_of(WIDTHS), token_of(WIDTHS, seed=1, word="<owl>")


@pytest.fixture
def library() -> Library:
    return Library()


def files(root: Path) -> dict[str, bytes]:
    """Everything below a folder but the lock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != module.LOCK
    }


def undated(root: Path) -> dict[str, Any]:
    """`files` without the day a name was given."""
    return {
        name: json.loads(data) | {"added": ""} if name.startswith("names/") else data
        for name, data in files(root).items()
    }


def test_a_token_is_found_by_name_by_id_and_by_its_first_digits(library: Library) -> None:
    entry = library.add(FOX)
    assert library.root == config.home() / "tokens"
    assert (entry.name, entry.word, entry.id) == ("hydra-fox", "<hydra-fox>", FOX.id)
    assert entry.path.name == f"{FOX.id.removeprefix('sha256:')}.safetensors"
    assert load_token(entry.path).id == FOX.id
    assert entry.added.endswith("Z")
    digits = FOX.id.removeprefix("sha256:")
    for asked in ("hydra-fox", FOX.id, digits, digits[:8], f"sha256:{digits[:9]}"):
        assert library.find(asked) == entry
    assert library.entries() == (entry,)
    assert library.names() == ("hydra-fox",)


def test_the_same_token_again_changes_no_byte(library: Library) -> None:
    library.add(FOX)
    before = files(library.root)
    library.add(FOX, metadata={"modelspec.author": "another"})
    assert files(library.root) == before


def test_two_names_share_one_file_and_each_keeps_its_word(library: Library) -> None:
    library.add(FOX)
    library.add(token_of(WIDTHS, word="<beast>"), name="other")
    assert len(list((library.root / "objects").iterdir())) == 1
    assert [(e.name, e.word, e.header.word) for e in library.entries()] == [
        ("hydra-fox", "<hydra-fox>", "<hydra-fox>"),
        ("other", "<beast>", "<beast>"),
    ]
    library.remove("hydra-fox")
    assert library.find("other").id == FOX.id
    library.remove("other")
    assert files(library.root) == {}


def test_a_taken_name_is_kept_unless_it_is_to_be_replaced(library: Library) -> None:
    library.add(FOX)
    with pytest.raises(InputError, match=r"the name hydra-fox belongs to another token.*--name"):
        library.add(OWL, name="hydra-fox")
    assert library.find("hydra-fox").id == FOX.id
    library.add(OWL, name="hydra-fox", replace=True)
    assert library.find("hydra-fox").id == OWL.id
    assert library.find(FOX.id).name == ""  # pictures drawn with it can be drawn again
    survey = library.survey()
    assert [entry.id for entry in survey.loose] == [FOX.id]
    assert library.remove(FOX.id).id == FOX.id
    assert library.survey().loose == ()


@pytest.mark.parametrize(
    "name", ["", "Fox", "a b", "../x", "a/b", "-a", "con", "lpt1", "x" * 65, "a.b", "ä"]
)
def test_names_that_some_disk_would_refuse(library: Library, name: str) -> None:
    with pytest.raises(UnsafeName):
        library.add(FOX, name=name)
    with pytest.raises(TokenMissing):
        library.find(name)
    assert not library.root.exists()


def test_an_unknown_name_is_told_with_the_nearest(library: Library) -> None:
    with pytest.raises(TokenMissing, match="it is empty"):
        library.find("cretok")
    with pytest.raises(TokenMissing, match="it is empty"):
        library.remove("cretok")
    library.add(FOX, name="cretok")
    with pytest.raises(TokenMissing, match=r"no token 'cretk' in the library; did you mean"):
        library.find("cretk")
    with pytest.raises(TokenMissing, match="there are cretok"):
        library.find("zzzzzzzzzzzz")
    with pytest.raises(TokenMissing):
        library.find("00000000")
    with pytest.raises(TokenMissing):
        library.remove("cretk")


def test_paths_and_names_of_sheets(tmp_path: Path, library: Library) -> None:
    entry = library.add(FOX, name="fox")
    assert resolve_token("fox", tmp_path) == entry.path
    assert resolve_token(FOX.id, tmp_path) == entry.path
    assert resolve_token("fox.safetensors", tmp_path) == tmp_path / "fox.safetensors"
    assert resolve_token("a/b", tmp_path) == tmp_path / "a" / "b"
    assert resolve_token("/a/b", tmp_path) == Path("/a/b")
    save_token(tmp_path / "owl.safetensors", OWL)
    with pytest.raises(TokenMissing, match=r"for the file write owl\.safetensors"):
        resolve_token("owl", tmp_path)


def test_the_scratch_folder_is_beside_the_library(library: Library) -> None:
    folder = library.scratch("run-1.a")
    assert folder == config.home() / "scratch" / "run-1.a"
    assert folder.is_dir()
    assert library.scratch("run-1.a") == folder
    for bad in ("", "..", "../x", "a/b", ".x", "nul.txt"):
        with pytest.raises(UnsafeName):
            library.scratch(bad)


def damage_object(root: Path) -> None:
    path = root / module.object_name(FOX.id.removeprefix("sha256:"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_object(root: Path) -> None:
    path = root / module.object_name(FOX.id.removeprefix("sha256:"))
    path.write_bytes(path.read_bytes()[:100])


def drop_object(root: Path) -> None:
    (root / module.object_name(FOX.id.removeprefix("sha256:"))).unlink()


def swap_object(root: Path) -> None:
    one, two = (root / module.object_name(t.id.removeprefix("sha256:")) for t in (FOX, OWL))
    one.write_bytes(two.read_bytes())


def garble_record(root: Path) -> None:
    (root / "names" / "hydra-fox.json").write_bytes(b'{"id": 7')


def deep_record(root: Path) -> None:
    (root / "names" / "hydra-fox.json").write_bytes(b"[" * 4000)


def newer_record(root: Path) -> None:
    path = root / "names" / "hydra-fox.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))


def large_record(root: Path) -> None:
    (root / "names" / "hydra-fox.json").write_bytes(b" " * 10**6)


def record_folder(root: Path) -> None:
    path = root / "names" / "hydra-fox.json"
    path.unlink()
    path.mkdir()


FILE_DAMAGE = [damage_object, cut_object, drop_object, swap_object]
RECORD_DAMAGE = [garble_record, deep_record, newer_record, large_record]


def test_a_record_of_a_newer_creatok_is_not_overwritten(library: Library) -> None:
    library.add(FOX)
    newer_record(library.root)
    before = files(library.root)
    with pytest.raises(CreatokError, match="update creatok"):
        library.add(OWL, name="hydra-fox", replace=True)
    assert files(library.root) == before


@pytest.mark.parametrize("damage", [*FILE_DAMAGE, *RECORD_DAMAGE, record_folder])
def test_damage_is_told_and_stops_no_other(
    library: Library, damage: Callable[[Path], None]
) -> None:
    library.add(FOX)
    library.add(OWL)
    damage(library.root)
    survey = library.survey()
    assert [entry.name for entry in survey.entries] == ["owl"]
    assert [fault.name for fault in survey.faults] == ["hydra-fox"]
    assert survey.faults[0].error.code == 4
    with pytest.raises(CreatokError) as caught:
        library.find("hydra-fox")
    assert caught.value.code == 4
    assert library.find("owl").id == OWL.id


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_storing_a_damaged_token_again_heals_it(
    library: Library, damage: Callable[[Path], None]
) -> None:
    library.add(FOX)
    library.add(OWL)
    before = files(library.root)
    damage(library.root)
    library.add(FOX)
    assert files(library.root) == before


@pytest.mark.parametrize("damage", [*FILE_DAMAGE, *RECORD_DAMAGE])
def test_a_damaged_token_can_be_removed(library: Library, damage: Callable[[Path], None]) -> None:
    library.add(FOX)
    library.add(OWL)
    damage(library.root)
    library.remove("hydra-fox")
    survey = library.survey()
    assert [entry.name for entry in survey.entries] == ["owl"]
    assert survey.faults == ()
    if damage in RECORD_DAMAGE:  # what it pointed at cannot be known: it only lost its name
        assert [entry.id for entry in survey.loose] == [FOX.id]
        library.remove(FOX.id)
    assert len(files(library.root)) == 2


def test_other_files_in_the_library_are_left_alone(library: Library) -> None:
    library.add(FOX)
    (library.root / "objects" / "notes.txt").write_text("mine")
    (library.root / "names" / "Not A Name.json").write_text("mine")
    assert [entry.name for entry in library.entries()] == ["hydra-fox"]
    library.remove("hydra-fox")
    assert sorted(files(library.root)) == ["names/Not A Name.json", "objects/notes.txt"]


ACTIONS: dict[str, Callable[[Library], object]] = {
    "add": lambda library: library.add(FOX),
    "replace": lambda library: library.add(FOX, name="owl", replace=True),
    "remove": lambda library: library.remove("owl"),
}


def prepared(root: Path, name: str) -> Library:
    library = Library(root / name / "tokens")
    library.add(OWL)
    return library


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_every_operation_the_library_stays_whole(tmp_path: Path, action: str) -> None:
    act = ACTIONS[action]
    whole = prepared(tmp_path, "whole")
    before = undated(whole.root)
    with disk(CountingDisk()) as counting:
        act(whole)
    after = undated(whole.root)
    assert isinstance(counting, CountingDisk)
    assert counting.count >= 3
    for at in range(1, counting.count + 1):
        library = prepared(tmp_path, f"kill-{at}")
        with disk(DyingDisk(at)), pytest.raises(Killed):
            act(library)
        survey = library.survey()
        assert survey.faults == (), at
        for entry in (*survey.entries, *survey.loose):
            assert entry.header.id in (FOX.id, OWL.id)
        if action != "remove":  # the token that was there is never lost
            assert library.find(OWL.id).id == OWL.id
        if action == "remove" and "owl" not in library.names():
            for loose in survey.loose:
                library.remove(loose.id)
        else:
            act(library)
        assert undated(library.root) == after, at
    assert before != after


@pytest.mark.skipif(sys.platform != "linux", reason="finds open folders through /proc")
@pytest.mark.parametrize("seed", range(20))
def test_a_power_loss_at_any_operation_loses_no_stored_token(tmp_path: Path, seed: int) -> None:
    library = prepared(tmp_path, "x")
    lossy = LosingDisk(1 + seed)
    try:
        with disk(lossy):
            library.add(FOX)
    except Killed:
        pass
    else:
        assert library.find("hydra-fox").id == FOX.id  # it was promised
    lossy.lose(library.root, random.Random(seed))
    survey = library.survey()
    assert survey.faults == ()
    assert library.find("owl").id == OWL.id
    assert library.add(FOX).id == FOX.id


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, OutputFull), (errno.EROFS, OutputReadOnly), (errno.EACCES, OutputReadOnly)],
)
def test_a_disk_that_fails_is_told_with_code_6(
    tmp_path: Path, code: int, kind: type[CreatokError]
) -> None:
    whole = prepared(tmp_path, "whole")
    with disk(CountingDisk()) as counting:
        whole.add(FOX)
    assert isinstance(counting, CountingDisk)
    told = 0
    for at in range(1, counting.count + 1):
        library = prepared(tmp_path, f"{code}-{at}")
        failing = FailingDisk(at, code)
        caught = None
        try:
            with disk(failing):
                library.add(FOX)
        except CreatokError as error:
            caught = error
        if caught is not None and not (caught.code == 4 and failing.broke == "open"):  # a read
            assert isinstance(caught, kind)
            assert caught.code == 6
            told += 1
        assert library.survey().faults == ()
        assert library.add(FOX).id == FOX.id
    assert told


def test_a_library_that_cannot_be_made_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputReadOnly, match="CREATOK_HOME"):
        Library().add(FOX)
    assert Library().entries() == ()


def test_a_library_in_use_is_waited_for_and_then_told(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add(FOX)
    monkeypatch.setattr(module, "LOCK_S", 0.1)
    with library._writing(), pytest.raises(OutputBusy, match="in use by another process"):
        library.add(OWL)
    assert library.find("hydra-fox").id == FOX.id  # readers wait for nobody


WRITER = """
import sys
from pathlib import Path
from creatok_cli.errors import InputError
from creatok_cli.tokens.library import Library

root, go, own, *paths = sys.argv[1:]
library, lost = Library(Path(root)), 0
print("ready", flush=True)
sys.stdin.readline()
for path in map(Path, paths):
    data = path.read_bytes()
    library.add_bytes(data)
    library.add_bytes(data, name=f"{own}-{path.stem}")
    try:
        library.add_bytes(data, name="contested")
    except InputError:
        lost += 1
    library.add_bytes(data, name="passing", replace=True)
    library.survey()
assert "torch" not in sys.modules
print(lost)
"""


def test_two_processes_store_at_once(tmp_path: Path) -> None:
    tokens = [token_of(WIDTHS, seed=seed, word=f"<t{seed}>") for seed in range(12)]
    paths = []
    for number, token in enumerate(tokens):
        paths.append(tmp_path / f"t{number}.safetensors")
        paths[-1].write_bytes(token_bytes(token))
    root = tmp_path / "home" / "tokens"
    orders = (paths, paths[::-1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), "go", own, *map(str, order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for own, order in zip(("one", "two"), orders, strict=True)
    ]
    for each in running:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in running:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    told = [each.communicate(timeout=120) for each in running]
    assert [each.returncode for each in running] == [0, 0], told
    survey = Library(root).survey()
    assert survey.faults == survey.loose == ()
    found = {entry.name: entry.id for entry in survey.entries}
    for number, token in enumerate(tokens):
        for name in (f"t{number}", f"one-t{number}", f"two-t{number}"):
            assert found[name] == token.id
    assert found["contested"] in {token.id for token in tokens}
    assert sum(int(out.split()[-1]) for out, _ in told) == 2 * len(tokens) - 2
    assert len(found) == 3 * len(tokens) + 2
    leftovers = [path for path in root.rglob("*.part")]
    assert leftovers == []


def test_removed_while_it_is_listed_is_no_fault(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add(FOX)
    library.add(OWL)
    read = module.read_header

    def late(path: Path) -> Any:
        if path.name.startswith(FOX.id.removeprefix("sha256:")[:16]):
            monkeypatch.setattr(module, "read_header", read)
            library.remove("hydra-fox")
        return read(path)

    monkeypatch.setattr(module, "read_header", late)
    survey = library.survey()
    assert [entry.name for entry in survey.entries] == ["owl"]
    assert survey.faults == ()


def test_a_file_of_another_token_under_an_id_is_not_believed(library: Library) -> None:
    library.add(FOX)
    library.add(OWL)
    swap_object(library.root)
    with pytest.raises(DigestMismatch, match="holds another token"):
        library.find(FOX.id)
