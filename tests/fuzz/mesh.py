"""A mesh of real processes that has one of everything, and valid requests for all of its methods."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from deepseek.services import SERVICES
from tests.harness.contracts import Method
from tests.harness.examples import Example, Existing, examples_of, requests_of
from tests.harness.mesh import embedded_mesh


@dataclass(frozen=True, repr=False)
class FuzzedMesh:
    """A mesh, and what makes sense in it.

    Attributes:
        home: Where it lives.
        channels: A plain channel to each service.
        requests: Examples by service and method.
        known: Texts that mean something to the services.
    """

    home: Path
    channels: Mapping[str, grpc.Channel]
    requests: Mapping[str, Mapping[str, Example]]
    known: Sequence[str]

    def valid(self, method: Method, num_requests: int = 1) -> list[Message]:
        """Valid requests of one call."""
        example = self.requests[method.service].get(method.name, {})
        messages = example(num_requests) if callable(example) else [example] * num_requests
        return [json_format.ParseDict(dict(fields), method.request()) for fields in messages]

    def call(self, method: Method, requests: Sequence[bytes]) -> None:
        """Calls a method and takes its responses, but no more than the first few of many.

        Raises:
            grpc.RpcError: The server refuses the call.
        """
        call = getattr(self.channels[method.service], method.kind)(method.path)
        response = call(iter(requests) if method.descriptor.client_streaming else requests[0], timeout=60)
        if not method.descriptor.server_streaming:
            return
        if method.descriptor.client_streaming:
            for _ in response:
                pass
            return
        # A watch of a service's health continues after its first response until the health changes.
        for _ in zip(range(1 if "Health" in method.path else 3), response, strict=False):
            pass
        response.cancel()

    def logged_bugs(self) -> list[str]:
        """Lines of the services' logs that report an unexpected error."""
        logs = {name: self.home / "logs" / f"{name}.log" for name in SERVICES}
        return [
            f"{name}: {line}"
            for name, path in logs.items()
            for line in path.read_text(encoding="utf-8").splitlines()
            if "Traceback" in line
        ]


@contextmanager
def fuzzed_mesh(home: Path) -> Iterator[FuzzedMesh]:
    """Runs a mesh and makes one of everything."""
    with embedded_mesh(home) as running, running.connect() as mesh:
        existing = Existing(mesh)
        requests = {name: requests_of(name, existing) for name in SERVICES}
        words = [word for name in SERVICES for word in examples_of(name).words]
        channels = {name: grpc.insecure_channel(running.file.services[name].address) for name in SERVICES}
        try:
            yield FuzzedMesh(home, channels, requests, (*existing.names, *words))
        finally:
            for channel in channels.values():
                channel.close()
