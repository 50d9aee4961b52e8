"""Checks a user's model, sets its mode, and reads or converts the tensors in its outputs.

A model's outputs may be tensors nested in lists, tuples, named tuples, dicts and dataclasses. A submodule that the user
has put into evaluation mode, e.g. to freeze batch normalization, stays in that mode while the others train.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from common.errors import InvalidArgument


def uncompiled(model: nn.Module) -> nn.Module:
    """Returns the original module of a model compiled by `torch.compile`, or the model itself if it is not compiled.

    In the original module, the parameters have their original names and forward has its original signature.
    """
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


def check_model(model: nn.Module, *, field: str = "model") -> None:
    """Checks that an optimizer can train the parameters of a model.

    Raises:
        InvalidArgument: BAD_VALUE at `field` if the model has no parameters, if a parameter or buffer is lazy, or if a
            parameter is in half precision.
    """
    parameters = dict(model.named_parameters())
    lazy = [name for name, tensor in [*parameters.items(), *model.named_buffers()] if is_lazy(tensor)]
    if lazy:
        message = f"{lazy[0]} has no shape yet; pass a batch through the model before creating the trainer"
        raise InvalidArgument("BAD_VALUE", message, field=field)
    if not parameters:
        raise InvalidArgument("BAD_VALUE", "the model has no parameters to train", field=field)
    halves = [name for name, parameter in parameters.items() if parameter.dtype in (torch.float16, torch.bfloat16)]
    if halves:
        message = (
            f"{halves[0]} is in half precision; weights must be float32 (`precision` only affects the computation)"
        )
        raise InvalidArgument("BAD_VALUE", message, field=field)


def check_trainable(model: nn.Module) -> None:
    """Checks that at least one parameter of a model can be trained.

    Raises:
        InvalidArgument: BAD_VALUE at `model` if no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        message = "every parameter of the model is frozen; set requires_grad=True on the parameters to train"
        raise InvalidArgument("BAD_VALUE", message, field="model")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and restores the previous mode of each of its modules afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def is_expanded(tensor: Tensor) -> bool:
    """Returns whether a dense tensor is expanded: some of its elements share memory, so it cannot be written to."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def map_tensors(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Returns a model's outputs with a function applied to each tensor; other values are unchanged."""

    def apply(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        if not _is_plain_dataclass(leaf):
            return leaf
        changed = copy.copy(leaf)
        for field in fields(leaf):
            object.__setattr__(changed, field.name, map_tensors(function, getattr(leaf, field.name)))
        return changed

    return pytree.tree_map(apply, outputs, is_leaf=_is_plain_dataclass)


def named_tensors(outputs: Any) -> list[tuple[str, Tensor]]:
    """Returns the tensors in a model's outputs with their names, in the order in which `map_tensors` visits them.

    A name is built from the keys, fields and indices that lead to the tensor. A single tensor is named `output`; the
    tensors of a tuple are named `output_0`, `output_1` and so on.

    >>> [name for name, _ in named_tensors({"logits": torch.ones(1), "parts": (torch.ones(1), None, torch.ones(2))})]
    ['logits', 'parts_0', 'parts_2']
    """
    named: list[tuple[str, Tensor]] = []
    for keys, tensor in _paths(outputs, ()):
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", "_".join(keys))
        name = name if re.match("[A-Za-z_]", name) else f"output_{name}".rstrip("_")
        while name in (other for other, _ in named):
            name += "_"
        named.append((name, tensor))
    return named


def _paths(outputs: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    for path, leaf in pytree.tree_flatten_with_path(outputs, is_leaf=_is_plain_dataclass)[0]:
        keys = above + tuple(pytree.keystr((key,)).strip(".[]'\"") for key in path)
        if isinstance(leaf, Tensor):
            yield keys, leaf
        elif _is_plain_dataclass(leaf):
            for field in fields(leaf):
                yield from _paths(getattr(leaf, field.name), (*keys, field.name))


def is_opaque(outputs: Any) -> bool:
    """Returns whether `map_tensors` may miss tensors in a model's outputs, e.g. inside a user-defined object."""
    known = (Tensor, bool, int, float, str, type(None))
    return any(
        any(is_opaque(getattr(leaf, field.name)) for field in fields(leaf))
        if _is_plain_dataclass(leaf)
        else not isinstance(leaf, known)
        for leaf in pytree.tree_leaves(outputs, is_leaf=_is_plain_dataclass)
    )


def _is_plain_dataclass(value: Any) -> bool:
    """Returns whether a value is a dataclass instance that torch does not treat as a container."""
    return is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES
