"""Sheets to jobs: products, settings, seeds, tokens, keys and names."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from creatok_cli.domain import Job
from creatok_cli.errors import SheetError, TokenMissing, UnknownName
from creatok_cli.hashing import content_key
from creatok_cli.plan._combine import assignments, prompt_count
from creatok_cli.plan.batches import make_plan
from creatok_cli.plan.expand import expand
from creatok_cli.seeds import derive
from tests.unit.plan.kit import BASES, FACTS, jobs_of, sheet_of, yaml_jobs


def prompts(text: str) -> list[str]:
    return list(dict.fromkeys(job.prompt for job in jobs_of(text)))


def seeds(jobs: tuple[Job, ...]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for job in jobs:
        found.setdefault((job.row, job.prompt), []).append(job.seed)
    return found


def test_a_job_says_everything() -> None:
    (job,) = jobs_of(
        yaml_jobs("{id: first, prompt: 'a {animal}', matrix: {animal: [pig]}, tags: [x]}")
    )
    seed = derive(0, "first", 0)
    assert job == Job(
        base_digest=FACTS.digest,
        prompt="a pig",
        negative=None,
        seed=seed,
        size_px=(64, 64),
        steps=8,
        guidance=4.0,
        scheduler="euler",
        dtype="fp32",
        base="bestiary",
        row="first",
        index=0,
        name=f"first/0000-{job.key[3:11]}",
        where="stdin:3:5",
        labels=(("animal", "pig"),),
        tags=("x",),
        key=content_key(replace(job, key="", name="")),
    )


def test_matrix_multiplies_zip_pairs_exclude_removes_include_adds() -> None:
    text = yaml_jobs(
        "{id: a, prompt: '{m}{n} {p}{q}', "
        "matrix: {m: [1, 2], n: [a, b]}, zip: {p: [x, y], q: [X, Y]}, "
        "exclude: [{m: 1, p: y}, {n: b, m: 2}], include: [{m: 9, n: z, p: p, q: q}]}"
    )
    assert prompts(text) == ["1a xX", "1b xX", "2a xX", "2a yY", "9z pq"]
    (entry,) = sheet_of(text).jobs
    assert prompt_count(entry) == 9
    assert next(assignments(entry)) == (("m", "1"), ("n", "a"), ("p", "x"), ("q", "X"))


def test_include_alone_is_the_whole_list() -> None:
    assert prompts(yaml_jobs("{id: a, prompt: 'a {x}', include: [{x: pig}, {x: owl}]}")) == [
        "a pig",
        "a owl",
    ]


def test_constants_fill_in_and_values_are_never_templates() -> None:
    text = yaml_jobs(
        "{id: a, prompt: '{{{style}}} of a {animal}', "
        "vars: {style: '{animal}'}, matrix: {animal: ['{{x', '<']}}",
        "{id: b, prompt: 'in {place}'}",
        head="vars: {place: the sea, style: unused}\n",
    )
    assert prompts(text) == ["{{animal}} of a {{x", "{{animal}} of a <", "in the sea"]


def test_labels_name_the_values_of_the_row_not_of_the_sheet() -> None:
    text = yaml_jobs(
        "{id: a, prompt: '{x} {y} {z}', matrix: {x: [1]}, vars: {y: 2}}", head="vars: {z: 3}\n"
    )
    (job,) = jobs_of(text)
    assert (job.prompt, job.labels) == ("1 2 3", (("x", "1"), ("y", "2")))


def test_settings_base_default_sheet_job_and_precision() -> None:
    rows = (
        "{id: a, prompt: x}",
        "{id: b, prompt: x, steps: 2, size: 32x16, guidance: 1, scheduler: heun, dtype: fp16}",
    )
    plain = jobs_of(yaml_jobs(*rows))
    assert [(j.steps, j.size_px, j.guidance, j.scheduler, j.dtype) for j in plain] == [
        (8, (64, 64), 4.0, "euler", "fp32"),
        (2, (32, 16), 1.0, "heun", "fp16"),
    ]
    default = jobs_of(yaml_jobs(*rows, head="defaults: {steps: 5, dtype: bf16}\n"))
    assert [(j.steps, j.dtype) for j in default] == [(5, "bf16"), (2, "fp16")]
    assert {j.dtype for j in jobs_of(yaml_jobs(*rows), dtype="bf16")} == {"bf16"}


def test_several_bases() -> None:
    other = replace(
        FACTS, name="big", digest="sha256:1", size_px=(512, 512), schedulers=("dpm",), dtype="bf16"
    )
    sheet = sheet_of(yaml_jobs("{prompt: x}", "{prompt: x, base: big}"))
    small, big = expand(sheet, {"bestiary": FACTS, "big": other}, {})
    assert (small.base_digest, big.base_digest) == (FACTS.digest, "sha256:1")
    assert (big.base, big.size_px, big.scheduler, big.dtype) == ("big", (512, 512), "dpm", "bf16")
    assert small.key != big.key


def test_seeds_derive_from_the_sheet_seed_the_id_and_the_index_within_a_prompt() -> None:
    text = yaml_jobs(
        "{id: a, prompt: 'a {x}', matrix: {x: [pig, owl]}}", head="defaults: {count: 3, seed: 5}\n"
    )
    wanted = [derive(5, "a", index) for index in range(3)]
    assert seeds(jobs_of(text)) == {("a", "a pig"): wanted, ("a", "a owl"): wanted}
    assert [job.index for job in jobs_of(text)] == list(range(6))


def test_a_job_may_have_its_own_seed_or_exact_seeds() -> None:
    text = yaml_jobs("{id: a, prompt: x, seed: 7, count: 2}", "{id: b, prompt: x, seeds: [9, 3]}")
    assert [job.seed for job in jobs_of(text)] == [derive(7, "a", 0), derive(7, "a", 1), 9, 3]


def test_set_seed_and_count_reach_exact_seeds_too() -> None:
    text = yaml_jobs("{id: b, prompt: x, seeds: [9, 3]}")
    assert [j.seed for j in jobs_of(text, overrides={"count": "1"})] == [9]
    assert [j.seed for j in jobs_of(text, overrides={"count": "3"})] == [9, 3, derive(0, "b", 2)]
    assert [j.seed for j in jobs_of(text, overrides={"seed": "4"})] == [
        derive(4, "b", 0),
        derive(4, "b", 1),
    ]


def test_inserting_rows_and_values_moves_no_other_seed() -> None:
    before = yaml_jobs(
        "{id: a, prompt: 'a {x}', matrix: {x: [pig]}, count: 2}",
        "{prompt: '{y} b', matrix: {y: [1]}}",
    )
    after = yaml_jobs(
        "{prompt: new}",
        "{id: a, prompt: 'a {x}', matrix: {x: [cat, pig]}, count: 3, steps: 4}",
        "{id: z, prompt: z}",
        "{prompt: '{y} b', matrix: {y: [0, 1]}, guidance: 2}",
    )
    old, new = seeds(jobs_of(before)), seeds(jobs_of(after))
    assert all(new[pair][: len(found)] == found for pair, found in old.items())


def test_the_order_of_rows_is_not_identity() -> None:
    rows = ["{id: a, prompt: x, count: 2}", "{prompt: y}", "{id: c, prompt: z, steps: 4}"]
    there = {(job.key, job.name) for job in jobs_of(yaml_jobs(*rows))}
    assert there == {(job.key, job.name) for job in jobs_of(yaml_jobs(*reversed(rows)))}


def test_a_mix_is_referred_to_by_the_id_of_its_token() -> None:
    text = yaml_jobs(
        "{prompt: 'a <chimera> and <fox>'}", head="tokens: {chimera: {fuse: {pig: 1}}, fox: f}\n"
    )
    (job,) = jobs_of(text, tokens={"<chimera>": "C", "<fox>": "F"})
    assert job.tokens == (("<chimera>", "C"), ("<fox>", "F"))
    other = jobs_of(text.replace("{pig: 1}", "{owl: 1}"), tokens={"<chimera>": "D", "<fox>": "F"})
    assert other[0].key != job.key
    with pytest.raises(TokenMissing, match=r"the token <chimera> \(pig=1\) was not loaded"):
        jobs_of(text, tokens={"<fox>": "F"})


def test_tokens_are_found_in_prompt_negative_and_values() -> None:
    text = yaml_jobs(
        "{id: a, prompt: 'a <owl> and {w}', matrix: {w: [<fox>, pig]}, negative: <hen>}",
        "{id: b, prompt: '3 < 4 and 5 > 4'}",
        head="tokens: {<fox>: f, owl: o, hen: h, spare: s}\n",
    )
    ids = {"<fox>": "F", "<owl>": "O", "<hen>": "H", "<spare>": "S"}
    first, second, third = jobs_of(text, ids)
    assert first.tokens == (("<fox>", "F"), ("<hen>", "H"), ("<owl>", "O"))
    assert second.tokens == (("<hen>", "H"), ("<owl>", "O"))
    assert third.tokens == ()
    assert jobs_of(text, {**ids, "<fox>": "other"})[0].key != first.key
    with pytest.raises(TokenMissing, match=r"stdin:4:5: the token <hen> \(h\) was not loaded"):
        jobs_of(text, {"<fox>": "F", "<owl>": "O"})


def test_only_matches_ids_and_tags_after_all_rows_were_checked() -> None:
    text = yaml_jobs(
        "{id: pig-1, prompt: x}",
        "{id: pig-2, prompt: y, tags: [best]}",
        "{id: owl, prompt: z, tags: [best]}",
    )
    assert [job.row for job in jobs_of(text, only="pig-*")] == ["pig-1", "pig-2"]
    assert [job.row for job in jobs_of(text, only="best")] == ["pig-2", "owl"]
    assert jobs_of(text, only="owl") == jobs_of(text)[2:]
    with pytest.raises(UnknownName, match='did you mean "pig-1"'):
        jobs_of(text, only="pig1")
    with pytest.raises(SheetError):
        jobs_of(yaml_jobs("{id: a, prompt: x}", "{id: b, prompt: <nope>}"), only="a")


def test_messages_about_bases_sizes_and_schedulers() -> None:
    text = yaml_jobs(
        "{id: a, prompt: x, scheduler: euller}",
        "{id: b, prompt: y, size: 60x64}",
        "{id: c, prompt: z, base: bestiery}",
    )
    with pytest.raises(SheetError) as caught:
        jobs_of(text)
    assert [str(problem).partition("error")[2] for problem in caught.value.problems] == [
        '[unknown-scheduler]: job "a": scheduler: bestiary has no "euller", '
        'expected euler, heun; did you mean "euler"?',
        '[bad-size]: job "b": size: found 60x64, but bestiary needs multiples of 8; '
        "the nearest size is 64x64",
        '[unknown-base]: job "c": unknown base "bestiery"; did you mean "bestiary"?',
    ]


def test_settings_from_flags_cite_their_flag() -> None:
    text = yaml_jobs("{id: a, prompt: x}", "{id: b, prompt: y}")
    with pytest.raises(SheetError) as caught:
        jobs_of(text, overrides={"size": "60"}, base="bestiary")
    assert {(p.file, p.column) for p in caught.value.problems} == {("--set size", 6)}
    with pytest.raises(SheetError) as caught:
        jobs_of(text, base="bestiery")
    assert {p.file for p in caught.value.problems} == {"--base"}


def test_duplicates_name_both_rows() -> None:
    with pytest.raises(
        SheetError, match='same picture as job "one" at stdin:3:5: same prompt "x", seed 7'
    ) as caught:
        jobs_of(
            yaml_jobs(
                "{id: one, prompt: x, seeds: [7]}",
                "{id: two, prompt: '{a}', vars: {a: x}, seeds: [7]}",
            )
        )
    assert caught.value.problems[0].row == "two"
    with pytest.raises(SheetError, match='belongs to job "one" at stdin:4:5 already'):
        jobs_of(yaml_jobs("{id: one, prompt: x}", "{id: One, prompt: y}", head="name: '{job}'\n"))


def test_only_unsafe_names_have_a_reason_of_their_own() -> None:
    with pytest.raises(SheetError) as caught:
        jobs_of(yaml_jobs("{id: con, prompt: x}"))
    assert caught.value.reason == "unsafe-name"
    with pytest.raises(SheetError) as caught:
        jobs_of(yaml_jobs("{id: con, prompt: <x>}", "{id: a, prompt: '{'}"))
    assert caught.value.reason == "sheet"


def test_names_follow_the_template() -> None:
    text = yaml_jobs(
        "{id: A b, prompt: <fox>, count: 2}",
        head="tokens: {fox: f}\nname: '{sheet}/{job}_{token}_{index:02d}'\n",
    )
    assert [job.name for job in jobs_of(text, {"<fox>": "F"})] == [
        "stdin/A-b_fox_00",
        "stdin/A-b_fox_01",
    ]


def test_negative_forms_of_nothing_share_a_key() -> None:
    rows = [
        f"{{id: a, prompt: x, seeds: [1]{negative}}}"
        for negative in (", negative: ''", ", negative: ~", "")
    ]
    assert len({jobs_of(yaml_jobs(row))[0].key for row in rows}) == 1


def test_keys_do_not_know_names() -> None:
    text = yaml_jobs("{id: a, prompt: x, seeds: [1]}")
    renamed = yaml_jobs("{id: b, prompt: x, seeds: [1], tags: [t]}", head="name: '{key8}'\n")
    assert jobs_of(text)[0].key == jobs_of(renamed)[0].key


LORAS = """\
version: 1
loras:
  - {path: scales.safetensors, scale: 0.5}
  - {path: fur.safetensors}
