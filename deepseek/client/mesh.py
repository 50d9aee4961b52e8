"""How a client finds the services: one mesh file, written by whoever started them.

The file lies at `<home>/mesh.json` and names each service's address, and the store that they share. A client only
reads it; channels are opened when first used, so a mesh with one service down still serves the others.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from common.artifacts import ArtifactStore, open_store
from common.auth.identity import read_token
from common.channel import MAX_MESSAGE_BYTES, open_channel
from common.config import StoreSettings, home
from common.errors import FailedPrecondition, InvalidArgument
from common.names import DEFAULT_TENANT
from common.text_files import NotUtf8, read_text

if TYPE_CHECKING:
    from deepseek.client.artifacts import Artifacts
    from deepseek.client.datasets import Datasets
    from deepseek.client.inference import Inference
    from deepseek.client.models import Models
    from deepseek.client.runs import Runs
    from deepseek.client.watermarks import Watermarks


@dataclass(frozen=True)
class ServiceAddress:
    """Where one service answers.

    Attributes:
        address: `host:port`.
        pid: Its process, if it runs on this machine; 0 otherwise.
    """

    address: str
    pid: int = 0


@dataclass(frozen=True)
class StoreAddress:
    """Where the artifact store is, for clients on the machine of the services.

    Attributes:
        url: As `common.artifacts.open_store` takes it.
        access_key_file: File with the S3 access key; empty if there is none.
        secret_key_file: File with the S3 secret key; empty if there is none.
    """

    url: str
    access_key_file: str = ""
    secret_key_file: str = ""

    @classmethod
    def of_services(cls, home: Path) -> Self:
        """The store that services started from this environment use."""
        settings = StoreSettings.of("ingest", home)
        access, secret = settings.store_access_key_file, settings.store_secret_key_file
        return cls(settings.store_url, str(access or ""), str(secret or ""))

    def open(self) -> ArtifactStore:
        """Opens the store."""
        access, secret = (Path(file) if file else None for file in (self.access_key_file, self.secret_key_file))
        return open_store(self.url, access_key_file=access, secret_key_file=secret, make=False)


@dataclass(frozen=True)
class MeshFile:
    """Contents of the mesh file.

    Attributes:
        services: Address of each service by name, e.g. `registry`; behind an edge all are the edge's.
        store: The artifact store; None if clients cannot reach it.
        identity: Folder with whom to trust and who we are (`common.auth.Identity`); empty means no TLS.
        token_file: File with the user's token; empty if none is needed.
    """

    services: Mapping[str, ServiceAddress]
    store: StoreAddress | None = None
    identity: str = ""
    token_file: str = ""

    @staticmethod
    def default_path() -> Path:
        """Where the mesh file lies unless a caller says otherwise."""
        return home() / "mesh.json"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a mesh file.

        Raises:
            FailedPrecondition: MESH_NOT_FOUND if there is none, MESH_FILE_UNREADABLE if it cannot be read.
            InvalidArgument: BAD_MESH_FILE if it is not one.
        """
        try:
            document = json.loads(read_text(path))
            services = {name: ServiceAddress(**service) for name, service in document["services"].items()}
            store = StoreAddress(**document["store"]) if document.get("store") else None
            return cls(services, store, document.get("identity", ""), document.get("token_file", ""))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FailedPrecondition(
                "MESH_NOT_FOUND", f"no mesh runs here ({path} is missing); start one with `deepseek up`"
            ) from error
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}; it belongs to whoever started the mesh"
            raise FailedPrecondition("MESH_FILE_UNREADABLE", message, field="home") from error
        except NotUtf8 as error:
            raise InvalidArgument("BAD_MESH_FILE", f"{path} {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(
                "BAD_MESH_FILE", f"{path} is not a mesh file; run `deepseek down`, then `deepseek up`"
            ) from error

    def write(self, path: Path) -> None:
        """Writes the file so that a reader sees the old or the new one, never a part."""
        document = {
            "services": {name: asdict(service) for name, service in self.services.items()},
            "store": asdict(self.store) if self.store else None,
            "identity": self.identity,
            "token_file": self.token_file,
        }
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


class Mesh:
    """A connection to every service of a mesh. Thread-safe; use it as a context manager or call `close`.

    Args:
        file: Where the services are.
        deadline_s: Seconds that a unary call may take unless it says otherwise.
        patience_s: Seconds for which a unary call waits for a service that is away, besides the usual 1.5 s.
        max_message_bytes: Largest message that is sent or received; services have their own limits.
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
        """Names of the services that the mesh has."""
        return tuple(self._file.services)

    def channel(self, service: str) -> grpc.Channel:
        """The channel to a service, for stubs of your own.

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
        """Whose data this client sees: that of its token.

        Raises:
            FailedPrecondition: BAD_TOKEN_FILE.
            InvalidArgument: BAD_TOKEN.
        """
        if not self._file.token_file:
            return DEFAULT_TENANT
        from common.auth.tokens import unverified_tenant

        return unverified_tenant(read_token(Path(self._file.token_file)))

    @cached_property
    def artifacts(self) -> "Artifacts":
        """The bytes behind versions, checkpoints and manifests."""
        from deepseek.client.artifacts import Artifacts

        return Artifacts(self)

    @cached_property
    def datasets(self) -> "Datasets":
        """Uploads, data set versions and their samples."""
        from deepseek.client.datasets import Datasets

        return Datasets(self)

    @cached_property
    def runs(self) -> "Runs":
        """Training runs and exports."""
        from deepseek.client.runs import Runs

        return Runs(self)

    @cached_property
    def models(self) -> "Models":
        """Models, their versions, aliases and lineage."""
        from deepseek.client.models import Models

        return Models(self)

    @cached_property
    def inference(self) -> "Inference":
        """Loaded models, over the Open Inference Protocol."""
        from deepseek.client.inference import Inference

        return Inference(self)

    @cached_property
    def watermarks(self) -> "Watermarks":
        """Marks in images and text, and their keys."""
        from deepseek.client.watermarks import Watermarks

        return Watermarks(self)

    @property
    def reaches_store(self) -> bool:
        """Whether this client reads from the artifact store itself."""
        return self._file.store is not None

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store, where this client can reach it.

        Raises:
            FailedPrecondition: STORE_NOT_IN_MESH if the mesh file names none.
        """
        if not self._file.store:
            raise FailedPrecondition(
                "STORE_NOT_IN_MESH", "this mesh does not tell its clients where the artifact store is"
            )
        return self._file.store.open()

    def close(self) -> None:
        """Closes the channels; calls under way are cancelled."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    path: Path | str | None = None, *, deadline_s: float = 30, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> Mesh:
    """Connects to a mesh.

    Args:
        path: The mesh file; None means `mesh.json` in the home directory (`DEEPSEEK_HOME`, else `~/.deepseek`).
        deadline_s: Seconds that a unary call may take unless it says otherwise.
        max_message_bytes: Largest message that is sent or received; raise it if the services accept larger ones.

    Raises:
        FailedPrecondition: MESH_NOT_FOUND if no mesh was started here.
        InvalidArgument: BAD_MESH_FILE if the file is not one.
    """
    file = MeshFile.read(Path(path) if path else MeshFile.default_path())
    return Mesh(file, deadline_s=deadline_s, max_message_bytes=max_message_bytes)
