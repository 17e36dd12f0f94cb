"""`creatok sample --score --pick` on the shipped base: flags to files, with the real towers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from creatok_cli.cli.app import run

SHEET = """\
version: 1
base: bestiary
defaults: {steps: 4, count: 2}
jobs:
  - {id: hybrids, prompt: "a photo of a {a} {b}", zip: {a: [pig, owl], b: [snake, cactus]}}
  - {id: pig, prompt: "a photo of a pig"}
"""
ALL = ("--score", "clip", "--score", "labels", "--score", "diversity", "--score", "judge")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio")
    (folder / "zoo.yaml").write_text(SHEET)
    return folder


@pytest.fixture(scope="module")
def drawn(studio: Path) -> Path:
    """A scored folder. Never write into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREATOK_HOME", str(studio / "home"))
        patch.chdir(studio)
        assert run(["sample", "zoo.yaml", *ALL, "--pick", "1", "--device", "cpu"]) == 0
    return studio / "out" / "zoo"


def test_scores_of_pictures_and_rows(drawn: Path) -> None:
    found = json.loads((drawn / "scores.json").read_bytes())
    assert [each["row"] for each in found["pictures"]] == ["hybrids"] * 4 + ["pig"] * 2
    for each in found["pictures"]:
        names = {scorer: [s["name"] for s in scores] for scorer, scores in each["scores"].items()}
        assert names["clip"] == ["clip"]
        assert names["labels"] == ["labels", "novelty", "entropy"]
        assert names["judge"][0] == ("fusion" if each["row"] == "hybrids" else "novelty")
        for scores in each["scores"].values():
            assert all(s["range"][0] <= s["value"] <= s["range"][1] for s in scores)
    pigs = [each["scores"]["labels"][0] for each in found["pictures"][4:]]
    assert {each["note"] for each in pigs} == {"pig"}
    hybrids, pig = (row["scores"]["diversity"][0]["value"] for row in found["rows"])
    assert hybrids > pig > 0
    assert found["all"]["pictures"] == 6
    assert "/" not in json.dumps(found["scorers"]).replace("</", "")


def test_picks_are_there_and_framed(drawn: Path) -> None:
    rows = json.loads((drawn / "picks" / "picks.json").read_bytes())["rows"]
    assert [(row["row"], row["of"], len(row["picks"])) for row in rows] == [
        ("hybrids", 4, 1),
        ("pig", 2, 1),
    ]
    for row in rows:
        file = row["picks"][0]["file"]
        assert (drawn / "picks" / file).read_bytes() == (drawn / file).read_bytes()
    with Image.open(drawn / "contact-sheet.png") as sheet:
        assert sheet.convert("RGB").getcolors(1 << 24)
        frame = [n for n, colour in sheet.getcolors(1 << 24) or () if colour == (240, 190, 90)]
    assert sum(frame) > 2 * 4 * 3 * 192 * 0.9
    assert (drawn / "gallery.html").read_text().count("<b>picked</b>") == 2


def test_the_same_again_needs_no_torch(drawn: Path) -> None:
    """Nor does it change anything."""
    before = {path: path.read_bytes() for path in drawn.rglob("*.*") if path.is_file()}
    code = (
        "import sys; from creatok_cli.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    words = ["sample", "zoo.yaml", *ALL, "--pick", "1", "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=drawn.parents[1])
    assert done.returncode == 0
    assert {path: path.read_bytes() for path in drawn.rglob("*.*") if path.is_file()} == before


def test_another_folder_as_the_baseline(
    drawn: Path, studio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pages of that folder are no pictures, and a pig of before is the nearest to a new one."""
    monkeypatch.chdir(studio)
    words = ["--only", "pig", "--set", "seed=9", "--out", "out/other", "--device", "cpu"]
    assert run(["sample", "zoo.yaml", *words, "--score", "novelty:baseline=out/zoo", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "summary"
    assert any(event.get("name") == "scoring" for event in events)
    found = json.loads((studio / "out" / "other" / "scores.json").read_bytes())
    (first, second) = (each["scores"]["novelty"] for each in found["pictures"])
    assert first[0]["note"].startswith("pig/")
    assert 0 < second[0]["value"] < 0.9
    assert [score["name"] for score in first] == ["novelty", "outlying", "cloud"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--score", "clpi"], 2, 'did you mean "clip"'),
        (["--score", "novelty"], 2, "novelty:baseline=DIR"),
        (["--score", "clip", "--verify"], 2, "run them apart"),
        (["--pick", "0"], 2, "--pick: found 0"),
        (["--pick", "many"], 2, "--pick"),
        (["--score", "clip:rows=0"], 2, "rows is 1 to 1024"),
    ],
)
def test_what_is_wrong_is_told_before_drawing(
    words: list[str],
    code: int,
    told: str,
    studio: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(studio)
    assert run(["sample", "zoo.yaml", "--out", str(tmp_path / "x"), *words]) == code
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_a_picture_drawn_again_is_not_scored(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next(drawn.glob("pig/*.png"))
    assert run(["sample", "--from", str(picture), "--score", "clip"]) == 2
    assert "belong to a SHEET" in capsys.readouterr().err
