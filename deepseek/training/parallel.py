"""What a rank has to know of the others: sums over ranks, and errors that all ranks see.

Everything here is the identity in a process without `torch.distributed`.
"""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import Aborted
from deepseek.training.replica import AveragingReplica, Replica, share_buffer

T = TypeVar("T")


class Ranks:
    """The processes that train together: those of the default process group when this is made.

    Args:
        device: Where tensors are that go from rank to rank.

    Attributes:
        rank: This process's number, from 0.
        world_size: How many there are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        initialised = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if initialised else 0
        self.world_size = dist.get_world_size() if initialised else 1

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all ranks in place; every rank has to call it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """Computes the maximum of each element over all ranks in place; every rank must call it, without NaN."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def begin_sum_(self, tensor: Tensor) -> Callable[[], Any]:
        """Starts a sum in place and returns what waits for its end, so that work can go on meanwhile."""
        if self.world_size == 1:
            return lambda: None
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        wait: Callable[[], Any] = work.wait
        return wait

    def replicate(self, model: nn.Module) -> Replica:
        """Returns a replica that averages the model's gradients over the ranks; all ranks take rank 0's weights."""
        return Replica(model) if self.world_size == 1 else AveragingReplica(model)

    def collect(self) -> None:
        """Frees the result of `replicate` once nothing else refers to it: DDP is in a reference cycle, and its hooks
        stay on the parameters until it is collected."""
        if self.world_size > 1:
            gc.collect()

    def share_buffers(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's buffers, e.g. the running statistics of batch normalisation."""
        if self.world_size > 1:
            for buffer in model.buffers():
                share_buffer(buffer)

    def on_first(self, work: Callable[[], T]) -> T | None:
        """Does something on rank 0 while the others wait.

        Returns:
            What `work` returned; None on the other ranks.

        Raises:
            Aborted: RANK_FAILED on the other ranks if `work` raised on rank 0.
        """
        if self.rank:
            if not self.sum_(torch.zeros((), device=self._device)):
                raise Aborted("RANK_FAILED", "rank 0 failed; its error says why")
            return None
        succeeded = torch.zeros((), device=self._device)
        try:
            result = work()
            succeeded.fill_(1)
        finally:
            self.sum_(succeeded)
        return result
