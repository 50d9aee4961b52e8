"""Evaluations of versions that the mesh serves and of others, by the library and by the command line."""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from common.artifacts.proto import to_proto
from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.client import Mesh
from deepseek.client.evaluating import compare, evaluate
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.embedded import EmbeddedMesh
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE, EncoderSpec, ModelFile, ModelManifest, TensorSpec
from protos.inference.v2 import inference_pb2
from protos.ingest.v1 import ingest_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.deepseek.cli.commands import assert_refused, deepseek
from tests.services.trainer.onnx_models import model, tensor

pytestmark = pytest.mark.slow
IMAGE = TensorSpec("image", "UINT8", (-1, 4, 4, 3), EncoderSpec("image", {"size": 4}), "image")
SCORES = TensorSpec("scores", "FP32", (-1, 2), labels=("dark", "bright"))
GREYS = (0, 50, 150, 170, 220, 255)


def threshold(value: float) -> onnx.ModelProto:
    """Scores of [dark, bright]: a constant, and the mean of the pixels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["bright"]),
        helper.make_node("Mul", ["bright", "zero"], ["blank"]),
        helper.make_node("Add", ["blank", "value"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["scores"], axis=1),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array(number, dtype), name)
        for name, number, dtype in (("zero", 0, np.float32), ("value", value, np.float32), ("one", [1], np.int64))
    ]
    inputs = [tensor("image", ["N", 4, 4, 3], TensorProto.UINT8)]
    return model(nodes, inputs, [tensor("scores", ["N", 2])], constants)


def register(
    mesh: Mesh,
    name: str,
    proto: onnx.ModelProto,
    dataset: str,
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    run: str = "",
) -> str:
    file = mesh.store.put(mesh.tenant, proto.SerializeToString(), ONNX_MEDIA_TYPE)
    manifest = ModelManifest(
        model="test",
        run=run,
        dataset_version=dataset,
        files=(ModelFile("model.onnx", "fp32", file.sha256, file.size_bytes),),
        served="model.onnx",
        inputs=tuple(inputs),
        outputs=(output,),
    )
    stored = to_proto(mesh.store.put(mesh.tenant, manifest.to_bytes(), MEDIA_TYPE))
    request = registry_pb2.CreateModelVersionRequest(parent=f"models/{name}", manifest=stored)
    created = registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry")).CreateModelVersion(request)
    return str(created.model_version.name)


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def greys(mesh: Mesh) -> str:
    """The data set, with two versions of the model `light`: the first is right above 100, the second above 200."""
    fields = [Field("image", "image"), Field("label", "label", labels=("bright", "dark"))]
    samples = [
        Sample(f"{grey:03}.png", split, {"image": picture(grey), "label": "bright" if grey > 100 else "dark"})
        for split in ("test", "train")
        for grey in GREYS[: 6 if split == "test" else 2]
    ]
    unique = [Sample(f"{one.split}-{one.key}", one.split, one.values) for one in samples]
    dataset = mesh.datasets.upload("greys", fields, unique).name
    if not any(one.name == "models/light" for one in mesh.models.list()):
        for value in (100, 200):
            register(mesh, "light", threshold(value), dataset, [IMAGE], SCORES)
        mesh.inference.load("light", "1")
    return dataset


def home(embedded: EmbeddedMesh) -> Path:
    assert embedded.file.store
    return Path(embedded.file.store.url.removeprefix("file://")).parent


def test_a_served_version_is_evaluated_by_the_service(mesh: Mesh, greys: str) -> None:
    counts: list[tuple[int, int]] = []
    found = evaluate(mesh, "light:1", on_sample=lambda count, total: counts.append((count, total)))
    assert (found.runner, found.file, found.dataset_version, found.split) == ("inference", "model.onnx", greys, "test")
    assert (found.target, found.task, found.num_samples, found.num_skipped) == ("label", "classification", 6, 0)
    assert found.metrics["accuracy"] == 1
    assert counts[-1] == (6, 6)


def test_another_version_is_run_here_and_the_served_one_stays(mesh: Mesh, greys: str) -> None:
    found = evaluate(mesh, "light:2")
    assert found.runner == "local"
    assert list(found.labels) == ["dark", "bright"]
    assert found.confusion is not None
    assert found.confusion.tolist() == [[2, 0], [2, 2]]
    assert [row.key for row in found.worst[:2]] == ["test-150.png", "test-170.png"]
    assert [one.version for one in mesh.inference.index(ready=True) if one.name == "light"] == ["1"]


def test_without_onnx_runtime_the_error_says_what_to_do(
    mesh: Mesh, greys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FailedPrecondition, match="deepseek model load light:2"):
        evaluate(mesh, "light:2")


def test_two_versions_are_compared_on_the_same_rows(mesh: Mesh, greys: str) -> None:
    found = compare(mesh, "light:1", "light:2")
    assert found.counts == {"both": 4, "only_first": 2, "only_second": 0, "neither": 0}
    assert found.p_value == pytest.approx(0.5)
    assert found.difference == pytest.approx(-1 / 3)
    assert found.num_disagreements == 2
    assert [one.first.key for one in found.disagreements] == ["test-150.png", "test-170.png"]
    assert found.better is None


@pytest.mark.parametrize("name", ["light", "light:1", "light@chosen", "models/light/versions/1"])
def test_every_form_of_a_name_means_the_served_version(mesh: Mesh, greys: str, name: str) -> None:
    if not any(mesh.models.aliases("light")):
        assert mesh.models.set_alias("light", "chosen", "light:1").version == "models/light/versions/1"
    assert mesh.inference.metadata(name).versions == ["1"]
    scores = mesh.inference.infer(name, {"image": np.zeros((1, 4, 4, 3), np.uint8)})["scores"]
    assert scores.tolist() == [[100, 0]]


@pytest.mark.parametrize("name", ["light:2", "light:latest"])
def test_a_version_that_is_not_served_is_refused(mesh: Mesh, greys: str, name: str) -> None:
    with pytest.raises(NotFound, match="light"):
        mesh.inference.metadata(name)


def test_a_version_is_deleted_by_its_short_name(mesh: Mesh, greys: str) -> None:
    for value in (1, 2):
        register(mesh, "old", threshold(value), greys, [IMAGE], SCORES)
    with pytest.raises(InvalidArgument, match="old:3"):
        mesh.models.delete("old")
    mesh.models.set_alias("old", "champion", "old:latest")
    assert mesh.models.alias("old@champion").version == "models/old/versions/2"
    mesh.models.delete("old:1")
    assert [one.name for one in mesh.models.versions("old")] == ["models/old/versions/2"]
    mesh.models.delete_alias("old@champion")
    mesh.models.delete("old", every=True)
    assert "models/old" not in [one.name for one in mesh.models.list()]


def test_a_limit_spreads_over_the_split_and_ends_the_reading(
    mesh: Mesh, greys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, keys = mesh.datasets.read, []

    def counted(version: str, split: str) -> Iterator[ingest_pb2.Sample]:
        for sample in read(version, split):
            keys.append(sample.key)
            yield sample

    monkeypatch.setattr(mesh.datasets, "read", counted)
    found = evaluate(mesh, "light:1", limit=3)
    assert (found.num_samples, list(found.outcomes.keys)) == (3, ["test-000.png", "test-150.png", "test-220.png"])
    assert keys[-1] == "test-220.png"


def test_the_inference_service_is_always_asked_for_the_version(
    mesh: Mesh, greys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata, versions = mesh.inference.metadata, []

    def spied(model: str, version: str = "") -> inference_pb2.ModelMetadataResponse:
        versions.append(f"{model}/{version}".rstrip("/"))
        return metadata(model, version)

    monkeypatch.setattr(mesh.inference, "metadata", spied)
    assert evaluate(mesh, "light:1").runner == "inference"
    assert versions
    assert all(name.endswith("/1") for name in versions)


def test_a_row_that_cannot_be_judged_costs_only_itself(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    fields = [Field("x", "number"), Field("root", "number")]
    rows = [Sample(f"n{x}", "test", {"x": float(x), "root": abs(x) ** 0.5}) for x in (-1, 1, 4, 9)]
    mesh.datasets.upload("roots", fields, rows)
    mesh.datasets.upload("negative", fields, rows[:1])
    shapes = [tensor("x", ["N", 1])], [tensor("y", ["N", 1])]
    for node in ("Identity", "Sqrt"):
        proto = model([helper.make_node(node, ["x"], ["y"])], *shapes)
        register(mesh, "root", proto, "", [TensorSpec("x", "FP32", (-1, 1))], TensorSpec("y", "FP32", (-1, 1)))
    found = evaluate(mesh, "root:2", dataset="roots", target="root")
    assert (found.num_samples, found.num_rows, found.num_skipped) == (4, 3, 1)
    assert [(one.key, one.reason) for one in found.skipped] == [("n-1", "NOT_FINITE")]
    assert found.metrics["rmse"] == 0

    arguments = ("model", "compare", "root:1", "root:2", "--dataset", "roots", "--target", "root")
    document = json.loads(deepseek(home(embedded), *arguments, "--json").stdout)
    for one in (document["first"], document["second"]):
        assert (one["num_rows"], one["num_skipped"]) == (3, 1)
        assert [(row["key"], row["reason"]) for row in one["skipped"]] == [("n-1", "NOT_FINITE")]
    done = deepseek(home(embedded), *arguments)
    assert "skipped rows: 1; no figure includes them" in done.stdout
    assert "NOT_FINITE" in done.stdout

    with pytest.raises(FailedPrecondition, match="n-1: NOT_FINITE") as caught:
        evaluate(mesh, "root:2", dataset="negative", target="root")
    assert caught.value.reason == "NO_PREDICTIONS"


def test_columns_are_joined_for_a_model_with_one_input(mesh: Mesh) -> None:
    fields = [Field("a", "number"), Field("b", "integer"), Field("total", "number")]
    rows = [Sample(str(i), "validation", {"a": i / 2, "b": i, "total": 1.5 * i}) for i in range(5)]
    dataset = mesh.datasets.upload("sums", fields, rows).name
    nodes = [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)]
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    proto = model(nodes, [tensor("x", ["N", 2])], [tensor("y", ["N", 1])], [axis])
    output = TensorSpec("y", "FP32", (-1, 1))
    register(mesh, "adder", proto, "", [TensorSpec("x", "FP32", (-1, 2))], output)
    with pytest.raises(InvalidArgument, match="--dataset"):
        evaluate(mesh, "adder")
    with pytest.raises(InvalidArgument, match="--target"):
        evaluate(mesh, "adder", dataset=dataset)
    found = evaluate(mesh, "adder", dataset="sums", target="total")
    assert (found.split, found.task, found.metrics["rmse"]) == ("validation", "regression", 0)


def test_an_evaluation_needs_no_trainer(mesh: Mesh, embedded: EmbeddedMesh, greys: str) -> None:
    register(mesh, "trained", threshold(100), greys, [IMAGE], SCORES, run="runs/gone")
    services = {name: one for name, one in embedded.file.services.items() if name != "trainer"}
    with Mesh(replace(embedded.file, services=services)) as without:
        assert evaluate(without, "trained").metrics["accuracy"] == 1


def test_each_question_of_a_list_is_one_row(mesh: Mesh) -> None:
    fields = [Field("image", "image"), Field("label", "label", repeated=True, labels=("dark", "bright"))]
    values = {"image": picture(255), "label": ["bright", "dark"]}
    dataset = mesh.datasets.upload("lists", fields, [Sample("a", "test", values)]).name
    for value in (100, 300):
        register(mesh, "listed", threshold(value), dataset, [IMAGE], SCORES)
    found = evaluate(mesh, "listed:1")
    assert (found.num_samples, found.num_rows, found.metrics["accuracy"]) == (1, 2, 0.5)
    assert list(found.outcomes.keys) == ["a[0]", "a[1]"]
    both = compare(mesh, "listed:1", "listed:2")
    assert both.num_disagreements == 2
    assert both.interval == (0, 0)  # the interval draws samples, and there is one
    assert both.p_value is None


@pytest.mark.parametrize(
    ("arguments", "reason", "field"),
    [
        ({"split": "dev"}, "UNKNOWN_SPLIT", "--split"),
        ({"target": "colour"}, "UNKNOWN_FIELD", "--target"),
        ({"target": "image"}, "UNSUITABLE_DATA", "--target"),
        ({"limit": 0}, "BAD_VALUE", "--limit"),
        ({"dataset": "My Data"}, "BAD_NAME", "--dataset"),
    ],
)
def test_bad_arguments_are_named(mesh: Mesh, greys: str, arguments: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
        evaluate(mesh, "light:1", **arguments)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_the_command_line_writes_pictures_and_prints_the_figures(
    mesh: Mesh, greys: str, embedded: EmbeddedMesh, tmp_path: Path
) -> None:
    place = home(embedded)
    done = deepseek(place, "model", "evaluate", "light:2", "--out", str(tmp_path / "new"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["metrics"]["accuracy"] == pytest.approx(4 / 6)
    names = ["evaluation.json", "confusion-matrix.png", "worst.png", "predictions.csv"]
    assert [Path(file).name for file in document["files"]] == names
    assert all(Path(file).stat().st_size for file in document["files"])

    done = deepseek(place, "model", "compare", "light:1", "light:2", "--out", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert "only A   2" in done.stdout
    assert "McNemar's exact test: p = 0.5" in done.stdout
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "comparison.json", "comparison.png", "disagreements.png",
    ]  # fmt: skip
    document = json.loads(deepseek(place, "model", "compare", "light:1", "light:2", "--json").stdout)
    assert document["counts"]["only_first"] == 2
    done = deepseek(place, "model", "evaluate", "light:1")
    assert "light:1 on greys:1, split test: 6 samples; model.onnx by the inference service" in done.stdout
    assert "no mistakes" in done.stdout
    for options, title in (((), "2 of 2 mistakes"), (("--worst", "1"), "1 of 2 mistakes")):
        done = deepseek(place, "model", "evaluate", "light:2", *options)
        assert f"{title}, the most confident first" in done.stdout
    assert_refused(deepseek(place, "model", "compare", "light:1", "light:1"), "INVALID_ARGUMENT: BAD_VALUE", "MODEL")
