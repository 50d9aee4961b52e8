"""Time of a training step in each numeric format on this host's CPU: measured once and cached on disk.

A processor without instructions for a format emulates it, up to 75 times slower than float32, and no processor flag
shows this reliably, so the time is measured. Two operations represent all models, a convolution and a matrix product,
forward and backward.
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

from common.config import home
from deepseek.processor import instruction_set
from deepseek.training import checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Formats, the safest first."""

_BUDGET_S = 0.6
_MIN_ROUNDS = 2
# A format this many times slower than float32 is not timed further, to keep slow emulation within the time budget.
_HOPELESS = 3.0
# A less precise format must be this much faster to be chosen.
_MARGIN = 1.05
_NUM_KEPT = 32

Operation = tuple[nn.Module, Tensor]


@dataclass(frozen=True)
class StepTimes:
    """Seconds per step of each operation in each format, the best of several.

    Attributes:
        convolution: 3 x 3, 32 to 32 channels, over 2 images of 24 x 24.
        matrix_product: 128 rows by 256 x 256.
    """

    convolution: Mapping[str, float]
    matrix_product: Mapping[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Time of a step in each format relative to the fastest; the geometric mean of both operations."""
        times = {name: math.sqrt(self.convolution[name] * self.matrix_product[name]) for name in DTYPES}
        return {name: time / min(times.values()) for name, time in times.items()}

    @property
    def fastest(self) -> str:
        """The format to train in, see `fastest_of`."""
        return fastest_of(self.ratios)


def fastest_of(ratios: Mapping[str, float]) -> str:
    """The format to train in by the times of all: a less precise one only if it is at least 5 % faster."""
    chosen = "fp32"
    for name in DTYPES:
        if ratios[name] * _MARGIN <= ratios[chosen]:
            chosen = name
    return chosen


def of_this_host(directory: Path | None = None) -> StepTimes:
    """Returns the times on this host; measures them at most once, within a second.

    Args:
        directory: Folder of the cache; by default `cache` in `DEEPSEEK_HOME`. Entries of another host, processor or
            version of torch are not used. A folder that cannot be written is not an error.
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
        with suppress(OSError):  # the next process measures again
            _write(path, kept)
    return kept[key]


def measure() -> StepTimes:
    """Times all formats on one thread of the CPU; torch's random state and number of threads are restored."""
    operations = _convolution(), _matrix_product()
    # Several threads wait for each other, so on shared cores their time shows the other load more than the format.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return StepTimes(*_best_times(operations))
    finally:
        torch.set_num_threads(num_threads)


def measure_step_s(dtype: torch.dtype, operation: Operation | None = None) -> float:
    """Returns the seconds of one training step, forward and backward, under autocast on the CPU.

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
    """The cached times; empty if the file is damaged."""
    try:
        return {key: _checked(**times) for key, times in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _checked(convolution: Any, matrix_product: Any) -> StepTimes:
    for times in (convolution, matrix_product):
        if set(times) != set(DTYPES) or not all(isinstance(t, float) and 0 < t < math.inf for t in times.values()):
            raise ValueError("not step times")
    return StepTimes(convolution, matrix_product)


def _write(path: Path, kept: Mapping[str, StepTimes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    checkpoint.write(path, json.dumps({key: asdict(times) for key, times in kept.items()}, indent=1).encode())


if __name__ == "__main__":  # for `deepseek doctor`, which imports no torch
    found = of_this_host()
    print(json.dumps({"fastest": found.fastest, "ratios": found.ratios}))
