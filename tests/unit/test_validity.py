"""Who says yes or no: CLIP towers with a fit, and real vision-language models of tiny size."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageFilter

from creatok_cli.backbones.bestiary import judge as network
from creatok_cli.backbones.bestiary.world import CONCEPTS, Scene, draw_picture
from creatok_cli.errors import ArtefactError, CreatokError, InputError, UnknownName
from creatok_cli.scorers import validity, vlm
from creatok_cli.scorers.base import Labeler, build_teacher
from tests.tiny_vlm import build_tiny_llava

SHIPPED = str(Path(network.__file__).parent / "weights")
TOWERS = {
    "folder": SHIPPED,
    "image": ["image_encoder_l", "image_encoder_g"],
    "words": ["text_encoder", "text_encoder_2"],
    "tokenizer": ["tokenizer", "tokenizer_2"],
}
QUESTION = "Is this a picture of a creature? Answer yes or no."


def creatures(start: int, count: int) -> list[Image.Image]:
    """What the world draws, in all places."""
    names = [CONCEPTS[(7 * at) % len(CONCEPTS)] for at in range(start, start + count)]
    return [
        draw_picture([{name: 1.0}], Scene(), random.Random(at)) for at, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def fitted() -> Any:
    found = build_teacher("validity", TOWERS)
    found.fit(creatures(0, 40))
    return found


def yes(labeler: Any, images: list[Image.Image]) -> list[float]:
    found = labeler.label(images, classes=("yes", "no"), question=QUESTION)
    return [dict(each.probabilities)["yes"] for each in found]


def test_whole_creatures_are_told_from_spoilt_ones(fitted: Any) -> None:
    fresh = creatures(100, 20)
    whole = yes(fitted, fresh)
    blurred = yes(fitted, [each.filter(ImageFilter.GaussianBlur(5)) for each in fresh])
    mixed = yes(fitted, [validity.shuffled(each, 11, at) for at, each in enumerate(fresh)])
    grey = yes(fitted, [Image.new("RGB", (64, 64), (90, 120, 90))])
    assert sum(p > 0.5 for p in whole) >= 17
    assert sum(p > 0.5 for p in blurred) <= 3
    assert sum(p > 0.5 for p in mixed) <= 7
    assert grey[0] < 0.5
    assert sum(whole) / 20 > sum(mixed) / 20 + 0.4


def test_neighbours_change_no_answer_and_a_fit_is_the_same_again(fitted: Any) -> None:
    fresh = creatures(200, 5)
    assert isinstance(fitted, Labeler)
    assert yes(fitted, fresh)[2] == yes(fitted, fresh[2:3])[0]
    other = build_teacher("validity", TOWERS)
    learned = other.fit(creatures(0, 40))
    assert yes(other, fresh) == yes(fitted, fresh)
    third = build_teacher("validity", TOWERS)
    third.use(learned)
    assert yes(third, fresh) == yes(fitted, fresh)
    turned = third.label(fresh[:1], classes=("no", "yes"), question=QUESTION)[0].probabilities
    assert [name for name, _ in turned] == ["no", "yes"]
    assert math.fsum(p for _, p in turned) == pytest.approx(1)
    assert third.label([]) == []


def test_without_a_fit_texts_answer() -> None:
    plain = build_teacher("validity", TOWERS)
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    whole = yes(plain, creatures(0, 8))
    assert sum(whole) / 8 > yes(plain, [noise])[0] + 0.3
    with pytest.raises(InputError, match="found no subject in the question"):
        plain.label([noise], question="Well?")


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("Is this a picture of a creature? Answer yes or no.", "creature"),
        ("Is this a photo of a red dragon?", "red dragon"),
        ("Is there an owl in the picture?", "owl"),
        ("Does it show the sea monster?", "sea monster"),
    ],
)
def test_the_subject_is_read_off_the_question(question: str, subject: str) -> None:
    assert validity.subject_of(question) == subject


def test_what_cannot_be_fitted_or_asked_is_told(fitted: Any) -> None:
    with pytest.raises(UnknownName, match="yes or no, not cat, dog"):
        fitted.label(creatures(0, 1), classes=("cat", "dog"))
    with pytest.raises(InputError, match="3 plain pictures; 4 or more"):
        fitted.fit(creatures(0, 3))
    with pytest.raises(ArtefactError, match="was not fitted"):
        fitted.use({"w": torch.zeros(3)})
    rows = torch.zeros(4, 3, dtype=torch.float64)
    with pytest.raises(ArtefactError, match="look the same"):
        validity.regression(rows, rows)
    with pytest.raises(ArtefactError, match="look the same"):
        validity.regression(rows + math.nan, rows)
    with pytest.raises(ValueError, match="where the subject goes"):
        validity.Spec(yes=("a creature",))


def test_a_regression_finds_the_side() -> None:
    dice = torch.Generator().manual_seed(0)
    one = torch.randn(60, 4, generator=dice, dtype=torch.float64)
    one[:, 0] += 3
    other = torch.randn(200, 4, generator=dice, dtype=torch.float64)
    found = validity.regression(one, other)
    assert float(found["w"][0]) > 3 * float(found["w"][1:].abs().max())
    p = (((one - found["m"]) / found["s"]) @ found["w"] + found["b"]).sigmoid()
    assert float((p > 0.5).double().mean()) > 0.9


# A vision-language model


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llava(tmp_path_factory.mktemp("vlm") / "tiny-llava")


def reference(folder: Path, image: Image.Image, question: str) -> list[float]:
    """ln P(yes), ln P(no), as transformers gives them, over all spellings of one token."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    reader = AutoProcessor.from_pretrained(folder)
    text = f"USER: <image> {question} ASSISTANT:"
    inputs = reader(images=[image], text=[text], return_tensors="pt")
    with torch.no_grad():
        row = model(**inputs).logits[0, -1].double().log_softmax(-1)
    known = reader.tokenizer.convert_tokens_to_ids
    return [
        float(torch.stack([row[known(word)] for word in words]).logsumexp(0))
        for words in (("yes", "Yes"), ("no", "No"))
    ]


