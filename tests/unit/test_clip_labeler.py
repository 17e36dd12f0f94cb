"""CLIP as a labeler: templates, scale, ensembles, the fitted temperature, and who is asked."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.bestiary.world import BACKGROUNDS, CONCEPTS, Scene, draw_picture
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, InputError, PresetError
from creatok_cli.scorers import _towers, clip
from creatok_cli.scorers._choice import FITTED, labeler_for
from creatok_cli.scorers._folder import read_pixels, to_tensor
from creatok_cli.scorers._temperature import HIGHEST, LOWEST, fit_temperature, mean_kl
from creatok_cli.scorers.base import build_teacher
from tests.tiny import build_tiny_clip

BESTIARY = resolve("bestiary")
L = {"image": ("image_encoder_l",), "words": ("text_encoder",), "tokenizer": ("tokenizer",)}
G = {"image": ("image_encoder_g",), "words": ("text_encoder_2",), "tokenizer": ("tokenizer_2",)}
BOTH: dict[str, Any] = {name: L[name] + G[name] for name in L}
CLASSES = ("pig", "snake", "owl", "cactus", "zebra")
WHOLE: dict[str, Any] = {"image": ("",), "words": ("",), "tokenizer": ("",)}


def labeler(**settings: Any) -> clip.ClipScorer:
    """The bestiary's own, with settings."""
    return clip.build(clip.Spec(folder=BESTIARY.folder, **settings))


def mixtures(count: int, name: str) -> tuple[list[Image.Image], torch.Tensor]:
    """Pictures of one creature of 1 to 4 concepts each, and its weights [count 60]."""
    images, weights = [], []
    for number in range(count):
        rng = random.Random(f"{name} {number}")
        parents = rng.sample(CONCEPTS, 1 + number % 4)
        raw = [rng.gammavariate(1, 1) for _ in parents]
        mix = {parent: share / sum(raw) for parent, share in zip(parents, raw, strict=True)}
        place = rng.choice(BACKGROUNDS) if rng.random() < 0.6 else "plain"
        images.append(draw_picture([mix], Scene(background=place), rng))
        weights.append([mix.get(concept, 0.0) for concept in CONCEPTS])
    return images, torch.tensor(weights, dtype=torch.float64)


