"""The connection to a mesh, shared by all client classes: channels to the services, and the artifact store.

Each channel is opened when it is first used, so a client can use the other services of a mesh while one is down.
"""

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from common.artifacts import ArtifactStore
from common.auth.identity import read_token
from common.channel import MAX_MESSAGE_BYTES, open_channel
from common.errors import FailedPrecondition
from common.names import DEFAULT_TENANT
from deepseek.client.mesh_file import MeshFile


class Connection:
    """A connection to every service in a mesh. Thread-safe; use it as a context manager or call `close`.

    Args:
        file: Addresses of the services.
        deadline_s: Default deadline of a unary call, in seconds.
        patience_s: Time, in seconds, for which unary calls to an unavailable service are retried, in addition to the
            standard 1.5 s.
        max_message_bytes: Maximum size of a message that this client sends or receives. Services have their own limits.
    """

    def __init__(
        self,
        file: MeshFile,
        *,
        deadline_s: float = 30,
        patience_s: float = 0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._file = file
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._max_message_bytes = max_message_bytes
        self._channels: dict[str, grpc.Channel] = {}

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services in the mesh."""
        return tuple(self._file.services)

    def channel(self, service: str) -> grpc.Channel:
        """Returns the channel to a service. Callers may create their own stubs on this channel.

        Raises:
            FailedPrecondition: SERVICE_NOT_IN_MESH if the mesh has no such service.
        """
        if service not in self._channels:
            if service not in self._file.services:
                known = ", ".join(sorted(self._file.services))
                raise FailedPrecondition("SERVICE_NOT_IN_MESH", f"this mesh has no {service} service; it has {known}")
            self._channels[service] = open_channel(
                self._file.services[service].address,
                identity=Path(self._file.identity) if self._file.identity else None,
                token_file=Path(self._file.token_file) if self._file.token_file else None,
                service=service,
                deadline_s=self._deadline_s,
                patience_s=self._patience_s,
                max_message_bytes=self._max_message_bytes,
            )
        return self._channels[service]

    @property
    def tenant(self) -> str:
        """The tenant whose data this client sees: the token's tenant, or the default tenant if the client has no token.

        Raises:
            FailedPrecondition: BAD_TOKEN_FILE if the token file cannot be read or is empty.
            InvalidArgument: BAD_TOKEN if the file does not contain a token.
        """
        if not self._file.token_file:
            return DEFAULT_TENANT
        from common.auth.tokens import unverified_tenant

        return unverified_tenant(read_token(Path(self._file.token_file)))

    @property
    def reaches_store(self) -> bool:
        """Whether this client can read from the artifact store directly, because the mesh file names the store."""
        return self._file.store is not None

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store that the mesh file names.

        Raises:
            FailedPrecondition: STORE_NOT_IN_MESH if the mesh file does not name a store.
        """
        if not self._file.store:
            message = "the mesh file does not name the artifact store; run this on the machine where the services run"
            raise FailedPrecondition("STORE_NOT_IN_MESH", message)
        return self._file.store.open()

    def close(self) -> None:
        """Closes the channels and cancels active calls."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
