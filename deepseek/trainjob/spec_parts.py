"""The parts of a run spec, how they are read from JSON, and how several mistakes are reported at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.trainjob import json_values

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class Problems:
    """Collects the mistakes of a spec, so that all of them are reported at once."""

    def __init__(self) -> None:
        self._errors: list[MeshError] = []

    def add(self, reason: str, message: str, *, field: str) -> None:
        """Records a mistake."""
        self._errors.append(InvalidArgument(reason, message, field=field))

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Records an error of the `with` block about an argument. Other errors, e.g. Unavailable, pass through."""
        try:
            yield
        except (InvalidArgument, NotFound, FailedPrecondition) as error:
            self._errors.append(error)

    def check(self) -> None:
        """Raises the first mistake, with the violations of all mistakes.

        Raises:
            MeshError: There is at least one mistake. The error has the class of the first one.
        """
        if self._errors:
            first = self._errors[0]
            violations = [violation for error in self._errors for violation in error.violations]
            raise type(first)(first.reason, first.message, violations=violations)


@dataclass(frozen=True)
class Component:
    """Name and parameters of a component in one of the registries of `deepseek.components`."""

    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


NO_COMPONENT = Component()
"""A component that the spec does not name."""


@dataclass(frozen=True)
class FieldMapping:
    """Describes how a field of the data set is converted to a tensor.

    Attributes:
        field: Field of the data set.
        input: Name of the model's forward argument.
        encoder: Encoder that converts a value to an array.
        augmentations: Augmentations that are applied to training batches, in order.
    """

    field: str = ""
    input: str = ""
    encoder: Component = NO_COMPONENT
    augmentations: tuple[Component, ...] = ()


NO_MAPPING = FieldMapping()
"""A mapping that the spec does not contain."""


@dataclass(frozen=True)
class EarlyStopping:
    """When a run ends early. The proto message `deepseek.trainer.v1.EarlyStopping` documents the attributes."""

    patience: int = 0
    min_delta: float = 0.0


def read_component(data: Any, path: str) -> Component:
    """Reads a component."""
    json_values.check_keys(data, Component.__dataclass_fields__, path)
    params = data.get("params", {})
    if not isinstance(params, Mapping):
        message = f"expected an object of keyword arguments, found {type(params).__name__}"
        raise InvalidArgument("BAD_VALUE", message, field=f"{path}.params")
    name = json_values.text(data.get("name", ""), f"{path}.name")
    return Component(name, json_values.plain(params, f"{path}.params"))


def read_components(data: Any, path: str) -> tuple[Component, ...]:
    """Reads a list of components."""
    return tuple(read_component(item, f"{path}[{i}]") for i, item in json_values.items(data, path))


def read_mapping(data: Any, path: str) -> FieldMapping:
    """Reads a field mapping."""
    json_values.check_keys(data, FieldMapping.__dataclass_fields__, path)
    return FieldMapping(
        field=json_values.text(data.get("field", ""), f"{path}.field"),
        input=json_values.text(data.get("input", ""), f"{path}.input"),
        encoder=read_component(data.get("encoder", {}), f"{path}.encoder"),
        augmentations=read_components(data.get("augmentations", []), f"{path}.augmentations"),
    )


def read_precision(value: Any, path: str) -> str:
    """Reads a precision: its name in the contract, or one of PRECISIONS."""
    if value in ("PRECISION_UNSPECIFIED", 0):
        return "auto"
    name = value.removeprefix("PRECISION_").lower() if isinstance(value, str) else ""
    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InvalidArgument("BAD_VALUE", f"unknown precision {value!r}; known: {known}", field=path)
    return name


def read_early_stopping(data: Any, path: str) -> EarlyStopping | None:
    """Reads the parameters of early stopping; null disables it."""
    if data is None:
        return None
    json_values.check_keys(data, EarlyStopping.__dataclass_fields__, path)
    return EarlyStopping(
        patience=json_values.integer(data.get("patience", 0), f"{path}.patience"),
        min_delta=json_values.number(data.get("min_delta", 0.0), f"{path}.min_delta"),
    )
