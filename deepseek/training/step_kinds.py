"""Chooses the kind of training step, and the sampler that belongs to it: with DP-SGD or without."""

from collections.abc import Callable
from functools import partial

from common.errors import InvalidArgument
from deepseek.data.sampler import ResumableSampler
from deepseek.training.dp_settings import DpSgd
from deepseek.training.parallel import Ranks
from deepseek.training.step import TrainingStep


def kind_of_step(dp_sgd: DpSgd | None, ranks: Ranks) -> Callable[..., TrainingStep]:
    """Returns the class of the training step.

    Raises:
        InvalidArgument: BAD_VALUE at `dp_sgd` if several ranks would train with DP-SGD.
    """
    if dp_sgd is None:
        return TrainingStep
    if ranks.world_size > 1:
        message = f"DP-SGD trains in one process, not in {ranks.world_size}"
        raise InvalidArgument("BAD_VALUE", message, field="dp_sgd")
    from deepseek.training.dp_sgd import PrivateStep

    return partial(PrivateStep, dp_sgd=dp_sgd)


def make_sampler(num_samples: int, batch_size: int, seed: int, ranks: Ranks, dp_sgd: DpSgd | None) -> ResumableSampler:
    """Returns a sampler of this rank's batches."""
    if dp_sgd:
        from deepseek.training.dp_sgd import PoissonSampler

        return PoissonSampler(num_samples, dp_sgd.sampling_rate, seed=seed)
    return ResumableSampler(num_samples, batch_size, seed=seed, rank=ranks.rank, world_size=ranks.world_size)
