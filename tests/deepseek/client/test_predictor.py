"""Predictions over fields of several types: encoded, run in batches, and decoded; and the form `deepseek ask`."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from common.artifacts.proto import to_proto
from common.errors import NotFound
from deepseek.client import Mesh
from deepseek.client.predictor import Predictor
from deepseek.embedded import EmbeddedMesh
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE, EncoderSpec, ModelFile, ModelManifest, TensorSpec
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.deepseek.cli.commands import deepseek
from tests.services.trainer.onnx_models import model, tensor

pytestmark = pytest.mark.slow
WORDS = EncoderSpec("words", {"length": 2, "vocabulary": 8, "version": 2}, {"tokens": ["is", "it"]})


def brightness(*, with_number: bool) -> onnx.ModelProto:
    """Scores of [dark, bright]: the first is 100, the second is the mean of the pixels plus 0 or a number."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["question"], ["tokens"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["tokens"], ["ignored"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["ignored", "zero"], ["nothing"]),
        helper.make_node("Add", ["mean", "more" if with_number else "nothing"], ["some"]),
        helper.make_node("Add", ["some", "nothing"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "one"], ["bright"]),
        helper.make_node("Mul", ["bright", "zero"], ["blank"]),
        helper.make_node("Add", ["blank", "hundred"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["scores"], axis=1),
    ]
    inputs = [
        tensor("image", ["N", 4, 4, 3], TensorProto.UINT8),
        tensor("question", ["N", "Q", 2], TensorProto.INT64),
        *([tensor("more", ["N"])] if with_number else []),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array(value, dtype), name)
        for name, value, dtype in (("zero", 0, np.float32), ("hundred", 100, np.float32), ("one", [1], np.int64))
    ]
    return model(nodes, inputs, [tensor("scores", ["N", 2])], constants)


def serve(mesh: Mesh, name: str, *, with_number: bool) -> None:
    file = mesh.store.put(mesh.tenant, brightness(with_number=with_number).SerializeToString(), ONNX_MEDIA_TYPE)
    image = TensorSpec("image", "UINT8", (-1, 4, 4, 3), EncoderSpec("image", {"size": 4}), "picture")
    more = TensorSpec("more", "FP32", (-1,), EncoderSpec("number"), "more")
    manifest = ModelManifest(
        model="test",
        run="runs/test",
        dataset_version="datasets/d/versions/1",
        files=(ModelFile("model.onnx", "fp32", file.sha256, file.size_bytes),),
        served="model.onnx",
        inputs=(
            image,
            TensorSpec("question", "INT64", (-1, -1, 2), WORDS, "question"),
            *([more] if with_number else []),
        ),
        outputs=(TensorSpec("scores", "FP32", (-1, 2), labels=("dark", "bright")),),
    )
    stored = to_proto(mesh.store.put(mesh.tenant, manifest.to_bytes(), MEDIA_TYPE))
    registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry")).CreateModelVersion(
        registry_pb2.CreateModelVersionRequest(parent=f"models/{name}", manifest=stored)
    )
    mesh.inference.load(name)


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def test_rows_are_predicted_in_batches_and_bad_ones_get_an_error(mesh: Mesh) -> None:
    serve(mesh, "light", with_number=True)
    rows = [{"picture": picture(grey), "question": "is it?", "more": 0.0} for grey in (0, 255, 99, 101)]
    rows[2]["picture"] = b"no picture"
    rows.append({"picture": picture(0), "question": "is it?", "more": 150})
    rows.append({"picture": picture(0), "question": "is it?"})

    found = list(Predictor(mesh, "light").predict(iter(rows), batch_size=4))

    assert [one.label for one in found] == ["dark", "bright", "", "bright", "bright", ""]
    assert [one.error and (one.error.reason, one.error.field) for one in found] == [
        None,
        None,
        ("DAMAGED_IMAGE", "picture"),
        None,
        None,
        ("MISSING_FIELD", "more"),
    ]
    assert found[3].probability == pytest.approx(1 / (1 + np.exp(-1)))
    assert sum(found[3].probabilities.values()) == pytest.approx(1)


def test_a_model_that_is_not_served_is_named_with_the_next_step(mesh: Mesh) -> None:
    serve(mesh, "unloaded", with_number=False)
    mesh.inference.unload("unloaded")
    with pytest.raises(
        NotFound, match="'unloaded' is not served; serve it with: deepseek model load unloaded"
    ) as caught:
        Predictor(mesh, "unloaded")
    assert (caught.value.reason, caught.value.field) == ("MODEL_NOT_LOADED", "model")
    with pytest.raises(NotFound, match="there is no model 'unloadde'; did you mean 'unloaded'") as caught:
        Predictor(mesh, "unloadde")
    assert (caught.value.reason, caught.value.field) == ("MODEL_NOT_FOUND", "model")
    with pytest.raises(NotFound) as caught:
        Predictor(mesh, "unloaded:9")
    assert (caught.value.reason, caught.value.field) == ("MODEL_VERSION_NOT_FOUND", "model")


def test_fields_are_given_as_text_by_path_and_in_a_file(mesh: Mesh, embedded: EmbeddedMesh, tmp_path: Path) -> None:
    serve(mesh, "light", with_number=True)
    serve(mesh, "plain", with_number=False)
    assert embedded.file.store
    home = Path(embedded.file.store.url.removeprefix("file://")).parent
    for grey in (0, 255):
        (tmp_path / f"{grey}.png").write_bytes(picture(grey))
    black, white = str(tmp_path / "0.png"), str(tmp_path / "255.png")

    done = deepseek(home, "predict", "light", f"picture={white}", "question=is it?", "more=0.5", "--json")
    assert json.loads(done.stdout)["prediction"] == "bright", done.stderr
    done = deepseek(home, "predict", "light", f"image={black}", "question=is it?", "more=much")
    assert "'much' is not a number" in done.stderr
    assert "field: more" in done.stderr
    done = deepseek(home, "predict", "light", "colour=red")
    assert "its fields are picture, question, more" in done.stderr
    (tmp_path / "rows.tsv").write_text(
        "picture\tquestion\tmore\n0.png\tis it\t0\n255.png\tis it\t0\n", encoding="utf-8"
    )
    done = deepseek(home, "predict", "light", "--file", str(tmp_path / "rows.tsv"))
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["dark", "bright"], done.stderr
    done = deepseek(home, "ask", white, "is it?", "--model", "plain:1", "--json")
    assert json.loads(done.stdout)["answer"] == "bright", done.stderr
