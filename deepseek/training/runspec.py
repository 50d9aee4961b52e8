"""What a training run is: the typed spec that the trainer service, its workers and its exports share.

Plain dataclasses with the names of `protos/trainer/v1/trainer.proto`; their JSON form is the proto's own (snake-case
names), so a spec goes over the wire, into a database row and into a worker's job file unchanged. Everything that can
be checked without torch is checked here: ranges, component names, and the mapping against the fields of a data set.
Whether a model takes its parameters is known only where torch is: in the worker.

Not a place for defaults of models or optimizers; those live with their components.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from common.errors import InvalidArgument, MeshError, Violation
from common.scalars import python_value
from deepseek.components import AUGMENTATIONS, ENCODERS, LOSSES, METRICS, MODELS, OPTIMIZERS, SCHEDULES, Components
from deepseek.data.encoders import DEFAULT_ENCODERS
from deepseek.data.manifest import DatasetManifest

MAX_WORKERS = 64
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEFAULT_CHECKPOINT_INTERVAL_S = 10.0


@dataclass(frozen=True)
class Component:
    """A named, parameterised part out of one of the registries in `deepseek.components`."""

    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FieldMapping:
    """How one field of the data set becomes one tensor.

    Attributes:
        field: Field of the data set.
        input: Name of the model's forward argument.
        encoder: Turns a value into an array.
        augmentations: Applied to training batches, in order.
    """

    field: str = ""
    input: str = ""
    encoder: Component = Component()
    augmentations: tuple[Component, ...] = ()


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides what is trained; the attributes are those of `deepseek.trainer.v1.RunSpec`.

    `precision` is one of `PRECISIONS`; its JSON form is the proto's enum name.
    """

    dataset_version: str = ""
    model: Component = Component()
    loss: Component = Component()
    optimizer: Component = Component()
    schedule: Component = Component()
    metrics: tuple[Component, ...] = ()
    inputs: tuple[FieldMapping, ...] = ()
    target: FieldMapping = FieldMapping()
    train_split: str = ""
    eval_split: str = ""
    epochs: int = 0
    batch_size: int = 0
    precision: str = "auto"
    num_workers: int = 0
    seed: int = 0
    clip_norm: float = 0.0
    checkpoint_interval_s: float = 0.0

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, path: str = "spec") -> "RunSpec":
        """Reads the proto's JSON form (`preserving_proto_field_name`).

        Args:
            data: The decoded JSON object.
            path: Where the spec stands in the caller's request, for errors.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE, with the field's path.
        """
        _check_keys(data, cls.__dataclass_fields__, path)
        values: dict[str, Any] = {}
        for name, value in data.items():
            where = f"{path}.{name}"
            match name:
                case "model" | "loss" | "optimizer" | "schedule":
                    values[name] = _component(value, where)
                case "metrics":
                    values[name] = tuple(_component(item, f"{where}[{i}]") for i, item in _items(value, where))
                case "inputs":
                    values[name] = tuple(_mapping(item, f"{where}[{i}]") for i, item in _items(value, where))
                case "target":
                    values[name] = _mapping(value, where)
                case "epochs" | "batch_size" | "num_workers" | "seed":
                    values[name] = _integer(value, where)
                case "clip_norm" | "checkpoint_interval_s":
                    values[name] = _number(value, where)
                case "precision":
                    values[name] = _precision(value, where)
                case _:
                    values[name] = _text(value, where)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The proto's JSON form, every field written out."""
        data = asdict(self)
        data["precision"] = f"PRECISION_{self.precision.upper()}"
        return data

    def canonical(self) -> str:
        """JSON text that is equal for equal specs: sorted keys, no spaces, whole floats as integers."""
        return json.dumps(_normalised(self.to_json()), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def with_defaults(self) -> "RunSpec":
        """Fills in what the caller left out and what does not depend on the data set."""
        return replace(
            self,
            loss=self.loss if self.loss.name else replace(self.loss, name="cross_entropy"),
            optimizer=self.optimizer if self.optimizer.name else replace(self.optimizer, name="adamw"),
            schedule=self.schedule if self.schedule.name else replace(self.schedule, name="constant"),
            inputs=tuple(replace(mapping, input=mapping.input or mapping.field) for mapping in self.inputs),
            train_split=self.train_split or "train",
            eval_split=self.eval_split or "test",
            num_workers=self.num_workers or 1,
            checkpoint_interval_s=self.checkpoint_interval_s or DEFAULT_CHECKPOINT_INTERVAL_S,
        )

    def resolved(self, dataset_version: str, manifest: DatasetManifest) -> "RunSpec":
        """The complete spec: aliases resolved, defaults filled in, mapping checked.

        Args:
            dataset_version: `datasets/<id>/versions/<n>`.
            manifest: Of that version.

        Raises:
            InvalidArgument: As `check_data` and the encoders raise it.
        """
        spec = replace(self.with_defaults(), dataset_version=dataset_version)
        spec.check_data(manifest)
        return spec._with_encoders(manifest)

    def _with_encoders(self, manifest: DatasetManifest) -> "RunSpec":
        """Names every encoder, and builds each one to check its parameters and its field.

        All parameters are made explicit, so that a run keeps its encoders when their defaults change.
        """

        def encoded(mapping: FieldMapping, path: str) -> FieldMapping:
            column = manifest.field(mapping.field)
            name = mapping.encoder.name or DEFAULT_ENCODERS[column.type]
            encoder = ENCODERS.build(name, mapping.encoder.params, field=f"{path}.encoder")
            try:
                encoder.bind(column)
            except InvalidArgument as error:
                raise InvalidArgument(error.reason, error.message, field=f"{path}.encoder.name") from error
            return replace(mapping, encoder=Component(name, {**mapping.encoder.params, **encoder.params}))

        inputs = tuple(encoded(mapping, f"spec.inputs[{i}]") for i, mapping in enumerate(self.inputs))
        return replace(self, inputs=inputs, target=encoded(self.target, "spec.target"))

    def check(self, *, path: str = "spec") -> None:
        """Checks all that needs neither the data set nor torch.

        Raises:
            InvalidArgument: MISSING_FIELD, BAD_VALUE or UNKNOWN_COMPONENT for the first wrong field, with every wrong
                field among the violations.
        """
        problems: list[MeshError] = []

        def require(present: object, name: str, what: str) -> None:
            if not present:
                problems.append(InvalidArgument("MISSING_FIELD", what, field=f"{path}.{name}"))

        def bound(valid: bool, name: str, what: str) -> None:
            if not valid:
                problems.append(InvalidArgument("BAD_VALUE", what, field=f"{path}.{name}"))

        def known(registry: Components, component: Component, name: str, *, optional: bool = False) -> None:
            if optional and not component.name:
                bound(not component.params, f"{name}.params", "parameters of a component that is not named")
                return
            if not component.name:
                require(False, f"{name}.name", "the component has no name")
                return
            try:
                registry.check(component.name, field=f"{path}.{name}.name")
            except MeshError as error:
                problems.append(error)

        require(self.dataset_version, "dataset_version", "the data set version to train on is missing")
        require(self.inputs, "inputs", "at least one field must be mapped to an input of the model")
        require(self.target.field, "target.field", "the field that holds the target is missing")
        bound(not self.target.augmentations, "target.augmentations", "a target is not augmented")
        known(MODELS, self.model, "model")
        known(LOSSES, self.loss, "loss", optional=True)
        known(OPTIMIZERS, self.optimizer, "optimizer", optional=True)
        known(SCHEDULES, self.schedule, "schedule", optional=True)
        for i, metric in enumerate(self.metrics):
            known(METRICS, metric, f"metrics[{i}]")
            repeated = metric.name in [other.name for other in self.metrics[:i]]
            bound(not repeated, f"metrics[{i}].name", f"the metric {metric.name!r} is named twice")
        seen: set[str] = set()
        for i, mapping in enumerate(self.inputs):
            require(mapping.field, f"inputs[{i}].field", "the field of the data set is missing")
            name = mapping.input or mapping.field
            bound(name not in seen, f"inputs[{i}].input", f"two fields are mapped to the input {name!r}")
            seen.add(name)
            known(ENCODERS, mapping.encoder, f"inputs[{i}].encoder", optional=True)
            for j, augmentation in enumerate(mapping.augmentations):
                known(AUGMENTATIONS, augmentation, f"inputs[{i}].augmentations[{j}]")
        known(ENCODERS, self.target.encoder, "target.encoder", optional=True)
        workers = self.num_workers or 1
        bound(self.epochs >= 1, "epochs", f"{self.epochs} passes over the data; at least 1 is needed")
        bound(
            1 <= workers <= MAX_WORKERS,
            "num_workers",
            f"{self.num_workers} workers; 1 to {MAX_WORKERS} can be asked for",
        )
        bound(
            self.batch_size >= max(1, workers),
            "batch_size",
            f"a batch of {self.batch_size} samples does not give each of {workers} workers a sample",
        )
        bound(0 <= self.seed < 1 << 63, "seed", "the seed must be from 0 to 2^63 - 1")
        bound(math.isfinite(self.clip_norm) and self.clip_norm >= 0, "clip_norm", "the largest norm must be 0 or more")
        interval = self.checkpoint_interval_s
        bound(math.isfinite(interval) and interval >= 0, "checkpoint_interval_s", "the interval must be 0 s or more")
        _raise_all(problems)

    def check_data(self, manifest: DatasetManifest, *, path: str = "spec") -> None:
        """Checks the mapping against the data set.

        Raises:
            InvalidArgument: BAD_VALUE for the first field or split that the data set does not have, with every wrong
                field among the violations.
        """
        names = [field.name for field in manifest.fields]
        problems: list[MeshError] = []
        places = [(mapping, f"inputs[{i}]") for i, mapping in enumerate(self.inputs)] + [(self.target, "target")]
        for mapping, where in places:
            if mapping.field not in names:
                known = ", ".join(names)
                problems.append(
                    InvalidArgument(
                        "BAD_VALUE",
                        f"the data set has no field {mapping.field!r}; it has {known}",
                        field=f"{path}.{where}.field",
                    )
                )
            elif not mapping.encoder.name and manifest.field(mapping.field).type not in DEFAULT_ENCODERS:
                kind = manifest.field(mapping.field).type
                problems.append(
                    InvalidArgument(
                        "MISSING_FIELD",
                        f"no encoder is known for fields of type {kind}; name one",
                        field=f"{path}.{where}.encoder.name",
                    )
                )
        if self.train_split not in manifest.splits:
            known = ", ".join(sorted(manifest.splits))
            problems.append(
                InvalidArgument(
                    "BAD_VALUE",
                    f"the data set has no split {self.train_split!r}; it has {known}",
                    field=f"{path}.train_split",
                )
            )
        _raise_all(problems)


def _raise_all(problems: Sequence[MeshError]) -> None:
    """Raises the first problem with the violations of all."""
    if problems:
        violations: list[Violation] = [violation for problem in problems for violation in problem.violations]
        raise InvalidArgument(problems[0].reason, problems[0].message, violations=violations)


def _check_keys(data: Any, known: Mapping[str, Any], path: str) -> None:
    if not isinstance(data, Mapping):
        raise InvalidArgument("BAD_VALUE", f"an object is expected, not {type(data).__name__}", field=path)
    for key in data:
        if key not in known:
            raise InvalidArgument(
                "UNKNOWN_FIELD", f"there is no field {key!r}; known are {', '.join(known)}", field=f"{path}.{key}"
            )


def _component(data: Any, path: str) -> Component:
    _check_keys(data, Component.__dataclass_fields__, path)
    params = data.get("params", {})
    if not isinstance(params, Mapping):
        raise InvalidArgument("BAD_VALUE", "an object of keyword arguments is expected", field=f"{path}.params")
    return Component(_text(data.get("name", ""), f"{path}.name"), _plain(params, f"{path}.params"))


def _plain(given: Any, path: str) -> Any:
    """Returns a JSON value, with numbers and arrays of NumPy converted to Python's."""
    match value := python_value(given):
        case Mapping():
            return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise InvalidArgument("BAD_VALUE", f"a {type(given).__name__} is not a JSON value", field=path)


def _mapping(data: Any, path: str) -> FieldMapping:
    _check_keys(data, FieldMapping.__dataclass_fields__, path)
    augmentations = data.get("augmentations", [])
    return FieldMapping(
        field=_text(data.get("field", ""), f"{path}.field"),
        input=_text(data.get("input", ""), f"{path}.input"),
        encoder=_component(data.get("encoder", {}), f"{path}.encoder"),
        augmentations=tuple(
            _component(item, f"{path}.augmentations[{i}]") for i, item in _items(augmentations, f"{path}.augmentations")
        ),
    )


def _items(value: Any, path: str) -> Sequence[tuple[int, Any]]:
    value = python_value(value)
    if not isinstance(value, list | tuple):
        raise InvalidArgument("BAD_VALUE", f"a list is expected, not {type(value).__name__}", field=path)
    return list(enumerate(value))


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument("BAD_VALUE", f"text is expected, not {type(value).__name__}", field=path)
    return value


def _integer(value: Any, path: str) -> int:
    value = python_value(value)
    # The proto's JSON form writes 64-bit integers as text.
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument("BAD_VALUE", f"an integer is expected, not {value!r}", field=path)
    return value


def _number(value: Any, path: str) -> float:
    value = python_value(value)
    # The proto's JSON form writes these three as text; `check` refuses them with the field's own reason.
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument("BAD_VALUE", f"a number is expected, not {value!r}", field=path)
    return float(value)


def _precision(value: Any, path: str) -> str:
    if value in ("PRECISION_UNSPECIFIED", 0):
        return "auto"
    name = value.removeprefix("PRECISION_").lower() if isinstance(value, str) else ""
    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InvalidArgument("BAD_VALUE", f"there is no precision {value!r}; known are {known}", field=path)
    return name


def _normalised(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _normalised(item) for key, item in value.items()}
        case list() | tuple():
            return [_normalised(item) for item in value]
        case float() if value.is_integer():
            return int(value)
    return value
