"""Joining a mesh behind an edge, without one: what an invitation holds and what is kept of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.auth.certificates import make_authority
from deepseek.client import MeshFile, ServiceAddress, connect


def deepseek(home: Path, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deepseek.cli", *arguments],
        env={**os.environ, "DEEPSEEK_HOME": str(home), "COLUMNS": "200"},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.fixture
def invitation(tmp_path: Path) -> str:
    authority = tmp_path / "authority"
    make_authority(authority, ["registry"])
    arguments = ["--identity", str(authority), "--subject", "ana", "--tenant", "acme", "--role", "reader"]
    done = deepseek(tmp_path / "runner", "invite", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_invitation_piped_into_join_makes_a_mesh_file(invitation: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = deepseek(home, "join", "mesh.example:8443", "--json", stdin=invitation)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"address": "mesh.example:8443", "mesh_file": str(home / "mesh.json")}
    file = MeshFile.read(home / "mesh.json")
    assert {service.address for service in file.services.values()} == {"mesh.example:8443"}
    assert (home / "edge" / "ca.pem").read_text() == json.loads(invitation)["ca"]
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    with connect(home / "mesh.json") as mesh:
        assert mesh.tenant == "acme"


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_an_invitation_is_read_as_editors_leave_it(invitation: str, end: str, tmp_path: Path) -> None:
    done = deepseek(tmp_path / "home", "join", "mesh.example:8443", stdin="\ufeff" + invitation.replace("\n", end))
    assert done.returncode == 0, done.stderr


def test_a_user_is_given_no_key(invitation: str) -> None:
    assert set(json.loads(invitation)) == {"ca", "token"}
    assert "PRIVATE" not in invitation


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json"])
def test_what_is_no_invitation_is_refused(text: str, tmp_path: Path) -> None:
    done = deepseek(tmp_path / "home", "join", "mesh.example:8443", stdin=text)
    assert done.returncode == 1
    assert "BAD_INVITATION" in done.stderr
    assert not (tmp_path / "home" / "mesh.json").exists()


def test_a_mesh_that_runs_here_is_not_forgotten(invitation: str, tmp_path: Path) -> None:
    running = MeshFile({"registry": ServiceAddress("127.0.0.1:7001", pid=os.getpid())})
    running.write(tmp_path / "mesh.json")
    done = deepseek(tmp_path, "join", "mesh.example:8443", stdin=invitation)
    assert done.returncode == 1
    assert "MESH_EXISTS" in done.stderr
    assert MeshFile.read(tmp_path / "mesh.json") == running
