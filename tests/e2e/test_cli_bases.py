"""Every command on every family of bases, on tiny folders: it works, or says why it cannot.

A family joins by its builder in `tests/tiny_bases.py`. What a command makes is looked at elsewhere;
here it counts that it is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from creatok_cli import registry
from creatok_cli.backbones._weights import resolve
from creatok_cli.cli.app import run
from creatok_cli.domain import BaseFacts
from creatok_cli.tokens.library import Library
from tests.e2e.test_cli_learn import squeezed
from tests.fakes.fusing import distok_network, write_network
from tests.tiny import build_tiny_clip
from tests.tiny_bases import TINY

PAIRS = """\
slots: [a, b]
train: [[pig, snake], [owl, fox], [red, owl], [dragon, pig]]
held_out: {test: [[fox, snake]]}
"""
TRAIN = """\
method: distok
classes: few.txt
settings: {steps: 4, samples: 1, hidden: 16, latent: 4, estimate_from: 2, estimate_every: 2,
  estimate: 1, seeds: 1, report_every: 2}
"""


@pytest.fixture(scope="session")
def tiny_labeler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP model that tells what pictures show. Never write into it."""
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=TINY)
def facts(
    request: pytest.FixtureRequest,
    tiny_base: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> BaseFacts:
    """What is known of each family's tiny base, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    return resolve(str(tiny_base(request.param)))


def creatok(facts: BaseFacts, *words: str) -> int:
    return run([*words, "--base", facts.folder, "--device", "cpu"])


def pictures(folder: str) -> list[bytes]:
    """Pixels of the pictures of jobs under a folder, in order."""
    paths = [path for path in sorted(Path(folder).rglob("*.png")) if path.stem[0] != "c"]
    return [Image.open(path).tobytes() for path in paths]


def test_sample_with_every_scheduler(facts: BaseFacts) -> None:
    named = "\n".join(
        f"  - {{id: s{place}, prompt: a red owl, scheduler: {name}}}"
        for place, name in enumerate(facts.schedulers)
    )
    sheet = f"version: 1\ndefaults: {{steps: 3, guidance: 2.0}}\njobs:\n{named}\n"
    Path("x.yaml").write_text(sheet)
    assert creatok(facts, "sample", "x.yaml") == 0
    assert len(set(pictures("out/x"))) == len(facts.schedulers)


def test_sample_from_a_picture(facts: BaseFacts, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((40, 50), 90).convert("RGB").save("start.png")
    Path("x.yaml").write_text(
        "version: 1\ndefaults: {steps: 4, guidance: 2.0}\njobs:\n"
        "  - {id: plain, prompt: a red owl, seeds: [1]}\n"
        "  - {id: begun, prompt: a red owl, seeds: [1], init_image: start.png, strength: 0.5}\n"
    )
    code = creatok(facts, "sample", "x.yaml")
    if not facts.can_start:
        assert code == 2
        assert "init_image" in squeezed(capsys.readouterr().err)
        return
    assert code == 0
    assert len(set(pictures("out/x"))) == 2


def test_learn_token_and_draw_with_it(facts: BaseFacts) -> None:
    Path("few.yaml").write_text(PAIRS)
    words = ["--steps", "2", "--pairs", "few.yaml", "--theta", "rel:0.5", "--name", "odd"]
    assert creatok(facts, "learn-token", *words, "--report", "none") == 0
    learned = Library().find("odd").header.widths
    assert {name: learned[name] for name, _ in facts.encoders} == dict(facts.encoders)
    Path("x.yaml").write_text(
        "version: 1\ndefaults: {steps: 2, guidance: 2.0}\ntokens: {<odd>: odd}\n"
        "jobs:\n  - {id: a, prompt: an <odd> owl}\n  - {id: b, prompt: an odd owl}\n"
    )
    assert creatok(facts, "sample", "x.yaml") == 0
    assert len(set(pictures("out/x"))) == 2


def test_fuse_trains_a_network_first(facts: BaseFacts, tiny_labeler: Path) -> None:
    Path("few.txt").write_text("pig\nsnake\nowl\nfox\ndragon\n")
    Path("tiny.yaml").write_text(TRAIN)
    words = ["pig=.5", "owl=.5", "--train", "--preset", "tiny.yaml", "--render", "1"]
    words += ["--labeler", "clip", "--labeler-folder", str(tiny_labeler), "--name", "chimera"]
    assert creatok(facts, "fuse", *words) == 0
    assert Library().find("chimera").header.recipe["mix"]
    assert len(pictures("out/fuse")) == 3


def test_explore_by_distok(facts: BaseFacts, tiny_labeler: Path, tmp_path: Path) -> None:
    network = write_network(distok_network(facts.folder), tmp_path / "net.safetensors")
    words = ["--count", "2", "--pick", "1", "--network", str(network)]
    words += ["--labeler", "clip", "--labeler-folder", str(tiny_labeler)]
    assert creatok(facts, "explore", "distok", *words) in (0, 3)
    assert list(Path("out").rglob("*.png"))


@pytest.mark.parametrize(
    "words", [["lowprob", "a photo of a pig"], ["conceptlab", "--like", "pig"]], ids=lambda w: w[0]
)
def test_searches_that_need_a_prior_say_so(
    facts: BaseFacts, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sides = registry.describe("backbones", facts.backbone).facts["SIDES"]
    code = creatok(facts, "explore", *words)
    told = squeezed(capsys.readouterr().err)
    if "prior" in sides:
        assert code == 4
        assert "--validator" in told or "--labeler" in told
    else:
        assert code == 2
        assert re.search(rf"{words[0]} needs prior, .*kandinsky22", told)
