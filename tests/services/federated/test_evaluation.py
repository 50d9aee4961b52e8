"""The evaluator of a run dies or hangs, and is given up after a few attempts."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from common.errors import Cancelled, FailedPrecondition, Internal
from services.federated.evaluation import Evaluator
from tests.services.federated.evaluators import failing


class Made(Protocol):
    """Starts an evaluator that fails as a job says."""

    def __call__(self, timeout_s: float = 60.0, **job: object) -> Evaluator: ...


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Made]:
    with ExitStack() as owned:

        def made(timeout_s: float = 60.0, **job: object) -> Evaluator:
            return owned.enter_context(failing(tmp_path / "evaluator", job, timeout_s))

        yield made


def proceed() -> None:
    """Does not end the wait."""


def test_an_evaluator_that_died_is_started_again(make: Made, tmp_path: Path) -> None:
    assert make(crash="evaluate", times=2).evaluate(b"", proceed) == {"loss": 0.5}
    assert (tmp_path / "evaluator" / "evaluate").read_text() == "..."


def test_an_evaluator_that_always_dies_is_given_up(make: Made, tmp_path: Path) -> None:
    evaluator = make(crash="export")
    with pytest.raises(Internal, match="crashed 3 times") as caught:
        evaluator.export(b"", "runs/r", evaluator.evaluate(b"", proceed), proceed)
    assert caught.value.reason == "EVALUATOR_CRASHED"
    assert (tmp_path / "evaluator" / "export").read_text() == "..."


def test_an_evaluator_that_hangs_is_started_again(make: Made) -> None:
    assert make(hang="evaluate", times=1, timeout_s=5.0).evaluate(b"", proceed) == {"loss": 0.5}


def test_a_wait_for_an_evaluator_ends_when_the_run_is_stopped(make: Made, tmp_path: Path) -> None:
    def check() -> None:
        if (tmp_path / "evaluator" / "evaluate").exists():
            raise Cancelled("RUN_STOPPED", "the run was stopped")

    with pytest.raises(Cancelled):
        make(hang="evaluate").evaluate(b"", check)


def test_an_error_of_the_evaluator_is_its_answer(make: Made, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="no good"):
        make(refuse="evaluate").evaluate(b"", proceed)
    assert (tmp_path / "evaluator" / "evaluate").read_text() == "."
