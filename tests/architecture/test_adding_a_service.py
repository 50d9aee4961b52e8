"""The exercise of adding a service: what follows from its declaration and its folder, and what is edited by hand."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.services import SERVICES
from deploy.stack import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("common", "deepseek", "deploy", "kernels", "protos", "services")
GENERATED = (*TEMPLATES.values(), "requirements.lock")
"""Files that a command makes, besides those of protobuf."""

DECLARATION = """

CLOCK = Service(
    name="clock",
    contract="deepseek.clock.v1.ClockService",
    port=7100,
    metrics_port=9100,
    calls={"registry": Role.READER, "trainer": Role.WRITER},
    uses=frozenset({Uses.STORE, Uses.JOBS}),
    secrets={"pendulum_file": "pendulum"},
)
DECLARATIONS = (
    replace(REGISTRY, grants={**REGISTRY.grants, "clock": Role.READER}),
    INGEST,
    replace(TRAINER, grants={**TRAINER.grants, "clock": Role.WRITER}),
    TUNER,
    FEDERATED,
    WATERMARK,
    INFERENCE,
    CLOCK,
)
SERVICES = catalogue(*DECLARATIONS)
"""
FOLDER = {
    "protos/clock/__init__.py": "",
    "protos/clock/v1/__init__.py": "",
    "protos/clock/v1/clock.proto": """
syntax = "proto3";
package deepseek.clock.v1;
import "protos/auth/v1/auth.proto";
service ClockService {
  rpc GetTime(GetTimeRequest) returns (GetTimeResponse) { option (deepseek.auth.v1.role) = ROLE_READER; }
  rpc WatchTime(WatchTimeRequest) returns (stream WatchTimeResponse) {
    option (deepseek.auth.v1.role) = ROLE_READER;
  }
}
message GetTimeRequest {}
message GetTimeResponse { int64 time_us = 1; }
message WatchTimeRequest {}
message WatchTimeResponse { int64 time_us = 1; }
""",
    "services/clock/__init__.py": "",
    "services/clock/__main__.py": """
import sys
from common.launch import run
from services.clock.settings import ClockSettings

if __name__ == "__main__":
    sys.exit(run(ClockSettings))
""",
    "services/clock/settings.py": """
from pathlib import Path
from common.config import ServiceSettings, settings_for
from deepseek.services import SERVICES

@settings_for(SERVICES, "clock")
class ClockSettings(ServiceSettings):
    pendulum_file: Path | None = None
""",
    "services/clock/migrations/__init__.py": "",
    "services/clock/service.py": """
import time
from protos.clock.v1 import clock_pb2, clock_pb2_grpc

class ClockServicer(clock_pb2_grpc.ClockServiceServicer):
    def GetTime(self, request, context):
        return clock_pb2.GetTimeResponse(time_us=time.time_ns() // 1000)

def references(session):
    return ()

def build(process):
    process.run_jobs(process.open_jobs(), {}, grace_s=1)
    process.channel("registry"), process.channel("trainer")
    return process.grpc_service(clock_pb2_grpc.add_ClockServiceServicer_to_server, ClockServicer())
""",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with one more service: its folder and its declaration, nothing else."""
    root = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "wheelhouse"))
    for path, text in FOLDER.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    declarations = root / "deepseek" / "services.py"
    text = declarations.read_text(encoding="utf-8") + DECLARATION
    declarations.write_text(text.replace("\n\n", "\n\nfrom dataclasses import replace\n", 1), encoding="utf-8")
    out = ("--python_out=.", "--grpc_python_out=.")
    run(root, "-m", "grpc_tools.protoc", "-I.", *out, "protos/clock/v1/clock.proto")
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on the sources of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root), "DEEPSEEK_HOME": str(root / "home")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def test_the_stack_has_the_service(checkout: Path) -> None:
    checked = run(checkout, "-m", "deploy.stack", "--check")
    assert checked.returncode == 1
    assert "docker-compose.yml does not match" in checked.stderr
    rendered = run(checkout, "-m", "deploy.stack")
    assert rendered.returncode == 0, rendered.stderr
    assert run(checkout, "-m", "deploy.stack", "--check").returncode == 0
    stack, envoy, prometheus, image = (
        (checkout / path).read_text(encoding="utf-8")
        for path in (
            "docker-compose.yml",
            "deploy/envoy/envoy.yaml",
            "deploy/prometheus/prometheus.yml",
            "deploy/docker/Dockerfile",
        )
    )
    for line in (
        "DEEPSEEK_CLOCK_METRICS_PORT: 9100",
        "DEEPSEEK_CLOCK_REGISTRY: registry:7001",
        "DEEPSEEK_CLOCK_TRAINER: trainer:7003",
        "DEEPSEEK_CLOCK_STORE_URL: s3+http://store:9000/artifacts",
        "DEEPSEEK_CLOCK_PENDULUM_FILE: /secrets/clock/pendulum",
        "- identity-clock:/identity:ro",
        "- clock-secrets:/volumes/secrets/clock",
        "- clock:/volumes/homes/clock:ro",
    ):
        assert line in stack
    assert "match: {path: /deepseek.clock.v1.ClockService/WatchTime}" in envoy
    assert "match: {prefix: /deepseek.clock.v1.ClockService/}" in envoy
    assert "regex: registry|ingest|trainer|tuner|federated|watermark|inference|clock" in envoy
    assert "exact: spiffe://deepseek-mesh/service/clock" in envoy
    assert '"clock:9100"' in prometheus
    assert "/volumes/secrets/clock" in image


