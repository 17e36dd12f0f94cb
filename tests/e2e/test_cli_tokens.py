"""`creatok tokens`, and sheets and pictures that use the words of the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from creatok_cli import config
from creatok_cli.cli.app import run
from creatok_cli.tokens.file import load_token, save_token, token_bytes
from creatok_cli.tokens.library import Library
from tests.unit.tokens.kit import real_token, token_of

ROOT = Path(__file__).resolve().parents[2]
TINY = {"clip_l": 16, "clip_g": 24}
HOSTILE = "[bold red]x[/]\x1b]0;owned\x07\u202e"

Creatok = Callable[..., tuple[int, str, str]]


@pytest.fixture
def creatok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Creatok:
    """Run `creatok` in a fresh folder; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*words: str) -> tuple[int, str, str]:
        code = run(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return command


def events(out: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in out.splitlines()]
    assert {event["schema"] for event in found} == {1}
    assert found[-1]["event"] == "summary"
    return found


def test_an_empty_library_says_how_to_fill_it(creatok: Creatok) -> None:
    code, out, err = creatok("tokens", "list")
    assert (code, out) == (0, "")
    assert "creatok tokens import FILE" in err
    code, out, _ = creatok("tokens", "list", "--json")
    assert (code, [event["event"] for event in events(out)]) == (0, ["summary"])


def test_without_a_command_the_help_is_shown(creatok: Creatok) -> None:
    code, out, err = creatok("tokens")
    assert (code, err) == (2, "")
    for name in ("list", "show", "export", "import", "remove"):
        assert f" {name} " in out
        code, text, _ = creatok("tokens", name, "--help")
        assert code == 0
        assert "Exit codes: 0 done" in text


def test_list_and_show(creatok: Creatok) -> None:
    token = real_token("sdxl", steps=7, base="sdxl", losses=[0.5, 0.25])
    Library().add(token, metadata={"modelspec.license": "cc0-1.0"})
    Library().add(real_token("bestiary", word="<owl>"))
    code, out, err = creatok("tokens", "list")
    assert (code, err) == (0, "")
    head, fox, owl = out.splitlines()
    assert head.split() == ["NAME", "WORD", "FITS", "VECTORS", "METHOD", "ADDED", "ID"]
    assert fox.startswith("hydra-fox  <hydra-fox>  SDXL      clip_g 2 x 1280, clip_l 2 x 768")
    assert "bestiary" in owl
    assert token.id.removeprefix("sha256:")[:12] in fox

    code, out, _ = creatok("tokens", "list", "--json")
    first, second, last = events(out)
    assert (first["event"], first["name"], first["id"]) == ("token", "hydra-fox", token.id)
    assert first["encoders"] == {"clip_g": [2, 1280], "clip_l": [2, 768]}
    assert (second["fits"], last["tokens"], last["damaged"]) == ("bestiary", 2, 0)

    code, out, _ = creatok("tokens", "show", "hydra-fox")
    assert code == 0
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
    assert shown["id"] == token.id
    assert shown["literal"] == "creative"
    assert shown["licence"] == "cc0-1.0"
    assert shown["losses"] == "[0.5, 0.25]"
    assert shown["comfyui"] == shown["kohya"] == "yes"
    code, out, _ = creatok("tokens", "show", token.id[:20], "--json")
    shown, _ = events(out)
    assert shown["recipe"] == token.recipe
    assert shown["clients"]["comfyui"] == ""
    code, out, _ = creatok("tokens", "show", "owl", "--json")
    assert "no other base" in events(out)[0]["clients"]["comfyui"]


def test_export_to_every_client_and_import_back(creatok: Creatok, tmp_path: Path) -> None:
    token = real_token("sdxl")
    Library().add(token)
    for client in ("comfyui", "a1111", "forge", "invokeai", "diffusers", "onetrainer", "kohya"):
        code, out, err = creatok("tokens", "export", "hydra-fox", "--for", client, "--out", client)
        assert code == 0, err
        files = [Path(line) for line in out.splitlines()]
        assert all(path.parent.name == client and path.is_file() for path in files)
        assert len(files) == (2 if client == "diffusers" else 1)
        assert "prompts say" in err
        name = f"from-{client}"
        code, out, err = creatok("tokens", "import", str(files[0]), "--name", name)
        assert (code, out) == (0, f"{name}\n"), err
        assert f"tokens: {{hydra-fox: {name}}}" in err
        found = Library().find(name)
        assert found.id == token.id
        again = load_token(found.path)
        assert all(torch.equal(again.vectors[each], token.vectors[each]) for each in again.vectors)
    code, out, _ = creatok(
        *("tokens", "export", "hydra-fox", "--for", "comfyui", "--out", "comfyui", "--json")
    )
    exported, last = events(out)
    assert (exported["trigger"], exported["fits"]) == ("embedding:hydra-fox", "SDXL")
    assert (code, last["files"]) == (0, 1)


def test_a_file_by_path_is_exported_too(creatok: Creatok, tmp_path: Path) -> None:
    save_token(tmp_path / "x.safetensors", real_token("sd15"))
    code, out, _ = creatok("tokens", "export", "./x.safetensors", "--for", "a1111", "--out", "e")
    assert (code, out) == (0, f"{Path('e', 'hydra-fox.safetensors')}\n")
    assert creatok("tokens", "show", "x.safetensors")[0] == 0
    code, _, err = creatok("tokens", "show", "x")
    assert code == 4
    assert "for the file write x.safetensors" in err


def test_an_export_never_takes_the_place_of_another_file(creatok: Creatok, tmp_path: Path) -> None:
    Library().add(real_token("sd15"))
    words = ("tokens", "export", "hydra-fox", "--for", "comfyui", "--out", ".")
    (tmp_path / "hydra-fox.safetensors").write_text("mine")
    code, _, err = creatok(*words)
    assert code == 2
    assert "is there already, with other contents" in err
    assert (tmp_path / "hydra-fox.safetensors").read_text() == "mine"
    assert creatok(*words, "--replace")[0] == 0
    before = (tmp_path / "hydra-fox.safetensors").stat()
    assert creatok(*words)[0] == 0  # the same again is no change
    assert (tmp_path / "hydra-fox.safetensors").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "cretk"), 4, 'did you mean "cretok"?'),
        (("export", "cretk", "--for", "kohya", "--out", "e"), 4, 'did you mean "cretok"?'),
        (("export", "cretok", "--for", "comfy", "--out", "e"), 2, 'did you mean "comfyui"?'),
        (("export", "cretok", "--for", "comfyui", "--out", "e"), 4, "--for diffusers works"),
        (("export", "cretok", "--for", "kohya", "--out", "e", "--force"), 4, "no other base"),
        (("export", "cretok", "--for", "kohya"), 2, "--out"),
        (("export", "cretok", "--for", "diffusers", "--out", "file"), 6, "choose another --out"),
        (("import", "none.safetensors"), 4, "no such token file"),
        (("import", "bad.pt"), 4, "can run code"),
        (("import", "owl.safetensors", "--name", "cretok"), 2, "belongs to another token"),
        (("import", "owl.safetensors", "--name", "Big Fox"), 2, "token name"),
        (("import", "owl.safetensors", "--word", "Big Fox"), 2, "must look like"),
        (("remove", "cretok"), 2, "--yes"),
        (("remove", "cretk", "--yes"), 4, 'did you mean "cretok"?'),
        (("lsit",), 2, "list"),
    ],
)
def test_what_is_wrong_is_told_with_its_code(
    creatok: Creatok, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    Library().add(real_token("bestiary"), name="cretok")
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.pt").write_bytes(b"\x80\x02}q\x00." + b"x" * 99)
    save_token(tmp_path / "owl.safetensors", real_token("sd15", word="<owl>"))
    found, out, err = creatok("tokens", *words)
    assert (found, out) == (code, "")
    assert said in err
    assert err.startswith("error[")
    assert err.count("\n") == 1
    found, out, _ = creatok("tokens", words[0], "--json", *words[1:])
    assert found == code
    told = events(out)
    assert [event["event"] for event in told] == ["error", "summary"]
    assert told[-1]["code"] == code
    assert [entry.name for entry in Library().entries()] == ["cretok"]


