"""Divides a training split into the samples to train on and those that are held out for evaluation (`eval_share`)."""

import numpy as np

from deepseek.data.datasets import EncodedDataset
from deepseek.trainjob.runspec import RunSpec


def held_out_indices(spec: RunSpec, num_samples: int) -> list[int]:
    """Returns the indices of the held-out samples in a training split, in ascending order.

    Args:
        spec: Spec of the run.
        num_samples: Number of samples in the split; at least 2 if the spec holds out a share.
    """
    if not spec.eval_share:
        return []
    num_held_out = min(max(1, round(spec.eval_share * num_samples)), num_samples - 1)
    order = np.random.default_rng(spec.seed).permutation(num_samples).tolist()
    return sorted(order[:num_held_out])


def divide(spec: RunSpec, training: EncodedDataset) -> tuple[EncodedDataset, EncodedDataset]:
    """Returns the samples of a training split to train on, and those to evaluate on."""
    held_out = held_out_indices(spec, len(training))
    kept = sorted(set(range(len(training))) - set(held_out))
    return training.part(kept), training.part(held_out, augment=False)
