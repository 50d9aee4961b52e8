"""Every way of having no business at a method, and a mesh whose services know their callers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import json_format

from common.auth import Role
from common.auth.identity import TENANT_HEADER
from deepseek.client import Mesh, MeshFile
from deepseek.services import SERVICES
from tests.harness.contracts import EVERYWHERE, Method
from tests.harness.examples import SHARED, Existing, examples_of, requests_of
from tests.harness.identity import Authority, Metadata, bearer, plain_channel

REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@dataclass(frozen=True)
class GuardedMesh:
    """A mesh whose services know their callers.

    Attributes:
        file: Where it is.
        authority: Issues tokens that it accepts.
        methods: Everything that its servers offer.
    """

    file: MeshFile
    authority: Authority
    methods: Sequence[Method]

    def channel(self, service: str, identity: Path) -> grpc.Channel:
        """A channel as any gRPC library opens it."""
        return plain_channel(self.file.services[service].address, identity)

    def client(self, role: Role, tenant: str, folder: Path) -> Mesh:
        """A client of a tenant, whose token lies in a folder."""
        token_file = self.authority.write_token(folder / f"{tenant}-{role}", role, tenant)
        return Mesh(MeshFile(self.file.services, self.file.store, str(self.authority.identity("cli")), str(token_file)))


Attempt = Callable[[Authority, Method], tuple[str, Metadata]]
"""Returns whose certificate is shown, and the metadata of the call."""


def _with_lower_role(authority: Authority, method: Method) -> tuple[str, Metadata]:
    lower = [role for role in Role if role < method.role]
    # No role is below the lowest one; a token without a role is used instead.
    return "cli", bearer(authority.token(lower[-1]) if lower else authority.forged(role=""))


ATTEMPTS: dict[str, Attempt] = {
    "a user certificate without token": lambda authority, method: ("cli", ()),
    "the edge without token": lambda authority, method: ("edge", ()),
    "expired": lambda authority, method: ("cli", bearer(authority.forged(iat=1000, exp=2000))),
    "wrong audience": lambda authority, method: ("cli", bearer(authority.forged(aud="another"))),
    "wrong issuer": lambda authority, method: ("cli", bearer(authority.forged(iss="another"))),
    "wrong role": _with_lower_role,
    "forged identity header": lambda authority, method: (
        "edge",
        (*bearer(authority.token()), (TENANT_HEADER, "default")),
    ),
    "identity header instead of a token": lambda authority, method: ("cli", ((TENANT_HEADER, "lab"),)),
    "a service without tenant": lambda authority, method: ("trainer", bearer(authority.token())),
    "a service that has no business there": lambda authority, method: (method.service, ((TENANT_HEADER, "lab"),)),
}


def requests_about(existing: Existing, methods: Sequence[Method]) -> dict[Method, bytes]:
    """Requests that name what the tenant of `existing` has, for the methods that can name something.

    Args:
        existing: What the tenant has.
        methods: The methods; those that need an operator are left out, for they are about all tenants.
    """
    found = {}
    examples = {service: requests_of(service, existing) for service in SERVICES}
    for method in methods:
        host = _host(method)
        if method.role is Role.OPERATOR or method.name in {**examples_of(host).names_nothing, **SHARED.names_nothing}:
            continue
        example = examples[host].get(method.name)
        if _is_list(method):
            example = {}
        assert example is not None, f"service {host} has no example for {method.path}"
        fields = example(1)[0] if callable(example) else example
        found[method] = json_format.ParseDict(dict(fields), method.request()).SerializeToString()
    return found


def of_another_tenant(requests: dict[Method, bytes]) -> Iterator[tuple[Method, bytes, bytes | grpc.StatusCode]]:
    """Yields each method, its request, and how it has to be answered for a tenant that has nothing."""
    for method, request in requests.items():
        unknown = examples_of(_host(method)).unknown.get(method.name, grpc.StatusCode.NOT_FOUND)
        yield method, request, b"" if _is_list(method) else unknown


def _is_list(method: Method) -> bool:
    return method.name in examples_of(_host(method)).lists | SHARED.lists


def _host(method: Method) -> str:
    """The service that answers: the one that is named, or the only one that hosts the method."""
    hosts = [name for name, service in SERVICES.items() if method.contract in (*service.contracts, *EVERYWHERE)]
    return method.service if method.service in hosts else hosts[0]