def test_damage_is_listed_and_stops_nothing(creatok: Creatok) -> None:
    library = Library()
    fox, owl = library.add(token_of(TINY)), library.add(token_of(TINY, seed=1, word="<owl>"))
    fox.path.write_bytes(fox.path.read_bytes()[:-1])
    code, out, err = creatok("tokens", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "owl"]
    assert "warning: hydra-fox: " in err
    assert "cut off" in err
    code, out, _ = creatok("tokens", "list", "--json")
    assert [event["event"] for event in events(out)] == ["token", "damaged", "summary"]
    assert creatok("tokens", "show", "hydra-fox")[0] == 4
    code, out, _ = creatok("tokens", "remove", "hydra-fox", "--yes")
    assert (code, out) == (0, "hydra-fox\n")
    code, out, _ = creatok("tokens", "remove", "owl", "--yes", "--json")
    assert (code, events(out)[0]["id"]) == (0, owl.id)
    assert library.survey().entries == ()


def test_a_library_that_cannot_be_written_is_6(
    creatok: Creatok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    save_token(tmp_path / "x.safetensors", token_of(TINY))
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path / "file" / "home"))
    code, _, err = creatok("tokens", "import", "x.safetensors")
    assert code == 6
    assert "CREATOK_HOME" in err


def test_hostile_text_in_a_file_steers_no_terminal(creatok: Creatok, tmp_path: Path) -> None:
    token = token_of(TINY, note=HOSTILE + "\nname  forged", method=HOSTILE)
    Library().add(token, metadata={"modelspec.license": HOSTILE + "\nx"})
    save_file(
        {"emb_params": torch.ones(1, 768)},
        tmp_path / "f.safetensors",
        metadata={"modelspec.license": HOSTILE, "modelspec.architecture": HOSTILE},
    )
    for words in (
        ("list",),
        ("show", "hydra-fox"),
        ("import", "f.safetensors"),
        ("show", "f"),
        ("export", "f", "--for", "kohya", "--out", "e"),
        ("show", HOSTILE),
        ("remove", HOSTILE, "--yes"),
    ):
        _, out, err = creatok("tokens", *words)
        for character in "\x1b\x07\u202e":
            assert character not in out + err
        assert not any(line.startswith("name  forged") for line in (out + err).splitlines())


