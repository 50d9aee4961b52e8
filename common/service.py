"""The declaration of a service: its name, contract and ports, the services it calls, and the parts of the mesh it uses.

The declarations are in `deepseek/services.py`; no code in `common` names a particular service. Settings, the embedded
mesh, the files of the stack and the tests are derived from the declarations.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.auth.caller import Role

ARTIFACT_CONTRACT = "deepseek.artifact.v1.ArtifactService"
AUDIT_CONTRACT = "deepseek.audit.v1.AuditService"
JOB_CONTRACT = "deepseek.job.v1.JobService"
UPKEEP_CONTRACT = "deepseek.upkeep.v1.UpkeepService"


class Uses(enum.Enum):
    """A part of the mesh that a service uses."""

    STORE = "the artifact store"
    JOBS = "durable jobs; hosts JobService"
    ARTIFACTS = "serves artifacts from the store; hosts ArtifactService"


@dataclass(frozen=True)
class Service:
    """The declaration of a service. Every service has a database, and hosts UpkeepService and AuditService.

    Attributes:
        name: Name of the service, one word. It is also the name of its folder, certificate and table of settings.
        contract: Full name of the service's own gRPC service, under which health checks report readiness.
        port: Default port of the service.
        metrics_port: Port of the service's metrics in the stack.
        calls: Role that this service needs in each service that it calls, keyed by the callee's name.
        grants: Role of each service that may call this one, keyed by the caller's name.
        uses: The parts of the mesh that the service uses.
        ready_without_store: Whether the service counts as ready even while the artifact store does not respond.
        resources: Fields of messages, besides `name`, that contain the full name of a call's resource. The audit log
            records this name.
        parents: Fields of requests, besides `parent`, that contain a part of the resource's name.
        secrets: Names of the secret files that the stack creates for the service, keyed by the setting that contains
            the path of the file.
        scratch_mib: Size of the service's `/tmp` in the stack, in MiB.
        entries: Ports of the service in the stack for connections that do not come from clients of the mesh, e.g. from
            nodes of federations. The edge forwards the bytes, so the service itself terminates TLS and authenticates.
            Keyed by the first word of two settings: `<word>_listen`, the `host:port` on which the service listens, and
            `<word>_address`, the `host:port` at which clients reach it.
        further_contracts: Full names of the other gRPC services that only this service hosts, for subjects that its
            main contract does not cover.
    """

    name: str
    contract: str
    port: int
    metrics_port: int
    calls: Mapping[str, Role] = field(default_factory=dict)
    grants: Mapping[str, Role] = field(default_factory=dict)
    uses: frozenset[Uses] = frozenset()
    ready_without_store: bool = False
    resources: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    scratch_mib: int = 64
    entries: Mapping[str, int] = field(default_factory=dict)
    further_contracts: tuple[str, ...] = ()

    @property
    def own_contracts(self) -> tuple[str, ...]:
        """Full names of the gRPC services that only this service hosts, its main contract first."""
        return (self.contract, *self.further_contracts)

    @property
    def contracts(self) -> tuple[str, ...]:
        """Full names of the gRPC services that this service hosts, its own first, without health and reflection."""
        shared = {Uses.JOBS: JOB_CONTRACT, Uses.ARTIFACTS: ARTIFACT_CONTRACT}
        return (
            *self.own_contracts,
            *(contract for part, contract in shared.items() if part in self.uses),
            UPKEEP_CONTRACT,
            AUDIT_CONTRACT,
        )


def catalogue(*services: Service) -> dict[str, Service]:
    """Returns services keyed by name. They start in the given order, so callees must come before their callers."""
    return {service.name: service for service in services}


def declaration_faults(services: Iterable[Service], folders: Iterable[str]) -> list[str]:
    """Returns one line of text for each fault in the declarations.

    Args:
        services: The declarations, in order.
        folders: Names of the folders under `services/` that contain a service.
    """
    services, folders = list(services), set(folders)
    names = [service.name for service in services]
    found = [f"service {name} is declared twice" for name in sorted({name for name in names if names.count(name) > 1})]
    found += [f"service {name} is declared but has no folder services/{name}" for name in names if name not in folders]
    found += [f"folder services/{name} has no declaration" for name in sorted(folders - set(names))]
    by_name, taken = catalogue(*services), dict[int, str]()
    for service in by_name.values():
        for port in (service.port, service.metrics_port, *service.entries.values()):
            if port in taken:
                found.append(f"port {port} is declared by both {taken[port]} and {service.name}")
            taken.setdefault(port, service.name)
    for place, service in enumerate(by_name.values()):
        for callee, role in service.calls.items():
            if callee not in by_name:
                found.append(f"service {service.name} calls {callee}, which is not declared")
            elif by_name[callee].grants.get(service.name, 0) < role:
                found.append(f"service {service.name} calls {callee} as {role}, which {callee} does not grant")
            elif callee not in names[:place]:
                found.append(f"service {service.name} calls {callee} but is declared before it")
        found += [
            f"service {service.name} grants a role to {caller}, which does not call it"
            for caller in service.grants
            if service.name not in by_name.get(caller, service).calls and caller not in folders - set(names)
        ]
        if Uses.ARTIFACTS in service.uses and Uses.STORE not in service.uses:
            found.append(f"service {service.name} serves artifacts but uses no store")
    return found
