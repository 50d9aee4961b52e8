"""The job that imports a model: a child process checks the files; the handler registers a version.

The files come from outside, so the child gets no credentials of the store: the handler fetches the files and stores
the results. The child limits its own memory, and the handler limits its time. A child that crashes is not restarted,
because the model would make it crash again.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from common.artifacts import Artifact, ArtifactStore
from common.errors import FailedPrecondition
from common.files import disk_error
from common.jobs import Lease
from common.jobs.child import ChildProcess, attempt_directory
from common.jobs.following import Crashed, follow
from common.processes import python
from common.remote import until_answered
from deepseek.models.manifest import MEDIA_TYPE, ModelManifest
from services.trainer.ports import Registry

JOB_KIND = "trainer.import"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportSpec:
    """A request to import a model.

    Attributes:
        model: `models/<id>`.
        files: Name and stored content of each file; the graph comes first.
        example: Stored example request; None to generate requests.
        license: Licence of the model; empty if not stated.
        note: Note for people; may be empty.
        labels: Labels of the classes; may be empty.
    """

    model: str
    files: tuple[tuple[str, Artifact], ...]
    example: Artifact | None
    license: str
    note: str
    labels: tuple[str, ...]

    @property
    def artifacts(self) -> list[Artifact]:
        """Everything in the store that the job needs."""
        return [*(artifact for _, artifact in self.files), *([self.example] if self.example else [])]

    def to_json(self) -> str:
        """Returns the spec as JSON for the job."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads the spec of a job."""
        members = json.loads(text)
        files = tuple((name, Artifact(**artifact)) for name, artifact in members["files"])
        example = Artifact(**members["example"]) if members["example"] else None
        # Jobs that older trainers stored have no labels.
        labels = tuple(members.get("labels", ()))
        return cls(members["model"], files, example, members["license"], members["note"], labels)


class ImportHandler:
    """Handles jobs of the kind `trainer.import`.

    Args:
        registry: Registry that receives the model versions.
        directory: Working directory.
        artifacts: Store of the files.
        trace: Entries to add to the child's job file, which say where to write trace spans.
        timeout_s: Time that the check of a model may take, in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Path,
        artifacts: ArtifactStore,
        trace: Mapping[str, Any],
        *,
        timeout_s: float,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._artifacts = artifacts
        self._trace = trace
        self._timeout_s = timeout_s

    def __call__(self, lease: Lease) -> None:
        """Executes the import of the leased job.

        Raises:
            MeshError: The error that the child reported, MODEL_CRASHED, MODEL_TOO_SLOW, the registry's error, or an
                error of the disk or the store.
            LeaseLost: Another trainer has taken over the job.
        """
        spec = ImportSpec.from_json(lease.job.spec)
        try:
            manifest = self._check(lease, spec)
        except OSError as error:
            raise disk_error(error, self._directory, "files of the trainer") from error
        if manifest is None:
            return
        version = until_answered(
            lease,
            lambda: self._registry.register_model_version(
                spec.model, manifest, sources=[], metrics={}, request_id=f"import-{lease.job_id}"
            ),
            callee="registry",
            cancellable=True,
        )
        if version is not None:
            lease.complete(lambda _: version)

    def _check(self, lease: Lease, spec: ImportSpec) -> Artifact | None:
        """Runs the child process and stores its results; returns the manifest, or None if the job was stopped first."""
        tenant = lease.job.tenant
        with attempt_directory(self._directory / lease.job_id, lease.attempt) as directory:
            received = directory / "received"
            received.mkdir()
            paths = [
                self._artifacts.fetch(tenant, artifact.sha256, received / str(number))
                for number, artifact in enumerate(spec.artifacts)
            ]
            job = {
                **self._trace,
                "files": [(name, str(path)) for (name, _), path in zip(spec.files, paths, strict=False)],
                "example": str(paths[-1]) if spec.example else None,
                "license": spec.license,
                "note": spec.note,
                "labels": spec.labels,
            }
            argv = python("deepseek.trainjob.import_main")
            with ChildProcess(directory / "child", argv, job, env={"OMP_NUM_THREADS": "1"}) as child:
                try:
                    if follow(lease, child, timeout_s=self._timeout_s) is None:
                        return None
                except Crashed as crash:
                    _logger.warning("the import %s crashed: %s", lease.job.name, crash)
                    message = (
                        "the model crashed the process that checked it, or needed too much memory; it is damaged, too "
                        "large, or made to do harm"
                    )
                    raise FailedPrecondition("MODEL_CRASHED", message, field="file") from crash
                except TimeoutError as error:
                    message = (
                        f"the check of the model took longer than {self._timeout_s:g} s (import_timeout_s); send a "
                        "smaller model, or an example request with a small sample"
                    )
                    raise FailedPrecondition("MODEL_TOO_SLOW", message, field="file") from error
                manifest = ModelManifest.from_bytes((child.directory / "manifest.json").read_bytes())
                for file in manifest.files:
                    path = child.directory / file.name
                    self._artifacts.put(tenant, path, file.media_type, expected_sha256=file.sha256)
                return self._artifacts.put(tenant, manifest.to_bytes(), MEDIA_TYPE)
