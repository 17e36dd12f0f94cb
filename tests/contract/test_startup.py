"""What may be imported before it is needed, and what starting costs.

Costs are CPU time of a fresh process, because other processes share the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "ray")
SLOW = (*HEAVY, "pydantic", "PIL", "numpy", "jinja2", "safetensors", "huggingface_hub")
LIGHT = tuple(name for name in SLOW if name != "pydantic")
HELP_S = 0.25
DRY_RUN_S = 2.0
TRIES = 5


def python(code: str, *words: str) -> str:
    """Standard output of a fresh interpreter on the checkout."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_after(code: str, *words: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running the code."""
    told = """
import json, sys
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
    return set(json.loads(python(textwrap.dedent(code) + told, *words).splitlines()[-1]))


def cpu_s(words: Sequence[str]) -> float:
    """The least CPU time, in seconds, that `creatok` took in some tries."""
    resource = pytest.importorskip("resource", reason="CPU time of children is POSIX")
    spent = []
    for _ in range(TRIES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "creatok_cli", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def test_the_command_line_imports_nothing_slow() -> None:
    assert loaded_after("import creatok_cli.cli.app") & {*SLOW, "rich"} == set()


def test_help_imports_nothing_slow() -> None:
    code = "from creatok_cli.cli.app import run; assert run(['--help']) == 0"
    assert loaded_after(code) & {*SLOW} == set()


@pytest.mark.parametrize("words", [["sample", "--help"], ["--version"], ["sample"]])
def test_reading_flags_imports_pydantic_at_most(words: list[str]) -> None:
    # Typer itself turns words into values with pydantic (0.29).
    code = "import sys; from creatok_cli.cli.app import run; run(sys.argv[1:])"
    assert loaded_after(code, *words) & {*LIGHT} == set()


def test_the_package_imports_nothing_slow_and_names_its_workflows() -> None:
    code = "import creatok_cli; assert 'sample' in creatok_cli.__all__"
    assert loaded_after(code) & {*SLOW, "rich", "typer", "yaml"} == set()


def test_schema_imports_no_torch() -> None:
    code = "from creatok_cli.cli.app import run; assert run(['sample', '--schema']) == 0"
    assert loaded_after(code) & {*HEAVY} == set()


def test_shell_completion_imports_pydantic_at_most() -> None:
    code = """
        import os, sys
        os.environ["_CREATOK_COMPLETE"] = "complete_bash"
        os.environ |= {"COMP_WORDS": "creatok sam", "COMP_CWORD": "1"}
        from creatok_cli.cli.app import run
        assert run([]) == 0
    """
    assert loaded_after(code) & {*LIGHT} == set()
    assert "sample" in python(code)


def test_a_dry_run_and_a_sheet_error_import_nothing_heavy(tiny_sd3: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "a.yaml"
    sheet.write_text("version: 1\njobs:\n  - prompt: a pig\n    count: 3\n", encoding="utf-8")
    code = """
        import sys
        from creatok_cli.cli.app import run
        assert run(sys.argv[2:]) == int(sys.argv[1])
    """
    words = ["sample", str(sheet), "--base", str(tiny_sd3), "--out", str(tmp_path / "out")]
    assert loaded_after(code, "0", *words, "--dry-run") & {*LIGHT} == set()
    sheet.write_text("version: 1\njobs:\n  - promt: a pig\n", encoding="utf-8")
    assert loaded_after(code, "2", *words) & {*LIGHT} == set()


def test_a_finished_sheet_imports_no_torch(tiny_sd3: Path, tmp_path: Path) -> None:
    from creatok_cli.cli.app import run

    sheet = tmp_path / "a.yaml"
    sheet.write_text("version: 1\njobs:\n  - prompt: a pig\n", encoding="utf-8")
    words = ["sample", str(sheet), "--base", str(tiny_sd3), "--out", str(tmp_path / "out")]
    words += ["--device", "cpu"]
    assert run(words) == 0
    code = "import sys; from creatok_cli.cli.app import run; assert run(sys.argv[1:]) == 0"
    assert loaded_after(code, *words) & {*HEAVY} == set()


def test_help_is_quick() -> None:
    assert cpu_s(["--help"]) <= HELP_S


def test_a_dry_run_of_ten_thousand_jobs_is_quick(tiny_sd3: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "big.yaml"
    rows = "".join(f"  - {{id: j{i}, prompt: 'a photo of pig {i}'}}\n" for i in range(10_000))
    sheet.write_text(f"version: 1\njobs:\n{rows}", encoding="utf-8")
    words = ["sample", str(sheet), "--base", str(tiny_sd3), "--out", str(tmp_path / "out")]
    assert cpu_s([*words, "--dry-run"]) <= DRY_RUN_S
