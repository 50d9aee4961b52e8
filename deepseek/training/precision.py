"""Numeric formats: which one a run trains in, and dynamic loss scaling for fp16.

Weights, gradients and optimizer state are float32 in every precision; the format is that of the forward and backward
pass under torch's autocast. Only fp16 needs its loss scaled: its smallest gradient is 6e-8, where bf16 has the range of
float32 (Micikevicius et al. 2018). On CPUs, `auto` selects by measurement (`deepseek.training.step_times`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from common.errors import InvalidArgument
from deepseek.training import step_times
from deepseek.training.parallel import Ranks
from deepseek.training.step_times import DTYPES, StepTimes, measure_step_s

__all__ = ["DTYPES", "Choice", "LossScaler", "Reason", "SlowPrecisionWarning", "choose", "kept_by", "measure_step_s"]

SLOW = 1.5
"""A format that takes more than this many times as long as the fastest causes a warning."""


class SlowPrecisionWarning(UserWarning):
    """The chosen precision is much slower on this device than another."""


class Reason(StrEnum):
    """Why a run trains in its format."""

    REQUESTED = "requested"
    """It was requested by name."""
    FASTEST = "fastest"
    """It was measured to be the fastest on the slowest of the run's hosts."""
    DEVICE = "device"
    """It is the fast format of this CUDA device: bf16, or fp16 before compute capability 8."""
    KEPT = "kept"
    """It is the format of the run's first attempt; a run that changed its format would not continue exactly."""


@dataclass(frozen=True)
class Choice:
    """The format of a run.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        reason: Why this format is used.
        ratios: Measured time of a training step in each format relative to the fastest; empty on CUDA.
    """

    precision: str
    reason: Reason
    ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def fastest(self) -> str:
        """The format that `auto` takes, or this one where nothing was measured."""
        return step_times.fastest_of(self.ratios) if self.ratios else self.precision

    @property
    def warning(self) -> str:
        """The warning for a format that takes more than 1.5 times as long as the fastest; empty for a faster one."""
        slowdown = self.ratios.get(self.precision, 1.0)
        if slowdown <= SLOW:
            return ""
        what = (
            f"precision={self.precision!r} on this CPU: a training step takes {slowdown:.1f} times as long as in "
            f"{self.fastest}, as measured on this host."
        )
        if self.reason is Reason.KEPT:
            return f"{what} The run began in {self.precision} and keeps it, so that it continues exactly."
        return f"{what} Training continues in {self.precision} as requested; precision='auto' would use {self.fastest}."


def choose(precision: str, device: torch.device, ranks: Ranks) -> Choice:
    """Turns a user's choice into a format; every rank must call it, and all ranks get the same format.

    On a CPU every rank measures its host, and for each operation the time of the slowest rank counts, because
    data-parallel ranks wait for the slowest.

    Args:
        precision: `fp32`, `bf16`, `fp16` or `auto`.
        device: Where to train.
        ranks: The processes that train together.

    Raises:
        InvalidArgument: BAD_VALUE at `precision`.
    """
    if precision not in ("auto", *DTYPES):
        message = f"precision is {str(precision)[:80]!r}; it must be auto, {', '.join(DTYPES)}"
        raise InvalidArgument("BAD_VALUE", message, field="precision")
    if device.type == "cpu":
        times = _agree(step_times.of_this_host(), ranks)
        if precision == "auto":
            return Choice(times.fastest, Reason.FASTEST, times.ratios)
        return Choice(precision, Reason.REQUESTED, times.ratios)
    if precision == "auto":
        old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
        return Choice("fp16" if old else "bf16", Reason.DEVICE)
    return Choice(precision, Reason.REQUESTED)


def kept_by(state: Mapping[str, Any]) -> str:
    """Returns the format that a checkpoint's run trains in.

    Args:
        state: An untrusted checkpoint's state. If it records no format, it is from when `auto` was bf16 on CPUs.

    Raises:
        InvalidArgument: BAD_STATE.
    """
    precision = state.get("precision", "fp16" if state.get("scaler") else "bf16")
    if not isinstance(precision, str) or precision not in DTYPES:
        message = f"the checkpoint's precision is {str(precision)[:80]!r}; it must be {', '.join(DTYPES)}"
        raise InvalidArgument("BAD_STATE", message, field="precision")
    return precision


def _agree(times: StepTimes, ranks: Ranks) -> StepTimes:
    rows = [[part[name] for name in DTYPES] for part in (times.convolution, times.matrix_product)]
    convolution, matrix_product = ranks.max_(torch.tensor(rows, dtype=torch.float64)).tolist()
    return StepTimes(dict(zip(DTYPES, convolution, strict=True)), dict(zip(DTYPES, matrix_product, strict=True)))


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
