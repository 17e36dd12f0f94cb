"""Loading: YAML, CSV, JSONL and standard input, `--set`, messages, and the JSON Schema."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from creatok_cli.concepts.mixes import Mix
from creatok_cli.errors import SheetError
from creatok_cli.plan.sheet import load_sheet, sheet_schema
from tests.unit.plan.kit import file_sheet, jobs_of, sheet_of, yaml_jobs
from tests.unit.plan.malformed import families

FULL = """\
# yaml-language-server: $schema=x.json
$schema: x.json
version: 1
base: bestiary
defaults: {steps: 8, guidance: 4.0, size: 64x64, count: 4, negative: "blurry {what}"}
tokens: {<hydra-fox>: tokens/hydra-fox.safetensors, owl2: owl.safetensors}
vars: {what: pictures}
name: "{sheet}/{job}/{index:03d}-{seed}"
jobs:
  - id: first
    prompt: "a photo of a {animal} in the {place}"
    matrix: {animal: [pig, owl, dragon], place: [meadow, snow]}
  - id: 7
    prompt: "a {a} {b} <hydra-fox>"
    zip: {a: [pig, cat], b: [snake, bee]}
    negative: null
    seeds: [7, 11]
    size: 128
    steps: 4
    guidance: 1.0
    scheduler: heun
    dtype: bf16
    tags: [pairs, 2]
"""


MIXES = """\
version: 1
tokens:
  owl2: owl.safetensors
  <chimera>: {fuse: {pig: 0.55, sheep: 0.25, snake: 0.20}}
  griffin:
    fuse:
      eagle: 3
      <wolf>: 1
      '"pgi"': 0
jobs:
  - prompt: "a photo of a <chimera> beside a <griffin>"
