"""The built-in search algorithms: Optuna's samplers, under names and with parameters that JSON can hold.

Each factory returns a new sampler for one suggestion; see `Context`. Optuna documents the parameters that have the same
name there. Constraints on metrics reach the samplers through the trials, not through a function.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.samplers import nsgaii

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.components import ALGORITHMS
from deepseek.search.context import Context, check_at_most
from deepseek.search.grid import GridSampler, listed
from deepseek.search.population import PopulationSettings
from deepseek.search.space import Choices
from deepseek.search.tpe import TPESampler

_CROSSOVERS: Mapping[str, Callable[[], nsgaii.BaseCrossover]] = {
    "uniform": nsgaii.UniformCrossover,
    "blxalpha": nsgaii.BLXAlphaCrossover,
    "spx": nsgaii.SPXCrossover,
    "sbx": nsgaii.SBXCrossover,
    "vsbx": nsgaii.VSBXCrossover,
    "undx": nsgaii.UNDXCrossover,
}
"""Crossovers of the genetic algorithms. All but `uniform` are for spaces without choices."""


def tpe(
    context: Context,
    n_startup_trials: int = 10,
    n_ei_candidates: int = 24,
    multivariate: bool | None = None,
    constant_liar: bool = True,
) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127).

    Args:
        n_startup_trials: Number of random trials at the start.
        n_ei_candidates: Number of candidates among which the best one is suggested.
        multivariate: Whether parameters are modelled together; default: with one objective.
        constant_liar: Whether active trials count as bad ones, so that parallel workers spread.
    """
    check_at_most(10_000, n_ei_candidates=n_ei_candidates)
    together = context.num_objectives == 1 if multivariate is None else multivariate
    return TPESampler(
        n_startup_trials=n_startup_trials,
        n_ei_candidates=n_ei_candidates,
        multivariate=together,
        group=together and context.space.is_conditional,
        constant_liar=constant_liar,
        seed=context.seed,
    )


def random(context: Context) -> optuna.samplers.BaseSampler:
    """Independent uniform draws."""
    return optuna.samplers.RandomSampler(seed=context.seed)


def pbt(
    context: Context,
    population: int = 8,
    interval: int = 1,
    quantile: float = 0.25,
    factors: tuple[float, ...] = (0.8, 1.25),
) -> optuna.samplers.BaseSampler:
    """Population-based training (Jaderberg et al. 2017, arXiv:1711.09846), for studies that RunStudy runs.

    The first values are independent uniform draws. RunStudy then changes them while the runs train; for workers of
    your own, this is the same as `random`.

    Args:
        population: Number of runs.
        interval: Number of epochs between the decisions about a run.
        quantile: Share of the runs that copy others, and of those that are copied.
        factors: Factors by which values are perturbed.
    """
    PopulationSettings(population, interval, quantile, factors).check()
    if context.num_objectives > 1:
        raise InvalidArgument("BAD_VALUE", "pbt compares runs by one objective; use nsga2 for several")
    return optuna.samplers.RandomSampler(seed=context.seed)


def gp(
    context: Context, n_startup_trials: int = 10, deterministic_objective: bool = False, max_trials: int = 300
) -> optuna.samplers.BaseSampler:
    """Gaussian process with expected improvement. Needs few trials, and much time per suggestion.

    Args:
        n_startup_trials: Number of random trials at the start.
        deterministic_objective: Whether equal parameters always give the same value.
        max_trials: Number of ended trials from which on `tpe` makes the suggestions, because the time of a Gaussian
            process grows with the cube of this number.
    """
    _require("gp", "torch", "scipy")
    check_at_most(1000, max_trials=max_trials)
    if context.num_ended >= max_trials:
        return tpe(context)
    return optuna.samplers.GPSampler(
        seed=context.seed,
        n_startup_trials=n_startup_trials,
        deterministic_objective=deterministic_objective,
        warn_independent_sampling=False,
    )


def cmaes(
    context: Context,
    n_startup_trials: int = 1,
    popsize: int | None = None,
    consider_pruned_trials: bool = False,
    use_separable_cma: bool = False,
    with_margin: bool = False,
    lr_adapt: bool = False,
) -> optuna.samplers.BaseSampler:
    """Covariance matrix adaptation (Hansen 2016, arXiv:1604.00772), for one objective and many trials.

    Choices, and parameters with conditions, are drawn independently.

    Args:
        n_startup_trials: Number of random trials at the start.
        popsize: Number of trials per generation; default: from the number of parameters.
        consider_pruned_trials: Whether trials that were stopped early count.
        use_separable_cma: Whether the covariance matrix is diagonal.
        with_margin: Whether a margin keeps discrete parameters from getting stuck.
        lr_adapt: Whether the learning rate adapts, for noisy or multimodal objectives.
    """
    _require("cmaes", "cmaes")
    check_at_most(10_000, popsize=popsize)
    if context.num_objectives > 1:
        raise InvalidArgument("BAD_VALUE", "cmaes searches for one objective; use tpe, nsga2, nsga3 or gp")
    if all(isinstance(parameter.domain, Choices) for parameter in context.space.parameters):
        raise InvalidArgument("BAD_VALUE", "cmaes needs a parameter with a range of numbers; use tpe")
    return optuna.samplers.CmaEsSampler(
        n_startup_trials=n_startup_trials,
        warn_independent_sampling=False,
        seed=context.seed,
        consider_pruned_trials=consider_pruned_trials,
        popsize=popsize,
        use_separable_cma=use_separable_cma,
        with_margin=with_margin,
        lr_adapt=lr_adapt,
    )