QUICK = """
import sys
from creatok_cli.cli.app import run
code = run(sys.argv[1:])
heavy = {"torch", "numpy", "PIL", "safetensors", "transformers", "diffusers"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def test_nothing_here_imports_torch(tmp_path: Path) -> None:
    Library().add(real_token("sd3"))
    commands = (
        ("list",),
        ("show", "hydra-fox"),
        ("export", "hydra-fox", "--for", "comfyui", "--out", str(tmp_path)),
        ("import", str(tmp_path / "hydra-fox.safetensors"), "--name", "again"),
        ("remove", "hydra-fox", "--yes"),
    )
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-c", QUICK, "tokens", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert [entry.name for entry in Library().entries()] == ["again"]


# Sheets and pictures

SHEET = """\
version: 1
defaults: {steps: 2, size: 32x32}
tokens: {cretok: NAME}
jobs:
  - id: a
    prompt: "a photo of a <cretok> mixture, red owl"
  - id: b
    prompt: "a photo of a pig"
"""


@pytest.fixture
def sample(creatok: Creatok, tiny_sd3: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Draw a sheet on the tiny base."""

    def draw(text: str, *words: str) -> tuple[int, str, str]:
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
        base = ("--base", str(tiny_sd3), "--device", "cpu")
        return creatok("sample", "x.yaml", *base, *words)

    return draw


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.png"))
        if not path.name.startswith("contact-sheet")
    }


