"""A machine outside the stack joins a federation with an invitation, and trains in rounds of the coordinator."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.processes import python, spawn, terminate
from tests.deepseek.cli.commands import deepseek, succeeded
from tests.e2e.compose.stack import Stack
from tests.services.federated.examples import run_spec
from tests.services.trainer.tasks import PICTURE_FIELDS, pictures

pytestmark = [pytest.mark.compose, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_clinic_joins_through_the_edge_and_a_round_is_released(stack: Stack, tmp_path: Path) -> None:
    clinic, key, spec = tmp_path / "clinic", tmp_path / "north.key", tmp_path / "rounds.json"
    stack.invite(clinic, "--subject north --role reader")
    with stack.connect() as mesh:
        data = mesh.datasets.upload("clinic-pictures", PICTURE_FIELDS, pictures()).name
    spec.write_text(json.dumps(run_spec(data, num_rounds=1, target_model="models/outside")), encoding="utf-8")
    succeeded(clinic, "federated", "keygen", str(key))
    succeeded(stack.home, "federated", "create", "outside")
    succeeded(stack.home, "federated", "register", "outside", "north", f"{key}.pub")
    refused = deepseek(clinic, "federated", "register", "outside", "south", f"{key}.pub")
    assert "ROLE_MISSING" in refused.stderr, "a reader may join, and not decide who joins"
    arguments = ["federated", "join", "outside/north", "--data", "mesh:clinic-pictures:1", "--key", str(key)]
    arguments += ["--folder", str(tmp_path / "north"), "--run"]
    with ExitStack() as owned:
        environment = {"DEEPSEEK_HOME": str(clinic), "PATH": "/usr/bin:/bin"}
        log = tmp_path / "node.log"
        owned.callback(terminate, spawn(python("deepseek.cli", *arguments), env=environment, log=log), grace_s=10)
        started = deepseek(stack.home, "federated", "start", "outside", str(spec), "--json")
        assert started.returncode == 0, started.stderr + log.read_text()
    run = json.loads(started.stdout)
    assert (run["state"], run["num_released"]) == ("SUCCEEDED", 1)
    with stack.connect() as mesh:
        assert [version.name for version in mesh.models.versions("outside")] == ["models/outside/versions/1"]
