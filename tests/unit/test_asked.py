"""`--score NAME:KEY=VALUE,...`: what it comes to, and what is told before anything is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from creatok_cli.backbones._weights import resolve
from creatok_cli.concepts.classes import load_classes
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, CreatokError, InputError
from creatok_cli.scorers._choice import TOWERS
from creatok_cli.workflows._asked import ask_scores, ask_towers

BESTIARY = resolve("bestiary")
OUT = Path("out/zoo")


@pytest.fixture
def bare(tmp_path: Path) -> BaseFacts:
    """A base without image towers."""
    (tmp_path / "bare").mkdir()
    return replace(BESTIARY, name="bare", folder=str(tmp_path / "bare"), backbone="sd3")


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    folder = tmp_path / "baseline"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    return folder


def test_the_base_gives_what_is_not_said() -> None:
    clip, labels, judge = ask_scores(("clip", "labels", "judge"), [BESTIARY], OUT)
    assert clip.settings["folder"] == BESTIARY.folder
    assert clip.settings["image"] == tuple(each[0] for each in TOWERS)
    assert labels.settings["classes"] == load_classes("bestiary").classes
    assert labels.settings["temperature"] == clip.settings["temperature"] == 1.95
    assert (judge.settings, judge.measures_only, clip.measures_only) == ({}, True, False)
    assert (clip.gives, judge.gives) == (("scores", "labels"),) * 2
    for each in (clip, labels):
        assert each.recipe["model"] == BESTIARY.digest
        assert BESTIARY.folder not in json.dumps(each.recipe)
        assert "rows" not in each.recipe["settings"]


def test_what_is_said_wins(tmp_path: Path, baseline: Path) -> None:
    text = f"novelty:baseline={baseline},rows=4"
    (novelty,) = ask_scores((text,), [BESTIARY], OUT)
    assert novelty.settings["rows"] == "4"
    assert str(baseline) not in json.dumps(novelty.recipe)
    (clip,) = ask_scores(("clip:text=a pig, a fox=2, owl",), [BESTIARY], OUT)
    assert clip.settings["text"] == "a pig, a fox=2, owl"
    (labels,) = ask_scores(("labels:classes=pig,owl,polar bear",), [BESTIARY], OUT)
    assert labels.settings["classes"] == "pig,owl,polar bear"
    labels.check()


def test_recipes_tell_models_and_settings_apart(baseline: Path, tmp_path: Path) -> None:
    """A picture more in the baseline is another scorer; another place on the disk is not."""
    text = f"novelty:baseline={baseline}"
    (first,) = ask_scores((text,), [BESTIARY], OUT)
    (rows,) = ask_scores((f"{text},rows=4",), [BESTIARY], OUT)
    (towers,) = ask_scores((f"{text},image=image_encoder_l",), [BESTIARY], OUT)
    moved = tmp_path / "moved"
    baseline.rename(moved)
    (elsewhere,) = ask_scores((f"novelty:baseline={moved}",), [BESTIARY], OUT)
    Image.new("RGB", (8, 8), "blue").save(moved / "blue.png")
    (more,) = ask_scores((f"novelty:baseline={moved}",), [BESTIARY], OUT)
    other = replace(BESTIARY, digest="sha256:" + "0" * 64)
    (base,) = ask_scores((f"novelty:baseline={moved}",), [other], OUT)
    assert first.id == rows.id == elsewhere.id
    assert len({first.id, towers.id, more.id, base.id}) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clpi", 'did you mean "clip"'),
        ("clip:texxt=a", 'did you mean "text"'),
        ("clip:text", "expected KEY=VALUE"),
        ("clip:rows=1,rows=2", "each once"),
        ("blip", "gives no figure"),
        ("novelty", "--score novelty:baseline=DIR"),
        ("novelty:baseline=/nowhere/at/all", "no such folder"),
        ("clip:folder=/nowhere/at/all", "no such folder"),
        ("", "unknown name"),
    ],
)
def test_bad_texts(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        ask_scores((text,), [BESTIARY], OUT)
    assert error.value.code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clip:rows=0", "--score clip: rows is 1 to 1024"),
        ("clip:rows=many", "rows: found .many., expected a whole number"),
        ("judge:measure=fusio", "did you mean"),
        ("labels:labeler=judge", "judge only measures"),
        ("labels:labeler=novelty", "no labeler"),
        ("labels:classes=pig", "two names or more"),
    ],
)
def test_bad_values(text: str, told: str) -> None:
    """Told by the scorer itself, before a model is read."""
    (asked,) = ask_scores((text,), [BESTIARY], OUT)
    with pytest.raises(InputError, match=told):
        asked.check()


def test_one_scorer_once() -> None:
    with pytest.raises(InputError, match="given twice"):
        ask_scores(("clip", "judge", "clip:rows=2"), [BESTIARY], OUT)


def test_a_base_without_towers(bare: BaseFacts) -> None:
    """Another base of the sheet may have some; else the message says what to fetch."""
    with pytest.raises(ArtefactError, match=r"base bare holds no CLIP .* --score clip:folder=DIR"):
        ask_scores(("clip",), [bare], OUT)
    (clip,) = ask_scores(("clip",), [bare, BESTIARY], OUT)
    assert clip.settings["folder"] == BESTIARY.folder
    assert ask_towers((), [bare], OUT) is None
    own = ask_towers(("judge",), [bare, BESTIARY], OUT)
    assert own is not None
    assert own.settings["folder"] == BESTIARY.folder
    said = ask_towers((f"clip:folder={BESTIARY.folder}",), [bare], OUT)
    assert said is not None
    assert said.settings["image"] == (TOWERS[0][0],)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no \.safetensors weights"):
        ask_scores((f"clip:folder={tmp_path}",), [BESTIARY], OUT)


@pytest.mark.parametrize("where", [".", "inside", ".."])
def test_a_baseline_of_the_run_itself(where: str, baseline: Path) -> None:
    """It would be compared with itself."""
    with pytest.raises(CreatokError, match="with themselves"):
        ask_scores((f"novelty:baseline={baseline}",), [BESTIARY], baseline / where)


def test_an_empty_baseline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture"):
        ask_scores((f"novelty:baseline={tmp_path}",), [BESTIARY], Path("/somewhere/else"))


def test_nothing_heavy_is_imported(baseline: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        f"novelty = 'novelty:baseline={baseline}'\n"
        "heavy = ('torch', 'transformers', 'PIL', 'pydantic')\n"
        "from creatok_cli.backbones._weights import resolve\n"
        "from creatok_cli.workflows._asked import ask_scores, ask_towers\n"
        "base = [resolve('bestiary')]\n"
        "ask_scores(('clip', 'labels', 'diversity', 'judge', novelty), base, Path('out'))\n"
        "ask_towers((), base, Path('out'))\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
