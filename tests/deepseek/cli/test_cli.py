"""The command line without a mesh: help, wrong usage, files that are not what they should be."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.auth import Role
from common.auth.certificates import make_authority
from common.auth.tokens import issue_token
from common.database import Database
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit import AuditLog
from common.telemetry.audit_records import Head
from deepseek.client import MeshFile, ServiceAddress
from tests.common.auth.certificates import renew_as_old
from tests.common.telemetry.spans import read_spans
from tests.deepseek.cli.commands import assert_refused, deepseek

COMMANDS = [
    "demo",
    "up",
    "down",
    "status",
    "ask",
    "predict",
    "dataset",
    "run",
    "model",
    "train",
    "infer",
    "doctor",
    "audit",
    "certs",
    "token",
    "invite",
    "join",
    "gc",
    "backup",
    "restore",
    "watermark",
]


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = deepseek(tmp_path, command, "--help")
    assert done.returncode == 0
    assert len(done.stdout) > 200


def test_wrong_usage_is_status_2(tmp_path: Path) -> None:
    assert deepseek(tmp_path, "nothing").returncode == 2
    assert deepseek(tmp_path, "ask", str(tmp_path / "missing.png"), "what?").returncode == 2


def test_down_without_a_mesh_says_so(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "down")
    assert (done.returncode, done.stdout) == (0, "no mesh is running here\n")
    assert json.loads(deepseek(tmp_path, "down", "--json").stdout) == {"stopped": []}


def test_certificates_and_tokens_are_reported_as_json(tmp_path: Path) -> None:
    folder = str(tmp_path / "authority")
    made = json.loads(deepseek(tmp_path, "certs", "init", folder, "--name", "registry", "--json").stdout)
    assert made == {"folder": folder, "services": ["registry"]}
    renewed = json.loads(deepseek(tmp_path, "certs", "renew", folder, "--name", "registry", "--json").stdout)
    assert renewed == {"folder": folder, "renewed": ["registry"]}
    rotated = json.loads(deepseek(tmp_path, "certs", "rotate", folder, "--json").stdout)
    assert rotated == {"folder": folder, "revoked": False}
    token = json.loads(deepseek(tmp_path, "token", "--identity", folder, "--subject", "ana", "--json").stdout)
    assert (token["file"], token["subject"], token["role"]) == (str(tmp_path / "token"), "ana", "writer")


def test_a_spec_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{")
    done = deepseek(tmp_path, "train", str(tmp_path / "spec.json"))
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: BAD_SPEC_FILE" in done.stderr
    assert "field: spec" in done.stderr


@pytest.mark.parametrize(("name", "content"), [("spec.json", b'{"epochs": "\xff"}'), ("spec.toml", b'a = "\xff"')])
def test_a_spec_that_is_not_utf_8_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    done = deepseek(tmp_path, "train", str(tmp_path / name))
    assert_refused(done, "INVALID_ARGUMENT: BAD_SPEC_FILE", "spec")
    assert name in done.stderr


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_home_that_cannot_be_made_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = ["--report", str(tmp_path / "report")] if command == "demo" else []
    done = deepseek(tmp_path / "file" / "home", command, *report)
    assert_refused(done, "FAILED_PRECONDITION: HOME_NOT_WRITABLE", "home")
    assert "DEEPSEEK_HOME" in done.stderr


@pytest.mark.parametrize("command", ["status", "down"])
def test_no_mesh_runs_in_a_home_that_cannot_be(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = deepseek(tmp_path / "file" / "home", command)
    assert "no mesh is running here" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_that_cannot_be_written_is_named_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = deepseek(tmp_path / "home", "demo", "--report", str(tmp_path / "file" / "report"))
    assert_refused(done, "FAILED_PRECONDITION: OUTPUT_NOT_WRITABLE", "--report")
    assert not (tmp_path / "home").exists()


def test_outputs_that_cannot_be_written_are_named_before_a_model_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = deepseek(tmp_path, "infer", "model", "--output", str(tmp_path / "file" / "out.npz"))
    assert_refused(done, "FAILED_PRECONDITION: OUTPUT_NOT_WRITABLE", "--output")


@pytest.mark.parametrize("grace", ["", "soon", "-1h", "1", "1y", "1h30m"])
def test_a_grace_period_that_is_none_is_refused(grace: str, tmp_path: Path) -> None:
    done = deepseek(tmp_path, "gc", f"--grace={grace}")
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: BAD_VALUE" in done.stderr
    assert "field: --grace" in done.stderr


def test_doctor_reports_what_it_finds(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "doctor", "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout.splitlines()[-1])}
    assert {"Python", "torch", "ONNX Runtime", "gRPC", "processor", "home"} <= set(checks)
    assert checks["Python"]["ok"]


@pytest.mark.parametrize(("days_left", "ok"), [(40, True), (20, True), (-1, False)])
def test_doctor_tells_how_long_certificate_and_token_are_good_for(days_left: float, ok: bool, tmp_path: Path) -> None:
    make_authority(tmp_path / "identity", ["registry"])
    renew_as_old(tmp_path / "identity", "cli", days_left=days_left)
    signing_key = tmp_path / "identity" / "signing" / "key.pem"
    token = tmp_path / "token"
    clock = time.time if ok else lambda: time.time() - 7200
    made = issue_token(signing_key, "ana", tenant="lab", role=Role.READER, lifetime_s=3600, clock=clock)
    token.write_text(made, encoding="ascii")
    services = {"registry": ServiceAddress("127.0.0.1:1")}
    MeshFile(services, identity=str(tmp_path / "identity" / "cli"), token_file=str(token)).write(tmp_path / "mesh.json")

    done = deepseek(tmp_path, "doctor", "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout.splitlines()[-1])}
    assert (checks["certificate"]["ok"], checks["token"]["ok"]) == (ok, ok)
    assert ("certs renew" in checks["certificate"]["found"]) == (days_left < 30)
    assert ("deepseek token" in checks["token"]["found"]) == (not ok)


def test_audit_verify_needs_no_running_service(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/state/registry.db")
    database.migrate()
    file = tmp_path / "audit" / "registry.jsonl"
    log = AuditLog(file, "registry", DatabaseAnchor(database, file))
    for number in range(3):
        log.append(tenant="t", subject="ann", method="/s/M", resource=f"models/{number}")
    log.close()
    database.close()

    done = deepseek(tmp_path, "audit", "verify", "--service", "registry", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [{"service": "registry", "records": 3, "findings": []}])

    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1].replace(b"ann", b"bob")]))
    done = deepseek(tmp_path, "audit", "verify", "--service", "registry")
    assert done.returncode == 1
    assert f"{file}:2: was changed" in done.stdout

    file.write_bytes(b"".join(lines[:2]))
    done = deepseek(tmp_path, "audit", "verify", "--service", "registry")
    assert done.returncode == 1
    assert f"{file}:3: record 3 is missing at the end" in done.stdout


def test_audit_verify_misses_an_anchor(tmp_path: Path) -> None:
    class NoAnchor:
        def read(self) -> None:
            return None

        def write(self, head: Head) -> None:
            pass

    log = AuditLog(tmp_path / "audit" / "registry.jsonl", "registry", NoAnchor())
    log.append(tenant="t", subject="ann", method="/s/M")
    log.close()
    done = deepseek(tmp_path, "audit", "verify", "--service", "registry")
    assert done.returncode == 1
    assert "no anchor" in done.stdout


def test_audit_verify_does_not_judge_a_log_whose_service_is_elsewhere_and_away(tmp_path: Path) -> None:
    services = {"registry": ServiceAddress("127.0.0.1:1")}
    MeshFile(services).write(tmp_path / "mesh.json")
    done = deepseek(tmp_path, "audit", "verify", "--service", "registry")
    assert done.returncode == 1
    assert "SERVICE_UNREACHABLE" in done.stderr


def test_audit_verify_knows_the_services(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "audit", "verify", "--service", "nothing")
    assert done.returncode == 1
    assert "UNKNOWN_SERVICE" in done.stderr


def test_a_command_is_a_trace_where_it_can_be_sent(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("deepseek"), "down"],
        env={**os.environ, "DEEPSEEK_HOME": str(tmp_path / "home"), "DEEPSEEK_TRACE_FILE": "spans.jsonl"},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    (span,) = read_spans(tmp_path / "spans.jsonl")
    assert (span["service"], span["name"]) == ("deepseek-cli", "deepseek down")


def test_a_wrong_trace_setting_is_told(tmp_path: Path) -> None:
    environment = {**os.environ, "DEEPSEEK_HOME": str(tmp_path), "DEEPSEEK_OTLP_ENDPOINT": "nowhere"}
    command = [Path(sys.executable).with_name("deepseek"), "down"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "otlp_endpoint" in done.stderr
    assert "BAD_SETTING" in done.stderr


def test_a_mistyped_command_gets_one_suggestion(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "modle")
    assert done.returncode == 2
    assert done.stderr.count("Did you mean 'model'?") == 1
    done = deepseek(tmp_path, "model", "lits")
    assert done.returncode == 2
    assert done.stderr.count("id you mean") == 1
