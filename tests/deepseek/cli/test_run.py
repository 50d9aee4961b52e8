"""`deepseek train` without a terminal, Ctrl-C, and `deepseek run`."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepseek.client import MeshFile, ServiceAddress, StoreAddress
from deepseek.models.selection import MIN_SPEEDUP
from deepseek.processor import instruction_set
from tests.harness.processes import wait_until
from tests.services.trainer.conftest import TrainerMesh, start_trainer
from tests.services.trainer.tasks import picture_spec

DEEPSEEK = Path(sys.executable).with_name("deepseek")


class CommandLine:
    """The command line on a mesh of a registry and a trainer."""

    def __init__(self, mesh: TrainerMesh, folder: Path) -> None:
        self.folder = folder
        services = {one.name: ServiceAddress(one.address, one.pid) for one in (mesh.registry, mesh.trainer)}
        MeshFile(services, StoreAddress.of_services(mesh.home), "", "").write(mesh.home / "mesh.json")
        self.environment = {**os.environ, "DEEPSEEK_HOME": str(mesh.home)}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        command = [str(DEEPSEEK), *arguments]
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err


@pytest.mark.slow
def test_a_run_is_left_listed_watched_and_stopped(tmp_path: Path) -> None:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned)
        deepseek = CommandLine(mesh, tmp_path)
        for name, epochs in (("long", 100_000), ("short", 1)):
            spec = picture_spec(mesh.pictures, epochs=epochs, num_workers=1, precision="PRECISION_FP32")
            (tmp_path / f"{name}.json").write_text(json.dumps(spec))
        training = deepseek.start("train", "long.json", "--json")

        def states() -> list[str]:
            return [run["state"] for run in json.loads(deepseek("run", "list", "--json")[1])]

        wait_until(lambda: states() == ["running"], "the run to begin")
        training.send_signal(signal.SIGINT)
        out, err = training.communicate(timeout=60)
        ((run,),) = [[one["run"] for one in json.loads(deepseek("run", "list", "--json")[1])]]
        run_id = run.removeprefix("runs/")
        assert (training.returncode, out) == (130, "")
        assert f"{run} continues" in err
        assert f"deepseek run watch {run_id}" in err
        assert f"deepseek run stop {run_id}" in err
        assert "\x1b" not in err
        assert states() == ["running"]

        waiting = deepseek.start("train", "short.json", "--json")
        wait_until(lambda: states() == ["pending", "running"], "the second run to wait")
        assert f"waits for {run}" in deepseek("run", "list")[1]
        for name in (["pictures:1"], ["pictures", "--all"]):
            status, _, err = deepseek("dataset", "delete", *name)
            assert (status, "VERSION_IN_USE" in err, f"{run} trains on pictures:1" in err) == (1, True, True)
        wait_until(lambda: json.loads(deepseek("run", "show", run_id, "--json")[1])["progress"] > 0, "the first steps")
        attached = deepseek.start("train", "long.json")
        assert attached.stdout is not None
        assert attached.stdout.readline() == f"{run} already exists\n"
        status, out, _ = deepseek("run", "stop", run_id)
        assert status == 0
        assert run in out
        _, err = attached.communicate(timeout=60)
        assert attached.returncode == 1
        assert f"{run} was stopped; to resume it, repeat the same `deepseek train`" in " ".join(err.split())
        assert "jobs/" not in err
        out, err = waiting.communicate(timeout=240)
        result = json.loads(out)
        assert set(result["metrics"]) == {"loss", "accuracy"}
        assert f"waits for {run}" in err
        assert "training 3 of 3" in err
        status, out, _ = deepseek("run", "show", result["run"], "--json")
        shown = json.loads(out)
        assert (status, shown["state"], shown["metrics"]) == (0, "succeeded", result["metrics"])
        assert shown["spec"]["epochs"] == 1
        status, out, _ = deepseek("run", "watch", result["run"])
        assert (status, "accuracy" in out) == (0, True)
        assert deepseek("run", "show", "runs/none")[0] == 1

        # The same spec finds the run again, and exports it in both forms.
        train = ("train", "short.json", "--model", "short", "--int8", "--int8-max-loss")
        status, out, _ = deepseek(*train, "1", "--json")
        version = json.loads(out)
        assert (status, version["run"], version["created"]) == (0, result["run"], True)
        fp32, int8 = version["files"]
        assert (fp32["variant"], int8["variant"], int8["instruction_set"]) == ("fp32", "int8", instruction_set())
        is_faster = fp32["latency_ms"] >= MIN_SPEEDUP * int8["latency_ms"]
        assert version["preferred"] == ("int8" if is_faster else "fp32")
        status, out, _ = deepseek(*train, "1")
        assert (status, "preferred file: " in out, "checks this again" in out) == (0, True, True)
        assert f"{version['model_version']} already exists" in out
        status, out, err = deepseek(*train, "2")  # before anything is trained
        assert (status, out) == (2, "")
        assert "--int8-max-loss" in err

        resuming = deepseek.start("train", "long.json")
        assert resuming.stdout is not None
        assert resuming.stderr is not None
        resumed = resuming.stdout.readline().removesuffix(" submitted\n")
        first = next(line for line in resuming.stderr if line.startswith(("resumed", "precision")))
        assert first.startswith("resumed at step ")
        assert deepseek("run", "stop", resumed)[0] == 0
        resuming.communicate(timeout=60)
