"""The built-in policies. `docs/steering.md` says when to use which, and what the legacy rule costs."""

import math
from collections.abc import Mapping
from typing import Any

from common.errors import InvalidArgument
from deepseek.steering.policy import Adjustment, Curve, Observation, Policy, check_momentum, check_share
from deepseek.training import schedules

_BELOW_1 = math.nextafter(1.0, 0.0)
_MAX_EPOCHS = 10**6


def _check_range(value: float, field: str, least: float, most: float) -> float:
    if not least <= value <= most:
        limits = f"from {least:g} to {most:g}" if most != _BELOW_1 else f"at least {least:g} and below 1"
        raise InvalidArgument("BAD_VALUE", f"{field} is {value}; it must be {limits}", field=field)
    return value


class Plateau(Policy):
    """Lowers the learning rate when a figure no longer improves, raises it while progress is slow, and anneals it.

    The figure is smoothed (exponential moving average). After `patience` epochs in which the smoothed figure has not
    become better by a relative `threshold`, the rate is multiplied by `factor`. After as many epochs in which it has
    become better each time, by at least `threshold` but less than `slow`, the rate is too low for the length of the
    run: it is multiplied by `growth` before every epoch, until the figure gets worse. In the last part of the run, the
    rate falls linearly, as in warm-up-stable-decay schedules (Hu et al. 2024, arXiv:2404.06395, section 4), because
    most models improve as the rate falls, whether or not they have reached a plateau.

    Args:
        metric: Figure of the evaluation to watch. Without evaluation data, the training loss is used.
        greater_is_better: Whether a higher figure is better.
        factor: Factor by which the rate is lowered; above 0 and below 1.
        patience: Number of epochs before the rate is changed; at least 1.
        cooldown: Number of epochs after a reduction that do not count as epochs without improvement.
        threshold: Smallest relative improvement that counts, above 0 and at most 1.
        smoothing: Weight of earlier epochs in the moving average; at least 0 and below 1.
        growth: Factor by which the rate is raised, 1 to 2; 1 for never.
        slow: Relative improvement per epoch below which progress is slow, 0 to 1.
        floor: Lowest rate, relative to the rate at which the policy began; above 0 and at most 1.
        ceiling: Highest rate, relative to the same rate; 1 to 1000.
        anneal: Share of the run at its end during which the rate falls, 0 to 1.
    """

    def __init__(
        self,
        metric: str = "loss",
        greater_is_better: bool = False,
        factor: float = 0.5,
        patience: int = 3,
        cooldown: int = 1,
        threshold: float = 1e-3,
        smoothing: float = 0.3,
        growth: float = 1.25,
        slow: float = 0.05,
        floor: float = 1e-3,
        ceiling: float = 30.0,
        anneal: float = 0.2,
    ) -> None:
        self.floor = check_share(floor, "floor", above_0=True)
        self.ceiling = _check_range(ceiling, "ceiling", 1, 1000)
        self._metric = metric
        self._sign = -1.0 if greater_is_better else 1.0
        self._factor = _check_range(check_share(factor, "factor", above_0=True), "factor", 0, _BELOW_1)
        self._patience = int(_check_range(patience, "patience", 1, _MAX_EPOCHS))
        self._cooldown = int(_check_range(cooldown, "cooldown", 0, _MAX_EPOCHS))
        self._threshold = check_share(threshold, "threshold", above_0=True)
        self._smoothing = _check_range(smoothing, "smoothing", 0, _BELOW_1)
        self._growth = _check_range(growth, "growth", 1, 2)
        self._slow = check_share(slow, "slow")
        self._anneal = check_share(anneal, "anneal")
        self._start: float | None = None  # the highest rate before the policy changed it
        self._last: float | None = None  # the rate that it set last
        self._mean: float | None = None
        self._best: float | None = None
        self._num_stale = 0
        self._num_slow = 0
        self._num_cooling = 0
        self._annealed_from: float | None = None  # rate at the beginning of the last part of the run

    def decide(self, observation: Observation) -> Adjustment | None:
        rate = observation.learning_rate
        if self._start is None or (self._last is None and rate > self._start):
            self._start = rate  # until the policy changes the rate, a schedule may raise it
        self._watch(observation)
        new = self._changed(rate, observation)
        new = max(self.floor * self._start, min(new, self.ceiling * self._start))
        if new == rate:
            return None
        self._last = new
        return Adjustment(new)

    def _changed(self, rate: float, observation: Observation) -> float:
        """Returns the next rate, before it is bounded."""
        left = 1 - (observation.step + 0.5 * observation.num_steps / observation.num_epochs) / observation.num_steps
        if left < self._anneal:  # in the middle of the epoch that begins
            self._annealed_from = self._annealed_from or rate
            return min(rate, self._annealed_from * max(0.0, left) / self._anneal)
        if self._num_stale >= self._patience:
            self._num_stale, self._num_cooling = 0, self._cooldown
            return rate * self._factor
        return rate * self._growth if self._num_slow >= self._patience else rate

    def _watch(self, observation: Observation) -> None:
        figure = observation.validation.get(self._metric)
        if figure is None and not observation.validation:
            figure = observation.train_loss
        if figure is None:
            return
        if not math.isfinite(figure):  # not remembered, because the smoothed figure would stay NaN
            self._num_stale, self._num_slow = self._num_stale + 1, 0
            return
        figure *= self._sign
        before = figure if self._mean is None else self._mean
        self._mean = self._smoothing * before + (1 - self._smoothing) * figure
        gain = (before - self._mean) / abs(before) if before else 0.0
        self._num_slow = self._num_slow + 1 if self._threshold <= gain < self._slow else 0
        if self._best is None or self._mean < self._best - self._threshold * abs(self._best):
            self._best, self._num_stale = self._mean, 0
        elif self._num_cooling:
            self._num_cooling -= 1
        else:
            self._num_stale += 1

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, f"_{name}") for name in self._REMEMBERED}

    def load(self, state: Mapping[str, Any]) -> None:
        for name in self._REMEMBERED:
            value = state[name]
            setattr(self, f"_{name}", int(value) if name.startswith("num") else value and float(value))

    _REMEMBERED = ("start", "last", "mean", "best", "num_stale", "num_slow", "num_cooling", "annealed_from")


