"""Presets of bases: below the sheet, above the base, with places of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from creatok_cli.domain import Job
from creatok_cli.errors import PresetError, SheetError, UnknownName
from creatok_cli.plan.expand import expand
from creatok_cli.plan.presets import base_presets, load_base_preset
from creatok_cli.plan.sheet import load_sheet
from tests.unit.plan.kit import FACTS, sheet_of, yaml_jobs

PRESET = """\
base: fast
loras:
  - {path: own.safetensors, scale: 0.5}
  - {path: "owner/repo:far.safetensors"}
scheduler: heun
steps: 2
guidance: 0
size: 32x32
negative: blurry
options: {spacing: trailing, eta: 1.0}
licence: openrail++
source: a model card
"""
BASES = {"bestiary": FACTS, "fast": replace(FACTS, name="fast", digest="sha256:" + "1" * 64)}
PLAIN = yaml_jobs("{id: a, prompt: an owl}")


@pytest.fixture
def preset(tmp_path: Path) -> str:
    """The path of a preset file."""
    path = tmp_path / "fast.yaml"
    path.write_text(PRESET, encoding="utf-8")
    return str(path)


def drawn(text: str, preset: str | None, **options: Any) -> tuple[Job, ...]:
    sheet = sheet_of(text, preset=preset, **options)
    digests = {path: f"sha256:{Path(path).name}" for path in sheet.lora_places()}
    return expand(sheet, BASES, {}, digests)


def test_a_preset_fills_what_the_sheet_leaves_open(preset: str) -> None:
    (job,) = drawn(PLAIN, preset)
    assert (job.base, job.scheduler, job.steps, job.guidance) == ("fast", "heun", 2, 0.0)
    assert (job.size_px, job.negative, job.dtype) == ((32, 32), "blurry", "fp32")
    assert job.options == (("eta", 1.0), ("spacing", "trailing"))
    assert job.weights == (("sha256:own.safetensors", 0.5), ("sha256:repo:far.safetensors", 1.0))


def test_the_sheet_wins_and_set_wins_over_both(preset: str) -> None:
    text = yaml_jobs(
        "{id: a, prompt: an owl, size: 16}",
        head="base: bestiary\ndefaults: {steps: 5, negative: null}\noptions: {eta: 0.5}\n",
    )
    (job,) = drawn(text, preset, overrides={"guidance": "3"})
    assert (job.base, job.steps, job.size_px, job.guidance) == ("bestiary", 5, (16, 16), 3.0)
    assert (job.scheduler, job.negative) == ("heun", None)
    assert job.options == (("eta", 0.5), ("spacing", "trailing"))


def test_the_loras_of_a_preset_come_first(preset: str) -> None:
    text = yaml_jobs(
        "{id: a, prompt: an owl}",
        "{id: b, prompt: an owl, loras: [{path: fur.safetensors, scale: 2}]}",
        "{id: c, prompt: an owl, loras: []}",
        head="loras: [{path: ink.safetensors}]\n",
    )
    worn = [[scale for _, scale in job.weights] for job in drawn(text, preset)]
    assert worn == [[0.5, 1.0, 1.0], [0.5, 1.0, 2.0], [0.5, 1.0]]


def test_a_job_with_a_base_of_its_own_takes_nothing(preset: str) -> None:
    text = yaml_jobs("{id: a, prompt: an owl}", "{id: b, prompt: an owl, base: bestiary}")
    first, other = drawn(text, preset)
    assert (first.base, first.steps) == ("fast", 2)
    assert (other.base, other.steps, other.weights, other.options) == ("bestiary", 8, (), ())
    flagged = drawn(text.replace(", base", ", seed: 1, base"), preset, base="fast")
    assert [job.steps for job in flagged] == [2, 2]


def test_base_flag_and_base_of_the_sheet_keep_the_settings(preset: str) -> None:
    """A folder of one's own in place of the published base."""
    assert [(job.base, job.steps) for job in drawn(PLAIN, preset, base="bestiary")] == [
        ("bestiary", 2)
    ]


def test_the_key_is_of_what_comes_of_it_not_of_its_name(preset: str, tmp_path: Path) -> None:
    (job,) = drawn(PLAIN, preset)
    other = tmp_path / "else.yaml"
    other.write_text(PRESET.replace("a model card", "elsewhere"), encoding="utf-8")
    assert drawn(PLAIN, str(other))[0].key == job.key
    loras = [f"{{path: '{tmp_path / 'own.safetensors'}', scale: 0.5}}"]
    loras.append("{path: 'owner/repo:far.safetensors'}")
    head = (
        f"base: fast\ndefaults: {{scheduler: heun, steps: 2, guidance: 0, size: 32, negative: "
        f"blurry}}\nloras: [{', '.join(loras)}]\noptions: {{spacing: trailing, eta: 1.0}}\n"
    )
    assert drawn(yaml_jobs("{id: a, prompt: an owl}", head=head), None)[0].key == job.key


