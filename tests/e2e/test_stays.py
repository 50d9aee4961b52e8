"""A mesh that stays: up, status, ask, down; and clients that are not ours."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseek.client import MeshFile, connect
from deepseek.services import SERVICES
from tests.e2e.conftest import Demo, Home
from tests.harness.processes import processes_of, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

STOCK_CLIENT = """
import sys
import numpy as np
import tritonclient.grpc as triton

address, requests, answers = sys.argv[1:]
client = triton.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("easy-vqa")
output = client.get_model_metadata("easy-vqa").outputs[0].name
data = np.load(requests)
scores = []
for image, question in zip(data["image"], data["question"]):
    inputs = []
    for name, array, datatype in (("image", image, "UINT8"), ("question", question, "INT64")):
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    scores.append(client.infer("easy-vqa", inputs).as_numpy(output))
np.save(answers, np.stack(scores))
"""


def test_status_shows_every_service(running_mesh: Home) -> None:
    done = running_mesh.run("status", "--json")
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout.splitlines()[-1])
    assert {s["service"]: s["state"] for s in services} == dict.fromkeys(SERVICES, "serving")


def test_the_next_demo_resumes_the_run_from_its_checkpoint(running_mesh: Home, demo: Demo) -> None:
    with connect(running_mesh.path / "mesh.json") as mesh:
        run = mesh.runs.get(str(demo.figures["run"]))
        attempts = [event.attempt for event in mesh.runs.watch(run.name) if event.HasField("attempt")]
        steps = [event.checkpoint.step for event in mesh.runs.watch(run.name) if event.HasField("checkpoint")]
    assert attempts[0].start_step == 0
    assert attempts[-1].start_step > 0
    assert attempts[-1].start_step in steps
    assert steps == sorted(set(steps)), "two writers made checkpoints"


def test_the_model_of_the_demo_is_served_again_after_a_restart(running_mesh: Home) -> None:
    done = running_mesh.run("ask", "demo-report/example.png", "what shape is it?", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["answer"] in ("circle", "rectangle", "triangle")


def test_a_stock_client_gets_the_same_answers(running_mesh: Home, tmp_path: Path) -> None:
    from deepseek.demo import easy_vqa
    from deepseek.models.inputs import encode_inputs

    file = MeshFile.read(running_mesh.path / "mesh.json")
    with connect(running_mesh.path / "mesh.json") as mesh:
        manifest = mesh.models.manifest(mesh.models.version("models/easy-vqa/versions/latest"))
        test = [sample for sample in easy_vqa.samples() if sample.split == "test"][:40]
        requests = [
            encode_inputs(manifest, {"image": sample.values["image"], "question": question})
            for sample in test
            for question in sample.values["question"][:3]
        ]
        ours = [next(iter(mesh.inference.infer("easy-vqa", request).values())) for request in requests]
    np.savez(tmp_path / "requests.npz", **{k: np.stack([r[k] for r in requests]) for k in ("image", "question")})
    subprocess.run(
        [
            sys.executable,
            "-c",
            STOCK_CLIENT,
            file.services["inference"].address,
            tmp_path / "requests.npz",
            tmp_path / "a.npy",
        ],
        check=True,
        timeout=120,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.stack(ours))


def test_up_leaves_a_running_mesh_alone(running_mesh: Home) -> None:
    before = MeshFile.read(running_mesh.path / "mesh.json")
    assert running_mesh.run("up").returncode == 0
    assert MeshFile.read(running_mesh.path / "mesh.json") == before


def test_up_starts_what_was_killed(running_mesh: Home) -> None:
    pid = MeshFile.read(running_mesh.path / "mesh.json").services["ingest"].pid
    os.kill(pid, signal.SIGKILL)
    try:
        wait_until(lambda: pid not in processes_of(running_mesh.path), "the service to end")
        status = running_mesh.run("status")
    finally:
        up = running_mesh.run("up", "--free-ports")
    assert status.returncode == 1
    assert "down" in status.stdout
    assert up.returncode == 0
    assert running_mesh.run("status").returncode == 0


def test_a_mesh_that_is_down_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = Home(tmp_path / "none").run("status")
    assert done.returncode == 1
    assert "MESH_NOT_FOUND" in done.stderr
    assert "deepseek up" in done.stderr


def test_down_leaves_no_process(demo: Demo) -> None:
    assert demo.home.run("up", "--free-ports").returncode == 0
    assert processes_of(demo.home.path)
    assert demo.home.run("down").returncode == 0
    assert processes_of(demo.home.path) == {}
