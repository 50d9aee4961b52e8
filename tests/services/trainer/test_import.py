"""Imports of ONNX models over RPC: what is registered, and what is refused without leaving anything behind."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from common.errors import AlreadyExists, InvalidArgument, MeshError, NotFound
from deepseek.client import Mesh
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.harness.processes import wait_until
from tests.services.trainer import onnx_models
from tests.services.trainer.conftest import TrainerMesh, start_trainer


@pytest.fixture(scope="module")
def client(mesh: TrainerMesh) -> Iterator[Mesh]:
    with Mesh(mesh.file) as client:
        yield client


def has(client: Mesh, model: str) -> bool:
    try:
        return bool(list(client.models.versions(model)))
    except NotFound:
        return False


def refusal(client: Mesh, path: Path, **options: object) -> MeshError:
    with pytest.raises(MeshError) as caught:
        client.models.import_onnx("refused", path, **options)  # type: ignore[arg-type]
    assert not has(client, "refused")
    return caught.value


def test_a_model_is_registered_unchanged_with_what_was_found(client: Mesh, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear())
    version = client.models.import_onnx("linear", path, note="from the tests")
    manifest = client.models.manifest(version)
    assert version.name == "models/linear/versions/1"
    assert client.artifacts.read(manifest.file().sha256) == path.read_bytes()
    origin = manifest.origin
    assert origin is not None
    assert (origin.file, origin.producer, origin.license, origin.note) == (
        "linear.onnx",
        "tests 1",
        "MIT",
        "from the tests",
    )
    assert origin.sha256 == manifest.file().sha256
    assert origin.opsets == {"ai.onnx": 17, "ai.onnx.ml": 3}
    assert origin.operators == {"MatMul": 1}
    assert origin.batch_sizes == (1, 3)
    assert [(one.name, one.datatype, one.shape) for one in manifest.inputs] == [("x", "FP32", (-1, 4))]
    assert [(one.name, one.datatype, one.shape) for one in manifest.outputs] == [("y", "FP32", (-1, 2))]


def test_the_same_file_again_is_the_same_version(client: Mesh, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "m.onnx", onnx_models.linear())
    assert client.models.import_onnx("again", path).name == client.models.import_onnx("models/again", path).name


def test_external_data_is_merged_into_the_file(client: Mesh, tmp_path: Path) -> None:
    onnx_models.with_external_data(tmp_path)
    manifest = client.models.manifest(client.models.import_onnx("external", tmp_path))
    assert manifest.origin is not None
    assert manifest.origin.remarks == ("external data was merged into the file: weights.bin",)
    session = ort.InferenceSession(client.artifacts.read(manifest.file().sha256))
    np.testing.assert_allclose(session.run(None, {"x": np.eye(4, dtype=np.float32)})[0], onnx_models.RATES)


def test_external_data_may_have_several_names_of_one_file(client: Mesh, tmp_path: Path) -> None:
    made = onnx.load(onnx_models.with_external_data(tmp_path, "./weights.bin"), load_external_data=False)
    other = made.graph.initializer.add()
    other.CopyFrom(made.graph.initializer[0])
    other.name = "unused"
    other.external_data[0].value = "weights.bin"
    onnx_models.write(tmp_path / "external.onnx", made)
    manifest = client.models.manifest(client.models.import_onnx("names", tmp_path))
    assert manifest.origin is not None
    assert manifest.origin.remarks == ("external data was merged into the file: weights.bin",)


def test_the_tensor_behind_a_zipmap_replaces_its_maps(client: Mesh, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "forest.onnx", onnx_models.classifier())
    manifest = client.models.manifest(client.models.import_onnx("forest", path))
    assert [(one.name, one.labels) for one in manifest.outputs] == [("label", ()), ("probabilities", ("no", "yes"))]
    assert manifest.origin is not None
    assert "ZipMap" not in manifest.origin.operators
    (remark,) = manifest.origin.remarks
    assert remark.startswith("the output 'by_class' is no tensor and was left out; the tensor 'probabilities'")


def test_labels_become_those_of_the_output_that_has_as_many_scores(client: Mesh, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear())
    manifest = client.models.manifest(client.models.import_onnx("labelled", path, labels=["cat", "dog"]))
    assert [one.labels for one in manifest.outputs] == [("cat", "dog")]


def test_labels_that_fit_no_output_are_refused(client: Mesh, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear())
    error = refusal(client, path, labels=["a", "b", "c"])
    assert (error.reason, error.field) == ("BAD_LABELS", "labels")
    assert error.message == (
        "the file has 3 labels, but the output 'y' has 2 scores; write one label per score, in the order of the scores"
    )


def test_the_batch_may_be_on_another_axis_or_fixed(client: Mesh, tmp_path: Path) -> None:
    state = onnx_models.write(tmp_path / "state.onnx", onnx_models.recurrent())
    fixed = onnx_models.write(tmp_path / "fixed.onnx", onnx_models.linear(batch=1))
    pairs = onnx_models.write(tmp_path / "pairs.onnx", onnx_models.linear(batch=2))
    found = [client.models.manifest(client.models.import_onnx("batch", path)) for path in (state, fixed, pairs)]
    origins = [one.origin for one in found]
    assert [one and one.batch_sizes for one in origins] == [(1, 3), (1,), (2,)]
    assert [one.fixed_batch_size for one in found] == [0, 1, 2]
    assert origins[1]
    assert origins[1].remarks == ("the model has the fixed batch size 1; requests of other sizes are refused",)


def test_an_example_helps_where_generated_requests_fail(client: Mesh, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["size"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["table", "size"], ["y"]),
    ]
    table = onnx.numpy_helper.from_array(np.arange(300, dtype=np.float32), "table")
    picky = onnx_models.model(nodes, [onnx_models.tensor("x", ["N", 1])], [onnx_models.tensor("y", ["N", 1])], [table])
    picky.graph.node[1].input[1] = "shifted"
    picky.graph.node.insert(1, helper.make_node("Sub", ["size", "offset"], ["shifted"]))
    picky.graph.initializer.append(onnx.numpy_helper.from_array(np.array(100_000, np.int64), "offset"))
    path = onnx_models.write(tmp_path / "picky.onnx", picky)
    assert "--example" in refusal(client, path).message
    assert refusal(client, path, example={"z": np.zeros((1, 1))}).reason == "BAD_VALUE"
    version = client.models.import_onnx("picky", path, example={"x": np.full((1, 1), 100_005, np.float32)})
    origin = client.models.manifest(version).origin
    assert origin
    assert origin.batch_sizes == (1, 3)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "link/weights.bin"])
def test_external_data_outside_of_the_folder_is_not_read(client: Mesh, tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(onnx_models.RATES.tobytes())
    (folder / "link").symlink_to(tmp_path)
    error = refusal(client, onnx_models.with_external_data(folder, location))
    assert (error.reason, error.field) == ("BAD_PATH", "file")
    assert repr(location) in error.message


def sent(mesh: TrainerMesh, *requests: pb.ImportModelRequest) -> job_pb2.Job:
    """Sends messages, and waits for the end of the job."""
    name = mesh.runs.ImportModel(iter(requests)).job.name
    *_, last = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=name), timeout=100)
    job: job_pb2.Job = last.job
    return job


@pytest.mark.parametrize(
    ("location", "reason"),
    [("../../../etc/hostname", "BAD_PATH"), ("/etc/hostname", "BAD_PATH"), ("x", "MISSING_FILE")],
)
def test_the_server_does_not_trust_locations_either(
    client: Mesh, mesh: TrainerMesh, tmp_path: Path, location: str, reason: str
) -> None:
    data = onnx_models.with_external_data(tmp_path, location).read_bytes()
    error = sent(mesh, pb.ImportModelRequest(model="models/refused", file="m.onnx", data=data)).error
    assert (error.reason, error.field) == (reason, "file")
    assert not has(client, "refused")


@pytest.mark.parametrize(
    ("requests", "reason", "field"),
    [
        ([], "MISSING_FIELD", "model"),
        ([{"model": "models/m"}], "MISSING_FIELD", "file"),
        ([{"model": "m", "file": "m.onnx"}], "BAD_NAME", "model"),
        ([{"model": "models/m", "file": "../m.onnx"}], "BAD_PATH", "file"),
        ([{"model": "models/m", "file": "/m.onnx"}], "BAD_PATH", "file"),
        ([{"model": "models/m", "file": "m.onnx"}, {"file": "m.onnx"}], "BAD_VALUE", "file"),
        ([{"model": "models/m", "file": "m.onnx"}, {"model": "models/n"}], "BAD_VALUE", "model"),
        ([{"model": "models/m", "file": "m.onnx", "data": b"ab"}, {"offset": 3}], "OFFSET_MISMATCH", "offset"),
        ([{"model": "models/m", "file": "m.onnx", "license": "x" * 5000}], "TOO_LARGE", "license"),
        (
            [{"model": "models/m", "file": "m.onnx", "labels": ["x", "y" * (1 << 20)]}],
            "TOO_LARGE",
            "labels",
        ),
        ([{"model": "models/m", "file": "m.onnx", "labels": ["x", "y", "x"]}], "BAD_VALUE", "labels[2]"),
        ([{"model": "models/m", "file": "m.onnx", "labels": ["x", ""]}], "BAD_VALUE", "labels[1]"),
        ([{"model": "models/m", "file": "m.onnx", "labels": ["x"]}], "BAD_VALUE", "labels"),
        ([{"model": "models/m", "file": "m.onnx"}, {"labels": ["x", "y"]}], "BAD_VALUE", "labels"),
        ([{"model": "models/m"}] + 1001 * [{"file": "f"}], "MISSING_FIELD", "file"),
        ([{"model": "models/m", "file": "0"}] + [{"file": str(i)} for i in range(1, 1001)], "TOO_LARGE", "file"),
    ],
)
def test_a_wrong_stream_is_refused(
    mesh: TrainerMesh, requests: Sequence[Mapping[str, Any]], reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.ImportModel(iter([pb.ImportModelRequest(**one) for one in requests]))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_repeated_label_is_named_with_both_places(mesh: TrainerMesh) -> None:
    request = pb.ImportModelRequest(model="models/m", file="m.onnx", labels=["x", "y", "x"])
    with pytest.raises(InvalidArgument, match=r"label 3 of 3 \('x'\) is the same as label 1; labels must be unique"):
        mesh.runs.ImportModel(iter([request]))


def test_a_repeated_call_returns_the_same_job(mesh: TrainerMesh) -> None:
    data = onnx_models.linear().SerializeToString()
    request = pb.ImportModelRequest(model="models/repeated", file="m.onnx", data=data, request_id="once")
    assert sent(mesh, request).name == sent(mesh, request).name
    with pytest.raises(AlreadyExists, match="different request"):
        sent(
            mesh, pb.ImportModelRequest(model="models/repeated", file="m.onnx", data=data, note="x", request_id="once")
        )


def broken(**options: Any) -> onnx.ModelProto:
    made = onnx_models.linear()
    for name, value in options.items():
        setattr(made.graph.node[0], name, value)
    if "domain" in options:
        made.opset_import.add(domain=options["domain"], version=1)
    return made


def without_opset(version: int) -> onnx.ModelProto:
    made = onnx_models.linear()
    made.opset_import[0].version = version
    return made


def future_format() -> onnx.ModelProto:
    made = onnx_models.linear()
    made.ir_version = 99
    return made


def only_maps() -> onnx.ModelProto:
    made = onnx_models.classifier()
    made.graph.node[-1].op_type = "Mystery"
    made.graph.node[-1].domain = ""
    del made.graph.output[0]
    return made


@pytest.mark.parametrize(
    ("made", "reason", "message"),
    [
        (b"not a model", "BAD_MODEL", "m.onnx is not an ONNX file"),
        (b"", "BAD_MODEL", "m.onnx is not an ONNX"),
        (onnx_models.linear().SerializeToString()[:100], "BAD_MODEL", "m.onnx is not an ONNX file"),
        (broken(op_type="Frobnicate"), "UNKNOWN_OPERATOR", "operators that ONNX does not define: Frobnicate"),
        (broken(op_type="Mine", domain="my.own"), "UNKNOWN_OPERATOR", "my.own:Mine"),
        (without_opset(99), "UNSUPPORTED_OPSET", "the model uses opset 99 of ai.onnx; this server knows opsets up to"),
        (future_format(), "UNSUPPORTED_OPSET", "IR version is 99"),
        (only_maps(), "UNSUPPORTED_DATATYPE", "no output that is a tensor"),
        (broken(op_type="Relu"), "BAD_MODEL", "Relu"),
        (onnx_models.huge(), "BAD_MODEL", "Failed to allocate memory"),
    ],
)
def test_a_bad_model_is_refused_and_not_registered(
    client: Mesh, mesh: TrainerMesh, made: onnx.ModelProto | bytes, reason: str, message: str
) -> None:
    data = made if isinstance(made, bytes) else made.SerializeToString()
    error = sent(mesh, pb.ImportModelRequest(model="models/refused", file="m.onnx", data=data)).error
    assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", reason, "file"), error
    assert message in error.message
    assert not has(client, "refused")


@pytest.mark.slow
def test_a_model_that_never_ends_or_kills_its_process_harms_nobody(tmp_path: Path) -> None:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned, import_timeout_s="5")
        request = pb.ImportModelRequest(
            model="models/refused", file="m.onnx", data=onnx_models.endless().SerializeToString()
        )
        assert sent(mesh, request).error.reason == "MODEL_TOO_SLOW"
        name = mesh.runs.ImportModel(iter([request])).job.name
        wait_until(lambda: _kill_child(mesh), "the child to be killed", timeout_s=30)
        *_, last = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=name), timeout=100)
        assert last.job.error.reason == "MODEL_CRASHED"
        assert not list((mesh.home / "trainer" / "imports").iterdir())
        good = pb.ImportModelRequest(model="models/good", file="m.onnx", data=onnx_models.linear().SerializeToString())
        assert sent(mesh, good).result == "models/good/versions/1"


def _kill_child(mesh: TrainerMesh) -> bool:
    """Kills the process that checks the model, once it has begun."""
    for events in (mesh.home / "trainer" / "imports").glob("*/*/child/events.jsonl"):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(events.parent).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    return True
    return False
