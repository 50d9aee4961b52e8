"""How a node trains in a round: the member `fit` of a task. This module does not import torch."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import InvalidArgument
from deepseek.privacy.releases import Release
from deepseek.training.dp_settings import DpSgd
from deepseek.trainjob import json_values

MAX_THREADS = 64


@dataclass(frozen=True)
class FitSettings:
    """How a node trains in a round.

    Attributes:
        local_epochs: Number of passes over the node's data in a round. With DP-SGD, one pass is
            `DpSgd.steps_per_epoch` steps.
        proximal_mu: Weight of FedProx's term mu / 2 |w - w_global|^2; 0 for none.
        num_rounds: Number of rounds over which the learning rate follows the spec's schedule; 0 if it follows the whole
            schedule in every round.
        num_threads: Number of threads. Results are equal bit for bit only for equal numbers.
        dp_sgd: Settings of DP-SGD on the node's examples; None means no DP-SGD.
        figures: Whether the node reports figures of its data, e.g. the loss, and the number of its examples. With
            DP-SGD it never does.
    """

    local_epochs: int = 1
    proximal_mu: float = 0.0
    num_rounds: int = 0
    num_threads: int = 1
    dp_sgd: DpSgd | None = None
    figures: bool = True

    @property
    def private(self) -> bool:
        """Whether nothing that a node reports may depend on its data, except the update."""
        return self.dp_sgd is not None or not self.figures

    @property
    def release(self) -> Release | None:
        """What every node releases in a round, which is debited for the round; None without DP-SGD.

        Raises:
            InvalidArgument: BAD_COUNT at `count` if a node would make too many steps.
        """
        return self.dp_sgd.release(self.local_epochs) if self.dp_sgd else None

    @property
    def dp_steps(self) -> int:
        """Number of DP-SGD steps of every node in a round; 0 without DP-SGD."""
        return release.count if (release := self.release) else 0

    @classmethod
    def from_json(cls, data: Any, *, path: str = "fit") -> "FitSettings":
        """Reads the JSON form.

        Raises:
            InvalidArgument: UNKNOWN_FIELD, MISSING_FIELD, BAD_VALUE, BAD_NOISE or BAD_RATE.
        """
        json_values.check_keys(data, cls.__dataclass_fields__, path)
        dp_sgd = data.get("dp_sgd")
        settings = cls(
            local_epochs=json_values.integer(data.get("local_epochs", 1), f"{path}.local_epochs"),
            proximal_mu=json_values.number(data.get("proximal_mu", 0.0), f"{path}.proximal_mu"),
            num_rounds=json_values.integer(data.get("num_rounds", 0), f"{path}.num_rounds"),
            num_threads=json_values.integer(data.get("num_threads", 1), f"{path}.num_threads"),
            dp_sgd=None if dp_sgd is None else _read_dp_sgd(dp_sgd, f"{path}.dp_sgd"),
            figures=json_values.boolean(data.get("figures", True), f"{path}.figures"),
        )
        settings._check(path)
        return settings

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return asdict(self)

    def _check(self, path: str) -> None:
        for name, least, most in (
            ("local_epochs", 1, math.inf),
            ("num_rounds", 0, math.inf),
            ("num_threads", 1, MAX_THREADS),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
                raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be {bounds}", field=f"{path}.{name}")
        if not 0 <= self.proximal_mu < math.inf:
            message = f"proximal_mu is {self.proximal_mu}; it must be finite and at least 0"
            raise InvalidArgument("BAD_VALUE", message, field=f"{path}.proximal_mu")


def _read_dp_sgd(data: Any, path: str) -> DpSgd:
    json_values.check_keys(data, DpSgd.__dataclass_fields__, path)
    for name in DpSgd.__dataclass_fields__:
        if name not in data:
            raise InvalidArgument("MISSING_FIELD", f"{name} is missing", field=f"{path}.{name}")
    try:
        return DpSgd(
            noise_multiplier=json_values.number(data["noise_multiplier"], "noise_multiplier"),
            max_grad_norm=json_values.number(data["max_grad_norm"], "max_grad_norm"),
            expected_batch_size=json_values.integer(data["expected_batch_size"], "expected_batch_size"),
            sampling_rate=json_values.number(data["sampling_rate"], "sampling_rate"),
        )
    except InvalidArgument as error:
        raise InvalidArgument(error.reason, error.message, field=f"{path}.{error.field}") from error
