"""The files that the trainer service exchanges with a worker or an export: the job, its events and a stop request.

All of them are in the job's directory. `job.json` holds the spec of the run and the location of its data. The process
appends its events to `events.jsonl`, one JSON object per line. If a file named `stop` appears, the process saves its
work and exits. This module does not import torch.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.artifacts import ArtifactStore, open_store
from common.errors import MeshError
from common.files import disk_error
from common.telemetry.traces import TRACEPARENT, SpanContext, Tracer, TraceTarget
from deepseek.data.manifest import DatasetManifest
from deepseek.models.manifest import ModelManifest
from deepseek.trainjob.runspec import RunSpec

_MAX_MESSAGE_CHARACTERS = 2000
_MAX_FIELD = 500


@dataclass(frozen=True)
class JobFile:
    """The content of a job file, together with the opened store and the data set's manifest.

    Attributes:
        spec: Complete spec of the run.
        manifest: Manifest of the data set version.
        store: Store that holds the data and the checkpoints.
        tenant: Tenant that owns the data and the checkpoints.
        checkpoint_sha256: Digest of the checkpoint to resume from or to export; None to start from the beginning.
        init: Manifest of the model version from which the run starts; None if the weights are initialized at random.
        directory: Directory of the job.
        options: All members of the JSON object in the file.
    """

    spec: RunSpec
    manifest: DatasetManifest
    store: ArtifactStore
    tenant: str
    checkpoint_sha256: str | None
    init: ModelManifest | None
    directory: Path
    options: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the file, opens the store and reads the data set's manifest.

        Raises:
            MeshError: The store or a manifest cannot be read.
        """
        options = json.loads(path.read_text(encoding="utf-8"))

        def key_file(kind: str) -> Path | None:
            name = options.get(f"store_{kind}_key_file")
            return Path(name) if name else None

        access, secret = key_file("access"), key_file("secret")
        store = open_store(options["store_url"], access_key_file=access, secret_key_file=secret, make=False)
        tenant, init_sha256 = options["tenant"], options.get("init_manifest_sha256")
        return cls(
            spec=RunSpec.from_json(options["spec"]),
            manifest=DatasetManifest.from_bytes(store.read(tenant, options["dataset_manifest_sha256"])),
            store=store,
            tenant=tenant,
            checkpoint_sha256=options["checkpoint_sha256"],
            init=ModelManifest.from_bytes(store.read(tenant, init_sha256)) if init_sha256 else None,
            directory=Path(options["dir"]),
            options=options,
        )

    def stop_requested(self) -> bool:
        """Returns whether the process should save its work and exit."""
        return (self.directory / "stop").exists()


@contextmanager
def traced(path: Path, name: str) -> Iterator[None]:
    """Records the `with` block as a span in the trace that a job file specifies.

    Args:
        path: Path of the job file.
        name: Name of the span, e.g. `train`.
    """
    options = json.loads(path.read_text(encoding="utf-8"))
    tracer = Tracer("trainer", TraceTarget.from_json(options))
    attributes = {"process.pid": os.getpid(), "deepseek.rank": int(os.environ.get("RANK", "0"))}
    try:
        with tracer.span(name, SpanContext.parse(options.get(TRACEPARENT, "")), sampled=False, attributes=attributes):
            yield
    finally:
        tracer.close()


def report(directory: Path, kind: str, **values: Any) -> None:
    """Appends an event to the event file as one line.

    Lines that different processes write are not interleaved, unless the disk fills up.

    Raises:
        MeshError: DISK_FULL, DISK_READ_ONLY or DISK_UNAVAILABLE if the line could not be written completely.
    """
    line = (json.dumps({"kind": kind, **values}) + "\n").encode()
    path = directory / "events.jsonl"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while line:
                line = line[os.write(file, line) :]
        finally:
            os.close(file)
    except OSError as error:
        raise disk_error(error, path, "files of the trainer") from error


def report_failure(directory: Path, error: MeshError) -> None:
    """Reports that the job has failed, with the error as the reason. Names from a hostile file may be long."""
    message, field = error.message, error.field
    if len(message) > _MAX_MESSAGE_CHARACTERS:
        message = f"{message[:_MAX_MESSAGE_CHARACTERS]}…"
    report(directory, "failed", code=error.code, reason=error.reason, message=message, field=field[:_MAX_FIELD])
