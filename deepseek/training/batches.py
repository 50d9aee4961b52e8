"""From a data set's samples to the arguments of a model.

A sample is a dict of fields, or a pair, which is taken as the fields `input` and `target`. The model gets the fields
that its forward signature names.
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
"""Fields that are the target where none is named, the first that a sample has."""


class Dataset(Protocol):
    """A map-style data set. If it has a method `collate`, that makes batches of its samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Returns a sample."""


def collate(dataset: Dataset, indices: Sequence[int]) -> dict[str, Any]:
    """Makes a batch.

    Args:
        dataset: The data set.
        indices: Samples, at least one.

    Returns:
        Each field stacked to [B, ...]; text and other things that are not numbers as a list.

    Raises:
        InvalidArgument: WRONG_SHAPE if a field's shapes differ between samples.
    """
    samples = [dataset[index] for index in indices]
    if hasattr(dataset, "collate"):
        batch: dict[str, Any] = dataset.collate(samples)
        return batch
    fields = [_fields(sample) for sample in samples]
    return {name: _stack(name, [sample[name] for sample in fields]) for name in fields[0]}


class Arguments:
    """Which field of a batch becomes which argument of a model.

    Args:
        model: The model; its forward signature counts.
        inputs: Field of each forward argument, where they are not called alike.
        target: Field of the target; by default `target` or `answer`.
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
        """Returns the model's keyword arguments and the target, on the device.

        Raises:
            InvalidArgument: MISSING_FIELD if the batch lacks one of them; the message lists what it has.
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
            return {self._required[0]: tensors[0]}  # one thing to give and one place for it, whatever they are called
        return {name: name for name in self._names if name in batch or name in self._required}


def _fields(sample: Any) -> Mapping[str, Any]:
    if isinstance(sample, Mapping):
        return sample
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return {"input": sample[0], "target": sample[1]}
    message = f"a sample must be a dict of fields or a pair of input and target, not a {type(sample).__name__}"
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
        message = f"the field {name!r} has samples of different shapes: {', '.join(map(str, sorted(shapes)[:5]))}"
        raise InvalidArgument("WRONG_SHAPE", f"{message}; a transform has to make them equal", field=name)
    return torch.stack(tensors)


def _move(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
