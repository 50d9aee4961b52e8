"""Statistics that modules compute from the batches of training, such as the mean of each column of a table.

Where data must stay private, they would reveal it, and nodes could not average them. They are then computed once, from
data that is not private, and their modules stay in evaluation mode.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument


@torch.no_grad()
def statistics_modules(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Returns the names of the modules that compute statistics of a batch.

    Args:
        model: Model in training mode. It is not changed.
        batch: The model's arguments.

    Raises:
        InvalidArgument: BAD_MODEL_STATE if the outermost module itself computes statistics.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        model(**batch)
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    for name, buffer in model.named_buffers():
        if name in changed:
            buffer.copy_(before[name])
    names = tuple(dict.fromkeys(name.rpartition(".")[0] for name in changed))
    if "" in names:
        message = "the model keeps running statistics in its outermost module; move them to a module of their own"
        raise InvalidArgument("BAD_MODEL_STATE", message, field="spec.model")
    return names


@torch.no_grad()
def fit_statistics(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> tuple[str, ...]:
    """Computes the running statistics of a model from data, and freezes the modules that keep them.

    Args:
        model: Model in training mode. Only its buffers change.
        batches: The model's arguments, batch by batch. Without running statistics, only the first batch is read.

    Returns:
        Names of the frozen modules.

    Raises:
        InvalidArgument: BAD_MODEL_STATE if the outermost module itself keeps statistics.
    """
    frozen: tuple[str, ...] = ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, batch in enumerate(batches):
            if number == 0 and not (frozen := statistics_modules(model, batch)):
                break
            model(**batch)
    freeze_modules(model, frozen)
    return frozen


def freeze_modules(model: nn.Module, names: Iterable[str]) -> None:
    """Puts modules into evaluation mode, in which they stay. Modules inside of these keep their mode.

    Raises:
        InvalidArgument: BAD_VALUE if the model has no such module.
    """
    for name in names:
        try:
            model.get_submodule(name).training = False
        except AttributeError as error:
            message = f"the model has no module {name[:80]!r}"
            raise InvalidArgument("BAD_VALUE", message, field="recipe.frozen") from error