jobs:
  - {id: both, prompt: a pig, seeds: [1]}
  - {id: own, prompt: a pig, seeds: [1], loras: [{path: fur.safetensors, scale: -2}]}
  - {id: none, prompt: a pig, seeds: [1], loras: []}
"""
DIGESTS = {"scales.safetensors": "sha256:5", "fur.safetensors": "sha256:f"}


def test_loras_of_the_sheet_and_of_a_job() -> None:
    both, own, none = jobs_of(LORAS, loras=DIGESTS)
    assert both.weights == (("sha256:5", 0.5), ("sha256:f", 1.0))
    assert own.weights == (("sha256:f", -2.0),)
    assert none.weights == ()
    assert len({both.key, own.key, none.key}) == 3
    plan = make_plan((both, own, none), sheet="x", batch_class=8)
    assert [batch.group.weights for batch in plan.batches] == [both.weights, own.weights, ()]


def test_a_lora_is_its_content_scale_and_place_not_its_path() -> None:
    keys = [job.key for job in jobs_of(LORAS, loras=DIGESTS)]
    moved = LORAS.replace("fur.", "./fur.")
    renamed = {name.replace("fur", "./fur"): digest for name, digest in DIGESTS.items()}
    assert [job.key for job in jobs_of(moved, loras=renamed)] == keys
    changed = [job.key for job in jobs_of(LORAS, loras=DIGESTS | {"fur.safetensors": "sha256:e"})]
    assert [old == new for old, new in zip(keys, changed, strict=True)] == [False, False, True]
    stronger = jobs_of(LORAS.replace("0.5", "0.25"), loras=DIGESTS)
    assert [old == new.key for old, new in zip(keys, stronger, strict=True)] == [False, True, True]
    swapped = dict(zip(DIGESTS, reversed(DIGESTS.values()), strict=True))
    assert jobs_of(LORAS, loras=swapped)[0].key != keys[0]


def test_paths_of_loras_have_places() -> None:
    sheet = sheet_of(LORAS)
    assert list(sheet.lora_places()) == list(DIGESTS)
    assert sheet.lora_places()["fur.safetensors"] == "stdin:4:12"
    with pytest.raises(TokenMissing, match=r"stdin:6:5: the LoRA fur.safetensors was not loaded"):
        jobs_of(LORAS, loras={"scales.safetensors": "sha256:5"})


def test_rows_of_jsonl_have_loras() -> None:
    row = '{"id": "a", "prompt": "a pig", "loras": [{"path": "x.safetensors", "scale": 2}]}'
    (job,) = jobs_of(row, loras={"x.safetensors": "sha256:7"})
    assert job.weights == (("sha256:7", 2.0),)


def test_ten_thousand_jobs_expand_and_plan_in_about_a_second() -> None:
    rows = [f"{{id: j{i}, prompt: a photo of a pig {i}}}" for i in range(10_000)]
    text = yaml_jobs(*rows)
    start = time.process_time()
    plan = make_plan(expand(sheet_of(text), BASES, {}), sheet="x", batch_class=8)
    seconds = time.process_time() - start
    assert len(plan.jobs) == 10_000
    assert seconds < 1.5, f"{seconds:.2f} s of CPU"


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, creatok_cli.plan.sheet, creatok_cli.plan.expand\n"
        "import creatok_cli.plan.batches, creatok_cli.config\n"
        "heavy = {'torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
