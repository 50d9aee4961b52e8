"""The spec of a study, shared by the tuner, its clients and searches in one process.

The dataclasses use the names of `protos/tuner/v1/tuner.proto`, and their JSON form is the proto's own, as for
`deepseek.trainjob.runspec`. Neither reading nor checking a spec imports Optuna.
"""

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from deepseek.components import ALGORITHMS, PRUNERS
from deepseek.search import spec_json
from deepseek.search.space import (
    MAX_PARAMETERS,
    NUM_DRAWS,
    Choices,
    Condition,
    Domain,
    FloatRange,
    ParameterSpec,
    Space,
    check_name,
)
from deepseek.trainjob import json_values
from deepseek.trainjob.spec_parts import NO_COMPONENT, Component, Problems, read_component

DEFAULT_ALGORITHM = "tpe"
DEFAULT_PRUNER = "none"
MAX_TRIALS = 10_000
MAX_OBJECTIVES = 10
MAX_SEED = 1 << 53
MAX_CONDITIONS = 20
"""Largest number of conditions on one parameter."""
MAX_TERMS = 1000
"""Largest number of terms of all constraints on parameters together."""

T = TypeVar("T")

_NO_SPACE = Space(())

_FIELDS = (
    "parameters",
    "parameter_constraints",
    "objectives",
    "outcome_constraints",
    "algorithm",
    "pruner",
    "seed",
    "max_trials",
)


@dataclass(frozen=True)
class Objective:
    """A metric to optimize.

    Attributes:
        metric: Name of the metric.
        maximize: Whether the metric should be large; None if the goal is missing.
    """

    metric: str
    maximize: bool | None = False

    def is_usable(self, value: float) -> bool:
        """Returns whether a value can be compared: it is neither NaN nor infinitely good."""
        return not math.isnan(value) and value != (math.inf if self.maximize else -math.inf)


@dataclass(frozen=True)
class OutcomeConstraint:
    """A bound on a measured metric. Exactly one bound is not None."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def excess(self, value: float) -> float:
        """Returns by how much a value violates the bound; at most 0 if it does not. NaN violates every bound."""
        if math.isnan(value):
            return math.inf
        return value - self.at_most if self.at_most is not None else (self.at_least or 0.0) - value


@dataclass(frozen=True)
class StudySpec:
    """The complete description of a study; see `deepseek.tuner.v1.StudySpec`."""

    space: Space = _NO_SPACE
    objectives: tuple[Objective, ...] = ()
    outcome_constraints: tuple[OutcomeConstraint, ...] = ()
    algorithm: Component = NO_COMPONENT
    pruner: Component = NO_COMPONENT
    seed: int = 0
    max_trials: int = 0

    @classmethod
    def from_json(cls, data: Any, *, path: str = "spec") -> "StudySpec":
        """Reads a spec in the proto's JSON form, with snake-case names.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE.
        """
        json_values.check_keys(data, dict.fromkeys(_FIELDS), path)

        def read(reader: Callable[[Any, str], T], name: str, default: Any) -> T:
            return reader(data.get(name, default), f"{path}.{name}")

        return cls(
            Space(
                read(spec_json.read_parameters, "parameters", []),
                read(spec_json.read_constraints, "parameter_constraints", []),
            ),
            tuple(Objective(**one) for one in read(spec_json.read_objectives, "objectives", [])),
            tuple(OutcomeConstraint(**one) for one in read(spec_json.read_outcome_constraints, _FIELDS[3], [])),
            read(read_component, "algorithm", {}),
            read(read_component, "pruner", {}),
            read(json_values.integer, "seed", 0),
            read(json_values.integer, "max_trials", 0),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the proto's JSON form."""
        return {
            "parameters": spec_json.parameters_to_json(self.space.parameters),
            "parameter_constraints": spec_json.constraints_to_json(self.space.constraints),
            "objectives": [
                {"metric": one.metric, "goal": spec_json.goal_name(one.maximize)} for one in self.objectives
            ],
            "outcome_constraints": [
                {name: value for name, value in asdict(one).items() if value is not None}
                for one in self.outcome_constraints
            ],
            "algorithm": asdict(self.algorithm),
            "pruner": asdict(self.pruner),
            "seed": self.seed,
            "max_trials": self.max_trials,
        }

    def canonical(self) -> str:
        """Returns JSON text that is identical for equal specs."""
        data = json_values.normalized(self.to_json())
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def with_defaults(self, seed: int) -> "StudySpec":
        """Fills in the defaults.

        Args:
            seed: Seed of a study whose spec has none; above 0.
        """
        return StudySpec(
            self.space,
            self.objectives,
            self.outcome_constraints,
            Component(self.algorithm.name or DEFAULT_ALGORITHM, self.algorithm.params),
            Component(self.pruner.name or DEFAULT_PRUNER, self.pruner.params),
            self.seed or seed,
            self.max_trials or MAX_TRIALS,
        )

    def metrics(self) -> tuple[str, ...]:
        """Returns the names of the metrics that a complete trial must have."""
        names = [*(one.metric for one in self.objectives), *(one.metric for one in self.outcome_constraints)]
        return tuple(dict.fromkeys(names))

    def check(self, *, path: str = "spec") -> None:
        """Checks everything but the parameters of the components. Names of components are checked if they are set.

        Raises:
            InvalidArgument: MISSING_FIELD, BAD_VALUE, DUPLICATE_NAME, EMPTY_SPACE or UNKNOWN_COMPONENT for the first
                invalid field. The violations list every invalid field.
        """
        problems = Problems()
        _check_parameters(self.space, problems, path)
        _check_metrics(self, problems, path)
        if self.algorithm.name:
            with problems.caught():
                ALGORITHMS.check(self.algorithm.name, field=f"{path}.algorithm.name")
        if self.pruner.name:
            with problems.caught():
                PRUNERS.check(self.pruner.name, field=f"{path}.pruner.name")
        if self.pruner.name not in ("", DEFAULT_PRUNER) and len(self.objectives) > 1:
            message = "a study with several objectives has no pruner; remove it"
            problems.add("BAD_VALUE", message, field=f"{path}.pruner.name")
        if not 0 <= self.seed <= MAX_SEED:
            problems.add("BAD_VALUE", f"seed is {self.seed}; it must be from 0 to 2^53", field=f"{path}.seed")
        if not 0 <= self.max_trials <= MAX_TRIALS:
            message = f"max_trials is {self.max_trials}; it must be from 0 to {MAX_TRIALS}"
            problems.add("BAD_VALUE", message, field=f"{path}.max_trials")
        problems.check()
        _check_constraints(self.space, problems, path)
        problems.check()


