import json
import random
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data.encoders import (
    DEFAULT_ENCODERS,
    CharactersEncoder,
    Encoder,
    ImageEncoder,
    IntegerEncoder,
    LabelEncoder,
    NumberEncoder,
    WordsEncoder,
    restore,
)
from deepseek.data.manifest import FIELD_TYPES, Field
from tests.harness.images import image_file

TEXTS = ["Is there a cat?", "is THERE a dog", "what is it", "größe 12"]


def fitted(encoder: Encoder) -> Encoder:
    encoder.fit(TEXTS)
    return encoder


def test_words_are_numbered_by_descending_count_then_by_code_point() -> None:
    encoder = WordsEncoder()
    encoder.fit(["b a", "b c", "A"])
    assert encoder.tokens == ("a", "b", "c")
    assert encoder.encode("c B x").tolist() == [4, 3, 1] + [0] * 13


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts() -> None:
    texts = [f"w{i % 7} w{i % 11} w{i}" for i in range(60)]
    first, second = WordsEncoder(vocabulary=40), WordsEncoder(vocabulary=40)
    first.fit(texts)
    random.Random(1).shuffle(texts)
    second.fit(texts)
    assert first.state() == second.state()
    assert len(first.tokens) == 38


def test_long_texts_are_truncated() -> None:
    encoder = CharactersEncoder(length=3)
    encoder.fit(["abc"])
    assert encoder.encode("abcabc").tolist() == encoder.encode("abc").tolist()


def test_characters_are_code_points() -> None:
    encoder = CharactersEncoder(length=4, vocabulary=5)
    encoder.fit(["ää\n😀"])
    assert encoder.tokens == ("ä", "\n", "😀")
    assert encoder.encode("ä😀A").tolist() == [2, 4, 1, 0]


def test_words_keep_their_vowel_signs() -> None:
    encoder = WordsEncoder(length=4)
    encoder.fit(["मेरा का", "मेरी की"])
    assert encoder.encode("मेरी की").tolist() == [5, 3, 0, 0]
    assert encoder.encode("मेरा का").tolist() == [4, 2, 0, 0]


@pytest.mark.parametrize("encoder", [WordsEncoder(), CharactersEncoder()], ids=["words", "characters"])
@pytest.mark.parametrize("learned", ["NFC", "NFD"])
def test_two_spellings_of_a_text_are_one(encoder: Encoder, learned: str) -> None:
    encoder.fit([unicodedata.normalize(learned, "un café noir")])
    composed, decomposed = (encoder.encode(unicodedata.normalize(form, "café")).tolist() for form in ("NFC", "NFD"))
    assert composed == decomposed
    assert 1 not in composed


@pytest.mark.parametrize(
    ("name", "params", "tokens", "text", "expected"),
    [
        (
            "words",
            {"length": 8, "vocabulary": 16},
            ["म", "र", "don", "t", "cafe"],
            "मेरा don't cafe\u0301 é",
            "23456100",
        ),
        ("characters", {"length": 4, "vocabulary": 8}, ["e", "\u0301"], "e\u0301é", "2310"),
    ],
)
def test_a_stored_encoder_without_a_version_encodes_as_it_did(
    name: str, params: dict[str, Any], tokens: list[str], text: str, expected: str
) -> None:
    encoder = restore(name, params, {"tokens": tokens})
    assert "".join(map(str, encoder.encode(text).tolist())) == expected
    assert encoder.params == {**params, "version": 1}
    again = restore(name, encoder.params, encoder.state())
    assert np.array_equal(again.encode(text), encoder.encode(text))


def labels() -> LabelEncoder:
    encoder = LabelEncoder()
    encoder.bind(Field("answer", "label", labels=("yes", "no")))
    return encoder