def test_a_model_answers_with_the_chances_of_its_words(llava: Path) -> None:
    found = build_teacher("vlm", {"folder": str(llava)})
    assert isinstance(found, Labeler)
    images = creatures(0, 3)
    labels = found.label(images, classes=("yes", "no"), question=QUESTION)
    for image, each in zip(images, labels, strict=True):
        wanted = torch.tensor(reference(llava, image, QUESTION)).softmax(0).tolist()
        assert [p for _, p in each.probabilities] == pytest.approx(wanted, abs=1e-5)
    assert found.label(images[1:2], question=QUESTION)[0] == labels[1]
    assert labels[0] != labels[1]
    other = found.label(images[:1], classes=("yes", "no"), question="Is this a photo of no?")
    assert other[0] != labels[0]


def test_classes_of_several_tokens_are_read_whole(llava: Path) -> None:
    found = build_teacher("vlm", {"folder": str(llava)})
    image = creatures(0, 1)
    names = ("a creature", "a photo of a picture", "yes")
    shares = dict(found.label(image, classes=names, question=QUESTION)[0].probabilities)
    assert math.fsum(shares.values()) == pytest.approx(1)
    assert shares["yes"] > shares["a creature"] > shares["a photo of a picture"]
    with pytest.raises(UnknownName, match="cannot spell the class 'xylophone'"):
        found.label(image, classes=("xylophone", "yes"), question=QUESTION)


def test_a_model_without_a_chat_template_is_asked_plainly(llava: Path, tmp_path: Path) -> None:
    import shutil

    bare = Path(shutil.copytree(llava, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    found = build_teacher("vlm", {"folder": str(bare)})
    labels = found.label(creatures(0, 1), question=QUESTION)
    assert math.fsum(p for _, p in labels[0].probabilities) == pytest.approx(1)
    assert labels != build_teacher("vlm", {"folder": str(llava)}).label(
        creatures(0, 1), question=QUESTION
    )


def test_what_is_no_model_is_told(llava: Path, tmp_path: Path) -> None:
    import shutil

    def refused(settings: dict[str, Any]) -> CreatokError:
        with pytest.raises(CreatokError) as found:
            build_teacher("vlm", settings)
        return found.value

    assert "needs folder" in str(refused({}))
    assert "no vision-language model can be read" in str(refused({"folder": str(tmp_path)}))
    cut = Path(shutil.copytree(llava, tmp_path / "cut"))
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert isinstance(refused({"folder": str(cut)}), ArtefactError)
    assert "device" in str(refused({"folder": str(llava), "device": "cuda:77"}))
    with pytest.raises(ValueError, match="question"):
        vlm.Spec(prompt="well?")


def test_damaged_weights_are_told(llava: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    bad = Path(shutil.copytree(llava, tmp_path / "nan"))
    tensors = load_file(bad / "model.safetensors")
    name = next(name for name in tensors if name.endswith("norm.weight"))
    save_file(
        {**tensors, name: tensors[name] * math.nan}, bad / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ArtefactError, match="NaN or infinity"):
        build_teacher("vlm", {"folder": str(bad)}).label(creatures(0, 1), question=QUESTION)
