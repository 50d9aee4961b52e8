"""What runs in the containers of the stack, and what a user gets of it."""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deepseek.services import SERVICES
from tests.e2e.compose.stack import MODEL, Stack, answer, token_of
from tests.harness.docker_engine import ROOT
from tests.harness.images import image_file

pytestmark = [pytest.mark.compose, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]
ONE_SHOTS = {"init", "bucket"}


def test_data_goes_in_and_a_served_model_comes_out(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        assert [version.name for version in mesh.models.versions(MODEL)] == [served]
        assert np.isfinite(answer(mesh)).all()


def test_a_user_asks_and_downloads_through_the_edge(stack: Stack, served: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(image_file(0))
    asked = stack.shell(f"deepseek ask {tmp_path}/image.png 'is it?' --model {MODEL} --json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["answer"] in ("yes", "no")
    done = stack.shell(f"deepseek model download {served} --output {tmp_path}/model")
    assert done.returncode == 0, done.stderr
    with stack.connect() as mesh:
        manifest = mesh.models.manifest(mesh.models.version(served))
    for file in manifest.files:
        assert hashlib.sha256((tmp_path / "model" / file.name).read_bytes()).hexdigest() == file.sha256
    assert (tmp_path / "model" / "manifest.json").read_bytes() == manifest.to_bytes()


def test_every_container_is_well_and_the_one_shots_have_ended_well(stack: Stack) -> None:
    containers = stack.inspect()
    assert {name: one["State"]["ExitCode"] for name, one in containers.items() if name in ONE_SHOTS} == dict.fromkeys(
        ONE_SHOTS, 0
    )
    healths = {name: one["State"]["Health"]["Status"] for name, one in containers.items() if name not in ONE_SHOTS}
    assert set(SERVICES) < set(healths)
    assert set(healths.values()) == {"healthy"}


def test_nobody_is_root_and_no_root_file_system_can_be_written(stack: Stack) -> None:
    for name, one in stack.inspect().items():
        assert one["Config"]["User"] not in ("", "root", "0"), name
        assert one["HostConfig"]["ReadonlyRootfs"], name
        assert one["HostConfig"]["CapDrop"] == ["ALL"], name
        assert not one["HostConfig"]["CapAdd"], name
    for name in SERVICES:
        status = stack.engine.docker("compose", "exec", "-T", name, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status


def test_the_images_of_all_services_share_their_first_layers(stack: Stack) -> None:
    images = json.loads(stack.engine.docker("image", "inspect", *(f"deepseek-mesh/{name}" for name in SERVICES)))
    layers = [image["RootFS"]["Layers"] for image in images]
    assert len({tuple(one[:3]) for one in layers}) == 1
    assert len({one[-1] for one in layers}) == len(layers)


def test_an_image_holds_the_code_of_this_checkout(stack: Stack) -> None:
    packages = "common deepseek kernels protos services"
    sums = f"find {packages} -name '*.py' | LC_ALL=C sort | xargs sha256sum"
    inside = f"cd /opt/mesh/lib/python3.*/site-packages && {sums}"
    theirs = stack.engine.docker("compose", "exec", "-T", "trainer", "sh", "-c", inside)
    assert theirs == subprocess.run(["sh", "-c", sums], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_secrets_are_neither_in_logs_nor_in_what_docker_knows(stack: Stack, served: str) -> None:
    read = ["compose", "exec", "-T", "trainer", "cat", "/secrets/database/password", "/secrets/store/secret"]
    secrets = stack.engine.docker(*read).split()
    secrets += stack.engine.docker("compose", "exec", "-T", "watermark", "cat", "/secrets/watermark/master").split()
    assert [len(secret) for secret in secrets] == [64, 64, 64]
    known = json.dumps(stack.inspect()) + "".join(stack.compose.get_logs())
    for secret in (*secrets, token_of(stack)):
        assert secret not in known


def test_a_service_holds_no_key_but_its_own(stack: Stack) -> None:
    keys = stack.engine.docker("compose", "exec", "-T", "trainer", "find", "/identity", "/volumes", "-name", "*key.pem")
    assert keys.split() == ["/identity/key.pem"]
    keys = stack.shell("docker compose run --rm -T --entrypoint find upkeep /volumes -name *key.pem").stdout
    assert sorted(keys.split()) == ["/volumes/identity/cli/key.pem", "/volumes/identity/signing/key.pem"]
