"""Handles requests to the trainer: submits, watches and stops runs, and exports their models.

Requests are fully checked before a run is created. Runs are executed in `run_job`, and exports in `export_job`.
"""

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from common.artifacts import ArtifactStore
from common.database import Database, PageRequest, Repeatable, earlier, once
from common.errors import FailedPrecondition, InvalidArgument
from common.jobs import Job, JobRunner, JobState, JobStore
from common.jobs.history import RunEvent
from common.jobs.job import UNFINISHED, JobRow
from common.names import check_id, new_id, parse
from deepseek.data.manifest import DatasetManifest
from deepseek.models.manifest import ModelManifest
from deepseek.privacy.ancestry import init_not_private
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import Problems
from services.trainer.export_job import JOB_KIND as EXPORT_KIND
from services.trainer.export_job import ExportSpec
from services.trainer.external_runs import End, ExternalRuns, LoggedStep
from services.trainer.fingerprint import run_fingerprint
from services.trainer.labels import Labels
from services.trainer.ports import ModelVersion, Registry
from services.trainer.private_runs import PrivateRuns
from services.trainer.run import Run
from services.trainer.run_job import JOB_KIND as RUN_KIND
from services.trainer.run_job import job_spec
from services.trainer.runs import RunStore

_REUSED = (JobState.PENDING, JobState.RUNNING, JobState.SUCCEEDED)


