"""Doctor on machines that are not here: every probe judges plain facts, without torch."""

from __future__ import annotations

import errno
import json
import os
import sys
import tomllib
import types
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from creatok_cli import doctor, registry
from creatok_cli._probes import bases, cards, machine, places, self_test, software
from creatok_cli._probes.cards import Device, Driver, Torch
from creatok_cli._probes.finding import GIB, MIB, Finding, homely, size
from creatok_cli.backbones._floors import FLOORS
from creatok_cli.backbones._weights import CachedBase
from creatok_cli.doctor import DoctorRequest, Scene
from creatok_cli.errors import ModelMissing
from creatok_cli.registry import PluginFacts
from tests.fakes.disk import CountingDisk, FailingDisk, disk

ROOT = Path(__file__).resolve().parents[2]
CPU_BUILD = Torch(version="2.13.0+cpu")
CUDA_BUILD = Torch(version="2.13.0+cu130", cuda="13.0")
CARD = Device(
    name="cuda:0",
    title="NVIDIA GeForce RTX 4090",
    capability="8.9",
    total_bytes=24 * GIB,
    free_bytes=23 * GIB,
)
DRIVER = Driver(version="580.95.05", card="NVIDIA GeForce RTX 4090", capability="8.9")
OLD_DRIVER = Driver(version="535.183.01", card="NVIDIA GeForce RTX 4090", capability="8.9")
ANCIENT = Driver(version="470.256.02", card="NVIDIA GeForce GTX 1080", capability="6.1")
WITH_CARD = replace(CUDA_BUILD, devices=(CARD,))
SOUND = {name: "99.0" for name in FLOORS}
BASE = CachedBase(
    name="stabilityai/stable-diffusion-3-medium-diffusers",
    backbone="sd3",
    revision="ab" * 20,
    size_bytes=6 * GIB,
    licence="stabilityai-ai-community",
    folder=str(Path.home() / "hub" / "sd3"),
)
FAMILIES = {
    "sd3": {"repo": BASE.name, "licence": BASE.licence},
    "kandinsky22": {"repo": "k/k", "licence": "apache-2.0"},
    "bestiary": {"folder": "weights", "licence": "apache-2.0"},
}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pipx nor uv, whatever runs the tests."""
    monkeypatch.setattr(sys, "prefix", str(Path("/opt/creatok")))


def scene(torch: Torch, driver: Driver | None = None, **request: Any) -> Scene:
    """A machine with this torch and driver."""
    where = Scene(DoctorRequest(**{"self_test": False, **request}), environment={})
    where.torch, where.driver = torch, driver
    return where


def report(where: Scene, *names: str) -> tuple[list[Finding], doctor.Verdict]:
    """What the named probes find, and the verdict."""
    found = [each for name in names for each in doctor.examine(where, name)]
    return doctor.ordered(found), doctor.conclude(where, found)


# torch, driver and cards


def test_no_card_is_no_fault() -> None:
    (found,), verdict = report(scene(CPU_BUILD), "torch")
    assert (found.status, found.todo) == ("ok", "")
    assert verdict.line.startswith("Ready on the CPU; ")
    assert (verdict.code, verdict.device) == (0, "cpu")


@pytest.mark.parametrize(
    ("driver", "index"),
    [
        (DRIVER, "cu130"),
        (Driver(), "cu130"),
        (OLD_DRIVER, "cu126"),
        (Driver(version="570.1", capability="12.0"), "cu128"),
        (Driver(version="580.95", capability="6.1"), "cu126"),
    ],
)
def test_a_cpu_build_beside_a_card_is_called_out(driver: Driver, index: str) -> None:
    where = scene(CPU_BUILD, driver)
    (found,), verdict = report(where, "torch")
    assert found.status == "warning"
    assert "built for the CPU only, but an NVIDIA card is here" in found.found
    assert found.todo == (
        'python -m pip install --force-reinstall "torch>=2.10" '
        f"--index-url https://download.pytorch.org/whl/{index}"
    )
    assert (verdict.code, verdict.is_ready) == (0, True)
    assert "the NVIDIA card is not used" in verdict.line
    assert "1 warning above" in verdict.line


@pytest.mark.parametrize(
    ("prefix", "begins"),
    [
        ("/u/.local/share/pipx/venvs/creatok", "pipx runpip creatok install --force-reinstall"),
        (r"C:\u\pipx\venvs\creatok", "pipx runpip creatok install"),
        (
            "/u/.local/share/uv/tools/creatok",
            "uv pip install --python /u/.local/share/uv/tools/creatok --force",
        ),
        ("/u/venv", "python -m pip install --force-reinstall"),
    ],
)
def test_the_line_fits_how_creatok_was_installed(prefix: str, begins: str) -> None:
    assert cards.judge_torch(CPU_BUILD, DRIVER, prefix=prefix).todo.startswith(begins)


def test_a_cuda_build_with_a_card_is_ready() -> None:
    found, verdict = report(scene(WITH_CARD, DRIVER), "torch")
    assert [each.status for each in found] == ["ok", "ok"]
    for part in ("RTX 4090", "24.0 GiB, 23.0 GiB free", "capability 8.9", "driver 580.95.05"):
        assert part in found[1].found
    assert found[1].facts["total_bytes"] == 24 * GIB
    assert verdict.line.startswith("Ready: draws on cuda:0 (NVIDIA GeForce RTX 4090, 23.0 GiB free")
    assert verdict.device == "cuda:0"


def test_an_old_driver_is_named_with_the_one_needed() -> None:
    (found,), verdict = report(scene(CUDA_BUILD, OLD_DRIVER), "torch")
    assert found.status == "warning"
    assert "needs driver 580" in found.found
    assert "driver 535.183.01" in found.found
    assert "update the driver to 580 or newer" in found.todo
    assert found.todo.endswith("/whl/cu126")
    assert verdict.device == "cpu"
    (found,), _ = report(scene(CUDA_BUILD, ANCIENT), "torch")
    assert "pip" not in found.todo  # no wheel runs on it


def test_a_card_that_torch_cannot_use_is_told_in_its_words() -> None:
    torch = replace(CUDA_BUILD, trouble="CUDA unknown error")
    (found,), _ = report(scene(torch, DRIVER), "torch")
    assert found.status == "warning"
    assert "CUDA unknown error" in found.found


def test_a_hidden_card_is_a_note() -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    found = cards.judge_torch(CUDA_BUILD, DRIVER, environment=hidden)
    assert (found.status, found.todo) == ("note", "")
    assert "hidden by CUDA_VISIBLE_DEVICES" in found.found


def test_a_cuda_build_without_a_driver_is_a_note() -> None:
    assert cards.judge_torch(CUDA_BUILD, None).status == "note"


def test_a_torch_that_cannot_be_imported_is_fault_4() -> None:
    broken = Torch(error="OSError: libcudart.so.13: cannot open shared object file")
    (found,), verdict = report(scene(broken), "torch", "self-test")
    assert (found.status, found.code) == ("fault", 4)
    assert "libcudart" in found.found
    assert "pip install" in found.todo
    assert (verdict.code, verdict.is_ready) == (4, False)
    assert verdict.line.startswith("Not ready: torch: cannot be imported")


def test_looking_at_a_broken_torch_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('a DLL is missing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert cards.look_torch().error == "OSError: a DLL is missing"


class FakeCuda(types.SimpleNamespace):
    """`torch.cuda` with two cards; the second is sick."""

    def mem_get_info(self, index: int) -> tuple[int, int]:
        if index == 1:
            raise RuntimeError("CUDA error: uncorrectable ECC error\nmore")
        return 7 * GIB, 8 * GIB

    def get_device_properties(self, index: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(name=f"Card {index}", major=8, minor=6, total_memory=8 * GIB)


def fake_torch(cuda: types.SimpleNamespace, *, apple: bool = False) -> types.SimpleNamespace:
    """As much of torch as is looked at."""
    return types.SimpleNamespace(
        __version__="2.13.0+cu130",
        version=types.SimpleNamespace(cuda="13.0", hip=None),
        cuda=cuda,
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: apple)),
        mps=types.SimpleNamespace(recommended_max_memory=lambda: 16 * GIB),
        get_num_threads=lambda: 1,
        set_num_threads=lambda count: None,
    )


def test_what_torch_sees_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_arch_list=lambda: ["sm_80", "sm_86"],
    )
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda))
    found = cards.look_torch()
    assert (found.version, found.cuda, found.error) == ("2.13.0+cu130", "13.0", "")
    first, second = found.devices
    assert (first.name, first.title, first.capability) == ("cuda:0", "Card 0", "8.6")
    assert (first.free_bytes, first.has_bf16, first.is_built_for) == (7 * GIB, True, True)
    assert second.trouble == "RuntimeError: CUDA error: uncorrectable ECC error"


def test_what_torch_says_while_it_looks_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn("CUDA initialization: the driver is too old. Update it.", stacklevel=1)
        return False

    monkeypatch.setitem(sys.modules, "torch", fake_torch(FakeCuda(is_available=is_available)))
    found = cards.look_torch()
    assert (found.devices, found.trouble) == ((), "CUDA initialization: the driver is too old")


def test_an_apple_card_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda, apple=True))
    where = scene(cards.look_torch())
    assert where.device == "mps"
    assert report(where, "torch")[1].line.startswith("Ready: draws on mps (Apple GPU)")


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"free_bytes": 2 * GIB}, "note", "other programs"),
        ({"is_built_for": False, "capability": "6.1"}, "warning", "whl/cu126"),
        ({"trouble": "RuntimeError: uncorrectable ECC error"}, "warning", "nvidia-smi"),
        ({"has_bf16": False}, "ok", ""),
    ],
)
def test_what_is_wrong_with_a_card(change: dict[str, Any], status: str, said: str) -> None:
    torch = replace(CUDA_BUILD, devices=(replace(CARD, **change),))
    (found,) = cards.judge_devices(torch, DRIVER)
    assert found.status == status
    assert said in found.todo


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((8, 9), True), ((8, 0), True), ((9, 0), True), ((7, 5), False), ((12, 0), True)],
)
def test_a_build_runs_on_its_architectures(capability: tuple[int, int], runs: bool) -> None:
    assert cards.runs_on(*capability, ["sm_80", "sm_90a", "compute_120"]) is runs


@pytest.mark.parametrize(
    ("asked", "torch", "code"),
    [
        ("cuda", CPU_BUILD, 5),
        ("cuda:1", WITH_CARD, 5),
        ("mps", WITH_CARD, 5),
        ("cuda", WITH_CARD, 0),
        ("cpu", WITH_CARD, 0),
        ("auto", CPU_BUILD, 0),
    ],
)
def test_a_device_that_is_asked_for_and_missing_is_5(asked: str, torch: Torch, code: int) -> None:
    found, verdict = report(scene(torch, device=asked), "torch", "self-test")
    assert verdict.code == code
    if code:
        assert found[0].name == "device"
        assert "this machine has cpu" in found[0].found
    else:
        assert verdict.device == {"cuda": "cuda:0", "auto": "cpu"}.get(asked, asked)


def test_the_driver_is_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (x)\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cards, "DRIVER_FILE", file)
    monkeypatch.setattr(cards, "DEVICE_FILE", tmp_path)
    assert cards.look_driver() == Driver(version="580.95.05")
    monkeypatch.setattr(cards, "DEVICE_FILE", tmp_path / "none")  # a container without a card
    assert cards.look_driver() is None
    monkeypatch.setattr(cards, "DEVICE_FILE", tmp_path)
    file.unlink()
    assert cards.look_driver() is None
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    (tmp_path / "System32").mkdir()
    (tmp_path / "System32" / "nvcuda.dll").write_bytes(b"")
    assert cards.look_driver() == Driver()


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for nvidia-smi")
@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA GeForce RTX 4090, 580.95.05, 8.9'", DRIVER),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None),
    ],
)
def test_nvidia_smi_is_asked(
    script: str, found: Driver | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cards, "DRIVER_FILE", tmp_path / "none")
    assert cards.look_driver() == found


# The CPU


@pytest.mark.parametrize(
    ("flags", "has_bf16", "said"),
    [
        ("flags\t: fpu avx512_bf16", True, "twice as fast"),
        ("flags\t: fpu amx_bf16", True, "twice as fast"),
        ("Features\t: fp asimd bf16", True, "twice as fast"),
        ("flags\t: fpu avx2", False, "would be slower"),
        ("", None, "GiB memory"),
    ],
)
def test_whether_bf16_pays(flags: str, has_bf16: bool | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"model name\t: A CPU\n{flags}\n")
    (tmp_path / "proc" / "meminfo").write_text(
        "MemTotal:  8388608 kB\nMemAvailable:   4194304 kB\n"
    )
    cpu = machine.look_cpu(tmp_path)
    assert (cpu.has_bf16, cpu.title, cpu.total_bytes) == (has_bf16, "A CPU", 8 * GIB)
    found = machine.judge_cpu(cpu, threads=1)
    assert said in found.found
    assert "8.0 GiB memory, 4.0 GiB free" in found.found


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_what_a_container_grants(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine.look_cpu(tmp_path).quota == quota


def test_more_threads_than_the_container_grants_is_a_warning() -> None:
    found = machine.judge_cpu(machine.Cpu(granted=64, total=64, quota=2.0), threads=8)
    assert (found.status, found.todo) == ("warning", "set OMP_NUM_THREADS=2")
    assert machine.judge_cpu(machine.Cpu(quota=2.0), threads=2).status == "ok"


# Libraries and plug-ins


def test_libraries_below_their_floors_are_fault_4() -> None:
    old = software.judge_libraries(SOUND | {"diffusers": "0.39.2", "torch": "2.9.1+cu128"})
    assert (old.status, old.code, old.reason) == ("fault", 4, "refused")
    assert "diffusers 0.39.2 is older than 0.40" in old.found
    assert old.todo == 'python -m pip install -U "torch>=2.10" "diffusers>=0.40"'
    gone = software.judge_libraries(SOUND | {"safetensors": ""})
    assert (gone.code, gone.reason) == (4, "missing")
    assert software.judge_libraries(SOUND).status == "ok"


def test_the_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = dict(each.split(",")[0].split(">=") for each in project["dependencies"])
    assert {name: floors[name] for name in FLOORS} == FLOORS
    extras = project["optional-dependencies"]
    found = {name: f"{library}>={floor}" for name, (library, floor, _) in software.EXTRAS.items()}
    assert found == {name: lines[0] for name, lines in extras.items() if name != "dev"}


@pytest.mark.parametrize(
    ("ray", "status", "said"),
    [("", "ok", "not installed"), ("2.60.0", "ok", "ray 2.60.0"), ("2.51", "warning", "2.52")],
)
def test_extras_are_optional(ray: str, status: str, said: str) -> None:
    found = software.judge_extras({"ray": ray, "bitsandbytes": ""})
    assert found.status == status
    assert said in found.found


def test_a_broken_plug_in_is_named_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = registry.describe

    def describe(group: str, name: str) -> PluginFacts:
        found = plain(group, name)
        return (
            replace(found, module="stranger.mod", broken="SyntaxError: x")
            if name == "png"
            else found
        )

    assert software.judge_plugins().status == "ok"
    monkeypatch.setattr(registry, "describe", describe)
    found = software.judge_plugins()
    assert found.status == "warning"
    assert "png (stranger.mod): SyntaxError: x" in found.found
    assert found.facts["broken"] == {"sinks: png": "SyntaxError: x"}


# Bases and the Hub


def test_a_bestiary_without_weights_is_fault_4(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str) -> None:
        raise ModelMissing(f"base {name}: its weights are not installed")

    monkeypatch.setattr(bases, "resolve", resolve)
    (found,), verdict = report(scene(CPU_BUILD), "bestiary")
    assert (found.code, found.todo) == (4, "install creatok again")
    assert verdict.code == 4


def test_the_bestiary_is_found() -> None:
    found = bases.probe_bestiary()
    assert found.status == "ok"
    assert "apache-2.0: commercial use allowed" in found.found


def test_bases_of_the_cache_are_told_with_their_licence() -> None:
    (found,) = bases.judge_cached([BASE])
    assert found.name == "sd3"
    assert "6.0 GiB, licence stabilityai-ai-community: free below USD 1M" in found.found
    assert found.facts["folder"] == str(Path("~") / "hub" / "sd3")
    (strange,) = bases.judge_cached([replace(BASE, licence="unknown")])
    assert "read it before you publish" in strange.found


def test_a_gated_base_and_no_login_is_told_with_its_page() -> None:
    found = bases.judge_gates(FAMILIES, [], "no token")
    assert found is not None
    assert found.status == "note"
    assert "this machine has no login" in found.found
    assert f"https://huggingface.co/{BASE.name}; then: hf auth login" in found.todo
    assert "k/k" not in found.todo
    known = bases.judge_gates(FAMILIES, [], "logged in by HF_TOKEN")
    assert known is not None
    assert "hf auth login" not in known.todo
    assert bases.judge_gates(FAMILIES, [BASE], "no token") is None


def test_offline_and_the_login_are_told_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    found = bases.judge_hub(100 * GIB, {"HF_HUB_OFFLINE": "1"})
    assert "offline (HF_HUB_OFFLINE)" in found.found
    assert "logged in by HF_TOKEN" in found.found
    assert "canary" not in json.dumps(asdict(found))
    assert "online" in bases.judge_hub(100 * GIB, {"HF_HUB_OFFLINE": "0"}).found
    tight = bases.judge_hub(5 * GIB, {})
    assert (tight.status, "HF_HOME" in tight.todo) == ("note", True)


# Places


def test_a_home_that_cannot_be_written_is_fault_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "file" / "home"))
    found, verdict = report(scene(CPU_BUILD), "folders")
    assert (found[0].name, found[0].code, found[0].reason) == ("home", 6, "read-only")
    assert "CREATOK_HOME" in found[0].todo
    assert verdict.code == 6


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_each_broken_operation_leaves_nothing_behind(code: int, tmp_path: Path) -> None:
    with disk(CountingDisk()) as whole:
        assert places.try_folder(tmp_path).trouble == ""
    assert isinstance(whole, CountingDisk)
    for at in range(1, whole.count + 1):
        with disk(FailingDisk(at, code)) as broken:
            room = places.try_folder(tmp_path / "not" / "there")
        assert isinstance(broken, FailingDisk)
        if broken.broke in ("open", "write"):
            assert room.trouble == os.strerror(code)
        assert room.has_links is (broken.broke != "link")
        if broken.broke != "unlink":
            assert list(tmp_path.iterdir()) == []
        for each in tmp_path.iterdir():
            each.unlink()


@pytest.mark.parametrize(
    ("free", "status", "code"),
    [(10 * MIB, "fault", 6), (500 * MIB, "warning", 0), (9 * GIB, "ok", 0), (None, "ok", 0)],
)
def test_a_disk_nearly_full(free: int | None, status: str, code: int) -> None:
    room = places.Room(folder=Path("out"), free_bytes=free)
    for found in (places.judge_home(room), places.judge_folder(room)):
        assert (found.status, found.code) == (status, code)
        assert bool(found.todo) is (status != "ok")


def test_traits_of_the_folder_are_told() -> None:
    plain = places.Room(folder=Path("out"))
    assert places.judge_folder(plain).status == "ok"
    odd = replace(plain, has_links=False, is_case_sensitive=False)
    found = places.judge_folder(odd)
    assert found.status == "note"
    assert "no hard links" in found.found
    assert "capitals" in found.found
    locked = places.judge_folder(replace(plain, trouble="Permission denied"))
    assert (locked.status, "--out" in locked.todo) == ("warning", True)


def test_the_clock_and_the_output() -> None:
    room = places.Room(folder=Path("out"))
    assert places.judge_clock(0.0, room).status == "warning"
    assert places.judge_clock(2e9, replace(room, skew_s=90.0)).status == "note"
    assert places.judge_clock(2e9, room).status == "ok"
    assert places.judge_output("utf-8", {"LANG": "C.UTF-8"}).found == "utf-8, locale C.UTF-8"
    assert places.judge_output("cp1252", {}).todo == "set PYTHONUTF8=1"


def test_a_wrong_setting_is_fault_2_and_the_rest_goes_on() -> None:
    where = scene(CPU_BUILD)
    where.environment = {"CREATOK_DEVICE": "gpu"}
    found, verdict = report(where, "settings", "torch")
    assert [each.code for each in found] == [2, 0]
    assert "CREATOK_DEVICE" in found[0].found
    assert verdict.code == 2
    where = scene(CPU_BUILD)
    where.environment = {"CREATOK_DEVICE": "cuda:3"}
    assert report(where, "settings", "torch")[1].code == 5


# The self-test


def picture(fill: bytes) -> self_test.Drawn:
    """A picture made of 4 x 4 fields."""
    from PIL import Image

    image = Image.frombytes("RGB", (4, 4), fill).resize((64, 64), Image.Resampling.NEAREST)
    return self_test.Drawn(image=image, device="cpu", load_s=1.0, draw_s=0.5)


def test_the_picture_is_judged() -> None:
    good = self_test.judge_picture(picture(self_test.LOOK))
    assert (good.status, good.facts["difference"]) == ("ok", 0.0)
    assert "0.5 s on cpu" in good.found
    nearly = bytes(min(255, value + 3) for value in self_test.LOOK)
    assert self_test.judge_picture(picture(nearly)).status == "ok"
    other = self_test.judge_picture(picture(self_test.LOOK[::-1]))
    assert (other.status, "not the expected one" in other.found) == ("warning", True)
    flat = self_test.judge_picture(picture(bytes([128] * 48)))
    assert (flat.status, flat.code) == ("fault", 3)


# The whole


def test_a_probe_that_breaks_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(where: Scene) -> list[Finding]:
        raise RuntimeError(f"no luck in {Path.home() / 'x'}\nsecond line")

    monkeypatch.setattr(doctor, "PROBES", {**doctor.PROBES, "hub": broken, "bestiary": broken})
    found, verdict = report(scene(CPU_BUILD), "hub", "python")
    assert [each.status for each in found] == ["warning", "ok"]
    assert found[0].found == "could not be looked at: RuntimeError: no luck in " + str(Path("~/x"))
    assert verdict.code == 0
    (vital,), verdict = report(scene(CPU_BUILD), "bestiary")
    assert (vital.status, verdict.code, verdict.reason) == ("fault", 1, "internal")


def test_the_gravest_comes_first_and_gives_the_code() -> None:
    each = [
        Finding(name=str(index), status=status, found="x", code=code)
        for index, (status, code) in enumerate(
            [("ok", 0), ("fault", 4), ("warning", 0), ("fault", 6), ("note", 0)]
        )
    ]
    assert [found.name for found in doctor.ordered(each)] == ["1", "3", "2", "4", "0"]
    verdict = doctor.conclude(scene(CPU_BUILD), each)
    assert (verdict.code, verdict.line) == (6, "Not ready: 3: x")


def test_what_is_not_drawn_is_not_called_tested() -> None:
    assert "nothing was drawn" in report(scene(CPU_BUILD), "python")[1].line
    assert "nothing was drawn" not in report(scene(CPU_BUILD, self_test=True), "python")[1].line


def test_sizes_and_paths_are_said_for_people() -> None:
    assert [size(each) for each in (412 * MIB, 23.1 * GIB, 1234 * GIB)] == [
        "412 MiB",
        "23.1 GiB",
        "1,234 GiB",
    ]
    home = str(Path.home())
    assert homely(f"{home}/x and {home}") == "~/x and ~"
    assert homely(f"{home}-else/x") == f"{home}-else/x"
