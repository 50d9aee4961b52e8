"""Small ONNX models, and how a trainer would publish them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from common.artifacts import ArtifactStore
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE, ModelFile, ModelManifest, TensorSpec
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub

TENANT = "default"
Shape = Sequence[int | str]


def tensor(name: str, datatype: int, shape: Shape) -> onnx.ValueInfoProto:
    """Declares an input or output."""
    return helper.make_tensor_value_info(name, datatype, list(shape))


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """An ONNX file."""
    data = unchecked(nodes, inputs, outputs, constants)
    onnx.checker.check_model(data)
    return data


def unchecked(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    ir_version: int = 10,
    opset: int = 21,
) -> bytes:
    """An ONNX file as a converter may write it, even against the specification."""
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()
    return data


def scale_model(factor: float) -> bytes:
    """y = factor * x, for x of FP32 [n, 3]."""
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    return build(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["n", 3])],
        [tensor("y", TensorProto.FLOAT, ["n", 3])],
        [constant],
    )


def identity_model(datatype: int, shape: Shape = ("n",)) -> bytes:
    """y = x."""
    return build(
        [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", datatype, shape)], [tensor("y", datatype, shape)]
    )


def relu_model(shape: Shape | None, ir_version: int = 10, opset: int = 21) -> bytes:
    """y = max(x, 0), as written by converters that declare few shapes."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    return unchecked([helper.make_node("Relu", ["x"], ["y"])], [x], [y], ir_version=ir_version, opset=opset)


def external_model() -> bytes:
    """A model whose weight is in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="model.onnx.data")
    x, y = (tensor(name, TensorProto.FLOAT, [4]) for name in "xy")
    return unchecked([helper.make_node("Add", ["x", "w"], ["y"])], [x], [y], [weight])


def question_model(seed: int = 0) -> bytes:
    """Class scores FP32 [n, q, 5] from an image UINT8 [n, 8, 8, 3], questions INT64 [n, q, 4] and a note BYTES [n]."""
    random = np.random.default_rng(seed)
    constants = [
        onnx.numpy_helper.from_array(random.normal(size=(192, 16)).astype(np.float32), "image_weight"),
        onnx.numpy_helper.from_array(random.normal(size=(32, 16)).astype(np.float32), "words"),
        onnx.numpy_helper.from_array(random.normal(size=(16, 5)).astype(np.float32), "head"),
        helper.make_tensor("flat", TensorProto.INT64, [2], [0, -1]),
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "image_weight"], ["seen"]),
        helper.make_node("Unsqueeze", ["seen", "one"], ["seen_once"]),
        helper.make_node("Gather", ["words", "question"], ["embedded"]),
        helper.make_node("ReduceSum", ["embedded", "two"], ["asked"], keepdims=0),
        helper.make_node("Add", ["asked", "seen_once"], ["joint"]),
        helper.make_node("Tanh", ["joint"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
        helper.make_node("Identity", ["note"], ["echo"]),
    ]
    inputs = [
        tensor("image", TensorProto.UINT8, ["n", 8, 8, 3]),
        tensor("question", TensorProto.INT64, ["n", "q", 4]),
        tensor("note", TensorProto.STRING, ["m"]),
    ]
    outputs = [tensor("logits", TensorProto.FLOAT, ["n", "q", 5]), tensor("echo", TensorProto.STRING, ["m"])]
    return build(nodes, inputs, outputs, constants)


@dataclass(frozen=True)
class Publisher:
    """Puts models into a store and their versions into a registry, as an export does."""

    store: ArtifactStore
    registry: RegistryServiceStub

    def publish(self, model_id: str, onnx_file: bytes) -> int:
        """Publishes a version of a model whose served file this is; returns its number."""
        file = self.store.put(TENANT, onnx_file, ONNX_MEDIA_TYPE)
        manifest = ModelManifest(
            model="test",
            run="runs/test",
            dataset_version="datasets/test/versions/1",
            files=(
                ModelFile("model.onnx", "fp32", hashlib.sha256(b"never fetched").hexdigest(), 13),
                ModelFile("model.int8.onnx", "int8", file.sha256, file.size_bytes),
            ),
            served="model.int8.onnx",
            inputs=(TensorSpec("x", "FP32", (-1, 3)),),
            outputs=(TensorSpec("y", "FP32", (-1, 3)),),
        )
        return self.publish_manifest(model_id, manifest.to_bytes())

    def publish_files(self, model_id: str, manifest: ModelManifest, contents: Mapping[str, bytes]) -> int:
        """Publishes a version with these files, by name; the manifest gets their digests."""
        stored = [self.store.put(TENANT, contents[file.name], file.media_type) for file in manifest.files]
        files = tuple(
            replace(file, sha256=blob.sha256, size_bytes=blob.size_bytes)
            for file, blob in zip(manifest.files, stored, strict=True)
        )
        return self.publish_manifest(model_id, replace(manifest, files=files).to_bytes())

    def publish_manifest(self, model_id: str, manifest: bytes) -> int:
        """Publishes a version with these bytes as its manifest."""
        artifact = self.store.put(TENANT, manifest, MEDIA_TYPE)
        answer = self.registry.CreateModelVersion(
            pb.CreateModelVersionRequest(
                parent=f"models/{model_id}",
                manifest=artifact_pb2.Artifact(
                    sha256=artifact.sha256, size_bytes=artifact.size_bytes, media_type=artifact.media_type
                ),
            )
        )
        return int(answer.model_version.name.rpartition("/")[2])