@pytest.mark.parametrize(
    ("encoder", "value"),
    [
        (ImageEncoder(size=8), image_file()),
        (ImageEncoder(size=8, mode="L"), image_file()),
        (fitted(WordsEncoder(length=5)), "is there a mouse"),
        (fitted(CharactersEncoder(length=7)), "is it?"),
        (labels(), "no"),
        (IntegerEncoder(), -5),
        (NumberEncoder(), 0.1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_encoder_rebuilt_from_its_params_and_state_encodes_identically(encoder: Encoder, value: Any) -> None:
    params, state = json.loads(json.dumps([encoder.params, encoder.state()]))
    again = type(encoder)(**params)
    again.load_state(state)
    first, second = encoder.encode(value), again.encode(value)
    assert np.array_equal(first, second)
    assert first.shape == encoder.shape == again.shape
    assert first.dtype == encoder.dtype == second.dtype
    assert again.state() == encoder.state()


def test_an_image_of_the_right_size_is_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(ImageEncoder(size=8).encode(Image.fromarray(pixels)), pixels)


def test_an_image_of_another_size_is_resized() -> None:
    assert ImageEncoder(size=8).encode(Image.new("RGB", (31, 7), (1, 2, 3))).reshape(-1, 3).tolist() == [[1, 2, 3]] * 64


def test_a_label_that_the_schema_lacks_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        labels().encode("maybe")
    assert caught.value.reason == "UNKNOWN_LABEL"


def test_a_label_in_another_spelling_is_the_same_label() -> None:
    encoder = LabelEncoder()
    encoder.load_state({"labels": ["the\u0301", "café"]})
    assert [int(encoder.encode(label)) for label in ("thé", "the\u0301", "cafe\u0301", "café")] == [0, 0, 1, 1]
    encoder.load_state({"labels": ["é", "e\u0301"]})  # of an old data set, in which these are two labels
    assert [int(encoder.encode(label)) for label in ("é", "e\u0301")] == [0, 1]


def test_labels_need_a_field_of_labels() -> None:
    with pytest.raises(InvalidArgument, match="'caption' has the type text"):
        LabelEncoder().bind(Field("caption", "text"))


@pytest.mark.parametrize(
    ("encoder", "value", "reason"),
    [
        (ImageEncoder(), image_file()[:-30], "DAMAGED_IMAGE"),
        (ImageEncoder(), "a.png", "WRONG_TYPE"),
        (WordsEncoder(), b"bytes", "WRONG_TYPE"),
        (CharactersEncoder(), None, "WRONG_TYPE"),
        (IntegerEncoder(), 1.0, "WRONG_TYPE"),
        (IntegerEncoder(), True, "WRONG_TYPE"),
        (IntegerEncoder(), np.float32(1), "WRONG_TYPE"),
        (IntegerEncoder(), np.bool_(True), "WRONG_TYPE"),
        (NumberEncoder(), np.array([1.0]), "WRONG_TYPE"),
        (IntegerEncoder(), 1 << 63, "WRONG_TYPE"),
        (NumberEncoder(), float("nan"), "WRONG_TYPE"),
        (NumberEncoder(), float("inf"), "WRONG_TYPE"),
        (NumberEncoder(), 1e300, "WRONG_TYPE"),
        (NumberEncoder(), "1", "WRONG_TYPE"),
    ],
)
def test_a_bad_value_is_refused(encoder: Encoder, value: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encoder.encode(value)
    assert caught.value.reason == reason


def test_numpy_numbers_are_accepted_as_python_numbers() -> None:
    assert IntegerEncoder().encode(np.int16(3)) == NumberEncoder().encode(np.float16(3)) == 3
    assert NumberEncoder().encode(np.uint8(3)) == 3
    made = ImageEncoder(np.int64(8)), CharactersEncoder(np.int32(8), np.int64(20))  # type: ignore[arg-type]
    for encoder in made:
        assert type(encoder)(**json.loads(json.dumps(encoder.params))).params == encoder.params


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageEncoder(size=0),
        lambda: ImageEncoder(size=1 << 20),
        lambda: ImageEncoder(mode="CMYK"),
        lambda: WordsEncoder(length=0),
        lambda: WordsEncoder(vocabulary=2),
        lambda: CharactersEncoder(length=True),
        lambda: WordsEncoder(version=3),
        lambda: CharactersEncoder(version=0),
    ],
)
def test_a_bad_parameter_is_refused(make: Callable[[], Encoder]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.reason == "BAD_VALUE"
    assert caught.value.field


@pytest.mark.parametrize(
    ("encoder", "state"),
    [
        (WordsEncoder(), {}),
        (WordsEncoder(), {"tokens": "abc"}),
        (WordsEncoder(), {"tokens": ["a", 1]}),
        (WordsEncoder(), {"tokens": ["a", "a"]}),
        (WordsEncoder(), {"tokens": ["\ud800"]}),
        (WordsEncoder(), {"tokens": ["a"], "more": 1}),
        (WordsEncoder(vocabulary=3), {"tokens": ["a", "b"]}),
        (LabelEncoder(), {"labels": None}),
        (ImageEncoder(), {"size": 3}),
    ],
)
def test_a_hostile_state_is_refused(encoder: Encoder, state: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encoder.load_state(state)
    assert caught.value.reason == "BAD_STATE"


def test_default_encoders_are_of_known_field_types() -> None:
    assert set(DEFAULT_ENCODERS) < set(FIELD_TYPES)