def test_paths_start_where_the_preset_is(preset: str, tmp_path: Path) -> None:
    places = sheet_of(PLAIN, preset=preset).lora_places()
    assert places == {
        str(tmp_path / "own.safetensors"): f"{preset}:3:12",
        "owner/repo:far.safetensors": f"{preset}:4:12",
    }


def test_a_sheet_names_its_preset(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "sheet.yaml"
    path.write_text(yaml_jobs("{id: a, prompt: an owl}", head="preset: fast.yaml\n"))
    sheet = load_sheet(str(path))
    assert sheet.preset is not None
    assert sheet.setting(0, "steps", 0) == 2
    other = tmp_path / "slow.yaml"
    other.write_text(PRESET.replace("steps: 2", "steps: 9"), encoding="utf-8")
    assert load_sheet(str(path), preset=str(other)).setting(0, "steps", 0) == 9
    path.write_text(yaml_jobs("{id: a, prompt: an owl}", head="preset: hyper-sdlx-4\n"))
    with pytest.raises(UnknownName, match=r'sheet.yaml:2:9: .*did you mean "bases/hyper-sdxl-4"'):
        load_sheet(str(path))


def test_what_the_base_does_not_have_is_told_where_the_preset_says_it(preset: str) -> None:
    Path(preset).write_text(PRESET.replace("scheduler: heun", "scheduler: hein"))
    with pytest.raises(SheetError) as caught:
        drawn(PLAIN, preset)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == (preset, 5, 12)
    assert 'did you mean "heun"?' in str(problem)
    Path(preset).write_text(PRESET.replace("base: fast", "base: fasst"))
    with pytest.raises(SheetError, match=r"fast.yaml:1:7: .*unknown base"):
        drawn(PLAIN, preset)


BAD = {
    "steps: 2": ("stpes: 2", 6, 1, 'did you mean "steps"?'),
    "guidance: 0": ("prompt: an owl", 7, 1, "belongs into the sheet"),
    "size: 32x32": ("size: big", 8, 7, "expected a size"),
    "scale: 0.5": ("scale: 9", 3, 36, "expected a number from -4 to 4"),
    "licence: openrail++\n": ("", 1, 1, "the key licence is missing"),
    "eta: 1.0": ("eta: null", 10, 35, "expected a text"),
}


@pytest.mark.parametrize("good", BAD)
def test_faults_have_their_places(preset: str, good: str) -> None:
    bad, line, column, message = BAD[good]
    Path(preset).write_text(PRESET.replace(good, bad))
    with pytest.raises(PresetError) as caught:
        load_base_preset(preset)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == (preset, line, column)
    assert message in str(problem)


def test_several_faults_are_told_at_once(preset: str) -> None:
    Path(preset).write_text(
        PRESET.replace("steps: 2", "steps: x").replace("size: 32x32", "size: y")
    )
    with pytest.raises(PresetError) as caught:
        load_base_preset(preset)
    assert [problem.line for problem in caught.value.problems] == [6, 8]


def test_what_is_no_mapping_is_refused(preset: str) -> None:
    Path(preset).write_text("- 1\n")
    with pytest.raises(PresetError, match=r"fast.yaml:1:1: .*expected a mapping with a base"):
        load_base_preset(preset)


def test_shipped_presets_go_by_name() -> None:
    assert "bases/hyper-sdxl-4" in base_presets()
    assert load_base_preset("sdxl").name == load_base_preset("bases/sdxl").name == "bases/sdxl"
    with pytest.raises(UnknownName, match=r"a file of your own ends in \.yaml"):
        load_base_preset("nothing-like-it")


def test_a_preset_tells_what_it_asks_for() -> None:
    assert load_base_preset("hyper-sdxl-4").told() == (
        "preset bases/hyper-sdxl-4: base sdxl, "
        "LoRA ByteDance/Hyper-SD:Hyper-SDXL-4steps-lora.safetensors at 1, size 1024x1024, steps 4, "
        "guidance 0, scheduler ddim, dtype fp16, timestep_spacing trailing; "
        "licence openrail++ (base and LoRA)"
    )
