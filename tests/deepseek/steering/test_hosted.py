"""A policy of another package, in a process of its own."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from deepseek.steering import hosted
from deepseek.steering.hosted import HostedPolicy
from deepseek.steering.making import is_foreign, open_policy
from deepseek.steering.policies import Plateau
from deepseek.steering.policy import Adjustment, Observation, checked
from tests.deepseek.steering.packages import use
from tests.harness.processes import wait_until

Open = Callable[..., HostedPolicy]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path / "packages", monkeypatch)


@pytest.fixture
def open_one(tmp_path: Path) -> Iterator[Open]:
    opened: list[HostedPolicy] = []

    def open_hosted(name: str, **params: object) -> HostedPolicy:
        policy = open_policy(name, params, tmp_path, field="spec.policy")
        assert isinstance(policy, HostedPolicy)
        opened.append(policy)
        return policy

    yield open_hosted
    for policy in opened:
        policy.close()


def observed(epoch: int, rate: float = 1.0, **validation: float) -> Observation:
    return Observation(epoch, 20, epoch * 10, 200, rate, 0.9, 0.5, validation)


def test_only_policies_of_other_packages_have_a_process_of_their_own(tmp_path: Path) -> None:
    assert isinstance(open_policy("plateau", {}, tmp_path), Plateau)
    assert is_foreign("lr_scheduler")
    assert not is_foreign("plateau")


def test_a_function_decides_in_its_process(open_one: Open) -> None:
    policy = open_one("lr_scheduler")
    assert policy.decide(observed(4)) == Adjustment(1.2)
    assert policy.decide(observed(5, loss=0.9)) == Adjustment(0.7)
    assert policy.decide(observed(6, loss=0.5)) == Adjustment(0.95)


def test_what_a_policy_prints_is_not_taken_for_its_answer(open_one: Open, tmp_path: Path) -> None:
    assert open_one("talking").decide(observed(1)) == Adjustment(0.5)
    assert "halving" in (tmp_path / "policy.log").read_text()


def test_numbers_of_numpy_are_numbers(open_one: Open) -> None:
    policy = open_one("in_numpy")
    assert checked(policy.decide(observed(1)), policy, 1.0) == Adjustment(0.5)


def test_a_policy_has_parameters_and_a_memory(open_one: Open) -> None:
    policy = open_one("counting", every=3)
    assert [policy.decide(observed(epoch)) for epoch in range(3)] == [None, None, Adjustment(0.5)]
    policy.decide(observed(3))
    assert policy.state() == {"num": 4}
    resumed = open_one("counting", every=3)
    resumed.load(policy.state())
    assert [resumed.decide(observed(epoch)) for epoch in (4, 5)] == [None, Adjustment(0.5)]


def test_a_memory_of_another_policy_is_refused_once(open_one: Open) -> None:
    policy = open_one("counting")
    policy.load({"other": 1})
    with pytest.raises(FailedPrecondition, match="KeyError: 'num'"):
        policy.decide(observed(0))
    assert policy.decide(observed(1)) is None


@pytest.mark.parametrize(
    ("params", "field"), [({"every": 0}, "spec.policy.params"), ({"often": 2}, "spec.policy.params.often")]
)
def test_bad_parameters_are_reported_by_a_check(open_one: Open, params: dict[str, int], field: str) -> None:
    policy = open_one("counting", **params)
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            policy.check()
        assert caught.value.field == field


def test_a_policy_that_raises_may_decide_again_later(open_one: Open) -> None:
    policy = open_one("raising")
    assert policy.decide(observed(0)) == Adjustment(0.5)
    with pytest.raises(FailedPrecondition, match="ValueError: no more ideas"):
        policy.decide(observed(1))
    assert not policy.is_lost
    assert policy.decide(observed(2)) == Adjustment(0.5)


@pytest.mark.parametrize("name", ["nan", "infinite", "negative", "zero", "text", "huge"])
def test_a_rate_that_is_none_reaches_the_check(open_one: Open, name: str) -> None:
    policy = open_one(name)
    with pytest.raises(InvalidArgument, match="learning_rate"):
        checked(policy.decide(observed(1)), policy, 1.0)


def test_a_policy_that_hangs_is_killed(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "DECIDE_S", 0.5)
    policy = open_one("hanging")
    policy.check()
    pid = policy._process.pid
    for _ in range(2):
        with pytest.raises(match=r"did not answer within 0\.5 s"):
            policy.decide(observed(1))
    assert policy.is_lost
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_policy_that_is_slow_each_time_may_take_only_so_long_in_all(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "WAIT_S", 0.5)
    monkeypatch.setattr(hosted, "MAX_WAIT_SHARE", 0.0)
    policy = open_one("dawdling")
    with pytest.raises(FailedPrecondition, match=r"has made the run wait for more than \S+ s in all") as caught:
        _ = [policy.decide(observed(epoch)) for epoch in range(3)]  # each takes 0.2 s, less than DECIDE_S
    assert caught.value.reason == "POLICY_TOO_SLOW"
    assert policy.is_lost


def test_a_policy_of_another_package_that_sets_every_step_is_refused(open_one: Open) -> None:
    policy = open_one("falling")
    with pytest.raises(InvalidArgument, match="write it as a schedule") as caught:
        policy.check()
    assert caught.value.field == "spec.policy.name"


def test_a_process_that_cannot_be_started_is_an_error_of_the_mesh(open_one: Open) -> None:
    is_foreign("counting")  # reads the entry points, while files can be opened
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
    try:
        with pytest.raises(Unavailable) as caught:
            open_one("counting")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    assert (caught.value.reason, caught.value.field) == ("POLICY_NOT_STARTED", "spec.policy.name")


def test_a_policy_that_ends_its_process_is_lost(open_one: Open) -> None:
    policy = open_one("leaving")
    with pytest.raises(FailedPrecondition, match="the process of the policy 'leaving' ended"):
        policy.decide(observed(1))
    assert policy.is_lost


def test_whether_a_policy_is_ready_is_known_without_waiting(open_one: Open) -> None:
    policy = open_one("counting")
    wait_until(lambda: policy.is_ready, "the policy to be built")
    policy.check()
