"""What a process imports before it is ready: nothing slow that it needs later or never."""

import subprocess
import sys

import pytest

from deepseek.services import SERVICES
from tests.harness.command_line import COMMAND_LINE

SLOW = ("PIL", "alembic", "cryptography", "jwt", "minio", "numpy", "onnxruntime", "prometheus_client", "pyarrow")
NEEDED = {"federated": {"numpy"}, "inference": {"numpy", "onnxruntime"}, "watermark": {"PIL", "numpy"}}
"""Libraries that a service works with in most of its modules."""


def imports(module: str) -> set[str]:
    """Returns the names of all modules that a module imports."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def slow_imports(module: str) -> set[str]:
    """Returns which of the slow libraries a module imports."""
    return imports(module) & set(SLOW)


def test_the_command_line_starts_without_slow_libraries() -> None:
    starting = [module for module in COMMAND_LINE.split(", ") if module != "deepseek.cli.demo_steps"]  # draws pictures
    assert slow_imports(", ".join(starting)) == set()


def test_up_starts_the_services_before_it_imports_the_client() -> None:
    loaded = imports("deepseek.cli.app, deepseek.cli.mesh")
    assert "deepseek.services" in loaded
    assert not loaded & {"grpc", "pydantic", "sqlalchemy", "deepseek.embedded", "deepseek.client"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_without_slow_libraries(service: str) -> None:
    assert slow_imports(f"services.{service}.__main__, services.{service}.service") <= NEEDED.get(service, set())
