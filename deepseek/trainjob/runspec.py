"""The spec of a training run, shared by the trainer service, its workers and its exports.

The dataclasses use the names of `protos/trainer/v1/trainer.proto`. Their JSON form is the proto's own, with snake-case
names, so a spec has the same form on the wire, in a database row and in a worker's job file. The checks in this module
do not need torch. They cover ranges, component names and the mapping of the data set's fields. Only a worker can check
a model's parameters. Models and optimizers define the defaults of their own parameters.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import InvalidArgument
from deepseek.components import (
    AUGMENTATIONS,
    ENCODERS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    POLICIES,
    SCHEDULES,
    Components,
)
from deepseek.data.manifest import DEFAULT_ENCODERS, DatasetManifest
from deepseek.trainjob import json_values, spec_parts
from deepseek.trainjob.spec_parts import (
    NO_COMPONENT,
    NO_MAPPING,
    Component,
    DpSgdSpec,
    EarlyStopping,
    FieldMapping,
    Problems,
    learns_from_private_data,
)

MAX_WORKERS = 64
DEFAULT_CHECKPOINT_INTERVAL_S = 10.0
LOSS = "loss"


@dataclass(frozen=True)
class RunSpec:
    """The complete description of a run. Its attributes are the fields of `deepseek.trainer.v1.RunSpec`.

    `precision` is one of `spec_parts.PRECISIONS`; in JSON, it is the name of the proto's enum value.
    """

    dataset_version: str = ""
    model: Component = NO_COMPONENT
    loss: Component = NO_COMPONENT
    optimizer: Component = NO_COMPONENT
    schedule: Component = NO_COMPONENT
    metrics: tuple[Component, ...] = ()
    inputs: tuple[FieldMapping, ...] = ()
    target: FieldMapping = NO_MAPPING
    train_split: str = ""
    eval_split: str = ""
    epochs: int = 0
    batch_size: int = 0
    precision: str = "auto"
    num_workers: int = 0
    seed: int = 0
    clip_norm: float = 0.0
    checkpoint_interval_s: float = 0.0
    select_metric: str = ""
    early_stopping: EarlyStopping | None = None
    init: str = ""
    freeze: tuple[str, ...] = ()
    eval_share: float = 0.0
    privacy: DpSgdSpec | None = None
    policy: Component = NO_COMPONENT

    @classmethod
    def from_json(cls, data: Any, *, path: str = "spec") -> "RunSpec":
        """Reads a spec in the proto's JSON form, with snake-case names (`preserving_proto_field_name`).

        Args:
            data: The decoded JSON object.
            path: Path of the spec in the caller's request, for error messages.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE for the first invalid field. The violations list every invalid
                field.
        """
        problems = Problems()
        values: dict[str, Any] = {}
        with problems.caught():
            json_values.check_keys(data, cls.__dataclass_fields__, path)
        known = cls.__dataclass_fields__.keys()
        for name, value in data.items() if isinstance(data, Mapping) else ():
            if name not in known:
                continue
            with problems.caught():
                values[name] = _read(name, value, f"{path}.{name}")
        problems.check()
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Returns the proto's JSON form, including fields that have their default value."""
        data = asdict(self)
        data["precision"] = f"PRECISION_{self.precision.upper()}"
        data["privacy"] = self.privacy.to_json() if self.privacy else None
        data["policy"] = data["policy"] if self.policy.name else None
        return data

    def canonical(self) -> str:
        """Returns JSON text that is identical for equal specs: keys are sorted, and whole floats become integers."""
        data = json_values.normalized(self.to_json())
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def with_defaults(self) -> "RunSpec":
        """Fills in the defaults that do not depend on the data set, and returns the resulting spec."""
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
            select_metric=self.select_metric or LOSS,
        )

    def with_noise(self, noise_multiplier: float | None) -> "RunSpec":
        """Returns the spec with the noise of a private run in place of the epsilon to aim at.

        Args:
            noise_multiplier: The noise multiplier that was chosen; None without `privacy`.
        """
        if self.privacy is None:
            return self
        return replace(self, privacy=replace(self.privacy, noise_multiplier=noise_multiplier, target_epsilon=None))

    def resolved(self, dataset_version: str, manifest: DatasetManifest, *, path: str = "spec") -> "RunSpec":
        """Checks the field mappings, and returns the complete spec with the given version and all defaults filled in.

        Args:
            dataset_version: `datasets/<id>/versions/<n>`.
            manifest: Manifest of that version.
            path: Path of the spec in the caller's request, for error messages.

        Raises:
            InvalidArgument: As for `check_data`, or if an encoder rejects its parameters or its field.
        """
        spec = replace(self.with_defaults(), dataset_version=dataset_version)
        spec.check_data(manifest, path=path)
        return spec._with_encoders(manifest, path)

    def _with_encoders(self, manifest: DatasetManifest, root: str) -> "RunSpec":
        """Returns the spec with the name and all parameters of every encoder filled in.

        Building each encoder checks its parameters and its field. The spec stores all parameters explicitly, so that a
        later change to a default does not affect the run.
        """
        problems = Problems()

        def complete(mapping: FieldMapping, path: str) -> FieldMapping:
            column = manifest.field(mapping.field)
            name = mapping.encoder.name or DEFAULT_ENCODERS[column.type]
            encoder = ENCODERS.build(name, mapping.encoder.params, field=f"{path}.encoder")
            if self.privacy and encoder.learns and not self.init:
                raise learns_from_private_data(name, f"{path}.encoder.name")
            try:
                encoder.bind(column)
            except InvalidArgument as error:
                raise InvalidArgument(error.reason, error.message, field=f"{path}.encoder.name") from error
            return replace(mapping, encoder=Component(name, {**mapping.encoder.params, **encoder.params}))

        places = [(mapping, f"{root}.inputs[{i}]") for i, mapping in enumerate(self.inputs)]
        mappings = []
        for mapping, path in [*places, (self.target, f"{root}.target")]:
            with problems.caught():
                mappings.append(complete(mapping, path))
        problems.check()
        return replace(self, inputs=tuple(mappings[:-1]), target=mappings[-1])

    def check(self, *, path: str = "spec") -> None:
        """Checks everything that requires neither the data set nor torch.

        Raises:
            InvalidArgument: MISSING_FIELD, BAD_VALUE or UNKNOWN_COMPONENT for the first invalid field. The violations
                list every invalid field.
        """
        problems = Problems()

        def require(present: object, name: str, what: str) -> None:
            if not present:
                problems.add("MISSING_FIELD", what, field=f"{path}.{name}")

        def bound(valid: bool, name: str, what: str) -> None:
            if not valid:
                problems.add("BAD_VALUE", what, field=f"{path}.{name}")

        def known(registry: Components, component: Component, name: str, *, optional: bool = False) -> None:
            if optional and not component.name:
                bound(not component.params, f"{name}.params", "the component has parameters but no name")
                return
            if not component.name:
                require(False, f"{name}.name", "the component has no name")
                return
            with problems.caught():
                registry.check(component.name, field=f"{path}.{name}.name")

        require(self.dataset_version, "dataset_version", "the data set version to train on is missing")
        require(self.inputs, "inputs", "at least one field must be mapped to an input of the model")
        require(self.target.field, "target.field", "the field that holds the target is missing")
        bound(not self.target.augmentations, "target.augmentations", "the target cannot have augmentations")
        known(MODELS, self.model, "model")
        known(LOSSES, self.loss, "loss", optional=True)
        known(OPTIMIZERS, self.optimizer, "optimizer", optional=True)
        known(SCHEDULES, self.schedule, "schedule", optional=True)
        known(POLICIES, self.policy, "policy", optional=True)
        for i, metric in enumerate(self.metrics):
            known(METRICS, metric, f"metrics[{i}]")
            repeated = metric.name in [other.name for other in self.metrics[:i]]
            bound(not repeated, f"metrics[{i}].name", f"the metric {metric.name!r} appears twice")
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
        given = self.epochs or "missing or 0"
        bound(self.epochs >= 1, "epochs", f"epochs is {given}; it must be at least 1")
        bound(
            1 <= workers <= MAX_WORKERS,
            "num_workers",
            f"num_workers is {self.num_workers}; it must be from 1 to {MAX_WORKERS}",
        )
        given = self.batch_size or "missing or 0"
        each = f" for each of the {workers} workers" if workers > 1 else ""
        message = f"batch_size is {given}; it must be at least 1{each}"
        bound(self.batch_size >= max(1, workers), "batch_size", message)
        bound(0 <= self.seed < 1 << 63, "seed", f"seed is {self.seed}; it must be from 0 to 2^63 - 1")
        for name, value in (("clip_norm", self.clip_norm), ("checkpoint_interval_s", self.checkpoint_interval_s)):
            bound(math.isfinite(value) and value >= 0, name, f"{name} is {value}; it must be finite and at least 0")
        message = f"eval_share is {self.eval_share}; it must be at least 0 and below 1"
        bound(0 <= self.eval_share < 1, "eval_share", message)
        figures = [LOSS, *(metric.name for metric in self.metrics)]
        bound(
            self.select_metric in ("", *figures),
            "select_metric",
            f"{self.select_metric[:80]!r} is not a figure of this run; it has {', '.join(figures)}",
        )
        if early := self.early_stopping:
            message = f"patience is {early.patience}; it must be at least 1"
            bound(early.patience >= 1, "early_stopping.patience", message)
            message = f"min_delta is {early.min_delta}; it must be finite and at least 0"
            bound(math.isfinite(early.min_delta) and early.min_delta >= 0, "early_stopping.min_delta", message)
        if self.privacy:
            self._check_privacy(self.privacy, problems, path)
        for i, prefix in enumerate(self.freeze):
            bound(bool(prefix), f"freeze[{i}]", "the prefix is empty, so no parameter would be trained")
        problems.check()

    def _check_privacy(self, privacy: DpSgdSpec, problems: Problems, path: str) -> None:
        privacy.check(problems, f"{path}.privacy")
        if self.num_workers > 1:
            message = f"num_workers is {self.num_workers}; a private run trains in one process"
            problems.add("BAD_VALUE", message, field=f"{path}.num_workers")
        if self.eval_share:
            message = "a private run does not evaluate on samples of its training split; use an evaluation split"
            problems.add("BAD_VALUE", message, field=f"{path}.eval_share")

    def check_data(self, manifest: DatasetManifest, *, path: str = "spec") -> None:
        """Checks the spec's field mappings and splits against the data set.

        Raises:
            InvalidArgument: BAD_VALUE for a field or split that the data set does not have, or for a target with only
                one class; MISSING_FIELD if no encoder is named for a field whose type has no default encoder;
                EVALUATION_NOT_PRIVATE if the splits of a private run share a shard. The error describes the first
                problem, and its violations list all problems.
        """
        names = [field.name for field in manifest.fields]
        problems = Problems()
        places = [(mapping, f"inputs[{i}]") for i, mapping in enumerate(self.inputs)] + [(self.target, "target")]
        for mapping, where in places:
            if mapping.field not in names:
                message = f"the data set has no field {mapping.field!r}; it has {', '.join(names)}"
                problems.add("BAD_VALUE", message, field=f"{path}.{where}.field")
            elif not mapping.encoder.name and manifest.field(mapping.field).type not in DEFAULT_ENCODERS:
                message = f"fields of type {manifest.field(mapping.field).type} have no default encoder; name one"
                problems.add("MISSING_FIELD", message, field=f"{path}.{where}.encoder.name")
        target = next((field for field in manifest.fields if field.name == self.target.field), None)
        if target and target.type == "label" and len(target.labels) < 2:
            message = (
                f"the field {target.name!r} has only the class {target.labels[0]!r}; a classifier needs two or more"
            )
            problems.add("BAD_VALUE", message, field=f"{path}.target.field")
        splits = ", ".join(sorted(manifest.splits))
        train_split, eval_split = self.train_split or "train", self.eval_split or "test"
        if train_split not in manifest.splits:
            message = f"the data set has no split {train_split!r}; it has {splits}"
            problems.add("BAD_VALUE", message, field=f"{path}.train_split")
        elif self.eval_share and manifest.num_samples(train_split) < 2:
            message = f"nothing can be held out of the split {train_split!r}, which has fewer than two samples"
            problems.add("BAD_VALUE", message, field=f"{path}.eval_share")
        if self.early_stopping and not self.eval_share and not manifest.splits.get(eval_split):
            message = f"early stopping requires an evaluation split, but the data set has no split {eval_split!r}"
            problems.add("BAD_VALUE", f"{message}; it has {splits}", field=f"{path}.eval_split")
        if self.privacy and not manifest.splits.get(eval_split):
            message = f"a private run requires an evaluation split, but the data set has no split {eval_split!r}"
            problems.add("BAD_VALUE", f"{message}; it has {splits}", field=f"{path}.eval_split")
        if self.privacy and set(manifest.splits.get(train_split, ())) & set(manifest.splits.get(eval_split, ())):
            message = (
                f"the evaluation split {eval_split!r} contains examples of the private split {train_split!r}, and its "
                "figures are published without noise; use an evaluation split of other examples"
            )
            problems.add("EVALUATION_NOT_PRIVATE", message, field=f"{path}.eval_split")
        problems.check()


def _read(name: str, value: Any, where: str) -> Any:
    """Reads one field of a spec."""
    match name:
        case "policy" if value is None:
            return NO_COMPONENT
        case "model" | "loss" | "optimizer" | "schedule" | "policy":
            return spec_parts.read_component(value, where)
        case "metrics":
            return spec_parts.read_components(value, where)
        case "inputs":
            items = json_values.items(value, where)
            return tuple(spec_parts.read_mapping(item, f"{where}[{i}]") for i, item in items)
        case "target":
            return spec_parts.read_mapping(value, where)
        case "early_stopping":
            return spec_parts.read_early_stopping(value, where)
        case "privacy":
            return spec_parts.read_privacy(value, where)
        case "freeze":
            return tuple(json_values.text(item, f"{where}[{i}]") for i, item in json_values.items(value, where))
        case "epochs" | "batch_size" | "num_workers" | "seed":
            return json_values.integer(value, where)
        case "clip_norm" | "checkpoint_interval_s" | "eval_share":
            return json_values.number(value, where)
        case "precision":
            return spec_parts.read_precision(value, where)
    return json_values.text(value, where)
