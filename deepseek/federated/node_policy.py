"""What a node demands of the tasks that it accepts, and how many steps of DP-SGD it has made.

The coordinator decides how nodes train, so a run without noise, or with more steps than the node's owner expects, would
otherwise be executed like any other. The policy is a setting of the node, and the node's worker checks it. It does not
protect against a coordinator that makes nodes run another app.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument
from common.files import disk_error, replace_file
from deepseek.federated.fit_settings import FitSettings
from deepseek.trainjob import json_values


@dataclass(frozen=True)
class NodePolicy:
    """What a node demands. The default accepts every task.

    Attributes:
        min_noise: Smallest noise multiplier of DP-SGD. If positive, tasks without DP-SGD are refused.
        max_sampling_rate: Largest probability with which DP-SGD samples an example for a step.
        max_steps: Largest number of steps of DP-SGD that the node ever makes on its data; 0 for no limit.
        ignore_budget: Whether the node trains on a data set version of its mesh although the data set has a privacy
            budget, which the runs of a federation do not debit.

    Raises:
        InvalidArgument: BAD_VALUE.
    """

    min_noise: float = 0.0
    max_sampling_rate: float = 1.0
    max_steps: int = 0
    ignore_budget: bool = False

    def __post_init__(self) -> None:
        for name, valid, bounds in (
            ("min_noise", 0 <= self.min_noise < math.inf, "at least 0"),
            ("max_sampling_rate", 0 < self.max_sampling_rate <= 1, "more than 0 and at most 1"),
            ("max_steps", self.max_steps >= 0, "at least 0"),
        ):
            if not valid:
                message = f"{name} is {getattr(self, name)}; it must be {bounds}"
                raise InvalidArgument("BAD_VALUE", message, field=name)
        if not self.min_noise and (self.max_sampling_rate < 1 or self.max_steps):
            message = "a sampling rate and a number of steps bound only DP-SGD; demand it with a minimum of noise"
            raise InvalidArgument("BAD_VALUE", message, field="min_noise")

    @classmethod
    def from_json(cls, data: Any, *, path: str = "policy") -> "NodePolicy":
        """Reads the JSON form.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE.
        """
        json_values.check_keys(data, cls.__dataclass_fields__, path)
        return cls(
            min_noise=json_values.number(data.get("min_noise", 0.0), f"{path}.min_noise"),
            max_sampling_rate=json_values.number(data.get("max_sampling_rate", 1.0), f"{path}.max_sampling_rate"),
            max_steps=json_values.integer(data.get("max_steps", 0), f"{path}.max_steps"),
            ignore_budget=json_values.boolean(data.get("ignore_budget", False), f"{path}.ignore_budget"),
        )

    def check(self, fit: FitSettings, num_steps: int) -> None:
        """Checks that a task complies with the policy.

        Args:
            fit: How the node would train.
            num_steps: Number of steps of DP-SGD that the node has made.

        Raises:
            FailedPrecondition: NODE_POLICY, with the field of the task.
        """
        if not self.min_noise:
            return
        if fit.dp_sgd is None:
            raise _refused("dp_sgd", f"the node accepts only DP-SGD with a noise multiplier from {self.min_noise:g}")
        if not fit.dp_sgd.noise_multiplier >= self.min_noise:
            found = f"the noise multiplier is {fit.dp_sgd.noise_multiplier:g}"
            raise _refused("dp_sgd.noise_multiplier", f"{found}; the node demands at least {self.min_noise:g}")
        if not fit.dp_sgd.sampling_rate <= self.max_sampling_rate:
            found = f"the sampling rate is {fit.dp_sgd.sampling_rate:g}"
            raise _refused("dp_sgd.sampling_rate", f"{found}; the node accepts at most {self.max_sampling_rate:g}")
        if self.max_steps and num_steps + fit.dp_steps > self.max_steps:
            found = f"the node has made {num_steps} steps of DP-SGD, and the task needs {fit.dp_steps}"
            raise _refused("local_epochs", f"{found}; its owner allows {self.max_steps} in all")


class StepCount:
    """The number of DP-SGD steps that a node has made, in a file of its work folder.

    Args:
        file: The file; created with the first step.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def total(self) -> int:
        """Number of steps."""
        try:
            return int(self._file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            message = f"{self._file} cannot be read, so it is unknown how many steps the node has made: {error}"
            raise FailedPrecondition("NODE_POLICY", message, field="fit.local_epochs") from error

    def add(self, num_steps: int) -> None:
        """Counts steps durably, before they are made."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._file, str(self.total + num_steps).encode())
        except OSError as error:
            raise disk_error(error, self._file, "files of the worker") from error


def _refused(field: str, problem: str) -> FailedPrecondition:
    return FailedPrecondition("NODE_POLICY", f"fit.{field}: {problem}", field=f"fit.{field}")
