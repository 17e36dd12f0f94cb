"""Layers of machine settings, `--set`, and Specs built strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from creatok_cli import config
from creatok_cli.errors import InputError, PresetError, UnknownName


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    steps: int
    rate: float = 0.5
    mode: Literal["linear", "cosine"] = "linear"
    word: str | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    on: bool = False
    path: Path | None = None
    extra: tuple[float, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps: expected at least 1")


def test_home_is_private_or_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREATOK_HOME", str(tmp_path))
    assert config.home() == tmp_path
    monkeypatch.setenv("CREATOK_HOME", "~/x")
    assert config.home() == Path.home() / "x"
    monkeypatch.delenv("CREATOK_HOME")
    assert config.home().name == "creatok"
    assert config.home().is_absolute()


def test_machine_settings_come_in_layers(tmp_path: Path) -> None:
    assert config.machine({}, environment={}, folder=tmp_path) == config.Machine()
    home = config.home()
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        'device = "cuda"\nbatch_size = 2\nprogress = "none"\nout = "~/p"\n'
    )
    (tmp_path / "creatok.toml").write_text('batch_size = 3\nprogress = "plain"\n')
    found = config.machine({}, environment={}, folder=tmp_path)
    assert (found.device, found.batch_size, found.progress, found.out) == (
        "cuda",
        3,
        "plain",
        Path.home() / "p",
    )
    variables = {"CREATOK_PROGRESS": "bar", "CREATOK_BATCH_SIZE": "4", "CREATOK_DEVICE": ""}
    found = config.machine({}, environment=variables, folder=tmp_path)
    assert (found.device, found.batch_size, found.progress) == ("cuda", 4, "bar")
    flags = {"device": "cpu", "batch_size": "auto", "progress": None, "out": Path("x")}
    found = config.machine(flags, environment=variables, folder=tmp_path)
    assert found == config.Machine(device="cpu", batch_size=None, progress="bar", out=Path("x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('devise = "cpu"', 'creatok.toml: unknown setting "devise"; did you mean "device"'),
        ("steps = 4", "creatok.toml: steps decides pixels"),
        ("batch_size = 0", "batch_size: expected auto, probe or a whole number"),
        ("batch_size = true", "batch_size: found True, expected probe or a whole number or none"),
        ("vram = 0", "vram: expected GiB, such as 8, or -2 to keep 2 GiB free"),
        ("vram = nan", "vram: expected GiB"),
        ('vram = "8 GB"', 'vram: found "8 GB", expected a number or none'),
        ('compile = "always"', 'compile: found "always", expected auto or on or off'),
        ('device = "gpu"', "device: expected auto, cpu"),
        ('progress = "loud"', 'progress: found "loud", expected auto or bar or plain or none'),
        ("device = ", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("\ud800", "byte 0 is not UTF-8"),
        ("#" * 1_100_000, "larger than"),
    ],
)
def test_a_wrong_settings_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "creatok.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as caught:
        config.machine({}, environment={}, folder=tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_wrong_variable_or_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'CREATOK_BATCH_SIZE.*found "x"'):
        config.machine({}, environment={"CREATOK_BATCH_SIZE": "x"}, folder=tmp_path)
    with pytest.raises(InputError, match=r"command line.*device: expected"):
        config.machine({"device": "cuda:x"}, environment={}, folder=tmp_path)


def test_sets_are_split_and_machine_settings_are_sent_to_their_flags() -> None:
    assert config.parse_set(["steps=4", "negative=a=b", " size = 64", "seed="]) == {
        "steps": "4", "negative": "a=b", "size": " 64", "seed": ""}  # fmt: skip
    assert config.parse_set([]) == {}
    for item, message in (
        ("steps", "expected KEY=VALUE"),
        ("=4", "expected KEY=VALUE"),
        ("device=cpu", "use --device"),
        ("batch-size=4", "use --batch-size"),
        ("batch_size=4", "use --batch-size"),
    ):
        with pytest.raises(InputError, match=message):
            config.parse_set([item])
    with pytest.raises(InputError, match="--set steps: given twice"):
        config.parse_set(["steps=4", "steps=5"])


GIVEN: dict[str, tuple[Any, Any]] = {
    "steps": ("4", 4), "rate": ("1e-3", 1e-3), "mode": ("cosine", "cosine"), "word": ("none", None),
    "sizes": ("1, 2", (1, 2)), "pair": ([3, "b"], (3, "b")), "on": ("true", True),
    "path": ("x/y", Path("x/y")), "extra": ([1, 2.5], (1.0, 2.5)),
}  # fmt: skip


def test_a_spec_from_texts_and_values() -> None:
    built = config.build_spec(Spec, {key: text for key, (text, _) in GIVEN.items()}, where="x")
    assert {key: getattr(built, key) for key in GIVEN} == {
        key: value for key, (_, value) in GIVEN.items()
    }
    again = config.build_spec(Spec, {key: getattr(built, key) for key in GIVEN}, where="x")
    assert again == built
    assert isinstance(config.build_spec(Spec, {"steps": 1, "rate": 2}, where="x").rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "x"}, 'steps: found "x", expected a whole number'),
        ({"steps": 1.5}, "steps: found 1.5, expected a whole number"),
        ({"steps": True}, "steps: found True, expected a whole number"),
        ({"steps": "012"}, 'steps: found "012"'),
        ({"steps": 1, "rate": "fast"}, 'rate: found "fast", expected a number'),
        ({"steps": 1, "rate": "1.2.3"}, "rate: "),
        ({"steps": 1, "mode": "square"}, 'mode: found "square", expected linear or cosine'),
        ({"steps": 1, "word": 3}, "word: found 3, expected text or none"),
        ({"steps": 1, "sizes": "1,x"}, 'sizes: found "1,x", expected a whole number'),
        ({"steps": 1, "pair": [1]}, "pair: found [1], expected a list of 2"),
        ({"steps": 1, "sizes": 4}, "sizes: found 4, expected a list"),
        ({"steps": 1, "on": "yes"}, 'on: found "yes", expected true or false'),
        ({"steps": 0}, "steps: expected at least 1"),
        ({}, "the setting steps is missing"),
    ],
)
def test_a_wrong_spec_is_a_problem_with_a_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PresetError) as caught:
        config.build_spec(Spec, values, where="learn/x.yaml:4:7")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == ("learn/x.yaml", 4, 7)
    assert message in problem.message
    assert caught.value.code == 2


def test_an_unknown_setting_has_a_nearest_name() -> None:
    with pytest.raises(
        UnknownName, match=r'x\.yaml: unknown setting "stpes"; did you mean "steps"'
    ):
        config.build_spec(Spec, {"stpes": 1}, where="x.yaml")


def test_memory_compiling_and_the_probe_are_the_machines(tmp_path: Path) -> None:
    variables = {
        "CREATOK_VRAM": "-1.5",
        "CREATOK_COMPILE": "off",
        "CREATOK_BATCH_SIZE": "probe",
    }
    found = config.machine({}, environment=variables, folder=tmp_path)
    assert (found.vram, found.compile, found.batch_size) == (-1.5, "off", "probe")
    found = config.machine({"vram": 8.0, "compile": "on"}, environment=variables, folder=tmp_path)
    assert (found.vram, found.compile) == (8.0, "on")
    with pytest.raises(InputError, match="use --vram"):
        config.parse_set(["vram=8"])
