"""Checkpoints: one safetensors file that holds tensors and, as its metadata, everything else as JSON.

A state is a tree of dicts, lists and tuples whose leaves are tensors, numbers, text and None. Its tensors are stored
under the paths they have in the tree; the tree, with references in their places, is the JSON. Reading a file builds
such values and nothing else: no code in it is run, whoever wrote it (pickle, which `torch.save` uses, cannot say that).

Where JSON cannot express something, it is an object with one key that begins with `$`: `{"$tensor": path}`, `{"$tuple":
[...]}`, `{"$dict": [[key, value], ...]}` for keys that are not text, `{"$float": "nan"}`.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from common.errors import DataLoss, InvalidArgument

MEDIA_TYPE = "application/vnd.deepseek.checkpoint.v1+safetensors"
_FORMAT = "deepseek.checkpoint.v1"


def dumps(state: Mapping[str, Any]) -> bytes:
    """Makes a checkpoint's bytes.

    Args:
        state: A tree as above. Tensors may share memory; on any device.

    Raises:
        InvalidArgument: BAD_STATE if a leaf is of another type; the message gives its path.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors, {})
    # One entry: safetensors writes several in an order that changes, and equal states are to be equal bytes.
    metadata = {_FORMAT: json.dumps(tree, separators=(",", ":"), allow_nan=False)}
    data: bytes = safetensors.torch.save(tensors, metadata)
    return data


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
        state = _unflatten(json.loads(metadata[_FORMAT]), tensors)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError) as error:
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


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Puts a checkpoint's weights into a model.

    Args:
        model: The model; written to.
        state: What `read` returned.

    Raises:
        InvalidArgument: WRONG_MODEL, as `check_model`.
    """
    check_model(model, state)
    model.load_state_dict(state["model"])


def check_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Checks that a checkpoint's weights are of a model.

    Raises:
        InvalidArgument: WRONG_MODEL if names or shapes differ; the message says which.
    """
    weights = state.get("model")
    own = model.state_dict()
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InvalidArgument("WRONG_MODEL", "the checkpoint holds no model")
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not the model's" for name in weights if name not in own]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InvalidArgument("WRONG_MODEL", f"the checkpoint is of another model: {'; '.join(problems[:3])}{more}")


def _flatten(value: Any, path: str, tensors: dict[str, Tensor], stored: dict[Any, str]) -> Any:
    match value:
        case Tensor():
            tensor = value.detach()
            # Tied weights have several names and one memory: stored once.
            view = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if tensor.numel() == 0 or view not in stored:
                while path in tensors:  # "a/b" may be a key, or a key in a key
                    path += "'"
                stored[view] = path
                tensors[path] = _own(tensor)
                return {"$tensor": path}
            return {"$tensor": stored[view]}
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case Mapping():
            items = [
                (key, _flatten(item, f"{path}/{key}" if path else str(key), tensors, stored))
                for key, item in value.items()
            ]
            if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
                return dict(items)
            if all(isinstance(key, str | int) for key, _ in items):
                return {"$dict": [[key, item] for key, item in items]}
        case list() | tuple():
            flat = [_flatten(item, f"{path}/{i}", tensors, stored) for i, item in enumerate(value)]
            return flat if isinstance(value, list) else {"$tuple": flat}
    message = f"{path} is a {type(value).__name__}; a checkpoint holds tensors, numbers, text, None, lists and dicts"
    raise InvalidArgument("BAD_STATE", message, field=path)


def _own(tensor: Tensor) -> Tensor:
    """Returns the values on the CPU, contiguous and in a memory that no other tensor of the state is in."""
    copied = tensor.cpu().contiguous()
    return copied.clone() if copied.data_ptr() == tensor.data_ptr() else copied


def _unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    match tree:
        case {"$tensor": name}:
            return tensors[name]
        case {"$float": text}:
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text]
        case {"$tuple": items}:
            return tuple(_unflatten(item, tensors) for item in items)
        case {"$dict": items}:
            return {key: _unflatten(item, tensors) for key, item in items}
        case dict():
            return {key: _unflatten(item, tensors) for key, item in tree.items()}
        case list():
            return [_unflatten(item, tensors) for item in tree]
    return tree
