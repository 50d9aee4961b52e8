"""Predicts which of several untrained networks will be more accurate, in milliseconds per network.

`synflow` and `naswot` look at the network; `parameters` and `macs` are the controls that a useful proxy has to beat.
Scores of one proxy are comparable with each other only. `rank_sum` combines several proxies (as in Mellor et al. and
AZ-NAS). A score that cannot be computed is NaN and ranks last.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SMALLEST_EIGENVALUE = 1e-6
"""Lower limit of the eigenvalues of the kernel of `naswot`, as a share of the number of activations."""

_NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def synflow(model: nn.Module, sample: Mapping[str, Tensor]) -> float:
    """Returns the logarithm of the synaptic flow of a network.

    The flow is the sum over all weights of |w dR/dw|, where R is the sum of the outputs for an input of ones, of the
    network with absolute weights and without normalization (Tanaka et al. 2020, arXiv:2006.05467, eq. 2; as a score of
    architectures: Abdelfattah et al. 2021, arXiv:2101.08134). It is computed in float64; it grows exponentially with
    the depth, hence the logarithm.

    Args:
        model: The network, which is not changed.
        sample: Floating-point inputs by name; only their shapes count.

    Returns:
        The logarithm; NaN if the flow is zero or not finite.
    """
    linear = copy.deepcopy(model).double().eval()
    for name, module in list(linear.named_modules()):
        if isinstance(module, _NORMS):
            parent = linear.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
    weights = [parameter.requires_grad_() for parameter in linear.parameters()]
    with torch.no_grad():
        for weight in weights:
            weight.abs_()
    outputs = linear(**{name: torch.ones_like(tensor[:1], dtype=torch.float64) for name, tensor in sample.items()})
    gradients = torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
    flow = sum(
        float((weight * gradient).abs().sum().detach())
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    )
    return math.log(flow) if 0 < flow < math.inf else math.nan


def naswot(model: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """Returns how well the activation patterns of an untrained network tell samples apart.

    The score is log |det K|. K[i, j] is the number of ReLUs that are both on or both off for the samples i and j
    (Mellor et al. 2021, arXiv:2006.04647, eq. 2). Unlike there, eigenvalues have a lower limit, so that two samples
    with the same pattern do not make the score infinite.

    Args:
        model: The network, in the state in which it was built. Its normalization uses the statistics of the batch, and
            its running statistics do not change.
        batch: Samples, inputs by name. More samples tell networks apart better; scores of different batches cannot be
            compared.

    Returns:
        The score; NaN if the network has no ReLU modules, or an activation is not finite.
    """
    kernels: list[Tensor] = []
    counts: list[int] = []
    finite: list[bool] = []

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].flatten(1)
        on = (values > 0).float()
        kernels.append((on @ on.T + (1 - on) @ (1 - on).T).double())
        counts.append(on.shape[1])
        finite.append(bool(values.isfinite().all()))

    probed = copy.deepcopy(model).train()
    for module in probed.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(count)
        elif isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        probed(**batch)
    if not counts or not all(finite):
        return math.nan
    eigenvalues = torch.linalg.eigvalsh(torch.stack(kernels).sum(0))
    return float(eigenvalues.clamp(min=SMALLEST_EIGENVALUE * sum(counts)).log().sum())


def rank_sum(scores: Mapping[str, Sequence[float]]) -> npt.NDArray[np.float64]:
    """Returns the sum of the ranks that each network has under several proxies; more is better.

    Args:
        scores: Scores of the same networks by proxy; more is better. Equal scores share their mean rank. NaN ranks
            below all numbers.

    >>> rank_sum({"one": [1.0, 5.0, 5.0], "two": [float("nan"), 2.0, 1.0]}).tolist()
    [0.0, 3.5, 2.5]
    """
    ranks = [_ranks(np.asarray(values, np.float64)) for values in scores.values()]
    return np.asarray(np.sum(ranks, axis=0), np.float64)


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = np.where(np.isnan(values), -np.inf, values)
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return np.asarray(below + (equal - 1) / 2, np.float64)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns Spearman's rank correlation of two lists of scores; NaN if one of them is constant.

    >>> round(spearman([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]), 6)
    0.5
    """
    first, second = (_ranks(np.asarray(values, np.float64)) for values in (one, other))
    if not (first.std() and second.std()):
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
