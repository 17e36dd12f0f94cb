"""The pictures that jobs begin from, as the renderer gets them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from creatok_cli import _starts
from creatok_cli._starts import Starts
from creatok_cli.domain import Job
from creatok_cli.errors import DigestMismatch, TokenMissing
from creatok_cli.strict_picture import check_picture


def job(digest: str | None, **changes: Any) -> Job:
    given: dict[str, Any] = {
        "base_digest": "sha256:0",
        "prompt": "x",
        "seed": 1,
        "size_px": (4, 6),
        "steps": 2,
        "guidance": 1.0,
        "scheduler": "none",
        "dtype": "fp32",
        "init_image": digest,
        "strength": 0.5,
    }
    return Job(**given | changes)


def written(path: Path, colour: tuple[int, int, int]) -> str:
    Image.new("RGB", (9, 9), colour).save(path)
    return check_picture(path).digest


def test_a_picture_becomes_rows_that_share_its_memory(tmp_path: Path) -> None:
    digest = written(tmp_path / "a.png", (0, 51, 255))
    one = Starts({digest: str(tmp_path / "a.png")})
    start = one.start(job(digest), 3)
    assert start is not None
    assert (start.pixels.shape, start.pixels.dtype, start.strength) == (
        (3, 3, 6, 4),
        torch.float32,
        0.5,
    )
    assert start.pixels.stride(0) == 0
    assert torch.allclose(start.pixels[2, :, 5, 3], torch.tensor([-1.0, -0.6, 1.0]))
    assert one.start(job(None, strength=None), 3) is None


def test_a_picture_that_changed_or_went_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    digest = written(path, (1, 2, 3))
    one = Starts({digest: str(path)})
    written(path, (3, 2, 1))
    with pytest.raises(DigestMismatch, match="changed since the plan was made"):
        one.start(job(digest), 1)
    path.unlink()
    with pytest.raises(TokenMissing, match="it was there when the plan was made"):
        one.start(job(digest), 1)
    with pytest.raises(TokenMissing, match="was not loaded"):
        one.start(job("sha256:9"), 1)


def test_few_pictures_are_kept_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        written(tmp_path / f"{n}.png", (n, 0, 0)): str(tmp_path / f"{n}.png") for n in range(9)
    }
    one, read = Starts(files), []
    plain = _starts.open_same

    def note(path: Path, digest: str) -> Image.Image:
        read.append(path)
        return plain(path, digest)

    monkeypatch.setattr(_starts, "open_same", note)
    asked = [digest for digest in files for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda digest: one.start(job(digest), 1), asked))
    levels = [round((float(start.pixels[0, 0, 0, 0]) + 1) * 127.5) for start in found if start]
    assert levels == [n for n in range(9) for _ in range(4)]
    assert len(read) < len(asked)
    assert len(one._kept) == _starts.KEPT