class Cosine(Curve):
    """Lowers the learning rate along half a cosine, from its value at the start to the end of the run.

    Loshchilov & Hutter 2017, equation 5, without restarts.

    Args:
        final: Rate towards which it falls, relative to the rate at the start, 0 to 1.
    """

    def __init__(self, final: float = 0.0) -> None:
        self._schedule = schedules.cosine(final=final)

    def at(self, start: Observation, step: int) -> Adjustment:
        factor = self._schedule(step - start.step, max(1, start.num_steps - start.step))
        return Adjustment(start.learning_rate * factor)


class OneCycle(Curve):
    """Raises the learning rate to its value at the start, then lowers it, while the momentum does the opposite.

    Smith & Topin 2018, in the form of torch's `OneCycleLR`: both follow half cosines. The momentum of an optimizer
    without momentum is left alone.

    Args:
        pct_start: Share of the steps during which the rate rises, 0 to 1.
        div_factor: Highest rate divided by the first rate; above 0.
        final_div_factor: First rate divided by the last rate; above 0.
        max_momentum: Momentum at the lowest rates; at least 0 and below 1.
        min_momentum: Momentum at the highest rate; at least 0 and below 1.
    """

    def __init__(
        self,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        max_momentum: float = 0.95,
        min_momentum: float = 0.85,
    ) -> None:
        self._schedule = schedules.one_cycle(pct_start, div_factor, final_div_factor)
        # The same phases, from 0 at the first step to 1 at the peak and back.
        self._shape = schedules.one_cycle(pct_start, 1e12, 1.0)
        self._max = check_momentum(max_momentum, "max_momentum")
        self._min = check_momentum(min_momentum, "min_momentum")

    def at(self, start: Observation, step: int) -> Adjustment:
        update, num_updates = step - start.step, max(1, start.num_steps - start.step)
        rate = start.learning_rate * self._schedule(update, num_updates)
        momentum = self._max + (self._min - self._max) * self._shape(update, num_updates)
        return Adjustment(rate, None if start.momentum is None else momentum)


class LegacyThreshold(Policy):
    """The rule of an earlier product: x1.2 before epoch 5, then x0.7 if the validation loss is above 0.8, else x0.95.

    After 25 epochs, the rate is about 1/500 of its start if the loss stays above 0.8, regardless of whether the model
    still improves. `plateau` is better on every task that we measured; this policy exists for comparison.
    """

    def decide(self, observation: Observation) -> Adjustment | None:
        if observation.epoch < 5:
            return Adjustment(observation.learning_rate * 1.2)
        if observation.validation.get("loss", math.nan) > 0.8:
            return Adjustment(observation.learning_rate * 0.7)
        return Adjustment(observation.learning_rate * 0.95)
