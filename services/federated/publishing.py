"""Publishes the models of rounds: evaluates and exports them, and registers model versions with their guarantees."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

from sqlalchemy import delete
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.database import Database
from common.errors import UNANSWERED, Aborted, MeshError
from deepseek.federated.ports import Publication, Publisher
from deepseek.federated.rounds import Round
from services.federated.evaluation import Evaluator
from services.federated.ports import Guarantee, Registry, Unit
from services.federated.run import FederatedRun
from services.federated.tables import PublicationRow


@dataclass(frozen=True)
class _Export:
    """An exported model.

    Attributes:
        manifest: Manifest of the model version.
        metrics: Metrics of the model and of its files, for the registry.
    """

    manifest: Artifact
    metrics: Mapping[str, float]


class ModelPublisher(Publisher):
    """Publishes the models of one run.

    A result that is debited is always released. A model that cannot be evaluated, exported or registered therefore gets
    no version, and a warning says why. Its arrays can be read with GetModel.

    An export is stored before it is registered. Its manifest contains measured times, so a second export after a crash
    would create another version.

    Args:
        run: The run.
        database: Migrated database.
        transaction: Opens a transaction that commits only if this process still holds the lease on the run's job.
        evaluator: Evaluates and exports models.
        registry: Registers model versions.
        warn: Called with a reason and a message if a model cannot be registered.
    """

    def __init__(
        self,
        run: FederatedRun,
        database: Database,
        transaction: Callable[[], AbstractContextManager[Session]],
        evaluator: Evaluator,
        registry: Registry,
        warn: Callable[[str, str], None],
    ) -> None:
        self._run = run
        self._database = database
        self._transaction = transaction
        self._evaluator = evaluator
        self._registry = registry
        self._warn = warn

    def publish(self, debited: Round, model: bytes, check: Callable[[], None]) -> Publication:
        """See `Publisher.publish`."""
        spec = self._run.spec
        metrics: dict[str, float] = {}
        version = ""
        try:
            metrics = self._evaluator.evaluate(model, check)
            if not debited.round % spec.register_every or debited.round == spec.num_rounds:
                version = self._registered(debited, self._exported(debited, model, metrics, check))
        except (*UNANSWERED, Aborted):
            raise  # of a service that may answer later, or of `check`
        except MeshError as error:
            message = f"the model of round {debited.round} has no version in the registry: {error.message}"
            self._warn("MODEL_NOT_REGISTERED", message)
        return Publication(version, metrics)

    def _registered(self, debited: Round, exported: _Export) -> str:
        run = self._run
        spec = run.spec.model
        return self._registry.register_model_version(
            run.spec.target_model,
            exported.manifest,
            sources=[spec.dataset_version, run.name, *([spec.init] if spec.init else [])],
            metrics=exported.metrics,
            guarantee=self._guarantee(debited),
            request_id=f"{run.run_id}-{debited.round}-{debited.attempt}-{exported.manifest.sha256}",
        )

    def _exported(
        self, debited: Round, model: bytes, metrics: Mapping[str, float], check: Callable[[], None]
    ) -> _Export:
        key = (self._run.tenant, self._run.run_id, debited.sealed_model)
        with self._database.snapshot() as session:
            row = session.get(PublicationRow, key)
        if row is not None:
            return _Export(Artifact.from_json(row.manifest), json.loads(row.metrics))
        manifest, registered = self._evaluator.export(model, self._run.name, metrics, check)
        with self._transaction() as session:
            session.add(
                PublicationRow(
                    tenant=self._run.tenant,
                    run_id=self._run.run_id,
                    sealed_model=debited.sealed_model,
                    manifest=manifest.to_json(),
                    metrics=json.dumps(registered),
                )
            )
        return _Export(manifest, registered)

    def _guarantee(self, debited: Round) -> Guarantee | None:
        plan, spent = self._run.privacy, debited.record.epsilon_spent
        if plan is None:
            return None
        assert spent is not None, "a private round is published only after its debit"
        return Guarantee(spent, plan.delta, cast(Unit, plan.unit), plan.release.sampling_rate < 1, debited.debit)


def forget(session: Session, run: FederatedRun, released: Round) -> None:
    """Deletes what was stored for the registration of a round that is now released; the registry refers to it."""
    session.execute(
        delete(PublicationRow).where(
            PublicationRow.tenant == run.tenant,
            PublicationRow.run_id == run.run_id,
            PublicationRow.sealed_model == released.sealed_model,
        )
    )
