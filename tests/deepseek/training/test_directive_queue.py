"""The order of directives behind one that sets a policy, which may have to be built first."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepseek.steering.directive import Directive
from deepseek.steering.policies import Plateau
from deepseek.steering.policy import Policy
from deepseek.training.directive_queue import MAX_STARTED
from tests.deepseek.training.directed import done, policy, rate


class Slow(Plateau):
    """A policy that is built only after it has been asked often enough whether it is."""

    def __init__(self, num_asked: int) -> None:
        super().__init__()
        self._num_left = num_asked

    @property
    def is_ready(self) -> bool:
        self._num_left -= 1
        return self._num_left < 0


def test_no_directive_overtakes_a_policy_that_is_not_built_yet() -> None:
    given = {2: [policy("slow"), rate(0.001), Directive("n", "no_op")], 3: [rate(0.002, "e", apply_at_step=15)]}
    run = done(given, open_policy=lambda name, params: Slow(5))
    steps = [(ack.directive_id, ack.applied_step) for ack in run.acks.values()]
    assert [name for name, _ in steps] == ["p", "d", "n", "e"]
    assert steps[0][1] == steps[1][1] == steps[2][1]
    assert 3 < steps[0][1] < steps[3][1] == 15
    assert not run.trainer.steering.has_policy, "the rate was set last"


def test_only_a_few_policies_are_built_ahead_of_their_steps() -> None:
    opened: list[str] = []

    def open_one(name: str, params: Mapping[str, Any]) -> Policy:
        opened.append(name)
        return Plateau()

    given = {2: [policy(f"p{step}", f"d{step}") for step in range(100)]}
    later = {2: [replace(one, apply_at_step=10 + i) for i, one in enumerate(given[2])]}
    run = done(later, open_policy=open_one)
    assert list(run.acks) == [f"d{i}" for i in range(7)], "the last step is 16"
    assert opened == [f"p{i}" for i in range(7 + MAX_STARTED)]
    opened.clear()
    assert len(done(given, open_policy=open_one).acks) == len(opened) == 100


def test_a_policy_of_a_repeated_directive_is_waited_for() -> None:
    given = {2: [replace(policy("slow"), applied_step=4), rate(0.001)]}
    run = done(given, open_policy=lambda name, params: Slow(10**6))
    assert run.acks["d"].applied_step == 3
    assert run.trainer.steering.has_policy
