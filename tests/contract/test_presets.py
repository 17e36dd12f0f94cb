"""Every shipped preset is found by scanning, is sound, and says what it is in its header."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from creatok_cli.backbones._base_name import parse
from creatok_cli.backbones._lora_file import parse_reference
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.bestiary import captions
from creatok_cli.concepts.sets import load_pairs
from creatok_cli.config import build_spec
from creatok_cli.domain import BaseFacts, Job
from creatok_cli.plan.expand import expand
from creatok_cli.plan.pictures import load_pictures
from creatok_cli.plan.presets import base_presets, load_base_preset
from creatok_cli.plan.sheet import load_sheet
from creatok_cli.registry import describe, get, preset_folder
from creatok_cli.workflows._preset import load_preset, presets
from creatok_cli.workflows.sample import check_options

ROOT = Path(__file__).parents[2]
SHEETS = sorted((preset_folder() / "sheets").glob("*.yaml"))
BESTIARY = BaseFacts(
    name="bestiary",
    backbone="bestiary",
    folder="",
    digest="sha256:0",
    licence="Apache-2.0",
    steps=8,
    guidance=4.0,
    size_px=(64, 64),
    size_multiple=8,
    schedulers=("euler",),
    dtype="fp32",
    can_start=True,
)
PLACES = "|".join(captions.BACKGROUNDS[:-1])
GRAMMAR = re.compile(
    r"(?:(?:a photo of|a pencil sketch of|pixel art of|a watercolor of) )?"
    rf"a (?P<first>\w+)(?: (?P<second>\w+))?(?: and a (?P<other>\w+))?(?: in the (?:{PLACES}))?"
)


LEARN = presets("learn")
SLOT = re.compile(r"\{([^{}]*)\}")


def jobs_of(path: Path) -> tuple[Job, ...]:
    sheet = load_sheet(str(path))
    pictures = {name: found.digest for name, found in load_pictures(sheet).items()}
    return expand(sheet, {"bestiary": BESTIARY}, {}, None, pictures)


def test_the_sheets_that_the_readme_speaks_of_are_there() -> None:
    assert {path.stem for path in SHEETS} >= {"first-creatures", "hybrids", "styles"}


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_the_header_says_what_how_and_how_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert text.startswith("# yaml-language-server: $schema=")
    assert f"creatok sample presets/sheets/{path.name}" in header
    for word in ("Command:", "Expected:", "Source:"):
        assert word in header
    count = re.search(r"(\d+) (?:small )?pictures", header)
    assert count, "the header says how many pictures it makes"
    assert int(count[1]) == len(jobs_of(path))
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_the_modeline_finds_the_schema(path: Path) -> None:
    line = path.read_text(encoding="utf-8").splitlines()[0]
    named = line.partition("$schema=")[2]
    schema = (ROOT / "presets" / "sheets" / named).resolve()
    assert schema == ROOT / "creatok_cli" / "plan" / "sheet.schema.json"
    assert schema.is_file()


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_the_schema_accepts_the_sheet(path: Path) -> None:
    import jsonschema

    from creatok_cli.plan.sheet import sheet_schema

    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), sheet_schema())


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_every_prompt_is_in_the_grammar_of_the_captions(path: Path) -> None:
    for job in jobs_of(path):
        found = GRAMMAR.fullmatch(job.prompt)
        assert found, job.prompt
        words = [word for word in found.group("first", "second", "other") if word]
        nouns = [word for word in words if word not in captions.COLOURS]
        assert nouns, job.prompt
        assert set(nouns) <= set(captions.CONCEPTS), job.prompt
        if found["second"] and found["first"] not in captions.COLOURS:
            assert captions.seen(*nouns) == (job.row != "unseen"), job.prompt


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_every_job_has_an_id_and_labels(path: Path) -> None:
    jobs = jobs_of(path)
    assert not any(job.row.startswith("j-") for job in jobs)
    assert all(job.labels for job in jobs)
    starts = [job.row for job in jobs]
    assert len({a for a, b in pairwise([*starts, ""]) if a != b}) == len(set(starts))


def test_restyle_begins_from_a_picture_that_ships() -> None:
    jobs = jobs_of(preset_folder() / "sheets" / "restyle.yaml")
    assert len({job.init_image for job in jobs}) == 1
    assert sorted({job.strength for job in jobs}) == [0.3, 0.5, 0.6, 0.8]
    assert len({job.seed for job in jobs}) == 1


def test_the_first_sheet_shows_everything_in_few_pictures() -> None:
    jobs = jobs_of(preset_folder() / "sheets" / "first-creatures.yaml")
    assert 24 <= len(jobs) <= 40
    assert {(job.steps, job.size_px, job.guidance) for job in jobs} == {(8, (64, 64), 4.0)}
    text = " | ".join(job.prompt for job in jobs)
    for needed in (
        *captions.BACKGROUNDS[:-1],
        "pencil sketch",
        "pixel art",
        "watercolor",
        " and a ",
        "red",
    ):
        assert needed in text
    assert len({word for job in jobs for word in job.prompt.split()} & set(captions.CONCEPTS)) >= 20


def lists_of(name: str) -> tuple[str, ...]:
    """The pair lists that a learn preset may meet."""
    pairs = load_preset("learn", name).source
    return ("bestiary", "real-world") if pairs == "auto" else (pairs,)


def test_the_learn_presets_are_there() -> None:
    assert set(LEARN) >= {"cretok", "cretok-fast", "cretok-full", "menacing"}


@pytest.mark.parametrize("name", LEARN)
def test_a_learn_preset_says_what_how_and_how_long(name: str) -> None:
    text = (preset_folder() / "learn" / f"{name}.yaml").read_text(encoding="utf-8")
    header, _, rest = text.partition("\n\n")
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"creatok learn-token --preset {name}" in header
    expected = header.partition("Expected:")[2].partition("Source:")[0]
    assert re.search("minutes?|seconds", expected)
    assert "GiB" in expected
    source = header.partition("Source:")[2]
    assert "arXiv" in source
    assert re.search(r"^#   -+( +-+)+$", source, re.MULTILINE), "a table of settings"
    assert rest.startswith("method: ")
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", LEARN)
def test_a_learn_preset_builds_its_method(name: str) -> None:
    preset = load_preset("learn", name)
    module = get("methods", preset.method)
    spec = build_spec(module.Spec, preset.values, where=preset.path)
    assert "learn" in describe("methods", preset.method).facts["VERBS"]
    assert module.build(spec).spec == spec
    for key, place in preset.places.items():
        assert re.fullmatch(rf"presets/learn/{name}\.yaml:\d+:\d+", place), key


@pytest.mark.parametrize("name", LEARN)
def test_the_templates_of_a_learn_preset_fit_its_pairs(name: str) -> None:
    preset = load_preset("learn", name)
    spec = build_spec(get("methods", preset.method).Spec, preset.values, where=preset.path)
    for pairs in map(load_pairs, lists_of(name)):
        assert set(SLOT.findall(spec.restrictive)) == set(pairs.slots)
        assert "word" in set(SLOT.findall(spec.adaptive or spec.template))
        assert "word" in set(SLOT.findall(spec.template)) <= {"word", *pairs.slots}


def test_every_word_that_menacing_uses_is_known_to_the_embedded_base() -> None:
    values = load_preset("learn", "menacing").values
    for key in ("word", "adaptive", "restrictive", "template"):
        assert set(SLOT.sub("", values[key]).split()) <= set(captions.WORDS)


def test_cretok_is_the_setting_of_the_paper() -> None:
    values = load_preset("learn", "cretok").values
    paper = {"steps": "10000", "lr": "0.01", "theta": "0.5", "rows": "16", "sampling": "paper"}
    assert {key: values[key] for key in paper} == paper
    assert values["adaptive"] == "a photo of a {word} mixture"
    assert values["restrictive"] == "a {a} {b}"
    full = load_preset("learn", "cretok-full").values
    assert (full["theta"], full["sampling"]) == ("auto", "full")


BASES = base_presets()
ROW = re.compile(
    r"^#   (steps|guidance|size|dtype|prior_guidance|prior_steps) +(\S+)", re.MULTILINE
)


def test_the_presets_of_bases_are_there() -> None:
    families = {parse(str(load_base_preset(name).content.base)).backbone for name in BASES}
    assert families >= {"sd15", "sdxl", "sd3", "flux", "kandinsky21", "kandinsky22"}
    assert {f"bases/{name}" for name in ("hyper-sdxl-4", "lcm-sd15", "sdxl-turbo")} <= set(BASES)


@pytest.mark.parametrize("name", BASES)
def test_a_preset_of_a_base_says_what_how_and_from_where(name: str) -> None:
    text = (preset_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    header, _, rest = text.partition("\n\n")
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"creatok sample SHEET --preset {name}\n" in header
    assert re.search("minutes .* GiB", header.partition("Expected:")[2])
    assert re.search("arXiv|model card", header.partition("Source:")[2])
    assert re.search(r"^#   -+( +-+)+$", header, re.MULTILINE), "a table of settings"
    assert rest.startswith("base: ")
    assert max(map(len, text.splitlines())) <= 100
    said = yaml.safe_load(text)
    said |= said.get("options", {})
    for key, value in ROW.findall(header):
        assert str(said[key]) == value or float(said[key]) == float(value), key
    assert said["source"].startswith("https://huggingface.co/")


@pytest.mark.parametrize("name", BASES)
def test_a_preset_of_a_base_fits_its_family(
    name: str, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    """Scheduler, size and options are known to the family, and LoRAs have a repository."""
    preset = load_base_preset(name)
    asked = parse(str(preset.content.base))
    assert asked.repo
    for lora in preset.loras:
        reference = parse_reference(lora.path)
        assert reference is not None
        assert reference.repo in str(preset.content.source)
    folder = str(tiny_base(describe("backbones", asked.backbone).facts["PIPELINE"]))
    path = tmp_path / "x.yaml"
    path.write_text("version: 1\njobs: [{prompt: an owl}]\n")
    sheet = load_sheet(str(path), preset=name, base=folder)
    digests = {lora.path: f"sha256:{at}" for at, lora in enumerate(preset.loras)}
    facts = {folder: resolve(folder)}
    (job,) = expand(sheet, facts, {}, digests)
    check_options([job], facts)
    assert job.steps == preset.content.steps
    assert job.guidance == preset.content.guidance
    assert job.size_px == preset.content.size
    assert [scale for _, scale in job.weights] == [lora.scale for lora in preset.loras]
