"""Fetching bases from a Hub on the loopback interface that hangs, cuts, lies, forbids (N1, N2)."""

from __future__ import annotations

import _socket
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import config
from creatok_cli.backbones import _fetch, _hub, _hub_cache, _pins, _weights
from creatok_cli.backbones._pins import Pins, lock_of
from creatok_cli.domain import Event, Fetching, Notice
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    DigestMismatch,
    ModelGated,
    ModelMissing,
    Offline,
    OutputFull,
    Refused,
)
from tests.fakes.hub import FakeHub, commit_of, files_of, running

NAME = "owner/tiny"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SECRET = "hf_canary_of_a_token"
IDLE_S = 0.6


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A running Hub, which alone may be connected to, with an empty cache and a login."""

    def connect(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", address
        _socket.socket.connect(self, address)

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        assert host == "127.0.0.1", host
        return _socket.getaddrinfo(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(_hub_cache, "_before", {})
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with running(FakeHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, every connection is a failure of the test."""

    def shut() -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a connection was opened")

        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return shut


def obtain(*names: str, **more: Any) -> list[Event]:
    return list(_fetch.obtain(names, idle_s=IDLE_S, **more))


def failure(kind: type[CreatokError], *names: str, **more: Any) -> str:
    """The message of a fetch that fails, which shows no secret."""
    with pytest.raises(kind) as caught:
        obtain(*names, **more)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert SECRET not in message
    assert "secret words" not in message
    return message


def blob_of(hub: FakeHub, file: str) -> Path:
    """Where the whole file would lie."""
    import hashlib

    digest = hashlib.sha256(hub.repos[NAME].commits[hub.repos[NAME].main][file]).hexdigest()
    return _hub_cache.repo_folder(NAME) / "blobs" / digest


def test_only_what_is_opened_is_fetched_and_then_nothing_connects(
    hub: FakeHub, tiny_sd3: Path, no_sockets: Callable[[], None]
) -> None:
    files = files_of(tiny_sd3) | {
        "transformer/diffusion_pytorch_model.fp16.safetensors": b"half",
        "transformer/diffusion_pytorch_model.bin": b"\x80pickle",
        "text_encoder/flax_model.msgpack": b"flax",
        "text_encoder/model.onnx": b"onnx",
        "sd3_medium.safetensors": b"checkpoint",
        "teaser.png": b"\x89PNG",
        "LICENSE.md": b"terms",
        "safety_checker/model.safetensors": b"unused",
    }
    card = {"license": "other", "license_name": "own-non-commercial"}
    commit = hub.add(NAME, files, licence=card)
    events = obtain(NAME)
    told = [event.message for event in events if isinstance(event, Notice)]
    assert len(told) == 1
    assert "licence own-non-commercial" in told[0]
    assert commit[:12] in told[0]
    assert "GiB free" in told[0]
    moves = [event for event in events if isinstance(event, Fetching)]
    assert [move.done_bytes for move in moves] == sorted(move.done_bytes for move in moves)
    assert moves[-1].done_bytes == moves[-1].total_bytes > 0
    facts = _weights.resolve(NAME)
    there = set(files_of(Path(facts.folder)))
    assert there == set(files_of(tiny_sd3)) | {"LICENSE.md"}
    assert facts.digest == _weights.resolve(str(tiny_sd3)).digest
    assert facts.source == f"{NAME}@{commit}"
    assert not list(_hub_cache.cache_folder().rglob("*.incomplete"))
    no_sockets()
    before = len(hub.asked)
    assert obtain(NAME) == []
    assert _weights.resolve(f"sd3:{NAME}@{commit}").digest == facts.digest
    assert len(hub.asked) == before
    (found,) = _weights.cached_bases()
    assert (found.name, found.backbone, found.revision) == (NAME, "sd3", commit)
    assert found.size_bytes == sum(map(len, {files[name] for name in there}))
    assert found.licence == facts.licence == "cc0-1.0"


