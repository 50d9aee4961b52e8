"""Callers and their roles."""

import enum
from dataclasses import dataclass

from common.names import DEFAULT_TENANT
from protos.auth.v1 import auth_pb2


class Role(enum.IntEnum):
    """Role of a caller (`deepseek.auth.v1.Role`). Each role includes the permissions of the roles listed before it."""

    PREDICTOR = auth_pb2.ROLE_PREDICTOR
    READER = auth_pb2.ROLE_READER
    WRITER = auth_pb2.ROLE_WRITER
    ADMIN = auth_pb2.ROLE_ADMIN
    OPERATOR = auth_pb2.ROLE_OPERATOR

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Caller:
    """An authenticated caller.

    Attributes:
        tenant: Tenant whose data the caller sees.
        subject: Name of the user, or `service:<name>` for a service that acts for a tenant.
        role: Role of the caller, which determines its permissions.
    """

    tenant: str
    subject: str
    role: Role

    @property
    def is_service(self) -> bool:
        """Whether the caller is a service of the mesh."""
        return self.subject.startswith(SERVICE_PREFIX)


SERVICE_PREFIX = "service:"
"""Prefix of every service's subject. No user's subject may start with it."""

LOCAL = Caller(DEFAULT_TENANT, "local", Role.OPERATOR)
"""The only caller of a service that listens on loopback without TLS."""
