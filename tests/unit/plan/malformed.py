"""More than 200 sheets that are wrong, each with the slug and the line that must be reported.

Small ones are written out, families are generated; the hostile ones (bombs, nesting, huge scalars)
are built when asked for, so that importing this costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEAD = "version: 1\njobs:\n"
ROW = '  - {id: a, prompt: "a pig"}\n'


@dataclass(frozen=True, slots=True)
class Case:
    """One wrong sheet. `column` is checked where it is given."""

    name: str
    make: Callable[[], bytes]
    slug: str
    line: int
    column: int | None = None
    suffix: str = ".yaml"


def families() -> dict[str, list[Case]]:
    """The cases that are small, by kind, and `hostile` for those that are not."""
    made: dict[str, Callable[[], Iterator[Case]]] = {
        "syntax": _syntax,
        "encoding": _encoding,
        "structure": _structure,
        "keys": _keys,
        "values": _values,
        "variables": _variables,
        "combinations": _combinations,
        "tokens and names": _tokens_and_names,
        "loras": _loras,
        "pictures": _pictures,
        "meaning": _meaning,
        "csv": _csv,
        "jsonl": _jsonl,
        "hostile": _hostile,
    }
    found = {kind: list(make()) for kind, make in made.items()}
    names = [case.name for cases in found.values() for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, twice
    return found


def _text(
    name: str, text: str, slug: str, line: int, column: int | None = None, suffix: str = ".yaml"
) -> Case:
    """A case from text. A `§` in it marks the place that must be reported, and is taken out."""
    before, mark, after = text.partition("§")
    if mark:
        assert before.count("\n") + 1 == line, name
        column = len(before) - before.rfind("\n")
    data = (before + after).encode("utf-8", "surrogatepass")
    return Case(name, lambda: data, slug, line, column, suffix)


def _row(name: str, fields: str, slug: str) -> Case:
    """A sheet whose second row, in line 4, has these fields; `^` for slugs of the row itself."""
    start, body = ("§", fields[1:]) if fields.startswith("^") else ("", fields)
    return _text(name, f"{HEAD}{ROW}  - {start}{{{body}}}\n", slug, 4)


def _syntax() -> Iterator[Case]:
    wrong = {
        "two colons": ("prompt: a: b", 4),
        "tab indent": ("\tprompt: a", 4),
        "open quote": ('prompt: "a pig', 4),
        "open single quote": ("prompt: 'a pig", 4),
        "open bracket": ("matrix: {a: [x, y}", 4),
        "backtick": ("prompt: `a`", 4),
        "at sign": ("prompt: @a", 4),
        "percent": ("prompt: %a", 4),
        "bad escape": ('prompt: "a \\q"', 4),
        "surrogate escape": ('prompt: "\\ud800"', 4),
        "huge escape": ('prompt: "\\UFFFFFFFF"', 4),
        "text after quote": ('prompt: "a" pig', 4),
        "brace then text": ("prompt: {animal} in the snow", 4),
        "block header": ("prompt: |x\n      a", 4),
    }
    for name, (line, number) in wrong.items():
        yield _text(f"syntax {name}", f"{HEAD}{ROW}  - {line}\n", "yaml-syntax", number)
    yield _text("syntax dedent", "version: 1\njobs:\n  - id: a\n prompt: b\n", "yaml-syntax", 4)
    yield _text("syntax no colon", "version: 1\njobs\nbase: x\n", "yaml-syntax", 3)
    yield _text("syntax list then key", "- a\nversion: 1\n", "yaml-syntax", 2)
    yield _text("syntax two anchors", "version: &a &b 1\n", "yaml-syntax", 1)
    yield _text("directive tag", "%TAG ! tag:x,2000:\n---\nversion: 1\n", "directive", 1)
    yield _text("directive yaml", "# c\n%YAML 1.1\n---\nversion: 1\n", "directive", 2)
    yield _text("directive unknown", "%FOO bar\n---\nversion: 1\n", "yaml-syntax", 1)
    yield _text("two documents", f"{HEAD}{ROW}---\nversion: 1\n", "many-documents", 4)
    yield _text("document end then text", f"{HEAD}{ROW}...\nversion: 1\n", "yaml-syntax", 5)
    yield _text(
        "tag python", "version: 1\njobs: !!python/object/apply:os.system ['id']\n", "tag", 2, 7
    )
    yield _text("tag str", "version: !!str 1\n", "tag", 1, 10)
    yield _text("tag local", "version: 1\nbase: !x y\n", "tag", 2)
    yield _text("tag plain bang", "version: 1\nbase: ! y\n", "tag", 2)
    yield _text("tag on key", "!!str version: 1\n", "tag", 1)
    yield _text("tag set", "version: 1\njobs: !!set {a}\n", "tag", 2)
    yield _text(
        "merge key", "version: 1\ndefaults: &d {steps: 4}\njobs:\n  - <<: *d\n", "merge-key", 4, 5
    )
    yield _text("unknown alias", "version: 1\nbase: *nope\n", "unknown-alias", 2, 7)
    yield _text("recursive alias", "version: 1\njobs: &a [*a]\n", "recursive-alias", 2, 11)
    yield _text("recursive map", "version: 1\njobs: &a\n  b: *a\n", "recursive-alias", 3)
    yield _text("alias as key", "version: &v 1\n*v : 2\n", "bad-key", 2)
    yield _text("list as key", "version: 1\n? [a]\n: b\n", "bad-key", 2)
    yield _text("map as key", "version: 1\n? {a: b}\n: c\n", "bad-key", 2)
    yield _text("empty key", "version: 1\n: c\n", "yaml-syntax", 2)
    yield _text("empty quoted key", 'version: 1\n"": c\n', "bad-key", 2)


def _encoding() -> Iterator[Case]:
    good = (HEAD + ROW).encode()
    tail = '  - {id: b, prompt: "caf\xe9"}\n'
    for name, encoding in (("latin-1", "latin-1"), ("cp1252", "cp1252")):
        data = good + tail.encode(encoding)
        yield Case(f"encoding {name}", lambda d=data: d, "encoding", 4, 25)
    japanese = good + '  - {id: b, prompt: "\u72d0"}\n'.encode("cp932")
    yield Case("encoding cp932", lambda: japanese, "encoding", 4)
    for bad in (
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"\xe2\x28",
    ):
        data = good + b'  - {id: b, prompt: "' + bad + b'"}\n'
        yield Case(f"encoding bytes {bad.hex()}", lambda d=data: d, "encoding", 4, 22)
    yield Case("encoding utf-32", lambda: (HEAD + ROW).encode("utf-32"), "encoding", 1)
    odd = (HEAD + ROW).encode("utf-16") + b"\x00"
    yield Case("encoding utf-16 odd", lambda: odd, "encoding", 4)
    yield Case(
        "encoding utf-16 without mark",
        lambda: (HEAD + ROW).encode("utf-16-le"),
        "control-character",
        1,
        2,
    )
    for code in (
        0x00,
        0x01,
        0x07,
        0x08,
        0x0B,
        0x0C,
        0x1B,
        0x7F,
        0x85,
        0x9B,
        0x2028,
        0x2029,
        0xFEFF,
    ):
        text = f'{HEAD}{ROW}  - {{id: b, prompt: "a{chr(code)}b"}}\n'
        yield _text(f"control {code:04x}", text, "control-character", 4, 23)
    for code in (0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069):
        text = f'{HEAD}{ROW}  - {{id: b, prompt: "a{chr(code)}b"}}\n'
        yield _text(f"bidi {code:04x}", text, "control-character", 4, 23)
    for escape in ("\\0", "\\e", "\\x1b", "\\u202e", "\\u2066", "\\a", "\\N", "\\P"):
        yield _row(
            f"escaped control {escape[1:]}", f'id: b, prompt: §"a{escape}b"', "control-character"
        )


def _structure() -> Iterator[Case]:
    for name, text in (("nothing", ""), ("comment", "# only a comment\n"), ("marker", "---\n")):
        slug = "bad-value" if name == "marker" else "empty"
        yield _text(f"structure {name}", text, slug, 2 if name == "marker" else 1)
    for name, text in (
        ("text", "hello"),
        ("list", "- a\n- b\n"),
        ("number", "42\n"),
        ("null", "~\n"),
    ):
        yield _text(f"structure top {name}", text, "bad-value", 1, 1)
    yield _text("structure no jobs", "version: 1\n", "missing-key", 1)
    yield _text("structure job for jobs", f"version: 1\njob:\n{ROW}", "unknown-key", 2, 1)
    yield _text("structure no version", f"jobs:\n{ROW}", "missing-key", 1, 1)
    for value in ("2", "0", '"1"', "one", "1.0", "true", "[1]"):
        yield _text(
            f"structure version {value}", f"version: {value}\njobs:\n{ROW}", "bad-value", 1, 10
        )
    yield _text("structure version empty", f"version:\njobs:\n{ROW}", "bad-value", 1)
    for name, value in (
        ("empty", "[]"),
        ("null", ""),
        ("text", "pig"),
        ("map", "{a: 1}"),
        ("number", "3"),
    ):
        yield _text(f"structure jobs {name}", f"version: 1\njobs: {value}\n", "no-jobs", 2)
    for name, value in (("text", "pig"), ("null", "~"), ("number", "7"), ("list", "[a]")):
        yield _text(f"structure job {name}", f"{HEAD}{ROW}  - {value}\n", "bad-value", 4, 5)
    yield _text(
        "structure defaults list", f"version: 1\ndefaults: [a]\njobs:\n{ROW}", "bad-value", 2, 11
    )
    yield _text(
        "structure defaults null", f"version: 1\ndefaults:\njobs:\n{ROW}", "missing-value", 2
    )
    yield _text(
        "structure tokens list", f"version: 1\ntokens: [a]\njobs:\n{ROW}", "bad-value", 2, 9
    )
    yield _text("structure vars text", f"version: 1\nvars: a\njobs:\n{ROW}", "bad-value", 2, 7)
    yield _text(
        "structure vars list value",
        f"version: 1\nvars: {{a: [b]}}\njobs:\n{ROW}",
        "bad-value",
        2,
        11,
    )


def _keys() -> Iterator[Case]:
    top = (
        "bases",
        "default",
        "token",
        "seed",
        "steps",
        "prompt",
        "Version",
        "init_image",
        "output",
        "include",
    )
    for key in top:
        yield _text(f"top key {key}", f"version: 1\n{key}: 1\njobs:\n{ROW}", "unknown-key", 2, 1)
    inside = (
        "promt",
        "Prompt",
        "stpes",
        "step",
        "seeds_",
        "cfg",
        "guidance_scale",
        "sampler",
        "width",
        "n",
        "image",
        "denoise",
        "lora",
        "output",
        "template",
        "version",
        "tokens",
        "defaults",
        "jobs",
        "name",
    )
    for key in inside:
        yield _row(f"job key {key}", f"id: b, prompt: x, §{key}: 1", "unknown-key")
    for key in ("prompt", "id", "seeds", "matrix", "stpes", "tags"):
        text = f"version: 1\ndefaults: {{steps: 4, {key}: 1}}\njobs:\n{ROW}"
        yield _text(f"default key {key}", text, "unknown-key", 2, 22)
    yield _row("job without prompt", "^id: b", "missing-key")
    yield _text("duplicate top", f"version: 1\nversion: 1\njobs:\n{ROW}", "duplicate-key", 2, 1)
    yield _row("duplicate in job", "id: b, prompt: x, §id: c", "duplicate-key")
    yield _row(
        "duplicate in matrix", "id: b, prompt: '{a}', matrix: {a: [x], §a: [y]}", "duplicate-key"
    )
    yield _row("duplicate quoted", "id: b, prompt: x, §'prompt': y", "duplicate-key")
    yield _text("duplicate then syntax", "version: 1\nversion: 1\njobs: [\n", "duplicate-key", 2, 1)
    yield _text(
        "base twice",
        f"version: 1\nbase: bestiary\ndefaults: {{base: bestiary}}\njobs:\n{ROW}",
        "conflict",
        3,
    )


def _values() -> Iterator[Case]:
    wrong: dict[str, tuple[str, ...]] = {
        "steps": (
            "0",
            "1001",
            "-4",
            "8.5",
            "1e3",
            "0123",
            "08",
            "'8'",
            "eight",
            "true",
            "[8]",
            "{a: 1}",
            "0x10",
            "1_000",
            "16:9",
            "99999999999999999999999",
            ".inf",
            "2026-02-03",
            "0o17",
            "8 8",
        ),
        "count": ("0", "10001", "-1", "2.0", "many", "012", "'2'", "no"),
        "seed": ("-1", "1.5", "9223372036854775808", "abc", "'7'", "0x7", "on", "1e2"),
        "guidance": (
            "-0.1",
            "50.5",
            "high",
            ".nan",
            ".inf",
            "-.inf",
            "'4'",
            "true",
            "04.5x",
            "[4]",
            "1e400",
            "007",
        ),
        "size": (
            "64x",
            "x64",
            "64X64",
            "64 x 64",
            "0",
            "7",
            "5000",
            "064x064",
            "64.0",
            "big",
            "64x64x3",
            "[64, 64]",
            "true",
            "1e3",
            "-64",
            "64*64",
        ),
        "dtype": ("float32", "fp8", "FP32", "16", "true", "[fp32]"),
        "scheduler": ("7", "true", "[euler]", "{a: b}"),
        "base": ("7", "false", "[bestiary]"),
        "negative": ("7", "true", "[a]", "{a: b}"),
        "init_image": ("7", "true", "[a.png]", "{a: b}", "''"),
        "strength": ("0", "1.01", "-0.5", "half", "'0.5'", "true", "[0.5]", ".nan"),
    }
    for key, values in wrong.items():
        for value in values:
            fields = f"id: b, prompt: x, {key}: §{value}"
            yield _row(f"value {key} {value}", fields, "bad-value")
    for key in (
        *("steps", "count", "seed", "guidance", "size", "dtype", "scheduler", "base", "strength"),
        "id",
    ):
        rest = "prompt: x" if key == "id" else "id: b, prompt: x"
        yield _row(f"null {key}", f"{rest}, {key}: ~", "missing-value")
        yield _text(
            f"empty default {key}",
            f"version: 1\ndefaults:\n  {key}:\njobs:\n{ROW}",
            "unknown-key" if key == "id" else "missing-value",
            3,
        )
    for value in ("", "~", "null"):
        yield _row(f"prompt null {value}", f"id: b, prompt: {value}", "missing-value")
    for value in ("7", "true", "1.5", "[a, b]", "{animal}", "''", "'   '"):
        yield _row(f"prompt {value}", f"id: b, prompt: §{value}", "bad-value")
    for value in ("true", "[a]", "''", "' a'", "'a '", '"a\\nb"', "'" + "x" * 201 + "'"):
        yield _row(f"id {value[:8]}", f"prompt: x, id: {value}", "bad-value")
    for value in ("~", "a", "[]", "[a]", "[1, -1]", "[1.5]", "{a: 1}", "[[1]]", "7", "[true]"):
        slug = "missing-value" if value == "~" else "bad-value"
        yield _row(f"seeds {value}", f"id: b, prompt: x, seeds: {value}", slug)
    for value in ("a", "[[a]]", "[~]", "{a: 1}"):
        slug = "missing-value" if value == "[~]" else "bad-value"
        yield _row(f"tags {value}", f"id: b, prompt: x, tags: {value}", slug)
    yield _row("prompt too long", f"id: b, prompt: §'{'x' * 4001}'", "bad-value")


def _variables() -> Iterator[Case]:
    for text in (
        "a {b",
        "a b}",
        "{}",
        "{a b}",
        "{a.b}",
        "{a[0]}",
        "{a!r}",
        "{a:04d}",
        "{{a}",
        "{1a}",
        "{ä}",
        "{a}}",
    ):
        fields = f"id: b, prompt: §'{text}', matrix: {{a: [x]}}"
        yield _row(f"braces {text}", fields, "bad-template")
        yield _row(
            f"negative braces {text}", f"id: b, prompt: x, negative: §'{text}'", "bad-template"
        )
    yield _row(
        "unknown variable",
        "id: b, prompt: §'a {animl}', matrix: {animal: [pig]}",
        "unknown-variable",
    )
    yield _row("no variables", "id: b, prompt: §'a {animal}'", "unknown-variable")
    yield _row("unknown in negative", "id: b, prompt: x, negative: §'{y}'", "unknown-variable")
    text = f"version: 1\ndefaults: {{negative: '{{y}}'}}\njobs:\n{ROW}"
    yield _text("unknown in default negative", text, "unknown-variable", 2, 22)
    yield _row("unused matrix", "id: b, prompt: x, matrix: {§a: [x]}", "unused-variable")
    yield _row("unused zip", "id: b, prompt: x, zip: {§a: [x]}", "unused-variable")
    yield _row("unused vars", "id: b, prompt: x, vars: {§a: x}", "unused-variable")
    yield _row("unused include", "id: b, prompt: '{a}', include: [{a: x, c: y}]", "unused-variable")
    for name in ("1a", "a b", "a-b", "ä", "'{a}'", "'a.b'", "x" * 65):
        yield _row(f"bad name {name[:6]}", f"id: b, prompt: x, matrix: {{§{name}: [x]}}", "bad-key")
    for value in ("[[a]]", "[{a: 1}]", "[~]", "a", "[]", "{b: c}", "7"):
        slug = "missing-value" if value == "[~]" else "bad-value"
        yield _row(f"matrix value {value}", f"id: b, prompt: '{{a}}', matrix: {{a: {value}}}", slug)
    for key in ("matrix", "zip", "include", "exclude", "vars"):
        yield _row(f"{key} null", f"id: b, prompt: '{{a}}', {key}: ~", "missing-value")
        yield _row(f"{key} text", f"id: b, prompt: '{{a}}', {key}: a", "bad-value")


def _combinations() -> Iterator[Case]:
    yield _row("zip lengths", "id: b, prompt: '{a} {c}', §zip: {a: [x], c: [y, z]}", "zip-length")
    yield _row(
        "matrix and zip", "id: b, prompt: '{a}', matrix: {a: [x]}, zip: {§a: [y]}", "conflict"
    )
    yield _row(
        "matrix and vars", "id: b, prompt: '{a}', matrix: {a: [x]}, vars: {§a: y}", "conflict"
    )
    yield _row(
        "exclude name",
        "id: b, prompt: '{a}', matrix: {a: [x]}, exclude: [{b: x}]",
        "unknown-variable",
    )
    yield _row(
        "exclude value",
        "id: b, prompt: '{a}', matrix: {a: [pig]}, exclude: [{a: pg}]",
        "unknown-value",
    )
    yield _row("exclude without matrix", "id: b, prompt: x, exclude: [{b: x}]", "unknown-variable")
    yield _row(
        "exclude all", "id: b, prompt: '{a}', matrix: {a: [x]}, exclude: [{a: x}]", "empty-job"
    )
    yield _row("include missing", "id: b, prompt: '{a} {c}', include: [{a: x}]", "unknown-variable")
    yield _row("include empty", "id: b, prompt: '{a}', include: [{}]", "bad-value")
    yield _row("seeds and seed", "id: b, prompt: x, seeds: [1], §seed: 2", "conflict")
    yield _row("seeds and count", "id: b, prompt: x, seeds: [1], §count: 2", "conflict")
    yield _row("seeds twice", "id: b, prompt: x, seeds: §[1, 2, 1]", "duplicate-seed")
    yield _row("same id", "id: §a, prompt: x", "duplicate-id")
    yield _row("same matrix value", "^id: b, prompt: '{a}', matrix: {a: [x, x]}", "duplicate-job")
    yield _row(
        "too many",
        "^id: b, prompt: '{a} {c}', count: 10000, matrix: {a: [1, 2, 3, 4, 5], c: [1, 2, 3, 4, 5]}",
        "too-many-jobs",
    )
    yield _text(
        "same row",
        f'{HEAD}  - {{prompt: "a pig"}}\n  - {{prompt: "a pig"}}\n',
        "duplicate-job",
        4,
        5,
    )


def _tokens_and_names() -> Iterator[Case]:
    yield _row("undeclared token", "id: b, prompt: §'a <hydra>'", "unknown-token")
    yield _row("undeclared in negative", "id: b, prompt: x, negative: §'<hydra>'", "unknown-token")
    head = "version: 1\ntokens: {<hydra>: h.safetensors}\njobs:\n"
    text = f"{head}{ROW}  - {{id: b, prompt: §'a <hydro>'}}\n"
    yield _text("token typo", text, "unknown-token", 5)
    yield _row("token in value", "id: b, prompt: §'a {w}', matrix: {w: [<hydra>]}", "unknown-token")
    for word in ("<Hydra>", "<a b>", "<>", "<a", "a>", "<a.b>", "ä", "-a", "<" + "x" * 65 + ">"):
        text = f"version: 1\ntokens: {{'{word}': f}}\njobs:\n{ROW}"
        yield _text(f"token word {word[:6]}", text, "bad-key", 2, 10)
    for value in ("7", "[a]", "''", "true"):
        text = f"version: 1\ntokens: {{<a>: {value}}}\njobs:\n{ROW}"
        yield _text(f"token file {value}", text, "bad-value", 2, 15)
    mixes = {
        "nothing": ("{fuse: §}", "bad-value"),
        "text": ("{fuse: §pig}", "bad-value"),
        "list": ("{fuse: §[pig, owl]}", "bad-value"),
        "no concept": ("{fuse: §{}}", "bad-value"),
        "all zero": ("{fuse: §{pig: 0, owl: 0.0}}", "bad-value"),
        "too many": (f"{{fuse: §{{{', '.join(f'a{n}: 1' for n in range(61))}}}}}", "bad-value"),
        "negative": ("{fuse: {pig: 0.5, owl: §-1}}", "bad-value"),
        "nan": ("{fuse: {pig: §.nan}}", "bad-value"),
        "infinite": ("{fuse: {pig: §1e999}}", "bad-value"),
        "quoted": ("{fuse: {pig: §'0.5'}}", "bad-value"),
        "truth": ("{fuse: {pig: §true}}", "bad-value"),
        "no weight": ("{fuse: {pig: 1, owl: §}}", "bad-value"),
        "nested": ("{fuse: {pig: §{owl: 1}}}", "bad-value"),
        "percent": ("{fuse: {pig: §55%}}", "bad-value"),
        "case": ("{fuse: {pig: 1, §Pig: 2}}", "duplicate-key"),
        "twice": ("{fuse: {pig: 1, §pig: 2}}", "duplicate-key"),
        "braces": ("{fuse: {§'{pig}': 1}}", "bad-key"),
        "equals": ("{fuse: {§pig=: 1}}", "bad-key"),
        "comma": ("{fuse: {§'pig, owl': 1}}", "bad-key"),
        "token word": ("{fuse: {§<Hydra>: 1}}", "bad-key"),
        "open token": ("{fuse: {§<hydra: 1}}", "bad-key"),
        "invisible": ("{fuse: {§'p\u200dig': 1}}", "bad-key"),
        "long": (f"{{fuse: {{§{'x' * 101}: 1}}}}", "bad-key"),
        "near key": ("{§fues: {pig: 1}}", "unknown-key"),
        "other key": ("{fuse: {pig: 1}, §steps: 4}", "unknown-key"),
        "no key": ("§{}", "missing-key"),
    }
    for name, (mix, slug) in mixes.items():
        text = f"version: 1\ntokens:\n  fox: f\n  chimera: {mix}\njobs:\n{ROW}"
        yield _text(f"token mix {name}", text, slug, 4)
    bad = (
        "{jbo}",
        "{job:04d}",
        "{index:d}",
        "{index:99d}",
        "{key8!r}",
        "{",
        "}",
        "{job.x}",
        "{prompt}",
        "{animal}",
    )
    for template in bad:
        text = f"version: 1\nname: '{template}'\njobs:\n{ROW}"
        yield _text(f"name template {template}", text, "bad-template", 2, 7)
    unsafe = (
        "/{key8}",
        "../{key8}",
        "a/../{key8}",
        "./{key8}",
        "{job}//{key8}",
        "{key8}/",
        "~/{key8}",
        "-{key8}",
        "C:{key8}",
        "C:\\{key8}",
        "\\\\host\\{key8}",
        ".{key8}",
        "con/{key8}",
        "{job}/NUL.{key8}",
        "{key8}.",
        "{key8} ",
        " {key8}",
        "a|{key8}",
        "a<{key8}",
        "a?{key8}",
        "a:{key8}",
        "contact-sheet-{key8}",
        "manifest.{key8}",
        "{job}/" + "x" * 121,
        ("y" * 100 + "/") * 2 + "{key8}",
        "e\u0301{key8}",
    )
    for template in unsafe:
        text = f"version: 1\nname: '{template}'\njobs:\n{ROW}"
        yield _text(f"name unsafe {template[:20]}", text, "unsafe-name", 2, 7)
    yield _text(
        "name same",
        f"version: 1\nname: x/{{index}}\njobs:\n{ROW}  - {{id: b, prompt: y}}\n",
        "duplicate-name",
        5,
        5,
    )
    yield _text(
        "name same by case",
        "version: 1\nname: '{job}'\njobs:\n  - {id: Pig, prompt: x}\n  - {id: pig, prompt: y}\n",
        "duplicate-name",
        5,
        5,
    )
    yield _text(
        "name file and folder",
        "version: 1\nname: '{job}'\njobs:\n  - {id: a, prompt: x}\n  - {id: b, prompt: '{v}', "
        "matrix: {v: [1, 2]}}\n",
        "duplicate-name",
        5,
    )
    for device in ("con", "NUL", "aux", "COM1", "lpt9", "Prn"):
        yield _row(f"id {device}", f"^id: {device}, prompt: x", "unsafe-name")


def _pictures() -> Iterator[Case]:
    yield _row(
        "cannot start", "id: b, prompt: x, init_image: §a.png, strength: 0.5", "cannot-start"
    )
    yield _text(
        "cannot start by default",
        f"version: 1\ndefaults: {{init_image: §a.png}}\njobs:\n{ROW}{ROW.replace('a,', 'b,')}",
        "cannot-start",
        2,
    )
    yield _row("strength of nothing", "id: b, prompt: x, §strength: 0.5", "conflict")
    yield _row("strength of none", "id: b, prompt: x, init_image: ~, §strength: 0.5", "conflict")
    text = f"version: 1\ndefaults: {{§strength: 0.5}}\njobs:\n{ROW}"
    yield _text("strength of no job", text, "conflict", 2)
    yield _row("picture braces", "id: b, prompt: x, init_image: §'{a.png'", "bad-template")
    yield _row("picture variable", "id: b, prompt: x, init_image: §'{a}.png'", "unknown-variable")
    text = f"version: 1\ndefaults: {{init_image: §'{{y}}.png'}}\njobs:\n{ROW}"
    yield _text("picture variable by default", text, "unknown-variable", 2)


def _loras() -> Iterator[Case]:
    many = ", ".join(f"{{path: {n}.safetensors}}" for n in range(17))
    lists = {
        "nothing": ("§~", "missing-value"),
        "path alone": ("§a.safetensors", "bad-value"),
        "mapping": ("§{path: a}", "bad-value"),
        "text inside": ("[§a.safetensors]", "bad-value"),
        "no path": ("[§{scale: 1}]", "missing-key"),
        "empty path": ("[{path: §''}]", "bad-value"),
        "number as path": ("[{path: §7}]", "bad-value"),
        "path too long": (f"[{{path: §{'x' * 1001}}}]", "bad-value"),
        "NUL in path": ('[{path: §"a\\0b"}]', "control-character"),
        "nan": ("[{path: a, scale: §.nan}]", "bad-value"),
        "infinite": ("[{path: a, scale: §1e999}]", "bad-value"),
        "too strong": ("[{path: a, scale: §4.01}]", "bad-value"),
        "too weak": ("[{path: a, scale: §-5}]", "bad-value"),
        "quoted scale": ("[{path: a, scale: §'1'}]", "bad-value"),
        "no scale": ("[{path: a, scale: §}]", "missing-value"),
        "true": ("[{path: a, scale: §true}]", "bad-value"),
        "unknown key": ("[{path: a, §weight: 1}]", "unknown-key"),
        "too many": (f"§[{many}]", "bad-value"),
        "twice": ("[{path: a}, {path: §a, scale: 2}]", "conflict"),
        "second": ("[{path: a}, {path: b, §scael: 2}]", "unknown-key"),
    }
    for name, (value, slug) in lists.items():
        yield _text(f"loras {name}", f"version: 1\nloras: {value}\njobs:\n{ROW}", slug, 2)
        yield _row(f"job loras {name}", f"id: b, prompt: x, loras: {value}", slug)
    yield _text(
        "default loras",
        f"version: 1\ndefaults: {{§loras: [{{path: a}}]}}\njobs:\n{ROW}",
        "unknown-key",
        2,
    )


def _meaning() -> Iterator[Case]:
    yield _row("unknown base", "id: b, prompt: x, base: §bestiery", "unknown-base")
    text = f"version: 1\nbase: bestary\njobs:\n{ROW}"
    yield _text("unknown top base", text, "unknown-base", 2, 7)
    yield _row("unknown scheduler", "id: b, prompt: x, scheduler: §euller", "unknown-scheduler")
    text = f"version: 1\ndefaults: {{scheduler: ddim}}\njobs:\n{ROW}"
    yield _text("unknown default scheduler", text, "unknown-scheduler", 2, 23)
    for size in ("60", "64x63", "12x64"):
        yield _row(f"size multiple {size}", f"id: b, prompt: x, size: §{size}", "bad-size")
    yield _row(
        "prompt grows too long",
        f"id: b, prompt: §'{'{a}' * 30}', vars: {{a: {'x' * 200}}}",
        "too-long",
    )


def _csv() -> Iterator[Case]:
    def case(name: str, text: str, slug: str, line: int, column: int | None = None) -> Case:
        return _text(f"csv {name}", text, slug, line, column, ".csv")

    yield case("nothing", "", "empty", 1)
    yield case("blank lines", "\n\n\n", "empty", 1)
    yield case("no rows", "id,prompt\n", "no-jobs", 1)
    yield case("no prompt column", "id,text\na,b\n", "missing-key", 1)
    yield case("semicolons", "id;prompt\na;b\n", "csv-syntax", 1)
    yield case("tabs", "id\tprompt\na\tb\n", "csv-syntax", 1)
    yield case("same column", "id,prompt,id\na,b,c\n", "duplicate-key", 1)
    yield case("nameless column", "id,,prompt\na,b,c\n", "bad-key", 1)
    yield case("long record", "id,prompt\na,b\nc,d,e\n", "ragged-row", 3)
    yield case("short record", "id,prompt,steps\na,b\n", "ragged-row", 2)
    yield case("open quote", 'id,prompt\na,"b\nc,d\n', "csv-syntax", 3)
    yield case("text after quote", 'id,prompt\na,"b"c\n', "csv-syntax", 2)
    yield case("unknown column", "id,prompt,stpes\na,b,4\n", "unknown-key", 1, 11)
    yield case("nested column", "id,prompt,matrix\na,b,c\n", "unknown-key", 1)
    yield case("lora column", "id,prompt,loras\na,b,c\n", "unknown-key", 1)
    yield case("bad column name", "id,prompt,my col\na,b,c\n", "bad-key", 1, 11)
    for value in ("x", "0", "1001", "8.5", "08"):
        yield case(f"steps {value}", f"id,prompt,steps\na,b,4\nc,d,{value}\n", "bad-value", 3, 5)
    yield case("size", 'prompt,size\n"a, b",63y\n', "bad-value", 2, 8)
    yield case("quoted lines", 'prompt,steps\n"a\nb",x\n', "bad-value", 3, 4)
    yield case("missing prompt", "id,prompt\na,b\nc,\n", "missing-key", 3)
    yield case("seeds", "id,prompt,seeds\na,b,1 x\n", "bad-value", 2, 5)
    yield case("unknown variable", "id,prompt,animal\na,a {animl},pig\n", "unknown-variable", 2, 3)
    yield case("token", "id,prompt\na,a <hydra>\n", "unknown-token", 2, 3)
    yield case("control", "id,prompt\na,b\x1b\n", "control-character", 2, 4)
    yield Case(
        "csv latin", lambda: "id,prompt\na,caf\xe9\n".encode("latin-1"), "encoding", 2, 6, ".csv"
    )
    yield case("same id", "id,prompt\na,b\na,c\n", "duplicate-id", 3, 1)
    yield case("same row", "prompt\na\na\n", "duplicate-job", 3)
    yield case("base", "prompt,base\na,nope\n", "unknown-base", 2, 3)


def _jsonl() -> Iterator[Case]:
    good = '{"id": "a", "prompt": "x"}\n'

    def case(name: str, line: str, slug: str, column: int | None = None) -> Case:
        return _text(f"jsonl {name}", f"{good}{line}\n", slug, 2, column, ".jsonl")

    yield _text("jsonl nothing", "", "no-jobs", 1, None, ".jsonl")
    yield case("text", "hello", "json-syntax", 1)
    yield case("list", "[1]", "bad-value", 1)
    yield case("number", "7", "bad-value", 1)
    yield case("null", "null", "bad-value", 1)
    yield case("cut", '{"id": "b", "prompt": ', "json-syntax", 23)
    yield case("single quotes", "{'id': 'b'}", "json-syntax", 2)
    yield case("trailing comma", '{"id": "b", "prompt": "y",}', "json-syntax")
    yield case("two objects", '{"id": "b", "prompt": "y"} {}', "json-syntax", 28)
    yield case("nan", '{"id": "b", "prompt": "y", "guidance": NaN}', "json-syntax", 40)
    yield case("infinity", '{"id": "b", "prompt": "y", "guidance": -Infinity}', "json-syntax", 40)
    yield case("same key", '{"id": "b", "prompt": "y", "id": "c"}', "duplicate-key", 28)
    yield case("no prompt", '{"id": "b"}', "missing-key", 1)
    yield case("unknown key", '{"id": "b", "prompt": "y", "stpes": 4}', "unknown-key", 28)
    yield case("steps text", '{"id": "b", "prompt": "y", "steps": "4"}', "bad-value", 37)
    yield case("steps float", '{"id": "b", "prompt": "y", "steps": 4.5}', "bad-value", 37)
    yield case(
        "steps huge", json.dumps({"id": "b", "prompt": "y", "steps": 10**60}), "bad-value", 37
    )
    yield case("prompt number", '{"id": "b", "prompt": 7}', "bad-value", 23)
    yield case("prompt object", '{"id": "b", "prompt": {"a": 1}}', "bad-value", 23)
    yield case("surrogate", '{"id": "b", "prompt": "\\ud800"}', "control-character")
    yield case("control", '{"id": "b", "prompt": "a\\u0000"}', "control-character", 23)
    yield case("variable list", '{"id": "b", "prompt": "{a}", "a": [1]}', "bad-value", 35)
    yield case("vars list", '{"id": "b", "prompt": "{a}", "vars": [1]}', "bad-value", 38)
    yield case("same id", '{"id": "a", "prompt": "y"}', "duplicate-id", 8)
    yield case("nested", '{"id": "b", "prompt": ' + "[" * 70 + "]" * 70 + "}", "too-deep", 86)


def _hostile() -> Iterator[Case]:
    def bomb(width: int, depth: int) -> bytes:
        lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
        lines += [
            f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * width) + "]" for i in range(1, depth)
        ]
        return "\n".join(lines).encode()

    def map_bomb() -> bytes:
        lines = ["a0: &a0 {k: v}"]
        lines += [f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}, r: *a{i - 1}}}" for i in range(1, 30)]
        return "\n".join(lines).encode()

    def quadratic() -> bytes:
        body = "".join("  - *a\n" for _ in range(3000))
        return ("a: &a [" + ",".join(["x"] * 3000) + "]\nb:\n" + body).encode()

    def slow_bomb() -> bytes:
        body = "".join("  - *a\n" for _ in range(600))
        return ("a: &a [" + ",".join(["x"] * 400) + "]\nb:\n" + body).encode()

    yield Case("bomb 9 to the 9", lambda: bomb(9, 10), "alias-bomb", 7)
    yield Case("bomb 100 to the 5", lambda: bomb(100, 6), "alias-bomb", 3)
    yield Case("bomb of maps", map_bomb, "alias-bomb", 13)
    yield Case("bomb quadratic", quadratic, "alias-bomb", 335)
    yield Case("bomb over ten times", slow_bomb, "alias-bomb", 1)
    for name, text in (
        ("flow lists", "[" * 300_000),
        ("flow maps", "{a: " * 300_000),
        ("closed flow", "[" * 30_000 + "]" * 30_000),
        ("dashes", "- " * 300_000),
        ("question marks", "? " * 300_000),
        ("mixed", "[{a: " * 150_000),
    ):
        yield Case(
            f"nesting {name}",
            lambda t=text: t.encode(),
            "bad-key" if name == "question marks" else "too-deep",
            1,
        )
    deep = "a: " + "[" * 64 + "]" * 64
    yield _text("nesting 65 levels", deep, "too-deep", 1)
    stairs = "".join("  " * i + f"k{i}:\n" for i in range(80))
    yield _text("nesting block maps", stairs, "too-deep", 65)
    yield Case("scalar 10 MB", lambda: b"version: 1\nbase: " + b"x" * 10_000_000, "too-long", 2)
    yield Case(
        "quoted 10 MB", lambda: b'version: 1\nbase: "' + b"x" * 10_000_000 + b'"', "too-long", 2
    )
    yield Case(
        "block 10 MB", lambda: b"version: 1\nbase: |\n" + b"  xxxxxxx\n" * 1_000_000, "too-long", 2
    )
    yield Case("key 10 MB", lambda: b"? " + b"x" * 10_000_000 + b"\n: 1\n", "bad-key", 1)
    yield Case(
        "million keys",
        lambda: b"".join(b"k%d: 1\n" % i for i in range(1_000_000)),
        "too-many-keys",
        10_001,
    )
    yield Case("million values", lambda: b"jobs: [" + b"1," * 1_000_000 + b"]", "too-many-nodes", 1)
    yield Case(
        "many bad jobs", lambda: b"version: 1\njobs: [" + b"1," * 100_000 + b"]", "bad-value", 2
    )
    yield Case("65 MiB", lambda: b"# " + b"x" * (65 * 1024 * 1024), "file-too-big", 1)
    yield Case("30 MB comment", lambda: b"# xxxxxx\n" * 3_000_000, "empty", 1)
    yield Case(
        "many tag directives",
        lambda: b"".join(b"%%TAG !a%d! x\n" % i for i in range(100_000)),
        "directive",
        1,
    )
    yield Case("late directives", lambda: b"a\n...\n" + b"%TAG !a! x\n" * 100_000, "directive", 3)
    yield Case(
        "many anchors",
        lambda: b"[" + b"".join(b"&a%d x," % i for i in range(50_000)) + b"]",
        "bad-value",
        1,
    )
    yield Case("many bad names", _many_bad_names, "unknown-variable", 3)
    yield Case(
        "many counts",
        lambda: b"version: 1\ndefaults: {count: 10000}\njobs:\n" + b"  - {prompt: a}\n" * 3_000,
        "too-many-jobs",
        24,
    )
    keys = b", ".join(b"stepp%d: 1" % i for i in range(9_000))
    row = b"version: 1\njobs:\n  - {prompt: a, " + keys + b"}\n"
    yield Case("many unknown keys", lambda: row, "unknown-key", 3, 17)
    yield Case("many exclusions", _many_exclusions, "too-many-jobs", 3)
    yield Case(
        "many duplicates",
        lambda: b"version: 1\njobs:\n" + b"  - {prompt: a}\n" * 5_000,
        "duplicate-job",
        4,
    )
    yield Case(
        "csv one line", lambda: b"prompt\n" + b"," * 5_000_000, "too-many-nodes", 1, None, ".csv"
    )
    yield Case(
        "csv newlines", lambda: b"prompt\n" + b"\n" * 10_000_000, "too-many-rows", 1, None, ".csv"
    )
    yield Case(
        "csv open quote 10 MB",
        lambda: b'prompt\n"' + b"x" * 10_000_000,
        "csv-syntax",
        2,
        None,
        ".csv",
    )
    yield Case("csv columns", lambda: b"prompt" + b",c" * 100_000, "too-many-keys", 1, None, ".csv")
    nested = b'{"prompt": ' + b"[" * 300_000 + b"]" * 300_000 + b"}"
    yield Case("jsonl nesting", lambda: nested, "too-deep", 1, None, ".jsonl")
    yield Case(
        "jsonl long line",
        lambda: b'{"prompt": "' + b"x" * 2_000_000 + b'"}',
        "too-long",
        1,
        None,
        ".jsonl",
    )
    yield Case(
        "jsonl commas", lambda: b'{"a": [' + b"1," * 5_000_000, "too-many-nodes", 1, None, ".jsonl"
    )
    yield Case("jsonl lines", lambda: b"{}\n" * 1_100_000, "too-many-rows", 1, None, ".jsonl")
    yield Case(
        "jsonl digits",
        lambda: b'{"prompt": "x", "steps": ' + b"9" * 100_000 + b"}",
        "bad-value",
        1,
        26,
        ".jsonl",
    )


def _many_bad_names() -> bytes:
    names = ", ".join(f"abcdefgh_ijklmnop_{i:05d}: [x]" for i in range(60))
    row = f'  - {{prompt: "{{abcdefgh_ijklmnop_xxxxx}}", matrix: {{{names}}}}}\n'
    return ("version: 1\njobs:\n" + row * 50).encode()


def _many_exclusions() -> bytes:
    names = [f"v{i}" for i in range(12)]
    prompt = " ".join(f"{{{name}}}" for name in names)
    matrix = ", ".join(f"{name}: [0, 1]" for name in names)
    sets = ("".join(f"v{i}: 0, " for i in range(12) if mask >> i & 1) for mask in range(1, 1_000))
    exclude = ", ".join(f"{{{members}}}" for members in sets)
    pads = "count: 1, matrix: {pad: [" + ", ".join(map(str, range(40))) + "], " + matrix + "}"
    row = f'  - {{prompt: "{{pad}} {prompt}", {pads}, exclude: [{exclude}]}}\n'
    return f"version: 1\njobs:\n{row}".encode()
