"""Unscale: one pass that removes the loss scale from gradients, checks that they are finite, and computes their norm.

It replaces `torch.amp.GradScaler.unscale_` followed by `torch.nn.utils.get_total_norm`. Together, these two read the
gradients three times and write them once; the Triton kernel reads and writes them once. `reference.py` defines the
operation in eager torch. `triton.py` is used for float32 CUDA tensors if Triton is installed. Every implementation must
match the reference: found_inf and the gradients bit for bit, and the norm within a relative error of 1e-5, because
implementations add up the squares in different orders.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.unscale import reference


def unscale(gradients: Sequence[Tensor], inverse_scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies gradients in place; returns whether any element was Inf or NaN before, and the norm afterwards.

    For gradients g_i and a factor s:

        found_inf = 1 if any element of any g_i is Inf or NaN before the multiplication, else 0
        g_i      <- s * g_i, in place
        norm      = sqrt(sum_i ||g_i||^2) after the multiplication

    Args:
        gradients: Dense floating-point or complex tensors of any shape, all on one device; modified in place. The
            sequence may be empty, and so may each tensor. For a sparse gradient, pass the tensor of its values.
        inverse_scale: The factor s = 1 / loss scale, as a float or a float32 scalar tensor on the gradients' device.

    Returns:
        found_inf: Scalar tensor on the gradients' device: 1.0 if any element was Inf or NaN, else 0.0.
        norm: Scalar tensor on the gradients' device: the L2 norm over all multiplied gradients; undefined if found_inf
            is 1. Both returned scalars are float32 if all gradients are. Otherwise, both have the type to which PyTorch
            promotes the real types of all gradients.

    >>> import torch
    >>> gradient = torch.tensor([6.0, 8.0])
    >>> found_inf, norm = unscale([gradient], 0.5)
    >>> found_inf.item(), norm.item(), gradient.tolist()
    (0.0, 5.0, [3.0, 4.0])
    """
    is_float32 = all(gradient.dtype is torch.float32 for gradient in gradients)
    if gradients and gradients[0].is_cuda and is_float32 and _has_triton():
        from kernels.unscale import triton

        return triton.unscale(gradients, inverse_scale)
    return reference.unscale(gradients, inverse_scale)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
