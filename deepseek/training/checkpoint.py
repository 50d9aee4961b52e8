"""Reads and writes checkpoints: safetensors files whose metadata holds everything except the tensors, as JSON.

The stored state is a tree (`deepseek.training.trees`). Reading an untrusted checkpoint is safe, because reading only
builds this tree. In contrast, a file written by `torch.save` is a pickle, and unpickling it may execute arbitrary code.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from common.errors import DataLoss, InvalidArgument
from common.files import replace_file
from deepseek.training import modules, trees

MEDIA_TYPE = "application/vnd.deepseek.checkpoint.v1+safetensors"
_FORMAT = "deepseek.checkpoint.v1"
_UNREADABLE = (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def dumps(state: Mapping[str, Any]) -> bytes:
    """Serializes a state to the bytes of a checkpoint.

    Args:
        state: State tree. Its tensors may share memory and may be on any device.

    Raises:
        InvalidArgument: BAD_STATE if a value cannot be stored; the message gives the value's path and suggests a fix.
    """
    tree, tensors = trees.flatten(state)
    # Uses a single metadata entry: safetensors writes multiple entries in varying order, but equal states must give
    # equal bytes.
    metadata = {_FORMAT: json.dumps(tree, separators=(",", ":"), allow_nan=False)}
    try:
        data: bytes = safetensors.torch.save({path: _own(tensor) for path, tensor in tensors.items()}, metadata)
    except safetensors.SafetensorError as error:
        message = f"the state cannot be written: {error}; store long lists and texts as tensors"
        raise InvalidArgument("BAD_STATE", message) from error
    return data


def check(state: Mapping[str, Any]) -> None:
    """Checks that `dumps` can store a state, without copying its tensors.

    Raises:
        InvalidArgument: BAD_STATE, as for `dumps`.
    """
    trees.flatten(state)


def loads(data: bytes, *, name: str = "the checkpoint") -> dict[str, Any]:
    """Parses the bytes of a checkpoint, which may be untrusted, and returns its state.

    Args:
        data: Bytes of the checkpoint.
        name: Name of the checkpoint in error messages.

    Raises:
        DataLoss: BAD_CHECKPOINT if the data is damaged, truncated or not a checkpoint at all.
    """
    try:
        tensors = safetensors.torch.load(data)
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size])["__metadata__"]
        state = trees.unflatten(json.loads(metadata[_FORMAT]), tensors)
    except _UNREADABLE as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataLoss("BAD_CHECKPOINT", f"{name} is damaged or not a DeepSeek checkpoint ({detail})") from error
    if not isinstance(state, dict):
        raise DataLoss("BAD_CHECKPOINT", f"{name} is not a DeepSeek checkpoint: its content is not a dict")
    return state


def write(path: Path, data: bytes) -> None:
    """Writes a file atomically and durably.

    After a power failure, the file holds either its complete old content or the complete new content.

    Raises:
        OSError: The file could not be written; an existing file is unchanged.
    """
    replace_file(path.resolve(), data)


def read(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint file.

    Raises:
        DataLoss: BAD_CHECKPOINT, as for `loads`.
        OSError: The file cannot be read.
    """
    return loads(Path(path).read_bytes(), name=str(path))


def model_state(model: nn.Module) -> dict[str, Any]:
    """Returns a model's part of a checkpoint, in the form that `load_model` reads. Tensors are not copied.

    Raises:
        InvalidArgument: BAD_STATE if torch could not load the state into a new model built by the same code.
    """
    model = modules.uncompiled(model)
    state = model.state_dict()
    for name, value in state.items():
        if isinstance(value, Tensor) and value.layout is torch.strided and modules.is_expanded(value):
            message = (
                f"{name} is an expanded tensor, which cannot be loaded; register a contiguous() copy as the buffer"
            )
            raise InvalidArgument("BAD_STATE", message, field="model")
    for name, module in model.named_modules():
        kind = type(module)
        if kind.get_extra_state is not nn.Module.get_extra_state and kind.set_extra_state is nn.Module.set_extra_state:
            message = (
                f"{name or 'the model'} ({kind.__name__}) defines get_extra_state but not set_extra_state, "
                "so its extra state could not be loaded; define both"
            )
            raise InvalidArgument("BAD_STATE", message, field="model")
    versions = {name: values.get("version", 1) for name, values in getattr(state, "_metadata", {}).items()}
    return {
        "model": dict(state),
        "model_versions": {name: version for name, version in versions.items() if version != 1},
    }


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads the weights, buffers and extra state of a checkpoint into a model.

    Args:
        model: Model to load into.
        state: State of a checkpoint, as returned by `read`.

    Raises:
        InvalidArgument: WRONG_MODEL, as for `check_model`, or if a module cannot load its own saved state.
    """
    model = modules.uncompiled(model)
    check_model(model, state)
    weights, versions = OrderedDict(state["model"]), state.get("model_versions")
    # A module needs the saved version number to convert state that an older version of its class saved. Without the
    # number, it assumes the oldest version.
    if isinstance(versions, dict):
        names = [name for name, _ in model.named_modules(remove_duplicate=False)]
        weights._metadata = {name: {"version": versions.get(name, 1)} for name in names}  # type: ignore[attr-defined]
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"the model cannot load the checkpoint's state: {type(error).__name__}: {str(error)[:500]}"
        raise InvalidArgument("WRONG_MODEL", message) from error


def check_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Checks that the model state in a checkpoint matches a model.

    Raises:
        InvalidArgument: WRONG_MODEL if the checkpoint contains no model state, or if the names or shapes of tensors
            differ; the message lists the first three differences.
    """
    weights = state.get("model")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InvalidArgument("WRONG_MODEL", "the checkpoint contains no model")
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not part of the model" for name in weights if name not in own]
    for name in (name for name in own if name in weights):
        found, expected = weights[name], own[name]
        if name.endswith(trees.EXTRA_STATE) or not isinstance(expected, Tensor):
            continue  # extra state may have any form; only its module interprets it
        if not isinstance(found, Tensor):
            problems.append(f"{name} is not a tensor")
        elif not is_lazy(expected) and found.shape != expected.shape:
            problems.append(f"{name} has shape {list(found.shape)}, not {list(expected.shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InvalidArgument(
            "WRONG_MODEL", f"the checkpoint belongs to another model: {'; '.join(problems[:3])}{more}"
        )


def _own(tensor: Tensor) -> Tensor:
    """Returns a contiguous CPU copy of a tensor. The copy shares no memory with other tensors of the state."""
    copied = tensor.cpu().contiguous()
    return copied.clone() if copied.data_ptr() == tensor.data_ptr() else copied
