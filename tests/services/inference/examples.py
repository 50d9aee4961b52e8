"""Valid requests of inference."""

import base64

from common.upkeep.dump import Reference
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE
from tests.harness.examples import Example, Examples, Existing


def load(existing: Existing) -> str:
    """Loads the model; returns its id."""
    assert existing["alias"]
    model_id = existing["model"].removeprefix("models/")
    existing.mesh.inference.load(model_id)
    return model_id


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""
    model_id = existing["served_model"]
    return {
        "ServerLive": {},
        "ServerReady": {},
        "ModelReady": {"name": model_id, "version": "1"},
        "ServerMetadata": {},
        "ModelMetadata": {"name": model_id, "version": "1"},
        "ModelInfer": {
            "model_name": model_id,
            "id": "1",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3]}],
            "outputs": [{"name": "y"}],
            "raw_input_contents": [base64.b64encode(bytes(24)).decode()],
        },
        "ModelConfig": {"name": model_id, "version": "1"},
        "ModelStatistics": {"name": model_id},
        "RepositoryIndex": {"ready": True},
        "RepositoryModelLoad": {"model_name": model_id, "parameters": {"version": {"string_param": "1"}}},
        "RepositoryModelUnload": {"model_name": "n"},
    }


ABOUT_THE_SERVER = "is about the server"
EXAMPLES = Examples(
    requests=requests,
    makers={"served_model": load},
    refused={"RepositoryModelUnload": "MODEL_NOT_LOADED"},
    lists=frozenset({"RepositoryIndex"}),
    names_nothing={
        "ModelReady": "returns false for what is unknown",
        "RepositoryModelUnload": "unloads what the caller has, if anything",
        "ServerLive": ABOUT_THE_SERVER,
        "ServerMetadata": ABOUT_THE_SERVER,
        "ServerReady": ABOUT_THE_SERVER,
    },
    words=("x", "y", "FP32", "BYTES", "UINT8", "version"),
    references=frozenset(
        {
            Reference("default", "bbbb", MEDIA_TYPE),
            Reference("default", "abcd", ONNX_MEDIA_TYPE),
        }
    ),
)
