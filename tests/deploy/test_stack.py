"""What the files of the stack promise, without an engine to run them."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from common.auth.certificates import make_authority
from common.config import TraceSettings
from common.telemetry.traces import DEFAULT_SAMPLING
from deepseek.services import SERVICES
from tests.harness.edge import ENVOY, configure
from tests.harness.servers import missing

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent
OVERRIDES = {"stack": [], "ci": ["deploy/compose/ci.yml"], "traces": ["deploy/compose/traces.yml"]}
ONE_SHOTS = {"init", "bucket", "cli", "upkeep"}
TO_THE_OUTSIDE = {"edge", "prometheus", "traces"}


def config(*overrides: str) -> dict[str, Any]:
    """The stack as Compose understands it."""
    files = [flag for file in ("docker-compose.yml", *overrides) for flag in ("--file", file)]
    command = [BINARIES / "docker-compose", *files, "--profile", "*", "config", "--format", "json"]
    environment = {**os.environ, "BASE_IMAGE": "base"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@pytest.fixture(scope="module", params=OVERRIDES)
def services(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = config(*OVERRIDES[request.param])["services"]
    return found


def test_every_service_of_the_mesh_is_in_the_stack(services: dict[str, dict[str, Any]]) -> None:
    assert set(SERVICES) < set(services)
    for name in SERVICES:
        assert services[name]["build"]["args"]["SERVICE"] == name
        assert services[name]["image"] == f"deepseek-mesh/{name}"


@pytest.mark.parametrize("name", OVERRIDES)
def test_compose_1_29_takes_the_files(name: str) -> None:
    old = "/usr/bin/docker-compose"
    if shutil.which(old) is None:
        missing("no Compose 1.29; on Debian install docker-compose")
    files = [flag for file in ("docker-compose.yml", *OVERRIDES[name]) for flag in ("--file", file)]
    environment = {**os.environ, "BASE_IMAGE": "base"}
    done = subprocess.run([old, *files, "config", "--quiet"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_runs_with_rights_it_does_not_need(services: dict[str, dict[str, Any]]) -> None:
    for name, one in services.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert "cap_add" not in one, name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["user"] in ("10001:10001", "nobody"), name
        assert "privileged" not in one, name
        assert not [volume for volume in one.get("volumes", ()) if volume["source"].endswith("docker.sock")], name


def test_whatever_stays_up_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    in_image = "HEALTHCHECK" in (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    for name, one in services.items():
        if name in ONE_SHOTS:
            assert one["restart"] == "no", name
        else:
            assert "healthcheck" in one or (name in SERVICES and in_image), name


def test_programs_in_the_images_import_nothing_from_where_they_run() -> None:
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    assert "PYTHONSAFEPATH=1" in dockerfile
    assert "python -P -m services.${SERVICE}" in dockerfile


def test_the_environment_holds_no_secret_but_names_of_files(services: dict[str, dict[str, Any]]) -> None:
    for name, one in services.items():
        for variable, value in one.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "SECRET", "KEY", "TOKEN", "ROOT_USER")):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.startswith(("/secrets/", "/volumes/secrets/")), f"{name}: {variable}"
            assert urlsplit(value).password is None, f"{name}: {variable}"


def test_settings_are_those_that_a_service_knows(services: dict[str, dict[str, Any]]) -> None:
    for name in SERVICES:
        (settings,) = (
            one
            for one in vars(import_module(f"services.{name}.settings")).values()
            if getattr(one, "service", None) is SERVICES[name]
        )
        known = {settings.variable(field) for field in settings.model_fields}
        known |= {f"DEEPSEEK_{field}".upper() for field in TraceSettings.model_fields}
        given = {variable for variable in services[name]["environment"] if variable.startswith("DEEPSEEK_")}
        assert given <= known, name
        assert settings.variable("identity") in given


def test_only_the_edge_and_prometheus_can_be_reached_and_from_this_machine_only(
    services: dict[str, dict[str, Any]],
) -> None:
    published = {name: one["ports"] for name, one in services.items() if one.get("ports")}
    assert set(published) == TO_THE_OUTSIDE & set(services)
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}
    assert {name for name, one in services.items() if "outside" in (one.get("networks") or {})} == set(published)
    assert config()["networks"]["state"]["internal"] is config()["networks"]["mesh"]["internal"] is True


def test_traces_are_off_until_somebody_says_where_to(services: dict[str, dict[str, Any]]) -> None:
    collector = "http://traces:4317" if "traces" in services else ""
    for name in SERVICES:
        environment = services[name]["environment"]
        assert environment["DEEPSEEK_OTLP_ENDPOINT"] == collector, name
        assert float(environment["DEEPSEEK_TRACE_SAMPLING"]) == DEFAULT_SAMPLING, name
    if collector:
        assert {"mesh", "outside"} == set(services["traces"]["networks"])


def test_traces_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"DEEPSEEK_OTLP_ENDPOINT": "http://collector:4317", "DEEPSEEK_TRACE_SAMPLING": "0.5"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in SERVICES:
        assert given.items() <= config()["services"][name]["environment"].items(), name


def test_a_service_is_given_its_own_identity_only(services: dict[str, dict[str, Any]]) -> None:
    for name in (*SERVICES, "edge"):
        volumes = {volume["source"]: volume for volume in services[name]["volumes"]}
        identities = [source for source in volumes if source.startswith("identity")]
        assert identities == [f"identity-{name}"]
        assert volumes[identities[0]]["read_only"] is True


def test_envoy_takes_its_configuration_and_knows_every_service(tmp_path: Path) -> None:
    make_authority(tmp_path, ["registry"])
    text = (ROOT / "deploy/envoy/envoy.yaml").read_text(encoding="utf-8")
    for name, service in SERVICES.items():
        assert f"socket_address: {{address: {name}, port_value: {service.port}}}" in text
        assert f"exact: spiffe://deepseek-mesh/service/{name}" in text
    config_file = configure(tmp_path, tmp_path / "edge", {})
    command = [ENVOY, "--mode", "validate", "--config-path", config_file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_prometheus_takes_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("no `promtool`; on Debian install prometheus")
    command = [promtool, "check", "config", ROOT / "deploy/prometheus/prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
