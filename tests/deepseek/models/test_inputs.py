from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.models.datatypes import DTYPES
from deepseek.models.inputs import encode_inputs
from deepseek.models.manifest import EncoderSpec, ModelFile, ModelManifest, TensorSpec

TOKENS = ["don", "t", "don't"]


def manifest(**params: int) -> ModelManifest:
    words = EncoderSpec("words", {"length": 3, "vocabulary": 8, **params}, {"tokens": TOKENS})
    written = ModelManifest(
        model="image_question",
        run="runs/r",
        dataset_version="datasets/d/versions/1",
        files=(ModelFile("model.onnx", "fp32", "ab" * 32, 10),),
        served="model.onnx",
        inputs=(TensorSpec("question", "INT64", (-1, -1, 3), words, "question"),),
        outputs=(TensorSpec("output", "FP32", (-1, 2)),),
    )
    return ModelManifest.from_bytes(written.to_bytes())


@pytest.mark.parametrize(
    ("params", "tokens"), [({}, [2, 3, 0]), ({"version": 1}, [2, 3, 0]), ({"version": 2}, [4, 0, 0])]
)
def test_a_model_keeps_the_version_of_its_encoder(params: dict[str, int], tokens: list[int]) -> None:
    assert encode_inputs(manifest(**params), {"question": "Don't"})["question"].tolist() == [[tokens]]


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        encode_inputs(manifest(version=3), {"question": "Don't"})
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "question.params.version")


def integers(datatype: str) -> ModelManifest:
    return ModelManifest(
        model="onnx",
        run="",
        dataset_version="",
        files=(ModelFile("model.onnx", "onnx", "ab" * 32, 10),),
        served="model.onnx",
        inputs=(TensorSpec("x", datatype, (-1, 2)),),
        outputs=(TensorSpec("y", "FP32", (-1, 2)),),
    )


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("UINT8", [0, 255]), ("INT8", [-128, 127]), ("UINT64", np.array([0, 2**64 - 1], np.uint64)), ("INT32", [True, 0])],
)
def test_integers_that_fit_are_accepted_whatever_their_type_is(datatype: str, values: Any) -> None:
    found = encode_inputs(integers(datatype), {"x": values})["x"]
    assert found.dtype == DTYPES[datatype]
    assert found.tolist() == [list(values)]


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("UINT8", [0, 256]), ("UINT8", [-1, 0]), ("INT8", [300, 0]), ("INT64", [2**63, 0]), ("INT64", [2**80, 0])],
)
def test_integers_out_of_range_are_refused_instead_of_wrapped(datatype: str, values: list[int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encode_inputs(integers(datatype), {"x": values})
    assert (caught.value.reason, caught.value.field) == ("BAD_INPUT", "x")


def test_all_missing_fields_are_named() -> None:
    inputs = tuple(TensorSpec(name, "FP32", (-1,), EncoderSpec("number"), name) for name in ("a", "b", "c"))
    with pytest.raises(InvalidArgument, match="a value for 'a', 'c'") as caught:
        encode_inputs(replace(integers("FP32"), inputs=inputs), {"b": 1.0})
    assert [one.field for one in caught.value.violations] == ["a", "c"]
