"""One rank's copy of a model, whose gradients are averaged over the ranks, whatever parts of it each of them uses.

The exchange is that of DistributedDataParallel, overlapped with the backward pass. Not here: sums of anything else
(`deepseek.training.parallel`).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # public, but missing from __all__
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from deepseek.training.modules import is_expanded

_EXCHANGED = {
    *(torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32),
    *(torch.float64, torch.complex64, torch.complex128),
}
"""Types of buffers that DDP passes on with every backend."""


class Replica:
    """This process's copy of a model, and how its gradients are computed.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        """Calls a function that passes a batch through the model; returns its loss."""
        return compute_loss()

    def backward(self, loss: Tensor, share: float) -> bool:
        """Computes the parameters' gradients; None where no rank's loss depends on a parameter.

        Args:
            loss: What `forward` returned, maybe scaled.
            share: This rank's part in the mean over all ranks, 0 to 1.

        Returns:
            Whether a loss depends on any parameter.
        """
        self._model.zero_grad(set_to_none=True)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        return loss.requires_grad


class AveragingReplica(Replica):
    """One of several copies. Each rank may use another part of the model, and another in each step.

    DDP averages a parameter's gradient once every rank has it, so a parameter that one rank's loss does not depend on
    would make the others wait for ever. Here a rank completes its backward pass with zeros for those, and a second,
    small sum says which parameters were used at all: the gradients of the others are None, as in one process. DDP's
    own `find_unused_parameters` searches the graph of the outputs ahead of each backward pass, and fails where that
    shows less than the backward pass computes (reentrant activation checkpoints).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._params = [param for param in model.parameters() if param.requires_grad]
        self._sparse = {
            module.weight
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        }
        calling = _Calling(model)
        # DDP would fail because of them.
        others = {name: buffer for name, buffer in calling.named_buffers() if not _is_exchanged(buffer)}
        self._other_buffers = list(others.values())
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(calling, list(others))  # type: ignore[no-untyped-call]
        self._ddp = DistributedDataParallel(calling)
        self._ddp.register_comm_hook(None, self._add_share)
        self._share = 0.0
        self._used = torch.zeros(0)
        self._wait: Callable[[], Any] | None = None

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        for buffer in self._other_buffers:
            share_buffer(buffer)
        loss: Tensor = self._ddp(compute_loss)
        return loss

    def backward(self, loss: Tensor, share: float) -> bool:
        self._share = share
        # What only passes samples along that do not count uses nothing.
        self._used = torch.full((len(self._params),), float(share > 0), device=self._params[0].device)
        super().backward(loss, share)
        unused = [i for i, param in enumerate(self._params) if param.grad is None]
        if unused:
            self._used[unused] = 0.0
            zeros = [self._zero_gradient(self._params[i]) for i in unused]
            torch.autograd.backward([self._params[i] for i in unused], zeros)
        assert self._wait is not None
        self._wait()
        used = self._used.tolist()
        for param, count in zip(self._params, used, strict=True):
            if not count:
                param.grad = None
        return any(used)

    def _add_share(self, _: object, bucket: GradBucket) -> Future[Tensor]:
        """Sums a bucket of gradients over the ranks, each rank's times its share."""
        gradients = bucket.buffer()
        if self._share:
            gradients.mul_(self._share)
        else:
            gradients.zero_()  # no share, even of what is not finite
        if bucket.is_last():  # by now the rank knows what it uses: buckets go in order, and wait for what is not used
            work = dist.all_reduce(self._used, async_op=True)
            assert work is not None
            self._wait = work.wait
        work = dist.all_reduce(gradients, async_op=True)
        assert work is not None
        summed: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return summed

    def _zero_gradient(self, param: Tensor) -> Tensor:
        if param in self._sparse:
            return torch.zeros_like(param, layout=torch.sparse_coo)
        return torch.zeros_like(param)


def _is_exchanged(buffer: Tensor) -> bool:
    return (
        buffer.layout is torch.strided
        and buffer.dtype in _EXCHANGED
        and not buffer.is_conj()
        and not is_expanded(buffer)
    )


def share_buffer(buffer: Tensor) -> None:
    """Gives all ranks rank 0's values of a buffer, whatever its type is; sparse and expanded ones, which modules do not
    change in place, stay as they are."""
    if buffer.layout is torch.strided and not is_expanded(buffer):
        values = buffer.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
        data = values.reshape(-1).view(torch.uint8)
        dist.broadcast(data, 0)
        buffer.copy_(data.view(buffer.dtype).view(buffer.shape))


class _Calling(nn.Module):
    """Calls what it is given. DDP wraps it instead of the model, so that it sees the loss, whatever the outputs are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        return compute_loss()
