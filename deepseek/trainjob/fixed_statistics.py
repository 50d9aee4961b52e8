"""Running statistics of models that must not depend on the data they are trained with, computed from other data."""

from collections.abc import Iterator

from torch import Tensor, nn

from deepseek.data.datasets import TARGET, EncodedDataset
from deepseek.training.running_statistics import fit_statistics, freeze_modules, statistics_modules
from deepseek.trainjob.pipeline import sample_batch

_BATCH_SIZE = 256


def fix_statistics(model: nn.Module, evaluation: EncodedDataset, *, has_trained: bool) -> None:
    """Fixes the running statistics of the model of a private run, so that they depend on no private example.

    Without statistics of trained weights, they are computed from the evaluation split, which is not protected. Batch
    normalization is then left as it is, so that the trainer refuses it: statistics of untrained weights do not suit
    weights that are trained.

    Args:
        model: Model in training mode.
        evaluation: Samples of the evaluation split.
        has_trained: Whether the model has, or will load, the statistics of a model version that it starts from.

    Raises:
        InvalidArgument: BAD_MODEL_STATE if the outermost module itself keeps statistics.
    """
    batch = {name: tensor for name, tensor in sample_batch(evaluation, 2).items() if name != TARGET}
    names = statistics_modules(model, batch)
    if has_trained:
        freeze_modules(model, names)
    elif not any(isinstance(model.get_submodule(name), nn.modules.batchnorm._NormBase) for name in names):
        fit_statistics(model, input_batches(evaluation))


def input_batches(dataset: EncodedDataset) -> Iterator[dict[str, Tensor]]:
    """Yields the inputs of all samples in batches, in order and without augmentation."""
    plain = dataset.part(range(len(dataset)), augment=False)
    for start in range(0, len(plain), _BATCH_SIZE):
        batch = plain.collate([plain[i] for i in range(start, min(start + _BATCH_SIZE, len(plain)))])
        del batch[TARGET]
        yield batch
