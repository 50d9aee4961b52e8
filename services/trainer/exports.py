"""Carries out an export: a child process makes and measures the files, this registers them with their lineage.

An export is remembered by run, options and code: the same one again starts no process and adds no bytes, it only makes
sure that the model has the version. It is remembered before the registry is asked, and a registry that does not answer
is asked the same again until it does, so no work is lost and no version made twice. A child that crashes is started
anew a few times, as a run's workers are.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.artifacts import Artifact
from common.artifacts.store import disk_error
from common.errors import Cancelled, DeadlineExceeded, Internal, Unavailable
from common.jobs import Lease, LeaseLost
from common.processes import python
from services.trainer.children import Child, attempt_directory, reported_error
from services.trainer.fingerprint import export_fingerprint
from services.trainer.registry import Registry
from services.trainer.runs import Export, Run, RunStore

JOB_KIND = "trainer.export"
REGISTRY_RETRY_S = 1.0
_POLL_S = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSpec:
    """What to export.

    Attributes:
        run_id: Of a run that has succeeded.
        model: `models/<id>`.
        int8: Also quantise.
        int8_max_loss: Largest accepted loss of the first metric, as a fraction from 0 (none) to 1.
    """

    run_id: str
    model: str
    int8: bool
    int8_max_loss: float

    def to_json(self) -> str:
        """Text form for the job."""
        return json.dumps(asdict(self))


class _Crashed(Exception):
    """A child ended without a word; the text is the end of its log."""


class ExportHandler:
    """Job handler of kind `trainer.export`.

    Args:
        runs: Where runs and exports are kept.
        registry: Where the model version is registered.
        directory: Working space.
        store: How the child opens the artifact store and where its spans go, as members of its job file.
        max_restarts: How often a child that crashed is started anew before the export fails.
    """

    def __init__(
        self, runs: RunStore, registry: Registry, directory: Path, store: Mapping[str, Any], *, max_restarts: int
    ) -> None:
        self._runs = runs
        self._registry = registry
        self._directory = directory
        self._store = store
        self._max_restarts = max_restarts

    def __call__(self, lease: Lease) -> None:
        """Carries out the export of the lease's job.

        Raises:
            MeshError: What the child reported, EXPORT_CRASHED, the registry's failure, or DISK_FULL and the like if
                there is no working space.
            LeaseLost: Another trainer carries it out.
        """
        spec = ExportSpec(**json.loads(lease.job.spec))
        run = self._runs.get(lease.job.tenant, f"runs/{spec.run_id}")
        fingerprint = export_fingerprint({"int8": spec.int8, "int8_max_loss": spec.int8_max_loss})
        export = self._runs.find_export(run.tenant, run.run_id, fingerprint)
        if export is None:
            try:
                export = self._export(lease, run, spec)
            except OSError as error:
                raise disk_error(error, self._directory, "files of the trainer") from error
            if export is None:
                return
            with lease.transaction() as session:
                export = self._runs.add_export(session, run.tenant, run.run_id, fingerprint, export)
        version = self._register(lease, run, spec, export)
        if version is not None:
            lease.complete(lambda _: version)

    def _register(self, lease: Lease, run: Run, spec: ExportSpec, export: Export) -> str | None:
        """Name of the version; None if this worker is to stop, or the job was cancelled."""
        sources = [run.spec.dataset_version, run.name]
        request_id = f"export-{lease.job_id}-{export.manifest.sha256}"
        while True:
            if lease.lost.is_set():
                raise LeaseLost
            try:
                return self._registry.create_model_version(
                    spec.model, export.manifest, sources=sources, metrics=export.metrics, request_id=request_id
                )
            except (Unavailable, DeadlineExceeded, Cancelled) as error:
                lease.update(message=f"waiting for the registry: {error.message}")
            if lease.stopping.wait(REGISTRY_RETRY_S) or lease.cancelled.is_set():
                return None

    def _export(self, lease: Lease, run: Run, spec: ExportSpec) -> Export | None:
        """Runs the child until one has finished; None if it was stopped on request."""
        assert run.checkpoint is not None, "a run that has succeeded has a checkpoint"
        job = {
            "spec": run.spec.to_json(),
            "run": run.name,
            "dataset_manifest_sha256": run.dataset_manifest_sha256,
            "tenant": run.tenant,
            **self._store,
            "checkpoint_sha256": run.checkpoint.sha256,
            "metrics": dict(run.metrics),
            "precision": self._runs.precision(run),
            "int8": spec.int8,
            "int8_max_loss": spec.int8_max_loss,
        }
        argv = python("deepseek.training.export")
        with attempt_directory(self._directory / lease.job_id, lease.attempt) as directory:
            num_crashes = 0
            while True:
                # One thread, as in the measurement of files: the cores are for runs.
                with Child(directory / str(num_crashes), argv, job, env={"OMP_NUM_THREADS": "1"}) as child:
                    try:
                        return self._follow(lease, child)
                    except _Crashed as crash:
                        num_crashes += 1
                        _log.warning("the export of %s crashed (%d times)", run.name, num_crashes)
                        if num_crashes > self._max_restarts:
                            what = f"the export crashed {num_crashes} times; at the end:\n{crash}"
                            raise Internal("EXPORT_CRASHED", what) from crash

    def _follow(self, lease: Lease, child: Child) -> Export | None:
        while True:
            ended = child.wait(_POLL_S)
            for event in child.events():
                match event["kind"]:
                    case "progress":
                        lease.update(progress=event["progress"], message=event["message"])
                    case "finished":
                        child.let_export()
                        return Export(Artifact.from_json(event["manifest"]), event["metrics"])
                    case "failed":
                        raise reported_error(event)
            if lease.lost.is_set():
                raise LeaseLost
            if lease.cancelled.is_set() or lease.stopping.is_set():
                return None
            if ended:
                raise _Crashed(child.log_tail())
