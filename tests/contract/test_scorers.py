"""What every scorer of the registry keeps, and that what measures never teaches."""

from __future__ import annotations

import ast
import dataclasses
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from creatok_cli import registry
from creatok_cli.backbones.bestiary import judge as network
from creatok_cli.backbones.bestiary.world import Scene, draw_picture
from creatok_cli.domain import Job, Provenance, Rendered
from creatok_cli.errors import ArtefactError, CreatokError, InputError, PresetError, UnknownName
from creatok_cli.hashing import keyed
from creatok_cli.scorers import clip, judge, labels, novelty
from creatok_cli.scorers._baseline import iter_pictures
from creatok_cli.scorers.base import (
    Labeler,
    Scorer,
    SetScorer,
    build_teacher,
    figures,
    refuse_measures_only,
)
from tests.tiny import build_tiny_blip
from tests.tiny_vlm import build_tiny_llava

NAMES = registry.names("scorers")
SHIPPED = str(Path(network.__file__).parent / "weights")
GIVING = {
    what: [name for name in NAMES if what in registry.describe("scorers", name).facts["GIVES"]]
    for what in ("scores", "sets", "labels")
}
PAIRS = (("pig", "snake"), ("owl", "cactus"), ("zebra", "fish"), ("bee", "carrot"))
ROOT = Path(__file__).resolve().parents[2]


def picture(mixes: Sequence[dict[str, float]], seed: int = 0) -> Image.Image:
    """What the world draws on plain white."""
    return draw_picture(list(mixes), Scene(background="plain"), random.Random(seed))


def rendered(image: Image.Image, parents: Sequence[str], name: str = "") -> Rendered:
    """A result whose labels name its parents."""
    labels = tuple(zip("ab", parents, strict=False))
    job = Job(
        base_digest="sha256:0",
        prompt=f"a photo of a {' '.join(parents)}",
        seed=0,
        size_px=image.size,
        steps=8,
        guidance=4.0,
        scheduler="euler",
        dtype="fp32",
        labels=labels,
        name=name,
    )
    how = Provenance(device="cpu", batch_class=1, batch_effective=1, seconds=0.1)
    return Rendered(job=keyed(job), image=image, provenance=how)


