"""Numeric formats: which one `auto` means, dynamic loss scaling for fp16, and what fp16 costs on a CPU.

Weights, gradients and optimizer state are float32 in every precision; the format is that of the forward and backward
pass under torch's autocast. Only fp16 needs its loss scaled: its smallest gradient is 6e-8, where bf16 has the range of
float32 (Micikevicius et al. 2018).
"""

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import InvalidArgument

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROBE_S = 0.2


class SlowPrecisionWarning(UserWarning):
    """The chosen precision is much slower on this device than another."""


def resolve(precision: str, device: torch.device) -> str:
    """Turns a user's choice into `fp32`, `bf16` or `fp16`.

    Args:
        precision: One of these, or `auto`: fp16 on CUDA before compute capability 8, bf16 elsewhere.
        device: Where to train.

    Raises:
        InvalidArgument: BAD_VALUE at `precision`.
    """
    if precision == "auto":
        old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
        return "fp16" if old else "bf16"
    if precision not in DTYPES:
        message = f"precision is {str(precision)[:80]!r}; it must be auto, {', '.join(DTYPES)}"
        raise InvalidArgument("BAD_VALUE", message, field="precision")
    return precision


def warn_of_fp16_on_cpu() -> None:
    """Measures fp16 against bf16 on this CPU, in less than a second, and warns of the factor."""
    slowdown = measure_step_s(torch.float16) / measure_step_s(torch.bfloat16)
    message = (
        f"precision='fp16' on a CPU: a small convolution's training step takes {slowdown:.1f} times as long as "
        "in bf16, measured on this machine just now. It goes on in fp16 as asked; precision='auto' would take bf16."
    )
    warnings.warn(message, SlowPrecisionWarning, stacklevel=3)


def measure_step_s(dtype: torch.dtype) -> float:
    """Returns the time of a small convolution's forward and backward pass on the CPU, seconds; the best of several."""
    with torch.random.fork_rng(devices=[]):
        convolution = nn.Conv2d(32, 32, 3, padding=1)
        images_BCHW = torch.randn(2, 32, 24, 24)
    best = float("inf")
    end = time.perf_counter() + _PROBE_S
    while True:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype):
            loss = convolution(images_BCHW).float().mean()
        loss.backward()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best


class LossScaler:
    """Dynamic loss scale with the arithmetic of `torch.amp.GradScaler`, decided by the caller's found_inf.

    torch's own class decides on each rank for itself and reads the scale back from the device; here the decision is
    made once for all ranks, so the scale is a number.

    Args:
        init_scale: First scale.
        growth_factor: Factor after `growth_interval` good steps in a row, above 1.
        backoff_factor: Factor after a step that was not finite, below 1.
        growth_interval: Steps.

    Attributes:
        scale: What the loss is multiplied by; a float32 number.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        assert growth_factor > 1.0 > backoff_factor
        self.scale = _float32(init_scale)
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._growth_tracker = 0

    @property
    def inverse(self) -> float:
        """1 / scale, computed in float64 and rounded to float32."""
        return _float32(1.0 / self.scale)

    def update(self, found_inf: bool) -> None:
        """Adapts the scale after a step.

        Args:
            found_inf: Some gradient on some rank was not finite.
        """
        if found_inf:
            self.scale = _float32(self.scale * self._backoff_factor)
            self._growth_tracker = 0
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            grown = _float32(self.scale * self._growth_factor)
            if np.isfinite(grown):
                self.scale = grown
            self._growth_tracker = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the scale and the number of good steps since it last changed."""
        return {"scale": self.scale, "growth_tracker": self._growth_tracker}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned.

        Raises:
            InvalidArgument: BAD_STATE.
        """
        scale, tracker = state.get("scale"), state.get("growth_tracker")
        if not isinstance(scale, float) or not 0 < scale < float("inf") or type(tracker) is not int or tracker < 0:
            raise InvalidArgument("BAD_STATE", f"not the state of a loss scaler: {str(state)[:80]}", field="scaler")
        self.scale, self._growth_tracker = _float32(scale), tracker


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
