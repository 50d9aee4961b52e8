"""Reads and writes the JSON form of search spaces and objectives; see `deepseek.search.study_spec`."""

from collections.abc import Mapping
from typing import Any

from common.errors import InvalidArgument
from deepseek.search.space import (
    Choices,
    Condition,
    Domain,
    FloatRange,
    IntegerRange,
    LinearConstraint,
    ParameterSpec,
    Value,
)
from deepseek.trainjob import json_values

_PARAMETER = dict.fromkeys(("name", "float_range", "integer_range", "choices", "conditions"))
_DOMAINS = ("float_range", "integer_range", "choices")
_RANGE = dict.fromkeys(("low", "high", "log", "step"))
_CONDITION = dict.fromkeys(("parameter", "values", "at_least", "at_most"))
_GOALS = {"GOAL_MINIMIZE": False, "GOAL_MAXIMIZE": True, "GOAL_UNSPECIFIED": None}


def read_parameters(data: Any, path: str) -> tuple[ParameterSpec, ...]:
    """Reads the parameters of a space."""
    return tuple(_read_parameter(item, f"{path}[{index}]") for index, item in json_values.items(data, path))


def read_constraints(data: Any, path: str) -> tuple[LinearConstraint, ...]:
    """Reads the linear constraints of a space."""
    found = []
    for index, item in json_values.items(data, path):
        place = f"{path}[{index}]"
        json_values.check_keys(item, {"terms": None, "at_most": None}, place)
        terms = []
        for number, term in json_values.items(item.get("terms", []), f"{place}.terms"):
            where = f"{place}.terms[{number}]"
            json_values.check_keys(term, {"parameter": None, "coefficient": None}, where)
            name = json_values.text(term.get("parameter", ""), f"{where}.parameter")
            terms.append((name, json_values.number(term.get("coefficient", 0.0), f"{where}.coefficient")))
        found.append(LinearConstraint(tuple(terms), json_values.number(item.get("at_most", 0.0), f"{place}.at_most")))
    return tuple(found)


def read_objectives(data: Any, path: str) -> list[dict[str, Any]]:
    """Reads objectives; returns the members of each `Objective`."""
    found = []
    for index, item in json_values.items(data, path):
        place = f"{path}[{index}]"
        json_values.check_keys(item, {"metric": None, "goal": None}, place)
        goal = item.get("goal", "GOAL_UNSPECIFIED")
        if goal not in _GOALS:
            known = ", ".join(list(_GOALS)[:2])
            raise InvalidArgument("BAD_VALUE", f"unknown goal {goal!r}; known: {known}", field=f"{place}.goal")
        metric = json_values.text(item.get("metric", ""), f"{place}.metric")
        found.append({"metric": metric, "maximize": _GOALS[goal]})
    return found


def read_outcome_constraints(data: Any, path: str) -> list[dict[str, Any]]:
    """Reads constraints on metrics; returns the members of each `OutcomeConstraint`."""
    found = []
    for index, item in json_values.items(data, path):
        place = f"{path}[{index}]"
        json_values.check_keys(item, {"metric": None, "at_most": None, "at_least": None}, place)
        bounds = {
            name: json_values.number(item[name], f"{place}.{name}") for name in ("at_most", "at_least") if name in item
        }
        found.append({"metric": json_values.text(item.get("metric", ""), f"{place}.metric"), **bounds})
    return found


def parameters_to_json(parameters: tuple[ParameterSpec, ...]) -> list[dict[str, Any]]:
    """Returns the JSON form of the parameters of a space."""
    return [
        {
            "name": parameter.name,
            **_domain_to_json(parameter.domain),
            "conditions": [_condition_to_json(one) for one in parameter.conditions],
        }
        for parameter in parameters
    ]


def constraints_to_json(constraints: tuple[LinearConstraint, ...]) -> list[dict[str, Any]]:
    """Returns the JSON form of the linear constraints of a space."""
    return [
        {
            "terms": [{"parameter": name, "coefficient": coefficient} for name, coefficient in one.terms],
            "at_most": one.at_most,
        }
        for one in constraints
    ]


def goal_name(maximize: bool | None) -> str:
    """Returns the name of a goal in the contract."""
    return next(name for name, value in _GOALS.items() if value is maximize)


def read_value(value: Any, path: str) -> Value:
    """Reads the value of a parameter. A whole number becomes an int, because JSON does not distinguish the two."""
    value = json_values.plain(value, path)
    if not isinstance(value, str | int | float):
        message = f"expected text, a number, true or false; found {type(value).__name__}"
        raise InvalidArgument("BAD_VALUE", message, field=path)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_parameter(data: Any, path: str) -> ParameterSpec:
    json_values.check_keys(data, _PARAMETER, path)
    kinds = [kind for kind in _DOMAINS if kind in data]
    if len(kinds) != 1:
        message = f"set exactly one of {', '.join(_DOMAINS)}; found {len(kinds)}"
        raise InvalidArgument("MISSING_FIELD" if not kinds else "BAD_VALUE", message, field=path)
    conditions = json_values.items(data.get("conditions", []), f"{path}.conditions")
    return ParameterSpec(
        json_values.text(data.get("name", ""), f"{path}.name"),
        _read_domain(kinds[0], data[kinds[0]], f"{path}.{kinds[0]}"),
        tuple(_read_condition(item, f"{path}.conditions[{index}]") for index, item in conditions),
    )


def _read_domain(kind: str, data: Any, path: str) -> Domain:
    if kind == "choices":
        json_values.check_keys(data, {"values": None}, path)
        return Choices(_read_values(data.get("values", []), f"{path}.values"))
    json_values.check_keys(data, _RANGE, path)
    log = json_values.boolean(data.get("log", False), f"{path}.log")
    read = json_values.number if kind == "float_range" else json_values.integer
    low, high, step = (read(data.get(name, 0), f"{path}.{name}") for name in ("low", "high", "step"))
    if kind == "float_range":
        return FloatRange(low, high, log, step)
    return IntegerRange(int(low), int(high), log, int(step))


def _read_condition(data: Any, path: str) -> Condition:
    json_values.check_keys(data, _CONDITION, path)
    bounds = {
        name: json_values.number(data[name], f"{path}.{name}") for name in ("at_least", "at_most") if name in data
    }
    return Condition(
        json_values.text(data.get("parameter", ""), f"{path}.parameter"),
        _read_values(data.get("values", []), f"{path}.values"),
        **bounds,
    )


def _read_values(data: Any, path: str) -> tuple[Value, ...]:
    return tuple(read_value(item, f"{path}[{index}]") for index, item in json_values.items(data, path))


def _domain_to_json(domain: Domain) -> Mapping[str, Any]:
    if isinstance(domain, Choices):
        return {"choices": {"values": list(domain.choices)}}
    kind = "float_range" if isinstance(domain, FloatRange) else "integer_range"
    return {kind: {"low": domain.low, "high": domain.high, "log": domain.log, "step": domain.step}}


def _condition_to_json(condition: Condition) -> dict[str, Any]:
    data: dict[str, Any] = {"parameter": condition.parameter}
    if condition.values:
        data["values"] = list(condition.values)
    for name in ("at_least", "at_most"):
        if getattr(condition, name) is not None:
            data[name] = getattr(condition, name)
    return data
