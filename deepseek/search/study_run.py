"""How the trials of a study become training runs: the spec of `RunStudy`, and the run of each trial.

The dataclasses use the names of `protos/tuner/v1/tuner.proto`, which documents them. The checks need neither the
trainer nor torch.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from common.errors import InvalidArgument
from deepseek.search.population import ALGORITHM, STEERED, PopulationSettings
from deepseek.search.run_fields import Path, overlap, put, read_path
from deepseek.search.space import Choices, Domain, Point, Value
from deepseek.search.study_spec import DEFAULT_PRUNER, MAX_TRIALS, StudySpec
from deepseek.trainjob import json_values
from deepseek.trainjob.runspec import LOSS, RunSpec
from deepseek.trainjob.spec_parts import Problems

MAX_PARALLEL = 64
MAX_EPOCHS = 1 << 53
MAX_SECONDS = 1e9
MAX_CHECKED = 1000
"""Number of values of parameters with which a spec is checked, so that a check takes a bounded time."""

_FIELDS = ("run", "fields", "metric", "budget")
_BUDGET = ("max_parallel", "max_trials", "max_epochs", "max_seconds")


@dataclass(frozen=True)
class StudyBudget:
    """What a study may spend on the trainer; 0 means no limit, or the default."""

    max_parallel: int = 0
    max_trials: int = 0
    max_epochs: int = 0
    max_seconds: float = 0.0

    @classmethod
    def from_json(cls, data: Any, path: str) -> "StudyBudget":
        """Reads a budget in the proto's JSON form.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE.
        """
        json_values.check_keys(data, dict.fromkeys(_BUDGET), path)
        counts = {name: json_values.integer(data.get(name, 0), f"{path}.{name}") for name in _BUDGET[:3]}
        return cls(**counts, max_seconds=json_values.number(data.get("max_seconds", 0.0), f"{path}.max_seconds"))

    def of_population(self, settings: PopulationSettings | None) -> "StudyBudget":
        """Returns the budget of a study with the algorithm `pbt`, whose trials are its population."""
        if settings is None:
            return self
        size = min(self.max_trials or settings.population, settings.population)
        return replace(self, max_trials=size, max_parallel=self.max_parallel or size)

    def check(self, study: StudySpec, problems: Problems, path: str) -> None:
        """Records every mistake: BAD_VALUE or MISSING_FIELD."""
        bounds = {"max_parallel": MAX_PARALLEL, "max_trials": MAX_TRIALS, "max_epochs": MAX_EPOCHS}
        for name, bound in {**bounds, "max_seconds": MAX_SECONDS}.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= bound):
                message = f"{name} is {value}; it must be from 0 to {bound:g}"
                problems.add("BAD_VALUE", message, field=f"{path}.{name}")
        limited = self.max_trials or self.max_epochs or self.max_seconds or 0 < study.max_trials < MAX_TRIALS
        if not limited and study.algorithm.name != ALGORITHM:  # a population ends when its members do
            message = "the study would never end; set max_trials, max_epochs or max_seconds"
            problems.add("MISSING_FIELD", message, field=path)


@dataclass(frozen=True)
class StudyRunSpec:
    """How RunStudy turns trials into runs; see `deepseek.tuner.v1.StudyRunSpec`.

    Attributes:
        run: Spec of the runs; fields that parameters set may be missing.
        fields: Pairs of a parameter and the path of the field that it sets.
        metric: Metric of the runs that is the value of the first objective; empty for the one with the same name.
        budget: What the study may spend.
    """

    run: RunSpec
    fields: tuple[tuple[str, str], ...] = ()
    metric: str = ""
    budget: StudyBudget = StudyBudget()

    @classmethod
    def from_json(cls, data: Any, *, path: str = "spec") -> "StudyRunSpec":
        """Reads a spec in the proto's JSON form, with snake-case names.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE.
        """
        json_values.check_keys(data, dict.fromkeys(_FIELDS), path)
        fields = []
        for index, item in json_values.items(data.get("fields", []), f"{path}.fields"):
            place = f"{path}.fields[{index}]"
            json_values.check_keys(item, {"parameter": None, "field": None}, place)
            parts = (json_values.text(item.get(name, ""), f"{place}.{name}") for name in ("parameter", "field"))
            fields.append((next(parts), next(parts)))
        return cls(
            RunSpec.from_json(data.get("run", {}), path=f"{path}.run"),
            tuple(fields),
            json_values.text(data.get("metric", ""), f"{path}.metric"),
            StudyBudget.from_json(data.get("budget", {}), f"{path}.budget"),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the proto's JSON form."""
        return {
            "run": self.run.to_json(),
            "fields": [{"parameter": name, "field": field} for name, field in self.fields],
            "metric": self.metric,
            "budget": asdict(self.budget),
        }

    def canonical(self, *, with_budget: bool = True) -> str:
        """Returns JSON text that is identical for equal specs."""
        data = json_values.normalized(self.to_json())
        if not with_budget:
            del data["budget"]
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Index in `fields` by name of the parameter; the first one if a name is listed twice."""
        return {name: index for index, (name, _) in reversed(list(enumerate(self.fields)))}

    def path_of(self, parameter: str, *, path: str = "spec") -> Path:
        """Returns the path of the field that a parameter sets.

        Raises:
            InvalidArgument: BAD_PATH.
        """
        if (index := self._indices.get(parameter)) is not None:
            return read_path(self.fields[index][1], field=f"{path}.fields[{index}].field")
        try:
            return read_path(parameter, field=f"{path}.fields")
        except InvalidArgument as error:
            message = f"{parameter[:80]!r} is not the path of a field of the run spec; add the parameter to `fields`"
            raise InvalidArgument("BAD_PATH", message, field=f"{path}.fields") from error

    def run_of(self, point: Point, *, path: str = "spec") -> RunSpec:
        """Returns the spec of the run of a trial.

        Args:
            point: Parameters of the trial.
            path: Path of this spec in the caller's request, for errors.

        Raises:
            InvalidArgument: BAD_PATH, UNKNOWN_FIELD or BAD_VALUE.
        """
        document = json.loads(json.dumps(self.run.to_json()))
        for name, value in point.items():
            put(document, self.path_of(name, path=path), _plain(value), field=f"{path}.fields")
        return RunSpec.from_json(document, path=f"{path}.run")

    def value_of(self, objective: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the metrics of a run with the value of the first objective added.

        Args:
            objective: Metric of the first objective.
            metrics: Metrics by name.
        """
        source = self.metric or objective
        return {**metrics, objective: metrics[source]} if source in metrics else dict(metrics)

    def steered(self, study: StudySpec, *, path: str = "spec") -> dict[str, str]:
        """Returns what each parameter changes in a run that trains: `learning_rate` or `momentum`.

        Args:
            study: Spec of a study with the algorithm `pbt`.
            path: Path of this spec in the caller's request, for errors.

        Raises:
            InvalidArgument: BAD_VALUE if a parameter cannot be changed while a run trains.
        """
        found = {}
        for parameter in study.space.parameters:
            kind, domain = STEERED.get(self.path_of(parameter.name, path=path), ""), parameter.domain
            if not kind or isinstance(domain, Choices) or parameter.conditions:
                message = (
                    f"pbt changes {parameter.name!r} while runs train; it must be a range without conditions for "
                    "optimizer.params.lr, optimizer.params.momentum or optimizer.params.betas[0]"
                )
                raise InvalidArgument("BAD_VALUE", message, field=f"{path}.fields")
            # A run refuses to change to other values, after it has copied the weights.
            is_valid = domain.low > 0 if kind == "learning_rate" else domain.low >= 0 and domain.greatest < 1
            if not is_valid:
                bounds = "above 0" if kind == "learning_rate" else "at least 0 and below 1"
                message = (
                    f"{parameter.name!r} is from {domain.low} to {domain.greatest}; pbt requires values {bounds}; "
                    "create a study with another range"
                )
                raise InvalidArgument("BAD_VALUE", message, field=f"{path}.fields")
            found[parameter.name] = kind
        return found

    def completed(self, study: StudySpec, *, path: str = "spec") -> tuple["StudyRunSpec", RunSpec]:
        """Checks the spec, and fills in defaults.

        Args:
            study: Spec of the study.
            path: Path of this spec in the caller's request, for errors.

        Returns:
            The spec, and the run of one point of the space, for further checks.

        Raises:
            InvalidArgument: BAD_PATH, MISSING_FIELD, BAD_VALUE, UNKNOWN_FIELD, UNKNOWN_COMPONENT or DUPLICATE_NAME for
                the first invalid field. The violations list every invalid field.
        """
        problems = Problems()
        self.budget.check(study, problems, f"{path}.budget")
        self._check_fields(study, problems, path)
        problems.check()
        if study.algorithm.name == ALGORITHM:
            self._check_population(study, problems, path)
            problems.check()
        point = study.space.draw(random.Random(0))  # as StudySpec.check, which has found one
        assert point is not None, "a study whose space is empty cannot be created"
        sample = self.run_of(point, path=path)
        with problems.caught():
            sample.check(path=f"{path}.run")
        with problems.caught():
            self._check_metrics(study, sample, path)
        problems.check()
        for name, value in islice(_extremes(study), MAX_CHECKED):
            try:
                self.run_of({**point, name: value}, path=path).check(path=f"{path}.run")
            except InvalidArgument as error:
                message = f"with {name} = {value!r}: {error.message}"
                problems.add(error.reason, message, field=error.field)
        problems.check()
        if self.run.select_metric:
            return self, sample
        metric = self.metric or study.objectives[0].metric
        made = replace(self, run=replace(self.run, select_metric=metric))
        return made, replace(sample, select_metric=sample.select_metric or metric)

    def _check_fields(self, study: StudySpec, problems: Problems, path: str) -> None:
        known = [parameter.name for parameter in study.space.parameters]
        for index, (name, _) in enumerate(self.fields):
            place = f"{path}.fields[{index}].parameter"
            if name not in known:
                message = f"the study has no parameter {name[:80]!r}; it has {', '.join(known[:20])}"
                problems.add("BAD_VALUE", message, field=place)
            elif self._indices[name] != index:
                problems.add("DUPLICATE_NAME", f"the parameter {name!r} is listed twice", field=place)
        paths = []
        for name in known:
            with problems.caught():
                paths.append(self.path_of(name, path=path))
        if not problems.any and (found := overlap(paths)):
            first, second = (known[index] for index in found)
            message = f"the parameters {first!r} and {second!r} set the same field"
            problems.add("DUPLICATE_NAME", message, field=f"{path}.fields")

    def _check_population(self, study: StudySpec, problems: Problems, path: str) -> None:
        with problems.caught():
            self.steered(study, path=path)
        for name, value, what in (
            ("schedule.name", self.run.schedule.name not in ("", "constant"), "the schedule must be constant"),
            ("policy.name", self.run.policy.name, "there must be no policy"),
            ("privacy", self.run.privacy, "a private run cannot be steered to the weights of another one"),
        ):
            if value:
                problems.add("BAD_VALUE", f"with pbt, {what}", field=f"{path}.run.{name}")
        if study.pruner.name not in ("", DEFAULT_PRUNER):
            message = "pbt replaces bad runs by copies of good ones; create the study without a pruner"
            problems.add("BAD_VALUE", message, field="name")

    def _check_metrics(self, study: StudySpec, sample: RunSpec, path: str) -> None:
        figures = [LOSS, *(metric.name for metric in sample.metrics)]
        objective = study.objectives[0].metric
        if (source := self.metric or objective) not in figures:
            message = f"the runs have no metric {source[:80]!r}; they have {', '.join(figures)}"
            raise InvalidArgument("BAD_VALUE", message, field=f"{path}.metric")
        for name in study.metrics():
            if name not in (objective, *figures):
                message = f"the study needs the metric {name!r}, but the runs have {', '.join(figures)}"
                raise InvalidArgument("BAD_VALUE", message, field=f"{path}.run.metrics")


def _extremes(study: StudySpec) -> Iterator[tuple[str, Value]]:
    """Yields every parameter with its least and its greatest value, or with each of its choices."""
    for parameter in study.space.parameters:
        for value in _ends(parameter.domain):
            yield parameter.name, value


def _ends(domain: Domain) -> tuple[Value, ...]:
    return domain.choices if isinstance(domain, Choices) else (domain.low, domain.greatest)


def _plain(value: Value) -> Value:
    """Returns a value for JSON. A whole number becomes an integer, because choices lose that they were integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
