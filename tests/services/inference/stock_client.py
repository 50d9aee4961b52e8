"""Asks a server with a stock client: `python stock_client.py ADDRESS INPUTS.npz OUTPUTS.npz`."""

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype


def main(address: str, inputs_path: str, outputs_path: str) -> None:
    """Loads `q`, asks it, checks everything around it, unloads it; the answers go into a file."""
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    extensions = ["model_repository", "model_configuration", "statistics"]
    assert list(client.get_server_metadata().extensions) == extensions
    assert not client.is_model_ready("q")
    client.load_model("q")
    assert client.is_model_ready("q")
    assert [(one.name, one.version, one.state) for one in client.get_model_repository_index().models] == [
        ("q", "1", "READY")
    ]
    metadata = client.get_model_metadata("q")
    arrays = np.load(inputs_path, allow_pickle=False)
    given = {name: arrays[name] for name in arrays.files}
    given["note"] = given["note"].astype(np.object_)
    inputs = []
    for declared in metadata.inputs:
        array = given[declared.name]
        assert np_to_triton_dtype(array.dtype) == declared.datatype
        tensor = triton.InferInput(declared.name, array.shape, declared.datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    everything = client.infer("q", inputs, request_id="7")
    assert everything.get_response().id == "7"
    assert everything.get_response().model_version == "1"
    one = client.infer("q", inputs, model_version="1", outputs=[triton.InferRequestedOutput("logits")])
    assert one.as_numpy("echo") is None
    np.savez(
        outputs_path,
        logits=everything.as_numpy("logits"),
        logits_alone=one.as_numpy("logits"),
        echo=np.char.decode(everything.as_numpy("echo").astype(np.bytes_), "utf-8"),
    )
    assert refusal(client, "q", inputs[:1]) == ("StatusCode.INVALID_ARGUMENT", "input 'question' is missing")
    assert refusal(client, "none", inputs)[0] == "StatusCode.NOT_FOUND"
    config = client.get_model_config("q").config
    assert (config.max_batch_size, config.platform) == ((1 << 31) - 1, "onnxruntime_onnx")
    assert [(one.name, list(one.dims)) for one in config.output] == [("logits", [-1, 5]), ("echo", [])]
    [statistics] = client.get_inference_statistics("q").model_stats
    assert statistics.inference_count == 2 * len(given["image"])
    assert (statistics.execution_count, statistics.inference_stats.fail.count) == (2, 1)
    client.unload_model("q")
    assert not client.is_model_ready("q")
    client.close()


def refusal(client: triton.InferenceServerClient, model: str, inputs: list[triton.InferInput]) -> tuple[str, str]:
    """Status and message of a request that must be refused."""
    try:
        client.infer(model, inputs)
    except triton.InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError(f"{model} answered")


if __name__ == "__main__":
    main(*sys.argv[1:])
