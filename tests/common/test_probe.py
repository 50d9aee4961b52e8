"""The health check of a container, against real servers."""

import json
import subprocess
from pathlib import Path

import pytest

from common.auth.certificates import make_authority
from common.processes import python, spawn, terminate
from tests.harness.processes import wait_until


def probe(file: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(python("common.probe", str(file)), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_service_that_is_ready_is_well_until_it_ends(host: str, tmp_path: Path) -> None:
    make_authority(tmp_path / "identity", ["registry"])
    file = tmp_path / "address.json"
    argv = python("services.registry", "--host", host, "--port", "0", "--home", str(tmp_path))
    argv += ["--identity", str(tmp_path / "identity" / "registry"), "--address-file", str(file)]
    process = spawn(argv, env=None, log=tmp_path / "log")
    try:
        wait_until(lambda: file.exists() or process.poll() is not None, "the registry")
        bound = file.read_text()
        done = probe(file)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    finally:
        terminate(process, grace_s=20)
    file.write_text(bound)
    done = probe(file)
    assert done.returncode == 1
    assert "no server responds" in done.stderr


def test_a_service_that_does_not_listen_yet_is_not_well(tmp_path: Path) -> None:
    done = probe(tmp_path / "address.json")
    assert done.returncode == 1
    assert "is not listening yet" in done.stderr


def test_what_a_service_does_not_offer_is_not_well(tmp_path: Path) -> None:
    file = tmp_path / "address.json"
    argv = python("services.registry", "--port", "0", "--home", str(tmp_path))
    process = spawn([*argv, "--address-file", str(file)], env=None, log=tmp_path / "log")
    try:
        wait_until(lambda: file.exists() or process.poll() is not None, "the registry")
        bound = json.loads(file.read_text())
        assert "deepseek.registry.v1.RegistryService" in bound["names"]
        file.write_text(json.dumps({**bound, "names": ["deepseek.other.v1.OtherService"]}))
        assert probe(file).returncode == 1
    finally:
        terminate(process, grace_s=20)
