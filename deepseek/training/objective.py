"""Computes the loss and the metrics of a model on batches of a data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.training import modules
from deepseek.training.batches import Arguments, Dataset, collate
from deepseek.training.losses import count_targets
from deepseek.training.metrics import Metric


class Objective:
    """Computes the loss and the metrics of a model.

    For each batch, `sums` returns one tensor: the loss summed over the targets, the number of targets, and the sums of
    each metric. These tensors are added over batches and ranks, and `results` converts their total to the mean loss and
    the metrics.

    Args:
        model: The model.
        loss: Function that computes the mean loss of a batch from outputs and target.
        metrics: Metrics with distinct names.
        arguments: Mapping of a batch's fields to the model's arguments.
        device: Device of the model.

    Attributes:
        dtype: Numeric format of the forward pass.
        num_sums: Length of the tensor that `sums` returns.

    Raises:
        InvalidArgument: BAD_VALUE if two metrics have the same name, or if a metric is named `loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        metrics: Sequence[Metric],
        arguments: Arguments,
        device: torch.device,
    ) -> None:
        names = ["loss", *(metric.name for metric in metrics)]
        if len(set(names)) != len(names):
            message = f"the loss and the metrics need different names: {', '.join(names)}; give each its own name"
            raise InvalidArgument("BAD_VALUE", message, field="metrics")
        self.dtype = torch.float32
        self.num_sums = 2 + sum(metric.num_sums for metric in metrics)
        self._model = model
        self._loss = loss
        self._metrics = metrics
        self._arguments = arguments
        self._device = device

    def batch(self, dataset: Dataset, indices: Sequence[int]) -> tuple[dict[str, Any], Any]:
        """Returns the model's keyword arguments and the target for the given samples."""
        return self._arguments.split(collate(dataset, indices), self._device)

    def forward(self, arguments: Mapping[str, Any], model: Callable[..., Any] | None = None) -> Any:
        """Returns the outputs of the model, or of a function in its place, in float32, computed in `dtype`."""
        with torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32):
            outputs = (model or self._model)(**arguments)
        # Losses and metrics run outside autocast, because on a CPU it would keep softmax and sums in low precision.
        return modules.map_tensors(lambda output: output.float() if output.is_floating_point() else output, outputs)

    def count(self, target: Any) -> Tensor:
        """Returns the number of targets over which the loss averages, as a float64 scalar."""
        return count_targets(self._loss, target).to(self._device, torch.float64)

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Returns the mean loss, as a scalar.

        Raises:
            InvalidArgument: BAD_VALUE if the loss function returns anything other than a tensor with one element.
        """
        loss = self._loss(outputs, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InvalidArgument("BAD_VALUE", f"the loss must be a tensor with one element, not {what}", field="loss")
        return loss.reshape(())

    def sums(self, outputs: Any, target: Any, loss: Tensor, count: Tensor) -> Tensor:
        """Returns the sums of a batch, float64 [num_sums]."""
        # A batch without targets adds nothing, even if its loss is NaN.
        total = torch.where(count > 0, loss.detach() * count, 0.0)
        own = torch.stack([total, count])
        outputs = modules.map_tensors(Tensor.detach, outputs)
        return torch.cat([own, *(metric.sums(outputs, target).to(own) for metric in self._metrics)])

    def evaluate(self, dataset: Dataset, batches: Iterable[Sequence[int]]) -> Tensor:
        """Evaluates the model on the given batches and returns the total of their sums, float64 [num_sums]."""
        sums = torch.zeros(self.num_sums, dtype=torch.float64, device=self._device)
        # Inference mode is not used: if a module caches tensors in that mode, e.g. position tables, it cannot use them
        # for training later.
        with modules.evaluating(self._model), torch.no_grad():
            for indices in batches:
                if indices:
                    arguments, target = self.batch(dataset, indices)
                    outputs = self.forward(arguments)
                    loss = self.loss(outputs, target)
                    sums += self.sums(outputs, target, loss, self.count(target))
        return sums

    def results(self, sums: Sequence[float]) -> dict[str, float]:
        """Returns the mean loss and the metrics by name, given their sums; an empty dict if there were no targets."""
        if not sums[1]:
            return {}
        figures = {"loss": sums[0] / sums[1]}
        start = 2
        for metric in self._metrics:
            figures[metric.name] = metric.result(sums[start : start + metric.num_sums])
            start += metric.num_sums
        return figures
