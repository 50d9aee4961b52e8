"""Search spaces: parameters with their ranges or choices, conditions between parameters, and linear constraints.

The dataclasses use the names of `protos/tuner/v1/tuner.proto`, which documents them. A point of the space is a mapping
from the names of its parameters to their values; it lacks the parameters whose conditions do not hold.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from common.errors import InvalidArgument
from deepseek.trainjob.spec_parts import Problems

Value = str | int | float | bool
Point = Mapping[str, Value]

MAX_PARAMETERS = 1000
MAX_CHOICES = 1000
MAX_INTEGER = 1 << 53
MAX_NAME = 200
NUM_DRAWS = 10_000
"""Number of random points after which a space counts as empty."""
MAX_DRAWN_VALUES = 1_000_000
"""Number of random values after which a space counts as empty, so that large spaces take no longer. Also the largest
number of values in a list of points."""


@dataclass(frozen=True)
class FloatRange:
    """Floating-point numbers from `low` to `high`; with a step above 0, only multiples of it above `low`."""

    low: float
    high: float
    log: bool = False
    step: float = 0.0

    def check(self, problems: Problems, path: str) -> None:
        """Records every mistake: BAD_VALUE."""
        finite = True
        for name in ("low", "high", "step"):
            if not math.isfinite(getattr(self, name)):
                finite = False
                message = f"{name} is {getattr(self, name)}; it must be finite"
                problems.add("BAD_VALUE", message, field=f"{path}.{name}")
        if finite:
            _check_range(self, 0.0, problems, path)

    def contains(self, value: Value) -> bool:
        """Returns whether a value is one that can be suggested."""
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-6

    @property
    def greatest(self) -> float:
        """The greatest value that can be suggested."""
        if not self.step:
            return self.high
        low, high, step = (Decimal(repr(value)) for value in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)

    def values(self) -> "tuple[Value, ...] | None":
        """Returns all values that can be suggested; None if there are too many to list."""
        if not self.step:
            return (self.low,) if self.low == self.high else None
        count = round((self.greatest - self.low) / self.step) + 1
        low, step = Decimal(repr(self.low)), Decimal(repr(self.step))
        return tuple(float(low + number * step) for number in range(count)) if count <= MAX_CHOICES else None

    def draw(self, source: random.Random) -> float:
        """Returns a random value."""
        if self.step:
            count = round((self.greatest - self.low) / self.step)
            return min(self.greatest, self.low + source.randint(0, count) * self.step)
        if self.log:
            drawn = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
            return min(max(drawn, self.low), self.high)
        return source.uniform(self.low, self.high)


@dataclass(frozen=True)
class IntegerRange:
    """Integers from `low` to `high` in steps; a step of 0 means 1."""

    low: int
    high: int
    log: bool = False
    step: int = 0

    def check(self, problems: Problems, path: str) -> None:
        """Records every mistake: BAD_VALUE."""
        for name in ("low", "high", "step"):
            if abs(getattr(self, name)) > MAX_INTEGER:
                message = f"{name} is {getattr(self, name)}; it must be between -2^53 and 2^53"
                problems.add("BAD_VALUE", message, field=f"{path}.{name}")
        _check_range(self, 1, problems, path)

    def contains(self, value: Value) -> bool:
        """Returns whether a value is one that can be suggested."""
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return False
        return float(value).is_integer() and (int(value) - self.low) % (self.step or 1) == 0

    @property
    def greatest(self) -> int:
        """The greatest value that can be suggested."""
        step = self.step or 1
        return self.low + (self.high - self.low) // step * step

    def values(self) -> "tuple[Value, ...] | None":
        """Returns all values that can be suggested; None if there are too many to list."""
        found = range(self.low, self.high + 1, self.step or 1)
        return tuple(found) if len(found) <= MAX_CHOICES else None

    def draw(self, source: random.Random) -> int:
        """Returns a random value."""
        if self.log:
            drawn = round(math.exp(source.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))))
            return min(max(drawn, self.low), self.high)
        step = self.step or 1
        return self.low + source.randint(0, (self.high - self.low) // step) * step


@dataclass(frozen=True)
class Choices:
    """Values without an order."""

    choices: tuple[Value, ...]

    def check(self, problems: Problems, path: str) -> None:
        """Records every mistake: MISSING_FIELD or BAD_VALUE."""
        where = f"{path}.values"
        if not self.choices:
            problems.add("MISSING_FIELD", "there is no choice; list at least one value", field=where)
        if len(self.choices) > MAX_CHOICES:
            message = f"there are {len(self.choices)} choices; at most {MAX_CHOICES} are accepted"
            problems.add("BAD_VALUE", message, field=where)
        for index, value in enumerate(self.choices):
            if isinstance(value, float) and not math.isfinite(value):
                problems.add("BAD_VALUE", f"the choice is {value}; it must be finite", field=f"{where}[{index}]")
            elif value in self.choices[:index]:
                message = f"the choice {value!r} is listed twice; true counts as 1, and false as 0"
                problems.add("BAD_VALUE", message, field=f"{where}[{index}]")

    def contains(self, value: Value) -> bool:
        """Returns whether a value is one that can be suggested."""
        return value in self.choices

    def values(self) -> tuple[Value, ...]:
        """Returns all values that can be suggested."""
        return self.choices

    def draw(self, source: random.Random) -> Value:
        """Returns a random value."""
        return source.choice(self.choices)


Domain = FloatRange | IntegerRange | Choices


@dataclass(frozen=True)
class Condition:
    """A condition on an earlier parameter: it has one of `values`, or lies within the bounds."""

    parameter: str
    values: tuple[Value, ...] = ()
    at_least: float | None = None
    at_most: float | None = None

    def allows(self, value: Value) -> bool:
        """Returns whether the condition holds for a value of the earlier parameter."""
        if self.values and value not in self.values:
            return False
        if self.at_least is None and self.at_most is None:
            return True
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return not isinstance(value, str) and low <= value <= high


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter, which is part of a point only if all of its conditions hold."""

    name: str
    domain: Domain
    conditions: tuple[Condition, ...] = ()

    def is_active(self, point: Point) -> bool:
        """Returns whether the conditions hold, given the values of the earlier parameters."""
        return all(one.parameter in point and one.allows(point[one.parameter]) for one in self.conditions)