class RunService:
    """Submits, returns, watches, stops and exports runs. Thread-safe.

    Args:
        database: Migrated database, which holds runs and jobs.
        jobs: Job store in the same database.
        runs: Run store in the same database.
        runner: Job runner, which is notified of new jobs.
        store: Store that holds data set manifests.
        registry: Registry that resolves data set versions.
        private_runs: Chooses the noise of private runs, and checks their budgets.
    """

    def __init__(
        self,
        database: Database,
        jobs: JobStore,
        runs: RunStore,
        runner: JobRunner,
        store: ArtifactStore,
        registry: Registry,
        private_runs: PrivateRuns,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._runs = runs
        self._runner = runner
        self._store = store
        self._registry = registry
        self._private_runs = private_runs
        self._external = ExternalRuns(database, jobs, runs)

    def submit(
        self, tenant: str, spec: RunSpec, call: Repeatable, *, reuse: bool, exportable: bool = False
    ) -> tuple[Run, bool]:
        """Starts a run. If `reuse` is set, may return an equal run instead.

        Args:
            tenant: Tenant that owns the run.
            spec: Spec from the caller.
            call: Identity of the call, used to recognize repeats.
            reuse: Whether to return the newest equal run that has succeeded or is in progress. If no such run exists, a
                new run starts from the last checkpoint of an equal run that failed or was cancelled, if there is one.
            exportable: Whether a new run fails if its model cannot be exported.

        Returns:
            The run, and whether it already existed.

        Raises:
            InvalidArgument: The spec is invalid. The error names the invalid field.
            NotFound: DATASET_VERSION_NOT_FOUND or MODEL_VERSION_NOT_FOUND.
            FailedPrecondition: NO_WEIGHTS; DATASET_HAS_BUDGET for a run without privacy; BUDGET_MISMATCH,
                BUDGET_EXHAUSTED, NOT_PRIVATE_ENCODER or INIT_NOT_PRIVATE for a private run.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        with self._database.snapshot() as session:
            repeated = earlier(session, tenant, call)
        if repeated is not None:
            answer = json.loads(repeated)
            return self._runs.get(tenant, answer["name"]), answer["reused"]
        spec, manifest_sha256, init = self._complete(tenant, spec)
        noise = self._private_runs.choose_noise(tenant, spec)
        warnings = self._private_runs.warnings(tenant, spec)
        init_manifest = init.manifest.sha256 if init else None
        executed = spec.with_noise(noise)
        fingerprint = run_fingerprint(executed, manifest_sha256, init_manifest)
        if not (reuse and self._find_equal(tenant, fingerprint)):  # an equal run has debited the budget already
            self._private_runs.check_budget(tenant, spec, noise, self._active(tenant, spec))
        with self._database.transaction() as session:

            def effect() -> str:
                equal = self._runs.find_equal(session, tenant, fingerprint, _REUSED) if reuse else None
                if equal is None:
                    run_id = new_id()
                    job = self._jobs.submit(
                        session, tenant=tenant, kind=RUN_KIND, spec=job_spec(run_id), result=f"runs/{run_id}"
                    )
                    name = self._runs.create(
                        session,
                        job,
                        run_id,
                        spec,
                        manifest_sha256,
                        fingerprint,
                        adopt=reuse,
                        exportable=exportable,
                        init_manifest=init_manifest,
                        warnings=warnings,
                        noise_multiplier=noise,
                    )
                else:
                    name = equal
                return json.dumps({"name": name, "reused": equal is not None})

            answer = json.loads(once(session, tenant, call, effect))
        self._runner.wake()
        return self._runs.get(tenant, answer["name"]), answer["reused"]

    def check(self, tenant: str, spec: RunSpec) -> RunSpec:
        """Checks a spec without starting a run, and returns it with aliases resolved and defaults filled in.

        Raises:
            MeshError: As for `submit`, except for errors about budgets.
        """
        complete, _, _ = self._complete(tenant, spec)
        self._private_runs.choose_noise(tenant, complete)
        return complete

    def get(self, tenant: str, name: str) -> Run:
        """Returns a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        return self._runs.get(tenant, name)

    def list(self, tenant: str, page: PageRequest, *, active_only: bool = False) -> tuple[Sequence[Run], str]:
        """Returns a page of runs, newest first, and the token of the next page. See `RunStore.list`."""
        return self._runs.list(tenant, page, active_only=active_only)

    def watch(
        self, tenant: str, name: str, *, after: int, stop: threading.Event, stored_only: bool = False
    ) -> Iterator[RunEvent]:
        """Yields a run's events after a sequence number and, unless `stored_only` is set, new events as they happen.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_VALUE for a negative sequence number.
        """
        if after < 0:
            raise InvalidArgument(
                "BAD_VALUE", f"after_sequence is {after}; it must not be negative", field="after_sequence"
            )
        return self._runs.watch(tenant, name, after=after, stop=stop, stored_only=stored_only)

    def stop(self, tenant: str, name: str) -> Run:
        """Asks a run to stop. Idempotent.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        run = self._runs.get(tenant, name)
        self._jobs.cancel(tenant, run.job.name)
        self._runner.refresh()
        return self._runs.close_history(tenant, name)

    def update(self, tenant: str, name: str, labels: Labels) -> Run:
        """Changes the display name, note and tags of a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_NAME or BAD_VALUE.
        """
        labels.check()
        return self._runs.update(tenant, name, labels)

    def delete(self, tenant: str, name: str) -> None:
        """Deletes a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_ACTIVE or RUN_REFERENCED.
            InvalidArgument: BAD_NAME.
        """
        run = self._runs.get(tenant, name)
        if not run.job.state.final:
            message = f"{name} is in the state {run.job.state.name}; stop it first"
            raise FailedPrecondition("RUN_ACTIVE", message, field="name")
        if self._is_exporting(run):
            raise FailedPrecondition("RUN_ACTIVE", f"{name} is being exported; wait for the export", field="name")
        if version := self._registry.version_made_from(tenant, name):
            message = f"{version} was made from {name}, and its lineage names the run"
            raise FailedPrecondition("RUN_REFERENCED", message, field="name")
        self._runs.delete(run)

    def create_external(self, tenant: str, labels: Labels, parameters: Mapping[str, Any], call: Repeatable) -> Run:
        """Creates a run that a program outside the mesh executes.

        Raises:
            InvalidArgument: BAD_VALUE.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        labels.check()
        with self._database.transaction() as session:
            name = once(session, tenant, call, lambda: self._external.create(session, tenant, labels, parameters))
        return self._runs.get(tenant, name)

    def log(self, tenant: str, name: str, steps: Sequence[LoggedStep], end: End | None) -> Run:
        """Adds figures to an external run, and ends it if `end` is given. Raises the errors of `ExternalRuns.log`."""
        return self._external.log(tenant, name, steps, end)

    def export(self, tenant: str, run: str, model: str, call: Repeatable, *, int8: bool, int8_max_loss: float) -> Job:
        """Starts the export of a run's model.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_NOT_SUCCEEDED.
            InvalidArgument: BAD_NAME or BAD_VALUE.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        (model_id,) = parse(model, "models/{}", field="model")
        check_id(model_id, field="model")
        if not (math.isfinite(int8_max_loss) and 0 <= int8_max_loss <= 1):
            raise InvalidArgument(
                "BAD_VALUE",
                f"int8_max_loss is {int8_max_loss}; it must be a fraction from 0 to 1",
                field="int8_max_loss",
            )
        found = self._runs.get(tenant, run, field="run")
        if found.is_external:
            message = f"a program outside the mesh has trained {run}, so the trainer cannot export it"
            raise FailedPrecondition("RUN_NOT_SUCCEEDED", message, field="run")
        if found.job.state is not JobState.SUCCEEDED:
            message = f"{run} is in the state {found.job.state.name}; only a run in the state SUCCEEDED can be exported"
            raise FailedPrecondition("RUN_NOT_SUCCEEDED", message, field="run")
        spec = ExportSpec(found.run_id, model, int8, int8_max_loss)
        with self._database.transaction() as session:
            name = once(
                session,
                tenant,
                call,
                lambda: self._jobs.submit(session, tenant=tenant, kind=EXPORT_KIND, spec=spec.to_json()).name,
            )
        self._runner.wake()
        return self._jobs.get(tenant, name)

    def _complete(self, tenant: str, spec: RunSpec) -> tuple[RunSpec, str, ModelVersion | None]:
        """Checks a spec, and returns it with aliases resolved and defaults filled in.

        Returns:
            The spec, the digest of the manifest of its data set version, and the version from which the run starts.
        """
        problems = Problems()
        with problems.caught():
            spec.check()
        version = None
        if spec.dataset_version:
            with problems.caught():
                version = self._registry.find_dataset_version(
                    tenant, spec.dataset_version, field="spec.dataset_version"
                )
        # Mistakes in the spec itself, and those that only a comparison with the data shows, are reported together.
        if version is not None:
            manifest = DatasetManifest.from_bytes(self._store.read(tenant, version.manifest.sha256))
            with problems.caught():
                spec = spec.resolved(version.name, manifest)
        init = None
        if spec.init:
            with problems.caught():
                init = self._find_init(tenant, spec.init)
                self._check_init(tenant, spec, init)
        problems.check()
        assert version is not None, "a spec without a data set version has been rejected"
        return replace(spec, init=init.name if init else ""), version.manifest.sha256, init

    def _is_exporting(self, run: Run) -> bool:
        with self._database.snapshot() as session:
            query = select(JobRow.spec).where(
                JobRow.tenant == run.tenant, JobRow.kind == EXPORT_KIND, JobRow.state.in_(UNFINISHED)
            )
            return any(json.loads(spec)["run_id"] == run.run_id for spec in session.scalars(query))

    def _active(self, tenant: str, spec: RunSpec) -> Sequence[Run]:
        """Returns the runs that share the budget of a spec and have not ended."""
        if spec.privacy is None:
            return ()
        with self._database.snapshot() as session:
            return self._runs.active(session, tenant, spec.privacy.budget)

    def _find_equal(self, tenant: str, fingerprint: str) -> str | None:
        with self._database.snapshot() as session:
            return self._runs.find_equal(session, tenant, fingerprint, _REUSED)

    def _find_init(self, tenant: str, name: str) -> ModelVersion:
        """Finds the model version from which a run starts, and checks that it holds weights."""
        version = self._registry.find_model_version(tenant, name, field="spec.init")
        manifest = ModelManifest.from_bytes(self._store.read(tenant, version.manifest.sha256))
        if manifest.weights is None:
            message = (
                f"{version.name} holds no weights to start from, because it was imported or exported by an earlier "
                "release; export its run again"
            )
            raise FailedPrecondition("NO_WEIGHTS", message, field="spec.init")
        return version

    def _check_init(self, tenant: str, spec: RunSpec, init: ModelVersion) -> None:
        """Checks that what a private run starts from does not reveal its data: the guarantee would not include that."""
        if spec.privacy is None:
            return
        dataset, budget = spec.dataset_version.partition("/versions/")[0], spec.privacy.budget
        dataset = dataset.partition("/aliases/")[0]
        if found := self._registry.unprotected_ancestor(tenant, init.name, dataset=dataset, budget=budget):
            raise init_not_private(init.name, found, dataset=dataset, budget=budget, field="spec.init")
