"""BLIP as a labeler: its likelihoods are those of the real class, whatever the batch."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from creatok_cli import registry
from creatok_cli.errors import ArtefactError, InputError, PresetError, UnknownName
from creatok_cli.scorers import blip
from creatok_cli.scorers.base import Labeler, Scorer, build_teacher
from tests.tiny import BLIP_PIECES, build_tiny_blip

CLASSES = ("pig", "polar bear", "bees", "owl", "seahorses", "red tree-frog", "snake")
QUESTION = "What animal is in the photo?"
WORDS = len(BLIP_PIECES)
CLS, SEP, DEC, ENC = BLIP_PIECES.index("[CLS]"), BLIP_PIECES.index("[SEP]"), WORDS, WORDS + 1


def noise(seed: int, size: tuple[int, int] = (40, 24)) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


IMAGES = [noise(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def build(folder: Path) -> Callable[..., blip.BlipLabeler]:
    return lambda **settings: blip.build(blip.Spec(folder=str(folder), **settings))


def spelled(name: str) -> list[int]:
    """The sub-tokens of a class, by hand."""
    pieces = {
        "pig": ["pig"],
        "polar bear": ["polar", "bear"],
        "bees": ["b", "##ee", "##s"],
        "owl": ["owl"],
        "seahorses": ["sea", "##horse", "##s"],
        "red tree-frog": ["red", "tree", "-", "frog"],
        "snake": ["snake"],
    }
    return [BLIP_PIECES.index(piece) for piece in pieces[name]]


def prepared(folder: Path, image: Image.Image) -> torch.Tensor:
    """Pixels from transformers' own image processor."""
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    facts = json.loads((folder / "preprocessor_config.json").read_text())
    facts["size"] = {"height": 32, "width": 32}
    return BlipImageProcessorPil(**facts)(image, return_tensors="pt").pixel_values


def plain(folder: Path, image: Image.Image, *, first: int = CLS) -> list[float]:
    """ln P of every class, one at a time, from the loss of the real class on `labels`."""
    from transformers import BlipForQuestionAnswering

    model = BlipForQuestionAnswering.from_pretrained(folder).eval()
    asked = ["what", "animal", "is", "in", "the", "photo", "?"]
    question = torch.tensor([[first, *(BLIP_PIECES.index(word) for word in asked), SEP]])
    found = []
    for name in CLASSES:
        labels = torch.tensor([[DEC, *spelled(name), SEP]])
        with torch.inference_mode():
            loss = model(
                input_ids=question,
                pixel_values=prepared(folder, image),
                attention_mask=torch.ones_like(question),
                labels=labels,
            ).loss
        found.append(-float(loss) * (labels.shape[1] - 1))
    return found


