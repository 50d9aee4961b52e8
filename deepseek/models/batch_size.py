"""Which batch size a model requires, by the shapes of its inputs and outputs."""

from collections.abc import Sequence


def fixed_batch_size(inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    """Returns the first axis that all inputs and outputs of a model share; 0 if it varies or they share none.

    A model whose inputs have only one axis has no batch axis: this axis holds the values of a single sample.

    Args:
        inputs: Shape of each input; -1 is an axis that varies.
        outputs: Shape of each output.

    >>> fixed_batch_size([(8, 4)], [(8, 2)]), fixed_batch_size([(-1, 4)], [(-1, 2)]), fixed_batch_size([(5,)], [(5,)])
    (8, 0, 0)
    """
    sizes = {shape[0] if shape else -1 for shape in inputs}
    answered = {shape[0] if shape else 0 for shape in outputs}
    is_batch = len(sizes) == 1 and answered <= sizes | {-1} and any(len(shape) > 1 for shape in inputs)
    return max(0, *sizes) if is_batch else 0
