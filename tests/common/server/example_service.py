"""`python -m tests.common.server.example_service`: a whole service process for tests."""

import sys
from contextlib import ExitStack

from common.server import MeshServer, run
from tests.common.server.servicer import ExampleServicer, example_server
from tests.common.settings import ExampleSettings


def build(settings: ExampleSettings, owned: ExitStack) -> MeshServer:
    servicer = ExampleServicer()
    servicer.leave.wait(0)
    owned.callback(print, "closed", flush=True)
    return example_server(settings, servicer)


if __name__ == "__main__":
    sys.exit(run(ExampleSettings, build))
