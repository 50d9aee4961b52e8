"""Converts state trees, which hold the content of a checkpoint, to JSON and dense tensors, and back.

A tree consists of dicts, lists and tuples whose leaves are tensors, numbers, text and None. Tensors are stored under
their path in the tree, and the rest is JSON. A value that JSON cannot express becomes an object with one key, which
begins with `$`: `{"$tensor": path}`, `{"$tuple": [...]}`, `{"$dict": [[key, value], ...]}` for a dict with keys that
are not text, `{"$float": "nan"}`, `{"$bits": [bytes, dtype, shape]}` for a tensor of a dtype that safetensors lacks, or
`{"$sparse": [layout, shape, *parts]}`. A value that could not be restored with the same type is rejected.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from common.errors import InvalidArgument

EXTRA_STATE = "_extra_state"
"""Last part of the name under which torch stores the result of a module's `get_extra_state`."""

_BITS = {
    str(dtype): dtype for dtype in (torch.complex128, torch.complex32, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2)
}
"""Dtypes that safetensors 0.8.0 either cannot write or can write but not read back."""
_COMPRESSED = {
    str(layout): layout for layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
}
_HINTS = {
    "bytes": "convert it with torch.frombuffer",
    "_io.BytesIO": "convert its bytes with torch.frombuffer",
    "set": "convert it to a list with sorted",
    "collections.deque": "convert it with list",
    "collections.Counter": "convert it with dict",
    "collections.defaultdict": "convert it with dict",
}


def flatten(state: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Splits a tree into JSON values and dense tensors.

    Args:
        state: State tree. Its tensors may share memory and may be on any device.

    Returns:
        tree: The tree as JSON values.
        tensors: Dense tensors by path, not copied; identical views of the same memory appear once.

    Raises:
        InvalidArgument: BAD_STATE if a value cannot be stored; the message gives the value's path and suggests a fix.
    """
    tensors: dict[str, Tensor] = {}
    try:
        return _flatten(state, "", tensors, {}), tensors
    except RecursionError as error:
        raise InvalidArgument("BAD_STATE", "the state is nested too deeply, or contains itself") from error


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuilds a tree from the results of `flatten`. Invalid input raises a built-in error, such as KeyError."""
    match tree:
        case {"$tensor": name}:
            return tensors[name]
        case {"$bits": [part, dtype, shape]}:
            return unflatten(part, tensors).view(_BITS[dtype]).reshape(shape)
        case {"$sparse": [layout, shape, *parts]}:
            return _sparse(layout, shape, [unflatten(part, tensors) for part in parts])
        case {"$float": text}:
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text]
        case {"$tuple": items}:
            return tuple(unflatten(item, tensors) for item in items)
        case {"$dict": items}:
            return {key: unflatten(item, tensors) for key, item in items}
        case dict():
            return {key: unflatten(item, tensors) for key, item in tree.items()}
        case list():
            return [unflatten(item, tensors) for item in tree]
    return tree


def _flatten(value: Any, path: str, tensors: dict[str, Tensor], stored: dict[Any, str]) -> Any:
    def flatten(item: Any, key: object) -> Any:
        return _flatten(item, f"{path}/{key}" if path else str(key), tensors, stored)

    match value:
        case Tensor():
            return _flatten_tensor(value, path, tensors, stored)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(float(value))}
        case dict() if type(value) in (dict, OrderedDict):
            items = [(key, flatten(item, key)) for key, item in value.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
                return dict(items)
            for key, _ in items:
                if not isinstance(key, str | int):
                    message = f"{path} has a key that is a {type(key).__name__}; keys must be text or whole numbers"
                    raise InvalidArgument("BAD_STATE", message, field=path)
            return {"$dict": [[key, item] for key, item in items]}
        case list() if type(value) is list:
            return [flatten(item, i) for i, item in enumerate(value)]
        case tuple() if type(value) in (tuple, torch.Size):
            return {"$tuple": [flatten(item, i) for i, item in enumerate(value)]}
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = "convert it with torch.as_tensor" if kind.__module__ == "numpy" else _HINTS.get(name, "")
    raise _refused(path, f"is a {name}", hint)


def _flatten_tensor(value: Tensor, path: str, tensors: dict[str, Tensor], stored: dict[Any, str]) -> Any:
    def flatten(part: Tensor, name: str) -> Any:
        return _flatten_tensor(part, f"{path}/{name}", tensors, stored)

    if is_lazy(value):
        raise _refused(path, "is a parameter without a shape", "pass a batch through the model first")
    if value.is_quantized or value.is_nested or value.is_mkldnn or value.is_meta:
        kind = next(kind for kind in ("quantized", "nested", "mkldnn", "meta") if getattr(value, f"is_{kind}"))
        raise _refused(path, f"is a {kind} tensor", "only dense and sparse tensors can be stored")
    tensor = value.detach()
    if tensor.layout is not torch.strided:
        layout, parts = _sparse_parts(tensor)
        return {"$sparse": [layout, list(tensor.shape), *(flatten(part, name) for name, part in parts.items())]}
    tensor = tensor.resolve_conj().resolve_neg()
    if str(tensor.dtype) in _BITS:
        # contiguous() is not used, because it does not normalize the strides of a tensor with a single element.
        bits = flatten(tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8), "bits")
        return {"$bits": [bits, str(tensor.dtype), list(tensor.shape)]}
    # Tied weights have several names but share memory, so they are stored once.
    view = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if tensor.numel() == 0 or view not in stored:
        while path in tensors:  # "a/b" may be one key, or "b" below "a"
            path += "'"
        stored[view] = path
        tensors[path] = tensor
    return {"$tensor": stored[view]}


def _refused(path: str, what: str, hint: str) -> InvalidArgument:
    where = "the result of get_extra_state" if EXTRA_STATE in path else "the state"
    holds = f"{where} may contain tensors, numbers, text, None, and lists, tuples and dicts of these"
    return InvalidArgument("BAD_STATE", f"{path} {what}; {holds}{'; ' if hint else ''}{hint}", field=path)


def _sparse_parts(tensor: Tensor) -> tuple[str, dict[str, Tensor]]:
    if tensor.layout is torch.sparse_coo:
        layout = "coalesced" if tensor.is_coalesced() else "sparse_coo"
        return layout, {"indices": tensor._indices(), "values": tensor._values()}
    by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    compressed, plain = ("crow_indices", "col_indices") if by_row else ("ccol_indices", "row_indices")
    parts = {name: getattr(tensor, name)() for name in (compressed, plain, "values")}
    return str(tensor.layout), parts


def _sparse(layout: str, shape: list[int], parts: list[Tensor]) -> Tensor:
    if layout in _COMPRESSED:
        compressed, plain, values = parts
        return torch.sparse_compressed_tensor(
            compressed, plain, values, shape, layout=_COMPRESSED[layout], check_invariants=True
        )
    indices, values = parts
    coalesced = {"coalesced": True, "sparse_coo": False}[layout]
    return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=coalesced, check_invariants=True)
