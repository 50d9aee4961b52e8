"""The file that tells a worker or an export what to do, and the file by which it reports.

`job.json` holds the run's spec and how to reach its data; `events.jsonl` beside it grows by one JSON object a line,
each written whole; a file `stop` beside them asks the process to save its work and end. No torch here.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.artifacts import ArtifactStore, open_store
from common.errors import MeshError
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


def report(directory: Path, kind: str, **values: Any) -> None:
    """Appends an event; a line in one piece, even when several processes report at once, unless the disk fills up.

    Raises:
        OSError: It could not be written whole.
    """
    line = (json.dumps({"kind": kind, **values}) + "\n").encode()
    file = os.open(directory / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while line:
            line = line[os.write(file, line) :]
    finally:
        os.close(file)


def report_failure(directory: Path, error: MeshError) -> None:
    """Reports that the job cannot be done, and why."""
    report(directory, "failed", code=error.code, reason=error.reason, message=error.message, field=error.field)
