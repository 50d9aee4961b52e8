"""The file that tells a worker or an export what to do, and the file by which it reports.

`job.json` holds the run's spec and how to reach its data; `events.jsonl` beside it grows by one JSON object a line,
each written whole; a file `stop` beside them asks the process to save its work and end. No torch here.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.artifacts import ArtifactStore, open_store
from common.artifacts.store import disk_error
from common.errors import MeshError
from common.telemetry.traces import TRACEPARENT, SpanContext, Tracer, TraceTarget
from deepseek.data.manifest import DatasetManifest
from deepseek.training.runspec import RunSpec


@dataclass(frozen=True)
class JobFile:
    """One job file, opened.

    Attributes:
        spec: The run's spec, complete.
        manifest: Of the data set version.
        store: Where data and checkpoints lie.
        tenant: Whose they are.
        checkpoint_sha256: The checkpoint to go on from; None for a fresh start.
        directory: The job's own directory.
        options: Every other member of the file.
    """

    spec: RunSpec
    manifest: DatasetManifest
    store: ArtifactStore
    tenant: str
    checkpoint_sha256: str | None
    directory: Path
    options: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the file, opens the store and reads the data set's manifest.

        Raises:
            MeshError: The store or the manifest cannot be read.
        """
        options = json.loads(path.read_text(encoding="utf-8"))

        def key_file(kind: str) -> Path | None:
            name = options.get(f"store_{kind}_key_file")
            return Path(name) if name else None

        access, secret = key_file("access"), key_file("secret")
        store = open_store(options["store_url"], access_key_file=access, secret_key_file=secret, make=False)
        tenant = options["tenant"]
        return cls(
            spec=RunSpec.from_json(options["spec"]),
            manifest=DatasetManifest.from_bytes(store.read(tenant, options["dataset_manifest_sha256"])),
            store=store,
            tenant=tenant,
            checkpoint_sha256=options["checkpoint_sha256"],
            directory=Path(options["dir"]),
            options=options,
        )

    def stop_asked(self) -> bool:
        """Whether the process shall save its work and end."""
        return (self.directory / "stop").exists()


@contextmanager
def traced(path: Path, name: str) -> Iterator[None]:
    """Does what is in the block as a span of the trace that a job file names, and exports it where the file says.

    Args:
        path: The job file.
        name: What is done, e.g. `train`.
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
    """Appends an event; a line in one piece, even when several processes report at once, unless the disk fills up.

    Raises:
        MeshError: DISK_FULL, DISK_READ_ONLY or DISK_UNAVAILABLE; it could not be written whole.
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
    """Reports that the job cannot be done, and why."""
    report(directory, "failed", code=error.code, reason=error.reason, message=error.message, field=error.field)
