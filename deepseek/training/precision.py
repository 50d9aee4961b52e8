"""Chooses the numeric format of a run, and scales the loss dynamically for fp16.

Weights, gradients and optimizer state are always float32. The format applies only to the forward and backward pass,
under torch's autocast. Only fp16 needs loss scaling: it cannot represent gradients below 6e-8, whereas bf16 has the
range of float32 (Micikevicius et al. 2018). On CPUs, `auto` selects the fastest format according to the measurements of
`deepseek.training.step_times`.
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

__all__ = [
    "DTYPES",
    "LossScaler",
    "PrecisionChoice",
    "Reason",
    "SlowPrecisionWarning",
    "choose",
    "measure_step_s",
    "precision_of_checkpoint",
]

SLOW = 1.5
"""A warning is given if a step in the chosen format takes more than this multiple of its time in the fastest format."""


class SlowPrecisionWarning(UserWarning):
    """Warning that the chosen precision is much slower on this device than another precision."""


class Reason(StrEnum):
    """The reason why a run uses its numeric format."""

    REQUESTED = "requested"
    """The user requested the format by name."""
    FASTEST = "fastest"
    """This format was measured to be the fastest. For each operation, the time on the slowest rank was used."""
    DEVICE = "device"
    """The format suits the CUDA device: bf16 from compute capability 8, otherwise fp16."""
    KEPT = "kept"
    """The run that saved the checkpoint used this format. In another format, the run would not resume exactly."""


@dataclass(frozen=True)
class PrecisionChoice:
    """The numeric format of a run, and the reason for it.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        reason: Why this format is used.
        ratios: Measured duration of a training step in each format, relative to the fastest format (1 for the fastest);
            empty on CUDA.
    """

    precision: str
    reason: Reason
    ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def fastest(self) -> str:
        """The format that `auto` would select; if nothing was measured, the chosen format."""
        return step_times.fastest_of(self.ratios) if self.ratios else self.precision

    @property
    def warning(self) -> str:
        """Text of a warning if a step takes more than 1.5 times as long as in the fastest format; otherwise empty."""
        slowdown = self.ratios.get(self.precision, 1.0)
        if slowdown <= SLOW:
            return ""
        what = (
            f"precision={self.precision!r} on this CPU: a training step takes {slowdown:.1f} times as long as in "
            f"{self.fastest}, as measured on this host."
        )
        if self.reason is Reason.KEPT:
            return f"{what} The run began in {self.precision} and keeps this format, because it must resume exactly."
        return f"{what} Training continues in {self.precision} as requested; precision='auto' would use {self.fastest}."


def choose(precision: str, device: torch.device, ranks: Ranks) -> PrecisionChoice:
    """Chooses the format of a run from the user's setting.

    Every rank must call this function, and all ranks get the same format.

    On CPUs, every rank measures step times on its own host. For each operation, only the slowest rank's time counts,
    because data-parallel ranks wait for the slowest one.

    Args:
        precision: `fp32`, `bf16`, `fp16` or `auto`.
        device: Device to train on.
        ranks: The processes that train together.

    Raises:
        InvalidArgument: BAD_VALUE at `precision` if the setting is unknown.
    """
    if precision not in ("auto", *DTYPES):
        message = f"precision is {str(precision)[:80]!r}; it must be one of auto, {', '.join(DTYPES)}"
        raise InvalidArgument("BAD_VALUE", message, field="precision")
    if device.type == "cpu":
        times = _agree(step_times.of_this_host(), ranks)
        if precision == "auto":
            return PrecisionChoice(times.fastest, Reason.FASTEST, times.ratios)
        return PrecisionChoice(precision, Reason.REQUESTED, times.ratios)
    if precision == "auto":
        old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
        return PrecisionChoice("fp16" if old else "bf16", Reason.DEVICE)
    return PrecisionChoice(precision, Reason.REQUESTED)


def precision_of_checkpoint(state: Mapping[str, Any]) -> str:
    """Returns the numeric format of the run that saved a checkpoint.

    Args:
        state: State of a checkpoint, which may be untrusted. A checkpoint that does not record the format was saved by
            an older release: its format is fp16 if it contains the state of a loss scaler, otherwise bf16.

    Raises:
        InvalidArgument: BAD_STATE if the recorded format is unknown.
    """
    precision = state.get("precision", "fp16" if state.get("scaler") else "bf16")
    if not isinstance(precision, str) or precision not in DTYPES:
        message = f"the checkpoint's precision is {str(precision)[:80]!r}; it must be one of {', '.join(DTYPES)}"
        raise InvalidArgument("BAD_STATE", message, field="precision")
    return precision


def _agree(times: StepTimes, ranks: Ranks) -> StepTimes:
    rows = [[part[name] for name in DTYPES] for part in (times.convolution, times.matrix_product)]
    convolution, matrix_product = ranks.max_(torch.tensor(rows, dtype=torch.float64)).tolist()
    return StepTimes(dict(zip(DTYPES, convolution, strict=True)), dict(zip(DTYPES, matrix_product, strict=True)))


class LossScaler:
    """Dynamic loss scale with the arithmetic of `torch.amp.GradScaler`.

    In torch's class, each rank checks whether its own gradients are finite, and the scale is kept on the device. Here,
    the caller reports one result for all ranks, and the scale is a plain number.

    Args:
        init_scale: Initial scale.
        growth_factor: Factor that the scale is multiplied by when it grows; above 1.
        backoff_factor: Factor that the scale is multiplied by after a step whose gradients were not finite; below 1.
        growth_interval: Number of consecutive steps with finite gradients after which the scale grows.

    Attributes:
        scale: Factor that the loss is multiplied by, rounded to float32.
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
            found_inf: Whether a gradient on any rank was not finite.
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
        """Returns the scale, and the number of consecutive finite steps that count towards its next growth."""
        return {"scale": self.scale, "growth_tracker": self._growth_tracker}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state returned by `state_dict`.

        Raises:
            InvalidArgument: BAD_STATE if the state is invalid.
        """
        scale, tracker = state.get("scale"), state.get("growth_tracker")
        if not isinstance(scale, float) or not 0 < scale < float("inf") or type(tracker) is not int or tracker < 0:
            message = f"the loss scaler's state is {str(state)[:80]}; it must have a scale above 0 and a growth_tracker"
            raise InvalidArgument("BAD_STATE", message, field="scaler")
        self.scale, self._growth_tracker = _float32(scale), tracker


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
