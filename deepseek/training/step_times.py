"""Measures how long a training step takes in each numeric format on this host's CPU, and caches the result on disk.

If a processor has no instructions for a format, the format is emulated, and a step can be 75 times slower than in
float32. No processor flag shows this reliably, so step times are measured. Two operations are timed as representatives
of all models, a convolution and a matrix product, each with a forward and a backward pass.
"""

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.environment import home
from deepseek.processor import instruction_set
from deepseek.training import checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The torch dtype of each numeric format; numerically safer formats come first."""

_BUDGET_S = 0.6
_MIN_ROUNDS = 2
# A format that takes at least this many times as long as float32 is not timed further, to stay within the budget.
_HOPELESS = 3.0
# A later format in DTYPES is chosen over an earlier one only if it is faster by at least this factor.
_MARGIN = 1.05
_NUM_KEPT = 32

Operation = tuple[nn.Module, Tensor]


@dataclass(frozen=True)
class StepTimes:
    """For two operations, the shortest measured step time in each numeric format, in seconds.

    Attributes:
        convolution: Times of a 3 x 3 convolution from 32 to 32 channels over 2 images of 24 x 24 pixels.
        matrix_product: Times of the product of a 128 x 256 matrix and a 256 x 256 matrix.
    """

    convolution: Mapping[str, float]
    matrix_product: Mapping[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Geometric mean of the two operations' step times in each format, relative to the fastest format."""
        times = {name: math.sqrt(self.convolution[name] * self.matrix_product[name]) for name in DTYPES}
        return {name: time / min(times.values()) for name, time in times.items()}

    @property
    def fastest(self) -> str:
        """The format to train in; see `fastest_of`."""
        return fastest_of(self.ratios)


def fastest_of(ratios: Mapping[str, float]) -> str:
    """Returns the format to train in, given each format's step time relative to the fastest format.

    A later format in `DTYPES` is numerically less safe, so it is chosen over an earlier one only if it is at least 5 %
    faster than the earlier one.
    """
    chosen = "fp32"
    for name in DTYPES:
        if ratios[name] * _MARGIN <= ratios[chosen]:
            chosen = name
    return chosen


def of_this_host(directory: Path | None = None) -> StepTimes:
    """Returns the step times on this host.

    Times that are not in the cache are measured, which takes less than a second.

    Args:
        directory: Folder of the cache; by default `cache` in `DEEPSEEK_HOME`. Entries from another host, processor or
            version of torch are ignored. If the folder cannot be written to, the times are not cached.
    """
    return _of_this_host(directory or home() / "cache")


@cache
def _of_this_host(directory: Path) -> StepTimes:
    path = directory / "step-times.json"
    capability = torch.backends.cpu.get_cpu_capability()
    key = f"{platform.node()}, {instruction_set()}, {capability}, torch {torch.__version__}"
    kept = _read(path)
    if key not in kept:
        kept = {**dict(list(kept.items())[1 - _NUM_KEPT :]), key: measure()}
        with suppress(OSError):  # without the cache, the next process measures again
            _write(path, kept)
    return kept[key]


def measure() -> StepTimes:
    """Times all formats on one CPU thread, and restores torch's random state and number of threads afterwards."""
    operations = _convolution(), _matrix_product()
    # Uses a single thread. Several threads would wait for each other, so on shared cores, other load would affect the
    # times too much.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return StepTimes(*_best_times(operations))
    finally:
        torch.set_num_threads(num_threads)


def measure_step_s(dtype: torch.dtype, operation: Operation | None = None) -> float:
    """Runs one training step, forward and backward, under autocast on the CPU; returns its duration in seconds.

    Args:
        dtype: Format of the step.
        operation: A module and its input; by default a convolution.
    """
    module, x = operation or _convolution()
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = module(x).float().mean()
    loss.backward()
    return time.perf_counter() - start


def _best_times(operations: Sequence[Operation]) -> list[dict[str, float]]:
    best = [dict.fromkeys(DTYPES, math.inf) for _ in operations]
    end, rounds = time.perf_counter() + _BUDGET_S, 0
    # The formats alternate, so that other load on the host slows them equally.
    while rounds < _MIN_ROUNDS or time.perf_counter() < end:
        for operation, times in zip(operations, best, strict=True):
            for name, dtype in DTYPES.items():
                if rounds < _MIN_ROUNDS or times[name] < _HOPELESS * times["fp32"]:
                    times[name] = min(times[name], measure_step_s(dtype, operation))
        rounds += 1
    return best


def _convolution() -> Operation:
    with torch.random.fork_rng(devices=[]):
        return nn.Conv2d(32, 32, 3, padding=1), torch.randn(2, 32, 24, 24)


def _matrix_product() -> Operation:
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(256, 256), torch.randn(128, 256)


def _read(path: Path) -> dict[str, StepTimes]:
    """Returns the cached times; an empty dict if the file is missing or damaged."""
    try:
        return {key: _checked(**times) for key, times in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _checked(convolution: Any, matrix_product: Any) -> StepTimes:
    for times in (convolution, matrix_product):
        if set(times) != set(DTYPES) or not all(isinstance(t, float) and 0 < t < math.inf for t in times.values()):
            raise ValueError("the cached step times are invalid")
    return StepTimes(convolution, matrix_product)


def _write(path: Path, kept: Mapping[str, StepTimes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    checkpoint.write(path, json.dumps({key: asdict(times) for key, times in kept.items()}, indent=1).encode())


if __name__ == "__main__":  # `deepseek doctor` starts this program instead of importing torch
    found = of_this_host()
    print(json.dumps({"fastest": found.fastest, "ratios": found.ratios}))