def test_huggingface_hub_finds_what_was_fetched(hub: FakeHub, tiny_sd3: Path) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    commit = hub.add(NAME, files_of(tiny_sd3))
    obtain(NAME)
    cache = _hub_cache.cache_folder()
    path = try_to_load_from_cache(NAME, WEIGHTS, cache_dir=cache)
    assert path == str(Path(_weights.resolve(NAME).folder) / WEIGHTS)
    info = scan_cache_dir(cache)
    assert not info.warnings
    (repo,) = info.repos
    assert {(each.commit_hash, *each.refs) for each in repo.revisions} == {(commit, "main")}


def test_where_the_cache_is_agrees_with_huggingface_hub(tmp_path: Path) -> None:
    code = (
        "from huggingface_hub import constants as c\n"
        "from creatok_cli.backbones import _hub_cache as own\n"
        "assert str(own.cache_folder()) == c.HF_HUB_CACHE, (own.cache_folder(), c.HF_HUB_CACHE)\n"
        "assert str(own.hub_home()) == c.HF_HOME\n"
    )
    plain = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    for more in (
        {},
        {"XDG_CACHE_HOME": "/x/y"},
        {"HF_HOME": "~/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HUB_CACHE": "$HOME/hub", "HF_HOME": "/z"},
    ):
        subprocess.run([sys.executable, "-c", code], env=plain | more, check=True)


def test_a_token_goes_to_the_hub_and_to_nobody_else(hub: FakeHub, tiny_sd3: Path) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    obtain(NAME)
    for path, headers in hub.asked:
        assert ("authorization" in headers) is not path.startswith("/cdn"), path
    assert any(path.startswith("/cdn") for path, _ in hub.asked)


def test_a_cut_file_goes_on_where_it_stopped(hub: FakeHub, tiny_sd3: Path) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    hub.faults[WEIGHTS] = ["cut", "503", "cut", "ok"]
    obtain(NAME)
    ranges = [
        h.get("range") for path, h in hub.asked if path.startswith("/cdn") and WEIGHTS in path
    ]
    size = (tiny_sd3 / WEIGHTS).stat().st_size
    half, more = size // 2, size // 2 + (size - size // 2) // 2
    assert ranges == [None, f"bytes={half}-", f"bytes={half}-", f"bytes={more}-"]


def test_a_server_that_knows_no_ranges_begins_again(hub: FakeHub, tiny_sd3: Path) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    hub.faults[WEIGHTS] = ["cut", "whole"]
    obtain(NAME)
    assert _weights.resolve(NAME).digest == _weights.resolve(str(tiny_sd3)).digest


def test_what_was_cut_is_kept_for_the_next_run(hub: FakeHub, tiny_sd3: Path) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    hub.faults[WEIGHTS] = ["cut"]
    assert "goes on from there" in failure(Offline, NAME)
    assert hub.count(f"/cdn/{NAME}/resolve/{commit_of(1)}/{WEIGHTS}") == 1 + _hub.RETRIES
    with pytest.raises(ModelMissing):
        _weights.resolve(NAME)
    assert not blob_of(hub, WEIGHTS).exists()
    hub.faults[WEIGHTS] = ["ok"]
    hub.asked.clear()
    obtain(NAME)
    big = [h for path, h in hub.asked if path.startswith("/cdn")]
    assert len(big) == 1, "files that were whole are not fetched again"
    assert big[0]["range"] != "bytes=0-"
    assert _weights.resolve(NAME)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("wrong", "other bytes came"),
        ("html", "a web page"),
        ("pointer", "LFS pointer"),
        ("long", "in place of"),
    ],
)
def test_wrong_bytes_are_never_kept(hub: FakeHub, tiny_sd3: Path, fault: str, said: str) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    hub.faults[WEIGHTS] = [fault]
    message = failure(DigestMismatch, NAME)
    assert said in message
    assert WEIGHTS in message
    assert hub.count("/cdn/") <= 20
    assert not blob_of(hub, WEIGHTS).exists()
    assert not (_hub_cache.repo_folder(NAME) / "snapshots" / commit_of(1) / WEIGHTS).exists()
    with pytest.raises(ModelMissing):
        _weights.resolve(NAME)


@pytest.mark.parametrize("fault", ["hole", "drip"])
def test_silence_and_a_trickle_end(hub: FakeHub, tiny_sd3: Path, fault: str) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    hub.faults[WEIGHTS] = [fault]
    began_s = time.monotonic()
    failure(Offline, NAME)
    assert time.monotonic() - began_s < 3 * IDLE_S + 2
    assert hub.count(f"/cdn/{NAME}/resolve/{commit_of(1)}/{WEIGHTS}") <= 1 + _hub.RETRIES