@pytest.fixture(scope="module")
def results() -> list[Rendered]:
    """Hybrids, singles and neighbours, at two sizes: 20 pictures, more than one chunk of most."""
    found = []
    for number, (a, b) in enumerate(PAIRS * 5):
        mixes = [[{a: 0.5, b: 0.5}], [{a: 1.0}], [{a: 1.0}, {b: 1.0}]][number % 3]
        image = picture(mixes, number)
        found.append(rendered(image.resize((96, 80)) if number % 7 == 0 else image, (a, b)))
    return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every scorer, built once, with what it cannot do without."""
    blip = str(build_tiny_blip(tmp_path_factory.mktemp("blip")))
    baseline = tmp_path_factory.mktemp("baseline")
    for number, (a, _) in enumerate(PAIRS):
        picture([{a: 1.0}], 100 + number).save(baseline / f"{a}.png")
    settings: dict[str, dict[str, Any]] = {
        "clip": {"folder": SHIPPED, "text": "a photo of a {a} {b}"},
        "blip": {"folder": blip},
        "novelty": {"folder": SHIPPED, "baseline": str(baseline)},
        "diversity": {"folder": SHIPPED},
        "validity": {"folder": SHIPPED},
        "vlm": {"folder": str(build_tiny_llava(tmp_path_factory.mktemp("vlm")))},
        "labels": {"folder": SHIPPED, "classes": [a for pair in PAIRS for a in pair]},
    }
    made = {}
    for name in NAMES:
        module = registry.get("scorers", name)
        made[name] = module.build(module.Spec(**settings.get(name, {})))
    return made


def test_the_built_in_scorers_are_found() -> None:
    assert set(NAMES) >= {"judge", "clip", "blip", "novelty", "diversity", "labels"}


@pytest.mark.parametrize("name", NAMES)
class TestEveryScorer:
    def test_facts(self, name: str) -> None:
        """Listed without being imported; the Spec is frozen, keyword-only and literal."""
        facts = registry.describe("scorers", name)
        module = registry.get("scorers", name)
        assert facts.line.endswith(".")
        assert not facts.broken
        assert "Does not: " in (module.__doc__ or "")
        spec = module.Spec()
        assert spec.__dataclass_params__.frozen
        assert facts.spec == dataclasses.asdict(spec)
        assert facts.facts["GIVES"] == module.GIVES
        assert set(module.GIVES) <= {"scores", "sets", "labels"}
        assert facts.facts.get("MEASURES_ONLY", False) == getattr(module, "MEASURES_ONLY", False)

    def test_protocols(self, name: str, opened: dict[str, Any]) -> None:
        gives = registry.get("scorers", name).GIVES
        assert isinstance(opened[name], Scorer) == ("scores" in gives)
        assert isinstance(opened[name], SetScorer) == ("sets" in gives)
        assert isinstance(opened[name], Labeler) == ("labels" in gives)

    def test_a_folder_without_weights(self, name: str, tmp_path: Path) -> None:
        module = registry.get("scorers", name)
        more = {"baseline": str(tmp_path)} if "baseline" in module.Spec.__slots__ else {}
        more |= {"classes": ("pig", "owl")} if name == "labels" else {}
        with pytest.raises(ArtefactError, match=str(tmp_path)):
            module.build(module.Spec(folder=str(tmp_path), **more))


@pytest.mark.parametrize("name", GIVING["scores"])
class TestScores:
    def test_they_say_what_they_are(
        self, name: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        scores = opened[name].score(results)
        assert len(scores) == len(results)
        assert len({(score.name, score.unit, score.range, score.better) for score in scores}) == 1
        for score in scores:
            low, high = score.range
            assert score.name
            assert score.unit
            assert math.isfinite(score.value)
            assert low <= score.value <= high
        assert len({score.value for score in scores}) > 10

    def test_figures_begin_with_the_score(
        self, name: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        """All that is known of a picture; each figure once and within its range."""
        found = figures(opened[name], results)
        assert [each[0] for each in found] == opened[name].score(results)
        assert figures(opened[name], results[4:6]) == found[4:6]
        for each in found:
            assert len({score.name for score in each}) == len(each)
            for score in each:
                assert score.range[0] <= score.value <= score.range[1], score

    def test_the_same_again_and_alone(
        self, name: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        """Neither order nor company changes a bit."""
        scores = opened[name].score(results)
        assert opened[name].score(results) == scores
        assert opened[name].score(results[::-1]) == scores[::-1]
        assert opened[name].score(results[3:5]) == scores[3:5]
        assert opened[name].score(results[-1:]) == scores[-1:]

    def test_nothing_gives_nothing(self, name: str, opened: dict[str, Any]) -> None:
        assert opened[name].score([]) == []

    def test_pictures_are_not_touched(
        self, name: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        before = [result.image.tobytes() for result in results]
        opened[name].score(results)
        assert [result.image.tobytes() for result in results] == before


@pytest.mark.parametrize("name", GIVING["sets"])
class TestSets:
    def test_they_say_what_they_are(
        self, name: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        for count in (1, 2, len(results)):
            scores = opened[name].score_set(results[:count])
            assert len({score.name for score in scores}) == len(scores) > 0
            for score in scores:
                assert score.unit
                assert score.range[0] <= score.value <= score.range[1], score

    def test_neither_order_nor_copies_matter(
        self, name: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        scores = [score.value for score in opened[name].score_set(results)]
        again = [score.value for score in opened[name].score_set(results[::-1])]
        assert again == pytest.approx(scores, abs=1e-9)

    def test_nothing_gives_nothing(self, name: str, opened: dict[str, Any]) -> None:
        assert opened[name].score_set([]) == []


@pytest.mark.parametrize("name", GIVING["labels"])
class TestLabels:
    @pytest.fixture
    def classes(self, name: str) -> tuple[str, ...]:
        """What a labeler can choose from."""
        return ("yes", "no") if name in ("validity", "vlm") else ("pig", "snake", "owl", "cactus")

    def test_they_are_probabilities(
        self,
        name: str,
        opened: dict[str, Any],
        results: list[Rendered],
        classes: tuple[str, ...],
    ) -> None:
        labels = opened[name].label([result.image for result in results], classes=classes)
        assert len(labels) == len(results)
        for found in labels:
            assert tuple(word for word, _ in found.probabilities) == classes
            assert all(0 <= value <= 1 for _, value in found.probabilities)
            assert sum(value for _, value in found.probabilities) == pytest.approx(1, abs=1e-6)
        assert len({found.probabilities for found in labels}) > 10

    def test_the_same_again_and_alone(
        self,
        name: str,
        opened: dict[str, Any],
        results: list[Rendered],
        classes: tuple[str, ...],
    ) -> None:
        """Neither order nor company changes a bit."""
        images, look = [result.image for result in results], opened[name].label
        labels = look(images, classes=classes)
        assert look(images, classes=classes) == labels
        assert look(images[::-1], classes=classes) == labels[::-1]
        assert look(images[2:3], classes=classes) == labels[2:3]
        assert look(images[-2:], classes=classes) == labels[-2:]

    def test_nothing_gives_nothing(self, name: str, opened: dict[str, Any]) -> None:
        assert opened[name].label([], classes=["pig"]) == []

    def test_pictures_are_not_touched(
        self,
        name: str,
        opened: dict[str, Any],
        results: list[Rendered],
        classes: tuple[str, ...],
    ) -> None:
        before = [result.image.tobytes() for result in results]
        opened[name].label([result.image for result in results], classes=classes)
        assert [result.image.tobytes() for result in results] == before


class TestMeasuresOnly:
    def test_the_judge_is_refused(self) -> None:
        with pytest.raises(InputError, match="judge only measures") as error:
            build_teacher("judge", {})
        assert error.value.code == 2

    def test_it_is_refused_before_it_is_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "get", pytest.fail)
        with pytest.raises(InputError, match="only measures"):
            build_teacher("judge", {})

    @pytest.mark.parametrize("saying", ["MEASURES_ONLY = True", "MEASURES_ONLY = not False"])
    def test_an_outsider_is_refused(
        self, saying: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also one that does not say it as a literal."""
        (tmp_path / "outside_judge.py").write_text(f'"""Outside."""\n\n{saying}\n')
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(registry, "_outside", lambda group: {"outside": "outside_judge"})
        with pytest.raises(InputError, match="outside only measures"):
            build_teacher("outside", {})
        sys.modules.pop("outside_judge", None)

    def test_a_module_that_says_nothing_may_teach(self) -> None:
        refuse_measures_only(ModuleType("silent"), "silent")

    def test_the_labeler_of_the_base_may_teach(self) -> None:
        teacher = build_teacher("clip", {"folder": SHIPPED, "rows": "8"})
        assert isinstance(teacher, Labeler)

    def test_settings_are_strict(self) -> None:
        with pytest.raises(UnknownName, match="folder"):
            build_teacher("clip", {"foldr": SHIPPED})
        with pytest.raises(PresetError, match="rows"):
            build_teacher("clip", {"folder": SHIPPED, "rows": 0})

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UnknownName, match='did you mean "judge"'):
            build_teacher("juge", {})

    @pytest.mark.parametrize(
        "path",
        sorted((ROOT / "creatok_cli" / "workflows").glob("*.py"))
        + sorted((ROOT / "creatok_cli" / "methods").glob("*.py")),
        ids=lambda path: path.name,
    )
    def test_no_way_around_it(self, path: Path) -> None:
        """Where Feedback is at hand, no scorer comes from the registry or by import."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        uses_feedback = any(
            isinstance(node, ast.Name) and node.id == "Feedback" for node in ast.walk(tree)
        )
        for node in ast.walk(tree) if uses_feedback else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("get") and node.args:
                first = node.args[0]
                assert not (isinstance(first, ast.Constant) and first.value == "scorers"), (
                    f"line {node.lineno}: scorers reach a Feedback through build_teacher only"
                )
            if isinstance(node, ast.Import | ast.ImportFrom):
                origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    folder, _, inside = f"{origin}{alias.name}".partition("scorers.")
                    if folder == "creatok_cli.":
                        assert inside.startswith(("base", "_")), f"line {node.lineno}: {inside}"


class TestJudge:
    def test_hybrids_singles_and_two(self, opened: dict[str, Any]) -> None:
        """The measures tell apart what they are for."""
        means: dict[str, dict[str, float]] = {}
        kinds = {"hybrid": [{"pig": 0.5, "snake": 0.5}], "single": [{"pig": 1.0}]}
        kinds["two"] = [{"pig": 1.0}, {"snake": 1.0}]
        for kind, mixes in kinds.items():
            images = [picture(mixes, seed) for seed in range(12)]
            rows = opened["judge"].measure(images, [("pig", "snake")] * 12)
            means[kind] = {name: sum(row[name] for row in rows) / 12 for name in rows[0]}
        assert means["hybrid"]["presence"] > means["single"]["presence"] + 0.1
        assert means["two"]["presence"] > means["single"]["presence"] + 0.1
        assert means["hybrid"]["one"] > 0.9
        assert means["two"]["one"] < 0.1
        assert means["hybrid"]["fusion"] > means["two"]["fusion"] + 0.1
        assert means["hybrid"]["valid"] > 0.7 > 0.3 > means["two"]["valid"]
        assert means["hybrid"]["jsd"] < means["single"]["jsd"]
        assert means["hybrid"]["novelty"] > means["single"]["novelty"] + 0.2
        assert means["hybrid"]["balance"] < means["single"]["balance"]

    @pytest.mark.parametrize("measure", judge.MEASURES)
    def test_every_measure_stays_in_its_range(
        self, measure: str, opened: dict[str, Any], results: list[Rendered]
    ) -> None:
        scorer = judge.build(judge.Spec(measure=measure))
        for score in scorer.score(results):
            assert score.name == measure
            assert score.range[0] <= score.value <= score.range[1]
            assert (score.unit, score.range[1], score.better) == judge.MEASURES[measure]

    def test_the_definitions(self) -> None:
        torch = pytest.importorskip("torch")
        weights = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
        found = judge.measures(weights, 0.8, [0, 1])
        assert found == pytest.approx(
            {
                "presence": 0.3,
                "balance": 0.2,
                "novelty": 0.5,
                "one": 0.8,
                "valid": 1.0,
                "fusion": 0.24,
                "jsd": judge.jensen_shannon(weights, torch.tensor([0.5, 0.5, 0.0, 0.0])),
            }
        )
        assert judge.measures(weights, 0.49, [0, 1])["valid"] == 0.0
        assert judge.measures(weights, 0.9, [1, 3])["valid"] == 0.0

    def test_jensen_shannon(self) -> None:
        torch = pytest.importorskip("torch")
        p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        assert judge.jensen_shannon(p, p) == 0.0
        assert judge.jensen_shannon(p, q) == pytest.approx(1.0)
        half = torch.tensor([0.5, 0.0, 0.5])
        assert judge.jensen_shannon(p, half) == judge.jensen_shannon(half, p) == pytest.approx(0.5)

    def test_a_result_without_two_parents(self, opened: dict[str, Any]) -> None:
        alone = rendered(picture([{"pig": 1.0}]), ("pig",), name="alone")
        with pytest.raises(InputError, match="'alone' names 1 concepts"):
            opened["judge"].score([alone])
        (score,) = judge.build(judge.Spec(measure="novelty")).score([alone])
        assert score.value < 0.5

    def test_figures_without_parents(self, opened: dict[str, Any]) -> None:
        """Where a score would be refused, the figures that need no parents are there."""
        image = picture([{"pig": 0.5, "snake": 0.5}])
        alone, both = figures(
            opened["judge"], [rendered(image, ("pig",), name="a"), rendered(image, PAIRS[0])]
        )
        assert {score.name for score in alone} == set(judge.PARENTLESS)
        assert next(score.name for score in both) == "fusion"
        assert {score.name for score in both} == set(judge.MEASURES)

    def test_unknown_names(self, opened: dict[str, Any]) -> None:
        image = picture([{"pig": 1.0}])
        with pytest.raises(UnknownName, match='did you mean "zebra"'):
            opened["judge"].label([image], classes=["zebr"])
        with pytest.raises(ValueError, match="fusion"):
            judge.Spec(measure="fusio")

    def test_all_concepts_without_classes(self, opened: dict[str, Any]) -> None:
        (found,) = opened["judge"].label([picture([{"pig": 1.0}])])
        shares = dict(found.probabilities)
        assert len(shares) == 60
        assert max(shares, key=shares.__getitem__) == "pig"


class TestClip:
    def test_zero_shot(self, opened: dict[str, Any]) -> None:
        names = ["pig", "owl", "cactus", "zebra", "fish"]
        labels = opened["clip"].label([picture([{name: 1.0}]) for name in names], classes=names)
        for name, found in zip(names, labels, strict=True):
            shares = dict(found.probabilities)
            assert max(shares, key=shares.__getitem__) == name

    def test_the_text_decides(self, opened: dict[str, Any]) -> None:
        image = picture([{"pig": 0.5, "snake": 0.5}])
        right, wrong = opened["clip"].score(
            [rendered(image, ("pig", "snake")), rendered(image, ("bee", "carrot"))]
        )
        assert right.value > wrong.value + 0.1

    def test_the_other_tower(self, results: list[Rendered]) -> None:
        spec = clip.Spec(
            folder=SHIPPED,
            image=("image_encoder_g",),
            words=("text_encoder_2",),
            tokenizer=("tokenizer_2",),
            text="a photo of a pig",
        )
        values = [score.value for score in clip.build(spec).score(results)]
        assert all(-1 <= value <= 1 for value in values)

    def test_a_label_that_the_text_needs(self, opened: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="no label 'b'"):
            opened["clip"].score([rendered(picture([{"pig": 1.0}]), ("pig",), name="alone")])

    def test_classes_and_folder_are_needed(self, opened: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="classes"):
            opened["clip"].label([picture([{"pig": 1.0}])])
        with pytest.raises(InputError, match="folder="):
            clip.build(clip.Spec())

    def test_towers_that_do_not_belong(self) -> None:
        """A text tower in the place of the image tower is told, not run with random weights."""
        with pytest.raises(CreatokError, match="no CLIP towers"):
            clip.build(clip.Spec(folder=SHIPPED, image=("tokenizer",)))
        with pytest.raises(CreatokError, match="no CLIP towers"):
            clip.build(clip.Spec(folder=SHIPPED, image=("text_encoder_2",)))

    def test_the_own_prompt(self, opened: dict[str, Any]) -> None:
        """Without a text; a learned word is a creature to a tower that has never read it."""
        scorer = clip.build(clip.Spec(folder=SHIPPED))
        image = picture([{"pig": 0.5, "snake": 0.5}])
        own = rendered(image, ("pig", "snake"))
        assert scorer.score([own]) == opened["clip"].score([own])
        learned = replace(own, job=replace(own.job, prompt="a photo of a <hydra-fox> pig"))
        plain = replace(own, job=replace(own.job, prompt="a photo of a creature pig"))
        assert scorer.score([learned]) == scorer.score([plain])


class TestNovelty:
    def build(self, folder: Path) -> novelty.NoveltyScorer:
        return novelty.build(novelty.Spec(folder=SHIPPED, baseline=str(folder)))

    def test_a_copy_is_not_new(self, tmp_path: Path) -> None:
        """Wherever it lies in the folder; the nearest picture is named, and strangers are far."""
        (tmp_path / "deep").mkdir()
        pig, other = picture([{"pig": 1.0}], 1), picture([{"pig": 1.0}], 5)
        pig.save(tmp_path / "deep" / "pig.png")
        other.save(tmp_path / "other.jpg", quality=95)
        scorer = self.build(tmp_path)
        images = [pig, picture([{"pig": 1.0}], 3), picture([{"broccoli": 1.0}], 4)]
        found = [
            dict((score.name, score) for score in each)
            for each in figures(scorer, [rendered(image, ("pig",)) for image in images])
        ]
        assert found[0]["novelty"].value == pytest.approx(0, abs=1e-6)
        assert found[0]["novelty"].note == "deep/pig"
        assert {each["novelty"].note for each in found} <= {"deep/pig", "other"}
        assert found[0]["novelty"].value < found[1]["novelty"].value < found[2]["novelty"].value
        assert (found[0]["outlying"].value, found[2]["outlying"].value) == (0.0, 1.0)

    def test_pages_and_picks_are_no_baseline(self, tmp_path: Path) -> None:
        """An output folder is its pictures, not its contact sheet or copies."""
        for folder in ("picks", ".hidden"):
            (tmp_path / folder).mkdir()
            picture([{"owl": 1.0}]).save(tmp_path / folder / "owl.png")
        info = PngImagePlugin.PngInfo()
        info.add_text("creatok-sheet", "0" * 64)
        picture([{"fish": 1.0}]).save(tmp_path / "contact-sheet.png", pnginfo=info)
        with pytest.raises(InputError, match="no picture to be different from"):
            self.build(tmp_path)
        picture([{"pig": 1.0}]).save(tmp_path / "pig.png")
        assert [name for name, _ in iter_pictures(tmp_path)] == ["pig.png"]
        (score,) = self.build(tmp_path).score([rendered(picture([{"owl": 1.0}]), ("owl",))])
        assert score.note == "pig"

    @pytest.mark.parametrize("what", ["nothing", "text", "torn"])
    def test_what_is_no_picture(self, what: str, tmp_path: Path) -> None:
        data = b"no picture"
        if what == "torn":
            picture([{"pig": 1.0}]).save(tmp_path / "x.png")
            data = (tmp_path / "x.png").read_bytes()[:200]
        if what != "nothing":
            (tmp_path / "x.png").write_bytes(data)
        with pytest.raises(InputError, match=str(tmp_path)):
            self.build(tmp_path)

    def test_a_folder_is_needed(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="baseline="):
            novelty.build(novelty.Spec(folder=SHIPPED))
        with pytest.raises(InputError, match="no such folder"):
            self.build(tmp_path / "nowhere")


class TestDiversity:
    def test_more_kinds_are_more_different(self, opened: dict[str, Any]) -> None:
        names = ("pig", "owl", "cactus", "zebra", "fish", "bee")
        same = [rendered(picture([{"pig": 1.0}], 0), ("pig",)) for _ in names]
        kinds = [rendered(picture([{name: 1.0}], 0), (name,)) for name in names]
        alike, apart = (
            {score.name: score.value for score in opened["diversity"].score_set(each)}
            for each in (same, kinds)
        )
        assert alike == pytest.approx({"diversity": 0, "vendi": 1, "vendi share": 1 / 6}, abs=1e-3)
        assert apart["diversity"] > 0.5
        assert apart["vendi"] > 3


class TestLabelScores:
    def test_the_class_and_the_doubt(self, opened: dict[str, Any]) -> None:
        pig, hybrid = picture([{"pig": 1.0}]), picture([{"pig": 0.5, "snake": 0.5}])
        one, two = figures(
            opened["labels"], [rendered(image, ("pig", "snake")) for image in (pig, hybrid)]
        )
        assert one[0].note == "pig"
        assert one[0].value > two[0].value
        assert one[2].value < two[2].value
        assert [each[0].value + each[1].value for each in (one, two)] == [1.0, 1.0]

    def test_a_labeler_of_choice(self, tmp_path: Path) -> None:
        """What is known of a labeler's settings is handed on; what measures stays out."""
        folder = str(build_tiny_blip(tmp_path / "blip"))
        spec = labels.Spec(labeler="blip", folder=folder, classes=("pig", "owl"))
        (score,) = labels.build(spec).score([rendered(picture([{"pig": 1.0}]), ("pig",))])
        assert score.note in ("pig", "owl")
        with pytest.raises(InputError, match="judge only measures"):
            labels.Spec(labeler="judge", classes=("pig", "owl"))
        with pytest.raises(ValueError, match="novelty is no labeler"):
            labels.Spec(labeler="novelty")
        with pytest.raises(ValueError, match="each once"):
            labels.Spec(classes=("pig", "pig"))
        with pytest.raises(InputError, match="classes="):
            labels.build(labels.Spec(folder=SHIPPED))
