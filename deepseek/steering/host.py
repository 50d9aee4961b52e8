"""The process of a policy: `python -m deepseek.steering.host`, started by `HostedPolicy`.

It reads JSON objects from standard input, one per line, and answers each on standard output. What the policy itself
prints goes to the log.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, MeshError, plain_text
from common.processes import die_with_parent
from common.scalars import python_value
from deepseek.steering.policy import Adjustment, Curve, Observation, Policy

_MAX_STATE_BYTES = 1 << 16
_MAX_MESSAGE_CHARACTERS = 500


class _Host:
    """Answers the requests for one policy."""

    def __init__(self) -> None:
        self._policy: Policy | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answer to a request. Whatever the policy's code raises becomes part of the answer."""
        try:
            if "name" in request:
                from deepseek.steering.making import make_policy

                self._policy = make_policy(request["name"], request["params"], field=request["field"])
                if isinstance(self._policy, Curve):
                    raise _curve_refused(request["name"], request["field"])
                return {"floor": float(self._policy.floor), "ceiling": float(self._policy.ceiling)}
            assert self._policy is not None, "the first request names the policy"
            if "state" in request:
                self._policy.load(request["state"])
                return {}
            return self._decide(self._policy, Observation(**request["observation"]))
        except MeshError as error:
            return _error(error)
        except Exception as error:  # noqa: BLE001 - the policy's code may raise anything
            message = plain_text(f"{type(error).__name__}: {error}")[:_MAX_MESSAGE_CHARACTERS]
            return _error(FailedPrecondition("POLICY_FAILED", message))

    def _decide(self, policy: Policy, observation: Observation) -> dict[str, Any]:
        found: Any = policy.decide(observation)
        if found is not None and not isinstance(found, Adjustment):
            message = f"it returned {type(found).__name__}, not an Adjustment"
            return _error(FailedPrecondition("POLICY_FAILED", message))
        state = policy.state()
        if len(json.dumps(state)) > _MAX_STATE_BYTES:
            message = f"its state exceeds {_MAX_STATE_BYTES} bytes of JSON"
            return _error(FailedPrecondition("POLICY_FAILED", message))
        values = {name: python_value(value) for name, value in asdict(found).items()} if found else None
        return {"adjustment": values, "state": state}


def _curve_refused(name: str, field: str) -> InvalidArgument:
    message = (
        f"the policy {name!r} sets the values of every step, and no step can wait for another process; write it as a "
        "schedule, or as a Policy that decides once per epoch"
    )
    return InvalidArgument("BAD_VALUE", message, field=f"{field}.name")


def _error(error: MeshError) -> dict[str, Any]:
    return {
        "error": {"code": error.code, "reason": error.reason, "message": error.message, "field": error.field},
    }


def main() -> None:
    """Answers requests until standard input ends."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    host = _Host()
    for line in sys.stdin:
        answer = host.answer(json.loads(line))
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
