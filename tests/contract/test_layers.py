"""Every import stays inside its row of the dependency table, function bodies included.

The rows are read from top to bottom, the first that fits a module counts. A plug-in may import its
folder's `base` and `_*.py`, never a sibling. Imports under `if TYPE_CHECKING:` may name any library
for annotations, except the fenced ones.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

PACKAGE = "creatok_cli"
ROOT = Path(__file__).resolve().parents[2]
FOUNDATION = (
    *("domain", "errors", "hashing", "seeds", "registry"),
    *("strict_text", "strict_yaml", "strict_csv", "strict_picture", "config", "durable"),
)
RENDER_PARTS = ("_conditions", "_develop", "_gate", "_means", "_stages", "_starts", "_trouble")
"""What `render.py` is made of, beside it."""
PARTS_OF_METHODS = {
    **{"_cretok": "cretok", "_distok": "distok"},
    **{"_lowprob": "lowprob", "_rare_aims": "lowprob", "_plain": "lowprob"},
    **{"_conceptlab": "conceptlab", "_likeness": "conceptlab"},
}
"""What a method is made of may know the method's settings."""
PLUGIN_FOLDERS = ("backbones", "methods", "executors", "sinks", "scorers")
FENCED = {
    "typer": "cli",
    "rich": "cli",
    "diffusers": "backbones",
    "accelerate": "backbones",
    "huggingface_hub": "backbones",
}


@dataclass(frozen=True)
class Row:
    """What the modules that fit `modules` may import, at the top and inside functions."""

    modules: str
    own: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    own_inside: tuple[str, ...] = ()
    libraries_inside: tuple[str, ...] = ()


ROWS = (
    Row("", own_inside=("workflows.*",)),
    Row("__main__", own=("cli.app",)),
    Row("config", libraries=("yaml", "platformdirs")),
    Row("seeds", libraries_inside=("torch",)),
    Row("strict_yaml", libraries=("yaml",)),
    Row("strict_picture", libraries_inside=("PIL",)),
    *(Row(name) for name in FOUNDATION),
    Row("concepts*", own=("concepts*",), libraries=("yaml",)),
    Row(
        "plan*",
        own=("plan*", "concepts.mixes", "concepts._check"),
        libraries=("yaml", "pydantic", "pydantic_core"),
        libraries_inside=("jinja2",),
    ),
    Row("tokens.token", own=("tokens*",), libraries=("safetensors", "filelock", "torch")),
    Row("tokens.file", own=("tokens*",), libraries=("safetensors", "filelock", "torch")),
    Row("tokens*", own=("tokens*",), libraries=("safetensors", "filelock")),
    Row("backbones.bestiary.world", own=("backbones.bestiary.genes",), libraries=("PIL", "numpy")),
    Row("backbones.bestiary.judge", libraries=("PIL", "torch", "numpy", "safetensors")),
    Row(
        "backbones.bestiary*",
        own=("tokens*", "backbones.base", "backbones._*", "backbones.bestiary*"),
        libraries=(
            *("torch", "transformers", "diffusers", "accelerate", "huggingface_hub"),
            *("safetensors", "PIL", "numpy", "tokenizers"),
        ),
    ),
    *(
        Row(name, own=("tokens*", "backbones._els*"), libraries_inside=("PIL",))
        for name in ("backbones._els_sprites", "backbones._els_pictures")
    ),
    *(
        Row(
            name,
            own=("backbones.base", "backbones._els*"),
            libraries=("torch",),
            libraries_inside=("PIL",),
        )
        for name in ("backbones._els*", "backbones.els")
    ),
    Row(
        "backbones*",
        own=("tokens*",),
        libraries=(
            *("torch", "transformers", "diffusers", "accelerate", "huggingface_hub"),
            "safetensors",
        ),
        libraries_inside=("peft", "PIL"),
    ),
    *(
        Row(
            f"methods.{part}",
            own=("tokens*", "concepts*", "backbones.base", f"methods.{method}"),
            libraries=("torch",),
        )
        for part, method in PARTS_OF_METHODS.items()
    ),
    Row(
        "methods*",
        own=("tokens*", "concepts*", "backbones.base"),
        libraries=("torch",),
        libraries_inside=("peft",),
    ),
    *(
        Row(name, own=("tokens*", "backbones.base", *RENDER_PARTS), libraries=("torch", "PIL"))
        for name in ("render", *RENDER_PARTS)
    ),
    Row("executors.ray", libraries_inside=("ray",)),
    Row("executors*"),
    Row("sinks*", libraries=("PIL",), libraries_inside=("jinja2", "markupsafe")),
    Row(
        "scorers.judge",
        own=("backbones.bestiary.judge",),
        libraries=("torch", "transformers", "PIL"),
    ),
    Row("scorers*", libraries=("torch", "transformers", "PIL")),
    Row(
        "workflows*",
        own=(
            *(
                "methods*",
                "render",
                "_gate",
                "_means",
                "_stages",
                "_trouble",
                "executors*",
                "sinks*",
                "scorers*",
                "plan*",
                "concepts*",
            ),
            *("tokens*", "backbones.base", "backbones._*", "workflows*"),
        ),
        libraries=("filelock",),
        libraries_inside=("torch", "safetensors", "matplotlib", "PIL"),
    ),
    Row(
        "_probes.self_test",
        own=("_probes*",),
        libraries_inside=("PIL",),
        own_inside=("workflows*",),
    ),
    Row(
        "_probes*",
        own=("_probes*", "tokens*", "backbones._*"),
        own_inside=("backbones.base",),
        libraries_inside=("torch",),
    ),
    Row("doctor", own=("_probes*", "backbones._*")),
    Row(
        "cli*",
        own=("cli*",),
        libraries=("typer", "rich"),
        own_inside=("plan*", "workflows*", "doctor", "tokens*"),
    ),
)


