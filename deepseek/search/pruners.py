"""The built-in pruners: Optuna's, under names and with parameters that JSON can hold.

A pruner decides from the measurements of all trials whether a trial should stop early. Optuna documents the parameters
that have the same name there. Steps are expected to count from 1. Resources are steps.
"""

from collections.abc import Mapping
from typing import Any

import optuna

from common.errors import InvalidArgument
from deepseek.components import PRUNERS
from deepseek.search.context import Context, check_at_most

MAX_STEPS = 10**12
"""Largest step at which trials may be compared."""


def none(context: Context) -> optuna.pruners.BasePruner:
    """Never stops a trial."""
    return optuna.pruners.NopPruner()


def asha(
    context: Context, min_resource: int = 1, reduction_factor: int = 3, min_early_stopping_rate: int = 0
) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934): the same as `successive_halving`, with a
    reduction factor of 3.

    Args:
        min_resource: Step at which trials are compared for the first time.
        reduction_factor: Of this number of trials, one continues to the next comparison, which comes after this many
            times as many steps.
        min_early_stopping_rate: Number of comparisons that are skipped at the start.
    """
    return successive_halving(context, min_resource, reduction_factor, min_early_stopping_rate)


def successive_halving(
    context: Context,
    min_resource: int = 1,
    reduction_factor: int = 4,
    min_early_stopping_rate: int = 0,
    bootstrap_count: int = 0,
) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934).

    Args:
        min_resource: Step at which trials are compared for the first time.
        reduction_factor: Of this number of trials, one continues to the next comparison, which comes after this many
            times as many steps.
        min_early_stopping_rate: Number of comparisons that are skipped at the start.
        bootstrap_count: Number of trials that a comparison needs before any trial passes it.
    """
    check_at_most(MAX_STEPS, min_resource=min_resource)
    check_at_most(1000, reduction_factor=reduction_factor)
    check_at_most(30, min_early_stopping_rate=min_early_stopping_rate)
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource, reduction_factor, min_early_stopping_rate, bootstrap_count
    )


def hyperband(
    context: Context, max_resource: int, min_resource: int = 1, reduction_factor: int = 3, bootstrap_count: int = 0
) -> optuna.pruners.BasePruner:
    """Hyperband (Li et al. 2018, arXiv:1603.06560): several successive halvings with different first comparisons.

    Args:
        max_resource: Number of steps of a trial that is not stopped, e.g. the number of epochs.
        min_resource: Step at which the first halving compares trials for the first time.
        reduction_factor: As for `successive_halving`.
        bootstrap_count: As for `successive_halving`.
    """
    if not 1 <= min_resource <= max_resource:
        message = f"min_resource is {min_resource}; it must be from 1 to max_resource, which is {max_resource}"
        raise InvalidArgument("BAD_VALUE", message, field="min_resource")
    check_at_most(MAX_STEPS, max_resource=max_resource)
    check_at_most(1000, reduction_factor=reduction_factor)
    return optuna.pruners.HyperbandPruner(min_resource, max_resource, reduction_factor, bootstrap_count)


def median(
    context: Context,
    n_startup_trials: int = 5,
    n_warmup_steps: int = 0,
    interval_steps: int = 1,
    n_min_trials: int = 1,
) -> optuna.pruners.BasePruner:
    """Stops a trial whose best value is worse than the median of the other trials at the same step.

    Args:
        n_startup_trials: Number of succeeded trials before any trial is stopped.
        n_warmup_steps: Number of steps before a trial is stopped.
        interval_steps: Number of steps between two decisions.
        n_min_trials: Number of values at a step that a decision needs.
    """
    return optuna.pruners.MedianPruner(n_startup_trials, n_warmup_steps, interval_steps, n_min_trials=n_min_trials)


def percentile(
    context: Context,
    percentile: float,
    n_startup_trials: int = 5,
    n_warmup_steps: int = 0,
    interval_steps: int = 1,
    n_min_trials: int = 1,
) -> optuna.pruners.BasePruner:
    """Stops a trial whose best value is not among the best `percentile` percent at the same step.

    Args:
        percentile: Percentage of trials that continue, from 0 to 100.
        n_startup_trials: Number of succeeded trials before any trial is stopped.
        n_warmup_steps: Number of steps before a trial is stopped.
        interval_steps: Number of steps between two decisions.
        n_min_trials: Number of values at a step that a decision needs.
    """
    return optuna.pruners.PercentilePruner(
        percentile, n_startup_trials, n_warmup_steps, interval_steps, n_min_trials=n_min_trials
    )


def patient(
    context: Context, patience: int, min_delta: float = 0.0, wrapped: Mapping[str, Any] | None = None
) -> optuna.pruners.BasePruner:
    """Stops a trial only after `patience` steps without improvement.

    Args:
        patience: Number of steps.
        min_delta: Smallest change that counts as an improvement.
        wrapped: Name and `params` of another pruner that must agree; default: none is asked.
    """
    inner = None
    if wrapped is not None:
        inner = PRUNERS.build(wrapped.get("name", ""), wrapped.get("params", {}), field="wrapped", context=context)
    return optuna.pruners.PatientPruner(inner, patience, min_delta)


def threshold(
    context: Context,
    lower: float | None = None,
    upper: float | None = None,
    n_warmup_steps: int = 0,
    interval_steps: int = 1,
) -> optuna.pruners.BasePruner:
    """Stops a trial whose value is NaN or outside of bounds.

    Args:
        lower: Lower bound.
        upper: Upper bound. At least one bound is required.
        n_warmup_steps: Number of steps before a trial is stopped.
        interval_steps: Number of steps between two decisions.
    """
    return optuna.pruners.ThresholdPruner(lower, upper, n_warmup_steps, interval_steps)


def wilcoxon(context: Context, p_threshold: float = 0.1, n_startup_steps: int = 2) -> optuna.pruners.BasePruner:
    """Stops a trial that is significantly worse than the best one, by a signed-rank test. Steps are test cases, e.g.
    folds of a cross-validation, and the objective is the mean of their values.

    Args:
        p_threshold: Level of significance, from 0 to 1.
        n_startup_steps: Number of steps before a trial is stopped.
    """
    return optuna.pruners.WilcoxonPruner(p_threshold=p_threshold, n_startup_steps=n_startup_steps)
