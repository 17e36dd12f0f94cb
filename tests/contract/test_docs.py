"""README, CHANGELOG and help say what is true: flags, keys, codes, files, examples and commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from creatok_cli import __version__, errors
from creatok_cli.cli.app import app, run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST = "pipx run --spec . creatok sample presets/sheets/first-creatures.yaml"
SECOND = "pipx run --spec '.[dev]' pytest"


def blocks(language: str) -> list[str]:
    """The fenced blocks of README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The text of README from a heading to the next one of its level."""
    level, _, _ = title.partition(" ")
    found = re.search(
        rf"^{re.escape(title)}\n(.*?)(?=^{level} |\Z)", README, re.MULTILINE | re.DOTALL
    )
    assert found, f"README has no section {title!r}"
    return found[1]


def readme_commands() -> list[str]:
    """Every line of a shell block that starts with `creatok `."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("creatok ")]


def options() -> Iterator[tuple[str, str]]:
    """(command, flag) of every flag of every command; those of a group count as the group's."""
    group = typer.main.get_group(app)
    for name, command in group.commands.items():
        for each in (command, *getattr(command, "commands", {}).values()):
            for param in each.params:
                for flag in param.opts:
                    if flag.startswith("-"):
                        yield name, flag


def tracked() -> list[str]:
    """The files of the checkout that git knows or would add; of an unpacked archive, all."""
    if (ROOT / ".git").exists():
        words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    return [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]


def shown(name: str) -> str:
    """How the file tree of README shows a file: weights and outer folders as folders."""
    parts = name.split("/")
    if "weights" in parts:
        return "/".join(parts[: parts.index("weights") + 1]) + "/"
    if parts[0] == "creatok_cli":
        is_init = parts[-1] == "__init__.py" and len(parts) > 2
        return "/".join(parts[:-1]) + "/" if is_init else name
    return name if len(parts) < 3 else "/".join(parts[:2]) + "/"


def with_folders(names: set[str]) -> set[str]:
    """The names and all folders above them."""
    above = set()
    for name in names:
        parts = name.rstrip("/").split("/")
        above |= {"/".join(parts[:count]) + "/" for count in range(1, len(parts))}
    return names | above


def readme_tree() -> dict[str, str]:
    """Path -> purpose, from the indented block under `## File tree`."""
    block = re.search(r"^```\n(.*?)^```$", section("## File tree"), re.MULTILINE | re.DOTALL)
    assert block
    tree: dict[str, str] = {}
    above: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip(" "))) // 2
        name, _, purpose = line.strip().partition("  ")
        above[depth:] = [name]
        tree["".join(above)] = purpose.strip()
    return tree


def test_the_file_tree_is_the_tree() -> None:
    tree = readme_tree()
    real = with_folders({shown(name) for name in tracked()})
    assert sorted(real - tree.keys()) == [], "files that README does not show"
    assert sorted(tree.keys() - real) == [], "files that only README knows"
    assert [path for path, purpose in tree.items() if not purpose] == []


@pytest.mark.parametrize(("command", "flag"), sorted(set(options())))
def test_every_flag_is_explained(command: str, flag: str) -> None:
    assert re.search(rf"`[^`\n]*{flag}\b", section(f"## `creatok {command}`"))


def test_every_key_of_a_sheet_is_explained() -> None:
    from creatok_cli.plan.sheet import sheet_schema

    text = section("### Sheets")
    schema = sheet_schema()
    keys = set(schema["properties"]) - {"$schema"}
    for definition in schema["definitions"].values():
        keys |= set(definition.get("properties", {}))
    missing = [key for key in sorted(keys) if not re.search(rf"`[^`]*\b{key}\b[^`]*`", text)]
    assert missing == []


def test_every_exit_code_is_explained() -> None:
    codes = {0, 1}
    pending = [errors.CreatokError]
    while pending:
        kind = pending.pop()
        codes.add(kind.code)
        pending.extend(kind.__subclasses__())
    rows = re.findall(r"^\| (\d+) \|", section("### Exit codes"), re.MULTILINE)
    assert {int(row) for row in rows} == codes


def test_ci_runs_the_two_commands_of_readme() -> None:
    assert [block.strip() for block in blocks("sh")][:2] == [FIRST, SECOND]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert f"readme '{FIRST}'" in script
    assert f'readme "{SECOND}"' in script
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_links_and_pictures_of_readme_exist() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert sum(link.endswith(".png") for link in links) >= 3


def test_no_number_is_left_to_fill_in() -> None:
    assert re.findall(r"<!-- number:[^>]*-->", README) == []


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^]]+)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert __version__ in headings
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Fixed", "Removed", "Security", "Pixels"}


