"""A result that is debited is released, whatever the evaluator and the registry say."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import services.federated
from common.artifacts import Artifact
from common.database import Database
from common.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    Unavailable,
)
from common.jobs import JobStore
from deepseek.federated.ports import Publication
from deepseek.federated.rounds import Round, RoundState
from deepseek.federated.run_spec import FederatedRunSpec
from services.federated.ports import DatasetVersion, ModelVersion, Registry
from services.federated.publishing import ModelPublisher
from services.federated.run_job import JOB_KIND, job_spec
from services.federated.runs import RunStore
from tests.services.federated.evaluators import failing
from tests.services.federated.examples import run_spec

VERSION = "models/common/versions/1"


class RefusingRegistry(Registry):
    """Registers versions, unless it has an error to raise."""

    def __init__(self, error: MeshError | None = None) -> None:
        self.error = error

    def find_dataset_version(self, tenant: str, name: str, *, field: str) -> DatasetVersion:
        raise NotImplementedError

    def find_model_version(self, tenant: str, name: str, *, field: str) -> ModelVersion:
        raise NotImplementedError

    def register_model_version(self, model: str, manifest: Artifact, **details: Any) -> str:
        if self.error:
            raise self.error
        return VERSION


class Publishing:
    """A publisher of a run without privacy, and the warnings that it gives."""

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self.warnings: list[tuple[str, str]] = []
        self._folder = folder
        self._owned = owned
        self._database = Database(f"sqlite:///{folder / 'federated.db'}")
        owned.callback(self._database.close)
        self._database.migrate(Path(services.federated.__path__[0]) / "migrations")
        jobs = JobStore(self._database)
        runs = RunStore(self._database, jobs)
        spec = FederatedRunSpec.from_json(run_spec("datasets/d/versions/1")).with_defaults()
        with self._database.transaction() as session:
            job = jobs.submit(session, tenant="default", kind=JOB_KIND, spec=job_spec("r"), result="r")
            name = runs.create(
                session, job, "r", "f", spec, ["aa"], "d" * 64, init_manifest=None, privacy=None, warnings=[]
            )
        self._run = runs.get("default", name)

    def publish(self, registry: Registry, **job: object) -> Publication:
        """Publishes the model of the first round, with an evaluator that fails as `job` says."""
        evaluator = self._owned.enter_context(failing(self._folder / "evaluator", job))
        publisher = ModelPublisher(
            self._run,
            self._database,
            self._database.transaction,
            evaluator,
            registry,
            lambda reason, message: self.warnings.append((reason, message)),
        )
        debited = Round(self._run.name, 1, 1, RoundState.DEBITED, 0.0, ("aa",), "a" * 64)
        return publisher.publish(debited, b"model", lambda: None)


@pytest.fixture
def publishing(tmp_path: Path) -> Iterator[Publishing]:
    with ExitStack() as owned:
        yield Publishing(tmp_path, owned)


def test_a_model_is_evaluated_exported_and_registered(publishing: Publishing) -> None:
    assert publishing.publish(RefusingRegistry()) == Publication(VERSION, {"loss": 0.5})
    assert not publishing.warnings


@pytest.mark.parametrize(
    ("job", "metrics", "why"),
    [
        ({"refuse": "evaluate"}, {}, "no good"),
        ({"refuse": "export"}, {"loss": 0.5}, "no good"),
        ({"crash": "evaluate"}, {}, "crashed 3 times"),
        ({"crash": "export"}, {"loss": 0.5}, "crashed 3 times"),
    ],
)
def test_a_model_that_cannot_be_evaluated_or_exported_has_no_version(
    publishing: Publishing, job: dict[str, object], metrics: dict[str, float], why: str
) -> None:
    assert publishing.publish(RefusingRegistry(), **job) == Publication("", metrics)
    ((reason, message),) = publishing.warnings
    assert reason == "MODEL_NOT_REGISTERED"
    assert why in message


@pytest.mark.parametrize("error", [InvalidArgument, NotFound, FailedPrecondition])
def test_a_model_that_the_registry_refuses_has_no_version(publishing: Publishing, error: type[MeshError]) -> None:
    refusing = RefusingRegistry(error("NOT_NOW", "the registry says no"))
    assert publishing.publish(refusing) == Publication("", {"loss": 0.5})
    ((reason, message),) = publishing.warnings
    assert (reason, "says no" in message) == ("MODEL_NOT_REGISTERED", True)


@pytest.mark.parametrize("error", [Unavailable, DeadlineExceeded, Aborted])
def test_a_registry_that_does_not_answer_is_asked_again(publishing: Publishing, error: type[MeshError]) -> None:
    with pytest.raises(error):
        publishing.publish(RefusingRegistry(error("NOT_NOW", "try again")))
    assert publishing.publish(RefusingRegistry()) == Publication(VERSION, {"loss": 0.5})
    assert not publishing.warnings
