"""Valid requests of every method, from `tests/services/<name>/examples.py` of each service.

Fuzzing changes them, and the tests of access send them as another tenant.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import grpc
from google.protobuf import json_format

from common.service import Uses
from common.upkeep.dump import Reference
from deepseek.client import Mesh
from deepseek.services import SERVICES
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

Fields = Mapping[str, Any]
"""The fields of a request, as JSON has them."""

Example = Fields | Callable[[int], list[Fields]]
"""The fields of every request of a call; or, where requests differ or use up what they name, a function that makes so
many of them."""


class Existing:
    """One of everything that requests name, made on first use.

    Args:
        mesh: A client of the tenant.
        given: Names of what exists already, by what they name.
    """

    def __init__(self, mesh: Mesh, **given: str) -> None:
        self.mesh = mesh
        self._names = dict(given)
        self._makers = {what: maker for name in SERVICES for what, maker in examples_of(name).makers.items()}

    def __getitem__(self, what: str) -> str:
        """Returns a name, e.g. that of an `upload`."""
        if what not in self._names:
            self._names[what] = self._makers[what](self)
        return self._names[what]

    @property
    def names(self) -> list[str]:
        """All names so far."""
        return list(self._names.values())


@dataclass(frozen=True)
class Examples:
    """The facts about one service that tests of all services use.

    Attributes:
        requests: Returns an example for each method of the service's own contracts.
        makers: How to make what requests name, and return the name; by the words with which `Existing` is asked.
        refused: Reasons with which a new mesh refuses examples, by method.
        lists: Methods whose requests need not name anything and whose responses are empty if there is nothing.
        names_nothing: Other methods whose requests name nothing that exists, and why; by method.
        unknown: Statuses of calls that name what does not exist, by method, where they are not NOT_FOUND.
        words: Texts, besides names, that mean something to the service.
        references: What the rows of `first_rows.sql` refer to in the artifact store.
    """

    requests: Callable[[Existing], Mapping[str, Example]]
    makers: Mapping[str, Callable[[Existing], str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    names_nothing: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, grpc.StatusCode] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    references: frozenset[Reference] = frozenset()


SHARED = Examples(
    requests=lambda existing: {},
    refused={"ImportState": "STATE_NOT_EMPTY"},
    lists=frozenset({"ListJobs"}),
    names_nothing={"ServerReflectionInfo": "is about the contracts"},
)
"""Of the gRPC services that several services host; `shared_requests` has their requests."""


def part_of(name: str, module: str) -> Any:
    """Imports a module of the tests of a service, e.g. its `examples`.

    Raises:
        AssertionError: There is none.
    """
    path = f"tests.services.{name}.{module}"
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        raise AssertionError(f"service {name} has no {path.replace('.', '/')}.py") from None


@cache
def examples_of(name: str) -> Examples:
    """The examples of a service.

    Raises:
        AssertionError: It has none.
    """
    found: Examples = part_of(name, "examples").EXAMPLES
    return found


def requests_of(name: str, existing: Existing) -> dict[str, Example]:
    """Examples for all methods that a service hosts, by method; those that send nothing may be missing."""
    return {**examples_of(name).requests(existing), **shared_requests(name, existing)}


def shared_requests(name: str, existing: Existing) -> dict[str, Example]:
    """Examples for the gRPC services that a service hosts besides its own."""
    contract = SERVICES[name].contract
    begin = upkeep_pb2.BeginCollectionRequest(parent="tenants/lab", digests=[existing["manifest_sha256"]], num_bytes=7)
    collection = json_format.MessageToDict(begin, preserving_proto_field_name=True)

    def upkeep() -> upkeep_pb2_grpc.UpkeepServiceStub:
        return upkeep_pb2_grpc.UpkeepServiceStub(existing.mesh.channel(name))

    @cache
    def begun() -> str:
        return str(upkeep().BeginCollection(begin).name)

    @cache
    def state() -> str:
        parts = upkeep().ExportState(upkeep_pb2.ExportStateRequest())
        return base64.b64encode(b"".join(part.data for part in parts)).decode()

    requests: dict[str, Example] = {
        "BeginCollection": collection,
        "EndCollection": lambda num_requests: [collection | {"parent": begun()}] * num_requests,
        "ImportState": lambda num_requests: [{"data": state()}] * num_requests,
        "ServerReflectionInfo": {"file_containing_symbol": contract},
        "Check": {"service": contract},
        "Watch": {"service": contract},
    }
    if Uses.JOBS in SERVICES[name].uses:
        requests |= {method: {"name": existing[f"{name}_job"]} for method in ("GetJob", "CancelJob", "WatchJob")}
        requests["ListJobs"] = {"page_size": 1, "kind": "trainer.run", "state": "JOB_STATE_CANCELLED"}
    if Uses.ARTIFACTS in SERVICES[name].uses:
        requests["ReadArtifact"] = {"sha256": existing["manifest_sha256"], "offset": 1}
    return requests
