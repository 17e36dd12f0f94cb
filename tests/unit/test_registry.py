"""Names by scanning, facts by ast, entry points beside them, the nearest name."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from creatok_cli import registry
from creatok_cli.errors import InputError, UnknownName

GOOD = '''"""Draws nothing at all.

Does not: draw.
"""
from dataclasses import dataclass
SIDES = ("text", "image")
NEEDS: tuple[str, ...] = ("prior",)
LIMIT = max(1, 2)
_HIDDEN = 1
lower = 2

@dataclass(frozen=True)
class Spec:
    steps: int = 8
    size: tuple[int, int] = (64, 64)
    repo: str | None = None
    needed: float
    computed: int = 2 * len("x")

raise RuntimeError("importing this is a fault of the test")
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one package and entry points, for one test."""

    def install(group: str, points: dict[str, str], modules: dict[str, str]) -> None:
        info = tmp_path / "stranger-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text(f"[creatok_cli.{group}]\n" + "\n".join(lines) + "\n")
        for name, source in modules.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    return install


@pytest.mark.parametrize("group", registry.GROUPS)
def test_names_are_the_files_of_the_folder(group: str) -> None:
    folder = Path(registry.__file__).parent / group
    files = {p.stem for p in folder.glob("*.py")} | {
        p.parent.name for p in folder.glob("*/__init__.py")
    }
    wanted = {name for name in files if not name.startswith("_") and name != "base"}
    assert set(registry.names(group)) == wanted
    assert registry.names(group) == tuple(sorted(wanted))


def test_there_are_plug_ins_and_bestiary_is_one() -> None:
    assert "bestiary" in registry.names("backbones")


def test_an_unknown_group_is_a_bug() -> None:
    with pytest.raises(ValueError, match="there are backbones, methods"):
        registry.names("widgets")


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_built_in_is_described(group: str) -> None:
    for name in registry.names(group):
        facts = registry.describe(group, name)
        assert facts.broken == ""
        assert facts.line, f"{facts.module} has no docstring"
        assert (facts.group, facts.name) == (group, name)


def test_describing_imports_nothing(outside: Callable[..., None]) -> None:
    sources = {
        "stranger/__init__.py": "raise RuntimeError('imported')",
        "stranger/sub/__init__.py": "1 / 0",
        "stranger/sub/good.py": GOOD,
    }
    outside("sinks", {"good": "stranger.sub.good"}, sources)
    before = set(sys.modules)
    facts = registry.describe("sinks", "good")
    assert not {name for name in set(sys.modules) - before if name.startswith("stranger")}
    assert (facts.line, facts.broken, facts.module) == (
        "Draws nothing at all.",
        "",
        "stranger.sub.good",
    )
    assert facts.spec == {"steps": 8, "size": (64, 64), "repo": None}
    assert facts.facts == {"SIDES": ("text", "image"), "NEEDS": ("prior",)}
    assert "good" in registry.names("sinks")


def test_broken_plug_ins_are_reported_and_stop_no_other(outside: Callable[..., None]) -> None:
    points = {
        "syntax": "stranger_a",
        "gone": "stranger_none",
        "raises": "stranger_b",
        "fine": "stranger_c",
    }
    modules = {
        "stranger_a.py": "def (",
        "stranger_b.py": '"""Raises."""\n1 / 0\n',
        "stranger_c.py": '"""Fine."""\n',
    }
    outside("scorers", points, modules)
    assert set(points) <= set(registry.names("scorers"))
    assert registry.describe("scorers", "syntax").broken.startswith("SyntaxError")
    assert registry.describe("scorers", "gone").broken == "its source file was not found"
    assert registry.describe("scorers", "raises").line == "Raises."
    for name, reason in (
        ("syntax", "SyntaxError"),
        ("gone", "ModuleNotFoundError"),
        ("raises", "ZeroDivisionError"),
    ):
        with pytest.raises(
            InputError, match=f'scorers: the plug-in "{name}" .* cannot be loaded: {reason}'
        ):
            registry.get("scorers", name)
    assert registry.get("scorers", "fine").__doc__ == "Fine."


def test_a_built_in_wins_over_a_stranger_of_its_name(outside: Callable[..., None]) -> None:
    outside("backbones", {"bestiary": "stranger_d"}, {"stranger_d.py": '"""Other."""\n'})
    assert registry.describe("backbones", "bestiary").module == "creatok_cli.backbones.bestiary"


def test_an_unknown_name_has_a_nearest() -> None:
    with pytest.raises(
        UnknownName, match='backbones: unknown name "bestiery"; did you mean "bestiary"'
    ):
        registry.get("backbones", "bestiery")
    with pytest.raises(UnknownName, match=r"there are .*bestiary"):
        registry.describe("backbones", "zzz")
    for hostile in ("../registry", "_weights", "base", "", "bestiary.world", "os"):
        with pytest.raises(UnknownName):
            registry.get("backbones", hostile)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("stpes", "steps"),
        ("STEPS", "steps"),
        ("guidence", "guidance"),
        ("x", None),
        ("", None),
        ("s" * 81, None),
    ],
)
def test_nearest(word: str, near: str | None) -> None:
    assert registry.nearest(word, ["seed", "steps", "guidance"]) == near
    assert registry.did_you_mean(word, ["seed", "steps", "guidance"]) == (
        f'did you mean "{near}"?' if near else ""
    )


def test_nearest_is_quick_on_hostile_input() -> None:
    start = time.process_time()
    registry.nearest("ab" * 40, ("ba" * 40 + str(i) for i in range(100_000)))
    assert time.process_time() - start < 0.5


def test_presets_are_found_in_a_checkout_and_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (registry.preset_folder() / "sheets" / "first-creatures.yaml").is_file()
    package = tmp_path / "site-packages" / "creatok_cli"
    (package / "presets").mkdir(parents=True)
    monkeypatch.setattr(registry, "_ROOT", package)
    assert registry.preset_folder() == package / "presets"
