"""The job that exports a model: a child process creates and measures the files; the handler registers a version.

Before a finished export is registered, it is stored in the database, keyed by its run, its options and the exporting
code. A later export with the same key starts no process and only registers the version. The call to the registry is
repeated until the registry responds. As a result, no work is lost and no version is registered twice. A crashed child
process is restarted up to `max_restarts` times.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.artifacts import Artifact, ArtifactStore
from common.errors import Internal, NotFound
from common.files import disk_error
from common.jobs import Lease
from common.jobs.child import ChildProcess, attempt_directory
from common.jobs.following import Crashed, follow
from common.processes import python
from common.remote import until_answered
from deepseek.models.manifest import ModelManifest
from services.trainer.exports import Export, ExportStore
from services.trainer.fingerprint import export_fingerprint
from services.trainer.ports import Registry
from services.trainer.private_runs import PrivateRuns
from services.trainer.run import Run
from services.trainer.runs import RunStore

JOB_KIND = "trainer.export"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSpec:
    """A request to export a model.

    Attributes:
        run_id: Id of the run whose model is exported; the run has succeeded.
        model: `models/<id>`.
        int8: Whether to add an int8 file.
        int8_max_loss: Maximum amount, from 0 to 1, by which int8 quantization may worsen the run's first metric.
    """

    run_id: str
    model: str
    int8: bool
    int8_max_loss: float

    def to_json(self) -> str:
        """Returns the spec as JSON for the job."""
        return json.dumps(asdict(self))


class ExportHandler:
    """Handles jobs of the kind `trainer.export`.

    Args:
        runs: Store of the runs.
        exports: Store of finished exports.
        registry: Registry that receives the model versions.
        private_runs: States the guarantees of private runs.
        directory: Working directory.
        store: Entries to add to the child's job file. They say how to open the artifact store, and where to write trace
            spans.
        artifacts: Store of the exports.
        max_restarts: Number of times that a crashed child process is restarted before the export fails.
    """

    def __init__(
        self,
        runs: RunStore,
        exports: ExportStore,
        registry: Registry,
        private_runs: PrivateRuns,
        directory: Path,
        store: Mapping[str, Any],
        *,
        artifacts: ArtifactStore,
        max_restarts: int,
    ) -> None:
        self._runs = runs
        self._exports = exports
        self._registry = registry
        self._private_runs = private_runs
        self._directory = directory
        self._store = store
        self._artifacts = artifacts
        self._max_restarts = max_restarts

    def __call__(self, lease: Lease) -> None:
        """Executes the export of the leased job.

        Raises:
            MeshError: The error that the child reported, EXPORT_CRASHED, the registry's error, or a disk error such as
                DISK_FULL.
            LeaseLost: Another trainer has taken over the job.
        """
        spec = ExportSpec(**json.loads(lease.job.spec))
        run = self._runs.get(lease.job.tenant, f"runs/{spec.run_id}")
        fingerprint = export_fingerprint({"int8": spec.int8, "int8_max_loss": spec.int8_max_loss})
        found = self._exports.find(run.tenant, run.run_id, fingerprint)
        export = found if found and self._keep(found.manifest) else None
        if export is None:
            try:
                export = self._export(lease, run, spec)
            except OSError as error:
                raise disk_error(error, self._directory, "files of the trainer") from error
            if export is None:
                return
            with lease.transaction() as session:
                export = self._exports.add(session, run.tenant, run.run_id, fingerprint, export, lost=found)
        version = self._register(lease, run, spec, export)
        if version is not None:
            lease.complete(lambda _: version)

    def _keep(self, manifest: Artifact) -> bool:
        """Keeps the files of an earlier export from garbage collection; returns whether they all still exist."""
        try:
            files = ModelManifest.from_bytes(self._artifacts.read(manifest.tenant, manifest.sha256)).files
        except NotFound:
            return False
        return all(self._artifacts.keep(manifest.tenant, one) for one in (manifest.sha256, *(f.sha256 for f in files)))

    def _register(self, lease: Lease, run: Run, spec: ExportSpec, export: Export) -> str | None:
        """Registers the version and returns its name; None if the process is stopping or the job is cancelled."""
        sources = [run.spec.dataset_version, run.name, *([run.spec.init] if run.spec.init else [])]
        request_id = f"export-{lease.job_id}-{export.manifest.sha256}"
        return until_answered(
            lease,
            lambda: self._registry.register_model_version(
                spec.model,
                export.manifest,
                sources=sources,
                metrics=export.metrics,
                request_id=request_id,
                guarantee=self._private_runs.guarantee(run),
            ),
            callee="registry",
            cancellable=True,
        )

    def _export(self, lease: Lease, run: Run, spec: ExportSpec) -> Export | None:
        """Runs the child process until the export is finished; returns None if the export was stopped first."""
        assert run.trained is not None, "a run that has succeeded has a checkpoint"
        job = {
            "spec": run.executed_spec.to_json(),
            "run": run.name,
            "dataset_manifest_sha256": run.dataset_manifest_sha256,
            "tenant": run.tenant,
            **self._store,
            "checkpoint_sha256": run.trained.sha256,
            "init_manifest_sha256": run.init_manifest,
            "metrics": dict(run.metrics),
            "precision": self._runs.precision(run),
            "int8": spec.int8,
            "int8_max_loss": spec.int8_max_loss,
        }
        argv = python("deepseek.trainjob.export_main")
        with attempt_directory(self._directory / lease.job_id, lease.attempt) as directory:
            num_crashes = 0
            while True:
                # The child uses one thread, to leave the other cores to runs. The exported files are measured with one
                # thread, too.
                with ChildProcess(directory / str(num_crashes), argv, job, env={"OMP_NUM_THREADS": "1"}) as child:
                    try:
                        event = follow(lease, child)
                        if event is None:
                            return None
                        return Export(Artifact.from_json(event["manifest"]), event["metrics"])
                    except Crashed as crash:
                        num_crashes += 1
                        _logger.warning("the export of %s crashed (%d times)", run.name, num_crashes)
                        if num_crashes > self._max_restarts:
                            what = f"the export crashed {num_crashes} times; last lines of its log:\n{crash}"
                            raise Internal("EXPORT_CRASHED", what) from crash