class TestLikelihoods:
    def test_they_are_the_loss_of_the_real_class(
        self, folder: Path, build: Callable[..., Any]
    ) -> None:
        found = build().logits(IMAGES[:2], CLASSES)
        for row, image in zip(found, IMAGES, strict=False):
            assert row.tolist() == pytest.approx(plain(folder, image), abs=2e-5)
        assert float((found[0] - found[1]).abs().max()) > 1e-3

    def test_the_start_of_the_question(self, folder: Path, build: Callable[..., Any]) -> None:
        """[CLS] as transformers runs it, [ENC] as it was trained."""
        found = build(question_start="enc").logits(IMAGES[:1], CLASSES)[0]
        assert found.tolist() == pytest.approx(plain(folder, IMAGES[0], first=ENC), abs=2e-5)
        assert not found.allclose(build().logits(IMAGES[:1], CLASSES)[0], atol=1e-3)

    def test_the_answer_begins_and_ends_as_in_generate(
        self, folder: Path, build: Callable[..., Any]
    ) -> None:
        """The ids that the decoder of transformers starts and stops with."""
        from transformers import BlipForQuestionAnswering

        model = BlipForQuestionAnswering.from_pretrained(folder)
        for answer, name in zip(build()._answers(CLASSES), CLASSES, strict=True):
            start, end = model.decoder_start_token_id, model.config.text_config.sep_token_id
            assert answer == [start, *spelled(name), end]

    def test_they_are_a_posterior(self, folder: Path, build: Callable[..., Any]) -> None:
        """All words of one token, each followed by the end or not: no more than 1 in sum."""
        words = [piece for piece in BLIP_PIECES if piece.isalpha()]
        total = build().logits(IMAGES[:1], words).exp().sum()
        assert 0 < float(total) < 1

    @pytest.mark.parametrize("rows", [1, 2, 3, 64])
    def test_chunks_of_classes(self, rows: int, build: Callable[..., Any]) -> None:
        found = build(rows=rows).logits(IMAGES[:1], CLASSES)
        assert found.allclose(build().logits(IMAGES[:1], CLASSES), atol=1e-5)

    def test_company_changes_nothing(self, build: Callable[..., Any]) -> None:
        one = build()
        found = one.logits(IMAGES, CLASSES)
        assert one.logits(IMAGES[::-1], CLASSES).equal(found.flip(0))
        assert one.logits(IMAGES[3:4], CLASSES).equal(found[3:4])
        assert one.logits(IMAGES, CLASSES[::-1]).allclose(found.flip(1), atol=1e-5)
        assert one.logits(IMAGES, CLASSES[:2]).allclose(found[:, :2], atol=1e-5)

    def test_the_question_is_read(self, build: Callable[..., Any]) -> None:
        one = build()
        other = one.logits(IMAGES[:1], CLASSES, "What is in the photo?")
        assert not other.allclose(one.logits(IMAGES[:1], CLASSES), atol=1e-3)
        assert build(question="What is in the photo?").logits(IMAGES[:1], CLASSES).equal(other)
        labels = one.label(IMAGES[:1], classes=CLASSES, question="What is in the photo?")
        assert [value for _, value in labels[0].probabilities] == other.softmax(1)[0].tolist()

    def test_pixels_are_those_of_the_processor(
        self, folder: Path, build: Callable[..., Any]
    ) -> None:
        image = noise(9, (61, 47)).convert("RGBA")
        ours = build()._prepared(image)
        assert ours.allclose(prepared(folder, image.convert("RGB"))[0], atol=1e-5)


class TestLabels:
    def test_probabilities(self, build: Callable[..., Any]) -> None:
        one = build()
        wanted = one.logits(IMAGES, CLASSES).softmax(1).tolist()
        for found, row in zip(one.label(IMAGES, classes=CLASSES), wanted, strict=True):
            assert found.probabilities == tuple(zip(CLASSES, row, strict=True))
            assert sum(row) == pytest.approx(1)

    def test_the_temperature_divides(self, build: Callable[..., Any]) -> None:
        wanted = (build().logits(IMAGES[:1], CLASSES) / 2.5).softmax(1)[0].tolist()
        (found,) = build(temperature=2.5).label(IMAGES[:1], classes=CLASSES)
        assert [value for _, value in found.probabilities] == wanted

    def test_grey_is_subtracted(self, build: Callable[..., Any]) -> None:
        plain, corrected = build(), build(grey=True)
        grey = Image.new("RGB", (32, 32), (128, 128, 128))
        wanted = plain.logits(IMAGES, CLASSES) - plain.logits([grey], CLASSES)
        for _ in range(2):  # the second time from memory
            assert corrected.logits(IMAGES, CLASSES).equal(wanted)
        (found,) = corrected.label([grey], classes=CLASSES)
        assert [value for _, value in found.probabilities] == pytest.approx([1 / 7] * 7)
        other = "What is in the photo?"
        wanted = plain.logits(IMAGES, CLASSES, other) - plain.logits([grey], CLASSES, other)
        assert corrected.logits(IMAGES, CLASSES, other).equal(wanted)

    def test_normalised_by_length(self, build: Callable[..., Any]) -> None:
        lengths = torch.tensor([len(spelled(name)) + 1 for name in CLASSES])
        wanted = build().logits(IMAGES, CLASSES) / lengths
        assert build(normalise=True).logits(IMAGES, CLASSES).equal(wanted)

    def test_it_labels_and_does_not_score(self, build: Callable[..., Any]) -> None:
        assert isinstance(build(), Labeler)
        assert not isinstance(build(), Scorer)
        assert registry.describe("scorers", "blip").facts["GIVES"] == ("labels",)

    def test_it_may_teach(self, folder: Path) -> None:
        settings = {"folder": str(folder), "grey": "true", "temperature": "2"}
        assert len(build_teacher("blip", settings).label(IMAGES, classes=CLASSES)) == len(IMAGES)


