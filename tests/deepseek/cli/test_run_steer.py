"""`deepseek run steer` and `deepseek train --policy`."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from deepseek.cli.run_steer import read_param
from deepseek.client import MeshFile, ServiceAddress, StoreAddress
from tests.services.trainer.conftest import start_trainer
from tests.services.trainer.tasks import picture_spec

DEEPSEEK = Path(sys.executable).with_name("deepseek")


@pytest.mark.slow
def test_a_run_is_steered_by_commands(tmp_path: Path) -> None:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned)
        services = {one.name: ServiceAddress(one.address, one.pid) for one in (mesh.registry, mesh.trainer)}
        MeshFile(services, StoreAddress.of_services(mesh.home), "", "").write(mesh.home / "mesh.json")
        environment = {**os.environ, "DEEPSEEK_HOME": str(mesh.home)}

        def deepseek(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [str(DEEPSEEK), *arguments]
            return subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
            )

        spec = picture_spec(mesh.pictures, epochs=100_000, num_workers=1, precision="PRECISION_FP32")
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        command = [str(DEEPSEEK), "train", "spec.json", "--policy", "one-cycle"]
        training = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert training.stdout is not None
        run = training.stdout.readline().split()[0]
        assert mesh.run(run).spec.policy.name == "one_cycle"

        done = deepseek("run", "steer", run, "--learning-rate", "0.003", "--momentum", "0.5", "--json")
        assert done.returncode == 0, done.stderr
        acks = json.loads(done.stdout)
        assert [ack["action"] for ack in acks] == ["set_learning_rate", "set_momentum"]
        assert acks[1]["new"] == {"learning_rate": 0.003, "momentum": 0.5}
        assert 0 < acks[0]["applied_step"] <= acks[1]["applied_step"]
        done = deepseek("run", "steer", run, "--policy", "plateau", "--param", "patience=5", "--checkpoint")
        assert done.returncode == 0, done.stderr
        assert "set_policy" in done.stdout
        assert "learning rate 0.003, momentum 0.5" in " ".join(done.stdout.split())
        for wrong, reason in (
            (["--learning-rate", "-1"], "must be finite and above 0"),
            (["--restore", "7"], "the run keeps no checkpoint of step 7"),
            (["--policy", "nowhere"], "unknown policy 'nowhere'; known: cosine, legacy_threshold"),
            (["--param", "patience=5"], "--param needs --policy"),
            ([], "say what to change"),
        ):
            done = deepseek("run", "steer", run, *wrong)
            assert (done.returncode, reason in " ".join(done.stderr.split())) == (1, True), done.stderr
        done = deepseek("run", "steer", run, "--restore", "7", "--learning-rate", "0.004", "--json")
        assert (done.returncode, "no checkpoint of step 7" in " ".join(done.stderr.split())) == (1, True)
        assert [ack["new"]["learning_rate"] for ack in json.loads(done.stdout)] == [0.004]
        assert deepseek("run", "steer", run, "--stop").returncode == 0
        training.communicate(timeout=60)
        assert deepseek("run", "steer", run, "--learning-rate", "1").returncode == 1


def test_a_parameter_is_json_or_text() -> None:
    assert read_param("patience=5") == ("patience", 5)
    assert read_param("metric=accuracy") == ("metric", "accuracy")
    assert read_param("greater_is_better=true") == ("greater_is_better", True)
    with pytest.raises(InvalidArgument, match="write name=value"):
        read_param("patience")
