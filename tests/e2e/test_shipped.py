"""What users install: the built wheel, without developer tools, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEVELOPER_TOOLS = ("pytest", "_pytest", "hypothesis", "jsonschema", "build", "hatchling", "mypy")

FENCE = f"""
import sys
class Fence:
    # Finds no developer tools; a refusal would not do, because torch asks whether some are there.
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {DEVELOPER_TOOLS!r}:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Fence(finder) for finder in sys.meta_path]
import creatok_cli
assert creatok_cli.__file__.startswith(sys.argv.pop(1)), creatok_cli.__file__
from creatok_cli.cli.app import main
sys.argv[0] = "creatok"
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    result = subprocess.run([*words, str(ROOT)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("creatok-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def creatok(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the shipped creatok where no developer tool can be imported."""
    return subprocess.run(
        [sys.executable, "-c", FENCE, str(site), *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (ROOT / "presets").rglob("*.yaml"):
        assert f"creatok_cli/presets/{path.relative_to(ROOT / 'presets').as_posix()}" in names
    for path in (ROOT / "creatok_cli").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "creatok_cli" / "concepts").rglob("*.yaml"):
        assert path.relative_to(ROOT).as_posix() in names
    assert "creatok_cli/backbones/bestiary/weights/networks/distok.safetensors" in names
    assert "creatok_cli/plan/sheet.schema.json" in names
    assert "creatok_cli/backbones/bestiary/weights/model_index.json" in names
    top = {name.split("/")[0] for name in names}
    assert {name.split("-")[0] for name in top} == {"creatok_cli", "creatok"}
    assert [name for name in names if name.endswith((".pyc", ".bin", ".pt", ".ckpt"))] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_names_its_command(installed: Path) -> None:
    (info,) = installed.glob("creatok-*.dist-info")
    text = (info / "entry_points.txt").read_text(encoding="utf-8")
    assert "creatok = creatok_cli.cli.app:main" in text


def test_help_runs_without_developer_tools(installed: Path, tmp_path: Path) -> None:
    result = creatok(installed, tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    assert "sample" in result.stdout


def test_a_bestiary_sheet_runs_without_developer_tools(installed: Path, tmp_path: Path) -> None:
    sheet = "presets/sheets/first-creatures.yaml"
    words = ("sample", sheet, "--set", "count=1", "--device", "cpu")
    result = creatok(installed, tmp_path, *words)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out" / "first-creatures"
    assert result.stdout.strip().endswith("contact-sheet.png")
    assert (out / "contact-sheet.png").stat().st_size > 1000
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr


def test_a_wrong_sheet_is_told_by_the_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("version: 1\njobs:\n  - promt: a pig\n", encoding="utf-8")
    result = creatok(installed, tmp_path, "sample", "x.yaml")
    assert result.returncode == 2
    assert "x.yaml:3:5: error[unknown-key]" in result.stderr