@dataclass(frozen=True)
class Import:
    """One imported module, and where it stands."""

    target: str
    line: int
    inside: bool
    typing: bool


def imports(node: ast.AST, *, inside: bool = False, typing: bool = False) -> Iterator[Import]:
    """All imports below a node; `import_module("literal")` and `__import__("literal")` count."""
    for child in ast.iter_child_nodes(node):
        within = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, inside, typing)
        elif isinstance(child, ast.ImportFrom):
            if child.level:
                yield Import("." * child.level + (child.module or ""), child.lineno, inside, typing)
            else:
                for alias in child.names:
                    yield Import(f"{child.module}.{alias.name}", child.lineno, inside, typing)
        elif isinstance(child, ast.Call) and child.args:
            name = getattr(child.func, "attr", getattr(child.func, "id", ""))
            first = child.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield Import(str(first.value), child.lineno, inside, typing)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from imports(ast.Module([part], []), inside=inside, typing=True)
            for part in child.orelse:
                yield from imports(ast.Module([part], []), inside=inside, typing=typing)
        else:
            yield from imports(child, inside=within, typing=typing)


def row_of(module: str) -> Row:
    """The first row that fits; an unknown module has none and fails."""
    for row in ROWS:
        if fnmatchcase(module, row.modules):
            return row
    raise LookupError(f"no row of the dependency table fits {module!r}")


def allowed_own(module: str, target: str, row: Row, *, inside: bool) -> bool:
    """Whether `module` may import `creatok_cli.<target>`; both without the package's name."""
    head = target.split(".")[0]
    if head in FOUNDATION:
        return module not in FOUNDATION or FOUNDATION.index(head) < FOUNDATION.index(module)
    if head in ("", "__version__"):
        return module != "domain"
    folder = module.split(".")[0]
    if folder in PLUGIN_FOLDERS and target.startswith((f"{folder}.base", f"{folder}._")):
        return True
    patterns = row.own + (row.own_inside if inside else ())
    return any(fnmatchcase(target, p) or fnmatchcase(target, f"{p}.*") for p in patterns)


def violations(module: str, source: str) -> list[str]:
    """`line N: why` for each import of the module that its row does not allow."""
    row = row_of(module)
    found = []
    for item in imports(ast.parse(source)):
        if item.target.startswith("."):
            found.append(f"line {item.line}: relative import {item.target}")
            continue
        head, _, rest = item.target.partition(".")
        if head in sys.stdlib_module_names:
            continue
        if head == PACKAGE:
            if not allowed_own(module, rest, row, inside=item.inside):
                found.append(f"line {item.line}: {item.target} is outside the row {row.modules!r}")
            continue
        if item.typing and head not in FENCED:
            continue
        libraries = row.libraries + (row.libraries_inside if item.inside else ())
        if head not in libraries:
            found.append(f"line {item.line}: library {head} is outside the row {row.modules!r}")
    return found


def module_name(path: Path) -> str:
    """`creatok_cli/plan/sheet.py` is `plan.sheet`; the package itself is the empty name."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / PACKAGE).rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_imports_stay_inside_the_row(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("domain", "from creatok_cli.errors import CreatokError"),
        ("errors", "from creatok_cli.hashing import canonical_json"),
        ("hashing", "from creatok_cli import durable"),
        ("plan.sheet", "import torch"),
        ("plan.sheet", "def f():\n    import torch"),
        ("plan.expand", "from creatok_cli.backbones import _weights"),
        ("plan.expand", "from creatok_cli.render import Renderer"),
        ("plan.expand", "import jinja2"),
        ("render", "from creatok_cli.backbones.sd3 import build"),
        ("render", "import diffusers"),
        ("methods.cretok", "def f():\n    from creatok_cli.scorers.judge import build"),
        ("methods.cretok", "from creatok_cli.methods.distok import Spec"),
        ("executors.local", "from creatok_cli.render import Renderer"),
        ("executors.ray", "import ray"),
        ("sinks.png", "from creatok_cli.sinks.manifest import read"),
        ("sinks.png", "import jinja2"),
        ("scorers.clip", "from creatok_cli.backbones.bestiary.judge import load_judge"),
        ("backbones.bestiary.world", "import torch"),
        ("backbones.bestiary.judge", "import diffusers"),
        ("backbones.sd3", "from creatok_cli.backbones.flux import build"),
        ("workflows.sample", "from creatok_cli.cli import console"),
        ("workflows.sample", "import rich"),
        ("cli.sample", "from creatok_cli.workflows.sample import sample"),
        ("cli.sample", "def f():\n    from creatok_cli.sinks import png"),
        ("cli.app", "import click"),
        ("cli.app", "import torch"),
        ("cli.console", "from . import app"),
        ("sinks.png", "def f():\n    import_module('creatok_cli.cli.app')"),
        ("render", "if TYPE_CHECKING:\n    import diffusers"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "sinks.png",
            "from creatok_cli.sinks import _pool, base",
        ),
        ("executors.ray", "def f():\n    import ray"),
        ("cli.sample", "def f():\n    from creatok_cli.workflows import sample"),
        ("plan.expand", "if TYPE_CHECKING:\n    from torch import Tensor"),
        ("durable", "from creatok_cli.errors import OutputFull\nimport os"),
        ("scorers.judge", "from creatok_cli.backbones.bestiary.judge import load_judge"),
    ],
)
def test_an_allowed_import_is_not(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_an_unknown_module_has_no_row() -> None:
    with pytest.raises(LookupError):
        row_of("utils")
