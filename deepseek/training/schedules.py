"""Learning-rate schedules as functions of the number of updates, without any state to save.

A schedule is a callable `(update, num_updates) -> factor`. The base learning rate is multiplied by the factor. `update`
is the number of updates that the optimizer has made so far, not counting skipped steps. `num_updates` is the number of
steps in the whole run.
"""

import math
from collections.abc import Callable

from common.errors import InvalidArgument

Schedule = Callable[[int, int], float]


def constant(warmup: float = 0.0) -> Schedule:
    """A constant learning rate, after an optional linear warm-up.

    Args:
        warmup: Share of the updates during which the rate rises, 0 to 1. The first update already has a rate above 0.
    """
    return _after_warmup(warmup, lambda progress: 1.0)


def cosine(warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Linear warm-up, then a decay along half a cosine (Loshchilov & Hutter 2017, eq. 5, without restarts).

    Args:
        warmup: Share of the updates during which the rate rises, 0 to 1. The first update already has a rate above 0.
        final: Factor towards which the rate decays at the end of the run, 0 to 1.

    >>> [round(cosine()(update, 4), 3) for update in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    _check_share("final", final)
    return _after_warmup(warmup, lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def linear(warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Linear warm-up, then a linear decay.

    Args:
        warmup: Share of the updates during which the rate rises, 0 to 1. The first update already has a rate above 0.
        final: Factor towards which the rate decays at the end of the run, 0 to 1.

    >>> [linear()(update, 4) for update in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    _check_share("final", final)
    return _after_warmup(warmup, lambda progress: 1 - (1 - final) * progress)


def exponential(warmup: float = 0.0, final: float = 0.01) -> Schedule:
    """Linear warm-up, then an exponential decay: each update multiplies the rate by the same factor.

    Args:
        warmup: Share of the updates during which the rate rises, 0 to 1. The first update already has a rate above 0.
        final: Factor towards which the rate decays at the end of the run; above 0, at most 1.

    >>> [round(exponential()(update, 4), 3) for update in range(4)]
    [1.0, 0.316, 0.1, 0.032]
    """
    _check_share("final", final)
    if not final:
        raise InvalidArgument("BAD_VALUE", "final is 0; an exponential decay never reaches 0", field="final")
    return _after_warmup(warmup, lambda progress: final**progress)


def step(at: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1, warmup: float = 0.0) -> Schedule:
    """Linear warm-up, then a rate that drops at certain points of the run (He et al. 2015, section 3.4).

    Args:
        at: Points at which the rate drops, as shares of the updates after the warm-up, 0 to 1.
        factor: Factor by which the rate is multiplied at each drop, 0 to 1.
        warmup: Share of the updates during which the rate rises, 0 to 1. The first update already has a rate above 0.

    >>> [round(step()(update, 8), 3) for update in range(8)]
    [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    for i, point in enumerate(at):
        _check_share(f"at[{i}]", point)
    _check_share("factor", factor)
    return _after_warmup(warmup, lambda progress: factor ** sum(progress >= point for point in at))


def one_cycle(pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Schedule:
    """One cycle: a rise and a fall, each along half a cosine (Smith & Topin 2018).

    This is torch's `OneCycleLR`, except that the momentum does not change.

    Args:
        pct_start: Share of the updates during which the rate rises, 0 to 1.
        div_factor: Highest rate divided by the first rate; above 0.
        final_div_factor: First rate divided by the last rate; above 0.

    >>> [round(one_cycle()(update, 11), 4) for update in (0, 10)]
    [0.04, 0.0]
    """
    _check_share("pct_start", pct_start)
    for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if not 0 < value < math.inf:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be finite and above 0", field=name)
    first, last = 1 / div_factor, 1 / div_factor / final_div_factor

    def factor(update: int, num_updates: int) -> float:
        peak, end = pct_start * num_updates - 1, num_updates - 1
        if update <= peak:
            return _anneal(first, 1.0, update / peak if peak > 0 else 1.0)
        return _anneal(1.0, last, min(1.0, (update - peak) / (end - peak)) if end > peak else 1.0)

    return factor


def _after_warmup(warmup: float, decay: Callable[[float], float]) -> Schedule:
    """Returns a schedule that rises linearly, and then follows a function of the progress after the warm-up, 0 to 1."""
    _check_share("warmup", warmup)

    def factor(update: int, num_updates: int) -> float:
        num_warmup = round(warmup * num_updates)
        if update < num_warmup:
            return (update + 1) / (num_warmup + 1)
        return decay(min(1.0, (update - num_warmup) / max(1, num_updates - num_warmup)))

    return factor


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be from 0 to 1", field=name)