@dataclass(frozen=True)
class LinearConstraint:
    """The sum of coefficients times parameters is at most `at_most`. Missing parameters count as 0."""

    terms: tuple[tuple[str, float], ...]
    at_most: float

    def holds(self, point: Point) -> bool:
        """Returns whether a point satisfies the constraint."""
        total = sum(coefficient * float(point.get(name, 0.0)) for name, coefficient in self.terms)
        return total <= self.at_most + 1e-9 * max(1.0, abs(self.at_most))


@dataclass(frozen=True)
class Space:
    """The parameters of a study, in order, and the constraints that all suggestions satisfy."""

    parameters: tuple[ParameterSpec, ...]
    constraints: tuple[LinearConstraint, ...] = ()

    @property
    def is_conditional(self) -> bool:
        """Whether some points lack a parameter."""
        return any(parameter.conditions for parameter in self.parameters)

    def fixed(self, values: Point) -> "Space":
        """Returns the space in which some parameters have only one value."""
        return replace(
            self,
            parameters=tuple(
                replace(one, domain=_only(one.domain, values[one.name])) if one.name in values else one
                for one in self.parameters
            ),
        )

    def satisfies(self, point: Point) -> bool:
        """Returns whether a point satisfies all constraints."""
        return all(constraint.holds(point) for constraint in self.constraints)

    def problem(self, point: Point) -> str:
        """Returns what is wrong with a point; empty if it is a point of the space that satisfies all constraints."""
        known: dict[str, Value] = {}
        for parameter in self.parameters:
            if not parameter.is_active(known):
                continue
            if parameter.name not in point:
                return f"the parameter {parameter.name} is missing"
            value = point[parameter.name]
            if not parameter.domain.contains(value):
                return f"{parameter.name} is {value!r}, which is outside of the space"
            known[parameter.name] = value
        if extra := sorted(point.keys() - known.keys()):
            return f"{extra[0]} is not a parameter of this point"
        return "" if self.satisfies(point) else "the point violates a constraint on parameters"

    def draw(self, source: random.Random) -> dict[str, Value] | None:
        """Returns a random point that satisfies the constraints; None if no draw found one."""
        for _ in range(min(NUM_DRAWS, MAX_DRAWN_VALUES // len(self.parameters))):
            point: dict[str, Value] = {}
            for parameter in self.parameters:
                if parameter.is_active(point):
                    point[parameter.name] = parameter.domain.draw(source)
            if self.satisfies(point):
                return point
        return None

    def points(self, limit: int) -> "list[dict[str, Value]] | None":
        """Returns all points that satisfy the constraints; None if there may be more than `limit`.

        A float range without a step counts as having too many values, and so do points with more than
        `MAX_DRAWN_VALUES` values in all.
        """
        points: list[dict[str, Value]] = [{}]
        for parameter in self.parameters:
            values = parameter.domain.values()
            if values is None:
                return None
            longer: list[dict[str, Value]] = []
            for point in points:
                if parameter.is_active(point):
                    longer += [{**point, parameter.name: value} for value in values]
                else:
                    longer.append(point)
                if len(longer) > limit or len(longer) * len(self.parameters) > MAX_DRAWN_VALUES:
                    return None
            points = longer
        return [point for point in points if self.satisfies(point)]


def _only(domain: Domain, value: Value) -> Domain:
    if isinstance(domain, FloatRange):
        return FloatRange(float(value), float(value))
    return IntegerRange(int(value), int(value)) if isinstance(domain, IntegerRange) else Choices((value,))


def _check_range(domain: FloatRange | IntegerRange, least_log: float, problems: Problems, path: str) -> None:
    if domain.low > domain.high:
        message = f"low is {domain.low} and high is {domain.high}; low must not exceed high"
        problems.add("BAD_VALUE", message, field=f"{path}.high")
    elif not math.isfinite(domain.high - domain.low) or domain.high - domain.low > MAX_INTEGER * (domain.step or 1e300):
        message = "the range is too wide, or its step too small: at most 2^53 steps are accepted"
        problems.add("BAD_VALUE", message, field=f"{path}.high")
    if domain.step < 0:
        problems.add("BAD_VALUE", f"step is {domain.step}; it must not be negative", field=f"{path}.step")
    if domain.log and domain.step:
        problems.add("BAD_VALUE", "a range on a logarithmic scale has no step", field=f"{path}.step")
    if domain.log and (domain.low < least_log or domain.low <= 0):
        bound = "at least 1" if least_log else "above 0"
        message = f"low is {domain.low}; on a logarithmic scale it must be {bound}"
        problems.add("BAD_VALUE", message, field=f"{path}.low")


def check_name(name: str, field: str) -> None:
    """Checks the name of a parameter or metric.

    Raises:
        InvalidArgument: MISSING_FIELD or BAD_VALUE.
    """
    if not name:
        raise InvalidArgument("MISSING_FIELD", "the name is missing", field=field)
    if len(name) > MAX_NAME or not name.isprintable():
        message = f"a name has at most {MAX_NAME} characters, all of them printable"
        raise InvalidArgument("BAD_VALUE", message, field=field)
