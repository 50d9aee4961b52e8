"""Figures, parameters and tags of runs, for searching, sorting and comparing them."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from common.errors import InvalidArgument
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2

_CONDITION = re.compile(r"\s*([A-Za-z_][\w./\[\]-]*)\s*(>=|<=|!=|==?|>|<|~)\s*(\S.*?)\s*")
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@dataclass(frozen=True)
class Condition:
    """A condition on a figure, parameter or label of a run, such as `accuracy>0.9`, `optimizer.name=sgd` or `note~try`.

    The operator `~` holds if the text contains the value, ignoring case.
    """

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Reads a condition.

        Raises:
            InvalidArgument: BAD_VALUE.
        """
        found = _CONDITION.fullmatch(text)
        if not found:
            message = f"{text!r} is not a condition; write e.g. 'accuracy>0.9' or 'optimizer.name=sgd'"
            raise InvalidArgument("BAD_VALUE", message, field="--where")
        return cls(*found.groups())

    def holds(self, run: trainer_pb2.Run) -> bool:
        """Returns whether a run meets the condition. A run without the figure or parameter does not."""
        found = facts(run).get(self.name)
        if self.operator == "~":
            return found is not None and self.value.lower() in str(found).lower()
        number, bound = as_number(found), as_number(self.value)
        if number is not None and bound is not None:
            return _COMPARE[self.operator](number, bound)
        if self.operator in ("=", "==", "!="):
            return found is not None and _COMPARE[self.operator](str(found), self.value)
        return False


def read_tag(text: str, *, field: str = "tag") -> tuple[str, str]:
    """Splits a tag, written as `key=value`.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise InvalidArgument("BAD_VALUE", f"{text!r} is not a tag; write key=value", field=field)
    return key, value


def matching(
    runs: Iterable[trainer_pb2.Run], conditions: Sequence[Condition], tags: Sequence[tuple[str, str]]
) -> Iterable[trainer_pb2.Run]:
    """Yields the runs that meet all conditions and have all tags."""
    for run in runs:
        own = {(tag.key, tag.value) for tag in run.tags}
        if own.issuperset(tags) and all(condition.holds(run) for condition in conditions):
            yield run


def ordered(runs: Iterable[trainer_pb2.Run], name: str, *, ascending: bool) -> list[trainer_pb2.Run]:
    """Returns the runs ordered by a figure or parameter. Runs without it, or where it is not a number, come last."""

    def key(run: trainer_pb2.Run) -> float:
        number = as_number(facts(run).get(name))
        if number is None or math.isnan(number):
            return math.inf
        return number if ascending else -number

    return sorted(runs, key=key)


def facts(run: trainer_pb2.Run) -> dict[str, Any]:
    """Returns everything that a run can be searched by: its figures, its state, and its parameters by path."""
    return {
        **parameters(run),
        "state": state(run),
        "name": run.display_name,
        "note": run.note,
        "train_s": run.train_s,
        "best_epoch": run.best_epoch,
        "best_step": run.best_step,
        **{metric.name: metric.value for metric in run.metrics},
    }


def parameters(run: trainer_pb2.Run) -> dict[str, Any]:
    """Returns the parameters of a run by path, e.g. `optimizer.params.lr`: its spec, or what its program recorded."""
    message = run.parameters if run.external else run.spec
    return dict(_flat(json_format.MessageToDict(message, preserving_proto_field_name=True), ""))


def state(run: trainer_pb2.Run) -> str:
    """Returns the state of a run, in lower case."""
    return job_pb2.JobState.Name(run.job.state).removeprefix("JOB_STATE_").lower()


def label(run: trainer_pb2.Run) -> str:
    """Returns the display name of a run, or its id if it has none."""
    return run.display_name or run.name.removeprefix("runs/")


def as_number(value: object) -> float | None:
    """Returns a number, or a text that is one, as a float; None for other values."""
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None


def _flat(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}[{i}]")
    else:
        yield path, value