"""


def faults(error: pytest.ExceptionInfo[SheetError]) -> list[tuple[str, int, int, str]]:
    return [(p.file, p.line, p.column, p.slug) for p in error.value.problems]


def test_everything_that_a_sheet_can_say(tmp_path: Path) -> None:
    sheet = file_sheet(tmp_path, FULL)
    assert (sheet.name, sheet.version, sheet.folder) == ("sheet", 1, tmp_path)
    assert sheet.base_names() == ("bestiary",)
    assert sheet.tokens == {
        "<hydra-fox>": "tokens/hydra-fox.safetensors",
        "<owl2>": "owl.safetensors",
    }
    first, second = sheet.jobs
    assert first.matrix == {"animal": ["pig", "owl", "dragon"], "place": ["meadow", "snow"]}
    assert (second.id, second.seeds, second.size, second.guidance) == (
        "7",
        [7, 11],
        (128, 128),
        1.0,
    )
    assert second.tags == ["pairs", "2"]
    assert sheet.setting(0, "negative", "none") == "blurry {what}"
    assert sheet.setting(1, "negative", "none") is None
    assert sheet.where(1) == f"{tmp_path}/sheet.yaml:13:5"


def test_variables_keep_numbers_and_booleans_as_written() -> None:
    (entry,) = sheet_of(
        yaml_jobs("{prompt: '{a} {b}', matrix: {a: [1.50, 16:9, 007, no], b: [true]}}")
    ).jobs
    assert entry.matrix == {"a": ["1.50", "16:9", "007", "no"], "b": ["true"]}


def test_ids_are_stable_without_being_given() -> None:
    text = yaml_jobs("{prompt: a pig}", "{prompt: 'a {x}', matrix: {x: [cat]}}")
    more = yaml_jobs(
        "{prompt: 'a {x}', matrix: {x: [dog, cat]}, steps: 3}", "{prompt: new}", "{prompt: a pig}"
    )
    ids, later = sheet_of(text).row_ids, sheet_of(more).row_ids
    assert ids == (later[2], later[0])
    assert all(len(row_id) == 10 and row_id.startswith("j-") for row_id in (*ids, *later))
    assert len(set(later)) == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marked_encodings(encoding: str) -> None:
    assert sheet_of(yaml_jobs("{prompt: a 狐}").encode(encoding)).jobs[0].prompt == "a 狐"


def test_windows_line_ends() -> None:
    text = yaml_jobs("{id: a, prompt: x}", "{id: b, promt: x}").replace("\n", "\r\n")
    with pytest.raises(SheetError) as caught:
        sheet_of(text)
    assert faults(caught) == [("stdin", 4, 13, "unknown-key")]


def test_up_to_twenty_problems_in_one_pass_in_the_order_of_the_file() -> None:
    rows = [f"{{id: r{i}, prompt: x, stpes: 4}}" for i in range(25)]
    with pytest.raises(SheetError) as caught:
        sheet_of(
            yaml_jobs(*rows, head="defaults: {sise: 64}\n"), overrides={"cont": "4", "steps": "x"}
        )
    error = caught.value
    assert (len(error.problems), error.total) == (20, 28)
    assert str(error).endswith("\nand 8 more")
    assert faults(caught)[:3] == [
        ("--set", 1, 1, "unknown-key"),
        ("--set steps", 1, 7, "bad-value"),
        ("stdin", 2, 12, "unknown-key"),
    ]
    assert error.problems[0].hint == 'did you mean "count"?'
    assert error.problems[2].hint == 'did you mean "size"?'
    assert error.problems[3].message.startswith(
        'job "r0": unknown key "stpes", expected base, size'
    )
    assert (error.problems[3].row, error.problems[3].hint) == ("r0", 'did you mean "steps"?')


def test_a_message_says_found_expected_and_where_the_key_belongs() -> None:
    text = yaml_jobs("{id: a, prompt: x, steps: 0123, name: y}", head="seeds: [1]\n")
    with pytest.raises(SheetError) as caught:
        sheet_of(text)
    assert [str(p).partition("error")[2] for p in caught.value.problems] == [
        '[unknown-key]: unknown key "seeds", expected version, base, preset, defaults, tokens, '
        "loras, options, vars, name, jobs; this key belongs into a job",
        '[bad-value]: job "a": steps: found "0123", expected a whole number from 1 to 1000; '
        "leading zeros are not allowed in a number",
        '[unknown-key]: job "a": unknown key "name", expected base, size, steps, guidance, '
        "scheduler, negative, count, seed, dtype, init_image, strength, id, prompt, vars, matrix, "
        "zip, include, exclude, seeds, loras, options, tags; "
        "this key belongs to the top of the sheet",
    ]


def test_set_wins_over_everything_and_is_typed_by_the_schema() -> None:
    text = yaml_jobs(
        "{id: a, prompt: x, steps: 4, size: 32, negative: n}", head="defaults: {steps: 6}\n"
    )
    sets = {
        "steps": "2",
        "size": "16x24",
        "guidance": "1.5",
        "seed": "9",
        "negative": "",
        "dtype": "fp16",
    }
    (job,) = jobs_of(text, overrides=sets)
    assert (job.steps, job.size_px, job.guidance, job.negative, job.dtype) == (
        2,
        (16, 24),
        1.5,
        None,
        "fp16",
    )


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [("steps", "x", 7), ("size", "64x", 6), ("seed", "-1", 6), ("dtype", "f", 7)],
)
def test_a_wrong_set_cites_set(key: str, value: str, column: int) -> None:
    with pytest.raises(SheetError) as caught:
        sheet_of(yaml_jobs("{prompt: x}"), overrides={key: value})
    assert faults(caught) == [(f"--set {key}", 1, column, "bad-value")]


@pytest.mark.parametrize(
    ("key", "hint"), [("base", "--base"), ("setps", '"steps"'), ("prompt", "there are size")]
)
def test_an_unknown_set_says_what_exists(key: str, hint: str) -> None:
    with pytest.raises(SheetError) as caught:
        sheet_of(yaml_jobs("{prompt: x}"), overrides={key: "1"})
    assert hint in caught.value.problems[0].hint


def test_the_base_flag_wins() -> None:
    text = yaml_jobs("{prompt: x, base: b}", "{prompt: y}", head="base: a\n")
    assert sheet_of(text).base_names() == ("b", "a")
    assert sheet_of(text, base="./folder").base_names() == ("./folder",)


def test_csv(tmp_path: Path) -> None:
    text = (
        "id,prompt,negative,seed,count,size,steps,animal,tags\n"
        'one,"a {animal}, happy",,,2,,,pig,x y\n'
        "\n"
        'two, "say ""{animal}""\nin two lines",bad,5,,32x16,4,owl,\n'
    )
    sheet = file_sheet(tmp_path, text, ".csv")
    one, two = sheet.jobs
    assert (one.prompt, one.vars, one.count, one.tags) == (
        "a {animal}, happy",
        {"animal": "pig"},
        2,
        ["x", "y"],
    )
    assert one.model_fields_set == {"id", "prompt", "vars", "count", "tags"}
    assert two.prompt == 'say "{animal}"\nin two lines'
    assert (two.negative, two.seed, two.size, two.steps) == ("bad", 5, (32, 16), 4)
    assert [sheet.where(row) for row in (0, 1)] == [
        f"{tmp_path}/sheet.csv:{line}:1" for line in (2, 4)
    ]
    assert sheet.places.find(("jobs", 1, "size")) == (5, 22)
    assert sheet.places.find(("jobs", 1, "vars", "animal"), key=True) == (1, 42)


def test_csv_cells_are_typed_by_the_schema(tmp_path: Path) -> None:
    sheet = file_sheet(tmp_path, "id,prompt,seeds,guidance\n007,42, 1; 2 3 ,2\n", ".csv")
    (entry,) = sheet.jobs
    assert (entry.id, entry.prompt, entry.seeds, entry.guidance) == ("007", "42", [1, 2, 3], 2.0)


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        {"id": "one", "prompt": "a {animal}", "animal": "pig", "count": 2},
        {"id": 2, "prompt": "{n} of {m}", "n": 1.50, "vars": {"m": True}, "steps": 4},
        {"prompt": "a {x}", "matrix": {"x": ["\U0001f9a9", "b"]}},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines).replace("1.5,", "1.50,")
    sheet = file_sheet(tmp_path, text, ".jsonl")
    one, two, three = sheet.jobs
    assert (one.vars, one.count) == ({"animal": "pig"}, 2)
    assert (two.id, two.vars, two.steps) == ("2", {"m": "true", "n": "1.50"}, 4)
    assert three.matrix == {"x": ["\U0001f9a9", "b"]}
    assert sheet.where(2) == f"{tmp_path}/sheet.jsonl:5:1"
    assert sheet.places.find(("jobs", 1, "vars", "n"), key=True)[0] == 3


def test_jsonl_places_survive_what_yaml_refuses(tmp_path: Path) -> None:
    text = '{"prompt": "a \\ud83e\\udda9", "steps": 0}\n'
    with pytest.raises(SheetError) as caught:
        file_sheet(tmp_path, text, ".jsonl")
    assert faults(caught)[0][1:] == (1, text.index("0}") + 1, "bad-value")


def test_standard_input_is_yaml_or_jsonl() -> None:
    assert sheet_of("version: 1\njobs: [{prompt: x}]\n").jobs[0].prompt == "x"
    sheet = sheet_of('{"prompt": "x"}\n{"prompt": "y"}\n')
    assert [entry.prompt for entry in sheet.jobs] == ["x", "y"]
    assert (sheet.name, sheet.file, sheet.folder) == ("stdin", "stdin", Path.cwd())


def test_a_json_sheet_is_a_yaml_sheet(tmp_path: Path) -> None:
    text = json.dumps({"version": 1, "jobs": [{"prompt": "x"}]})
    assert file_sheet(tmp_path, text, ".json").jobs[0].prompt == "x"


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "creatures.yaml").write_text("version: 1")
    wanted = {
        str(tmp_path / "creature.yaml"): 'there is no such file; did you mean "creatures.yaml"?',
        str(tmp_path / "none" / "x.yaml"): "there is no such file",
        str(tmp_path): "the file cannot be read: Is a directory",
        "x\0y": "the file cannot be read: ValueError",
    }
    for path, message in wanted.items():
        with pytest.raises(SheetError) as caught:
            load_sheet(path)
        assert caught.value.problems[0].slug == "unreadable"
        assert caught.value.problems[0].message == message


def test_shipped_sheets_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_sheet("presets/sheets/first-creatures.yaml").name == "first-creatures"
    with pytest.raises(SheetError, match="no such file"):
        load_sheet("presets/../presets/sheets/first-creatures.yaml")


def test_the_shipped_schema_is_the_schema_of_the_models(update_golden: bool) -> None:
    """`--update-golden` writes it anew."""
    text = json.dumps(sheet_schema(), indent=2) + "\n"
    shipped = files("creatok_cli.plan") / "sheet.schema.json"
    if update_golden:
        Path(str(shipped)).write_text(text, encoding="utf-8")
    assert shipped.read_text(encoding="utf-8") == text


def test_tokens_may_be_mixes_of_concepts() -> None:
    sheet = sheet_of(MIXES)
    assert sheet.tokens == {
        "<owl2>": "owl.safetensors",
        "<chimera>": Mix(weights=(("pig", 0.55), ("sheep", 0.25), ("snake", 0.2))),
        "<griffin>": Mix(weights=(("eagle", 0.75), ("<wolf>", 0.25))),
    }
    assert sheet.notices == (
        """stdin:5:3: token <griffin>: "pgi"=0 is left out""",
        "stdin:5:3: token <griffin>: weights sum to 4; divided by it",
    )
    assert sheet_of(FULL).notices == ()


def test_equal_proportions_in_a_sheet_are_one_mix() -> None:
    other = MIXES.replace("0.55", "110").replace("0.25", "50.0").replace("0.20", "4e1")
    assert sheet_of(other).tokens == sheet_of(MIXES).tokens
    assert (
        "stdin:4:3: token <chimera>: weights sum to 200; divided by it" in sheet_of(other).notices
    )


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (
            "{fuse: {pig: 0.55, owl: -1}}",
            "3:29: error[bad-value]: tokens.chimera.fuse.owl: found -1, expected a number from 0 "
            "to 1000000000",
        ),
        (
            "{fuse: {pig: 1, Pig: 1}}",
            '3:21: error[duplicate-key]: tokens.chimera.fuse.Pig: the concept "Pig" is repeated; '
            '"pig" is the same',
        ),
        (
            "{fuse: {pig: '1'}}",
            '3:18: error[bad-value]: tokens.chimera.fuse.pig: found "1", expected a number from 0 '
            "to 1000000000; remove the quotes",
        ),
        (
            "{fuse: pig}",
            '3:12: error[bad-value]: tokens.chimera.fuse: found "pig", expected concepts and '
            "their weights, such as {pig: 0.55, snake: 0.45}",
        ),
        (
            "{fuse: {pig: 0}}",
            "3:12: error[bad-value]: tokens.chimera.fuse: all weights are 0; give at least one "
            "concept a weight above 0",
        ),
        (
            "{fusing: {pig: 1}}",
            '3:6: error[unknown-key]: unknown key "fusing", expected fuse; did you mean "fuse"?',
        ),
        (
            "{fuse: {pig: 1}, steps: 4}",
            '3:22: error[unknown-key]: unknown key "steps", expected fuse',
        ),
        ("{}", "3:5: error[missing-key]: the key fuse is missing"),
        (
            "[pig, owl]",
            "3:5: error[bad-value]: tokens.chimera: found a list, expected the name or file of a "
            "token, or {fuse: {pig: 0.55}}",
        ),
    ],
)
def test_what_is_wrong_with_a_mix_is_told_at_its_place(mix: str, message: str) -> None:
    with pytest.raises(SheetError) as caught:
        sheet_of(f"version: 1\ntokens: {{chimera:\n    {mix}}}\njobs: [{{prompt: x}}]\n")
    assert str(caught.value) == f"stdin:{message}"


def test_all_faults_of_a_mix_are_told_together() -> None:
    with pytest.raises(SheetError) as caught:
        sheet_of(
            "version: 1\nbsae: x\ntokens:\n  a: {fuse: {pig: x, '{': 1}}\n  b: {fuse: [], c: 1}\n"
            "jobs:\n  - {prompt: 7}\n"
        )
    assert faults(caught) == [
        ("stdin", 2, 1, "unknown-key"),
        ("stdin", 4, 19, "bad-value"),
        ("stdin", 4, 22, "bad-key"),
        ("stdin", 5, 13, "bad-value"),
        ("stdin", 5, 17, "unknown-key"),
        ("stdin", 7, 14, "bad-value"),
    ]


def test_the_schema_knows_mixes() -> None:
    assert valid(yaml.safe_load(MIXES))
    for wrong in (
        "{fuse: {pig: -1}}",
        "{fuse: {pig: x}}",
        "{fuse: {}}",
        "{fuse: [pig]}",
        "{fuse: {pig: 1}, steps: 4}",
        "{fues: {pig: 1}}",
        "{}",
        "[pig]",
    ):
        text = f"version: 1\ntokens: {{chimera: {wrong}}}\njobs: [{{prompt: x}}]\n"
        assert not valid(yaml.safe_load(text)), wrong


def test_the_schema_is_sound_and_draft_7_only() -> None:
    schema = sheet_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    text = json.dumps(schema)
    for newer in ("$defs", "prefixItems", "unevaluated", "dependentRequired", '"title": "Steps'):
        assert newer not in text
    described = [schema["properties"], *(d["properties"] for d in schema["definitions"].values())]
    assert all("description" in field for fields in described for field in fields.values())


@cache
def validator() -> Any:
    return jsonschema.Draft7Validator(sheet_schema())


def valid(document: Any) -> bool:
    return bool(validator().is_valid(document))


def test_the_schema_accepts_what_is_accepted_and_refuses_what_editors_can_see() -> None:
    assert valid(yaml.safe_load(FULL))
    blind = {"zip-length", "conflict", "duplicate-seed", "duplicate-id", "missing-value", "bad-key"}
    cases = [c for kind in ("keys", "values") for c in families()[kind] if c.slug not in blind]
    documents = []
    for case in cases:
        try:
            documents.append((case.name, yaml.safe_load(case.make())))
        except yaml.YAMLError:
            continue
    # YAML 1.1 readers see other values here, or the schema does not say as much as creatok checks.
    other = (
        "16:9",
        "0123",
        "08",
        "012",
        "1_000",
        ".0",
        ".nan",
        "0x",
        "1e",
        "7",
        "duplicate",
        "id ",
        "seeds",
        "prompt '   '",
    )
    seen = [(n, valid(d)) for n, d in documents if not any(word in n for word in other)]
    assert len(seen) > 80
    assert [name for name, is_valid in seen if is_valid] == []
