"""The part of inference in the fault trials."""

import threading

import numpy as np

from common.errors import NotFound
from deepseek.client.mesh import Mesh
from protos.inference.v2 import inference_pb2, inference_pb2_grpc
from protos.registry.v1 import registry_pb2_grpc
from tests.faults.workload import Workload, WritingClient, answer
from tests.harness.mesh import MeshProcesses
from tests.services.inference.models import Publisher, scale_model

FACTORS = {"1": 2.0, "2": 3.0}
"""Factors by which the versions of the model `scale` multiply."""


class Loader(WritingClient):
    """Loads two versions of a model in turn, and infers."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self.mesh.channel("inference"))
        self._loaded = ""

    def work(self) -> None:
        for i in self.rounds():
            version = str(1 + i % 2)
            request = inference_pb2.RepositoryModelLoadRequest(model_name="scale")
            request.parameters["version"].string_param = version
            answer(self._stub.RepositoryModelLoad, request)
            self._loaded = version
            self.acknowledged()
            for _ in range(3):
                self._ask()

    def check(self) -> None:
        self._ask()

    def _ask(self) -> None:
        numbers = np.arange(6, dtype=np.float32)
        request = inference_pb2.ModelInferRequest(model_name="scale", raw_input_contents=[numbers.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
        try:
            response = answer(self._stub.ModelInfer, request)
        except NotFound:
            self.findings.lost_writes.append(f"version {self._loaded} of the model is not loaded any more")
            return
        self.findings.num_reads += 1
        if response.model_version != self._loaded:
            self.findings.lost_writes.append(f"version {response.model_version} answers, {self._loaded} was loaded")
        result = np.frombuffer(response.raw_output_contents[0], np.float32)
        if not np.array_equal(result, numbers * FACTORS[response.model_version]):
            self.findings.torn_reads.append(f"version {response.model_version} of the model answers {result}")


class InferenceWorkload(Workload):
    """Loads and inference."""

    def __init__(self, mesh: MeshProcesses) -> None:
        with Mesh(mesh.file) as client:
            publisher = Publisher(client.store, registry_pb2_grpc.RegistryServiceStub(client.channel("registry")))
            for factor in FACTORS.values():
                publisher.publish("scale", scale_model(factor))

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Loader(mesh, trial, enough)]


WORKLOAD = InferenceWorkload
