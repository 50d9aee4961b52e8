"""Runs a policy in a separate process, so that its code cannot end or change the training.

The process (`deepseek.steering.host`) reads one JSON object per line and answers each with one. A policy that does not
answer in time is killed and not used again.
"""

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import ERROR_CLASSES, FailedPrecondition, InvalidArgument, MeshError, Unavailable
from common.processes import PARENT_PID, python, safe_environment
from deepseek.steering.policy import Adjustment, Observation, Policy

LOAD_S = 30.0
"""Seconds that a policy may take to be imported and built. The run waits for it before its first decision only."""
DECIDE_S = 5.0
"""Seconds that a policy may take for a decision."""
WAIT_S = 30.0
"""Seconds that all decisions of a policy may take, in addition to a share of the time since it was started."""
MAX_WAIT_SHARE = 0.01
"""Maximum share of the time since the policy was started that the run waits for its decisions."""
_MAX_LINE_BYTES = 1 << 20


class HostedPolicy(Policy):
    """A policy in a child process, which the constructor starts without waiting for it.

    Args:
        name: Name of the policy.
        params: Parameters of the policy.
        directory: Directory for the output of the process.
        field: Field that errors about name and parameters name.

    Raises:
        Unavailable: POLICY_NOT_STARTED if the system cannot start a process now.

    Attributes:
        is_lost: Whether the process has crashed or was too slow, so that the policy cannot be used any more.
    """

    def __init__(self, name: str, params: Mapping[str, Any], directory: Path, *, field: str = "policy") -> None:
        self.is_lost = False
        self._name = name
        self._state: dict[str, Any] = {}
        self._answers = b""
        self._num_open = 0  # requests whose answers have not been read
        self._is_built = False
        self._problem: MeshError | None = None
        try:
            self._process = _start(directory)
        except OSError as error:
            message = f"the process of the policy {name!r} cannot be started now: {error}"
            raise Unavailable("POLICY_NOT_STARTED", message, field=f"{field}.name") from error
        self._started_at = time.monotonic()
        self._deadline = self._started_at + LOAD_S
        self._waited_s = 0.0  # for decisions
        self._send({"name": name, "params": dict(params), "field": field})

    @property
    def is_ready(self) -> bool:
        """Whether `check` would return or raise at once. Never waits."""
        return not self._num_open or self._has_line(0.0) or time.monotonic() >= self._deadline

    def check(self) -> None:
        """Waits until the policy is built.

        Raises:
            MeshError: It could not be built, e.g. because of its parameters, or the process crashed or was too slow.
        """
        while self._num_open:
            answer = self._receive(self._deadline, f"did not answer within {LOAD_S:g} s")
            self._is_built = self._is_built or "floor" in answer
            self.floor, self.ceiling = answer.get("floor", self.floor), answer.get("ceiling", self.ceiling)
        self._raise()

    def decide(self, observation: Observation) -> Adjustment | None:
        self.check()
        asked_at = time.monotonic()
        left_s = WAIT_S + MAX_WAIT_SHARE * (asked_at - self._started_at) - self._waited_s
        problem = f"did not answer within {DECIDE_S:g} s"
        if left_s < DECIDE_S:
            problem = f"has made the run wait for more than {self._waited_s + left_s:.0f} s in all"
        self._send({"observation": asdict(observation)})
        answer = self._receive(asked_at + min(DECIDE_S, left_s), problem)
        self._waited_s += time.monotonic() - asked_at
        self._raise()
        self._state = answer["state"]
        return None if answer["adjustment"] is None else Adjustment(**answer["adjustment"])

    def state(self) -> dict[str, Any]:
        return self._state

    def load(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)
        self._send({"state": self._state})

    def close(self) -> None:
        """Kills the process. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _raise(self) -> None:
        """Raises the last problem: once if it is that of one decision, again and again if it is final."""
        if problem := self._problem:
            self._problem = problem if self.is_lost or not self._is_built else None
            raise problem

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        if self.is_lost:
            return
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            self._num_open += 1
        except OSError:
            self._lose(self._crash())

    def _receive(self, deadline: float, problem: str) -> dict[str, Any]:
        """Reads the answer to the oldest request. An error becomes `_problem`.

        Args:
            deadline: Time by the monotonic clock at which the policy is too slow.
            problem: What to say about it then.
        """
        while not self.is_lost:
            line, newline, rest = self._answers.partition(b"\n")
            if newline:
                self._answers = rest
                self._num_open -= 1
                answer: dict[str, Any] = json.loads(line)
                if error := answer.get("error"):
                    kind = ERROR_CLASSES.get(error["code"], InvalidArgument)
                    self._problem = kind(error["reason"], error["message"], field=error["field"])
                return answer
            if not self._has_line(max(0.0, deadline - time.monotonic())):
                message = f"the policy {self._name!r} {problem} and is not used any more"
                self._lose(FailedPrecondition("POLICY_TOO_SLOW", message))
        return {}

    def _has_line(self, timeout_s: float) -> bool:
        """Reads what the process has written; returns whether a whole line is there, or the process has ended."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._answers and not self.is_lost:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return False
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            self._answers += data
            if not data or len(self._answers) > _MAX_LINE_BYTES:
                self._lose(self._crash())
        return True

    def _crash(self) -> MeshError:
        return FailedPrecondition(
            "POLICY_CRASHED", f"the process of the policy {self._name!r} ended; it is not used any more"
        )

    def _lose(self, error: MeshError) -> None:
        self.is_lost, self._num_open, self._problem = True, 0, error
        self.close()


def _start(directory: Path) -> "subprocess.Popen[bytes]":
    with (directory / "policy.log").open("ab") as log:
        return subprocess.Popen(
            python("deepseek.steering.host"),
            env=safe_environment({**os.environ, PARENT_PID: str(os.getpid())}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
