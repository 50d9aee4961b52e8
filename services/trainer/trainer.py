"""What the trainer does when asked: submit, look at and stop runs, and export their models.

Everything that can be refused is refused before a run exists. Carrying runs out is the handlers' part (`attempts`,
`exports`).
"""

import json
import math
import threading
from collections.abc import Iterator, Sequence

from common.artifacts import ArtifactStore
from common.database import Database, once
from common.errors import FailedPrecondition, InvalidArgument
from common.jobs import Job, JobRunner, JobState, JobStore
from common.names import check_id, parse
from deepseek.data.manifest import DatasetManifest
from deepseek.training.runspec import RunSpec
from services.trainer.exports import JOB_KIND as EXPORT_KIND
from services.trainer.exports import ExportSpec
from services.trainer.fingerprint import run_fingerprint
from services.trainer.registry import Registry
from services.trainer.runs import Run, RunEvent, RunStore

_REUSED = (JobState.PENDING, JobState.RUNNING, JobState.SUCCEEDED)


class Trainer:
    """Thread-safe.

    Args:
        database: Migrated; holds runs and jobs.
        jobs: The job store in it.
        runs: The run store in it.
        runner: Carries the jobs out; told when there is a new one.
        store: Where data set manifests lie.
        registry: Resolves data set versions.
    """

    def __init__(
        self,
        database: Database,
        jobs: JobStore,
        runs: RunStore,
        runner: JobRunner,
        store: ArtifactStore,
        registry: Registry,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._runs = runs
        self._runner = runner
        self._store = store
        self._registry = registry

    def submit(self, tenant: str, spec: RunSpec, *, reuse: bool, request_id: str, body: bytes) -> tuple[Run, bool]:
        """Starts a run, or finds an equal one.

        Args:
            tenant: Whose run it is.
            spec: As the caller wrote it.
            reuse: Return the newest equal run that has succeeded or is under way, if there is one; else go on from the
                last checkpoint of one that failed or was cancelled.
            request_id: Makes the call idempotent; may be empty.
            body: The request, for telling a repeated id with another body.

        Returns:
            The run, and whether it existed already.

        Raises:
            InvalidArgument: With the field's path.
            NotFound: DATASET_VERSION_NOT_FOUND.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        spec.check()
        version = self._registry.dataset_version(spec.dataset_version, tenant, field="spec.dataset_version")
        manifest = DatasetManifest.from_bytes(self._store.read(tenant, version.manifest.sha256))
        spec = spec.resolved(version.name, manifest)
        fingerprint = run_fingerprint(spec, version.manifest.sha256)
        with self._database.transaction() as session:

            def effect() -> str:
                equal = self._runs.find_equal(session, tenant, fingerprint, _REUSED) if reuse else None
                name = equal or self._runs.create(
                    session, tenant, spec, version.manifest.sha256, fingerprint, adopt=reuse
                )
                return json.dumps({"name": name, "reused": equal is not None})

            answer = json.loads(
                once(session, tenant=tenant, method="SubmitRun", request_id=request_id, body=body, effect=effect)
            )
        self._runner.wake()
        return self._runs.get(tenant, answer["name"]), answer["reused"]

    def get(self, tenant: str, name: str) -> Run:
        """Looks a run up.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        return self._runs.get(tenant, name)

    def list(self, tenant: str, *, size: int, token: str) -> tuple[Sequence[Run], str]:
        """One page of runs, newest first, and the token of the next page."""
        return self._runs.list(tenant, size=size, token=token)

    def watch(self, tenant: str, name: str, *, after: int, stop: threading.Event) -> Iterator[RunEvent]:
        """A run's history after a sequence number, then live.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_VALUE for a negative sequence number.
        """
        if after < 0:
            raise InvalidArgument("BAD_VALUE", "a sequence number is 0 or more", field="after_sequence")
        return self._runs.watch(tenant, name, after=after, stop=stop)

    def stop(self, tenant: str, name: str) -> Run:
        """Asks a run to stop. Idempotent.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        self._jobs.cancel(tenant, self._runs.get(tenant, name).job.name)
        return self._runs.settle(tenant, name)

    def export(
        self, tenant: str, run: str, model: str, *, int8: bool, int8_max_loss: float, request_id: str, body: bytes
    ) -> Job:
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
            raise InvalidArgument("BAD_VALUE", "the largest loss is a fraction, 0 to 1", field="int8_max_loss")
        found = self._runs.get(tenant, run, field="run")
        if found.job.state is not JobState.SUCCEEDED:
            message = f"{run} is {found.job.state.name}; only a run that has SUCCEEDED is exported"
            raise FailedPrecondition("RUN_NOT_SUCCEEDED", message, field="run")
        spec = ExportSpec(found.run_id, model, int8, int8_max_loss)
        with self._database.transaction() as session:
            name = once(
                session,
                tenant=tenant,
                method="ExportModel",
                request_id=request_id,
                body=body,
                effect=lambda: self._jobs.submit(session, tenant=tenant, kind=EXPORT_KIND, spec=spec.to_json()).name,
            )
        self._runner.wake()
        return self._jobs.get(tenant, name)
