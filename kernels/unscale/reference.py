"""The definition of unscale in eager torch: multiply gradients, check that they are finite, and compute the norm.

Every other implementation must match this one as closely as `kernels.unscale` requires.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def unscale(gradients: Sequence[Tensor], inverse_scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies gradients in place; see `kernels.unscale`."""
    gradients = [gradient for gradient in gradients if gradient.numel()]
    if not gradients:
        return torch.zeros(()), torch.zeros(())
    norm = _norm(gradients)
    found_inf = torch.zeros_like(norm)
    if not torch.isfinite(norm):
        # The sum of squares may overflow even if all gradients are finite. Their largest absolute value cannot
        # overflow, and it is NaN if any element is.
        largest = torch.stack(torch._foreach_norm(gradients, torch.inf))
        found_inf = (~torch.isfinite(largest).all()).to(norm)
    if not isinstance(inverse_scale, float) or inverse_scale != 1.0:
        torch._foreach_mul_(gradients, inverse_scale)
        norm = _norm(gradients)
    return found_inf, norm


def _norm(gradients: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm
