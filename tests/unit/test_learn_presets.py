"""Presets of `learn-token`: found by name or path, refused at file:line:column."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from creatok_cli.errors import PresetError, UnknownName
from creatok_cli.registry import preset_folder
from creatok_cli.workflows._preset import load_preset, presets

ROOT = Path(__file__).parents[2]
GOOD = "method: cretok\npairs: auto\nsettings:\n  steps: 100\n  theta: rel:0.5\n"


def write(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "  encoders: [clip_l]\n")
    preset = load_preset("learn", path)
    assert preset.name == "own"
    assert preset.path == path
    assert preset.method == "cretok"
    assert preset.source == "auto"
    assert preset.values == {"steps": "100", "theta": "rel:0.5", "encoders": ["clip_l"]}
    assert preset.places == {
        "method": f"{path}:1:9",
        "pairs": f"{path}:2:8",
        "steps": f"{path}:4:10",
        "theta": f"{path}:5:10",
        "encoders": f"{path}:6:13",
    }


def test_pairs_and_settings_may_be_left_out(tmp_path: Path) -> None:
    preset = load_preset("learn", write(tmp_path, "method: cretok\n"))
    assert (preset.source, preset.values) == ("auto", {})


@pytest.mark.parametrize("pairs", ["own.csv", "lists/own.yaml", "../own.yml"])
def test_a_file_of_pairs_is_found_beside_the_preset(pairs: str, tmp_path: Path) -> None:
    preset = load_preset("learn", write(tmp_path, f"method: cretok\npairs: {pairs}\n"))
    assert Path(preset.source) == tmp_path / pairs


def test_shipped_presets_are_found_by_name_and_by_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cretok" in presets("learn")
    by_name = load_preset("learn", "cretok")
    assert by_name.path == "presets/learn/cretok.yaml"
    assert load_preset("learn", "presets/learn/cretok.yaml") == by_name
    copy = tmp_path / "presets" / "learn" / "cretok.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text("method: cretok\n", encoding="utf-8")
    assert load_preset("learn", "presets/learn/cretok.yaml").values == {}, "the one that is here"
    assert load_preset("learn", "cretok") == by_name


def test_an_unknown_name_has_a_nearest_one() -> None:
    with pytest.raises(UnknownName, match='unknown preset "cretk"; did you mean "cretok"'):
        load_preset("learn", "cretk")
    with pytest.raises(UnknownName, match="there are cretok, "):
        load_preset("learn", "xyz")
    with pytest.raises(PresetError, match=r'no such file; did you mean "cretok\.yaml"'):
        load_preset("learn", str(preset_folder() / "learn" / "cretk.yaml"))


WRONG = {
    # what is wrong: (text, slug, line:column, part of the message)
    "empty": ("# nothing\n", "empty", "1:1", "empty"),
    "a list": ("- cretok\n", "bad-value", "1:1", "a mapping with method and settings"),
    "no method": ("pairs: auto\n", "missing-key", "1:1", "the key method is missing"),
    "method near": ("method: cretk\n", "unknown-method", "1:9", 'did you mean "cretok"?'),
    "method number": ("method: 7\n", "unknown-method", "1:9", "unknown method 7, expected "),
    "method list": ("method: [cretok]\n", "unknown-method", "1:9", "unknown method a list"),
    "key near": (
        "methd: cretok\n",
        "unknown-key",
        "1:1",
        'unknown key "methd", expected method, pairs, settings; did you mean "method"?',
    ),
    "knob on top": (
        GOOD + "steps: 4\n",
        "unknown-key",
        "6:1",
        "knobs of the method belong under settings",
    ),
    "knob near": (
        GOOD.replace("steps", "stpes"),
        "unknown-key",
        "4:3",
        'did you mean "steps"?',
    ),
    "knob of the machine": (GOOD + "  device: cuda\n", "unknown-key", "6:3", '"device"'),
    "pairs near": (GOOD.replace("auto", "bestary"), "unknown-name", "2:8", '"bestiary"?'),
    "pairs far": (GOOD.replace("auto", "xyz"), "unknown-name", "2:8", "ends in .yaml or .csv"),
    "pairs number": (GOOD.replace("auto", "7"), "bad-value", "2:8", "pairs: found 7"),
    "pairs inside": (GOOD.replace("auto", "[[a, b]]"), "bad-value", "2:8", "found a list"),
    "settings list": ("method: cretok\nsettings: [a]\n", "bad-value", "2:11", "found a list"),
    "no value": (GOOD.replace("100", ""), "missing-value", "4:9", "steps: found nothing"),
    "mapping": (GOOD.replace("100", "{a: 1}"), "bad-value", "4:10", "steps: found a mapping"),
    "deep list": (GOOD + "  encoders: [a, [b]]\n", "bad-value", "6:17", "encoders: found a list"),
    "knob twice": (GOOD + "  steps: 4\n", "duplicate-key", "6:3", "it stands at 4:3 already"),
    "tag": (GOOD.replace("100", "!!int 100"), "tag", "4:10", "is not allowed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_preset_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    text, slug, place, message = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(PresetError) as caught:
        load_preset("learn", path)
    (found,) = caught.value.problems
    assert (found.slug, f"{found.line}:{found.column}") == (slug, place), str(found)
    assert found.file == path
    assert message in str(found)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = "method: cretok\npairs: bestary\nsetings: {}\nsettings: {stpes: 1, lr: , n: []}\n"
    with pytest.raises(PresetError) as caught:
        load_preset("learn", write(tmp_path, text))
    places = [(problem.line, problem.slug) for problem in caught.value.problems]
    assert places == [
        (2, "unknown-name"),
        (3, "unknown-key"),
        (4, "unknown-key"),
        (4, "missing-value"),
        (4, "unknown-key"),
    ]


def test_a_method_without_the_verb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="the method cretok cannot fuse; its verbs are learn"):
        load_preset("fuse", write(tmp_path, GOOD))


def test_a_preset_is_read_without_torch_and_pydantic() -> None:
    code = (
        "import sys; from creatok_cli.workflows._preset import load_preset;"
        "from creatok_cli.concepts.sets import load_pairs;"
        "load_preset('learn', 'cretok'); load_pairs('bestiary');"
        "print(sorted({'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (found.stdout, found.stderr) == ("[]\n", "")
