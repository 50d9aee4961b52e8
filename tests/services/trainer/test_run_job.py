"""How a run is carried out: who can reach the workers, whose directory is whose, and what an equal run begins with."""

import os
import socket
from pathlib import Path

import pytest

from common.cores import num_cores
from common.jobs import JobState
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.harness.processes import wait_until, workers
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.listeners import descendants, is_loopback, listeners
from tests.services.trainer.run_in_process import InProcessRun
from tests.services.trainer.tasks import picture_spec


def wait_for_checkpoint(mesh: TrainerMesh, name: str) -> pb.CheckpointEvent:
    """The first checkpoint of a run."""
    for event in mesh.watch(name):
        if event.HasField("checkpoint"):
            return event.checkpoint
    raise AssertionError("the run ended before")


def test_a_listener_on_every_interface_would_be_seen() -> None:
    for family, host, loopback in (
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::", False),
        (socket.AF_INET, "127.0.0.1", True),
    ):
        with socket.socket(family) as server:
            server.bind((host, 0))
            server.listen()
            port = server.getsockname()[1]
            (address,) = [address for address in listeners({os.getpid()}) if address.endswith(f":{port}")]
            assert is_loopback(address) is loopback


def test_nothing_of_a_run_listens_beyond_loopback(mesh: TrainerMesh) -> None:
    name = mesh.submit(picture_spec(mesh.pictures, epochs=2000, seed=41, checkpoint_interval_s=0.2)).name
    try:
        wait_for_checkpoint(mesh, name)
        found = listeners(descendants(mesh.trainer.pid))
    finally:
        mesh.runs.StopRun(pb.StopRunRequest(name=name))
    commands = {command for commands in found.values() for command in commands}
    assert any("deepseek.trainjob.train_main" in command for command in commands), "gloo listens, so workers are seen"
    assert {address: owners for address, owners in found.items() if not is_loopback(address)} == {}


@pytest.mark.timeout(300)
def test_an_equal_run_goes_on_where_a_stopped_one_ended(mesh: TrainerMesh) -> None:
    spec = picture_spec(mesh.pictures, epochs=400, checkpoint_interval_s=0.2, seed=42)
    first = mesh.submit(spec).name
    wait_for_checkpoint(mesh, first)
    mesh.runs.StopRun(pb.StopRunRequest(name=first))
    for _ in mesh.watch(first):
        pass
    stopped = mesh.run(first)
    assert stopped.job.state == job_pb2.JOB_STATE_CANCELLED

    second = mesh.submit(spec, reuse=True)
    assert second.name != first
    events = mesh.watch(second.name)
    started = next(event.attempt for event in events if event.HasField("attempt"))
    assert started.start_step > 0
    assert second.checkpoint == stopped.checkpoint
    assert second.train_s == stopped.train_s > 0
    new = next(event.checkpoint for event in events if event.HasField("checkpoint"))
    assert new.step > started.start_step
    assert mesh.run(second.name).train_s > stopped.train_s
    mesh.runs.StopRun(pb.StopRunRequest(name=second.name))

    fresh = mesh.submit(spec)
    assert not fresh.HasField("checkpoint")
    assert fresh.train_s == 0
    mesh.runs.StopRun(pb.StopRunRequest(name=fresh.name))


@pytest.mark.slow
@pytest.mark.faults
def test_an_attempt_that_lost_its_lease_leaves_the_next_one_unharmed(tmp_path: Path) -> None:
    here = InProcessRun(tmp_path)
    try:
        first = here.claim("first")
        ended = here.carry_out(first)
        wait_until(lambda: here.run().checkpoint_step > 0, "the first attempt to train")
        here.jobs.renew([first], 0)  # it ends this moment
        second = here.claim("second")
        assert (first.attempt, second.attempt) == (1, 2)
        going_on = here.carry_out(second)
        folder = here.directory / here.run().run_id / "2"
        wait_until(lambda: (folder / "0" / "job.json").exists(), "the second attempt to start")
        first.lost.set()
        ended.join(30)
        assert not ended.is_alive()
        assert (folder / "0" / "job.json").exists()
        assert not folder.with_name("1").exists()
        going_on.join(240)
        assert here.run().job.state is JobState.SUCCEEDED, here.run().job
        assert [start["attempt"] for start in here.starts()] == [1, 2]
        assert not folder.parent.exists()
    finally:
        here.close()


@pytest.mark.slow
@pytest.mark.parametrize("had", [1, 1000])
def test_a_resumed_run_keeps_its_threads_as_far_as_there_are_cores(tmp_path: Path, had: int) -> None:
    here = InProcessRun(tmp_path)
    try:
        with here.database.transaction() as session:
            here.runs.publish(session, here.run(), [], num_threads=had)
        lease = here.claim("owner")
        thread = here.carry_out(lease)
        wait_until(lambda: bool(workers(tmp_path)), "a worker")
        environment = Path(f"/proc/{workers(tmp_path)[0]}/environ").read_bytes().split(b"\0")
        kept = min(had, num_cores())
        assert f"OMP_NUM_THREADS={kept}".encode() in environment
        assert here.run().num_threads == kept
        warnings = [event["message"] for event in here.events("warning")]
        assert [f"has trained with {had} threads" in text for text in warnings] == ([True] if kept < had else [])
        lease.stopping.set()
        thread.join(60)
    finally:
        here.close()


@pytest.mark.slow
@pytest.mark.faults
def test_a_store_that_is_away_is_waited_for_and_is_no_crash(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and never listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        key = tmp_path / "key"
        key.write_text("key")
        key.chmod(0o600)
        store = {"store_url": f"s3+http://127.0.0.1:{taken.getsockname()[1]}/bucket"}
        here = InProcessRun(
            tmp_path,
            store={**store, "store_access_key_file": str(key), "store_secret_key_file": str(key)},
            max_restarts=0,
        )
        try:
            thread = here.carry_out(here.claim("owner"))
            wait_until(lambda: len(here.starts()) >= 2, "a second start")
            job = here.run().job
            assert job.state is JobState.RUNNING
            assert job.message.startswith("waiting: ")
            here.jobs.cancel("default", job.name)
            thread.join(60)
            assert here.run().job.state is JobState.CANCELLED
        finally:
            here.close()
