"""Learning-rate schedules as functions of the number of updates made; they have no state to save.

A schedule is a callable `(update, num_updates) -> factor` of the learning rate: `update` counts from 0 the updates
that the optimizer has made, so a step that was skipped does not move it; `num_updates` is the length of the whole
run.
"""

import math
from collections.abc import Callable

from common.errors import InvalidArgument

Schedule = Callable[[int, int], float]


def constant() -> Schedule:
    """The learning rate as it is given."""
    return lambda update, num_updates: 1.0


def cosine(warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter 2017, eq. 5, without restarts).

    Args:
        warmup: Share of the updates to warm up in, 0 to 1; the first update has a rate above 0.
        final: Factor after the last update, 0 to 1.

    >>> [round(cosine()(update, 4), 3) for update in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    _check_share("warmup", warmup)
    _check_share("final", final)

    def factor(update: int, num_updates: int) -> float:
        num_warmup = round(warmup * num_updates)
        if update < num_warmup:
            return (update + 1) / (num_warmup + 1)
        progress = min(1.0, (update - num_warmup) / max(1, num_updates - num_warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def one_cycle(pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Schedule:
    """Up and down again in one cycle, each half a cosine (Smith & Topin 2018): torch's `OneCycleLR` less its momentum.

    Args:
        pct_start: Share of the updates that the rate rises in, 0 to 1.
        div_factor: The first rate is the highest divided by this, above 0.
        final_div_factor: The last rate is the first divided by this, above 0.

    >>> [round(one_cycle()(update, 11), 4) for update in (0, 10)]
    [0.04, 0.0]
    """
    _check_share("pct_start", pct_start)
    for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if not 0 < value < math.inf:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be above 0", field=name)
    first, last = 1 / div_factor, 1 / div_factor / final_div_factor

    def factor(update: int, num_updates: int) -> float:
        peak, end = pct_start * num_updates - 1, num_updates - 1
        if update <= peak:
            return _anneal(first, 1.0, update / peak if peak > 0 else 1.0)
        return _anneal(1.0, last, min(1.0, (update - peak) / (end - peak)) if end > peak else 1.0)

    return factor


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be from 0 to 1", field=name)
