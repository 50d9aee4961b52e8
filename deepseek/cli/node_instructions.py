"""The file with which a machine joins as a node without access to the mesh: `register` writes it, `join` reads it.

It contains no secret. A machine that uses it trusts its root certificate, so it should come from the coordinator.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import InvalidArgument
from common.files import replace_file
from common.text_files import NotUtf8, read_text
from deepseek.client.names import node_name

_MAX_BYTES = 1 << 20
_ADDRESS = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,300}:[0-9]{1,5}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class NodeInstructions:
    """What a node needs to join.

    Attributes:
        node: `federations/<id>/nodes/<id>`.
        fingerprint: Fingerprint of the key with which the node was registered.
        superlink_address: `host:port` at which nodes reach the SuperLink.
        root_certificate: Root certificate of the SuperLink in PEM form; empty if it uses no TLS.
    """

    node: str
    fingerprint: str
    superlink_address: str
    root_certificate: str

    def write(self, path: Path) -> None:
        """Writes the file.

        Raises:
            OSError: The file cannot be written.
        """
        replace_file(path, json.dumps(asdict(self), indent=2).encode() + b"\n", mode=0o644)

    @classmethod
    def read(cls, path: Path, *, field: str) -> "NodeInstructions":
        """Reads a file that `write` wrote.

        Args:
            path: The file.
            field: Name of the option that names the file.

        Raises:
            InvalidArgument: BAD_INSTRUCTIONS.
        """
        remedy = "have the coordinator write one with `deepseek federated register FEDERATION ID KEY.pub --output FILE`"
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError("the file is too large")
            values = json.loads(read_text(path))
            found = cls(**{name: str(values[name]) for name in cls.__dataclass_fields__})
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}; {remedy}"
            raise InvalidArgument("BAD_INSTRUCTIONS", message, field=field) from error
        except NotUtf8 as error:
            raise InvalidArgument("BAD_INSTRUCTIONS", f"{path} {error}", field=field) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"{path} contains no instructions for a node; {remedy}"
            raise InvalidArgument("BAD_INSTRUCTIONS", message, field=field) from error
        certificate = found.root_certificate
        valid = {
            "fingerprint": _FINGERPRINT.fullmatch(found.fingerprint),
            "superlink_address": _ADDRESS.fullmatch(found.superlink_address),
            "root_certificate": not certificate or (certificate.isascii() and certificate.startswith(_CERTIFICATE)),
        }
        if wrong := [name for name, right in valid.items() if not right]:
            message = f"{path} has an invalid {wrong[0]}; {remedy}"
            raise InvalidArgument("BAD_INSTRUCTIONS", message, field=field)
        node_name(found.node, field=field)
        return found
