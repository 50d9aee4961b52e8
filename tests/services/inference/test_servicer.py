"""The Open Inference Protocol over gRPC, with our own client."""

import logging
import urllib.request
from pathlib import Path

import pytest

from common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from deepseek.processor import instruction_set
from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.harness.stores import damage_store
from tests.services.inference.conftest import InferenceServer
from tests.services.inference.models import (
    TENANT,
    Publisher,
    external_model,
    question_model,
    relu_model,
    scale_model,
)
from tests.services.inference.quantized import new_version
from tests.services.inference.requests import ONES, infer_request, load


@pytest.fixture
def stub(served: InferenceServer, publisher: Publisher) -> GRPCInferenceServiceStub:
    """A client of a server that has `m`, version 1 (doubling), loaded."""
    publisher.publish("m", scale_model(2.0))
    load(served.stub, "m")
    return served.stub


def test_the_server_is_live_ready_and_tells_what_it_is(served: InferenceServer) -> None:
    assert served.stub.ServerLive(pb.ServerLiveRequest()).live
    assert served.stub.ServerReady(pb.ServerReadyRequest()).ready
    metadata = served.stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "deepseek-mesh"
    assert metadata.version
    assert list(metadata.extensions) == ["model_repository", "model_configuration", "statistics"]


def test_an_answer_is_raw_and_names_the_version_that_gave_it(stub: GRPCInferenceServiceStub) -> None:
    response = stub.ModelInfer(infer_request())
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "42")
    [output] = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2, 3])
    assert list(response.raw_output_contents) == [(2 * ONES).tobytes()]


def test_typed_contents_get_the_same_answer(stub: GRPCInferenceServiceStub) -> None:
    request = infer_request()
    request.ClearField("raw_input_contents")
    request.inputs[0].contents.fp32_contents.extend(ONES.ravel())
    assert stub.ModelInfer(request) == stub.ModelInfer(infer_request())


def test_metadata_is_the_graphs(stub: GRPCInferenceServiceStub, publisher: Publisher) -> None:
    publisher.publish("q", question_model())
    load(stub, "q")
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="q"))
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("q", ["1"], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("image", "UINT8", [-1, 8, 8, 3]),
        ("question", "INT64", [-1, -1, 4]),
        ("note", "BYTES", [-1]),
    ]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == [
        ("logits", "FP32", [-1, -1, 5]),
        ("echo", "BYTES", [-1]),
    ]


def test_a_model_is_ready_only_while_it_is_loaded(stub: GRPCInferenceServiceStub) -> None:
    def ready(name: str, version: str = "") -> bool:
        answer: bool = stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready
        return answer

    assert ready("m")
    assert ready("m", "1")
    assert not ready("m", "2")
    assert not ready("none")
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"))
    assert not ready("m")
    with pytest.raises(NotFound) as caught:
        stub.ModelInfer(infer_request())
    assert (caught.value.reason, caught.value.field) == ("MODEL_NOT_LOADED", "model_name")


def test_a_tensor_of_any_rank_is_shown_as_one_varying_dimension(
    stub: GRPCInferenceServiceStub, publisher: Publisher
) -> None:
    publisher.publish("any", relu_model(None))
    load(stub, "any")
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="any"))
    assert [list(one.shape) for one in (*metadata.inputs, *metadata.outputs)] == [[-1], [-1]]
    response = stub.ModelInfer(infer_request("any"))
    assert list(response.outputs[0].shape) == [2, 3]


def test_a_model_that_does_not_load_names_no_path(served: InferenceServer, publisher: Publisher) -> None:
    publisher.publish("m", external_model())
    with pytest.raises(FailedPrecondition, match="Export it as one file") as caught:
        load(served.stub, "m")
    assert "/" not in caught.value.message


def test_a_load_swaps_and_the_index_follows(stub: GRPCInferenceServiceStub, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(3.0))
    publisher.publish("other", scale_model(4.0))
    load(stub, "m", "2")
    assert stub.ModelInfer(infer_request()).model_version == "2"
    everything = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert [(one.name, one.version, one.state) for one in everything] == [
        ("m", "2", "READY"),
        ("other", "", "UNAVAILABLE"),
    ]
    ready = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert [one.name for one in ready] == ["m"]


