"""Policies in a worker process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from common.artifacts import open_store
from common.errors import InvalidArgument
from deepseek.components import POLICIES
from deepseek.steering import hosted
from deepseek.training import checkpoint
from deepseek.trainjob.train import train
from tests.deepseek.steering.packages import use
from tests.deepseek.trainjob.jobs import events, write_job
from tests.deepseek.trainjob.private_jobs import private

LR = 0.01


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the only rank, and the users' policies are installed."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    use(tmp_path / "packages", monkeypatch)


def job(folder: Path, policy: str, *, name: str = "job", epochs: int = 3, options: Any = None, **params: Any) -> Path:
    spec = {"policy": {"name": policy, "params": params}, "epochs": epochs, "precision": "fp32", "seed": 1}
    return write_job(folder, name=name, spec={**spec, "checkpoint_interval_s": 1000}, **options or {})


def rates(reported: list[dict[str, Any]]) -> list[float]:
    """The learning rate at the end of each epoch, which has five steps."""
    return [event["learning_rate"] for event in reported if event["kind"] == "step" and event["step"] % 5 == 0]


def warnings_of(reported: list[dict[str, Any]]) -> list[str]:
    return [event["message"] for event in reported if event["kind"] == "warning"]


def weights(folder: Path, reported: list[dict[str, Any]]) -> dict[str, Any]:
    (*_, last) = [json.loads(event["artifact"]) for event in reported if event["kind"] == "checkpoint"]
    data = open_store(f"file://{folder / 'store'}").read("default", last["sha256"])
    return checkpoint.loads(data)


def test_the_users_function_steers_a_run(tmp_path: Path) -> None:
    path = job(tmp_path, "lr_scheduler", epochs=7)
    train(path)
    reported = events(path)
    factors = [after / before for before, after in zip([LR, *rates(reported)], rates(reported), strict=False)]
    assert factors[:5] == pytest.approx([1.2] * 5)
    losses = [event["metrics"]["loss"] for event in reported if event["kind"] == "evaluation"]
    assert factors[5:] == pytest.approx([0.7 if loss > 0.8 else 0.95 for loss in losses[4:6]])
    adjustments = [event for event in reported if event["kind"] == "adjustment"]
    assert [event["step"] for event in adjustments] == [1, 6, 11, 16, 21, 26, 31]
    assert adjustments[0]["policy"] == "lr_scheduler"
    assert reported[-1]["kind"] == "finished"


@pytest.mark.parametrize("policy", ["raising", "nan", "infinite", "negative", "text", "huge", "leaving"])
def test_no_policy_ends_a_run(tmp_path: Path, policy: str) -> None:
    path = job(tmp_path, policy)
    train(path)
    reported = events(path)
    assert len(warnings_of(reported)) == 1
    assert f"the policy {policy!r} failed" in warnings_of(reported)[0]
    assert reported[-1]["kind"] == "finished"


def test_a_policy_that_hangs_is_dropped_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "DECIDE_S", 0.5)
    path = job(tmp_path, "hanging")
    train(path)
    reported = events(path)
    (warning,) = warnings_of(reported)
    assert "did not answer within 0.5 s" in warning
    assert rates(reported) == [LR] * 3
    assert weights(tmp_path, reported)["steering"]["component"] is None


def test_a_policy_with_bad_parameters_is_refused_before_the_first_step(tmp_path: Path) -> None:
    for policy, params, field in (
        ("plateau", {"patience": 0}, "spec.policy.params.patience"),
        ("counting", {"often": 1}, "spec.policy.params.often"),
        ("slow", {}, "spec.policy.name"),
    ):
        path = job(tmp_path, policy, name=policy, **params)
        with pytest.raises(InvalidArgument) as caught:
            train(path)
        assert caught.value.field == field
        assert {event["kind"] for event in events(path)} == {"failed"}


def test_a_resumed_run_goes_on_with_the_memory_of_its_policy(tmp_path: Path) -> None:
    whole = job(tmp_path, "counting", name="whole", epochs=6)
    train(whole)
    part = job(tmp_path, "counting", name="part", epochs=6)
    (part.parent / "stop").touch()  # after its first step
    train(part)
    (saved,) = [json.loads(event["artifact"]) for event in events(part) if event["kind"] == "checkpoint"]
    rest = job(tmp_path, "counting", name="rest", epochs=6, options={"checkpoint_sha256": saved["sha256"]})
    train(rest)
    assert rates(events(rest)) == rates(events(whole)) == pytest.approx([LR, LR / 2, LR / 2, LR / 4, LR / 4, LR / 8])
    checkpoints = [
        [event["artifact"] for event in events(path) if event["kind"] == "checkpoint"][-1] for path in (whole, rest)
    ]
    assert checkpoints[0] == checkpoints[1]


def test_a_run_resumes_without_its_policy_if_the_package_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = job(tmp_path, "lr_scheduler", name="part")
    (part.parent / "stop").touch()  # after its first step
    train(part)
    (saved,) = [json.loads(event["artifact"]) for event in events(part) if event["kind"] == "checkpoint"]
    shutil.rmtree(tmp_path / "packages" / "my_policies-1.0.dist-info")
    monkeypatch.setattr(POLICIES, "_entry_points", None)
    rest = job(tmp_path, "lr_scheduler", name="rest", options={"checkpoint_sha256": saved["sha256"]})
    train(rest)
    (warning,) = warnings_of(events(rest))
    assert "the policy 'lr_scheduler' can no longer be used, so the values stay: unknown policy" in warning
    assert rates(events(rest)) == pytest.approx([1.2 * LR] * 3)
    assert events(rest)[-1]["kind"] == "finished"


def test_the_policy_of_a_private_run_sees_the_evaluation_only(tmp_path: Path) -> None:
    path = private(tmp_path, policy={"name": "by_training"}, epochs=3)
    train(path)
    assert [event for event in events(path) if event["kind"] == "adjustment"] == [], "NaN is not below 1"
    path = private(tmp_path, name="seeing", policy={"name": "counting"}, epochs=3)
    train(path)
    assert len([event for event in events(path) if event["kind"] == "adjustment"]) == 1
    assert weights(tmp_path, events(path))["steering"]["sums"] is None
