"""Renders the Docker Compose stack's files from the services' declarations: `python -m deploy.stack [--check]`.

Each template in `deploy/templates/` produces one file. The produced files are committed, and never edited by hand. If a
declaration is invalid, the program writes nothing and reports each fault on a line of its own. With `--check`, the
program never writes files; it also reports each file that differs from what its template would now produce.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.contracts import find_service, import_contracts
from common.service import ARTIFACT_CONTRACT, UPKEEP_CONTRACT, Service, Uses, declaration_faults
from deepseek.services import DECLARATIONS, SERVICES

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = {
    "docker-compose.yml": "docker-compose.yml",
    "ci.yml": "deploy/compose/ci.yml",
    "traces.yml": "deploy/compose/traces.yml",
    "Dockerfile": "deploy/docker/Dockerfile",
    "envoy.yaml": "deploy/envoy/envoy.yaml",
    "prometheus.yml": "deploy/prometheus/prometheus.yml",
}
"""Path of the file that each template produces, relative to the root of the repository."""

CLOSED = frozenset({UPKEEP_CONTRACT})
"""gRPC services that users cannot reach, because the edge has no route for them."""

_CHOSEN = "cluster_header: deepseek-service"
"""Route action that forwards each call to the service that the call's `deepseek-service` header names."""


@dataclass(frozen=True)
class Route:
    """A route of the edge proxy, which forwards calls to methods of one gRPC service.

    Attributes:
        match: Condition that the path of a call must meet, in Envoy's syntax.
        cluster: Field of Envoy's route action that selects the service to which the call is forwarded.
        shared: Whether several services of the mesh host the gRPC service. If so, each call must name one of them in
            the `deepseek-service` header.
        is_stream: Whether the requests, the responses or both are streamed.
        takes_stream: Whether the requests are streamed.
    """

    match: str
    cluster: str
    shared: bool
    is_stream: bool = False
    takes_stream: bool = False


def render(services: Mapping[str, Service]) -> dict[str, str]:
    """Renders the files of the stack.

    Args:
        services: Declarations by service name. The contracts that the declarations name must be under `protos/`.

    Returns:
        The content of each file, by its path relative to the root of the repository.
    """
    environment = Environment(
        loader=FileSystemLoader(ROOT / "deploy" / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    import_contracts()
    names = list(services)
    chosen = f"[{{name: deepseek-service, string_match: {{safe_regex: {{regex: {'|'.join(names)}}}}}}}]"
    context = {
        "services": list(services.values()),
        "by_name": services,
        "names": f"{', '.join(names[:-1])} or {names[-1]}",
        "headers": f", headers: {chosen}",
        "routes": sorted(_routes(services), key=lambda route: not route.is_stream),
        "variable": lambda service, setting: f"DEEPSEEK_{service.name}_{setting}".upper(),
        "Uses": Uses,
    }
    return {
        path: environment.get_template(f"{name}.j2").render(
            context, generated=f"Generated from deploy/templates/{name}.j2 by `make stack`; edit that file."
        )
        for name, path in TEMPLATES.items()
    }


def _routes(services: Mapping[str, Service]) -> Iterator[Route]:
    """Yields the routes of the edge proxy.

    For each gRPC service, there is one route per streaming method, and one route for all other methods together.
    """
    hosts: dict[str, list[str]] = {}
    for name, service in services.items():
        for contract in service.contracts:
            hosts.setdefault(contract, []).append(name)
    for contract, names in hosts.items():
        if contract in CLOSED:
            continue
        # All hosts of ArtifactService read the same blobs, so the edge can forward every such call to the first host.
        shared = len(names) > 1 and contract != ARTIFACT_CONTRACT
        cluster = _CHOSEN if shared else f"cluster: {names[0]}"
        for method in find_service(contract).methods:
            if method.client_streaming or method.server_streaming:
                path = f"path: /{contract}/{method.name}"
                yield Route(path, cluster, shared, is_stream=True, takes_stream=method.client_streaming)
        yield Route(f"prefix: /{contract}/", cluster, shared)
    yield Route("path: /grpc.health.v1.Health/Check", _CHOSEN, shared=True)


def _contract_faults(services: Iterable[Service]) -> list[str]:
    """Returns one line for each mismatch between a service's declaration and the contracts that it declares."""
    import_contracts()
    found = []
    for service in services:
        known: set[str] = set()
        missing = []
        for contract in service.own_contracts:
            try:
                messages = find_service(contract).file.message_types_by_name.values()
            except KeyError:
                missing.append(contract)
                continue
            known |= {field.name for message in messages for field in message.fields}
        if missing:
            found += [
                f"service {service.name} declares the contract {contract}, which protos/ does not have"
                for contract in missing
            ]
            continue
        found += [
            f"service {service.name} declares the field {field}, which no message of its contracts has"
            for field in (*service.resources, *service.parents)
            if field not in known
        ]
    return found


def main() -> int:
    """Writes the stack's files or, with `--check`, checks them. Returns the program's exit status."""
    folders = [path.parent.name for path in (ROOT / "services").glob("*/__init__.py")]
    found = declaration_faults(DECLARATIONS, folders) or _contract_faults(DECLARATIONS)
    if not found:
        rendered = render(SERVICES)
        if "--check" in sys.argv[1:]:
            found = [
                f"{path} does not match the declarations and its template: run 'make stack'"
                for path, text in rendered.items()
                if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text
            ]
        else:
            for path, text in rendered.items():
                (ROOT / path).write_text(text, encoding="utf-8")
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
