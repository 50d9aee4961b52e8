"""Unscale in one Triton kernel, which reads and writes each gradient once.

A single launch processes all gradients: a table of addresses assigns one block of a tensor to each program, so a
model's hundreds of small tensors, such as biases, need no separate launches. Each program stores its partial sum of
squares separately instead of adding it atomically to a shared total, so the norm is reproducible. In tests, Triton's
interpreter runs the kernel on CPU tensors. To enable the interpreter, set TRITON_INTERPRET=1 before Triton is imported.
The interpreter is slow: it takes seconds per million elements.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_SIZE = 4096

# Triton's compiler accepts only its own annotations in the functions that it compiles, so they have no type hints.


@triton.jit
def _add(left, right):  # type: ignore[no-untyped-def]
    return left + right


@triton.jit
def _maximum(left, right):  # type: ignore[no-untyped-def]
    return tl.maximum(left, right)


@triton.jit  # type: ignore[untyped-decorator]
def _unscale_kernel(addresses, sizes, starts, inverse_scale, squares, found, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    gradient = tl.load(addresses + program).to(tl.pointer_type(tl.float32))
    offsets = tl.load(starts + program) + tl.arange(0, BLOCK)
    mask = offsets < tl.load(sizes + program)
    scaled = tl.load(gradient + offsets, mask=mask, other=0.0)
    not_finite = tl.where(tl.abs(scaled) < float("inf"), 0.0, 1.0)  # comparisons with NaN are false
    unscaled = scaled * tl.load(inverse_scale)
    tl.store(gradient + offsets, unscaled, mask=mask)
    # tl.sum and tl.max are avoided: if Triton was first imported without the interpreter, they are compiled functions,
    # which the interpreter cannot call.
    tl.store(found + program, tl.reduce(not_finite, 0, _maximum))
    tl.store(squares + program, tl.reduce(unscaled * unscaled, 0, _add))


def unscale(gradients: Sequence[Tensor], inverse_scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies gradients in place; see `kernels.unscale`."""
    whole = [gradient for gradient in gradients if gradient.numel()]
    if not whole:
        return torch.zeros(()), torch.zeros(())
    device = whole[0].device
    # The kernel does not depend on the order of dimensions in memory, so channels_last tensors count as dense too.
    dense = [gradient if _is_dense(gradient) else gradient.contiguous() for gradient in whole]
    blocks = [(g.data_ptr(), g.numel(), start) for g in dense for start in range(0, g.numel(), BLOCK_SIZE)]
    addresses, sizes, starts = torch.tensor(blocks, dtype=torch.int64).T.contiguous().to(device, non_blocking=True)
    factor = torch.as_tensor(inverse_scale, dtype=torch.float32, device=device).reshape(1)
    squares = torch.empty(len(blocks), device=device)
    found = torch.empty(len(blocks), device=device)
    _unscale_kernel[(len(blocks),)](addresses, sizes, starts, factor, squares, found, BLOCK=BLOCK_SIZE)
    for gradient, copy in zip(whole, dense, strict=True):
        if copy is not gradient:
            gradient.copy_(copy)
    return found.amax(), squares.sum().sqrt()


def _is_dense(gradient: Tensor) -> bool:
    return gradient.is_contiguous() or gradient.is_contiguous(memory_format=torch.channels_last)
