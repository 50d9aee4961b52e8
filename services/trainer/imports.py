"""Receives the files of models to import, and starts the jobs that check and register them (`import_job`)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from common.artifacts import Artifact, ArtifactStore
from common.database import Database, Repeatable, once
from common.errors import InvalidArgument
from common.jobs import Job, JobRunner, JobStore
from common.names import check_id, parse
from deepseek.models.manifest import ONNX_MEDIA_TYPE
from services.trainer.import_job import JOB_KIND, ImportSpec

MAX_BYTES = 2 << 30
MAX_FILES = 1000
MAX_TEXT_BYTES = 4 << 10
MAX_LABEL_BYTES = 1 << 20
_MAX_NAME_BYTES = 1024
_DATA_MEDIA_TYPE = "application/octet-stream"
_EXAMPLE_SUFFIX = ".npz"


@dataclass(frozen=True)
class Piece:
    """A part of a stream of files.

    Attributes:
        file: Name of the file that begins here; empty if the piece continues the previous file.
        offset: Number of bytes of the file in earlier pieces, as the sender counted them.
        data: Bytes of the file.
    """

    file: str
    offset: int
    data: bytes


class ImportService:
    """Starts imports. Thread-safe.

    Args:
        database: Migrated database, which holds the jobs.
        jobs: Job store in the same database.
        runner: Job runner, which is notified of new jobs.
        store: Store that receives the files.
    """

    def __init__(self, database: Database, jobs: JobStore, runner: JobRunner, store: ArtifactStore) -> None:
        self._database = database
        self._jobs = jobs
        self._runner = runner
        self._store = store

    def submit(
        self,
        tenant: str,
        model: str,
        pieces: Iterator[Piece],
        *,
        license_text: str,
        note: str,
        labels: Sequence[str],
        request_id: str,
    ) -> Job:
        """Stores the files of a model and starts its import.

        Args:
            tenant: Tenant that will own the version.
            model: `models/<id>`.
            pieces: The files, one after the other; the graph comes first.
            license_text: Licence of the model; may be empty.
            note: Note for people; may be empty.
            labels: Labels of the classes; may be empty.
            request_id: Request id of the call; a repeated call must send the same files.

        Raises:
            InvalidArgument: An error that `TrainerService.ImportModel` documents. Files that were stored until then are
                garbage.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        (model_id,) = parse(model, "models/{}", field="model")
        check_id(model_id, field="model")
        for text, field in ((license_text, "license"), (note, "note")):
            _check_text(text, field)
        _check_labels(labels)
        files: dict[str, Artifact] = {}
        for name, group in itertools.groupby(_named(pieces), key=itemgetter(0)):
            media_type = _DATA_MEDIA_TYPE if files else ONNX_MEDIA_TYPE
            files[name] = self._store.put(tenant, (data for _, data in group), media_type)
        examples = [files.pop(name) for name in list(files)[1:] if name.endswith(_EXAMPLE_SUFFIX)]
        if not files:
            raise InvalidArgument("MISSING_FIELD", "the stream has no file; its first file is the graph", field="file")
        if len(examples) > 1:
            raise InvalidArgument("BAD_VALUE", f"the stream has {len(examples)} examples; send one", field="file")
        spec = ImportSpec(model, tuple(files.items()), next(iter(examples), None), license_text, note, tuple(labels))
        text = spec.to_json()
        with self._database.transaction() as session:
            name = once(
                session,
                tenant,
                Repeatable("ImportModel", request_id, text.encode()),
                lambda: self._jobs.submit(session, tenant=tenant, kind=JOB_KIND, spec=text).name,
            )
        self._runner.wake()
        return self._jobs.get(tenant, name)


def _named(pieces: Iterator[Piece]) -> Iterator[tuple[str, bytes]]:
    """Yields each piece of data with the name of its file, and checks names, offsets and sizes."""
    names: set[str] = set()
    name, position, total = "", 0, 0
    for piece in pieces:
        if piece.file:
            name, position = _checked(piece.file), 0
            if name in names:
                raise InvalidArgument("BAD_VALUE", f"the file {name!r} was sent twice", field="file")
            names.add(name)
            if len(names) > MAX_FILES:
                message = f"the model has more than {MAX_FILES} files; merge its external data into fewer files"
                raise InvalidArgument("TOO_LARGE", message, field="file")
        elif not name:
            raise InvalidArgument("MISSING_FIELD", "the first message names no file; it must begin one", field="file")
        if piece.offset != position:
            message = f"expected offset {position} of {name!r}, received {piece.offset}: a message was lost. Send again"
            raise InvalidArgument("OFFSET_MISMATCH", message, field="offset")
        position += len(piece.data)
        total += len(piece.data)
        if total > MAX_BYTES:
            raise InvalidArgument("TOO_LARGE", f"the files have more than {MAX_BYTES} bytes together", field="data")
        yield name, piece.data


def _checked(name: str) -> str:
    if len(name.encode()) > _MAX_NAME_BYTES or not name.isprintable():
        raise InvalidArgument("BAD_PATH", f"{name[:80]!r} is not the name of a file; rename the file", field="file")
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        message = f"{name[:200]!r} leads out of the model's folder; put all files of the model into one folder"
        raise InvalidArgument("BAD_PATH", message, field="file")
    return name


def _check_text(text: str, field: str) -> None:
    if len(text.encode()) > MAX_TEXT_BYTES:
        message = f"the {field} has {len(text.encode())} bytes; at most {MAX_TEXT_BYTES} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field=field)
    if "\0" in text:
        raise InvalidArgument("BAD_VALUE", f"the {field} contains a NUL character; remove it", field=field)


def _check_labels(labels: Sequence[str]) -> None:
    if (size := sum(len(label.encode()) for label in labels)) > MAX_LABEL_BYTES:
        message = f"the labels have {size} bytes together; at most {MAX_LABEL_BYTES} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field="labels")
    seen: dict[str, int] = {}
    for i, label in enumerate(labels):
        if not label or label in seen:
            problem = f"({label[:80]!r}) is the same as label {seen[label] + 1}" if label else "is empty"
            message = f"label {i + 1} of {len(labels)} {problem}; labels must be unique and not empty"
            raise InvalidArgument("BAD_VALUE", message, field=f"labels[{i}]")
        seen[label] = i
    if len(labels) == 1:
        message = f"there is only one label, {labels[0][:80]!r}; a classifier has at least two"
        raise InvalidArgument("BAD_VALUE", message, field="labels")
