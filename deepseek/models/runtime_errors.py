"""What ONNX Runtime's errors mean, in words for people. Imports ONNX Runtime."""

import re

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from common.paths import without_paths

LOAD_ERRORS = tuple(
    getattr(onnxruntime_errors, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)
"""Errors that ONNX Runtime raises for a model that it cannot load."""

_IR_VERSION = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)", re.DOTALL)
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"Load model from .*? failed:|\S+\.(cc|h|cpp|cu|cuh):\d+ (\S+( \S+)?\([^()]*\)|\w+) ")
"""Parts of a runtime error that do not help callers: the path of the model file, and locations in the runtime's
source."""


def load_message(error: Exception) -> str:
    """Returns why a model cannot be loaded and, if exporting the model differently would help, how to do so."""
    text, runtime = str(error), f"ONNX Runtime {onnxruntime.__version__}"
    if match := _IR_VERSION.search(text):
        return f"its IR version is {match[1]}; {runtime} supports up to {match[2]}. Export it for an older ONNX"
    if match := _OPSET.search(text):
        found = f"it uses opset {match[1]} of {match[2]}; {runtime} supports opsets up to {match[3]}"
        return f"{found}. Export it with opset_version={match[3]}"
    if "External data" in text:
        return "its weights are in another file (external data). Export it as one file, e.g. with external_data=False"
    return runtime_message(error)


def runtime_message(error: Exception) -> str:
    """Returns ONNX Runtime's message without the error code, source locations and paths."""
    text = _CODE.sub("", str(error).strip()).rpartition("Status Message: ")[2]
    return without_paths(" ".join(_PLACE.sub("", text).split()))
