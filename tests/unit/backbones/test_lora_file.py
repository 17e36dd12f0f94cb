"""Where a LoRA lies: beside the sheet, or in the Hub's cache at the commit that is pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from creatok_cli.backbones import _hub_cache
from creatok_cli.backbones._lora_file import cached_blob, lora_path, parse_reference
from creatok_cli.backbones._pins import Pins
from creatok_cli.errors import TokenMissing
from creatok_cli.hashing import sha256_hex

NAME = "owner/repo:x-lora.safetensors"
OLD, NEW = "a" * 40, "b" * 40


def put(commit: str, data: bytes, *, branch: str = "main") -> Path:
    """A file in the cache, as huggingface_hub lays it out."""
    model = _hub_cache.repo_folder("owner/repo")
    blob = model / "blobs" / sha256_hex(data)
    path = model / "snapshots" / commit / "x-lora.safetensors"
    for each in (blob, path, model / "refs" / branch):
        each.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    path.symlink_to(blob)
    (model / "refs" / branch).write_text(commit)
    return path


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        (NAME, "owner/repo", "main", "x-lora.safetensors"),
        ("o/r@v1:a/b.safetensors", "o/r", "v1", "a/b.safetensors"),
        ("o/r@refs/pr/3:b.safetensors", "o/r", "refs/pr/3", "b.safetensors"),
        (f"o/r@{OLD}:b.safetensors", "o/r", OLD, "b.safetensors"),
    ],
)
def test_a_file_of_a_repository_is_told_apart(
    text: str, repo: str, revision: str, file: str
) -> None:
    found = parse_reference(text)
    assert found is not None
    assert (found.repo, found.revision, found.file) == (repo, revision, file)


@pytest.mark.parametrize(
    "text",
    [
        *("x.safetensors", "loras/x.safetensors", "C:/x.safetensors", "C:\\a\\x.safetensors"),
        *("o/r:x.bin", "o/r:../x.safetensors", "o/r:.x/y.safetensors", "o/r:/x.safetensors"),
        *("o/..:x.safetensors", "o--o/r:x.safetensors", "o/r@../x:x.safetensors", "o/r:", "r:x"),
        *("o/r:x\n.safetensors", "https://a.b/x.safetensors", "o/r:a//b.safetensors"),
    ],
)
def test_anything_else_is_a_path(text: str) -> None:
    assert parse_reference(text) is None


def test_a_pin_wins_over_what_was_fetched_last(tmp_path: Path) -> None:
    old, new = put(OLD, b"old"), put(NEW, b"new")
    assert lora_path(NAME, tmp_path, Pins()) == new
    lock = tmp_path / "sheet.lock.yaml"
    lock.write_text(f"owner/repo@main: {OLD}\n")
    assert lora_path(NAME, tmp_path, Pins(lock)) == old
    assert lora_path(f"owner/repo@{OLD}:x-lora.safetensors", tmp_path, Pins()) == old


def test_a_file_of_that_name_wins_over_a_repository(tmp_path: Path) -> None:
    put(NEW, b"new")
    own = tmp_path / "owner" / "repo:x-lora.safetensors"
    own.parent.mkdir()
    own.write_bytes(b"own")
    assert lora_path(NAME, tmp_path, Pins()) == own
    assert lora_path("a.safetensors", tmp_path, Pins()) == tmp_path / "a.safetensors"
    assert lora_path("~/a.safetensors", tmp_path, Pins()) == Path.home() / "a.safetensors"


@pytest.mark.parametrize("revision", ["", "@v2"])
def test_what_is_not_there_is_told_with_its_command(tmp_path: Path, revision: str) -> None:
    put(NEW, b"new")
    name = NAME.replace(":x", f"{revision}:y")
    tail = f" --revision {revision[1:]}" if revision else ""
    command = f"'hf download owner/repo y-lora.safetensors{tail}'"
    with pytest.raises(TokenMissing) as caught:
        lora_path(name, tmp_path, Pins())
    assert str(caught.value) == f"{name}: is not on this machine; fetch it with {command}"


def test_a_file_is_found_by_its_content() -> None:
    digest = f"sha256:{sha256_hex(b'new')}"
    assert cached_blob(digest) is None
    put(NEW, b"new")
    found = cached_blob(digest)
    assert found is not None
    assert found.read_bytes() == b"new"
    assert cached_blob("sha256:../../x") is None