def nsga2(
    context: Context,
    population_size: int = 50,
    mutation_prob: float | None = None,
    crossover: str = "uniform",
    crossover_prob: float = 0.9,
    swapping_prob: float = 0.5,
) -> optuna.samplers.BaseSampler:
    """Genetic algorithm NSGA-II (Deb et al. 2002), for several objectives.

    Args:
        population_size: Number of trials per generation.
        mutation_prob: Probability with which a parameter mutates; default: 1 / the number of parameters.
        crossover: How parents combine: uniform, blxalpha, spx, sbx, vsbx or undx.
        crossover_prob: Probability with which parents combine.
        swapping_prob: Probability with which the uniform crossover swaps a parameter.
    """
    check_at_most(10_000, population_size=population_size)
    return optuna.samplers.NSGAIISampler(
        population_size=population_size,
        mutation_prob=mutation_prob,
        crossover=_crossover(context, crossover, swapping_prob),
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
        seed=context.seed,
    )


def nsga3(
    context: Context,
    population_size: int = 50,
    mutation_prob: float | None = None,
    crossover: str = "uniform",
    crossover_prob: float = 0.9,
    swapping_prob: float = 0.5,
    dividing_parameter: int = 3,
) -> optuna.samplers.BaseSampler:
    """Genetic algorithm NSGA-III (Deb and Jain 2014), for four objectives or more.

    Args:
        population_size: Number of trials per generation.
        mutation_prob: Probability with which a parameter mutates; default: 1 / the number of parameters.
        crossover: How parents combine: uniform, blxalpha, spx, sbx, vsbx or undx.
        crossover_prob: Probability with which parents combine.
        swapping_prob: Probability with which the uniform crossover swaps a parameter.
        dividing_parameter: Density of the reference points.
    """
    check_at_most(10_000, population_size=population_size)
    check_at_most(100, dividing_parameter=dividing_parameter)
    # Das and Dennis 1998: the number of reference points.
    num_points = math.comb(context.num_objectives + max(1, dividing_parameter) - 1, context.num_objectives - 1)
    if num_points > 10_000:
        message = f"dividing_parameter is {dividing_parameter}, which gives {num_points} reference points, above 10,000"
        raise InvalidArgument("BAD_VALUE", message, field="dividing_parameter")
    return optuna.samplers.NSGAIIISampler(
        population_size=population_size,
        mutation_prob=mutation_prob,
        crossover=_crossover(context, crossover, swapping_prob),
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
        dividing_parameter=dividing_parameter,
        seed=context.seed,
    )


def qmc(context: Context, qmc_type: str = "sobol", scramble: bool = True) -> optuna.samplers.BaseSampler:
    """Quasi-random sequence, which covers the space more evenly than random draws. For spaces without conditions.

    Args:
        qmc_type: Sequence: sobol or halton.
        scramble: Whether the sequence is randomized.
    """
    _require("qmc", "scipy")
    return optuna.samplers.QMCSampler(
        qmc_type=qmc_type,
        scramble=scramble,
        seed=context.study_seed % 2**31,
        independent_sampler=optuna.samplers.RandomSampler(seed=context.seed),
        warn_independent_sampling=False,
    )


def grid(context: Context) -> optuna.samplers.BaseSampler:
    """Every combination of values once, in random order. Float ranges need a step, and at most 10,000 points exist."""
    return GridSampler(context)


def brute_force(context: Context) -> optuna.samplers.BaseSampler:
    """Every combination of values once, in random order, found by a tree of all trials. Limits as for grid."""
    listed(context.space)
    return optuna.samplers.BruteForceSampler(seed=context.seed)


def partial_fixed(
    context: Context, fixed: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> optuna.samplers.BaseSampler:
    """Another algorithm with some parameters fixed.

    Args:
        fixed: Values of the fixed parameters, by name.
        base: Name and `params` of the other algorithm; default tpe.
    """
    domains = {parameter.name: parameter.domain for parameter in context.space.parameters}
    for name, value in fixed.items():
        if name not in domains or not domains[name].contains(value):
            message = f"{name!r} cannot be fixed at {value!r}: the space has no such value"
            raise InvalidArgument("BAD_VALUE", message, field=f"fixed.{name}")
    component = dict(base or {"name": "tpe"})
    # Algorithms that list all combinations must know which ones remain. A grid does what brute force does, and also
    # knows parameters that get their fixed value only later.
    context = replace(context, space=context.space.fixed(fixed))
    if component.get("name") == "brute_force":
        component["name"] = "grid"
    inner = ALGORITHMS.build(component.get("name", ""), component.get("params", {}), field="base", context=context)
    return optuna.samplers.PartialFixedSampler(dict(fixed), inner)


def _crossover(context: Context, name: str, swapping_prob: float) -> nsgaii.BaseCrossover:
    if name not in _CROSSOVERS:
        message = f"unknown crossover {name[:80]!r}; known: {', '.join(_CROSSOVERS)}"
        raise InvalidArgument("BAD_VALUE", message, field="crossover")
    if name == "uniform":
        return nsgaii.UniformCrossover(swapping_prob)
    if any(isinstance(parameter.domain, Choices) for parameter in context.space.parameters):
        message = f"the crossover {name} is for spaces without choices; use uniform"
        raise InvalidArgument("BAD_VALUE", message, field="crossover")
    return _CROSSOVERS[name]()


def _require(algorithm: str, *packages: str) -> None:
    """Checks that packages are installed, because Optuna reports a missing one only after several trials.

    Raises:
        FailedPrecondition: MISSING_PACKAGE.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        message = f"{algorithm} needs {' and '.join(missing)}; install the missing packages on the tuner's machine"
        raise FailedPrecondition("MISSING_PACKAGE", message)
