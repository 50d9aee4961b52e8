"""A tuner and workers that are killed at random moments: nothing that was acknowledged is lost or given twice."""

from pathlib import Path

import pytest

from tests.services.tuner.kills import Acknowledged, _given_twice, _lost, run_kills


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_no_suggestion_is_given_twice(tmp_path: Path) -> None:
    found = run_kills(tmp_path, num_kills=50, seed=15)
    assert (found["lost"], found["given_twice"]) == (0, 0)
    assert min(found["tuner_kills"], found["worker_kills"]) >= 15
    assert found["trials_given"] >= found["ended"] > 10
    assert found["measurements"] > found["ended"]


def test_what_is_lost_or_given_twice_is_found() -> None:
    told = {
        "a": Acknowledged(given={"t/1": {"x": 1.0}}, measured={("t/1", 1): 0.5}, ended={"t/1": 0.5}),
        "b": Acknowledged(given={"t/1": {"x": 1.0}, "t/2": {"x": 2.0}}, again=["t/2"]),
    }
    assert sorted(_lost(told, {})) == ["t/1", "t/1", "t/1, step 1", "t/1: its end", "t/2"]
    assert sorted(_given_twice(told, {})) == ["t/1", "t/2"]