class TestRefusals:
    def test_no_folder(self) -> None:
        with pytest.raises(InputError, match=r"folder=.*Salesforce/blip-vqa-base"):
            blip.build(blip.Spec())

    def test_no_classes(self, build: Callable[..., Any]) -> None:
        with pytest.raises(InputError, match="classes"):
            build().label(IMAGES[:1])

    @pytest.mark.parametrize("name", ["dragon", "pig 豚", "", "  ", "pig " * 30, "##s"])
    def test_a_class_that_it_cannot_spell(self, name: str, build: Callable[..., Any]) -> None:
        with pytest.raises(UnknownName, match="cannot spell"):
            build().label(IMAGES[:1], classes=["owl", name])

    @pytest.mark.parametrize("pair", [("pig", "Pig"), ("polar bear", "polar  bear")])
    def test_two_names_of_one_spelling(
        self, pair: tuple[str, str], build: Callable[..., Any]
    ) -> None:
        with pytest.raises(InputError, match="as the same word"):
            build().label(IMAGES[:1], classes=pair)

    def test_a_question_too_long(self, build: Callable[..., Any]) -> None:
        with pytest.raises(InputError, match="has 42 tokens, the model reads 24"):
            build().label(IMAGES[:1], classes=CLASSES, question="pig " * 40)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_nan(self, value: float, tmp_path: Path) -> None:
        file = build_tiny_blip(tmp_path) / "model.safetensors"
        weights = load_file(file)
        weights["vision_model.post_layernorm.bias"][0] = value
        save_file(weights, file, metadata={"format": "pt"})
        one = blip.build(blip.Spec(folder=str(tmp_path)))
        with pytest.raises(ArtefactError, match="NaN or infinity") as error:
            one.label(IMAGES[:1], classes=CLASSES)
        assert error.value.code == 4

    def test_a_weight_that_is_missing(self, tmp_path: Path) -> None:
        """Told, not run with random numbers."""
        file = build_tiny_blip(tmp_path) / "model.safetensors"
        weights = load_file(file)
        del weights["text_decoder.bert.encoder.layer.0.crossattention.self.key.weight"]
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(ArtefactError, match=r"lacks text_decoder\.bert.*key\.weight"):
            blip.build(blip.Spec(folder=str(tmp_path)))

    def test_pickles_are_not_opened(self, tmp_path: Path) -> None:
        file = build_tiny_blip(tmp_path) / "model.safetensors"
        torch.save(load_file(file), tmp_path / "pytorch_model.bin")
        file.unlink()
        with pytest.raises(ArtefactError, match="no BLIP model"):
            blip.build(blip.Spec(folder=str(tmp_path)))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [("vocab_size", WORDS - 1, "no BLIP model"), ("bos_token_id", WORDS + 2, "more tokens")],
    )
    def test_a_config_that_does_not_fit(
        self, key: str, value: int, message: str, tmp_path: Path
    ) -> None:
        file = build_tiny_blip(tmp_path) / "config.json"
        config = json.loads(file.read_text())
        config["text_config"][key] = value
        file.write_text(json.dumps(config))
        with pytest.raises(ArtefactError, match=message):
            blip.build(blip.Spec(folder=str(tmp_path)))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rows": 0}, "rows is 1 to 1024"),
            ({"temperature": 0.0}, "temperature is 0.01 to 100"),
            ({"temperature": math.nan}, "temperature is 0.01 to 100"),
            ({"question": "  "}, "question is a sentence"),
            ({"question_start": "dec"}, "cls or enc"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], message: str, folder: Path) -> None:
        with pytest.raises(PresetError, match=message):
            build_teacher("blip", {"folder": str(folder), **settings})

    @pytest.mark.parametrize("device", ["toaster", "cuda:99"])
    def test_a_device_that_is_not_there(self, device: str, build: Callable[..., Any]) -> None:
        with pytest.raises(InputError, match=f"device='{device}'"):
            build(device=device)
