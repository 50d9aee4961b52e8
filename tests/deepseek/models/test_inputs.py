import pytest

from common.errors import InvalidArgument
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
