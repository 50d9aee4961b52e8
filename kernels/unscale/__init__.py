"""Unscale: one pass over all gradients that divides out the loss scale, finds what is not finite, and sums the norm.

For gradients g_i in float32 and a scalar s:

    found_inf = 1 if any element of any g_i is Inf or NaN, before it is multiplied, else 0
    g_i      <- s * g_i, in place
    norm      = sqrt(sum_i ||g_i||^2), after

which is `torch.amp.GradScaler.unscale_` followed by `torch.nn.utils.get_total_norm`, in one read and one write of
memory instead of three reads and one write.

How a kernel is laid out, this one and all others:

- A folder an operation. This file holds the contract and picks the implementation; nobody imports deeper but tests.
- `reference.py` is eager torch and the definition: correct on every device, no faster than it has to be.
- `triton.py` is the GPU version, loaded for CUDA tensors when Triton is installed. It is tested on a CPU by Triton's
  interpreter. Native code comes in only where it beats the reference in a benchmark, and on a CPU none has yet.
- What must agree bit by bit and what within a tolerance is said here: found_inf and the gradients bit by bit; the norm
  within 1e-5 relative, for it is a sum in another order. Where found_inf is 1, the norm is not defined.

Gradients that are all zero, empty, or not there at all are allowed; sparse ones are passed as their values.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.unscale import reference


def unscale(gradients: Sequence[Tensor], inverse_scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies gradients in place, and tells whether they were finite and what their norm is now.

    Args:
        gradients: Dense tensors of any shapes, all on one device; written to. Of float32, or with some of another real
            or complex type, where the norm has the widest type.
        inverse_scale: What to multiply by: 1 / loss scale; a float or a float32 tensor [] on their device.

    Returns:
        found_inf: float32 [], 1.0 if any element was Inf or NaN, else 0.0; on the gradients' device.
        norm: float32 [], L2 norm of all multiplied gradients together; undefined if found_inf is 1.

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
