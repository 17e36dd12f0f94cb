"""A tiny SD3 folder with random towers, and a short list of pairs over its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.sets import PairList
from tests.tiny import build_tiny_sd3


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sd3(tmp_path_factory.mktemp("tiny") / "sd3", legacy_eos=True)


@pytest.fixture
def backbone(tiny: Path) -> Any:
    from creatok_cli.backbones import sd3

    return sd3.build(sd3.Spec(), resolve(str(tiny)), device="cpu", dtype="fp32")


@pytest.fixture
def pairs() -> PairList:
    train = (("pig", "owl"), ("cat", "bee"), ("fox", "crab"), ("pig", "bee"), ("cat", "crab"))
    return PairList(
        name="few",
        digest="sha256:" + "0" * 64,
        slots=("a", "b"),
        train=train,
        held_out={"new": (("owl", "fox"), ("bee", "crab"))},
        source="",
        licence="cc0-1.0",
        note="",
    )
