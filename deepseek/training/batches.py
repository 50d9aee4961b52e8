"""Collates samples of a data set into batches, and converts batches to model arguments.

A sample is either a dict of fields or a pair of values. The values of a pair become the fields `input` and `target`.
By default, each argument of the model's forward method receives the field of the same name.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.training.modules import uncompiled

TARGET_FIELDS = ("target", "answer")
"""Field names to try if no target field is given. The first name that the batch contains is used."""


class Dataset(Protocol):
    """A map-style data set. It may define a method `collate` that builds a batch from a list of samples."""

    def __len__(self) -> int:
        """Returns the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Returns a sample."""


def collate(dataset: Dataset, indices: Sequence[int]) -> dict[str, Any]:
    """Builds a batch from samples of a data set.

    Args:
        dataset: The data set.
        indices: Indices of the samples; at least one.

    Returns:
        The batch: a dict with one entry per field. The numbers or arrays of a field are stacked into one tensor
        [B, ...]; other values, such as text, are collected in a list. If the data set has a method `collate`, the batch
        is that method's result.

    Raises:
        InvalidArgument: WRONG_SHAPE if the arrays of a field differ in shape between samples; WRONG_TYPE if a sample is
            neither a dict nor a pair.
    """
    samples = [dataset[index] for index in indices]
    if hasattr(dataset, "collate"):
        batch: dict[str, Any] = dataset.collate(samples)
        return batch
    fields = [_fields(sample) for sample in samples]
    return {name: _stack(name, [sample[name] for sample in fields]) for name in fields[0]}


class Arguments:
    """Maps the fields of a batch to the arguments of a model.

    Args:
        model: Model whose forward signature determines the arguments.
        inputs: For each argument of forward, the name of the field that supplies it. By default, a field supplies the
            argument of the same name.
        target: Name of the target field; by default `target`, or `answer` if there is no field `target`.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, str] | None, target: str | None) -> None:
        self._inputs = inputs
        self._target = target
        parameters = inspect.signature(uncompiled(model).forward).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)]
        self._names = [p.name for p in named]
        self._required = [p.name for p in named if p.default is p.empty]
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def split(self, batch: Mapping[str, Any], device: torch.device) -> tuple[dict[str, Any], Any]:
        """Returns the model's keyword arguments and the target, both moved to the device.

        Raises:
            InvalidArgument: MISSING_FIELD if the batch lacks a required field; the message lists the fields that are
                present.
        """
        target = self._target or next((name for name in TARGET_FIELDS if name in batch), TARGET_FIELDS[0])
        fields = self._inputs if self._inputs is not None else self._match(batch, target)
        for name in (*fields.values(), target):
            if name not in batch:
                message = f"the samples have no field {name!r}; they have: {', '.join(batch)}"
                raise InvalidArgument("MISSING_FIELD", message, field="target" if name == target else "inputs")
        arguments = {argument: _move(batch[name], device) for argument, name in fields.items()}
        return arguments, _move(batch[target], device)

    def _match(self, batch: Mapping[str, Any], target: str) -> dict[str, str]:
        if self._takes_any:
            return {name: name for name in (*batch, *self._required) if name != target}
        tensors = [name for name, value in batch.items() if isinstance(value, Tensor) and name != target]
        if len(self._required) == 1 and self._required[0] not in batch and len(tensors) == 1:
            return {self._required[0]: tensors[0]}  # one argument, one tensor field: their names may differ
        return {name: name for name in self._names if name in batch or name in self._required}


def _fields(sample: Any) -> Mapping[str, Any]:
    if isinstance(sample, Mapping):
        return sample
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return {"input": sample[0], "target": sample[1]}
    message = f"a sample must be a dict of fields or an (input, target) pair, not a {type(sample).__name__}"
    raise InvalidArgument("WRONG_TYPE", message)


def _stack(name: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, np.number | np.bool_):
        return torch.from_numpy(np.array(values))
    if isinstance(first, bool | int | float):
        return torch.tensor(values)
    if not isinstance(first, Tensor | np.ndarray) or (isinstance(first, np.ndarray) and first.dtype.kind in "OSU"):
        return list(values)
    tensors = [torch.as_tensor(value) for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        message = f"the samples of the field {name!r} have different shapes: {', '.join(map(str, sorted(shapes)[:5]))}"
        raise InvalidArgument(
            "WRONG_SHAPE", f"{message}; use a transform that gives all samples the same shape", field=name
        )
    return torch.stack(tensors)


def _move(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
