"""A directive as the trainer stores it and passes it on to the workers: a change of a run, to be applied at a step."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import InvalidArgument
from deepseek.components import POLICIES
from deepseek.steering.policy import DEFAULT, check_momentum, check_rate

MAX_ID = 100
_LONGEST_S = 1e9


@dataclass(frozen=True)
class Directive:
    """A directive. The proto message `deepseek.trainer.v1.Directive` documents the fields.

    Attributes:
        id: Id that the client has chosen.
        action: Name of the field of the oneof `action`.
        value: Value of that field: a number; the name and parameters of a policy; the step of a checkpoint, to which
            the trainer adds its digest; or None.
        apply_at_step: Step in which the directive is applied, counted from 1; 0 for the next step.
        expire_after_s: Number of seconds after which the directive expires; 0 for never.
        expire_us: Time at which the directive expires, UTC microseconds; 0 for never. Set when it is stored.
        applied_step: Step in which the directive was applied, if an earlier attempt of the run has applied it; else 0.
    """

    id: str
    action: str
    value: Any = None
    apply_at_step: int = 0
    expire_after_s: float = 0.0
    expire_us: int = 0
    applied_step: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the directive as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Directive":
        """Reads what `to_json` returned."""
        return cls(**data)

    def checked(self) -> "Directive":
        """Checks what can be checked without the run, and returns the directive with defaults filled in.

        Raises:
            InvalidArgument: MISSING_FIELD, BAD_VALUE or UNKNOWN_COMPONENT, with the path of the field.
        """
        if not 1 <= len(self.id) <= MAX_ID or "\0" in self.id:
            message = f"the id has {len(self.id)} characters; it must have 1 to {MAX_ID}, none of them NUL"
            raise InvalidArgument("BAD_VALUE", message, field="directive.id")
        if self.apply_at_step < 0:
            message = f"apply_at_step is {self.apply_at_step}; it must not be negative"
            raise InvalidArgument("BAD_VALUE", message, field="directive.apply_at_step")
        if not 0 <= self.expire_after_s <= _LONGEST_S:
            message = f"expire_after_s is {self.expire_after_s}; it must be from 0 to {_LONGEST_S:g}"
            raise InvalidArgument("BAD_VALUE", message, field="directive.expire_after_s")
        path = f"directive.{self.action}"
        match self.action:
            case "":
                message = "the directive has no action, e.g. set_learning_rate"
                raise InvalidArgument("MISSING_FIELD", message, field="directive.action")
            case "set_learning_rate":
                check_rate(self.value, path)
            case "set_momentum":
                check_momentum(self.value, path)
            case "set_policy":
                name = self.value["name"] or DEFAULT
                POLICIES.check(name, field=f"{path}.name")
                return replace(self, value={**self.value, "name": name})
        return self


REPEATED = ("set_learning_rate", "set_momentum", "set_policy", "restore")
"""Actions that a resumed run repeats, because they affect the weights."""
