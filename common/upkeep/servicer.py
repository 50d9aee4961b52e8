"""Implements deepseek.upkeep.v1.UpkeepService on State and CollectionRecords. Hosted by every service that has state.

State files are spooled, so that a slow client does not keep a snapshot or a transaction open.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import grpc

from common.files import disk_error
from common.upkeep.dump import State
from common.upkeep.records import CollectionRecords
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

CHUNK_BYTES = 1 << 20

_ENVELOPE_BYTES = 16  # size of a message without its data


class UpkeepServicer(upkeep_pb2_grpc.UpkeepServiceServicer):
    """Exports and imports the state of one service, and records garbage collections.

    Args:
        state: State of the service.
        records: Records of garbage collections.
        on_import: Function called after an import, so that the service uses the imported rows.
        max_message_bytes: Maximum size of the server's messages.
    """

    def __init__(
        self, state: State, records: CollectionRecords, on_import: Callable[[], None], max_message_bytes: int
    ) -> None:
        self._chunk_bytes = min(CHUNK_BYTES, max_message_bytes - _ENVELOPE_BYTES)
        self._state = state
        self._records = records
        self._on_import = on_import

    def GetState(
        self, request: upkeep_pb2.GetStateRequest, context: grpc.ServicerContext
    ) -> upkeep_pb2.GetStateResponse:
        """Returns the size and the revisions of the state."""
        return upkeep_pb2.GetStateResponse(
            service=self._state.service,
            num_rows=self._state.num_rows(),
            revisions=self._state.revisions(),
            known_revisions=self._state.known_revisions(),
        )

    def ListReferences(
        self, request: upkeep_pb2.ListReferencesRequest, context: grpc.ServicerContext
    ) -> Iterator[upkeep_pb2.ListReferencesResponse]:
        """Streams every artifact to which a row refers."""
        for group in self._state.references():
            yield upkeep_pb2.ListReferencesResponse(references=group.references)

    def ExportState(
        self, request: upkeep_pb2.ExportStateRequest, context: grpc.ServicerContext
    ) -> Iterator[upkeep_pb2.ExportStateResponse]:
        """Streams a state file with a snapshot of the state."""
        with _spool() as file:
            self._state.dump(file)
            file.seek(0)
            while data := file.read(self._chunk_bytes):
                yield upkeep_pb2.ExportStateResponse(data=data)

    def ImportState(
        self, requests: Iterator[upkeep_pb2.ImportStateRequest], context: grpc.ServicerContext
    ) -> upkeep_pb2.ImportStateResponse:
        """Imports a state file, atomically."""
        with _spool() as file:
            for request in requests:
                file.write(request.data)
            file.seek(0)
            num_rows = self._state.load(file)
        self._on_import()
        return upkeep_pb2.ImportStateResponse(num_rows=num_rows)

    def BeginCollection(
        self, request: upkeep_pb2.BeginCollectionRequest, context: grpc.ServicerContext
    ) -> upkeep_pb2.BeginCollectionResponse:
        """Records blobs that are about to be deleted."""
        name = self._records.begin(request.parent, request.digests, request.num_bytes)
        return upkeep_pb2.BeginCollectionResponse(name=name)

    def EndCollection(
        self, request: upkeep_pb2.EndCollectionRequest, context: grpc.ServicerContext
    ) -> upkeep_pb2.EndCollectionResponse:
        """Records blobs that were deleted."""
        name = self._records.end(request.parent, request.digests, request.num_bytes)
        return upkeep_pb2.EndCollectionResponse(name=name)


@contextlib.contextmanager
def _spool() -> Iterator[BinaryIO]:
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise disk_error(error, Path(tempfile.gettempdir()), "temporary files") from error
