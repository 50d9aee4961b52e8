"""The parts of a run spec, how they are read from JSON, and how several mistakes are reported at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.privacy.releases import Release, check_epsilon
from deepseek.training.dp_settings import DpSgd, steps_per_epoch
from deepseek.trainjob import json_values

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MISSING_RATE = "example_rate is missing or 0; it must be above 0 and at most 1"
MISSING_NORM = "clip_norm is missing or 0; it must be finite and above 0"


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

    @property
    def any(self) -> bool:
        """Whether a mistake was recorded."""
        return bool(self._errors)

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


@dataclass(frozen=True)
class DpSgdSpec:
    """How a run protects its examples. The proto message `deepseek.trainer.v1.DpSgd` documents the attributes.

    Of `noise_multiplier` and `target_epsilon`, at most one is not None.
    """

    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    clip_norm: float = 0.0
    example_rate: float = 0.0
    budget: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the proto's JSON form. A member of a oneof must be absent, not null, if another one is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self, problems: Problems, path: str) -> None:
        """Records every mistake: MISSING_FIELD, BAD_NOISE, BAD_EPSILON, BAD_RATE or BAD_VALUE."""
        valid = DpSgdSpec(noise_multiplier=1.0, clip_norm=1.0, example_rate=1.0)
        for name in ("noise_multiplier", "clip_norm", "example_rate"):  # one by one, to report every mistake
            value = getattr(self, name)
            if name == "example_rate" and not value:
                problems.add("BAD_RATE", MISSING_RATE, field=f"{path}.{name}")
            elif name == "clip_norm" and not value:
                problems.add("BAD_VALUE", MISSING_NORM, field=f"{path}.{name}")
            elif value is not None:
                try:
                    replace(valid, **{name: value}).settings(1)
                except InvalidArgument as error:
                    problems.add(error.reason, error.message, field=f"{path}.{name}")
        if self.target_epsilon is not None:
            with problems.caught():
                check_epsilon(self.target_epsilon, f"{path}.target_epsilon")
        elif self.noise_multiplier is None:
            message = "set the noise multiplier, or a target epsilon"
            problems.add("MISSING_FIELD", message, field=f"{path}.noise_multiplier")
        if not self.budget:
            problems.add("MISSING_FIELD", "the privacy budget is missing", field=f"{path}.budget")

    def num_steps(self, epochs: int) -> int:
        """Returns the number of steps of a run, each of which releases a noisy sum of gradients."""
        return epochs * steps_per_epoch(self.example_rate)

    def release(self, epochs: int) -> Release:
        """Returns what a run releases: the noisy sums of the gradients of all steps.

        Raises:
            InvalidArgument: BAD_COUNT at `count` if there are too many steps.
        """
        return self.settings(1).release(epochs)  # the batch size only scales the sums

    def settings(self, batch_size: int) -> DpSgd:
        """Returns the settings of the trainer.

        Raises:
            InvalidArgument: BAD_NOISE, BAD_RATE or BAD_VALUE; the field is the name of an attribute, or `batch_size`.
        """
        assert self.noise_multiplier is not None, "the noise has been chosen"
        try:
            return DpSgd(self.noise_multiplier, self.clip_norm, batch_size, self.example_rate)
        except InvalidArgument as error:
            field = _OWN_NAMES.get(error.field, error.field)
            raise InvalidArgument(error.reason, error.message.replace(error.field, field), field=field) from error


_OWN_NAMES = {"max_grad_norm": "clip_norm", "sampling_rate": "example_rate", "expected_batch_size": "batch_size"}
"""Attributes of the spec by the names of the trainer's settings."""


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


def read_privacy(value: Any, path: str) -> DpSgdSpec | None:
    """Reads the settings of DP-SGD; null means no DP-SGD."""
    if value is None:
        return None
    json_values.check_keys(value, DpSgdSpec.__dataclass_fields__, path)
    check_one_noise(value, path)
    values: dict[str, Any] = {
        name: (json_values.text if name == "budget" else json_values.number)(one, f"{path}.{name}")
        for name, one in value.items()
    }
    return DpSgdSpec(**values)


def check_one_noise(data: Mapping[str, Any], path: str) -> None:
    """Checks that settings of differential privacy do not choose the noise in two ways.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    if "noise_multiplier" in data and "target_epsilon" in data:
        what = "set either the noise multiplier or a target epsilon, not both"
        raise InvalidArgument("BAD_VALUE", what, field=f"{path}.noise_multiplier")


def read_early_stopping(data: Any, path: str) -> EarlyStopping | None:
    """Reads the parameters of early stopping; null disables it."""
    if data is None:
        return None
    json_values.check_keys(data, EarlyStopping.__dataclass_fields__, path)
    return EarlyStopping(
        patience=json_values.integer(data.get("patience", 0), f"{path}.patience"),
        min_delta=json_values.number(data.get("min_delta", 0.0), f"{path}.min_delta"),
    )


def learns_from_private_data(encoder: str, field: str) -> FailedPrecondition:
    """Returns the error that an encoder of a private run would learn from the training split."""
    message = (
        f"the encoder {encoder} would learn from the private training split, without noise; start from a model version "
        "whose encoder has learned from public data (init), or use an encoder that learns nothing"
    )
    return FailedPrecondition("NOT_PRIVATE_ENCODER", message, field=field)
