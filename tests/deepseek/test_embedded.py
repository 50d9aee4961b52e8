"""Starting and stopping the embedded mesh, also when something goes wrong on the way."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from common.errors import FailedPrecondition
from deepseek.client import MeshFile
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.embedded import MAX_RESTARTS, EmbeddedMesh, Supervisor, start_mesh, status, stop_mesh
from deepseek.embedded.home import is_service
from deepseek.services import SERVICES
from tests.harness.processes import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[EmbeddedMesh]:
    mesh = start_mesh(tmp_path / "home", stay=False, free_ports=True)
    yield mesh
    mesh.stop()


def pids(home: Path) -> dict[str, int]:
    return {name: service.pid for name, service in MeshFile.read(home / "mesh.json").services.items()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_start_that_fails_leaves_the_running_services_as_they_are(mesh: EmbeddedMesh, tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = pids(home)
    os.kill(before["trainer"], signal.SIGKILL)
    wait_until(lambda: not is_alive(before["trainer"]), "the trainer to end")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", SERVICES["trainer"].port))
        taken.listen()
        with pytest.raises(FailedPrecondition) as caught:
            start_mesh(home, stay=False)
    assert (caught.value.reason, caught.value.field) == ("PORT_TAKEN", "port")
    del before["trainer"]
    assert pids(home) == before
    assert all(service.state == "serving" for service in status(MeshFile.read(home / "mesh.json")))
    assert sorted(stop_mesh(home)) == sorted(before)
    assert not any(map(is_alive, before.values()))


def test_a_service_that_does_not_answer_is_waited_for_and_not_started_twice(mesh: EmbeddedMesh, tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = pids(home)
    os.kill(before["registry"], signal.SIGSTOP)
    waking = threading.Timer(3, os.kill, (before["registry"], signal.SIGCONT))
    waking.start()
    try:
        again = start_mesh(home, stay=False, free_ports=True)
    finally:
        waking.join()
    assert pids(home) == before
    again.stop()
    assert all(map(is_alive, before.values()))


def test_what_a_killed_up_has_started_can_be_stopped(tmp_path: Path) -> None:
    home = tmp_path / "home"
    up = subprocess.Popen(
        [Path(sys.executable).with_name("deepseek"), "up", "--free-ports"],
        env={**os.environ, "DEEPSEEK_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def are_running() -> bool:
        found = pids(home) if (home / "mesh.json").exists() else {}
        return len(found) == len(SERVICES) and all(is_service(pid, name, home) for name, pid in found.items())

    wait_until(are_running, "the services to run")
    up.kill()
    up.wait()
    started = pids(home)
    assert sorted(stop_mesh(home)) == sorted(name for name, pid in started.items())
    wait_until(lambda: not any(map(is_alive, started.values())), "their end")


def test_work_goes_on_when_a_service_dies_while_it_is_waited_for(mesh: EmbeddedMesh, tmp_path: Path) -> None:
    before = pids(tmp_path / "home")
    said: list[str] = []

    class KillsTheRegistry(list[Sample]):
        """Kills it when everything is sent: from there on a commit waits for it without end."""

        def __iter__(self) -> Iterator[Sample]:
            yield from super().__iter__()
            os.kill(before["registry"], signal.SIGKILL)

    with Supervisor(mesh, said.append).client() as client:
        samples = KillsTheRegistry([Sample("k", "train", {"text": "t"})])
        version = client.datasets.upload("d", [Field("text", "text")], samples)
        assert [one.name for one in client.datasets.versions("d")] == [version.name]
    assert said == [f"registry was ended by SIGKILL; restarted (1 of {MAX_RESTARTS} times)"]
    after = pids(tmp_path / "home")
    assert after["registry"] != before["registry"]
    assert {**after, "registry": 0} == {**before, "registry": 0}


def test_a_service_that_does_not_stay_up_ends_the_work(mesh: EmbeddedMesh, tmp_path: Path) -> None:
    said: list[str] = []
    with (  # noqa: PT012  what is waited for is interrupted in the middle
        pytest.raises(FailedPrecondition, match="trainer was ended by SIGKILL") as caught,
        Supervisor(mesh, said.append).client(),
    ):
        for restarts in range(MAX_RESTARTS + 1):
            os.kill(pids(tmp_path / "home")["trainer"], signal.SIGKILL)
            wait_until(lambda restarts=restarts: len(said) > restarts, "a restart")  # type: ignore[misc]
            wait_until(lambda: is_alive(pids(tmp_path / "home")["trainer"]), "the next process")
    assert caught.value.reason == "SERVICE_ENDED"
    assert len(said) == MAX_RESTARTS


@pytest.mark.parametrize("on_interrupt", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_a_service_that_somebody_stops_is_not_started_again(
    on_interrupt: signal.Handlers, mesh: EmbeddedMesh, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, on_interrupt)))
    said: list[str] = []
    with (  # noqa: PT012  what is waited for is interrupted in the middle
        pytest.raises(FailedPrecondition, match="ingest ended with status 0") as caught,
        Supervisor(mesh, said.append).client(),
    ):
        os.kill(pids(tmp_path / "home")["ingest"], signal.SIGTERM)
        threading.Event().wait(60)
    assert caught.value.reason == "SERVICE_ENDED"
    assert said == []


def test_a_stale_mesh_file_stops_no_service_of_another_home(mesh: EmbeddedMesh, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "run").mkdir(parents=True)
    mesh.file.write(other / "mesh.json")
    for name in SERVICES:
        shutil.copy(tmp_path / "home" / "run" / f"{name}.json", other / "run")
    assert stop_mesh(other) == []
    assert all(map(is_alive, pids(tmp_path / "home").values()))
    (tmp_path / "link").symlink_to(tmp_path / "home")
    assert sorted(stop_mesh(tmp_path / "link")) == sorted(SERVICES)


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    mesh = start_mesh(tmp_path / "50% #1 ünï?", stay=False, free_ports=True)
    try:
        with mesh.connect() as client:
            assert list(client.store.list(client.tenant)) == []
            assert list(client.datasets.list()) == []
    finally:
        mesh.stop()
