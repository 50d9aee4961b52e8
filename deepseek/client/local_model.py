"""Runs a model version in this process, for evaluations of versions that the mesh does not serve.

It runs the most precise file of the version. Only the checks of the inference service show which other files work well
on a processor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from common.cores import num_cores
from common.errors import FailedPrecondition, InvalidArgument
from deepseek.client.names import short_name

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh
    from deepseek.models.manifest import ModelFile, ModelManifest

Arrays = Mapping[str, npt.NDArray[Any]]


class LocalModel:
    """A version in this process, as an alternative to `Mesh.inference`.

    Args:
        mesh: Mesh from which the file is downloaded; the file is not kept.
        version: Name of the version, for messages.
        manifest: Manifest of the version.

    Raises:
        FailedPrecondition: ONNX_RUNTIME_MISSING, or MODEL_BROKEN if ONNX Runtime cannot load the file.
    """

    def __init__(self, mesh: Mesh, version: str, manifest: ModelManifest) -> None:
        name = short_name(version)
        try:
            import onnxruntime

            from deepseek.models.runtime_errors import LOAD_ERRORS, load_message, runtime_message
            from deepseek.models.runtime_options import session_options
        except ImportError as error:
            message = (
                f"{name} is not served, and this machine lacks ONNX Runtime; serve it with: deepseek model load {name}"
            )
            message += ", or install ONNX Runtime with: pip install onnxruntime"
            raise FailedPrecondition("ONNX_RUNTIME_MISSING", message, field="MODEL") from error
        file = local_file(manifest)
        options = session_options(num_cores())
        with tempfile.TemporaryDirectory() as folder:
            path = mesh.artifacts.fetch(file.sha256, Path(folder) / file.name)
            try:
                self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except LOAD_ERRORS as error:
                message = f"{file.name} of {name} cannot be loaded: {load_message(error)}"
                raise FailedPrecondition("MODEL_BROKEN", message, field="MODEL") from error
        self._errors, self._message = (*LOAD_ERRORS, ValueError), runtime_message
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, inputs: Arrays) -> Arrays:
        """Runs the model on one batch.

        Raises:
            InvalidArgument: BAD_INPUT if the model fails on the batch.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
        except self._errors as error:
            message = f"the model fails on this input: {self._message(error)}"
            raise InvalidArgument("BAD_INPUT", message) from error


def local_file(manifest: ModelManifest) -> ModelFile:
    """Returns the file that `LocalModel` runs."""
    return manifest.candidates[0]
