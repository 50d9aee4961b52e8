"""Checkpoints: one safetensors file that holds tensors and, as its metadata, everything else as JSON.

A state is a tree (`deepseek.training.trees`). Reading an untrusted file builds such values and nothing else: no code in
it is run, unlike with pickle, which `torch.save` uses.
"""

import json
import os
import tempfile
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
from deepseek.training import modules, trees

MEDIA_TYPE = "application/vnd.deepseek.checkpoint.v1+safetensors"
_FORMAT = "deepseek.checkpoint.v1"
_UNREADABLE = (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def dumps(state: Mapping[str, Any]) -> bytes:
    """Makes a checkpoint's bytes.

    Args:
        state: A tree. Its tensors may share memory, on any device.

    Raises:
        InvalidArgument: BAD_STATE if a value cannot be stored; the message gives its path and what to do.
    """
    tree, tensors = trees.flatten(state)
    # One entry: safetensors writes several in an order that changes, and equal states are to be equal bytes.
    metadata = {_FORMAT: json.dumps(tree, separators=(",", ":"), allow_nan=False)}
    try:
        data: bytes = safetensors.torch.save({path: _own(tensor) for path, tensor in tensors.items()}, metadata)
    except safetensors.SafetensorError as error:
        message = f"the state cannot be written: {error}; store long lists and texts as tensors"
        raise InvalidArgument("BAD_STATE", message) from error
    return data


def check(state: Mapping[str, Any]) -> None:
    """Checks that `dumps` can store a state; copies no tensor.

    Raises:
        InvalidArgument: BAD_STATE, as `dumps`.
    """
    trees.flatten(state)


def loads(data: bytes, *, name: str = "the checkpoint") -> dict[str, Any]:
    """Reads a checkpoint's bytes from anyone.

    Args:
        data: What `dumps` made, supposedly.
        name: What to call it in errors.

    Raises:
        DataLoss: BAD_CHECKPOINT if they are not a checkpoint, damaged or cut off.
    """
    try:
        tensors = safetensors.torch.load(data)
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size])["__metadata__"]
        state = trees.unflatten(json.loads(metadata[_FORMAT]), tensors)
    except _UNREADABLE as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataLoss("BAD_CHECKPOINT", f"{name} is damaged or not a checkpoint of ours ({detail})") from error
    if not isinstance(state, dict):
        raise DataLoss("BAD_CHECKPOINT", f"{name} holds no state")
    return state


def write(path: Path, data: bytes) -> None:
    """Writes a file so that its name always stands for a whole one: the old or the new, also after a power cut.

    Raises:
        OSError: It could not be written; what was there is untouched.
    """
    path = path.resolve()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint file.

    Raises:
        DataLoss: BAD_CHECKPOINT.
        OSError: It cannot be read.
    """
    return loads(Path(path).read_bytes(), name=str(path))


def model_state(model: nn.Module) -> dict[str, Any]:
    """Returns a model's part of a checkpoint, as `load_model` reads it; tensors are not copied.

    Raises:
        InvalidArgument: BAD_STATE if torch could not load it into a new model of the same code.
    """
    model = modules.uncompiled(model)
    state = model.state_dict()
    for name, value in state.items():
        if isinstance(value, Tensor) and value.layout is torch.strided and modules.is_expanded(value):
            message = f"{name} is expanded, so it cannot be loaded into; register its contiguous() as the buffer"
            raise InvalidArgument("BAD_STATE", message, field="model")
    for name, module in model.named_modules():
        kind = type(module)
        if kind.get_extra_state is not nn.Module.get_extra_state and kind.set_extra_state is nn.Module.set_extra_state:
            message = f"{name or 'the model'} ({kind.__name__}) has get_extra_state but no set_extra_state to load it"
            raise InvalidArgument("BAD_STATE", message, field="model")
    versions = {name: values.get("version", 1) for name, values in getattr(state, "_metadata", {}).items()}
    return {
        "model": dict(state),
        "model_versions": {name: version for name, version in versions.items() if version != 1},
    }


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Puts a checkpoint's weights, buffers and extra state into a model.

    Args:
        model: The model; written to.
        state: What `read` returned.

    Raises:
        InvalidArgument: WRONG_MODEL, as `check_model`, or if a module refuses the state that it returned before.
    """
    model = modules.uncompiled(model)
    check_model(model, state)
    weights, versions = OrderedDict(state["model"]), state.get("model_versions")
    if isinstance(versions, dict):  # modules convert state of older versions; without a version it counts as the oldest
        names = [name for name, _ in model.named_modules(remove_duplicate=False)]
        weights._metadata = {name: {"version": versions.get(name, 1)} for name in names}  # type: ignore[attr-defined]
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"the model refuses the checkpoint's state: {type(error).__name__}: {str(error)[:500]}"
        raise InvalidArgument("WRONG_MODEL", message) from error


def check_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Checks that a checkpoint's weights are of a model.

    Raises:
        InvalidArgument: WRONG_MODEL if names or shapes differ; the message says which.
    """
    weights = state.get("model")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InvalidArgument("WRONG_MODEL", "the checkpoint holds no model")
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not the model's" for name in weights if name not in own]
    for name in (name for name in own if name in weights):
        found, expected = weights[name], own[name]
        if name.endswith(trees.EXTRA_STATE) or not isinstance(expected, Tensor):
            continue  # of any form: only the module interprets it
        if not isinstance(found, Tensor):
            problems.append(f"{name} is not a tensor")
        elif not is_lazy(expected) and found.shape != expected.shape:
            problems.append(f"{name} is {list(found.shape)}, not {list(expected.shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InvalidArgument("WRONG_MODEL", f"the checkpoint is of another model: {'; '.join(problems[:3])}{more}")


def _own(tensor: Tensor) -> Tensor:
    """Returns the values on the CPU, contiguous and in a memory that no other tensor of the state is in."""
    copied = tensor.cpu().contiguous()
    return copied.clone() if copied.data_ptr() == tensor.data_ptr() else copied
