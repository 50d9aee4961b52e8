"""The extensions of the protocol: model configurations, statistics, and labels in the metadata."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from onnx import TensorProto

from common.errors import InvalidArgument, NotFound
from deepseek.models.manifest import ModelFile, ModelManifest, TensorSpec
from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.services.inference.conftest import InferenceServer
from tests.services.inference.models import TENANT, Publisher, identity_model, scale_model
from tests.services.inference.opened import Opened
from tests.services.inference.requests import infer_request, load


@pytest.fixture
def stub(served: InferenceServer, publisher: Publisher) -> GRPCInferenceServiceStub:
    """A client of a server that has loaded the model `m`, which doubles its input."""
    publisher.publish("m", scale_model(2.0))
    load(served.stub, "m")
    return served.stub


def labelled_manifest() -> ModelManifest:
    return ModelManifest(
        model="test",
        run="runs/test",
        dataset_version="datasets/test/versions/1",
        files=(ModelFile("model.onnx", "fp32", "0" * 64, 1),),
        served="model.onnx",
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3), labels=("red", "gr\u00fcn", 'a "quote", and a comma')),),
    )


def test_a_configuration_follows_from_the_model(stub: GRPCInferenceServiceStub, publisher: Publisher) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="m")).config
    assert (config.name, config.platform, config.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == (1 << 31) - 1
    [given], [found] = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("x", pb.TYPE_FP32, [3])
    assert (found.name, found.data_type, list(found.dims)) == ("y", pb.TYPE_FP32, [3])
    publisher.publish("fixed", identity_model(TensorProto.STRING, (2,)))
    load(stub, "fixed")
    config = stub.ModelConfig(pb.ModelConfigRequest(name="fixed", version="1")).config
    assert config.max_batch_size == 0
    assert [(one.data_type, list(one.dims)) for one in config.input] == [(pb.TYPE_STRING, [2])]


def test_statistics_count_requests_batches_and_failures(stub: GRPCInferenceServiceStub) -> None:
    [before] = stub.ModelStatistics(pb.ModelStatisticsRequest(name="m")).model_stats
    assert (before.execution_count, before.last_inference) == (0, 0)
    for _ in range(3):
        stub.ModelInfer(infer_request())
    wrong = infer_request()
    wrong.raw_input_contents[0] = b"\0"
    with pytest.raises(InvalidArgument):
        stub.ModelInfer(wrong)
    [found] = stub.ModelStatistics(pb.ModelStatisticsRequest(name="m", version="1")).model_stats
    assert (found.name, found.version) == ("m", "1")
    assert (found.inference_count, found.execution_count) == (6, 3), "each request is a batch of two"
    assert found.last_inference > 1_600_000_000_000
    times = found.inference_stats
    assert (times.success.count, times.fail.count, times.queue.count, times.queue.ns) == (3, 1, 3, 0)
    parts = (times.compute_input, times.compute_infer, times.compute_output)
    assert [part.count for part in parts] == [3, 3, 3]
    assert all(part.ns > 0 for part in parts)
    assert sum(part.ns for part in parts) == times.success.ns


def test_statistics_of_all_models_start_anew_with_a_version(
    stub: GRPCInferenceServiceStub, publisher: Publisher
) -> None:
    stub.ModelInfer(infer_request())
    publisher.publish("a", scale_model(1.0))
    load(stub, "a")
    publisher.publish("m", scale_model(3.0))
    load(stub, "m")
    found = stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert [(one.name, one.version, one.execution_count) for one in found] == [("a", "1", 0), ("m", "2", 0)]


def test_a_model_that_is_not_loaded_has_neither(stub: GRPCInferenceServiceStub) -> None:
    for call, request in (
        (stub.ModelConfig, pb.ModelConfigRequest(name="none")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="none")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="m", version="7")),
    ):
        with pytest.raises(NotFound) as caught:
            call(request)
        assert caught.value.reason == "MODEL_NOT_LOADED"


def test_metadata_has_the_labels_of_each_output(served: InferenceServer, publisher: Publisher) -> None:
    publisher.publish_files("q", labelled_manifest(), {"model.onnx": scale_model(2.0)})
    load(served.stub, "q")
    parameters = served.stub.ModelMetadata(pb.ModelMetadataRequest(name="q")).parameters
    assert json.loads(parameters["labels.y"].string_param) == ["red", "gr\u00fcn", 'a "quote", and a comma']


def test_labels_survive_a_restart_without_the_store(opened: Opened, publisher: Publisher) -> None:
    publisher.publish_files("q", labelled_manifest(), {"model.onnx": scale_model(2.0)})
    with opened() as repository:
        repository.load(TENANT, "q")
    with opened(registry="127.0.0.1:1") as repository:
        assert list(repository.get(TENANT, "q").labels["y"])[:2] == ["red", "gr\u00fcn"]


def test_a_restart_adds_the_labels_that_earlier_releases_did_not_record(
    opened: Opened, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish_files("q", labelled_manifest(), {"model.onnx": scale_model(2.0)})
    with opened() as repository:
        repository.load(TENANT, "q")
    with closing(sqlite3.connect(tmp_path / "inference.db")) as database, database:
        database.execute("UPDATE loaded_models SET labels = ''")
    for _ in range(2):  # the second time from the record
        with opened(registry="127.0.0.1:1") as repository:
            assert list(repository.get(TENANT, "q").labels["y"])[:2] == ["red", "gr\u00fcn"]
