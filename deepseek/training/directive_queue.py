"""The directives that have arrived at rank 0 and are not due yet, and the policies that they will set.

A directive that sets a policy may have to wait until the policy is built, in a process of its own. The directives
behind it then wait, too, because each must act on what the one before has left.
"""

import heapq
from collections.abc import Callable
from contextlib import suppress

from common.errors import MeshError
from deepseek.steering.directive import Directive
from deepseek.steering.policy import Policy

MAX_STARTED = 2
"""Number of policies that are built ahead of their step. Each may need a process."""


class DirectiveQueue:
    """Directives in the order in which they are applied: by step, then by arrival. Not thread-safe.

    A call costs constant time if no directive is due, however many wait.

    Args:
        open_policy: Function that makes the policy of a directive, without waiting until it is built.
    """

    def __init__(self, open_policy: Callable[[Directive], Policy]) -> None:
        self._open_policy = open_policy
        self._num_added = 0
        self._waiting: list[tuple[int, int, Directive]] = []  # a heap
        self._unopened: list[tuple[int, int, Directive]] = []  # a heap of those that set a policy
        self._policies: dict[str, Policy | MeshError] = {}  # by id of the directive

    def add(self, directive: Directive, next_step: int) -> None:
        """Adds a directive.

        Args:
            directive: The directive.
            next_step: Number of the next step, in which it is applied if its own step is past.
        """
        due = max(directive.applied_step or directive.apply_at_step, next_step)
        entry = (due, self._num_added, directive)
        self._num_added += 1
        heapq.heappush(self._waiting, entry)
        if directive.action == "set_policy":
            heapq.heappush(self._unopened, entry)
            self._open_ahead()

    def has_due(self, step: int) -> bool:
        """Returns whether a directive can be applied in a step, or before it."""
        return bool(self._waiting) and self._waiting[0][0] <= step and self._is_ready(self._waiting[0][2])

    def take(self, step: int) -> list[Directive]:
        """Removes and returns the directives that can be applied in a step, or before it."""
        found = []
        while self.has_due(step):
            found.append(heapq.heappop(self._waiting)[2])
        return found

    def wait(self) -> None:
        """Waits until the policies that have been opened are built."""
        for policy in self._policies.values():
            if isinstance(policy, Policy):
                with suppress(MeshError):  # reported when it is applied
                    policy.check()

    def policy(self, directive: Directive) -> Policy:
        """Returns the policy of a directive that was taken, which then belongs to the caller.

        Raises:
            MeshError: The policy cannot be used.
        """
        policy = self._policies[directive.id]
        if isinstance(policy, MeshError):
            raise policy
        policy.check()
        del self._policies[directive.id]
        self._open_ahead()
        return policy

    def drop(self, directive: Directive) -> None:
        """Frees the policy of a directive that was taken and is not applied."""
        policy = self._policies.pop(directive.id, None)
        if isinstance(policy, Policy):
            policy.close()
        self._open_ahead()

    def close(self) -> None:
        """Frees all policies. Idempotent."""
        for policy in self._policies.values():
            if isinstance(policy, Policy):
                policy.close()
        self._policies, self._unopened = {}, []

    def _is_ready(self, directive: Directive) -> bool:
        """Whether a directive that is due can be applied now.

        One that was applied before, in an attempt that has crashed, must be applied in the same step, so that it does
        not wait; its step waits instead.
        """
        if directive.action != "set_policy":
            return True
        if directive.id not in self._policies:
            self._open()
        policy = self._policies[directive.id]
        return bool(directive.applied_step) or not isinstance(policy, Policy) or policy.is_ready

    def _open_ahead(self) -> None:
        while self._unopened and len(self._policies) < MAX_STARTED:
            self._open()

    def _open(self) -> None:
        """Opens the policy that is needed next."""
        directive = heapq.heappop(self._unopened)[2]
        try:
            self._policies[directive.id] = self._open_policy(directive)
        except MeshError as error:
            self._policies[directive.id] = error