SHEETS = ("my-sheet.yaml", "studio.yaml", "learned.yaml", "hoglet.yaml")
"""Names of README's YAML blocks."""


HUB = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "StableDiffusionPipeline",
    "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
    "stabilityai/stable-diffusion-3-medium-diffusers": "StableDiffusion3Pipeline",
    "black-forest-labs/FLUX.1-schnell": "FluxPipeline",
    "kandinsky-community/kandinsky-2-1": "KandinskyPipeline",
    "kandinsky-community/kandinsky-2-2-decoder": "KandinskyV22Pipeline",
}
"""Repositories of README's real bases -> the family whose tiny model stands in the cache."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, tiny_base: Callable[[str], Path]) -> Path:
    """A folder with README's sheets in it, in which its commands run one after the other; `hub` is
    the cache of the Hub, with a tiny model for every real base.
    """
    folder = tmp_path_factory.mktemp("studio")
    for name, sheet in zip(SHEETS, blocks("yaml"), strict=True):
        (folder / name).write_text(sheet, encoding="utf-8")
    for repo, pipeline in HUB.items():
        tiny = tiny_base(pipeline)
        keep_in_hub(folder / "hub", repo, tiny)
        if "kandinsky" in repo:
            prior = repo.removesuffix("-decoder") + "-prior"
            keep_in_hub(folder / "hub", prior, tiny.with_name(prior.rpartition("/")[2]))
    return folder


def keep_in_hub(hub: Path, repo: str, source: Path) -> None:
    """Copy a folder into a cache of the Hub, as its branch `main`."""
    model = hub / f"models--{repo.replace('/', '--')}"
    shutil.copytree(source, model / "snapshots" / ("c" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("c" * 40)


def test_readme_has_commands_to_run() -> None:
    assert len(readme_commands()) >= 6


QUICK = {
    "creatok sample studio.yaml": ("--set", "size=32x32", "--set", "steps=4", "--device", "cpu"),
    "creatok learn-token --preset cretok-paired": ("--steps", "300"),
    "creatok learn-token --preset menacing": ("--steps", "300"),
    "creatok explore distok": ("--count", "12"),
    "creatok explore lowprob": ("--steps", "4", "--check-every", "2", "--set", "baseline=80"),
    "creatok explore conceptlab": ("--steps", "4", "--set", "classes=4", "--set", "plain=2"),
}
"""What makes the long commands short; as README says them they run with `-m soak`, but for those
of real bases, whose models are not here.
"""


def words_of(line: str) -> list[str]:
    """A command of README without the program."""
    return shlex.split(line)[1:]


@pytest.mark.parametrize("line", readme_commands())
def test_the_commands_of_readme_work(
    line: str, studio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studio)
    monkeypatch.setenv("CREATOK_HOME", str(studio / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(studio / "hub"))
    quick = [more for start, words in QUICK.items() if line.startswith(start) for more in words]
    assert run([*words_of(line), *quick]) == 0


@pytest.mark.soak
@pytest.mark.parametrize(
    "line",
    [
        line
        for line in readme_commands()
        if line.startswith(tuple(QUICK)) and " studio.yaml" not in line
    ],
)
def test_the_long_commands_of_readme_work(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "home"))
    assert run(words_of(line)) == 0


@pytest.fixture
def outsider(tmp_path: Path) -> Path:
    """An installed package whose plug-ins are the Python examples of README."""
    sink, base = blocks("python")
    (tmp_path / "csv_index.py").write_text(sink, encoding="utf-8")
    (tmp_path / "speckle.py").write_text(base, encoding="utf-8")
    info = tmp_path / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[creatok_cli.sinks]\ncsv_index = csv_index\n\n[creatok_cli.backbones]\nspeckle = speckle\n"
    )
    return tmp_path


def test_the_plugins_of_readme_work(outsider: Path) -> None:
    sheet = outsider / "noise.yaml"
    sheet.write_text("version: 1\njobs:\n  - {id: a, prompt: anything, count: 3}\n")
    words = ["sample", "noise.yaml", "--base", "speckle", "--sink", "csv_index", "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-m", "creatok_cli", *words],
        cwd=outsider,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(outsider)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    out = outsider / "out" / "noise"
    assert len(list(out.glob("a/*.png"))) == 3
    assert (out / "contact-sheet.png").exists()
    assert len((out / "index.csv").read_text().splitlines()) == 3


def test_the_ci_script_is_sound_bash() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this system")
    subprocess.run([bash, "-n", str(ROOT / ".ci/run")], check=True)