def _check_parameters(space: Space, problems: Problems, path: str) -> None:
    where = f"{path}.parameters"
    if not space.parameters:
        problems.add("EMPTY_SPACE", "the space has no parameters; add at least one", field=where)
    if len(space.parameters) > MAX_PARAMETERS:
        message = f"there are {len(space.parameters)} parameters; at most {MAX_PARAMETERS} are accepted"
        problems.add("BAD_VALUE", message, field=where)
        return  # the checks below would take too long
    earlier: dict[str, Domain | None] = {}  # None for a domain with mistakes
    for index, parameter in enumerate(space.parameters):
        place = f"{where}[{index}]"
        with problems.caught():
            check_name(parameter.name, f"{place}.name")
        if parameter.name in earlier:
            message = f"two parameters are named {parameter.name!r}; choose unique names"
            problems.add("DUPLICATE_NAME", message, field=f"{place}.name")
        own = Problems()
        parameter.domain.check(own, f"{place}.{domain_field(parameter.domain)}")
        with problems.caught():
            own.check()
        _check_conditions(parameter, earlier, problems, f"{place}.conditions")
        earlier.setdefault(parameter.name, None if own.any else parameter.domain)


def _check_conditions(
    parameter: ParameterSpec, earlier: Mapping[str, Domain | None], problems: Problems, where: str
) -> None:
    if len(parameter.conditions) > MAX_CONDITIONS:
        message = f"there are {len(parameter.conditions)} conditions; at most {MAX_CONDITIONS} are accepted"
        problems.add("BAD_VALUE", message, field=where)
        return
    for index, condition in enumerate(parameter.conditions):
        place = f"{where}[{index}]"
        if condition.parameter not in earlier:
            message = f"{condition.parameter!r} is not a parameter that is listed before {parameter.name!r}"
            problems.add("BAD_VALUE", message, field=f"{place}.parameter")
            continue
        if (domain := earlier[condition.parameter]) is None:
            continue
        bounds = [bound for bound in (condition.at_least, condition.at_most) if bound is not None]
        if not condition.values and not bounds:
            message = "a condition needs values, or at least one bound"
            problems.add("MISSING_FIELD", message, field=f"{place}.values")
        if not all(map(math.isfinite, bounds)) or (bounds and isinstance(domain, Choices)):
            message = "bounds are finite numbers, for conditions on a parameter with a range; use values"
            problems.add("BAD_VALUE", message, field=place)
            continue
        for number, value in enumerate(condition.values):
            if not domain.contains(value):
                message = f"{value!r} is not a value of {condition.parameter!r}"
                problems.add("BAD_VALUE", message, field=f"{place}.values[{number}]")
        together = [one for one in parameter.conditions[: index + 1] if one.parameter == condition.parameter]
        if not _can_hold(together, domain):
            message = f"{parameter.name!r} is never part of a trial: the conditions on {condition.parameter!r} conflict"
            problems.add("BAD_VALUE", message, field=place)


