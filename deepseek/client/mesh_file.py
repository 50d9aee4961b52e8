"""The mesh file: the addresses of the services in a mesh.

A process that starts or joins a mesh writes this file to `<home>/mesh.json`. Clients only read it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from common.artifacts import ArtifactStore, open_store
from common.environment import home
from common.errors import FailedPrecondition, InvalidArgument
from common.files import replace_file
from common.text_files import NotUtf8, read_text
from deepseek.services import INGEST


@dataclass(frozen=True)
class ServiceAddress:
    """Address of one service.

    Attributes:
        address: `host:port`.
        pid: Process id if the service runs on this machine; otherwise 0.
    """

    address: str
    pid: int = 0


@dataclass(frozen=True)
class StoreAddress:
    """Address of the artifact store. Only clients on the same machine as the services can use it.

    Attributes:
        url: URL for `common.artifacts.open_store`.
        access_key_file: File with the S3 access key; empty if none is needed.
        secret_key_file: File with the S3 secret key; empty if none is needed.
    """

    url: str
    access_key_file: str = ""
    secret_key_file: str = ""

    @classmethod
    def of_services(cls, home: Path) -> Self:
        """Returns the address of the store that services in `home` use if they inherit this process's environment."""
        from common.config import StoreSettings  # imports pydantic slowly; programs that only connect do not need it

        settings = StoreSettings.of(INGEST, home)
        access, secret = settings.store_access_key_file, settings.store_secret_key_file
        return cls(settings.store_url, str(access or ""), str(secret or ""))

    def open(self) -> ArtifactStore:
        """Opens the store."""
        access, secret = (Path(file) if file else None for file in (self.access_key_file, self.secret_key_file))
        return open_store(self.url, access_key_file=access, secret_key_file=secret, make=False)


@dataclass(frozen=True)
class MeshFile:
    """Content of the mesh file.

    Attributes:
        services: Address of each service by name, e.g. `registry`. For a mesh behind an edge, every entry is the edge's
            address.
        store: Address of the artifact store; None if clients cannot access the store directly.
        identity: Folder with the trusted CA and the client's certificate (`common.auth.Identity`); empty without TLS.
        token_file: File with the user's token; empty if the mesh does not require tokens.
    """

    services: Mapping[str, ServiceAddress]
    store: StoreAddress | None = None
    identity: str = ""
    token_file: str = ""

    @staticmethod
    def default_path() -> Path:
        """Returns the default path of the mesh file."""
        return home() / "mesh.json"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a mesh file.

        Raises:
            FailedPrecondition: MESH_NOT_FOUND if the file is missing, MESH_FILE_UNREADABLE if it cannot be read.
            InvalidArgument: BAD_MESH_FILE if it is not a valid mesh file.
        """
        try:
            document = json.loads(read_text(path))
            services = {name: ServiceAddress(**service) for name, service in document["services"].items()}
            store = StoreAddress(**document["store"]) if document.get("store") else None
            return cls(services, store, document.get("identity", ""), document.get("token_file", ""))
        except (FileNotFoundError, NotADirectoryError):
            raise FailedPrecondition(
                "MESH_NOT_FOUND", f"no mesh is running here ({path} is missing); start one with `deepseek up`"
            ) from None  # the cause would add a second traceback, but no information
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}; run this as the user who started the mesh"
            raise FailedPrecondition("MESH_FILE_UNREADABLE", message, field="home") from error
        except NotUtf8 as error:
            raise InvalidArgument("BAD_MESH_FILE", f"{path} {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(
                "BAD_MESH_FILE", f"{path} is not a valid mesh file; run `deepseek down`, then `deepseek up`"
            ) from error

    def write(self, path: Path) -> None:
        """Writes the file atomically: a reader sees either the old or the new content."""
        document = {
            "services": {name: asdict(service) for name, service in self.services.items()},
            "store": asdict(self.store) if self.store else None,
            "identity": self.identity,
            "token_file": self.token_file,
        }
        replace_file(path, (json.dumps(document, indent=2) + "\n").encode(), mode=0o644)
