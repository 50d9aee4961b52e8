"""Strategies: how a round's updates become the next model.

A strategy has two parts: `combine` reduces the updates to their mean or another average, and `apply` changes the model
by this average. With client-level privacy, `private_mean` replaces `combine`. Its sensitivity is known only for a mean,
so strategies with another average are refused.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from common.scalars import real_number
from deepseek.federated import arrays as arrays_of
from deepseek.federated.aggregation import Means, WeightedUpdate, median, trimmed_mean, weighted_mean
from deepseek.federated.arrays import Arrays, Shapes

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Strategy(ABC):
    """Combines updates. It is stateless: its state is passed in and returned as bytes."""

    name: ClassVar[str]
    linear: ClassVar[bool] = True
    """Whether `combine` is a weighted mean."""

    @abstractmethod
    def combine(self, updates: Sequence[WeightedUpdate], shapes: Shapes) -> Means:
        """Returns the average of updates, which does not depend on their order; zeros if there are none."""

    @abstractmethod
    def apply(self, model: Arrays, mean: Means, state: bytes) -> tuple[dict[str, npt.NDArray[np.float32]], bytes]:
        """Returns the next model and the next state.

        Args:
            model: The current model.
            mean: Average of the updates.
            state: State that the last call returned; empty before the first round.
        """

    def fit_options(self) -> dict[str, float]:
        """Returns the options of local training that the strategy prescribes."""
        return {}

    def check_private(self) -> None:
        """Checks that the effect of one node on the average has a known bound.

        Raises:
            InvalidArgument: STRATEGY_NOT_PRIVATE.
        """
        if not self.linear:
            allowed = ", ".join(name for name, known in STRATEGIES.items() if known.linear)
            raise InvalidArgument(
                "STRATEGY_NOT_PRIVATE",
                f"{self.name} has no bound on what one node can change, so noise cannot protect it; choose one of "
                f"{allowed}, or remove the privacy of the run",
                field="strategy.name",
            )


class FedAvg(Strategy):
    """Weighted mean of the updates (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

    Args:
        server_learning_rate: Factor of the mean; above 0. 1 replaces the model by the mean of the nodes' models.
        weight_cap: Number of examples above which a node's weight no longer grows; at least 1. 1 gives equal weights.
        max_weight_ratio: Multiple of the median of the updates' numbers of examples above which a node's weight no
            longer grows either; at least 1. So a node that lies about its number has at most this many times the weight
            of a typical node.
    """

    name = "fedavg"

    def __init__(
        self, server_learning_rate: float = 1.0, weight_cap: float = 10_000, max_weight_ratio: float = 10
    ) -> None:
        self.server_learning_rate = _in_range("server_learning_rate", server_learning_rate, above=0, below=1e6)
        self.weight_cap = _in_range("weight_cap", weight_cap, at_least=1)
        self.max_weight_ratio = _in_range("max_weight_ratio", max_weight_ratio, at_least=1)

    def combine(self, updates: Sequence[WeightedUpdate], shapes: Shapes) -> Means:
        return weighted_mean(updates, shapes, self.weight_cap, self.max_weight_ratio)

    def apply(self, model: Arrays, mean: Means, state: bytes) -> tuple[dict[str, npt.NDArray[np.float32]], bytes]:
        moved = {name: _float32(model[name] + self.server_learning_rate * mean[name]) for name in sorted(model)}
        return moved, b""


class FedProx(FedAvg):
    """FedAvg whose nodes stay near the global model (Li et al. 2020, arXiv 1812.06127, algorithm 2).

    Args:
        proximal_mu: Factor mu of the term mu/2 ||w - w_t||^2 that nodes add to their loss; at least 0.
        server_learning_rate: As in FedAvg.
        weight_cap: As in FedAvg.
        max_weight_ratio: As in FedAvg.
    """

    name = "fedprox"

    def __init__(
        self,
        proximal_mu: float = 0.01,
        server_learning_rate: float = 1.0,
        weight_cap: float = 10_000,
        max_weight_ratio: float = 10,
    ) -> None:
        super().__init__(server_learning_rate, weight_cap, max_weight_ratio)
        self.proximal_mu = _in_range("proximal_mu", proximal_mu, at_least=0)

    def fit_options(self) -> dict[str, float]:
        return {"proximal_mu": self.proximal_mu}


class FedAdam(Strategy):
    """Adam on the server (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

    m_t = beta_1 m_{t-1} + (1 - beta_1) Delta_t, v_t = beta_2 v_{t-1} + (1 - beta_2) Delta_t^2,
    x_{t+1} = x_t + eta m_t / (sqrt(v_t) + tau), with m_{-1} = 0 and v_{-1} = tau^2. There is no bias correction.

    Args:
        server_learning_rate: eta; above 0.
        beta_1: Decay rate of the first moment, in [0, 1).
        beta_2: Decay rate of the second moment, in [0, 1).
        tau: Degree of adaptivity; above 0.
        weight_cap: As in FedAvg.
        max_weight_ratio: As in FedAvg.
    """

    name = "fedadam"

    def __init__(
        self,
        server_learning_rate: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
        weight_cap: float = 10_000,
        max_weight_ratio: float = 10,
    ) -> None:
        self.server_learning_rate = _in_range("server_learning_rate", server_learning_rate, above=0, below=1e6)
        self.beta_1 = _in_range("beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = _in_range("beta_2", beta_2, at_least=0, below=1)
        self.tau = _in_range("tau", tau, above=0)
        self.weight_cap = _in_range("weight_cap", weight_cap, at_least=1)
        self.max_weight_ratio = _in_range("max_weight_ratio", max_weight_ratio, at_least=1)

    def combine(self, updates: Sequence[WeightedUpdate], shapes: Shapes) -> Means:
        return weighted_mean(updates, shapes, self.weight_cap, self.max_weight_ratio)

    def apply(self, model: Arrays, mean: Means, state: bytes) -> tuple[dict[str, npt.NDArray[np.float32]], bytes]:
        names = sorted(model)
        if state:
            like = {f"{moment}/{name}": model[name].shape for moment in "mv" for name in names}
            moments = arrays_of.from_bytes(state, like, field="strategy_state")
        else:
            moments = {f"m/{name}": np.zeros_like(model[name]) for name in names}
            moments |= {f"v/{name}": np.full_like(model[name], self.tau**2) for name in names}
        moved: dict[str, npt.NDArray[np.float32]] = {}
        for name in names:
            m = _float32(self.beta_1 * moments[f"m/{name}"].astype(np.float64) + (1 - self.beta_1) * mean[name])
            v = _float32(self.beta_2 * moments[f"v/{name}"].astype(np.float64) + (1 - self.beta_2) * mean[name] ** 2)
            step = m.astype(np.float64) / (np.sqrt(v.astype(np.float64)) + self.tau)
            moved[name] = _float32(model[name] + self.server_learning_rate * step)
            moments |= {f"m/{name}": m, f"v/{name}": v}
        return moved, arrays_of.to_bytes(moments)


class TrimmedMean(Strategy):
    """Coordinate-wise trimmed mean, which tolerates a share of wrong updates (Yin et al. 2018, arXiv 1803.01498).

    All nodes have equal weights, because the number of examples that a node claims cannot be verified.

    Args:
        share: Share of the values that is left out at each end, in [0, 0.5).
        server_learning_rate: As in FedAvg.
    """

    name = "trimmed_mean"
    linear = False

    def __init__(self, share: float = 0.2, server_learning_rate: float = 1.0) -> None:
        self.share = _in_range("share", share, at_least=0, below=0.5)
        self._move = FedAvg(server_learning_rate)

    def combine(self, updates: Sequence[WeightedUpdate], shapes: Shapes) -> Means:
        return trimmed_mean(updates, shapes, self.share)

    def apply(self, model: Arrays, mean: Means, state: bytes) -> tuple[dict[str, npt.NDArray[np.float32]], bytes]:
        return self._move.apply(model, mean, state)


class Median(Strategy):
    """Coordinate-wise median, which tolerates wrong updates from just under half of the nodes (Yin et al. 2018, arXiv
    1803.01498).

    Args:
        server_learning_rate: As in FedAvg.
    """

    name = "median"
    linear = False

    def __init__(self, server_learning_rate: float = 1.0) -> None:
        self._move = FedAvg(server_learning_rate)

    def combine(self, updates: Sequence[WeightedUpdate], shapes: Shapes) -> Means:
        return median(updates, shapes)

    def apply(self, model: Arrays, mean: Means, state: bytes) -> tuple[dict[str, npt.NDArray[np.float32]], bytes]:
        return self._move.apply(model, mean, state)


STRATEGIES: Mapping[str, type[Strategy]] = {cls.name: cls for cls in (FedAvg, FedProx, FedAdam, TrimmedMean, Median)}
"""The strategies, by the name that specs use."""


def strategy_from_spec(name: str, params: Mapping[str, Any] | None = None) -> Strategy:
    """Creates a strategy.

    Args:
        name: Name of the strategy; empty means `fedavg`.
        params: Its parameters, by name; the defaults apply to those left out.

    Raises:
        InvalidArgument: UNKNOWN_STRATEGY (field `strategy.name`), or BAD_VALUE (field `strategy.params.<name>`) if a
            parameter is unknown or out of range.

    >>> strategy_from_spec("fedprox", {"proximal_mu": 0.1}).fit_options()
    {'proximal_mu': 0.1}
    """
    strategy = STRATEGIES.get(name or FedAvg.name)
    if strategy is None:
        raise InvalidArgument(
            "UNKNOWN_STRATEGY",
            f"unknown strategy {name[:80]!r}; known are {', '.join(STRATEGIES)}",
            field="strategy.name",
        )
    known = inspect.signature(strategy).parameters
    for given in params or {}:
        if given not in known:
            raise InvalidArgument(
                "BAD_VALUE",
                f"{strategy.name} has no parameter {given[:80]!r}; it has {', '.join(known)}",
                field=f"strategy.params.{given[:80]}",
            )
    return strategy(**(params or {}))


def _in_range(
    name: str, given: Any, *, above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf
) -> float:
    field = f"strategy.params.{name}"
    value = real_number(given, field)
    if not (above < value < below and at_least <= value):
        low = f"above {above:g}" if above > -math.inf else f"at least {at_least:g}"
        limits = f"{low} and below {below:g}" if below < math.inf else f"{low} and finite"
        raise InvalidArgument("BAD_VALUE", f"{field} is {value:g}; it must be {limits}", field=field)
    return value


def _float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rounds to float32. Values outside its range become its largest values, so that a model is always finite."""
    return np.asarray(np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX), np.float32)