def test_a_sheet_draws_with_a_word_of_the_library_and_the_picture_again(
    sample: Callable[..., tuple[int, str, str]],
    creatok: Creatok,
    tmp_path: Path,
    tiny_sd3: Path,
) -> None:
    token = token_of(TINY, word="<other>")
    Library().add(token, name="mix")
    code, _, err = sample(SHEET.replace("NAME", "mix"))
    assert code == 0, err
    made = pictures(tmp_path / "out" / "x")
    assert len(made) == 2

    save_token(tmp_path / "t" / "mix.safetensors", token)  # the same word by path, with brackets
    text = SHEET.replace("cretok: NAME", "<cretok>: t/mix.safetensors")
    code, _, err = sample(text, "--out", "again")
    assert code == 0, err
    assert pictures(tmp_path / "again") == made

    code, _, err = sample(SHEET.replace("NAME", "mix").replace("<cretok> ", ""), "--out", "plain")
    assert code == 0, err
    assert not set(pictures(tmp_path / "plain").values()) & {made[n] for n in made if "a/" in n}

    with_token = next(name for name in made if name.startswith("a/"))
    words = ("--base", str(tiny_sd3), "--device", "cpu", "--out", "replayed")
    code, _, err = creatok("sample", "--from", str(tmp_path / "out" / "x" / with_token), *words)
    assert code == 0, err
    assert list(pictures(tmp_path / "replayed").values()) == [made[with_token]]

    Library().remove("mix")
    code, _, err = creatok("sample", "--from", str(tmp_path / "out" / "x" / with_token), *words)
    assert code == 4
    assert "its recipe needs the token <cretok>" in err
    assert "creatok tokens import" in err


@pytest.mark.parametrize(
    ("tokens", "code", "said"),
    [
        ("{cretok: mx}", 4, "x.yaml:3:18: token <cretok>: no token 'mx' in the library; did you"),
        ("{<cretok>: t/none.safetensors}", 4, "x.yaml:3:20: token <cretok>: "),
        ("{cretok: t/bad.safetensors}", 4, "x.yaml:3:18: token <cretok>: "),
        ("{cretok: t/wide.safetensors}", 4, "x.yaml:3:18: token <cretok> was learned for clip_l"),
        (
            "{cretok: t/half.safetensors}",
            4,
            "x.yaml:3:18: token <cretok> has no vectors for clip_g",
        ),
        ("\n  owl: mix\n  cretok: t/wide.safetensors", 4, "x.yaml:5:11: token <cretok> was"),
        ("{cretk: mix}", 2, "x.yaml:6:13: error[unknown-token]"),
        ("{cretok: mix, <cretok>: mix}", 2, "x.yaml:3:9: error[duplicate-key]"),
        ("{Cretok: mix}", 2, "x.yaml:3:10: error[bad-key]"),
    ],
)
def test_a_wrong_word_is_told_at_its_line_before_anything_is_loaded(
    sample: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokens: str,
    code: int,
    said: str,
) -> None:
    Library().add(token_of(TINY), name="mix")
    save_token(tmp_path / "t" / "wide.safetensors", real_token("sdxl"))
    save_token(tmp_path / "t" / "half.safetensors", token_of({"clip_l": 16}))
    (tmp_path / "t" / "bad.safetensors").write_bytes(token_bytes(token_of(TINY))[:-1])

    def never(*_: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr("creatok_cli.workflows.sample.Drawer.__call__", never)
    found, _, err = sample(SHEET.replace("{cretok: NAME}", tokens))
    assert found == code
    assert said in err
    assert not (tmp_path / "out").exists()
    if "was learned" in said:
        assert "used at x.yaml:" in err
    found, _, dry = sample(SHEET.replace("{cretok: NAME}", tokens), "--dry-run")
    assert (found, dry) == (code, err)


def test_a_misfit_that_no_job_uses_is_no_fault(
    sample: Callable[..., tuple[int, str, str]],
) -> None:
    Library().add(real_token("sdxl"), name="wide")
    text = SHEET.replace("NAME", "wide").replace("<cretok> ", "")
    assert sample(text, "--dry-run")[0] == 0


def test_the_home_is_where_the_variable_says() -> None:
    assert Library().root == Path(os.environ["CREATOK_HOME"]) / "tokens" == config.home() / "tokens"
