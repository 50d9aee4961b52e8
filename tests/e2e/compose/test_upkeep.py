"""Documented commands, restarts, audit, backup and restore of the stack; the last test deletes what others need."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from deepseek.services import SERVICES
from tests.e2e.compose.stack import PROJECT, Stack, answer
from tests.harness.docker_engine import ROOT

pytestmark = [pytest.mark.compose, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]


def console_lines(page: str) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("docker ")]


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_the_documented_commands_run_as_they_stand(page: str, stack: Stack, tmp_path: Path) -> None:
    lines = console_lines(page)
    assert lines
    for line in lines:
        done = stack.shell(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


TAMPER = """
from pathlib import Path
log = Path("/home/mesh/.deepseek/audit/ingest.jsonl")
log.write_bytes(log.read_bytes().replace(b'"default"', b'"another"', 1))
"""


def test_down_and_up_again_loses_nothing_and_shows_what_was_changed_meanwhile(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        before = answer(mesh)
    with stack.without():
        volume = f"{PROJECT}_ingest:/home/mesh"
        stack.engine.docker("run", "--rm", "--volume", volume, "deepseek-mesh/ingest", "python", "-c", TAMPER)
    with stack.connect() as mesh:
        np.testing.assert_array_equal(answer(mesh), before)
    verified = stack.shell("docker compose run --rm -T upkeep audit verify --json")
    assert verified.returncode == 1
    logs = json.loads(verified.stdout)
    assert {"registry", "ingest", "trainer"} <= {log["service"] for log in logs if log["records"]}
    assert [log["service"] for log in logs if log["findings"]] == ["ingest"]


def test_an_audit_log_of_a_service_that_is_away_is_not_judged(stack: Stack) -> None:
    with stack.without("watermark"):
        verified = stack.shell("docker compose run --rm -T upkeep audit verify --service watermark")
    assert verified.returncode == 1
    assert "SERVICE_UNREACHABLE" in verified.stderr


# Last, because it deletes what the others need.
def test_a_backup_is_restored_into_an_empty_stack(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        before = answer(mesh)
    backup = stack.shell("docker compose run --rm -T upkeep backup /volumes/backup/all --json")
    assert backup.returncode == 0, backup.stderr
    assert json.loads(backup.stdout)["services"] == sorted(SERVICES)
    with stack.without():
        stack.engine.docker("volume", "rm", f"{PROJECT}_database", f"{PROJECT}_store")
    restored = stack.shell("docker compose run --rm -T upkeep restore /volumes/backup/all")
    assert restored.returncode == 0, restored.stderr
    with stack.connect() as mesh:
        np.testing.assert_array_equal(answer(mesh), before)
