"""What every test stands on: a private home, no network, one thread, and a tiny model of the real
classes.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read once by the libraries, hence before any of them
os.environ["TOKENIZERS_PARALLELISM"] = "false"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
}
os.environ.update(OFFLINE)

import pytest  # noqa: E402

from tests.tiny import build_tiny_kandinsky, build_tiny_sd3  # noqa: E402
from tests.tiny_bases import TINY  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write golden files anew; look at them"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in str(config.getoption("-m")):
        soaked = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in soaked]
        config.hook.pytest_deselected(items=soaked)
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device, none is here"))


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def private_world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """CREATOK_HOME in a fresh folder, no settings from outside, no sockets, one torch thread."""
    for name in [name for name in os.environ if name.startswith(("CREATOK_", "HF_"))]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CREATOK_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hub-home"))
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    if not request.node.get_closest_marker("network"):
        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, _refuse(getattr(socket.socket, name)))
        monkeypatch.setattr(socket, "getaddrinfo", _no_names)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _refuse(plain: Callable[..., Any]) -> Callable[..., Any]:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family == getattr(socket, "AF_UNIX", None):
            return plain(self, address)
        raise AssertionError(f"a test opened a connection to {address!r}")

    return connect


def _no_names(host: Any, *rest: Any, **more: Any) -> Any:
    raise AssertionError(f"a test looked up the name {host!r}")


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes (once per variant) a tiny SD3 folder; arguments as `tests.tiny.build_tiny_sd3`. Never
    write into it.
    """
    made: dict[str, Path] = {}

    def folder(**variant: Any) -> Path:
        name = repr(sorted(variant.items()))
        if name not in made:
            made[name] = build_tiny_sd3(tmp_path_factory.mktemp("tiny") / "tiny-sd3", **variant)
        return made[name]

    return folder


@pytest.fixture(scope="session")
def tiny_sd3(tiny_folders: Callable[..., Path]) -> Path:
    """A tiny random SD3 folder without T5. Never write into it: copy it."""
    return tiny_folders()


@pytest.fixture(scope="session")
def tiny_kandinsky(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes (once per version, 2.2 or 2.1) tiny Kandinsky folders; says the decoder's. Never write
    into them.
    """
    made: dict[str, Path] = {}

    def folder(version: str) -> Path:
        if version not in made:
            made[version] = build_tiny_kandinsky(tmp_path_factory.mktemp("tiny"), version=version)
        return made[version]

    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes (once per pipeline class) a tiny model of that family. Never write into it."""
    made: dict[str, Path] = {}

    def folder(pipeline: str) -> Path:
        if pipeline not in made:
            made[pipeline] = TINY[pipeline](tmp_path_factory.mktemp("tiny"))
        return made[pipeline]

    return folder
