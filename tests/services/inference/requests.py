"""Requests to an inference server that has the model `m`."""

import numpy as np

from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub

ONES = np.ones((2, 3), np.float32)


def infer_request(model: str = "m") -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=ONES.shape)
    return pb.ModelInferRequest(model_name=model, id="42", inputs=[tensor], raw_input_contents=[ONES.tobytes()])


def load(stub: GRPCInferenceServiceStub, model: str, version: str = "") -> None:
    request = pb.RepositoryModelLoadRequest(model_name=model)
    if version:
        request.parameters["version"].string_param = version
    stub.RepositoryModelLoad(request)
