"""Callers and their roles."""

import enum
from dataclasses import dataclass

from common.names import DEFAULT_TENANT
from protos.auth.v1 import auth_pb2


class Role(enum.IntEnum):
    """What a caller may do; each role may do all that those before it may (`deepseek.auth.v1.Role`)."""

    PREDICTOR = auth_pb2.ROLE_PREDICTOR
    READER = auth_pb2.ROLE_READER
    WRITER = auth_pb2.ROLE_WRITER
    ADMIN = auth_pb2.ROLE_ADMIN
    OPERATOR = auth_pb2.ROLE_OPERATOR

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Caller:
    """Who makes a call.

    Attributes:
        tenant: Whose data they see.
        subject: Who they are; `service:<name>` for a service that acts for a tenant.
        role: What they may do.
    """

    tenant: str
    subject: str
    role: Role

    @property
    def is_service(self) -> bool:
        """Whether it is a service of the mesh."""
        return self.subject.startswith(SERVICE_PREFIX)


SERVICE_PREFIX = "service:"
"""Before the name of a service in a subject; no user's subject may start with it."""

LOCAL = Caller(DEFAULT_TENANT, "local", Role.OPERATOR)
"""Everyone who reaches a service that listens on loopback without TLS."""