def test_a_hub_that_does_not_answer(hub: FakeHub) -> None:
    hub.list_fault = "hole"
    assert "nothing came in time" in failure(Offline, NAME)


def test_nobody_at_the_address(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:password@127.0.0.1:9")
    message = failure(Offline, NAME)
    assert "it cannot be reached" in message
    assert "password" not in message
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    failure(Refused, NAME)


def test_a_sign_in_page_in_place_of_the_list(hub: FakeHub) -> None:
    hub.list_fault = "html"
    assert "a web page" in failure(Offline, NAME)


def test_gated_forbidden_missing(hub: FakeHub, tiny_sd3: Path, monkeypatch: Any) -> None:
    hub.add(NAME, files_of(tiny_sd3), gated=True)
    message = failure(ModelGated, NAME)
    assert "licence to be accepted" in message
    assert "http" in message
    assert f"/{NAME}" in message
    hub.add("owner/closed", {}, status=403)
    failure(ModelGated, "owner/closed")
    hub.add("owner/bad-login", {}, status=401)
    assert "hf auth login" in failure(ModelGated, "owner/bad-login")
    assert "does not exist, or is private" in failure(ModelMissing, "owner/nothing")
    assert "no revision 'v9'" in failure(ModelMissing, f"{NAME}@v9")
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in failure(ModelGated, NAME)
    assert "no token" in failure(ModelMissing, "owner/nothing")
    for each in (ModelGated, ModelMissing, Offline, DigestMismatch):
        assert each.code == 4


def test_a_repository_that_is_no_base(hub: FakeHub, tiny_sd3: Path) -> None:
    files = files_of(tiny_sd3)
    hub.add("owner/single", {"model.safetensors": b"x", "README.md": b""})
    assert "--base FILE.safetensors" in failure(ModelMissing, "owner/single")
    hub.add("owner/other", {"model_index.json": b'{"_class_name": "WanPipeline"}'})
    assert "WanPipeline" in failure(Refused, "owner/other")
    hub.add("owner/odd", {"model_index.json": b"[" * 100_000})
    failure(Refused, "owner/odd")
    hub.add(NAME, files)
    assert "not for sdxl" in failure(Refused, f"sdxl:{NAME}")
    pickled = {name.replace(".safetensors", ".bin"): data for name, data in files.items()}
    hub.add("owner/pickled", pickled)
    assert "no safetensors weights" in failure(ModelMissing, "owner/pickled")
    assert not hub.count("/cdn/")


def test_names_that_lead_outside_are_not_fetched(hub: FakeHub, tiny_sd3: Path) -> None:
    hub.add(NAME, files_of(tiny_sd3) | {"vae/../../../evil.json": b"{}", "/etc/evil.json": b"{}"})
    obtain(NAME)
    assert not hub.count("evil")


def test_a_repository_without_room(hub: FakeHub, tiny_sd3: Path, monkeypatch: Any) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = failure(OutputFull, NAME)
    assert "HF_HUB_CACHE" in message
    assert not hub.count("/cdn/")


def test_offline_never_connects(
    hub: FakeHub, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_sockets()
    message = failure(Offline, "sd3", is_offline=True)
    assert "hf download stabilityai/stable-diffusion-3-medium-diffusers" in message
    assert "stabilityai-ai-community" in message
    monkeypatch.setenv("HF_HUB_OFFLINE", "YES")
    failure(Offline, NAME)
    assert hub.asked == []


def test_doors_that_creatok_shut_are_no_wish_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(_hub_cache, "_before", {})
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _hub_cache.shut_doors({"HF_HUB_OFFLINE": "1"})
    assert constants.HF_HUB_OFFLINE
    assert not _hub_cache.is_told_offline()
    with _hub._open_doors():
        assert not constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE


def test_a_branch_is_resolved_once(hub: FakeHub, tiny_sd3: Path, tmp_path: Path) -> None:
    old = hub.add(NAME, files_of(tiny_sd3), 1)
    sheet = tmp_path / "sheet.yaml"
    lock = lock_of(str(sheet))
    assert lock == tmp_path / "sheet.lock.yaml"
    obtain(NAME, pins=Pins(lock))
    assert _pins.read(lock) == {f"{NAME}@main": old}
    assert lock.read_text().startswith("#")
    new = hub.add(NAME, files_of(tiny_sd3) | {"README.md": b"newer"}, 2)
    # The same sheet on another machine: no cache, no pins of its own.
    shutil.rmtree(_hub_cache.cache_folder())
    obtain(NAME, pins=Pins(lock))
    assert _weights.resolve(NAME, Pins(lock)).source == f"{NAME}@{old}"
    # Without the sheet this machine has no pin: the newest.
    obtain(f"{NAME}@{new}")
    assert _weights.resolve(f"{NAME}@{new}").source.endswith(new)
    assert _pins.read(config.home() / _pins.FILE) == {}
    # Another commit under the name is an error, not another picture.
    del hub.repos[NAME].commits[old]
    shutil.rmtree(_hub_cache.cache_folder())
    assert "remove its line" in failure(ModelMissing, NAME, pins=Pins(lock))
    hub.list_fault = "other"
    assert "was asked for" in failure(DigestMismatch, NAME, pins=Pins(lock))


def test_without_a_sheet_the_machine_remembers(hub: FakeHub, tiny_sd3: Path) -> None:
    old = hub.add(NAME, files_of(tiny_sd3), 1)
    obtain(NAME)
    hub.add(NAME, files_of(tiny_sd3) | {"README.md": b"newer"}, 2)
    shutil.rmtree(_hub_cache.cache_folder())
    obtain(NAME)
    assert _weights.resolve(NAME).source == f"{NAME}@{old}"
    assert Pins().where(f"{NAME}@main").endswith(_pins.FILE)


def test_a_place_that_cannot_be_written_pins_in_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pins = Pins(tmp_path / "file" / "sheet.lock.yaml")
    pins.keep(f"{NAME}@main", commit_of(7))
    assert _pins.read(config.home() / _pins.FILE) == {f"{NAME}@main": commit_of(7)}
    pins.keep(f"{NAME}@{commit_of(8)}", commit_of(8))
    assert Pins().commit(f"{NAME}@{commit_of(8)}") == commit_of(8)
    assert len(_pins.read(config.home() / _pins.FILE)) == 1
    assert lock_of("-") is None
    assert lock_of("a/b.v2.csv") == Path("a/b.v2.lock.yaml")


@pytest.mark.parametrize(
    "text", ["owner/tiny@main: 12\n", "x: y\n", f"{NAME}@main: {'a' * 40}\n" * 2, "\x00"]
)
def test_pins_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.lock.yaml").write_text(text)
    with pytest.raises(ArtefactError, match=r"x\.lock\.yaml:\d+: expected"):
        Pins(tmp_path / "x.lock.yaml")


def test_a_decoder_brings_its_prior(hub: FakeHub, tiny_base: Callable[[str], Path]) -> None:
    folder = tiny_base("KandinskyV22Pipeline")
    prior = _weights.prior_folder(folder, "-decoder", "-prior")
    hub.add("owner/k-decoder", files_of(folder))
    hub.add("owner/k-prior", files_of(prior), 5)
    obtain("kandinsky22:owner/k-decoder")
    facts = _weights.resolve("owner/k-decoder")
    assert facts.digest == _weights.resolve(str(folder)).digest
    assert Path(facts.prior_folder).name == commit_of(5)
    assert len(_pins.read(config.home() / _pins.FILE)) == 2
    _weights.check_unchanged(facts)


def test_a_lora_of_a_repository(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("owner/loras", {"a.safetensors": b"a" * 99, "b.safetensors": b"b", "README.md": b"x"})
    reference = "owner/loras:a.safetensors"
    obtain(files=[reference, "own/x.safetensors"], folder=tmp_path)
    assert hub.count("/cdn/") == 1
    hub.asked.clear()
    assert obtain(files=[reference], folder=tmp_path) == []
    assert hub.asked == []
    with pytest.raises(ModelMissing, match="no such file"):
        obtain(files=["owner/loras:c.safetensors"], folder=tmp_path)
    with pytest.raises(Offline):
        obtain(files=["owner/loras:b.safetensors"], folder=tmp_path, is_offline=True)


def test_a_disk_without_links(hub: FakeHub, tiny_sd3: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    hub.add(NAME, files_of(tiny_sd3))
    obtain(NAME)
    path = Path(_weights.resolve(NAME).folder) / WEIGHTS
    assert path.is_file()
    assert not path.is_symlink()
    hub.asked.clear()
    assert obtain(NAME) == []
    assert hub.asked == []


def test_a_cache_that_cannot_be_written(hub: FakeHub, tiny_sd3: Path, monkeypatch: Any) -> None:
    hub.add(NAME, files_of(tiny_sd3))
    _hub_cache.cache_folder().write_text("a file")
    assert "HF_HUB_CACHE" in failure(ArtefactError, NAME)


def test_what_the_hub_says_of_a_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _weights.hub_login() == "no token"
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text(SECRET)
    assert _weights.hub_login() == "logged in by a stored token"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert SECRET not in _weights.hub_login()


def test_a_dry_run_and_offline_of_the_command(
    hub: FakeHub, no_sockets: Callable[[], None], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from creatok_cli.cli.app import run

    no_sockets()
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text("version: 1\njobs:\n  - prompt: a boar\n")
    monkeypatch.chdir(tmp_path)
    for flags in (["--dry-run"], ["--offline"]):
        assert run(["sample", str(sheet), "--base", NAME, *flags]) == 4
        assert f"hf download {NAME}" in capsys.readouterr().err
    monkeypatch.setenv("CREATOK_OFFLINE", "1")
    assert run(["sample", str(sheet), "--base", NAME, "--json"]) == 4
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["reason"], last["code"]) == ("offline", 4)
    assert hub.asked == []
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".yaml"] == ["sheet.yaml"]


def test_the_command_fetches_then_draws(
    hub: FakeHub,
    tiny_sd3: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
    no_sockets: Callable[[], None],
) -> None:
    from creatok_cli.cli.app import run

    commit = hub.add(NAME, files_of(tiny_sd3))
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text("version: 1\njobs:\n  - {prompt: a boar, steps: 1, size: 32x32}\n")
    monkeypatch.chdir(tmp_path)
    assert run(["sample", str(sheet), "--base", NAME, "--json", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert SECRET not in out
    events = [json.loads(line) for line in out.splitlines()]
    names = [event["event"] for event in events]
    assert names.index("fetching") < names.index("planned") < names.index("image_written")
    assert (tmp_path / "sheet.lock.yaml").read_text().endswith(f"{NAME}@main: {commit}\n")
    manifest = next((tmp_path / "out" / "sheet").glob("manifest*.jsonl")).read_text()
    assert '"licence":"cc0-1.0"' in manifest.replace(" ", "")
    assert commit in manifest
    # N1: warm cache, no connection, though the library that could connect is loaded.
    from huggingface_hub import constants

    no_sockets()
    assert constants.HF_HUB_OFFLINE
    words = ["sample", str(sheet), "--base", NAME, "--device", "cpu", "--out", "again"]
    assert run(words) == 0
    assert next((tmp_path / "again").glob("manifest*.jsonl")).exists()


@pytest.mark.parametrize(
    "words",
    [
        ["learn-token"],
        ["fuse", "pig=.5", "snake=.5"],
        ["explore", "lowprob", "a photo of a creature"],
        ["explore", "conceptlab", "--like", "a pet"],
        ["explore", "distok"],
    ],
    ids=" ".join,
)
def test_every_command_keeps_offline(
    no_sockets: Callable[[], None], tmp_path: Path, monkeypatch: Any, capsys: Any, words: list[str]
) -> None:
    from creatok_cli.cli.app import run

    no_sockets()
    monkeypatch.chdir(tmp_path)
    for flag in ("--offline", "--dry-run"):
        assert run([*words, "--base", NAME, flag]) == 4
        assert f"hf download {NAME}" in capsys.readouterr().err


def test_nothing_that_connects_is_imported_to_plan() -> None:
    code = (
        "import sys, creatok_cli.workflows.sample; "
        "assert not {'huggingface_hub', 'httpx', 'httpx2', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
