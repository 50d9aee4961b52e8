"""Continuations of texts. The served model is a function here: it always writes the next letter of the alphabet."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.errors import FailedPrecondition
from deepseek.cli import predict
from deepseek.client import predictor, writing
from deepseek.client.continuation import Continuer, Sampling
from deepseek.client.predictor import Predictor
from deepseek.client.writing import Writer, sampler
from deepseek.models.manifest import EncoderSpec, ModelFile, ModelManifest, TensorSpec

LETTERS = "abcdefgh"
LENGTH = 4
FIRST = 2
"""Token of the first letter; 0 and 1 are special."""


def next_letter(_: str, arrays: dict[str, npt.NDArray[Any]], version: int) -> dict[str, npt.NDArray[Any]]:
    tokens = arrays["text"]
    logits = np.full((*tokens.shape, 20), -5, np.float32)
    following = np.where(tokens < FIRST, 0, (tokens - FIRST + 1) % len(LETTERS) + FIRST)
    np.put_along_axis(logits, following[..., None], 5, 2)
    logits[..., -1] = 100  # no letter
    return {"logits": logits}


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Any:
    encoder = EncoderSpec("characters", {"length": LENGTH, "vocabulary": 20}, {"tokens": list(LETTERS)})
    manifest = ModelManifest(
        model="transformer_lm",
        run="",
        dataset_version="",
        files=(ModelFile("model.onnx", "fp32", "ab" * 32, 10),),
        served="model.onnx",
        inputs=(TensorSpec("text", "INT64", (-1, LENGTH), encoder=encoder, field="line"),),
        outputs=(TensorSpec("logits", "FP32", (-1, LENGTH, 20)),),
    )
    for module in (predictor, writing):
        monkeypatch.setattr(module, "served_number", lambda *_, **__: ("m", 1))
    return SimpleNamespace(
        inference=SimpleNamespace(infer=next_letter),
        models=SimpleNamespace(manifest=lambda _: manifest, version=lambda name: name),
        manifest=manifest,
    )


def test_texts_of_different_lengths_are_continued_together(mesh: Any) -> None:
    rows = [{"line": "a"}, {"line": "abcdefgh"}, {"line": ""}, {"text": "fg"}, {}]
    first, second, empty, third, missing = Continuer(mesh, "m", Sampling(6, temperature=0)).predict(rows)
    assert [one.text for one in (first, second, third)] == ["bcdefg", "abcdef", "habcde"]
    assert [one.error and (one.error.reason, one.error.field) for one in (empty, missing)] == [
        ("EMPTY_PROMPT", "line"),
        ("MISSING_FIELD", "line"),
    ]


def test_a_continuation_depends_on_the_seed_and_not_on_the_batches(mesh: Any) -> None:
    rows = [{"line": "abc"}] * 5

    def texts(seed: int, batch_size: int) -> list[str]:
        continuer = Continuer(mesh, "m", Sampling(20, temperature=5.0, seed=seed))
        return [one.text for one in continuer.predict(rows, batch_size=batch_size)]

    assert texts(1, batch_size=5) == texts(1, batch_size=2)
    assert texts(1, batch_size=5) != texts(2, batch_size=5)
    assert len(set(texts(1, batch_size=5))) == 5


def test_all_requests_are_for_the_version_of_the_manifest(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, manifests, asked = iter("1234"), list[str](), list[str]()

    def served(_: Any, model: str, *, field: str) -> tuple[str, str]:
        return "m", model.rpartition("/")[2] if "/versions/" in model else next(numbers)

    for module in (predictor, writing):
        monkeypatch.setattr(module, "served_number", served)
    monkeypatch.setattr(mesh.models, "manifest", lambda name: manifests.append(name) or mesh.manifest)

    def infer(model: str, arrays: Any, version: str) -> dict[str, npt.NDArray[Any]]:
        asked.append(version)
        return next_letter(model, arrays, 1)

    mesh.inference.infer = infer
    assert next(Continuer(mesh, "m@moving", Sampling(3, temperature=0)).predict([{"line": "a"}])).text == "bcd"
    assert (manifests, asked) == (["models/m/versions/1"], ["1"] * 3)
    found = predict._writing(mesh, Predictor(mesh, "m@moving"), {"--tokens": 1})
    assert isinstance(found, Continuer)
    assert next(found.predict([{"line": "a"}])).text
    assert asked[3:] == ["2"]


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = np.array([-np.inf, np.log(0.2), np.log(0.8)], np.float32)
    draw = sampler(1.0, (0,))
    shares = np.bincount([draw(logits) for _ in range(4000)], minlength=3) / 4000
    assert shares == pytest.approx([0, 0.2, 0.8], abs=0.03)


def test_a_model_with_other_outputs_is_no_language_model(mesh: Any) -> None:
    mesh.manifest.outputs[0].__dict__["shape"] = (-1, 2)
    with pytest.raises(FailedPrecondition, match="is not a language model"):
        Writer(mesh, "m")
