"""Handles requests about runs: starts, watches and stops them, and returns their models.

Requests are fully checked before a run is created. Runs are executed in `run_job`.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.artifacts import Artifact, ArtifactStore
from common.database import Database, PageRequest, Repeatable, earlier, once
from common.errors import Aborted, FailedPrecondition, InvalidArgument
from common.jobs import JobRunner, JobStore
from common.jobs.history import RunEvent
from common.names import new_id
from deepseek.data.manifest import DatasetManifest
from deepseek.federated.arrays import MEDIA_TYPE
from deepseek.federated.run_spec import FederatedRunSpec
from deepseek.models.manifest import ModelManifest
from deepseek.privacy.ancestry import init_not_private
from deepseek.privacy.releases import Release
from deepseek.trainjob.spec_parts import Problems
from services.federated.federations import FederationService
from services.federated.nodes import NodeStore
from services.federated.plans import check_plan, plan_privacy
from services.federated.ports import Budgets, ModelVersion, Registry
from services.federated.round_store import SqlRoundStore, shown
from services.federated.run import FederatedRun
from services.federated.run_job import JOB_KIND, job_spec
from services.federated.runs import RunStore

_MODEL = "spec.model"


class RunService:
    """Starts, returns, watches and stops runs. Thread-safe.

    Args:
        database: Migrated database, which holds runs and jobs.
        jobs: Job store in the same database.
        runs: Run store in the same database.
        nodes: Nodes in the same database.
        federations: Federations in the same database.
        runner: Job runner, which is notified of new jobs.
        store: Store that holds data set manifests and models.
        registry: Registry that resolves versions.
        budgets: Ledger of privacy budgets.
    """

    def __init__(
        self,
        database: Database,
        jobs: JobStore,
        runs: RunStore,
        nodes: NodeStore,
        federations: FederationService,
        runner: JobRunner,
        store: ArtifactStore,
        registry: Registry,
        budgets: Budgets,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._runs = runs
        self._nodes = nodes
        self._federations = federations
        self._runner = runner
        self._store = store
        self._registry = registry
        self._budgets = budgets

    def start(self, tenant: str, federation: str, spec: FederatedRunSpec, call: Repeatable) -> FederatedRun:
        """Starts a run.

        Args:
            tenant: Tenant that owns the federation.
            federation: `federations/<id>`.
            spec: Spec from the caller.
            call: Identity of the call, used to recognize repeats.

        Raises:
            MeshError: Any error that `FederatedService.StartRun` documents. No run was created.
        """
        with self._database.snapshot() as session:
            repeated = earlier(session, tenant, call)
        if repeated is not None:
            return self._runs.get(tenant, repeated)
        found = self._federations.get(tenant, federation, field="parent")
        spec, manifest_sha256, init = self._resolved(tenant, spec)
        nodes = [node.fingerprint for node in self._nodes.of(tenant, found.federation_id)]
        check_plan(spec, nodes, None)
        planned = self._planned(tenant, spec)
        privacy, warnings = plan_privacy(spec, found.name, nodes, self._budgets, tenant, list(planned.values()))
        check_plan(spec, nodes, privacy)
        self._check_init(tenant, found.name, spec)
        with self._database.transaction() as session:

            def effect() -> str:
                # Only one transaction writes at a time, so what is read here is true until the run exists.
                self._federations.row(session, tenant, found.federation_id, field="parent")
                if privacy and not self._runs.planned(session, tenant, privacy.budget).keys() <= planned.keys():
                    message = f"another run that debits {privacy.budget} was started at the same time; try again"
                    raise Aborted("BUDGET_CHANGED", message, field="spec.privacy.budget", retry_delay_s=1)
                run_id = new_id()
                run = f"{found.name}/runs/{run_id}"
                job = self._jobs.submit(session, tenant=tenant, kind=JOB_KIND, spec=job_spec(run), result=run)
                return self._runs.create(
                    session,
                    job,
                    run_id,
                    found.federation_id,
                    spec,
                    nodes,
                    manifest_sha256,
                    init_manifest=init.manifest.sha256 if init else None,
                    privacy=privacy,
                    warnings=warnings,
                )

            name = once(session, tenant, call, effect)
        self._runner.wake()
        return self._runs.get(tenant, name)

    def get(self, tenant: str, name: str) -> FederatedRun:
        """Returns a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        return self._runs.get(tenant, name)

    def list(
        self, tenant: str, federation: str, page: PageRequest, *, active_only: bool
    ) -> tuple[Sequence[FederatedRun], str]:
        """Returns a page of a federation's runs, newest first, and the token of the next page.

        Raises:
            NotFound: FEDERATION_NOT_FOUND.
        """
        found = self._federations.get(tenant, federation, field="parent")
        return self._runs.list(tenant, found.federation_id, page, active_only=active_only)

    def watch(
        self, tenant: str, name: str, *, after: int, stop: threading.Event, stored_only: bool = False
    ) -> Iterator[RunEvent]:
        """Yields a run's events after a sequence number and, unless `stored_only` is set, new events as they happen.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_VALUE for a negative sequence number.
        """
        if after < 0:
            message = f"after_sequence is {after}; it must not be negative"
            raise InvalidArgument("BAD_VALUE", message, field="after_sequence")
        return self._runs.watch(tenant, name, after=after, stop=stop, stored_only=stored_only)

    def stop(self, tenant: str, name: str) -> FederatedRun:
        """Asks a run to stop. Idempotent.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        run = self._runs.get(tenant, name)
        self._jobs.cancel(tenant, run.job.name)
        return self._runs.close_history(tenant, name)

    def last_round(self, run: FederatedRun) -> Mapping[str, Any] | None:
        """Returns the last released round, as `shown` does; None before the first one."""
        return self._round(run, run.num_released) if run.num_released else None

    def model(self, tenant: str, name: str, round_number: int) -> tuple[Mapping[str, Any], Artifact]:
        """Returns a released round, as `shown` does, and its arrays.

        Args:
            tenant: Tenant that owns the run.
            name: Name of the run.
            round_number: Number of the round; 0 means the newest that is released.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: ROUND_NOT_RELEASED.
            InvalidArgument: BAD_VALUE.
        """
        if round_number < 0:
            message = f"round is {round_number}; it must not be negative"
            raise InvalidArgument("BAD_VALUE", message, field="round")
        run = self._runs.get(tenant, name)
        number = round_number or run.num_released
        released = SqlRoundStore(self._database, tenant).released(run.name, number) if number else None
        if released is None:
            message = f"round {number} of {name} is not released" if number else f"{name} has not released a model yet"
            raise FailedPrecondition("ROUND_NOT_RELEASED", message, field="round")
        sha256 = released.sealed_model
        artifact = Artifact(sha256, self._store.size(tenant, sha256), MEDIA_TYPE, tenant)
        return shown(released, self._names(run)), artifact

    def _round(self, run: FederatedRun, number: int) -> Mapping[str, Any] | None:
        released = SqlRoundStore(self._database, run.tenant).released(run.name, number)
        return shown(released, self._names(run)) if released else None

    def _names(self, run: FederatedRun) -> dict[str, str]:
        return {node.fingerprint: node.name for node in self._nodes.of(run.tenant, run.federation_id)}

    def _planned(self, tenant: str, spec: FederatedRunSpec) -> Mapping[str, Release]:
        """Returns what the active runs that share the budget of a spec will still debit, by the id of the run."""
        if spec.privacy is None:
            return {}
        with self._database.snapshot() as session:
            return self._runs.planned(session, tenant, spec.privacy.budget)

    def _resolved(self, tenant: str, spec: FederatedRunSpec) -> tuple[FederatedRunSpec, str, ModelVersion | None]:
        """Checks a spec, and returns it with aliases resolved and defaults filled in.

        Returns:
            The spec, the digest of the manifest of its data set version, and the version from which the run starts.
        """
        problems = Problems()
        with problems.caught():
            spec.check()
        version, model, init = None, spec.model, None
        if model.dataset_version:
            with problems.caught():
                field = f"{_MODEL}.dataset_version"
                version = self._registry.find_dataset_version(tenant, model.dataset_version, field=field)
        if version is not None:
            manifest = DatasetManifest.from_bytes(self._store.read(tenant, version.manifest.sha256))
            with problems.caught():
                model = model.resolved(version.name, manifest, path=_MODEL)
        if model.init:
            with problems.caught():
                init = self._find_init(tenant, model.init)
        problems.check()
        assert version is not None, "a spec without a data set version has been rejected"
        model = replace(model, init=init.name if init else "", epochs=1)
        return replace(spec.with_defaults(), model=model), version.manifest.sha256, init

    def _check_init(self, tenant: str, federation: str, spec: FederatedRunSpec) -> None:
        """Checks that what a private run starts from does not reveal its data: the guarantee would not include that."""
        if spec.privacy is None or not spec.model.init:
            return
        init, budget = spec.model.init, spec.privacy.budget
        if found := self._registry.unprotected_ancestor(tenant, init, dataset=federation, budget=budget):
            raise init_not_private(init, found, dataset=federation, budget=budget, field=f"{_MODEL}.init")

    def _find_init(self, tenant: str, name: str) -> ModelVersion:
        """Finds the model version from which a run starts, and checks that it holds weights."""
        version = self._registry.find_model_version(tenant, name, field=f"{_MODEL}.init")
        manifest = ModelManifest.from_bytes(self._store.read(tenant, version.manifest.sha256))
        if manifest.weights is None:
            message = f"{version.name} holds no weights to start from; export its run again"
            raise FailedPrecondition("NO_WEIGHTS", message, field=f"{_MODEL}.init")
        return version
