"""Describes how a node joins: the address of the SuperLink, its root certificate, and the exact command."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import InvalidArgument
from services.federated.nodes import NodeStore
from services.federated.superlink import SuperLink

DEFAULT_FOLDER = PurePosixPath("/var/lib/deepseek")
_MAX_PATH = 4096
_NOT_IN_COMMANDS = frozenset('"\\\x7f') | {chr(code) for code in range(32)}


@dataclass(frozen=True)
class NodeFiles:
    """Places on the machine of a node. `deepseek.federated.v1.GetJoinInstructionsRequest` documents them."""

    data: str = ""
    private_key_file: str = ""
    root_certificate_file: str = ""
    work_folder: str = ""
    port: int = 0

    def checked(self, node_id: str) -> "NodeFiles":
        """Returns the places with defaults filled in.

        Raises:
            InvalidArgument: BAD_VALUE.
        """
        folder = DEFAULT_FOLDER / node_id
        filled = NodeFiles(
            self.data or str(folder / "data"),
            self.private_key_file or str(folder / "node.key"),
            self.root_certificate_file or str(folder / "superlink.pem"),
            self.work_folder or str(folder / "work"),
            self.port,
        )
        for field in ("data", "private_key_file", "root_certificate_file", "work_folder"):
            value = getattr(filled, field)
            if len(value) > _MAX_PATH or _NOT_IN_COMMANDS & set(value):
                message = f"{field} has more than {_MAX_PATH} characters, a quote, a backslash or a control character"
                raise InvalidArgument("BAD_VALUE", message, field=field)
            if field != "data" and not value.startswith("/"):
                message = f"{field} is {value[:200]!r}; write the absolute path on the machine of the node"
                raise InvalidArgument("BAD_VALUE", message, field=field)
        if not 0 <= filled.port < 1 << 16:
            message = f"port is {filled.port}; it must be from 1 to 65535, or 0 for the default"
            raise InvalidArgument("BAD_VALUE", message, field="port")
        return filled


@dataclass(frozen=True)
class Instructions:
    """How a node joins. `deepseek.federated.v1.GetJoinInstructionsResponse` documents the attributes."""

    superlink_address: str
    root_certificate: str
    command: list[str]
    environment: Mapping[str, str]


class JoinService:
    """Describes how registered nodes join. Thread-safe.

    Args:
        nodes: Registered nodes.
        superlink: The SuperLink to which nodes connect.
        address: `host:port` at which nodes reach the SuperLink; empty if only nodes on this machine can.
    """

    def __init__(self, nodes: NodeStore, superlink: SuperLink, address: str) -> None:
        self._nodes = nodes
        self._superlink = superlink
        self._address = address

    def instructions(self, tenant: str, name: str, files: NodeFiles) -> Instructions:
        """Returns how a node joins.

        Raises:
            NotFound: NODE_NOT_FOUND.
            InvalidArgument: BAD_NAME or BAD_VALUE.
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        node = self._nodes.get(tenant, name)
        places = files.checked(node.node_id)
        # Imported here, because most coordinators never need Flower.
        from deepseek.federated.flower.flower_engine import FlowerEngine
        from deepseek.federated.flower.superlink import SuperLinkAddress
        from deepseek.federated.flower.supernode import NodeConfig, printed_command

        engine = self._superlink.engine()
        assert isinstance(engine, FlowerEngine), "only tests use another engine"
        root, address = engine.root_certificates, self._address or engine.address
        trusted = Path(places.root_certificate_file) if root else None
        config = NodeConfig(
            superlink=SuperLinkAddress(address, trusted),
            private_key=Path(places.private_key_file),
            work_folder=Path(places.work_folder),
            data=places.data,
        )
        certificate = root.read_text(encoding="ascii") if root else ""
        return Instructions(address, certificate, *printed_command(config, places.port))
