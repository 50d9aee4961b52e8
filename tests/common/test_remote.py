"""Errors of a callee, and calls that are repeated until answered."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import remote
from common.database import Database
from common.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    Unavailable,
)
from common.jobs import JobStore, Lease, LeaseLost
from common.remote import relabelled, until_answered


def test_an_argument_that_the_callee_does_not_know_becomes_our_field_and_reason() -> None:
    with pytest.raises(NotFound) as caught, relabelled("spec.dataset", not_found="DATASET_VERSION_NOT_FOUND"):
        raise NotFound("VERSION_NOT_FOUND", "no such version", field="name")
    assert (caught.value.reason, caught.value.field) == ("DATASET_VERSION_NOT_FOUND", "spec.dataset")
    assert caught.value.message == "no such version"
    assert [violation.field for violation in caught.value.violations] == ["spec.dataset"]


def test_an_argument_that_the_callee_refuses_keeps_its_reason() -> None:
    with pytest.raises(InvalidArgument) as caught, relabelled("model", not_found="MODEL_VERSION_NOT_FOUND"):
        raise InvalidArgument("BAD_NAME", "not a name", field="name")
    assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "model")


@pytest.mark.parametrize(("reason", "field"), [("MODEL_NOT_FOUND", "model_name"), ("ALIAS_NOT_FOUND", "version")])
def test_a_field_may_depend_on_the_reason_of_the_callee(reason: str, field: str) -> None:
    with pytest.raises(NotFound) as caught, relabelled("version", field_of_reason={"MODEL_NOT_FOUND": "model_name"}):
        raise NotFound(reason, "no such thing", field="name")
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize("error", [Unavailable("AWAY", "away"), FailedPrecondition("STATE", "no", field="name")])
def test_errors_that_are_not_about_arguments_pass_through(error: MeshError) -> None:
    with pytest.raises(MeshError) as caught, relabelled("field", not_found="OTHER"):
        raise error
    assert caught.value is error


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    database.migrate()
    jobs = JobStore(database)
    with database.transaction() as session:
        jobs.submit(session, tenant="t", kind="test", spec="{}")
    yield jobs
    database.close()


@pytest.fixture
def lease(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> Lease:
    monkeypatch.setattr(remote, "RETRY_INTERVAL_S", 0.01)
    lease = jobs.claim("worker", ["test"], 60)
    assert lease is not None
    return lease


def failing(*errors: MeshError, then: Callable[[], object] = lambda: None) -> Callable[[], str]:
    """A call that fails so, one error per call, and then answers; `then` happens with the last error."""
    left = list(errors)

    def call() -> str:
        if not left:
            return "answer"
        error = left.pop(0)
        if not left:
            then()
        raise error

    return call


def test_a_call_is_repeated_until_it_is_answered_and_the_job_says_what_it_waits_for(
    jobs: JobStore, lease: Lease
) -> None:
    call = failing(Unavailable("A", "away"), DeadlineExceeded("B", "too slow"), Cancelled("C", "it stops"))
    assert until_answered(lease, call, callee="registry", cancellable=True) == "answer"
    assert jobs.get("t", lease.job.name).message == "waiting for the registry: it stops"


def test_a_refusal_is_an_answer(lease: Lease) -> None:
    with pytest.raises(NotFound):
        until_answered(lease, failing(NotFound("X_NOT_FOUND", "no x")), callee="registry", cancellable=True)


def test_nothing_is_asked_again_once_this_process_stops(lease: Lease) -> None:
    call = failing(Unavailable("A", "away"), then=lease.stopping.set)
    assert until_answered(lease, call, callee="registry", cancellable=False) is None


@pytest.mark.parametrize(("cancellable", "answer"), [(True, None), (False, "answer")])
def test_only_a_cancellable_job_stops_waiting_when_it_is_cancelled(
    lease: Lease, cancellable: bool, answer: str | None
) -> None:
    call = failing(Unavailable("A", "away"), then=lease.cancelled.set)
    assert until_answered(lease, call, callee="registry", cancellable=cancellable) == answer


def test_nothing_is_asked_without_the_lease(lease: Lease) -> None:
    lease.lost.set()
    with pytest.raises(LeaseLost):
        until_answered(lease, lambda: pytest.fail("it was asked"), callee="registry", cancellable=True)