def test_the_file_that_answers_is_named_everywhere(
    served: InferenceServer, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    publisher.publish_files("q", *new_version())
    with caplog.at_level(logging.INFO, "services.inference.repository"):
        load(served.stub, "q")
    metadata = served.stub.ModelMetadata(pb.ModelMetadataRequest(name="q"))
    told = {name: parameter.string_param for name, parameter in metadata.parameters.items()}
    assert (told["variant"], told["file"]) in (("fp32", "model.onnx"), ("int8", "model.int8.onnx"))
    assert told["instruction_set"] == instruction_set()
    sentence = f"{told['variant']} on {instruction_set()}: {told['reason']}"
    assert caplog.messages == [f"loaded q version 1: {sentence}"]
    [entry] = served.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert entry.reason == sentence
    with urllib.request.urlopen(f"http://{served.metrics}/metrics") as response:
        metrics = response.read().decode()
    labels = f'instruction_set="{instruction_set()}",model="q",variant="{told["variant"]}",version="1"'
    assert f"deepseek_served_model{{{labels}}} 1.0" in metrics


def test_a_damaged_blob_is_data_loss_to_the_caller_and_the_old_version_answers(
    stub: GRPCInferenceServiceStub, publisher: Publisher, tmp_path: Path
) -> None:
    damaged = publisher.store.put(TENANT, scale_model(3.0), "application/vnd.onnx").sha256
    publisher.publish("m", scale_model(3.0))
    damage_store(tmp_path, damaged)
    with pytest.raises(DataLoss) as caught:
        load(stub, "m")
    assert caught.value.reason == "BLOB_DAMAGED"
    assert stub.ModelInfer(infer_request()).model_version == "1"


def test_a_refused_request_names_the_field_and_the_next_one_is_answered(stub: GRPCInferenceServiceStub) -> None:
    wrong = infer_request()
    wrong.raw_input_contents[0] = b"\0"
    with pytest.raises(InvalidArgument) as caught:
        stub.ModelInfer(wrong)
    assert (caught.value.reason, caught.value.field) == ("BAD_INPUT", "raw_input_contents[0]")
    assert stub.ModelInfer(infer_request()).id == "42"


def test_parameters_without_a_meaning_are_refused(stub: GRPCInferenceServiceStub) -> None:
    request = infer_request()
    request.parameters["priority"].uint64_param = 1
    with pytest.raises(InvalidArgument) as of_request:
        stub.ModelInfer(request)
    assert (of_request.value.reason, of_request.value.field) == ("UNKNOWN_FIELD", "parameters[priority]")
    request = infer_request()
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    with pytest.raises(InvalidArgument) as of_output:
        stub.ModelInfer(request)
    assert of_output.value.field == "outputs[0].parameters[classification]"
    loading = pb.RepositoryModelLoadRequest(model_name="m")
    loading.parameters["config"].string_param = "{}"
    with pytest.raises(InvalidArgument) as of_load:
        stub.RepositoryModelLoad(loading)
    assert (of_load.value.reason, of_load.value.field) == ("UNKNOWN_FIELD", "parameters[config]")
    numbered = pb.RepositoryModelLoadRequest(model_name="m")
    numbered.parameters["version"].int64_param = 1
    with pytest.raises(InvalidArgument) as of_version:
        stub.RepositoryModelLoad(numbered)
    assert (of_version.value.reason, of_version.value.field) == ("BAD_VALUE", "parameters[version]")


def test_there_is_one_repository(stub: GRPCInferenceServiceStub) -> None:
    for call, request in (
        (stub.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="r")),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(repository_name="r", model_name="m")),
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(repository_name="r", model_name="m")),
    ):
        with pytest.raises(NotFound) as caught:
            call(request)
        assert (caught.value.reason, caught.value.field) == ("REPOSITORY_NOT_FOUND", "repository_name")
