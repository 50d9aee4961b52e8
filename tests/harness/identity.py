"""Certificates, tokens and the headers that carry them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.auth import Role
from common.auth.certificates import make_authority
from common.auth.identity import Identity
from common.auth.tokens import issue_token

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Authority:
    """An authority that can issue tokens. Made by `new_authority`.

    Attributes:
        folder: Its folder, with the key that signs tokens and one identity per service.
    """

    folder: Path

    @property
    def signing_key(self) -> Path:
        """The file of the key that signs tokens."""
        return self.folder / "signing" / "key.pem"

    def token(
        self,
        role: Role = Role.ADMIN,
        tenant: str = "lab",
        *,
        subject: str = "ana",
        clock: Callable[[], float] = time.time,
    ) -> str:
        """Issues a token that is valid for an hour."""
        return issue_token(self.signing_key, subject, tenant=tenant, role=role, lifetime_s=3600, clock=clock)

    def write_token(self, path: Path, role: Role = Role.ADMIN, tenant: str = "lab", *, subject: str = "ana") -> Path:
        """Writes a new token to a file, and returns the file."""
        path.write_text(self.token(role, tenant, subject=subject), encoding="ascii")
        return path

    def forged(self, **claims: Any) -> str:
        """Returns an admin's token with other claims, signed with the key of the authority."""
        token = self.token()
        changed = jwt.decode(token, options={"verify_signature": False}) | claims
        key: Any = load_pem_private_key(self.signing_key.read_bytes(), None)
        return jwt.encode(changed, key, "EdDSA", headers={"kid": jwt.get_unverified_header(token)["kid"]})

    def identity(self, name: str) -> Path:
        """The folder with the certificate of a service, of the `edge`, or of users (`cli`)."""
        return self.folder / name


def new_authority(folder: Path, services: Iterable[str]) -> Authority:
    """Makes an authority with an identity for each of some services."""
    make_authority(folder, list(services))
    return Authority(folder)


def plain_channel(address: str, identity: Path) -> grpc.Channel:
    """Opens a TLS channel as any gRPC library does, without retries and deadlines of ours."""
    return grpc.secure_channel(address, Identity(identity).channel_credentials())


def bearer(token: str) -> Metadata:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)
