"""The Flower app of federated runs, as the files of a Flower App Bundle (FAB).

The bundle is small: its modules import the server app and the client app of this package, which a node has installed. A
node therefore runs its own version of the code, and the worker compares the versions.
"""

from deepseek.federated.product import product_version

FAB_ID = "deepseek/deepseek-federated"
"""Publisher and name of the app, by which runs are recognized."""

SOCKET_KEY, RUN_KEY, POLL_KEY = "relay-socket", "run-key", "poll-interval"
"""Keys of the run's configuration."""

ELSEWHERE = "RELAY_ELSEWHERE"
"""Reason of the error with which the ServerApp ends if it is not on the machine of the coordinator."""

POLICY_KEYS = ("min-noise", "max-sampling-rate", "max-steps", "ignore-budget")
"""Keys of a node's configuration that set the fields of `deepseek.federated.node_policy.NodePolicy`."""

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"
description = "Carries the tasks of federated runs of DeepSeek Mesh"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "deepseek_federated_app.server:app"
clientapp = "deepseek_federated_app.client:app"

[tool.flwr.app.config]
{socket} = ""
{run} = ""
{poll} = 0.2
"""


def app_files() -> dict[str, bytes]:
    """Returns the content of each file of the app by its path."""
    publisher, _, name = FAB_ID.partition("/")
    pyproject = _PYPROJECT.format(
        publisher=publisher, name=name, version=product_version(), socket=SOCKET_KEY, run=RUN_KEY, poll=POLL_KEY
    )
    return {
        "pyproject.toml": pyproject.encode(),
        "deepseek_federated_app/__init__.py": b"",
        "deepseek_federated_app/server.py": b"from deepseek.federated.flower.relay_app import app  # noqa: F401\n",
        "deepseek_federated_app/client.py": b"from deepseek.federated.flower.client_app import app  # noqa: F401\n",
    }
