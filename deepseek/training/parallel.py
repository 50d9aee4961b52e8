"""Communication between ranks: sums over all ranks, and work that only rank 0 does but whose failure all ranks see.

If `torch.distributed` is not initialized, there is only one rank, and a sum leaves its tensor unchanged.
"""

import gc
import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import Aborted
from deepseek.training.replica import AveragingReplica, Replica, share_buffer

T = TypeVar("T")


class Ranks:
    """The processes that train together: the members of the default process group when this object is created.

    Args:
        device: Device that holds the tensors the ranks exchange.

    Attributes:
        device: Device that holds the tensors the ranks exchange.
        rank: Number of this process, from 0.
        world_size: Number of ranks.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        initialized = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if initialized else 0
        self.world_size = dist.get_world_size() if initialized else 1

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all ranks in place. Every rank must call this method."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """Replaces each element with its maximum over all ranks, in place. Every rank must call this method.

        No element may be NaN.
        """
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the tensors of all ranks, stacked in the order of ranks. Every rank must call this method."""
        tensors = [torch.empty_like(tensor) for _ in range(self.world_size)] if self.world_size > 1 else [tensor]
        if self.world_size > 1:
            dist.all_gather(tensors, tensor)
        return torch.stack(tensors)

    def share(self, value: Any) -> Any:
        """Returns rank 0's value on every rank. Every rank must call this method.

        Args:
            value: A JSON value; ignored on ranks other than 0.
        """
        if self.world_size == 1:
            return value
        data = json.dumps(value).encode() if self.rank == 0 else b""
        size = torch.tensor(len(data), device=self.device)
        dist.broadcast(size, 0)
        content = torch.tensor(list(data) or [0] * int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def begin_sum_(self, tensor: Tensor) -> Callable[[], Any]:
        """Starts to sum a tensor over all ranks in place, and returns a function that waits until the sum is complete.

        The caller can do other work before it calls that function.
        """
        if self.world_size == 1:
            return lambda: None
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        wait: Callable[[], Any] = work.wait
        return wait

    def replicate(self, model: nn.Module) -> Replica:
        """Copies rank 0's weights to all ranks, and returns a replica that averages gradients over the ranks."""
        return Replica(model) if self.world_size == 1 else AveragingReplica(model)

    def collect(self) -> None:
        """Frees the replica that `replicate` returned. The caller must have dropped its own references.

        The replica's DDP object is part of a reference cycle, and its hooks stay on the parameters until the garbage
        collector frees the object.
        """
        if self.world_size > 1:
            gc.collect()

    def share_buffers(self, model: nn.Module) -> None:
        """Copies rank 0's buffers to all ranks, e.g. the running statistics of batch normalization."""
        if self.world_size > 1:
            for buffer in model.buffers():
                share_buffer(buffer)

    def on_first(self, work: Callable[[], T]) -> T | None:
        """Calls a function on rank 0 while the other ranks wait.

        Returns:
            The result of `work` on rank 0; None on the other ranks.

        Raises:
            Aborted: RANK_FAILED on the other ranks if `work` raised an error, which propagates on rank 0.
        """
        if self.rank:
            if not self.sum_(torch.zeros((), device=self.device)):
                raise Aborted("RANK_FAILED", "rank 0 failed; see its error for the reason")
            return None
        succeeded = torch.zeros((), device=self.device)
        try:
            result = work()
            succeeded.fill_(1)
        finally:
            self.sum_(succeeded)
        return result
