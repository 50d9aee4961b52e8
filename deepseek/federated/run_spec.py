"""The spec of a federated run, shared by the coordinator and its clients.

The dataclasses use the names of `protos/federated/v1/federated.proto`, and their JSON form is the proto's own, as for
`deepseek.trainjob.runspec`. The checks in this module need neither the nodes, the data nor the ledger.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import InvalidArgument, MeshError, Violation
from common.names import check_id, parse
from deepseek.trainjob import json_values, spec_parts
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import MISSING_NORM, MISSING_RATE, NO_COMPONENT, Component, Problems

DEFAULT_STRATEGY = "fedavg"
DEFAULT_DEADLINE_S = 600.0
DEFAULT_MAX_RETRIES = 3
MAX_ROUNDS = 10_000
MAX_LOCAL_EPOCHS = 10_000
MAX_RETRIES = 100
UNITS = ("client", "example")

_NO_MODEL = RunSpec()


@dataclass(frozen=True)
class Sampling:
    """Which nodes a round asks: all of them, a fixed number, or each with a probability.

    Attributes:
        all: Whether every node is asked; also the meaning if nothing is set.
        num_nodes: Number of nodes; None if it is not fixed.
        rate: Probability of each node; None without Poisson sampling.
    """

    all: bool = False
    num_nodes: int | None = None
    rate: float | None = None


@dataclass(frozen=True)
class PrivacySpec:
    """How a run protects its models. The proto message `deepseek.federated.v1.PrivacySpec` documents the attributes.

    `unit` is one of UNITS, or empty. Of `noise_multiplier` and `target_epsilon`, at most one is not None.
    """

    unit: str = ""
    clip_norm: float = 0.0
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    delta: float = 0.0
    budget: str = ""
    example_rate: float = 0.0


@dataclass(frozen=True)
class FederatedRunSpec:
    """The complete description of a federated run; see `deepseek.federated.v1.FederatedRunSpec`."""

    model: RunSpec = _NO_MODEL
    strategy: Component = NO_COMPONENT
    num_rounds: int = 0
    sampling: Sampling = Sampling()
    local_epochs: int = 0
    deadline_s: float = 0.0
    quorum: int = 0
    max_update_norm: float = 0.0
    target_model: str = ""
    privacy: PrivacySpec | None = None
    max_retries: int = DEFAULT_MAX_RETRIES
    register_every: int = 0

    @classmethod
    def from_json(cls, data: Any, *, path: str = "spec") -> "FederatedRunSpec":
        """Reads a spec in the proto's JSON form, with snake-case names.

        Raises:
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE for the first invalid field. The violations list every one.
        """
        problems = Problems()
        values: dict[str, Any] = {}
        with problems.caught():
            json_values.check_keys(data, cls.__dataclass_fields__, path)
        for name, value in data.items() if isinstance(data, Mapping) else ():
            if name in cls.__dataclass_fields__:
                with problems.caught():
                    values[name] = _read(name, value, f"{path}.{name}")
        problems.check()
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Returns the proto's JSON form; fields that are not set are missing."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data |= {"model": self.model.to_json(), "strategy": asdict(self.strategy), "sampling": _set(self.sampling)}
        if self.privacy is None:
            del data["privacy"]
        else:
            data["privacy"] = _set(self.privacy) | {"unit": f"UNIT_{self.privacy.unit.upper() or 'UNSPECIFIED'}"}
        return data

    def canonical(self) -> str:
        """Returns JSON text that is identical for equal specs."""
        data = json_values.normalized(self.to_json())
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def with_defaults(self) -> "FederatedRunSpec":
        """Fills in the defaults outside of `model`, whose defaults depend on the data set."""
        sampling = self.sampling
        if sampling.num_nodes is None and sampling.rate is None:
            sampling = Sampling(all=True)
        # With client-level privacy, the quorum is a number of nodes that are online.
        is_client = self.privacy is not None and self.privacy.unit == "client"
        return replace(
            self,
            strategy=replace(self.strategy, name=self.strategy.name or DEFAULT_STRATEGY),
            sampling=sampling,
            local_epochs=self.local_epochs or 1,
            deadline_s=self.deadline_s or DEFAULT_DEADLINE_S,
            quorum=self.quorum or (0 if sampling.rate is not None and not is_client else 1),
            register_every=self.register_every or 1,
        )

    def check(self, *, path: str = "spec") -> None:
        """Checks everything that requires neither nodes, the data set, the ledger nor torch.

        Raises:
            InvalidArgument: MISSING_FIELD, BAD_VALUE, BAD_NAME, UNKNOWN_COMPONENT, UNKNOWN_STRATEGY,
                STRATEGY_NOT_PRIVATE, BAD_NOISE, BAD_EPSILON, BAD_DELTA or BAD_RATE for the first invalid field. The
                violations list every invalid field.
        """
        from deepseek.federated.strategy import strategy_from_spec  # NumPy, which clients do not need

        problems = Problems()

        def bound(valid: bool, name: str, what: str, reason: str = "BAD_VALUE") -> None:
            if not valid:
                problems.add(reason, what, field=f"{path}.{name}")

        with problems.caught():
            # An epoch count belongs to ordinary runs; the nodes train for `local_epochs` in each round.
            replace(self.model, epochs=self.model.epochs or 1).check(path=f"{path}.model")
        workers = self.model.num_workers
        bound(workers in (0, 1), "model.num_workers", f"num_workers is {workers}; a node trains in one process")
        bound(self.model.early_stopping is None, "model.early_stopping", "federated runs do not stop early")
        bound(not self.model.policy.name, "model.policy", "a federated run has no policy; use a schedule")
        bound(self.model.privacy is None, "model.privacy", "the privacy of a federated run is in spec.privacy")
        bound(not self.model.eval_share, "model.eval_share", "federated runs are evaluated on an evaluation split")
        with problems.caught(), below(path):
            strategy = strategy_from_spec(self.strategy.name, self.strategy.params)
            if self.privacy is not None and self.privacy.unit == "client":
                strategy.check_private()
        rounds = f"num_rounds is {self.num_rounds or 'missing or 0'}; it must be from 1 to {MAX_ROUNDS}"
        bound(1 <= self.num_rounds <= MAX_ROUNDS, "num_rounds", rounds)
        epochs = f"local_epochs is {self.local_epochs}; it must be from 1 to {MAX_LOCAL_EPOCHS}"
        bound(0 <= self.local_epochs <= MAX_LOCAL_EPOCHS, "local_epochs", epochs)
        for name in ("deadline_s", "max_update_norm"):
            value = getattr(self, name)
            what = f"{name} is {value}; it must be finite and at least 0"
            bound(math.isfinite(value) and value >= 0, name, what)
        bound(self.quorum >= 0, "quorum", f"quorum is {self.quorum}; it must not be negative")
        retries = f"max_retries is {self.max_retries}; it must be from 0 to {MAX_RETRIES}"
        bound(0 <= self.max_retries <= MAX_RETRIES, "max_retries", retries)
        every = f"register_every is {self.register_every}; it must be from 1 to {MAX_ROUNDS}"
        bound(0 <= self.register_every <= MAX_ROUNDS, "register_every", every)
        number, rate = self.sampling.num_nodes, self.sampling.rate
        if number is not None:
            bound(number >= 1, "sampling.num_nodes", f"num_nodes is {number}; it must be at least 1")
        if rate is not None:
            what = f"rate is {rate}; it must be above 0 and at most 1"
            bound(0 < rate <= 1, "sampling.rate", what, "BAD_RATE" if self.privacy else "BAD_VALUE")
        if not self.target_model:
            what = "the model that gets a version per round is missing"
            problems.add("MISSING_FIELD", what, field=f"{path}.target_model")
        else:
            with problems.caught():
                (model_id,) = parse(self.target_model, "models/{}", field=f"{path}.target_model")
                check_id(model_id, field=f"{path}.target_model")
        if self.privacy is not None:
            with problems.caught():
                self._check_privacy(self.privacy, path)
        problems.check()

    def _check_privacy(self, privacy: PrivacySpec, path: str) -> None:
        from deepseek.privacy.releases import check_delta, check_epsilon, check_noise, check_rate

        problems, where = Problems(), f"{path}.privacy"

        def require(present: object, name: str, what: str) -> None:
            if not present:
                problems.add("MISSING_FIELD", what, field=f"{where}.{name}")

        require(privacy.unit, "unit", "say what is protected: UNIT_CLIENT or UNIT_EXAMPLE")
        require(privacy.budget, "budget", "name the budget that is debited; `deepseek privacy create` creates one")
        if privacy.budget:
            with problems.caught():
                parse(privacy.budget, "budgets/{}", field=f"{where}.budget")
        norm = privacy.clip_norm
        if not (math.isfinite(norm) and norm > 0):
            what = f"clip_norm is {norm}; it must be finite and above 0" if norm else MISSING_NORM
            problems.add("BAD_VALUE", what, field=f"{where}.clip_norm")
        if privacy.noise_multiplier is None and privacy.target_epsilon is None:
            require(False, "noise_multiplier", "set the noise multiplier, or a target epsilon")
        with problems.caught():
            if privacy.noise_multiplier is not None and not check_noise(
                privacy.noise_multiplier, f"{where}.noise_multiplier"
            ):
                what = "noise multiplier is 0; without noise, no budget is enough: remove `privacy`, or add noise"
                raise InvalidArgument("BAD_NOISE", what, field=f"{where}.noise_multiplier")
        with problems.caught():
            if privacy.target_epsilon is not None:
                check_epsilon(privacy.target_epsilon, f"{where}.target_epsilon")
        with problems.caught():
            if privacy.delta:
                check_delta(privacy.delta, f"{where}.delta")
        with problems.caught():
            if privacy.unit == "example" and not privacy.example_rate:
                problems.add("BAD_RATE", MISSING_RATE, field=f"{where}.example_rate")
            elif privacy.unit == "example":
                check_rate(privacy.example_rate, f"{where}.example_rate")
            elif privacy.example_rate:
                what = "example_rate is for the unit UNIT_EXAMPLE; the rate of nodes is in `sampling`"
                raise InvalidArgument("BAD_VALUE", what, field=f"{where}.example_rate")
        problems.check()


@contextmanager
def below(path: str) -> Iterator[None]:
    """Puts a path before the fields that an error of the `with` block names."""
    try:
        yield
    except MeshError as error:
        violations = [Violation(f"{path}.{one.field}", one.description) for one in error.violations]
        raise type(error)(error.reason, error.message, violations=violations) from error


def _set(part: Sampling | PrivacySpec) -> dict[str, Any]:
    """Returns the members that are set. A member of a oneof must be absent, not null, if another one is set."""
    return {name: value for name, value in asdict(part).items() if value is not None and value is not False}


def _read(name: str, value: Any, where: str) -> Any:
    """Reads one field of a spec."""
    match name:
        case "model":
            return RunSpec.from_json(value, path=where)
        case "strategy":
            return spec_parts.read_component(value, where)
        case "sampling":
            return _read_sampling(value, where)
        case "privacy":
            return None if value is None else _read_privacy(value, where)
        case "num_rounds" | "local_epochs" | "quorum" | "max_retries" | "register_every":
            return json_values.integer(value, where)
        case "deadline_s" | "max_update_norm":
            return json_values.number(value, where)
    return json_values.text(value, where)


def _read_sampling(data: Any, path: str) -> Sampling:
    json_values.check_keys(data, Sampling.__dataclass_fields__, path)
    if len(data) > 1:
        raise InvalidArgument("BAD_VALUE", f"set only one of {', '.join(data)}", field=path)
    match data:
        case {"all": bool(value)}:
            return Sampling(all=value)
        case {"all": value}:
            raise InvalidArgument("BAD_VALUE", f"expected true or false, found {value!r}", field=f"{path}.all")
        case {"num_nodes": value}:
            return Sampling(num_nodes=json_values.integer(value, f"{path}.num_nodes"))
        case {"rate": value}:
            return Sampling(rate=json_values.number(value, f"{path}.rate"))
    return Sampling()


def _read_privacy(data: Any, path: str) -> PrivacySpec:
    json_values.check_keys(data, PrivacySpec.__dataclass_fields__, path)
    spec_parts.check_one_noise(data, path)
    values: dict[str, Any] = {}
    for name, value in data.items():
        where = f"{path}.{name}"
        if name == "unit":
            values[name] = _read_unit(value, where)
        elif name == "budget":
            values[name] = json_values.text(value, where)
        else:
            values[name] = json_values.number(value, where)
    return PrivacySpec(**values)


def _read_unit(value: Any, path: str) -> str:
    """Reads a unit: its name in the contract, or one of UNITS."""
    if value in ("UNIT_UNSPECIFIED", 0, ""):
        return ""
    unit = value.removeprefix("UNIT_").lower() if isinstance(value, str) else ""
    if unit not in UNITS:
        raise InvalidArgument("BAD_VALUE", f"unknown unit {value!r}; known: {', '.join(UNITS)}", field=path)
    return unit
