"""A user's function as a policy."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.steering.functions import FunctionPolicy, is_function
from deepseek.steering.making import make_policy
from deepseek.steering.policy import Adjustment, Observation
from tests.deepseek.steering import user_functions
from tests.deepseek.steering.packages import use


def observed(epoch: int, rate: float = 1.0, train_loss: float | None = None, **validation: float) -> Observation:
    return Observation(epoch, 20, epoch * 10, 200, rate, 0.9, train_loss, validation)


def test_the_function_of_the_documentation_runs_as_it_stands() -> None:
    policy = FunctionPolicy(user_functions.lr_scheduler)
    assert [policy.decide(observed(epoch)) for epoch in range(5)] == [Adjustment(1.2)] * 5
    assert policy.decide(observed(5, loss=0.9)) == Adjustment(0.7)
    assert policy.decide(observed(6, loss=0.8)) == Adjustment(0.95)
    assert not hasattr(user_functions, "validation_loss"), "its module is left alone"


def test_the_documentation_shows_this_function() -> None:
    page = (Path(__file__).parents[3] / "docs" / "steering.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    policy = FunctionPolicy(namespace["lr_scheduler"])
    losses = [None, *[0.9] * 6, 0.8, 0.1]
    seen = [observed(epoch, **({} if loss is None else {"loss": loss})) for epoch, loss in enumerate(losses)]
    own = FunctionPolicy(user_functions.lr_scheduler)
    assert [policy.decide(one) for one in seen] == [own.decide(one) for one in seen]


def test_a_function_sees_every_figure_and_may_keep_the_rate() -> None:
    policy = FunctionPolicy(user_functions.by_accuracy)
    assert policy.decide(observed(1, accuracy=0.4)) is None
    assert policy.decide(observed(2, accuracy=0.6)) == Adjustment(0.5)
    assert FunctionPolicy(user_functions.by_training).decide(observed(2, train_loss=0.5)) == Adjustment(0.5)


def test_a_figure_that_is_not_there_is_nan() -> None:
    policy = FunctionPolicy(user_functions.lr_scheduler)
    assert policy.decide(observed(7)) == Adjustment(0.95), "NaN is not above 0.8"
    assert math.isnan(policy._globals["validation_loss"])


def test_only_a_function_of_two_arguments_is_one() -> None:
    assert is_function(lambda epoch, lr: lr)
    assert not is_function(lambda epoch: 1.0)
    assert not is_function(lambda epoch, lr, factor=2: lr)
    assert not is_function(user_functions.Counting)


def test_an_installed_function_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, monkeypatch)
    assert make_policy("lr_scheduler", {}).decide(observed(0)) == Adjustment(1.2)
    with pytest.raises(InvalidArgument, match="has no parameter 'factor'") as caught:
        make_policy("lr_scheduler", {"factor": 2}, field="spec.policy")
    assert caught.value.field == "spec.policy.params.factor"


def test_what_is_no_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, monkeypatch)
    with pytest.raises(InvalidArgument, match=r"must be a subclass of deepseek\.steering\.Policy, or a function"):
        make_policy("slow", {})