def test_the_settings_have_what_the_declaration_implies(checkout: Path) -> None:
    shown = run(checkout, "-m", "services.clock", "--help")
    assert shown.returncode == 0, shown.stderr
    for flag in ("--registry", "--trainer", "--store-url", "--max-jobs-per-tenant", "--pendulum-file"):
        assert flag in shown.stdout
    wrong = run(checkout, "-m", "services.clock", "--trainer", "nowhere")
    assert "trainer" in wrong.stderr
    assert wrong.returncode == 1


def test_the_mesh_starts_the_service_and_passes_it_the_addresses_of_all_that_it_calls(checkout: Path) -> None:
    try:
        started = run(checkout, "-m", "deepseek.cli", "up", "--free-ports")
        assert started.returncode == 0, started.stderr
        shown = run(checkout, "-m", "deepseek.cli", "status", "--json")
        services = {one["service"]: one for one in json.loads(shown.stdout.splitlines()[-1])}
        assert {name: one["state"] for name, one in services.items()} == dict.fromkeys([*SERVICES, "clock"], "serving")
        argv = Path(f"/proc/{services['clock']['pid']}/cmdline").read_bytes().decode().split("\0")
        for callee in ("registry", "trainer"):
            assert argv[argv.index(f"--{callee}") + 1] == services[callee]["address"]
    finally:
        run(checkout, "-m", "deepseek.cli", "down")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("port=7100", "port=7001", "port 7001 is declared by both registry and clock"),
        ("    CLOCK,\n", "    CLOCK,\n    CLOCK,\n", "service clock is declared twice"),
        (
            'READER, "trainer"',
            'READER, "tower": Role.READER, "trainer"',
            "service clock calls tower, which is not declared",
        ),
        ('"clock": Role.WRITER', '"clock": Role.READER', "clock calls trainer as writer, which trainer does not grant"),
        ("    CLOCK,\n", "", "folder services/clock has no declaration"),
        ("clock.v1.ClockService", "clock.v1.Clock", "declares the contract deepseek.clock.v1.Clock, which protos/"),
        (
            "port=7100",
            'resources=("hour",), port=7100',
            "declares the field hour, which no message of its contracts has",
        ),
    ],
)
def test_a_wrong_declaration_fails_the_check_with_one_line(
    checkout: Path, before: str, after: str, line: str, tmp_path: Path
) -> None:
    shutil.copytree(checkout / "deepseek", tmp_path / "deepseek")
    for name in ("common", "deploy", "protos", "services"):
        (tmp_path / name).symlink_to(checkout / name)
    declarations = tmp_path / "deepseek" / "services.py"
    text = declarations.read_text(encoding="utf-8")
    assert before in text
    declarations.write_text(text.replace(before, after), encoding="utf-8")
    done = run(tmp_path, "-m", "deploy.stack", "--check")
    assert done.returncode == 1
    (only,) = [one for one in done.stderr.splitlines() if one.strip()]
    assert line in only


def test_a_declaration_without_a_folder_fails_the_check_with_one_line(checkout: Path, tmp_path: Path) -> None:
    for name in ("common", "deepseek", "protos"):
        (tmp_path / name).symlink_to(checkout / name)
    for name in ("deploy", "services"):
        shutil.copytree(checkout / name, tmp_path / name)
    shutil.rmtree(tmp_path / "services" / "clock")
    done = run(tmp_path, "-m", "deploy.stack", "--check")
    assert (done.returncode, done.stderr.strip()) == (1, "service clock is declared but has no folder services/clock")


def test_few_files_that_exist_are_edited_by_hand_and_the_documentation_lists_them() -> None:
    """A file that names every service must be edited for the next one; pages of docs/ only describe services."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Adding a service")[2]
    listed = re.findall(r"^\d+\. `([^`]+)`", text, re.MULTILINE)
    assert 1 <= len(listed) <= 6
    assert [path for path in listed if not (ROOT / path).exists()] == []
    naming = [path for path in hand_written() if names_every_service(ROOT / path)]
    assert set(naming) <= set(listed)


def hand_written() -> Iterator[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in done.stdout.splitlines():
        if path not in GENERATED and not re.search(r"_pb2|^docs/|\.(png|binpb|onnx)$", path) and (ROOT / path).exists():
            yield path


def names_every_service(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".py":
        return all(re.search(rf"\b{name}\b", text) for name in SERVICES)
    words = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            words.add((node.module or "").removeprefix("services.").partition(".")[0])
        elif isinstance(node, ast.Name):
            words.add(node.id.lower())
        elif isinstance(node, ast.keyword):
            words.add(node.arg)
    return SERVICES.keys() <= words
