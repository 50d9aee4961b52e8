"""deepseek.upkeep.v1.UpkeepService, hosted by every service that has state: protobuf <-> State, CollectionRecords.

State files are spooled on their way: a snapshot or a transaction must not last as long as a client likes to take.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import grpc

from common.artifacts.store import disk_error
from common.config import ServiceSettings
from common.database import Database
from common.server import Hosted
from common.upkeep.dump import References, State
from common.upkeep.records import CollectionRecords
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

CHUNK_BYTES = 1 << 20
SERVICE = "deepseek.upkeep.v1.UpkeepService"

_ENVELOPE_BYTES = 16  # the part of a message besides its data


class UpkeepServicer(upkeep_pb2_grpc.UpkeepServiceServicer):
    """Gives out and takes in the state of one service, and keeps records for whoever deletes from the store.

    Args:
        state: Of the service.
        records: Of collections.
        on_import: Called once a state was taken in, to take up what it says.
        max_message_bytes: Largest message of the server.
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
        """Tells what state there is."""
        return upkeep_pb2.GetStateResponse(
            service=self._state.service,
            num_rows=self._state.num_rows(),
            revisions=self._state.revisions(),
            known_revisions=self._state.known_revisions(),
        )

    def ListReferences(
        self, request: upkeep_pb2.ListReferencesRequest, context: grpc.ServicerContext
    ) -> Iterator[upkeep_pb2.ListReferencesResponse]:
        """Sends every artifact that a row refers to."""
        for group in self._state.references():
            yield upkeep_pb2.ListReferencesResponse(references=group.references)

    def ExportState(
        self, request: upkeep_pb2.ExportStateRequest, context: grpc.ServicerContext
    ) -> Iterator[upkeep_pb2.ExportStateResponse]:
        """Sends the state of one moment."""
        with _spool() as file:
            self._state.dump(file)
            file.seek(0)
            while data := file.read(self._chunk_bytes):
                yield upkeep_pb2.ExportStateResponse(data=data)

    def ImportState(
        self, requests: Iterator[upkeep_pb2.ImportStateRequest], context: grpc.ServicerContext
    ) -> upkeep_pb2.ImportStateResponse:
        """Takes a state in, all of it or nothing."""
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
        """Records what is about to be deleted."""
        name = self._records.begin(request.parent, request.digests, request.num_bytes)
        return upkeep_pb2.BeginCollectionResponse(name=name)

    def EndCollection(
        self, request: upkeep_pb2.EndCollectionRequest, context: grpc.ServicerContext
    ) -> upkeep_pb2.EndCollectionResponse:
        """Records what of that has gone."""
        name = self._records.end(request.parent, request.digests, request.num_bytes)
        return upkeep_pb2.EndCollectionResponse(name=name)


def hosted(
    settings: ServiceSettings,
    database: Database,
    migrations: Path,
    references: References,
    *,
    on_import: Callable[[], None] = lambda: None,
) -> Hosted:
    """What a server hosts for a service's state.

    Args:
        settings: Of the service.
        database: Its database, migrated.
        migrations: Folder of its revisions.
        references: What its rows refer to.
        on_import: As for the servicer.
    """
    state = State(settings.service, database, migrations, references)
    records = CollectionRecords(settings.audit_file.parent / "collections")
    servicer = UpkeepServicer(state, records, on_import, settings.max_message_bytes)
    return Hosted(SERVICE, upkeep_pb2_grpc.add_UpkeepServiceServicer_to_server, servicer)


@contextlib.contextmanager
def _spool() -> Iterator[BinaryIO]:
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise disk_error(error, Path(tempfile.gettempdir()), "temporary files") from error
