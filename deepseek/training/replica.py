"""One rank's copy of a model, whose gradients are averaged over the ranks.

In a step, each rank may use different parts of the model. DistributedDataParallel (DDP) exchanges the gradients during
the backward pass. Values other than gradients are summed over the ranks by `deepseek.training.parallel`.
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
"""Dtypes of the buffers that DDP can broadcast, regardless of the backend."""


class Replica:
    """This process's copy of a model. Computes the gradients of the model's parameters.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        """Returns the loss, which `compute_loss` computes by passing a batch through the model."""
        return compute_loss()

    def backward(self, loss: Tensor, share: float) -> bool:
        """Computes the parameters' gradients. A parameter on which no rank's loss depends gets the gradient None.

        Args:
            loss: Result of `forward`, possibly scaled.
            share: This rank's weight in the mean over all ranks, 0 to 1.

        Returns:
            Whether any rank's loss depends on at least one parameter.
        """
        self._model.zero_grad(set_to_none=True)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        return loss.requires_grad


class ProximalReplica(Replica):
    """A replica whose loss has the proximal term mu / 2 |w - w_0|^2 (FedProx, Li et al. 2020, arXiv:1812.06127, eq. 2).

    Here, w_0 are the weights at the time when this object is created. Reported losses do not include the term.

    Args:
        inner: Replica that computes the gradients.
        model: The model.
        mu: Weight of the term, above 0.
    """

    def __init__(self, inner: Replica, model: nn.Module, mu: float) -> None:
        super().__init__(model)
        self._inner = inner
        self._mu = mu
        self._starts = [(param, param.detach().clone()) for param in model.parameters() if param.requires_grad]

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        loss = self._inner.forward(compute_loss)
        distance = torch.stack([(param - start).square().sum() for param, start in self._starts]).sum()
        return loss + self._mu / 2 * distance

    def backward(self, loss: Tensor, share: float) -> bool:
        return self._inner.backward(loss, share)


class AveragingReplica(Replica):
    """One of several copies of a model. In a step, each rank may use different parts of the model.

    DDP averages a parameter's gradient only after every rank has computed that gradient. If one rank's loss did not
    depend on the parameter, the other ranks would wait forever. Each rank therefore supplies zero gradients for the
    parameters that it did not use. An additional, small sum over the ranks counts how many ranks used each parameter.
    If none did, the parameter's gradient becomes None, as in a single process.

    DDP's own option `find_unused_parameters` is not used. With it, DDP searches the graph of the outputs before each
    backward pass. This fails if the backward pass computes more than that graph shows, as with reentrant activation
    checkpointing.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._params = [param for param in model.parameters() if param.requires_grad]
        self._sparse = {
            module.weight
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        }
        calling = _LossOfModel(model)
        # DDP cannot broadcast these buffers and would fail.
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
        # A rank with a share of 0 runs the same computation as the others, but is counted as using no parameter.
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
        """Sums a bucket of gradients over the ranks, weighted by each rank's share."""
        gradients = bucket.buffer()
        if self._share:
            gradients.mul_(self._share)
        else:
            gradients.zero_()  # multiplying by 0 would keep NaN and turn Inf into NaN
        # DDP sends buckets in order, and the last one only once all zero gradients exist, so `_used` is complete here.
        if bucket.is_last():
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
    """Copies rank 0's values of a buffer, which may have any dtype, to all ranks.

    Sparse and expanded buffers are skipped, because modules do not modify them in place.
    """
    if buffer.layout is torch.strided and not is_expanded(buffer):
        values = buffer.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
        data = values.reshape(-1).view(torch.uint8)
        dist.broadcast(data, 0)
        buffer.copy_(data.view(buffer.dtype).view(buffer.shape))


class _LossOfModel(nn.Module):
    """A module whose forward calls its argument. DDP wraps it, instead of the model, so that DDP outputs the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        return compute_loss()