def noise(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return mixtures(6, "few")[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


class TestLogits:
    def test_the_formula(self, pictures: list[Image.Image]) -> None:
        """Against the towers' embeddings, one picture, class and template at a time."""
        templates = ("a photo of a {}", "a {}", "pixel art of a {} in the snow")
        found = labeler(templates=templates).logits(pictures, CLASSES)
        config = json.loads((Path(BESTIARY.folder) / "image_encoder_l/config.json").read_text())
        plain = labeler()
        for row, image in zip(found, pictures, strict=True):
            seen = plain.pictures([image])[0].double()
            for value, name in zip(row, CLASSES, strict=True):
                said = [plain.texts([each.format(name)])[0].double() for each in templates]
                mean = sum(said) / 3
                wanted = config["logit_scale"] * (seen @ mean) / mean.norm()
                assert float(value) == pytest.approx(float(wanted), abs=1e-4)

    @pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
    def test_the_temperature_divides(self, temperature: float, pictures: list[Image.Image]) -> None:
        one = labeler(temperature=temperature)
        wanted = (one.logits(pictures, CLASSES) / temperature).softmax(1).tolist()
        for found, row in zip(one.label(pictures, classes=CLASSES), wanted, strict=True):
            assert [value for _, value in found.probabilities] == row

    def test_several_towers_are_averaged(self, pictures: list[Image.Image]) -> None:
        ours, left, right = labeler(**BOTH), labeler(**L), labeler(**G)
        wanted = (left.logits(pictures, CLASSES) + right.logits(pictures, CLASSES)) / 2
        assert ours.logits(pictures, CLASSES).equal(wanted)
        assert not ours.logits(pictures, CLASSES).equal(left.logits(pictures, CLASSES))
        text = ["a photo of a pig"]
        cosines = [(one.texts(text) * one.pictures(pictures)).sum(1) for one in (left, right)]
        both = (ours.texts(text) * ours.pictures(pictures)).sum(1)
        assert both.allclose(sum(cosines) / 2, atol=1e-6)
        assert ours.pictures(pictures).norm(dim=1).allclose(torch.ones(6), atol=1e-6)

    def test_company_changes_no_bit(self, pictures: list[Image.Image]) -> None:
        one = labeler(**BOTH, rows=4, templates=("a photo of a {}", "a {}"))
        found = one.logits(pictures, CLASSES)
        assert one.logits(pictures[::-1], CLASSES).equal(found.flip(0))
        assert one.logits(pictures[5:], CLASSES).equal(found[5:])
        assert one.logits(pictures, CLASSES[::-1]).equal(found.flip(1))
        assert one.logits(pictures, CLASSES[1:2]).equal(found[:, 1:2])

    def test_a_class_is_data(self, pictures: list[Image.Image]) -> None:
        """Braces in a name or a template are no format string."""
        one = labeler(templates=("a {} of {a}",))
        (found,) = one.label(pictures[:1], classes=["{0}", "{b} pig"])
        assert [name for name, _ in found.probabilities] == ["{0}", "{b} pig"]

    def test_nan_is_refused(self, tmp_path: Path) -> None:
        folder = build_tiny_clip(tmp_path)
        file = folder / "model.safetensors"
        weights = load_file(file)
        weights["visual_projection.weight"][0, 0] = math.nan
        save_file(weights, file, metadata={"format": "pt"})
        one = clip.build(clip.Spec(folder=str(folder), **WHOLE))
        with pytest.raises(ArtefactError, match="NaN or infinity of a picture"):
            one.label([noise(0)], classes=["pig", "owl"])


class TestAWholeModel:
    def test_it_is_what_transformers_says(self, whole: Path) -> None:
        """Logits of the real CLIPModel, which multiplies by the exponential of its own weight."""
        from transformers import CLIPModel, CLIPTokenizer

        images = [noise(seed, (32, 32)) for seed in range(3)]
        one = clip.build(clip.Spec(folder=str(whole), **WHOLE))
        found = one.logits(images, ("pig", "owl", "dragon"))
        model, tokenizer = CLIPModel.from_pretrained(whole), CLIPTokenizer.from_pretrained(whole)
        texts = [f"a photo of a {name}" for name in ("pig", "owl", "dragon")]
        ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
        pixels = torch.stack([to_tensor(image, _towers.HALF) for image in images])
        with torch.inference_mode():
            wanted = model(input_ids=ids, pixel_values=pixels).logits_per_image
        assert model.logit_scale.item() == 3.0 != model.config.logit_scale_init_value
        assert found.allclose(wanted.double(), atol=1e-4)
        assert float((found[:, 0] - found[:, 1]).abs().min()) > 1e-3

    def test_towers_that_say_no_scale(self, whole: Path, tmp_path: Path) -> None:
        """Separate halves of a published model: CLIP's ceiling of 100."""
        from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

        halves = ((CLIPVisionModelWithProjection, "eye"), (CLIPTextModelWithProjection, "mouth"))
        for kind, part in halves:
            kind.from_pretrained(whole).save_pretrained(tmp_path / part)
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            (tmp_path / file).write_bytes((whole / file).read_bytes())
        for file in ("vocab.json", "merges.txt"):
            (tmp_path / file).write_bytes((whole / file).read_bytes())
        parts: dict[str, Any] = {"image": ("eye",), "words": ("mouth",), "tokenizer": ("",)}
        apart = clip.build(clip.Spec(folder=str(tmp_path), **parts))
        together = clip.build(clip.Spec(folder=str(whole), **WHOLE))
        images, factor = [noise(1), noise(2)], 100 / math.exp(3.0)
        names = ("pig", "owl")
        wanted = together.logits(images, names) * factor
        assert apart.logits(images, names).allclose(wanted, atol=1e-3)

    def test_pixels_as_it_wants_them(self, tmp_path: Path) -> None:
        assert read_pixels(tmp_path, _towers.HALF) == _towers.HALF
        file = tmp_path / "preprocessor_config.json"
        file.write_text('{"image_mean": [0.48, 0.46, 0.41], "size": 224}')
        found = read_pixels(tmp_path, _towers.HALF)
        assert found == {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.5] * 3}
        tensor = to_tensor(Image.new("RGB", (3, 2), (255, 0, 51)), found)
        assert tensor.shape == (3, 2, 3)
        assert tensor[:, 0, 0].tolist() == pytest.approx([1.04, -0.92, -0.42])


class TestSpec:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"temperature": 0.0}, "temperature is 0.01 to 100"),
            ({"temperature": math.nan}, "temperature"),
            ({"temperature": -1.0}, "temperature"),
            ({"templates": ()}, "templates are texts"),
            ({"templates": ("a photo of a {}", "a photo")}, "templates are texts"),
            ({"templates": ("{} and {}",)}, "templates are texts"),
            ({"image": ()}, "one folder each"),
            ({"image": BOTH["image"]}, "one folder each"),
            ({"rows": 0}, "rows is 1 to 1024"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            clip.Spec(**settings)
        with pytest.raises(PresetError, match=message):
            build_teacher("clip", {"folder": BESTIARY.folder, **settings})

    def test_settings_as_text(self) -> None:
        """As `--set` gives them: lists are separated by commas."""
        texts = {name: ",".join(value) for name, value in BOTH.items()}
        teacher = build_teacher("clip", {"folder": BESTIARY.folder, "temperature": "2", **texts})
        assert len(teacher.label([noise(0)], classes=["pig", "owl"])) == 1
        alone = build_teacher("clip", {"folder": BESTIARY.folder})
        assert teacher.texts(["a pig"]).shape[1] > alone.texts(["a pig"]).shape[1]


def spread(seed: int, pictures: int = 40, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits, and the distribution that they mean at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(pictures, classes, generator=generator, dtype=torch.float64)
    return logits.softmax(1), logits


class TestTemperature:
    def test_mean_kl_by_hand(self) -> None:
        wanted = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
        logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(4.0), 0.0, 0.0]])
        first, second = math.log(1.5), math.log(6 / 4)
        assert mean_kl(wanted, logits, 1.0) == pytest.approx((first + second) / 2, abs=1e-7)
        second = -math.log(2 / 4)
        assert mean_kl(wanted, logits, 2.0) == pytest.approx((first + second) / 2, abs=1e-7)

    @settings(deadline=None, max_examples=40)
    @given(seed=st.integers(0, 10**6), factor=st.floats(0.05, 20))
    def test_the_true_temperature_is_found(self, seed: int, factor: float) -> None:
        wanted, logits = spread(seed)
        found = fit_temperature(wanted, factor * logits)
        assert found == pytest.approx(factor, rel=1e-5)
        assert mean_kl(wanted, factor * logits, found) == pytest.approx(0, abs=1e-9)

    @settings(deadline=None, max_examples=40)
    @given(seed=st.integers(0, 10**6), at=st.floats(LOWEST, HIGHEST))
    def test_no_other_temperature_is_better(self, seed: int, at: float) -> None:
        wanted, logits = spread(seed)[0], spread(seed + 1)[1] + 3 * spread(seed)[1]
        found = fit_temperature(wanted, logits)
        assert mean_kl(wanted, logits, found) <= mean_kl(wanted, logits, at) + 1e-9

    def test_offsets_change_nothing(self) -> None:
        wanted, logits = spread(3)
        rough = logits + spread(4)[1]
        offsets = torch.arange(40)[:, None] - 20.0
        plain = fit_temperature(wanted, rough)
        assert fit_temperature(wanted, rough + offsets) == pytest.approx(plain, rel=1e-6)
        assert fit_temperature(wanted, rough.log_softmax(1)) == pytest.approx(plain, rel=1e-6)

    def test_the_ends(self) -> None:
        """Sure and always right: as sharp as allowed; no better than chance: as flat as allowed."""
        eye = torch.eye(4)
        assert LOWEST <= fit_temperature(eye, eye) < 0.05  # below it the divergence is 0 in f64
        assert fit_temperature(eye, -eye) == pytest.approx(HIGHEST, rel=1e-3)

    @pytest.mark.parametrize(
        ("wanted", "logits", "message"),
        [
            ([[0.5, 0.5]], [[1.0, 2.0, 3.0]], "one shape"),
            ([], [], "one shape"),
            ([[0.5, 0.5]], [[1.0, math.nan]], "finite"),
            ([[0.5, 0.5]], [[1.0, -math.inf]], "finite"),
            ([[math.nan, 0.5]], [[1.0, 2.0]], "finite"),
            ([[1.5, -0.5]], [[1.0, 2.0]], "sum to 1"),
            ([[0.5, 0.4]], [[1.0, 2.0]], "sum to 1"),
            ([[0.5, 0.5], [1.0, 0.0]], [[2.0, 2.0], [5.0, 5.0]], "no class from another"),
        ],
    )
    def test_nothing_to_learn_from(
        self, wanted: Sequence[Any], logits: Sequence[Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            fit_temperature(torch.tensor(wanted), torch.tensor(logits))


class TestLabelerFor:
    def test_the_bestiary_has_its_own(self) -> None:
        name, found = labeler_for(BESTIARY)
        assert name == "clip"
        assert found["image"] == BOTH["image"]
        teacher = build_teacher(name, found)
        (labels,) = teacher.label([mixtures(1, "few")[0][0]], classes=CONCEPTS)
        assert sum(value for _, value in labels.probabilities) == pytest.approx(1)

    def test_its_temperature_is_the_fitted_one(self) -> None:
        """Fitted again on other pictures; and better than one tower, than T = 1, and than both."""
        name, found = labeler_for(BESTIARY)
        images, wanted = mixtures(200, "fitted again")
        both = build_teacher(name, found).logits(images, CONCEPTS)
        shipped = found["temperature"]
        assert shipped == FITTED["bestiary", 2]
        assert fit_temperature(wanted, both) == pytest.approx(shipped, rel=0.12)
        ours = mean_kl(wanted, both, shipped)
        assert ours < mean_kl(wanted, both, 1.0) - 0.3
        for towers in (L, G):
            alone = labeler(rows=16, **towers).logits(images, CONCEPTS)
            assert ours < mean_kl(wanted, alone, fit_temperature(wanted, alone)) - 0.02
        sure = (both / shipped).softmax(1)[wanted.max(1).values == 1]
        assert float(sure.max(1).values.median()) > 0.9

    def folder(self, root: Path, *parts: str) -> BaseFacts:
        for part in parts:
            (root / part).mkdir()
        return dataclasses.replace(BESTIARY, name="mine", backbone="sd3", folder=str(root))

    def test_one_pair_of_towers(self, tmp_path: Path) -> None:
        parts = ("image_encoder_l", "text_encoder", "tokenizer", "image_encoder_g")
        name, found = labeler_for(self.folder(tmp_path, *parts))
        assert name == "clip"
        assert {key: found[key] for key in L} == L
        assert found["temperature"] == 1.0

    @pytest.mark.parametrize(
        "parts", [(), ("text_encoder", "tokenizer"), ("image_encoder_g", "text_encoder_2")]
    )
    def test_none(self, parts: tuple[str, ...], tmp_path: Path) -> None:
        facts = self.folder(tmp_path, *parts)
        with pytest.raises(ArtefactError, match=r"base mine: .* Salesforce/blip-vqa-base") as error:
            labeler_for(facts)
        assert error.value.code == 4
        assert labeler_for(facts, folder="/models/blip") == ("blip", {"folder": "/models/blip"})

    def test_a_base_without_a_folder(self) -> None:
        with pytest.raises(ArtefactError, match="no labeler of its own"):
            labeler_for(dataclasses.replace(BESTIARY, name="drawn", folder=""))

    def test_a_named_folder_wins(self) -> None:
        assert labeler_for(BESTIARY, folder="blip")[0] == "blip"

    def test_it_is_light(self) -> None:
        """A dry run may ask: no torch."""
        code = (
            "import sys; import creatok_cli.scorers._choice;"
            "print(sorted({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr
