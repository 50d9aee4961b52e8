"""Requirements on a user's module: which models can be trained, in which mode, and what their outputs may be.

Outputs are tensors in any nesting of lists, tuples, named tuples, dicts and dataclasses. Submodules keep their mode:
one in evaluation mode (a frozen batch normalisation) stays in it while the rest trains.
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
    """Returns the module inside a `torch.compile`d model, or the model itself. There, parameters have their original
    names and forward its original signature."""
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


def check_model(model: nn.Module, *, field: str = "model") -> None:
    """Checks that a model can be given to an optimizer.

    Raises:
        InvalidArgument: BAD_VALUE at `field` if it has no parameters, lazy ones, or some in half precision.
    """
    parameters = dict(model.named_parameters())
    lazy = [name for name, tensor in [*parameters.items(), *model.named_buffers()] if is_lazy(tensor)]
    if lazy:
        message = f"{lazy[0]} has no shape yet; pass a batch through the model before the trainer is made"
        raise InvalidArgument("BAD_VALUE", message, field=field)
    if not parameters:
        raise InvalidArgument("BAD_VALUE", "the model has no parameters to train", field=field)
    halves = [name for name, parameter in parameters.items() if parameter.dtype in (torch.float16, torch.bfloat16)]
    if halves:
        message = f"{halves[0]} is in half precision; weights must be float32, `precision` is for the computation"
        raise InvalidArgument("BAD_VALUE", message, field=field)


def check_trainable(model: nn.Module) -> None:
    """Checks that at least one parameter of a model can be trained.

    Raises:
        InvalidArgument: BAD_VALUE at `model` if no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        message = "every parameter of the model is frozen; set requires_grad of those that should train"
        raise InvalidArgument("BAD_VALUE", message, field="model")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and restores the mode of each of its modules afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def is_expanded(tensor: Tensor) -> bool:
    """Returns whether elements of a dense tensor share memory, so that it cannot be written to."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def map_tensors(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Returns outputs with a function applied to each tensor; other values are unchanged."""

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
    """Returns the tensors of outputs in the order of `map_tensors`, named by their position.

    Keys and fields give names, indices give numbers; a single tensor is `output`, those of a tuple are `output_0` etc.

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
    """Returns whether `map_tensors` may miss tensors in outputs, for example inside an object of a user's class."""
    known = (Tensor, bool, int, float, str, type(None))
    return any(
        any(is_opaque(getattr(leaf, field.name)) for field in fields(leaf))
        if _is_plain_dataclass(leaf)
        else not isinstance(leaf, known)
        for leaf in pytree.tree_leaves(outputs, is_leaf=_is_plain_dataclass)
    )


def _is_plain_dataclass(value: Any) -> bool:
    """Returns whether a value is a dataclass that torch does not know as a container."""
    return is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES
