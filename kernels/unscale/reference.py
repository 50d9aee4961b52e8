"""Unscale, finiteness check and norm of gradients in eager torch: the definition of the operation.

Every other implementation must agree with this one; how closely is said in `kernels.unscale`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def unscale(gradients: Sequence[Tensor], inverse_scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies gradients in place; see `kernels.unscale`."""
    gradients = [gradient for gradient in gradients if gradient.numel()]
    if not gradients:
        return torch.zeros(()), torch.zeros(())
    # The maximum, unlike the sum of squares, overflows for no finite gradient. NaN passes through it.
    largest = torch.stack(torch._foreach_norm(gradients, torch.inf))
    found_inf = (~torch.isfinite(largest).all()).float()
    if not isinstance(inverse_scale, float) or inverse_scale != 1.0:
        torch._foreach_mul_(gradients, inverse_scale)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return found_inf, norm