def _can_hold(conditions: list[Condition], domain: Domain) -> bool:
    """Returns whether a value satisfies all of some conditions on one parameter."""
    listed = [value for one in conditions for value in one.values] or domain.values()
    if listed is not None:
        return any(domain.contains(value) and all(one.allows(value) for one in conditions) for value in listed)
    assert not isinstance(domain, Choices), "choices can be listed"
    low = max([domain.low, *(one.at_least for one in conditions if one.at_least is not None)])
    high = min([domain.greatest, *(one.at_most for one in conditions if one.at_most is not None)])
    step = domain.step or (0 if isinstance(domain, FloatRange) else 1)
    if step:
        return domain.low + math.ceil((low - domain.low) / step) * step <= high
    return low <= high


def _check_metrics(spec: StudySpec, problems: Problems, path: str) -> None:
    if not 1 <= len(spec.objectives) <= MAX_OBJECTIVES:
        message = f"there are {len(spec.objectives)} objectives; from 1 to {MAX_OBJECTIVES} are required"
        problems.add("MISSING_FIELD", message, field=f"{path}.objectives")
    for index, objective in enumerate(spec.objectives):
        place = f"{path}.objectives[{index}]"
        with problems.caught():
            check_name(objective.metric, f"{place}.metric")
        if objective.metric in [one.metric for one in spec.objectives[:index]]:
            message = f"{objective.metric!r} is an objective twice"
            problems.add("DUPLICATE_NAME", message, field=f"{place}.metric")
        if objective.maximize is None:
            message = "say whether the metric should be small or large: GOAL_MINIMIZE or GOAL_MAXIMIZE"
            problems.add("MISSING_FIELD", message, field=f"{place}.goal")
    for index, constraint in enumerate(spec.outcome_constraints):
        place = f"{path}.outcome_constraints[{index}]"
        with problems.caught():
            check_name(constraint.metric, f"{place}.metric")
        bounds = [bound for bound in (constraint.at_most, constraint.at_least) if bound is not None]
        if len(bounds) != 1 or not math.isfinite(bounds[0]):
            problems.add("BAD_VALUE", "a constraint needs exactly one finite bound", field=place)


def _check_constraints(space: Space, problems: Problems, path: str) -> None:
    """Records the constraints that no point satisfies; everything else about the space must be valid."""
    known = {parameter.name: parameter for parameter in space.parameters}
    num_terms = sum(max(1, len(constraint.terms)) for constraint in space.constraints)
    if num_terms > MAX_TERMS:
        message = f"the constraints have {num_terms} terms; at most {MAX_TERMS} are accepted"
        problems.add("BAD_VALUE", message, field=f"{path}.parameter_constraints")
        problems.check()
    for index, constraint in enumerate(space.constraints):
        place = f"{path}.parameter_constraints[{index}]"
        if not constraint.terms or not math.isfinite(constraint.at_most):
            message = "a constraint needs at least one term and a finite bound"
            problems.add("MISSING_FIELD", message, field=place)
        least = 0.0
        for number, (name, coefficient) in enumerate(constraint.terms):
            where = f"{place}.terms[{number}]"
            parameter = known.get(name)
            if parameter is None or isinstance(parameter.domain, Choices):
                message = f"{name!r} is not a parameter with a range of numbers"
                problems.add("BAD_VALUE", message, field=f"{where}.parameter")
            elif not math.isfinite(coefficient):
                message = f"the coefficient is {coefficient}; it must be finite"
                problems.add("BAD_VALUE", message, field=f"{where}.coefficient")
            else:
                ends = [coefficient * parameter.domain.low, coefficient * parameter.domain.greatest]
                least += min([*ends, 0.0] if parameter.conditions else ends)
        if least > constraint.at_most:
            message = f"the sum is at least {least}, so it is never at most {constraint.at_most}; no trial is possible"
            problems.add("EMPTY_SPACE", message, field=place)
    problems.check()
    if space.constraints and space.draw(random.Random(0)) is None:
        message = f"none of {NUM_DRAWS} random points satisfies all constraints; relax them, or narrow the ranges"
        problems.add("EMPTY_SPACE", message, field=f"{path}.parameter_constraints")


def domain_field(domain: Domain) -> str:
    """Returns the name of the field that holds a domain in a spec."""
    if isinstance(domain, Choices):
        return "choices"
    return "float_range" if isinstance(domain, FloatRange) else "integer_range"
