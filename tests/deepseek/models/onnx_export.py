"""Exports a model as the trainer does and runs it in ONNX Runtime."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn


def export(
    model: nn.Module, example: Mapping[str, Tensor], shapes: Mapping[str, Any], path: Path
) -> onnxruntime.InferenceSession:
    """Exports with dynamic shapes and opens the file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec", FutureWarning)  # torch's own code
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)  # inputs share a size
        program = torch.onnx.export(
            model.eval(),
            kwargs=dict(example),
            input_names=list(example),
            dynamic_shapes=dict(shapes),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, batch: Mapping[str, Tensor]) -> npt.NDArray[np.float32]:
    """Runs a session on a batch of tensors."""
    (output,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
    return np.asarray(output)
